"""The parallel spiking neurons against their definition in numpy."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import ops

from keras_snn.layers import PSN, MaskedPSN, SlidingPSN


def sequence(*shape):
    return np.random.default_rng(0).normal(0.5, 1.0, shape).astype("float32")


def fired(h, spikes):
    far = np.abs(h) > 1e-5
    assert far.mean() > 0.99 and 0.05 < spikes.mean() < 0.95
    np.testing.assert_array_equal(spikes[far], (h >= 0)[far])


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 5, 3, 3, 2)])
def test_psn(shape):
    x, layer = 3 * sequence(*shape), PSN()
    spikes = to_numpy(layer(x))
    kernel, bias = (to_numpy(w) for w in layer.weights)
    assert (bias == -1).all() and np.abs(kernel).max() <= 5**-0.5
    fired(np.einsum("ts,bs...->bt...", kernel, x) - 1, spikes)


@pytest.mark.parametrize("make", [PSN, lambda: MaskedPSN(2), lambda: SlidingPSN(3, False)])
def test_initial_kernels_of_layers_differ_and_follow_the_seed(make):
    def kernel():
        layer = make()
        layer.build((None, 4, 3))
        return to_numpy(layer.kernel)

    first, second = kernel(), kernel()
    assert not np.array_equal(first, second)
    keras.utils.set_random_seed(0)
    np.testing.assert_array_equal(kernel(), first)


@pytest.mark.parametrize("masking", [0.0, 0.25, 1.0])
def test_masked_psn(masking):
    x, layer = 3 * sequence(16, 6, 8), MaskedPSN(order=2, masking=masking)
    spikes = to_numpy(layer(x))
    kernel = to_numpy(layer.kernel)
    age = np.subtract.outer(np.arange(6), np.arange(6))
    band = (age >= 0) & (age < 2)
    kernel = kernel * (masking * band + (1 - masking))
    fired(np.einsum("ts,bsf->btf", kernel, x) - 1, spikes)
    layer.masking.assign(1.0)
    future = x.copy()
    future[:, 4:] = 9.0
    np.testing.assert_array_equal(to_numpy(layer(x))[:, :4], to_numpy(layer(future))[:, :4])


def test_sliding_psn():
    x, layer = sequence(4, 7, 8), SlidingPSN(order=3)
    spikes = to_numpy(layer(x))
    assert to_numpy(layer.kernel).tolist() == [0.25, 0.5, 1.0]
    padded = np.concatenate([np.zeros((4, 2, 8)), x], axis=1)
    h = 0.25 * padded[:, :7] + 0.5 * padded[:, 1:8] + padded[:, 2:] - 1
    fired(h, spikes)


def test_sliding_psn_takes_any_length():
    model = keras.Sequential([keras.Input((None, 3)), SlidingPSN(order=2, exponential=False)])
    for steps in (1, 4, 9):
        assert model.predict(sequence(2, steps, 3), verbose=0).shape == (2, steps, 3)


@pytest.mark.parametrize("layer", [PSN, lambda: MaskedPSN(2), lambda: SlidingPSN(2)])
def test_gradients_masks_training_and_saving(layer, tmp_path):
    x = sequence(4, 5, 3)
    model = keras.Sequential([keras.Input((5, 3)), layer()])
    neuron = model.layers[0]
    _, (dx,), found = gradients(lambda z: ops.sum(neuron(z)), neuron.trainable_variables, x)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in (dx, *found))
    mask = np.array([[1, 1, 0, 1, 0]] * 4, bool)
    spoilt = np.where(mask[..., None], x, 50.0).astype("float32")
    y = to_numpy(neuron(spoilt, mask=mask))
    assert (y[:, [2, 4]] == 0).all()
    np.testing.assert_array_equal(y, to_numpy(neuron(x * mask[..., None], mask=mask)))
    model.compile("sgd", "mse")
    model.fit(x, np.ones_like(x), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))


def test_bad_input():
    with pytest.raises(ValueError, match="known number of steps"):
        PSN()(keras.Input((None, 3)))
    layer = PSN()
    layer(sequence(2, 5, 3))
    with pytest.raises(ValueError, match="5 timesteps, got 4"):
        layer(sequence(2, 4, 3))
    with pytest.raises(ValueError, match="`order`.*got 0"):
        SlidingPSN(0)
    with pytest.raises(ValueError, match="`masking`.*got 2"):
        MaskedPSN(2, masking=2)
    with pytest.raises(ValueError, match=r"rank 3 or more.*\(2, 3\)"):
        PSN()(np.ones((2, 3)))
