"""Evaluates a trained model: accuracy, confusions, accuracy against T, firing rates.

python applications/evaluate.py --model_file=results/demo/SEWResNet8_digits.keras
python applications/evaluate.py --model_file=net.keras --dataset=nmnist --data_dir=NMNIST
"""

import json
import pathlib

import common
import keras
import numpy as np
from absl import app, flags

from keras_snn import analysis

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.DEFINE_string("model_file", None, "A trained model, a .keras file.", required=True)
flags.DEFINE_integer("timesteps", None, "Steps to evaluate up to (default: the model's).")
flags.DEFINE_string("json", None, "File to write the figures to, if any.")


def confusion_matrix(labels, answers, classes):
    """How often each label, a row, got each answer, a column."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (labels, answers), 1)
    return matrix


def main(argv):
    """Evaluates, prints, writes."""
    path = pathlib.Path(FLAGS.model_file)
    if not path.is_file():
        raise app.UsageError(f"There is no file {path}.")
    model = keras.saving.load_model(path)
    shape = model.input_shape
    data = common.load_data(10 if len(shape) == 4 else shape[1] or FLAGS.timesteps or 16)
    found = [(model.predict_on_batch(x), y) for x, y in common.in_order(data.test)]
    outputs = np.concatenate([np.asarray(output) for output, _ in found])
    labels = np.concatenate([y for _, y in found])
    order = np.argsort(-outputs, axis=-1, kind="stable")
    top = {
        k: float((order[:, :k] == labels[:, None]).any(-1).mean())
        for k in (1, 5)
        if k < outputs.shape[-1]
    }
    error = 1.96 * np.sqrt(top[1] * (1 - top[1]) / len(labels))
    print(f"{path.name} on {len(labels)} test examples of {data.name}")
    for k, share in top.items():
        print(f"Top-{k} accuracy {100 * share:.2f} %" + (f" +- {100 * error:.2f}" * (k == 1)))
    matrix = confusion_matrix(labels, order[:, 0], data.classes)
    if data.classes <= 20:
        print("\nConfusions (rows: labels, columns: answers)")
        print("      " + " ".join(f"{c:5}" for c in range(data.classes)))
        for label, row in enumerate(matrix):
            print(f"{label:5} " + " ".join(f"{n:5}" for n in row))
    rates, over_time = {}, None
    try:
        over_time = analysis.accuracy_over_time(model, common.in_order(data.test), FLAGS.timesteps)
        rates = over_time.firing_rates
        print(f"\n{over_time}")
    except TypeError as error:
        print(f"\nNo accuracy over time: {error}")
        rates = analysis.firing_rates(model, data.test)
    print("\nFiring rates (spikes per neuron and step)")
    for name, rate in rates.items():
        print(f"  {name:40} {rate:.3f}")
    if FLAGS.json:
        result = {
            "top": top,
            "examples": len(labels),
            "confusions": matrix.tolist(),
            "firing_rates": rates,
            "over_time": None if over_time is None else over_time.to_dict(),
        }
        pathlib.Path(FLAGS.json).write_text(json.dumps(result, indent=1))
        print(f"Wrote {FLAGS.json}")


if __name__ == "__main__":
    common.run(main, "evaluate")
