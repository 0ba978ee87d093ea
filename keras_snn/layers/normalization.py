"""Normalisation that knows time. Inputs are `(batch, time, ...)`.

Plain batch normalisation over batch and time is `FoldTime(keras.layers.BatchNormalization())`.
The constants are those of the papers' PyTorch code: Keras's `momentum` is the share of the old
value, so that PyTorch's 0.1 is 0.9 here. The moving variance is Keras's, the biased one.
"""

import keras
from keras import ops

from keras_snn.kernels.normalization import normalize
from keras_snn.layers.time import check_rank, fold, fold_mask, unfold
from keras_snn.regularizers import tell
from keras_snn.utils.arguments import Configured, check_integer, check_mask, check_number

__all__ = [
    "BatchNormalizationThroughTime",
    "TemporalEffectiveBatchNormalization",
    "ThresholdDependentBatchNormalization",
]


@keras.saving.register_keras_serializable(package="keras_snn")
class _FoldedBatchNormalization(Configured, keras.layers.BatchNormalization):
    """Batch normalisation with one set of statistics for all examples and steps."""

    def __init__(self, axis=None, momentum=0.9, epsilon=1e-5, **kwargs):
        if axis is None:
            axis = 1 if keras.config.image_data_format() == "channels_first" else -1
        # `axis` counts in the folded input, where the channels of features are the last axis too.
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)

    def build(self, input_shape):
        check_rank(self, input_shape)
        super().build((None, *input_shape[2:]))
        axis = self.axis + 1 if self.axis > 0 else self.axis
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={axis: input_shape[axis]}
        )

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def call(self, inputs, training=None, mask=None):
        check_rank(self, inputs.shape)
        folded = fold(inputs)
        if check_mask(self.name, mask, inputs) is None:
            outputs = normalize(self, folded, training)
            if outputs is None:
                outputs = super().call(folded, training=training)
        else:
            outputs = super().call(folded, training=training, mask=fold_mask(mask, folded))
        return tell(self, unfold(self.rescale(outputs), inputs), mask)

    def rescale(self, outputs):
        """What a subclass does to the normalised, folded outputs."""
        return outputs


@keras.saving.register_keras_serializable(package="keras_snn")
class ThresholdDependentBatchNormalization(_FoldedBatchNormalization):
    """tdBN: batch normalisation over batch, time and space to a deviation of `alpha * threshold`.

    `y = gamma * alpha * threshold * (x - mean) / sqrt(variance + epsilon) + beta`, so that fresh
    layers fire at a rate that does not depend on the threshold.

    Args:
        alpha: 1 on a serial path; `1 / sqrt(n)` where `n` branches are added (`2 ** -0.5` at the
            end of a residual branch and on its projection). A number above 0.
        threshold: Threshold of the neuron that follows, above 0.
        axis: Channel axis of one step, `(batch, ...)`; by default that of the image data format.
        momentum: Share of the old moving statistics.
        epsilon: Added to the variance.
        **kwargs: Those of `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: `(batch, time, ...)`.
        training: Whether to use the statistics of this batch.
        mask: Optional `(batch, time)`, true for steps that count.

    Source: Zheng et al. (2021), STBP-tdBN, the paper's form. SpikingJelly's keeps
    `alpha * threshold` in the initial `gamma` instead: equal when fresh, other gradients.

    Example:

    >>> layer = ThresholdDependentBatchNormalization(threshold=0.5)
    >>> y = layer(keras.random.normal((64, 4, 3), mean=2.0, seed=0), training=True)
    >>> round(float(keras.ops.std(y)), 2)
    0.5
    """

    def __init__(self, alpha=1.0, threshold=1.0, axis=None, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)
        self.alpha = check_number("alpha", alpha, above=0)
        self.threshold = check_number("threshold", threshold, above=0)

    @property
    def factor(self):
        """What multiplies the normalised input, besides `gamma`."""
        return self.alpha * self.threshold

    def rescale(self, outputs):
        factor = self.factor
        if not self.center:
            return outputs * factor
        shape = [1] * len(outputs.shape)
        shape[self.axis] = -1
        beta = ops.reshape(ops.cast(self.beta, outputs.dtype), shape)
        return outputs * factor + (1 - factor) * beta

    def get_config(self):
        return super().get_config() | {"alpha": self.alpha, "threshold": self.threshold}


@keras.saving.register_keras_serializable(package="keras_snn")
class TemporalEffectiveBatchNormalization(_FoldedBatchNormalization):
    """TEBN: batch normalisation over batch and time, then a learned factor for each step.

    Args:
        timesteps: Number of steps, T.
        axis: Channel axis of one step, `(batch, ...)`; by default that of the image data format.
        momentum: Share of the old moving statistics.
        epsilon: Added to the variance.
        **kwargs: Those of `keras.layers.BatchNormalization`.

    Raises:
        ValueError: If the input has another number of steps.

    Source: Duan et al. (2022); SpikingJelly `TemporalEffectiveBatchNorm`.

    Example:

    >>> layer = TemporalEffectiveBatchNormalization(timesteps=4)
    >>> layer(keras.ops.ones((2, 4, 8))).shape == (2, 4, 8)
    True
    """

    def __init__(self, timesteps, axis=None, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)
        self.timesteps = check_integer("timesteps", timesteps)

    def build(self, input_shape):
        _check_timesteps(self, input_shape)
        super().build(input_shape)
        self.step_scale = self.add_weight(
            name="step_scale", shape=(self.timesteps,), initializer="ones", autocast=False
        )

    def call(self, inputs, training=None, mask=None):
        _check_timesteps(self, inputs.shape)
        outputs = super().call(inputs, training=training, mask=mask)
        scale = ops.cast(self.step_scale, outputs.dtype)
        outputs = outputs * ops.reshape(scale, (-1, *[1] * (len(inputs.shape) - 2)))
        return tell(self, outputs, mask)

    def get_config(self):
        return super().get_config() | {"timesteps": self.timesteps}


@keras.saving.register_keras_serializable(package="keras_snn")
class BatchNormalizationThroughTime(Configured, keras.layers.Layer):
    """BNTT: a batch normalisation of its own for each step.

    Args:
        timesteps: Number of steps, T; longer or shorter inputs are refused.
        center: Whether each step has a shift. The paper means to have none.
        epsilon: Added to the variance.
        momentum: Share of the old moving statistics.
        axis: Channel axis of one step, `(batch, ...)`; by default that of the image data format.
        gamma_initializer: Initializer of the scales.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: `(batch, time, ...)`.
        training: Whether to use the statistics of this batch.

    Raises:
        ValueError: If the input has another number of steps.

    Source: Kim and Panda (2021); S-ResNet (Vicente-Sola et al., 2022) for the constants.

    Example:

    >>> layer = BatchNormalizationThroughTime(timesteps=4)
    >>> y = layer(keras.ops.ones((2, 4, 8)))
    >>> layer.count_params()
    96
    """

    def __init__(
        self,
        timesteps,
        center=False,
        epsilon=1e-4,
        momentum=0.9,
        axis=None,
        gamma_initializer="ones",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if axis is None:
            axis = 1 if keras.config.image_data_format() == "channels_first" else -1
        self.timesteps = check_integer("timesteps", timesteps)
        self.center, self.epsilon, self.momentum, self.axis = center, epsilon, momentum, axis
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.steps = [
            keras.layers.BatchNormalization(
                axis=axis,
                center=center,
                epsilon=epsilon,
                momentum=momentum,
                gamma_initializer=self.gamma_initializer,
                trainable=self.trainable,
                dtype=self.dtype_policy,
                name=f"step_{t + 1}",
            )
            for t in range(timesteps)
        ]

    def build(self, input_shape):
        check_rank(self, input_shape)
        _check_timesteps(self, input_shape)
        for step in self.steps:
            step.build((input_shape[0], *input_shape[2:]))
        self.built = True

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def call(self, inputs, training=None):
        _check_timesteps(self, inputs.shape)
        steps = zip(self.steps, ops.unstack(inputs, self.timesteps, axis=1))
        return ops.stack([step(x, training=training) for step, x in steps], axis=1)

    def get_config(self):
        names = ("timesteps", "center", "epsilon", "momentum", "axis")
        gamma = keras.initializers.serialize(self.gamma_initializer)
        own = {name: getattr(self, name) for name in names} | {"gamma_initializer": gamma}
        return super().get_config() | own


def _check_timesteps(layer, shape):
    if len(shape) > 1 and shape[1] != layer.timesteps:
        raise ValueError(
            f"{layer.name} was made for {layer.timesteps} timesteps, got {shape[1]} "
            f"(input shape {tuple(shape)})."
        )
