"""Initialisers: variances from closed forms, and rates of networks that are not trained."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_snn import layers as snn
from keras_snn.initializers import FiringRateScaling


def normal_rates(mean, std, needed):
    """Mean rate and mean squared rate of neurons with currents N(mean, std^2), by the periods.

    `needed[k - 1]` is the constant current from which a neuron fires every `k` steps.
    """
    timesteps, first, second, above = len(needed), 0.0, 0.0, math.inf
    for k, current in enumerate(needed, start=1):
        low, high = (math.erf((x - mean) / std / 2**0.5) for x in (current, above))
        share, rate = (high - low) / 2, (timesteps // k) / timesteps
        first, second, above = first + share * rate, second + share * rate**2, current
    return first, second


@pytest.mark.parametrize(
    ("neuron", "needed"),
    [
        # A constant current x charges to x (1 - (1 - 1 / tau)^k) in k steps from 0.
        (snn.LIF, lambda k: 1 / (1 - 0.5**k)),
        (lambda: snn.LIF(tau=5.0, threshold=0.3), lambda k: 0.3 / (1 - 0.8**k)),
        (lambda: snn.LIF(tau=5.0, decay_input=False), lambda k: 1 / (5 * (1 - 0.8**k))),
        (lambda: snn.IF(threshold=2.0), lambda k: 2 / k),
        (lambda: snn.DecayLIF(decay=0.5, threshold=0.5), lambda k: 0.5 / (2 * (1 - 0.5**k))),
    ],
)
@pytest.mark.parametrize("bias", [0.0, 0.8])
def test_weights_and_biases_are_those_of_the_closed_form(neuron, needed, bias):
    needed = [needed(k) for k in range(1, 7)]
    fires = FiringRateScaling(neuron(), rate=0.15, timesteps=6, bias=bias)
    assert fires.bias_current == pytest.approx(bias * needed[-1], rel=0.01)
    rate, square = normal_rates(fires.bias_current, fires.current_std, needed)
    assert rate == pytest.approx(0.15, rel=0.03)
    np.testing.assert_allclose(ops.convert_to_numpy(fires((7,))), fires.bias_current, rtol=1e-6)
    known = FiringRateScaling(neuron(), rate=0.15, timesteps=6, bias=bias, input_rms=2.0)
    for initializer, inputs in ((fires, square), (known, 4.0)):
        weights = ops.convert_to_numpy(initializer((50, 4000)))
        variance = fires.current_std**2 / inputs / 50
        assert weights.var() == pytest.approx(variance, rel=0.03)
        assert abs(weights.mean()) < 0.02 * variance**0.5


@pytest.mark.parametrize("bias", [0.0, 0.8])
def test_five_layers_fire_where_the_default_is_silent(bias):
    x = np.repeat(np.random.default_rng(0).normal(size=(64, 1, 32)), 8, axis=1)
    fires = FiringRateScaling("lif", timesteps=8, input_rms=1.0, bias=bias, seed=1)
    ours, default = x, x
    for seed in range(2, 7):
        dense = keras.layers.Dense(256, kernel_initializer=fires, bias_initializer=fires)
        ours = snn.LIF()(dense(ours))
        default = snn.LIF()(keras.layers.Dense(256)(default))
        assert 0.1 < float(ops.mean(ours)) < 0.3
        fires = FiringRateScaling("lif", timesteps=8, bias=bias, seed=seed)
    assert float(ops.mean(default)) == 0


def test_config_keeps_the_neuron():
    layer = keras.layers.Dense(
        3,
        kernel_initializer=FiringRateScaling(snn.LIF(tau=4.0, threshold=0.5), 0.1, 5, 2.0, 0.3, 7),
    )
    again = keras.layers.Dense.from_config(layer.get_config()).kernel_initializer
    assert (again.neuron.cell.tau, again.neuron.cell.threshold) == (4.0, 0.5)
    assert (again.rate, again.timesteps, again.input_rms, again.bias) == (0.1, 5, 2.0, 0.3)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(again((4, 3))), ops.convert_to_numpy(layer.kernel_initializer((4, 3)))
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0.0}, "`rate`"),
        ({"rate": 0.6}, "expected at most 0.[45].., which LIF reaches"),
        ({"neuron": snn.LeakyIntegrator()}, "LeakyIntegrator reaches"),
        ({"timesteps": 0}, "`timesteps`"),
        ({"input_rms": -1.0}, "`input_rms`"),
        ({"bias": 1.0}, "`bias`"),
        ({"neuron": snn.LIF(return_state=True)}, "spikes of every step"),
        ({"neuron": "nothing"}, "Unknown neuron"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FiringRateScaling(**arguments)
