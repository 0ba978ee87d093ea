"""keras_snn: spiking neural networks for Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_snn import dynamics, layers, surrogates

__all__ = ["applications", "dynamics", "layers", "surrogates"]
__version__ = "0.1.0"
