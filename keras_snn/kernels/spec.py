"""What a fused neuron is: data, and the arithmetic of its passes, without a backend.

A neuron can be fused if its charge is linear, `h = v_rest + decay * (v - v_rest) + gain * x`, with
constant slopes to `v` and `x` (`Decay`, `Leak`, or another class with their attributes and
methods), and it fires and resets as `SpikingCell` does (`Fire`). The gradient of a
sequence then needs one saved tensor, the charged potentials `h`: spikes, surrogate derivatives and
the potentials between steps follow from it. Spikes are those of the plain loop, by the same order
of operations, and gradients too but for rounding. `xla.py` and `torch.py` run whole sequences.
"""

import dataclasses
from collections.abc import Callable, Iterable

from keras import ops

from keras_snn import dynamics
from keras_snn.dynamics import Tensor
from keras_snn.surrogates import Surrogate, heaviside

__all__ = [
    "Decay",
    "Fire",
    "FusedNeuron",
    "Leak",
    "backward",
    "forward",
    "like_step",
    "split",
    "unrolled",
]

Number = float | Tensor  # a number or a tensor


@dataclasses.dataclass(frozen=True)
class Decay:
    """`h = decay * v + x`; with `decay=1` the integrate-and-fire neuron's charge."""

    decay: float = 1.0
    rate = None
    v_rest = 0.0

    def charge(self, v: Number, x: Tensor, rate: None = None) -> Tensor:
        """The charged potential."""
        return dynamics.decay_charge(v, x, self.decay) if self.decay != 1 else v + x

    def slopes(self, rate: None = None) -> tuple[Number, Number]:
        """Slopes of the charge to `v` and to `x`."""
        return self.decay, 1.0


@dataclasses.dataclass(frozen=True)
class Leak:
    """`h = v + (x - (v - v_rest)) * rate`, or `h = v - (v - v_rest) * rate + x`.

    `rate` is `1 / tau`: a number `tau` that divides, or a tensor that multiplies and is learned.
    """

    v_rest: float
    decay_input: bool
    tau: float | None = None
    rate: Tensor | None = None

    def charge(self, v: Number, x: Tensor, rate: Tensor | None) -> Tensor:
        """The charged potential."""
        return dynamics.lif_charge(v, x, self.tau, rate, self.v_rest, self.decay_input)

    def slopes(self, rate: Tensor | None) -> tuple[Number, Number]:
        """Slopes of the charge to `v` and to `x`."""
        rate = 1 / self.tau if rate is None else rate
        return 1 - rate, rate if self.decay_input else 1.0

    def rate_slope(self, v: Tensor, h: Tensor, rate: Tensor) -> Tensor:
        """Slope of the charge to the rate."""
        return (h - v) / rate if self.decay_input else self.v_rest - v


@dataclasses.dataclass(frozen=True)
class Fire:
    """How a neuron fires and resets: what `SpikingCell` holds, without the threshold."""

    surrogate: Surrogate
    strict: bool
    reset: str
    v_reset: float
    detach: bool

    def backward(
        self, h: Tensor, threshold: Number, grad_spikes: Tensor, grad_v: Number
    ) -> tuple[Tensor, Tensor]:
        """Gradients to `h` and to the threshold, from those to the spikes and to the new `v`."""
        spikes = self.spikes(h, threshold)
        if not self.detach and self.reset != "none":
            change = self.v_reset - h if self.reset == "hard" else -threshold
            grad_spikes = grad_spikes + grad_v * change
        through = grad_spikes * ops.cast(self.surrogate.derivative(h - threshold), h.dtype)
        kept = grad_v * (1 - spikes) if self.reset == "hard" else grad_v
        lost = grad_v * spikes if self.reset == "soft" else 0
        return through + kept, -(through + lost)

    def spikes(self, h: Tensor, threshold: Number) -> Tensor:
        """The spikes of the step whose charged potential is `h`.

        For second derivatives they have the surrogate's slope where the reset has it.
        """
        if self.detach:
            return ops.stop_gradient(heaviside(h - threshold, self.strict))
        return self.surrogate(h - threshold, self.strict)

    def after(self, h: Tensor, threshold: Number) -> Tensor:
        """The potential after that step."""
        spikes = self.spikes(h, threshold)
        return dynamics.reset_membrane(h, spikes, threshold, self.reset, self.v_reset, detach=False)


# Stands for a parameter that is a tensor: specs are hashable, so that functions that are compiled
# for one are found again.
TENSOR = "tensor"

NUMBERS = (int, float, type(None))


def split(
    linear_charge: Decay | Leak, fire: Fire, threshold: Number, v: Number, wants_last: bool
) -> tuple["FusedNeuron", list[Tensor]]:
    """Divides a neuron into what can be hashed and its tensors.

    Args:
        linear_charge: The charge; its rate may be a tensor.
        fire: How it fires and resets.
        threshold: A number, or a tensor to learn.
        v: Potential before the first step, a number or a tensor `(batch, ...)`.
        wants_last: Whether the potential after the last step is used.

    Returns:
        `(neuron, tensors)`: a `FusedNeuron`, and those of first potential, rate and threshold that
        are tensors.
    """
    parameters = (v, linear_charge.rate, threshold)
    if linear_charge.rate is not None:
        linear_charge = dataclasses.replace(linear_charge, rate=None)
    constants = tuple([p if isinstance(p, NUMBERS) else TENSOR for p in parameters])
    tensors = [p for p in parameters if not isinstance(p, NUMBERS)]
    return FusedNeuron(linear_charge, fire, constants, wants_last), tensors


@dataclasses.dataclass(frozen=True)
class FusedNeuron:
    """What a neuron does over a whole sequence, but for the tensors.

    Attributes:
        linear_charge: Its charge.
        fire: How it fires and resets.
        constants: First potential, rate (or `None`) and threshold: numbers, or `TENSOR`.
        wants_last: Whether the potential after the last step is used.
    """

    linear_charge: Decay | Leak
    fire: Fire
    constants: tuple
    wants_last: bool = True

    def parameters(self, tensors: Iterable[Tensor]) -> list[Number | None]:
        """First potential, rate and threshold, the tensors in their places."""
        tensors = iter(tensors)
        return [next(tensors) if constant is TENSOR else constant for constant in self.constants]

    def gradients(
        self, h: Tensor, dx: Tensor, grad_spikes: Tensor, grad_v: Number, tensors: list[Tensor]
    ) -> list[Tensor]:
        """Gradients to the tensors.

        Args:
            h: Charged potentials, `(batch, time, ...)`.
            dx: Gradients to the currents.
            grad_spikes: Gradients to the spikes.
            grad_v: Gradient to the last potential, a number or `(batch, ...)`.
            tensors: Those of first potential, rate and threshold that are tensors.
        """
        first, rate, threshold = self.parameters(tensors)
        decay, gain = self.linear_charge.slopes(rate)
        gradients = []
        if self.constants[0] is TENSOR:
            gradients.append(dx[:, 0] * (decay / gain))
        if self.constants[1] is TENSOR:
            first = ops.zeros_like(h[:, 0]) + first
            before = self.fire.after(h[:, :-1], threshold)
            before = ops.concatenate([first[:, None], before], axis=1)
            slope = self.linear_charge.rate_slope(before, h, rate)
            gradients.append(_sum_to_shape(dx / gain * slope, rate))
        if self.constants[2] is TENSOR:
            last = ops.zeros_like(h[:, 0]) + grad_v
            after = ops.concatenate([dx[:, 1:] * (decay / gain), last[:, None]], axis=1)
            slope = self.fire.backward(h, threshold, grad_spikes, after)[1]
            gradients.append(_sum_to_shape(slope, threshold))
        return gradients


def _sum_to_shape(gradient, parameter):
    """A gradient summed over the axes that its parameter is broadcast over."""
    shape, rank = parameter.shape, len(gradient.shape)
    axes = range(rank - len(shape))
    axes = [*axes, *(rank - len(shape) + i for i, size in enumerate(shape) if size == 1)]
    return ops.reshape(ops.sum(gradient, tuple(axes)), shape) if axes else gradient


def forward(
    neuron: FusedNeuron, recur: Callable, keep: bool, x: Tensor, *tensors: Tensor
) -> tuple[Tensor, ...]:
    """Spikes, the last potential if it is wanted and, to `keep`, charged potentials.

    Args:
        neuron: The neuron.
        recur: What runs the recurrence, as `unrolled` does.
        keep: Whether the charged potentials are returned.
        x: Currents, `(batch, time, ...)`.
        tensors: Those of first potential, rate and threshold that are tensors.
    """
    first, rate, threshold = neuron.parameters(tensors)
    h = recur(
        lambda v, x: neuron.linear_charge.charge(v, x, rate),
        lambda h: neuron.fire.after(h, threshold),
        first,
        dynamics.saturate(x),
    )
    outputs = [neuron.fire.spikes(h, threshold)]
    outputs += [neuron.fire.after(h[:, -1], threshold)] if neuron.wants_last else []
    return (*outputs, h) if keep else tuple(outputs)


def backward(
    neuron: FusedNeuron,
    recur: Callable,
    h: Tensor,
    upstream: tuple[Tensor, ...],
    tensors: list[Tensor],
    *grad_h: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients to the currents and to the tensors.

    Args:
        neuron: The neuron.
        recur: What runs the recurrence, as `unrolled` does.
        h: Charged potentials, `(batch, time, ...)`.
        upstream: Gradients to the spikes and, if it is wanted, to the last potential.
        tensors: Those of first potential, rate and threshold that are tensors.
        grad_h: Gradient to the charged potentials, if something else reads these too.
    """
    _, rate, threshold = neuron.parameters(tensors)
    decay, gain = neuron.linear_charge.slopes(rate)
    grad_spikes, grad_v = upstream if neuron.wants_last else (*upstream, 0.0)

    def step(grad_v, grad_spikes, h, *grad_h):
        return gain * sum(grad_h, neuron.fire.backward(h, threshold, grad_spikes, grad_v)[0])

    # Of one step only the gradient to the current is kept; that to the potential follows from it.
    dx = recur(step, lambda d: d * (decay / gain), grad_v, grad_spikes, h, *grad_h, reverse=True)
    return (dx, *neuron.gradients(h, dx, grad_spikes, grad_v, tensors))


def unrolled(
    step: Callable, follow: Callable, carry: Number, *xs: Tensor, reverse: bool = False
) -> Tensor:
    """Outputs `y[t] = step(carry, x[t], ...)`, where `follow(y[t])` is carried to the next step."""
    outputs = []
    steps = list(zip(*(ops.unstack(x, axis=1) for x in xs)))
    for inputs in reversed(steps) if reverse else steps:
        outputs.append(step(carry, *inputs))
        carry = follow(outputs[-1])
    return ops.stack(outputs[::-1] if reverse else outputs, axis=1)


def like_step(v: Number, x: Tensor) -> Tensor:
    """A potential, a number or a tensor, for each neuron of the currents `x`."""
    if not isinstance(v, NUMBERS):
        return v
    return ops.broadcast_to(ops.full_like(x[:1, 0], v), ops.shape(x[:, 0]))
