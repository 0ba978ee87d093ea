"""Callbacks that watch a spiking network while it trains, and that let training go on exactly."""

import os
import pathlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_snn import analysis
from keras_snn.layers.arguments import check_integer, check_number

__all__ = ["DeadNeurons", "FiringRates", "Resume"]


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

    Example:

    ```python
    model.fit(images, labels, callbacks=[keras_snn.callbacks.FiringRates(images[:32])])
    ```
    """

    def __init__(self, data, every=1, log_dir=None, max_neurons=200):
        super().__init__()
        self.data, self.log_dir = data, log_dir
        self.every = check_integer("every", every)
        self.max_neurons = check_integer("max_neurons", max_neurons)
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        recording = analysis.record(self.model, self.data)
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

    Example:

    ```python
    model.fit(images, labels, callbacks=[keras_snn.callbacks.DeadNeurons(images[:32])])
    ```
    """

    def __init__(self, data, silent=0.9, saturated=0.5, every=1):
        super().__init__()
        self.data = data
        self.silent = check_number("silent", silent, minimum=0, maximum=1)
        self.saturated = check_number("saturated", saturated, minimum=0, maximum=1)
        self.every = check_integer("every", every)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        for layer in analysis.profile(self.model, self.data).layers:
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


class Resume(keras.callbacks.Callback):
    """Training that was interrupted goes on after its last whole epoch, as if it had not been.

    After each epoch all variables of the model and of the optimizer, and the states of random
    generators, are written to a file; `fit` with the same arguments reads it and goes on. With data
    whose order is a function of the epoch, such as those of `keras_snn.datasets`, the weights in
    the end equal those of an unbroken run bit for bit (same seed, on CPUs). Give `shuffle=False` to
    `fit`: Keras's own shuffling of batches starts anew. The file goes when training ends.

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

    def on_epoch_end(self, epoch, logs=None):
        values = [ops.convert_to_numpy(variable) for variable in self._variables()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.npz")
        try:
            named = {f"variable_{i}": value for i, value in enumerate(values)}
            np.savez(part, epoch=epoch + 1, generator=_generator(), **named)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)

    def on_train_end(self, logs=None):
        self.path.unlink(missing_ok=True)


def _generator():
    """State of PyTorch's generator, which Keras's dropout draws from there; else nothing."""
    if keras.backend.backend() != "torch":
        return np.zeros(0, "uint8")
    import torch

    return torch.get_rng_state().numpy()
