"""S-ResNet: residual spiking networks with normalisation through time (Vicente-Sola et al., 2022).

Layouts, neuron, initialisation and T = 50 are those of the authors' code. As the paper intends, and
other than in that code, its normalisation through time has no shift.
"""

from keras_snn import layers as snn
from keras_snn.applications import builder, factory, inputs, residual
from keras_snn.utils.arguments import check_choice, check_integer

__all__ = ["SResNet", "SResNet20", "SResNet38", "SResNet56"]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def lif():
    """The paper's neuron."""
    return snn.DecayLIF(
        decay=0.874, threshold=1.0, reset="soft", detach_reset=True, surrogate="triangle"
    )


def resnet(net, x, *, depth=38, width=32, residual_at="spike", stem_strides=1):
    """A residual network for small images with three stages of `(depth - 2) / 6` blocks.

    Args:
        depth: Number of weighted layers, `6 n + 2` with `n` blocks in each of three stages.
        width: Channels of the first stage; each later stage has twice as many.
        residual_at: What is added: `"spike"`, spikes after the block's last neuron to a shortcut
            without a neuron; `"current"`, currents before it.
        stem_strides: Strides of the first convolution: 2 for event frames of 64x64.

    Source: Vicente-Sola et al., "Keys to Accurate Feature Extraction Using Residual Spiking Neural
    Networks", 2022.
    """
    check_integer("width", width)
    check_choice("residual_at", residual_at, ("spike", "current"))
    if check_integer("depth", depth) < 8 or depth % 6 != 2:
        raise ValueError(f"`depth` must be 6 n + 2 with n of at least 1. Received: depth={depth}")
    at_spike = residual_at == "spike"
    x = net.norm(net.conv(x, width, 3, stem_strides, "stem_conv"), "stem_bn")
    x = net.neuron(x, "stem_neuron")

    def unit(x, filters, strides, name):
        shortcut = residual.projection(net, x, filters, strides, name + "_shortcut")
        plan, order = residual.basic(filters, strides), residual.POST_ACTIVATION
        x = residual.branch(net, x, plan, order, name, last_neuron=at_spike)
        x = net.join(x, shortcut, name + "_add")
        return x if at_spike else net.neuron(x, name + "_neuron2")

    return residual.stages(x, unit, [(depth - 2) // 6] * 3, (width, 2 * width, 4 * width))


def top(net, x, classes, classifier_activation, *, boosting=False):
    """Global average pooling, the mean over time of the output layer's voltage.

    Args:
        boosting: Whether ten outputs for each class are averaged.
    """
    x = net.readout(net.global_pool(x))
    if not boosting:
        return net.dense(x, classes, "predictions", False, activation=classifier_activation)
    x = net.apply(snn.Voting(10, name="voting"), net.dense(x, 10 * classes, "boosting", False))
    return net.activation(x, classifier_activation, "predictions")


def _resnet(depth=None):
    return factory.application(
        f"SResNet{depth or ''}",
        f"s_resnet{depth or ''}",
        resnet,
        top,
        about="a spiking residual network of any depth and width"
        if depth is None
        else f"a spiking residual network with {', '.join([str((depth - 2) // 6)] * 3)} blocks",
        size=32,
        minimum=4,
        kernel_initializer=builder.GLOROT_2,
        dense_initializer=builder.GLOROT_2,
        defaults={"timesteps": 50, "neuron": lif, "norm": "bntt"},
        **({} if depth is None else {"depth": depth}),
    )


SResNet = _resnet()
SResNet20 = _resnet(20)
SResNet38 = _resnet(38)
SResNet56 = _resnet(56)
