"""What a fused neuron is: data, and the arithmetic of its passes, without a backend.

For a neuron whose charge `h = charge(v, x)` has constant slopes to `v` and `x`, and that fires and
resets as `SpikingCell` does, the gradient of a sequence needs one saved tensor: the charged
potentials `h`. Spikes, surrogate derivatives and the potentials between steps follow from it. The
spikes are those of the plain loop, by the same order of operations, and the gradients too but for
rounding. `xla.py` and `torch.py` run it.
"""

import dataclasses
from typing import Any

from keras import ops

from keras_snn import dynamics
from keras_snn.surrogates import heaviside

__all__ = [
    "Decay",
    "Fire",
    "Leak",
    "Neuron",
    "backward",
    "forward",
    "like_step",
    "split",
    "unrolled",
]


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


def split(form, fire, v, threshold, wants_last):
    """A `Neuron`, and those of its parameters that are tensors."""
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


def unrolled(step, follow, carry, *xs, reverse=False):
    """Outputs `y[t] = step(carry, x[t], ...)`, where `follow(y[t])` is carried to the next step."""
    outputs = []
    steps = list(zip(*(ops.unstack(x, axis=1) for x in xs)))
    for inputs in reversed(steps) if reverse else steps:
        outputs.append(step(carry, *inputs))
        carry = follow(outputs[-1])
    return ops.stack(outputs[::-1] if reverse else outputs, axis=1)


def like_step(v, x):
    """A potential, a number or a tensor, for each neuron of the currents `x`."""
    if _is_tensor(v):
        return v
    return ops.broadcast_to(ops.full_like(x[:1, 0], v), ops.shape(x[:, 0]))
