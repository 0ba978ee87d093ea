"""Readers of recordings that are stored as arrays: DVS-Lip, ASL-DVS, ES-ImageNet.

A damaged file is a `ValueError` that names the byte at which reading ended.
"""

import io
import os
from collections.abc import Sequence

import numpy as np

from keras_snn.datasets.events.files import damaged, file_bytes, in_order, library
from keras_snn.datasets.events.recording import Events, as_events

__all__ = ["read_asl_dvs", "read_dvs_lip", "read_es_imagenet"]


def _arrays(path, what, load):
    """What `load` makes of a file, and the events that it gives, checked."""
    path, data = file_bytes(path, what)
    stream = io.BytesIO(data)
    try:
        return path, as_events(load(stream))
    except ImportError:
        raise
    except Exception as error:  # zipfile's, zlib's, NumPy's and SciPy's
        raise damaged(path, stream.tell(), f"the file is damaged or has no events ({error})") from (
            error
        )


def read_dvs_lip(path: str | os.PathLike) -> Events:
    """Reads a recording of DVS-Lip, a `.npy` file with a structured array.

    Args:
        path: A `.npy` file whose array has fields for times, columns, rows and polarities, see
            `as_events`.

    Returns:
        `Events`; DVS-Lip's sensor has 128x128 pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or its array has no such fields.

    Source: Tan et al. (2022).
    """

    def load(stream):
        array = np.load(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError("there are bytes behind the array")
        return array

    return in_order(*_arrays(path, "Get DVS-Lip.zip and unpack it.", load))


def read_asl_dvs(path: str | os.PathLike) -> Events:
    """Reads a recording of ASL-DVS, a `.mat` file with the columns `ts`, `x`, `y` and `pol`.

    Args:
        path: A `.mat` file.

    Returns:
        `Events`; the sensor has 180x240 pixels. Rows are stored from the bottom, and are flipped,
        as in tonic; SpikingJelly flips columns as well, which mirrors the hands.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or lacks a column.
        ImportError: If the extra `events` is not installed.

    Source: Bi et al. (2019).
    """

    def load(stream):
        columns = library("scipy.io", "ASL-DVS").loadmat(stream)
        t, x, y, p = (np.ravel(columns[name]) for name in ("ts", "x", "y", "pol"))
        return Events(t, x, 179.0 - y, p)

    return in_order(*_arrays(path, "Get ASL-DVS and unpack the archive of each letter.", load))


# Sides of the pictures that ES-ImageNet centres its events in, and of their middle, which is kept.
CANVAS, MIDDLE = 254, 224


def read_es_imagenet(path: str | os.PathLike, size: Sequence[int]) -> Events:
    """Reads a recording of ES-ImageNet, a `.npz` file with the arrays `pos` and `neg`.

    Their rows are the row, the column and the step, from 1 to 8, of an event.

    Args:
        path: A `.npz` file.
        size: `(height, width)` of the picture that the events were made of, from the list of
            labels: the events are centred by it, and cropped to 224x224 pixels.

    Returns:
        `Events`; times are steps from 0 to 7.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, lacks an array, or has other steps.

    Source: Lin et al. (2021); centred and cropped as in the authors' code.
    """

    def load(stream):
        with np.load(stream, allow_pickle=False) as file:
            events = [file[name].astype("int64").reshape(-1, 3) for name in ("neg", "pos")]
        p = np.repeat([0, 1], [len(part) for part in events])
        row, column, step = np.concatenate(events).T
        if len(step) and not 1 <= step.min() <= step.max() <= 8:
            raise ValueError(f"steps should be from 1 to 8, got {step.min()} to {step.max()}")
        return Events(step - 1, column, row, p)

    path, events = _arrays(path, "Get ES-ImageNet and unpack it.", load)
    # In the authors' 256x256 pixels, of which they keep 16 to 239.
    margin = (256 - MIDDLE) // 2
    y, x = (
        place + (CANVAS - side) // 2 - margin for place, side in zip((events.y, events.x), size)
    )
    return events._replace(x=x, y=y)[(x >= 0) & (x < MIDDLE) & (y >= 0) & (y < MIDDLE)]
