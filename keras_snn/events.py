"""Recordings of event cameras: read them, cut them into frames, vary them.

A recording is an `Events`: time in microseconds, column, row and polarity (1 for ON) of each event,
in the order of time. Everything here is numpy, and needs neither TensorFlow nor a backend.
"""

import collections.abc
import importlib
import math
import mmap
import pathlib
import struct
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
    """The bytes of a file: only those that are looked at come from the disk."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. {what}")
    if not path.stat().st_size:
        return path, b""
    with path.open("rb") as file:
        return path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _library(name, what):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(
            f"{what} is read by {package}, extra `events`: pip install keras-snn[events]"
        ) from error


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


def read_aedat(path, start=None, end=None):
    """Reads an AEDAT file: version 2 (CIFAR10-DVS), 3.1 (DVS128 Gesture) or 4 (iniVation's DV).

    Args:
        path: An `.aedat` or `.aedat4` file.
        start: Microseconds: events before are left out.
        end: Microseconds: only events before it are read. Of a long file of version 3.1, only the
            part from `start` to `end` is decoded.

    Returns:
        `Events`. Version 2 is that of a DVS128, 128x128 pixels, turned as SpikingJelly's reader
        turns CIFAR10-DVS, upright. Of version 4, all streams of events, merged in time.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another version, has no header, or is cut or damaged; with
            the byte where.
        ImportError: If version 4 needs a package of the extra `events`.

    Source: iniVation's descriptions of AEDAT 2.0, 3.1 and 4.0; masks as in the data sets' readers.
    """
    path, data = _content(path, "DVS128 Gesture and CIFAR10-DVS are on research.ibm.com, figshare.")
    first = data[: data.find(b"\n") + 1].strip()
    if not first.startswith(b"#!AER-DAT"):
        raise _damaged(
            path, 0, f"an AEDAT file begins with #!AER-DAT, this one with {first[:20]!r}"
        )
    version = first[len(b"#!AER-DAT") :]
    start, end = -math.inf if start is None else start, math.inf if end is None else end
    if version.startswith(b"4"):
        events = _aedat4(path, data)
    elif version.startswith(b"3"):
        events = _aedat3(path, data, start, end)
    elif version.startswith((b"1", b"2")):
        events = _aedat2(path, data)
    else:
        raise ValueError(
            f"{path} is AEDAT {version.decode(errors='replace')}; versions 2, 3.1 and 4 are read."
        )
    if start == -math.inf and end == math.inf:
        return events
    return events[(events.t >= start) & (events.t < end)]


def _check_packet(path, place, length, end):
    if length < 0 or place + length > end:
        raise _damaged(path, place, f"a packet says {length} bytes, {end - place} are left")


def _joined(parts):
    """Several `(t, x, y, p)` one after the other, as `Events`."""
    empty = (np.zeros(0, np.int64),) * 4
    return Events(*(np.concatenate(arrays).astype(np.int64) for arrays in zip(empty, *parts)))


EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"), ("padding", "V3")])


def _aedat4(path, data):
    compression, place, end = _aedat4_header(path, data)
    found = []
    while place < end:
        if place + 8 > end:
            raise _damaged(path, place, f"a packet's header has {end - place} of 8 bytes")
        _, size = struct.unpack_from("<ii", data, place)
        place += 8
        _check_packet(path, place, size, end)
        try:
            kind, table = _flatbuffer(_decompressed(data[place : place + size], compression))
            if kind == b"EVTS":  # others are frames, triggers and inertial measurements
                raw = _elements(table, EVENT)
                found.append((raw["t"], raw["x"], raw["y"], raw["p"] != 0))
        except (ValueError, TypeError, struct.error) as error:
            raise _damaged(path, place, f"a packet is damaged ({error})") from error
        place += size
    events = _joined(found)
    return events[np.argsort(events.t, kind="stable")]


def _aedat4_header(path, data):
    """`(compression, first byte of the packets, byte behind them)` of AEDAT 4."""
    place = data.find(b"\n") + 1
    try:
        (size,) = struct.unpack_from("<I", data, place)
        first = place + 4 + size
        kind, table = _flatbuffer(data[place:first])
        compression, end = _field(table, 4, "<i", 0), _field(table, 6, "<q", -1)
    except (ValueError, TypeError, struct.error) as error:
        raise _damaged(path, place, f"the header is cut or damaged ({error})") from error
    if kind != b"IOHE" or not 0 <= compression <= 4:
        raise _damaged(path, place, f"no header of AEDAT 4: {kind!r}, compression {compression}")
    if end == -1:  # without a table of the packets, which would follow them
        end = len(data)
    if not first <= end <= len(data):
        raise _damaged(
            path, place, f"the header says that packets end at byte {end} of {len(data)}"
        )
    return compression, first, end


def _decompressed(data, compression):
    """A packet's content; 1 and 2 are LZ4, 3 and 4 Zstandard, fast and high."""
    if compression == 0:
        return data
    if compression <= 2:
        stream = _library("lz4.frame", "This AEDAT 4 file").LZ4FrameDecompressor()
    else:
        stream = _library("zstandard", "This AEDAT 4 file").ZstdDecompressor().decompressobj()
    try:
        content = stream.decompress(data)
    except Exception as error:  # each library has its own
        raise ValueError(error) from error
    if not stream.eof:
        raise ValueError("the compressed data is cut")
    return content


def _flatbuffer(content):
    """`(identifier, table)` of a flatbuffer behind its size."""
    size, root = struct.unpack_from("<II", content)
    if size + 4 != len(content):
        raise ValueError(f"it says {size} bytes, {len(content) - 4} are there")
    table = _library("flatbuffers.table", "AEDAT 4").Table(content, 4 + root)
    return content[8:12], table


def _field(table, slot, kind, default):
    place = table.Offset(slot)
    return struct.unpack_from(kind, table.Bytes, table.Pos + place)[0] if place else default


def _elements(table, dtype):
    """The array in the first field of a table."""
    place = table.Offset(4)
    if not place:
        return np.zeros(0, dtype)
    return np.frombuffer(table.Bytes, dtype, table.VectorLen(place), table.Vector(place))


def _aedat3(path, data, start, end):
    found = []
    for place, count, overflow in _aedat3_packets(path, data):
        raw = np.frombuffer(data, "<u4", 2 * count, place).reshape(-1, 2)
        since = overflow << 31
        # Events of a packet are in the order of time.
        if int(raw[-1, 1]) + since < start or int(raw[0, 1]) + since >= end:
            continue
        word, t = raw.astype(np.int64).T
        found.append((t + since, word >> 17 & 0x1FFF, word >> 2 & 0x1FFF, word >> 1 & 1))
    return _joined(found)


def _aedat3_packets(path, data):
    """`(first byte, number of events, overflows of time)` of each packet of polarity events."""
    end = data.find(b"#!END-HEADER")
    if end < 0:
        raise _damaged(path, len(data), "the header has no end")
    place = data.find(b"\n", end) + 1
    while place < len(data):
        if place + 28 > len(data):
            raise _damaged(path, place, f"a packet's header has {len(data) - place} of 28 bytes")
        kind, _, size, _, overflow, _, count, _ = struct.unpack_from("<hhiiiiii", data, place)
        length = -1 if min(size, count) < 0 else size * count
        _check_packet(path, place + 28, length, len(data))
        if kind == 1 and count:  # polarity events; others are skipped
            if size != 8:
                raise _damaged(path, place, f"polarity events have {size} bytes, not 8")
            yield place + 28, count, overflow
        place += 28 + length


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
        `(recordings, labels)`: a sequence of `Events`, each read when it is asked for, whose `x` is
        the unit (0 to 699) and whose `y` is 0, and an array of labels.

    Raises:
        FileNotFoundError: If there is no such file; where to get it.
        ValueError: If it is no such HDF5 file.
        ImportError: If the extra `events` is not installed.

    Source: Cramer et al. (2020).
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Get SHD from zenkelab.org/datasets.")

    def read(file):
        return file["labels"][:], len(file["spikes"]["times"]), len(file["spikes"]["units"])

    labels, times, units = _read_hdf5(path, read)
    if not len(labels) == times == units:
        raise ValueError(f"{path} has {len(labels)} labels, {times} times and {units} units.")
    return _Recordings(path, len(labels)), labels


def _read_hdf5(path, read):
    h5py = _library("h5py", "SHD")
    try:
        with h5py.File(path) as file:
            return read(file)
    except (KeyError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is no file of SHD, or is damaged: {error}") from error


class _Recordings(collections.abc.Sequence):
    """Recordings in a file of SHD; SSC's would fill the memory."""

    def __init__(self, path, count):
        self.path, self.count = path, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(self.count)[index]]
        index = range(self.count)[index]  # may be negative; ends an iteration by its IndexError

        def read(file):
            return file["spikes"]["times"][index], file["spikes"]["units"][index]

        t, unit = _read_hdf5(self.path, read)
        t = np.round(np.asarray(t, "float64") * 1e6).astype(np.int64)
        zeros = np.zeros(len(t), np.int64)
        return Events(t, np.asarray(unit, np.int64), zeros, zeros + 1)


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


def time_frames(events, frames, size, duration=None, start=None):
    """Frames of equal time.

    Args:
        events: `Events`.
        frames: Number of frames, T.
        size: `(height, width)` of the sensor.
        duration: Microseconds of a frame; later events are left out. By default the whole
            recording, and the last frame has the rest.
        start: Where the first frame begins; earlier events are left out. By default at the first
            event.

    Returns:
        Counts of events, `(frames, height, width, 2)`, OFF and ON.

    Raises:
        ValueError: If events lie outside of the sensor.

    Source: SpikingJelly's `split_by="time"`.
    """
    _checked(events, size, frames, "frames")
    if not len(events.t):
        return _histogram(events, np.zeros(0, np.int64), frames, size)
    since = np.asarray(events.t) - (events.t[0] if start is None else start)
    if duration is None:
        frame = np.minimum(since // max(since[-1] // frames, 1), frames - 1)
    else:
        frame = since // duration
    inside = (since >= 0) & (frame < frames)
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
        pixels: Largest shift, or one for each direction, `(rows, columns)`.
        generator: A `numpy.random.Generator`.

    Returns:
        `Events`.
    """
    rows, columns = np.broadcast_to(pixels, 2)
    dx, dy = generator.integers([-columns, -rows], [columns + 1, rows + 1])
    moved = events._replace(x=np.asarray(events.x) + dx, y=np.asarray(events.y) + dy)
    height, width = size
    return moved[(moved.x >= 0) & (moved.x < width) & (moved.y >= 0) & (moved.y < height)]
