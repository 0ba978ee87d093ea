"""Readers of recordings: N-MNIST, AEDAT 1 to 4, SHD and SSC.

A damaged file is a `ValueError` that names the byte.
"""

import collections.abc
import functools
import io
import math
import os
import pathlib
import re
import struct

import numpy as np

from keras_snn.datasets.events.files import (
    damaged,
    file_bytes,
    in_order,
    joined,
    library,
    unwrapped,
)
from keras_snn.datasets.events.recording import Events, as_events, check_inside

__all__ = ["read_aedat", "read_nmnist", "read_shd"]


def read_nmnist(path: str | os.PathLike) -> Events:
    """Reads a recording of N-MNIST or N-Caltech101, 40 bits an event.

    Args:
        path: A `.bin` file.

    Returns:
        `Events`; N-MNIST's sensor has 34x34 pixels.

    Raises:
        FileNotFoundError: If there is no such file; the error says where to get the data.
        ValueError: If the file is truncated; the error names the byte.

    Source: Orchard et al. (2015); the format is that of the data set's own reader. Times agree
        with those of tonic and SpikingJelly.
    """
    path, data = file_bytes(
        path, "Get N-MNIST from garrickorchard.com/datasets/n-mnist and unpack Train.zip, Test.zip."
    )
    if len(data) % 5:
        raise damaged(path, len(data) - len(data) % 5, f"the last event has {len(data) % 5} bytes")
    raw = np.frombuffer(data, np.uint8).reshape(-1, 5).astype(np.int64)
    t = (raw[:, 2] & 127) << 16 | raw[:, 3] << 8 | raw[:, 4]
    overflow = raw[:, 1] == 240  # the time has overflowed
    t = t + (np.cumsum(overflow) << 13)
    events = Events(t, raw[:, 0], raw[:, 1], raw[:, 2] >> 7)
    return in_order(path, events[~overflow])


def read_aedat(
    path: str | os.PathLike, start: float | None = None, end: float | None = None
) -> Events:
    """Reads an AEDAT file: version 1, 2 (jAER, CIFAR10-DVS), 3.1 (DVS128 Gesture) or 4 (DV).

    Args:
        path: An `.aedat` or `.aedat4` file.
        start: Microseconds; earlier events are left out.
        end: Microseconds: only events before it are read. Of a long file of version 3.1, only the
            part from `start` to `end` is decoded.

    Returns:
        `Events`, sorted by time, with a warning if the file was not. Frames, inertial
        measurements, triggers and events marked invalid are left out; streams and sources of
        events are merged in time. Row 0 is the top.

        Versions 1 and 2 store no size. Their addresses depend on the chip in the header
        (`# AEChip:`): DAVIS128, 208, 240, 346 or 640, or DVS128, the default. Columns are stored
        from right to left and rows from the bottom, as in jAER; both are flipped, as in tonic's
        reader of the DAVIS346. For the DVS128 rows and columns are also swapped, as in
        SpikingJelly's reader of CIFAR10-DVS, so that pictures are upright; tonic's `read_dvs_128`
        neither flips them nor inverts polarities. Overflows of 32-bit times are undone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another version, chip or format, has no header, or is
            truncated or damaged; the error names the byte. If a file of version 4 holds far more
            events than its size allows, see `EXPANSION`.
        ImportError: If version 4 needs a package of the extra `events`.

    Source: iniVation's descriptions of AEDAT 1.0, 2.0, 3.1 and 4.0; jAER's of chips.
    """
    path, data = file_bytes(
        path, "DVS128 Gesture and CIFAR10-DVS are on research.ibm.com, figshare."
    )
    first = data[: data.find(b"\n") + 1].strip()
    if not first.startswith(b"#!AER-DAT"):
        raise damaged(path, 0, f"an AEDAT file begins with #!AER-DAT, this one with {first[:20]!r}")
    version = first[len(b"#!AER-DAT") :]
    start, end = -math.inf if start is None else start, math.inf if end is None else end
    if version.startswith(b"4"):
        events = _aedat4(path, data)
    elif version == b"3.1":
        events = _aedat3(path, data, start, end)
    elif version.startswith((b"1", b"2")):
        events = _aedat2(path, data, first_version=version.startswith(b"1"))
    else:
        raise ValueError(
            f"{path} is AEDAT {version.decode(errors='replace')}; versions 1, 2, 3.1 and 4 are "
            "read."
        )
    events = in_order(path, events)
    if start == -math.inf and end == math.inf:
        return events
    return events[(events.t >= start) & (events.t < end)]


def _check_packet(path, place, length, end):
    if length < 0 or place + length > end:
        raise damaged(path, place, f"a packet says {length} bytes, {end - place} are left")


EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"), ("padding", "V3")])
# Highest compression ratio of a file of AEDAT 4, and an allowance in bytes: recordings of cameras
# are compressed by a factor of 2 to 10.
EXPANSION, ALLOWANCE = 100, 1 << 24


def _aedat4(path, data):
    compression, place, end = _aedat4_header(path, data)
    parts, left = [], EXPANSION * len(data) + ALLOWANCE
    while place < end:
        if place + 8 > end:
            raise damaged(path, place, f"a packet's header has {end - place} of 8 bytes")
        _, size = struct.unpack_from("<ii", data, place)
        place += 8
        _check_packet(path, place, size, end)
        try:
            content = _aedat4_events(data[place : place + size], compression, left)
            if content is not None:
                left -= len(content)
                raw = _elements(_flatbuffer(content)[1], EVENT)
                parts.append((raw["t"], raw["x"], raw["y"], raw["p"] != 0))
        except (ValueError, TypeError, struct.error) as error:
            raise damaged(path, place, f"a packet is damaged ({error})") from error
        place += size
    events = joined(parts)
    return events[np.argsort(events.t, kind="stable")]  # streams are interleaved packet by packet


def _aedat4_events(data, compression, limit):
    """A packet's content, unpacked, if these are events, of at most `limit` bytes."""
    read = _unpacking(data, compression)
    head = read(12)
    if len(head) < 12:
        raise ValueError("the data is cut")
    if head[8:] != b"EVTS":  # frames, triggers and inertial measurements
        return None
    wanted = struct.unpack_from("<I", head)[0] + 4
    if wanted > limit:
        raise ValueError(f"it says {wanted} bytes of events, more than such a file may hold")
    content = head + read(wanted - len(head))
    if len(content) < wanted:
        raise ValueError("the data is cut")
    return content + read(1)  # extra bytes are an error of the flatbuffer


def _aedat4_header(path, data):
    """`(compression, first byte of the packets, byte behind them)` of AEDAT 4."""
    place = data.find(b"\n") + 1
    try:
        (size,) = struct.unpack_from("<I", data, place)
        first = place + 4 + size
        kind, table = _flatbuffer(data[place:first])
        compression, end = _field(table, 4, "<i", 0), _field(table, 6, "<q", -1)
    except (ValueError, TypeError, struct.error) as error:
        raise damaged(path, place, f"the header is cut or damaged ({error})") from error
    if kind != b"IOHE" or not 0 <= compression <= 4:
        raise damaged(path, place, f"no header of AEDAT 4: {kind!r}, compression {compression}")
    if end == -1:  # there is no table of packets behind them
        end = len(data)
    if not first <= end <= len(data):
        raise damaged(path, place, f"the header says that packets end at byte {end} of {len(data)}")
    return compression, first, end


def _unpacking(data, compression):
    """A function that reads the next bytes; 1 and 2 are LZ4, 3 and 4 Zstandard (fast, high)."""
    if compression == 0:
        return io.BytesIO(data).read
    if compression <= 2:
        source = library("lz4.frame", "This AEDAT 4 file").LZ4FrameFile(io.BytesIO(data))
    else:
        source = library("zstandard", "This AEDAT 4 file").ZstdDecompressor().stream_reader(data)

    def read(count):
        try:
            return source.read(count)
        except EOFError as error:
            raise ValueError("the data is cut") from error
        except Exception as error:  # each library raises its own
            raise ValueError(error) from error

    return read


def _flatbuffer(content):
    """`(identifier, table)` of a flatbuffer behind its size."""
    size, root = struct.unpack_from("<II", content)
    if size + 4 != len(content):
        raise ValueError(f"it says {size} bytes, {len(content) - 4} are there")
    table = library("flatbuffers.table", "AEDAT 4").Table(content, 4 + root)
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
    parts = []
    for place, count, overflow in _aedat3_packets(path, data):
        word, t = np.frombuffer(data, "<u4", 2 * count, place).reshape(-1, 2).T
        since = overflow << 31
        if int(t.max()) >= 2**31:
            raise damaged(path, place, "a packet has times of more than 31 bits")
        if int(t.max()) + since < start or int(t.min()) + since >= end:
            continue
        valid = word & 1 == 1
        word, t = word[valid].astype(np.int64), t[valid].astype(np.int64)
        parts.append((t + since, word >> 17, word >> 2 & 0x7FFF, word >> 1 & 1))
    return joined(parts)


def _aedat3_packets(path, data):
    """`(first byte, number of events, overflows of time)` of each packet of polarity events."""
    end = data.find(b"#!END-HEADER")
    if end < 0:
        raise damaged(path, len(data), "the header has no end")
    packing = re.search(rb"^#Format: *([^\r\n]*)", data[:end], re.MULTILINE)
    if packing and packing[1].strip() != b"RAW":
        raise ValueError(
            f"{path} has the format {packing[1].decode(errors='replace')!r}; of AEDAT 3.1, RAW is "
            "read."
        )
    place = data.find(b"\n", end) + 1
    if not place:
        raise damaged(path, len(data), "the header has no end")
    while place < len(data):
        if place + 28 > len(data):
            raise damaged(path, place, f"a packet's header has {len(data) - place} of 28 bytes")
        kind, _, size, _, overflow, _, count, _ = struct.unpack_from("<hhiiiiii", data, place)
        length = -1 if min(size, count) < 0 else size * count
        _check_packet(path, place + 28, length, len(data))
        if kind == 1 and count:  # polarity events; others are skipped
            if size != 8 or overflow < 0:
                raise damaged(
                    path,
                    place,
                    f"polarity events have {size} bytes, not 8, or {overflow} overflows of time",
                )
            yield place + 28, count, overflow
        place += 28 + length


# Sides `(height, width)` of the sensors of DAVIS cameras, by the number in a chip's name.
DAVIS = {128: (128, 128), 208: (192, 208), 240: (180, 240), 346: (260, 346), 640: (480, 640)}


def _aedat2(path, data, first_version):
    place, chip = _aedat2_header(path, data)
    event = np.dtype([("address", ">u2" if first_version else ">u4"), ("t", ">u4")])
    rest = (len(data) - place) % event.itemsize
    if rest:
        raise damaged(
            path, len(data) - rest, f"the last event has {rest} of {event.itemsize} bytes"
        )
    raw = np.frombuffer(data, event, offset=place)
    address, t = raw["address"].astype(np.int64), unwrapped(raw["t"])
    if chip is None or re.search(r"\b(DVS|Tmpdiff)128$", chip):
        size, special = (128, 128), address >> 15 & 1
        if (address >> 16).any():
            number = (address >> 16).argmax()
            raise damaged(
                path,
                place + int(number) * event.itemsize,
                f"address {address[number]} is none of a DVS128, and the header names no other chip"
                " (`# AEChip:`)",
            )
        x, y, p = address >> 8 & 0x7F, address >> 1 & 0x7F, 1 - (address & 1)
    elif match := re.search(r"\bDavis(128|208|240|346|640)", chip, re.IGNORECASE):
        size, special = DAVIS[int(match[1])], address >> 31 | address >> 10 & 1
        x, y, p = address >> 12 & 0x3FF, address >> 22 & 0x1FF, address >> 11 & 1
    else:
        raise ValueError(
            f"{path} is of the chip {chip!r}; of AEDAT 1 and 2, recordings of DVS128 and of DAVIS "
            f"{', '.join(map(str, DAVIS))} are read."
        )
    height, width = size
    events = Events(t, width - 1 - x, height - 1 - y, p)[special == 0]
    try:
        check_inside(events, size)
    except ValueError as error:
        raise damaged(path, place, str(error)) from error
    return events


def _aedat2_header(path, data):
    """First byte of the events, and the chip that the header names, if any.

    Events may begin with a # as lines of the header do, but have no text up to the next line.
    """
    place, chip = 0, None
    while data[place : place + 1] == b"#":
        stop = data.find(b"\n", place)
        if stop < 0 and not place:
            raise damaged(path, place, "the header has no end")
        line = data[place:stop].rstrip(b"\r")
        if stop < 0 or any(byte < 32 and byte != 9 for byte in line):
            break
        place = stop + 1
        text = line.decode(errors="replace")
        if match := re.match(r"#\s*AEChip:\s*(\S+)", text):
            chip = match[1]
        if text.startswith("#End Of ASCII Header"):
            break
    return place, chip


def read_shd(path: str | os.PathLike) -> tuple[collections.abc.Sequence[Events], np.ndarray]:
    """Reads Spiking Heidelberg Digits (or Spiking Speech Commands), an HDF5 file.

    Args:
        path: An `.h5` file.

    Returns:
        `(recordings, labels)`: a sequence of `Events`, each read on demand, in which `x` is the
        unit (0 to 699) and `y` is 0, with an attribute `speakers`, a list of text; and an array of
        labels.

    Raises:
        FileNotFoundError: If there is no such file; the error says where to get it.
        ValueError: If it is no such HDF5 file or labels are no class numbers; when a recording is
            read, if times are negative or not in seconds, or units are out of range.
        ImportError: If the extra `events` is not installed.

    Source: Cramer et al. (2020).
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Get SHD from zenkelab.org/datasets.")

    def read(file):
        parts = file["labels"], file["spikes"]["times"], file["spikes"]["units"]
        counts = [part.shape for part in parts]
        if any(len(shape) != 1 for shape in counts) or len(set(counts)) > 1:
            raise ValueError(f"labels, times and units have the shapes {counts}")
        # The size in a header may be false; DEFLATE compresses by a factor of 1032 at most.
        if parts[0].nbytes > 1032 * parts[0].id.get_storage_size():
            raise ValueError(f"labels are said to be {parts[0].nbytes} bytes, and are not there")
        return parts[0][:]

    labels = _read_hdf5(path, read)
    if labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise ValueError(f"{path}: labels should be class numbers, got {labels[:10]}.")
    return _Recordings(path, len(labels)), labels


def _read_hdf5(path, read):
    h5py = library("h5py", "SHD")
    try:
        with h5py.File(path) as file:
            return read(file)
    except Exception as error:  # damaged files may raise anything
        raise ValueError(f"{path} is no file of SHD, or is damaged: {error}") from error


# Input channels of SHD and SSC.
UNITS = 700


class _Recordings(collections.abc.Sequence):
    """The recordings in a file of SHD or SSC, read one by one, as SSC would fill the memory."""

    def __init__(self, path, count):
        self.path, self.count = path, count

    def __len__(self):
        return self.count

    def __str__(self):
        return str(self.path)

    @functools.cached_property
    def speakers(self):
        """The speaker of each recording, as text."""

        def read(file):
            speakers = file["extra/speaker"][:] if "extra/speaker" in file else []
            if len(speakers) != self.count:
                raise ValueError(f"extra/speaker tells {len(speakers)} of {self.count} speakers")
            return [x.decode() if isinstance(x, bytes) else str(x) for x in speakers]

        return _read_hdf5(self.path, read)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(self.count)[index]]
        index = range(self.count)[index]  # allows negative ones; its IndexError ends iteration

        def read(file):
            return file["spikes"]["times"][index], file["spikes"]["units"][index]

        t, unit = map(np.asarray, _read_hdf5(self.path, read))
        # Words are shorter than a day: longer times are not in seconds.
        if len(t) and not (t.dtype.kind == "f" and t.min() >= 0 and t.max() < 86_400):
            raise ValueError(
                f"{self.path}, recording {index}: times should be seconds from 0, got {t.dtype} "
                f"from {t.min()} to {t.max()}."
            )
        t = np.round(t.astype("float64") * 1e6)
        zeros = np.zeros(len(t), np.int64)
        try:
            return as_events(Events(t, unit, zeros, zeros + 1), (1, UNITS))
        except ValueError as error:
            raise ValueError(f"{self.path}, recording {index}: {error}") from error
