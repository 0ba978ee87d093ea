"""What `torch.compile` wants, which `model.compile(jit_compile=True)` means on PyTorch.

A network should be one graph for it. Where it can't trace something, every layer becomes a graph of
its own, for maps of any size: slow, and more than its compiler can do. Two of Keras's operations
break graphs; here are forms that do not. Nothing but that compiler takes them.
"""

import keras
from keras.src import backend

ON_TORCH = keras.backend.backend() == "torch"
if ON_TORCH:
    import torch

__all__ = ["compiler_takes", "outside_compiler"]

# Longer loops take it minutes; their neurons stay outside, and break the graph.
UNROLL_LIMIT = 32


def compiler_takes(timesteps):
    """Whether PyTorch's compiler is at work, which fuses a plain loop of so many steps itself."""
    return ON_TORCH and torch.compiler.is_compiling() and timesteps <= UNROLL_LIMIT


def outside_compiler(function):
    """A function that PyTorch's compiler leaves as it is."""
    return torch.compiler.disable(function) if ON_TORCH else function


def pad(x, pad_width, mode="constant", constant_values=None):
    """`keras.ops.pad` without its operation, which takes a new name at every call."""
    return backend.numpy.pad(x, pad_width, mode, constant_values)


def moments(x, axes, keepdims=False, synchronized=False):
    """`keras.ops.moments` for axes in a list of Keras's own kind, as its layers keep them."""
    axes = axes if isinstance(axes, int) else tuple(axes)
    return backend.nn.moments(x, axes, keepdims, synchronized)


if ON_TORCH:
    for form in (pad, moments):
        torch.compiler.substitute_in_graph(getattr(keras.ops, form.__name__))(form)
