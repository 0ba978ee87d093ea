"""Variations of images that Keras lacks, on arrays: AutoAugment, RandAugment, holes, mixtures.

They take float images `(batch, height, width, channels)` from 0 to 1, the colour to fill holes and
borders with, and a `numpy.random.Generator`. `keras_snn.datasets.Preparation` applies them by name.
RandAugment, random erasing and `mix` are those of timm, by which spiking transformers are trained.
"""

import functools

import numpy as np

from keras_snn.utils.arguments import check_integer, check_number

__all__ = ["POLICIES", "auto_augment", "cutout", "mix", "rand_augment", "random_erasing"]

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
def _operations(resample="NEAREST"):
    """By name: a function of image, strength and fill; strengths at levels 0 and 9; if signed."""
    try:
        from PIL import Image, ImageEnhance, ImageOps
    except ImportError as error:
        raise ImportError('AutoAugment needs Pillow: pip install "keras-snn[data]"') from error

    def moved(matrix):
        def apply(image, strength, fill):
            affine = Image.Transform.AFFINE
            data = matrix(image, strength)
            return image.transform(image.size, affine, data, resample, fillcolor=fill)

        return apply

    def enhanced(kind):
        return (lambda image, strength, _: kind(image).enhance(1 + strength)), (0, 0.9), True

    def fixed(function):
        return (lambda image, *_: function(image)), (0, 0), False

    resample = Image.Resampling[resample]
    move = (0, 150 / 331)  # of the image's side
    return {
        "shear_x": (moved(lambda _, s: (1, s, 0, 0, 1, 0)), (0, 0.3), True),
        "shear_y": (moved(lambda _, s: (1, 0, 0, s, 1, 0)), (0, 0.3), True),
        "translate_x": (moved(lambda i, s: (1, 0, s * i.width, 0, 1, 0)), move, True),
        "translate_y": (moved(lambda i, s: (1, 0, 0, 0, 1, s * i.height)), move, True),
        "rotate": (lambda i, s, fill: i.rotate(s, resample, fillcolor=fill), (0, 30), True),
        "color": enhanced(ImageEnhance.Color),
        "contrast": enhanced(ImageEnhance.Contrast),
        "sharpness": enhanced(ImageEnhance.Sharpness),
        "brightness": enhanced(ImageEnhance.Brightness),
        "posterize": (lambda i, s, _: ImageOps.posterize(i, round(s)), (8, 4), False),
        "solarize": (lambda i, s, _: ImageOps.solarize(i, s), (256, 0), False),
        "solarize_add": (lambda i, s, _: _add_to_dark(i, s), (0, 110), False),
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
    policies = _sub_policies(policy)
    drawn = generator.integers(len(policies), size=len(images))
    chances = generator.random((len(images), 2))
    signs = generator.choice([-1, 1], (len(images), 2))

    def plan(i):
        for (name, probability, level), chance, sign in zip(
            policies[drawn[i]], chances[i], signs[i]
        ):
            if chance < probability:
                apply, (weakest, strongest), signed = operations[name]
                strength = weakest + (strongest - weakest) * level / 9
                yield apply, strength * sign if signed else strength

    return _varied(images, fill, plan)


def _varied(images, fill, plan):
    """Images after the operations of `plan(index)`, pairs of a function and a strength."""
    from PIL import Image

    fill = tuple(round(255 * value) for value in fill)
    levels = np.round(255 * images).clip(0, 255).astype("uint8")
    varied = np.empty(levels.shape, "float32")
    for i, pixels in enumerate(levels):
        image = Image.fromarray(pixels)
        for apply, strength in plan(i):
            image = apply(image, strength, fill)
        varied[i] = image
    return varied / 255


def _add_to_dark(image, amount):
    """Adds to values below 128, up to 255."""
    table = [min(255, value + amount) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


# Strengths of RandAugment by level, from 0 to 10.
RAND_AUGMENT = {
    **dict.fromkeys(("auto_contrast", "equalize", "invert"), lambda level: 0),
    "rotate": lambda level: 3 * level,
    "posterize": lambda level: max(4 - int(0.4 * level), 1),  # Pillow keeps a bit
    "solarize": lambda level: 256 - int(25.6 * level),
    "solarize_add": lambda level: int(11 * level),
    **dict.fromkeys(
        ("color", "contrast", "brightness", "sharpness"), lambda level: min(0.09 * level, 0.9)
    ),
    **dict.fromkeys(("shear_x", "shear_y"), lambda level: 0.03 * level),
    **dict.fromkeys(("translate_x", "translate_y"), lambda level: 0.045 * level),
}


def rand_augment(images, fill, generator, magnitude=9, count=2, deviation=0.5):
    """RandAugment of each image: operations drawn for it, each of which it undergoes half the time.

    Args:
        images: `(batch, height, width, 3)`, from 0 to 1; they are rounded to 256 levels.
        fill: Colour of what moves in, three numbers from 0 to 1.
        generator: A `numpy.random.Generator`.
        magnitude: Mean of the levels, from 0 to 10.
        count: Number of operations.
        deviation: Standard deviation of the levels.

    Returns:
        Float32 images of the same shape.

    Raises:
        ImportError: If Pillow is not installed.

    Source: Cubuk et al. (2020), as timm's `rand-m9-n2-mstd0.5-inc1`, with bicubic interpolation.

    Example:

    >>> images = np.full((2, 8, 8, 3), 0.5, "float32")
    >>> rand_augment(images, (0.5, 0.5, 0.5), np.random.default_rng(0), count=1).shape
    (2, 8, 8, 3)
    """
    check_number("magnitude", magnitude, minimum=0, maximum=10)
    check_number("deviation", deviation, minimum=0)
    shape = (len(images), check_integer("count", count))
    operations, names = _operations("BICUBIC"), list(RAND_AUGMENT)
    drawn, applied = generator.integers(len(names), size=shape), generator.random(shape) < 0.5
    levels = generator.normal(magnitude, deviation, shape).clip(0, 10)
    signs = generator.choice([-1, 1], shape)

    def plan(i):
        for place in np.flatnonzero(applied[i]):
            name = names[drawn[i, place]]
            apply, _, signed = operations[name]
            strength = RAND_AUGMENT[name](float(levels[i, place]))
            yield apply, strength * signs[i, place] if signed else strength

    return _varied(images, fill, plan)


def random_erasing(images, fill, generator, probability=0.25, area=(0.02, 1 / 3), ratio=0.3):
    """A hole in some of the images, a rectangle.

    Args:
        images: `(batch, height, width, channels)`.
        fill: Colour of the hole, a number for each channel.
        generator: A `numpy.random.Generator`.
        probability: Share of images with a hole.
        area: The smallest and the largest share of the pixels.
        ratio: The smallest height as a share of the width; the largest is its inverse.

    Returns:
        Images of the same shape.

    Source: Zhong et al. (2020), as timm's.

    Example:

    >>> images = np.ones((1, 8, 8, 1), "float32")
    >>> holes = random_erasing(images, (0,), np.random.default_rng(0), probability=1.0) == 0
    >>> 1 <= holes.sum() <= 24
    np.True_
    """
    check_number("probability", probability, minimum=0, maximum=1)
    _, height, width, _ = images.shape
    images = images.copy()
    chosen = np.flatnonzero(generator.random(len(images)) < probability)
    for image in map(images.__getitem__, chosen):
        for _ in range(10):  # a hole that is larger than the image is drawn again
            size = generator.uniform(*area) * height * width
            shape = np.exp(generator.uniform(np.log(ratio), -np.log(ratio)))
            rows, columns = round(np.sqrt(size * shape)), round(np.sqrt(size / shape))
            if rows < height and columns < width:
                top = generator.integers(height - rows + 1)
                left = generator.integers(width - columns + 1)
                image[top : top + rows, left : left + columns] = fill
                break
    return images


def mix(images, labels, generator, mix_up=0.2, cut_mix=1.0, probability=1.0, switch=0.5):
    """MixUp or CutMix of a batch with itself in reverse order, with one share for all images.

    Args:
        images: `(batch, height, width, channels)`.
        labels: One-hot vectors, `(batch, classes)`.
        generator: A `numpy.random.Generator`.
        mix_up: Parameter of MixUp's Beta distribution; 0: CutMix only.
        cut_mix: That of CutMix; 0: MixUp only.
        probability: Share of batches that are mixed.
        switch: Share of CutMix among these, where there are both.

    Returns:
        Images and labels of the same shapes.

    Source: Zhang et al. (2018), Yun et al. (2019), as timm's `Mixup` of whole batches.

    Example:

    >>> images, labels = np.stack([np.zeros((2, 2, 1)), np.ones((2, 2, 1))]), np.eye(2)
    >>> mixed, shares = mix(images, labels, np.random.default_rng(0), cut_mix=0)
    >>> bool(np.allclose(mixed[:, 0, 0, 0], shares[:, 1]))
    True
    """
    check_number("mix_up", mix_up, minimum=0)
    check_number("cut_mix", cut_mix, minimum=0)
    if generator.random() >= probability or not (mix_up or cut_mix):
        return images, labels
    cuts = generator.random() < switch if mix_up and cut_mix else not mix_up
    alpha = cut_mix if cuts else mix_up
    share, others = generator.beta(alpha, alpha), images[::-1]
    if cuts:
        sizes = images.shape[1:3]
        centres = [generator.integers(size) for size in sizes]
        halves = [int(size * np.sqrt(1 - share)) // 2 for size in sizes]
        rows, columns = (
            slice(max(centre - half, 0), min(centre + half, size))
            for centre, half, size in zip(centres, halves, sizes)
        )
        mixed = images.copy()
        mixed[:, rows, columns] = others[:, rows, columns]
        hole = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1 - hole / (sizes[0] * sizes[1])
    else:
        mixed = share * images + (1 - share) * others
    labels = (share * labels + (1 - share) * labels[::-1]).astype(labels.dtype)
    return mixed.astype(images.dtype), labels


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
