"""Networks are one graph for `torch.compile`, with the spikes and gradients that they have without.

What it captures runs here by PyTorch's own operations: its compiler takes too long.
"""

import keras
import numpy as np
import pytest

from keras_snn import applications, layers
from keras_snn.applications.spiking_vgg import _GridPooling2D
from keras_snn.layers import FoldTime

if keras.backend.backend() != "torch":
    pytest.skip("other backends have compilers of their own", allow_module_level=True)
import torch
from helpers import to_numpy
from test_neurons import NEURONS, neuron

LAYERS = {
    **{name: neuron(name) for name in NEURONS},
    "states": layers.LIF(return_state=True),
    "last step": layers.LIF(return_sequences=False),
    "backwards": layers.LIF(go_backwards=True),
    "stateful": layers.ParametricLIF(stateful=True),
    "threshold": layers.LIF(trainable_threshold=True, detach_reset=False, reset="soft"),
    "stack": layers.SpikingRNN([layers.LIFCell(), layers.LeakyIntegratorCell()]),
    "Recurrent": layers.Recurrent(layers.IFCell(), keras.layers.Dense(4)),
    "PSN": layers.PSN(),
    "MaskedPSN": layers.MaskedPSN(order=2),
    "SlidingPSN": layers.SlidingPSN(order=2),
    "convolution": FoldTime(keras.layers.Conv2D(4, 3, padding="same")),
    "product": FoldTime(keras.layers.Conv2D(4, 3, 2, padding="same")),
    "BatchNormalization": FoldTime(keras.layers.BatchNormalization()),
    "statistics of Keras": keras.layers.BatchNormalization(),
    "tdBN": layers.ThresholdDependentBatchNormalization(),
    "BNTT": layers.BatchNormalizationThroughTime(2),
    "TEBN": layers.TemporalEffectiveBatchNormalization(2),
    "padding": FoldTime(keras.layers.ZeroPadding2D(1)),
    "pooling": FoldTime(keras.layers.MaxPooling2D(2)),
    "pooling to a grid": FoldTime(_GridPooling2D(3)),
    "MeanOverTime": layers.MeanOverTime(),
    "LastOverTime": layers.LastOverTime(),
    "SumOverTime": layers.SumOverTime(),
    "RepeatTime": layers.RepeatTime(2),
    "MaxOverTime": layers.MaxOverTime(),
    "TimeConstantDropout": layers.TimeConstantDropout(0.4),
    "Dropout": keras.layers.Dropout(0.4, seed=1),
}

LONG = {
    "IF": layers.IF(),
    "LIF": layers.LIF(),
    "ParametricLIF": layers.ParametricLIF(parameter_shape="channel"),
    "threshold": layers.LIF(trainable_threshold=True, detach_reset=False, reset="soft"),
    "stateful": layers.ParametricLIF(stateful=True),
    "states": layers.DecayLIF(return_state=True),
}


def run(call, layer, x, training):
    """Outputs, gradients to input and weights, and the weights afterwards."""
    x = torch.tensor(x, requires_grad=True)
    outputs = keras.tree.flatten(call(x, training=training))
    values = [x, *(v.value for v in layer.trainable_variables)]
    total = sum((y * torch.arange(y.numel()).reshape(y.shape)).sum() for y in outputs)
    slopes = torch.autograd.grad(total, values, allow_unused=True, materialize_grads=True)
    return to_numpy([*outputs, *slopes, *(v.value for v in layer.variables)])


def assert_one_graph(layer, x, training):
    """Captures a layer whole, and compares what `run` finds with and without.

    Returns:
        What the graph calls.
    """
    torch.compiler.reset()
    called = []

    def keep(graph, _):
        called.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    start = [np.copy(v.numpy()) for v in layer.variables]
    found = run(torch.compile(layer, fullgraph=True, backend=keep), layer, x, training)
    found = [np.copy(a) for a in found]
    for variable, value in zip(layer.variables, start):
        variable.assign(value)
    wanted = run(layer, layer, x, training)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1, np.abs(b).max()))
    return called


@pytest.mark.parametrize(
    "name, training",
    [*((name, True) for name in LAYERS), ("LIF", False), ("BatchNormalization", False)],
)
def test_a_layer_is_one_graph_and_the_same(name, training):
    x = np.random.default_rng(0).normal(0.7, 0.9, (2, 2, 2, 2, 4)).astype("float32")
    LAYERS[name](x)
    assert_one_graph(LAYERS[name], x, training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LONG)
def test_a_long_sequence_is_one_operation(name, training):
    x = np.random.default_rng(0).normal(0.7, 0.9, (2, 33, 2, 4)).astype("float32")
    LONG[name](x)
    called = assert_one_graph(LONG[name], x, training)
    assert sum("keras_snn" in target for target in called) == 1 and len(called) < 40


@pytest.mark.parametrize("wants_last", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
def test_operations_are_what_pytorch_is_told(wants_last, trainable):
    """Shapes, gradients, nothing written over, with sizes known or not."""
    layer = layers.ParametricLIF(trainable_threshold=trainable, parameter_shape="channel")
    layer(np.zeros((1, 5, 3), "float32"))
    given = [torch.rand(2, 3), torch.rand(3), torch.rand(3) if trainable else None]
    x, *given = (t if t is None else t.requires_grad_() for t in (torch.rand(2, 5, 3), *given))
    arguments = layer.cell.number, wants_last, True, x, *given
    operations = torch.ops.keras_snn
    torch.library.opcheck(operations.sequence.default, arguments)
    x, *given = (t if t is None else t.detach() for t in (x, *given))
    gv = torch.rand(2, 3) if wants_last else None
    torch.library.opcheck(
        operations.sequence_backward.default,
        (layer.cell.number, x, torch.rand(2, 5, 3), gv, *given),
    )
    torch.library.opcheck(operations.mask.default, (torch.tensor([3, 1]), [2, 3], 0.5))


def test_a_network_is_one_graph():
    """One on images, so that padding, convolution and normalisation have no time too."""
    model = applications.SEWResNet8(input_shape=(8, 8, 1), classes=3, timesteps=2)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    assert_one_graph(model, x, True)
