"""Online rules beside backpropagation through time: accuracy on digits, and memory against steps.

    KERAS_BACKEND=jax python benchmarks/online.py --json=online.json

Accuracy: two hidden layers of LIF neurons on scikit-learn's digits, images as constant currents;
all rules have the same loss, the mean of each step's. Memory: most megabytes of the process during
a training step above those before it, for more and more steps; the inputs, which grow too, are made
before.
"""

import keras
import numpy as np
from absl import app, flags
from common import held, save, spread, table
from keras import layers

from keras_snn import datasets, losses, training
from keras_snn import layers as snn

FLAGS = flags.FLAGS
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the weights and the split.")
flags.DEFINE_integer("epochs", 10, "Epochs of training.", lower_bound=1)
flags.DEFINE_integer("timesteps", 8, "Steps of the digits' network.", lower_bound=1)
flags.DEFINE_list("lengths", ["256", "1024", "4096"], "Steps for which memory is measured.")

RULES = {
    "BPTT": training.every_step,
    "SLTT": training.SLTT,
    "OTTT": training.OTTT,
    "e-prop": training.EProp,
}


def network(inputs, units, tau):
    """Dense layers with LIF neurons, and the mean current of the last one."""
    x = inputs
    for _ in range(2):
        x = snn.LIF(tau)(layers.Dense(units)(x))
    return snn.MeanOverTime()(layers.Dense(10)(x))


def compiled(rule, model):
    """The model to train."""
    trained = RULES[rule](model)
    if rule == "BPTT":
        trained.compile(keras.optimizers.Adam(2e-3), losses.TemporalEfficientCrossentropy())
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trained.compile(keras.optimizers.Adam(2e-3), loss)
    return trained


def accuracy(rule, seed):
    """Percent of the test images, after training."""
    keras.utils.set_random_seed(seed)
    parts = datasets.load("digits", 2000, seed)
    (x, y), (test_x, test_y) = (
        map(np.concatenate, zip(*[map(np.asarray, batch) for batch in part]))
        for part in (parts.train, parts.test)
    )
    x, test_x = (a.reshape(len(a), -1) for a in (x, test_x))
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, network(snn.RepeatTime(FLAGS.timesteps)(inputs), 64, 2.0))
    compiled(rule, model).fit(x, y, epochs=FLAGS.epochs, batch_size=32, verbose=0)
    return 100 * float(np.mean(model.predict(test_x, verbose=0).argmax(-1) == test_y))


def memory(rule, steps):
    """Megabytes of a training step."""
    inputs = keras.Input((steps, 16))
    trained = compiled(rule, keras.Model(inputs, network(inputs, 128, 20.0)))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, steps, 16)).astype("float32"), np.arange(16) % 10
    trained.train_on_batch(x, y)
    base = held()
    return held(lambda: trained.train_on_batch(x, y)) - base


def main(argv):
    """Both tables."""
    rows = []
    for rule in RULES:
        found = [accuracy(rule, int(seed)) for seed in FLAGS.seeds]
        row = {"rule": rule, "accuracy %": float(np.mean(found)), "±": spread(found)}
        row |= {f"MB, T = {n}": memory(rule, int(n)) for n in FLAGS.lengths}
        rows.append(row)
        print(row, flush=True)
    columns = list(rows[0])
    table(f"Learning online, {keras.backend.backend()}", columns, rows)
    save(rows)


if __name__ == "__main__":
    app.run(main)
