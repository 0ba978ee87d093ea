"""Evaluates a trained model: accuracy, confusions, accuracy against T, firing rates.

python applications/evaluate.py --model_file=results/demo/SEWResNet8_digits.keras
python applications/evaluate.py --model_file=net.keras --dataset=nmnist --data_dir=NMNIST
"""

import pathlib

import common
import numpy as np
from absl import flags

from keras_snn import analysis
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.DEFINE_string("model_file", None, "A trained model, a .keras file.", required=True)
flags.DEFINE_integer("timesteps", None, "Steps to evaluate up to (default: the model's).", 1)
flags.DEFINE_string("json", None, "File to write the figures to, if any.")


def confusion_matrix(labels, answers, classes):
    """How often each label, a row, got each answer, a column."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (labels, answers), 1)
    return matrix


def main(argv):
    """Evaluates, prints, writes."""
    common.refuse(["augmentation"], "nothing is trained")
    path = pathlib.Path(FLAGS.model_file)
    if FLAGS.json:
        files.check_path(FLAGS.json, [".json"])
    model = common.load_model(path)
    data = common.load_data_for(model, FLAGS.timesteps or 16)
    pairs = [(model.predict_on_batch(x), y) for x, y in common.in_order(data.test)]
    outputs = np.concatenate([np.asarray(output) for output, _ in pairs])
    labels = np.concatenate([y for _, y in pairs])
    if not np.isfinite(outputs).all():
        raise ValueError(f"{path} gives outputs that are not numbers.")
    order = np.argsort(-outputs, axis=-1, kind="stable")
    top = {
        k: float((order[:, :k] == labels[:, None]).any(-1).mean())
        for k in (1, 5)
        if k < outputs.shape[-1]
    }
    intervals = {
        k: common.wilson_interval(share * len(labels), len(labels)) for k, share in top.items()
    }
    print(f"{path.name} on {len(labels)} test examples of {data.name}")
    for k, share in top.items():
        low, high = (100 * end for end in intervals[k])
        print(f"Top-{k} accuracy {100 * share:.2f} % (95 % interval {low:.2f} to {high:.2f})")
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
            "intervals": intervals,
            "examples": len(labels),
            "confusions": matrix.tolist(),
            "firing_rates": rates,
            "over_time": None if over_time is None else over_time.to_dict(),
        }
        common.write_json(FLAGS.json, result)
        print(f"Wrote {FLAGS.json}")


if __name__ == "__main__":
    common.run(main, "evaluate")
