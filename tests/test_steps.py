"""Any neuron in a compiled loop by its `step`: the plain loop's numbers, or the plain loop.

On PyTorch what its compiler is given runs by PyTorch's own operations, but for one test: it takes
too long.
"""

import collections
import shutil

import keras
import numpy as np
import pytest
import reference
from helpers import to_numpy
from keras import ops

from keras_snn import kernels, layers, memory, surrogates
from keras_snn.kernels import tuning

BACKEND = keras.backend.backend()
SHAPE = (2, 7, 3, 2)


class TraceCell(layers.SpikingCell):
    """What a user may write: two states, two learned gains, a function of Keras."""

    initial_values = (None, 0.0)

    def build(self, input_shape):
        super().build(input_shape)
        self.gain = self.add_parameter("gain", 0.8, "channel")
        self.pull = self.add_weight(name="pull", shape=(), initializer="ones")

    def step(self, x, states):
        v, a = states
        h = 0.8 * v + self.gain * x - self.pull * ops.tanh(a)
        spikes = self.fire(h)
        return spikes, [self.reset_membrane(h, spikes), 0.9 * a + spikes]


def at_once(monkeypatch, compiled=False):
    """PyTorch's kernels from the first call on; `compiled`, or as the compiler is given them."""
    if BACKEND == "torch":
        from keras_snn.kernels import torch_steps

        monkeypatch.setattr(tuning, "TORCH_ELEMENTS", 0)
        monkeypatch.setattr(tuning, "TORCH_COMPILE_AFTER", 0)
        monkeypatch.setattr(torch_steps, "KERNELS", collections.OrderedDict())
        if not compiled:
            from torch.fx.experimental.proxy_tensor import make_fx

            monkeypatch.setattr(torch_steps, "_kernel", lambda f, *given: make_fx(f)(*given))


class ExpandingCell(TraceCell):
    """The same; its gain has an axis for the batch."""

    def step(self, x, states):
        v, a = states
        gain = ops.expand_dims(self.gain, 0)
        assert len(gain.shape) == 2
        h = 0.8 * v + gain * x - ops.expand_dims(self.pull, 0) * ops.tanh(a)
        spikes = self.fire(h)
        return spikes, [self.reset_membrane(h, spikes), 0.9 * a + spikes]


@pytest.fixture
def taken(monkeypatch):
    """Of each call whether the compiled loop ran."""
    at_once(monkeypatch)
    answers, run = [], kernels.run_steps

    def spy(*args):
        answer = run(*args)
        answers.append(answer is not None)
        return answer

    monkeypatch.setattr(kernels, "run_steps", spy)
    return answers


USERS = {"user": TraceCell, "expanding": ExpandingCell}


def create(name, **changes):
    if name in USERS:
        return layers.SpikingRNN(
            USERS[name](trainable_threshold=True, detach_reset=False), **changes
        )
    given = reference.arguments(name)
    if "threshold" in given and name != "GLIF":
        given |= {"trainable_threshold": True, "parameter_shape": "channel"}
    return getattr(layers, name)(**given, **changes)


def compiled(function):
    """A function of tensors as models run it."""
    if BACKEND == "torch":
        return function
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, autograph=False)


def slopes(loss, variables):
    """`f(*inputs)`: gradients of `loss(*inputs)` to the inputs and variables, or 0."""
    if BACKEND == "jax":
        import jax

        def run(*inputs):
            def scoped(inputs, values):
                if not values:  # a scope would hide the one around
                    return loss(*inputs)
                with keras.StatelessScope(list(zip(variables, values))):
                    return loss(*inputs)

            of_inputs, of_values = jax.grad(scoped, (0, 1))(inputs, [v.value for v in variables])
            return [*of_inputs, *of_values]

    elif BACKEND == "torch":
        import torch

        def run(*inputs):
            again = any(z.requires_grad for z in inputs)
            inputs = [z if again else z.detach().requires_grad_() for z in inputs]
            learned = [*inputs, *(v.value for v in variables)]
            wanted = {"create_graph": again, "allow_unused": True, "materialize_grads": True}
            return torch.autograd.grad(loss(*inputs), learned, **wanted)

    else:
        import tensorflow as tf

        def run(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = loss(*inputs)
            learned = [*inputs, *(v.value for v in variables)]
            return tape.gradient(value, learned, unconnected_gradients="zero")

    return run


def outputs_and_gradients(layer, mask, dtype):
    """Outputs, states and all gradients of a layer, as arrays."""
    rng = np.random.default_rng(0)
    x, up = (rng.normal(mean, 1.0, SHAPE).astype(dtype) for mean in (0.6, 0.0))
    count = len(layer.cell.initial_values)
    first, last = (rng.normal(size=(count, *SHAPE[:1], *SHAPE[2:])).astype(dtype) for _ in "ab")
    layer.return_state = True
    up = ops.array(up if layer.return_sequences else up[:, 0])
    keep = {} if mask is None else {"mask": ops.array(mask)}

    def call(x, *states):
        return layer(x, initial_state=list(states), training=True, **keep)

    def loss(*inputs):
        y, *states = call(*inputs)
        parts = zip([y, *states], [up, *map(ops.array, last)])
        return sum(ops.sum(a * b) for a, b in parts)

    inputs = [ops.array(x), *(ops.array(state) for state in first)]
    gradients = slopes(loss, layer.trainable_variables)
    found = compiled(lambda *z: (call(*z), list(gradients(*z))))(*inputs)
    return [to_numpy(z) for z in keras.tree.flatten(found)]


def compare(name, mask=None, dtype="float32", **changes):
    """The compiled loop beside the plain one; gradients to 1e-6, to 1e-12 in float64."""
    found = []
    keras.utils.set_random_seed(0)
    first = create(name, dtype=dtype, **changes)
    second = create(name, dtype=dtype, **changes)
    second.use_fused = False
    for layer in (first, second):
        layer.build(SHAPE)
    second.set_weights(first.get_weights())
    found = [outputs_and_gradients(layer, mask, dtype) for layer in (first, second)]
    tolerance = 2e-6 if dtype == "float32" else 1e-12
    assert len(found[0]) == len(found[1]) and np.abs(found[0][0]).max() > 0
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


MASK = np.array([[0, 1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 1, 1, 1]], bool)


@pytest.mark.parametrize("name", USERS)
def test_any_neuron_is_the_plain_loop(name, taken):
    compare(name, mask=MASK)
    assert taken == [True, True]


@pytest.mark.skipif(BACKEND == "jax", reason="what follows the loop is the same")
@pytest.mark.parametrize("sequences", [True, False])
def test_masked_steps_hold_the_last_output(sequences, taken):
    compare("Accumulator", mask=MASK, return_sequences=sequences)
    assert taken[-1]


def test_all_neurons_of_the_library_take_it(taken):
    """A graph is made and not run."""
    mask = ops.ones(SHAPE[:2], "bool")
    for name in reference.NEURONS:
        layer = create(name)
        layer.build(SHAPE)
        if BACKEND == "jax":
            import jax

            jax.eval_shape(lambda x, layer=layer: layer(x, mask=mask), ops.ones(SHAPE))
        elif BACKEND == "torch":
            layer(ops.ones(SHAPE), mask=mask)
        else:
            import tensorflow as tf

            call = tf.function(lambda x, layer=layer: layer(x, mask=mask), autograph=False)
            call.get_concrete_function(tf.TensorSpec((None, *SHAPE[1:])))
    others = 4  # which have a form of their own with masks
    assert taken == [True] * (len(reference.NEURONS) - others)


def test_second_derivatives(taken):
    """Of a gradient penalty, to currents and weights."""
    found = []
    for use_fused in (True, False):
        layer = create("QIF", surrogate="sigmoid", dtype="float32")
        layer.use_fused = use_fused
        layer.build((2, 6, 2))
        x = ops.array(np.random.default_rng(0).normal(0.6, 1, (2, 6, 2)), "float32")
        inner = slopes(lambda x, layer=layer: ops.sum(ops.sin(layer(x))), [])
        outer = slopes(lambda x, f=inner: ops.sum(f(x)[0] ** 2), layer.trainable_variables)
        found.append([to_numpy(z) for z in compiled(outer)(x)])
    for a, b in zip(*found, strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    assert taken and all(taken)


class Counting(layers.IFCell):
    """A threshold that rises with the steps it counts in Python."""

    def step(self, x, states):
        self.steps = getattr(self, "steps", 0) + 1
        h = self.charge(states[0], x)
        spikes = self.fire(h, 0.5 * self.steps)
        return spikes, [self.reset_membrane(h, spikes)]


class Listing(layers.IFCell):
    """The same, in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.steps = []

    def step(self, x, states):
        self.steps.append(0)
        return Counting.step(_Steps(self), x, states)


class _Steps:
    def __init__(self, cell):
        self.__dict__.update(
            steps=len(cell.steps) - 1,
            charge=cell.charge,
            fire=cell.fire,
            reset_membrane=cell.reset_membrane,
        )


class Remembering(layers.IFCell):
    """Inhibits by the spikes of the step before, kept as an attribute."""

    last = 0.0

    def step(self, x, states):
        spikes, states = super().step(x - self.last, states)
        self.last = 0.5 * ops.stop_gradient(spikes)
        return spikes, states


class Inhibiting(layers.IFCell):
    """Neurons that read each other."""

    def step(self, x, states):
        return super().step(x - ops.mean(states[0], axis=-1, keepdims=True), states)


class Rolling(layers.IFCell):
    def step(self, x, states):
        return super().step(x + ops.roll(states[0], 1, axis=0), states)


class Noisy(layers.IFCell):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(3)

    def step(self, x, states):
        return super().step(x + keras.random.normal(ops.shape(x), seed=self.seed), states)


class Adding(layers.IFCell):
    """Counts its spikes in a variable."""

    def build(self, input_shape):
        super().build(input_shape)
        self.count = self.add_weight(name="count", shape=(), trainable=False, initializer="zeros")

    def step(self, x, states):
        spikes, states = super().step(x - 0.1 * self.count, states)
        self.count.assign(self.count + ops.stop_gradient(ops.mean(spikes)))
        return spikes, states


ODD = [Counting, Listing, Remembering, Inhibiting, Rolling, Noisy, Adding]


@pytest.mark.parametrize("cell", ODD)
def test_what_is_no_function_of_input_and_states_takes_the_plain_loop(cell, taken):
    if BACKEND == "jax" and cell in (Inhibiting, Rolling):
        pytest.skip("a compiled loop is right there too")
    x = ops.array(np.random.default_rng(0).normal(0.6, 1, (2, 6, 3)), "float32")
    found = []
    for use_fused in (True, False):
        layer = layers.SpikingRNN(cell(surrogate="sigmoid"))
        layer.use_fused = use_fused
        layer.build(x.shape)
        if BACKEND == "jax":
            # Functions without side effects: assigned values are given back.
            run = slopes(lambda x, layer=layer: ops.sum(layer(x) ** 2), [])
            others = layer.non_trainable_variables

            def scoped(x, run=run, others=others):
                with keras.StatelessScope([(v, v.value) for v in others]):
                    return run(x)

            if cell is not Counting:  # compiled in seconds
                import jax

                jax.eval_shape(scoped, x)
                assert taken == [False]
                return
            run = compiled(scoped)
        else:
            run = compiled(slopes(lambda x, layer=layer: ops.sum(layer(x) ** 2), []))
        found.append([to_numpy(z) for z in run(x)])
        steps = getattr(layer.cell, "steps", [])
        found[-1].append(np.array(steps if isinstance(steps, int) else len(steps)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert taken == [False]


needs_torch = pytest.mark.skipif(BACKEND != "torch", reason="others compile at once")


@needs_torch
def test_pytorch_compiles_it(monkeypatch):
    """The same numbers by kernels, of strides and shapes that no test before had."""
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("there is no compiler of C++")
    from keras_snn.kernels import torch_steps

    at_once(monkeypatch, compiled=True)
    compare("user", mask=MASK)
    assert list(map(type, torch_steps.KERNELS.values())) == [torch_steps.Kernels]


@needs_torch
def test_what_changes_is_another_step(taken):
    """A threshold, and a surrogate's slope, that change between calls."""
    x = ops.array(np.random.default_rng(0).normal(0.6, 1, (2, 6, 3)), "float32")
    fused, plain = layers.QIF(surrogate="sigmoid"), layers.QIF(surrogate="sigmoid")
    plain.use_fused = False
    found = []
    for change in (None, ("threshold", 0.5), ("surrogate", surrogates.Sigmoid(alpha=1.0))):
        for layer in (fused, plain):
            layer.build(x.shape)
            if change:
                setattr(layer.cell, *change)
        both = [
            [to_numpy(f(x)), to_numpy(slopes(lambda x, f=f: ops.sum(f(x) ** 2), [])(x)[0])]
            for f in (fused, plain)
        ]
        np.testing.assert_array_equal(both[0][0], both[1][0])
        np.testing.assert_allclose(both[0][1], both[1][1], rtol=1e-5, atol=1e-6)
        found.append(both[0])
    assert all(taken)
    assert (found[0][0] != found[1][0]).any() and (found[1][1] != found[2][1]).any()


@needs_torch
def test_kernels_come_when_they_pay(taken, monkeypatch):
    """By a count of elements, which is kept until as many more were plain."""
    monkeypatch.setattr(tuning, "TORCH_COMPILE_AFTER", 2 * 36)
    monkeypatch.setattr(tuning, "TORCH_STEP_ELEMENTS", 0)
    layer, x = layers.QIF(), ops.ones((2, 6, 3))
    for _ in range(4):
        layer(x)
    assert taken == [False, False, True, True]
    layer.cell.threshold = 0.5
    for _ in range(4):
        layer(x)
    assert taken[4:] == [False, False, True, True]


@needs_torch
def test_without_a_compiler_the_plain_loop_runs(taken, monkeypatch):
    from keras_snn.kernels import torch_steps

    def missing(*args):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch_steps, "_kernel", missing)
    compare("user", mask=MASK)
    assert taken == [False, False]


@needs_torch
def test_what_is_computed_again_is_the_same(taken):
    """Segments that are computed anew in the backward pass."""
    model = memory.Remat([create("QIF")])
    x = ops.ones((2, 6, 3))
    x.requires_grad_()
    for _ in range(2):
        ops.sum(model(x, training=True)).backward()
    assert not any(taken)


@needs_torch
def test_masks_of_neurons_with_a_form_of_their_own(taken):
    from keras_snn.kernels import torch_steps

    rng = np.random.default_rng(0)
    x, mask = ops.array(rng.normal(0.6, 1, SHAPE), "float32"), ops.array(MASK)
    found = []
    for use_fused in (True, False):
        layer = layers.LIF(surrogate="sigmoid")
        layer.use_fused = use_fused
        loss = slopes(lambda x, f=layer: ops.sum(f(x, mask=mask) ** 2 * x), [])
        found.append([to_numpy(layer(x, mask=mask)), to_numpy(loss(x)[0])])
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)
    assert len(torch_steps.KERNELS) == 2  # with a gradient, and without
