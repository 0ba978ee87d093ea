"""Max-Former (Fang et al., NeurIPS 2025): a spiking transformer that pools by maxima.

Neurons damp quick changes; maxima and depthwise convolutions in the first stages bring them back,
and only the last stage has attention. Shortcuts carry membrane potentials, and neurons come before
convolutions, which see spikes only.
"""

from keras_snn import layers as snn
from keras_snn.applications import builder, factory, inputs, transformer
from keras_snn.applications import spike_driven_transformer as membrane
from keras_snn.applications.transformer import convolution
from keras_snn.utils.arguments import check_choice

__all__ = [
    "MaxFormer",
    "MaxFormer_4_384",
    "MaxFormer_10_384",
    "MaxFormer_10_512",
    "MaxFormer_10_768",
]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def stem(net, x, width, strides, use_bias):
    """A 3x3 convolution, then one or two of 3x3 beside one of 1x1; the first two have strides.

    There are two where the maps become smaller.
    """
    name = "stage1_embedding"
    x = net.neuron(
        convolution(net, x, width // 2, 3, "stem", strides, use_bias=use_bias), "stem_neuron"
    )
    y = convolution(net, x, width, 3, name, strides, 1, use_bias=use_bias)
    if strides > 1:
        y = net.neuron(y, f"{name}_neuron")
        y = convolution(net, y, width, 3, name, index=2, use_bias=use_bias)
    x = convolution(net, x, width, 1, f"{name}_shortcut", strides, use_bias=use_bias)
    return net.join(y, x, f"{name}_add")


def embedding(net, x, filters, name, use_bias):
    """3x3 convolutions beside one of 1x1; on either side a max pooling halves the maps."""
    x = net.neuron(x, f"{name}_neuron1")
    y = convolution(net, x, filters, 3, name, index=1, use_bias=use_bias)
    y = net.neuron(net.max_pool(y, f"{name}_pool", 3, 2), f"{name}_neuron2")
    y = convolution(net, y, filters, 3, name, index=2, use_bias=use_bias)
    x = convolution(net, x, filters, 1, f"{name}_shortcut", use_bias=use_bias)
    return net.join(y, net.max_pool(x, f"{name}_shortcut_pool", 3, 2), f"{name}_add")


def mixed(net, x, size, name):
    """A neuron and a depthwise convolution, added to `x`, which without a size stays as it is."""
    if not size:
        return x
    y = net.depthwise(net.neuron(x, f"{name}_mix_neuron"), size, f"{name}_mix_conv", use_bias=True)
    return net.join(net.norm(y, f"{name}_mix_bn"), x, f"{name}_mix_add")


def max_former(
    net,
    x,
    *,
    width=384,
    blocks=(1, 1, 2),
    heads=8,
    mixing=(None, 3),
    patch_size=4,
    mlp_ratio=4.0,
    shortcut="membrane",
):
    """Three stages: two mix positions by depthwise convolutions, the last one by attention.

    Args:
        width: Channels of the last stage; the others have a quarter and half of them.
        blocks: Number of blocks of each stage.
        heads: Heads of attention.
        mixing: Sizes of the depthwise convolutions of the first two stages, `None` for no mixing.
        patch_size: Pixels of a side of a patch of the last stage: 4, or 16.
        mlp_ratio: Channels of the hidden layer of an MLP, as a multiple.
        shortcut: What attention adds: `"membrane"`, potentials of spikes in front of it, as in the
            authors' code; `"spikes"`, spikes of potentials in front of it, as SpikingJelly's
            networks for ImageNet, whose stem and embeddings have biases and attention has none.

    Source: Fang et al., "Spiking Neural Networks Need High Frequency Information", NeurIPS 2025.
    """
    check_choice("patch_size", patch_size, (4, 16))
    check_choice("shortcut", shortcut, ("membrane", "spikes"))
    of_spikes = shortcut == "spikes"
    biases = ("mlp",) if of_spikes else ("proj", "mlp")
    x = stem(net, x, width // 4, 1 if patch_size == 4 else 2, of_spikes)
    for stage, count in enumerate(blocks, start=1):
        name = f"stage{stage}"
        if stage > 1:
            x = embedding(net, x, width * 2**stage // 8, f"{name}_embedding", of_spikes)
        embedded = x
        for index in range(1, count + 1):
            block = f"{name}_block{index}"
            if stage < 3:
                x = mixed(net, x, mixing[stage - 1], block)
            x = transformer.tokens(net, x, f"{block}_tokens")
            if stage == 3:
                y = x if of_spikes else net.neuron(x, f"{block}_shortcut_neuron")
                y = transformer.attention(
                    net, y, snn.SpikingSelfAttention, block, heads, biases=biases
                )
                y = net.neuron(y, f"{block}_proj_neuron") if of_spikes else y
                x = net.join(y, x, f"{block}_add1")
            x = membrane.mlp(net, x, mlp_ratio, block, biases)
            x = transformer.maps(net, x, embedded, f"{block}_maps")
    return x


_max_former = factory.family(
    max_former,
    membrane.top,
    dense_initializer=transformer.TRUNCATED_NORMAL,
    defaults={"neuron": transformer.lif},
)


def _large(width):
    return _max_former(
        f"MaxFormer_10_{width}",
        f"max_former_10_{width}",
        f"a spiking transformer of 1, 2, 7 blocks with up to {width} channels for 224x224 pixels",
        kernel_initializer=transformer.TRUNCATED_NORMAL,
        width=width,
        blocks=(1, 2, 7),
        heads=width // 64,
        mixing=(7, 5),
        patch_size=16,
        defaults={"shortcut": "spikes"},
    )


SMALL = {"size": 32, "minimum": 4, "kernel_initializer": builder.TORCH_UNIFORM}
MaxFormer = _max_former(
    "MaxFormer",
    "max_former",
    "a spiking transformer with depthwise convolutions, of any size",
    example="(input_shape=(8, 8, 3), classes=10, timesteps=2, width=32, heads=2)",
    **SMALL,
)
MaxFormer_4_384 = _max_former(
    "MaxFormer_4_384",
    "max_former_4_384",
    "a spiking transformer of 1, 1, 2 blocks with up to 384 channels for 32x32 pixels",
    width=384,
    blocks=(1, 1, 2),
    heads=8,
    mixing=(None, 3),
    patch_size=4,
    shortcut="membrane",
    **SMALL,
)
MaxFormer_10_384 = _large(384)
MaxFormer_10_512 = _large(512)
MaxFormer_10_768 = _large(768)
