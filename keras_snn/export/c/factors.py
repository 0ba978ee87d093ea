"""Fixed-point factors: what integers are multiplied by, and shifted, to get another scale.

Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", and TensorFlow Lite's reference kernels.
"""

import numpy as np

__all__ = ["factors", "multiplier", "quantized", "real_factors", "scale"]


def multiplier(real):
    """A positive factor as an integer of 31 bits and a power of two.

    Example:

    >>> multiplier(0.75)  # 0.75 * 2 ** 31, shifted by 0
    (1610612736, 0)
    """
    if not real:
        return 0, 0
    share, shift = np.frexp(real)
    whole = int(np.floor(share * 2.0**31 + 0.5))
    if whole == 1 << 31:
        whole, shift = whole // 2, shift + 1
    return (0, 0) if shift < -31 else (whole, int(shift))


def quantized(tensor):
    """Whether a tensor has integers that stand for real numbers."""
    return tensor.scale is not None and tensor.kind in LEFT


def scale(tensor):
    """The one scale of a tensor."""
    return float(tensor.scale[0])


# By how many bits the terms of a sum are shifted to the left before their scales are made equal.
LEFT = {"int8": 20, "int16": 15}


def _sum(op):
    first, second = map(scale, op.inputs)
    largest = 2 * max(first, second)
    last = largest / ((1 << LEFT[op.output.kind]) * scale(op.output))
    return [first / largest, second / largest, last]


def _product(op):
    scales = [np.float32(t.scale[0]) for t in (*op.inputs, op.output)]
    return [float(scales[0] * scales[1] / scales[2])]


def _requantized(op):
    return [scale(op.inputs[0]) / scale(op.output)]


def _weighed(op):
    """One for each output channel."""
    x, kernel = op.inputs[:2]
    scales = scale(x) * np.asarray(kernel.scale, "float64") / scale(op.output)
    return np.broadcast_to(scales, op.output.shape[-1:])


def _compared(op):
    return list(map(scale, op.inputs))


COMPARISONS = ("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "EQUAL", "NOT_EQUAL")
FACTORS = {
    "ADD": _sum,
    "SUB": _sum,
    "MUL": _product,
    "QUANTIZE": _requantized,
    "MEAN": _requantized,
    "SUM": _requantized,
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), _weighed),
    **dict.fromkeys(COMPARISONS, _compared),
}


def factors(op):
    """What an operation on integers multiplies by.

    Args:
        op: A `keras_snn.export.c.step.Operation`.

    Returns:
        `(multiplier, shift)` for each factor, which is `multiplier * 2 ** (shift - 31)`: of a
        convolution or dense layer one for each output channel, of a sum those of the two terms, as
        shifted to the left by `LEFT`, and of the result, of a comparison those of the two sides.
        None of operations that only move values, or compute in float32.
    """
    if op.kind not in FACTORS:
        return []
    if not all(map(quantized, op.inputs if op.kind in COMPARISONS else (op.inputs[0], op.output))):
        return []
    return [multiplier(real) for real in FACTORS[op.kind](op)]


def real_factors(op):
    """Those factors as real numbers."""
    return np.asarray(FACTORS[op.kind](op), "float64")
