"""Sets of labelled images of the Hugging Face Hub, or in a folder, through the package `datasets`.

Images are decoded on demand, on any backend.
"""

import urllib.parse

import keras
import numpy as np

from keras_snn.datasets.batches import Dataset, FileBatches
from keras_snn.datasets.images import class_numbers, kept

__all__ = ["PREFIX", "load"]

PREFIX = "hf://"
OPTIONS = ("config", "image", "label")
# Bytes of decoded images that stay in memory, for training and held out each.
KEPT = 1 << 28
# How many images are looked at to find their colours, and whether they differ in size.
PROBES = 32


def load(
    name,
    batch_size,
    seed,
    data_dir,
    image_size,
    augmentation,
    make_preparation,
    validation_split=0.0,
):
    """An image classification set of the Hugging Face Hub, or of a folder.

    Images that differ in size are cropped to the centre, 7/8 of the shorter side, and resized to
    `image_size`; all others are resized only.

    Args:
        name: `"hf://"` and a name on the Hub, such as `"hf://ylecun/mnist"`, or a folder of images,
            of Parquet or other files that `datasets.load_dataset` reads; then, if need be, a
            configuration and the columns of images and labels:
            `"hf://uoft-cs/cifar100?label=fine_label"`, `"?config=NAME&image=COLUMN"`.
        batch_size: Images in a batch.
        seed: Seed of shuffling and variation.
        data_dir: Folder that `datasets` keeps its copy in; the default is its own.
        image_size: Height and width to resize images to.
        augmentation: Names of variations.
        make_preparation: A function of names of variations and the number of classes that makes a
            `Preparation`.
        validation_split: Share of the training images, the last ones, that is held out.

    Returns:
        A `Dataset`. Held out is the split `test`, or `validation` if there is no labelled `test`.

    Raises:
        FileNotFoundError: If there is no such data set.
        ValueError: If it is damaged, lacks a configuration, a split or a column, its labels are no
            class numbers, or (also while batches are read) images are damaged or differ in size.
        ImportError: If the extra `hf` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f'{name!r} is read by the package datasets: pip install "keras-snn[hf]"'
        ) from error
    path, options = _address(name)
    try:
        splits = datasets.load_dataset(path, options.get("config"), cache_dir=data_dir)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no data set {path!r} on the Hugging Face Hub, and no folder of that name "
            f"with data: {error}"
        ) from error
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        raise ValueError(
            f"The data set {path!r} can't be read: {error.__cause__ or error}"
        ) from error
    if "train" not in splits:
        raise ValueError(f"The data set {path!r} has no split train, but {list(splits)}.")
    features = splits["train"].features
    image = _column(path, features, "image", options, lambda kind: isinstance(kind, datasets.Image))
    label = _column(path, features, "label", options, _is_label)
    train, test = ((split, _labels(split, label)) for split in _train_and_test(path, splits, label))
    probes = [train[0][index][image] for index in range(min(PROBES, len(train[0])))]
    mode = "L" if all(probe.mode in ("1", "L") for probe in probes) else "RGB"
    varies = len({probe.size for probe in probes}) > 1
    if varies and image_size is None:
        raise ValueError(f"Images of the data set {path!r} differ in size: give `image_size`.")

    def pixels(picture):
        picture = picture.convert(mode)
        if image_size is not None and picture.size != (image_size, image_size):
            side = min(picture.size) * 7 // 8
            left, top = ((length - side) // 2 for length in picture.size)
            box = (left, top, left + side, top + side) if varies else None
            picture = picture.resize((image_size, image_size), BILINEAR, box)
        found = np.asarray(picture).reshape(picture.height, picture.width, -1)
        first = keras.config.image_data_format() == "channels_first"
        return np.moveaxis(found, -1, 0) if first else found

    shape = pixels(probes[0]).shape

    def read(source):
        split, index = source
        try:
            found = pixels(split[index][image])
        except Exception as error:  # Pillow's
            raise ValueError(
                f"Image {index} of the data set {path!r} is damaged: {error}"
            ) from error
        if found.shape != shape:
            raise ValueError(
                f"Image {index} of the data set {path!r} has the shape {found.shape}, the first "
                f"has {shape}: give `image_size`."
            )
        return found

    classes = getattr(features[label], "num_classes", 0)
    classes = max(classes, *(int(labels.max()) + 1 for _, labels in (train, test)))
    count = kept(len(train[1]), validation_split) if validation_split else len(train[1])

    def batches(part, begin=0, end=None, seed=None, augmentation=()):
        split, labels = part
        sources = [(split, index) for index in range(len(labels))[begin:end]]
        prepare = make_preparation(augmentation, classes)
        return FileBatches(
            sources, labels[begin:end], batch_size, read, seed, prepare=prepare, keep=KEPT
        )

    return Dataset(
        path.rstrip("/").rpartition("/")[-1],
        batches(train, 0, count, seed, augmentation),
        batches(test),
        shape,
        classes,
        batches(train, count) if validation_split else None,
    )


# `PIL.Image.Resampling.BILINEAR`, which averages where it shrinks.
BILINEAR = 2


def _address(name):
    """The path in a name, and its options."""
    path, _, query = str(name).removeprefix(PREFIX).partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if not path or set(options) - set(OPTIONS):
        raise ValueError(
            f"Received an invalid value for argument `name`, expected {PREFIX}PATH with any of the "
            f"options {OPTIONS}, such as {PREFIX}PATH?label=COLUMN, got {name!r}."
        )
    return path, options


def _is_label(feature):
    """Whether a column has class numbers."""
    return hasattr(feature, "num_classes") or str(getattr(feature, "dtype", "")).startswith("int")


def _column(path, features, option, options, fits):
    """The name of the column of images, or of labels."""
    found = [name for name, feature in features.items() if fits(feature)]
    wanted = options.get(option, option if option in found or len(found) != 1 else found[0])
    if wanted not in found:
        raise ValueError(
            f"The data set {path!r} has no column {wanted!r} of {option}s, but {list(features)}; "
            f"give one of {found} as {PREFIX}{path}?{option}=COLUMN."
        )
    return wanted


def _labels(split, column):
    return np.asarray(split.select_columns(column).with_format("numpy")[:][column])


def _train_and_test(path, splits, label):
    """The split to train with, and the held-out one: a `test` without labels has only -1."""
    for name in ("test", "validation"):
        if name in splits and not (_labels(splits[name], label) == -1).all():
            for part in ("train", name):
                labels = _labels(splits[part], label)
                try:
                    class_numbers(label, labels, len(splits[part]))
                except ValueError as error:
                    raise ValueError(f"The data set {path!r}, split {part}: {error}") from error
            return splits["train"], splits[name]
    raise ValueError(
        f"The data set {path!r} has no labelled split test or validation, but {list(splits)}."
    )
