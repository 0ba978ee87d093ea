"""Callbacks: watch a spiking network, change it by a schedule, resume interrupted training."""

import collections
import inspect
import json
import pathlib
import time
import warnings
import weakref
import zlib

import keras
import numpy as np
from keras import ops

from keras_snn import analysis, graph
from keras_snn import layers as snn
from keras_snn.utils import files
from keras_snn.utils.arguments import check_integer, check_number

__all__ = ["DeadNeurons", "FiringRates", "Resume", "Schedule"]


class FiringRates(keras.callbacks.Callback):
    """Logs each spiking layer's firing rate after each epoch, as `rate/<layer>`.

    The rates go into the logs, and so into `History`, `CSVLogger` and `TensorBoard`. With `log_dir`
    it also writes, for TensorBoard, histograms of the neurons' rates and a raster of the first
    example of every layer (this needs TensorFlow and the extra `tensorboard`).

    Args:
        data: Inputs to watch the network on, an array; a few dozen examples are enough.
        every: Epochs between two measurements.
        log_dir: Directory of TensorBoard files, if any.
        max_neurons: Most neurons in a raster.
        network: The network to watch, if it is only a part of the model in training.

    Example:

    ```python
    model.fit(images, labels, callbacks=[keras_snn.callbacks.FiringRates(images[:32])])
    ```
    """

    def __init__(self, data, every=1, log_dir=None, max_neurons=200, network=None):
        super().__init__()
        self.data, self.log_dir, self.network = data, log_dir, network
        self.every = check_integer("every", every)
        self.max_neurons = check_integer("max_neurons", max_neurons)
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        network = self.network or self.model
        rates = analysis.firing_rates(network, self.data)
        if logs is not None:
            logs.update({f"rate/{name}": rate for name, rate in rates.items()})
        if self.log_dir is not None:
            self._write(epoch, rates, analysis.record(network, self.data))

    def _write(self, epoch, rates, recording):
        try:
            import tensorboard  # noqa: F401
            import tensorflow as tf
        except ImportError as error:
            raise ImportError(
                "TensorBoard files need tensorflow and the extra `tensorboard`: "
                'pip install "keras-snn[tensorboard]"'
            ) from error
        self._writer = self._writer or tf.summary.create_file_writer(str(self.log_dir))
        with self._writer.as_default(step=epoch):
            for name in recording:
                spikes = recording[name]["spikes"]
                tf.summary.scalar(f"rate/{name}", rates[name])
                tf.summary.histogram(f"rates of neurons/{name}", spikes.mean((0, 1)).ravel())
                raster = spikes[0].reshape(spikes.shape[1], -1).T[: self.max_neurons]
                picture = np.clip(raster, 0, 1).repeat(4, 0).repeat(4, 1)
                tf.summary.image(f"raster/{name}", 1 - picture[None, ..., None])
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None


# What to do about layers that never fire.
SILENCE_REMEDY = (
    "Initialise the weights in front with keras_snn.initializers.FiringRateScaling, normalise the "
    "currents, or lower the threshold."
)


class DeadNeurons(keras.callbacks.Callback):
    """Warns of layers in which too many neurons never fire, or fire at every step.

    Args:
        data: Inputs to watch the network on, an array.
        silent: Warns if a larger share of a layer's neurons never fires.
        saturated: Warns if a larger share of a layer's neurons fires at every step.
        every: Epochs between two measurements.
        network: The network to watch, if it is only a part of the model in training.

    Example:

    ```python
    model.fit(images, labels, callbacks=[keras_snn.callbacks.DeadNeurons(images[:32])])
    ```
    """

    def __init__(self, data, silent=0.9, saturated=0.5, every=1, network=None):
        super().__init__()
        self.data, self.network = data, network
        self.silent = check_number("silent", silent, minimum=0, maximum=1)
        self.saturated = check_number("saturated", saturated, minimum=0, maximum=1)
        self.every = check_integer("every", every)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        for layer in analysis.profile(self.network or self.model, self.data).layers:
            if layer.rate is None:
                continue
            if layer.silent > self.silent:
                warnings.warn(
                    f"Epoch {epoch + 1}: {layer.silent:.0%} of the neurons of {layer.name} never "
                    f"fire. {SILENCE_REMEDY}",
                    stacklevel=2,
                )
            if layer.saturated > self.saturated:
                warnings.warn(
                    f"Epoch {epoch + 1}: {layer.saturated:.0%} of the neurons of {layer.name} fire "
                    "at every step: raise the threshold, or normalise the currents.",
                    stacklevel=2,
                )


class Schedule(keras.callbacks.Callback):
    """Sets a parameter of a spiking network at the start of each epoch.

    The network then equals one that was built with that value. When the value changes, the train,
    test and predict functions are rebuilt (which compiles again where the backend compiles). A
    saved file holds the last value. The value is logged under the name `what`. Models of the same
    layers that were compiled earlier keep the old value, and `model.output_shape` stays the old
    one.

    Args:
        what: `"timesteps"`, steps of networks on images: of every `RepeatTime` and encoder;
            `"threshold"` of spiking neurons (a trained one is reset in each epoch); `"sigma"`, the
            width of learned delays; or the name of a parameter of their surrogates, such as
            `"alpha"`. The threshold of a tdBN layer does not change.
        schedule: A function from the epoch (the first is 0) to a number, such as a Keras
            `LearningRateSchedule`; or a list with a number for each epoch; the last one is
            used for all later epochs.
        layers: Names of layers, or a function that returns whether a layer takes part; by default
            all layers. Nested layers take part with the outer one.

    Raises:
        ValueError: When training starts: if no layer has the parameter, a name in `layers` is
            unknown, or, for `"timesteps"`, a layer has a fixed number of steps (`PSN`, BNTT, TEBN).
            Later: if a value is not allowed.

    Source: fewer steps first, and slopes that rise, are common practice; SpikingJelly and
    snnTorch leave both to the training loop.

    Example:

    ```python
    steeper = keras_snn.callbacks.Schedule("alpha", lambda epoch: 2.0 + 0.1 * epoch)
    longer = keras_snn.callbacks.Schedule("timesteps", [1, 1, 2, 2, 4])
    model.fit(images, labels, epochs=10, callbacks=[steeper, longer])
    ```
    """

    def __init__(self, what, schedule, layers=None):
        super().__init__()
        if not isinstance(what, str):
            raise TypeError(f"`what` should be a name, got {what!r}.")
        if not callable(schedule) and not (isinstance(schedule, (list, tuple)) and schedule):
            raise TypeError(
                f"`schedule` should be a function or a list of numbers, got {schedule!r}."
            )
        self.what, self.schedule = what, schedule
        self.layers = [layers] if isinstance(layers, str) else layers
        self._setting = SETTINGS.get(what) or _surrogate_setting(what)
        self._value = None

    def on_train_begin(self, logs=None):
        owners = self._owners()
        if not owners:
            raise ValueError(
                f"No layer of {self.model.name!r} that takes part has a parameter {self.what!r}. "
                f"The model has: {', '.join(_settable(self.model)) or 'none'}."
            )
        fixed = [x.name for x in graph.flatten_layers(self.model) if isinstance(x, FIXED_TIMESTEPS)]
        if self.what == "timesteps" and fixed:
            raise ValueError(
                f"{', '.join(fixed)} of {self.model.name!r} have a fixed number of steps, which a "
                "schedule can't change."
            )

    def on_epoch_begin(self, epoch, logs=None):
        owners = self._owners()
        before = [self._setting.get(layer) for layer in owners]
        self._value = self._at(epoch)
        for layer in owners:
            self._setting.set(layer, self._value)
        if before != [self._setting.get(layer) for layer in owners]:
            _forget_compiled(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[self.what] = self._value

    def _at(self, epoch):
        if callable(self.schedule):
            value = self.schedule(epoch)
        else:
            value = self.schedule[min(epoch, len(self.schedule) - 1)]
        return value if isinstance(value, (int, float)) else ops.convert_to_numpy(value).item()

    def _owners(self):
        """The layers that take part and have the parameter, each once."""
        layers = graph.flatten_layers(self.model, include_self=False)
        chosen = [layer for layer in layers if self._takes_part(layer)]
        if isinstance(self.layers, (list, tuple)):
            missing = sorted(set(self.layers) - {layer.name for layer in chosen})
            if missing:
                raise ValueError(f"The model {self.model.name!r} has no layers {missing}.")
        unique = {id(x): x for layer in chosen for x in graph.flatten_layers(layer)}
        return [layer for layer in unique.values() if self._setting.has(layer)]

    def _takes_part(self, layer):
        if self.layers is None:
            return True
        return self.layers(layer) if callable(self.layers) else layer.name in self.layers


# Whether a layer has the parameter; its value, a Python number that is compiled in; how to set it.
Setting = collections.namedtuple("Setting", "has, get, set")


def _set_timesteps(layer, value):
    if isinstance(value, float) and value.is_integer():  # as Keras's schedules give
        value = int(value)
    layer.timesteps = check_integer("timesteps", value)


def _set_threshold(cell, value):
    check_number("threshold", value, above=0)
    if cell.threshold_weight is None:
        cell.threshold = value
    else:
        cell.threshold_weight.assign(ops.full(cell.threshold_weight.shape, value))


def _set_sigma(layer, value):
    layer.sigma.assign(check_number("sigma", value, minimum=0))


def _surrogate_setting(name):
    """The setting of a surrogate's parameter. Surrogates are immutable: a new one replaces it."""

    def set_parameter(layer, value):
        config = layer.surrogate.get_config() | {name: value}
        layer.surrogate = layer.surrogate.from_config(config)

    return Setting(
        lambda layer: name in _surrogate_parameters(layer),
        lambda layer: getattr(layer.surrogate, name),
        set_parameter,
    )


def _surrogate_parameters(layer):
    surrogate = getattr(layer, "surrogate", None)
    config = {} if surrogate is None else surrogate.get_config()
    return [name for name, value in config.items() if isinstance(value, (int, float))]


DELAYED = (snn.AxonalDelay, snn.DelayedDense, snn.DelayedConv1D, snn.DelayedConv2D)
SETTINGS = {
    "timesteps": Setting(
        lambda layer: isinstance(layer, snn.RepeatTime), lambda x: x.timesteps, _set_timesteps
    ),
    "threshold": Setting(
        lambda layer: isinstance(layer, snn.SpikingCell), lambda x: x.threshold, _set_threshold
    ),
    # A weight: nothing is compiled in.
    "sigma": Setting(
        lambda layer: isinstance(layer, DELAYED), lambda x: x.initial_sigma, _set_sigma
    ),
}

FIXED_TIMESTEPS = (
    snn.PSN,
    snn.BatchNormalizationThroughTime,
    snn.TemporalEffectiveBatchNormalization,
)


def _settable(model):
    """Names of the parameters that can be set in a model."""
    layers = graph.flatten_layers(model)
    names = {name for name, setting in SETTINGS.items() if any(map(setting.has, layers))}
    return sorted(names.union(*map(_surrogate_parameters, layers)))


def _forget_compiled(model):
    """Compiled functions hold the old Python numbers: has Keras rebuild them."""
    model.make_train_function(force=True)
    for part in graph.flatten_layers(model):
        if isinstance(part, keras.Model):
            part.test_function = part.predict_function = None


class Resume(keras.callbacks.Callback):
    """Resumes interrupted training after its last complete epoch, with the same result.

    Before each epoch it saves all variables of the model and the optimizer, and the states of the
    random generators, to a file. `fit` with the same arguments reads the file and continues. If the
    order of the data is a function of the epoch, as in `keras_snn.datasets`, the final weights
    equal those of an uninterrupted run bit for bit (same seed, on CPUs). Give `shuffle=False` to
    `fit`, as Keras's shuffling can't be resumed. Put this callback last in the list, so that it
    saves the effects of the others.

    The file also describes the run: configurations of model, optimizer and loss, the backend, the
    seed of `keras.utils.set_random_seed`, batches per epoch, `data` and `run`; names of layers do
    not count. A file of another run, or of an earlier version, is refused. Only `epochs` may
    change, and with it the length of a learning rate schedule (`decay_steps`, `boundaries`, ...),
    which then applies from there on. Arrays and class weights that `fit` is given are not compared:
    Keras does not show them to callbacks.

    Args:
        path: The file, `.npz`.
        data: An object with a method `set_epoch(epoch)`, such as a `keras_snn.datasets.Dataset`.
        run: Anything else that identifies this run, as plain values: a program's flags, say.
        others: Callbacks whose state is saved too, such as `EarlyStopping`, which would start
            from scratch otherwise.
        keep: Whether the file stays when training ends, until `remove` is called; until then a
            repeated `fit` does not train again. Otherwise the file is deleted when training ends.

    Attributes:
        history: Logs of all epochs, including those before an interruption, as in Keras's
            `History`.
        starts: The first `"epoch"` and the total `"epochs"` of each start of training.
        seconds: Duration of `fit`, including the time before an interruption, without epochs that
            it cut short.
        times: Such seconds at the end of each epoch.

    Raises:
        ValueError: If the file is of another run, or damaged.

    Example:

    ```python
    data = keras_snn.datasets.load("digits")
    resume = keras_snn.callbacks.Resume("results/resume.npz", data, keep=True)
    model.fit(data.train, epochs=10, shuffle=False, callbacks=[resume])
    model.save("results/model.keras")
    resume.remove()
    ```
    """

    def __init__(self, path, data=None, run=None, others=(), keep=False):
        super().__init__()
        self.path, self.data, self.run = pathlib.Path(path).expanduser(), data, run
        self.others, self.keep = list(others), keep
        if self.path.suffix != ".npz":
            raise ValueError(f"`path` should end in .npz, got {path}.")
        if data is not None and not hasattr(data, "set_epoch"):
            raise TypeError(f"`data` should have a method `set_epoch`, got {type(data).__name__}.")
        self.history, self.starts, self.seconds, self.times = {}, [], 0.0, []
        self._description = None

    def remove(self):
        """Removes the file; call it once the results are saved elsewhere."""
        self.path.unlink(missing_ok=True)

    def _variables(self):
        model, optimizer = self.model, self.model.optimizer
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        return [*model.variables, *optimizer.variables]

    def on_train_begin(self, logs=None):
        self.history, self.starts, self.seconds, self.times = {}, [], 0.0, []
        self._next, self._last_logs, self._time = None, {}, time.perf_counter()
        self._description = self._describe()
        epochs, first = self.params["epochs"], 0
        if self.path.is_file():
            first = self._load()
        self.starts.append({"epoch": first, "epochs": epochs})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.check_path(self.path)

    def _describe(self):
        """Describes this run; after an interrupted `fit` of this model, its state at the start."""
        if self.model in _RUNS and _RUNS[self.model][0] is self.model.optimizer:
            return _RUNS[self.model][1]
        network = {
            "model": _model_config(self.model),
            "optimizer": _config(self.model.optimizer),
            "loss": getattr(self.model, "loss", None),
        }
        others = {
            "backend": keras.backend.backend(),
            "seed": graph.get_random_seed(),
            "steps": self.params["steps"],
            "data": None if self.data is None else _data_config(self.data),
            "run": self.run,
        }
        state = _numbered(_plain(network), {}) | _plain(others)
        _RUNS[self.model] = self.model.optimizer, state
        return state

    def _load(self):
        """Restores the state in the file; returns the epoch to continue with."""
        variables, epochs = self._variables(), self.params["epochs"]
        damaged = f"{self.path} is damaged, or of an earlier version; remove it to start again"
        try:
            with np.load(self.path) as file:
                told = json.loads(str(file["told"]))
                generator = file["generator"]
                values = [file[f"variable_{i}"] for i in range(told["variables"])]
                arrays = {name: file[name] for name in file.files if name.startswith("other_")}
            past = [told[name] for name in ("history", "starts", "seconds", "times")]
        except Exception as error:
            raise ValueError(f"{damaged}: {error}") from error
        wanted, given = told["description"], self._description
        if told["epochs"] != epochs:
            wanted, given = (_without_lengths(part) for part in (wanted, given))
        different = _differences(wanted, given)
        if different:
            more = f" and {len(different) - 5} more" if len(different) > 5 else ""
            raise ValueError(
                f"{self.path} is of another run; remove it to start again. What differs: "
                f"{'; '.join(different[:5])}{more}."
            )
        if [tuple(v.shape) for v in variables] != [v.shape for v in values]:
            raise ValueError(f"{damaged}: it has variables of other shapes.")
        if told["epoch"] > epochs:
            raise ValueError(
                f"{self.path} is at epoch {told['epoch']}, `fit` has `epochs={epochs}`; remove it "
                "to start again."
            )
        for variable, value in zip(variables, values):
            if value.dtype.kind == "V":  # NumPy's files have no bfloat16
                value = value.view(variable.dtype)
            variable.assign(value)
        if keras.backend.backend() == "torch":
            import torch

            torch.set_rng_state(torch.from_numpy(generator))
        for i, (callback, memory) in enumerate(zip(self.others, told["others"])):
            _recall(callback, memory, arrays, f"other_{i}_")
        self.history, self.starts, self.seconds, self.times = past
        ended = told["ended"] and told["epochs"] == epochs
        self.model._initial_epoch = epochs if ended else told["epoch"]
        return told["epoch"]

    def on_epoch_begin(self, epoch, logs=None):
        self._note()
        if self.data is not None:
            self.data.set_epoch(epoch)
        self._save(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._next, self._last_logs = epoch + 1, logs or {}

    def _note(self):
        """Adds the time, and the last epoch's logs after all callbacks have added theirs."""
        now = time.perf_counter()
        self.seconds, self._time = self.seconds + now - self._time, now
        if self._last_logs:
            self.times.append(self.seconds)
        for name, value in self._last_logs.items():
            self.history.setdefault(name, []).append(np.asarray(value).tolist())
        self._last_logs = {}

    def _save(self, epoch, ended=False):
        arrays = {f"variable_{i}": ops.convert_to_numpy(v) for i, v in enumerate(self._variables())}
        told = {
            "description": self._description,
            "epoch": epoch,
            "epochs": self.params["epochs"],
            "ended": ended,
            "variables": len(arrays),
            "others": [_memory(x, arrays, f"other_{i}_") for i, x in enumerate(self.others)],
            "history": self.history,
            "starts": self.starts,
            "seconds": self.seconds,
            "times": self.times,
        }
        with files.replacing(self.path) as (part,):
            np.savez(part, told=json.dumps(told), generator=_generator(), **arrays)

    def on_train_end(self, logs=None):
        self.model._initial_epoch = None  # or the next `fit` would start there too
        _RUNS.pop(self.model, None)
        self._note()
        if not self.keep:
            self.remove()
        elif self._next is not None:
            self._save(self._next, ended=True)


# For models whose `fit` was interrupted: the optimizer, and the description of the run's start.
_RUNS = weakref.WeakKeyDictionary()

# Entries in the configuration of a learning rate schedule that depend on the number of epochs.
LENGTHS = ("decay_steps", "first_decay_steps", "warmup_steps", "boundaries")


def _without_lengths(value):
    if isinstance(value, dict):
        return {k: _without_lengths(v) for k, v in value.items() if k not in LENGTHS}
    return [_without_lengths(v) for v in value] if isinstance(value, list) else value


def _config(value):
    """The configuration of an object, or its class if it has none."""
    try:
        return keras.saving.serialize_keras_object(value)
    except Exception:  # whatever a user's class raises
        return type(value).__qualname__


def _model_config(model):
    """A model's configuration; if it has none, the shapes of its variables."""
    try:
        config = model.get_config()
    except Exception:  # Keras's NotImplementedError, or whatever a user's class raises
        config = {}
    description = {"class": type(model).__qualname__, "config": config}
    if "layers" not in config:
        description["variables"] = [[v.name, list(v.shape), v.trainable] for v in model.variables]
    return description


def _plain(value):
    """A configuration of plain values, without those that differ between runs of one program."""
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":  # its bytes differ
            return "lambda"
        return {str(k): _plain(v) for k, v in value.items() if k != "shared_object_id"}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return [list(value.shape), zlib.crc32(np.ascontiguousarray(value))]
    if hasattr(value, "get_config"):
        return _plain(_config(value))
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def _numbered(value, names):
    """A configuration in which numbers, by order of appearance, replace the names of layers."""

    def number(name):
        return names.setdefault(name, len(names))

    if isinstance(value, list):
        return [_numbered(v, names) for v in value]
    if not isinstance(value, dict):
        return value
    numbered = {}
    for key, part in value.items():
        if key == "name" and isinstance(part, str):
            part = number(part)
        elif key in ("keras_history", "input_layers", "output_layers"):
            part = keras.tree.map_structure(lambda x: number(x) if isinstance(x, str) else x, part)
        numbered[key] = _numbered(part, names)
    return numbered


def _data_config(data):
    """Identifies data by sizes, seed and a rough summary of the first batch."""
    config = {
        name: getattr(part, name)
        for part in (data, getattr(data, "train", None))
        for name in ("name", "input_shape", "classes", "batch_size", "seed")
        if hasattr(part, name)
    }
    train = getattr(data, "train", data)
    if isinstance(train, keras.utils.PyDataset):
        data.set_epoch(0)
        config["first batch"] = [_sketch(x) for x in keras.tree.flatten(train[0])]
    return config


def _sketch(array):
    """Shape and two projections of an array, rounded so that all processors agree."""
    array = np.asarray(array)
    values = array.astype("float64").ravel()
    waves = np.cos(np.arange(len(values))), np.ones(len(values))
    total = np.abs(values).sum()
    shares = (round(float(values @ wave / (total or 1.0)), 3) for wave in waves)
    return [list(array.shape), *shares, f"{total:.3g}"]


def _differences(wanted, given, where=""):
    """The differences of two descriptions, as texts."""
    if isinstance(wanted, dict) and isinstance(given, dict):
        pairs = [(key, wanted.get(key), given.get(key)) for key in {**wanted, **given}]
    elif isinstance(wanted, list) and isinstance(given, list) and len(wanted) == len(given):
        pairs = [(i, *pair) for i, pair in enumerate(zip(wanted, given))]
    elif wanted == given:
        return []
    else:
        return [f"{where} was {_short(wanted)}, is {_short(given)}"]
    return [
        text
        for key, a, b in pairs
        for text in _differences(a, b, f"{where}.{key}" if where else str(key))
    ]


def _short(value):
    if isinstance(value, dict) and "class_name" in value:
        return str(value["class_name"])
    text = str(np.float32(value)) if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _memory(callback, arrays, prefix):
    """The state of a callback, as plain values; arrays go to `arrays`."""
    memory, given = {}, inspect.signature(type(callback)).parameters
    for name, value in vars(callback).items():
        if name.startswith("_") or name in ("params", "model", *given):
            continue
        if value is None or isinstance(value, (bool, int, float, np.generic)):
            memory[name] = _plain(value)
        elif isinstance(value, list) and all(
            isinstance(x, (np.ndarray, np.generic)) for x in value
        ):
            memory[name] = [f"{prefix}{name}_{i}" for i in range(len(value))]
            arrays.update(zip(memory[name], value))
    return memory


def _recall(callback, memory, arrays, prefix):
    for name, value in memory.items():
        if isinstance(value, list):
            value = [arrays[x] for x in value]
        setattr(callback, name, value)


def _generator():
    """State of PyTorch's random generator, which Keras's dropout uses there; empty elsewhere."""
    if keras.backend.backend() != "torch":
        return np.zeros(0, "uint8")
    import torch

    return torch.get_rng_state().numpy()
