"""Less memory while training: spikes as bits.

A layer that multiplies spikes by weights keeps them until its backward pass, as floats: 32 bits for
one. On PyTorch `packed_spikes` keeps one.
"""

import contextlib
import dataclasses
import math
from typing import Any

import keras

from keras_snn.layers.arguments import check_integer

__all__ = ["packed_spikes"]


@contextlib.contextmanager
def packed_spikes(minimum=1024):
    """While this lasts, tensors of zeros and ones wait for the backward pass as bits (PyTorch).

    What layers save is looked at as it is saved: a float tensor whose values are all exactly 0 or 1
    becomes one bit for each, an eighth of a byte instead of four, and is restored exactly, memory
    layout too. Gradients are the same, bit for bit. Everything else is saved as it is; weights
    always are. The look costs a pass over each candidate, and on a GPU one wait for its result.

    It saves spikes that convolutions and dense layers take in. The charged potentials of neurons
    stay floats: the surrogate gradient needs them.

    Args:
        minimum: Elements from which a tensor is looked at.

    Raises:
        RuntimeError: On TensorFlow and JAX, whose compilers decide what is kept. There,
            `keras.RematScope` trades memory for computing anew.

    Example:

    ```python
    with keras_snn.memory.packed_spikes():
        model.fit(images, labels)
    ```

    Source: PyTorch's `torch.autograd.graph.saved_tensors_hooks`.
    """
    check_integer("minimum", minimum)
    backend = keras.backend.backend()
    if backend != "torch":
        raise RuntimeError(
            f"`packed_spikes` works on the PyTorch backend, got {backend!r}: there the compiler "
            "decides what is kept for the backward pass. `keras.RematScope` saves memory by "
            "computing layers anew."
        )
    import torch

    def pack(tensor):
        # Returned as it is, a tensor would hold the graph that holds it.
        return _packed(tensor, minimum) or tensor.detach()

    def unpack(saved):
        return saved.restore() if isinstance(saved, _Bits) else saved

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


@dataclasses.dataclass
class _Bits:
    """Zeros and ones, eight to a byte; byte `i` holds elements `i`, `i + n`, ... of `n` bytes."""

    data: Any
    shape: tuple
    strides: tuple
    dtype: Any

    def restore(self):
        """The tensor, in its memory layout."""
        import torch

        values = torch.empty((8, len(self.data)), dtype=self.dtype, device=self.data.device)
        for i, row in enumerate(values):
            row.copy_((self.data >> i) & 1)
        return values.reshape(-1).as_strided(self.shape, self.strides)


def _packed(tensor, minimum):
    """A tensor as `_Bits`, or `None` if it is none of zeros and ones."""
    import torch

    integers = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}
    integers = integers.get(tensor.dtype)
    weight = isinstance(tensor, torch.nn.Parameter)
    if integers is None or weight or tensor.numel() < minimum or not _dense(tensor):
        return None
    # All elements in the order of their memory, as integers: -0.0 is not 0.0.
    flat = tensor.detach().as_strided((tensor.numel(),), (1,)).view(integers)
    one = torch.ones((), dtype=tensor.dtype).view(integers).item()
    for part in (flat[:64], flat):  # most that are no spikes show it at once
        ones = part == one
        if not (ones | (part == 0)).all():
            return None
    size = math.ceil(len(ones) / 8)
    rows = torch.nn.functional.pad(ones.view(torch.uint8), (0, 8 * size - len(ones))).view(8, size)
    data = rows[0].clone()
    for i in range(1, 8):
        data |= rows[i] << i
    return _Bits(data, tensor.shape, tensor.stride(), tensor.dtype)


def _dense(tensor):
    """Whether a tensor's elements fill one piece of memory, in whatever order of its axes."""
    axes = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
    return tensor.permute(axes).is_contiguous()
