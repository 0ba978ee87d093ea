"""Learns digits without labels: STDP, neurons that compete, and labels read out at the end.

    KERAS_BACKEND=torch python applications/stdp.py
    KERAS_BACKEND=torch python applications/stdp.py --seeds=0,1,2 --json=stdp_digits.json

A small network like Diehl and Cook's (2015) on scikit-learn's digits, 8x8 pixels: Poisson spikes, a
dense layer trained by `keras_snn.training.STDP`, and neurons of which one fires in a step at most,
which inhibits the others; a threshold that rises with each spike keeps all of them busy. Then each
neuron gets the label that it answers to most, and a test image that of the neurons that answer to
it. Test images, a fifth of 1,797, are seen by neither.
"""

import json
import statistics
import time

import keras
import numpy as np
from absl import app, flags
from keras import ops

from keras_snn import dynamics
from keras_snn.training import STDP, PairSTDP
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.DEFINE_integer("neurons", 100, "Neurons that compete.", lower_bound=10)
flags.DEFINE_integer("epochs", 2, "How often to go through the training images.", lower_bound=1)
flags.DEFINE_integer("batch_size", 16, "Images that are shown side by side.", lower_bound=1)
flags.DEFINE_integer("timesteps", 50, "Steps that an image is shown for.", lower_bound=2)
flags.DEFINE_float("learning_rate", 0.02, "Of the optimizer, SGD.", lower_bound=0)
flags.DEFINE_list("seeds", ["0"], "Seeds of the split, the weights and the spikes.")
flags.DEFINE_string("json", None, "Where to write the results.")

RATE = 0.5  # spikes a step of the brightest pixel
TAU, TAU_TRACE = 10.0, 10.0  # of the membrane and the traces, in steps
THRESHOLD, RISE, FALL = 2.0, 0.00625, 1e-5  # at first, with a spike, in a step
BACK = -1.0  # potential of all neurons after one has fired


def normalized(kernel):
    """Weights from 0 up; those of a neuron have the norm 1, so that it can grow some only."""
    kernel = ops.maximum(kernel, 0.0)
    return kernel / ops.maximum(ops.norm(kernel, axis=0, keepdims=True), 1e-6)


def split(seed):
    """Training and test images, `(examples, 64)` in [0, 1], and labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32") / 16
    return train_test_split(images, labels, test_size=0.2, random_state=seed, stratify=labels)


class Network:
    """The competing neurons behind a dense layer."""

    def __init__(self, inputs, seed):
        self.rng = np.random.default_rng(seed)
        self.layer = keras.layers.Dense(
            FLAGS.neurons,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomUniform(0.2, 0.8, seed=seed),
            kernel_constraint=normalized,
        )
        self.layer.build((None, inputs))
        self.layer.kernel.assign(normalized(self.layer.kernel))
        rule = PairSTDP(TAU_TRACE, TAU_TRACE, potentiation=1.0, depression=0.1)
        optimizer = keras.optimizers.SGD(FLAGS.learning_rate)
        self.stdp = STDP(self.layer, rule, optimizer)
        self.raised = np.zeros(FLAGS.neurons, "float32")  # of the thresholds

    def show(self, images, learn):
        """Counts of spikes, `(batch, neurons)`, while images are shown; and learns, if told so."""
        counts = np.zeros((len(images), FLAGS.neurons), "float32")
        potential = ops.zeros(counts.shape)
        self.stdp.reset()
        for _ in range(FLAGS.timesteps):
            pixels = (self.rng.random(images.shape) < RATE * images).astype("float32")
            pixels = ops.convert_to_tensor(pixels)
            potential = dynamics.decay_charge(potential, self.layer(pixels), 1 - 1 / TAU)
            above = ops.convert_to_numpy(potential) - THRESHOLD - self.raised
            first = above.argmax(axis=1)  # it inhibits the others before they fire
            fires = above[np.arange(len(first)), first] >= 0
            spikes = np.eye(FLAGS.neurons, dtype="float32")[first] * fires[:, None]
            potential = ops.where(ops.convert_to_tensor(fires[:, None]), BACK, potential)
            counts += spikes
            if learn:
                self.stdp.step(pixels, spikes)
                self.raised += RISE * spikes.sum(axis=0)
                self.raised *= 1 - FALL
        return counts

    def answers(self, images, learn=False):
        """Counts of spikes for all images, in pieces."""
        size = FLAGS.batch_size if learn else 256
        order = self.rng.permutation(len(images)) if learn else np.arange(len(images))
        pieces = [order[start : start + size] for start in range(0, len(order), size)]
        return np.concatenate([self.show(images[piece], learn) for piece in pieces])


def read_out(counts, labels, new):
    """Labels of new answers: each neuron stands for the label that it answers to most."""
    classes = np.arange(labels.max() + 1)
    means = np.stack([counts[labels == c].mean(axis=0) for c in classes])
    owner = np.where(means.max(axis=0) > 0, means.argmax(axis=0), -1)
    votes = [new[:, owner == c].mean(axis=1) if np.any(owner == c) else -1 for c in classes]
    return np.argmax([np.broadcast_to(v, len(new)) for v in votes], axis=0)


def run(seed):
    """Trains and tests with one seed; what is written of it."""
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    images, test_images, labels, test_labels = split(seed)
    network = Network(images.shape[1], seed)
    for _ in range(FLAGS.epochs):
        network.answers(images, learn=True)
    counts = network.answers(images)
    found = read_out(counts, labels, network.answers(test_images))
    result = {
        "seed": seed,
        "test_accuracy": float(np.mean(found == test_labels)),
        "training_accuracy": float(np.mean(read_out(counts, labels, counts) == labels)),
        "test_examples": len(test_labels),
        "silent_neurons": int(np.sum(counts.sum(axis=0) == 0)),
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(" ".join(f"{k}={v:.4g}" for k, v in result.items()), flush=True)
    return result


def main(_):
    if not all(seed.isdecimal() for seed in FLAGS.seeds) or not FLAGS.seeds:
        raise app.UsageError(f"--seeds should be numbers such as 0,1,2, got {FLAGS.seeds}.")
    runs = [run(int(seed)) for seed in FLAGS.seeds]
    accuracies = [r["test_accuracy"] for r in runs]
    deviation = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
    print(f"accuracy {np.mean(accuracies):.2%} ± {deviation:.2%} of {len(runs)} seeds")
    if FLAGS.json:
        names = ("neurons", "epochs", "batch_size", "timesteps", "learning_rate")
        results = {
            "flags": {name: FLAGS[name].value for name in names},
            "backend": keras.backend.backend(),
            "mean": float(np.mean(accuracies)),
            "deviation": deviation,
            "runs": runs,
        }
        path = files.check_path(FLAGS.json, (".json",))
        files.write(path, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
