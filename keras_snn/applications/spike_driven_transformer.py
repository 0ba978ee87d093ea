"""Spike-driven Transformer (Yao et al., NeurIPS 2023): masks and sums in place of products.

Shortcuts carry membrane potentials, and neurons come before projections, which see spikes only.
Layouts and neurons are those of the authors' code: LIF with tau 2, a hard reset without gradient
and a sigmoid as surrogate; the neuron of attention has threshold 0.5.
"""

from keras_snn import layers as snn
from keras_snn.applications import factory, inputs, transformer

__all__ = ["SDT", "SDT_2_512", "SDT_6_512", "SDT_8_384", "SDT_8_512", "SDT_8_768"]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def mlp(net, x, ratio, name, biases):
    """A neuron and a projection, twice; `x` is added, and after both if widths agree."""
    channels = x.step[-1]
    hidden = int(channels * ratio)
    y = net.neuron(x, f"{name}_mlp1_neuron")
    y = transformer.projection(net, y, hidden, f"{name}_mlp1", "mlp" in biases)
    if hidden == channels:
        x = y = net.join(y, x, f"{name}_mlp1_add")
    y = net.neuron(y, f"{name}_mlp2_neuron")
    y = transformer.projection(net, y, channels, f"{name}_mlp2", "mlp" in biases)
    return net.join(y, x, f"{name}_add2")


def transformer_v1(
    net,
    x,
    *,
    width=512,
    blocks=2,
    patch_size=4,
    mlp_ratio=4.0,
    biases=("stem", "proj", "mlp"),
):
    """Four 3x3 convolutions to patches, a fifth for their position, blocks of attention and MLP.

    Args:
        width: Channels of tokens; those of the four convolutions are 1/8, 1/4, 1/2 and all.
        blocks: Number of blocks.
        patch_size: Pixels of a side of a patch: 2, 4, 8 or 16; so many of the convolutions, the
            last ones, are followed by a pool.
        mlp_ratio: Channels of the hidden layer of an MLP, as a multiple.
        biases: Parts with biases in front of their normalisation: `"stem"`, `"qkv"`, `"proj"`,
            `"mlp"`. SpikingJelly's networks have all but `"qkv"`, the authors' the last two.

    Source: Yao et al., "Spike-driven Transformer", NeurIPS 2023.
    """
    biases = transformer.check_biases(biases)
    pooled = transformer.pooled_stages(patch_size)
    for index in range(1, 5):
        x = net.conv(x, width * 2**index // 16, 3, 1, f"stem_conv{index}", "stem" in biases)
        x = net.norm(x, f"stem_bn{index}")
        x = net.neuron(x, f"stem_neuron{index}") if index < 4 else x
        x = net.max_pool(x, f"stem_pool{index}", 3, 2) if index in pooled else x
    y = net.conv(net.neuron(x, "stem_neuron4"), width, 3, 1, "position_conv")
    y = net.norm(y, "position_bn")
    stem = net.join(y, x, "position_add")
    x = transformer.tokens(net, stem, "tokens")
    for index in range(1, blocks + 1):
        name = f"block{index}"
        y = net.neuron(x, f"{name}_shortcut_neuron")
        y = transformer.attention(net, y, snn.SpikeDrivenAttention, name, biases=biases)
        x = mlp(net, net.join(y, x, f"{name}_add1"), mlp_ratio, name, biases)
    return transformer.maps(net, x, stem, "maps")


def top(net, x, classes, classifier_activation):
    """Global average pooling, neurons, the mean over time, the classifier."""
    x = net.readout(net.neuron(net.global_pool(x), "head_neuron"))
    return net.dense(x, classes, "predictions", activation=classifier_activation)


_sdt = factory.family(
    transformer_v1,
    top,
    kernel_initializer=transformer.TRUNCATED_NORMAL,
    dense_initializer=transformer.TRUNCATED_NORMAL,
    defaults={"neuron": transformer.lif},
)


def _sized(blocks, width, size, patch_size):
    return _sdt(
        f"SDT_{blocks}_{width}",
        f"sdt_{blocks}_{width}",
        f"a spike-driven transformer of {blocks} blocks and {width} channels for {size}x{size} "
        "pixels",
        size=size,
        minimum=patch_size,
        blocks=blocks,
        width=width,
        patch_size=patch_size,
    )


SDT = _sdt(
    "SDT",
    "sdt",
    "a spike-driven transformer of any size",
    example="(input_shape=(8, 8, 3), classes=10, timesteps=2, width=16, blocks=1)",
    size=32,
    minimum=4,
)
SDT_2_512 = _sized(2, 512, 32, 4)
SDT_6_512 = _sized(6, 512, 224, 16)
SDT_8_384 = _sized(8, 384, 224, 16)
SDT_8_512 = _sized(8, 512, 224, 16)
SDT_8_768 = _sized(8, 768, 224, 16)
