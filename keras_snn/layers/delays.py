"""Delays: of each synapse or each channel, learned as places on the axis of time.

A delay of `d` steps, which need not be whole, weighs the last `max_delay + 1` steps by a Gaussian
around `d`: `share[n] = g(n) / sum_m g(m)`, `g(n) = exp(-((n - d) / sigma)^2 / 2)`. Its width
`sigma` shrinks while the delays are learned; `round_delays` makes them whole at the end, and each
then reads a single step. Before the first step there are zeros.

Source: Hammouamri, Khalfaoui-Hassani & Masquelier (2024), "Learning delays in spiking neural
networks using dilated convolutions with learnable spacings". Their position `p` in a kernel of `L`
taps is the delay `L // 2 - p`, their width `|SIG| + 0.27`; they add 1e-7 to the sum of the
Gaussians, which is less than a rounding of float32.
"""

import math

import keras
from keras import ops

from keras_snn.graph import flatten_layers
from keras_snn.layers.base import SHARING
from keras_snn.layers.time import check_rank
from keras_snn.utils.arguments import (
    Configured,
    check_choice,
    check_integer,
    check_mask,
    check_number,
)

__all__ = [
    "AxonalDelay",
    "DelayedConv1D",
    "DelayedConv2D",
    "DelayedDense",
    "round_delays",
    "shrinking_width",
]

# A width so small that only the nearest step has a share; that of whole delays.
NARROW = 1e-6


def round_delays(model):
    """Makes the delays of all layers of a model whole: the nearest step of each, and `sigma` 0.

    Do it once training ends: whole delays have no gradient. Where training goes on, with weights
    alone, compile anew: the momentum of the delays would move them on.

    Args:
        model: A model or layer; those within are found, in models and wrappers too.

    Raises:
        ValueError: If no layer has delays, or one is not built.

    Example:

    >>> layer = DelayedDense(3, max_delay=4)
    >>> _ = layer(keras.ops.ones((1, 5, 2)))
    >>> round_delays(layer)
    >>> layer.whole
    True
    """
    found = [layer for layer in flatten_layers(model) if isinstance(layer, _Delayed)]
    if not found:
        raise ValueError(f"No layer of {model.name!r} has delays.")
    for layer in found:
        if not layer.built:
            raise ValueError(f"{layer.name} has no delays yet: build the model first.")
        layer.delays.assign(ops.clip(ops.round(layer.delays), 0, layer.max_delay))
        layer.sigma.assign(0.0)


def shrinking_width(max_delay, epochs):
    """The width of the Gaussians by epoch, for `keras_snn.callbacks.Schedule("sigma", ...)`.

    In the first quarter of training it falls from half of the range to half a step: 0.27 steps, and
    a part that falls geometrically from `max_delay / 2` to 0.23.

    Args:
        max_delay: Largest delay in steps, at least 1.
        epochs: Epochs of the whole training.

    Returns:
        A function from an epoch, from 0, to a width in steps.

    Source: the code of Hammouamri et al. (2024).

    Example:

    >>> width = shrinking_width(24, epochs=100)
    >>> [round(width(epoch), 2) for epoch in (0, 10, 25, 99)]
    [12.27, 2.74, 0.5, 0.5]
    """
    start = check_integer("max_delay", max_delay) / 2
    check_integer("epochs", epochs)
    return lambda epoch: 0.27 + max(0.23, start * (0.23 / start) ** (4 * epoch / epochs))


class _Delayed(Configured, keras.layers.Layer):
    """What all share: delays as weights, the shares of the last steps, masks."""

    def __init__(self, max_delay, sigma=None, delay_initializer=None, **kwargs):
        # Places on the axis of time stay float32 under mixed precision.
        super().__init__(**kwargs)
        self.max_delay = check_integer("max_delay", max_delay)
        sigma = self.max_delay / 2 if sigma is None else sigma
        self.initial_sigma = check_number("sigma", sigma, minimum=0)
        if delay_initializer is None:
            delay_initializer = keras.initializers.RandomUniform(0.0, float(self.max_delay))
        self.delay_initializer = keras.initializers.get(delay_initializer)
        self.supports_masking = True

    def add_delays(self, shape):
        """The weights `delays`, kept from 0 to `max_delay`, and `sigma`, which is not trained."""
        self.delays = self.add_weight(
            name="delays",
            shape=shape,
            initializer=self.delay_initializer,
            constraint=lambda delays: ops.clip(delays, 0, self.max_delay),
            autocast=False,
        )
        self.sigma = self.add_weight(
            name="sigma",
            shape=(),
            initializer=keras.initializers.Constant(self.initial_sigma),
            trainable=False,
            autocast=False,
        )

    @property
    def whole(self):
        """Whether each delay reads a single step: whether `sigma` is 0."""
        return float(ops.convert_to_numpy(self.sigma)) == 0

    def steps(self):
        """The delays as whole steps, an array: of each the step with the largest share."""
        return self.max_delay - ops.convert_to_numpy(ops.argmax(self.shares(), axis=0))

    def shares(self):
        """How much each of the last steps counts, `(max_delay + 1, ...)`, the oldest first."""
        delays = ops.convert_to_tensor(self.delays)
        ages = ops.arange(self.max_delay, -1, -1, dtype=delays.dtype)
        ages = ops.reshape(ages, (-1, *[1] * len(delays.shape)))
        z = (ages - delays) / ops.maximum(self.sigma, NARROW)
        return ops.softmax(-0.5 * ops.square(z), axis=0)

    def call(self, inputs, mask=None):
        if check_mask(self.name, mask, inputs) is not None:
            mask = ops.cast(mask, inputs.dtype)
            inputs = inputs * ops.reshape(mask, (*ops.shape(mask), *[1] * (len(inputs.shape) - 2)))
        padding = [(0, 0)] * len(inputs.shape)
        padding[1] = (self.max_delay, 0)
        return self.mix(ops.pad(inputs, padding), self.taps())

    def get_config(self):
        return super().get_config() | {
            "max_delay": self.max_delay,
            "sigma": self.initial_sigma,
            "delay_initializer": keras.initializers.serialize(self.delay_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_snn")
class AxonalDelay(_Delayed):
    """Delays each channel by learned steps: `y[t] = sum_n share[n] x[t - n]`.

    With `sigma=0`, or behind `round_delays`, it is `x[t - d]`, and spikes stay spikes.

    Args:
        max_delay: Largest delay in steps, at least 1.
        sigma: Width of the Gaussian in steps before training, at least 0; by default half of
            `max_delay`. 0 stands for whole delays: the step nearest to each.
        delay_initializer: Initializer of the delays; by default uniform from 0 to `max_delay`.
        parameter_shape: How delays are shared: `"channel"`, `"scalar"` or `"neuron"`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, `trainable`, ...).

    Call arguments:
        inputs: `(batch, time, ...)`, channels last.
        mask: Optional `(batch, time)`; a masked step counts as zeros, and takes its time.

    Returns:
        A tensor of the shape of the inputs.

    Raises:
        ValueError: If an argument is invalid, or the inputs are no sequences.

    Source: see `keras_snn.layers.delays`; snnTorch's and NIR's delays are one for each channel.

    Example:

    >>> layer = AxonalDelay(3, sigma=0, delay_initializer=keras.initializers.Constant(2))
    >>> y = layer(keras.ops.array([[[1.0], [2.0], [3.0], [4.0]]]))
    >>> print(keras.ops.convert_to_numpy(y)[0, :, 0])
    [0. 0. 1. 2.]
    """

    def __init__(
        self, max_delay, sigma=None, delay_initializer=None, parameter_shape="channel", **kwargs
    ):
        super().__init__(max_delay, sigma, delay_initializer, **kwargs)
        self.parameter_shape = check_choice("parameter_shape", parameter_shape, SHARING)

    def build(self, input_shape):
        check_rank(self, input_shape)
        step = tuple(input_shape[2:])
        shape = {"scalar": (), "channel": step[-1:], "neuron": step}[self.parameter_shape]
        if None in shape:
            raise ValueError(f"{self.name} needs known sizes of a step, got {tuple(input_shape)}.")
        self.add_delays(shape)
        self.built = True

    def taps(self):
        """What each of the last steps is multiplied by, the oldest first."""
        return self.shares()

    def mix(self, padded, taps):
        """The sum of the last steps, of which `max_delay` are in front of `padded`."""
        steps = ops.shape(padded)[1] - self.max_delay
        taps = ops.cast(taps, padded.dtype)
        return sum(taps[i] * padded[:, i : i + steps] for i in range(self.max_delay + 1))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return super().get_config() | {"parameter_shape": self.parameter_shape}


class _Weighted(_Delayed):
    """A dense layer or convolution of each step, whose synapses have a delay each."""

    rank = 0  # spatial axes
    kernel_size = strides = ()
    padding = "valid"

    def __init__(
        self,
        filters,
        max_delay,
        sigma=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        delay_initializer=None,
        **kwargs,
    ):
        super().__init__(max_delay, sigma, delay_initializer, **kwargs)
        self.filters, self.use_bias = filters, bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
        check_rank(self, input_shape)
        axes = ("features", "length, channels", "height, width, channels")[self.rank]
        if len(input_shape) != self.rank + 3 or None in input_shape[2:]:
            raise ValueError(
                f"{self.name} expects inputs of known sizes (batch, time, {axes}), got the shape "
                f"{tuple(input_shape)}."
            )
        shape = (*self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer=self.kernel_initializer, autocast=False
        )
        self.add_delays(shape)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.filters,), initializer=self.bias_initializer
            )
        self._spatial = _zeros_around(input_shape[2:-1], self.kernel_size, self.strides)
        self.built = True

    def taps(self):
        """The kernel over time, `(max_delay + 1, ..., inputs, filters)`, the oldest first."""
        return self.shares() * self.kernel

    def mix(self, padded, taps):
        """The convolution over time and space of steps, of which `max_delay` are in front."""
        if self.padding == "same":
            padded = ops.pad(padded, [(0, 0), (0, 0), *self._spatial, (0, 0)])
        taps = ops.cast(taps, padded.dtype)
        strides = (1, *self.strides) if self.rank else 1
        y = ops.conv(padded, taps, strides, "valid", data_format="channels_last")
        return y if self.bias is None else y + ops.cast(self.bias, y.dtype)

    def compute_output_shape(self, input_shape):
        batch, time, *sizes, _ = input_shape
        if self.padding == "same":
            sizes = [math.ceil(n / s) for n, s in zip(sizes, self.strides)]
        else:
            sizes = [(n - k) // s + 1 for n, k, s in zip(sizes, self.kernel_size, self.strides)]
        return (batch, time, *sizes, self.filters)

    def get_config(self):
        serialize = keras.initializers.serialize
        return super().get_config() | {
            "use_bias": self.use_bias,
            "kernel_initializer": serialize(self.kernel_initializer),
            "bias_initializer": serialize(self.bias_initializer),
        }


def _zeros_around(sizes, kernel, strides):
    """Zeros in front of and behind each axis for `padding="same"`."""
    totals = (max((math.ceil(n / s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, strides))
    return [(total // 2, total - total // 2) for total in totals]


@keras.saving.register_keras_serializable(package="keras_snn")
class DelayedDense(_Weighted):
    """A dense layer whose synapses have a learned delay each.

    `y[t, j] = sum_i w[i, j] sum_n share[n, i, j] x[t - n, i] + b[j]`.

    Args:
        units: Number of outputs.
        max_delay: Largest delay in steps, at least 1.
        sigma: Width of the Gaussians in steps before training, at least 0; by default half of
            `max_delay`. `keras_snn.callbacks.Schedule("sigma", ...)` shrinks it.
        use_bias: Whether there is a bias.
        kernel_initializer: Initializer of the weights.
        bias_initializer: Initializer of the bias.
        delay_initializer: Initializer of the delays; by default uniform from 0 to `max_delay`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, `trainable`, ...).

    Call arguments:
        inputs: `(batch, time, features)`.
        mask: Optional `(batch, time)`; a masked step counts as zeros, and takes its time.

    Returns:
        `(batch, time, units)`.

    Raises:
        ValueError: If an argument is invalid, or the inputs have another rank.

    Source: see `keras_snn.layers.delays`.

    Example:

    >>> layer = DelayedDense(3, max_delay=4)
    >>> layer(keras.ops.ones((2, 10, 5))).shape == (2, 10, 3)
    True
    >>> [weight.name for weight in layer.trainable_variables]
    ['kernel', 'delays', 'bias']
    """

    def __init__(
        self,
        units,
        max_delay,
        sigma=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        delay_initializer=None,
        **kwargs,
    ):
        self.units = check_integer("units", units)
        super().__init__(
            units,
            max_delay,
            sigma,
            use_bias,
            kernel_initializer,
            bias_initializer,
            delay_initializer,
            **kwargs,
        )

    def get_config(self):
        return super().get_config() | {"units": self.units}


class _Convolution(_Weighted):
    """A convolution of each step, whose synapses have a delay each."""

    def __init__(
        self,
        filters,
        kernel_size,
        max_delay,
        sigma=None,
        strides=1,
        padding="valid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        delay_initializer=None,
        **kwargs,
    ):
        super().__init__(
            check_integer("filters", filters),
            max_delay,
            sigma,
            use_bias,
            kernel_initializer,
            bias_initializer,
            delay_initializer,
            **kwargs,
        )
        self.kernel_size = self._each("kernel_size", kernel_size)
        self.strides = self._each("strides", strides)
        self.padding = check_choice("padding", padding, ("valid", "same"))

    def _each(self, name, value):
        values = (value,) * self.rank if isinstance(value, int) else tuple(value)
        if len(values) != self.rank:
            raise ValueError(
                f"Received an invalid value for argument `{name}`, expected {self.rank} integers, "
                f"got {value!r}."
            )
        return tuple(check_integer(name, n) for n in values)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
        }


@keras.saving.register_keras_serializable(package="keras_snn")
class DelayedConv1D(_Convolution):
    """A convolution of each step over 1 axis, whose synapses have a learned delay each.

    Each place of the kernel has a weight and a delay for each pair of channels, as those of
    `DelayedDense`. Channels are the last axis.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the kernel.
        max_delay: Largest delay in steps, at least 1.
        sigma: Width of the Gaussians in steps before training, at least 0; by default half of
            `max_delay`.
        strides: Strides.
        padding: `"valid"` or `"same"`, along the axes of a step.
        use_bias: Whether there is a bias.
        kernel_initializer: Initializer of the weights.
        bias_initializer: Initializer of the bias.
        delay_initializer: Initializer of the delays; by default uniform from 0 to `max_delay`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, `trainable`, ...).

    Call arguments:
        inputs: `(batch, time, length, channels)`.
        mask: Optional `(batch, time)`; a masked step counts as zeros, and takes its time.

    Returns:
        `(batch, time, new_length, filters)`.

    Raises:
        ValueError: If an argument is invalid, or the inputs have another rank.

    Source: see `keras_snn.layers.delays`.

    Example:

    >>> layer = DelayedConv1D(4, 3, max_delay=2, padding="same")
    >>> layer(keras.ops.ones((2, 6, 5, 3))).shape == (2, 6, 5, 4)
    True
    """

    rank = 1


@keras.saving.register_keras_serializable(package="keras_snn")
class DelayedConv2D(_Convolution):
    """A convolution of each step over 2 axes, whose synapses have a learned delay each.

    Each place of the kernel has a weight and a delay for each pair of channels, as those of
    `DelayedDense`. Channels are the last axis.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the kernel, one number or one for each axis.
        max_delay: Largest delay in steps, at least 1.
        sigma: Width of the Gaussians in steps before training, at least 0; by default half of
            `max_delay`.
        strides: Strides, one number or one for each axis.
        padding: `"valid"` or `"same"`, along the axes of a step.
        use_bias: Whether there is a bias.
        kernel_initializer: Initializer of the weights.
        bias_initializer: Initializer of the bias.
        delay_initializer: Initializer of the delays; by default uniform from 0 to `max_delay`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, `trainable`, ...).

    Call arguments:
        inputs: `(batch, time, height, width, channels)`.
        mask: Optional `(batch, time)`; a masked step counts as zeros, and takes its time.

    Returns:
        `(batch, time, new_height, new_width, filters)`.

    Raises:
        ValueError: If an argument is invalid, or the inputs have another rank.

    Source: see `keras_snn.layers.delays`.

    Example:

    >>> layer = DelayedConv2D(4, 3, max_delay=2, padding="same")
    >>> layer(keras.ops.ones((2, 6, 5, 4, 3))).shape == (2, 6, 5, 4, 4)
    True
    """

    rank = 2
