"""A NIR graph as a Keras model."""

import graphlib
import io
import pathlib
import re

import keras
import numpy as np

from keras_snn import layers as snn
from keras_snn.export.nir.cells import NIRIntegrator, NIRNeuron
from keras_snn.export.nir.common import (
    DT,
    FIELDS,
    TIMES,
    channels_first,
    channels_last,
    package,
)
from keras_snn.utils.arguments import check_choice, check_number

__all__ = ["from_nir"]


def from_nir(graph, timesteps=None, dt=None, reset="hard"):
    """Builds a Keras model of a NIR graph.

    A step of the model is one Euler step of `dt` seconds: `LIF`'s `tau dv/dt = v_leak - v + r x`
    is `v + (r x - (v - v_leak)) * dt / tau`. A `CubaLIF` integrates its current first, and its
    potential from the new current. What comes back through a cycle comes one step later.
    Neurons start at `v_reset`, integrators that leak at `v_leak`, `I` at 0. They fire above the
    threshold, as NIR says, or at it where the metadata of a model of ours say so.

    By NIR's equation `dv/dt = r x`, the `r` of `IF` and `I` counts per second, and SpikingJelly
    writes `1 / dt` for `v + x`. Norse, Sinabs, snnTorch, the graphs of NIR's paper and `to_nir`
    write 1 for it, `r` per step. It is taken for whichever it is nearer to, 1 or `1 / dt`.

    Neurons are layers of `keras_snn.layers` where these say the same; else, if constants differ
    between units say, a `NIRNeuron` or `NIRIntegrator` of this package. A neuron and a matrix or
    convolution in a cycle are a `Recurrent`; graphs within the graph are dissolved.

    Args:
        graph: A `nir.NIRGraph`, or the path of a file.
        timesteps: Number of steps; open by default.
        dt: Seconds of a step; by default what the graph's metadata say, else 1e-4.
        reset: What a spike does to the potential. NIR knows `"hard"`, to `v_reset`, only; give
            `"soft"` for a graph whose neurons were trained with a reset by subtraction.

    Returns:
        A functional model from `(batch, time, ...)` to `(batch, time, ...)`, channels last. Its
        layers have the names of the nodes, with `_` for what Keras's names may not have.

    Raises:
        TypeError: If a node is not known, or has a form that is not read; the node is named.
        ValueError: If the graph has a cycle of other nodes, more than one input or output, shapes
            that do not fit, or delays that are no whole steps; or the file is damaged.
        FileNotFoundError: If there is no such file.
        ImportError: If the extra `nir` is not installed.

    Source: Pedersen et al. (2024), and NIR's own documentation.

    Example:

    ```python
    model = keras_snn.export.from_nir("model.nir", timesteps=16)
    ```
    """
    nir = package()
    reset = check_choice("reset", reset, ("hard", "soft"))
    graph = graph if isinstance(graph, nir.NIRGraph) else _read_file(nir, graph)
    graph.validate_structure()
    metadata = graph.metadata or {}
    dt = check_number("dt", float(metadata.get("dt", DT)) if dt is None else dt, above=0)
    return _Reader(nir, dt, reset, metadata).read(*_flat(nir, graph), timesteps)


def _read_file(nir, path):
    path = pathlib.Path(path).expanduser()
    content = path.read_bytes()
    try:
        return nir.read(io.BytesIO(content), type_check=False)
    except Exception as error:  # HDF5's, and NIR's own
        raise ValueError(f"{path} is no NIR file, or is damaged: {error}") from error


def _flat(nir, graph):
    """Nodes by name and a list of edges, of a graph without the graphs within it."""
    nodes, edges = dict(graph.nodes), list(graph.edges)
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRGraph):
            continue
        inner, within = _flat(nir, node)
        ends = [f"{name}.{_only(kind, inner, name)}" for kind in (nir.Input, nir.Output)]
        del nodes[name]
        nodes |= {f"{name}.{n}": v for n, v in inner.items()}
        edges = [(ends[1] if a == name else a, ends[0] if b == name else b) for a, b in edges]
        edges += [(f"{name}.{a}", f"{name}.{b}") for a, b in within]
        for end in ends:  # whatever comes to it goes on
            del nodes[end]
            before, after = ([e[i] for e in edges if e[1 - i] == end] for i in (0, 1))
            edges = [e for e in edges if end not in e] + [(a, b) for a in before for b in after]
    return nodes, edges


def _only(kind, nodes, name=None):
    found = [n for n, node in nodes.items() if isinstance(node, kind)]
    if len(found) != 1:
        where = "The graph" if name is None else f"The node {name!r}"
        raise ValueError(
            f"{where} has {len(found)} nodes {kind.__name__}, {found}; only graphs with one input "
            "and one output are read."
        )
    return found[0]


class _Reader:
    def __init__(self, nir, dt, reset, metadata):
        self.nir, self.dt, self.reset, self.metadata, self.names = nir, dt, reset, metadata, set()

    def read(self, nodes, edges, timesteps):
        """The model of a graph without graphs within it."""
        start, end = _only(self.nir.Input, nodes), _only(self.nir.Output, nodes)
        sources = {name: [a for a, b in edges if b == name] for name in nodes}
        targets = {name: [b for a, b in edges if a == name] for name in nodes}
        back = self.feedback(nodes, sources, targets)
        for name, connection in back.items():
            sources[name].remove(connection)
            if connection != name:
                del sources[connection]
        shape = tuple(int(n) for n in nodes[start].input_type["input"])
        inputs = keras.Input((timesteps, *shape[1:], *shape[:1]), name=self.name(start))
        built = {start: inputs}
        for name in self.order(sources, end):
            if name == start:
                continue
            parts = [built[source] for source in sources[name]]
            if not parts:
                raise ValueError(f"Nothing feeds the node {name!r}.")
            if len({tuple(x.shape) for x in parts}) > 1:
                shapes = {s: channels_first(x.shape[2:]) for s, x in zip(sources[name], parts)}
                raise ValueError(f"What feeds the node {name!r} has different shapes: {shapes}.")
            x = parts[0]
            if len(parts) > 1:
                x = keras.layers.Add(name=self.name(f"{name}_sum"))(parts)
            if name == end:
                built[name] = x
            elif type(nodes[name]).__name__ in FIELDS:
                built[name] = self.neuron(name, nodes[name], x, nodes, back.get(name))
            elif isinstance(nodes[name], self.nir.Delay):
                built[name] = self.delay(name, nodes[name], x)
            else:
                built[name] = self.stateless(name, nodes[name], x)
        wanted = nodes[end].output_type["output"]
        found = channels_first(built[end].shape[2:])
        if wanted is not None and np.prod(wanted) != np.prod(found):
            wanted = tuple(np.ravel(wanted).tolist())
            raise ValueError(f"The output {end!r} has the shape {wanted}, but gets {found}.")
        return keras.Model(inputs, built[end])

    def feedback(self, nodes, sources, targets):
        """Of each neuron in a cycle with itself or one other node, that node."""
        back = {}
        for name in nodes:
            (before, after) = sources[name], targets[name]
            if name in before:
                back[name] = name
            elif len(before) == 1 and before == after:
                back[before[0]] = name
        return {k: v for k, v in back.items() if type(nodes[k]).__name__ in FIELDS}

    def order(self, sources, end):
        """The nodes that the output needs, each behind those that feed it."""
        needed, ahead = set(), [end]
        while ahead:
            name = ahead.pop()
            if name not in needed:
                needed.add(name)
                ahead += sources[name]
        try:
            needs = {name: sources[name] for name in sources if name in needed}
            return list(graphlib.TopologicalSorter(needs).static_order())
        except graphlib.CycleError as error:
            raise ValueError(
                f"The graph has a cycle through {error.args[1]}. Cycles of a neuron and a matrix "
                "or convolution are read."
            ) from None

    def name(self, name):
        """A name for a layer that Keras takes on all backends, and that no other layer has."""
        name = re.sub(r"[^A-Za-z0-9_-]", "_", name) or "_"
        name = name if name[0] != "-" else f"_{name}"
        while name.lower() in self.names:
            name += "_"
        self.names.add(name.lower())
        return name

    def delay(self, name, node, x):
        """Delays of whole steps, one for each unit."""
        steps = _full(name, "delay", node.delay, channels_first(x.shape[2:])) / self.dt
        whole = np.rint(steps)
        if np.any(np.abs(steps - whole) > 1e-3) or np.any(whole < 0):
            raise ValueError(
                f"The delays of the node {name!r} are no whole steps of {self.dt} seconds."
            )
        layer = snn.AxonalDelay(
            max(1, int(whole.max())),
            sigma=0.0,
            parameter_shape="neuron",
            trainable=False,
            name=self.name(name),
        )
        y = layer(x)
        layer.delays.assign(channels_last(whole).astype("float32"))
        return y

    def stateless(self, name, node, x):
        """A node that treats each step by itself, as layers on `x`."""
        *before, last = self.layers(name, node, channels_first(x.shape[2:]))
        for layer, weights in before:
            x = self.fold(f"{name}_{layer.name}", layer, weights, x)
        return self.fold(name, *last, x)

    def fold(self, name, layer, weights, x):
        x = snn.FoldTime(layer, name=self.name(name))(x)
        if weights is not None:
            layer.set_weights(weights)
        return x

    def layers(self, name, node, shape):
        """Keras layers that do what a node does, with their weights."""
        nir, keras_layers = self.nir, keras.layers

        def fits(wanted, axes=slice(None)):
            if tuple(shape[axes]) != tuple(wanted):
                raise ValueError(f"The node {name!r} wants inputs {tuple(wanted)}, gets {shape}.")

        if isinstance(node, (nir.Conv1d, nir.Conv2d)):
            return self.convolution(name, node, shape)
        if isinstance(node, (nir.Affine, nir.Linear)):
            weight = _array(node.weight)
            if weight.ndim != 2:
                raise TypeError(f"The node {name!r} has weights {weight.shape}: not read.")
            fits(weight.shape[1:])
            bias = isinstance(node, nir.Affine)
            weights = [weight.T, _array(node.bias)] if bias else [weight.T]
            return [(keras_layers.Dense(len(weight), use_bias=bias), weights)]
        if isinstance(node, nir.Scale):
            scale = _full(name, "scale", node.scale, shape)
            if np.all(scale == scale.flat[0]):
                return [(keras_layers.Rescaling(float(scale.flat[0])), None)]
            letters = "bcdefg"[: len(shape)]
            product = keras_layers.EinsumDense(
                f"a{letters},{letters}->a{letters}", (*shape[1:], shape[0])
            )
            return [(product, [channels_last(scale).astype("float32")])]
        if isinstance(node, (nir.AvgPool2d, nir.SumPool2d)):
            size, strides, padding = (
                tuple(int(v) for v in np.broadcast_to(value, 2))
                for value in (node.kernel_size, node.stride, node.padding)
            )
            total = isinstance(node, nir.SumPool2d)
            pool = (snn.SumPooling2D if total else keras_layers.AveragePooling2D)(size, strides)
            pad = keras_layers.ZeroPadding2D(padding, name="pad")
            return [(pad, None), (pool, None)] if any(padding) else [(pool, None)]
        if isinstance(node, nir.Flatten):
            return self.flatten(name, node, shape)
        raise TypeError(f"The node {name!r} is a {type(node).__name__}, which is not read.")

    def convolution(self, name, node, shape):
        weight, axes = _array(node.weight), len(node.weight.shape) - 2
        filters, channels, *size = weight.shape
        groups = int(node.groups)
        if len(shape) != axes + 1 or shape[0] != channels * groups:
            raise ValueError(
                f"The node {name!r} wants {channels * groups} channels and {axes} axes, gets the "
                f"shape {shape}."
            )
        strides, dilation = (
            tuple(int(s) for s in np.broadcast_to(v, axes)) for v in (node.stride, node.dilation)
        )
        padding = node.padding if isinstance(node.padding, str) else "valid"
        if padding == "same" and max(strides) > 1:
            raise TypeError(f"The node {name!r} has strides and padding 'same': not read.")
        kind = keras.layers.Conv1D if axes == 1 else keras.layers.Conv2D
        found = []
        if not isinstance(node.padding, str) and np.any(node.padding):
            zeros = tuple(int(p) for p in np.broadcast_to(node.padding, axes))
            half = tuple(d * (k - 1) / 2 for k, d in zip(size, dilation))
            if axes == 2 and zeros == half and all(k % 2 for k in size):
                kind, padding = snn.PaddedConv2D, "symmetric"
            elif axes == 1:
                found.append((keras.layers.ZeroPadding1D(zeros[0], name="pad"), None))
            else:
                found.append((keras.layers.ZeroPadding2D(zeros, name="pad"), None))
        layer = kind(filters, size, strides, padding, dilation_rate=dilation, groups=groups)
        weights = [weight.transpose(*range(2, axes + 2), 1, 0), _array(node.bias)]
        return [*found, (layer, weights)]

    def flatten(self, name, node, shape):
        rank = len(shape)
        start, end = (int(d) + rank * (d < 0) for d in (node.start_dim, node.end_dim))
        if not 0 <= start <= end < rank:
            raise ValueError(
                f"The node {name!r} flattens axes {node.start_dim} to {node.end_dim} of {shape}."
            )
        to_first = keras.layers.Permute((rank, *range(1, rank)), name="channels_first")
        first = [(to_first, None)] if rank > 1 else []
        flat = (*shape[:start], int(np.prod(shape[start : end + 1])), *shape[end + 1 :])
        if len(flat) == 1:
            return [*first, (keras.layers.Flatten(), None)]
        if start > 0:  # channels stay the last axis
            return [(keras.layers.Reshape((*flat[1:], flat[0])), None)]
        last = keras.layers.Permute((*range(2, len(flat) + 1), 1))
        return [*first, (keras.layers.Reshape(flat, name="merge"), None), (last, None)]

    def neuron(self, name, node, x, nodes, connection):
        """A neuron, or an integrator, with what comes back to it."""
        shape = channels_first(x.shape[2:])
        constants, kind = self.constants(name, node, shape), type(node).__name__
        layer, arguments = self.plain(node, constants)
        generic = layer in (NIRNeuron, NIRIntegrator)
        if layer not in (snn.LeakyIntegrator, snn.Accumulator, NIRIntegrator):
            arguments |= {"strict": not self.fires_at_threshold(node), "reset": self.reset}
        if generic:
            arguments["node"] = kind
        title = self.name(name)
        if connection is None:
            layer = layer(**arguments, name=title)
            cell = layer.cell
        else:
            cell = layer.cell_class(**arguments)
            layer = snn.Recurrent(
                cell, self.connection(name, connection, nodes[connection], shape), name=title
            )
        y = layer(x)
        if generic:
            for key, value in constants.items():
                cell.constants[key].assign(channels_last(value).astype("float32"))
        return y

    def connection(self, name, connection, node, shape):
        """A Keras layer for a node that leads back to the neuron `name`."""
        if connection == name:
            return keras.layers.Identity(name=self.name(f"{name}_back"))
        found = self.layers(connection, node, shape)
        layer = found[-1][0]
        layer.name = self.name(connection)
        if len(found) > 1:
            layer = keras.Sequential([part for part, _ in found])
        layer.build((None, *shape[1:], shape[0]))
        for part, weights in found:
            if weights is not None:
                part.set_weights(weights)
        return layer

    def fires_at_threshold(self, node):
        for metadata in (node.metadata or {}, self.metadata):
            if "fires_at_threshold" in metadata:
                return bool(metadata["fires_at_threshold"])
        return False

    def constants(self, name, node, shape):
        """A neuron's fields for each unit, in float64; times in steps, `r` for one step."""
        kind = type(node).__name__
        values = {key: _full(name, key, getattr(node, key), shape) for key in FIELDS[kind]}
        for key in TIMES:
            if key in values:
                values[key] = values[key] / self.dt
                if np.any(values[key] <= 0):
                    raise ValueError(f"The node {name!r} has a {key} that is not above 0.")
        largest = np.max(np.abs(values["r"]), initial=0) if kind in ("I", "IF") else 0
        if largest and abs(np.log(largest * self.dt)) < abs(np.log(largest)):
            values["r"] = values["r"] * self.dt  # per second
        return values

    def plain(self, node, constants):
        """The layer of ours that says the same, and its arguments."""
        kind = type(node).__name__
        generic = (NIRNeuron if kind in NIRNeuron.cell_class.nodes else NIRIntegrator), {}
        if any(np.any(value != value.flat[0]) for value in constants.values()):
            return generic
        c = {key: float(value.flat[0]) for key, value in constants.items()}
        if kind in ("Threshold", "CubaLI") or c.get("v_threshold", 1.0) <= 0:
            return generic
        fires = {"threshold": c["v_threshold"], "v_reset": c["v_reset"]} if "v_reset" in c else {}
        if kind in ("I", "IF"):
            layer = snn.IF if fires else snn.Accumulator
            return (layer, fires) if c["r"] == 1 else generic
        times = {key: max(c[key], 1.0) for key in TIMES if key in c}
        if not all(np.isclose(c[key], value, 1e-6) for key, value in times.items()):
            return generic  # a leak of more than the whole
        decays = [1 - 1 / value for value in times.values()]
        if kind == "CubaLIF":
            same = np.isclose([c["w_in"], c["r"]], [c["tau_syn"], c["tau_mem"]], 1e-6)
            if not np.all(same) or c["v_leak"] != 0:
                return generic
            (at_synapse, at_membrane) = (1 - 1 / times[key] for key in ("tau_syn", "tau_mem"))
            return snn.SynapticLIF, {"synaptic_decay": at_synapse, "decay": at_membrane, **fires}
        divided, whole = (np.isclose(c["r"], one, 1e-6) for one in (1.0, c["tau"]))
        decides = (node.metadata or {}).get("layer")
        leaks = {"tau": times["tau"], "decay_input": bool(divided)}
        if not fires and (divided or whole):
            return snn.LeakyIntegrator, leaks | {"v_reset": c["v_leak"]}
        if fires and whole and c["v_leak"] == 0 and (decides == "DecayLIF" or c["v_reset"] != 0):
            return snn.DecayLIF, {"decay": decays[0], **fires}
        if fires and (divided or whole) and c["v_leak"] == c["v_reset"]:
            return snn.LIF, leaks | fires
        return generic


def _array(values):
    return np.asarray(values, "float32")


def _full(name, key, values, shape):
    """A field of a node for each unit."""
    values = np.asarray(values, "float64")
    try:
        values = np.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(
            f"The node {name!r} has {key} of shape {values.shape} and gets inputs of {shape}."
        ) from None
    if not np.all(np.isfinite(values)):
        raise ValueError(f"The node {name!r} has {key} that is not finite.")
    return values
