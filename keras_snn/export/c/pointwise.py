"""What each operation of TensorFlow Lite makes of single values, for NumPy and for C.

Each is written once, as arithmetic on its arguments. Given arrays of codes it computes what
TensorFlow Lite's reference kernels do; given `Text`, expressions in C, it gives an expression for
the same. So a function of one quantised value can be evaluated for all its codes, and written as
a comparison or a table.

Source of the arithmetic: Jacob et al. 2018, "Quantization and training of neural networks for
efficient integer-arithmetic-only inference", and the quantisation specification of TensorFlow Lite.
"""

import numpy as np

from keras_snn.export.c.factors import LEFT, factors, quantized, scale

__all__ = ["POINTWISE", "Text", "limits", "number"]


class Text(str):
    """An expression in C. Arithmetic on it gives longer ones."""

    __array_ufunc__ = None  # NumPy's numbers leave arithmetic with a text to it

    def __add__(self, other):
        return Text(f"({self} + {number(other)})")

    def __radd__(self, other):
        return Text(f"({number(other)} + {self})")

    def __sub__(self, other):
        return Text(f"({self} - {number(other)})")

    def __rsub__(self, other):
        return Text(f"({number(other)} - {self})")

    def __mul__(self, other):
        return Text(f"({self} * {number(other)})")

    def __truediv__(self, other):
        return Text(f"({self} / {number(other)})")

    def __rtruediv__(self, other):
        return Text(f"({number(other)} / {self})")

    __rmul__ = __mul__


def number(value):
    """A number as C has it; a text as it is."""
    if isinstance(value, str):
        return value
    value = np.asarray(value).reshape(-1)[0]
    if np.issubdtype(type(value), np.floating):
        value = np.clip(value, np.finfo("float32").min, np.finfo("float32").max)
        return f"{np.format_float_scientific(np.float32(value), unique=True, trim='-')}f".replace(
            "e+00f", ".0f" if float(value).is_integer() else "f"
        )
    return str(int(value))


def both(form, function):
    """A function for arrays and for expressions: `form` is what C calls it."""

    def chosen(*args):
        if any(isinstance(x, Text) for x in args):
            return Text(form.format(*map(number, args)))
        return function(*args)

    return chosen


def _rescale(x, multiplier, shift):
    """`x * multiplier * 2 ** (shift - 31)`, rounded twice, as on ARM's vector units."""
    product = x.astype("int64") * (1 << max(shift, 0)) * multiplier
    high = (product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))).astype("int64")
    high = np.sign(high) * (np.abs(high) >> 31)
    right = max(-shift, 0)
    mask = (1 << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


rescale = both("rescale({}, {}, {})", _rescale)
minimum = both("({0} < {1} ? {0} : {1})", np.minimum)
maximum = both("({0} > {1} ? {0} : {1})", np.maximum)
choose = both("({} ? {} : {})", np.where)
to_float = both("(float){}", lambda x: np.asarray(x, "float32"))
to_whole = both("(int32_t){}", lambda x: np.asarray(x).astype("int64"))
# Halves away from zero, as C rounds.
rounded = both("roundf({})", lambda x: np.trunc(x + np.copysign(np.float32(0.5), x)))
to_even = both("rintf({})", np.round)
floor = both("floorf({})", np.floor)
exponential = both("expf({})", np.exp)
hyperbolic = both("tanhf({})", np.tanh)
root = both("sqrtf({})", np.sqrt)


def clamp(x, low, high):
    """`x`, or the next of the limits."""
    kind = "clampf" if isinstance(low, np.floating) else "clamp"
    return both(kind + "({}, {}, {})", np.clip)(x, low, high)


# TensorFlow Lite's fused activations by number: the limits of RELU, RELU_N1_TO_1, RELU6.
ACTIVATIONS = {0: (-np.inf, np.inf), 1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}


def limits(op):
    """The least and largest value, or code, that an operation gives."""
    kind = getattr(op.options, "fusedActivationFunction", 0)
    low, high = ACTIVATIONS[kind]
    output = op.output
    if not quantized(output):
        return np.float32(low), np.float32(high)
    kind = np.iinfo(output.kind)

    def code(value):
        if not np.isfinite(value):
            return kind.max if value > 0 else kind.min
        return int(np.clip(round(value / scale(output)) + output.zero, kind.min, kind.max))

    return code(low), code(high)


def limited(op, x):
    """What an operation gives, within its limits."""
    low, high = limits(op)
    return x if not quantized(op.output) and np.isinf([low, high]).all() else clamp(x, low, high)


def _sum(sign):
    def function(op, a, b):
        if not quantized(op.output):
            return limited(op, a + b if sign > 0 else a - b)
        left, (first, second, last) = 1 << LEFT[op.output.kind], factors(op)
        a = rescale((a - op.inputs[0].zero) * left, *first)
        b = rescale((b - op.inputs[1].zero) * left, *second)
        return limited(op, rescale(a + b if sign > 0 else a - b, *last) + op.output.zero)

    return function


def _product(op, a, b):
    if not quantized(op.output):
        return limited(op, a * b)
    first, second = op.inputs
    (factor,) = factors(op)
    return limited(op, rescale((a - first.zero) * (b - second.zero), *factor) + op.output.zero)


def _comparison(sign, function):
    relation = both("({} " + sign + " {})", function)

    def compared(op, a, b):
        if quantized(op.inputs[0]):
            a, b = (
                rescale((x - t.zero) * (1 << 8), *factor)
                for x, t, factor in zip((a, b), op.inputs, factors(op))
            )
        return relation(a, b)

    return compared


def _cast(op, x):
    return to_float(x) if op.output.kind == "float32" else to_whole(x)


def _dequantize(op, x):
    tensor = op.inputs[0]
    return to_float(x - tensor.zero) * np.float32(tensor.scale[0])


def _quantize(op, x):
    source, output = op.inputs[0], op.output
    low, high = limits(op)
    if quantized(source):
        (factor,) = factors(op)
        return clamp(rescale(x - source.zero, *factor) + output.zero, low, high)
    code = rounded(x / np.float32(output.scale[0])) + np.float32(output.zero)
    return to_whole(clamp(code, np.float32(low), np.float32(high)))


def _keep(op, x):
    """A state from one step to the next; its codes may stand for other numbers there."""
    source, output = op.inputs[0], op.output
    codes = quantized(source), quantized(output)
    if not any(codes) or (
        all(codes) and (scale(source), source.zero) == (scale(output), output.zero)
    ):
        return x
    x = _dequantize(op, x) if codes[0] else x
    if not codes[1]:
        return x
    low, high = limits(op)
    code = to_even(x / np.float32(output.scale[0])) + np.float32(output.zero)
    return to_whole(clamp(code, np.float32(low), np.float32(high)))


def _real(function):
    """A function of real numbers, with codes by way of these."""

    def applied(op, *args):
        pairs = zip(args, op.inputs)
        args = [
            to_float(x - t.zero) * np.float32(t.scale[0]) if quantized(t) else x for x, t in pairs
        ]
        y = function(*args)
        if not quantized(op.output):
            return y
        kind = np.iinfo(op.output.kind)
        code = rounded(y / np.float32(op.output.scale[0])) + np.float32(op.output.zero)
        return to_whole(clamp(code, np.float32(kind.min), np.float32(kind.max)))

    return applied


ONE = np.float32(1)
POINTWISE = {
    "ADD": _sum(1),
    "SUB": _sum(-1),
    "MUL": _product,
    "DIV": _real(lambda a, b: a / b),
    "MAXIMUM": lambda op, a, b: maximum(a, b),
    "MINIMUM": lambda op, a, b: minimum(a, b),
    "GREATER": _comparison(">", np.greater),
    "GREATER_EQUAL": _comparison(">=", np.greater_equal),
    "LESS": _comparison("<", np.less),
    "LESS_EQUAL": _comparison("<=", np.less_equal),
    "EQUAL": _comparison("==", np.equal),
    "NOT_EQUAL": _comparison("!=", np.not_equal),
    "LOGICAL_AND": lambda op, a, b: both("({} && {})", np.logical_and)(a, b),
    "LOGICAL_OR": lambda op, a, b: both("({} || {})", np.logical_or)(a, b),
    "LOGICAL_NOT": lambda op, a: both("(!{})", np.logical_not)(a),
    "SELECT": lambda op, test, a, b: choose(test, a, b),
    "SELECT_V2": lambda op, test, a, b: choose(test, a, b),
    "CAST": _cast,
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
    "KEEP": _keep,
    "RELU": _real(lambda x: maximum(x, np.float32(0))),
    "RELU6": _real(lambda x: clamp(x, np.float32(0), np.float32(6))),
    "RELU_0_TO_1": _real(lambda x: clamp(x, np.float32(0), ONE)),
    "LOGISTIC": _real(lambda x: ONE / (ONE + exponential(np.float32(0) - x))),
    "TANH": _real(hyperbolic),
    "EXP": _real(exponential),
    "FLOOR": _real(floor),
    "ROUND": _real(to_even),
    "SQUARE": _real(lambda x: x * x),
    "SQRT": _real(root),
    "RSQRT": _real(lambda x: ONE / root(x)),
    "ABS": _real(lambda x: maximum(x, np.float32(0) - x)),
    "NEG": _real(lambda x: np.float32(0) - x),
}
