"""What `torch.compile` wants, which `model.compile(jit_compile=True)` means on PyTorch.

A network should be one graph for it. Where it can't trace something, every layer becomes a graph of
its own, for maps of any size: slow, and more than its compiler can do. Some of Keras's operations
break graphs; here are forms that do not. Nothing but that compiler takes them, and it hears of them
when the first layer of keras_snn is made.

Neurons of short sequences are plain loops there, which it fuses with what stands around them. A
longer one, which would take it minutes, is one operation that it does not look into, of `torch.py`.
"""

import contextlib
import functools
import warnings

import keras
from keras import ops

from keras_snn.graph import backend, draw_seed, is_seeded

if keras.backend.backend() == "torch":
    import torch

__all__ = ["operation", "prepare"]


@functools.cache
def prepare():
    """Tells PyTorch's compiler of the forms below, once; a warning says which it does not take."""
    for module, name, form in FORMS:
        with warn_of_changes(f"a form of `{name}`"):
            torch.compiler.substitute_in_graph(getattr(module, name))(form)
    with warn_of_changes("an operation that draws dropout masks"):
        operation(lambda seed, shape, share: seed.new_empty(shape, dtype=torch.bool))(mask)


@contextlib.contextmanager
def warn_of_changes(what):
    """Makes a warning of any error: a version of Keras or PyTorch that has other functions."""
    try:
        yield
    except Exception as error:
        warnings.warn(
            f"keras_snn can't give PyTorch's compiler {what} (Keras {keras.__version__}, PyTorch "
            f"{torch.__version__}). Networks with `jit_compile=True` may run slower; nothing else "
            f"changes. {type(error).__name__}: {error}",
            stacklevel=3,
        )


def operation(fake):
    """Makes of a function an operation that PyTorch's compiler does not look into.

    `torch.library.custom_op` does so too, but when it is first called it looks for the file of
    every module there is, which takes longer than all of `import keras_snn`.

    Args:
        fake: The same for tensors without values: shapes and types of the results.
    """

    def define(function):
        name = f"keras_snn::{function.__name__}"
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(name, "default", function)
        torch.library.impl(name, "meta", fake)
        return getattr(torch.ops.keras_snn, function.__name__).default

    return define


def pad(x, pad_width, mode="constant", constant_values=None):
    """`keras.ops.pad` without its operation, which takes a new name at every call."""
    return backend.numpy.pad(x, pad_width, mode, constant_values)


def moments(x, axes, keepdims=False, synchronized=False):
    """`keras.ops.moments` for axes in a list of Keras's own kind, as its layers keep them."""
    axes = axes if isinstance(axes, int) else tuple(axes)
    return backend.nn.moments(x, axes, keepdims, synchronized)


def max(x, axis=None, keepdims=False, initial=None):
    """`keras.ops.max` without its look at the type of what PyTorch gives."""
    largest = torch.amax(backend.convert_to_tensor(x), () if axis is None else axis, keepdims)
    return largest if initial is None else torch.clamp(largest, initial)


def dropout(inputs, rate, noise_shape=None, seed=None):
    """`keras.random.dropout` with the mask that it would draw, by one operation."""
    if rate in (0, 1):
        return inputs if rate == 0 else torch.zeros_like(inputs)
    if noise_shape is None and not is_seeded(seed):
        return torch.nn.functional.dropout(inputs, rate)
    shape = [size or full for size, full in zip(noise_shape or inputs.shape, inputs.shape)]
    kept = torch.ops.keras_snn.mask(_next(seed), shape, 1 - rate)
    return torch.where(kept, inputs / (1 - rate), torch.zeros_like(inputs))


def _next(seed):
    """The next seed of a generator, which Keras asks numpy to count."""
    if not isinstance(seed, keras.random.SeedGenerator):
        return draw_seed(seed)
    drawn = seed.state.value.clone()
    seed.state.assign(drawn + torch.arange(2, dtype=drawn.dtype, device=drawn.device))
    return drawn


def mask(seed: "torch.Tensor", shape: list[int], share: float) -> "torch.Tensor":
    """Of each element whether it is kept; its probability is `share`."""
    generator = torch.Generator(seed.device).manual_seed(int(seed.sum()) & 0xFFFFFFFF)
    return torch.full(shape, share, device=seed.device).bernoulli(generator=generator).bool()


# Where Keras keeps a function, its name, and the form that PyTorch's compiler takes.
FORMS = [
    (ops, "pad", pad),
    (ops, "moments", moments),
    (ops, "max", max),
    (backend.random, "dropout", dropout),
]
