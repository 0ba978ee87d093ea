"""Encoders against their definitions, worked by hand or in numpy."""

import keras
import numpy as np
import pytest
from helpers import to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_snn.layers import (
    DeltaEncoder,
    ImpulseEncoder,
    LatencyEncoder,
    PhaseEncoder,
    PoissonEncoder,
    PopulationEncoder,
)

ENCODERS = [
    lambda: ImpulseEncoder(4),
    lambda: PoissonEncoder(4, gain=0.8, seed=1),
    lambda: LatencyEncoder(4),
    lambda: LatencyEncoder(4, mode="log"),
    lambda: PhaseEncoder(4),
    lambda: PopulationEncoder(4, neurons=3),
]


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("signed", [True, False])
def test_e3_6_poisson_rates(gain, signed):
    values = np.array([[-1.7, -1.0, -0.6, -0.1, 0.0, 0.3, 0.5, 0.9, 1.0, 3.0]], "float32")
    steps = 4000
    spikes = to_numpy(PoissonEncoder(steps, gain, signed, seed=3)(values))
    p = np.minimum(np.abs(values[0]) * gain, 1)
    expected = p * np.sign(values[0])
    if not signed:
        p, expected = np.where(values[0] > 0, p, 0), np.maximum(expected, 0)
    error = np.abs(spikes[0].mean(0) - expected)
    assert (error <= 4 * np.sqrt(p * (1 - p) / steps) + 1e-6).all()
    assert set(np.unique(spikes)) == ({-1.0, 0.0, 1.0} if signed else {0.0, 1.0})
    assert (spikes[0][:, values[0] == 0] == 0).all()


def test_poisson_draws_anew_and_repeats_with_its_seed():
    x = np.full((2, 50), 0.5, "float32")
    layer, same = PoissonEncoder(8, seed=7), PoissonEncoder(8, seed=7)
    first, second = to_numpy(layer(x)), to_numpy(layer(x))
    assert (first != second).any() and (first[0] != first[1]).any()
    np.testing.assert_array_equal(first, to_numpy(same(x)))
    model = keras.Sequential([keras.Input((50,)), PoissonEncoder(8, seed=7)])
    draws = [model.predict(x, verbose=0) for _ in range(2)]
    assert (draws[0] != draws[1]).any()


@pytest.mark.parametrize("timesteps", [1, 5, 200])
def test_latency(timesteps):
    x = np.linspace(0.003, 0.997, 101, dtype="float32")[None]
    last = timesteps - 1
    linear = last * (1 - x[0].astype("float64"))
    log = last - np.log(np.expm1(last) * x[0].astype("float64") + 1)
    for mode, when in (("linear", linear), ("log", log)):
        spikes = to_numpy(LatencyEncoder(timesteps, mode=mode)(x))[0]
        assert (spikes.sum(0) == 1).all()
        clear = np.abs(when - np.floor(when) - 0.5) > 1e-3
        np.testing.assert_array_equal(spikes.argmax(0)[clear], np.round(when)[clear])
        assert clear.mean() > 0.9


@pytest.mark.parametrize("mode", ["linear", "log"])
@pytest.mark.parametrize("timesteps", [1, 2, 89, 300])
def test_latency_of_the_bounds(timesteps, mode):
    spikes = to_numpy(LatencyEncoder(timesteps, mode)(np.array([[0.0, 1.0]], "float32")))[0]
    assert (spikes.sum(0) == 1).all()
    assert spikes.argmax(0).tolist() == [timesteps - 1, 0]


def test_latency_clips():
    spikes = to_numpy(LatencyEncoder(3)(np.array([[-2.0, 7.0]], "float32")))[0]
    assert spikes[:, 0].tolist() == [0, 0, 1] and spikes[:, 1].tolist() == [1, 0, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**12 - 1))
def test_phase_digits_give_the_value_back(timesteps, number):
    number %= 2**timesteps
    value = np.array([[number / 2**timesteps]], "float32")
    digits = to_numpy(PhaseEncoder(timesteps)(value))[0, :, 0]
    assert [int(d) for d in digits] == [int(d) for d in f"{number:0{timesteps}b}"]


def test_delta():
    x = np.array([[0.2, 0.35, 0.4, 0.0, 0.1, -0.4]], "float32")[..., None]
    assert to_numpy(DeltaEncoder(0.12)(x))[0, :, 0].tolist() == [1, 1, 0, 0, 0, 0]
    both = to_numpy(DeltaEncoder(0.12, off_spikes=True)(x))[0, :, 0]
    assert both.tolist() == [1, 1, 0, -1, 0, -1]


def test_population():
    x = np.random.default_rng(0).uniform(-1, 3, (2, 5, 3)).astype("float32")
    y = to_numpy(PopulationEncoder(2, neurons=5, minimum=-1.0, maximum=3.0)(x))
    centres = np.array([-1.0, 0.0, 1.0, 2.0, 3.0])
    expected = np.exp(-0.5 * ((x[..., None] - centres) / (1 / 1.5)) ** 2).reshape(2, 5, 15)
    assert y.shape == (2, 2, 5, 15)
    for t in range(2):
        np.testing.assert_allclose(y[:, t], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("shape", [(3,), (4, 4, 2)])
def test_in_models(encoder, shape, tmp_path):
    model = keras.Sequential([keras.Input(shape), encoder()])
    x = np.random.default_rng(0).uniform(0, 1, (2, *shape)).astype("float32")
    y = model.predict(x, verbose=0)
    assert y.shape[:2] == (2, 4) and model.output_shape[1:] == y.shape[1:]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].get_config() == model.layers[0].get_config()
    if not isinstance(model.layers[0], PoissonEncoder):
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), y)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_mixed_precision(encoder):
    config = encoder().get_config() | {"dtype": "mixed_float16"}
    y = type(encoder()).from_config(config)(np.array([[0.1, 0.9]], "float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    assert np.isfinite(to_numpy(y)).all()


@pytest.mark.parametrize("encoder", [*ENCODERS, lambda: DeltaEncoder(1.5, off_spikes=True)])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integers_are_encoded_as_floats(encoder, dtype):
    x = np.array([[[5], [3], [0], [9], [1]]], dtype)
    y, expected = encoder()(x), encoder()(x.astype("float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_array_equal(to_numpy(y), to_numpy(expected))
    assert np.abs(to_numpy(expected)).max() > 0


@pytest.mark.parametrize("encoder", [PhaseEncoder(12), LatencyEncoder(400), DeltaEncoder(0.0095)])
def test_mixed_precision_does_not_round_what_is_encoded(encoder):
    x = np.linspace(0, 0.99, 300, dtype="float32").reshape(1, 100, 3)
    mixed = type(encoder).from_config(encoder.get_config() | {"dtype": "mixed_bfloat16"})
    np.testing.assert_array_equal(to_numpy(ops.cast(mixed(x), "float32")), to_numpy(encoder(x)))


def test_population_refuses_inputs_without_features():
    with pytest.raises(ValueError, match=r"rank 2 or more.*\(4,\)"):
        PopulationEncoder(2, neurons=3)(np.ones(4, "float32"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PoissonEncoder(0), "`timesteps`.*got 0"),
        (lambda: PoissonEncoder(3, gain=-1.0), "`gain`.*got -1.0"),
        (lambda: LatencyEncoder(3, mode="cubic"), "`mode`.*got 'cubic'"),
        (lambda: DeltaEncoder(0.0), "`threshold`.*got 0.0"),
        (lambda: PopulationEncoder(2, neurons=1), "`neurons`.*got 1"),
        (lambda: PopulationEncoder(2, neurons=3, maximum=-1.0), "`maximum`.*got -1.0"),
        (lambda: PopulationEncoder(2, neurons=3, sigma=0), "`sigma`.*got 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
