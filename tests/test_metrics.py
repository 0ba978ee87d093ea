"""Metrics on sequences against their definitions in numpy, step by step."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.backend import set_keras_mask

from keras_snn import layers as snn
from keras_snn import losses, metrics

BATCH, STEPS, CLASSES = 12, 7, 5
rng = np.random.default_rng(0)
OUTPUTS = rng.normal(size=(BATCH, STEPS, CLASSES)).astype("float32")
LABELS = rng.integers(0, CLASSES, BATCH)
WEIGHTS = rng.random(BATCH).astype("float32")
# Two steps that count at least, not in one piece and not from the first on.
MASK = rng.random((BATCH, STEPS)) < 0.6
MASK[:, [1, 4]] = True


def kept(outputs, mask):
    """The steps of each example that count."""
    return [x[m] for x, m in zip(outputs, mask)]


# Half of the answers are right by the steps that count.
LABELS[::2] = [x.mean(0).argmax() for x in kept(OUTPUTS, MASK)][::2]


def rates(sequences):
    return [x.mean() for x in sequences]


def right(sequences):
    return [x.mean(0).argmax() == y for x, y in zip(sequences, LABELS)]


def settled(sequences):
    found = []
    for x in sequences:
        answers = [x[: t + 1].mean(0).argmax() for t in range(len(x))]
        found.append(next(t for t in range(len(x)) if len(set(answers[t:])) == 1) + 1)
    return found


def confident(sequences, confidence=0.5):
    found = []
    for x in sequences:
        means = [x[: t + 1].mean(0) for t in range(len(x))]
        best = [(np.exp(m) / np.exp(m).sum()).max() for m in means]
        found.append(next((t + 1 for t, p in enumerate(best) if p >= confidence), len(x)))
    return found


CASES = {
    "rate": (metrics.SpikeRate, {}, rates),
    "accuracy": (metrics.TemporalMeanAccuracy, {}, right),
    "settled": (metrics.TimeToDecision, {}, settled),
    "confident": (metrics.TimeToDecision, {"confidence": 0.5}, confident),
}


@pytest.mark.parametrize("name", CASES)
def test_values_weights_and_batches(name):
    cls, arguments, reference = CASES[name]
    wanted = np.array(reference(list(OUTPUTS)), "float64")
    assert len(set(wanted)) > 1  # else the weights would not matter
    metric = cls(**arguments)
    for part in (slice(0, 5), slice(5, None)):
        metric.update_state(LABELS[part], OUTPUTS[part])
    assert float(metric.result()) == pytest.approx(wanted.mean(), rel=1e-5)
    for weights in (WEIGHTS, WEIGHTS[:, None]):
        metric.reset_state()
        metric.update_state(LABELS, OUTPUTS, weights)
        wanted_mean = np.average(wanted, weights=WEIGHTS)
        assert float(metric.result()) == pytest.approx(wanted_mean, rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_masked_steps_do_not_count(name):
    """In a compiled model, whose layers pass the mask on."""
    cls, arguments, reference = CASES[name]
    inputs = layers.Input((STEPS, CLASSES))
    # What is masked is large: it would change every value.
    masked = layers.Masking(mask_value=9.0)(inputs)
    model = keras.Model(inputs, layers.Activation("linear")(masked))
    metric = cls(**arguments)
    loss = losses.TemporalMeanCrossentropy()
    model.compile("sgd", loss, weighted_metrics=[metric])
    data = np.where(MASK[..., None], OUTPUTS, 9.0)
    found = model.evaluate(
        data, LABELS, sample_weight=WEIGHTS, batch_size=5, verbose=0, return_dict=True
    )
    wanted = np.average(reference(kept(OUTPUTS, MASK)), weights=WEIGHTS)
    assert found[metric.name] == pytest.approx(wanted, rel=1e-5)
    assert abs(np.average(reference(list(OUTPUTS)), weights=WEIGHTS) - wanted) > 1e-3


def test_labels_of_all_forms():
    wanted = np.mean(right(list(OUTPUTS)))
    one_hot = np.eye(CLASSES, dtype="float32")[LABELS]
    for labels in (LABELS, LABELS[:, None], one_hot, 0.6 * one_hot + 0.4 / CLASSES):
        metric = metrics.TemporalMeanAccuracy()
        metric.update_state(labels, OUTPUTS)
        assert float(metric.result()) == pytest.approx(wanted)


def test_rates_of_maps_and_of_layers():
    spikes = (rng.random((3, 4, 2, 5, 6)) < 0.3).astype("float32")
    for x in (spikes, spikes[..., 0, 0, 0]):
        metric = metrics.SpikeRate()
        metric.update_state(None, x)
        assert float(metric.result()) == pytest.approx(x.mean(), rel=1e-6)


def test_decisions_by_hand():
    metric = metrics.TimeToDecision()
    flips = [[[2.0, 0.0], [0.0, 3.0], [2.5, 0.0], [0.0, 9.0]]]  # 0, 1, 0, 1 in the running mean
    metric.update_state(None, flips)
    assert float(metric.result()) == 4
    metric.reset_state()
    metric.update_state(None, [[[0.0, 1.0]] * 4])
    assert float(metric.result()) == 1
    # A logit difference of ln 3 is a probability of 3/4; the mean of 2 ln 3 and 0 comes second.
    two = [[[0.0, 0.0], [2.002 * np.log(3), 0.0], [0.0, 0.0], [0.0, 0.0]]]
    for confidence, steps in ((0.5, 1), (0.75, 2), (0.8, 4), (1.0, 4)):
        metric = metrics.TimeToDecision(confidence)
        metric.update_state(None, two)
        assert float(metric.result()) == steps


def test_long_sequences_in_float16_are_summed_in_float32():
    outputs = np.full((1, 100, 2), 1000.0, "float16")
    outputs[0, :, 1] += 1
    metric = metrics.TemporalMeanAccuracy()
    metric.update_state([1], ops.convert_to_tensor(outputs))
    assert float(metric.result()) == 1


def test_training_logs_them():
    inputs = layers.Input((STEPS, CLASSES))
    outputs = snn.LeakyIntegrator()(layers.Dense(3)(snn.LIF()(inputs)))
    model = keras.Model(inputs, outputs)
    watched = [cls(**arguments) for cls, arguments, _ in list(CASES.values())[:3]]
    model.compile("sgd", lambda y, z: ops.mean(ops.square(z)), metrics=watched)
    history = model.fit(OUTPUTS, LABELS % 3, verbose=0, validation_split=0.5).history
    for metric in watched:
        assert np.isfinite(history[metric.name]).all() and f"val_{metric.name}" in history


@pytest.mark.parametrize("name", CASES)
def test_saved_and_refused(name):
    cls, arguments, _ = CASES[name]
    metric = cls(name="mine", **arguments)
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert type(again) is cls and again.get_config() == metric.get_config()
    with pytest.raises(ValueError, match=r"\(batch, time"):
        metric.update_state(LABELS, OUTPUTS[:, 0, 0])
    with pytest.raises(ValueError, match="one weight for each example"):
        metric.update_state(LABELS, OUTPUTS, np.ones((BATCH, STEPS)))
    with pytest.raises(ValueError, match="at least one time step"):
        metric.update_state(LABELS, OUTPUTS[:, :0])
    for shape in ((BATCH, STEPS - 1), (BATCH, STEPS + 1), (1, STEPS), (BATCH, STEPS, 1)):
        outputs = ops.convert_to_tensor(OUTPUTS)
        set_keras_mask(outputs, ops.ones(shape, "bool"))
        with pytest.raises(ValueError, match="mask of shape"):
            metric.update_state(LABELS, outputs)
    type(cls.__name__, (cls,), {})  # leaves the name to ours
    assert type(keras.metrics.deserialize(keras.metrics.serialize(metric))) is cls


def test_bad_arguments():
    for confidence in (0, 1.5, "sure"):
        with pytest.raises(ValueError, match="confidence"):
            metrics.TimeToDecision(confidence)
    for labels in (np.zeros((BATCH, 3)), np.zeros((BATCH, STEPS, CLASSES))):
        with pytest.raises(ValueError, match="integer labels"):
            metrics.TemporalMeanAccuracy().update_state(labels, OUTPUTS)


def test_smape_equals_neurobench():
    rng = np.random.default_rng(0)
    y, z = rng.normal(1, 1, (2, 40, 3)).astype("float32")
    metric = metrics.SymmetricMeanAbsolutePercentageError()
    for start, end in ((0, 15), (15, 40)):  # batches of different sizes
        metric.update_state(y[start:end], z[start:end])
    found = float(metric.result())
    double = 200 * np.mean(np.abs(y - z) / (np.abs(y) + np.abs(z)), dtype="float64")
    assert found == pytest.approx(double, rel=1e-5)
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    again.update_state(np.array([[0.0], [1.0]]), np.array([[0.0], [-1.0]]))
    assert float(again.result()) == 100  # where both are 0 there is no error
    again.reset_state()
    again.update_state(np.ones((2, 1)), np.array([[1.0], [3.0]]), sample_weight=np.array([3, 1]))
    assert float(again.result()) == 25
    with pytest.raises(ValueError, match=r"same shape, got \(40,\) and \(40, 1\)"):
        metric.update_state(y[:, 0], z[:, :1])
    smape = pytest.importorskip("neurobench.metrics.workload", exc_type=ImportError).SMAPE()
    torch = pytest.importorskip("torch")
    theirs = smape(None, torch.tensor(z), (None, torch.tensor(y)))
    assert found == pytest.approx(theirs, rel=1e-5)
