"""MS-ResNet: membrane-shortcut residual networks (Hu et al., 2021).

The shortcut carries membrane potentials, real numbers that no neuron touches between blocks;
neurons come before convolutions, which see spikes only. Layouts and neurons are those of the
authors' code: LIF with decay 0.25, threshold 0.5, a reset without gradient and a rectangular
surrogate gradient.
"""

from keras import initializers

from keras_snn import layers as snn
from keras_snn.applications import builder, factory, inputs, residual

__all__ = ["MSResNet18", "MSResNet34", "MSResNet104"]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def lif():
    """The paper's neuron."""
    return snn.DecayLIF(decay=0.25, threshold=0.5, detach_reset=True)


def resnet(net, x, *, blocks, deep_stem, zero_init_residual=True, small_images=False):
    """A residual network with real-valued shortcuts, whose every stage halves the maps.

    Args:
        zero_init_residual: Whether every fresh block is the identity.
        small_images: Whether the stem and the first stage keep the size, for images up to 32x32.

    Source: Hu et al., "Advancing Spiking Neural Networks towards Deep Residual Learning", 2021.
    """
    norm = {"gamma": initializers.Constant(net.threshold)}
    last_norm = {"gamma": "zeros"} if zero_init_residual else norm
    if deep_stem:  # in the authors' code these convolutions have biases
        for index in (1, 2, 3):
            strides = 2 if index == 1 and not small_images else 1
            x = net.conv(x, 64, 3, strides, f"stem_conv{index}", use_bias=True)
    else:
        size, strides = (3, 1) if small_images else (7, 2)
        x = net.conv(x, 64, size, strides, "stem_conv")
    x = net.norm(x, "stem_bn", **norm)

    def unit(x, filters, strides, name):
        if deep_stem and strides > 1:
            shortcut = net.average_pool(x, name + "_shortcut_pool")
            shortcut = residual.transition(net, shortcut, filters, 1, name + "_shortcut", **norm)
        else:
            shortcut = residual.projection(net, x, filters, strides, name + "_shortcut", **norm)
        plan, order = residual.basic(filters, strides), residual.PRE_ACTIVATION
        x = residual.branch(net, x, plan, order, name, norm=norm, last_norm=last_norm)
        return net.join(x, shortcut, name + "_add")

    x = residual.stages(x, unit, blocks, residual.FILTERS, 1 if small_images else 2)
    return net.neuron(x, "head_neuron")


def top(net, x, classes, classifier_activation, *, dropout=0.0):
    """Global average pooling, the mean over time, dropout, the classifier.

    Args:
        dropout: Share of features that dropout leaves out in front of the classifier.
    """
    x = net.dropout(net.readout(net.global_pool(x)), dropout, "dropout")
    return net.dense(x, classes, "predictions", activation=classifier_activation)


def _resnet(depth, blocks, about, deep_stem=False, dropout=0.0):
    return factory.application(
        f"MSResNet{depth}",
        f"ms_resnet{depth}",
        resnet,
        top,
        about=about,
        blocks=blocks,
        deep_stem=deep_stem,
        kernel_initializer=builder.TORCH_UNIFORM,
        defaults={"neuron": lif, "timesteps": 6, "dropout": dropout},
    )


ABOUT = "a residual network with membrane shortcuts and {} blocks of two 3x3 convolutions"
MSResNet18 = _resnet(18, (2, 2, 2, 2), ABOUT.format("2, 2, 2, 2"))
MSResNet34 = _resnet(34, (3, 4, 6, 3), ABOUT.format("3, 4, 6, 3"))
MSResNet104 = _resnet(
    104,
    (3, 8, 32, 8),
    ABOUT.format("3, 8, 32, 8")
    + ", a stem of three, and shortcuts that average before they project",
    deep_stem=True,
    dropout=0.2,
)
