"""One step of a network, read from its TensorFlow Lite file: tensors, operations, states."""

import dataclasses
from typing import Any

import numpy as np

from keras_snn.export import flatbuffer

__all__ = ["ALIASES", "Operation", "Step", "Tensor", "graph", "read"]

# Other shapes of the same values, and some steps of a window.
ALIASES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "STEPS")


@dataclasses.dataclass(eq=False)
class Tensor:
    """A tensor.

    Attributes:
        name: As in the file.
        shape: With the batch axis.
        kind: `"float32"`, `"int8"`, ...
        scale: Scales of a quantised tensor, one or one for each channel; `None` of others.
        zero: The code of 0.
        axis: The axis of the channels, where there is a scale for each.
        data: Values of a constant.
    """

    name: str
    shape: tuple
    kind: str
    scale: np.ndarray | None = None
    zero: int = 0
    axis: int = 0
    data: np.ndarray | None = None

    @property
    def size(self):
        """Number of values."""
        return int(np.prod(self.shape))


@dataclasses.dataclass(eq=False)
class Operation:
    """An operation.

    Attributes:
        kind: Its name in TensorFlow Lite.
        inputs, outputs: Tensors; `None` for an optional input that is missing.
        options: What the file says besides.
        padding: Of a convolution: how many rows and columns of zeros are in front of its input, if
            that is not what `options` says.
        steps: Of a layer that weighs steps of a window, where each begins in it; their channels are
            side by side.
    """

    kind: str
    inputs: list
    outputs: list
    options: Any = None
    padding: list | None = None
    steps: list | None = None

    @property
    def output(self):
        """The first output."""
        return self.outputs[0]


@dataclasses.dataclass
class Step:
    """One step.

    Attributes:
        operations: In an order in which they can run.
        inputs, outputs: Tensors by name, without states.
        states: For each state the tensor before and the one after the step, by name.
        rings: For each state that is a ring its window, by name.
    """

    operations: list
    inputs: dict
    outputs: dict
    states: dict
    rings: dict = dataclasses.field(default_factory=dict)


def read(blob, inputs, outputs, states):
    """Reads a file.

    Args:
        blob: Bytes of a TensorFlow Lite file for one step.
        inputs, outputs, states: Names, in the order of the model's.

    Returns:
        A `Step`.
    """
    model, tensors, operations = graph(blob)
    signature = next(s for s in model.signatureDefs if s.subgraphIndex == 0)
    read, written = (
        {m.name.decode(): tensors[m.tensorIndex] for m in maps}
        for maps in (signature.inputs, signature.outputs)
    )
    return Step(
        _padded(operations),
        {name: read[name] for name in inputs},
        {name: written[name] for name in outputs},
        {name: (read[name], written[f"{name}_out"]) for name in states},
    )


def graph(blob):
    """The first graph of a file.

    Returns:
        `(model, tensors, operations)`: the file in TensorFlow Lite's schema, its `Tensor`s, and its
        `Operation`s in order.
    """
    model, names = flatbuffer.read(blob)
    found = model.subgraphs[0]
    tensors = [_tensor(model, tensor) for tensor in found.tensors]
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    operations = [
        Operation(
            codes[op.opcodeIndex],
            [tensors[i] if i >= 0 else None for i in op.inputs],
            [tensors[i] for i in op.outputs],
            op.builtinOptions,
        )
        for op in found.operators
    ]
    return model, tensors, operations


def _tensor(model, tensor):
    q, data = tensor.quantization, model.buffers[tensor.buffer].data
    shape = () if tensor.shape is None else tuple(map(int, tensor.shape))
    kind = flatbuffer.TYPES.get(tensor.type, str(tensor.type))
    found = Tensor(tensor.name.decode(), shape, kind)
    if q is not None and q.scale is not None and len(q.scale):
        found.scale, found.zero = np.asarray(q.scale, "float32"), int(q.zeroPoint[0])
        found.axis = int(q.quantizedDimension)
    if data is not None and len(data):
        found.data = np.frombuffer(bytes(data), kind).reshape(shape)
    return found


def _padded(operations):
    """Convolutions read what is in front of a padding by zeros, and pad themselves."""
    made = {op.output: op for op in operations}
    for op in operations:
        before = made.get(op.inputs[0])
        if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or getattr(before, "kind", "") != "PAD":
            continue
        (_, *widths, channels), valid = before.inputs[1].data, op.options.padding == 1
        if valid and not channels.any() and not before.inputs[1].data[0].any():
            op.inputs[0] = before.inputs[0]
            op.padding = [int(width[0]) for width in widths]
    return operations
