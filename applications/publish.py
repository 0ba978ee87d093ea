"""Makes a preset of keras_snn.applications from a finished run of `train.py`.

    python applications/publish.py --run=results
    python applications/publish.py --run=results --preset=mine --data_dir=DATA

The network is built anew from the run's flags, and measured on the test data. Its weights and a row
of the table go into the package, so that `SEWResNet8(weights="digits")` loads them. Kernels are
saved as float16 if that costs no accuracy.
"""

import dataclasses
import datetime
import json
import pathlib

import common
import numpy as np
import train  # its flags are those of the run
from absl import flags

from keras_snn import analysis, applications, datasets
from keras_snn.applications.weights import presets
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.DEFINE_string("run", "results", "The folder that `train.py` wrote.")
flags.DEFINE_string("preset", None, "Name of the preset (default: the run's data set).")
flags.DEFINE_string("sample", None, "Folder for a sample of the test data, for tests.")
flags.DEFINE_integer("sample_examples", 60, "Examples of this sample.", lower_bound=1)
flags.DEFINE_integer("profile_examples", 256, "Examples that rates and energy are of.", 1)

HERE = ("data_dir", "workers", "output_dir")  # flags that say nothing about the run


def read_run(folder):
    """The results of a run, whose flags become those of this program."""
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: {folder} is of no finished run of train.py.")
    results = json.loads(path.read_text())
    for name, value in results["flags"].items():
        if name in FLAGS and name not in HERE:
            FLAGS[name].value = value
    return results


def data_arguments():
    """The arguments of `datasets.load` that prepare test data as in the run."""
    arguments = {"name": FLAGS.dataset}
    timed = {*datasets.recordings.RECORDINGS, *datasets.speech.SETS}
    names = ["timesteps"] if FLAGS.dataset in timed else ["normalization"]
    names += ["seed"] * (FLAGS.dataset == "digits")  # which splits these
    names += ["image_size"] * (FLAGS.image_size is not None)
    return arguments | {name: FLAGS[name].value for name in names}


def logits_of(network, weights, examples):
    """The answers of a network with these weights."""
    presets.assign(network, weights)
    return network.predict(examples, FLAGS.batch_size, verbose=0)


def main(argv):
    """Measures a trained network and writes its preset."""
    folder = pathlib.Path(FLAGS.run).expanduser()
    results = read_run(folder)
    data = common.load_data(FLAGS.timesteps)
    examples, labels = common.collect(data.test)
    trained = common.load_keras(folder / f"{FLAGS.model}_{data.name.replace('/', '_')}.keras")
    arguments = train.network_arguments(data)
    for name in presets.CALLERS:
        arguments.get("neuron", {"config": {}})["config"].pop(name, None)
    network = getattr(applications, FLAGS.model)(**arguments, classifier_activation=None)
    tried = []
    for dtype in ("float16", "float32"):
        weights = presets.arrays(trained, dtype)
        logits = logits_of(network, weights, examples)
        tried.append((int((logits.argmax(-1) == labels).sum()), weights))
        print(f"{dtype}: {tried[-1][0]} of {len(labels)} right")
    print(f"The run: {results['test_accuracy']:.4f}")
    right, weights = max(tried, key=lambda pair: pair[0])  # of equals the first
    presets.assign(network, weights)
    profile = analysis.profile(network, examples[: FLAGS.profile_examples])
    preset = presets.Preset(
        model=FLAGS.model,
        name=FLAGS.preset or FLAGS.dataset,
        arguments=json.loads(json.dumps(arguments)),
        data=data_arguments(),
        accuracy=right / len(labels),
        examples=len(labels),
        parameters=sum(int(np.prod(w.shape)) for w in network.trainable_weights),
        rate=profile.rate,
        energy=profile.energy,
        recipe=FLAGS.recipe or "",
        seed=FLAGS.seed,
        date=datetime.date.today().isoformat(),
        checksum="",
    )
    preset = presets.save(preset, weights)
    print(f"Wrote {preset.path}, {preset.path.stat().st_size:,} bytes:")
    print(json.dumps(dataclasses.asdict(preset), indent=1))
    if FLAGS.sample:
        place = pathlib.Path(FLAGS.sample) / preset.path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(place) as (part,):
            # The order of a data set may be that of its classes.
            count = min(FLAGS.sample_examples, len(labels))
            chosen = np.linspace(0, len(labels) - 1, count).astype(int)
            np.savez_compressed(
                part,
                examples=examples[chosen].astype("float16"),
                labels=labels[chosen].astype("uint8"),
                logits=logits_of(network, weights, examples[chosen].astype("float16")),
            )


if __name__ == "__main__":
    common.run(main, "publish")
