"""The builder that model families use: it adds named layers with the papers' constants."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.utils.arguments import check_choice, check_integer

__all__ = ["Builder", "Value"]


@keras.saving.register_keras_serializable("keras_snn")
class KaimingNormal(keras.initializers.VarianceScaling):
    """The initialisation of the papers' PyTorch code, `kaiming_normal_(mode="fan_out")`.

    On JAX, NumPy draws the weights: XLA would compile JAX's generator for every shape of a kernel,
    which takes most of the time of building a deep network.

    Args:
        seed: Optional seed, as for Keras's initializers.
    """

    def __init__(self, seed=None):
        super().__init__(2.0, "fan_out", "untruncated_normal", seed)

    def __call__(self, shape, dtype=None):
        if keras.backend.backend() != "jax" or not isinstance(self.seed, int):
            return super().__call__(shape, dtype)
        fan_out = math.prod(shape[:-2]) * shape[-1]
        draws = np.random.default_rng(self.seed).standard_normal(shape, "float32")
        return ops.convert_to_tensor(draws * np.float32(math.sqrt(2.0 / fan_out)), dtype)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


HE_NORMAL = KaimingNormal()
# PyTorch's default of convolutions and dense layers, uniform within 1 / sqrt(fan-in).
TORCH_UNIFORM = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
GLOROT = keras.initializers.GlorotUniform()
GLOROT_2 = keras.initializers.VarianceScaling(4.0, "fan_avg", "uniform")  # with gain 2
SMALL_NORMAL = keras.initializers.RandomNormal(stddev=0.01)


def soft_if():
    """The neuron of converted networks: IF with soft reset."""
    return snn.IF(reset="soft")


def is_channels_first():
    """Whether Keras's image data format is `"channels_first"`."""
    return keras.config.image_data_format() == "channels_first"


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of a network that is being built, and whether its axis 1 is time.

    The shape does not tell: `(batch, 4, 16, 8)` may be a map without time, or 4 steps of 16 tokens.

    Attributes:
        tensor: `(batch, ...)`, or `(batch, time, ...)` if it has time.
        has_time: Whether it has time.
    """

    tensor: Any
    has_time: bool

    @property
    def step(self):
        """Shape of one step of one example, such as `(height, width, channels)`."""
        return tuple(self.tensor.shape[2 if self.has_time else 1 :])

    @property
    def timesteps(self):
        """Number of steps, `None` if it is open or there is no time."""
        return self.tensor.shape[1] if self.has_time else None

    @property
    def channel_axis(self):
        """Axis of the channels of one step, `(batch, ...)`; only maps may have them first."""
        return 1 if len(self.step) == 3 and is_channels_first() else -1

    @property
    def channels(self):
        """Number of channels."""
        return self.step[-3 if self.channel_axis == 1 else -1]


class Builder:
    """Adds named layers to a network, with the constants of the papers' PyTorch code.

    Its methods take a `Value` and return one. A network on images, or on other static inputs,
    starts without time. The first neuron, or another layer that needs time, repeats the tensor at
    every step, so that earlier layers are computed only once.

    Args:
        neuron: What `keras_snn.layers.get_neuron` takes.
        timesteps: Number of steps of a network on static inputs; `None` for a network without time,
            whose `neuron` is an activation layer.
        norm: `"bn"`, `"tdbn"`, `"tebn"`, `"bntt"`, `None`, or a function from a name to a layer on
            sequences.
        kernel_initializer: Initializer of the convolutions.
        dense_initializer: Initializer of the dense layers. Biases are 0, but for `TORCH_UNIFORM`.

    Raises:
        TypeError: From all methods, if they are given a tensor instead of a `Value`.

    Example:

    Tokens at every step, each with its own neurons:

    >>> net, inputs = Builder("lif", timesteps=4), keras.Input((4, 16, 8))  # time, tokens, channels
    >>> x = net.dense(Value(inputs, has_time=True), 32, "mix")
    >>> x = net.neuron(net.norm(x, "bn"), "neuron")
    >>> net.readout(x).tensor.shape
    (None, 16, 32)
    """

    def __init__(
        self,
        neuron,
        timesteps,
        norm="bn",
        kernel_initializer=HE_NORMAL,
        dense_initializer=TORCH_UNIFORM,
    ):
        layer = snn.get_neuron(neuron)  # bad arguments fail before any work
        if timesteps is not None:
            check_integer("timesteps", timesteps)
        elif isinstance(layer, snn.SpikingRNN):
            raise ValueError(
                "`timesteps=None` makes a network without time, whose `neuron` must be an "
                f"activation layer such as `keras.layers.ReLU`. Received: neuron={neuron!r}"
            )
        if not callable(norm):
            check_choice("norm", norm, (None, "bn", *NORMS))
        self.timesteps, self.given = timesteps, {"neuron": neuron, "norm": norm}
        self._neuron, self._norm = neuron, norm
        self._initializer, self._dense_initializer = kernel_initializer, dense_initializer
        threshold = getattr(getattr(layer, "cell", None), "threshold", 1.0)
        self.threshold = threshold if isinstance(threshold, (int, float)) else 1.0

    def apply(self, layer, x):
        """A layer on `x`, at every step if `x` has time."""
        x = _checked(x)
        if not x.has_time:
            return Value(layer(x.tensor), False)
        return Value(snn.FoldTime(layer, name=layer.name)(x.tensor), True)

    def repeat(self, x, name):
        """`x` at every step, if it has no time axis yet."""
        if _checked(x).has_time or self.timesteps is None:
            return x
        return Value(snn.RepeatTime(self.timesteps, name=name + "_repeat")(x.tensor), True)

    def neuron(self, x, name, recurrent=False):
        """A spiking neuron layer; one that gets its own last spikes too, if it is recurrent."""
        x, layer = self.repeat(x, name), self.new_neuron(name)
        if recurrent:
            if not isinstance(getattr(layer, "cell", None), snn.NeuronCell) or len(x.step) != 1:
                raise ValueError(
                    f"{name} needs a neuron with a cell, and steps of features, to be recurrent, "
                    f"got {type(layer).__name__} and steps of shape {x.step}."
                )
            connection = layers.Dense(
                x.channels, use_bias=False, kernel_initializer="orthogonal", name="connection"
            )
            layer = snn.Recurrent(layer.cell, connection, name=name)
        return Value(layer(x.tensor), x.has_time)

    def new_neuron(self, name, **changes):
        """The network's neuron, by itself; with other values of attributes that it has."""
        layer = snn.get_neuron(self._neuron, name)
        cell = getattr(layer, "cell", None)
        for attribute, value in changes.items():
            if hasattr(cell, attribute):
                setattr(cell, attribute, value)
        return layer

    def combine(self, layer, values):
        """A layer of several values, which all have time or none has."""
        if len({_checked(x).has_time for x in values}) > 1:
            raise ValueError(
                f"{layer.name} joins tensors with and without time, of shapes "
                f"{[tuple(x.tensor.shape) for x in values]}; `timesteps` says how often to repeat."
            )
        return Value(layer([x.tensor for x in values]), values[0].has_time)

    def join(self, branch, shortcut, name, connect="add"):
        """Branch and shortcut as one tensor."""
        inputs = [self.repeat(branch, name + "_branch"), self.repeat(shortcut, name + "_shortcut")]
        return self.combine(snn.SpikeConnection(connect, name=name), inputs)

    def sum(self, values, name):
        """The sum of values of one shape."""
        values = [self.repeat(x, f"{name}_{i}") for i, x in enumerate(values, start=1)]
        if len(values) == 1:
            return values[0]
        return self.combine(layers.Add(name=name), values)

    def conv(
        self,
        x,
        filters,
        size,
        strides,
        name,
        use_bias=False,
        kernel_initializer=None,
        groups=1,
        padding=None,
        dilation=1,
    ):
        """A convolution of maps; if nothing else is said, padded alike on all sides."""
        # Without strides Keras's "same" is symmetric.
        padding = padding or ("symmetric" if strides > 1 and size > 1 else "same")
        kind = snn.PaddedConv2D if padding == "symmetric" else layers.Conv2D
        initializer = kernel_initializer or self._initializer.clone()
        layer = kind(
            filters,
            size,
            strides,
            padding,
            dilation_rate=dilation,
            groups=groups,
            use_bias=use_bias,
            kernel_initializer=initializer,
            bias_initializer=_bias(self._initializer, size * size * self.channels(x) // groups),
            name=name,
        )
        return self.apply(layer, x)

    def depthwise(self, x, size, name, use_bias=False):
        """A convolution of each channel by itself, which keeps the size."""
        uniform = self._initializer is TORCH_UNIFORM
        bias = _bias(self._initializer, size * size)
        layer = layers.DepthwiseConv2D(
            size,
            padding="same",
            use_bias=use_bias,
            # Keras's fans of a depthwise kernel are those of all channels.
            depthwise_initializer=bias if uniform else self._initializer.clone(),
            bias_initializer=bias,
            name=name,
        )
        return self.apply(layer, x)

    def delays(self, x, filters, size, name):
        """A convolution over time, of the present and the past; a step is `(features,)`."""
        _check_sequence(x, name)
        layer = layers.Conv1D(
            filters,
            size,
            padding="causal",
            use_bias=False,
            data_format="channels_last",
            name=name,
        )
        return Value(layer(x.tensor), True)

    def delayed(self, x, units, max_delay, name):
        """A dense layer whose synapses have a learned delay each; a step is `(features,)`."""
        _check_sequence(x, name)
        layer = snn.DelayedDense(units, max_delay, use_bias=False, name=name)
        return Value(layer(x.tensor), True)

    def norm(self, x, name, gamma="ones", beta="zeros", branches=1):
        """The network's normalisation; `branches` is the number of tensors that will be summed."""
        if self._norm is None:
            return x
        axis = _checked(x).channel_axis
        arguments = {"name": name, "gamma_initializer": gamma, "beta_initializer": beta}
        if self._norm == "bn":
            return self.apply(layers.BatchNormalization(axis, 0.9, 1e-5, **arguments), x)
        x = self.repeat(x, name)
        if callable(self._norm):
            return Value(self._norm(name)(x.tensor), x.has_time)
        if self._norm != "tdbn" and x.timesteps is None:
            raise ValueError(
                f"norm={self._norm!r} needs a known number of timesteps, got an input of shape "
                f"{tuple(x.tensor.shape)} and timesteps={self.timesteps}. Without time, norm='bn' "
                "works."
            )
        make = NORMS[self._norm]
        layer = make(x.timesteps, branches**-0.5, self.threshold, axis=axis, **arguments)
        return Value(layer(x.tensor), True)

    def dense(self, x, units, name, use_bias=True, **kwargs):
        """A dense layer on the last axis, at every step."""
        layer = layers.Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=self._dense_initializer.clone(),
            bias_initializer=_bias(self._dense_initializer, _checked(x).step[-1]),
            name=name,
            **kwargs,
        )
        return Value(layer(x.tensor), x.has_time)

    def activation(self, x, activation, name):
        """An activation by itself."""
        return Value(layers.Activation(activation, name=name)(_checked(x).tensor), x.has_time)

    def dropout(self, x, rate, name):
        """Dropout whose mask is the same at every step."""
        if not rate:
            return x
        layer = snn.TimeConstantDropout if _checked(x).has_time else layers.Dropout
        return Value(layer(rate, name=name)(x.tensor), x.has_time)

    def max_pool(self, x, name, size=2, strides=2):
        """Maximum over windows; windows of 3 overlap, and the maps are padded by 1."""
        if size > strides:
            x = self.apply(_EdgePadding2D(1, name=name + "_pad"), x)
        return self.apply(layers.MaxPooling2D(size, strides, name=name), x)

    def average_pool(self, x, name, size=2):
        """Mean over windows that do not overlap."""
        return self.apply(layers.AveragePooling2D(size, name=name), x)

    def global_pool(self, x, pooling="avg"):
        """Mean or maximum over all positions or tokens, at every step."""
        kind = {"avg": "Average", "max": "Max"}[pooling]
        axes = len(_checked(x).step) - 1
        pool = getattr(layers, f"Global{kind}Pooling{axes}D", None)
        if pool is None:
            raise ValueError(
                f"A global pool needs steps (height, width, channels) or (tokens, channels), got "
                f"steps of shape {x.step}."
            )
        form = "channels_first" if x.channel_axis == 1 else "channels_last"
        return self.apply(pool(data_format=form, name=f"{pooling}_pool"), x)

    def flatten(self, x):
        """All features of a step on one axis."""
        return self.apply(layers.Flatten(name="flatten"), x)

    def readout(self, x, layer=snn.MeanOverTime, name="mean_over_time"):
        """The mean, or another readout, over time, if there is any."""
        return Value(layer(name=name)(x.tensor), False) if _checked(x).has_time else x

    def channels(self, x):
        """Number of channels."""
        return _checked(x).channels


def _checked(x):
    """`x`, if it is a `Value`."""
    if not isinstance(x, Value):
        raise TypeError(
            "A builder takes values that say whether they have time, such as "
            f"`Value(tensor, has_time=True)`, got {x!r}."
        )
    return x


def _check_sequence(x, name):
    """An error, unless `x` is a sequence of features."""
    if not _checked(x).has_time or len(x.step) != 1:
        raise ValueError(
            f"{name} needs a sequence of features, (batch, time, features), got "
            f"{tuple(x.tensor.shape)} {'with' if x.has_time else 'without'} time."
        )


def _bias(initializer, fan_in):
    """Initializer of biases beside such kernels."""
    if initializer is not TORCH_UNIFORM:
        return "zeros"
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def _tdbn(timesteps, alpha, threshold, **kwargs):
    return snn.ThresholdDependentBatchNormalization(alpha, threshold, **kwargs)


def _tebn(timesteps, alpha, threshold, **kwargs):
    return snn.TemporalEffectiveBatchNormalization(timesteps, **kwargs)


def _bntt(timesteps, alpha, threshold, beta_initializer, **kwargs):
    return snn.BatchNormalizationThroughTime(timesteps, **kwargs)


# The norms that need time. The last two keep something for each step.
NORMS = {"tdbn": _tdbn, "tebn": _tebn, "bntt": _bntt}


@keras.saving.register_keras_serializable(package="keras_snn")
class _EdgePadding2D(layers.ZeroPadding2D):
    """Repeats the edges in front of a max pooling, where PyTorch pads with minus infinity.

    A window with a copied pixel also has the original, so maxima and gradients are those without
    padding. Zeros would take the gradient of silent windows, and minus infinity would ruin the
    range of quantised maps.
    """

    def call(self, inputs):
        widths = [(0, 0), *self.padding]
        widths.insert(1 if self.data_format == "channels_first" else 3, (0, 0))
        return ops.pad(inputs, widths, mode="symmetric")


graph.register(_EdgePadding2D, "across", linear=True)
