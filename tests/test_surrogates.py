"""Surrogates: exact spikes, slopes of their primitives, values of the papers and peers."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import ops

from keras_snn import surrogates
from keras_snn.layers import IF

AT_ZERO = {  # derivative at u = 0 with the defaults, from SpikingJelly's and the papers' formulas
    "Sigmoid": 1,
    "ATan": 1,
    "PiecewiseQuadratic": 1,
    "Triangle": 0.3,
    "PiecewiseExp": 0.5,
    "Rectangle": 1,
    "SoftSign": 1,
    "SuperSpike": 1,
    "FastSigmoid": 1,
    "NonzeroSignLogAbs": 1,
    "Erf": 2 / np.sqrt(np.pi),
    # 0.5 (1.15 N(0; 0, 0.5) - 0.3 N(0.5; 0, 3))
    "MultiGaussian": 0.5 * (1.15 - 0.3 * np.exp(-1 / 72) / 6) / (0.5 * np.sqrt(2 * np.pi)),
    "PiecewiseLeakyReLU": 0.5,
    "LeakyKReLU": 1,
    "S2NN": 1,
    "QPseudoSpike": 1,
    "StraightThrough": 1,
    "LogTailedReLU": 0,
    "SquarewaveFourier": 0.5,
    "FakeNumericalGradient": 0.3,
}
KINKS = [-4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, -1 / 0.3, 1 / 0.3]  # where some slope jumps


def test_the_table_is_complete():
    assert sorted(AT_ZERO) == surrogates.list_surrogates()


@pytest.mark.parametrize("name", AT_ZERO)
@pytest.mark.parametrize("strict", [False, True])
def test_forward_is_exactly_0_or_1(name, strict):
    x = np.array([-1e4, -1.0, -1e-7, 0.0, 1e-7, 0.5, 1e4], "float32")
    spikes = to_numpy(surrogates.get(name)(x, strict))
    assert spikes.tolist() == [0, 0, 0, 0 if strict else 1, 1, 1, 1]


@pytest.mark.parametrize("name", AT_ZERO)
def test_derivative_at_zero(name):
    found = to_numpy(surrogates.get(name).derivative(ops.zeros((1,))))
    np.testing.assert_allclose(found, AT_ZERO[name], rtol=1e-6)


@pytest.mark.parametrize("name", AT_ZERO)
def test_derivative_is_the_slope_of_the_primitive(name):
    surrogate, step = surrogates.get(name), 2e-3
    x = np.linspace(-5, 5, 401).astype("float32")
    x = x[np.abs(x[:, None] - KINKS).min(1) > 2 * step]
    up, down = (to_numpy(surrogate.primitive(ops.array(x + d))) for d in (step, -step))
    slope = (up.astype("float64") - down) / (2 * step)
    found = to_numpy(surrogate.derivative(ops.array(x)))
    # float32 rounding of a primitive of size 5, over the step
    np.testing.assert_allclose(found, slope, atol=5e-4, rtol=2e-3)


@pytest.mark.parametrize("name", AT_ZERO)
@pytest.mark.parametrize("strict", [False, True])
def test_backward_uses_the_derivative_and_is_finite(name, strict):
    surrogate = surrogates.get(name)
    x = np.concatenate([np.linspace(-3, 3, 25), [-1e4, 1e4]]).astype("float32")
    upstream = np.linspace(-1, 2, 27).astype("float32")
    _, (grad,), _ = gradients(lambda u: ops.sum(surrogate(u, strict) * ops.array(upstream)), [], x)
    derivative = to_numpy(surrogate.derivative(ops.array(x)))
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(grad, derivative * upstream, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", AT_ZERO)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(name, dtype):
    x = ops.cast(np.array([-100.0, -1.0, 0.0, 1.0, 100.0]), dtype)
    surrogate = surrogates.get(name)
    for y in (surrogate(x), surrogate.derivative(x), surrogate.primitive(x)):
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        assert np.isfinite(to_numpy(ops.cast(y, "float32"))).all()


@pytest.mark.parametrize(
    ("surrogate", "x", "expected"),
    [
        (surrogates.ATan(2.0), 0.5, 0.28840),
        (surrogates.ATan(2.0), -1.0, 0.09200),
        (surrogates.ATan(3.0), 0.0, 1.5),
        (surrogates.ATan(3.0), 1.0, 0.06464),
        (surrogates.Triangle(0.3), 0.5, 0.15),
        (surrogates.Triangle(0.3), -1.5, 0.0),
        (surrogates.Rectangle(1.0), 0.499, 1.0),
        (surrogates.Rectangle(1.0), 0.5, 0.0),
        (surrogates.Rectangle(0.5), 0.9, 0.5),
        (surrogates.SuperSpike(2.0), 1.0, 0.5),
        (surrogates.FastSigmoid(25.0), 0.04, 0.25),
        (surrogates.S2NN(4.0, 1.0), 1.0, 0.5),
        (surrogates.QPseudoSpike(2.0), 0.5, 0.25),
        (surrogates.LogTailedReLU(0.1), 4.0, 0.25),
        (surrogates.LogTailedReLU(0.1), -4.0, 0.1),
        (surrogates.SquarewaveFourier(2, 8.0), 2.0, 0.0),
        (surrogates.FakeNumericalGradient(0.3), 10.0, 0.1),
    ],
)
def test_published_values(surrogate, x, expected):
    found = to_numpy(surrogate.derivative(ops.array([x], "float32")))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", AT_ZERO)
def test_serialisation(name):
    cls = getattr(surrogates, name)
    surrogate = cls()
    config = surrogates.serialize(surrogate)
    assert surrogates.deserialize(config) == surrogate == surrogates.get(config)
    assert surrogates.get(surrogate) is surrogate
    assert surrogates.get(cls) == surrogate == surrogates.get(name)
    assert hash(surrogate) == hash(cls())


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("atan", "ATan"),
        ("piecewise_quadratic", "PiecewiseQuadratic"),
        ("fast_sigmoid", "FastSigmoid"),
        ("s2nn", "S2NN"),
        ("q_pseudo_spike", "QPseudoSpike"),
        ("gaussian", "Erf"),
        ("leaky_relu", "PiecewiseLeakyReLU"),
        ("squarewave_fourier", "SquarewaveFourier"),
    ],
)
def test_names(name, cls):
    assert surrogates.get(name) == getattr(surrogates, cls)()


def test_parameters_are_kept():
    surrogate = surrogates.ATan(alpha=3.5)
    again = surrogates.get(surrogates.serialize(surrogate))
    assert again.alpha == 3.5 and again != surrogates.ATan()
    assert repr(again) == "ATan(alpha=3.5)"


@keras.saving.register_keras_serializable(package="tests")
def cauchy(u):
    """A derivative of one's own."""
    return 1 / (1 + ops.square(u))


def test_own_function(tmp_path):
    x = np.array([-1.0, 0.0, 2.0], "float32")
    for surrogate in (surrogates.get(cauchy), surrogates.Custom(cauchy, ops.arctan)):
        _, (grad,), _ = gradients(lambda u, s=surrogate: ops.sum(s(u)), [], x)
        np.testing.assert_allclose(grad, [0.5, 1.0, 0.2], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(surrogate.primitive(ops.array(x))), np.arctan(x), rtol=1e-5)
    with pytest.raises(ValueError, match="no primitive"):
        surrogates.Custom(cauchy).primitive(ops.array(x))
    model = keras.Sequential([keras.Input((4, 3)), IF(surrogate=cauchy)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = loaded.layers[0].cell.surrogate.derivative(ops.array(x))
    np.testing.assert_allclose(to_numpy(found), [0.5, 1.0, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: surrogates.get("atangent"), ValueError, "'atangent'.*ATan"),
        (lambda: surrogates.get(3), TypeError, "got 3"),
        (lambda: surrogates.get(None), TypeError, "got None"),
        (lambda: surrogates.ATan(alpha=-2.0), ValueError, "`alpha`.*got -2.0"),
        (lambda: surrogates.ATan(alpha="2"), ValueError, "`alpha`.*got '2'"),
        (lambda: surrogates.QPseudoSpike(alpha=1.0), ValueError, "above 1, got 1.0"),
        (lambda: surrogates.SquarewaveFourier(n=1), ValueError, "`n`.*got 1"),
        (lambda: surrogates.Custom(3), TypeError, "`derivative`.*got 3"),
        (lambda: IF(surrogate="nothing"), ValueError, "'nothing'"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("strict", [False, True])
def test_integer_spikes(strict):
    """`numpy.round`, half to even; slope 1 from 0 to the most, both included."""
    x = np.array([-1, -1e-7, 0, 0.5, 0.75, 1.5, 2.5, 4, 4.25, 9], "float32")
    surrogate = surrogates.get("straight_through")
    found = to_numpy(surrogate.count(ops.array(x), 4, strict))
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 1, 1 if strict else 2, 2, 4, 4, 4])
    _, (slope,), _ = gradients(lambda u: ops.sum(surrogate.count(u, 4, strict)), [], x)
    np.testing.assert_array_equal(slope, [0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
