"""Convolutions over time as products of matrices: the same as Keras's own."""

import contextlib

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_snn.layers import FoldTime
from keras_snn.layers import fused_convolution as convolution

BACKEND = keras.backend.backend()


@keras.saving.register_keras_serializable(package="tests")
class OwnConv2D(layers.Conv2D):
    """Left alone by `FoldTime`, which knows Keras's class only."""


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@settings(max_examples=12 if keras.backend.backend() == "jax" else 25, deadline=None)
@given(st.data())
def test_products_are_keras_convolutions(data):
    size, kernel, strides = (
        data.draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (6, 5, 3)
    )
    fits = all(k <= n for k, n in zip(kernel, size))
    padding = data.draw(st.sampled_from(["same", "valid"] if fits else ["same"]))
    strides = (strides[0], strides[0])  # TensorFlow knows no others
    layer = layers.Conv2D(3, kernel, strides, padding)
    x = normal(2, *size, 2)
    wanted = to_numpy(layer(x))
    arguments = ops.convert_to_tensor(x), ops.convert_to_tensor(layer.kernel)
    product = convolution._compiled() if BACKEND == "jax" else convolution._product
    found = to_numpy(product(*arguments, strides, padding))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("options", [{}, {"use_bias": False, "activation": "tanh"}])
def test_gradients_are_keras(size, strides, options, monkeypatch):
    monkeypatch.setattr(convolution, "LARGE", 0)
    arguments = (4, 3, strides, "same")
    layer, own = layers.Conv2D(*arguments, **options), OwnConv2D(*arguments, **options)
    shape = (2, 3, size, size, 5)
    for each in (layer, own):
        each.build((None, *shape[2:]))
    for weight, given_weight in zip(layer.variables, own.variables):
        given_weight.assign(normal(*weight.shape))
        weight.assign(normal(*weight.shape))
    results = []
    for each in (layer, own):
        fold = FoldTime(each)
        upstream = ops.array(normal(*fold.compute_output_shape(shape)))
        function = _graph(lambda x, fold=fold, upstream=upstream: ops.sum(fold(x) * upstream))
        results.append(gradients(function, each.trainable_variables, normal(*shape)))
    for found, wanted in zip(*map(keras.tree.flatten, results)):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def _graph(function):
    """TensorFlow takes the product in graphs only."""
    if BACKEND != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function)


@pytest.fixture
def taken(monkeypatch):
    """Whether each convolution was a product, in order."""
    taken = []

    def spy(layer, x):
        taken.append((found := convolution.convolve(layer, x)) is not None)
        return found

    monkeypatch.setattr("keras_snn.layers.time.convolve", spy)
    return taken


@pytest.mark.parametrize("size", [1, 2])
def test_small_maps_train_as_products(size, taken, monkeypatch):
    monkeypatch.setattr(convolution, "LARGE", 0)

    def train(kind):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3, size, size, 4))
        x = FoldTime(kind(8, 3, padding="same", activation="relu"))(inputs)
        model = keras.Model(inputs, FoldTime(kind(2, 1))(x))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        x = normal(8, 3, size, size, 4)
        loss = model.fit(x, x[..., :2], epochs=3, batch_size=4, shuffle=False, verbose=0)
        return loss.history["loss"], model.get_weights(), model.predict(x, verbose=0)

    found = train(layers.Conv2D)
    assert taken
    assert all(taken[-2:])
    wanted = train(OwnConv2D)
    for a, b in zip(*map(keras.tree.flatten, (found, wanted))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"dilation_rate": 2},
        {"groups": 2},
        {"dtype": "float16"},
        {"activity_regularizer": "l2"},
    ],
)
def test_what_is_left_to_keras(options, taken):
    x = normal(2, 3, 2, 2, 4)
    layer = layers.Conv2D(4, 3, padding="same", **options)
    y = FoldTime(layer)(x)
    assert taken == [False]
    wanted = to_numpy(layer(x.reshape(6, 2, 2, 4))).reshape(y.shape)
    np.testing.assert_allclose(to_numpy(y), wanted, rtol=1e-2, atol=1e-3)
    assert bool(layer.losses) == ("activity_regularizer" in options)


def test_maps_too_small_for_the_kernel_are_left_to_keras(taken):
    layer = layers.Conv2D(2, 3)
    layer.build((None, 6, 6, 4))
    with contextlib.suppress(Exception):  # not every backend raises one
        FoldTime(layer)(normal(2, 3, 1, 1, 4))
    assert taken == [False]


@pytest.mark.parametrize("jit", [False] if BACKEND == "torch" else [False, True])  # no XLA there
@pytest.mark.parametrize(
    "kernel, strides, slow_under_xla", [(3, 1, False), (3, 2, True), (1, 1, True), (5, 1, True)]
)
def test_the_size_of_maps_and_xla_decide(kernel, strides, slow_under_xla, jit, taken):
    inputs = keras.Input((2, 6, 6, 2))
    model = keras.Model(inputs, FoldTime(layers.Conv2D(2, kernel, strides))(inputs))
    model.compile(jit_compile=jit)
    x = normal(2, 2, 6, 6, 2)
    found = model.predict(x, verbose=0)
    assert set(taken) == {slow_under_xla and (BACKEND == "jax" or jit)}
    np.testing.assert_allclose(found, to_numpy(model(x)), rtol=1e-5, atol=1e-5)
