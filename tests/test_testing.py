"""`check_neuron` passes sound neurons, and says what the others break."""

import keras
import numpy as np
import pytest
from helpers import first_everywhere
from keras import ops
from test_neurons import NEURONS

from keras_snn import layers
from keras_snn.testing import check_neuron


@pytest.mark.parametrize("name", first_everywhere("LIF", *sorted(NEURONS.keys() - {"LIF"})))
def test_neurons_of_the_library_are_sound(name):
    row = NEURONS[name]
    check_neuron(row.layer(**row.arguments), row.step)


class Remembering(layers.LIFCell):
    """A state that is none of Keras's."""

    calls = 0

    def charge(self, v, x):
        self.calls += 1
        return super().charge(v, x) + self.calls

    def linear_charge(self):
        return None


class Other(layers.LIFCell):
    """A fused form that is another neuron's."""

    def charge(self, v, x):
        return v + x

    def linear_charge(self):
        return super().linear_charge()


class Halting(layers.LIFCell):
    """No gradient."""

    def charge(self, v, x):
        return ops.stop_gradient(super().charge(v, x))

    def linear_charge(self):
        return None


class Undefined(layers.LIFCell):
    """A gradient that is no number."""

    def charge(self, v, x):
        return super().charge(v, x) + 1e-30 * ops.sqrt(0 * x)

    def linear_charge(self):
        return None


class Unknown(layers.LIFCell):
    """A layer that is not registered."""


def layer_of(cell):
    return type(cell.__name__ + "Neuron", (layers.Neuron,), {}, cell=cell)


BROKEN = {
    Remembering: "cell: keras.layers.RNN: \\d+ of 54 values differ",
    Other: "cell: keras.layers.RNN: ",
    Halting: "gradients: none",
    Undefined: "gradients: not finite",
    Unknown: "file: UnknownNeuron can't be loaded",
}


@pytest.mark.parametrize("cell", BROKEN)
def test_what_is_broken_is_named(cell):
    with pytest.raises(AssertionError, match=f"^{BROKEN[cell]}"):
        check_neuron(layer_of(cell))


def test_another_equation_is_named():
    with pytest.raises(AssertionError, match="equation: `step`"):
        check_neuron(layers.LIF, NEURONS["IF"].step)


def test_what_is_no_neuron_is_refused():
    with pytest.raises(TypeError, match=r"expected a layer .* got <class .*Dense'>"):
        check_neuron(keras.layers.Dense)
    with pytest.raises(ValueError, match=r"at least 4 steps, got one of shape \(2, 3, 5\)"):
        check_neuron(layers.LIF, inputs=np.ones((2, 3, 5)))
    with pytest.raises(ValueError, match="all outputs are 0.0"):
        check_neuron(layers.LIF, inputs=np.full((2, 4, 3), 0.5))
    with pytest.raises(ValueError, match="finite numbers, got inf"):
        check_neuron(layers.LIF, inputs=np.full((2, 4, 3), np.inf))


class Forgetting(layers.LIFCell):
    """An argument that is not in the configuration."""

    def __init__(self, gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.gain = gain

    def charge(self, v, x):
        return super().charge(v, self.gain * x)

    def linear_charge(self):
        return None

    def get_config(self):
        config = super().get_config()
        config.pop("gain", None)
        return config


@pytest.mark.once
def test_an_argument_that_the_configuration_forgets():
    with pytest.raises(AssertionError, match="^cell: keras.layers.RNN: "):
        check_neuron(layer_of(Forgetting)(gain=2.0))


@pytest.mark.once
@pytest.mark.parametrize("argument", ["go_backwards", "return_state", "stateful"])
def test_how_a_layer_goes_through_sequences_does_not_matter(argument):
    check_neuron(layers.LIF(**{argument: True}), NEURONS["LIF"].step)
    with pytest.raises(AssertionError, match="equation: `step`"):
        check_neuron(layers.IF(**{argument: True}), NEURONS["LIF"].step)
