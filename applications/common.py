"""What the programs share: flags of data and of optimizers, recipes, what is made of both."""

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
flags.DEFINE_enum("optimizer", "adamw", ["adam", "adamw", "sgd"], "Optimizer; SGD has momentum.")
flags.DEFINE_float("momentum", 0.9, "Momentum of SGD.")
flags.DEFINE_bool("amsgrad", False, "Whether Adam is AMSGrad.")
flags.DEFINE_float("learning_rate", 2e-3, "First learning rate.", lower_bound=0.0)
flags.DEFINE_enum(
    "schedule", "cosine", ["cosine", "steps", "constant"], "How the learning rate falls."
)
flags.DEFINE_list("decay_at", ["0.6", "0.8", "0.9"], "Where `steps` fall, in shares of training.")
flags.DEFINE_float("decay_factor", 0.1, "To what share `steps` fall.")
flags.DEFINE_float("warmup_epochs", 0.0, "Epochs in which the learning rate rises from 0.")
flags.DEFINE_float("weight_decay", 0.0, "Decoupled weight decay.", lower_bound=0.0)
flags.DEFINE_float("clip_norm", None, "Largest norm of a gradient.")
flags.DEFINE_integer("accumulate", None, "Batches whose gradients make one step.", lower_bound=2)
flags.DEFINE_float("ema", None, "Momentum of a moving average of weights, which is saved.")


def run(main, program):
    """Runs a program with the values of its recipe, or the one that its recipe is for."""
    name = next((a.split("=", 1)[1] for a in sys.argv if a.startswith("--recipe=")), None)
    wanted = recipes.RECIPES.get(name, {}).get("program", program)
    if wanted != program:
        path = pathlib.Path(__file__).with_name(f"{wanted}.py")
        os.execv(sys.executable, [sys.executable, str(path), *sys.argv[1:]])

    def with_recipe(argv):
        if len(argv) > 1:
            raise app.UsageError(f"Unknown arguments: {argv[1:]}")
        for flag, value in recipes.RECIPES.get(FLAGS.recipe, {}).items():
            if flag not in ("about", "program") and FLAGS[flag].using_default_value:
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


def load_data(timesteps=10, train_timesteps=None, one_hot=False):
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
        normalization=FLAGS.normalization,
        one_hot=one_hot,
        workers=FLAGS.workers,
    )


def learning_rate(first, epochs, steps):
    """The learning rate over `epochs` of `steps` batches: a number or a schedule."""
    every = FLAGS.accumulate or 1
    total, warmup = max(epochs * steps // every, 1), int(FLAGS.warmup_epochs * steps) // every
    if FLAGS.schedule == "constant":
        return first
    if FLAGS.schedule == "cosine":
        cosine = keras.optimizers.schedules.CosineDecay
        if not warmup:
            return cosine(first, total)
        return cosine(0.0, max(total - warmup, 1), warmup_target=first, warmup_steps=warmup)
    at = [int(float(share) * total) for share in FLAGS.decay_at]
    rates = [first * FLAGS.decay_factor**i for i in range(len(at) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(at, rates)


def optimizer(epochs, steps):
    """The optimizer of the flags, for `epochs` of `steps` batches."""
    common = {
        "learning_rate": learning_rate(FLAGS.learning_rate, epochs, steps),
        "weight_decay": FLAGS.weight_decay or None,
        "clipnorm": FLAGS.clip_norm,
        "gradient_accumulation_steps": FLAGS.accumulate,
        "use_ema": FLAGS.ema is not None,
        "ema_momentum": FLAGS.ema or 0.99,
    }
    if FLAGS.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=FLAGS.momentum, **common)
    if FLAGS.optimizer == "adamw":
        common["weight_decay"] = FLAGS.weight_decay
    kind = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[FLAGS.optimizer]
    return kind(amsgrad=FLAGS.amsgrad, **common)


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
