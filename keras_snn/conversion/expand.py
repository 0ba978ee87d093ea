"""Networks with integer spikes as networks with binary ones, which compute the same."""

import dataclasses
from typing import Any

import keras
from keras import tree

from keras_snn import graph
from keras_snn import layers as snn

__all__ = ["expand_integer_spikes"]


def expand_integer_spikes(model):
    """A network with integer spikes (`ILIF`) as one with binary spikes, for inference.

    Each step of an `ILIF` with at most D spikes becomes D steps of zeros and ones, which weighted
    layers read; their outputs are summed over these D steps. Both networks compute the same, but
    for rounding: a bias counts once, as do normalisation and whatever else is not linear, which
    stay on the sums. Poolings and sums of spikes stay on the binary ones. Layers that stay as they
    are, neurons too, are shared with the given model.

    Args:
        model: A functional or Sequential model with `ILIF` neurons.

    Returns:
        A model with the same inputs and outputs.

    Raises:
        TypeError: If the model is a subclassed one, or if integer spikes are multiplied by a layer
            that is no plain dense layer or convolution of each step; it is named.
        ValueError: If the model has no `ILIF`.

    Source: Luo et al. (2024), I-LIF.

    Example:

    >>> model = keras.Sequential([keras.Input((1, 3)), snn.ILIF(), keras.layers.Dense(2)])
    >>> binary = expand_integer_spikes(model)
    >>> [layer.output.shape[1] for layer in binary.layers]
    [1, 1, 4, 4, 1]
    """
    expansion = _Expansion(model)
    inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in model.inputs]
    outputs = graph.run(model, [_Value(x) for x in inputs], expansion.rule)
    if not expansion.found:
        raise ValueError(f"The model {model.name!r} has no `ILIF` neurons to expand.")
    outputs = tree.map_structure(lambda value: value.collapsed(), outputs)
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name=model.name)


@dataclasses.dataclass(frozen=True)
class _Value:
    """A tensor on its way through the model.

    Attributes:
        tensor: A symbolic tensor.
        group: `None`, or of binary spikes that stand for integers the arguments of the
            `ExpandSpikes` that made them.
    """

    tensor: Any
    group: tuple | None = None

    @property
    def shape(self):
        return self.tensor.shape

    def collapsed(self):
        """The tensor with as many steps as in the given model."""
        return self.tensor if self.group is None else snn.SumSteps(*self.group)(self.tensor)


class _Expansion:
    def __init__(self, model):
        self.calls = iter(graph.trace(model).calls)
        self.copies, self.found = {}, False

    def rule(self, call):
        """What takes the place of a call."""
        values, known = call.inputs, next(self.calls)
        groups = {value.group for value in values}
        expanded = groups != {None} and bool(groups)
        if expanded and (known.products is None or known.products):
            return self.weighted(known, values)
        if expanded and len(groups) == 1 and _commutes(known):
            operation = snn.FoldTime(call.layer) if call.each_step else call.operation
            return self.apply(operation, call, lambda value: value.tensor, groups.pop())
        outputs = self.apply(call.operation, call, _Value.collapsed)
        cell = getattr(call.layer, "cell", None)
        return self.expanded(call, outputs) if isinstance(cell, snn.ILIFCell) else outputs

    def apply(self, operation, call, unwrap, group=None):
        """An operation on the tensors of its arguments."""

        def tensor(x):
            return unwrap(x) if isinstance(x, _Value) else x

        args, kwargs = tree.map_structure(tensor, (call.args, call.kwargs))
        return tree.map_structure(lambda x: _Value(x, group), operation(*args, **kwargs))

    def expanded(self, call, outputs):
        """The spikes of an `ILIF`, as binary ones."""
        layer = call.layer
        if not isinstance(outputs, _Value) or not layer.return_sequences:
            raise TypeError(
                f"The layer {call.name} returns its states or its last step only: the integer "
                "spikes of all steps are what can be expanded."
            )
        self.found, group = True, (layer.cell.max_spikes, layer.cell.normalize)
        name = f"{call.name.replace('/', '_').replace(':', '_')}_expanded"
        return _Value(snn.ExpandSpikes(*group, name=name)(outputs.tensor), group)

    def weighted(self, call, values):
        """A layer that multiplies spikes by its weights, on binary ones."""
        layer = call.layer
        if type(layer) not in PLAIN or call.time != "per step" or len(values) != 1:
            raise TypeError(
                f"The layer {call.name} ({type(layer).__name__}) multiplies integer spikes, and is "
                "no dense layer or convolution of each step, of which the binary ones can be "
                "summed."
            )
        (value,) = values
        if id(layer) not in self.copies:
            self.copies[id(layer)] = snn.FoldTime(_without_activation(layer, *value.group))
        y = snn.SumSteps(*value.group)(self.copies[id(layer)](value.tensor))
        if layer.activation is not keras.activations.linear:
            y = keras.layers.Activation(layer.activation)(y)
        return _Value(y)


# Layers whose outputs are linear but for a bias and an activation.
LINEAR = (
    "Dense EinsumDense Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose "
    "DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D"
)
PLAIN = [snn.PaddedConv2D, *(getattr(keras.layers, name) for name in LINEAR.split())]


def _without_activation(layer, steps, normalized):
    """A copy of a weighted layer, whose bias comes once in `steps` steps."""
    copy = type(layer).from_config(layer.get_config() | {"activation": None})
    copy.build(layer.get_build_config()["input_shape"])
    share = 1 if normalized else steps
    weights = [
        keras.ops.convert_to_numpy(w) / (share if w is layer.bias else 1) for w in layer.weights
    ]
    copy.set_weights(weights)
    return copy


ADDITIONS = ("Add", "SpikeConnection")


def _commutes(call):
    """Whether a layer gives of binary spikes, step by step, those of what it gives of integers."""
    name = type(call.layer).__name__
    if name in ADDITIONS:
        return getattr(call.layer, "mode", "add") == "add"
    if call.role.idle or (call.each_step and name.startswith(("MaxPooling", "GlobalMaxPooling"))):
        return True
    return call.linear and (call.each_step or call.time == "pointwise")
