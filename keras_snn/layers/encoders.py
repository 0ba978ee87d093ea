"""Encoders: from values to spikes or currents over time.

All but `DeltaEncoder` turn a static input, `(batch, ...)`, into a sequence,
`(batch, timesteps, ...)`. Direct coding is `RepeatTime`.
"""

import keras
from keras import ops

from keras_snn.dynamics import keep_nan, saturate
from keras_snn.layers.time import RepeatTime, check_rank
from keras_snn.surrogates import heaviside
from keras_snn.utils.arguments import Configured, check_choice, check_integer, check_number

__all__ = [
    "DeltaEncoder",
    "ImpulseEncoder",
    "LatencyEncoder",
    "PhaseEncoder",
    "PoissonEncoder",
    "PopulationEncoder",
]


class _Encoder(Configured, keras.layers.Layer):
    """Computes in the variable dtype (float32 under mixed precision); `encode(x)` does it.

    Autocast would round the values first, and leave integers as they are.
    """

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("autocast", False)
        super().__init__(*args, **kwargs)

    def call(self, inputs):
        spikes = self.encode(ops.cast(inputs, self.variable_dtype))
        return ops.cast(spikes, self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_snn")
class PoissonEncoder(_Encoder, RepeatTime):
    """Rate coding: at each step a value `p` fires with probability `gain * |p|`, with its sign.

    `s[t] = sign(p) * [u < gain * |p|]`, `u` uniform in [0, 1), drawn anew for each step and call,
    in inference too. Values with `gain * |p| > 1` fire at every step. No gradient flows back.

    Args:
        timesteps: Number of steps, T.
        gain: Factor on the probability, above 0.
        signed: Whether negative values fire -1; else they stay silent.
        seed: Optional seed.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Source: Sengupta et al. (2019); Rathi et al. (2020); SpikingJelly `PoissonEncoder` (unsigned).

    Example:

    >>> spikes = PoissonEncoder(1000, seed=0)(keras.ops.array([[0.25, -1.0, 0.0]]))
    >>> rates = keras.ops.convert_to_numpy(keras.ops.mean(spikes, axis=1))[0]
    >>> abs(rates[0] - 0.25) < 0.06, float(rates[1]), float(rates[2])
    (np.True_, -1.0, 0.0)
    """

    def __init__(self, timesteps, gain=1.0, signed=True, seed=None, **kwargs):
        super().__init__(timesteps, **kwargs)
        self.gain = check_number("gain", gain, above=0)
        self.signed = bool(signed)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def encode(self, x):
        return self.fire(x, self.draw(x))

    def draw(self, x):
        """Uniform numbers from 0 to 1 for each step of `x`, `(batch, timesteps, ...)`."""
        shape = (ops.shape(x)[0], self.timesteps, *ops.shape(x)[1:])
        return keras.random.uniform(shape, dtype=x.dtype, seed=self.seed_generator)

    def fire(self, x, drawn):
        """The spikes of `x` for the numbers `drawn`."""
        x = ops.expand_dims(x, 1)
        fires = ops.cast(drawn < self.gain * (ops.abs(x) if self.signed else x), x.dtype)
        return keep_nan(fires * ops.sign(x) if self.signed else fires, x)

    def get_config(self):
        names = ("gain", "signed", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="keras_snn")
class ImpulseEncoder(_Encoder, RepeatTime):
    """All of a value at the first step, and nothing after it: `timesteps * x`, then zeros.

    The mean over time is `x`, as that of `RepeatTime`.

    Args:
        timesteps: Number of steps, T.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Source: the authors' code of Wu et al. (2020), which counts spikes where we take their mean.

    Example:

    >>> print(keras.ops.convert_to_numpy(ImpulseEncoder(3)(keras.ops.array([[0.5]])))[0, :, 0])
    [1.5 0.  0. ]
    """

    def encode(self, x):
        first = ops.cast(ops.arange(self.timesteps) == 0, x.dtype)
        first = ops.reshape(first, (-1, *[1] * (len(x.shape) - 1)))
        return self.timesteps * first * ops.expand_dims(x, 1)


@keras.saving.register_keras_serializable(package="keras_snn")
class LatencyEncoder(_Encoder, RepeatTime):
    """Time-to-first-spike coding: one spike for each value, the earlier the larger.

    Linear: at `t = round((T - 1) (1 - x))`. Logarithmic:
    `t = round(T - 1 - ln((e^(T - 1) - 1) x + 1))`. Values are clipped to [0, 1].

    Args:
        timesteps: Number of steps, T.
        mode: `"linear"` or `"log"`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Source: SpikingJelly `LatencyEncoder`.

    Example:

    >>> spikes = LatencyEncoder(3)(keras.ops.array([[0.0, 0.5, 1.0]]))
    >>> print(keras.ops.convert_to_numpy(spikes)[0])
    [[0. 0. 1.]
     [0. 1. 0.]
     [1. 0. 0.]]
    """

    def __init__(self, timesteps, mode="linear", **kwargs):
        super().__init__(timesteps, **kwargs)
        self.mode = check_choice("mode", mode, ("linear", "log"))

    def encode(self, x):
        x = ops.clip(x, 0, 1)
        last = self.timesteps - 1
        if self.mode == "linear":
            when = ops.round(last * (1 - x))
        else:
            # T - 1 - ln(...) with the large exponential divided out: it would overflow.
            small = ops.exp(ops.cast(-last, x.dtype))
            # Of many steps that is 0 in float32, and the logarithm of 0 minus infinity.
            when = ops.minimum(ops.round(-ops.log(x + (1 - x) * small)), last)
        steps = ops.reshape(ops.arange(self.timesteps), (-1, *[1] * (len(x.shape) - 1)))
        x, when = ops.expand_dims(x, 1), ops.expand_dims(ops.cast(when, "int32"), 1)
        return keep_nan(ops.cast(ops.cast(steps, "int32") == when, x.dtype), x)

    def get_config(self):
        return super().get_config() | {"mode": self.mode}


@keras.saving.register_keras_serializable(package="keras_snn")
class PhaseEncoder(_Encoder, RepeatTime):
    """Phase coding: the binary digits of a value, the most significant first.

    Step `t` (from 0) stands for `2^-(t + 1)`. Values are clipped to [0, 1 - 2^-T] and rounded down.

    Args:
        timesteps: Number of steps, T: of binary digits.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Source: Kim et al. (2018); SpikingJelly `WeightedPhaseEncoder`.

    Example:

    >>> print(keras.ops.convert_to_numpy(PhaseEncoder(3)(keras.ops.array([[0.625]])))[0, :, 0])
    [1. 0. 1.]
    """

    def encode(self, x):
        rest = ops.clip(x, 0, 1 - 2.0**-self.timesteps)
        digits = []
        for _ in range(self.timesteps):
            rest = 2 * rest
            digit = heaviside(rest - 1)
            rest = rest - digit
            digits.append(digit)
        return ops.stack(digits, axis=1)


@keras.saving.register_keras_serializable(package="keras_snn")
class DeltaEncoder(_Encoder):
    """Change coding of a sequence: a spike where the input rose by at least `threshold`.

    The value before the first step counts as 0.

    Args:
        threshold: Least change that fires, above 0.
        off_spikes: Whether a fall by at least `threshold` fires -1.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: `(batch, time, ...)`.

    Source: snnTorch `spikegen.delta`.

    Example:

    >>> x = keras.ops.array([[[0.0], [0.5], [0.6], [0.1]]])
    >>> print(keras.ops.convert_to_numpy(DeltaEncoder(0.4, off_spikes=True)(x))[0, :, 0])
    [ 0.  1.  0. -1.]
    """

    def __init__(self, threshold=0.1, off_spikes=False, **kwargs):
        super().__init__(**kwargs)
        self.threshold = check_number("threshold", threshold, above=0)
        self.off_spikes = bool(off_spikes)
        self.supports_masking = True

    def build(self, input_shape):
        check_rank(self, input_shape, minimum=2)
        self.built = True

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def encode(self, x):
        x = saturate(x)
        change = x - ops.concatenate([ops.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
        spikes = keep_nan(ops.cast(change >= self.threshold, x.dtype), change)
        if self.off_spikes:
            spikes = spikes - ops.cast(change <= -self.threshold, x.dtype)
        return spikes

    def get_config(self):
        names = ("threshold", "off_spikes")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="keras_snn")
class PopulationEncoder(_Encoder, RepeatTime):
    """Population coding: each value becomes the currents of several neurons, over time.

    Neuron `i` has the Gaussian receptive field `exp(-(x - centre_i)^2 / (2 sigma^2))`; centres are
    spread evenly from `minimum` to `maximum`. Feed the currents to a neuron for spikes.

    Args:
        timesteps: Number of steps, T.
        neurons: Neurons for each value, at least 2.
        minimum: Centre of the first neuron.
        maximum: Centre of the last neuron, above `minimum`.
        sigma: Width of the fields; by default the distance of two centres divided by 1.5.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: `(batch, ..., features)`.

    Returns:
        `(batch, timesteps, ..., features * neurons)`; the neurons of a value are neighbours.

    Source: Bohte et al. (2002), whose `gamma` is 1.5; that centres lie on the borders is ours.

    Example:

    >>> currents = PopulationEncoder(timesteps=1, neurons=3)(keras.ops.array([[0.5]]))
    >>> print(keras.ops.convert_to_numpy(currents)[0, 0].round(3))
    [0.325 1.    0.325]
    """

    def __init__(self, timesteps, neurons, minimum=0.0, maximum=1.0, sigma=None, **kwargs):
        super().__init__(timesteps, **kwargs)
        self.neurons = check_integer("neurons", neurons, minimum=2)
        self.minimum = check_number("minimum", minimum)
        self.maximum = check_number("maximum", maximum, above=minimum)
        self.sigma = sigma if sigma is None else check_number("sigma", sigma, above=0)

    def build(self, input_shape):
        if len(input_shape) < 2:
            raise ValueError(
                f"{self.name} expects inputs of rank 2 or more, (batch, ..., features), got the "
                f"shape {tuple(input_shape)}."
            )
        self.built = True

    def compute_output_shape(self, input_shape):
        features = None if input_shape[-1] is None else input_shape[-1] * self.neurons
        return super().compute_output_shape((*input_shape[:-1], features))

    def encode(self, x):
        distance = (self.maximum - self.minimum) / (self.neurons - 1)
        sigma = distance / 1.5 if self.sigma is None else self.sigma
        centres = ops.cast(ops.linspace(self.minimum, self.maximum, self.neurons), x.dtype)
        z = (ops.expand_dims(x, -1) - centres) / sigma
        currents = ops.exp(-0.5 * ops.square(z))
        shape = ops.shape(x)
        currents = ops.reshape(currents, (*shape[:-1], shape[-1] * self.neurons))
        return RepeatTime.call(self, currents)

    def get_config(self):
        names = ("neurons", "minimum", "maximum", "sigma")
        return super().get_config() | {name: getattr(self, name) for name in names}
