"""Joint training of an ANN and an SNN, and Keras's own distillation with spiking students."""

import keras
import numpy as np
import pytest
from helpers import first_everywhere, gradients, to_numpy
from keras import layers
from keras.distillation import Distiller, FeatureDistillation, LogitsDistillation

from keras_snn import applications, joint
from keras_snn import layers as snn_layers

OPTIONS = {
    "input_shape": (8, 8, 1),
    "classes": 10,
    "classifier_activation": None,
    "small_images": True,
}


def network(timesteps, **options):
    neuron = {} if timesteps else {"neuron": layers.ReLU}
    return applications.SEWResNet8(timesteps=timesteps, **neuron, **(OPTIONS | options))


def events(neuron, bias=True):
    """A network on sequences, with biases."""
    x = inputs = keras.Input((3, 6, 6, 2))
    for name, filters in (("block1_conv", 4), ("block2_conv", 6)):
        convolution = layers.Conv2D(filters, 3, use_bias=bias, bias_initializer="normal")
        x = snn_layers.FoldTime(convolution, name=name)(x)
        x = neuron(name=name.replace("conv", "neuron"))(x)
    x = snn_layers.FoldTime(layers.Flatten(), name="flatten")(x)
    x = snn_layers.MeanOverTime(name="mean_over_time")(x)
    return keras.Model(inputs, layers.Dense(5, name="predictions")(x), name="events")


def digits(count):
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn (extra `data`)")
    images, labels = datasets.load_digits(return_X_y=True)
    return (images[:count] / 16).reshape(-1, 8, 8, 1).astype("float32"), labels[:count]


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def joint_layers(model):
    return [layer for layer in model.layers if isinstance(layer, joint.JointConv2D)]


@pytest.mark.parametrize(
    "channels, filters, size, options",
    [(3, 8, 3, {}), (8, 3, 3, {"strides": 2}), (5, 5, 1, {}), (4, 6, 3, {"groups": 2})],
)
def test_factors_are_those_of_the_kernel(channels, filters, size, options):
    # oneDNN's grouped convolutions on channels-last tensors have no gradient, but a forward pass.
    plain = layers.Conv2D(filters, size, bias_initializer="normal", **options)
    x = np.random.default_rng(0).normal(size=(2, 7, 7, channels)).astype("float32")
    wanted = to_numpy(plain(x))
    kernel, bias = plain.get_weights()
    layer = joint.JointConv2D(filters, size, **options)
    layer.build(x.shape)
    layer.factorize(kernel)
    s = np.linalg.svd(kernel.astype("float64"), compute_uv=False)
    eye = np.broadcast_to(np.eye(s.shape[-1]), (size, size, s.shape[-1], s.shape[-1]))
    for directions in to_numpy([layer.u, layer.v]):
        np.testing.assert_allclose(directions.swapaxes(-1, -2) @ directions, eye, atol=1e-6)
    for name in ("ann", "snn"):
        np.testing.assert_allclose(to_numpy(layer.scales[name]), s, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(to_numpy(layer.kernel_of(name)), kernel, atol=1e-6)
        layer.biases[name].assign(bias)
        np.testing.assert_allclose(to_numpy(layer(x, network=name)), wanted, atol=1e-5)
        sequences = to_numpy(layer(np.stack([x, 2 * x], 1), network=name))
        np.testing.assert_allclose(sequences[:, 0], wanted, atol=1e-5)
    layer.scales["snn"].assign(2 * s)
    np.testing.assert_allclose(to_numpy(layer.kernel_of("snn")), 2 * kernel, atol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.kernel_of("ann")), kernel, atol=1e-6)


def test_a_fresh_layer_has_a_kernel_of_its_initializer():
    layer = joint.JointConv2D(4, 3, kernel_initializer="ones")
    layer.build((None, 8, 8, 2))
    np.testing.assert_allclose(to_numpy(layer.kernel_of("ann")), 1.0, atol=1e-6)


@pytest.mark.once
def test_both_networks_start_from_those_given():
    ann, snn = network(None), network(2)
    for layer in snn.layers:  # weights of its own
        if "bn" in layer.name or layer.name == "predictions":
            layer.set_weights([w + 0.1 * np.random.random(w.shape) for w in layer.get_weights()])
    model = joint.joint_model(ann, snn)
    x = np.random.default_rng(0).random((3, 8, 8, 1), dtype="float32")
    logits = model.predict(x, verbose=0)
    assert logits.shape == (3, 3, 2, 10)
    np.testing.assert_allclose(logits[:, -1, 0], ann.predict(x, verbose=0), rtol=1e-4, atol=1e-4)
    spiking = joint.finish(model)
    for layer in snn.layers:
        source = ann.get_layer(layer.name) if "conv" in layer.name else layer
        for ours, wanted in zip(
            spiking.get_layer(layer.name).get_weights(), source.get_weights(), strict=True
        ):
            np.testing.assert_allclose(ours, wanted, atol=1e-6)
    # Shared: U and V of 9 convolutions; each network's own: scales, and all that is no convolution.
    heads = sum(32 * 10 + 10 + 64 * 10 + 10 for _ in range(2))
    convolutions = [ann.get_layer(x.name[len("joint_") :]).kernel for x in joint_layers(model)]
    shared = 0
    for k, _, inputs, filters in (tuple(kernel.shape) for kernel in convolutions):
        shared += k * k * min(inputs, filters) * (inputs + filters + 2)
    rest = ann.count_params() - sum(int(np.prod(kernel.shape)) for kernel in convolutions)
    assert len(convolutions) == 9 and model.count_params() == shared + 2 * rest + heads


@pytest.mark.parametrize("which", first_everywhere("snn", "ann"))
def test_gradients_of_one_network(which):
    model = joint.joint_model(events(layers.ReLU), events(snn_layers.IF))
    x = 5 * np.random.default_rng(0).random((4, 3, 6, 6, 2), dtype="float32")  # all layers fire
    index, other = joint.NETWORKS.index(which), {"snn": "ann", "ann": "snn"}[which]
    variables = model.trainable_variables
    _, _, found = gradients(
        lambda x: keras.ops.sum(model(x, training=True)[:, -1, index] ** 2), variables, x
    )
    moved = {id(v): np.abs(g).max() for v, g in zip(variables, found)}
    for layer in joint_layers(model):
        assert moved[id(layer.scales[other])] == 0
        assert min(moved[id(w)] for w in (layer.u, layer.v, layer.scales[which])) > 0
    for layer in model.layers:
        for weight in layer.trainable_variables:
            if layer.name.startswith((f"{other}_", "head_")):
                assert moved[id(weight)] == 0
            if layer.name == f"{which}_predictions":
                assert moved[id(weight)] > 0


def batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 5, 6), rng.normal(size=(6, 3, 2, 5)).astype("float32")


@pytest.mark.parametrize("kl, square", [(1.0, 0.25), (0.0, 0.0), (0.7, 0.0), (0.0, 2.0)])
def test_loss_and_its_gradients(kl, square):
    labels, logits = batch()
    loss = joint.JointCrossentropy(kl=kl, square=square)
    y, (a, s) = np.eye(5)[labels], np.moveaxis(logits.astype("float64"), 2, 0)
    log_a, log_s, rows = log_softmax(a), log_softmax(s), np.arange(6)
    wanted = -(log_a + log_s)[rows, :, labels].sum(-1)
    wanted += kl * (np.exp(log_a) * (log_a - log_s)).sum((1, 2))
    wanted += square * ((s - a) ** 2).mean(-1).sum(-1)
    for given in (labels, labels[:, None], y):
        np.testing.assert_allclose(to_numpy(loss.call(given, logits)), wanted, rtol=1e-5)
        assert float(to_numpy(loss(given, logits))) == pytest.approx(wanted.mean(), rel=1e-5)
    _, (found,), _ = gradients(lambda z: keras.ops.sum(loss.call(labels, z)), [], logits)
    p, q = np.exp(log_a), np.exp(log_s)
    np.testing.assert_allclose(found[:, :, 0], p - y[:, None], atol=1e-5)
    wanted = q - y[:, None] + kl * (q - p) + square * 2 / 5 * (s - a)
    np.testing.assert_allclose(found[:, :, 1], wanted, atol=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()


def test_accuracies():
    labels, logits = batch()
    for index, metric in enumerate((joint.ann_accuracy, joint.snn_accuracy)):
        wanted = logits[:, -1, index].argmax(-1) == labels
        for given in (labels, labels[:, None], np.eye(5)[labels]):
            np.testing.assert_array_equal(to_numpy(metric(given, logits)), wanted)


@pytest.mark.once
def test_trained_saved_and_finished(tmp_path):
    images, labels = digits(128)
    ann, snn = network(None), network(2)
    model = joint.joint_model(ann, snn)
    model.compile(
        keras.optimizers.Adam(2e-3),
        joint.JointCrossentropy(),
        metrics=[joint.ann_accuracy, joint.snn_accuracy],
    )
    history = model.fit(images, labels, batch_size=16, epochs=3, verbose=0).history
    assert history["loss"][2] < 0.8 * history["loss"][0]
    assert history["snn_accuracy"][2] > 0.5 and history["ann_accuracy"][2] > 0.5
    one = joint_layers(model)[1]
    assert np.abs(to_numpy(one.scales["ann"]) - to_numpy(one.scales["snn"])).max() > 0

    logits = model.predict(images, verbose=0)
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    right = (logits[:, -1].argmax(-1) == labels[:, None]).mean(0)
    assert [found["ann_accuracy"], found["snn_accuracy"]] == pytest.approx(list(right))
    one_hot = model.evaluate(images, np.eye(10)[labels], verbose=0, return_dict=True)
    assert one_hot == pytest.approx(found)

    spiking = joint.finish(model)
    assert [spiking.name, spiking.layers[0].name] == [snn.name, snn.layers[0].name]
    assert {x.name: type(x) for x in spiking.layers} == {x.name: type(x) for x in snn.layers}
    np.testing.assert_allclose(spiking.predict(images, verbose=0), logits[:, -1, 1], atol=1e-5)
    applications.load_keras_weights(snn, spiking)
    spiking.save(tmp_path / "snn.keras")
    again = keras.saving.load_model(tmp_path / "snn.keras")
    for other in (snn, again):
        np.testing.assert_allclose(other.predict(images, verbose=0), logits[:, -1, 1], atol=1e-5)

    model.save(tmp_path / "joint.keras")
    again = keras.saving.load_model(tmp_path / "joint.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), logits, atol=1e-5)
    assert again.evaluate(images, labels, verbose=0, return_dict=True) == pytest.approx(found)
    assert len(again.weights) == len(model.weights)  # still shared
    np.testing.assert_allclose(
        joint.finish(again).predict(images, verbose=0), logits[:, -1, 1], atol=1e-5
    )


def test_sequences_biases_and_stages():
    ann, snn = events(layers.ReLU), events(snn_layers.IF)
    x = np.random.default_rng(0).random((2, 3, 6, 6, 2), dtype="float32")
    for stages, count in ((None, 2), ((), 1), (["block1_conv", "block2_neuron"], 3)):
        model = joint.joint_model(ann, snn, stages)
        logits = model.predict(x, verbose=0)
        assert logits.shape == (2, count, 2, 5)
        np.testing.assert_allclose(logits[:, -1, 0], ann.predict(x, verbose=0), atol=1e-5)
    for layer in joint_layers(model):
        layer.scales["ann"].assign(0 * layer.scales["ann"])
    spiking = joint.finish(model)
    np.testing.assert_allclose(spiking.predict(x, verbose=0), logits[:, -1, 1], atol=1e-5)
    bias = spiking.get_layer("block1_conv").get_weights()[1]
    np.testing.assert_array_equal(bias, snn.get_layer("block1_conv").get_weights()[1])


@pytest.mark.once
def test_another_family():
    def build(**options):
        return applications.SResNet(
            depth=8,
            width=4,
            input_shape=(16, 16, 3),
            classes=3,
            classifier_activation=None,
            norm="bn",
            **options,
        )

    model = joint.joint_model(build(timesteps=None, neuron=layers.ReLU), build(timesteps=3))
    x = np.random.default_rng(0).random((2, 16, 16, 3), dtype="float32")
    logits = model.predict(x, verbose=0)
    assert logits.shape == (2, 3, 2, 3)
    spiking = joint.finish(model).predict(x, verbose=0)
    np.testing.assert_allclose(spiking, logits[:, -1, 1], atol=1e-5)


@pytest.mark.once
def test_refused():
    ann, snn = network(None), network(2)
    with pytest.raises(ValueError, match="'stack1_block1_add'"):
        joint.joint_model(ann, network(2, connect="and"))
    with pytest.raises(ValueError, match="'stem_conv'"):
        large = {"input_shape": (32, 32, 1)}
        joint.joint_model(network(None, **large), network(2, small_images=False, **large))
    with pytest.raises(ValueError, match="'block1_conv'.*'use_bias': False"):
        joint.joint_model(events(layers.ReLU), events(snn_layers.IF, bias=False))
    with pytest.raises(ValueError, match="'stem_bn'.*`ann` has not"):
        joint.joint_model(network(None, norm=None), snn)
    with pytest.raises(ValueError, match="output_shape"):
        joint.joint_model(network(None, classes=9), snn)
    with pytest.raises(ValueError, match=r"`snn` must end in logits.*softmax"):
        joint.joint_model(ann, network(2, classifier_activation="softmax"))
    with pytest.raises(ValueError, match="`ann` must end in logits"):
        joint.joint_model(network(None, include_top=False), snn)
    with pytest.raises(TypeError, match="`ann` must be a functional model"):
        joint.joint_model(keras.Sequential([layers.Dense(2)]), snn)
    with pytest.raises(ValueError, match="stages"):
        joint.joint_model(ann, snn, stages=["stack9"])
    with pytest.raises(ValueError, match="joint_model"):
        joint.finish(snn)
    with pytest.raises(ValueError, match="kernel_regularizer"):
        joint.JointConv2D(4, 3, kernel_regularizer="l2")
    with pytest.raises(ValueError, match="network"):
        joint.JointConv2D(4, 3)(np.ones((1, 4, 4, 2), "float32"), network="cnn")
    with pytest.raises(ValueError, match=r"\(batch, stages, 2, classes\)"):
        joint.JointCrossentropy()(np.zeros(2, int), np.zeros((2, 3, 4), "float32"))
    for bad in ({"kl": -1}, {"square": -1}):
        with pytest.raises(ValueError):
            joint.JointCrossentropy(**bad)


def distiller(teacher, student, losses, weights=None):
    model = Distiller(teacher, student, losses, weights, student_loss_weight=0.25)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def distillation(teacher, student, labels, temperature):
    """Cross-entropy of the student, and T^2 KL of softened outputs."""
    teacher, student = teacher.astype("float64"), student.astype("float64")
    crossentropy = -log_softmax(student)[np.arange(len(labels)), labels].mean()
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return crossentropy, temperature**2 * (np.exp(p) * (p - q)).sum(-1).mean()


@pytest.mark.once
def test_keras_distills_into_a_spiking_network(tmp_path):
    images, labels = digits(64)
    teacher, student = network(None), network(2)
    # With the name "kl_divergence", its default, Keras 3.15 takes the divergence of the logits.
    model = distiller(teacher, student, LogitsDistillation(2.0, keras.losses.KLDivergence()))
    outputs = [m.predict(images, verbose=0) for m in (teacher, student)]
    crossentropy, divergence = distillation(*outputs, labels, 2.0)
    found = model.evaluate(images, labels, batch_size=64, verbose=0, return_dict=True)
    assert found["student_loss"] == pytest.approx(crossentropy, rel=1e-4)
    # Keras clips probabilities at 1e-7.
    assert found["distillation_loss"] == pytest.approx(divergence, rel=1e-3, abs=1e-5)
    assert found["loss"] == pytest.approx(0.25 * crossentropy + 0.75 * divergence, rel=1e-4)

    before = teacher.get_weights()
    history = model.fit(images, labels, batch_size=16, epochs=3, verbose=0).history
    assert history["loss"][2] < history["loss"][0]
    for old, new in zip(before, teacher.get_weights()):
        np.testing.assert_array_equal(old, new)
    wanted = model.predict(images, verbose=0)
    student.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), wanted, atol=1e-5)


@pytest.mark.once
def test_keras_distills_features():
    # Without batch normalisation: Keras 3.15 runs the student for features as in training, always.
    images, labels = digits(64)
    teacher, student = network(None, norm=None), network(2, norm=None)
    losses = [
        LogitsDistillation(4.0, keras.losses.KLDivergence()),
        FeatureDistillation("mse", "avg_pool", "mean_over_time"),
    ]
    model = distiller(teacher, student, losses, [1.0, 0.5])
    outputs, features = [], []
    for network_, name in ((teacher, "avg_pool"), (student, "mean_over_time")):
        both = keras.Model(network_.input, [network_.output, network_.get_layer(name).output])
        for found, value in zip((outputs, features), both.predict(images, verbose=0)):
            found.append(value)
    crossentropy, divergence = distillation(*outputs, labels, 4.0)
    divergence += 0.5 * np.square(features[0] - features[1]).mean()
    found = model.evaluate(images, labels, batch_size=64, verbose=0, return_dict=True)
    assert found["distillation_loss"] == pytest.approx(divergence, rel=1e-3)
    assert found["loss"] == pytest.approx(0.25 * crossentropy + 0.75 * divergence, rel=1e-3)
