"""Delays: DCLS's formula by hand in float64, whole delays as shifts, training, exports."""

import keras
import numpy as np
import pytest
from helpers import first_everywhere, gradients, to_numpy
from keras import ops

from keras_snn import analysis, callbacks, export, layers

TENSORFLOW = keras.backend.backend() == "tensorflow"


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def spikes(*shape, seed=0):
    return (np.random.default_rng(seed).random(shape) < 0.3).astype("float32")


def built(layer, shape):
    """The layer with other weights than zeros for a bias, and its arrays in float64."""
    layer.build(shape)
    if getattr(layer, "bias", None) is not None:
        layer.bias.assign(draw(*layer.bias.shape, seed=7))
    return {w.name: to_numpy(w.value).astype("float64") for w in layer.weights}


def gaussians(delays, sigma, most):
    """DCLS's kernel of a position `p = L // 2 - d`, by age, and its slope to the delay."""
    length = most + 1
    taps = np.arange(length).reshape(-1, *[1] * delays.ndim)
    position = length // 2 - delays
    z = taps - position - length // 2
    g = np.exp(-0.5 * (z / sigma) ** 2)
    total = g.sum(0) + 1e-7
    slope = g * z / sigma**2  # to the position
    slope = slope / total - g * slope.sum(0) / total**2
    # The tap n of a correlation with `length - 1` zeros in front sees the age length - 1 - n; the
    # kernel of theirs has one tap more than delays where `length` is even.
    ages = length - 1 - np.arange(length)
    assert length % 2
    return (g / total)[np.argsort(ages)], -slope[np.argsort(ages)]


def shifted(x, age):
    return np.concatenate([np.zeros_like(x[:, :age]), x[:, : x.shape[1] - age]], axis=1)


def test_synapses_are_those_of_dcls():
    """Values, and gradients to inputs, weights, delays and bias."""
    layer, x = layers.DelayedDense(4, max_delay=6, sigma=1.3), draw(2, 9, 3)
    weights, upstream = built(layer, x.shape), draw(2, 9, 4, seed=1).astype("float64")
    share, slope = gaussians(weights["delays"], 1.3, 6)
    past = np.stack([shifted(x.astype("float64"), age) for age in range(7)])  # (age, b, t, i)
    wanted = np.einsum("abti,aij,ij->btj", past, share, weights["kernel"]) + weights["bias"]
    np.testing.assert_allclose(to_numpy(layer(x)), wanted, rtol=1e-4, atol=1e-5)
    _, (dx,), found = gradients(
        lambda x: ops.sum(layer(x) * ops.array(upstream, "float32")), layer.trainable_variables, x
    )
    to_past = np.einsum("btj,aij,ij->abti", upstream, share, weights["kernel"])
    back = sum(
        np.concatenate([d[:, age:], np.zeros_like(d[:, :age])], 1) for age, d in enumerate(to_past)
    )
    np.testing.assert_allclose(dx, back, rtol=1e-4, atol=1e-5)
    for gradient, expected in zip(
        found,
        (
            np.einsum("abti,aij,btj->ij", past, share, upstream),
            np.einsum("abti,aij,ij,btj->ij", past, slope, weights["kernel"], upstream),
            upstream.sum((0, 1)),
        ),
        strict=True,
    ):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sharing", first_everywhere("channel", "scalar", "neuron"))
def test_channels(sharing):
    shape = {"channel": (3,), "scalar": (), "neuron": (2, 3)}[sharing]
    layer, x = layers.AxonalDelay(4, sigma=0.8, parameter_shape=sharing), draw(2, 8, 2, 3)
    weights, upstream = built(layer, x.shape), draw(2, 8, 2, 3, seed=1)
    assert layer.delays.shape == shape
    share, slope = gaussians(weights["delays"], 0.8, 4)
    past = np.stack([shifted(x.astype("float64"), age) for age in range(5)])
    each = (5, 1, 1, *[1] * (2 - len(shape)), *shape)
    np.testing.assert_allclose(
        to_numpy(layer(x)), (past * share.reshape(each)).sum(0), rtol=1e-4, atol=1e-5
    )
    _, _, (found,) = gradients(
        lambda x: ops.sum(layer(x) * ops.array(upstream)), layer.trainable_variables, x
    )
    products = (past * slope.reshape(each) * upstream).sum(0)
    axes = tuple(range(4 - len(shape)))
    np.testing.assert_allclose(found, products.sum(axes), rtol=1e-4, atol=1e-5)


def test_whole_delays_are_shifts():
    layer, x = layers.AxonalDelay(5), spikes(2, 9, 6)
    layer.build(x.shape)
    layer.delays.assign([0.2, 0.8, 2.4, 3.0, 4.6, 5.0])
    layers.round_delays(layer)
    wanted = np.stack([shifted(x, d)[..., i] for i, d in enumerate((0, 1, 2, 3, 5, 5))], -1)
    np.testing.assert_array_equal(to_numpy(layer(x)), wanted)
    mask = np.arange(9)[None].repeat(2, 0) != 2
    masked = to_numpy(layer(x, mask=ops.array(mask)))
    layer.delays.assign(ops.zeros(6))
    np.testing.assert_array_equal(to_numpy(layer(x)), x)
    at_zero = np.where(mask[..., None], x, 0)
    wanted = [shifted(at_zero, d)[..., i] for i, d in enumerate((0, 1, 2, 3, 5, 5))]
    np.testing.assert_array_equal(masked, np.stack(wanted, -1))


CONVOLUTIONS = {
    "1D": (lambda **k: layers.DelayedConv1D(4, 3, 2, strides=2, padding="same", **k), (7,)),
    "2D": (lambda **k: layers.DelayedConv2D(4, (3, 2), 2, **k), (5, 4)),
    "2D same": (
        lambda **k: layers.DelayedConv2D(4, 3, 2, strides=(2, 1), padding="same", **k),
        (5, 4),
    ),
}


@pytest.mark.parametrize("name", first_everywhere("2D same", "1D", "2D"))
def test_whole_convolutions_are_sums_of_keras_convolutions(name):
    """Of each delay the kernel of the synapses that have it, on what was that long ago."""
    make, sizes = CONVOLUTIONS[name]
    layer, x = make(), draw(2, 5, *sizes, 3)
    weights = built(layer, x.shape)
    layers.round_delays(layer)
    kind = keras.layers.Conv1D if len(sizes) == 1 else keras.layers.Conv2D
    plain = kind(4, layer.kernel_size, layer.strides, layer.padding, use_bias=False)
    plain.build((None, *sizes, 3))
    wanted = weights["bias"]
    for delay in range(3):
        plain.kernel.assign(np.where(np.round(weights["delays"]) == delay, weights["kernel"], 0))
        wanted = wanted + to_numpy(layers.FoldTime(plain)(shifted(x, delay)))
    np.testing.assert_allclose(to_numpy(layer(x)), wanted, rtol=1e-4, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == wanted.shape


def network(steps=12):
    """Delays of synapses and channels between neurons."""
    spread = keras.initializers.RandomNormal(0.5, 0.8, seed=1)
    return keras.Sequential(
        [
            keras.Input((steps, 5)),
            layers.DelayedDense(6, 4, kernel_initializer=spread, name="synapses"),
            layers.LIF(tau=1.5, threshold=0.5, name="lif"),
            layers.AxonalDelay(3, name="axons"),
            keras.layers.Dense(3, kernel_initializer=spread),
            layers.LIF(tau=1.5, threshold=0.5, name="last"),
            layers.SumOverTime(),
        ]
    )


def test_delays_learn_with_a_rate_and_a_width_of_their_own(tmp_path):
    model, x = network(), spikes(8, 12, 5)
    before = [to_numpy(w.value) for w in model.get_layer("synapses").trainable_variables]
    rates = keras.optimizers.OptimizerMap(
        keras.optimizers.Adam(1e-3), {".*/delays": keras.optimizers.Adam(0.1)}
    )
    model.compile(keras.optimizers.MultiOptimizer(rates), "mse")
    width = callbacks.Schedule("sigma", [2.0, 0.5])
    history = model.fit(x, draw(8, 3), 8, epochs=1, verbose=0, callbacks=[width])
    after = [to_numpy(w.value) for w in model.get_layer("synapses").trainable_variables]
    moved = [np.abs(a - b).max() for a, b in zip(before, after)]
    np.testing.assert_allclose(moved[:2], [1e-3, 0.1], rtol=0.02)  # Adam's first step
    assert history.history["sigma"] == [2.0]
    model.fit(x, draw(8, 3), 8, epochs=2, initial_epoch=1, verbose=0, callbacks=[width])
    assert to_numpy(model.get_layer("axons").sigma) == 0.5
    delays = to_numpy(model.get_layer("synapses").delays.value)
    assert delays.min() >= 0 and delays.max() <= 4
    layers.round_delays(model)
    wanted = model.predict(x, verbose=0)
    assert np.any(wanted)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), wanted)
    assert loaded.get_layer("synapses").whole and loaded.get_layer("axons").whole


def test_constraint_keeps_delays_in_range():
    layer = layers.DelayedDense(2, 3)
    layer.build((None, 4, 2))
    keras.optimizers.SGD(100.0).apply([ops.array([[1.0, -1], [1, -1]])], [layer.delays])
    np.testing.assert_array_equal(to_numpy(layer.delays.value), [[0, 3], [0, 3]])


@pytest.mark.once
@pytest.mark.parametrize("whole", [False, True])
def test_pieces_equal_the_whole(whole):
    model, x = network(), spikes(2, 12, 5)
    if whole:
        layers.round_delays(model)
    *_, (found, _) = analysis.Rollout(model, chunk=5).run(x)
    np.testing.assert_array_equal(found[0][:, -1], model.predict(x, verbose=0))


def test_half_precision_keeps_places():
    layer = layers.DelayedDense(3, 20, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(ops.ones((1, 4, 2))).dtype) == "bfloat16"
    assert {w.name: w.dtype for w in layer.weights} == dict.fromkeys(
        ("kernel", "delays", "sigma", "bias"), "float32"
    )
    np.testing.assert_allclose(to_numpy(layer.shares()).sum(0), 1, rtol=1e-5)


@pytest.mark.once
def test_configurations():
    for layer in (
        layers.DelayedDense(3, 4, 1.5, use_bias=False),
        layers.AxonalDelay(2, parameter_shape="scalar"),
        layers.DelayedConv2D(3, (3, 2), 4, strides=2, padding="same"),
        layers.DelayedConv1D(3, 2, 1, delay_initializer=keras.initializers.Constant(1)),
    ):
        assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.once
def test_operations_are_counted():
    """Before rounding one for each tap, then one for each synapse that is reached in time."""
    x = np.zeros((1, 6, 2), "float32")
    x[0, 1], x[0, 4] = 1, 1
    model = keras.Sequential([keras.Input((6, 2)), layers.DelayedDense(3, 3, use_bias=False)])
    model.layers[0].delays.assign([[0, 1, 3], [0, 2, 2]])
    assert analysis.profile(model, x).synops == 4 * 2 * 2 * 3
    # At step 4 two steps are left: the ages 0 and 1.
    assert analysis.profile(model, x, exact=True).synops == 2 * 3 * (4 + 2)
    layers.round_delays(model)
    assert analysis.profile(model, x).synops == 2 * 2 * 3
    assert analysis.profile(model, x, exact=True).synops == 2 * 3 + 3
    assert analysis.profile(model, np.full_like(x, 0.5)).macs == 6 * 2 * 3
    maps = keras.Sequential([keras.Input((4, 5, 5, 2)), layers.DelayedConv2D(3, 3, 2)])
    assert analysis.profile(maps, draw(1, 4, 5, 5, 2)).macs == 4 * 3 * 9 * 9 * 2 * 3
    shift = keras.Sequential([keras.Input((6, 2)), layers.AxonalDelay(3), layers.IF()])
    assert analysis.profile(shift, x).synops == 4 * 4
    layers.round_delays(shift)
    found = analysis.profile(shift, x)
    assert found.synops == found.macs == 0


@pytest.mark.once
def test_nir_has_whole_delays(tmp_path):
    nir = pytest.importorskip("nir")
    model = keras.Sequential(
        [
            keras.Input((None, 5)),
            layers.DelayedDense(6, 4, kernel_initializer=keras.initializers.RandomNormal(0.5, 0.8)),
            layers.LIF(),
            layers.AxonalDelay(3),
            layers.LIF(tau=1.5, threshold=0.4),
        ]
    )
    with pytest.raises(TypeError, match="round_delays"):
        export.to_nir(model)
    layers.round_delays(model)
    written = export.to_nir(model, tmp_path / "net.nir", dt=1e-3)
    whole = [node.delay for node in written.nodes.values() if isinstance(node, nir.Delay)]
    np.testing.assert_allclose(whole[-1], 1e-3 * np.round(to_numpy(model.layers[2].delays.value)))
    again, x = export.from_nir(tmp_path / "net.nir"), spikes(2, 15, 5)
    wanted = to_numpy(model(x))
    assert 0.05 < wanted.mean() < 0.95
    np.testing.assert_array_equal(to_numpy(again(x)), wanted)
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "wait": nir.Delay(np.array([0.0, 0.25e-3])),
        "output": nir.Output({"output": np.array([2])}),
    }
    edges = [("input", "wait"), ("wait", "output")]
    with pytest.raises(ValueError, match="no whole steps"):
        export.from_nir(nir.NIRGraph(nodes, edges), dt=1e-4)
    again = export.from_nir(nir.NIRGraph(nodes, edges), dt=0.25e-3)
    y = to_numpy(again(np.arange(6, dtype="float32").reshape(1, 3, 2)))
    np.testing.assert_array_equal(y[0], [[0, 0], [2, 1], [4, 3]])


@pytest.mark.once
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.DelayedDense(0, 3), "units"),
        (lambda: layers.DelayedDense(2, 0), "max_delay"),
        (lambda: layers.DelayedDense(2, 3, sigma=-1), "sigma"),
        (lambda: layers.DelayedConv2D(2, (3, 3, 3), 3), "kernel_size"),
        (lambda: layers.DelayedConv1D(2, 3, 3, padding="causal"), "causal"),
        (lambda: layers.AxonalDelay(3, parameter_shape="synapse"), "synapse"),
        (lambda: layers.DelayedDense(2, 3)(np.ones((2, 3))), "rank 3"),
        (lambda: layers.DelayedDense(2, 3)(np.ones((2, 3, 4, 5))), "batch, time, features"),
        (lambda: layers.DelayedConv2D(2, 3, 3)(np.ones((2, 3, 4, 5))), "height"),
        (lambda: layers.round_delays(keras.layers.Dense(2)), "has delays"),
        (lambda: layers.round_delays(layers.AxonalDelay(2)), "build"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


needs_export = pytest.mark.skipif(not TENSORFLOW, reason="the work is TensorFlow's")


@needs_export
@pytest.mark.parametrize("name, whole", [("1D", True), ("2D", False), ("2D same", True)])
def test_lowered_maps(name, whole):
    from test_lowering import STEPS, played

    make, sizes = CONVOLUTIONS[name]
    inputs = keras.Input((STEPS, *sizes, 3))
    y = layers.AxonalDelay(2, parameter_shape="neuron", name="axons")(make(name="maps")(inputs))
    model = keras.Model(inputs, y)
    if whole:
        layers.round_delays(model)
    for mode in ("step", "sequence"):
        (found,), (wanted,), states = played(model, mode)
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=1e-5)
    (_, _, states) = played(model, "step")
    assert states == ["maps/history", "axons/history"]


@needs_export
@pytest.mark.parametrize("whole", [False, True])
def test_exported_spikes_are_equal(whole, tmp_path):
    """Files of a step and of clips, and C; every layer's spikes."""
    pytest.importorskip("ai_edge_litert", reason="needs the extra `export`")
    model, x = network(), spikes(8, 12, 5)
    if whole:
        layers.round_delays(model)
    wanted = model.predict(x, verbose=0)
    assert len(np.unique(wanted)) > 2
    reports = [export.to_tflite(model, tmp_path / "step.tflite", "step", verify_data=x)]
    if whole:
        reports.append(export.to_tflite(model, tmp_path / "clip.tflite", verify_data=x))
        reports.append(export.to_c(model, tmp_path / "net.c", verify_data=x))
    for report in reports:
        kinds = ("agreement", "agreement, built-in")
        assert {layer[kind] for layer in report.layers for kind in kinds} == {1.0}, report
    stream = export.StreamingInterpreter(tmp_path / "step.tflite")
    found = [next(iter(stream.run(clip).values()))[0] for clip in x]
    np.testing.assert_array_equal(found, wanted)
    assert ("GATHER" in reports[0].operations) == whole
