"""The project as a newcomer meets it: imports, README, programs."""

import ast
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
from absl import app, flags
from absl.testing import flagsaver
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


def print_refusals(name, folder, cases):
    module = importlib.import_module(name)
    os.chdir(folder)
    texts = []
    for given in cases:
        with flagsaver.flagsaver():
            try:
                module.main(module.FLAGS([name, *given]))
                texts.append("")
            except (ValueError, OSError, app.UsageError, flags.Error) as error:
                texts.append(str(error))
    print(json.dumps(texts))


def check_refusals(name, folder, refused, *common):
    """Each `(flags, message)` of `refused` ends a program of `applications` with that message."""
    found = in_a_process(print_refusals, name, folder, [[*common, *given] for given, _ in refused])
    assert found.returncode == 0, found.stderr[-2000:]
    for text, (given, message) in zip(json.loads(found.stdout.splitlines()[-1]), refused):
        assert message in text, (given, text)


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


def imports():
    """The modules of keras_snn that each module imports, within functions too."""
    modules = {}
    for path in (ROOT / "keras_snn").rglob("*.py"):
        *package, name = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(package if name == "__init__" else [*package, name])] = path
    graph = {}
    for module, path in modules.items():
        names = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                names += [name if name in modules else node.module for name in inner]
        graph[module] = set(names) & set(modules)
    return graph


def circles(graph):
    """The groups of nodes that can all reach one another (strongly connected components)."""
    reached = {}
    for start in graph:
        reached[start], ahead = set(), [start]
        while ahead:
            new = graph[ahead.pop()] - reached[start]
            reached[start] |= new
            ahead += new
    groups = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in graph}
    return sorted(group for group in groups if group)


@pytest.mark.once
def test_imports_run_in_no_circle():
    assert circles({1: {2}, 2: {3}, 3: {2, 4}, 4: {4}, 5: {1}}) == [(2, 3), (4,)]
    graph = imports()
    assert "keras_snn.kernels.spec" in graph["keras_snn.layers.base"]
    assert not circles(graph)


PRIVATE = re.compile(
    r"keras\.src|_run_through_graph|\b_functional\b|_flatten_layers|_keras_history|_keras_mask"
    r"|_inbound_nodes|_remat_mode|_assert_input_compatibility|_initial_seed|_loss_tracker"
)


@pytest.mark.once
def test_private_names_of_keras_stand_in_one_file():
    files = {}
    for path in sorted((ROOT / "keras_snn").rglob("*.py")):
        if names := PRIVATE.findall(path.read_text()):
            files[path.relative_to(ROOT / "keras_snn").as_posix()] = sorted(set(names))
    assert {"keras.src", "_keras_history", "_flatten_layers"} < set(files.pop("graph.py"))
    assert files == {}


@pytest.mark.once
def test_code_of_the_extending_page_runs():
    text = (ROOT / "docs" / "extending.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "extending.md", "exec"), names)
    x = np.random.default_rng(0).normal(0.5, 1, (2, 20, 3)).astype("float32")
    fused, plain = (names["GainLIF"](gain=2.0) for _ in range(2))
    plain.use_fused = False
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(n(x)) for n in (fused, plain)))
    assert names["model"].output_shape == (None, 10)


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
    found = program("profile_model", file, f"--output_dir={tmp_path}", "--examples=32")
    assert found.returncode == 0, found.stderr[-2000:]
    assert "as an ANN" in found.stdout and (tmp_path / "profile.json").is_file()
    assert program("evaluate", "--model_file=none.keras").returncode == 1
    assert program("profile_model").returncode == 1


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


@pytest.mark.once
def test_training_program_refuses(tmp_path):
    refused = (
        ["--model=ResNet"],
        ["--neuron=foo"],
        ["--timesteps=0"],
        ["--dataset=no_such_set"],
        ["--connect=and", "--model=SpikingResNet18"],
        ["--options={bad"],
        ["--schedules=[1]"],
        ["--teacher=missing.keras"],
    )
    cases = [(given, given[-1].split("=")[1]) for given in refused]
    check_refusals("train", tmp_path, cases, f"--output_dir={tmp_path}")
    assert program("train", *refused[0]).returncode == 1


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        (
            "train",
            ["--dataset=no_such_set", "--output_dir={}/out"],
            "Unknown data set 'no_such_set'",
        ),
        ("train", ["--output_dir=/proc/no/folder"], "/proc/no"),
        (
            "train",
            ["--recipe=spike_norm_vgg16_cifar10", "--estimate"],
            "--estimate is not for spike_norm_vgg16_cifar10, which runs convert.py",
        ),
        ("evaluate", ["--model_file={}/missing.keras"], "There is no file"),
        ("evaluate", ["--model_file={}/junk.keras"], "junk.keras is no Keras model, or is damaged"),
        ("export", ["--model_file={}/junk.keras"], "junk.keras is no Keras model, or is damaged"),
        ("export", ["--model_file={}/junk.keras", "--output=a.h"], "end in .tflite, got 'a.h'"),
        ("convert", ["--model_file={}/missing.keras", "--output_dir={}"], "There is no file"),
        (
            "hybrid",
            ["--model_file={}/junk.keras", "--output_dir={}"],
            "junk.keras is no Keras model",
        ),
        ("hybrid", ["--dataset=dvs_gesture", "--output_dir={}"], "dvs_gesture has recordings"),
        ("profile_model", ["--model=ResNet", "--output_dir={}"], "'ResNet' is none of"),
    ],
)
def test_what_a_user_can_mend_is_one_line(name, flags, message, tmp_path):
    (tmp_path / "junk.keras").write_bytes(b"junk")
    found = program(name, *(flag.format(tmp_path) for flag in flags))
    lines = [x for x in found.stderr.splitlines() if x.startswith(f"{name}: ")]
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert len(lines) == 1 and message in lines[0], found.stderr


def print_intervals(cases):
    import common

    print(json.dumps([common.wilson_interval(*case) for case in cases]))


@pytest.mark.once
def test_intervals_of_shares():
    """Wilson's: ends are the roots of (p - share)^2 = z^2 p (1 - p) / n; known values."""
    found = in_a_process(print_intervals, [(98, 100), (0, 10), (10, 10), (81, 263)])
    found = json.loads(found.stdout.splitlines()[-1])
    assert found[0] == pytest.approx([0.9300, 0.9945], abs=1e-4)
    assert found[1] == pytest.approx([0, 0.2775], abs=1e-4)
    assert found[2] == pytest.approx([0.7225, 1], abs=1e-4)
    assert found[3] == pytest.approx([0.2553, 0.3662], abs=1e-4)  # Newcombe (1998), table I
    for (right, count), ends in zip([(98, 100), (81, 263)], (found[0], found[3])):
        for p in ends:
            left = (p - right / count) ** 2
            assert left == pytest.approx(1.959964**2 * p * (1 - p) / count, rel=1e-6)


def print_rates():
    import train

    train.print_rates({"first": 0.25, "second": 0.0})


@pytest.mark.once
def test_training_program_tells_what_makes_a_silent_layer_fire():
    found = in_a_process(print_rates).stdout
    assert "Never fired: second. " in found and "FiringRateScaling" in found


def train_and_fail(folder, more):
    """Training whose evaluation fails."""
    import train
    from absl.testing import flagsaver

    def fail(*args, **kwargs):
        raise OSError("evaluation failed")

    flags = ["train", "--timesteps=1", "--steps_per_epoch=2", f"--output_dir={folder}", *more]
    sys.argv = flags
    with flagsaver.flagsaver():
        train.analysis.firing_rates = fail
        train.main(train.FLAGS(flags))


@pytest.mark.once
def test_what_fails_after_training_does_not_lose_it(tmp_path):
    quick = ("--timesteps=1", "--steps_per_epoch=2", f"--output_dir={tmp_path}", "--progress=0")
    flags = ["--epochs=2", "--progress=0"]
    assert "evaluation failed" in in_a_process(train_and_fail, tmp_path, flags).stderr
    weights = keras.saving.load_model(tmp_path / "SEWResNet8_digits.keras").get_weights()
    config = (tmp_path / "config.json").read_text()

    other = program("train", *quick, "--epochs=2", "--seed=1", "--learning_rate=1")
    assert other.returncode == 1 and "learning_rate was 0.002, is 1.0" in other.stderr
    assert (tmp_path / "config.json").read_text() == config

    found = program("train", *quick, "--epochs=2")
    assert found.returncode == 0, found.stderr[-2000:]
    again = keras.saving.load_model(tmp_path / "SEWResNet8_digits.keras").get_weights()
    for a, b in zip(weights, again, strict=True):
        np.testing.assert_array_equal(a, b)
    result = json.loads((tmp_path / "results.json").read_text())
    starts = [{"epoch": 0, "epochs": 2}, {"epoch": 2, "epochs": 2}]
    assert result["starts"] == starts and len(result["history"]["loss"]) == 2
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.once
def test_programs_read_the_configuration_beside_a_model(tmp_path):
    model = keras_snn.applications.SEWResNet8(input_shape=(8, 8, 1), classes=10, timesteps=2)
    model.save(tmp_path / "model.keras")
    file = f"--model_file={tmp_path / 'model.keras'}"
    config = {"model": "SEWResNet8", "dataset": "digits", "normalization": "mnist", "seed": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = program("evaluate", file, "--seed=4")
    assert "normalization=mnist" in found.stdout, found.stderr[-2000:]
    assert "trained with seed=3, now 4" in found.stdout
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": "TDBNResNet19"}))
    found = program(
        "profile_model",
        file,
        "--examples=8",
        f"--output_dir={tmp_path}",
        "--recipe=nmnist",
        "--dataset=digits",
    )
    assert "is of TDBNResNet19, not of" in found.stdout, found.stderr[-2000:]
    assert found.returncode == 0 and (tmp_path / "profile.json").is_file()


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
@pytest.mark.parametrize(
    ("name", "count"),
    [("train", 42), ("convert", 1), ("hybrid", 4), ("segment", 2), ("federated", 1)],
)
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


def publish(folder):
    """Publishes a run, into this folder in place of the package's."""
    from keras_snn.applications.weights import presets

    presets.HERE, presets.TABLE = pathlib.Path(folder), pathlib.Path(folder, "presets.json")
    presets.TABLE.write_text("[]")
    sample = (f"--sample={folder}/sample", "--sample_of=noise")
    run_program("applications/publish.py", f"--run={folder}", "--preset=mine", *sample)


def estimate_of_noise(folder):
    """The batch that fits by hand; then a program whose data are nowhere, on little memory."""
    import estimate

    kept = 4 * 8 * 8 * 4  # bytes of the outputs of a convolution
    estimate.memory = lambda: 2 * 10 * kept
    layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, padding="same")]
    print(estimate.fitting_batch(keras.Sequential(layers), 64, None))
    flags = ["--dataset=dvs_gesture", f"--data_dir={folder}/none", "--image_size=32"]
    flags += ["--model=SpikingConvNet", '--options={"filters": [[2], [2]]}', "--batch_size=4"]
    flags += ["--timesteps=4", "--train_timesteps=2", "--estimate", "--estimate_seconds=0.1"]
    run_program("applications/train.py", *flags, f"--output_dir={folder}")


@pytest.mark.once
def test_an_estimate_without_data_or_memory(tmp_path):
    found = in_a_process(estimate_of_noise, tmp_path)
    assert found.returncode == 0, found.stderr[-2000:]
    assert re.fullmatch(
        r"8\nNoise is timed in place of dvs_gesture, whose reading comes on top: .*\n"
        r"Batches of 1 are timed: those of 4 need more memory.\nNoise .*\n"
        r"SpikingConvNet: .* 15 epochs of 1,176 batches .* 288 held-out batches .*\nTime: .*\n"
        r"Memory: .*\nDisk: .*\n",
        found.stdout,
    ), found.stdout


@pytest.mark.once
def test_a_network_that_starts_from_an_ann(tmp_path):
    flags = ["--model=SpikingConvNet", '--options={"filters": [[8], [16]]}', "--neuron=IF"]
    flags += ['--neuron_options={"reset": "soft"}', "--validation_split=0.1", "--ann_epochs=4"]
    flags += ["--ann_learning_rate=0.01", "--epochs=1", "--learning_rate=1e-9"]
    flags += [f"--output_dir={tmp_path}", "--progress=0"]
    found = program("train", *flags, "--estimate", "--estimate_seconds=0.1")
    assert found.returncode == 0, found.stderr[-2000:]
    assert re.search(
        r"ANN: .*4 epochs of 21 batches.*\nSpikingConvNet: .*\nTime: .*\n"
        r"Memory: [1-9\d.]+ GiB at most so far, of [\d.]+ GiB\nDisk: [\d.]+ MB while training",
        found.stdout,
    )
    assert not list(tmp_path.iterdir())
    found = program("train", *flags)
    assert found.returncode == 0, found.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    ann, network = (results[name]["val_accuracy"] for name in ("ann_history", "history"))
    assert len(ann) == 4 and ann[-1] > 0.8
    assert network[0] > ann[-1] - 0.15  # as good as untrained: its learning rate is nothing
    assert results["chosen_by"].startswith("nothing") and results["test_examples"] == 360
    assert len(results["ann_history"]["seconds"]) == 4
    found = program("curve", f"--runs={tmp_path}")
    last = results["ann_seconds"] + results["history"]["seconds"][0]
    told = f"last +{100 * network[0]:.2f} at {last / 3600:.2f} h"
    assert re.search(told, found.stdout), found.stdout + found.stderr[-2000:]
    found = in_a_process(publish, str(tmp_path))
    assert found.returncode == 0, found.stderr[-2000:]
    (row,) = json.loads((tmp_path / "presets.json").read_text())
    assert (row["name"], row["recipe"], row["seed"]) == ("mine", "", 0)
    assert abs(row["accuracy"] - results["test_accuracy"]) < 2 / 360
    assert row["arguments"]["filters"] == [[8], [16]]
    with np.load(tmp_path / "sample" / "SpikingConvNet_mine.npz") as sample:
        assert {*sample} == {"examples", "logits", "rates"}  # no images of the data set
        assert {*np.unique(sample["examples"])} == {*range(-2, 3)}
        assert sample["examples"].shape == (60, 8, 8, 1) and sample["logits"].shape == (60, 10)


@pytest.mark.once
def test_seeds_and_what_weights_are_chosen_by(tmp_path):
    """Labels of the test images are wrong: weights chosen by these would be untrained ones."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    images = rng.integers(0, 100, (300, 8, 8))
    images[labels == 1, :, 4:] += 150
    parts = {"x_train": images[:200], "y_train": labels[:200]}
    parts |= {"x_test": images[200:], "y_test": 1 - labels[200:]}
    np.savez(tmp_path / "halves.npz", **parts)
    flags = ["--model=SpikingConvNet", '--options={"filters": [[4]]}', "--epochs=4", "--patience=2"]
    flags += [f"--dataset={tmp_path}/halves.npz", f"--output_dir={tmp_path}", "--batch_size=16"]
    flags += ["--learning_rate=0.01", "--progress=0", "--timesteps=2"]
    found = program("train", *flags)
    assert found.returncode == 1 and "--patience has no effect" in found.stderr
    flags.append("--validation_split=0.2")
    found = program("seeds", "--seeds=3", *flags)
    assert found.returncode == 0, found.stderr[-2000:]
    path = tmp_path / "seed_3" / "results.json"
    run = json.loads(path.read_text())
    assert max(run["history"]["val_accuracy"]) > 0.9 and run["test_accuracy"] < 0.2
    assert run["chosen_by"] == "the loss on 20.0% of the training data, held out"
    (tmp_path / "seed_4").mkdir()
    other = run | {
        "test_accuracy": run["test_accuracy"] + 0.02,
        "flags": run["flags"] | {"seed": 4},
    }
    (tmp_path / "seed_4" / "results.json").write_text(json.dumps(other))
    found = program("seeds", "--seeds=3,4", *flags)
    told = f"Mean {run['test_accuracy'] + 0.01:.2%}, standard deviation 1.41;"  # 2 / sqrt(2)
    assert told in found.stdout, found.stdout + found.stderr[-2000:]
    table = json.loads((tmp_path / "seeds.json").read_text())
    assert table["seeds"] == [3, 4] and table["runs"]["3"] == run
    found = program("seeds", "--seeds=3,4", *flags, "--timesteps=3")
    assert found.returncode == 1 and "timesteps was 2, is 3" in found.stderr
    for wrong, told in (("0,0", "different"), ("x", "numbers"), ("0 --seed=1", "--seed has no")):
        found = program("seeds", *f"--seeds={wrong}".split())
        assert found.returncode == 1 and told in found.stderr


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
