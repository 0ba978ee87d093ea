"""Training for certificates: the usual loss, and that of the worst answer within a box."""

import keras
from keras import ops, tree

from keras_snn import graph
from keras_snn.robust import boxes
from keras_snn.robust.bounds import METHODS, classes_of, replay_margins
from keras_snn.robust.neurons import LINES
from keras_snn.utils.arguments import check_choice, check_integer, check_number

__all__ = ["Rise", "RobustModel"]


@keras.saving.register_keras_serializable(package="keras_snn")
class Rise(keras.optimizers.schedules.LearningRateSchedule):
    """A perturbation that rises from 0 to `eps` in equal stairs, then stays.

    Args:
        eps: The last value, at least 0.
        steps: Training steps in which it rises.
        stairs: Number of stairs; as many as steps by default.

    Source: `liangling76/certify_snn` (750 stairs in 250 epochs, then 50 epochs).

    Example:

    >>> schedule = Rise(0.1, steps=100, stairs=2)
    >>> [round(float(schedule(step)), 3) for step in (0, 49, 50, 99, 100, 200)]
    [0.0, 0.0, 0.05, 0.05, 0.1, 0.1]
    """

    def __init__(self, eps, steps, stairs=None):
        super().__init__()
        self.eps = check_number("eps", eps, minimum=0)
        self.steps = check_integer("steps", steps)
        self.stairs = self.steps if stairs is None else check_integer("stairs", stairs)

    def __call__(self, step):
        risen = ops.floor(ops.cast(step, "float32") * self.stairs / self.steps)
        return self.eps * ops.minimum(risen / self.stairs, 1.0)

    def get_config(self):
        return {"eps": self.eps, "steps": self.steps, "stairs": self.stairs}


class RobustModel(keras.Model):
    """A model that is trained for certificates: `(1 - weight) loss + weight robust loss`.

    The robust loss is the cross-entropy of the worst margins, minus the `margins` of the box around
    each example. The model inside is trained; save that. Bounds are those of inference: moving
    statistics, no dropout; and without the margin for rounding.

    Args:
        model: A functional or Sequential model with one output, `(batch, classes)`.
        eps: Size of the perturbation: a number, or a schedule of
            `keras.optimizers.schedules` from training steps to it, such as `Rise`.
        weight: Share of the robust loss, from 0 to 1.
        method: `"ibp"` or, slower and tighter, `"crown"`, see `margins`.
        lines: How S-CROWN bounds neurons, see `margins`.
        box: A function from inputs and `eps` to a `Box`, see `certify`.
        timesteps: Steps for which bounds are computed of a model that repeats images; all of them
            by default.
        **kwargs: Those of `keras.Model` (`name`).

    Raises:
        TypeError: If the model has no graph.
        ValueError: If an argument is not as above, or the model's output.

    Source: Liang et al. (2022), `liangling76/certify_snn` (`weight=0.6`, gradient norms clipped to
    0.25, from a trained network).

    Example:

    >>> import numpy as np
    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), snn.RepeatTime(2), keras.layers.Dense(3), snn.MeanOverTime()]
    ... )
    >>> robust = RobustModel(model, eps=Rise(0.1, steps=4))
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> robust.compile("sgd", loss)
    >>> history = robust.fit(np.zeros((8, 4)), np.zeros(8, "int32"), verbose=0)
    >>> int(robust.seen)
    1
    """

    def __init__(
        self,
        model,
        eps,
        weight=0.6,
        method="ibp",
        lines="authors",
        box=boxes.box,
        timesteps=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.classes = classes_of(model)
        schedule = isinstance(eps, keras.optimizers.schedules.LearningRateSchedule)
        self.eps = eps if schedule else check_number("eps", eps, minimum=0)
        self.weight = check_number("weight", weight, minimum=0, maximum=1)
        self.method = check_choice("method", method, METHODS)
        self.lines = check_choice("lines", lines, LINES)
        self.model, self.box = model, box
        self.timesteps = timesteps if timesteps is None else check_integer("timesteps", timesteps)
        self.seen = self.add_weight(
            name="seen", shape=(), dtype="int32", initializer="zeros", trainable=False
        )
        self.built = True

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    @property
    def current_eps(self):
        """The size of the perturbation after the training steps so far."""
        return self.eps(self.seen.value) if callable(self.eps) else self.eps

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        inputs = graph.in_order(self.model, x)
        found = [self.box(x, self.current_eps) for x in inputs]
        box = boxes.Box([b.lower for b in found], [b.upper for b in found])
        labels = tree.flatten(y)[0]
        if len(labels.shape) == 2 and labels.shape[1] == self.classes:
            labels = ops.argmax(labels, axis=-1)
        labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
        found = replay_margins(
            self.model, self.method, self.lines, box, labels, False, self.timesteps
        )
        crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        robust = crossentropy(labels, -found, sample_weight)
        if training:
            self.seen.assign_add(1)
        return (1 - self.weight) * loss + self.weight * robust

    def get_config(self):
        raise NotImplementedError("Save the model inside, `robust.model`; that is what is trained.")
