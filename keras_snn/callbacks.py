"""Callbacks for training: they watch a spiking network, change it by a schedule, or make training
that was interrupted go on exactly.
"""

import collections
import os
import pathlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_snn import analysis
from keras_snn import layers as snn
from keras_snn.layers.arguments import check_integer, check_number

__all__ = ["DeadNeurons", "FiringRates", "Resume", "Schedule"]


class FiringRates(keras.callbacks.Callback):
    """Logs each spiking layer's firing rate after each epoch, as `rate/<layer>`.

    The rates go into the logs, and so into `History`, `CSVLogger` and `TensorBoard`. With `log_dir`
    it also writes, for TensorBoard, histograms of the neurons' rates and a raster of the first
    example of every layer (this needs TensorFlow and the extra `tensorboard`).

    Args:
        data: Inputs to watch the network on, an array; some dozens do.
        every: Epochs between two looks.
        log_dir: Directory of TensorBoard files, if any.
        max_neurons: Neurons of a raster at most.
        network: The network to watch, if it is not the model that is trained but a part of it.

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
        recording = analysis.record(self.network or self.model, self.data)
        for name in recording:
            if logs is not None:
                logs[f"rate/{name}"] = float(recording[name]["spikes"].mean())
        if self.log_dir is not None:
            self._write(epoch, recording)

    def _write(self, epoch, recording):
        try:
            import tensorboard  # noqa: F401
            import tensorflow as tf
        except ImportError as error:
            raise ImportError(
                "TensorBoard files need tensorflow and the extra `tensorboard`: "
                "pip install keras-snn[tensorboard]"
            ) from error
        self._writer = self._writer or tf.summary.create_file_writer(str(self.log_dir))
        with self._writer.as_default(step=epoch):
            for name in recording:
                spikes = recording[name]["spikes"]
                tf.summary.scalar(f"rate/{name}", spikes.mean())
                tf.summary.histogram(f"rates of neurons/{name}", spikes.mean((0, 1)).ravel())
                raster = spikes[0].reshape(spikes.shape[1], -1).T[: self.max_neurons]
                picture = np.clip(raster, 0, 1).repeat(4, 0).repeat(4, 1)
                tf.summary.image(f"raster/{name}", 1 - picture[None, ..., None])
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class DeadNeurons(keras.callbacks.Callback):
    """Warns of layers most of whose neurons never fire, or fire at every step.

    Args:
        data: Inputs to watch the network on, an array.
        silent: Share of neurons that never fire, above which a layer is warned of.
        saturated: Share of neurons that always fire, above which a layer is warned of.
        every: Epochs between two looks.
        network: The network to watch, if it is not the model that is trained but a part of it.

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
                    "fire: lower the threshold, or normalise the currents.",
                    stacklevel=2,
                )
            if layer.saturated > self.saturated:
                warnings.warn(
                    f"Epoch {epoch + 1}: {layer.saturated:.0%} of the neurons of {layer.name} fire "
                    "at every step: raise the threshold, or normalise the currents.",
                    stacklevel=2,
                )


class Schedule(keras.callbacks.Callback):
    """Sets something of a spiking network at the start of each epoch, by the epoch's number.

    The network is then the one built with that value: train, test and predict functions are made
    anew when the value changes (each change costs a compilation where the backend compiles), and
    a saved file holds the last value. The value is logged under the name `what`. Other models of
    the same layers that were compiled before keep the old value, and `model.output_shape` tells
    the old shape.

    Args:
        what: `"timesteps"`, steps of networks on images: of every `RepeatTime` and encoder;
            `"threshold"`, of spiking neurons, where it is trained set anew in each epoch; or the
            name of a parameter of their surrogates, such as `"alpha"`. Normalisations that know
            a threshold of their own (tdBN) keep it.
        schedule: A function from the epoch (the first is 0) to a number, such as a Keras
            `LearningRateSchedule`; or a list with a number for each epoch, the last one for all
            that follow.
        layers: Names of layers, or a function from a layer to whether it takes part; by default
            all of the model. What is nested in a layer takes part with it.

    Raises:
        ValueError: When training starts: if no layer has what is to be set; if `layers` names
            what the model does not have; for `"timesteps"`, if a layer was made for a number of
            steps (`PSN`, BNTT, TEBN). Later: if a value is not allowed.

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
                f"No layer of {self.model.name!r} that takes part has {self.what!r} to set. There "
                f"are: {', '.join(_settable(self.model)) or 'none'}."
            )
        fixed = [x.name for x in self.model._flatten_layers() if isinstance(x, FIXED_TIMESTEPS)]
        if self.what == "timesteps" and fixed:
            raise ValueError(
                f"{', '.join(fixed)} of {self.model.name!r} are made for a number of steps, which "
                "can't be changed by a schedule."
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
        """The layers that take part and have what is to be set, each once."""
        layers = self.model._flatten_layers(include_self=False)
        chosen = [layer for layer in layers if self._takes_part(layer)]
        if isinstance(self.layers, (list, tuple)):
            missing = sorted(set(self.layers) - {layer.name for layer in chosen})
            if missing:
                raise ValueError(f"The model {self.model.name!r} has no layers {missing}.")
        found = {id(x): x for layer in chosen for x in layer._flatten_layers()}
        return [layer for layer in found.values() if self._setting.has(layer)]

    def _takes_part(self, layer):
        if self.layers is None:
            return True
        return self.layers(layer) if callable(self.layers) else layer.name in self.layers


# Whether a layer has what can be set; the Python number that is compiled in; how to set it.
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


def _surrogate_setting(name):
    """The setting of a surrogate's parameter. Surrogates are values: a new one takes the place."""

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


SETTINGS = {
    "timesteps": Setting(
        lambda layer: isinstance(layer, snn.RepeatTime), lambda x: x.timesteps, _set_timesteps
    ),
    "threshold": Setting(
        lambda layer: isinstance(layer, snn.SpikingCell), lambda x: x.threshold, _set_threshold
    ),
}

FIXED_TIMESTEPS = (
    snn.PSN,
    snn.BatchNormalizationThroughTime,
    snn.TemporalEffectiveBatchNormalization,
)


def _settable(model):
    """Names of what can be set in a model."""
    layers = model._flatten_layers()
    found = {name for name, setting in SETTINGS.items() if any(map(setting.has, layers))}
    return sorted(found.union(*map(_surrogate_parameters, layers)))


def _forget_compiled(model):
    """Compiled functions hold Python numbers as they were: the next ones are made anew."""
    model.make_train_function(force=True)
    for part in model._flatten_layers():
        if isinstance(part, keras.Model):
            part.test_function = part.predict_function = None


class Resume(keras.callbacks.Callback):
    """Training that was interrupted goes on after its last whole epoch, as if it had not been.

    Before each epoch all variables of the model and of the optimizer, and the states of random
    generators, are written to a file, with what other callbacks did at the end of the epoch before;
    `fit` with the same arguments reads it and goes on. With data whose order is a function of the
    epoch, such as those of `keras_snn.datasets`, the weights in the end equal those of an unbroken
    run bit for bit (same seed, on CPUs). Give `shuffle=False` to `fit`: Keras's own shuffling of
    batches starts anew, and so does the memory of other callbacks (`EarlyStopping`). The file goes
    when training ends. In the list of callbacks, put it behind `keras.callbacks.SwapEMAWeights`,
    which has to swap back first.

    Args:
        path: The file, `.npz`.
        data: What has a method `set_epoch(epoch)`, an `ImageDataset` say, if anything.

    Raises:
        ValueError: If the file is of another model, or damaged.

    Example:

    ```python
    data = keras_snn.datasets.load("digits")
    resume = keras_snn.callbacks.Resume("results/resume.npz", data)
    model.fit(data.train, epochs=10, shuffle=False, callbacks=[resume])
    ```
    """

    def __init__(self, path, data=None):
        super().__init__()
        self.path, self.data = pathlib.Path(path), data
        if self.path.suffix != ".npz":
            raise ValueError(f"`path` should end in .npz, got {path}.")
        if data is not None and not hasattr(data, "set_epoch"):
            raise TypeError(f"`data` should have a method `set_epoch`, got {type(data).__name__}.")

    def _variables(self):
        model, optimizer = self.model, self.model.optimizer
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        return [*model.variables, *optimizer.variables]

    def on_train_begin(self, logs=None):
        if not self.path.is_file():
            return
        variables = self._variables()
        try:
            with np.load(self.path) as file:
                epoch = int(file["epoch"])
                generator = file["generator"]
                values = [file[f"variable_{i}"] for i in range(len(file.files) - 2)]
        except Exception as error:
            raise ValueError(f"{self.path} is damaged; remove it to start anew: {error}") from error
        shapes = [tuple(v.shape) for v in variables], [tuple(v.shape) for v in values]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{self.path} is of another model or optimizer; remove it to start anew."
            )
        for variable, value in zip(variables, values):
            variable.assign(value)
        if keras.backend.backend() == "torch":
            import torch

            torch.set_rng_state(torch.from_numpy(generator))
        self.model._initial_epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if self.data is not None:
            self.data.set_epoch(epoch)
        self._save(epoch)

    def _save(self, epoch):
        values = [ops.convert_to_numpy(variable) for variable in self._variables()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.npz")
        try:
            named = {f"variable_{i}": value for i, value in enumerate(values)}
            np.savez(part, epoch=epoch, generator=_generator(), **named)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)

    def on_train_end(self, logs=None):
        self.model._initial_epoch = None  # or the next `fit` would start there too
        self.path.unlink(missing_ok=True)


def _generator():
    """State of PyTorch's generator, which Keras's dropout draws from there; else nothing."""
    if keras.backend.backend() != "torch":
        return np.zeros(0, "uint8")
    import torch

    return torch.get_rng_state().numpy()
