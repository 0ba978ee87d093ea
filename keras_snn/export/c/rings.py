"""Finds states that are the last steps of a tensor, which C keeps as rings.

A step that reads what was up to `n` steps ago has these steps as a state: it puts the present one
behind them, and keeps all but the oldest. In a ring the present step is written over the oldest,
and nothing moves. A ring is found by what operations do with memory, `window = [state, x]` and
`state = window[len(x):]`, whatever layer they are of; all else stays a state that moves.
"""

import dataclasses

import numpy as np

from keras_snn.export.c.factors import quantized
from keras_snn.export.c.kernels import INDEXED, WEIGHED, contiguous
from keras_snn.export.c.pointwise import POINTWISE
from keras_snn.export.c.step import ALIASES, Operation

__all__ = ["with_rings"]

SLICES = ("SLICE", "STRIDED_SLICE")


def with_rings(step, first):
    """Makes rings of those states that can be.

    Args:
        step: A `keras_snn.export.c.step.Step`; its operations change.
        first: Values of the states before the first step by name. Those of a ring are all the same.

    Returns:
        A `Step` with the same results. An operation `PUSH` is in the place of those that made a
        window: its input is the present step, its output the window, the oldest step first. Layers
        that weigh steps of a window read them there, without a copy (`Operation.steps`).
    """
    for name in list(step.states):
        if np.ptp(first[name]) == 0:
            step = _with_ring(step, name) or step
    return step


class _Graph:
    """What makes and what reads each tensor, whatever shape it has on the way."""

    def __init__(self, step):
        self.aliases = {
            op.output: op.inputs[0]
            for op in step.operations
            if op.kind in ALIASES and op.inputs[0].data is None
        }
        self.makers = {t: op for op in step.operations for t in op.outputs}
        self.readers = {}
        for op in step.operations:
            if op.output not in self.aliases:
                for tensor in {self.root(t) for t in op.inputs if t is not None}:
                    self.readers.setdefault(tensor, []).append(op)

    def root(self, tensor):
        while tensor in self.aliases:
            tensor = self.aliases[tensor]
        return tensor

    def made(self, tensor, *kinds):
        """The operation that makes a tensor, if it is of one of these kinds."""
        op = self.makers.get(self.root(tensor))
        return op if op is not None and op.kind in kinds else None


def _with_ring(step, name):
    """The step with the state of this name as a ring; `None` if it can't be one."""
    graph, (before, after) = _Graph(step), step.states[name]
    outer = graph.made(after, "DEQUANTIZE")
    shift = graph.made(outer.inputs[0] if outer else after, *SLICES)
    if shift is None:
        return None
    coded = graph.made(shift.inputs[0], "QUANTIZE")
    join = graph.made(coded.inputs[0] if coded else shift.inputs[0], "CONCATENATION")
    if join is None or len(join.inputs) != 2:
        return None
    window, (past, x) = join.output, map(graph.root, join.inputs)
    inner = graph.made(past, "QUANTIZE", "DEQUANTIZE")
    if (
        (graph.root(inner.inputs[0]) if inner else past) is not before
        or x.data is not None
        or x in step.rings.values()
        or np.prod(window.shape[: join.options.axis % len(window.shape)]) != 1
        or window.size % x.size
        or contiguous(shift) != x.size
        or shift.output.size != before.size
    ):
        return None
    # Nothing else reads the state, neither the one before the step nor the one after it.
    path = {before: 1, past: 1, shift.output: int(outer is not None)}
    path |= {outer.output: 0} if outer else {}
    others = [pair[1] for n, pair in step.states.items() if n != name]
    kept = {graph.root(t) for t in (*others, *step.outputs.values())}
    if kept & set(path) or any(len(graph.readers.get(t, [])) != n for t, n in path.items()):
        return None
    reads = [op for op in graph.readers[window] if op is not shift]
    codes = [op.output for op in reads if op.kind == "QUANTIZE"]
    windows, coding = [window], None
    # A code is the code of the number that it stands for, so numbers may pass through a state.
    if inner and inner.kind == "QUANTIZE":
        fits = before.kind == "float32" and _same(past, window) and not coded
    elif window.kind == "float32" and codes and len(codes) == len(reads) and window not in kept:
        # Codes are all that is read of the window: the ring has these.
        windows, coding = codes, codes[0]
        fits = not outer and all(_same(t, coding) for t in [*codes, *([before] if inner else [])])
    else:
        fits = _same(before, window) and not (inner or outer or coded)
    if not fits:
        return None
    ring, operations = windows[0], []
    if coding:
        pushed = dataclasses.replace(coding, shape=x.shape)
        operations.append(Operation("QUANTIZE", [x], [pushed]))
    operations.append(Operation("PUSH", [pushed if coding else x], [ring]))
    steps = {op: _steps(graph, op, windows, x.size) for op in step.operations if op.kind in WEIGHED}
    steps = {op: begins for op, begins in steps.items() if begins}
    reads = {op for t in windows for op in graph.readers.get(t, [])}
    if any(op not in steps and op.kind not in (*POINTWISE, *INDEXED) for op in reads):
        return None
    gone = {join.output, shift.output, *windows, *(op.output for op in (inner, outer) if op)}
    for op in step.operations:
        if op.output in gone:
            continue
        op.inputs = [ring if t in windows else t for t in op.inputs]
        if op in steps:
            some = dataclasses.replace(op.inputs[0])
            operations.append(Operation("STEPS", [ring], [some]))
            op.inputs, op.steps = [some, *op.inputs[1:]], steps[op]
        operations.append(op)
    return dataclasses.replace(
        step,
        operations=operations,
        states={n: pair for n, pair in step.states.items() if n != name},
        rings=step.rings | {name: ring},
    )


def _steps(graph, op, windows, row):
    """Where in a window the steps begin that a layer weighs, side by side as its channels.

    Args:
        graph: A `_Graph`.
        op: A layer.
        windows: Tensors that a window is.
        row: How many values one step has.

    Returns:
        A list; `None` if it reads no window, or otherwise.
    """
    x, kernel = op.inputs[:2]
    dense, channels = op.kind == "FULLY_CONNECTED", op.inputs[0].shape[-1]
    if kernel.data is None:
        return None
    if graph.root(x) in windows:
        if dense and kernel.shape[-1] == x.size:
            return list(range(0, x.size, row))
        channels = kernel.shape[-1] if dense else channels
        return [0] if row % channels == 0 else None
    join, last = graph.made(x, "CONCATENATION"), len(x.shape) - 1
    parts = join.inputs if join else [x]
    if op.kind == "DEPTHWISE_CONV_2D" or channels != sum(t.shape[-1] for t in parts):
        return None
    if join and (join.output.shape != x.shape or join.options.axis % len(x.shape) != last):
        return None
    if kernel.shape[-1] != channels:  # groups
        return None
    slices = [graph.made(part, *SLICES) for part in parts]
    if any(s is None or graph.root(s.inputs[0]) not in windows for s in slices):
        return None
    begins = [contiguous(s) for s in slices]
    whole = all(s.output.size == row and b is not None for s, b in zip(slices, begins))
    return begins if whole else None


def _same(first, second):
    """Whether two tensors have the same numbers for the same codes."""
    if first.kind != second.kind or quantized(first) != quantized(second):
        return False
    alike = np.array_equal(first.scale, second.scale) and first.zero == second.zero
    return alike or not quantized(first)
