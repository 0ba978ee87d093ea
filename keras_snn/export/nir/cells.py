"""Neurons with the constants of NIR's nodes, one for each unit.

They stand for nodes that no other neuron of keras_snn can hold: constants that differ between the
units, a gain of the input, a leak to another potential than the reset's.
"""

import keras

from keras_snn import dynamics
from keras_snn.export.nir.common import FIELDS
from keras_snn.layers.base import NeuronCell, SpikingCell
from keras_snn.layers.rnn import Neuron
from keras_snn.utils.arguments import check_choice

__all__ = ["NIRIntegrator", "NIRIntegratorCell", "NIRNeuron", "NIRNeuronCell"]


RESTS = ("v_leak", "v_reset")


class _Constants:
    """A cell whose constants are weights, by NIR's names; times are in steps."""

    def __init__(self, node, **kwargs):
        super().__init__(**kwargs)
        self.node = check_choice("node", node, self.nodes)
        if "w_in" in FIELDS[node]:
            self.initial_values, self.state_names = (None, 0.0), ("membrane", "current")

    def build(self, input_shape):
        super().build(input_shape)
        self.constants = {
            name: self.add_parameter(name, float(name not in RESTS), "neuron", trainable=False)
            for name in FIELDS[self.node]
        }

    def initial_states(self, x):
        first = self.constants.get("v_reset", self.constants.get("v_leak", 0.0))
        return [
            keras.ops.zeros_like(x) + first,
            *(keras.ops.zeros_like(x) for _ in self.initial_values[1:]),
        ]

    def integrate(self, x, states):
        """The charged potential, and the states behind the potential."""
        constants, (v, *currents) = self.constants, states
        if self.node == "Threshold":
            return x, currents
        if currents:
            x = dynamics.lif_charge(currents[0], constants["w_in"] * x, constants["tau_syn"])
            currents = [x]
        x = constants["r"] * x
        tau = constants.get("tau", constants.get("tau_mem"))
        if tau is None:
            return dynamics.if_charge(v, x), currents
        return dynamics.lif_charge(v, x, tau, v_rest=constants["v_leak"]), currents


class NIRIntegratorCell(_Constants, NeuronCell):
    """A node of NIR that integrates and never fires, one step; the output is the potential.

    `I` is `v + r x`, `LI` is `v + (r x - (v - v_leak)) / tau`, `CubaLI` the same of the current
    `i <- i + (w_in x - i) / tau_syn`. The potential starts at `v_leak`, that of `I` at 0.

    Args:
        node: `"I"`, `"LI"` or `"CubaLI"`.

    Source: Pedersen et al. (2024), by one Euler step.
    """

    nodes = ("I", "LI", "CubaLI")

    def step(self, x, states):
        v, currents = self.integrate(x, states)
        return v, [v, *currents]


class NIRIntegrator(Neuron, cell=NIRIntegratorCell):
    """A node of NIR that integrates and never fires, its constants one for each unit.

    Example:

    >>> NIRIntegrator("I")(keras.ops.ones((1, 2, 3)))[0, :, 0].shape == (2,)
    True
    """

    defaults = {"zero_output_for_mask": False}


class NIRNeuronCell(_Constants, SpikingCell):
    """A node of NIR that fires, one step; its constants are weights, one for each unit.

    `IF`, `LIF` and `CubaLIF` integrate as `I`, `LI` and `CubaLI` of `NIRIntegratorCell` do, fire at
    `v_threshold` and are reset to `v_reset`, where they start too. `Threshold` fires where its
    input is above `threshold`. The numbers `threshold` and `v_reset` are not used.

    Args:
        node: `"IF"`, `"LIF"`, `"CubaLIF"` or `"Threshold"`.

    Source: Pedersen et al. (2024), by one Euler step.
    """

    nodes = ("IF", "LIF", "CubaLIF", "Threshold")

    @property
    def current_threshold(self):
        return self.constants["threshold" if self.node == "Threshold" else "v_threshold"]

    def step(self, x, states):
        h, currents = self.integrate(x, states)
        spikes = self.fire(h)
        v_reset = keras.ops.convert_to_tensor(self.constants.get("v_reset", 0.0))
        v = dynamics.reset_membrane(
            h, spikes, self.current_threshold, self.reset, v_reset, self.detach_reset
        )
        return spikes, [v, *currents]


class NIRNeuron(Neuron, cell=NIRNeuronCell):
    """A node of NIR that fires, its constants one for each unit.

    Example:

    >>> spikes = NIRNeuron("IF")(0.4 * keras.ops.ones((1, 3, 1)))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [0. 0. 1.]
    """
