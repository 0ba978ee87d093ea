"""What a file computes with, for those who write their own hardware."""

from keras_snn.export.c.factors import factors, quantized
from keras_snn.export.c.pointwise import limits
from keras_snn.export.c.step import graph

__all__ = ["describe"]


def describe(blob):
    """Every tensor and operation of a file, with what its integers stand for.

    Args:
        blob: Bytes of a TensorFlow Lite file.

    Returns:
        `tensors` and `arithmetic` of an `ExportReport`, by these names.
    """
    _, tensors, operations = graph(blob)
    places = {tensor: i for i, tensor in enumerate(tensors)} | {None: -1}
    rows = []
    for op in operations:
        row = {
            "operation": op.kind,
            "inputs": [places[tensor] for tensor in op.inputs],
            "outputs": [places[tensor] for tensor in op.outputs],
        }
        found = factors(op)
        if found:
            row["multiplier"], row["shift"] = map(list, zip(*found))
        if found and quantized(op.output):
            row["limits"] = list(limits(op))
        rows.append(row)
    return {"tensors": list(map(_row, tensors)), "arithmetic": rows}


def _row(tensor):
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "type": tensor.kind,
        "constant": tensor.data is not None,
        "scale": [] if tensor.scale is None else tensor.scale.tolist(),
        "zero_point": tensor.zero,
        "axis": tensor.axis,
    }
