"""Firing rates, layer by layer."""

import keras
import numpy as np
from keras import ops

from keras_snn import graph
from keras_snn.analysis import probes

__all__ = ["firing_rates", "is_spiking"]


def is_spiking(layer: keras.layers.Layer) -> bool:
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
    spikes = graph.role_of(layer).spikes
    return spikes(layer) if callable(spikes) else spikes


def firing_rates(model, data, steps=None, batch_size=32) -> dict[str, float]:
    """Mean spikes per neuron and step of each spiking layer, from one pass over data.

    Only two numbers per example and layer are kept, so that memory does not grow with the maps.
    Masked steps count nowhere. The model remembers nothing of the data.

    Args:
        model: A functional or `Sequential` model, nested ones too.
        data: What `model.predict` takes: an array of inputs, a dictionary, a `tf.data.Dataset`, ...
        steps: Number of batches to use; all by default.
        batch_size: Batch size for arrays.

    Returns:
        A dictionary from layer names to rates, in the order of the model: `"block/lif"` in the
        nested model `block`, `"lif:1"` for the second call of a layer.

    Raises:
        TypeError: If the model, or one nested in it, is subclassed.
        ValueError: If it has no spiking layer, or there are no data.

    Example:

    >>> from keras_snn.layers import IF
    >>> model = keras.Sequential([keras.Input((4, 3)), IF(threshold=2.0, name="neuron")])
    >>> firing_rates(model, np.ones((2, 4, 3), "float32"))
    {'neuron': 0.5}
    """
    found = probes.traced(model)
    calls = [call for call in found.calls if call.spikes]
    if not calls:
        raise ValueError(f"The model {model.name!r} has no spiking layer.")
    tensors = []
    for call in calls:
        x, mask = probes.sequence_of(call), probes.mask_of(call)
        fired = probes.unmasked(ops.abs(ops.cast(x, "float32")) / call.unit, mask)
        means = ops.mean(fired, axis=tuple(range(2, len(x.shape))))
        tensors += [ops.sum(means, axis=1), probes.steps_of(x, mask)]
    totals = 0.0
    for arrays in probes.looked_at(model, found.inputs, tensors, data, batch_size, steps):
        totals = totals + np.array([x.astype("float64").sum() for x in arrays])
    spikes, counts = totals[::2], np.maximum(totals[1::2], 1)
    return {call.name: float(rate) for call, rate in zip(calls, spikes / counts)}
