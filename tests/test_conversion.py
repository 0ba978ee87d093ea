"""Conversion: the claims of the papers (E1.1-E1.7, 7.3), every layer told, nothing in silence."""

import keras
import numpy as np
import pytest
from helpers import first_everywhere, gradients, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_snn import analysis, conversion, training
from keras_snn import layers as snn
from keras_snn.conversion import convert


def randomise(model, seed=0):
    """Statistics and factors as a trained normalisation has them."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            n = layer.moving_mean.shape[0]
            values = [rng.uniform(0.5, 1.5, n)] * layer.scale + [
                rng.normal(0, 0.2, n)
            ] * layer.center
            layer.set_weights([*values, rng.normal(0, 0.3, n), rng.uniform(0.5, 2, n)])
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return model


def images(count=32, size=12, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 3)).astype("float32")


def predict(model, x):
    return np.asarray(model.predict(x, verbose=0, batch_size=16))


def convolution(x, filters, name, strides=1):
    x = layers.Conv2D(filters, 3, strides, "same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def residual_network():
    inputs = layers.Input((12, 12, 3))
    x = layers.ReLU(name="stem_relu")(convolution(inputs, 8, "stem"))
    y = layers.Activation("relu", name="a_relu")(convolution(x, 8, "a"))
    x = layers.Add(name="add1")([convolution(y, 8, "b"), x])
    x = ops.relu(x)
    y = layers.ReLU(6.0, name="c_relu")(convolution(x, 16, "c", 2))
    shortcut = layers.Conv2D(16, 1, 2, name="shortcut")(x)
    x = layers.ReLU(name="out_relu")(convolution(y, 16, "d") + shortcut)
    x = layers.Dropout(0.5, name="dropout")(layers.GlobalAveragePooling2D(name="pool")(x))
    return randomise(keras.Model(inputs, layers.Dense(5, activation="softmax", name="head")(x)))


def branched_network():
    inputs = layers.Input((12, 12, 3))
    x = layers.Rescaling(0.5, 0.1, name="rescaling")(inputs)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(x)
    x = layers.MaxPooling2D(name="pool1")(x)
    a = layers.Conv2D(4, 1, activation="relu", name="a")(x)
    b = layers.DepthwiseConv2D(3, padding="same", name="b")(x)
    b = ops.relu6(layers.BatchNormalization(name="b_bn")(b))
    c = layers.AveragePooling2D(3, 1, "same", name="c")(x)
    x = layers.Concatenate(name="join")([a, b, c])
    x = layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)
    x = layers.ReLU(name="late_relu")(layers.MaxPooling2D(name="pool2")(x))
    x = keras.activations.relu(layers.Dense(16, name="hidden")(layers.Flatten(name="flat")(x)))
    return randomise(keras.Model(inputs, layers.Dense(5, name="head")(x)))


def preactivation_network():
    inputs = layers.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for i in range(2):
        y = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(name=f"bn{i}")(x))
        x = x + layers.Conv2D(8, 3, padding="same", name=f"conv{i}")(y)
    x = layers.ReLU(name="last")(layers.BatchNormalization(name="last_bn")(x))
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    return randomise(keras.Model(inputs, layers.Dense(5, name="head")(x)))


def nested_network():
    body = keras.Sequential(
        [layers.Conv2D(8, 3, activation="relu", name="conv"), layers.AveragePooling2D(2)],
        name="body",
    )
    return randomise(
        keras.Sequential([layers.Input((12, 12, 3)), body, layers.Flatten(), layers.Dense(5)])
    )


NETWORKS = first_everywhere(
    residual_network, branched_network, preactivation_network, nested_network
)


@pytest.mark.parametrize("network", NETWORKS)
def test_converges_to_the_ann(network):
    ann, x = network(), images(8)
    spiking, report = convert(ann, x, "max", timesteps=512, max_pooling="spiking", check_examples=0)
    assert report.fidelity < 1e-5
    wanted = predict(report.ann, x)
    error = np.abs(predict(spiking, x) - wanted).max() / np.abs(wanted).max()
    rough, _ = convert(ann, x, "max", timesteps=32, max_pooling="spiking", check_examples=0)
    assert error < 0.06 and error < np.abs(predict(rough, x) - wanted).max() / np.abs(wanted).max()


@pytest.mark.once
@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_is_reported(network):
    ann = network()
    before = ann.get_weights()
    spiking, report = convert(ann, images(8), "max", 4, max_pooling="spiking", check_examples=8)
    for old, new in zip(before, ann.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    flat = {layer.name for layer in ann._flatten_layers() if not isinstance(layer, keras.Model)}
    told = {entry.layer.split("/")[-1] for entry in report.layers}
    assert {n for n in flat if not n.startswith("input")} <= told
    neurons = {entry.neuron: entry for entry in report.layers if entry.neuron}
    fired = [layer.name for layer in spiking.layers if isinstance(layer, snn.IF)]
    assert sorted(neurons) == sorted(fired)
    relus = [op for op in keras.Model(ann.inputs, ann.outputs).operations if "relu" in op.name]
    assert len(neurons) >= len(relus)
    for name, entry in neurons.items():
        assert spiking.get_layer(name).cell.threshold == pytest.approx(entry.threshold)
        assert 0 <= entry.firing_rate <= 1 and entry.scale > 0
    assert not any(isinstance(layer, layers.ReLU) for layer in spiking.layers)
    assert str(report).count("\n") >= len(report.layers)
    assert report.to_dict()["layers"][0]["layer"] == report.layers[0].layer


@pytest.mark.once
def test_saved_loaded_and_fitted(tmp_path):
    spiking, _ = convert(branched_network(), images(8), "max", 8, max_pooling="spiking")
    spiking.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(spiking, images(4)), predict(loaded, images(4)))
    before = loaded.get_weights()
    loaded.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = loaded.fit(images(8), np.arange(8) % 5, verbose=0).history["loss"][0]
    assert np.isfinite(loss)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, loaded.get_weights()))


# E1.1
@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1, width=32), st.integers(1, 64))
def test_rate_of_constant_input(rate, timesteps):
    x = np.full((1, timesteps, 1), rate, "float32")
    count = float(to_numpy(snn.IF(reset="soft")(x)).sum())
    assert abs(count / timesteps - rate) < 1 / timesteps + 1e-6


def test_hard_reset_does_not_meet_the_bound():
    x = np.full((1, 128, 1), 0.99, "float32")
    assert abs(to_numpy(snn.IF(reset="hard")(x)).mean() - 0.99) > 0.4


# E1.2
@pytest.mark.parametrize("timesteps", [8, 64, 256])
def test_one_layer_within_its_bound(timesteps):
    ann = keras.Sequential([layers.Input((20,)), layers.Dense(30, activation="relu", name="d")])
    x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
    spiking, report = convert(ann, x, "max", timesteps, check_examples=0)
    (scale,) = [entry.scale for entry in report.layers if entry.neuron]
    assert scale == pytest.approx(predict(ann, x).max(), rel=1e-6)
    assert np.abs(predict(spiking, x) - predict(ann, x)).max() <= scale / timesteps * 1.001


# E1.3
def test_thresholds_and_weights_are_equivalent():
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(6, 8)).astype("float32"), rng.normal(size=(8, 5)).astype("float32")
    x = np.repeat(rng.uniform(0, 1, (16, 1, 6)).astype("float32"), 32, axis=1)
    v1, v2 = 2.0, 0.5  # powers of two: no rounding
    first = snn.IF(threshold=v1, reset="soft")(x @ w1)
    second = to_numpy(snn.IF(threshold=v2, reset="soft")(ops.matmul(first, w2)))
    scaled = snn.IF(reset="soft")(x @ (w1 / v1))
    np.testing.assert_array_equal(to_numpy(first), to_numpy(scaled))
    scaled = to_numpy(snn.IF(reset="soft")(ops.matmul(scaled, w2 / v2)))
    np.testing.assert_array_equal(second, scaled)
    assert 0.05 < second.mean() < 0.95


def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    return (data.images[..., None] / 16).astype("float32"), data.target


@pytest.fixture(scope="module")
def trained():
    """A trained convolutional ANN without biases and normalisation, and held-out digits."""
    keras.utils.set_random_seed(0)
    x, y = digits()
    ann = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(12, 3, padding="same", use_bias=False, activation="relu", name="c1"),
            layers.AveragePooling2D(2),
            layers.Conv2D(24, 3, padding="same", use_bias=False, activation="relu", name="c2"),
            layers.Flatten(),
            layers.Dense(10, use_bias=False, activation="softmax"),
        ]
    )
    ann.compile(
        keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    ann.fit(x[:1400], y[:1400], epochs=12, batch_size=64, verbose=0)
    return ann, x[:1400], x[1400:], y[1400:]


# E1.4
@pytest.mark.once
@pytest.mark.parametrize("method", conversion.convert.__globals__["METHODS"])
def test_trained_network_keeps_its_answers(trained, method):
    ann, train, test, labels = trained
    test, labels = test[:200], labels[:200]
    answers = predict(ann, test).argmax(-1)
    assert (answers == labels).mean() >= 0.9
    spiking, _ = convert(ann, train[:200], method, 256, check_examples=16)
    found = analysis.accuracy_over_time(spiking, (test, answers))
    agreement = [found.accuracy[t - 1] for t in (16, 64, 256)]
    if method == "model":  # the conservative bound: slower, as the paper says
        assert agreement[2] >= 0.9
    else:
        assert agreement[2] >= 0.95 and agreement[1] >= agreement[0] - 0.01
        right = predict(spiking, test).argmax(-1) == labels
        assert abs(right.mean() - (answers == labels).mean()) <= 0.02


# E1.5
@pytest.mark.once
def test_spike_norm_thresholds(trained):
    ann, train, _, _ = trained
    spiking, report = convert(ann, train[:64], "spike_norm", 100, check_examples=0)
    found = {e.neuron: e.threshold for e in report.layers if e.neuron}
    _, bounds = convert(ann, train[:64], "model", 100, check_examples=0)
    for entry in bounds.layers:
        if entry.neuron:
            assert found[entry.neuron] <= entry.threshold * (1 + 1e-6)
    kernel = ann.get_layer("c1").get_weights()[0]
    assert found["c1_neuron"] <= np.maximum(kernel, 0).sum((0, 1, 2)).max() + 1e-5
    for name, threshold in found.items():
        currents = keras.Model(spiking.inputs, spiking.get_layer(name).input)
        largest = predict(currents, train[:64]).max()
        assert largest == pytest.approx(threshold, rel=1e-5)


# E1.6
@pytest.mark.parametrize(
    "layer, reason",
    [
        (layers.MaxPooling2D(name="bad"), "max_pooling"),
        (layers.Conv2D(3, 3, activation="tanh", name="bad"), "tanh"),
        (layers.LeakyReLU(name="bad"), "only ReLUs"),
        (layers.ReLU(negative_slope=0.1, name="bad"), "slope"),
        (layers.LayerNormalization(name="bad"), "only ReLUs"),
        (layers.Activation("softmax", name="bad"), "output only"),
        (layers.Lambda(lambda x: 2.0 * x, name="bad"), "anything"),
    ],
)
def test_refuses_by_name_before_any_work(layer, reason):
    inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    outputs = layers.Dense(2)(layers.Flatten()(layer(x)))

    def never():
        raise AssertionError("work began")
        yield

    with pytest.raises(ValueError, match=f"(?s)bad.*{reason}"):
        convert(keras.Model(inputs, outputs), never())


def test_refuses_all_at_once_and_subclasses():
    class Mine(layers.Dense):
        def call(self, x):
            return ops.tanh(super().call(x))

    class Whole(keras.Model):
        def call(self, x):
            return x

    ann = keras.Sequential([layers.Input((4,)), Mine(3, name="mine"), layers.ELU(name="elu")])
    with pytest.raises(ValueError, match="(?s)mine.*subclass.*elu"):
        convert(ann, np.ones((2, 4)))
    with pytest.raises(TypeError, match="functional"):
        convert(Whole(), np.ones((2, 4)))
    with pytest.raises(ValueError, match="no ReLU"):
        convert(keras.Sequential([layers.Input((4,)), layers.Dense(2)]), np.ones((2, 4)))
    inputs = layers.Input((4,))
    x = layers.ReLU()(layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="multiplies two tensors"):
        convert(keras.Model(inputs, x * x), np.ones((2, 4)))


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"method": "best"}, ValueError),
        ({"timesteps": 0}, ValueError),
        ({"percentile": 101}, ValueError),
        ({"reset": "none"}, ValueError),
        ({"initial_potential": 0.5, "reset": "hard"}, ValueError),
        ({"calibration_data": np.ones((0, 4))}, ValueError),
        ({"calibration_data": np.full((2, 4), np.nan)}, ValueError),
        ({"calibration_data": 3}, TypeError),
        ({"calibration_data": [np.ones((2, 4)), np.ones((2, 4))]}, ValueError),
        ({"neuron": "accumulator"}, ValueError),
        ({"threshold_scale": -1.0}, ValueError),
    ],
)
def test_bad_arguments(arguments, error):
    ann = keras.Sequential([layers.Input((4,)), layers.Dense(3, activation="relu")])
    with pytest.raises(error):
        convert(ann, **({"calibration_data": np.ones((2, 4))} | arguments))


def normalized_over(axis):
    """As many rows and columns as channels: no shape tells which axis is meant."""
    inputs = layers.Input((6, 6, 3))
    norm = layers.BatchNormalization(axis=axis, name="bn")
    x = layers.ReLU(name="relu")(norm(layers.Conv2D(4, 3)(inputs)))
    ann = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.MaxPooling2D(2)(x))))
    norm.set_weights([np.arange(1.0, 5), np.zeros(4), np.array([1, -2, 3, -4]), np.ones(4)])
    return ann


@pytest.mark.once
@pytest.mark.parametrize("axis, max_pooling", [(1, "average"), (2, "spiking")])
def test_normalization_over_another_axis_is_not_folded(axis, max_pooling):
    ann, x = normalized_over(axis), images(8, 6)
    spiking, report = convert(ann, x, "max", 4, max_pooling=max_pooling, check_examples=0)
    read, wanted = (keras.Model(m.inputs, m.get_layer("relu").output) for m in (report.ann, ann))
    np.testing.assert_allclose(predict(read, x), predict(wanted, x), rtol=1e-4, atol=1e-4)
    assert "bn" in [layer.name for layer in spiking.layers]


@pytest.mark.once
def test_an_ann_that_was_read_wrongly_is_an_error_with_spiking_pooling(monkeypatch):
    monkeypatch.setattr("keras_snn.conversion.reader._channel_axis", lambda layer: -2)
    with pytest.raises(RuntimeError, match="other outputs"):
        convert(normalized_over(2), images(4, 6), "max", 4, max_pooling="spiking")


@pytest.mark.once
def test_quantized_and_low_rank_layers():
    ann = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, activation="relu", name="bad"), layers.Dense(2)]
    )
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    ann.layers[0].enable_lora(2)
    ann.layers[0].lora_kernel_b.assign(np.ones((2, 3)))
    _, report = convert(ann, x, "max", 4, check_examples=0)
    np.testing.assert_allclose(predict(report.ann, x), predict(ann, x), rtol=1e-4, atol=1e-5)
    ann.quantize("int8")
    with pytest.raises(ValueError, match="(?s)bad.*int8"):
        convert(ann, x)


def test_global_max_pooling_of_an_open_size_is_refused():
    inputs = layers.Input((None, None, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    ann = keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling2D(name="bad")(x)))
    with pytest.raises(ValueError, match="(?s)bad.*size"):
        convert(ann, images(2), "max", 4, max_pooling="spiking")


def test_a_single_unit_decides_between_two_classes():
    x = np.linspace(-1, 1, 20)[:, None].astype("float32")
    labels = (x[:, 0] > 0).astype(int)
    ann = keras.Sequential(
        [
            layers.Input((1,)),
            layers.Dense(2, activation="relu", use_bias=False),
            layers.Dense(1, activation="sigmoid", use_bias=False),
        ]
    )
    ann.set_weights([np.array([[1.0, -1.0]]), np.array([[4.0], [-4.0]])])
    for data, measure in (((x, labels), "Accuracy"), (x, "Agreement with the ANN")):
        _, report = convert(ann, data, "max", 64)
        assert report.over_time.accuracy[-1] == 1.0
        assert f"{measure} on 20 examples" in str(report)
        assert report.over_time.to_dict()["measure"] == measure.replace("A", "a", 1)


@pytest.mark.once
def test_early_exit_of_a_single_unit():
    inputs = layers.Input((1,))
    logit = snn.SumOverTime()(snn.RepeatTime(12)(inputs))
    data = np.array([[1.0], [0.2], [-1.0]]), np.array([1, 0, 0])
    for output in (logit, ops.sigmoid(logit), layers.Activation("sigmoid")(logit)):
        found = analysis.accuracy_over_time(keras.Model(inputs, output), data, confidence=0.9)
        # sigmoid(x t) passes 0.9 at x t = ln 9 = 2.197.
        np.testing.assert_allclose(found.decided, [0, 0] + [2 / 3] * 8 + [1] * 2)
        np.testing.assert_allclose(found.accuracy, 2 / 3)


def test_silent_layer_is_an_error():
    ann = keras.Sequential([layers.Input((4,)), layers.Dense(3, activation="relu", name="dead")])
    ann.layers[0].set_weights([-np.ones((4, 3)), np.zeros(3)])
    with pytest.raises(ValueError, match="dead_neuron"):
        convert(ann, np.ones((2, 4)))


# E1.7
def test_junction_needs_equal_thresholds():
    rng, timesteps = np.random.default_rng(0), 256
    a, b = rng.uniform(0, 1, (2, 200)).astype("float32")
    steps = np.ones((1, timesteps, 1), "float32")

    def junction(va, vb):
        first = to_numpy(snn.IF(va, reset="soft")(a * steps))
        second = to_numpy(snn.IF(vb, reset="soft")(b * steps))
        joined = to_numpy(snn.IF(2.0, reset="soft")(first + second))
        return 2 * joined.mean(1)[0]

    equal = junction(1.0, 1.0)
    assert np.abs(equal - (a + b)).max() <= 4 / timesteps
    np.testing.assert_allclose(junction(1.0, 2.0), a + b / 2, atol=5 / timesteps)


@pytest.mark.once
@pytest.mark.parametrize("method", ["max", "spike_norm"])
def test_paths_of_a_junction_carry_spikes_of_one_worth(method):
    inputs = layers.Input((6,))
    x = layers.Dense(12, activation="relu", name="stem")(inputs)
    y = layers.Dense(12, activation="relu", name="branch")(x)
    y = layers.ReLU(name="late")(layers.Dense(12, use_bias=False, name="last")(y) + x)
    ann = keras.Model(inputs, layers.Dense(3)(y))
    ann.get_layer("branch").kernel.assign(4 * ann.get_layer("branch").kernel)
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    spiking, report = convert(ann, x, method, 512, check_examples=0)
    scales = {e.neuron: e.scale for e in report.layers if e.neuron}
    if method == "max":
        assert scales["branch_neuron"] == pytest.approx(scales["stem_neuron"])
    else:  # the branch's weights take the ratio in
        ratio = scales["branch_neuron"] / scales["stem_neuron"]
        assert ratio > 1.5
        np.testing.assert_allclose(
            spiking.get_layer("last").get_weights()[0],
            ann.get_layer("last").get_weights()[0] * ratio,
            rtol=1e-5,
        )
    assert not any("_in_" in layer.name for layer in spiking.layers)
    wanted = predict(ann, x)
    assert np.abs(predict(spiking, x) - wanted).max() < 0.05 * np.abs(wanted).max()


def test_residual_rule():
    ann = residual_network()
    _, report = convert(ann, images(8), "spike_norm", 4, residual="unit", check_examples=0)
    found = {e.neuron: e.threshold for e in report.layers if e.neuron}
    assert found.pop("stem_relu") != 1 and set(found.values()) == {1.0}


def test_capped_relu_caps_the_rate():
    ann = keras.Sequential([layers.Input((1,)), layers.Dense(1, use_bias=False), layers.ReLU(6.0)])
    ann.layers[0].set_weights([np.ones((1, 1))])
    x = np.array([[4.0], [6.0], [9.0]], "float32")
    spiking, report = convert(ann, x, "spike_norm", 64, check_examples=0)
    assert report.layers[-1].threshold == 6.0 and "6" in report.layers[-1].note
    np.testing.assert_allclose(predict(spiking, x), predict(ann, x), atol=6 / 64)


def test_bias_is_a_current_of_every_step():
    ann = keras.Sequential(
        [layers.Input((1,)), layers.Dense(1, activation="relu"), layers.Dense(1)]
    )
    ann.set_weights([np.zeros((1, 1)), np.array([0.5]), np.ones((1, 1)), np.array([-2.0])])
    x = np.zeros((1, 1), "float32")
    for timesteps in (1, 10, 100):
        spiking, _ = convert(ann, x, "max", timesteps, check_examples=0)
        assert predict(spiking, x)[0, 0] == pytest.approx(-1.5, abs=1e-6)


def test_poisson_coding_and_accumulator():
    rng = np.random.default_rng(0)
    ann = keras.Sequential(
        [layers.Input((8,)), layers.Dense(6, activation="relu"), layers.Dense(3)]
    )
    x = rng.uniform(-1, 1, (16, 8)).astype("float32")
    spiking, _ = convert(ann, x, "max", 2000, input_coding="poisson", check_examples=0)
    wanted = predict(ann, x)
    error = np.abs(predict(spiking, x) - wanted)
    assert error.max() < 0.12 and 0 < error.mean() < 0.04
    summed, report = convert(ann, x, "max", 50, readout="accumulator", check_examples=0)
    mean, _ = convert(ann, x, "max", 50, check_examples=0)
    (scale,) = [entry.scale for entry in report.layers if entry.neuron]
    worth = predict(summed, x) * scale / 50
    np.testing.assert_allclose(worth, predict(mean, x), rtol=1e-4, atol=1e-4)
    # E3.7: the accumulator is the last layer's weights on the spike counts.
    counts = predict(keras.Model(summed.inputs, ops.sum(summed.layers[-3].output, axis=1)), x)
    np.testing.assert_allclose(
        predict(summed, x), counts @ ann.layers[-1].get_weights()[0], rtol=1e-5, atol=1e-5
    )


def test_several_inputs_and_outputs():
    a, b = layers.Input((4,), name="a"), layers.Input((3,), name="b")
    x = layers.Dense(8, activation="relu")(a) + layers.Dense(8, activation="relu")(b)
    x = layers.Dense(8, activation="relu", name="joined")(x)
    ann = keras.Model([a, b], [layers.Dense(2, name="one")(x), layers.Dense(3, name="two")(x)])
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(16, n)).astype("float32") for n in (4, 3)]
    spiking, _ = convert(ann, data, "max", 256)
    for ours, theirs in zip(spiking.predict(data, verbose=0), ann.predict(data, verbose=0)):
        assert np.abs(ours - theirs).max() < 0.03 * np.abs(theirs).max()


@pytest.mark.once
def test_calibration_data_of_all_kinds():
    ann = keras.Sequential([layers.Input((4,)), layers.Dense(3, activation="relu")])
    x = np.random.default_rng(0).random((10, 4)).astype("float32")
    y = np.zeros(10, int)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return x[2 * i : 2 * i + 2], y[2 * i : 2 * i + 2]

    wanted = convert(ann, x, "percentile", 4, percentile=90)[1].layers[-1].threshold
    every = predict(ann, x)
    assert wanted == pytest.approx(np.percentile(every, 90), rel=1e-6)
    for data in ((x, y), Batches(), [(x[:5], y[:5]), (x[5:], y[5:])], iter([x[:3], x[3:]])):
        report = convert(ann, data, "percentile", 4, percentile=90, batch_size=3)[1]
        assert report.layers[-1].threshold == pytest.approx(wanted, rel=1e-6)
    assert convert(ann, (x, y), timesteps=4)[1].over_time.examples == 10


def test_spiking_max_pooling_follows_rates():
    rng = np.random.default_rng(0)
    rates = rng.uniform(0, 1, (2, 1, 6, 6, 3)).astype("float32")
    spikes = snn.IF(reset="soft")(rates * np.ones((1, 400, 1, 1, 1), "float32"))
    for size, strides, padding in ((2, None, "valid"), (3, 2, "same"), ((2, 3), (2, 1), "valid")):
        layer = snn.SpikingMaxPooling(size, strides, padding)
        pooled = to_numpy(layer(spikes))
        assert set(np.unique(pooled)) == {0, 1}
        counts = ops.sum(spikes, axis=1)
        wanted = to_numpy(ops.max_pool(counts, size, strides or size, padding))
        assert pooled.shape == layer.compute_output_shape(spikes.shape)
        np.testing.assert_array_equal(pooled.sum(1), wanted)
    x = to_numpy(spikes)[:, :4]
    _, (dx,), _ = gradients(lambda z: ops.sum(snn.SpikingMaxPooling(2)(z) ** 2), [], x)
    assert np.isfinite(dx).all() and np.abs(dx).max() > 0


# QCFS
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 16), st.floats(0.25, 4))
def test_clip_floor_shift_is_the_neuron(levels, maximum):
    x = np.random.default_rng(0).normal(0, maximum, (1, 200)).astype("float32")
    share = x.astype("float64") * levels / maximum + 0.5
    x = x[:, np.abs(share - np.round(share))[0] > 1e-3]
    activation = to_numpy(snn.ClipFloorShift(levels, maximum)(x))
    neuron = snn.IF(maximum, reset="soft", v_reset=maximum / 2)
    rate = to_numpy(neuron(x[:, None] * np.ones((1, levels, 1), "float32"))).mean(1)
    np.testing.assert_allclose(maximum * rate, activation, atol=1e-5 * maximum)


def test_clip_floor_shift_converts_exactly():
    keras.utils.set_random_seed(1)
    ann = keras.Sequential(
        [layers.Input((6,)), layers.Dense(20), snn.ClipFloorShift(8, 2.0), layers.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    spiking, report = convert(ann, x, timesteps=8)
    assert report.layers[1].threshold == 2.0
    np.testing.assert_allclose(predict(spiking, x), predict(ann, x), atol=1e-4)


def test_clip_floor_shift_learns():
    layer = snn.ClipFloorShift(4, 2.0)
    x = np.array([-1.0, 0.0, 0.7, 1.9, 2.0, 3.0], "float32")
    layer.build(x.shape)
    _, (dx,), (dm,) = gradients(lambda z: ops.sum(layer(z)), layer.trainable_variables, x)
    np.testing.assert_allclose(dx, [0, 1, 1, 1, 1, 0], atol=1e-6)  # as torch.clamp has it
    # d/dm of m (level) and of the straight-through share: y/m - x/m within, 1 above.
    level = np.array([0, 0, 0.25, 1, 1, 1])
    share = np.array([0, 0, 0.35, 0.95, 1, 0])
    np.testing.assert_allclose(dm, np.sum(level - share), atol=1e-5)


# 7.3
def small_ann():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(32, activation="relu", name="one"),
            layers.Dense(24, activation="relu", name="two"),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )


def test_tandem_is_the_ann_until_it_fires():
    ann, x = small_ann(), np.random.default_rng(0).random((16, 64)).astype("float32")
    model = training.tandem(ann, 16)
    logits = (
        predict(keras.Model(ann.inputs, ann.get_layer("two").output), x)
        @ (ann.get_layer("head").get_weights()[0])
    )
    np.testing.assert_allclose(predict(model, x), logits, atol=1e-5)


def test_tandem_counts_and_gradient():
    x = np.random.default_rng(0).normal(0.3, 0.5, (4, 1, 30)).astype("float32")
    x = np.repeat(x, 16, axis=1)
    layer = training.Tandem()
    layer.build(x.shape)
    layer.threshold.assign(0.8)
    layer.active.assign(1.0)
    y = to_numpy(layer(x))
    counts = y.sum(1) / 0.8
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    counts = np.round(counts)
    assert counts.min() == 0 and counts.max() <= 16
    mean = np.clip(x.mean(1), 0, 0.8)
    assert np.abs(y.mean(1) - mean).max() <= 0.8 / 16 + 1e-5
    _, (dx,), _ = gradients(lambda z: ops.sum(ops.mean(layer(z), axis=1)), [], x)
    np.testing.assert_allclose(dx, np.where(x > 0, 1 / 16, 0), atol=1e-6)


def test_tandem_takes_an_image_at_the_first_step_only():
    rng, steps = np.random.default_rng(2), 6
    weights = [rng.normal(0, 0.3, (5, 4)), rng.normal(0, 0.2, 4), rng.normal(0, 1, (4, 2))]
    ann = keras.Sequential(
        [layers.Input((5,)), layers.Dense(4, "relu", name="one"), layers.Dense(2, use_bias=False)]
    )
    ann.set_weights([w.astype("float32") for w in weights])
    model = training.tandem(ann, steps)
    model.get_layer("one_neuron").active.assign(1.0)
    model.get_layer("one_neuron").threshold.assign(0.9)
    x = rng.random((3, 5)).astype("float32")
    # As their code counts: the image once, a share of the bias each step, spikes at V = theta / T
    # that count 1. Worth theta and divided by T, the counts are our mean.
    kernel, bias, head = weights
    potential, counts = np.zeros((3, 4)), np.zeros((3, 4))
    for step in range(steps):
        potential = potential + (x.astype("float64") @ kernel if step == 0 else 0) + bias / steps
        fired = potential >= 0.9 / steps
        counts, potential = counts + fired, potential - fired * 0.9 / steps
    assert counts.min() == 0 and counts.max() > 1
    np.testing.assert_allclose(predict(model, x), counts * 0.9 / steps @ head, atol=1e-5)
    np.testing.assert_allclose(
        predict(training.to_spiking(model), x), counts * 0.9 / steps @ head, atol=1e-5
    )
    direct = training.tandem(ann, steps, input_coding="direct")
    assert {type(layer).__name__ for layer in direct.layers} >= {"RepeatTime", "Tandem"}
    with pytest.raises(ValueError, match="`input_coding`.*'once'"):
        training.tandem(ann, steps, input_coding="once")


@pytest.mark.once
def test_progressive_schedule_freezes_a_layer_as_soon_as_it_fires():
    x, y = digits()
    x, y = x.reshape(-1, 64)[:400], y[:400]
    model = training.tandem(small_ann(), 8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    seen, wanted = [], []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            fires = float(ops.convert_to_numpy(model.get_layer("two_neuron").active))
            trainable = [model.get_layer(name).trainable for name in ("one", "two", "head")]
            seen.append((fires, trainable, model.get_layer("two").get_weights()[0]))

        def on_epoch_end(self, epoch, logs=None):
            # The threshold is that of the weights after this epoch, not of the best ones.
            if seen[-1][0] == 0:
                probe = keras.Model(model.inputs, model.get_layer("two_neuron").input)
                found = predict(probe, x[:100]).mean(axis=1)
                wanted.append(np.percentile(np.maximum(found, 0), 99.0))

    schedule = training.ProgressiveTandem(x[:100], 2, percentile=99.0, monitor="val_loss")
    watch = [Watch(), schedule]
    model.fit(x, y, validation_split=0.2, epochs=60, verbose=0, callbacks=watch)
    assert next(trainable for fires, trainable, _ in seen if fires == 0) == [True, True, True]
    late = [(trainable, kernel) for fires, trainable, kernel in seen if fires == 1]
    assert len(late) > 2 and all(trainable == [False, False, True] for trainable, _ in late)
    for _, kernel in late[1:]:
        np.testing.assert_array_equal(kernel, late[0][1])
    threshold = float(ops.convert_to_numpy(model.get_layer("two_neuron").threshold))
    np.testing.assert_allclose(threshold, wanted[-1], rtol=1e-6)
    with pytest.raises(ValueError, match="`freeze`.*'never'"):
        training.ProgressiveTandem(x[:100], freeze="never")


@pytest.mark.once
def test_progressive_schedule_freezes():
    x, y = digits()
    x = x.reshape(-1, 64)[:400]
    model = training.tandem(small_ann(), 8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.1), loss, metrics=["accuracy"])
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            state = {n: model.get_layer(n).get_weights()[0].copy() for n in ("one", "two")}
            fires = {
                n: float(ops.convert_to_numpy(model.get_layer(f"{n}_neuron").active))
                for n in ("one", "two")
            }
            seen.append((fires, state, model.get_layer("one").trainable))

    schedule = training.ProgressiveTandem(x[:100], patience=1, monitor="val_loss", freeze="trained")
    model.fit(x, y[:400], validation_split=0.2, epochs=40, verbose=0, callbacks=[schedule, Watch()])
    fires = [f for f, _, _ in seen]
    assert fires[0] == {"one": 1, "two": 0} and fires[-1] == {"one": 1, "two": 1}
    frozen = [s["one"] for f, s, trainable in seen if not trainable]
    assert len(frozen) > 2
    for weights in frozen[1:]:
        np.testing.assert_array_equal(weights, frozen[0])
    loose = [s["two"] for f, s, _ in seen if f["two"] == 0]
    assert np.abs(loose[0] - loose[-1]).max() > 0
    spiking = training.to_spiking(model)
    np.testing.assert_allclose(predict(spiking, x), predict(model, x), atol=1e-4)
    assert {type(layer).__name__ for layer in spiking.layers} >= {"IF"}
    with pytest.raises(ValueError, match="Tandem"):
        small = small_ann()
        small.compile("adam", loss)
        small.fit(x, y[:400], verbose=0, callbacks=[schedule])


@pytest.mark.once
def test_parity_with_spikingjelly():
    torch = pytest.importorskip("torch", exc_type=ImportError)
    base = "spikingjelly.activation_based"
    ann2snn = pytest.importorskip(f"{base}.ann2snn", exc_type=ImportError)
    functional = pytest.importorskip(f"{base}.functional", exc_type=ImportError)
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(8, 12, 3, padding=1, bias=False),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(12 * 36, 5),
    )
    with torch.no_grad():
        theirs[1].running_mean.normal_(0, 0.3)
        theirs[1].running_var.uniform_(0.5, 2)
        theirs[1].weight.uniform_(0.5, 1.5)
    theirs.eval()
    w = [p.detach().numpy() for p in theirs.parameters()]
    ours = keras.Sequential(
        [
            layers.Input((12, 12, 3)),
            layers.Conv2D(8, 3, padding="same"),
            layers.BatchNormalization(epsilon=1e-5),
            layers.ReLU(name="first"),
            layers.AveragePooling2D(2),
            layers.Conv2D(12, 3, padding="same", use_bias=False),
            layers.ReLU(name="second"),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )
    dense = w[5].reshape(5, 12, 6, 6).transpose(2, 3, 1, 0).reshape(-1, 5)
    mean, variance = theirs[1].running_mean.numpy(), theirs[1].running_var.numpy()
    kernels = [w[0].transpose(2, 3, 1, 0), w[4].transpose(2, 3, 1, 0)]
    ours.set_weights([kernels[0], w[1], w[2], w[3], mean, variance, kernels[1], dense, w[6]])
    x, timesteps = images(16), 64
    z = torch.tensor(x.transpose(0, 3, 1, 2))
    for mode, method, percentile in (("Max", "max", 100.0), ("99.0%", "percentile", 99.0)):
        recipe = ann2snn.RateCodingRecipe(dataloader=[(z, 0)], mode=mode, momentum=0.1)
        peer = ann2snn.Converter(recipe=recipe).convert(theirs)
        scales = [
            1 / float(m.scale) for m in peer.modules() if type(m).__name__ == "VoltageScaler"
        ][::2]
        functional.reset_net(peer)
        with torch.no_grad():
            logits = sum(peer(z) for _ in range(timesteps)).numpy() / timesteps
        spiking, report = convert(
            ours, x, method, timesteps, percentile=percentile, check_examples=0
        )
        found = [entry.scale for entry in report.layers if entry.neuron]
        np.testing.assert_allclose(found, scales, rtol=1e-4)
        difference = np.abs(predict(spiking, x) - logits).max(-1)
        # A tie that rounding decides moves a spike by a step: rates, not trains, are compared.
        assert np.median(difference) < 1e-3 * np.abs(logits).max()
        assert difference.max() < 0.02 * np.abs(logits).max()


@pytest.mark.once
@pytest.mark.parametrize("name", ["ResNet50", "VGG16", "MobileNet"])
def test_keras_applications_layer_by_layer(name, large_models):
    """Each neuron layer, driven by the ANN's own activations, meets the bound of E1.2."""
    options = {"weights": None, "input_shape": (64, 64, 3), "classes": 10}
    ann = randomise(getattr(keras.applications, name)(**options))
    x = images(2, 64)
    spiking, report = convert(ann, x, "max", 256, max_pooling="spiking", check_examples=0)
    assert report.fidelity < 1e-4
    told = {entry.layer for entry in report.layers}
    assert told >= {op.name for op in ann.operations if not isinstance(op, layers.InputLayer)}
    scales = {e.neuron: e.scale for e in report.layers if e.neuron}
    reference = keras.Model(
        report.ann.inputs, [report.ann.get_layer(neuron).output for neuron in scales]
    )
    activations = dict(zip(scales, reference.predict(x, verbose=0)))
    timesteps, checked = 256, 0
    stops = {spiking.get_layer(n).output for n in scales}
    names = {id(spiking.get_layer(n).output): n for n in scales}
    for neuron in list(scales)[:: max(1, len(scales) // 6)]:
        layer = spiking.get_layer(neuron)
        sources = _sources(layer.input, {id(t) for t in stops})
        if not sources or any(id(s) not in names for s in sources):
            continue  # the first layers read the images
        currents = keras.Model(sources, layer.input)
        if any(isinstance(part, snn.SpikingMaxPooling) for part in currents.layers):
            continue  # spikes, not rates, are what it reads
        rates = [activations[names[id(s)]] / scales[names[id(s)]] for s in sources]
        steps = [np.repeat(rate[:, None], timesteps, axis=1) for rate in rates]
        current = np.asarray(
            currents.predict(
                [s[:, :1].repeat(timesteps, 1)[:1] for s in steps], verbose=0, batch_size=1
            )
        )
        fired = to_numpy(snn.IF(layer.cell.threshold, reset="soft")(current))
        error = np.abs(scales[neuron] * fired.mean(1) - activations[neuron][:1])
        assert error.max() <= scales[neuron] / timesteps * 1.01
        checked += 1
    assert checked >= 4


def _sources(tensor, stops):
    """The nearest tensors behind `tensor` that are in `stops`, or inputs."""
    found = {}

    def visit(t):
        if id(t) in stops or not t._keras_history.operation._inbound_nodes[0].input_tensors:
            found[id(t)] = t
            return
        node = t._keras_history.operation._inbound_nodes[t._keras_history.node_index]
        for source in node.input_tensors:
            visit(source)

    visit(tensor)
    return list(found.values())


# 3.9
def test_stdb_slope():
    cell = snn.STDBLIFCell(alpha=0.3, beta=0.01)
    gaps = np.array([1, 10, 100, 1000], "float32")
    v = np.full((4,), 0.4, "float32")

    def spikes(v):
        return ops.sum(cell.step(ops.zeros(4), [v, ops.convert_to_tensor(gaps - 1)])[0])

    _, (slope,), _ = gradients(spikes, [], v)
    np.testing.assert_allclose(slope, [0.29701, 0.27145, 0.11036, 1.362e-5], rtol=1e-3)
    flat = snn.STDBLIFCell(alpha=0.5, beta=0.0)
    _, (slope,), _ = gradients(
        lambda v: ops.sum(flat.step(ops.zeros(4), [v, ops.convert_to_tensor(gaps)])[0]), [], v
    )
    np.testing.assert_allclose(slope, 0.5, rtol=1e-6)
    linear = snn.STDBLIFCell(alpha=0.3, slope="linear", threshold=2.0)
    _, (slope,), _ = gradients(
        lambda v: ops.sum(linear.step(ops.zeros(4), [v, ops.convert_to_tensor(gaps)])[0]), [], v
    )
    np.testing.assert_allclose(slope, 0.3 * (1 - 0.8) / 2, rtol=1e-5)


@pytest.mark.parametrize("slope", ["time", "linear"])
def test_stdb_is_the_authors(slope):
    """Spikes and the gradient through time of Rathi et al.'s code, in float64."""
    leak, threshold, alpha, beta, steps = 0.9, 0.7, 0.3, 0.2, 12
    rng = np.random.default_rng(0)
    x, weights = rng.normal(0.3, 0.5, (2, 5, steps)), rng.normal(size=(5, steps))
    u, last, slopes, spikes = np.zeros((2, 5)), np.full((2, 5), -1000.0), [], []
    for t in range(steps):
        z = u / threshold - 1
        by_time = alpha * np.exp(-beta * (t - 1 - last))
        slopes.append(by_time if slope == "time" else alpha * np.maximum(1 - np.abs(z), 0))
        spikes.append(z > 0)
        last = np.where(z > 0, t - 1, last)
        u = leak * u + x[..., t] - threshold * (z > 0)  # no gradient through the reset
    wanted, g = np.zeros_like(x), np.zeros((2, 5))
    for t in reversed(range(steps)):
        wanted[..., t] = g
        g = leak * g + weights[:, t] * slopes[t] / threshold
    layer = snn.STDBLIF(leak, alpha, beta, slope, threshold=threshold)
    weights, x = weights.T.astype("float32"), x.transpose(0, 2, 1).astype("float32")
    _, (found,), _ = gradients(lambda z: ops.sum(ops.multiply(layer(z), weights)), [], x)
    spikes = np.stack(spikes, 1)
    np.testing.assert_array_equal(to_numpy(layer(x)), spikes)
    assert 0.1 < spikes.mean() < 0.5
    np.testing.assert_allclose(found, wanted.transpose(0, 2, 1), rtol=1e-4, atol=1e-7)


def test_stdb_learns_leak_and_threshold():
    layer = snn.STDBLIF(trainable_threshold=True, trainable_decay=True, decay=0.9)
    x = np.random.default_rng(0).normal(0.5, 1, (2, 8, 5)).astype("float32")
    layer.build(x.shape)
    _, (dx,), found = gradients(lambda z: ops.sum(layer(z)), layer.trainable_variables, x)
    assert len(found) == 2 and all(np.abs(g).max() > 0 for g in (dx, *found))
    plain = to_numpy(snn.STDBLIF(decay=0.9)(x))
    np.testing.assert_array_equal(to_numpy(layer(x)), plain)


@pytest.mark.once
def test_delay_of_each_layer(trained):
    """E3.1: with H hidden layers the outputs are zero for the first H steps."""
    ann, train, test, _ = trained
    model, _ = convert(
        ann, train[:64], neuron="stdblif", timesteps=12, readout="accumulator", check_examples=0
    )
    steps = analysis.accuracy_over_time.__globals__["Rollout"](model, 4)
    outputs = np.concatenate([o[0] for o, _ in steps.run(test[:8], 12)], axis=1)
    assert not np.any(outputs[:, :2]) and np.any(outputs[:, 2:])


@pytest.mark.once
def test_lower_thresholds_fire_more_and_fine_tuning_helps(trained):
    """E3.3, E3.4: at few steps."""
    ann, train, test, labels = trained
    found = {}
    for scale in (1.0, 0.7):
        model, report = convert(
            ann,
            (train[:200], np.zeros(200, int)),
            neuron="stdblif",
            timesteps=4,
            threshold_scale=scale,
            readout="accumulator",
        )
        found[scale] = report.over_time.firing_rates["c2_neuron"]
    assert found[0.7] > 1.2 * found[1.0]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    before = model.evaluate(test, labels, verbose=0)[1]
    answers = predict(ann, train).argmax(-1)
    model.fit(train, answers, epochs=3, batch_size=64, verbose=0)
    after = model.evaluate(test, labels, verbose=0)[1]
    plain, _ = convert(ann, train[:200], timesteps=4, check_examples=0)
    alone = (predict(plain, test).argmax(-1) == labels).mean()
    print(before, after, alone)
    assert after > before and after > alone + 0.05


def test_time_constant_dropout_after_conversion():
    """E3.5."""
    spiking, _ = convert(residual_network(), images(8), timesteps=4, check_examples=0)
    layer = spiking.get_layer("dropout")
    assert isinstance(layer, snn.TimeConstantDropout)
    x = np.ones((2, 4, 16), "float32")
    y = to_numpy(layer(x, training=True))
    np.testing.assert_array_equal(y[:, 0], y[:, 3])
    assert (to_numpy(layer(x, training=True)) != y).any()
    np.testing.assert_array_equal(to_numpy(layer(x, training=False)), x)


# Accuracy over time.
@pytest.mark.once
@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_rollout_equals_the_whole_run(chunk):
    ann, x = branched_network(), images(6)
    y = np.arange(6) % 5
    spiking, _ = convert(ann, x, "max", 20, max_pooling="spiking", check_examples=0)
    found = analysis.accuracy_over_time(spiking, (x, y), chunk=chunk, batch_size=4)
    assert found.accuracy.shape == (20,) and found.examples == 6
    whole = predict(spiking, x)
    assert found.accuracy[-1] == (whole.argmax(-1) == y).mean()
    short, _ = convert(ann, x, "max", 7, max_pooling="spiking", check_examples=0)
    assert found.accuracy[6] == (predict(short, x).argmax(-1) == y).mean()
    rollout = analysis.accuracy_over_time.__globals__["Rollout"](spiking, chunk)
    *_, (outputs, rates) = rollout.run(x, 20)
    np.testing.assert_allclose(outputs[0][:, -1], whole, rtol=1e-5, atol=1e-5)
    assert set(found.firing_rates) == set(rates)


@pytest.mark.once
def test_rollout_of_zoo_models_on_images_and_sequences():
    from keras_snn import applications

    model = applications.SEWResNet8(input_shape=(16, 16, 1), classes=4, timesteps=6)
    x = np.random.default_rng(0).random((3, 16, 16, 1)).astype("float32")
    answers = predict(model, x).argmax(-1)
    found = analysis.accuracy_over_time(model, (x, answers), chunk=4)
    assert len(found.accuracy) == 6 and found.accuracy[-1] == 1
    model = applications.SEWResNet8(input_shape=(6, 16, 16, 1), classes=4, neuron="plif")
    x = np.random.default_rng(0).random((3, 6, 16, 16, 1)).astype("float32")
    answers = predict(model, x).argmax(-1)
    found = analysis.accuracy_over_time(model, [(x[:2], answers[:2]), (x[2:], answers[2:])])
    assert len(found.accuracy) == 6 and found.accuracy[-1] == 1


def test_early_exit():
    inputs = layers.Input((2,))
    outputs = snn.SumOverTime()(snn.RepeatTime(20)(inputs))
    model = keras.Model(inputs, layers.ReLU()(outputs))
    x = np.array([[1.0, 0.0], [0.1, 0.0]])
    found = analysis.accuracy_over_time(model, (x, np.array([0, 1])), confidence=0.8, chunk=4)
    # Probability of the first class after t steps: 1 / (1 + exp(-x t)); ln 4 = 1.386.
    decided = [0.0] + [0.5] * 12 + [1.0] * 7
    np.testing.assert_allclose(found.decided, decided)
    assert found.timesteps == pytest.approx((2 + 14) / 2)
    np.testing.assert_allclose(found.accuracy, 0.5)
    assert "decided after 8.0" in str(found)


@pytest.mark.parametrize(
    "build, reason",
    [
        (lambda x: snn.MeanOverTime()(snn.PSN()(x)), "all steps"),
        (lambda x: snn.LIF()(x), "readout"),
        (lambda x: snn.MeanOverTime()(snn.LIF(go_backwards=True)(x)), "backwards"),
    ],
)
def test_rollout_refuses(build, reason):
    inputs = layers.Input((4, 3))
    with pytest.raises(TypeError, match=reason):
        analysis.accuracy_over_time(
            keras.Model(inputs, build(inputs)), (np.ones((1, 4, 3)), np.zeros(1))
        )


def test_accuracy_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    found = analysis.AccuracyOverTime(np.array([0.1, 0.5]), {}, 4, np.array([0.0, 0.5]))
    ax = found.plot()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [10, 50])
    assert found.timesteps == 2.0 and found.to_dict()["examples"] == 4


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="others export by a process of TensorFlow"
)
def test_export_of_a_converted_network(tmp_path):
    pytest.importorskip("ai_edge_litert")
    from keras_snn import export

    spiking, _ = convert(branched_network(), images(8), "max", 6, max_pooling="spiking")
    report = export.to_tflite(
        spiking, tmp_path / "model.tflite", mode="step", verify_data=images(4, seed=5)
    )
    assert report.flipped == 0 and len(report.layers) >= 5
