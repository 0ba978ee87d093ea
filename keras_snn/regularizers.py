"""Penalties on firing rates and on membrane potentials, for `activity_regularizer`.

Keras calls an activity regularizer with each output alone, and divides the result by the batch
size. So masked steps and states would count, and a mean would shrink with the batch. The layers of
this package therefore tell an `ActivityPenalty` what each tensor is.
"""

import contextlib
import weakref

import keras
from keras import ops

from keras_snn import graph
from keras_snn.utils.arguments import Configured, check_number

__all__ = ["ActivityPenalty", "MembraneRegularizer", "RateRegularizer"]


class ActivityPenalty(Configured, keras.regularizers.Regularizer):
    """A penalty averaged over batch and time, independent of the size of the batch.

    A subclass defines `penalty(x, mean)`. Within the call of a layer the result is multiplied by
    the number of examples, as `Layer.__call__` divides by it.

    Args:
        strength: Factor of the penalty, at least 0.
        minimum: Smallest value without a penalty.
        maximum: Largest value without a penalty.
    """

    def __init__(self, strength, minimum, maximum):
        self.strength = check_number("strength", strength, minimum=0)
        self.minimum = check_number("minimum", minimum)
        self.maximum = check_number("maximum", maximum, minimum=minimum)
        # Outputs of a layer: weak references, what they are, whether they have time, their masks.
        self._told, self._folded = [], None

    def penalty(self, x, mean):
        """The penalty on `x`; `mean` averages over batch and the unmasked steps."""
        raise TypeError(f"{type(self).__name__} must define `penalty(x, mean)`.")

    def squares(self, x):
        """Squared distance of each value from the range without a penalty."""
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
        return value * ops.cast(batch, value.dtype) if graph.in_layer_call() else value

    def check(self, x, axes):
        """Raises a `ValueError` for an output that the penalty does not apply to."""

    def _what(self, x):
        for place, (output, *known) in enumerate(self._told):
            if output() is x:
                del self._told[place]
                return known
        return ("output" if self._folded is None else "folded"), True, None

    def get_config(self):
        return {"strength": self.strength, "minimum": self.minimum, "maximum": self.maximum}


def tell(layer, outputs, mask=None, timed=True):
    """Tells the activity regularizer of a layer what the outputs are.

    Args:
        layer: The layer.
        outputs: The result of its `call`: the output, or a tuple of the output and states, which
            are not penalised.
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
    """Within this block outputs of `layer` and its inner layers have batch and time on one axis.

    Args:
        layer: The layer.
        like: The sequence that was folded, `(batch, time, ...)`.
        mask: Its mask, `(batch, time)`, or `None`.
    """
    penalties = [inner.activity_regularizer for inner in graph.flatten_layers(layer)]
    penalties = [penalty for penalty in penalties if isinstance(penalty, ActivityPenalty)]
    for penalty in penalties:
        penalty._folded = like, mask
    try:
        yield
    finally:
        for penalty in penalties:
            penalty._folded = None


@keras.saving.register_keras_serializable(package="keras_snn")
class RateRegularizer(ActivityPenalty):
    """A penalty on mean firing rates outside of a range: the mean of `strength * distance^2`.

    For `activity_regularizer` of a neuron layer, or of another one with time. A neuron's rate is
    its mean over batch and time; masked steps and returned states do not count. If every step is
    masked the penalty is 0.

    Args:
        strength: Factor of the penalty, at least 0.
        minimum: Smallest rate without a penalty.
        maximum: Largest rate without a penalty.

    Call arguments:
        x: Outputs, `(batch, time, ...)`.

    Returns:
        The penalty. Within a layer's call it is multiplied by the number of examples, as Keras
        divides by it: `layer.losses` has the penalty itself.

    Raises:
        ValueError: If the outputs have no time axis.

    Source: upper and lower bounds as in Zenke and Vogels (2021).

    Example:

    >>> from keras_snn.layers import IF
    >>> layer = IF(activity_regularizer=RateRegularizer(strength=2.0, maximum=0.5))
    >>> spikes = layer(keras.ops.ones((8, 4, 3)))
    >>> float(layer.losses[0])
    0.5
    """

    def __init__(self, strength=1.0, minimum=0.0, maximum=1.0):
        check_number("minimum", minimum, minimum=0, maximum=1)
        super().__init__(strength, minimum, maximum)

    def check(self, x, axes):
        if len(axes) == 2 and len(x.shape) < 3:
            raise ValueError(
                "RateRegularizer needs outputs (batch, time, ...), got the shape "
                f"{tuple(x.shape)}. Give it to a layer whose output has a time axis."
            )

    def penalty(self, x, mean):
        return self.strength * ops.mean(self.squares(mean(x)))


@keras.saving.register_keras_serializable(package="keras_snn")
class MembraneRegularizer(ActivityPenalty):
    """A penalty on values outside of a range: the mean of `strength * distance^2` over all values.

    For `activity_regularizer` of a layer whose output is a membrane potential (`LeakyIntegrator`,
    `Accumulator`) or the current in front of a neuron (a `Dense` layer, a normalisation). A neuron
    whose current stays near the threshold keeps a surrogate gradient.

    Masked steps and returned states do not count; if every step is masked the penalty is 0. Keras's
    own layers do not tell which steps are masked: with masks put them inside `FoldTime`.

    Args:
        strength: Factor of the penalty, at least 0.
        minimum: Smallest value without a penalty.
        maximum: Largest value without a penalty.

    Call arguments:
        x: Outputs, `(batch, ...)`.

    Returns:
        The penalty. Within a layer's call it is multiplied by the number of examples, as Keras
        divides by it: `layer.losses` has the penalty itself.

    Source: ours; Guo et al. (2022), RecDis-SNN, shape the distribution of potentials by another
    loss.

    Example:

    >>> penalty = MembraneRegularizer(strength=0.5, minimum=-1.0, maximum=1.0)
    >>> float(penalty(keras.ops.array([[[3.0], [0.5]]])))
    1.0
    """

    def __init__(self, strength=1.0, minimum=-1.0, maximum=1.0):
        super().__init__(strength, minimum, maximum)

    def penalty(self, x, mean):
        return self.strength * ops.mean(mean(self.squares(x)))
