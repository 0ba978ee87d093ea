"""The SEW-ResNet family: counts of the paper, the contract of keras.applications, identity."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import layers, ops

from keras_snn.analysis import firing_rates, gradient_norms, is_spiking
from keras_snn.applications import SEWResNet8, SEWResNet18, SEWResNet50, sew_resnet
from keras_snn.applications.builder import KaimingNormal
from keras_snn.layers import IF, FoldTime, ParametricLIF


def small(**kwargs):
    arguments = {"input_shape": (8, 8, 1), "classes": 3, "timesteps": 2}
    return SEWResNet8(**(arguments | kwargs))


def trainable(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


@pytest.mark.once
def test_layer_names():
    names = [layer.name for layer in SEWResNet50(classes=2).layers]
    for name in ("stem_conv", "stack1_block1_shortcut_neuron", "stack3_block6_conv3"):
        assert name in names
    assert len(set(names)) == len(names)


@pytest.mark.once
def test_e4_7_the_stem_of_an_image_runs_once_and_equals_running_it_each_step():
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    still = small(timesteps=3)
    moving = small(input_shape=(3, 8, 8, 1))
    assert len(still.get_layer("stem_conv").output.shape) == 4
    moving.set_weights(still.get_weights())
    clip = np.repeat(image[:, None], 3, axis=1)
    np.testing.assert_allclose(to_numpy(still(image)), to_numpy(moving(clip)), atol=1e-6)


@pytest.mark.parametrize("connect", ["add", "and", "iand"])
def test_e4_1_zero_init_residual_makes_blocks_the_identity(connect):
    model = small(connect=connect, zero_init_residual=True, input_shape=(3, 16, 16, 1))
    name = f"stack1_block1_{connect}"
    probe = keras.Model(
        model.inputs, [model.get_layer("stem_neuron").output, model.get_layer(name).output]
    )
    x = 3 * np.random.default_rng(0).normal(size=(2, 3, 16, 16, 1)).astype("float32")
    before, after = to_numpy(probe(x))
    assert 0.05 < before.mean() < 0.95
    np.testing.assert_array_equal(before, after)


def test_kernels_are_normal_with_variance_two_by_fan_out():
    shape = (3, 3, 64, 128)
    weights = to_numpy(KaimingNormal(seed=1)(shape))
    assert weights.shape == shape and weights.dtype == "float32"
    weights = weights / np.sqrt(2 / (9 * 128))
    # Five standard errors of the mean, the standard deviation, and the part beyond 2.
    error = 5 / np.sqrt(weights.size)
    assert abs(weights.mean()) < error
    assert abs(weights.std() - 1) < error / np.sqrt(2)
    assert abs((np.abs(weights) > 2).mean() - 0.0455) < error * np.sqrt(0.0455)


def test_kernels_follow_their_seeds():
    def draw(initializer):
        return to_numpy(initializer((2, 3))).tolist()

    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(KaimingNormal(seed=1))
    )
    assert isinstance(copy, KaimingNormal)
    assert draw(copy) == draw(KaimingNormal(seed=1)) != draw(KaimingNormal(seed=2))
    assert draw(KaimingNormal()) != draw(KaimingNormal())
    several = KaimingNormal(keras.random.SeedGenerator(1))
    assert draw(several) != draw(several)
    assert KaimingNormal(1)((2, 3), "bfloat16").dtype == ops.ones(1, "bfloat16").dtype
    kernels = [layer.get_weights()[0] for layer in small().layers if "conv" in layer.name]
    assert len({round(float(kernel.std()), 8) for kernel in kernels}) == len(kernels)


def test_networks_follow_the_random_seed():
    def build(seed):
        keras.utils.set_random_seed(seed)
        return small().get_layer("stem_conv").get_weights()[0]

    np.testing.assert_array_equal(build(0), build(0))
    assert not np.array_equal(build(0), build(1))


def block_stack(depth, plain):
    """`depth` blocks whose branches are silent, on `(batch, time, h, w, c)`."""
    inputs = x = keras.Input((1, 4, 4, 2))
    for _ in range(depth):
        branch = FoldTime(layers.Conv2D(2, 3, padding="same", use_bias=False))(x)
        norm = layers.BatchNormalization(gamma_initializer="zeros")
        branch = FoldTime(norm)(branch)
        x = IF()(layers.add([branch, x])) if plain else layers.add([IF()(branch), x])
    return keras.Model(inputs, x)


def test_e4_2_gradient_of_identity_blocks():
    spikes = np.random.default_rng(0).integers(0, 2, (2, 1, 4, 4, 2)).astype("float32")
    sew, plain = block_stack(20, plain=False), block_stack(4, plain=True)
    _, (grad,), _ = gradients(lambda s: ops.sum(sew(s)), [], spikes)
    np.testing.assert_array_equal(grad, np.ones_like(spikes))
    _, (grad,), _ = gradients(lambda s: ops.sum(plain(s)), [], spikes)
    # ATan(2) at u = 0 is 1, at u = -1 it is 1 / (1 + pi^2)
    expected = np.where(spikes == 1, 1.0, (1 / (1 + np.pi**2)) ** 4)
    np.testing.assert_allclose(grad, expected, rtol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("connect", ["add", "and", "iand", "or", "xor"])
def test_e4_3_domains_of_block_outputs(connect):
    model = SEWResNet18(
        input_shape=(32, 32, 3), classes=2, connect=connect, timesteps=3, small_images=True
    )
    outputs = [layer.output for layer in model.layers if layer.name.endswith("_" + connect)]
    x = 4 * np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    for index, values in enumerate(to_numpy(keras.Model(model.inputs, outputs)(x))):
        top = index % 2 + 2 if connect == "add" else 1
        assert set(np.unique(values)) <= set(range(top + 1))


def test_sequences_of_unknown_length_and_both_pools():
    model = small(input_shape=(None, 8, 8, 2))
    for steps in (1, 5):
        assert model.predict(np.ones((2, steps, 8, 8, 2)), verbose=0).shape == (2, 3)
    for pooling in ("avg", "max"):
        assert small(include_top=False, pooling=pooling).output_shape == (None, 128)
    assert small(include_top=False).output_shape == (None, 2, 2, 2, 128)
    assert SEWResNet8(include_top=False).output_shape == (None, 4, None, None, 128)


def test_input_tensor():
    inputs = keras.Input((8, 8, 1))
    model = small(input_tensor=layers.Rescaling(2.0)(inputs), input_shape=None)
    assert model.input is inputs and model.output_shape == (None, 3)


@pytest.mark.parametrize(
    "neuron",
    [
        "parametric_lif",
        ParametricLIF,
        ParametricLIF(tau=3.0),
        lambda: ParametricLIF(tau=3.0),
        keras.saving.serialize_keras_object(ParametricLIF()),
    ],
)
def test_neuron_argument(neuron):
    model = small(neuron=neuron)
    plain = small(neuron="lif")
    assert isinstance(model.get_layer("stem_neuron"), ParametricLIF)
    assert trainable(model) - trainable(plain) == sum(map(is_spiking, model.layers))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "imagenet"}, "`weights`.*'imagenet'"),
        ({"pooling": "sum"}, "`pooling`.*'sum'"),
        ({"input_shape": (8, 8)}, r"`input_shape`.*\(8, 8\)"),
        ({"input_shape": (7, 8, 1)}, r"at least 8x8.*\(7, 8, 1\)"),
        ({"input_shape": (8, 8, None)}, "number of channels"),
        ({"classes": 0}, "`classes`.*0"),
        ({"timesteps": 0}, "`timesteps`.*0"),
        ({"connect": "nand"}, "`connect`.*'nand'"),
        ({"neuron": "perceptron"}, "Unknown neuron: 'perceptron'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_channels_first_has_the_same_weights():
    x = np.random.default_rng(0).normal(size=(2, 16, 8, 1)).astype("float32")
    last = small(input_shape=(16, 8, 1))
    keras.config.set_image_data_format("channels_first")
    try:
        first = small(input_shape=(1, 16, 8))
        first.set_weights(last.get_weights())
        y = first.predict_on_batch(x.transpose(0, 3, 1, 2))
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(y, last.predict_on_batch(x), atol=1e-5)


def test_preprocessing_is_torchvisions():
    x = np.full((1, 2, 2, 3), 255.0, "float32")
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(sew_resnet.preprocess_input(x)[0, 0, 0], expected, rtol=1e-5)


def test_firing_rates():
    inputs = keras.Input((4, 2))
    model = keras.Model(inputs, IF(threshold=1.0, name="b")(IF(threshold=2.0, name="a")(inputs)))
    rates = firing_rates(model, np.ones((6, 4, 2), "float32"), batch_size=4)
    assert rates == {"a": 0.5, "b": 0.5}
    with pytest.raises(ValueError, match="no spiking layer"):
        firing_rates(keras.Model(inputs, layers.Dense(1)(inputs)), np.ones((1, 4, 2)))


def test_gradient_norms():
    inputs = keras.Input((3,))
    x = layers.Dense(1, use_bias=False, kernel_initializer="ones", name="a")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(1, kernel_initializer="ones", name="b")(x))
    before = model.get_weights()
    x = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]], "float32")
    norms = gradient_norms(model, x, np.zeros((2, 1), "float32"), lambda t, y: y)
    # Normalised outputs have mean 0: only shifts move the mean of what comes out.
    assert {path: round(norm, 3) for path, norm in norms.items()} == {
        "a/kernel": 0.0,
        "norm/gamma": 0.0,
        "norm/beta": 1.0,
        "b/kernel": 0.0,
        "b/bias": 1.0,
    }
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)
