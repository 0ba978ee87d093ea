"""Spiking networks that give each pixel a class: FCN and DeepLab (Kim et al., 2022).

Layouts, neuron, initialisation and T = 20 are those of the authors' code. As the paper intends, its
normalisation through time has no shift. `backbone` takes any other network of this package whose
features are maps. Outputs are `(batch, height, width, classes)`, whatever the image data format.
Masks are class numbers, `(batch, height, width)`, in which a void label stands where nobody knows:
see `keras_snn.losses.PixelCrossentropy`, and `keras.metrics.MeanIoU(..., ignore_class=255,
sparse_y_pred=False)`. On PyTorch Keras's own sparse cross-entropy fails in the backward pass of
such outputs, so train with logits (`classifier_activation=None`) and that loss.
"""

from keras import layers

from keras_snn import layers as snn
from keras_snn.applications import builder, factory, inputs
from keras_snn.applications.builder import Value, is_channels_first
from keras_snn.utils.arguments import check_choice, check_integer

__all__ = ["SpikingDeepLab", "SpikingFCN"]

preprocess_input = inputs.preprocess_input

# Channels of the convolutions of each block; a pool follows each block of FCN, and all but the last
# of DeepLab, whose last two convolutions are dilated instead.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256))


def lif():
    """The paper's neuron."""
    return snn.DecayLIF(
        decay=0.99, threshold=1.0, reset="soft", detach_reset=True, surrogate="triangle"
    )


def pool(net, x, name):
    """Means of 3x3 windows, of every second one, with zeros around the maps that count."""
    x = net.apply(layers.ZeroPadding2D(1, name=name + "_pad"), x)
    return net.apply(layers.AveragePooling2D(3, 2, name=name), x)


def convolution(net, x, filters, name, dilation=1):
    """A 3x3 convolution, its normalisation and its neuron."""
    x = net.conv(x, filters, 3, 1, name + "_conv", dilation=dilation)
    return net.neuron(net.norm(x, name + "_bn"), name + "_neuron")


def coded(net, x, input_coding):
    """The images, over time if Poisson spikes stand for them; no image is changed in an ANN."""
    check_choice("input_coding", input_coding, ("direct", "poisson"))
    if input_coding == "direct" or x.has_time or net.timesteps is None:
        return x
    return Value(snn.PoissonEncoder(net.timesteps, name="poisson")(x.tensor), True)


def blocks(net, x, pools, dilated, width):
    """The blocks of VGG-9: the maps in front of each pool, and those behind the last layer."""
    maps = []
    for index, filters in enumerate(BLOCKS, start=1):
        for i, channels in enumerate(filters, start=1):
            dilation = 2 if dilated and index == len(BLOCKS) and i > 1 else 1
            x = convolution(net, x, round(width * channels), f"block{index}_{i}", dilation)
        if index <= pools:
            maps.append(x)
            x = pool(net, x, f"block{index}_pool")
    return [*maps, x]


def pyramid(net, x, backbone):
    """The feature maps of a network of this package: the last ones of each size, finest first."""
    build = factory.APPLICATIONS.get(backbone) if isinstance(backbone, str) else backbone
    if not callable(build):
        raise ValueError(
            "`backbone` should be the name of a network in `keras_snn.applications`, or a function "
            f"like those. Received: backbone={backbone!r}"
        )
    model = build(
        include_top=False,
        input_tensor=x.tensor,
        timesteps=net.timesteps,
        **net.given,
    )
    has_time = x.has_time or net.timesteps is not None
    maps = {}
    for layer in model.layers:
        value = Value(layer.output, has_time)
        if len(layer.output.shape) == (5 if has_time else 4):
            maps[_stride(x, value)] = value
    maps.pop(None, None)
    if Value(model.output, has_time) not in maps.values():
        raise ValueError(
            "The features of the backbone should be maps, each 1, 2, 4, ... times smaller than the "
            f"images. Received: backbone={backbone!r}, whose features are {model.output.shape} for "
            f"images of the shape {x.step}."
        )
    return [maps[stride] for stride in sorted(maps)]


def _sides(x):
    """Height and width."""
    return x.step[1:] if is_channels_first() else x.step[:-1]


def _stride(x, value):
    """How many times maps are smaller than the image, a power of 2; `None` if it is none."""
    stride, sides = 1, _sides(x)
    while tuple(-(-n // stride) for n in sides) != _sides(value):
        stride *= 2
        if stride > 2 * max(sides):
            return None
    return stride


def _known(x):
    if None in x.step:
        raise ValueError(
            f"Segmentation needs a known height and width. Received images of the shape {x.step}."
        )
    return x


def resized(net, x, like, name):
    """Maps of the height and width of others, bilinear between aligned corners."""
    if _sides(x) == _sides(like):
        return x
    return net.apply(snn.AlignedResizing2D(_sides(like), name=name), x)


def answer(net, x, image, classifier_activation):
    """Maps of logits as the answer, classes last, of the size of the images."""
    x = resized(net, x, image, "resize")
    if is_channels_first():
        x = net.apply(layers.Permute((2, 3, 1), name="classes_last"), x)
    return net.activation(x, classifier_activation, "predictions")


def score(net, x, classes, name, use_bias=True):
    """A 1x1 convolution to the classes."""
    return net.conv(x, classes, 1, 1, name, use_bias)


def fcn(net, x, *, backbone=None, input_coding="direct", width=1.0):
    """Blocks of convolutions with neurons, and two more convolutions behind the last pool.

    Args:
        backbone: `None` for VGG-9, or another network of this package, by name or as a function
            like those, such as `"SEWResNet18"`; it gets the network's neuron and normalisation.
        input_coding: How images become a sequence: `"direct"`, repeated in front of the first
            neuron, or `"poisson"` (the paper's), spikes drawn at every step, whose probability
            is a pixel's absolute value, at most 1, and whose sign is the pixel's.
        width: Factor on the numbers of channels.

    Source: Kim, Chough and Panda, "Beyond Classification: Directly Training Spiking Neural Networks
    for Semantic Segmentation", Neuromorphic Computing and Engineering 2022.
    """
    image = _known(x)
    x = coded(net, x, input_coding)
    maps = pyramid(net, x, backbone) if backbone else blocks(net, x, 3, False, width)
    x = maps.pop()
    for index in (1, 2):
        x = convolution(net, x, round(1024 * width), f"fcn{index}")
    return [image, *maps, x]


def fcn_top(net, maps, classes, classifier_activation):
    """Scores of each scale, from the coarsest to the finest, which is summed over time.

    Each is enlarged by a transposed convolution, and added to the scores of the next finer one;
    neurons fire in between.
    """
    image, *maps = maps
    x = score(net, maps[-1], classes, "score")
    for index, finer in enumerate(reversed(maps[:-1]), start=1):
        if index > 1:
            x = net.neuron(x, f"up{index - 1}_neuron")
        skip = score(net, finer, classes, f"up{index}_skip")
        enlarge = layers.Conv2DTranspose(
            classes,
            3,
            2,
            use_bias=False,
            kernel_initializer=builder.GLOROT_2.clone(),
            name=f"up{index}_conv",
        )
        x = resized(net, net.apply(enlarge, x), skip, f"up{index}_resize")
        x = net.join(x, skip, f"up{index}_add")
    x = net.readout(x, snn.SumOverTime, "sum_over_time")
    return answer(net, x, image, classifier_activation)


def deeplab(net, x, *, backbone=None, stride=4, input_coding="direct", width=1.0):
    """Blocks of convolutions with neurons, of which the last are dilated.

    Args:
        backbone: `None` for VGG-9, or another network of this package, by name or as a function
            like those, such as `"SEWResNet18"`; it gets the network's neuron and normalisation.
        stride: Of another backbone: the layers are used whose maps are at most so many times
            smaller than the images.
        input_coding: How images become a sequence: `"direct"`, repeated in front of the first
            neuron, or `"poisson"` (the paper's), spikes drawn at every step, whose probability
            is a pixel's absolute value, at most 1, and whose sign is the pixel's.
        width: Factor on the numbers of channels.

    Source: Kim, Chough and Panda, "Beyond Classification: Directly Training Spiking Neural Networks
    for Semantic Segmentation", Neuromorphic Computing and Engineering 2022.
    """
    image = _known(x)
    check_integer("stride", stride)
    x = coded(net, x, input_coding)
    if backbone:
        maps = [y for y in pyramid(net, x, backbone) if _stride(x, y) <= stride]
        if not maps:
            raise ValueError(f"{backbone!r} has no maps of a stride of at most {stride}.")
    else:
        maps = blocks(net, x, 2, True, width)
    return [image, convolution(net, maps[-1], round(1024 * width), "atrous", dilation=12)]


def deeplab_top(net, maps, classes, classifier_activation):
    """Scores of each position, averaged over time, and resized to the images."""
    image, x = maps
    x = net.readout(score(net, x, classes, "score", use_bias=False))
    return answer(net, x, image, classifier_activation)


COMMON = {
    "outputs": "(batch, height, width, classes)",
    "example": "(input_shape=(32, 32, 3), classes=4, timesteps=2, width=0.1)",
    "size": 64,
    "minimum": 8,
    "kernel_initializer": builder.GLOROT_2,
    "dense_initializer": builder.GLOROT_2,
    "defaults": {"timesteps": 20, "neuron": lif, "norm": "bntt"},
}
SpikingFCN = factory.application(
    "SpikingFCN",
    "spiking_fcn",
    fcn,
    fcn_top,
    about="a fully convolutional network on VGG-9, which gives each pixel a class",
    **COMMON,
)
SpikingDeepLab = factory.application(
    "SpikingDeepLab",
    "spiking_deep_lab",
    deeplab,
    deeplab_top,
    about="DeepLab on VGG-9, which gives each pixel a class",
    **COMMON,
)
