"""NIR graphs in float64 by NumPy, node by node as NIR's documentation has them.

A step is one Euler step of `dt`. What comes back through a cycle comes one step later.
"""

import numpy as np

DT = 1e-4


def windows(x, size, stride, dilation, padding):
    """The windows of a map `(channels, ...)`: `(channels, *positions, *size)`."""
    axes = x.ndim - 1
    size, stride, dilation = (np.broadcast_to(v, axes) for v in (size, stride, dilation))
    if isinstance(padding, str):
        total = dilation * (size - 1) * (padding == "same")
        zeros = [(t // 2, t - t // 2) for t in total]
    else:
        zeros = [(p, p) for p in np.broadcast_to(padding, axes)]
    span = tuple(dilation * (size - 1) + 1)
    x = np.pad(x, [(0, 0), *zeros])
    x = np.lib.stride_tricks.sliding_window_view(x, span, tuple(range(1, axes + 1)))
    return x[(slice(None), *(slice(None, None, int(s)) for s in (*stride, *dilation)))]


def convolution(node, x):
    axes = x.ndim - 1
    x = windows(x, node.weight.shape[2:], node.stride, node.dilation, node.padding)
    parts = zip(np.split(x, node.groups), np.split(node.weight.astype("float64"), node.groups))
    over = [1, *range(2, axes + 2)], [0, *range(axes + 1, 2 * axes + 1)]
    found = np.concatenate([np.tensordot(weight, part, over) for part, weight in parts])
    return found + node.bias.reshape(-1, *[1] * axes)


def step(node, x, state):
    """What a node sends of its input in this step; `state` is kept for the next."""
    kind = type(node).__name__
    if kind == "Output":
        return x
    if kind in ("Conv1d", "Conv2d"):
        return convolution(node, x)
    if kind in ("Linear", "Affine"):
        return node.weight.astype("float64") @ x + getattr(node, "bias", 0.0)
    if kind == "Scale":
        return node.scale * x
    if kind == "Threshold":
        return 1.0 * (x > node.threshold)
    if kind in ("AvgPool2d", "SumPool2d"):
        x = windows(x, node.kernel_size, node.stride, 1, node.padding)
        return (np.mean if kind == "AvgPool2d" else np.sum)(x, (-2, -1))
    if kind == "Flatten":
        first, last = node.start_dim % x.ndim, node.end_dim % x.ndim
        return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])
    start = getattr(node, "v_reset", getattr(node, "v_leak", 0.0))
    v = state.get("v", start + np.zeros_like(x))
    if kind.startswith("Cuba"):
        i = state.get("i", np.zeros_like(x))
        x = state["i"] = i + DT / node.tau_syn * (node.w_in * x - i)
    if kind in ("I", "IF"):  # by convention `r` of about 1 is meant for one step
        v = v + node.r * x * (DT if np.max(node.r) > 100 else 1.0)
    else:
        tau = node.tau_mem if kind.startswith("Cuba") else node.tau
        v = v + DT / tau * (node.v_leak - v + node.r * x)
    if not hasattr(node, "v_threshold"):
        state["v"] = v
        return v
    at_threshold = node.metadata.get("fires_at_threshold", False)
    spikes = v >= node.v_threshold if at_threshold else v > node.v_threshold
    state["v"] = np.where(spikes, node.v_reset, v)
    return 1.0 * spikes


def simulate(graph, clips):
    """The outputs of a graph without graphs within it, `(batch, time, ..., channels)` as here."""
    clips = np.moveaxis(np.asarray(clips, "float64"), -1, 2)
    return np.moveaxis(np.array([_one(graph, clip) for clip in clips]), 2, -1)


def _one(graph, clip):
    end = next(name for name, node in graph.nodes.items() if type(node).__name__ == "Output")
    states, before, outputs = {name: {} for name in graph.nodes}, {}, []
    for x in clip:
        now = {name: x for name, node in graph.nodes.items() if type(node).__name__ == "Input"}
        outputs.append(_value(graph, end, now, before, states))
        before = now
    return np.array(outputs)


def _value(graph, name, now, before, states, around=()):
    """What a node sends in this step; `before` is what each sent in the step before."""
    if name in around:
        return before.get(name, 0.0)
    if name not in now:
        sources = [a for a, b in graph.edges if b == name]
        inputs = [_value(graph, a, now, before, states, (*around, name)) for a in sources]
        node = graph.nodes[name]
        total = sum(inputs) + np.zeros(tuple(node.input_type["input"]))
        now[name] = step(node, total, states[name])
    return now[name]
