"""What a training run would need, from a minute of it: time, memory, disk."""

import dataclasses
import math
import os
import resource
import shutil
import sys
import time

import keras
import numpy as np

from keras_snn import datasets, graph

SECONDS = 60.0  # how long training is timed by default, behind the first batch, which compiles
# Of the recipes' data sets: shape of an image or of one step, classes, examples to train and test.
SETS = {
    "fashion_mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
    "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
    "imagenet2012": ((224, 224, 3), 1000, 1_281_167, 50_000),
    "nmnist": ((34, 34, 2), 10, 60_000, 10_000),
    "dvs_gesture": ((128, 128, 2), 11, 1_176, 288),
    "cifar10_dvs": ((128, 128, 2), 10, 9_000, 1_000),
    "shd": ((700,), 20, 8_156, 2_264),
    "ssc": ((700,), 35, 75_466, 20_382),
    "spoken_digits": ((40,), 10, 2_700, 300),
    "speech_commands": ((40,), 35, 84_843, 11_005),
}


@dataclasses.dataclass
class Part:
    """A model that is trained, and what its batches take.

    Attributes:
        name: What it is.
        epochs: Number of epochs.
        steps: Batches in an epoch.
        held_out: Batches that follow each epoch.
        first: Seconds of the first batch, with compilation.
        step: Seconds of a batch in training.
        held_out_step: Seconds of a batch of held-out data.
        variables: Bytes of the variables of model and optimizer.
        weights: Bytes of the model's own.
    """

    name: str
    epochs: int
    steps: int
    held_out: int
    first: float
    step: float
    held_out_step: float
    variables: int
    weights: int

    @property
    def seconds(self):
        """Seconds of the whole training."""
        epoch = self.steps * self.step + self.held_out * self.held_out_step
        return self.first + self.epochs * epoch

    def __str__(self):
        return (
            f"{self.name}: {duration(self.seconds)}: {self.epochs} epochs of {self.steps:,} "
            f"batches at {self.step:.3f} s, each with {self.held_out:,} held-out batches at "
            f"{self.held_out_step:.3f} s; the first batch took {self.first:.0f} s"
        )


class _Stopwatch(keras.callbacks.Callback):
    """Times batches, but for the first, and stops training after some seconds."""

    def __init__(self, seconds):
        super().__init__()
        self.limit, self.batches, self.seconds, self.first = seconds, 0, 0.0, 0.0
        self._begin = None

    def on_train_begin(self, logs=None):
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if not self.first:
            self.first, self._begin = now - self._begin, now
            return
        self.batches, self.seconds = self.batches + 1, now - self._begin
        if self.seconds >= self.limit:
            self.model.stop_training = True


def stand_in(
    name,
    batch_size,
    image_size=None,
    timesteps=10,
    train_timesteps=None,
    one_hot=False,
    validation_split=0.0,
):
    """Noise of the shape and number of a data set's examples, which takes no memory.

    Args:
        name: A name in `SETS`; the others are those of `keras_snn.datasets.load`.
        batch_size: Examples in a batch.
        image_size: Height and width of images, if not the data set's.
        timesteps: Steps of a recording.
        train_timesteps: Steps in training, if fewer.
        one_hot: Whether labels are one-hot vectors.
        validation_split: Share of the training examples that is held out.

    Returns:
        A `keras_snn.datasets.Dataset`.
    """
    shape, classes, train, test = SETS[name]
    if image_size is not None:
        shape = (image_size, image_size, shape[-1]) if len(shape) == 3 else (image_size,)
    timed = name in datasets.recordings.RECORDINGS or name in datasets.speech.SETS
    if not timed and keras.config.image_data_format() == "channels_first":
        shape = (shape[2], *shape[:2])
    noise = np.random.default_rng(0).uniform(-1, 1, (timesteps, *shape)).astype("float32")
    label = np.eye(classes, dtype="float32")[0] if one_hot else np.int32(0)

    def batches(count, steps=timesteps):
        example = noise[:steps] if timed else noise[0]
        arrays = (np.broadcast_to(x, (count, *np.shape(x))) for x in (example, label))
        return datasets.ArrayBatches(*arrays, batch_size)

    held_out = round(validation_split * train)
    shape = ((None if train_timesteps else timesteps), *shape) if timed else shape
    return datasets.Dataset(
        name,
        batches(train - held_out, train_timesteps or timesteps),
        batches(test),
        shape,
        classes,
        batches(held_out) if held_out else None,
    )


def fitting_batch(model, batch_size, timesteps):
    """The batch size, halved until half of the memory holds what training keeps.

    That are the outputs of weighted layers, normalisations and neurons. On an accelerator it is
    the batch size as it is.
    """
    kept = sum(
        math.prod(x.shape[1:]) * np.dtype(keras.backend.standardize_dtype(x.dtype)).itemsize
        for call in graph.trace(model, timesteps).calls
        if call.products or call.spikes or call.role.folds
        for x in call.outputs
    )
    while batch_size > 1 and accelerator_memory() is None and kept * batch_size > memory() / 2:
        batch_size //= 2
    return batch_size


def memory():
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measure(name, model, train, held_out, epochs, steps, seconds=SECONDS):
    """Trains a compiled model for some seconds.

    Args:
        name: What the model is, for the report.
        model: The model; it is trained.
        train: Batches for `fit`.
        held_out: Batches that it is evaluated on after each epoch, or `None`.
        epochs: Epochs of the whole training.
        steps: Batches in an epoch.
        seconds: How long to train.

    Returns:
        A `Part`.
    """
    watch = _Stopwatch(seconds)
    # Of one epoch only: what follows it would be timed with the next batch.
    model.fit(train, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[watch])
    step, evaluated = watch.seconds / watch.batches if watch.batches else watch.first, 0.0
    if held_out is not None:
        model.evaluate(held_out, steps=1, verbose=0)  # compiles
        count, begin = min(len(held_out), 8), time.perf_counter()
        model.evaluate(held_out, steps=count, verbose=0)
        evaluated = (time.perf_counter() - begin) / count

    return Part(
        name,
        epochs,
        steps,
        0 if held_out is None else len(held_out),
        watch.first,
        step,
        evaluated,
        _bytes([*model.variables, *model.optimizer.variables]),
        _bytes(model.weights),
    )


def _bytes(variables):
    """The bytes that variables take."""
    dtypes = [np.dtype(keras.backend.standardize_dtype(v.dtype)) for v in variables]
    return sum(math.prod(v.shape) * dtype.itemsize for v, dtype in zip(variables, dtypes))


def accelerator_memory():
    """The most bytes that were in use on the first accelerator, or `None` if there is none."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    if keras.backend.backend() == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def duration(seconds):
    """Seconds in words, as `2 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def report(parts, folder):
    """The lines of an estimate.

    Args:
        parts: A list of `Part`, trained one after the other.
        folder: Where results go.

    Returns:
        Text.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    total = memory() / 2**30
    used = accelerator_memory()
    accelerator = "" if used is None else f"; {used / 2**30:.1f} GiB on the first accelerator"
    # `Resume` writes a file anew before the one that it replaces goes.
    disk = (2 * sum(part.variables for part in parts) + parts[-1].weights) / 1e6
    free = shutil.disk_usage(folder).free / 1e9
    return "\n".join(
        [
            *map(str, parts),
            f"Time: {duration(sum(part.seconds for part in parts))}",
            f"Memory: {peak:.1f} GiB at most so far, of {total:.1f} GiB{accelerator}",
            f"Disk: {disk:.0f} MB while training, of {free:.0f} GB free in {folder}, besides the "
            "data",
        ]
    )
