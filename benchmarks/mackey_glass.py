"""Forecasts of the Mackey-Glass series by a spiking network, as NeuroBench measures them.

    KERAS_BACKEND=torch python benchmarks/mackey_glass.py --json=mackey_glass.json

A network learns to tell the next point from a window of points, of ten Lyapunov times. Then it
forecasts ten more from its own answers, and the measure is their sMAPE. As in NeuroBench each
repeat starts half a Lyapunov time later; of its 14 series and 30 repeats `--taus` and `--repeats`
say how many are run. Beside it are the same network with ReLUs, an LSTM with the same training, and
two answers that learn nothing: the mean, and the last point. `random` is a spiking network too, of
many neurons whose weights, biases and time constants are drawn and stay; only the readout learns,
by least squares with a penalty (an extreme learning machine, Huang et al. 2006, of neurons that
fire; its settings were chosen on series that start 20 to 23 Lyapunov times later). The mean of the
forecasts of five draws is taken: where they part, nobody knows, and the mean is the better answer.

The published figures are those of NeuroBench's leaderboard, of its own points: the equation is
chaotic, and ours differ after some ten Lyapunov times.
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
flags.DEFINE_list("networks", ["spiking", "random", "relu", "lstm"], "What is trained.")
flags.DEFINE_integer("neurons", 2000, "Neurons of `random`.", lower_bound=1)
flags.DEFINE_integer(
    "members", 5, "Networks of `random` whose mean forecast is one.", lower_bound=1
)
flags.DEFINE_integer("random_window", 32, "Points that `random` sees.", lower_bound=2)
flags.DEFINE_float("ridge", 1e-4, "Penalty of squared weights of its readout.", lower_bound=0)
flags.DEFINE_integer("copies", 4, "Noisy copies of each window that it learns.", lower_bound=1)
flags.DEFINE_integer("series", 2, "Starts of each series.", lower_bound=1)
flags.DEFINE_integer("window", 24, "Points that a network sees.", lower_bound=2)
flags.DEFINE_integer("units", 64, "Units of each hidden layer.", lower_bound=1)
flags.DEFINE_integer("epochs", 150, "Epochs.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Windows in a batch.", lower_bound=1)
flags.DEFINE_float("learning_rate", 5e-3, "First learning rate of Adam.", lower_bound=0)
flags.DEFINE_float("noise", 0.01, "Deviation of noise on inputs, in the series' deviations.", 0)
flags.DEFINE_integer("seed", 0, "Seed.")

USED = ("window", "units", "epochs", "batch_size", "learning_rate", "noise", "seed", "series")
USED += ("neurons", "members", "random_window", "ridge", "copies")
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


def random_network(series):
    """A network whose neurons are drawn, and what its readout weighs: their smoothed spikes."""
    mean, deviation = series.train.mean(), series.train.std()
    taps, draw = 16, keras.random.uniform
    inputs = keras.Input((FLAGS.random_window, 1))
    scaled = layers.Rescaling(1 / deviation, -mean / deviation)(inputs)
    currents = layers.Conv1D(
        FLAGS.neurons,
        taps,
        padding="causal",
        kernel_initializer=keras.initializers.RandomNormal(0.0, 2 / np.sqrt(taps)),
        bias_initializer=keras.initializers.RandomUniform(-1.0, 4.0),
        trainable=False,
    )
    neurons = snn.ParametricLIF(parameter_shape="channel", trainable=False)
    spikes = neurons(currents(scaled))
    taus = draw((FLAGS.neurons,), 1.2, 6.0)
    neurons.cell.w.assign(-keras.ops.log(taus - 1))  # tau = 1 / sigmoid(w)
    smooth = keras.Model(inputs, snn.MembraneReadout(tau=2.0)(spikes))
    change = snn.MembraneReadout(tau=2.0)(layers.Dense(1, name="readout")(spikes))
    x = layers.Add()([change, snn.LastOverTime()(scaled)])
    return keras.Model(inputs, layers.Rescaling(deviation, mean)(x), name="random"), smooth


def solve(model, smooth, series):
    """Sets the readout of a random network to the solution of its least squares."""
    x, y = (np.concatenate([part] * FLAGS.copies) for part in series.windows(FLAGS.random_window))
    deviation = series.train.std()
    noise = np.random.default_rng(FLAGS.seed).normal(0, FLAGS.noise * deviation, x.shape)
    x = (x + noise).astype("float32")
    wanted = ((y - x[:, -1]) / deviation).astype("float64")
    features = smooth.predict(x, verbose=0).astype("float64")
    means, mean = features.mean(0), wanted.mean(0)
    centred = features - means
    square = centred.T @ centred + FLAGS.ridge * len(x) * np.eye(len(means))
    kernel = np.linalg.solve(square, centred.T @ (wanted - mean))
    reached = 1 - 0.5**FLAGS.random_window  # of a constant input, by an integrator that starts at 0
    model.get_layer("readout").set_weights([kernel, (mean - means @ kernel) / reached])
    return float(np.mean((centred @ kernel + mean - wanted) ** 2)) * deviation**2


def fit(model, series, smooth=None):
    """Trains a network on the first part of a series."""
    x, y = series.windows(model.input_shape[1])
    if smooth is not None:
        loss = solve(model, smooth, series)
        return loss, float(np.sqrt(np.mean((model.predict(x, verbose=0) - y) ** 2)))
    steps = FLAGS.epochs * -(-len(x) // FLAGS.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), "mse")
    history = model.fit(x, y, batch_size=FLAGS.batch_size, epochs=FLAGS.epochs, verbose=0)
    answers = model.predict(x, verbose=0)
    return history.history["loss"][-1], float(np.sqrt(np.mean((answers - y) ** 2)))


def forecast(model, series):
    """The points that follow, each from a window that ends in the network's own answers."""
    length = model.input_shape[1]
    points = series.train[-length:].astype("float32").tolist()
    for _ in series.test:
        window = np.array(points[-length:], "float32")[None, :, None]
        points.append(float(np.asarray(model.predict_on_batch(window))[0, 0]))
    return np.array(points[length:])


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
                start, learned = time.process_time(), []
                for _ in range(FLAGS.members if kind == "random" else 1):
                    model, smooth = (
                        random_network(series)
                        if kind == "random"
                        else (network(kind, series), None)
                    )
                    learned.append((*fit(model, series, smooth), forecast(model, series)))
                loss, error, points = (np.mean(part, axis=0) for part in zip(*learned))
                apart = np.abs(points - series.test) > 0.1
                found.setdefault(kind, []).append({
                    "sMAPE": smape(series, points),
                    "one step (RMSE)": float(error),
                    "loss": float(loss),
                    "Lyapunov times until 0.1 apart": float(np.argmax(apart) / 75)
                    if apart.any()
                    else 10.0,
                    "parameters": len(learned) * model.count_params(),
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
