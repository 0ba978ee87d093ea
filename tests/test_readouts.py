"""Readouts against numpy, with and without masks."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import layers, ops

from keras_snn.layers import (
    FirstSpikeTime,
    LastOverTime,
    MaxOverTime,
    MeanOverTime,
    MembraneReadout,
    SumOverTime,
    Voting,
)

MASK = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)


def first_spike(spikes):
    """Of spikes `(time, ...)`."""
    return np.where(spikes.any(0), spikes.argmax(0), len(spikes))


READOUTS = {
    MeanOverTime: lambda x: x.mean(0) if len(x) else np.zeros(x.shape[1:]),
    SumOverTime: lambda x: x.sum(0),
    MaxOverTime: lambda x: x.max(0) if len(x) else np.zeros(x.shape[1:]),
    LastOverTime: lambda x: x[-1] if len(x) else np.zeros(x.shape[1:]),
    FirstSpikeTime: lambda x: first_spike(x) if len(x) else np.zeros(x.shape[1:]),
}


def data(layer, *shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) if layer is not FirstSpikeTime else rng.random(shape) < 0.3
    return x.astype("float32")


@pytest.mark.parametrize("layer", READOUTS)
@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 3, 3, 2)])
def test_against_numpy(layer, shape):
    x = data(layer, *shape)
    expected = np.stack([READOUTS[layer](example) for example in x])
    np.testing.assert_allclose(to_numpy(layer()(x)), expected, rtol=1e-5, atol=1e-6)
    kept = [READOUTS[layer](example[keep]) for example, keep in zip(x, MASK)]
    masked = to_numpy(layer()(x, mask=MASK))
    np.testing.assert_allclose(masked, np.stack(kept), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", READOUTS)
def test_gradients_are_finite_and_masked_steps_have_none(layer):
    x = data(layer, 3, 5, 4)
    readout = layer()
    _, (grad,), _ = gradients(lambda z: ops.sum(readout(z, mask=MASK)), [], x)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0
    assert (grad[~MASK] == 0).all()


def test_first_spike_gradient():
    """Of `sum_t prod (1 - s)`: a spike earlier by a step saves the steps that were waited."""
    spikes = np.array([0, 0, 1, 0, 1], "float32").reshape(1, 5, 1)
    _, (grad,), _ = gradients(lambda z: ops.sum(FirstSpikeTime()(z)), [], spikes)
    assert grad.ravel().tolist() == [-2, -1, -2, 0, 0]


@pytest.mark.parametrize("layer", READOUTS)
def test_masks_from_layers_before_and_unknown_time(layer, tmp_path):
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, layer()(layers.Masking(-1.0)(inputs)))
    assert model.output_shape == (None, 4)
    x = data(layer, 2, 5, 4)
    padded = np.concatenate([x, np.full((2, 3, 4), -1.0, "float32")], axis=1)
    np.testing.assert_allclose(
        model.predict(padded, verbose=0), to_numpy(layer()(x)), rtol=1e-5, atol=1e-6
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("tau", [None, 2.0])
def test_membrane_readout(tau):
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    v, potentials = np.zeros((3, 4)), []
    for t in range(5):
        v = v + x[:, t] if tau is None else v + (x[:, t] - v) / tau
        potentials.append(v)
    potentials = np.stack(potentials, axis=1)
    for mode, expected in (
        ("last", potentials[:, -1]),
        ("max", potentials.max(1)),
        ("mean", potentials.mean(1)),
    ):
        layer = MembraneReadout(mode, tau=tau)
        np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=1e-5, atol=1e-5)
        again = MembraneReadout.from_config(layer.get_config())
        np.testing.assert_array_equal(to_numpy(again(x)), to_numpy(layer(x)))
    short = to_numpy(MembraneReadout("last", tau=tau)(x, mask=np.arange(5)[None] < [[3]] * 3))
    np.testing.assert_allclose(short, potentials[:, 2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [*READOUTS, MembraneReadout])
@pytest.mark.parametrize(("time", "jit"), [(5, True), (None, False)])
def test_in_fit(layer, time, jit):
    # Compiling matters to TensorFlow: XLA where shapes are known, a plain graph where not.
    jit = jit if keras.backend.backend() == "tensorflow" else "auto"
    dense = layers.Dense(3, activation="sigmoid")
    model = keras.Sequential([keras.Input((time, 4)), dense, layer()])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
    x = np.random.default_rng(0).normal(size=(4, 5, 4)).astype("float32")
    before = to_numpy(dense.kernel)
    model.fit(x, np.zeros((4, 3)), verbose=0)
    assert np.isfinite(to_numpy(dense.kernel)).all() and (to_numpy(dense.kernel) != before).any()


@pytest.mark.parametrize("layer", READOUTS)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32"])
def test_integer_spikes(layer, dtype):
    x = data(FirstSpikeTime, 3, 5, 4)
    for mask in (None, MASK):
        y = layer()(x.astype(dtype), mask=mask)
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        np.testing.assert_array_equal(to_numpy(y), to_numpy(layer()(x, mask=mask)))


def test_long_masked_mean_does_not_overflow_in_float16():
    x = np.full((1, 5000, 1), 100.0, "float32")
    y = MeanOverTime(dtype="mixed_float16")(x, mask=np.ones((1, 5000), bool))
    assert float(to_numpy(y)[0, 0]) == 100.0


def test_e5_4_voting_is_the_mean_of_ten_consecutive_units():
    x = np.random.default_rng(0).normal(size=(2, 3, 40)).astype("float32")
    expected = x.reshape(2, 3, 4, 10).mean(-1)
    np.testing.assert_allclose(to_numpy(Voting(10)(x)), expected, rtol=1e-5, atol=1e-6)
    assert Voting(10).compute_output_shape((None, None, 40)) == (None, None, 4)


def test_readouts_in_training():
    model = keras.Sequential(
        [keras.Input((6, 4)), layers.Dense(20), MembraneReadout("max", tau=3.0), Voting(10)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(8, 6, 4)).astype("float32")
    losses = model.fit(x, np.arange(8) % 2, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("layer", [*READOUTS, MembraneReadout])
def test_mixed_precision(layer):
    y = layer(dtype="mixed_float16")(np.ones((2, 5, 3), "float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"


def test_bad_input():
    with pytest.raises(ValueError, match=r"3 votes.*\(2, 5, 10\)"):
        Voting(3)(np.ones((2, 5, 10)))
    with pytest.raises(ValueError, match="`votes`.*got 0"):
        Voting(0)
    with pytest.raises(ValueError, match="`mode`.*got 'median'"):
        MembraneReadout("median")
    with pytest.raises(ValueError, match="`tau`.*got 0.5"):
        MembraneReadout(tau=0.5)
    with pytest.raises(ValueError, match=r"rank 2 or more.*\(3,\)"):
        MeanOverTime()(np.ones(3))


@pytest.mark.parametrize("layer", [*READOUTS, MembraneReadout])
def test_masks_of_another_shape_and_no_step_are_refused(layer):
    readout = layer()
    readout(np.ones((2, 5, 3)))
    for shape in ((2, 4), (2, 6), (1, 5), (2, 5, 1), (5,)):
        with pytest.raises(ValueError, match="mask of shape"):
            readout(np.ones((2, 5, 3)), mask=ops.ones(shape, "bool"))
    for made in (layer(), readout):
        for x in (np.ones((2, 0, 3)), keras.Input((0, 3))):
            with pytest.raises(ValueError, match="at least one time step"):
                made(x)


@pytest.mark.parametrize("layer", READOUTS)
def test_a_subclass_leaves_the_name_to_ours(layer):
    type(layer.__name__, (layer,), {})
    assert type(keras.saving.deserialize_keras_object(serialized(layer()))) is layer


def serialized(layer):
    return keras.saving.serialize_keras_object(layer)
