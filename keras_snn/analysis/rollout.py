"""A spiking model a few steps at a time, for as many steps as are wanted.

`Rollout` calls a model again in two parts. The first works on sequences of a few steps: what a
layer remembers from one piece to the next is one of its inputs and one of its outputs. The second,
the tail, is what comes behind the readouts over time; it is applied to their values after each
step.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator

import keras
import numpy as np
from keras import KerasTensor, ops, tree

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.analysis.probes import with_timesteps
from keras_snn.utils.arguments import check_integer

__all__ = ["Rollout"]

# How a readout goes on: its value before the first step, its totals after each step from the total
# before and the new steps, and its values from totals and numbers of steps.
Running = collections.namedtuple("Running", "start, totals, values")
_SUM = Running(0.0, lambda total, x: total + x.cumsum(1), lambda totals, t: totals)
RUNNING = {
    snn.SumOverTime.reduce: _SUM,
    snn.MeanOverTime.reduce: _SUM._replace(values=lambda totals, t: totals / t),
    snn.LastOverTime.reduce: _SUM._replace(totals=lambda total, x: x),
    snn.MaxOverTime.reduce: Running(
        -np.inf,
        lambda total, x: np.maximum(total, np.maximum.accumulate(x, 1)),
        lambda totals, t: totals,
    ),
}


@dataclasses.dataclass
class _State:
    """What is remembered: an input, an output, and first values, a tensor or a function of a
    number of examples."""

    before: KerasTensor
    after: KerasTensor
    first: object


def _zeros(shape, dtype, batch):
    return np.zeros((batch, *shape), dtype)


class Rollout:
    """Runs a spiking model a few steps at a time, for as many steps as are wanted.

    Layers that look at earlier steps only go on with what they remember: neurons and Keras's
    recurrent layers with their states (from `initial_state`, if it is given), causal convolutions,
    `SlidingPSN` and `DeltaEncoder` with the last steps of their input.

    Args:
        model: A functional or Sequential model, nested ones too, with a readout over time
            (`MeanOverTime`, `SumOverTime`, `LastOverTime`, `MaxOverTime`, `FirstSpikeTime`,
            `MembraneReadout`, or a recurrent layer with `return_sequences=False`). Models on images
            may run for more steps than they were built for; models on sequences for as many as the
            data have.
        chunk: Steps at a time.

    Raises:
        TypeError: If the model has no graph or no readout over time, or has a layer that needs all
            steps at once, takes a mask, is stateful, or is unknown to `keras_snn.graph`; it is
            named.
    """

    def __init__(self, model, chunk=16):
        self.chunk = check_integer("chunk", chunk)
        trace = graph.trace(model)
        self.model, self.timed, self.static = model, trace.timed, not any(trace.timed)
        # How often the model repeats static inputs, `None` if it does not tell.
        steps = (call.output.shape[1] for call in trace.calls if call.time == "adds")
        self.timesteps = next(steps, None)
        self.spikes = {}
        self._traced = {call.name: call for call in trace.calls}
        self._states, self._readouts, self._constants = [], [], {}
        self._kinds, self._kept = {}, []
        self.inputs = [
            self._marked(keras.Input(batch_shape=self._shape(x, t), dtype=x.dtype), t)
            for x, t in zip(model.inputs, self.timed)
        ]
        outputs = tree.flatten(graph.run(model, self.inputs, self._rule))
        if not self._readouts:
            raise TypeError(f"The model {model.name!r} has no readout over time at its end.")
        self._build(outputs)

    def _shape(self, tensor, timed):
        return (None, self.chunk, *tensor.shape[2:]) if timed else (None, *tensor.shape[1:])

    def _build(self, outputs):
        # Outputs that are sequences are given as they are, all others behind a readout.
        ends = [x if self._kind(x) == "sequence" else self._read(x) for x in outputs]
        self._sequences = [x for x in ends if self._kind(x) == "sequence"]
        self._ends = [self._kind(x) for x in ends]
        rates = [
            ops.mean(ops.cast(x, "float32"), axis=tuple(range(2, len(x.shape))))
            for x in self.spikes.values()
        ]
        constants = [x for x, _ in self._constants.values()]
        self._counts = [len(self._readouts), len(constants), len(self._sequences), len(rates)]
        self._step = keras.Model(
            [*self.inputs, *(state.before for state in self._states)],
            [
                *(sequence for sequence, _, _ in self._readouts),
                *constants,
                *self._sequences,
                *rates,
                *(state.after for state in self._states),
            ],
        )
        given = [state.first for state in self._states if isinstance(state.first, KerasTensor)]
        self._start = keras.Model(self.inputs, given) if given else None
        read = [x for _, x, _ in self._readouts] + [x for _, x in self._constants.values()]
        ends = [x for x in ends if self._kind(x) == "read"]
        places = {id(x): place for place, x in enumerate(read)}
        self._tail = None if all(id(x) in places for x in ends) else keras.Model(read, ends)
        self._places = [places.get(id(x)) for x in ends]

    # Tensors are "static", a "sequence", or "read": behind a readout.
    def _kind(self, tensor):
        return self._kinds[id(tensor)]

    def _marked(self, tensors, kind):
        kind = {True: "sequence", False: "static"}.get(kind, kind)
        for x in tree.flatten(tensors):
            self._kinds[id(x)] = kind
            self._kept.append(x)  # an `id` is unique while its tensor lives
        return tensors

    def _read(self, tensor):
        """The input of the tail for a tensor that does not change over time."""
        if self._kind(tensor) == "read":
            return tensor
        if id(tensor) not in self._constants:
            entry = keras.Input(batch_shape=(None, *tensor.shape[1:]), dtype=tensor.dtype)
            self._constants[id(tensor)] = (tensor, self._marked(entry, "read"))
        return self._constants[id(tensor)][1]

    def _rule(self, call):
        traced = self._traced[call.name]
        kinds = {self._kind(x) for x in call.inputs if isinstance(x, KerasTensor)}
        if kinds >= {"read", "sequence"} or ("read" in kinds and traced.time == "adds"):
            raise self._refused(call, "it comes behind a readout over time, and reads all steps")
        if "read" in kinds:
            args, kwargs = tree.map_structure(
                lambda x: self._read(x) if isinstance(x, KerasTensor) else x,
                (call.args, call.kwargs),
            )
            call = dataclasses.replace(call, args=args, kwargs=kwargs)
            return self._marked(call(), "read")
        if "sequence" in kinds:
            return self._on_sequences(call, traced)
        if traced.time != "adds":
            return self._marked(call(), "static")
        again = with_timesteps(call, self.chunk)
        if traced.memory != 0 or again is call:
            raise self._refused(call, "it needs all steps at once, or knows their number")
        return self._marked(again(), "sequence")

    def _on_sequences(self, call, traced):
        layer, time = call.layer, traced.time
        if traced.masks:
            raise self._refused(call, "it takes a mask")
        flags = ("stateful", "go_backwards", "return_state")
        if isinstance(layer, keras.layers.RNN) and any(getattr(layer, name) for name in flags):
            raise self._refused(call, "it is stateful, runs backwards or returns its state")
        if time in ("pointwise", "per step"):
            return self._marked(self._on_each_step(call), "sequence")
        if time == "recurrent":
            sequence = self._loop(call, layer, call.argument("initial_state"))
            if traced.spikes:
                self.spikes[call.name] = sequence
            return sequence if layer.return_sequences else self._cut(call, sequence)
        if time == "removes":
            return self._cut(call, *self._readout(call))
        if time == "unknown":
            raise self._refused(
                call,
                "nobody has said what it does to time; say so with `keras_snn.graph.register`",
            )
        if time != "across" or traced.memory is None:
            raise self._refused(call, "it needs all steps at once, or knows their number")
        sequence = self._remembering(call, traced.memory)
        if traced.spikes:
            self.spikes[call.name] = sequence
        return sequence

    def _on_each_step(self, call):
        if type(call.layer).__name__ != "Reshape" or call.each_step:
            return call()
        # The number of steps is part of what a layer or operation reshapes to.
        target = getattr(call.layer, "target_shape", None) or call.layer.newshape[1:]
        return ops.reshape(call.input, (-1, self.chunk, *target[1:]))

    def _remembering(self, call, memory):
        """A layer that looks at earlier steps gets them in front of the new ones."""
        x = call.input
        if not memory:
            return self._marked(call(), "sequence")
        shape = (memory, *x.shape[2:])
        before = keras.Input(batch_shape=(None, *shape), dtype=x.dtype)
        steps = ops.concatenate([before, x], axis=1)
        first = functools.partial(_zeros, shape, x.dtype)
        self._states.append(_State(before, steps[:, -memory:], first))
        return self._marked(call.operation(steps)[:, memory:], "sequence")

    def _loop(self, call, layer, initial_state=None):
        """A recurrent layer that takes its states and gives them back."""
        x, cell = call.input, layer.cell
        if isinstance(layer, snn.SpikingRNN) or type(layer) is keras.layers.RNN:
            loop = snn.SpikingRNN(cell, return_state=True, dtype=layer.dtype_policy)
        else:
            config = layer.get_config() | {"return_sequences": True, "return_state": True}
            loop = type(layer).from_config(config)
            loop.cell = cell
        shape = x.shape[2:]

        def initial(batch):
            if isinstance(cell, snn.NeuronCell):
                return cell.initial_states(ops.zeros((batch, *shape), layer.variable_dtype))
            return tree.flatten(layer.get_initial_state(batch))

        def first(place, batch):
            return ops.convert_to_numpy(initial(batch)[place])

        before = [
            keras.Input(batch_shape=(None, *s.shape[1:]), dtype=ops.dtype(s)) for s in initial(1)
        ]
        sequence, *after = tree.flatten(loop(x, initial_state=before))
        given = tree.flatten(initial_state) if initial_state is not None else []
        starts = given or [functools.partial(first, place) for place in range(len(before))]
        self._states += map(_State, before, after, starts)
        return self._marked(sequence, "sequence")

    def _readout(self, call):
        """The sequence that a readout reduces over time, and how it goes on."""
        layer = call.layer
        if isinstance(layer, snn.MembraneReadout):
            return self._loop(call, layer.integrator), layer.reduce
        if isinstance(layer, snn.FirstSpikeTime):
            return self._loop(call, layer.silence), snn.SumOverTime
        return call.input, layer

    def _cut(self, call, sequence, layer=snn.LastOverTime):
        running = RUNNING.get(getattr(layer, "reduce", None))
        if running is None:
            raise self._refused(call, "nobody has said how it goes on from step to step")
        output = self._traced[call.name].output
        entry = keras.Input(batch_shape=(None, *output.shape[1:]), dtype=output.dtype)
        self._readouts.append((sequence, entry, running))
        return self._marked(entry, "read")

    def _refused(self, call, reason):
        return TypeError(
            f"{call.name} ({type(call.layer).__name__}) can't be rolled out: {reason}. `predict` "
            "gives the model's outputs after all steps."
        )

    def run(self, inputs, timesteps=None) -> Iterator[tuple[list, dict[str, np.ndarray]]]:
        """Runs one batch.

        Args:
            inputs: What `predict` takes: an array, or a list, tuple or dictionary of them.
            timesteps: Number of steps; of sequences at most, and by default, those that they have.
                Models on images need it.

        Yields:
            `(outputs, rates)` of each chunk: the outputs after every step of it,
            `(batch, steps, ...)` as a list, and spikes per neuron of each step by layer,
            `(batch, steps)`. Of an output that is a sequence, these are its steps.

        Raises:
            ValueError: If inputs are missing or too many, or `timesteps` is.
        """
        inputs = [np.asarray(x) for x in graph.in_order(self.model, inputs)]
        lengths = [x.shape[1] for x, timed in zip(inputs, self.timed) if timed]
        if timesteps is None and not lengths:
            raise ValueError(f"The model {self.model.name!r} is on images: give `timesteps`.")
        timesteps = min([*lengths, *([] if timesteps is None else [timesteps])])
        yield from self.feed(
            (
                min(self.chunk, timesteps - start),
                [self._part(x, start) if t else x for x, t in zip(inputs, self.timed)],
            )
            for start in range(0, timesteps, self.chunk)
        )

    def feed(self, pieces) -> Iterator[tuple[list, dict[str, np.ndarray]]]:
        """Runs one batch piece by piece, as the pieces come.

        Args:
            pieces: An iterable of `(count, parts)`: the number of steps, which is `chunk` but for
                the last piece, and an array for each input of the model, of a sequence `chunk`
                steps, of which those behind the first `count` do not matter.

        Yields:
            What `run` yields, after each piece.
        """
        totals, states, start = [running.start for _, _, running in self._readouts], None, 0
        for count, parts in pieces:
            states = self._first(parts) if states is None else states
            found = tree.flatten(self._step.predict_on_batch([*parts, *states]))
            found = iter([np.asarray(x) for x in found])
            read, constants, sequences, rates = (
                [next(found) for _ in range(n)] for n in self._counts
            )
            states = list(found)
            values = []
            for place, (x, (_, entry, running)) in enumerate(zip(read, self._readouts)):
                steps = np.arange(start + 1, start + count + 1).reshape(-1, *[1] * (x.ndim - 2))
                so_far = running.totals(totals[place], x[:, :count].astype("float64"))
                totals[place] = so_far[:, -1:]
                values.append(running.values(so_far, steps).astype(entry.dtype))
            start += count
            values += [np.repeat(x[:, None], count, 1) for x in constants]
            yield (
                self._outputs(values, [x[:, :count] for x in sequences]),
                {name: rate[:, :count] for name, rate in zip(self.spikes, rates)},
            )

    def _first(self, parts):
        """The states before the first step."""
        batch = len(parts[0])
        given = iter(
            () if self._start is None else tree.flatten(self._start.predict_on_batch(parts))
        )
        return [
            np.asarray(next(given)) if isinstance(state.first, KerasTensor) else state.first(batch)
            for state in self._states
        ]

    def _part(self, x, start):
        part = x[:, start : start + self.chunk]
        missing = self.chunk - part.shape[1]
        return np.pad(part, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))

    def _outputs(self, values, sequences):
        if self._tail is None:
            found = [values[place] for place in self._places]
        else:
            flat = [x.reshape(-1, *x.shape[2:]) for x in values]
            found = tree.flatten(self._tail.predict_on_batch(flat))
            found = [np.asarray(x).reshape(*values[0].shape[:2], *x.shape[1:]) for x in found]
        found, sequences = iter(found), iter(sequences)
        return [next(sequences if kind == "sequence" else found) for kind in self._ends]
