"""A trained ANN, read into nodes: what is weighted, what fires, what may stay as it is.

Reading decides what becomes of every layer before any work is done; what can't be converted is an
error that names each such layer. `Graph.build` puts Keras layers together again: into the ANN as it
was understood (with normalisation folded), or into the spiking network.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_snn import layers as snn
from keras_snn.graph import role_of

__all__ = ["Graph", "Node", "read"]

LAYERS = keras.layers
POOLING = (LAYERS.MaxPooling1D, LAYERS.MaxPooling2D, LAYERS.MaxPooling3D)
GLOBAL_POOLING = (LAYERS.GlobalMaxPooling1D, LAYERS.GlobalMaxPooling2D, LAYERS.GlobalMaxPooling3D)


@dataclasses.dataclass
class Node:
    """One operation of the network.

    Attributes:
        name: Unique name, that of the layer it comes from.
        kind: `"input"`; `"weighted"` (kernel and bias); `"affine"` (a normalisation that is left);
            `"neuron"` (a ReLU); `"maximum"` (max pooling); `"sum"`; `"concatenation"`; `"linear"`
            (anything else that scales with its input); `"dropout"`; `"before"` (of images only,
            before anything that is converted).
        inputs: Indices of the nodes it reads.
        layer: The layer of the ANN.
        kernel: Weights of a weighted node, with a normalisation folded in.
        bias: Its bias, or `None`.
        cap: Largest output of a neuron's ReLU.
        levels: Levels of a neuron's `ClipFloorShift`, or `None`.
        axis: Axis that a normalisation scales, counted from the end.
        constant: Whether it is the same at every step.
    """

    name: str
    kind: str
    inputs: tuple
    layer: Any = None
    kernel: list | None = None
    bias: Any = None
    cap: float = float("inf")
    levels: int | None = None
    axis: int = -1
    constant: bool = False


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
    """

    nodes: list
    inputs: list
    outputs: list
    entries: list

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


# What keeps its place and scales with its input.
LINEAR = (
    *(getattr(LAYERS, f"AveragePooling{n}D") for n in (1, 2, 3)),
    *(getattr(LAYERS, f"GlobalAveragePooling{n}D") for n in (1, 2, 3)),
    *(getattr(LAYERS, f"ZeroPadding{n}D") for n in (1, 2, 3)),
    *(getattr(LAYERS, f"Cropping{n}D") for n in (1, 2, 3)),
    *(getattr(LAYERS, f"UpSampling{n}D") for n in (1, 2, 3)),
    LAYERS.Flatten,
    LAYERS.Identity,
    LAYERS.Permute,
    LAYERS.RepeatVector,
    LAYERS.Reshape,
)
# Axis of the output channels in the kernel that can be scaled, from the end.
WEIGHTED = {
    LAYERS.Dense: -1,
    **{getattr(LAYERS, f"Conv{n}D"): -1 for n in (1, 2, 3)},
    snn.PaddedConv2D: -1,
    **{getattr(LAYERS, f"Conv{n}DTranspose"): -2 for n in (1, 2, 3)},
    **{getattr(LAYERS, f"DepthwiseConv{n}D"): None for n in (1, 2)},
    **{getattr(LAYERS, f"SeparableConv{n}D"): -1 for n in (1, 2)},
}
# Nothing in inference.
TRAINING_ONLY = (
    LAYERS.ActivityRegularization,
    LAYERS.AlphaDropout,
    LAYERS.GaussianDropout,
    LAYERS.GaussianNoise,
    LAYERS.SpatialDropout1D,
    LAYERS.SpatialDropout2D,
    LAYERS.SpatialDropout3D,
)
BEFORE = (
    LAYERS.CenterCrop,
    LAYERS.Normalization,
    LAYERS.Rescaling,
    LAYERS.Resizing,
)
CAPS = {"relu": float("inf"), "relu6": 6.0}
OUTPUT_ACTIVATIONS = ("softmax", "sigmoid", "log_softmax")


def read(model, max_pooling):
    """Reads a model.

    Args:
        model: A functional or Sequential model, with weights.
        max_pooling: `"refuse"`, `"average"` or `"spiking"`.

    Returns:
        A `Graph`.

    Raises:
        TypeError: If the model is no such one.
        ValueError: If a layer can't be converted; each is named, with the reason.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            "Only built functional and Sequential Keras models can be converted, got "
            f"{model!r}. Wrap the layers of a subclassed model in `keras.Model(inputs, outputs)`."
        )
    return _Reader(model, max_pooling).graph


@dataclasses.dataclass(frozen=True)
class _Value:
    """What stands for a tensor while the model's graph is walked."""

    node: int
    shape: tuple


class _Reader:
    def __init__(self, model, max_pooling):
        self.max_pooling = max_pooling
        self.nodes, self.entries, self.refused, self.prefix = [], [], [], ""
        values = [
            self.add(tensor.name, "input", (), tensor.shape, constant=True)
            for tensor in model.inputs
        ]
        self.entries.clear()
        outputs = tree.flatten(self.walk(model, values))
        self.graph = Graph(
            self.nodes, [v.node for v in values], [v.node for v in outputs], self.entries
        )
        self.leave_output_activations()
        self.check()
        self.fold()

    def walk(self, model, values):
        graph = getattr(model, "_functional", None) or model
        if not hasattr(graph, "_run_through_graph"):
            self.refuse(model, "it is a subclassed model; only functional ones show their layers")
            shapes = tree.flatten(model.compute_output_shape(values[0].shape))
            return _Value(values[0].node, tuple(shapes))
        return graph._run_through_graph(values, operation_fn=lambda layer: self.rule(layer))

    def rule(self, layer):
        """What is called in the place of a layer."""

        def apply(*args, **kwargs):
            values = [v for v in tree.flatten((args, kwargs)) if isinstance(v, _Value)]
            if isinstance(layer, keras.Model):
                outer, self.prefix = self.prefix, f"{self.prefix}{layer.name}/"
                outputs = self.walk(layer, values)
                self.prefix = outer
                return outputs
            if isinstance(layer, keras.layers.Layer) and type(layer) in RULES:
                return RULES[type(layer)](self, layer, values, _shape_after(layer, values))
            if role_of(layer).linear:
                return self.linear(layer, values, _shape_after(layer, values))
            if isinstance(layer, keras.layers.InputLayer):
                return values[0]
            name = type(layer).__name__
            if not isinstance(layer, keras.layers.Layer) and name in OPERATIONS:
                return OPERATIONS[name](self, layer, values, _shape_after(layer, values))
            self.refuse(layer, _hint(layer))
            return _Value(values[0].node, values[0].shape)

        return apply

    def add(self, name, kind, values, shape, layer=None, note="", action="kept", **fields):
        """Adds a node, and its line of the report."""
        name = f"{self.prefix}{name}".replace("/", "_")
        taken = {node.name for node in self.nodes}
        base, count = name, 1
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        constant = fields.pop("constant", False) or all(self.nodes[v.node].constant for v in values)
        fields["constant"] = constant and kind != "neuron"
        self.nodes.append(Node(name, kind, tuple(v.node for v in values), layer, **fields))
        if layer is not None:
            self.tell(layer, action, note, len(self.nodes) - 1)
        return _Value(len(self.nodes) - 1, tuple(shape))

    def tell(self, layer, action, note="", node=None):
        name = f"{self.prefix}{layer.name}"
        self.entries.append(Entry(name, type(layer).__name__, action, note, node))

    def refuse(self, layer, why):
        self.refused.append(f"{self.prefix}{layer.name} ({type(layer).__name__}): {why}")
        self.tell(layer, "refused", why)

    def check(self):
        """Raises if anything was refused, before any work."""
        if not self.refused and not any(node.kind == "neuron" for node in self.nodes):
            raise ValueError(
                "The model has no ReLU: there is nothing that could become a spiking neuron."
            )
        if self.refused:
            raise ValueError("The model can't be converted:\n  " + "\n  ".join(self.refused))

    def weighted(self, layer, values, shape):
        if getattr(layer, "quantization_mode", None):
            self.refuse(layer, f"its weights are {layer.quantization_mode}; convert, then quantize")
            return _Value(values[0].node, shape)
        kernels, bias = _weights(layer)
        value = self.add(
            layer.name,
            "weighted",
            values,
            shape,
            layer,
            action="converted",
            note="" if bias is None else "bias as a current of every step",
            kernel=kernels,
            bias=bias,
        )
        return self.activation(layer, layer.activation, value)

    def activation(self, layer, function, value, action=None):
        """The activation of a layer, on its output."""
        if isinstance(function, LAYERS.ReLU):
            return self.relu(function, [value], value.shape, layer)
        name = getattr(function, "__name__", type(function).__name__)
        if name == "linear":
            return value
        if name in CAPS:
            suffix = "" if action else "_neuron"
            return self.neuron(layer, value, CAPS[name], layer.name + suffix)
        if name in OUTPUT_ACTIVATIONS:
            return self.add(f"{layer.name}_{name}", "activation", [value], value.shape, layer)
        self.refuse(layer, f"its activation is {name!r}; only ReLUs become neurons")
        return value

    def neuron(self, layer, value, cap, name, **fields):
        note = "" if cap == float("inf") else f"rate capped at {cap:g}"
        return self.add(
            name, "neuron", [value], value.shape, layer, note, "converted", cap=cap, **fields
        )

    def relu(self, relu, values, shape, layer=None):
        """A ReLU layer or operation, or one that is the activation of `layer`."""
        if relu.negative_slope or relu.threshold:
            self.refuse(layer or relu, "only ReLUs without a slope or a threshold become neurons")
        cap = float("inf") if relu.max_value is None else float(relu.max_value)
        name = f"{layer.name}_neuron" if layer else relu.name
        return self.neuron(layer or relu, values[0], cap, name)

    def clip_floor_shift(self, layer, values, shape):
        maximum = float(keras.ops.convert_to_numpy(layer.maximum_weight))
        return self.neuron(layer, values[0], maximum, layer.name, levels=layer.levels)

    def normalization(self, layer, values, shape):
        # What it folds into is known when the whole graph is.
        axis = layer.axis if layer.axis < 0 else layer.axis - len(shape)
        return self.add(layer.name, "affine", values, shape, layer, action="kept", axis=axis)

    def pooled(self, layer, values, shape):
        if self.nodes[values[0].node].constant:
            return self.add(layer.name, "before", values, shape, layer, "of the input only")
        if self.max_pooling == "refuse":
            self.refuse(
                layer,
                'there is no exact counterpart; convert with `max_pooling="average"` or "spiking"',
            )
        average = self.max_pooling == "average"
        if not average and getattr(layer, "data_format", None) != keras.config.image_data_format():
            self.refuse(layer, "its data format is not that of `keras.config`")
        if not average and type(layer) in GLOBAL_POOLING and None in values[0].shape[1:]:
            self.refuse(
                layer, f"spiking max pooling needs the size of its maps, got {values[0].shape}"
            )
        return self.add(
            layer.name,
            "linear" if average else "maximum",
            values,
            shape,
            _averaging(layer) if average else layer,
            "by average pooling" if average else "by spiking max pooling",
            "replaced",
        )

    def linear(self, layer, values, shape):
        return self.add(layer.name, "linear", values, shape, layer)

    def sum(self, layer, values, shape):
        if any(tuple(v.shape) != tuple(values[0].shape) for v in values) or len(values) < 2:
            self.refuse(layer, "it adds a constant, or tensors of several shapes")
        return self.add(layer.name, "sum", values, shape, layer)

    def connection(self, layer, values, shape):
        if layer.mode != "add":
            self.refuse(layer, f"only sums join paths of rates, not {layer.mode!r}")
        return self.sum(layer, values, shape)

    def concatenation(self, layer, values, shape):
        return self.add(layer.name, "concatenation", values, shape, layer)

    def dropout(self, layer, values, shape):
        return self.add(
            layer.name, "dropout", values, shape, layer, "by TimeConstantDropout", "replaced"
        )

    def nothing(self, layer, values, shape):
        self.tell(layer, "removed", "does nothing in inference")
        return values[0]

    def before(self, layer, values, shape):
        if not self.nodes[values[0].node].constant:
            self.refuse(layer, "it is supported in front of the first neuron only")
        return self.add(layer.name, "before", values, shape, layer, "of the input only")

    def standalone_activation(self, layer, values, shape):
        return self.activation(layer, layer.activation, values[0], action="layer")

    def leave_output_activations(self):
        """A softmax at the end leaves: the readout gives logits."""
        graph = self.graph
        for index, node in enumerate(self.nodes):
            if node.kind != "activation":
                continue
            entry = next(e for e in self.entries if e.node == index)
            if graph.consumers(index) == [-1] and graph.outputs.count(index) == 1:
                entry.action, entry.note = "replaced", "left; the readout gives its logits"
                entry.node = None
                node.kind = "left"
                graph.outputs[graph.outputs.index(index)] = node.inputs[0]
            else:
                self.refused.append(
                    f"{entry.layer} ({entry.kind}): it is supported as an output only"
                )
                entry.action = "refused"

    def fold(self):
        """Folds each normalisation into the weighted node before it, where there is one."""
        for index, node in enumerate(self.nodes):
            if node.kind != "affine":
                continue
            entry = next(e for e in self.entries if e.node == index)
            previous = self.nodes[node.inputs[0]]
            if previous.kind != "weighted" or self.graph.consumers(node.inputs[0]) != [index]:
                entry.note = "no weighted layer before it alone"
                continue
            if node.axis != _channel_axis(previous.layer):
                entry.note = "not over the channels"
                continue
            scale, shift = statistics(node.layer)
            axis = WEIGHTED[type(previous.layer)]
            kernel = previous.kernel[-1]
            if axis is None:
                scaled = kernel * scale.reshape(kernel.shape[-2:])
            else:
                scaled = kernel * scale.reshape(-1, *[1] * (-1 - axis))
            bias = 0.0 if previous.bias is None else previous.bias
            previous.kernel = [*previous.kernel[:-1], scaled]
            previous.bias = bias * scale + shift
            entry.action, entry.note = "folded", f"into {previous.name}"
            node.kind = "identity"


def _shape_after(layer, values):
    """The output's shape; that of the input for operations, which are element by element here."""
    shapes = [v.shape for v in values]
    if not isinstance(layer, keras.layers.Layer):
        return shapes[0]
    try:
        return tuple(layer.compute_output_shape(shapes[0] if len(shapes) == 1 else shapes))
    except (TypeError, ValueError):
        return shapes[0]


def _hint(layer):
    if isinstance(layer, keras.layers.Layer):
        if any(type(layer) is not known and isinstance(layer, known) for known in RULES):
            return "it is a subclass of a known layer, whose call may do anything"
        return "only ReLUs become neurons, and only layers that are linear stay"
    return "this operation is neither a ReLU nor linear"


def _weights(layer):
    """Kernels and bias of a weighted layer, in float64."""
    names = [
        name
        for name in ("depthwise_kernel", "pointwise_kernel", "kernel")
        if getattr(layer, name, None) is not None
    ]
    if len(names) == 3:  # separable layers know a `kernel` too
        names = names[:2]
    found = [keras.ops.convert_to_numpy(getattr(layer, name)) for name in dict.fromkeys(names)]
    bias = keras.ops.convert_to_numpy(layer.bias) if layer.use_bias else None
    return [k.astype("float64") for k in found], None if bias is None else bias.astype("float64")


def _channel_axis(layer):
    """Axis of a weighted layer's output channels, counted from the end."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return -1 - layer.rank if first else -1


def statistics(layer):
    """Scale and shift of a batch normalisation in inference."""

    def numpy(weight):
        return keras.ops.convert_to_numpy(weight).astype("float64")

    scale = 1 / np.sqrt(numpy(layer.moving_variance) + layer.epsilon)
    scale = scale * numpy(layer.gamma) if layer.scale else scale
    beta = numpy(layer.beta) if layer.center else 0.0
    return scale, beta - numpy(layer.moving_mean) * scale


def _averaging(layer):
    """Average pooling in the place of max pooling."""
    config = layer.get_config()
    name = type(layer).__name__.replace("Max", "Average")
    return getattr(keras.layers, name).from_config(config)


RULES = {
    **dict.fromkeys(WEIGHTED, _Reader.weighted),
    **dict.fromkeys(LINEAR, _Reader.linear),
    **dict.fromkeys(POOLING + GLOBAL_POOLING, _Reader.pooled),
    **dict.fromkeys(TRAINING_ONLY, _Reader.nothing),
    **dict.fromkeys(BEFORE, _Reader.before),
    LAYERS.Activation: _Reader.standalone_activation,
    LAYERS.Add: _Reader.sum,
    LAYERS.BatchNormalization: _Reader.normalization,
    LAYERS.Concatenate: _Reader.concatenation,
    LAYERS.Dropout: _Reader.dropout,
    LAYERS.ReLU: _Reader.relu,
    LAYERS.Softmax: lambda reader, layer, values, shape: reader.activation(
        layer, keras.activations.softmax, values[0]
    ),
    snn.ClipFloorShift: _Reader.clip_floor_shift,
    snn.SpikeConnection: _Reader.connection,
}
# `keras.ops` on symbolic tensors.
OPERATIONS = {
    "Relu": lambda reader, op, values, shape: reader.neuron(op, values[0], CAPS["relu"], op.name),
    "Relu6": lambda reader, op, values, shape: reader.neuron(op, values[0], CAPS["relu6"], op.name),
    "ReLU": _Reader.relu,
    "Add": _Reader.sum,
    "Softmax": lambda reader, op, values, shape: reader.activation(
        op, keras.activations.softmax, values[0]
    ),
}
