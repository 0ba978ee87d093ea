"""Puts nodes together: one node as a Keras layer, the whole as an ANN or as a spiking network."""

import keras
import numpy as np
from keras import ops

from keras_snn import layers as snn
from keras_snn.conversion.reader import statistics

__all__ = ["Parts", "build_ann", "build_snn", "predict"]


class Parts:
    """The layers of the nodes, with weights in the units of their spikes.

    A node's value times its scale is the ANN's value. Kernels are multiplied by the scale of what
    they read over that of what they give; biases are divided by the latter.

    Args:
        graph: A `Graph`.
        scales: A `Scales`, or `None` for the ANN itself.
    """

    def __init__(self, graph, scales=None):
        self.graph, self.scales, self.layers = graph, scales, {}

    def layer(self, index):
        """The layer of a weighted, affine or linear node; always the same one."""
        if index not in self.layers:
            node = self.graph.nodes[index]
            make = {"weighted": _weighted, "affine": _affine}.get(node.kind, _same)
            source, target = 1.0, 1.0
            if self.scales is not None and node.kind in ("weighted", "affine"):
                source, target = self.scales.of(node.inputs[0]), self.scales.of(index)
            self.layers[index] = make(node, source, target)
        return self.layers[index]

    def call(self, index, values):
        """A node that knows nothing of time, on tensors."""
        node = self.graph.nodes[index]
        if node.kind == "sum":
            total = values[0]
            for value in values[1:]:
                total = total + value
            return total
        if node.kind == "concatenation":
            return ops.concatenate(values, axis=node.layer.axis)
        if node.kind in ("identity", "dropout"):
            return values[0]
        return self.layer(index)(values[0])


class _WithWeights:
    """A layer that gets its weights when it is built."""

    def __init__(self, layer, weights):
        self.layer, self.weights = layer, weights

    def __call__(self, x):
        if not self.layer.built:
            self.layer.build(tuple(x.shape))
            self.layer.built = True
        self.put()
        return self.layer(x)

    def put(self):
        """Sets the weights, once."""
        if self.weights is not None:
            self.layer.set_weights([np.asarray(w, "float32") for w in self.weights])
            self.weights = None


def _weighted(node, source, target):
    config = node.layer.get_config()
    weights = [*node.kernel[:-1], node.kernel[-1] * (source / target)]
    if node.bias is not None:
        weights.append(node.bias / target)
    for key in list(config):
        # The kernel that was read has low-rank updates (LoRA) in it.
        if key.endswith(("_initializer", "_constraint")) or key.startswith("lora_"):
            del config[key]
    config |= {"activation": "linear", "use_bias": node.bias is not None, "name": node.name}
    return _WithWeights(type(node.layer).from_config(config), weights)


def _affine(node, source, target):
    scale, shift = statistics(node.layer)
    # y = gamma (x - mean) / deviation + beta, in the units of spikes.
    config = node.layer.get_config() | {"scale": True, "center": True, "name": node.name}
    layer = keras.layers.BatchNormalization.from_config(config)
    layer.trainable = False
    zeros, ones = np.zeros_like(scale), np.ones_like(scale)
    weights = [scale * source / target, shift / target, zeros, ones - layer.epsilon]
    return _WithWeights(layer, weights)


def _same(node, source, target):
    config = node.layer.get_config() | {"name": node.name}
    layer = type(node.layer).from_config(config)
    weights = node.layer.get_weights()
    return _WithWeights(layer, weights or None)


def _inputs(graph, original):
    found = {}
    for index, tensor in zip(graph.inputs, original.inputs):
        found[index] = keras.Input(
            batch_shape=tensor.shape, dtype=tensor.dtype, name=graph.nodes[index].name
        )
    return found


def _finished(parts, inputs, outputs, name):
    outputs = outputs[0] if len(outputs) == 1 else outputs
    model = keras.Model(list(inputs) if len(inputs) > 1 else inputs[0], outputs, name=name)
    for made in parts.layers.values():
        made.put()
    return model


def build_ann(graph, original):
    """The ANN as it was read: normalisation folded, max pooling replaced, no softmax.

    Args:
        graph: A `Graph`.
        original: The model that it was read from.

    Returns:
        `(model, taps)`: the model, and the tensor of each neuron's activation by node.
    """
    parts, tensors, taps = Parts(graph), _inputs(graph, original), {}
    for index, node in enumerate(graph.nodes):
        if index in tensors or node.kind == "left":
            continue
        values = [tensors[i] for i in node.inputs]
        if node.kind == "neuron":
            cap = None if np.isinf(node.cap) else node.cap
            if node.levels is None:
                layer = keras.layers.ReLU(max_value=cap, name=node.name)
            else:
                layer = snn.ClipFloorShift(node.levels, node.cap, name=node.name)
            tensors[index] = taps[index] = layer(values[0])
        elif node.kind == "dropout":
            tensors[index] = keras.layers.Dropout(node.layer.rate, name=node.name)(values[0])
        elif node.kind == "maximum":
            tensors[index] = node.layer(values[0])
        else:
            tensors[index] = parts.call(index, values)
    outputs = [tensors[i] for i in graph.outputs]
    inputs = [tensors[i] for i in graph.inputs]
    return _finished(parts, inputs, outputs, f"{original.name}_ann"), taps


def build_snn(parts, original, neurons, timesteps, encoder, readout):
    """The spiking network.

    Args:
        parts: The `Parts`, with their scales.
        original: The model that was converted.
        neurons: From a node's index to its neuron layer.
        timesteps: Number of steps.
        encoder: A function that makes the layer from images to sequences.
        readout: Class of the layer from sequences to outputs; a mean is put in the ANN's units.

    Returns:
        A functional model.
    """
    graph, scales = parts.graph, parts.scales
    tensors, sequences = _inputs(graph, original), {}

    def timed(index, consumer):
        """A node as a sequence, in the units that its consumer wants."""
        tensor = tensors[index]
        if scales.static(index):
            if index not in sequences:
                sequences[index] = encoder(f"{graph.nodes[index].name}_over_time")(tensor)
            tensor = sequences[index]
        factor = scales.edges.get((index, consumer))
        if factor is None:
            return tensor
        name = f"{graph.nodes[index].name}_in_{graph.nodes[consumer].name}"
        return keras.layers.Rescaling(factor, name=name)(tensor)

    for index, node in enumerate(graph.nodes):
        if index in tensors or node.kind == "left":
            continue
        if scales.static(index):
            tensors[index] = parts.call(index, [tensors[i] for i in node.inputs])
            continue
        values = [timed(i, index) for i in node.inputs]
        if node.kind == "neuron":
            tensors[index] = neurons(index)(values[0])
        elif node.kind == "maximum":
            tensors[index] = spiking_max_pooling(node, values[0])
        elif node.kind == "sum":
            tensors[index] = keras.layers.Add(name=node.name)(values)
        elif node.kind == "concatenation":
            axis = node.layer.axis
            axis = axis + 1 if axis > 0 else axis
            tensors[index] = keras.layers.Concatenate(axis, name=node.name)(values)
        elif node.kind == "dropout":
            layer = snn.TimeConstantDropout(node.layer.rate, name=node.name)
            tensors[index] = layer(values[0])
        elif node.kind == "identity":
            tensors[index] = values[0]
        else:
            made = parts.layer(index)
            tensors[index] = snn.FoldTime(made.layer, name=node.name)(values[0])
    outputs = []
    for place, index in enumerate(graph.outputs):
        name = "readout" if len(graph.outputs) == 1 else f"readout_{place}"
        tensor = readout(name=name)(timed(index, -1))
        factor = scales.of(index)
        if readout is snn.MeanOverTime and not np.isclose(factor, 1, rtol=1e-12):
            tensor = keras.layers.Rescaling(factor, name=f"{name}_scale")(tensor)
        outputs.append(tensor)
    inputs = [tensors[i] for i in graph.inputs]
    return _finished(parts, inputs, outputs, f"{original.name}_snn")


def spiking_max_pooling(node, x):
    """The spiking layers in the place of a max pooling layer, on a sequence."""
    layer = node.layer
    if not type(layer).__name__.startswith("Global"):
        size = layer.pool_size, layer.strides, layer.padding
        return snn.SpikingMaxPooling(*size, name=node.name)(x)
    first = keras.config.image_data_format() == "channels_first"
    spatial = tuple(x.shape[3:] if first else x.shape[2:-1])
    pooled = snn.SpikingMaxPooling(spatial, name=node.name)(x)
    if layer.keepdims:
        return pooled
    return snn.FoldTime(keras.layers.Flatten(), name=f"{node.name}_flatten")(pooled)


def predict(model, batch):
    """Outputs of a model for a list of arrays, one for each input."""
    graph = getattr(model, "_functional", None) or model
    return model.predict_on_batch(keras.tree.pack_sequence_as(graph._inputs_struct, batch))
