"""What the programs share: recipes, flags of data, and what is made of them."""

import contextlib
import json
import os
import pathlib
import sys

import keras
import numpy as np
import recipes
from absl import app, flags

from keras_snn import datasets

FLAGS = flags.FLAGS
flags.DEFINE_enum("recipe", None, list(recipes.RECIPES), "Values for the other flags, by name.")
flags.DEFINE_string(
    "dataset", "digits", "A data set by name, see keras_snn.datasets.load, or a .npz file."
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
    """Runs a program with the values of its recipe; `train` runs the one that a recipe is for."""
    if program == "train":
        with contextlib.suppress(flags.Error):  # `app.run` will say it
            FLAGS(sys.argv, known_only=True)
            wanted = recipes.RECIPES.get(FLAGS.recipe, {}).get("program", program)
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

    app.run(with_recipe)


def configuration(module):
    """The flags of a program and their values, ready for JSON."""
    return {flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(module)}


def output_dir():
    """The folder of results, made if need be; the values of all flags are in `config.json`."""
    output = pathlib.Path(FLAGS.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    used = {"backend": keras.backend.backend()} | configuration(sys.argv[0])
    (output / "config.json").write_text(json.dumps(used, indent=1) + "\n")
    return output


def names_of_flags(module):
    """The names of the flags that a module defines or adopts."""
    return [flag.name for flag in FLAGS.get_key_flags_for_module(module)]


def refuse(names, why):
    """An error if one of these flags was given: it would have no effect."""
    for name in names:
        if not FLAGS[name].using_default_value:
            raise app.UsageError(f"--{name} has no effect here: {why}.")


def check_needs(needs):
    """An error for a flag that was given without what it needs.

    Args:
        needs: From the name of a flag to that of another, and those of its values that it needs.
    """
    for name, (other, values) in needs.items():
        found = FLAGS[other].value
        if not set(values) & set(found if isinstance(found, list) else [found]):
            refuse([name], f"it needs --{other}={' or '.join(values)}")


def load_data(timesteps=10, train_timesteps=None, one_hot=False, normalization=None):
    """The data set of the flags; weights and all else follow from the seed."""
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
    )


def in_order(batches):
    """Batches of a data set as numpy arrays, once through."""
    indexed = not hasattr(batches, "take")
    for x, y in map(batches.__getitem__, range(len(batches))) if indexed else batches:
        yield np.asarray(x), np.asarray(y)


def collect(batches, count=None):
    """The first examples of batches, and their labels, as arrays."""
    examples, labels, found = [], [], 0
    for x, y in in_order(batches):
        examples.append(x)
        labels.append(y)
        found += len(x)
        if count is not None and found >= count:
            break
    return np.concatenate(examples)[:count], np.concatenate(labels)[:count]
