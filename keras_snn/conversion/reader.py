"""A trained ANN, read into nodes: what is weighted, what fires, what may stay as it is.

Reading decides what becomes of every layer before any work is done; what can't be converted is an
error that names each kind of layer and reason. `build_ann` and `build_snn` put Keras layers
together again: the ANN as it was understood (with normalisation folded), or the spiking network.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_snn import layers as snn
from keras_snn.graph import Call, check_functional, get_mask, normalization, trace

__all__ = ["Graph", "Node", "read"]

LAYERS = keras.layers
INFINITY = float("inf")


@dataclasses.dataclass
class Node:
    """One operation of the network.

    Attributes:
        name: Unique name, that of the layer it comes from.
        kind: `"input"`; `"before"` (a function of the inputs, before anything that is weighted);
            `"weighted"` (kernel and bias); `"affine"` (scale and shift: a normalisation that is
            left, or constants); `"neuron"` (a ReLU); `"maximum"` (max pooling); `"sum"`;
            `"concatenation"`; `"linear"` (anything else that scales with its input); `"dropout"`;
            `"identity"` (a normalisation that was folded); `"activation"`, then `"left"` (a softmax
            or sigmoid at the end).
        inputs: Indices of the nodes it reads.
        call: The call in the ANN.
        layer: The layer, which may stand for an operation of the ANN; `None` for others.
        tensor: The tensor of the ANN that this node computes, of neurons.
        place: Which output of the call it is.
        kernel: Weights of a weighted node, with a normalisation folded in.
        bias: Its bias, or `None`.
        scale: Factor of an affine node.
        shift: What it adds.
        cap: Largest output of a neuron's ReLU.
        levels: Levels of a neuron's `ClipFloorShift`, or `None`.
        axis: Axis of a normalisation or concatenation, counted from the end.
        function: The activation at the end that is left.
        constant: Whether it is the same at every step.
    """

    name: str
    kind: str
    inputs: tuple
    call: Call | None = None
    layer: Any = None
    tensor: Any = None
    place: int = 0
    kernel: list | None = None
    bias: Any = None
    scale: Any = 1.0
    shift: Any = 0.0
    cap: float = INFINITY
    levels: int | None = None
    axis: int = -1
    function: Callable | None = None
    constant: bool = False

    @property
    def each_step(self):
        """Whether the ANN applies it to each entry of axis 1 by itself."""
        return self.call is not None and self.call.each_step


@dataclasses.dataclass
class Entry:
    """What became of a layer: a line of the report."""

    layer: str
    kind: str
    action: str
    note: str = ""
    node: int | None = None


@dataclasses.dataclass
class Graph:
    """The network as nodes, in the order of computation.

    Attributes:
        nodes: The nodes; the inputs come first.
        inputs: Indices of the inputs.
        outputs: Indices of the outputs.
        entries: What became of each layer.
        source: The ANN's own symbolic tensors: `(inputs, outputs)`.
        left: By the place of an output: the activation that it has in the ANN, and is left.
    """

    nodes: list
    inputs: list
    outputs: list
    entries: list
    source: tuple
    left: dict = dataclasses.field(default_factory=dict)

    def consumers(self, index):
        """Indices of the nodes that read a node; `-1` for each output that it is."""
        found = [i for i, node in enumerate(self.nodes) for j in node.inputs if j == index]
        return found + [-1 for output in self.outputs if output == index]

    def neurons(self):
        """Indices of the neurons."""
        return [i for i, node in enumerate(self.nodes) if node.kind == "neuron"]

    def timed(self):
        """For each node, whether a neuron comes before it or it is one."""
        found = []
        for node in self.nodes:
            found.append(node.kind == "neuron" or any(found[i] for i in node.inputs))
        return found

    def average(self):
        """Puts average pooling in the place of max pooling; whether there was any."""
        pooled = [node for node in self.nodes if node.kind == "maximum"]
        for node in pooled:
            name = type(node.layer).__name__.replace("Max", "Average")
            node.layer = getattr(LAYERS, name).from_config(node.layer.get_config())
            node.kind = "linear"
        return bool(pooled)


POOLING = [
    getattr(LAYERS, f"{kind}MaxPooling{n}D")
    for kind in ("", "Global", "Adaptive")
    for n in (1, 2, 3)
    if hasattr(LAYERS, f"{kind}MaxPooling{n}D")
]
# Axis of the output channels in the kernel that can be scaled, from the end.
WEIGHTED = {
    LAYERS.Dense: -1,
    **{getattr(LAYERS, f"Conv{n}D"): -1 for n in (1, 2, 3)},
    snn.PaddedConv2D: -1,
    **{getattr(LAYERS, f"Conv{n}DTranspose"): -2 for n in (1, 2, 3)},
    **{getattr(LAYERS, f"DepthwiseConv{n}D"): None for n in (1, 2)},
    **{getattr(LAYERS, f"SeparableConv{n}D"): -1 for n in (1, 2)},
}
CAPS = {"relu": INFINITY, "relu6": 6.0}
OUTPUT_ACTIVATIONS = ("softmax", "sigmoid", "log_softmax")


def read(model, max_pooling, input_coding="direct"):
    """Reads a model.

    Args:
        model: A functional or Sequential model, with weights.
        max_pooling: `"refuse"`, `"average"` or `"spiking"`. The nodes are those of the ANN itself;
            `Graph.average` replaces max pooling.
        input_coding: `"direct"` or `"poisson"`.

    Returns:
        A `Graph`.

    Raises:
        TypeError: If the model is no such one.
        ValueError: If a layer can't be converted; each kind of layer and reason is named.
    """
    check_functional(model, "Conversion")
    return _Reader(model, max_pooling, input_coding).graph


class _Reader:
    def __init__(self, model, max_pooling, input_coding):
        self.max_pooling, self.direct = max_pooling, input_coding == "direct"
        self.nodes, self.entries, self.refused, self.known = [], [], {}, {}
        found = trace(model)
        for tensor in found.inputs:
            self.known[id(tensor)] = self.add(tensor.name, "input", (), constant=True)
        inputs = list(range(len(self.nodes)))
        for call in found.calls:
            sources = [self.known[id(x)] for x in call.inputs if id(x) in self.known]
            index = self.read(call, sources)
            indices = index if isinstance(index, list) else [index] * len(call.outputs)
            self.known |= {id(x): i for x, i in zip(call.outputs, indices)}
        outputs = [self.known[id(x)] for x in found.outputs]
        source = found.inputs, found.outputs
        self.graph = Graph(self.nodes, inputs, outputs, self.entries, source)
        self.leave_output_activations()
        self.check()
        self.fold()

    def read(self, call, sources):
        """Adds what a call is; the index of its node, or one for each of its outputs."""
        rule = _find(call.layer, ACTIVE)
        if call.role.idle and rule is None:
            return self.nothing(call, sources)
        if call.mask is not None and all(get_mask(x) is None for x in call.inputs):
            return self.refuse(call, sources, "it makes a mask, which no spiking layer reads")
        if rule is None and self.prepares(call, sources):
            return self.before(call, sources)
        if len(call.outputs) != 1:
            return self.refuse(call, sources, "it has several outputs")
        rule = rule or _find(call.layer, PASSIVE) or (call.linear and _Reader.linear)
        return rule(self, call, sources) if rule else self.refuse(call, sources, _hint(call))

    def add(self, name, kind, sources, call=None, note="", action="kept", told=True, **fields):
        """Adds a node, and its line of the report; its index."""
        name = name.replace("/", "_").replace(":", "_")
        taken = {node.name for node in self.nodes}
        base, count = name, 1
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        fields.setdefault("constant", all(self.nodes[i].constant for i in sources))
        self.nodes.append(Node(name, kind, tuple(sources), call, **fields))
        if call is not None and told:
            self.tell(call, action, note, len(self.nodes) - 1)
        return len(self.nodes) - 1

    def tell(self, call, action, note="", node=None):
        self.entries.append(Entry(call.name, type(call.layer).__name__, action, note, node))

    def refuse(self, call, sources, why):
        self.refused.setdefault((type(call.layer).__name__, why), []).append(call.name)
        return self.add(call.name, "refused", sources)

    def check(self):
        """Raises if anything was refused, before any work."""
        if self.refused:
            lines = []
            for (kind, why), names in self.refused.items():
                more = f" and {len(names) - 3} more" if len(names) > 4 else ""
                lines.append(f"{', '.join(names[:3] if more else names)}{more} ({kind}): {why}")
            raise ValueError("The model can't be converted:\n  " + ";\n  ".join(lines) + ".")
        if not any(node.kind == "neuron" for node in self.nodes):
            raise ValueError(
                "The model has no ReLU: there is nothing that could become a spiking neuron."
            )

    def is_input(self, sources):
        """Whether nodes are functions of the inputs, before anything that is weighted."""
        return all(self.nodes[i].kind in ("input", "before") for i in sources)

    def prepares(self, call, sources):
        """Whether a call is a function of the inputs that stays in front of what is converted."""
        if not self.is_input(sources):
            return False
        if not isinstance(call.layer, LAYERS.Layer):
            return True
        known = call.role.time != "unknown" and call.time != "recurrent" and call.products == ()
        return known and not any(weight.trainable for weight in call.layer.weights)

    def before(self, call, sources, note="of the input only"):
        if call.each_step and len(sources) > 1 and call.role.time != "pointwise":
            return self.refuse(call, sources, "it joins tensors within each step")
        indices = [
            self.add(call.name, "before", sources, call, note, told=not place, place=place)
            for place in range(len(call.outputs))
        ]
        return indices if len(indices) > 1 else indices[0]

    def nothing(self, call, sources):
        self.tell(call, "removed", "does nothing in inference")
        return sources[0]

    def weighted(self, call, sources):
        layer = call.layer
        if getattr(layer, "quantization_mode", None):
            why = f"its weights are {layer.quantization_mode}; convert, then quantize"
            return self.refuse(call, sources, why)
        kernel, bias = _weights(layer)
        if not all(np.isfinite(w).all() for w in (*kernel, 0.0 if bias is None else bias)):
            return self.refuse(call, sources, "its weights are not finite")
        note = "" if bias is None else "bias as a current of every step"
        index = self.add(
            call.name, "weighted", sources, call, note, "converted",
            layer=layer, kernel=kernel, bias=bias,
        )  # fmt: skip
        return self.activation(call, layer.activation, index, "_neuron")

    def activation(self, call, function, index, suffix=""):
        """The activation of a layer, on its output."""
        if isinstance(function, LAYERS.ReLU):
            return self.relu(call, [index], function, suffix)
        name = _name_of(function)
        if function is keras.activations.linear:
            return index if suffix else self.nothing(call, [index])
        if name in CAPS and _is_relu(function, CAPS[name]):
            return self.neuron(call, index, CAPS[name], suffix)
        if name in OUTPUT_ACTIVATIONS:
            name = f"{call.name}_{name}"
            return self.add(name, "activation", [index], call, function=function)
        why = f"its activation is {name!r}; only ReLUs become neurons"
        return self.refuse(call, [index], why)

    def standalone_activation(self, call, sources):
        return self.activation(call, call.layer.activation, sources[0])

    def softmax(self, call, sources):
        name = f"{call.name}_{_name_of(call.layer)}"
        return self.add(name, "activation", sources, call, function=call.layer)

    def neuron(self, call, index, cap, suffix="", **fields):
        note = "" if cap == INFINITY else f"rate capped at {cap:g}"
        fields |= {"cap": cap, "tensor": call.output, "constant": False}
        return self.add(
            f"{call.name}{suffix}", "neuron", [index], call, note, "converted", **fields
        )

    def relu(self, call, sources, relu=None, suffix=""):
        """A ReLU layer or operation, or one that is the activation of a layer."""
        relu = relu or call.layer
        if relu.negative_slope or relu.threshold:
            why = "only ReLUs without a slope or a threshold become neurons"
            return self.refuse(call, sources, why)
        cap = INFINITY if relu.max_value is None else float(relu.max_value)
        return self.neuron(call, sources[0], cap, suffix)

    def clipped(self, call, sources):
        """`clip(x, 0, cap)` and `maximum(x, 0)`."""
        if len(sources) > 1:
            return self.refuse(call, sources, _hint(call))
        if type(call.layer).__name__ == "Clip":
            low, cap = call.layer.x_min, call.layer.x_max
        else:
            low, cap = _constant(call), INFINITY
        if np.size(low) != 1 or np.size(cap) != 1 or np.any(low) or not np.all(cap > 0):
            why = "only clipping below 0, and above one number, is a ReLU"
            return self.refuse(call, sources, why)
        return self.neuron(call, sources[0], float(cap))

    def clip_floor_shift(self, call, sources):
        maximum = float(ops.convert_to_numpy(call.layer.maximum_weight))
        return self.neuron(call, sources[0], maximum, levels=call.layer.levels)

    def normalization(self, call, sources):
        # What it folds into is known when the whole graph is.
        scale, shift = normalization(call.layer)
        return self.add(
            call.name, "affine", sources, call,
            layer=call.layer, scale=scale, shift=shift, axis=_from_end(call, call.layer.axis),
        )  # fmt: skip

    def pooled(self, call, sources):
        if self.direct and all(self.nodes[i].constant for i in sources):
            return self.before(call, sources, "the same at every step")
        layer = _layer_of(call)
        if layer is None or (call.each_step and layer is not call.layer):
            return self.refuse(call, sources, "only the maximum of all places of a map is pooling")
        if self.max_pooling == "refuse":
            why = 'there is no exact counterpart; convert with `max_pooling="average"` or "spiking"'
            return self.refuse(call, sources, why)
        average = self.max_pooling == "average"
        why = None if average else self.why_not_spiking(call, layer)
        if why:
            return self.refuse(call, sources, why)
        note = "by average pooling" if average else "by spiking max pooling"
        return self.add(call.name, "maximum", sources, call, note, "replaced", layer=layer)

    def why_not_spiking(self, call, layer):
        name, shape = type(layer).__name__, call.input.shape
        if "Adaptive" in name or call.each_step:
            return "spiking max pooling has fixed windows, and no steps within a step"
        if layer.data_format != keras.config.image_data_format():
            return "its data format is not that of `keras.config`"
        if "Global" in name and None in shape[1:]:
            return f"spiking max pooling needs the size of its maps, got {shape}"
        return None

    def linear(self, call, sources):
        if call.each_step and not isinstance(call.layer, LAYERS.Layer):
            return self.refuse(call, sources, "this operation works along axes within each step")
        return self.add(call.name, "linear", sources, call, layer=_layer_of(call))

    def affine(self, call, sources):
        """A tensor and constants: `scale * x + shift`."""
        if len(sources) > 1:
            kind = type(call.layer).__name__
            if kind in ("Add", "Subtract"):
                return self.sum(call, sources)
            what = "multiplies" if kind == "Multiply" else "divides"
            return self.refuse(call, sources, f"it {what} two tensors; that is not linear")
        numbers = _scale_and_shift(call)
        tensor = next(x for x in call.inputs if id(x) in self.known)
        if numbers is None:
            return self.refuse(call, sources, "it divides by a tensor; that is not linear")
        rank = len(tensor.shape) - 1
        scale, shift = (
            n.reshape(n.shape[1:]) if n.ndim == rank + 1 and len(n) == 1 else n for n in numbers
        )
        if tuple(call.output.shape) != tuple(tensor.shape) or max(scale.ndim, shift.ndim) > rank:
            return self.refuse(call, sources, "its constant has more axes than an example")
        return self.add(call.name, "affine", sources, call, scale=scale, shift=shift)

    def scaled(self, call, index, factor, suffix):
        """A constant factor that is part of another node."""
        name = f"{call.name}_{suffix}"
        return self.add(name, "affine", [index], call, told=False, scale=np.asarray(factor))

    def sum(self, call, sources):
        if len({len(x.shape) for x in call.inputs}) != 1 or len(sources) < 2:
            if any(self.nodes[i].kind == "refused" for i in sources):
                return sources[0]  # whose shape is not what it would be
            why = "it adds a constant, or tensors of several ranks"
            return self.refuse(call, sources, why)
        kind = type(call.layer).__name__
        if kind == "Subtract":
            sources = [sources[0], self.scaled(call, sources[1], -1.0, "minus")]
        index = self.add(call.name, "sum", sources, call)
        return index if kind != "Average" else self.scaled(call, index, 1 / len(sources), "share")

    def scaled_sum(self, call, sources):
        """`x + scale y` of InceptionResNetV2."""
        scaled = self.scaled(call, sources[1], call.layer.scale, "scaled")
        return self.sum(call, [sources[0], scaled])

    def connection(self, call, sources):
        if call.layer.mode != "add":
            why = f"only sums join paths of rates, not {call.layer.mode!r}"
            return self.refuse(call, sources, why)
        return self.sum(call, sources)

    def product(self, call, sources):
        return self.refuse(call, sources, "it multiplies two tensors; that is not linear")

    def concatenation(self, call, sources):
        axis = _from_end(call, call.layer.axis)
        if len(sources) != len(call.inputs) or -axis == _rank(call):
            return self.refuse(call, sources, "it joins constants, or examples")
        return self.add(call.name, "concatenation", sources, call, axis=axis)

    def dropout(self, call, sources):
        return self.add(
            call.name, "dropout", sources, call, "by TimeConstantDropout", "replaced",
            layer=call.layer,
        )  # fmt: skip

    def leave_output_activations(self):
        """A softmax at the end leaves: the readout gives logits."""
        for index, node in enumerate(self.nodes):
            if node.kind != "activation":
                continue
            entry = next(e for e in self.entries if e.node == index)
            if set(self.graph.consumers(index)) == {-1}:
                entry.action, entry.note = "replaced", "left; the readout gives its logits"
                entry.node = None
                node.kind = "left"
                for place, output in enumerate(self.graph.outputs):
                    if output == index:
                        self.graph.left[place] = node.function
                        self.graph.outputs[place] = node.inputs[0]
            else:
                why = f"its activation, {_name_of(node.function)}, is supported as an output only"
                self.refuse(node.call, [index], why)

    def fold(self):
        """Folds each normalisation into the weighted node before it, where there is one."""
        for index, node in enumerate(self.nodes):
            if node.kind != "affine" or node.layer is None:
                continue
            entry = next(e for e in self.entries if e.node == index)
            previous = self.nodes[node.inputs[0]]
            if previous.kind != "weighted" or self.graph.consumers(node.inputs[0]) != [index]:
                entry.note = "no weighted layer before it alone"
                continue
            if node.axis != _channel_axis(previous.layer):
                entry.note = "not over the channels"
                continue
            axis = WEIGHTED[type(previous.layer)]
            kernel = previous.kernel[-1]
            if axis is None:
                scaled = kernel * node.scale.reshape(kernel.shape[-2:])
            else:
                scaled = kernel * node.scale.reshape(-1, *[1] * (-1 - axis))
            bias = 0.0 if previous.bias is None else previous.bias
            previous.kernel = [*previous.kernel[:-1], scaled]
            previous.bias = bias * node.scale + node.shift
            entry.action, entry.note = "folded", f"into {previous.name}"
            node.kind = "identity"


def _find(layer, rules):
    """The rule for a layer by its class, no subclass; by the class's name for an operation, or a
    layer of `keras.applications` that Keras does not export.
    """
    kind = type(layer)
    inner = kind.__module__.startswith("keras.") and ".applications." in kind.__module__
    if not isinstance(layer, LAYERS.Layer) or inner:
        return rules.get(kind.__name__)
    return None if "call" in vars(layer) else rules.get(kind)


def _name_of(function):
    return getattr(function, "__name__", type(function).__name__.lower())


def _hint(call):
    if not isinstance(call.layer, LAYERS.Layer):
        return "this operation is neither a ReLU nor linear"
    if isinstance(call.layer, keras.Model):
        return "it is a subclassed model; only functional ones show their layers"
    known = [layer for layer in (*ACTIVE, *PASSIVE) if isinstance(layer, type)]
    if isinstance(call.layer, tuple(known)):
        return "it is a subclass of a known layer, whose call may do anything"
    if call.role.time == "unknown":
        return "it is a layer of its own, whose call may do anything"
    return "only ReLUs become neurons, and only layers that are linear stay"


def _rank(call):
    """Rank of what the layer itself reads."""
    return len(call.input.shape) - call.each_step


def _from_end(call, axis):
    return axis if axis < 0 else axis - _rank(call)


def _weights(layer):
    """Kernels and bias of a weighted layer, in float64."""
    names = [
        name
        for name in ("depthwise_kernel", "pointwise_kernel", "kernel")
        if getattr(layer, name, None) is not None
    ]
    if len(names) == 3:  # separable layers know a `kernel` too
        names = names[:2]
    found = [ops.convert_to_numpy(getattr(layer, name)) for name in dict.fromkeys(names)]
    bias = ops.convert_to_numpy(layer.bias) if layer.use_bias else None
    return [k.astype("float64") for k in found], None if bias is None else bias.astype("float64")


def _channel_axis(layer):
    """Axis of a weighted layer's output channels, counted from the end."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return -1 - layer.rank if first else -1


def _is_relu(function, cap):
    """Whether a function that is called a ReLU computes one."""
    x = np.array([-3.0, -0.5, 0.0, 0.5, 3.0, 7.0, 100.0], "float32")
    found = ops.convert_to_numpy(function(ops.convert_to_tensor(x)))
    return np.array_equal(found, np.clip(x, 0, cap))


def _constant(call):
    """The operand of an operation that is no symbolic tensor, in float64."""
    operands = tree.flatten((call.args, call.kwargs))
    found = next(x for x in operands if not isinstance(x, keras.KerasTensor))
    return np.asarray(ops.convert_to_numpy(found), "float64")


def _scale_and_shift(call):
    """What an elementwise operation with constants is, as arrays; `None` if it is not linear."""
    layer, kind = call.layer, type(call.layer).__name__
    if kind == "Negative":
        numbers = -1.0, 0.0
    elif kind == "Rescaling":
        numbers = layer.scale, layer.offset
    elif kind == "Normalization":
        mean, variance = (
            np.asarray(ops.convert_to_numpy(x), "float64") for x in (layer.mean, layer.variance)
        )
        deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
        numbers = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    else:
        operands = tree.flatten((call.args, call.kwargs))
        first, c = isinstance(operands[0], keras.KerasTensor), _constant(call)
        if kind in ("Divide", "TrueDivide"):
            if not first:
                return None
            numbers = 1 / c, 0.0
        elif kind == "Multiply":
            numbers = c, 0.0
        else:
            numbers = (
                1.0 if first or kind == "Add" else -1.0,
                c if kind == "Add" or not first else -c,
            )
    return [np.asarray(number, "float64") for number in numbers]


def _layer_of(call):
    """The layer of a call, or one that computes what an operation does; `None` if there is none."""
    layer = call.layer
    if isinstance(layer, LAYERS.Layer):
        return layer
    kind, rank = type(layer).__name__, len(call.input.shape)
    if kind == "Reshape":
        return LAYERS.Reshape(call.output.shape[1:]) if None not in call.output.shape[1:] else None
    if kind == "Transpose":
        return LAYERS.Permute(layer.axes[1:])
    if kind in ("Mean", "Max") and layer.axis is not None:
        axes = sorted(axis % rank for axis in tree.flatten(layer.axis))
        places = {
            tuple(range(1, rank - 1)): "channels_last",
            tuple(range(2, rank)): "channels_first",
        }
        data_format = places.get(tuple(axes))
        if data_format is None or not 3 <= rank <= 5:
            return None
        name = "GlobalAveragePooling" if kind == "Mean" else "GlobalMaxPooling"
        options = {"data_format": data_format, "keepdims": layer.keepdims}
        return getattr(LAYERS, f"{name}{rank - 2}D")(**options)
    if kind in ("AveragePool", "MaxPool"):
        name = "AveragePooling" if kind == "AveragePool" else "MaxPooling"
        return getattr(LAYERS, f"{name}{rank - 2}D")(
            layer.pool_size, layer.strides, layer.padding, layer.data_format
        )
    return None


# What is converted wherever it stands: layers by their class, operations by its name.
ACTIVE = {
    **dict.fromkeys(WEIGHTED, _Reader.weighted),
    LAYERS.Activation: _Reader.standalone_activation,
    LAYERS.BatchNormalization: _Reader.normalization,
    LAYERS.Dropout: _Reader.dropout,
    LAYERS.ReLU: _Reader.relu,
    LAYERS.Softmax: _Reader.softmax,
    snn.ClipFloorShift: _Reader.clip_floor_shift,
    "Relu": lambda reader, call, sources: reader.neuron(call, sources[0], CAPS["relu"]),
    "Relu6": lambda reader, call, sources: reader.neuron(call, sources[0], CAPS["relu6"]),
    "ReLU": _Reader.relu,
    "Softmax": _Reader.softmax,
    "Sigmoid": _Reader.softmax,
    "LogSoftmax": _Reader.softmax,
}
# What is converted behind something weighted; of the inputs it stays as it is.
PASSIVE = {
    **dict.fromkeys((*POOLING, "MaxPool", "Max"), _Reader.pooled),
    **dict.fromkeys((LAYERS.Add, LAYERS.Average, LAYERS.Subtract), _Reader.sum),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Divide", "TrueDivide"), _Reader.affine),
    **dict.fromkeys((LAYERS.Rescaling, LAYERS.Normalization, "Negative"), _Reader.affine),
    **dict.fromkeys((LAYERS.Concatenate, "Concatenate"), _Reader.concatenation),
    **dict.fromkeys(("Clip", "Maximum"), _Reader.clipped),
    LAYERS.Multiply: _Reader.product,
    snn.SpikeConnection: _Reader.connection,
    "CustomScaleLayer": _Reader.scaled_sum,
}
