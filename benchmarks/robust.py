"""How robust networks are with the usual training, and with training for certificates.

    KERAS_BACKEND=jax python benchmarks/robust.py --json=robust_digits.json

Spiking networks (the authors' neuron; real images in the first layer) on images with pixels from 0
to 1. Printed are, in percent of the test images and for three sizes of the perturbation: right
answers, those that are right after the fast gradient sign method and after projected gradient
descent, and those that are certified by S-IBP and by S-CROWN. Training for certificates starts from
the usual network, as the authors do it; `--robust_epochs` is much less than theirs.
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
flags.DEFINE_integer("seed", 0, "Seed.")


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
    """A row of the table, in percent."""
    x, y = data

    def right(x):
        return 100 * float(np.mean(model.predict(x, verbose=0, batch_size=500).argmax(1) == y))

    return {
        "eps": eps,
        "accuracy": right(x),
        "FGSM": right(robust.fgsm(model, x, y, eps, batch_size=250)),
        "PGD-10": right(robust.pgd(model, x, y, eps, restarts=2, seed=0, batch_size=250)),
        "S-IBP": 100 * robust.certify(model, data, eps, "ibp", batch_size=100),
        "S-CROWN": 100 * robust.certify(model, data, eps, "crown", batch_size=100),
    }


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
            **{name: FLAGS[name].value for name in ("units", "timesteps", "epochs", "batch_size")},
            **{name: FLAGS[name].value for name in ("robust_epochs", "train_examples", "seed")},
            "test_examples": len(test[0]),
            "rows": rows,
        })  # fmt: skip


if __name__ == "__main__":
    app.run(main)
