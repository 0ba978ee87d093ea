"""Forecasts of the Mackey-Glass series by a spiking network, as NeuroBench measures them.

    KERAS_BACKEND=torch python benchmarks/mackey_glass.py --json=mackey_glass.json

A network learns to tell the next point from a window of points, of ten Lyapunov times. Then it
forecasts ten more from its own answers, and the measure is their sMAPE. As in NeuroBench each
repeat starts half a Lyapunov time later; of its 14 series and 30 repeats `--taus` and `--repeats`
say how many are run. Beside it are the same network with ReLUs, an LSTM with the same training, and
two answers that learn nothing: the mean, and the last point. The published figures are those of
NeuroBench's leaderboard, of its own points: the equation is chaotic, and ours differ after some ten
Lyapunov times.
"""

import time

import keras
import numpy as np
from absl import app, flags
from common import save, table
from keras import layers

from keras_snn import datasets, metrics
from keras_snn import layers as snn

FLAGS = flags.FLAGS
flags.DEFINE_list("taus", ["17"], "Delays, series of NeuroBench.")
flags.DEFINE_list("networks", ["spiking", "relu", "lstm"], "What is trained.")
flags.DEFINE_integer("series", 2, "Starts of each series.", lower_bound=1)
flags.DEFINE_integer("window", 24, "Points that a network sees.", lower_bound=2)
flags.DEFINE_integer("units", 64, "Units of each hidden layer.", lower_bound=1)
flags.DEFINE_integer("epochs", 150, "Epochs.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Windows in a batch.", lower_bound=1)
flags.DEFINE_float("learning_rate", 5e-3, "First learning rate of Adam.", lower_bound=0)
flags.DEFINE_float("noise", 0.01, "Deviation of noise on inputs, in the series' deviations.", 0)
flags.DEFINE_integer("seed", 0, "Seed.")

USED = ("window", "units", "epochs", "batch_size", "learning_rate", "noise", "seed", "series")
PUBLISHED = [
    {"": "LSTM, NeuroBench's leaderboard", "sMAPE": 13.37},
    {"": "ESN, NeuroBench's leaderboard", "sMAPE": 14.7},
]


def network(kind, series):
    """A network from a window to the next point; it learns the change from the last one."""
    mean, deviation = series.train.mean(), series.train.std()
    inputs = keras.Input((FLAGS.window, 1))
    x = scaled = layers.Rescaling(1 / deviation, -mean / deviation)(inputs)
    x = layers.GaussianNoise(FLAGS.noise)(x)
    if kind == "lstm":
        x = layers.Dense(1)(layers.LSTM(FLAGS.units)(x))
    else:
        neuron = snn.LIF if kind == "spiking" else layers.ReLU
        x = neuron()(layers.Conv1D(FLAGS.units, 8, padding="causal")(x))
        x = neuron()(layers.Dense(FLAGS.units)(x))
        x = snn.MembraneReadout(tau=2.0)(layers.Dense(1)(x))
    x = layers.Add()([x, snn.LastOverTime()(scaled)])
    return keras.Model(inputs, layers.Rescaling(deviation, mean)(x), name=kind)


def fit(model, series):
    """Trains a network on the first part of a series."""
    x, y = series.windows(FLAGS.window)
    steps = FLAGS.epochs * -(-len(x) // FLAGS.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), "mse")
    history = model.fit(x, y, batch_size=FLAGS.batch_size, epochs=FLAGS.epochs, verbose=0)
    answers = model.predict(x, verbose=0)
    return history.history["loss"][-1], float(np.sqrt(np.mean((answers - y) ** 2)))


def forecast(model, series):
    """The points that follow, each from a window that ends in the network's own answers."""
    points = series.train[-FLAGS.window :].astype("float32").tolist()
    for _ in series.test:
        window = np.array(points[-FLAGS.window :], "float32")[None, :, None]
        points.append(float(np.asarray(model.predict_on_batch(window))[0, 0]))
    return np.array(points[FLAGS.window :])


def smape(series, points):
    """The error of a forecast, in percent from 0 to 200."""
    metric = metrics.SymmetricMeanAbsolutePercentageError()
    metric.update_state(series.test[:, None], points[:, None])
    return float(metric.result())


def main(argv):
    """Prints a table."""
    rows = []
    for tau in map(int, FLAGS.taus):
        found = {}
        for number in range(FLAGS.series):
            series = datasets.mackey_glass(tau, start=0.5 * number)
            for name, value in (("mean", series.train.mean()), ("last point", series.train[-1])):
                found.setdefault(name, []).append(
                    {"sMAPE": smape(series, np.full(len(series.test), value))}
                )
            for kind in FLAGS.networks:
                keras.utils.set_random_seed(FLAGS.seed + number)
                model, start = network(kind, series), time.process_time()
                loss, error = fit(model, series)
                points = forecast(model, series)
                apart = np.abs(points - series.test) > 0.1
                found.setdefault(kind, []).append({
                    "sMAPE": smape(series, points),
                    "one step (RMSE)": error,
                    "loss": loss,
                    "Lyapunov times until 0.1 apart": float(np.argmax(apart) / 75)
                    if apart.any()
                    else 10.0,
                    "parameters": model.count_params(),
                    "CPU s": time.process_time() - start,
                })  # fmt: skip
                print(tau, number, kind, found[kind][-1], flush=True)
        rows += [
            {"": name, "tau": tau, "runs": len(runs)}
            | {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
            | {"each": [round(run["sMAPE"], 2) for run in runs]}
            for name, runs in found.items()
        ]
    table("Forecasts of ten Lyapunov times", ["", "tau", "sMAPE", "each"], rows + PUBLISHED)
    save({
        "backend": keras.backend.backend(),
        **{name: FLAGS[name].value for name in USED},
        "rows": rows,
        "published": PUBLISHED,
    })  # fmt: skip


if __name__ == "__main__":
    app.run(main)
