"""What exports compute, before a converter: each call of each layer, whole clips and steps."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.export import worker
from keras_snn.export.lowering import Lowering
from keras_snn.export.targets import Job

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the work is TensorFlow's"
)
STEPS = 5


def dense(units=4):
    """A layer whose currents make neurons fire, and others than another one's."""
    return kl.Dense(units, kernel_initializer=keras.initializers.RandomNormal(0.3, 1.5, seed=units))


def on_vectors(function, size=4):
    """A model whose outputs are `function` of a sequence of vectors."""
    inputs = keras.Input((STEPS, size), name="frames")
    return keras.Model(inputs, function(inputs))


def on_maps(function):
    inputs = keras.Input((STEPS, 4, 3, 2), name="frames")
    return keras.Model(inputs, function(inputs))


def played(model, mode):
    """Outputs of the lowered model and of Keras's, and the names of the states."""
    trace = graph.trace(model)
    rng, batch = np.random.default_rng(0), model.inputs[0].shape[0] or 1
    clips = [rng.normal(size=(1, *x.shape[1:])).astype("float32") for x in model.inputs]
    states = None if mode == "sequence" else {}
    for t in range(1 if mode == "sequence" else STEPS):
        frames = [x[:, t] if mode == "step" and d else x for x, d in zip(clips, trace.timed)]
        lowering = Lowering(model, trace, STEPS, states)
        found = lowering.run([ops.convert_to_tensor(x) for x in frames])
        states = lowering.states
    clips = dict(zip(graph.input_names(model), (np.repeat(x, batch, axis=0) for x in clips)))
    wanted = model(clips if len(clips) > 1 else next(iter(clips.values())))
    last = [mode == "step" and timed for timed in trace.timed_outputs]
    wanted = [y[:1, -1] if t else y[:1] for y, t in zip(keras.tree.flatten(wanted), last)]
    return [np.asarray(y) for y in found], [np.asarray(y) for y in wanted], list(states)


def check(model, mode):
    found, wanted, states = played(model, mode)
    for a, b in zip(found, wanted, strict=True):
        assert np.any(b)
        np.testing.assert_allclose(a, b, atol=1e-5)
    return states


def twice(layer):
    """A layer called twice, with currents between that make the second call another one."""

    def function(x):
        x = dense()(x)
        return snn.SumOverTime(name="sum")(layer(dense()(layer(x)) + x))

    return on_vectors(function)


def readout_twice(layer):
    def function(x):
        x = snn.LIF(name="lif")(dense()(x))
        return [layer(x), layer(dense()(x))]

    return on_vectors(function)


def block(name="block"):
    return keras.Sequential([keras.Input((STEPS, 4)), dense(), snn.IF(name="if")], name=name)


def nested_block():
    layers = [keras.Input((STEPS, 4)), block("inner"), snn.LIF(tau=1.0, threshold=0.3, name="lif")]
    return keras.Sequential(layers, name="outer")


# What is called twice, and the states that a step has.
TWICE = {
    "neuron": (lambda: twice(snn.LIF(name="n")), ["n/membrane", "n:1/membrane", "sum/total"]),
    "recurrent": (
        lambda: twice(snn.Recurrent(snn.SynapticLIFCell(), kl.Dense(4), name="n")),
        [f"n{i}/{s}" for i in ("", ":1") for s in ("membrane", "current", "spikes")]
        + ["sum/total"],
    ),
    "stacked": (
        lambda: twice(snn.SpikingRNN([snn.LIFCell(), snn.STDBLIFCell()], name="n")),
        [f"n{i}/cell_{s}" for i in ("", ":1") for s in ("0/membrane", "1/membrane", "1/silence")]
        + ["sum/total"],
    ),
    "LSTM": (
        lambda: twice(kl.LSTM(4, return_sequences=True, name="n")),
        ["n/hidden", "n/carry", "n:1/hidden", "n:1/carry", "sum/total"],
    ),
    "block": (
        lambda: twice(block()),
        ["block/if/membrane", "block:1/if/membrane", "sum/total"],
    ),
    "nested block": (
        lambda: twice(nested_block()),
        [f"outer{i}/{s}/membrane" for i in ("", ":1") for s in ("inner/if", "lif")] + ["sum/total"],
    ),
    "mean": (
        lambda: readout_twice(snn.MeanOverTime(name="r")),
        ["lif/membrane", "r/total", "r:1/total"],
    ),
    "membrane": (
        lambda: readout_twice(snn.MembraneReadout("max", tau=2.0, name="r")),
        ["lif/membrane"]
        + [f"r{i}/{s}" for i in ("", ":1") for s in ("integrator/membrane", "reduce/maximum")],
    ),
    "causal": (
        lambda: twice(kl.Conv1D(4, 3, padding="causal", dilation_rate=2, name="n")),
        ["n/history", "n:1/history", "sum/total"],
    ),
    "sliding": (
        lambda: twice(snn.SlidingPSN(3, name="n")),
        ["n/history", "n:1/history", "sum/total"],
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_each_call_has_its_states(name):
    build, states = TWICE[name]
    model = build()
    assert check(model, "step") == states
    check(model, "sequence")


def spiking(function):
    """`function` before a neuron."""
    return lambda x: snn.SumOverTime()(snn.LIF(tau=1.0, threshold=0.3)(function(x)))


def behind(function):
    """`function` behind a neuron."""
    return lambda x: snn.SumOverTime()(function(snn.LIF(tau=1.0)(x)))


def normalization(cls, **kwargs):
    random = keras.initializers.RandomNormal(1.0, seed=1)
    return cls(moving_mean_initializer=random, gamma_initializer=random, **kwargs)


def folded():
    layers = [kl.Conv2D(3, 2), kl.BatchNormalization(), kl.ReLU(), kl.Flatten()]
    return snn.FoldTime(keras.Sequential([keras.Input((4, 3, 2)), *layers]))


def folded_graph():
    inputs = keras.Input((4, 3, 2))
    x = kl.Conv2D(2, 3, padding="same")(inputs)
    return snn.FoldTime(keras.Model(inputs, kl.Concatenate(axis=3)([x, inputs])))


# Layers that treat each step alone, along axes that move when time takes the batch's place.
PER_STEP = {
    "Concatenate(axis=4)": spiking(lambda x: kl.Concatenate(axis=4)([x, 2 * x])),
    "Concatenate(axis=2)": spiking(lambda x: kl.Concatenate(axis=2)([x, 2 * x])),
    "Softmax(axis=3)": spiking(lambda x: kl.Softmax(axis=3)(x)),
    "LayerNormalization(axis=[2, 4])": spiking(lambda x: kl.LayerNormalization(axis=[2, 4])(x)),
    "BatchNormalization(axis=4)": spiking(normalization(kl.BatchNormalization, axis=4)),
    "BatchNormalization(axis=2)": spiking(normalization(kl.BatchNormalization, axis=2)),
    "tdBN(axis=1)": spiking(normalization(snn.ThresholdDependentBatchNormalization, axis=1)),
    "ops.concatenate(axis=3)": behind(lambda x: ops.concatenate([x, x], axis=3)),
    "ops.mean(axis=[2, 3])": behind(lambda x: ops.mean(x, axis=[2, 3])),
    "ops.max(axis=4, keepdims)": behind(lambda x: ops.max(x, axis=4, keepdims=True)),
    "ops.reshape": behind(lambda x: ops.reshape(x, (-1, STEPS, 12, 2))),
    "Reshape": behind(lambda x: kl.Reshape((STEPS, 6, -1))(x)),
    "x[:, :, 1:]": behind(lambda x: x[:, :, 1:]),
    "x * array": spiking(lambda x: x * np.arange(1.0, 4.0, dtype="float32")[:, None]),
    "SpatialDropout": spiking(lambda x: kl.SpatialDropout3D(0.5)(x)),
    "FoldTime(Sequential)": spiking(lambda x: folded()(x)),
    "FoldTime(Model)": spiking(lambda x: folded_graph()(x)),
    "TimeDistributed(Sequential)": spiking(lambda x: kl.TimeDistributed(folded().layer)(x)),
}


@pytest.mark.parametrize("mode", ["sequence", "step"])
@pytest.mark.parametrize("name", PER_STEP)
def test_layers_along_axes(name, mode):
    check(on_maps(PER_STEP[name]), mode)


def gate(x):
    spikes = snn.LIF()(3 * x)
    return snn.SumOverTime()(spikes * ops.expand_dims(snn.MeanOverTime()(spikes), 1))


class OwnDense(kl.Dense):
    """A class with a `call` of its own, which nobody knows."""

    def call(self, inputs):
        return ops.flip(super().call(inputs), axis=1)


class OwnLIF(snn.LIF):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return super().call(sequences, initial_state, mask, training)


# What is refused in a mode, and the layer and the word that the error names.
REFUSED = {
    "Concatenate(axis=1)": ("both", lambda x: kl.Concatenate(axis=1)([x, x]), "Concatenate.*steps"),
    "Softmax(axis=1)": ("both", lambda x: kl.Softmax(axis=1)(x), "Softmax.*steps"),
    "ops.cumsum(axis=1)": ("both", lambda x: ops.cumsum(x, axis=1), "Cumsum.*steps"),
    "Conv1D": ("both", lambda x: kl.Conv1D(4, 3, padding="same")(x), "Conv1D.*steps"),
    "Bidirectional": (
        "both",
        lambda x: kl.Bidirectional(kl.LSTM(2, return_sequences=True))(x),
        "Bidirectional.*steps",
    ),
    "a subclass": ("both", lambda x: OwnDense(4)(x), "Own.*graph.register"),
    "a neuron's subclass": ("both", lambda x: OwnLIF()(x), "Own.*graph.register"),
    "a mask": ("both", lambda x: kl.Masking()(x), "masks"),
    "PSN": ("step", lambda x: snn.PSN()(x), "PSN.*all steps"),
    "a gate": ("step", gate, "Multiply.*whole clip"),
    "an array over time": (
        "step",
        lambda x: x * np.arange(5.0, dtype="float32")[:, None],
        "Multiply.*one step",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_name(name):
    modes, function, message = REFUSED[name]
    last = (lambda x: x) if name == "a gate" else lambda x: snn.SumOverTime()(snn.IF()(x))
    model = on_vectors(lambda x: last(function(x)))
    with pytest.raises(TypeError, match=message):
        played(model, "step")
    if modes == "step":
        found, wanted, _ = played(model, "sequence")
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    else:
        with pytest.raises(TypeError, match=message):
            played(model, "sequence")


@pytest.mark.parametrize("mode", ["sequence", "step"])
def test_dictionaries_and_several_inputs(mode):
    frames, label = keras.Input((STEPS, 4), name="frames"), keras.Input((4,), name="label")
    x = snn.LIF()(kl.Add()([dense()(frames), snn.RepeatTime(STEPS)(dense()(label))]))
    outputs = {"z": snn.MeanOverTime(name="mean")(x), "a": kl.Identity(name="spikes")(x)}
    model = keras.Model({"second": label, "first": frames}, outputs)
    assert (graph.input_names(model), graph.output_names(model)) == (
        ["first", "second"],
        ["a", "z"],
    )
    check(model, mode)


class Gain(kl.Layer):
    """A layer of a user's, that knows which axis is time."""

    def call(self, x):
        assert len(x.shape) == 3
        return x * ops.arange(1.0, 5.0)


def test_registered_layers_see_their_axes(monkeypatch):
    monkeypatch.setattr(graph, "ROLES", dict(graph.ROLES))
    model = on_vectors(spiking(Gain()))
    with pytest.raises(TypeError, match="Gain"):
        played(model, "step")
    graph.register(Gain, "per step")
    for mode in ("sequence", "step"):
        check(model, mode)


def test_stateful_models_are_compared_from_their_first_state():
    inputs = keras.Input(batch_shape=(2, STEPS, 4))
    model = keras.Model(inputs, snn.LIF(stateful=True, threshold=0.1, name="lif")(dense()(inputs)))
    program = worker.Program(model, Job("tflite", "sequence", STEPS), {})
    example = [np.random.default_rng(0).normal(size=(STEPS, 4)).astype("float32")]
    first, second = (program.reference(example)[0][0] for _ in range(2))
    assert np.any(first)
    np.testing.assert_array_equal(first, second)
