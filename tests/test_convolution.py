"""Convolutions over time, as products of matrices or without copies: the same as Keras's own."""

import contextlib

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_snn import applications
from keras_snn.kernels import convolution, tuning
from keras_snn.layers import FoldTime, PaddedConv2D

BACKEND = keras.backend.backend()
PRODUCT = convolution._compiled() if BACKEND == "jax" else convolution._product
# What the layer's own way gives implementation to where no product pays.
OTHERWISE = convolution._conv_channels_last if BACKEND == "torch" else None
IMPLEMENTATIONS = [implementation for implementation in (PRODUCT, OTHERWISE) if implementation]
SYMMETRIC = convolution._symmetric if BACKEND == "tensorflow" else OTHERWISE


@keras.saving.register_keras_serializable(package="tests")
class OwnConv2D(layers.Conv2D):
    """Left alone by `FoldTime`, which knows Keras's class only."""


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@settings(max_examples=12 if keras.backend.backend() == "jax" else 25, deadline=None)
@given(st.data())
def test_outputs_are_keras(data):
    size, kernel, strides = (
        data.draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (6, 5, 3)
    )
    fits = all(k <= n for k, n in zip(kernel, size))
    padding = data.draw(st.sampled_from(["same", "valid"] if fits else ["same"]))
    strides = (strides[0], strides[0])  # TensorFlow knows no others
    layer = layers.Conv2D(3, kernel, strides, padding)
    x = normal(2, *size, 2)
    wanted = to_numpy(layer(x))
    arguments = ops.convert_to_tensor(x), ops.convert_to_tensor(layer.kernel), strides, padding
    for implementation in IMPLEMENTATIONS:
        found = to_numpy(implementation(*arguments))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("options", [{}, {"use_bias": False, "activation": "tanh"}])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_are_keras(size, strides, options, implementation, monkeypatch):
    monkeypatch.setattr(convolution, "_implementation", lambda layer, x: implementation)
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
        results.append(
            gradients(
                lambda x, fold=fold, upstream=upstream: ops.sum(fold(x) * upstream),
                each.trainable_variables,
                normal(*shape),
            )
        )
    for found, wanted in zip(*map(keras.tree.flatten, results)):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture
def taken(monkeypatch):
    """The way that each convolution took, in order; `None` is the layer's own."""
    taken = []

    def spy(layer, x):
        taken.append(convolution._implementation(layer, x))
        return convolution.convolve(layer, x)

    monkeypatch.setattr("keras_snn.layers.time.convolve", spy)
    return taken


@pytest.mark.parametrize("size", [1, 2])
def test_small_maps_train_as_products(size, taken, monkeypatch):
    monkeypatch.setattr(tuning, "LARGE_KERNEL", 0)

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
    assert taken[-2:] == [PRODUCT] * 2
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
    assert all(outputs is None for outputs in taken)
    wanted = to_numpy(layer(x.reshape(6, 2, 2, 4))).reshape(y.shape)
    np.testing.assert_allclose(to_numpy(y), wanted, rtol=1e-2, atol=1e-3)
    assert bool(layer.losses) == ("activity_regularizer" in options)


def test_maps_too_small_for_the_kernel_are_left_to_keras(taken):
    layer = layers.Conv2D(2, 3)
    layer.build((None, 6, 6, 4))
    with contextlib.suppress(Exception):  # not every backend raises one
        FoldTime(layer)(normal(2, 3, 1, 1, 4))
    assert taken == [None]


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
    product = slow_under_xla and (BACKEND == "jax" or jit)
    assert set(taken) == {PRODUCT if product else OTHERWISE}
    np.testing.assert_allclose(found, to_numpy(model(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_precisions(dtype, taken):
    fold = FoldTime(layers.Conv2D(4, 3, padding="same", strides=2, dtype=dtype), dtype=dtype)
    x = ops.cast(normal(2, 3, 6, 6, 4), dtype)
    y = fold(x)
    assert taken == [OTHERWISE]
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    wanted = ops.cast(fold.layer(ops.reshape(x, (6, 6, 6, 4))), "float32")
    found = to_numpy(ops.cast(y, "float32")).reshape(wanted.shape)
    np.testing.assert_allclose(found, to_numpy(wanted), rtol=1e-2, atol=1e-2)


def test_nothing_is_moved_around_convolutions():
    """No copies to other layouts or types of any frames, neither forward nor backward."""
    model = applications.SEWResNet8(input_shape=(16, 16, 1), classes=3, timesteps=3)
    x = normal(5, *model.input_shape[1:])
    moved = {"tensorflow": _moved_in_graph, "jax": _moved_in_jaxpr, "torch": _moved_by_torch}
    assert moved[BACKEND](model, x) == []


def _moved_in_graph(model, x):
    import tensorflow as tf

    def step(x):
        with tf.GradientTape() as tape:
            loss = ops.sum(model(x, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    operations = tf.function(step).get_concrete_function(x).graph.get_operations()
    assert "Conv2DBackpropInput" in {op.type for op in operations}
    moves = [op for op in operations if op.type in ("Transpose", "Cast")]
    return [op for op in moves if op.outputs[0].shape.rank not in range(4)]


def _moved_in_jaxpr(model, x):
    import jax

    def loss(trained, x):
        others = [v.value for v in model.non_trainable_variables]
        return ops.sum(model.stateless_call(trained, others, x, training=True)[0] ** 2)

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for inner in jax.core.jaxprs_in_params(equation.params):
                yield from walk(inner)

    trained = [v.value for v in model.trainable_variables]
    found = list(walk(jax.make_jaxpr(jax.grad(loss))(trained, x).jaxpr))
    assert "conv_general_dilated" in {equation.primitive.name for equation in found}
    moves = [e for e in found if e.primitive.name in ("transpose", "convert_element_type")]
    frames = [e for e in moves if e.invars[0].aval.ndim >= 4]
    return [e for e in frames if e.invars[0].aval.dtype != bool]  # spikes become floats


def _moved_by_torch(model, x):
    from torch.utils._python_dispatch import TorchDispatchMode

    called = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            outputs = function(*args, **(kwargs or {}))
            called.append((function.overloadpacket.__name__, outputs))
            return outputs

    with Spy():
        ops.sum(model(x, training=True) ** 2).backward()
    assert "convolution_backward" in {name for name, _ in called}
    moves = [tuple(y.shape) for name, y in called if name in ("clone", "_to_copy", "copy_")]
    return [shape for shape in moves if shape[:2] == (5, 3) or (shape[0], len(shape)) == (15, 4)]


def padded(strides=2, kernel=3, **kwargs):
    return PaddedConv2D(4, kernel, strides, "symmetric", **kwargs)


@pytest.mark.parametrize("size", [(7, 8), (2, 1), (16, 9)])
@pytest.mark.parametrize("kernel, strides", [(3, 2), (7, 2), ((5, 3), 3), (1, 2), (3, 1)])
@pytest.mark.parametrize(
    "implementation", [None, *IMPLEMENTATIONS, *([SYMMETRIC] if BACKEND == "tensorflow" else [])]
)
def test_symmetric_padding_is_zeros_in_front(size, kernel, strides, implementation, monkeypatch):
    layer, own = padded(strides, kernel), layers.Conv2D(4, kernel, strides)
    monkeypatch.setattr(
        convolution, "_implementation", lambda asked, x: implementation if asked is layer else None
    )
    x = normal(2, 3, *size, 5)
    shape = FoldTime(layer).compute_output_shape(x.shape)
    zeros = [k // 2 for k in layer.kernel_size]
    for each in (layer, own):
        each.build((None, 99, 99, 5))
    own.set_weights([normal(*weight.shape) for weight in own.weights])
    layer.set_weights(own.get_weights())
    assert layer.compute_output_shape((None, None, size[1], 5))[1:3] == (None, shape[3])

    def plain(x):
        return FoldTime(own)(FoldTime(layers.ZeroPadding2D(zeros))(x))

    assert tuple(plain(x).shape) == shape
    upstream = ops.array(normal(*shape))
    results = [
        gradients(lambda x, f=f: ops.sum(f(x) * upstream), each.trainable_variables, x)
        for f, each in ((FoldTime(layer), layer), (plain, own))
    ]
    for found, wanted in zip(*map(keras.tree.flatten, results)):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_symmetric_padding_of_dilated_and_channels_first_maps():
    layer = padded(1, (3, 5), dilation_rate=2)
    x = normal(2, 9, 9, 3)
    same = layers.Conv2D(4, (3, 5), padding="same", dilation_rate=2)
    same.build(x.shape)
    layer.build(x.shape)
    layer.set_weights(same.get_weights())
    np.testing.assert_allclose(to_numpy(layer(x)), to_numpy(same(x)), rtol=1e-4, atol=1e-5)
    first = padded(data_format="channels_first")
    assert first.compute_output_shape((2, 3, 9, 4)) == (2, 4, 5, 2)
    last = padded()
    last.build(x.shape)
    first.build((2, 3, 9, 9))
    first.set_weights(last.get_weights())
    found = np.moveaxis(to_numpy(first(np.moveaxis(x, -1, 1))), 1, -1)
    np.testing.assert_allclose(found, to_numpy(last(x)), rtol=1e-4, atol=1e-5)


def test_padded_convolutions_are_saved(tmp_path):
    inputs = keras.Input((2, 6, 6, 3))
    x = FoldTime(padded())(inputs)
    model = keras.Model(inputs, FoldTime(PaddedConv2D(2, 2, padding="same"))(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.layer.padding for layer in loaded.layers[1:]] == ["symmetric", "same"]
    x = normal(2, 2, 6, 6, 3)
    np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))


@pytest.mark.parametrize("arguments", [(3, (3, 2), 2, "symmetric"), (3, 3, 2, "full")])
def test_what_padding_refuses(arguments):
    with pytest.raises(ValueError, match="odd sizes|padding"):
        PaddedConv2D(*arguments)
