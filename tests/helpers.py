"""What tests of all backends need: arrays in, arrays and gradients out."""

import multiprocessing

import keras
import numpy as np
import pytest
from keras import ops

# Imports take seconds: a process that has done so starts those that follow.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["keras_snn", "tensorflow"])


def first_everywhere(first, *others):
    """Cases of which each backend runs the first, and one backend all: see `once`."""
    return [first, *(pytest.param(case, marks=pytest.mark.once) for case in others)]


def to_numpy(tensors):
    """Tensors, nested or not, as numpy arrays."""
    return keras.tree.map_structure(ops.convert_to_numpy, tensors)


def gradients(function, variables, *arrays):
    """Gradients of the scalar `function(*arrays)` to each array and to each Keras variable.

    Args:
        function: From tensors to a scalar tensor.
        variables: Keras variables that the function reads.
        arrays: numpy arrays.

    Returns:
        `(value, gradients to arrays, gradients to variables)`, numpy.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(a) for a in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        watched = tensors + [v.value for v in variables]
        found = tape.gradient(value, watched, unconnected_gradients="zero")
    elif backend == "jax":
        import jax

        def run(tensors, values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values))):
                return function(*tensors)

        tensors = [jax.numpy.asarray(a) for a in arrays]
        value, (a, b) = jax.value_and_grad(run, argnums=(0, 1))(
            tensors, [v.value for v in variables]
        )
        found = [*a, *b]
    else:
        import torch

        tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
        value = function(*tensors)
        watched = tensors + [v.value for v in variables]
        found = torch.autograd.grad(value, watched, allow_unused=True, materialize_grads=True)
    found = [np.asarray(to_numpy(g)) for g in found]
    return float(to_numpy(value)), found[: len(arrays)], found[len(arrays) :]


def lively(net, shift):
    """Random weights and statistics for a network of PyTorch, by which its neurons fire."""
    import torch

    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(1, 3)
                part.bias.normal_(shift, 0.3)
            elif isinstance(part, (torch.nn.Conv1d, torch.nn.Conv2d)):
                part.weight.normal_(0, part.weight[0].numel() ** -0.5)
