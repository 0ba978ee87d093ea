"""Initialisers for layers in front of spiking neurons.

Keras's initialisers keep the variance of activations. A spiking neuron needs more: if its
currents do not reach the threshold, it stays silent, and so do all later layers.
"""

import statistics

import keras
import numpy as np
from keras import ops

from keras_snn.layers.registry import get_neuron
from keras_snn.utils.arguments import check_integer, check_number

__all__ = ["FiringRateScaling"]

# Quantiles of a standard normal distribution: currents of a layer, in units of their deviation.
_QUANTILES = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)])


@keras.saving.register_keras_serializable(package="keras_snn")
class FiringRateScaling(keras.initializers.VarianceScaling):
    """Normal weights, and biases, with which the neurons behind a layer fire at a given rate.

    Give it to a layer as `kernel_initializer` and as `bias_initializer`. Biases (tensors of one
    axis) become a constant current `b` just below what makes the neuron fire, so that smaller
    weights suffice. The weights of a layer with `n` inputs get the variance `(s / m)^2 / n`. `s` is
    the standard deviation of constant currents, normally distributed around `b` over the neurons,
    at which these fire with the mean `rate`; of a LIF both follow from the threshold, `tau` and the
    number of steps. `m` is the root mean square of the inputs: `input_rms`, or by default that of
    the rates of such neurons, so that in a stack of layers each fires about as often as the one
    before.

    Layers with a normalisation in front of the neurons don't need this. For a depthwise convolution
    Keras counts the inputs of all channels: divide `input_rms` by the square root of their number.

    Args:
        neuron: The neuron behind the layer, as `keras_snn.layers.get_neuron` takes it.
        rate: Mean firing rate to reach, spikes for each neuron and step, above 0.
        timesteps: Number of steps, T.
        input_rms: Root mean square of the layer's inputs, above 0; for standardised data 1. By
            default the inputs are spikes of the same kind of neuron at the same rate.
        bias: The current `b`, as a fraction of the smallest constant current that makes the neuron
            fire within `timesteps`, from 0 to below 1. Use 0 for a layer without biases.
        seed: Optional seed.

    Attributes:
        bias_current: The current `b`.
        current_std: The standard deviation `s`.

    Raises:
        ValueError: If the neuron can't reach the rate with any variance. Most reach less than 0.5,
            as about half of the currents are below `b`.

    Source: ours, a mean-field estimate for inputs that are constant over time.

    Example:

    >>> fires = FiringRateScaling("lif", timesteps=8, input_rms=1.0)
    >>> layer = keras.layers.Dense(64, kernel_initializer=fires, bias_initializer=fires)
    >>> print(round(fires.bias_current, 1), round(fires.current_std, 1))
    0.8 0.8
    """

    def __init__(self, neuron="lif", rate=0.2, timesteps=16, input_rms=None, bias=0.8, seed=None):
        self.neuron = get_neuron(neuron, name="neuron")
        self.rate = check_number("rate", rate, above=0)
        self.timesteps = check_integer("timesteps", timesteps)
        self.input_rms = input_rms
        if input_rms is not None:
            check_number("input_rms", input_rms, above=0)
        self.bias = check_number("bias", bias, minimum=0, maximum=0.999)
        currents, rates = _response(self.neuron, self.timesteps)
        self.bias_current = bias * float(currents[np.argmax((currents > 0) & (rates > 0))])

        def response(std):
            return np.interp(self.bias_current + std * _QUANTILES, currents, rates)

        candidates = np.geomspace(1e-3, 1e3, 2001)
        reached = np.array([response(std).mean() for std in candidates])
        if not (reached >= rate).any():
            raise ValueError(
                "Received an invalid value for argument `rate`, expected at most "
                f"{reached.max():.3f}, which {type(self.neuron).__name__} reaches, got {rate}."
            )
        self.current_std = float(candidates[np.argmax(reached >= rate)])
        spikes_rms = np.sqrt((response(self.current_std) ** 2).mean())
        scale = float(self.current_std / (input_rms or spikes_rms)) ** 2
        super().__init__(scale, mode="fan_in", distribution="truncated_normal", seed=seed)

    def __call__(self, shape, dtype=None):
        """Weights, or biases if the shape has one axis."""
        if len(shape) == 1:
            return ops.full(shape, self.bias_current, dtype)
        return super().__call__(shape, dtype)

    def get_config(self):
        names = ("rate", "timesteps", "input_rms", "bias")
        return {
            "neuron": keras.saving.serialize_keras_object(self.neuron),
            **{name: getattr(self, name) for name in names},
            "seed": super().get_config()["seed"],
        }


def _response(neuron, timesteps):
    """Constant currents, and the rates at which a neuron fires with each."""
    positive = np.geomspace(1e-4, 1e4, 2001)
    currents = np.concatenate([-positive[::-1], [0.0], positive])
    sequence = np.repeat(currents[None, None].astype("float32"), timesteps, axis=1)
    spikes = neuron(sequence)
    if getattr(spikes, "shape", None) != sequence.shape:
        raise ValueError(
            "Received an invalid value for argument `neuron`, expected a layer that returns the "
            f"spikes of every step and nothing else, got {neuron}."
        )
    return currents, ops.convert_to_numpy(spikes).astype("float64").mean((0, 1))
