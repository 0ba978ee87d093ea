"""Has an export done: by TensorFlow, in another process where it is not Keras's backend."""

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

from keras_snn import graph
from keras_snn.export.report import ExportReport
from keras_snn.export.targets import load
from keras_snn.utils import files
from keras_snn.utils.arguments import check_integer

__all__ = ["clip_timesteps", "run"]


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
    graph.check_functional(model, "An export")
    path = files.check_path(path, [load(job.format).suffix])
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError("Exports are TensorFlow's work, on any backend: pip install tensorflow")
    job = dataclasses.replace(
        job, timesteps=clip_timesteps(model, job.timesteps), stem=path.stem, modules=_modules(model)
    )
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


def clip_timesteps(model, given):
    """Steps of a clip, from the argument, the inputs or the layers; 1 where nothing knows time."""
    if given is not None:
        check_integer("timesteps", given)
    trace = graph.trace(model, given)
    known = {x.shape[1] for x, timed in zip(trace.inputs, trace.timed) if timed}
    known |= {call.output.shape[1] for call in trace.calls if call.timed and call.time == "adds"}
    if None in known:
        raise ValueError(
            f"{model.name!r} does not tell its number of steps (input shapes "
            f"{[tuple(x.shape) for x in model.inputs]}): give `timesteps`."
        )
    if given is not None and known - {given}:
        raise ValueError(f"{model.name!r} has {max(known - {given})} timesteps, got {given}.")
    if len(known) > 1:
        raise ValueError(
            f"{model.name!r} has sequences of {sorted(known)} steps; files take one number."
        )
    return next(iter(known), given or 1)


def _arrays(model, data, name):
    """Data as a list of arrays, one for each input."""
    if data is None:
        return None
    if hasattr(data, "as_numpy_iterator") or hasattr(data, "__next__"):
        batches = [graph.in_order(model, b[0] if isinstance(b, tuple) else b) for b in data]
        data = [np.concatenate(parts) for parts in zip(*batches)]
    data = [np.asarray(x, "float32") for x in graph.in_order(model, data)]
    for x, tensor in zip(data, model.inputs):
        shape = tensor.shape[1:]
        fits = len(x) and x.ndim == len(shape) + 1
        if not fits or any(b not in (None, a) for a, b in zip(x.shape[1:], shape)):
            raise ValueError(f"{name} data must have the shape (n, *{shape}), got {x.shape}.")
    return data


def _modules(model):
    """Modules that define layers of a model and are no part of Keras or keras_snn."""
    found = sorted({type(layer).__module__ for layer in graph.flatten_layers(model)} - {"__main__"})
    return [name for name in found if name.split(".")[0] not in ("keras", "keras_snn")]


def _prepare(model, job, data, folder):
    """Model, job and data as files."""
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
            kind = {x.__name__: x for x in kinds}.get(kind, RuntimeError)
            raise kind(message) from RuntimeError(run.stderr[-2000:])
        raise RuntimeError(f"The export failed under TensorFlow:\n{run.stderr[-2000:]}")


def _read(folder, name):
    return pathlib.Path(folder, name).read_text()


def _write(folder, path):
    """Puts complete files in place, all of them or none."""
    sources = sorted(pathlib.Path(folder).glob("file.*"))
    same = path.suffix.lower()
    places = [path if x.suffix == same else path.with_suffix(x.suffix) for x in sources]
    with files.replacing(*places) as parts:
        for source, part in zip(sources, parts):
            part.write_bytes(source.read_bytes())
