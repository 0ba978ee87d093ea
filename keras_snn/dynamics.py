"""Neuron dynamics as pure functions of tensors: charge, fire, reset.

One step of a spiking neuron is `h = charge(v, x)`, `s = fire(h)`, `v = reset(h, s)`: the
membrane potential `v` takes the input `x` in, the charged potential `h` is compared with the
threshold, the spike `s` resets it. Nothing here holds configuration or state; the cells in
`keras_snn.layers` do. All tensors of one call have the same shape, `(batch, ...)`, or broadcast
to it; the order of operations is SpikingJelly's, so that float32 results are equal bit for bit.

Layers take infinite currents for very large ones, see `saturate`, so that a neuron fires or is
silent and goes on. NaN stays NaN: the spike of a NaN potential is NaN, or nothing behind a neuron
would show it.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import ml_dtypes
from keras import ops

__all__ = [
    "CONNECTIONS",
    "RESETS",
    "adaptive_threshold",
    "assume_finite",
    "connect",
    "decay_charge",
    "exponential_charge",
    "fire",
    "fire_integers",
    "fire_ternary",
    "gated_charge",
    "if_charge",
    "keep_nan",
    "lif_charge",
    "lif_step",
    "quadratic_charge",
    "reset_membrane",
    "resonate",
    "saturate",
]

RESETS = ("hard", "soft", "none")
Tensor = Any  # a tensor of any backend, a NumPy array or a Keras tensor


class _Numbers(threading.local):
    """What a thread takes numbers to be; PyTorch's compiler does not know context variables."""

    finite = False


_NUMBERS = _Numbers()


@contextlib.contextmanager
def assume_finite() -> Iterator[None]:
    """Within, all numbers are taken to be finite: `saturate` and `keep_nan` do nothing.

    For exported files: integers have neither infinity nor NaN.
    """
    before, _NUMBERS.finite = _NUMBERS.finite, True
    try:
        yield
    finally:
        _NUMBERS.finite = before


# How far from 0 `saturate` lets numbers be.
BOUNDS = {
    dtype: float(ml_dtypes.finfo(dtype).max) ** 0.75
    for dtype in ("float16", "bfloat16", "float32", "float64")
}


def saturate(x: Tensor) -> Tensor:
    """Keeps numbers within bounds whose sums and differences are finite (8e28 in float32).

    NaN stays.

    Args:
        x: A float tensor of any shape.

    Returns:
        A tensor like `x`.

    Example:

    >>> large, one = saturate(ops.array([float("inf"), 1.0]))
    >>> float(large - large), float(one)
    (0.0, 1.0)
    """
    if _NUMBERS.finite:
        return x
    largest = BOUNDS[keras.backend.standardize_dtype(x.dtype)]
    return ops.clip(x, -largest, largest)


def keep_nan(spikes: Tensor, x: Tensor) -> Tensor:
    """Spikes that were found by comparing `x`, but NaN where `x` is.

    Args:
        spikes: A float tensor.
        x: A float tensor, of the shape of `spikes` or one that broadcasts to it.

    Returns:
        A tensor like `spikes`.

    Example:

    >>> x = ops.array([float("nan"), 1.0])
    >>> print(ops.convert_to_numpy(keep_nan(ops.cast(x > 0, x.dtype), x)))
    [nan  1.]
    """
    return spikes if _NUMBERS.finite else ops.where(x == x, spikes, x)


def if_charge(v: Tensor, x: Tensor) -> Tensor:
    """Integrate: `h = v + x`.

    Args:
        v: Membrane potential.
        x: Input current of this step.

    Returns:
        The charged membrane potential.
    """
    return v + x


def lif_charge(
    v: Tensor,
    x: Tensor,
    tau: Tensor | float | None = None,
    rate: Tensor | float | None = None,
    v_rest: float = 0.0,
    decay_input: bool = True,
) -> Tensor:
    """Leaky integrate: `h = v + (x - (v - v_rest)) / tau`, or `h = v - (v - v_rest) / tau + x`.

    Args:
        v: Membrane potential.
        x: Input current of this step.
        tau: Membrane time constant in steps; divides.
        rate: Alternatively `1 / tau`, as a factor (the parametric LIF's `sigmoid(w)`).
        v_rest: Potential that the leak pulls to.
        decay_input: Whether the input is divided by `tau` too (the first form).

    Returns:
        The charged membrane potential.

    Source: SpikingJelly `LIFNode`, `ParametricLIFNode`.
    """

    def leak(z):
        return z / tau if rate is None else z * rate

    if decay_input:
        return v + leak(x - (v - v_rest))
    return v - leak(v - v_rest) + x


def decay_charge(v: Tensor, x: Tensor, decay: Tensor | float) -> Tensor:
    """Integrate with a decay factor: `h = decay * v + x`.

    Args:
        v: Membrane potential.
        x: Input current of this step.
        decay: Share of the potential that is left after a step, 0 to 1.

    Returns:
        The charged membrane potential.

    Source: STBP-tdBN (Zheng et al., 2021); snnTorch `Leaky`, where it is called `beta`.
    """
    return decay * v + x


def quadratic_charge(
    v: Tensor, x: Tensor, tau: float, v_rest: float, v_critical: float, a0: float
) -> Tensor:
    """Quadratic integrate: `h = v + (x + a0 (v - v_rest) (v - v_critical)) / tau`.

    Args:
        v: Membrane potential.
        x: Input current of this step.
        tau: Membrane time constant in steps.
        v_rest: Resting potential.
        v_critical: Potential above which the neuron excites itself.
        a0: Strength of the quadratic term.

    Returns:
        The charged membrane potential.

    Source: SpikingJelly `QIFNode`.
    """
    return v + (x + saturate(a0 * (v - v_rest) * (v - v_critical))) / tau


def exponential_charge(
    v: Tensor, x: Tensor, tau: float, v_rest: float, theta_rh: float, delta_t: float
) -> Tensor:
    """Exponential integrate.

    `h = v + (x + v_rest - v + delta_t exp((v - theta_rh) / delta_t)) / tau`.

    Args:
        v: Membrane potential.
        x: Input current of this step.
        tau: Membrane time constant in steps.
        v_rest: Resting potential.
        theta_rh: Rheobase threshold, where the exponential takes over.
        delta_t: Sharpness of that onset.

    Returns:
        The charged membrane potential.

    Source: SpikingJelly `EIFNode`.
    """
    growth = saturate(delta_t * ops.exp((v - theta_rh) / delta_t))
    return v + (x + v_rest - v + growth) / tau


def gated_charge(
    v: Tensor,
    x: Tensor,
    spikes: Tensor,
    leak_gate: Tensor,
    input_gate: Tensor,
    reset_gate: Tensor,
    decay: Tensor,
    leak: Tensor,
    subtracted: Tensor,
    conductance: Tensor,
) -> Tensor:
    """Integrate through three gates from 0 to 1, what the last spikes reset included.

    With `kept = 1 - a (1 - decay)` of the leak gate `a`, the input gate `b` and the reset gate `g`,
    `h = kept (1 - g s) v - (1 - a) leak + (1 - b (1 - conductance)) x - (1 - g) s subtracted`.

    Args:
        v: Charged membrane potential of the last step.
        x: Input current of this step.
        spikes: Spikes of the last step, `s`.
        leak_gate: 1 decays exponentially, 0 linearly.
        input_gate: 1 scales the input by its conductance, 0 leaves it.
        reset_gate: 1 resets to what decays, 0 subtracts.
        decay: Share of the potential that is left after a step.
        leak: What a step takes from the potential.
        subtracted: What a spike takes from the potential.
        conductance: Factor on the input.

    Returns:
        The charged membrane potential.

    Source: Yao et al. (2022), GLIF; SpikingJelly `GatedLIFNode`.
    """
    kept = 1 - leak_gate * (1 - decay)
    h = kept * v - (1 - leak_gate) * leak + x * (1 - input_gate * (1 - conductance))
    return h - kept * v * reset_gate * spikes - (1 - reset_gate) * subtracted * spikes


def resonate(u: Tensor, v: Tensor, x: Tensor, b: float, omega: float) -> tuple[Tensor, Tensor]:
    """A damped oscillation, driven by the input: a turn by `omega` that shrinks by `exp(b)`.

    `u <- e^b (u cos omega - v sin omega) + x`, `v <- e^b (u sin omega + v cos omega)`.

    Args:
        u: Current-like variable, which takes the input in.
        v: Membrane potential.
        x: Input current of this step.
        b: Damping of a step, below 0.
        omega: Angle of a step, in radians.

    Returns:
        `(u, v)`.

    Source: Izhikevich (2001); SpikingJelly `RAFNode`.
    """
    cos, sin = (math.exp(b) * f(omega) for f in (math.cos, math.sin))
    return cos * u - sin * v + x, sin * u + cos * v


def fire(
    h: Tensor, threshold: Tensor | float, surrogate: Callable[..., Tensor], strict: bool = False
) -> Tensor:
    """Spikes of a charged membrane: 1 where `h >= threshold` (`h > threshold` if `strict`).

    Args:
        h: Charged membrane potential.
        threshold: Firing threshold, a number or a tensor.
        surrogate: A `keras_snn.surrogates.Surrogate`.
        strict: Whether a potential of exactly the threshold stays silent.

    Returns:
        Zeros and ones; NaN where `h` is NaN.
    """
    return surrogate(h - threshold, strict)


def fire_integers(
    h: Tensor,
    threshold: Tensor | float,
    surrogate: Callable[..., Tensor],
    most: int,
    strict: bool = False,
) -> Tensor:
    """Integer spikes of a charged membrane: `round(clip(h / threshold, 0, most))`.

    Args:
        h: Charged membrane potential.
        threshold: What one spike stands for, a number or a tensor.
        surrogate: A `keras_snn.surrogates.Surrogate`, see its `count`.
        most: Largest number of spikes.
        strict: Whether a potential half way between two integers always gives the lower one.

    Returns:
        Integers from 0 to `most`; NaN where `h` is NaN.

    Source: Luo et al. (2024), SpikeYOLO's I-LIF; SpikingJelly `ILIFNode`.
    """
    return surrogate.count(h / threshold, most, strict)


def fire_ternary(
    h: Tensor, threshold: Tensor | float, surrogate: Callable[..., Tensor], strict: bool = False
) -> tuple[Tensor, Tensor]:
    """Spikes of two signs: 1 where `h >= threshold`, -1 where `h <= -threshold`.

    Args:
        h: Charged membrane potential.
        threshold: Firing threshold of both signs.
        surrogate: A `keras_snn.surrogates.Surrogate`.
        strict: Whether a potential of exactly a threshold stays silent.

    Returns:
        `(positive, negative)`, each zeros and ones; the spikes are their difference.

    Source: SpikingJelly `TernaryIFNode`; Guo et al. (2024), Ternary Spike.
    """
    return tuple(fire(z, threshold, surrogate, strict) for z in (h, -h))


def reset_membrane(
    h: Tensor,
    spikes: Tensor,
    threshold: Tensor | float,
    reset: str = "hard",
    v_reset: float = 0.0,
    detach: bool = True,
) -> Tensor:
    """The membrane potential after firing.

    Args:
        h: Charged membrane potential.
        spikes: What `fire` returned.
        threshold: Firing threshold.
        reset: `"hard"` sets to `v_reset`, `(1 - s) h + s v_reset`; `"soft"` subtracts,
            `h - s threshold`; `"none"` leaves `h`.
        v_reset: Potential after a hard reset.
        detach: Whether no gradient flows through the spikes of the reset.

    Returns:
        The membrane potential for the next step.

    Raises:
        ValueError: If `reset` is unknown.
    """
    if detach:
        spikes = ops.stop_gradient(spikes)
    if reset == "hard" and detach and not _NUMBERS.finite:
        return ops.where(spikes > 0, v_reset, h)  # a product of infinity and 0 is NaN
    if reset == "hard" and _NUMBERS.finite:
        return h - spikes * h + (spikes * v_reset if v_reset else 0)  # converters keep it integer
    if reset == "hard":
        return (1.0 - spikes) * h + spikes * v_reset
    if reset == "soft":
        return h - spikes * threshold
    if reset == "none":
        return h
    raise ValueError(
        f"Received an invalid value for argument `reset`, expected one of {RESETS}, got {reset!r}."
    )


def lif_step(
    v: Tensor,
    x: Tensor,
    surrogate: Callable[..., Tensor],
    tau: Tensor | float = 2.0,
    threshold: Tensor | float = 1.0,
    reset: str = "hard",
    v_reset: float = 0.0,
    decay_input: bool = True,
    detach_reset: bool = True,
    strict: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of the leaky integrate-and-fire neuron.

    Args:
        v: Membrane potential before the step, `(batch, ...)`.
        x: Input current, `(batch, ...)`.
        surrogate: A `keras_snn.surrogates.Surrogate`.
        tau: Membrane time constant in steps.
        threshold: Firing threshold.
        reset: `"hard"`, `"soft"` or `"none"`.
        v_reset: Resting potential, which is also the potential after a hard reset.
        decay_input: Whether the input is divided by `tau`.
        detach_reset: Whether no gradient flows through the reset.
        strict: Whether a potential of exactly the threshold stays silent.

    Returns:
        `(spikes, v)`.

    Example:

    >>> from keras_snn import surrogates
    >>> v, x = ops.zeros((1,)), ops.ones((1,))
    >>> spikes, v = lif_step(v, x, surrogates.ATan())
    >>> print(float(spikes[0]), float(v[0]))
    0.0 0.5
    """
    h = lif_charge(v, x, tau=tau, v_rest=v_reset, decay_input=decay_input)
    spikes = fire(h, threshold, surrogate, strict)
    return spikes, reset_membrane(h, spikes, threshold, reset, v_reset, detach_reset)


def adaptive_threshold(a: Tensor, spikes: Tensor, tau: float, strength: float) -> Tensor:
    """Adaptation of a threshold: `a + (strength * s - a) / tau`.

    Args:
        a: What is added to the threshold so far.
        spikes: Spikes of this step.
        tau: Time constant of the adaptation in steps.
        strength: Value that `a` tends to while the neuron fires at every step.

    Returns:
        The adaptation for the next step.

    Source: Bellec et al. (2018), with `rho = 1 - 1 / tau`.
    """
    return a + (strength * spikes - a) / tau


CONNECTIONS = {
    "add": lambda a, s: a + s,
    "and": lambda a, s: a * s,
    "iand": lambda a, s: (1.0 - a) * s,
    "reverse_iand": lambda a, s: a * (1.0 - s),
    "or": lambda a, s: a + s - a * s,
    "xor": lambda a, s: a * (1.0 - s) + s * (1.0 - a),
}


def connect(branch: Tensor, shortcut: Tensor, mode: str = "add") -> Tensor:
    """Joins the spikes of a residual branch and of its shortcut.

    Args:
        branch: Spikes of the branch, `A`.
        shortcut: Spikes of the shortcut, `S`, of the same shape.
        mode: `"add"` (`A + S`), `"and"` (`A S`), `"iand"` (`(1 - A) S`), `"reverse_iand"`
            (`A (1 - S)`, what SpikingJelly's bottleneck blocks do), `"or"` (`A + S - A S`) or
            `"xor"` (`A (1 - S) + S (1 - A)`).

    Returns:
        A tensor of the same shape.

    Raises:
        ValueError: If `mode` is unknown.

    Source: SEW-ResNet (Fang et al., 2021).

    Example:

    >>> a, s = ops.array([0.0, 1.0, 0.0, 1.0]), ops.array([0.0, 0.0, 1.0, 1.0])
    >>> print(ops.convert_to_numpy(connect(a, s, "iand")))
    [0. 0. 1. 0.]
    """
    if mode not in CONNECTIONS:
        raise ValueError(
            "Received an invalid value for argument `mode`, expected one of "
            f"{tuple(CONNECTIONS)}, got {mode!r}."
        )
    return CONNECTIONS[mode](branch, shortcut)
