"""A spiking model a few steps at a time, for as many steps as are wanted.

`Rollout` rebuilds a model on sequences for a few steps at a time, with the states of its neurons
as inputs and outputs; what comes behind the readout over time is applied to running values.
"""

import dataclasses

import keras
import numpy as np
from keras import ops, tree
from keras.src.backend import get_keras_mask

from keras_snn import layers as snn
from keras_snn.analysis.rates import is_spiking
from keras_snn.layers.parallel import _Parallel
from keras_snn.utils.arguments import check_integer

__all__ = ["Rollout"]

# What sees several steps at once, or looks at how many there are.
AT_ONCE = (
    _Parallel,
    snn.BatchNormalizationThroughTime,
    snn.DeltaEncoder,
    snn.LatencyEncoder,
    snn.PhaseEncoder,
    keras.layers.Attention,
    keras.layers.AveragePooling1D,
    keras.layers.Bidirectional,
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.MaxPooling1D,
    keras.layers.MultiHeadAttention,
    keras.layers.RNN,
    keras.layers.SeparableConv1D,
)
# How each readout goes on from what it had, over the steps so far.
RUNNING = {
    snn.MeanOverTime: lambda total, x, t: (total + x.cumsum(1)) / t,
    snn.SumOverTime: lambda total, x, t: total + x.cumsum(1),
    snn.LastOverTime: lambda total, x, t: x,
    snn.MaxOverTime: lambda total, x, t: np.maximum(total, np.maximum.accumulate(x, 1)),
}


@dataclasses.dataclass
class _Cut:
    """The readout over time: the sequence that it reads, and what reduces it."""

    sequence: object
    layer: object


class Rollout:
    """Runs a spiking model a few steps at a time, for as many steps as are wanted.

    Args:
        model: A functional or Sequential model with one readout over time (`MeanOverTime`,
            `SumOverTime`, `LastOverTime`, `MaxOverTime`, or a neuron with
            `return_sequences=False`). Models on images may run for more steps than they were
            built for; models on sequences for as many as the data have.
        chunk: Steps at a time.

    Raises:
        TypeError: If the model is no such one, or has a layer that needs all steps at once, or
            that takes a mask or an initial state.
    """

    def __init__(self, model, chunk=16):
        self.chunk = check_integer("chunk", chunk)
        if not getattr(model, "inputs", None):
            raise TypeError(f"Only functional and Sequential models can be rolled out, got {model}")
        self.model, self.states, self.spikes, self.cut = model, [], {}, None
        self.static = False
        self.inputs = [self._input(tensor) for tensor in model.inputs]
        # Whether the walk has come to sequences: what is in front of `RepeatTime` knows no time.
        self.timed = not self.static
        self._walk(model, self.inputs)
        if self.cut is None:
            raise TypeError(f"The model {model.name!r} has no readout over time at its end.")
        rates = [
            ops.mean(ops.cast(x, "float32"), axis=tuple(range(2, len(x.shape))))
            for x in self.spikes.values()
        ]
        before, after = [s[0] for s in self.states], [s[1] for s in self.states]
        self.step = keras.Model([*self.inputs, *before], [self.cut.sequence, *rates, *after])
        source = tree.flatten(self.cut.layer.output)[0]
        ends = [tensor is source for tensor in model.outputs]
        self.tail = None if all(ends) else keras.Model(source, model.outputs)

    def _input(self, tensor):
        shape = tuple(tensor.shape)
        sequence = not any(
            isinstance(layer, snn.RepeatTime) for layer in self.model._flatten_layers()
        )
        self.static = not sequence
        shape = (shape[0], self.chunk, *shape[2:]) if sequence else shape
        return keras.Input(batch_shape=(None, *shape[1:]), dtype=tensor.dtype)

    def _walk(self, model, values):
        graph = getattr(model, "_functional", None) or model
        return graph._run_through_graph(values, operation_fn=lambda layer: self._rule(layer))

    def _rule(self, layer):
        def apply(*args, **kwargs):
            if self.cut is not None:
                return None  # behind the readout: the tail's work
            if isinstance(layer, keras.Model):
                return self._walk(layer, tree.flatten(args))
            repeats = isinstance(layer, snn.RepeatTime)
            self.timed = self.timed or repeats
            if self.timed and isinstance(layer, AT_ONCE) and not isinstance(layer, snn.SpikingRNN):
                raise TypeError(
                    f"{layer.name} ({type(layer).__name__}) can't be rolled out: it needs all "
                    "steps at once, or knows their number."
                )
            given = {name: kwargs.get(name) for name in ("mask", "initial_state")}
            masks = [get_keras_mask(x) for x in tree.flatten(args)]
            if any(x is not None for x in (*given.values(), *masks)):
                raise TypeError(
                    f"{layer.name} ({type(layer).__name__}) can't be rolled out: it takes a mask "
                    "or an initial state. `predict` gives the model's outputs after all steps."
                )
            if repeats:
                config = layer.get_config() | {"timesteps": self.chunk}
                return type(layer).from_config(config)(*args, **kwargs)
            if isinstance(layer, tuple(RUNNING)):
                self.cut = _Cut(args[0], layer)
                return None
            if isinstance(layer, snn.SpikingRNN):
                return self._neuron(layer, args[0])
            return layer(*args, **kwargs)

        return apply

    def _neuron(self, layer, x):
        if layer.stateful or layer.go_backwards or layer.return_state:
            raise TypeError(f"{layer.name} is stateful, runs backwards or returns its state.")
        loop = snn.SpikingRNN(layer.cell, return_state=True, dtype=layer.dtype_policy)
        shapes = loop.compute_output_shape(tuple(x.shape))[1:]
        shapes = tree.flatten(tree.map_shape_structure(lambda s: keras.KerasTensor(s), shapes))
        before = [keras.Input(batch_shape=s.shape, dtype=layer.variable_dtype) for s in shapes]
        after = loop(x, initial_state=before)
        sequence, after = after[0], tree.flatten(after[1:])
        self.states += zip(before, after, self._initial(layer.cell, x))
        if is_spiking(layer):
            self.spikes[layer.name] = sequence
        if not layer.return_sequences:
            self.cut = _Cut(sequence, layer)
            return None
        return sequence

    @staticmethod
    def _initial(cell, x):
        """Functions from a batch size to first states."""
        shape = x.shape[2:]

        def first(batch, place):
            if isinstance(cell, snn.NeuronCell):
                states = cell.initial_states(ops.zeros((batch, *shape)))
            else:
                states = tree.flatten(cell.get_initial_state(batch))
            return ops.convert_to_numpy(states[place])

        return [lambda batch, i=i: first(batch, i) for i in range(len(_states(cell)))]

    def run(self, inputs, timesteps=None):
        """Runs one batch.

        Args:
            inputs: An array, or a list of arrays for several inputs.
            timesteps: Number of steps; by default those of the sequences. Models on images
                need it.

        Yields:
            `(outputs, rates)` of each chunk: the outputs after every step of it,
            `(batch, steps, ...)` as a list, and spikes per neuron of each step by layer,
            `(batch, steps)`.
        """
        inputs = [np.asarray(x) for x in tree.flatten(inputs)]
        timesteps = timesteps if self.static else inputs[0].shape[1]
        batch, total = len(inputs[0]), None
        states = [first(batch) for _, _, first in self.states]
        running = RUNNING.get(type(self.cut.layer), RUNNING[snn.LastOverTime])
        for start in range(0, timesteps, self.chunk):
            count = min(self.chunk, timesteps - start)
            part = inputs if self.static else [self._part(x, start) for x in inputs]
            found = self.step.predict_on_batch([*part, *states])
            found = [np.asarray(x) for x in tree.flatten(found)]
            sequence, states = found[0][:, :count], found[1 + len(self.spikes) :]
            steps = np.arange(start + 1, start + count + 1).reshape(
                1, -1, *[1] * (sequence.ndim - 2)
            )
            if total is None:
                total = (
                    np.full_like(sequence[:, :1], -np.inf)
                    if isinstance(self.cut.layer, snn.MaxOverTime)
                    else np.zeros_like(sequence[:, :1])
                )
            values = running(total, sequence, steps)
            mean = isinstance(self.cut.layer, snn.MeanOverTime)
            total = values[:, -1:] * (steps[:, -1:] if mean else 1)
            rates = {n: r[:, :count] for n, r in zip(self.spikes, found[1:])}
            yield self._outputs(values), rates

    def _part(self, x, start):
        part = x[:, start : start + self.chunk]
        missing = self.chunk - part.shape[1]
        return np.pad(part, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))

    def _outputs(self, values):
        if self.tail is None:
            return [values] * len(self.model.outputs)
        flat = values.reshape(-1, *values.shape[2:])
        outputs = tree.flatten(self.tail.predict_on_batch(flat))
        return [np.asarray(x).reshape(*values.shape[:2], *x.shape[1:]) for x in outputs]


def _states(cell):
    if isinstance(cell, snn.NeuronCell):
        return cell.initial_values
    return tree.flatten(cell.get_initial_state(1))
