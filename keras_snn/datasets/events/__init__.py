"""Recordings of event cameras: read them, cut them into frames, vary them.

A recording is an `Events`: time in microseconds, column, row and polarity (1 for ON) of each event,
in the order of time. Every function that takes events also takes structured arrays, and events in
any order; see `as_events`. All of this is NumPy.
"""

from keras_snn.datasets.events import arrays, frames, prophesee, readers, recording, transforms
from keras_snn.datasets.events.arrays import *
from keras_snn.datasets.events.frames import *
from keras_snn.datasets.events.prophesee import *
from keras_snn.datasets.events.readers import *
from keras_snn.datasets.events.recording import *
from keras_snn.datasets.events.transforms import *

__all__ = [
    *recording.__all__,
    *readers.__all__,
    *arrays.__all__,
    *prophesee.__all__,
    *frames.__all__,
    *transforms.__all__,
]
