"""The project as a newcomer meets it: imports, README, programs."""

import importlib
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
from helpers import SERVER

import keras_snn

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*command):
    """What a new Python process with these arguments does."""
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


def start(folder, function, *arguments):
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY), stream)
    os.chdir(ROOT)
    sys.path.insert(0, "applications")
    function(*arguments)


def in_a_process(function, *arguments):
    """What a new process does that calls a function of this module."""
    with tempfile.TemporaryDirectory() as folder:
        process = SERVER.Process(target=start, args=(folder, function, *arguments))
        process.start()
        process.join()
        found = [pathlib.Path(folder, name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(arguments, process.exitcode, *found)


def run_program(*argv):
    sys.argv = list(argv)
    runpy.run_path(argv[0], run_name="__main__")


def program(name, *flags):
    """What `python applications/NAME.py FLAGS` does."""
    return in_a_process(run_program, f"applications/{name}.py", *flags)


WITHOUT_TENSORFLOW = """
import importlib.machinery, sys

class Absent:
    def find_spec(name, path, target=None):
        if name.startswith("tensorflow"):
            return importlib.machinery.ModuleSpec(name, Absent)

    def create_module(spec):
        if keras_snn is None:
            print("Importing keras_snn imports", spec.name)
        raise ImportError(spec.name)

    exec_module = None  # never reached

keras_snn = None
sys.meta_path.insert(0, Absent)
import keras_snn
import keras, keras_snn.analysis, keras_snn.datasets
assert keras_snn.layers.LIF()(keras.ops.ones((1, 2, 3))).shape == (1, 2, 3)
"""


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX stands for PyTorch too")
def test_import_works_where_tensorflow_is_not_installed():
    found = run("-c", WITHOUT_TENSORFLOW)
    assert (found.stdout, found.stderr) == ("", "")


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="the two others share the work")
def test_readme_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    rng = np.random.default_rng(0)
    model = keras_snn.applications.SEWResNet8(input_shape=(32, 32, 3), classes=10)
    for block in blocks:
        if ("to_tflite" in block) != (keras.backend.backend() == "tensorflow"):
            continue  # exports are TensorFlow's work
        names = {
            "model": model,
            "images": rng.normal(size=(16, 32, 32, 3)).astype("float32"),
            "labels": np.arange(16) % 10,
            "keras": keras,
            "state_dict": {"fc.weight": np.ones((10, 512)), "fc.bias": np.zeros(10)},
        }
        exec(compile(block, "README.md", "exec"), names)


@pytest.mark.once
def test_training_program(tmp_path):
    found = program("train", "--epochs=1", "--timesteps=2", f"--output_dir={tmp_path}")
    assert found.returncode == 0, found.stderr
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["test_accuracy"] == pytest.approx(result["reloaded_test_accuracy"])
    assert result["test_accuracy"] > 0.2
    assert len(result["firing_rates"]) == 9
    assert result["flags"]["timesteps"] == 2
    assert "stack3_block1_neuron2" in found.stdout


@pytest.mark.once
def test_programs_on_what_was_trained(tmp_path):
    model = keras_snn.applications.SEWResNet8(input_shape=(8, 8, 1), classes=10, timesteps=2)
    model.save(tmp_path / "model.keras")
    file = f"--model_file={tmp_path / 'model.keras'}"
    found = program("evaluate", file, f"--json={tmp_path / 'found.json'}")
    assert found.returncode == 0, found.stderr[-2000:]
    read = json.loads((tmp_path / "found.json").read_text())
    assert read["examples"] == 360 and np.sum(read["confusions"]) == 360
    assert read["over_time"]["accuracy"][-1] == pytest.approx(read["top"]["1"])
    found = program("profile", file, f"--output_dir={tmp_path}", "--examples=32")
    assert found.returncode == 0, found.stderr[-2000:]
    assert "as an ANN" in found.stdout and (tmp_path / "profile.json").is_file()
    assert program("evaluate", "--model_file=none.keras").returncode == 1
    assert program("profile").returncode == 1


@pytest.mark.once
def test_conversion_programs(tmp_path):
    flags = (
        *("--width=0.0625", "--epochs=1", "--timesteps=4", "--test_examples=64"),
        *("--image_size=16", f"--output_dir={tmp_path}", "--calibration_examples=64"),
    )
    found = program("convert", *flags, "--method=max,percentile")
    assert found.returncode == 0, found.stderr[-2000:]
    read = json.loads((tmp_path / "conversion.json").read_text())
    assert set(read["methods"]) == {"max", "percentile"}
    assert len(read["methods"]["max"]["test"]["accuracy"]) == 4
    again = program("hybrid", *flags, "--finetune_epochs=1", "--finetune_steps=3")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "Loaded the ANN" in again.stdout and (tmp_path / "hybrid.json").is_file()
    assert program("convert", *flags, "--method=best").returncode == 1


def print_refusals(flags):
    import train
    from absl.testing import flagsaver

    answers = []
    for given in flags:
        with flagsaver.flagsaver():
            try:
                train.main(train.FLAGS(["train", *given]))
            except Exception as error:
                answers.append(str(error))
    print(json.dumps(answers))


@pytest.mark.once
def test_training_program_refuses(tmp_path):
    refused = (
        ["--model=ResNet"],
        ["--neuron=foo"],
        ["--timesteps=0"],
        ["--dataset=no_such_set"],
        ["--connect=and", "--model=SpikingResNet18"],
    )
    found = in_a_process(print_refusals, [[*r, f"--output_dir={tmp_path}"] for r in refused])
    answers = json.loads(found.stdout.splitlines()[-1])
    assert len(answers) == len(refused), found.stderr[-2000:]
    for flags, answer in zip(refused, answers):
        assert flags[-1].split("=")[1] in answer
    assert program("train", *refused[0]).returncode == 1


def print_recipes(name):
    """How many recipes a program has, whose values are all what its flags allow."""
    import recipes
    from absl import flags

    importlib.import_module(name)
    flags.FLAGS([name])
    found = [r for r in recipes.RECIPES.values() if r.get("program", "train") == name]
    for recipe in found:
        for flag, value in recipe.items():
            if flag not in ("about", "program"):
                flags.FLAGS.set_default(flag, value)  # refuses what the flag does not allow
                assert flags.FLAGS[flag].value == value
        assert hasattr(keras_snn.applications, recipe["model"])
    print(len(found))


@pytest.mark.once
@pytest.mark.parametrize(("name", "count"), [("train", 13), ("convert", 1), ("hybrid", 1)])
def test_recipes_are_values_of_flags(name, count):
    found = in_a_process(print_recipes, name)
    assert found.returncode == 0, found.stderr[-2000:]
    assert int(found.stdout) == count


@pytest.mark.once
def test_a_recipe_and_what_overrides_it(tmp_path):
    quick = ("--recipe=digits", "--epochs=2", "--steps_per_epoch=4", "--timesteps=2")
    out = f"--output_dir={tmp_path}"
    more = ("--loss=tet", "--ema=0.5", "--watch", "--clip_norm=1", "--warmup_epochs=1")
    found = program("train", *quick, *more, '--schedules={"alpha": [1, 2]}', out)
    assert found.returncode == 0, found.stderr[-2000:]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["recipe"], config["timesteps"], config["loss"]) == ("digits", 2, "tet")
    assert config["model"] == "SEWResNet8"
    teacher = f"--teacher={tmp_path / 'SEWResNet8_digits.keras'}"
    for more in (
        (
            *(teacher, "--watch", "--label_smoothing=0.1", "--accumulate=2"),
            "--augmentation=shift,mix_up",
        ),
        ("--joint", "--optimizer=sgd", "--schedule=steps", "--patience=1"),
    ):
        found = program("train", *quick, *more, out)
        assert found.returncode == 0, found.stderr[-2000:]
        assert "reloaded, it has test accuracy" in found.stdout
    assert program("train", *quick, teacher, "--loss=tet", out).returncode == 1


@pytest.mark.once
def test_recipes_of_conversion_run_their_program(tmp_path):
    found = program(
        "train",
        "--recipe=spike_norm_vgg16_cifar10",
        *("--dataset=digits", "--normalization=unit", "--augmentation=", "--image_size=16"),
        *("--width=0.0625", "--epochs=1", "--timesteps=4", "--test_examples=64"),
        *("--calibration_examples=32", f"--output_dir={tmp_path}"),
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert (tmp_path / "conversion.json").is_file()
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model"], config["input_coding"]) == ("ConversionVGG16", "poisson")
