import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers, ops

from keras_snn.layers import (
    IF,
    DirectEncoder,
    FoldTime,
    PaddedConv2D,
    RepeatTime,
    TimeConstantDropout,
    fold,
    unfold,
)


def sequence(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_fold_and_unfold_are_inverse():
    x = sequence(2, 3, 4, 5)
    np.testing.assert_array_equal(to_numpy(unfold(fold(x), x)), x)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Dense(5),
        lambda: layers.Conv2D(5, 3, strides=2),
        lambda: layers.MaxPooling2D(2),
        lambda: layers.GlobalAveragePooling2D(),
        lambda: layers.Flatten(),
    ],
)
def test_fold_time_equals_the_layer_at_every_step(layer):
    x = sequence(2, 3, 8, 8, 2)
    folded = FoldTime(layer())
    y = to_numpy(folded(x))
    steps = [to_numpy(folded.layer(x[:, t])) for t in range(3)]
    np.testing.assert_allclose(y, np.stack(steps, axis=1), rtol=1e-5, atol=1e-6)
    assert folded.compute_output_shape((None, 3, 8, 8, 2)) == (None, *y.shape[1:])


def test_batch_normalization_sees_batch_and_time_together():
    x = sequence(4, 6, 3) * 2 + np.arange(6).reshape(1, 6, 1).astype("float32")
    layer = FoldTime(layers.BatchNormalization(epsilon=0.0))
    y = to_numpy(layer(x, training=True))
    flat = x.reshape(-1, 3)
    np.testing.assert_allclose(
        y.reshape(-1, 3), (flat - flat.mean(0)) / flat.std(0), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(  # one update of the moving mean, not one per step
        to_numpy(layer.layer.moving_mean), 0.01 * flat.mean(0), rtol=1e-4
    )


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 5, 5, 3)])
def test_batch_normalization_leaves_masked_steps_out(shape):
    x = sequence(*shape)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    spoilt = np.where(mask.reshape(2, 4, *[1] * (len(shape) - 2)), x, 1e3).astype("float32")
    layer = FoldTime(layers.BatchNormalization(epsilon=0.0))
    y = to_numpy(layer(spoilt, training=True, mask=mask))
    kept = x[mask].reshape(-1, 3)
    np.testing.assert_allclose(
        y[mask].reshape(-1, 3), (kept - kept.mean(0)) / kept.std(0), rtol=1e-3, atol=1e-3
    )


def test_fold_time_keeps_the_mask_for_later_layers():
    inputs = keras.Input((None, 2))
    x = FoldTime(layers.Dense(2, kernel_initializer="ones"))(layers.Masking(0.0)(inputs))
    model = keras.Model(inputs, IF(threshold=0.5)(x))
    x = np.ones((1, 4, 2), "float32")
    x[0, 2] = 0
    assert to_numpy(model(x))[0, :, 0].tolist() == [1, 1, 0, 1]


def test_unknown_batch_and_time():
    inputs = keras.Input((None, None, None, 2))
    model = keras.Model(inputs, FoldTime(layers.Conv2D(3, 3, padding="same"))(inputs))
    assert model.output_shape == (None, None, None, None, 3)
    for shape in [(2, 3, 8, 8, 2), (1, 5, 6, 4, 2)]:
        assert model.predict(np.ones(shape), verbose=0).shape == (*shape[:-1], 3)


def test_fold_time_in_training_and_on_disk(tmp_path):
    model = keras.Sequential(
        [keras.Input((3, 8, 8, 1)), FoldTime(layers.Conv2D(2, 3)), FoldTime(layers.Flatten())]
    )
    model.compile("sgd", "mse")
    x = sequence(4, 3, 8, 8, 1)
    model.fit(x, np.zeros((4, 3, 72)), epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(loaded(x)), to_numpy(model(x)), rtol=1e-6)


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match=r"rank 3 or more.*\(2, 3\)"):
        FoldTime(layers.Dense(1))(np.ones((2, 3)))
    for make in (lambda: layers.Conv2D(1, 3), lambda: PaddedConv2D(1, 3, 1, "symmetric")):
        for images in (np.ones((2, 8, 8, 3)), keras.Input((8, 8, 3))):
            with pytest.raises(ValueError, match=r"8, 8, 3\).*expected min_ndim=4.*no time axis"):
                FoldTime(make())(images)
        layer = FoldTime(make())
        layer(np.ones((2, 3, 8, 8, 2)))
        with pytest.raises(ValueError, match="8, 8, 4"):  # as two groups, on TensorFlow
            layer(np.ones((2, 3, 8, 8, 4)))
    layer = FoldTime(layers.Dense(1))
    for steps in (4, 6):
        with pytest.raises(ValueError, match="mask of shape"):
            layer(np.ones((2, 5, 3)), mask=ops.ones((2, steps), "bool"))
    with pytest.raises(ValueError, match="at least one time step"):
        layer(np.ones((2, 0, 3)))


class Doubled(layers.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs)


def low_rank(layer):
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))


def halved(layer):
    call = layer.call
    layer.call = lambda x: call(x) / 2


NORM, CONV = layers.BatchNormalization, layers.Conv2D
# Layers that `FoldTime` computes in its own way where nothing is attached, and what may be.
FORMS = {
    "norm": (NORM, {"momentum": 0.5}, None),
    "norm's penalty": (NORM, {"activity_regularizer": "l2"}, None),
    "norm of another axis": (NORM, {"axis": 1}, None),
    "norm without weights": (NORM, {"center": False, "scale": False}, None),
    "norm's weight penalty": (NORM, {"gamma_regularizer": "l2"}, None),
    "renorm": (NORM, {"renorm": True}, None),
    "frozen": (NORM, {"trainable": False}, None),
    "convolution": (CONV, {"filters": 4, "kernel_size": 3, "activation": "relu"}, None),
    "penalty": (CONV, {"filters": 4, "kernel_size": 1, "activity_regularizer": "l1"}, None),
    "groups": (CONV, {"filters": 4, "kernel_size": 3, "groups": 2}, None),
    "dilation": (CONV, {"filters": 4, "kernel_size": 2, "dilation_rate": 2}, None),
    "low rank": (CONV, {"filters": 4, "kernel_size": 3}, low_rank),
    "subclass": (Doubled, {"filters": 4, "kernel_size": 3}, None),
    "another call": (CONV, {"filters": 4, "kernel_size": 3}, halved),
}


@pytest.mark.parametrize("form", FORMS)
def test_folded_layers_are_those_of_keras(form):
    """Outputs, losses and moving statistics, on maps and on features, in training."""
    cls, arguments, attach = FORMS[form]
    x = sequence(2, 3, 4, 4, 2)
    folded, plain = FoldTime(cls(**arguments)), cls(**arguments)
    for layer, shape in ((folded, x.shape), (plain, (6, 4, 4, 2))):
        layer.build(shape)
        if attach:
            attach(getattr(layer, "layer", layer))
    for ours, theirs in zip(folded.layer.variables, plain.variables):
        if "seed" not in theirs.path:
            ours.assign(theirs)
    training = {"training": True} if cls is NORM else {}
    y, wanted = folded(x, **training), plain(x.reshape(6, 4, 4, 2), **training)
    np.testing.assert_allclose(
        to_numpy(y).reshape(wanted.shape), to_numpy(wanted), rtol=1e-4, atol=1e-5
    )
    assert len(folded.losses) == len(plain.losses)
    np.testing.assert_allclose(to_numpy(folded.losses), to_numpy(plain.losses), rtol=1e-4)
    for ours, theirs in zip(folded.layer.variables, plain.variables):
        np.testing.assert_allclose(to_numpy(ours), to_numpy(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="hooks are PyTorch's")
@pytest.mark.parametrize("inner", [lambda: layers.Conv2D(4, 3), layers.BatchNormalization])
def test_hooks_of_folded_layers_are_called(inner):
    x = sequence(2, 3, 4, 4, 2)
    layer = FoldTime(inner())
    plain = to_numpy(layer(x))
    layer.layer.register_forward_hook(lambda module, args, y: 2 * y)
    np.testing.assert_allclose(to_numpy(layer(x)), 2 * plain, rtol=1e-5, atol=1e-6)


def test_steps_are_no_mask_of_what_keras_masks_otherwise():
    x = sequence(2, 2, 4)
    y = FoldTime(layers.Softmax())(x, mask=np.array([[True, False], [True, True]]))
    np.testing.assert_allclose(to_numpy(y).sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(to_numpy(y), to_numpy(layers.Softmax()(x)), rtol=1e-5)


def test_repeat_time():
    x = sequence(2, 4)
    y = to_numpy(RepeatTime(3)(x))
    assert y.shape == (2, 3, 4)
    assert all(np.array_equal(y[:, t], x) for t in range(3))
    assert DirectEncoder is RepeatTime
    inputs = keras.Input((None, None, 1))
    assert RepeatTime(3)(inputs).shape == (None, 3, None, None, 1)


@pytest.mark.parametrize("timesteps", [0, -1, 2.5, None, True])
def test_repeat_time_refuses(timesteps):
    with pytest.raises(ValueError, match=f"timesteps.*{timesteps!r}"):
        RepeatTime(timesteps)


def test_dropout_mask_is_constant_over_time_and_drawn_anew_for_each_pass():
    layer = TimeConstantDropout(0.5, seed=1)
    x = np.ones((8, 5, 16), "float32")
    first, second = (to_numpy(layer(x, training=True)) for _ in range(2))
    assert set(np.unique(first)) == {0.0, 2.0}
    assert (first == first[:, :1]).all() and (second == second[:, :1]).all()
    assert (first != second).any()
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(to_numpy(layer(x)), x)
    assert TimeConstantDropout.from_config(layer.get_config()).rate == 0.5
