"""Export to C: one source and one header, without dependencies."""

import ctypes
import pathlib
import re
import shutil
import subprocess
import tempfile
import weakref

import numpy as np

from keras_snn.export import flatbuffer
from keras_snn.export.c.describe import describe
from keras_snn.export.c.rings import with_rings
from keras_snn.export.c.step import read
from keras_snn.export.c.writer import write
from keras_snn.export.job import run
from keras_snn.export.streaming import Runner, StreamingInterpreter, real, stored
from keras_snn.export.targets import Job, Target, check
from keras_snn.export.targets.tflite import check_data, convert

__all__ = ["TARGET", "C", "CRunner", "to_c"]

QUANTIZATIONS = (None, "int8", "int16x8")


def to_c(
    model,
    path,
    quantize=None,
    representative_data=None,
    verify_data=None,
    timesteps=None,
    verify_samples=32,
):
    """Writes a model as C source: one step, with its states in static memory.

    `NAME.c` and `NAME.h` have two functions, `NAME_reset()` and `NAME_step(inputs, outputs)`. They
    are C99, call nothing but the standard library, and allocate no memory. After the steps of a
    clip the outputs are those of the clip. What is computed is the step of
    `to_tflite(model, path, "step", quantize)`, with integers by the arithmetic of TensorFlow Lite's
    reference kernels; few outputs differ by one step of their scale. The last steps that delays
    read are in rings, and a `DelayedDense` weighs them as a dense layer does. Weights that are 0
    are left out where that takes fewer bytes (`report.weights`); the results are the same.

    Args:
        model: A functional or Sequential model of Keras and keras_snn layers.
        path: Where to write the source, `.c`, or the name without it; the header goes beside it.
            Existing files are replaced once the new ones are complete.
        quantize: `None` (float32), or `"int8"`: integers alone, int8 weights and potentials, sums
            in int32; or `"int16x8"`: int8 weights, int16 currents and potentials, sums in int64; as
            in TensorFlow Lite's file, comparisons, states, inputs and outputs are in float32.
        representative_data: Inputs as for `model.predict`, at least a few dozen examples, from
            which ranges are taken; needed for both, but for `"int8"` of a model of
            `keras_snn.qat.prepare`.
        verify_data: Inputs to compare with; by default the representative data, else noise.
        timesteps: Number of steps where the model does not tell it.
        verify_samples: Examples to compare at most.

    Returns:
        An `ExportReport`: `bytes` are those of the constants, `arena_bytes` those of all memory,
        `state_bytes` those of the states in it. The source is compiled and run for it where there
        is a C compiler (`cc` or `gcc`); where there is none, TensorFlow Lite runs in its place, and
        a warning says so.

    Raises:
        ValueError: If an argument is invalid or missing, or no file can be written to `path`.
        TypeError: If the model has a layer that can't be exported; it is named.
        RuntimeError: If TensorFlow's converter or the C compiler fails; no file is left.
        OSError: If a file can't be written; those that were there stay.
        ImportError: If TensorFlow or the extra `export` is not installed.

    Example:

    ```python
    report = keras_snn.export.to_c(model, "net.c", "int8", representative_data=images)
    print(report)
    ```
    """
    check("quantize", quantize, QUANTIZATIONS)
    check_data(model, quantize, representative_data)
    flatbuffer.litert()
    path = pathlib.Path(path)
    path = path if path.suffix else path.with_suffix(".c")
    options = {"quantize": quantize, "target": "c", "state": "explicit"}
    data = {"representative": representative_data, "verify": verify_data}
    return run(model, path, Job("c", "step", timesteps, verify_samples, options), data)


class C(Target):
    """C source, made of the file that TensorFlow Lite runs for one step."""

    suffix = ".c"

    def convert(self, program, probe=False):
        return convert(program, probe)

    def check(self, program, blob, probe):
        found, facts = _written(program, blob), flatbuffer.describe(blob)
        _, inputs, outputs = described(found.header)
        return {
            "bytes": found.rom,
            "arena_bytes": found.ram,
            "state_bytes": found.states,
            "operations": facts["operations"],
            "quantization": facts["quantization"],
            "inputs": inputs,
            "outputs": outputs,
            "weights": [{"name": _layer(program, op), **row} for op, row in found.stored.items()],
            **describe(blob),
        }

    def runners(self, program, blob):
        if compiler():
            found, stem = _written(program, blob), program.job.stem
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, f"{stem}.c")
                path.write_text(found.source)
                path.with_suffix(".h").write_text(found.header)
                runner = CRunner(path)
        else:
            blob = flatbuffer.with_reset(blob, program.states())
            runner = StreamingInterpreter(blob, xnnpack=False)
        return {"XNNPACK": runner, "built-in": runner}

    def companions(self, program, blob, report):
        found = _written(program, blob)
        if not compiler():
            report.warnings.append("no C compiler here: the source was not run")
        return {".c": found.source.encode(), ".h": found.header.encode()}


TARGET = C()


# Sources by program and file: a job asks for each several times.
SOURCES = weakref.WeakKeyDictionary()


def _written(program, blob):
    """The source of a file."""
    known = SOURCES.setdefault(program, {})
    if blob not in known:
        known[blob] = _write(program, blob)
    return known[blob]


def _write(program, blob):
    outputs = [*program.output_names]
    names = {m.name.decode() for s in flatbuffer.read(blob)[0].signatureDefs for m in s.outputs}
    outputs += [name for name in program.probe_names if name in names]
    states = list(program.state_names.values())
    first = program.states()
    step = with_rings(read(blob, program.input_names, outputs, states), first)
    try:
        return write(step, program.job.stem, first, program.job.timesteps)
    except NotImplementedError as error:
        op, *reason = error.args
        shapes = [t.shape for t in op.inputs if t is not None]
        reason = reason or [f"there is no form of the operation {op.kind} on {shapes} for it"]
        raise TypeError(
            f"The layer {_layer(program, op)} can't be exported to C: {reason[0]}."
        ) from error


def _layer(program, op):
    """The layer that an operation is of, by the names in the file."""
    parts = [part for t in op.outputs for part in t.name.replace(";", "/").split("/")]
    for part in parts:
        for call in program.trace.calls:
            name = getattr(call.layer, "name", "")
            if name and (part == name or part.rpartition("_")[0] == name):
                return f"{call.name} ({type(call.layer).__name__})"
    return f"of the tensor {op.output.name!r}"


def compiler():
    """The command of the C compiler, `None` if there is none."""
    return next(filter(shutil.which, ("cc", "gcc", "clang")), None)


def described(header):
    """What a header tells: the prefix of the functions, and rows of inputs and outputs."""
    prefix = re.search(r"void (\w+)_reset\(void\);", header)[1]
    rows = {"in": [], "out": []}
    for kind, name, dtype, shape in re.findall(r"/\* (in|out)_(\w+): (\w+) ([\dx]+) \*/", header):
        macro = f"{prefix}_{name}".upper()
        numbers = [
            re.search(rf"#define {macro}_{what} (\S+)", header) for what in ("SCALE", "ZERO_POINT")
        ]
        rows[kind].append(
            {
                "name": name,
                "shape": [int(n) for n in shape.split("x")],
                "type": "float32" if dtype == "float" else dtype.removesuffix("_t"),
                "scale": float(numbers[0][1].rstrip("f")) if numbers[0] else 0.0,
                "zero_point": int(numbers[1][1]) if numbers[1] else 0,
            }
        )
    return prefix, rows["in"], rows["out"]


class CRunner(Runner):
    """Runs C source that `to_c` wrote, compiled for this machine.

    Inputs and outputs are float arrays by name; those of quantised files are converted.

    Args:
        path: The source; its header lies beside it.
        flags: Further arguments of the compiler.

    Raises:
        RuntimeError: If the compiler fails.
        ImportError: If there is no C compiler.

    Example:

    ```python
    outputs = keras_snn.export.CRunner("net.c").run(clip)
    ```
    """

    def __init__(self, path, flags=("-O2",)):
        path = pathlib.Path(path).expanduser()
        command = compiler()
        if command is None:
            raise ImportError("Running C source needs a C compiler, `cc`, `gcc` or `clang`.")
        prefix, *rows = described(path.with_suffix(".h").read_text())
        with tempfile.TemporaryDirectory() as folder:
            library = pathlib.Path(folder, "net.so")
            command = [command, "-std=c99", "-shared", "-fPIC", *flags, str(path), "-lm"]
            run = subprocess.run(
                [*command, "-o", str(library)], capture_output=True, text=True, check=False
            )
            if run.returncode:
                raise RuntimeError(f"The C compiler failed:\n{run.stderr[-2000:]}")
            self._library = ctypes.CDLL(str(library))
        self._step = getattr(self._library, f"{prefix}_step")
        self._reset = getattr(self._library, f"{prefix}_reset")
        self._in, self._out = ({row["name"]: _details(row) for row in kind} for kind in rows)
        self._rows = rows
        self.inputs = {name: details["shape"] for name, details in self._in.items()}
        self.reset()

    def reset(self):
        """Sets all states to those before the first step."""
        self._reset()

    def step(self, inputs):
        """One step; see `StreamingInterpreter.step`."""
        inputs = inputs if isinstance(inputs, dict) else {next(iter(self.inputs)): inputs}
        given = [
            np.ascontiguousarray(np.broadcast_to(stored(inputs[n], d), d["shape"]))
            for n, d in self._in.items()
        ]
        outputs = {n: np.empty(d["shape"], d["dtype"]) for n, d in self._out.items()}
        self._step(*(ctypes.c_void_p(x.ctypes.data) for x in (*given, *outputs.values())))
        return {n: real(y, self._out[n]) for n, y in outputs.items()}

    def describe(self):
        """Inputs and outputs."""
        inputs, outputs = self._rows
        empty = {"operations": {}, "quantization": [], "partitions": 0}
        return empty | {"inputs": inputs, "outputs": outputs}


def _details(row):
    """A row as TensorFlow Lite's runtime has it."""
    return {
        "shape": tuple(row["shape"]),
        "dtype": np.dtype(row["type"]),
        "quantization": (row["scale"], row["zero_point"]),
    }
