"""The small networks: sizes by hand, and that speech is heard from the past."""

import keras
import numpy as np
import pytest
from helpers import to_numpy

from keras_snn import layers, training
from keras_snn.applications import SpeechNet, SpikingConvNet, list_models


def trainable(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def test_sizes():
    speech = SpeechNet(input_shape=(50, 40), classes=10)
    assert trainable(speech) == 5 * (40 + 128 + 128) * 128 + 3 * 2 * 128 + 128 * 10 + 10
    convolutions = 9 * (1 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128)
    norms = 2 * (32 + 64 + 64 + 128 + 128 + 256)
    dense = 3 * 3 * 128 * 256 + 256 * 10 + 10
    images = SpikingConvNet(input_shape=(28, 28, 1), classes=10)
    assert trainable(images) == convolutions + norms + dense
    (listed,) = list_models("SpeechNet")
    assert listed.macs == 5 * (40 + 128 + 128) * 128 + 128 * 1000  # of one step


def test_speech_is_heard_from_the_past():
    net = SpeechNet(input_shape=(20, 6), classes=3, classifier_activation=None)
    assert net.output_shape == (None, 3)
    net = training.every_step(net)
    for layer in net.layers:
        if "bn" in layer.name:  # so that the fresh network fires
            norm = getattr(layer, "layer", layer)
            norm.moving_variance.assign(norm.moving_variance * 0.1)
    rng = np.random.default_rng(0)
    x = 10 * rng.normal(size=(2, 20, 6)).astype("float32")
    later = x.copy()
    later[:, 12:] += 1
    a, b = to_numpy(net(x)), to_numpy(net(later))
    assert np.abs(a).max() > 0
    np.testing.assert_array_equal(a[:, :12], b[:, :12])
    assert (a[:, 12:] != b[:, 12:]).any()


def test_speech_by_delays_and_recurrent_neurons():
    net = SpeechNet(
        input_shape=(20, 6), classes=3, synapses="delays", size=4, filters=(8, 5), readout_tau=2.0
    )
    delayed = [x for x in net.layers if isinstance(x, layers.DelayedDense)]
    assert [(x.units, x.max_delay) for x in delayed] == [(8, 3), (5, 3), (3, 3)]
    # A weight and a delay for each synapse, a width of each layer, four values of each norm.
    assert net.count_params() == 2 * (6 * 8 + 8 * 5 + 5 * 3) + 3 + 4 * (8 + 5)
    assert net.output_shape == (None, 3)
    net = SpeechNet(
        input_shape=(20, 6), classes=3, neuron="SEAdLIF", size=1, filters=(8,), recurrent=True
    )
    neuron = net.get_layer("neuron1")
    assert (
        isinstance(neuron, layers.Recurrent) and type(neuron.cell.neuron).__name__ == "SEAdLIFCell"
    )
    assert net.count_params() == 6 * 8 + 8 * 8 + 4 * 8 + 4 * 8 + 8 * 3 + 3
    x = np.ones((2, 20, 6), "float32")
    np.testing.assert_allclose(to_numpy(net(x)).sum(-1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="synapses.*'axons'"):
        SpeechNet(synapses="axons")
    with pytest.raises(ValueError, match="size.*0"):
        SpeechNet(size=0)
    with pytest.raises(ValueError, match="needs a neuron with a cell"):
        SpeechNet(neuron=keras.layers.ReLU, recurrent=True)


def test_input_shapes():
    with pytest.raises(ValueError, match="two integers, time and features"):
        SpeechNet(input_shape=(28, 28, 1))
    with pytest.raises(ValueError, match="must be known"):
        SpeechNet(input_shape=(28, None))
    with pytest.raises(ValueError, match="at least 8x8"):
        SpikingConvNet(input_shape=(4, 4, 1))
    assert SpeechNet(input_shape=(None, 40)).input_shape == (None, None, 40)


def test_saved_and_trained(tmp_path):
    net = SpeechNet(input_shape=(8, 5), classes=2)
    net.compile("adam", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(4, 8, 5)).astype("float32")
    net.fit(x, np.array([0, 1, 0, 1]), verbose=0)
    net.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(to_numpy(again(x)), to_numpy(net(x)))
