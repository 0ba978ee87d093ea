"""Schedules against networks built with each value, and interrupted training with any optimizer."""

import dataclasses
import functools
import itertools
import os
import shutil
import signal
import time

import keras
import numpy as np
import pytest
from helpers import SERVER, first_everywhere, to_numpy
from keras import layers, ops

from keras_snn import callbacks, surrogates
from keras_snn import layers as snn
from keras_snn.datasets import ArrayBatches, Dataset, Preparation

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(24, 6)).astype("float32"), rng.integers(0, 3, 24)
FIT = {"verbose": 0, "shuffle": False, "batch_size": 8}
VALIDATED = FIT | {"validation_data": (X, Y)}


def network(timesteps=2, threshold=1.0, alpha=2.0, trainable=False, optimizer="sgd"):
    """A network with a nested one, with the same weights in each call."""
    keras.utils.set_random_seed(1)

    def neuron(name):
        surrogate = surrogates.ATan(alpha)
        return snn.LIF(
            threshold=threshold, trainable_threshold=trainable, surrogate=surrogate, name=name
        )

    inner_inputs = layers.Input((6,))
    x = snn.RepeatTime(timesteps, name="repeat")(layers.Dense(16)(inner_inputs))
    inner = keras.Model(inner_inputs, neuron("inner_neuron")(x), name="inner")
    inputs = layers.Input((6,))
    x = neuron("neuron")(layers.Dense(12)(inner(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(snn.MeanOverTime()(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


VALUES = {"timesteps": [2, 6], "threshold": [1.0, 0.4], "alpha": [2.0, 0.25]}


@pytest.mark.parametrize("what", first_everywhere(*VALUES))
def test_each_epoch_is_that_of_a_network_built_with_the_value(what, tmp_path):
    first, second = VALUES[what]
    model = network(**{what: first})
    history = model.fit(
        X, Y, epochs=3, callbacks=[callbacks.Schedule(what, [first, second])], **VALIDATED
    ).history
    assert history[what] == [first, second, second]

    before, after = network(**{what: first}), network(**{what: second})
    before.fit(X, Y, **FIT)
    unchanged = network(**{what: first})
    unchanged.set_weights(before.get_weights())
    unchanged.fit(X, Y, epochs=2, **FIT)
    after.set_weights(before.get_weights())
    wanted = after.fit(X, Y, epochs=2, **VALIDATED).history
    # The value matters, in training and in evaluation.
    different = zip(after.get_weights(), unchanged.get_weights())
    assert any(not np.array_equal(a, b) for a, b in different)
    for a, b in zip(model.get_weights(), after.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history["val_loss"][1:] == wanted["val_loss"]

    predicted = model.predict(X, verbose=0)
    np.testing.assert_array_equal(predicted, after.predict(X, verbose=0))
    np.testing.assert_array_equal(to_numpy(model(X)), to_numpy(after(X)))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(X, verbose=0), predicted)
    inner = again.get_layer("inner")
    cell = inner.get_layer("inner_neuron").cell
    found = {
        "timesteps": inner.get_layer("repeat").timesteps,
        "threshold": cell.threshold,
        "alpha": cell.surrogate.alpha,
    }
    assert found == {name: second if name == what else VALUES[name][0] for name in VALUES}


def test_a_learned_threshold_is_set_in_each_epoch():
    model = network(trainable=True)
    functions = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            weights = [
                model.get_layer("neuron"),
                model.get_layer("inner").get_layer("inner_neuron"),
            ]
            seen.append([float(to_numpy(x.cell.threshold_weight)) for x in weights])
            functions.append(model.train_function)

    seen = []
    schedule = callbacks.Schedule("threshold", [0.5, 0.5, 0.75])
    model.fit(X, Y, epochs=3, callbacks=[schedule, Look()], **FIT)
    assert seen == [[0.5, 0.5], [0.5, 0.5], [0.75, 0.75]]
    assert float(to_numpy(model.get_layer("neuron").cell.threshold_weight)) != 0.75
    assert functions[0] is functions[1] is functions[2]  # a weight is not compiled in
    assert model.get_layer("neuron").cell.threshold == 1.0


def test_functions_are_rebuilt_only_if_the_value_changes():
    model, functions = network(), []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            functions.append((model.train_function, model.test_function))

    rising = keras.optimizers.schedules.PiecewiseConstantDecay([1, 2], [2.0, 3.0, 4.0])
    watch = [callbacks.Schedule("timesteps", rising), Look()]
    history = model.fit(X, Y, epochs=5, callbacks=watch, **VALIDATED).history
    assert history["timesteps"] == [2.0, 2.0, 3.0, 4.0, 4.0]
    same = [a[0] is b[0] and a[1] is b[1] for a, b in itertools.pairwise(functions)]
    other = [a[0] is not b[0] and a[1] is not b[1] for a, b in itertools.pairwise(functions)]
    assert same == [True, False, False, True] and other == [False, True, True, False]


def thresholds(model):
    inner = model.get_layer("inner").get_layer("inner_neuron")
    return model.get_layer("neuron").cell.threshold, inner.cell.threshold


@pytest.mark.parametrize(
    "chosen, wanted",
    [
        ("neuron", (0.5, 1.0)),
        (["inner"], (1.0, 0.5)),
        (["inner_neuron", "neuron"], (0.5, 0.5)),
        (lambda layer: layer.name.startswith("inner_"), (1.0, 0.5)),
    ],
)
def test_layers_that_take_part(chosen, wanted):
    model = network()
    model.fit(X, Y, callbacks=[callbacks.Schedule("threshold", lambda _: 0.5, chosen)], **FIT)
    assert thresholds(model) == wanted


def test_encoders_and_parallel_neurons():
    def encoded(timesteps):
        parts = [snn.LatencyEncoder(timesteps), layers.Dense(3, kernel_initializer="ones")]
        model = keras.Sequential([layers.Input((6,)), *parts, snn.LIF(), snn.SumOverTime()])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        return model

    model = encoded(2)
    model.fit(X, X[:, :3], callbacks=[callbacks.Schedule("timesteps", [9])], **FIT)
    found = model.predict(X, verbose=0)
    np.testing.assert_array_equal(found, encoded(9).predict(X, verbose=0))
    assert found.max() > 2

    inputs = layers.Input((4, 3))
    model = keras.Model(inputs, snn.PSN(surrogate="sigmoid", name="psn")(inputs))
    model.compile("sgd", "mse")
    x = np.ones((2, 4, 3), "float32")
    model.fit(x, x, verbose=0, callbacks=[callbacks.Schedule("alpha", [7.0])])
    assert model.get_layer("psn").surrogate == surrogates.Sigmoid(7.0)


def test_layers_that_share_a_surrogate_are_set_one_by_one():
    shared = surrogates.ATan(2.0)
    inputs = layers.Input((4, 3))
    x = snn.LIF(surrogate=shared, name="first")(layers.Dense(3)(inputs))
    model = keras.Model(inputs, snn.LIF(surrogate=shared, name="second")(x))
    model.compile("sgd", "mse")
    x = np.ones((2, 4, 3), "float32")
    model.fit(x, x, verbose=0, callbacks=[callbacks.Schedule("alpha", [3.0], "first")])
    found = [model.get_layer(name).cell.surrogate.alpha for name in ("first", "second")]
    assert found == [3.0, 2.0] and shared.alpha == 2.0


def fails(model, data, match, *arguments):
    with pytest.raises(ValueError, match=match):
        model.fit(data, Y[: len(data)], verbose=0, callbacks=[callbacks.Schedule(*arguments)])


def test_schedules_that_do_not_fit():
    model = network()
    weights = model.get_weights()
    fails(model, X, "alpha, threshold, timesteps", "tau", [2.0])
    fails(model, X, "has no layers .'foo'", "threshold", [2.0], ["neuron", "foo"])
    fails(model, X, "takes part has a parameter 'threshold'", "threshold", [2.0], "repeat")
    fails(model, X, "integer of at least 1, got 2.5", "timesteps", lambda _: 2.5)
    fails(model, X, "above 0, got -1", "threshold", [-1])
    fails(model, X, "positive number, got 0", "alpha", [0.0])
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for bad in (3, [], "fast"):
        with pytest.raises(TypeError, match="function or a list"):
            callbacks.Schedule("threshold", bad)
    with pytest.raises(TypeError, match="a name"):
        callbacks.Schedule(2, [1.0])


@pytest.mark.parametrize(
    "layer",
    [
        snn.PSN(name="fixed"),
        snn.BatchNormalizationThroughTime(2, name="fixed"),
        snn.TemporalEffectiveBatchNormalization(2, name="fixed"),
    ],
)
def test_layers_made_for_a_number_of_steps(layer):
    inputs = layers.Input((6,))
    x = layer(snn.RepeatTime(2)(layers.Dense(3)(inputs)))
    model = keras.Model(inputs, snn.MeanOverTime()(snn.LIF()(x)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    fails(model, X, "fixed of .* fixed number of steps", "timesteps", [3])
    model.fit(X, Y, verbose=0, callbacks=[callbacks.Schedule("threshold", [3.0])])


# Interrupted training.
class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.batches = getattr(self, "batches", 0) + 1
        if self.batches == 8:  # in the third of four epochs of three batches
            raise KilledError


class Slower(keras.callbacks.Callback):
    def __init__(self, factor=0.5):
        super().__init__()
        self.factor = factor

    def on_epoch_end(self, epoch, logs=None):
        for optimizer in getattr(self.model.optimizer, "optimizers", [self.model.optimizer]):
            optimizer.learning_rate = self.factor * optimizer.learning_rate


def dropout_network(optimizer, dtype=None):
    keras.utils.set_random_seed(2)
    inputs = layers.Input((6,))
    x = layers.Dropout(0.3, dtype=dtype)(layers.Dense(16, dtype=dtype)(inputs))
    x = snn.LIF(trainable_threshold=True, dtype=dtype)(snn.RepeatTime(3, dtype=dtype)(x))
    x = layers.Dense(3, dtype="float32")(snn.MeanOverTime(dtype=dtype)(x))
    model = keras.Model(inputs, x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def adam(**kwargs):
    return keras.optimizers.Adam(1e-2, **kwargs)


def scaled():
    """Loss scaling, whose first steps overflow, of accumulated gradients and averaged weights."""
    optimizer = adam(gradient_accumulation_steps=2, use_ema=True)
    return keras.optimizers.LossScaleOptimizer(optimizer, 2.0**22, dynamic_growth_steps=2)


# An optimizer, other callbacks, the policy.
COMBINATIONS = {
    "schedules": (
        adam,
        lambda: [
            callbacks.Schedule("timesteps", [2, 2, 4]),
            callbacks.Schedule("threshold", lambda epoch: 1 - 0.1 * epoch),
            callbacks.Schedule("alpha", [1.0, 1.0, 3.0]),
        ],
        None,
    ),
    "averaged weights": (
        lambda: adam(use_ema=True, ema_momentum=0.5),
        lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
        None,
    ),
    "two optimizers": (
        lambda: keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(adam(), {".*/bias": keras.optimizers.Adam(0.1)})
        ),
        list,
        None,
    ),
    "accumulation over epochs": (lambda: adam(gradient_accumulation_steps=2), list, None),
    "float16": (scaled, list, "mixed_float16"),
}


@pytest.mark.parametrize("name", first_everywhere(*COMBINATIONS))
def test_killed_training_ends_as_unbroken(name, tmp_path):
    optimizer, others, dtype = COMBINATIONS[name]

    def train(file, *more):
        model = dropout_network(optimizer(), dtype)
        resume = callbacks.Resume(tmp_path / file)
        watch = [*others(), resume, Slower(), *more]
        history = model.fit(X, Y, epochs=4, callbacks=watch, **FIT).history
        assert len(resume.times) == 4 and resume.times == sorted(resume.times)
        assert resume.times[0] > 0 and resume.times[-1] == resume.seconds
        values = [*model.variables, *model.optimizer.variables]
        return [to_numpy(ops.convert_to_tensor(v)) for v in values], history

    whole, history = train("whole.npz")
    with pytest.raises(KilledError):
        train("resume.npz", Kill())
    keras.utils.set_random_seed(99)  # nothing may come from the state of this process
    resumed, rest = train("resume.npz")
    assert len(rest["loss"]) == 2
    for logged in rest:
        assert rest[logged] == history[logged][2:], logged
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not list(tmp_path.iterdir())


def train_on(folder, endless=False):
    """Trains, or goes on; writes the weights. If endless, it waits before the last epoch's end."""

    class Tell(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            (folder / "begun").touch()

        def on_epoch_end(self, epoch, logs=None):
            while endless and epoch + 1 == self.params["epochs"]:
                time.sleep(1)

    keras.utils.set_random_seed(2)
    parts = [layers.Dropout(0.3), layers.Dense(3), snn.LIF(), snn.MeanOverTime()]
    model = keras.Sequential([layers.Input((2, 3)), *parts])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    resume = callbacks.Resume(folder / "resume.npz")
    targets = keras.utils.to_categorical(Y, 3)
    watch = [Slower(0.97), Tell(), resume]
    model.fit(X.reshape(-1, 2, 3), targets, epochs=60, callbacks=watch, **FIT)
    values = [*model.variables, *model.optimizer.variables]
    np.savez(folder / "values.npz", *[ops.convert_to_numpy(v) for v in values])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="costly; one backend does")
def test_processes_killed_at_random_moments(tmp_path):
    """Whatever is happening, a file being written too."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()

    def start(*arguments):
        process = SERVER.Process(target=train_on, args=arguments)
        process.start()
        return process

    for delay in np.random.default_rng(0).uniform(0, 0.2, 5):
        process = start(broken, True)
        while process.is_alive() and not (broken / "begun").exists():
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        (broken / "begun").unlink()
    for process in (start(broken), start(whole)):
        process.join()
        assert process.exitcode == 0
    with np.load(whole / "values.npz") as a, np.load(broken / "values.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    assert sorted(os.listdir(broken)) == ["begun", "values.npz"]


def test_the_next_fit_starts_at_its_first_epoch(tmp_path):
    path = tmp_path / "resume.npz"
    with pytest.raises(KilledError):
        dropout_network(adam()).fit(
            X, Y, epochs=4, callbacks=[callbacks.Resume(path), Kill()], **FIT
        )
    model = dropout_network(adam())
    for epochs in (2, 4):
        history = model.fit(X, Y, epochs=4, callbacks=[callbacks.Resume(path)], **FIT)
        assert len(history.epoch) == epochs


@dataclasses.dataclass
class Run:
    """A run that can be started twice, and what tells it from others."""

    network: object = functools.partial(network, alpha=1.0)
    optimizer: object = functools.partial(keras.optimizers.SGD, 0.01)
    loss: object = None
    seed: int = 1
    batch_size: int = 8
    data_seed: int = 3
    images: object = None
    augmentation: tuple = ()
    flags: tuple = (("dropout", 0.5),)
    frozen: bool = False
    epochs: int = 4

    def fit(self, path, *others):
        model = self.network(optimizer=self.optimizer())
        keras.utils.set_random_seed(self.seed)
        if self.loss is not None:
            model.compile(model.optimizer, self.loss)
        model.layers[-1].trainable = not self.frozen
        images = X.reshape(24, 6, 1, 1) if self.images is None else self.images
        prepare = Preparation(1.0, None, self.augmentation)
        train = ArrayBatches(images, Y, self.batch_size, self.data_seed, flat(prepare))
        data = Dataset("images", train, train, (6,), 3)
        resume = callbacks.Resume(path, data, run=dict(self.flags))
        model.fit(train, epochs=self.epochs, verbose=0, shuffle=False, callbacks=[*others, resume])
        return resume


def flat(prepare):
    def prepared(images, labels, seed):
        images, labels = prepare(images, labels, seed)
        return images.reshape(-1, 6), labels

    return prepared


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The file of a run that was killed."""
    path = tmp_path_factory.mktemp("run") / "resume.npz"
    with pytest.raises(KilledError):
        Run().fit(path, Kill())
    return path


steps = keras.optimizers.schedules.CosineDecay
OTHER_RUNS = {
    "threshold": (Run(functools.partial(network, 2, 0.9, 1.0)), "threshold was 1.0, is 0.9"),
    "slope": (Run(network), "alpha was 1.0, is 2.0"),
    "steps": (Run(functools.partial(network, 3, alpha=1.0)), "timesteps was 2, is 3"),
    "learning rate": (Run(optimizer=lambda: keras.optimizers.SGD(0.02)), "learning_rate was 0.01"),
    "momentum": (Run(optimizer=lambda: keras.optimizers.SGD(0.01, 0.9)), "momentum was 0.0, is"),
    "optimizer": (Run(optimizer=lambda: keras.optimizers.Adam(0.01)), "was 'SGD', is 'Adam'"),
    "schedule": (Run(optimizer=lambda: keras.optimizers.SGD(steps(0.01, 9))), "is CosineDecay"),
    "loss": (Run(loss=keras.losses.SparseCategoricalCrossentropy()), "from_logits was True, is F"),
    "seed": (Run(seed=2), "seed was 1, is 2"),
    "batches": (Run(batch_size=12), "steps was 3, is 2"),
    "order": (Run(data_seed=4), "data.seed was 3, is 4"),
    "images": (Run(images=X.reshape(24, 6, 1, 1) + 0.5), "data.first batch"),
    "augmentation": (Run(augmentation=("shift",)), "data.first batch"),
    "flags": (Run(flags=(("dropout", 0.1),)), "run.dropout was 0.5, is 0.1"),
    "a flag more": (Run(flags=(("dropout", 0.5), ("x", 1))), "run.x was None, is 1"),
    "frozen": (Run(frozen=True), "trainable was True, is False"),
    "fewer epochs": (Run(epochs=1), "is at epoch 2, `fit` has `epochs=1`"),
}


@pytest.mark.once
@pytest.mark.parametrize("name", OTHER_RUNS)
def test_the_file_of_another_run_is_refused(name, interrupted, tmp_path):
    other, message = OTHER_RUNS[name]
    path = tmp_path / "resume.npz"
    shutil.copy(interrupted, path)
    with pytest.raises(ValueError, match="resume.npz is") as error:
        other.fit(path)
    assert message in str(error.value)
    assert path.read_bytes() == interrupted.read_bytes()


def test_more_epochs_go_on(interrupted, tmp_path):
    shutil.copy(interrupted, tmp_path / "moved.npz")
    resume = Run(epochs=5).fit(tmp_path / "moved.npz")
    assert resume.starts == [{"epoch": 0, "epochs": 4}, {"epoch": 2, "epochs": 5}]
    assert len(resume.history["loss"]) == 5 and not list(tmp_path.iterdir())

    # A schedule may get longer with them, but not change otherwise.
    def run(rate, decay_steps, epochs):
        return Run(optimizer=lambda: keras.optimizers.SGD(steps(rate, decay_steps)), epochs=epochs)

    path = tmp_path / "resume.npz"
    with pytest.raises(KilledError):
        run(0.1, 12, 4).fit(path, Kill())
    for other in (run(0.2, 15, 5), run(0.1, 15, 4)):
        with pytest.raises(ValueError, match="another run"):
            other.fit(path)
    assert len(run(0.1, 15, 5).fit(path).history["loss"]) == 5


def test_the_file_stays_until_the_model_is_safe(tmp_path):
    """What fails after training does not lose it: the next `fit` returns what was trained."""
    path = tmp_path / "resume.npz"

    def train(epochs=4):
        stop = keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
        model = dropout_network(adam(use_ema=True, ema_momentum=0.5))
        resume = callbacks.Resume(path, others=[stop], keep=True)
        watch = [keras.callbacks.SwapEMAWeights(), stop, resume]
        logs = model.fit(X, Y, epochs=epochs, callbacks=watch, **FIT)
        return model.get_weights(), len(logs.epoch), resume

    weights, epochs, resume = train()
    again, epochs_again, same = train()
    assert (epochs, epochs_again) == (4, 0)
    assert same.history == resume.history and len(same.history["loss"]) == 4
    assert same.seconds >= resume.seconds > 0
    for a, b in zip(weights, again, strict=True):
        np.testing.assert_array_equal(a, b)
    _, epochs_more, longer = train(epochs=5)
    assert epochs_more == 1 and len(longer.history["loss"]) == 5
    longer.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_early_stopping_goes_on_counting(tmp_path):
    """Losses that rise after the second epoch: training stops at the same epoch, broken or not."""
    losses = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]

    class Told(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["told"] = losses[epoch]

    def train(path, *more):
        stop = keras.callbacks.EarlyStopping("told", 0, 3, 0, "min", None, True)
        model = dropout_network(adam())
        watch = [Told(), stop, *more, callbacks.Resume(path, others=[stop])]
        return model.fit(X, Y, epochs=8, callbacks=watch, **FIT).epoch[-1], model.get_weights()

    whole = train(tmp_path / "whole.npz")
    with pytest.raises(KilledError):
        train(tmp_path / "resume.npz", Kill())
    resumed = train(tmp_path / "resume.npz")
    assert whole[0] == resumed[0] == 4
    for a, b in zip(whole[1], resumed[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.once
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "junk", "earlier"])
def test_damaged_files(damage, interrupted, tmp_path):
    path, blob = tmp_path / "resume.npz", interrupted.read_bytes()
    flipped = bytearray(blob)
    flipped[len(blob) // 2] ^= 4
    blobs = {"empty": b"", "cut": blob[: len(blob) // 2], "flipped": flipped, "junk": b"junk"}
    if damage == "earlier":
        np.savez(path, epoch=2, generator=np.zeros(0, "uint8"), variable_0=np.zeros(3))
    else:
        path.write_bytes(blobs[damage])
    with pytest.raises(ValueError, match="resume.npz is damaged, or of an earlier version; remove"):
        Run().fit(path)


@pytest.mark.once
def test_bfloat16_weights(tmp_path):
    def train(*more):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), layers.Dense(3, dtype="bfloat16")])
        model.compile("adam", "mse")
        watch = [*more, callbacks.Resume(tmp_path / "resume.npz")]
        model.fit(X, X[:, :3], epochs=4, callbacks=watch, **FIT)
        return [to_numpy(v.value) for v in model.variables]

    whole = train()
    with pytest.raises(KilledError):
        train(Kill())
    for a, b in zip(whole, train(), strict=True):
        np.testing.assert_array_equal(a, b)
