"""Data sets by name, ready for `model.fit`.

Images of TensorFlow Datasets are `tf.data` pipelines. Everything else, and Keras's own data sets
where TensorFlow is missing, are batches of arrays for every backend.
"""

import functools
import os
import pathlib
from collections.abc import Sequence

from keras_snn.datasets import hugging_face, images, recordings, speech
from keras_snn.datasets.batches import (
    ArrayBatches,
    Dataset,
    FileBatches,
    of_speakers,
    spaced,
    with_validation,
)
from keras_snn.datasets.preparation import AUGMENTATIONS, NORMALIZATIONS, Preparation
from keras_snn.datasets.series import MackeyGlass, mackey_glass
from keras_snn.datasets.speech import delta_spikes
from keras_snn.datasets.tonic import from_tonic
from keras_snn.utils.arguments import check_integer, check_number

__all__ = [
    "AUGMENTATIONS",
    "NORMALIZATIONS",
    "ArrayBatches",
    "Dataset",
    "FileBatches",
    "MackeyGlass",
    "Preparation",
    "delta_spikes",
    "from_tonic",
    "load",
    "mackey_glass",
]


def load(
    name: str,
    batch_size: int = 64,
    seed: int = 0,
    data_dir: str | os.PathLike | None = None,
    image_size: int | None = None,
    timesteps: int = 10,
    *,
    train_timesteps: int | None = None,
    augmentation: Sequence[str] = (),
    normalization: str = "unit",
    one_hot: bool = False,
    workers: int = 1,
    validation_split: float = 0.0,
    validation_speakers: Sequence[str] = (),
    augmentation_options: dict[str, dict] | None = None,
    masks: bool = False,
) -> Dataset:
    """A data set by name.

    Args:
        name: Images: `"digits"` (scikit-learn's), a file that ends in `.npz` with `x_train`,
            `y_train`, `x_test` and `y_test`, or the name of a TensorFlow Datasets image
            classification set with the splits `train` and `test` (or `validation`), such as
            `"cifar10"`; without TensorFlow `"mnist"`, `"fashion_mnist"`, `"cifar10"` and
            `"cifar100"`, which Keras reads; `"hf://PATH"`, a name on the Hugging Face Hub or a
            folder that `datasets.load_dataset` reads, on every backend, with options such as
            `"hf://uoft-cs/cifar100?label=fine_label"`. Recordings of events: `"nmnist"`,
            `"ncaltech101"`, `"dvs_gesture"`, `"cifar10_dvs"`, `"asl_dvs"`, `"dvs_lip"`, `"ncars"`,
            `"es_imagenet"`, `"shd"`, `"ssc"`. Speech: `"spoken_digits"`
            (`"spoken_digits_jackson"` and those of the other five: this speaker is held out),
            `"speech_commands"`.
        batch_size: Examples in a batch.
        seed: Seed of shuffling and variation, and of the split of `"digits"` (a fifth is held out,
            stratified by class).
        data_dir: Folder of the data. The default for TensorFlow Datasets is `TFDS_DATA_DIR` or its
            own folder; of the Hugging Face Hub it is the folder for copies; for recordings and
            speech give the folder that the data set unpacks to.
        image_size: Height and width to resize images to; required if they differ in size. For
            frames of events it is the height, the sensor's divided by a divisor of both sides; of
            SHD and SSC the number of units, 700 divided by a divisor: neighbours count together.
        timesteps: Frames of a recording, or of a clip of speech.
        train_timesteps: Number of frames that training draws at random; their order is kept.
        augmentation: Names of variations of the training data, in the order to apply them. Images:
            `"shift"`, `"flip"`, `"rand_augment"`, `"rand_augment_pil"`, `"auto_augment"`,
            `"auto_augment_imagenet"`, `"erase"`, `"random_erasing"`, `"cutout"`, `"mix_up"`,
            `"cut_mix"`, `"mix"` (see `Preparation`), and `"resized_crop"` where images differ in
            size. Recordings: `"jitter"`, `"drop"`, of objects and
            lips `"flip"`; then, the same for all frames of a clip (not SHD, SSC), `"shift"`,
            `"erase"`, `"cutout"`, `"mix_up"`, `"cut_mix"`. Speech: `"shift"`, `"noise"`.
        normalization: Mean and deviation to normalise images by, a name in `NORMALIZATIONS`;
            `"unit"` maps them to [-1, 1].
        one_hot: Whether labels are one-hot vectors; mixed labels must be.
        workers: Number of threads that read recordings.
        validation_split: Share of the training examples, from 0 to 0.9, that is held out to
            choose by, as `Dataset.validation`: of images the last ones, of recordings and speech
            evenly spaced ones.
        validation_speakers: In place of a share, the speakers whose training examples are held out
            to choose by: of SHD and SSC as their files number them (`"10"`), of spoken digits by
            name (`"theo"`).
        augmentation_options: Arguments of these variations by name, see `Preparation`. Images only.
        masks: Whether labels are masks for segmentation, class numbers `(height, width)` and 255
            (void) for pixels that do not count: of `"oxford_iiit_pet"` (0 is the pet, 1 what is
            around it, void the border), or of a `.npz` file with masks as `y_train` and `y_test`,
            whose images may be clips of event frames, `(time, height, width, channels)`, which are
            scaled but not normalised.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: If a name is unknown, the set has no labelled images of a known size, or a file
            is damaged (the error names the byte). If masks are not those of the images, or no
            pixel for training is of some class.
        FileNotFoundError: If the data are missing; the error says what to get, and where.
        ImportError: If a package is missing; the error names the extra to install.
    """
    check_integer("batch_size", batch_size)
    check_number("validation_split", validation_split, minimum=0, maximum=0.9)
    if augmentation_options and (name in recordings.RECORDINGS or name in speech.SETS):
        raise ValueError(f"`augmentation_options` are for images, not for the data set {name!r}.")
    speaker = _speaker_of(name)
    if validation_speakers and (validation_split or speaker is None):
        raise ValueError(
            "`validation_speakers` is for SHD, SSC and spoken digits, in place of "
            f"`validation_split`, got the data set {name!r}, validation_split={validation_split}."
        )
    files = None
    if masks and (augmentation or one_hot or not _may_have_masks(name)):
        raise ValueError(
            "`masks=True` is for images of TensorFlow Datasets and .npz files, without variations "
            f"and one-hot labels, got the data set {name!r}, augmentation={list(augmentation)}, "
            f"one_hot={one_hot}."
        )
    if name in recordings.RECORDINGS:
        files = recordings.load(
            name,
            batch_size,
            seed,
            data_dir,
            timesteps,
            train_timesteps,
            augmentation,
            workers,
            one_hot,
            image_size,
        )
    elif name in speech.SETS:
        files = speech.load(name, batch_size, seed, data_dir, timesteps, augmentation, one_hot)
    if files is not None:
        if validation_speakers:
            return with_validation(files, of_speakers(files, validation_speakers, speaker))
        if validation_split:
            return with_validation(files, spaced(files, validation_split))
        return files

    def preparation(names, classes):
        classes = classes if one_hot else None
        return Preparation(1 / 255, normalization, names, classes, augmentation_options)

    hub = str(name).startswith(hugging_face.PREFIX)
    held = None if hub else _in_memory(name, seed, masks)
    if held is None:
        read = hugging_face.load if hub else functools.partial(images.tfds, masks=masks)
        return read(
            name,
            batch_size,
            seed,
            data_dir,
            image_size,
            augmentation,
            preparation,
            validation_split,
        )
    train, test = held
    if train[0].ndim == 5:
        normalization = None
    prepare = preparation(augmentation, images.count_classes(train[1], test[1], masks))
    title = pathlib.Path(name).stem
    return images.arrays(
        title, train, test, batch_size, seed, prepare, image_size, validation_split, masks
    )


def _speaker_of(name):
    """A function from the source of an example to its speaker, if the files of the set tell it."""
    if name in recordings.RECORDINGS:
        return recordings.RECORDINGS[name].speaker
    return speech.speaker if str(name).startswith("spoken_digits") else None


def _may_have_masks(name):
    """Whether a data set is none of recordings, of speech, of the Hub, or of digits."""
    others = {*recordings.RECORDINGS, *speech.SETS, "digits"}
    return name not in others and not str(name).startswith(hugging_face.PREFIX)


def _in_memory(name, seed, masks):
    """Training and held-out images as arrays, or `None` for a set of TensorFlow Datasets."""
    if name == "digits":
        return images.digits(seed)
    if str(name).endswith(".npz"):
        return images.npz(name, masks)
    try:
        import tensorflow  # noqa: F401
        import tensorflow_datasets  # noqa: F401
    except ImportError as error:
        dataset = None if masks else images.keras_dataset(name)
        if dataset is None:
            raise ImportError(
                f"The data set {name!r} is read through TensorFlow Datasets: "
                "pip install tensorflow tensorflow-datasets"
            ) from error
        return dataset
    return None
