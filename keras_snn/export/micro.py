"""Files for TensorFlow Lite Micro: a C array and its header."""

from keras_snn.export.names import identifier

__all__ = ["c_array"]

# Methods of `MicroMutableOpResolver` whose names don't follow from the operation's.
METHODS = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "AVERAGE_POOL_2D": "AveragePool2D",
    "MAX_POOL_2D": "MaxPool2D",
    "SELECT_V2": "SelectV2",
}


def c_array(blob, report, stem):
    """A file as a C array, and a header that tells what is in it.

    Args:
        blob: Bytes of the file.
        report: Its `ExportReport`.
        stem: Name of the files, without their suffixes.

    Returns:
        Texts of the source and of the header.
    """
    prefix = identifier(stem)
    rows = "\n".join(
        "  " + " ".join(f"0x{byte:02x}," for byte in blob[i : i + 12])
        for i in range(0, len(blob), 12)
    )
    source = (
        f'#include "{stem}.h"\n\nalignas(16) const unsigned char {prefix}[] = {{\n{rows}\n}};\n'
        f"const unsigned int {prefix}_len = {len(blob)};\n"
    )
    lines = ["#pragma once", "", f"extern const unsigned char {prefix}[];"]
    lines += [f"extern const unsigned int {prefix}_len;", ""]
    for kind, rows in (("INPUT", report.inputs), ("OUTPUT", report.outputs)):
        for i, row in enumerate(rows):
            shape = "x".join(map(str, row["shape"]))
            lines.append(f"// {kind.lower()} {i}: {row['name']}, {row['type']} {shape}")
            name = f"{prefix}_{kind}_" + row["name"].upper()
            lines += [
                f"#define {name} {i}",
                f"#define {name}_SCALE {row['scale']!r}f",
                f"#define {name}_ZERO_POINT {row['zero_point']}",
            ]
    lines += ["", "// First values of the states, in real numbers"]
    for name, value in report.initial_states.items():
        lines.append(f"#define {prefix}_FIRST_{name.upper()} {value!r}f")
    if report.arena_bytes:
        lines += ["", f"#define {prefix}_ARENA_BYTES {report.arena_bytes}"]
    methods = [METHODS.get(op) or op.title().replace("_", "") for op in report.operations]
    lines += ["", f"// tflite::MicroMutableOpResolver<{len(methods)}> resolver;"]
    lines += [f"// resolver.Add{method}();" for method in methods]
    return source, "\n".join(lines) + "\n"
