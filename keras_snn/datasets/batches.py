"""Batches for `model.fit` on any backend.

Order and variation depend only on the seed and the epoch, so that interrupted training can be
resumed exactly; see `keras_snn.callbacks.Resume`.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

__all__ = ["ArrayBatches", "Dataset", "FileBatches", "of_speakers", "spaced", "with_validation"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set with labels, ready for `model.fit`.

    Attributes:
        name: Its name.
        train: Shuffled batches `(examples, labels)`.
        test: Held-out batches, in order.
        input_shape: Shape of an example: `(height, width, channels)`, or with time in front.
        classes: Number of classes.
        validation: Batches of the examples that `validation_split` or `validation_speakers` takes
            from the training data, in order, if any.
    """

    name: str
    train: Any
    test: Any
    input_shape: tuple[int | None, ...]
    classes: int
    validation: Any = None
    _epochs: Any = None

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the next epoch of `train`, which determines its order.

        Args:
            epoch: Number of the epoch, from 0.
        """
        (self._epochs or self.train).set_epoch(epoch)


class ArrayBatches(keras.utils.PyDataset):
    """Batches of arrays, on any backend.

    Args:
        examples: `(examples, ...)`.
        labels: `(examples,)`.
        batch_size: Examples in a batch; the last may have fewer.
        seed: If given, examples are shuffled, differently in each epoch; the order depends only on
            the seed and the epoch. Give `shuffle=False` to `fit`, which would shuffle batches.
        prepare: A function applied to each batch, such as a `Preparation`. It takes examples,
            labels and a seed: three integers, the last one the epoch, or `None` if batches are not
            shuffled.
        **kwargs: Those of `keras.utils.PyDataset` (`workers`, `max_queue_size`, ...).

    Example:

    >>> batches = ArrayBatches(np.zeros((10, 8, 8, 1)), np.zeros(10), batch_size=4)
    >>> [len(batches[i][0]) for i in range(len(batches))]
    [4, 4, 2]
    """

    def __init__(
        self,
        examples: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        prepare: Callable | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.examples, self.labels, self.batch_size = examples, labels, batch_size
        self.seed, self.prepare = seed, prepare
        self.set_epoch(0)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        examples, labels = self.read_examples(chosen), self.labels[chosen]
        if self.prepare is None:
            return examples, labels
        seed = None if self.seed is None else batch_seed(self.seed, self.epoch, index)
        return self.prepare(examples, labels, seed)

    def read_examples(self, chosen: np.ndarray) -> np.ndarray:
        """The examples with the indices `chosen`, as one array."""
        return self.examples[chosen]

    def set_epoch(self, epoch: int) -> None:
        """Puts the examples in the order of this epoch."""
        self.epoch, self.order = epoch, np.arange(len(self.labels))
        if self.seed is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(self.order)

    def on_epoch_end(self):
        self.set_epoch(self.epoch + 1)


class FileBatches(ArrayBatches):
    """Batches of examples that are read on demand, from files for example, on any backend.

    Args:
        sources: What to read each example from: paths, or anything else that `read` takes.
        labels: `(examples,)`.
        batch_size: Examples in a batch; the last may have fewer.
        read: A function from a source to an example.
        seed: If given, examples are shuffled, differently in each epoch.
        vary: If given, a function from an example and a `numpy.random.Generator` to an array,
            applied to all examples; the generator depends only on seed, epoch and example.
        prepare: A function applied to each batch, see `ArrayBatches`.
        keep: Bytes of examples to cache in memory; the others are read each time.
        **kwargs: Those of `keras.utils.PyDataset`; `workers` is the number of threads that read.

    Example:

    >>> batches = FileBatches(["a", "b"], np.array([0, 1]), 2, lambda path: np.full(3, len(path)))
    >>> batches[0][0].shape
    (2, 3)
    """

    def __init__(
        self,
        sources: Iterable,
        labels: np.ndarray,
        batch_size: int,
        read: Callable[[Any], Any],
        seed: int | None = None,
        vary: Callable[[Any, np.random.Generator], np.ndarray] | None = None,
        prepare: Callable | None = None,
        keep: int = 0,
        **kwargs: Any,
    ):
        self.read, self.vary = read, vary
        self._kept, self._room = {}, keep
        super().__init__(list(sources), np.asarray(labels), batch_size, seed, prepare, **kwargs)

    def read_examples(self, chosen):
        return np.stack([self._example(index) for index in chosen])

    def of(self, sources, labels):
        """Batches like these, of other examples.

        Args:
            sources: What to read each example from.
            labels: `(examples,)`.

        Returns:
            A `FileBatches` that has read nothing yet.
        """
        batches = copy.copy(self)
        batches._kept, batches._room = {}, self._room + sum(x.nbytes for x in self._kept.values())
        batches.examples, batches.labels = list(sources), np.asarray(labels)
        batches.set_epoch(0)
        return batches

    def _example(self, index):
        example = self._kept.get(index)
        if example is None:
            example = self.read(self.examples[index])
            size = getattr(example, "nbytes", math.inf)
            if size <= self._room:  # threads may both read an example, and count it twice
                self._kept[index], self._room = example, self._room - size
        if self.vary is None:
            return example
        generator = np.random.default_rng((self.seed or 0, self.epoch, int(index)))
        return self.vary(example, generator)


def spaced(data, share):
    """Indices of training examples that are evenly spaced in their order.

    That order is of classes, speakers or dates: all of them are taken, and all are left.

    Args:
        data: A `Dataset` of `FileBatches`.
        share: Share of the training examples, above 0; at least one is taken.
    """
    total = len(data.train.examples)
    count = max(int(share * total), 1)
    return ((np.arange(count) + 0.5) * total / count).astype(int)


def of_speakers(data, speakers, speaker):
    """Indices of the training examples of some speakers.

    Args:
        data: A `Dataset` of `FileBatches`.
        speakers: Their names.
        speaker: A function from a source to the name of its speaker.

    Raises:
        ValueError: If no training example is of one of them, or all are of them.
    """
    found = np.array([speaker(source) for source in data.train.examples])
    wanted, there = {*map(str, speakers)}, {*found.tolist()}
    if wanted - there or wanted == there:
        raise ValueError(
            f"`validation_speakers` should be some of the speakers that {data.name!r} trains with, "
            f"{sorted(there)}, got {list(speakers)}."
        )
    return np.flatnonzero(np.isin(found, [*wanted]))


def with_validation(data, taken):
    """Takes examples for validation from the training data.

    Args:
        data: A `Dataset` of `FileBatches`.
        taken: Indices of training examples.

    Returns:
        A `Dataset` like `data`, whose validation examples are read as those of `test`: without
        variation.
    """
    sources, labels = data.train.examples, data.train.labels
    left = np.delete(np.arange(len(sources)), taken)
    train, validation = (
        batches.of([sources[i] for i in part], labels[part])
        for batches, part in ((data.train, left), (data.test, taken))
    )
    return dataclasses.replace(data, train=train, validation=validation)


# Most draws in a batch: batches use consecutive ranges of this many numbers.
DRAWS = 1 << 10


def batch_seed(seed, epoch, index):
    """The seed of a batch, two numbers and its epoch, which may be tensors."""
    return seed * 7919 + epoch, index * DRAWS, epoch
