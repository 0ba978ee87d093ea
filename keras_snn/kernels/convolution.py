"""Convolutions without what backends waste: as products of matrices, and without copies.

TensorFlow and PyTorch arrange a kernel's weights anew at every call, which on maps of a few pixels
takes longer than the convolution. XLA (JAX, and TensorFlow with `jit_compile=True`) has no fast way
on CPUs where a kernel is larger than the map of its outputs (a tenth of its usual speed), nor for
the gradients of strided and 1x1 convolutions. There a product of matrices is quicker. For PyTorch,
Keras copies each map to channels first and back to channels last; PyTorch takes it as it lies.
Outputs and gradients are Keras's but for rounding.
"""

import functools
import math
import typing

import keras
from keras import ops

from keras_snn.kernels import tuning

__all__ = ["convolve"]


def convolve(layer, x):
    """What a Keras `Conv2D` gives for `x`.

    Args:
        layer: The layer, or a `PaddedConv2D`, no other subclass.
        x: `(batch, height, width, channels)`.

    Returns:
        `(batch, height, width, filters)`, or `None` where the layer has to do it itself.
    """
    implementation = _implementation(layer, x)
    if implementation is None:
        return None
    outputs = implementation(
        x, ops.convert_to_tensor(layer.kernel, x.dtype), layer.strides, layer.padding
    )
    if layer.use_bias:
        outputs = outputs + ops.convert_to_tensor(layer.bias, x.dtype)
    return layer.activation(outputs)


def _implementation(layer, x):
    """The quickest on the device that computes `x`, or `None` if that is the layer's own."""
    if not _is_usual(layer, x):
        return None
    backend = keras.backend.backend()
    if layer.compute_dtype == "float32" and _is_faster(layer, x):
        return _compiled() if backend == "jax" else _product
    if backend == "torch":
        return _conv_channels_last
    return _symmetric if backend == "tensorflow" and layer.padding == "symmetric" else None


def _is_usual(layer, x):
    """Whether the layer is a convolution as most are, and `x` is what it takes."""
    dense = layer.groups == 1 and max(layer.dilation_rate) == 1
    if not dense or layer.data_format != "channels_last" or None in x.shape[1:]:
        return False
    if keras.backend.standardize_dtype(x.dtype) != layer.compute_dtype:
        return False
    # If the map is smaller than the kernel, let Keras raise its error.
    (_, height, width, _), (rows, columns) = x.shape, layer.kernel_size
    return layer.padding != "valid" or (height >= rows and width >= columns)


def _is_faster(layer, x):
    """Whether the product is faster than the convolution."""
    backend = keras.backend.backend()
    geometry = tuple(x.shape[1:3]), tuple(layer.kernel.shape), layer.strides, layer.padding
    if backend == "jax":
        import jax

        return jax.default_backend() == "cpu" and _is_slow_under_xla(*geometry)
    if backend == "torch":
        return x.device.type == "cpu" and _is_small(*geometry)
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    if tf.executing_eagerly() or tf.config.list_logical_devices("GPU"):
        return False
    under_xla = GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    return _is_slow_under_xla(*geometry) if under_xla else _is_small(*geometry)


def _is_slow_under_xla(sizes, kernel, strides, padding):
    pointwise, strided = max(kernel[:2]) == 1, max(strides) > 1
    larger = any(k > n for k, n in zip(kernel, _outputs(sizes, kernel, strides, padding)))
    return pointwise or strided or larger


def _is_small(sizes, kernel, strides, padding):
    pixels, weights = math.prod(_outputs(sizes, kernel, strides, padding)), math.prod(kernel)
    return pixels == 1 or (pixels <= tuning.SMALL_MAP and weights >= tuning.LARGE_KERNEL)


@functools.lru_cache(tuning.GEOMETRIES)
def _outputs(sizes, kernel, strides, padding):
    """Height and width of the map that a convolution gives for one of `sizes`."""
    return [_windows(*axis, padding) for axis in zip(sizes, kernel, strides)]


@functools.cache
def _compiled():
    """The product under JAX; the backward pass takes the patches anew instead of keeping them."""
    import jax

    return jax.jit(jax.checkpoint(_product, static_argnums=(2, 3)), static_argnums=(2, 3))


def _product(x, kernel, strides, padding):
    """Each window of `x` as a row of a matrix, times the kernel."""
    sizes = zip(x.shape[1:3], kernel.shape, strides)
    rows, columns = (_axis(*size, padding) for size in sizes)
    x = ops.pad(x, [(0, 0), rows.pad, columns.pad, (0, 0)])
    taps = [x[:, i, j] for i in rows.slices for j in columns.slices]
    patches = ops.concatenate(taps, axis=-1)
    features = patches.shape[-1]
    weights = _overlapping_kernel(kernel, rows.used, columns.used)
    weights = ops.reshape(weights, (features, kernel.shape[-1]))
    outputs = ops.matmul(ops.reshape(patches, (-1, features)), weights)
    return ops.reshape(outputs, (-1, rows.outputs, columns.outputs, kernel.shape[-1]))


def _overlapping_kernel(kernel, rows, columns):
    """`kernel[rows, columns]`, of which TensorFlow copies nothing where it is one piece."""
    width = kernel.shape[1]
    start, end = rows.start * width + columns.start, (rows.stop - 1) * width + columns.stop
    if end - start > (rows.stop - rows.start) * (columns.stop - columns.start):
        return kernel[rows, columns]
    return ops.reshape(kernel, (-1, *kernel.shape[2:]))[start:end]


def _conv_channels_last(x, kernel, strides, padding):
    """PyTorch's convolution of `x` as it lies in memory."""
    import torch

    rows, columns = _zeros(tuple(x.shape[1:3]), tuple(kernel.shape), strides, padding)
    x = x.permute(0, 3, 1, 2)
    pad = rows[0], columns[0]
    if pad != (rows[1], columns[1]):
        x, pad = torch.nn.functional.pad(x, columns + rows), 0
    outputs = torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), None, strides, pad)
    return outputs.permute(0, 2, 3, 1)


def _symmetric(x, kernel, strides, padding):
    """TensorFlow's convolution of a map that it pads itself."""
    import tensorflow as tf

    zeros = [[size // 2] * 2 for size in kernel.shape[:2]]
    return tf.nn.conv2d(x, kernel, strides, [[0, 0], *zeros, [0, 0]])


@functools.lru_cache(tuning.GEOMETRIES)
def _zeros(sizes, kernel, strides, padding):
    """Zeros before and after the rows of a map, and its columns."""
    return [_padding(*axis, padding) for axis in zip(sizes, kernel, strides)]


def _padding(size, kernel, stride, padding):
    """Zeros before and after the map along an axis."""
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    last = (_windows(size, kernel, stride, padding) - 1) * stride
    total = max(last + kernel - size, 0) if padding == "same" else 0
    return total // 2, total - total // 2


def _windows(size, kernel, stride, padding):
    """Number of windows along an axis of a map."""
    return (size - kernel) // stride + 1 if padding == "valid" else math.ceil(size / stride)


class _Axis(typing.NamedTuple):
    """How the windows of one axis of a map lie.

    Attributes:
        outputs: Number of windows.
        used: Slice of the kernel's positions that meet the map in any window.
        pad: Zeros before and after the map that windows reach with these positions.
        slices: For each of these positions, the slice of the padded map that it meets.
    """

    outputs: int
    used: slice
    pad: tuple
    slices: list


def _axis(size, kernel, stride, padding):
    outputs = _windows(size, kernel, stride, padding)
    last = (outputs - 1) * stride  # where the last window starts
    before = _padding(size, kernel, stride, padding)[0]
    used = [i for i in range(kernel) if i + last >= before and i < before + size]
    first, end = used[0], used[-1] + 1
    pad = (before - first, max(last + end - before - size, 0))
    slices = [slice(i, i + last + 1, stride) for i in range(end - first)]
    return _Axis(outputs, slice(first, end), pad, slices)
