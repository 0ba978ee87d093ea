"""Recordings cut into frames: by number of events, by time, with shares of two bins."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_snn.datasets.events.recording import as_events

__all__ = ["count_frames", "time_frames", "voxel_grid"]


def _checked(events, size, steps, name):
    if not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"`{name}` should be an integer of at least 1, got {steps!r}.")
    return as_events(events, size)


def _check_number(name, value, above=-math.inf):
    numeric = isinstance(value, (int, float, np.integer, np.floating))
    if not (numeric and above < value < math.inf):
        bound = "" if above == -math.inf else f" above {above}"
        raise ValueError(f"`{name}` should be a finite number{bound}, got {value!r}.")


def _histogram(events, frame, steps, size, weights=None):
    """Counts (or sums of weights) by frame, row, column and polarity."""
    height, width = size
    index = ((frame * height + events.y) * width + events.x) * 2 + events.p
    counts = np.bincount(index.astype(np.int64), weights, steps * height * width * 2)
    return counts.reshape(steps, height, width, 2).astype("float32")


def count_frames(events: Any, frames: int, size: Sequence[int]) -> np.ndarray:
    """Frames of equally many events; the last frame also gets the remainder.

    If there are fewer events than frames, the first frames get one each; SpikingJelly puts all into
    the last. Tonic's `ToFrame(n_event_bins=)` drops the remainder.

    Args:
        events: Events, see `as_events`.
        frames: Number of frames, T.
        size: `(height, width)` of the sensor.

    Returns:
        Counts of events, `(frames, height, width, 2)`, OFF and ON.

    Raises:
        ValueError: If an argument is invalid, or events lie outside of the sensor.

    Source: Fang et al. (2021), SpikingJelly's `split_by="number"`.

    Example:

    >>> from keras_snn.datasets.events import Events
    >>> events = Events(*np.array([[0, 5, 9, 20], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 1, 1]]))
    >>> frames = count_frames(events, 2, (2, 2))
    >>> frames.shape, frames.sum((1, 2, 3))
    ((2, 2, 2, 2), array([2., 2.], dtype=float32))
    """
    events = _checked(events, size, frames, "frames")
    each = max(len(events.t) // frames, 1)
    frame = np.minimum(np.arange(len(events.t)) // each, frames - 1)
    return _histogram(events, frame, frames, size)


def time_frames(
    events: Any,
    frames: int,
    size: Sequence[int],
    duration: float | None = None,
    start: float | None = None,
) -> np.ndarray:
    """Frames of equal duration.

    Without `duration` frames last a whole number of microseconds, at least 1; shorter recordings
    fill the first frames, while SpikingJelly puts their events into the last. Tonic's
    `ToFrame(n_time_bins=)` drops the remainder, including the last event.

    Args:
        events: Events, see `as_events`.
        frames: Number of frames, T.
        size: `(height, width)` of the sensor.
        duration: Microseconds of a frame, above 0; events after the last frame are left out. The
            default divides the whole recording; the last frame also gets the remainder.
        start: Time of the first frame's start; earlier events are left out. The default is the
            first event's time.

    Returns:
        Counts of events, `(frames, height, width, 2)`, OFF and ON.

    Raises:
        ValueError: If an argument is invalid, or events lie outside of the sensor.

    Source: SpikingJelly's `split_by="time"`.
    """
    events = _checked(events, size, frames, "frames")
    if duration is not None:
        _check_number("duration", duration, above=0)
    if start is not None:
        _check_number("start", start)
    if not len(events.t):
        return _histogram(events, np.zeros(0, np.int64), frames, size)
    since = events.t - (events.t[0] if start is None else start)
    if duration is None:
        frame = np.minimum(since // max(since[-1] // frames, 1), frames - 1)
    else:
        frame = since // duration
    inside = (since >= 0) & (frame < frames)
    return _histogram(events[inside], frame[inside], frames, size)


def voxel_grid(events: Any, bins: int, size: Sequence[int]) -> np.ndarray:
    """A voxel grid: each event is split between the two nearest bins in time.

    As in the paper, an event is at (bins - 1) (t - t0) / (t1 - t0), so the first event is in the
    first bin and the last event in the last. Tonic's `ToVoxelGrid` of B bins is this grid of B + 1
    bins without its last, ON minus OFF.

    Args:
        events: Events, see `as_events`.
        bins: Number of bins over the whole recording.
        size: `(height, width)` of the sensor.

    Returns:
        Sums of weights, `(bins, height, width, 2)`, OFF and ON.

    Raises:
        ValueError: If an argument is invalid, or events lie outside of the sensor.

    Source: Zhu et al. (2019), with a channel for each polarity.
    """
    events = _checked(events, size, bins, "bins")
    if not len(events.t):
        return _histogram(events, np.zeros(0, np.int64), bins, size)
    t = events.t - events.t[0]
    place = t / max(t[-1], 1) * (bins - 1)
    low = np.minimum(np.floor(place).astype(np.int64), max(bins - 2, 0))
    share = place - low
    grid = _histogram(events, low, bins, size, 1 - share)
    if bins > 1:
        grid += _histogram(events, low + 1, bins, size, share)
    return grid
