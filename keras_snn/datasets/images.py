"""Sets of labelled images: arrays on any backend, or pipelines of TensorFlow Datasets."""

import pathlib

import keras
import numpy as np

from keras_snn.datasets.batches import ArrayBatches, Dataset, batch_seed

__all__ = ["arrays", "digits", "keras_dataset", "npz", "tfds"]

# A variation of single images before batching, for data sets with images of different sizes.
RESIZED_CROP = "resized_crop"
# The label of pixels whose class nobody knows.
VOID = 255
# Masks of TensorFlow Datasets: the feature, and what its values are: classes, or void.
MASKS = {"oxford_iiit_pet": ("segmentation_mask", (VOID, 0, 1, VOID))}


def arrays(
    name,
    train,
    test,
    batch_size,
    seed,
    prepare,
    image_size=None,
    validation_split=0.0,
    masks=False,
):
    """A data set of arrays.

    Args:
        name: Its name.
        train: `(images, labels)`.
        test: `(images, labels)`.
        batch_size: Images in a batch.
        seed: Seed of the shuffling.
        prepare: A `Preparation`.
        image_size: Height and width to resize images to, if any, with antialiasing as in
            torchvision; integer images stay integers, rounded.
        validation_split: Share of the training images, the last ones, that is held out.
        masks: Whether labels are masks.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: If images for training and held out differ in shape, or no pixel for training
            is of some class.
    """
    (train_x, train_y), (test_x, test_y) = (
        _resized(*part, image_size, masks) for part in (train, test)
    )
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(
            f"The data set {name!r} should have images of one shape, got {train_x.shape[1:]} for "
            f"training and {test_x.shape[1:]} held out."
        )
    count, validation = len(train_x), None
    if validation_split:
        count = kept(count, validation_split)
        validation = ArrayBatches(train_x[count:], train_y[count:], batch_size, prepare=prepare)
    return Dataset(
        name,
        ArrayBatches(train_x[:count], train_y[:count], batch_size, seed, prepare),
        ArrayBatches(test_x, test_y, batch_size, prepare=prepare),
        tuple(train_x.shape[1:]),
        count_classes(train_y, test_y, masks),
        validation,
    )


def count_classes(train, test, masks=False):
    """The number of classes of labels; of masks, of those that are not void.

    Raises a `ValueError` if no pixel for training is of some class.
    """
    if not masks:
        return int(max(train.max(), test.max())) + 1
    found, others = (set(np.unique(part).tolist()) - {VOID} for part in (train, test))
    missing = sorted(set(range(max(found | others, default=-1) + 1)) - found)
    if missing or not found:
        raise ValueError(
            f"The masks should have pixels of every class from 0 on, got none of {missing or 'any'}"
            f" for training (void is {VOID})."
        )
    return len(found)


def kept(count, validation_split):
    """How many images are left to train on; at least one is held out."""
    return count - max(int(validation_split * count), 1)


def _resized(images, labels, size, masks=False):
    images = images[..., None] if images.ndim == 3 else images
    if size is not None and images.ndim == 5:
        raise ValueError(f"`image_size` is for images, not for clips of the shape {images.shape}.")
    if size is not None and images.shape[1:3] != (size, size):
        if masks:  # the nearest pixels
            rows, columns = ((np.arange(size) + 0.5) * n // size for n in images.shape[1:3])
            labels = labels[:, rows.astype(int)][:, :, columns.astype(int)]
        images = np.concatenate(
            [_resized_part(part, size) for part in np.array_split(images, -(-len(images) // 1000))]
        )
    if keras.config.image_data_format() == "channels_first":
        images = np.moveaxis(images, -1, -3)
    labels = np.asarray(labels)
    return images, labels if masks else labels.reshape(-1).astype("int64")


def _resized_part(images, size):
    resized = keras.ops.convert_to_numpy(
        keras.ops.image.resize(
            images.astype("float32"), (size, size), antialias=True, data_format="channels_last"
        )
    )
    return (resized if images.dtype.kind == "f" else np.round(resized)).astype(images.dtype)


def digits(seed):
    """Scikit-learn's 1,797 digits of 8x8 pixels, from 0 to 255; a fifth is held out.

    Args:
        seed: Seed of the split.

    Returns:
        `(images, labels), (images, labels)`, for training and held out.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            'The data set "digits" needs scikit-learn: pip install "keras-snn[data]"'
        ) from error
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) * (255 / 16)).astype("float32")
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=seed
    )
    return (train_x, train_y), (test_x, test_y)


def npz(path, masks=False):
    """Images from a file like that of `keras.datasets.mnist`: `x_train`, `y_train`, `x_test`, ...

    Args:
        path: A `.npz` file; images are `(examples, height, width[, channels])`, from 0 to 255;
            labels are class numbers, `(examples,)` or `(examples, 1)`.
        masks: Whether labels are masks instead, `(examples, height, width)`; the images may be
            clips then, `(examples, time, height, width, channels)`.

    Returns:
        `(images, labels), (images, labels)`, for training and held out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, lacks an array, or an array is not of images or labels.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            if size > DEFLATION * path.stat().st_size:
                raise ValueError(f"it says that it unpacks to {size} bytes")
            missing = [name for name in names if name not in file.files]
            arrays = [] if missing else [file[name] for name in names]
    except Exception as error:  # zipfile's, zlib's, numpy's
        raise ValueError(f"{path} is no .npz file, or is damaged: {error}") from error
    if missing:
        raise ValueError(f"{path} should have the arrays {names}; it lacks {missing}.")
    for part in (0, 2):
        if arrays[part].shape[:1] != arrays[part + 1].shape[:1]:
            raise ValueError(
                f"{path}: {names[part]} should be (examples, height, width[, channels]) with as "
                f"many {names[part + 1]}, got {arrays[part].shape} and {arrays[part + 1].shape}."
            )
        try:
            _check_images(names[part], arrays[part], clips=masks)
            name, labels, shape = names[part + 1], arrays[part + 1], arrays[part].shape
            arrays[part + 1] = (
                _mask_numbers(name, labels, shape)
                if masks
                else class_numbers(name, labels, shape[0])
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return tuple(arrays[:2]), tuple(arrays[2:])


# The highest compression ratio of DEFLATE.
DEFLATION = 1032


def _check_images(name, images, clips=False):
    ranks = (3, 4, 5) if clips else (3, 4)
    if images.ndim not in ranks or not images.size or images.dtype.kind not in "uif":
        raise ValueError(
            f"{name} should be images (examples, height, width[, channels]), got an array of "
            f"{images.dtype} of the shape {images.shape}."
        )
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise ValueError(f"{name} should have channels last, got the shape {images.shape}.")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 255) or 0 < high <= 1:
        raise ValueError(f"{name} should have values from 0 to 255, got {low} to {high}.")


def _is_whole(labels):
    """Whether an array has integers, of whatever dtype."""
    return labels.dtype.kind in "ui" or (
        labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all())
    )


def _mask_numbers(name, masks, shape):
    """Masks as bytes, if they have a class number or void for each pixel of images."""
    sides = shape[1:3] if len(shape) < 5 else shape[2:4]
    wanted = (shape[0], *sides)
    if masks.shape not in (wanted, (*wanted, 1)) or not _is_whole(masks):
        raise ValueError(
            f"{name} should be masks of class numbers, of the shape {wanted}, for images of the "
            f"shape {shape}, got an array of {masks.dtype} of the shape {masks.shape}."
        )
    if masks.min() < 0 or masks.max() > VOID:
        raise ValueError(
            f"{name} should have class numbers from 0 and {VOID} for void, got {masks.min()} to "
            f"{masks.max()}."
        )
    return masks.reshape(wanted).astype("uint8")


def class_numbers(name, labels, count):
    """Labels as integers, if they are class numbers of so many images."""
    if labels.shape not in ((count,), (count, 1)) or not _is_whole(labels):
        raise ValueError(
            f"{name} should be class numbers, one for each of {count} images, got an array of "
            f"{labels.dtype} of the shape {labels.shape}, {labels.flat[:4].tolist()}."
        )
    if labels.min() < 0 or labels.max() >= 2**31:
        raise ValueError(
            f"{name} should be class numbers from 0, got {labels.min()} to {labels.max()}."
        )
    return labels.reshape(-1).astype("int64")


def keras_dataset(name):
    """One of Keras's own data sets, which Keras downloads if need be.

    Args:
        name: `"mnist"`, `"fashion_mnist"`, `"cifar10"` or `"cifar100"`.

    Returns:
        `(images, labels), (images, labels)`, or `None` for any other name.
    """
    known = ("mnist", "fashion_mnist", "cifar10", "cifar100")
    return getattr(keras.datasets, name).load_data() if name in known else None


class _Epochs:
    """Counts the iterations of a `tf.data.Dataset`."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __call__(self):
        self.epoch += 1
        yield self.epoch - 1


def tfds(
    name,
    batch_size,
    seed,
    data_dir,
    image_size,
    augmentation,
    make_preparation,
    validation_split=0.0,
    masks=False,
):
    """An image classification set of TensorFlow Datasets, as pipelines of `tf.data`.

    Images of different sizes are resized to `image_size`: the shorter side to 8/7 of it, then the
    centre is cropped. In training `"resized_crop"` crops a random part instead.

    Args:
        name: Its name there.
        batch_size: Images in a batch.
        seed: Seed of shuffling and variation.
        data_dir: Folder of the data; the default is `TFDS_DATA_DIR` or its own.
        image_size: Height and width to resize images to.
        augmentation: Names of variations.
        make_preparation: A function of names of variations and the number of classes that makes a
            `Preparation`.
        validation_split: Share of the training images, the last ones, that is held out.
        masks: Whether labels are masks, of one of the sets in `MASKS`.

    Returns:
        A `Dataset`.
    """
    import tensorflow as tf
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir)
    except (tensorflow_datasets.core.registered.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            f"Unknown data set {name!r}: neither one of keras_snn nor of TensorFlow Datasets, nor "
            "a .npz file."
        ) from error
    features = builder.info.features
    label, values = MASKS.get(builder.name, (None, None)) if masks else ("label", None)
    if label is None:
        raise ValueError(
            f"The masks of {name!r} are not known. With `masks=True` the data set should be one of "
            f"{list(MASKS)} or a .npz file."
        )
    if not {"image", label} <= set(features):
        raise ValueError(f"The data set {name!r} has no labelled images, but {list(features)}.")
    shape = tuple(features["image"].shape)
    varies = None in shape
    if image_size is not None:
        shape = (image_size, image_size, shape[-1])
    if None in shape:
        raise ValueError(
            f"Images of the data set {name!r} have the shape {shape}: give `image_size`."
        )
    if RESIZED_CROP in augmentation and not varies:
        raise ValueError(f"{RESIZED_CROP!r} is for data sets whose images differ in size.")
    others = [variation for variation in augmentation if variation != RESIZED_CROP]
    classes = len(set(values) - {VOID}) if masks else features["label"].num_classes
    prepare = make_preparation(others, classes)
    try:
        builder.download_and_prepare()
    except Exception as error:  # of downloads, archives, folders that a user has to fill
        raise FileNotFoundError(f"{name} is not in {builder.data_dir}: {error}") from error
    epochs = _Epochs()
    channels_first = keras.config.image_data_format() == "channels_first"

    def in_order_of(epoch):
        tf.random.set_seed(1)  # the graph's seed; with 0 `shuffle` takes no tensor
        shuffled = examples.shuffle(SHUFFLED, seed=seed + 1 + epoch).enumerate()
        return shuffled.map(lambda number, example: (epoch, number, example))

    def sized(image, number):
        """An image of the right size; `number` is its epoch and index in training, else `None`."""
        if image_size is None:
            return image
        if number is not None and RESIZED_CROP in augmentation:
            begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
                tf.shape(image),
                tf.zeros((0, 0, 4)),
                tf.stack([seed * 7919 + number[0], number[1]]),
                area_range=(0.08, 1.0),
                aspect_ratio_range=(3 / 4, 4 / 3),
                use_image_if_no_bounding_boxes=True,
            )
            image = tf.slice(image, begin, size)
        elif varies:
            image = _central(tf, image, image_size)
        return tf.image.resize(image, shape[:2], antialias=True)

    def ordered(image):
        image = tf.ensure_shape(image, shape)
        return tf.transpose(image, (2, 0, 1)) if channels_first else image

    def labelled(example):
        if not masks:
            return example["label"]
        mask = _central(tf, example[label], image_size) if varies else example[label]
        if image_size is not None:
            mask = tf.image.resize(mask, shape[:2], "nearest")
        known = tf.constant([*values, *[VOID] * (256 - len(values))], "uint8")
        return tf.gather(known, tf.cast(mask[..., 0], "int32"))

    def training(epoch, number, example):
        image = ordered(sized(example["image"], (epoch, number)))
        return image, labelled(example), epoch, number

    def held_out(example):
        return ordered(sized(example["image"], None)), labelled(example)

    def prepare_training(images, labels, epoch, number):
        return prepare(images, labels, batch_seed(seed, epoch[0], number[0] // batch_size))

    def in_batches(examples):
        batches = examples.map(held_out, tf.data.AUTOTUNE).batch(batch_size)
        return batches.map(prepare, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    examples, validation = builder.as_dataset(split="train", shuffle_files=False), None
    if validation_split:
        count = kept(len(examples), validation_split)
        examples, validation = examples.take(count), in_batches(examples.skip(count))
    numbers = tf.data.Dataset.from_generator(epochs, output_signature=tf.TensorSpec((), tf.int64))
    train = numbers.flat_map(in_order_of)
    train = train.apply(tf.data.experimental.assert_cardinality(len(examples)))
    train = train.map(training, tf.data.AUTOTUNE).batch(batch_size)
    train = train.map(prepare_training, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    split = "test" if "test" in builder.info.splits else "validation"
    test = in_batches(builder.as_dataset(split=split, shuffle_files=False))
    shape = (shape[2], *shape[:2]) if channels_first else shape
    return Dataset(name, train, test, shape, classes, validation, epochs)


# Size of the shuffle buffer, in examples.
SHUFFLED = 10_000


def _central(tf, image, size):
    """The centre of an image: 7/8 of its shorter side, both ways."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width) * 7 // 8
    return tf.image.crop_to_bounding_box(
        image, (height - side) // 2, (width - side) // 2, side, side
    )
