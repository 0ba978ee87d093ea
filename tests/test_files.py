"""Files are complete or stay as they were, on a full disk too; what is not installed is told."""

import json
import os
import re
import resource
import sys

import keras
import numpy as np
import pytest

from keras_snn import callbacks, datasets, events, export
from keras_snn import layers as snn
from keras_snn.analysis import plot_raster, save_event_animation
from keras_snn.applications.weights.matching import _read
from keras_snn.datasets import augmentation
from keras_snn.datasets.events import readers
from keras_snn.export.job import run
from keras_snn.export.targets import Job
from keras_snn.utils import files

pytestmark = pytest.mark.once


@pytest.fixture
def full_disk():
    """Files of 2 kB at most: larger ones fail as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def network():
    model = keras.Sequential([keras.Input((4, 20)), keras.layers.Dense(99), snn.LIF()])
    model.compile("sgd", "mse")
    return model


def write_nir(path):
    pytest.importorskip("nir", reason="needs the extra `nir`")
    export.to_nir(network(), path)


def write_resume(path):
    resume = callbacks.Resume(path)
    resume.set_model(network())
    resume.set_params({"epochs": 1, "steps": 1, "verbose": 0})
    resume.path.unlink()  # another run's
    resume.on_train_begin()
    path.write_bytes(b"old")
    resume.on_epoch_begin(0)


def write_gif(path):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    save_event_animation(np.random.default_rng(0).uniform(size=(9, 64, 64, 2)), path)


def write_keras(path):
    with files.replacing(path) as (part,):
        network().save(part)


WRITERS = {
    "a.nir": write_nir,
    "a.npz": write_resume,
    "a.gif": write_gif,
    "a.keras": write_keras,
    "a.json": lambda path: files.write(path, json.dumps(list(range(999)))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there(name, full_disk, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"old")
    full_disk()
    with pytest.raises(OSError):
        WRITERS[name](path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [name]


def test_several_files_are_replaced_together(tmp_path):
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    with pytest.raises(KeyError), files.replacing(*paths) as parts:
        parts[0].write_text("new")
        raise KeyError
    assert not os.listdir(tmp_path)
    with files.replacing(*paths) as parts:
        for i, part in enumerate(parts):
            part.write_text(f"new {i}")
            assert part.suffix == ".txt" and not paths[i].exists()
    assert [path.read_text() for path in paths] == ["new 0", "new 1"]
    with pytest.raises(ValueError, match="can't have one path"), files.replacing(*2 * paths[:1]):
        pass


def test_what_a_killed_process_left_goes(tmp_path):
    path, living = tmp_path / "a ü.npz", os.getppid()
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    for process in (dead, living):
        (tmp_path / f".a ü.{process}.npz").touch()
    (tmp_path / f".b.{dead}.npz").touch()
    files.write(path, "new")
    wanted = {f".a ü.{living}.npz", f".b.{dead}.npz", "a ü.npz"}
    assert set(os.listdir(tmp_path)) == wanted


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    files.write("~/a.txt", b"new")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    files.write(tmp_path / "link.txt", "newer")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "a.txt").read_text() == "newer"
    for path, message in (
        (tmp_path, "is not a file"),
        ("/dev/null", "is not a file"),
        (tmp_path / "missing" / "a.txt", "no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            files.write(path, "new")
    with pytest.raises(OSError):
        files.check_path("/proc/a.txt")
    with pytest.raises(ValueError, match=r"end in .nir or .h5, got 'a.txt'"):
        files.check_path("a.txt", [".nir", ".h5"])


@pytest.mark.parametrize("name", ["model.cc", "model.h", "model", "model.keras"])
def test_exports_refuse_other_names_first(name, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra `export`")
    with pytest.raises(ValueError, match="should end in .tflite"):
        export.to_tflite(network(), tmp_path / name, target="tflm")
    with pytest.raises(ValueError, match="should end in .nir"):
        export.to_nir(network(), tmp_path / name)


def damaged(blob):
    flipped = bytearray(blob)
    flipped[len(blob) // 3] ^= 8
    return {"empty": b"", "cut": blob[: len(blob) // 2], "flipped": bytes(flipped), "junk": b"junk"}


def test_damaged_tflite_files(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra `export`")
    from keras_snn.export import flatbuffer

    blob, path = flatbuffer.with_sum(bytes(range(256)) * 40), tmp_path / "a.tflite"
    for content in damaged(blob).values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a.tflite is damaged, or no TensorFlow Lite file"):
            export.StreamingInterpreter(path)
    with pytest.raises(FileNotFoundError):
        export.StreamingInterpreter(tmp_path / "missing.tflite")


def test_damaged_nir_files(tmp_path):
    pytest.importorskip("nir", reason="needs the extra `nir`")
    path = tmp_path / "a.nir"
    export.to_nir(network(), path)
    contents = damaged(path.read_bytes())
    for kind in ("empty", "cut", "junk"):
        path.write_bytes(contents[kind])
        with pytest.raises(ValueError, match="a.nir is no NIR file, or is damaged"):
            export.from_nir(path)


FRAMES = np.zeros((2, 8, 8, 2))
# A module that is not there: what needs it, and what the error tells to install.
MISSING = {
    "matplotlib.pyplot": (lambda path: plot_raster(FRAMES[..., 0]), "keras-snn[plot]"),
    "safetensors.numpy": (lambda path: _read(path / "a.safetensors"), "keras-snn[torch]"),
    "h5py": (lambda path: events.read_shd(path / "a.h5"), "keras-snn[events]"),
    "lz4.frame": (lambda path: readers._unpacking(b"", 1), "keras-snn[events]"),
    "zstandard": (lambda path: readers._unpacking(b"", 3), "keras-snn[events]"),
    "flatbuffers.table": (
        lambda path: readers._flatbuffer(bytes([4, *7 * [0]])),
        "keras-snn[events]",
    ),
    "nir": (lambda path: export.to_nir(network(), path / "a.nir"), "keras-snn[nir]"),
    "onnx": (lambda path: export.to_onnx(network(), path / "a.onnx"), "keras-snn[onnx]"),
    "onnxruntime": (lambda path: export.to_onnx(network(), path / "a.onnx"), "keras-snn[onnx]"),
    "tf2onnx": (lambda path: export.to_onnx(network(), path / "a.onnx"), "keras-snn[onnx]"),
    "ai_edge_litert": (
        lambda path: export.to_tflite(network(), path / "a.tflite"),
        "keras-snn[export]",
    ),
    "tensorflow": (
        lambda path: run(network(), path / "a.tflite", Job("tflite", "step"), {}),
        "pip install tensorflow",
    ),
    "sklearn.datasets": (lambda path: datasets.load("digits"), "keras-snn[data]"),
    "PIL": (
        lambda path: augmentation._operations.__wrapped__(),  # what `auto_augment` has kept
        "keras-snn[data]",
    ),
    "tensorboard": (
        lambda path: callbacks.FiringRates(FRAMES, log_dir=path)._write(0, {}, {}),
        "keras-snn[tensorboard]",
    ),
    "tensorflow_datasets": (lambda path: datasets.load("svhn_cropped"), "tensorflow-datasets"),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_told(name, tmp_path, monkeypatch):
    use, message = MISSING[name]
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "a.h5").touch()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=re.escape(message)):
        use(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.safetensors"]
