"""What several packages need: arguments, docstrings, files, batches, names of earlier releases."""
