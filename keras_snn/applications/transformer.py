"""Parts of spiking transformers: stems, tokens, attention with its projections, MLPs.

Attention and MLPs work on tokens, `(tokens, channels)` a step, so that their projections are dense
layers; stems and embeddings work on maps. Each projection is normalised. `biases` names the parts
of a network that have biases in front of their normalisation, where these change nothing but the
number of parameters: `"stem"`, `"qkv"`, `"proj"`, `"mlp"`. Projects differ in that.
"""

import math

from keras import initializers, layers

from keras_snn import layers as snn
from keras_snn.applications.builder import is_channels_first
from keras_snn.utils.arguments import check_choice

__all__ = []

# What the projects draw the weights of dense layers from.
TRUNCATED_NORMAL = initializers.TruncatedNormal(stddev=0.02)


def lif():
    """The papers' neuron: LIF, tau 2, hard reset without gradient, a sigmoid as surrogate."""
    return snn.LIF(tau=2.0, surrogate="sigmoid")


def check_biases(biases):
    """`biases`, if they name parts of a network."""
    for part in biases:
        check_choice("biases", part, ("stem", "qkv", "proj", "mlp"))
    return biases


def tokens(net, x, name):
    """Maps as tokens, `(tokens, channels)` a step."""
    if is_channels_first():
        x = net.apply(layers.Permute((2, 3, 1), name=f"{name}_channels_last"), x)
    return net.apply(layers.Reshape((-1, x.step[-1]), name=name), x)


def maps(net, x, like, name):
    """Tokens as maps again, of the height and width of `like`."""
    sizes = like.step[1:] if is_channels_first() else like.step[:-1]
    if None in sizes:
        raise ValueError(
            "A spiking transformer needs inputs of a known height and width, got maps of shape "
            f"{like.step}."
        )
    x = net.apply(layers.Reshape((*sizes, x.step[-1]), name=name), x)
    if not is_channels_first():
        return x
    return net.apply(layers.Permute((3, 1, 2), name=f"{name}_channels_first"), x)


def convolution(net, x, filters, size, name, strides=1, index="", **kwargs):
    """A convolution of maps, and its normalisation; `index` numbers both."""
    x = net.conv(x, filters, size, strides, f"{name}_conv{index}", **kwargs)
    return net.norm(x, f"{name}_bn{index}")


def unit(net, x, filters, size, name, strides=1, **kwargs):
    """A neuron, a convolution, its normalisation."""
    return convolution(net, net.neuron(x, f"{name}_neuron"), filters, size, name, strides, **kwargs)


def projection(net, x, units, name, use_bias=False):
    """A dense layer of each token, and its normalisation."""
    return net.norm(net.dense(x, units, f"{name}_dense", use_bias), f"{name}_bn")


def attention(net, x, layer, name, *args, biases=(), **kwargs):
    """Projections to what an attention layer takes, each with a neuron; attention; a projection.

    Args:
        net: The builder.
        x: Tokens.
        layer: A class of `keras_snn.layers.attention`.
        name: Name of the block.
        *args: Arguments of the layer.
        biases: Parts that have biases: `"qkv"`, `"proj"`.
        **kwargs: Further arguments of the layer.

    Returns:
        Currents, of the shape of `x`.
    """
    channels, inputs = x.step[-1], []
    for part in layer.names:
        y = projection(net, x, channels, f"{name}_{part}", "qkv" in biases)
        inputs.append(net.neuron(y, f"{name}_{part}_neuron"))
    neuron = net.new_neuron(f"{name}_neuron", threshold=0.5)
    made = layer(*args, neuron=neuron, name=f"{name}_attention", **kwargs)
    return projection(net, net.combine(made, inputs), channels, f"{name}_proj", "proj" in biases)


def mlp(net, x, ratio, name, biases=()):
    """Two projections, the first to `ratio` times the channels, each followed by a neuron."""
    channels = x.step[-1]
    for index, units in enumerate((int(channels * ratio), channels), start=1):
        x = projection(net, x, units, f"{name}_mlp{index}", "mlp" in biases)
        x = net.neuron(x, f"{name}_mlp{index}_neuron")
    return x


def spiking_block(net, x, layer, name, *args, ratio=4.0, biases=()):
    """Attention and an MLP whose spikes are added to the shortcut, which carries integers."""
    y = attention(net, x, layer, name, *args, biases=biases)
    x = net.join(net.neuron(y, f"{name}_proj_neuron"), x, f"{name}_add1")
    return net.join(mlp(net, x, ratio, name, biases), x, f"{name}_add2")


def pooled_stages(patch_size, stages=4):
    """Which of the stages of a stem halve the maps, the last ones, for patches of this size."""
    check_choice("patch_size", patch_size, [2**n for n in range(stages + 1)])
    return range(stages + 1 - int(math.log2(patch_size)), stages + 1)
