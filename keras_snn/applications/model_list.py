"""The list of models and their sizes.

To build every model takes a minute, so the figures are kept in `model_list.json`.
`python -m keras_snn.applications.model_list` writes it again; tests compare it with built models.
"""

import dataclasses
import fnmatch
import json
import pathlib

import keras
import numpy as np

from keras_snn import graph
from keras_snn.analysis import is_spiking
from keras_snn.applications.families import FAMILIES
from keras_snn.utils.tables import table_lines

__all__ = ["ModelList", "ModelSummary", "list_models"]

PATH = pathlib.Path(__file__).with_name("model_list.json")


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """Size of a model.

    Attributes:
        name: Name of the function in `keras_snn.applications`.
        input_shape: Shape of an example.
        classes: Number of classes.
        parameters: Number of trainable parameters.
        macs: Multiply-accumulate operations of one step, as if every input were dense.
        neuron_layers: Number of layers of spiking neurons.
    """

    name: str
    input_shape: tuple[int | None, ...]
    classes: int
    parameters: int
    macs: int
    neuron_layers: int


class ModelList(list):
    """Summaries of models; prints as a table."""

    def __str__(self):
        rows = [("model", "input", "classes", "parameters", "MACs per step", "neuron layers")]
        for model in self:
            shape = "x".join(map(str, model.input_shape))
            numbers = (model.classes, model.parameters, model.macs, model.neuron_layers)
            rows.append((model.name, shape, *(f"{number:,}" for number in numbers)))
        return "\n".join(table_lines(rows, left=2))


def list_models(pattern: str = "*") -> ModelList:
    """The models of `keras_snn.applications`, each with its default arguments.

    Args:
        pattern: Which names, as in a shell: `"SEW*"`, `"*50"`.

    Returns:
        A list of `ModelSummary`, sorted by family and size; `print` shows a table.

    Raises:
        ValueError: If no name fits.

    Example:

    >>> [model.name for model in list_models("MS*")]
    ['MSResNet18', 'MSResNet34', 'MSResNet104']
    >>> list_models("SEWResNet50")[0].parameters
    25557032
    """
    models = [ModelSummary(**entry) for entry in json.loads(PATH.read_text())]
    models = [model for model in models if fnmatch.fnmatchcase(model.name, pattern)]
    if not models:
        raise ValueError(f"No model's name fits the pattern {pattern!r}.")
    return ModelList(
        dataclasses.replace(model, input_shape=tuple(model.input_shape)) for model in models
    )


def _summarize(model, name=None):
    """The size of any functional model with one output.

    Args:
        model: A Keras model.
        name: Its name in the summary; by default the model's.

    Returns:
        A `ModelSummary`.

    Example:

    >>> from keras import layers
    >>> from keras_snn import layers as snn
    >>> inputs = keras.Input((5, 8))
    >>> model = keras.Model(inputs, snn.LIF()(layers.Dense(4)(inputs)), name="small")
    >>> summary = _summarize(model)
    >>> summary.parameters, summary.macs, summary.neuron_layers
    (36, 32, 1)
    """
    return ModelSummary(
        name or model.name,
        tuple(model.input_shape[1:]),
        model.output_shape[-1],
        sum(int(np.prod(weight.shape)) for weight in model.trainable_weights),
        _macs(model),
        sum(map(is_spiking, graph.flatten_layers(model))),
    )


def _macs(model):
    """Multiply-accumulates of one step of a model."""
    total = 0
    for call in graph.trace(model).calls:
        for product in call.products or ():
            steps = call.input.shape[1] if call.reads_time and not product.each_step else 1
            total += product.macs // steps
    return total


def _write():
    entries = []
    for family in FAMILIES:
        for name in family.__all__:
            entries.append(
                json.dumps(dataclasses.asdict(_summarize(getattr(family, name)(), name)))
            )
            keras.backend.clear_session()
    PATH.write_text("[\n" + ",\n".join(entries) + "\n]\n")


if __name__ == "__main__":
    _write()
