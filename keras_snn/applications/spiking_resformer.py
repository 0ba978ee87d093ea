"""SpikingResformer (Shi et al., CVPR 2024): stages of a ResNet with dual spike attention.

Shortcuts carry membrane potentials, and neurons come before convolutions, which see spikes only.
Attention is to a coarser map, which a strided convolution makes of the same spikes.
"""

from keras_snn import layers as snn
from keras_snn.applications import factory, inputs, transformer
from keras_snn.applications.transformer import unit

__all__ = [
    "SpikingResformer",
    "SpikingResformerL",
    "SpikingResformerM",
    "SpikingResformerS",
    "SpikingResformerTi",
]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def attention(net, x, heads, patch_size, name):
    """Dual spike attention to patches, with its projection and the shortcut."""
    channels = net.channels(x)
    spikes = net.neuron(x, f"{name}_neuron")
    kv = net.conv(spikes, 2 * channels, patch_size, patch_size, f"{name}_kv_conv", padding="valid")
    kv = net.norm(kv, f"{name}_kv_bn")
    neuron = net.new_neuron(f"{name}_attention_neuron")
    layer = snn.DualSpikeAttention(heads, neuron=neuron, name=f"{name}_attention")
    tokens = [
        transformer.tokens(net, value, f"{name}_{part}_tokens")
        for part, value in (("q", spikes), ("kv", kv))
    ]
    y = transformer.maps(net, net.combine(layer, tokens), spikes, f"{name}_maps")
    return net.join(unit(net, y, channels, 1, f"{name}_proj"), x, f"{name}_add")


def mlp(net, x, ratio, group_size, name):
    """1x1, grouped 3x3 and 1x1 convolutions, the second one with a shortcut of its own."""
    channels = net.channels(x)
    hidden = int(channels * ratio)
    if hidden % group_size:
        raise ValueError(
            "Received an invalid value for argument `group_size`, expected a divisor of the "
            f"{hidden} hidden channels, got {group_size!r}."
        )
    y = unit(net, x, hidden, 1, f"{name}_up")
    z = unit(net, y, hidden, 3, f"{name}_mid", groups=hidden // group_size)
    y = unit(net, net.join(z, y, f"{name}_mid_add"), channels, 1, f"{name}_down")
    return net.join(y, x, f"{name}_add")


def resformer(
    net,
    x,
    *,
    width=(64, 192, 384),
    blocks=(1, 2, 3),
    heads=(1, 3, 6),
    patch_size=(4, 2, 1),
    mlp_ratio=4.0,
    group_size=64,
    small_images=False,
):
    """Three stages, each later one half as high, of blocks of attention and grouped MLP.

    Args:
        width: Channels of each stage.
        blocks: Number of blocks of each stage.
        heads: Heads of each stage's attention.
        patch_size: Side of the patches that attention of each stage is to.
        mlp_ratio: Channels of the hidden layers of an MLP, as a multiple.
        group_size: Channels of each group of an MLP's 3x3 convolution.
        small_images: Whether the stem keeps the size, for images up to 32x32.

    Source: Shi et al., "SpikingResformer: Bridging ResNet and Vision Transformer in Spiking Neural
    Networks", CVPR 2024.
    """
    size, strides = (3, 1) if small_images else (7, 2)
    x = net.norm(net.conv(x, width[0], size, strides, "stem_conv"), "stem_bn")
    x = x if small_images else net.max_pool(x, "stem_pool", 3, 2)
    for stage, (filters, count) in enumerate(zip(width, blocks), start=1):
        if stage > 1:
            x = unit(net, x, filters, 3, f"stage{stage}", strides=2)
        for index in range(1, count + 1):
            name = f"stage{stage}_block{index}"
            x = attention(net, x, heads[stage - 1], patch_size[stage - 1], f"{name}_attn")
            x = mlp(net, x, mlp_ratio, group_size, f"{name}_mlp")
    return x


def top(net, x, classes, classifier_activation):
    """Global average pooling at every step, the mean over time, the classifier without biases."""
    x = net.readout(net.global_pool(x))
    return net.dense(x, classes, "predictions", False, activation=classifier_activation)


_resformer = factory.family(
    resformer,
    top,
    kernel_initializer=transformer.TRUNCATED_NORMAL,
    dense_initializer=transformer.TRUNCATED_NORMAL,
    defaults={"neuron": snn.LIF},
)


def _sized(suffix, width, heads):
    return _resformer(
        f"SpikingResformer{suffix}",
        f"spiking_resformer_{suffix.lower()}",
        f"a spiking transformer of 1, 2, 3 blocks with {', '.join(map(str, width))} channels",
        width=width,
        blocks=(1, 2, 3),
        heads=heads,
    )


SpikingResformer = _resformer(
    "SpikingResformer",
    "spiking_resformer",
    "a spiking transformer with the stages of a ResNet, of any size",
    example="(input_shape=(16, 16, 3), classes=10, timesteps=2, width=(8, 16, 16), "
    "heads=(1, 2, 2), group_size=8, small_images=True)",
)
SpikingResformerTi = _sized("Ti", (64, 192, 384), (1, 3, 6))
SpikingResformerS = _sized("S", (64, 256, 512), (1, 4, 8))
SpikingResformerM = _sized("M", (64, 384, 768), (1, 6, 12))
SpikingResformerL = _sized("L", (128, 512, 1024), (2, 8, 16))
