"""Rules of layers: bounds of a call's output, and coefficients on its inputs.

A `Rule` is what a network's replay does in the place of a call, and what the pass back from its
outputs does. `find` looks up that of a call; `register` is for layers of one's own.
"""

import dataclasses
import inspect
import math

import keras
from keras import ops, tree

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.layers.time import fold, unfold
from keras_snn.robust.intervals import (
    ROUNDOFF,
    Interval,
    constant,
    negative,
    positive,
    pullback,
)
from keras_snn.robust.neurons import NeuronRule
from keras_snn.robust.rule import Rule

__all__ = ["Monotone", "find", "register"]


def _interval(x):
    """An `Interval` as it is, a constant as one that holds nothing else."""
    return x if isinstance(x, Interval) else Interval(x, x)


def _intervals(call):
    return [x for x in call.inputs if isinstance(x, Interval)]


def apply(call, *tensors):
    """A call in inference, on tensors in the place of its intervals."""
    rest = iter(tensors)
    args, kwargs = tree.map_structure(
        lambda x: next(rest) if isinstance(x, Interval) else x, (call.args, call.kwargs)
    )
    if "training" in inspect.signature(call.operation.call).parameters:
        kwargs = kwargs | {"training": False}
    return dataclasses.replace(call, args=args, kwargs=kwargs)()


class Monotone(Rule):
    """That of layers whose outputs rise, or stay, where an input rises.

    Elementwise layers may fall too, each value in one direction.

    Args:
        kind: `"affine"` if outputs are linear functions of the inputs and a constant, `"convex"`
            for maxima and the like, else `"any"`.
        exact: Whether it gives values as it gets them, so that nothing is rounded.
    """

    def __init__(self, kind="any", exact=False):
        self.kind, self.exact = kind, exact

    def linear(self, call):
        return self.kind == "affine"

    def forward(self, call, rounds):
        inputs = _intervals(call)
        ends = [apply(call, *(getattr(x, b) for x in inputs)) for b in ("lower", "upper")]
        lower, upper = ops.minimum(*ends), ops.maximum(*ends)
        if self.exact or not rounds:
            return Interval(lower, upper)
        slack = 32 * ROUNDOFF * (1 + Interval(lower, upper).largest)
        if self.kind == "affine":
            offset = apply(call, *(ops.zeros_like(x.lower) for x in inputs))
            size = ops.abs(apply(call, *(x.largest for x in inputs)) - offset) + ops.abs(offset)
            for part in graph.flatten_layers(call.layer) if _is_layer(call.layer) else ():
                if getattr(part, "beta", None) is not None:  # may cancel with the mean
                    size = size + 2 * ops.max(ops.abs(part.beta))
            slack = (_summed(call, lower) + 16) * ROUNDOFF * size
        return Interval(lower - slack, upper + slack, slack)

    def backward(self, call, output, coefficients, lines):
        if self.kind == "any":
            return [], [constant(coefficients, output)]
        inputs, terms = _intervals(call), []
        ats = [ops.zeros_like(x.lower) for x in inputs]
        if self.kind == "convex":  # a tangent from below; from above the largest value
            terms.append(negative(coefficients) * output.upper)
            coefficients, ats = positive(coefficients), [x.lower for x in inputs]
        found = pullback(lambda *xs: apply(call, *xs), ats, coefficients)
        terms.append(coefficients * apply(call, *ats))
        terms += [-on * at for on, at in zip(found, ats)]
        terms.append(-2 * ops.abs(coefficients) * output.slack)
        return list(zip(inputs, found)), terms


def _summed(call, output):
    """How many values a sum of a linear layer has at most."""
    window = getattr(call.layer, "pool_size", 1)
    sizes = [math.prod(x.shape[1:]) for x in (*call.inputs, output)]
    if isinstance(window, int):
        window = (window,) * (len(output.shape) - 2)
    return max(math.prod(window), *(size / sizes[-1] for size in sizes[:-1]), len(sizes))


class Relu(Monotone):
    """That of rectifiers: the chord from above; from below 0, or the input where most is above."""

    def __init__(self):
        super().__init__("convex", exact=True)

    def backward(self, call, output, coefficients, lines):
        (x,) = _intervals(call)
        crosses = (x.lower < 0) & (x.upper > 0)
        chord = ops.where(crosses, x.upper, 0) / ops.where(crosses, x.upper - x.lower, 1)
        chord = ops.where(crosses, chord, ops.cast(x.lower >= 0, chord.dtype))
        tangent = ops.cast(x.upper > -x.lower, chord.dtype)
        tangent = ops.where(crosses, tangent, chord)
        low, high = positive(coefficients), negative(coefficients)
        offset = ops.where(crosses, -chord * x.lower, 0)
        return [(x, low * tangent + high * chord)], [high * offset]


class Refused(Monotone):
    """A monotone rule that does not hold for all values of an argument of the layer.

    Args:
        argument: Its name; a layer without it is taken.
        allowed: Whether the rule holds, a function of the argument.
        kind: That of `Monotone`.
    """

    def __init__(self, argument, allowed, kind="any"):
        super().__init__(kind)
        self.argument, self.allowed = argument, allowed

    def refusal(self, call):
        value = getattr(call.layer, self.argument, None)
        if value is None or self.allowed(value):
            return None
        return f"its outputs may fall where an input rises, with {self.argument}={value!r}"


class Softmax(Monotone):
    """That of a softmax. At a network's end certificates are about what it is taken of."""

    def refusal(self, call):
        axis = getattr(call.layer, "axis", -1)
        return None if axis in (-1, len(call.input.shape) - 1) else f"it is along axis {axis}"

    def forward(self, call, rounds):
        """Least and largest probabilities: all others at their other ends."""
        x = call.input
        same = ops.eye(x.shape[-1], dtype="bool")

        def share(own, others):
            ratios = ops.exp(others[..., None, :] - own[..., :, None])
            return 1 / (1 + ops.sum(ops.where(same, 0, ratios), axis=-1))

        slack = 32 * ROUNDOFF if rounds else 0.0
        return Interval(
            share(x.lower, x.upper) - slack, share(x.upper, x.lower) + slack, slack, logits=x
        )


class Poisson(Monotone):
    """That of an encoder which draws: both bounds are coded with the same draws."""

    def refusal(self, call):
        return "it draws within each step of a sequence" if call.each_step else None

    def forward(self, call, rounds):
        (x,), layer = _intervals(call), call.layer
        lower, upper = (ops.cast(b, layer.variable_dtype) for b in (x.lower, x.upper))
        drawn = layer.draw(lower)
        return Interval(*(layer.fire(b, drawn) for b in (lower, upper)))


class Product(Rule):
    """That of layers with a kernel, `y = W x + b`: the centre by `W`, the radius by its magnitude.

    Args:
        parts: A function from the layer to `(product, kernels, terms)`: a function of `x` and the
            kernels, these, and how many terms a sum has at most, forward or backward.
    """

    def __init__(self, parts):
        self.parts = parts

    def linear(self, call):
        return True

    def value(self, call, x, change=ops.convert_to_tensor):
        """`W x`, of a tensor, by kernels that are changed."""
        product, kernels, _ = self.parts(call.layer)
        kernels = [change(kernel) for kernel in kernels]
        return _each_step(call, lambda x: product(x, *kernels), x)

    def refusal(self, call):
        # An int8 kernel has a scale beside it.
        quantized = getattr(call.layer, "quantization_mode", None)
        return f"it is quantized ({quantized})" if quantized else None

    def forward(self, call, rounds):
        x, bias = call.input, _bias(call.layer)
        centre = self.value(call, (x.lower + x.upper) / 2) + bias
        radius = self.value(call, (x.upper - x.lower) / 2, ops.abs)
        slack = 0.0
        if rounds:
            size = self.value(call, x.largest, ops.abs) + ops.abs(bias)
            slack = (self.parts(call.layer)[-1] + 8) * ROUNDOFF * size
        return Interval(centre - radius - slack, centre + radius + slack, slack)

    def backward(self, call, output, coefficients, lines):
        x = call.input
        zeros = [ops.zeros_like(x.lower)]
        (found,) = pullback(lambda x: self.value(call, x), zeros, coefficients)
        terms = [coefficients * _bias(call.layer), -2 * ops.abs(coefficients) * output.slack]
        return [(x, found)], terms


def _each_step(call, function, x):
    return unfold(function(fold(x)), x) if call.each_step else function(x)


def _bias(layer):
    """What is added to the product of a layer with a kernel."""
    if getattr(layer, "bias", None) is None:
        return ops.zeros(())
    first = getattr(layer, "data_format", None) == "channels_first"
    shape = (-1, *[1] * len(layer.kernel_size)) if first else layer.bias.shape
    return ops.reshape(layer.bias, shape)


def _dense(layer):
    return ops.matmul, [layer.kernel], max(layer.kernel.shape)


def _einsum(layer):
    shape = layer.kernel.shape

    def product(x, kernel):
        return ops.einsum(layer.equation, x, kernel)

    return product, [layer.kernel], math.prod(shape) // min(shape)


def _convolution(layer):
    *taps, channels, filters = layer.kernel.shape
    product = layer.convolution_op
    if layer.padding == "causal":

        def product(x, kernel):
            axis = 1 if layer.data_format == "channels_last" else 2
            padding = [[0, 0]] * len(x.shape)
            padding[axis] = [(taps[0] - 1) * layer.dilation_rate[0], 0]
            return layer.convolution_op(ops.pad(x, padding), kernel)

    return product, [layer.kernel], math.prod(taps) * max(channels, filters)


def _geometry(layer):
    return {
        "strides": layer.strides,
        "padding": layer.padding,
        "data_format": layer.data_format,
        "dilation_rate": layer.dilation_rate,
    }


def _depthwise(layer):
    *taps, _, multiplier = layer.kernel.shape

    def product(x, kernel):
        return ops.depthwise_conv(x, kernel, **_geometry(layer))

    return product, [layer.kernel], math.prod(taps) * multiplier


def _separable(layer):
    kernels = [layer.depthwise_kernel, layer.pointwise_kernel]

    def product(x, *kernels):
        return ops.separable_conv(x, *kernels, **_geometry(layer))

    *taps, _, multiplier = kernels[0].shape
    return product, kernels, math.prod(taps) * multiplier + max(kernels[1].shape)


def _transposed(layer):
    *taps, filters, channels = layer.kernel.shape

    def product(x, kernel):
        return ops.conv_transpose(
            x, kernel, output_padding=layer.output_padding, **_geometry(layer)
        )

    return product, [layer.kernel], math.prod(taps) * max(channels, filters)


class Pair(Rule):
    """That of functions of two values, `p a + q b + r a b`: the four corners of their bounds.

    Args:
        factors: A function from the layer to `(p, q, r)`.
    """

    def __init__(self, factors):
        self.factors = factors

    def linear(self, call):
        return self.factors(call.layer)[2] == 0

    def refusal(self, call):
        shapes = [tuple(x.shape) for x in call.inputs]
        if len(shapes) == 2 and shapes[0] == shapes[1]:
            return None
        return f"it has bounds for two inputs of one shape, got {shapes}"

    def forward(self, call, rounds):
        a, b = call.inputs
        corners = [apply(call, x, y) for x in (a.lower, a.upper) for y in (b.lower, b.upper)]
        lower, upper = (function(ops.stack(corners), 0) for function in (ops.min, ops.max))
        slack = 0.0
        if rounds:
            p, q, r = map(abs, self.factors(call.layer))
            size = p * a.largest + q * b.largest + r * a.largest * b.largest
            slack = 8 * ROUNDOFF * size
        return Interval(lower - slack, upper + slack, slack)

    def backward(self, call, output, coefficients, lines):
        a, b = call.inputs
        p, q, r = self.factors(call.layer)
        low, high = positive(r * coefficients), negative(r * coefficients)
        # a b >= b.lower a + a.lower b - a.lower b.lower, and
        # a b <= b.lower a + a.upper b - a.upper b.lower (McCormick).
        on_a = p * coefficients + (low + high) * b.lower
        on_b = q * coefficients + low * a.lower + high * a.upper
        terms = [-(low * a.lower + high * a.upper) * b.lower]
        terms.append(-2 * ops.abs(coefficients) * output.slack)
        return [(a, on_a), (b, on_b)], terms


_CONNECTIONS = {
    "add": (1, 1, 0),
    "and": (0, 0, 1),
    "iand": (0, 1, -1),
    "reverse_iand": (1, 0, -1),
    "or": (1, 1, -1),
    "xor": (1, 1, -2),
}

AFFINE, ANY = Monotone("affine"), Monotone()
MOVED, LARGEST = Monotone("affine", exact=True), Monotone("convex", exact=True)
RELU, SOFTMAX = Relu(), Softmax()
ELU = Refused("alpha", lambda alpha: alpha >= 0)
UPSAMPLING = Refused("interpolation", ("nearest", "bilinear").__contains__, "affine")
PRODUCT, DIFFERENCE = Pair(lambda layer: (0, 0, 1)), Pair(lambda layer: (1, -1, 0))

ACTIVATIONS = {"relu": RELU, "softmax": SOFTMAX, "linear": MOVED}
ACTIVATIONS |= dict.fromkeys(
    [
        "sigmoid",
        "tanh",
        "softplus",
        "relu6",
        "elu",
        "selu",
        "hard_sigmoid",
        "hard_tanh",
        "exponential",
        "softsign",
    ],
    ANY,
)


def _rectifier(layer):
    if layer.max_value is None and not layer.negative_slope and not layer.threshold:
        return RELU
    return ANY if layer.negative_slope >= 0 else None


# Rules, or functions from the layer to them, by class; rules by name of operations of `keras.ops`.
LAYERS = {
    keras.layers.Activation: lambda layer: ACTIVATIONS.get(activation_of(layer)),
    keras.layers.ReLU: _rectifier,
    snn.MembraneReadout: lambda layer: Monotone("convex" if layer.mode == "max" else "affine"),
}
OPERATIONS = {}


def register(layer, rule):
    """Says how to bound a layer of one's own.

    Args:
        layer: A class of layers. It stands for subclasses too, unless they have a `call` of their
            own.
        rule: A `Rule`, such as `robust.Monotone()`, or a function from the layer to one.

    Returns:
        The class.

    Example:

    >>> class Double(keras.layers.Layer):
    ...     def call(self, x):
    ...         return 2 * x
    >>> register(Double, Monotone("affine")).__name__
    'Double'
    """
    LAYERS[layer] = rule
    return layer


for rule, names in {
    Product(_dense): "Dense",
    Product(_einsum): "EinsumDense",
    Product(_convolution): "Conv1D Conv2D Conv3D",
    Product(_depthwise): "DepthwiseConv1D DepthwiseConv2D",
    Product(_separable): "SeparableConv1D SeparableConv2D",
    Product(_transposed): "Conv1DTranspose Conv2DTranspose Conv3DTranspose",
    AFFINE: "BatchNormalization Rescaling Normalization Add Average",
    MOVED: "Flatten Reshape Permute RepeatVector Identity Concatenate",
    LARGEST: "Maximum",
    DIFFERENCE: "Subtract",
    PRODUCT: "Multiply",
    ANY: "Minimum",
    ELU: "ELU",
    SOFTMAX: "Softmax",
    NeuronRule(): "RNN",
}.items():
    LAYERS |= {getattr(keras.layers, name): rule for name in names.split()}
for rule, names in {
    AFFINE: "AveragePooling GlobalAveragePooling",
    UPSAMPLING: "UpSampling",
    MOVED: "ZeroPadding Cropping",
    LARGEST: "MaxPooling GlobalMaxPooling",
}.items():
    LAYERS |= {
        getattr(keras.layers, f"{name}{d}D"): rule for name in names.split() for d in (1, 2, 3)
    }
LAYERS |= {
    snn.SpikingRNN: NeuronRule(),
    snn.PaddedConv2D: Product(_convolution),
    snn.ThresholdDependentBatchNormalization: AFFINE,
    snn.TemporalEffectiveBatchNormalization: AFFINE,
    snn.BatchNormalizationThroughTime: AFFINE,
    snn.SumPooling2D: AFFINE,
    snn.Voting: AFFINE,
    snn.RepeatTime: MOVED,
    snn.MeanOverTime: AFFINE,
    snn.SumOverTime: AFFINE,
    snn.LastOverTime: MOVED,
    snn.MaxOverTime: LARGEST,
    snn.PoissonEncoder: Poisson(),
    snn.ClipFloorShift: ANY,
    snn.SpikeConnection: Pair(lambda layer: _CONNECTIONS[layer.mode]),
}
for rule, names in {
    AFFINE: "Add Mean Sum Average AveragePool Negative",
    MOVED: "Reshape Transpose GetItem Concatenate Stack Swapaxes Moveaxis Squeeze ExpandDims "
    "Repeat Pad Copy",
    LARGEST: "Max Amax Maximum MaxPool",
    RELU: "Relu",
    ANY: "Min Amin Minimum Clip Sigmoid Tanh Softplus Relu6 HardSigmoid HardTanh Exp Expm1 "
    "Floor Ceil Round Sign Erf",
    ELU: "Elu",
    SOFTMAX: "Softmax",
    DIFFERENCE: "Subtract",
    PRODUCT: "Multiply",
}.items():
    OPERATIONS |= dict.fromkeys(names.split(), rule)


def find(call):
    """The rule of a call.

    Raises:
        TypeError: If there is none, or its rule does not hold for the call; it is named.
    """
    layer = call.layer
    rule, reason = _lookup(call), None
    if rule is None:
        reason = "there is no rule for it, see `keras_snn.robust.register`"
    elif _is_layer(layer) and layer.compute_dtype not in ("float32", "float64"):
        reason = f"it computes in {layer.compute_dtype}, and bounds are of float32"
    else:
        reason = rule.refusal(call)
    if reason is None and call.kwargs.get("mask") is not None:
        reason = "it takes a mask"
    if reason is not None:
        raise TypeError(f"{call.name} ({type(layer).__name__}) has no bounds: {reason}.")
    return rule


def before_activation(call):
    """The output of a call on tensors, before the activation at its end."""
    if isinstance(call.layer, (keras.layers.Activation, keras.layers.Softmax)):
        return call.input
    rule = _lookup(call)
    if isinstance(rule, Product):
        return rule.value(call, call.input) + _bias(call.layer)
    return apply(call)


def activation_of(layer):
    """The name of the activation of a layer, `"linear"` if it has none."""
    function = getattr(layer, "activation", None) or keras.activations.linear
    return getattr(function, "__name__", str(function))


def _lookup(call):
    layer = call.layer
    if not _is_layer(layer):
        name = type(layer).__name__
        alone = len(_intervals(call)) == 1
        if alone and name in ("Multiply", "Subtract", "Divide", "TrueDivide"):
            return AFFINE if "Divide" not in name or isinstance(call.args[0], Interval) else None
        return OPERATIONS.get(name)
    known = next((cls for cls in type(layer).__mro__ if cls in LAYERS), None)
    if known is None or type(layer).call is not known.call or "call" in vars(layer):
        return None
    rule = LAYERS[known]
    return rule if isinstance(rule, Rule) else rule(layer)


def _is_layer(layer):
    return isinstance(layer, keras.layers.Layer)
