"""Quantisation-aware training: networks that compute what their integer files compute."""

from keras_snn.qat.grids import Grid
from keras_snn.qat.imitate import SpikeDistance, imitate
from keras_snn.qat.layers import (
    Quantize,
    QuantizedLIF,
    QuantizedLIFCell,
    QuantizedWeights,
    is_prepared,
    state_bits,
)
from keras_snn.qat.prepare import prepare

__all__ = [
    "Grid",
    "Quantize",
    "QuantizedLIF",
    "QuantizedLIFCell",
    "QuantizedWeights",
    "SpikeDistance",
    "imitate",
    "is_prepared",
    "prepare",
    "state_bits",
]
