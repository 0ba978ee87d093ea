"""From bytes to what a network reads: scaled, varied in training, normalised.

All of it is layers of Keras, which run in a pipeline of `tf.data` as on the arrays of any backend.
"""

import functools
import threading

import keras
import numpy as np
from keras import layers, ops

from keras_snn.layers.arguments import check_choice

__all__ = ["AUGMENTATIONS", "NORMALIZATIONS", "Preparation"]

# Mean and standard deviation of each channel of the training images, of which 1 is the maximum.
NORMALIZATIONS = {
    "unit": ((0.5,), (0.5,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

# Moves by up to 4 of 32 pixels: what padding by 4 and a random crop do, for each image by itself.
SHIFT = 4 / 32

# Variations by name, for values from 0 to 1.
AUGMENTATIONS = {
    "shift": functools.partial(
        layers.RandomTranslation, SHIFT, SHIFT, fill_mode="constant", interpolation="nearest"
    ),
    "flip": functools.partial(layers.RandomFlip, "horizontal"),
    "rand_augment": functools.partial(layers.RandAugment, value_range=(0, 1)),
    "erase": functools.partial(
        layers.RandomErasing, scale=(0.02, 0.2), fill_value=0.0, value_range=(0, 1)
    ),
    "mix_up": functools.partial(layers.MixUp, alpha=0.2),
    "cut_mix": layers.CutMix,
}
MIXING = ("mix_up", "cut_mix")
FLOAT = {"dtype": "float32"}  # whatever the policy of the network


class Preparation:
    """What is done to batches of images, or of clips of frames, and to their labels.

    Values are scaled, varied by layers of Keras while training, and normalised. A clip is varied
    as a whole: all its frames alike.

    Args:
        scale: Factor that takes values to between 0 and 1, such as 1 / 255; `None` for none.
        normalization: A name in `NORMALIZATIONS`, or `None`.
        augmentation: Names in `AUGMENTATIONS`: `"shift"`, `"flip"`, `"rand_augment"` (images of
            three channels), `"erase"`, `"mix_up"`, `"cut_mix"`, in the order to apply them.
        classes: If given, labels become one-hot vectors of so many classes; the last two variations
            need that.

    Call arguments:
        examples: `(batch, height, width, channels)` or `(batch, time, height, width, channels)`.
        labels: `(batch,)`.
        seed: A pair of integers from which all draws follow; `None` for no variation.

    Returns:
        `(examples, labels)`: arrays, or tensors of TensorFlow in a pipeline of `tf.data`.

    Raises:
        ValueError: If a name is unknown, or labels are to be mixed that are not one-hot.

    Example:

    >>> prepare = Preparation(1 / 255, "unit", ["flip"])
    >>> images, labels = prepare(np.full((2, 4, 4, 1), 255, "uint8"), np.zeros(2), seed=(0, 0))
    >>> images.shape, float(images.max())
    ((2, 4, 4, 1), 1.0)
    """

    def __init__(self, scale=1 / 255, normalization="unit", augmentation=(), classes=None):
        for name in augmentation:
            check_choice("augmentation", name, AUGMENTATIONS)
            if name in MIXING and classes is None:
                raise ValueError(f"augmentation={name!r} mixes labels, which must be one-hot.")
        self.names = tuple(augmentation)
        self.scale = layers.Rescaling(1.0 if scale is None else scale, **FLOAT)
        self.normalization = self.encoding = None
        if normalization is not None:
            check_choice("normalization", normalization, NORMALIZATIONS)
            mean, std = map(np.array, NORMALIZATIONS[normalization])
            self.normalization = layers.Rescaling(1 / std, -mean / std, **FLOAT)
        if classes is not None:
            self.encoding = layers.CategoryEncoding(classes, output_mode="one_hot", **FLOAT)
        self.seeds = _Seeds()
        self.augmentation = [AUGMENTATIONS[name](**FLOAT) for name in augmentation]
        for layer in self.augmentation:
            self.seeds.give(layer)
        self._lock = threading.Lock()  # threads that read share the layers

    def __call__(self, examples, labels, seed=None):
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
        """Variation; in clips the frames take the place of channels meanwhile."""
        self.seeds.start(seed)
        shape = tuple(examples.shape)
        clips = len(shape) == 5
        if clips and "rand_augment" in self.names:
            raise ValueError(
                'augmentation="rand_augment" is for images of three channels, not for sequences.'
            )
        examples = _frames_as_channels(examples) if clips else examples
        for name, layer in zip(self.names, self.augmentation):
            if name in MIXING:
                mixed = layer({"images": examples, "labels": labels}, training=True)
                examples, labels = mixed["images"], mixed["labels"]
            else:
                examples = layer(examples, training=True)
        return (_channels_as_frames(examples, shape) if clips else examples), labels


def _frames_as_channels(clips):
    """`(batch, time, h, w, c)` to `(batch, h, w, time * c)`, by Keras's image data format."""
    if keras.config.image_data_format() == "channels_last":
        clips = ops.moveaxis(clips, 1, -2)
        return ops.reshape(clips, (*clips.shape[:-2], -1))
    return ops.reshape(clips, (clips.shape[0], -1, *clips.shape[3:]))


def _channels_as_frames(images, shape):
    """Undoes `_frames_as_channels`, to clips of the shape `shape`."""
    if keras.config.image_data_format() == "channels_last":
        split = ops.reshape(images, (*images.shape[:-1], shape[1], shape[-1]))
        return ops.moveaxis(split, -2, 1)
    return ops.reshape(images, shape)


class _Seeds(keras.random.SeedGenerator):
    """Seeds that layers draw, all from one pair of numbers; the pair may be tensors."""

    def __init__(self):
        super().__init__(0)
        self.start((0, 0))

    def start(self, pair):
        """Draws anew from here."""
        self.pair, self.drawn = pair, 0

    def next(self, ordered=True):
        self.drawn += 1
        pair = [self.pair[0], self.pair[1] + self.drawn]
        if all(isinstance(number, int) for number in pair):
            return ops.convert_to_tensor([number % 2**31 for number in pair], _seed_dtype())
        import tensorflow as tf  # in a pipeline of tf.data

        return tf.cast(tf.stack(pair), "int32")

    def give(self, layer):
        """Makes this the generator of a layer, on its own backend as in `tf.data`."""
        for part in layer._flatten_layers():
            if hasattr(part, "generator"):
                part.generator = self
                part._backend_generators = {"tensorflow": self}


def _seed_dtype():
    return "uint32" if keras.backend.backend() == "jax" else "int32"
