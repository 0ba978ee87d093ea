"""Joint training of an ANN and an SNN, and Keras's own distillation with spiking students."""

import keras
import numpy as np
import pytest
from helpers import first_everywhere, gradients, to_numpy
from keras import layers
from keras.distillation import Distiller, FeatureDistillation, LogitsDistillation

from keras_snn import applications
from keras_snn import layers as snn_layers
from keras_snn.training import joint, to_spiking

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


def joint_layers(model, heads=False):
    """The shared convolutions of the networks, or of their heads."""
    found = [layer for layer in model.layers if isinstance(layer, joint.JointConv2D)]
    return [layer for layer in found if layer.name.startswith("joint_head_") == heads]


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
    layer.start(kernel, bias)
    s = np.linalg.svd(kernel.astype("float64"), compute_uv=False)
    eye = np.broadcast_to(np.eye(s.shape[-1]), (size, size, s.shape[-1], s.shape[-1]))
    for directions in to_numpy([layer.u, layer.v]):
        np.testing.assert_allclose(directions.swapaxes(-1, -2) @ directions, eye, atol=1e-6)
    for name in ("ann", "snn"):
        np.testing.assert_allclose(to_numpy(layer.scales[name]), s, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(to_numpy(layer.kernel_of(name)), kernel, atol=1e-6)
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
        if "bn" in layer.name:
            layer.set_weights([w + 0.1 * np.random.random(w.shape) for w in layer.get_weights()])
    model = joint.joint_model(ann, snn)
    x = np.random.default_rng(0).random((3, 8, 8, 1), dtype="float32")
    logits = model.predict(x, verbose=0)
    assert logits.shape == (3, 3, 2, 10)
    np.testing.assert_allclose(logits[:, -1, 0], ann.predict(x, verbose=0), rtol=1e-4, atol=1e-4)
    spiking = to_spiking(model)
    for layer in snn.layers:
        source = (
            layer if "bn" in layer.name else ann.get_layer(layer.name) if layer.weights else snn
        )
        for ours, wanted in zip(
            spiking.get_layer(layer.name).get_weights(),
            source.get_weights() if layer.weights else [],
            strict=True,
        ):
            np.testing.assert_allclose(ours, wanted, atol=1e-6)


@pytest.mark.once
def test_heads_and_what_is_shared():
    ann, snn = network(None), network(2)
    model = joint.joint_model(ann, snn)
    # Maps of 8, 4 and 2 rows: the heads behind the first two come down to 2, of 128 channels.
    heads = 0
    for stage, inputs, k in (("stack1_block1_add", 32, 4), ("stack2_block1_add", 64, 2)):
        for place, (size, before, after) in enumerate(((1, inputs, 32), (k, 32, 32), (1, 32, 128))):
            layer = model.get_layer(f"joint_head_{stage}_conv{place + 1}")
            assert (layer.kernel_size, layer.strides) == ((size, size), (size, size))
            assert not layer.use_bias and tuple(layer.v.shape[2:]) == (before, min(before, after))
            heads += size**2 * min(before, after) * (before + after + 2)
            heads += 2 * 4 * after  # each network's normalisation
        heads += 2 * 128 * 10 + 10  # kernels, one bias
    # Shared: U and V of 9 convolutions, the bias; each network's own: scales, and all the rest.
    convolutions = [ann.get_layer(x.name[len("joint_") :]).kernel for x in joint_layers(model)]
    shared = 10
    for k, _, inputs, filters in (tuple(kernel.shape) for kernel in convolutions):
        shared += k * k * min(inputs, filters) * (inputs + filters + 2)
    rest = ann.count_params() - 10 - sum(int(np.prod(kernel.shape)) for kernel in convolutions)
    assert len(convolutions) == 9 and model.count_params() == shared + 2 * rest + heads


def float64_loss(labels, logits, alpha, temperature):
    """The authors' loss of each example, without features; and its gradient."""
    y = np.eye(logits.shape[-1])[labels][:, None]
    a, s = np.moveaxis(logits.astype("float64"), 2, 0)
    hard = -(y * (log_softmax(a) + log_softmax(s))).sum((1, 2))
    p, log_a, log_s = (
        f(x / temperature)
        for f, x in ((lambda z: np.exp(log_softmax(z)), a), (log_softmax, a), (log_softmax, s))
    )
    soft = -(p[:, -1:] * log_a[:, :-1]).sum((1, 2)) - (p * log_s).sum((1, 2))
    deep = np.exp(log_a) - p[:, -1:]  # 0 of the last head, which has no teacher
    gradient = [(1 - alpha) * (np.exp(log_softmax(x)) - y) for x in (a, s)]
    gradient[0] += alpha * temperature * deep
    gradient[1] += alpha * temperature * (np.exp(log_s) - p)
    return (1 - alpha) * hard + alpha * temperature**2 * soft, np.stack(gradient, 2)


@pytest.mark.once
def test_outputs_are_sums_over_time_and_the_loss_is_the_authors():
    images, labels = digits(16)
    snn = network(3, neuron=snn_layers.IF(threshold=0.02))  # the deepest fire too
    model = joint.joint_model(network(None), snn, feature_weight=0.01)
    model.compile("sgd", joint.JointCrossentropy())
    name, pooled = "head_stack1_block1_add", {}
    for which in joint.NETWORKS:
        probe = keras.Model(model.inputs, model.get_layer(f"{which}_{name}_pool").output)
        pooled[which] = probe.predict(images, verbose=0)
    logits = model.predict(images, verbose=0)
    kernel, bias = model.get_layer(f"joint_{name}").folded_weights("snn")
    assert pooled["snn"].shape == (16, 3, 128) and pooled["snn"].max() > 0
    steps = pooled["snn"] @ kernel + bias + np.zeros((1, 3, 1))
    np.testing.assert_allclose(logits[:, 0, 1], steps.sum(1), rtol=1e-4, atol=1e-4)
    once = to_spiking(model).predict(images, verbose=0)
    np.testing.assert_allclose(logits[:, -1, 1], 3 * once, rtol=1e-5, atol=1e-5)

    distance = model.get_layer("feature_distance")
    inputs = keras.Model(model.inputs, distance.input)
    _, *features = keras.tree.flatten(inputs.predict(images, verbose=0))
    a, s = (np.stack(x).astype("float64") for x in (features[:3], features[3:]))
    np.testing.assert_allclose(a[0], pooled["ann"], rtol=1e-5)
    np.testing.assert_allclose(s[0], pooled["snn"].sum(1), rtol=1e-5)
    wanted = float64_loss(labels, logits, 0.1, 3.0)[0].mean()
    wanted += 0.01 * ((s - a) ** 2 * ((s > 0) | (a > 0))).sum()
    found = model.evaluate(images, labels, batch_size=16, verbose=0)
    assert found == pytest.approx(wanted, rel=1e-5)


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
    dense = model.get_layer("joint_predictions")
    assert moved[id(dense.kernels[other])] == 0 < moved[id(dense.kernels[which])]
    for layer in joint_layers(model):
        assert moved[id(layer.scales[other])] == 0
        assert min(moved[id(w)] for w in (layer.u, layer.v, layer.scales[which])) > 0
    for layer in model.layers:
        for weight in layer.trainable_variables:
            if layer.name.startswith((f"{other}_", "joint_head_")):
                assert moved[id(weight)] == 0


def batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 5, 6), rng.normal(size=(6, 3, 2, 5)).astype("float32")


@pytest.mark.parametrize("values", first_everywhere((0.1, 3.0), (0.0, 1.0), (1.0, 0.5)))
def test_loss_and_its_gradients(values):
    alpha, temperature = values
    labels, logits = batch()
    loss = joint.JointCrossentropy(alpha, temperature)
    wanted, gradient = float64_loss(labels, logits, alpha, temperature)
    for given in (labels, labels[:, None], np.eye(5)[labels]):
        np.testing.assert_allclose(to_numpy(loss.call(given, logits)), wanted, rtol=1e-5)
        assert float(to_numpy(loss(given, logits))) == pytest.approx(wanted.mean(), rel=1e-5)
    _, (found,), _ = gradients(lambda z: keras.ops.sum(loss.call(labels, z)), [], logits)
    np.testing.assert_allclose(found, gradient, atol=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert (
        joint.JointCrossentropy().get_config().items() >= {"alpha": 0.1, "temperature": 3.0}.items()
    )


def test_distance_of_features_and_its_gradients():
    rng = np.random.default_rng(0)
    a, s = rng.normal(size=(2, 2, 4, 7)).astype("float32")
    layer = joint.FeatureDistance(0.5)

    def distance(a, s):
        with keras.StatelessScope(collect_losses=True) as scope:  # as training on JAX collects them
            layer(keras.ops.ones((4, 2)), list(a), list(s))
        return scope.losses[0]

    counted = (s > 0) | (a > 0)
    value, found, _ = gradients(distance, [], a, s)
    assert value == pytest.approx(0.5 * ((s - a).astype("float64") ** 2 * counted).sum(), rel=1e-5)
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(found[1], (s - a) * counted, rtol=1e-5, atol=1e-6)


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

    spiking = to_spiking(model)
    assert [spiking.name, spiking.layers[0].name] == [snn.name, snn.layers[0].name]
    assert {x.name: type(x) for x in spiking.layers} == {x.name: type(x) for x in snn.layers}
    logits = logits[:, -1, 1]
    np.testing.assert_allclose(2 * spiking.predict(images, verbose=0), logits, atol=1e-4)
    applications.load_keras_weights(snn, spiking)
    spiking.save(tmp_path / "snn.keras")
    again = keras.saving.load_model(tmp_path / "snn.keras")
    for other in (snn, again):
        np.testing.assert_allclose(2 * other.predict(images, verbose=0), logits, atol=1e-4)

    model.save(tmp_path / "joint.keras")
    again = keras.saving.load_model(tmp_path / "joint.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0)[:, -1, 1], logits, atol=1e-4)
    assert again.evaluate(images, labels, verbose=0, return_dict=True) == pytest.approx(found)
    assert len(again.weights) == len(model.weights)  # still shared
    once = to_spiking(again).predict(images, verbose=0)
    np.testing.assert_allclose(2 * once, logits, atol=1e-4)


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
    spiking = to_spiking(model)
    np.testing.assert_allclose(3 * spiking.predict(x, verbose=0), logits[:, -1, 1], atol=1e-5)
    bias = spiking.get_layer("block1_conv").get_weights()[1]
    np.testing.assert_array_equal(bias, ann.get_layer("block1_conv").get_weights()[1])
    summed = keras.models.clone_model(
        snn, clone_function=lambda x: snn_layers.SumOverTime(name=x.name) if "mean" in x.name else x
    )
    model = joint.joint_model(ann, summed, ())
    once = to_spiking(model).predict(x, verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0)[:, -1, 1], once, atol=1e-5)


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
    spiking = to_spiking(model).predict(x, verbose=0)
    np.testing.assert_allclose(3 * spiking, logits[:, -1, 1], atol=1e-5)


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
    with pytest.raises(ValueError, match="'avg_pool', expected maps"):
        joint.joint_model(ann, snn, stages=["avg_pool"])
    last = keras.models.clone_model(
        snn,
        clone_function=lambda x: snn_layers.LastOverTime(name=x.name) if "mean" in x.name else x,
    )
    with pytest.raises(ValueError, match="`SumOverTime`.*without one"):
        joint.joint_model(ann, last)
    with pytest.raises(ValueError, match="feature_weight"):
        joint.joint_model(ann, snn, feature_weight=-1)
    with pytest.raises(ValueError, match="joint_model"):
        to_spiking(snn)
    with pytest.raises(ValueError, match="kernel_regularizer"):
        joint.JointConv2D(4, 3, kernel_regularizer="l2")
    with pytest.raises(ValueError, match="network"):
        joint.JointConv2D(4, 3)(np.ones((1, 4, 4, 2), "float32"), network="cnn")
    with pytest.raises(ValueError, match=r"\(batch, stages, 2, classes\)"):
        joint.JointCrossentropy()(np.zeros(2, int), np.zeros((2, 3, 4), "float32"))
    for bad in ({"alpha": 1.5}, {"alpha": -1}, {"temperature": 0}):
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
