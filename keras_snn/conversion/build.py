"""Puts nodes together: one node as a Keras layer, the whole as an ANN or as a spiking network."""

import keras
import numpy as np
from keras import tree

from keras_snn import layers as snn
from keras_snn.graph import functional

__all__ = ["Parts", "build_ann", "build_snn", "pooling_layers", "predict"]


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
        """The layer of a node that reads one tensor; always the same one."""
        if index not in self.layers:
            node = self.graph.nodes[index]
            source, target = 1.0, 1.0
            if self.scales is not None and node.kind in ("weighted", "affine"):
                source, target = self.scales.of(node.inputs[0]), self.scales.of(index)
            make = {"weighted": _weighted, "affine": _affine}.get(node.kind, _same)
            layer, weights = make(node, source, target)
            if node.each_step:
                layer = snn.FoldTime(layer)
            self.layers[index] = _WithWeights(layer, weights)
        return self.layers[index]

    def call(self, index, values):
        """A node that knows nothing of time, on tensors."""
        node = self.graph.nodes[index]
        if node.kind == "before":
            outputs = _replay(node.call, values, self._operation(index))
            return tree.flatten(outputs)[node.place]
        if node.kind in ("identity", "dropout"):
            return values[0]
        if node.kind in ("sum", "concatenation"):
            return joining_layer(node)(values)
        return self.layer(index)(values[0])

    def _operation(self, index):
        """What computes a node before anything that is converted."""
        call = self.graph.nodes[index].call
        each_axis = call.each_step and call.role.time != "pointwise"
        return self.layer(index) if isinstance(call.layer, keras.Layer) or each_axis else call.layer


class _WithWeights:
    """A layer that gets its weights when it is built."""

    def __init__(self, layer, weights):
        self.layer, self.weights = layer, weights

    def __call__(self, x, *args, **kwargs):
        if not self.layer.built and hasattr(x, "shape"):
            self.layer.build(tuple(x.shape))
            self.layer.built = True
        self.put()
        return self.layer(x, *args, **kwargs)

    def put(self):
        """Sets the weights, once."""
        if self.weights is not None:
            self.layer.set_weights([np.asarray(w, "float32") for w in self.weights])
            if hasattr(self.layer, "finalize_state"):  # of `Normalization`
                self.layer.finalize_state()
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
    return type(node.layer).from_config(config), weights


def _affine(node, source, target):
    scale, shift = node.scale * source / target, node.shift / target
    if node.layer is None:
        scale, shift = (float(n) if n.ndim == 0 else n for n in map(np.asarray, (scale, shift)))
        return keras.layers.Rescaling(scale, shift, name=node.name), None
    config = node.layer.get_config() | {"scale": True, "center": True, "name": node.name}
    layer = keras.layers.BatchNormalization.from_config(config)
    layer.trainable = False
    zeros, ones = np.zeros_like(scale), np.ones_like(scale)
    return layer, [scale, shift, zeros, ones - layer.epsilon]


def _same(node, source, target):
    layer = node.layer or node.call.layer
    if not isinstance(layer, keras.Layer):
        return _model_of(node), None
    config = layer.get_config() | {"name": node.name}
    return type(layer).from_config(config), layer.get_weights() or None


def _model_of(node):
    """An operation on one tensor as a model, which has a name and can be applied to each step."""
    tensor = next(x for x in node.call.inputs if isinstance(x, keras.KerasTensor))
    shape = tensor.shape[2 if node.each_step else 1 :]
    x = keras.Input(shape, dtype=tensor.dtype)
    return keras.Model(x, _replay(node.call, [x], node.call.layer), name=node.name)


def _replay(call, values, operation):
    """An operation on tensors in the place of those that the call has."""
    values = iter(values)
    args, kwargs = tree.map_structure(
        lambda x: next(values) if isinstance(x, keras.KerasTensor) else x, (call.args, call.kwargs)
    )
    if "training" in kwargs:
        kwargs["training"] = False
    return operation(*args, **kwargs)


def joining_layer(node):
    """The layer of a sum or concatenation, with or without time."""
    if node.kind == "sum":
        return keras.layers.Add(name=node.name)
    return keras.layers.Concatenate(node.axis, name=node.name)


def _inputs(graph):
    return {
        index: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=graph.nodes[index].name)
        for index, x in zip(graph.inputs, graph.source[0])
    }


def _finished(parts, original, tensors, outputs, suffix):
    """A model whose inputs and outputs have the structure of the original's."""
    ann = functional(original)
    inputs = [tensors[i] for i in parts.graph.inputs]
    inputs, outputs = (
        tree.pack_sequence_as(structure, flat)
        for structure, flat in ((ann.input, inputs), (ann.output, outputs))
    )
    model = keras.Model(inputs, outputs, name=f"{original.name}_{suffix}")
    for made in parts.layers.values():
        made.put()
    return model


def build_ann(graph, original):
    """The ANN as it was read: normalisation folded, no softmax.

    Args:
        graph: A `Graph`.
        original: The model that it was read from.

    Returns:
        `(model, tensors)`: the model, and the tensor of each node by its index.
    """
    parts, tensors = Parts(graph), _inputs(graph)
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
            tensors[index] = layer(values[0])
        elif node.kind == "dropout":
            tensors[index] = keras.layers.Dropout(node.layer.rate, name=node.name)(values[0])
        else:
            tensors[index] = parts.call(index, values)
    outputs = [tensors[i] for i in graph.outputs]
    return _finished(parts, original, tensors, outputs, "ann"), tensors


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
    tensors, sequences = _inputs(graph), {}
    taken = {node.name for node in graph.nodes}

    def own(name):
        """A name that no layer of the ANN has."""
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    def timed(index, consumer):
        """A node as a sequence, in the units that its consumer wants."""
        tensor, name = tensors[index], graph.nodes[index].name
        if scales.static(index):
            if index not in sequences:
                sequences[index] = encoder(own(f"{name}_over_time"))(tensor)
            tensor = sequences[index]
        factor = scales.edges.get((index, consumer))
        if factor is None:
            return tensor
        name = own(f"{name}_in_{graph.nodes[consumer].name}")
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
            tensors[index] = values[0]
            for layer in pooling_layers(node, own):
                tensors[index] = layer(tensors[index])
        elif node.kind in ("sum", "concatenation"):
            tensors[index] = joining_layer(node)(values)
        elif node.kind == "dropout":
            layer = snn.TimeConstantDropout(node.layer.rate, name=node.name)
            tensors[index] = layer(values[0])
        elif node.kind == "identity":
            tensors[index] = values[0]
        else:
            layer = parts.layer(index).layer
            if not isinstance(layer, keras.layers.Rescaling):
                layer = snn.FoldTime(layer, name=node.name)
            tensors[index] = layer(values[0])
    outputs = []
    for place, index in enumerate(graph.outputs):
        name = own("readout" if len(graph.outputs) == 1 else f"readout_{place}")
        tensor = readout(name=name)(timed(index, -1))
        factor = scales.of(index)
        if readout is snn.MeanOverTime and not np.isclose(factor, 1, rtol=1e-12):
            tensor = keras.layers.Rescaling(factor, name=own(f"{name}_scale"))(tensor)
        outputs.append(tensor)
    return _finished(parts, original, tensors, outputs, "snn")


def pooling_layers(node, own=str, **options):
    """The spiking layers in the place of a max pooling layer, on a sequence.

    Args:
        node: The node.
        own: From a name to one that no other layer has.
        **options: More arguments of `SpikingMaxPooling`.

    Returns:
        A list of layers.
    """
    layer, name = node.layer, node.name
    if not type(layer).__name__.startswith("Global"):
        size = layer.pool_size, layer.strides, layer.padding
        return [snn.SpikingMaxPooling(*size, name=name, **options)]
    shape = node.call.input.shape
    spatial = tuple(shape[2:] if layer.data_format == "channels_first" else shape[1:-1])
    found = [snn.SpikingMaxPooling(spatial, name=name, **options)]
    if not layer.keepdims:
        found.append(snn.FoldTime(keras.layers.Flatten(), name=own(f"{name}_flatten")))
    return found


def predict(model, batch):
    """Outputs of a model for a list of arrays, one for each input; a list of arrays."""
    inputs = tree.pack_sequence_as(functional(model).input, batch)
    return [np.asarray(y) for y in tree.flatten(model.predict_on_batch(inputs))]
