"""Training a quantised network to have the spikes of the float network that it was made from."""

import keras
from keras import ops

from keras_snn import graph
from keras_snn.utils.arguments import Configured, check_number

__all__ = ["SpikeDistance", "imitate"]


@keras.saving.register_keras_serializable(package="keras_snn")
class SpikeDistance(Configured, keras.layers.Layer):
    """Adds `weight` times the share of spikes that differ to the loss.

    Args:
        weight: Factor, above 0.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        outputs: A tensor, which is returned as it is.
        spikes: A list of tensors.
        wanted: What they should be, a list of tensors of the same shapes.

    Returns:
        `outputs`.

    Example:

    >>> layer, spikes = SpikeDistance(weight=2.0), keras.ops.array([1.0, 0.0])
    >>> _ = layer(keras.ops.zeros((1,)), [spikes], [keras.ops.ones((2,))])
    >>> float(layer.losses[0])
    1.0
    """

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = check_number("weight", weight, above=0)

    def call(self, outputs, spikes, wanted):
        pairs = zip(spikes, map(ops.stop_gradient, wanted))
        self.add_loss(self.weight * sum(ops.mean(ops.square(a - b)) for a, b in pairs))
        return outputs

    def compute_output_spec(self, outputs, spikes, wanted):
        return keras.KerasTensor(outputs.shape, outputs.dtype)

    def get_config(self):
        return super().get_config() | {"weight": self.weight}


def imitate(quantized, teacher, weight=1.0):
    """A model to fit, whose loss also counts the spikes that are not those of a float network.

    It shares the weights of `quantized`, which is what is trained; the teacher is a copy, and stays
    as it is.

    Args:
        quantized: A model of `keras_snn.qat.prepare`.
        teacher: The float network that it was made from.
        weight: Factor on the share of spikes that differ, for each layer.

    Returns:
        A Keras model with the inputs and outputs of `quantized`.

    Raises:
        ValueError: If the networks have other neurons, or several outputs.

    Example:

    ```python
    model = qat.imitate(quantized, model)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3)  # `quantized` has learned
    ```
    """
    copy = keras.models.clone_model(teacher)
    copy.set_weights(teacher.get_weights())
    found, taught = graph.trace(quantized), graph.trace(copy)
    spikes, wanted = ([c.output for c in t.calls if c.spikes] for t in (found, taught))
    shapes = [[tuple(x.shape) for x in tensors] for tensors in (spikes, wanted)]
    if shapes[0] != shapes[1] or len(found.outputs) != 1:
        raise ValueError(
            "`quantized` and `teacher` must have one output and the same neurons, got "
            f"{len(found.outputs)} outputs and neurons of the shapes {shapes[0]} and {shapes[1]}."
        )
    # A model of its own within the other, for both have layers of the same names.
    probe = keras.Model(taught.inputs, wanted, name="teacher")
    probe.trainable = False
    inputs = found.inputs if len(found.inputs) > 1 else found.inputs[0]
    wanted = probe(found.inputs, training=False)
    return keras.Model(inputs, SpikeDistance(weight)(found.outputs[0], spikes, wanted))
