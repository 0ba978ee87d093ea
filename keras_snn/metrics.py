"""Metrics for networks whose outputs keep time, `(batch, time, ...)`, and for regression.

For a network that ends in a readout over time use Keras's own metrics. These are for training on
every step (`keras_snn.losses`), and for outputs that are spikes. Masked steps do not count.
"""

import keras
from keras import ops

from keras_snn import graph
from keras_snn.layers.time import check_steps
from keras_snn.losses import check_labels, check_outputs
from keras_snn.utils.arguments import Configured, check_mask, check_number

__all__ = [
    "SpikeRate",
    "SymmetricMeanAbsolutePercentageError",
    "TemporalMeanAccuracy",
    "TimeToDecision",
]


class _SequenceMetric(Configured, keras.metrics.Mean):
    """The mean over examples of `measure`, weighted by `sample_weight`."""

    def measure(self, y_true, outputs, mask):
        """The value of each example, `(batch,)`; the mask is `(batch, time)`, 1 and 0."""
        raise TypeError(f"{type(self).__name__} must define `measure(y_true, outputs, mask)`.")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: Labels.
            y_pred: Outputs, `(batch, time, ...)`, with or without a Keras mask.
            sample_weight: Optional weights of the examples, `(batch,)` or `(batch, 1)`.
        """
        outputs = ops.cast(ops.convert_to_tensor(y_pred), self.dtype)
        if len(outputs.shape) < 2:
            raise ValueError(
                f"{type(self).__name__} needs outputs (batch, time, ...), got the shape "
                f"{tuple(outputs.shape)}."
            )
        check_steps(type(self).__name__, outputs.shape)
        mask = check_mask(f"The metric {self.name!r}", graph.get_mask(y_pred), outputs)
        if mask is None:
            mask = ops.ones_like(_flat(outputs)[..., 0])
        values = self.measure(y_true, outputs, ops.cast(mask, self.dtype))
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight)
            if tuple(sample_weight.shape[1:]) not in ((), (1,)):
                raise ValueError(
                    f"{type(self).__name__} needs one weight for each example, (batch,), got the "
                    f"shape {tuple(sample_weight.shape)}."
                )
            sample_weight = ops.reshape(sample_weight, (-1,))
        super().update_state(values, sample_weight)


def _flat(x):
    """`(batch, time, ...)` as `(batch, time, features)`."""
    if len(x.shape) == 2:
        return ops.expand_dims(x, -1)
    shape = ops.shape(x)
    return x if len(shape) == 3 else ops.reshape(x, (*shape[:2], -1))


def _running_mean(x, mask):
    """The mean of the steps so far, `(batch, time, features)`, and their number."""
    steps = ops.cumsum(mask, axis=1)
    total = ops.cumsum(ops.where(ops.expand_dims(mask, -1) > 0, x, 0), axis=1)
    return total / ops.expand_dims(ops.maximum(steps, 1), -1), steps


@keras.saving.register_keras_serializable(package="keras_snn")
class SpikeRate(_SequenceMetric):
    """Mean spikes per neuron and step; all examples have the same weight, whatever their masks.

    Args:
        name: Name of the metric.
        dtype: Dtype of the computation.

    Call arguments:
        y_true: Not used.
        y_pred: Spikes, `(batch, time, ...)`.
        sample_weight: Optional weights of the examples, `(batch,)`.

    Example:

    >>> metric = SpikeRate()
    >>> metric.update_state(None, keras.ops.array([[[1.0, 0.0], [0.0, 0.0]]]))
    >>> float(metric.result())
    0.25
    """

    def __init__(self, name="spike_rate", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def measure(self, y_true, outputs, mask):
        rates = ops.mean(_flat(outputs), axis=-1)
        return _running_mean(ops.expand_dims(rates, -1), mask)[0][:, -1, 0]


@keras.saving.register_keras_serializable(package="keras_snn")
class TemporalMeanAccuracy(_SequenceMetric):
    """Fraction of examples for which the output of the right class has the largest mean over time.

    Args:
        name: Name of the metric.
        dtype: Dtype of the computation.

    Call arguments:
        y_true: Integers, `(batch,)` or `(batch, 1)`, or one-hot or soft labels,
            `(batch, classes)`, of which the largest counts.
        y_pred: Outputs, `(batch, time, classes)`.
        sample_weight: Optional weights of the examples, `(batch,)`.

    Raises:
        ValueError: If outputs or labels have another shape.

    Example:

    >>> metric = TemporalMeanAccuracy()
    >>> outputs = keras.ops.array([[[3.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 2.0]]])
    >>> metric.update_state([0, 0], outputs)
    >>> float(metric.result())
    0.5
    """

    def __init__(self, name="temporal_mean_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def measure(self, y_true, outputs, mask):
        check_outputs(self, outputs)
        labels = check_labels(self, y_true, outputs)
        if len(labels.shape) == 2:
            labels = ops.argmax(labels, axis=-1)
        answers = ops.argmax(_running_mean(outputs, mask)[0][:, -1], axis=-1)
        return ops.cast(answers, "int32") == ops.cast(labels, "int32")


@keras.saving.register_keras_serializable(package="keras_snn")
class TimeToDecision(_SequenceMetric):
    """Mean number of steps until the answer, the largest running mean of the outputs, is decided.

    Args:
        confidence: With `None`, an answer is decided at the step, counted from 1, after which it
            does not change. With a probability, when the softmax of the running mean of logits
            first reaches it, else at the last step.
        name: Name of the metric.
        dtype: Dtype of the computation.

    Call arguments:
        y_true: Not used.
        y_pred: Outputs (logits, for `confidence`), `(batch, time, classes)`.
        sample_weight: Optional weights of the examples, `(batch,)`.

    Raises:
        ValueError: If the outputs have another rank.

    Source: with a confidence, the exit rule of Li et al. (2023), SEENN-I, as we read it.

    Example:

    >>> outputs = keras.ops.array([[[1.0, 0.0], [0.0, 3.0], [0.0, 1.0]]])
    >>> metric = TimeToDecision()
    >>> metric.update_state(None, outputs)
    >>> float(metric.result())
    2.0
    """

    def __init__(self, confidence=None, name="time_to_decision", dtype=None):
        super().__init__(name=name, dtype=dtype)
        if confidence is not None:
            check_number("confidence", confidence, above=0, maximum=1)
        self.confidence = confidence

    def measure(self, y_true, outputs, mask):
        check_outputs(self, outputs)
        means, steps = _running_mean(outputs, mask)
        if self.confidence is None:
            answers = ops.argmax(means, axis=-1)
            differs = answers != answers[:, -1:]
            return 1 + ops.max(ops.where(differs, steps, 0), axis=1)
        sure = ops.max(ops.softmax(means), axis=-1) >= self.confidence
        sure = ops.logical_and(sure, mask > 0)
        return ops.min(ops.where(sure, steps, steps[:, -1:]), axis=1)

    def get_config(self):
        return super().get_config() | {"confidence": self.confidence}


def _smape(y_true, y_pred):
    y_pred = ops.convert_to_tensor(y_pred)
    y_true = ops.cast(ops.convert_to_tensor(y_true), y_pred.dtype)
    pairs = zip(y_true.shape, y_pred.shape)
    if len(y_true.shape) != len(y_pred.shape) or any(
        a != b for a, b in pairs if None not in (a, b)
    ):
        raise ValueError(
            "SymmetricMeanAbsolutePercentageError needs values and predictions of the same shape, "
            f"got {tuple(y_true.shape)} and {tuple(y_pred.shape)}."
        )
    size = ops.abs(y_true) + ops.abs(y_pred)
    return 200 * ops.abs(y_true - y_pred) / ops.where(size > 0, size, 1)


@keras.saving.register_keras_serializable(package="keras_snn")
class SymmetricMeanAbsolutePercentageError(keras.metrics.MeanMetricWrapper):
    """sMAPE, the error of a regression in percent of the values' size, from 0 to 200.

        200 * mean(|y_true - y_pred| / (|y_true| + |y_pred|))

    Where both are 0 the error is 0. (NeuroBench says 200 for all values then.)

    Args:
        name: Name of the metric.
        dtype: Dtype of the computation.

    Call arguments:
        y_true: Values, `(batch, ...)`.
        y_pred: Predictions of the same shape.
        sample_weight: Optional weights of the examples, `(batch,)`.

    Raises:
        ValueError: If the shapes differ.

    Source: NeuroBench (Yik et al., 2025), its measure of Mackey-Glass forecasts.

    Example:

    >>> metric = SymmetricMeanAbsolutePercentageError()
    >>> metric.update_state([[1.0], [2.0]], [[3.0], [2.0]])
    >>> float(metric.result())
    50.0
    """

    def __init__(self, name="smape", dtype=None):
        super().__init__(fn=_smape, name=name, dtype=dtype)
        self._direction = "down"

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}
