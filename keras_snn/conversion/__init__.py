"""Conversion: a trained Keras ANN becomes a spiking network, with a report of every layer."""

from keras_snn.conversion.convert import convert
from keras_snn.conversion.expand import expand_integer_spikes
from keras_snn.conversion.report import ConversionReport, LayerReport
from keras_snn.utils.deprecation import renamed

__all__ = [
    "ConversionReport",
    "LayerReport",
    "convert",
    "expand_integer_spikes",
]
__getattr__ = renamed(__name__)
