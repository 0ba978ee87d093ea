"""Spiking connections against their truth tables; recurrent layers against a plain loop."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import layers, ops

from keras_snn import dynamics
from keras_snn.layers import (
    IF,
    LIF,
    AdaptiveLIFCell,
    FoldTime,
    LIFCell,
    Recurrent,
    RecurrentCell,
    SpikeConnection,
)

TRUTH = {  # for (A, S) = (0, 0), (0, 1), (1, 0), (1, 1)
    "add": [0, 1, 1, 2],
    "and": [0, 0, 0, 1],
    "iand": [0, 1, 0, 0],
    "reverse_iand": [0, 0, 1, 0],
    "or": [0, 1, 1, 1],
    "xor": [0, 1, 1, 0],
}


@pytest.mark.parametrize("mode", TRUTH)
def test_truth_tables(mode):
    branch = np.array([[[0, 0, 1, 1]]], "float32")
    shortcut = np.array([[[0, 1, 0, 1]]], "float32")
    y = to_numpy(SpikeConnection(mode)([branch, shortcut]))
    assert y.ravel().tolist() == TRUTH[mode]
    assert set(TRUTH) == set(dynamics.CONNECTIONS)


def test_connection_refuses():
    with pytest.raises(ValueError, match="`mode`.*'nand'"):
        SpikeConnection("nand")
    with pytest.raises(ValueError, match=r"same shape.*\(2, 3, 4\).*\(2, 3, 5\)"):
        SpikeConnection()([np.ones((2, 3, 4)), np.ones((2, 3, 5))])


@pytest.mark.parametrize("mode", ["add", "and", "iand"])
def test_e4_1_identity_block(mode):
    """With the last normalisation as in the paper, `block(S) == S`, bit for bit."""
    spikes = np.random.default_rng(0).integers(0, 2, (2, 3, 6, 6, 4)).astype("float32")
    conv = FoldTime(layers.Conv2D(4, 3, padding="same", use_bias=False))
    norm = layers.BatchNormalization(
        gamma_initializer="zeros", beta_initializer="ones" if mode == "and" else "zeros"
    )
    branch = IF()(FoldTime(norm)(conv(spikes), training=True))
    np.testing.assert_array_equal(to_numpy(SpikeConnection(mode)([branch, spikes])), spikes)


@pytest.mark.parametrize(
    ("connection", "shape"),
    [
        (lambda: layers.Dense(6, bias_initializer="normal"), (3, 8, 6)),
        (lambda: layers.Conv2D(2, 3, padding="same"), (3, 8, 5, 5, 2)),
    ],
)
@pytest.mark.parametrize("cell", [LIFCell, AdaptiveLIFCell])
def test_recurrent_equals_a_loop(connection, shape, cell):
    x = np.random.default_rng(1).normal(1.0, 1.0, shape).astype("float32")
    layer = Recurrent(cell(tau=2.0), connection())
    y = to_numpy(layer(x))
    neuron, recur = layer.cell.neuron, layer.cell.connection
    states = neuron.initial_states(ops.convert_to_tensor(x[:, 0]))
    spikes = np.zeros_like(x[:, 0])
    for t in range(shape[1]):
        current = x[:, t] + to_numpy(recur(spikes))
        out, states = neuron(ops.convert_to_tensor(current), states)
        spikes = to_numpy(out)
        np.testing.assert_array_equal(y[:, t], spikes)
    assert 0.05 < y.mean() < 0.95


def test_recurrent_differs_from_feed_forward_from_the_second_step():
    x = np.full((1, 4, 3), 2.0, "float32")
    recurrent = Recurrent(LIFCell(), layers.Dense(3, kernel_initializer="ones", use_bias=False))
    _, v, spikes = Recurrent(
        LIFCell(),
        layers.Dense(3, kernel_initializer=keras.initializers.Constant(-9.0)),
        return_state=True,
    )(x)
    assert to_numpy(recurrent(x))[0, 0].tolist() == to_numpy(LIF()(x))[0, 0].tolist()
    assert (to_numpy(v) < 0).any() and to_numpy(spikes).shape == (1, 3)


def test_gradient_reaches_the_recurrent_kernel():
    layer = Recurrent(LIFCell(), layers.Dense(3))
    x = np.random.default_rng(0).normal(1, 1, (2, 6, 3)).astype("float32")
    layer(x)
    _, (dx,), found = gradients(lambda z: ops.sum(layer(z)), layer.trainable_variables, x)
    assert np.isfinite(dx).all() and np.abs(dx).max() > 0
    assert len(found) == 2 and all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in found)


def test_recurrent_saves_streams_and_trains(tmp_path):
    x = np.random.default_rng(0).normal(1, 1, (4, 6, 3)).astype("float32")
    model = keras.Sequential([keras.Input((6, 3)), Recurrent(LIFCell(), layers.Dense(3))])
    model.compile("sgd", "mse")
    model.fit(x, np.ones_like(x), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))
    config = model.layers[0].get_config() | {"stateful": True}
    stream = Recurrent.from_config(config)
    stream.build((4, 1, 3))
    stream.set_weights(model.layers[0].get_weights())
    steps = [to_numpy(stream(x[:, t : t + 1])) for t in range(6)]
    np.testing.assert_array_equal(np.concatenate(steps, 1), to_numpy(model(x)))


def test_recurrent_refuses():
    with pytest.raises(ValueError, match=r"keep the shape.*\(2, 3\).*\(2, 4\)"):
        Recurrent(LIFCell(), layers.Dense(4))(np.ones((2, 5, 3)))
    with pytest.raises(TypeError, match=r"`neuron`.*'lif'"):
        RecurrentCell("lif", layers.Dense(4))
    with pytest.raises(TypeError, match=r"`connection`.*None"):
        RecurrentCell(LIFCell(), None)
