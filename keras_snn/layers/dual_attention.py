"""Dual spike attention, whose keys and values are real numbers beside spikes.

As the layers of `keras_snn.layers.attention` it is made of parts, which readers of a graph see.
"""

import keras
from keras import KerasTensor, ops

from keras_snn.layers.attention import (
    Part,
    SpikingAttention,
    check_maps,
    first_mask,
    split_heads,
    token_axes,
    tokens_of,
)
from keras_snn.utils.arguments import check_integer, check_number

__all__ = ["DualSpikeAttention"]


class RatedProducts(Part):
    """Products with spikes, divided by the square root of how many of them are to be expected.

    Args:
        heads: Number of heads.
        momentum: Share of the running firing rate of each head that a batch in training leaves.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, heads, momentum, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.momentum, self.built = heads, momentum, False

    def build(self, input_shape):
        self.rates = self.add_weight((self.heads,), "zeros", name="rates", trainable=False)
        self.built = True

    def compute_output_spec(self, inputs, mask=None, training=False):
        shape = self.shape_of(*(tuple(x.shape) for x in inputs))
        return KerasTensor(shape, dtype=self.variable_dtype)

    def factor(self, means, size, mask, training):
        """`1 / sqrt(rate * size)` of each head, `(heads, 1, 1)`; updates the rates in training.

        A rate that is not known yet, or of a head that never fired, counts as 1.

        Args:
            means: Firing rates of each step and head, `(batch and time, heads)`.
            size: Number of spikes that a product sums over.
            mask: `(batch, time)` or `None`: steps that count.
            training: Whether in training mode.
        """
        rates = ops.convert_to_tensor(self.rates)
        if training and self.trainable:
            now = ops.stop_gradient(self._mean(means, mask))
            known = ops.any(rates > 0)
            rates = self.momentum * ops.where(known, rates, now) + (1 - self.momentum) * now
            self.rates.assign(rates)
        rates = ops.where(rates > 0, rates, 1.0)
        return ops.reshape(ops.rsqrt(rates * size), (-1, 1, 1))

    def _mean(self, means, mask):
        mask = first_mask(mask)
        if mask is None:
            return ops.mean(means, axis=0)
        weights = ops.reshape(ops.cast(mask, means.dtype), (-1, 1))
        return ops.sum(means * weights, axis=0) / ops.maximum(ops.sum(weights), 1.0)

    def split(self, x):
        """`(batch and time, heads, tokens, channels of a head)` in float32."""
        return split_heads(self.exact(x), self.heads)

    def get_config(self):
        return super().get_config() | {"heads": self.heads, "momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_snn")
class DualScores(RatedProducts):
    """`k x^T` of each head, from `[x, y]`, divided by the square root of their spikes' number.

    The keys are the first half of a head's channels of `y`.
    """

    def shape_of(self, x, y):
        return (*x[: -1 - len(token_axes(x))], self.heads, tokens_of(y), tokens_of(x))

    def call(self, inputs, mask=None, training=False):
        x, y = map(self.split, inputs)
        keys = y[..., : y.shape[-1] // 2]
        factor = self.factor(ops.mean(x, axis=(2, 3)), x.shape[-1], mask, training)
        scores = ops.matmul(keys, ops.swapaxes(x, -1, -2)) * factor
        lead = ops.shape(inputs[0])[1 : -1 - len(token_axes(inputs[0].shape))]
        return ops.reshape(scores, (-1, *lead, *ops.shape(scores)[1:]))


@keras.saving.register_keras_serializable(package="keras_snn")
class DualSums(RatedProducts):
    """`a^T v` of each head, from `[a, y, x]`, divided by the square root of their spikes' number.

    The values are the second half of a head's channels of `y`; the sums have the shape of `x`.
    """

    def shape_of(self, a, y, x):
        return x

    def call(self, inputs, mask=None, training=False):
        a, y, x = inputs
        values = self.split(y)
        values = values[..., values.shape[-1] // 2 :]
        a = ops.reshape(self.exact(a), (-1, *ops.shape(a)[-3:]))
        factor = self.factor(ops.mean(a, axis=(2, 3)), ops.shape(values)[2], mask, training)
        sums = ops.matmul(ops.swapaxes(a, -1, -2), values) * factor
        return ops.reshape(ops.swapaxes(sums, 1, 2), (-1, *ops.shape(x)[1:]))


@keras.saving.register_keras_serializable(package="keras_snn")
class DualSpikeAttention(SpikingAttention):
    """Dual spike self-attention: spikes attend to a coarser map that a convolution made of them.

    `a = neuron(c1 * k x^T)`, `y = c2 * a^T v` of each head, where `k` and `v` are currents. Each
    product has spikes on one side, so that it only adds; `c1 = 1 / sqrt(r_x d)` and
    `c2 = 1 / sqrt(r_a m)` keep the variance of the sums from growing with the channels of a head,
    `d`, and the number of keys, `m`. The firing rates of each head, `r_x` and `r_a`, are running
    means, no trained weights; that of what never fired counts as 1.

    Args:
        heads: Number of heads.
        momentum: Share of a running rate that a batch in training leaves.
        neuron: What `get_neuron` takes; by default the paper's: `LIF`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: The list `[x, kv]`: spikes `(batch, time, tokens, channels)` or maps
            `(batch, time, height, width, channels)`, and currents with as many axes, as many or
            fewer tokens and twice the channels: of each head first its keys, then its values. With
            a neuron that is an activation also `(batch, tokens, channels)`.
        mask: Optional `(batch, time)`, true for steps to use: the neuron is silent in others,
            which leave the rates as they are.
        training: Whether in training mode: the rates of this batch are taken in, then used.

    Returns:
        Currents of the shape of `x`.

    Raises:
        ValueError: If the inputs are not two such tensors, or the channels can't be split among
            the heads.

    Source: Shi et al., "SpikingResformer: Bridging ResNet and Vision Transformer in Spiking Neural
    Networks", CVPR 2024.

    Example:

    >>> x, kv = keras.ops.ones((2, 4, 8, 8, 32)), keras.ops.ones((2, 4, 2, 2, 64))
    >>> DualSpikeAttention(heads=4)([x, kv]).shape == (2, 4, 8, 8, 32)
    True
    """

    names = ("x", "kv")

    def __init__(self, heads, momentum=0.999, neuron="lif", **kwargs):
        super().__init__(neuron, **kwargs)
        self.heads = check_integer("heads", heads)
        self.momentum = check_number("momentum", momentum, minimum=0, maximum=1)
        self.scores = self.part(DualScores, "scores", heads, momentum)
        self.sums = self.part(DualSums, "sums", heads, momentum)

    def build(self, input_shape):
        shapes = [tuple(shape) for shape in input_shape]
        check_maps(self, shapes)
        x, kv = (*shapes, ())[:2]
        lead = zip(x[: -1 - len(token_axes(x))], kv)
        alike = len(x) == len(kv) and all(len({*sizes} - {None}) < 2 for sizes in lead)
        if not (alike and len(x) in self.ranks and x[-1] and kv[-1] == 2 * x[-1]):
            raise ValueError(
                f"{self.name} expects a list [x, kv] of tensors (batch, time, tokens, channels) or "
                "maps (batch, time, height, width, channels), the second with twice the channels; "
                f"got the shapes {shapes}."
            )
        if x[-1] % self.heads:
            raise ValueError(
                f"{self.name} has heads={self.heads}, each of the same number of channels; got "
                f"inputs of the shape {x}."
            )
        scores = self.scores.shape_of(x, kv)
        self.scores.build(shapes)
        self.neuron.build(scores)
        self.sums.build([scores, kv, x])
        self.built = True

    def compose(self, apply, inputs):
        x, kv = inputs
        return apply(self.sums, [apply(self.neuron, apply(self.scores, [x, kv])), kv, x])

    def get_config(self):
        return super().get_config() | {"heads": self.heads, "momentum": self.momentum}
