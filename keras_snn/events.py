"""Recordings of event cameras: read them, cut them into frames, vary them.

A recording is an `Events`: time in microseconds, column, row and polarity (1 for ON) of each event,
in the order of time. Everything here is numpy, and needs neither TensorFlow nor a backend.
"""

import pathlib
from typing import NamedTuple

import numpy as np

__all__ = [
    "Events",
    "count_frames",
    "drop_events",
    "flip",
    "jitter",
    "random_steps",
    "read_aedat",
    "read_nmnist",
    "read_shd",
    "time_frames",
    "voxel_grid",
]


class Events(NamedTuple):
    """Events of one recording, arrays of one length.

    Attributes:
        t: Times in microseconds, ascending.
        x: Columns.
        y: Rows.
        p: Polarities: 1 for ON, 0 for OFF.
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray

    def __getitem__(self, index):
        """One of the four arrays for an integer; else these events, for a slice or a mask."""
        if isinstance(index, (int, np.integer)):
            return tuple(self)[index]
        return Events(*(part[index] for part in tuple(self)))


# Readers.


def _damaged(path, offset, what):
    return ValueError(f"{path}: {what}, at byte {offset}.")


def _content(path, what):
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. {what}")
    return path, path.read_bytes()


def read_nmnist(path):
    """Reads a recording of N-MNIST or N-Caltech101, 40 bits an event.

    Args:
        path: A `.bin` file.

    Returns:
        `Events`; N-MNIST's sensor has 34x34 pixels.

    Raises:
        FileNotFoundError: If there is no such file; where to get the data.
        ValueError: If the file is cut; with the byte where.

    Source: Orchard et al. (2015); the format is that of the data set's own reader.
    """
    path, data = _content(
        path, "Get N-MNIST from garrickorchard.com/datasets/n-mnist and unpack Train.zip, Test.zip."
    )
    if len(data) % 5:
        raise _damaged(path, len(data) - len(data) % 5, f"the last event has {len(data) % 5} bytes")
    raw = np.frombuffer(data, np.uint8).reshape(-1, 5).astype(np.int64)
    t = (raw[:, 2] & 127) << 16 | raw[:, 3] << 8 | raw[:, 4]
    overflow = raw[:, 1] == 240  # time goes on beyond its bits
    t = t + (np.cumsum(overflow) << 13)
    events = Events(t, raw[:, 0], raw[:, 1], raw[:, 2] >> 7)
    return events[~overflow]


def read_aedat(path):
    """Reads an AEDAT file of a DVS128: version 3.1 (DVS128 Gesture) or 2 (CIFAR10-DVS).

    Args:
        path: An `.aedat` file.

    Returns:
        `Events` of 128x128 pixels. Version 2 is turned as SpikingJelly's reader turns CIFAR10-DVS,
        upright.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another version (for AEDAT 4, convert it with iniVation's
            `dv`), has no header, or is cut; with the byte where.

    Source: iniVation's description of AEDAT 3.1 and 2.0; masks as in the data sets' own readers.
    """
    path, data = _content(path, "DVS128 Gesture and CIFAR10-DVS are on research.ibm.com, figshare.")
    first = data[: data.find(b"\n") + 1].strip()
    if not first.startswith(b"#!AER-DAT"):
        raise _damaged(
            path, 0, f"an AEDAT file begins with #!AER-DAT, this one with {first[:20]!r}"
        )
    version = first[len(b"#!AER-DAT") :]
    if version.startswith(b"3"):
        return _aedat3(path, data)
    if version.startswith((b"1", b"2")):
        return _aedat2(path, data)
    raise ValueError(
        f"{path} is AEDAT {version.decode(errors='replace')}; versions 2 and 3.1 are read. Convert "
        "it with iniVation's dv-processing."
    )


def _aedat3(path, data):
    end = data.find(b"#!END-HEADER")
    if end < 0:
        raise _damaged(path, len(data), "the header has no end")
    place, found = data.find(b"\n", end) + 1, []
    while place < len(data):
        if place + 28 > len(data):
            raise _damaged(path, place, f"a packet's header has {len(data) - place} of 28 bytes")
        kind, _ = np.frombuffer(data, "<i2", 2, place)
        size, _, overflow, _, count, _ = np.frombuffer(data, "<i4", 6, place + 4)
        length = int(size) * int(count)
        if size < 0 or count < 0 or place + 28 + length > len(data):
            raise _damaged(
                path, place + 28, f"a packet says {length} bytes, {len(data) - place - 28} are left"
            )
        if kind == 1 and count:  # polarity events; others are skipped
            if size != 8:
                raise _damaged(path, place, f"polarity events have {size} bytes, not 8")
            raw = np.frombuffer(data, "<u4", 2 * int(count), place + 28).reshape(-1, 2)
            found.append((raw[:, 0], raw[:, 1].astype(np.int64) | (int(overflow) << 31)))
        place += 28 + length
    if not found:
        return Events(*(np.zeros(0, np.int64),) * 4)
    word, t = (np.concatenate(parts) for parts in zip(*found))
    word = word.astype(np.int64)
    return Events(t, word >> 17 & 0x1FFF, word >> 2 & 0x1FFF, word >> 1 & 1)


def _aedat2(path, data):
    place = 0
    while data[place : place + 1] == b"#":
        stop = data.find(b"\n", place)
        if stop < 0:
            raise _damaged(path, place, "the header has no end")
        place = stop + 1
    rest = len(data) - place
    if rest % 8:
        raise _damaged(path, len(data) - rest % 8, f"the last event has {rest % 8} of 8 bytes")
    raw = np.frombuffer(data, ">u4", rest // 4, place).reshape(-1, 2).astype(np.int64)
    address, t = raw[:, 0], raw[:, 1]
    return Events(t, 127 - (address >> 8 & 0x7F), 127 - (address >> 1 & 0x7F), 1 - (address & 1))


def read_shd(path):
    """Reads Spiking Heidelberg Digits (or Spiking Speech Commands), an HDF5 file.

    Args:
        path: An `.h5` file.

    Returns:
        `(recordings, labels)`: a list of `Events`, whose `x` is the unit (0 to 699) and whose `y`
        is 0, and an array of labels.

    Raises:
        FileNotFoundError: If there is no such file; where to get it.
        ValueError: If it is no such HDF5 file.
        ImportError: If the extra `events` is not installed.

    Source: Cramer et al. (2020).
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "SHD is read by h5py, extra `events`: pip install keras-snn[events]"
        ) from error
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Get SHD from zenkelab.org/datasets.")
    try:
        with h5py.File(path) as file:
            times, units = file["spikes"]["times"][:], file["spikes"]["units"][:]
            labels = file["labels"][:]
    except (KeyError, OSError) as error:
        raise ValueError(f"{path} is no file of SHD, or is damaged: {error}") from error
    recordings = []
    for t, unit in zip(times, units):
        t = np.round(np.asarray(t, "float64") * 1e6).astype(np.int64)
        zeros = np.zeros(len(t), np.int64)
        recordings.append(Events(t, np.asarray(unit, np.int64), zeros, zeros + 1))
    return recordings, labels


# Frames.


def _checked(events, size, steps, name):
    if not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"`{name}` should be an integer of at least 1, got {steps!r}.")
    height, width = size
    x, y = np.asarray(events.x), np.asarray(events.y)
    if len(x) and (x.max() >= width or y.max() >= height or x.min() < 0 or y.min() < 0):
        raise ValueError(
            f"Events lie at columns {x.min()} to {x.max()} and rows {y.min()} to {y.max()}, "
            f"outside of the size {tuple(size)}."
        )


def _histogram(events, frame, steps, size, weights=None):
    """Counts (or sums of weights) by frame, row, column and polarity."""
    height, width = size
    index = ((frame * height + events.y) * width + events.x) * 2 + events.p
    found = np.bincount(index.astype(np.int64), weights, steps * height * width * 2)
    return found.reshape(steps, height, width, 2).astype("float32")


def count_frames(events, frames, size):
    """Frames of equally many events; the last has the rest, too.

    Args:
        events: `Events`.
        frames: Number of frames, T.
        size: `(height, width)` of the sensor.

    Returns:
        Counts of events, `(frames, height, width, 2)`, OFF and ON.

    Raises:
        ValueError: If events lie outside of the sensor.

    Source: Fang et al. (2021), SpikingJelly's `split_by="number"`.

    Example:

    >>> events = Events(*np.array([[0, 5, 9, 20], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 1, 1]]))
    >>> frames = count_frames(events, 2, (2, 2))
    >>> frames.shape, frames.sum((1, 2, 3))
    ((2, 2, 2, 2), array([2., 2.], dtype=float32))
    """
    _checked(events, size, frames, "frames")
    each = max(len(events.t) // frames, 1)
    frame = np.minimum(np.arange(len(events.t)) // each, frames - 1)
    return _histogram(events, frame, frames, size)


def time_frames(events, frames, size, duration=None):
    """Frames of equal time.

    Args:
        events: `Events`.
        frames: Number of frames, T.
        size: `(height, width)` of the sensor.
        duration: Microseconds of a frame; later events are left out. By default the whole
            recording, and the last frame has the rest.

    Returns:
        Counts of events, `(frames, height, width, 2)`, OFF and ON.

    Raises:
        ValueError: If events lie outside of the sensor.

    Source: SpikingJelly's `split_by="time"`.
    """
    _checked(events, size, frames, "frames")
    if not len(events.t):
        return _histogram(events, np.zeros(0, np.int64), frames, size)
    since = np.asarray(events.t) - events.t[0]
    if duration is None:
        each = max(int(since[-1]) // frames, 1)
        return _histogram(events, np.minimum(since // each, frames - 1), frames, size)
    frame = since // duration
    inside = frame < frames
    return _histogram(events[inside], frame[inside], frames, size)


def voxel_grid(events, bins, size):
    """A voxel grid: each event is shared by the two bins that are nearest in time.

    Args:
        events: `Events`.
        bins: Number of bins over the whole recording, at least 2.
        size: `(height, width)` of the sensor.

    Returns:
        Sums of weights, `(bins, height, width, 2)`, OFF and ON.

    Raises:
        ValueError: If events lie outside of the sensor.

    Source: Zhu et al. (2019), with a channel for each polarity.
    """
    _checked(events, size, bins, "bins")
    if not len(events.t):
        return _histogram(events, np.zeros(0, np.int64), bins, size)
    t = np.asarray(events.t, "float64")
    place = (t - t[0]) / max(t[-1] - t[0], 1) * (bins - 1)
    low = np.minimum(np.floor(place).astype(np.int64), max(bins - 2, 0))
    share = place - low
    grid = _histogram(events, low, bins, size, 1 - share)
    if bins > 1:
        grid += _histogram(events, low + 1, bins, size, share)
    return grid


# Variation, for training.


def random_steps(frames, count, generator):
    """Some frames of a sequence, drawn without replacement, in their order.

    Args:
        frames: `(time, ...)`.
        count: Number of frames to keep.
        generator: A `numpy.random.Generator`.

    Returns:
        `(count, ...)`.

    Source: Fang et al. (2021): 12 of 16 frames.
    """
    if not 1 <= count <= len(frames):
        raise ValueError(f"`count` should be from 1 to {len(frames)}, got {count!r}.")
    return frames[np.sort(generator.choice(len(frames), count, replace=False))]


def flip(events, width):
    """A recording mirrored left to right.

    Args:
        events: `Events`.
        width: Width of the sensor.

    Returns:
        `Events`.
    """
    return events._replace(x=width - 1 - np.asarray(events.x))


def drop_events(events, rate, generator):
    """A recording from which each event is left out with a probability.

    Args:
        events: `Events`.
        rate: That probability, 0 to 1.
        generator: A `numpy.random.Generator`.

    Returns:
        `Events`.
    """
    return events[generator.random(len(events.t)) >= rate]


def jitter(events, size, pixels, generator):
    """A recording moved by up to `pixels` in both directions; what leaves the sensor is lost.

    Args:
        events: `Events`.
        size: `(height, width)` of the sensor.
        pixels: Largest shift.
        generator: A `numpy.random.Generator`.

    Returns:
        `Events`.
    """
    dx, dy = generator.integers(-pixels, pixels + 1, 2)
    moved = events._replace(x=np.asarray(events.x) + dx, y=np.asarray(events.y) + dy)
    height, width = size
    return moved[(moved.x >= 0) & (moved.x < width) & (moved.y >= 0) & (moved.y < height)]
