"""Readouts: from a sequence, `(batch, time, ...)`, to one answer, `(batch, ...)`.

Masked steps, `(batch, time)`, do not count; a sequence of no step is refused.
"""

import keras
from keras import ops

from keras_snn.layers.base import NeuronCell
from keras_snn.layers.neurons import Accumulator, LeakyIntegrator
from keras_snn.layers.rnn import SpikingRNN
from keras_snn.layers.time import check_rank
from keras_snn.regularizers import tell
from keras_snn.utils.arguments import (
    Configured,
    check_choice,
    check_integer,
    check_mask,
    check_number,
)

__all__ = [
    "FirstSpikeTime",
    "LastOverTime",
    "MaxOverTime",
    "MeanOverTime",
    "MembraneReadout",
    "SumOverTime",
    "Voting",
]


def _mean(x, mask):
    if mask is None:
        return ops.mean(x, axis=1)
    return _sum(x, mask) / ops.maximum(_sum(ops.cast(mask, x.dtype), None), 1)


def _sum(x, mask):
    return ops.sum(x if mask is None else ops.where(mask, x, 0), axis=1)


def _max(x, mask):
    if mask is None:
        return ops.max(x, axis=1)
    seen = ops.any(mask, axis=1)
    return ops.where(seen, ops.max(ops.where(mask, x, float("-inf")), axis=1), 0)


def _last(x, mask):
    if mask is None:
        return x[:, -1]
    # 1 at the last unmasked step of each example: unmasked, and none unmasked after it.
    count = ops.cumsum(ops.cast(mask, "int32"), axis=1)
    last = ops.logical_and(mask, count == count[:, -1:])
    return _sum(x, last)


class _OverTime(Configured, keras.layers.Layer):
    """A reduction over time that knows masks; `reduce(x, mask)` does it."""

    reduce = None

    def __init__(self, **kwargs):
        # Sums are taken in the variable dtype: in float16 those of long sequences overflow.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        check_rank(self, input_shape, minimum=2)
        self.built = True

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        check_rank(self, input_shape, minimum=2)
        return (input_shape[0], *input_shape[2:])

    def call(self, inputs, mask=None):
        check_rank(self, inputs.shape, minimum=2)
        if check_mask(self.name, mask, inputs) is not None:
            mask = ops.cast(mask, "bool")
            mask = ops.reshape(mask, (*ops.shape(mask), *[1] * (len(inputs.shape) - 2)))
        inputs = ops.cast(inputs, self.variable_dtype)
        outputs = ops.cast(type(self).reduce(inputs, mask), self.compute_dtype)
        return tell(self, outputs, timed=False)


@keras.saving.register_keras_serializable(package="keras_snn")
class MeanOverTime(_OverTime):
    """Mean over time: firing rates of spikes, mean logits of currents; 0 if every step is masked.

    Args:
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Example:

    >>> float(MeanOverTime()(keras.ops.array([[[1.0], [0.0], [1.0], [0.0]]]))[0, 0])
    0.5
    """

    reduce = staticmethod(_mean)


@keras.saving.register_keras_serializable(package="keras_snn")
class SumOverTime(_OverTime):
    """Sum over time: spike counts; 0 where every step is masked.

    Args:
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Example:

    >>> float(SumOverTime()(keras.ops.array([[[1.0], [0.0], [1.0], [0.0]]]))[0, 0])
    2.0
    """

    reduce = staticmethod(_sum)


@keras.saving.register_keras_serializable(package="keras_snn")
class MaxOverTime(_OverTime):
    """Maximum over time; 0 where every step is masked.

    Args:
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Example:

    >>> float(MaxOverTime()(keras.ops.array([[[-3.0], [-1.0], [-2.0]]]))[0, 0])
    -1.0
    """

    reduce = staticmethod(_max)


@keras.saving.register_keras_serializable(package="keras_snn")
class LastOverTime(_OverTime):
    """The last unmasked step; 0 where every step is masked.

    Args:
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Example:

    >>> float(LastOverTime()(keras.ops.array([[[-3.0], [-1.0], [-2.0]]]))[0, 0])
    -2.0
    """

    reduce = staticmethod(_last)


class _SilenceCell(NeuronCell):
    """What has not fired yet, one step: `v <- v (1 - s)`, from 1."""

    initial_values = (1.0,)
    state_names = ("waiting",)

    def charge(self, v, x):
        return v * (1 - x)


@keras.saving.register_keras_serializable(package="keras_snn")
class FirstSpikeTime(_OverTime):
    """Index of each neuron's first spike; the number of steps if it never fires.

    Computed as `sum_t prod_(k <= t) (1 - s[k])`, whose gradient is finite. A masked step counts
    neither as a spike nor as time.

    Args:
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Source: our reading of time-to-first-spike decoding, in a form that can be differentiated.

    Example:

    >>> spikes = keras.ops.array([[[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    >>> print(keras.ops.convert_to_numpy(FirstSpikeTime()(spikes)))
    [[1. 0. 3.]]
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # A loop, as TensorFlow divides by 0 in the gradient of `cumprod`, and Keras's
        # `associative_scan` fails in TensorFlow's graphs.
        dtype = keras.DTypePolicy(self.variable_dtype)
        self.silence = SpikingRNN(_SilenceCell(dtype=dtype), dtype=dtype, name="silence")

    def build(self, input_shape):
        self.silence.build(input_shape)
        self.built = True

    def call(self, inputs, mask=None):
        # The loop gives zeros at masked steps.
        waiting = self.silence(inputs, mask=mask)
        return tell(self, ops.cast(_sum(waiting, None), self.compute_dtype), timed=False)


@keras.saving.register_keras_serializable(package="keras_snn")
class MembraneReadout(Configured, keras.layers.Layer):
    """The membrane potential of an integrator that never fires, reduced over time.

    Args:
        mode: `"last"`, `"max"` or `"mean"` over time.
        tau: Membrane time constant in steps, at least 1; `None` for no leak (an accumulator,
            whose last potential is the sum of its input).
        decay_input: Whether the input is divided by `tau` too.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: Currents, `(batch, time, ...)`.
        mask: Optional `(batch, time)`; a masked step leaves the potential alone.

    Source: SpikingJelly `NonSpikingIFNode`, `NonSpikingLIFNode`.

    Example:

    >>> currents = keras.ops.ones((1, 3, 1))
    >>> [float(MembraneReadout(mode)(currents)[0, 0]) for mode in ("last", "max", "mean")]
    [3.0, 3.0, 2.0]
    """

    def __init__(self, mode="last", tau=None, decay_input=True, **kwargs):
        super().__init__(**kwargs)
        modes = {"last": LastOverTime, "max": MaxOverTime, "mean": MeanOverTime}
        self.mode = check_choice("mode", mode, modes)
        self.tau = tau if tau is None else check_number("tau", tau, minimum=1)
        self.decay_input = bool(decay_input)
        self.supports_masking = True
        # The potential has the variable dtype (float32 under mixed precision) until the end.
        dtype = keras.DTypePolicy(self.variable_dtype)
        if tau is None:
            self.integrator = Accumulator(dtype=dtype, name="integrator")
        else:
            self.integrator = LeakyIntegrator(tau, decay_input, dtype=dtype, name="integrator")
        self.reduce = modes[mode](dtype=dtype, name="reduce")

    def build(self, input_shape):
        self.integrator.build(input_shape)
        self.reduce.build(input_shape)
        self.built = True

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return self.reduce.compute_output_shape(input_shape)

    def call(self, inputs, mask=None):
        potential = self.reduce(self.integrator(inputs, mask=mask), mask=mask)
        return tell(self, ops.cast(potential, self.compute_dtype), timed=False)

    def get_config(self):
        names = ("mode", "tau", "decay_input")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="keras_snn")
class Voting(Configured, keras.layers.Layer):
    """Mean over groups of consecutive features: each class has several output neurons.

    Args:
        votes: Features per class; must divide the size of the last axis.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: `(..., classes * votes)`, with or without time.

    Returns:
        `(..., classes)`.

    Raises:
        ValueError: If `votes` does not divide the number of features.

    Source: SpikingJelly `VotingLayer`; the boosting head of S-ResNet (Vicente-Sola et al., 2022).

    Example:

    >>> print(keras.ops.convert_to_numpy(Voting(2)(keras.ops.array([[1.0, 0.0, 1.0, 1.0]]))))
    [[0.5 1. ]]
    """

    def __init__(self, votes=10, **kwargs):
        super().__init__(**kwargs)
        self.votes = check_integer("votes", votes)
        self.supports_masking = True

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        self.built = True

    def compute_output_shape(self, input_shape):
        features = input_shape[-1]
        if features is None or features % self.votes:
            raise ValueError(
                f"{self.name} has {self.votes} votes for each class and needs a multiple of that "
                f"as the size of the last axis, got the shape {tuple(input_shape)}."
            )
        return (*input_shape[:-1], features // self.votes)

    def call(self, inputs):
        classes = inputs.shape[-1] // self.votes
        groups = ops.reshape(inputs, (*ops.shape(inputs)[:-1], classes, self.votes))
        return ops.mean(groups, axis=-1)

    def get_config(self):
        return super().get_config() | {"votes": self.votes}
