"""STDP: equal to SpikingJelly's learners, and to the rules' equations in NumPy."""

import json
import sys

import keras
import numpy as np
import pytest
from absl import app
from keras import layers
from test_project import in_a_process, program

from keras_snn import layers as snn
from keras_snn.training import STDP, PairSTDP, TripletSTDP, correlate, stdp_change

array = keras.ops.convert_to_numpy


def spikes(*shape, seed=0):
    return (np.random.default_rng(seed).random(shape) < 0.4).astype("float32")


def dense(inputs=4, units=3, **kwargs):
    layer = layers.Dense(units, **kwargs)
    layer.build((None, inputs))
    return layer


def peer_modules():
    pytest.importorskip("torch")
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed (extra `peers`)")
    import torch
    from spikingjelly.activation_based import learning

    return torch, learning


def peer_change(peer, synapse, pre, post, f_pre, f_post):
    """What SpikingJelly's learner changes for sequences, time first."""
    torch, learning = peer
    neuron = torch.nn.Identity()
    learner = learning.STDPLearner("m", synapse, neuron, 3.0, 5.0, f_pre, f_post)
    learner.in_spike_monitor.records.append(torch.tensor(np.moveaxis(pre, 1, 0)))
    learner.out_spike_monitor.records.append(torch.tensor(np.moveaxis(post, 1, 0)))
    return learner.step(on_grad=False).numpy()


RULE = PairSTDP(3.0, 5.0, potentiation=lambda w: 1 - w, depression=lambda w: w * w)


def test_dense_is_spikingjellys(torchvision):
    peer = peer_modules()
    layer, synapse = dense(), peer[0].nn.Linear(4, 3)
    synapse.weight.data = peer[0].tensor(np.array(array(layer.kernel).T))
    pre, post = spikes(2, 7, 4), spikes(2, 7, 3, seed=1)
    wanted = peer_change(peer, synapse, pre, post, RULE.depression, RULE.potentiation)
    change, traces = stdp_change(layer, pre, post, RULE)
    np.testing.assert_allclose(array(change).T, wanted, rtol=1e-5, atol=1e-5)
    # The same in two pieces.
    first, traces = stdp_change(layer, pre[:, :3], post[:, :3], RULE)
    second, _ = stdp_change(layer, pre[:, 3:], post[:, 3:], RULE, traces)
    np.testing.assert_allclose(array(first + second), array(change), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "axes, strides, padding, form",
    [
        (2, 2, 1, "channels_last"),
        pytest.param(1, 2, 0, "channels_last", marks=pytest.mark.once),
        pytest.param(2, 2, 1, "channels_first", marks=pytest.mark.once),
    ],
)
def test_convolutions_are_spikingjellys(axes, strides, padding, form, torchvision):
    peer = peer_modules()
    kind = {1: layers.Conv1D, 2: snn.PaddedConv2D}[axes]
    layer = kind(
        3, 3, strides=strides, padding="symmetric" if padding else "valid", data_format=form
    )
    channels_first = form == "channels_first"
    sizes = (7, 6)[:axes]
    step = (2, *sizes) if channels_first else (*sizes, 2)
    layer.build((None, *step))
    out = layer.compute_output_shape((2, *step))[1:]
    pre, post = spikes(2, 4, *step), spikes(2, 4, *out, seed=1)
    synapse = getattr(peer[0].nn, f"Conv{axes}d")(2, 3, 3, stride=strides, padding=padding)
    axes_of = (axes + 1, axes, *range(axes))
    synapse.weight.data = peer[0].tensor(np.array(array(layer.kernel).transpose(axes_of)))
    given = [pre, post] if channels_first else [np.moveaxis(x, -1, 2) for x in (pre, post)]
    wanted = peer_change(peer, synapse, *given, RULE.depression, RULE.potentiation)
    change, _ = stdp_change(layer, pre, post, RULE)
    np.testing.assert_allclose(array(change).transpose(axes_of), wanted, rtol=1e-5, atol=1e-5)
    each = correlate(layer, pre, post, per_example=True)
    np.testing.assert_allclose(array(each).sum(0), array(correlate(layer, pre, post)), rtol=1e-5)


@pytest.mark.once
def test_reward_is_spikingjellys(torchvision):
    torch, learning = peer_modules()
    for tau in (1.0, 4.0):  # MSTDP, and MSTDPET, which has one example
        layer, batch = dense(use_bias=False), 2 if tau == 1 else 1
        synapse, neuron = torch.nn.Linear(4, 3), torch.nn.Identity()
        synapse.weight.data = torch.tensor(np.array(array(layer.kernel).T))
        ours = [1 / (1 - np.exp(-1 / n)) for n in (3.0, 5.0)]  # the same decay a step
        kernel = array(layer.kernel)
        if tau == 1:
            learner = learning.MSTDPLearner("s", synapse, neuron, 3.0, 5.0)
        else:
            decay = -1 / np.log(1 - 1 / tau)
            learner = learning.MSTDPETLearner("s", synapse, neuron, 3.0, 5.0, tau_trace=decay)
        rule = PairSTDP(*ours, lambda w, k=kernel: k, lambda w, k=kernel: k)
        stdp = STDP(layer, rule, keras.optimizers.SGD(1.0), tau_eligibility=tau)
        pre, post = spikes(batch, 5, 4), spikes(batch, 5, 3, seed=1)
        rewards = np.random.default_rng(2).normal(size=(5, batch)).astype("float32")
        for t in range(5):
            x, y = torch.tensor(pre[:, t]), torch.tensor(post[:, t])
            one = tau != 1
            learner.in_spike_monitor.records.append(x[0] if one else x)
            learner.out_spike_monitor.records.append(y[0] if one else y)
            given = float(rewards[t, 0]) if one else torch.tensor(rewards[t])
            wanted = learner.step(given, on_grad=False).numpy().T
            if t:  # a reward is for the steps before it
                change = array(stdp.reward(rewards[t])[0])
                # SpikingJelly divides by the time constant of its exponential, we by ours.
                wanted = wanted * (1 if tau == 1 else decay / tau)
                np.testing.assert_allclose(change, wanted, rtol=1e-4, atol=1e-5)
            stdp.step(pre[:, t], post[:, t])


@pytest.mark.once
def test_triplets_are_those_of_the_equation():
    """Pfister and Gerstner's rule, spike by spike, in float64."""
    layer, rule = dense(1, 1), TripletSTDP(3.0, 5.0, 0.3, 0.2, 9.0, 7.0, 0.6, 0.4)
    pre, post = spikes(1, 30, 1), spikes(1, 30, 1, seed=1)
    r1 = r2 = o1 = o2 = total = 0.0
    for x, y in zip(pre[0, :, 0].astype("float64"), post[0, :, 0].astype("float64")):
        r1, r2, o1, o2 = r1 * (1 - 1 / 3), r2 * (1 - 1 / 9), o1 * (1 - 1 / 5), o2 * (1 - 1 / 7)
        r1, o1 = r1 + x, o1 + y
        total += y * r1 * (0.3 + 0.6 * o2) - x * o1 * (0.2 + 0.4 * r2)
        r2, o2 = r2 + x, o2 + y
    np.testing.assert_allclose(float(stdp_change(layer, pre, post, rule)[0][0, 0]), total, 1e-5)


def test_a_model_learns_what_its_layers_would():
    inputs = keras.Input((6, 4, 4, 2))
    conv = layers.Conv2D(3, 2, kernel_constraint=keras.constraints.NonNeg(), name="conv")
    x = snn.LIF(name="first")(snn.FoldTime(conv, name="conv")(inputs))
    x = snn.FoldTime(layers.Flatten())(x)
    last = layers.Dense(4, name="dense", kernel_initializer="ones")
    model = keras.Model(inputs, snn.MeanOverTime()(snn.LIF(name="second")(last(x))))
    data = 3 * spikes(2, 6, 4, 4, 2)
    conv.kernel.assign(np.abs(array(conv.kernel)))
    first = array(keras.Model(model.inputs, model.get_layer("first").output)(data))
    second = array(keras.Model(model.inputs, model.get_layer("second").output)(data))
    flat = first.reshape(2, 6, -1)
    before = array(last.kernel), array(conv.kernel)
    wanted = [array(stdp_change(last, flat, second, RULE)[0])]
    wanted.append(array(stdp_change(conv, data, first, RULE)[0]))
    stdp = STDP(model, RULE, keras.optimizers.SGD(0.1))
    logs = stdp.train_on_batch(data)
    np.testing.assert_allclose(array(last.kernel), before[0] + 0.1 * wanted[0], atol=1e-4)
    np.testing.assert_allclose(
        array(conv.kernel), np.maximum(before[1] + 0.1 * wanted[1], 0), atol=1e-4
    )
    mean = np.mean(np.abs(np.concatenate([w.ravel() for w in wanted])))
    np.testing.assert_allclose(logs["change"], mean, rtol=1e-4)
    assert 0 < logs["rate"] < 1 and first.any() and second.any()
    # Rewards by a function of outputs and targets: none, no change.
    last.kernel.assign(before[0])
    kernel = array(last.kernel)
    taught = STDP(model, RULE, "sgd", tau_eligibility=5.0, layers=["dense"])
    taught.fit(data, [0, 1], reward=lambda outputs, y: 0.0 * y, epochs=1, verbose=0)
    np.testing.assert_array_equal(array(last.kernel), kernel)
    taught.fit(data, [0, 1], reward=lambda outputs, y: 1.0 + y, epochs=1, verbose=0)
    assert np.any(array(last.kernel) != kernel)


@pytest.mark.once
def test_bad_input():
    layer, data = dense(), spikes(2, 3, 4)
    with pytest.raises(ValueError, match="tau_pre.*got 0.5"):
        PairSTDP(tau_pre=0.5)
    with pytest.raises(ValueError, match="potentiation.*got 'w'"):
        TripletSTDP(potentiation="w")
    with pytest.raises(TypeError, match="without groups"):
        STDP(layers.DepthwiseConv2D(3))
    with pytest.raises(TypeError, match="PairSTDP"):
        STDP(layer, rule="pair")
    with pytest.raises(ValueError, match="must be built"):
        STDP(layers.Dense(3))
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 3, 2\)"):
        stdp_change(layer, data, spikes(2, 3, 2))
    with pytest.raises(ValueError, match="drive spiking neurons"):
        STDP(keras.Sequential([keras.Input((3, 4)), layers.Dense(2)]))
    stdp = STDP(layer)
    with pytest.raises(ValueError, match="tau_eligibility"):
        stdp.reward(1.0)
    with pytest.raises(TypeError, match="`step`"):
        stdp.train_on_batch(data)
    stdp = STDP(layer, tau_eligibility=2.0)
    stdp.step(data[:, 0], spikes(2, 3))
    with pytest.raises(ValueError, match=r"\(2,\), got the shape \(3,\)"):
        stdp.reward([1.0, 2.0, 3.0])
    model = keras.Sequential([keras.Input((3, 4)), layers.Dense(2), snn.LIF()])
    with pytest.raises(ValueError, match="goes with"):
        STDP(model).train_on_batch(data, reward=1.0)
    with pytest.raises(TypeError, match="is of a layer"):
        STDP(model).step(data, data)
    with pytest.raises(ValueError, match="wanted are"):
        STDP(model, layers=["other"])


def learn_some_digits(path):
    """Runs the program on some of the images, with fewer neurons and steps."""
    import stdp

    split = stdp.split

    def fewer(seed):
        images, test_images, labels, test_labels = split(seed)
        return images[:400], test_images[:100], labels[:400], test_labels[:100]

    stdp.split = fewer
    sys.argv = ["stdp", "--neurons=40", "--epochs=2", "--timesteps=25", f"--json={path}"]
    app.run(stdp.main)


@pytest.mark.once
def test_program(tmp_path):
    found = in_a_process(learn_some_digits, tmp_path / "digits.json")
    assert found.returncode == 0, found.stderr
    results = json.loads((tmp_path / "digits.json").read_text())
    (run,) = results["runs"]
    assert run["test_examples"] == 100 and run["test_accuracy"] > 0.4  # chance: 0.1
    assert results["mean"] == run["test_accuracy"]


@pytest.mark.once
def test_program_refuses_bad_flags():
    for flag, message in (("--seeds=0,x", "--seeds should be numbers"), ("--neurons=3", "neurons")):
        found = program("stdp", flag)
        assert found.returncode and message in found.stderr + found.stdout
