"""A Keras model as a graph of calls: the one place that knows how Keras keeps it.

* `run` replays a model on values of any kind: symbolic tensors, shapes, nodes of another format.
* `trace` lists the calls, with symbolic tensors, and tells which tensors have a time axis.
* `role_of` says what a layer is: what it does to time, how much of the past it looks at, and what
  it multiplies. `keras_snn.roles` says it of Keras's layers, `keras_snn.layers.roles` of ours;
  layers of one's own are made known with `register`.

Private names of Keras stand in this file alone. It was tried with Keras 3.15.1; the tests of this
module fail with a sentence where another version keeps its graph otherwise.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from keras.src import backend as backend
from keras.src.backend import AutocastScope as AutocastScope
from keras.src.backend import get_keras_mask as get_mask
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell as ConvLSTMCell
from keras.src.models import Functional
from keras.src.random.seed_generator import draw_seed as draw_seed
from keras.src.utils.rng_utils import get_random_seed as get_random_seed

__all__ = [
    "Call",
    "Geometry",
    "Product",
    "Role",
    "Trace",
    "check_functional",
    "count_spikes",
    "flatten_layers",
    "functional",
    "get_mask",
    "in_order",
    "normalization",
    "producer",
    "register",
    "role_of",
    "run",
    "spike_units",
    "stateful_layers",
    "trace",
    "track_loss",
]

# Modules that trace a model for a file; only PyTorch says itself that it does so.
EXPORTERS = (
    "keras.src.export",
    "keras.src.backend.tensorflow.export",
    "keras.src.backend.jax.export",
    "tensorflow.lite.python",
    "tf2onnx",
    "jax2onnx",
)


def flatten_layers(layer, include_self=True):
    """A layer (or model) and all layers within it, as a list, each once."""
    return list(layer._flatten_layers(include_self=include_self))


def stateful_layers(model):
    """The layers of a model that keep states from call to call, those within layers too."""
    return [layer for layer in flatten_layers(model) if getattr(layer, "stateful", False)]


def in_layer_call():
    """Whether a layer is being called, so that Keras will take what it gives to `add_loss`."""
    return get_global_attribute("current_call_ctx") is not None


def stateless_values():
    """Values of variables in the scope of a stateless call, by their identity; else empty."""
    scope = get_stateless_scope()
    return {} if scope is None else dict(scope.state_mapping)


def check_input(layer, x):
    """Raises a `ValueError` unless the shape of `x` is what a layer takes."""
    layer._assert_input_compatibility(x)


def is_recomputed(layer):
    """Whether a layer's outputs are computed again in the backward pass (`RematScope`)."""
    return layer._remat_mode is not None


def is_seeded(seed):
    """Whether a seed, or the generator of seeds, was given by a user."""
    return getattr(seed, "_initial_seed", seed) is not None


def attention(layer):
    """How Keras's `MultiHeadAttention` or `GroupQueryAttention` computes.

    Args:
        layer: The built layer.

    Returns:
        `(projections, score, weigh)`: its dense layers by `"query"`, `"key"`, `"value"` and
        `"output"`, and the equations of the two products in between.
    """
    names = ("query", "key", "value", "output")
    projections = {name: getattr(layer, f"_{name}_dense") for name in names}
    return projections, layer._dot_product_equation, layer._combine_equation


def attention_axes(layer):
    """The axes that attention is along, `None` for all between batch and features."""
    return getattr(layer, "_attention_axes", None)


def producer(tensor):
    """What computed a symbolic tensor.

    Args:
        tensor: Any tensor.

    Returns:
        `(operation, inputs)`: the layer or operation, and the symbolic tensors that it read;
        `None` if the tensor is no symbolic one.
    """
    history = getattr(tensor, "_keras_history", None)
    if not history:
        return None
    node = history.operation._inbound_nodes[history.node_index]
    return history.operation, list(node.input_tensors)


# Subclasses of models whose own `call` gives what their layers give.
SEEN_THROUGH = []


def functional(model):
    """The graph of a functional or Sequential model, or `None` if it has none.

    A subclass with a `call` of its own has none, unless it is in `SEEN_THROUGH`: nobody can see
    what it does.
    """
    kinds = (keras.Sequential, Functional)
    if not isinstance(model, kinds):
        return None
    known = [kind.call for kind in (*kinds, *SEEN_THROUGH)]
    if type(model).call not in known or "call" in vars(model):
        return None
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return graph if getattr(graph, "inputs", None) else None


def check_functional(model, purpose):
    """The graph of a model.

    Args:
        model: A model.
        purpose: What needs the graph, to begin the error with.

    Raises:
        TypeError: If the model is no functional or Sequential one, or not built.
    """
    graph = functional(model)
    if graph is None:
        raise TypeError(
            f"{purpose} needs a built functional or Sequential model, got {model!r}. Wrap the "
            "layers of a subclassed model in `keras.Model(inputs, outputs)`."
        )
    return graph


def input_names(model):
    """Names of the inputs of a model, in their order: the keys where they are a dictionary."""
    return _names(functional(model)._inputs_struct, [x.name for x in model.inputs])


def output_names(model):
    """Names of the outputs, in their order: the keys of a dictionary, or those of the layers.

    Those of the layers need not differ.

    Example:

    >>> inputs = keras.Input((3,))
    >>> dense = keras.layers.Dense(3, name="dense")
    >>> output_names(keras.Model(inputs, {"b": dense(inputs), "a": dense(inputs)}))
    ['a', 'b']
    """
    names = [producer(x)[0].name for x in model.outputs]
    return _names(functional(model)._outputs_struct, names)


def _names(structure, names):
    """Keys of dictionaries within a structure, and where there are none, the names given."""
    paths = [path for path, _ in tree.flatten_with_path(structure)]
    return [
        "/".join(map(str, path)) if any(isinstance(key, str) for key in path) else name
        for path, name in zip(paths, names)
    ]


def in_order(model, values):
    """Values for the inputs of a model, in the order of `model.inputs`.

    Args:
        model: A functional or Sequential model.
        values: One value for each input, as `predict` takes them: one, a list, a tuple, or a
            dictionary by the keys of the model's inputs, or by their names.

    Returns:
        A list.

    Raises:
        ValueError: If inputs are missing, or there are too many.

    Example:

    >>> a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    >>> model = keras.Model([b, a], keras.layers.Concatenate()([a, b]))
    >>> in_order(model, {"a": 1, "b": 2})
    [2, 1]
    """
    graph = check_functional(model, "This")
    structure, names = graph._inputs_struct, [x.name for x in graph.inputs]
    if isinstance(values, dict):
        keyed = isinstance(structure, dict)
        keys = list(structure) if keyed else names
        missing = [key for key in keys if key not in values]
        if missing:
            raise ValueError(f"The model {model.name!r} has the inputs {keys}, got {list(values)}.")
        values = {key: values[key] for key in keys} if keyed else [values[key] for key in keys]
    values = tree.flatten(values)
    if len(values) != len(names):
        raise ValueError(
            f"The model {model.name!r} has {len(names)} inputs, {names}, got {len(values)}."
        )
    return values


@dataclasses.dataclass(frozen=True)
class Product:
    """A multiplication by weights, or of two tensors.

    Attributes:
        macs: Multiply-accumulates of one example, dense: those with zeros of a padding count.
        reads: What is multiplied: the index of one of the layer's input tensors, or a pair of
            them; `"output"`: the layer's own output of the step before; `"values"`: what no spikes
            can be.
        each_step: Whether `macs` is that of one step, else of the whole sequence.
        reach: How many outputs each entry of what it reads takes part in, an array that broadcasts
            to one example's input (of one step, if `each_step`); `None` where all do alike.
        multiply: Of a pair: the function that multiplies the two tensors.
    """

    macs: int
    reads: int | tuple | str = 0
    each_step: bool = True
    reach: Any = None
    multiply: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Role:
    """What a layer is, to whoever reads a graph.

    Attributes:
        time: What it does to axis 1 of `(batch, time, ...)`, or a function from a `Call` to it:
            `"pointwise"`: each value by itself; `"per step"`: each step by itself; `"across"`: it
            mixes steps; `"recurrent"`: a loop with states, as `keras.layers.RNN` has them;
            `"adds"`: it turns an input without time to a sequence; `"removes"`: it turns a
            sequence to one answer; `"unknown"`.
        memory: Of a layer that is across time: how many steps before the present one it looks at,
            zeros in front of the first, or a function from a `Call` to that. `None`: all of them,
            or later ones too, so that it can't be run piece by piece. Of a layer that adds time: 0
            if it gives the same, or draws anew, at each step; `None` if it knows their number.
        products: A function from a `Call` to its `Product`s; `None` if nobody knows them. The
            default is none.
        spikes: Whether its outputs are spikes, or a function from the layer to that.
        unit: What a spike is in its outputs, or a function from the layer to that. Integer spikes
            count as often as they say, those of either sign alike.
        most: How often a neuron fires in a step at most, or a function from the layer to that.
        linear: Whether the output of each example is a linear function of its input, so that it may
            stay in conversion, or a function from a `Call` to that.
        idle: Whether it does nothing in inference.
        updates: A function from a `Call` to `(states, macs, acs)`: what each entry of its input
            costs in each step besides its products: states that are read and written,
            multiply-accumulates and accumulates. The default is none.
        folds: Whether it is a scale and a shift, which fold into the weights of a layer before it.
        sequences: Whether axis 1 of what it takes and gives is time for certain, though it neither
            adds nor removes it.
    """

    time: str | Callable = "unknown"
    memory: int | Callable | None = None
    products: Callable | None = lambda call: ()
    spikes: bool | Callable = False
    unit: float | Callable = 1.0
    most: int | Callable = 1
    linear: bool | Callable = False
    idle: bool = False
    updates: Callable = lambda call: (0, 0, 0)
    folds: bool = False
    sequences: bool = False


UNKNOWN = Role(products=None)
# What layers are by class, and operations of `keras.ops` by the name of theirs.
ROLES, OPERATIONS = {}, {}


def register(layer, time, **fields):
    """Says what a layer is, for analysis, conversion and export.

    Args:
        layer: A class of layers. It stands for subclasses too, unless they have a `call` of their
            own.
        time: What it does to time, see `Role`.
        **fields: The other attributes of `Role`.

    Returns:
        The class.

    Raises:
        ValueError: If `time` is none of the words.

    Example:

    >>> class Square(keras.layers.Layer):
    ...     def call(self, x):
    ...         return x * x
    >>> role_of(Square()).time
    'unknown'
    >>> _ = register(Square, "pointwise")
    >>> role_of(Square()).time
    'pointwise'
    """
    if not callable(time) and time not in TIMES:
        raise ValueError(
            f"Received an invalid value for argument `time`, expected one of {TIMES}, got {time!r}."
        )
    ROLES[layer] = Role(time, **fields)
    return layer


TIMES = ("pointwise", "per step", "across", "recurrent", "adds", "removes", "unknown")


def role_of(layer):
    """The `Role` of a layer or operation; that of nothing known if it, or its `call`, is not."""
    if not isinstance(layer, keras.layers.Layer):
        return OPERATIONS.get(type(layer).__name__, UNKNOWN)
    known = next((cls for cls in type(layer).__mro__ if cls in ROLES), None)
    if known is None or type(layer).call is not known.call or "call" in vars(layer):
        return UNKNOWN
    return ROLES[known]


# Wrappers that apply their layer to each step.
EACH_STEP = [keras.layers.TimeDistributed]

# Layers that are made of others: `compose(apply, *inputs)` calls `apply(layer, *inputs)` for each.
COMPOSED = []


def is_composed(layer):
    """Whether a layer is made of others, which readers of a graph see in its place."""
    known = next((cls for cls in type(layer).__mro__ if cls in COMPOSED), None)
    return known is not None and type(layer).call is known.call and "call" not in vars(layer)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or operation in a model.

    Attributes:
        name: Its name, behind those of the models that it is nested in, `"block/conv"`. The second
            call of a layer is called `"conv:1"`, the third `"conv:2"`.
        layer: The layer or operation; of `FoldTime` and `TimeDistributed`, the one inside.
        operation: What the graph calls: the wrapper, where there is one around this layer alone.
        index: How often the layer was called before.
        each_step: Whether it is applied to each step by itself, within a wrapper.
        args: Positional arguments.
        kwargs: Keyword arguments.
        outputs: In a trace: its outputs, symbolic tensors.
        timed: In a trace: whether the first output has a time axis.
        reads_time: In a trace: whether the first input has one.
    """

    name: str
    layer: Any
    operation: Any
    index: int
    each_step: bool
    args: tuple
    kwargs: dict
    outputs: tuple = ()
    timed: bool | None = None
    reads_time: bool | None = None

    @property
    def inputs(self):
        """The tensors among the arguments; the values of `run` must have a `shape`."""
        return [x for x in tree.flatten((self.args, self.kwargs)) if hasattr(x, "shape")]

    @property
    def input(self):
        """The first input."""
        return self.inputs[0]

    @property
    def output(self):
        """In a trace: the first output."""
        return self.outputs[0]

    @property
    def mask(self):
        """In a trace: the mask of the first output, `(batch, time)`, or `None`."""
        return get_mask(self.output)

    @property
    def masks(self):
        """In a trace: the masks that it is given, as an argument or with its inputs."""
        found = [self.argument("mask"), *map(get_mask, self.inputs)]
        return [mask for mask in tree.flatten(found) if mask is not None]

    def argument(self, name):
        """The argument of this name of the layer's `call`, or `None`."""
        if name in self.kwargs:
            return self.kwargs[name]
        names = list(inspect.signature(self.operation.call).parameters)
        place = names.index(name) if name in names else len(self.args)
        return self.args[place] if place < len(self.args) else None

    @property
    def role(self):
        """What the layer is."""
        return role_of(self.layer)

    @property
    def time(self):
        """What this call does to time, one of the words of `Role`."""
        if self.each_step:
            return "per step"
        return self.role.time(self) if callable(self.role.time) else self.role.time

    @property
    def memory(self):
        """How many steps before the present one it looks at; `None` if that is not bounded."""
        if self.time in ("pointwise", "per step"):
            return 0
        return self.role.memory(self) if callable(self.role.memory) else self.role.memory

    @property
    def spikes(self):
        """Whether its outputs are spikes."""
        return self.role.spikes(self.layer) if callable(self.role.spikes) else self.role.spikes

    @property
    def unit(self):
        """What a spike is in its outputs."""
        return self.role.unit(self.layer) if callable(self.role.unit) else self.role.unit

    @property
    def most(self):
        """How often a neuron fires in a step at most."""
        return self.role.most(self.layer) if callable(self.role.most) else self.role.most

    @property
    def linear(self):
        """Whether the output of each example is a linear function of its input."""
        return self.role.linear(self) if callable(self.role.linear) else self.role.linear

    @property
    def products(self):
        """In a trace: its `Product`s, or `None` if nobody knows them."""
        products = None if self.role.products is None else self.role.products(self)
        return None if products is None else tuple(products)

    def shape(self, tensor):
        """In a trace: the shape of one example of a tensor; of one step, if steps are separate."""
        steps = self.reads_time and self.time in ("pointwise", "per step", "recurrent", "removes")
        return tuple(tensor.shape[2 if steps else 1 :])

    def __call__(self):
        """The call itself, on its arguments."""
        if self.each_step and self.operation is self.layer:
            return EachStep(self.layer)(*self.args, **self.kwargs)
        return self.operation(*self.args, **self.kwargs)


class EachStep(keras.layers.Layer):
    """An operation on each step of all tensors that it takes, `(batch, time, ...)`."""

    def __init__(self, operation):
        super().__init__(autocast=False)
        self.operation, self.supports_masking = operation, True

    def call(self, *args, **kwargs):
        args, kwargs = tree.map_structure(self._fold, (args, kwargs))
        outputs = self.operation(*args, **kwargs)
        return tree.map_structure(lambda y: ops.reshape(y, (-1, self._time, *y.shape[1:])), outputs)

    def _fold(self, x):
        if not hasattr(x, "shape"):
            return x
        self._time = ops.shape(x)[1]
        return ops.reshape(x, (-1, *x.shape[2:]))

    def compute_output_spec(self, *args, **kwargs):
        def fold(x):
            if not isinstance(x, keras.KerasTensor):
                return x
            times.append(x.shape[:2])
            return keras.KerasTensor((None, *x.shape[2:]), x.dtype)

        times = []
        args, kwargs = tree.map_structure(fold, (args, kwargs))
        outputs = self.operation.compute_output_spec(*args, **kwargs)
        return tree.map_structure(
            lambda y: keras.KerasTensor((*times[0], *y.shape[1:]), y.dtype), outputs
        )


def run(model, values, rule):
    """Replays a model, with a rule in the place of every layer and operation.

    Models nested in it are entered, those inside `FoldTime` too, and layers made of others; of a
    subclassed model the rule gets the call as that of any layer.

    Args:
        model: A functional or Sequential model.
        values: Its inputs, of any kind, as `in_order` takes them.
        rule: A function from a `Call`, whose arguments are such values, to the outputs: one, or
            a structure of them as the layer has.

    Returns:
        The outputs, in the structure of the model's.

    Raises:
        TypeError: If the model is a subclassed one.

    Example:

    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, keras.layers.Dense(2, name="dense")(inputs))
    >>> run(model, ["x"], lambda call: f"{call.name}({call.args[0]})")
    'dense(x)'
    """
    check_functional(model, "This")
    return _Replay(rule).model(model, values, "", False)


class _Replay:
    def __init__(self, rule):
        self.rule, self.counts, self.names = rule, {}, set()

    def model(self, model, values, prefix, each_step):
        return functional(model)._run_through_graph(
            in_order(model, values),
            operation_fn=lambda operation: functools.partial(
                self.call, operation, prefix, each_step
            ),
        )

    def part(self, prefix, each_step, layer, *args, **kwargs):
        return self.call(layer, prefix, each_step, *args, **kwargs)

    def call(self, operation, prefix, each_step, *args, **kwargs):
        layer, name = operation, f"{prefix}{operation.name}"
        index = self.counts.get(name, 0)
        self.counts[name] = index + 1
        name = f"{name}:{index}" if index else name
        while name in self.names:  # of a layer that is called "conv:1" itself
            name += "'"
        self.names.add(name)
        while isinstance(layer, tuple(EACH_STEP)):
            layer, each_step = layer.layer, True
        if isinstance(layer, keras.Model) and functional(layer) is not None:
            return self.model(layer, args[0] if args else kwargs["inputs"], f"{name}/", each_step)
        if is_composed(layer):
            apply = functools.partial(self.part, prefix, each_step)
            return layer.compose(apply, args[0] if args else kwargs["inputs"])
        return self.rule(Call(name, layer, operation, index, each_step, args, kwargs))


@dataclasses.dataclass(frozen=True)
class Trace:
    """A model, called anew on symbolic inputs.

    Attributes:
        inputs: Symbolic inputs, in the order of `model.inputs`.
        calls: A `Call` for each layer and operation, in the order of computation.
        outputs: Symbolic outputs, a list.
        timed: For each input, whether it has a time axis.
        timed_outputs: For each output, whether it has one.
    """

    inputs: list
    calls: list
    outputs: list
    timed: list
    timed_outputs: list


def trace(model, timesteps=None, replace=lambda call: call, shapes=None):
    """Calls every layer of a model again, on symbolic inputs, and finds out what has time.

    A tensor has a time axis, axis 1, if a layer says so that makes it or reads it (a neuron, a
    readout, `FoldTime`, `RepeatTime`), or if it is computed from such a one, or such a one from
    it, by layers that keep the axis.

    Args:
        model: A functional or Sequential model.
        timesteps: Number of steps of sequences whose number is open.
        replace: A function from a `Call` to the one to make in its place.
        shapes: Shapes of one example of each input; by default the model's.

    Returns:
        A `Trace`.

    Raises:
        TypeError: If the model is a subclassed one.

    Example:

    >>> from keras_snn.layers import IF, MeanOverTime
    >>> model = keras.Sequential([keras.Input((4, 3)), IF(name="neuron"), MeanOverTime()])
    >>> found = trace(model)
    >>> found.timed, [call.timed for call in found.calls]
    ([True], [True, False])
    """

    def rule(call):
        call = replace(call)
        outputs = call()
        calls.append(dataclasses.replace(call, outputs=tuple(tree.flatten(outputs))))
        return outputs

    check_functional(model, "This")
    calls, shapes = [], shapes or [x.shape[1:] for x in model.inputs]
    tensors = [
        keras.Input(batch_shape=(x.shape[0], *shape), dtype=x.dtype, name=x.name)
        for x, shape in zip(model.inputs, shapes)
    ]
    outputs = tree.flatten(run(model, tensors, rule))
    times = _times(calls)
    timed = [times.get(id(x), False) for x in tensors]
    if timesteps is not None and any(t and x.shape[1] is None for t, x in zip(timed, tensors)):
        closed = [(timesteps, *s[1:]) if t else s for t, s in zip(timed, shapes)]
        return trace(model, replace=replace, shapes=closed)
    calls = [
        dataclasses.replace(
            call,
            timed=bool(call.outputs) and times.get(id(call.outputs[0]), False),
            reads_time=bool(call.inputs) and times.get(id(call.inputs[0]), False),
        )
        for call in calls
    ]
    return Trace(tensors, calls, outputs, timed, [times.get(id(x), False) for x in outputs])


def spike_units(trace):
    """What a spike is in the tensors of a trace, by their `id`, where it is not 1.

    What layers without products make of spikes, a maximum or a sum say, has their unit.
    """
    units = {}
    for call in trace.calls:
        if call.spikes:
            units[id(call.output)] = call.unit
        elif not call.products and len({units.get(id(x)) for x in call.inputs}) == 1:
            units |= {id(x): units.get(id(call.input)) for x in call.outputs}
    return {key: unit for key, unit in units.items() if unit not in (None, 1)}


def count_spikes(x, unit=None):
    """Spikes as often as they count; what is no whole number of them stays so."""
    x = ops.abs(x)
    if unit is None:
        return x
    whole = ops.round(x / unit)
    return ops.where(ops.abs(x / unit - whole) < 1e-4, whole, x / unit)


def _times(calls):
    """For tensors by `id`, whether they have time; those that nothing tells are left out."""
    known = {}

    def tell(tensors, timed):
        for x in tensors:
            if len(x.shape) > 1:
                known.setdefault(id(x), timed)

    before = None
    while before != len(known):
        before = len(known)
        for call in [*calls, *reversed(calls)]:
            first, rest = call.inputs[:1], call.inputs[1:]
            if call.each_step or call.role.sequences:
                tell([*call.inputs, *call.outputs], True)
            elif call.time == "adds":
                tell(call.inputs, False)
                tell(call.outputs, True)
            elif call.time == "removes":
                tell(call.inputs, True)
                tell(call.outputs, False)
            elif call.time == "recurrent":
                tell(first, True)
                tell(call.outputs[:1], call.layer.return_sequences)
                tell(call.masks, True)
                tell([*rest, *call.outputs[1:]], False)
            elif _loses_time(call):
                tell(call.outputs, False)
            else:
                around = [*call.inputs, *call.outputs]
                told = [known[id(x)] for x in around if id(x) in known]
                if told:
                    tell(around, True in told)
    return known


def _loses_time(call):
    """Whether what comes out has fewer axes, of a layer that does not treat each step alone."""
    ranks = [len(x.shape) for x in call.inputs]
    return (
        call.time in ("across", "unknown")
        and bool(ranks)
        and len(call.outputs[0].shape) < max(ranks)
    )


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A convolution or pooling along its spatial axes, one entry an axis.

    Attributes:
        sizes: Sizes of the input.
        outputs: Sizes of the output.
        kernel: Sizes of the kernel or window.
        strides: Strides.
        dilation: Distances of taps.
        padding: Zeros `(before, after)` each axis; of a transposed one, outputs that are cut off.
        channels: Channels of the input.
        filters: Channels of the output.
        groups: Groups of channels; of a depthwise convolution, `channels`.
        channels_first: Whether channels are the first axis.
        transposed: Whether it is a transposed convolution.
    """

    sizes: tuple
    outputs: tuple
    kernel: tuple
    strides: tuple
    dilation: tuple
    padding: tuple
    channels: int
    filters: int
    groups: int = 1
    channels_first: bool = False
    transposed: bool = False

    @classmethod
    def of(cls, layer, shape):
        """That of a Keras layer.

        Args:
            layer: A convolution, a pooling, or their global form.
            shape: Shape of its input, with the batch axis.

        Returns:
            A `Geometry`.
        """
        first = layer.data_format == "channels_first"
        sizes = tuple(shape[2:] if first else shape[1:-1])
        channels = shape[1] if first else shape[-1]
        out = layer.compute_output_shape(tuple(shape))
        name, ones = type(layer).__name__, (1,) * len(sizes)
        if "Global" in name:
            return cls(sizes, ones, sizes, ones, ones, ((0, 0),) * len(sizes), channels, channels)
        outputs = tuple(out[2:] if first else out[1:-1])
        filters = out[1] if first else out[-1]
        kernel = getattr(layer, "kernel_size", None) or layer.pool_size
        kernel, strides = each_axis(kernel, ones), each_axis(layer.strides, ones)
        dilation = each_axis(getattr(layer, "dilation_rate", 1), ones)
        groups = getattr(layer, "groups", 1)
        if "Depthwise" in name or "Separable" in name or "Pooling" in name:
            groups = channels
        transposed = "Transpose" in name
        padding = []
        for n, o, k, s, d in zip(sizes, outputs, kernel, strides, dilation):
            span = (k - 1) * d + 1
            if layer.padding == "causal":
                padding.append((span - 1, 0))
            elif layer.padding == "symmetric":
                padding.append(((span - 1) // 2,) * 2)
            elif layer.padding == "valid" or None in (n, o):
                padding.append((0, 0))
            else:
                total = (n - 1) * s + span - o if transposed else (o - 1) * s + span - n
                padding.append((max(total, 0) // 2, max(total, 0) - max(total, 0) // 2))
        return cls(
            sizes, outputs, kernel, strides, dilation, tuple(padding), channels, filters, groups,
            first, transposed,
        )  # fmt: skip

    @property
    def taps(self):
        """Entries of the kernel along its spatial axes."""
        return math.prod(self.kernel)

    def reach(self):
        """How many output positions each input position is part of: an array of `sizes`."""
        counts = np.ones(())
        for n, o, k, s, d, (before, _) in zip(
            self.sizes, self.outputs, self.kernel, self.strides, self.dilation, self.padding
        ):
            if self.transposed:
                places = np.add.outer(np.arange(n) * s, np.arange(k) * d) - before
                counted = np.sum((places >= 0) & (places < o), axis=1)
            else:
                places = np.add.outer(np.arange(o) * s, np.arange(k) * d) - before
                counted = np.bincount(places[(places >= 0) & (places < n)], minlength=n)
            counts = np.multiply.outer(counts, counted)
        return counts


def each_axis(value, axes):
    """A number for each of the axes, of one for all or one each."""
    return tuple(int(v) for v in np.broadcast_to(value, len(axes)))


def normalization(layer):
    """A batch normalisation in inference, as `scale * x + shift`.

    Args:
        layer: A built Keras `BatchNormalization`, or a tdBN of ours, with its `factor`.

    Returns:
        `(scale, shift)`, arrays in float64 of one entry a channel.

    Example:

    >>> layer = keras.layers.BatchNormalization(epsilon=0.0)
    >>> layer.build((None, 2))
    >>> normalization(layer)
    (array([1., 1.]), array([0., 0.]))
    """

    def array(weight):
        return ops.convert_to_numpy(weight).astype("float64")

    scale = 1 / np.sqrt(array(layer.moving_variance) + layer.epsilon)
    scale = scale * array(layer.gamma) if layer.scale else scale
    scale = scale * getattr(layer, "factor", 1.0)
    shift = array(layer.beta) if layer.center else 0.0
    return scale, shift - array(layer.moving_mean) * scale


def track_loss(model, loss, count):
    """Adds a batch's loss, a mean of `count` examples, to the one that `fit` shows."""
    model._loss_tracker.update_state(loss, sample_weight=count)
