"""What `torch.compile` wants, which `model.compile(jit_compile=True)` means on PyTorch.

A network should be one graph for it. Where it can't trace something, every layer becomes a graph of
its own, for maps of any size: slow, and more than its compiler can do. Some of Keras's operations
break graphs; here are forms that do not. Nothing but that compiler takes them.

Neurons of short sequences are plain loops there, which it fuses with what stands around them. A
longer one, which would take it minutes, is one operation that it does not look into.
"""

import dataclasses
import itertools
import sys
import weakref

import keras
from keras.src import backend
from keras.src.random.seed_generator import draw_seed

from keras_snn.kernels import torch as kernel
from keras_snn.kernels import tuning
from keras_snn.kernels.spec import split

ON_TORCH = keras.backend.backend() == "torch"
if ON_TORCH:
    import torch

__all__ = ["compiling", "exporting", "numbered", "operation", "run", "takes_loop"]


def compiling():
    """Whether PyTorch's compiler is at work."""
    return ON_TORCH and torch.compiler.is_compiling()


# Modules that trace a model for a file; only PyTorch says itself that it does so.
EXPORTERS = ("keras.src.export", "keras.src.backend.tensorflow.export", "tf2onnx", "jax2onnx")
EXPORTERS += ("keras.src.backend.jax.export", "tensorflow.lite.python")


def exporting(x):
    """Whether `x` is traced for a file, whose format may have plain operations only."""
    if ON_TORCH:
        return torch.compiler.is_exporting() or torch.jit.is_tracing()
    frame = sys._getframe() if _is_traced(x) else None
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(EXPORTERS):
            return True
        frame = frame.f_back
    return False


def _is_traced(x):
    if keras.backend.backend() == "jax":
        import jax

        return isinstance(x, jax.core.Tracer)
    import tensorflow as tf

    return not tf.executing_eagerly()


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
    seeded = getattr(seed, "_initial_seed", seed) is not None
    if noise_shape is None and not seeded:
        return torch.nn.functional.dropout(inputs, rate)
    shape = [size or full for size, full in zip(noise_shape or inputs.shape, inputs.shape)]
    kept = mask(_next(seed), shape, 1 - rate)
    return torch.where(kept, inputs / (1 - rate), torch.zeros_like(inputs))


def _next(seed):
    """The next seed of a generator, which Keras asks numpy to count."""
    if not isinstance(seed, keras.random.SeedGenerator):
        return draw_seed(seed)
    drawn = seed.state.value.clone()
    seed.state.assign(drawn + torch.arange(2, dtype=drawn.dtype, device=drawn.device))
    return drawn


if ON_TORCH:

    @operation(fake=lambda seed, shape, share: seed.new_empty(shape, dtype=torch.bool))
    def mask(seed: torch.Tensor, shape: list[int], share: float) -> torch.Tensor:
        """Of each element whether it is kept; its probability is `share`."""
        generator = torch.Generator(seed.device).manual_seed(int(seed.sum()) & 0xFFFFFFFF)
        return torch.full(shape, share, device=seed.device).bernoulli(generator=generator).bool()

    FORMS = {
        keras.ops.pad: pad,
        keras.ops.moments: moments,
        keras.ops.max: max,
        backend.random.dropout: dropout,
    }
    for function, form in FORMS.items():
        torch.compiler.substitute_in_graph(function)(form)


def takes_loop(timesteps):
    """Whether PyTorch's compiler is at work, and a plain loop of so many steps is for it."""
    return compiling() and timesteps <= tuning.TORCH_COMPILE_UNROLL_LIMIT


# Operations of a graph take tensors and numbers: they know a cell by its number.
CELLS = weakref.WeakValueDictionary()
COUNT = itertools.count()


def numbered(cell):
    """A new number, by which `run` finds the cell."""
    number = next(COUNT)
    CELLS[number] = cell
    return number


def run(cell, x, v, rate, threshold, wants_last):
    """What `kernels.run` gives for a cell, as one operation.

    Args:
        cell: A `SpikingCell` that has a `form`.
        x: Currents, `(batch, time, ...)`.
        v: Potential before the first step: the cell's `v_reset`, or a tensor.
        rate: That of the cell's `form`.
        threshold: The cell's, a number or a tensor.
        wants_last: Whether the last potential is used.

    Returns:
        `(spikes, v)`; `v` is `None` unless `wants_last`.
    """
    given = [p if torch.is_tensor(p) else None for p in (v, rate, threshold)]
    keep = torch.is_grad_enabled()
    spikes, last, _ = sequence(cell.number, wants_last, keep, x.contiguous(), *given)
    return spikes, last if wants_last else None


def _neuron(number, wants_last, v, rate, threshold):
    """A `spec.Neuron` of a cell, and those of its parameters that are tensors."""
    cell = CELLS[number]
    form, fire, own = cell.fused()
    form = form if rate is None else dataclasses.replace(form, rate=rate)
    v, threshold = cell.v_reset if v is None else v, own if threshold is None else threshold
    return split(form, fire, v, threshold, wants_last)


if ON_TORCH:

    def _fake(number, wants_last, keep, x, v, rate, threshold):
        last = torch.empty_like(x[:, 0]) if wants_last else x.new_empty(0)
        return torch.empty_like(x), last, torch.empty_like(x) if keep else x.new_empty(0)

    @operation(_fake)
    def sequence(
        number: int,
        wants_last: bool,
        keep: bool,
        x: torch.Tensor,
        v: torch.Tensor | None,
        rate: torch.Tensor | None,
        threshold: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Spikes, last potential and charged potentials; those not asked for are empty."""
        neuron, tensors = _neuron(number, wants_last, v, rate, threshold)
        spikes, last, h = kernel.way(x).forward(neuron, x, tensors, keep)
        return spikes, last if wants_last else x.new_empty(0), h if keep else x.new_empty(0)

    def _fake_backward(number, h, gs, gv, *parameters):
        return [torch.empty_like(t) for t in (h, *parameters) if t is not None]

    @operation(_fake_backward)
    def sequence_backward(
        number: int,
        h: torch.Tensor,
        gs: torch.Tensor,
        gv: torch.Tensor | None,
        v: torch.Tensor | None,
        rate: torch.Tensor | None,
        threshold: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Gradients to currents and to those of the other tensors that are given."""
        neuron, tensors = _neuron(number, gv is not None, v, rate, threshold)
        return kernel.gradients(neuron, h, gs, gv, tensors)

    def _keep(ctx, inputs, output):
        ctx.number, ctx.wants_last, _, _, *parameters = inputs
        ctx.save_for_backward(output[2], *parameters)
        ctx.mark_non_differentiable(output[2])

    def _backward(ctx, gs, gv, _):
        h, *parameters = ctx.saved_tensors
        found = iter(
            sequence_backward(ctx.number, h, gs, gv if ctx.wants_last else None, *parameters)
        )
        dx = next(found)
        return None, None, None, dx, *(None if p is None else next(found) for p in parameters)

    torch.library.register_autograd(sequence, _backward, setup_context=_keep)
