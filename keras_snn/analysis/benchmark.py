"""The metrics of NeuroBench, by its names and definitions."""

import collections
import dataclasses
import math
import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_snn import graph
from keras_snn.analysis import probes
from keras_snn.utils.batches import batches_of

__all__ = ["neurobench"]


def neurobench(model, data, batch_size=32):
    """NeuroBench's complexity metrics of a model, in one pass over data.

    Its harness takes PyTorch and snnTorch models only; of the same network this gives the same
    numbers. What its definitions do not cover is named in a warning. Unlike its harness, this
    sees activations inside layers, `Dense(8, "relu")`, and transposed convolutions.

    Args:
        model: A functional or Sequential model.
        data: Inputs, or a tuple `(inputs, labels)`; arrays, or an iterable of batches.
        batch_size: Batch size for arrays. NeuroBench looks at a whole batch of one step to tell
            spikes from values, so that it changes the result where some are silent.

    Returns:
        A dictionary: `"Footprint"`: bytes of all weights, moving statistics too;
        `"ParameterCount"`: entries of the weights; `"ConnectionSparsity"`: share of the weights
        between neurons that are 0, rounded to 4 digits; `"ActivationSparsity"`: share of the
        outputs of neurons, ReLUs and sigmoids that are 0; `"SynapticOperations"`: of one example,
        `"Dense"`: all pairs of an input and a weight, zeros of a padding left out,
        `"Effective_ACs"` and `"Effective_MACs"`: those where neither is 0, accumulates where a
        batch's inputs of one step are -1, 0 and 1 only; `"MembraneUpdates"`: membrane potentials
        of one example that a step changes, all of them in the first.

    Raises:
        TypeError: If the model, or one nested in it, is subclassed.
        ValueError: If there are no data.

    Source: Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing
    algorithms and systems", Nature Communications (2025); the harness, version 2.3.

    Example:

    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(5), snn.IF()])
    >>> found = neurobench(model, np.eye(4, 3, dtype="float32")[None])
    >>> found["ParameterCount"], found["SynapticOperations"]
    (20, {'Effective_MACs': 0.0, 'Effective_ACs': 15.0, 'Dense': 60.0})
    """
    totals, plans = collections.Counter(), {}
    with probes.unchanged(model):
        for arrays, _ in batches_of(model, data, batch_size):
            shapes = tuple(x.shape[1:] for x in arrays)
            if shapes not in plans:  # sequences of another length have a graph of their own
                plans[shapes] = _Plan(model, shapes)
            plans[shapes].add(arrays, totals)
    if not plans:
        raise ValueError("There are no data.")
    plan, examples = next(iter(plans.values())), totals["examples"]
    if plan.ignored:
        warnings.warn(
            f"NeuroBench does not define the synaptic operations of {plan.ignored}: left out.",
            stacklevel=2,
        )
    kernels = {id(c.layer): ops.convert_to_numpy(_kernel(c.layer)) for c in plan.connections}
    kernels, sparsity = kernels.values(), 0.0
    if totals["outputs"]:
        sparsity = 1 - totals["active"] / totals["outputs"]
    return {
        "Footprint": sum(
            math.prod(w.shape) * np.dtype(keras.backend.standardize_dtype(w.dtype)).itemsize
            for w in model.weights
        ),
        "ParameterCount": sum(math.prod(w.shape) for w in model.weights if not _is_statistic(w)),
        "ConnectionSparsity": round(
            float(sum(np.sum(w == 0) for w in kernels) / max(sum(w.size for w in kernels), 1)), 4
        ),
        "ActivationSparsity": float(sparsity),
        "SynapticOperations": {
            "Effective_MACs": float(totals["macs"] / examples),
            "Effective_ACs": float(totals["acs"] / examples),
            "Dense": float(totals["dense"] / examples),
        },
        "MembraneUpdates": float(totals["changes"] / examples),
    }


class _Plan:
    """What is looked at in a model, on inputs of given shapes."""

    def __init__(self, model, shapes):
        trace = probes.traced(model, None, shapes)
        self.connections = [call for call in trace.calls if _kernel(call.layer) is not None]
        self.ignored = [
            c.name for c in trace.calls if c not in self.connections and c.products != ()
        ]
        activations = [call for call in trace.calls if _is_activation(call)]
        membranes = [v for call in trace.calls if (v := probes.membrane_of(call)) is not None]
        self.tensors = {
            "pairs": [x for call in self.connections for x in _pairs(call)],
            "active": [_per_example(_is_not(call.output, 0)) for call in activations],
            "changes": [_changes(v) for v in membranes],
        }
        self.outputs = sum(math.prod(call.output.shape[1:]) for call in activations)
        self.dense = sum(map(_dense, self.connections))
        tensors = tree.flatten(self.tensors)
        self.model = keras.Model(trace.inputs, tensors) if tensors else None

    def add(self, arrays, totals):
        """Adds what a batch has to the totals so far."""
        examples = len(arrays[0])
        found = tree.flatten(self.model.predict_on_batch(arrays)) if self.model else []
        found = [ops.convert_to_numpy(x).astype("float64") for x in found]
        found = tree.pack_sequence_as(self.tensors, found)
        for effective, graded in zip(found["pairs"][::2], found["pairs"][1::2]):
            values = graded.max(axis=0) > 0
            totals["macs"] += effective[:, values].sum()
            totals["acs"] += effective[:, ~values].sum()
        for name in ("active", "changes"):
            totals[name] += sum(x.sum() for x in found[name])
        totals["dense"] += examples * self.dense
        totals["outputs"] += examples * self.outputs
        totals["examples"] += examples


def _kernel(layer):
    """The weights of a layer that connects inputs and outputs by one kernel, else `None`."""
    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    names = ("Conv{}D", "DepthwiseConv{}D", "Conv{}DTranspose")
    kinds += tuple(
        getattr(keras.layers, name.format(d))
        for name in names
        for d in (1, 2, 3)
        if hasattr(keras.layers, name.format(d))
    )
    known = isinstance(layer, kinds) and graph.role_of(layer).products is not None
    return layer.kernel if known else None


def _is_activation(call):
    if call.spikes:
        return True
    activation = type(call.layer).__name__.lower()
    activation = getattr(getattr(call.layer, "activation", None), "__name__", activation)
    return activation in ("relu", "sigmoid")


def _is_statistic(weight):
    return weight.name.startswith("moving_")


def _counting(layer, shape, kernel):
    """A copy of a layer that adds up what it connects: no bias, no activation."""
    copy = type(layer).from_config({k: v for k, v in layer.get_config().items() if k != "name"})
    copy.build(shape)
    copy.activation = keras.activations.linear
    copy.set_weights(
        [kernel if w is copy.kernel else np.zeros(w.shape, w.dtype) for w in copy.weights]
    )
    return copy


def _apply(call, layer, x):
    return dataclasses.replace(call, layer=layer, operation=layer, args=(x,), kwargs={})()


def _pairs(call):
    """Pairs of an input and a weight that are not 0, and whether inputs are no spikes, by step."""
    x = call.input
    kernel = ops.convert_to_numpy(call.layer.kernel) != 0
    shape = (None, *x.shape[2:]) if call.each_step else x.shape
    layer = _counting(call.layer, shape, kernel.astype("float32"))
    effective = _apply(call, layer, _is_not(x, 0))
    graded = _is_not(x, 0) * _is_not(ops.abs(x), 1)
    by_step = bool(call.reads_time and call.timed)
    return _per_example(effective, by_step), _per_example(graded, by_step)


def _is_not(x, other):
    """1 where `x` is another value, else 0."""
    return ops.cast(ops.not_equal(x, other), "float32")


def _per_example(x, by_step=False):
    """Sums `(batch, time)`, or `(batch, 1)`."""
    axes = tuple(range(1 + by_step, len(x.shape)))
    x = ops.sum(x, axis=axes) if axes else x
    return x if by_step else ops.expand_dims(x, -1)


def _changes(v):
    first = ops.ones_like(v[:, :1])
    changed = _is_not(v[:, 1:], v[:, :-1])
    return _per_example(ops.concatenate([first, changed], axis=1))


def _dense(call):
    """All pairs of an input and a weight, of one example."""
    x = np.ones((1, *call.input.shape[1:]), "float32")
    shape = (None, *x.shape[2:]) if call.each_step else x.shape
    layer = _counting(call.layer, shape, np.ones(call.layer.kernel.shape, "float32"))
    return (
        ops.convert_to_numpy(_apply(call, layer, ops.convert_to_tensor(x))).astype("float64").sum()
    )
