"""Recipes, and the flags of the training program: each has an effect, or is refused."""

import inspect
import json

import keras
import numpy as np
import pytest
from test_project import in_a_process, program
from test_recordings import spoken

import keras_snn
from keras_snn import applications
from keras_snn import layers as snn

pytestmark = pytest.mark.once


class Bound:
    """In the place of a function: whether it takes its arguments."""

    def __init__(self, function):
        self.__signature__ = inspect.signature(function)

    def __call__(self, **arguments):
        self.__signature__.bind(**arguments)


def print_recipes(built):
    """Prints what recipes of the training program make; builds the networks of some."""
    import common
    import recipes
    import train
    from absl import flags
    from absl.testing import flagsaver

    shapes = {
        "dvs_gesture": (2, 128, 128, 2),
        "cifar10_dvs": (2, 128, 128, 2),
        "nmnist": (2, 34, 34, 2),
        "shd": (2, 700),
        "ssc": (2, 700),
        "speech_commands": (2, 40),
        "spoken_digits": (2, 40),
    }
    flags.FLAGS(["train"])
    found = {}
    for name, recipe in recipes.RECIPES.items():
        if recipe.get("program", "train") != "train":
            continue
        with flagsaver.flagsaver():
            for flag, value in recipe.items():
                if flag not in ("about", "program"):
                    flags.FLAGS.set_default(flag, value)
            flags.FLAGS.timesteps = 2
            train.check_flags()
            common.check_data()
            shape = shapes.get(recipe["dataset"], (32, 32, 3))
            if size := recipe.get("image_size"):
                sizes = (size, size, shape[-1]) if len(shape) > 2 else (size,)
                shape = (*shape[: -len(sizes)], *sizes)
            data = keras_snn.datasets.Dataset(name, None, None, shape, 10)
            network = getattr(applications, recipe["model"])
            if name not in built:
                setattr(applications, recipe["model"], Bound(network))
            model = train.build(data)
            setattr(applications, recipe["model"], network)
            found[name] = {}
            if model is not None:
                cell = next(layer.cell for layer in model.layers if hasattr(layer, "cell"))
                found[name] |= {
                    "parameters": model.count_params(),
                    "neuron": type(cell).__name__,
                    "decay": getattr(cell, "decay", None),
                }
            optimizer = train.optimizers.optimizer(recipe["epochs"], 10)
            found[name] |= {
                "optimizer": f"{type(optimizer).__module__}.{type(optimizer).__name__}",
                "weight_decay": optimizer.weight_decay,
                "rates": [
                    float(optimizer._learning_rate(10 * epoch)) for epoch in range(recipe["epochs"])
                ],
            }
            if flags.FLAGS.delay_learning_rate:
                of_delays, _ = train.with_delays(optimizer, 10).optimizers
                found[name]["delay_rates"] = [
                    float(of_delays._learning_rate(10 * epoch)) for epoch in range(recipe["epochs"])
                ]
                assert not of_delays.weight_decay
            keras.backend.clear_session()
    print(json.dumps(found))


STEP = [0.1 * 0.1**n for n in range(4)]
COSINE = [0.05 * (1 + np.cos(np.pi * epoch / 320)) for epoch in range(320)]


def timm(epochs, first, warmup, start, last=1e-5, cooldown=10):
    """The rates of timm's `CosineLRScheduler` in each epoch."""
    falling = epochs - cooldown
    cosine = [last + (first - last) * (1 + np.cos(np.pi * e / falling)) / 2 for e in range(falling)]
    rise = [start + e * (first - start) / warmup for e in range(warmup)]
    return [*rise, *cosine[warmup:], *[last] * cooldown]


# What the authors' repositories, or papers where there are none, tell: rates of all epochs.
PAPERS = {
    "sew_resnet_imagenet": {"weight_decay": 0, "rates": COSINE},
    "spiking_resnet_imagenet": {"weight_decay": 0, "rates": COSINE},
    "s_resnet38_cifar10": {
        "neuron": "DecayLIFCell",
        "decay": 0.8744,
        "weight_decay": 1e-4,
        "rates": 0.26844 * np.repeat(STEP, (50, 7, 7, 6)),
    },
    "wide7b_cifar10dvs": {
        "neuron": "ParametricLIFCell",
        "parameters": 1_192_218,
        "rates": [0.005 * (1 + np.cos(np.pi * epoch / 64)) for epoch in range(64)],
    },
    "7b_dvs_gesture": {"weight_decay": 0, "rates": 0.01 * np.repeat(STEP[:3], 64)},
    "7b_plain_dvs_gesture": {"neuron": "ParametricLIFCell", "rates": np.repeat(STEP[:3], 64)},
    "tdbn_resnet19_cifar10": {
        "neuron": "DecayLIFCell",
        "decay": 0.25,
        "weight_decay": 1e-4,
        "rates": np.repeat(STEP[:3], 35),
    },
    "spikformer_cifar10": {"weight_decay": 0.06, "rates": timm(310, 5e-4, 20, 1e-5)},
    "max_resnet18_cifar10": {"weight_decay": 0.06, "rates": timm(410, 1.5e-3, 20, 8e-5)},
    "spiking_resformer_cifar10": {"rates": timm(600, 5e-4, 3, 1e-5, cooldown=0)},
    "joint_resnet18_cifar100": {"decay": 0.25, "weight_decay": 5e-4},
    "spikformer_small_cifar10": {"neuron": "ILIFCell"},
    "conv_small_cifar10": {"neuron": "ILIFCell"},
    # Dense, recurrent, four values of each neuron, classifier.
    "shd_adlif_small": {
        "parameters": 140 * 128 + 128 * 128 + 4 * 128 + 128 * 10 + 10 - 1,
        "rates": [0.005 * (1 + np.cos(np.pi * epoch / 300)) for epoch in range(300)],
        "neuron": "RecurrentCell",
    },
    "ssc_adlif": {"neuron": "RecurrentCell"},
    # The weights' rate rises for 45 epochs; that of the delays falls from the start.
    "shd_delays": {
        "parameters": 2 * (140 * 256 + 256 * 256 + 256 * 10) + 2 * 2 * 256,
        "neuron": "LIFCell",
        "weight_decay": 1e-5,
        "rates": [
            *np.linspace(2e-4, 5e-3, 46)[:-1],
            *[2e-8 + (5e-3 - 2e-8) * (1 + np.cos(np.pi * e / 105)) / 2 for e in range(105)],
        ],
        "delay_rates": [0.05 * (1 + np.cos(np.pi * epoch / 150)) for epoch in range(150)],
    },
}
# Trained by AdamW, whose decay is beside the gradient in PyTorch too.
DECOUPLED = {"fashion_mnist_small", "speech_commands", "e_spikeformer_imagenet"}
DECOUPLED |= {"spikformer_small_cifar10", "conv_small_cifar10"}
DECOUPLED |= {f"max_former_{data}" for data in ("cifar10", "cifar100", "imagenet")}
DECOUPLED |= {
    f"{model}_cifar10"
    for model in ("spikformer", "qkformer", "sdt", "max_resnet18", "spiking_resformer")
}
BUILT = {"neuron", "decay", "parameters"}


def test_recipes_build_what_the_papers_tell():
    answer = in_a_process(print_recipes, [r for r, x in PAPERS.items() if {*x} & BUILT])
    assert answer.returncode == 0, answer.stderr[-2000:]
    found = json.loads(answer.stdout.splitlines()[-1])
    for recipe, expected in PAPERS.items():
        for what, value in expected.items():
            if what == "parameters":  # ours have moving statistics besides
                assert found[recipe][what] > value
            elif what in ("rates", "delay_rates"):
                np.testing.assert_allclose(found[recipe][what], value, atol=1e-7, rtol=1e-5)
            else:
                assert found[recipe][what] == value, (recipe, what)
    pair = [found[f"{name}_small_cifar10"]["parameters"] for name in ("spikformer", "conv")]
    assert max(pair) < 400_000 and max(pair) / min(pair) < 1.02
    for recipe, one in found.items():
        if one["weight_decay"] and recipe not in DECOUPLED:
            kind = "Adam" if recipe == "shd_delays" else "SGD"
            assert one["optimizer"] == f"keras_snn.optimizers.{kind}", recipe


def round_and_back():
    """Delays of a network that are whole within a block only."""
    import train

    train.FLAGS(["train", "--delay_learning_rate=0.1"])
    model = keras.Sequential([keras.Input((4, 2)), snn.DelayedDense(3, 5)])
    before = model.get_weights()
    with train.rounded(model):
        inside = model.get_weights()
    print(json.dumps([[w.tolist() for w in ws] for ws in (before, inside, model.get_weights())]))


def test_whole_delays_for_a_while():
    answer = in_a_process(round_and_back)
    assert answer.returncode == 0, answer.stderr[-2000:]
    before, inside, after = json.loads(answer.stdout.splitlines()[-1])
    assert before == after and inside[1] == np.round(before[1]).tolist()
    assert (before[3], inside[3]) == (2.5, 0.0)  # the width


def test_delays_are_trained_by_the_recipe(tmp_path):
    """On noise in the format of SHD: what is held out, logged, rounded and written."""
    spoken("shd", 20)(tmp_path / "shd")
    options = {"synapses": "delays", "filters": [4], "size": 5, "readout_tau": 1.005}
    answer = program(
        "train",
        *("--recipe=shd_delays", f"--data_dir={tmp_path}/shd", f"--output_dir={tmp_path}"),
        *("--validation_speakers=1,3", f"--options={json.dumps(options)}", "--progress=0"),
        *("--epochs=4", "--warmup_epochs=1", "--timesteps=5", "--batch_size=10"),
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["chosen_by"] == "the loss on the training data of speakers held out: 1, 3"
    assert 0 <= results["test_accuracy_before_rounding"] <= 1
    tested, history = results["best_epoch_on_test"], results["history"]
    assert tested["accuracy"] == max(history["test_accuracy"]) and len(history["val_loss"]) == 4
    assert history["test_accuracy"][tested["epoch"] - 1] == tested["accuracy"]
    np.testing.assert_allclose(history["sigma"], [2.27, *[0.5] * 3])
    # The loss that it chose by is the lowest once delays are narrow: whole delays lose little.
    best = 1 + int(np.argmin(history["val_loss"][1:]))
    assert results["test_accuracy"] == history["test_accuracy"][best]
    model = keras.saving.load_model(tmp_path / "SpeechNet_shd.keras")
    delayed = [layer for layer in model.layers if isinstance(layer, snn.DelayedDense)]
    assert [layer.delays.shape for layer in delayed] == [(140, 4), (4, 20)]
    for layer in delayed:
        delays = keras.ops.convert_to_numpy(layer.delays)
        assert layer.whole and (delays == delays.round()).all()
