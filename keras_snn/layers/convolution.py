"""The convolution of the papers' networks, padded as PyTorch pads, sums over windows, resizing."""

import math

import keras
import numpy as np
from keras import ops

from keras_snn.utils.arguments import Configured, check_integer

__all__ = ["AlignedResizing2D", "PaddedConv2D", "SumPooling2D"]


@keras.saving.register_keras_serializable(package="keras_snn")
class PaddedConv2D(Configured, keras.layers.Conv2D):
    """`keras.layers.Conv2D` that also knows symmetric padding.

    Where a convolution has strides, Keras's padding `"same"` has more zeros behind a map than
    before it; networks that were built in PyTorch have as many, half a kernel. Inside `FoldTime`
    these zeros cost no copy of the map, which `keras.layers.ZeroPadding2D` in front would.

    Args:
        filters, kernel_size, strides: Those of `keras.layers.Conv2D`.
        padding: `"symmetric"`, `dilation * (kernel_size - 1) / 2` zeros on each side, or Keras's
            `"valid"` or `"same"`. With `"symmetric"` outputs are as many as with `"same"`.
        **kwargs: The others of `keras.layers.Conv2D`.

    Call arguments:
        inputs: Images, `(batch, height, width, channels)`, or as `data_format` says.

    Returns:
        `(batch, ceil(height / stride), ceil(width / stride), filters)`, or as Keras does.

    Raises:
        ValueError: If a kernel to be padded symmetrically has an even size.

    Source: PyTorch's `Conv2d(..., padding=kernel_size // 2)`.

    Example:

    >>> layer = PaddedConv2D(1, 3, 2, "symmetric", kernel_initializer="ones")
    >>> [float(y) for y in keras.ops.ravel(layer(keras.ops.ones((1, 4, 4, 1))))]
    [4.0, 6.0, 6.0, 9.0]
    """

    def __init__(self, filters, kernel_size, strides=(1, 1), padding="valid", **kwargs):
        symmetric = padding == "symmetric"
        super().__init__(filters, kernel_size, strides, "same" if symmetric else padding, **kwargs)
        if symmetric:
            self.padding = padding
            if not all(size % 2 for size in self.kernel_size):
                raise ValueError(
                    "Symmetric padding wants kernels of odd sizes. "
                    f"Received: kernel_size={self.kernel_size}"
                )

    def compute_output_shape(self, input_shape):
        if self.padding != "symmetric":
            return super().compute_output_shape(input_shape)
        first = self.data_format == "channels_first"
        sizes = input_shape[2:] if first else input_shape[1:-1]
        sizes = [None if n is None else math.ceil(n / s) for n, s in zip(sizes, self.strides)]
        return (input_shape[0], *([self.filters, *sizes] if first else [*sizes, self.filters]))

    def convolution_op(self, inputs, kernel):
        if self.padding != "symmetric":
            return super().convolution_op(inputs, kernel)
        (rows, columns), (height, width) = self.dilation_rate, self.kernel_size
        zeros = [[rows * (height - 1) // 2] * 2, [columns * (width - 1) // 2] * 2]
        zeros.insert(0 if self.data_format == "channels_first" else 2, (0, 0))
        return ops.conv(
            ops.pad(inputs, [(0, 0), *zeros]),
            kernel,
            self.strides,
            "valid",
            self.data_format,
            self.dilation_rate,
        )


@keras.saving.register_keras_serializable(package="keras_snn")
class SumPooling2D(Configured, keras.layers.AveragePooling2D):
    """Sums over windows, without padding: those of spikes are integers, without rounding.

    Args:
        pool_size, strides, data_format: Those of `keras.layers.AveragePooling2D`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: Images, `(batch, height, width, channels)`, or as `data_format` says.

    Returns:
        Images, as `keras.layers.AveragePooling2D` gives them.

    Source: NIR's `SumPool2d`; Sinabs `SumPool2d`.

    Example:

    >>> float(SumPooling2D(3)(keras.ops.ones((1, 3, 3, 1)))[0, 0, 0, 0])
    9.0
    """

    def __init__(self, pool_size, strides=None, data_format=None, **kwargs):
        super().__init__(pool_size, strides, data_format=data_format, **kwargs)

    def call(self, inputs):
        first = self.data_format == "channels_first"
        ones = ops.ones((*self.pool_size, inputs.shape[1 if first else -1], 1), inputs.dtype)
        sums = ops.depthwise_conv(inputs, ones, 1, "valid", self.data_format)
        # TensorFlow's depthwise convolutions want the same stride along both axes.
        down, right = self.strides
        return sums[:, :, ::down, ::right] if first else sums[:, ::down, ::right]

    def get_config(self):
        return {k: v for k, v in super().get_config().items() if k != "padding"}


class Sidewise2D(Configured, keras.layers.Layer):
    """Maps times one matrix along their height and another one along their width.

    `matrix(length, size)` gives the matrix `(size, length)` from sides of `length` to `size`.

    Args:
        size: Height and width of the outputs, a pair, or an integer for both.
        data_format: Where the channels are; by default as Keras's image data format says.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).
    """

    def __init__(self, size, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2:
            raise ValueError(f"`size` should be a height and a width. Received: size={size}")
        self.sides = tuple(check_integer("size", side) for side in sides)
        self.data_format = data_format or keras.config.image_data_format()
        self.first = 2 if self.data_format == "channels_first" else 1  # axis of the height

    def call(self, inputs):
        lengths = inputs.shape[self.first : self.first + 2]
        matrices = [
            ops.convert_to_tensor(self.matrix(*lengths), dtype=inputs.dtype)
            for lengths in zip(lengths, self.sides)
        ]
        equation = "bchw,ih,jw->bcij" if self.first == 2 else "bhwc,ih,jw->bijc"
        return ops.einsum(equation, inputs, *matrices)

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        shape[self.first : self.first + 2] = self.sides
        return tuple(shape)


@keras.saving.register_keras_serializable(package="keras_snn")
class AlignedResizing2D(Sidewise2D):
    """Bilinear resizing that keeps the corners: the outermost values stay where they are.

    Keras's `Resizing` and `UpSampling2D` align the edges of the outermost pixels instead.

    Args:
        size: Height and width of the outputs, a pair, or an integer for both.
        data_format: Where the channels are; by default as Keras's image data format says.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: Images, `(batch, height, width, channels)`, or as `data_format` says.

    Returns:
        Images of the size `size`.

    Raises:
        ValueError: If `size` is no pair of positive integers.

    Source: PyTorch's `interpolate(..., mode="bilinear", align_corners=True)`.

    Example:

    >>> image = keras.ops.array([[0.0, 4.0]])[None, ..., None]
    >>> print(keras.ops.convert_to_numpy(AlignedResizing2D((1, 5))(image))[0, 0, :, 0])
    [0. 1. 2. 3. 4.]
    """

    @staticmethod
    def matrix(length, size):
        places = np.linspace(0, length - 1, size)[:, None] if size > 1 else np.zeros((1, 1))
        return np.maximum(0, 1 - np.abs(places - np.arange(length)))

    def get_config(self):
        return super().get_config() | {"size": self.size, "data_format": self.data_format}
