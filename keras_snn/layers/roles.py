"""What our layers are to whoever reads a graph, see `keras_snn.graph`."""

import math

import keras
import numpy as np

from keras_snn import graph, roles
from keras_snn.layers import (
    attention,
    connections,
    convolution,
    delays,
    dendrites,
    dual_attention,
    encoders,
    normalization,
    parallel,
    quantized,
    readouts,
    time,
)
from keras_snn.layers.base import NeuronCell
from keras_snn.layers.neurons import AccumulatorCell, GLIFCell, IFCell, MPBNLIFCell
from keras_snn.layers.rnn import SpikingRNN

__all__ = []


def _last_cell(layer):
    """The cell whose outputs are those of a loop."""
    cell = layer.cell
    if isinstance(cell, keras.layers.StackedRNNCells):
        cell = cell.cells[-1]
    return cell.neuron if isinstance(cell, connections.RecurrentCell) else cell


def _spikes(layer):
    """Whether a loop's outputs are spikes."""
    cell = _last_cell(layer)
    return isinstance(cell, NeuronCell) and cell.spiking


def _most(layer):
    """How often a neuron of a loop's last cell fires in a step at most."""
    return getattr(_last_cell(layer), "max_spikes", 1)


def _unit(layer):
    """What a spike of a loop's last cell is in its outputs."""
    return 1 / _most(layer) if getattr(_last_cell(layer), "normalize", False) else 1.0


def _loop_updates(call):
    """States of a neuron, each of which decays but in integrators without leak."""
    cell = call.layer.cell
    cells = cell.cells if isinstance(cell, keras.layers.StackedRNNCells) else [cell]
    found = [getattr(cell, "neuron", cell) for cell in cells]
    found = [cell for cell in found if isinstance(cell, NeuronCell)]
    leaky = [cell for cell in found if not isinstance(cell, (IFCell, AccumulatorCell))]
    states, decays = (sum(len(c.initial_values) for c in group) for group in (found, leaky))
    return states, decays, 0


def _scale(call):
    return 0, 1, 0


def _cell_products(cell, shape):
    """None, unless users' cells have layers or matrices of their own."""
    weights = [w for w in cell.weights if len(w.shape) > len(shape)]
    return None if weights or graph.flatten_layers(cell, include_self=False) else []


def _recurrent_products(cell, shape):
    """Those of a recurrent connection, which reads the spikes of the step before."""
    step = keras.KerasTensor((None, *shape))
    inner = graph.Call("", cell.connection, cell.connection, 0, False, (step,), {}, (step,))
    found = inner.products
    return found and [graph.Product(p.macs, "output", True, p.reach) for p in found]


def _matrix_products(call):
    """A `(T, T)` matrix times the currents: each step is a sum over all of them."""
    return (graph.Product(math.prod(call.input.shape[1:])),)


def _window_products(call):
    return (graph.Product(call.layer.order * math.prod(call.input.shape[2:])),)


def _delayed_products(call):
    """Of whole delays one for each synapse, else one for each synapse and each of the last steps.

    Late spikes reach the synapses whose delays end before the sequence does.
    """
    layer, steps = call.layer, call.input.shape[1]
    used = 1 if layer.whole else layer.max_delay + 1
    positions = math.prod(call.output.shape[2:-1])
    macs = used * positions * math.prod(layer.kernel.shape)
    if layer.rank or steps is None:
        return (graph.Product(macs, each_step=bool(call.reads_time)),)
    if layer.whole:
        taps = keras.ops.convert_to_numpy(layer.shares())[::-1] > 0
    else:
        taps = np.ones((layer.max_delay + 1, *layer.kernel.shape))
    reached = np.cumsum(taps.sum(-1), 0)
    left = np.minimum(steps - 1 - np.arange(steps), layer.max_delay)
    return (graph.Product(steps * macs, reach=reached[left], each_step=False),)


def _axonal_products(call):
    """None where steps are only moved."""
    layer = call.layer
    if layer.whole:
        return ()
    return (graph.Product((layer.max_delay + 1) * math.prod(call.input.shape[2:])),)


def _branched_products(call):
    """One for each synapse: each input goes to one branch of a neuron."""
    units, inputs = call.layer.units, math.prod(call.input.shape[2:])
    return (graph.Product(inputs * units, reach=np.full((1,), units)),)


def _attention_products(call):
    """Two products of one head each, of which the second reads counts, no spikes, on one side."""
    layer, shapes = call.layer, [x.shape for x in call.inputs]
    tokens, linear = math.prod(call.shape(call.input)[:-1]), layer.is_linear(*shapes)
    keys, values = shapes[0][-1], shapes[2][-1]
    macs = [tokens * keys * values // layer.heads] * 2
    macs = macs if linear else [tokens**2 * keys, tokens**2 * values]
    sums = attention.HeadSums(layer.heads) if linear else attention.TokenSums()
    return [
        graph.Product(
            macs[0],
            (1, 2) if linear else (0, 1),
            each_step=bool(call.reads_time),
            multiply=lambda a, b: sums(a) * sums(b),  # the sum of all products of spikes
        ),
        graph.Product(macs[1], 0 if linear else 2, each_step=bool(call.reads_time)),
    ]


def _dual_products(x):
    """One product of the first input, spikes, and currents; `x` is the place of the queries."""

    def products(call):
        queries, keys = call.inputs[x].shape, call.inputs[1].shape
        pairs = attention.tokens_of(queries) * attention.tokens_of(keys)
        return (graph.Product(pairs * queries[-1], each_step=bool(call.reads_time)),)

    return products


graph.EACH_STEP.append(time.FoldTime)
for layer, role in {
    SpikingRNN: graph.Role(
        "recurrent",
        products=roles.loop_products,
        spikes=_spikes,
        unit=_unit,
        most=_most,
        updates=_loop_updates,
    ),
    parallel.PSN: graph.Role("across", products=_matrix_products, spikes=True),
    parallel.SlidingPSN: graph.Role(
        "across",
        memory=lambda call: call.layer.order - 1,
        products=_window_products,
        spikes=True,
    ),
    delays.AxonalDelay: graph.Role(
        "across",
        memory=lambda call: call.layer.max_delay,
        products=_axonal_products,
        sequences=True,
    ),
    delays._Weighted: graph.Role(
        "across",
        memory=lambda call: call.layer.max_delay,
        products=_delayed_products,
        sequences=True,
    ),
    dendrites.BranchedDense: graph.Role("per step", products=_branched_products),
    dendrites.BranchSum: graph.Role(
        "per step", updates=lambda call: (0, 0, 1 - 1 / call.layer.branches)
    ),
    time.RepeatTime: graph.Role("adds", memory=0),
    time.ExpandSpikes: graph.Role("across", spikes=True),
    time.SumSteps: graph.Role("across"),
    encoders._Encoder: graph.Role("adds"),
    encoders.PoissonEncoder: graph.Role("adds", memory=0),
    encoders.PopulationEncoder: graph.Role("adds", memory=0),
    encoders.DeltaEncoder: graph.Role("across", memory=1),
    readouts._OverTime: graph.Role("removes"),
    readouts.FirstSpikeTime: graph.Role("removes"),
    readouts.MembraneReadout: graph.Role(
        "removes", updates=lambda call: (1, int(call.layer.tau is not None), 0)
    ),
    readouts.Voting: graph.Role("per step"),
    connections.SpikeConnection: graph.Role("pointwise"),
    attention.SpikeProducts: graph.Role("per step", products=_attention_products),
    dual_attention.DualScores: graph.Role("per step", products=_dual_products(x=0)),
    dual_attention.DualSums: graph.Role("per step", products=_dual_products(x=2)),
    attention.HeadSums: graph.Role("per step"),
    attention.TokenSums: graph.Role("per step"),
    attention.SpikeGate: graph.Role("per step"),
    convolution.SumPooling2D: graph.Role("across"),
    convolution.AlignedResizing2D: graph.Role("across", linear=True),
    quantized.ClipFloorShift: graph.Role("pointwise"),
    time.TimeConstantDropout: graph.Role("pointwise", idle=True),
    normalization.ThresholdDependentBatchNormalization: graph.Role(
        "per step", updates=_scale, folds=True
    ),
    normalization.TemporalEffectiveBatchNormalization: graph.Role("across", updates=_scale),
    normalization.BatchNormalizationThroughTime: graph.Role("across", updates=_scale),
}.items():
    graph.register(layer, **vars(role))
# Their weights scale each neuron, and multiply no spikes.
NOTHING = dict.fromkeys((GLIFCell, MPBNLIFCell), lambda cell, shape: [])
roles.CELLS |= {NeuronCell: _cell_products, connections.RecurrentCell: _recurrent_products}
roles.CELLS |= NOTHING
