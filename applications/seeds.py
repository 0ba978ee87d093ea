"""Trains with several seeds, each as `train.py` does; mean and standard deviation.

    python applications/seeds.py --seeds=0,1,2 --recipe=digits
    python applications/seeds.py --seeds=0,1,2,3,4 --recipe=nmnist --data_dir=NMNIST

All other flags are those of `train.py`. The run of a seed is in the folder `seed_N` of
`--output_dir`. Start it again to go on: finished runs are kept, an interrupted one resumes. The
table is written to `seeds.json`, with flags, history and firing rates of each run.
"""

import json
import pathlib
import statistics
import subprocess
import sys

import common
import recipes
import train  # its flags are those of the runs
from absl import app, flags

from keras_snn.utils.tables import table_lines

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(train)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, each of a run.")

# Flags that differ between the runs of a table, or say nothing about them.
FREE = {"seed", "output_dir", "data_dir", "workers", "progress", "tensorboard"}


def seeds():
    """The seeds of the flag."""
    if not all(seed.isdecimal() for seed in FLAGS.seeds) or not FLAGS.seeds:
        raise app.UsageError(f"--seeds should be numbers such as 0,1,2, got {FLAGS.seeds}.")
    numbers = [int(seed) for seed in FLAGS.seeds]
    if len({*numbers}) < len(numbers):
        raise app.UsageError(f"--seeds should be different, got {FLAGS.seeds}.")
    return numbers


def finished(folder):
    """The results of a run, if it has ended; it must be of these flags."""
    path = folder / "results.json"
    if not path.is_file():
        return None
    results = json.loads(path.read_text())
    wanted = {k: v for k, v in common.configuration("train").items() if k not in FREE}
    different = [
        f"{name} was {results['flags'].get(name)}, is {value}"
        for name, value in wanted.items()
        if results["flags"].get(name) != value
    ]
    if different:
        raise ValueError(f"{path} is of another run: {'; '.join(different)}.")
    return results


def run(seed, folder):
    """The results of this seed's run, which is started if need be."""
    results = finished(folder)
    if results is None:
        given = [flag for flag in FLAGS.get_key_flags_for_module("train") if flag.present]
        command = [sys.executable, str(pathlib.Path(__file__).with_name("train.py"))]
        command += [flag.serialize() for flag in given]
        command += [f"--seed={seed}", f"--output_dir={folder}"]
        print(f"\nSeed {seed}: {folder}", flush=True)
        ended = subprocess.run(command, check=False).returncode
        results = finished(folder)
        if ended or results is None:
            sys.exit(f"seeds: the run of seed {seed} has failed. Start it again to go on.")
    return results


def seconds(results):
    """Duration of the training of a run."""
    return results["fit_seconds"] + results.get("ann_seconds", 0)


def summary(runs):
    """What the results of all runs, by seed, tell together.

    The standard deviation is that of a sample. The interval is Wilson's for the mean accuracy on as
    many examples as one run has: more seeds make no more test data.
    """
    accuracies = [run["test_accuracy"] for run in runs.values()]
    mean, count = statistics.mean(accuracies), next(iter(runs.values()))["test_examples"]
    return {
        "seeds": [*runs],
        "test_accuracy": accuracies,
        "mean": mean,
        "standard_deviation": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "interval": common.wilson_interval(mean * count, count),
        "test_examples": count,
        "chosen_by": next(iter(runs.values()))["chosen_by"],
        "seconds": [seconds(run) for run in runs.values()],
    }


def table(found, runs):
    """The summary as text."""
    rows = [("seed", "test accuracy", "spikes per neuron and step", "seconds")]
    for seed, run in runs.items():
        rate = statistics.mean(run["firing_rates"].values())
        rows.append(
            (str(seed), f"{run['test_accuracy']:.2%}", f"{rate:.3f}", f"{seconds(run):.0f}")
        )
    low, high = found["interval"]
    deviation = found["standard_deviation"]
    spread = "" if deviation is None else f", standard deviation {100 * deviation:.2f}"
    return "\n".join(
        [
            *table_lines(rows),
            f"Mean {found['mean']:.2%}{spread}; 95 % interval for {found['test_examples']:,} test "
            f"examples {low:.1%} to {high:.1%}.",
            f"Weights are chosen by {found['chosen_by']}.",
        ]
    )


def main(argv):
    """Trains the runs that are missing, prints and writes the table."""
    common.refuse(["seed"], "--seeds has them")
    common.refuse(["estimate"], "train.py estimates one run")
    program = recipes.RECIPES.get(FLAGS.recipe, {}).get("program", "train")
    if program != "train":
        raise app.UsageError(f"--recipe={FLAGS.recipe} is of {program}.py, not of train.py.")
    train.check_flags()
    common.check_data()
    output = pathlib.Path(FLAGS.output_dir).expanduser()
    runs = {seed: run(seed, output / f"seed_{seed}") for seed in seeds()}
    found = summary(runs)
    print(f"\n{table(found, runs)}")
    common.write_json(output / "seeds.json", found | {"runs": runs})
    print(f"Wrote {output / 'seeds.json'}")


if __name__ == "__main__":
    common.run(main, "seeds")
