"""What conversion reads: preprocessing inside, operations, joins, wrappers; data; refusals."""

import keras
import numpy as np
import pytest
from helpers import first_everywhere, to_numpy
from keras import layers, ops

from keras_snn import graph, training
from keras_snn import layers as snn
from keras_snn.conversion import convert

LEVELS = 8
RAW = np.random.default_rng(0).uniform(0, 255, (4, 6, 6, 3)).astype("float32")


def randomise(model):
    rng = np.random.default_rng(1)
    for layer in graph.flatten_layers(model):
        if isinstance(layer, layers.BatchNormalization):
            n = layer.moving_mean.shape[0]
            layer.set_weights([*rng.normal(size=(3, n)), rng.uniform(0.5, 2, n)])
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return model


def network(before, behind):
    """One layer of quantised ReLUs: its rates after `LEVELS` steps are the ANN's values."""
    keras.utils.set_random_seed(0)
    inputs = layers.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(before(inputs))
    x = behind(snn.ClipFloorShift(LEVELS, 2.0, name="neuron")(x))
    x = layers.Flatten(name="flat")(x) if len(x.shape) > 2 else x
    return randomise(keras.Model(inputs, layers.Dense(3, name="head")(x)))


def scaled(x):
    return x / 255


def same(x):
    return x


def chained(x):
    x = layers.RandomFlip()(layers.Rescaling(1 / 127.5, -1)(x))
    return (2.0 - ops.flip(x, axis=3) * np.array([0.5, 1, 2], "float32")) / 2


def joined(x):
    y = layers.Average()([x, layers.Subtract()([x, ops.transpose(x, (0, 2, 1, 3))])])
    y = ops.concatenate([1.5 * y - 0.25, -x], axis=3)
    return layers.Concatenate(axis=1)([y, ops.flip(y, axis=2)[:, ::2]])


def in_each_row(x):
    row = keras.Sequential(
        [
            layers.Input((6, 4)),
            layers.Conv1D(5, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling1D(),
        ]
    )
    return layers.TimeDistributed(layers.Dense(2))(layers.TimeDistributed(row)(x))


CASES = {
    "all at once": (chained, joined),
    "tf": (keras.applications.mobilenet.preprocess_input, same),
    "caffe": (lambda x: keras.applications.vgg16.preprocess_input(x) / 64, same),
    "torch": (keras.applications.densenet.preprocess_input, same),
    "normalised": (layers.Normalization(mean=[9.0, 99, 0], variance=[4e3, 5e3, 9.0]), same),
    "mean of images": (lambda x: scaled(x - ops.mean(x, axis=(1, 2), keepdims=True)), same),
    "pipeline": (layers.Pipeline([layers.RandomFlip(), layers.Rescaling(0.01)]), same),
    "channels apart": (
        lambda x: ops.concatenate(ops.split(scaled(x), 3, axis=-1)[::-1], axis=-1),
        same,
    ),
    "grey": (lambda x: ops.image.rgb_to_grayscale(scaled(x)), same),
    "resized": (lambda x: layers.Resizing(4, 5)(layers.CenterCrop(5, 5)(scaled(x))), same),
    "thresholded": (lambda x: ops.cast(x > 128, "float32"), same),
    "mean of maps": (scaled, lambda x: ops.mean(x, axis=(1, 2))),
    "mean of channels": (scaled, lambda x: ops.mean(x, axis=-1)),
    "sum": (scaled, lambda x: ops.sum(x, axis=(1, 2))),
    "reshaped": (scaled, lambda x: ops.reshape(x, (-1, 144))),
    "padded": (scaled, lambda x: ops.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0)))),
    "average pool": (scaled, lambda x: ops.average_pool(x, 2, 2)),
    "scale and offset": (scaled, layers.Rescaling([2.0, 1, -1, 0.5], [0.5, 0, 0, 1])),
    "sizes that spread": (scaled, lambda x: x + ops.mean(x, axis=(1, 2), keepdims=True)),
    "rows": (scaled, in_each_row),
    "rows in FoldTime": (scaled, lambda x: snn.FoldTime(layers.Conv1D(2, 3))(x)),
    "subtracted": (scaled, lambda x: x - ops.flip(x, axis=1)),
}


@pytest.mark.parametrize("case", first_everywhere(*CASES))
def test_exact_conversion(case, tmp_path):
    ann = network(*CASES[case])
    spiking, report = convert(ann, RAW, timesteps=LEVELS, check_examples=0)
    wanted, found = ann.predict(RAW, verbose=0), spiking.predict(RAW, verbose=0)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max() + 1e-5)
    assert report.fidelity < 1e-5
    assert any(isinstance(layer, snn.IF) for layer in spiking.layers)
    assert all(layer.axis < 0 for layer in spiking.layers if isinstance(layer, layers.Concatenate))
    if case in ("all at once", "caffe", "rows"):
        spiking.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.predict(RAW, verbose=0), found)


@pytest.mark.once
@pytest.mark.parametrize("method", ["max", "percentile", "model", "spike_norm"])
def test_methods_read_what_is_preprocessed(method):
    """Thresholds of `x / 255` inside are those of images that were divided before."""
    found = []
    for before, images in ((scaled, RAW), (same, RAW / 255)):
        ann = network(before, lambda x: layers.ReLU(name="relu")(layers.Dense(3)(x) - 0.1))
        ann.get_layer("neuron").maximum_weight.assign(1.0)
        report = convert(ann, images, method, 4, calibration_timesteps=8, check_examples=0)[1]
        found.append([entry.threshold for entry in report.layers if entry.neuron])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


@pytest.mark.once
def test_images_are_preprocessed_before_they_are_encoded():
    ann = network(scaled, same)
    spiking, report = convert(ann, RAW, timesteps=2, input_coding="poisson", check_examples=0)
    rates = keras.Model(spiking.inputs, spiking.get_layer("conv").input)
    spikes = to_numpy(rates(RAW))
    assert set(np.unique(spikes)) <= {0, 1}
    assert 0.4 < spikes.mean() < 0.6
    assert report.layers[0].note == "of the input only"


@pytest.mark.once
def test_pooled_currents_before_the_first_neuron():
    """Computed once with direct coding; with random spikes they differ from step to step."""
    inputs = layers.Input((6, 6, 3))
    x = layers.MaxPooling2D(name="pool")(layers.Conv2D(2, 3, padding="same")(inputs))
    ann = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.ReLU()(x))))
    images = RAW / 255
    direct, _ = convert(ann, images, "max", 2, check_examples=0)
    assert isinstance(direct.get_layer("pool"), layers.MaxPooling2D)
    with pytest.raises(ValueError, match="pool .*no exact counterpart"):
        convert(ann, images, "max", 2, input_coding="poisson")
    options = {"input_coding": "poisson", "max_pooling": "spiking", "check_examples": 0}
    spiking, _ = convert(ann, images, "max", 2, **options)
    assert isinstance(spiking.get_layer("pool"), snn.SpikingMaxPooling)


@pytest.mark.once
def test_thresholds_behind_pooled_currents_are_their_largest():
    ann = network(
        scaled,
        lambda x: layers.ReLU(name="relu")(layers.MaxPooling2D()(layers.Conv2D(3, 3)(x))),
    )
    spiking, report = convert(
        ann, RAW, timesteps=12, max_pooling="spiking", calibration_timesteps=12, check_examples=0
    )
    currents = keras.Model(spiking.inputs, spiking.get_layer("relu").input)
    largest = to_numpy(currents(RAW)).max()
    (found,) = [e.threshold for e in report.layers if e.neuron == "relu"]
    assert found == pytest.approx(largest, rel=1e-5)


def test_layers_called_twice():
    relu, dense = layers.ReLU(name="relu"), layers.Dense(6, name="dense")
    inputs = layers.Input((6,))
    x = relu(dense(relu(dense(inputs))))
    ann = randomise(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    spiking, report = convert(ann, x, "max", 400, check_examples=0)
    names = ["dense", "relu", "dense:1", "relu:1", "head"]
    assert [entry.layer for entry in report.layers] == names
    wanted = ann.predict(x, verbose=0)
    assert np.abs(spiking.predict(x, verbose=0) - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.once
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "log_softmax"])
def test_what_is_left_at_the_end_is_applied_before_comparing(activation):
    function = getattr(ops, activation)
    forms = {
        "argument": lambda x: layers.Dense(3, activation=activation)(x),
        "layer": lambda x: layers.Activation(activation)(layers.Dense(3)(x)),
        "operation": lambda x: function(layers.Dense(3)(x)),
    }
    if activation == "softmax":
        forms["other axis"] = lambda x: layers.Softmax(axis=1)(
            layers.Reshape((3, 2))(layers.Dense(6)(x))
        )
    for form in forms.values():
        inputs = layers.Input((4,))
        ann = keras.Model(inputs, form(layers.Dense(5, activation="relu")(inputs)))
        data = np.random.default_rng(0).normal(size=(8, 4))
        _, report = convert(ann, data, "max", 4)
        assert report.fidelity < 1e-5
        assert any("logits" in entry.note for entry in report.layers)


@pytest.mark.once
def test_idle_layers_do_nothing_in_inference():
    images = RAW[:2] / 255
    kinds = [cls for cls, role in graph.ROLES.items() if role.idle]
    names = [cls.__name__ for cls in kinds if hasattr(layers, cls.__name__)]
    arguments = {
        "RandomBrightness": {"factor": 0.5},
        "RandomPosterization": {"factor": 4},
        "RandomContrast": {"factor": 0.5},
        "RandomRotation": {"factor": 0.5},
        "RandomTranslation": {"height_factor": 0.5, "width_factor": 0.5},
        **{f"Random{name}": {"factor": 0.5} for name in ("Hue", "Saturation", "Sharpness")},
        "RandomColorDegeneration": {"factor": 0.5},
        "RandomZoom": {"height_factor": 0.5},
        "ActivityRegularization": {"l1": 0.5},
    }
    rates = ("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "SpatialDropout2D")
    arguments |= {name: {"rate" if "Drop" in name else "stddev": 0.5} for name in rates}
    for name in names:
        if name in ("SpatialDropout1D", "SpatialDropout3D"):
            continue  # of other ranks
        layer = getattr(layers, name)(**arguments.get(name, {}))
        inputs = layers.Input((6, 6, 3))
        found = keras.Model(inputs, layer(inputs))(images, training=False)
        np.testing.assert_array_equal(to_numpy(found), images, err_msg=name)
    assert len(names) > 20


class Unknown(layers.Layer):
    def call(self, x):
        return x


def masked(x):
    return layers.GlobalAveragePooling1D()(layers.Masking(name="bad")(layers.Reshape((-1, 3))(x)))


REFUSED = {
    "two tensors multiplied": (lambda x: layers.Multiply(name="bad")([x, x]), "multiplies two"),
    "two tensors divided": (lambda x: ops.divide(x, x + 1.0), "divides two tensors"),
    "divided by a tensor": (lambda x: 1.0 / x, "divides by a tensor"),
    "constants of a batch": (lambda x: x + np.ones((4, 6, 6, 4)), "more axes"),
    "more channels": (lambda x: x[..., :1] * np.ones(4), "more axes"),
    "a batch reshaped": (lambda x: ops.reshape(x, (-1, 4)), "neither a ReLU nor linear"),
    "a batch turned": (lambda x: ops.flip(x, axis=0), "neither a ReLU nor linear"),
    "a mean of the batch": (lambda x: x - ops.mean(x, axis=0), "neither a ReLU nor linear"),
    "an example": (lambda x: x - x[0], "neither a ReLU nor linear"),
    "power": (lambda x: x**2, "neither a ReLU nor linear"),
    "clipped above 0": (lambda x: ops.clip(x, 0.5, 1), "is a ReLU"),
    "maximum of two": (lambda x: ops.maximum(x, 2 * x), "neither a ReLU nor linear"),
    "maximum of channels": (lambda x: ops.max(x, axis=-1), "all places of a map"),
    "softmax within": (lambda x: ops.softmax(x), "softmax, is supported as an output only"),
    "sigmoid within": (lambda x: layers.Dense(3, "sigmoid", name="bad")(x), "sigmoid.*only"),
    "gelu": (lambda x: layers.Dense(3, "gelu", name="bad")(x), "gelu.*only ReLUs"),
    "a ReLU by name": (lambda x: layers.Activation(lying_relu(), name="bad")(x), "'relu'"),
    "a layer of one's own": (lambda x: Unknown(name="bad")(x), "may do anything"),
    "dense of one's own": (lambda x: Renamed(3, name="bad")(x), "subclass of a known layer"),
    "a crop": (lambda x: layers.RandomCrop(2, 2, name="bad")(x), "only layers that are linear"),
    "a loop": (lambda x: layers.LSTM(3, name="bad")(layers.Reshape((36, 4))(x)), "only ReLUs"),
    "a mask": (masked, "mask"),
    "several outputs": (lambda x: ops.split(x, 2, axis=-1)[0], "several outputs"),
    "not a number": (lambda x: broken(layers.Dense(3, name="bad"))(x), "not finite"),
}


class Renamed(layers.Dense):
    pass


def lying_relu():
    def relu(x):
        return ops.leaky_relu(x)

    return relu


def broken(layer):
    layer.build((None, 6, 6, 4))
    layer.kernel.assign(np.full(layer.kernel.shape, np.nan))
    return layer


@pytest.mark.once
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("max_pooling", ["refuse", "average"])
def test_refused_before_any_work(case, max_pooling):
    behind, reason = REFUSED[case]
    inputs = layers.Input((6, 6, 3))
    x = behind(layers.Conv2D(4, 3, padding="same", activation="relu")(inputs))
    ann = keras.Model(inputs, layers.Dense(2)(layers.ReLU()(x)))

    def never():
        raise AssertionError("work began")
        yield

    with pytest.raises(ValueError, match=f"(?s)can't be converted.*{reason}") as error:
        convert(ann, never(), max_pooling=max_pooling)
    if case != "a mask":  # which operations compute, that are named too
        assert str(error.value).count("\n") == 1  # nothing else is blamed


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("EfficientNetB0", ["silu", "silu", "multiplies two tensors", "sigmoid"]),
        ("ConvNeXtTiny", ["LayerNormalization", "gelu", "LayerScale"]),
    ],
)
def test_every_reason_is_named_once(name, reasons):
    ann = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=2)
    with pytest.raises(ValueError, match="can't be converted") as error:
        convert(ann, None)
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == len(reasons)
    assert all(reason in line and " more (" in line for reason, line in zip(reasons, lines))


@pytest.mark.once
@pytest.mark.parametrize("max_pooling", ["average", "spiking"])
@pytest.mark.parametrize("ending", ["sigmoid", "linear"])
def test_what_was_read_wrongly_is_an_error(monkeypatch, max_pooling, ending):
    """A normalisation over another axis, folded as if over the channels: as many of each."""
    inputs = layers.Input((6, 6, 3))
    x = layers.BatchNormalization(axis=1)(layers.Conv2D(6, 3, padding="same")(inputs))
    x = layers.Flatten()(layers.MaxPooling2D(2)(layers.ReLU()(x)))
    # Saturated outputs would hide what went wrong before them.
    head = layers.Dense(1, ending, bias_initializer=keras.initializers.Constant(50.0))
    ann = keras.Model(inputs, head(x))
    ann.layers[2].set_weights([np.arange(1.0, 7), np.zeros(6), np.arange(6), np.ones(6)])
    monkeypatch.setattr("keras_snn.conversion.reader._channel_axis", lambda layer: -3)
    images = RAW / 255
    for data in (images, [(images, np.zeros(4))], iter([images])):
        with pytest.raises(RuntimeError, match="other outputs"):
            convert(ann, data, "max", 4, max_pooling=max_pooling)
    if max_pooling == "average":
        with pytest.raises(RuntimeError, match="other outputs"):
            training.tandem(ann, 2, max_pooling=max_pooling)


@pytest.mark.once
def test_inputs_and_outputs_keep_their_structure():
    a, b = layers.Input((4,), name="a"), layers.Input((3,), name="b")
    x = layers.Dense(4, activation="relu")(layers.Concatenate(axis=1)([a, b]))
    ann = keras.Model({"b": b, "a": a}, {"out": layers.Dense(2, name="readout")(x)})
    rng = np.random.default_rng(0)
    data = {"a": rng.random((8, 4)), "b": rng.random((8, 3))}
    labels = np.arange(8) % 2
    reference = convert(ann, data, "max", 8)[1]
    forms = [(data, labels), [(data, labels)], iter([data]), [(data, labels, np.ones(8))]]
    for form in forms:
        spiking, report = convert(ann, form, "max", 8)
        assert report.layers[1].threshold == reference.layers[1].threshold
    found = spiking.predict(data, verbose=0)
    assert set(found) == {"out"}
    assert report.over_time.examples == 8
    with pytest.raises(ValueError, match="'b'"):
        convert(ann, {"a": data["a"]})
    with pytest.raises(ValueError, match=r"'a'.*\(8, 5\)"):
        convert(ann, {"a": np.ones((8, 5)), "b": data["b"]})


@pytest.mark.once
def test_loaders_that_give_lists():
    inputs = layers.Input((4,))
    ann = keras.Model(inputs, layers.Dense(2)(layers.Dense(3, activation="relu")(inputs)))
    x, y = np.random.default_rng(0).random((8, 4)), np.arange(8) % 2
    report = convert(ann, iter([[x[:4], y[:4]], [x[4:], y[4:]]]), "max", 4)[1]
    assert report.over_time.measure == "accuracy" and report.over_time.examples == 8


@pytest.mark.once
def test_regression_has_no_accuracy():
    inputs = layers.Input((4,))
    x = np.random.default_rng(0).random((8, 4)).astype("float32")
    for units, labels in ((1, x[:, :1]), (2, x[:, :2]), (1, None), (1, 3 + np.arange(8))):
        ann = keras.Model(inputs, layers.Dense(units)(layers.Dense(3, activation="relu")(inputs)))
        report = convert(ann, x if labels is None else (x, labels), "max", 4)[1]
        assert report.over_time.accuracy is None
        assert report.over_time.firing_rates
        assert "accuracy" not in str(report).lower()
