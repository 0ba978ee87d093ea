"""Preparation of images for a network: scaled, varied in training, normalised.

It uses Keras layers and NumPy functions, which run in a `tf.data` pipeline and on arrays of any
backend.
"""

import copy
import functools
import inspect
import sys
import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from keras_snn import graph
from keras_snn.datasets.augmentation import (
    auto_augment,
    cutout,
    mix,
    rand_augment,
    random_erasing,
)
from keras_snn.utils.arguments import check_choice, check_integer

__all__ = ["AUGMENTATIONS", "NORMALIZATIONS", "Preparation"]

# Mean and standard deviation of each channel of the training images, scaled to [0, 1].
NORMALIZATIONS = {
    "unit": ((0.5,), (0.5,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    # The deviation of all pixels, of which the one above is the mean of the images'.
    "cifar10_pixels": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

# Moves by up to 4 of 32 pixels, like padding by 4 and a random crop, separately for each image.
SHIFT = 4 / 32


def _in_pipeline(value):
    """Whether this is a symbolic tensor, as in a `tf.data` pipeline."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and tf.is_symbolic_tensor(value)


class _RandAugment(layers.RandAugment):
    """Computes only the drawn operations; Keras computes all and selects.

    On PyTorch some of Keras's operations write to their inputs, images and drawn values, which
    would change the images of operations that were not drawn.
    """

    def transform_images(self, images, transformation, training=True):
        drawn = transformation["layer_idxes"]
        if _in_pipeline(drawn):
            return super().transform_images(images, transformation, training)
        values = list(transformation["transforms"].items())
        for number in ops.convert_to_numpy(drawn):
            name, value = values[number]
            images = getattr(self, name).transform_images(images, copy.deepcopy(value))
        return images


class _ArrayVariation:
    """A function of `(images, fill, generator)`, see `augmentation`, in place of a layer."""

    def __init__(self, vary, dtype, **options):
        inspect.signature(vary).bind_partial(**options)
        self.vary, self.dtype = functools.partial(vary, **options), dtype

    def __call__(self, images, fill, seed):
        """Varies images at random; `fill` has a number for each channel, or one."""

        def run(images, seed):
            images = _channels_last(images)
            colour = np.resize(fill, images.shape[-1])
            varied = self.vary(images, colour, _generator(seed)).astype(self.dtype)
            return _channels_last(varied, back=True)

        return _on_arrays(run, [self.dtype], images, seed=seed)


class _ArrayMixing(_ArrayVariation):
    """The same of a function of `(images, labels, generator)`, of which there is one.

    Args:
        dtype: Dtype of images and labels.
        until: The epoch, counted from 0, from which on nothing is mixed.
        **options: Arguments of the function.
    """

    def __init__(self, dtype, until=None, **options):
        super().__init__(mix, dtype, **options)
        self.until = None if until is None else check_integer("until", until, minimum=0)

    def __call__(self, images, labels, seed, epoch):
        """Mixes images and labels at random; of an unknown epoch, -1, too."""

        def run(images, labels, seed, epoch):
            if self.until is not None and epoch >= self.until:
                return images.astype(self.dtype), labels.astype(self.dtype)
            images, labels = self.vary(_channels_last(images), labels, _generator(seed))
            return _channels_last(images, back=True).astype(self.dtype), labels.astype(self.dtype)

        return _on_arrays(run, [self.dtype] * 2, images, labels, seed=(seed, epoch))


def _channels_last(images, back=False):
    """Arrays with channels last, and back, where Keras has them first."""
    if keras.config.image_data_format() == "channels_last":
        return images
    return np.moveaxis(images, *((-1, 1) if back else (1, -1)))


def _generator(seed):
    return np.random.default_rng(seed.astype("int64") % 2**31)


def _on_arrays(function, dtypes, *tensors, seed):
    """What a function of arrays gives for tensors, of the same shapes, and for seeds."""
    seeds = seed if isinstance(seed, tuple) else (seed,)
    if not _in_pipeline(tensors[0]):
        found = function(*map(ops.convert_to_numpy, (*tensors, *seeds)))
        return tree.map_structure(ops.convert_to_tensor, found)
    import tensorflow as tf

    found = tf.numpy_function(function, [*tensors, *seeds], dtypes)
    found = [tf.ensure_shape(y, x.shape) for y, x in zip(found, tensors)]
    return found[0] if len(found) == 1 else tuple(found)


# Variations by name, for values from 0 to 1.
AUGMENTATIONS = {
    "shift": functools.partial(
        layers.RandomTranslation, SHIFT, SHIFT, fill_mode="constant", interpolation="nearest"
    ),
    "flip": functools.partial(layers.RandomFlip, "horizontal"),
    "rand_augment": functools.partial(_RandAugment, value_range=(0, 1)),
    "rand_augment_pil": functools.partial(_ArrayVariation, rand_augment),
    "auto_augment": functools.partial(_ArrayVariation, auto_augment),
    "auto_augment_imagenet": functools.partial(
        _ArrayVariation, functools.partial(auto_augment, policy="imagenet")
    ),
    "cutout": functools.partial(_ArrayVariation, cutout),
    "erase": functools.partial(
        layers.RandomErasing, scale=(0.02, 0.2), fill_value=0.0, value_range=(0, 1)
    ),
    "random_erasing": functools.partial(_ArrayVariation, random_erasing),
    "mix_up": functools.partial(layers.MixUp, alpha=0.2),
    "cut_mix": layers.CutMix,
    "mix": _ArrayMixing,
}
MIXING = ("mix_up", "cut_mix", "mix")
RGB = ("rand_augment", "rand_augment_pil", "auto_augment", "auto_augment_imagenet")
FLOAT = {"dtype": "float32"}  # whatever the policy of the network


class Preparation:
    """Prepares batches of images, or of clips of frames, and their labels.

    Values are scaled, varied in training, and normalised. All frames of a clip are varied alike.

    Args:
        scale: Factor that maps values to [0, 1], such as 1 / 255, or `None`.
        normalization: A name in `NORMALIZATIONS`, or `None`.
        augmentation: Names in `AUGMENTATIONS`, in the order to apply them: `"shift"` (like a
            padding by 4 of 32 pixels and a random crop), `"flip"`, `"rand_augment"` (Keras's, the
            same for a batch), `"rand_augment_pil"` (timm's, drawn for each image), `"auto_augment"`
            (the policy for CIFAR-10; Cubuk et al., 2019), `"auto_augment_imagenet"` (that for
            ImageNet), `"erase"` (Keras's), `"random_erasing"` (timm's, a quarter of the images),
            `"cutout"` (a square of half the height; DeVries & Taylor, 2017), `"mix_up"`,
            `"cut_mix"` (Keras's), `"mix"` (timm's, one of them for a batch). Those with `augment`
            need images of three channels. All but Keras's fill with the mean of `normalization`.
        classes: Number of classes, to make labels one-hot vectors; what mixes labels needs it.
        options: Arguments of these variations by name, such as `{"mix": {"mix_up": 0.5,
            "cut_mix": 0.5, "until": 200}}`: those of the layers of Keras, and of
            `keras_snn.datasets.augmentation`. With `until`, `"mix"` stops at this epoch.

    Call arguments:
        examples: `(batch, height, width, channels)` or `(batch, time, height, width, channels)`.
        labels: `(batch,)`.
        seed: Two integers, and the epoch if it is known, or `None` for no variation.

    Returns:
        `(examples, labels)`: arrays, or TensorFlow's tensors in a `tf.data` pipeline.

    Raises:
        ValueError: If a name is unknown, a variation does not take its options, or it mixes labels
            that are not one-hot.

    Example:

    >>> prepare = Preparation(1 / 255, "unit", ["flip"])
    >>> images, labels = prepare(np.full((2, 4, 4, 1), 255, "uint8"), np.zeros(2), seed=(0, 0))
    >>> images.shape, float(images.max())
    ((2, 4, 4, 1), 1.0)
    """

    def __init__(
        self,
        scale: float | None = 1 / 255,
        normalization: str | None = "unit",
        augmentation: Sequence[str] = (),
        classes: int | None = None,
        options: dict[str, dict] | None = None,
    ):
        for name in options or {}:
            check_choice("options", name, tuple(augmentation))
        for name in augmentation:
            check_choice("augmentation", name, AUGMENTATIONS)
            if name in MIXING and classes is None:
                raise ValueError(f"augmentation={name!r} mixes labels, which must be one-hot.")
        self.names = tuple(augmentation)
        self.scale = layers.Rescaling(1.0 if scale is None else scale, **FLOAT)
        self.normalization = self.encoding = None
        self.fill = (0.0,)
        if normalization is not None:
            check_choice("normalization", normalization, NORMALIZATIONS)
            mean, std = map(np.array, NORMALIZATIONS[normalization])
            self.fill = mean
            self.normalization = layers.Rescaling(1 / std, -mean / std, **FLOAT)
        if classes is not None:
            self.encoding = layers.CategoryEncoding(classes, output_mode="one_hot", **FLOAT)
        self.seeds = _Seeds()
        self.augmentation = [_made(name, (options or {}).get(name, {})) for name in augmentation]
        for layer in self.augmentation:
            if not isinstance(layer, _ArrayVariation):
                self.seeds.give(layer)
        self._lock = threading.Lock()  # threads that read share the layers

    def __call__(
        self, examples: Any, labels: Any, seed: Sequence[int] | None = None
    ) -> tuple[Any, Any]:
        arrays = isinstance(examples, np.ndarray)
        examples = self.scale(examples)
        if self.encoding is not None:
            labels = self.encoding(labels)
        if seed is not None and self.augmentation:
            with self._lock:
                examples, labels = self._varied(examples, labels, seed)
        if self.normalization is not None:
            examples = self.normalization(examples)
        if arrays:
            examples, labels = map(ops.convert_to_numpy, (examples, labels))
        return examples, labels

    def _varied(self, examples, labels, seed):
        """Varied examples; the frames of a clip are treated as channels."""
        self.seeds.start(seed)
        shape = tuple(examples.shape)
        clips = len(shape) == 5
        channels = shape[-1 if keras.config.image_data_format() == "channels_last" else -3]
        for name in set(RGB) & set(self.names):
            if clips or channels != 3:
                raise ValueError(
                    f"augmentation={name!r} is for images of three channels, not for sequences, "
                    f"got examples of the shape {shape[1:]}."
                )
        examples = _frames_as_channels(examples) if clips else examples
        for name, layer in zip(self.names, self.augmentation):
            if isinstance(layer, _ArrayMixing):
                epoch = seed[2] if len(seed) > 2 else -1
                examples, labels = layer(examples, labels, self.seeds.next(), epoch)
            elif name in MIXING:
                mixed = layer({"images": examples, "labels": labels}, training=True)
                examples, labels = mixed["images"], mixed["labels"]
            elif isinstance(layer, _ArrayVariation):
                examples = layer(examples, self.fill, self.seeds.next())
            else:
                examples = layer(examples, training=True)
        return (_channels_as_frames(examples, shape) if clips else examples), labels


def _made(name, options):
    """The variation of a name, with these options."""
    try:
        return AUGMENTATIONS[name](**FLOAT, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The variation {name!r} does not take {options}: {error}") from error


def _frames_as_channels(clips):
    """`(batch, time, h, w, c)` to `(batch, h, w, time * c)`, by Keras's image data format."""
    if keras.config.image_data_format() == "channels_last":
        clips = ops.moveaxis(clips, 1, -2)
        return ops.reshape(clips, (*clips.shape[:-2], -1))
    return ops.reshape(clips, (clips.shape[0], -1, *clips.shape[3:]))


def _channels_as_frames(images, shape):
    """The inverse of `_frames_as_channels`, for clips of the shape `shape`."""
    if keras.config.image_data_format() == "channels_last":
        split = ops.reshape(images, (*images.shape[:-1], shape[1], shape[-1]))
        return ops.moveaxis(split, -2, 1)
    return ops.reshape(images, shape)


class _Seeds(keras.random.SeedGenerator):
    """Seeds for layers, all derived from one pair of numbers, which may be tensors."""

    def __init__(self):
        super().__init__(0)
        self.start((0, 0))

    def start(self, pair):
        """Starts a new series of seeds."""
        self.pair, self.drawn = pair, 0

    def next(self, ordered=True):
        self.drawn += 1
        pair = [self.pair[0], self.pair[1] + self.drawn]
        if all(isinstance(number, int) for number in pair):
            return ops.convert_to_tensor([number % 2**31 for number in pair], _seed_dtype())
        import tensorflow as tf  # in a pipeline of tf.data

        return tf.cast(tf.stack(pair), "int32")

    def give(self, layer):
        """Makes this the generator of a layer, also within `tf.data`."""
        for part in graph.flatten_layers(layer):
            if hasattr(part, "generator"):
                part.generator = self
                part._backend_generators = {"tensorflow": self}


def _seed_dtype():
    return "uint32" if keras.backend.backend() == "jax" else "int32"
