"""The ResNets of STBP-tdBN (Zheng et al., AAAI 2021), with threshold-dependent normalisation.

Neurons are the paper's: LIF with decay 0.25, threshold 0.5, a gated reset that is differentiated
and a rectangular surrogate gradient. Layouts and parameters of ResNet-19 are those of public code;
the paper's fixed voting matrix is not known to us, so that logits are means over time. The layout
of ResNet-17 is our reading.
"""

from keras_snn.applications import factory, inputs, residual, spiking_resnet

__all__ = ["TDBNResNet17", "TDBNResNet19", "TDBNResNet34", "TDBNResNet50"]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def resnet(
    net,
    x,
    *,
    plan,
    blocks,
    filters,
    zero_init_residual=False,
    small_images=False,
):
    """A residual network whose summed branches have `1 / sqrt(2)` of the threshold's deviation.

    Args:
        zero_init_residual: Whether the branch of every fresh block is silent.
        small_images: Whether the stem is a 3x3 convolution without pooling, for images up to
            32x32.

    Source: Zheng et al., "Going Deeper With Directly-Trained Larger Spiking Neural Networks", AAAI
    2021.
    """
    last_norm = {"branches": 2, "gamma": "zeros" if zero_init_residual else "ones"}

    def unit(x, filters, strides, name):
        return spiking_resnet.block(net, x, plan(filters, strides), name, last_norm, branches=2)

    return residual.stages(residual.stem(net, x, 64, small_images), unit, blocks, filters)


def resnet19_top(net, x, classes, classifier_activation, *, spiking_readout=False):
    """Global average pooling, a hidden layer of 256 neurons, the classifier's mean over time.

    Args:
        spiking_readout: Whether classes have neurons too, whose firing rates are the output.
    """
    x = net.neuron(net.dense(net.global_pool(x), 256, "hidden"), "hidden_neuron")
    if not spiking_readout:
        return net.dense(net.readout(x), classes, "predictions", activation=classifier_activation)
    x = net.neuron(net.dense(x, classes, "classes"), "classes_neuron")
    return net.activation(net.readout(x), classifier_activation, "predictions")


def _resnet(depth, top=factory.pooled_top, **kwargs):
    return factory.application(
        f"TDBNResNet{depth}",
        f"tdbn_resnet{depth}",
        resnet,
        top,
        defaults={"neuron": "decay_lif", "norm": "tdbn"} | kwargs.pop("defaults", {}),
        **kwargs,
    )


TDBNResNet19 = _resnet(
    19,
    resnet19_top,
    about="a residual network with tdBN for CIFAR, with 3, 3, 2 blocks of two 3x3 convolutions",
    defaults={"small_images": True},
    plan=residual.basic,
    blocks=(3, 3, 2),
    filters=(128, 256, 512),
)
TDBNResNet17 = _resnet(
    17,
    resnet19_top,
    about="a residual network with tdBN for event frames, with 3, 3, 1 blocks of two 3x3 "
    "convolutions",
    defaults={"small_images": True},
    plan=residual.basic,
    blocks=(3, 3, 1),
    filters=(64, 128, 256),
)
TDBNResNet34 = _resnet(
    34, about=residual.about(34, "a residual network with tdBN"), **residual.LAYOUTS[34]
)
TDBNResNet50 = _resnet(
    50, about=residual.about(50, "a residual network with tdBN"), **residual.LAYOUTS[50]
)
