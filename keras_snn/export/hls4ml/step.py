"""The network of one step: layers of Keras that hls4ml knows, neurons and readouts of ours."""

import re

import keras
import numpy as np
from keras import ops

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.layers.base import NeuronCell, SpikingCell

__all__ = ["Affine", "Membrane", "Reduction", "step_model"]

# Layers of Keras, on one step, that hls4ml's own handlers take.
COPIED = (
    keras.layers.Add,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.ReLU,
)


class _Stand(keras.layers.Layer):
    """A layer that stands for one of ours; what it computes is in the template."""

    def __init__(self, constants, **kwargs):
        super().__init__(**kwargs)
        self.constants = constants

    def call(self, x):
        return x

    def get_config(self):  # hls4ml saves the model beside the project
        return super().get_config() | {"constants": self.constants}


class Affine(_Stand):
    """`scale * x + shift`, for each channel."""


class Membrane(_Stand):
    """`h = decay v + gain x + shift`, then what fires and resets; or `h` itself."""


class Reduction(_Stand):
    """The readout so far: `scale` times the sum of all steps, or their largest value."""


def step_model(model, timesteps):
    """The network of one step.

    Args:
        model: A functional or Sequential model with one input.
        timesteps: Steps of a clip, by which means are divided.

    Returns:
        A functional model, from one step to the outputs so far; on images from the image.

    Raises:
        TypeError: If a layer can't be written; it is named.
    """
    trace = graph.trace(model, timesteps)
    if len(trace.inputs) != 1:
        raise TypeError(f"hls4ml takes models with one input here, got {model.name!r}.")
    traced = {call.name: call for call in trace.calls}
    shape = trace.inputs[0].shape[2 if trace.timed[0] else 1 :]
    inputs = keras.Input(shape, name="step_input")
    names = _Names()

    def rule(call):
        rewrite = next((r for known, r in REWRITES if known(traced[call.name])), None)
        if rewrite is None:
            raise refusal(call, "it has no template")
        return rewrite(call, traced[call.name], names, timesteps)

    outputs = graph.run(model, inputs, rule)
    if not isinstance(outputs, keras.KerasTensor):
        raise TypeError(f"hls4ml takes models with one output here, got {model.name!r}.")
    return keras.Model(inputs, outputs, name="step")


def refusal(call, reason):
    """The error for a layer that can't be written."""
    kind = type(getattr(call.layer, "cell", call.layer)).__name__
    return TypeError(f"{call.name} ({kind}) can't be written for hls4ml: {reason}.")


class _Names:
    """Names that C++ takes, each once."""

    def __init__(self):
        self.taken = set()

    def __call__(self, name):
        legal = re.sub(r"\W", "_", name)
        legal = legal if legal[0].isalpha() else f"layer_{legal}"
        while legal in self.taken:
            legal += "_"
        self.taken.add(legal)
        return legal


def _copied(call, traced, names, timesteps):
    if traced.reads_time and not call.each_step and traced.time != "pointwise":
        kinds = (keras.layers.Dense, keras.layers.Add)  # on sequences what they are on steps
        if not isinstance(call.layer, kinds):
            raise refusal(call, "it is on whole sequences; wrap it in FoldTime")
    layer = call.layer
    if traced.masks:
        raise refusal(call, "it takes a mask")
    if getattr(layer, "data_format", None) == "channels_first":
        raise refusal(call, "hls4ml has channels last")
    if getattr(layer, "groups", 1) != 1:
        raise refusal(call, "it has groups")
    if getattr(layer, "activation", None) not in (None, *ACTIVATIONS):
        raise refusal(call, f"its activation is {layer.activation.__name__}")
    if isinstance(layer, keras.layers.Concatenate) and traced.reads_time and layer.axis == 1:
        raise refusal(call, "it joins steps")
    config = layer.get_config() | {"name": names(call.name)}
    if isinstance(layer, keras.layers.Concatenate) and traced.reads_time and layer.axis > 1:
        config["axis"] = layer.axis - 1
    copy = type(layer).from_config(config)
    outputs = copy(call.args[0])
    copy.set_weights(layer.get_weights())
    return outputs


ACTIVATIONS = (keras.activations.linear, keras.activations.relu)


def _folded(call, traced, names, timesteps):
    axis = getattr(call.layer, "axis", -1)
    axis = axis[0] if isinstance(axis, (list, tuple)) else axis
    if axis not in (-1, len(traced.input.shape) - 1):
        raise refusal(call, "hls4ml has channels last")
    scale, shift = graph.normalization(call.layer)
    constants = {"scale": scale, "shift": np.broadcast_to(shift, scale.shape)}
    return Affine(constants, name=names(call.name))(call.input)


def _neuron(call, traced, names, timesteps):
    layer = call.layer
    if traced.masks or call.argument("initial_state") is not None:
        raise refusal(call, "it takes a mask or an initial state")
    if layer.go_backwards or layer.return_state:
        raise refusal(call, "it runs backwards or returns its state")
    return _membrane(call, layer.cell, names(call.name), timesteps)


def _membrane(call, cell, name, window):
    """The step of a cell whose charge is linear."""
    spikes = isinstance(cell, SpikingCell)
    fused = cell.fused_spec() if spikes else None
    if not (spikes and fused) and (spikes or _charge_of(cell) is None):
        raise refusal(call, "its charge is not linear, or it fires or resets in a way of its own")
    charge, fire, threshold = fused or (cell.linear_charge(), None, 0.0)
    decay, gain = charge.slopes(charge.rate)
    shape = call.input.shape[1:]

    def constant(value):
        value = np.asarray(ops.convert_to_numpy(value), "float64")
        return np.broadcast_to(value, shape).ravel()

    constants = {
        "window": window,
        "decay": constant(decay),
        "gain": constant(gain),
        # What is left for v = x = 0: the leak to v_rest.
        "shift": (1 - constant(decay)) * charge.v_rest,
        "threshold": constant(threshold),
        "first": float(cell.v_reset),
        "fires": fire is not None,
        "strict": fire is not None and fire.strict,
        "reset": "none" if fire is None else fire.reset,
    }
    return Membrane(constants, name=name)(call.input)


def _charge_of(cell):
    """The linear charge of an integrator, `None` of others."""
    known = isinstance(cell, NeuronCell) and type(cell).step is NeuronCell.step
    return cell.linear_charge() if known and len(cell.initial_values) == 1 else None


def _read(call, traced, names, timesteps):
    if traced.masks:
        raise refusal(call, "it takes a mask")
    x, layer = call.input, call.layer
    if isinstance(layer, snn.MembraneReadout):
        x = _membrane(call, layer.integrator.cell, names(f"{call.name}_integrator"), timesteps)
        layer = layer.reduce
    if isinstance(layer, snn.LastOverTime):
        return x
    if layer.reduce not in REDUCTIONS:
        raise refusal(call, "nobody has said how it goes on from step to step")
    constants = {"window": timesteps} | REDUCTIONS[layer.reduce](timesteps)
    return Reduction(constants, name=names(call.name))(x)


# What readouts are, by the number of steps: whether the largest value is kept, a factor of the sum.
REDUCTIONS = {
    snn.SumOverTime.reduce: lambda steps: {"largest": False, "scale": 1.0},
    snn.MeanOverTime.reduce: lambda steps: {"largest": False, "scale": 1 / steps},
    snn.MaxOverTime.reduce: lambda steps: {"largest": True, "scale": 1.0},
}


def _vote(call, traced, names, timesteps):
    """A mean of groups, as a dense layer."""
    size, votes = call.input.shape[-1], call.layer.votes
    dense = keras.layers.Dense(size // votes, use_bias=False, name=names(call.name))
    outputs = dense(call.input)
    dense.set_weights([np.kron(np.eye(size // votes), np.full((votes, 1), 1 / votes))])
    return outputs


def _same(call, traced, names, timesteps):
    return call.input


# What is done with a call, the first that holds.
REWRITES = (
    (lambda call: call.role.idle, _same),
    (lambda call: type(call.layer) is snn.RepeatTime, _same),  # encoders are kinds of it
    (lambda call: call.role.folds, _folded),
    (lambda call: isinstance(call.layer, snn.Voting), _vote),
    (lambda call: isinstance(call.layer, snn.SpikingRNN), _neuron),
    (
        lambda call: call.time == "removes" and isinstance(call.layer, READOUTS),
        _read,
    ),
    (lambda call: type(call.layer) in COPIED, _copied),
)
READOUTS = (
    snn.LastOverTime,
    snn.MaxOverTime,
    snn.MeanOverTime,
    snn.MembraneReadout,
    snn.SumOverTime,
)
