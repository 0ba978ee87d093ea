"""Certified robustness: bounds that hold, lines, certificates, attacks, training for them."""

import functools
import itertools

import keras
import numpy as np
import pytest
from helpers import first_everywhere, gradients, to_numpy
from keras import ops

from keras_snn import layers as snn
from keras_snn import robust
from keras_snn.robust import neurons
from keras_snn.robust.bounds import Replay, replay_margins
from keras_snn.robust.intervals import Interval

L = keras.layers


def residual():
    """A convolutional network on images with most kinds of layers."""
    inputs = keras.Input((6, 6, 2))
    x = L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(inputs))
    x = snn.DecayLIF(threshold=0.25)(snn.RepeatTime(3)(x))
    y = snn.FoldTime(L.Conv2D(4, 3, padding="same", use_bias=False))(x)
    y = snn.ThresholdDependentBatchNormalization(threshold=0.5)(y)
    x = snn.SpikeConnection("add")([snn.LIF(threshold=0.2)(y), x])
    x = snn.FoldTime(L.MaxPooling2D())(x)
    x = snn.FoldTime(L.Flatten())(x)
    x = snn.IF(threshold=0.5, reset="soft")(L.Dense(8)(x))
    outputs = L.Dense(3, activation="softmax")(snn.MeanOverTime()(x))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for weight in layer.weights:
            if "moving" in weight.path or "gamma" in weight.path or "beta" in weight.path:
                drawn = rng.uniform(0.5, 1.5, weight.shape) - ("mean" in weight.path)
                weight.assign(drawn * (1 - 2 * ("gamma" in weight.path and len(drawn) > 1)))
    return model


def chain(*layers, shape=(4, 3)):
    """A network on sequences, with a readout at its end."""
    return keras.Sequential([keras.Input(shape), *layers, snn.MeanOverTime(), L.Dense(3)])


def event_convolutions():
    return chain(
        snn.FoldTime(L.DepthwiseConv2D(3, strides=2, padding="same")),
        snn.LIF(threshold=0.1, decay_input=False),
        snn.FoldTime(L.SeparableConv2D(3, 2)),
        snn.ParametricLIF(threshold=0.1, reset="none"),
        snn.FoldTime(L.Conv2DTranspose(2, 2)),
        snn.FoldTime(L.AveragePooling2D(2, 1, "same")),
        snn.FoldTime(L.GlobalMaxPooling2D()),
        shape=(3, 6, 6, 2),
    )


def operations():
    inputs = keras.Input((3, 4))
    x = inputs[:, :, 1:] * 0.5 - 0.1
    y = ops.relu(-x) + ops.tanh(x) * x - ops.maximum(x, 0.2)
    x = snn.BatchNormalizationThroughTime(3)(L.Concatenate()([x, y]))
    x = ops.max(snn.Accumulator()(x), axis=1)
    return keras.Model(inputs, L.Dense(3)(L.ReLU()(x) / 2))


def connections():
    inputs = keras.Input((3, 4))
    x = snn.LIF(threshold=0.3, v_reset=-0.2)(L.Dense(4)(inputs))
    for mode in ("and", "iand", "reverse_iand", "or", "xor"):
        x = snn.SpikeConnection(mode)([snn.IF(threshold=0.2)(L.Dense(4)(x)), x])
    return keras.Model(inputs, L.Dense(3)(snn.MembraneReadout("max", tau=2.0)(x)))


def nested():
    inner = keras.Sequential([keras.Input((3,)), L.Dense(4, "relu"), L.Dense(3)])
    return chain(snn.FoldTime(inner), snn.LIF(threshold=0.1), L.Conv1D(4, 2, padding="causal"))


NETWORKS = {
    "residual": residual,
    "event convolutions": event_convolutions,
    "operations": operations,
    "connections": connections,
    "nested": nested,
}


EPS = np.repeat([0, 0.004, 0.1], 2).astype("float32")


def around(model, count=25):
    """Boxes of three sizes around images, and points of these, `(points, boxes, ...)`."""
    rng, shape = np.random.default_rng(1), model.input_shape[1:]
    images = rng.uniform(0, 1, (len(EPS), *shape)).astype("float32")
    eps = EPS.reshape(-1, *[1] * len(shape))
    box = robust.Box(np.maximum(images - eps, 0), np.minimum(images + eps, 1))
    points = images + eps * rng.uniform(-1, 1, (count, *images.shape))
    corners = images + eps * rng.choice([-1, 1], (count, *images.shape))
    return box, np.clip(np.concatenate([points, corners]), *box).astype("float32")


@pytest.mark.parametrize("name", first_everywhere(*NETWORKS))
def test_no_point_of_a_box_leaves_the_bounds(name):
    model = NETWORKS[name]()
    box, points = around(model)
    found = robust.layer_bounds(model, box)
    layers = [layer for layer in model.layers if layer.name in found]
    seen = keras.Model(model.inputs, [layer.output for layer in layers])
    seen = to_numpy(seen(points.reshape(-1, *points.shape[2:]), training=False))
    for layer, values in zip(layers, seen):
        lower, upper = found[layer.name]
        values = values.reshape(-1, *lower.shape)
        assert np.all(lower <= values) and np.all(values <= upper), layer.name
        np.testing.assert_allclose((upper - lower)[EPS == 0], 0, atol=2e-3)


@pytest.mark.parametrize("name", first_everywhere(*NETWORKS))
@pytest.mark.parametrize("how", first_everywhere("crown authors", "ibp authors", "crown envelope"))
def test_no_point_of_a_box_has_a_smaller_margin(name, how):
    model, labels = NETWORKS[name](), np.arange(6) % 3
    box, points = around(model)
    scores = to_numpy(model(points.reshape(-1, *points.shape[2:]), training=False))
    if name == "residual":
        scores = np.log(scores)
    scores = scores.reshape(len(points), 6, 3)
    gaps = scores[:, np.arange(6), labels][..., None] - scores
    lower = robust.margins(model, box, labels, *how.split())
    assert np.all(lower <= gaps + 1e-6)  # of the logarithm
    np.testing.assert_allclose(lower[EPS == 0], gaps[0][EPS == 0], atol=5e-3)


@pytest.mark.once
def test_all_inputs_of_a_tiny_network_are_within_the_bounds():
    model = chain(L.Dense(4), snn.LIF(threshold=0.4), shape=(3, 3))
    spikes = np.random.default_rng(0).integers(0, 2, (1, 3, 3)).astype("float32")
    box = robust.Box(np.minimum(spikes, np.eye(3) == 0), np.maximum(spikes, np.eye(3)))
    box = robust.Box(*(np.asarray(end, "float32") for end in box))
    every = np.array(list(itertools.product([0, 1], repeat=9)), "float32").reshape(-1, 3, 3)
    every = every[np.all((every >= box.lower) & (every <= box.upper), axis=(1, 2))]
    assert len(every) == 2**3
    scores = to_numpy(model(every))
    gaps = (scores[:, :1] - scores).min(axis=0)
    for method in ("ibp", "crown"):
        assert np.all(robust.margins(model, box, [0], method)[0] <= gaps + 1e-6)
    # A product of independent inputs has the bounds that it takes.
    first = keras.Model(model.inputs, model.layers[0].output)
    lower, upper = robust.bounds(first, box)
    np.testing.assert_allclose(lower[0], to_numpy(first(every)).min(0), atol=1e-5)
    np.testing.assert_allclose(upper[0], to_numpy(first(every)).max(0), atol=1e-5)
    lower, upper = robust.bounds(model, box, "crown")
    assert np.all(lower <= scores) and np.all(scores <= upper)


def by_hand(w, b, v, radius, rows, timesteps, decay, threshold):
    """S-IBP and S-CROWN of the authors' neuron, loop by loop: rows of the mean of `v @ spikes`."""
    spread, lower, upper, now = radius * np.abs(w).sum(0), [], [], (0.0 * b, 0.0 * b)
    for _ in range(timesteps):
        low, high = now[0] + b - spread, now[1] + b + spread
        lower.append(low)
        upper.append(high)
        left = np.where(low > threshold, 0, np.minimum(0, decay * low))
        right = np.where(low > threshold, 0, np.maximum(0, decay * threshold))
        silent = high <= threshold
        now = np.where(silent, decay * low, left), np.where(silent, decay * high, right)
    found = []
    for row in rows:
        on_spike, on_input, total = v @ row / timesteps, 0.0, 0.0
        for i in range(len(b)):
            on_leak, on_current = 0.0, 0.0
            for t in reversed(range(timesteps)):
                low, high, a, on_h = lower[t][i], upper[t][i], on_spike[i], 0.0
                below, above = threshold - low, high - threshold
                if above <= 0:
                    on_h = on_leak
                elif below < 0:
                    total += a
                else:
                    kept = low if on_leak >= 0 else threshold
                    total, a = total + on_leak * kept, a - on_leak * kept
                    if a >= 0 and above >= below:
                        on_h = a / above
                        total -= on_h * threshold
                    elif a < 0 and above >= below:
                        total += a
                    elif a < 0:
                        on_h = a / below
                        total -= on_h * low
                on_current += on_h
                on_leak = decay * on_h
            on_input = on_input + on_current * w[:, i]
            total += on_current * b[i]
        found.append(total - radius * np.abs(on_input).sum())
    return np.array(lower), np.array(upper), np.array(found)


def test_bounds_are_those_of_the_equations():
    rng = np.random.default_rng(0)
    w, b, v = rng.normal(0, 0.5, (3, 5)), rng.uniform(0.05, 0.4, 5), rng.normal(0, 1, (5, 3))
    neuron = snn.DecayLIF(decay=0.25, threshold=0.25)
    model = keras.Sequential(
        [keras.Input((3,)), L.Dense(5), snn.RepeatTime(4), neuron, L.Dense(3, use_bias=False)]
    )
    model.add(snn.MeanOverTime())
    model.set_weights([w, b, v])
    rows = np.eye(3)[1] - np.eye(3)
    lower, upper, wanted = by_hand(w, b, v, 0.1, rows, 4, 0.25, 0.25)
    assert np.any((lower < 0.25) & (upper > 0.25)) and np.any(upper < 0.25)
    box = robust.box(np.zeros((1, 3)), 0.1, None, None)
    replay = Replay(model, robust.Box(*([ops.convert_to_tensor(end)] for end in box)), False)
    _, steps = replay.intervals[neuron.name].saved
    np.testing.assert_allclose([to_numpy(h.lower)[0] for h in steps], lower, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([to_numpy(h.upper)[0] for h in steps], upper, rtol=1e-5, atol=1e-6)
    (logits,) = keras.tree.flatten(replay.outputs)
    found = replay.lower(logits, ops.cast(rows[:, None], "float32"), "authors")
    np.testing.assert_allclose(to_numpy(found)[:, 0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize("lines", neurons.LINES)
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("v_reset", [0.0, 0.3, -0.5])
def test_lines_are_below_what_they_bound(lines, reset, v_reset):
    rng = np.random.default_rng(0)
    threshold, (low, high) = 0.5, np.sort(rng.normal(0.4, 1, (2, 400)), 0)
    cell = snn.IFCell(threshold=threshold, reset=reset, v_reset=v_reset)
    on_spike, on_v = rng.normal(0, 1, (2, 3, 400))
    _, fire, _ = cell.fused_spec()
    h = Interval(*(ops.convert_to_tensor(b.astype("float32")) for b in (low, high)))
    args = (ops.convert_to_tensor(a.astype("float32")) for a in (on_spike, on_v))
    slope, offset = map(to_numpy, neurons.LINES[lines](h, fire, threshold, *args))
    distance = []
    for share in np.linspace(0, 1, 41):
        x = low + share * (high - low)
        spike = x >= threshold
        v = {"hard": np.where(spike, v_reset, x), "soft": x - spike * threshold, "none": x}[reset]
        distance.append(on_spike * spike + on_v * v - slope * x - offset)
    least = np.min(distance, axis=0)
    assert np.all(least > -1e-4)
    known = (low >= threshold) | (high < threshold)
    np.testing.assert_allclose(np.abs(distance)[:, :, known], 0, atol=1e-5)
    if lines == "envelope":  # it touches
        assert np.all(
            least[:, ~known] < 0.1 + 0.05 * np.abs(slope)[:, ~known] * (high - low)[~known]
        )


@pytest.fixture(scope="module")
def trained():
    """A small network that tells three kinds of images apart, and its images."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = np.repeat(np.eye(3), 3, axis=1)[labels] * 0.6 + rng.uniform(0, 0.4, (60, 9))
    layers = [L.Dense(12), snn.RepeatTime(4), snn.DecayLIF(decay=0.25, threshold=0.25)]
    model = keras.Sequential([keras.Input((9,)), *layers, L.Dense(3), snn.MeanOverTime()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=20, epochs=8, verbose=0)
    return model, images.astype("float32"), labels


@pytest.mark.once
def test_shares_of_certified_examples(trained):
    model, images, labels = trained
    accuracy = np.mean(to_numpy(model(images)).argmax(1) == labels)
    shares = {
        method: [robust.certify(model, (images, labels), eps, method) for eps in (0, 0.1, 0.3)]
        for method in ("ibp", "crown")
    }
    assert shares["ibp"][0] == shares["crown"][0] == accuracy > 0.9
    for found in shares.values():
        assert found == sorted(found, reverse=True) and found[-1] < 0.9
    assert all(a <= b for a, b in zip(shares["ibp"], shares["crown"])) and shares["crown"][1] > 0


def test_attacks_break_no_certificate(trained):
    model, images, labels = trained
    box, places = robust.box(images, 0.3), np.arange(60)
    lower, upper = map(to_numpy, box)
    found = robust.margins(model, box, labels)
    found[places, labels] = np.inf
    certified = found.min(axis=1) > 0
    assert certified.mean() == robust.certify(model, (images, labels), 0.3, batch_size=60)
    attacks = (
        robust.fgsm(model, images, labels, 0.3, batch_size=60),
        robust.pgd(model, images, np.eye(3)[labels], 0.3, 3, 2, seed=0, batch_size=60),
    )
    for attacked in attacks:
        assert np.all(lower <= attacked) and np.all(attacked <= upper)
        stays = to_numpy(model(attacked)).argmax(1) == labels
        assert np.all(stays[certified]) and certified.mean() <= stays.mean() < 0.9


def test_attacks_on_a_linear_model_go_where_its_weights_say():
    w = np.array([[1.0, -2.0], [0.5, 0.25], [-1.0, 1.0]])
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, "softmax", use_bias=False)])
    model.set_weights([50 * w])  # so that the softmax is 0 and 1 in float32
    x, labels = np.array([[0.9, 0.5, 0.1]] * 2, "float32"), [0, 1]
    step = np.sign(w[:, 1] - w[:, 0]) * np.array([[1], [-1]])
    wanted = np.clip(x + 0.2 * step, 0, 1)
    np.testing.assert_allclose(robust.fgsm(model, x, labels, 0.2), wanted, atol=1e-6)
    np.testing.assert_allclose(robust.pgd(model, x, labels, 0.2, steps=2), wanted, atol=1e-6)
    spikes = robust.unknown_spikes(np.ones((1, 3)), 1.0)
    np.testing.assert_array_equal(robust.fgsm(model, np.ones((1, 3)), [0], spikes), [[0, 0, 1]])


def test_poisson_codes_of_a_box_share_their_draws():
    layers = [L.Dense(4), snn.IF(threshold=0.5), L.Dense(3), snn.MeanOverTime()]
    model = keras.Sequential([keras.Input((6, 5)), *layers])
    encoder = snn.PoissonEncoder(6, gain=0.8)
    whole = keras.Sequential([keras.Input((5,)), encoder, *layers])
    images = np.random.default_rng(0).uniform(0.2, 0.8, (2, 5)).astype("float32")
    same = robust.poisson_box(images, 0.0, 6, seed=1)
    wide = robust.poisson_box(images, 0.1, 6, seed=1)
    narrow = [to_numpy(end) for end in (wide.lower, same.lower, same.upper, wide.upper)]
    assert all(np.all(a <= b) for a, b in itertools.pairwise(narrow))
    assert (
        abs(
            to_numpy(robust.poisson_box(images[:1], 0, 2000, 0.5, 0)[0]).mean((0, 1))
            - images[0] / 2
        ).max()
        < 0.05
    )
    data = (images, to_numpy(model(same.lower)).argmax(1))
    coded = functools.partial(robust.poisson_box, timesteps=6, seed=1)
    assert robust.certify(model, data, 0.0, box=coded) == 1
    # An encoder within the model: as it draws next.
    state = np.array(to_numpy(encoder.seed_generator.state.value))
    box = robust.box(images, 0.1)
    lower, upper = robust.bounds(whole, box, "crown")
    assert np.all(lower < upper)
    for share in (0, 0.3, 1):
        encoder.seed_generator.state.assign(state)
        scores = to_numpy(whole(box.lower + share * (box.upper - box.lower)))
        assert np.all(lower <= scores) and np.all(scores <= upper)


def test_unknown_spikes():
    spikes = np.random.default_rng(0).integers(0, 2, (2, 50, 40)).astype("float32")
    lower, upper = map(to_numpy, robust.unknown_spikes(spikes, 0.2, seed=0))
    assert set(np.unique(upper - lower)) == {0, 1} and abs((upper - lower).mean() - 0.2) < 0.02
    assert np.all(lower <= spikes) and np.all(spikes <= upper)
    np.testing.assert_array_equal(lower, to_numpy(robust.unknown_spikes(spikes, 0.2, seed=0)[0]))


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_gradients_of_margins(method):
    """Those of a network without spikes are those of finite differences."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(6, "relu"), L.Dense(3)])
    box = robust.box(np.random.default_rng(0).uniform(0, 1, (2, 4)), 0.1)
    box = robust.Box([box.lower], [box.upper])
    labels, kernel = ops.convert_to_tensor(np.array([0, 1])), model.layers[0].kernel

    def loss():
        return ops.sum(replay_margins(model, method, "authors", box, labels, False))

    _, _, (slope,) = gradients(loss, [kernel])
    value = np.array(to_numpy(kernel.value))
    direction = np.random.default_rng(1).normal(size=value.shape).astype("float32")
    ends = []
    for sign in (1, -1):
        kernel.assign(value + sign * 1e-3 * direction)
        ends.append(float(loss()))
    wanted = (ends[0] - ends[1]) / 2e-3
    np.testing.assert_allclose((slope * direction).sum(), wanted, rtol=0.02)


@pytest.mark.parametrize("method", first_everywhere("ibp", "crown"))
def test_robust_training(trained, method):
    model, images, labels = trained
    model = keras.models.clone_model(model)
    model.set_weights(trained[0].get_weights())
    train = robust.RobustModel(model, robust.Rise(0.05, steps=2), method=method, timesteps=2)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    train.compile(keras.optimizers.SGD(0.05, clipnorm=0.25), crossentropy)
    data = images[:30], labels[:30]
    before = model.get_weights()
    train.fit(*data, batch_size=10, epochs=1, verbose=0, shuffle=False)
    assert int(train.seen) == 3 and abs(float(train.current_eps) - 0.05) < 1e-7
    assert all(
        np.any(a != b) and np.all(np.isfinite(b)) for a, b in zip(before, model.get_weights())
    )
    found = train.evaluate(*data, batch_size=30, verbose=0)
    short = keras.Sequential([keras.Input((9,)), model.layers[0], snn.RepeatTime(2)])
    for layer in model.layers[2:]:
        short.add(layer)
    box = robust.box(ops.convert_to_tensor(data[0]), 0.05)  # training has no margin for rounding
    gaps = replay_margins(short, method, "authors", box, ops.cast(data[1], "int32"), False)
    worst = float(crossentropy(data[1], -gaps))
    wanted = 0.4 * float(crossentropy(data[1], model(data[0]))) + 0.6 * worst
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    with pytest.raises(NotImplementedError, match="Save the model inside"):
        train.get_config()


class Unknown(L.Layer):
    def call(self, x):
        return -x * x


REFUSED = {
    "unknown": (Unknown(), "there is no rule for it"),
    "adaptive": (snn.AdaptiveLIF(), "AdaptiveLIFCell does more than charge"),
    "delayed": (snn.DelayedLIF(), "DelayedLIFCell does more"),
    "parallel": (snn.PSN(), "there is no rule"),
    "state": (snn.LIF(return_state=True), "return_state=True"),
    "backwards": (snn.LIF(go_backwards=True), "go_backwards=True"),
    "latency": (snn.LatencyEncoder(2), "there is no rule"),
    "half": (L.Dense(3, dtype="mixed_bfloat16"), "computes in bfloat16"),
    "gelu": (L.Activation("gelu"), "there is no rule"),
    "elu": (L.ELU(alpha=-1.0), "alpha=-1.0"),
    "bicubic": (L.UpSampling2D(interpolation="bicubic"), "interpolation='bicubic'"),
    "lstm": (L.LSTM(3), "there is no rule"),
    "layer norm": (L.LayerNormalization(), "there is no rule"),
}


@pytest.mark.once
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name):
    layer, reason = REFUSED[name]
    inputs = keras.Input({"latency": (3,), "bicubic": (4, 4, 1)}.get(name, (4, 3)))
    layer.name = "this"
    outputs = keras.tree.flatten(layer(inputs))[0]
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(outputs)))
    with pytest.raises(
        TypeError, match=rf"this.* \({type(layer).__name__}.*has no bounds.*{reason}"
    ):
        robust.bounds(model, robust.box(np.zeros((1, *inputs.shape[1:])), 0.1))


@pytest.mark.once
def test_a_layer_of_ones_own():
    class Rises(L.Layer):
        def call(self, x):
            return x * x * x

    robust.register(Rises, robust.Monotone())
    model = keras.Sequential([keras.Input((1,)), Rises()])
    lower, upper = robust.bounds(model, robust.Box([[-1.0]], [[2.0]]), "crown")
    np.testing.assert_allclose([lower[0, 0], upper[0, 0]], [-1, 8], atol=1e-4)


def bad(trained, call):
    model, images, labels = trained
    data = (images, labels)
    return {
        "eps": lambda: robust.certify(model, data, -0.1),
        "eps of a box": lambda: robust.box(images, -1),
        "eps of an attack": lambda: robust.pgd(model, images, labels, -0.1),
        "eps of training": lambda: robust.RobustModel(model, -0.1),
        "eps is nan": lambda: robust.certify(model, data, float("nan")),
        "probability": lambda: robust.unknown_spikes(images, 1.5),
        "range": lambda: robust.box(images, 0.1, 1.0, 0.0),
        "method": lambda: robust.certify(model, data, 0.1, method="lp"),
        "lines": lambda: robust.margins(model, robust.box(images, 0.1), labels, lines="best"),
        "no labels": lambda: robust.certify(model, images, 0.1),
        "label": lambda: robust.certify(model, (images, labels + 1), 0.1),
        "labels": lambda: robust.margins(model, robust.box(images, 0.1), labels[:2]),
        "no box": lambda: robust.margins(model, images, labels),
        "crossed": lambda: robust.bounds(model, robust.Box(images, images - 0.1)),
        "infinite": lambda: robust.bounds(model, robust.Box(images, images / 0)),
        "shape": lambda: robust.bounds(model, robust.box(images[:, :4], 0.1)),
        "steps": lambda: robust.pgd(model, images, labels, 0.1, steps=0),
        "weight": lambda: robust.RobustModel(model, 0.1, weight=2),
        "scores": lambda: robust.margins(
            keras.Model(model.inputs, model.layers[2].output), robust.box(images, 0.1), labels
        ),
    }[call]


BAD = {
    "eps": "`eps`, expected a number of at least 0, got -0.1",
    "eps of a box": "`eps`",
    "eps of an attack": "`eps`",
    "eps of training": "`eps`",
    "eps is nan": "`eps`",
    "probability": "`eps`, expected a number of at least 0 of at most 1",
    "range": "`maximum`",
    "method": "`method`, expected one of",
    "lines": "`lines`, expected one of",
    "no labels": "need labels",
    "label": "`labels`, expected 32 integers from 0 to 2",
    "labels": "`labels`, expected 60 integers",
    "no box": "`box`, expected a `Box`",
    "crossed": "`box`, expected finite bounds",
    "infinite": "`box`, expected finite bounds",
    "shape": r"expected bounds of the shape \(batch, 9\), got \(60, 4\)",
    "steps": "`steps`",
    "weight": "`weight`",
    "scores": "a score for each class",
}


@pytest.mark.once
@pytest.mark.parametrize("call", BAD)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input(trained, call):
    with pytest.raises(ValueError, match=BAD[call]):
        bad(trained, call)()
