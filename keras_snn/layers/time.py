"""Time as a batch axis: stateless layers on sequences, and static inputs over time."""

import inspect

import keras
from keras import KerasTensor, ops

from keras_snn.graph import check_input, is_recomputed
from keras_snn.kernels.convolution import convolve
from keras_snn.kernels.normalization import normalize
from keras_snn.layers.convolution import PaddedConv2D
from keras_snn.regularizers import tell, tell_folded
from keras_snn.utils.arguments import Configured, check_integer, check_mask, freeze

__all__ = [
    "DirectEncoder",
    "ExpandSpikes",
    "FoldTime",
    "RepeatTime",
    "SumSteps",
    "TimeConstantDropout",
    "fold",
    "unfold",
]


def fold(x):
    """Merges batch and time: `(batch, time, ...)` to `(batch * time, ...)`, a free reshape.

    Args:
        x: A tensor of rank 2 or more.

    Returns:
        A tensor of one rank less.

    Example:

    >>> fold(keras.ops.ones((2, 3, 4))).shape == (6, 4)
    True
    """
    return reshape(x, (-1, *ops.shape(x)[2:]))


def unfold(x, like):
    """Undoes `fold`: `(batch * time, ...)` to `(batch, time, ...)`.

    Args:
        x: A tensor whose first axis is batch and time.
        like: A tensor `(batch, time, ...)` to take the two sizes from.

    Returns:
        A tensor of one rank more.

    Example:

    >>> unfold(keras.ops.ones((6, 4)), keras.ops.ones((2, 3))).shape == (2, 3, 4)
    True
    """
    batch, time = ops.shape(like)[:2]
    # One size is left to be inferred, so that a static one stays static.
    sizes = (-1, time) if isinstance(time, int) else (batch, -1)
    return reshape(x, (*sizes, *ops.shape(x)[1:]))


def reshape(x, shape):
    """`keras.ops.reshape` by the tensor's own method where it has one: a tenth of the time."""
    return x.reshape(shape) if hasattr(x, "reshape") else ops.reshape(x, shape)


def fold_mask(mask, folded):
    """The mask `(batch, time)` as `BatchNormalization` wants it: of all axes but the last."""
    mask = ops.reshape(mask, (-1, *[1] * (len(folded.shape) - 2)))
    return ops.broadcast_to(mask, ops.shape(folded)[:-1])


# Layers whose outputs `normalize` or `convolve` may give quicker than they do; no subclasses.
QUICK = (keras.layers.BatchNormalization, keras.layers.Conv2D, PaddedConv2D)


def is_plain(layer):
    """Whether a call of `layer` is its arithmetic and nothing else that anyone attached to it."""
    attached = (
        layer.activity_regularizer,
        layer.quantization_mode,
        getattr(layer, "lora_enabled", False),
        is_recomputed(layer),
        "call" in vars(layer),
        keras.distribution.distribution(),
    )
    return not any(attached) and not (keras.backend.backend() == "torch" and _has_hooks(layer))


def _has_hooks(layer):
    from torch.nn.modules import module

    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or module._global_forward_hooks
        or module._global_forward_pre_hooks
        or module._global_backward_hooks
        or module._global_backward_pre_hooks
    )


@keras.saving.register_keras_serializable(package="keras_snn")
class FoldTime(Configured, keras.layers.Wrapper):
    """Applies a stateless layer to every step at once, by folding time into the batch.

    One reshape before and one after, both free. `BatchNormalization` inside sees batch and time
    together, as the papers' networks do. `Conv2D` is a product of matrices where a CPU is quicker
    so, and on PyTorch takes its input without copies: the same but for rounding. Do not use
    `keras.layers.TimeDistributed` for this: it runs its layer once per step, and normalises each
    step by itself.

    Args:
        layer: A Keras layer on `(batch, ...)`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: `(batch, time, ...)`.
        training: Whether in training mode.
        mask: Optional `(batch, time)`, true for steps to use; it is kept for later layers, and
            `BatchNormalization` leaves masked steps out of its statistics.

    Returns:
        `(batch, time, ...)`.

    Raises:
        ValueError: If the rank is below 3, there is no step, or what is left without time is not
            what the layer takes. If the mask has another shape.

    Example:

    >>> layer = FoldTime(keras.layers.Conv2D(8, 3, padding="same"))
    >>> layer(keras.ops.ones((2, 4, 16, 16, 3))).shape == (2, 4, 16, 16, 8)
    True
    """

    def __init__(self, layer, **kwargs):
        if isinstance(layer, dict):
            layer = keras.saving.deserialize_keras_object(layer)
        super().__init__(layer, **kwargs)
        freeze(self, layer)
        self.supports_masking = True
        parameters = inspect.signature(layer.call).parameters
        self._passes = {name for name in ("training", "mask") if name in parameters}
        takes_steps = isinstance(layer, (keras.layers.BatchNormalization, keras.Model))
        if type(layer).__module__.startswith("keras.") and not takes_steps:
            self._passes.discard("mask")  # that of others has an axis of their own, or many

    def build(self, input_shape):
        check_rank(self, input_shape)
        folded = self._folded(input_shape)
        self._check_spec(KerasTensor(folded, self.compute_dtype), input_shape)
        if not self.layer.built:
            self.layer.build(folded)
            self.layer.built = True
        self.built = True

    def _check_spec(self, folded, shape):
        """Whether `folded` is what the layer inside takes; else a `ValueError` that names time."""
        try:
            check_input(self.layer, folded)
        except ValueError as error:
            raise ValueError(
                f"{self.name} takes sequences, (batch, time, ...), and gives its layer "
                f"{self.layer.name!r} ({type(self.layer).__name__}) batch and time as one axis: of "
                f"the shape {tuple(shape)} that is {tuple(folded.shape)}. {error} If the inputs "
                "have no time axis, use the layer without `FoldTime`, or `RepeatTime` before it."
            ) from error

    @staticmethod
    def _folded(shape):
        batch, time = shape[:2]
        return (None if None in (batch, time) else batch * time, *shape[2:])

    def compute_output_shape(self, input_shape):
        output = self.layer.compute_output_shape(self._folded(input_shape))
        return (*input_shape[:2], *output[1:])

    def compute_output_spec(self, inputs, training=None, mask=None):
        check_mask(self.name, mask, inputs)
        folded = KerasTensor(self._folded(inputs.shape), dtype=inputs.dtype)
        output = self.layer.compute_output_spec(folded)
        return KerasTensor((*inputs.shape[:2], *output.shape[1:]), dtype=output.dtype)

    def call(self, inputs, training=None, mask=None):
        check_rank(self, inputs.shape)
        check_mask(self.name, mask, inputs)
        x = fold(inputs)
        self._check_spec(x, inputs.shape)
        kwargs = {"training": training} if "training" in self._passes else {}
        normalizes = isinstance(self.layer, keras.layers.BatchNormalization)
        if mask is not None and "mask" in self._passes:
            kwargs["mask"] = fold_mask(mask, x) if normalizes else ops.reshape(mask, (-1,))
        outputs = None
        if type(self.layer) in QUICK and "mask" not in kwargs and is_plain(self.layer):
            outputs = normalize(self.layer, x, training) if normalizes else convolve(self.layer, x)
        if outputs is None:
            with tell_folded(self.layer, inputs, mask):
                outputs = self.layer(x, **kwargs)
        return tell(self, unfold(outputs, inputs), mask)


@keras.saving.register_keras_serializable(package="keras_snn")
class RepeatTime(Configured, keras.layers.Layer):
    """Repeats a static input at every step: direct coding, `(batch, ...)` to `(batch, time, ...)`.

    The first convolution turns the repeated pixels into currents; put the layer behind what does
    not change over time, and that is computed once.

    Args:
        timesteps: Number of steps, T.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Example:

    >>> RepeatTime(4)(keras.ops.ones((2, 8, 8, 3))).shape == (2, 4, 8, 8, 3)
    True
    """

    def __init__(self, timesteps, **kwargs):
        super().__init__(**kwargs)
        self.timesteps = check_integer("timesteps", timesteps)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.timesteps, *input_shape[1:])

    def call(self, inputs):
        shape = ops.shape(inputs)
        return ops.broadcast_to(ops.expand_dims(inputs, 1), (shape[0], self.timesteps, *shape[1:]))

    def get_config(self):
        return super().get_config() | {"timesteps": self.timesteps}


DirectEncoder = RepeatTime


@keras.saving.register_keras_serializable(package="keras_snn")
class TimeConstantDropout(Configured, keras.layers.Dropout):
    """Dropout whose mask is drawn once for a sequence and kept for all its steps.

    Args:
        rate: Share of units to drop, from 0 up to (not including) 1.
        seed: Optional seed.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: `(batch, time, ...)`.
        training: Whether to drop; nothing is dropped in inference.

    Source: Rathi et al. (2020); SpikingJelly `layer.Dropout`.

    Example:

    >>> y = TimeConstantDropout(0.5)(keras.ops.ones((2, 4, 8)), training=True)
    >>> bool(keras.ops.all(y[:, 0] == y[:, 3]))
    True
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(rate, seed=seed, **kwargs)

    def build(self, input_shape):
        check_rank(self, input_shape)
        super().build(input_shape)

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        shape = ops.shape(inputs)
        return keras.random.dropout(
            inputs, self.rate, (shape[0], 1, *shape[2:]), seed=self.seed_generator
        )

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config


def check_rank(layer, shape, minimum=3):
    """Raises a `ValueError` unless `shape` is one of sequences, with a step at least."""
    if len(shape) < minimum:
        raise ValueError(
            f"{layer.name} expects inputs of rank {minimum} or more, (batch, time, ...), got the "
            f"shape {tuple(shape)}."
        )
    check_steps(layer.name, shape)


def check_steps(owner, shape):
    """Raises a `ValueError` that names the owner if `shape`, `(batch, time, ...)`, has no step."""
    if shape[1] == 0:
        raise ValueError(
            f"{owner} needs at least one time step, (batch, time, ...), got the shape "
            f"{tuple(shape)}."
        )


class _Regrouped(Configured, keras.layers.Layer):
    """A layer between steps and groups of `steps` steps."""

    def __init__(self, steps, normalized=False, **kwargs):
        super().__init__(**kwargs)
        self.steps = check_integer("steps", steps)
        self.normalized = bool(normalized)
        self.supports_masking = True

    def get_config(self):
        return super().get_config() | {"steps": self.steps, "normalized": self.normalized}


@keras.saving.register_keras_serializable(package="keras_snn")
class ExpandSpikes(_Regrouped):
    """Integer spikes as binary ones: a step with `s` becomes `steps` steps, the first `s` with 1.

    These are the spikes of an integrate-and-fire neuron with threshold 1 and soft reset that gets
    `s` at the first of these steps. A maximum of integers is the maximum of such spikes, step by
    step.

    Args:
        steps: Steps that a step becomes, the largest integer.
        normalized: Whether the input is `s / steps`.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        x: Integer spikes, `(batch, time, ...)`.
        mask: Optional `(batch, time)`, which is repeated.

    Returns:
        Zeros and ones, `(batch, time * steps, ...)`.

    Source: Luo et al. (2024), I-LIF; SpikingJelly `SpikeCountToBinary`.

    Example:

    >>> spikes = ExpandSpikes(3)(keras.ops.array([[[2.0], [0.0]]]))
    >>> print(keras.ops.convert_to_numpy(spikes)[0, :, 0])
    [1. 1. 0. 0. 0. 0.]
    """

    def call(self, x):
        if self.normalized:
            x = ops.round(x * self.steps)
        before = ops.reshape(ops.arange(self.steps, dtype=x.dtype), (-1, *[1] * (len(x.shape) - 2)))
        spikes = ops.clip(ops.expand_dims(x, 2) - before, 0, 1)
        batch, time, *sizes = ops.shape(x)
        time = time * self.steps if isinstance(time, int) else -1
        return ops.reshape(spikes, (-1 if time != -1 else batch, time, *sizes))

    def compute_mask(self, x, mask=None):
        return None if mask is None else ops.repeat(mask, self.steps, axis=1)

    def compute_output_shape(self, shape):
        batch, time, *sizes = shape
        return (batch, None if time is None else time * self.steps, *sizes)


@keras.saving.register_keras_serializable(package="keras_snn")
class SumSteps(_Regrouped):
    """Sums of `steps` steps each, which undo `ExpandSpikes` behind a linear layer.

    Args:
        steps: Number of steps that become one.
        normalized: Whether it is their mean.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        x: `(batch, time * steps, ...)`.
        mask: Optional `(batch, time * steps)`, of which the first of each group is kept.

    Returns:
        `(batch, time, ...)`.

    Raises:
        ValueError: If the number of steps is no multiple of `steps`.

    Source: SpikingJelly `TemporalBinSum`.

    Example:

    >>> y = SumSteps(3)(keras.ops.ones((1, 6, 1)))
    >>> print(keras.ops.convert_to_numpy(y)[0, :, 0])
    [3. 3.]
    """

    def call(self, x):
        batch, time, *sizes = ops.shape(x)
        time = time // self.steps if isinstance(time, int) else -1
        groups = (-1 if time != -1 else batch, time, self.steps, *sizes)
        reduce = ops.mean if self.normalized else ops.sum
        return reduce(ops.reshape(x, groups), axis=2)

    def compute_mask(self, x, mask=None):
        return None if mask is None else mask[:, :: self.steps]

    def compute_output_shape(self, shape):
        batch, time, *sizes = shape
        if time is not None and time % self.steps:
            raise ValueError(
                f"{self.name} needs a multiple of {self.steps} steps, got the shape {tuple(shape)}."
            )
        return (batch, None if time is None else time // self.steps, *sizes)
