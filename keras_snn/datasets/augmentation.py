"""Variations of images that Keras lacks: AutoAugment and Cutout, on arrays.

They take float images `(batch, height, width, channels)` from 0 to 1, the colour to fill holes and
borders with, and a `numpy.random.Generator`. `keras_snn.datasets.Preparation` applies them by name.
"""

import functools

import numpy as np

__all__ = ["POLICIES", "auto_augment", "cutout"]

# Side of Cutout's hole, as a share of the height: 16 of 32 pixels, the paper's for CIFAR-10.
HOLE = 16 / 32

# Sub-policies: each of two operations by name, probability and level from 0 to 9.
POLICIES = {
    "cifar10": """
        invert .1 7 contrast .2 6, rotate .7 2 translate_x .3 9, sharpness .8 1 sharpness .9 3,
        shear_y .5 8 translate_y .7 9, auto_contrast .5 8 equalize .9 2,
        shear_y .2 7 posterize .3 7, color .4 3 brightness .6 7, sharpness .3 9 brightness .7 9,
        equalize .6 5 equalize .5 1, contrast .6 7 sharpness .6 5, color .7 7 translate_x .5 8,
        equalize .3 7 auto_contrast .4 8, translate_y .4 3 sharpness .2 6,
        brightness .9 6 color .2 8, solarize .5 2 invert .0 3, equalize .2 0 auto_contrast .6 0,
        equalize .2 8 equalize .6 4, color .9 9 equalize .6 6, auto_contrast .8 4 solarize .2 8,
        brightness .1 3 color .7 0, solarize .4 5 auto_contrast .9 3,
        translate_y .9 9 translate_y .7 9, auto_contrast .9 2 solarize .8 3,
        equalize .8 8 invert .1 3, translate_y .7 9 auto_contrast .9 1
    """,
    "imagenet": """
        posterize .4 8 rotate .6 9, solarize .6 5 auto_contrast .6 5, equalize .8 8 equalize .6 3,
        posterize .6 7 posterize .6 6, equalize .4 7 solarize .2 4, equalize .4 4 rotate .8 8,
        solarize .6 3 equalize .6 7, posterize .8 5 equalize 1 2, rotate .2 3 solarize .6 8,
        equalize .6 8 posterize .4 6, rotate .8 8 color .4 0, rotate .4 9 equalize .6 2,
        equalize .0 7 equalize .8 8, invert .6 4 equalize 1 8, color .6 4 contrast 1 8,
        rotate .8 8 color 1 2, color .8 8 solarize .8 7, sharpness .4 7 invert .6 8,
        shear_x .6 5 equalize 1 9, color .4 0 equalize .6 3, equalize .4 7 solarize .2 4,
        solarize .6 5 auto_contrast .6 5, invert .6 4 equalize 1 8, color .6 4 contrast 1 8,
        equalize .8 8 equalize .6 3
    """,
}


@functools.cache
def _sub_policies(policy):
    """`((operation, probability, level), (operation, probability, level))` for each sub-policy."""
    words = (pair.split() for pair in POLICIES[policy].split(","))
    return [
        ((first, float(p), int(level)), (second, float(q), int(other)))
        for first, p, level, second, q, other in words
    ]


@functools.cache
def _operations():
    """By name: a function of image, strength and fill; strengths at levels 0 and 9; if signed."""
    try:
        from PIL import Image, ImageEnhance, ImageOps
    except ImportError as error:
        raise ImportError('AutoAugment needs Pillow: pip install "keras-snn[data]"') from error

    def moved(matrix):
        def apply(image, strength, fill):
            return image.transform(
                image.size, Image.Transform.AFFINE, matrix(image, strength), fillcolor=fill
            )

        return apply

    def enhanced(kind):
        return (lambda image, strength, _: kind(image).enhance(1 + strength)), (0, 0.9), True

    def fixed(function):
        return (lambda image, *_: function(image)), (0, 0), False

    move = (0, 150 / 331)  # of the image's side
    return {
        "shear_x": (moved(lambda _, s: (1, s, 0, 0, 1, 0)), (0, 0.3), True),
        "shear_y": (moved(lambda _, s: (1, 0, 0, s, 1, 0)), (0, 0.3), True),
        "translate_x": (moved(lambda i, s: (1, 0, s * i.width, 0, 1, 0)), move, True),
        "translate_y": (moved(lambda i, s: (1, 0, 0, 0, 1, s * i.height)), move, True),
        "rotate": (lambda i, s, fill: i.rotate(s, fillcolor=fill), (0, 30), True),
        "color": enhanced(ImageEnhance.Color),
        "contrast": enhanced(ImageEnhance.Contrast),
        "sharpness": enhanced(ImageEnhance.Sharpness),
        "brightness": enhanced(ImageEnhance.Brightness),
        "posterize": (lambda i, s, _: ImageOps.posterize(i, round(s)), (8, 4), False),
        "solarize": (lambda i, s, _: ImageOps.solarize(i, s), (256, 0), False),
        "auto_contrast": fixed(ImageOps.autocontrast),
        "equalize": fixed(ImageOps.equalize),
        "invert": fixed(ImageOps.invert),
    }


def auto_augment(images, fill, generator, policy="cifar10"):
    """AutoAugment: two operations on each image, of a sub-policy drawn for it.

    Args:
        images: `(batch, height, width, 3)`, from 0 to 1; they are rounded to 256 levels.
        fill: Colour of what moves in, three numbers from 0 to 1.
        generator: A `numpy.random.Generator`.
        policy: `"cifar10"` or `"imagenet"`, what the policy was found on.

    Returns:
        Float32 images of the same shape.

    Raises:
        ImportError: If Pillow is not installed.

    Source: Cubuk et al. (2019), tables 7 and 9, with Pillow's operations as theirs; nearest
        neighbours, a random sign of every shear, move, turn and enhancement.

    Example:

    >>> images = np.full((2, 8, 8, 3), 0.5, "float32")
    >>> auto_augment(images, (0.5, 0.5, 0.5), np.random.default_rng(0)).shape
    (2, 8, 8, 3)
    """
    operations = _operations()
    from PIL import Image

    fill = tuple(round(255 * value) for value in fill)
    policies = _sub_policies(policy)
    drawn = generator.integers(len(policies), size=len(images))
    chances = generator.random((len(images), 2))
    signs = generator.choice([-1, 1], (len(images), 2))
    levels = np.round(255 * images).clip(0, 255).astype("uint8")
    varied = np.empty(levels.shape, "float32")
    for i, pixels in enumerate(levels):
        image = Image.fromarray(pixels)
        for (name, probability, level), chance, sign in zip(
            policies[drawn[i]], chances[i], signs[i]
        ):
            if chance < probability:
                apply, (weakest, strongest), signed = operations[name]
                strength = weakest + (strongest - weakest) * level / 9
                image = apply(image, strength * sign if signed else strength, fill)
        varied[i] = image
    return varied / 255


def cutout(images, fill, generator):
    """Cutout: a square hole in each image, half as high as the image.

    Its centre is any pixel, so that borders may clip it.

    Args:
        images: `(batch, height, width, channels)`.
        fill: Colour of the hole, a number for each channel.
        generator: A `numpy.random.Generator`.

    Returns:
        Images of the same shape.

    Source: DeVries & Taylor (2017): 16 of 32 pixels for CIFAR-10; the hole is 0 after
        normalisation, so that the fill is the mean.

    Example:

    >>> holes = cutout(np.ones((1, 8, 8, 1), "float32"), (0,), np.random.default_rng(0)) == 0
    >>> 4 <= holes.sum() <= 16
    np.True_
    """
    count, height, width, _ = images.shape
    half = max(round(HOLE * height / 2), 1)
    inside = [
        (np.arange(size) >= centre - half) & (np.arange(size) < centre + half)
        for size, centre in (
            (height, generator.integers(height, size=(count, 1))),
            (width, generator.integers(width, size=(count, 1))),
        )
    ]
    hole = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return np.where(hole, np.asarray(fill, images.dtype), images)
