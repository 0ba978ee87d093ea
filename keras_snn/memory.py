"""Less memory while training: spikes as bits, segments that are computed anew.

A layer that multiplies spikes by weights keeps them until its backward pass, as floats: 32 bits for
one. On PyTorch `packed_spikes` keeps one. `Remat` keeps nothing of a segment but its inputs, on any
backend.
"""

import contextlib
import dataclasses
import functools
import math
from typing import Any

import keras
from keras import ops

from keras_snn import graph
from keras_snn.utils.arguments import check_integer

__all__ = ["Remat", "packed_spikes"]


@keras.saving.register_keras_serializable(package="keras_snn")
class Remat(keras.Sequential):
    """Layers in a row that keep only their input, and are computed anew for the gradients.

    A `keras.Sequential` that costs a second forward pass in training. Outputs, gradients and moving
    statistics are the same: what the first pass assigns, the second does not assign again.
    (`keras.RematScope` of Keras 3.15 fails on TensorFlow in `fit`, and on JAX with batch
    normalisation, whose statistics it updates twice on PyTorch.) On CPUs JAX computes anew too, but
    was not seen to need less memory.

    Args:
        layers: Layers, each with one input and one output.
        trainable, name: Those of `keras.Sequential`.

    Call arguments:
        inputs: What the first layer takes, `(batch, time, ...)`.
        training: Whether in training mode. In inference nothing is kept anyway.
        mask: Optional mask of the inputs; with one, the layers run as those of any `Sequential`.

    Returns:
        What the last layer gives.

    Raises:
        ValueError: If a layer has an activity regularizer, whose loss would be lost, or makes a
            mask, which would be too.

    Source: Chen et al. (2016), Training deep nets with sublinear memory cost; `keras.remat`.

    Example:

    >>> from keras_snn.layers import LIF
    >>> segment = Remat([keras.layers.Dense(8), LIF()])
    >>> segment(keras.ops.ones((2, 4, 3))).shape == (2, 4, 8)
    True
    """

    def build(self, input_shape=None):
        super().build(input_shape)
        for layer in graph.flatten_layers(self):
            if getattr(layer, "activity_regularizer", None) is not None:
                raise ValueError(
                    f"{self.name} cannot keep the loss of an activity regularizer, got the layer "
                    f"{layer.name!r} with {layer.activity_regularizer}."
                )

    def call(self, inputs, training=None, mask=None):
        call = functools.partial(super().call, training=training, mask=mask)
        if not training or mask is not None:
            return call(inputs)
        learned, others = self.trainable_variables, self.non_trainable_variables

        def run(inputs, *values):
            with keras.StatelessScope(list(zip([*learned, *others], values))) as scope:
                outputs = call(inputs)
            if graph.get_mask(outputs) is not None:
                raise ValueError(f"{self.name} cannot keep a mask: make it in front of the layer.")
            return (outputs, *(scope.get_current_value(variable) for variable in others))

        # Copies: PyTorch assigns in place, and the second pass must find what the first one did.
        values = [v.value for v in learned] + [ops.copy(v.value) for v in others]
        outputs, *assigned = keras.remat(run)(inputs, *values)
        for variable, value in zip(others, assigned):
            variable.assign(ops.stop_gradient(value))
        return outputs


graph.SEEN_THROUGH.append(Remat)


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
            `Remat` trades memory for computing anew.

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
            "decides what is kept for the backward pass. `keras_snn.memory.Remat` saves memory by "
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
