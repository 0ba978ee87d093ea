"""Whole sequences of simple neurons, with a hand-written backward pass.

For a neuron whose charge `h = charge(v, x)` has constant slopes to `v` and `x`, and that fires and
resets as `SpikingCell` does, the gradient of a sequence needs one saved tensor: the charged
potentials `h`. Spikes, surrogate derivatives and the potentials between steps follow from it. A
cell takes this way if it has a `form`; the spikes are those of the plain loop, by the same order
of operations, and the gradients too but for rounding.

On TensorFlow and JAX the pass is a custom gradient (unrolled for short sequences, a loop that
writes in place for long ones on JAX); on PyTorch an `autograd.Function` that works in place.
"""

import dataclasses
import functools
from typing import Any

import keras
from keras import ops

from keras_snn import dynamics
from keras_snn.surrogates import heaviside

__all__ = ["Decay", "Fire", "Leak", "run"]


@dataclasses.dataclass(frozen=True)
class Decay:
    """`h = decay * v + x`; with `decay=1` the integrate-and-fire neuron's charge."""

    decay: float = 1.0
    rate = None

    def charge(self, v, x, rate):
        """The charged potential."""
        return dynamics.decay_charge(v, x, self.decay) if self.decay != 1 else v + x

    def charge_into(self, out, v, x, rate):
        """The same, into a PyTorch tensor."""
        if self.decay == 1:
            return _torch().add(v, x, out=out)
        return _torch().mul(v, self.decay, out=out).add_(x)

    def slopes(self, rate):
        """Slopes of the charge to `v` and to `x`."""
        return self.decay, 1.0


@dataclasses.dataclass(frozen=True)
class Leak:
    """`h = v + (x - (v - v_rest)) * rate`, or `h = v - (v - v_rest) * rate + x`.

    `rate` is `1 / tau`: a number `tau` that divides, or a tensor that multiplies and is learned.
    """

    v_rest: float
    decay_input: bool
    tau: Any = None
    rate: Any = None

    def charge(self, v, x, rate):
        """The charged potential."""
        return dynamics.lif_charge(v, x, self.tau, rate, self.v_rest, self.decay_input)

    def charge_into(self, out, v, x, rate):
        """The same, into a PyTorch tensor."""
        torch = _torch()
        away = v - self.v_rest if self.v_rest else v
        if self.decay_input:
            torch.sub(x, away, out=out)
        else:
            out.copy_(away)
        out = out.div_(self.tau) if rate is None else out.mul_(rate)
        return out.add_(v) if self.decay_input else torch.sub(v, out, out=out).add_(x)

    def slopes(self, rate):
        """Slopes of the charge to `v` and to `x`."""
        rate = 1 / self.tau if rate is None else rate
        return 1 - rate, rate if self.decay_input else 1.0

    def rate_slope(self, v, h, rate):
        """Slope of the charge to the rate."""
        return (h - v) / rate if self.decay_input else self.v_rest - v


@dataclasses.dataclass(frozen=True)
class Fire:
    """How a neuron fires and resets: what `SpikingCell` holds, without the threshold."""

    surrogate: Any
    strict: bool
    reset: str
    v_reset: float
    detach: bool

    def forward(self, form, v, x, rate, threshold):
        """Charged potential, spikes, potential after the reset."""
        h = form.charge(v, x, rate)
        spikes = heaviside(h - threshold, self.strict)
        v = dynamics.reset_membrane(h, spikes, threshold, self.reset, self.v_reset, detach=False)
        return h, spikes, v

    def backward(self, h, threshold, upstream, gv):
        """Gradients to `h` and to the threshold, from those to the spikes and to the new `v`."""
        u = h - threshold
        spikes = heaviside(u, self.strict)
        if not self.detach and self.reset != "none":
            change = self.v_reset - h if self.reset == "hard" else -threshold
            upstream = upstream + gv * change
        through = upstream * ops.cast(self.surrogate.derivative(u), h.dtype)
        kept = gv * (1 - spikes) if self.reset == "hard" else gv
        lost = gv * spikes if self.reset == "soft" else 0
        return through + kept, -(through + lost)

    def after(self, h, threshold):
        """The potential after the step whose charged potential is `h`."""
        spikes = heaviside(h - threshold, self.strict)
        return dynamics.reset_membrane(h, spikes, threshold, self.reset, self.v_reset, detach=False)


def run(form, fire, sequences, v, threshold):
    """Spikes `(batch, time, ...)` and the last potential of a sequence of currents.

    Args:
        form: `Decay` or `Leak`.
        fire: `Fire`.
        sequences: Currents, `(batch, time, ...)`, with a known number of steps.
        v: Potential before the first step, `(batch, ...)`.
        threshold: A number, or a tensor to learn.

    Returns:
        `(spikes, v)`.
    """
    way = {"tensorflow": _unrolled, "jax": _jax, "torch": _in_place}[keras.backend.backend()]
    rate = form.rate
    if rate is not None:
        form = dataclasses.replace(form, rate=None)
    return way(form, fire, sequences, v, rate, threshold)


def _summed(gradient, parameter):
    """A gradient summed over the axes that its parameter is broadcast over."""
    shape, rank = parameter.shape, len(gradient.shape)
    axes = range(rank - len(shape))
    axes = [*axes, *(rank - len(shape) + i for i, size in enumerate(shape) if size == 1)]
    return ops.reshape(ops.sum(gradient, tuple(axes)), shape) if axes else gradient


def _learned(rate, threshold):
    """Which of the two are tensors, and a function that restores both from these."""
    tensors = [p for p in (rate, threshold) if p is not None and not isinstance(p, (int, float))]

    def restore(given):
        given = list(given)
        both = []
        for p in (rate, threshold):
            is_tensor = p is not None and not isinstance(p, (int, float))
            both.append(given.pop(0) if is_tensor else p)
        return both

    return tensors, restore


def _unrolled(form, fire, sequences, v, rate, threshold):
    """All steps one after the other, as a custom gradient (TensorFlow, JAX)."""
    tensors, restore = _learned(rate, threshold)

    @ops.custom_gradient
    def sequence(x, v, *parameters):
        rate, threshold = restore(parameters)
        hs, outputs, first = [], [], v
        for step in ops.unstack(x, axis=1):
            h, spikes, v = fire.forward(form, v, step, rate, threshold)
            hs.append(h)
            outputs.append(spikes)

        def grad(*upstream):
            gs, gv = upstream if len(upstream) == 2 else upstream[0]
            decay, gain = form.slopes(rate)
            dx, dp = [], [0.0, 0.0]
            steps = zip(reversed(hs), reversed(ops.unstack(gs, axis=1)))
            for t, (h, g) in zip(range(len(hs))[::-1], steps):
                dh, dthreshold = fire.backward(h, threshold, g, gv)
                dx.append(gain * dh)
                if rate is not None:
                    before = fire.after(hs[t - 1], threshold) if t else first
                    dp[0] += _summed(dh * form.rate_slope(before, h, rate), rate)
                if not isinstance(threshold, (int, float)):
                    dp[1] += _summed(dthreshold, threshold)
                gv = decay * dh
            wanted = [d for d in dp if not isinstance(d, float)]
            return (ops.stack(dx[::-1], axis=1), gv, *wanted)

        return (ops.stack(outputs, axis=1), v), grad

    return sequence(sequences, v, *tensors)


def _jax(form, fire, sequences, v, rate, threshold):
    """Unrolled if short; else a loop whose buffers are written in place."""
    if sequences.shape[1] <= JAX_UNROLL_LIMIT:
        return _unrolled(form, fire, sequences, v, rate, threshold)
    import jax

    at = functools.partial(jax.lax.dynamic_index_in_dim, axis=1, keepdims=False)
    put = functools.partial(jax.lax.dynamic_update_index_in_dim, axis=1)
    tensors, restore = _learned(rate, threshold)
    timesteps = sequences.shape[1]

    def forward(x, v, *parameters):
        rate, threshold = restore(parameters)

        def body(t, carry):
            v, hs, outputs = carry
            h, spikes, v = fire.forward(form, v, at(x, t), rate, threshold)
            return v, put(hs, h, t), put(outputs, spikes, t)

        blank = jax.numpy.zeros_like(x)
        first = v
        v, hs, outputs = jax.lax.fori_loop(0, timesteps, body, (v, blank, blank))
        return (outputs, v), (hs, first, parameters)

    def backward(saved, upstream):
        (hs, first, parameters), (gs, gv) = saved, upstream
        rate, threshold = restore(parameters)
        decay, gain = form.slopes(rate)

        def body(i, carry):
            t = timesteps - 1 - i
            gv, dx, drate, dthreshold = carry
            h = at(hs, t)
            dh, dt = fire.backward(h, threshold, at(gs, t), gv)
            if rate is not None:
                before = fire.after(at(hs, jax.numpy.maximum(t - 1, 0)), threshold)
                before = jax.numpy.where(t > 0, before, first)
                drate += _summed(dh * form.rate_slope(before, h, rate), rate)
            if not isinstance(threshold, (int, float)):
                dthreshold += _summed(dt, threshold)
            return decay * dh, put(dx, gain * dh, t), drate, dthreshold

        zeros = [
            jax.numpy.zeros_like(p) if isinstance(p, jax.Array) else 0.0 for p in (rate, threshold)
        ]
        start = (gv, jax.numpy.zeros_like(hs), *zeros)
        gv, dx, *dp = jax.lax.fori_loop(0, timesteps, body, start)
        wanted = [d for d, p in zip(dp, (rate, threshold)) if isinstance(p, jax.Array)]
        return (dx, gv, *wanted)

    sequence = jax.custom_vjp(lambda *arguments: forward(*arguments)[0])
    sequence.defvjp(forward, backward)
    return sequence(sequences, v, *tensors)


# Longer sequences are a loop on JAX: compile time grows with unrolled length.
JAX_UNROLL_LIMIT = 8


def _torch():
    import torch

    return torch


def _in_place(form, fire, sequences, v, rate, threshold):
    """All steps in buffers that are made once (PyTorch)."""
    tensors, restore = _learned(rate, threshold)
    return _torch_function().apply(form, fire, restore, sequences, v, *tensors)


@functools.cache
def _torch_function():
    import torch

    class Sequence(torch.autograd.Function):
        @staticmethod
        def forward(ctx, form, fire, restore, x, v, *parameters):
            rate, threshold = restore(parameters)
            keep = any(ctx.needs_input_grad)
            outputs, first, v = torch.empty_like(x), v, v.clone()
            hs = torch.empty_like(x) if keep else None
            scratch = None if keep else torch.empty_like(v)
            compare = torch.gt if fire.strict else torch.ge
            number = isinstance(threshold, (int, float))
            for t in range(x.shape[1]):
                h, spikes = (hs[:, t] if keep else scratch), outputs[:, t]
                form.charge_into(h, v, x[:, t], rate)
                compare(h, threshold, out=spikes)
                if fire.reset == "hard":
                    torch.addcmul(h, h, spikes, value=-1, out=v)
                    v = v.add_(spikes, alpha=fire.v_reset) if fire.v_reset else v
                elif fire.reset == "soft" and number:
                    torch.add(h, spikes, alpha=-threshold, out=v)
                elif fire.reset == "soft":
                    torch.addcmul(h, spikes, threshold, value=-1, out=v)
                else:
                    v.copy_(h)
            ctx.form, ctx.fire, ctx.restore = form, fire, restore
            if keep:
                ctx.save_for_backward(hs, first, *parameters)
            return outputs, v

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gs, gv):
            form, fire = ctx.form, ctx.fire
            hs, first, *parameters = ctx.saved_tensors
            rate, threshold = ctx.restore(parameters)
            decay, gain = form.slopes(rate)
            dx, dp = torch.empty_like(hs), [0.0, 0.0]
            for t in range(hs.shape[1])[::-1]:
                h = hs[:, t]
                dh, dthreshold = fire.backward(h, threshold, gs[:, t], gv)
                torch.mul(dh, gain, out=dx[:, t])
                if rate is not None:
                    before = fire.after(hs[:, t - 1], threshold) if t else first
                    dp[0] += _summed(dh * form.rate_slope(before, h, rate), rate)
                if not isinstance(threshold, (int, float)):
                    dp[1] += _summed(dthreshold, threshold)
                gv = dh.mul_(decay) if isinstance(decay, (int, float)) else dh * decay
            wanted = [d for d in dp if not isinstance(d, float)]
            return None, None, None, dx, gv, *wanted

    return Sequence
