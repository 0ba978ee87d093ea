"""Neurons: a cell (one step) and a layer (a sequence) each.

Each cell is its `charge` equation, or its `step` where it has further states; everything else
stands in `base.py` and `rnn.py`. The default surrogate is ATan(2), firing is at `v >= threshold`,
reset is hard to 0 and detached, unless a class says otherwise.
"""

import math

import keras

from keras_snn import dynamics, graph
from keras_snn.kernels import spec
from keras_snn.layers.base import NeuronCell, SpikingCell
from keras_snn.layers.rnn import Neuron
from keras_snn.surrogates import PiecewiseExp, Triangle, heaviside
from keras_snn.utils.arguments import check_choice, check_integer, check_number, check_range, freeze

__all__ = [
    "CLIF",
    "EIF",
    "GLIF",
    "IF",
    "ILIF",
    "KLIF",
    "LIAF",
    "LIF",
    "MPBNLIF",
    "QIF",
    "STDBLIF",
    "Accumulator",
    "AccumulatorCell",
    "AdaptiveLIF",
    "AdaptiveLIFCell",
    "CLIFCell",
    "DecayLIF",
    "DecayLIFCell",
    "DelayedLIF",
    "DelayedLIFCell",
    "EIFCell",
    "GLIFCell",
    "IFCell",
    "ILIFCell",
    "Izhikevich",
    "IzhikevichCell",
    "KLIFCell",
    "LIAFCell",
    "LIFCell",
    "LeakyIntegrator",
    "LeakyIntegratorCell",
    "MPBNLIFCell",
    "ParametricLIF",
    "ParametricLIFCell",
    "QIFCell",
    "ResonateAndFire",
    "ResonateAndFireCell",
    "SEAdLIF",
    "SEAdLIFCell",
    "STDBLIFCell",
    "SynapticLIF",
    "SynapticLIFCell",
    "TernaryIF",
    "TernaryIFCell",
    "TernaryLIF",
    "TernaryLIFCell",
    "TwoCompartmentLIF",
    "TwoCompartmentLIFCell",
]


class IFCell(SpikingCell):
    """Integrate-and-fire, one step: `h = v + x`.

    Source: SEW-ResNet (Fang et al., 2021); SpikingJelly `IFNode`.
    """

    def charge(self, v, x):
        return dynamics.if_charge(v, x)

    def linear_charge(self):
        return spec.Decay()


class IF(Neuron, cell=IFCell):
    """Integrate-and-fire: `h = v + x`, a spike where `h >= threshold`, then a reset.

    Example:

    >>> spikes = IF()(0.4 * keras.ops.ones((1, 6, 1)))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [0. 0. 1. 0. 0. 1.]
    """


class LIFCell(SpikingCell):
    """Leaky integrate-and-fire, one step: `h = v + (x - (v - v_reset)) / tau`.

    Args:
        tau: Membrane time constant in steps, at least 1 (1 remembers nothing).
        decay_input: Whether the input is divided by `tau` too. If not,
            `h = v - (v - v_reset) / tau + x`.

    Source: SpikingJelly `LIFNode`.
    """

    def __init__(self, tau=2.0, decay_input=True, **kwargs):
        super().__init__(**kwargs)
        self.tau = check_number("tau", tau, minimum=1)
        self.decay_input = bool(decay_input)

    def charge(self, v, x):
        return dynamics.lif_charge(
            v, x, tau=self.tau, v_rest=self.v_reset, decay_input=self.decay_input
        )

    def linear_charge(self):
        return spec.Leak(self.v_reset, self.decay_input, tau=self.tau)


class LIF(Neuron, cell=LIFCell):
    """Leaky integrate-and-fire: `h = v + (x - (v - v_reset)) / tau`, fire, reset.

    Example:

    >>> spikes = LIF(tau=2.0)(1.5 * keras.ops.ones((1, 6, 1)))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [0. 1. 0. 1. 0. 1.]
    """


class ILIFCell(LIFCell):
    """LIF with integer spikes, one step: `s = round(clip(h / threshold, 0, max_spikes))`.

    The charge is that of `LIFCell`, by default `h = v / 4 + x`; then `v = h - s threshold`. The
    gradient of `s` to `h / threshold` is 1 from 0 to `max_spikes` and 0 elsewhere, see
    `keras_snn.surrogates.Surrogate.count`.

    Args:
        max_spikes: Largest number of spikes in a step, D.
        tau: Membrane time constant in steps, at least 1 (1 remembers nothing).
        normalize: Whether the output is `s / max_spikes`. With `tau=1` this is the neuron of
            E-SpikeFormer.
        reset: `"soft"` or `"none"`.
        strict: Whether a potential half way between two integers always gives the lower one; by
            default it gives the even one.

    Source: Luo et al. (2024), SpikeYOLO's I-LIF; Yao et al. (2025), E-SpikeFormer's
    spike firing approximation; SpikingJelly `ILIFNode`, whose reset is not detached.
    """

    def __init__(
        self,
        max_spikes=4,
        tau=4 / 3,
        decay_input=False,
        normalize=False,
        reset="soft",
        surrogate="straight_through",
        **kwargs,
    ):
        super().__init__(
            tau=tau, decay_input=decay_input, reset=reset, surrogate=surrogate, **kwargs
        )
        check_choice("reset", reset, ("soft", "none"))
        self.max_spikes = check_integer("max_spikes", max_spikes)
        self.normalize = bool(normalize)

    def fire(self, h, threshold=None):
        threshold = self.current_threshold if threshold is None else threshold
        return dynamics.fire_integers(h, threshold, self.surrogate, self.max_spikes, self.strict)

    def step(self, x, states):
        spikes, states = super().step(x, states)
        return spikes / self.max_spikes if self.normalize else spikes, states


class ILIF(Neuron, cell=ILIFCell):
    """LIF with integer spikes: trained with few steps, run as `max_spikes` binary ones each.

    Example:

    >>> spikes = ILIF(max_spikes=4)(keras.ops.array([[[0.4], [1.2], [9.0]]]))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [0. 1. 4.]
    """


class ParametricLIFCell(SpikingCell):
    """LIF whose time constant is learned, one step; `1 / tau = sigmoid(w)`.

    The weight `w` starts at `-ln(tau - 1)`.

    Args:
        tau: Initial membrane time constant in steps, above 1.
        decay_input: Whether the input is divided by tau too.

    Source: Fang et al. (2021), PLIF; SpikingJelly `ParametricLIFNode`.
    """

    def __init__(self, tau=2.0, decay_input=True, **kwargs):
        super().__init__(**kwargs)
        self.tau = check_number("tau", tau, above=1)
        self.decay_input = bool(decay_input)

    def build(self, input_shape):
        super().build(input_shape)
        self.w = self.add_parameter("w", -math.log(self.tau - 1), self.parameter_shape)

    @property
    def current_tau(self):
        """The time constant in force, `1 / sigmoid(w)`."""
        return 1 / keras.ops.sigmoid(self.w)

    def charge(self, v, x):
        return dynamics.lif_charge(
            v, x, rate=keras.ops.sigmoid(self.w), v_rest=self.v_reset, decay_input=self.decay_input
        )

    def linear_charge(self):
        return spec.Leak(self.v_reset, self.decay_input, rate=keras.ops.sigmoid(self.w))


class ParametricLIF(Neuron, cell=ParametricLIFCell):
    """LIF whose time constant is learned (PLIF), for the layer, each channel or each neuron.

    Example:

    >>> layer = ParametricLIF(tau=2.0, parameter_shape="channel")
    >>> spikes = layer(1.5 * keras.ops.ones((1, 4, 8, 8, 3)))
    >>> layer.count_params()
    3
    """


class DecayLIFCell(SpikingCell):
    """LIF with a decay factor, one step: `h = decay * v + x`.

    With the defaults this is `u[t] = decay * u[t-1] * (1 - o[t-1]) + x[t]`, the gated reset of
    STBP-tdBN, whose gate is differentiated and which fires above the threshold only. With
    `reset="soft"`, `surrogate="triangle"`, `detach_reset=True` it is S-ResNet's neuron.

    Args:
        decay: Share of the potential that is left after a step, 0 to 1.

    Source: Zheng et al. (2021), STBP-tdBN; Vicente-Sola et al. (2022), S-ResNet.
    """

    def __init__(
        self,
        decay=0.25,
        threshold=0.5,
        detach_reset=False,
        surrogate="rectangle",
        strict=True,
        **kwargs,
    ):
        super().__init__(
            threshold=threshold,
            detach_reset=detach_reset,
            surrogate=surrogate,
            strict=strict,
            **kwargs,
        )
        self.decay = check_number("decay", decay, minimum=0, maximum=1)

    def charge(self, v, x):
        return dynamics.decay_charge(v, x, self.decay)

    def linear_charge(self):
        return spec.Decay(self.decay)


class DecayLIF(Neuron, cell=DecayLIFCell):
    """LIF with a decay factor and gated reset, tdBN's neuron: `h = decay * v + x`, fire, reset.

    Example:

    >>> spikes = DecayLIF(decay=0.25, threshold=0.5)(0.45 * keras.ops.ones((1, 6, 1)))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [0. 1. 0. 1. 0. 1.]
    """


class DelayedLIFCell(SpikingCell):
    """LIF that fires before it takes its input in, one step: every layer delays by a step.

    `s = fire(v)`; soft reset: `v <- decay * v + x - s * threshold`; hard reset:
    `v <- decay * (1 - s) * v + s * v_reset + x`. What a reset sets or subtracts does not decay.

    Args:
        decay: Share of the potential that is left after a step, 0 to 1.

    Source: Rathi et al. (2020), hybrid training; Spyx `LIF`; snnTorch `Leaky` returns its spikes
    one step earlier.
    """

    def __init__(self, decay=1.0, reset="soft", surrogate="triangle", strict=True, **kwargs):
        super().__init__(reset=reset, surrogate=surrogate, strict=strict, **kwargs)
        self.decay = check_number("decay", decay, minimum=0, maximum=1)

    def step(self, x, states):
        (v,) = states
        spikes = self.fire(v)
        return spikes, [self.after(v, x, spikes, self.decay)]

    def after(self, v, x, spikes, decay):
        """The membrane potential that is left of `v` after its `spikes` and the input `x`."""
        if self.reset == "hard":  # does not touch the input
            return self.reset_membrane(decay * v, spikes) + x
        return self.reset_membrane(dynamics.decay_charge(v, x, decay), spikes)


class DelayedLIF(Neuron, cell=DelayedLIFCell):
    """LIF that fires before it takes its input in; a spike comes one step after its cause.

    Example:

    >>> spikes = DelayedLIF(decay=1.0)(0.7 * keras.ops.ones((1, 8, 1)))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [0. 0. 1. 1. 0. 1. 1. 0.]
    """


class STDBLIFCell(DelayedLIFCell):
    """The delayed LIF with spike-timing-dependent backpropagation, one step.

    `s = fire(v / threshold - 1)`, then the reset of `DelayedLIFCell`. Backward, the slope of
    `fire` is `alpha exp(-beta d)`, `d` being the steps since the neuron's last spike (about 1000
    before its first), whatever the potential. States: membrane potential, `d` before this step.

    Args:
        decay: Share of the potential that is left after a step, 0 to 1.
        alpha: Slope right after a spike, above 0.
        beta: Decay of the slope in a step, at least 0.
        slope: `"time"` for the above, or `"linear"` for `alpha max(0, 1 - |v / threshold - 1|)`.
        trainable_decay: Whether the decay is a weight, kept from 0 to 1.

    Source: Rathi et al. (2020); a learned decay and threshold: Rathi and Roy (2020), DIET-SNN.
    """

    initial_values = (None, 998.0)  # the authors' last spike is 1000 steps before the first
    state_names = ("membrane", "silence")

    def __init__(
        self,
        decay=1.0,
        alpha=0.3,
        beta=0.01,
        slope="time",
        trainable_decay=False,
        **kwargs,
    ):
        super().__init__(decay=decay, **kwargs)
        self.alpha = check_number("alpha", alpha, above=0)
        self.beta = check_number("beta", beta, minimum=0)
        self.slope = check_choice("slope", slope, ("time", "linear"))
        self.trainable_decay = bool(trainable_decay)
        self.decay_weight = None

    def build(self, input_shape):
        super().build(input_shape)
        if self.trainable_decay:
            self.decay_weight = self.add_parameter(
                "decay", self.decay, self.parameter_shape, constraint=_share
            )

    def step(self, x, states):
        v, silent = states
        threshold = self.current_threshold
        decay = self.decay if self.decay_weight is None else self.decay_weight
        z = v / threshold - 1
        # One step more than the time since the last spike: the spike of a step is decided before.
        silent = silent + 1
        if self.slope == "time":
            slope = self.alpha * keras.ops.exp(-self.beta * silent)
        else:
            slope = self.alpha * keras.ops.maximum(1 - keras.ops.abs(z), 0)
        fired = keras.ops.stop_gradient(heaviside(z, self.strict))
        spikes = fired + keras.ops.stop_gradient(slope) * (z - keras.ops.stop_gradient(z))
        return spikes, [self.after(v, x, spikes, decay), silent * (1 - fired)]


def _share(weight):
    """Constraint of learnable decays."""
    return keras.ops.clip(weight, 0, 1)


class STDBLIF(Neuron, cell=STDBLIFCell):
    """The delayed LIF of hybrid training: STDB's surrogate gradient depends on spike times.

    Example:

    >>> spikes = STDBLIF()(0.7 * keras.ops.ones((1, 8, 1)))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [0. 0. 1. 1. 0. 1. 1. 0.]
    """


class AdaptiveLIFCell(LIFCell):
    """LIF with a threshold that rises with its own spikes, one step.

    Fires at `h >= threshold + a`; then `a <- a + (adaptation * s - a) / tau_adaptation`. States:
    membrane potential, `a`. The reset uses the raised threshold.

    Args:
        adaptation: Value that `a` tends to while the neuron fires at every step, at least 0.
        tau_adaptation: Time constant of `a` in steps, at least 1.

    Source: Bellec et al. (2018), LSNN, with `rho = 1 - 1 / tau_adaptation`.
    """

    initial_values = (None, 0.0)
    state_names = ("membrane", "adaptation")

    def __init__(self, tau=2.0, adaptation=1.8, tau_adaptation=20.0, **kwargs):
        super().__init__(tau=tau, **kwargs)
        self.adaptation = check_number("adaptation", adaptation, minimum=0)
        self.tau_adaptation = check_number("tau_adaptation", tau_adaptation, minimum=1)

    def step(self, x, states):
        v, a = states
        h = self.charge(v, x)
        threshold = self.current_threshold + a
        spikes = self.fire(h, threshold)
        a = dynamics.adaptive_threshold(a, spikes, self.tau_adaptation, self.adaptation)
        return spikes, [self.reset_membrane(h, spikes, threshold), a]


class AdaptiveLIF(Neuron, cell=AdaptiveLIFCell):
    """LIF with a threshold that rises with its own spikes (LSNN, ALIF).

    Example:

    >>> layer = AdaptiveLIF(tau=1.0, adaptation=4.0, tau_adaptation=4.0)
    >>> print(keras.ops.convert_to_numpy(layer(1.5 * keras.ops.ones((1, 6, 1))))[0, :, 0])
    [1. 0. 0. 0. 1. 0.]
    """


class SynapticLIFCell(SpikingCell):
    """Current-based LIF, one step: `i = synaptic_decay * i + x`, `h = decay * v + i`.

    States: membrane potential, synaptic current.

    Args:
        synaptic_decay: Share of the current that is left after a step, 0 to 1.
        decay: Share of the potential that is left after a step, 0 to 1.

    Source: SpikingJelly `CUBALIFNode`; snnTorch `Synaptic`, whose reset comes one step later.
    """

    initial_values = (None, 0.0)
    state_names = ("membrane", "current")

    def __init__(self, synaptic_decay=0.5, decay=0.75, **kwargs):
        super().__init__(**kwargs)
        self.synaptic_decay = check_number("synaptic_decay", synaptic_decay, minimum=0, maximum=1)
        self.decay = check_number("decay", decay, minimum=0, maximum=1)

    def step(self, x, states):
        v, current = states
        current = dynamics.decay_charge(current, x, self.synaptic_decay)
        h = dynamics.decay_charge(v, current, self.decay)
        spikes = self.fire(h)
        return spikes, [self.reset_membrane(h, spikes), current]


class SynapticLIF(Neuron, cell=SynapticLIFCell):
    """Current-based (synaptic) LIF: the input is low-pass filtered before the membrane.

    Example:

    >>> layer = SynapticLIF(synaptic_decay=0.5, decay=0.5, return_state=True)
    >>> spikes, v, current = layer(keras.ops.ones((1, 2, 1)))
    >>> print(float(current[0, 0]), keras.ops.convert_to_numpy(spikes)[0, :, 0])
    1.5 [1. 1.]
    """


class QIFCell(SpikingCell):
    """Quadratic integrate-and-fire, one step.

    `h = v + (x + a0 (v - v_rest) (v - v_critical)) / tau`.

    Args:
        tau: Membrane time constant in steps, at least 1.
        v_rest: Resting potential of the dynamics; the state starts at `v_reset`.
        v_critical: Potential above which the neuron excites itself.
        a0: Strength of the quadratic term, above 0.

    Source: SpikingJelly `QIFNode`.
    """

    def __init__(self, tau=2.0, v_rest=0.0, v_critical=0.8, a0=1.0, v_reset=-0.1, **kwargs):
        super().__init__(v_reset=v_reset, **kwargs)
        self.tau = check_number("tau", tau, minimum=1)
        self.v_rest = check_number("v_rest", v_rest)
        self.v_critical = check_number("v_critical", v_critical)
        self.a0 = check_number("a0", a0, above=0)

    def charge(self, v, x):
        return dynamics.quadratic_charge(v, x, self.tau, self.v_rest, self.v_critical, self.a0)


class QIF(Neuron, cell=QIFCell):
    """Quadratic integrate-and-fire.

    Example:

    >>> QIF()(keras.ops.ones((2, 4, 3))).shape == (2, 4, 3)
    True
    """


class EIFCell(SpikingCell):
    """Exponential integrate-and-fire, one step.

    `h = v + (x + v_rest - v + delta_t exp((v - theta_rh) / delta_t)) / tau`.

    Args:
        tau: Membrane time constant in steps, at least 1.
        v_rest: Resting potential of the dynamics; the state starts at `v_reset`.
        theta_rh: Rheobase threshold.
        delta_t: Sharpness of the onset, above 0.

    Source: SpikingJelly `EIFNode`.
    """

    def __init__(self, tau=2.0, v_rest=0.0, theta_rh=0.8, delta_t=1.0, v_reset=-0.1, **kwargs):
        super().__init__(v_reset=v_reset, **kwargs)
        self.tau = check_number("tau", tau, minimum=1)
        self.v_rest = check_number("v_rest", v_rest)
        self.theta_rh = check_number("theta_rh", theta_rh)
        self.delta_t = check_number("delta_t", delta_t, above=0)

    def charge(self, v, x):
        return dynamics.exponential_charge(v, x, self.tau, self.v_rest, self.theta_rh, self.delta_t)


class EIF(Neuron, cell=EIFCell):
    """Exponential integrate-and-fire.

    Example:

    >>> EIF()(keras.ops.ones((2, 4, 3))).shape == (2, 4, 3)
    True
    """


class IzhikevichCell(SpikingCell):
    """Izhikevich's neuron, one step: a quadratic neuron with an adaptation current `w`.

    `h = v + (x + a0 (v - v_rest) (v - v_critical) - w) / tau`; after firing
    `w <- w + (a (h - v_rest) - w) / tau_w + b s`. States: membrane potential, `w`.

    Args:
        tau: Membrane time constant in steps, at least 1.
        v_rest: Resting potential of the dynamics; the state starts at `v_reset`.
        v_critical: Potential above which the neuron excites itself.
        a0: Strength of the quadratic term, above 0.
        tau_w: Time constant of the adaptation in steps, at least 1.
        a: Coupling of the adaptation to the membrane.
        b: What a spike adds to the adaptation.

    Source: SpikingJelly `IzhikevichNode`.
    """

    initial_values = (None, 0.0)
    state_names = ("membrane", "adaptation")

    def __init__(
        self,
        tau=2.0,
        v_rest=-0.1,
        v_critical=0.8,
        a0=1.0,
        tau_w=2.0,
        a=0.0,
        b=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.tau = check_number("tau", tau, minimum=1)
        self.v_rest = check_number("v_rest", v_rest)
        self.v_critical = check_number("v_critical", v_critical)
        self.a0 = check_number("a0", a0, above=0)
        self.tau_w = check_number("tau_w", tau_w, minimum=1)
        self.a = check_number("a", a)
        self.b = check_number("b", b)

    def step(self, x, states):
        v, w = states
        h = dynamics.quadratic_charge(v, x - w, self.tau, self.v_rest, self.v_critical, self.a0)
        spikes = self.fire(h)
        w = w + (self.a * (h - self.v_rest) - w) / self.tau_w + self.b * spikes
        return spikes, [self.reset_membrane(h, spikes), w]


class Izhikevich(Neuron, cell=IzhikevichCell):
    """Izhikevich's neuron: quadratic, with an adaptation current.

    Example:

    >>> Izhikevich(a=0.1, b=0.2)(keras.ops.ones((2, 4, 3))).shape == (2, 4, 3)
    True
    """


class KLIFCell(LIFCell):
    """LIF with a learned gain and a ReLU on the charged membrane, one step: `h <- relu(k h)`.

    Args:
        scale_reset: Whether the reset acts on `h / k`, with `threshold / k`.

    Source: Jiang and Zhang (2023); SpikingJelly `KLIFNode`.
    """

    def __init__(self, tau=2.0, scale_reset=False, **kwargs):
        super().__init__(tau=tau, **kwargs)
        self.scale_reset = bool(scale_reset)

    def build(self, input_shape):
        super().build(input_shape)
        self.k = self.add_parameter("k", 1.0, self.parameter_shape)

    def charge(self, v, x):
        return keras.ops.relu(self.k * super().charge(v, x))

    def step(self, x, states):
        h = self.charge(states[0], x)
        spikes = self.fire(h)
        if self.scale_reset:
            threshold = self.current_threshold / self.k
            return spikes, [self.reset_membrane(h / self.k, spikes, threshold)]
        return spikes, [self.reset_membrane(h, spikes)]


class KLIF(Neuron, cell=KLIFCell):
    """LIF with a learned gain `k` and a ReLU on the charged membrane.

    Example:

    >>> KLIF()(keras.ops.ones((2, 4, 3))).shape == (2, 4, 3)
    True
    """


class _Ternary:
    """A cell that fires at its threshold, and with -1 at the negative one."""

    def step(self, x, states):
        h = self.charge(states[0], x)
        positive, negative = dynamics.fire_ternary(
            h, self.current_threshold, self.surrogate, self.strict
        )
        spikes = positive - negative
        fired = spikes if self.reset == "soft" else positive + negative
        return spikes, [self.reset_membrane(h, fired)]


class TernaryIFCell(_Ternary, IFCell):
    """Integrate-and-fire with spikes of two signs, one step: `h = v + x`.

    A spike is 1 where `h >= threshold` and -1 where `h <= -threshold`. A soft reset subtracts
    `s threshold`, a hard one follows either.

    Source: SpikingJelly `TernaryIFNode`; Guo et al. (2024), Ternary Spike.
    """


class TernaryIF(Neuron, cell=TernaryIFCell):
    """Integrate-and-fire with spikes of two signs.

    Example:

    >>> spikes = TernaryIF(reset="soft")(keras.ops.array([[[0.6], [0.6], [-1.4], [0.2]]]))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [ 0.  1. -1.  0.]
    """


class TernaryLIFCell(_Ternary, LIFCell):
    """Leaky integrate-and-fire with spikes of two signs, one step: the charge of `LIFCell`.

    A spike is 1 where `h >= threshold` and -1 where `h <= -threshold`. A soft reset subtracts
    `s threshold`, a hard one follows either.

    Source: SpikingJelly `TernaryLIFNode`; Guo et al. (2024), Ternary Spike.
    """


class TernaryLIF(Neuron, cell=TernaryLIFCell):
    """Leaky integrate-and-fire with spikes of two signs.

    Example:

    >>> spikes = TernaryLIF(tau=2.0)(keras.ops.array([[[1.0], [1.5], [-2.0]]]))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [ 0.  1. -1.]
    """


class CLIFCell(LIFCell):
    """LIF with a complementary potential, one step; the more it fired, the more it is reset by.

    The charge is that of `LIFCell`, by default `h = v - v / tau + x`; then
    `m <- m sigmoid(h / tau) + s` and `v = h - s (threshold + sigmoid(m))`. States: membrane
    potential, `m`.

    Source: Huang et al. (2024), CLIF; SpikingJelly `ComplementaryLIFNode`.
    """

    initial_values = (None, 0.0)
    state_names = ("membrane", "complementary")

    def __init__(
        self,
        tau=2.0,
        decay_input=False,
        reset="soft",
        detach_reset=False,
        surrogate="rectangle",
        **kwargs,
    ):
        super().__init__(
            tau=tau,
            decay_input=decay_input,
            reset=reset,
            detach_reset=detach_reset,
            surrogate=surrogate,
            **kwargs,
        )

    def step(self, x, states):
        v, m = states
        h = self.charge(v, x)
        spikes = self.fire(h)
        m = m * keras.ops.sigmoid(h / self.tau) + spikes
        threshold = self.current_threshold + keras.ops.sigmoid(m)
        return spikes, [self.reset_membrane(h, spikes, threshold), m]


class CLIF(Neuron, cell=CLIFCell):
    """LIF with a complementary potential, whose gradients reach further back in time.

    Example:

    >>> spikes = CLIF(tau=2.0)(keras.ops.ones((1, 6, 1)))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [1. 0. 1. 0. 1. 0.]
    """


class GLIFCell(SpikingCell):
    """Gated LIF, one step; leak, input and reset are learned mixtures of two kinds each.

    The charge is `keras_snn.dynamics.gated_charge`, what the last spikes reset included; gates,
    decay, leak, threshold, what a spike subtracts and conductance are `sigmoid` of weights. States:
    charged potential, last spikes, and with `timesteps` the number of steps so far.

    Args:
        timesteps: Number of steps that have a conductance each; further ones have the last. `None`
            for one of all steps.
        decay: Initial share of the potential that is left after a step, between 0 and 1.
        leak: Initial amount that a step takes, between 0 and 1; `None` for
            `threshold / (2 timesteps)`.
        subtracted: Initial amount that a spike takes, between 0 and 1; `None` for the threshold.
        conductance: Initial factor on the input, between 0 and 1.
        gate_initializer: Initializer of the weights of the gates, which a `sigmoid` follows.
        threshold: Initial firing threshold, between 0 and 1. It is learned.
        parameter_shape: How weights are shared: `"channel"`, `"scalar"` or `"neuron"`.

    Source: Yao et al. (2022), GLIF; SpikingJelly `GatedLIFNode`. Theirs fires above the threshold
    only, SpikingJelly's at it too.
    """

    without = ("reset", "detach_reset", "trainable_threshold", "v_reset")

    def __init__(
        self,
        timesteps=None,
        decay=0.25,
        leak=None,
        subtracted=None,
        conductance=0.5,
        gate_initializer=None,
        threshold=0.5,
        parameter_shape="channel",
        **kwargs,
    ):
        super().__init__(threshold=threshold, parameter_shape=parameter_shape, **kwargs)
        self.timesteps = None if timesteps is None else check_integer("timesteps", timesteps)
        _check_share("threshold", threshold)
        self.decay = _check_share("decay", decay)
        self.leak = None if leak is None else _check_share("leak", leak)
        self.subtracted = None if subtracted is None else _check_share("subtracted", subtracted)
        self.conductance = _check_share("conductance", conductance)
        if gate_initializer is None:
            gate_initializer = keras.initializers.RandomUniform(-0.1, 0.1)
        self.gate_initializer = keras.initializers.get(gate_initializer)
        names = ("membrane", "spikes", "time")
        self.state_names = names if self.timesteps else names[:2]
        self.initial_values = (0.0,) * len(self.state_names)

    def build(self, input_shape):
        super().build(input_shape)
        leak = self.threshold / (2 * (self.timesteps or 1))
        first = {
            "decay": self.decay,
            "leak": leak if self.leak is None else self.leak,
            "subtracted": self.threshold if self.subtracted is None else self.subtracted,
            "threshold": self.threshold,
        }
        shape = self.parameter_shape
        self.gates = {
            name: self.add_parameter(name, self.gate_initializer, shape)
            for name in ("leak_gate", "input_gate", "reset_gate")
        }
        self.parameters = {
            name: self.add_parameter(name, _logit(value), shape) for name, value in first.items()
        }
        self.conductances = self.add_parameter(
            "conductance", _logit(self.conductance), shape, self.timesteps
        )

    @property
    def current_threshold(self):
        return keras.ops.sigmoid(self.parameters["threshold"])

    def _conductance(self, time):
        """The weight in force, of each example its own where examples are at different steps."""
        if not time:
            return self.conductances
        (time,) = time
        rank = len(time.shape)
        now = keras.ops.cast(time[(slice(None), *[0] * (rank - 1))], "int32")
        found = keras.ops.take(self.conductances, keras.ops.minimum(now, self.timesteps - 1), 0)
        ones = [1] * (rank - len(self.conductances.shape))
        return keras.ops.reshape(found, (-1, *ones, *self.conductances.shape[1:]))

    def step(self, x, states):
        v, spikes, *time = states
        weights = self.gates | self.parameters | {"conductance": self._conductance(time)}
        weights.pop("threshold")
        weights = {name: keras.ops.sigmoid(weight) for name, weight in weights.items()}
        h = dynamics.gated_charge(v, x, spikes, **weights)
        spikes = self.fire(h)
        return spikes, [h, spikes, *(t + 1 for t in time)]

    def get_config(self):
        initializer = keras.initializers.serialize(self.gate_initializer)
        return self.accepted(super().get_config() | {"gate_initializer": initializer})


def _check_share(name, value):
    return check_number(name, check_number(name, value, above=0), maximum=1 - 1e-9)


def _logit(share):
    return -math.log(1 / share - 1)


class GLIF(Neuron, cell=GLIFCell):
    """Gated LIF: leak, input and reset are learned mixtures, for each channel by default.

    Example:

    >>> layer = GLIF(timesteps=4)
    >>> layer(keras.ops.ones((2, 4, 8, 8, 3))).shape == (2, 4, 8, 8, 3), layer.count_params()
    (True, 33)
    """


class ResonateAndFireCell(SpikingCell):
    """Resonate-and-fire, one step: a damped oscillation that fires at its peaks.

    `u <- e^b (u cos omega - v sin omega) + x`, `v <- e^b (u sin omega + v cos omega)`, which is
    compared with the threshold and reset. States: membrane potential `v`, `u`.

    Args:
        b: Damping of a step, below 0.
        omega: Angle of a step in radians, above 0.

    Source: Izhikevich (2001); SpikingJelly `RAFNode` with `dt=1`.
    """

    initial_values = (None, 0.0)
    state_names = ("membrane", "current")

    def __init__(self, b=-0.2, omega=1.0, **kwargs):
        super().__init__(**kwargs)
        self.b = -check_number("b", -check_number("b", b), above=0)
        self.omega = check_number("omega", omega, above=0)

    def step(self, x, states):
        v, u = states
        u, h = dynamics.resonate(u, v, x, self.b, self.omega)
        spikes = self.fire(h)
        return spikes, [self.reset_membrane(h, spikes), u]


class ResonateAndFire(Neuron, cell=ResonateAndFireCell):
    """Resonate-and-fire: it fires for inputs in the rhythm of its own oscillation.

    Example:

    >>> layer = ResonateAndFire(omega=math.pi / 2)  # four steps a turn
    >>> pulses = keras.ops.array([[[1.1], [0.0], [0.0], [0.0], [1.1], [0.0]]])
    >>> print(keras.ops.convert_to_numpy(layer(pulses))[0, :, 0])
    [0. 0. 0. 0. 0. 1.]
    """


class LIAFCell(LIFCell):
    """LIF with analog outputs, one step: spikes reset the membrane, its activation goes on.

    The output is `activation(h)`, or `activation(h - threshold)`, of the charged potential `h`.

    Args:
        activation: Activation function, as Keras's layers take it.
        above_threshold: Whether the threshold is subtracted before the activation.

    Source: Wu et al. (2021), LIAF-Net; SpikingJelly `LIAFNode`, where `above_threshold` is
    `threshold_related`.
    """

    spiking = False

    def __init__(self, tau=2.0, activation="relu", above_threshold=False, **kwargs):
        super().__init__(tau=tau, **kwargs)
        self.activation = keras.activations.get(activation)
        self.above_threshold = bool(above_threshold)

    def step(self, x, states):
        h = self.charge(states[0], x)
        z = h - self.current_threshold if self.above_threshold else h
        return self.activation(z), [self.reset_membrane(h, self.fire(h))]

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return self.accepted(super().get_config() | {"activation": activation})


class LIAF(Neuron, cell=LIAFCell):
    """LIF with analog outputs: the membrane is reset by spikes, what goes on are activations.

    Example:

    >>> y = LIAF(tau=2.0)(1.5 * keras.ops.ones((1, 3, 1)))
    >>> print(keras.ops.convert_to_numpy(y)[0, :, 0])
    [0.75  1.125 0.75 ]
    """


FORMATS = ("channels_last", "channels_first")


class MPBNLIFCell(LIFCell):
    """LIF that normalises its charged potential before it fires (MPBN), one step.

    `s = fire(BN(h))`: batch normalisation of each step, whose moving statistics all steps share.
    The reset acts on `h`, so that in inference a threshold of each channel stands for the
    normalisation, see `folded_threshold`. Masked steps take part in the statistics.

    Args:
        momentum: Momentum of the moving statistics.
        epsilon: What is added to the variance.
        data_format: `"channels_last"` or `"channels_first"` of maps; `None` for Keras's setting.
        normalize_state: Whether the reset acts on the normalised potential, as in SpikingJelly;
            then no threshold stands for it.

    Source: Guo et al. (2023), membrane potential batch normalisation; SpikingJelly `MPBNLIFNode`.
    """

    def __init__(
        self,
        tau=2.0,
        decay_input=False,
        momentum=0.9,
        epsilon=1e-5,
        data_format=None,
        normalize_state=False,
        **kwargs,
    ):
        super().__init__(tau=tau, decay_input=decay_input, **kwargs)
        data_format = data_format or keras.config.image_data_format()
        self.data_format = check_choice("data_format", data_format, FORMATS)
        self.momentum, self.epsilon = momentum, epsilon
        self.normalize_state = bool(normalize_state)
        self.normalization = None

    def build(self, input_shape):
        super().build(input_shape)
        first = self.data_format == "channels_first" and len(input_shape) > 2
        self.normalization = keras.layers.BatchNormalization(
            axis=1 if first else -1,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.variable_dtype,
        )
        freeze(self, self.normalization)
        self.normalization.build(input_shape)

    def step(self, x, states):
        h = self.charge(states[0], x)
        normalized = self.normalization(h)
        spikes = self.fire(normalized)
        return spikes, [self.reset_membrane(normalized if self.normalize_state else h, spikes)]

    def folded_threshold(self):
        """The threshold of each channel that in inference stands for the normalisation.

        Returns:
            An array that broadcasts to the potential; `None` if there is no such threshold: with
            `normalize_state`, a soft reset, or a channel whose scale is not above 0.
        """
        scale, shift = graph.normalization(self.normalization)
        if self.normalize_state or self.reset == "soft" or not (scale > 0).all():
            return None
        shape = [1] * (len(self._step_shape) - 1)
        shape[self.normalization.axis - 1 if self.normalization.axis > 0 else -1] = -1
        threshold = keras.ops.convert_to_numpy(self.current_threshold)
        return (threshold - shift.reshape(shape)) / scale.reshape(shape)

    def inference_spec(self):
        threshold = self.folded_threshold() if type(self) is MPBNLIFCell else None
        return None if threshold is None else (self.linear_charge(), self.fire_spec, threshold)


class MPBNLIF(Neuron, cell=MPBNLIFCell):
    """LIF that normalises its charged potential before it fires (MPBN).

    Example:

    >>> layer = MPBNLIF()
    >>> layer(keras.ops.ones((2, 4, 8, 8, 3)), training=True).shape == (2, 4, 8, 8, 3)
    True
    >>> layer.cell.folded_threshold().shape
    (1, 1, 3)
    """


# The surrogates of their sources.
SLAYER, TRIANGLE = PiecewiseExp(alpha=5.0, scale=0.4), Triangle(gamma=1.0)


class SEAdLIFCell(SpikingCell):
    """Adaptive LIF whose time constants and adaptation are learned, one step.

    With `decay = exp(-1 / tau)`, the adaptation `w` and `v_reset = 0`:
    `h = decay v + (1 - decay) (x - w)`, a spike `s` and a reset; then
    `w <- decay_w w + (1 - decay_w) strength (a v + b s)`. By the symplectic form `v` and `s` are
    those after this step, by Euler's those before it. States: membrane potential, `w`, and for
    Euler's form the last spikes. The adaptation is coupled to `v - v_reset` (our reading; the
    source has `v_reset = 0`).

    Learned are `a`, `b`, and the share of its range that each time constant lies at; they start
    uniformly at random and stay in their ranges.

    Args:
        tau_range: Least and largest membrane time constant in steps, above 0.
        tau_adaptation_range: Least and largest time constant of the adaptation in steps, above 0.
        a_range: Least and largest coupling of the adaptation to the membrane.
        b_range: Least and largest addition of a spike to the adaptation.
        strength: Factor on what the adaptation tends to, above 0; the source has 120 for the
            symplectic form and 60 for Euler's.
        method: `"symplectic"`, or `"euler"`, which is less stable for large `a`.
        parameter_shape: How weights are shared: `"channel"`, `"scalar"` or `"neuron"`.

    Source: Baronig et al. (2025), SE-adLIF, and their code.
    """

    def __init__(
        self,
        tau_range=(5.0, 25.0),
        tau_adaptation_range=(60.0, 300.0),
        a_range=(0.0, 1.0),
        b_range=(0.0, 2.0),
        strength=120.0,
        method="symplectic",
        surrogate=SLAYER,
        strict=True,
        parameter_shape="channel",
        **kwargs,
    ):
        super().__init__(
            surrogate=surrogate, strict=strict, parameter_shape=parameter_shape, **kwargs
        )
        self.tau_range = check_range("tau_range", tau_range, above=0)
        self.tau_adaptation_range = check_range(
            "tau_adaptation_range", tau_adaptation_range, above=0
        )
        self.a_range = check_range("a_range", a_range)
        self.b_range = check_range("b_range", b_range)
        self.strength = check_number("strength", strength, above=0)
        self.method = check_choice("method", method, ("symplectic", "euler"))
        names = ("membrane", "adaptation", "spikes")
        self.state_names = names[:2] if method == "symplectic" else names
        self.initial_values = (None, 0.0, 0.0)[: len(self.state_names)]

    def build(self, input_shape):
        super().build(input_shape)

        def within(name, low, high):
            return self.add_parameter(
                name,
                keras.initializers.RandomUniform(low, high),
                self.parameter_shape,
                constraint=lambda weight: keras.ops.clip(weight, low, high),
            )

        self.tau_share = within("tau_share", 0.0, 1.0)
        self.tau_adaptation_share = within("tau_adaptation_share", 0.0, 1.0)
        self.a = within("a", *self.a_range)
        self.b = within("b", *self.b_range)

    @property
    def current_tau(self):
        """The membrane time constants in force."""
        return _between(self.tau_share, self.tau_range)

    @property
    def current_tau_adaptation(self):
        """The time constants of the adaptation in force."""
        return _between(self.tau_adaptation_share, self.tau_adaptation_range)

    def step(self, x, states):
        v, w, *last = states
        rate, rate_w = (
            1 - keras.ops.exp(-1 / tau) for tau in (self.current_tau, self.current_tau_adaptation)
        )
        h = dynamics.lif_charge(v, x - w, rate=rate, v_rest=self.v_reset)
        spikes = self.fire(h)
        new = self.reset_membrane(h, spikes)
        by, fired = (v, last[0]) if last else (new, spikes)
        aim = self.strength * (self.a * (by - self.v_reset) + self.b * fired)
        w = dynamics.lif_charge(w, aim, rate=rate_w)
        return spikes, [new, w, *([spikes] if last else [])]


def _between(share, limits):
    low, high = limits
    return low + (high - low) * share


class SEAdLIF(Neuron, cell=SEAdLIFCell):
    """Adaptive LIF with learned time constants and adaptation (SE-adLIF), for long sequences.

    `Recurrent(SEAdLIFCell(), keras.layers.Dense(units, use_bias=False,
    kernel_initializer="orthogonal"))` is the source's recurrent form.

    Example:

    >>> layer = SEAdLIF(tau_range=(5, 25))
    >>> layer(keras.ops.ones((2, 4, 8, 8, 3))).shape == (2, 4, 8, 8, 3), layer.count_params()
    (True, 12)
    """


class TwoCompartmentLIFCell(SpikingCell):
    """LIF of two compartments, a dendrite and a soma, one step.

    `d <- d - feedback v + x`, `h = v + coupling d`, and a spike where `h` reaches the threshold. A
    soft reset takes the threshold from the soma and `gamma` from the dendrite; the others leave the
    dendrite. Both shares are learned, as `sigmoid` of weights. States: the potentials of the soma,
    `v`, and of the dendrite, `d`.

    Args:
        feedback: Initial share of the soma's potential that the dendrite loses, between 0 and 1.
        coupling: Initial share of the dendrite's potential that the soma gets, between 0 and 1.
        gamma: What a spike takes from the dendrite.

    Source: Zhang et al. (2024), TC-LIF, whose `beta_1` is `-feedback`, and their code.
    """

    initial_values = (None, 0.0)
    state_names = ("membrane", "dendrite")

    def __init__(
        self,
        feedback=0.5,
        coupling=0.5,
        gamma=0.5,
        reset="soft",
        detach_reset=False,
        surrogate=TRIANGLE,
        **kwargs,
    ):
        super().__init__(reset=reset, detach_reset=detach_reset, surrogate=surrogate, **kwargs)
        self.feedback = _check_share("feedback", feedback)
        self.coupling = _check_share("coupling", coupling)
        self.gamma = check_number("gamma", gamma)

    def build(self, input_shape):
        super().build(input_shape)
        self.feedback_weight, self.coupling_weight = (
            self.add_parameter(name, _logit(getattr(self, name)), self.parameter_shape)
            for name in ("feedback", "coupling")
        )

    def step(self, x, states):
        v, d = states
        d = d - keras.ops.sigmoid(self.feedback_weight) * v + x
        h = v + keras.ops.sigmoid(self.coupling_weight) * d
        spikes = self.fire(h)
        if self.reset == "soft":
            d = self.reset_membrane(d, spikes, self.gamma)
        return spikes, [self.reset_membrane(h, spikes), d]


class TwoCompartmentLIF(Neuron, cell=TwoCompartmentLIFCell):
    """LIF of a dendrite and a soma (TC-LIF): the dendrite remembers what the soma's resets do not.

    Example:

    >>> spikes = TwoCompartmentLIF()(0.6 * keras.ops.ones((1, 6, 1)))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [0. 0. 1. 1. 0. 1.]
    """


class LeakyIntegratorCell(NeuronCell):
    """Leaky integrator that never fires, one step; the output is the membrane potential.

    Args:
        tau: Membrane time constant in steps, at least 1.
        decay_input: Whether the input is divided by `tau` too, as in `LIFCell`.
        v_reset: Resting potential: where the state starts and where the leak pulls to.

    Source: Norse `LIBox`; SpikingJelly `NonSpikingLIFNode`.
    """

    def __init__(self, tau=2.0, decay_input=True, v_reset=0.0, **kwargs):
        super().__init__(**kwargs)
        self.v_reset = check_number("v_reset", v_reset)
        self.tau = check_number("tau", tau, minimum=1)
        self.decay_input = bool(decay_input)

    def charge(self, v, x):
        return dynamics.lif_charge(
            v, x, tau=self.tau, v_rest=self.v_reset, decay_input=self.decay_input
        )

    def linear_charge(self):
        return spec.Leak(self.v_reset, self.decay_input, tau=self.tau)


class LeakyIntegrator(Neuron, cell=LeakyIntegratorCell):
    """Leaky integrator that never fires: a readout of the membrane potential.

    A masked step repeats the potential before it (`zero_output_for_mask=False` by default).

    Example:

    >>> v = LeakyIntegrator(tau=2.0)(keras.ops.ones((1, 3, 1)))
    >>> print(keras.ops.convert_to_numpy(v)[0, :, 0])
    [0.5   0.75  0.875]
    """

    defaults = {"zero_output_for_mask": False}


class AccumulatorCell(NeuronCell):
    """Integrator without leak or threshold, one step: `v <- v + x`, which is also the output.

    Args:
        v_reset: Where the state starts.
    """

    def __init__(self, v_reset=0.0, **kwargs):
        super().__init__(**kwargs)
        self.v_reset = check_number("v_reset", v_reset)

    def charge(self, v, x):
        return dynamics.if_charge(v, x)

    def linear_charge(self):
        return spec.Decay()


class Accumulator(Neuron, cell=AccumulatorCell):
    """Integrator without leak or threshold: the running sum of its input.

    With `return_sequences=False` it is the accumulator readout of converted networks. A masked
    step repeats the sum before it (`zero_output_for_mask=False` by default).

    Example:

    >>> v = Accumulator(return_sequences=False)(keras.ops.ones((1, 3, 1)))
    >>> float(v[0, 0])
    3.0
    """

    defaults = {"zero_output_for_mask": False}
