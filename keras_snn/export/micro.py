"""Files for TensorFlow Lite Micro: a C array and its header."""

import re

__all__ = ["c_array", "renamed"]

# Names that the worker's files have until they are put in place.
SOURCE, HEADER, NAME = "model.cc", "model.h", "keras_snn_model"

# Methods of `MicroMutableOpResolver` whose names don't follow from the operation's.
METHODS = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "AVERAGE_POOL_2D": "AveragePool2D",
    "MAX_POOL_2D": "MaxPool2D",
    "SELECT_V2": "SelectV2",
}


def renamed(text, path):
    """Source or header, with the names that a file at `path` should have."""
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    name = f"_{name}" if name[0].isdigit() else name
    text = text.replace(f"{NAME}.h".encode(), f"{path.stem}.h".encode())
    return text.replace(NAME.encode(), name.encode())


def c_array(blob, report):
    """A file as a C array, and a header that tells what is in it.

    Args:
        blob: Bytes of the file.
        report: Its `ExportReport`.

    Returns:
        Texts of the source and of the header.
    """
    rows = "\n".join(
        "  " + " ".join(f"0x{byte:02x}," for byte in blob[i : i + 12])
        for i in range(0, len(blob), 12)
    )
    source = (
        f'#include "{NAME}.h"\n\nalignas(16) const unsigned char {NAME}[] = {{\n{rows}\n}};\n'
        f"const unsigned int {NAME}_len = {len(blob)};\n"
    )
    lines = ["#pragma once", "", f"extern const unsigned char {NAME}[];"]
    lines += [f"extern const unsigned int {NAME}_len;", ""]
    for kind, rows in (("INPUT", report.inputs), ("OUTPUT", report.outputs)):
        for i, row in enumerate(rows):
            shape = "x".join(map(str, row["shape"]))
            lines.append(f"// {kind.lower()} {i}: {row['name']}, {row['type']} {shape}")
            name = f"{NAME}_{kind}_{row['name']}".upper().replace(NAME.upper(), NAME)
            lines += [
                f"#define {name} {i}",
                f"#define {name}_SCALE {row['scale']!r}f",
                f"#define {name}_ZERO_POINT {row['zero_point']}",
            ]
    lines += ["", "// First values of the states, in real numbers"]
    for name, value in report.initial_states.items():
        lines.append(f"#define {NAME}_FIRST_{name.upper()} {value!r}f")
    if report.arena_bytes:
        lines += ["", f"#define {NAME}_ARENA_BYTES {report.arena_bytes}"]
    methods = [METHODS.get(op) or op.title().replace("_", "") for op in report.operations]
    lines += ["", f"// tflite::MicroMutableOpResolver<{len(methods)}> resolver;"]
    lines += [f"// resolver.Add{method}();" for method in methods]
    return source, "\n".join(lines) + "\n"
