"""Spiking residual connections, and recurrent ones."""

import keras
from keras import ops

from keras_snn import dynamics
from keras_snn.layers.base import NeuronCell
from keras_snn.layers.rnn import Neuron, state_names
from keras_snn.utils.arguments import Configured, check_choice, freeze

__all__ = ["Recurrent", "RecurrentCell", "SpikeConnection"]


@keras.saving.register_keras_serializable(package="keras_snn")
class SpikeConnection(Configured, keras.layers.Layer):
    """Joins a residual branch `A` and its shortcut `S`, spikes of the same shape.

    Args:
        mode: `"add"` (`A + S`), `"and"` (`A S`), `"iand"` (`(1 - A) S`), `"reverse_iand"`
            (`A (1 - S)`, what SpikingJelly's bottleneck blocks do), `"or"` (`A + S - A S`) or
            `"xor"` (`A (1 - S) + S (1 - A)`). `"add"` gives integers, the others spikes.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: The list `[branch, shortcut]`.

    Raises:
        ValueError: If `mode` is unknown, or the inputs are not two tensors of one shape.

    Source: SEW-ResNet (Fang et al., 2021).

    Example:

    >>> ones = keras.ops.ones((1, 2, 3))
    >>> float(keras.ops.sum(SpikeConnection("iand")([ones, ones])))
    0.0
    """

    def __init__(self, mode="add", **kwargs):
        super().__init__(**kwargs)
        self.mode = check_choice("mode", mode, dynamics.CONNECTIONS)
        self.supports_masking = True

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def build(self, input_shape):
        if len(input_shape) != 2 or any(
            None not in sizes and sizes[0] != sizes[1] for sizes in zip(*input_shape)
        ):
            raise ValueError(
                f"{self.name} expects a list of two tensors of the same shape, got the shapes "
                f"{input_shape}."
            )
        self.built = True

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def call(self, inputs):
        branch, shortcut = inputs
        return dynamics.connect(branch, shortcut, self.mode)

    def get_config(self):
        return super().get_config() | {"mode": self.mode}


class RecurrentCell(NeuronCell):
    """A cell that also receives its own last spikes through a connection, one step.

    Args:
        neuron: A cell, such as `LIFCell()`.
        connection: A Keras layer from the neuron's output to its input, of the same shape:
            `keras.layers.Dense(features)`, `keras.layers.Conv2D(channels, 3, padding="same")`, ...
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Source: snnTorch `RLeaky`, Spyx `RLIF`.
    """

    def __init__(self, neuron, connection, **kwargs):
        super().__init__(**kwargs)
        self.neuron = _layer("neuron", neuron)
        self.connection = _layer("connection", connection)
        freeze(self, self.neuron, self.connection)
        if not isinstance(self.neuron, NeuronCell):
            raise TypeError(
                "Received an invalid value for argument `neuron`, expected a cell such as "
                f"`LIFCell()`, got {neuron!r}."
            )
        self.initial_values = (*self.neuron.initial_values, 0.0)
        self.state_names = (*state_names(self.neuron), "spikes")

    def build(self, input_shape):
        for layer in (self.neuron, self.connection):
            if not layer.built:  # one from a config of a built layer is
                layer.build(input_shape)
        shape = tuple(self.connection.compute_output_shape(input_shape))
        if shape[1:] != tuple(input_shape)[1:]:
            raise ValueError(
                f"The recurrent connection of {self.name} must keep the shape "
                f"{tuple(input_shape)}, got {shape}."
            )
        super().build(input_shape)

    def initial_states(self, x):
        return [*self.neuron.initial_states(x), ops.zeros_like(x)]

    def step(self, x, states):
        *states, spikes = states
        feedback = ops.cast(self.connection(spikes), x.dtype)
        spikes, states = self.neuron.step(x + feedback, states)
        return spikes, [*states, spikes]

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        own = {"neuron": serialize(self.neuron), "connection": serialize(self.connection)}
        return self.accepted(super().get_config() | own)


def _layer(name, value):
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if not isinstance(value, keras.layers.Layer):
        raise TypeError(
            f"Received an invalid value for argument `{name}`, expected a layer, got {value!r}."
        )
    return value


class Recurrent(Neuron, cell=RecurrentCell):
    """A neuron with recurrent connections: its own last spikes are part of its input.

    Example:

    >>> from keras_snn.layers import LIFCell
    >>> layer = Recurrent(LIFCell(tau=2.0), keras.layers.Conv2D(3, 3, padding="same"))
    >>> layer(keras.ops.ones((2, 5, 8, 8, 3))).shape == (2, 5, 8, 8, 3)
    True
    """
