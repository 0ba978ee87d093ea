"""Accuracy at every number of steps, from one run that needs the memory of a few steps.

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
from keras_snn.utils.arguments import check_integer, check_number
from keras_snn.utils.batches import batches_of

__all__ = [
    "AccuracyOverTime",
    "Rollout",
    "accuracy_over_time",
    "output_activation",
    "predicted_classes",
]

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


@dataclasses.dataclass(frozen=True)
class AccuracyOverTime:
    """Accuracy after each number of steps.

    Attributes:
        accuracy: Share of right answers after 1, 2, ... steps, `(timesteps,)`; `None` without
            labels.
        firing_rates: Mean spikes per neuron and step by layer, over the whole run.
        examples: Number of examples.
        decided: Share of examples that had decided after 1, 2, ... steps, with early exit; else
            `None`.
        measure: What `accuracy` is, where the labels are no true ones: `convert` without labels
            compares with the ANN's answers.
    """

    accuracy: np.ndarray | None
    firing_rates: dict
    examples: int
    decided: np.ndarray | None = None
    measure: str = "accuracy"

    @property
    def timesteps(self):
        """Mean number of steps until an answer: all of them without early exit."""
        if self.decided is None:
            return float(len(self.accuracy))
        return float(1 + np.sum(1 - self.decided[:-1]))

    def to_dict(self):
        """The result as plain data, for JSON."""

        def plain(values):
            return None if values is None else [float(v) for v in values]

        return {
            "accuracy": plain(self.accuracy),
            "firing_rates": self.firing_rates,
            "examples": self.examples,
            "decided": plain(self.decided),
            "measure": self.measure,
        }

    def plot(self, ax=None):
        """Plots accuracy against steps.

        Args:
            ax: matplotlib axes; new ones by default.

        Returns:
            The axes.

        Raises:
            ImportError: If the extra `plot` is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("Plots need the extra `plot`: pip install keras-snn[plot]") from error
        if ax is None:
            _, ax = plt.subplots()
        steps = np.arange(1, len(self.accuracy) + 1)
        ax.plot(steps, 100 * self.accuracy, label=self.measure)
        if self.decided is not None:
            ax.plot(steps, 100 * self.decided, linestyle="--", label="decided")
            ax.legend()
        ax.set_xlabel("timesteps")
        ax.set_ylabel(f"{self.measure} (%)")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_ylim(0, 100)
        return ax

    def __str__(self):
        if self.accuracy is None:
            return f"{self.examples} examples, no labels"
        last = len(self.accuracy)
        steps = [2**k for k in range(last.bit_length()) if 2**k < last] + [last]
        text = ", ".join(f"T={t}: {100 * self.accuracy[t - 1]:.1f} %" for t in steps)
        text = f"{self.measure[0].upper()}{self.measure[1:]} on {self.examples} examples: {text}"
        if self.decided is not None:
            text += f"; decided after {self.timesteps:.1f} steps in the mean"
        return text


def accuracy_over_time(
    model,
    data,
    timesteps=None,
    batch_size=32,
    chunk=16,
    confidence=None,
    steps=None,
    verbose=0,
):
    """Accuracy of a spiking model after every number of steps, from one run.

    Memory does not grow with the number of steps: the model runs `chunk` steps at a time.

    Args:
        model: A model with one output and one readout over time, see `Rollout`. A single unit
            decides between two classes, see `predicted_classes`.
        data: `(inputs, labels)`, arrays, labels integers or one-hot (or `None`: firing rates
            only); or an iterable of such batches.
        timesteps: Number of steps; by default those that the model was built for.
        batch_size: Batch size for arrays.
        chunk: Steps at a time.
        confidence: Early exit: an example's answer is final once the probability of one class
            reaches this value (softmax of the output, unless it is probabilities already), and a
            batch ends when all its examples have decided.
        steps: Number of batches to use; all by default.
        verbose: 1 to show a progress bar over batches.

    Returns:
        `AccuracyOverTime`.

    Raises:
        TypeError: If the model can't be rolled out.
        ValueError: If there are no data.

    Example:

    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([keras.Input((3,)), snn.RepeatTime(4), snn.IF(),
    ...     snn.MeanOverTime()])
    >>> accuracy_over_time(model, (0.3 * np.eye(3) + 0.2, np.arange(3))).accuracy
    array([0.33333333, 1.        , 1.        , 1.        ])
    """
    if confidence is not None:
        check_number("confidence", confidence, above=0, maximum=1)
    rollout = Rollout(model, chunk)
    if timesteps is None and rollout.static:
        timesteps = _own_timesteps(model)
    right, decided, rates, examples, labelled = 0, 0, {}, 0, True
    bar = keras.utils.Progbar(steps, verbose=verbose, unit_name="batch")
    for place, (inputs, labels) in enumerate(batches_of(data, batch_size)):
        if place == steps:
            break
        answers, finals, found, final = [], [], {}, None
        for outputs, chunk_rates in rollout.run(inputs, timesteps):
            output = _scores(model, outputs[0])
            for name, rate in chunk_rates.items():
                found.setdefault(name, []).append(rate)
            answer = output.argmax(-1)
            if confidence is not None:
                answer, final = _held(output, answer, final, confidence)
                finals.append(final >= 0)
                final = final[:, -1]
            answers.append(answer)
            if confidence is not None and np.all(final >= 0):
                break
        answers = np.concatenate(answers, 1)
        total = timesteps if rollout.static else tree.flatten(inputs)[0].shape[1]
        missing = total - answers.shape[1]
        answers = np.pad(answers, [(0, 0), (0, missing)], mode="edge")
        size = len(answers)
        examples += size
        for name, parts in found.items():
            rate = np.concatenate(parts, 1).mean(1).sum()
            rates[name] = rates.get(name, 0.0) + float(rate)
        if labels is None:
            labelled = False
        else:
            labels = np.asarray(labels)
            labels = labels.argmax(-1) if labels.ndim == 2 and labels.shape[1] > 1 else labels
            right = right + (answers == labels.reshape(-1, 1)).sum(0)
        if confidence is not None:
            finals = np.pad(np.concatenate(finals, 1), [(0, 0), (0, missing)], mode="edge")
            decided = decided + finals.sum(0)
        bar.add(1)
    if not examples:
        raise ValueError("There are no data.")
    return AccuracyOverTime(
        right / examples if labelled else None,
        {name: rate / examples for name, rate in rates.items()},
        examples,
        None if confidence is None else decided / examples,
    )


def predicted_classes(model, outputs):
    """The classes that a model's outputs stand for.

    Args:
        model: The model with one output.
        outputs: Its outputs, an array `(..., classes)`. A single unit stands for two classes: the
            second is taken where its probability is above 1/2 (`sigmoid` at the end of the model),
            or its logit above 0 (any other end).

    Returns:
        Integers `(...)`.
    """
    return _scores(model, np.asarray(outputs)).argmax(-1)


def _scores(model, outputs):
    """One number a class: of a single unit `(1 - p, p)`, or `(-z / 2, z / 2)` of its logit."""
    if outputs.shape[-1] != 1:
        return outputs
    if output_activation(model.outputs[0]) == "sigmoid":
        return np.concatenate([1 - outputs, outputs], -1)
    return np.concatenate([-outputs, outputs], -1) / 2


def output_activation(tensor):
    """Name of the activation, or of the operation, that a model's output comes from."""
    layer = tensor._keras_history.operation
    while isinstance(layer, keras.Model):
        layer = layer.outputs[0]._keras_history.operation
    function = getattr(layer, "activation", None) or layer
    return getattr(function, "__name__", type(function).__name__).lower()


def _held(output, answer, final, confidence):
    """Answers of a chunk, those of earlier decisions held; and the decisions (-1 for none)."""
    total = output.sum(-1)
    if not (output.min() >= 0 and np.allclose(total, 1, atol=1e-3)):
        shifted = np.exp(output - output.max(-1, keepdims=True))
        output = shifted / shifted.sum(-1, keepdims=True)
    sure = np.where(output.max(-1) >= confidence, answer, -1)
    final = np.full(len(answer), -1) if final is None else final
    decisions = np.empty_like(sure)
    for t in range(sure.shape[1]):
        final = np.where(final >= 0, final, sure[:, t])
        decisions[:, t] = final
    return np.where(decisions >= 0, decisions, answer), decisions


def _own_timesteps(model):
    for layer in model._flatten_layers():
        if isinstance(layer, snn.RepeatTime):
            return layer.timesteps
    raise TypeError(f"The model {model.name!r} has no encoder to tell the number of steps.")
