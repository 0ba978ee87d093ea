"""A short name of `keras_snn.datasets.events`."""

from keras_snn.datasets.events import *  # noqa: F403
from keras_snn.datasets.events import __all__ as __all__
