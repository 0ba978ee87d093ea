"""Numbers as int8 and int16 have them, and rounding that all kernels agree on.

TensorFlow Lite's reference kernels, XNNPACK and CMSIS-NN round half way between two integers
differently, some of them twice. What these functions choose is never half way: sums of products
lie on odd multiples of half a step, factors of a power of two bring them to the next grid, and the
decay of a membrane is moved by less than a thousandth.

Source of the rounding: gemmlowp's `SaturatingRoundingDoublingHighMul` and `RoundingDivideByPOT`;
XNNPACK's `fp32` requantisation. In int16 there is one kind of kernels, whose sums of products are
rounded once, half way upwards.
"""

import dataclasses

import numpy as np
from keras import ops

__all__ = [
    "Grid",
    "decay_without_ties",
    "decayed",
    "near_power_of_two",
    "ratio_without_ties",
    "straight_through",
    "weight_codes",
    "weight_steps",
]


def straight_through(rounded, x):
    """`rounded`, with the gradient of `x`."""
    return x + ops.stop_gradient(rounded - x)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The numbers `scale * code` for `2**bits` codes from `low` on.

    Attributes:
        scale: Distance between two numbers.
        low: Smallest code; int8 stores `code - low - 128`, int16 the code itself.
        bits: 8 or 16.

    Example:

    >>> x = ops.array([-9.0, 0.3, 0.6])
    >>> print(ops.convert_to_numpy(Grid(0.5, low=-4).snap(x)))
    [-2.   0.5  0.5]
    """

    scale: float
    low: int = -128
    bits: int = 8

    @classmethod
    def of(cls, scale, low, bits):
        """The grid of a tensor; int16 codes are always all there are, whatever `low` is."""
        return cls(scale, low) if bits == 8 else cls(scale, -(1 << 15), bits)

    @property
    def high(self):
        """Largest code."""
        return self.low + (1 << self.bits) - 1

    def snap(self, x):
        """The nearest numbers of the grid; the gradient is 1 within it and 0 outside.

        Args:
            x: A float tensor of any shape.

        Returns:
            A tensor like `x`.
        """
        scale = np.float32(self.scale)
        inside = ops.clip(x, self.low * scale, self.high * scale)
        return straight_through(self.codes(x) * scale, inside)

    def codes(self, x):
        """Codes of the nearest numbers of the grid, without a gradient."""
        codes = ops.round(ops.stop_gradient(x) / np.float32(self.scale))
        return ops.clip(codes, self.low, self.high)

    def fake_quantize(self, x):
        """`snap` as TensorFlow's converter reads it."""
        import tensorflow as tf

        low, high = (float(np.float32(self.scale * code)) for code in (self.low, self.high))
        return tf.quantization.fake_quant_with_min_max_args(x, low, high, num_bits=self.bits)


def decay_without_ties(decay):
    """The decay nearest to `decay` that brings no code of a potential half way between two others.

    Args:
        decay: Share of the potential that a step leaves, 0 to 1.

    Returns:
        A number whose products with -128 to 127 keep 1 / 2500 away from all odd multiples of 1 / 2.

    Example:

    >>> decay_without_ties(0.0), decay_without_ties(1.0)
    (0.0, 1.0)
    >>> abs(decay_without_ties(0.5) - 0.5) < 0.001
    True
    """
    codes = np.arange(129)
    for distance in range(1 << 12):
        for candidate in (decay + distance * 2.0**-13, decay - distance * 2.0**-13):
            products = np.abs(candidate * codes % 1 - 0.5)
            if 0 <= candidate <= 1 and products.min() >= 4e-4:
                return float(np.float32(candidate))
    raise AssertionError("0 and 1 are such decays")


def ratio_without_ties(decay):
    """The fraction `p / q` nearest to `decay` with an odd `q` up to 511.

    Products with integers are never half way between two others, but 1 / 1022 away from it.

    Args:
        decay: Share of the potential that a step leaves, 0 to 1.

    Returns:
        `(p, q)`, integers.

    Example:

    >>> ratio_without_ties(1.0), ratio_without_ties(0.5)
    ((1, 1), (256, 511))
    """
    q = np.arange(1, 512, 2)
    p = np.round(decay * q)
    best = np.argmin(np.abs(p / q - decay))
    return int(p[best]), int(q[best])


def near_power_of_two(scale):
    """Whether int16 kernels take a scale for the power of two beside it.

    Sums and differences of tensors whose scales are all within 0.07 % of powers of two are computed
    as if they were these.

    Example:

    >>> near_power_of_two(0.5002), near_power_of_two(0.6)
    (True, False)
    """
    distance = np.log2(scale)
    return bool(abs(distance - np.round(distance)) < 0.01)


def decayed(codes, ratio):
    """`round(codes * p / q)`, exact in float32 for int16 codes.

    Args:
        codes: Integers, a float tensor of any shape.
        ratio: `(p, q)` of `ratio_without_ties`.

    Returns:
        A tensor like `codes`.
    """
    p, q = ratio
    products = codes * p  # below 2**24, as all that follows
    quotients = ops.round(products / q)
    rest = 2 * (products - quotients * q)
    return quotients + ops.cast(rest > q, codes.dtype) - ops.cast(rest < -q, codes.dtype)


def weight_steps(kernel, bits, unit_step, ratio, axis, shifts=(-8, 20)):
    """Steps of the weights of each channel that int8 codes can say, chosen by squared error.

    A weight is `q * step * 2**-shift * ratio` with an integer `q` of `bits` bits, and `q * step`
    its int8 code: with few bits, `step` says the scale.

    Args:
        kernel: The weights, an array.
        bits: 2 to 8 bits, 2 for the ternary -1, 0, 1; 1 for the binary -1, 1.
        unit_step: What codes are multiples of, 1 or 2.
        ratio: Scale of the outputs by that of the inputs.
        axis: The axis of the channels, or `None` for one step for all.
        shifts: The smallest and the largest shift.

    Returns:
        `(step, shift)`, integer arrays of one entry a channel.
    """
    most = max((1 << (bits - 1)) - 1, 1) if bits < 8 else 127 // unit_step
    largest_step = 127 // most // unit_step * unit_step
    channels = kernel.shape[axis] if axis is not None else 1
    rows = np.moveaxis(kernel, axis, 0) if axis is not None else kernel
    rows = rows.reshape(channels, -1).astype("float64")
    size = np.abs(rows).max(axis=1)
    size = np.where(size, size, 1.0)
    best, found = np.full(channels, np.inf), np.zeros((2, channels), int)
    for share in SHARES:
        wanted = size * share / most / ratio  # the distance between two codes, as outputs have it
        exact = np.log2(largest_step / wanted)
        for shift in (np.floor(exact), np.ceil(exact)):
            shift = np.clip(shift, *shifts)
            step = np.round(wanted * 2.0**shift / unit_step) * unit_step
            step = np.clip(step, unit_step, largest_step)
            distance = (step * 2.0**-shift * ratio)[:, None]
            error = ((weight_levels(np, rows / distance, bits, most) * distance - rows) ** 2).sum(1)
            better = error < best
            best = np.where(better, error, best)
            found = np.where(better, [step, shift], found)
    return found.astype(int)


# Largest weight that is not cut off, as a share of the largest there is.
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2)


def weight_levels(backend, x, bits, most):
    """The integers that stand for weights in steps; `backend` is `numpy` or `keras.ops`."""
    if bits == 1:
        return backend.where(x >= 0, 1.0, -1.0)
    return backend.clip(backend.round(x), -most, most)


def weight_codes(weights, bits, step, unit_step):
    """int8 codes of weights, with the gradient of `weights` where they are not cut off.

    Args:
        weights: Weights in units of a code, a tensor.
        bits, unit_step: See `weight_steps`.
        step: Steps between codes, a tensor that broadcasts.
    """
    most = max((1 << (bits - 1)) - 1, 1) if bits < 8 else 127 // unit_step
    share = weights / step
    codes = weight_levels(ops, ops.stop_gradient(share), bits, most) * step
    reach = most + 0.5 if bits > 1 else 2.0
    return straight_through(codes, ops.clip(share, -reach, reach) * step)
