"""Trained weights: presets of this package, PyTorch's state dicts, Keras's ANNs."""

from keras_snn.applications.weights import matching, presets
from keras_snn.applications.weights.matching import *
from keras_snn.applications.weights.presets import *

__all__ = [*matching.__all__, *presets.__all__]
