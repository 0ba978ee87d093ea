"""Flags of optimizers and learning rates, and what is made of them."""

import keras
from absl import flags

FLAGS = flags.FLAGS
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

# Flags that only some values of another one leave an effect.
NEEDS = {
    "momentum": ("optimizer", ["sgd"]),
    "amsgrad": ("optimizer", ["adam", "adamw"]),
    "decay_at": ("schedule", ["steps"]),
    "decay_factor": ("schedule", ["steps"]),
    "warmup_epochs": ("schedule", ["cosine"]),
}


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
    return in_steps(first, total, map(float, FLAGS.decay_at), FLAGS.decay_factor)


def in_steps(first, total, shares=(0.6, 0.8, 0.9), factor=0.1):
    """A learning rate that falls to `factor` of itself after each of the shares of the steps."""
    at = [int(share * total) for share in shares]
    rates = [first * factor**i for i in range(len(at) + 1)]
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
