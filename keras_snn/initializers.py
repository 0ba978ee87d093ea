"""Initialisers for layers in front of spiking neurons.

Keras's initialisers keep the variance of activations. A neuron needs more: currents that reach its
threshold, or it stays silent, and so do all layers behind it.
"""

import statistics

import keras
import numpy as np
from keras import ops

from keras_snn.layers.arguments import check_integer, check_number
from keras_snn.layers.registry import get_neuron

__all__ = ["FiringRateScaling"]

# Quantiles of a standard normal distribution: currents of a layer, in units of their deviation.
_QUANTILES = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)])


@keras.saving.register_keras_serializable(package="keras_snn")
class FiringRateScaling(keras.initializers.VarianceScaling):
    """Normal weights whose variance makes the neurons behind them fire at a given rate.

    The weights of a layer with `n` inputs get the variance `(s / m)^2 / n`. `s` is the standard
    deviation of constant currents, normally distributed around 0 over the neurons, at which these
    fire with the mean `rate`; for a LIF it follows from the threshold, `tau` and the number of
    steps. `m` is the root mean square of the inputs: `input_rms`, or by default that of the rates
    of such neurons, so that in a stack of layers each fires about as often as the one before.

    Biases should start at 0. Layers that are normalised in front of the neurons don't need this. Of
    a depthwise convolution Keras counts the inputs of all channels: multiply `input_rms` by
    `1 / sqrt(channels)`.

    Args:
        neuron: The neuron behind the layer, as `keras_snn.layers.get_neuron` takes it.
        rate: Mean firing rate to reach, spikes for each neuron and step, above 0.
        timesteps: Number of steps, T.
        input_rms: Root mean square of the layer's inputs, above 0; for standardised data 1. By
            default the inputs are spikes of the same kind of neuron at the same rate.
        seed: Optional seed.

    Raises:
        ValueError: If the neuron doesn't reach the rate with any variance; about half of the
            currents are negative, so most neurons stay below 0.5.

    Source: our reading; a mean-field estimate that takes the inputs as constant over time.

    Example:

    >>> initializer = FiringRateScaling("lif", timesteps=8)
    >>> layer = keras.layers.Dense(64, kernel_initializer=initializer)
    >>> print(round(initializer.current_std, 2))
    1.85
    """

    def __init__(self, neuron="lif", rate=0.2, timesteps=16, input_rms=None, seed=None):
        self.neuron = get_neuron(neuron)
        self.rate = check_number("rate", rate, above=0)
        self.timesteps = check_integer("timesteps", timesteps)
        self.input_rms = input_rms
        if input_rms is not None:
            check_number("input_rms", input_rms, above=0)
        self.current_std, spikes_rms = _normal_currents(self.neuron, self.rate, self.timesteps)
        scale = (self.current_std / (input_rms or spikes_rms)) ** 2
        super().__init__(scale, mode="fan_in", distribution="truncated_normal", seed=seed)

    def get_config(self):
        return {
            "neuron": keras.saving.serialize_keras_object(self.neuron),
            "rate": self.rate,
            "timesteps": self.timesteps,
            "input_rms": self.input_rms,
            "seed": super().get_config()["seed"],
        }


def _normal_currents(neuron, rate, timesteps):
    """The deviation of normal currents at which neurons fire at `rate`, and their rates' RMS."""
    positive = np.geomspace(1e-4, 1e4, 2001)
    currents = np.concatenate([-positive[::-1], [0.0], positive])
    sequence = np.repeat(currents[None, None].astype("float32"), timesteps, axis=1)
    spikes = neuron(sequence)
    if getattr(spikes, "shape", None) != sequence.shape:
        raise ValueError(
            "Received an invalid value for argument `neuron`, expected a layer that returns the "
            f"spikes of every step and nothing else, got {neuron}."
        )
    rates = ops.convert_to_numpy(spikes).astype("float64").mean((0, 1))

    def response(std):
        return np.interp(std * _QUANTILES, currents, rates)

    candidates = np.geomspace(1e-3, 1e3, 2001)
    reached = np.array([response(std).mean() for std in candidates])
    if not (reached >= rate).any():
        raise ValueError(
            f"Received an invalid value for argument `rate`, expected at most {reached.max():.3f}, "
            f"which is what {type(neuron).__name__} reaches with currents around 0, got {rate}."
        )
    std = float(candidates[np.argmax(reached >= rate)])
    return std, float(np.sqrt((response(std) ** 2).mean()))
