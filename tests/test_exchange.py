"""NIR and ONNX: what is written is read back, and runs elsewhere with the same spikes."""

import itertools
import re

import keras
import numpy as np
import pytest
from helpers import to_numpy
from nir_by_hand import DT, simulate
from test_export import STEPS, clips, convolutions, sequence_net, with_tensorflow

from keras_snn import export, layers
from keras_snn.export.nir.common import FIELDS


def body():
    """Convolutions, strides and padding, a residual sum, pooling, flatten, dense layers."""
    keras.utils.set_random_seed(3)
    fold, conv = layers.FoldTime, keras.layers.Conv2D
    strong = keras.initializers.RandomNormal(0.1, 0.4)
    inputs = keras.Input((STEPS, 7, 9, 2))
    x = fold(conv(4, 3, padding="same", bias_initializer="ones", name="c1"), name="conv1")(inputs)
    x = skip = layers.IF(name="if1")(x)
    x = fold(conv(4, 3, padding="same", kernel_initializer=strong), name="conv2")(x)
    x = layers.SpikeConnection("add", name="add")([layers.LIF(tau=2.0, name="lif1")(x), skip])
    x = fold(keras.layers.ZeroPadding2D(1), name="pad")(x)
    x = fold(conv(6, 3, 2, use_bias=False, kernel_initializer=strong), name="conv3")(x)
    x = layers.IF(name="if2")(x)
    padded = layers.PaddedConv2D(6, 3, 2, "symmetric", kernel_initializer=strong)
    x = layers.IF(name="if4")(fold(padded, name="conv4")(x))
    x = fold(keras.layers.AveragePooling2D(2), name="pool")(x)
    x = fold(keras.layers.Flatten(), name="flatten")(x)
    x = keras.layers.Dense(12, kernel_initializer=strong, name="dense1")(x)
    x = layers.LIF(tau=3.0, decay_input=False, threshold=0.7, name="lif2")(x)
    x = keras.layers.Dense(5, use_bias=False, kernel_initializer=strong, name="dense2")(x)
    return keras.Model(inputs, layers.IF(threshold=0.5, name="if3")(x))


@pytest.mark.once
def test_nir_and_back(tmp_path):
    pytest.importorskip("nir", reason="needs the extra `nir`")
    model = body()
    x = clips(model, 8)
    export.to_nir(model, tmp_path / "net.nir")
    assert [p.name for p in tmp_path.iterdir()] == ["net.nir"]
    again = export.from_nir(tmp_path / "net.nir", timesteps=STEPS)
    wanted, found = to_numpy(model(x)), to_numpy(again(x))
    assert 0.05 < wanted.mean() < 0.95
    np.testing.assert_array_equal(found, wanted)
    assert again.count_params() == model.count_params() + 6  # NIR's convolutions have biases


def test_norse_reads_it():
    pytest.importorskip("nir", reason="needs the extra `nir`")
    norse = pytest.importorskip("norse.torch", reason="needs the extra `peers`")
    torch = pytest.importorskip("torch")
    keras.utils.set_random_seed(3)
    strong = keras.initializers.RandomNormal(0.1, 0.4)
    inputs = keras.Input((STEPS, 6, 6, 2))
    x = layers.FoldTime(keras.layers.Conv2D(4, 3, padding="same"), name="conv")(inputs)
    x = layers.LIF(tau=2.0, threshold=0.5, name="lif1")(x)
    x = layers.FoldTime(keras.layers.Flatten(), name="flatten")(x)
    x = keras.layers.Dense(12, kernel_initializer=strong, name="dense")(x)
    model = keras.Model(inputs, layers.LIF(tau=4.0, threshold=0.3, name="lif2")(x))
    net = norse.from_nir(export.to_nir(model, dt=1e-3), dt=1e-3)
    data = clips(model, 8)
    wanted = to_numpy(model(data))
    assert 0.05 < wanted.mean() < 0.95
    for clip, spikes in zip(data, wanted):
        state = None
        for frame, now in zip(clip, spikes):
            frame = torch.tensor(frame.transpose(2, 0, 1))
            found, state = net(frame, state)
            np.testing.assert_array_equal(found.detach().numpy().ravel(), now)


def strong():
    return keras.initializers.RandomNormal(0.1, 0.5)


def dense(units, **kwargs):
    return keras.layers.Dense(
        units, kernel_initializer=strong(), bias_initializer=strong(), **kwargs
    )


def conv(filters, size, strides=1, padding="valid", **kwargs):
    kwargs |= {"kernel_initializer": strong(), "bias_initializer": strong()}
    return layers.PaddedConv2D(filters, size, strides, padding, **kwargs)


def norm():
    one = keras.initializers.RandomUniform(0.5, 1.5)
    names = ("beta", "gamma", "moving_mean", "moving_variance")
    return keras.layers.BatchNormalization(**{f"{name}_initializer": one for name in names})


def fold(*every):
    return [layers.FoldTime(layer) for layer in every]


def chain(shape, *every):
    return keras.Sequential([keras.Input((STEPS, *shape)), *every])


def pad(*zeros):
    return keras.layers.ZeroPadding2D(zeros if len(zeros) > 1 else zeros[0])


def per_neuron(layer, low=0.2, high=1.5):
    """A layer whose parameters are to be spread over its neurons, see `spread`."""
    layer.low_high = low, high
    return layer


def spread(model):
    for layer in model.layers:
        if hasattr(layer, "low_high"):
            for weight in layer.trainable_weights:
                values = np.linspace(*layer.low_high, int(np.prod(weight.shape)))
                weight.assign(values.reshape(weight.shape))
    return model


def twice():
    """A dense layer and a neuron called twice, and two sums."""
    shared, neuron, inputs = dense(3), layers.LIF(threshold=0.5), keras.Input((STEPS, 3))
    x = neuron(shared(neuron(shared(inputs))))
    return keras.Model(inputs, keras.layers.Add()([x, shared(inputs)]) + inputs)


def normalized_once():
    """A convolution that a batch normalisation reads, and another layer too."""
    inputs = keras.Input((STEPS, 6, 6, 2))
    x = layers.FoldTime(conv(2, 3, padding="same"))(inputs)
    y = layers.FoldTime(norm())(x)
    return keras.Model(inputs, keras.layers.Add()([x, y]))


def nested():
    inputs = keras.Input((STEPS, 3))
    x = layers.LIF(threshold=0.4)(dense(3)(inputs))
    block, inputs = keras.Model(inputs, x, name="block"), keras.Input((STEPS, 3))
    return keras.Model(inputs, block(block(inputs)))


MAP, FLAT = (6, 6, 2), keras.layers.Flatten
LIF, IF = layers.LIF, layers.IF
# Models that NIR can hold.
WRITTEN = {
    "padding, pooling": lambda: chain(MAP, *fold(pad(1), keras.layers.AveragePooling2D(2))),
    "padding, flatten": lambda: chain(MAP, *fold(pad(1), FLAT(), dense(3))),
    "padding twice": lambda: chain(MAP, *fold(pad(1), pad((1, 2), (0, 1)), conv(3, 3))),
    "padding, output": lambda: chain(MAP, *fold(conv(2, 1), pad((0, 1), (2, 0)))),
    "padding, neuron": lambda: chain(MAP, *fold(pad(1)), IF(v_reset=-0.5)),
    "padding, normalisation": lambda: chain(MAP, *fold(pad(1), norm(), conv(2, 3))),
    "padding, symmetric": lambda: chain(MAP, *fold(pad(1), conv(3, 3, 2, "symmetric"))),
    "padding, dilation": lambda: chain(MAP, *fold(pad(2), conv(3, 3, dilation_rate=2))),
    "padding, sum pooling": lambda: chain(MAP, IF(), *fold(pad(1), layers.SumPooling2D(3, 2))),
    "same, strides": lambda: chain(MAP, *fold(conv(3, 3, 2, "same")), LIF()),
    "same, even": lambda: chain(MAP, *fold(conv(3, (2, 4), 1, "same")), LIF()),
    "not square": lambda: chain(MAP, *fold(conv(3, (2, 3), (1, 2))), LIF()),
    "groups": lambda: chain(
        MAP, *fold(conv(4, 3, groups=2), keras.layers.DepthwiseConv2D(3, depth_multiplier=2))
    ),
    "Conv1D": lambda: chain(
        (7, 2),
        *fold(keras.layers.Conv1D(3, 3, 2, "same", kernel_initializer=strong())),
        *fold(keras.layers.ZeroPadding1D(1), keras.layers.Conv1D(2, 2, padding="causal"), FLAT()),
        dense(2),
    ),
    "global": lambda: chain(MAP, *fold(keras.layers.GlobalAveragePooling2D()), dense(2)),
    "global map": lambda: chain(MAP, *fold(keras.layers.GlobalAveragePooling2D(keepdims=True))),
    "normalisation behind": lambda: chain(MAP, *fold(conv(3, 3), norm()), LIF()),
    "normalisation, dense": lambda: chain((5,), dense(4, use_bias=False), norm(), LIF(), norm()),
    "normalisation, read twice": normalized_once,
    "tdBN": lambda: chain(
        MAP,
        *fold(conv(3, 3)),
        layers.ThresholdDependentBatchNormalization(0.7, 0.5, beta_initializer="ones"),
    ),
    "flatten, output": lambda: chain((3, 2, 4), *fold(FLAT())),
    "flatten, thresholds": lambda: spread(
        chain(
            (3, 2, 4),
            *fold(FLAT()),
            per_neuron(IF(trainable_threshold=True, parameter_shape="neuron")),
            dense(3),
        )
    ),
    "flatten, taus": lambda: spread(
        chain(
            (3, 2, 4),
            *fold(FLAT()),
            per_neuron(layers.ParametricLIF(parameter_shape="neuron", threshold=0.2)),
        )
    ),
    "flatten, recurrent": lambda: chain(
        (3, 2, 2),
        *fold(FLAT()),
        layers.Recurrent(layers.LIFCell(threshold=0.3), dense(12)),
        dense(2),
    ),
    "channel taus": lambda: spread(
        chain((3, 2, 4), per_neuron(layers.ParametricLIF(parameter_shape="channel", threshold=0.2)))
    ),
    "reshape": lambda: chain(
        (3, 2, 4),
        *fold(keras.layers.Reshape((6, 4))),
        LIF(threshold=0.3),
        *fold(keras.layers.Reshape((24,))),
        dense(3),
    ),
    "permute": lambda: chain((3, 2, 4), *fold(keras.layers.Permute((3, 1, 2)), FLAT()), dense(3)),
    "dense on maps": lambda: chain((4, 3, 2), dense(3), LIF()),
    "rescaling": lambda: chain(
        MAP,
        keras.layers.Rescaling(2.0),
        *fold(conv(2, 3)),
        keras.layers.Rescaling([0.5, 1.0], -0.3),
        keras.layers.Rescaling([1.0, 2.0]),
    ),
    "folded models": lambda: chain(
        MAP, *fold(keras.Sequential([conv(3, 3), norm(), FLAT(), dense(4)], name="block")), LIF()
    ),
    "TimeDistributed": lambda: chain(
        MAP, *(keras.layers.TimeDistributed(layer) for layer in (conv(3, 3), FLAT(), dense(3)))
    ),
    "tau of 1": lambda: chain(
        (3,),
        dense(3),
        LIF(tau=1.0, threshold=0.2),
        dense(3),
        layers.DecayLIF(decay=0.0, threshold=0.2),
        dense(3),
        layers.SynapticLIF(0.0, 0.0, threshold=0.2),
    ),
    "neurons": lambda: chain(
        (3,),
        LIF(tau=3.0, v_reset=-0.2, threshold=0.3),
        dense(3),
        layers.DecayLIF(0.3, v_reset=0.1),
        dense(3),
        layers.SynapticLIF(0.3, 0.6, v_reset=0.1),
        dense(3),
        LIF(tau=3.0, decay_input=False, strict=True),
    ),
    "integrators": lambda: chain(
        (3,),
        layers.LeakyIntegrator(tau=3.0, v_reset=0.2),
        layers.Accumulator(),
        layers.LeakyIntegrator(tau=2.5, decay_input=False),
    ),
    "recurrent": lambda: chain(
        (3,),
        layers.Recurrent(layers.LIFCell(tau=3.0, threshold=0.5), dense(3)),
        dense(2),
        layers.Recurrent(layers.SynapticLIFCell(0.3, 0.6), dense(2, use_bias=False)),
    ),
    "recurrent maps": lambda: chain(
        MAP,
        *fold(conv(3, 3)),
        layers.Recurrent(layers.LIFCell(threshold=0.5), conv(3, 3, 1, "symmetric")),
    ),
    "cells": lambda: chain(
        (3,), layers.SpikingRNN([layers.LIFCell(threshold=0.2), layers.IFCell()])
    ),
    "idle": lambda: chain(
        (3,), layers.TimeConstantDropout(0.5), keras.layers.GaussianNoise(1.0), dense(1)
    ),
    "repeated": lambda: keras.Sequential(
        [keras.Input(MAP), conv(3, 3), layers.RepeatTime(STEPS), LIF(threshold=0.3)]
    ),
    "called twice": twice,
    "nested": nested,
}


def values(node):
    """What a node holds, but for metadata, in comparable form."""
    found = {k: v for k, v in node.to_dict().items() if k not in ("metadata", "input_shape")}
    for key in {"stride", "padding", "dilation"} & found.keys():
        if not isinstance(found[key], str):
            found[key] = np.broadcast_to(found[key], 2)
    return found


def assert_same_graph(found, wanted):
    def clean(name):
        return re.sub(r"[^A-Za-z0-9_]", "_", name)

    assert {clean(n) for n in found.nodes} == {clean(n) for n in wanted.nodes}
    edges = [{(clean(a), clean(b)) for a, b in graph.edges} for graph in (found, wanted)]
    assert edges[0] == edges[1]
    found = {clean(name): node for name, node in found.nodes.items()}
    for name, node in wanted.nodes.items():
        new, old = values(found[clean(name)]), values(node)
        assert new.keys() == old.keys()
        for key, value in old.items():
            assert np.shape(new[key]) == np.shape(value), (name, key)
            if isinstance(value, str):
                assert new[key] == value
            else:
                np.testing.assert_allclose(new[key], value, 1e-6, err_msg=f"{name} {key}")


@pytest.mark.once
@pytest.mark.parametrize("name", WRITTEN)
def test_nir_says_what_the_model_does(name, tmp_path):
    pytest.importorskip("nir", reason="needs the extra `nir`")
    model, rng = WRITTEN[name](), np.random.default_rng(0)
    x = rng.normal(0.4, 0.6, (2, *model.input_shape[1:])).astype("float32")
    wanted = to_numpy(model(x))
    clips = x if x.shape[1] == STEPS else np.repeat(x[:, None], STEPS, 1)
    graph = export.to_nir(model, tmp_path / "net.nir")
    np.testing.assert_allclose(simulate(graph, clips), wanted, atol=1e-4)
    again = export.from_nir(tmp_path / "net.nir", timesteps=STEPS)
    found = to_numpy(again(clips))
    if np.all(np.isin(wanted, (0, 1))):
        assert 0 < wanted.mean() < 1
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert_same_graph(export.to_nir(again), graph)


@pytest.mark.once
def test_nir_flattens_channels_first():
    pytest.importorskip("nir", reason="needs the extra `nir`")
    model = chain((3, 2, 4), *fold(FLAT()), IF(trainable_threshold=True, parameter_shape="neuron"))
    thresholds = np.arange(1.0, 25.0).reshape(3, 2, 4)
    model.layers[-1].cell.threshold_weight.assign(thresholds.ravel())
    node = export.to_nir(model).nodes[model.layers[-1].name]
    np.testing.assert_array_equal(node.v_threshold, thresholds.transpose(2, 0, 1).ravel())


def graph_of(nir, shape, nodes, edges=None, output=None, type_check=True):
    """A graph of named nodes, one behind the other unless `edges` are given."""
    names = ["input", *nodes, "output"]
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array(output or shape))}
    every = {name: (nodes | ends)[name] for name in names}
    edges = list(itertools.pairwise(names)) if edges is None else edges
    return nir.NIRGraph(every, edges, type_check=type_check)


def uneven(nir, kind, *shape):
    """A neuron of NIR whose constants differ between units."""
    rng = np.random.default_rng(len(kind))
    ranges = {"tau": (1.5, 4), "r": (0.5, 3), "v_leak": (-0.3, 0.3), "v_threshold": (0.3, 1)}
    ranges |= {"v_reset": (-0.4, 0.1), "w_in": (0.5, 2), "threshold": (0.2, 0.8)}
    scale = {"tau": DT}
    fields = {
        name: rng.uniform(*ranges[name.split("_s")[0].split("_m")[0]], shape)
        * scale.get(name[:3], 1)
        for name in FIELDS[kind]
    }
    return getattr(nir, kind)(**fields)


def full(nir, kind, size, **fields):
    return getattr(nir, kind)(**{name: np.full(size, value) for name, value in fields.items()})


def matrix(nir, outputs, inputs, bias=False):
    rng = np.random.default_rng(outputs)
    weight = rng.normal(0.2, 0.6, (outputs, inputs)).astype("float32")
    return nir.Affine(weight, rng.normal(0, 0.3, outputs)) if bias else nir.Linear(weight)


def kernel(nir, outputs, inputs, *size, stride=1, padding=0, dilation=1):
    rng = np.random.default_rng(outputs)
    weight = rng.normal(0.1, 0.5, (outputs, inputs, *size)).astype("float32")
    kind = nir.Conv1d if len(size) == 1 else nir.Conv2d
    return kind(None, weight, stride, padding, dilation, 1, rng.normal(0, 0.2, outputs))


def braille(nir):
    """The graphs of NIR's paper that read Braille: names, edges and constants, but smaller."""
    nodes = {
        "fc1": matrix(nir, 4, 3, bias=True),
        "lif1.lif": full(
            nir, "CubaLIF", 4, tau_syn=20 / 9 * DT, tau_mem=10 * DT, r=10.0, v_leak=0.0,
            v_threshold=1.0, v_reset=0.0, w_in=20 / 9,
        ),
        "lif1.w_rec": matrix(nir, 4, 4, bias=True),
        "fc2": matrix(nir, 2, 4, bias=True),
        "lif2": full(
            nir, "CubaLIF", 2, tau_syn=2 * DT, tau_mem=20 / 9 * DT, r=20 / 9, v_leak=0.0,
            v_threshold=1.0, v_reset=0.0, w_in=2.0,
        ),
    }  # fmt: skip
    edges = [
        ("lif1.w_rec", "lif1.lif"), ("lif2", "output"), ("fc2", "lif2"), ("input", "fc1"),
        ("lif1.lif", "lif1.w_rec"), ("fc1", "lif1.lif"), ("lif1.lif", "fc2"),
    ]  # fmt: skip
    return graph_of(nir, (3,), nodes, edges, (2,))


def back(nir, shape, neuron, connection=None):
    """A neuron that a node feeds back to; without one, its spikes as they are."""
    nodes = {"lif": neuron} | ({"w": connection} if connection else {})
    last = "w" if connection else "lif"
    edges = [("input", "lif"), ("lif", "output"), (last, "lif")]
    return graph_of(nir, shape, nodes, edges + ([("lif", "w")] if connection else []))


def residual(nir):
    nodes = {"a": matrix(nir, 3, 3), "b": uneven(nir, "LIF", 3), "c": matrix(nir, 3, 3, bias=True)}
    edges = [("input", "a"), ("a", "b"), ("b", "c"), ("a", "c"), ("c", "output"), ("b", "output")]
    return graph_of(nir, (3,), nodes, edges)


def one(nir, shape, node, output=None):
    return graph_of(nir, shape, {"node": node}, output=output)


def pair(*numbers):
    return np.array(numbers)


# Graphs, and the layers that they are read as.
READ = {
    "CubaLIF": (
        lambda nir: one(
            nir,
            (3,),
            full(
                nir,
                "CubaLIF",
                3,
                tau_syn=2 * DT,
                tau_mem=4 * DT,
                r=4.0,
                v_leak=0.0,
                v_threshold=1.0,
                v_reset=0.1,
                w_in=2.0,
            ),
        ),
        "SynapticLIF",
    ),
    "IF": (
        lambda nir: one(nir, (3,), full(nir, "IF", 3, r=1.0, v_threshold=0.5, v_reset=0.1)),
        "IF",
    ),
    "I": (lambda nir: one(nir, (3,), full(nir, "I", 3, r=1.0)), "Accumulator"),
    "below 0": (
        lambda nir: one(nir, (3,), full(nir, "IF", 3, r=1.0, v_threshold=-0.5, v_reset=-1.0)),
        "NIRNeuron",
    ),
    "LI, leak": (
        lambda nir: one(nir, (3,), full(nir, "LI", 3, tau=3 * DT, r=1.0, v_leak=0.4)),
        "LeakyIntegrator",
    ),
    "leak, not reset": (
        lambda nir: one(
            nir,
            (3,),
            full(nir, "LIF", 3, tau=5 * DT, r=1.0, v_leak=1.2, v_threshold=1.0, v_reset=0.0),
        ),
        "NIRNeuron",
    ),
    "leak to 0": (
        lambda nir: one(
            nir,
            (3,),
            full(nir, "LIF", 3, tau=5 * DT, r=5.0, v_leak=0.0, v_threshold=1.0, v_reset=-0.5),
        ),
        "DecayLIF",
    ),
    "tau below dt": (
        lambda nir: one(
            nir,
            (3,),
            full(nir, "LIF", 3, tau=0.6 * DT, r=1.0, v_leak=0.0, v_threshold=1.0, v_reset=0.0),
        ),
        "NIRNeuron",
    ),
    "maps": (
        lambda nir: graph_of(
            nir,
            (2, 4, 3),
            {
                "scale": nir.Scale(np.random.default_rng(0).uniform(0.2, 2, (2, 4, 3))),
                "lif": uneven(nir, "LIF", 2, 4, 3),
            },
        ),
        "FoldTime NIRNeuron",
    ),
    "Conv1d": (
        lambda nir: graph_of(
            nir,
            (2, 7),
            {
                "conv": kernel(nir, 3, 2, 3, stride=2, padding=1),
                "lif": uneven(nir, "LIF", 3, 4),
                "same": kernel(nir, 2, 3, 3, padding="same"),
            },
            output=(2, 4),
        ),
        "FoldTime FoldTime NIRNeuron FoldTime",
    ),
    "Conv2d, half": (
        lambda nir: one(nir, (2, 6, 6), kernel(nir, 3, 2, 3, 3, stride=2, padding=1), (3, 3, 3)),
        "FoldTime",
    ),
    "Conv2d, more": (
        lambda nir: one(nir, (2, 6, 6), kernel(nir, 3, 2, 3, 3, padding=2), (3, 8, 8)),
        "FoldTime FoldTime",
    ),
    "Conv2d, same, even": (
        lambda nir: one(nir, (2, 6, 6), kernel(nir, 3, 2, 2, 2, padding="same"), (3, 6, 6)),
        "FoldTime",
    ),
    "AvgPool2d": (
        lambda nir: one(
            nir, (2, 6, 6), nir.AvgPool2d(pair(2, 2), pair(2, 2), pair(1, 1)), (2, 4, 4)
        ),
        "FoldTime FoldTime",
    ),
    "SumPool2d": (
        lambda nir: one(
            nir, (2, 6, 6), nir.SumPool2d(pair(2, 3), pair(1, 2), pair(0, 1)), (2, 5, 3)
        ),
        "FoldTime FoldTime",
    ),
    "flatten": (
        lambda nir: graph_of(
            nir,
            (2, 3, 4),
            {"flatten": nir.Flatten(np.array([2, 3, 4]), 0), "fc": matrix(nir, 5, 24)},
            output=(5,),
        ),
        "FoldTime FoldTime FoldTime",
    ),
    "flatten 1": (
        lambda nir: graph_of(
            nir,
            (2, 3, 4),
            {"flatten": nir.Flatten(np.array([2, 3, 4]), 1), "lif": uneven(nir, "LIF", 2, 12)},
            output=(2, 12),
        ),
        "FoldTime NIRNeuron",
    ),
    "flatten 0 1": (
        lambda nir: graph_of(
            nir,
            (2, 3, 4),
            {"flatten": nir.Flatten(np.array([2, 3, 4]), 0, 1), "lif": uneven(nir, "LIF", 6, 4)},
            output=(6, 4),
        ),
        "FoldTime FoldTime FoldTime NIRNeuron",
    ),
    "recurrent, self": (lambda nir: back(nir, (3,), uneven(nir, "LIF", 3)), "Recurrent"),
    "recurrent, Scale": (
        lambda nir: back(nir, (3,), uneven(nir, "IF", 3), nir.Scale(np.array([0.3, 0.5, -0.2]))),
        "Recurrent",
    ),
    "recurrent, Conv2d": (
        lambda nir: back(
            nir,
            (2, 5, 5),
            uneven(nir, "LIF", 2, 5, 5),
            kernel(nir, 2, 2, 3, 3, padding=2, dilation=2),
        ),
        "Recurrent",
    ),
    "recurrent, padded": (
        lambda nir: back(nir, (2, 7), uneven(nir, "LIF", 2, 7), kernel(nir, 2, 2, 3, padding=1)),
        "Recurrent",
    ),
    "residual": (residual, "FoldTime NIRNeuron Add FoldTime Add"),
}


def check_reading(nir, graph, kinds=None):
    start = graph.nodes["input"].input_type["input"]
    x = np.random.default_rng(0).normal(0.5, 0.8, (2, 6, *start[1:], start[0])).astype("float32")
    model = export.from_nir(graph, timesteps=6)
    np.testing.assert_allclose(to_numpy(model(x)), simulate(graph, x), atol=1e-4)
    if kinds:
        assert " ".join(type(layer).__name__ for layer in model.layers[1:]) == kinds
    return model, x


@pytest.mark.once
@pytest.mark.parametrize("name", READ)
def test_nir_is_read_as_it_says(name):
    nir = pytest.importorskip("nir", reason="needs the extra `nir`")
    make, kinds = READ[name]
    graph = make(nir)
    model, _ = check_reading(nir, graph, kinds)
    assert_same_graph(export.to_nir(model), graph)


def test_neurons_of_nir(tmp_path):
    """Every neuron with constants of its own for each unit, and the paper's recurrent graph."""
    nir = pytest.importorskip("nir", reason="needs the extra `nir`")
    nodes = {kind: uneven(nir, kind, 3) for kind in ("Threshold", "LI", "LIF", "I", "IF", "CubaLI")}
    graph = graph_of(nir, (3,), nodes | {"CubaLIF": uneven(nir, "CubaLIF", 3)})
    model, x = check_reading(nir, graph)
    assert_same_graph(export.to_nir(model), graph)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(to_numpy(again(x)), to_numpy(model(x)))
    graph = braille(nir)
    model, x = check_reading(nir, graph, "FoldTime Recurrent FoldTime SynapticLIF")
    assert model.layers[2].name == "lif1_lif"
    assert_same_graph(export.to_nir(model), graph)
    inner = {"input": nir.Input(np.array([4])), "output": nir.Output(np.array([4]))}
    inner |= {"lif": graph.nodes["lif1.lif"], "w_rec": graph.nodes["lif1.w_rec"]}
    ends = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    nodes = {name: graph.nodes[name] for name in ("fc1", "fc2", "lif2")}
    nodes = {"fc1": nodes["fc1"], "lif1": nir.NIRGraph(inner, ends), **nodes}
    within = export.from_nir(graph_of(nir, (3,), nodes, output=(2,)), timesteps=6)
    np.testing.assert_array_equal(to_numpy(within(x)), to_numpy(model(x)))
    assert_same_graph(export.to_nir(within), graph)


@pytest.mark.once
def test_resistance_of_integrators_is_per_step_or_per_second():
    nir = pytest.importorskip("nir", reason="needs the extra `nir`")
    for r in (1.0, 1 / DT):  # as Norse, Sinabs and snnTorch write it, and as SpikingJelly does
        graph = one(nir, (3,), full(nir, "IF", 3, r=r, v_threshold=1.5, v_reset=0.0))
        model, _ = check_reading(nir, graph, "IF")
        spikes = to_numpy(model(np.ones((1, 6, 3))))[0, :, 0]
        assert spikes.tolist() == [0, 1, 0, 1, 0, 1]
    graph = one(nir, (3,), full(nir, "IF", 3, r=1.0, v_threshold=2.0, v_reset=0.0))
    for reset, wanted in (("hard", [0, 0, 1, 0, 0, 1]), ("soft", [0, 0, 1, 0, 1, 0])):
        model = export.from_nir(graph, timesteps=6, reset=reset)  # above the threshold only
        assert to_numpy(model(np.ones((1, 6, 3))))[0, :, 0].tolist() == wanted


@pytest.mark.once
def test_names_of_nodes():
    nir = pytest.importorskip("nir", reason="needs the extra `nir`")
    names = ["0", "a.b", "a b", "a_b", "A_b", "größe"]
    model = export.from_nir(graph_of(nir, (3,), {name: matrix(nir, 3, 3) for name in names}))
    found = [layer.name for layer in model.layers[1:]]
    assert found == ["0", "a_b", "a_b_", "a_b__", "A_b___", "gr__e"]


class Doubled(keras.layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


def quantized():
    layer = keras.layers.Dense(2, name="odd")
    layer.build((None, STEPS, 2))
    layer.quantize("int8")
    return layer


REFUSED = {
    "hard resets only": lambda: IF(reset="soft", name="odd"),
    "no such neuron": lambda: layers.KLIF(name="odd"),
    "cut the model": lambda: layers.MeanOverTime(name="odd"),
    "last output only": lambda: IF(return_sequences=False, name="odd"),
    "go_backwards": lambda: IF(go_backwards=True, name="odd"),
    "without a leak": lambda: layers.SynapticLIF(0.5, 1.0, name="odd"),
    "start at 0": lambda: layers.Accumulator(v_reset=1.0, name="odd"),
    "pooling only": lambda: layers.FoldTime(keras.layers.MaxPooling2D(), name="odd"),
    "take zeros": lambda: layers.FoldTime(
        keras.layers.AveragePooling2D(5, padding="same"), name="odd"
    ),
    "mixes steps": lambda: keras.layers.Flatten(name="odd"),
    "without an activation": lambda: layers.FoldTime(conv(2, 3, activation="relu"), name="odd"),
    "another axis": lambda: layers.FoldTime(keras.layers.BatchNormalization(1), name="odd"),
    "a `call` of its own": lambda: Doubled(2, name="odd"),
    "quantized": quantized,
    "no node": lambda: keras.layers.ReLU(name="odd"),
}


@pytest.mark.once
@pytest.mark.parametrize("reason", REFUSED)
def test_what_nir_can_not_say(reason, tmp_path):
    pytest.importorskip("nir", reason="needs the extra `nir`")
    inputs = keras.Input((STEPS, 6, 6, 2))
    model = keras.Model(inputs, REFUSED[reason]()(inputs))
    with pytest.raises(TypeError, match=f"odd .*{reason}"):
        export.to_nir(model, tmp_path / "net.nir")
    assert not list(tmp_path.iterdir())


@pytest.mark.once
@pytest.mark.parametrize(
    "encoder",
    [
        layers.ImpulseEncoder(5, name="bad"),
        layers.LatencyEncoder(5, name="bad"),
        layers.PhaseEncoder(5, name="bad"),
        layers.PoissonEncoder(5, name="bad"),
        layers.PopulationEncoder(5, 2, name="bad"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_nir_refuses_encoders(encoder):
    """They are kinds of `RepeatTime`, which NIR leaves to the host."""
    pytest.importorskip("nir", reason="needs the extra `nir`")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.IF()(encoder(inputs)))
    with pytest.raises(TypeError, match=rf"bad \({type(encoder).__name__}\)"):
        export.to_nir(model)


@pytest.mark.once
def test_nir_refuses_masks_and_subclasses():
    pytest.importorskip("nir", reason="needs the extra `nir`")

    class Other(layers.LIFCell):
        def charge(self, v, x):
            return x

    inputs, mask = keras.Input((STEPS, 3)), keras.Input((STEPS,), dtype="bool")
    with pytest.raises(TypeError, match="one input"):
        export.to_nir(keras.Model([inputs, mask], IF(name="odd")(inputs, mask=mask)))
    x = dense(3)(inputs)
    model = keras.Model(inputs, IF(name="odd")(x, initial_state=[x[:, 0]]))
    with pytest.raises(TypeError, match="get_item|initial state"):
        export.to_nir(model)
    with pytest.raises(TypeError, match="odd .*no such neuron"):
        export.to_nir(chain((3,), layers.SpikingRNN(Other(), name="odd")))
    with pytest.raises(ValueError, match="dt"):
        export.to_nir(chain((3,), IF()), dt=0)


NOT_READ = {
    "delays of the node .* no whole": lambda nir: one(nir, (3,), nir.Delay(-np.ones(3))),
    "node.* tau .*above 0": lambda nir: one(
        nir, (3,), full(nir, "LI", 3, tau=0.0, r=1.0, v_leak=0.0)
    ),
    "node.* not finite": lambda nir: one(nir, (3,), full(nir, "I", 3, r=np.nan)),
    "node.* wants inputs": lambda nir: graph_of(
        nir, (4,), {"node": matrix(nir, 3, 3)}, type_check=False
    ),
    "node.* of shape": lambda nir: graph_of(
        nir, (4,), {"node": full(nir, "I", 3, r=1.0)}, type_check=False
    ),
    "node.* channels": lambda nir: graph_of(
        nir, (4, 6), {"node": kernel(nir, 2, 3, 3)}, type_check=False
    ),
    "node.* strides": lambda nir: graph_of(
        nir, (2, 6), {"node": kernel(nir, 2, 2, 3, stride=2, padding="same")}, type_check=False
    ),
    "output.* the shape": lambda nir: graph_of(
        nir, (3,), {"node": matrix(nir, 3, 3)}, output=(4,), type_check=False
    ),
    "cycle through": lambda nir: graph_of(
        nir,
        (3,),
        {"a": matrix(nir, 3, 3), "node": uneven(nir, "LIF", 3), "b": matrix(nir, 3, 3)},
        [("input", "a"), ("a", "node"), ("node", "b"), ("b", "a"), ("node", "output")],
    ),
    "Nothing feeds .*node": lambda nir: graph_of(
        nir, (3,), {"node": matrix(nir, 3, 3)}, [("node", "output")], type_check=False
    ),
    "one output": lambda nir: nir.NIRGraph(
        {"input": nir.Input(np.array([3]))}, [], type_check=False
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("reason", NOT_READ)
def test_what_is_not_read(reason):
    nir = pytest.importorskip("nir", reason="needs the extra `nir`")
    with pytest.raises((TypeError, ValueError), match=reason):
        export.from_nir(NOT_READ[reason](nir))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the peers' tensors are PyTorch's")
@pytest.mark.parametrize("name", ["Leaky", "Synaptic", "RLeaky", "SpikingJelly"])
def test_graphs_of_peers_are_read(name):
    pytest.importorskip("nir", reason="needs the extra `nir`")
    torch = pytest.importorskip("torch")
    x = torch.tensor((np.random.default_rng(0).random((12, 5)) < 0.5).astype("float32"))
    if name == "SpikingJelly":
        sj = pytest.importorskip("spikingjelly.activation_based", reason="needs the extra `peers`")
        exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
        nodes = [
            sj.neuron.LIFNode(tau=3.0, v_threshold=0.3, v_reset=-0.1),
            sj.neuron.IFNode(v_threshold=0.4),
            sj.neuron.CUBALIFNode(c_decay=0.5, v_decay=0.7, v_threshold=0.5),
        ]
        net = torch.nn.Sequential(*(part for n in nodes for part in (sj.layer.Linear(5, 5), n)))
        sj.functional.set_step_mode(net, "s")
        graph = exchange.export_to_nir(net, x[:1])
        sj.functional.reset_net(net)
        wanted = [net(step[None])[0] for step in x]
    else:
        snntorch = pytest.importorskip("snntorch", reason="needs the extra `peers`")
        exchange = pytest.importorskip("snntorch.export_nir")
        decays = {"beta": torch.linspace(0.3, 0.9, 5)}
        decays |= {"alpha": torch.linspace(0.2, 0.6, 5)} if name == "Synaptic" else {}
        decays |= {"linear_features": 5} if name == "RLeaky" else {}
        neuron = getattr(snntorch, name)(
            **decays,
            threshold=torch.full((5,), 0.3),
            init_hidden=True,
            reset_mechanism="zero",
            reset_delay=False,
        )
        net = torch.nn.Sequential(torch.nn.Linear(5, 5), neuron)
        graph = exchange.export_to_nir(net, x[0])
        neuron.reset_hidden()
        wanted = [net(step) for step in x]
    wanted = np.array([y.detach().numpy() for y in wanted])
    assert 0.05 < wanted.mean() < 0.95
    found = to_numpy(export.from_nir(graph, timesteps=12)(x.numpy()[None]))[0]
    np.testing.assert_array_equal(found, wanted)


@with_tensorflow
@pytest.mark.parametrize(
    ("name", "mode"), [("LIF, rest", "sequence"), ("LIF, rest", "step"), ("image", "step")]
)
def test_onnx(name, mode, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs the extra `onnx`")
    rest = lambda name: layers.LIF(tau=3.0, v_reset=-0.2, name=name)  # noqa: E731
    model = sequence_net(rest)
    if name == "image":
        inputs = keras.Input(model.input_shape[2:])
        model = keras.Model(inputs, model(layers.RepeatTime(STEPS)(inputs)))
    data, path = clips(model), tmp_path / "model.onnx"
    report = export.to_onnx(model, path, mode, verify_data=data)
    assert report.flipped == 0 and report.top1 == 1 and report.logits < 1e-4
    assert all(0.005 < layer["rate"] < 0.995 for layer in report.layers)
    assert report.operations["Conv"] == convolutions(model)
    runner = export.OnnxRunner(path, report.initial_states)
    for clip, wanted in zip(data, model.predict(data, verbose=0)):
        if mode == "sequence":
            found = runner.step(clip[None])
        else:
            found = runner.run(clip if clip.ndim == 4 else np.repeat(clip[None], STEPS, 0))
        np.testing.assert_allclose(next(iter(found.values()))[0], wanted, atol=1e-4)
    with pytest.raises(ValueError, match="mode"):
        export.to_onnx(model, path, "clip")
