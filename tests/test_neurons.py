"""The contract of every neuron layer: a new neuron is a new row of `NEURONS`."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import reference as equations
from helpers import first_everywhere, gradients, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_snn
from keras_snn import layers, testing
from keras_snn.kernels import tuning

BACKEND = keras.backend.backend()


# The equations in numpy, independent of the package: a step is (x, *states) -> (output, *states).


def spiking(charge, threshold=1.0, v_reset=0.0, soft=False, strict=False):
    def step(x, v):
        h = charge(v, x)
        s = 1.0 * (h > threshold if strict else h >= threshold)
        return s, h - s * threshold if soft else np.where(s == 1, v_reset, h)

    return step


def adaptive(x, v, a):
    h = v + (x - v) / 2
    s = 1.0 * (h >= 1 + a)
    return s, h - s * (1 + a), a + (0.5 * s - a) / 4


def synaptic(x, v, i):
    i = 0.5 * i + x
    s, v = spiking(lambda v, i: 0.75 * v + i)(i, v)
    return s, v, i


def delayed_soft(x, v):
    s = 1.0 * (v > 1)
    return s, 0.9 * v + x - s


def stdb(x, v, silent):
    s, v = delayed_soft(x, v)
    return s, v, (silent + 1) * (1 - s)


def delayed_hard(x, v):
    s = 1.0 * (v > 1)
    return s, np.where(s == 1, -0.1, 0.9 * v) + x


def izhikevich(x, v, w):
    h = v + (x + (v + 0.1) * (v - 0.8) - w) / 2
    s = 1.0 * (h >= 1)
    return s, np.where(s == 1, 0.0, h), w + (0.1 * (h + 0.1) - w) / 2 + 0.2 * s


def integer(x, v):
    h = 0.25 * v + x
    s = np.round(np.clip(h / 0.5, 0, 3))
    return s, h - 0.5 * s


def ternary(x, v):
    h = v + x
    s = 1.0 * (h >= 0.75) - (h <= -0.75)
    return s, np.where(s != 0, 0.0, h)


def ternary_soft(x, v):
    h = v + (x - v) / 1.5
    s = 1.0 * (h >= 0.75) - (h <= -0.75)
    return s, h - 0.75 * s


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def complementary(x, v, m):
    h = v / 2 + x
    s = 1.0 * (h >= 1)
    m = m * sigmoid(h / 2) + s
    return s, h - s * (1 + sigmoid(m)), m


def gated(conductance):
    """Gates of 1/2, decay 1/4, leak 1/4, threshold and subtracted 1/2."""

    def step(x, v, s):
        kept = 1 - 0.5 * 0.75
        h = kept * v - 0.5 * 0.25 + x * (1 - 0.5 * (1 - conductance))
        h = h - kept * v * 0.5 * s - 0.5 * 0.5 * s
        s = 1.0 * (h >= 0.5)
        return s, h, s

    return step


def resonating(x, v, u):
    a, w = np.exp(-0.2), 0.8
    u, h = a * (u * np.cos(w) - v * np.sin(w)) + x, a * (u * np.sin(w) + v * np.cos(w))
    s = 1.0 * (h >= 1)
    return s, np.where(s == 1, 0.0, h), u


def analog(x, v):
    h = v + (x - v) / 2
    return np.maximum(h - 1, 0), np.where(h >= 1, 0.0, h)


def oscillating(x, v, w):
    """SE-adLIF with tau 4, tau of the adaptation 8, a 1/2, b 1, strength 2."""
    decay, slow = np.exp(-1 / 4), np.exp(-1 / 8)
    h = decay * v + (1 - decay) * (x - w)
    s = 1.0 * (h > 0.2)
    v = h * (1 - s)
    return s, v, slow * w + (1 - slow) * 2 * (v / 2 + s)


def two_compartments(x, v, d):
    d = d - v / 2 + x
    h = v + d / 2
    s = 1.0 * (h >= 1)
    return s, h - s, d - s / 2


class Row(NamedTuple):
    """A neuron with arguments, its numpy step, where its states start and what its spikes are."""

    layer: type
    arguments: dict
    step: callable
    start: tuple = (0.0,)
    values: tuple = (0, 1)
    resets: tuple = ("hard", "soft", "none")


NEURONS = {
    "IF": Row(layers.IF, {}, spiking(lambda v, x: v + x)),
    "IF-soft": Row(layers.IF, {"reset": "soft"}, spiking(lambda v, x: v + x, soft=True)),
    "LIF": Row(layers.LIF, {"tau": 2.0}, spiking(lambda v, x: v + (x - v) / 2)),
    "LIF-rest": Row(
        layers.LIF,
        {"tau": 1.5, "decay_input": False, "v_reset": -0.2, "threshold": 0.7},
        spiking(lambda v, x: v - (v + 0.2) / 1.5 + x, threshold=0.7, v_reset=-0.2),
        (-0.2,),
    ),
    "PLIF": Row(
        layers.ParametricLIF,
        {"tau": 3.0, "parameter_shape": "channel", "threshold": 0.5},
        spiking(lambda v, x: v + (x - v) / 3, threshold=0.5),
    ),
    "DecayLIF": Row(
        layers.DecayLIF, {}, spiking(lambda v, x: 0.25 * v + x, threshold=0.5, strict=True)
    ),
    "DelayedLIF": Row(layers.DelayedLIF, {"decay": 0.9}, delayed_soft),
    "DelayedLIF-hard": Row(
        layers.DelayedLIF, {"decay": 0.9, "reset": "hard", "v_reset": -0.1}, delayed_hard, (-0.1,)
    ),
    "STDBLIF": Row(layers.STDBLIF, {"decay": 0.9}, stdb, (0.0, 998.0)),
    "AdaptiveLIF": Row(
        layers.AdaptiveLIF,
        {"adaptation": 0.5, "tau_adaptation": 4.0, "reset": "soft"},
        adaptive,
        (0.0, 0.0),
    ),
    "SynapticLIF": Row(layers.SynapticLIF, {}, synaptic, (0.0, 0.0)),
    "QIF": Row(
        layers.QIF, {}, spiking(lambda v, x: v + (x + v * (v - 0.8)) / 2, v_reset=-0.1), (-0.1,)
    ),
    "EIF": Row(
        layers.EIF,
        {},
        spiking(lambda v, x: v + (x - v + np.exp(v - 0.8)) / 2, v_reset=-0.1),
        (-0.1,),
    ),
    "Izhikevich": Row(layers.Izhikevich, {"a": 0.1, "b": 0.2}, izhikevich, (0.0, 0.0)),
    "KLIF": Row(layers.KLIF, {}, spiking(lambda v, x: np.maximum(v + (x - v) / 2, 0))),
    "ILIF": Row(
        layers.ILIF,
        {"max_spikes": 3, "threshold": 0.5},
        integer,
        values=(0, 1, 2, 3),
        resets=("soft", "none"),
    ),
    "TernaryIF": Row(layers.TernaryIF, {"threshold": 0.75}, ternary, values=(-1, 0, 1)),
    "TernaryLIF": Row(
        layers.TernaryLIF,
        {"tau": 1.5, "threshold": 0.75, "reset": "soft"},
        ternary_soft,
        values=(-1, 0, 1),
    ),
    "CLIF": Row(layers.CLIF, {}, complementary, (0.0, 0.0)),
    "GLIF": Row(
        layers.GLIF,
        {"gate_initializer": "zeros", "conductance": 0.75, "leak": 0.25},
        gated(0.75),
        (0.0, 0.0),
    ),
    "ResonateAndFire": Row(layers.ResonateAndFire, {"omega": 0.8}, resonating, (0.0, 0.0)),
    "LIAF": Row(layers.LIAF, {"above_threshold": True}, analog),
    "SEAdLIF": Row(
        layers.SEAdLIF,
        {
            "tau_range": (4.0, 4.0 + 1e-7),  # 4 in float32, but for gradients
            "tau_adaptation_range": (8.0, 8.0 + 1e-7),
            "a_range": (0.5, 0.5),
            "b_range": (1.0, 1.0),
            "strength": 2.0,
            "threshold": 0.2,
        },
        oscillating,
        (0.0, 0.0),
    ),
    "TwoCompartmentLIF": Row(layers.TwoCompartmentLIF, {}, two_compartments, (0.0, 0.0)),
    "LeakyIntegrator": Row(
        layers.LeakyIntegrator, {"tau": 4.0}, lambda x, v: (v + (x - v) / 4,) * 2
    ),
    "Accumulator": Row(layers.Accumulator, {}, lambda x, v: (v + x,) * 2),
}
SPIKING = [name for name, row in NEURONS.items() if row.layer.cell_class.spiking]
HELD = [name for name, row in NEURONS.items() if row.layer.defaults]  # where steps are masked

every_neuron = pytest.mark.parametrize("name", NEURONS)
every_spiking_neuron = pytest.mark.parametrize("name", SPIKING)


def neuron(name, /, **kwargs):
    return NEURONS[name].layer(**NEURONS[name].arguments, **kwargs)


def currents(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.7, 0.9, shape).astype("float32")


def random_mask(batch, time):
    """A mask with holes, whose rows start and end unlike each other."""
    mask = np.random.default_rng(1).random((batch, time)) < 0.6
    mask[0, :2], mask[0, -2:] = False, True
    mask[1, :2], mask[1, -2:] = True, False
    return mask


def reference(name, x, mask=None, states=None):
    """Output and states of the numpy equations, `x` being `(batch, time, ...)`."""
    row = NEURONS[name]
    x = x.astype("float64")
    states = [np.full(x[:, 0].shape, v) for v in row.start] if states is None else states
    held, outputs = np.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        keep = np.ones(len(x), bool) if mask is None else mask[:, t]
        keep = keep.reshape(-1, *[1] * (x.ndim - 2))
        output, *new = row.step(x[:, t], *states)
        states = [np.where(keep, n, old) for n, old in zip(new, states)]
        held = np.where(keep, output, held)
        outputs.append(held if name in HELD else np.where(keep, output, 0))
    return np.stack(outputs, 1), held, states


def assert_same(found, wanted, exact=False):
    """Equality of lists of arrays; exact for spikes, to float32 rounding for potentials."""
    found, wanted = (keras.tree.flatten(to_numpy(a)) for a in (found, wanted))
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0 if exact else 1e-5, atol=0 if exact else 2e-6)


def everything(*shape, batch=None, time=None, mask=False, names=NEURONS, **kwargs):
    """A functional model with every neuron as an output, by name."""
    inputs = keras.Input((time, *shape), batch_size=batch)
    x = keras.layers.Masking()(inputs) if mask else inputs
    return keras.Model(inputs, {n: neuron(n, name=n, **kwargs)(x) for n in names})


# Sequences


@every_neuron
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)], ids=str)
def test_follows_its_equations(name, shape):
    x = currents(2, 9, *shape)
    output, *states = neuron(name, return_state=True)(x)
    wanted, last, wanted_states = reference(name, x)
    assert_same(output, wanted, exact=name in SPIKING)
    assert_same(states, wanted_states)
    assert_same(neuron(name, return_sequences=False)(x), last)
    if name in SPIKING:
        assert set(np.unique(wanted)) == set(NEURONS[name].values)


@every_neuron
def test_goes_backwards(name):
    x = currents(2, 9, 3)
    output, *states = neuron(name, return_state=True, go_backwards=True)(x)
    wanted, _, wanted_states = reference(name, x[:, ::-1])
    assert_same([output, states], [wanted, wanted_states])


@every_neuron
@pytest.mark.parametrize("shape", [(3,), (2, 4, 3)], ids=str)
def test_masked_steps_change_nothing(name, shape):
    x, mask = currents(2, 9, *shape), random_mask(2, 9)
    output, *states = neuron(name, return_state=True)(x, mask=ops.array(mask))
    wanted, last, wanted_states = reference(name, x, mask)
    assert_same([output, states], [wanted, wanted_states])
    assert_same(neuron(name, return_sequences=False)(x, mask=ops.array(mask)), last)


@every_neuron
def test_padding_changes_nothing(name):
    x = currents(1, 6, 3)
    padded = np.concatenate([x, np.zeros((1, 3, 3), "float32")], axis=1)
    mask = ops.array(np.arange(9)[None] < 6)
    alone = neuron(name, return_state=True)(x)
    output, *states = neuron(name, return_state=True)(padded, mask=mask)
    assert_same([output[:, :6]], alone[:1], exact=name in SPIKING)
    assert_same(states, alone[1:])


@every_neuron
def test_starts_from_given_states(name):
    x = currents(2, 12, 3)
    given = [currents(2, 3, seed=i) for i in range(len(NEURONS[name].start))]
    whole = neuron(name, return_state=True)(x, initial_state=[ops.array(v) for v in given])
    output, _, states = reference(name, x, states=given)
    assert_same(whole, [output, *states])
    layer = neuron(name, return_state=True)
    first, *states = layer(x[:, :5], initial_state=[ops.array(v) for v in given])
    second, *states = layer(x[:, 5:], initial_state=states)
    assert_same([ops.concatenate([first, second], 1), *states], whole, exact=True)


@pytest.mark.optimized
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["IF", "AdaptiveLIF", "LeakyIntegrator"])
def test_rolled_loop_equals_unrolled(name, masked, backwards, monkeypatch):
    x = currents(2, 9, 2, 3)
    mask = ops.array(random_mask(2, 9)) if masked else None
    arguments = {"return_state": True, "go_backwards": backwards}
    unrolled = neuron(name, unroll=True, **arguments)(x, mask=mask)
    last = neuron(name, unroll=True, return_sequences=False, go_backwards=backwards)(x, mask=mask)
    monkeypatch.setitem(tuning.UNROLL_LIMIT, BACKEND, 0)
    # TensorFlow's eager loop contracts no multiplications; the compiled one may.
    assert_same(neuron(name, **arguments)(x, mask=mask), unrolled)
    assert_same(neuron(name, return_sequences=False, go_backwards=backwards)(x, mask=mask), last)


@pytest.mark.parametrize("backwards", first_everywhere(False, True))
def test_unknown_time_and_batch(backwards):
    """In compiled functional models, below and above the limit of unrolling."""
    model = everything(4, mask=True, go_backwards=backwards)
    for time in (5, 70):
        x, mask = currents(3, time, 4), random_mask(3, time)
        x[~mask] = 0
        assert mask.sum() > 3
        step = -1 if backwards else 1
        wanted = {n: reference(n, x[:, ::step], mask[:, ::step])[0] for n in NEURONS}
        assert_same(model.predict(x, verbose=0), wanted)


CELLS = {
    "GRU": lambda: keras.layers.GRUCell(3, dropout=0.5, seed=1),
    "LSTM": lambda: keras.layers.LSTMCell(3, dropout=0.5, recurrent_dropout=0.5, seed=2),
    "stack": lambda: keras.layers.StackedRNNCells(
        [
            keras.layers.SimpleRNNCell(4, dropout=0.5, seed=1),
            keras.layers.SimpleRNNCell(3, recurrent_dropout=0.5, seed=2),
        ]
    ),
}


@pytest.mark.parametrize("cell", first_everywhere(*CELLS))
@pytest.mark.parametrize("time", [3, 66])
def test_dropout_of_keras_cells_is_drawn_for_each_call(cell, time):
    """As `keras.layers.RNN` does, for whole batches and others."""
    keras_layer = keras.layers.RNN(CELLS[cell](), return_sequences=True)
    layer = layers.SpikingRNN(CELLS[cell]())
    x = currents(4, time, 3)
    keras_layer.build(x.shape), layer.build(x.shape)
    layer.set_weights(keras_layer.get_weights())
    masks = []
    for batch in (4, 4, 2):
        wanted = to_numpy(keras_layer(x[:batch], training=True))
        assert_same(layer(x[:batch], training=True), wanted)
        masks.append(wanted)
    assert np.any(masks[0] != masks[1])
    bidirectional = keras.layers.Bidirectional(layers.SpikingRNN(CELLS[cell]()))
    for batch in (4, 2):
        bidirectional(x[:batch, :2], training=True)


class NoiseCell(layers.NeuronCell):
    """Its output is noise."""

    def __init__(self, seed, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def charge(self, v, x):
        return 0 * v + keras.random.normal(ops.shape(x), seed=self.generator)


@pytest.mark.parametrize("rolled", [False, True])
def test_noise_of_a_cell_differs_at_each_step_and_call(rolled, monkeypatch):
    monkeypatch.setitem(tuning.UNROLL_LIMIT, BACKEND, 0 if rolled else 9)
    model = keras.Sequential([keras.Input((5, 3)), layers.SpikingRNN(NoiseCell(seed=3))])
    generator = keras.random.SeedGenerator(3)
    for _ in range(2):
        wanted = [keras.random.normal((2, 3), seed=generator) for _ in range(5)]
        assert_same(model.predict(currents(2, 5, 3), verbose=0), ops.stack(wanted, axis=1))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rolled", [False, True])
def test_moving_statistics_within_a_loop_are_updated_once_a_step(rolled, masked, monkeypatch):
    monkeypatch.setitem(tuning.UNROLL_LIMIT, BACKEND, 0 if rolled else 9)
    normalization = keras.layers.BatchNormalization(momentum=0.5, scale=False)
    model = keras.Sequential(
        [keras.Input((5, 3)), layers.Recurrent(layers.LIFCell(), normalization)]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    x, mask = currents(8, 5, 3), np.ones((8, 5), bool)
    if masked:
        model.layers[0](x, mask=ops.array(mask), training=True)
    else:
        model.train_on_batch(x, 0 * x)
    moving, v, spikes = np.zeros(3), np.zeros((8, 3)), np.zeros((8, 3))
    for t in range(5):
        moving = 0.5 * moving + 0.5 * spikes.mean(0)
        h = x[:, t] + (spikes - spikes.mean(0)) / np.sqrt(spikes.var(0) + 1e-3)
        v = v + (h - v) / 2
        spikes = 1.0 * (v >= 1)
        v = v * (1 - spikes)
    assert 0.1 < moving.mean() < 0.9
    assert_same(model.layers[0].cell.connection.moving_mean.value, moving.astype("float32"))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="`jit_compile=True` needs no care elsewhere")
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("time", [5, None])
def test_gradient_of_a_long_loop_under_xla(time, masked, backwards, monkeypatch):
    import tensorflow as tf

    monkeypatch.setitem(tuning.UNROLL_LIMIT, BACKEND, 0)
    layer = layers.AdaptiveLIF(go_backwards=backwards, return_sequences=False)
    x = currents(2, 5, 3)
    mask = tf.constant([[True, True, False, True, True], [True] * 5]) if masked else None

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(layer(x, mask=mask))
        return tape.gradient(value, x)

    signature = [tf.TensorSpec((2, time, 3), "float32")]
    wanted = slope(tf.constant(x))
    assert np.any(to_numpy(wanted))
    assert_same(tf.function(slope, signature, jit_compile=True)(x), wanted)


def test_unroll_needs_known_time():
    with pytest.raises(ValueError, match=r"unroll=True.*\(None, None, 4\)"):
        layers.LIF(unroll=True)(keras.Input((None, 4)))


def test_backwards_mask_is_reversed():
    """A masked layer behind a reversed one must skip the same steps."""
    x, mask = currents(2, 9, 3), random_mask(2, 9)
    x[~mask] = 0
    inputs = keras.Input((9, 3))
    h = keras.layers.Masking()(inputs)
    h = layers.LIF(go_backwards=True)(h)
    model = keras.Model(inputs, layers.LeakyIntegrator(tau=4.0)(h))
    spikes = reference("LIF", x[:, ::-1], mask[:, ::-1])[0]
    wanted = reference("LeakyIntegrator", spikes, mask[:, ::-1])[0]
    assert_same(model.predict(x, verbose=0), wanted)


@every_neuron
def test_shapes_are_announced(name):
    inputs = keras.Input((None, 4, 3))
    states = len(NEURONS[name].start)
    outputs = neuron(name, return_state=True, return_sequences=False, dtype="mixed_bfloat16")(
        inputs
    )
    assert [o.shape for o in outputs] == [(None, 4, 3)] * (1 + states)
    assert [o.dtype for o in outputs] == ["bfloat16"] + ["float32"] * states
    assert neuron(name)(inputs).shape == (None, None, 4, 3)


# Within Keras


@every_neuron
def test_is_a_cell_of_stock_rnn(name):
    x = currents(2, 9, 3)
    cell = NEURONS[name].layer.cell_class(**NEURONS[name].arguments)
    found = keras.layers.RNN(cell, return_sequences=True, return_state=True)(x)
    assert_same(found, neuron(name, return_state=True)(x))


def stack_reference(names, x):
    states = []
    for name in names:
        x, _, new = reference(name, x)
        states.append(new)
    return [x, *states]


@pytest.mark.parametrize("names", [["LIF"], ["AdaptiveLIF", "IF-soft", "LeakyIntegrator"]], ids=len)
@pytest.mark.parametrize("time", [9, 70])
def test_stacks(names, time):
    def cells():
        rows = [NEURONS[name] for name in names]
        return [row.layer.cell_class(**row.arguments) for row in rows]

    x = currents(2, time, 3)
    wanted = stack_reference(names, x)
    layer = layers.SpikingRNN(cells(), return_state=True)
    assert_same(layer(x), wanted)
    if len(names) > 1:  # Keras unpacks the states of a stack of one, which its loop rejects.
        stock = keras.layers.StackedRNNCells(cells())
        assert_same(keras.layers.RNN(stock, return_sequences=True)(x), wanted[0])
    inputs = keras.Input((None, 3))
    outputs = layers.SpikingRNN(cells(), return_state=True)(inputs)
    model = keras.Model(inputs, outputs)
    assert model.output_shape == [(None, None, 3)] + [(None, 3)] * (len(model.outputs) - 1)
    assert_same(model.predict(x, verbose=0), wanted)


def test_stack_of_maps():
    x = currents(2, 5, 4, 4, 3)
    cells = [layers.LIFCell(), layers.ParametricLIFCell(tau=2.0, parameter_shape="channel")]
    layer = layers.SpikingRNN(cells, return_state=True)
    assert_same(layer(x), stack_reference(["LIF", "LIF"], x))
    assert layer.count_params() == 3


@pytest.mark.parametrize("time", [5, 70])
def test_stock_cells_run_in_spiking_rnn(time):
    x = currents(2, time, 3)
    stock = keras.layers.RNN(keras.layers.GRUCell(4), return_sequences=True, return_state=True)
    ours = layers.SpikingRNN(keras.layers.GRUCell(4), return_state=True)
    wanted = stock(x)
    ours(x)
    ours.set_weights(stock.get_weights())
    assert_same(ours(x), wanted)


def test_bidirectional():
    x, mask = currents(2, 9, 3), random_mask(2, 9)
    x[~mask] = 0
    inputs = keras.Input((None, 3))
    h = keras.layers.Masking()(inputs)
    outputs = keras.layers.Bidirectional(layers.LIF(return_state=True))(h)
    model = keras.Model(inputs, outputs)
    forward = reference("LIF", x, mask)
    backward = reference("LIF", x[:, ::-1], mask[:, ::-1])
    both = np.concatenate([forward[0], backward[0][:, ::-1]], axis=-1)
    assert_same(model.predict(x, verbose=0), [both, *forward[2], *backward[2]])
    clone = keras.models.clone_model(model)
    assert_same(clone.predict(x, verbose=0), model.predict(x, verbose=0), exact=True)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.neuron = layers.LIF(tau=2.0)

    def call(self, x):
        return self.neuron(x)


@pytest.mark.optimized
@pytest.mark.parametrize("kind", ["sequential", "subclassed", "clone"])
def test_models(kind):
    x = currents(2, 9, 3)
    sequential = keras.Sequential([layers.LIF(tau=2.0)])
    model = Subclassed() if kind == "subclassed" else sequential
    if kind == "clone":
        model = keras.models.clone_model(
            keras.Sequential([keras.Input((9, 3)), layers.LIF(tau=2.0)])
        )
    assert_same(model.predict(x, verbose=0), reference("LIF", x)[0], exact=True)


def test_initial_state_as_model_input(tmp_path):
    inputs, v, a = keras.Input((None, 3)), keras.Input((3,)), keras.Input((3,))
    outputs = neuron("AdaptiveLIF", return_state=True)(inputs, initial_state=[v, a])
    model = keras.Model([inputs, v, a], outputs)
    x, states = currents(2, 9, 3), [currents(2, 3, seed=1), currents(2, 3, seed=2)]
    wanted = reference("AdaptiveLIF", x, states=states)
    assert_same(model.predict([x, *states], verbose=0), [wanted[0], *wanted[2]])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(loaded.predict([x, *states], verbose=0), [wanted[0], *wanted[2]])


# Stateful


CHUNKS = [(0, 1), (1, 2), (2, 5), (5, 9)]


def stream(run, x):
    parts = [to_numpy(run(x[:, a:b])) for a, b in CHUNKS]
    return keras.tree.map_structure(lambda *p: np.concatenate(p, axis=1), *parts)


@pytest.mark.parametrize("how", ["call", "predict", "predict_on_batch"])
def test_streaming_equals_whole_sequence(how):
    x = currents(2, 9, 2, 3)
    model = everything(2, 3, batch=2, stateful=True)
    run = {
        "call": lambda chunk: model(chunk),
        "predict": lambda chunk: model.predict(chunk, verbose=0),
        "predict_on_batch": model.predict_on_batch,
    }[how]
    wanted = {name: reference(name, x)[0] for name in NEURONS}
    assert_same(stream(run, x), wanted)
    for name in NEURONS:
        model.get_layer(name).reset_state()
    assert_same(stream(run, x), wanted)


@every_neuron
def test_states_belong_to_no_weights(name, tmp_path):
    layer = neuron(name, stateful=True)
    plain = neuron(name)
    x = currents(4, 5, 3)
    layer(x), plain(x)
    assert layer.count_params() == plain.count_params()
    assert [w.shape for w in layer.get_weights()] == [w.shape for w in plain.get_weights()]
    assert len(layer.non_trainable_weights) == 0
    layer.reset_state()
    for state, value in zip(layer.states, NEURONS[name].start):
        assert_same(state.value, np.full((4, 3), value, "float32"), exact=True)


@pytest.mark.parametrize("file", ["model.weights.h5", "model.keras"])
@pytest.mark.parametrize(
    "target", [{"batch": 2, "stateful": True}, {}], ids=["batch 2", "stateless"]
)
def test_files_do_not_depend_on_batch_size(file, target, tmp_path):
    names = ["PLIF", "AdaptiveLIF", "KLIF"]
    source = everything(3, names=names, batch=4, stateful=True)
    weights = [w + 0.25 for w in source.get_weights()]
    assert len(weights) == 2
    source.set_weights(weights)
    source.predict(currents(4, 5, 3), verbose=0)
    (source.save_weights if file.endswith("h5") else source.save)(tmp_path / file)
    model = everything(3, names=names, **target)
    model.load_weights(tmp_path / file)
    assert_same(model.get_weights(), weights, exact=True)
    plain = everything(3, names=names)
    plain.set_weights(weights)
    x = currents(2, 5, 3)
    assert_same(model.predict(x, verbose=0), plain.predict(x, verbose=0), exact=True)


def streaming_model(batch=2):
    model = keras.Sequential(
        [
            keras.Input((None, 3), batch_size=batch),
            keras.layers.Dense(4, use_bias=False),
            neuron("AdaptiveLIF", stateful=True, name="neuron"),
            keras.layers.Dense(1),
        ]
    )
    return model


def test_states_advance_while_training():
    """With learning rate 0, so that the states of the whole sequence are known."""
    model = streaming_model()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = currents(2, 9, 3)
    y = np.ones((2, 9, 1), "float32")
    model.layers[0].set_weights([np.abs(model.layers[0].get_weights()[0])])
    current = x @ model.layers[0].get_weights()[0]
    for how in ("fit", "train_on_batch"):
        for a, b in [(0, 4), (4, 9)]:
            if how == "fit":
                model.fit(x[:, a:b], y[:, a:b], batch_size=2, verbose=0, shuffle=False)
            else:
                model.train_on_batch(x[:, a:b], y[:, a:b])
            _, _, wanted = reference("AdaptiveLIF", current[:, :b])
            assert_same([s.value for s in model.get_layer("neuron").states], wanted)
        model.get_layer("neuron").reset_state()


def test_stateful_layers_train():
    model = streaming_model()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    x, y = currents(6, 5, 3), np.ones((6, 5, 1), "float32")
    loss = model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0).history["loss"]
    assert np.all(np.isfinite(loss))
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights()))


@pytest.mark.parametrize("name", ["PLIF", "KLIF"])
def test_gradients_are_those_of_the_state_before(name):
    """The new state is written before the backward pass, which reads the old one."""
    x, v = currents(2, 3, 3), currents(2, 3, seed=1)
    stateful, plain = neuron(name, stateful=True), neuron(name)
    stateful.build(x.shape), plain.build(x.shape)
    stateful.states[0].assign(v)
    found = gradients(lambda x: ops.sum(stateful(x)), stateful.trainable_variables, x)
    wanted = gradients(
        lambda x: ops.sum(plain(x, initial_state=[ops.array(v)])), plain.trainable_variables, x
    )
    assert_same(found[1:], wanted[1:])


def test_stateful_recurrent_weights_train():
    """Their gradient reads the very state that the call overwrites."""
    layer = layers.SpikingRNN(keras.layers.SimpleRNNCell(4), stateful=True)
    x = currents(2, 3, 3)
    layer(x)
    _, _, found = gradients(lambda x: ops.sum(layer(x)), layer.trainable_variables, x)
    assert all(np.all(np.isfinite(g)) and np.any(g) for g in found)


def test_stateful_stack_starts_over():
    layer = layers.SpikingRNN(
        [layers.LIFCell(v_reset=-0.2), layers.LeakyIntegratorCell()], stateful=True
    )
    x = currents(2, 9, 3)
    first = to_numpy(layer(x))
    assert np.any(to_numpy(layer(x)) != first)
    layer.reset_state()
    assert_same(layer(x), first, exact=True)
    assert layer.count_params() == 0


def test_batch_size_must_not_change_while_stateful():
    layer = layers.LIF(stateful=True)
    layer(currents(2, 5, 3))
    with pytest.raises(ValueError, match=r"\(2, None, 3\).*\(1, 5, 3\)"):
        layer(currents(1, 5, 3))
    model = keras.Sequential([keras.Input((5, 3), batch_size=2), layers.LIF(stateful=True)])
    with pytest.raises(ValueError, match=r"\(2, None, 3\).*\(1, 5, 3\)"):
        model.predict(currents(1, 5, 3), verbose=0)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_stateful_predict_never_broadcasts_another_batch_size(batch):
    model = keras.Sequential([keras.Input((5, 3), batch_size=4), layers.LIF(stateful=True)])
    model.predict(np.ones((4, 5, 3)), verbose=0)
    found = rf"found shape=\({batch}, 5, 3\)"
    if BACKEND == "tensorflow":  # whose graph knows the batch size only when it runs
        found = r"lif\w* is stateful and was built for batches of 4 examples"
    with pytest.raises(Exception, match=found):
        model.predict(np.ones((batch, 5, 3)), verbose=0)


def test_stateful_needs_known_batch():
    with pytest.raises(ValueError, match=r"stateful=True.*\(None, 5, 3\)"):
        layers.LIF(stateful=True)(keras.Input((5, 3)))


# Mixed precision


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


MIXED = ["mixed_float16", "mixed_bfloat16"]


@every_neuron
@pytest.mark.parametrize("dtype", MIXED)
def test_mixed_precision_keeps_float32_states(name, dtype):
    x = currents(2, 9, 3)
    output, *states = neuron(name, return_state=True, dtype=dtype)(x)
    assert keras.backend.standardize_dtype(output.dtype) == dtype[len("mixed_") :]
    assert all(keras.backend.standardize_dtype(s.dtype) == "float32" for s in states)
    wanted, _, wanted_states = reference(name, x)
    # The input is float32, and so is all that follows but the output.
    assert_same(states, wanted_states)
    np.testing.assert_allclose(to_numpy(ops.cast(output, "float32")), wanted, rtol=2**-8)


@pytest.mark.parametrize("dtype", MIXED)
def test_mixed_precision_of_stacks(dtype):
    cells = [layers.LIFCell(tau=2.0, dtype=dtype), layers.LeakyIntegratorCell(4.0, dtype=dtype)]
    x = currents(2, 9, 3)
    wanted = stack_reference(["LIF", "LeakyIntegrator"], x)
    _, *states = layers.SpikingRNN(cells, return_state=True, dtype=dtype)(x)
    assert_same(states, wanted[1:])


@pytest.mark.parametrize("policy", MIXED, indirect=True)
def test_mixed_precision_as_global_policy(policy):
    x = currents(2, 70, 3)
    model = everything(3, return_state=True)
    for name, (output, *states) in model(x).items():
        assert keras.backend.standardize_dtype(output.dtype) == policy[len("mixed_") :], name
        assert all(keras.backend.standardize_dtype(s.dtype) == "float32" for s in states)
        assert all(np.all(np.isfinite(to_numpy(ops.cast(o, "float32")))) for o in [output, *states])


COMPILED = {"jax": [True], "torch": [False], "tensorflow": [False, True]}[BACKEND]


@pytest.mark.optimized
# Without it JAX compiles each operation by itself, which takes long; `torch.compile` takes minutes.
@pytest.mark.parametrize("jit_compile", COMPILED)
@pytest.mark.parametrize("policy", MIXED, indirect=True)
def test_mixed_precision_trains(policy, jit_compile):
    model = keras.Sequential(
        [
            keras.Input((2, 3)),
            keras.layers.Dense(8),
            neuron("PLIF"),
            neuron("LeakyIntegrator"),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    model.compile("adam", "mse", jit_compile=jit_compile)
    before = model.get_weights()
    x, y = currents(8, 2, 3), np.ones((8, 2, 1), "float32")
    # Loss scaling may skip the first steps.
    loss = model.fit(x, y, batch_size=4, epochs=4, verbose=0).history["loss"]
    assert np.all(np.isfinite(loss))
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights()))


# Files


def test_keras_file_holds_everything(tmp_path):
    model = everything(3)
    model.set_weights([w + 0.25 for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = currents(2, 9, 3)
    assert_same(loaded.predict(x, verbose=0), model.predict(x, verbose=0), exact=True)
    for name in NEURONS:
        config = model.get_layer(name).get_config()
        assert loaded.get_layer(name).get_config() == config
        for key, value in NEURONS[name].arguments.items():
            assert key == "gate_initializer" or config[key] == value


def test_stack_in_keras_file(tmp_path):
    cells = [layers.LIFCell(tau=3.0), layers.ParametricLIFCell(parameter_shape="neuron")]
    model = keras.Sequential([keras.Input((5, 2, 4, 3)), layers.SpikingRNN(cells)])
    model.set_weights([w + 0.25 for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = currents(2, 5, 2, 4, 3)
    assert_same(loaded.predict(x, verbose=0), model.predict(x, verbose=0), exact=True)


def dense():
    return keras.layers.Dense(3)


# Layers with weights of their own, of a cell or of layers that they hold.
OWNERS = {
    "neuron": lambda **k: layers.ParametricLIF(trainable_threshold=True, **k),
    "decay": lambda **k: layers.STDBLIF(trainable_decay=True, **k),
    "cell": lambda **k: layers.SpikingRNN(layers.KLIFCell(), **k),
    "stack": lambda **k: layers.SpikingRNN([layers.KLIFCell(), keras.layers.GRUCell(3)], **k),
    "recurrent": lambda **k: layers.Recurrent(layers.ParametricLIFCell(), dense(), **k),
    "network": lambda **k: layers.Recurrent(
        layers.LIFCell(), keras.Sequential([keras.Input((3,)), dense()]), **k
    ),
    "parallel": lambda **k: layers.MaskedPSN(2, **k),
    "fold": lambda **k: layers.FoldTime(dense(), **k),
    "BNTT": lambda **k: layers.BatchNormalizationThroughTime(4, **k),
    "TEBN": lambda **k: layers.TemporalEffectiveBatchNormalization(4, **k),
    "shift": lambda **k: layers.ClipFloorShift(**k),
}


@pytest.mark.once
@pytest.mark.parametrize("name", OWNERS)
def test_what_is_frozen_stays_frozen(name, tmp_path):
    """However it was frozen, in clones and files, within a model within a model."""
    made, before, after = OWNERS[name](trainable=False), OWNERS[name](), OWNERS[name]()
    before.trainable = False
    for layer in (made, before, after):
        model = keras.Sequential([keras.Input((4, 3)), layer])
        assert bool(model.trainable_variables) == (layer is after)
        layer.trainable = False
        outer = keras.Sequential([keras.Input((4, 3)), model])
        outer.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        copy = layers.get_neuron(layer)
        copy.build((None, 4, 3))
        for found in (outer, keras.models.clone_model(outer), loaded, copy):
            assert not any(variable.trainable for variable in found.variables)
            assert len(found.variables) == len(layer.variables) > 0


@pytest.mark.once
def test_a_frozen_cell_stays_frozen():
    model = keras.Sequential([keras.Input((4, 3)), layers.ParametricLIF()])
    model.layers[0].cell.trainable = False
    assert keras.models.clone_model(model).trainable_variables == []


WRITER = """
import sys
import keras, numpy as np
from keras_snn import layers, testing

model = keras.Sequential([
    keras.Input((None, 3)),
    keras.layers.Dense(5, kernel_initializer=keras.initializers.RandomUniform(-1, 2, seed=1)),
    layers.ParametricLIF(parameter_shape="channel", trainable_threshold=True),
])
rng = np.random.default_rng(0)
model.set_weights([w + rng.normal(0, 0.1, w.shape) for w in model.get_weights()])
spikes = model.predict(np.load(sys.argv[1] + "/x.npy"), verbose=0)
np.save(sys.argv[1] + "/spikes.npy", spikes)
model.save(sys.argv[1] + "/model.keras")
"""


@pytest.mark.once
def test_files_of_another_backend_load(tmp_path):
    other = "torch" if BACKEND == "jax" else "jax"
    pytest.importorskip(other)
    np.save(tmp_path / "x.npy", currents(4, 12, 3))
    root = str(Path(keras_snn.__file__).parents[1])
    environment = os.environ | {"KERAS_BACKEND": other, "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], env=environment, check=True)
    model = keras.saving.load_model(tmp_path / "model.keras")
    spikes = model.predict(np.load(tmp_path / "x.npy"), verbose=0)
    wanted = np.load(tmp_path / "spikes.npy")
    assert 0.1 < wanted.mean() < 0.9
    assert_same(spikes, wanted, exact=True)


@every_neuron
def test_config_is_json(name):
    config = neuron(name).get_config()
    again = NEURONS[name].layer.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config


# Gradients


def atan(u):
    """Derivative of ATan(2)."""
    return 1 / (1 + (math.pi * u) ** 2)


X1, X2, V_RESET, THRESHOLD = 1.25, 0.5, -0.25, 0.75


@pytest.mark.parametrize("x1", [X1, 0.5], ids=["after a spike", "after none"])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
def test_gradient_through_the_reset(reset, detach, x1):
    """IF over two steps: the second spike's slopes to both inputs and to the threshold."""
    layer = layers.IF(
        reset=reset,
        detach_reset=detach,
        v_reset=V_RESET,
        threshold=THRESHOLD,
        trainable_threshold=True,
    )
    x = np.array([[[x1], [X2]]], "float32")
    layer.build(x.shape)
    _, (dx,), (dthreshold,) = gradients(
        lambda x: ops.sum(layer(x)[:, 1]), layer.trainable_variables, x
    )
    h1 = V_RESET + x1
    s1 = float(h1 >= THRESHOLD)
    v1 = {"hard": s1 * V_RESET + (1 - s1) * h1, "soft": h1 - s1 * THRESHOLD, "none": h1}[reset]
    g1, g2 = atan(h1 - THRESHOLD), atan(v1 + X2 - THRESHOLD)
    # d v1 / d s1, and what is left of the membrane and of the threshold at a fixed spike.
    through = {"hard": V_RESET - h1, "soft": -THRESHOLD, "none": 0}[reset] * (not detach)
    dh = {"hard": 1 - s1, "soft": 1, "none": 1}[reset] + through * g1
    dt = {"hard": 0, "soft": -s1, "none": 0}[reset] - through * g1
    np.testing.assert_allclose(dx[0, :, 0], [g2 * dh, g2], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(dthreshold, g2 * (dt - 1), rtol=1e-5, atol=1e-7)


def test_gradient_through_a_leak_of_many_steps():
    """Without a spike the last slope to input t is g / tau (1 - 1 / tau)^(T - t), also rolled."""
    layer = layers.LIF(tau=4.0, threshold=5.0)
    time = tuning.UNROLL_LIMIT.get(BACKEND, 16) + 1
    x = np.full((1, time, 1), 0.5, "float32")
    _, (dx,), _ = gradients(lambda x: ops.sum(layer(x)[:, -1]), [], x)
    steps = np.arange(time)[::-1]
    h = 0.5 * (1 - 0.75**time)
    np.testing.assert_allclose(dx[0, :, 0], atan(h - 5) / 4 * 0.75**steps, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("decay_input", [True, False])
def test_parametric_tau_gets_its_gradient(decay_input):
    """E4.8: `v + sigmoid(w) (x - v)` with w = 0 at tau = 2."""
    layer = layers.ParametricLIF(tau=2.0, decay_input=decay_input, return_state=True)
    x, v = np.array([[[1.5]]], "float32"), np.array([[0.3]], "float32")
    layer.build(x.shape)
    (w,) = layer.trainable_variables
    assert float(to_numpy(w.value)) == 0.0

    def spike(x, v):
        return ops.sum(layer(x, initial_state=[v])[0])

    _, (dx, dv), (dw,) = gradients(spike, [w], x, v)
    h = 0.3 + (1.5 - 0.3) / 2 if decay_input else 0.3 - 0.3 / 2 + 1.5
    slope = (1.5 - 0.3) / 4 if decay_input else -0.3 / 4
    g = atan(h - 1)
    np.testing.assert_allclose(dw, g * slope, rtol=1e-5)
    np.testing.assert_allclose(dx[0, 0, 0], g / 2 if decay_input else g, rtol=1e-5)
    np.testing.assert_allclose(dv[0, 0], g / 2, rtol=1e-5)


@every_spiking_neuron
def test_thresholds_learn(name):
    learned = "trainable_threshold" not in NEURONS[name].layer.cell_class.without
    layer = neuron(name, **({"trainable_threshold": True} if learned else {}))
    x = currents(2, 9, 3)
    layer.build(x.shape)
    assert_same(layer(x), reference(name, x)[0], exact=True)
    weights = layer.trainable_variables
    _, (dx,), found = gradients(lambda x: ops.sum(layer(x)), weights, x)
    assert np.all(np.isfinite(dx)) and np.any(dx)
    for weight, gradient in zip(weights, found):
        assert gradient.shape == tuple(weight.shape)
        assert np.all(np.isfinite(gradient)) and np.any(gradient), weight.path


def test_conductance_of_each_step():
    """Of three steps that GLIF knows; examples may be at different ones, and stay at the last."""
    x, mask = currents(2, 7, 2, 3), np.ones((2, 7), bool)
    mask[1, :2] = False
    layer = layers.GLIF(timesteps=3, gate_initializer="zeros", leak=0.25, return_state=True)
    layer.build(x.shape)
    shares = [0.25, 0.75, 0.5]
    logits = np.log(shares) - np.log1p(np.negative(shares))
    layer.cell.conductances.assign(np.repeat(logits[:, None], 3, 1).astype("float32"))
    found, *states = layer(x, mask=ops.array(mask))
    for example, start in enumerate([0, 2]):
        v = s = np.zeros((2, 3))
        for t, current in enumerate(x[example, start:]):
            s, v, _ = gated(shares[min(t, 2)])(current, v, s)
            assert_same(found[example, start + t], s, exact=True)
        assert_same([state[example] for state in states], [v, s, np.full((2, 3), 7.0 - start)])


def normalized(x, v, scale, shift):
    h = v / 2 + x
    s = 1.0 * (scale * h + shift >= 1)
    return s, np.where(s == 1, 0.0, h)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_threshold_that_stands_for_the_normalisation_of_the_membrane(data_format, tmp_path):
    """MPBN in inference, by hand, by its threshold, and from a file."""
    rng = np.random.default_rng(0)
    gamma, beta, mean, variance = rng.uniform(0.5, 1.5, (4, 3)).astype("float32")
    x = currents(4, 6, 3, 2, 3)
    shape = (3,) if data_format == "channels_last" else (3, 1, 1)
    layer = layers.MPBNLIF(data_format=data_format)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    layer.cell.normalization.set_weights([gamma, beta, mean, variance])
    scale = (gamma / np.sqrt(variance + 1e-5)).reshape(shape)
    shift = beta.reshape(shape) - mean.reshape(shape) * scale
    wanted, v = [], 0.0
    for t in range(6):
        s, v = normalized(x[:, t], v, scale, shift)
        wanted.append(s)
    wanted = np.stack(wanted, axis=1)
    assert 0.1 < wanted.mean() < 0.9
    assert_same(model.predict(x, verbose=0), wanted, exact=True)
    plain = layers.LIF(decay_input=False, trainable_threshold=True, parameter_shape="neuron")
    plain.build(x.shape)
    folded = np.broadcast_to(layer.cell.folded_threshold(), x.shape[2:])
    plain.cell.threshold_weight.assign(folded.astype("float32"))
    assert_same(plain(x), wanted, exact=True)
    np.testing.assert_array_equal(layer.cell.inference_spec()[-1], layer.cell.folded_threshold())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(loaded.predict(x, verbose=0), wanted, exact=True)


def test_no_threshold_stands_for_other_normalisations():
    for arguments in ({"normalize_state": True}, {"reset": "soft"}):
        layer = layers.MPBNLIF(**arguments)
        layer.build((2, 4, 3))
        assert layer.cell.folded_threshold() is None
    layer = layers.MPBNLIF(trainable=False)
    layer.build((2, 4, 3))
    assert not layer.trainable_variables
    layer.cell.normalization.gamma.assign(-ops.ones(3))
    assert layer.cell.folded_threshold() is None


@pytest.mark.once
def test_arguments_that_a_neuron_does_not_take():
    for make in (layers.GLIF, layers.GLIFCell):
        with pytest.raises((TypeError, ValueError), match="reset"):
            make(reset="hard")
        assert "reset" not in make.__signature__.parameters and "\n    reset:" not in make.__doc__


def test_thresholds_stay_positive():
    layer = layers.IF(threshold=0.1, trainable_threshold=True)
    layer.build((1, 2, 3))
    (weight,) = layer.trainable_variables
    keras.optimizers.SGD(1.0).apply([ops.array(5.0)], [weight])
    assert 0 < float(to_numpy(weight.value)) < 1e-6


@pytest.mark.parametrize(
    "sharing, data_format, wanted",
    [
        ("scalar", "channels_last", ()),
        ("channel", "channels_last", (5,)),
        ("channel", "channels_first", (3, 1, 1)),
        ("neuron", "channels_last", (3, 4, 5)),
        ("neuron", "channels_first", (3, 4, 5)),
    ],
)
def test_parameters_are_shared(sharing, data_format, wanted):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        layer = layers.ParametricLIF(parameter_shape=sharing, trainable_threshold=True)
        x = currents(2, 4, 3, 4, 5)
        spikes = layer(x)
        flat = layers.KLIF(parameter_shape=sharing)
        flat.build((2, 4, 7))
    finally:
        keras.config.set_image_data_format(before)
    assert [tuple(w.shape) for w in layer.weights] == [wanted] * 2
    assert [tuple(w.shape) for w in flat.weights] == [() if sharing == "scalar" else (7,)]
    assert_same(spikes, reference("LIF", x)[0], exact=True)


# Reset, whether it is detached, whether firing is strict.
RESETS = [
    ("hard", False, False),
    ("soft", False, True),
    ("hard", True, True),
    ("soft", True, False),
]


@pytest.mark.optimized
@pytest.mark.parametrize("setting", first_everywhere(*RESETS, ("none", False, False)), ids=str)
@pytest.mark.parametrize("name", equations.NEURONS)
def test_values_and_gradients_are_those_of_the_equations(name, setting):
    changes = dict(zip(("reset", "detach_reset", "strict"), setting))
    given = equations.arguments(name, **(changes if "reset" in equations.arguments(name) else {}))
    x, upstream = currents(2, 7, 3), currents(2, 7, 3, seed=1)
    extra = {"surrogate": "atan", "trainable_threshold": True} if "threshold" in given else {}
    without = getattr(layers, name).cell_class.without
    extra = {key: value for key, value in extra.items() if key not in without}
    layer = getattr(layers, name)(return_state=True, **given, **extra)
    layer.build(x.shape)
    weights = {v.name: float(to_numpy(v.value)) for v in layer.trainable_variables}
    wanted = equations.simulate(name, x, upstream, given, weights)
    output, *states = layer(x)
    assert_same([output, states], wanted[:2])
    if "reset" in given:
        assert 0.1 < np.mean(wanted[0] != 0) < 0.9
    _, (dx,), found = gradients(
        lambda x: ops.sum(layer(x)[0] * ops.array(upstream)), layer.trainable_variables, x
    )
    np.testing.assert_allclose(dx, wanted[2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, list(wanted[3].values()), rtol=1e-4, atol=1e-5)


def euler(x, v, w, s):
    """SE-adLIF's equations by Euler's form, of the row above."""
    decay, slow = np.exp(-1 / 4), np.exp(-1 / 8)
    h = decay * v + (1 - decay) * (x - w)
    w = slow * w + (1 - slow) * 2 * (v / 2 + s)
    s = 1.0 * (h > 0.2)
    return s, h * (1 - s), w, s


def test_adaptive_neurons_by_the_form_of_euler():
    testing.check_neuron(neuron("SEAdLIF", method="euler"), euler)
    given = equations.arguments("SEAdLIF", detach_reset=False)
    x, upstream = currents(2, 7, 3), currents(2, 7, 3, seed=1)
    layer = layers.SEAdLIF(method="euler", surrogate="atan", **given)
    layer.build(x.shape)
    weights = {v.name: float(to_numpy(v.value)) for v in layer.trainable_variables}
    first = [np.full((2, 3), given["v_reset"]), np.zeros((2, 3)), np.zeros((2, 3))]
    wanted = equations.simulate("SEAdLIF", x, upstream, given, weights, first)
    assert_same(layer(x), wanted[0], exact=True)
    _, (dx,), found = gradients(
        lambda x: ops.sum(layer(x) * ops.array(upstream)), layer.trainable_variables, x
    )
    np.testing.assert_allclose(dx, wanted[2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, list(wanted[3].values()), rtol=1e-4, atol=1e-5)


@pytest.mark.once
def test_adaptive_neurons_start_and_stay_in_their_ranges():
    layer = layers.SEAdLIF()
    layer.build((1, 2, 4000))
    cell = layer.cell
    for weight, low, high in (
        (cell.tau_share, 0, 1),
        (cell.tau_adaptation_share, 0, 1),
        (cell.a, 0, 1),
        (cell.b, 0, 2),
    ):
        values = to_numpy(weight.value)
        assert values.min() >= low and values.max() <= high
        np.testing.assert_allclose(np.quantile(values, [0.25, 0.75]), [high / 4, high * 3 / 4], 0.1)
        for sign, end in ((1.0, low), (-1.0, high)):
            keras.optimizers.SGD(9.0).apply([sign * ops.ones_like(weight)], [weight])
            assert np.all(to_numpy(weight.value) == end)
    cell.tau_share.assign(0.25 * ops.ones(4000))
    for found, tau in ((cell.current_tau, 10), (cell.current_tau_adaptation, 300)):
        np.testing.assert_allclose(to_numpy(found), tau, rtol=1e-6)


# Numbers from outside


VECTORS = {
    "IF hard": (layers.IF, {}, [0.4] * 8, [0.4, 0.8, 1.2] * 2 + [0.4, 0.8], "00100100"),
    "IF soft": (
        layers.IF,
        {"reset": "soft"},
        [0.4] * 8,
        [0.4, 0.8, 1.2, 0.6, 1.0, 0.4, 0.8, 1.2],
        "00101001",
    ),
    "LIF": (layers.LIF, {"tau": 2.0}, [1.0] * 4, [0.5, 0.75, 0.875, 0.9375], "0000"),
    "PLIF": (layers.ParametricLIF, {}, [1.5] * 6, [0.75, 1.125] * 3, "010101"),
    "tdBN": (layers.DecayLIF, {}, [0.45] * 6, [0.45, 0.5625] * 3, "010101"),
    "tdBN varied": (
        layers.DecayLIF,
        {},
        [0.3, 0.6, -0.2, 0.5, 0.1, 0.55],
        [0.3, 0.675, -0.2, 0.45, 0.2125, 0.603125],
        "010001",
    ),
}

# The same with the potentials after the step.
AFTER = {
    "delayed": (
        {"decay": 1.0},
        [0.7] * 8,
        [0.7, 1.4, 1.1, 0.8, 1.5, 1.2, 0.9, 1.6],
        "00110110",
    ),
    "delayed leaky": (
        {"decay": 0.9},
        [0.7] * 8,
        [0.7, 1.33, 0.897, 1.5073, 1.05657, 0.650913, 1.285822, 0.85724],
        "00101101",
    ),
    "same step": (
        {"decay": 0.874, "threshold": 1.0, "reset": "soft", "detach_reset": True},
        [0.6] * 6,
        [0.6, 0.1244, 0.708726, 0.219426, 0.791778, 0.292014],
        "010101",
    ),
}


def digits(text):
    return np.array([float(c) for c in text], "float32")


def sequence(values):
    return np.array(values, "float32")[None, :, None]


@pytest.mark.parametrize("name", VECTORS)
def test_reference_vectors_before_firing(name):
    cls, arguments, x, wanted, spikes = VECTORS[name]
    layer = cls(**arguments)
    found = to_numpy(layer(sequence(x)))[0, :, 0]
    np.testing.assert_array_equal(found, digits(spikes))
    cell, states, potentials = layer.cell, layer.cell.get_initial_state(1), []
    for value in x:
        current = ops.array([[value]], dtype="float32")
        potentials.append(float(to_numpy(cell.charge(states[0], current))[0, 0]))
        _, states = cell.step(current, states)
    np.testing.assert_allclose(potentials, wanted, atol=1e-6)


@pytest.mark.parametrize("name", AFTER)
def test_reference_vectors_after_the_step(name):
    arguments, x, wanted, spikes = AFTER[name]
    cls = layers.DecayLIF if name == "same step" else layers.DelayedLIF
    layer = cls(return_state=True, **arguments)
    potentials, states, found = [], None, []
    for value in x:
        output, *states = layer(sequence([value]), initial_state=states)
        found.append(float(to_numpy(output)[0, 0, 0]))
        potentials.append(float(to_numpy(states[0])[0, 0]))
    np.testing.assert_array_equal(found, digits(spikes))
    np.testing.assert_allclose(potentials, wanted, atol=1e-6)


@pytest.mark.parametrize("tau", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75, 1.0, 1.5])
def test_when_a_neuron_is_an_identity(threshold, tau):
    """E4.4: of binary spikes, with a hard reset to 0."""
    spikes = np.random.default_rng(0).integers(0, 2, (4, 16, 8)).astype("float32")
    for layer, bound in [
        (layers.IF(threshold=threshold), 1),
        (layers.LIF(tau=tau, threshold=threshold), 1 / tau),
        (layers.LIF(tau=tau, threshold=threshold, decay_input=False), 1),
    ]:
        same = np.array_equal(to_numpy(layer(spikes)), spikes)
        assert same == (threshold <= bound), (layer.name, bound)


# 0.5, 1 and the potentials between are exact in float32, and so is the tie.
@pytest.mark.parametrize("strict, wanted", [(False, "1010"), (True, "0101")])
def test_a_tie_at_the_threshold(strict, wanted):
    x = sequence([1.0, 0.5, 0.5, 0.75])
    assert_same(layers.IF(strict=strict)(x)[0, :, 0], digits(wanted), exact=True)


def test_rest_is_where_the_reset_leads():
    """With tau = 2, and rest and reset at -1: `h = (v + x - 1) / 2`, from hand."""
    layer = layers.LIF(tau=2.0, v_reset=-1.0, return_state=True)
    spikes, v = layer(sequence([3.0, 2.0, -1.0, 4.0, 0.0]))
    # h: 0.5, 0.75, -0.625, 1.1875, -1
    assert_same(spikes[0, :, 0], digits("00010"), exact=True)
    assert_same(v[0, 0], np.float32(-1.0), exact=True)
    _, v = layer(sequence([3.0, 2.0, -1.0]))
    assert_same(v[0, 0], np.float32(-0.625), exact=True)


# Bad input


@pytest.mark.parametrize(
    "cls, arguments, received",
    [
        (layers.LIF, {"tau": -1.0}, "-1.0"),
        (layers.LIF, {"tau": float("nan")}, "nan"),
        (layers.LIF, {"tau": "2"}, "'2'"),
        (layers.LIF, {"tau": True}, "True"),
        (layers.LIF, {"tau": None}, "None"),
        (layers.ParametricLIF, {"tau": 1.0}, "1.0"),
        (layers.IF, {"threshold": 0.0}, "0.0"),
        (layers.IF, {"threshold": -2}, "-2"),
        (layers.IF, {"v_reset": "rest"}, "'rest'"),
        (layers.IF, {"reset": "zero"}, "'zero'"),
        (layers.IF, {"surrogate": "atam"}, "'atam'"),
        (layers.IF, {"parameter_shape": "layer"}, "'layer'"),
        (layers.DecayLIF, {"decay": 1.5}, "1.5"),
        (layers.DelayedLIF, {"decay": -0.5}, "-0.5"),
        (layers.SynapticLIF, {"synaptic_decay": 2}, "2"),
        (layers.AdaptiveLIF, {"adaptation": -1}, "-1"),
        (layers.AdaptiveLIF, {"tau_adaptation": 0.5}, "0.5"),
        (layers.QIF, {"a0": 0}, "0"),
        (layers.EIF, {"delta_t": 0.0}, "0.0"),
        (layers.Izhikevich, {"tau_w": 0}, "0"),
        (layers.KLIF, {"tau": 0.9}, "0.9"),
        (layers.ILIF, {"max_spikes": 0}, "0"),
        (layers.GLIF, {"threshold": 1.0}, "1.0"),
        (layers.GLIF, {"decay": 0.0}, "0.0"),
        (layers.GLIF, {"timesteps": 0}, "0"),
        (layers.SEAdLIF, {"tau_range": (0.0, 5.0)}, "0.0"),
        (layers.SEAdLIF, {"a_range": (1.0, 0.5)}, "0.5"),
        (layers.SEAdLIF, {"b_range": 2.0}, "2.0"),
        (layers.SEAdLIF, {"method": "exact"}, "exact"),
        (layers.TwoCompartmentLIF, {"coupling": 1.0}, "1.0"),
        (layers.ResonateAndFire, {"b": 0.2}, "0.2"),
        (layers.LIAF, {"activation": "rely"}, "rely"),
        (layers.ILIF, {"reset": "hard"}, "'hard'"),
        (layers.LeakyIntegrator, {"tau": 0}, "0"),
    ],
)
def test_bad_arguments(cls, arguments, received):
    (name,) = arguments
    with pytest.raises(ValueError) as error:
        cls(**arguments)
    message = str(error.value)
    assert name in message and received in message
    with pytest.raises(ValueError):
        cls.cell_class(**arguments)


def test_bad_types():
    with pytest.raises(TypeError, match=r"surrogate.*3"):
        layers.LIF(surrogate=3)
    with pytest.raises((TypeError, ValueError), match="taus"):
        layers.LIF(taus=2.0)
    with pytest.raises(TypeError, match=r"two values for \['tau'\]"):
        layers.LIF(2.0, tau=3.0)


@pytest.mark.once
@pytest.mark.parametrize(
    ("cls", "argument", "ours"),
    [
        (layers.LIF, "beta", r"1 / \(1 - beta\).*`decay`"),
        (layers.LIFCell, "v_threshold", "`threshold`"),
        (layers.IF, "thresh", "`threshold`"),
        (layers.LIF, "tau_mem", "`tau`"),
        (layers.SynapticLIF, "alpha", "`synaptic_decay`"),
        (layers.LIF, "step_mode", "sequences"),
        (layers.ParametricLIF, "init_tau", "`tau`"),
        (layers.LeakyIntegrator, "surrogate_function", "`surrogate`"),
    ],
)
def test_arguments_of_other_packages(cls, argument, ours):
    with pytest.raises(TypeError, match=f"{cls.__name__} takes no argument `{argument}`.*{ours}"):
        cls(**{argument: 0.9})


@pytest.mark.once
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [layers.LIFCell(), x]])
def test_a_layer_is_no_cell(wrap):
    with pytest.raises(TypeError, match=r"expects a cell.*`IFCell\(\)`.*layer 'if'"):
        layers.SpikingRNN(wrap(layers.IF(name="if")))


@pytest.mark.once
def test_images_are_no_sequences():
    x = keras.layers.Conv2D(2, 3, name="conv")(keras.Input((8, 8, 1)))
    for maps in (x, keras.layers.BatchNormalization()(x)):
        with pytest.warns(UserWarning, match=r"axis 1 of \(None, 6, 6, 2\) for time, and 'conv'"):
            layers.LIF()(maps)


@pytest.mark.once
def test_all_states_of_a_model_are_reset_by_one_call():
    def net():
        return [layers.LIF(stateful=True), layers.SpikingRNN([layers.IFCell()], stateful=True)]

    inner = keras.Sequential([keras.Input((None, 3), batch_size=2), *net()])
    gru = keras.layers.GRU(3, stateful=True, return_sequences=True)
    both = keras.layers.Bidirectional(layers.LeakyIntegrator(stateful=True))
    model = keras.Sequential([keras.Input((None, 3), batch_size=2), inner, gru, both])
    x = currents(2, 4, 3)
    first = to_numpy(model(x))
    assert np.any(to_numpy(model(x)) != first)
    layers.reset_states(model)
    assert_same(model(x), first, exact=True)


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_bad_rank(shape):
    with pytest.raises(ValueError, match=rf"rank 3 or more.*{shape[-1]}"):
        layers.LIF()(currents(*shape))


def test_no_time_steps():
    with pytest.raises(ValueError, match=r"at least one time step.*\(2, 0, 3\)"):
        layers.LIF()(np.zeros((2, 0, 3), "float32"))


@pytest.mark.parametrize("shapes", [[(2, 3)] * 2, [(2, 4)], [(1, 3)], [(2, 3, 1)]], ids=str)
@pytest.mark.parametrize("symbolic", [False, True])
def test_bad_initial_state(shapes, symbolic):
    def tensor(shape):
        return keras.Input(batch_shape=shape) if symbolic else ops.zeros(shape)

    layer = layers.LIF()
    with pytest.raises(ValueError, match=r"1 states of shapes \[\(2, 3\)\]") as error:
        layer(tensor((2, 5, 3)), initial_state=[tensor(shape) for shape in shapes])
    assert f"{len(shapes)} of shapes {shapes}" in str(error.value)


@pytest.mark.parametrize("symbolic", [False, True])
def test_bad_mask(symbolic):
    """`Masking` of maps gives a mask for each pixel."""
    x = keras.Input((5, 4, 3)) if symbolic else ops.ones((2, 5, 4, 3))
    with pytest.raises(ValueError, match=r"\(batch, time\), got \((2|None), 5, 4\)"):
        layers.LIF()(keras.layers.Masking()(x))


WRONG_MASKS = [(2, 6), (2, 4), (2, 1), (1, 5), (3, 5), (5,), (2, 5, 1)]


@pytest.mark.parametrize("shape", WRONG_MASKS, ids=str)
@pytest.mark.parametrize("make", [layers.IF, layers.AdaptiveLIF, layers.PSN])
def test_mask_of_another_shape(make, shape):
    found = rf"\(batch, time\), got {re.escape(str(shape))} for .* time are \(2, 5\)"
    with pytest.raises(ValueError, match=found):
        make()(currents(2, 5, 3), mask=np.ones(shape, bool))
    if shape[0] == 2:  # a symbolic batch size is unknown
        with pytest.raises(ValueError, match=r"\(batch, time\), got .* time are \(None, 5\)"):
            make()(keras.Input((5, 3)), mask=keras.Input(shape[1:], dtype="bool"))


@pytest.mark.parametrize("steps", [4, 6])
def test_mask_of_another_length_known_at_run_time(steps):
    inputs, mask = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    model = keras.Model([inputs, mask], layers.AdaptiveLIF()(inputs, mask=mask))
    with pytest.raises(Exception, match=r"needs a mask of shape \(batch, time\)"):
        model.predict([currents(2, 5, 3), np.ones((2, steps), bool)], verbose=0)


def test_parameters_need_known_shapes():
    with pytest.raises(ValueError, match=r"'neuron'.*\(None, None, 3\)"):
        layers.ParametricLIF(parameter_shape="neuron")(keras.Input((5, None, 3)))


def test_numpy_numbers_are_numbers():
    layer = layers.LIF(tau=np.float32(2.0), threshold=np.float64(1.0), v_reset=np.int64(0))
    assert layer.get_config()["tau"] == 2.0 and type(layer.get_config()["tau"]) is float
    x = currents(2, 9, 3)
    assert_same(layer(x), reference("LIF", x)[0], exact=True)


# Any neuron, any settings


def numbers(low, high):
    # Few digits make ties likely, which is where implementations differ.
    return st.integers(round(low * 8), round(high * 8)).map(lambda n: n / 8)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(SPIKING),
    threshold=numbers(0.25, 2),
    v_reset=numbers(-0.5, 0.25),
    reset=st.integers(0, 2),
    strict=st.booleans(),
    cuts=st.sets(st.integers(1, 8)),
    seed=st.integers(0, 99),
)
def test_random_chunks_equal_the_whole(name, threshold, v_reset, reset, strict, cuts, seed):
    arguments = NEURONS[name].arguments | {
        "threshold": threshold,
        "v_reset": v_reset,
        "reset": NEURONS[name].resets[reset % len(NEURONS[name].resets)],
        "strict": strict,
    }
    without = NEURONS[name].layer.cell_class.without
    arguments = {key: value for key, value in arguments.items() if key not in without}
    if name == "GLIF":
        arguments["threshold"] = threshold / 4
    x = np.round(currents(2, 9, 3, seed=seed) * 4) / 4
    whole = to_numpy(NEURONS[name].layer(**arguments)(x))
    assert set(np.unique(whole)) <= set(NEURONS[name].values)
    layer = NEURONS[name].layer(stateful=True, **arguments)
    edges = [0, *sorted(cuts), 9]
    parts = [to_numpy(layer(x[:, a:b])) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
