"""NIR and ONNX: what is written is read back, and runs elsewhere with the same spikes."""

import itertools

import keras
import numpy as np
import pytest
from helpers import to_numpy
from test_export import STEPS, clips, convolutions, sequence_net, with_tensorflow

from keras_snn import export, layers


def body():
    """Convolutions, strides and padding, a residual sum, pooling, flatten, dense layers."""
    keras.utils.set_random_seed(3)
    fold, conv = layers.FoldTime, keras.layers.Conv2D
    strong = keras.initializers.RandomNormal(0.1, 0.4)
    inputs = keras.Input((STEPS, 7, 9, 2))
    x = fold(conv(4, 3, padding="same", bias_initializer="ones", name="c1"), name="conv1")(inputs)
    x = skip = layers.IF(name="if1")(x)
    x = fold(conv(4, 3, padding="same", kernel_initializer=strong), name="conv2")(x)
    x = layers.SpikeConnection("add", name="add")([layers.LIF(tau=2.0, name="lif1")(x), skip])
    x = fold(keras.layers.ZeroPadding2D(1), name="pad")(x)
    x = fold(conv(6, 3, 2, use_bias=False, kernel_initializer=strong), name="conv3")(x)
    x = layers.IF(name="if2")(x)
    padded = layers.PaddedConv2D(6, 3, 2, "symmetric", kernel_initializer=strong)
    x = layers.IF(name="if4")(fold(padded, name="conv4")(x))
    x = fold(keras.layers.AveragePooling2D(2), name="pool")(x)
    x = fold(keras.layers.Flatten(), name="flatten")(x)
    x = keras.layers.Dense(12, kernel_initializer=strong, name="dense1")(x)
    x = layers.LIF(tau=3.0, decay_input=False, threshold=0.7, name="lif2")(x)
    x = keras.layers.Dense(5, use_bias=False, kernel_initializer=strong, name="dense2")(x)
    return keras.Model(inputs, layers.IF(threshold=0.5, name="if3")(x))


@pytest.mark.once
def test_nir_and_back(tmp_path):
    pytest.importorskip("nir", reason="needs the extra `nir`")
    model = body()
    x = clips(model, 8)
    export.to_nir(model, tmp_path / "net.nir")
    assert [p.name for p in tmp_path.iterdir()] == ["net.nir"]
    again = export.from_nir(tmp_path / "net.nir", timesteps=STEPS)
    wanted, found = to_numpy(model(x)), to_numpy(again(x))
    assert 0.05 < wanted.mean() < 0.95
    np.testing.assert_array_equal(found, wanted)
    assert again.count_params() == model.count_params() + 6  # NIR's convolutions have biases


def test_norse_reads_it():
    pytest.importorskip("nir", reason="needs the extra `nir`")
    norse = pytest.importorskip("norse.torch", reason="needs the extra `peers`")
    torch = pytest.importorskip("torch")
    keras.utils.set_random_seed(3)
    strong = keras.initializers.RandomNormal(0.1, 0.4)
    inputs = keras.Input((STEPS, 6, 6, 2))
    x = layers.FoldTime(keras.layers.Conv2D(4, 3, padding="same"), name="conv")(inputs)
    x = layers.LIF(tau=2.0, threshold=0.5, name="lif1")(x)
    x = layers.FoldTime(keras.layers.Flatten(), name="flatten")(x)
    x = keras.layers.Dense(12, kernel_initializer=strong, name="dense")(x)
    model = keras.Model(inputs, layers.LIF(tau=4.0, threshold=0.3, name="lif2")(x))
    net = norse.from_nir(export.to_nir(model, dt=1e-3), dt=1e-3)
    data = clips(model, 8)
    wanted = to_numpy(model(data))
    assert 0.05 < wanted.mean() < 0.95
    for clip, spikes in zip(data, wanted):
        state = None
        for frame, now in zip(clip, spikes):
            frame = torch.tensor(frame.transpose(2, 0, 1))
            found, state = net(frame, state)
            np.testing.assert_array_equal(found.detach().numpy().ravel(), now)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: layers.IF(reset="soft", name="odd"), "odd .*hard resets only"),
        (lambda: layers.KLIF(name="odd"), "odd .*no such neuron"),
        (lambda: layers.FoldTime(keras.layers.BatchNormalization(), name="odd"), "odd .*fold it"),
        (lambda: layers.MeanOverTime(name="odd"), "odd .*cut the model"),
        (lambda: layers.FoldTime(keras.layers.MaxPooling2D(), name="odd"), "odd .*pooling only"),
        (
            lambda: layers.FoldTime(keras.layers.Conv2D(2, 3, 2, padding="same"), name="odd"),
            "one side more",
        ),
    ],
)
def test_what_nir_can_not_say(layer, message, tmp_path):
    pytest.importorskip("nir", reason="needs the extra `nir`")
    inputs = keras.Input((STEPS, 6, 6, 2))
    with pytest.raises(TypeError, match=message):
        export.to_nir(keras.Model(inputs, layer()(inputs)), tmp_path / "net.nir")
    assert not list(tmp_path.iterdir())


def test_what_is_not_read():
    nir = pytest.importorskip("nir", reason="needs the extra `nir`")

    def graph(*nodes):
        names = ["input", *(f"node{i}" for i in range(len(nodes))), "output"]
        ends = nir.Input({"input": np.array([3])}), nir.Output({"output": np.array([3])})
        every = dict(zip(names, (ends[0], *nodes, ends[1])))
        return nir.NIRGraph(every, list(itertools.pairwise(names)))

    ones = np.ones(3)
    with pytest.raises(TypeError, match="node0.* CubaLIF"):
        export.from_nir(graph(nir.CubaLIF(ones, ones, ones, ones, ones)))
    uneven = nir.IF(ones, np.array([1.0, 2.0, 1.0]), 0 * ones)
    with pytest.raises(TypeError, match="node0.* differ"):
        export.from_nir(graph(uneven))
    model = export.from_nir(graph(nir.LIF(2e-4 * ones, 3 * ones, 0 * ones, ones, 0 * ones)))
    spikes = to_numpy(model(np.full((1, 4, 3), 0.4, "float32")))[0, :, 0]
    # v = 0.6, 0.9, 1.05 -> 0, 0.6: currents are three times the input, halved.
    assert spikes.tolist() == [0, 0, 1, 0]


@with_tensorflow
@pytest.mark.parametrize(
    ("name", "mode"), [("LIF, rest", "sequence"), ("LIF, rest", "step"), ("image", "step")]
)
def test_onnx(name, mode, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs the extra `onnx`")
    rest = lambda name: layers.LIF(tau=3.0, v_reset=-0.2, name=name)  # noqa: E731
    model = sequence_net(rest)
    if name == "image":
        inputs = keras.Input(model.input_shape[2:])
        model = keras.Model(inputs, model(layers.RepeatTime(STEPS)(inputs)))
    data, path = clips(model), tmp_path / "model.onnx"
    report = export.to_onnx(model, path, mode, verify_data=data)
    assert report.flipped == 0 and report.top1 == 1 and report.logits < 1e-4
    assert all(0.005 < layer["rate"] < 0.995 for layer in report.layers)
    assert report.operations["Conv"] == convolutions(model)
    runner = export.OnnxRunner(path, report.initial_states)
    for clip, wanted in zip(data, model.predict(data, verbose=0)):
        if mode == "sequence":
            found = runner.step(clip[None])
        else:
            found = runner.run(clip if clip.ndim == 4 else np.repeat(clip[None], STEPS, 0))
        np.testing.assert_allclose(next(iter(found.values()))[0], wanted, atol=1e-4)
    with pytest.raises(ValueError, match="mode"):
        export.to_onnx(model, path, "clip")
