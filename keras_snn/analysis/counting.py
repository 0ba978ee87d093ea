"""What a network spends: rates, operations and energy, layer by layer, from one pass over data."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_snn import graph
from keras_snn.analysis import energy as costs
from keras_snn.analysis import probes
from keras_snn.analysis.accuracy import accuracy_over_time
from keras_snn.analysis.energy import ENERGY, MEMORY
from keras_snn.analysis.profiles import LayerProfile, Profile
from keras_snn.utils.arguments import check_choice
from keras_snn.utils.batches import batches_of

__all__ = ["profile", "sparsity"]

# Examples of a batch whose potentials are simulated again.
SAMPLED = 4


def profile(
    model,
    data,
    steps=None,
    batch_size=32,
    energy="45nm-float32",
    exact=False,
    timesteps=None,
    memory="sram-45nm",
) -> Profile:
    """Profiles a model: rates, operations, energy, silent neurons, membrane potentials.

    One pass; what is kept does not grow with the number of batches. What a layer multiplies is
    spikes if it is integers in all examples of all batches, and costs accumulates (values count as
    often as they say: 2 of a sum is two spikes); anything else costs multiply-accumulates, once for
    all steps where it does not change over time. A product of two tensors of spikes costs an
    accumulate where both have one. Masked steps count nowhere. Neurons, biases and normalisation
    that does not fold into weights are charged; pooling, activations and additions of branches are
    not.

    Args:
        model: A functional or Sequential model, of keras_snn layers or mixed. Stateful layers start
            from the states that they have, and keep them.
        data: Inputs, as `predict` takes them, or a tuple `(inputs, labels)`; arrays, or an iterable
            of batches.
        steps: Number of batches to use; all by default.
        batch_size: Batch size for arrays.
        energy: Name of the figures to use, see `ENERGY`.
        exact: Whether spikes at borders count with the outputs that they really reach; else every
            spike counts with the layer's mean, `macs / inputs`.
        timesteps: Number of steps for models on images; by default their own.
        memory: Name of the figures of memory accesses, see `MEMORY`.

    Returns:
        A `Profile`. It names layers whose multiplications nobody knows, see
        `keras_snn.graph.register`.

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
    check_choice("memory", memory, MEMORY)
    totals, plans = {}, {}
    with probes.unchanged(model):
        for arrays, _ in batches_of(model, data, batch_size, steps):
            shapes = tuple(x.shape[1:] for x in arrays)
            if shapes not in plans:  # sequences of another length have a graph of their own
                plans[shapes] = _Plan(model, shapes, timesteps, exact)
            plans[shapes].add(arrays, totals)
    if not plans:
        raise ValueError("There are no data.")
    plan = next(iter(plans.values()))
    layers, ann, known = [], 0.0, set()
    for call in plan.calls:
        own = {kind: found for (name, kind), found in totals.items() if name == call.name}
        if not own:
            continue
        fired, updated = own.pop(FIRED, None), own.pop(UPDATED, None)
        products = [(call.products[place], found) for place, found in own.items()]
        per = "steps" if plan.static else "examples"  # of an image, once
        ann += float(sum(x["dense"] / max(x[per], 1) for _, x in products))
        fields = {"steps": float(updated["steps"] / updated["examples"])} if updated else {}
        fields |= {} if fired is None else _firing(fired)
        fields |= _spent([found for _, found in products]) if products else {}
        fields |= _work(call, products, fired, updated, plan.static)
        layers.append(
            LayerProfile(
                call.name,
                type(call.layer).__name__,
                tuple(call.output.shape[1:]),
                0 if id(call.layer) in known else _parameters(call),
                **fields,
            )
        )
        known.add(id(call.layer))
    examples = sum(plan.examples for plan in plans.values())
    return Profile(model.name, tuple(layers), examples, ann, energy, tuple(plan.uncharged), memory)


FIRED, UPDATED = "fired", "updated"


class _Plan:
    """What is looked at in a model, on inputs of given shapes."""

    def __init__(self, model, shapes, timesteps, exact):
        trace = probes.traced(model, timesteps, shapes)
        self.calls, self.static, self.examples = trace.calls, not any(trace.timed), 0
        may_spike, spiking, units = _what_may_spike(trace)
        self.uncharged = [
            f"{call.name} ({type(call.layer).__name__})"
            for call in trace.calls
            if call.products is None
        ]
        self.probes = {}
        for call in trace.calls:
            for place, product in enumerate(call.products or ()):
                reading = _reading(call, product, exact, may_spike, spiking, units)
                self.probes[call.name, place] = reading, product.macs
            if call.spikes:
                self.probes[call.name, FIRED] = _fires(call), None
            if any(call.role.updates(call)) and not _folded(call, trace):
                self.probes[call.name, UPDATED] = {"steps": _steps(call, call.reads_time)}, None
        if not self.probes and not self.uncharged:
            raise ValueError(f"The model {model.name!r} has no weighted layer and no neurons.")
        tensors = [x for outputs, _ in self.probes.values() for x in outputs.values()]
        self.model = keras.Model(trace.inputs, tensors) if tensors else None

    def add(self, arrays, totals):
        """Adds what a batch has to the totals so far."""
        found = iter(tree.flatten(self.model.predict_on_batch(arrays)) if self.model else ())
        self.examples += len(arrays[0])
        for key, (outputs, macs) in self.probes.items():
            values = {name: ops.convert_to_numpy(next(found)) for name in outputs}
            values = {name: x.astype("float64") for name, x in values.items()}
            values["examples"] = np.ones(len(arrays[0]))
            if macs is not None:
                values["dense"] = macs * values["steps"]
            if "entries" in values and "reached" not in values:
                values["reached"] = values["input"] * macs * values["steps"] / values["entries"]
            so_far = totals.setdefault(key, {})
            for name, x in values.items():
                over_batch, join = REDUCED.get(name, (lambda x: x.sum(), np.add))
                x = over_batch(x)
                so_far[name] = join(so_far[name], x) if name in so_far else x


# How examples and batches are joined, of what is no sum over them.
REDUCED = {
    "fired": (lambda x: x, np.add),
    "fraction": (np.max, np.maximum),
    "other": (np.max, np.maximum),
    "high": (np.max, np.maximum),
    "low": (np.min, np.minimum),
}


def _folded(call, trace):
    """Whether a scale and a shift go into the weights of the layer that they follow."""
    if not call.role.folds:
        return False
    readers = [c for c in trace.calls if any(x is call.input for x in c.inputs)]
    maker = next((c for c in trace.calls if any(x is call.input for x in c.outputs)), None)
    activation = maker and getattr(maker.layer, "activation", keras.activations.linear)
    plain = activation is keras.activations.linear and maker.time != "recurrent"
    return len(readers) == 1 and maker is not None and bool(maker.products) and plain


def _window(layer):
    """Of a convolution, weights of one channel that comes in; else 0."""
    if not hasattr(layer, "kernel_size"):
        return 0
    layer = getattr(layer, "cell", layer)
    kernel = getattr(layer, "kernel", None)
    shape = (layer.depthwise_kernel if kernel is None else kernel).shape
    return math.prod(shape) // shape[-2]


def _parameters(call):
    return getattr(call.layer, "count_params", int)()


def _work(call, products, fired, updated, static):
    """`Work` of a layer: what is always done, what spikes cause, and what it would be as an ANN."""
    fixed = driven = ann = costs.Work()
    # A product of two tensors reads the second one as others read weights.
    parameters = _parameters(call) or math.prod(call.shape(call.inputs[-1]))
    window = _window(call.layer)
    spatial = window > 0
    inputs = math.prod(call.shape(call.input))
    outputs = math.prod(call.output.shape[2 if call.timed else 1 :])
    for product, x in products:
        examples, macs = x["examples"], x["dense"] / max(x["steps"], 1)
        steps = x["steps"] / examples
        own = inputs if product.each_step else math.prod(call.input.shape[1:])
        sizes = own, outputs if product.each_step else math.prod(call.output.shape[1:]), parameters
        spent = _spent([x])
        if spent["synops"] or not spent["macs_spent"]:
            spikes = x.get("input", 0.0) / examples
            driven += costs.product_of_spikes(spikes, spent["synops"], *sizes[1:], spatial)
        else:
            fixed += costs.product_of_values(macs, *sizes, steps, spatial, window)
        steps = 1 if static else steps
        ann += costs.product_of_values(macs, *sizes, steps, spatial, window)
    if products and getattr(call.layer, "bias", None) is not None:
        steps = products[0][1]["steps"] / products[0][1]["examples"]
        fixed += costs.bias(outputs, parameters, steps)
        ann += costs.bias(outputs, parameters, 1 if static else steps)
    if updated:
        states, macs, acs = (n * inputs for n in call.role.updates(call))
        steps = updated["steps"] / updated["examples"]
        if states:
            fixed += costs.updates(states, steps, macs / states)
        else:
            fixed += costs.scaled(inputs, parameters, steps, macs, acs)
            ann += costs.scaled(inputs, parameters, 1 if static else steps, macs, acs)
    if fired is not None:
        driven += costs.fired(float(np.sum(fired["fired"])) / fired["examples"])
    return {"fixed": fixed, "driven": driven, "ann": ann}


def _what_may_spike(trace):
    """Tensors, by `id`, that have time or come of such ones; and those that are spikes."""
    found = {id(x) for x, timed in zip(trace.inputs, trace.timed) if timed}
    if not found and not any(call.timed for call in trace.calls):  # no layer tells
        found = {id(x) for x in trace.inputs if len(x.shape) == 3}
    for call in trace.calls:
        inherits = call.time not in ("removes", "recurrent")
        if call.timed or (inherits and any(id(x) in found for x in call.inputs)):
            found.update(id(x) for x in call.outputs)
    known = {id(call.output) for call in trace.calls if call.spikes}
    return found, known, graph.spike_units(trace)


def _total(x):
    return ops.sum(x, axis=tuple(range(1, len(x.shape))))


def _fraction(x):
    """How far each example is from integers."""
    return ops.max(ops.abs(x - ops.round(x)), axis=tuple(range(1, len(x.shape))))


def _reading(call, product, exact, may_spike, spiking, units):
    """What one multiplication of a layer reads: sums of each example, symbolic."""
    mask = probes.mask_of(call) if product.each_step else None
    steps = _steps(call, product.each_step)
    outputs = {"steps": steps}
    if product.reads == "output":
        tensors = [_step_before(call)] if call.spikes else []
    elif product.reads == "values":
        tensors = []
    else:
        reads = product.reads if isinstance(product.reads, tuple) else (product.reads,)
        tensors = [call.inputs[place] for place in reads]
        if not any(id(x) in may_spike for x in tensors):
            tensors = []  # a static integer, a pixel say, is no spike
    if not tensors:
        return outputs
    unit = call.unit if product.reads == "output" else units.get(id(tensors[0]))
    x = graph.count_spikes(probes.unmasked(ops.cast(tensors[0], "float32"), mask), unit)
    known = product.reads == "output" or id(tensors[0]) in spiking
    size = math.prod(x.shape[2 if product.each_step else 1 :])
    outputs |= {"input": _total(x), "entries": size * steps}
    if not known:
        outputs["fraction"] = _fraction(x)
    if len(tensors) == 2:
        return outputs | _pair(product, tensors, x, may_spike, units)
    if exact and product.reach is not None:
        outputs["reached"] = _total(x * np.asarray(product.reach, "float32"))
    return outputs


def _steps(call, each_step):
    """How often a layer works on each example."""
    first = call.input
    while len(first.shape) > 2:
        first = first[..., 0]
    return probes.steps_of(first, probes.mask_of(call)) if each_step else _ones(first)


def _ones(x):
    return ops.ones_like(x[:, 0] if len(x.shape) > 1 else x, dtype="float32")


def _pair(product, tensors, first, may_spike, units):
    """Accumulates where the first tensor has spikes, where the second has, where both have."""
    second = graph.count_spikes(ops.cast(tensors[1], "float32"), units.get(id(tensors[1])))
    ones = [ops.ones_like(x) for x in (first, second)]

    def reached(a, b):
        return _total(ops.cast(product.multiply(a, b), "float32"))

    outputs = {"reached": reached(first, ones[1])}
    if id(tensors[0]) not in may_spike:
        outputs["fraction"] = _ones(first[..., 0]) * 0.5
    if id(tensors[1]) in may_spike:
        outputs["other"] = _fraction(second)
        outputs["reached by other"] = reached(ones[0], second)
        outputs["reached by both"] = reached(first, second)
    return outputs


def _step_before(call):
    """The outputs of a recurrent layer one step later: what its own connections read."""
    y = probes.sequence_of(call)
    return ops.concatenate([ops.zeros_like(y[:, :1]), y[:, :-1]], axis=1)


def _spent(products):
    """Operations of a layer, from the totals of its multiplications."""
    examples = products[0]["examples"]
    steps = float(products[0]["steps"] / examples)
    fields = {"macs": 0, "steps": steps, "synops": 0.0, "macs_spent": 0.0}
    for x in products:
        fields["macs"] += round(x["dense"] / max(x["steps"], 1))
        first = "input" in x and not x.get("fraction", 0)
        second = "other" in x and not x["other"]
        if first and "input_rate" not in fields:
            fields["input_rate"] = float(x["input"] / max(x["entries"], 1))
            fields["undecided"] = bool(x["input"] == 0 and "fraction" in x)
        if first or second:
            name = "reached" + (" by both" if first else " by other") * second
            fields["synops"] += float(x[name] / examples)
        else:
            fields["macs_spent"] += float(x["dense"] / examples)
    return fields


def _fires(call):
    """What a layer's neurons do: sums over examples and steps, symbolic."""
    spikes, mask = probes.sequence_of(call), probes.mask_of(call)
    fired = graph.count_spikes(probes.unmasked(ops.cast(spikes, "float32"), mask), call.unit)
    # One pass over the spikes: how often each neuron fired in the batch.
    outputs = {"fired": ops.sum(fired, axis=(0, 1)), "steps": probes.steps_of(spikes, mask)}
    outputs["most"] = call.most * outputs["steps"]
    v = probes.membrane_of(call, first=SAMPLED)
    if v is None:
        return outputs
    first = probes.First(SAMPLED)
    mask = None if mask is None else first(mask)
    axes, zeroed = tuple(range(1, len(v.shape))), probes.unmasked(v, mask)
    return outputs | {
        "sampled": first(outputs["steps"]),
        "sum": _total(zeroed),
        "squares": _total(zeroed * zeroed),
        "low": ops.min(probes.unmasked(v, mask, float("inf")), axis=axes),
        "high": ops.max(probes.unmasked(v, mask, float("-inf")), axis=axes),
    }


def _firing(x):
    neurons = np.size(x["fired"])
    fields = {
        "steps": float(x["steps"] / x["examples"]),
        "neurons": neurons,
        "rate": float(np.sum(x["fired"]) / max(x["steps"] * neurons, 1)),
        "silent": float(np.mean(x["fired"] == 0)),
        "saturated": float(np.mean(x["fired"] >= max(x["most"], 1))),
    }
    if "sum" in x:
        count = max(x["sampled"] * neurons, 1)
        mean = x["sum"] / count
        variance = max(x["squares"] / count - mean**2, 0.0)
        fields["membrane"] = tuple(map(float, (mean, variance**0.5, x["low"], x["high"])))
    return fields


def sparsity(model, data, tolerance=0.01, timesteps=None, batch_size=32) -> dict[str, Any]:
    """Event-driven sparsity: spikes by depth, and operations when the answer has settled.

    The number of steps is the least from which accuracy stays within `tolerance` of the final one.

    Args:
        model: A model with one output, see `Rollout`.
        data: `(inputs, labels)`, arrays; inputs as `predict` takes them.
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
    timed = graph.trace(model).timed
    inputs = [
        x[:, :settled] if has_time else x
        for x, has_time in zip(graph.in_order(model, data[0]), timed)
    ]
    static = None if any(timed) else settled
    result = profile(model, inputs, batch_size=batch_size, timesteps=static)
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
