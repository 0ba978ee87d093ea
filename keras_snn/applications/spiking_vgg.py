"""Spiking VGG.

`SpikingVGG11` to `19` have the layout of torchvision's and `keras.applications`' VGG with neurons
in place of ReLUs (`pool="average", use_bias=False` makes them fit for conversion). `ConversionVGG5`
to `19` are those of hybrid training for CIFAR (Rathi et al., 2020): without biases and
normalisation, with average pooling and dropout, so that an ANN of the same layout
(`timesteps=None`, `neuron=keras.layers.ReLU`) converts without loss.
"""

import itertools
import math

import keras

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.applications import builder, factory, inputs
from keras_snn.layers.convolution import Sidewise2D
from keras_snn.utils.arguments import check_choice

__all__ = [
    "ConversionVGG5",
    "ConversionVGG9",
    "ConversionVGG11",
    "ConversionVGG13",
    "ConversionVGG16",
    "ConversionVGG19",
    "SpikingVGG11",
    "SpikingVGG11BN",
    "SpikingVGG13",
    "SpikingVGG13BN",
    "SpikingVGG16",
    "SpikingVGG16BN",
    "SpikingVGG19",
    "SpikingVGG19BN",
]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input

# Channels of the convolutions of each block.
BLOCKS = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
CIFAR_BLOCKS = {
    5: ((64,), (128, 128)),
    9: ((64,), (128, 256), (256, 512), (512,), (512,)),
    11: ((64,), (128, 256), (512, 512), (512,), (512, 512)),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 3, (512,)),
    16: BLOCKS[16],
    19: BLOCKS[19],
}


def vgg(net, x, *, blocks, pools, pool="max", use_bias=True, convolution_dropout=0.0, width=1.0):
    """Blocks of 3x3 convolutions, each with a neuron; a 2x2 pool ends a block.

    Args:
        pool: What a pool takes: `"max"` or `"average"`.
        use_bias: Whether convolutions and dense layers have biases.
        convolution_dropout: Share of units that dropout leaves out behind each convolution that no
            pool follows, with one mask for all steps.
        width: Factor on the numbers of channels and hidden neurons.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015; Sengupta et al.,
    "Going Deeper in Spiking Neural Networks", 2019; Rathi et al., "Enabling Deep Spiking Neural
    Networks with Hybrid Conversion and Spike Timing Dependent Backpropagation", ICLR 2020.
    """
    pool = {"max": net.max_pool, "average": net.average_pool}[
        check_choice("pool", pool, ("max", "average"))
    ]
    for index, filters in enumerate(blocks, start=1):
        for i, channels in enumerate(filters, start=1):
            x = net.conv(x, round(width * channels), 3, 1, f"block{index}_conv{i}", use_bias)
            x = net.neuron(net.norm(x, f"block{index}_bn{i}"), f"block{index}_neuron{i}")
            if i < len(filters) or index > pools:
                x = net.dropout(x, convolution_dropout, f"block{index}_dropout{i}")
        if index <= pools:
            x = pool(x, f"block{index}_pool")
    return x


@keras.saving.register_keras_serializable(package="keras_snn")
class _GridPooling2D(Sidewise2D):
    """Means over a grid of `size` by `size` cells, as PyTorch's adaptive pooling.

    Keras's own layer fails in TensorFlow's graphs where the grid is finer than the maps.
    """

    @staticmethod
    def matrix(length, size):
        sides = [i * length / size for i in range(size + 1)]
        cells = [(math.floor(a), math.ceil(b)) for a, b in itertools.pairwise(sides)]
        return [[(a <= i < b) / (b - a) for i in range(length)] for a, b in cells]

    def get_config(self):
        return super().get_config() | {"size": self.size}


graph.register(_GridPooling2D, "across", linear=True)


def top(
    net, x, classes, classifier_activation, *, use_bias=True, dropout=0.5, width=1.0, grid, sums
):
    """Two hidden layers of 4096 neurons, the classifier's mean (or sum) over time.

    Args:
        dropout: Share of hidden neurons that dropout leaves out, with one mask for all steps.
    """
    if None in x.step:
        raise ValueError(
            "The classifier needs a known height and width. Received maps of shape "
            f"{tuple(x.tensor.shape)}."
        )
    sizes = x.step[1:] if builder.is_channels_first() else x.step[:-1]
    if grid and set(sizes) != {grid}:
        x = net.apply(_GridPooling2D(grid, name="adaptive_pool"), x)
    x = net.flatten(x)
    for name in ("fc1", "fc2"):
        x = net.dense(x, round(4096 * width), name, use_bias)
        x = net.dropout(net.neuron(x, name + "_neuron"), dropout, name + "_dropout")
    x = net.readout(x, snn.SumOverTime, "sum_over_time") if sums else net.readout(x)
    return net.dense(x, classes, "predictions", use_bias, activation=classifier_activation)


def _vgg(depth, norm=None):
    suffix = "BN" if norm else ""
    return factory.application(
        f"SpikingVGG{depth}{suffix}",
        f"spiking_vgg{depth}{'_bn' if norm else ''}",
        vgg,
        top,
        about=f"a spiking VGG of {depth} layers"
        + (", normalised behind each convolution" if norm else ""),
        blocks=BLOCKS[depth],
        pools=5,
        grid=7,
        dense_initializer=builder.SMALL_NORMAL,
        sums=False,
        defaults={"norm": norm},
    )


SpikingVGG11, SpikingVGG11BN = _vgg(11), _vgg(11, "bn")
SpikingVGG13, SpikingVGG13BN = _vgg(13), _vgg(13, "bn")
SpikingVGG16, SpikingVGG16BN = _vgg(16), _vgg(16, "bn")
SpikingVGG19, SpikingVGG19BN = _vgg(19), _vgg(19, "bn")


def _conversion(depth):
    return factory.application(
        f"ConversionVGG{depth}",
        f"conversion_vgg{depth}",
        vgg,
        top,
        about=f"VGG{depth} of hybrid training, a network for conversion",
        size=32,
        minimum=16,
        blocks=CIFAR_BLOCKS[depth],
        pools=min(4, len(CIFAR_BLOCKS[depth])),
        grid=None,
        dense_initializer=builder.SMALL_NORMAL,
        sums=True,
        defaults={
            "norm": None,
            "neuron": builder.soft_if,
            "timesteps": 100,
            "pool": "average",
            "use_bias": False,
            "convolution_dropout": 0.2,
        },
    )


ConversionVGG5 = _conversion(5)
ConversionVGG9 = _conversion(9)
ConversionVGG11 = _conversion(11)
ConversionVGG13 = _conversion(13)
ConversionVGG16 = _conversion(16)
ConversionVGG19 = _conversion(19)
