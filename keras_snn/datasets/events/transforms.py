"""Random variation of recordings, for training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_snn.datasets.events.recording import Events, as_events, check_inside

__all__ = ["drop_events", "flip", "jitter", "random_steps"]


def random_steps(frames: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Frames of a sequence, drawn without replacement and kept in order.

    Args:
        frames: `(time, ...)`.
        count: Number of frames to keep.
        generator: A `numpy.random.Generator`.

    Returns:
        `(count, ...)`.

    Source: Fang et al. (2021): 12 of 16 frames.
    """
    if not isinstance(count, (int, np.integer)) or not 1 <= count <= len(frames):
        raise ValueError(f"`count` should be an integer from 1 to {len(frames)}, got {count!r}.")
    return frames[np.sort(generator.choice(len(frames), count, replace=False))]


def flip(events: Any, width: int) -> Events:
    """A recording mirrored left to right.

    Args:
        events: Events, see `as_events`.
        width: Width of the sensor.

    Returns:
        `Events`.

    Raises:
        ValueError: If an event lies outside of the width.
    """
    events = as_events(events)
    check_inside(events._replace(y=np.zeros_like(events.x)), (1, width))
    return events._replace(x=width - 1 - events.x)


def drop_events(events: Any, rate: float, generator: np.random.Generator) -> Events:
    """A recording without some events, each of which is dropped with a probability.

    Args:
        events: Events, see `as_events`.
        rate: Probability of dropping an event, 0 to 1.
        generator: A `numpy.random.Generator`.

    Returns:
        `Events`.

    Raises:
        ValueError: If `rate` is not from 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` should be from 0 to 1, got {rate!r}.")
    events = as_events(events)
    return events[generator.random(len(events.t)) >= rate]


def jitter(
    events: Any,
    size: Sequence[int],
    pixels: int | Sequence[int],
    generator: np.random.Generator,
) -> Events:
    """A recording shifted by up to `pixels` in both directions; events off the sensor are dropped.

    Args:
        events: Events, see `as_events`.
        size: `(height, width)` of the sensor.
        pixels: Largest shift: an integer, or `(rows, columns)`.
        generator: A `numpy.random.Generator`.

    Returns:
        `Events`.

    Raises:
        ValueError: If an event lies outside of the sensor, or a shift is no integer of at least 0.
    """
    shifts = np.asarray(pixels)
    if shifts.shape not in ((), (1,), (2,)) or shifts.dtype.kind not in "iu" or shifts.min() < 0:
        raise ValueError(f"`pixels` should be an integer from 0, or two, got {pixels!r}.")
    events = as_events(events, size)
    rows, columns = np.broadcast_to(shifts, 2)
    dx, dy = generator.integers([-columns, -rows], [columns + 1, rows + 1])
    moved = events._replace(x=events.x + dx, y=events.y + dy)
    height, width = size
    return moved[(moved.x >= 0) & (moved.x < width) & (moved.y >= 0) & (moved.y < height)]
