"""The builder of `keras_snn.applications` on any kind of step: maps, tokens, features."""

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers, ops

from keras_snn import layers as snn
from keras_snn.applications.builder import Builder, Value
from keras_snn.applications.factory import application, pooled_top
from keras_snn.applications.model_list import _summarize


def mixer(net, x, *, units=6):
    """Tokens, mixed by one dense layer, with a shortcut.

    Args:
        units: Number of neurons of each token.

    Source: ours.
    """
    x = net.neuron(net.norm(net.dense(x, units, "embed", use_bias=False), "bn1"), "neuron1")
    y = net.norm(net.dense(x, units, "mix", use_bias=False), "bn2")
    return net.neuron(net.join(y, x, "add"), "neuron2")


def by_hand(model, x):
    """The same in NumPy: `x` is `(batch, time, tokens, channels)`."""
    weights = {}
    for weight in model.weights:  # of layers inside FoldTime, too
        name = "/".join(weight.path.split("/")[-2:])
        weights[name] = to_numpy(weight).astype("float64")

    def dense(x, name):
        return x @ weights[f"{name}/kernel"]

    def norm(x, name):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (weights[f"{name}/{part}"] for part in names)
        return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta

    def fire(currents):
        v, spikes = 0.0, []
        for t in range(currents.shape[1]):
            v = v + currents[:, t]
            spikes.append(v >= 1.0)
            v = np.where(spikes[-1], 0.0, v)
        return np.stack(spikes, 1).astype("float64")

    x = fire(norm(dense(x, "embed"), "bn1"))
    x = fire(norm(dense(x, "mix"), "bn2") + x)
    logits = x.mean(2).mean(1)
    return x, logits @ weights["predictions/kernel"] + weights["predictions/bias"]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("form", ["channels_last", "channels_first"])
def test_tokens_are_treated_step_by_step(static, form):
    tokens = application("Mixer", "mixer", mixer, about="a test", step="tokens", size=5, channels=3)
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(form)
    try:
        shape = (5, 3) if static else (4, 5, 3)
        model = tokens(input_shape=shape, classes=2, timesteps=4, classifier_activation=None)
    finally:
        keras.config.set_image_data_format(before)
    assert _summarize(model).macs == 5 * (3 * 6 + 6 * 6) + 6 * 2
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "bn" in weight.path:
            low = 0.5 if "variance" in weight.path or "gamma" in weight.path else -0.2
            weight.assign(rng.uniform(low, low + 0.7, weight.shape))
        elif "kernel" in weight.path:
            weight.assign(rng.normal(0, 1, weight.shape))
    x = rng.normal(size=(2, *shape)).astype("float32")
    sequence = np.repeat(x[:, None], 4, 1) if static else x
    spikes, logits = by_hand(model, sequence.astype("float64"))
    assert 0.1 < spikes.mean() < 0.9
    inner = keras.Model(model.inputs, model.get_layer("neuron2").output)
    np.testing.assert_array_equal(to_numpy(inner(x)), spikes)
    np.testing.assert_allclose(to_numpy(model(x)), logits, rtol=1e-5, atol=1e-5)
    assert tokens(input_shape=shape, include_top=False, pooling="max").output_shape == (None, 6)


@pytest.mark.once
def test_what_repeats_and_what_stays():
    net = Builder("if", timesteps=4)
    still = Value(keras.Input((16, 8)), has_time=False)
    assert (still.step, still.timesteps, still.channels) == ((16, 8), None, 8)
    mixed = net.dense(still, 3, "dense")
    assert not mixed.has_time and mixed.tensor.shape == (None, 16, 3)
    fires = net.neuron(mixed, "neuron")
    assert fires.has_time and fires.tensor.shape == (None, 4, 16, 3)
    assert (fires.step, fires.timesteps) == ((16, 3), 4)
    both = net.join(mixed, fires, "both")
    assert both.tensor.shape == (None, 4, 16, 3)
    attended = net.apply(layers.Reshape((4, 4, 3), name="maps"), both)
    assert attended.tensor.shape == (None, 4, 4, 4, 3)
    assert net.flatten(attended).step == (48,)
    assert not net.readout(both).has_time and net.readout(still) is still


@pytest.mark.once
def test_wrong_uses_are_errors():
    net, plain = Builder("if", timesteps=4), Builder(layers.ReLU, timesteps=None)
    tokens = keras.Input((4, 16, 8))
    for method, *arguments in (
        ("apply", layers.Flatten(), tokens),
        ("neuron", tokens, "a"),
        ("norm", tokens, "b"),
        ("dense", tokens, 2, "c"),
        ("conv", tokens, 2, 3, 1, "d"),
        ("join", tokens, tokens, "e"),
        ("readout", tokens),
    ):
        with pytest.raises(TypeError, match=r"has_time=True"):
            getattr(net, method)(*arguments)
    with pytest.raises(ValueError, match=r"delays.*\(batch, time, features\)"):
        net.delays(Value(keras.Input((16, 8)), has_time=False), 2, 3, "delays")
    with pytest.raises(ValueError, match=r"delays.*\(batch, time, features\)"):
        net.delays(Value(tokens, has_time=True), 2, 3, "delays")
    with pytest.raises(ValueError, match="with and without time"):
        moving, still = Value(tokens, True), Value(keras.Input((16, 8)), False)
        plain.join(moving, still, "join")
    with pytest.raises(ValueError, match="global pool"):
        net.global_pool(Value(keras.Input((4, 8)), has_time=True))


def test_a_builders_tokens_equal_fold_time():
    inputs = keras.Input((3, 5, 4))
    net = Builder("if", timesteps=3)
    x = net.apply(layers.LayerNormalization(name="ln"), Value(inputs, has_time=True))
    x = pooled_top(net, net.neuron(net.dense(x, 4, "dense"), "neuron"), 2, None)
    model = keras.Model(inputs, x.tensor)
    data = 3 * np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")
    y = snn.FoldTime(model.get_layer("ln").layer)(data)
    y = snn.IF()(snn.FoldTime(model.get_layer("dense"))(y))
    y = model.get_layer("predictions")(ops.mean(ops.mean(y, 1), 1))
    np.testing.assert_allclose(to_numpy(model(data)), to_numpy(y), atol=1e-6)
