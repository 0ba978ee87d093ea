"""Spiking networks of the papers, with the contract of `keras.applications`."""

from keras_snn.applications import families, model_list, weights
from keras_snn.applications.families import *
from keras_snn.applications.families import FAMILIES as FAMILIES
from keras_snn.applications.model_list import *
from keras_snn.applications.weights import *
from keras_snn.utils.deprecation import renamed

__all__ = [*families.__all__, *weights.__all__, *model_list.__all__]
__getattr__ = renamed(__name__)
