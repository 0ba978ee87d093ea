"""Thresholds: how large is the value of a spike?

A spike of a neuron stands for the value `scale` of the ANN's activation; a neuron whose input has
the scale `c` and whose threshold is `V` fires spikes worth `c V`. Each method of balancing is one
function that chooses the threshold of a neuron; they are called in the order of computation.
"""

import keras
import numpy as np
from keras import ops

from keras_snn import layers as snn
from keras_snn.conversion.build import pooling_layers, predict

__all__ = ["METHODS", "Scales", "after_first_fork", "balance"]

METHODS = ("spike_norm", "max", "percentile", "model")
# Steps that are simulated at once.
CHUNK = 16


class Scales:
    """What one unit of each node is worth in the ANN, and what junctions need to agree.

    Where paths of different scales meet, weighted layers that lead to the junction alone take the
    factor into their weights; a path without one is multiplied.

    Args:
        graph: A `Graph`.
        encoded: Worth of an input spike, where inputs are encoded as spikes; else `None`.
    """

    def __init__(self, graph, encoded=None):
        self.graph, self.encoded = graph, encoded
        self.thresholds, self.edges = {}, {}
        self._scales, self._timed = {}, graph.timed()

    def static(self, index):
        """Whether a node is computed once for all steps."""
        if self.encoded is not None:
            return self.graph.nodes[index].kind in ("input", "before")
        return not self._timed[index]

    def of(self, index):
        """Scale of a node; the thresholds of all neurons before it must be known."""
        if index not in self._scales:
            node = self.graph.nodes[index]
            if node.kind in ("input", "before"):
                scale = 1.0 if self.encoded is None else self.encoded
            elif node.kind == "neuron":
                scale = self.of(node.inputs[0]) * self.thresholds[index]
            elif node.kind in ("sum", "concatenation"):
                scale = self._junction(index)
            else:
                scale = self.of(node.inputs[0])
            self._scales[index] = scale
        return self._scales[index]

    def want(self, index, scale, consumer=-1):
        """Gives a node the scale `scale`, if weighted layers before it can take the factor."""
        if np.isclose(self.of(index), scale, rtol=1e-12):
            return True
        if not self._absorbs(index):
            return False
        node = self.graph.nodes[index]
        if node.kind not in ("weighted", "affine"):
            for source in node.inputs:
                self.edges.pop((source, index), None)
                self.want(source, scale)
        self._scales[index] = scale
        return True

    def _absorbs(self, index):
        node = self.graph.nodes[index]
        if len(self.graph.consumers(index)) != 1:
            return False
        if node.kind in ("weighted", "affine"):
            return True
        passed = node.kind in ("linear", "dropout", "identity", "sum", "concatenation")
        return passed and all(self._absorbs(i) for i in node.inputs)

    def _junction(self, index):
        sources = self.graph.nodes[index].inputs
        scales = [self.of(i) for i in sources]
        fixed = [s for i, s in zip(sources, scales) if not self._absorbs(i)]
        scale = max(fixed or scales)
        for source, own in zip(sources, scales):
            if not self.want(source, scale):
                self.edges[source, index] = own / scale
        return scale


def balance(graph, scales, parts, batches, method, settings):
    """Chooses the threshold of every neuron.

    Args:
        graph: A `Graph`.
        scales: Its `Scales`; gets the thresholds.
        parts: Its `Parts`.
        batches: Calibration batches: lists of arrays, one for each input.
        method: One of `METHODS`.
        settings: The arguments of `convert`: `percentile`, `reset`, `initial_potential`,
            `calibration_timesteps`, `residual`, `ann` and `tensors` (see `build_ann`), `encoder`.
    """
    if method in ("max", "percentile"):
        choose = _by_activations(graph, batches, method, settings)
    elif method == "model":
        choose = _by_bounds(graph, scales, parts, batches, settings)
    else:
        choose = _Simulation(graph, scales, parts, batches, settings).largest_input
    unit = after_first_fork(graph) if settings["residual"] == "unit" else set()
    for index in graph.neurons():
        node = graph.nodes[index]
        source = scales.of(node.inputs[0])
        if node.levels is not None:
            threshold = node.cap / source
        elif index in unit:
            threshold = 1.0
        else:
            threshold = min(choose(index), node.cap / source)
        if not threshold > 0 or not np.isfinite(threshold):
            raise ValueError(
                f"The neurons of {node.name!r} get no input above 0 from the calibration data "
                f"(largest: {threshold}): their threshold can't be told. Give more data, or a "
                "higher `percentile`."
            )
        scales.thresholds[index] = threshold


def _by_activations(graph, batches, method, settings):
    """Largest (or a percentile of) activation of the ANN, the same for paths that meet."""
    ann, taps = settings["ann"], {i: settings["tensors"][i] for i in graph.neurons()}
    found = activation_percentiles(
        ann, taps, batches, 100.0 if method == "max" else settings["percentile"]
    )
    for group in _junction_groups(graph):
        largest = max(found[i] for i in group)
        found |= dict.fromkeys(group, largest)
    scales = settings["scales"]
    return lambda index: found[index] / scales.of(graph.nodes[index].inputs[0])


def activation_percentiles(ann, taps, batches, percentile):
    """A percentile of each tap's values over all batches, interpolated linearly.

    Only the values that can matter are kept, not the activations of all data.
    """
    probe = keras.Model(ann.inputs, list(taps.values()))
    largest, counts = {i: np.zeros(0, "float32") for i in taps}, dict.fromkeys(taps, 0)
    examples = sum(len(batch[0]) for batch in batches)
    for batch in batches:
        for index, values in zip(taps, predict(probe, batch)):
            values = values.astype("float32").ravel()
            counts[index] += values.size
            total = values.size // len(batch[0]) * examples
            keep = total - int(np.floor((total - 1) * percentile / 100))
            values = np.concatenate([largest[index], values])
            if len(values) > keep:
                values = np.partition(values, len(values) - keep)[-keep:]
            largest[index] = values
    result = {}
    for index, values in largest.items():
        place = (counts[index] - 1) * percentile / 100
        values = np.sort(values)
        low = values[0]
        high = values[min(1, len(values) - 1)]
        result[index] = float(low + (place - np.floor(place)) * (high - low))
    return result


def _junction_groups(graph):
    """Sets of neurons whose spikes meet in a sum or concatenation, without a neuron between."""

    def sources(index):
        node = graph.nodes[index]
        if node.kind == "neuron":
            return {index}
        return set().union(*(sources(i) for i in node.inputs)) if node.inputs else set()

    groups = []
    for index, node in enumerate(graph.nodes):
        if node.kind not in ("sum", "concatenation"):
            continue
        group = sources(index)
        for other in [g for g in groups if g & group]:
            groups.remove(other)
            group |= other
        groups.append(group)
    return [group for group in groups if group]


def after_first_fork(graph):
    """Neurons behind the one where the first residual unit begins."""
    for node in graph.nodes:
        if node.kind == "sum":
            paths = [_neurons_before(graph, i) for i in node.inputs]
            common = set.intersection(*paths)
            start = max(common, default=-1)
            return {i for i in graph.neurons() if i > start}
    return set()


def _neurons_before(graph, index):
    node = graph.nodes[index]
    own = {index} if node.kind == "neuron" else set()
    return own.union(*(_neurons_before(graph, i) for i in node.inputs))


def _by_bounds(graph, scales, parts, batches, settings):
    """Largest input that spikes at every step could cause: of the weights alone.

    Middle and half width of each interval are carried through the layers; inputs, and what is
    computed before anything that is weighted, range over what the calibration data show.
    """
    known = [i for i, node in enumerate(graph.nodes) if node.kind in ("input", "before")]
    probe = keras.Model(settings["ann"].inputs, [settings["tensors"][i] for i in known])
    values = zip(*(predict(probe, batch) for batch in batches))
    ranges = {
        index: (
            np.min([part.min(axis=0) for part in parts], axis=0),
            np.max([part.max(axis=0) for part in parts], axis=0),
        )
        for index, parts in zip(known, values)
    }
    middle, width = {}, {}

    def visit(index):
        if index in middle:
            return
        node = graph.nodes[index]
        for source in node.inputs:
            visit(source)
        if index in ranges:
            low, high = (np.asarray(r, "float32")[None] for r in ranges[index])
            if scales.encoded is not None:
                low, high = (np.clip(r / scales.encoded, -1, 1) for r in (low, high))
            middle[index], width[index] = (high + low) / 2, (high - low) / 2
            return
        if node.kind == "neuron":
            shape = middle[node.inputs[0]].shape
            middle[index] = width[index] = np.full(shape, 0.5, "float32")
            return
        factors = [scales.edges.get((i, index), 1.0) for i in node.inputs]
        centres = [ops.convert_to_tensor(middle[i] * f) for i, f in zip(node.inputs, factors)]
        widths = [ops.convert_to_tensor(width[i] * f) for i, f in zip(node.inputs, factors)]
        if node.kind == "maximum":
            middle[index] = width[index] = ops.convert_to_numpy(0.5 * node.layer(2 * widths[0]))
            return
        middle[index] = ops.convert_to_numpy(parts.call(index, centres))
        layer = parts.layer(index).layer if node.kind in ("weighted", "affine") else None
        if isinstance(layer, keras.layers.Rescaling):
            width[index] = ops.convert_to_numpy(widths[0] * np.abs(layer.scale).astype("float32"))
        elif layer is not None:
            before = layer.get_weights()
            bias = node.bias is not None
            layer.set_weights(_magnitudes(node, before, bias))
            try:
                width[index] = ops.convert_to_numpy(layer(widths[0]))
            finally:
                layer.set_weights(before)
        else:
            width[index] = ops.convert_to_numpy(parts.call(index, widths))

    def choose(index):
        source = graph.nodes[index].inputs[0]
        visit(source)
        return float(np.max(middle[source] + width[source]))

    return choose


def _magnitudes(node, weights, bias):
    """Weights that carry widths: absolute kernels, no bias."""
    if node.kind == "affine":
        gamma, beta, mean, variance = weights
        return [np.abs(gamma), np.zeros_like(beta), mean, variance]
    kernels = [np.abs(w) for w in (weights[:-1] if bias else weights)]
    return [*kernels, np.zeros_like(weights[-1])] if bias else kernels


class _Simulation:
    """Spike trains of the balanced layers, kept as bits, one layer after the other.

    `largest_input(index)` is Spike-Norm's threshold: the largest input of one step that a layer's
    neurons get from the spikes of the layers before it. Source: Sengupta et al. (2019).
    """

    def __init__(self, graph, scales, parts, batches, settings):
        self.graph, self.scales, self.parts = graph, scales, parts
        self.batches, self.settings = batches, settings
        self.trains, self.shapes, self.static, self.fired = {}, {}, {}, set()
        steps = settings["calibration_timesteps"]
        self.chunks = [min(CHUNK, steps - start) for start in range(0, steps, CHUNK)]

    def largest_input(self, index):
        source = self.graph.nodes[index].inputs[0]
        self._fire_before(source)
        largest = -np.inf
        for batch in range(len(self.batches)):
            for chunk in range(len(self.chunks)):
                z = self._value(source, batch, chunk, {})
                largest = max(largest, float(np.max(ops.convert_to_numpy(z))))
                if self.scales.static(source):
                    break
        return largest

    def _fire_before(self, index):
        """Simulates what a node reads, and has not been simulated."""
        node = self.graph.nodes[index]
        if node.kind in ("neuron", "maximum"):
            if index not in self.fired:
                self._fire_before(node.inputs[0])
                self._fire(index)
                self.fired.add(index)
                self._forget()
            return
        for source in node.inputs:
            self._fire_before(source)

    def _forget(self):
        """Drops the trains that nothing reads any more: all of them would fill the memory."""
        read = set()

        def visit(index):
            if index in self.fired:
                read.add(index)
            else:
                for source in self.graph.nodes[index].inputs:
                    visit(source)

        for index, node in enumerate(self.graph.nodes):
            if node.kind in ("neuron", "maximum") and index not in self.fired:
                visit(node.inputs[0])
        self.trains = {index: self.trains[index] for index in self.trains if index in read}

    def _fire(self, index):
        """The spike trains of a neuron, or of spiking max pooling."""
        node, settings = self.graph.nodes[index], self.settings
        if node.kind == "neuron":
            threshold = self.scales.thresholds[index]
            layer = snn.IF(
                threshold=threshold,
                reset=settings["reset"],
                v_reset=first_potential(settings, node, threshold),
                return_state=True,
            )
        self.trains[index] = []
        for batch in range(len(self.batches)):
            state, found = None, []
            for chunk, steps in enumerate(self.chunks):
                x = self._value(node.inputs[0], batch, chunk, {})
                size = len(self.batches[batch][0])
                if self.scales.static(node.inputs[0]):
                    x = ops.repeat(x, steps, axis=0)
                x = ops.reshape(x, (size, steps, *x.shape[1:]))
                if node.kind == "neuron":
                    spikes, state = layer(x, initial_state=None if state is None else [state])
                else:
                    spikes, state = _pool(node, x, state)
                spikes = ops.convert_to_numpy(spikes)
                self.shapes[index] = spikes.shape[2:]
                # Pooled currents are no spikes.
                binary = node.kind == "neuron" or np.isin(spikes, (0, 1)).all()
                found.append(np.packbits(spikes.astype(bool)) if binary else spikes)
            self.trains[index].append(found)

    def _value(self, index, batch, chunk, memo):
        """A node's value, `(examples * steps, ...)`, or `(examples, ...)` where it is static."""
        if index in memo:
            return memo[index]
        node, size, steps = self.graph.nodes[index], len(self.batches[batch][0]), self.chunks[chunk]
        if index in self.trains:
            shape = (size * steps, *self.shapes[index])
            train = self.trains[index][batch][chunk]
            if train.dtype == np.uint8:
                train = np.unpackbits(train, count=int(np.prod(shape)))
            value = ops.convert_to_tensor(train.reshape(shape).astype("float32"))
        elif index in self.graph.inputs:
            array = self.batches[batch][self.graph.inputs.index(index)]
            value = ops.convert_to_tensor(array.astype("float32"))
        else:
            values = []
            for source in node.inputs:
                x = self._value(source, batch, chunk, memo)
                if self.scales.static(source) and not self.scales.static(index):
                    x = self._over_time(x, size, steps, (source, batch, chunk))
                factor = self.scales.edges.get((source, index))
                values.append(x if factor is None else x * factor)
            value = self.parts.call(index, values)
        memo[index] = value
        return value

    def _over_time(self, x, size, steps, key):
        """A static value at every step: repeated, or encoded as spikes (the same every time)."""
        if self.scales.encoded is None:
            return ops.repeat(x, steps, axis=0)
        if key not in self.static:
            sequence = ops.convert_to_numpy(self.settings["encoder"](steps)(x))
            self.static[key] = sequence.astype("int8")
        sequence = self.static[key].astype("float32")
        return ops.convert_to_tensor(sequence.reshape(size * steps, *sequence.shape[2:]))


def _pool(node, x, counts):
    """Spiking max pooling of a sequence from the spike counts before it."""
    pooling, *rest = pooling_layers(node, return_state=True)
    spikes, counts = pooling(x, initial_state=None if counts is None else [counts])
    for layer in rest:
        spikes = layer(spikes)
    return spikes, counts


def first_potential(settings, node, threshold):
    """The membrane potential that the neurons of a node start from."""
    quantised = node.levels is not None and settings["reset"] == "soft"
    return (0.5 if quantised else settings["initial_potential"]) * threshold
