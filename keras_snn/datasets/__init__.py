"""Data sets by name, ready for `model.fit`.

`"digits"` is scikit-learn's and needs neither TensorFlow nor a download; `"nmnist"` reads the event
recordings of N-MNIST from its folders; every other name is an image set of TensorFlow Datasets.
"""

import dataclasses
import math
import pathlib
from typing import Any

import keras
import numpy as np

from keras_snn import events

__all__ = ["ArrayBatches", "FileBatches", "ImageDataset", "load"]


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """A data set of labelled images, or of sequences of them.

    Attributes:
        name: Its name.
        train: Shuffled batches `(images, labels)` for `model.fit`; images are float32 in [-1, 1],
            frames of events counts.
        test: Held-out batches, in order.
        input_shape: `(height, width, channels)`, or with time in front.
        classes: Number of classes.
    """

    name: str
    train: Any
    test: Any
    input_shape: tuple
    classes: int
    _epochs: Any = None

    def set_epoch(self, epoch):
        """Makes the next epoch of `train` that with this number: orders depend on it alone.

        Args:
            epoch: Number of the epoch, from 0.
        """
        (self._epochs or self.train).set_epoch(epoch)


class _Epochs:
    """Counts the iterations of a `tf.data.Dataset`."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __call__(self):
        self.epoch += 1
        yield self.epoch - 1


class ArrayBatches(keras.utils.PyDataset):
    """Batches of arrays, on any backend.

    Args:
        images: `(examples, ...)`.
        labels: `(examples,)`.
        batch_size: Examples in a batch; the last may have fewer.
        seed: If given, examples are shuffled, anew for each epoch; the order is a function of the
            seed and the epoch's number. Give `shuffle=False` to `fit`, which would shuffle batches.

    Example:

    >>> batches = ArrayBatches(np.zeros((10, 8, 8, 1)), np.zeros(10), batch_size=4)
    >>> [len(batches[i][0]) for i in range(len(batches))]
    [4, 4, 2]
    """

    def __init__(self, images, labels, batch_size, seed=None):
        super().__init__()
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.seed = seed
        self.set_epoch(0)

    def __len__(self):
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, index):
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.images[chosen], self.labels[chosen]

    def set_epoch(self, epoch):
        """Puts the examples in the order of this epoch."""
        self.epoch, self.order = epoch, np.arange(len(self.images))
        if self.seed is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(self.order)

    def on_epoch_end(self):
        self.set_epoch(self.epoch + 1)


class FileBatches(ArrayBatches):
    """Batches of examples that are read from files when they are asked for, on any backend.

    Args:
        paths: Paths of the files.
        labels: `(examples,)`.
        batch_size: Examples in a batch; the last may have fewer.
        read: A function from a path to an array.
        seed: If given, batches are shuffled, anew for each epoch.

    Example:

    >>> batches = FileBatches(["a", "b"], np.array([0, 1]), 2, lambda path: np.full(3, len(path)))
    >>> batches[0][0].shape
    (2, 3)
    """

    def __init__(self, paths, labels, batch_size, read, seed=None):
        self.read = read
        super().__init__(np.array([str(path) for path in paths]), labels, batch_size, seed)

    def __getitem__(self, index):
        paths, labels = super().__getitem__(index)
        return np.stack([self.read(path) for path in paths]), labels


def load(name, batch_size=64, seed=0, data_dir=None, image_size=None, timesteps=10):
    """A data set by name.

    Args:
        name: `"digits"`, `"nmnist"`, or the name of a TensorFlow Datasets image classification set
            with the splits `train` and `test` (or `validation`), such as `"cifar10"`.
        batch_size: Examples in a batch.
        seed: Seed of the shuffling, and of the split of `"digits"` (a fifth is held out, the same
            share of every class).
        data_dir: Where TensorFlow Datasets keeps its data; by default `TFDS_DATA_DIR` or its own.
            For `"nmnist"` the folder that has `Train` and `Test`, with a folder for each digit.
        image_size: Height and width to resize images to; needed where they differ in size.
        timesteps: Frames of a recording, each with as many events.

    Returns:
        An `ImageDataset`.

    Raises:
        ValueError: If the name is unknown, or the set has no labelled images of a known size.
        FileNotFoundError: If there are no recordings where they should be.
        ImportError: If a package is missing; it says which extra to install.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` should be an integer of at least 1, got {batch_size!r}.")
    if name == "digits":
        return _digits(batch_size, seed, image_size)
    if name == "nmnist":
        return _nmnist(batch_size, seed, data_dir, timesteps)
    return _tfds(name, batch_size, seed, data_dir, image_size)


def _digits(batch_size, seed, image_size):
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            'The data set "digits" needs scikit-learn: pip install "keras-snn[data]"'
        ) from error
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype("float32")
    if image_size is not None:
        resized = keras.ops.image.resize(
            images, (image_size, image_size), data_format="channels_last"
        )
        images = keras.ops.convert_to_numpy(resized)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=seed
    )
    train = ArrayBatches(train_x, train_y, batch_size, seed)
    test = ArrayBatches(test_x, test_y, batch_size)
    return ImageDataset("digits", train, test, images.shape[1:], 10)


def _nmnist(batch_size, seed, data_dir, timesteps):
    if data_dir is None:
        raise ValueError("N-MNIST needs `data_dir`, the folder that has `Train` and `Test`.")
    size = (34, 34)

    def read(path):
        return events.count_frames(events.read_nmnist(path), timesteps, size)

    found = {}
    for split in ("Train", "Test"):
        paths = sorted(pathlib.Path(data_dir, split).glob("[0-9]/*.bin"))
        if not paths:
            raise FileNotFoundError(
                f"There are no recordings {pathlib.Path(data_dir, split)}/0/*.bin to "
                f"{split}/9/*.bin. Get N-MNIST from garrickorchard.com/datasets/n-mnist and unpack "
                "Train.zip and Test.zip there."
            )
        labels = np.array([int(path.parent.name) for path in paths])
        found[split] = FileBatches(
            paths, labels, batch_size, read, seed if split == "Train" else None
        )
    return ImageDataset("nmnist", found["Train"], found["Test"], (timesteps, *size, 2), 10)


def _tfds(name, batch_size, seed, data_dir, image_size):
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"The data set {name!r} is read through TensorFlow Datasets: "
            "pip install tensorflow tensorflow-datasets"
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            f'Unknown data set {name!r}: neither "digits" nor one of TensorFlow Datasets.'
        ) from error
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise ValueError(f"The data set {name!r} has no labelled images, but {list(features)}.")
    shape = tuple(features["image"].shape)
    if image_size is not None:
        shape = (image_size, image_size, shape[-1])
    if None in shape:
        raise ValueError(
            f"Images of the data set {name!r} have the shape {shape}: give `image_size`."
        )
    builder.download_and_prepare()
    held_out = "test" if "test" in builder.info.splits else "validation"

    def prepare(example):
        image = tf.cast(example["image"], tf.float32) / 127.5 - 1.0
        if image_size is not None:
            image = tf.image.resize(image, shape[:2])
        return image, example["label"]

    epochs = _Epochs()

    def batches(split, shuffle):
        data = builder.as_dataset(split=split, shuffle_files=False)
        if shuffle:
            examples = data
            numbers = tf.data.Dataset.from_generator(
                epochs, output_signature=tf.TensorSpec((), tf.int64)
            )
            data = numbers.flat_map(lambda epoch: examples.shuffle(10_000, seed=seed + 1 + epoch))
            data = data.apply(tf.data.experimental.assert_cardinality(len(examples)))
        data = data.map(prepare, tf.data.AUTOTUNE).batch(batch_size)
        return data.prefetch(tf.data.AUTOTUNE)

    return ImageDataset(
        name,
        batches("train", True),
        batches(held_out, False),
        shape,
        features["label"].num_classes,
        epochs,
    )
