"""Memory of training: what a step takes, spikes as bits, recomputed segments (checkpointing).

A layer that multiplies spikes by weights stores them for the backward pass as floats, 32 bits a
spike. On PyTorch `packed_spikes` stores one bit. `Remat` stores only the inputs of a segment, on
any backend. `plan` says before training what a step will take, and what would fit.
"""

import contextlib
import dataclasses
import functools
import math
import weakref
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_snn import graph
from keras_snn.utils.arguments import check_integer

__all__ = ["Plan", "Proposal", "Remat", "packed_spikes", "plan"]

MB = 1e6
# Bytes of a step from which on larger ones are inferred. TensorFlow counts large blocks only, and
# small steps have large shares of scratch memory.
ENOUGH = {"torch": 64e6, "tensorflow": 512e6}


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A way to train in less memory, see `plan`.

    Attributes:
        what: What to do.
        total: Bytes that a step takes then.
        measured: Whether `total` was found as that of the plan was, or follows from it in
            proportion.
    """

    what: str
    total: int
    measured: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training step takes, in bytes, see `plan`.

    Attributes:
        batch_size: Examples in a batch.
        timesteps: Steps of the input sequences; `None` for static inputs.
        inputs: The batch.
        weights: All weights of the model.
        gradients: Those of its trainable weights.
        optimizer: The optimizer's variables; 0 for a model that is not compiled.
        activations: What the step has besides at its peak, most of it kept for the backward pass.
        budget: Bytes that there are, if given.
        proposals: If the step needs more than the budget, a tuple of `Proposal`.
    """

    batch_size: int
    timesteps: int | None
    inputs: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    budget: int | None = None
    proposals: tuple = ()

    @property
    def fixed(self):
        """Bytes that do not depend on the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self):
        """Bytes of all parts."""
        return self.fixed + self.inputs + self.activations

    @property
    def fits(self):
        """Whether the step needs no more than the budget; `True` without one."""
        return self.budget is None or self.total <= self.budget

    def __str__(self):
        parts = ("inputs", "weights", "gradients", "optimizer", "activations")
        each = ", ".join(f"{name} {getattr(self, name) / MB:.1f}" for name in parts)
        lines = [f"{self.total / MB:.1f} MB a step of {self.batch_size} examples: {each}"]
        if self.budget is not None:
            lines[0] += f"; {'fits' if self.fits else 'does not fit'} {self.budget / MB:.1f} MB"
        for proposal in self.proposals:
            about = "" if proposal.measured else "about "
            over = "" if proposal.total <= self.budget else ", does not fit"
            lines.append(f"  {about}{proposal.total / MB:.1f} MB{over}: {proposal.what}")
        return "\n".join(lines)


def plan(
    model: keras.Model, batch_size: int, timesteps: int | None = None, budget: int | None = None
) -> Plan:
    """Says what a training step will take, before training, and what to do if that is too much.

    On JAX the step is compiled, not run, and XLA asked. On PyTorch and TensorFlow steps of an
    eighth of the batch, a quarter and so on are run until one needs 64 MB (TensorFlow: 512), and
    the rest is taken to grow alike: on PyTorch all tensors that live at once are counted,
    TensorFlow's allocator tells its peak. The model stays as it is. Left out is what is the same
    for any network (the libraries, compiling), and what kernels of other libraries allocate for
    themselves; `docs/speed.md` has plans beside what was measured. The loss that is planned with is
    a mean of squares.

    Args:
        model: A functional or Sequential model; compiled, if its optimizer is to be counted.
        batch_size: Examples in a batch.
        timesteps: Number of steps, for a model of sequences of any length.
        budget: Bytes that there are. If a step needs more, the plan proposes a smaller batch with
            accumulated gradients, pieces of the sequence, and `Remat` around parts of the model:
            their memory follows in proportion, but that of `Remat` is found like the plan's, if the
            model is a chain of layers (about the square root of their number in each segment).

    Returns:
        A `Plan`; `total` is in bytes, and printed it is a table.

    Raises:
        RuntimeError: If TensorFlow does not count its memory here; on CPUs it does with oneDNN.
        TypeError: If the model has a training step of its own, or is subclassed.
        ValueError: If an argument is invalid, a size of the inputs is not known or a layer is
            stateful.

    Example:

    >>> model = keras.Sequential([keras.Input((None, 700)), keras.layers.Dense(256)])
    >>> found = plan(model, batch_size=64, timesteps=100)
    >>> found.inputs == 4 * 64 * 100 * 700, found.weights == 4 * 701 * 256
    (True, True)
    """
    check_integer("batch_size", batch_size)
    if budget is not None:
        check_integer("budget", budget)
    if getattr(type(model), "train_step", None) is not keras.Model.train_step:
        raise TypeError(
            f"`plan` knows the step of `keras.Model`; {type(model).__name__} has a `train_step` of "
            "its own."
        )
    if not getattr(model, "inputs", None):
        raise TypeError(f"`plan` needs a functional or built Sequential model, got {model!r}.")
    for layer in graph.stateful_layers(model):
        raise ValueError(
            f"`plan` runs other batches, which the states of {layer.name!r} do not take: give the "
            "model with `stateful=False`, and the steps of a piece as `timesteps`."
        )
    shapes = _input_shapes(model, timesteps)
    timed = [shape for (shape, _), t in zip(shapes, graph.trace(model).timed) if t]
    weights, gradients = _bytes(model.variables), _bytes(model.trainable_variables)
    found = Plan(
        batch_size,
        timed[0][0] if timed else None,
        batch_size * sum(math.prod(shape) * _size(dtype) for shape, dtype in shapes),
        weights,
        gradients,
        _optimizer_bytes(model),
        max(_step(model, shapes, batch_size) - gradients, 0),
        budget,
    )
    if found.fits:
        return found
    return dataclasses.replace(found, proposals=tuple(_proposals(model, shapes, found)))


def _proposals(model, shapes, found):
    """Yields ways to train in the budget; what can't fit by itself is left out, if not measured."""
    batch, steps = found.batch_size, found.timesteps
    kept = found.inputs + found.activations
    for parts in range(2, batch + 1):
        if math.ceil(batch / parts) == math.ceil(batch / (parts - 1)):
            continue
        size = math.ceil(batch / parts)
        # The optimizer adds the gradients up in variables of its own.
        total = found.fixed + found.gradients + kept * size // batch
        if total <= found.budget:
            what = f"batches of {size}, with `gradient_accumulation_steps={parts}` of the optimizer"
            yield Proposal(what, total, False)
            break
    if steps:
        piece = min(steps - 1, steps * (found.budget - found.fixed) // kept)
        if piece >= 1:
            total = found.fixed + math.ceil(kept * piece / steps)
            what = f"pieces of {piece} steps, with `stateful=True`; no gradient crosses their ends"
            yield Proposal(what, total, False)
    rest = found.total - found.activations - found.gradients
    if segments := _in_segments(model):
        what = f"the layers in {len(segments.layers)} segments, each in a `keras_snn.memory.Remat`"
        step = _step(segments, shapes, batch)
        yield Proposal(what, rest + max(step, found.gradients), True)
    if keras.backend.backend() == "torch":
        with packed_spikes():
            step = _step(model, shapes, batch)
        what = "`keras_snn.memory.packed_spikes` around `fit`"
        yield Proposal(what, rest + max(step, found.gradients), True)


def _in_segments(model):
    """A copy of a chain of layers, each about the root of their number in a `Remat`, or `None`."""
    calls, x = graph.trace(model).calls, None
    for call in calls:
        alone = len(call.inputs) == len(call.outputs) == 1 and (x is None or call.input is x)
        layer = isinstance(call.layer, keras.layers.Layer) and not any(
            mask is not None for mask in call.masks
        )
        if not alone or not layer or call.layer.activity_regularizer is not None:
            return None
        x = call.output
    if len(model.inputs) > 1 or len(calls) < 4:
        return None
    layers = [type(call.layer).from_config(call.layer.get_config()) for call in calls]
    size = math.ceil(math.sqrt(len(layers)))
    segments = [Remat(layers[i : i + size]) for i in range(0, len(layers), size)]
    entry = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype)
    return keras.Sequential([entry, *segments])


def _input_shapes(model, timesteps):
    """Shape of an example and dtype of each input."""
    shapes = []
    for x in model.inputs:
        shape = list(x.shape[1:])
        if shape and timesteps is not None:
            check_integer("timesteps", timesteps)
            if shape[0] is None:
                shape[0] = timesteps
        if None in shape:
            raise ValueError(
                f"`plan` needs all sizes of the inputs, got {tuple(x.shape)} of {x.name!r} and "
                f"timesteps={timesteps}."
            )
        shapes.append((tuple(shape), keras.backend.standardize_dtype(x.dtype)))
    if timesteps is not None and all(shape[:1] != (timesteps,) for shape, _ in shapes):
        raise ValueError(
            f"No input of {model.name!r} has timesteps={timesteps}, got the shapes "
            f"{[tuple(x.shape) for x in model.inputs]}; build the model with them, or leave "
            "`timesteps` out."
        )
    return shapes


def _size(dtype):
    return np.dtype(keras.backend.standardize_dtype(dtype)).itemsize


def _bytes(variables):
    return sum(math.prod(v.shape) * _size(v.dtype) for v in variables)


def _optimizer_bytes(model):
    if getattr(model, "optimizer", None) is None:
        return 0
    # Another one: built now, the model's own would not take a layer that is frozen later.
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer))
    optimizer.build(model.trainable_variables)
    return _bytes(optimizer.variables)


def _step(model, shapes, batch_size):
    """Bytes that a step has at its peak, besides inputs and weights."""
    backend = keras.backend.backend()
    if backend == "jax":
        return _jax_step(model, shapes, batch_size)
    measure = {"torch": _torch_step, "tensorflow": _tensorflow_step}[backend]
    before = [ops.copy(v.value) for v in model.non_trainable_variables]
    count, peaks = max(1, batch_size // 8), []
    try:
        while True:
            peaks.append((count, measure(model, _noise(model, shapes, count))))
            if count == batch_size or (len(peaks) > 1 and peaks[-1][1] > ENOUGH[backend]):
                break
            count = min(2 * count, batch_size)
    finally:
        for variable, value in zip(model.non_trainable_variables, before):
            variable.assign(value)
    peak = peaks[-1][1]
    if count < batch_size:
        (small, first), (large, _) = peaks[-2:]
        peak += (peak - first) * (batch_size - large) // (large - small)
    if not peak:
        raise RuntimeError(
            "TensorFlow counts no memory of this step. On CPUs it counts with oneDNN only "
            "(TF_ENABLE_ONEDNN_OPTS=1), and what takes more than 256 kB. `plan` works on JAX and "
            "PyTorch."
        )
    return peak


def _noise(model, shapes, count):
    rng = np.random.default_rng(0)
    values = [rng.random((count, *shape), "float32") for shape, _ in shapes]
    values = [ops.cast(ops.convert_to_tensor(x), dtype) for x, (_, dtype) in zip(values, shapes)]
    return _as_inputs(model, values)


def _as_inputs(model, values):
    structure = getattr(model, "input", None)  # a Sequential model may not have it
    return values[0] if structure is None else tree.pack_sequence_as(structure, values)


def _loss(outputs):
    return sum(ops.mean(ops.square(ops.cast(y, "float32"))) for y in tree.flatten(outputs))


def _jax_step(model, shapes, batch_size):
    """What XLA allocates for a step besides its arguments."""
    import jax

    learned = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    def loss(learned, others, inputs):
        outputs, others = model.stateless_call(learned, others, inputs, training=True)
        return _loss(outputs), others

    inputs = [jax.ShapeDtypeStruct((batch_size, *shape), dtype) for shape, dtype in shapes]
    inputs = _as_inputs(model, inputs)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    sizes = step.lower(learned, others, inputs).compile().memory_analysis()
    return sizes.temp_size_in_bytes + sizes.output_size_in_bytes


def _tensorflow_step(model, inputs):
    """The peak of TensorFlow's allocator in a step, above what it had before."""
    import tensorflow as tf

    device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
    memory = tf.config.experimental

    @tf.function(jit_compile=bool(getattr(model, "jit_compile", False)))
    def step(inputs):
        learned = [v.value for v in model.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(learned)
            loss = _loss(model(inputs, training=True))
        return tape.gradient(loss, learned)

    step(inputs)  # compiles
    before, peaks = memory.get_memory_info(device)["current"], []
    for _ in range(2):  # operations run side by side, in any order
        memory.reset_memory_stats(device)
        step(inputs)
        peaks.append(memory.get_memory_info(device)["peak"])
    return max(0, max(peaks) - before)


def _torch_step(model, inputs):
    """Most bytes of tensors that live at once during a step, besides those from before."""
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
            given = {
                x.untyped_storage().data_ptr()
                for x in tree.flatten((args, kwargs or {}))
                if isinstance(x, torch.Tensor)
            }
            results = function(*args, **(kwargs or {}))
            for x in tree.flatten(results):
                if not isinstance(x, torch.Tensor):
                    continue
                storage = x.untyped_storage()
                key, size = storage.data_ptr(), storage.nbytes()
                if key not in self.known and key not in given:
                    self.known.add(key)
                    self.now += size
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.gone, key, size)
            return results

    with Count() as count:
        loss = _loss(model(inputs, training=True))
        learned = [v.value for v in model.trainable_variables]
        torch.autograd.grad(loss, learned, allow_unused=True)
    return count.most


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
