"""Activations of quantised ANNs, to train one that will be converted."""

import keras
from keras import ops

from keras_snn.layers.base import positive
from keras_snn.utils.arguments import Configured, check_integer, check_number

__all__ = ["ClipFloorShift"]


@keras.saving.register_keras_serializable(package="keras_snn")
class ClipFloorShift(Configured, keras.layers.Layer):
    """Quantised ReLU for low-latency conversion: `m clip(floor(x L / m + 1/2) / L, 0, 1)`.

    `m`, the largest output, is one weight of the layer. An IF neuron with soft reset, threshold
    `m` and first potential `m / 2` has exactly this rate after `L` steps of constant input, so that
    the converted network needs about `L` steps. The gradient passes the floor as if it were not
    there.

    Args:
        levels: Number of levels above 0, L.
        maximum: First value of `m`, above 0.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: A float tensor of any shape.

    Returns:
        A tensor like `inputs`.

    Source: Bu et al. (2022), QCFS.

    Example:

    >>> x = keras.ops.array([-1.0, 0.1, 0.4, 0.9, 3.0])
    >>> print(keras.ops.convert_to_numpy(ClipFloorShift(levels=4, maximum=1.0)(x)))
    [0.   0.   0.5  1.   1.  ]
    """

    def __init__(self, levels=8, maximum=8.0, **kwargs):
        super().__init__(**kwargs)
        self.levels = check_integer("levels", levels)
        self.maximum = check_number("maximum", maximum, above=0)
        self.supports_masking = True

    def build(self, input_shape):
        self.maximum_weight = self.add_weight(
            name="maximum",
            shape=(),
            initializer=keras.initializers.Constant(self.maximum),
            constraint=positive,
        )
        self.built = True

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def call(self, inputs):
        maximum = ops.cast(self.maximum_weight, inputs.dtype)
        share = inputs / maximum
        # Both borders pass the gradient, as in PyTorch; of a tie JAX's `clip` passes half.
        inside = ops.logical_and(share >= 0, share <= 1)
        share = ops.where(inside, share, ops.stop_gradient(ops.clip(share, 0, 1)))
        level = ops.floor(share * self.levels + 0.5) / self.levels
        return maximum * (share + ops.stop_gradient(level - share))

    def get_config(self):
        names = ("levels", "maximum")
        return super().get_config() | {name: getattr(self, name) for name in names}
