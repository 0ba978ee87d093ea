"""Losses on sequences against their formulas in numpy, and in training."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import layers, ops

from keras_snn import layers as snn
from keras_snn import losses


def softmax_crossentropy(labels, logits):
    shifted = logits - logits.max(-1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.take_along_axis(log, labels[..., None], -1)[..., 0]


def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 5, 6), rng.normal(size=(6, 7, 5)).astype("float32")


def first_spikes(spikes):
    found = spikes.argmax(1).astype(float)
    return np.where(spikes.any(1), found, spikes.shape[1])


def reference(name, y, x):
    if name == "mean":
        return softmax_crossentropy(y, x.mean(1))
    if name == "max":
        return softmax_crossentropy(y, x.max(1))
    if name == "tet":
        each = np.stack([softmax_crossentropy(y, x[:, t]) for t in range(7)], 1).mean(1)
        return 0.8 * each + 0.2 * ((x - 0.5) ** 2).mean((1, 2))
    if name == "count":
        wanted = np.full((6, 5), 0.2)
        wanted[np.arange(6), y] = 0.7
        return ((x.mean(1) - wanted) ** 2).mean(-1)
    return softmax_crossentropy(y, -first_spikes(x) / 2)


LOSSES = {
    "mean": (losses.TemporalMeanCrossentropy(), False),
    "max": (losses.MaxMembraneCrossentropy(), False),
    "tet": (losses.TemporalEfficientCrossentropy(0.2, 0.5), False),
    "count": (losses.SpikeCountLoss(0.7, 0.2), True),
    "first": (losses.FirstSpikeCrossentropy(2.0), True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name):
    loss, spikes = LOSSES[name]
    y, x = data()
    x = (x > 0.8).astype("float32") if spikes else x
    wanted = reference(name, y, x.astype("float64"))
    np.testing.assert_allclose(to_numpy(loss.call(y, x)), wanted, rtol=1e-5, atol=1e-6)
    assert float(loss(y, x)) == pytest.approx(wanted.mean(), rel=1e-5)
    assert float(loss(y[:, None], x)) == pytest.approx(wanted.mean(), rel=1e-5)
    _, (dx,), _ = gradients(lambda z: loss(ops.convert_to_tensor(y), z), [], x)
    assert np.isfinite(dx).all() and np.abs(dx).max() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_saved_and_refused(name):
    loss, _ = LOSSES[name]
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    with pytest.raises(ValueError, match=r"\(batch, time, classes\)"):
        loss(np.zeros(2, int), np.zeros((2, 3), "float32"))


def test_bad_arguments():
    for make in (
        lambda: losses.TemporalEfficientCrossentropy(lam=2),
        lambda: losses.SpikeCountLoss(correct_rate=-1),
        lambda: losses.FirstSpikeCrossentropy(scale=0),
        lambda: losses.RateRegularizer(minimum=0.5, maximum=0.2),
    ):
        with pytest.raises(ValueError):
            make()


def test_rates_are_pulled_into_their_range():
    inputs = layers.Input((8, 6))
    penalty = losses.RateRegularizer(5.0, minimum=0.2, maximum=0.4)
    x = layers.Dense(16, kernel_initializer="zeros", name="dense")(inputs)
    spikes = snn.LIF(activity_regularizer=penalty, name="neuron")(x)
    model = keras.Model(inputs, spikes)
    model.compile(keras.optimizers.Adam(0.05), lambda y, z: 0.0 * ops.sum(z))
    data = np.random.default_rng(0).random((32, 8, 6)).astype("float32")
    assert model.predict(data, verbose=0).mean() == 0
    model.fit(data, np.zeros((32, 8, 16)), epochs=60, verbose=0)
    assert model.predict(data, verbose=0).mean() > 0.15


def test_parity_with_snntorch():
    torch = pytest.importorskip("torch", exc_type=ImportError)
    peer = pytest.importorskip("snntorch.functional", exc_type=ImportError)
    y, x = data()
    theirs = float(peer.ce_max_membrane_loss()(torch.tensor(x.transpose(1, 0, 2)), torch.tensor(y)))
    assert float(losses.MaxMembraneCrossentropy()(y, x)) == pytest.approx(theirs, rel=1e-5)
    spikes = (x > 0.5).astype("float32")
    count = peer.mse_count_loss(correct_rate=0.9, incorrect_rate=0.1)
    theirs = float(count(torch.tensor(spikes.transpose(1, 0, 2)), torch.tensor(y)))
    # It rounds the wanted counts of 7 steps down, to 6 and 0, and has squared counts over time.
    ours = float(losses.SpikeCountLoss(6 / 7, 0.0)(y, spikes))
    assert 7 * ours == pytest.approx(theirs, rel=1e-5)
    steps = peer.ce_rate_loss()(torch.tensor(x.transpose(1, 0, 2)), torch.tensor(y))
    ours = float(losses.TemporalEfficientCrossentropy(lam=0.0)(y, x))
    assert ours == pytest.approx(float(steps), rel=1e-5)
