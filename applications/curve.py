"""Accuracy against hours of training, of runs of `train.py` side by side.

    python applications/curve.py --runs=results/scratch,results/ann --plot=curve.png

A run is the folder of a finished or a running one, or a file like its `results.json`. Accuracies
are those on held-out data after each epoch (`val_accuracy`); of a run that starts as an ANN, first
the ANN's. Time is that of training alone, interruptions left out.
"""

import json
import pathlib

import common
import numpy as np
from absl import flags

from keras_snn.analysis import plots
from keras_snn.utils.tables import table_lines

FLAGS = flags.FLAGS
flags.DEFINE_list("runs", ["results"], "Folders of runs, or files with their results.")
flags.DEFINE_integer("rows", 12, "Rows of the table.", lower_bound=1)
flags.DEFINE_string("plot", None, "Where to draw the curves, an image (needs the extra `plot`).")


def trainings(path):
    """History and seconds of each training of a run, in order: an ANN's, the network's."""
    results = path if path.is_file() else path / "results.json"
    if results.is_file():
        found = json.loads(results.read_text())
        names = (("ann_history", "ann_seconds"), ("history", "fit_seconds"))
        return [(found[history], found[seconds]) for history, seconds in names if history in found]
    parts = [path / "resume_ann.npz", path / "resume.npz"]
    if not any(part.is_file() for part in parts):
        raise FileNotFoundError(f"{path} is neither a run of train.py nor a file of its results.")
    found = []
    for part in filter(pathlib.Path.is_file, parts):
        with np.load(part) as file:
            told = json.loads(str(file["told"]))
        times = {"seconds": told["times"]} if "times" in told else {}
        found.append((told["history"] | times, told["seconds"]))
    return found


def curve(path):
    """Hours at the end of each epoch, and accuracies in percent.

    Where a file does not tell the time of each epoch, all are taken to be equally long.
    """
    start, hours, accuracies = 0.0, [], []
    for history, seconds in trainings(pathlib.Path(path).expanduser()):
        values = history.get("val_accuracy", [])
        ends = history.get("seconds", np.linspace(0, seconds, len(values) + 1)[1:])
        hours += [(start + end) / 3600 for end in ends[: len(values)]]
        accuracies += [100 * value for value in values]
        start += seconds
    if not hours:
        raise ValueError(f"{path} has no accuracies on held-out data yet.")
    return np.array(hours), np.array(accuracies)


def at(hour, hours, accuracies):
    """What a run had reached at an hour: its last epoch's accuracy."""
    ended = int(np.searchsorted(hours, hour * (1 + 1e-9), side="right"))
    return f"{accuracies[ended - 1]:.2f}" if ended and hour <= hours[-1] * (1 + 1e-9) else "-"


def main(argv):
    """Prints the table, draws the curves."""
    curves = {name: curve(name) for name in FLAGS.runs}
    longest = max(hours[-1] for hours, _ in curves.values())
    rows = [("hours", *curves)]
    for hour in longest * np.arange(1, FLAGS.rows + 1) / FLAGS.rows:
        rows.append((f"{hour:.2f}", *(at(hour, *found) for found in curves.values())))
    last = [f"{acc[-1]:.2f} at {hours[-1]:.2f} h" for hours, acc in curves.values()]
    best = [f"{acc.max():.2f} at {hours[acc.argmax()]:.2f} h" for hours, acc in curves.values()]
    print("\n".join(table_lines([*rows, ("last", *last), ("best", *best)])))
    if FLAGS.plot:
        draw(curves)


def draw(curves):
    """Draws the curves."""
    figure, axes = plots.pyplot().subplots(figsize=(7, 4))
    for name, (hours, accuracies) in curves.items():
        axes.plot(hours, accuracies, label=name)
    axes.set(xlabel="hours", ylabel="held-out accuracy (%)")
    axes.legend()
    figure.savefig(FLAGS.plot, bbox_inches="tight")
    print(f"Wrote {FLAGS.plot}")


if __name__ == "__main__":
    common.run(main, "curve")
