"""A Keras model as a NIR graph.

NIR's maps have their channels first. Where each entry of a Keras tensor stands in NIR's is kept
with it, so that weights and constants are written in NIR's order, behind a flatten too.
"""

import collections
import dataclasses
import io

import keras
import numpy as np
from keras import ops

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.export.nir.cells import NIRIntegratorCell, NIRNeuronCell
from keras_snn.export.nir.common import (
    DT,
    FIELDS,
    SUFFIXES,
    TIMES,
    channels_first,
    channels_last,
    package,
)
from keras_snn.utils import files
from keras_snn.utils.arguments import check_number

__all__ = ["to_nir"]


def to_nir(model, path=None, dt=DT):
    """Translates a model to NIR.

    Convolutions, dense layers, average and sum pooling, zero padding, batch normalisation, scaling,
    flatten, sums, recurrent connections, whole delays, integrators, and neurons with a hard reset
    (`IF`, `LIF`, `ParametricLIF`, `DecayLIF`, `SynapticLIF`). Maps turn channels-first. A step is
    `dt` seconds: `tau` is written as `tau * dt`, and NIR's equations are ours by one Euler step.

    NIR's neurons fire above the threshold. Whether ours fire at it, as they do by default, is in
    the metadata of their nodes, which `from_nir` reads.

    Args:
        model: A functional or Sequential model from `(batch, time, ...)` to `(batch, time, ...)`.
            Its readout over time is the host's work in NIR: cut the model in front of it.
        path: Where to write an HDF5 file, `.nir` or `.h5`, if given; an existing one is replaced
            once the new one is complete.
        dt: Seconds of a step.

    Returns:
        A `nir.NIRGraph`. The package `nir` (1.0.8) reads files with grouped convolutions, or
        kernels that are not square, by `nir.read(path, type_check=False)` only.

    Raises:
        TypeError: If NIR can't say what a layer does; the layer is named.
        ValueError: If `dt` is not above 0, or no file can be written to `path`, see
            `keras_snn.files.check_path`.
        OSError: If the file can't be written; one that was there stays.
        ImportError: If the extra `nir` is not installed.

    Source: Pedersen et al. (2024), and NIR's own documentation.

    Example:

    ```python
    body = keras.Model(model.inputs, model.get_layer("neuron3").output)
    keras_snn.export.to_nir(body, "model.nir")
    ```
    """
    nir = package()
    dt = check_number("dt", dt, above=0)
    if path is not None:
        path = files.check_path(path, SUFFIXES)
    graph.check_functional(model, "NIR")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise TypeError(f"NIR takes models with one input and one output, got {model!r}.")
    written = _Writer(nir, dt).write(model)
    if path is not None:
        content = io.BytesIO()  # HDF5 itself dies where a disk is full
        nir.write(content, written)
        files.write(path, content.getvalue())
    return written


@dataclasses.dataclass(frozen=True)
class Current:
    """What nodes send to others, summed.

    Attributes:
        sources: Their names.
        shape: NIR's shape, channels first.
        places: Of each entry of the Keras tensor (of one step), its place in NIR's, flattened.
        zeros: Of a padding that is not written yet: the name of its layer, and the number of
            zeros `(before, after)` each spatial axis.
    """

    sources: tuple
    shape: tuple
    places: np.ndarray
    zeros: tuple | None = None

    @property
    def ordered(self):
        """Whether it is a map (or vector) as NIR has it, but for the axis of channels."""
        places = _places(self.shape)
        return places.shape == self.places.shape and bool(np.all(places == self.places))

    def scatter(self, values):
        """Values for the entries of the Keras tensor, in NIR's order and shape, in float64."""
        found = np.empty(int(np.prod(self.shape)))
        found[self.places.ravel()] = np.broadcast_to(values, self.places.shape).ravel()
        return found.reshape(self.shape)


def _places(shape):
    return channels_last(np.arange(np.prod(shape, dtype=int)).reshape(shape))


def _array(weight):
    return ops.convert_to_numpy(ops.cast(weight, "float32"))


def refusal(call, reason):
    """The error for a layer that NIR has no nodes for."""
    name, kind = call.operation.name, type(call.layer).__name__
    return TypeError(f"NIR can't say what {name} ({kind}) does: {reason}.")


class _Writer:
    """Writes node by node, in the order of the model's calls."""

    def __init__(self, nir, dt):
        self.nir, self.dt, self.nodes, self.edges = nir, dt, {}, []
        # By the `id` of tensors: their `Current`, how many read them, and which node alone
        # computes them, if that is a convolution or a dense layer.
        self.currents, self.readers, self.products = {}, collections.Counter(), {}

    def write(self, model):
        """The graph of a model."""
        found = graph.trace(model)
        calls = found.calls
        timed = found.timed[0]
        if not timed and not any(call.timed for call in calls):  # nothing tells: it is a sequence
            calls = [dataclasses.replace(call, timed=True, reads_time=True) for call in calls]
            timed = True
        start, end = found.inputs[0], found.outputs[0]
        shape = channels_first(start.shape[2 if timed else 1 :])
        if None in shape:
            raise TypeError(f"NIR needs all sizes of a step, got {model.inputs[0].shape}.")
        node = self.nir.Input({"input": np.array(shape)})
        self.currents[id(start)] = self.add("input", node, (), shape)
        self.readers.update(id(x) for x in [*(x for call in calls for x in call.inputs), end])
        for call in calls:
            self.currents[id(call.output)] = self.apply(call)
        self.output(calls[-1] if calls else None, end)
        metadata = {"dt": self.dt}
        return self.nir.NIRGraph(self.nodes, self.edges, metadata=metadata)

    def output(self, call, tensor):
        current = self.padded(self.currents[id(tensor)])
        if not current.ordered:
            if len(current.shape) > 1 or len(current.places.shape) > 1:
                raise refusal(call, "the model's output is in another order than NIR's maps")
            # A model's features behind `Flatten` are in another order than NIR's.
            weight = np.eye(current.places.size, dtype="float32")[current.places]
            current = self.add("order", self.nir.Linear(weight), current.sources, current.shape)
        node = self.nir.Output({"output": np.array(current.shape)})
        self.add("output", node, current.sources, current.shape)

    def add(self, name, node, sources, shape):
        """Adds a node, and edges from those that feed it; what it sends."""
        name = name.replace("/", ".")
        while name in self.nodes:
            name += "_"
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return Current((name,), tuple(shape), _places(shape))

    def apply(self, call):
        """What a call sends, once its nodes are written."""
        layer = call.layer
        known = call.role is not graph.UNKNOWN
        found = (write for kinds, write in WRITERS if isinstance(layer, kinds))
        write = next(found, None) if known else None
        if call.role.idle:
            write = _Writer.same
        if write is None and type(layer).__name__ == "Add" and len(call.inputs) == 2:
            write = _Writer.sum  # the operation
        if call.time == "removes":
            raise refusal(call, "cut the model in front of it; readouts are the host's work")
        if write is None:
            hint = HINTS.get(type(layer).__name__, "NIR has no node for it")
            raise refusal(call, hint if known else f"{hint}, it has a `call` of its own")
        delayed = write in (_Writer.delay, _Writer.delayed)
        if call.reads_time and call.time in ("across", "unknown") and not delayed:
            raise refusal(call, "it mixes steps; `FoldTime` applies a layer to each step")
        if getattr(layer, "quantization_mode", None):
            raise refusal(call, "it is quantized")
        if write is not _Writer.sum and len(call.inputs) > 1:
            raise refusal(call, "it has a mask or an initial state")
        if write not in (_Writer.convolution, _Writer.pooling, _Writer.zeros):
            for x in call.inputs:
                self.currents[id(x)] = self.padded(self.currents[id(x)])
        return write(self, call, *(self.currents[id(x)] for x in call.inputs))

    def padded(self, current):
        """`current` without zeros that are not written: a convolution that does nothing writes."""
        if current.zeros is None:
            return current
        name, zeros = current.zeros
        current = dataclasses.replace(current, zeros=None)
        return self.pointwise(name, current, 1.0, 0.0, zeros)

    def pointwise(self, name, current, scale, shift, zeros=None):
        """`scale * x + shift`, numbers or one a channel: a convolution of 1 by 1, or a matrix."""
        channels, axes = current.shape[0], len(current.shape) - 1
        if not axes:
            scale, shift = current.scatter(scale), current.scatter(shift)
        weight = np.eye(channels) * np.broadcast_to(scale, channels)
        bias = np.broadcast_to(shift, channels)
        if not axes:
            node = self.nir.Affine(weight.astype("float32"), bias.astype("float32"))
            added = self.add(name, node, current.sources, current.shape)
            return dataclasses.replace(added, places=current.places)
        weight = weight.reshape(channels, channels, *[1] * axes)
        return self.convolve(name, current, weight, bias, zeros or ((0, 0),) * axes)

    def convolve(self, name, current, weight, bias, zeros, strides=1, dilation=1, groups=1):
        """A convolution with `zeros` around the map; NIR has as many on both sides of an axis."""
        axes = len(current.shape) - 1
        strides, dilation = (tuple(np.broadcast_to(v, axes).tolist()) for v in (strides, dilation))
        sizes = current.shape[1:]
        if isinstance(zeros, str):
            padding, outputs = zeros, sizes
        else:
            outputs = [
                (n + sum(z) - d * (k - 1) - 1) // s + 1
                for n, z, d, k, s in zip(sizes, zeros, dilation, weight.shape[2:], strides)
            ]
            padding = tuple(max(z) for z in zeros)
            # Taps of 0 stand for the zeros that one side has more than the other.
            taps = [[max(b - a, 0) // d for a, b in (z, z[::-1])] for z, d in zip(zeros, dilation)]
            weight = np.pad(weight, [(0, 0), (0, 0), *taps])
        kind = {1: self.nir.Conv1d, 2: self.nir.Conv2d}[axes]

        def each(values):
            return values if axes > 1 or isinstance(values, str) else values[0]

        node = kind(
            input_shape=each(tuple(sizes)),
            weight=np.ascontiguousarray(weight, "float32"),
            stride=each(strides),
            padding=each(padding),
            dilation=each(dilation),
            groups=groups,
            bias=np.asarray(bias, "float32"),
        )
        # NIR's own are wrong for groups, and for kernels that are not square.
        shape = (len(weight), *outputs)
        node.input_type = {"input": np.array(current.shape)}
        node.output_type = {"output": np.array(shape)}
        return self.add(name, node, current.sources, shape)

    def convolution(self, call, current):
        layer, axes = call.layer, len(current.shape) - 1
        linear = layer.activation is keras.activations.linear
        if layer.data_format != "channels_last" or not linear or not current.ordered:
            raise refusal(call, "it must be channels-last and without an activation")
        kernel, shape = _array(layer.kernel), call.shape(call.input)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            groups = shape[-1]
            kernel = kernel.reshape(*kernel.shape[:axes], 1, -1)
        else:
            groups = layer.groups
        own = graph.Geometry.of(layer, (None, *shape)).padding
        if layer.padding == "same" and max(layer.strides) == 1 and current.zeros is None:
            zeros = "same"
        else:
            before = current.zeros[1] if current.zeros else ((0, 0),) * axes
            zeros = tuple((a + c, b + d) for (a, b), (c, d) in zip(before, own))
            if any((a - b) % d for (a, b), d in zip(zeros, layer.dilation_rate)):
                raise refusal(call, "it pads one side more, which NIR has no taps for")
        bias = _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
        added = self.convolve(
            call.name,
            current,
            kernel.transpose(axes + 1, axes, *range(axes)),
            bias,
            zeros,
            layer.strides,
            layer.dilation_rate,
            groups,
        )
        self.products[id(call.output)] = added.sources[0]
        return added

    def dense(self, call, current):
        layer = call.layer
        if layer.activation is not keras.activations.linear:
            raise refusal(call, "its activation is the host's work")
        kernel = _array(layer.kernel)
        bias = _array(layer.bias) if layer.use_bias else None
        if len(current.shape) > 1:
            if not current.ordered or len(current.shape) > 3:
                raise refusal(call, "NIR's dense layers take vectors")
            axes = len(current.shape) - 1
            weight = kernel.T.reshape(*kernel.T.shape, *[1] * axes)
            bias = np.zeros(len(weight)) if bias is None else bias
            added = self.convolve(call.name, current, weight, bias, ((0, 0),) * axes)
        else:
            weight = np.empty_like(kernel.T)
            weight[:, current.places] = kernel.T
            node = self.nir.Linear(weight) if bias is None else self.nir.Affine(weight, bias)
            added = self.add(call.name, node, current.sources, (len(weight),))
        self.products[id(call.output)] = added.sources[0]
        return added

    def delay(self, call, current):
        """Whole delays of each channel."""
        return self.wait(call.name, current, self.whole(call))

    def whole(self, call):
        if not call.layer.whole:
            raise refusal(call, "its delays are not whole; `layers.round_delays` makes them so")
        return call.layer.steps()

    def wait(self, name, current, steps):
        node = self.nir.Delay((current.scatter(steps) * self.dt).astype("float32"))
        added = self.add(name, node, current.sources, current.shape)
        return dataclasses.replace(added, places=current.places)

    def delayed(self, call, current):
        """Whole delays of each synapse: a delay of all inputs and a matrix for each number."""
        layer, steps = call.layer, self.whole(call)
        if layer.rank or len(current.shape) > 1:
            raise refusal(call, "NIR has delays of vectors and matrices only")
        kernel, sources = _array(layer.kernel), []
        for step in np.unique(steps):
            late = self.wait(f"{call.name}_delay_{step}", current, step) if step else current
            weight = np.empty_like(kernel.T)
            weight[:, current.places] = np.where(steps == step, kernel, 0).T
            if sources or layer.bias is None:
                node = self.nir.Linear(weight)
            else:
                node = self.nir.Affine(weight, _array(layer.bias))
            added = self.add(f"{call.name}_{step}", node, late.sources, (len(weight),))
            sources += added.sources
        return dataclasses.replace(added, sources=tuple(sources))

    def einsum(self, call, current):
        layer = call.layer
        inputs, output = layer.equation.split("->")
        values, weights = inputs.split(",")
        plain = layer.bias is None and layer.activation is keras.activations.linear
        if values != output or weights != values[1:] or not plain:
            raise refusal(call, "NIR has matrices and products of each value with its own weight")
        return self.scale(call.name, current, _array(layer.kernel))

    def scale(self, name, current, values):
        node = self.nir.Scale(current.scatter(values).astype("float32"))
        added = self.add(name, node, current.sources, current.shape)
        return dataclasses.replace(added, places=current.places)

    def rescaling(self, call, current):
        layer = call.layer
        if not np.any(layer.offset):
            return self.scale(call.name, current, np.asarray(layer.scale))
        return self.channels(call, current, layer.scale, layer.offset)

    def normalization(self, call, current):
        """Folded into what it follows, if nothing else reads that."""
        layer, x = call.layer, call.input
        axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
        behind = snn.ThresholdDependentBatchNormalization
        rank = len(x.shape) - (isinstance(layer, behind) or call.each_step) * bool(call.reads_time)
        if [axis % rank for axis in axes] != [rank - 1]:
            raise refusal(call, "it normalises another axis than the last one")
        scale, shift = graph.normalization(layer)
        name = self.products.get(id(x))
        if name is None or self.readers[id(x)] > 1:
            return self.channels(call, current, scale, shift)
        node = self.nodes[name]
        scaled = node.weight * scale.reshape(-1, *[1] * (node.weight.ndim - 1))
        bias = getattr(node, "bias", 0.0) * scale + shift
        if isinstance(node, self.nir.Linear):
            node = self.nodes[name] = self.nir.Affine(node.weight, bias)
        node.weight, node.bias = scaled.astype("float32"), bias.astype("float32")
        return current

    def channels(self, call, current, scale, shift):
        if (len(current.shape) > 1 and not current.ordered) or len(current.shape) > 3:
            raise refusal(call, "its channels are not those of a map of NIR")
        return self.pointwise(call.name, current, scale, shift)

    def pooling(self, call, current):
        layer = call.layer
        if layer.data_format != "channels_last" or not current.ordered:
            raise refusal(call, "it must be channels-last")
        own = graph.Geometry.of(layer, (None, *call.shape(call.input)))
        if np.any(own.padding):
            raise refusal(call, "NIR's averages take zeros of a padding in")
        if current.zeros and any(a != b for a, b in current.zeros[1]):
            current = self.padded(current)
        padding = [a for a, _ in current.zeros[1]] if current.zeros else [0, 0]
        total = isinstance(layer, snn.SumPooling2D)
        kind = self.nir.SumPool2d if total else self.nir.AvgPool2d
        node = kind(*(np.array(pair) for pair in (own.kernel, own.strides, padding)))
        shape = (current.shape[0], *own.outputs)
        added = self.add(call.name, node, current.sources, shape)
        if len(call.output.shape) < len(call.input.shape):
            return self.flat(f"{call.name}_flatten", added)
        return added

    def zeros(self, call, current):
        layer = call.layer
        if getattr(layer, "data_format", "channels_last") != "channels_last" or not current.ordered:
            raise refusal(call, "it must be channels-last")
        zeros = layer.padding if isinstance(layer.padding[0], tuple) else (layer.padding,)
        if current.zeros:
            zeros = tuple((a + c, b + d) for (a, b), (c, d) in zip(current.zeros[1], zeros))
        return dataclasses.replace(current, zeros=(call.name, zeros))

    def flat(self, name, current):
        node = self.nir.Flatten({"input": np.array(current.shape)}, start_dim=0)
        added = self.add(name, node, current.sources, (current.places.size,))
        return dataclasses.replace(added, places=current.places.ravel())

    def flatten(self, call, current):
        if call.layer.data_format != "channels_last":
            raise refusal(call, "it must be channels-last")
        return self.flat(call.name, current)

    def reshape(self, call, current):
        shape = tuple(call.output.shape[2 if call.timed else 1 :])
        if len(shape) == 1:
            return self.flat(call.name, current)
        return self.merged(call, current, current.places.reshape(shape))

    def permute(self, call, current):
        dims = call.layer.dims
        steps = call.reads_time and not call.each_step
        axes = [d - 2 for d in dims[1:]] if steps else [d - 1 for d in dims]
        return self.merged(call, current, current.places.transpose(axes))

    def merged(self, call, current, places):
        """A view of `current`; a flatten of some of NIR's axes if that makes it a map of NIR."""
        rank = len(current.shape)
        for start in range(rank):
            for end in range(start + 1, rank):
                size = int(np.prod(current.shape[start : end + 1]))
                shape = (*current.shape[:start], size, *current.shape[end + 1 :])
                merged = Current((), shape, places)
                if len(shape) > 1 and merged.ordered:
                    end = -1 if end == rank - 1 else end
                    node = self.nir.Flatten({"input": np.array(current.shape)}, start, end)
                    return self.add(call.name, node, current.sources, shape)
        return dataclasses.replace(current, places=places)

    def neuron(self, call, current):
        layer = call.layer
        if not layer.return_sequences:
            raise refusal(call, "it returns its last output only, which is the host's work")
        for unwanted in ("go_backwards", "return_state", "stateful"):
            if getattr(layer, unwanted):
                raise refusal(call, f"it has `{unwanted}=True`")
        stacked = isinstance(layer.cell, keras.layers.StackedRNNCells)
        cells = layer.cell.cells if stacked else [layer.cell]
        for i, cell in enumerate(cells):
            current = self.cell(call, f"{call.name}_{i}" if stacked else call.name, cell, current)
        return current

    def cell(self, call, name, cell, current):
        connection = None
        if isinstance(cell, snn.RecurrentCell):
            cell, connection = cell.neuron, cell.connection
        kind, fields = _node(cell)
        if kind is None:
            raise refusal(call, fields)
        fields = {key: current.scatter(value) for key, value in fields.items()}
        for key in TIMES:
            if key in fields:
                fields[key] = fields[key] * self.dt
        if not all(np.all(np.isfinite(value)) for value in fields.values()):
            raise refusal(call, "NIR has no such neuron without a leak")
        metadata = {"layer": type(call.layer).__name__}
        if isinstance(cell, snn.SpikingCell):
            metadata["fires_at_threshold"] = not cell.strict
        node = getattr(self.nir, kind)(**fields, metadata=metadata)
        added = self.add(name, node, current.sources, current.shape)
        added = dataclasses.replace(added, places=current.places)
        if connection is not None:
            back = self.feedback(call, connection, added)
            self.edges += [(source, added.sources[0]) for source in back.sources]
        return added

    def feedback(self, call, connection, current):
        """What a recurrent connection sends back to the neuron `current`."""
        x = keras.KerasTensor((None, *current.places.shape))
        model = connection
        if graph.functional(connection) is None:
            model = keras.Sequential([keras.Input(x.shape[1:]), connection])
        inner = _Writer(self.nir, self.dt)
        inner.nodes, inner.edges = self.nodes, self.edges
        found = graph.trace(model)
        inner.currents[id(found.inputs[0])] = current
        inner.readers.update(id(x) for call in found.calls for x in call.inputs)
        for part in found.calls:
            inner.currents[id(part.output)] = inner.apply(part)
        back = inner.padded(inner.currents[id(found.outputs[0])])
        if back.shape == current.shape and np.all(back.places == current.places):
            return back
        node = self.nodes[back.sources[0]]
        if not isinstance(node, (self.nir.Affine, self.nir.Linear)) or len(back.sources) > 1:
            raise refusal(call, "its connection does not keep the order of NIR's neurons")
        order = np.argsort(current.places)
        node.weight = node.weight[order]
        if isinstance(node, self.nir.Affine):
            node.bias = node.bias[order]
        return dataclasses.replace(back, places=current.places)

    def sum(self, call, *currents):
        layer = call.layer
        if isinstance(layer, snn.SpikeConnection) and layer.mode != "add":
            raise refusal(call, f"NIR has sums only, not {layer.mode!r}")
        first, sources = currents[0], tuple(s for c in currents for s in c.sources)
        if len(set(sources)) < len(sources):
            raise refusal(call, "NIR has one edge between two nodes")
        for other in currents[1:]:
            alike = other.shape == first.shape and other.places.shape == first.places.shape
            if not alike or np.any(other.places != first.places):
                raise refusal(call, "its inputs are not in the same order, or of different shapes")
        return dataclasses.replace(first, sources=sources)

    def same(self, call, current):
        return current


def _node(cell):
    """The NIR node of a cell and its fields, in Keras's order and steps; or `None` and a reason."""
    if isinstance(cell, (NIRIntegratorCell, NIRNeuronCell)):
        if getattr(cell, "reset", "hard") != "hard":
            return None, f"NIR has hard resets only, not reset={cell.reset!r}"
        return cell.node, {key: _array(cell.constants[key]) for key in FIELDS[cell.node]}
    kind, fire = "I", {}
    if isinstance(cell, snn.SpikingCell):
        kind = "IF"
        if cell.reset != "hard":
            return None, f"NIR has hard resets only, not reset={cell.reset!r}"
        threshold = _array(cell.current_threshold).astype("float64")
        if cell.threshold_weight is None:
            threshold = cell.threshold
        fire = {"v_threshold": threshold, "v_reset": cell.v_reset}
        if _steps_as(cell, snn.SynapticLIFCell):
            syn, mem = (1 / (1 - d) if d < 1 else np.inf for d in (cell.synaptic_decay, cell.decay))
            times = {"tau_syn": syn, "tau_mem": mem, "r": mem, "w_in": syn, "v_leak": 0.0}
            return "CubaLIF", times | fire
        form = cell.fused_spec() and cell.linear_charge()
    else:
        form = (
            cell.form() if _steps_as(cell, snn.LeakyIntegratorCell, snn.AccumulatorCell) else None
        )
    if not form:
        return None, "NIR has no such neuron"
    rate = None if form.rate is None else _array(form.rate).astype("float64")
    decay, gain = form.slopes(rate)
    if np.all(np.equal(decay, 1)):
        if not fire and cell.v_reset:
            return None, "NIR's integrators start at 0"
        return kind, {"r": gain} | fire
    rest = form.v_rest
    if not fire and rest != cell.v_reset:
        return None, "NIR has no such neuron"
    tau = 1 / (1 - decay)
    return kind.replace("I", "LI"), {"tau": tau, "r": gain * tau, "v_leak": rest} | fire


def _steps_as(cell, *classes):
    """Whether a cell's arithmetic is that of one of the classes, and not a subclass's own."""
    names = ("step", "charge", "linear_charge", "fire", "reset_membrane", "current_threshold")
    return any(
        isinstance(cell, cls)
        and all(getattr(type(cell), n, None) is getattr(cls, n, None) for n in names)
        for cls in classes
    )


ENCODERS = (
    snn.ImpulseEncoder,
    snn.LatencyEncoder,
    snn.PhaseEncoder,
    snn.PoissonEncoder,
    snn.PopulationEncoder,
)
WRITERS = (
    (snn.SpikingRNN, _Writer.neuron),
    ((keras.layers.Conv1D, keras.layers.Conv2D), _Writer.convolution),
    (keras.layers.DepthwiseConv2D, _Writer.convolution),
    (keras.layers.Dense, _Writer.dense),
    (keras.layers.EinsumDense, _Writer.einsum),
    (snn.AxonalDelay, _Writer.delay),
    ((snn.DelayedDense, snn.DelayedConv1D, snn.DelayedConv2D), _Writer.delayed),
    (keras.layers.Rescaling, _Writer.rescaling),
    (keras.layers.BatchNormalization, _Writer.normalization),
    ((keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D), _Writer.zeros),
    ((keras.layers.AveragePooling2D, keras.layers.GlobalAveragePooling2D), _Writer.pooling),
    (keras.layers.Flatten, _Writer.flatten),
    (keras.layers.Reshape, _Writer.reshape),
    (keras.layers.Permute, _Writer.permute),
    ((keras.layers.Add, snn.SpikeConnection), _Writer.sum),
    (ENCODERS, None),  # which are kinds of `RepeatTime`
    ((keras.layers.Identity, snn.RepeatTime), _Writer.same),
)
HINTS = dict.fromkeys((kind.__name__ for kind in ENCODERS), "encode in front of the model")
HINTS |= {"MaxPooling2D": "NIR has average and sum pooling only"}
