"""Exchange with other simulators and chips through NIR, an intermediate representation of SNNs.

A step is `dt` seconds. `LIF`'s `h = v + (x - (v - v_reset)) / tau` is NIR's
`tau dv/dt = v_leak - v + r x` by one Euler step: `tau_nir = tau * dt`, `r = 1`, or `r = tau` where
the input is not divided. Source: Pedersen et al. (2024), and NIR's own documentation.
"""

import dataclasses
import io
import pathlib

import keras
import numpy as np
from keras import ops, tree

from keras_snn import layers as snn
from keras_snn.utils import files

__all__ = ["from_nir", "to_nir"]

DT = 1e-4
SUFFIXES = (".nir", ".h5", ".hdf5")


def _package():
    try:
        import nir
    except ImportError as error:
        raise ImportError(
            "Exchange through NIR needs the extra `nir`: pip install keras-snn[nir]"
        ) from error
    return nir


@dataclasses.dataclass
class Current:
    """What the nodes `sources` sum to: its shape without batch and time, `(height, width, ...)`."""

    sources: tuple
    shape: tuple
    # Shape before a flatten, whose order the next dense layer's rows have to follow.
    flattened: tuple | None = None
    # Zeros around a map, for the next convolution.
    padding: tuple = (0, 0)


def to_nir(model, path=None, dt=DT):
    """Translates a model to NIR.

    Convolutions, dense layers, average pooling, flatten, IF and LIF neurons (`IF`, `LIF`,
    `ParametricLIF`, `DecayLIF`) with hard reset, integrators, sums. Maps turn channels-first.

    Args:
        model: A functional or Sequential model. Its readout over time is the host's work in NIR:
            cut the model in front of it.
        path: Where to write an HDF5 file, `.nir` or `.h5`, if given; an existing one is replaced
            once the new one is complete.
        dt: Seconds of a step.

    Returns:
        A `nir.NIRGraph`.

    Raises:
        TypeError: If NIR can't say what a layer does; the layer is named.
        ValueError: If no file can be written to `path`, see `keras_snn.utils.files.check_path`.
        OSError: If the file can't be written; one that was there stays.
        ImportError: If the extra `nir` is not installed.

    Example:

    ```python
    body = keras.Model(model.inputs, model.get_layer("neuron3").output)
    keras_snn.export.to_nir(body, "model.nir")
    ```
    """
    nir = _package()
    if path is not None:
        path = files.check_path(path, SUFFIXES)
    if not getattr(model, "inputs", None) or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise TypeError(f"NIR takes models with one input and one output, got {model!r}.")
    writer = _Writer(nir, dt)
    shape = tuple(model.inputs[0].shape[1:])
    static = any(isinstance(layer, snn.RepeatTime) for layer in model._flatten_layers())
    shape = shape if static else shape[1:]
    if None in shape:
        raise TypeError(f"NIR needs all sizes of a step, got {model.inputs[0].shape}.")
    name = writer.add("input", nir.Input({"input": np.array(_first(shape))}), ())
    output = tree.flatten(writer.walk(model, [Current((name,), shape)]))[0]
    writer.add("output", nir.Output({"output": np.array(_first(output.shape))}), output.sources)
    graph = nir.NIRGraph(
        writer.nodes, writer.edges, metadata={"dt": dt, "fires_at_threshold": True}
    )
    if path is not None:
        content = io.BytesIO()  # HDF5 itself dies where a disk is full
        nir.write(content, graph)
        files.write(path, content.getvalue())
    return graph


def _first(shape):
    """A shape with its channels first."""
    return (shape[-1], *shape[:-1])


class _Writer:
    def __init__(self, nir, dt):
        self.nir, self.dt, self.nodes, self.edges = nir, dt, {}, []

    def add(self, name, node, sources):
        """Adds a node, and edges from those that feed it."""
        while name in self.nodes:
            name += "_"
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def walk(self, model, values):
        graph = getattr(model, "_functional", None) or model
        return graph._run_through_graph(values, operation_fn=lambda layer: self.rule(layer))

    def rule(self, layer):
        def apply(*args, **kwargs):
            if isinstance(layer, keras.Model):
                return self.walk(layer, tree.flatten(args))
            inner = layer
            while isinstance(inner, (snn.FoldTime, keras.layers.TimeDistributed)):
                inner = inner.layer
            for classes, write in WRITERS:
                if isinstance(inner, classes):
                    return write(self, layer.name, inner, *args)
            hint = HINTS.get(type(inner).__name__, "NIR has no node for it")
            if isinstance(inner, keras.layers.BatchNormalization):
                hint = "fold it into the layer in front first"
            elif type(inner).__name__.endswith(("OverTime", "Readout")):
                hint = "cut the model in front of it; readouts are the host's work"
            raise _refusal(layer, hint)

        return apply

    def neuron(self, name, layer, x):
        nir, cell = self.nir, layer.cell
        if isinstance(cell, (snn.AccumulatorCell, snn.LeakyIntegratorCell)):
            form, fire, threshold = cell.linear_charge(), None, None
        else:
            parts = cell.fused_spec() if isinstance(cell, snn.SpikingCell) else None
            if parts is None:
                raise _refusal(layer, "NIR has no such neuron")
            form, fire, threshold = parts
            if fire.reset != "hard":
                raise _refusal(layer, f"NIR has hard resets only, not reset={fire.reset!r}")
        shape = _first(x.shape)
        rate = ops.convert_to_numpy(form.rate) if form.rate is not None else None
        decay, gain = form.slopes(rate)

        def full(value):
            value = value if isinstance(value, (int, float)) else ops.convert_to_numpy(value)
            value = np.broadcast_to(np.asarray(value, "float32"), x.shape)
            return np.ascontiguousarray(np.moveaxis(value, -1, 0)) if len(shape) > 1 else value

        rest = full(form.v_rest)
        tau = None
        if not np.all(np.equal(decay, 1)):
            tau, r = full(self.dt / (1 - decay)), full(gain / (1 - decay))
        else:
            r = full(gain)
        ends = (
            {} if fire is None else {"v_threshold": full(threshold), "v_reset": full(fire.v_reset)}
        )
        if tau is None:
            node = (nir.I if fire is None else nir.IF)(r=r, **ends)
        else:
            node = (nir.LI if fire is None else nir.LIF)(tau=tau, r=r, v_leak=rest, **ends)
        return dataclasses.replace(x, sources=(self.add(name, node, x.sources),))

    def convolution(self, name, layer, x):
        if layer.data_format != "channels_last" or layer.activation is not keras.activations.linear:
            raise _refusal(layer, "it must be channels-last and without an activation")
        kernel, size = ops.convert_to_numpy(layer.kernel), layer.kernel_size
        if layer.padding != "valid":
            uneven = max(layer.strides) > 1 or not all(k % 2 for k in size)
            if layer.padding == "same" and uneven:
                raise _refusal(
                    layer,
                    "`same` with strides or even kernels pads one side more; use "
                    "`PaddedConv2D`, or `ZeroPadding2D` and `valid`",
                )
            padding = tuple(d * (k - 1) // 2 for k, d in zip(size, layer.dilation_rate))
        else:
            padding = (0, 0)
        padding = tuple(a + b for a, b in zip(padding, x.padding))
        bias = ops.convert_to_numpy(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
        node = self.nir.Conv2d(
            input_shape=tuple(x.shape[:2]),
            weight=np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)),
            stride=tuple(layer.strides),
            padding=padding,
            dilation=tuple(layer.dilation_rate),
            groups=layer.groups,
            bias=bias.astype("float32"),
        )
        shape = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(x.shape, padding, layer.dilation_rate, size, layer.strides)
        ]
        sources = (self.add(name, node, x.sources),)
        return Current(sources, (*shape, kernel.shape[-1]))

    def dense(self, name, layer, x):
        if layer.activation is not keras.activations.linear:
            raise _refusal(layer, "its activation is the host's work")
        kernel = ops.convert_to_numpy(layer.kernel)
        if x.flattened and len(x.flattened) > 1:
            order = np.arange(np.prod(x.flattened)).reshape(x.flattened)
            kernel = kernel[np.moveaxis(order, -1, 0).ravel()]
        elif len(x.shape) > 1:
            raise _refusal(layer, "NIR's dense layers take vectors")
        weight = np.ascontiguousarray(kernel.T)
        if layer.use_bias:
            node = self.nir.Affine(weight, ops.convert_to_numpy(layer.bias))
        else:
            node = self.nir.Linear(weight)
        return Current((self.add(name, node, x.sources),), (len(weight),))

    def flatten(self, name, layer, x):
        if len(x.shape) == 1:
            return x
        node = self.nir.Flatten({"input": np.array(_first(x.shape))}, start_dim=0)
        sources = (self.add(name, node, x.sources),)
        return Current(sources, (int(np.prod(x.shape)),), flattened=x.shape)

    def pooling(self, name, layer, x):
        if isinstance(layer, keras.layers.GlobalAveragePooling2D):
            size = strides = x.shape[:2]
        else:
            size, strides = layer.pool_size, layer.strides
            rest = [(n - k) % s for n, k, s in zip(x.shape, size, strides)]
            if layer.padding == "same" and any(rest):
                raise _refusal(layer, "NIR pools without padding")
        pair = [np.array(p) for p in (size, strides, (0, 0))]
        sources = (self.add(name, self.nir.AvgPool2d(*pair), x.sources),)
        shape = [(n - k) // s + 1 for n, k, s in zip(x.shape, size, strides)]
        pooled = Current(sources, (*shape, x.shape[-1]))
        if isinstance(layer, keras.layers.GlobalAveragePooling2D):
            return self.flatten(f"{name}_flatten", layer, pooled)
        return pooled

    def zeros(self, name, layer, x):
        (top, bottom), (left, right) = layer.padding
        if top != bottom or left != right:
            raise _refusal(layer, "NIR pads both sides alike")
        return dataclasses.replace(x, padding=(top, left))

    def sum(self, name, layer, *args):
        if isinstance(layer, snn.SpikeConnection) and layer.mode != "add":
            raise _refusal(layer, f"NIR has sums only, not {layer.mode!r}")
        values = tree.flatten(args)
        sources = tuple(s for v in values for s in v.sources)
        if len(set(sources)) < len(sources):
            raise _refusal(layer, "NIR has one edge between two nodes")
        return dataclasses.replace(values[0], sources=sources)

    def same(self, name, layer, x, *args):
        return x


WRITERS = (
    (snn.SpikingRNN, _Writer.neuron),
    (keras.layers.Conv2D, _Writer.convolution),
    (keras.layers.Dense, _Writer.dense),
    (keras.layers.Flatten, _Writer.flatten),
    ((keras.layers.AveragePooling2D, keras.layers.GlobalAveragePooling2D), _Writer.pooling),
    (keras.layers.ZeroPadding2D, _Writer.zeros),
    ((keras.layers.Add, snn.SpikeConnection), _Writer.sum),
    ((keras.layers.Dropout, keras.layers.Identity), _Writer.same),
    (snn.RepeatTime, _Writer.same),
)
HINTS = {"MaxPooling2D": "NIR has average and sum pooling only"}


def _refusal(layer, hint):
    return TypeError(f"NIR can't say what {layer.name} ({type(layer).__name__}) does: {hint}.")


def from_nir(graph, timesteps=None, dt=None):
    """Builds a Keras model of a NIR graph.

    Args:
        graph: A `nir.NIRGraph`, or the path of a file.
        timesteps: Number of steps; open by default.
        dt: Seconds of a step; by default what the graph's metadata say, else 1e-4.

    Returns:
        A functional model from `(batch, time, ...)` to `(batch, time, ...)`, channels last. Its
        neurons fire at the threshold, NIR's above it.

    Raises:
        TypeError: If a node is not known, or has values that differ between neurons where ours
            have one; the node is named.
        ValueError: If the graph has a cycle, or more than one input or output, or the file is
            damaged.
        FileNotFoundError: If there is no such file.
        ImportError: If the extra `nir` is not installed.

    Example:

    ```python
    model = keras_snn.export.from_nir("model.nir", timesteps=16)
    ```
    """
    nir = _package()
    graph = graph if isinstance(graph, nir.NIRGraph) else _read_file(nir, graph)
    if dt is None:
        dt = float((graph.metadata or {}).get("dt", DT))
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    kinds = {
        k: [n for n, v in graph.nodes.items() if isinstance(v, k)] for k in (nir.Input, nir.Output)
    }
    if any(len(names) != 1 for names in kinds.values()):
        raise ValueError("Only graphs with one input and one output are read.")
    (start,), (end,) = kinds[nir.Input], kinds[nir.Output]
    shape = tuple(int(n) for n in graph.nodes[start].input_type["input"])
    inputs = keras.Input((timesteps, *shape[1:], shape[0]), name=start)
    built, waiting = {start: inputs}, set()

    def build(name):
        if name in built:
            return built[name]
        if name in waiting:
            raise ValueError(f"The graph has a cycle through {name!r}.")
        waiting.add(name)
        parts = [build(source) for source in sources[name]]
        x = keras.layers.Add(name=f"{name}_sum")(parts) if len(parts) > 1 else parts[0]
        built[name] = x if name == end else _read_node(nir, name, graph.nodes[name], x, dt)
        return built[name]

    return keras.Model(inputs, build(end))


def _read_file(nir, path):
    path = pathlib.Path(path).expanduser()
    content = path.read_bytes()
    try:
        return nir.read(io.BytesIO(content))
    except Exception as error:  # HDF5's, and NIR's own
        raise ValueError(f"{path} is no NIR file, or is damaged: {error}") from error


def _read_node(nir, name, node, x, dt):
    """A node as a Keras layer on `x`."""

    def fold(layer, weights=None):
        y = snn.FoldTime(layer, name=name)(x)
        if weights is not None:
            layer.set_weights(weights)
        return y

    if isinstance(node, nir.Conv2d):
        padding = node.padding if isinstance(node.padding, str) else "valid"
        if padding == "valid" and not isinstance(node.padding, str) and np.any(node.padding):
            pads = tuple(int(p) for p in np.broadcast_to(node.padding, 2))
            x = snn.FoldTime(keras.layers.ZeroPadding2D(pads), name=f"{name}_pad")(x)
        filters, _, *size = node.weight.shape
        strides, dilation = (
            tuple(int(s) for s in np.broadcast_to(v, 2)) for v in (node.stride, node.dilation)
        )
        layer = keras.layers.Conv2D(
            filters, size, strides, padding, dilation_rate=dilation, groups=int(node.groups)
        )
        return fold(layer, [node.weight.transpose(2, 3, 1, 0), node.bias])
    if isinstance(node, nir.Affine):
        return fold(keras.layers.Dense(len(node.weight)), [node.weight.T, node.bias])
    if isinstance(node, nir.Linear):
        return fold(keras.layers.Dense(len(node.weight), use_bias=False), [node.weight.T])
    if isinstance(node, (nir.AvgPool2d, nir.SumPool2d)):
        if np.any(node.padding):
            raise TypeError(f"The node {name!r} pools with padding, which is not read.")
        size, strides = (
            tuple(int(s) for s in np.broadcast_to(v, 2)) for v in (node.kernel_size, node.stride)
        )
        x = fold(keras.layers.AveragePooling2D(size, strides))
        if isinstance(node, nir.SumPool2d):
            x = keras.layers.Rescaling(float(np.prod(size)), name=f"{name}_sum_of_mean")(x)
        return x
    if isinstance(node, nir.Flatten):
        if len(x.shape) > 3:
            x = snn.FoldTime(keras.layers.Permute((3, 1, 2)), name=f"{name}_channels_first")(x)
        return fold(keras.layers.Flatten())
    if isinstance(node, (nir.IF, nir.LIF, nir.I, nir.LI)):
        return _read_neuron(nir, name, node, x, dt)
    raise TypeError(f"The node {name!r} is a {type(node).__name__}, which is not read.")


def _read_neuron(nir, name, node, x, dt):
    def one(value, default=0.0):
        values = np.unique(default if value is None else value)
        if len(values) != 1:
            raise TypeError(f"The neurons of the node {name!r} differ, which is not read.")
        return float(values[0])

    r, leaks = one(node.r), isinstance(node, (nir.LIF, nir.LI))
    arguments, divided = {"name": name}, True
    if leaks:
        arguments["tau"] = one(node.tau) / dt
        divided = not np.isclose(r, arguments["tau"], rtol=1e-5)
        arguments["decay_input"] = divided
    gain = 1.0 if leaks and not divided else r
    if gain != 1:
        x = keras.layers.Rescaling(gain, name=f"{name}_gain")(x)
    if isinstance(node, (nir.I, nir.LI)):
        if leaks and one(node.v_leak):
            raise TypeError(f"The node {name!r} leaks to another potential than 0: not read.")
        return (snn.LeakyIntegrator if leaks else snn.Accumulator)(**arguments)(x)
    reset = one(node.v_reset)
    if leaks and one(node.v_leak) != reset:
        raise TypeError(
            f"The node {name!r} leaks to another potential than it resets to: not read."
        )
    arguments |= {"threshold": one(node.v_threshold), "v_reset": reset}
    return (snn.LIF if leaks else snn.IF)(**arguments)(x)
