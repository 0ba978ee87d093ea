"""Layers of spiking networks: neurons, encoders, readouts, normalisation, connections, time."""

from keras_snn.layers import (
    attention,
    base,
    connections,
    convolution,
    delays,
    dendrites,
    dual_attention,
    encoders,
    neurons,
    normalization,
    parallel,
    pooling,
    quantized,
    readouts,
    registry,
    rnn,
    time,
)
from keras_snn.layers.attention import *
from keras_snn.layers.base import *
from keras_snn.layers.connections import *
from keras_snn.layers.convolution import *
from keras_snn.layers.delays import *
from keras_snn.layers.dendrites import *
from keras_snn.layers.dual_attention import *
from keras_snn.layers.encoders import *
from keras_snn.layers.neurons import *
from keras_snn.layers.normalization import *
from keras_snn.layers.parallel import *
from keras_snn.layers.pooling import *
from keras_snn.layers.quantized import *
from keras_snn.layers.readouts import *
from keras_snn.layers.registry import *
from keras_snn.layers.rnn import *
from keras_snn.layers.roles import *
from keras_snn.layers.time import *
from keras_snn.utils.deprecation import renamed

__all__ = [
    *attention.__all__,
    *base.__all__,
    *connections.__all__,
    *convolution.__all__,
    *delays.__all__,
    *dendrites.__all__,
    *dual_attention.__all__,
    *encoders.__all__,
    *neurons.__all__,
    *normalization.__all__,
    *parallel.__all__,
    *pooling.__all__,
    *quantized.__all__,
    *readouts.__all__,
    *registry.__all__,
    *rnn.__all__,
    *time.__all__,
]
__getattr__ = renamed(__name__)


def __dir__():
    return __all__
