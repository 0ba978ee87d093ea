"""C source from the step file of TensorFlow Lite: `step` reads it, `writer` writes the source."""
