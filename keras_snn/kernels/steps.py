"""Whole sequences of any neuron, by nothing but its `step`: what `spec.py` has no form for.

The forward pass is a compiled loop that keeps the states before each step; the backward pass is
another, in which the backend differentiates the step anew. So a neuron of one's own is as quick as
those here. A step is taken for one function of its input, the states and the weights, which
`observed` and the trace of each backend make sure of: where it is anything else (it draws random
numbers, assigns variables, keeps something in Python, mixes neurons), the plain loop runs.

`xla.py` has the compiled loops' counterparts for linear charges, `torch_steps.py` this one's for
PyTorch.
"""

import contextlib
import functools
import re
from types import FunctionType, MethodType, ModuleType

import keras
import numpy as np
from keras import ops

from keras_snn import dynamics
from keras_snn.graph import AutocastScope, stateless_values
from keras_snn.kernels import tuning
from keras_snn.kernels.xla import again, gradients, is_exporting, scan, sliced
from keras_snn.surrogates import jax_gradient

__all__ = ["run"]


def run(cell, sequences, states, mask=None, training=False):
    """Runs a cell over a sequence.

    Args:
        cell: A `NeuronCell`.
        sequences: Currents, `(batch, time, ...)`, with a known number of steps.
        states: The states before the first step, `(batch, ...)` each.
        mask: Optional `(batch, time)`, false for steps that leave the states alone and give zeros.
        training: As in `keras_snn.kernels.implementation`.

    Returns:
        `(outputs, states)`; `None` where the plain loop is the better one, or the only right one.
    """
    if sequences.shape[1] <= tuning.XLA_UNROLL_LIMIT:
        return None
    jax = keras.backend.backend() == "jax"
    if not (_is_traced_jax if jax else _is_traced_tensorflow)(sequences):
        return None
    if is_exporting(sequences, jax):
        return None  # files have plain operations only
    if jax:
        parts = _trace_jax(cell, sequences, states)
    else:
        parts = _trace_tensorflow(cell, sequences, states, training)
    if parts is None:
        return None
    step, parameters = parts
    keep = [] if mask is None else [ops.cast(mask, sequences.dtype)]
    given = (sequences, *keep, *states, *parameters)
    loop = Loop(step, len(keep), len(states))
    outputs, *states = _jax(loop, given) if jax else _tensorflow(loop, given, training)
    return outputs, list(states)


def _is_traced_tensorflow(x):
    """Whether `x` is traced for a graph."""
    import tensorflow as tf

    return not tf.executing_eagerly()


def _is_traced_jax(x):
    """Whether `x` is traced for a compiled function; under `grad` alone it has a value."""
    import jax

    if not isinstance(x, jax.core.Tracer):
        return False
    try:
        bool(x.ravel()[0] == 0)
    except jax.errors.ConcretizationTypeError:
        return True
    return False


class UnfitError(Exception):
    """A step is no function of its input, the states and the weights alone."""


def pure(cell):
    """`step(x, states, parameters)` of tensors, which returns `(output, states)`.

    Args:
        cell: A `NeuronCell`; `parameters` are the values of its variables.

    Raises:
        UnfitError: By that function, if the cell assigns a variable or adds a loss.
    """
    variables, outer = cell.variables, stateless_values()

    def step(x, states, parameters):
        values = outer | dict(zip(map(id, variables), parameters))
        with keras.StatelessScope(collect_losses=True) as scope:
            scope.state_mapping.update(values)
            output, after = cell.step(dynamics.saturate(x), list(states))
        if scope.losses or not _same(scope.state_mapping, values):
            raise UnfitError
        return output, list(after)

    return step


def observed(cell, trace, known=()):
    """What `trace()` gives if nothing but that came of it, twice alike; else `None`.

    Args:
        cell: The cell whose step is traced.
        trace: A function without arguments that runs the step once and returns what it computes,
            and a description of it that two traces of the same have in common.
        known: Descriptions that need no second trace.
    """
    before, found = _attributes(cell), []
    for _ in range(2):
        values = stateless_values()
        with keras.StatelessScope(collect_losses=True) as scope:
            scope.state_mapping.update(values)
            found.append(trace())
        changed = scope.losses or not _same(scope.state_mapping, values)
        if not _restored(cell, before) or changed or found[-1] is None:
            return None
        if known and found[0][1] in known:
            break
    return found[0][0] if _alike(found[0][1], found[-1][1]) else None


def _alike(a, b):
    """Whether two descriptions are equal; arrays by their values."""
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if a is b:
        return True
    return type(a) is type(b) and (
        np.array_equal(a, b) if isinstance(a, np.ndarray) else isinstance(a, str) and a == b
    )


SIMPLE = (int, float, complex, str, bytes, type(None), type, FunctionType, MethodType, ModuleType)


def _contents(value):
    """The parts of an attribute that can change in place, as a dictionary."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if isinstance(value, (*SIMPLE, keras.Layer, keras.Variable)):
        return {}
    return dict(vars(value)) if hasattr(value, "__dict__") else {}


def _attributes(cell):
    """A cell's attributes, each with its parts."""
    return {name: (value, _contents(value)) for name, value in vars(cell).items()}


def _restored(cell, before):
    """Whether a cell's attributes are what they were; else they are put back."""
    if _same_attributes(before, _attributes(cell)):
        return True
    own = vars(cell)
    for name in own.keys() - before.keys():
        del own[name]
    for name, (value, contents) in before.items():
        own[name] = value
        if isinstance(value, list):
            value[:] = contents.values()
        elif isinstance(value, dict):
            value.clear()
            value.update(contents)
    return False


def _same_attributes(before, after):
    """Whether two answers of `_attributes` hold the same objects."""
    return before.keys() == after.keys() and all(
        value is after[name][0] and _same(contents, after[name][1])
        for name, (value, contents) in before.items()
    )


def _same(a, b):
    """Whether two dictionaries hold the same objects."""
    return a.keys() == b.keys() and all(value is b[key] for key, value in a.items())


# Products of matrices are as quick in the plain loop, and need no second time.
PRODUCTS = ("dot_general", "conv_general_dilated")


def _trace_jax(cell, sequences, states):
    """`(step, parameters)`: `step(x, states, parameters)` of JAX, and what it reads beside."""
    import jax

    like = [jax.ShapeDtypeStruct(z.shape, z.dtype) for z in (sequences[:, 0], *states)]

    def trace():
        closed, shapes = jax.make_jaxpr(
            lambda x, states: cell.step(dynamics.saturate(x), states), return_shape=True
        )(like[0], like[1:])
        text = re.sub("0x[0-9a-f]+", "", str(closed.jaxpr))
        given = [(z.shape, z.dtype) for z in like[1:]]
        fixed = [c for c in closed.consts if not jax.numpy.issubdtype(c.dtype, jax.numpy.inexact)]
        fits = (
            [(z.shape, z.dtype) for z in shapes[1]] == given
            and all(jax.numpy.issubdtype(dtype, jax.numpy.floating) for _, dtype in given)
            and shapes[0].dtype == sequences.dtype
            and not closed.effects
            and not any(isinstance(c, jax.core.Tracer) for c in fixed)
            and not any(f"{product}[" in text for product in PRODUCTS)
        )
        values = [c if isinstance(c, jax.core.Tracer) else np.asarray(c) for c in closed.consts]
        return (closed, (text, values)) if fits else None

    closed = observed(cell, trace)
    if closed is None:
        return None
    learned = [jax.numpy.issubdtype(c.dtype, jax.numpy.inexact) for c in closed.consts]

    def step(x, states, parameters):
        parameters = iter(parameters)
        consts = [next(parameters) if own else c for own, c in zip(learned, closed.consts)]
        output, *states = jax.core.eval_jaxpr(closed.jaxpr, consts, x, *states)
        return output, states

    return step, [c for own, c in zip(learned, closed.consts) if own]


# Operations of TensorFlow whose element is one of each input's, and what makes constants.
ELEMENTWISE = frozenset(
    """Abs Acos Acosh Add AddV2 Asin Asinh Atan Atan2 Atanh BroadcastTo Cast Ceil ClipByValue Const
    Cos Cosh Div DivNoNan Elu Equal Erf Erfc Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod
    Greater GreaterEqual Identity IdentityN IsFinite IsInf IsNan LeakyRelu Less LessEqual Log Log1p
    LogicalAnd LogicalNot LogicalOr Maximum Minimum Mul MulNoNan Neg NoOp NotEqual OnesLike
    Placeholder Pow RealDiv Reciprocal Relu Relu6 Rint Round Rsqrt Select SelectV2 Selu Shape
    Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Square SquaredDifference StopGradient Sub Tan Tanh
    TruncateDiv Xdivy Xlog1py Xlogy ZerosLike""".split()  # noqa: SIM905
)


def _trace_tensorflow(cell, sequences, states, training):
    """`(step, parameters)`: `step(x, states, parameters)` of TensorFlow, and what it reads."""
    with AutocastScope(None):  # values in their own dtype, whatever layer is around
        parameters = [ops.convert_to_tensor(v.value) for v in cell.variables]
    step = pure(cell)
    if training and parameters:
        # XLA is slow to sum a step's gradients over the batch: one for each neuron is summed over
        # time, and then once. That is the same, as no operation of a step removes an axis.
        like = sequences[:, 0]
        wide = [_widened(p, like) for p in parameters]
        with contextlib.suppress(Exception):  # of steps that count the axes of a weight
            if _fits_tensorflow(cell, step, sequences, states, wide):
                return step, wide
    fits = _fits_tensorflow(cell, step, sequences, states, parameters)
    return (step, parameters) if fits else None


def _widened(parameter, like):
    """A parameter for each neuron of each example, if it is shared by them."""
    sizes = zip(reversed(parameter.shape), reversed(like.shape[1:]))
    shared = len(parameter.shape) < len(like.shape) and all(a in (1, b) for a, b in sizes)
    return ops.broadcast_to(parameter, ops.shape(like)) if shared else parameter


def _fits_tensorflow(cell, step, sequences, states, parameters):
    """Whether a step is a function of these alone, element by element."""
    import tensorflow as tf

    like = [tf.TensorSpec(z.shape, z.dtype) for z in (sequences[:, 0], *states, *parameters)]
    count = len(states)
    floating = all(z.dtype.is_floating for z in like)

    def trace():
        def traced(x, *rest):
            return step(x, rest[:count], rest[count:])

        try:
            graph = tf.function(traced, autograph=False).get_concrete_function(*like)
        except UnfitError:
            return None
        output, after = graph.structured_outputs
        nodes = [operation.node_def for operation in graph.graph.get_operations()]
        fits = (
            not graph.captured_inputs
            and all(node.op in ELEMENTWISE for node in nodes)
            and [z.dtype for z in (output, *after)] == [z.dtype for z in like[: count + 1]]
            and all(a.shape.is_compatible_with(b.shape) for a, b in zip((output, *after), like))
        )
        return (True, [_description(node) for node in nodes]) if fits else None

    return floating and observed(cell, trace)


def _description(node):
    """A node of TensorFlow's graph as text, without the number of its custom gradient."""
    return re.sub("CustomGradient-[0-9]+", "", str(node))


class Loop:
    """A step run over time, with its derivatives; data of one call, all tensors are arguments.

    Args:
        step: `step(x, states, parameters)`, which returns `(output, states)`.
        masked: Whether there is a mask, 1 or 0.
        states: Number of states.
    """

    def __init__(self, step, masked, states):
        self.step, self.masked, self.states = step, masked, states

    def split(self, given):
        """Sequences (currents, mask), first states and parameters of all arguments."""
        states = 1 + self.masked
        parameters = states + self.states
        return given[:states], list(given[states:parameters]), list(given[parameters:])

    def once(self, inputs, states, parameters):
        """One step, which does nothing where its mask is false."""
        x, *keep = inputs
        output, after = self.step(x, states, parameters)
        if not keep:
            return output, after
        keep = ops.reshape(keep[0], (-1, *[1] * (len(x.shape) - 1))) > 0
        after = [ops.where(keep, new, old) for new, old in zip(after, states)]
        return ops.where(keep, output, ops.zeros_like(output)), after

    def forward(self, save, *given):
        """Outputs, last states and, to `save`, the states before each step, `(batch, time, ...)`.

        Args:
            save: Whether these are returned.
            *given: Currents `(batch, time, ...)`, mask if there is one, first states, parameters.
        """
        sequences, states, parameters = self.split(given)

        def body(states, inputs):
            output, after = self.once(inputs, states, parameters)
            return after, (output, *(states if save else ()))

        like = [sequences[0]] * (1 + save * self.states)
        states, (outputs, *before) = sliced(body, states, sequences, like)
        return (outputs, *states, *before)

    def plain(self, *given):
        """Outputs and last states by a loop that can be differentiated."""
        sequences, states, parameters = self.split(given)

        def body(states, inputs):
            output, after = self.once(inputs, states, parameters)
            return after, output

        sequences = tuple(ops.swapaxes(z, 0, 1) for z in sequences)
        states, outputs = scan(body, states, sequences)
        return (ops.swapaxes(outputs, 0, 1), *states)

    def backward(self, before, upstream, *given):
        """Gradients to all that is given.

        Args:
            before: The states before each step, `(batch, time, ...)`.
            upstream: Gradients to the outputs and the last states.
            *given: As in `forward`.
        """
        sequences, _, parameters = self.split(given)
        rest = 2 + self.masked

        def body(carry, inputs):
            grad_states, sums = carry
            (grad_output, x, *keep), before = inputs[:rest], inputs[rest:]

            def once(x, *rest):
                states, parameters = list(rest[: self.states]), list(rest[self.states :])
                output, after = self.once((x, *keep), states, parameters)
                return (output, *after)

            slopes = gradients(once, (x, *before, *parameters), (grad_output, *grad_states))
            dx, slopes = slopes[0], slopes[1:]
            sums = [total + slope for total, slope in zip(sums, slopes[self.states :])]
            return (list(slopes[: self.states]), sums), (dx,)

        start = (list(upstream[1:]), [ops.zeros_like(p) for p in parameters])
        sequences = (upstream[0], *sequences, *before)
        (states, sums), (dx,) = sliced(body, start, sequences, sequences[1:2], reverse=True)
        masks = [ops.zeros_like(z) for z in given[1 : 1 + self.masked]]
        return (dx, *masks, *states, *sums)

    def backward_again(self, upstream, *given):
        """The same, from the inputs alone."""
        before = self.forward(True, *given)[1 + self.states :]
        return self.backward(before, upstream, *given)


def _jax(loop, given):
    count = 1 + loop.states

    def slopes(*saved):
        before, rest = saved[: loop.states], saved[loop.states :]
        return loop.backward(before, rest[:count], *rest[count:])

    def slopes_of_slopes(saved, _, upstream):
        zeros = [ops.zeros_like(z) for z in saved[: loop.states]]
        return (*zeros, *again(loop.plain, count, saved[loop.states :], upstream))

    first = jax_gradient(slopes, slopes_of_slopes)
    sequence = jax_gradient(
        functools.partial(loop.forward, True),
        lambda inputs, outputs, upstream: first(*outputs[count:], *upstream[:count], *inputs),
    )
    return sequence(*given)[:count]


def _tensorflow(loop, given, keep):
    import tensorflow as tf

    count = 1 + loop.states

    def compiled(function):
        return tf.function(function, jit_compile=True, autograph=False)

    forward = compiled(functools.partial(loop.forward, keep))
    backward = compiled(loop.backward if keep else loop.backward_again)

    @ops.custom_gradient
    def sequence(*inputs):
        inputs = [ops.stop_gradient(z) for z in inputs]
        outputs = forward(*inputs)
        outputs, before = outputs[:count], outputs[count:]

        def grad(*upstream):
            @ops.custom_gradient
            def first(*rest):
                saved = [before] if keep else []
                slopes = backward(*saved, rest[:count], *[ops.stop_gradient(z) for z in inputs])
                return slopes, lambda *g: again(loop.plain, count, rest, g)

            return first(*upstream, *given)

        return outputs, grad

    return sequence(*given)
