"""Shared by the programs: recipes, flags of data, models and results."""

import contextlib
import json
import math
import os
import pathlib
import sys

import chatter
import keras
import numpy as np
import recipes
from absl import app, flags, logging

from keras_snn import datasets
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.DEFINE_enum("recipe", None, list(recipes.RECIPES), "Values for the other flags, by name.")
flags.DEFINE_string(
    "dataset",
    "digits",
    "A data set by name, see keras_snn.datasets.load, a .npz file, or hf://PATH.",
)
flags.DEFINE_string("data_dir", None, "Where the data are (default for TFDS: TFDS_DATA_DIR).")
flags.DEFINE_integer("image_size", None, "Height and width to resize images to.", lower_bound=8)
flags.DEFINE_integer("batch_size", 64, "Examples in a batch.", lower_bound=1)
flags.DEFINE_list("augmentation", [], f"Variations of the training data: {recipes.VARIATIONS}.")
flags.DEFINE_enum(
    "normalization", "unit", list(datasets.NORMALIZATIONS), "What images are normalised by."
)
flags.DEFINE_integer("workers", 1, "Threads that read recordings.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights, shuffling and the split of digits.")


def run(main, program):
    """Runs a program with its recipe's values; `train` starts the program that a recipe names."""
    if program == "train":
        with contextlib.suppress(flags.Error):  # `app.run` will say it
            FLAGS(sys.argv, known_only=True)
            wanted = recipes.RECIPES.get(FLAGS.recipe, {}).get("program", program)
            if wanted != program and FLAGS.estimate:
                sys.exit(f"{program}: --estimate is not for {FLAGS.recipe}, which runs {wanted}.py")
            FLAGS.unparse_flags()
            if wanted != program:
                path = pathlib.Path(__file__).with_name(f"{wanted}.py")
                os.execv(sys.executable, [sys.executable, str(path), *sys.argv[1:]])

    def with_recipe(argv):
        if len(argv) > 1:
            raise app.UsageError(f"Unknown arguments: {argv[1:]}")
        for flag, value in recipes.RECIPES.get(FLAGS.recipe, {}).items():
            if flag in FLAGS and FLAGS[flag].using_default_value:
                FLAGS.set_default(flag, value)
        return main(argv)

    def explained(argv):
        """Prints errors that a user can mend in one line; others keep their traceback."""
        try:
            return with_recipe(argv)
        except (ValueError, OSError, ImportError, app.UsageError) as error:
            logging.debug("%s", error, exc_info=True)  # with --verbosity=1
            sys.exit(f"{program}: {' '.join(str(error).split())}")
        except KeyboardInterrupt:
            print(f"\n{program}: interrupted.{what_goes_on()}", file=sys.stderr)
            sys.exit(130)

    app.run(explained)


def what_goes_on():
    """Says what a restart does after training was interrupted."""
    if "output_dir" in FLAGS and any(pathlib.Path(FLAGS.output_dir).expanduser().glob("*.npz")):
        return " Start it again with the same flags to resume after the last complete epoch."
    return ""


def json_flag(name):
    """The dictionary in the JSON of a flag."""
    try:
        value = json.loads(FLAGS[name].value)
    except json.JSONDecodeError as error:
        raise ValueError(f"--{name}: {FLAGS[name].value!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"--{name} should be a dictionary in JSON, got {FLAGS[name].value!r}.")
    return value


def configuration(module):
    """The flags of a program and their values, ready for JSON."""
    return {flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(module)}


# Flags that do not change trained weights: a run can be resumed with other values.
FREE = {"recipe", "epochs", "ann_epochs", "patience", "progress", "watch", "tensorboard"}
FREE |= {"output_dir", "data_dir", "workers", "estimate", "estimate_seconds"}


def verbosity():
    """`verbose` of `fit`: as --progress says; if it says nothing, bars are for terminals only."""
    if "progress" in FLAGS and FLAGS.progress != "auto":
        return int(FLAGS.progress)
    return 1 if sys.stdout.isatty() else 2


def run_flags():
    """The flags that identify a run, for `Resume`."""
    return {k: v for k, v in configuration(sys.argv[0]).items() if k not in FREE}


def output_dir(write=True):
    """The folder of results, created if need be; writes all flags' values to `config.json`."""
    output = pathlib.Path(FLAGS.output_dir).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    files.check_path(output / "config.json")
    if write:
        write_config(output)
    return output


def write_config(output):
    """Writes the values of all flags."""
    used = {"backend": keras.backend.backend()} | configuration(sys.argv[0])
    write_json(output / "config.json", used)


def write_json(path, value):
    """Writes a value as JSON, atomically."""
    files.write(path, json.dumps(value, indent=1) + "\n")


def save(model, path):
    """Saves a model, atomically."""
    with files.replacing(path) as (part,):
        model.save(part)


def load_keras(path):
    """A saved model."""
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # zipfile's, h5py's, those of layers
        raise ValueError(f"{path} is no Keras model, or is damaged: {error}") from error
    if not getattr(model, "inputs", None):
        raise ValueError(f"{path} is not a functional or Sequential model, but {model!r}.")
    return model


def load_model(path):
    """Loads a model; a `config.json` beside it sets the flags of data to those of its training.

    Flags that the user gave keep their values; if they differ, a line says so.
    """
    model = load_keras(path)
    use_config(pathlib.Path(path).expanduser().with_name("config.json"), model)
    return model


# Flags that describe the inputs of a network.
DATA = ("dataset", "data_dir", "image_size", "normalization", "seed")


def use_config(path, model):
    """Sets flags of data from the configuration in `path`, if it belongs to the model."""
    if not path.is_file():
        return
    config = json.loads(path.read_text())

    def plain(name):
        return str(name).replace("_", "").lower()

    if not plain(model.name).startswith(plain(config.get("model"))):
        print(f"{path} is of {config.get('model')}, not of {model.name}: not used.")
        return
    given = recipes.RECIPES.get(FLAGS.recipe, {})
    used = []
    for name in DATA:
        if name not in config:
            continue
        if FLAGS[name].using_default_value and name not in given:
            FLAGS[name].value = config[name]
            used.append(f"{name}={config[name]}")
        elif FLAGS[name].value != config[name]:
            print(f"The model was trained with {name}={config[name]}, now {FLAGS[name].value}.")
    print(f"From {path}: {', '.join(used)}")


def load_data_for(model, timesteps=None):
    """The data of the flags in the shape that a model reads."""
    shape = model.input_shape
    if isinstance(shape, list):
        raise ValueError(f"The model should have one input, got {len(shape)}.")
    timed = len(shape) != 4  # not an image
    if timed and shape[1]:
        refuse(["timesteps"], f"{model.name} reads sequences of {shape[1]} steps")
    data = load_data(shape[1] or timesteps or 10 if timed else 10)
    different = [
        b is not None and a is not None and a != b for a, b in zip(data.input_shape, shape[1:])
    ]
    if len(data.input_shape) != len(shape) - 1 or any(different):
        raise ValueError(
            f"The model reads {shape[1:]}, examples of {data.name} are {data.input_shape}: give "
            "--dataset or --image_size."
        )
    classes = model.output_shape[-1]
    if classes != data.classes:
        raise ValueError(f"The model has {classes} classes, {data.name} has {data.classes}.")
    return data


def wilson_interval(right, count, z=1.959964):
    """Wilson's confidence interval of a proportion, 95 % by default.

    It is never empty, even at 0 and 100 %.

    Args:
        right: Number of successes.
        count: Number of trials, at least 1.
        z: Standard deviations of a normal distribution.

    Returns:
        The two ends, from 0 to 1.

    Source: Wilson (1927).
    """
    share, extra = right / count, z**2 / count
    half = z * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    middle = share + extra / 2
    return max(0.0, (middle - half) / (1 + extra)), min(1.0, (middle + half) / (1 + extra))


def names_of_flags(module):
    """The names of the flags that a module defines or adopts."""
    return [flag.name for flag in FLAGS.get_key_flags_for_module(module)]


def refuse(names, why):
    """Raises an error if one of these flags was given, as it would have no effect."""
    for name in names:
        if not FLAGS[name].using_default_value:
            raise app.UsageError(f"--{name} has no effect here: {why}.")


def check_needs(needs):
    """Raises an error for a flag that was given without another one that it needs.

    Args:
        needs: For each flag, the other flag and the values of it that it needs; `None`: any value
            but 0.
    """
    for name, (other, values) in needs.items():
        value = FLAGS[other].value
        if values is None:
            if not value:
                refuse([name], f"it needs --{other}")
        elif not set(values) & set(value if isinstance(value, list) else [value]):
            refuse([name], f"it needs --{other}={' or '.join(values)}")


def check_data():
    """Raises an error for flags that have no effect on this `--dataset`."""
    if FLAGS.dataset in datasets.recordings.RECORDINGS:
        names = ["normalization"]
    elif FLAGS.dataset in datasets.speech.SETS:
        names = ["normalization", "image_size", "workers", "train_timesteps"]
    else:
        names = ["workers", "train_timesteps"]
        if FLAGS.dataset == "digits" or FLAGS.dataset.endswith(".npz"):
            names.append("data_dir")
    refuse([name for name in names if name in FLAGS], f"not with --dataset={FLAGS.dataset}")


def load_data(
    timesteps=10,
    train_timesteps=None,
    one_hot=False,
    normalization=None,
    validation_split=0.0,
    validation_speakers=(),
    augmentation_options=None,
    masks=False,
):
    """The data set of the flags; also sets the global random seed."""
    check_data()
    with chatter.hidden():  # imports TensorFlow, on any backend
        keras.utils.set_random_seed(FLAGS.seed)
    return datasets.load(
        FLAGS.dataset,
        FLAGS.batch_size,
        FLAGS.seed,
        FLAGS.data_dir,
        FLAGS.image_size,
        timesteps,
        train_timesteps=train_timesteps,
        augmentation=FLAGS.augmentation,
        normalization=normalization or FLAGS.normalization,
        one_hot=one_hot,
        workers=FLAGS.workers,
        validation_split=validation_split,
        validation_speakers=validation_speakers,
        augmentation_options=augmentation_options,
        masks=masks,
    )


def in_order(batches):
    """Iterates once over the batches of a data set, as NumPy arrays."""
    indexed = not hasattr(batches, "take")
    for x, y in map(batches.__getitem__, range(len(batches))) if indexed else batches:
        yield np.asarray(x), np.asarray(y)


def collect(batches, count=None):
    """The first examples of batches, and their labels, as arrays."""
    examples, labels, count_so_far = [], [], 0
    for x, y in in_order(batches):
        examples.append(x)
        labels.append(y)
        count_so_far += len(x)
        if count is not None and count_so_far >= count:
            break
    return np.concatenate(examples)[:count], np.concatenate(labels)[:count]
