"""Networks with integer spikes, and the binary ones that stand for them."""

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import ops

from keras_snn import analysis, graph, layers
from keras_snn.conversion import expand_integer_spikes


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    kernels, others = (
        lambda size: rng.normal(0.1, 0.4, size),
        lambda size: rng.uniform(0.2, 1, size),
    )
    model.set_weights([(kernels if len(w.shape) > 1 else others)(w.shape) for w in model.weights])
    return model


def fold(layer):
    return layers.FoldTime(layer)


def network(**arguments):
    """Biases, normalisation, pooling, a residual branch, a sum of spikes and two kinds of sizes."""
    inputs = keras.Input((2, 6, 6, 3))
    x = fold(keras.layers.Conv2D(4, 3, padding="same"))(inputs)
    x = layers.ILIF(3, name="first", **arguments)(fold(keras.layers.BatchNormalization())(x))
    x = fold(keras.layers.MaxPooling2D(2))(x)
    y = fold(keras.layers.Conv2D(4, 3, padding="same", activation="relu"))(x)
    y = fold(keras.layers.BatchNormalization())(y)
    y = layers.ILIF(3, **arguments)(fold(keras.layers.DepthwiseConv2D(3, padding="same"))(y))
    x = layers.SpikeConnection()([x, fold(keras.layers.ZeroPadding2D(0))(y)])
    x = keras.layers.Add()([fold(keras.layers.Conv2D(4, 1))(x), x])
    x = fold(keras.layers.AveragePooling2D(3))(layers.ILIF(5, threshold=2.0, **arguments)(x))
    x = keras.layers.Dense(5)(keras.layers.Dropout(0.5)(fold(keras.layers.Flatten())(x)))
    x = layers.MeanOverTime()(layers.IF(threshold=0.5)(x))
    return randomize(keras.Model(inputs, keras.layers.Dense(2)(x)))


@pytest.mark.parametrize("normalize", [False, True])
def test_binary_network_computes_the_same(normalize):
    model = network(normalize=normalize)
    binary = expand_integer_spikes(model)
    x = np.random.default_rng(1).normal(0.3, 1, (3, 2, 6, 6, 3)).astype("float32")
    spikes = [layer for layer in binary.layers if isinstance(layer, layers.ExpandSpikes)]
    before = [layer for layer in model.layers if isinstance(layer, layers.ILIF)]
    found = to_numpy(keras.Model(binary.input, [binary.output, *(s.output for s in spikes)])(x))
    wanted = to_numpy(keras.Model(model.input, [model.output, *(s.output for s in before)])(x))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6, atol=1e-6)
    for ours, integers, layer in zip(found[1:], wanted[1:], before, strict=True):
        most = layer.cell.max_spikes
        assert ours.shape[1] == 2 * most and set(np.unique(ours)) == {0, 1}
        steps = ours.reshape(3, 2, most, *ours.shape[2:])
        np.testing.assert_allclose(steps.sum(2) / (most if normalize else 1), integers, rtol=1e-6)
        assert (np.diff(steps, axis=2) <= 0).all()  # as an IF that gets all at the first step
    trace = graph.trace(binary)
    made = {id(call.output): call.layer for call in trace.calls}
    readers = [c for c in trace.calls if c.products and c.timed and id(c.input) in made]
    assert [c.input.shape[1] for c in readers] == [6, 2, 6, 10]  # the second reads potentials


def test_spikes_of_an_integrate_and_fire_neuron():
    """`ExpandSpikes`: IF with soft reset, which gets the integer at the first of its steps."""
    x = np.random.default_rng(0).integers(0, 5, (2, 3, 4)).astype("float32")
    currents = np.zeros((2, 3, 4, 4), "float32")
    currents[:, :, 0] = x
    wanted = layers.IF(reset="soft")(ops.array(currents.reshape(2, 12, 4)))
    expand, collapse = layers.ExpandSpikes(4), layers.SumSteps(4)
    np.testing.assert_array_equal(to_numpy(expand(x)), to_numpy(wanted))
    np.testing.assert_array_equal(to_numpy(collapse(expand(x))), x)
    mask = np.array([[True, True, False], [True] * 3])
    np.testing.assert_array_equal(
        to_numpy(expand.compute_mask(x, ops.array(mask))), np.repeat(mask, 4, axis=1)
    )
    model = keras.Sequential([keras.Input((None, 4)), layers.ExpandSpikes(4), layers.SumSteps(4)])
    np.testing.assert_array_equal(model.predict(x, verbose=0), x)


def test_weights_shared_by_two_calls_and_files(tmp_path):
    inputs, dense = keras.Input((1, 4)), keras.layers.Dense(4)
    x = layers.ILIF(4)(dense(layers.ILIF(4)(dense(layers.ILIF(4)(inputs)))))
    model = randomize(keras.Model({"a": inputs}, {"b": x}))
    binary = expand_integer_spikes(model)
    x = np.random.default_rng(1).uniform(0, 5, (3, 1, 4)).astype("float32")
    found = binary.predict(x, verbose=0)["b"]
    np.testing.assert_allclose(found, model.predict({"a": x}, verbose=0)["b"], rtol=1e-6)
    assert len(binary.trainable_variables) == 2
    binary.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0)["b"], found)


@pytest.mark.once
def test_what_cannot_be_expanded_is_named():
    inputs = keras.Input((4, 3))
    spikes = layers.ILIF(name="neuron")(inputs)
    across = keras.layers.Conv1D(2, 3, name="across")(spikes)
    product = keras.layers.Dot(2, name="product")([spikes, spikes])
    states, _ = layers.ILIF(return_state=True, name="states")(inputs)
    for output, name in ((across, "across"), (product, "product"), (states, "states")):
        with pytest.raises(TypeError, match=f"The layer {name}"):
            expand_integer_spikes(keras.Model(inputs, output))
    with pytest.raises(ValueError, match="no `ILIF`"):
        expand_integer_spikes(keras.Model(inputs, layers.LIF()(inputs)))
    with pytest.raises(ValueError, match=r"multiple of 3.*\(None, 4, 3\)"):
        layers.SumSteps(3)(inputs)
    with pytest.raises(ValueError, match=r"`steps`.*0"):
        layers.ExpandSpikes(0)
    assert analysis.is_spiking(layers.ExpandSpikes(2))
