"""Reader of recordings of Prophesee's cameras: `.raw` files of EVT 2 and EVT 3, and `.dat` files.

Of the packages that read these, expelliarmus 1.1.12 adds 4,096 microseconds to the times of EVT 3
whenever the low bits overflow and refuses triggers, evt3 0.4.1 takes EVT 2 for EVT 3, and faery
0.7.1, which is right on whole files, passes over truncated and damaged ones.
"""

import os

import numpy as np

from keras_snn.datasets.events.files import damaged, file_bytes, in_order, unwrapped
from keras_snn.datasets.events.recording import Events, check_inside

__all__ = ["read_prophesee"]


def read_prophesee(path: str | os.PathLike) -> Events:
    """Reads a recording of a Prophesee camera: EVT 2.0 or EVT 3.0 (`.raw`), or `.dat`.

    Args:
        path: A `.raw` or `.dat` file; which of the formats it has is read from its header.

    Returns:
        `Events`, sorted by time, with a warning if the file was not. Row 0 is the top. Triggers and
        other words that are no events are left out, and events in front of the first complete time
        and address. Overflows of times are undone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has no header, another format, is truncated or damaged, or an event
            lies outside of the size that the header names; the error names the byte.

    Source: Prophesee's descriptions of EVT 2.0, EVT 3.0 and DAT; version 1 of DAT as in its MATLAB
        reader.
    """
    path, data = file_bytes(path, "Give a .raw or .dat file of a Prophesee camera.")
    place, header = _header(path, data)
    kind = header.get("evt") or header.get("format", "").split(";")[0].removeprefix("EVT")
    if kind:
        decode = {"2": _evt2, "2.0": _evt2, "3": _evt3, "3.0": _evt3}.get(kind)
    else:
        decode = _dat if "data" in header or "version" in header else None
    if decode is None:
        raise damaged(
            path,
            0,
            f"a file of a Prophesee camera has a header that names EVT 2 or 3, or the version of "
            f"DAT; this one has {header}",
        )
    events = decode(path, data, place, header)
    size = _size(header)
    if size is not None:
        try:
            check_inside(events, size)
        except ValueError as error:
            raise damaged(path, place, str(error)) from error
    return in_order(path, events)


def _header(path, data):
    """First byte behind the header, and its values by the first word of each line.

    What follows may begin with a % as lines of the header do, but has no text up to the next line.
    """
    place, values = 0, {}
    while data[place : place + 1] == b"%":
        stop = data.find(b"\n", place)
        line = data[place : len(data) if stop < 0 else stop].rstrip(b"\r")
        if any(byte < 32 and byte != 9 for byte in line):
            break
        if stop < 0:
            raise damaged(path, place, "the header has no end")
        place = stop + 1
        name, _, value = line[1:].decode(errors="replace").strip().partition(" ")
        if name.lower() == "end":
            break
        values.setdefault(name.lower(), value.strip())
    return place, values


def _size(header):
    """Height and width of the sensor, if the header has them."""
    options = dict(
        part.split("=", 1) for part in header.get("format", "").split(";") if "=" in part
    )
    options |= {key: header[key] for key in ("width", "height") if key in header}
    if "x" in header.get("geometry", ""):
        options["width"], options["height"] = header["geometry"].split("x", 1)
    sides = [options.get(key, "") for key in ("height", "width")]
    return tuple(map(int, sides)) if all(side.isdecimal() and int(side) for side in sides) else None


def _words(path, data, place, dtype, what):
    """The words of a file from a byte on."""
    size = np.dtype(dtype).itemsize
    if rest := (len(data) - place) % size:
        raise damaged(path, len(data) - rest, f"the last {what} has {rest} of {size} bytes")
    return np.frombuffer(data, dtype, offset=place)


# One event of a `.dat` file.
DAT_EVENT = np.dtype([("t", "<u4"), ("address", "<u4")])
# Bits of a column and of a row, and the place of the polarity, by the version of DAT.
DAT = {"0": (9, 8, 17), "1": (9, 8, 17), "2": (14, 14, 28)}
# Types of events: of any kind, and of a change of light; others are triggers and measurements.
CHANGES = (0, 12)


def _dat(path, data, place, header):
    version = header.get("version", "2")
    if version not in DAT:
        raise ValueError(f"{path} is DAT of the version {version}; {', '.join(DAT)} are read.")
    kind, size = data[place : place + 2] if len(data) >= place + 2 else (None, None)
    if kind not in CHANGES or size != 8:
        raise damaged(
            path, place, f"events should have the type 0 or 12 and 8 bytes, got {kind} and {size}"
        )
    return dat_events(_words(path, data, place + 2, DAT_EVENT, "event"), version)


def dat_events(raw, version="2"):
    """The events of an array of `DAT_EVENT`."""
    address = raw["address"].astype(np.int64)
    columns, rows, polarity = DAT[version]
    return Events(
        unwrapped(raw["t"]),
        address & (1 << columns) - 1,
        address >> columns & (1 << rows) - 1,
        address >> polarity & 1,
    )


def _check_types(path, place, words, shift, known):
    """The types of words, their highest four bits."""
    types = (words >> shift).astype(np.uint8)
    wrong = ~np.isin(types, known)
    if wrong.any():
        number = int(wrong.argmax())
        raise damaged(
            path,
            place + number * words.itemsize,
            f"a word has the type {types[number]:#x}, which is none of the format's",
        )
    return types


def _last(places, at):
    """For each word in `at`, which of the words in `places` is the last in front; -1 if none is."""
    return np.searchsorted(places, at) - 1


# Types of words that have no events: time, trigger, others and what continues them.
TIME_HIGH, TIME_LOW, TRIGGER = 0x8, 0x6, 0xA


def _evt2(path, data, place, header):
    words = _words(path, data, place, "<u4", "word")
    types = _check_types(path, place, words, 28, (0, 1, TIME_HIGH, TRIGGER, 0xE, 0xF))
    highs, at = np.flatnonzero(types == TIME_HIGH), np.flatnonzero(types <= 1)
    at = at[_last(highs, at) >= 0]
    high = unwrapped(words[highs] & 0xFFFFFFF, 28)[_last(highs, at)]
    word = words[at].astype(np.int64)
    return Events(
        high << 6 | word >> 22 & 0x3F, word >> 11 & 0x7FF, word & 0x7FF, types[at].astype(np.int64)
    )


ROW, COLUMN, BASE, VECTOR_12, VECTOR_8 = 0x0, 0x2, 0x3, 0x4, 0x5


def _evt3(path, data, place, header):
    words = _words(path, data, place, "<u2", "word")
    known = (ROW, COLUMN, BASE, VECTOR_12, VECTOR_8, TIME_LOW, TIME_HIGH, TRIGGER, 0x7, 0xE, 0xF)
    types = _check_types(path, place, words, 12, known)

    def of(*kinds):
        return np.flatnonzero(np.isin(types, kinds))

    def value(at, mask=0x7FF):
        return (words[at] & mask).astype(np.int64)

    # Events one by one, and those of vectors, a bit for each of the columns from a base on.
    singles, bases, vectors = of(COLUMN), of(BASE), of(VECTOR_12, VECTOR_8)
    vectors = vectors[_last(bases, vectors) >= 0]
    widths = np.where(types[vectors] == VECTOR_12, 12, 8)
    before, base = np.cumsum(widths) - widths, bases[_last(bases, vectors)]
    first = value(base) + before - before[np.searchsorted(vectors, base)]
    bits = value(vectors, 0xFFF) & (1 << widths) - 1
    number, column = np.nonzero(bits[:, None] >> np.arange(12) & 1)
    at = np.concatenate([singles, vectors[number]])
    x = np.concatenate([value(singles), first[number] + column])
    p = (words[np.concatenate([singles, base[number]])] >> 11 & 1).astype(np.int64)

    # A time has 12 high and 12 low bits; the low ones are 0 after a change of the high ones.
    highs, lows, rows = of(TIME_HIGH), of(TIME_LOW), of(ROW)
    high = unwrapped(value(highs, 0xFFF), 12)
    changed = np.diff(high, prepend=-1) != 0
    highs, high = highs[changed], high[changed]
    order = np.argsort(at, kind="stable")
    order = order[(_last(highs, at[order]) >= 0) & (_last(rows, at[order]) >= 0)]
    at = at[order]
    now, low = _last(highs, at), _last(lows, at)
    t = high[now] << 12
    if len(lows):
        t += np.where(lows[low] > highs[now], value(lows[low], 0xFFF), 0) * (low >= 0)
    return Events(t, x[order], value(rows[_last(rows, at)]), p[order])
