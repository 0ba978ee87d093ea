"""SEW-ResNet: spike-element-wise residual networks (Fang et al., NeurIPS 2021).

Layouts and parameter counts are the paper's, whose ImageNet networks have IF neurons (threshold 1,
hard reset, ATan(2), reset detached), T = 4, and `connect="add"`. `SEWResNet8` is ours, for images
of 8x8 to 32x32.
"""

from keras import layers

from keras_snn.applications import common
from keras_snn.dynamics import CONNECTIONS
from keras_snn.layers import SpikeConnection
from keras_snn.layers.arguments import check_choice

decode_predictions = common.decode_predictions
preprocess_input = common.preprocess_input


def basic_block(net, x, filters, strides, name):
    """Two 3x3 convolutions."""
    x = _unit(net, x, filters, 3, strides, name, 1)
    return _unit(net, x, filters, 3, 1, name, 2, last=True)


def bottleneck_block(net, x, filters, strides, name):
    """1x1, 3x3 (which has the stride) and 1x1 convolutions, the last four times as wide."""
    x = _unit(net, x, filters, 1, 1, name, 1)
    x = _unit(net, x, filters, 3, strides, name, 2)
    return _unit(net, x, 4 * filters, 1, 1, name, 3, last=True)


# Name: block, width of its output, blocks in each stage, channels of each stage, small images.
TABLE = {
    "SEWResNet8": (basic_block, 1, (1, 1, 1), (32, 64, 128), True),
    "SEWResNet18": (basic_block, 1, (2, 2, 2, 2), (64, 128, 256, 512), False),
    "SEWResNet34": (basic_block, 1, (3, 4, 6, 3), (64, 128, 256, 512), False),
    "SEWResNet50": (bottleneck_block, 4, (3, 4, 6, 3), (64, 128, 256, 512), False),
    "SEWResNet101": (bottleneck_block, 4, (3, 4, 23, 3), (64, 128, 256, 512), False),
    "SEWResNet152": (bottleneck_block, 4, (3, 8, 36, 3), (64, 128, 256, 512), False),
}


class _Network(common.Builder):
    """The builder, with what is particular to SEW-ResNet."""

    def __init__(self, neuron, timesteps, connect, zero_init_residual):
        super().__init__(neuron, timesteps)
        self.connect = check_choice("connect", connect, CONNECTIONS)
        self.zero_init_residual = zero_init_residual

    def last_norm(self, x, name):
        """The normalisation that decides whether a fresh block is the identity."""
        if not self.zero_init_residual:
            return self.norm(x, name)
        # The branch must always fire for AND, never for the others.
        return self.norm(x, name, "zeros", "ones" if self.connect == "and" else "zeros")

    def stem(self, x, filters, small_images):
        """Convolution and normalisation, once for an image; neuron; pooling."""
        x = self.conv(x, filters, 3 if small_images else 7, 1 if small_images else 2, "stem_conv")
        x = self.neuron(self.repeat(self.norm(x, "stem_bn")), "stem_neuron")
        if small_images:
            return x
        x = self.pad(x, 1, "stem_pool_pad")
        return self.apply(layers.MaxPooling2D(3, 2, name="stem_pool"), x)

    def block(self, block, x, filters, width, strides, name):
        """`connect(branch(x), shortcut(x))`; a shortcut of another shape has a neuron too."""
        channels = x.shape[2 if _channels_first() else -1]
        shortcut = x
        if strides > 1 or channels != width * filters:
            shortcut = self.conv(x, width * filters, 1, strides, name + "_shortcut_conv")
            shortcut = self.norm(shortcut, name + "_shortcut_bn")
            shortcut = self.neuron(shortcut, name + "_shortcut_neuron")
        branch = block(self, x, filters, strides, name)
        return SpikeConnection(self.connect, name=f"{name}_{self.connect}")([branch, shortcut])


def _channels_first():
    return common.keras.config.image_data_format() == "channels_first"


def _unit(net, x, filters, size, strides, name, index, last=False):
    x = net.conv(x, filters, size, strides, f"{name}_conv{index}")
    x = (net.last_norm if last else net.norm)(x, f"{name}_bn{index}")
    return net.neuron(x, f"{name}_neuron{index}")


def _family(title):
    block, width, depths, filters, small = TABLE[title]
    default_name = title.lower().replace("sewresnet", "sew_resnet")

    def build(
        include_top=True,
        weights=None,
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        name=default_name,
        *,
        timesteps=4,
        neuron="if",
        connect="add",
        zero_init_residual=False,
        small_images=small,
    ):
        common.check_arguments(weights, include_top, pooling, classes)
        net = _Network(neuron, timesteps, connect, zero_init_residual)
        size, minimum = (32, 8) if small_images else (224, 32)
        inputs = common.obtain_input(input_tensor, input_shape, include_top, size, minimum)
        x = net.stem(inputs, filters[0], small_images)
        for stage, (depth, channels) in enumerate(zip(depths, filters), start=1):
            for index in range(1, depth + 1):
                strides = 2 if stage > 1 and index == 1 else 1
                x = net.block(block, x, channels, width, strides, f"stack{stage}_block{index}")
        x = net.head(x, include_top, pooling, classes, classifier_activation)
        return common.finish(inputs, x, weights, name)

    build.__name__ = build.__qualname__ = title
    build.__doc__ = _DOC.format(
        title=title,
        depths=", ".join(map(str, depths)),
        kind="two 3x3 convolutions" if block is basic_block else "a bottleneck of three",
        size=32 if small else 224,
        minimum=8 if small else 32,
    )
    return build


_DOC = """{title}: a spiking residual network with {depths} blocks of {kind}.

    Args:
        include_top: Whether to include the classifier.
        weights: `None` (random) or the path of a weights file.
        input_tensor: Optional Keras tensor to build on.
        input_shape: Shape of one example: `(height, width, channels)` for images, which are
            repeated over `timesteps`, or `(time, height, width, channels)` for sequences. By
            default {size}x{size}x3; at least {minimum}x{minimum}.
        pooling: Without the classifier: `None` for the sequence of feature maps,
            `(batch, time, h, w, c)`; `"avg"` or `"max"` for pooled features, averaged over time,
            `(batch, c)`.
        classes: Number of classes.
        classifier_activation: Activation of the classifier; `None` for logits.
        name: Name of the model.
        timesteps: Number of steps for images, T.
        neuron: Neuron: a name, a layer, a class, a config or a function that makes a layer.
        connect: How branch and shortcut are joined: `"add"`, `"and"`, `"iand"`, `"or"`, `"xor"`.
        zero_init_residual: Whether every fresh block is the identity (for `"add"`, `"and"`,
            `"iand"`, with IF neurons).
        small_images: Whether the stem is a 3x3 convolution without pooling, for images up to
            32x32.

    Returns:
        A `keras.Model` with outputs `(batch, classes)`.

    Raises:
        ValueError: If an argument is not one of those allowed.

    Source: Fang et al., "Deep Residual Learning in Spiking Neural Networks", NeurIPS 2021.

    Example:

    >>> model = {title}(input_shape=(32, 32, 3), classes=10, timesteps=2)
    >>> model.output_shape
    (None, 10)
    """

SEWResNet8 = _family("SEWResNet8")
SEWResNet18 = _family("SEWResNet18")
SEWResNet34 = _family("SEWResNet34")
SEWResNet50 = _family("SEWResNet50")
SEWResNet101 = _family("SEWResNet101")
SEWResNet152 = _family("SEWResNet152")
