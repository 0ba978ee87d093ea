"""The loop over time.

`SpikingRNN` runs any cell over the time axis, with the contract of `keras.layers.RNN`; `Neuron` is
a `SpikingRNN` that takes its cell's arguments, as `keras.layers.GRU` takes those of `GRUCell`.
"""

import inspect
import warnings

import keras
from keras import KerasTensor, ops, tree

from keras_snn import dynamics, kernels
from keras_snn.graph import AutocastScope, flatten_layers, producer
from keras_snn.kernels import tuning, xla
from keras_snn.layers.base import NeuronCell, SpikingCell
from keras_snn.regularizers import tell
from keras_snn.utils.arguments import (
    Configured,
    arguments,
    check_mask,
    check_peers,
    construct,
    freeze,
    refuse_activity_regularizer,
)
from keras_snn.utils.docs import argument_docs, describe, sections

__all__ = ["Neuron", "SpikingRNN", "reset_states"]


def reset_states(model):
    """Puts the states of all stateful layers of a model back, as each `reset_state()` does.

    Args:
        model: A model or layer; those within are found, in models and wrappers too.

    Example:

    >>> from keras_snn.layers import LIF
    >>> model = keras.Sequential([keras.Input((None, 3), batch_size=2), LIF(stateful=True)])
    >>> first = model(keras.ops.ones((2, 1, 3)))
    >>> reset_states(model)
    >>> float(keras.ops.sum(model.layers[0].states[0].value))
    0.0
    """
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.RNN):
            layer.reset_state()


_IMAGES = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "MaxPooling2D", "AveragePooling2D")


def _warn_of_images(name, sequences):
    """Tells who feeds maps of images, whose height would be time."""
    while produced := producer(sequences):
        layer, inputs = produced
        if type(layer).__name__ in _IMAGES:
            warnings.warn(
                f"{name} takes axis 1 of {tuple(sequences.shape)} for time, and {layer.name!r} "
                "gives (batch, height, width, channels). Repeat images with `RepeatTime`, and wrap "
                "layers on sequences of images in `FoldTime`.",
                stacklevel=2,
            )
        if not isinstance(layer, keras.layers.BatchNormalization):
            return
        sequences = inputs[0]


def _build_cell(cell, input_shape):
    """Builds a cell; of a stack every cell, which Keras does for inputs of rank 2 only."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        for part in cell.cells:
            _build_cell(part, input_shape)
            input_shape, _ = _cell_shapes(part, input_shape)
    elif not cell.built:
        cell.build(input_shape)
    cell.built = True


def _cell_shapes(cell, input_shape):
    """Shapes of the output and list of those of the states, for a step's input."""
    if isinstance(cell, NeuronCell):
        return cell.compute_output_shape(input_shape)
    if isinstance(cell, keras.layers.StackedRNNCells):
        states = []
        for part in cell.cells:
            input_shape, shapes = _cell_shapes(part, input_shape)
            states.append(shapes)
        return input_shape, states
    batch, sizes = input_shape[0], cell.state_size
    sizes = [sizes] if isinstance(sizes, int) else sizes
    states = [(batch, size) if isinstance(size, int) else (batch, *size) for size in sizes]
    return (batch, getattr(cell, "output_size", None) or sizes[0]), states


def state_names(cell):
    """Names of the states of a cell, in their order.

    Args:
        cell: A cell of this package, or one of Keras's.

    Returns:
        A list: the cell's `state_names`, `"state_2"` for a second state without a name; of a stack
        `"cell_0/membrane"` for the first of the first cell.

    Example:

    >>> from keras_snn.layers import AdaptiveLIFCell
    >>> state_names(AdaptiveLIFCell())
    ['membrane', 'adaptation']
    """
    if isinstance(cell, keras.layers.StackedRNNCells):
        parts = enumerate(cell.cells)
        return [f"cell_{i}/{name}" for i, part in parts for name in state_names(part)]
    if isinstance(cell, NeuronCell):
        count, names = len(cell.initial_values), cell.state_names
    else:
        count = 1 if isinstance(cell.state_size, int) else len(cell.state_size)
        names = ("hidden", "carry")
    return [names[i] if i < len(names) else f"state_{i + 1}" for i in range(count)]


def _zeros(cell, x):
    """Zeros like the output of a cell for a step's input."""
    shape, _ = _cell_shapes(cell, tuple(ops.shape(x)))
    return ops.zeros(shape, dtype=x.dtype)


def _draw_dropout(cell, x, states):
    """Has Keras's cells draw dropout masks for a whole call, as `keras.layers.RNN` does."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        for part, state in zip(cell.cells, states):
            _draw_dropout(part, x, state)
            x = _zeros(part, x)
    elif hasattr(cell, "get_dropout_mask"):
        cell.get_dropout_mask(ops.cast(x, cell.compute_dtype))
        cell.get_recurrent_dropout_mask(ops.cast(tree.flatten(states)[0], cell.compute_dtype))


def _compatible(shape, other):
    """Whether two shapes may be equal, `None` being unknown."""
    return len(shape) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(shape, other)
    )


@keras.saving.register_keras_serializable(package="keras_snn")
class SpikingRNN(keras.layers.RNN):
    """Runs a cell over the time axis; `keras.layers.RNN` for neurons.

    What differs from `keras.layers.RNN`: inputs and states of any rank; `return_sequences` is true
    by default; states keep the policy's variable dtype (float32 under mixed precision) while the
    output has the compute dtype; states of `stateful=True` are exact on every backend, through
    `fit`, `predict` and calls, are no weights (files do not depend on the batch size), and
    `reset_state()` restores the cell's initial state; a masked step emits no spikes.

    Args:
        cell: A cell of this package, a Keras RNN cell, or a list of cells to stack.
        return_sequences: Whether to return the output of every step or of the last one.
            True by default, unlike in Keras.
        return_state: Whether to return the states after the last step too.
        go_backwards: Whether to process the sequence from its end (and return it reversed).
        stateful: Whether the states of a batch are where the next batch starts from. Needs a
            known batch size.
        unroll: Whether to unroll the loop whatever its length. By default short loops are
            unrolled. Needs a known number of steps.
        zero_output_for_mask: Whether a masked step gives zeros; else it repeats the output before.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, `trainable`, ...).

    Call arguments:
        sequences: `(batch, time, ...)`.
        initial_state: Optional list of states, each `(batch, ...)`.
        mask: Optional `(batch, time)`, true for steps to use. A masked step leaves the states
            alone.
        training: Whether in training mode.

    Returns:
        `(batch, time, ...)`, or `(batch, ...)` if not `return_sequences` (the output of the last
        unmasked step); with `return_state` a tuple of that and the states.

    Raises:
        ValueError: If the rank is below 3, the batch size changes while stateful, or the number of
            steps is unknown where it must be known.

    Example:

    >>> from keras_snn.layers import LIFCell, SpikingRNN
    >>> layer = SpikingRNN([LIFCell(tau=2.0), LIFCell(tau=4.0)])
    >>> layer(keras.ops.ones((2, 5, 3))).shape == (2, 5, 3)
    True
    """

    # Whether neurons run by kernels, where there are some.
    use_fused = True
    # That kernel's function, once built.
    _implementation = None

    def __init__(
        self,
        cell,
        return_sequences=True,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        zero_output_for_mask=True,
        **kwargs,
    ):
        kwargs.setdefault("autocast", False)
        for part in cell if isinstance(cell, (list, tuple)) else [cell]:
            if isinstance(part, keras.layers.RNN):
                raise TypeError(
                    f"{type(self).__name__} expects a cell, one step of a neuron, such as "
                    f"`{type(part.cell).__name__}()`; got the layer {part.name!r}, which runs over "
                    "time itself."
                )
        if isinstance(cell, (list, tuple)):
            cell = keras.layers.StackedRNNCells(cell, dtype=kwargs.get("dtype"))
        if isinstance(cell, keras.layers.StackedRNNCells):
            cell.autocast = False
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            zero_output_for_mask=zero_output_for_mask,
            **kwargs,
        )
        freeze(self, self.cell)
        refuse_activity_regularizer(self.name, *flatten_layers(self.cell))

    def build(self, sequences_shape, initial_state_shape=None):
        if len(sequences_shape) < 3:
            raise ValueError(
                f"{self.name} expects inputs of rank 3 or more, (batch, time, ...), got the shape "
                f"{tuple(sequences_shape)}."
            )
        if self.stateful and None in (sequences_shape[0], *sequences_shape[2:]):
            raise ValueError(
                f"{self.name} has `stateful=True` and needs a known shape but for time, got "
                f"{tuple(sequences_shape)}. Give `batch_size` to `keras.Input`."
            )
        step_shape = (sequences_shape[0], *sequences_shape[2:])
        _build_cell(self.cell, step_shape)
        size = self.cell.state_size
        self.state_size = [size] if isinstance(size, int) else list(size)
        if self.stateful and self.states is None:
            self._create_state_variables(sequences_shape[0])
        if isinstance(self.cell, SpikingCell) and self.cell.fused_spec() and not self.go_backwards:
            self._implementation = kernels.implementation(self.cell)
        fixed = step_shape if self.stateful else [None] * len(step_shape)
        self.input_spec = keras.layers.InputSpec(shape=(fixed[0], None, *fixed[1:]))
        self.built = True

    def _create_state_variables(self, batch_size):
        initial = self.get_initial_state(batch_size)
        names = [name.replace("/", "_") for name in state_names(self.cell)]

        def add(index, value):
            return self.add_weight(
                name=names[index],
                shape=value.shape,
                dtype=self.variable_dtype,
                initializer=lambda shape, dtype: tree.flatten(self.get_initial_state(batch_size))[
                    index
                ],
                trainable=False,
                autocast=False,
            )

        variables = [add(i, value) for i, value in enumerate(tree.flatten(initial))]
        self.states = tree.pack_sequence_as(initial, variables)

    def reset_state(self):
        """Puts the states of `stateful=True` back to the cell's initial state."""
        if self.states is not None:
            states = tree.flatten(self.states)
            initial = tree.flatten(self.get_initial_state(states[0].shape[0]))
            for variable, value in zip(states, initial):
                variable.assign(value)

    @property
    def weights(self):
        states = {id(variable) for variable in tree.flatten(self.states or [])}
        return [weight for weight in super().weights if id(weight) not in states]

    # States stay out of weights files, or a file would be tied to a batch size.
    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        batch, time, *step_shape = sequences_shape
        output, states = _cell_shapes(self.cell, (batch, *step_shape))
        if self.return_sequences:
            output = (batch, time, *output[1:])
        return (output, *states) if self.return_state else output

    def compute_output_spec(self, sequences, initial_state=None, mask=None, training=False):
        self._check(sequences, initial_state, mask)
        _warn_of_images(self.name, sequences)
        shape = self.compute_output_shape(sequences.shape)
        if not self.return_state:
            return KerasTensor(shape, dtype=self.compute_dtype)
        return (KerasTensor(shape[0], dtype=self.compute_dtype), *self._specs(shape[1:]))

    def compute_mask(self, sequences, mask):
        mask = tree.flatten(mask)[0] if self.return_sequences else None
        if mask is not None and self.go_backwards:
            mask = ops.flip(mask, axis=1)
        return [mask] + [None] * len(self.state_size) if self.return_state else mask

    def _specs(self, states_shape):
        """The states, as `KerasTensor`s."""
        return tree.map_shape_structure(
            lambda shape: KerasTensor(shape, dtype=self.variable_dtype), list(states_shape)
        )

    def _check(self, sequences, initial_state, mask):
        """The initial state in the structure of the cell's, if all arguments fit."""
        batch, time, *step_shape = sequences.shape
        if time == 0 or (self.unroll and time is None):
            raise ValueError(
                f"{self.name} needs at least one time step, and a known number of them if "
                f"`unroll=True`; got `unroll={self.unroll}` and the shape {tuple(sequences.shape)}."
            )
        if mask is not None:
            check_mask(self.name, mask, sequences)
        if initial_state is None:
            return None
        specs = self._specs(_cell_shapes(self.cell, (batch, *step_shape))[1])
        wanted = [tuple(spec.shape) for spec in tree.flatten(specs)]
        given = [tuple(state.shape) for state in tree.flatten(initial_state)]
        if len(given) != len(wanted) or not all(map(_compatible, given, wanted)):
            names = ", ".join(state_names(self.cell))
            raise ValueError(
                f"{self.name} has {len(wanted)} states of shapes {wanted} ({names}), got "
                f"`initial_state` with {len(given)} of shapes {given}."
            )
        return tree.pack_sequence_as(specs, tree.flatten(initial_state))

    def call(self, sequences, initial_state=None, mask=None, training=False):
        initial_state = self._check(sequences, initial_state, mask)
        sequences = ops.cast(sequences, self.variable_dtype)
        if self.stateful and sequences.shape[0] is None:  # TensorFlow's graphs: the run must tell
            sequences = self._whole_batch(sequences)
        last_output, outputs, states = self.inner_loop(sequences, initial_state, mask, training)
        if self.stateful:
            for variable, state in zip(tree.flatten(self.states), tree.flatten(states)):
                variable.assign(ops.stop_gradient(state))
        output = ops.cast(outputs if self.return_sequences else last_output, self.compute_dtype)
        outputs = (output, *states) if self.return_state else output
        mask = tree.flatten(self.compute_mask(sequences, mask))[0]
        return tell(self, outputs, mask, timed=self.return_sequences)

    def _whole_batch(self, sequences):
        """`sequences` with the batch size that the states have."""
        import tensorflow as tf

        batch = tree.flatten(self.states)[0].shape[0]
        message = (
            f"{self.name} is stateful and was built for batches of {batch} examples: leave out a "
            "last batch with fewer."
        )
        whole = tf.debugging.assert_equal(tf.shape(sequences)[0], batch, message)
        with tf.control_dependencies([whole]):
            sequences = tf.identity(sequences)
        sequences.set_shape((batch, *sequences.shape[1:]))
        return sequences

    def _first_states(self, sequences, initial_state):
        if initial_state is not None:
            states = initial_state
        elif self.stateful:
            # Copies: assigning in place must not touch what the backward pass has saved.
            states = tree.map_structure(lambda v: ops.copy(v.value), self.states)
        elif isinstance(self.cell, NeuronCell):
            states = self.cell.initial_states(sequences[:, 0])
        else:
            states = self.get_initial_state(ops.shape(sequences)[0])
        return tree.map_structure(
            lambda s: dynamics.saturate(ops.cast(s, self.variable_dtype)), list(states)
        )

    def inner_loop(self, sequences, initial_state, mask, training=False):
        """The loop over time: `(last output, outputs or None, states)`."""
        known = sequences.shape[1] is not None
        if self._implementation is not None and self.use_fused and known:
            fresh = initial_state is None and not self.stateful
            v = self.cell.v_reset if fresh else self._first_states(sequences, initial_state)[0]
            wants_last = self.stateful or self.return_state
            outputs = self._implementation(self.cell, sequences, v, wants_last, training, mask)
            if outputs is not None:
                spikes, v = outputs
                return (*self._held(spikes, mask), [v])
        states = self._first_states(sequences, initial_state)
        if self._takes_steps(sequences):
            steps = kernels.run_steps(self.cell, sequences, states, mask, training)
            if steps is not None:
                outputs, states = steps
                return (*self._held(outputs, mask), states)
        sequences = dynamics.saturate(sequences)
        try:
            if training and not isinstance(self.cell, NeuronCell):
                _draw_dropout(self.cell, sequences[:, 0], states)
            return self._plain_loop(sequences, states, mask, training)
        finally:
            self._maybe_reset_dropout_masks(self.cell)

    def _takes_steps(self, sequences):
        """Whether the cell's step may be run by a kernel."""
        known = sequences.shape[1] is not None and not self.go_backwards and not self.unroll
        return known and self.use_fused and isinstance(self.cell, NeuronCell)

    def _held(self, outputs, mask):
        """The last output, and all, from outputs that are zero where they are masked."""
        if mask is None:
            return outputs[:, -1], outputs
        if self.return_sequences and self.zero_output_for_mask:
            return outputs[:, -1], outputs
        times = ops.arange(outputs.shape[1], dtype="int32")
        last = ops.where(ops.cast(mask, "bool"), times, -1)
        if self.return_sequences:
            last = ops.associative_scan(ops.maximum, last, axis=1)
        else:
            last = ops.max(last, axis=1, keepdims=True)
        steps = outputs.shape[1] if self.return_sequences else 1
        last = ops.reshape(last, (-1, steps, *[1] * (len(outputs.shape) - 2)))
        held = ops.take_along_axis(outputs, ops.maximum(last, 0), axis=1)
        held = ops.where(last >= 0, held, ops.zeros_like(held))
        return held[:, -1], held

    def _plain_loop(self, sequences, initial_state, mask, training):
        """The loop over time by the cell's steps, from states that are tensors."""
        if isinstance(self.cell, NeuronCell):
            step = self.cell.step
        else:
            accepts = inspect.signature(self.cell.call).parameters
            kwargs = {"training": training} if "training" in accepts else {}

            def step(x, states):
                output, new = self.cell(x, states, **kwargs)
                # A stack of one cell returns the states of that cell only.
                new = [ops.cast(state, self.variable_dtype) for state in tree.flatten(new)]
                return ops.cast(output, self.variable_dtype), tree.pack_sequence_as(states, new)

        xs, carry = sequences, ((), initial_state)
        if mask is not None:
            xs = (sequences, ops.cast(mask, "bool"))
            nothing = _zeros(self.cell, sequences[:, 0])
            step, carry = self._masked(step), (nothing, initial_state)

        def body(carry, x):
            held, states = carry
            if mask is None:
                output, states = step(x, states)
                return ((), states), output
            output, held, states = step(x, held, states)
            return (held, states), output

        return self._run(body, carry, xs, mask is not None)

    def _masked(self, step):
        """A step that does nothing where its mask is false, and holds the last output."""

        def masked_step(inputs, held, states):
            x, keep = inputs

            def choose(new, old):
                rank = len(new.shape)
                return ops.where(ops.reshape(keep, (-1, *[1] * (rank - 1))), new, old)

            output, new_states = step(x, states)
            held = choose(output, held)
            output = choose(output, ops.zeros_like(output)) if self.zero_output_for_mask else held
            return output, held, tree.map_structure(choose, new_states, states)

        return masked_step

    def _run(self, body, carry, xs, masked):
        timesteps = tree.flatten(xs)[0].shape[1]
        limit = tuning.UNROLL_LIMIT.get(keras.backend.backend(), float("inf"))
        if timesteps is not None and (self.unroll or timesteps <= limit):
            steps = list(zip(*[ops.unstack(x, axis=1) for x in tree.flatten(xs)]))
            outputs = []
            for step in reversed(steps) if self.go_backwards else steps:
                carry, output = body(carry, tree.pack_sequence_as(xs, list(step)))
                outputs.append(output)
            last_output = carry[0] if masked else outputs[-1]
            outputs = ops.stack(outputs, axis=1) if self.return_sequences else None
            return last_output, outputs, carry[1]
        xs = tree.map_structure(lambda x: ops.swapaxes(x, 0, 1), xs)
        if self.go_backwards:
            xs = tree.map_structure(lambda x: ops.flip(x, axis=0), xs)
        if keras.backend.backend() == "tensorflow":
            carry, outputs = xla.scan(body, carry, xs)
        else:
            carry, outputs = _scan(body, carry, xs, self.cell.variables)
        last_output = carry[0] if masked else outputs[-1]
        return last_output, ops.swapaxes(outputs, 0, 1), carry[1]


def _scan(body, carry, xs, variables):
    """`keras.ops.scan` for a body that may assign `variables`: moving statistics, seeds."""
    assigned = [variable for variable in variables if not variable.trainable]
    if not assigned:
        return ops.scan(body, carry, xs)

    def scanned(carry, x):
        carry, values = carry
        with keras.StatelessScope([*read, *zip(assigned, values)]) as scope:
            carry, output = body(carry, x)
        return (carry, [scope.get_current_value(variable) for variable in assigned]), output

    with AutocastScope(None):  # values in their own dtype, whatever layer is around
        read = [(variable, variable.value) for variable in variables if variable.trainable]
        start = (carry, [variable.value for variable in assigned])
        (carry, values), outputs = ops.scan(scanned, start, xs)
    for variable, value in zip(assigned, values):
        variable.assign(ops.stop_gradient(value))
    return carry, outputs


class Neuron(Configured, SpikingRNN):
    """A `SpikingRNN` that takes the arguments of the cell that its class names.

    `class LIF(Neuron, cell=LIFCell)` has the signature, config and documentation of both. Keras
    knows it in files once it is registered by `keras.saving.register_keras_serializable` or given
    as one of the `custom_objects`.

    Args:
        *args: Arguments of the cell, by position.
        **kwargs: Arguments of the cell and of `SpikingRNN`, by name.
    """

    cell_class = None

    def __init_subclass__(cls, cell=None, **kwargs):
        super().__init_subclass__(**kwargs)
        if cell is not None:
            cls.cell_class = cell
            loop = arguments(SpikingRNN, SpikingRNN)
            loop.pop("cell")
            loop.update({k: loop[k].replace(default=v) for k, v in cls.defaults.items()})
            own = arguments(cell, NeuronCell)
            docs = sections(SpikingRNN.__doc__)[1].split("\n", 1)[1]
            docs = argument_docs(cell, NeuronCell) + "\n" + docs
            describe(cls, own | loop, docs, sections(SpikingRNN.__doc__)[2].split("Example:")[0])

    # Defaults that differ from those of `SpikingRNN`.
    defaults = {}

    def __init__(self, *args, **kwargs):
        own = list(arguments(self.cell_class, NeuronCell))
        if len(args) > len(own):
            raise TypeError(
                f"{type(self).__name__} takes at most {len(own)} positional arguments, "
                f"got {len(args)}."
            )
        given = dict(zip(own, args))
        twice = sorted(set(given) & set(kwargs))
        if twice:
            raise TypeError(f"{type(self).__name__} got two values for {twice}.")
        given |= {name: kwargs.pop(name) for name in own if name in kwargs}
        check_peers(type(self).__name__, kwargs)
        cell = construct(self.cell_class, given | {"dtype": kwargs.get("dtype")})
        super().__init__(cell, **(self.defaults | kwargs))

    def get_config(self):
        config = super().get_config()
        del config["cell"]
        config["trainable"] = self.trainable and self.cell.trainable
        own = self.cell.get_config()
        names = (name for name in arguments(self.cell_class, NeuronCell) if name in own)
        return self.accepted(config | {name: own[name] for name in names})

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return construct(cls, config)
