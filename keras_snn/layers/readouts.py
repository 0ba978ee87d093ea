"""(Placeholder by the lead until the helper's file is there; overwrite it.)"""

import keras
from keras import ops

__all__ = ["MeanOverTime"]


@keras.saving.register_keras_serializable(package="keras_snn")
class MeanOverTime(keras.layers.Layer):
    """Mean over time."""

    def call(self, inputs):
        return ops.mean(inputs, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *input_shape[2:])
