"""Max-ResNet: a membrane-shortcut residual network that pools by maxima (Fang et al., 2025).

Neurons let slow changes pass and damp quick ones, on maps as in time; a maximum over windows keeps
the edges that they take away. It follows the first convolution of each block that halves the maps.
"""

from keras_snn.applications import builder, factory, inputs, residual, transformer

__all__ = ["MaxResNet18"]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def resnet(net, x, *, blocks, filters):
    """A residual network with real-valued shortcuts, whose later stages begin with a max pooling.

    Source: Fang et al., "Spiking Neural Networks Need High Frequency Information", 2025.
    """
    x = net.norm(net.conv(x, 64, 3, 1, "stem_conv"), "stem_bn")

    def block(x, filters, strides, name):
        y = x
        for index in (1, 2):
            y = net.neuron(y, f"{name}_neuron{index}")
            y = net.norm(net.conv(y, filters, 3, 1, f"{name}_conv{index}"), f"{name}_bn{index}")
            if index == 1 and strides > 1:
                y = net.max_pool(y, name + "_pool", 3, strides)
        shortcut = residual.projection(net, x, filters, strides, name + "_shortcut")
        return net.join(y, shortcut, name + "_add")

    return net.neuron(residual.stages(x, block, blocks, filters), "head_neuron")


MaxResNet18 = factory.application(
    "MaxResNet18",
    "max_resnet18",
    resnet,
    about="a residual network for small images, 3, 3, 2 blocks of two 3x3 convolutions",
    size=32,
    minimum=8,
    blocks=(3, 3, 2),
    filters=(128, 256, 512),
    kernel_initializer=builder.TORCH_UNIFORM,
    defaults={"neuron": transformer.lif},
)
