"""Penalties on what layers give, and what a layer tells them of it.

Keras calls an activity regularizer with one output after the other and nothing else, and divides
what it gets by the batch. So masked steps and states would count as any other value, and a mean
would shrink with the batch. The layers of this package tell an `ActivityPenalty` what it will see.
"""

import contextlib
import weakref

import keras
from keras import ops
from keras.src.backend.common.global_state import get_global_attribute

from keras_snn.layers.arguments import Configured, check_number

__all__ = ["ActivityPenalty"]


class ActivityPenalty(Configured, keras.regularizers.Regularizer):
    """A penalty on the mean of something over batch and time, whatever the size of the batch.

    A subclass defines `penalty(x, mean)`. In the call of a layer a regularizer gives the penalty
    times the number of examples, by which `Layer.__call__` divides.

    Args:
        strength: Factor of the penalty, at least 0.
        minimum: Least value that is free.
        maximum: Largest value that is free.
    """

    def __init__(self, strength, minimum, maximum):
        self.strength = check_number("strength", strength, minimum=0)
        self.minimum = check_number("minimum", minimum)
        self.maximum = check_number("maximum", maximum, minimum=minimum)
        # Outputs that a layer gave: weak references, whether they have time, their masks.
        self._told, self._folded = [], None

    def penalty(self, x, mean):
        """The penalty on `x`; `mean` averages over what counts of batch and time."""
        raise TypeError(f"{type(self).__name__} must define `penalty(x, mean)`.")

    def squares(self, x):
        """Squared distance of each value from the range that is free."""
        return ops.square(ops.relu(x - self.maximum) + ops.relu(self.minimum - x))

    def __call__(self, x):
        batch = ops.shape(x)[0]
        kind, timed, mask = self._what(x)
        x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))  # squares overflow in half
        if kind == "state":
            return ops.zeros((), x.dtype)
        if kind == "folded":
            like, mask = self._folded
            x = ops.reshape(x, (*ops.shape(like)[:2], *ops.shape(x)[1:]))
        axes = (0, 1) if timed else (0,)
        self.check(x, axes)
        if mask is None:
            value = self.penalty(x, lambda values: ops.mean(values, axes))
        else:
            kept = ops.reshape(ops.cast(mask, "bool"), (*ops.shape(x)[:2], *[1] * (x.ndim - 2)))
            count = ops.sum(ops.cast(kept, x.dtype))
            value = self.penalty(
                x, lambda values: ops.sum(ops.where(kept, values, 0), axes) / ops.maximum(count, 1)
            )
            value = ops.where(count > 0, value, 0)
        in_layer = get_global_attribute("current_call_ctx") is not None
        return value * ops.cast(batch, value.dtype) if in_layer else value

    def check(self, x, axes):
        """Raises a `ValueError` for an output that the penalty has no meaning for."""

    def _what(self, x):
        for place, (output, *known) in enumerate(self._told):
            if output() is x:
                del self._told[place]
                return known
        return ("output" if self._folded is None else "folded"), True, None

    def get_config(self):
        return {"strength": self.strength, "minimum": self.minimum, "maximum": self.maximum}


def tell(layer, outputs, mask=None, timed=True):
    """Tells the penalty on a layer's activity what it will be called with.

    Args:
        layer: The layer.
        outputs: What its `call` returns: the output, or a tuple of it and states, which do not
            count.
        mask: The output's mask, `(batch, time)`, or `None`.
        timed: Whether the output has a time axis.

    Returns:
        The outputs.
    """
    if isinstance(layer.activity_regularizer, ActivityPenalty):
        output, *states = outputs if isinstance(outputs, tuple) else (outputs,)
        layer.activity_regularizer._told = [
            (weakref.ref(output), "output", timed, mask),
            *((weakref.ref(state), "state", False, None) for state in states),
        ]
    return outputs


@contextlib.contextmanager
def tell_folded(layer, like, mask):
    """While this lasts, outputs of `layer`, and of layers in it, have batch and time in one axis.

    Args:
        layer: The layer.
        like: The sequence that was folded, `(batch, time, ...)`.
        mask: Its mask, `(batch, time)`, or `None`.
    """
    found = [inner.activity_regularizer for inner in layer._flatten_layers()]
    found = [penalty for penalty in found if isinstance(penalty, ActivityPenalty)]
    for penalty in found:
        penalty._folded = like, mask
    try:
        yield
    finally:
        for penalty in found:
            penalty._folded = None
