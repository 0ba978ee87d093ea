"""What our layers are to whoever reads a graph, see `keras_snn.graph`."""

import math

import keras

from keras_snn import graph
from keras_snn.layers import (
    connections,
    encoders,
    normalization,
    parallel,
    quantized,
    readouts,
    time,
)
from keras_snn.layers.base import SpikingCell
from keras_snn.layers.rnn import SpikingRNN

__all__ = []


def _spikes(layer):
    """Whether a loop's outputs are spikes: what its last cell is."""
    cell = layer.cell
    if isinstance(cell, keras.layers.StackedRNNCells):
        cell = cell.cells[-1]
    if isinstance(cell, connections.RecurrentCell):
        cell = cell.neuron
    return isinstance(cell, SpikingCell)


def _loop_products(call):
    """Those of a recurrent connection, which reads the spikes of the step before."""
    cell = call.layer.cell
    if not isinstance(cell, connections.RecurrentCell):
        return ()
    step = keras.KerasTensor((None, *call.outputs[0].shape[2:]))
    inner = graph.Call("", cell.connection, cell.connection, 0, False, (step,), {})
    found = inner.products
    return found and [graph.Product(p.macs, "output", True, p.reach) for p in found]


def _matrix_products(call):
    """A `(T, T)` matrix times the currents."""
    steps, *rest = call.input.shape[1:]
    return (graph.Product(steps * steps * math.prod(rest), each_step=False),)


def _window_products(call):
    return (graph.Product(call.layer.order * math.prod(call.input.shape[2:])),)


graph.EACH_STEP.append(time.FoldTime)
for layer, role in {
    SpikingRNN: graph.Role("recurrent", products=_loop_products, spikes=_spikes),
    parallel.PSN: graph.Role("across", products=_matrix_products, spikes=True),
    parallel.SlidingPSN: graph.Role(
        "across",
        memory=lambda call: call.layer.order - 1,
        products=_window_products,
        spikes=True,
    ),
    time.RepeatTime: graph.Role("adds"),
    encoders._Encoder: graph.Role("adds"),
    encoders.DeltaEncoder: graph.Role("across", memory=1),
    readouts._OverTime: graph.Role("removes"),
    readouts.FirstSpikeTime: graph.Role("removes"),
    readouts.MembraneReadout: graph.Role("removes"),
    readouts.Voting: graph.Role("per step"),
    connections.SpikeConnection: graph.Role("pointwise"),
    quantized.ClipFloorShift: graph.Role("pointwise"),
    time.TimeConstantDropout: graph.Role("pointwise"),
    normalization.ThresholdDependentBatchNormalization: graph.Role("per step"),
    normalization.TemporalEffectiveBatchNormalization: graph.Role("across"),
    normalization.BatchNormalizationThroughTime: graph.Role("across"),
}.items():
    graph.ROLES[layer] = role
