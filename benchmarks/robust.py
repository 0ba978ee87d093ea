"""How robust networks are with the usual training, and with training for certificates.

    KERAS_BACKEND=jax python benchmarks/robust.py --json=robust_digits.json

Spiking networks (the authors' neuron; real images in the first layer) on images with pixels from 0
to 1. Printed are, in percent of the test images and for three sizes of the perturbation: right
answers, those that are right after the fast gradient sign method and after projected gradient
descent, and those that are certified by S-IBP and by S-CROWN; then, which should be 0, how many
certified answers the attacks broke, and how many scores of random points left their bounds.
Training for certificates starts from the usual network, as the authors do it; `--robust_epochs` is
much less than theirs.
"""

import keras
import numpy as np
from absl import app, flags
from common import save, table

from keras_snn import datasets, robust
from keras_snn import layers as snn

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "digits", "Name of the images, see keras_snn.datasets.load.")
flags.DEFINE_string("data_dir", None, "Where they are.")
flags.DEFINE_list("eps", ["0.02", "0.05", "0.1"], "Sizes of the perturbation.")
flags.DEFINE_list("units", ["128", "64"], "Neurons of the hidden layers.")
flags.DEFINE_integer("timesteps", 4, "Steps of the network.", lower_bound=1)
flags.DEFINE_integer("epochs", 30, "Epochs of the usual training.", lower_bound=1)
flags.DEFINE_integer("robust_epochs", 60, "Epochs of training for certificates.", lower_bound=1)
flags.DEFINE_integer("train_examples", 10000, "Training images at most.", lower_bound=1)
flags.DEFINE_integer("test_examples", 500, "Test images at most.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Examples in a batch.", lower_bound=1)
flags.DEFINE_integer("points", 20000, "Random points for each row.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed.")


USED = ("units", "timesteps", "epochs", "robust_epochs", "batch_size", "train_examples", "points")


def images():
    """`(images, labels)` for training and testing, pixels from 0 to 1, flattened."""
    parts = datasets.load(FLAGS.dataset, 1000, FLAGS.seed, FLAGS.data_dir)

    def gathered(batches, count):
        x, y = [], []
        for images, labels in batches:
            x.append((np.asarray(images) + 1) / 2)
            y.append(np.asarray(labels))
            if sum(map(len, y)) >= count:
                break
        x, y = (np.concatenate(parts)[:count] for parts in (x, y))
        return x.reshape(len(x), -1).astype("float32"), y

    return gathered(parts.train, FLAGS.train_examples), gathered(parts.test, FLAGS.test_examples)


def network(size, classes):
    """Dense layers with the authors' neuron; the scores are the last layer's mean currents."""
    model = keras.Sequential([keras.Input((size,))])
    for index, units in enumerate(FLAGS.units):
        model.add(keras.layers.Dense(int(units)))
        if index == 0:
            model.add(snn.RepeatTime(FLAGS.timesteps))
        model.add(snn.DecayLIF(decay=0.25, threshold=0.25))
    model.add(keras.layers.Dense(classes))
    model.add(snn.MeanOverTime())
    return model


def fit(model, data, epochs, **optimizer):
    """Trains a model with Adam."""
    model.compile(
        keras.optimizers.Adam(**optimizer),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, batch_size=FLAGS.batch_size, epochs=epochs, verbose=0)


def measure(model, data, eps):
    """A row of the table: percent of the images, and two numbers that should be 0."""
    x, y = data

    def right(x):
        return model.predict(x, verbose=0, batch_size=1000).argmax(1) == y

    box = robust.box(x, eps)
    attacked = {
        "FGSM": right(robust.fgsm(model, x, y, eps, batch_size=500)),
        "PGD-10": right(robust.pgd(model, x, y, eps, restarts=2, seed=0, batch_size=500)),
    }
    certified = {}
    for name, method in (("S-IBP", "ibp"), ("S-CROWN", "crown")):
        gaps = robust.margins(model, box, y, method)
        gaps[np.arange(len(y)), y] = np.inf
        certified[name] = gaps.min(1) > 0
    shares = {"accuracy": right(x)} | attacked | certified
    broken = [np.sum(found & ~stays) for found in certified.values() for stays in attacked.values()]
    return {
        "eps": eps,
        **{name: 100 * float(found.mean()) for name, found in shares.items()},
        "broken": int(sum(broken)),
        "outside": outside(model, x, box),
    }


def outside(model, x, box):
    """How many scores of `--points` random points, half of them corners, are outside the bounds."""
    lower, upper = robust.bounds(model, box, "crown")
    count, found = -(-FLAGS.points // len(x) // 2), 0
    ends, rng = (
        [np.asarray(keras.ops.convert_to_numpy(end)) for end in box],
        np.random.default_rng(0),
    )
    for _ in range(count):
        shares = rng.random(x.shape, "float32")
        for share in (shares, np.round(shares)):
            points = np.clip(ends[0] + share * (ends[1] - ends[0]), *ends)
            scores = model.predict(points, verbose=0, batch_size=1000)
            found += int(np.sum((scores < lower) | (scores > upper)))
    return found


def main(argv):
    """Prints a table."""
    keras.utils.set_random_seed(FLAGS.seed)
    train, test = images()
    usual = network(train[0].shape[1], int(train[1].max()) + 1)
    fit(usual, train, FLAGS.epochs, learning_rate=2e-3)
    rows = []
    for eps in map(float, FLAGS.eps):
        rows.append({"training": "usual"} | measure(usual, test, eps))
        model = keras.models.clone_model(usual)
        model.set_weights(usual.get_weights())
        steps = FLAGS.robust_epochs * -(-len(train[0]) // FLAGS.batch_size)
        schedule = robust.Rise(eps, steps=int(0.8 * steps))
        fit(
            robust.RobustModel(model, schedule),
            train,
            FLAGS.robust_epochs,
            learning_rate=1e-3,
            clipnorm=0.25,
        )
        rows.append({"training": f"for {eps}"} | measure(model, test, eps))
        table(f"{FLAGS.dataset}, {len(test[0])} test images, percent", list(rows[0]), rows)
        save({
            "backend": keras.backend.backend(),
            "dataset": FLAGS.dataset,
            **{name: FLAGS[name].value for name in USED},
            "seed": FLAGS.seed,
            "test_examples": len(test[0]),
            "rows": rows,
        })  # fmt: skip


if __name__ == "__main__":
    app.run(main)
