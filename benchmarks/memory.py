"""What a training step takes, as `keras_snn.memory.plan` says, and as measured.

    python benchmarks/memory.py --backends=tensorflow,jax,torch

One process for each backend. On JAX and PyTorch measured is by how much the process grows in a step
of `train_on_batch` (glibc gives memory back at once, or a step would hide in what earlier ones
left); TensorFlow keeps what it had, and its allocator tells the peak of the step. Weights and the
optimizer's variables are added.
"""

import json
import os
import subprocess
import sys

from absl import app, flags
from common import held, save, table

FLAGS = flags.FLAGS
flags.DEFINE_list("backends", ["tensorflow", "jax", "torch"], "Backends.")
flags.DEFINE_list("networks", None, "Networks (default: all).")

# Network, shape of its input, (batch, timesteps) of the two rows.
NETWORKS = {
    "SEWResNet8": ((32, 32, 3), ((128, 4), (64, 6))),
    "SpeechNet": ((None, 40), ((256, 100), (64, 300))),
    "SpikingConvNet": ((28, 28, 1), ((128, 4), (48, 8))),
}


def compiled(name, timesteps):
    """A network that is compiled with Adam."""
    import keras

    from keras_snn import applications

    shape = tuple(timesteps if n is None else n for n in NETWORKS[name][0])
    build = getattr(applications, name)
    model = build(input_shape=shape, classes=10, classifier_activation=None, timesteps=timesteps)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def measured(model, batch):
    """What a step takes, in MB."""
    import keras
    import numpy as np

    x = np.random.default_rng(0).random((batch, *model.input_shape[1:]), "float32")
    y = np.zeros(batch)
    model.train_on_batch(x, y)  # compiles
    variables = [*model.variables, *model.optimizer.variables]
    fixed = sum(4 * int(np.prod(v.shape)) for v in variables) / 1e6
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.reset_memory_stats("CPU:0")
        model.train_on_batch(x, y)
        return fixed + tf.config.experimental.get_memory_info("CPU:0")["peak"] / 1e6
    before = held()
    return fixed + (held(lambda: model.train_on_batch(x, y)) - before) * 2**20 / 1e6


def main(argv):
    """Prints the table, or, with `--only`, the rows of this process's backend."""
    if FLAGS.only:
        import keras

        from keras_snn import memory

        for name in FLAGS.networks or NETWORKS:
            for batch, steps in NETWORKS[name][1]:
                model = compiled(name, steps)
                plan = memory.plan(model, batch).total / 1e6
                step = measured(model, batch)
                row = {"network": name, "batch": batch, "T": steps, "plan (MB)": plan}
                row |= {"step (MB)": step, "plan / step": plan / step}
                print(json.dumps({"backend": keras.backend.backend()} | row), flush=True)
        return
    rows = []
    for backend in FLAGS.backends:
        environment = os.environ | {"KERAS_BACKEND": backend, "MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, *sys.argv, "--only=rows"]
        found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        rows += [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
    table("Memory of a training step", list(rows[0]), rows)
    save(rows)


if __name__ == "__main__":
    app.run(main)
