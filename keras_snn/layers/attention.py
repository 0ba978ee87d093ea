"""Attention between spikes: sums and products of zeros and ones, without a softmax.

Each layer takes queries, keys and values that neurons have made, `(batch, time, tokens, channels)`
or maps `(batch, time, height, width, channels)`, whose positions are the tokens (where images are
channels-first, tokens only). It owns its heads
and its neuron, and treats each step alone but for that neuron. Projections are `Dense` layers in
front of it and behind it, see `keras_snn.applications.transformer`. To leave tokens out, multiply
their keys by 0, and for `QKChannelAttention` their queries.

The layers are made of parts (products, sums, a neuron, a gate). Whoever reads a graph sees the
parts in its place: the neuron of the layer `attention` is called `attention_neuron`.
"""

import inspect
import math

import keras
import numpy as np
from keras import KerasTensor, ops, tree

from keras_snn import graph
from keras_snn.layers.neurons import LIF
from keras_snn.layers.registry import get_neuron
from keras_snn.utils.arguments import Configured, check_choice, check_integer, check_number

__all__ = [
    "QKChannelAttention",
    "QKTokenAttention",
    "SpikeDrivenAttention",
    "SpikingSelfAttention",
]


def token_axes(shape):
    """Axes of the tokens of `(batch, [time,] tokens, channels)` or of maps with time.

    Maps without time can't be told from sequences of tokens, and are not taken.
    """
    return (-3, -2) if len(shape) == 5 else (-2,)


def tokens_of(shape):
    """Number of tokens, `None` if it is open."""
    sizes = [shape[axis] for axis in token_axes(shape)]
    return None if None in sizes else math.prod(sizes)


def check_maps(layer, shapes):
    """Raises a `ValueError` for maps where images are channels-first: heads would split a width."""
    if keras.config.image_data_format() == "channels_first" and any(len(s) == 5 for s in shapes):
        raise ValueError(
            f"{layer.name} takes maps as (batch, time, height, width, channels), got the shapes "
            f"{shapes} while the image data format is 'channels_first': give it tokens, (batch, "
            "time, tokens, channels), or build the model with "
            "`keras.config.set_image_data_format('channels_last')`."
        )


def split_heads(x, heads):
    """`(batch and time, heads, tokens, channels of a head)`."""
    x = ops.reshape(x, (-1, tokens_of(ops.shape(x)), heads, x.shape[-1] // heads))
    return ops.swapaxes(x, 1, 2)


def first_mask(masks):
    """The first mask of those that a layer's inputs have, or `None`."""
    return next((mask for mask in tree.flatten(masks) if mask is not None), None)


class Part(Configured, keras.layers.Layer):
    """A step of attention that counts spikes, in float32 under mixed precision too."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.built = True

    def compute_mask(self, inputs, mask=None):
        return first_mask(mask)

    def compute_output_spec(self, inputs):
        shapes = tree.map_structure(lambda x: tuple(x.shape), inputs)
        shapes = shapes if isinstance(inputs, (list, tuple)) else [shapes]
        return KerasTensor(self.shape_of(*shapes), dtype=self.variable_dtype)

    def exact(self, x):
        """`x` in a dtype that counts spikes exactly: float16 ends at 2048, bfloat16 at 256."""
        return ops.cast(x, self.variable_dtype)

    def members(self, channels, heads):
        """Which channel is of which head, `(channels, heads)`.

        Sums are products by such matrices: TensorFlow Lite gets its own sums wrong in int16.
        """
        return np.repeat(np.eye(heads, dtype=self.variable_dtype), channels // heads, axis=0)


@keras.saving.register_keras_serializable(package="keras_snn")
class SpikeProducts(Part):
    """`scale * q k^T v` of each head, from `[q, k, v]`, in one of the two orders.

    Args:
        heads: Number of heads.
        scale: Factor on the products.
        order: `"q_kv"`, `"qk_v"` or `"auto"`, see `SpikingSelfAttention`.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, heads, scale, order, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.scale, self.order = heads, scale, order

    def shape_of(self, q, k, v):
        return v

    def is_linear(self, q, k, v):
        """Whether keys and values are multiplied first, for inputs of these shapes."""
        if self.order != "auto":
            return self.order == "q_kv"
        tokens, keys, values = tokens_of(q), q[-1] // self.heads, v[-1] // self.heads
        return tokens is None or 2 * keys * values <= tokens * (keys + values)

    def call(self, inputs):
        q, k, v = (split_heads(self.exact(x), self.heads) for x in inputs)
        k = ops.swapaxes(k, -1, -2)
        if self.is_linear(*(x.shape for x in inputs)):
            y = ops.matmul(q, ops.matmul(k, v))
        else:
            y = ops.matmul(ops.matmul(q, k), v)
        y = ops.swapaxes(y, 1, 2) * self.scale
        return ops.reshape(y, (-1, *ops.shape(inputs[2])[1:]))

    def get_config(self):
        own = {"heads": self.heads, "scale": self.scale, "order": self.order}
        return super().get_config() | own


@keras.saving.register_keras_serializable(package="keras_snn")
class HeadSums(Part):
    """Sums over the channels of each head, `(..., channels)` to `(..., heads)`.

    Args:
        heads: Number of heads.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def shape_of(self, x):
        return (*x[:-1], self.heads)

    def call(self, inputs):
        return ops.matmul(self.exact(inputs), self.members(inputs.shape[-1], self.heads))

    def get_config(self):
        return super().get_config() | {"heads": self.heads}


@keras.saving.register_keras_serializable(package="keras_snn")
class TokenSums(Part):
    """Sums over the tokens of `x`, or of the products of `[x, y]`, which stay as axes of size 1."""

    def shape_of(self, x, y=None):
        return (*x[: -1 - len(token_axes(x))], *[1] * len(token_axes(x)), x[-1])

    def call(self, inputs):
        x = math.prod(self.exact(x) for x in tree.flatten(inputs))
        *before, channels = ops.shape(x)
        count = len(token_axes(x.shape))
        tokens = math.prod(before[-count:])
        x = ops.reshape(x, (-1, *before[1:-count], tokens, channels))
        sums = ops.matmul(ops.ones((1, tokens), dtype=x.dtype), x)
        return sums if count == 1 else ops.expand_dims(sums, -2)


@keras.saving.register_keras_serializable(package="keras_snn")
class SpikeGate(Part):
    """`gate * x`, from `[gate, x]`: a gate has one entry for each head or for all tokens."""

    def shape_of(self, gate, x):
        return x

    def compute_output_spec(self, inputs):
        return KerasTensor(inputs[1].shape, dtype=self.compute_dtype)

    def call(self, inputs):
        gate, x = (self.exact(x) for x in inputs)
        if gate.shape[-1] != x.shape[-1]:
            gate = ops.matmul(gate, self.members(x.shape[-1], gate.shape[-1]).T)
        return ops.cast(gate * x, self.compute_dtype)


class SpikingAttention(Configured, keras.layers.Layer):
    """Base of attention layers: a layer made of parts, of which one is a neuron.

    A subclass names what it takes in `names` and says in `compose` how its parts are put together.

    Args:
        neuron: What `get_neuron` takes; by default the papers': `LIF` with threshold 0.5.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).
    """

    names, heads = ("q", "k", "v"), 1
    wide = None  # the input whose channels may be more or fewer than the others'

    def __init__(self, neuron=None, **kwargs):
        super().__init__(**kwargs)
        if neuron is None:
            neuron = LIF(threshold=0.5, surrogate="sigmoid", dtype=self.dtype_policy)
        self.neuron = get_neuron(neuron, f"{self.name}_neuron")
        self.supports_masking = True

    def part(self, cls, name, *args):
        """A part, whose name begins with the layer's."""
        return cls(*args, name=f"{self.name}_{name}", dtype=self.dtype_policy)

    def compose(self, apply, inputs):
        """The layer, as a composition of `apply(part, inputs of the part)`."""
        raise NotImplementedError

    def charged(self, *shapes):
        """Shape of what the neuron takes, for inputs of these shapes."""
        return shapes[0]

    @property
    def ranks(self):
        """How many axes inputs may have: those without time only where the neuron needs none."""
        return (3, 4, 5) if graph.role_of(self.neuron).time == "pointwise" else (4, 5)

    def build(self, input_shape):
        several = isinstance(input_shape[0], (list, tuple))
        shapes = [tuple(shape) for shape in (input_shape if several else [input_shape])]
        check_maps(self, shapes)
        common = [
            (*shape[:-1], shapes[0][-1]) if name == self.wide else shape
            for name, shape in zip(self.names, shapes)
        ]
        ranks = {len(shape) for shape in shapes}
        alike = len(ranks) == 1 and all(len({*sizes} - {None}) < 2 for sizes in zip(*common))
        if len(shapes) != len(self.names) or not alike or not ranks <= {*self.ranks}:
            raise ValueError(
                f"{self.name} expects a list [{', '.join(self.names)}] of tensors of one shape, "
                "(batch, time, tokens, channels) or (batch, time, height, width, channels)"
                f"{', or (batch, tokens, channels)' if 3 in self.ranks else ''}; got the shapes "
                f"{shapes}."
            )
        for shape in shapes:
            if shape[-1] is None or shape[-1] % self.heads:
                raise ValueError(
                    f"{self.name} has heads={self.heads}, each of the same number of channels; got "
                    f"inputs of the shape {shape}."
                )
        self.neuron.build(self.charged(*shapes))
        self.built = True

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def compute_mask(self, inputs, mask=None):
        return first_mask(mask)

    def call(self, inputs, mask=None):
        mask = first_mask(mask)

        def apply(part, inputs):
            takes = mask is not None and "mask" in inspect.signature(part.call).parameters
            return part(inputs, mask=mask) if takes else part(inputs)

        return self.compose(apply, inputs)

    def get_config(self):
        neuron = keras.saving.serialize_keras_object(self.neuron)
        return super().get_config() | {"neuron": neuron}


graph.COMPOSED.append(SpikingAttention)


@keras.saving.register_keras_serializable(package="keras_snn")
class SpikingSelfAttention(SpikingAttention):
    """Spiking self-attention: `neuron(scale * q k^T v)` of each head.

    Queries, keys and values are spikes, so the products are counts, and both orders give the same
    numbers exactly. `(q k^T) v` costs `2 tokens^2` multiplications a channel, `q (k^T v)` twice the
    number of tokens times the channels of a head.

    Args:
        heads: Number of heads.
        scale: Factor on the products. The papers' is 0.125, whatever the size of a head.
        order: `"q_kv"`: keys and values first; `"qk_v"`: queries and keys first; `"auto"`: the one
            that costs less.
        neuron: What `get_neuron` takes; by default the papers': `LIF` with threshold 0.5 and the
            surrogate gradient `"sigmoid"`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: The list `[q, k, v]`, spikes `(batch, time, tokens, channels)` or maps
            `(batch, time, height, width, channels)`, all of one shape, but that values may have
            other channels. With a neuron that is an activation also `(batch, tokens, channels)`.
        mask: Optional `(batch, time)`, true for steps to use: the neuron is silent in others.

    Returns:
        Spikes of the shape of `v`.

    Raises:
        ValueError: If the inputs are not three tensors of one such shape, or their channels can't
            be split among the heads.

    Source: Zhou et al., "Spikformer: When Spiking Neural Network Meets Transformer", ICLR 2023.

    Example:

    >>> q = k = v = keras.ops.ones((2, 4, 16, 8))
    >>> SpikingSelfAttention(heads=2)([q, k, v]).shape == (2, 4, 16, 8)
    True
    """

    wide = "v"

    def __init__(self, heads, scale=0.125, order="auto", neuron=None, **kwargs):
        super().__init__(neuron, **kwargs)
        self.heads = check_integer("heads", heads)
        self.scale = check_number("scale", scale, above=0)
        self.order = check_choice("order", order, ("auto", "q_kv", "qk_v"))
        self.products = self.part(SpikeProducts, "products", heads, scale, order)

    def charged(self, q, k, v):
        return v

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[2])

    def compose(self, apply, inputs):
        return apply(self.neuron, apply(self.products, inputs))

    def get_config(self):
        own = {"heads": self.heads, "scale": self.scale, "order": self.order}
        return super().get_config() | own


class QKAttention(SpikingAttention):
    """Base of Q-K attention: a neuron of sums of the queries lets keys pass or not.

    A subclass has the part that sums, `sums`.
    """

    names = ("q", "k")

    def __init__(self, neuron=None, **kwargs):
        super().__init__(neuron, **kwargs)
        self.gate = self.part(SpikeGate, "gate")

    def charged(self, q, *others):
        return self.sums.shape_of(q)

    def compose(self, apply, inputs):
        q, k = inputs
        return apply(self.gate, [apply(self.neuron, apply(self.sums, q)), k])


@keras.saving.register_keras_serializable(package="keras_snn")
class QKTokenAttention(QKAttention):
    """Q-K attention of tokens: a neuron of each head and token lets the token's keys pass or not.

    `neuron(sum of q over the channels of a head) * k`. There are no values and no products of
    matrices: the cost is linear in tokens and channels.

    Args:
        heads: Number of heads.
        neuron: What `get_neuron` takes; by default the papers': `LIF` with threshold 0.5 and the
            surrogate gradient `"sigmoid"`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: The list `[q, k]`, see `SpikingSelfAttention`.
        mask: Optional `(batch, time)`, true for steps to use: the others give zeros.

    Returns:
        Spikes of the shape of `k`.

    Raises:
        ValueError: As `SpikingSelfAttention`.

    Source: Zhou et al., "QKFormer: Hierarchical Spiking Transformer using Q-K Attention", NeurIPS
    2024.

    Example:

    >>> q = k = keras.ops.ones((2, 4, 8, 8, 32))  # maps
    >>> QKTokenAttention(heads=4)([q, k]).shape == (2, 4, 8, 8, 32)
    True
    """

    def __init__(self, heads, neuron=None, **kwargs):
        super().__init__(neuron, **kwargs)
        self.heads = check_integer("heads", heads)
        self.sums = self.part(HeadSums, "sums", heads)

    def get_config(self):
        return super().get_config() | {"heads": self.heads}


@keras.saving.register_keras_serializable(package="keras_snn")
class QKChannelAttention(QKAttention):
    """Q-K attention of channels: a neuron of each channel lets the keys of all tokens pass or not.

    `neuron(sum of q over the tokens) * k`. Each channel is treated alone: heads would change
    nothing.

    Args:
        neuron: What `get_neuron` takes; by default the papers': `LIF` with threshold 0.5 and the
            surrogate gradient `"sigmoid"`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: The list `[q, k]`, see `SpikingSelfAttention`.
        mask: Optional `(batch, time)`, true for steps to use: the others give zeros.

    Returns:
        Spikes of the shape of `k`.

    Raises:
        ValueError: As `SpikingSelfAttention`.

    Source: Zhou et al., "QKFormer: Hierarchical Spiking Transformer using Q-K Attention", NeurIPS
    2024.

    Example:

    >>> q = k = keras.ops.ones((2, 4, 16, 8))
    >>> QKChannelAttention()([q, k]).shape == (2, 4, 16, 8)
    True
    """

    def __init__(self, neuron=None, **kwargs):
        super().__init__(neuron, **kwargs)
        self.sums = self.part(TokenSums, "sums")


@keras.saving.register_keras_serializable(package="keras_snn")
class SpikeDrivenAttention(SpikingAttention):
    """Spike-driven self-attention: a neuron of each channel counts where keys and values agree.

    `q * neuron(sum of k * v over the tokens)`: masks and sums only, at a cost linear in tokens and
    channels. Each channel is treated alone: heads would change nothing.

    Args:
        neuron: What `get_neuron` takes; by default the papers': `LIF` with threshold 0.5 and the
            surrogate gradient `"sigmoid"`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: The list `[q, k, v]`, see `SpikingSelfAttention`.
        mask: Optional `(batch, time)`, true for steps to use: the others give zeros.

    Returns:
        Spikes of the shape of `q`.

    Raises:
        ValueError: As `SpikingSelfAttention`.

    Source: Yao et al., "Spike-driven Transformer", NeurIPS 2023, its SDSA-1.

    Example:

    >>> q = k = v = keras.ops.ones((2, 4, 16, 8))
    >>> SpikeDrivenAttention()([q, k, v]).shape == (2, 4, 16, 8)
    True
    """

    def __init__(self, neuron=None, **kwargs):
        super().__init__(neuron, **kwargs)
        self.sums = self.part(TokenSums, "sums")
        self.gate = self.part(SpikeGate, "gate")

    def charged(self, q, *others):
        return self.sums.shape_of(q)

    def compose(self, apply, inputs):
        q, k, v = inputs
        return apply(self.gate, [apply(self.neuron, apply(self.sums, [k, v])), q])
