"""Less memory in training: spikes stored as bits, recomputed segments (gradient checkpointing).

A layer that multiplies spikes by weights stores them for the backward pass as floats, 32 bits a
spike. On PyTorch `packed_spikes` stores one bit. `Remat` stores only the inputs of a segment, on
any backend.
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
    """A sequence of layers that stores only its input and is recomputed in the backward pass.

    A `keras.Sequential` that costs a second forward pass in training. Outputs, gradients and moving
    statistics are unchanged: the second pass assigns nothing.
    (`keras.RematScope` of Keras 3.15 fails on TensorFlow in `fit`, and on JAX with batch
    normalisation, whose statistics it updates twice on PyTorch.) JAX on CPUs recomputes
    too, but no saving of memory was measured.

    Args:
        layers: Layers, each with one input and one output.
        trainable, name: Those of `keras.Sequential`.

    Call arguments:
        inputs: What the first layer takes, `(batch, time, ...)`.
        training: Whether in training mode. Inference stores nothing anyway.
        mask: Optional mask of the inputs; with one, nothing is recomputed.

    Returns:
        The output of the last layer.

    Raises:
        ValueError: If a layer has an activity regularizer or makes a mask: both would be lost.

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

        # Copies: PyTorch assigns in place, and both passes must start from the same values.
        values = [v.value for v in learned] + [ops.copy(v.value) for v in others]
        outputs, *assigned = keras.remat(run)(inputs, *values)
        for variable, value in zip(others, assigned):
            variable.assign(ops.stop_gradient(value))
        return outputs


graph.SEEN_THROUGH.append(Remat)


@contextlib.contextmanager
def packed_spikes(minimum=1024):
    """Within this block, PyTorch stores tensors of zeros and ones for the backward pass as bits.

    Each tensor that a layer saves is tested: if it is of floats that are all exactly 0 or 1, one
    bit is stored instead of 32. It is restored exactly, with its memory layout, so gradients are
    the same, bit for bit. Weights and all other tensors are stored unchanged. The test costs one
    pass over the tensor, and on a GPU one synchronisation.

    This shrinks the inputs of convolutions and dense layers. The charged potentials of neurons stay
    floats: the surrogate gradient needs them.

    Args:
        minimum: Smaller tensors, in elements, are stored unchanged.

    Raises:
        RuntimeError: On TensorFlow and JAX, whose compilers decide what is stored. There
            `Remat` saves memory by recomputing.

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
            "decides what is stored for the backward pass. `keras_snn.memory.Remat` saves memory "
            "by recomputing layers."
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
    """A tensor as `_Bits`, or `None` if it has other values than 0 and 1."""
    import torch

    integers = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}
    integers = integers.get(tensor.dtype)
    weight = isinstance(tensor, torch.nn.Parameter)
    if integers is None or weight or tensor.numel() < minimum or not _dense(tensor):
        return None
    # All elements in the order of their memory, as integers: -0.0 is not 0.0.
    flat = tensor.detach().as_strided((tensor.numel(),), (1,)).view(integers)
    one = torch.ones((), dtype=tensor.dtype).view(integers).item()
    for part in (flat[:64], flat):  # most other tensors fail on the first 64
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
