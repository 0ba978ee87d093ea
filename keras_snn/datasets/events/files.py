"""What readers of recordings share: bytes of files, errors, times."""

import importlib
import mmap
import pathlib
import warnings

import numpy as np

from keras_snn.datasets.events.recording import Events


def damaged(path, offset, what):
    """The error for a damaged file; `what` is found at the byte `offset`."""
    return ValueError(f"{path}: {what}, at byte {offset}.")


def file_bytes(path, what):
    """The bytes of a file, mapped into memory: only those in use are read."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. {what}")
    if not path.stat().st_size:
        return path, b""
    with path.open("rb") as file:
        return path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def in_order(path, events):
    """The events of a file, sorted by time; warns if they were not."""
    back = events.t[:-1] - events.t[1:]
    if not (back > 0).any():
        return events
    warnings.warn(
        f"{path}: time goes back {(back > 0).sum()} times, by up to {back.max()} microseconds; "
        "events were sorted. If the camera's clock was reset, this mixes two recordings.",
        stacklevel=4,
    )
    return events[np.argsort(events.t, kind="stable")]


def library(name, what):
    """Imports a module that reads `what`, or names the extra that has it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(
            f'{what} is read by {package}, extra `events`: pip install "keras-snn[events]"'
        ) from error


def joined(parts):
    """Several `(t, x, y, p)` one after the other, as `Events`."""
    empty = (np.zeros(0, np.int64),) * 4
    return Events(*(np.concatenate(arrays).astype(np.int64) for arrays in zip(empty, *parts)))


def unwrapped(t, bits=32):
    """Times of so many bits without overflows, assuming no step of more than half of the range."""
    t = t.astype(np.int64)
    half = 1 << bits - 1
    steps = (np.diff(t) + half) % (2 * half) - half
    return np.concatenate([t[:1], t[:1] + np.cumsum(steps)])
