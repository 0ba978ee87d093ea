"""SEW-ResNet: spike-element-wise residual networks (Fang et al., NeurIPS 2021).

Layouts, parameter counts and neurons are the paper's: for ImageNet IF (threshold 1, hard reset,
ATan(2), reset detached), T = 4; for event data ParametricLIF, T = 16. `SEWResNet8` is ours, for
images of 8x8 to 32x32.
"""

import functools

from keras_snn.applications import builder, factory, inputs, residual, spiking_resnet
from keras_snn.dynamics import CONNECTIONS
from keras_snn.utils.arguments import check_choice

__all__ = [
    "Plain7BNet",
    "SEW7BNet",
    "SEWResNet8",
    "SEWResNet18",
    "SEWResNet34",
    "SEWResNet50",
    "SEWResNet101",
    "SEWResNet152",
    "SEWWide7BNet",
    "Spiking7BNet",
]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def block(net, x, plan, name, connect, zero_init_residual):
    """`connect(branch(x), shortcut(x))`; a shortcut of another shape has a neuron too."""
    last_norm = {}
    if zero_init_residual:  # the branch must always fire for AND, never for the others
        last_norm = {"gamma": "zeros", "beta": "ones" if connect == "and" else "zeros"}
    filters, strides = plan[-1][0], max(strides for _, _, strides in plan)
    shortcut = residual.projection(net, x, filters, strides, name + "_shortcut", neuron=True)
    x = residual.branch(net, x, plan, residual.POST_ACTIVATION, name, last_norm=last_norm)
    return net.join(x, shortcut, f"{name}_{connect}", connect)


def resnet(
    net,
    x,
    *,
    plan,
    blocks,
    filters,
    connect="add",
    zero_init_residual=False,
    small_images=False,
):
    """A residual network whose blocks add (or otherwise join) spikes, after their last neuron.

    Args:
        connect: How branch and shortcut are joined: `"add"`, `"and"`, `"iand"`, `"or"`, `"xor"`, or
            `"reverse_iand"` for weights of SpikingJelly's bottleneck networks with IAND.
        zero_init_residual: Whether every fresh block is the identity (for `"add"`, `"and"`,
            `"iand"`, with IF neurons).
        small_images: Whether the stem is a 3x3 convolution without pooling, for images up to
            32x32.

    Source: Fang et al., "Deep Residual Learning in Spiking Neural Networks", NeurIPS 2021.
    """
    check_choice("connect", connect, CONNECTIONS)

    def unit(x, filters, strides, name):
        return block(net, x, plan(filters, strides), name, connect, zero_init_residual)

    x = residual.stem(net, x, filters[0], small_images)
    return residual.stages(x, unit, blocks, filters)


def event_net(net, x, *, filters, unit):
    """Seven blocks of two 3x3 convolutions, each followed by a 2x2 maximum, for event frames.

    Source: Fang et al., "Deep Residual Learning in Spiking Neural Networks", NeurIPS 2021; the 1x1
    convolutions are those of its code.
    """
    for index, channels in enumerate(filters, start=1):
        name = f"block{index}"
        if net.channels(x) != channels:
            x = residual.projection(net, x, channels, 1, name + "_up", neuron=True)
        x = unit(net, x, residual.basic(channels, 1), name)
        x = net.max_pool(x, name + "_pool")
    return x


def sew_event_net(net, x, *, filters, connect="add", zero_init_residual=False):
    """Seven blocks of two 3x3 convolutions, each followed by a 2x2 maximum, for event frames.

    Args:
        connect: How branch and shortcut are joined: `"add"`, `"and"`, `"iand"`, `"or"`, `"xor"`.
        zero_init_residual: Whether the branch of every fresh block is constant.

    Source: Fang et al., "Deep Residual Learning in Spiking Neural Networks", NeurIPS 2021; the 1x1
    convolutions are those of its code.
    """
    check_choice("connect", connect, CONNECTIONS)
    options = {"connect": connect, "zero_init_residual": zero_init_residual}
    return event_net(net, x, filters=filters, unit=functools.partial(block, **options))


def _plain_unit(net, x, plan, name):
    return residual.branch(net, x, plan, residual.POST_ACTIVATION, name)


def _spiking_unit(net, x, plan, name):
    return spiking_resnet.block(net, x, plan, name, last_norm={})


def event_top(net, x, classes, classifier_activation):
    """All features, their mean over time, the classifier."""
    x = net.readout(net.flatten(x))
    return net.dense(x, classes, "predictions", activation=classifier_activation)


def _resnet(depth):
    return factory.application(
        f"SEWResNet{depth}",
        f"sew_resnet{depth}",
        resnet,
        about=residual.about(depth, "a spiking residual network"),
        **residual.LAYOUTS[depth],
    )


SEWResNet18 = _resnet(18)
SEWResNet34 = _resnet(34)
SEWResNet50 = _resnet(50)
SEWResNet101 = _resnet(101)
SEWResNet152 = _resnet(152)
SEWResNet8 = factory.application(
    "SEWResNet8",
    "sew_resnet8",
    resnet,
    about="a small spiking residual network, of ours, with 1, 1, 1 blocks of two 3x3 convolutions",
    plan=residual.basic,
    blocks=(1, 1, 1),
    filters=(32, 64, 128),
    defaults={"small_images": True},
)


def _event_net(title, name, about, filters, features=event_net, **layout):
    return factory.application(
        title,
        name,
        features,
        event_top,
        about=f"the paper's {about}",
        example="(input_shape=(2, 128, 128, 2), classes=10)",
        size=128,
        minimum=128,
        channels=2,
        sequence=True,
        kernel_initializer=builder.TORCH_UNIFORM,
        defaults={"timesteps": 16, "neuron": "parametric_lif"},
        filters=filters,
        **layout,
    )


SEW7BNet = _event_net(
    "SEW7BNet",
    "sew_7b_net",
    "network for DVS128 Gesture, 7B-Net",
    (32,) * 7,
    sew_event_net,
)
SEWWide7BNet = _event_net(
    "SEWWide7BNet",
    "sew_wide_7b_net",
    "network for CIFAR10-DVS, Wide-7B-Net",
    (64,) * 4 + (128,) * 3,
    sew_event_net,
)
Plain7BNet = _event_net(
    "Plain7BNet",
    "plain_7b_net",
    "7B-Net without shortcuts, to compare with",
    (32,) * 7,
    unit=_plain_unit,
)
Spiking7BNet = _event_net(
    "Spiking7BNet",
    "spiking_7b_net",
    "7B-Net whose blocks add currents, before their last neuron, to compare with",
    (32,) * 7,
    unit=_spiking_unit,
)
