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
    linear_charge: Decay | Leak,
    fire: Fire,
    threshold: Number,
    v: Number,
    wants_last: bool,
    keep: Tensor | None = None,
) -> tuple["FusedNeuron", list[Tensor]]:
    """Divides a neuron into what can be hashed and its tensors.

    Args:
        linear_charge: The charge; its rate may be a tensor.
        fire: How it fires and resets.
        threshold: A number, or a tensor to learn.
        v: Potential before the first step, a number or a tensor `(batch, ...)`.
        wants_last: Whether the potential after the last step is used.
        keep: Optional mask, `(batch, time, 1, ...)` of zeros and ones in the dtype of the currents:
            a step of 0 leaves the potential alone and has no spikes.

    Returns:
        `(neuron, tensors)`: a `FusedNeuron`, and those of first potential, rate, threshold and mask
        that are tensors.
    """
    parameters = (v, linear_charge.rate, threshold, keep)
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
        constants: First potential, rate (or `None`), threshold and mask (or `None`): numbers, or
            `TENSOR`.
        wants_last: Whether the potential after the last step is used.
    """

    linear_charge: Decay | Leak
    fire: Fire
    constants: tuple
    wants_last: bool = True

    def parameters(self, tensors: Iterable[Tensor]) -> list[Number | None]:
        """First potential, rate, threshold and mask, the tensors in their places."""
        tensors = iter(tensors)
        return [next(tensors) if constant is TENSOR else constant for constant in self.constants]

    def after(self, h: Tensor, threshold: Number, *keep: Tensor) -> Tensor:
        """The potentials after steps of charged ones; `keep` is of these steps."""
        return _where(keep, self.fire.after(h, threshold), h)

    def before(self, dx: Tensor, rate: Number, *keep: Tensor) -> Tensor:
        """Gradients to the potentials before steps, from those to the currents.

        Of a masked step `dx` is that gradient itself.
        """
        decay, gain = self.linear_charge.slopes(rate)
        return _where(keep, dx * (decay / gain), dx)

    def gradients(
        self, h: Tensor, dx: Tensor, grad_spikes: Tensor, grad_v: Number, tensors: list[Tensor]
    ) -> list[Tensor]:
        """Gradients to the tensors.

        Args:
            h: Charged potentials, `(batch, time, ...)`.
            dx: Gradients to the currents, of masked steps to the potentials before.
            grad_spikes: Gradients to the spikes.
            grad_v: Gradient to the last potential, a number or `(batch, ...)`.
            tensors: Those of first potential, rate, threshold and mask that are tensors.
        """
        first, rate, threshold, keep = self.parameters(tensors)
        _, gain = self.linear_charge.slopes(rate)
        gradients, keep = [], () if keep is None else (keep,)
        if self.constants[0] is TENSOR:
            gradients.append(self.before(dx[:, 0], rate, *(k[:, 0] for k in keep)))
        if self.constants[1] is TENSOR:
            first = ops.zeros_like(h[:, 0]) + first
            before = self.after(h[:, :-1], threshold, *(k[:, :-1] for k in keep))
            before = ops.concatenate([first[:, None], before], axis=1)
            slope = dx / gain * self.linear_charge.rate_slope(before, h, rate)
            gradients.append(_sum_to_shape(_where(keep, slope, 0), rate))
        if self.constants[2] is TENSOR:
            last = ops.zeros_like(h[:, 0]) + grad_v
            after = self.before(dx[:, 1:], rate, *(k[:, 1:] for k in keep))
            after = ops.concatenate([after, last[:, None]], axis=1)
            slope = self.fire.backward(h, threshold, grad_spikes, after)[1]
            gradients.append(_sum_to_shape(_where(keep, slope, 0), threshold))
        return gradients + [ops.zeros_like(k) for k in keep]


def _where(keep, kept, masked):
    """`kept` in the steps that count, `masked` in the others, if there is a mask `(keep,)`."""
    return ops.where(keep[0] > 0, kept, masked) if keep else kept


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
        tensors: Those of first potential, rate, threshold and mask that are tensors.
    """
    first, rate, threshold, mask = neuron.parameters(tensors)
    masks = () if mask is None else (mask,)

    def charge(v, x, *keep):
        # The potential that a masked step leaves alone counts as its charged one.
        return _where(keep, neuron.linear_charge.charge(v, x, rate), v)

    h = recur(
        charge,
        lambda h, *keep: neuron.after(h, threshold, *keep),
        first,
        dynamics.saturate(x),
        masks=masks,
    )
    outputs = [_where(masks, neuron.fire.spikes(h, threshold), 0)]
    if neuron.wants_last:
        outputs.append(neuron.after(h[:, -1], threshold, *(keep[:, -1] for keep in masks)))
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
        tensors: Those of first potential, rate, threshold and mask that are tensors.
        grad_h: Gradient to the charged potentials, if something else reads these too; without a
            mask.
    """
    _, rate, threshold, mask = neuron.parameters(tensors)
    masks = () if mask is None else (mask,)
    _, gain = neuron.linear_charge.slopes(rate)
    grad_spikes, grad_v = upstream if neuron.wants_last else (*upstream, 0.0)

    def step(grad_v, grad_spikes, h, *rest):
        keep, grad_h = (rest, ()) if masks else ((), rest)
        dx = gain * sum(grad_h, neuron.fire.backward(h, threshold, grad_spikes, grad_v)[0])
        return _where(keep, dx, grad_v)

    # Of one step only the gradient to the current is kept; that to the potential follows from it.
    def follow(dx, *keep):
        return neuron.before(dx, rate, *keep)

    dx = recur(step, follow, grad_v, grad_spikes, h, *grad_h, masks=masks, reverse=True)
    return (_where(masks, dx, 0), *neuron.gradients(h, dx, grad_spikes, grad_v, tensors))


def unrolled(
    step: Callable,
    follow: Callable,
    carry: Number,
    *xs: Tensor,
    masks: tuple[Tensor, ...] = (),
    reverse: bool = False,
) -> Tensor:
    """Outputs `y[t] = step(carry, x[t], ..., mask[t])`; then `follow(y[t], mask[t])` is carried."""
    outputs = []
    steps = list(zip(*(ops.unstack(x, axis=1) for x in (*xs, *masks))))
    for inputs in reversed(steps) if reverse else steps:
        outputs.append(step(carry, *inputs))
        carry = follow(outputs[-1], *inputs[len(xs) :])
    return ops.stack(outputs[::-1] if reverse else outputs, axis=1)


def like_step(v: Number, x: Tensor) -> Tensor:
    """A potential, a number or a tensor, for each neuron of the currents `x`."""
    if not isinstance(v, NUMBERS):
        return v
    return ops.broadcast_to(ops.full_like(x[:1, 0], v), ops.shape(x[:, 0]))
