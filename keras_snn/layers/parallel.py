"""Parallel spiking neurons: no reset, so that all steps are computed at once.

`h = W x + b` over the time axis, a spike where `h >= 0`. They have no cell, since a step is not
computed alone, and hold no state. Source: Fang et al. (2023); SpikingJelly `PSN`, `MaskedPSN`,
`SlidingPSN`.
"""

import math

import keras
from keras import KerasTensor, ops

from keras_snn import dynamics, surrogates
from keras_snn.layers.time import check_rank
from keras_snn.regularizers import tell
from keras_snn.utils.arguments import Configured, check_integer, check_mask, check_number

__all__ = ["PSN", "MaskedPSN", "SlidingPSN"]


def _uniform():
    """PyTorch's default for a linear layer: uniform within 1 / sqrt(fan in)."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


class _Parallel(Configured, keras.layers.Layer):
    """What the three share: the surrogate, masks, and firing at `h >= 0`."""

    def __init__(self, surrogate="atan", strict=False, **kwargs):
        # Charged in the variable dtype (float32 under mixed precision), as other membranes are.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.surrogate = surrogates.get(surrogate)
        self.strict = bool(strict)
        self.supports_masking = True

    def build(self, input_shape):
        check_rank(self, input_shape)
        self.add_weights(input_shape[1])
        self.built = True

    def _known(self, timesteps):
        if timesteps is None:
            raise ValueError(f"{self.name} needs a known number of steps, got `None`.")
        return timesteps

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def compute_output_spec(self, inputs, mask=None):
        check_mask(self.name, mask, inputs)
        return KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def call(self, inputs, mask=None):
        # Or steps that do not see an infinite one, by a weight of 0, would be NaN.
        inputs = dynamics.saturate(ops.cast(inputs, self.variable_dtype))
        if check_mask(self.name, mask, inputs) is not None:
            mask = ops.cast(mask, inputs.dtype)
            mask = ops.reshape(mask, (*ops.shape(mask), *[1] * (len(inputs.shape) - 2)))
            inputs = inputs * mask
        spikes = self.surrogate(self.charge(inputs), self.strict)
        spikes = ops.cast(spikes if mask is None else spikes * mask, self.compute_dtype)
        return tell(self, spikes, mask)

    def get_config(self):
        return super().get_config() | {
            "surrogate": surrogates.serialize(self.surrogate),
            "strict": self.strict,
        }


@keras.saving.register_keras_serializable(package="keras_snn")
class PSN(_Parallel):
    """Parallel spiking neuron: every step sees every step through a learned `(T, T)` matrix.

    Args:
        surrogate: Surrogate gradient: a name, a config or an object.
        strict: Whether `h = 0` stays silent.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: `(batch, time, ...)` with a known number of steps.
        mask: Optional `(batch, time)`; a masked step counts as 0 and emits no spikes.

    Raises:
        ValueError: If the number of steps is unknown, or changes.

    Example:

    >>> layer = PSN()
    >>> y = layer(keras.ops.ones((2, 4, 8)))
    >>> layer.count_params()
    20
    """

    def add_weights(self, timesteps):
        timesteps = self._known(timesteps)
        self.kernel = self.add_weight(
            name="kernel", shape=(timesteps, timesteps), initializer=_uniform(), autocast=False
        )
        self.bias = self.add_weight(
            name="bias",
            shape=(timesteps, 1),
            initializer=keras.initializers.Constant(-1.0),
            autocast=False,
        )

    def mixing(self):
        """The `(T, T)` matrix in force."""
        return ops.convert_to_tensor(self.kernel)

    def charge(self, x):
        shape = ops.shape(x)
        if shape[1] != self.kernel.shape[0]:
            raise ValueError(
                f"{self.name} was built for {self.kernel.shape[0]} timesteps, got {shape[1]}."
            )
        flat = ops.reshape(x, (-1, shape[1], math.prod(shape[2:])))
        return ops.reshape(ops.matmul(self.mixing(), flat) + self.bias, (-1, *shape[1:]))


@keras.saving.register_keras_serializable(package="keras_snn")
class MaskedPSN(PSN):
    """PSN whose matrix is masked to the `order` newest steps, so that it can run online.

    Args:
        order: Number of steps that a step sees, itself included.
        masking: Strength of the mask: 1 masks, 0 is a plain PSN, values between blend (the
            paper raises it from 0 to 1 in training; SpikingJelly starts at 0). It is a
            non-trainable weight: `layer.masking.assign(0.5)`.
        surrogate: Surrogate gradient: a name, a config or an object.
        strict: Whether `h = 0` stays silent.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Example:

    >>> MaskedPSN(order=2)(keras.ops.ones((2, 4, 8))).shape == (2, 4, 8)
    True
    """

    def __init__(self, order, masking=1.0, surrogate="atan", strict=False, **kwargs):
        super().__init__(surrogate=surrogate, strict=strict, **kwargs)
        self.order = check_integer("order", order)
        self.initial_masking = check_number("masking", masking, minimum=0, maximum=1)

    def add_weights(self, timesteps):
        super().add_weights(timesteps)
        self.masking = self.add_weight(
            name="masking",
            shape=(),
            initializer=keras.initializers.Constant(self.initial_masking),
            trainable=False,
            autocast=False,
        )

    def mixing(self):
        steps = ops.arange(self.kernel.shape[0])
        age = ops.expand_dims(steps, 1) - ops.expand_dims(steps, 0)
        kernel = super().mixing()
        band = ops.cast(ops.logical_and(age >= 0, age < self.order), kernel.dtype)
        return kernel * (self.masking * band + (1 - self.masking))

    def get_config(self):
        return super().get_config() | {"order": self.order, "masking": self.initial_masking}


@keras.saving.register_keras_serializable(package="keras_snn")
class SlidingPSN(_Parallel):
    """PSN that weighs the `order` newest steps with one vector, the same at every step.

    `h[t] = sum_i weight[i] x[t - order + 1 + i] + bias`, zeros before the start. Any number of
    steps, known or not.

    Args:
        order: Number of steps that a step sees, itself included.
        exponential: Whether weights start at 1 for the newest step, halving for each older one;
            else uniformly at random.
        surrogate: Surrogate gradient: a name, a config or an object.
        strict: Whether `h = 0` stays silent.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Example:

    >>> y = SlidingPSN(order=2)(keras.ops.array([[[0.5], [0.5], [1.0]]]))
    >>> print(keras.ops.convert_to_numpy(y)[0, :, 0])
    [0. 0. 1.]
    """

    def __init__(self, order, exponential=True, surrogate="atan", strict=False, **kwargs):
        super().__init__(surrogate=surrogate, strict=strict, **kwargs)
        self.order = check_integer("order", order)
        self.exponential = bool(exponential)

    def add_weights(self, timesteps):
        def halving(shape, dtype=None):
            return ops.cast(2.0 ** ops.arange(1 - self.order, 1, dtype="float32"), dtype)

        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.order,),
            initializer=halving if self.exponential else _uniform(),
            autocast=False,
        )
        self.bias = self.add_weight(
            name="bias",
            shape=(),
            initializer=keras.initializers.Constant(-1.0),
            autocast=False,
        )

    def charge(self, x):
        steps = ops.shape(x)[1]
        padding = [(0, 0)] * len(x.shape)
        padding[1] = (self.order - 1, 0)
        padded = ops.pad(x, padding)
        shifted = [padded[:, i : i + steps] for i in range(self.order)]
        return sum(self.kernel[i] * part for i, part in enumerate(shifted)) + self.bias

    def get_config(self):
        return super().get_config() | {"order": self.order, "exponential": self.exponential}
