"""Checks for layers of your own: what the neurons of this library keep, yours can keep too."""

import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import ops

__all__ = ["check_neuron", "gradients"]


def check_neuron(neuron, step=None, inputs=None):
    """Checks a neuron layer as the tests of this library check theirs, on the backend in use.

    With the same weights these must give the same outputs and final states: the layer, its cell in
    `keras.layers.RNN`, a copy from its configuration, a model that was saved and loaded, two pieces
    of the sequence one after the other, and a sequence with masked steps in between. Gradients of
    the layer must be those of `keras.layers.RNN`, finite, and not all zero. Shapes and dtypes must
    be those that are announced. How the layer goes through a sequence (`return_sequences`,
    `return_state`, `go_backwards`, `stateful`) is for the checks to set.

    Args:
        neuron: A layer, e.g. `MyLIF(tau=3.0)`, or its class, which is then made without arguments.
        step: The equation of a step in NumPy, `step(x, *states) -> (output, *states)`, to compare
            with; `None` leaves that out.
        inputs: Currents, `(batch, time, ...)`, with at least four steps; `None` draws some by which
            most neurons fire. The layer should spike and stay silent within them.

    Raises:
        AssertionError: If something is not kept; the message begins with what.
        TypeError: If `neuron` is no neuron layer.
        ValueError: If `inputs` have the wrong shape, are not finite, or move no output.

    Example:

    >>> import numpy as np
    >>> from keras_snn import layers, testing
    >>> def lif(x, v):
    ...     h = v + (x - v) / 2
    ...     s = (h >= 1).astype(h.dtype)
    ...     return s, h * (1 - s)
    >>> testing.check_neuron(layers.LIF(tau=2.0), lif)
    """
    from keras_snn import layers

    if isinstance(neuron, type) and issubclass(neuron, layers.Neuron):
        neuron = neuron()
    if not isinstance(neuron, layers.Neuron):
        raise TypeError(
            "Received an invalid value for argument `neuron`, expected a layer or a class derived "
            f"from `keras_snn.layers.Neuron`, got {neuron!r}."
        )
    if inputs is None:
        inputs = np.random.default_rng(0).normal(0.7, 0.9, (2, 9, 3))
    inputs = np.asarray(inputs, "float32")
    if inputs.ndim < 3 or inputs.shape[1] < 4:
        raise ValueError(
            "Received an invalid value for argument `inputs`, expected an array (batch, time, ...) "
            f"of at least 4 steps, got one of shape {inputs.shape}."
        )
    if not np.isfinite(inputs).all():
        raise ValueError(
            "Received an invalid value for argument `inputs`, expected finite numbers, got "
            f"{inputs[~np.isfinite(inputs)][0]}."
        )
    neuron.build(inputs.shape)
    output = _whole(neuron, inputs)[0]
    if np.all(output == output.flat[0]):
        raise ValueError(
            "Received an invalid value for argument `inputs`, expected some by which the layer "
            f"spikes and is silent, got ones by which all outputs are {output.flat[0]}."
        )
    for check in (_configuration, _shapes, _cell, _pieces, _mask, _slopes, _file):
        check(neuron, inputs)
    if step is not None:
        _equation(neuron, inputs, step)


def gradients(function, variables, *arrays):
    """Gradients of the scalar `function(*arrays)` to each array and to each Keras variable.

    Args:
        function: From tensors to a scalar tensor, by Keras operations.
        variables: Keras variables that the function reads.
        arrays: NumPy arrays.

    Returns:
        `(value, gradients to arrays, gradients to variables)`, NumPy.

    Example:

    >>> value, slopes, _ = gradients(lambda x: keras.ops.sum(x**2), [], np.array([1.0, 2.0]))
    >>> print(value, slopes[0])
    5.0 [2. 4.]
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(a) for a in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        watched = tensors + [v.value for v in variables]
        found = tape.gradient(value, watched, unconnected_gradients="zero")
    elif backend == "jax":
        import jax

        def run(tensors, values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values))):
                return function(*tensors)

        tensors = [jax.numpy.asarray(a) for a in arrays]
        value, (a, b) = jax.value_and_grad(run, argnums=(0, 1))(
            tensors, [v.value for v in variables]
        )
        found = [*a, *b]
    else:
        import torch

        tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
        value = function(*tensors)
        watched = tensors + [v.value for v in variables]
        if value.requires_grad:
            found = torch.autograd.grad(value, watched, allow_unused=True, materialize_grads=True)
        else:
            found = [torch.zeros_like(x) for x in watched]
    found = [np.asarray(ops.convert_to_numpy(g)) for g in found]
    return float(ops.convert_to_numpy(value)), found[: len(arrays)], found[len(arrays) :]


_LOOP = {
    "return_sequences": True,
    "return_state": False,
    "go_backwards": False,
    "stateful": False,
}


def _copy(neuron, shape, **changes):
    """The layer with other arguments, whole sequences if not said, and the same weights."""
    copy = type(neuron).from_config({**neuron.get_config(), **_LOOP, **changes})
    copy.build(shape)
    copy.set_weights(neuron.get_weights())
    return copy


def _run(layer, inputs, **arguments):
    """Output and final states, arrays."""
    return [ops.convert_to_numpy(x) for x in layer(ops.array(inputs), **arguments)]


def _whole(neuron, inputs):
    return _run(_copy(neuron, inputs.shape, return_state=True), inputs)


def _same(what, found, wanted):
    """Compares to the rounding of float32."""
    assert len(found) == len(wanted), f"{what}: {len(found)} tensors instead of {len(wanted)}"
    for a, b in zip(found, wanted):
        assert a.shape == b.shape, f"{what}: the shape {a.shape} instead of {b.shape}"
        wrong = ~np.isclose(a, b, rtol=1e-5, atol=1e-5)
        first = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.any() else ()
        assert not wrong.any(), (
            f"{what}: {wrong.sum()} of {wrong.size} values differ; "
            f"at {first} {a[first]}, not {b[first]}"
        )


def _configuration(neuron, inputs):
    config = neuron.get_config()
    try:
        read = json.loads(json.dumps(config))
    except TypeError as error:
        raise AssertionError(f"configuration: not what JSON can hold: {error}") from error
    again = type(neuron).from_config(read).get_config()
    assert json.loads(json.dumps(again)) == read, f"configuration: {again} made of {read}"


def _shapes(neuron, inputs):
    output, *states = _whole(neuron, inputs)
    assert output.shape == inputs.shape, f"shapes: an output {output.shape} of {inputs.shape}"
    for state in states:
        assert state.shape[0] == len(inputs), f"shapes: a state {state.shape} of {inputs.shape}"
    last = _copy(neuron, inputs.shape, return_sequences=False)
    _same("shapes: return_sequences=False", [ops.convert_to_numpy(last(inputs))], [output[:, -1]])
    half = _copy(neuron, inputs.shape, return_state=True, dtype="mixed_bfloat16")
    symbolic = half(keras.Input(inputs.shape[1:], len(inputs)))
    for tensor, announced, wanted in zip(half(inputs), symbolic, [output, *states]):
        assert tuple(announced.shape) == wanted.shape, f"shapes: {announced.shape} is announced"
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        assert dtype == announced.dtype, f"dtypes: {announced.dtype} is announced, not {dtype}"
    assert symbolic[0].dtype == "bfloat16", "dtypes: the output is not of the compute dtype"


def _stock(neuron):
    """Keras's own loop over the steps."""
    return keras.layers.RNN(neuron.cell, return_sequences=True, return_state=True)


def _cell(neuron, inputs):
    _same("cell: keras.layers.RNN", _run(_stock(neuron), inputs), _whole(neuron, inputs))


def _pieces(neuron, inputs):
    layer = _copy(neuron, inputs.shape, return_state=True)
    first, *states = layer(ops.array(inputs[:, :3]))
    second, *states = _run(layer, inputs[:, 3:], initial_state=states)
    joined = np.concatenate([ops.convert_to_numpy(first), second], axis=1)
    _same("pieces: initial_state", [joined, *states], _whole(neuron, inputs))


def _mask(neuron, inputs):
    """A masked step changes no state, and what follows."""
    steps = np.insert(inputs, 2, 5.0, axis=1)
    mask = np.ones(steps.shape[:2], bool)
    mask[:, 2] = False
    layer = _copy(neuron, inputs.shape, return_state=True)
    output, *states = _run(layer, steps, mask=ops.array(mask))
    rest = [np.delete(output, 2, axis=1), *states]
    _same("mask: a masked step is no step", rest, _whole(neuron, inputs))


def _slopes(neuron, inputs):
    weights = ops.array(np.random.default_rng(1).normal(size=inputs.shape), "float32")

    def slopes(layer, output):
        def value(x):
            return ops.sum(output(layer(x)) * weights)

        _, to_inputs, to_variables = gradients(value, layer.trainable_variables, inputs)
        return [*to_inputs, *to_variables]

    found = slopes(_copy(neuron, inputs.shape), lambda output: output)
    for gradient in found:
        assert np.isfinite(gradient).all(), "gradients: not finite"
    assert np.any(found[0]), "gradients: none reaches the inputs"
    wanted = slopes(_stock(neuron), lambda outputs: outputs[0])
    scale = max(np.abs(gradient).max() for gradient in wanted)
    _same("gradients: keras.layers.RNN", [g / scale for g in found], [g / scale for g in wanted])


def _file(neuron, inputs):
    entrance = keras.Input(inputs.shape[1:])
    layer = _copy(neuron, inputs.shape)
    model = keras.Model(entrance, layer(entrance))
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        try:
            loaded = keras.saving.load_model(Path(folder) / "model.keras")
        except (TypeError, ValueError) as error:
            raise AssertionError(
                f"file: {type(neuron).__name__} can't be loaded. Has it the decorator "
                "`@keras.saving.register_keras_serializable()`?"
            ) from error
    wanted = [ops.convert_to_numpy(model(inputs))]
    _same("file: saved and loaded", [ops.convert_to_numpy(loaded(inputs))], wanted)


def _equation(neuron, inputs, step):
    found = _whole(neuron, inputs)
    cell = neuron.cell
    states = [
        np.asarray(ops.convert_to_numpy(state), "float64")
        for state in cell.get_initial_state(batch_size=len(inputs))
    ]
    outputs = []
    for x in np.moveaxis(inputs.astype("float64"), 1, 0):
        output, *states = step(x, *states)
        outputs.append(output)
    _same("equation: `step`", found, [np.stack(outputs, axis=1), *states])
