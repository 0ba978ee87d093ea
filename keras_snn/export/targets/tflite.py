"""Export to TensorFlow Lite (LiteRT), with a report that compares the file with the model."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

from keras_snn.export import flatbuffer, micro, trial
from keras_snn.export.c.describe import describe
from keras_snn.export.job import run
from keras_snn.export.lowering import INTEGERS
from keras_snn.export.streaming import StreamingInterpreter
from keras_snn.export.targets import MODES, Job, Target, check
from keras_snn.layers import ILIFCell
from keras_snn.qat import state_bits

__all__ = ["TARGET", "TFLite", "check_data", "convert", "to_tflite"]

QUANTIZATIONS = (None, "dynamic", "float16", "int8", "int16x8")
TARGETS = ("litert", "tflm")
STATES = ("explicit", "internal")
# Quantisations whose ranges are taken from data.
CALIBRATED = ("int8", "int16x8")


def to_tflite(
    model,
    path,
    mode="sequence",
    quantize=None,
    representative_data=None,
    target="litert",
    state="explicit",
    verify_data=None,
    timesteps=None,
    verify_samples=32,
):
    """Writes a model as a TensorFlow Lite file, and proves that it computes what the model does.

    Built-in operations only, batch 1, a fixed number of steps. On the JAX and PyTorch backends the
    work is done by TensorFlow in another process; the file is the same.

    Inputs and outputs have the names of the model's, states those of their layers and cells, all as
    letters, digits and `_`: `block/lif/membrane` is `block_lif_membrane`, of the second call of a
    layer `block_1_lif_membrane`. Names that would be equal get numbers; the report's `names` tells
    what each stands for. A stateful model starts each clip from its first states.

    Args:
        model: A functional or Sequential model of Keras and keras_snn layers.
        path: Where to write the file, `.tflite`; an existing one is replaced once the new one is
            complete. With `target="tflm"` a C array and header of the same name are written beside
            it.
        mode: `"sequence"`: a whole clip (or image) in, the answer out. `"step"`: one step in,
            states in and out, with the signatures `step` and `reset`; after T steps the output is
            that of the clip.
        quantize: `None` (float32), `"dynamic"` (int8 weights), `"float16"` (weights), `"int8"`
            (all), `"int16x8"` (int16 activations, int8 weights).
        representative_data: Inputs as for `model.predict`, at least a few dozen examples, from
            which ranges are taken; needed for `"int8"` and `"int16x8"`, but not of a model of
            `keras_snn.qat.prepare`, which has its ranges: for `"int8"` those of `state_bits=8`, for
            `"int16x8"` those of `state_bits=16`.
        target: `"litert"`, or `"tflm"` for microcontrollers (float32, int8, or prepared int16x8).
        state: In step mode, whether states are inputs and outputs (`"explicit"`) or kept in the
            file's own variables (`"internal"`).
        verify_data: Inputs to compare with; by default the representative data, else noise.
        timesteps: Number of steps where the model does not tell it.
        verify_samples: Examples to compare at most.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If an argument is invalid or missing, the model does not tell its shapes, or no
            file can be written to `path`, see `keras_snn.utils.files.check_path`.
        TypeError: If the model has a layer that can't be exported; it is named.
        RuntimeError: If TensorFlow's converter fails, or the runtime can't run the file, because
            layers never fire say; no file is left.
        OSError: If a file can't be written; those that were there stay.
        ImportError: If TensorFlow or the extra `export` is not installed.

    Example:

    ```python
    report = keras_snn.export.to_tflite(model, "model.tflite", quantize="dynamic")
    print(report)
    ```
    """
    options = {"quantize": quantize, "target": target, "state": state}
    check("mode", mode, MODES)
    check("quantize", quantize, QUANTIZATIONS)
    check("target", target, TARGETS)
    check("state", state, STATES)
    check_data(model, quantize, representative_data)
    calibrated = quantize in CALIBRATED
    prepared = quantize in CALIBRATED and state_bits(model) > 0
    if target == "tflm" and quantize not in (None, "int8") and not prepared:
        raise ValueError(
            "Microcontrollers run float32 and int8 files, and int16x8 of models of "
            f"`keras_snn.qat.prepare`, got `quantize={quantize!r}`."
        )
    if state == "internal" and (mode != "step" or target == "tflm" or calibrated):
        raise ValueError(
            "`state='internal'` is for `mode='step'`, `target='litert'` and weights that are float "
            f"or dynamic, got `mode={mode!r}`, `target={target!r}` and `quantize={quantize!r}`."
        )
    flatbuffer.litert()
    data = {"representative": representative_data, "verify": verify_data}
    job = Job("tflite", mode, timesteps, verify_samples, options)
    return run(model, path, job, data)


def check_data(model, quantize, representative_data):
    """Raises a `ValueError` if there is nothing that ranges could be taken from."""
    if quantize not in CALIBRATED:
        return
    bits, wanted = state_bits(model), 8 if quantize == "int8" else 16
    if bits and bits != wanted:
        raise ValueError(
            f"`quantize={quantize!r}` is for models of `prepare(..., state_bits={wanted})`, "
            f"got one with `state_bits={bits}`."
        )
    if representative_data is None and not bits:
        raise ValueError(f"`quantize={quantize!r}` needs `representative_data`, got None.")


class TFLite(Target):
    """TensorFlow Lite files, for LiteRT or microcontrollers."""

    suffix = ".tflite"

    def convert(self, program, probe=False):
        return convert(program, probe)

    def check(self, program, blob, probe):
        options = program.job.options
        flatbuffer.check(blob, options["state"] == "internal", options["target"] == "tflm")
        return {"arena_bytes": _tried(program, blob, probe), **describe(blob)}

    def runners(self, program, blob):
        kinds = {"XNNPACK": True, "built-in": False}
        return {name: StreamingInterpreter(blob, kind) for name, kind in kinds.items()}

    def companions(self, program, blob, report):
        if program.job.options["target"] != "tflm":
            return {}
        source, header = micro.c_array(blob, report, program.job.stem)
        return {".cc": source.encode(), ".h": header.encode()}


TARGET = TFLite()


def _tried(program, blob, probe):
    """Has runtimes try files that they may abort on; bytes of Micro's arena, if it says so.

    LiteRT and Micro abort their process where a quantised scale is out of their bounds, which
    happens where something is zero in all examples.
    """
    options = program.job.options
    trials = {"probe": "litert", "model": "litert"} if options["quantize"] in CALIBRATED else {}
    trials |= {"micro": "micro"} if options["target"] == "tflm" else {}
    if not trials:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", trial.__file__]
        for name, runtime in trials.items():
            path = pathlib.Path(folder, name)
            path.write_bytes(probe if name == "probe" else blob)
            command += [runtime, str(path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    if run.returncode:
        silent = _silent(program)
        raise RuntimeError(
            f"{RUNTIMES[run.stdout.split()[-1]]} can't run the file. "
            + (
                f"Layers never fire in the data that ranges are taken from: {', '.join(silent)}. "
                "Train the network first, or give data on which its neurons fire."
                if silent
                else f"It has operations that there are not with `quantize={options['quantize']!r}`"
                ": choose another one."
            )
        ) from RuntimeError(f"The runtime ended with code {run.returncode}:\n{run.stderr[-2000:]}")
    found = re.search(r"Arena allocation total (\d+)", run.stderr)
    return int(found[1]) if found else None


RUNTIMES = {"litert": "LiteRT", "micro": "TensorFlow Lite Micro"}


def _silent(program):
    """Names of the layers without a spike in examples that ranges are taken from."""
    examples = program.representative[: program.job.samples]
    spikes = [program.reference(example)[1] for example in examples]
    fired = [sum(float(layer.sum()) for layer in layers) for layers in zip(*spikes)]
    return [name for name, count in zip(program.spike_names, fired) if not count]


def convert(program, probe):
    """A file of a `keras_snn.export.worker.Program`; with `probe`, one that gives spikes too."""
    import tensorflow as tf

    job, options = program.job, program.job.options
    inside = options["state"] == "internal"
    floor = options["target"] == "litert" and options["quantize"] not in CALIBRATED
    cells = [getattr(call.layer, "cell", None) for call in program.trace.calls]
    grids = options["quantize"] in CALIBRATED and state_bits(program.model) > 0
    rounds = options["quantize"] == "int8" and any(isinstance(c, ILIFCell) for c in cells)
    forms = {"floor": floor, "rounds": rounds, "grids": grids, "gathers": options["target"] != "c"}
    module, signatures = program.module(probe, inside, **forms)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        _quantize(converter, program, signatures, grids)
        converter.experimental_enable_resource_variables = inside
        converter._experimental_calibrate_only = rounds
        try:
            blob = converter.convert()
            if rounds:
                blob = _with_integers(blob)
        except Exception as error:
            raise RuntimeError(
                f"TensorFlow's converter can't write {program.model.name!r} with `quantize="
                f"{options['quantize']!r}`: it has no such form of one of the operations."
            ) from error
    if options["quantize"] == "int16x8":
        blob = flatbuffer.with_float_constants(flatbuffer.with_int64_biases(blob))
    if inside:
        blob = flatbuffer.main_first(blob, "step")
    elif job.mode == "step" and options["target"] == "litert":
        blob = flatbuffer.with_reset(blob, program.states())
    return flatbuffer.with_sum(blob)


def _quantize(converter, program, signatures, grids):
    import tensorflow as tf

    quantize, sets = program.job.options["quantize"], tf.lite.OpsSet
    if quantize is None:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize in CALIBRATED and not grids:
        converter.representative_dataset = lambda: _ranges(program, signatures)
    if quantize == "int8":
        if not grids:
            converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    if quantize == "int16x8" and grids:
        converter.inference_input_type = converter.inference_output_type = tf.int16
    elif quantize == "int16x8":
        both = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [both, sets.TFLITE_BUILTINS]


def _with_integers(blob):
    """The file with calibrated ranges, quantised so that integer spikes are exact in int8."""
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    blob = flatbuffer.with_exact_integers(blob, INTEGERS, 255)
    return mlir_quantize(blob, input_data_type=tf.int8, output_data_type=tf.int8)


def _ranges(program, signatures):
    """Inputs that ranges are taken from; for one step, with the states as they run."""
    ((key, function),) = signatures.items()
    for example in program.representative[:RANGE_EXAMPLES]:
        states = program.states()
        for frame in program.frames(example):
            yield key, frame | states
            if states:
                outputs = function(**{n: _tensor(x) for n, x in (frame | states).items()})
                states = {n: outputs[f"{n}_out"].numpy() for n in states}


# Ranges settle long before all examples of a data set are seen.
RANGE_EXAMPLES = 128


def _tensor(x):
    import tensorflow as tf

    return tf.constant(x, tf.float32)
