"""The spiking network at the end of joint or tandem training."""

import keras

from keras_snn.training.joint import is_joint, spiking_part
from keras_snn.training.tandem import is_tandem, with_neurons

__all__ = ["to_spiking"]


def to_spiking(model: keras.Model) -> keras.Model:
    """Extracts the spiking network from a model of `joint_model` or `tandem`.

    Args:
        model: The trained model.

    Returns:
        A new functional model with its own weights. From a joint model: a network like the `snn`
        given to `joint_model`, with plain convolutions of kernels `U diag(s) V^T` and plain dense
        layers. From a tandem model: `IF` neurons, each followed by a multiplication by its
        threshold; layers that don't fire yet stay ReLUs of the mean.

    Raises:
        ValueError: If `model` is neither.

    Example:

    >>> from keras_snn.training import tandem
    >>> ann = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="relu")])
    >>> model = tandem(ann)
    >>> _ = model.layers[-2].active.assign(1.0)
    >>> [type(layer).__name__ for layer in to_spiking(model).layers][-3:]
    ['IF', 'Rescaling', 'MeanOverTime']
    """
    if isinstance(model, keras.Model):
        if is_joint(model):
            return spiking_part(model)
        if is_tandem(model):
            return with_neurons(model)
    raise ValueError(f"Expected a model of `joint_model` or `tandem`. Received: {model!r}")
