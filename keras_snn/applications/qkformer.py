"""QKFormer (Zhou et al., NeurIPS 2024): a hierarchy of three stages with Q-K attention.

The first two stages have attention whose cost is linear, the last one spiking self-attention.
Layouts and neurons are those of the authors' code: LIF with tau 2, a hard reset without gradient
and a sigmoid as surrogate; the neurons of attention have threshold 0.5.
"""

from keras_snn import layers as snn
from keras_snn.applications import builder, factory, inputs, transformer
from keras_snn.utils.arguments import check_choice

__all__ = ["QKFormer", "QKFormer_4_384", "QKFormer_10_384", "QKFormer_10_512", "QKFormer_10_768"]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input

# By the pixels of a side of a patch: whether a pool follows the first convolution, those of the
# first embedding, and those of the other two.
POOLS = {4: (False, (False,), (False, True)), 16: (True, (True, False), (True, False))}
ATTENTION = {"token": snn.QKTokenAttention, "channel": snn.QKChannelAttention}


def unit(net, x, filters, name, index="", pool=False, use_bias=False, size=3, strides=1):
    """A convolution and its normalisation, a pool of currents where there is one, a neuron."""
    x = transformer.convolution(net, x, filters, size, name, strides, index, use_bias=use_bias)
    x = net.max_pool(x, f"{name}_pool{index}", 3, 2) if pool else x
    return net.neuron(x, f"{name}_neuron{index}")


def embedding(net, x, filters, pools, name, use_bias):
    """Patches with a shortcut: 3x3 convolutions beside one of 1x1, whose spikes are added."""
    strides = 2 if any(pools) else 1
    shortcut = unit(net, x, filters, f"{name}_shortcut", use_bias=use_bias, size=1, strides=strides)
    for index, pool in enumerate(pools, start=1):
        x = unit(net, x, filters, name, index, pool, use_bias)
    return net.join(x, shortcut, f"{name}_add")


def qkformer(
    net,
    x,
    *,
    width=384,
    blocks=(1, 1, 2),
    heads=8,
    patch_size=4,
    mlp_ratio=4.0,
    attention="token",
    biases=("proj", "mlp"),
):
    """Three stages, each of an embedding of patches and of blocks of attention and MLP.

    Args:
        width: Channels of the last stage; the others have a quarter and half of them.
        blocks: Number of blocks of each stage.
        heads: Heads of attention, in all stages.
        patch_size: Pixels of a side of a patch of the last stage: 4, or 16.
        mlp_ratio: Channels of the hidden layer of an MLP, as a multiple.
        attention: What the first two stages let pass: `"token"` or `"channel"`.
        biases: Parts with biases in front of their normalisation: `"stem"`, `"qkv"`, `"proj"`,
            `"mlp"`. The authors' networks have the last two, SpikingJelly's `("stem", "mlp")`.

    Source: Zhou et al., "QKFormer: Hierarchical Spiking Transformer using Q-K Attention", NeurIPS
    2024.
    """
    check_choice("attention", attention, ATTENTION)
    check_choice("patch_size", patch_size, POOLS)
    use_bias = "stem" in transformer.check_biases(biases)
    pool, first_pools, pools = POOLS[patch_size]
    x = unit(net, x, width // 8, "stem", pool=pool, use_bias=use_bias)
    for stage, count in enumerate(blocks, start=1):
        name, filters = f"stage{stage}", width * 2**stage // 8
        pools_ = first_pools if stage == 1 else pools
        embedded = embedding(net, x, filters, pools_, f"{name}_embedding", use_bias)
        x = transformer.tokens(net, embedded, f"{name}_tokens")
        for index in range(1, count + 1):
            x = transformer.spiking_block(
                net,
                x,
                snn.SpikingSelfAttention if stage == 3 else ATTENTION[attention],
                f"{name}_block{index}",
                *([] if stage < 3 and attention == "channel" else [heads]),
                ratio=mlp_ratio,
                biases=biases,
            )
        x = transformer.maps(net, x, embedded, f"{name}_maps")
    return x


_qkformer = factory.family(
    qkformer,
    kernel_initializer=builder.TORCH_UNIFORM,
    defaults={"neuron": transformer.lif},
)


def _sized(blocks, width, heads, size, patch_size, biases):
    return _qkformer(
        f"QKFormer_{sum(blocks)}_{width}",
        f"qkformer_{sum(blocks)}_{width}",
        f"a spiking transformer of {', '.join(map(str, blocks))} blocks with up to {width} "
        f"channels for {size}x{size} pixels",
        size=size,
        minimum=patch_size,
        blocks=blocks,
        width=width,
        patch_size=patch_size,
        defaults={"heads": heads, "biases": biases},
    )


QKFormer = _qkformer(
    "QKFormer",
    "qkformer",
    "a spiking transformer of three stages of any size",
    example="(input_shape=(8, 8, 3), classes=10, timesteps=2, width=32, heads=2)",
    size=32,
    minimum=4,
)
QKFormer_4_384 = _sized((1, 1, 2), 384, 8, 32, 4, ("proj", "mlp"))
QKFormer_10_384 = _sized((1, 2, 7), 384, 6, 224, 16, ("stem", "mlp"))
QKFormer_10_512 = _sized((1, 2, 7), 512, 8, 224, 16, ("stem", "mlp"))
QKFormer_10_768 = _sized((1, 2, 7), 768, 12, 224, 16, ("stem", "mlp"))
