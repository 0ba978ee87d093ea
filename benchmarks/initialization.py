"""Which initialiser makes small spiking networks learn: three toy tasks, several depths and seeds.

    python benchmarks/initialization.py --json=initialization.json

Stacks of `Dense` and `LIF`, all defaults, without normalisation, T = 8, 15 epochs of Adam at 1e-3.
`quadrants`: whether two coordinates have equal signs; `digits`: scikit-learn's 8x8 digits; `order`:
which of two groups of 10 channels fires in the first half of a noisy spike pattern. Printed are the
mean and the worst held-out accuracy over seeds, and the last layer's firing rate before training.
"""

import keras
import numpy as np
from absl import app, flags
from common import save, table

from keras_snn import analysis, datasets
from keras_snn import layers as snn
from keras_snn.initializers import FiringRateScaling

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", ["quadrants", "digits", "order"], "Which.")
flags.DEFINE_list("depths", ["1", "2", "3", "5"], "Numbers of spiking layers.")
flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)
flags.DEFINE_integer("epochs", 15, "Epochs of training.", lower_bound=1)

TIMESTEPS, WIDTH, EXAMPLES = 8, 64, 1200


def quadrants(rng):
    """Points of the plane, constant over time; the class is the sign of their product."""
    x = rng.normal(size=(EXAMPLES, 2))
    return np.repeat(x[:, None], TIMESTEPS, axis=1), (x.prod(1) > 0).astype(int)


def digits(rng):
    """Images, constant over time, with pixels from 0 to 1."""
    parts = datasets.load("digits", 1800, 0)
    x, y = (np.concatenate(both) for both in zip(parts.train[0], parts.test[0]))
    order = rng.permutation(len(x))
    return np.repeat(x.reshape(len(x), 1, -1)[order], TIMESTEPS, axis=1), y[order]


def order(rng):
    """Two groups of channels: one fires in the first half, the other in the second."""
    y = rng.integers(0, 2, EXAMPLES)
    late = np.arange(TIMESTEPS) >= TIMESTEPS // 2
    second = np.arange(20) >= 10
    active = (late[:, None] == second) == (y == 0)[:, None, None]
    return (rng.random((EXAMPLES, TIMESTEPS, 20)) < np.where(active, 0.34, 0.05)).astype(float), y


TASKS = {"quadrants": quadrants, "digits": digits, "order": order}


def scaled():
    """The arguments of a layer in front of a `LIF` that is to fire."""
    fires = FiringRateScaling("lif", timesteps=TIMESTEPS)
    return {"kernel_initializer": fires, "bias_initializer": fires}


INITIALIZERS = {
    "Keras's default": dict,
    "he_normal": lambda: {"kernel_initializer": "he_normal"},
    "FiringRateScaling": scaled,
}


def train(task, depth, initializer, seed):
    """Held-out accuracy in percent, and the last spiking layer's rate before training."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    x, y = TASKS[task](np.random.default_rng(seed))
    layers = [keras.Input(x.shape[1:])]
    for _ in range(depth):
        layers += [keras.layers.Dense(WIDTH, **initializer()), snn.LIF()]
    model = keras.Sequential([*layers, keras.layers.Dense(int(y.max()) + 1), snn.MeanOverTime()])
    rate = list(analysis.firing_rates(model, x[:64]).values())[-1]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    split = len(x) * 3 // 4
    model.fit(x[:split], y[:split], batch_size=32, epochs=FLAGS.epochs, verbose=0)
    return 100 * model.evaluate(x[split:], y[split:], verbose=0)[1], float(rate)


def main(argv):
    """Prints a table a task."""
    results = {"backend": keras.backend.backend()}
    for task in FLAGS.tasks:
        rows = []
        for name, initializer in INITIALIZERS.items():
            rows.append({"initializer": name})
            for depth in FLAGS.depths:
                runs = [train(task, int(depth), initializer, s) for s in range(FLAGS.seeds)]
                accuracy, rate = np.transpose(runs)
                rows[-1][f"{depth} layers"] = (
                    f"{accuracy.mean():.1f} (worst {accuracy.min():.1f}) %, rate {rate.mean():.3f}"
                )
        table(f"{task}: held-out accuracy by spiking layers", list(rows[-1]), rows)
        results[task] = rows
        save(results)


if __name__ == "__main__":
    app.run(main)
