"""Every neuron in float64 by NumPy, with its gradients: independent of the package.

A `Dual` carries its slopes to all inputs and parameters along (forward differentiation), so that a
neuron is its documented equations, and the surrogate and the detached reset are one line each.
"""

import math

import numpy as np


class Dual:
    """Numbers and their slopes; the first axis of `slope` is what they are slopes to."""

    __array_ufunc__ = None  # numpy leaves arithmetic to this class

    def __init__(self, value, slope=0.0):
        self.value, self.slope = np.asarray(value, "float64"), slope

    def __add__(self, other):
        other = dual(other)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other):
        other = dual(other)
        slope = self.slope * other.value + other.slope * self.value
        return Dual(self.value * other.value, slope)

    def apply(self, value, slope):
        return Dual(value, self.slope * slope)

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + -dual(other)

    def __rsub__(self, other):
        return -self + other

    def __rtruediv__(self, other):
        return dual(other) / self

    def __truediv__(self, other):
        other = dual(other)
        return self * other.apply(1 / other.value, -1 / other.value**2)

    __radd__, __rmul__ = __add__, __mul__


def dual(x):
    return x if isinstance(x, Dual) else Dual(x)


def constant(x):
    """`x` without slopes: what `detach` and `stop_gradient` leave."""
    return Dual(dual(x).value)


def exp(x):
    return x.apply(np.exp(x.value), np.exp(x.value))


def relu(x):
    return x.apply(np.maximum(x.value, 0), 1.0 * (x.value > 0))


def sigmoid(x):
    y = 1 / (1 + np.exp(-dual(x).value))
    return dual(x).apply(y, y * (1 - y))


def fire(p, h, threshold=None):
    """Spikes; backward ATan(2), `1 / (1 + (pi u)^2)`."""
    u = h - (p["threshold"] if threshold is None else threshold)
    fired = u.value > 0 if p["strict"] else u.value >= 0
    return u.apply(1.0 * fired, 1 / (1 + (math.pi * u.value) ** 2))


def reset(p, h, s, threshold=None):
    s = constant(s) if p["detach_reset"] else s
    threshold = p["threshold"] if threshold is None else threshold
    return {"hard": (1 - s) * h + s * p["v_reset"], "soft": h - s * threshold, "none": h}[
        p["reset"]
    ]


def leak(p, v, x, rate):
    if p["decay_input"]:
        return v + (x - (v - p["v_reset"])) * rate
    return v - (v - p["v_reset"]) * rate + x


def spiking(charge):
    def step(p, x, v):
        h = charge(p, v, x)
        s = fire(p, h)
        return s, reset(p, h, s)

    return step


def lif(p, v, x):
    return leak(p, v, x, 1 / p["tau"])


def after_firing(p, x, v, s):
    """What the delayed neurons do once they fired, the reset before or beside the input."""
    if p["reset"] == "hard":
        s = constant(s) if p["detach_reset"] else s
        return p["decay"] * (1 - s) * v + s * p["v_reset"] + x
    return reset(p, p["decay"] * v + x, s)


def delayed(p, x, v):
    s = fire(p, v)
    return s, after_firing(p, x, v, s)


def stdb(p, x, v, silent):
    z = v / p["threshold"] - 1
    fired = 1.0 * (z.value > 0 if p["strict"] else z.value >= 0)
    since = constant(silent).value + 1
    s = z.apply(fired, p["alpha"] * np.exp(-p["beta"] * since))
    return s, after_firing(p, x, v, s), constant(since * (1 - fired))


def adaptive(p, x, v, a):
    h, threshold = lif(p, v, x), p["threshold"] + a
    s = fire(p, h, threshold)
    return s, reset(p, h, s, threshold), a + (p["adaptation"] * s - a) / p["tau_adaptation"]


def synaptic(p, x, v, i):
    i = p["synaptic_decay"] * i + x
    h = p["decay"] * v + i
    s = fire(p, h)
    return s, reset(p, h, s), i


def quadratic(p, v, x):
    return v + (x + p["a0"] * (v - p["v_rest"]) * (v - p["v_critical"])) / p["tau"]


def exponential(p, v, x):
    onset = p["delta_t"] * exp((v - p["theta_rh"]) / p["delta_t"])
    return v + (x + p["v_rest"] - v + onset) / p["tau"]


def izhikevich(p, x, v, w):
    h = quadratic(p, v, x - w)
    s = fire(p, h)
    return s, reset(p, h, s), w + (p["a"] * (h - p["v_rest"]) - w) / p["tau_w"] + p["b"] * s


def klif(p, x, v):
    h = relu(p["k"] * lif(p, v, x))
    s = fire(p, h)
    if p["scale_reset"]:
        return s, reset(p, h / p["k"], s, p["threshold"] / p["k"])
    return s, reset(p, h, s)


def integer(p, x, v):
    h, most = lif(p, v, x), p["max_spikes"]
    y = h / p["threshold"]
    z = np.clip(y.value, 0, most)
    inside = (y.value >= 0) & (y.value <= most)
    from_nearest = y.value - np.clip(np.floor(y.value), 0, most - 1) - 0.5
    slope = inside / (1 + (math.pi * from_nearest) ** 2)
    s = y.apply(np.ceil(z - 0.5) if p["strict"] else np.round(z), slope)
    return s / most if p["normalize"] else s, reset(p, h, s)


def ternary(charge):
    def step(p, x, v):
        h = charge(p, v, x)
        up, down = fire(p, h), fire(p, -h)
        return up - down, reset(p, h, up - down if p["reset"] == "soft" else up + down)

    return step


def complementary(p, x, v, m):
    h = lif(p, v, x)
    s = fire(p, h)
    m = m * sigmoid(h / p["tau"]) + s
    return s, reset(p, h, s, p["threshold"] + sigmoid(m)), m


def gated(p, x, v, s):
    names = ("leak_gate", "input_gate", "reset_gate", "decay", "leak", "subtracted", "conductance")
    a, b, g, decay, leaked, taken, c = (sigmoid(p[name]) for name in names)
    kept = 1 - a * (1 - decay)
    h = kept * v - (1 - a) * leaked + x * (1 - b * (1 - c))
    h = h - kept * v * g * s - (1 - g) * taken * s
    s = fire(p, h, sigmoid(p["threshold"]))
    return s, h, s


def resonating(p, x, v, u):
    c, s = (math.exp(p["b"]) * f(p["omega"]) for f in (math.cos, math.sin))
    h, u = s * u + c * v, c * u - s * v + x
    s = fire(p, h)
    return s, reset(p, h, s), u


def analog(p, x, v):
    h = lif(p, v, x)
    y = h - p["threshold"] if p["above_threshold"] else h
    return relu(y), reset(p, h, fire(p, h))


def within(p, name):
    low, high = p[f"{name}_range"]
    return low + (high - low) * p[f"{name}_share"]


def oscillating(p, x, v, w, *last):
    """SE-adLIF, and by Euler's form with the last spikes as a state."""
    decay, decay_w = (exp(-1 / dual(within(p, name))) for name in ("tau", "tau_adaptation"))
    h = p["v_reset"] + decay * (v - p["v_reset"]) + (1 - decay) * (x - w)
    s = fire(p, h)
    after = reset(p, h, s)
    by, fired = (v, *last) if last else (after, s)
    aim = p["strength"] * (p["a"] * (by - p["v_reset"]) + p["b"] * fired)
    return (s, after, decay_w * w + (1 - decay_w) * aim, *([s] if last else []))


def two_compartments(p, x, v, d):
    d = d - sigmoid(p["feedback"]) * v + x
    h = v + sigmoid(p["coupling"]) * d
    s = fire(p, h)
    if p["reset"] == "soft":
        d = d - (constant(s) if p["detach_reset"] else s) * p["gamma"]
    return s, reset(p, h, s), d


def silent(charge):
    def step(p, x, v):
        v = charge(p, v, x)
        return v, v

    return step


COMMON = {
    "threshold": 0.8,
    "reset": "hard",
    "v_reset": -0.25,
    "detach_reset": True,
    "strict": False,
}
LEAK = {"tau": 1.75, "decay_input": True}

# Of each neuron its step, the numbers it is tested with, and the weights that these make.
NEURONS = {
    "IF": (spiking(lambda p, v, x: v + x), {}, ()),
    "LIF": (spiking(lif), LEAK, ()),
    "ParametricLIF": (spiking(lambda p, v, x: leak(p, v, x, sigmoid(p["w"]))), LEAK, ("w",)),
    "DecayLIF": (spiking(lambda p, v, x: p["decay"] * v + x), {"decay": 0.6}, ()),
    "DelayedLIF": (delayed, {"decay": 0.7}, ()),
    "STDBLIF": (stdb, {"decay": 0.7, "alpha": 0.4, "beta": 0.1}, ()),
    "AdaptiveLIF": (adaptive, LEAK | {"adaptation": 0.6, "tau_adaptation": 3.0}, ()),
    "SynapticLIF": (synaptic, {"synaptic_decay": 0.4, "decay": 0.7}, ()),
    "QIF": (
        spiking(quadratic),
        {"tau": 2.5, "v_rest": -0.1, "v_critical": 0.6, "a0": 0.9},
        (),
    ),
    "EIF": (
        spiking(exponential),
        {"tau": 2.5, "v_rest": -0.1, "theta_rh": 0.6, "delta_t": 0.8},
        (),
    ),
    "Izhikevich": (
        izhikevich,
        {
            "tau": 2.5,
            "v_rest": -0.1,
            "v_critical": 0.6,
            "a0": 0.9,
            "tau_w": 3.0,
            "a": 0.2,
            "b": 0.1,
        },
        (),
    ),
    "KLIF": (klif, LEAK | {"scale_reset": True}, ("k",)),
    "ILIF": (
        integer,
        {"tau": 1.75, "decay_input": False, "max_spikes": 3, "normalize": True},
        (),
    ),
    "TernaryIF": (ternary(lambda p, v, x: v + x), {}, ()),
    "TernaryLIF": (ternary(lif), {"tau": 1.25, "decay_input": True}, ()),
    "CLIF": (complementary, {"tau": 1.75, "decay_input": False}, ()),
    "GLIF": (gated, {"threshold": 0.4, "parameter_shape": "scalar"}, ()),
    "ResonateAndFire": (resonating, {"b": -0.3, "omega": 0.9}, ()),
    "LIAF": (analog, LEAK | {"activation": "relu", "above_threshold": True}, ()),
    "SEAdLIF": (
        oscillating,
        {
            "tau_range": (1.0, 3.0),
            "tau_adaptation_range": (3.0, 9.0),
            "a_range": (0.1, 0.6),
            "b_range": (0.2, 1.0),
            "strength": 1.5,
            "parameter_shape": "scalar",
            "threshold": 0.3,
        },
        (),
    ),
    "TwoCompartmentLIF": (
        two_compartments,
        {"feedback": 0.3, "coupling": 0.6, "gamma": 0.4},
        (),
    ),
    "LeakyIntegrator": (silent(lif), LEAK, ()),
    "Accumulator": (silent(lambda p, v, x: v + x), {}, ()),
}
# Ways to reset of those neurons that have not all.
COMMON_RESETS = ("hard", "soft", "none", None)
RESETS = {"ILIF": ("soft", "none")}
# States behind the membrane potential, which starts at `v_reset`.
ZERO = (
    *("AdaptiveLIF", "SynapticLIF", "Izhikevich", "CLIF", "GLIF", "ResonateAndFire", "SEAdLIF"),
    "TwoCompartmentLIF",
)
STARTS = {"STDBLIF": [998.0], **{name: [0.0] for name in ZERO}}
# Arguments of most neurons that these have not.
WITHOUT = {"GLIF": ("reset", "detach_reset", "v_reset")}


def arguments(name, **changes):
    """Constructor arguments of the neuron `name`: those of the table, and `changes`."""
    spikes = name not in ("LeakyIntegrator", "Accumulator")
    common = COMMON if spikes else {"v_reset": COMMON["v_reset"]}
    given = common | NEURONS[name][1] | changes
    if given.get("reset") not in RESETS.get(name, COMMON_RESETS):
        given |= {"reset": RESETS[name][0]}
    return {key: value for key, value in given.items() if key not in WITHOUT.get(name, ())}


def initial(name, given):
    """The first value of each weight of a neuron with these arguments."""
    values = {"w": lambda: -math.log(given["tau"] - 1), "k": lambda: 1.0}
    return {weight: values[weight]() for weight in NEURONS[name][2]}


def simulate(name, x, upstream, given, weights=(), initial_state=None):
    """A neuron over a sequence, and the gradient of `sum(upstream * output)`.

    Args:
        name: A key of `NEURONS`.
        x: Currents, `(batch, time, features)`.
        upstream: Gradient to the outputs, of the same shape.
        given: What `arguments` returns.
        weights: Scalars to differentiate to beside the currents: `{"threshold": 0.8, "w": 0.1}`.
        initial_state: Optional list of arrays `(batch, features)`.

    Returns:
        `(outputs, states, gradient to x, gradients to the weights)`, float64 arrays.
    """
    x, upstream, weights = np.asarray(x, "float64"), np.asarray(upstream, "float64"), dict(weights)
    batch, steps, features = x.shape
    directions = np.eye(steps + len(weights))[:, :, None, None]
    learned = {
        weight: Dual(value, directions[steps + i])
        for i, (weight, value) in enumerate(weights.items())
    }
    parameters = given | initial(name, given) | learned
    if initial_state is None:
        starts = [given.get("v_reset", 0.0), *STARTS.get(name, [])]
        initial_state = [np.full((batch, features), start) for start in starts]
    states = [Dual(state, np.zeros((len(directions), batch, features))) for state in initial_state]
    outputs, gradient = [], 0
    for t in range(steps):
        output, *states = NEURONS[name][0](parameters, Dual(x[:, t], directions[t]), *states)
        outputs.append(output.value)
        gradient = gradient + output.slope * upstream[:, t]
    by_weight = dict(zip(weights, gradient[steps:].sum((1, 2))))
    return (
        np.stack(outputs, 1),
        [state.value for state in states],
        np.moveaxis(gradient[:steps], 0, 1),
        by_weight,
    )
