"""Whole sequences of simple neurons, with a hand-written backward pass.

For a neuron whose charge `h = charge(v, x)` has constant slopes to `v` and `x`, and that fires and
resets as `SpikingCell` does, the gradient of a sequence needs one saved tensor: the charged
potentials `h`. Spikes, surrogate derivatives and the potentials between steps follow from it. A
cell takes this way if it has a `form`; the spikes are those of the plain loop, by the same order
of operations, and the gradients too but for rounding.

On TensorFlow and JAX the pass is a custom gradient, compiled by XLA: unrolled for short sequences,
else a loop. In TensorFlow's graphs the backward pass of a short sequence computes `h` again, from
the currents, which saves the forward pass writing it. On PyTorch it is an `autograd.Function`, see
`fused_torch.py`.
"""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_snn import dynamics
from keras_snn.surrogates import heaviside, jax_gradient

__all__ = ["Decay", "Fire", "Leak", "run"]

# Linux's malloc gives the top of the heap back to the system as soon as twice the largest block
# that was freed so far, of up to 32 MB, is free there. With one of that size a layer alone does not
# take the same pages from the system in each step, which can cost it more than its arithmetic.
np.empty(2**25 - 2**16, "uint8")


@dataclasses.dataclass(frozen=True)
class Decay:
    """`h = decay * v + x`; with `decay=1` the integrate-and-fire neuron's charge."""

    decay: float = 1.0
    rate = None

    def charge(self, v, x, rate):
        """The charged potential."""
        return dynamics.decay_charge(v, x, self.decay) if self.decay != 1 else v + x

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

    def backward(self, h, threshold, upstream, gv):
        """Gradients to `h` and to the threshold, from those to the spikes and to the new `v`."""
        spikes = self.spikes(h, threshold)
        if not self.detach and self.reset != "none":
            change = self.v_reset - h if self.reset == "hard" else -threshold
            upstream = upstream + gv * change
        through = upstream * ops.cast(self.surrogate.derivative(h - threshold), h.dtype)
        kept = gv * (1 - spikes) if self.reset == "hard" else gv
        lost = gv * spikes if self.reset == "soft" else 0
        return through + kept, -(through + lost)

    def spikes(self, h, threshold):
        """The spikes of the step whose charged potential is `h`.

        For second derivatives they have the surrogate's slope where the reset has it.
        """
        if self.detach:
            return ops.stop_gradient(heaviside(h - threshold, self.strict))
        return self.surrogate(h - threshold, self.strict)

    def after(self, h, threshold):
        """The potential after that step."""
        spikes = self.spikes(h, threshold)
        return dynamics.reset_membrane(h, spikes, threshold, self.reset, self.v_reset, detach=False)


def run(form, fire, sequences, v, threshold, wants_last=True, training=False):
    """Spikes `(batch, time, ...)` and the last potential of a sequence of currents.

    Args:
        form: `Decay` or `Leak`.
        fire: `Fire`.
        sequences: Currents, `(batch, time, ...)`, with a known number of steps.
        v: Potential before the first step, a number or `(batch, ...)`.
        threshold: A number, or a tensor to learn.
        wants_last: Whether the last potential is used.
        training: Whether a backward pass is expected. Without, one is right too, but TensorFlow
            saves the currents of a long sequence for it, and charges the potentials again.

    Returns:
        `(spikes, v)`; `v` is `None` unless `wants_last`.
    """
    neuron, tensors = split(form, fire, v, threshold, wants_last)
    tensorflow = functools.partial(_tensorflow, bool(training))
    way = {"tensorflow": tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    spikes, *last = way(neuron, sequences, *tensors)
    return spikes, last[0] if wants_last else None


def split(form, fire, v, threshold, wants_last):
    """What `run` is given but for the currents: a `Neuron`, and the tensors among it."""
    parameters = (v, form.rate, threshold)
    if form.rate is not None:
        form = dataclasses.replace(form, rate=None)
    numbers = tuple(GIVEN if _is_tensor(p) else p for p in parameters)
    return Neuron(form, fire, numbers, wants_last), list(filter(_is_tensor, parameters))


GIVEN = "given"


def _is_tensor(parameter):
    return parameter is not None and not isinstance(parameter, (int, float))


@dataclasses.dataclass(frozen=True)
class Neuron:
    """What a neuron does over a whole sequence, but for the tensors."""

    form: Any
    fire: Fire
    # First potential, rate (or None), threshold: numbers, or `GIVEN` where they are tensors.
    numbers: tuple
    wants_last: bool = True

    def parameters(self, tensors):
        """First potential, rate and threshold, once the tensors are known."""
        tensors = iter(tensors)
        return [next(tensors) if number is GIVEN else number for number in self.numbers]

    def gradients(self, h, dx, gs, gv, tensors):
        """Gradients to the tensors.

        Args:
            h: Charged potentials, `(batch, time, ...)`.
            dx: Gradients to the currents.
            gs: Gradients to the spikes.
            gv: Gradient to the last potential, a number or `(batch, ...)`.
            tensors: Those of first potential, rate and threshold that are given.
        """
        first, rate, threshold = self.parameters(tensors)
        decay, gain = self.form.slopes(rate)
        found = []
        if self.numbers[0] is GIVEN:
            found.append(dx[:, 0] * (decay / gain))
        if self.numbers[1] is GIVEN:
            first = ops.zeros_like(h[:, 0]) + first
            before = self.fire.after(h[:, :-1], threshold)
            before = ops.concatenate([first[:, None], before], axis=1)
            slope = self.form.rate_slope(before, h, rate)
            found.append(_summed(dx / gain * slope, rate))
        if self.numbers[2] is GIVEN:
            gv = ops.zeros_like(h[:, 0]) + gv
            gvs = ops.concatenate([dx[:, 1:] * (decay / gain), gv[:, None]], axis=1)
            found.append(_summed(self.fire.backward(h, threshold, gs, gvs)[1], threshold))
        return found


def _summed(gradient, parameter):
    """A gradient summed over the axes that its parameter is broadcast over."""
    shape, rank = parameter.shape, len(gradient.shape)
    axes = range(rank - len(shape))
    axes = [*axes, *(rank - len(shape) + i for i, size in enumerate(shape) if size == 1)]
    return ops.reshape(ops.sum(gradient, tuple(axes)), shape) if axes else gradient


def forward(neuron, recur, keep, x, *tensors):
    """Spikes, the last potential if it is wanted and, to `keep`, charged potentials."""
    first, rate, threshold = neuron.parameters(tensors)
    h = recur(
        lambda v, x: neuron.form.charge(v, x, rate),
        lambda h: neuron.fire.after(h, threshold),
        first,
        dynamics.saturate(x),
    )
    found = [neuron.fire.spikes(h, threshold)]
    found += [neuron.fire.after(h[:, -1], threshold)] if neuron.wants_last else []
    return (*found, h) if keep else tuple(found)


def backward(neuron, recur, h, upstream, tensors, *charged):
    """Gradients to the currents and to the tensors, from those to spikes and last potential.

    `charged`: those to the charged potentials `h`, if something else reads these too.
    """
    _, rate, threshold = neuron.parameters(tensors)
    decay, gain = neuron.form.slopes(rate)
    gs, gv = upstream if neuron.wants_last else (*upstream, 0.0)

    def step(gv, g, h, *charged):
        return gain * sum(charged, neuron.fire.backward(h, threshold, g, gv)[0])

    # Of one step only the gradient to the current is kept; that to the potential follows from it.
    dx = recur(step, lambda d: d * (decay / gain), gv, gs, h, *charged, reverse=True)
    return (dx, *neuron.gradients(h, dx, gs, gv, tensors))


def _backward_again(neuron, recur, x, upstream, tensors):
    """The same, from the currents."""
    h = forward(neuron, recur, True, x, *tensors)[-1]
    return backward(neuron, recur, h, upstream, tensors)


def _plain(neuron, x, *tensors):
    """Spikes, and the last potential if it is wanted, by the plain loop."""
    v, rate, threshold = neuron.parameters(tensors)
    fire, spikes = neuron.fire, []
    for current in ops.unstack(dynamics.saturate(x), axis=1):
        h = neuron.form.charge(v, current, rate)
        spikes.append(dynamics.fire(h, threshold, fire.surrogate, fire.strict))
        v = dynamics.reset_membrane(h, spikes[-1], threshold, fire.reset, fire.v_reset, fire.detach)
    found = ops.stack(spikes, axis=1), v
    return found if neuron.wants_last else found[:1]


def _gradients(function, inputs, upstream):
    """Gradients to the inputs of a function of tensors, which can be differentiated again."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.vjp(function, *inputs)[1](upstream)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
    return tuple(tape.gradient(outputs, inputs, upstream, unconnected_gradients="zero"))


def _again(neuron, given, upstream):
    """Gradients to `given`, upstream gradients and inputs, from those to a backward pass."""
    count = 1 + neuron.wants_last

    def first(*given):
        plain = functools.partial(_plain, neuron)
        return _gradients(plain, given[count:], given[:count])

    return _gradients(first, given, upstream)


def unrolled(step, follow, carry, *xs, reverse=False):
    """Outputs `y[t] = step(carry, x[t], ...)`, where `follow(y[t])` is carried to the next step."""
    outputs = []
    steps = list(zip(*(ops.unstack(x, axis=1) for x in xs)))
    for inputs in reversed(steps) if reverse else steps:
        outputs.append(step(carry, *inputs))
        carry = follow(outputs[-1])
    return ops.stack(outputs[::-1] if reverse else outputs, axis=1)


def _looped(step, follow, carry, *xs, reverse=False):
    """The same as a loop.

    What is carried is read back from the outputs, which XLA then writes in place; a second tensor
    in the loop would be copied in every step. On JAX outputs take the memory of the first inputs;
    TensorFlow's compiled functions don't own theirs, and would copy them.
    """
    timesteps = xs[0].shape[1]
    start, direction = (timesteps - 1, -1) if reverse else (0, 1)
    takes_over = keras.backend.backend() == "jax"

    def body(i, outputs):
        t = start + direction * i
        before = follow(outputs[:, t - direction * ops.cast(i > 0, t.dtype)])
        inputs = [x[:, t] for x in ((outputs, *xs[1:]) if takes_over else xs)]
        output = step(ops.where(i > 0, before, carry), *inputs)
        return ops.slice_update(outputs, [0, t] + [0] * (len(output.shape) - 1), output[:, None])

    return ops.fori_loop(0, timesteps, body, xs[0] if takes_over else ops.zeros_like(xs[0]))


# Longer sequences are a loop under XLA: it computes an unrolled step anew for each later one.
UNROLL_LIMIT = 4


def _jax(neuron, sequences, *tensors):
    # What is not used of its results, XLA does not compute.
    short = sequences.shape[1] <= UNROLL_LIMIT
    recur, compiled = (unrolled, lambda f: f) if short else (_looped, _xla)
    run = compiled(_partial(forward, neuron, recur, True))
    slopes = compiled(_partial(backward, neuron, recur))
    count = 1 + neuron.wants_last
    first = jax_gradient(
        lambda h, *given: slopes(h, given[:count], given[count + 1 :]),
        lambda given, _, upstream: (
            ops.zeros_like(given[0]),
            *_again(neuron, given[1:], upstream),
        ),
    )
    sequence = jax_gradient(
        run, lambda inputs, found, upstream: first(found[-1], *upstream[:-1], *inputs)
    )
    return sequence(sequences, *tensors)[:-1]


def _tensorflow(training, neuron, sequences, *tensors):
    import tensorflow as tf

    timesteps = sequences.shape[1]
    if tf.executing_eagerly() and timesteps <= EAGER_LIMIT:
        return _custom_gradient(neuron, unrolled, lambda f: f, True, sequences, *tensors)
    recur = unrolled if timesteps <= UNROLL_LIMIT else _looped
    # To charge few steps again costs less than to write and read the potentials.
    keep = training and recur is _looped
    return _custom_gradient(neuron, recur, _xla, keep, sequences, *tensors)


# Functions that are kept compiled: a threshold that changes from epoch to epoch makes new ones.
KEPT = 256

# Without a graph, TensorFlow runs longer sequences as compiled functions only.
EAGER_LIMIT = 64


@functools.lru_cache(KEPT)
def _xla(function):
    """A function under XLA, compiled once, within what is compiled around it or not."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def _custom_gradient(neuron, recur, compiled, keep, x, *tensors):
    """Spikes and the last potential of currents `x`."""
    run = compiled(_partial(forward, neuron, recur, keep))
    slopes = compiled(_partial(backward if keep else _backward_again, neuron, recur))
    given = (x, *tensors)

    @ops.custom_gradient
    def sequence(*inputs):
        # Or TensorFlow looks for a gradient of the compiled function too.
        inputs = tree.map_structure(ops.stop_gradient, inputs)
        found = run(*inputs)
        outputs, saved = (found[:-1], found[-1]) if keep else (found, inputs[0])

        def grad(*upstream):
            @ops.custom_gradient
            def first(*given):
                return slopes(saved, upstream, inputs[1:]), lambda *g: _again(neuron, given, g)

            return first(*upstream, *given)

        return outputs, grad

    return sequence(*given)


# Layers that are alike share what is compiled.
_partial = functools.lru_cache(KEPT)(functools.partial)


def _torch(neuron, sequences, *tensors):
    from keras_snn.layers import fused_torch

    return fused_torch.function().apply(neuron, sequences, *tensors)[:2]
