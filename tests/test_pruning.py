"""Grad R against its equations in float64; masks that training, files and exports keep."""

import keras
import numpy as np
import pytest
from helpers import first_everywhere, to_numpy
from keras import layers, ops

from keras_snn import export, training
from keras_snn import layers as snn

RNG = np.random.default_rng(0)
STEPS, RATE, ALPHA, SPARSITY = 80, 0.02, 0.2, 0.8
# Of a quadratic whose minimum moves to the other side and back: synapses go and grow again.
SLOPES = RNG.uniform(0.5, 2, (5, 4))
GOALS = np.where(np.arange(STEPS) < 20, -1.0, 1.0)[:, None, None] * RNG.uniform(0.5, 1.5, (5, 4))
START = RNG.normal(0, 0.3, (5, 4)) * (np.arange(20).reshape(5, 4) > 0)  # one weight is 0
GOALS *= np.where(START < 0, -1, 1)


def grad_r_by_hand(amsgrad=False, decay=0.0, alpha=ALPHA, accumulate=1):
    """Weights and strengths after each step, in float64."""
    w, c = START.copy(), np.sign(START)
    theta, m, v, largest = np.abs(START), 0.0, 0.0, 0.0
    mu = np.log(2 * (1 - SPARSITY)) / alpha if alpha > 1e-8 else 0.0
    weights, strengths = [], []
    for k in range(1, STEPS + 1):
        g = SLOPES * (w - GOALS[k - 1]) + decay * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        largest = np.maximum(largest, v)
        root = np.sqrt((largest if amsgrad else v) / (1 - 0.999**k)) + 1e-8
        rate = RATE / (1 - 0.9**k)
        p, before = c * theta, theta
        p = p - rate * m / root
        if alpha > 1e-8:
            p = p - alpha * rate * c * np.sign(before - mu)
        theta = c * p
        w = c * np.maximum(theta, 0)
        weights.append(w)
        strengths.append(theta)
    return np.array(weights), np.array(strengths)


CASES = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "penalty": {"decay": 0.3},
    "no prior": {"alpha": 0.0},
}


@pytest.mark.parametrize("case", first_everywhere(*CASES))
def test_grad_r_is_its_equations(case):
    given = dict(CASES[case])
    expected, strengths = grad_r_by_hand(**given)
    optimizer = training.GradR(
        RATE,
        sparsity=SPARSITY,
        alpha=given.pop("alpha", ALPHA),
        weight_decay=given.pop("decay", None),
        **given,
    )
    kernel = keras.Variable(START.astype("float32"), name="kernel")
    found = []
    for goal in GOALS:
        gradient = ops.convert_to_tensor(SLOPES, "float32") * (kernel - goal.astype("float32"))
        optimizer.apply([gradient], [kernel])
        found.append(to_numpy(kernel.value))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    # What the case is made for happens: synapses go, and some come back; signs never change.
    gone = (strengths[:-1] <= 0) & (START != 0)
    assert (gone[:-1] & (strengths[1:-1] > 0)).sum() >= 5
    assert gone.any(0).sum() >= 10
    assert ((np.array(found) == 0) == (np.array(strengths) <= 0)).all()
    assert (np.sign(found) * np.sign(START) >= 0).all()


def test_the_prior_alone_draws_strengths_to_its_centre():
    """Without a gradient each step is `rate / (1 - 0.9^k) alpha`, up to mu = ln(0.4) / 0.4."""
    kernel = keras.Variable([0.05, -0.3], name="kernel")
    optimizer = training.GradR(0.1, sparsity=0.8, alpha=0.4)
    for _ in range(3):
        optimizer.apply([ops.zeros(2)], [kernel])
    moved = sum(0.1 * 0.4 / (1 - 0.9**k) for k in (1, 2, 3))
    np.testing.assert_allclose(
        to_numpy(optimizer._strengths[0].value), [0.05 - moved, 0.3 - moved], rtol=1e-5
    )
    np.testing.assert_allclose(to_numpy(kernel.value), [0.0, 0.0])
    assert training.grad_r_center(0.5, 0.4) == 0
    # The share of a Laplace distribution below 0 is 1 - exp(alpha mu) / 2.
    mu = training.grad_r_center(0.9, 1e-3)
    assert 1 - np.exp(1e-3 * mu) / 2 == pytest.approx(0.9)


def test_only_kernels_are_rewired():
    """A bias, and what normalisation learns, are Adam's, though their first values are 0."""
    bias = keras.Variable([0.0, 1.0], name="bias")
    kernel = keras.Variable([1.0, 2.0], name="kernel")
    other = keras.Variable([0.0, 1.0], name="bias")
    gradient = ops.convert_to_tensor([1.0, -2.0])
    training.GradR(0.1, epsilon=1e-8).apply([gradient, gradient], [kernel, bias])
    keras.optimizers.Adam(0.1, epsilon=1e-8).apply([gradient], [other])
    np.testing.assert_allclose(to_numpy(bias.value), to_numpy(other.value))


def network(**kernel):
    inputs = keras.Input((3, 6, 6, 1))
    x = snn.FoldTime(layers.Conv2D(4, 3, use_bias=False, **kernel))(inputs)
    x = snn.LIF()(snn.FoldTime(layers.BatchNormalization())(x))
    x = snn.FoldTime(layers.Flatten())(x)
    return keras.Model(inputs, snn.MeanOverTime()(layers.Dense(4, name="last")(x)))


X, Y = RNG.random((12, 3, 6, 6, 1)).astype("float32"), np.arange(12) % 4
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fit(model, epochs=1, **arguments):
    return model.fit(X, Y, batch_size=6, epochs=epochs, shuffle=False, verbose=0, **arguments)


def test_grad_r_in_fit_goes_on_from_a_file(tmp_path):
    model = network()
    first = model.get_weights()[0]
    model.compile(training.GradR(0.02, sparsity=0.9, alpha=0.5), LOSS)
    fit(model, 2)
    share, kernels = training.connectivity(model)
    assert 0 < share < 1 and len(kernels) == 2
    assert (np.sign(model.get_weights()[0]) * np.sign(first) >= 0).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for one in (model, loaded):
        fit(one)
    for a, b in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(a, b)


def zeros(model):
    return [model.get_layer(n).get_weights()[0] == 0 for n in (model.layers[1].name, "last")]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_masks_survive_training_and_files(optimizer, tmp_path):
    model = network()
    kinds = {"adam": training.MaskedAdam, "sgd": training.MaskedSGD}
    arguments = {"momentum": 0.9} if optimizer == "sgd" else {}
    model.compile(kinds[optimizer](0.05, weight_decay=1e-3, **arguments), LOSS)
    history = fit(model, 4, callbacks=[training.Prune(0.75, start=1, end=2)])
    # Of 36 and of 256 weights: 1 - (1/2)^3 of 3/4 after the first pruning, 3/4 from then on.
    left = [1.0, 1 - (24 + 168) / 292, 0.25, 0.25]
    assert history.history["connectivity"] == pytest.approx(left)
    before = zeros(model)
    assert [x.sum() for x in before] == [27, 192]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    weights = loaded.get_weights()
    fit(loaded)
    for a, b in zip(before, zeros(loaded)):
        np.testing.assert_array_equal(a, b)
    assert not any(np.array_equal(a, b) for a, b in zip(weights, loaded.get_weights()))


def test_n_of_every_m_in_fit():
    model = network()
    model.compile(training.MaskedAdam(0.01), LOSS)
    fit(model, 2, callbacks=[training.Prune(pattern=(2, 4))])
    convolution, dense = zeros(model)
    np.testing.assert_array_equal(dense.reshape(16, 4, 4).sum(1), np.full((16, 4), 2))
    # Nine inputs of an output: two groups of four, and one left.
    groups = convolution.reshape(9, 4)
    assert (groups[:4].sum(0) == 2).all() and (groups[4:8].sum(0) == 2).all()
    assert not groups[8].any()


@pytest.mark.once
def test_masks_of_arrays():
    kernel = np.array([[3.0, -1.0, 0.0, 2.0], [1.0, -5.0, 4.0, 0.5]])
    (mask,) = training.magnitude_masks([kernel], 0.5)
    np.testing.assert_array_equal(mask, [[1, 0, 0, 1], [0, 1, 1, 0]])  # of two 1s the first goes
    masks = training.magnitude_masks([kernel[:1], kernel[1:]], 0.25, "global")
    np.testing.assert_array_equal(np.concatenate(masks), [[1, 1, 0, 1], [1, 1, 1, 0]])
    # By brute force, groups of three along the inputs of each output.
    weights = np.random.default_rng(1).normal(size=(2, 2, 3, 5))
    mask = training.n_of_m_mask(weights, 1, 3)
    rows, kept = weights.reshape(12, 5), mask.reshape(12, 5)
    for start in range(0, 12, 3):
        for out in range(5):
            group = np.abs(rows[start : start + 3, out])
            assert kept[start : start + 3, out].tolist() == (group == group.max()).tolist()
    assert training.n_of_m_mask(np.zeros((4, 1)), 2, 4).sum() == 2  # ties


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are TensorFlow's work")
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_files_hold_the_zeros(quantize, tmp_path):
    """Batch normalisation is folded into the convolution, and zeros stay."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    model = network()
    for name, mask in zip((model.layers[1].name, "last"), (7, 100)):
        layer = model.get_layer(name)
        kernel, *rest = layer.get_weights()
        kernel += 0.1 * np.sign(kernel)  # none is rounded to 0
        kernel.ravel()[np.random.default_rng(0).permutation(kernel.size)[:mask]] = 0
        layer.set_weights([kernel, *rest])
    export.to_tflite(
        model, tmp_path / "net.tflite", "step", quantize, representative_data=X, verify_data=X
    )
    file = litert.Interpreter(str(tmp_path / "net.tflite"))
    file.allocate_tensors()
    sizes = {36: 7, 256: 100}
    found = {}
    for details in file.get_tensor_details():
        size, channels = int(np.prod(details["shape"])), 4
        if size in sizes and len(details["shape"]) in (2, 4) and channels in details["shape"]:
            try:
                value = file.get_tensor(details["index"])
            except ValueError:  # a result
                continue
            found[size] = int((value == 0).sum())
    assert found == sizes


@pytest.mark.once
def test_refusals():
    for given in ({"sparsity": 0.4}, {"sparsity": 1.0}, {"alpha": -1}):
        with pytest.raises(ValueError, match=next(iter(given))):
            training.GradR(**given)
    with pytest.raises(ValueError, match=r"got \['gamma'\]"):
        training.GradR().build([keras.Variable([1.0], name="gamma")])
    for given, message in (
        ({}, "either `sparsity` or `pattern`"),
        ({"sparsity": 0.5, "pattern": (2, 4)}, "either `sparsity` or `pattern`"),
        ({"sparsity": 1.5}, "`sparsity`"),
        ({"sparsity": 0.5, "scope": "all"}, "`scope`"),
        ({"sparsity": 0.5, "start": 3, "end": 1}, "`end`"),
        ({"pattern": (5, 4)}, "`n` should be at most `m`, 4, got 5"),
        ({"pattern": (0, 4)}, "`n`"),
    ):
        with pytest.raises(ValueError, match=message):
            training.Prune(**given)
    model = network()
    model.compile("adam", LOSS)
    with pytest.raises(ValueError, match="needs an optimizer that keeps weights of 0.*got Adam"):
        fit(model, callbacks=[training.Prune(0.5)])
    inputs = keras.Input((3, 6, 6, 1))
    x = snn.FoldTime(layers.DepthwiseConv2D(3, name="depthwise"))(inputs)
    deep = keras.Model(inputs, x)
    deep.compile(training.MaskedAdam(), "mse")
    with pytest.raises(ValueError, match="whose outputs have several inputs"):
        deep.fit(
            X, np.zeros((12, 3, 4, 4, 1)), verbose=0, callbacks=[training.Prune(pattern=(1, 2))]
        )
    with pytest.raises(ValueError, match="has no trainable variable"):
        training.connectivity(keras.Sequential([keras.Input((2,)), layers.ReLU()]))
