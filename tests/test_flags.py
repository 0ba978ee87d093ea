"""The programs' flags: each changes what the libraries are asked for, or is refused."""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import io
import json
import pathlib
import re
import sys
import types
from unittest import mock

import keras
import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver
from keras import layers
from test_project import in_a_process

from keras_snn import (
    analysis,
    applications,
    callbacks,
    conversion,
    distribution,
    federated,
    training,
)
from keras_snn import layers as snn
from keras_snn.export import flatbuffer
from keras_snn.export.targets import tflite

# Another value of each flag, with what it needs beside it (default: the program's first flags).
FILE, STEPS, SGD = "--model_file=README.md", "--schedule=steps", "--optimizer=sgd"
SOUND = "--source=Makefile"
IMAGES, EVENTS = "--dataset=fashion_mnist", "--dataset=nmnist"
DATA = {
    "dataset": ["fashion_mnist"],
    "data_dir": ["folder", IMAGES],
    "image_size": ["16"],
    "batch_size": ["3"],
    "augmentation": ["flip"],
    "normalization": ["mnist"],
    "workers": ["2", EVENTS],
    "seed": ["1"],
}
OPTIMIZER = {
    "optimizer": ["sgd"],
    "momentum": ["0.5", SGD],
    "amsgrad": ["true"],
    "learning_rate": ["0.5"],
    "schedule": ["constant"],
    "schedule_every": ["epoch"],
    "decay_at": ["0.5", STEPS],
    "decay_factor": ["0.5", STEPS],
    "warmup_epochs": ["1"],
    "warmup_rate": ["0.5", "--warmup_epochs=1"],
    "final_rate": ["0.5"],
    "cooldown_epochs": ["1"],
    "weight_decay": ["0.5"],
    "clip_norm": ["1"],
    "accumulate": ["2"],
    "ema": ["0.5"],
}
CONVERSION = {  # of images, which no worker reads: `workers` is refused
    **{name: value for name, value in DATA.items() if name != "workers"},
    **OPTIMIZER,
    "model": ["ConversionVGG9"],
    "model_file": ["README.md"],
    "width": ["0.5"],
    "epochs": ["3"],
    "output_dir": ["OTHER"],
    "snn_normalization": ["mnist"],
    "method": ["max"],
    "timesteps": ["3"],
    "reset": ["hard"],
    "gain": ["2", "--input_coding=poisson"],
    "max_pooling": ["average"],
    "residual": ["unit"],
    "initial_potential": ["0.5"],
    "percentile": ["90", "--method=percentile"],
    "confidence": ["0.5"],
    "calibration_examples": ["3"],
    "calibration_timesteps": ["3"],
    "test_examples": ["3"],
}
# A saved model's program trains nothing.
SAVED = {name: [row[0], FILE, *row[1:]] for name, row in DATA.items()}
SAVED |= {"model_file": ["Makefile", FILE], "timesteps": ["3", FILE]}
del SAVED["augmentation"], SAVED["batch_size"]
BATCHES = {"batch_size": ["3", FILE]}
EFFECTS = {
    "train": {
        **DATA,
        **OPTIMIZER,
        "model": ["SpikingResNet18"],
        "timesteps": ["3"],
        "train_timesteps": ["3", EVENTS],
        "augmentation_options": ['{"flip": {}}', "--augmentation=flip"],
        "neuron": ["LIF"],
        "neuron_options": ['{"tau": 3}', "--neuron=LIF"],
        "connect": ["and"],
        "small_images": ["false"],
        "options": ['{"zero_init_residual": true}'],
        "weights": ["README.md"],
        "epochs": ["3"],
        "ann_epochs": ["3"],
        "ann_learning_rate": ["0.5", "--ann_epochs=3"],
        "validation_split": ["0.1"],
        "validation_speakers": ["theo"],
        "test_each_epoch": ["true", "--validation_split=0.1"],
        "estimate": ["true"],
        "estimate_seconds": ["2", "--estimate"],
        "steps_per_epoch": ["3"],
        "loss": ["tet"],
        "label_smoothing": ["0.5"],
        "teacher": ["README.md"],
        "distillation_weight": ["0.1", "--teacher=README.md"],
        "temperature": ["3", "--teacher=README.md"],
        "joint": ["true"],
        "schedules": ['{"alpha": [1, 2]}'],
        "patience": ["2", "--validation_split=0.1"],
        "tensorboard": ["folder"],
        "watch": ["true"],
        "distribution": ["data"],
        "dtype": ["mixed_float16"],
        "progress": ["2"],
        "output_dir": ["OTHER"],
    },
    "convert": CONVERSION | {"input_coding": ["poisson"]},
    "hybrid": CONVERSION
    | {
        "input_coding": ["direct"],
        "finetune_epochs": ["2"],
        "finetune_steps": ["7"],
        "finetune_learning_rate": ["0.5"],
        "finetune_weight_decay": ["0.5"],
        "threshold_scale": ["0.5"],
        "dropout": ["0.1"],
        "slope": ["time"],
        "alpha": ["0.5"],
        "beta": ["0.5", "--slope=time"],
        "learn": ["true"],
    },
    "federated": {
        **{name: value for name, value in DATA.items() if name != "augmentation"},
        "model": ["SpikingResNet18"],
        "options": ['{"dropout": 0}'],
        "norm": ["bn"],
        "timesteps": ["3"],
        "relu": ["true"],
        "clients": ["3"],
        "clients_per_round": ["3"],
        "rounds": ["3"],
        "local_epochs": ["3"],
        "alpha": ["0.5"],
        "minimum": ["3", "--alpha=0.5"],
        "stragglers": ["0.5"],
        "noise": ["0.5"],
        "learning_rate": ["0.5"],
        "momentum": ["0.5"],
        "weight_decay": ["0.5"],
        "examples": ["3"],
        "test_examples": ["3"],
        "output_dir": ["OTHER"],
    },
    "listen": {
        "model_file": ["Makefile", FILE, SOUND],
        "source": ["LICENSE", FILE, SOUND],
        "rate": ["4000", FILE, SOUND],
        "steps": ["40", FILE, SOUND],
        "piece": ["20", FILE, SOUND],
        "speed": ["2", FILE, SOUND],
        "level": ["99", FILE, SOUND],
        "mean": ["3", FILE, SOUND],
        "deviation": ["3", FILE, SOUND],
        "json": ["OTHER.json", FILE, SOUND],
    },
    "evaluate": SAVED | BATCHES | {"json": ["OTHER.json", FILE]},
    "export": SAVED
    | {
        "output": ["OTHER.tflite", FILE],
        "examples": ["3", FILE],
        "test_examples": ["3", FILE],
        "mode": ["step", FILE],
        "quantize": ["int8", FILE],
        "target": ["tflm", FILE],
        "precision": ["ap_fixed<16,6>", FILE, "--target=hls4ml"],
        "state": ["internal", FILE, "--mode=step"],
        "tensors": ["true", FILE],
    },
    "profile_model": SAVED
    | BATCHES
    | {
        "model": ["SpikingResNet18", "--model=SEWResNet8"],
        "examples": ["3", FILE],
        "energy": ["45nm-int8", FILE],
        "memory": ["dram-45nm", FILE],
        "exact": ["true", FILE],
        "theme": ["dark", FILE],
        "output_dir": ["OTHER", FILE],
    },
}
# Flags that would have no effect, with what takes it from them.
WITHOUT_NEEDS = [
    ("data_dir", ["--data_dir=folder"]),
    ("workers", ["--workers=2"]),
    ("momentum", ["--momentum=0.5"]),
    ("amsgrad", ["--amsgrad", SGD]),
    ("decay_at", ["--decay_at=0.5"]),
    ("decay_factor", ["--decay_factor=0.5"]),
    ("warmup_rate", ["--warmup_rate=0.5"]),
    ("final_rate", ["--final_rate=0.5", STEPS]),
    ("cooldown_epochs", ["--cooldown_epochs=1", STEPS]),
    ("schedule_every", ["--schedule_every=epoch", "--schedule=constant"]),
]
WITHOUT_CONVERSION = [
    *WITHOUT_NEEDS,
    ("gain", ["--gain=2", "--input_coding=direct"]),
    ("initial_potential", ["--initial_potential=0.5", "--reset=hard"]),
    ("percentile", ["--percentile=90"]),
    ("calibration_timesteps", ["--calibration_timesteps=3", "--method=max"]),
    ("width", ["--width=0.5", "--model=SEWResNet8"]),
    ("width", ["--width=0.5", FILE]),
    ("epochs", ["--epochs=3", FILE]),
    ("learning_rate", ["--learning_rate=1", FILE]),
    ("residual", ["--residual=unit", "--model=ConversionVGG16"]),
    ("model_file", ["--model_file=LICENSE"]),
    ("method", ["--method=best"]),
]
NOT_SAVED = [
    ("augmentation", [FILE, "--augmentation=flip"]),
    ("data_dir", [FILE, "--data_dir=folder"]),
    ("workers", [FILE, "--workers=2"]),
    ("timesteps", ["--model_file=LICENSE", "--timesteps=3"]),  # reads sequences of 5
]
REFUSED = {
    "train": [
        *WITHOUT_NEEDS,
        ("normalization", ["--normalization=mnist", EVENTS]),
        ("train_timesteps", ["--train_timesteps=3"]),
        ("image_size", ["--image_size=16", "--dataset=spoken_digits"]),
        ("neuron_options", ['--neuron_options={"tau": 3}']),
        ("patience", ["--patience=2"]),  # by test images
        ("test_each_epoch", ["--test_each_epoch"]),
        ("delay_learning_rate", ["--delay_learning_rate=0.1"]),  # without delays
        ("joint", ["--joint", "--delay_learning_rate=0.1"]),
        ("ann_learning_rate", ["--ann_learning_rate=0.5"]),
        ("joint", ["--joint", "--ann_epochs=3"]),
        ("loss", ["--loss=tet", "--joint"]),
        ("label_smoothing", ["--label_smoothing=0.1", "--joint"]),
        ("label_smoothing", ["--label_smoothing=0.1", "--loss=spike_count"]),
        ("teacher", ["--teacher=README.md", "--joint"]),
        ("loss", ["--loss=tet", "--teacher=README.md"]),
        ("distillation_weight", ["--distillation_weight=0.1"]),
        ("temperature", ["--temperature=3"]),
        ("connect", ["--connect=and", "--model=SpikingResNet18"]),
        ("small_images", ["--small_images", "--model=SpikingConvNet"]),
        ("options", ['--options={"timesteps": 3}']),
        ("weights", ["--weights=unknown"]),
    ],
    "convert": WITHOUT_CONVERSION,
    "hybrid": [
        *WITHOUT_CONVERSION,
        ("beta", ["--beta=0.5"]),
        ("dropout", ["--dropout=0.1", "--model=ConversionVGG16"]),
        ("method", ["--method=max,percentile"]),
    ],
    "federated": [
        ("data_dir", ["--data_dir=folder"]),
        ("workers", ["--workers=2"]),
        ("augmentation", ["--augmentation=flip"]),
        ("timesteps", ["--timesteps=3", "--relu"]),
        ("minimum", ["--minimum=3"]),
        ("stragglers", ["--stragglers=0.5", "--clients_per_round=1"]),
        ("clients_per_round", ["--clients_per_round=3", "--clients=2"]),
        ("model", ["--model=ResNet"]),
    ],
    "listen": [("speed", [FILE, "--speed=2"])],
    "evaluate": NOT_SAVED,
    "export": [
        *NOT_SAVED,
        ("batch_size", [FILE, "--batch_size=3"]),
        ("precision", [FILE, "--precision=ap_fixed<16,6>"]),
        ("quantize", [FILE, "--quantize=int8", "--target=hls4ml"]),
    ],
    "profile_model": [*NOT_SAVED, ("augmentation", ["--model=SEWResNet8", "--augmentation=flip"])],
}

# Flags that make the ANN of a conversion. (`model` and `dataset` name its file.)
MADE = ["image_size", "batch_size", "augmentation", "normalization", "seed", "width", "epochs"]
MADE += [name for name, row in OPTIMIZER.items() if not row[1:]]


def plainly(value):
    """A value as text that tells what matters of it."""
    if isinstance(value, np.ndarray):
        return f"array{value.shape}"
    if isinstance(value, keras.Model):
        return f"model{[layer.rate for layer in value.layers if hasattr(layer, 'rate')]}"
    if dataclasses.is_dataclass(value):
        return plainly(vars(value))
    if hasattr(value, "get_config") and not isinstance(value, type):
        return f"{type(value).__name__}{plainly(value.get_config())}"
    if isinstance(value, dict):
        return str({key: plainly(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return str([plainly(item) for item in value])
    known = value is None or isinstance(value, (bool, int, float, str, pathlib.Path))
    return str(value) if known else type(value).__name__


def ann_of_programs(residual=True, size=8, name=None):
    ones = {"kernel_initializer": "ones"}  # no neuron is silent
    x = inputs = layers.Input((size, size, 1))
    if residual:
        x = layers.Conv2D(2, 3, padding="same", activation="relu", **ones)(x)
        x = layers.Dropout(0.2)(x)
        x = layers.ReLU()(layers.Add()([x, layers.Conv2D(2, 1, **ones)(x)]))
    x = layers.Dense(4, activation="relu", **ones)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.Dropout(0.5)(x)))


def of_sequences():
    inputs = layers.Input((5, 8, 8, 1))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(inputs)))


class Trace:
    """What a program asks the libraries for."""

    def __init__(self):
        self.calls = []

    def asked(self, name, answer=None):
        """A function that notes its arguments in the place of another."""

        def function(*args, **kwargs):
            self.calls.append(f"{name}{plainly(args)}{plainly(kwargs)}")
            return answer

        return function

    def network(self, name, answer):
        """The same in the place of a network's function, with its arguments."""
        network = getattr(applications, name)

        @functools.wraps(network)
        def function(**kwargs):
            inspect.signature(network).bind(**kwargs)
            return self.asked(name, answer)(**kwargs)

        return applications, name, function


def stubs_of_train(trace, module, model):
    asked = trace.asked
    yield from (trace.network(name, model) for name in ("SEWResNet8", "SpikingResNet18"))
    yield distribution.Distribution, "shard", lambda devices, data: data
    for owner, name, answer in (
        (keras.config, "set_dtype_policy", None),
        (distribution, "data_parallel", contextlib.nullcontext(distribution.Distribution())),
        (keras.distillation, "Distiller", model),
        (training, "joint_model", model),
        (training, "to_spiking", model),
        (training, "every_step", model),
        (applications, "load_keras_weights", None),
        (module, "report", None),
        (module.estimate, "measure", None),
        (module.estimate, "report", None),
        *((callbacks, name, None) for name in ("Schedule", "FiringRates", "DeadNeurons")),
        *((keras.callbacks, name, None) for name in ("SwapEMAWeights", "TensorBoard")),
        (keras.callbacks, "EarlyStopping", None),
    ):
        yield owner, name, asked(name, answer)


def stubs_of_conversion(trace, module, model):
    yield from (trace.network(name, model) for name in ("ConversionVGG5", "ConversionVGG9"))
    yield trace.network("ConversionVGG16", ann_of_programs(residual=False))
    found = conversion.convert(model, np.ones((4, 8, 8, 1)), "max", 2, check_examples=0)
    yield conversion, "convert", trace.asked("convert", found)
    over_time = analysis.AccuracyOverTime(np.zeros(2), {}, 8)
    yield analysis, "accuracy_over_time", trace.asked("accuracy_over_time", over_time)


def stubs_of_federated(trace, module, model):
    yield from (trace.network(name, model) for name in ("SpikingConvNet", "SpikingResNet18"))
    for name in ("iid_split", "dirichlet_split"):
        yield federated, name, trace.asked(name, [np.arange(2)])

    def simulate(model, load, evaluate, **arguments):
        evaluate(1, [])
        return trace.asked("simulate", ([], {}))(load(0), **arguments)

    yield module, "simulate", simulate
    yield keras.Model, "evaluate", trace.asked("evaluate", {"loss": 1.0, "accuracy": 0.5})
    yield keras.Model, "set_weights", trace.asked("set_weights")


def stubs_of_listen(trace, module, model):
    def network(spectrum):
        return trace.asked("step", np.zeros(3))(float(np.sum(spectrum, dtype="float64").round(2)))

    def load(*arguments):
        network.reset = trace.asked("reset")
        return trace.asked("load", network)(*arguments)

    sound = np.random.default_rng(0).normal(size=700).astype("float32")
    yield module.step_network, "load", load
    yield module, "read_wav", trace.asked("read_wav", sound)
    clock = {"monotonic": lambda: 0, "perf_counter": lambda: 0, "sleep": trace.asked("sleep")}
    yield module, "time", types.SimpleNamespace(**clock)
    yield sys.modules["common"], "write_json", lambda path, value: trace.asked("write")(path)


def stubs_of_evaluate(trace, module, model):
    over_time = analysis.AccuracyOverTime(np.zeros(2), {}, 8)
    yield analysis, "accuracy_over_time", trace.asked("accuracy_over_time", over_time)
    yield sys.modules["common"], "write_json", lambda path, value: trace.asked("write")(path)


def stubs_of_export(trace, module, model):
    def answer(x):
        trace.asked("step")(x)
        return {"output": np.zeros((1, 10))}

    def to_json(tensors):
        return trace.asked("to_json", "{}")(tensors)

    report = types.SimpleNamespace(to_json=to_json, timesteps=2, mode="step")
    yield tflite, "run", trace.asked("run", report)
    yield flatbuffer, "litert", lambda: None
    stream = types.SimpleNamespace(step=answer, run=answer)
    yield module.export, "StreamingInterpreter", trace.asked("StreamingInterpreter", stream)
    yield module, "write_project", lambda path, report: trace.asked("project")(path)
    yield module.files, "write", lambda path, content: trace.asked("write")(path)

    def simulate(project, images):
        trace.asked("simulate")(images)
        return np.zeros((len(images), 2, 10)), {}

    project = types.SimpleNamespace(write=lambda: None)
    fpga = types.SimpleNamespace(
        convert=trace.asked("convert", project),
        simulate=simulate,
        resources=trace.asked("resources", [{"name": "total", "additions": 3}]),
    )
    yield module, "hls4ml", fpga


def stubs_of_profile_model(trace, module, model):
    yield from (trace.network(name, model) for name in ("SEWResNet8", "SpikingResNet18"))
    profile = types.SimpleNamespace(to_json=trace.asked("to_json"))
    yield analysis, "profile", trace.asked("profile", profile)
    yield module, "draw", lambda *args: trace.asked("draw")(*args, module.FLAGS.theme)


STUBS = {
    "train": stubs_of_train,
    "convert": stubs_of_conversion,
    "hybrid": stubs_of_conversion,
    "federated": stubs_of_federated,
    "listen": stubs_of_listen,
    "evaluate": stubs_of_evaluate,
    "export": stubs_of_export,
    "profile_model": stubs_of_profile_model,
}


def print_traces(program, folder, cases):
    """For each list of flags what the program asks the libraries for, or its error."""
    module = importlib.import_module(program)
    common, trained = sys.modules["common"], keras.Model
    flags, trace = module.FLAGS, Trace()
    asked = trace.asked
    batches = [(np.zeros((4, 8, 8, 1), "float32"), np.arange(4))] * 2
    data = types.SimpleNamespace(
        name="data",
        input_shape=(8, 8, 1),
        classes=10,
        train=batches,
        test=batches,
        validation=None,
    )
    model = ann_of_programs()
    other = ann_of_programs(size=9) if program in ("convert", "hybrid") else of_sequences()

    def load(path):
        return asked("load_model", other if "LICENSE" in str(path) else model)(path)

    def save(model, path):
        asked("save")(path)
        pathlib.Path(path).touch()

    def predict(model, x, **kwargs):
        asked("predict")(x)
        return np.eye(10)[np.zeros(len(x), int)]

    resume = types.SimpleNamespace(
        history={"loss": [1.0]}, seconds=0, times=[0], starts=[], remove=asked("remove")
    )
    with contextlib.ExitStack() as stack:
        for owner, name, stub in (
            *STUBS[program](trace, module, model),
            (common.datasets, "load", asked("load", data)),
            (keras.utils, "set_random_seed", asked("seed")),
            (keras.saving, "load_model", load),
            (trained, "compile", asked("compile")),
            (trained, "fit", asked("fit")),
            (trained, "save", save),
            (trained, "predict", predict),
            (analysis, "firing_rates", asked("firing_rates", {})),
            (callbacks, "Resume", asked("Resume", resume)),
        ):
            stack.enter_context(mock.patch.object(owner, name, stub))
        answers = []
        for place, case in enumerate(cases):
            trace.calls.clear()
            output = pathlib.Path(folder, "kept" if "KEPT" in case else str(place))
            given = [x.replace("OTHER", f"{output}_other") for x in case if x.startswith("--")]
            if "output_dir" in flags:
                given.insert(0, f"--output_dir={output}")
            for layer in model.layers:  # `hybrid.py` sets that of what was converted
                if isinstance(layer, snn.TimeConstantDropout):
                    layer.rate = 0.2
            with flagsaver.flagsaver(), contextlib.redirect_stdout(io.StringIO()):
                try:
                    module.main(flags([program, *given]))
                except (app.UsageError, ValueError) as error:
                    trace.calls.append(f"refused: {error}")
            answers.append([call.replace(str(output), "OUTPUT") for call in trace.calls])
        print(json.dumps([common.names_of_flags(module), answers]))


@pytest.mark.once
@pytest.mark.parametrize("program", EFFECTS)
def test_every_flag_has_an_effect_or_is_refused(program, tmp_path):
    effects, refused = EFFECTS[program], REFUSED[program]
    pairs = {n: (needs, [*needs, f"--{n}={value}"]) for n, (value, *needs) in effects.items()}
    cases = [case for pair in pairs.values() for case in pair] + [flags for _, flags in refused]
    kept = []
    if program in ("convert", "hybrid"):
        kept = [["KEPT"], ["KEPT", "AGAIN"], *(["KEPT", f"--{n}={effects[n][0]}"] for n in MADE)]
    cases = list(dict.fromkeys(map(tuple, cases + kept)))
    found = in_a_process(print_traces, program, str(tmp_path), cases)
    assert found.returncode == 0, found.stderr[-2000:]
    names, answers = json.loads(found.stdout.splitlines()[-1])
    answers = dict(zip(cases, answers, strict=True))
    assert set(names) - {"recipe"} == {*effects, *(name for name, _ in refused)}
    for name, (without, with_it) in pairs.items():
        assert "refused" not in str(answers[tuple(with_it)]), (name, answers[tuple(with_it)][-1])
        assert answers[tuple(without)] != answers[tuple(with_it)], name
    for name, flags in refused:
        answer = answers[tuple(flags)]
        assert answer[-1].startswith(f"refused: --{name}"), (flags, answer)
        assert not re.search(r"'(convert|run|profile|report)\[", str(answer)), flags
    if kept:
        first, again, *others = (answers[tuple(case)] for case in kept)
        assert "load_model" not in str(first) and "load_model" in str(again)
        assert str(first).count("fit[") - str(again).count("fit[") == 1
        for name, answer in zip(MADE, others):
            assert re.match(f"refused: .* was trained with --{name}=", answer[-1]), (name, answer)
