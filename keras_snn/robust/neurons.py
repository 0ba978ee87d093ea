"""Bounds of neurons over time.

A step charges, `h = v_rest + decay (v - v_rest) + gain x`, fires and resets. Forward, its bounds
are S-IBP's. Backward, spike and new potential are bounded by linear functions of `h`: `LINES`.
The authors have a hard reset to 0 only; other resets follow from the same lines.

Source: Liang et al. (2022), `liangling76/certify_snn`.
"""

from keras import ops

from keras_snn.layers.base import NeuronCell, SpikingCell
from keras_snn.robust.intervals import ROUNDOFF, Interval
from keras_snn.robust.rule import Rule

__all__ = ["LINES", "NeuronRule"]


class NeuronRule(Rule):
    """That of cells with a `linear_charge` (`IF`, `LIF`, `DecayLIF`, ...), and of integrators."""

    def linear(self, call):
        return not isinstance(call.layer.cell, SpikingCell)

    def refusal(self, call):
        layer = call.layer
        for name in ("stateful", "go_backwards", "return_state"):
            if getattr(layer, name):
                return f"it has `{name}=True`"
        if call.argument("initial_state") is not None:
            return "it takes an `initial_state`"
        if call.each_step:
            return "it runs within each step of a sequence"
        if call.input.shape[1] is None:
            return "its number of steps is unknown"
        neuron = _neuron(layer.cell)
        if neuron is None:
            return f"a {type(layer.cell).__name__} does more than charge linearly, fire and reset"
        slopes = [s for s in neuron[0].slopes(neuron[0].rate) if isinstance(s, (int, float))]
        return "its charge falls where its input rises" if min(slopes, default=0) < 0 else None

    def forward(self, call, rounds):
        layer, x = call.layer, call.input
        charge, fire, threshold = _neuron(layer.cell)
        lower, upper = (ops.cast(b, layer.variable_dtype) for b in (x.lower, x.upper))
        (start,) = layer.cell.initial_states(lower[:, 0])
        v, steps, outputs = Interval(start, start), [], []
        for t in range(x.shape[1]):
            now = Interval(lower[:, t], upper[:, t])
            slack = 0.0
            if rounds:
                size = v.largest + now.largest + abs(charge.v_rest)
                slack = 8 * ROUNDOFF * (size if fire is None else size + threshold)
            h = Interval(
                charge.charge(v.lower, now.lower, charge.rate) - slack,
                charge.charge(v.upper, now.upper, charge.rate) + slack,
                slack,
            )
            spikes, v = (h, h) if fire is None else _step(h, fire, threshold)
            steps.append(h)
            outputs.append(spikes)
        saved = (start, steps)
        if not layer.return_sequences:
            return Interval(outputs[-1].lower, outputs[-1].upper, saved=saved)
        lower, upper = (ops.stack([getattr(o, b) for o in outputs], 1) for b in ("lower", "upper"))
        return Interval(lower, upper, saved=saved)

    def backward(self, call, output, coefficients, lines):
        charge, fire, threshold = _neuron(call.layer.cell)
        start, steps = output.saved
        if call.layer.return_sequences:
            on_outputs = ops.unstack(coefficients, len(steps), axis=2)
        else:
            on_outputs = [ops.zeros_like(coefficients)] * (len(steps) - 1) + [coefficients]
        decay, gain = charge.slopes(charge.rate)
        on_v, on_x, terms = ops.zeros_like(on_outputs[0]), [], []
        for h, on_output in zip(reversed(steps), reversed(on_outputs)):
            on_h, rest = on_output + on_v, ops.zeros_like(on_output)
            if fire is not None:
                on_h, rest = LINES[lines](h, fire, threshold, on_output, on_v)
            rest = rest + (1 - decay) * charge.v_rest * on_h
            terms += [rest, -2 * ops.abs(on_h) * h.slack]
            on_x.append(gain * on_h)
            on_v = decay * on_h
        terms.append(on_v * start)
        return [(call.input, ops.stack(on_x[::-1], axis=2))], terms


def _neuron(cell):
    """`(charge, fire, threshold)` of a cell; without the last two if it never fires."""
    if isinstance(cell, SpikingCell):
        return cell.fused_spec()
    if not isinstance(cell, NeuronCell) or type(cell).step is not NeuronCell.step:
        return None
    charge = cell.linear_charge()
    return charge and (charge, None, None)


def _certain(h, fire, threshold):
    """Where a neuron surely fires, and where it is surely silent."""
    if fire.strict:
        return h.lower > threshold, h.upper <= threshold
    return h.lower >= threshold, h.upper < threshold


def _step(h, fire, threshold):
    """`(spikes, v)`, intervals, of a charged potential; the gradient is the surrogate's."""
    spikes = Interval(*(fire.surrogate(b - threshold, fire.strict) for b in (h.lower, h.upper)))
    fires, silent = _certain(h, fire, threshold)

    def either(fired, unfired, both):
        return ops.where(fires, fired, ops.where(silent, unfired, both))

    if fire.reset == "none":
        return spikes, h
    if fire.reset == "soft":  # what stays below the threshold is below it, what fires at 0 or above
        return spikes, Interval(
            either(h.lower - threshold, h.lower, ops.minimum(h.lower, 0)),
            either(h.upper - threshold, h.upper, ops.maximum(h.upper - threshold, threshold)),
        )
    return spikes, Interval(
        either(fire.v_reset, h.lower, ops.minimum(h.lower, fire.v_reset)),
        either(fire.v_reset, h.upper, ops.maximum(threshold, fire.v_reset)),
    )


def _ratio(x, y, where):
    """`x / y` where it is wanted, else 0, with finite gradients."""
    return ops.where(where, x, 0) / ops.where(where, y, 1)


def _authors(h, fire, threshold, on_spike, on_v):
    """The authors' lines: one for the spike, one for the potential that a spike takes away.

    Args:
        h: The `Interval` of the charged potential, `(batch, ...)`.
        fire: The `Fire` of the neuron.
        threshold: Its threshold.
        on_spike: Coefficients on the spike, `(rows, batch, ...)`.
        on_v: Coefficients on the potential after the step.

    Returns:
        `(on_h, rest)`: the slope and the offset of a linear function of the charged potential
        that is nowhere above `on_spike * spike + on_v * v`.
    """
    fires, silent = _certain(h, fire, threshold)
    unknown = ~(fires | silent)
    on_h = on_v * ops.ones_like(h.lower)
    rest = ops.zeros_like(on_h)
    if fire.reset == "soft":
        on_spike = on_spike - threshold * on_v
    elif fire.reset == "hard":
        # v = h (1 - s) + v_reset s, with m (1 - s) <= h (1 - s) <= threshold (1 - s), m below h
        kept = ops.where(silent, 0, ops.where(on_v >= 0, h.lower, threshold)) * on_v
        kept = ops.where(fires, 0, kept)
        on_spike = on_spike + ops.where(silent, 0, fire.v_reset * on_v - kept)
        on_h, rest = ops.where(silent, on_h, 0), kept
    above, below = h.upper - threshold, threshold - h.lower
    wide = unknown & (above >= below)
    narrow = unknown & (above < below)
    up = on_spike >= 0
    rising = ops.where(wide, _ratio(1.0, above, wide), 0)
    # Lower: (h - threshold) / above, or 0. Upper: 1, or (h - lower) / below.
    falling = _ratio(1.0, below, narrow)
    slope = ops.where(up, rising, falling)
    offset = ops.where(up, -threshold * rising, -h.lower * falling)
    offset = ops.where(fires | (wide & ~up), 1.0, offset)
    return on_h + on_spike * slope, rest + on_spike * offset


def _envelope(h, fire, threshold, on_spike, on_v):
    """A supporting line of what spike and potential together are, ours; as `_authors`.

    As a function of `h`, `on_spike * spike + on_v * v` is two straight pieces, below and above the
    threshold. The convex function below both has a kink at the threshold at most: of its pieces
    the line is the one over the longer side, as the authors choose it.
    """
    fires, silent = _certain(h, fire, threshold)
    unknown = ~(fires | silent)

    def fired(h):
        v = {"hard": fire.v_reset, "soft": h - threshold, "none": h}[fire.reset]
        return on_spike + on_v * v

    first, last = on_v * h.lower, fired(h.upper)
    middle = ops.minimum(on_v * threshold, fired(threshold))
    above, below = h.upper - threshold, threshold - h.lower
    wide = above >= below
    chord = _ratio(last - first, above + below, unknown)
    left = _ratio(middle - first, below, unknown & ~wide)
    right = _ratio(last - middle, above, unknown & wide)
    slope = ops.where(first + chord * below <= middle, chord, ops.where(wide, right, left))
    offset = ops.where(
        first + chord * below <= middle,
        first - chord * h.lower,
        middle - slope * threshold,
    )
    after = 0.0 if fire.reset == "hard" else on_v
    slope = ops.where(fires, after, ops.where(silent, on_v, slope))
    known = ops.where(fires, fired(h.lower) - after * h.lower, 0)
    return slope, ops.where(unknown, offset, known)


# How a neuron's step is bounded by linear functions of the charged potential.
LINES = {"authors": _authors, "envelope": _envelope}
