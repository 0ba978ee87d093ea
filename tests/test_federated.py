"""Federated training: the pieces, and Flower's apps where it is installed."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_snn import federated
from keras_snn import layers as snn
from keras_snn.optimizers import SGD

LABELS = np.random.default_rng(0).integers(0, 10, 2000)


def is_division(parts, count):
    return np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))


@pytest.mark.once
def test_even_splits():
    parts = federated.iid_split(LABELS[:103], 10, seed=3)
    assert is_division(parts, 103) and {len(part) for part in parts} == {10, 11}
    again, other = (federated.iid_split(LABELS[:103], 10, seed) for seed in (3, 4))
    assert np.array_equal(parts[0], again[0]) and not np.array_equal(parts[0], other[0])


@pytest.mark.once
@pytest.mark.parametrize("alpha", [1e-3, 0.5, 1e4])
def test_dirichlet_splits(alpha):
    for seed in range(5):
        parts = federated.dirichlet_split(LABELS, 5, alpha, 10, seed)
        assert is_division(parts, len(LABELS)) and min(map(len, parts)) >= 10
        again = federated.dirichlet_split(LABELS, 5, alpha, 10, seed)
        assert all(map(np.array_equal, parts, again))
        # Who had an even share before a class got none of it.
        counts = np.array([np.bincount(LABELS[part], minlength=10) for part in parts])
        before = np.cumsum(counts, axis=1) - counts
        assert not counts[before >= len(LABELS) / 5].any()
    if alpha == 1e4:  # nearly even; later classes go to those that have not their share yet
        assert np.abs(counts[:, :5] / np.bincount(LABELS)[:5] - 0.2).max() < 0.02
    if alpha == 1e-3:  # a class has one client
        assert (np.sort(counts, axis=0)[:-1] == 0).mean() > 0.9


@pytest.mark.once
def test_the_first_class_has_the_shares_of_a_dirichlet_distribution():
    """Its first client's share is of a beta distribution with alpha and (clients - 1) alpha."""
    shares = [
        (LABELS[p[0]] == 0).sum() / (LABELS == 0).sum()
        for p in (federated.dirichlet_split(LABELS, 4, 0.5, 1, seed) for seed in range(400))
    ]
    a, b = 0.5, 1.5
    variance = a * b / ((a + b) ** 2 * (a + b + 1))
    assert np.mean(shares) == pytest.approx(a / (a + b), abs=4 * np.sqrt(variance / 400))
    assert np.var(shares) == pytest.approx(variance, rel=0.25)


@pytest.mark.once
def test_bad_input_is_refused():
    cases = [
        (lambda: federated.iid_split(LABELS, 1), "`clients`.*at least 2, got 1"),
        (lambda: federated.dirichlet_split(LABELS, 1), "`clients`.*at least 2, got 1"),
        (lambda: federated.dirichlet_split(LABELS, 5, alpha=0), "`alpha`.*above 0, got 0"),
        (lambda: federated.dirichlet_split(LABELS, 5, alpha=-1.0), "`alpha`.*above 0, got -1"),
        (lambda: federated.dirichlet_split(LABELS, 5, alpha=float("nan")), "`alpha`"),
        (lambda: federated.dirichlet_split(LABELS, 300), "need 3000, got 2000"),
        (lambda: federated.dirichlet_split(LABELS[:300], 30, 1e-3), "None of 1000 splits"),
        (lambda: federated.dirichlet_split(np.eye(30), 2), r"got shape \(30, 30\)"),
        (lambda: federated.mean_weights([]), "no client"),
        (lambda: federated.mean_weights([[np.ones(2)], [np.ones(3)]]), r"\(2,\)\] and \[\(3,\)"),
        (lambda: federated.mean_weights([[np.ones(2)], []]), r"got \[\(2,\)\] and \[\]"),
        (lambda: federated.in_time([1], 1.5, None), "`probability`"),
        (lambda: federated.in_time([], 0.5, None), "needs clients"),
        (lambda: federated.add_noise([np.ones(2)], [np.ones(2)], -1, None), "`scale`"),
        (lambda: federated.add_noise([np.ones(2)], [np.ones(3)], 1, None), "same shapes"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.once
def test_means_of_weights():
    rng = np.random.default_rng(0)
    clients = [[rng.normal(size=(3, 2)), rng.integers(0, 9, 4)] for _ in range(3)]
    mean = federated.mean_weights(clients)
    np.testing.assert_allclose(mean[0], sum(c[0] for c in clients) / 3, rtol=1e-15)
    assert mean[1].dtype == clients[0][1].dtype
    for a, b in zip(mean, federated.mean_weights(clients[::-1])):
        np.testing.assert_allclose(a, b, rtol=1e-15)
    for a, b in zip(federated.mean_weights(clients[:1] * 4), clients[0]):
        np.testing.assert_array_equal(a, b)


@pytest.mark.once
def test_stragglers():
    rng = np.random.default_rng(0)
    kept = [federated.in_time(range(6), 0.3, rng) for _ in range(2000)]
    assert all(clients[0] == 0 and clients == sorted(clients) for clients in kept)
    share = np.mean([len(clients) - 1 for clients in kept]) / 5
    assert share == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / 10_000))
    assert federated.in_time(range(6), 0, rng) == list(range(6))


@pytest.mark.once
def test_noise_has_the_size_of_the_update():
    rng = np.random.default_rng(0)
    before = [np.zeros(100_000, "float32"), np.ones(3), np.zeros((0, 2))]
    after = [rng.normal(2, 1, 100_000).astype("float32"), np.ones(3), np.zeros((0, 2))]
    noisy = federated.add_noise(before, after, 0.5, rng)
    assert np.std(noisy[0] - after[0]) == pytest.approx(0.5 * np.abs(after[0]).mean(), rel=0.02)
    assert noisy[0].dtype == np.float32
    np.testing.assert_array_equal(noisy[1], after[1])
    np.testing.assert_array_equal(federated.add_noise(before, after, 0, rng)[0], after[0])


def spiking(momentum=0.9):
    """A network with normalisation of each step, compiled."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((3, 4))
    x = layers.Dense(6)(x)
    x = snn.LIF()(snn.BatchNormalizationThroughTime(3)(x))
    model = keras.Model(inputs, snn.MeanOverTime()(layers.Dense(2)(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(SGD(0.1, momentum=momentum, weight_decay=1e-4), loss, metrics=["accuracy"])
    return model


def data(number, count=20):
    rng = np.random.default_rng(number)
    labels = rng.integers(0, 2, count)
    return rng.normal(labels[:, None, None], 1, (count, 3, 4)).astype("float32"), labels


def assert_same(one, other, rtol=1e-6):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7)


def test_a_client_trains_as_a_model_alone():
    """Nothing of the optimizer goes from a client to the next; its batches are full."""
    model, (x, y) = spiking(), data(0)
    start = model.get_weights()
    alone = spiking()
    alone.optimizer.learning_rate = 0.05
    rng = np.random.default_rng(7)
    for _ in range(2):
        chosen = rng.permutation(20)[:16]  # of 20 examples, batches of 8
        alone.fit(x[chosen], y[chosen], batch_size=8, shuffle=False, verbose=0)
    expected = alone.get_weights()
    options = {"batch_size": 8, "rate": 0.05, "seed": 7}
    first, logs = federated.train_client(model, start, x, y, **options)
    other, _ = federated.train_client(model, start, *data(1), **options)
    again, _ = federated.train_client(model, start, x, y, **options)
    assert_same(first, expected)
    assert_same(first, again)
    assert set(logs) == {"loss", "accuracy"} and np.isfinite(logs["loss"])
    # The statistics of each step are among what is averaged.
    names = [w.path.rsplit("/", 1)[-1] for w in model.weights]
    places = [place for place, name in enumerate(names) if name == "moving_mean"]
    assert len(places) == 3
    mean = federated.mean_weights([first, other])
    for place in places:
        assert np.abs(first[place] - start[place]).max() > 0.01
        np.testing.assert_allclose(mean[place], (first[place] + other[place]) / 2, rtol=1e-6)


@pytest.mark.once
def test_clients_that_cannot_train_are_refused():
    model = spiking()
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        federated.train_client(model, model.get_weights(), *data(0, 0))
    with pytest.raises(ValueError, match="should be compiled"):
        federated.train_client(keras.Model(model.inputs, model.outputs), [], *data(0))
    inputs = keras.Input((3, 4), batch_size=1)
    stateful = keras.Model(inputs, snn.LIF(stateful=True)(inputs))
    stateful.compile("sgd", "mse")
    with pytest.raises(ValueError, match="stateful=False"):
        federated.train_client(stateful, [], *data(0))


@pytest.mark.once
def test_an_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_snn.federated.flower", raising=False)
    for name in ("flwr", "flwr.app"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"keras-snn\[federated\]"):
        federated.LocalGrid  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Client'"):
        federated.Client  # noqa: B018


def rounds(strategy, app, model, clients=4, count=2):
    from flwr.app import ArrayRecord

    result = strategy.start(
        federated.LocalGrid(app, clients), ArrayRecord(model.get_weights()), num_rounds=count
    )
    return result.arrays.to_numpy_ndarrays(), result


def test_flower_runs_the_rounds():
    """Two rounds of four clients, against the pieces."""
    pytest.importorskip("flwr")
    start = spiking().get_weights()
    app = federated.client_app(spiking, data, batch_size=8, seed=5)
    strategy = federated.UnweightedMean(rate=lambda number: 0.1 / (1 + number))
    found, result = rounds(strategy, app, spiking())
    model, weights = spiking(), start
    for number in range(2):
        trained = []
        for client in range(4):
            seed = np.random.SeedSequence((5, client, number + 1)).generate_state(2).tolist()[0]
            options = {"batch_size": 8, "seed": seed, "rate": 0.1 / (1 + number)}
            trained.append(federated.train_client(model, weights, *data(client), **options)[0])
        weights = federated.mean_weights(trained)
    assert_same(found, weights, rtol=1e-5)
    assert set(result.evaluate_metrics_clientapp[2]) == {"loss", "accuracy"}


@pytest.mark.once
def test_rounds_are_reproducible_and_have_noise_and_stragglers():
    pytest.importorskip("flwr")
    from flwr.app import ArrayRecord, ConfigRecord

    model = spiking()
    model.set_weights(start := spiking().get_weights())
    app = federated.client_app(lambda: model, data, epochs=1)
    options = {"fraction_train": 0.5, "fraction_evaluate": 0.0, "stragglers": 0.5}

    def run(noise=0.0, seed=1):
        keras.utils.set_random_seed(seed)
        model.set_weights(start)
        other = federated.client_app(lambda: model, data, epochs=1, noise=noise) if noise else app
        return rounds(federated.UnweightedMean(seed=seed, **options), other, model)[0]

    assert_same(run(), run())
    assert np.abs(run()[0] - run(noise=1.0)[0]).max() > 1e-3
    # The number of clients that are in time is binomial.
    grid = federated.LocalGrid(app, 12)
    strategy = federated.UnweightedMean(stragglers=0.5)
    arrays = ArrayRecord(start)
    counts, firsts = [], set()
    for number in range(1, 200):
        messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        counts.append(len(messages))
        firsts.add(messages[0].metadata.dst_node_id)
    assert np.mean(counts) == pytest.approx(1 + 11 / 2, abs=0.5) and len(firsts) == 12


@pytest.mark.once
def test_faults_of_flowers_parts():
    pytest.importorskip("flwr")
    with pytest.raises(ValueError, match="`clients`.*at least 2, got 1"):
        federated.LocalGrid(None, 1)
    with pytest.raises(ValueError, match="`noise`"):
        federated.client_app(spiking, data, noise=-1)
    with pytest.raises(ValueError, match="`stragglers`"):
        federated.UnweightedMean(stragglers=2)
    with pytest.raises(RuntimeError, match="No client replied with weights in round 3"):
        federated.UnweightedMean().aggregate_train(3, [])

    def broken(number):
        raise OSError("the disk of a client")

    with pytest.raises(OSError, match="the disk of a client"):
        rounds(federated.UnweightedMean(), federated.client_app(spiking, broken), spiking())
