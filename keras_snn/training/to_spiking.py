"""What a method of training was for: the spiking network."""

import keras

from keras_snn.training.joint import is_joint, spiking_part
from keras_snn.training.tandem import is_tandem, with_neurons

__all__ = ["to_spiking"]


def to_spiking(model):
    """The spiking network of a model that `joint_model` or `tandem` made, by itself.

    Args:
        model: That model, trained.

    Returns:
        A functional model with weights of its own. Of a joint model it is like the `snn` that
        `joint_model` was given, with plain convolutions of kernels `U diag(s) V^T`, and plain dense
        layers. Of a tandem model it has `IF` neurons whose spikes are multiplied by their
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
