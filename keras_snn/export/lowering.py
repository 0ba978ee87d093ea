"""What a model computes for one example, as a TensorFlow graph that devices run well.

The model's own graph is walked layer by layer; time takes the place of the batch axis. Layers
without time are called as they are, once for all steps; neurons are unrolled, in the form that
converters fold best (`decay * v + gain * x`, with the gain in front of the loop); what comes before
the first neuron of a model on images is computed once. With `step=True` the same walk gives one
step, whose states are inputs and outputs.

Reference for the form: measurements of graph variants in TensorFlow Lite; the equations are those
of `keras_snn.dynamics`.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_snn import dynamics
from keras_snn import layers as snn
from keras_snn.analysis.rates import is_spiking
from keras_snn.kernels import spec
from keras_snn.layers.encoders import _Encoder
from keras_snn.layers.normalization import _FoldedBatchNormalization
from keras_snn.layers.parallel import _Parallel
from keras_snn.layers.readouts import _OverTime

__all__ = ["Walk"]


@dataclasses.dataclass
class Value:
    """A tensor of the walk.

    `timed`: whether its first axis is time; `None` for a model's input and what is computed of it
    value by value, until a layer shows which. `constant`: whether this one step stands for all.
    """

    tensor: Any
    timed: bool | None
    inputs: frozenset = frozenset()
    constant: bool = False


# Keras layers that treat each step alone, and so run on sequences as they are.
POINTWISE = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.Subtract,
    snn.SpikeConnection,
    snn.Voting,
)
POINTWISE_OPS = ("Add", "Subtract", "Multiply", "Negative", "Relu", "Sigmoid", "Tanh", "Abs")


class Walk:
    """One walk through a model.

    Args:
        model: A functional or Sequential model.
        timesteps: Steps of a clip.
        states: `None` for a whole clip; for one step, a dictionary of state tensors by name.
        timed_inputs: Indices of inputs that are one step of a sequence (for one step).
        floor: Whether neurons fire by `clip(floor(h / threshold), 0, 1)`: the same step in float32,
            of operations that XNNPACK has; a comparison is better where integers compute.

    After `run`, `spikes` has the spikes of each spiking layer, `thresholds` their thresholds (as
    first set), `states` the new states (for one
    step), `initial` their first values, `timed_inputs` the inputs that turned out to be sequences.
    """

    def __init__(self, model, timesteps, states=None, timed_inputs=(), floor=False):
        self.model, self.timesteps = model, timesteps
        self.old, self.step, self.floor = states, states is not None, floor
        self.states, self.initial, self.spikes, self.thresholds = {}, {}, {}, {}
        self.timed_inputs = set(timed_inputs)
        self.prefix = ""

    def run(self, tensors):
        """Outputs of the model for inputs `(1, ...)`."""
        values = [
            Value(x, True if self.step and i in self.timed_inputs else None, frozenset([i]))
            for i, x in enumerate(tensors)
        ]
        with dynamics.assume_finite():
            outputs = tree.flatten(self.nested(self.model, values))
        self.timed_outputs = [output.timed for output in outputs]
        if self.step:
            return [output.tensor for output in outputs]
        return [
            ops.expand_dims(self.repeated(output), 0) if output.timed else output.tensor
            for output in outputs
        ]

    def nested(self, model, values):
        """A model, or a model in the model."""
        graph = getattr(model, "_functional", None) or model
        if not hasattr(graph, "_run_through_graph"):
            raise TypeError(
                f"Only functional and Sequential models can be exported; {self.prefix}{model.name} "
                f"is a {type(model).__name__}."
            )
        return graph._run_through_graph(values, operation_fn=lambda layer: self.rule(layer))

    def rule(self, layer):
        """What takes the place of a layer."""

        def apply(*args, **kwargs):
            if isinstance(layer, keras.Model):
                outer, self.prefix = self.prefix, f"{self.prefix}{layer.name}/"
                outputs = self.nested(layer, tree.flatten(args))
                self.prefix = outer
                return outputs
            for classes, rule in RULES:
                if isinstance(layer, classes):
                    return rule(self, layer, *args, **kwargs)
            return self.plain(layer, *args, **kwargs)

        return apply

    def plain(self, layer, *args, **kwargs):
        """A layer that knows nothing of time."""
        values = [v for v in tree.flatten((args, kwargs)) if isinstance(v, Value)]
        known = {v.timed for v in values}
        if True in known:
            if not _pointwise(layer):
                raise self.unsupported(layer, "wrap it in `FoldTime` if it treats each step alone")
            values = [self.timed(v) for v in values]
        constant = all(v.constant for v in values) and True in known
        timed = True if True in known else None if _pointwise(layer) and None in known else False

        def unwrap(v):
            if not isinstance(v, Value):
                return v
            v = self.timed(v) if timed else v
            return v.tensor if constant else self.repeated(v)

        args, kwargs = tree.map_structure(unwrap, (args, kwargs))
        outputs = layer(*args, **kwargs)
        inputs = frozenset().union(*(v.inputs for v in values)) if timed is None else frozenset()
        return tree.map_structure(lambda x: Value(x, timed, inputs, constant), outputs)

    def timed(self, value):
        """A value whose first axis is time."""
        if value.timed is None:
            self.timed_inputs |= value.inputs
            tensor = value.tensor
            if not self.step:
                tensor = ops.reshape(tensor, tensor.shape[1:])
            return Value(tensor, True)
        if not value.timed:
            raise ValueError(
                f"{self.model.name!r} hands something without a time axis to a layer on sequences."
            )
        return value

    def repeated(self, value):
        """Its tensor, with as many steps as there are."""
        if not value.constant or self.step:
            return value.tensor
        return ops.concatenate([value.tensor] * self.timesteps, axis=0)

    def unstacked(self, value):
        """Its steps, each `(1, ...)`."""
        if self.step or value.constant:
            return [value.tensor] * (1 if self.step else self.timesteps)
        steps = value.tensor.shape[0]
        return ops.split(value.tensor, steps, axis=0) if steps > 1 else [value.tensor]

    def unsupported(self, layer, hint):
        """The error for a layer that can't be exported."""
        return TypeError(
            f"The layer {self.prefix}{layer.name} ({type(layer).__name__}) can't be exported: "
            f"{hint}."
        )

    def state(self, name, first):
        """The state `name` before this step, and a function to give the one after it.

        Before the first step of a clip it is `None` where it is zero.
        """
        first = np.asarray(first, "float32")
        self.initial[name] = first
        if self.step:
            return self.old.get(name, first)
        return None if not first.any() else ops.convert_to_tensor(first)

    def time(self):
        """Index of this step."""
        now = self.state("time", np.zeros(1))
        self.states["time"] = now + 1
        return now


def _pointwise(layer):
    if isinstance(layer, (keras.layers.Concatenate, keras.layers.LayerNormalization)):
        return layer.axis in (-1, [-1])
    if isinstance(layer, keras.layers.Layer):
        return isinstance(layer, POINTWISE)
    return type(layer).__name__ in POINTWISE_OPS


def _channels_last(layer):
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise TypeError(
            f"The layer {layer.name} is channels-first, which TensorFlow Lite does not run: build "
            "the model with `keras.config.set_image_data_format('channels_last')`."
        )


def _fold_time(walk, layer, x, **kwargs):
    x = walk.timed(x)
    _channels_last(layer.layer)
    return Value(layer.layer(x.tensor), True, constant=x.constant)


def _repeat_time(walk, layer, x):
    return Value(x.tensor, True, constant=True)


def _encoder(walk, layer, x):
    if walk.step:
        raise walk.unsupported(layer, "one step does not tell which it is; encode before the model")
    if isinstance(layer, snn.PoissonEncoder):
        raise walk.unsupported(layer, "it draws random numbers; encode before the model")
    tensor = walk.repeated(walk.timed(x)) if isinstance(layer, snn.DeltaEncoder) else x.tensor
    tensor = tensor[None] if isinstance(layer, snn.DeltaEncoder) else tensor
    tensor = layer(tensor)
    return Value(ops.reshape(tensor, tensor.shape[1:]), True)


def _identity(walk, layer, x, **kwargs):
    return x


def _affine(walk, layer, x, scale, shift):
    """`scale * x + shift`, of shape `(time, channels)`, where one row is for all steps."""
    x = walk.timed(x)
    if layer.axis not in (-1, len(x.tensor.shape) - 1):
        raise walk.unsupported(layer, "its channels are not the last axis")
    shape = (-1, *[1] * (len(x.tensor.shape) - 2), scale.shape[-1])
    scale, shift = (np.reshape(a, shape).astype("float32") for a in (scale, shift))
    if len(scale) == 1:
        return Value(x.tensor * scale + shift, True, constant=x.constant)
    if walk.step:
        now = ops.cast(ops.minimum(walk.time(), len(scale) - 1.0), "int32")
        scale, shift = ops.take(scale, now, axis=0), ops.take(shift, now, axis=0)
    return Value(walk.repeated(x) * scale + shift, True)


def _numpy(value):
    """A number as it is, a tensor or weight as an array: as it stands now, not in the graph."""
    import tensorflow as tf

    if isinstance(value, (int, float)):
        return value
    with tf.init_scope():
        return ops.convert_to_numpy(value() if callable(value) else value)


def _statistics(layer):
    """Scale, shift and shift before the mean of a Keras batch normalisation in inference."""
    mean, variance = _numpy(layer.moving_mean), _numpy(layer.moving_variance)
    scale = 1 / np.sqrt(variance.astype("float64") + layer.epsilon)
    scale = scale * _numpy(layer.gamma) if layer.scale else scale
    beta = _numpy(layer.beta) if layer.center else np.zeros_like(mean)
    return scale, beta - mean * scale, beta


def _folded_normalization(walk, layer, x, **kwargs):
    scale, shift, beta = _statistics(layer)
    rows = np.ones((1, 1))
    if isinstance(layer, snn.ThresholdDependentBatchNormalization):
        factor = layer.alpha * layer.threshold
        scale, shift = factor * scale, factor * (shift - beta) + beta
    if isinstance(layer, snn.TemporalEffectiveBatchNormalization):
        rows = _numpy(layer.step_scale)[:, None]
    return _affine(walk, layer, x, rows * scale, rows * shift)


def _normalization_through_time(walk, layer, x, **kwargs):
    found = [_statistics(step) for step in layer.steps]
    return _affine(walk, layer, x, np.stack([f[0] for f in found]), np.stack([f[1] for f in found]))


def _parallel(walk, layer, x, **kwargs):
    if walk.step:
        raise walk.unsupported(layer, "it needs all steps at once")
    spikes = layer(walk.repeated(walk.timed(x))[None])[0]
    walk.spikes[walk.prefix + layer.name] = spikes
    return Value(spikes, True)


def _neuron(walk, layer, x, initial_state=None, **kwargs):
    if layer.go_backwards or layer.return_state or initial_state is not None:
        raise walk.unsupported(
            layer, "`go_backwards`, `return_state` and `initial_state` are for training"
        )
    x, cell, name = walk.timed(x), layer.cell, walk.prefix + layer.name
    shape = (1, *x.tensor.shape[1:])
    first = _first_states(cell, shape)
    names = [f"{name}/state_{i + 1}" if i else f"{name}/membrane" for i in range(len(first))]
    linear = _linear_step(cell, walk.floor)
    states = [walk.state(n, v) for n, v in zip(names, first)]
    if linear is None:
        states = [ops.convert_to_tensor(f) if s is None else s for s, f in zip(states, first)]
        prepared, step = x, _general_step(cell)
    else:
        prepare, step = linear
        prepared = Value(prepare(x.tensor), True, constant=x.constant)
    outputs = []
    for current in walk.unstacked(prepared):
        output, states = step(current, states)
        outputs.append(output)
    if walk.step:
        walk.states |= dict(zip(names, states))
    spikes = ops.concatenate(outputs, axis=0) if len(outputs) > 1 else outputs[0]
    if is_spiking(layer) and layer.return_sequences:
        walk.spikes[name] = spikes
        walk.thresholds[name] = getattr(cell, "threshold", None)
    if layer.return_sequences:
        return Value(spikes, True)
    return Value(outputs[-1], False)


def _first_states(cell, shape):
    """States before the first step, as arrays."""
    import tensorflow as tf

    with tf.init_scope():
        plain = isinstance(cell, snn.NeuronCell)
        states = cell.initial_states(ops.zeros(shape)) if plain else cell.get_initial_state(1)
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
        parts = cell.fused_spec() if isinstance(cell, snn.SpikingCell) else None
        if parts is None:
            return None
        form, fire, threshold = parts
        threshold = _numpy(threshold)
        decay, gain = form.slopes(None if form.rate is None else _numpy(form.rate))
    pull = form.v_rest * (1 - decay) if isinstance(form, spec.Leak) else 0.0

    def prepare(x):
        x = x if np.all(np.equal(gain, 1)) else x * _constant(gain)
        return x + _constant(pull) if np.any(pull) else x

    def step(x, states):
        (v,) = states
        if v is not None and np.any(np.not_equal(decay, 1)):
            v = v * _constant(decay)
        h = x if v is None else v + x
        if floor and not fire.strict:
            share = h if np.all(np.equal(threshold, 1)) else h / _constant(threshold)
            spikes = ops.clip(ops.floor(share), 0, 1)
        else:
            spikes = ops.cast(h > threshold if fire.strict else h >= threshold, h.dtype)
        # Products, never a choice by `where`: quantised, that would cut the potential off.
        if fire.reset == "hard":
            h = h - h * spikes
            h = h + spikes * fire.v_reset if fire.v_reset else h
        elif fire.reset == "soft":
            h = h - spikes * _constant(threshold)
        return spikes, [h]

    return prepare, step


def _constant(value):
    return np.asarray(value, "float32")


def _over_time(walk, layer, x, **kwargs):
    x = walk.timed(x)
    if walk.step:
        return Value(_reduced_step(walk, layer, x.tensor), False)
    if x.constant and isinstance(layer, (snn.MeanOverTime, snn.MaxOverTime, snn.LastOverTime)):
        return Value(x.tensor, False)
    tensor = walk.repeated(x)
    if isinstance(layer, snn.MeanOverTime):
        return Value(ops.mean(tensor, axis=0, keepdims=True), False)
    if isinstance(layer, snn.MaxOverTime):
        return Value(ops.max(tensor, axis=0, keepdims=True), False)
    if isinstance(layer, snn.LastOverTime):
        return Value(walk.unstacked(x)[-1], False)
    if isinstance(layer, snn.SumOverTime):
        return Value(ops.sum(tensor, axis=0, keepdims=True), False)
    waiting, total = 1.0, 0.0
    for spikes in walk.unstacked(x):  # FirstSpikeTime
        waiting = waiting * (1 - spikes)
        total = total + waiting
    return Value(total, False)


def _reduced_step(walk, layer, x):
    """A readout so far: after T steps it is that of the clip."""
    name = walk.prefix + layer.name
    zeros = np.zeros(x.shape)
    if isinstance(layer, snn.LastOverTime):
        return x
    if isinstance(layer, snn.MaxOverTime):
        y = ops.maximum(walk.state(f"{name}/maximum", zeros + LOWEST), x)
        walk.states[f"{name}/maximum"] = y
        return y
    if isinstance(layer, snn.FirstSpikeTime):
        waiting = walk.state(f"{name}/waiting", zeros + 1) * (1 - x)
        walk.states[f"{name}/waiting"] = x = waiting
    y = walk.state(f"{name}/total", zeros) + x
    walk.states[f"{name}/total"] = y
    return y * _constant(1 / walk.timesteps) if isinstance(layer, snn.MeanOverTime) else y


# Below all potentials, and a number that integers can be scaled to.
LOWEST = -1e3


def _membrane_readout(walk, layer, x, **kwargs):
    outer, walk.prefix = walk.prefix, f"{walk.prefix}{layer.name}/"
    output = _over_time(walk, layer.reduce, _neuron(walk, layer.integrator, x))
    walk.prefix = outer
    return output


def _time_distributed(walk, layer, x, **kwargs):
    return _fold_time(walk, layer, x)


def _refused(walk, layer, *args, **kwargs):
    raise walk.unsupported(layer, "masks are for training; give clips of one length")


RULES = (
    (snn.FoldTime, _fold_time),
    (keras.layers.TimeDistributed, _time_distributed),
    (snn.SpikingRNN, _neuron),
    (snn.TimeConstantDropout, _identity),
    (_Encoder, _encoder),
    (snn.RepeatTime, _repeat_time),
    (snn.MembraneReadout, _membrane_readout),
    (_OverTime, _over_time),
    (_FoldedBatchNormalization, _folded_normalization),
    (snn.BatchNormalizationThroughTime, _normalization_through_time),
    (_Parallel, _parallel),
    (keras.layers.Masking, _refused),
)
