"""Networks that take a sequence as it comes, some steps at a time: for `stream.py` and `listen.py`.

`load(path, steps, kind, axes)` gives a function from steps, `(steps, ...)`, to the output after
them, `(1, classes)`. It has `reset`, and the `shape` of what it takes at a step.
"""

import pathlib

import common
import keras
import numpy as np

from keras_snn import analysis, export


def load(path, steps, kind, axes):
    """The network in a file.

    Args:
        path: A .tflite file of one step, or a .keras file.
        steps: Steps of each call.
        kind: What a step takes, in a word.
        axes: Its axes: the size of each, or a name where any will do.

    Raises:
        ValueError: If the network takes something else.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix == ".tflite":
        return FileNetwork(path, kind, axes)
    return KerasNetwork(common.load_keras(path), steps, axes)


def fits(shape, axes):
    """Whether a shape has these axes."""
    return len(shape) == len(axes) and all(
        isinstance(axis, str) or size == axis for size, axis in zip(shape, axes)
    )


class FileNetwork:
    """A file of one step, by `keras_snn.export.StreamingInterpreter`."""

    def __init__(self, path, kind, axes):
        self.stream = export.StreamingInterpreter(path)
        self.shape = next(iter(self.stream.inputs.values()))[1:]
        if len(self.stream.inputs) != 1 or not fits(self.shape, axes):
            raise ValueError(
                f"{path} should read one {kind} ({', '.join(map(str, axes))}) a step, got the "
                f"inputs {self.stream.inputs}: export it with --mode=step."
            )
        self.reset = self.stream.reset

    def __call__(self, values):
        """The output after a few steps."""
        for value in values:
            outputs = self.stream.step(value[None])
        return next(iter(outputs.values()))


class KerasNetwork:
    """A model on sequences, whose states and readout go on from step to step.

    `keras_snn.analysis.Rollout` has to take it; its layers may be stateful.
    """

    def __init__(self, model, steps, axes):
        if len(model.inputs) != 1 or not fits(model.input_shape[2:], axes):
            raise ValueError(
                f"{model.name} should read sequences (time, {', '.join(map(str, axes))}), got the "
                f"input {model.input_shape}."
            )
        self.shape, self.steps = model.input_shape[2:], steps
        try:
            self.rollout = analysis.Rollout(without_states(model), steps)
        except TypeError as error:
            raise ValueError(str(error)) from error
        self.reset()

    def reset(self):
        """The states are those before the first step."""
        self._outputs = self.rollout.feed(self._pieces())

    def _pieces(self):
        while True:
            yield self.steps, [self._values]

    def __call__(self, values):
        """The output after a few steps."""
        self._values = values[None]
        outputs, _ = next(self._outputs)
        return np.asarray(outputs[0])[:, -1]


def without_states(model):
    """A model whose layers start anew at each call, with the same weights."""
    if not any(getattr(layer, "stateful", False) for layer in model.layers):
        return model

    def copy(layer):
        config = layer.get_config()
        if config.get("stateful"):
            config["stateful"] = False
        return type(layer).from_config(config)

    fresh = keras.models.clone_model(model, clone_function=copy)
    fresh.set_weights(model.get_weights())
    return fresh
