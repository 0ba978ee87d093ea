"""Layers that compute what integer kernels compute, in floats, with straight-through gradients."""

import dataclasses
import itertools
import math

import keras
import numpy as np
from keras import ops

from keras_snn import graph
from keras_snn.layers.base import SpikingCell
from keras_snn.layers.rnn import Neuron
from keras_snn.qat.grids import (
    Grid,
    decay_without_ties,
    decayed,
    near_power_of_two,
    ratio_without_ties,
    straight_through,
    weight_codes,
)
from keras_snn.utils.arguments import Configured, check_choice, check_integer, check_number

__all__ = [
    "Constants",
    "Quantize",
    "QuantizedLIF",
    "QuantizedLIFCell",
    "QuantizedWeights",
    "is_prepared",
    "state_bits",
]

# The largest multiplier below a power of two that kernels round alike: with it the reference
# kernels round once only, and XNNPACK's floats are as good as exact.
BELOW_ONE = 1 - 2.0**-20


def check_state_bits(state_bits):
    """`state_bits` as an integer, 8 or 16."""
    return check_choice("state_bits", check_integer("state_bits", state_bits), (8, 16))


@keras.saving.register_keras_serializable(package="keras_snn")
class Quantize(Configured, keras.layers.Layer):
    """Brings numbers to those that an int8 or int16 tensor holds, `scale * code`.

    Args:
        scale: Distance between two numbers.
        low: Smallest code of an int8 tensor; the largest is `low + 255`.
        state_bits: 8, or 16 for int16, whose codes are all from -32768 to 32767.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: A float tensor of any shape.

    Returns:
        A tensor like `inputs`.

    Example:

    >>> x = keras.ops.array([-1.0, 0.3, 80.0])
    >>> print(keras.ops.convert_to_numpy(Quantize(scale=0.25, low=0)(x)))
    [ 0.    0.25 63.75]
    """

    def __init__(self, scale, low=-128, state_bits=8, **kwargs):
        super().__init__(**kwargs)
        self.scale = check_number("scale", scale, above=0)
        self.low = check_integer("low", low, minimum=-255)
        self.state_bits = check_state_bits(state_bits)
        self.grid = Grid.of(self.scale, self.low, self.state_bits)
        self.supports_masking = True

    def call(self, inputs):
        return self.grid.snap(inputs)

    def fake_quantized(self, inputs):
        """`call`, as TensorFlow's converter reads it."""
        return self.grid.fake_quantize(inputs)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        names = ("scale", "low", "state_bits")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="keras_snn")
class QuantizedWeights(Configured, keras.layers.Wrapper):
    """A dense layer or convolution with int8 weights, exact sums and int8 or int16 outputs.

    Inputs are numbers of one grid, outputs of another; the sum of each channel, bias included,
    comes to the grid of the outputs by a shift. The layer's own weights stay float, and are what
    is trained.

    Args:
        layer: A layer with a `kernel` and a `bias`, without activation.
        input_scale: Scale of the inputs.
        scale: Scale of the outputs.
        low: Smallest code of the outputs.
        unit: What the codes of the inputs are multiples of, 1 or 4.
        bits: Bits of a weight: 3 to 8, 2 for -1, 0 and 1, 1 for -1 and 1, each times a number of
            the channel's.
        state_bits: 8, or 16 for int16 inputs and outputs (`low` and `unit` are of no matter then).
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: What the layer takes.

    Returns:
        What the layer gives.
    """

    def __init__(self, layer, input_scale, scale, low=-128, unit=4, bits=8, state_bits=8, **kwargs):
        if isinstance(layer, dict):
            layer = keras.saving.deserialize_keras_object(layer)
        super().__init__(layer, **kwargs)
        self.input_scale = check_number("input_scale", input_scale, above=0)
        self.scale = check_number("scale", scale, above=0)
        self.low = check_integer("low", low, minimum=-255)
        self.unit = check_integer("unit", unit)
        self.bits = check_integer("bits", bits)
        if bits > 8:
            raise ValueError(f"`bits` must be 1 to 8, got {bits}.")
        self.state_bits = check_state_bits(state_bits)
        self.grid = Grid.of(self.scale, self.low, self.state_bits)
        # int8: sums have to be multiples of 2 or more, to which an odd number is added.
        self.unit_step = 1 if self.unit > 1 or self.state_bits == 16 else 2
        self.supports_masking = True

    @property
    def channel_axis(self):
        """The axis of the kernel that has the output channels, `None` if they are two axes."""
        return None if "Depthwise" in type(self.layer).__name__ else -1

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True
        axis = self.channel_axis
        shape = () if axis is None else (self.layer.kernel.shape[axis],)
        for name in ("step", "shift"):
            weight = self.add_weight(
                name=name, shape=shape, initializer="ones", trainable=False, autocast=False
            )
            setattr(self, name, weight)
        self.built = True

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def codes(self):
        """int8 codes of the weights and int32 codes of the bias, float tensors."""
        fraction = ops.power(2.0, -self.shift)
        weight = self.scale / self.input_scale * fraction
        kernel = weight_codes(self.layer.kernel / weight, self.bits, self.step, self.unit_step)
        lattice = self.unit * self.unit_step if self.state_bits == 8 else 1
        bias = self.layer.bias / (self.scale * fraction * lattice)
        bias = straight_through(ops.round(ops.stop_gradient(bias)), bias) * lattice
        if self.state_bits == 16:
            return kernel, bias
        # Half a step more, where sums have to be rounded.
        return kernel, bias + ops.where(ops.power(2.0, self.shift) > lattice, lattice / 2, 0.0)

    def call(self, inputs):
        kernel, bias = self.codes()
        codes = inputs / self.input_scale
        codes = straight_through(ops.round(ops.stop_gradient(codes)), codes)
        sums = self.apply(codes, kernel, bias)
        sums = straight_through(ops.round(ops.stop_gradient(sums)), sums)
        fraction = ops.power(2.0, -self.shift)
        if self.state_bits == 16:
            codes = ops.floor(ops.stop_gradient(sums) * fraction + 0.5)
            return self.grid.snap(straight_through(codes, sums * fraction) * self.scale)
        return self.grid.snap(sums * fraction * self.scale)

    def apply(self, inputs, kernel, bias):
        """The layer with other weights."""
        mapping = [(self.layer.kernel, kernel), (self.layer.bias, bias)]
        with keras.StatelessScope(state_mapping=mapping):
            return self.layer.call(inputs)

    def fake_quantized(self, inputs):
        """`call`, as TensorFlow's converter reads it."""
        import tensorflow as tf

        with tf.init_scope():
            shift = ops.convert_to_numpy(self.shift)
            kernel, bias = map(ops.convert_to_numpy, self.codes())
        dense = isinstance(self.layer, keras.layers.Dense)
        # A convolution of 1x1: the converter transposes the weights of dense layers, and loses
        # which axis has the channels.
        kernel = kernel[None, None] if dense else kernel
        factor = BELOW_ONE if self.state_bits == 8 else 1.0
        weight = (self.scale / self.input_scale * 2.0**-shift * factor).astype("float32")
        quantize = tf.quantization
        if weight.ndim:
            kernel = quantize.fake_quant_with_min_max_vars_per_channel(
                kernel * weight, -127 * weight, 127 * weight, narrow_range=True
            )
        else:
            reach = float(127 * weight)
            kernel = quantize.fake_quant_with_min_max_args(
                kernel * weight, -reach, reach, narrow_range=True
            )
        bias = tf.constant((bias * weight * self.input_scale).astype("float32"))
        if not dense:
            return self.grid.fake_quantize(self.apply(inputs, kernel, bias))
        x = tf.reshape(inputs, (-1, 1, 1, inputs.shape[-1]))
        y = self.grid.fake_quantize(tf.nn.conv2d(x, kernel, 1, "VALID") + bias)
        return tf.reshape(y, (*inputs.shape[:-1], y.shape[-1]))

    def get_config(self):
        names = ("input_scale", "scale", "low", "unit", "bits", "state_bits")
        return super().get_config() | {name: getattr(self, name) for name in names}


class QuantizedLIFCell(SpikingCell):
    """Leaky or not, with integer potentials, one step: `h = round(decay * v + gain * x)`.

    Potentials are numbers of a grid of the scale `gain * scale`. The neuron fires from the first
    number on that is not below `threshold`, which is also what a soft reset subtracts.

    Args:
        scale: Scale of the inputs.
        low: Smallest code of the potential.
        decay: Share of the potential that a step leaves; it is moved a little, see
            `keras_snn.qat.grids.decay_without_ties`.
        gain: Factor on the input.
        max_spikes: Of integer spikes the largest number, see `keras_snn.layers.ILIF`; 0 for spikes
            of 0 and 1.
        spike_scale: Scale of the spikes in files.
        state_bits: Bits of potentials and currents, 8 or 16; with 16 the decay is a fraction of
            integers, see `keras_snn.qat.grids.ratio_without_ties`.

    Source: the equations are those of `keras_snn.layers.LIF`, `DecayLIF` and `ILIF`.
    """

    def __init__(
        self,
        scale,
        low=-128,
        decay=1.0,
        gain=1.0,
        max_spikes=0,
        spike_scale=0.25,
        state_bits=8,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.scale = check_number("scale", scale, above=0)
        self.low = check_integer("low", low, minimum=-255)
        self.state_bits = check_state_bits(state_bits)
        decay = check_number("decay", decay, minimum=0, maximum=1)
        if self.state_bits == 8:
            self.decay = decay_without_ties(decay)
        else:
            self.ratio = ratio_without_ties(decay)
            self.decay = self.ratio[0] / self.ratio[1]
        self.gain = check_number("gain", gain, above=0)
        self.max_spikes = check_integer("max_spikes", max_spikes, minimum=0)
        self.spike_scale = check_number("spike_scale", spike_scale, above=0)
        self.grid = Grid.of(self.scale * self.gain, self.low, self.state_bits)
        # The first number of the grid at which it fires.
        self.level = math.ceil(self.threshold / self.grid.scale - 1e-3) * self.grid.scale

    def charge(self, v, x):
        if self.state_bits == 16 and self.decay < 1:
            kept = decayed(self.grid.codes(v), self.ratio) * np.float32(self.grid.scale)
            v = straight_through(kept, np.float32(self.decay) * v)
            return self.grid.snap(v + np.float32(self.gain) * x)
        return self.grid.snap(np.float32(self.decay) * v + np.float32(self.gain) * x)

    def fire(self, h, threshold=None):
        if self.max_spikes:
            return self.surrogate.count(h / np.float32(self.level), self.max_spikes)
        return self.surrogate(h - np.float32(self.level - self.grid.scale / 2))

    def reset_membrane(self, h, spikes, threshold=None):
        return self.grid.snap(super().reset_membrane(h, spikes, self.level))

    def fake_quantized_inputs(self, x, constant):
        """Currents of all steps as the potential has them, as TensorFlow's converter reads it.

        Args:
            x: Currents.
            constant: See `Constants`.
        """
        if self.gain == 1:
            return x
        gain = np.float32(self.gain) if self.state_bits == 8 else constant(self.gain)
        return self.grid.fake_quantize(x * gain)

    def fake_quantized(self, x, states, constant):
        """`step` on such currents, as TensorFlow's converter reads it; a zero state is `None`."""
        step = self._step_int8 if self.state_bits == 8 else self._step_int16
        counts, h = step(x, *states, constant)
        return counts, [h]

    def _step_int8(self, x, v, constant):
        import tensorflow as tf

        snap, h = self.grid.fake_quantize, x
        decay, level = np.float32(self.decay), np.float32(self.level)
        if v is not None and decay:
            v = snap(v)
            # The same codes: their scale decays.
            v = (
                v
                if decay == 1
                else Grid(self.grid.scale * decay, self.low).fake_quantize(v * decay)
            )
            h = snap(x + v)
        spikes = Grid(self.spike_scale, 0)
        if self.max_spikes:
            counts = spikes.fake_quantize(tf.nn.relu(h * np.float32(1 / level)))
            counts = spikes.fake_quantize(tf.minimum(counts, np.float32(self.max_spikes)))
        else:
            counts = spikes.fake_quantize(tf.cast(h >= snap(tf.constant(level)), tf.float32))
        if self.reset == "hard":
            h = snap(h - snap(h * counts))
        elif self.reset == "soft":
            h = snap(h - snap(counts * level))
        return counts, h

    def _step_int16(self, x, v, constant):
        """With operations that there are in int16; no comparison is among them."""
        import tensorflow as tf

        scale, snap, h = self.grid.scale, self.grid.fake_quantize, x
        if near_power_of_two(scale):
            raise ValueError(
                "Files have int16 potentials of scales that are no powers of two, which kernels "
                f"would round constants to, got `scale * gain` = {scale}."
            )
        count = Grid.of(self.spike_scale, 0, 16).fake_quantize
        if v is not None and self.decay:
            v = snap(v)
            h = snap(x + (v if self.decay == 1 else snap(v * constant(self.decay))))
        level, counts = round(self.level / scale), None
        for n in range(max(self.max_spikes, 1)):
            first = (2 * n + 1) * level // 2 + 1 if self.max_spikes else level
            above = snap(tf.nn.relu(h - constant((first - 1) * scale)))  # 0 where it does not fire
            fired = above * constant(1 / scale)
            fired = count(tf.maximum(tf.minimum(fired, 1.0), -1.0))
            counts = fired if counts is None else count(counts + fired)
        if self.reset == "hard":
            h = snap(h - snap(h * counts))
        elif self.reset == "soft":
            h = snap(h - snap(counts * constant(level * scale)))
        return counts, h


class Constants:
    """Constants in int16, as TensorFlow's converter reads them, each with a scale of its own.

    What is stored is `value = code * scale`, with another code each time: the converter makes one
    of equal constants, and one that is read twice int8 for some of its readers.

    Example:

    >>> constant = Constants()
    >>> [float(constant(0.5)) for _ in range(2)]
    [0.5, 0.5]
    """

    def __init__(self):
        self.codes = itertools.count(1 << 14)

    def __call__(self, value):
        import tensorflow as tf

        code = next(self.codes)
        near = np.float32(value).view("int32") + np.int32(code % 301 - 150)
        grid = Grid.of(value / code, 0, 16)
        return grid.fake_quantize(tf.constant(near.view("float32")))


@keras.saving.register_keras_serializable(package="keras_snn")
class QuantizedLIF(Neuron, cell=QuantizedLIFCell):
    """IF, LIF, DecayLIF or ILIF with integer potentials.

    Example:

    >>> x = 0.75 * keras.ops.ones((1, 4, 1))
    >>> spikes = QuantizedLIF(scale=1 / 64, decay=0.5)(x)
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [0. 1. 0. 1.]
    """


def state_bits(model):
    """Bits of the currents and potentials of a model of `keras_snn.qat.prepare`; 0 of another."""
    for layer in graph.flatten_layers(model):
        if isinstance(layer, (Quantize, QuantizedWeights)):
            return layer.state_bits
        if isinstance(layer, QuantizedLIF):
            return layer.cell.state_bits
    return 0


def is_prepared(model):
    """Whether a model has layers that `keras_snn.qat.prepare` makes."""
    return state_bits(model) > 0


def _inner(call):
    """The call as one of the layer inside."""
    return dataclasses.replace(call, layer=call.layer.layer, operation=call.layer.layer)


graph.register(Quantize, "pointwise")
graph.register(
    QuantizedWeights,
    lambda call: _inner(call).time,
    products=lambda call: _inner(call).products,
)
