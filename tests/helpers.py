"""What tests of all backends need."""

import multiprocessing

import keras
import pytest
from keras import ops

from keras_snn.testing import gradients  # noqa: F401

# Imports take seconds: a process that has done so starts those that follow.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["keras_snn", "tensorflow"])


def first_everywhere(first, *others):
    """Cases of which each backend runs the first, and one backend all: see `once`."""
    return [first, *(pytest.param(case, marks=pytest.mark.once) for case in others)]


def to_numpy(tensors):
    """Tensors, nested or not, as numpy arrays."""
    return keras.tree.map_structure(ops.convert_to_numpy, tensors)


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
