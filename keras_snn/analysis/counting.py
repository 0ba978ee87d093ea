"""What a network spends: rates, operations and energy, layer by layer, from one pass over data."""

import math

import keras
import numpy as np
from keras import ops, tree

from keras_snn.analysis.accuracy import accuracy_over_time
from keras_snn.analysis.rates import is_spiking
from keras_snn.analysis.report import ENERGY, LayerProfile, Profile
from keras_snn.analysis.walk import First, membrane_of, walk
from keras_snn.utils.arguments import check_choice
from keras_snn.utils.batches import batches_of

__all__ = ["profile", "sparsity"]

# Examples of a batch that tell spikes from values, and whose potentials are simulated again.
SAMPLED = 4


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
