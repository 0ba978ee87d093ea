"""Data sets of tonic, as frames for every backend."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_snn.datasets import events, recordings
from keras_snn.datasets.batches import Dataset
from keras_snn.utils.arguments import check_integer

__all__ = ["from_tonic"]


def from_tonic(
    train: Any,
    test: Any = None,
    batch_size: int = 64,
    seed: int = 0,
    timesteps: int | None = None,
    *,
    size: Sequence[int] | None = None,
    duration: float | None = None,
    classes: int | None = None,
    train_timesteps: int | None = None,
    augmentation: Sequence[str] = (),
    one_hot: bool = False,
    image_size: int | None = None,
    workers: int = 1,
) -> Dataset:
    """A data set of tonic, or anything like one, as the recordings of `load` are.

    Args:
        train: A data set: `len` and `[index]`, which gives `(events, label)`. Events are structured
            arrays with the fields that `as_events` takes (units of a row need no `y`), or, behind a
            transform such as tonic's `ToFrame`, frames `(time, polarity, height, width)`,
            `(time, polarity, units)` or `(time, units)`. Labels are class numbers or names, whose
            alphabetical order gives the numbers. All are taken as the data set gives them, behind
            its transforms.
        test: The held-out one. The default holds out the last tenth of each class of `train`.
        batch_size: Examples in a batch.
        seed: Seed of shuffling and variation, which depend only on it and the epoch.
        timesteps: Frames of a recording, T: equally many events in each. The default is 10, or as
            many as the transform gives.
        size: `(height, width)` of the sensor. The default is the data set's `sensor_size`.
        duration: Microseconds from time 0 that T frames of equal time share, in place of equally
            many events; the default of units of a row is 1.4 seconds, a spoken word.
        classes: Number of classes. The default is that of the labels.
        train_timesteps: Number of frames that training draws at random; their order is kept.
        augmentation: Variations of the training data, see `load`: of events `"flip"`, `"jitter"`,
            `"drop"`, and of frames with height and width `"shift"`, `"erase"`, `"cutout"`,
            `"mix_up"`, `"cut_mix"`.
        one_hot: Whether labels are one-hot vectors; mixed labels must be.
        image_size: Height that frames are shrunk to, see `load`.
        workers: Number of threads that read.

    Returns:
        A `Dataset`. Frames are `(T, height, width, polarity)`, or `(T, units)`.

    Raises:
        TypeError: If an example is no pair of events or frames and a label.
        ValueError: If an argument is invalid, the sensor has no known size, or, also while batches
            are read, frames differ in shape or events are damaged.

    Labels that a data set does not list in `targets` are read from its examples, once each.

    Example:

    >>> kind = [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")]
    >>> class Recordings:
    ...     sensor_size = (8, 6, 2)
    ...     def __len__(self):
    ...         return 20
    ...     def __getitem__(self, index):
    ...         return np.array([(index % 8, 2, 3, 1), (1, 1, 5, 0)], kind), index % 2
    >>> data = from_tonic(Recordings(), batch_size=4, timesteps=2)
    >>> data.train[0][0].shape, data.classes
    ((4, 2, 6, 8, 2), 2)
    """
    sets = {"train": train} if test is None else {"train": train, "test": test}
    labels = {split: _labels(part) for split, part in sets.items()}
    numbers, count = _numbers(labels)
    classes = count if classes is None else check_integer("classes", classes, minimum=count)
    listed = {
        split: [((part, index), label) for index, label in enumerate(numbers[split])]
        for split, part in sets.items()
    }
    if test is None:
        listed = recordings.hold_out(listed["train"], 10)
    first = _example(train, 0)[0]
    if _is_events(first):
        row = _row_of_events(train, size, duration, classes)
        timesteps = 10 if timesteps is None else timesteps
    else:
        row = _row_of_frames(train, first, classes)
        frames = len(row.nothing)
        if timesteps not in (None, frames) or size is not None or duration is not None:
            raise ValueError(
                f"`timesteps`, `size` and `duration` are for events; the transform of {train!r} "
                f"gives frames, {frames} of each recording."
            )
        timesteps = frames
    return recordings.assemble(
        type(train).__name__,
        row,
        lambda: listed,
        batch_size,
        seed,
        timesteps,
        train_timesteps,
        augmentation,
        workers,
        one_hot,
        image_size,
    )


def _example(dataset, index):
    """`(events, label)` of an example."""
    example = dataset[index]
    if not isinstance(example, (tuple, list)) or len(example) != 2:
        raise TypeError(
            f"Example {index} of {dataset!r} should be events, or frames, and a label, got "
            f"{type(example).__name__}."
        )
    return example


def _labels(dataset):
    """The labels of all examples; those that are listed spare reading the examples."""
    if not len(dataset):
        raise ValueError(f"The data set {dataset!r} has no examples.")
    listed = getattr(dataset, "targets", ())
    if len(listed) != len(dataset) or getattr(dataset, "transforms", None) is not None:
        return [_example(dataset, index)[1] for index in range(len(dataset))]
    transform = getattr(dataset, "target_transform", None)
    return list(listed) if transform is None else [transform(label) for label in listed]


def _numbers(labels):
    """Class numbers of the labels of each split, and how many classes there are."""
    values = [label for part in labels.values() for label in part]
    if all(isinstance(label, str) for label in values):
        names = sorted(set(values))
        numbers = dict(zip(names, range(len(names))))
        return {s: [numbers[label] for label in part] for s, part in labels.items()}, len(names)
    for label in values:
        if np.ndim(label) or np.asarray(label).dtype.kind not in "biu" or label < 0:
            raise TypeError(
                f"Labels should be class numbers from 0, or names, one for each example, got "
                f"{label!r}."
            )
    return {s: list(map(int, part)) for s, part in labels.items()}, int(max(values)) + 1


def _is_events(example):
    return isinstance(example, events.Events) or bool(
        getattr(getattr(example, "dtype", None), "names", None)
    )


def _sensor(dataset):
    """Width, height and polarities of the sensor of a data set, or of what it is a part of."""
    while not hasattr(dataset, "sensor_size") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return getattr(dataset, "sensor_size", None)


def _row_of_events(dataset, size, duration, classes):
    if size is None:
        sensor = _sensor(dataset)
        if sensor is None:
            raise ValueError(
                f"{dataset!r} has no `sensor_size`: give `size`, (height, width) of the sensor."
            )
        size = sensor[1::-1]
    height, width = size = tuple(check_integer("size", side) for side in size)
    units = height == 1
    frames = events.count_frames
    if units:
        frames = functools.partial(recordings.by_time, duration=duration or recordings.WORD)
    elif duration is not None:

        def frames(recording, timesteps, size):
            return events.time_frames(recording, timesteps, size, duration / timesteps, start=0)

    def read(source):
        found, _ = _example(*source)
        names = getattr(getattr(found, "dtype", None), "names", None)
        if units and names and "y" not in names:
            return {name: found[name] for name in names} | {"y": np.zeros(len(found))}
        return found

    return recordings.Row(
        find=None,
        read=recordings.checked(read, size),
        frames=frames,
        size=size,
        classes=classes,
        shift=(height // 10, 40 if units else width // 10),
        variations=("jitter", "drop") if units else ("flip", "jitter", "drop"),
        get="",
    )


def _row_of_frames(dataset, first, classes):
    shape = _in_keras_order(dataset, first).shape

    def read(source):
        frames = _in_keras_order(dataset, _example(*source)[0])
        if frames.shape != shape:
            raise ValueError(
                f"All frames should have the shape {shape} of the first, got {frames.shape} for "
                f"example {source[1]} of {source[0]!r}. ToFrame gives as many of each recording by "
                "n_time_bins or n_event_bins."
            )
        return frames

    return recordings.Row(
        find=None,
        read=read,
        frames=lambda frames, timesteps, size: frames,
        size=shape[1:3] if len(shape) == 4 else (1, shape[1]),
        classes=classes,
        shift=(0, 0),
        variations=(),
        get="",
        nothing=np.zeros(shape),
    )


def _in_keras_order(dataset, example):
    """Frames of tonic's transforms, with polarities last."""
    frames = np.asarray(example)
    sensor = _sensor(dataset)
    if frames.dtype.kind in "biuf":
        if frames.ndim == 4:
            return np.moveaxis(frames, 1, -1).astype("float32")
        if frames.ndim in (2, 3) and (sensor is None or sensor[1] == 1):
            return frames.reshape(len(frames), -1).astype("float32")
    raise TypeError(
        f"Examples of {dataset!r} should be structured arrays of events, or frames (time, "
        f"polarity, height, width) or (time, polarity, units), got an array of {frames.dtype} of "
        f"the shape {frames.shape}."
    )
