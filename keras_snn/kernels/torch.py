"""Whole sequences of simple neurons on PyTorch: an `autograd.Function`.

It saves the charged potentials `h` and nothing else of a sequence's size. On CUDA devices Triton,
where it can be used, does all steps in one kernel, see `triton.py`; what stands here works in
place, tile by tile, on any device.

Backward, the gradients `e` to the charged potentials are a linear recurrence,
`e[t] = g[t] slope[t] + kept[t] decay e[t + 1]`. All but its multiply-add is done for many steps at
once.
"""

import functools
import math

from keras import ops

from keras_snn.kernels import tuning
from keras_snn.kernels.spec import Decay, backward, forward, like_step, unrolled
from keras_snn.surrogates import ATan


def run(neuron, sequences, tensors):
    """What `keras_snn.kernels.run` gives."""
    spikes, last, _ = function().apply(neuron, sequences, *tensors)
    return spikes, last


@functools.cache
def function():
    """The `autograd.Function`; its inputs are a `Neuron`, currents and the tensors given."""
    import torch

    class Sequence(torch.autograd.Function):
        @staticmethod
        def forward(ctx, neuron, x, *tensors):
            keep = any(ctx.needs_input_grad)
            ctx.set_materialize_grads(False)
            ctx.neuron = neuron
            spikes, last, h = way(x).forward(neuron, x, tensors, keep)
            if not keep:
                return spikes, last, None
            ctx.save_for_backward(h, *tensors)
            return spikes, last, h

        @staticmethod
        def backward(ctx, gs, gv, gh):
            h, *tensors = ctx.saved_tensors
            gs = h.new_zeros(()).expand_as(h) if gs is None else gs
            if torch.is_grad_enabled() or gh is not None:  # for second derivatives
                upstream = (gs, 0.0 if gv is None else gv)[: 1 + ctx.neuron.wants_last]
                charged = () if gh is None else (gh,)
                return None, *backward(ctx.neuron, unrolled, h, upstream, tensors, *charged)
            return None, *gradients(ctx.neuron, h, gs, gv, tensors, any(ctx.needs_input_grad[2:]))

    return Sequence


def gradients(neuron, h, gs, gv, tensors, wanted=True):
    """Gradients to the currents and to the tensors, `None` if these are not wanted.

    `gv` is `None` if nothing is given for the last potential.
    """
    gv = 0.0 if gv is None else gv
    dx = way(h).backward(neuron, h, gs, gv, tensors)
    return [dx, *(neuron.gradients(h, dx, gs, gv, tensors) if wanted else [None] * len(tensors))]


def way(x):
    """What does the steps on the device of `x`."""
    if x.is_meta:
        return Shapes
    if x.is_cuda:
        from keras_snn.kernels import triton

        if triton.usable(x.dtype, x.device):
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
    def backward(neuron, h, gs, gv, tensors):
        """As that of `InPlace`."""
        return h.clone()


class InPlace:
    """PyTorch's own operations, in buffers that are made once.

    They take potentials to be finite. One that is not stays so to the last step (infinity less
    infinity, or times 0, is NaN), where it is found; then all is done again as other backends do.
    """

    @staticmethod
    def forward(neuron, x, tensors, keep):
        """Spikes, last potential and, to `keep`, the charged potentials.

        Args:
            neuron: A `spec.Neuron`.
            x: Currents, `(batch, time, ...)`.
            tensors: Those of first potential, rate and threshold that are given.
            keep: Whether the charged potentials are wanted.

        Returns:
            `(spikes, v, h)`; `h` is of use if `keep`.
        """
        import torch

        first, rate, threshold = neuron.parameters(tensors)
        charge, reset = _charge(neuron.form, rate, x), _reset(neuron.fire, threshold)
        v = like_step(first, x)
        compare = torch.gt if neuron.fire.strict else torch.ge
        spikes, tiles = torch.empty_like(x), _tiles(x)
        h = torch.empty_like(x) if keep else None
        last = torch.empty_like(x[:, 0]) if neuron.wants_last else None
        # What is not given back stays in the cache, in the place of one tile.
        charged, potential = (torch.empty_like(x[tiles[0], 0]) for _ in range(2))
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
    def backward(neuron, h, gs, gv, tensors):
        """Gradients to the currents.

        Args:
            neuron: A `spec.Neuron`.
            h: Charged potentials, `(batch, time, ...)`.
            gs: Gradients to the spikes.
            gv: Gradient to the last potential, `(batch, ...)`, or 0 if there is none.
            tensors: Those of first potential, rate and threshold that are given.

        Returns:
            A tensor like `h`.
        """
        import torch

        fire, last = neuron.fire, h.shape[1] - 1
        _, rate, threshold = neuron.parameters(tensors)
        (decay, decays), (gain, gains) = map(_split, neuron.form.slopes(rate))
        dx, tiles = torch.empty_like(h), _tiles(h)
        count = max(1, tuning.TILE // max(1, h[tiles[0], 0].numel()))
        # Made once, to stay in the cache.
        buffers = [torch.empty_like(h[tiles[0], :count]) for _ in range(2)]
        for rows in tiles:
            carried = gv[rows] * (gain if gains is None else gains) if torch.is_tensor(gv) else None
            factor = 1.0  # what follows the last step has not decayed
            for start in reversed(range(0, last + 1, count)):
                part = rows, slice(start, start + count)
                hs, ds = h[part], dx[part]
                u, kept = (buffer[: hs.shape[0], : hs.shape[1]] for buffer in buffers)
                torch.sub(hs, threshold, out=u)
                slope = _through(fire.surrogate, u, gs[part], gain, ds)
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


def _charge(form, rate, like):
    """`charge(v, x, out)`, in the order of operations of `form.charge`."""
    import torch

    if isinstance(form, Decay):
        if form.decay == 1:
            return torch.add
        return lambda v, x, out: torch.mul(v, form.decay, out=out).add_(x)
    add_share = _add_share(form.tau, rate, like)

    def charge(v, x, out):
        away = v - form.v_rest if form.v_rest else v
        if form.decay_input:
            add_share(v, torch.sub(x, away, out=out), 1, out)
        else:
            add_share(v, away, -1, out).add_(x)

    return charge


def _add_share(tau, rate, like):
    """`f(v, z, sign, out)`: `v + sign * z / tau` or `v + sign * z * rate`, rounded twice."""
    import torch

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
    import torch

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
    import torch

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
    import torch

    if fire.reset == "hard":
        compare = torch.le if fire.strict else torch.lt
        compare(h, threshold, out=out)
        if not fire.detach:
            out.addcmul_(slope(), fire.v_reset - h)
    else:
        out.fill_(1)
        if fire.reset == "soft" and not fire.detach:
            out.sub_(slope() * threshold)
