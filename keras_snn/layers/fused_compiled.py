"""Whole sequences of simple neurons in graphs of PyTorch's compiler.

There a long sequence is one operation, of `fused_torch.py`, that the compiler does not look into. A
short one is a plain loop, which it fuses with what stands around it.
"""

import dataclasses
import itertools
import weakref

from keras_snn.layers import fused, fused_torch
from keras_snn.layers.torch_compile import ON_TORCH, compiling, operation

__all__ = ["numbered", "run", "takes_loop"]

if ON_TORCH:
    import torch

# Longer loops take the compiler minutes.
UNROLL_LIMIT = 32


def takes_loop(timesteps):
    """Whether PyTorch's compiler is at work, and a plain loop of so many steps is for it."""
    return compiling() and timesteps <= UNROLL_LIMIT


# Operations of a graph take tensors and numbers: they know a cell by its number.
CELLS = weakref.WeakValueDictionary()
COUNT = itertools.count()


def numbered(cell):
    """A new number, by which `run` finds the cell."""
    number = next(COUNT)
    CELLS[number] = cell
    return number


def run(cell, x, v, rate, threshold, wants_last):
    """What `fused.run` gives for a cell, as one operation.

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
    """A `fused.Neuron` of a cell, and those of its parameters that are tensors."""
    cell = CELLS[number]
    form, fire, own = cell.fused()
    form = form if rate is None else dataclasses.replace(form, rate=rate)
    v, threshold = cell.v_reset if v is None else v, own if threshold is None else threshold
    return fused.split(form, fire, v, threshold, wants_last)


if ON_TORCH:
    from torch import Tensor

    def _fake(number, wants_last, keep, x, v, rate, threshold):
        last = torch.empty_like(x[:, 0]) if wants_last else x.new_empty(0)
        return torch.empty_like(x), last, torch.empty_like(x) if keep else x.new_empty(0)

    @operation(_fake)
    def sequence(
        number: int,
        wants_last: bool,
        keep: bool,
        x: Tensor,
        v: Tensor | None,
        rate: Tensor | None,
        threshold: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, last potential and charged potentials; those not asked for are empty."""
        neuron, tensors = _neuron(number, wants_last, v, rate, threshold)
        spikes, last, h = fused_torch.way(x).forward(neuron, x, tensors, keep)
        return spikes, last if wants_last else x.new_empty(0), h if keep else x.new_empty(0)

    def _fake_backward(number, h, gs, gv, *parameters):
        return [torch.empty_like(t) for t in (h, *parameters) if t is not None]

    @operation(_fake_backward)
    def sequence_backward(
        number: int,
        h: Tensor,
        gs: Tensor,
        gv: Tensor | None,
        v: Tensor | None,
        rate: Tensor | None,
        threshold: Tensor | None,
    ) -> list[Tensor]:
        """Gradients to currents and to those of the other tensors that are given."""
        neuron, tensors = _neuron(number, gv is not None, v, rate, threshold)
        return fused_torch.gradients(neuron, h, gs, gv, tensors)

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
