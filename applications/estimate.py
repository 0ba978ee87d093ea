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

SECONDS = 60.0  # how long training is timed by default, behind the first batch, which compiles


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
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
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
