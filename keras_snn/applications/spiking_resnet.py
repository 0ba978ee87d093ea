"""Plain spiking ResNets: currents are added before a block's last neuron.

`SpikingResNet18` to `152` have the layout of torchvision's ResNets with neurons in place of ReLUs
(the networks that SEW-ResNet is compared with). `ConversionResNet12` to `34` are those of hybrid
training (Rathi et al., 2020) and Spike-Norm (Sengupta et al., 2019): without biases and
normalisation, with average pooling, so that an ANN of the same layout (`timesteps=None`,
`neuron=keras.layers.ReLU`) converts without loss. The head of `ConversionResNet34` is our reading.
"""

from keras_snn import layers as snn
from keras_snn.applications import builder, factory, inputs, residual
from keras_snn.utils.arguments import check_choice

__all__ = [
    "ConversionResNet12",
    "ConversionResNet20",
    "ConversionResNet34",
    "SpikingResNet18",
    "SpikingResNet34",
    "SpikingResNet50",
    "SpikingResNet101",
    "SpikingResNet152",
]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def block(net, x, plan, name, last_norm, **norm):
    """`neuron(branch(x) + shortcut(x))`."""
    filters, strides = plan[-1][0], max(strides for _, _, strides in plan)
    shortcut = residual.projection(net, x, filters, strides, name + "_shortcut", **norm)
    x = residual.branch(
        net, x, plan, residual.POST_ACTIVATION, name, last_neuron=False, last_norm=last_norm
    )
    x = net.join(x, shortcut, name + "_add")
    return net.neuron(x, f"{name}_neuron{len(plan)}")


def resnet(
    net,
    x,
    *,
    plan,
    blocks,
    filters,
    zero_init_residual=False,
    small_images=False,
    strided_convolution="3x3",
):
    """A residual network whose blocks add currents, before their last neuron.

    Args:
        zero_init_residual: Whether the branch of every fresh block is silent.
        small_images: Whether the stem is a 3x3 convolution without pooling, for images up to
            32x32.
        strided_convolution: Which convolution of a bottleneck halves the maps: `"3x3"` as in
            torchvision and in the papers' code, or `"1x1"` as in `keras.applications`.

    Source: Fang et al., "Deep Residual Learning in Spiking Neural Networks", NeurIPS 2021.
    """
    check_choice("strided_convolution", strided_convolution, ("3x3", "1x1"))
    last_norm = {"gamma": "zeros"} if zero_init_residual else {}

    def unit(x, filters, strides, name):
        return block(net, x, plan(filters, strides, strided_convolution), name, last_norm)

    x = residual.stem(net, x, filters[0], small_images)
    return residual.stages(x, unit, blocks, filters)


def conversion_resnet(net, x, *, blocks, stem_strides, dropout=0.2, width=1.0):
    """A residual network without biases and normalisation, with dropout.

    Three 3x3 convolutions and a 2x2 mean are the stem.

    Args:
        dropout: Share of units that dropout leaves out, with one mask for all steps.
        width: Factor on the numbers of channels.

    Source: Rathi et al., "Enabling Deep Spiking Neural Networks with Hybrid Conversion and Spike
    Timing Dependent Backpropagation", ICLR 2020.
    """
    for index, strides in enumerate((stem_strides, 1, 1), start=1):
        x = net.conv(x, round(64 * width), 3, strides, f"stem_conv{index}")
        x = net.neuron(x, f"stem_neuron{index}")
        x = net.dropout(x, dropout, f"stem_dropout{index}") if index < 3 else x
    x = net.average_pool(x, "stem_pool")

    def unit(x, filters, strides, name):
        shortcut = residual.projection(net, x, filters, strides, name + "_shortcut")
        x = net.neuron(net.conv(x, filters, 3, strides, name + "_conv1"), name + "_neuron1")
        x = net.dropout(x, dropout, name + "_dropout")
        x = net.join(net.conv(x, filters, 3, 1, name + "_conv2"), shortcut, name + "_add")
        return net.neuron(x, name + "_neuron2")

    filters = [round(width * n) for n in residual.FILTERS]
    return residual.stages(x, unit, blocks, filters)


def conversion_top(net, x, classes, classifier_activation, *, pool):
    """All features (or their means over space), the classifier's sum over time."""
    x = net.readout(
        net.global_pool(x) if pool else net.flatten(x), snn.SumOverTime, "sum_over_time"
    )
    return net.dense(x, classes, "predictions", False, activation=classifier_activation)


def _resnet(depth):
    return factory.application(
        f"SpikingResNet{depth}",
        f"spiking_resnet{depth}",
        resnet,
        about=residual.about(depth, "a plain spiking residual network"),
        **residual.LAYOUTS[depth],
    )


SpikingResNet18 = _resnet(18)
SpikingResNet34 = _resnet(34)
SpikingResNet50 = _resnet(50)
SpikingResNet101 = _resnet(101)
SpikingResNet152 = _resnet(152)


def _conversion(depth, blocks, size, **layout):
    return factory.application(
        f"ConversionResNet{depth}",
        f"conversion_resnet{depth}",
        conversion_resnet,
        conversion_top,
        about=f"a residual network for conversion with {', '.join(map(str, blocks))} blocks",
        size=size,
        defaults={"norm": None, "neuron": builder.soft_if, "timesteps": 100},
        minimum=32,
        blocks=blocks,
        dense_initializer=builder.SMALL_NORMAL,
        **layout,
    )


ConversionResNet12 = _conversion(12, (1, 1, 1, 1), 32, stem_strides=1, pool=False)
ConversionResNet20 = _conversion(20, (2, 2, 2, 2), 32, stem_strides=1, pool=False)
ConversionResNet34 = _conversion(34, (3, 4, 6, 3), 224, stem_strides=2, pool=True)
