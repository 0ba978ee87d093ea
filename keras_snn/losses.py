"""Losses on sequences, and that of segmentation.

Outputs are `(batch, time, classes)`, so the network must keep time. (For cross-entropy of logits
averaged over time by `MeanOverTime`, use Keras's own loss.) Masked steps do not count.
"""

import keras
from keras import ops

from keras_snn import graph
from keras_snn.layers.readouts import _max, _mean
from keras_snn.layers.time import check_steps
from keras_snn.utils.arguments import Configured, check_mask, check_number
from keras_snn.utils.deprecation import renamed, renamed_argument

__all__ = [
    "FirstSpikeCrossentropy",
    "MaxMembraneCrossentropy",
    "PixelCrossentropy",
    "SpikeCountLoss",
    "TemporalEfficientCrossentropy",
    "TemporalMeanCrossentropy",
]
__getattr__ = renamed(__name__)


def check_outputs(owner, outputs):
    """Raises a `ValueError` unless `outputs` are `(batch, time, classes)`."""
    if len(outputs.shape) != 3:
        raise ValueError(
            f"{type(owner).__name__} needs outputs (batch, time, classes), got the shape "
            f"{tuple(outputs.shape)}."
        )
    check_steps(type(owner).__name__, outputs.shape)


def check_labels(owner, y_true, outputs):
    """Labels as integers `(batch,)`, or one-hot or soft ones as `(batch, classes)`.

    Raises a `ValueError` if they are neither.
    """
    labels, classes = ops.convert_to_tensor(y_true), outputs.shape[-1]
    shape = tuple(labels.shape)
    if len(shape) == 1 or shape[1:] == (1,):
        return ops.cast(ops.reshape(labels, (-1,)), "int32")
    if shape[1:] == (classes,):
        return ops.cast(labels, outputs.dtype)
    raise ValueError(
        f"{type(owner).__name__} needs integer labels (batch,) or labels (batch, {classes}), one "
        f"for each class, got the shape {shape}."
    )


class _Reduction(keras.losses.Loss):
    """Keras's weighting and reduction of losses that are already computed."""

    def call(self, y_true, y_pred):
        return y_pred


class _SequenceLoss(Configured, keras.losses.Loss):
    """A loss on `(batch, time, classes)`; `call(y_true, y_pred, mask)` gives each example's."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        # As in Keras, but a mask `(batch, time)` selects steps and does not weight examples.
        outputs = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        mask = check_mask(f"The loss {self.name!r}", graph.get_mask(y_pred), outputs)
        mask = None if mask is None else ops.expand_dims(ops.cast(mask, "bool"), -1)
        losses = self.call(y_true, outputs, mask)
        reduce = _Reduction(reduction=self.reduction, dtype=self.dtype)
        return reduce(losses, losses, sample_weight)

    def checked(self, y_true, y_pred):
        """Checked labels and outputs, see `check_labels` and `check_outputs`."""
        outputs = ops.convert_to_tensor(y_pred)
        check_outputs(self, outputs)
        return check_labels(self, y_true, outputs), outputs


class _Crossentropy(_SequenceLoss):
    """A loss with cross-entropies of logits computed from `(batch, time, classes)`."""

    def __init__(self, label_smoothing=0.0, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = check_number(
            "label_smoothing", label_smoothing, minimum=0, maximum=1
        )

    def crossentropy(self, labels, logits):
        """Cross-entropies of logits `(..., classes)`, of labels `(...)` or `(..., classes)`."""
        if self.label_smoothing:
            classes = logits.shape[-1]
            if len(labels.shape) < len(logits.shape):
                labels = ops.one_hot(labels, classes, dtype=logits.dtype)
            labels = (1 - self.label_smoothing) * labels + self.label_smoothing / classes
        if len(labels.shape) == len(logits.shape):
            return ops.categorical_crossentropy(labels, logits, from_logits=True)
        return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    def get_config(self):
        return super().get_config() | {"label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="keras_snn")
class TemporalMeanCrossentropy(_Crossentropy):
    """Cross-entropy of the logits' mean over time.

    Args:
        label_smoothing: Fraction of each label that is spread over all classes, 0 to 1.
        **kwargs: Those of `keras.losses.Loss` (`reduction`, `name`, `dtype`).

    Call arguments:
        y_true: Integer labels, `(batch,)`, or one-hot or soft ones, `(batch, classes)`.
        y_pred: Logits, `(batch, time, classes)`.

    Example:

    >>> logits = keras.ops.array([[[1.0, 0.0], [3.0, 0.0]]])
    >>> round(float(TemporalMeanCrossentropy()([0], logits)), 4)
    0.1269
    """

    def call(self, y_true, y_pred, mask=None):
        labels, logits = self.checked(y_true, y_pred)
        return self.crossentropy(labels, _mean(logits, mask))


@keras.saving.register_keras_serializable(package="keras_snn")
class TemporalEfficientCrossentropy(_Crossentropy):
    """TET: the mean of the steps' cross-entropies, and a penalty that pulls logits to a constant.

    `(1 - weight) mean_t CE(y, o_t) + weight mean (o - target)^2`.

    Args:
        weight: Weight of the penalty, 0 to 1.
        target: Constant that logits are pulled to, in the paper the threshold.
        label_smoothing: Fraction of each label that is spread over all classes, 0 to 1.
        **kwargs: Those of `keras.losses.Loss` (`reduction`, `name`, `dtype`).

    Call arguments:
        y_true: Integer labels, `(batch,)`, or one-hot or soft ones, `(batch, classes)`.
        y_pred: Logits, `(batch, time, classes)`.

    Source: Deng et al. (2022), TET.

    Example:

    >>> logits = keras.ops.array([[[1.0, 0.0], [3.0, 0.0]]])
    >>> round(float(TemporalEfficientCrossentropy(weight=0.0)([0], logits)), 4)
    0.1809
    """

    def __init__(
        self,
        weight=0.05,
        target=1.0,
        label_smoothing=0.0,
        name="temporal_efficient_crossentropy",
        **kwargs,
    ):
        weight = renamed_argument(self, kwargs, "lam", "weight", weight)
        super().__init__(label_smoothing, name=name, **kwargs)
        self.weight = check_number("weight", weight, minimum=0, maximum=1)
        self.target = check_number("target", target)

    def call(self, y_true, y_pred, mask=None):
        labels, logits = self.checked(y_true, y_pred)
        labels = ops.repeat(ops.expand_dims(labels, 1), ops.shape(logits)[1], axis=1)
        each = ops.expand_dims(self.crossentropy(labels, logits), -1)
        pull = ops.mean(ops.square(logits - self.target), axis=-1, keepdims=True)
        return _mean((1 - self.weight) * each + self.weight * pull, mask)[:, 0]

    def get_config(self):
        return super().get_config() | {"weight": self.weight, "target": self.target}


@keras.saving.register_keras_serializable(package="keras_snn")
class SpikeCountLoss(_SequenceLoss):
    """Squared distance of firing rates from target rates of the correct and the other classes.

    Args:
        correct_rate: Target rate of the correct class's neuron, 0 to 1.
        incorrect_rate: Target rate of the others.
        **kwargs: Those of `keras.losses.Loss` (`reduction`, `name`, `dtype`).

    Call arguments:
        y_true: Integer labels, `(batch,)`, or one-hot or soft ones, `(batch, classes)`.
        y_pred: Spikes, `(batch, time, classes)`.

    Source: snnTorch `mse_count_loss`, on rates, averaged over classes.

    Example:

    >>> spikes = keras.ops.array([[[1.0, 0.0], [1.0, 1.0]]])
    >>> float(SpikeCountLoss(correct_rate=1.0, incorrect_rate=0.0)([0], spikes))
    0.125
    """

    def __init__(self, correct_rate=0.9, incorrect_rate=0.1, name="spike_count_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.correct_rate = check_number("correct_rate", correct_rate, minimum=0, maximum=1)
        self.incorrect_rate = check_number("incorrect_rate", incorrect_rate, minimum=0, maximum=1)

    def call(self, y_true, y_pred, mask=None):
        labels, spikes = self.checked(y_true, y_pred)
        right = labels
        if len(labels.shape) == 1:
            right = ops.one_hot(labels, spikes.shape[-1], dtype=spikes.dtype)
        wanted = self.incorrect_rate + (self.correct_rate - self.incorrect_rate) * right
        return ops.mean(ops.square(_mean(spikes, mask) - wanted), axis=-1)

    def get_config(self):
        rates = {"correct_rate": self.correct_rate, "incorrect_rate": self.incorrect_rate}
        return super().get_config() | rates


@keras.saving.register_keras_serializable(package="keras_snn")
class MaxMembraneCrossentropy(_Crossentropy):
    """Cross-entropy of each output's largest membrane potential over time.

    Args:
        label_smoothing: Fraction of each label that is spread over all classes, 0 to 1.
        **kwargs: Those of `keras.losses.Loss` (`reduction`, `name`, `dtype`).

    Call arguments:
        y_true: Integer labels, `(batch,)`, or one-hot or soft ones, `(batch, classes)`.
        y_pred: Membrane potentials, `(batch, time, classes)`, such as those of `LeakyIntegrator`.

    Source: snnTorch `ce_max_membrane_loss`; Cramer et al. (2020).

    Example:

    >>> potentials = keras.ops.array([[[2.0, 0.0], [1.0, 0.0]]])
    >>> round(float(MaxMembraneCrossentropy()([0], potentials)), 4)
    0.1269
    """

    def call(self, y_true, y_pred, mask=None):
        labels, potentials = self.checked(y_true, y_pred)
        return self.crossentropy(labels, _max(potentials, mask))


@keras.saving.register_keras_serializable(package="keras_snn")
class FirstSpikeCrossentropy(_Crossentropy):
    """Cross-entropy of `-time / scale` of the first spikes: the correct output should fire first.

    Time is differentiated as in `keras_snn.layers.FirstSpikeTime`.

    Args:
        scale: Steps that change a probability by a factor of e, above 0.
        label_smoothing: Fraction of each label that is spread over all classes, 0 to 1.
        **kwargs: Those of `keras.losses.Loss` (`reduction`, `name`, `dtype`).

    Call arguments:
        y_true: Integer labels, `(batch,)`, or one-hot or soft ones, `(batch, classes)`.
        y_pred: Spikes, `(batch, time, classes)`.

    Source: our reading of time-to-first-spike losses (snnTorch `ce_temporal_loss`).

    Example:

    >>> spikes = keras.ops.array([[[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]])
    >>> round(float(FirstSpikeCrossentropy()([0], spikes)), 4)
    0.1269
    """

    def __init__(self, scale=1.0, label_smoothing=0.0, name="first_spike_crossentropy", **kwargs):
        super().__init__(label_smoothing, name=name, **kwargs)
        self.scale = check_number("scale", scale, above=0)

    def call(self, y_true, y_pred, mask=None):
        labels, spikes = self.checked(y_true, y_pred)
        if spikes.shape[1] is None:
            raise ValueError(
                f"{self.name} needs a known number of steps, got the shape {tuple(spikes.shape)}. "
                "Give it to `keras.Input`."
            )
        waiting, times = ops.ones_like(spikes[:, 0]), ops.zeros_like(spikes[:, 0])
        counts = ops.ones_like(spikes)
        counts = counts if mask is None else counts * ops.cast(mask, counts.dtype)
        for step, count in zip(ops.unstack(spikes * counts, axis=1), ops.unstack(counts, axis=1)):
            waiting = waiting * (1 - step)
            times = times + waiting * count
        return self.crossentropy(labels, -times / self.scale)

    def get_config(self):
        return super().get_config() | {"scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_snn")
class PixelCrossentropy(Configured, keras.losses.SparseCategoricalCrossentropy):
    """Mean cross-entropy of the pixels of masks, but for those with the void label.

    Args:
        void: The label of pixels that do not count.
        **kwargs: Those of `keras.losses.Loss` (`reduction`, `name`, `dtype`).

    Call arguments:
        y_true: Masks of class numbers, `(batch, height, width)`, or with a last axis of 1.
        y_pred: Logits, `(batch, height, width, classes)`.

    Raises:
        ValueError: If masks have another shape than the outputs.

    Source: Kim et al. (2022), whose code leaves out negative labels.

    Example:

    >>> logits = keras.ops.array([[[[0.0, 0.0], [0.0, 9.0]]]])
    >>> round(float(PixelCrossentropy()(keras.ops.array([[[1, 255]]]), logits)), 4)
    0.6931
    """

    without = ("from_logits", "ignore_class", "axis")

    def __init__(self, void=255, name=None, **kwargs):
        super().__init__(from_logits=True, ignore_class=void, name=name, **kwargs)

    def call(self, y_true, y_pred):
        masks, wanted = tuple(y_true.shape), tuple(y_pred.shape)[:-1]
        plain = masks[:-1] if len(masks) > len(wanted) and masks[-1] == 1 else masks
        same = all(a == b for a, b in zip(plain, wanted) if None not in (a, b))
        if len(wanted) != 3 or len(plain) != 3 or not same:
            raise ValueError(
                f"{self.name} needs outputs (batch, height, width, classes) and masks (batch, "
                f"height, width), got the shapes {tuple(y_pred.shape)} and {masks}."
            )
        return super().call(y_true, y_pred)

    def get_config(self):
        return keras.losses.Loss.get_config(self) | {"void": self.ignore_class}
