"""Presets: they load alike on every backend, classify as their table says, and refuse misuse."""

import hashlib
import json
import pathlib

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers

from keras_snn import analysis, applications, datasets, export
from keras_snn import layers as snn
from keras_snn.applications.weights import presets

PRESETS = applications.list_presets()
SAMPLES = pathlib.Path(__file__).with_name("presets")


def network(preset, **changes):
    return getattr(applications, preset.model)(weights=preset.name, **changes)


@pytest.fixture(scope="module", params=PRESETS, ids=lambda x: f"{x.model}-{x.name}")
def loaded(request):
    """A preset, its network, and examples with what it answered where it was trained."""
    with np.load(SAMPLES / request.param.path.name) as file:
        sample = dict(file)
    sample["examples"] = sample["examples"].astype("float32")
    return request.param, network(request.param, classifier_activation=None), sample


def test_answers_and_firing_rates_on_every_backend(loaded):
    _, model, sample = loaded
    answers = to_numpy(model(sample["examples"]))
    # A potential within rounding of its threshold changes a spike, and what follows from it.
    same = np.isclose(answers, sample["logits"], atol=1e-4).all(-1)
    assert same.mean() >= 0.95
    rates = [*analysis.firing_rates(model, sample["examples"]).values()]
    np.testing.assert_allclose(rates, sample["rates"], atol=1e-4)


def labelled(preset, sample):
    """Labelled test examples: the sample's, or, where it is of noise, the data set's own."""
    if "labels" in sample:
        return sample["examples"], sample["labels"]
    name = preset.data["name"]
    tfds = pytest.importorskip("tensorflow_datasets", reason=f"{name} is read by it")
    if not tfds.builder(name).data_path.exists():
        pytest.skip(f"{name} is not in TFDS_DATA_DIR, and is not downloaded for a test")
    return datasets.load(**preset.data, batch_size=500).test.as_numpy_iterator().next()


def test_accuracy_is_that_of_the_table(loaded):
    preset, model, sample = loaded
    examples, labels = labelled(preset, sample)
    right = (model.predict(examples, 64, verbose=0).argmax(-1) == labels).mean()
    error = np.sqrt(preset.accuracy * (1 - preset.accuracy) / len(labels))
    assert right >= preset.accuracy - 3 * error - 1 / len(labels)


def test_a_step_of_a_new_head_lowers_the_loss(loaded):
    preset, _, sample = loaded
    base = network(preset, include_top=False, timesteps=preset.arguments["timesteps"])
    features = snn.MeanOverTime()(snn.FoldTime(layers.Flatten())(base.output))
    model = keras.Model(base.input, layers.Dense(3)(features))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    base.trainable = False  # a new head alone: behind fixed features its gradient is exact
    model.compile(keras.optimizers.SGD(1e-3), loss, run_eagerly=True)
    x, y = sample["examples"][:6], np.arange(6) % 3
    before = float(model.test_on_batch(x, y))
    model.train_on_batch(x, y)
    assert float(model.test_on_batch(x, y)) < before


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the work is TensorFlow's")
def test_export_has_the_same_answers(loaded, tmp_path):
    _, model, sample = loaded
    path = tmp_path / "preset.tflite"
    export.to_tflite(model, path, verify_data=sample["examples"][:2])
    stream = export.StreamingInterpreter(path)
    answers = []
    for example in sample["examples"][:8]:
        (answer,) = stream.step(example[None]).values()
        answers.append(answer[0])
    np.testing.assert_allclose(answers, sample["logits"][:8], atol=1e-4)


@pytest.mark.once
def test_table_and_files():
    assert sum(preset.path.stat().st_size for preset in PRESETS) <= 8e6
    rows = str(PRESETS).splitlines()[1:]
    for preset, row in zip(PRESETS, rows, strict=True):
        assert hashlib.sha256(preset.path.read_bytes()).hexdigest() == preset.checksum
        assert f'- `"{preset.name}"`: ' in getattr(applications, preset.model).__doc__
        data = f"{preset.examples:,} of {preset.data['name']}"
        size = f"{preset.arguments['timesteps']} {100 * preset.accuracy:.2f} %"
        cost = f"{preset.parameters:,} {preset.rate:.3f}"
        run = (preset.recipe, str(preset.seed), preset.date, preset.checksum[:12])
        told = (preset.model, preset.name, data, size, cost, f"{preset.energy / 1000:.3f}", *run)
        assert all(part in " ".join(row.split()) for part in told)


def test_for_fine_tuning():
    headless = applications.SEWResNet8(weights="digits", include_top=False, pooling="avg")
    whole = applications.SEWResNet8(weights="digits")
    assert headless.output_shape == (None, 128) and whole.output_shape == (None, 10)
    for layer in filter(lambda layer: layer.weights, headless.layers):
        for a, b in zip(layer.weights, whole.get_layer(layer.name).weights):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
    inputs = layers.Input((16, 16, 1))
    larger = applications.SEWResNet8(
        weights="digits", include_top=False, input_tensor=inputs, timesteps=2
    )
    assert larger.output_shape == (None, 2, 4, 4, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "imagenet"}, "'digits'.*load_torch_weights.*'imagenet'"),
        ({"weights": 3}, "'digits'.*Received: weights=3"),
        ({"classes": 11}, "classes=10.*classes=11.*include_top=False"),
        ({"input_shape": (16, 16, 1)}, r"\(8, 8, 1\).*\(16, 16, 1\)"),
        ({"input_shape": (8, 8, 3), "include_top": False}, r"\(8, 8, 1\).*\(8, 8, 3\)"),
        ({"input_shape": (4, 8, 8, 1)}, r"\(8, 8, 1\).*\(4, 8, 8, 1\)"),
        ({"neuron": "lif"}, "neuron='if'.*neuron='lif'.*load_keras_weights"),
        ({"norm": "tdbn"}, "norm='bn'.*norm='tdbn'"),
        ({"connect": "and"}, "connect='add'.*connect='and'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        applications.SEWResNet8(**{"weights": "digits"} | arguments)


def test_given_arguments_may_be_those_of_the_preset():
    given = {"input_shape": [8, 8, 1], "classes": 10, "neuron": "IF", "timesteps": 2}
    model = applications.SEWResNet8(weights="digits", **given, name="mine")
    assert model.name == "mine" and model.input_shape == (None, 8, 8, 1)


def test_dtype_is_the_callers():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = applications.SEWResNet8(weights="nmnist", neuron="ParametricLIF")
    finally:
        keras.config.set_dtype_policy("float32")
    neurons = [layer for layer in model.layers if layer.name.endswith("neuron1")]
    assert neurons and all(layer.compute_dtype == "bfloat16" for layer in neurons)


@pytest.mark.once
def test_a_model_without_presets():
    with pytest.raises(ValueError, match="TDBNResNet19: it has none.*'digits'"):
        applications.TDBNResNet19(weights="digits")


def test_preprocessing_is_that_of_training():
    pytest.importorskip("sklearn")
    preset = presets.find("SEWResNet8", "digits")
    raw, _ = datasets.images.digits(seed=0)[1]
    data = datasets.load(**preset.data, batch_size=len(raw))
    np.testing.assert_allclose(preset.preprocess(raw), data.test[0][0], atol=1e-6)
    with pytest.raises(ValueError, match=r"\(batch, 8, 8, 1\).*\(2, 28, 28, 1\)"):
        preset.preprocess(np.ones((2, 28, 28, 1)))
    with pytest.raises(ValueError, match="from 0 to 255.*got 0.0 to 1.0"):
        preset.preprocess(raw / 255)


@pytest.mark.once
def test_saving_replaces_one_row_and_damage_is_found(tmp_path, monkeypatch):
    for path in (presets.TABLE, *(preset.path for preset in PRESETS)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(presets, "HERE", tmp_path)
    monkeypatch.setattr(presets, "TABLE", tmp_path / "presets.json")
    model = network(PRESETS[0])
    found = presets.arrays(model)
    saved = presets.save(PRESETS[0], {name: 2 * value for name, value in found.items()})
    assert [x.checksum == y.checksum for x, y in zip(applications.list_presets(), PRESETS)] == [
        x is not PRESETS[0] for x in PRESETS
    ]
    for weight, value in zip(network(saved).weights, model.weights):
        np.testing.assert_array_equal(to_numpy(weight), 2 * to_numpy(value))
    saved.path.write_bytes(saved.path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        network(saved)
    monkeypatch.setattr(presets, "LIMIT", 1_000_000)
    table = presets.TABLE.read_bytes()
    with pytest.raises(ValueError, match="would have .* bytes; at most 1,000,000"):
        presets.save(PRESETS[0], found)
    assert presets.TABLE.read_bytes() == table
    json.loads(presets.TABLE.read_text())
