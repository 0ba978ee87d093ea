"""Pooling of spikes."""

import keras
from keras import ops

from keras_snn.layers.base import NeuronCell
from keras_snn.layers.rnn import Neuron
from keras_snn.utils.arguments import check_choice

__all__ = ["SpikingMaxPooling", "SpikingMaxPoolingCell"]


class SpikingMaxPoolingCell(NeuronCell):
    """Max pooling of firing rates, one step: a window fires when its largest spike count grows.

    `c <- c + x`, the output is `max c` after the step less `max c` before it. Summed over time it
    is the largest of the inputs' sums, exactly; of spikes it is spikes again. State: counts.

    Args:
        pool_size: Size of the window, an integer or one for each spatial axis.
        strides: Its stride; by default `pool_size`.
        padding: `"valid"` or `"same"`.

    Source: max pooling of rates as in Rueckauer et al. (2017); this form of it is ours.
    """

    initial_values = (0.0,)
    state_names = ("counts",)

    def __init__(self, pool_size=2, strides=None, padding="valid", **kwargs):
        super().__init__(**kwargs)
        self.pool_size = pool_size
        self.strides = pool_size if strides is None else strides
        self.padding = check_choice("padding", padding, ("valid", "same"))

    def _windows(self, rank):
        """Sizes and strides, one for each of `rank` spatial axes."""
        return [
            (value,) * rank if isinstance(value, int) else tuple(value)
            for value in (self.pool_size, self.strides)
        ]

    def step(self, x, states):
        counts = states[0] + x
        windows = self._windows(len(x.shape) - 2)
        before, after = (ops.max_pool(c, *windows, self.padding) for c in (states[0], counts))
        return after - before, [counts]

    def compute_output_shape(self, input_shape, states_shape=None):
        rank = len(input_shape) - 2
        first = keras.config.image_data_format() == "channels_first"
        spatial = input_shape[2:] if first else input_shape[1:-1]
        sizes, strides = self._windows(rank)
        if len(sizes) != rank or len(strides) != rank:
            raise ValueError(
                f"{self.name} pools {len(sizes)} axes, got steps of shape {tuple(input_shape)}."
            )
        less = [0 if self.padding == "same" else size - 1 for size in sizes]
        pooled = [
            None if n is None else -(-(n - k) // s) for n, k, s in zip(spatial, less, strides)
        ]
        batch, channels = input_shape[0], input_shape[1 if first else -1]
        output = (batch, channels, *pooled) if first else (batch, *pooled, channels)
        return output, [tuple(input_shape)]


class SpikingMaxPooling(Neuron, cell=SpikingMaxPoolingCell):
    """Max pooling of firing rates: each window has the rate of its most active neuron.

    Example:

    >>> rates = keras.ops.array([0.75, 0.5])[None, None, :, None] * keras.ops.ones((1, 8, 1, 1))
    >>> from keras_snn.layers import IF
    >>> pooled = SpikingMaxPooling(2)(IF(reset="soft")(rates))
    >>> float(keras.ops.sum(pooled))
    6.0
    """
