"""Losses on sequences against their formulas in numpy, and in training."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import layers, ops
from keras.src.backend import set_keras_mask

from keras_snn import layers as snn
from keras_snn import losses, regularizers, training


def softmax_crossentropy(labels, logits):
    shifted = logits - logits.max(-1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.take_along_axis(log, labels[..., None], -1)[..., 0]


def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 5, 6), rng.normal(size=(6, 7, 5)).astype("float32")


def first_spikes(spikes):
    found = spikes.argmax(1).astype(float)
    return np.where(spikes.any(1), found, spikes.shape[1])


def reference(name, y, x):
    if name == "mean":
        return softmax_crossentropy(y, x.mean(1))
    if name == "max":
        return softmax_crossentropy(y, x.max(1))
    if name == "tet":
        each = np.stack([softmax_crossentropy(y, x[:, t]) for t in range(7)], 1).mean(1)
        return 0.8 * each + 0.2 * ((x - 0.5) ** 2).mean((1, 2))
    if name == "count":
        wanted = np.full((6, 5), 0.2)
        wanted[np.arange(6), y] = 0.7
        return ((x.mean(1) - wanted) ** 2).mean(-1)
    return softmax_crossentropy(y, -first_spikes(x) / 2)


LOSSES = {
    "mean": (losses.TemporalMeanCrossentropy(), False),
    "max": (losses.MaxMembraneCrossentropy(), False),
    "tet": (losses.TemporalEfficientCrossentropy(0.2, 0.5), False),
    "count": (losses.SpikeCountLoss(0.7, 0.2), True),
    "first": (losses.FirstSpikeCrossentropy(2.0), True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name):
    loss, spikes = LOSSES[name]
    y, x = data()
    x = (x > 0.8).astype("float32") if spikes else x
    wanted = reference(name, y, x.astype("float64"))
    np.testing.assert_allclose(to_numpy(loss.call(y, x)), wanted, rtol=1e-5, atol=1e-6)
    assert float(loss(y, x)) == pytest.approx(wanted.mean(), rel=1e-5)
    assert float(loss(y[:, None], x)) == pytest.approx(wanted.mean(), rel=1e-5)
    _, (dx,), _ = gradients(lambda z: loss(ops.convert_to_tensor(y), z), [], x)
    assert np.isfinite(dx).all() and np.abs(dx).max() > 0


def one_hot(y):
    return np.eye(5, dtype="float32")[y]


@pytest.mark.parametrize("name", LOSSES)
def test_one_hot_and_soft_labels(name):
    loss, _ = LOSSES[name]
    y, x = data()
    x = (x > 0.8).astype("float32")
    np.testing.assert_allclose(
        to_numpy(loss.call(one_hot(y), x)), to_numpy(loss.call(y, x)), rtol=1e-5, atol=1e-6
    )
    if name == "count":  # quadratic: of mixed labels by hand
        found = loss.call(0.3 * one_hot(y) + 0.7 * one_hot((y + 1) % 5), x)
        wanted = 0.2 + 0.5 * (0.3 * one_hot(y) + 0.7 * one_hot((y + 1) % 5))
        expected = ((x.mean(1) - wanted) ** 2).mean(-1)
    else:  # cross-entropies are linear in the labels
        other = (y + 1) % 5
        found = loss.call(0.3 * one_hot(y) + 0.7 * one_hot(other), x)
        expected = 0.3 * reference(name, y, x.astype("float64"))
        expected = expected + 0.7 * reference(name, other, x.astype("float64"))
    np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-5, atol=1e-6)


SMOOTH = {
    "mean": losses.TemporalMeanCrossentropy(label_smoothing=0.1),
    "max": losses.MaxMembraneCrossentropy(label_smoothing=0.1),
    "tet": losses.TemporalEfficientCrossentropy(0.2, 0.5, label_smoothing=0.1),
    "first": losses.FirstSpikeCrossentropy(2.0, label_smoothing=0.1),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_label_smoothing(name):
    """A tenth of each label goes to all classes alike; the pull of TET is that of any label."""
    loss = SMOOTH[name]
    y, x = data()
    x = (x > 0.8).astype("float32")
    of_each_class = [reference(name, np.full(6, c), x.astype("float64")) for c in range(5)]
    wanted = 0.9 * reference(name, y, x.astype("float64")) + 0.1 * np.mean(of_each_class, 0)
    for labels in (y, y[:, None], one_hot(y)):
        np.testing.assert_allclose(to_numpy(loss.call(labels, x)), wanted, rtol=1e-5, atol=1e-6)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.label_smoothing == 0.1 and again.get_config() == loss.get_config()


@pytest.mark.parametrize("name", LOSSES)
def test_masked_steps_do_not_count(name):
    """Each example's loss is that of its other steps alone, and examples weigh as they are told."""
    loss, _ = LOSSES[name]
    y, x = data()
    x = (x > 0.8).astype("float32")
    mask = np.random.default_rng(1).random((6, 7)) < 0.6
    mask[:, 3] = True
    inputs = layers.Input((7, 5))
    outputs = layers.Activation("linear")(layers.Masking(mask_value=9.0)(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss)
    weights = np.arange(1.0, 7.0)
    found = model.evaluate(
        np.where(mask[..., None], x, 9.0), y, sample_weight=weights, batch_size=6, verbose=0
    )
    wanted = [to_numpy(loss.call(y[i : i + 1], x[i : i + 1, mask[i]]))[0] for i in range(6)]
    assert found == pytest.approx(np.mean(weights * wanted), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_saved_and_refused(name):
    loss, _ = LOSSES[name]
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    with pytest.raises(ValueError, match=r"\(batch, time, classes\)"):
        loss(np.zeros(2, int), np.zeros((2, 3), "float32"))
    for labels in (np.zeros((2, 4)), np.zeros((2, 3, 5))):
        with pytest.raises(ValueError, match=r"integer labels \(batch,\) or labels \(batch, 5\)"):
            loss(labels, np.zeros((2, 3, 5), "float32"))
    with pytest.raises(ValueError, match="at least one time step"):
        loss(np.zeros(2, int), np.zeros((2, 0, 5), "float32"))
    for shape in ((2, 2), (2, 4), (1, 3), (2, 3, 1)):
        outputs = ops.zeros((2, 3, 5))
        set_keras_mask(outputs, ops.ones(shape, "bool"))
        with pytest.raises(ValueError, match="mask of shape"):
            loss(np.zeros(2, int), outputs)
    type(type(loss).__name__, (type(loss),), {})  # leaves the name to ours
    assert type(keras.losses.deserialize(keras.losses.serialize(loss))) is type(loss)


def test_bad_arguments():
    for make in (
        lambda: losses.TemporalEfficientCrossentropy(weight=2),
        lambda: losses.SpikeCountLoss(correct_rate=-1),
        lambda: losses.FirstSpikeCrossentropy(scale=0),
        lambda: regularizers.RateRegularizer(minimum=0.5, maximum=0.2),
        lambda: regularizers.MembraneRegularizer(minimum=0.5, maximum=0.2),
        lambda: regularizers.MembraneRegularizer(strength=-1),
        lambda: losses.TemporalMeanCrossentropy(label_smoothing=1.5),
    ):
        with pytest.raises(ValueError):
            make()


def test_rates_are_pulled_into_their_range():
    inputs = layers.Input((8, 6))
    penalty = regularizers.RateRegularizer(5.0, minimum=0.2, maximum=0.4)
    x = layers.Dense(16, kernel_initializer="zeros", name="dense")(inputs)
    spikes = snn.LIF(activity_regularizer=penalty, name="neuron")(x)
    model = keras.Model(inputs, spikes)
    model.compile(keras.optimizers.Adam(0.05), lambda y, z: 0.0 * ops.sum(z))
    data = np.random.default_rng(0).random((32, 8, 6)).astype("float32")
    assert model.predict(data, verbose=0).mean() == 0
    model.fit(data, np.zeros((32, 8, 16)), epochs=60, verbose=0)
    assert model.predict(data, verbose=0).mean() > 0.15


def test_membrane_penalty_by_formula():
    penalty = regularizers.MembraneRegularizer(3.0, minimum=-0.5, maximum=1.0)
    x = np.random.default_rng(0).normal(size=(4, 5, 6)).astype("float32")
    distance = np.maximum(x - 1.0, 0) + np.maximum(-0.5 - x, 0)
    value, (dx,), _ = gradients(penalty, [], x)
    assert value == pytest.approx(3 * (distance**2).mean(), rel=1e-5)
    np.testing.assert_allclose(dx, 6 * np.sign(x) * distance / x.size, rtol=1e-4, atol=1e-8)
    assert float(penalty(ops.full((1, 2, 2), 1000.0, dtype="float16"))) == pytest.approx(3 * 999**2)
    again = keras.regularizers.deserialize(keras.regularizers.serialize(penalty))
    assert again.get_config() == penalty.get_config()


def test_potentials_are_pulled_into_their_range():
    inputs = layers.Input((8, 6))
    x = layers.Dense(4, kernel_initializer="ones")(inputs)
    penalty = regularizers.MembraneRegularizer(minimum=-1.0, maximum=1.0)
    model = keras.Model(inputs, snn.LeakyIntegrator(activity_regularizer=penalty)(x))
    model.compile(keras.optimizers.Adam(0.05), lambda y, z: 0.0 * ops.sum(z))
    data = np.random.default_rng(0).random((32, 8, 6)).astype("float32")
    assert model.predict(data, verbose=0).max() > 2
    model.fit(data, np.zeros((32, 8, 4)), epochs=40, verbose=0)
    assert np.abs(model.predict(data, verbose=0)).mean() < 1
    assert np.abs(model.predict(data, verbose=0)).max() < 1.5


RATE = regularizers.RateRegularizer(2.0, minimum=0.5, maximum=0.6)
MEMBRANE = regularizers.MembraneRegularizer(3.0, minimum=-0.1, maximum=0.2)
# Layers with a penalty on their activity, and which steps of the mask count in their outputs.
PENALISED = {
    "neuron": lambda p: snn.LIF(tau=1.2, decay_input=False, activity_regularizer=p),
    "states": lambda p: snn.IF(reset="soft", return_state=True, activity_regularizer=p),
    "backwards": lambda p: snn.IF(go_backwards=True, activity_regularizer=p),
    "recurrent": lambda p: snn.Recurrent(
        snn.IFCell(), layers.Dense(3, "relu"), activity_regularizer=p
    ),
    "parallel": lambda p: snn.SlidingPSN(2, activity_regularizer=p),
    "fold": lambda p: snn.FoldTime(layers.Dense(4), activity_regularizer=p),
    "folded": lambda p: snn.FoldTime(layers.Dense(4, activity_regularizer=p)),
    "folded normalisation": lambda p: snn.FoldTime(
        layers.BatchNormalization(activity_regularizer=p)
    ),
    "tdBN": lambda p: snn.ThresholdDependentBatchNormalization(activity_regularizer=p),
    "last": lambda p: snn.Accumulator(return_sequences=False, activity_regularizer=p),
    "readout": lambda p: snn.MeanOverTime(activity_regularizer=p),
    "potential": lambda p: snn.MembraneReadout(activity_regularizer=p),
}


def penalty_by_hand(penalty, y):
    """Of `y`, `(steps, neurons)`."""
    value = y.mean(0) if penalty is RATE else y
    distance = np.maximum(value - penalty.maximum, 0) + np.maximum(penalty.minimum - value, 0)
    return penalty.strength * (distance**2).mean()


@pytest.mark.parametrize("penalty", [RATE, MEMBRANE])
@pytest.mark.parametrize("name", PENALISED)
def test_penalties_of_layers(name, penalty):
    """The same for any batch, without masked steps and states."""
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    mask = np.random.default_rng(1).random((4, 5)) < 0.6
    for size, kept in ((1, None), (4, None), (4, mask)):
        layer = PENALISED[name](penalty)
        outputs = to_numpy(layer(x[:size], mask=kept))
        y = (outputs[0] if isinstance(outputs, tuple) else outputs).astype("float64")
        if y.ndim == 3:
            counts = np.ones((size, 5), bool) if kept is None else kept
            y = y[counts[:, ::-1] if name == "backwards" else counts]
        found = sum(float(loss) for loss in to_numpy(layer.losses))
        assert found == pytest.approx(penalty_by_hand(penalty, y), rel=1e-4)


def test_penalties_of_plain_layers_and_of_no_step():
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    for size in (1, 4):
        layer = layers.Dense(3, activity_regularizer=MEMBRANE)
        y = to_numpy(layer(x[:size])).reshape(-1, 3)
        found = float(to_numpy(layer.losses)[0])
        assert found == pytest.approx(penalty_by_hand(MEMBRANE, y), rel=1e-5)
    layer = snn.IF(activity_regularizer=RATE)
    layer(x, mask=np.zeros((4, 5), bool))
    assert float(to_numpy(layer.losses)[0]) == 0
    with pytest.raises(ValueError, match=r"RateRegularizer needs outputs \(batch, time"):
        layers.Dense(3, activity_regularizer=RATE)(x[:, 0])


def test_penalties_of_keras_are_as_keras_has_them():
    x = 3 * np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    layer = snn.LIF(activity_regularizer=keras.regularizers.L2(0.1))
    spikes = to_numpy(layer(x))
    assert float(to_numpy(layer.losses)[0]) == pytest.approx(0.1 * spikes.sum() / 4, rel=1e-5)


def test_penalties_in_a_compiled_model():
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    mask = np.random.default_rng(1).random((4, 5)) < 0.6
    inputs = layers.Input((5, 3))
    neuron = PENALISED["neuron"](RATE)
    model = keras.Model(inputs, neuron(layers.Masking(9.0)(inputs)))
    model.compile("sgd", lambda y, z: 0.0 * ops.sum(z))
    padded = np.where(mask[..., None], x, 9.0)
    found = model.evaluate(padded, np.zeros((4, 5, 3)), verbose=0)
    wanted = penalty_by_hand(RATE, to_numpy(neuron(x, mask=mask))[mask].astype("float64"))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_parity_with_snntorch():
    torch = pytest.importorskip("torch", exc_type=ImportError)
    peer = pytest.importorskip("snntorch.functional", exc_type=ImportError)
    y, x = data()
    theirs = float(peer.ce_max_membrane_loss()(torch.tensor(x.transpose(1, 0, 2)), torch.tensor(y)))
    assert float(losses.MaxMembraneCrossentropy()(y, x)) == pytest.approx(theirs, rel=1e-5)
    spikes = (x > 0.5).astype("float32")
    count = peer.mse_count_loss(correct_rate=0.9, incorrect_rate=0.1)
    theirs = float(count(torch.tensor(spikes.transpose(1, 0, 2)), torch.tensor(y)))
    # It rounds the wanted counts of 7 steps down, to 6 and 0, and has squared counts over time.
    ours = float(losses.SpikeCountLoss(6 / 7, 0.0)(y, spikes))
    assert 7 * ours == pytest.approx(theirs, rel=1e-5)
    steps = peer.ce_rate_loss()(torch.tensor(x.transpose(1, 0, 2)), torch.tensor(y))
    ours = float(losses.TemporalEfficientCrossentropy(weight=0.0)(y, x))
    assert ours == pytest.approx(float(steps), rel=1e-5)


def test_every_step_is_the_network_before_its_readout():
    inputs = keras.Input((5, 3))
    x = snn.LIF(tau=1.5)(layers.Dense(16)(inputs))
    model = keras.Model(inputs, layers.Dense(4)(snn.MeanOverTime()(x)))
    net = training.every_step(model)
    x = 3 * np.random.default_rng(0).normal(size=(6, 5, 3)).astype("float32")
    steps = to_numpy(net(x))
    assert steps.shape == (6, 5, 4) and steps.std() > 0
    np.testing.assert_allclose(steps.mean(1), to_numpy(model(x)), atol=1e-6)
    net.compile("sgd", losses.TemporalEfficientCrossentropy())
    before = to_numpy(model(x))
    net.fit(x, np.zeros(6), verbose=0)
    assert (to_numpy(model(x)) != before).any()
    with pytest.raises(ValueError, match="one readout over time.*has 0"):
        training.every_step(net)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others know all sizes")
def test_first_spikes_need_a_known_number_of_steps():
    import tensorflow as tf

    loss, spec = losses.FirstSpikeCrossentropy(), tf.TensorSpec((2, None, 3), "float32")
    with pytest.raises(ValueError, match=r"known number of steps, got the shape \(2, None, 3\)"):
        tf.function(lambda x: loss([0, 1], x)).get_concrete_function(spec)


@pytest.mark.parametrize(
    "make",
    [
        lambda penalty: snn.SpikingRNN(snn.LIFCell(activity_regularizer=penalty)),
        lambda penalty: snn.SpikingRNN([snn.IFCell(), snn.LIFCell(activity_regularizer=penalty)]),
        lambda penalty: snn.Recurrent(
            snn.LIFCell(), layers.Dense(3, activity_regularizer=penalty), name="loop"
        ),
    ],
)
@pytest.mark.parametrize("penalty", [regularizers.RateRegularizer(), keras.regularizers.L2()])
def test_penalties_of_one_step_are_refused(make, penalty):
    with pytest.raises(ValueError, match="activity_regularizer.*within"):
        make(penalty)


def test_the_old_name_of_the_weight_works_and_warns():
    with pytest.warns(DeprecationWarning, match=r"\(lam=...\)` is now .*\(weight=...\)`"):
        loss = losses.TemporalEfficientCrossentropy(lam=0.25)
    assert loss.get_config()["weight"] == 0.25 and "lam" not in loss.get_config()
    with pytest.warns(DeprecationWarning):  # files of the last release
        old = losses.TemporalEfficientCrossentropy.from_config({"lam": 0.5})
    assert old.weight == 0.5
