"""Spikformer (Zhou et al., ICLR 2023): a vision transformer of spikes.

Shortcuts add spikes, so that blocks see integers. Layouts and neurons are those of the authors'
code: LIF with tau 2, a hard reset without gradient and a sigmoid as surrogate; the neuron behind
attention has threshold 0.5. The authors' counts of parameters include layer normalisations that
their networks do not use.
"""

from keras_snn import layers as snn
from keras_snn.applications import builder, factory, inputs, transformer
from keras_snn.utils.arguments import check_choice

__all__ = [
    "Spikformer",
    "Spikformer_4_384",
    "Spikformer_8_384",
    "Spikformer_8_512",
    "Spikformer_8_768",
]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def spikformer(
    net,
    x,
    *,
    width=384,
    blocks=4,
    heads=12,
    patch_size=4,
    mlp_ratio=4.0,
    pool="spikes",
    biases=(),
):
    """Four 3x3 convolutions to patches, a fifth for their position, blocks of attention and MLP.

    Args:
        width: Channels of tokens; those of the four convolutions are 1/8, 1/4, 1/2 and all.
        blocks: Number of blocks.
        heads: Heads of attention.
        patch_size: Pixels of a side of a patch: 2, 4, 8 or 16; so many of the convolutions, the
            last ones, are followed by a pool.
        mlp_ratio: Channels of the hidden layer of an MLP, as a multiple.
        pool: What a pool takes the maximum of: `"spikes"` as in the authors' code, or
            `"currents"`, in front of the neuron, as in SpikingJelly's.
        biases: Parts with biases in front of their normalisation: `"stem"`, `"qkv"`, `"proj"`,
            `"mlp"`. The authors' networks for CIFAR have the last three, those for ImageNet the
            last two, SpikingJelly's have none.

    Source: Zhou et al., "Spikformer: When Spiking Neural Network Meets Transformer", ICLR 2023.
    """
    check_choice("pool", pool, ("spikes", "currents"))
    biases = transformer.check_biases(biases)
    pooled = transformer.pooled_stages(patch_size)
    for index in range(1, 5):
        x = net.conv(x, width * 2**index // 16, 3, 1, f"stem_conv{index}", "stem" in biases)
        x = net.norm(x, f"stem_bn{index}")
        if pool == "spikes":
            x = net.neuron(x, f"stem_neuron{index}")
        if index in pooled:
            x = net.max_pool(x, f"stem_pool{index}", 3, 2)
        if pool == "currents":
            x = net.neuron(x, f"stem_neuron{index}")
    y = net.norm(net.conv(x, width, 3, 1, "position_conv"), "position_bn")
    stem = net.join(net.neuron(y, "position_neuron"), x, "position_add")
    x = transformer.tokens(net, stem, "tokens")
    for index in range(1, blocks + 1):
        x = transformer.spiking_block(
            net,
            x,
            snn.SpikingSelfAttention,
            f"block{index}",
            heads,
            ratio=mlp_ratio,
            biases=biases,
        )
    return transformer.maps(net, x, stem, "maps")


_spikformer = factory.family(
    spikformer,
    kernel_initializer=builder.TORCH_UNIFORM,
    dense_initializer=transformer.TRUNCATED_NORMAL,
    defaults={"neuron": transformer.lif},
)


def _sized(blocks, width, heads, size, patch_size):
    return _spikformer(
        f"Spikformer_{blocks}_{width}",
        f"spikformer_{blocks}_{width}",
        f"a spiking transformer of {blocks} blocks and {width} channels for {size}x{size} pixels",
        size=size,
        minimum=patch_size,
        blocks=blocks,
        width=width,
        patch_size=patch_size,
        defaults={"heads": heads},
    )


Spikformer = _spikformer(
    "Spikformer",
    "spikformer",
    "a spiking transformer of any size",
    example="(input_shape=(8, 8, 3), classes=10, timesteps=2, width=16, blocks=1, heads=2)",
    size=32,
    minimum=4,
)
Spikformer_4_384 = _sized(4, 384, 12, 32, 4)
Spikformer_8_384 = _sized(8, 384, 12, 224, 16)
Spikformer_8_512 = _sized(8, 512, 8, 224, 16)
Spikformer_8_768 = _sized(8, 768, 12, 224, 16)
