"""Online rules: e-prop is backpropagation where it should be; SLTT and OTTT are SpikingJelly's."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_snn import layers as snn
from keras_snn.training import OTTT, SLTT, EProp

array = keras.ops.convert_to_numpy
JIT = keras.backend.backend() == "jax"  # TensorFlow and PyTorch run without sooner


def data(steps=9, inputs=5, outputs=3, batch=4, scale=2.0):
    rng = np.random.default_rng(0)
    x = (scale * rng.normal(size=(batch, steps, inputs))).astype("float32")
    return x, rng.random((batch, steps, outputs)).astype("float32")


def gradients(trained, model, x, y, loss="mse"):
    """What a step of gradient descent subtracts from the weights, which are put back."""
    before = model.get_weights()
    trained.compile(keras.optimizers.SGD(1.0), loss, jit_compile=JIT)
    trained.train_on_batch(x, y)
    after = model.get_weights()
    model.set_weights(before)
    return [a - b for a, b in zip(before, after)]


def cosine(ours, wanted):
    a, b = (np.concatenate([g.ravel() for g in x]).astype("float64") for x in (ours, wanted))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("reset", ["none", pytest.param("soft", marks=pytest.mark.once)])
def test_eprop_of_one_layer_is_backpropagation(reset):
    x, y = data()
    neuron = snn.LIF(tau=4.0, reset=reset, surrogate="sigmoid")
    model = keras.Sequential(
        [keras.Input((None, 5)), layers.Dense(6, bias_initializer="ones"), neuron, layers.Dense(3)]
    )
    wanted = gradients(model, model, x, y)
    ours = gradients(EProp(model), model, x, y)
    for a, b in zip(ours, wanted):
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-7)


def deep(tau=2.0, **kwargs):
    def lif():
        return snn.LIF(tau, decay_input=False, surrogate="sigmoid", **kwargs)

    inputs = keras.Input((9, 5))
    x = lif()(layers.Dense(8)(inputs))
    x = lif()(layers.Dense(7)(x))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("method", [pytest.param(SLTT, marks=pytest.mark.once), OTTT])
def test_is_spikingjellys(method, torchvision):
    pytest.importorskip("torch")
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed (extra `peers`)")
    import torch
    from spikingjelly.activation_based import layer, neuron
    from spikingjelly.activation_based.learning import online_learning

    x, y = data()
    model = deep(reset="soft")
    node = {SLTT: neuron.SLTTLIFNode, OTTT: neuron.OTTTLIFNode}[method]
    options = {"tau": 2.0, "decay_input": False, "v_reset": None}
    parts = [torch.nn.Linear(5, 8), node(**options), torch.nn.Linear(8, 7), node(**options)]
    net = layer.OTTTSequential(*parts, torch.nn.Linear(7, 3))
    for linear, dense in zip(net[::2], model.layers[1::2]):
        linear.weight.data = torch.tensor(np.array(array(dense.kernel).T))
        linear.bias.data = torch.tensor(np.array(array(dense.bias)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    online_learning.ottt_online_training(
        net, optimizer, torch.tensor(x), torch.tensor(y), torch.nn.functional.mse_loss, False
    )
    wanted = [p.grad.numpy().T / 9 for p in net.parameters()]  # theirs is the sum over steps
    ours = gradients(method(model), model, x, y)
    for a, b in zip(ours, wanted):
        np.testing.assert_allclose(a, b, atol=1e-6 + 1e-5 * np.abs(b).max())


@pytest.mark.once
def test_what_is_left_out_of_deeper_networks():
    x, y = data()
    model = deep(tau=5.0)
    wanted = gradients(model, model, x, y)
    found = {m: cosine(gradients(m(model), model, x, y), wanted) for m in (SLTT, OTTT, EProp)}
    assert 0.999 > found[EProp] > 0.9 and found[EProp] > found[SLTT] > 0.3


def test_fit_of_a_network_of_images_and_saving(tmp_path):
    """Static images, convolutions, normalisation, pooling, dropout; what `fit` sees and keeps."""
    inputs = keras.Input((6, 6, 1))
    x = snn.RepeatTime(4)(inputs)
    x = snn.FoldTime(layers.Conv2D(4, 3, padding="same"))(x)
    x = snn.FoldTime(layers.BatchNormalization(momentum=0.5))(x)
    x = snn.FoldTime(layers.AveragePooling2D(2))(snn.LIF()(x))
    x = snn.FoldTime(layers.Flatten())(layers.Dropout(0.1, seed=1)(x))
    model = keras.Model(inputs, snn.MeanOverTime()(layers.Dense(2)(x)))
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    images = (rng.random((32, 6, 6, 1)) + labels[:, None, None, None]).astype("float32")
    online = OTTT(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    online.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=JIT)
    history = online.fit(images, labels, epochs=8, batch_size=16, verbose=0).history
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert online.evaluate(images, labels, verbose=0)[1] > 0.9
    moving = model.layers[3].layer.moving_mean
    assert np.any(array(moving) != 0)
    online.save(tmp_path / "online.keras")
    again = keras.saving.load_model(tmp_path / "online.keras")
    assert isinstance(again, OTTT) and again.targets_over_time is False
    np.testing.assert_allclose(array(again(images)), array(model(images)), rtol=1e-5, atol=1e-6)


@pytest.mark.once
def test_recurrent_eprop():
    """Recurrent weights have traces too: nearer to backpropagation than without."""
    x, y = data()
    cell = snn.LIFCell(tau=5.0, reset="none", surrogate="sigmoid")
    small = keras.initializers.RandomNormal(stddev=0.1, seed=0)
    inputs = keras.Input((9, 5))
    hidden = snn.Recurrent(cell, layers.Dense(6, kernel_initializer=small))(layers.Dense(6)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    wanted = gradients(model, model, x, y)
    ours = [cosine(gradients(m(model), model, x, y), wanted) for m in (EProp, SLTT)]
    assert ours[0] > 0.98 and ours[0] > ours[1]


@pytest.mark.once
def test_a_leaky_readout():
    """The weights in front of an integrator have its trace; what it remembers is left out below."""
    x, y = data()
    inputs = keras.Input((9, 5))
    spikes = snn.LIF(tau=5.0)(layers.Dense(6)(inputs))
    model = keras.Model(inputs, snn.LeakyIntegrator(4.0)(layers.Dense(3)(spikes)))
    wanted, ours = (gradients(m, model, x, y)[2:] for m in (model, EProp(model)))
    for a, b in zip(ours, wanted):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-7)
    # Spikes may reach a readout of potentials.
    readout = keras.Model(inputs, snn.MembraneReadout("mean", 4.0)(spikes))
    kernel = readout.layers[1].kernel
    before = array(kernel)
    online = OTTT(readout)
    online.compile(keras.optimizers.SGD(1.0), "mse")
    online.train_on_batch(x, np.ones((4, 6)))
    assert np.any(array(kernel) != before)


@pytest.mark.once
def test_bad_input():
    def model(*parts, shape=(4, 3)):
        return keras.Sequential([keras.Input(shape), *parts])

    with pytest.raises(ValueError, match="no time axis"):
        SLTT(model(layers.Dense(2), shape=(3,)))
    with pytest.raises(TypeError, match="reads all steps at once"):
        SLTT(model(snn.LIF(), snn.FirstSpikeTime()))
    with pytest.raises(TypeError, match="several steps"):
        SLTT(model(layers.Conv1D(2, 3, padding="causal"), snn.LIF()))
    with pytest.raises(TypeError, match="takes a mask"):
        SLTT(model(layers.Masking(), snn.LIF()))
    with pytest.raises(TypeError, match="linear leak.*QIFCell"):
        OTTT(model(snn.QIF()))
    with pytest.raises(TypeError, match="no recurrent connections"):
        OTTT(model(snn.Recurrent(snn.IFCell(), layers.Dense(3))))
    with pytest.raises(TypeError, match="activation of their own, got 'softmax'"):
        OTTT(model(snn.LIF(), layers.Dense(2, activation="softmax")))
    with pytest.raises(TypeError, match="one leak for all neurons"):
        EProp(model(layers.Dense(2), snn.ParametricLIF(parameter_shape="channel")))
    with pytest.raises(ValueError, match="activity regularizer"):
        SLTT(model(layers.Dense(2, activity_regularizer="l2"), snn.LIF()))
