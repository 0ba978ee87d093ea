"""Keras's own `model.export`: other runtimes give what Keras gives."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_snn import layers as snn


def network(neuron):
    """A network with the layers that have quick forms of their own."""
    return keras.Sequential(
        [
            keras.Input((5, 6, 6, 2)),
            snn.FoldTime(kl.Conv2D(4, 3, kernel_initializer=keras.initializers.RandomNormal())),
            snn.FoldTime(kl.BatchNormalization(gamma_initializer=keras.initializers.Constant(30))),
            neuron,
            snn.FoldTime(kl.Flatten()),
            kl.Dense(3),
            snn.MeanOverTime(),
        ]
    )


def run_onnx(path, x):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def run_saved_model(path, x):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # holds the variables
    return np.asarray(loaded.serve(x))


NEURONS = [snn.LIF, snn.ParametricLIF, snn.AdaptiveLIF]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="jax2onnx is no dependency")
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize(
    "format, run",
    [
        ("onnx", run_onnx),
        pytest.param(
            "tf_saved_model",
            run_saved_model,
            marks=pytest.mark.skipif(
                keras.backend.backend() != "tensorflow", reason="of PyTorch it needs torch_xla"
            ),
        ),
    ],
)
def test_files_give_what_keras_gives(tmp_path, neuron, format, run):
    pytest.importorskip("tf2onnx")
    model, x = network(neuron()), np.random.default_rng(0).normal(size=(2, 5, 6, 6, 2))
    x = x.astype("float32")
    expected = model.predict(x, verbose=0)
    path = str(tmp_path / "model.onnx")
    model.export(path, format=format, verbose=False)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(run(path, x), expected, atol=1e-5)
