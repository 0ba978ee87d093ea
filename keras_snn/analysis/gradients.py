"""Gradient norms, weight by weight: do gradients reach the first layers?"""

import keras
from keras import ops, tree

from keras_snn.analysis import probes

__all__ = ["gradient_norms"]


def gradient_norms(model, inputs, targets, loss) -> dict[str, float]:
    """Norm of the gradient of a loss to each trainable weight, for one batch in training mode.

    The model is as before afterwards, moving statistics and states included.

    Args:
        model: A built Keras model.
        inputs: A batch of inputs: an array, or a list or dictionary of arrays.
        targets: Its targets.
        loss: A Keras loss, or a function of targets and outputs.

    Returns:
        A dictionary from the weights' paths to norms, in the order of the model.

    Example:

    >>> import numpy as np
    >>> inputs = keras.Input((2,))
    >>> model = keras.Model(inputs, keras.layers.Dense(1, name="a", use_bias=False)(inputs))
    >>> norms = gradient_norms(model, np.ones((1, 2)), np.ones((1, 1)), lambda t, y: -t * y)
    >>> {path: round(norm, 3) for path, norm in norms.items()}
    {'a/kernel': 1.414}
    """
    find = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    inputs, targets = (tree.map_structure(_tensor, part) for part in (inputs, targets))
    with probes.unchanged(model):
        found = find(model, inputs, lambda y: ops.mean(loss(targets, y)))
    norms = [0.0 if g is None else float(ops.norm(ops.reshape(g, (-1,)))) for g in found]
    return {weight.path: norm for weight, norm in zip(model.trainable_weights, norms)}


def _tensor(array):
    """A tensor; numbers of numpy's float64 become Keras's float."""
    tensor = ops.convert_to_tensor(array)
    return ops.cast(tensor, keras.config.floatx()) if "float" in str(tensor.dtype) else tensor


def _tensorflow(model, inputs, loss):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss(model(inputs, training=True))
    return tape.gradient(value, [weight.value for weight in model.trainable_weights])


def _jax(model, inputs, loss):
    import jax

    fixed = [weight.value for weight in model.non_trainable_variables]

    def run(values):
        outputs, _ = model.stateless_call(values, fixed, inputs, training=True)
        return loss(outputs)

    return jax.jit(jax.grad(run))([weight.value for weight in model.trainable_weights])


def _torch(model, inputs, loss):
    import torch

    weights = [weight.value for weight in model.trainable_weights]
    return torch.autograd.grad(loss(model(inputs, training=True)), weights, allow_unused=True)
