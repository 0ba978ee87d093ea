"""What a network spends: rates, operations and energy, layer by layer, from one pass over data."""

import dataclasses
import json
import math

import keras
import numpy as np
from keras import ops, tree

from keras_snn.analysis.over_time import accuracy_over_time
from keras_snn.analysis.rates import is_spiking
from keras_snn.analysis.walk import First, membrane_of, walk
from keras_snn.utils import files
from keras_snn.utils.arguments import check_choice
from keras_snn.utils.batches import batches_of

__all__ = ["ENERGY", "LayerProfile", "Profile", "profile", "sparsity"]

# Picojoules of a multiply-accumulate and of an accumulate.
ENERGY = {
    # Horowitz, "Computing's energy problem", ISSCC 2014: 45 nm, 0.9 V; add plus multiply.
    "45nm-float32": {"mac": 4.6, "ac": 0.9},
    "45nm-float16": {"mac": 1.5, "ac": 0.4},
    "45nm-int32": {"mac": 3.2, "ac": 0.1},
    "45nm-int8": {"mac": 0.23, "ac": 0.03},
    # Davies et al., "Loihi", IEEE Micro 2018: a synaptic operation; what is no spike is charged as
    # on a float32 host.
    "loihi": {"mac": 4.6, "ac": 23.6},
}

# Examples of a batch that tell spikes from values, and whose potentials are simulated again.
SAMPLED = 4


@dataclasses.dataclass(frozen=True)
class LayerProfile:
    """One layer's share. Counts are means of one example.

    Attributes:
        name: Its name.
        kind: Its class.
        output_shape: Shape of one example's output, with time.
        parameters: Number of its weights' entries.
        macs: Multiply-accumulates of one dense step.
        steps: How often it runs for one example: its steps that are not masked, 1 if its input
            does not change over time.
        input_rate: Mean input per entry and step, of spikes (integers count with their value);
            `None` for inputs that are no spikes.
        synops: Accumulates that the spikes cause (`input_rate * steps * macs`, or exact).
        macs_spent: Multiply-accumulates spent, where the input is not spikes.
        rate: Mean spikes per neuron and step of a spiking layer, else `None`.
        silent: Share of its neurons that never fired on the data.
        saturated: Share of its neurons that fired at every step.
        membrane: Mean, standard deviation, least and largest of its membrane potential, after
            reset, of the first examples of each batch; `None` if it has none.
    """

    name: str
    kind: str
    output_shape: tuple
    parameters: int
    macs: int = 0
    steps: float = 0.0
    input_rate: float | None = None
    synops: float = 0.0
    macs_spent: float = 0.0
    rate: float | None = None
    silent: float | None = None
    saturated: float | None = None
    membrane: tuple | None = None


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a network spends on one example, in the mean of the data. Prints as a table.

    Attributes:
        name: The model's name.
        layers: A `LayerProfile` of each layer with weights or neurons, in the model's order.
        examples: Number of examples seen.
        ann_macs: Multiply-accumulates of the same network without spikes: each layer once for an
            image, once a step for a sequence.
        energy_table: Name of the figures in `ENERGY`.
    """

    name: str
    layers: tuple
    examples: int
    ann_macs: float
    energy_table: str

    @property
    def synops(self):
        """Accumulates of all layers."""
        return sum(layer.synops for layer in self.layers)

    @property
    def macs(self):
        """Multiply-accumulates spent by all layers."""
        return sum(layer.macs_spent for layer in self.layers)

    @property
    def rate(self):
        """Mean spikes per neuron and step over all neurons."""
        found = [(x.rate, math.prod(x.output_shape)) for x in self.layers if x.rate is not None]
        return sum(r * n for r, n in found) / max(sum(n for _, n in found), 1)

    @property
    def energy(self):
        """Estimated energy of one example, in nanojoules; memory accesses are not in it."""
        return sum(map(self.layer_energy, self.layers))

    @property
    def ann_energy(self):
        """That of the same network without spikes, in nanojoules."""
        return self.ann_macs * ENERGY[self.energy_table]["mac"] / 1000

    def layer_energy(self, layer):
        """Estimated energy of a layer, in nanojoules."""
        costs = ENERGY[self.energy_table]
        return (layer.synops * costs["ac"] + layer.macs_spent * costs["mac"]) / 1000

    def to_dict(self):
        """The profile as plain data."""
        return {
            "name": self.name,
            "examples": self.examples,
            "rate": self.rate,
            "synops": self.synops,
            "macs": self.macs,
            "ann_macs": self.ann_macs,
            "energy_nj": self.energy,
            "ann_energy_nj": self.ann_energy,
            "energy_table": self.energy_table,
            "layers": [
                dataclasses.asdict(x) | {"energy_nj": self.layer_energy(x)} for x in self.layers
            ],
        }

    def to_json(self, path=None):
        """The profile as JSON.

        Args:
            path: Where to write it, if given.

        Returns:
            The text.
        """
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            files.write(path, text)
        return text

    def to_frame(self):
        """The layers as a pandas `DataFrame`.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("Frames need pandas: pip install pandas") from error
        return pandas.DataFrame(self.to_dict()["layers"]).set_index("name")

    def __str__(self):
        head = (
            *("layer", "output", "params", "MACs/step", "in rate", "SynOps", "MACs", "rate"),
            *("silent", "satur.", "nJ"),
        )
        rows = [head]
        for x in self.layers:
            rows.append(
                (
                    f"{x.name} ({x.kind})",
                    "x".join(map(str, x.output_shape)),
                    _short(x.parameters),
                    _short(x.macs),
                    "" if x.input_rate is None else f"{x.input_rate:.3f}",
                    _short(x.synops),
                    _short(x.macs_spent),
                    "" if x.rate is None else f"{x.rate:.3f}",
                    "" if x.silent is None else f"{x.silent:.1%}",
                    "" if x.saturated is None else f"{x.saturated:.1%}",
                    f"{self.layer_energy(x):.4g}" if x.synops or x.macs_spent else "",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [f"Profile of {self.name}, means of {self.examples} examples"]
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [value.rjust(width) for value, width in zip(row[1:], widths[1:])]
            lines.append("  ".join(cells).rstrip())
        rule = "-" * max(map(len, lines))
        lines[2:2] = [rule]
        ratio = self.energy / self.ann_energy if self.ann_energy else float("nan")
        lines += [
            rule,
            f"Parameters {sum(x.parameters for x in self.layers):,}, firing rate {self.rate:.3f}",
            f"SynOps {self.synops:,.0f}, MACs {self.macs:,.0f}; the same network as an ANN: "
            f"{self.ann_macs:,.0f} MACs",
            f"Energy ({self.energy_table}) {self.energy:,.4g} nJ, as an ANN "
            f"{self.ann_energy:,.4g} nJ: {ratio:.3f} times",
        ]
        return "\n".join(lines)


def _short(number):
    if not number:
        return ""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:.4g}"


def profile(
    model, data, steps=None, batch_size=32, energy="45nm-float32", exact=False, timesteps=None
):
    """Profiles a model: rates, operations, energy, silent neurons, membrane potentials.

    One pass; what is kept does not grow with the number of batches. An input of a weighted layer
    that has integers only (in the first examples of each batch) is spikes, and costs accumulates
    (values count as often as they say: 2 of a sum is two spikes); any other input costs
    multiply-accumulates, once for all steps where it does not change over time. Masked steps count
    nowhere. Pooling, normalisation (which folds away) and the neurons themselves are not charged.

    Args:
        model: A functional or Sequential model, of keras_snn layers or mixed.
        data: Inputs, or a tuple `(inputs, labels)`; arrays, or an iterable of batches.
        steps: Number of batches to use; all by default.
        batch_size: Batch size for arrays.
        energy: Name of the figures to use, see `ENERGY`.
        exact: Whether spikes at borders count with the outputs that they really reach; else every
            spike counts with the layer's mean, `macs / inputs`.
        timesteps: Number of steps for models on images; by default their own.

    Returns:
        A `Profile`.

    Raises:
        TypeError: If the model, or one nested in it, is subclassed.
        ValueError: If there are no data, or the name of the figures is unknown.

    Source: SpikingJelly's `op_counter` counts the same way, and integers as no spikes; the
    bookkeeping of encodings is ours.

    Example:

    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([keras.Input((4, 3)), snn.IF(), keras.layers.Dense(5)])
    >>> found = profile(model, np.ones((2, 4, 3), "float32"))
    >>> found.synops, found.macs, found.layers[0].rate
    (60.0, 0.0, 1.0)
    """
    check_choice("energy", energy, ENERGY)
    inputs, calls, _, static = walk(model, timesteps)
    spikes = {id(call.output) for call in calls if is_spiking(call.layer)}
    probes = [
        (call, _Weighted(call, exact, id(call.input) in spikes))
        for call in calls
        if _kind(call.layer)
    ]
    probes += [(call, _Firing(call)) for call in calls if is_spiking(call.layer) and call.timed]
    if not probes:
        raise ValueError(f"The model {model.name!r} has no weighted layer and no neurons.")
    known = [name for _, probe in probes for name in probe.outputs]
    tensors = [x for _, probe in probes for x in probe.outputs.values()]
    step = keras.Model(inputs, tensors)
    examples = 0
    for place, (batch, _) in enumerate(batches_of(data, batch_size)):
        if place == steps:
            break
        arrays = [np.asarray(x) for x in tree.flatten(batch)]
        size = len(arrays[0])
        found = [ops.convert_to_numpy(x) for x in tree.flatten(step.predict_on_batch(arrays))]
        values = iter(zip(known, found))
        for _, probe in probes:
            probe.add({name: x for name, x in (next(values) for _ in probe.outputs)}, size)
        examples += size
    if not examples:
        raise ValueError("There are no data.")
    layers, ann = {}, 0.0
    for call, probe in sorted(probes, key=lambda pair: calls.index(pair[0])):
        layers.setdefault(call.name, []).append(probe.result())
    found = []
    for call in calls:
        for fields in layers.pop(call.name, []):
            ann += fields.get("macs", 0) * (fields.get("steps", 0) if not static else 1)
            found.append(
                LayerProfile(
                    call.name,
                    type(call.layer).__name__,
                    tuple(call.output.shape[1:]),
                    call.layer.count_params(),
                    **fields,
                )
            )
    return Profile(model.name, tuple(found), examples, ann, energy)


def _kind(layer):
    names = ("Conv", "DepthwiseConv", "SeparableConv")
    known = [f"{n}{d}D{t}" for n in names for d in (1, 2, 3) for t in ("", "Transpose")]
    return isinstance(layer, keras.layers.Dense) or any(
        isinstance(layer, getattr(keras.layers, n)) for n in known if hasattr(keras.layers, n)
    )


class _Weighted:
    """Spikes and values that enter a weighted layer.

    Where it reads a spiking layer, that its input is spikes needs no look.
    """

    def __init__(self, call, exact, spikes):
        self.call, self.totals = call, {"input": 0.0, "reached": 0.0, "steps": 0.0}
        self.integer, self.examples = True, 0
        shape = call.input.shape[2:] if call.timed else call.input.shape[1:]
        out = call.output.shape[2:] if call.timed else call.output.shape[1:]
        self.macs, fan_out = _dense(call.layer, shape, out)
        self.size = math.prod(shape)
        self.outputs = {"steps": _steps(call)} if call.timed else {}
        if not call.timed:  # a static integer, a pixel say, is no spike
            self.integer = False
            self.outputs["input"] = ops.ones_like(call.input[:, :1])
            return
        x = _unmasked(ops.cast(call.input, "float32"), call.mask)
        axes = tuple(range(1, len(x.shape)))
        magnitude = x if spikes else ops.abs(x)
        self.outputs["input"] = ops.sum(magnitude, axis=axes)
        if not spikes:
            some = First(SAMPLED)(x)
            self.outputs["fraction"] = ops.max(ops.abs(some - ops.round(some)), axis=axes)
        if exact and fan_out is not None:
            self.outputs["reached"] = ops.sum(magnitude * fan_out.astype("float32"), axis=axes)

    def add(self, found, size):
        for name in self.totals:
            self.totals[name] += float(found[name].astype("float64").sum()) if name in found else 0
        self.integer &= bool(np.all(found.get("fraction", 0) == 0))
        self.examples += size

    def result(self):
        mean = {name: total / self.examples for name, total in self.totals.items()}
        steps = mean["steps"] if self.call.timed else 1.0
        fields = {"macs": self.macs, "steps": steps}
        if not self.integer:
            return fields | {"macs_spent": self.macs * steps}
        rate = mean["input"] / max(self.size * steps, 1)
        reached = mean["reached"] if "reached" in self.outputs else rate * steps * self.macs
        return fields | {"input_rate": rate, "synops": reached}


class _Firing:
    """What a layer's neurons do."""

    def __init__(self, call):
        self.call, self.examples, self.counts = call, 0, 0.0
        self.neurons = math.prod(call.output.shape[2:])
        fired = _unmasked(ops.cast(call.output, "float32"), call.mask)
        # One pass over the spikes: how often each neuron fired in the batch.
        self.outputs = {"counts": ops.sum(fired, axis=(0, 1)), "steps": _steps(call)}
        v = membrane_of(call, first=SAMPLED)
        if v is not None:
            first = First(SAMPLED)
            v = _unmasked(v, None if call.mask is None else first(call.mask))
            self.outputs["sampled"] = first(self.outputs["steps"])
            axes = tuple(range(1, len(v.shape)))
            self.outputs |= {
                "sum": ops.sum(v, axis=axes),
                "squares": ops.sum(v * v, axis=axes),
                "low": ops.min(v, axis=axes),
                "high": ops.max(v, axis=axes),
            }
        self.sums = dict.fromkeys(("steps", "sampled", "sum", "squares"), 0.0)
        self.low, self.high = float("inf"), float("-inf")

    def add(self, found, size):
        for name in self.sums:
            if name in found:
                self.sums[name] += float(found[name].astype("float64").sum())
        self.counts = self.counts + found["counts"].astype("float64")
        if "low" in found:
            self.low = min(self.low, float(found["low"].min()))
            self.high = max(self.high, float(found["high"].max()))
        self.examples += size

    def result(self):
        steps = self.sums["steps"]
        count = max(steps * self.neurons, 1)
        fields = {
            "steps": steps / self.examples,
            "rate": float(np.sum(self.counts)) / count,
            "silent": float(np.mean(self.counts == 0)),
            "saturated": float(np.mean(self.counts >= max(steps, 1))),
        }
        if "sum" in self.outputs:
            count = max(self.sums["sampled"] * self.neurons, 1)
            mean = self.sums["sum"] / count
            variance = max(self.sums["squares"] / count - mean**2, 0.0)
            fields["membrane"] = (mean, variance**0.5, self.low, self.high)
        return fields


def _unmasked(x, mask):
    """`x` with masked steps as zeros."""
    if mask is None:
        return x
    mask = ops.cast(mask, "bool")
    for _ in x.shape[2:]:
        mask = ops.expand_dims(mask, -1)
    return ops.where(mask, x, ops.zeros_like(x))


def _steps(call):
    """Number of unmasked steps of each example."""
    if call.mask is not None:
        return ops.sum(ops.cast(call.mask, "float32"), axis=1)
    x = call.output
    while len(x.shape) > 2:
        x = x[..., 0]
    return ops.sum(ops.ones_like(x, dtype="float32"), axis=1)


def _dense(layer, shape, out):
    """Dense MACs of one step, and how many outputs each input reaches, without the batch axis."""
    if isinstance(layer, keras.layers.Dense):
        positions = math.prod(shape[:-1])
        return positions * shape[-1] * layer.units, np.full((1,), layer.units)
    first = layer.data_format == "channels_first"
    spatial_out = out[1:] if first else out[:-1]
    spatial_in = shape[1:] if first else shape[:-1]
    channels = shape[0] if first else shape[-1]
    taps = math.prod(layer.kernel_size)
    filters = out[0] if first else out[-1]
    name = type(layer).__name__
    if "Separable" in name:
        depth = channels * layer.depth_multiplier
        return math.prod(spatial_out) * depth * (taps + filters), None
    if "Transpose" in name:
        return math.prod(spatial_in) * channels * taps * filters, None
    if "Depthwise" in name:
        macs, each = math.prod(spatial_out) * taps * filters, layer.depth_multiplier
    else:
        macs = math.prod(spatial_out) * taps * filters * channels // layer.groups
        each = filters // layer.groups
    counts = np.ones(())
    for n, o, k, s, d in zip(
        spatial_in, spatial_out, layer.kernel_size, layer.strides, layer.dilation_rate
    ):
        counts = np.multiply.outer(counts, _reached(n, o, k, s, d, layer.padding))
    counts = counts * each
    return macs, counts[None] if first else counts[..., None]


def _reached(size, outputs, taps, stride, dilation, padding):
    """How many outputs of a one-dimensional convolution each input is part of."""
    before = 0
    if padding == "same":
        before = max((outputs - 1) * stride + (taps - 1) * dilation + 1 - size, 0) // 2
    elif padding == "symmetric":
        before = (taps - 1) * dilation // 2
    elif padding == "causal":
        before = (taps - 1) * dilation
    places = np.add.outer(np.arange(outputs) * stride, np.arange(taps) * dilation) - before
    places = places[(places >= 0) & (places < size)]
    return np.bincount(places, minlength=size)


def sparsity(model, data, tolerance=0.01, timesteps=None, batch_size=32):
    """Event-driven sparsity: spikes by depth, and operations when the answer has settled.

    The number of steps is the least from which accuracy stays within `tolerance` of the final one.

    Args:
        model: A model on images with one readout, see `Rollout`.
        data: `(inputs, labels)`, arrays.
        tolerance: How far from the final accuracy, as a share of 1.
        timesteps: Steps to simulate at most; by default the model's own.
        batch_size: Batch size.

    Returns:
        A dictionary: `"timesteps"`, `"accuracy"` there, `"final_accuracy"`, `"spikes_per_neuron"`
        by layer over these steps, `"ratio"` of accumulates to the ANN's multiply-accumulates, and
        the `"profile"`.

    Source: Sengupta et al. (2019).

    Example:

    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([keras.Input((3,)), snn.RepeatTime(8), snn.IF(),
    ...     keras.layers.Dense(3, kernel_initializer="identity"), snn.MeanOverTime()])
    >>> found = sparsity(model, (np.eye(3) * 0.4 + 0.2, np.arange(3)))
    >>> found["timesteps"], found["accuracy"]
    (2, 1.0)
    """
    found = accuracy_over_time(model, data, timesteps, batch_size)
    final = found.accuracy[-1]
    far = np.flatnonzero(np.abs(found.accuracy - final) > tolerance)
    settled = int(far[-1]) + 2 if len(far) else 1
    result = profile(model, data[0], batch_size=batch_size, timesteps=settled)
    return {
        "timesteps": settled,
        "accuracy": float(found.accuracy[settled - 1]),
        "final_accuracy": float(final),
        "spikes_per_neuron": {
            x.name: x.rate * settled for x in result.layers if x.rate is not None
        },
        "ratio": result.synops / result.ann_macs,
        "profile": result,
    }
