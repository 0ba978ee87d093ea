"""Memory of training: what it takes, spikes stored as bits, recomputed segments (checkpointing).

A layer that multiplies spikes by weights stores them for the backward pass as floats, 32 bits a
spike. On PyTorch `packed_spikes` stores one bit. `Remat` stores only the inputs of a segment, on
any backend. `plan` says before training what a step will take.
"""

import contextlib
import dataclasses
import functools
import math
import weakref
from typing import Any

import keras
import ml_dtypes
import numpy as np
from keras import ops, tree

from keras_snn import graph
from keras_snn.utils.arguments import check_integer

__all__ = ["Plan", "Remat", "packed_spikes", "plan"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training step takes, in bytes, see `plan`.

    Attributes:
        batch_size: Examples in a batch.
        timesteps: Number of steps, `None` for a model of a known number.
        inputs: The batch.
        weights: All weights of the model.
        gradients: Those of its trainable weights.
        optimizer: The optimizer's variables; 0 for a model that is not compiled.
        activations: What the forward pass keeps and the backward pass needs on top, at its peak.
    """

    batch_size: int
    timesteps: int | None
    inputs: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self):
        """The sum of all parts."""
        return self.inputs + self.weights + self.gradients + self.optimizer + self.activations

    def proposals(self, limit):
        """What to do if there is less memory.

        Args:
            limit: Bytes that there are.

        Returns:
            A list of sentences; empty if the step fits.

        Example:

        >>> found = Plan(32, 100, 10**6, 10**6, 10**6, 0, 97 * 10**6)
        >>> len(found.proposals(10**8)), found.proposals(51 * 10**6)[0][:20]
        (0, 'A batch of 16 fits, ')
        """
        if self.total <= limit:
            return []
        fixed = self.weights + self.gradients + self.optimizer
        each = (self.inputs + self.activations) / self.batch_size
        fits, said = int((limit - fixed) / each), []
        if fits >= 1:
            count = math.ceil(self.batch_size / fits)
            said.append(
                f"A batch of {fits} fits, by `keras.optimizers.Adam(gradient_accumulation_steps="
                f"{count})` as one of {self.batch_size}."
            )
        if self.timesteps:
            steps = int(self.timesteps * (limit - fixed) / (each * self.batch_size))
            if steps >= 1:
                said.append(
                    f"Pieces of {steps} steps fit: neurons with `stateful=True`, no gradient from "
                    "one piece to the next."
                )
            said.append("`keras_snn.training.SLTT`, `OTTT` and `EProp` keep one step at a time.")
        if limit > fixed:
            said.append(
                "`keras_snn.memory.Remat` around parts of the model keeps their inputs only, for a "
                "second forward pass."
            )
        return said


def plan(model: keras.Model, batch_size: int, timesteps: int | None = None) -> Plan:
    """Says what a training step will take, before training.

    On JAX the step is compiled and asked. On PyTorch steps of one example and of two are run, and
    what grows is taken for as many examples as there will be; all tensors that live at once are
    counted. The model stays as it is. Left out is what is the same for any network: the libraries,
    and kernels' scratch memory.

    Args:
        model: A built model; compiled, if its optimizer is to be counted.
        batch_size: Examples in a batch.
        timesteps: Number of steps, for a model of an open number.

    Returns:
        A `Plan`; its `total` is in bytes, and `proposals(limit)` says what to do if that is too
        much.

    Raises:
        RuntimeError: On TensorFlow, which does not tell.
        ValueError: If a size of the inputs is not known.

    Example:

    ```python
    found = keras_snn.memory.plan(model, batch_size=64, timesteps=1000)
    print(found.total / 2**20, "MB", *found.proposals(limit=8 * 2**30))
    ```
    """
    check_integer("batch_size", batch_size)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        raise RuntimeError(
            "`plan` works on JAX and PyTorch: TensorFlow does not tell what a step takes."
        )
    shapes = []
    for x in model.inputs:
        shape = list(x.shape[1:])
        if timesteps is not None and shape and shape[0] is None:
            shape[0] = check_integer("timesteps", timesteps)
        if None in shape:
            raise ValueError(
                f"`plan` needs sizes of all inputs, got {tuple(x.shape)} of {x.name!r} and "
                f"`timesteps={timesteps}`."
            )
        shapes.append((tuple(shape), x.dtype))
    if getattr(model, "optimizer", None) is not None:
        model.optimizer.build(model.trainable_variables)
    optimizer = getattr(model, "optimizer", None)
    measure = {"jax": _jax_activations, "torch": _torch_activations}[backend]
    steps = timesteps or next((shape[0] for shape, _ in shapes if shape), None)
    return Plan(
        batch_size,
        steps,
        batch_size * sum(math.prod(shape) * _size(dtype) for shape, dtype in shapes),
        _bytes(model.variables),
        _bytes(model.trainable_variables),
        _bytes(optimizer.variables) if optimizer else 0,
        measure(model, shapes, batch_size),
    )


def _size(dtype):
    return ml_dtypes.finfo(dtype).bits // 8 if "float" in dtype else np.dtype(dtype).itemsize


def _bytes(variables):
    return sum(
        math.prod(v.shape) * _size(keras.backend.standardize_dtype(v.dtype)) for v in variables
    )


def _jax_activations(model, shapes, batch_size):
    """What XLA allocates for a step besides its arguments and results."""
    import jax

    learned = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    def loss(learned, others, inputs):
        outputs, others = model.stateless_call(learned, others, inputs, training=True)
        return sum(ops.mean(ops.square(y)) for y in tree.flatten(outputs)), others

    inputs = [jax.ShapeDtypeStruct((batch_size, *shape), dtype) for shape, dtype in shapes]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step.lower(learned, others, inputs).compile().memory_analysis().temp_size_in_bytes


def _torch_activations(model, shapes, batch_size):
    """Most bytes of tensors that live at once during a step, from steps of one and two examples."""
    one, two = (_torch_peak(model, shapes, count) for count in (1, 2))
    return max(int(one + (two - one) * (batch_size - 1)), 0)


def _torch_peak(model, shapes, batch_size):
    import torch
    from torch.utils import _python_dispatch

    class Count(_python_dispatch.TorchDispatchMode):
        """Adds up the storages that operations make, and takes off those that go."""

        def __init__(self):
            super().__init__()
            self.now = self.most = 0
            self.known = set()

        def gone(self, key, size):
            self.known.discard(key)
            self.now -= size

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            results = function(*args, **(kwargs or {}))
            for x in tree.flatten(results):
                if not isinstance(x, torch.Tensor):
                    continue
                storage = x.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.known and not any(
                    isinstance(y, torch.Tensor) and y.untyped_storage()._cdata == key
                    for y in tree.flatten((args, kwargs))
                ):
                    self.known.add(key)
                    self.now += size
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.gone, key, size)
            return results

    dtypes = {keras.backend.standardize_dtype(d): getattr(torch, d) for _, d in shapes}
    inputs = [torch.rand((batch_size, *s)).to(dtypes[d]) for s, d in shapes]
    before = [ops.copy(v.value) for v in model.non_trainable_variables]
    values = [v.value for v in model.trainable_variables]
    with Count() as count:
        outputs = model(inputs if len(inputs) > 1 else inputs[0], training=True)
        loss = sum(ops.mean(ops.square(y)) for y in tree.flatten(outputs))
        del outputs
        gradients = torch.autograd.grad(loss, values, allow_unused=True)
        most = count.most
    kept = sum(g.untyped_storage().nbytes() for g in gradients if g is not None)
    for variable, value in zip(model.non_trainable_variables, before):
        variable.assign(value)
    return most - kept


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
