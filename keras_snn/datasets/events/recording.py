"""A recording of an event camera, and its conversion from other formats."""

import collections.abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Events", "as_events"]


class Events(NamedTuple):
    """Events of one recording, arrays of one length.

    Attributes:
        t: Times in whole microseconds, ascending; multiply seconds by 1e6 and round.
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


# Names of the fields of structured arrays: those of tonic and SpikingJelly, of iniVation and
# Prophesee.
FIELDS = {"t": ("t", "timestamp", "ts"), "x": ("x",), "y": ("y",), "p": ("p", "polarity", "pol")}


def as_events(events: Any, size: Sequence[int] | None = None) -> Events:
    """Events as this package uses them: integers, sorted by time.

    Args:
        events: `Events`, or a structured array (or a dictionary of arrays) with the fields `t` (or
            `timestamp`, `ts`), `x`, `y` and `p` (or `polarity`, `pol`), in any order. All must be
            whole numbers; polarities are 0 and 1, booleans, or -1 and 1.
        size: `(height, width)` of the sensor; if given, events outside of it are an error.

    Returns:
        `Events`, four arrays of `int64`; events with the same time keep their order.

    Raises:
        TypeError: If `events` are of none of these kinds.
        ValueError: If arrays differ in length, contain fractions or other polarities, or an event
            lies outside of the sensor.

    Example:

    >>> kind = [("x", "i2"), ("y", "i2"), ("timestamp", "i8"), ("polarity", "i1")]
    >>> as_events(np.array([(3, 4, 20, -1), (5, 6, 10, 1)], kind)).t
    array([10, 20])
    """
    if isinstance(events, Events):
        fields = events._asdict()
    else:
        names = getattr(getattr(events, "dtype", events), "names", None)
        names = names or (list(events) if isinstance(events, collections.abc.Mapping) else [])
        taken = {
            field: [name for name in names if name in known] for field, known in FIELDS.items()
        }
        if any(len(given) != 1 for given in taken.values()):
            raise TypeError(
                "Received invalid events, expected `Events`, or a structured array or dictionary "
                f"with one each of the fields {list(FIELDS.values())}, got {type(events).__name__}"
                + (f" with the fields {list(names)}." if len(names) else ".")
            )
        fields = {field: events[name] for field, (name,) in taken.items()}
    fields = {name: _whole(name, values) for name, values in fields.items()}
    lengths = {name: len(values) for name, values in fields.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Events should have arrays of one length, got {lengths}.")
    events = Events(**fields)._replace(p=_binary(fields["p"]))
    if size is not None:
        check_inside(events, size)
    if (events.t[1:] < events.t[:-1]).any():
        events = events[np.argsort(events.t, kind="stable")]
    return events


def _whole(name, values):
    values = np.asarray(values)
    unit = {"t": "microseconds", "p": "polarities, 0 or 1"}.get(name, "pixels")
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"`{name}` of events should be an array of numbers, one for each event, got an array "
            f"of {values.dtype} of the shape {values.shape}."
        )
    wrong = np.zeros(len(values), bool)
    if values.dtype.kind == "f":
        wrong = ~(np.abs(values) < 2.0**63) | (values != np.floor(values))
    elif values.dtype == np.uint64:
        wrong = values >= 2**63
    if wrong.any():
        raise ValueError(
            f"`{name}` of events should be whole numbers ({unit}), got {values[wrong][0]}, event "
            f"{wrong.argmax()}."
        )
    return values.astype(np.int64, copy=False)


def _binary(polarities):
    values = np.unique(polarities)
    if not (np.isin(values, (0, 1)).all() or np.isin(values, (-1, 1)).all()):
        raise ValueError(f"Polarities should be 0 and 1 (or -1 and 1), got {values[:10].tolist()}.")
    return (polarities > 0).astype(np.int64)


def check_inside(events, size):
    sides = np.asarray(size)
    if sides.shape != (2,) or sides.dtype.kind not in "iu" or sides.min() < 1:
        raise ValueError(f"`size` should be (height, width), two positive integers, got {size!r}.")
    height, width = size
    x, y = events.x, events.y
    if len(x) and (x.max() >= width or y.max() >= height or x.min() < 0 or y.min() < 0):
        raise ValueError(
            f"Events lie at columns {x.min()} to {x.max()} and rows {y.min()} to {y.max()}, "
            f"outside of the size {tuple(size)}."
        )
