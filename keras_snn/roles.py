"""What Keras's layers and operations are to whoever reads a graph, see `keras_snn.graph`.

For each: what it does to time, what it multiplies, and whether it scales with its input.
"""

import dataclasses
import functools
import math

import keras
import numpy as np
from keras import ops, tree

from keras_snn import graph
from keras_snn.graph import OPERATIONS, Geometry, Product, Role, register

__all__ = ["CELLS", "cell_products", "loop_products"]


def _axes(call):
    """Axes that a layer works along, counted from the front; all where it names none."""
    rank = len(call.input.shape) + (type(call.layer).__name__ in ("ExpandDims", "Stack"))
    names = ("axis", "axes", "axis1", "axis2", "source", "destination")
    axes = [getattr(call.layer, name) for name in names if hasattr(call.layer, name)]
    if not axes or None in axes:
        return list(range(rank))
    return [axis + rank if axis < 0 else axis for axis in tree.flatten(axes)]


def _along(call):
    """`"per step"` unless the axes that a layer works along have time among them."""
    return "per step" if min(_axes(call), default=2) >= 2 else "across"


def _last_axis(call):
    return "per step" if len(call.input.shape) > 2 else "pointwise"


def _dense(call):
    shape = call.shape(call.input)
    reach = np.full((1,), call.layer.units)
    return (Product(math.prod(shape) * call.layer.units, reach=reach, each_step=_separate(call)),)


def _separate(call):
    """Whether shapes of this call are those of one step."""
    return bool(call.reads_time) and call.shape(call.input) == tuple(call.input.shape[2:])


def _convolution(call):
    layer, each_step = call.layer, _separate(call)
    if "Separable" not in type(layer).__name__:
        return [_convolved(layer, call.shape(call.input), each_step=each_step)]
    first = _convolved(layer, call.shape(call.input), each_step=each_step)
    geometry = Geometry.of(layer, (None, *call.shape(call.input)))
    channels = geometry.channels * layer.depth_multiplier
    macs = math.prod(geometry.outputs) * channels * geometry.filters
    return [first, Product(macs, reads="values", each_step=each_step)]


def _convolved(layer, shape, **fields):
    """The product of a convolution (of a separable one, the first) on an input of this shape."""
    geometry = Geometry.of(layer, (None, *shape))
    separable = "Separable" in type(layer).__name__
    filters = geometry.channels * layer.depth_multiplier if separable else geometry.filters
    each = filters // geometry.groups
    positions = geometry.sizes if geometry.transposed else geometry.outputs
    macs = math.prod(positions) * geometry.taps * each * geometry.channels
    reach = geometry.reach() * each
    return Product(
        macs, reach=reach[None] if geometry.channels_first else reach[..., None], **fields
    )


def _sizes(call, x):
    """The shape of one example as the layer sees it, with a batch axis of 1; of a single step."""
    if call.each_step:
        return (1, *x.shape[2:])
    return (1, 1, *x.shape[2:]) if _separate(call) else (1, *x.shape[1:])


def _contraction(call, equation, *shapes, reads=0, multiply=None):
    """A product by an equation as that of `einsum`, and the shape of what comes out."""
    sources, target = equation.replace(" ", "").split("->")
    sources = sources.split(",")
    rank = max(len(s) - len(source.replace("...", "")) for s, source in zip(shapes, sources))
    free = [chr(code) for code in range(0x3B1, 0x3B1 + rank)]  # no letters that Keras uses
    sizes = {}
    for source, shape in zip(sources, shapes):
        own = len(shape) - len(source.replace("...", ""))
        labels = list(source.replace("...", "".join(free[rank - own :])))
        for label, size in zip(labels, shape):
            sizes[label] = max(size, sizes.get(label, 1))
    product = Product(
        math.prod(sizes.values()), reads, _separate(call) or call.each_step, multiply=multiply
    )
    return product, tuple(sizes[label] for label in target.replace("...", "".join(free)))


def _einsum_dense(call):
    kernel = call.layer.kernel.shape
    return (_contraction(call, call.layer.equation, _sizes(call, call.input), kernel)[0],)


def _keeps_steps(call):
    """Whether an equation gives each step from the same step of all tensors of the graph."""
    equation = getattr(call.layer, "equation", None) or call.layer.subscripts
    sources, _, target = equation.replace(" ", "").partition("->")
    if any(source.startswith("...") for source in sources.split(",")):
        free = [len(x.shape) + 3 - len(s) for s, x in zip(sources.split(","), call.inputs)]
        return "per step" if "," in sources and min(free) > 1 else "across"
    symbolic = zip(sources.split(","), call.inputs)
    steps = {source[1:2] for source, x in symbolic if isinstance(x, keras.KerasTensor)}
    return "per step" if steps == {target[1:2]} else "across"


def _again(call, *tensors):
    """The output of a call on other tensors than its first ones."""
    rest = iter(tensors)
    args, kwargs = tree.map_structure(
        lambda x: next(rest, x) if hasattr(x, "shape") else x, (call.args, call.kwargs)
    )
    return dataclasses.replace(call, args=args, kwargs=kwargs)()


def _pair(call, macs):
    """The product of two tensors, of which one may be a constant."""
    first, second = (isinstance(x, keras.KerasTensor) for x in call.inputs[:2])
    if first and second:
        multiply = functools.partial(_again, call)
        return (Product(macs, (0, 1), _separate(call) or call.each_step, multiply=multiply),)
    return (Product(macs, 0 if first else 1, _separate(call) or call.each_step),)


def _matmul_products(call):
    shared = call.inputs[0].shape[-1]
    return _pair(call, math.prod(_sizes(call, call.outputs[0])) * shared)


def _einsum_products(call):
    if len(call.inputs) != 2 or "->" not in call.layer.subscripts:
        return None
    symbolic = [isinstance(x, keras.KerasTensor) for x in call.inputs]
    shapes = [_sizes(call, x) if s else x.shape for x, s in zip(call.inputs, symbolic)]
    return _pair(call, _contraction(call, call.layer.subscripts, *shapes)[0].macs)


def _dot_products(call):
    """Of a `Dot` layer: cosines are products of what no spikes are."""
    axes = call.layer.axes
    first = axes if isinstance(axes, int) else axes[0]
    macs = math.prod(_sizes(call, call.outputs[0])) * call.inputs[0].shape[first]
    if call.layer.normalize:
        return (Product(macs, "values", False),)
    return _pair(call, macs)


def _attention(call):
    """Scores of queries and keys, and the values that they weigh."""
    layer, found = call.layer, []
    query, value, *key = (_sizes(call, x) for x in call.inputs[:3])
    key, place = (key[0], 2) if key else (value, 1)
    scores = math.prod(query) * key[-2]
    if isinstance(layer, keras.layers.AdditiveAttention):
        found += [Product(scores, "values", _separate(call))] if layer.use_scale else []
    elif layer.score_mode == "dot":

        def multiply(q, k):
            return ops.matmul(q, ops.swapaxes(k, -1, -2))

        found.append(Product(scores, (0, place), _separate(call), multiply=multiply))
    return [*found, Product(math.prod(query[:-1]) * math.prod(value[-2:]), 1, _separate(call))]


def _projected_attention(call):
    """Four projections, of which the last reads no spikes, nor do the products in between."""
    layer, shapes, products = call.layer, {}, []
    projections, score_equation, weigh_equation = graph.attention(layer)
    inputs = call.inputs
    names = {name: call.argument(name) for name in ("query", "value", "key")}
    names["key"] = names["value"] if names["key"] is None else names["key"]
    for name, tensor in names.items():
        dense = projections[name]
        place = next(i for i, x in enumerate(inputs) if x is tensor)
        shape = _sizes(call, tensor)
        product, shapes[name] = _contraction(
            call, dense.equation, shape, dense.kernel.shape, reads=place
        )
        products.append(product)
    if hasattr(layer, "num_repeats"):  # groups of queries share keys and values
        heads = shapes["query"][-2]
        for name in ("key", "value"):
            *rest, _, size = shapes[name]
            shapes[name] = (*rest, heads, size)
    # Keras's `MultiHeadAttention` names keys first, its `GroupQueryAttention` queries.
    order = ("query", "key") if hasattr(layer, "num_repeats") else ("key", "query")
    scores, weights = _contraction(
        call, score_equation, *(shapes[name] for name in order), reads="values"
    )
    weighed, result = _contraction(call, weigh_equation, weights, shapes["value"], reads="values")
    dense = projections["output"]
    last, _ = _contraction(call, dense.equation, result, dense.kernel.shape, reads="values")
    return [*products, scores, weighed, last]


def _attends(call):
    """Whether attention leaves time alone: it is along other axes."""
    axes = graph.attention_axes(call.layer)
    return "across" if axes is None or 1 in axes else "per step"


def _gates(count):
    """Products of a cell of Keras with so many gates."""

    def products(cell, shape):
        units = count * cell.units
        return [Product(shape[-1] * units, 0), Product(cell.units * units, "output")]

    return products


def _gated_convolution(cell, shape):
    """Those of a cell with four gates, each of a convolution of the input and one of the state."""
    state = cell.get_initial_state(1)[0].shape[1:]
    kind = getattr(keras.layers, f"Conv{len(shape) - 1}D")
    common = {"filters": 4 * cell.filters, "data_format": cell.data_format}
    common["kernel_size"] = cell.kernel_size
    own = {"strides": cell.strides, "dilation_rate": cell.dilation_rate, "padding": cell.padding}
    return [
        _convolved(kind(**common, **own), shape, reads=0, each_step=True),
        _convolved(kind(**common, padding="same"), state, reads="output", each_step=True),
    ]


# Functions from a cell and the shape of a step's input to its products, by class. What follows a
# cell in a stack reads what comes out of it: no spikes, of these.
CELLS = {
    keras.layers.LSTMCell: _gates(4),
    keras.layers.GRUCell: _gates(3),
    keras.layers.SimpleRNNCell: _gates(1),
    graph.ConvLSTMCell: _gated_convolution,
}


def cell_products(cell, shape):
    """Products of one step of a cell.

    Args:
        cell: A built cell of a recurrent layer.
        shape: Shape of a step's input, without the batch axis.

    Returns:
        A list of `Product`s; `None` if nobody knows them.
    """
    if isinstance(cell, keras.layers.StackedRNNCells):
        return _stacked_products(cell, shape)
    known = next((cls for cls in type(cell).__mro__ if cls in CELLS), None)
    if known is None or type(cell).call is not known.call:
        return None
    return CELLS[known](cell, shape)


def _stacked_products(stack, shape):
    found, follows = [], False
    for place, cell in enumerate(stack.cells):
        products = cell_products(cell, shape)
        if products is None:
            return None
        plain = type(cell).__module__.startswith("keras.")
        for product in products:
            seen = place == 0 if product.reads == 0 else cell is stack.cells[-1]
            hidden = follows if product.reads == 0 else plain  # what stays within the loop
            if not seen and not hidden:
                return None  # may be spikes, which nobody sees
            found.append(product if seen else dataclasses.replace(product, reads="values"))
        follows, shape = plain, (cell.units,) if hasattr(cell, "units") else shape
    return found


def loop_products(call):
    """Products of a recurrent layer: those of its cell."""
    shape = call.shape(call.input)
    if not call.each_step:
        return cell_products(call.layer.cell, shape)
    steps, *shape = shape  # a loop over an axis of each step
    products = cell_products(call.layer.cell, tuple(shape))
    if products is None or any(p.reads == "output" and call.spikes for p in products):
        return None
    return [dataclasses.replace(p, macs=steps * p.macs) for p in products]


def _both_directions(call):
    found = []
    for layer in (call.layer.forward_layer, call.layer.backward_layer):
        inner = dataclasses.replace(call, layer=layer, operation=layer)
        products = inner.products
        if products is None or inner.spikes:
            return None
        found += products
    return found


def _causal(call):
    """Steps before the present one that a convolution over time looks at."""
    layer = call.layer
    causal = layer.padding == "causal" and set(graph.each_axis(layer.strides, (1,))) == {1}
    if not causal or layer.data_format != "channels_last":
        return None
    return (layer.kernel_size[0] - 1) * layer.dilation_rate[0]


def _permute(call):
    return "per step" if call.layer.dims[0] == 1 else "across"


def _fill(layers, names, *role, **fields):
    for name in names.split():
        cls = getattr(layers, name, None)
        if cls is not None:
            register(cls, *role, **fields)


_fill(
    keras.layers,
    "Activation Add Average Subtract Multiply Maximum Minimum ELU LeakyReLU ReLU Rescaling "
    "Masking Discretization InputLayer",
    "pointwise",
)
_fill(
    keras.layers,
    "Dropout AlphaDropout GaussianNoise GaussianDropout ActivityRegularization SpatialDropout1D "
    "SpatialDropout2D SpatialDropout3D AugMix CutMix MixUp RandAugment RandomBrightness "
    "RandomColorDegeneration RandomColorJitter RandomContrast RandomElasticTransform RandomErasing "
    "RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective "
    "RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear "
    "RandomTranslation RandomZoom Solarization",
    "pointwise",
    idle=True,
)
_fill(keras.layers, "Identity", "pointwise", linear=True)
_fill(
    keras.layers,
    "Softmax Concatenate",
    _along,
)
# A scale and a shift cost a multiply-accumulate, squares for a norm another one, means a sum.
_fill(keras.layers, "BatchNormalization", _along, updates=lambda call: (0, 1, 0), folds=True)
_fill(keras.layers, "Normalization", _along, updates=lambda call: (0, 1, 0))
_fill(keras.layers, "LayerNormalization", _along, updates=lambda call: (0, 2, 1))
_fill(keras.layers, "RMSNormalization UnitNormalization", _along, updates=lambda call: (0, 2, 0))
_fill(keras.layers, "GroupNormalization", "across", updates=lambda call: (0, 2, 1))
_fill(keras.layers, "PReLU", "across", updates=lambda call: (0, 1, 0))
_fill(keras.layers, "Embedding", "per step")
_fill(keras.layers, "EinsumDense", _keeps_steps, products=_einsum_dense)
_fill(keras.layers, "Dense", _last_axis, products=_dense)
_fill(keras.layers, "Permute", _permute, linear=True)
_fill(keras.layers, "Conv1D SeparableConv1D", "across", memory=_causal, products=_convolution)
_fill(
    keras.layers,
    "DepthwiseConv1D Conv1DTranspose Conv2D Conv2DTranspose DepthwiseConv2D SeparableConv2D Conv3D "
    "Conv3DTranspose",
    "across",
    products=_convolution,
)
for names, linear in (
    ("MaxPooling GlobalMaxPooling AdaptiveMaxPooling", False),
    ("AveragePooling GlobalAveragePooling AdaptiveAveragePooling", True),
    ("ZeroPadding Cropping UpSampling", True),
):
    names = " ".join(f"{n}{d}D" for n in names.split() for d in (1, 2, 3))
    _fill(keras.layers, names, "across", linear=linear)
_fill(keras.layers, "Flatten", "across", linear=True)
_fill(
    keras.layers,
    "CenterCrop Resizing RandomCrop AutoContrast Equalization Pipeline",
    "across",
)
_fill(keras.layers, "RepeatVector", "adds", memory=0, linear=True)
_fill(
    keras.layers,
    "RNN LSTM GRU SimpleRNN ConvLSTM1D ConvLSTM2D ConvLSTM3D",
    "recurrent",
    products=loop_products,
)
_fill(keras.layers, "Bidirectional", "across", products=_both_directions)
_fill(keras.layers, "Attention AdditiveAttention", "across", products=_attention)
_fill(
    keras.layers,
    "MultiHeadAttention GroupQueryAttention",
    _attends,
    products=_projected_attention,
)
_fill(keras.layers, "Dot", "across", products=_dot_products)


def _reshaped(call):
    """Whether a reshape keeps axis 1, whose size must be known for that."""
    target = getattr(call.layer, "target_shape", None)
    steps = call.layer.newshape[1:2] if target is None else target[:1]
    return "per step" if tuple(steps) == tuple(call.input.shape[1:2]) else "across"


def _transposed(call):
    axes = call.layer.axes
    return "per step" if axes is not None and tuple(axes[:2]) == (0, 1) else "across"


def _key(call):
    """What stands in the brackets of `x[...]`, an entry an axis."""
    key = call.args[1] if len(call.args) > 1 else call.kwargs["key"]
    return key if isinstance(key, tuple) else (key,)


def _sliced(call):
    """Whether `x[...]` takes axes 0 and 1 whole."""
    return "per step" if all(k == slice(None) for k in _key(call)[:2]) else "across"


def _padded(call):
    widths = call.layer.pad_width
    plain = len(widths) > 2 and not any(np.ravel(widths[:2]))
    return "per step" if plain else "across"


def _matmul(call):
    ranks = [len(x.shape) for x in call.inputs]
    plain = ranks[0] > 2 and ranks[1:] == [2]
    return "per step" if plain or min(ranks, default=0) > 3 else "across"


def _spares_batch(call):
    return 0 not in _axes(call)


def _same_size(call):
    sizes = [math.prod(n or -1 for n in x.shape[1:]) for x in (call.input, call.output)]
    return sizes[0] == sizes[1]


def _takes_batch(call):
    """Whether `x[...]` takes axis 0 whole."""
    first = _key(call)[0]
    return first is Ellipsis or first == slice(None)


def _pads_zeros(call):
    padding = np.broadcast_to(call.layer.pad_width, (len(call.input.shape), 2))
    value = call.kwargs.get("constant_values")
    return call.layer.mode == "constant" and not value and not padding[0].any()


_fill(keras.layers, "Reshape", _reshaped, linear=True)
_ALONG_AXES = (
    "Max Min Prod Std Var Any All Amax Amin Softmax LogSoftmax Cumprod Sort Argmax Argmin Argsort "
    "Logsumexp Normalize Stack Average CountNonzero Diff Median Nanmax Nanmean Nanmin Nanstd "
    "Nansum Nanvar Norm Quantile Split Take Glu LayerNorm RMSNorm Moments Sparsemax"
)
_LINEAR_ALONG_AXES = (
    "Mean Sum Cumsum Flip Roll Concatenate Swapaxes Moveaxis Squeeze ExpandDims Repeat"
)
_ELEMENTWISE = (
    "Abs Absolute Add Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Cast Cbrt Ceil Celu "
    "Clip Copy Cos Cosh Deg2rad Divide DivideNoNan Elu EmptyLike Equal Erf Erfc Erfinv Exp Exp2 "
    "Expm1 Fabs Floor FloorDivide Fmax Fmin Fmod FullLike Gelu Greater GreaterEqual HardShrink "
    "HardSigmoid HardSilu HardTanh Heaviside Hypot Isclose Isfinite Isinf Isnan Ldexp LeakyRelu "
    "Less LessEqual Log Log10 Log1p Log2 LogSigmoid Logaddexp Logaddexp2 LogicalAnd LogicalNot "
    "LogicalOr LogicalXor Maximum Minimum Mod Multiply NanToNum Negative NotEqual OnesLike Power "
    "Rad2deg Reciprocal Relu Relu6 Round Rsqrt SaturateCast Selu Sigmoid Sign Signbit Silu Sin "
    "Sinc Sinh SoftShrink Softplus Softsign SparsePlus SparseSigmoid Sqrt Square Squareplus "
    "StopGradient Subtract Tan Tanh TanhShrink Threshold TrueDivide Trunc Where ZerosLike "
)
OPERATIONS |= {
    **dict.fromkeys(_ELEMENTWISE.split(), Role("pointwise")),
    **dict.fromkeys(_ALONG_AXES.split(), Role(_along)),
    **dict.fromkeys(_LINEAR_ALONG_AXES.split(), Role(_along, linear=_spares_batch)),
    "Reshape": Role(_reshaped, linear=_same_size),
    "Transpose": Role(
        _transposed, linear=lambda call: bool(call.layer.axes) and call.layer.axes[0] == 0
    ),
    "GetItem": Role(_sliced, linear=_takes_batch),
    "Cast": Role("pointwise", linear=lambda call: "float" in call.layer.dtype),
    "Pad": Role(_padded, linear=_pads_zeros),
    "AveragePool": Role("across", linear=True),
    **dict.fromkeys(("MaxPool", "Resize", "BroadcastTo", "Tile"), Role("across")),
    "OneHot": Role("per step"),
    "Matmul": Role(_matmul, products=_matmul_products),
    "Einsum": Role(_keeps_steps, products=_einsum_products),
}
