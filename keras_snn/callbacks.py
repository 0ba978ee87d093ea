"""Callbacks that watch a spiking network while it trains."""

import warnings

import keras
import numpy as np

from keras_snn import analysis
from keras_snn.layers.arguments import check_integer, check_number

__all__ = ["DeadNeurons", "FiringRates"]


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
