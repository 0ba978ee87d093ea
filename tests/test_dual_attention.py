"""Dual spike attention by hand, and today's spiking transformers on every backend."""

import keras
import numpy as np
import pytest
from helpers import to_numpy
from test_zoo_gradients import (
    CLASSES,
    MAX_FORMERS,
    T,
    both,
    float64,  # noqa: F401
    max_former,
    torch,
)

from keras_snn import analysis
from keras_snn import layers as snn

HEADS = 2


def draw():
    """Spikes `(2, 3, 6, 8)`, and currents of half as many tokens."""
    rng = np.random.default_rng(0)
    return (rng.random((2, 3, 6, 8)) < 0.4).astype("float32"), rng.normal(0, 4, (2, 3, 3, 16))


def by_hand(x, kv, rates, new=None, momentum=0.9, steps=slice(None)):
    """What the layer gives for given running rates, and the rates afterwards."""
    x, kv = x[:, steps].astype("float64"), kv[:, steps]
    s = x.reshape(*x.shape[:3], HEADS, -1)
    k, v = np.split(kv.reshape(*kv.shape[:3], HEADS, -1), 2, -1)
    rates = [np.array(rate, "float64") for rate in rates]

    def update(place, spikes):
        if new is not None:
            mean = spikes.mean((0, 1, 3, 4))
            old = rates[place] if rates[place].any() else mean
            rates[place] = momentum * old + (1 - momentum) * mean
        return np.where(rates[place] > 0, rates[place], 1)[:, None, None]

    scores = np.einsum("btmhd,btnhd->bthmn", k, s)
    scores = scores / np.sqrt(update(0, np.einsum("btnhd->bthnd", s)) * s.shape[-1])
    potential, fired = 0.0, []
    for t in range(scores.shape[1]):
        potential = potential + (scores[:, t] - potential) / 2
        fired.append(potential >= 1)
        potential = np.where(fired[-1], 0.0, potential)
    a = np.stack(fired, 1).astype("float64")
    y = np.einsum("bthmn,btmhd->bthnd", a, v) / np.sqrt(update(1, a) * a.shape[3])
    return y.swapaxes(2, 3).reshape(x.shape), rates


def test_dual_attention_by_hand(tmp_path):
    x, kv = draw()
    layer = snn.DualSpikeAttention(HEADS, momentum=0.9)
    rates = [np.zeros(HEADS)] * 2
    wanted, _ = by_hand(x, kv, rates)  # rates that nobody knows count as 1
    assert abs(wanted).mean() > 0.1
    np.testing.assert_allclose(to_numpy(layer([x, kv.astype("float32")])), wanted, atol=1e-4)
    inputs = [keras.Input(a.shape[1:]) for a in (x, kv)]
    model = keras.Model(inputs, layer(inputs))
    for _ in range(2):  # the first batch sets the rates, the second moves them
        wanted, rates = by_hand(x, kv, rates, new=True)
        found = model([x, kv.astype("float32")], training=True)
        np.testing.assert_allclose(to_numpy(found), wanted, atol=1e-4)
        x = np.roll(x, 1, 0) * (np.arange(8) % 3 > 0)
    for weight, rate in zip(layer.non_trainable_weights, rates, strict=True):
        np.testing.assert_allclose(to_numpy(weight), rate, atol=1e-6)
    wanted, _ = by_hand(x, kv, rates)
    maps = [a.astype("float32").reshape(2, 3, -1, 3, a.shape[-1]) for a in (x, kv)]
    np.testing.assert_allclose(to_numpy(layer(maps)), wanted.reshape(2, 3, 2, 3, 8), atol=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(again([x, kv.astype("float32")])), wanted, atol=1e-4)
    layer.trainable = False  # as batch normalisation, a frozen layer stays
    before = [to_numpy(weight) for weight in layer.weights]
    model([x, kv.astype("float32")], training=True)
    for a, b in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(a), b)


def test_masked_steps_leave_neuron_and_rates():
    x, kv = draw()
    layer = snn.DualSpikeAttention(HEADS, momentum=0.9)
    mask = np.array([[True, False, True]] * 2)
    wanted, rates = by_hand(x, kv, [np.zeros(HEADS)] * 2, new=True, steps=slice(0, 3, 2))
    found = layer([x, kv.astype("float32")], mask=mask, training=True)
    np.testing.assert_allclose(to_numpy(found)[:, ::2], wanted, atol=1e-4)
    for weight, rate in zip(layer.weights, rates, strict=True):
        np.testing.assert_allclose(to_numpy(weight), rate, atol=1e-6)


@pytest.mark.once
def test_additions_of_dual_attention():
    x, kv = draw()
    inputs = [keras.Input(a.shape[1:]) for a in (x, kv)]
    model = keras.Model(inputs, snn.DualSpikeAttention(HEADS, name="dual")(inputs))
    found = {layer.name: layer for layer in analysis.profile(model, [x, kv]).layers}
    scores = next(layer for name, layer in found.items() if name.endswith("scores"))
    assert scores.macs == 3 * 6 * 8  # keys, tokens, channels
    assert scores.synops == pytest.approx(x.sum() * 3 / 2)  # each spike meets each key


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3, 6, 8)], "expects a list .x, kv"),
        ([(2, 3, 6, 8), (2, 3, 3, 8)], "twice the channels"),
        ([(2, 3, 6, 8), (2, 4, 3, 16)], "expects a list.*4, 3, 16"),
        ([(2, 6, 8), (2, 3, 16)], "expects a list"),
        ([(2, 3, 6, 7), (2, 3, 3, 14)], "heads=2.*6, 7"),
    ],
)
def test_bad_inputs(shapes, message):
    with pytest.raises(ValueError, match=message):
        snn.DualSpikeAttention(HEADS)([np.ones(shape, "float32") for shape in shapes])


@pytest.mark.once
def test_bad_arguments():
    for arguments, name in (((0,), "heads"), ((2, 1.5), "momentum")):
        with pytest.raises(ValueError, match=f"`{name}`"):
            snn.DualSpikeAttention(*arguments)


@pytest.mark.usefixtures("large_models")
@pytest.mark.parametrize("case", MAX_FORMERS)
def test_max_former_answers_as_spikingjellys(zoo, case):
    net, model, _ = max_former(zoo, case)
    for seed in range(4):  # of which some may have a tie
        x = np.random.default_rng(seed).normal(size=(2, *model.input_shape[1:])).astype("float32")
        with torch.no_grad():
            wanted = net(torch.tensor(x).movedim(-1, 1)).numpy()
        zoo.functional.reset_net(net)
        assert wanted.shape == (2, CLASSES) and T == 2 and abs(wanted).max() > 1e-2
        if np.abs(to_numpy(model(x)) - wanted).max() < 1e-3:
            return
    raise AssertionError("Every image had a tie.")


@pytest.mark.usefixtures("large_models", "float64")
@pytest.mark.parametrize("case", ["SpikingResformer", "E-SpikeFormer"])
def test_transformers_answer_as_the_papers(case):
    model, x, _, wanted, *_ = both(case, training=True)
    assert np.ptp(wanted, axis=0).min() > 1e-2
    np.testing.assert_allclose(to_numpy(model(x, training=True)), wanted, atol=1e-9)
