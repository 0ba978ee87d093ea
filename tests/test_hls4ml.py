"""Networks of one step for hls4ml: by NumPy, and by its C simulation where it is installed."""

import shutil

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers

from keras_snn import analysis
from keras_snn import layers as snn
from keras_snn.export.hls4ml import convert, resources, simulate, step

pytestmark = pytest.mark.once


def dense_net(*neurons, readout=None, inputs=12, timesteps=5):
    """Dense layers with these neurons behind them, on a static input."""
    keras.utils.set_random_seed(0)
    x = start = keras.Input((inputs,))
    for place, neuron in enumerate(neurons):
        x = layers.Dense(9, kernel_initializer=keras.initializers.VarianceScaling(6.0))(x)
        x = neuron(x if place else snn.RepeatTime(timesteps)(x))
    return keras.Model(start, (readout or snn.MeanOverTime())(layers.Dense(3)(x)))


def by_hand(network, inputs, timesteps):
    """Outputs, and results of each layer, of a network without branches, in float64."""
    states, results = {}, []
    for t in range(timesteps):
        x, found = inputs[:, t].astype("float64"), {}
        for layer in network.layers[1:]:
            if isinstance(layer, layers.Dense):
                kernel, *bias = [to_numpy(w).astype("float64") for w in layer.weights]
                x = x @ kernel + (bias[0] if bias else 0)
            elif isinstance(layer, step.Affine):
                x = layer.constants["scale"] * x + layer.constants["shift"]
            elif isinstance(layer, step.Reduction):
                c, so_far = layer.constants, states.get(layer.name)
                new = np.maximum if c["largest"] else np.add
                states[layer.name] = x = x if so_far is None else new(so_far, x)
                x = x * c["scale"]
            else:
                c = layer.constants
                h = c["decay"] * states.get(layer.name, c["first"]) + c["gain"] * x + c["shift"]
                x = h > c["threshold"] if c["strict"] else h >= c["threshold"]
                after = {"hard": c["first"], "soft": h - c["threshold"], "none": h}[c["reset"]]
                states[layer.name] = np.where(x & c["fires"], after, h)
                x = x.astype("float64") if c["fires"] else h
            found[layer.name] = x
        results.append(found)
    return {name: np.stack([r[name] for r in results], 1) for name in results[0]}


NEURONS = {
    "IF": lambda: snn.IF(reset="soft"),
    "IF, no reset": lambda: snn.IF(reset="none", strict=True),
    "LIF": lambda: snn.LIF(tau=3.0, v_reset=-0.2),
    "LIF, input as it is": lambda: snn.LIF(tau=1.5, decay_input=False, threshold=0.7),
    "ParametricLIF": lambda: snn.ParametricLIF(tau=2.5, parameter_shape="neuron"),
    "DecayLIF": lambda: snn.DecayLIF(decay=0.25, threshold=0.5),
    "threshold of each": lambda: snn.LIF(trainable_threshold=True, parameter_shape="neuron"),
}
READOUTS = {
    "mean": snn.MeanOverTime,
    "sum": snn.SumOverTime,
    "max": snn.MaxOverTime,
    "last": snn.LastOverTime,
    "potential": lambda: snn.MembraneReadout("max", tau=2.0),
}
X = np.random.default_rng(0).uniform(0, 1, (16, 12)).astype("float32")


@pytest.mark.parametrize("kind", NEURONS)
def test_the_constants_of_neurons(kind):
    model = dense_net(NEURONS[kind](), snn.LIF())
    if kind == "threshold of each":
        model.layers[3].cell.threshold_weight.assign(np.linspace(0.5, 1.5, 9))
    expected = analysis.record(model, X)
    network = step.step_model(model, 5)
    found = by_hand(network, np.repeat(X[:, None], 5, 1), 5)
    for name in expected:
        spikes = expected[name]["spikes"]
        assert 0 < spikes.mean() < 1
        np.testing.assert_array_equal(found[name], spikes)


@pytest.mark.parametrize("kind", READOUTS)
def test_the_constants_of_readouts(kind):
    model = dense_net(snn.LIF(), readout=READOUTS[kind]())
    found = by_hand(step.step_model(model, 5), np.repeat(X[:, None], 5, 1), 5)
    last = list(found.values())[-1][:, -1]
    np.testing.assert_allclose(last, to_numpy(model(X)), atol=1e-5)


def test_sequences_normalisation_and_votes():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 12))
    norm = snn.ThresholdDependentBatchNormalization(name="norm-1")
    x = snn.LIF(name="1st")(norm(layers.Dense(8)(inputs)))
    model = keras.Model(inputs, snn.MeanOverTime()(snn.Voting(4)(layers.Dropout(0.5)(x))))
    norm.moving_mean.assign(np.linspace(-0.2, 0.2, 8))
    clips = np.random.default_rng(1).normal(0, 2, (16, 5, 12)).astype("float32")
    network = step.step_model(model, 5)
    assert {"norm_1", "layer_1st"} <= {layer.name for layer in network.layers}
    found = by_hand(network, clips, 5)
    np.testing.assert_array_equal(
        found["layer_1st"], analysis.record(model, clips)["1st"]["spikes"]
    )
    last = list(found.values())[-1][:, -1]
    np.testing.assert_allclose(last, to_numpy(model(clips)), atol=1e-5)


REFUSED = {
    "AdaptiveLIFCell": lambda: snn.AdaptiveLIF(name="bad"),
    "PSN": lambda: snn.PSN(name="bad"),
    "FirstSpikeTime": lambda: snn.FirstSpikeTime(name="bad"),
    "GRUCell": lambda: layers.GRU(3, name="bad", return_sequences=True),
    "Conv1D": lambda: layers.Conv1D(3, 2, name="bad"),
    "Conv2D": lambda: snn.FoldTime(layers.Conv2D(2, 3, groups=2, name="bad")),
    "Dense": lambda: layers.Dense(3, activation="softmax", name="bad"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_template_is_refused_by_name(kind):
    inputs = keras.Input((5, 6, 6, 2) if kind == "Conv2D" else (5, 4))
    x = snn.IF()(REFUSED[kind]()(snn.IF()(inputs)) if kind != "FirstSpikeTime" else inputs)
    outputs = REFUSED[kind]()(x) if kind == "FirstSpikeTime" else snn.MeanOverTime()(x)
    with pytest.raises(TypeError, match=rf"\({kind}\) can't be written for hls4ml"):
        step.step_model(keras.Model(inputs, outputs), 5)


def test_encoders_are_refused_by_name():
    inputs = keras.Input((4,))
    x = snn.IF()(snn.LatencyEncoder(5, name="bad")(inputs))
    with pytest.raises(TypeError, match=r"bad \(LatencyEncoder\) can't be written for hls4ml"):
        step.step_model(keras.Model(inputs, snn.MeanOverTime()(x)), 5)


@pytest.fixture
def simulation():
    pytest.importorskip("hls4ml", reason="hls4ml is not installed (extra `hls4ml`)")
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")


def check(model, x, folder, **arguments):
    """All spikes of all steps, and the answers, by the C simulation."""
    outputs, spikes = simulate(convert(model, folder, **arguments), x)
    expected = analysis.record(model, x)
    for name in expected:
        assert 0 < expected[name]["spikes"].mean() < 1
        np.testing.assert_array_equal(spikes[name], expected[name]["spikes"])
    answers = to_numpy(model(x))
    np.testing.assert_allclose(outputs[:, -1], answers, atol=1e-3)
    np.testing.assert_array_equal(outputs[:, -1].argmax(-1), answers.argmax(-1))


def test_digits_by_the_c_simulation(simulation, tmp_path):
    """Every kind of neuron, all 360 test digits."""
    data = pytest.importorskip("keras_snn.datasets").load("digits", 360, 0)
    x = np.asarray(data.test[0][0]).reshape(360, 64)
    kinds = ("IF", "LIF", "LIF, input as it is", "DecayLIF")
    model = dense_net(*(NEURONS[kind]() for kind in kinds), inputs=64, timesteps=4)
    check(model, x, tmp_path)


def test_narrow_types_are_exact_where_they_hold_all_values(simulation, tmp_path):
    """Weights in steps of 1/16 and inputs of 1/16: four steps that halve need 12 bits, no more."""
    model = dense_net(snn.LIF(), timesteps=4)
    model.set_weights([np.round(16 * w) / 16 for w in model.get_weights()])
    check(model, np.round(16 * X) / 16, tmp_path, precision="ap_fixed<20,8>", backend="Vivado")


def test_convolutions_by_the_c_simulation(simulation, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 6, 6, 1))
    x = snn.FoldTime(layers.Conv2D(3, 3, padding="same", kernel_initializer="he_normal"))(inputs)
    x = snn.IF(reset="soft")(x)
    x = snn.FoldTime(layers.MaxPooling2D())(x)
    x = layers.Dense(4)(snn.FoldTime(layers.Flatten())(x))
    model = keras.Model(inputs, snn.SumOverTime()(x))
    clips = np.random.default_rng(0).uniform(0, 1, (8, 3, 6, 6, 1)).astype("float32")
    check(model, clips, tmp_path)


def test_resources_are_those_counted_by_hand(tmp_path):
    pytest.importorskip("hls4ml", reason="hls4ml is not installed (extra `hls4ml`)")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 6, 6, 2))
    x = snn.FoldTime(layers.Conv2D(3, 3, name="conv"))(inputs)
    x = snn.LIF(tau=3.0, name="lif")(x)  # 2/3 v + 1/3 x, hard reset
    x = snn.FoldTime(layers.MaxPooling2D(name="pool"))(x)
    x = layers.Dense(5, name="hidden")(snn.FoldTime(layers.Flatten())(x))
    x = snn.DecayLIF(decay=0.5, reset="soft", name="soft")(x)  # v / 2 + x, minus the threshold
    x = layers.Dense(3, name="classes")(x)
    model = keras.Model(inputs, snn.MeanOverTime(name="mean")(x))
    kernel = model.get_layer("hidden").kernel
    kernel.assign(np.where(np.arange(60).reshape(12, 5) < 20, 0, kernel))  # 20 of 60 are 0
    precision = "ap_fixed<16,6>"
    rows = resources(convert(model, tmp_path, precision=precision, reuse_factor=4))
    found = {row["kind"] + str(i): row for i, row in enumerate(rows[:-1])}

    def row(kind, *counts):
        place = next(name for name in found if name.startswith(kind))
        assert list(found.pop(place).values())[2:] == list(counts)

    # Multiplications, multipliers, selections, additions, comparisons, bits, states, interval:
    # 3 * 3 * 2 * 3 weights at 4 * 4 places; 48 neurons; of 60 weights a quarter at once.
    row("Conv2D", 54 * 16, 14, 0, 54 * 16, 0, 57 * 16, 0, 64)
    row("SNNMembrane", 96, 96, 0, 48, 48, 0, 48 * 16, 1)
    row("Pooling2D", None, None, None, None, None, None, None, None)
    row("Dense", 40, 15 - 5, 0, 40, 0, 65 * 16, 0, 4)
    row("SNNMembrane", 0, 0, 0, 10, 5, 0, 5 * 16, 1)
    row("Dense", 0, 0, 4, 15, 0, 18 * 16, 0, 4)
    row("SNNReduction", 3, 3, 0, 3, 0, 0, 3 * 16, 1)
    assert all(kind.startswith(("Input", "Reshape")) for kind in found)
    names = ("multipliers", "selections", "additions", "weight_bits", "state_bits", "interval")
    assert [rows[-1][name] for name in names] == [
        *(14 + 96 + 10 + 3, 4, 54 * 16 + 48 + 40 + 10 + 15 + 3),
        *((57 + 65 + 18) * 16, (48 + 5 + 3) * 16, 64),
    ]
