"""Accuracy against connectivity on Fashion-MNIST: Grad R, magnitude, N of every M.

    KERAS_BACKEND=jax python benchmarks/pruning.py --data_dir=DATA --json=pruning.json

A dense network of 784, `--hidden` and 10, LIF in between, T = 4, trained with Adam at 1e-3,
from the same weights with the same batches for each row. Magnitude pruning rises over the first
half of the epochs (Zhu & Gupta's cubic); N of every M is set in front of the first. Grad R prunes
from the first step on, by the strength of its prior. Connectivity is the share of kernels' weights
that are not 0 at the end; test accuracy is that of the last epoch.
"""

import time

import keras
import numpy as np
from absl import app, flags
from common import save, table

from keras_snn import analysis, datasets, training
from keras_snn import layers as snn

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Folder of TensorFlow Datasets.")
flags.DEFINE_integer("examples", 60_000, "Training examples.", lower_bound=1)
flags.DEFINE_integer("epochs", 6, "Epochs of training.", lower_bound=2)
flags.DEFINE_integer("hidden", 256, "Neurons of the hidden layer.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights and order.")
flags.DEFINE_list("sparsities", ["0.5", "0.8", "0.9", "0.95", "0.98", "0.99"], "Of magnitude.")
flags.DEFINE_list("patterns", ["2:4", "1:4", "1:8"], "N of every M.")
flags.DEFINE_list("alphas", ["0.01", "0.03", "0.1", "0.2", "0.3", "0.5"], "Priors of Grad R.")

TIMESTEPS, RATE, SPARSITY = 4, 1e-3, 0.99


def load():
    """Images and labels of training and test, as arrays."""
    data = datasets.load("fashion_mnist", 1000, 0, FLAGS.data_dir)
    parts = []
    for batches in (data.train, data.test):
        pairs = [(np.asarray(x), np.asarray(y)) for x, y in batches]
        parts.append([np.concatenate(part) for part in zip(*pairs)])
    return parts


def network():
    """The network, from the seed's weights."""
    keras.utils.set_random_seed(FLAGS.seed)
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(inputs)
    x = snn.LIF()(snn.RepeatTime(TIMESTEPS)(keras.layers.Dense(FLAGS.hidden, name="hidden")(x)))
    return keras.Model(inputs, snn.MeanOverTime()(keras.layers.Dense(10, name="classes")(x)))


def rows():
    """Each method, its optimizer, and its callback if it has one."""
    yield "dense", keras.optimizers.Adam(RATE), []
    end = FLAGS.epochs // 2 - 1
    for sparsity in map(float, FLAGS.sparsities):
        callback = training.Prune(sparsity, end=end, scope="global")
        yield f"magnitude, {sparsity:g}", training.MaskedAdam(RATE), [callback]
    for pattern in FLAGS.patterns:
        n, m = map(int, pattern.split(":"))
        yield f"{n} of every {m}", training.MaskedAdam(RATE), [training.Prune(pattern=(n, m))]
    for alpha in map(float, FLAGS.alphas):
        yield f"Grad R, alpha {alpha:g}", training.GradR(RATE, SPARSITY, alpha), []


def train(optimizer, callbacks, data):
    """Figures of one training."""
    keras.backend.clear_session()
    (images, labels), test = data
    model, start = network(), time.process_time()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    images, labels = images[: FLAGS.examples], labels[: FLAGS.examples]
    model.fit(images, labels, 128, FLAGS.epochs, verbose=0, callbacks=callbacks)
    seconds = time.process_time() - start
    share, kernels = training.connectivity(model)
    return {
        "connectivity": share,
        "kernels": {path.split("/")[0]: part for path, part in kernels.items()},
        "test_accuracy": model.evaluate(*test, 1000, verbose=0)[1],
        "firing_rate": next(iter(analysis.firing_rates(model, test[0][:1000]).values())),
        "cpu_seconds": seconds,
    }


def main(argv):
    """Trains each row, prints and writes the table."""
    data, results, printed = load(), {}, []
    for name, optimizer, callbacks in rows():
        found = results[name] = train(optimizer, callbacks, data)
        printed.append(
            {
                "method": name,
                "connectivity (%)": f"{100 * found['connectivity']:.2f}",
                "accuracy (%)": f"{100 * found['test_accuracy']:.2f}",
                "hidden, classes (%)": ", ".join(
                    f"{100 * part:.1f}" for part in found["kernels"].values()
                ),
                "rate": f"{found['firing_rate']:.3f}",
            }
        )
        print(printed[-1], flush=True)
        kept = {name: FLAGS[name].value for name in ("examples", "epochs", "hidden", "seed")}
        save({"backend": keras.backend.backend(), "flags": kept, "rows": results})
    table("Accuracy against connectivity, Fashion-MNIST", list(printed[0]), printed)


if __name__ == "__main__":
    app.run(main)
