"""Claims E2.1 to E2.4 and E2.7 of the tdBN paper, E5.2 of S-ResNet, and TEBN's definition."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import layers, ops

from keras_snn.layers import (
    BatchNormalizationThroughTime,
    DecayLIF,
    FoldTime,
    TemporalEffectiveBatchNormalization,
    ThresholdDependentBatchNormalization,
)

TDBN = ThresholdDependentBatchNormalization


def sequence(*shape, seed=0, scale=1.0, shift=0.0):
    x = np.random.default_rng(seed).normal(size=shape) * scale + shift
    return x.astype("float32")


@pytest.mark.parametrize("threshold", [0.25, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [1.0, 2**-0.5])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_e2_1_mean_0_and_deviation_alpha_threshold(threshold, alpha, scale):
    x = sequence(16, 4, 6, 6, 3, scale=scale, shift=2 * scale)
    y = to_numpy(TDBN(alpha=alpha, threshold=threshold, epsilon=1e-9)(x, training=True))
    np.testing.assert_allclose(y.mean((0, 1, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(y.std((0, 1, 2, 3)), alpha * threshold, atol=1e-3)


def test_e2_1_statistics_are_shared_by_all_steps():
    x = sequence(4, 5, 3) * np.arange(1, 6).reshape(1, 5, 1).astype("float32")
    order = [3, 0, 4, 1, 2]
    y, permuted = (to_numpy(TDBN()(z, training=True)) for z in (x, x[:, order]))
    np.testing.assert_allclose(permuted, y[:, order], rtol=1e-4, atol=1e-5)


def test_e2_2_sum_of_two_branches_has_the_threshold_as_deviation():
    branches = [sequence(64, 4, 8, 8, 4, seed=s, scale=s + 1) for s in (1, 2)]
    total = sum(to_numpy(TDBN(2**-0.5, threshold=0.5)(x, training=True)) for x in branches)
    np.testing.assert_allclose(total.var((0, 1, 2, 3)), 0.25, rtol=0.02)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 2.0])
def test_e2_3_first_firing_rate_does_not_depend_on_the_threshold(threshold):
    x = FoldTime(layers.Conv2D(8, 3, use_bias=False))(sequence(64, 1, 18, 18, 3))
    spikes = DecayLIF(threshold=threshold)(TDBN(threshold=threshold)(x, training=True))
    assert abs(float(to_numpy(spikes).mean()) - 0.1587) < 0.02


def test_e2_3_plain_batch_normalization_depends_on_it():
    x = FoldTime(layers.BatchNormalization())(sequence(64, 1, 16, 16, 3), training=True)
    assert abs(float(to_numpy(DecayLIF(threshold=0.5)(x)).mean()) - 0.3085) < 0.02


def test_e2_4_fused_into_the_convolution():
    rng = np.random.default_rng(3)
    conv, norm = layers.Conv2D(4, 3), TDBN(alpha=2**-0.5, threshold=0.5)
    x = sequence(8, 3, 10, 10, 2)
    norm(FoldTime(conv)(x))
    gamma, beta, mean = (rng.normal(size=4) for _ in range(3))
    variance = rng.uniform(0.5, 2, size=4)
    norm.set_weights([gamma, beta, mean, variance])
    kernel, bias = (to_numpy(w) for w in conv.weights)
    bias = rng.normal(size=bias.shape)
    conv.set_weights([kernel, bias])
    plain = norm(FoldTime(conv)(x))
    factor = gamma * 2**-0.5 * 0.5 / np.sqrt(variance + 1e-5)
    conv.set_weights([kernel * factor, factor * (bias - mean) + beta])
    fused = FoldTime(conv)(x)
    np.testing.assert_allclose(to_numpy(plain), to_numpy(fused), rtol=1e-4, atol=1e-5)
    far = np.abs(to_numpy(fused) - 0.5) > 1e-4
    spikes = [to_numpy(DecayLIF()(z)) for z in (plain, fused)]
    assert far.mean() > 0.99 and 0.05 < spikes[0].mean() < 0.95
    np.testing.assert_array_equal(spikes[0][:, 0][far[:, 0]], spikes[1][:, 0][far[:, 0]])


@pytest.mark.parametrize("factor", [0.5, 4.0])  # powers of two: exact scaling
def test_e2_7_scaling_the_threshold_leaves_the_spikes(factor):
    x = sequence(8, 6, 5, 5, 3)
    spikes = [
        to_numpy(DecayLIF(threshold=v)(TDBN(threshold=v)(x, training=True)))
        for v in (0.5, 0.5 * factor)
    ]
    assert 0.05 < spikes[0].mean() < 0.95
    np.testing.assert_array_equal(*spikes)


def test_tdbn_weights_are_the_papers():
    """`y = gamma alpha V x + beta`: gradients of beta and gamma are 1 and `alpha V x`."""
    layer = TDBN(alpha=0.5, threshold=0.5)
    x = sequence(8, 4, 3)
    layer.build(x.shape)
    layer.set_weights([np.full(3, 3.0), np.full(3, 7.0), np.zeros(3), np.ones(3) - 1e-5])
    np.testing.assert_allclose(to_numpy(layer(x)), 3 * 0.25 * x + 7, rtol=1e-5, atol=1e-5)


def test_tdbn_moving_statistics_and_masks():
    x = sequence(8, 4, 3, shift=5.0)
    mask = np.arange(4)[None] < np.arange(8)[:, None] % 4 + 1
    layer = TDBN()
    layer(np.where(mask[..., None], x, 1e3).astype("float32"), training=True, mask=mask)
    np.testing.assert_allclose(to_numpy(layer.moving_mean), 0.1 * x[mask].mean(0), rtol=1e-4)


def test_channels_first():
    keras.config.set_image_data_format("channels_first")
    try:
        y = to_numpy(TDBN(threshold=0.5)(sequence(16, 4, 3, 6, 6, shift=1.0), training=True))
        steps = BatchNormalizationThroughTime(2)
        steps.build((None, 2, 3, 6, 6))
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(y.std((0, 1, 3, 4)), 0.5, atol=1e-3)
    assert steps.steps[0].gamma.shape == (3,)


def test_e5_2_bntt_steps_are_independent():
    x = sequence(16, 3, 4, 4, 2)
    shifted = x.copy()
    shifted[:, 1] = 5 * shifted[:, 1] + 3
    layer = BatchNormalizationThroughTime(3, epsilon=1e-9)
    y, other = (to_numpy(layer(z, training=True)) for z in (x, shifted))
    np.testing.assert_array_equal(y[:, [0, 2]], other[:, [0, 2]])
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, atol=1e-3)
    assert len(layer.trainable_weights) == 3  # a scale for each step, no shift
    means = [to_numpy(step.moving_mean) for step in layer.steps]
    assert not np.allclose(means[0], means[1])


def test_tebn_scales_each_step():
    x = sequence(8, 3, 4)
    layer = TemporalEffectiveBatchNormalization(3)
    plain = to_numpy(layer(x, training=True))
    layer.step_scale.assign([1.0, 2.0, -1.0])
    np.testing.assert_allclose(
        to_numpy(layer(x, training=True)),
        plain * np.array([1, 2, -1]).reshape(1, 3, 1),
        rtol=1e-5,
    )
    assert [tuple(w.shape) for w in layer.trainable_weights] == [(4,), (4,), (3,)]


@pytest.mark.parametrize(
    "layer", [BatchNormalizationThroughTime, TemporalEffectiveBatchNormalization]
)
def test_wrong_length_is_refused(layer):
    with pytest.raises(ValueError, match="made for 4 timesteps, got 5"):
        layer(4)(np.ones((2, 5, 3)))
    with pytest.raises(ValueError, match="made for 4 timesteps, got None"):
        layer(4)(keras.Input((None, 3)))
    built = layer(4)
    built(np.ones((2, 4, 3)))
    with pytest.raises(ValueError, match="made for 4 timesteps, got 6"):
        built(np.ones((2, 6, 3)))
    with pytest.raises(ValueError, match="`timesteps`.*got 0"):
        layer(0)


@pytest.mark.parametrize("argument", ["alpha", "threshold"])
@pytest.mark.parametrize("value", [0, -1.0, "1", float("nan")])
def test_tdbn_refuses(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}`.*{value!r}"):
        TDBN(**{argument: value})


@pytest.mark.parametrize(
    "layer",
    [
        lambda: TDBN(alpha=0.5, threshold=0.5),
        lambda: BatchNormalizationThroughTime(3),
        lambda: TemporalEffectiveBatchNormalization(3),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_training_and_saving(layer, dtype, tmp_path):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = keras.Sequential([keras.Input((3, 4, 4, 2)), layer(), DecayLIF()])
    finally:
        keras.config.set_dtype_policy(previous)
    model.compile("sgd", "mse")
    x = sequence(8, 3, 4, 4, 2)
    loss = model.fit(x, np.ones_like(x), epochs=2, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))
    assert ops.dtype(model(x)) == ("float32" if dtype == "float32" else "float16")


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="XLA fuses Keras's own")
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 6, 5), (2, 3, 6, 6, 5), (2, 3, 2, 3, 4, 5)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "dtype, rtol, atol",
    [("float32", 1e-4, 1e-5), ("mixed_float16", 2e-3, 2e-3), ("mixed_bfloat16", 2e-2, 2e-2)],
)
def test_fused_normalization_is_keras(shape, affine, training, dtype, rtol, atol):
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 2.0, shape).astype("float32")
    upstream = ops.array(rng.normal(size=shape).astype("float32"))
    arguments = {"center": affine, "scale": affine, "epsilon": 1e-5, "momentum": 0.9}
    arguments["dtype"] = dtype
    inner, own = (layers.BatchNormalization(**arguments) for _ in range(2))
    folded = (shape[0] * shape[1], *shape[2:])
    layer = FoldTime(inner, dtype=dtype)
    layer.build(shape)
    own.build(folded)
    for weights in zip(inner.variables, own.variables):
        values = rng.uniform(0.5, 1.5, weights[0].shape)
        for weight in weights:
            weight.assign(values)
    found = gradients(
        lambda x: ops.sum(ops.cast(layer(x, training=training), "float32") * upstream),
        layer.trainable_variables,
        x,
    )

    def plain(x):
        y = own(ops.reshape(x, folded), training=training)
        assert y.dtype == layer(x).dtype
        return ops.sum(ops.reshape(ops.cast(y, "float32"), shape) * upstream)

    wanted = gradients(plain, own.trainable_variables, x)
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(wanted)):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
    for a, b in zip(inner.non_trainable_variables, own.non_trainable_variables):
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=1e-5, atol=1e-6)
    layer.trainable = False
    frozen, inferred = (
        to_numpy(ops.cast(y, "float32")) for y in (layer(x, training=True), layer(x))
    )
    np.testing.assert_allclose(frozen, inferred, rtol=1e-6, atol=1e-6)


def test_normalization_of_one_value():
    layer = FoldTime(layers.BatchNormalization(beta_initializer="ones"))
    y = to_numpy(layer(np.full((1, 1, 3), 7.0, "float32"), training=True))
    np.testing.assert_array_equal(y, np.ones((1, 1, 3)))
    assert np.isfinite(to_numpy(layer.layer.moving_variance)).all()


@pytest.mark.parametrize("layer", [TDBN, lambda: TemporalEffectiveBatchNormalization(5)])
def test_bad_input(layer):
    layer = layer()
    for steps in (4, 6):
        with pytest.raises(ValueError, match="mask of shape"):
            layer(np.ones((2, 5, 3)), mask=ops.ones((2, steps), "bool"))
    with pytest.raises(ValueError, match="axis -1 .* to have value 3"):
        layer(np.ones((2, 5, 1)))  # would be normalised with three means
    for layer in (TDBN(), BatchNormalizationThroughTime(5)):
        with pytest.raises(ValueError, match=r"\(batch, time, ...\)"):
            layer(np.ones((2, 5)))
