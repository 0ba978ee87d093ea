"""What recordings and profiles look at: symbolic tensors of a model that is called once more."""

import contextlib
import dataclasses

import keras
import numpy as np
from keras import ops, tree

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.utils.batches import batches_of

__all__ = ["First", "looked_at", "membrane_of", "sequence_of", "steps_of", "traced", "unmasked"]


def traced(model, timesteps=None, shapes=None):
    """A `graph.trace` of a model all of whose layers can be seen.

    Args:
        model: A functional or Sequential model, nested ones too.
        timesteps: Number of steps that images are repeated for; by default the model's.
        shapes: Shapes of one example of each input; by default the model's.

    Raises:
        TypeError: If the model, or one nested in it, is subclassed.
    """

    def replace(call):
        if isinstance(call.layer, keras.Model):
            raise TypeError(
                f"The nested model {call.name} is a subclassed one, whose layers can't be seen: "
                "make it functional."
            )
        return call if timesteps is None else with_timesteps(call, timesteps)

    return graph.trace(model, replace=replace, shapes=shapes)


def with_timesteps(call, timesteps):
    """The call of a layer that makes or fixes a number of steps, for another number of them."""
    layer = call.layer
    if isinstance(layer, snn.RepeatTime):
        layer = type(layer).from_config(layer.get_config() | {"timesteps": timesteps})
    elif isinstance(layer, keras.layers.RepeatVector):
        layer = keras.layers.RepeatVector(timesteps)
    else:
        return call
    return dataclasses.replace(call, layer=layer, operation=layer)


@contextlib.contextmanager
def unchanged(model):
    """Puts back what a model remembers of what it has seen: states, seeds."""
    layers = graph.flatten_layers(model)
    states = [layer.states for layer in layers if isinstance(layer, keras.layers.RNN)]
    variables = [v for v in tree.flatten(states) if v is not None]
    variables += model.non_trainable_variables
    before = [np.array(ops.convert_to_numpy(v)) for v in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before):
            variable.assign(value)


def looked_at(model, inputs, tensors, data, batch_size, steps=None):
    """Values of symbolic tensors on data, batch by batch; the model remembers nothing of it.

    Args:
        model: The model.
        inputs: Symbolic inputs of a `traced` model.
        tensors: A list of symbolic tensors.
        data: What `predict` takes, see `batches_of`.
        batch_size: Batch size for arrays; a model of a fixed batch size takes that.
        steps: Number of batches to use; all by default.

    Yields:
        A list of arrays for each batch; floats of 16 bits as float32, since sums of bfloat16 lose
        spikes and no plot takes them.

    Raises:
        ValueError: If there are no data.
    """
    probe, empty = keras.Model(inputs, tensors), True
    with unchanged(model):
        for arrays, _ in batches_of(model, data, batch_size, steps):
            found = tree.flatten(probe.predict_on_batch(arrays))
            empty = False
            arrays = [np.asarray(ops.convert_to_numpy(x)) for x in found]
            yield [x.astype("float32") if _is_half(x) else x for x in arrays]
    if empty:
        raise ValueError("There are no data.")


def _is_half(x):
    """Whether an array is of floats of 16 bits."""
    return keras.backend.standardize_dtype(x.dtype) in ("bfloat16", "float16")


class First(keras.layers.Layer):
    """The first examples of a batch: symbolic tensors of an unknown batch can't be sliced."""

    def __init__(self, examples):
        super().__init__(autocast=False)
        self.examples = examples

    def call(self, inputs):
        return inputs[: self.examples]

    def compute_output_spec(self, inputs):
        batch = inputs.shape[0] and min(inputs.shape[0], self.examples)
        return keras.KerasTensor((batch, *inputs.shape[1:]), dtype=inputs.dtype)


def mask_of(call):
    """The mask of the steps that a call reads, or `None`."""
    return call.masks[0] if call.masks and call.reads_time else None


def unmasked(x, mask, value=0):
    """`x` with `value` at masked steps."""
    if mask is None:
        return x
    mask = ops.reshape(ops.cast(mask, "bool"), (-1, *x.shape[1:2], *[1] * (len(x.shape) - 2)))
    return ops.where(mask, x, ops.full_like(x, value))


def steps_of(x, mask):
    """Number of unmasked steps of each example of a sequence, `(batch,)`."""
    if mask is not None:
        return ops.sum(ops.cast(mask, "float32"), axis=1)
    while len(x.shape) > 2:
        x = x[..., 0]
    return ops.sum(ops.ones_like(x, dtype="float32"), axis=1)


class _ObservedCell(snn.NeuronCell):
    """A neuron's cell whose output is its membrane potential.

    Of a sequence with a mask, the input is `(batch, ..., 2)`, currents and whether they count.
    """

    def __init__(self, cell, potential, masked):
        super().__init__(dtype=cell.dtype_policy)
        self.cell, self.potential, self.masked = cell, potential, masked
        self.initial_values = cell.initial_values

    def initial_states(self, x):
        return self.cell.initial_states(x[..., 0] if self.masked else x)

    def step(self, x, states):
        x, keep = (x[..., 0], x[..., 1] > 0) if self.masked else (x, None)
        _, after = self.cell.step(x, states)
        if keep is not None:
            after = [ops.where(keep, new, old) for new, old in zip(after, states)]
        if self.potential == "after":
            return after[0], after
        charged = self.cell.charge(states[0], x)
        return charged if keep is None else ops.where(keep, charged, states[0]), after

    def compute_output_shape(self, input_shape, states_shape=None):
        return self.cell.compute_output_shape(input_shape[:-1] if self.masked else input_shape)

    def get_config(self):
        return {}


def _again(call, cell, x, mask=None, first=None):
    """The loop of a recurrent call once more, with another cell, from where it starts."""
    layer = call.layer
    part = (lambda x: x) if first is None else First(first)
    states = call.argument("initial_state")
    loop = snn.SpikingRNN(
        cell, go_backwards=layer.go_backwards, stateful=layer.stateful, dtype=layer.dtype_policy
    )
    outputs = loop(
        part(x),
        mask=None if mask is None else part(mask),
        initial_state=None if states is None else [part(s) for s in tree.flatten(states)],
    )
    if layer.stateful:
        for ours, theirs in zip(tree.flatten(loop.states), tree.flatten(layer.states)):
            # By NumPy, or on JAX two variables would be one buffer.
            ours.assign(np.array(ops.convert_to_numpy(theirs))[: ours.shape[0]])
    return outputs


def membrane_of(call, potential="after", first=None):
    """The membrane potential of a neuron layer over time, or `None` if it has none.

    Args:
        call: A `graph.Call` of a neuron layer, from a trace.
        potential: `"after"` each step, or `"charged"`, what the threshold is compared with. At a
            masked step both are what the neuron keeps.
        first: Number of examples, the first ones of the batch; all by default.

    Returns:
        A symbolic tensor `(batch, time, ...)`.
    """
    cell = getattr(call.layer, "cell", None)
    if not isinstance(cell, snn.NeuronCell) or call.each_step:
        return None
    plain = type(cell).step is snn.SpikingCell.step
    if potential == "charged" and not plain:
        return None
    x, mask = ops.cast(call.input, call.layer.variable_dtype), mask_of(call)
    if mask is not None:
        keep = unmasked(ops.ones_like(x), mask)
        x = ops.stack([x, keep], axis=-1)
    loop = _again(call, _ObservedCell(cell, potential, mask is not None), x, None, first)
    return ops.cast(loop, "float32")


def sequence_of(call):
    """The outputs of a layer at all steps, `(batch, time, ...)`, those that it does not return too.

    Args:
        call: A `graph.Call` from a trace.
    """
    if call.timed or call.time != "recurrent":
        return call.output
    return _again(call, call.layer.cell, call.input, mask_of(call))
