"""Whole sequences of simple neurons on PyTorch: an `autograd.Function`.

It saves the charged potentials `h` and nothing else of a sequence's size. On CUDA devices Triton,
where it can be used, does all steps in one kernel, see `triton.py`; what stands here works in
place, tile by tile, on any device.

Backward, the gradients `e` to the charged potentials are a linear recurrence,
`e[t] = g[t] slope[t] + kept[t] decay e[t + 1]`. All but its multiply-add is done for many steps at
once.
"""

import dataclasses
import functools
import itertools
import math
import weakref

import keras
from keras import ops

from keras_snn.kernels import torch_compile, tuning
from keras_snn.kernels.spec import (
    Decay,
    Leak,
    backward,
    forward,
    like_step,
    split,
    unrolled,
)
from keras_snn.surrogates import ATan

if keras.backend.backend() == "torch":
    import torch

    from keras_snn.kernels import torch_steps

    class _Move(torch.autograd.Function):
        """Moves steps by a permutation, and makes those that are not kept 0.

        PyTorch's own gradient of `index_select` adds up, as indices might repeat: it is slower.
        """

        @staticmethod
        def forward(ctx, x, steps, kept, *inverse):
            ctx.save_for_backward(*inverse, steps, kept)
            moved = x.flatten(0, 1).index_select(0, steps)
            return _keep(moved, kept.flatten()).unflatten(0, x.shape[:2])

        @staticmethod
        def backward(ctx, gradient):
            return _Move.apply(gradient, *ctx.saved_tensors), None, None, None, None


def run(cell, sequences, v, wants_last, training=False, mask=None):
    """Runs a cell over a sequence; see `keras_snn.kernels.implementation`."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return None  # files have plain operations only
    if mask is not None:
        # The last potential would be that after steps that are masked.
        return None if wants_last else _run_masked(cell, sequences, v, mask, training)
    if torch.compiler.is_compiling():
        return _run_compiled(cell, sequences, v, wants_last)
    neuron, tensors = split(*cell.fused_spec(), v, wants_last)
    spikes, last, _ = function().apply(neuron, sequences, *tensors)
    return spikes, last


def _run_masked(cell, sequences, v, mask, training):
    """What `run` gives with a mask: by kernels of masked steps, once the neuron has some.

    Until then each example's other steps run in front, and move back.
    """
    first = v if torch.is_tensor(v) else torch.full_like(sequences[:, 0], v)
    steps = torch_steps.run(cell, sequences, [first], mask, training)
    if steps is not None:
        return steps[0], None
    mask = ops.cast(mask, "bool")
    count = mask.sum(1, True)
    places = torch.where(mask, mask.cumsum(1), count + (~mask).cumsum(1)) - 1
    order, valid = places.argsort(1), torch.arange(mask.shape[1], device=mask.device) < count
    first = torch.arange(0, mask.numel(), mask.shape[1], device=mask.device)[:, None]
    there, back = ((first + order).flatten(), valid), ((first + places).flatten(), mask)
    found = run(cell, _Move.apply(sequences, *there, *back), v, False, training)
    return found and (_Move.apply(found[0], *back, *there), None)


def _keep(x, kept):
    """Makes all rows 0 but those kept, in place."""
    if x.is_cpu and not torch.compiler.is_compiling():
        return x.index_fill_(0, (~kept).nonzero()[:, 0], 0)  # ten times quicker there
    return x.masked_fill_(~kept.reshape(-1, *[1] * (x.ndim - 1)), 0)


@functools.cache
def function():
    """The `autograd.Function`; its inputs are a `FusedNeuron`, currents and the tensors."""

    class Sequence(torch.autograd.Function):
        @staticmethod
        def forward(ctx, neuron, x, *tensors):
            keep = any(ctx.needs_input_grad)
            ctx.set_materialize_grads(False)
            ctx.neuron = neuron
            spikes, last, h = implementation(x, neuron).forward(neuron, x, tensors, keep)
            if not keep:
                return spikes, last, None
            ctx.save_for_backward(h, *tensors)
            return spikes, last, h

        @staticmethod
        def backward(ctx, grad_spikes, grad_v, grad_h):
            neuron, (h, *tensors) = ctx.neuron, ctx.saved_tensors
            if grad_spikes is None:
                grad_spikes = h.new_zeros(()).expand_as(h)
            grad_v = 0.0 if grad_v is None else grad_v
            if torch.is_grad_enabled() or grad_h is not None:  # for second derivatives
                upstream = (grad_spikes, grad_v)[: 1 + neuron.wants_last]
                grad_h = () if grad_h is None else (grad_h,)
                return None, *backward(neuron, unrolled, h, upstream, tensors, *grad_h)
            wanted = any(ctx.needs_input_grad[2:])
            return None, *gradients(neuron, h, grad_spikes, grad_v, tensors, wanted)

    return Sequence


def gradients(neuron, h, grad_spikes, grad_v, tensors, wanted=True):
    """Gradients to the currents and to the tensors, `None` for these unless `wanted`."""
    dx = implementation(h, neuron).backward(neuron, h, grad_spikes, grad_v, tensors)
    if not wanted:
        return [dx, *[None] * len(tensors)]
    return [dx, *neuron.gradients(h, dx, grad_spikes, grad_v, tensors)]


def implementation(x, neuron):
    """What computes all steps of a neuron: `Shapes`, `InPlace` or the module `triton`."""
    if x.is_meta:
        return Shapes
    if x.is_cuda:
        from keras_snn.kernels import triton

        known = isinstance(neuron.linear_charge, (Decay, Leak))
        if known and triton.usable(x.dtype, x.device):
            return triton
    return InPlace


class Shapes:
    """Nothing but empty tensors, for who asks for shapes only (Keras does, before a first step)."""

    @staticmethod
    def forward(neuron, x, tensors, keep):
        """As that of `InPlace`."""
        last = x[:, 0].clone() if neuron.wants_last else None
        return x.clone(), last, x.clone() if keep else None

    @staticmethod
    def backward(neuron, h, grad_spikes, grad_v, tensors):
        """As that of `InPlace`."""
        return h.clone()


class InPlace:
    """PyTorch's own operations, in buffers that are made once.

    They take potentials to be finite. One that is not stays so to the last step (infinity less
    infinity, or times 0, is NaN), where it shows; then all is done again as other backends do.
    """

    @staticmethod
    def forward(neuron, x, tensors, keep):
        """Spikes, last potential and, to `keep`, the charged potentials.

        Args:
            neuron: A `FusedNeuron`.
            x: Currents, `(batch, time, ...)`.
            tensors: Those of first potential, rate and threshold that are tensors.
            keep: Whether the charged potentials are wanted.

        Returns:
            `(spikes, v, h)`; `h` is of use if `keep`.
        """
        first, rate, threshold, _ = neuron.parameters(tensors)
        charge, reset = _charge(neuron.linear_charge, rate, x), _reset(neuron.fire, threshold)
        v = like_step(first, x)
        compare = torch.gt if neuron.fire.strict else torch.ge
        spikes, tiles = torch.empty_like(x), _tiles(x)
        h = torch.empty_like(x) if keep else None
        last = torch.empty_like(x[:, 0]) if neuron.wants_last else None
        # Scratch buffers are tile-sized, so they stay in cache.
        charged, potential = torch.empty_like(x[tiles[0], 0]), torch.empty_like(x[tiles[0], 0])
        for rows in tiles:
            count = x[rows].shape[0]
            before, after = v[rows], potential[:count] if last is None else last[rows]
            hs = h[rows].unbind(1) if keep else [charged[:count]] * x.shape[1]
            steps = zip(x[rows].unbind(1), hs, spikes[rows].unbind(1))
            for step, (xt, ht, st) in enumerate(steps, start=1):
                charge(before, xt, out=ht)
                compare(ht, threshold, out=st)
                if neuron.wants_last or step < x.shape[1]:
                    reset(ht, st, out=after)
                before = after
            if not ht.sum(dtype=torch.float32).isfinite():
                spikes, *last, h = forward(neuron, unrolled, True, x, *tensors)
                return spikes, last[0] if last else None, h
        return spikes, last, h

    @staticmethod
    def backward(neuron, h, grad_spikes, grad_v, tensors):
        """Gradients to the currents.

        Args:
            neuron: A `FusedNeuron`.
            h: Charged potentials, `(batch, time, ...)`.
            grad_spikes: Gradients to the spikes.
            grad_v: Gradient to the last potential, `(batch, ...)`, or 0 if there is none.
            tensors: Those of first potential, rate and threshold that are tensors.

        Returns:
            A tensor like `h`.
        """
        fire, last = neuron.fire, h.shape[1] - 1
        _, rate, threshold, _ = neuron.parameters(tensors)
        (decay, decays), (gain, gains) = map(_split, neuron.linear_charge.slopes(rate))
        dx, tiles = torch.empty_like(h), _tiles(h)
        count = max(1, tuning.TILE // max(1, h[tiles[0], 0].numel()))
        # Made once, to stay in the cache.
        buffers = [torch.empty_like(h[tiles[0], :count]) for _ in range(2)]
        for rows in tiles:
            carried = None
            if torch.is_tensor(grad_v):
                carried = grad_v[rows] * (gain if gains is None else gains)
            factor = 1.0  # what follows the last step has not decayed
            for start in reversed(range(0, last + 1, count)):
                part = rows, slice(start, start + count)
                hs, ds = h[part], dx[part]
                u, kept = (buffer[: hs.shape[0], : hs.shape[1]] for buffer in buffers)
                torch.sub(hs, threshold, out=u)
                slope = _through(fire.surrogate, u, grad_spikes[part], gain, ds)
                _kept(fire, hs, threshold, slope, out=kept)
                if gains is not None:
                    ds.mul_(gains)
                if decays is not None:
                    kept[:, : last - start].mul_(decays)
                for d, k in zip(ds.unbind(1)[::-1], kept.unbind(1)[::-1]):
                    carried = d if carried is None else d.addcmul_(k, carried, value=factor)
                    factor = decay
        return dx


def _tiles(x):
    """Slices of the batch; all steps of one are done before the next."""
    rows = max(1, tuning.TILE // max(1, x[:1, 0].numel()))
    return [slice(start, start + rows) for start in range(0, max(1, x.shape[0]), rows)]


def _charge(linear_charge, rate, like):
    """`charge(v, x, out)`, in the order of operations of `linear_charge.charge`."""
    if isinstance(linear_charge, Decay):
        if linear_charge.decay == 1:
            return torch.add
        return lambda v, x, out: torch.mul(v, linear_charge.decay, out=out).add_(x)
    if not isinstance(linear_charge, Leak):
        return lambda v, x, out: out.copy_(linear_charge.charge(v, x, rate))
    add_share = _add_share(linear_charge.tau, rate, like)

    def charge(v, x, out):
        away = v - linear_charge.v_rest if linear_charge.v_rest else v
        if linear_charge.decay_input:
            add_share(v, torch.sub(x, away, out=out), 1, out)
        else:
            add_share(v, away, -1, out).add_(x)

    return charge


def _add_share(tau, rate, like):
    """`f(v, z, sign, out)`: `v + sign * z / tau` or `v + sign * z * rate`, rounded twice."""
    if rate is not None:
        return lambda v, z, sign, out: torch.add(
            v, torch.mul(z, rate, out=out), alpha=sign, out=out
        )
    if math.frexp(tau)[0] == 0.5:  # a power of two: nothing to round in the product
        return lambda v, z, sign, out: torch.add(v, z, alpha=sign / tau, out=out)
    tau = like.new_full((), tau)
    return lambda v, z, sign, out: torch.addcdiv(v, z, tau, value=sign, out=out)


def _reset(fire, threshold):
    """`reset(h, spikes, out)`: the potential after a step."""

    def reset(h, spikes, out):
        if fire.reset == "hard":
            torch.addcmul(h, h, spikes, value=-1, out=out)
            if fire.v_reset:
                out.add_(spikes, alpha=fire.v_reset)
        elif fire.reset == "soft" and isinstance(threshold, (int, float)):
            torch.add(h, spikes, alpha=-threshold, out=out)
        elif fire.reset == "soft":
            torch.addcmul(h, spikes, threshold, value=-1, out=out)
        else:
            out.copy_(h)

    return reset


def _split(factor):
    """A factor as a number, which other operations take along, and a tensor, which none does."""
    return (factor, None) if isinstance(factor, (int, float)) else (1.0, factor)


def _through(surrogate, u, upstream, gain, out):
    """Writes `gain * slope * upstream`; the slope is the surrogate's at `u`, which is overwritten.

    Returns:
        A function that gives the slope, for those who need it too.
    """
    zero = u.new_zeros(())
    if type(surrogate) is ATan:  # the default, in fewer operations
        curvature, floor = math.pi**2 / 2 * surrogate.alpha, u.new_full((), 2 / surrogate.alpha)
        inverse = torch.addcmul(floor, u, u, value=curvature, out=u)
        torch.addcdiv(zero, upstream, inverse, value=gain, out=out)
        return inverse.reciprocal_
    slope = ops.cast(surrogate.derivative(u), u.dtype)
    torch.addcmul(zero, upstream, slope, value=gain, out=out)
    return lambda: slope


def _kept(fire, h, threshold, slope, out):
    """Writes the slopes of the potentials after the steps to the charged ones.

    `slope()` is the surrogate's.
    """
    if fire.reset == "hard":
        compare = torch.le if fire.strict else torch.lt
        compare(h, threshold, out=out)
        if not fire.detach:
            out.addcmul_(slope(), fire.v_reset - h)
    else:
        out.fill_(1)
        if fire.reset == "soft" and not fire.detach:
            out.sub_(slope() * threshold)


# Operations of a graph take tensors and numbers: they know a cell by its number.
CELLS = weakref.WeakValueDictionary()
COUNT = itertools.count()


def make_known(cell):
    """Gives a cell a number, by which operations of compiled graphs find it, if these work."""
    if _define_operations():
        cell.number = next(COUNT)
        CELLS[cell.number] = cell


def _run_compiled(cell, x, v, wants_last):
    """What `run` gives within graphs of PyTorch's compiler, as one operation of the graph."""
    if cell.number is None or x.shape[1] <= tuning.TORCH_COMPILE_UNROLL_LIMIT:
        return None  # the compiler fuses a short loop with what stands around it
    linear_charge, _, threshold = cell.fused_spec()
    tensors = [p if torch.is_tensor(p) else None for p in (v, linear_charge.rate, threshold)]
    spikes, last, _ = torch.ops.keras_snn.sequence(
        cell.number, wants_last, torch.is_grad_enabled(), x.contiguous(), *tensors
    )
    return spikes, last if wants_last else None


def _neuron(number, wants_last, v, rate, threshold):
    """A cell's `FusedNeuron` and its tensors, which are those given where they are given."""
    cell = CELLS[number]
    linear_charge, fire, own = cell.fused_spec()
    if rate is not None:
        linear_charge = dataclasses.replace(linear_charge, rate=rate)
    v, threshold = cell.v_reset if v is None else v, own if threshold is None else threshold
    return split(linear_charge, fire, threshold, v, wants_last)


@functools.cache
def _define_operations():
    """Defines the operations of compiled graphs, once; false, with a warning, where it can't be."""
    with torch_compile.warn_of_changes("neurons of long sequences as an operation"):
        define_sequence = torch_compile.operation(_fake_sequence)
        define_backward = torch_compile.operation(_fake_backward)
        define_backward(sequence_backward)
        torch.library.register_autograd(
            define_sequence(sequence), _gradient, setup_context=_keep_for_gradient
        )
        return True
    return False


def sequence(
    number: int,
    wants_last: bool,
    keep: bool,
    x: "torch.Tensor",
    v: "torch.Tensor | None",
    rate: "torch.Tensor | None",
    threshold: "torch.Tensor | None",
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Spikes, last potential and charged potentials; those not asked for are empty."""
    neuron, tensors = _neuron(number, wants_last, v, rate, threshold)
    spikes, last, h = implementation(x, neuron).forward(neuron, x, tensors, keep)
    return spikes, last if wants_last else x.new_empty(0), h if keep else x.new_empty(0)


def _fake_sequence(number, wants_last, keep, x, v, rate, threshold):
    last = torch.empty_like(x[:, 0]) if wants_last else x.new_empty(0)
    return torch.empty_like(x), last, torch.empty_like(x) if keep else x.new_empty(0)


def sequence_backward(
    number: int,
    h: "torch.Tensor",
    grad_spikes: "torch.Tensor",
    grad_v: "torch.Tensor | None",
    v: "torch.Tensor | None",
    rate: "torch.Tensor | None",
    threshold: "torch.Tensor | None",
) -> "list[torch.Tensor]":
    """Gradients to currents and to those of the other tensors that are given."""
    neuron, tensors = _neuron(number, grad_v is not None, v, rate, threshold)
    return gradients(neuron, h, grad_spikes, 0.0 if grad_v is None else grad_v, tensors)


def _fake_backward(number, h, grad_spikes, grad_v, *parameters):
    return [torch.empty_like(t) for t in (h, *parameters) if t is not None]


def _keep_for_gradient(ctx, inputs, output):
    ctx.number, ctx.wants_last, _, _, *parameters = inputs
    ctx.save_for_backward(output[2], *parameters)
    ctx.mark_non_differentiable(output[2])


def _gradient(ctx, grad_spikes, grad_v, _):
    h, *parameters = ctx.saved_tensors
    grad_v = grad_v if ctx.wants_last else None
    slopes = iter(
        torch.ops.keras_snn.sequence_backward(ctx.number, h, grad_spikes, grad_v, *parameters)
    )
    dx = next(slopes)
    return None, None, None, dx, *(None if p is None else next(slopes) for p in parameters)
