"""Flags of optimizers and learning rates, and what is made of them."""

import keras
from absl import flags

from keras_snn.optimizers import SGD, Adam, EpochSchedule

FLAGS = flags.FLAGS
# `sgd` and `adam` decay weights as those of torch.optim, through momentum; the others beside it.
OPTIMIZERS = {
    "adam": Adam,
    "adamw": keras.optimizers.AdamW,
    "sgd": SGD,
    "sgdw": keras.optimizers.SGD,
}
flags.DEFINE_enum(
    "optimizer", "adamw", list(OPTIMIZERS), "Optimizer; `sgd` and `sgdw` have momentum."
)
flags.DEFINE_float("momentum", 0.9, "Momentum of SGD.", 0.0, 1.0)
flags.DEFINE_bool("amsgrad", False, "Whether Adam is AMSGrad.")
flags.DEFINE_float("learning_rate", 2e-3, "First learning rate.", lower_bound=0.0)
flags.DEFINE_enum(
    "schedule",
    "cosine",
    ["cosine", "timm", "steps", "constant"],
    "How the learning rate falls; `timm`: a cosine of whole epochs, of which the warm-up takes the "
    "first ones.",
)
flags.DEFINE_enum(
    "schedule_every", "step", ["step", "epoch"], "When: at every batch, or between epochs alone."
)
flags.DEFINE_list("decay_at", ["0.6", "0.8", "0.9"], "Where `steps` fall, in shares of training.")
flags.DEFINE_float("decay_factor", 0.1, "To what share `steps` fall.", lower_bound=0.0)
flags.DEFINE_float(
    "warmup_epochs", 0.0, "Epochs in which the learning rate rises.", lower_bound=0.0
)
flags.DEFINE_float("warmup_rate", 0.0, "Learning rate that it rises from.", lower_bound=0.0)
flags.DEFINE_float("final_rate", 0.0, "Learning rate that a cosine ends with.", lower_bound=0.0)
flags.DEFINE_integer("cooldown_epochs", 0, "Last epochs, with this rate.", lower_bound=0)
flags.DEFINE_float(
    "weight_decay",
    0.0,
    "Weight decay: of `sgd` and `adam` the gradient of an L2 penalty, as in torch.optim; of "
    "`sgdw` and `adamw` decoupled.",
    lower_bound=0.0,
)
flags.DEFINE_float("clip_norm", None, "Largest norm of the gradient of a weight.")
flags.DEFINE_integer("accumulate", None, "Batches whose gradients make one step.", lower_bound=2)
flags.DEFINE_float(
    "ema", None, "Momentum of a moving average of weights, which is saved.", 0.0, 1.0
)


@flags.validator("decay_at", "must be shares from 0 to 1 that rise, such as 0.6,0.8")
def _are_shares(values):
    try:
        shares = list(map(float, values))
    except ValueError:
        return False
    return shares == sorted(shares) and all(0 <= share <= 1 for share in shares)


@flags.validator("clip_norm", "must be above 0")
def _is_positive(value):
    return value is None or value > 0


# Flags that only some values of another one leave an effect.
NEEDS = {
    "momentum": ("optimizer", ["sgd", "sgdw"]),
    "amsgrad": ("optimizer", ["adam", "adamw"]),
    "schedule_every": ("schedule", ["cosine", "steps"]),
    "decay_at": ("schedule", ["steps"]),
    "decay_factor": ("schedule", ["steps"]),
    "warmup_rate": ("warmup_epochs", None),
    "final_rate": ("schedule", ["cosine", "timm"]),
    "cooldown_epochs": ("schedule", ["cosine", "timm"]),
}


def learning_rate(first, epochs, steps):
    """The learning rate over `epochs` of `steps` batches: a number or a schedule of batches."""
    warmup = round(FLAGS.warmup_epochs * steps)
    start, every = {"warmup_rate": FLAGS.warmup_rate}, 1
    if FLAGS.schedule == "constant":
        rate = first
    elif FLAGS.schedule in ("cosine", "timm"):
        within = FLAGS.schedule == "timm"
        falling = (epochs - FLAGS.cooldown_epochs) * steps - (0 if within else warmup)
        last = FLAGS.final_rate / first if first else 0.0
        rate = keras.optimizers.schedules.CosineDecay(first, max(falling, 1), last)
        if within:
            return EpochSchedule(EpochSchedule(rate, 1, warmup, within=True, **start), steps)
        every = steps if FLAGS.schedule_every == "epoch" else 1
    else:
        unit = steps if FLAGS.schedule_every == "epoch" else 1
        shares = map(float, FLAGS.decay_at)
        at = [round(share * epochs * steps / unit) * unit - warmup for share in shares]
        rate = in_steps(first, at, FLAGS.decay_factor)
    return rate if every == 1 and not warmup else EpochSchedule(rate, every, warmup, **start)


def in_steps(first, at, factor=0.1):
    """A learning rate that is `factor` times as large from each of the steps `at` on."""
    rates = [first * factor**i for i in range(len(at) + 1)]
    # Keras's falls behind the steps that it is given.
    return keras.optimizers.schedules.PiecewiseConstantDecay([step - 1 for step in at], rates)


def optimizer(epochs, steps, first_rate=None):
    """The optimizer of the flags, for `epochs` of `steps` batches."""
    kind = OPTIMIZERS[FLAGS.optimizer]
    own = "momentum" if issubclass(kind, keras.optimizers.SGD) else "amsgrad"
    return kind(
        learning_rate(first_rate or FLAGS.learning_rate, epochs, steps),
        weight_decay=FLAGS.weight_decay,
        clipnorm=FLAGS.clip_norm,
        gradient_accumulation_steps=FLAGS.accumulate,
        use_ema=FLAGS.ema is not None,
        ema_momentum=0.99 if FLAGS.ema is None else FLAGS.ema,
        **{own: FLAGS[own].value},
    )
