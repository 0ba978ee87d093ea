"""A model's graph once more, layer by layer, with a hook: the basis of profiles and recordings."""

import dataclasses
from typing import Any

import keras
from keras import ops, tree

from keras_snn import layers as snn
from keras_snn.layers.encoders import _Encoder
from keras_snn.layers.readouts import _OverTime

__all__ = ["Call", "First", "membrane_of", "walk"]


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer in the model's graph.

    Attributes:
        name: The layer's name, behind those of the models that it is nested in.
        layer: The layer; of a `FoldTime`, the one inside.
        input: Its (first) input, a symbolic tensor.
        output: Its (first) output.
        timed: Whether the output has a time axis.
        mask: The mask of the output, `(batch, time)`, or `None`.
    """

    name: str
    layer: Any
    input: Any
    output: Any
    timed: bool
    mask: Any = None


def walk(model, timesteps=None):
    """Calls every layer of a model again, on symbolic inputs of its own.

    Args:
        model: A functional or Sequential model, nested ones too.
        timesteps: Number of steps that images are repeated for; by default the model's.

    Returns:
        `(inputs, calls, outputs, static)`: symbolic inputs, a `Call` for each layer, symbolic
        outputs, and whether the inputs are images that the model repeats over time.

    Raises:
        TypeError: If the model is a subclassed one.
    """
    if not getattr(model, "inputs", None):
        raise TypeError(
            f"This needs a functional or Sequential model, got {model!r}. Wrap the layers of a "
            "subclassed model in `keras.Model(inputs, outputs)`."
        )
    static = any(
        isinstance(layer, (snn.RepeatTime, _Encoder)) and not isinstance(layer, snn.DeltaEncoder)
        for layer in model._flatten_layers()
    )
    inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in model.inputs]
    timed = {id(x): not static for x in inputs}
    calls = []

    def run(model, values, prefix):
        graph = getattr(model, "_functional", None) or model
        if not hasattr(graph, "_run_through_graph"):
            raise TypeError(
                f"The nested model {prefix}{model.name} is a subclassed one, whose layers can't "
                "be seen: make it functional."
            )
        return graph._run_through_graph(
            values, operation_fn=lambda layer: lambda *a, **k: rule(layer, prefix, a, k)
        )

    def rule(layer, prefix, args, kwargs):
        if isinstance(layer, keras.Model):
            return run(layer, tree.flatten(args), f"{prefix}{layer.name}/")
        tensors = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        if isinstance(layer, snn.RepeatTime) and timesteps is not None:
            layer = type(layer).from_config(layer.get_config() | {"timesteps": timesteps})
        outputs = layer(*args, **kwargs)
        before = any(timed.get(id(x), False) for x in tensors)
        after = _has_time_after(layer, before)
        flat = tree.flatten(outputs)
        for x in flat:
            timed[id(x)] = after
        if tensors and flat:
            inner = layer.layer if isinstance(layer, snn.FoldTime) else layer
            mask = getattr(flat[0], "_keras_mask", None)
            calls.append(Call(prefix + layer.name, inner, tensors[0], flat[0], after, mask))
        kept.extend(flat)
        return outputs

    kept = list(inputs)  # `id`s stay unique while the tensors live
    outputs = tree.flatten(run(model, inputs, ""))
    return inputs, calls, outputs, static


def _has_time_after(layer, before):
    if isinstance(layer, (snn.RepeatTime, _Encoder)):
        return True
    if isinstance(layer, (_OverTime, snn.MembraneReadout)):
        return False
    if isinstance(layer, keras.layers.RNN):
        return layer.return_sequences
    return before


class First(keras.layers.Layer):
    """The first examples of a batch: symbolic tensors of an unknown batch can't be sliced."""

    def __init__(self, examples):
        super().__init__(autocast=False)
        self.examples = examples

    def call(self, inputs):
        return inputs[: self.examples]

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((None, *inputs.shape[1:]), dtype=inputs.dtype)


class _MembraneCell(snn.NeuronCell):
    """A neuron's cell whose output is its membrane potential."""

    def __init__(self, cell, potential):
        super().__init__(dtype=cell.dtype_policy)
        self.cell, self.potential = cell, potential
        self.initial_values = cell.initial_values

    def build(self, input_shape):
        super().build(input_shape)

    def initial_states(self, x):
        return self.cell.initial_states(x)

    def step(self, x, states):
        _, states_after = self.cell.step(x, states)
        if self.potential == "charged":
            return self.cell.charge(states[0], x), states_after
        return states_after[0], states_after

    def get_config(self):
        return {}


def membrane_of(call, potential="after", first=None):
    """The membrane potential of a neuron layer over time, or `None` if it has none.

    Args:
        call: A `Call` of a neuron layer.
        potential: `"after"` each step, or `"charged"`, what the threshold is compared with.
        first: Number of examples, the first ones of the batch; all by default.

    Returns:
        A symbolic tensor `(batch, time, ...)`.
    """
    cell = getattr(call.layer, "cell", None)
    if not isinstance(cell, snn.NeuronCell):
        return None
    plain = type(cell).step is snn.SpikingCell.step
    if potential == "charged" and not plain:
        return None
    loop = snn.SpikingRNN(
        _MembraneCell(cell, potential),
        go_backwards=call.layer.go_backwards,
        dtype=call.layer.dtype_policy,
    )
    part = (lambda x: x) if first is None else First(first)
    mask = {} if call.mask is None else {"mask": part(call.mask)}
    return ops.cast(loop(part(call.input), **mask), "float32")
