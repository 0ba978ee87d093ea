"""What a TensorFlow Lite file spends: devices do every multiplication, whatever is 0."""

import collections
import math
import pathlib

from keras_snn.analysis import energy
from keras_snn.analysis.energy import MEMORY
from keras_snn.analysis.profiles import LayerProfile, Profile
from keras_snn.export import flatbuffer
from keras_snn.utils.arguments import check_choice, check_integer

__all__ = ["profile_file"]

_MULTIPLIES = "MUL SQUARE SQUARED_DIFFERENCE DIV"
_ADDS = (
    "ADD ADD_N SUB SUM MEAN AVERAGE_POOL_2D CUMSUM NEG ABS SIGN FLOOR CEIL ROUND RELU RELU6 "
    "RELU_0_TO_1 RELU_N1_TO_1 MAXIMUM MINIMUM MAX_POOL_2D REDUCE_MAX REDUCE_MIN REDUCE_ANY "
    "REDUCE_ALL EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND LOGICAL_OR "
    "LOGICAL_NOT SELECT SELECT_V2 ARG_MAX ARG_MIN"
)
_MOVES = (
    "RESHAPE SPLIT SPLIT_V CONCATENATION PACK UNPACK TRANSPOSE SLICE STRIDED_SLICE GATHER PAD "
    "PADV2 SQUEEZE EXPAND_DIMS TILE BROADCAST_TO FILL SHAPE CAST QUANTIZE DEQUANTIZE ZEROS_LIKE "
    "REVERSE_V2 SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND SPACE_TO_DEPTH DEPTH_TO_SPACE "
    "RESIZE_NEAREST_NEIGHBOR DYNAMIC_UPDATE_SLICE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE "
    "CALL_ONCE"
)
# Operations on each entry by name: `(multiplications, additions)`; comparisons count as additions.
_EACH = {
    **dict.fromkeys(_MULTIPLIES.split(), (1, 0)),
    **dict.fromkeys(_ADDS.split(), (0, 1)),
    **dict.fromkeys(_MOVES.split(), (0, 0)),
}

# Figures of a layer by the types of what it multiplies. Horowitz has none of int16 times int8.
_FIGURES = {
    ("float32", "float32"): "45nm-float32",
    ("float32", "float16"): "45nm-float32",
    ("float16", "float16"): "45nm-float16",
    ("float32", "int8"): "45nm-int8",  # quantised while it runs
    ("int8", "int8"): "45nm-int8",
    ("int16", "int8"): "45nm-int32",
    ("int16", "int16"): "45nm-int32",
}


def _connected(name, inputs, output):
    """Input, weights and dense multiply-accumulates of a layer; `None` if it is none."""
    if name == "FULLY_CONNECTED":
        x, w = inputs[:2]
        return x, w, math.prod(output[1]) * w[1][-1]
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        x, w = inputs[:2]
        return (
            x,
            w,
            math.prod(output[1]) * math.prod(w[1][1:3]) * (w[1][3] if name == "CONV_2D" else 1),
        )
    if name == "CONV_3D":
        x, w = inputs[:2]
        return x, w, math.prod(output[1]) * math.prod(w[1][:4])
    if name == "TRANSPOSE_CONV":
        w, x = inputs[1:3]
        return x, w, math.prod(x[1]) * math.prod(w[1][:3])
    if name == "BATCH_MATMUL":
        x, w = inputs[:2]
        shared = math.prod(x[1][-2:]) * math.prod(w[1][-2:]) / math.prod(output[1][-2:])
        return x, w, math.prod(output[1]) * round(shared**0.5)
    return None


def profile_file(path, timesteps=1, memory="sram-45nm") -> Profile:
    """What a TensorFlow Lite file spends, as `to_tflite` writes them.

    Devices do every multiplication, so that no zero saves anything: spikes are charged as values.
    Each layer is charged by the figures of its own types; operations on each entry, which are what
    neurons are made of there, by their kind: a comparison as an addition. What moves data costs
    memory accesses only.

    Args:
        path: The file.
        timesteps: How often it runs for an example: 1 of a file for whole clips, the number of
            steps of a file for one step.
        memory: Name of the figures of memory accesses, see `MEMORY`.

    Returns:
        A `Profile`, whose `uncharged` are operations that nobody knows the cost of.

    Raises:
        ValueError: If it is no such file, or damaged, or an argument is invalid.
        FileNotFoundError: If there is no such file.
        ImportError: If the extra `export` is not installed.

    Example:

    ```python
    keras_snn.export.to_tflite(model, "model.tflite", "step", "int8", images)
    print(analysis.profile_file("model.tflite", timesteps=4))
    ```
    """
    check_choice("memory", memory, MEMORY)
    check_integer("timesteps", timesteps)
    path = pathlib.Path(path).expanduser()
    layers, each, uncharged = [], {}, collections.Counter()
    for name, inputs, (output, *_) in _operations(path):
        connected = _connected(name, inputs, output)
        if connected is not None:
            layers.append(_layer(name, *connected, inputs, output, timesteps))
        elif name in _EACH:
            each.setdefault((name, output[2]), []).append((inputs, output))
        else:
            uncharged[name] += 1
    layers += [_entries(*key, calls, timesteps) for key, calls in each.items()]
    return Profile(
        path.name,
        tuple(layers),
        examples=1,
        ann_macs=0.0,
        energy_table="45nm-float32",
        memory_table=memory,
        uncharged=tuple(f"{count} {name}" for name, count in uncharged.items()),
    )


def _operations(path):
    blob = path.read_bytes()
    try:
        flatbuffer.check_sum(blob)
        return flatbuffer.operations(blob)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is damaged, or no TensorFlow Lite file: {error}") from error


def _layer(name, x, w, macs, inputs, output, steps):
    parameters = sum(math.prod(shape) for _, shape, _, constant in inputs if constant)
    sizes = [math.prod(t[1]) for t in (x, output)]
    work = energy.product_of_values(macs, *sizes, math.prod(w[1]), steps, "CONV" in name)
    if len(inputs) > 2 and inputs[-1][3]:
        work += energy.bias(sizes[1], math.prod(inputs[-1][1]), steps)
    return LayerProfile(
        output[0], name, output[1], parameters, macs, steps,
        macs_spent=macs * steps, fixed=work, figures=_FIGURES.get((x[2], w[2]), "45nm-float32"),
    )  # fmt: skip


def _entries(name, kind, calls, steps):
    """All operations of one kind that work on each entry, in one row."""
    multiplies, adds = _EACH[name]
    work = energy.Work()
    for inputs, output in calls:
        sizes = [math.prod(shape) for _, shape, _, _ in [*inputs, output]]
        count = steps * max(sizes)
        what = ["inputs"] * len(inputs) + ["outputs"]
        accesses = tuple((w, steps * size, size) for w, size in zip(what, sizes))
        work += energy.Work(multiplies * count, adds * count, accesses=accesses)
    figures = _FIGURES.get((kind, kind), "45nm-int32")
    return LayerProfile(
        f"{len(calls)} {name}", name, (), 0, steps=steps, fixed=work, figures=figures
    )
