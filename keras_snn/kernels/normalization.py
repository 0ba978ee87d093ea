"""Batch normalisation as the one operation that TensorFlow and PyTorch have for it.

Keras composes it of a dozen in training, and of a few in inference, where TensorFlow's one is no
faster; XLA, on JAX, fuses these itself. Outputs, gradients and moving statistics (biased variances)
are Keras's but for rounding.
"""

import keras
from keras import ops

__all__ = ["normalize"]


def normalize(layer, x, training):
    """What a Keras `BatchNormalization` gives for `x`, its moving statistics updated.

    Args:
        layer: The layer.
        x: `(batch, ..., channels)`.
        training: Whether in training mode.

    Returns:
        A tensor like `x`, or `None` where the layer has to do it itself.
    """
    implementation = {"tensorflow": _tensorflow, "torch": _torch}.get(keras.backend.backend())
    # Half precision is summed up in single, as Keras does.
    uncast = keras.backend.standardize_dtype(x.dtype) == layer.compute_dtype != "float64"
    float32 = layer.variable_dtype == "float32"
    last = layer.axis in (-1, len(x.shape) - 1)
    usual = layer.epsilon > 0 and not (layer.synchronized or getattr(layer, "renorm", False))
    learns = training and layer.trainable
    offered = implementation is _torch or (learns and implementation is not None)
    if not (offered and uncast and float32 and last and usual):
        return None
    channels = x.shape[-1]
    gamma = ops.convert_to_tensor(layer.gamma) if layer.scale else ops.ones(channels)
    beta = ops.convert_to_tensor(layer.beta) if layer.center else ops.zeros(channels)
    moving = layer.moving_mean, layer.moving_variance
    if not learns:
        mean, variance = map(ops.convert_to_tensor, moving)
        return _native(x, mean, variance, gamma, beta, False, layer.epsilon)
    outputs, *statistics = implementation(x, gamma, beta, layer.epsilon)
    for variable, value in zip(moving, statistics):
        variable.assign(variable * layer.momentum + value * (1 - layer.momentum))
    return outputs


def _tensorflow(x, gamma, beta, epsilon):
    import tensorflow as tf

    shape, channels = tf.shape(x), x.shape[-1]
    maps = x if len(x.shape) == 4 else tf.reshape(x, (-1, 1, 1, channels))
    none = tf.zeros(0)
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=maps, scale=gamma, offset=beta, mean=none, variance=none, epsilon=epsilon
    )
    count = tf.cast(tf.size(x) // channels, "float32")
    outputs = outputs if len(x.shape) == 4 else tf.reshape(outputs, shape)
    return tf.ensure_shape(outputs, x.shape), mean, variance * (count - 1) / count


def _torch(x, gamma, beta, epsilon):
    import torch

    count = x.numel() // x.shape[-1]
    if count < 2:  # refused by PyTorch: the variance it keeps would be infinite
        return (x * 0 + beta).to(x.dtype), x.reshape(-1).to(beta.dtype), torch.zeros_like(beta)
    mean, variance = torch.zeros_like(beta), torch.zeros_like(beta)
    outputs = _native(x, mean, variance, gamma, beta, True, epsilon)
    return outputs, mean, variance * ((count - 1) / count)


def _native(x, mean, variance, gamma, beta, training, epsilon):
    """PyTorch's operation; in training it replaces mean and variance by those of `x`."""
    import torch

    last = x.ndim - 1  # not -1: PyTorch would write that into ONNX files, which no runtime loads
    outputs = torch.nn.functional.batch_norm(
        x.movedim(last, 1), mean, variance, gamma, beta, training, 1.0, epsilon
    )
    return outputs.movedim(1, last)
