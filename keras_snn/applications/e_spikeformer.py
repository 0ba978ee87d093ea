"""E-SpikeFormer, the Spike-driven Transformer v3 (Yao et al., TPAMI 2025): integer spikes.

It trains with one step, in which a neuron fires up to four times; a device runs four steps of
binary spikes instead. Shortcuts carry membrane potentials. Layouts are those of the authors' code
for 5.1, 10 and 19 million parameters.
"""

from keras_snn import layers as snn
from keras_snn.applications import builder, factory, inputs, transformer
from keras_snn.applications import spike_driven_transformer as membrane
from keras_snn.applications.transformer import unit

__all__ = ["ESpikeFormer", "ESpikeFormerL", "ESpikeFormerM", "ESpikeFormerS", "ESpikeFormerT"]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def ilif():
    """The paper's neuron: integers from 0 to 4, divided by 4, of each step alone."""
    return snn.ILIF(max_spikes=4, tau=1.0, normalize=True)


def separable(net, x, ratio, size, name):
    """1x1, depthwise and 1x1 convolutions, each behind neurons, and the shortcut."""
    channels = net.channels(x)
    y = unit(net, x, int(ratio * channels), 1, f"{name}_sep1")
    y = net.depthwise(net.neuron(y, f"{name}_sep2_neuron"), size, f"{name}_sep2_conv")
    y = unit(net, net.norm(y, f"{name}_sep2_bn"), channels, 1, f"{name}_sep3")
    return net.join(y, x, f"{name}_sep_add")


def conv_block(net, x, ratio, name):
    """A separable convolution of 7x7 and an MLP of two 3x3 convolutions."""
    x = separable(net, x, 2, 7, name)
    y = unit(net, x, int(ratio * net.channels(x)), 3, f"{name}_mlp1")
    return net.join(unit(net, y, net.channels(x), 3, f"{name}_mlp2"), x, f"{name}_add")


def attention_block(net, x, heads, ratio, value_ratio, name):
    """A separable convolution of 3x3, attention with wide values, an MLP."""
    maps = x = separable(net, x, 2, 3, name)
    x = transformer.tokens(net, x, f"{name}_tokens")
    channels = x.step[-1]
    spikes, projected = net.neuron(x, f"{name}_shortcut_neuron"), []
    for part, units in (("q", channels), ("k", channels), ("v", int(value_ratio * channels))):
        y = transformer.projection(net, spikes, units, f"{name}_{part}")
        projected.append(net.neuron(y, f"{name}_{part}_neuron"))
    layer = snn.SpikingSelfAttention(
        heads,
        scale=2 * (channels // heads) ** -0.5,
        neuron=net.new_neuron(f"{name}_attention_neuron"),
        name=f"{name}_attention",
    )
    y = transformer.projection(net, net.combine(layer, projected), channels, f"{name}_proj")
    x = membrane.mlp(net, net.join(y, x, f"{name}_add1"), ratio, name, ("mlp",))
    return transformer.maps(net, x, maps, f"{name}_maps")


def e_spikeformer(
    net,
    x,
    *,
    width=(64, 128, 256, 360),
    blocks=(1, 1, 2, 6, 2),
    heads=8,
    mlp_ratio=4.0,
    value_ratio=4.0,
    small_images=False,
):
    """Convolutions and blocks of them, then blocks of attention, in five stages.

    Args:
        width: Channels of the last four stages; the first one has half of those of the second.
        blocks: Number of blocks of each stage. The last two have attention.
        heads: Heads of attention.
        mlp_ratio: Channels of the hidden layer of an MLP, as a multiple.
        value_ratio: Channels of the values of attention, as a multiple.
        small_images: Whether the first two stages keep the size, for images up to 32x32.

    Source: Yao et al., "Scaling Spike-driven Transformer with Efficient Spike Firing Approximation
    Training", TPAMI 2025.
    """
    strides = (1, 1, 2, 2, 1) if small_images else (2, 2, 2, 2, 1)
    for stage, filters in enumerate((width[0] // 2, *width), start=1):
        name, first = f"stage{stage}", stage == 1
        size = 7 if first else 3
        add = transformer.convolution if first else unit
        x = add(net, x, filters, size, name, strides[stage - 1], use_bias=True)
        for index in range(1, blocks[stage - 1] + 1):
            block = f"{name}_block{index}"
            if stage < 4:
                x = conv_block(net, x, mlp_ratio, block)
            else:
                x = attention_block(net, x, heads, mlp_ratio, value_ratio, block)
    return x


def top(net, x, classes, classifier_activation):
    """Global average pooling, neurons that give whole numbers, the mean over time, classifier."""
    x = net.repeat(net.global_pool(x), "head")
    neuron = net.new_neuron("head_neuron", normalize=False)
    x = net.readout(builder.Value(neuron(x.tensor), x.has_time))
    return net.dense(x, classes, "predictions", activation=classifier_activation)


_e_spikeformer = factory.family(
    e_spikeformer,
    top,
    kernel_initializer=builder.TORCH_UNIFORM,
    defaults={"neuron": ilif, "timesteps": 1},
)


def _sized(suffix, width, millions):
    return _e_spikeformer(
        f"ESpikeFormer{suffix}",
        f"e_spikeformer_{suffix.lower()}",
        f"a spike-driven transformer of {millions} million parameters",
        width=width,
        blocks=(1, 1, 2, 6, 2),
        heads=8,
    )


ESpikeFormer = _e_spikeformer(
    "ESpikeFormer",
    "e_spikeformer",
    "a spike-driven transformer of integer spikes, of any size",
    example="(input_shape=(16, 16, 3), classes=10, width=(8, 8, 16, 16), blocks=(1, 1, 1, 1, 1), "
    "heads=2, small_images=True)",
)
ESpikeFormerT = _sized("T", (24, 48, 96, 128), "2.5")
ESpikeFormerS = _sized("S", (32, 64, 128, 192), "5.1")
ESpikeFormerM = _sized("M", (48, 96, 192, 240), "10")
ESpikeFormerL = _sized("L", (64, 128, 256, 360), "19")
