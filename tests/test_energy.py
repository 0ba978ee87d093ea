"""Energy: memory accesses, neurons, break-even rates, files, NeuroBench, random graphs."""

import keras
import numpy as np
import pytest
import random_graphs
from keras import layers

from keras_snn import analysis, export
from keras_snn import layers as snn

TORCH = keras.backend.backend() == "torch"


def spikes(*shape, rate=0.3, seed=0):
    return (np.random.default_rng(seed).random(shape) < rate).astype("float32")


@pytest.mark.skipif(not TORCH, reason="PyTorch shows what it multiplies")
@pytest.mark.parametrize("seed", [7, 18, 19, 27, 34, 38, 45, 47, 56, 97])
def test_counts_of_random_graphs_equal_brute_force(seed):
    wrong, compared = random_graphs.differences(seed)
    assert not wrong
    assert compared > 0


def dense_lif(x, units=300, tau=2.0):
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, snn.LIF(tau=tau, threshold=0.1)(layers.Dense(units)(inputs)))
    kernel = np.random.default_rng(1).normal(size=(x.shape[-1], units))
    model.set_weights([kernel, np.zeros(units)])
    return model


def by_points(size, points=((0, 0), (2**13, 10), (2**15, 20), (2**20, 100))):
    return np.interp(size, *zip(*points))


@pytest.mark.parametrize(("energy", "word"), [("45nm-int32", 4), ("45nm-int8", 1)])
def test_memory_accesses_by_hand(energy, word):
    x = spikes(2, 5, 7)
    model = dense_lif(x)
    found = analysis.profile(model, x, energy=energy, memory="sram-45nm")
    figures = analysis.ENERGY[energy]
    s, out = x.sum() / 2, float(np.sum(model.predict(x, verbose=0))) / 2
    assert out > 100
    synops, steps, weights = s * 300, 5, 7 * 300 + 300
    words = {weights: synops + steps * 300, 300: 2 * synops + 2 * steps * 300, 1000: s + out}
    operations = figures["mac"] * steps * 300 + figures["ac"] * (synops + steps * 300 + out)
    addresses = figures["ac"] * synops
    accesses = sum(n * word / 4 * by_points(size * word) for size, n in words.items())
    assert found.energy == pytest.approx(operations / 1000)
    assert found.total_energy == pytest.approx((operations + addresses + accesses) / 1000)
    macs = steps * 7 * 300
    operations = figures["mac"] * macs + figures["ac"] * steps * 300
    addresses = figures["ac"] * steps * (7 + 300)
    words = {weights: macs + steps * 300, 7: steps * 7, 300: steps * 300}
    accesses = sum(n * word / 4 * by_points(size * word) for size, n in words.items())
    assert found.ann_energy == pytest.approx(operations / 1000)
    assert found.ann_total_energy == pytest.approx((operations + addresses + accesses) / 1000)


@pytest.mark.once
def test_figures_that_have_their_memory_in_them():
    x = spikes(2, 5, 7)
    found = analysis.profile(dense_lif(x, 4), x, energy="loihi")
    assert found.total_energy == found.energy > 0
    dram = analysis.profile(dense_lif(x, 4), x, memory="dram-45nm")
    accesses = sum(n for row in dram.layers for _, n, _ in (row.fixed + row.driven).accesses)
    addresses = sum(row.driven.address_acs for row in dram.layers) * 0.9
    assert dram.total_energy == pytest.approx(dram.energy + (accesses * 640 + addresses) / 1000)


@pytest.mark.once
def test_energy_equals_spikingjellys():
    torch = pytest.importorskip("torch", exc_type=ImportError)
    base = "spikingjelly.activation_based"
    counter = pytest.importorskip(f"{base}.op_counter", exc_type=ImportError)
    peers = pytest.importorskip(f"{base}.layer", exc_type=ImportError)
    neuron = pytest.importorskip(f"{base}.neuron", exc_type=ImportError)
    x = spikes(1, 4, 7)
    model = dense_lif(x)
    kernel, bias = model.get_weights()
    net = torch.nn.Sequential(
        peers.Linear(7, 300, step_mode="m"),
        neuron.LIFNode(tau=2.0, v_threshold=0.1, step_mode="m"),
    )
    net[0].load_state_dict({"weight": torch.tensor(kernel.T), "bias": torch.tensor(bias)})
    theirs = counter.estimate_lemaire_energy(net, torch.tensor(x.swapaxes(0, 1)))
    assert theirs.counts["synop"] > 1000
    found = analysis.profile(model, x, energy="45nm-int32", memory="sram-45nm")
    assert found.total_energy * 1000 == pytest.approx(theirs.total_pj, rel=1e-6)
    assert found.energy * 1000 == pytest.approx(theirs.breakdown_pj["ops_pj"], rel=1e-6)
    ann = torch.nn.Conv2d(2, 4, 3, bias=True)
    theirs = counter.estimate_lemaire_energy(ann, torch.randn(1, 2, 6, 6))
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(4, 3)])
    found = analysis.profile(model, np.ones((1, 6, 6, 2)) / 3, energy="45nm-int32")
    assert found.total_energy * 1000 == pytest.approx(theirs.total_pj, rel=1e-6)
    assert found.ann_total_energy == found.total_energy


def test_break_even_rate_is_where_both_cost_the_same():
    def at(rate):
        x = np.zeros((1, 10, 8), "float32")
        x.reshape(-1)[: round(rate * 80)] = 1
        found = analysis.profile(model, x)
        return found, found.layers[0]

    model = dense_lif(np.zeros((1, 10, 8)), units=4000)
    found, layer = at(0.5)
    rate = found.break_even(layer, memory=True)
    assert 0.1 < rate < 0.9
    less, more = (at(round_up(80 * rate) / 80) for round_up in (np.floor, np.ceil))
    costs = [p.layer_energy(x, memory=True) for p, x in (less, more)]
    assert costs[0] < found.layer_energy(layer, "ann", memory=True) < costs[1]
    # without: a multiplication and an addition against an addition, whatever the size
    assert found.break_even(layer) == pytest.approx(4.6 / 0.9)
    assert found.break_even(layer, figures="45nm-int8") == pytest.approx(0.23 / 0.03)
    silent, layer = at(0)
    assert silent.break_even(layer) is None


def test_break_even_rate_of_a_network():
    x = spikes(2, 6, 8)
    inputs = keras.Input((6, 8))
    y = snn.IF(name="a")(inputs)
    y = snn.IF(threshold=0.5, name="b")(layers.Dense(8, use_bias=False)(y))
    model = keras.Model(inputs, y)
    found = analysis.profile(model, x)
    driven = sum(found.layer_energy(layer, "driven") for layer in found.layers)
    expected = found.rate * 6 * 8 * 8 * 4.6e-3 / driven  # IF costs nothing but for its resets
    assert found.break_even() == pytest.approx(expected)
    assert found.break_even(memory=True) < expected
    assert "with memory accesses, spikes need less" in str(found).lower()


def normalized(follows, **arguments):
    inputs = keras.Input((3, 4))
    y = snn.IF(name="spikes")(inputs)
    y = layers.Dense(5, use_bias=False, **arguments)(y) if follows else y
    return keras.Model(inputs, layers.BatchNormalization(name="norm")(y))


def test_normalization_is_charged_unless_it_folds():
    x = spikes(2, 3, 4)

    def charged(model):
        return [x.fixed.macs for x in analysis.profile(model, x).layers if x.name == "norm"]

    assert charged(normalized(True)) == []
    assert charged(normalized(False)) == [3 * 4]
    assert charged(normalized(True, activation="relu")) == [3 * 5]
    inputs = keras.Input((3, 4))
    y = layers.Dense(5, use_bias=False)(inputs)
    shared = keras.Model(inputs, [layers.BatchNormalization(name="norm")(y), layers.ReLU()(y)])
    assert charged(shared) == [3 * 5]


@pytest.mark.parametrize(
    ("layer", "states", "decays"),
    [
        (lambda: snn.IF(), 1, 0),
        (lambda: snn.LIF(), 1, 1),
        (lambda: snn.AdaptiveLIF(), 2, 2),
        (lambda: snn.LeakyIntegrator(), 1, 1),
        (lambda: snn.MembraneReadout("mean"), 1, 0),
        (lambda: snn.MembraneReadout("mean", tau=2.0), 1, 1),
    ],
)
def test_updates_of_neurons(layer, states, decays):
    inputs = keras.Input((3, 4))
    x = layers.Masking(-1.0)(inputs)
    model = keras.Model(inputs, layer()(x))
    data = spikes(2, 3, 4)
    data[:, 2] = -1
    row = analysis.profile(model, data).layers[0]
    assert row.steps == 2
    assert row.fixed.macs == 2 * 4 * decays
    assert row.fixed.accesses == (("potentials", 2 * 2 * 4 * states, 4 * states),)


@pytest.mark.parametrize(
    ("arguments", "match"), [({"memory": "sram"}, "memory"), ({"energy": "coal"}, "energy")]
)
def test_figures_that_are_unknown(arguments, match):
    x = spikes(2, 3, 4)
    with pytest.raises(ValueError, match=match):
        analysis.profile(dense_lif(x, 2), x, **arguments)


# NeuroBench.
def twins():
    """The same spiking network for snnTorch and for Keras, with weights that are 0."""
    torch = pytest.importorskip("torch", exc_type=ImportError)
    peer = pytest.importorskip("snntorch", exc_type=ImportError)
    torch.manual_seed(0)

    def leaky(**arguments):
        return peer.Leaky(
            beta=0.5, init_hidden=True, reset_mechanism="zero", reset_delay=False, **arguments
        )

    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1),
        leaky(),
        torch.nn.Conv2d(4, 6, 3, stride=2, groups=2),
        leaky(),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 5),
        leaky(output=True),
    )
    with torch.no_grad():
        for weight in net.parameters():
            weight *= 3
            weight[weight.abs() < 0.1] = 0
    inputs = keras.Input((3, 6, 6, 2))
    first = snn.FoldTime(layers.Conv2D(4, 3, padding="same"))
    second = snn.FoldTime(layers.Conv2D(6, 3, strides=2, groups=2))
    head = layers.Dense(5)
    y = snn.DecayLIF(decay=0.5, threshold=1.0)(first(inputs))
    y = snn.DecayLIF(decay=0.5, threshold=1.0)(second(y))
    y = snn.FoldTime(layers.Flatten())(snn.FoldTime(layers.Permute((3, 1, 2)))(y))
    model = keras.Model(inputs, snn.DecayLIF(decay=0.5, threshold=1.0)(head(y)))
    for layer, module in ((first, net[0]), (second, net[2]), (head, net[5])):
        weight, bias = (w.detach().numpy() for w in (module.weight, module.bias))
        axes = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
        layer.set_weights([weight.transpose(axes), bias])
    return net, model


def test_neurobench_equals_its_harness():
    net, model = twins()
    benchmarks = pytest.importorskip("neurobench.benchmarks", exc_type=ImportError)
    import torch
    from neurobench.metrics import static, workload
    from neurobench.models import SNNTorchModel
    from torch.utils.data import DataLoader, TensorDataset

    x = spikes(10, 3, 6, 6, 2, rate=0.4)
    x[1, 2] = 2.5
    data = TensorDataset(torch.tensor(x.transpose(0, 1, 4, 2, 3)), torch.zeros(10))
    metrics = [
        [static.Footprint, static.ParameterCount, static.ConnectionSparsity],
        [workload.ActivationSparsity, workload.SynapticOperations, workload.MembraneUpdates],
    ]
    harness = benchmarks.Benchmark(
        SNNTorchModel(net), DataLoader(data, batch_size=4), [], [], metrics
    )
    buffers = sum(b.numel() * b.element_size() for b in net.buffers())
    theirs = harness.run(quiet=True)
    theirs["Footprint"] -= buffers  # snnTorch's neurons keep their constants there
    ours = analysis.neurobench(model, x, batch_size=4)
    assert ours.keys() == theirs.keys()
    assert ours["SynapticOperations"] == theirs["SynapticOperations"]
    assert ours["SynapticOperations"]["Effective_MACs"] > 0
    for name in theirs.keys() - {"SynapticOperations"}:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-9), name


def test_neurobench_by_hand():
    inputs = keras.Input((2, 3))
    y = layers.Dense(2, "relu", use_bias=False, name="dense")(inputs)
    y = layers.BatchNormalization()(y)
    with pytest.warns(UserWarning, match="lstm"):
        model = keras.Model(inputs, layers.LSTM(2, name="lstm")(y))
        model.get_layer("dense").set_weights([np.array([[1, 0], [0, 1], [-1, 0]], "float32")])
        x = np.array([[[1, 0, 2], [0, 1, 0]]], "float32")
        found = analysis.neurobench(model, x)
    assert found["ConnectionSparsity"] == 0.5
    assert found["SynapticOperations"] == {"Effective_MACs": 2, "Effective_ACs": 1, "Dense": 12}
    assert found["ActivationSparsity"] == 0.75  # 1 - 2 and 0; 0 and 1
    assert found["ParameterCount"] == 6 + 4 + 4 * 2 * (2 + 2 + 1)
    assert found["Footprint"] == 4 * (found["ParameterCount"] + 4)
    assert found["MembraneUpdates"] == 0


def test_neurobench_of_shared_layers_and_open_lengths():
    inputs = keras.Input((None, 3))
    shared = layers.Dense(3, use_bias=False, kernel_initializer="identity")
    model = keras.Model(inputs, shared(snn.IF()(shared(inputs))))
    batches = [spikes(2, steps, 3, seed=steps) for steps in (4, 7)]
    found = analysis.neurobench(model, batches)
    events = sum(x.sum() for x in batches)
    assert found["SynapticOperations"] == {
        "Dense": 2 * 9 * (4 + 7) / 2,
        "Effective_ACs": 2 * events / 4,  # a spike goes through each time
        "Effective_MACs": 0,
    }
    assert found["ParameterCount"] == 9
    assert found["ConnectionSparsity"] == 0.6667
    with pytest.raises(ValueError, match="no data"):
        analysis.neurobench(model, [])


# Files.
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow writes files")
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_profile_of_a_file(quantize, tmp_path):
    inputs = keras.Input((4, 6, 6, 2))
    y = snn.FoldTime(layers.Conv2D(4, 3, padding="same"))(inputs)
    y = snn.FoldTime(layers.Flatten())(snn.LIF(threshold=0.2)(y))
    model = keras.Model(inputs, snn.MeanOverTime()(snn.IF(threshold=0.2)(layers.Dense(5)(y))))
    data = np.random.default_rng(0).random((16, 4, 6, 6, 2)).astype("float32")
    path = tmp_path / "model.tflite"
    export.to_tflite(model, path, "step", quantize, representative_data=data)
    found = analysis.profile_file(path, timesteps=4)
    rows = {x.kind: x for x in found.layers}
    assert rows["CONV_2D"].macs_spent == 4 * 36 * 4 * 9 * 2
    assert rows["FULLY_CONNECTED"].macs_spent == 4 * 144 * 5
    figures = analysis.ENERGY["45nm-int8" if quantize else "45nm-float32"]
    conv = rows["CONV_2D"]
    wanted = conv.macs_spent * figures["mac"] + 4 * 144 * figures["ac"]
    assert found.layer_energy(conv) == pytest.approx(wanted / 1000)
    assert rows["MUL"].fixed.macs >= 4 * 144  # the leak
    assert found.synops == 0  # no spike saves anything there
    assert not found.uncharged
    assert "CONV_2D" in str(found)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        analysis.profile_file(path)


@pytest.mark.once
def test_plot_of_energy():
    pytest.importorskip("matplotlib").use("agg")
    x = spikes(2, 3, 4)
    found = analysis.profile(dense_lif(x, 2), x)
    totals, layers = analysis.plot_energy(found)
    assert [text.get_text() for text in totals.get_yticklabels()] == ["spiking", "as an ANN"]
    assert [text.get_text() for text in layers.get_yticklabels()] == [x.name for x in found.layers]
    for ax, memory, energies in (
        (totals, True, [found.total_energy, found.ann_total_energy]),
        (totals, False, [found.energy, found.ann_energy]),
        (layers, True, [found.layer_energy(x, memory=True) for x in found.layers]),
        (layers, False, [found.layer_energy(x) for x in found.layers]),
    ):
        widths = [bar.get_width() for bar in ax.containers[not memory]]
        np.testing.assert_allclose(widths, 1e-9 * np.array(energies))
    shares = [float(text.get_text()[:-1]) for text in layers.texts]
    wanted = [found.layer_energy(x, memory=True) / found.total_energy for x in found.layers]
    np.testing.assert_allclose(shares, np.round(100 * np.array(wanted)))


@pytest.mark.once
@pytest.mark.parametrize(
    ("neuron", "each"),
    [
        (snn.ILIF(3), lambda s: s),
        (snn.ILIF(3, normalize=True), lambda s: 3 * s),
        (snn.TernaryIF(), np.abs),
    ],
)
def test_integer_and_ternary_spikes(neuron, each):
    """By hand: as many accumulates as the expansion has spikes, or as there are of either sign."""
    x = np.random.default_rng(0).normal(0.5, 1.5, (4, 2, 3, 5)).astype("float32")
    x[..., 0] = 9  # fires as often as it can
    inputs = keras.Input(x.shape[1:])
    spikes = neuron(inputs)
    outputs = layers.Dense(7, name="dense")(snn.FoldTime(layers.Flatten())(spikes))
    profile = analysis.profile(keras.Model(inputs, outputs), x)
    found = {layer.name: layer for layer in profile.layers}
    fired = np.asarray(keras.Model(inputs, spikes).predict(x, verbose=0), "float64")
    count = each(fired).sum() / 4
    np.testing.assert_allclose(found["dense"].synops, 7 * count, rtol=1e-6)
    assert found["dense"].macs_spent == 0
    rate = count / (2 * 15)
    np.testing.assert_allclose(found[neuron.name].rate, rate, rtol=1e-6)
    highest = getattr(neuron.cell, "max_spikes", 1)
    full = (each(fired).sum((0, 1)) == highest * fired.shape[0] * fired.shape[1]).mean()
    assert found[neuron.name].saturated == pytest.approx(full) and full > 0
    rates = analysis.firing_rates(keras.Model(inputs, outputs), x)
    np.testing.assert_allclose(rates[neuron.name], rate, rtol=1e-6)
