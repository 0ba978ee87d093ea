"""The graph of a model: its calls, what has time, what layers are."""

import inspect

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import ops

from keras_snn import graph
from keras_snn import layers as snn

L = keras.layers


@pytest.mark.once
def test_keras_keeps_its_graph_as_we_know_it():
    known = {
        keras.Function: ("_run_through_graph",),
        keras.layers.Layer: ("_flatten_layers",),
    }
    for owner, names in known.items():
        for name in names:
            assert hasattr(owner, name), (
                f"Keras {keras.__version__} has no {owner.__name__}.{name}: keras_snn/graph.py, "
                "the one file with private names of Keras, has to be adapted."
            )
    inputs = keras.Input((1,))
    model = keras.Model(inputs, inputs + 1)
    assert model._inputs_struct is not None
    assert "operation_fn" in inspect.signature(model._run_through_graph).parameters


def two_inputs(structure):
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    return keras.Model(structure(a, b), L.Concatenate()([a, b]))


@pytest.mark.once
@pytest.mark.parametrize(
    ("structure", "values", "expected"),
    [
        (lambda a, b: [b, a], {"a": 1, "b": 2}, [2, 1]),
        (lambda a, b: [b, a], [2, 1], [2, 1]),
        (lambda a, b: [b, a], (2, 1), [2, 1]),
        (lambda a, b: {"b": b, "a": a}, {"b": 2, "a": 1, "more": 0}, [1, 2]),
        (lambda a, b: (a, [b]), (1, [2]), [1, 2]),
    ],
)
def test_inputs_in_order(structure, values, expected):
    model = two_inputs(structure)
    assert graph.in_order(model, values) == expected
    arrays = keras.tree.map_structure(lambda v: np.zeros((1, v + 1), "float32"), values)
    if "more" not in values:
        model.predict(arrays, verbose=0)  # Keras takes them in the same way
    assert [x.shape[1] for x in model.inputs] == [v + 1 for v in expected]


@pytest.mark.once
@pytest.mark.parametrize("values", [{"a": 1}, [1], [1, 2, 3]])
def test_inputs_that_are_missing_or_too_many(values):
    with pytest.raises(ValueError, match="inputs"):
        graph.in_order(two_inputs(lambda a, b: [b, a]), values)


class Opaque(keras.Model):
    def call(self, x):
        return 2 * x


def deep():
    """A layer called twice, a block called twice, one in `FoldTime`, one that hides its layers."""
    neuron = snn.IF(name="neuron")
    block = keras.Sequential([keras.Input((3, 4)), L.Dense(4, name="dense"), neuron], name="block")
    step = keras.Sequential([keras.Input((4,)), L.Dense(4, name="inner"), L.ReLU()], name="step")
    inputs = keras.Input((3, 4))
    x = block(block(inputs))
    x = snn.FoldTime(step, name="fold")(neuron(x))
    x = Opaque(name="opaque")(neuron(x))
    return keras.Model(inputs, {"end": snn.MeanOverTime(name="mean")(x)})


@pytest.mark.once
def test_names_of_calls():
    seen = []
    outputs = graph.run(deep(), ["x"], lambda call: seen.append(call.name) or len(seen))
    names = ["block/dense", "block/neuron", "block:1/dense", "block:1/neuron", "neuron"]
    names += ["fold/inner", "fold/re_lu", "neuron:1", "opaque", "mean"]
    assert [n.replace("_1", "") for n in seen] == names
    assert outputs == {"end": len(names)}


def test_a_trace_computes_what_the_model_does():
    model = deep()
    found = graph.trace(model)
    again = keras.Model(found.inputs, found.outputs)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    expected = model.predict(x, verbose=0)["end"]
    np.testing.assert_array_equal(to_numpy(again(x)), expected)
    assert [call.index for call in found.calls if call.layer.name == "neuron"] == [0, 0, 0, 1]
    opaque = next(call for call in found.calls if call.name == "opaque")
    assert opaque.time == "unknown"
    assert opaque.products is None


@pytest.mark.once
def test_subclassed_models_have_no_graph():
    class Changed(keras.Model):
        def call(self, x):
            return 3 * super().call(x)

    inputs = keras.Input((2,))
    for model in (Opaque(), Changed(inputs, L.Dense(1)(inputs)), keras.Sequential([L.Dense(1)])):
        assert graph.functional(model) is None
        with pytest.raises(TypeError, match="functional or Sequential"):
            graph.trace(model)


def image_and_sequence():
    image, events = keras.Input((4,)), keras.Input((3, 4))
    a = snn.RepeatTime(3)(L.Dense(4)(image))
    return [image, events], snn.MeanOverTime()(snn.IF()(L.Add()([a, events])))


def with_state():
    x, v = keras.Input((3, 4)), keras.Input((4,))
    return [x, v], snn.IF()(x, initial_state=[v])


def across_before_a_neuron():
    x = keras.Input((8, 4))
    return [x], snn.IF()(L.Conv1D(4, 3, padding="causal")(x))


def repeated_vector():
    x = keras.Input((4,))
    return [x], L.LSTM(2)(L.RepeatVector(3)(x))


def flattened_frames():
    x = keras.Input((3, 4))
    return [x], L.Dense(2)(L.Flatten()(snn.IF()(x)))


def image_network():
    x = keras.Input((6, 6, 3))
    return [x], L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(x)))


@pytest.mark.once
@pytest.mark.parametrize(
    ("build", "inputs", "output"),
    [
        (image_and_sequence, [False, True], False),
        (with_state, [True, False], True),
        (across_before_a_neuron, [True], True),
        (repeated_vector, [False], False),
        (flattened_frames, [True], False),
        (image_network, [False], False),
    ],
)
def test_what_has_time(build, inputs, output):
    found = graph.trace(keras.Model(*build()))
    assert found.timed == inputs
    assert found.calls[-1].timed is output


X = (5, 4, 4, 3)  # (time, height, width, channels)
TIMES = {
    "a dense layer": (lambda x: L.Dense(2)(x), "per step"),
    "channels": (lambda x: L.Concatenate(axis=4)([x, x]), "per step"),
    "steps": (lambda x: L.Concatenate(axis=1)([x, x]), "across"),
    "softmax of classes": (lambda x: L.Softmax()(x), "per step"),
    "softmax over time": (lambda x: L.Softmax(axis=1)(x), "across"),
    "normalised steps": (lambda x: L.BatchNormalization(axis=1)(x), "across"),
    "normalised channels": (lambda x: L.BatchNormalization()(x), "per step"),
    "all axes": (lambda x: L.LayerNormalization(axis=[1, 2, 3, 4])(x), "across"),
    "a convolution of volumes": (lambda x: L.Conv3D(2, 1)(x), "across"),
    "folded": (lambda x: snn.FoldTime(L.Conv2D(2, 1))(x), "per step"),
    "distributed": (lambda x: L.TimeDistributed(L.Conv2D(2, 1))(x), "per step"),
    "flattened": (lambda x: L.Flatten()(x), "across"),
    "maps flattened": (lambda x: L.Reshape((5, 48))(x), "per step"),
    "time flattened": (lambda x: L.Reshape((20, 12))(x), "across"),
    "an op": (lambda x: ops.sigmoid(x), "pointwise"),
    "a sum over time": (lambda x: ops.cumsum(x, axis=1), "across"),
    "a sum of channels": (lambda x: ops.sum(x, axis=-1), "per step"),
    "a sum of all": (lambda x: ops.sum(x), "across"),
    "the last step": (lambda x: x[:, -1], "across"),
    "a crop": (lambda x: x[:, :, 1:], "per step"),
    "swapped maps": (lambda x: ops.transpose(x, (0, 1, 3, 2, 4)), "per step"),
    "swapped time": (lambda x: ops.transpose(x, (0, 2, 1, 3, 4)), "across"),
    "a lambda": (lambda x: L.Lambda(lambda z: z)(x), "unknown"),
    "a neuron": (lambda x: snn.IF()(x), "recurrent"),
    "a readout": (lambda x: snn.MeanOverTime()(x), "removes"),
}


@pytest.mark.once
@pytest.mark.parametrize("name", TIMES)
def test_what_layers_do_to_time(name):
    layer, expected = TIMES[name]
    inputs = keras.Input(X)
    assert graph.trace(keras.Model(inputs, layer(snn.IF()(inputs)))).calls[1].time == expected


@pytest.mark.once
def test_subclasses_with_a_call_are_unknown_until_registered():
    class Mixing(L.Dense):
        def call(self, x):
            return super().call(ops.flip(x, axis=1))

    class Renamed(L.Dense):
        pass

    assert graph.role_of(Mixing(2)).time == "unknown"
    assert graph.role_of(Renamed(2)) is graph.role_of(L.Dense(2))
    graph.register(Mixing, "across", products=None)
    assert graph.role_of(Mixing(2)).time == "across"
    with pytest.raises(ValueError, match=r"`time`.*'sideways'"):
        graph.register(Mixing, "sideways")


GEOMETRIES = [
    (L.Conv1D, 1, {"padding": "causal", "dilation_rate": 2}),
    (L.Conv1D, 1, {"padding": "same", "strides": 2}),
    (L.Conv2D, 2, {"padding": "valid", "strides": (2, 1)}),
    (L.Conv2D, 2, {"padding": "same", "strides": 3}),
    (L.Conv2DTranspose, 2, {"padding": "same", "strides": 2}),
    (L.Conv2DTranspose, 2, {"padding": "valid", "strides": 2}),
    (L.Conv1DTranspose, 1, {"padding": "same", "strides": 3}),
    (snn.PaddedConv2D, 2, {"padding": "symmetric", "strides": 2}),
]


@pytest.mark.once
@pytest.mark.parametrize(("layer", "rank", "arguments"), GEOMETRIES)
def test_reach_of_convolutions(layer, rank, arguments):
    """A kernel of ones sends an impulse to as many outputs as its place takes part in."""
    sizes = (7, 6)[:rank]
    layer = layer(1, 3, use_bias=False, kernel_initializer="ones", **arguments)
    impulses = np.eye(np.prod(sizes)).reshape(-1, *sizes, 1)
    expected = to_numpy(layer(impulses)).sum(axis=tuple(range(1, rank + 2))).reshape(sizes)
    found = graph.Geometry.of(layer, impulses.shape)
    np.testing.assert_array_equal(found.reach(), expected)
    model = keras.Model(x := keras.Input((*sizes, 1)), layer(x))
    (product,) = graph.trace(model).calls[0].products
    assert product.reach.sum() == expected.sum()
    places = sizes if found.transposed else found.outputs
    assert product.macs == np.prod(places) * 3**rank


@pytest.mark.once
@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (lambda: L.Dense(5), (4,), [4 * 5]),
        (lambda: L.Conv2D(8, 3, groups=2, padding="same"), (6, 6, 4), [36 * 9 * 2 * 8]),
        (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 4), [16 * 9 * 8]),
        (lambda: L.SeparableConv2D(5, 3, depth_multiplier=2), (6, 6, 4), [16 * 72, 16 * 8 * 5]),
    ],
)
def test_multiplications_of_layers(layer, shape, macs):
    inputs = keras.Input((3, *shape))
    folded = keras.Model(inputs, snn.FoldTime(layer())(inputs))
    (call,) = graph.trace(folded).calls
    assert [p.macs for p in call.products] == macs
    assert all(p.each_step for p in call.products)
    alone = keras.Model(x := keras.Input(shape), layer()(x))
    assert [p.macs for p in graph.trace(alone).calls[0].products] == macs


def test_a_normalisation_as_scale_and_shift():
    layer = L.BatchNormalization(epsilon=1e-2)
    layer.build((None, 3))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.uniform(0.5, 2, 3))
    scale, shift = graph.normalization(layer)
    x = rng.normal(size=(4, 3)).astype("float32")
    np.testing.assert_allclose(to_numpy(layer(x)), scale * x + shift, rtol=1e-5, atol=1e-5)


STEPS, FEATURES = 4, 6
PRODUCTS = {  # of one example: `(macs, what is read, whether each step)`
    "LSTM": (lambda x: L.LSTM(5)(x), [(6 * 20, 0, True), (5 * 20, "output", True)]),
    "GRU": (lambda x: L.GRU(5)(x), [(6 * 15, 0, True), (5 * 15, "output", True)]),
    "two directions": (
        lambda x: L.Bidirectional(L.SimpleRNN(5))(x),
        [(30, 0, True), (25, "output", True)] * 2,
    ),
    "stacked cells": (
        lambda x: L.RNN([L.LSTMCell(3), L.SimpleRNNCell(2)])(x),
        [(6 * 12, 0, True), (3 * 12, "values", True), (6, "values", True), (4, "output", True)],
    ),
    "a stack that ends in spikes": (
        lambda x: snn.SpikingRNN([L.LSTMCell(3), snn.LIFCell()])(x),
        [(6 * 12, 0, True), (3 * 12, "values", True)],
    ),
    "spikes within a stack": (lambda x: snn.SpikingRNN([snn.LIFCell(), L.LSTMCell(3)])(x), None),
    "its own spikes": (
        lambda x: snn.Recurrent(snn.LIFCell(), L.Dense(6))(x),
        [(36, "output", True)],
    ),
    "parallel": (lambda x: snn.PSN()(x), [(4 * 6, 0, True)]),
    "sliding": (lambda x: snn.SlidingPSN(3)(x), [(3 * 6, 0, True)]),
    "einsum": (
        lambda x: L.EinsumDense("btd,de->bte", output_shape=(None, 5))(x),
        [(30, 0, True)],
    ),
    "einsum over time": (
        lambda x: L.EinsumDense("btd,ts->bsd", output_shape=(3, 6))(x),
        [(4 * 6 * 3, 0, False)],
    ),
    "attention": (lambda x: L.Attention()([x, x]), [(96, (0, 1), False), (96, 1, False)]),
    "heads": (  # four projections to two heads of three, scores, and what they weigh
        lambda x: L.MultiHeadAttention(2, 3)(x, x),
        [(144, 0, False)] * 3 + [(96, "values", False)] * 2 + [(144, "values", False)],
    ),
    "groups of heads": (
        lambda x: L.GroupQueryAttention(3, 4, 2)(x, x),
        [(288, 0, False)] + [(144, 0, False)] * 2 + [(192, "values", False)] * 2
        + [(288, "values", False)],
    ),
    "a constant matrix": (lambda x: x @ np.ones((6, 5), "float32"), [(30, 0, True)]),
    "two tensors": (lambda x: ops.einsum("btd,bsd->bts", x, x), [(4 * 4 * 6, (0, 1), False)]),
    "dot": (lambda x: L.Dot(axes=2)([x, x]), [(96, (0, 1), False)]),
    "cosines": (lambda x: L.Dot(axes=2, normalize=True)([x, x]), [(96, "values", False)]),
    "embedding": (lambda x: L.Embedding(9, 4)(x), []),
    "unknown": (lambda x: L.Lambda(lambda z: z)(x), None),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("name", PRODUCTS)
def test_multiplications_over_time(name):
    layer, expected = PRODUCTS[name]
    inputs = keras.Input((STEPS, FEATURES))
    products = graph.trace(keras.Model(inputs, layer(snn.IF()(inputs)))).calls[1].products
    found = None if products is None else [(p.macs, p.reads, p.each_step) for p in products]
    assert found == expected


@pytest.mark.once
def test_masks_have_time():
    inputs, mask = keras.Input((4, 3)), keras.Input((4,), dtype="bool")
    found = graph.trace(keras.Model([inputs, mask], snn.IF()(inputs, mask=mask)))
    assert found.timed == [True, True]
    assert found.calls[0].masks == [found.inputs[1]]
    assert found.calls[0].argument("initial_state") is None
