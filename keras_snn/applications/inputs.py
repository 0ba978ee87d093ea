"""Inputs of the models: their shapes, and ImageNet's pixels and class names."""

import functools

import keras
from keras import layers

from keras_snn.applications.builder import Value, is_channels_first

__all__ = ["decode_predictions", "obtain_input", "preprocess_input"]

preprocess_input = functools.partial(
    keras.applications.imagenet_utils.preprocess_input, mode="torch"
)
decode_predictions = keras.applications.imagenet_utils.decode_predictions


# What one step of an input may be: its axes with time, and what `input_shape` should be.
STEPS = {
    "image": ((3, 4), "three integers (images) or four (sequences, time first)"),
    "tokens": ((2, 3), "two integers (tokens, channels) or three (sequences, time first)"),
    "features": ((2,), "two integers, time and features"),
}


def obtain_input(input_tensor, input_shape, time, size, channels, minimum, step="image"):
    """The input of a model.

    Args:
        input_tensor: A Keras tensor to build on, or `None`.
        input_shape: Shape of an example, or `None`.
        time: Axis of time of the default shape: `()`, or `(timesteps,)` for sequences.
        size: Default height and width, or number of tokens.
        channels: Default number of channels.
        minimum: Smallest height and width.
        step: What a step is: one of `STEPS`.

    Returns:
        A `Value`.

    Raises:
        ValueError: If the shape is none of such an input, or an image is too small.
    """
    if input_tensor is not None and not keras.backend.is_keras_tensor(input_tensor):
        input_tensor = layers.Input(tensor=input_tensor)
    shape = tuple(input_tensor.shape[1:]) if input_tensor is not None else input_shape
    first = step == "image" and is_channels_first()
    if shape is None:
        default = {
            "image": (channels, size, size) if first else (size, size, channels),
            "tokens": (size, channels),
            "features": (channels,),
        }
        shape = (*time, *default[step])
    shape = tuple(shape)
    ranks, wanted = STEPS[step]
    if len(shape) not in ranks:
        raise ValueError(
            f"`input_shape` should be a tuple of {wanted}. Received: input_shape={shape}"
        )
    if input_tensor is not None and input_shape is not None and tuple(input_shape) != shape:
        raise ValueError(
            f"`input_shape` {tuple(input_shape)} does not agree with the shape {shape} of "
            "`input_tensor`."
        )
    sizes = () if step != "image" else shape[-2:] if first else shape[-3:-1]
    if any(size is not None and size < minimum for size in sizes):
        raise ValueError(
            f"Input size must be at least {minimum}x{minimum}. Received: input_shape={shape}"
        )
    if shape[-3 if first else -1] is None:
        raise ValueError(f"The number of channels must be known. Received: input_shape={shape}")
    tensor = layers.Input(shape) if input_tensor is None else input_tensor
    return Value(tensor, has_time=len(shape) == ranks[-1])
