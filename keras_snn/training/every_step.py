"""Training on the outputs of every step, not on their mean."""

import keras

from keras_snn import layers as snn

__all__ = ["every_step"]

READOUTS = (snn.MeanOverTime, snn.SumOverTime, snn.LastOverTime, snn.MaxOverTime)


def every_step(model: keras.Model) -> keras.Model:
    """The network without its readout over time; later layers are applied to every step.

    Train it with the losses of `keras_snn.losses`. It shares its layers with the given model, which
    is trained too.

    Args:
        model: A functional model with one readout over time: `MeanOverTime`, `SumOverTime`,
            `LastOverTime`, `MaxOverTime`.

    Returns:
        A functional model whose outputs are `(batch, time, ...)`.

    Raises:
        ValueError: If the model has no such readout, or several.

    Example:

    >>> from keras import layers
    >>> from keras_snn import layers as snn
    >>> inputs = keras.Input((8, 3))
    >>> outputs = layers.Dense(2)(snn.MeanOverTime()(snn.LIF()(inputs)))
    >>> every_step(keras.Model(inputs, outputs)).output_shape
    (None, 8, 2)
    """
    readouts = [layer for layer in getattr(model, "layers", []) if isinstance(layer, READOUTS)]
    if len(readouts) != 1:
        raise ValueError(
            f"Expected a model with one readout over time, of {[r.__name__ for r in READOUTS]}; "
            f"{model!r} has {len(readouts)}."
        )

    def call(layer, *args, **kwargs):
        return args[0] if layer is readouts[0] else layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
