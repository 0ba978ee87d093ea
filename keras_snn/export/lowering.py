"""What a model computes for one example, as a TensorFlow graph that devices run well.

The model is replayed (see `keras_snn.graph`) with time in the place of the batch axis. What treats
each step alone is called once for all steps; neurons are unrolled, in the form that converters
fold best (`decay * v + gain * x`, with the gain in front of the loop); what comes before the first
neuron of a model on images is computed once. With states the same replay gives one step, whose
states are inputs and outputs.

Reference for the form: measurements of graph variants in TensorFlow Lite; the equations are those
of `keras_snn.dynamics`.
"""

import copy
import dataclasses
import functools
import operator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_snn import dynamics, graph
from keras_snn import layers as snn
from keras_snn.layers.encoders import _Encoder
from keras_snn.layers.normalization import _FoldedBatchNormalization
from keras_snn.layers.readouts import _OverTime
from keras_snn.layers.rnn import state_names
from keras_snn.qat.layers import Constants, QuantizedLIFCell, state_bits

__all__ = ["Lowering"]


@dataclasses.dataclass
class Value:
    """A tensor on its way through the model.

    Attributes:
        tensor: `(time, ...)` with a time axis, of which there is one step if steps are computed
            one by one; `(1, ...)` without.
        timed: Whether it has a time axis.
        constant: Whether its one step stands for all.
        late: Whether it is known after the last step only.
    """

    tensor: Any
    timed: bool
    constant: bool = False
    late: bool = False


class Lowering:
    """One replay of a model.

    Args:
        model: A functional or Sequential model.
        trace: Its `keras_snn.graph.Trace`, with the number of steps known.
        timesteps: Steps of a clip.
        states: `None` for a whole clip; for one step, a dictionary of state tensors by name. Those
            that are missing are at their first values.
        rounds: Whether integer spikes of clips of one step get the names of `INTEGERS`: what runs
            the program in integers rounds them by itself.
        grids: Whether layers of `keras_snn.qat` are lowered to what TensorFlow's converter reads as
            quantised.
        floor: Whether neurons fire by `clip(floor(h / threshold), 0, 1)`, which for thresholds over
            0 is the same step in float32, of operations that XNNPACK has; a comparison is better
            where integers compute.
        gathers: Whether one step of a dense layer with whole delays gathers what each synapse
            reads; else it weighs the whole window, with weights that are 0 but at the delays.

    After `run`, `spikes` has the spikes of each spiking layer, `thresholds` their thresholds (as
    first set), `states` the new states of one step, and `initial` their first values. A layer that
    is called twice has two states, `lif/membrane` and `lif:1/membrane`.
    """

    def __init__(
        self,
        model,
        trace,
        timesteps,
        states=None,
        floor=False,
        rounds=False,
        grids=False,
        gathers=True,
    ):
        self.model, self.trace, self.timesteps, self.grids = model, trace, timesteps, grids
        self.gathers = gathers
        self.old, self.step, self.floor = states, states is not None, floor
        self.constants, self.fine = Constants(), grids and state_bits(model) == 16
        self.rounds = rounds and not self.step and timesteps == 1
        self.states, self.initial, self.spikes, self.thresholds = {}, {}, {}, {}

    def run(self, tensors):
        """Outputs of the model, a list.

        Args:
            tensors: Inputs `(1, ...)`; for one step, those with a time axis without it.
        """

        def value(tensor, timed):
            if timed and not self.step:
                tensor = ops.reshape(tensor, tensor.shape[1:])
            return Value(tensor, timed)

        self.calls = iter(self.trace.calls)
        values = [value(x, timed) for x, timed in zip(tensors, self.trace.timed)]
        with dynamics.assume_finite():
            outputs = tree.flatten(graph.run(self.model, values, self.rule))
        if self.step:
            return [output.tensor for output in outputs]
        return [
            ops.expand_dims(self.repeated(output), 0) if output.timed else output.tensor
            for output in outputs
        ]

    def rule(self, call):
        """What takes the place of a call."""
        args, kwargs, call = call.args, call.kwargs, next(self.calls)
        if call.mask is not None:
            raise self.unsupported(call, "masks are for training; give clips of one length")
        values = [v for v in tree.flatten((args, kwargs)) if isinstance(v, Value)]
        timed, late = any(v.timed for v in values), any(v.late for v in values)
        if self.step and late and (timed or call.time == "adds"):
            raise self.unsupported(call, "it reads the answer of a whole clip at each step")
        layer = self.quantized(call.layer)
        if layer is not None:
            if timed:
                return self.apply(call, layer, args, {})
            call, kwargs = dataclasses.replace(call, operation=layer), {}
        if not timed and call.time != "adds":
            return _plain(self, call, *args, **kwargs)
        outputs = self.find(call)(self, call, *args, **kwargs)
        if call.spikes and outputs.timed and not call.each_step:
            self.spikes[call.name] = self.repeated(outputs)
            self.thresholds[call.name] = getattr(
                getattr(call.layer, "cell", None), "threshold", None
            )
        return outputs

    def quantized(self, layer):
        """A layer as TensorFlow's converter reads it as quantised, `None` if it is as it is."""
        if self.fine and getattr(layer, "activation", None) is keras.activations.softmax:
            return _softmax
        return getattr(layer, "fake_quantized", None) if self.grids else None

    def find(self, call):
        """What lowers a call that has to do with time."""
        if call.time == "unknown":
            raise self.unsupported(
                call,
                "nobody knows what it does to time. Wrap it in `FoldTime` if it treats each step "
                "alone, or say what it is with `keras_snn.graph.register`",
            )
        if call.each_step:
            return _each_step
        for classes, rule in RULES:
            if isinstance(call.layer, classes):
                return rule
        if call.time in BY_TIME:
            return BY_TIME[call.time]
        if call.memory is not None:
            return _streamed
        raise self.unsupported(
            call, "it mixes steps; wrap it in `FoldTime` if it is meant to treat each step alone"
        )

    def apply(self, call, layer, args, kwargs):
        """A layer on the tensors as they are, for all steps at once."""
        values = [v for v in tree.flatten((args, kwargs)) if isinstance(v, Value)]
        if not all(v.timed for v in values):
            return _in_place(self, call, *args, **kwargs)
        constant = all(v.constant for v in values)

        def unwrap(v):
            if not isinstance(v, Value):
                return v
            return v.tensor if constant else self.repeated(v)

        args, kwargs = tree.map_structure(unwrap, (args, kwargs))
        return tree.map_structure(lambda x: Value(x, True, constant), layer(*args, **kwargs))

    def repeated(self, value):
        """Its tensor, with as many steps as there are."""
        if not value.constant or self.step:
            return value.tensor
        return _joined([value.tensor] * self.timesteps, self.fine)

    def unstacked(self, value):
        """Its steps, each `(1, ...)`."""
        if self.step or value.constant:
            return [value.tensor] * (1 if self.step else self.timesteps)
        steps = value.tensor.shape[0]
        return ops.split(value.tensor, steps, axis=0) if steps > 1 else [value.tensor]

    def unsupported(self, call, hint):
        """The error for a layer that can't be exported."""
        return TypeError(
            f"The layer {call.name} ({type(call.layer).__name__}) can't be exported: {hint}."
        )

    def state(self, name, first):
        """A state before this step; before the first step of a clip, `None` where it is zero."""
        first = np.asarray(first, "float32")
        self.initial[name] = first
        if self.step:
            return ops.convert_to_tensor(self.old.get(name, first))
        return None if not first.any() else ops.convert_to_tensor(first)

    def time(self):
        """Index of this step."""
        now = self.state("time", np.zeros(1))
        self.states["time"] = now + 1
        return now


def _softmax(x):
    """In float32: the converter can't write the operation for int16."""
    e = ops.exp(x - ops.max(x, axis=-1, keepdims=True))
    return e * (1 / ops.sum(e, axis=-1, keepdims=True))


def _plain(lowering, call, *args, **kwargs):
    """A call without time."""

    def unwrap(v):
        return v.tensor if isinstance(v, Value) else v

    late = any(v.late for v in tree.flatten((args, kwargs)) if isinstance(v, Value))
    args, kwargs = tree.map_structure(unwrap, (args, kwargs))
    return tree.map_structure(lambda x: Value(x, False, late=late), call.operation(*args, **kwargs))


def _each_step(lowering, call, *args, **kwargs):
    for layer in graph.flatten_layers(call.layer) if _is_layer(call.layer) else ():
        if getattr(layer, "data_format", "channels_last") == "channels_first":
            raise TypeError(
                f"The layer {layer.name} is channels-first, which TensorFlow Lite does not run: "
                "build the model with `keras.config.set_image_data_format('channels_last')`."
            )
    # A wrapper's own arguments, masks say, are none of its layer's.
    kwargs = {} if call.operation is not call.layer else kwargs
    return lowering.apply(call, call.layer, args, kwargs)


def _is_layer(operation):
    return isinstance(operation, keras.layers.Layer)


def _pointwise(lowering, call, *args, **kwargs):
    """Each value by itself, whatever the axes are, unless a constant has axes too."""
    arrays = [x for x in tree.flatten((args, kwargs)) if len(getattr(x, "shape", ()))]
    if arrays or getattr(call.layer, "input_spec", None) is not None:
        return _in_place(lowering, call, *args, **kwargs)
    return lowering.apply(call, call.operation, args, kwargs)


def _last_axis(lowering, call, *args, **kwargs):
    if len(call.input.shape) < 3:
        raise lowering.unsupported(call, "its features are the steps")
    return lowering.apply(call, call.operation, args, kwargs)


def _per_step(lowering, call, *args, **kwargs):
    """A layer without weights gets its axes counted from the end, where time is in no way."""
    layer, axes = call.layer, getattr(call.layer, "axis", None)
    if type(layer).__name__ == "Reshape":  # the layer, or the operation
        return _reshape(lowering, call, *args, **kwargs)
    if axes is None or getattr(layer, "weights", None):
        return _in_place(lowering, call, *args, **kwargs)
    rank = len(call.input.shape)
    count = [axis - rank if axis >= 0 else axis for axis in np.ravel(axes).tolist()]
    axes = count[0] if isinstance(axes, int) else count
    if _is_layer(layer):
        layer = type(layer).from_config(layer.get_config() | {"axis": axes})
    else:
        layer = copy.copy(layer)
        layer.axis = axes
    return lowering.apply(call, layer, args, kwargs)


def _in_place(lowering, call, *args, **kwargs):
    """A layer with the axes that it knows, `(1, time, ...)`."""

    def unwrap(v):
        if not isinstance(v, Value):
            return v
        return ops.expand_dims(lowering.repeated(v), 0) if v.timed else v.tensor

    args, kwargs = tree.map_structure(unwrap, (args, kwargs))
    alone = lowering.unsupported(call, "one step of it can't be computed alone")
    try:
        outputs = call.operation(*args, **kwargs)
    except Exception as error:
        if not lowering.step:
            raise
        raise alone from error

    def wrap(y):
        if not call.timed:
            return Value(y, False, late=True)
        if lowering.step and y.shape[1] != 1:
            raise alone
        return Value(ops.reshape(y, y.shape[1:]), True)

    return tree.map_structure(wrap, outputs)


def _reshape(lowering, call, x, **kwargs):
    shape = call.output.shape[2:]

    def layer(x):
        return ops.reshape(x, (x.shape[0], *shape))

    return lowering.apply(call, layer, (x,), {})


def _streamed(lowering, call, x, **kwargs):
    """A layer that looks at some steps before the present one, which one step keeps."""
    if not lowering.step:
        return _in_place(lowering, call, x, **kwargs)
    name, shape = f"{call.name}/history", x.tensor.shape[1:]
    window = x.tensor
    if call.memory:
        before = lowering.state(name, np.zeros((call.memory, *shape)))
        window = ops.concatenate([before, x.tensor], axis=0)
        lowering.states[name] = window[1:]
    y = call.operation(ops.expand_dims(window, 0), **kwargs)
    return Value(ops.reshape(y[:, -1:], (1, *y.shape[2:])), True)


def _delayed(lowering, call, x, **kwargs):
    """Delays, from the last steps, which one step keeps."""
    import tensorflow as tf

    layer, memory, x = call.layer, call.layer.max_delay, lowering.repeated(x)
    count, shape = x.shape[0], x.shape[1:]
    if lowering.step:
        name = f"{call.name}/history"
        before = lowering.state(name, np.zeros((memory, *shape)))
        window = ops.concatenate([before, x], axis=0)
        lowering.states[name] = window[1:]
    else:
        window = ops.pad(x, [(memory, 0), *[(0, 0)] * len(shape)])
    with tf.init_scope():
        shares, taps = ops.convert_to_numpy(layer.shares()), ops.convert_to_numpy(layer.taps())
        ages = memory - layer.steps()
    # Of one step and whole delays, only what each synapse or channel reads is taken.
    single = lowering.step and np.all(shares.max(0) == 1)
    mix = _delayed_channels if isinstance(layer, snn.AxonalDelay) else _delayed_synapses
    if isinstance(layer, snn.DelayedDense) and lowering.step and not lowering.gathers:
        y = ops.matmul(ops.reshape(window, (1, -1)), _constant(taps.reshape(-1, taps.shape[-1])))
    else:
        y = mix(layer, window, count, taps, ages if single else None)
    bias = getattr(layer, "bias", None)
    return Value(y if bias is None else y + _constant(_numpy(bias)), True)


def _delayed_channels(layer, window, count, taps, ages):
    import tensorflow as tf

    shape = window.shape[1:]
    if ages is not None:
        size = int(np.prod(shape))
        places = np.broadcast_to(ages, shape).ravel() * size + np.arange(size)
        return ops.reshape(
            tf.gather(ops.reshape(window, (-1,)), places.astype("int32")), (1, *shape)
        )
    parts = [
        window[i : i + count] * _constant(tap) if np.any(tap != 1) else window[i : i + count]
        for i, tap in enumerate(taps)
        if np.any(tap)
    ]
    return functools.reduce(operator.add, parts)


def _delayed_synapses(layer, window, count, taps, ages):
    import tensorflow as tf

    if ages is not None and not layer.rank:
        inputs = window.shape[1]
        places = (ages * inputs + np.arange(inputs)[:, None]).T
        weights = _constant(taps.sum(0).T)
        read = tf.gather(ops.reshape(window, (-1,)), places.ravel().astype("int32"))
        products = ops.reshape(read, weights.shape) * weights
        return ops.reshape(ops.sum(products, axis=1), (1, len(weights)))
    used = [i for i, tap in enumerate(taps) if np.any(tap)] or [0]
    steps = [window[i : i + count] for i in used]
    stacked = ops.concatenate(steps, axis=-1) if len(steps) > 1 else steps[0]
    taps = np.moveaxis(taps[used], 0, -3)
    taps = _constant(taps.reshape(*layer.kernel_size, -1, taps.shape[-1]))
    if not layer.rank:
        return ops.matmul(stacked, taps)
    return ops.conv(stacked, taps, layer.strides, layer.padding, data_format="channels_last")


def _repeat_time(lowering, call, x, **kwargs):
    return Value(x.tensor, True, constant=True)


def _encoder(lowering, call, x, **kwargs):
    if lowering.step:
        raise lowering.unsupported(
            call, "one step does not tell which it is; encode before the model"
        )
    if isinstance(call.layer, snn.PoissonEncoder):
        raise lowering.unsupported(call, "it draws random numbers; encode before the model")
    tensor = call.operation(x.tensor, **kwargs)
    return Value(ops.reshape(tensor, tensor.shape[1:]), True)


def _affine(lowering, call, x, scale, shift):
    """`scale * x + shift`, of shape `(time, channels)`, where one row is for all steps."""
    shape = (-1, *[1] * (len(x.tensor.shape) - 2), scale.shape[-1])
    scale, shift = (np.reshape(a, shape).astype("float32") for a in (scale, shift))
    if len(scale) == 1:
        return Value(x.tensor * scale + shift, True, constant=x.constant)
    if lowering.step:
        import tensorflow as tf

        # Quantised, the number of a step may be a little less than that. `ops.take` would also
        # look for negative numbers, by an operation that microcontrollers do not have.
        now = ops.cast(ops.minimum(lowering.time() + 0.5, len(scale) - 0.5), "int32")
        scale, shift = tf.gather(scale, now), tf.gather(shift, now)
    return Value(lowering.repeated(x) * scale + shift, True)


def _normalization(lowering, call, x, **kwargs):
    layer, rank = call.layer, len(x.tensor.shape) + 1
    inside = isinstance(layer, keras.layers.BatchNormalization) and not isinstance(
        layer, _FoldedBatchNormalization
    )
    if layer.axis not in (-1, rank - 1 if inside else rank - 2):
        if lowering.step and call.time == "across":
            raise lowering.unsupported(call, "its channels are not the last axis")
        return _in_place(lowering, call, x, **kwargs)
    rows = np.ones((1, 1))
    if isinstance(layer, snn.BatchNormalizationThroughTime):
        scale, shift = map(np.stack, zip(*map(_statistics, layer.steps)))
        return _affine(lowering, call, x, scale, shift)
    scale, shift = _statistics(layer)
    if isinstance(layer, snn.TemporalEffectiveBatchNormalization):
        rows = _numpy(layer.step_scale)[:, None]
    return _affine(lowering, call, x, rows * scale, rows * shift)


def _statistics(layer):
    import tensorflow as tf

    with tf.init_scope():
        return graph.normalization(layer)


def _numpy(value):
    """A number as it is, a tensor or weight as an array: as it stands now, not in the graph."""
    import tensorflow as tf

    if isinstance(value, (int, float)):
        return value
    with tf.init_scope():
        return ops.convert_to_numpy(value)


def _parallel(lowering, call, x, **kwargs):
    if lowering.step:
        raise lowering.unsupported(call, "it needs all steps at once")
    return _in_place(lowering, call, x, **kwargs)


def _recurrent(lowering, call, x, initial_state=None, **kwargs):
    layer = call.layer
    if layer.go_backwards or layer.return_state or initial_state is not None:
        raise lowering.unsupported(
            call, "`go_backwards`, `return_state` and `initial_state` are for training"
        )
    cell, shape = layer.cell, (1, *x.tensor.shape[1:])
    if not isinstance(layer, snn.SpikingRNN) and len(shape) > 2:
        raise lowering.unsupported(call, "its steps are no vectors")
    names = [f"{call.name}/{name}" for name in state_names(cell)]
    first = _first_states(cell, shape)
    linear = _linear_step(cell, lowering.floor)
    if lowering.grids and isinstance(cell, QuantizedLIFCell):
        linear = (
            functools.partial(cell.fake_quantized_inputs, constant=lowering.constants),
            functools.partial(cell.fake_quantized, constant=lowering.constants),
        )
    states = [lowering.state(name, value) for name, value in zip(names, first)]
    if lowering.rounds and isinstance(cell, snn.ILIFCell):
        return _integers(cell, x, first)
    if linear is None:
        states = [ops.convert_to_tensor(f) if s is None else s for s, f in zip(states, first)]
        prepared, step = x, _general_step(cell)
    else:
        prepare, step = linear
        prepared = Value(prepare(x.tensor), True, constant=x.constant)
    outputs = []
    for current in lowering.unstacked(prepared):
        output, states = step(current, states)
        outputs.append(output)
    if lowering.step:
        lowering.states |= dict(zip(names, states))
    if not layer.return_sequences:
        return Value(outputs[-1], False, late=True)
    return Value(_joined(outputs, lowering.fine), True)


def _joined(steps, fine):
    """Steps `(1, ...)` in one tensor; TensorFlow's converter has no concatenation in int16."""
    if len(steps) == 1:
        return steps[0]
    if fine:
        return ops.stack([ops.reshape(x, x.shape[1:]) for x in steps], axis=0)
    return ops.concatenate(steps, axis=0)


# Part of the names of integer spikes, or of these times 1 / D: the number behind it.
INTEGERS = "integer_spikes_over_"


def _integers(cell, x, first):
    """Integer spikes of one step; their minimum with the most comes last."""
    import tensorflow as tf

    with tf.init_scope():
        threshold = _numpy(cell.current_threshold)
    h, most = cell.charge(ops.convert_to_tensor(first[0]), x.tensor), cell.max_spikes
    with tf.name_scope(f"{INTEGERS}1"):
        spikes = ops.round(ops.relu(h * _constant(1 / threshold)))
    if cell.normalize:
        with tf.name_scope(f"{INTEGERS}{most}"):
            spikes = spikes * _constant(1 / most)
    return Value(ops.minimum(spikes, 1 if cell.normalize else most), True)


def _first_states(cell, shape):
    """States before the first step, as arrays."""
    import tensorflow as tf

    with tf.init_scope():
        ours = isinstance(cell, snn.NeuronCell)
        states = cell.initial_states(ops.zeros(shape)) if ours else cell.get_initial_state(1)
        return [ops.convert_to_numpy(state) for state in tree.flatten(states)]


def _general_step(cell):
    def step(x, states):
        if isinstance(cell, snn.NeuronCell):
            return cell.step(x, states)
        structure = cell.get_initial_state(batch_size=1)
        output, states = cell(x, tree.pack_sequence_as(structure, states))
        return output, tree.flatten(states)

    return step


def _linear_step(cell, floor):
    """`h = decay * v + gain * x + pull`: how currents are prepared, and the step.

    `None` if the neuron is no such one.
    """
    import tensorflow as tf

    with tf.init_scope():
        parts = cell.inference_spec() if isinstance(cell, snn.SpikingCell) else None
        if parts is None:
            return None
        form, fire, threshold = parts
        threshold = _numpy(threshold)
        decay, gain = form.slopes(None if form.rate is None else _numpy(form.rate))
    pull = form.v_rest * (1 - decay)

    def prepare(x):
        x = x if np.all(np.equal(gain, 1)) else x * _constant(gain)
        return x + _constant(pull) if np.any(pull) else x

    def step(x, states):
        (v,) = states
        if v is not None and np.any(np.not_equal(decay, 1)):
            v = v * _constant(decay)
        h = x if v is None else v + x
        if floor and not fire.strict and np.all(np.greater(threshold, 0)):
            share = h if np.all(np.equal(threshold, 1)) else h / _constant(threshold)
            spikes = ops.clip(ops.floor(share), 0, 1)
        else:
            spikes = ops.cast(h > threshold if fire.strict else h >= threshold, h.dtype)
        # Products, never a choice by `where`: quantised, that would cut the potential off.
        v = dynamics.reset_membrane(h, spikes, _constant(threshold), fire.reset, fire.v_reset)
        return spikes, [v]

    return prepare, step


def _constant(value):
    return np.asarray(value, "float32")


def _over_time(lowering, call, x, **kwargs):
    layer = call.layer
    if lowering.step:
        return Value(_reduced_step(lowering, call, x.tensor), False, late=True)
    if x.constant and isinstance(layer, (snn.MeanOverTime, snn.MaxOverTime, snn.LastOverTime)):
        return Value(x.tensor, False, late=True)
    tensor = lowering.repeated(x)
    if isinstance(layer, snn.MeanOverTime):
        tensor = ops.mean(tensor, axis=0, keepdims=True)
    elif isinstance(layer, snn.MaxOverTime):
        tensor = ops.max(tensor, axis=0, keepdims=True)
    elif isinstance(layer, snn.LastOverTime):
        tensor = lowering.unstacked(x)[-1]
    elif isinstance(layer, snn.SumOverTime):
        # Not `ops.sum`, which TensorFlow Lite gets wrong in int16.
        tensor = functools.reduce(operator.add, lowering.unstacked(x))
    else:
        tensor = _first_spike(lowering.unstacked(x))
    return Value(tensor, False, late=True)


def _first_spike(steps):
    waiting, total = 1.0, 0.0
    for spikes in steps:
        waiting = waiting - waiting * spikes
        total = total + waiting
    return total


def _reduced_step(lowering, call, x):
    """A readout so far: after T steps it is that of the clip."""
    layer, zeros = call.layer, np.zeros(x.shape)
    if isinstance(layer, snn.LastOverTime):
        return x
    if isinstance(layer, snn.MaxOverTime):
        y = ops.maximum(lowering.state(f"{call.name}/maximum", zeros + LOWEST), x)
        lowering.states[f"{call.name}/maximum"] = y
        return y
    if isinstance(layer, snn.FirstSpikeTime):
        waiting = lowering.state(f"{call.name}/waiting", zeros + 1)
        lowering.states[f"{call.name}/waiting"] = x = waiting - waiting * x
    y = lowering.state(f"{call.name}/total", zeros) + x
    lowering.states[f"{call.name}/total"] = y
    return y * _constant(1 / lowering.timesteps) if isinstance(layer, snn.MeanOverTime) else y


# Below all potentials, and a number that integers can be scaled to.
LOWEST = -1e3


def _membrane_readout(lowering, call, x, **kwargs):
    def part(layer):
        return dataclasses.replace(
            call, name=f"{call.name}/{layer.name}", layer=layer, operation=layer
        )

    layer = call.layer
    potentials = _recurrent(lowering, part(layer.integrator), x)
    return _over_time(lowering, part(layer.reduce), potentials)


def _removes(lowering, call, *args, **kwargs):
    if lowering.step:
        raise lowering.unsupported(call, "it needs all steps at once")
    return _in_place(lowering, call, *args, **kwargs)


# How layers are lowered, the first that fits; what is in none goes by what it does to time.
RULES = (
    (snn.DeltaEncoder, _streamed),
    ((snn.AxonalDelay, snn.DelayedDense, snn.DelayedConv1D, snn.DelayedConv2D), _delayed),
    (_Encoder, _encoder),
    ((snn.RepeatTime, keras.layers.RepeatVector), _repeat_time),
    (snn.MembraneReadout, _membrane_readout),
    (_OverTime, _over_time),
    (
        (keras.layers.BatchNormalization, snn.BatchNormalizationThroughTime),
        _normalization,
    ),
    ((keras.layers.Dense, snn.Voting), _last_axis),
    ((snn.PSN, snn.ExpandSpikes, snn.SumSteps), _parallel),
)
BY_TIME = {
    "adds": _encoder,
    "pointwise": _pointwise,
    "per step": _per_step,
    "recurrent": _recurrent,
    "removes": _removes,
}
