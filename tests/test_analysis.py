"""Profiles, recordings, pictures and callbacks: counts by hand, by peers, and by definition."""

import itertools
import json

import keras
import matplotlib.colors
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers, ops

from keras_snn import analysis, applications, callbacks, graph
from keras_snn import layers as snn
from keras_snn.analysis import plots


def spikes_of(shape, rate=0.3, seed=0):
    return (np.random.default_rng(seed).random(shape) < rate).astype("float32")


def by_name(profile):
    return {layer.name: layer for layer in profile.layers}


def test_two_layers_by_hand():
    """3 inputs, 4 hidden neurons, 2 outputs; T = 2."""
    inputs = layers.Input((2, 3))
    hidden = layers.Dense(4, use_bias=False, name="first")
    x = snn.IF(name="neuron")(snn.FoldTime(hidden, name="fold")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="second")(x))
    kernel = np.zeros((3, 4), "float32")
    kernel[0, 0] = kernel[1, 1] = 1.0  # neurons 0 and 1 repeat inputs 0 and 1; 2, 3 are silent
    hidden.set_weights([kernel])
    data = np.array([[[1, 1, 0], [1, 0, 0]]], "float32")
    found = analysis.profile(model, data)
    first, neuron, second = found.layers
    assert (first.name, first.macs, first.steps, first.parameters) == ("fold", 12, 2, 12)
    assert first.synops == 3 * 4 and first.macs_spent == 0
    assert first.input_rate == pytest.approx(3 / 6)
    assert neuron.rate == pytest.approx(3 / 8)
    assert neuron.silent == 0.5 and neuron.saturated == 0.25
    assert neuron.membrane[2:] == (0.0, 0.0)
    assert second.macs == 8 and second.synops == 3 * 2
    assert found.synops == 18 and found.macs == 0 and found.ann_macs == 2 * (12 + 8)
    # 3 spikes reset a neuron, and the second layer adds a bias to 2 outputs at 2 steps
    assert found.energy == pytest.approx((18 + 3 + 4) * 0.9e-3)
    assert found.ann_energy == pytest.approx(40 * 4.6e-3 + 4 * 0.9e-3)
    assert analysis.profile(model, data, energy="45nm-int8").energy == pytest.approx(25 * 0.03e-3)


def test_images_are_computed_once_and_currents_are_macs():
    inputs = layers.Input((6, 6, 1))
    x = layers.Conv2D(2, 3, name="stem", kernel_initializer="ones")(inputs)
    x = snn.LIF(name="neuron")(snn.RepeatTime(5)(x))
    x = snn.FoldTime(layers.Conv2D(3, 3, name="conv"), name="fold")(x)
    x = snn.FoldTime(layers.GlobalAveragePooling2D())(x)
    model = keras.Model(inputs, snn.MeanOverTime()(layers.Dense(4, name="head")(x)))
    found = by_name(analysis.profile(model, np.ones((2, 6, 6, 1), "float32")))
    assert found["stem"].macs == found["stem"].macs_spent == 16 * 9 * 2 and found["stem"].steps == 1
    assert found["fold"].macs == 4 * 9 * 2 * 3 and found["fold"].macs_spent == 0
    assert found["fold"].steps == 5
    assert found["head"].macs_spent == 5 * 3 * 4 and found["head"].synops == 0
    whole = analysis.profile(model, np.ones((2, 6, 6, 1), "float32"))
    assert whole.ann_macs == 16 * 9 * 2 + 4 * 9 * 2 * 3 + 12


@pytest.mark.parametrize("padding", ["valid", "same", "symmetric"])
@pytest.mark.parametrize("strides, dilation, groups", [(1, 1, 1), (2, 1, 2), (1, 2, 1)])
def test_exact_counts_at_borders(padding, strides, dilation, groups):
    layer = snn.PaddedConv2D(
        4, 3, strides, padding, dilation_rate=dilation, groups=groups, use_bias=False
    )
    inputs = layers.Input((3, 7, 8, 2))
    model = keras.Model(inputs, snn.FoldTime(layer)(inputs))
    data = spikes_of((2, 3, 7, 8, 2))
    layer.set_weights([np.ones_like(layer.get_weights()[0])])
    reached = float(np.sum(model.predict(data, verbose=0))) / 2
    assert analysis.profile(model, data, exact=True).synops == pytest.approx(reached)
    rough = analysis.profile(model, data).synops
    assert rough == pytest.approx(data.mean() * 3 * analysis.profile(model, data).layers[0].macs)


def test_integers_count_with_their_value():
    model = keras.Sequential([layers.Input((2, 3)), layers.Dense(5)])
    found = analysis.profile(model, np.array([[[2, 0, 1], [0, 0, 3]]], "float32"))
    assert found.synops == 6 * 5 and found.macs == 0


def test_masked_steps_count_nowhere():
    inputs = layers.Input((4, 2))
    x = layers.Masking(mask_value=-1.0)(inputs)
    x = snn.IF(name="neuron")(x)
    model = keras.Model(inputs, snn.FoldTime(layers.Dense(3), name="fold")(x))
    data = np.ones((2, 4, 2), "float32")
    data[0, 2:] = -1.0
    found = by_name(analysis.profile(model, data))
    assert found["neuron"].rate == 1.0 and found["neuron"].saturated == 1.0
    assert found["neuron"].steps == 3 and found["fold"].steps == 3
    assert found["fold"].synops == 3 * 2 * 3


@pytest.mark.once
def test_streams_over_batches():
    model = applications.SEWResNet8(input_shape=(16, 16, 1), classes=3, timesteps=3)
    data = np.random.default_rng(0).random((12, 16, 16, 1)).astype("float32")
    whole = analysis.profile(model, data, batch_size=12)
    parts = analysis.profile(model, [(data[i : i + 4], None) for i in range(0, 12, 4)])
    for a, b in zip(whole.layers, parts.layers, strict=True):
        assert a.synops == pytest.approx(b.synops, rel=1e-6) and a.silent == b.silent
        if a.membrane:
            once = analysis.record(model, data[:4], a.name, "membrane")[a.name]["membrane"]
            wanted = (once.mean(), once.std(), once.min(), once.max())
            np.testing.assert_allclose(a.membrane, wanted, rtol=1e-3, atol=1e-4)
    assert analysis.profile(model, data, steps=1, batch_size=4).examples == 4
    rates = analysis.firing_rates(model, data)
    assert {x.name: x.rate for x in whole.layers if x.rate is not None} == pytest.approx(rates)
    assert sum(x.parameters for x in whole.layers) < model.count_params()


def test_forms_of_the_table(tmp_path):
    model = keras.Sequential([layers.Input((2, 3)), snn.LIF(), layers.Dense(5)], name="small")
    found = analysis.profile(model, np.ones((1, 2, 3), "float32"))
    text = str(found)
    assert "Profile of small" in text and "dense" in text and "45nm-float32" in text
    found.to_json(tmp_path / "profile.json")
    read = json.loads((tmp_path / "profile.json").read_text())
    assert read["synops"] == found.synops and len(read["layers"]) == 2
    pandas = pytest.importorskip("pandas")
    assert isinstance(found.to_frame(), pandas.DataFrame) and len(found.to_frame()) == 2


def test_nested_and_refused_models():
    body = keras.Sequential([snn.LIF(name="inner")], name="body")
    model = keras.Sequential([layers.Input((2, 3)), body, layers.Dense(5)])
    assert by_name(analysis.profile(model, np.ones((1, 2, 3)))).keys() >= {"body/inner"}

    class Mine(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="keras.Model"):
        analysis.profile(Mine(), np.ones((1, 2, 3)))
    inputs = layers.Input((2, 3))
    with pytest.raises(TypeError, match="subclassed"):
        analysis.profile(keras.Model(inputs, Mine(name="mine")(inputs)), np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="energy"):
        analysis.profile(model, np.ones((1, 2, 3)), energy="free")
    with pytest.raises(ValueError, match="no data"):
        analysis.profile(model, np.ones((0, 2, 3)))
    with pytest.raises(ValueError, match="no weighted"):
        analysis.profile(keras.Sequential([layers.Input((3,)), layers.ReLU()]), np.ones((1, 3)))


# A peer.
def op_counter():
    torch = pytest.importorskip("torch", exc_type=ImportError)
    base = "spikingjelly.activation_based"
    counter = pytest.importorskip(f"{base}.op_counter", exc_type=ImportError)
    return torch, counter


def count(torch, counter, net, x):
    """SynOps and MACs of the peer's weighted layers (normalisation left out)."""
    ignored = [torch.nn.BatchNorm2d]
    mac = counter.MACCounter(extra_ignore_modules=ignored)
    synop = counter.SynOpCounter(extra_ignore_modules=ignored)
    with torch.no_grad(), counter.DispatchCounterMode([mac, synop]):
        net(x)
    return synop.get_total(), mac.get_total()


@pytest.mark.once
def test_counts_of_a_convolutional_net_equal_spikingjellys():
    torch, counter = op_counter()
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 8, 3, padding=1, bias=False),
        torch.nn.Conv2d(8, 4, 3, stride=2, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 9, 5),
    )
    data = spikes_of((3, 4, 8, 8, 2))
    x = torch.tensor(data.reshape(12, 8, 8, 2).transpose(0, 3, 1, 2))
    inputs = layers.Input((4, 8, 8, 2))
    y = snn.FoldTime(layers.Conv2D(8, 3, padding="same", use_bias=False), name="a")(inputs)
    y = snn.FoldTime(layers.Conv2D(4, 3, 2, use_bias=False), name="b")(y)
    y = layers.Dense(5, name="c")(snn.FoldTime(layers.Flatten())(y))
    found = analysis.profile(keras.Model(inputs, y), data, exact=True)
    synops, macs = count(torch, counter, net, x)
    assert found.synops * 3 == pytest.approx(synops, rel=1e-6)
    assert found.macs * 3 == pytest.approx(macs, rel=1e-6)


@pytest.mark.once
def test_counts_of_sew_resnet_18_equal_spikingjellys(zoo, large_models):
    torch, counter = op_counter()
    torch.manual_seed(0)
    net = zoo.sew_resnet.sew_resnet18(
        num_classes=10, cnf="IAND", spiking_neuron=zoo.neuron.IFNode, detach_reset=True
    ).eval()
    zoo.functional.set_step_mode(net, "m")
    ours = applications.SEWResNet18(
        input_shape=(64, 64, 3), classes=10, timesteps=4, connect="iand", classifier_activation=None
    )
    applications.load_torch_weights(ours, net.state_dict())
    x = 3 * np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    frames = torch.tensor(x.transpose(0, 3, 1, 2))[None].repeat(4, 1, 1, 1, 1)
    synops, macs = count(torch, counter, net, frames)
    found = analysis.profile(ours, x, exact=True)
    assert found.synops > 1e7
    assert found.synops == pytest.approx(synops, rel=1e-3)  # a tie may move a few spikes
    stem, head = found.layers[0], found.layers[-1]
    # They run the stem and the classifier at every step, we once for an image.
    assert macs == 4 * (stem.macs + head.macs)
    assert found.macs == stem.macs + head.macs


def test_record():
    inputs = layers.Input((5, 3))
    x = snn.FoldTime(layers.Dense(4, name="dense"), name="fold")(inputs)
    x = snn.LIF(tau=3.0, name="lif", reset="soft")(x)
    model = keras.Model(inputs, snn.MeanOverTime()(x))
    data = np.random.default_rng(0).normal(1, 2, (6, 5, 3)).astype("float32")
    found = analysis.record(model, data, what=analysis.recording.WHAT, batch_size=4)
    assert list(found) == ["lif"] and found.thresholds["lif"] == 1.0
    lif = found["lif"]
    assert all(values.shape == (6, 5, 4) for values in lif.values())
    v = np.zeros((6, 4))
    for t in range(5):
        h = v + (lif["currents"][:, t] - v) / 3
        np.testing.assert_allclose(lif["charged"][:, t], h, atol=1e-5)
        v = h - lif["spikes"][:, t]
        np.testing.assert_allclose(lif["membrane"][:, t], v, atol=1e-5)
    np.testing.assert_array_equal(lif["spikes"], (lif["charged"] >= 1))
    assert analysis.record(model, data, "fold")["fold"]["spikes"].shape == (6, 5, 4)
    model_on_images = applications.SEWResNet8(input_shape=(16, 16, 1), classes=3)
    longer = analysis.record(model_on_images, np.zeros((1, 16, 16, 1)), timesteps=9)
    assert {v["spikes"].shape[1] for v in longer.layers.values()} == {9}


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_record_of_a_16_bit_network_counts_every_spike(dtype):
    model = keras.Sequential([keras.Input((4, 1000)), snn.IF(dtype=dtype, name="neuron")])
    found = analysis.record(model, np.ones((1, 4, 1000), "float32"), what=None)["neuron"]
    assert {values.dtype for values in found.values()} == {np.dtype("float32")}
    assert found["spikes"].sum() == 4000  # more than bfloat16 can count


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"layers": "nothing"}, ValueError),
        ({"what": "colour"}, ValueError),
        ({"what": ()}, ValueError),
        ({"layers": "fold", "what": "membrane"}, ValueError),
    ],
)
def test_record_refuses(arguments, error):
    inputs = layers.Input((5, 3))
    x = snn.FoldTime(layers.Dense(4), name="fold")(inputs)
    with pytest.raises(error):
        analysis.record(keras.Model(inputs, snn.IF()(x)), np.ones((1, 5, 3)), **arguments)


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    yield matplotlib.pyplot
    matplotlib.pyplot.close("all")


# Machado, Oliveira, Fernandes 2009: how colours look without one of the three kinds of cones.
CONES = {
    "all": np.eye(3),
    "no long": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no middle": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no short": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def light(color):
    """A colour as linear red, green and blue."""
    value = np.array(matplotlib.colors.to_rgb(color))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(first, second):
    """WCAG's ratio: 3 is asked of pictures, 4.5 of text."""
    dark, bright = sorted(light(color) @ TO_XYZ[1] for color in (first, second))
    return (bright + 0.05) / (dark + 0.05)


def seen(color, cones):
    """A colour in CIE Lab, where distances are those that people see."""
    x, y, z = np.cbrt(TO_XYZ @ np.clip(cones @ light(color), 0.01, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.once
def test_colours_are_told_apart_and_seen_on_both_grounds(pyplot):
    styles = {}
    for name in ("light", "dark"):
        with pyplot.style.context(f"keras_snn.analysis.{name}"):
            styles[name] = {key: str(value) for key, value in pyplot.rcParams.items()}
            assert contrast(pyplot.rcParams["text.color"], pyplot.rcParams["axes.facecolor"]) > 10
            for color in plots.COLORS:
                assert contrast(color, pyplot.rcParams["axes.facecolor"]) > 3
            cycle = pyplot.rcParams["axes.prop_cycle"].by_key()["color"]
            assert all(map(matplotlib.colors.same_color, cycle, plots.COLORS)) and len(cycle) == 3
    differ = {key for key in styles["light"] if styles["light"][key] != styles["dark"][key]}
    assert all("color" in key for key in differ) and "text.color" in differ
    for cones in CONES.values():
        for first, second in itertools.combinations(plots.COLORS, 2):
            assert np.linalg.norm(seen(first, cones) - seen(second, cones)) > 25


@pytest.mark.once
@pytest.mark.parametrize("style", ["light", "dark"])
def test_pictures_in_a_style(pyplot, style):
    rng = np.random.default_rng(0)
    fired = rng.random((16, 40)) < np.linspace(0, 1, 40)
    model = keras.Sequential([layers.Input((2, 3)), snn.IF(), layers.Dense(5)])
    over_time = analysis.AccuracyOverTime(np.array([0.93, 0.97, 1.0]), {}, 9, model_timesteps=2)
    with pyplot.style.context(f"keras_snn.analysis.{style}"):
        axes = analysis.plot_membrane(fired - 0.5, 1.0, fired, currents=fired + 1.0, reset=-0.25)
        maps = analysis.plot_feature_maps(fired.reshape(16, 4, 5, 2), title="lif")
        curve = analysis.plot_accuracy(over_time, ann_accuracy=1.0)
        figures = {
            "membrane": axes[0].figure,
            "raster": analysis.plot_raster(fired).figure,
            "maps": maps[0, 0].figure,
            "rates": analysis.plot_rates({"a": 0.25, "b": 0.5}).figure,
            "energy": analysis.plot_energy(analysis.profile(model, np.ones((1, 2, 3))))[0].figure,
            "accuracy": curve.figure,
        }
    ground = {"light": "white", "dark": "#1e2129"}[style]
    for name, figure in figures.items():
        figure.canvas.draw()
        assert matplotlib.colors.same_color(figure.get_facecolor(), ground)
        for part in figure.findobj(pyplot.Axes):
            if part.axison and not part.images and part.get_label() != "<colorbar>":
                assert matplotlib.colors.same_color(part.get_facecolor(), ground), name
        for text in figure.findobj(pyplot.Text):
            if text.get_text() and text.get_visible():
                assert contrast(text.get_color(), ground) > 4.5, (name, text)
    rates = []
    for ax in axes:
        levels = {line.get_label(): line.get_ydata()[0] for line in ax.lines[1:]}
        assert levels == {"threshold": 1.0, "reset": -0.25}
        rates.append(ax.lines[0].get_ydata().mean() + 0.5)  # potentials are spikes, less a half
    np.testing.assert_allclose(rates, [0.15, 0.325, 0.5], atol=0.07)
    silent = (~fired.any(0)).mean()
    assert figures["raster"].axes[0].get_ylabel() == f"40 neurons, {silent:.0%} silent"
    assert figures["maps"].get_suptitle() == "lif"
    low, high = curve.get_ylim()
    assert low == 90 and high > 100 and set(curve.get_yticks()) <= {*np.arange(90, 100.5, 0.5)}
    (line,) = (line for line in curve.lines if line.get_label() == "the model's T = 2")
    assert line.get_xdata() == [2, 2]
    decided = analysis.AccuracyOverTime(None, {}, 9, decided=np.array([0.25, 1.0]))
    (line,) = analysis.plot_accuracy(decided).lines
    np.testing.assert_array_equal(line.get_ydata(), [25, 100])
    with pytest.raises(ValueError, match="no accuracy"):
        analysis.plot_accuracy(analysis.AccuracyOverTime(None, {}, 9))


@pytest.mark.once
def test_where_resets_lead_is_recorded():
    x = inputs = layers.Input((3, 4))
    x = snn.LIF(v_reset=-0.5, name="hard")(x)
    x = snn.LIF(reset="soft", name="soft")(layers.Dense(4)(x))
    x = snn.Izhikevich(name="own")(x)  # it steps in a way of its own
    found = analysis.record(keras.Model(inputs, x), np.ones((1, 3, 4)))
    assert found.resets == {"hard": -0.5}


def test_pictures(pyplot, tmp_path):
    spikes = spikes_of((7, 4, 5, 3))
    ax = analysis.plot_raster(spikes, title="raster")
    marks = np.array([mark.mean(0) for mark in ax.collections[0].get_segments()])
    rates = np.sort(spikes.reshape(7, -1).mean(0))  # those that fire most on top
    assert len(marks) == spikes.sum() and marks[:, 0].max() == 6
    np.testing.assert_allclose(np.bincount(marks[:, 1].astype(int), minlength=60) / 7, rates)
    _, mine = pyplot.subplots()
    ax = analysis.plot_rates({"a": 0.25, "b": 0.5}, ax=mine)
    assert ax is mine and [bar.get_width() for bar in ax.patches] == [0.25, 0.5]
    potentials = np.random.default_rng(0).normal(size=(7, 6))
    fired = potentials > 0.5
    ax, other = analysis.plot_membrane(potentials, 1.0, fired, neurons=[2, 4])
    np.testing.assert_array_equal(other.lines[0].get_ydata(), potentials[:, 4])
    assert any(list(line.get_ydata()) == [1.0, 1.0] for line in ax.lines)
    ax.figure.canvas.draw()
    (legend,) = (part.get_legend() for part in ax.figure.findobj(pyplot.Axes) if part.get_legend())
    assert legend.get_window_extent().y0 >= ax.get_window_extent().y1  # hides nothing
    charged = potentials + fired
    (ax,) = analysis.plot_membrane(
        potentials, spikes=fired, neurons=[3], ax=mine, charged=charged, currents=potentials
    )  # rises to the charged potential, falls to that after the reset
    np.testing.assert_array_equal(ax.lines[0].get_ydata()[::2], charged[:, 3])
    np.testing.assert_array_equal(ax.lines[0].get_ydata()[1::2], potentials[:, 3])
    assert ax.figure is mine.figure
    with pytest.raises(ValueError, match=r"`charged` should have the shape \(7, 6\)"):
        analysis.plot_membrane(potentials, charged=charged[:, 1:])
    assert analysis.plot_feature_maps(spikes, channels=2, steps=3).shape == (2, 3)
    columns = analysis.plot_feature_maps(spikes_of((16, 4, 5, 1)), steps=8)[0]
    titles = [f"t = {t}" for t in (0, 2, 4, 6, 9, 11, 13, 15)]
    assert [column.get_title() for column in columns] == titles
    model = keras.Sequential([layers.Input((2, 3)), snn.IF(), layers.Dense(5)])
    profile = analysis.profile(model, np.ones((1, 2, 3)))
    totals, _ = analysis.plot_energy(profile)
    assert totals.patches[-1].get_width() == pytest.approx(1e-9 * profile.ann_energy)
    path = analysis.save_event_animation(spikes_of((6, 8, 8, 2)), tmp_path / "events.gif")
    image = pytest.importorskip("PIL.Image").open(path)
    assert image.n_frames == 6 and image.size[0] >= 200
    for bad in (np.ones(3), np.ones((2, 3))):
        with pytest.raises(ValueError, match="rank"):
            analysis.plot_feature_maps(bad)
    with pytest.raises(ValueError, match="rank"):
        analysis.plot_raster(np.ones(3))
    for plot, shape in ((analysis.plot_raster, (3, 2)), (analysis.plot_feature_maps, (3, 2, 2, 1))):
        with pytest.raises(ValueError, match="values that are NaN"):
            plot(np.full(shape, np.nan))
    with pytest.raises(ValueError, match="polarities"):
        analysis.save_event_animation(np.ones((2, 3, 3, 5)), tmp_path / "bad.gif")
    assert not (tmp_path / "bad.gif").exists()


@pytest.mark.once
def test_sparsity_settles():
    model = applications.SEWResNet8(input_shape=(16, 16, 1), classes=3, timesteps=6)
    x = np.random.default_rng(0).random((8, 16, 16, 1)).astype("float32")
    y = np.argmax(model.predict(x, verbose=0), -1)
    found = analysis.sparsity(model, (x, y))
    assert found["final_accuracy"] == 1 and found["accuracy"] >= 0.99
    steps = found["timesteps"]
    profile = analysis.profile(model, x, timesteps=steps)
    assert found["ratio"] == pytest.approx(profile.synops / profile.ann_macs)
    for layer in profile.layers:
        if layer.rate is not None:
            assert found["spikes_per_neuron"][layer.name] == pytest.approx(layer.rate * steps)


# Callbacks.
def small():
    model = keras.Sequential(
        [
            layers.Input((3,)),
            snn.RepeatTime(4),
            layers.Dense(4, name="dense"),
            snn.IF(name="neuron"),
            snn.MeanOverTime(),
        ]
    )
    model.compile("sgd", "mse")
    return model, np.ones((8, 3), "float32"), np.zeros((8, 4), "float32")


def test_firing_rates_in_the_logs(tmp_path):
    model, x, y = small()
    watch = callbacks.FiringRates(x, every=2)
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[watch]).history
    assert len(history["rate/neuron"]) == 1
    now = analysis.firing_rates(model, x)["neuron"]
    assert history["rate/neuron"][0] == pytest.approx(now)


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_part_of_what_is_trained_is_watched():
    model, x, y = small()
    model.get_layer("dense").set_weights([-np.ones((3, 4)), np.zeros(4)])

    class Whole(keras.Model):  # no functional model
        def __init__(self):
            super().__init__()
            self.part = model

        def call(self, inputs):
            return self.part(inputs)

    whole = Whole()
    whole.compile("sgd", "mse")
    watch = [callbacks.FiringRates(x, network=model), callbacks.DeadNeurons(x, network=model)]
    with pytest.warns(UserWarning, match="100% of the neurons of neuron never"):
        history = whole.fit(x, y, verbose=0, callbacks=watch).history
    assert history["rate/neuron"] == [0.0]


def test_tensorboard_files(tmp_path):
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorboard")
    model, x, y = small()
    model.fit(x, y, verbose=0, callbacks=[callbacks.FiringRates(x, log_dir=tmp_path)])
    (path,) = tmp_path.glob("events*")
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert tags >= {"rate/neuron", "rates of neurons/neuron", "raster/neuron"}


@pytest.mark.filterwarnings("always::UserWarning")
def test_dead_neurons_are_warned_of():
    model, x, y = small()
    watch = callbacks.DeadNeurons(x)
    model.get_layer("dense").set_weights([-np.ones((3, 4)), np.zeros(4)])
    with pytest.warns(UserWarning, match="100% of the neurons of neuron never"):
        model.fit(x, y, verbose=0, callbacks=[watch])
    model.get_layer("dense").set_weights([9 * np.ones((3, 4)), np.zeros(4)])
    with pytest.warns(UserWarning, match="fire at every step"):
        model.fit(x, y, verbose=0, callbacks=[watch])
    with pytest.raises(ValueError, match="silent"):
        callbacks.DeadNeurons(x, silent=2.0)


def test_recorded_potentials_of_every_cell():
    x = ops.convert_to_tensor(spikes_of((2, 5, 3)) * 2)
    for layer in (snn.ParametricLIF(), snn.AdaptiveLIF(), snn.SynapticLIF(), snn.DelayedLIF()):
        inputs = layers.Input((5, 3))
        model = keras.Model(inputs, layer(inputs))
        found = analysis.record(model, to_numpy(x), what=("spikes", "membrane"))[layer.name]
        _, *states = type(layer)(return_state=True)(x)
        np.testing.assert_allclose(found["membrane"][:, -1], to_numpy(states[0]), atol=1e-5)


# Interrupted training.
class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KilledError


def dropout_model():
    keras.utils.set_random_seed(0)
    inputs = layers.Input((8, 8, 1))
    x = layers.Dense(16)(layers.Flatten()(inputs))
    x = layers.BatchNormalization()(layers.Dropout(0.3)(x))
    x = snn.LIF()(snn.RepeatTime(3)(x))
    x = layers.Dense(10)(snn.TimeConstantDropout(0.3)(x))
    model = keras.Model(inputs, snn.MeanOverTime()(x))
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 100)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


def trained_weights(data, callback_list):
    model = dropout_model()
    model.fit(data.train, epochs=4, verbose=0, shuffle=False, callbacks=callback_list)
    return model.get_weights()


@pytest.mark.once
def test_killed_training_ends_as_unbroken(tmp_path):
    pytest.importorskip("sklearn")
    from keras_snn import datasets

    def load():
        return datasets.load("digits", batch_size=256, seed=3)

    data = load()
    whole = trained_weights(data, [callbacks.Resume(tmp_path / "whole.npz", data)])
    path, data = tmp_path / "resume.npz", load()
    with pytest.raises(KilledError):
        trained_weights(data, [callbacks.Resume(path, data), Kill()])
    assert path.is_file()
    data = load()
    resumed = trained_weights(data, [callbacks.Resume(path, data)])
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not path.exists()


def test_resume_refuses_what_does_not_fit(tmp_path):
    path = tmp_path / "resume.npz"
    model, x, y = small()
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="damaged"):
        model.fit(x, y, verbose=0, callbacks=[callbacks.Resume(path)])
    np.savez(path, epoch=1, generator=np.zeros(0), variable_0=np.zeros(3))
    with pytest.raises(ValueError, match="earlier version"):
        model.fit(x, y, verbose=0, callbacks=[callbacks.Resume(path)])
    with pytest.raises(ValueError, match="npz"):
        callbacks.Resume("file.keras")
    with pytest.raises(TypeError, match="set_epoch"):
        callbacks.Resume(path, data=[])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "make, macs",
    [
        # 4 places, 9 taps, for each of 4 filters the 2 channels of its group; 8 filters of 1.
        (lambda: layers.Conv2D(4, 3, groups=2), 4 * 9 * 4 * 2),
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), 4 * 9 * 8),
    ],
)
def test_operations_of_groups_by_hand(make, macs, exact):
    inputs = keras.Input((3, 4, 4, 4))
    model = keras.Model(inputs, snn.FoldTime(make())(snn.IF()(inputs)))
    found = analysis.profile(model, np.ones((2, 3, 4, 4, 4), "float32"), exact=exact)
    assert found.layers[-1].macs == macs
    assert found.synops == pytest.approx(3 * macs, rel=1e-6)
    assert found.ann_macs == 3 * macs


# Networks that a run of a few steps at a time can't tell the answer of.
ALL_STEPS = "needs all steps at once"
NOT_IN_PIECES = {
    "masking": ((7, 3), lambda x: layers.Masking(9.0)(x), r"if.* \(IF\).*takes a mask"),
    "tokens": ((7,), lambda x: layers.Embedding(5, 3, mask_zero=True)(x), "IF.*takes a mask"),
    "convolution": ((7, 3), lambda x: layers.SeparableConv1D(3, 3)(x), f"Conv1D.*{ALL_STEPS}"),
    "strides": ((7, 3), lambda x: layers.Conv1D(3, 3, 2, "causal")(x), f"Conv1D.*{ALL_STEPS}"),
    "latency": ((3,), lambda x: snn.LatencyEncoder(7)(x), f"LatencyEncoder.*{ALL_STEPS}"),
    "phase": ((3,), lambda x: snn.PhaseEncoder(7)(x), f"PhaseEncoder.*{ALL_STEPS}"),
    "sum": ((7, 3), lambda x: ops.cumsum(x, axis=1), f"Cumsum.*{ALL_STEPS}"),
    "softmax": ((7, 3), lambda x: layers.Softmax(axis=1)(x), f"Softmax.*{ALL_STEPS}"),
    "normalised": (
        (7, 3),
        lambda x: layers.BatchNormalization(axis=1)(x),
        f"BatchNormalization.*{ALL_STEPS}",
    ),
    "scaled": (
        (7, 3),
        lambda x: snn.TemporalEffectiveBatchNormalization(7)(x),
        f"TemporalEffective.*{ALL_STEPS}",
    ),
    "each step's": (
        (7, 3),
        lambda x: snn.BatchNormalizationThroughTime(7)(x),
        f"ThroughTime.*{ALL_STEPS}",
    ),
    "parallel": ((7, 3), lambda x: snn.PSN()(x), f"PSN.*{ALL_STEPS}"),
    "both ways": (
        (7, 3),
        lambda x: layers.Bidirectional(layers.GRU(2, return_sequences=True))(x),
        f"Bidirectional.*{ALL_STEPS}",
    ),
    "attention": ((7, 3), lambda x: layers.Attention()([x, x]), f"Attention.*{ALL_STEPS}"),
    "backwards": ((7, 3), lambda x: snn.IF(go_backwards=True)(x), "IF.*backwards"),
    "flat": ((7, 3), lambda x: snn.RepeatTime(2)(layers.Flatten()(snn.IF()(x))), "Flatten"),
    "the last": ((7, 3), lambda x: snn.RepeatTime(2)(snn.IF()(x)[:, -1]), "GetItem"),
    "pooled": (
        (7, 3),
        lambda x: snn.RepeatTime(2)(layers.GlobalAveragePooling1D()(snn.IF()(x))),
        "GlobalAveragePooling1D",
    ),
    "twice": ((7, 3), lambda x: snn.RepeatTime(2)(snn.MeanOverTime()(x)), "behind a readout"),
    "unknown": (
        (7, 3),
        lambda x: layers.Lambda(lambda z: z)(x),
        r"Lambda.*keras_snn\.graph\.register",
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("name", NOT_IN_PIECES)
def test_what_is_not_run_in_pieces(name):
    shape, make, message = NOT_IN_PIECES[name]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, snn.MeanOverTime()(snn.IF()(make(inputs))))
    with pytest.raises(TypeError, match=message):
        analysis.Rollout(model, chunk=3)


@pytest.mark.once
def test_stateful_layers_are_not_run_in_pieces():
    inputs = keras.Input((7, 3), batch_size=2)
    model = keras.Model(inputs, snn.MeanOverTime()(snn.IF(stateful=True)(inputs)))
    with pytest.raises(TypeError, match=r"\(IF\).*stateful"):
        analysis.Rollout(model)


@pytest.mark.once
def test_masks_as_inputs_are_not_run_in_pieces():
    inputs, mask = keras.Input((7, 3)), keras.Input((7,), dtype="bool")
    model = keras.Model([inputs, mask], snn.MeanOverTime()(snn.IF()(inputs), mask=mask))
    with pytest.raises(TypeError, match=r"MeanOverTime\) can't be rolled out: it takes a mask"):
        analysis.Rollout(model, chunk=3)


@pytest.mark.once
def test_layers_before_time_begins_are_run_once():
    inputs = keras.Input((6, 2))
    x = snn.RepeatTime(5)(layers.Conv1D(3, 3)(inputs))
    model = keras.Model(inputs, snn.MeanOverTime()(snn.IF()(x)))
    data = np.random.default_rng(0).random((2, 6, 2)).astype("float32")
    found = [outputs[0] for outputs, _ in analysis.Rollout(model, chunk=2).run(data, 5)]
    np.testing.assert_allclose(np.concatenate(found, 1)[:, -1], to_numpy(model(data)), atol=1e-6)


def in_pieces(model, inputs, chunk, timesteps=None):
    """Outputs after each step, one array an output."""
    parts = [outputs for outputs, _ in analysis.Rollout(model, chunk).run(inputs, timesteps)]
    return [np.concatenate(pieces, 1) for pieces in zip(*parts)]


def everything():
    """Causal layers of all kinds, an initial state, named inputs, several readouts."""
    events, start = keras.Input((6, 3), name="events"), keras.Input((4,), name="start")
    x = layers.Conv1D(4, 2, padding="causal", dilation_rate=2)(snn.DeltaEncoder(0.1)(events))
    x = layers.GRU(4, return_sequences=True)(snn.SlidingPSN(3)(2 * x + 1))
    neuron = snn.LIF(name="lif")
    x = neuron(1 + neuron(9 * ops.abs(x), initial_state=[layers.Dense(4)(start)]))
    mean, last = snn.MeanOverTime()(x), snn.MembraneReadout("max", tau=2.0)(x)
    logits = layers.Dense(2)(layers.Concatenate()([mean, last, start]))
    return keras.Model({"start": start, "events": events}, {"logits": logits, "spikes": x})


def test_pieces_equal_the_whole_at_every_step():
    keras.utils.set_random_seed(0)
    model, rng = everything(), np.random.default_rng(0)
    data = {"events": rng.normal(size=(3, 6, 3)), "start": rng.normal(size=(3, 4))}
    data = {name: x.astype("float32") for name, x in data.items()}
    whole = model.predict(data, verbose=0)
    assert set(np.unique(whole["spikes"])) == {0, 1}
    for chunk in (6, 4, 1):
        logits, spikes = in_pieces(model, data, chunk)
        np.testing.assert_allclose(logits[:, -1], whole["logits"], atol=1e-5)
        np.testing.assert_array_equal(spikes, whole["spikes"])
    for steps in (1, 4):
        clip = graph.in_order(model, data | {"events": data["events"][:, :steps]})
        cut = graph.trace(model, shapes=[x.shape[1:] for x in clip])
        cut = keras.Model(cut.inputs, cut.outputs)(clip)
        np.testing.assert_allclose(logits[:, steps - 1], to_numpy(cut[0]), atol=1e-5)


ONE_READOUT = {
    "LSTM": ((6, 3), lambda x: snn.MeanOverTime()(layers.LSTM(2, return_sequences=True)(x))),
    "last of a GRU": ((6, 3), lambda x: layers.Dense(2)(layers.GRU(3)(x))),
    "stacked cells": (
        (6, 3),
        lambda x: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)])(x),
    ),
    "gated convolutions": (
        (6, 5, 2),
        lambda x: snn.MaxOverTime()(layers.ConvLSTM1D(2, 2, return_sequences=True)(x)),
    ),
    "cells in a stack": (
        (6, 3),
        lambda x: snn.SumOverTime()(snn.SpikingRNN([layers.LSTMCell(3), snn.IFCell()])(9 * x)),
    ),
    "its own spikes": (
        (6, 3),
        lambda x: snn.LastOverTime()(snn.Recurrent(snn.LIFCell(), layers.Dense(3))(3 * x)),
    ),
    "first spikes": ((6, 3), lambda x: snn.FirstSpikeTime()(snn.IF()(x))),
    "the last spikes": ((6, 3), lambda x: snn.IF(return_sequences=False)(2 * x)),
    "steps reshaped": (
        (6, 2, 2),
        lambda x: snn.MeanOverTime()(ops.reshape(layers.Reshape((6, 4))(x), (-1, 6, 2, 2))),
    ),
    "folded": (
        (6, 4, 4, 1),
        lambda x: snn.MeanOverTime()(
            snn.FoldTime(
                keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 3), layers.Flatten()])
            )(x)
        ),
    ),
    "nested": (
        (6, 3),
        lambda x: layers.Dense(2)(
            keras.Sequential([keras.Input((6, 3)), snn.IF(), snn.MeanOverTime()])(3 * x)
        ),
    ),
    "an image": ((3,), lambda x: snn.SumOverTime()(snn.IF()(layers.RepeatVector(6)(x)))),
}


@pytest.mark.once
@pytest.mark.parametrize("name", ONE_READOUT)
def test_pieces_equal_the_whole(name):
    keras.utils.set_random_seed(0)
    shape, build = ONE_READOUT[name]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    data = np.random.default_rng(0).random((2, *shape)).astype("float32")
    whole = model.predict(data, verbose=0)
    assert np.abs(whole).max() > 0
    for chunk in (6, 4, 1):
        found = in_pieces(model, data, chunk, 6)[0]
        np.testing.assert_allclose(found[:, -1], whole, atol=1e-5)


# Every analysis takes what `predict` takes.
def two_named_inputs():
    a, b = keras.Input((4, 2), name="a"), keras.Input((4, 3), name="b")
    x = layers.Concatenate()([snn.IF(name="first")(b), snn.IF(name="second")(a)])
    return keras.Model([b, a], snn.MeanOverTime()(layers.Dense(2)(x)))


@pytest.mark.once
def test_inputs_in_any_form():
    model = two_named_inputs()
    a, b = np.zeros((3, 4, 2), "float32"), np.ones((3, 4, 3), "float32")
    labels = np.zeros(3, int)
    expected = {"first": 1.0, "second": 0.0}
    forms = [{"a": a, "b": b}, [b, a], (b, a), ({"a": a, "b": b}, labels), [((b, a), labels)]]
    for data in forms:
        assert analysis.firing_rates(model, data) == expected
        found = by_name(analysis.profile(model, data, batch_size=2))
        assert {name: found[name].rate for name in expected} == expected
        spikes = analysis.record(model, data)
        assert {name: spikes[name]["spikes"].mean() for name in spikes} == expected
    found = analysis.accuracy_over_time(model, ({"a": a, "b": b}, labels))
    assert found.firing_rates == expected
    norms = analysis.gradient_norms(model, [b, a], np.zeros((3, 2)), lambda t, y: y)
    assert all(norm > 0 for norm in norms.values())
    with pytest.raises(ValueError, match="2 inputs"):
        analysis.record(model, b)


def nest():
    neuron = snn.IF(threshold=2.0, name="lif")
    block = keras.Sequential([keras.Input((4, 3)), neuron], name="block")
    inputs = keras.Input((4, 3))
    return keras.Model(inputs, layers.Dense(2, name="dense")(neuron(8 * block(inputs))))


@pytest.mark.once
def test_nested_layers_and_second_calls():
    model, data = nest(), np.ones((2, 4, 3), "float32")
    assert analysis.firing_rates(model, data) == {"block/lif": 0.5, "lif": 0.5}
    found = analysis.record(model, data, what=("spikes", "membrane"))
    np.testing.assert_array_equal(found["block/lif"]["membrane"][0, :, 0], [1, 0, 1, 0])
    rows = by_name(analysis.profile(model, data))
    assert list(rows) == ["block/lif", "lif", "dense"]
    shared = layers.Dense(3, name="shared")
    inputs = keras.Input((4, 3))
    twice = keras.Model(inputs, shared(snn.IF()(shared(inputs))))
    first, _, second = analysis.profile(twice, data).layers
    assert (first.name, second.name) == ("shared", "shared:1")
    assert (first.parameters, second.parameters) == (12, 0)


def test_potentials_from_where_neurons_start():
    x, v = keras.Input((4, 3)), keras.Input((3,))
    model = keras.Model([x, v], snn.IF(name="n")(x, initial_state=[v]))
    data = [np.full((1, 4, 3), 0.3), np.full((1, 3), 0.65)]
    found = analysis.record(model, data, what=("spikes", "charged", "membrane"))["n"]
    np.testing.assert_allclose(found["charged"][0, :, 0], [0.95, 1.25, 0.3, 0.6], rtol=1e-6)
    np.testing.assert_allclose(found["membrane"][0, :, 0], [0.95, 0.0, 0.3, 0.6], rtol=1e-6)


def test_stateful_layers_are_recorded_as_they_are():
    x = keras.Input((2, 3), batch_size=2)
    model = keras.Model(x, snn.IF(threshold=9.0, stateful=True, name="n")(x))
    data = np.ones((4, 2, 3), "float32")
    model.predict(data[:2], verbose=0, batch_size=2)
    found = analysis.record(model, data, what=("charged", "membrane"))["n"]
    np.testing.assert_array_equal(found["charged"][:, :, 0], [[3, 4]] * 2 + [[5, 6]] * 2)
    analysis.profile(model, data)
    analysis.firing_rates(model, data)
    np.testing.assert_array_equal(to_numpy(model.get_layer("n").states[0]), 2)


@pytest.mark.once
def test_potentials_of_masked_steps_stay():
    inputs = keras.Input((4, 1))
    x = snn.IF(name="n", v_reset=-0.5, reset="soft")(layers.Masking(mask_value=9.0)(inputs))
    data = np.array([[[9], [1], [9], [1]]], "float32")
    model = keras.Model(inputs, x)
    found = analysis.record(model, data, what=("membrane", "charged"))["n"]
    np.testing.assert_array_equal(found["membrane"][0, :, 0], [-0.5, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(found["charged"][0, :, 0], [-0.5, 0.5, 0.5, 1.5])
    assert analysis.firing_rates(model, data)["n"] == 0.5
    assert analysis.profile(model, data).layers[0].membrane[2:] == (0.5, 0.5)


# Operations of one example with spikes `s` of shape (4, 6), by hand: accumulates and MACs.
SPIKES = spikes_of((2, 4, 6), 0.4)
COUNT = SPIKES.sum() / 2
CHARGED = {
    "its own spikes": (  # connections read the spikes of the step before
        lambda s: snn.Recurrent(
            snn.IFCell(threshold=0.5), layers.Dense(6, kernel_initializer="zeros")
        )(s),
        SPIKES[:, :-1].sum() / 2 * 6,
        0,
    ),
    "LSTM": (lambda s: layers.LSTM(5)(s), COUNT * 20, 4 * 5 * 20),
    "parallel": (lambda s: snn.PSN()(s), COUNT * 4, 0),
    "einsum": (
        lambda s: layers.EinsumDense("btd,de->bte", output_shape=(None, 5))(s),
        COUNT * 5,
        0,
    ),
    "a constant": (lambda s: s @ np.ones((6, 5), "float32"), COUNT * 5, 0),
    "two tensors of spikes": (
        lambda s: ops.matmul(s, ops.swapaxes(s, 1, 2)),
        np.einsum("btd,bsd->", SPIKES, SPIKES) / 2,
        0,
    ),
    "spikes and values": (
        lambda s: ops.einsum("btd,bsd->bts", s, s + 0.5),
        COUNT * 4,
        0,
    ),
    "values and spikes": (
        lambda s: ops.einsum("btd,bsd->bts", s + 0.5, s),
        COUNT * 4,
        0,
    ),
    "values": (lambda s: ops.einsum("btd,bsd->bts", s + 0.5, s + 0.5), 0, 4 * 4 * 6),
    "heads": (
        lambda s: layers.MultiHeadAttention(2, 3)(s, s),
        3 * COUNT * 6,
        2 * 4 * 4 * 6 + 4 * 6 * 6,
    ),
    "flattened": (lambda s: layers.Dense(3)(layers.Flatten()(s)), COUNT * 3, 0),
    "embedded": (lambda s: layers.Embedding(2, 3)(s), 0, 0),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("name", CHARGED)
def test_operations_by_hand(name):
    build, synops, macs = CHARGED[name]
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, build(snn.IF(threshold=0.5)(inputs)))
    found = analysis.profile(model, SPIKES, exact=True)
    assert (found.synops, found.macs) == pytest.approx((synops, macs))
    assert not found.uncharged
    json.loads(found.to_json())


@pytest.mark.once
def test_convolutions_over_time_by_hand():
    for layer, reach in (
        (layers.Conv1D(5, 3, padding="causal"), [3, 3, 2, 1]),
        (layers.Conv1D(5, 2, strides=2), [1, 1, 1, 1]),
    ):
        inputs = keras.Input((4, 6))
        model = keras.Model(inputs, layer(snn.IF(threshold=0.5)(inputs)))
        exact = (SPIKES.sum(-1) * reach).sum() / 2 * 5
        assert analysis.profile(model, SPIKES, exact=True).synops == pytest.approx(exact)
        macs = layer.kernel_size[0] * 6 * 5 * layer.compute_output_shape((1, 4, 6))[1]
        found = analysis.profile(model, SPIKES)
        assert found.synops == pytest.approx(SPIKES.mean() * macs)
        assert found.ann_macs == macs


@pytest.mark.once
def test_halves_of_separable_convolutions():
    data = spikes_of((2, 2, 5, 5, 3))
    inputs = keras.Input((2, 5, 5, 3))
    spikes = snn.IF(threshold=0.5)(inputs)
    one = keras.Model(inputs, snn.FoldTime(layers.SeparableConv2D(4, 3))(spikes))
    y = snn.FoldTime(layers.DepthwiseConv2D(3, use_bias=False))(spikes)
    two = keras.Model(inputs, snn.FoldTime(layers.Conv2D(4, 1))(y))
    one, two = (analysis.profile(model, data) for model in (one, two))
    assert one.macs == 2 * 9 * 3 * 4
    assert (one.synops, one.macs, one.energy) == (two.synops, two.macs, two.energy)


@pytest.mark.once
def test_what_nobody_knows_is_named():
    inputs = keras.Input((4, 6))
    x = layers.Lambda(lambda z: z @ z, name="mystery", output_shape=(4, 6))(snn.IF()(inputs))
    found = analysis.profile(keras.Model(inputs, x), SPIKES[..., :4, :])
    assert found.uncharged == ("mystery (Lambda)",)
    assert "not charged: mystery (Lambda)" in str(found)
    assert found.to_dict()["uncharged"] == ["mystery (Lambda)"]


@pytest.mark.once
def test_the_order_of_examples_does_not_decide_what_is_spikes():
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, snn.IF()(layers.Dense(3)(inputs)))
    data = np.concatenate([SPIKES, np.zeros_like(SPIKES), SPIKES, SPIKES + 0.5])
    for order in (data, data[::-1]):
        for batch_size in (2, 8):
            found = analysis.profile(model, order, batch_size=batch_size)
            assert (found.synops, found.macs) == (0, 4 * 18)
    silent = analysis.profile(model, 0 * SPIKES)
    assert silent.layers[0].undecided
    assert "undecided" in str(silent)


@pytest.mark.once
def test_sequences_of_several_lengths():
    inputs = keras.Input((None, 6))
    model = keras.Model(inputs, layers.Dense(3)(snn.IF(threshold=0.5)(inputs)))
    found = analysis.profile(model, [SPIKES, SPIKES[:, :2]])
    assert found.synops == (SPIKES.sum() + SPIKES[:, :2].sum()) / 4 * 3
    assert found.layers[1].steps == 3
    assert found.rate == pytest.approx(found.layers[0].rate)
    assert found.ann_macs == 3 * 18
