"""Optimizers with PyTorch's weight decay, and learning rates that change once per epoch.

Keras decays weights beside the gradient (decoupled, Loshchilov & Hutter, 2019). `torch.optim.SGD`
and `torch.optim.Adam`, with which most networks of the papers were trained, add the gradient of an
L2 penalty, `weight_decay * w`, to that of the loss (coupled). With momentum 0.9 the same number is
ten times as strong; with Adam the effect is different in kind. `keras.optimizers.AdamW` equals
`torch.optim.AdamW`.
"""

import keras
from keras import ops

from keras_snn.utils.arguments import check_integer, check_number

__all__ = ["SGD", "Adam", "CoupledDecay", "EpochSchedule"]


class CoupledDecay:
    """Makes the `weight_decay` of a Keras optimizer the gradient of an L2 penalty.

    Put it in front of any optimizer: `class RMSprop(CoupledDecay, keras.optimizers.RMSprop)`. The
    penalty's gradient comes last, as PyTorch's does: after loss scaling, accumulation and clipping
    of the loss's gradients. `exclude_from_weight_decay` is respected; without it all trainable
    weights decay, including biases and those of normalisation, as in PyTorch.

    Example:

    >>> class RMSprop(CoupledDecay, keras.optimizers.RMSprop):
    ...     pass
    >>> optimizer = RMSprop(0.01, weight_decay=5e-4)
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates a weight by its gradient, including the penalty's."""
        gradient = self._penalized(gradient, variable)
        super().update_step(gradient, variable, learning_rate)

    def _penalized(self, gradient, variable):
        gradient = ops.cast(gradient, variable.dtype)
        if self.weight_decay is None or not self._use_weight_decay(variable):
            return gradient
        return ops.add(gradient, ops.multiply(variable, self.weight_decay))

    def _apply_weight_decay(self, variables):
        """Does nothing: `update_step` includes the decay."""


@keras.saving.register_keras_serializable(package="keras_snn")
class SGD(CoupledDecay, keras.optimizers.SGD):
    """Gradient descent with momentum as `torch.optim.SGD` computes it.

        g <- g + weight_decay * w
        m <- momentum * m + g
        w <- w - learning_rate * m      (Nesterov: w - learning_rate * (g + momentum * m))

    Keras's SGD multiplies the rate into `m`, so a new rate takes effect only as old steps fade.

    Args:
        learning_rate: A number or a schedule.
        momentum: Fraction of `m` that a step keeps.
        nesterov: Whether momentum is Nesterov's.
        weight_decay: Factor of the penalty's gradient, see `CoupledDecay`.
        kwargs: Other arguments of `keras.optimizers.SGD`.

    Example:

    >>> weight = keras.Variable([1.0])
    >>> optimizer = SGD(0.1, momentum=0.9, weight_decay=5e-4)
    >>> for _ in range(200):
    ...     optimizer.apply([ops.zeros(1)], [weight])
    >>> round(float(ops.convert_to_numpy(weight)[0]), 3)  # of keras.optimizers.SGD: 0.99
    0.909
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates a weight by its gradient, including the penalty's."""
        gradient = self._penalized(gradient, variable)
        if self.momentum:
            moment = self.momentums[self._get_variable_index(variable)]
            self.assign(moment, ops.add(ops.multiply(moment, self.momentum), gradient))
            step = ops.multiply(moment, self.momentum) if self.nesterov else moment
            gradient = ops.add(step, gradient) if self.nesterov else step
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, ops.multiply(gradient, rate))


@keras.saving.register_keras_serializable(package="keras_snn")
class Adam(CoupledDecay, keras.optimizers.Adam):
    """Adam with the weight decay of `torch.optim.Adam`: the gradient of an L2 penalty.

    Adam also normalises that gradient by its size, so a larger factor hardly decays weights more.
    For decay in proportion to the weights use `keras.optimizers.AdamW`.

    Args:
        args, kwargs: Arguments of `keras.optimizers.Adam`.

    Example:

    >>> optimizer = Adam(1e-4, amsgrad=True, weight_decay=5e-4)
    """


@keras.saving.register_keras_serializable(package="keras_snn")
class EpochSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that is evaluated at the start of each epoch, after a linear warm-up.

        rate(step) = a + (schedule(0) - a) * step / warmup_steps,  step < warmup_steps
                   = schedule(max(start of the epoch - warmup_steps, 0)),      otherwise

    This is PyTorch's scheduler when it is stepped once per epoch. With `within=True` the schedule
    has run during the warm-up, as timm's: `schedule(start of the epoch)`.

    Args:
        schedule: A Keras schedule, whose steps are batches, or a number.
        steps_per_epoch: Batches of an epoch; 1 evaluates the schedule at every step.
        warmup_steps: Batches in which the learning rate rises.
        warmup_rate: Learning rate that it rises from, `a`.
        within: Whether the warm-up takes the place of the schedule's first steps.

    Raises:
        ValueError: If `steps_per_epoch` is no integer of at least 1, or `warmup_steps` of at least
            0.

    Example:

    >>> cosine = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=300)
    >>> rate = EpochSchedule(cosine, steps_per_epoch=100)
    >>> [round(float(rate(step)), 3) for step in (0, 99, 100, 299)]
    [0.1, 0.1, 0.075, 0.025]
    """

    def __init__(self, schedule, steps_per_epoch=1, warmup_steps=0, warmup_rate=0.0, within=False):
        self.schedule = schedule
        self.steps_per_epoch = check_integer("steps_per_epoch", steps_per_epoch)
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, minimum=0)
        self.warmup_rate = check_number("warmup_rate", warmup_rate, minimum=0)
        self.within = bool(within)

    def _read(self, step):
        return self.schedule(step) if callable(self.schedule) else self.schedule

    def __call__(self, step):
        """The learning rate of a step, counted from 0."""
        step = ops.cast(step, "int32")
        start = step // self.steps_per_epoch * self.steps_per_epoch
        before = 0 if self.within else self.warmup_steps
        rate = ops.cast(self._read(ops.maximum(start - before, 0)), "float32")
        if not self.warmup_steps:
            return rate
        rise = (self._read(0) - self.warmup_rate) * ops.cast(step, "float32") / self.warmup_steps
        return ops.where(step < self.warmup_steps, self.warmup_rate + rise, rate)

    def get_config(self):
        """The configuration of the schedule."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "steps_per_epoch": self.steps_per_epoch,
            "warmup_steps": self.warmup_steps,
            "warmup_rate": self.warmup_rate,
            "within": self.within,
        }

    @classmethod
    def from_config(cls, config):
        """Makes a schedule from a configuration of `get_config`."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**config | {"schedule": schedule})
