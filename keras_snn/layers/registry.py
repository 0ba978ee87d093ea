"""Neuron layers by name, class, config, object or factory, as arguments of models take them."""

import keras

from keras_snn.layers import neurons
from keras_snn.layers.rnn import Neuron

__all__ = ["get_neuron", "list_neurons"]

_ALIASES = {
    "plif": "parametriclif",
    "alif": "adaptivelif",
    "cubalif": "synapticlif",
    "mpbn": "mpbnlif",
    "raf": "resonateandfire",
}


def list_neurons():
    """The neuron layers that `get_neuron` knows by name, sorted.

    Example:

    >>> "LIF" in list_neurons()
    True
    """
    classes = [getattr(neurons, name) for name in neurons.__all__]
    return sorted(cls.__name__ for cls in classes if issubclass(cls, Neuron))


def get_neuron(identifier, name=None):
    """A new neuron layer.

    Args:
        identifier: A name (`"lif"`, `"ParametricLIF"`), a layer class, a layer (its config is
            used, not its weights), a config from `keras.saving.serialize_keras_object`, or a
            function that makes a layer.
        name: Optional name for the layer.

    Returns:
        A Keras layer.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If the identifier is none of these, or a function that makes no layer.

    Example:

    >>> get_neuron("lif", name="neuron").cell.tau
    2.0
    >>> from keras_snn.layers import LIF
    >>> get_neuron(LIF(tau=3.0)).cell.tau
    3.0
    """
    if isinstance(identifier, str):
        known = {known.lower(): known for known in list_neurons()}
        key = identifier.lower().replace("_", "")
        key = _ALIASES.get(key, key)
        if key not in known:
            raise ValueError(
                f"Unknown neuron: {identifier!r}. Allowed names: {', '.join(list_neurons())}."
            )
        identifier = getattr(neurons, known[key])
    if isinstance(identifier, type) and issubclass(identifier, keras.layers.Layer):
        return identifier(name=name)
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, keras.layers.Layer):
        config = {k: v for k, v in identifier.get_config().items() if k != "name"}
        return type(identifier).from_config(config | ({"name": name} if name else {}))
    layer = identifier() if callable(identifier) else None
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            "Received an invalid value for argument `neuron`, expected a name, a layer, a config "
            f"or a function that makes a layer, got {identifier!r}."
        )
    return get_neuron(layer, name) if name else layer
