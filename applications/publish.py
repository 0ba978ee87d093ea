"""Makes a preset of keras_snn.applications from a finished run of `train.py`.

    python applications/publish.py --run=results
    python applications/publish.py --run=results --preset=mine --data_dir=DATA
    python applications/publish.py --run=results --sample=tests/presets --sample_of=noise

The network is built anew from the run's flags, and measured on the test data. Its weights and a row
of the table go into the package, so that `SEWResNet8(weights="digits")` loads them. Kernels are
saved as float16 if that leaves the loss on training data as it is. The sample is for
`tests/test_presets.py`, which downloads nothing; it is of noise where images may not be passed on.
"""

import dataclasses
import datetime
import json
import pathlib

import common
import keras
import numpy as np
import train  # its flags are those of the run
from absl import flags

from keras_snn import analysis, applications, datasets
from keras_snn.applications.weights import presets
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.DEFINE_string("run", "results", "The folder that `train.py` wrote.")
flags.DEFINE_string("preset", None, "Name of the preset (default: the run's data set).")
flags.DEFINE_string("sample", None, "Folder for examples and what the network answers, for tests.")
flags.DEFINE_enum("sample_of", "test", ["test", "noise"], "What these examples are.")
flags.DEFINE_integer("sample_examples", 60, "Number of these examples.", lower_bound=1)
flags.DEFINE_integer("profile_examples", 256, "Examples that rates and energy are of.", 1)
flags.DEFINE_integer("loss_examples", 2000, "Training examples that decide on float16.", 1)

# Flags that say nothing about the run, or change the training data only.
HERE = ("data_dir", "workers", "output_dir", "augmentation")


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


def losses(network, examples, labels):
    """The cross-entropy of each example."""
    logits = network.predict(examples, FLAGS.batch_size, verbose=0)
    return keras.ops.convert_to_numpy(
        keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    )


def smallest_weights(trained, network, examples, labels):
    """Weights to save: with kernels of float16, unless that raises the loss.

    Rounded weights move spikes, which raises the loss of some examples and lowers that of others:
    a rise counts if it is more than twice its standard error.
    """
    found = {dtype: presets.arrays(trained, dtype) for dtype in ("float16", "float32")}
    of = {}
    for dtype, weights in found.items():
        presets.assign(network, weights)
        of[dtype] = losses(network, examples, labels)
        print(f"{dtype}: loss {of[dtype].mean():.5f} on {len(labels)} training examples")
    rise = of["float16"] - of["float32"]
    error = rise.std() / np.sqrt(len(rise))
    print(f"float16 raises it by {rise.mean():.5f}, of which the standard error is {error:.5f}")
    smallest = "float16" if rise.mean() <= 2 * error else "float32"
    print(f"Kernels are saved as {smallest}.")
    return found[smallest]


def write_sample(path, network, examples, labels):
    """Writes some examples, their labels, and what the network answers: logits, firing rates."""
    count = min(FLAGS.sample_examples, len(labels))
    if FLAGS.sample_of == "noise":
        chosen = np.random.default_rng(0).integers(-2, 3, (count, *examples.shape[1:]))
        told = {"examples": chosen.astype("float16")}
    else:
        # The order of a data set may be that of its classes.
        places = np.linspace(0, len(labels) - 1, count).astype(int)
        told = {"examples": examples[places].astype("float16")}
        told["labels"] = labels[places].astype("uint8")
    given = told["examples"].astype("float32")
    told["logits"] = network.predict(given, FLAGS.batch_size, verbose=0)
    told["rates"] = [*analysis.firing_rates(network, given).values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as (part,):
        np.savez_compressed(part, **told)


def main(argv):
    """Measures a trained network and writes its preset."""
    folder = pathlib.Path(FLAGS.run).expanduser()
    results = read_run(folder)
    data = common.load_data(FLAGS.timesteps)
    trained = common.load_keras(folder / f"{FLAGS.model}_{data.name.replace('/', '_')}.keras")
    arguments = train.network_arguments(data)
    for name in presets.CALLERS:
        arguments.get("neuron", {"config": {}})["config"].pop(name, None)
    network = getattr(applications, FLAGS.model)(**arguments, classifier_activation=None)
    weights = smallest_weights(trained, network, *common.collect(data.train, FLAGS.loss_examples))
    presets.assign(network, weights)
    examples, labels = common.collect(data.test)
    answers = network.predict(examples, FLAGS.batch_size, verbose=0).argmax(-1)
    accuracy = float((answers == labels).mean())
    print(f"Test accuracy {accuracy:.4f}; that of the run {results['test_accuracy']:.4f}")
    profile = analysis.profile(network, examples[: FLAGS.profile_examples])
    preset = presets.Preset(
        model=FLAGS.model,
        name=FLAGS.preset or FLAGS.dataset,
        arguments=json.loads(json.dumps(arguments)),
        data=data_arguments(),
        accuracy=accuracy,
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
        write_sample(pathlib.Path(FLAGS.sample) / preset.path.name, network, examples, labels)


if __name__ == "__main__":
    common.run(main, "publish")
