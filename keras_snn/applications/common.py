"""What the model families share: inputs, folded layers, heads, weights."""

import functools
import pathlib

import keras
from keras import layers

from keras_snn.layers import FoldTime, MeanOverTime, RepeatTime, get_neuron

__all__ = ["Builder", "decode_predictions", "preprocess_input"]

HE_NORMAL = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


class Builder:
    """Adds named layers to a spiking network, with the constants of the papers' PyTorch code.

    It knows whether the tensor at hand has a time axis: before the first neuron of a network on
    images it has none, and `repeat` gives it one.

    Args:
        neuron: What `keras_snn.layers.get_neuron` takes.
        timesteps: Number of steps of a network on images.
    """

    def __init__(self, neuron, timesteps):
        get_neuron(neuron)  # bad arguments fail before any work
        if isinstance(timesteps, bool) or not isinstance(timesteps, int) or timesteps < 1:
            raise ValueError(
                "Received an invalid value for argument `timesteps`, expected an integer of at "
                f"least 1, got {timesteps!r}."
            )
        self._neuron, self._timesteps = neuron, timesteps

    def apply(self, layer, x):
        """A layer on `(batch, h, w, c)`, or at every step of `(batch, time, h, w, c)`."""
        return layer(x) if len(x.shape) < 5 else FoldTime(layer, name=layer.name)(x)

    def repeat(self, x):
        """`x` at every step, if it has no time axis yet."""
        return x if len(x.shape) == 5 else RepeatTime(self._timesteps, name="repeat_time")(x)

    def neuron(self, x, name):
        """A spiking neuron layer."""
        return get_neuron(self._neuron, name)(x)

    def conv(self, x, filters, size, strides, name):
        """A convolution without bias, padded symmetrically by `size // 2`."""
        padding = "same"
        if strides > 1:  # where Keras's "same" is not symmetric
            x = self.pad(x, size // 2, name + "_pad") if size > 1 else x
            padding = "valid"
        layer = layers.Conv2D(
            filters,
            size,
            strides,
            padding,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling.from_config(
                HE_NORMAL.get_config()
            ),
            name=name,
        )
        return self.apply(layer, x)

    def pad(self, x, size, name):
        """Zeros on all four sides."""
        return self.apply(layers.ZeroPadding2D(size, name=name), x)

    def norm(self, x, name, gamma="ones", beta="zeros"):
        """Batch normalisation over batch, time and space."""
        axis = 1 if keras.config.image_data_format() == "channels_first" else -1
        layer = layers.BatchNormalization(
            axis, 0.9, 1e-5, gamma_initializer=gamma, beta_initializer=beta, name=name
        )
        return self.apply(layer, x)

    def head(self, x, include_top, pooling, classes, classifier_activation):
        """Global pooling at every step, the mean over time, the classifier."""
        if not include_top and pooling is None:
            return x
        pool = layers.GlobalMaxPooling2D if pooling == "max" and not include_top else None
        pool = pool or layers.GlobalAveragePooling2D
        x = self.apply(pool(name="max_pool" if pooling == "max" else "avg_pool"), x)
        x = MeanOverTime(name="mean_over_time")(x)
        if include_top:
            x = layers.Dense(classes, activation=classifier_activation, name="predictions")(x)
        return x


def check_arguments(weights, include_top, pooling, classes):
    """Keras's errors for bad combinations of arguments."""
    if weights is not None and not pathlib.Path(weights).is_file():
        raise ValueError(
            "The `weights` argument should be either `None` (random initialization) or the path "
            f"to the weights file to be loaded. Received: weights={weights!r}"
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            f"The `pooling` argument should be `None`, 'avg' or 'max'. Received: {pooling!r}"
        )
    if include_top and (not isinstance(classes, int) or classes < 1):
        raise ValueError(f"`classes` should be an integer of at least 1. Received: {classes!r}")


def obtain_input(input_tensor, input_shape, include_top, default_size, minimum):
    """The input tensor of a model, `(batch, h, w, c)` or `(batch, time, h, w, c)`."""
    if input_tensor is not None and not keras.backend.is_keras_tensor(input_tensor):
        input_tensor = layers.Input(tensor=input_tensor)
    shape = tuple(input_tensor.shape[1:]) if input_tensor is not None else input_shape
    first = keras.config.image_data_format() == "channels_first"
    if shape is None:
        size = default_size if include_top else None
        shape = (3, size, size) if first else (size, size, 3)
    shape = tuple(shape)
    if len(shape) not in (3, 4):
        raise ValueError(
            "`input_shape` should be a tuple of three integers (images) or four (sequences, time "
            f"first). Received: input_shape={shape}"
        )
    if input_tensor is not None and input_shape not in (None, shape):
        raise ValueError(
            f"`input_shape` {tuple(input_shape)} does not agree with the shape {shape} of "
            "`input_tensor`."
        )
    image = shape[-3:]
    height, width = image[1:] if first else image[:2]
    if any(size is not None and size < minimum for size in (height, width)):
        raise ValueError(
            f"Input size must be at least {minimum}x{minimum}. Received: input_shape={shape}"
        )
    if image[0 if first else 2] is None:
        raise ValueError(f"The number of channels must be known. Received: input_shape={shape}")
    return layers.Input(shape) if input_tensor is None else input_tensor


def finish(inputs, outputs, weights, name):
    """The model from `inputs` to `outputs`, with weights loaded if a path is given."""
    sources = keras.utils.get_source_inputs(inputs)
    model = keras.Model(sources[0] if len(sources) == 1 else sources, outputs, name=name)
    if weights is not None:
        model.load_weights(weights)
    return model


preprocess_input = functools.partial(
    keras.applications.imagenet_utils.preprocess_input, mode="torch"
)
decode_predictions = keras.applications.imagenet_utils.decode_predictions
