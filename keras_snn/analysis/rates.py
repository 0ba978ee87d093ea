"""Firing rates, layer by layer."""

import keras
import numpy as np
from keras import ops

from keras_snn.layers import RecurrentCell, SpikingCell, SpikingRNN
from keras_snn.layers.parallel import PSN, SlidingPSN

__all__ = ["firing_rates", "is_spiking"]


def is_spiking(layer):
    """Whether a layer's output is spikes.

    Args:
        layer: A Keras layer.

    Returns:
        A boolean.

    Example:

    >>> from keras_snn.layers import LIF, LeakyIntegrator
    >>> is_spiking(LIF()), is_spiking(LeakyIntegrator())
    (True, False)
    """
    if not isinstance(layer, SpikingRNN):
        return isinstance(layer, (PSN, SlidingPSN))
    cell = layer.cell
    if isinstance(cell, keras.layers.StackedRNNCells):
        cell = cell.cells[-1]
    if isinstance(cell, RecurrentCell):
        cell = cell.neuron
    return isinstance(cell, SpikingCell)


def firing_rates(model, data, steps=None, batch_size=32):
    """Mean spikes per neuron and step of each spiking layer, from one pass over data.

    Only one number per example and layer is kept, so that memory does not grow with the maps.

    Args:
        model: A functional or `Sequential` model.
        data: What `model.predict` takes: an array of inputs, a `tf.data.Dataset`, ...
        steps: Number of batches to use; all by default.
        batch_size: Batch size for arrays.

    Returns:
        A dictionary from layer names to rates, in the order of the model.

    Raises:
        ValueError: If the model is not functional, or has no spiking layer.

    Example:

    >>> from keras_snn.layers import IF
    >>> model = keras.Sequential([keras.Input((4, 3)), IF(threshold=2.0, name="neuron")])
    >>> firing_rates(model, np.ones((2, 4, 3), "float32"))
    {'neuron': 0.5}
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"`firing_rates` needs a functional or Sequential model, got {model!r}. Wrap your "
            "layers in `keras.Model(inputs, outputs)`."
        )
    layers = [layer for layer in model.layers if is_spiking(layer)]
    if not layers:
        raise ValueError(f"The model {model.name!r} has no spiking layer.")
    outputs = [keras.tree.flatten(layer.output)[0] for layer in layers]
    means = [ops.mean(ops.cast(x, "float32"), tuple(range(1, len(x.shape)))) for x in outputs]
    probe = keras.Model(model.inputs, means)
    found = probe.predict(data, batch_size=batch_size, steps=steps, verbose=0)
    found = [found] if len(layers) == 1 and not isinstance(found, list) else found
    return {layer.name: float(np.mean(rate)) for layer, rate in zip(layers, found)}
