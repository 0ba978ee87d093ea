"""Export to TensorFlow Lite (LiteRT), with a report that compares the file with the model."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np

from keras_snn.export import micro
from keras_snn.export.report import ExportReport
from keras_snn.export.streaming import _litert
from keras_snn.layers import PaddedConv2D
from keras_snn.utils import files
from keras_snn.utils.arguments import check_integer

__all__ = ["to_tflite"]

MODES = ("sequence", "step")
QUANTIZATIONS = (None, "dynamic", "float16", "int8", "int16x8")
TARGETS = ("litert", "tflm")
STATES = ("explicit", "internal")


@dataclasses.dataclass
class Job:
    """What is to be exported, for the process that does it."""

    format: str = "tflite"
    mode: str = "sequence"
    quantize: str | None = None
    target: str = "litert"
    state: str = "explicit"
    timesteps: int | None = None
    samples: int = 32
    modules: tuple = ()


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
            which ranges are taken; needed for `"int8"` and `"int16x8"`.
        target: `"litert"`, or `"tflm"` for microcontrollers (float32 or int8 only).
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
    _check("mode", mode, MODES)
    _check("quantize", quantize, QUANTIZATIONS)
    _check("target", target, TARGETS)
    _check("state", state, STATES)
    calibrated = quantize in ("int8", "int16x8")
    if calibrated and representative_data is None:
        raise ValueError(f"`quantize={quantize!r}` needs `representative_data`, got None.")
    if target == "tflm" and quantize not in (None, "int8"):
        raise ValueError(
            f"Microcontrollers run float32 and int8 files, got `quantize={quantize!r}`."
        )
    if state == "internal" and (mode != "step" or target == "tflm" or calibrated):
        raise ValueError(
            "`state='internal'` is for `mode='step'`, `target='litert'` and weights that are float "
            f"or dynamic, got `mode={mode!r}`, `target={target!r}` and `quantize={quantize!r}`."
        )
    _litert()
    data = {"representative": representative_data, "verify": verify_data}
    job = Job("tflite", mode, quantize, target, state, timesteps, verify_samples)
    return run(model, path, job, data)


def run(model, path, job, data):
    """Has a job done and puts its files in place.

    Args:
        model: The model.
        path: Where the file goes.
        job: A `Job`, with the number of steps as given.
        data: Inputs by name, `"representative"` and `"verify"`; `None` where there are none.

    Returns:
        The `ExportReport`.
    """
    if not getattr(model, "inputs", None):
        raise TypeError(
            f"Only functional and Sequential models that know their inputs can be exported, got "
            f"{model!r}."
        )
    path = files.check_path(path, [f".{job.format}"])
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError("Exports are TensorFlow's work, on any backend: pip install tensorflow")
    job = dataclasses.replace(job, timesteps=_timesteps(model, job.timesteps))
    data = {name: _arrays(model, value, name) for name, value in data.items()}
    with tempfile.TemporaryDirectory() as folder:
        _prepare(model, job, data, folder)
        if keras.backend.backend() == "tensorflow":
            from keras_snn.export import worker

            worker.work(folder)
        else:
            _elsewhere(folder)
        report = ExportReport.from_json(_read(folder, "report.json"))
        _write(folder, path)
    report.path = str(path)
    return report


def _check(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")


def _timesteps(model, given):
    """Steps of a clip, from the argument, the layers or the input; 1 where nothing knows time."""
    layers = list(model._flatten_layers())
    known = {layer.timesteps for layer in layers if hasattr(layer, "timesteps")}
    ours = [x for x in layers if type(x).__module__.startswith("keras_snn.layers")]
    timed = not all(isinstance(layer, PaddedConv2D) for layer in ours)
    if timed and not known and model.inputs[0].shape[1] is not None:
        known = {model.inputs[0].shape[1]}
    if given is not None:
        check_integer("timesteps", given)
        if known and given not in known:
            raise ValueError(f"{model.name!r} has {known.pop()} timesteps, got {given}.")
        return given
    if known:
        return known.pop()
    if timed:
        raise ValueError(
            f"{model.name!r} does not tell its number of steps (input shape "
            f"{model.inputs[0].shape}): give `timesteps`."
        )
    return 1


def _arrays(model, data, name):
    """Data as a list of arrays, one for each input."""
    if data is None:
        return None
    if hasattr(data, "as_numpy_iterator") or hasattr(data, "__next__"):
        batches = [b[0] if isinstance(b, tuple) else b for b in data]
        data = [np.concatenate(parts) for parts in zip(*map(keras.tree.flatten, batches))]
    data = [np.asarray(x, "float32") for x in keras.tree.flatten(data)]
    for x, tensor in zip(data, model.inputs):
        shape = tensor.shape[1:]
        fits = len(x) and x.ndim == len(shape) + 1
        if not fits or any(b not in (None, a) for a, b in zip(x.shape[1:], shape)):
            raise ValueError(f"{name} data must have the shape (n, *{shape}), got {x.shape}.")
    if len(data) != len(model.inputs):
        raise ValueError(f"{name} data must be for {len(model.inputs)} inputs, got {len(data)}.")
    return data


def _prepare(model, job, data, folder):
    """Model, job and data as files."""
    types = {type(layer) for layer in model._flatten_layers()}
    modules = sorted({t.__module__ for t in types} - {"__main__"})
    job.modules = [m for m in modules if m.split(".")[0] not in ("keras", "keras_snn")]
    model.save(os.path.join(folder, "model.keras"))
    arrays = {
        f"{name}_{i}": x for name, xs in data.items() if xs is not None for i, x in enumerate(xs)
    }
    np.savez(os.path.join(folder, "data.npz"), **arrays)
    pathlib.Path(folder, "job.json").write_text(json.dumps(dataclasses.asdict(job)))


def _elsewhere(folder):
    """The work in a process of its own, under TensorFlow."""
    paths = [p for p in sys.path if p]
    environment = os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", "keras_snn.export.worker", folder]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        error = pathlib.Path(folder, "error.json")
        if error.exists():
            kind, message = json.loads(error.read_text())
            kinds = (TypeError, ValueError, ImportError, OSError)
            raise {x.__name__: x for x in kinds}.get(kind, RuntimeError)(message)
        raise RuntimeError(f"The export failed under TensorFlow:\n{run.stderr[-2000:]}")


def _read(folder, name):
    return pathlib.Path(folder, name).read_text()


def _write(folder, path):
    """Puts complete files in place, all of them or none."""
    places = {"model": path}
    places |= {micro.SOURCE: path.with_suffix(".cc"), micro.HEADER: path.with_suffix(".h")}
    places = {pathlib.Path(folder, name): place for name, place in places.items()}
    places = {source: place for source, place in places.items() if source.exists()}
    with files.replacing(*places.values()) as parts:
        for (source, place), part in zip(places.items(), parts):
            blob = source.read_bytes()
            part.write_bytes(blob if place == path else micro.renamed(blob, path))
