"""Whole sequences of simple neurons on TensorFlow and JAX: a custom gradient, compiled by XLA.

Short sequences are unrolled, longer ones are a loop. In TensorFlow's graphs the backward pass of a
short sequence computes the charged potentials again, from the currents, which saves the forward
pass writing them.
"""

import functools
import sys

import keras
from keras import ops, tree

from keras_snn import dynamics
from keras_snn.graph import EXPORTERS
from keras_snn.kernels import tuning
from keras_snn.kernels.spec import backward, forward, split, unrolled
from keras_snn.surrogates import jax_gradient


def run(cell, sequences, v, wants_last, training=False, mask=None):
    """Runs a cell over a sequence; see `keras_snn.kernels.implementation`."""
    jax = keras.backend.backend() == "jax"
    if is_exporting(sequences, jax):
        return None  # files have plain operations only
    if mask is not None:
        mask = ops.reshape(mask, (*ops.shape(mask), *[1] * (len(sequences.shape) - 2)))
        mask = ops.cast(mask, sequences.dtype)
    neuron, tensors = split(*cell.fused_spec(), v, wants_last, mask)
    if jax:
        spikes, *last = _jax(neuron, sequences, *tensors)
    else:
        spikes, *last = _tensorflow(training, neuron, sequences, *tensors)
    return spikes, last[0] if wants_last else None


def is_exporting(x, jax):
    """Whether `x` is traced for a file, as `EXPORTERS` do."""
    if jax:
        from jax.core import Tracer

        traced = isinstance(x, Tracer)
    else:
        import tensorflow as tf

        traced = not tf.executing_eagerly()
    frame = sys._getframe() if traced else None
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(EXPORTERS):
            return True
        frame = frame.f_back
    return False


def _backward_again(neuron, recur, x, upstream, tensors):
    """The same, from the currents."""
    h = forward(neuron, recur, True, x, *tensors)[-1]
    return backward(neuron, recur, h, upstream, tensors)


def _plain(neuron, x, *tensors):
    """Spikes, and the last potential if it is wanted, by the plain loop."""
    v, rate, threshold, mask = neuron.parameters(tensors)
    fire, spikes, steps = neuron.fire, [], [ops.unstack(dynamics.saturate(x), axis=1)]
    if mask is not None:
        steps.append(ops.unstack(mask > 0, axis=1))
    for current, *keep in zip(*steps):
        for kept in keep:
            current = ops.where(kept, current, 0)  # no slope of what it might be
        h = neuron.linear_charge.charge(v, current, rate)
        s = dynamics.fire(h, threshold, fire.surrogate, fire.strict)
        after = dynamics.reset_membrane(h, s, threshold, fire.reset, fire.v_reset, fire.detach)
        for kept in keep:
            s, after = ops.where(kept, s, 0), ops.where(kept, after, v)
        spikes.append(s)
        v = after
    spikes = ops.stack(spikes, axis=1)
    return (spikes, v) if neuron.wants_last else (spikes,)


def gradients(function, inputs, upstream):
    """Gradients to the inputs of a function of tensors, which can be differentiated again."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.vjp(function, *inputs)[1](upstream)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
    return tuple(tape.gradient(outputs, inputs, upstream, unconnected_gradients="zero"))


def again(plain, count, given, upstream):
    """Second derivatives: gradients to the arguments of a backward pass.

    Args:
        plain: The function whose backward pass it is, of operations that can be differentiated.
        count: Number of its outputs.
        given: Upstream gradients of these, and the function's inputs.
        upstream: Gradients to the gradients to the inputs.
    """

    def first(*given):
        return gradients(plain, given[count:], given[:count])

    return gradients(first, given, upstream)


def _again(neuron, given, upstream):
    """The same of a neuron."""
    return again(functools.partial(_plain, neuron), 1 + neuron.wants_last, given, upstream)


def _looped(step, follow, carry, *xs, masks=(), reverse=False):
    """The same as a loop.

    What is carried is read back from the outputs, which XLA then writes in place; a second tensor
    in the loop would be copied in every step. On JAX outputs take the memory of the first inputs;
    TensorFlow's compiled functions don't own theirs, and would copy them.
    """
    timesteps = xs[0].shape[1]
    start, direction = (timesteps - 1, -1) if reverse else (0, 1)
    takes_over = keras.backend.backend() == "jax"

    def body(i, outputs):
        t = start + direction * i
        last = t - direction * ops.cast(i > 0, t.dtype)
        before = follow(outputs[:, last], *(mask[:, last] for mask in masks))
        inputs = [x[:, t] for x in (*((outputs, *xs[1:]) if takes_over else xs), *masks)]
        output = step(ops.where(i > 0, before, carry), *inputs)
        return ops.slice_update(outputs, [0, t] + [0] * (len(output.shape) - 1), output[:, None])

    return ops.fori_loop(0, timesteps, body, xs[0] if takes_over else ops.zeros_like(xs[0]))


def scan(body, carry, xs):
    """`keras.ops.scan`; on TensorFlow with a bound on the steps, or XLA has no gradient.

    Args:
        body: As of `keras.ops.scan`; its output is a tensor of the type of the first of `xs`.
        carry: What the first step is given, any structure of tensors.
        xs: Tensors `(time, ...)`, any structure.

    Returns:
        `(carry, outputs)`.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.scan(body, carry, xs)
    import tensorflow as tf

    flat = tree.flatten(xs)
    steps = flat[0].shape[0] or tf.shape(flat[0])[0]
    inputs = [tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:]).unstack(x) for x in flat]
    start = carry

    def step(t, carry, outputs):
        x = tree.pack_sequence_as(xs, [values.read(t) for values in inputs])
        carry, y = body(tree.pack_sequence_as(start, carry), x)
        return t + 1, tree.flatten(carry), outputs.write(t, y)

    _, carry, outputs = tf.while_loop(
        lambda t, *_: t < steps,
        step,
        (0, tree.flatten(start), tf.TensorArray(flat[0].dtype, steps)),
        maximum_iterations=steps,
    )
    return tree.pack_sequence_as(start, carry), outputs.stack()


def sliced(body, carry, xs, like, reverse=False):
    """As `scan`, for tensors `(batch, time, ...)`, which are not turned around; without a gradient.

    Args:
        body: As of `keras.ops.scan`; its outputs are a tuple.
        carry: What the first step is given, any structure of tensors.
        xs: Tensors `(batch, time, ...)`.
        like: A tensor `(batch, time, ...)` for each output, of its shape and dtype.
        reverse: Whether the last step is the first.

    Returns:
        `(carry, outputs)`.
    """
    timesteps = xs[0].shape[1]

    def step(i, state):
        carry, outputs = state
        t = timesteps - 1 - i if reverse else i
        carry, found = body(carry, [x[:, t] for x in xs])
        return carry, [
            ops.slice_update(array, [0, t] + [0] * (len(y.shape) - 1), y[:, None])
            for array, y in zip(outputs, found)
        ]

    return ops.fori_loop(0, timesteps, step, (carry, [ops.zeros_like(z) for z in like]))


def _jax(neuron, sequences, *tensors):
    # What is not used of its results, XLA does not compute.
    short = sequences.shape[1] <= tuning.XLA_UNROLL_LIMIT
    recur, compiled = (unrolled, lambda f: f) if short else (_looped, _xla)
    run = compiled(_partial(forward, neuron, recur, True))
    slopes = compiled(_partial(backward, neuron, recur))
    count = 1 + neuron.wants_last
    first = jax_gradient(
        lambda h, *given: slopes(h, given[:count], given[count + 1 :]),
        lambda given, _, upstream: (
            ops.zeros_like(given[0]),
            *_again(neuron, given[1:], upstream),
        ),
    )
    sequence = jax_gradient(
        run, lambda inputs, outputs, upstream: first(outputs[-1], *upstream[:-1], *inputs)
    )
    return sequence(sequences, *tensors)[:-1]


def _tensorflow(training, neuron, sequences, *tensors):
    import tensorflow as tf

    timesteps = sequences.shape[1]
    if tf.executing_eagerly() and timesteps <= tuning.EAGER_LIMIT:
        return _custom_gradient(neuron, unrolled, lambda f: f, True, sequences, *tensors)
    recur = unrolled if timesteps <= tuning.XLA_UNROLL_LIMIT else _looped
    # To charge few steps again costs less than to write and read the potentials.
    keep = training and recur is _looped
    return _custom_gradient(neuron, recur, _xla, keep, sequences, *tensors)


@functools.lru_cache(tuning.COMPILED_FUNCTIONS)
def _xla(function):
    """A function under XLA, compiled once, within what is compiled around it or not."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def _custom_gradient(neuron, recur, compiled, keep, x, *tensors):
    """Spikes and the last potential of currents `x`."""
    run = compiled(_partial(forward, neuron, recur, keep))
    slopes = compiled(_partial(backward if keep else _backward_again, neuron, recur))
    given = (x, *tensors)

    @ops.custom_gradient
    def sequence(*inputs):
        # Or TensorFlow looks for a gradient of the compiled function too.
        inputs = tree.map_structure(ops.stop_gradient, inputs)
        outputs = run(*inputs)
        outputs, saved = (outputs[:-1], outputs[-1]) if keep else (outputs, inputs[0])

        def grad(*upstream):
            @ops.custom_gradient
            def first(*given):
                return slopes(saved, upstream, inputs[1:]), lambda *g: _again(neuron, given, g)

            return first(*upstream, *given)

        return outputs, grad

    return sequence(*given)


# Layers that are alike share what is compiled.
_partial = functools.lru_cache(tuning.COMPILED_FUNCTIONS)(functools.partial)
