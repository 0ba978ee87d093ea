"""Spoken digits by four networks of about 190,000 parameters: of the same speakers, and of others.

    KERAS_BACKEND=jax python benchmarks/speech.py --data_dir=DATA --json=speech.json
    KERAS_BACKEND=jax python benchmarks/speech.py --data_dir=DATA --splits=speakers --seeds=0

`DATA` is the folder of recordings of the Free Spoken Digit Dataset. Of the official split the first
five recordings of each speaker and digit are held out; `speakers` leaves each of the six speakers
out in turn. All networks are trained alike, for `--epochs`, and the last epoch counts: nothing is
chosen by held-out recordings. Delays are rounded at the end. Runs that are in the JSON file already
are not repeated; it is written after each.
"""

import time

import keras
import numpy as np
from absl import app, flags
from common import Runs, spread, table

from keras_snn import applications, callbacks, datasets
from keras_snn import layers as snn
from keras_snn.datasets.speech import SPEAKERS

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Folder of the recordings.", required=True)
flags.DEFINE_list("splits", ["official"], "official, speakers (all in turn), or a speaker's name.")
flags.DEFINE_list("networks", None, "What is trained (default: all).")
flags.DEFINE_list("seeds", ["0"], "Seeds.")
flags.DEFINE_integer("epochs", 15, "Epochs.", lower_bound=1)
flags.DEFINE_integer("batch_size", 32, "Clips in a batch.", lower_bound=1)
flags.DEFINE_float("learning_rate", 2e-3, "First learning rate of Adam.", lower_bound=0)
flags.DEFINE_float("delay_rate", 0.1, "That of delays, in steps.", lower_bound=0)

TIMESTEPS = 50
NETWORKS = {
    "convolutions with LIF": {},
    "convolutions with SEAdLIF": {"neuron": "SEAdLIF"},
    "recurrent SEAdLIF": {
        "neuron": "SEAdLIF",
        "size": 1,
        "filters": (240, 240),
        "recurrent": True,
        "readout_tau": 15.0,
    },
    "delays with LIF": {"synapses": "delays", "size": 11, "filters": (208, 208, 208)},
}
USED = ("epochs", "batch_size", "learning_rate", "delay_rate")


def train(name, split, seed):
    """Trains a network; what is written of it."""
    keras.utils.set_random_seed(seed)
    data = datasets.load(
        "spoken_digits" if split == "official" else f"spoken_digits_{split}",
        FLAGS.batch_size,
        seed,
        FLAGS.data_dir,
        timesteps=TIMESTEPS,
        augmentation=["shift", "noise"],
    )
    model = applications.SpeechNet(
        input_shape=data.input_shape,
        classes=data.classes,
        classifier_activation=None,
        **NETWORKS[name],
    )
    steps = FLAGS.epochs * len(data.train)

    def adam(first):
        return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(first, steps))

    optimizer, watch = adam(FLAGS.learning_rate), []
    if NETWORKS[name].get("synapses") == "delays":
        rates = {".*/delays": adam(FLAGS.delay_rate)}
        optimizer = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(optimizer, rates))
        watch = [callbacks.Schedule("sigma", snn.shrinking_width(10, FLAGS.epochs))]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    start = time.process_time()
    history = model.fit(
        data.train, epochs=FLAGS.epochs, shuffle=False, verbose=0, callbacks=watch
    ).history
    seconds = time.process_time() - start
    result = {"network": name, "split": split, "seed": seed, "parameters": model.count_params()}
    if watch:
        before = model.evaluate(data.test, verbose=0, return_dict=True)
        result["accuracy before rounding"] = before["accuracy"]
        snn.round_delays(model)
    found = model.evaluate(data.test, verbose=0, return_dict=True)
    return result | {
        "accuracy": found["accuracy"],
        "test_examples": sum(len(y) for _, y in data.test),
        "training accuracy": history["accuracy"][-1],
        "CPU s": round(seconds, 1),
    }


def main(argv):
    """Trains what is not in the file yet; prints a table."""
    splits = [s for name in FLAGS.splits for s in (SPEAKERS if name == "speakers" else [name])]
    for value, allowed in [(s, ("official", *SPEAKERS)) for s in splits] + [
        (name, tuple(NETWORKS)) for name in FLAGS.networks or ()
    ]:
        if value not in allowed:
            raise app.UsageError(f"Unknown: {value!r}. Allowed: speakers, {', '.join(allowed)}.")
    runs = Runs(USED)
    done = {(run["network"], run["split"], run["seed"]) for run in runs}
    for seed in map(int, FLAGS.seeds):
        for split in splits:
            for name in FLAGS.networks or NETWORKS:
                if (name, split, seed) in done:
                    continue
                runs.append(train(name, split, seed))
                print(runs[-1], flush=True)
    rows = []
    for name in NETWORKS:
        row = {"": name}
        for title, wanted in (("official", ["official"]), ("speaker left out", SPEAKERS)):
            found = [
                100 * r["accuracy"] for r in runs if r["network"] == name and r["split"] in wanted
            ]
            if found:
                row |= {f"{title} (%)": np.mean(found), f"{title}: ±": spread(found)}
                row |= {f"{title}: runs": len(found)}
        rows.append(row)
    table("Spoken digits", list(dict.fromkeys(key for row in rows for key in row)), rows)


if __name__ == "__main__":
    app.run(main)
