"""Exported files compute what their models do; what can't be exported is refused."""

import functools
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import ops

from keras_snn import applications, export, layers
from keras_snn.export.micro import project
from keras_snn.export.report import compare, warnings

pytest.importorskip("ai_edge_litert", reason="needs the extra `export`")

BACKEND = keras.backend.backend()
# Other backends hand the work to TensorFlow: the last tests here show that the file is the same.
with_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="the work is TensorFlow's")
STEPS = 4


def sequence_net(neuron, norm=None, readout=layers.MeanOverTime, other=None):
    """A neuron behind a convolution, another one before a residual addition."""
    inputs = keras.Input((STEPS, 6, 6, 2))
    x = layers.FoldTime(keras.layers.Conv2D(4, 3, padding="same", name="conv1"))(inputs)
    x = norm()(x) if norm else layers.FoldTime(keras.layers.BatchNormalization())(x)
    x = neuron("first")(x)
    strong = keras.initializers.RandomNormal(0.1, 0.5, seed=2)  # so that the second one fires too
    conv = keras.layers.Conv2D(4, 3, padding="same", kernel_initializer=strong, name="conv2")
    y = layers.FoldTime(conv)(x)
    x = layers.SpikeConnection("add")([(other or neuron)("second")(y), x])
    x = layers.FoldTime(keras.layers.GlobalAveragePooling2D())(x)
    x = readout()(keras.layers.Dense(3)(x))
    return randomized(keras.Model(inputs, x))


def image_net():
    return randomized(applications.SEWResNet8(input_shape=(8, 8, 1), classes=3, timesteps=STEPS))


def nested_net():
    inner = sequence_net(lambda name: layers.LIF(name=name))
    inputs = keras.Input((STEPS, 6, 6, 2))
    outputs = keras.layers.Dense(3)(inner(keras.layers.Rescaling(0.5)(inputs)))
    return randomized(keras.Model(inputs, outputs))


def randomized(model):
    """The model, with statistics and scales that are not those of a fresh one."""
    rng = np.random.default_rng(0)
    ranges = {
        "moving_mean": (-0.3, 0.3),
        "moving_variance": (0.1, 0.5),
        "gamma": (1.0, 2.0),
        "beta": (0.0, 0.5),
        "step_scale": (0.8, 1.2),
    }
    for weight in model.variables:
        name = weight.path.split("/")[-1]
        if name in ranges:
            weight.assign(rng.uniform(*ranges[name], weight.shape))
    return model


def convolutions(model):
    return sum(w.name == "kernel" and len(w.shape) == 4 for w in model.weights)


def clips(model, count=6):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(1).normal(0.2, 1.5, shape).astype("float32")


NEURONS = {
    "IF": lambda name: layers.IF(name=name),
    "IF, soft": lambda name: layers.IF(reset="soft", name=name),
    "LIF": lambda name: layers.LIF(tau=3.0, name=name),
    "LIF, rest": lambda name: layers.LIF(tau=3.0, v_reset=-0.2, strict=True, name=name),
    "LIF, input not divided": lambda name: layers.LIF(decay_input=False, name=name),
    "PLIF": lambda name: layers.ParametricLIF(parameter_shape="channel", name=name),
    "learned threshold": lambda name: layers.IF(
        trainable_threshold=True, parameter_shape="channel", reset="soft", name=name
    ),
    "DecayLIF": lambda name: layers.DecayLIF(decay=0.25, threshold=0.5, name=name),
    "AdaptiveLIF": lambda name: layers.AdaptiveLIF(name=name),
    "SynapticLIF": lambda name: layers.SynapticLIF(name=name),
    "KLIF": lambda name: layers.KLIF(name=name),
    "MPBN": lambda name: layers.MPBNLIF(name=name),
}
NORMS = {
    "tdBN": lambda: layers.ThresholdDependentBatchNormalization(threshold=0.7),
    "TEBN": lambda: layers.TemporalEffectiveBatchNormalization(STEPS),
    "BNTT": lambda: layers.BatchNormalizationThroughTime(STEPS, center=True),
}
READOUTS = {
    "mean": layers.MeanOverTime,
    "sum": layers.SumOverTime,
    "max": layers.MaxOverTime,
    "last": layers.LastOverTime,
    "membrane": lambda: layers.MembraneReadout("last", tau=2.0),
}


def dense_net(*parts, shape=(STEPS, 6)):
    """Layers behind a dense one."""
    strong = keras.initializers.RandomNormal(0.3, 0.7, seed=1)
    first = keras.layers.Dense(8, kernel_initializer=strong)
    return lambda: keras.Sequential([keras.Input(shape), first, *(part() for part in parts)])


DENSE = {
    "recurrent": dense_net(
        lambda: layers.Recurrent(layers.LIFCell(), keras.layers.Dense(8)), layers.SumOverTime
    ),
    "stacked": dense_net(
        lambda: layers.SpikingRNN(
            keras.layers.StackedRNNCells([layers.LIFCell(), layers.IFCell()])
        ),
        layers.MeanOverTime,
    ),
    "first spike": dense_net(layers.LIF, layers.FirstSpikeTime),
    "votes": dense_net(layers.LIF, lambda: layers.Voting(2), layers.MeanOverTime),
    "spikes": dense_net(layers.LIF),
    "last spikes": dense_net(layers.LIF, lambda: layers.LIF(return_sequences=False)),
    "distributed": dense_net(
        lambda: keras.layers.TimeDistributed(keras.layers.Dense(8)),
        lambda: layers.TimeConstantDropout(0.5),
        layers.IF,
        keras.layers.LayerNormalization,
        layers.MeanOverTime,
    ),
}


@with_tensorflow
@pytest.mark.parametrize("mode", ["sequence", "step"])
@pytest.mark.parametrize("name", DENSE)
def test_other_layers(name, mode, tmp_path):
    model = DENSE[name]()
    data, path = clips(model), tmp_path / "model.tflite"
    report = export.to_tflite(model, path, mode, verify_data=data)
    assert report.layers and report.flipped == 0 and report.logits < 1e-5
    stream = export.StreamingInterpreter(path)
    for clip, wanted in zip(data, model.predict(data, verbose=0)):
        found = stream.step(clip[None]) if mode == "sequence" else stream.run(clip)
        (found,) = found.values()
        step = wanted[-1] if mode == "step" and name == "spikes" else wanted
        np.testing.assert_allclose(found[0], step, atol=1e-5)


@with_tensorflow
def test_a_network_without_time(tmp_path):
    model = keras.Sequential(
        [keras.Input((6, 5, 2)), layers.PaddedConv2D(3, 3, 2, "symmetric"), keras.layers.ReLU()]
    )
    data, path = clips(model), tmp_path / "model.tflite"
    report = export.to_tflite(model, path, verify_data=data)
    assert report.timesteps == 1 and report.logits < 1e-5


@with_tensorflow
def test_mixed_precision_turns_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = sequence_net(NEURONS["LIF"])
    finally:
        keras.config.set_dtype_policy("float32")
    report = export.to_tflite(model, tmp_path / "model.tflite", verify_data=clips(model))
    assert report.flipped == 0 and report.logits < 1e-4
    assert {row["type"] for row in report.inputs + report.outputs} == {"float32"}


def mixed_nets():
    """Every neuron, normalisation and readout, in networks of two neurons each."""
    names = list(NEURONS)
    others = itertools.cycle([*NORMS, "batch"]), itertools.cycle(READOUTS)
    for first, second, norm, readout in zip(names[::2], [*names[1::2], names[0]], *others):
        parts = NEURONS[first], NORMS.get(norm), READOUTS[readout], NEURONS[second]
        yield f"{first}; {second}; {norm}; {readout}", functools.partial(sequence_net, *parts)


NETS = dict(mixed_nets()) | {"image": image_net, "nested": nested_net}


@with_tensorflow
@pytest.mark.parametrize("mode", ["sequence", "step"])
@pytest.mark.parametrize("name", NETS)
def test_file_is_the_model(name, mode, tmp_path):
    model = NETS[name]()
    data, path = clips(model), tmp_path / "model.tflite"
    report = export.to_tflite(model, path, mode=mode, verify_data=data)
    assert report.layers
    assert report.bytes == path.stat().st_size
    for layer in report.layers:
        assert 0.005 < layer["rate"] < 0.995, layer
        assert layer["agreement"] == layer["agreement, built-in"] == 1, layer
    assert report.flipped == 0 and report.top1 == 1 and report.logits < 1e-4
    assert not {"WHILE", "CUSTOM", "SELECT_V2", "VAR_HANDLE"} & set(report.operations)
    assert report.operations["CONV_2D"] == convolutions(model)
    if (name, mode) == ("image", "sequence"):
        # Statistics and factors are folded: the products left are those of the resets.
        assert report.operations["MUL"] == (STEPS - 1) * len(report.layers)
    stream, frames = export.StreamingInterpreter(path), len(model.input_shape) == 5
    for clip, wanted in zip(data, model.predict(data, verbose=0)):
        if mode == "sequence":
            found = stream.step(clip[None])
        else:
            found = stream.run(clip if frames else np.repeat(clip[None], STEPS, 0))
        (found,) = found.values()
        np.testing.assert_allclose(found[0], wanted, atol=1e-4)


@with_tensorflow
def test_states_inside_the_file(tmp_path):
    model = sequence_net(NEURONS["LIF, rest"])
    path, data = tmp_path / "model.tflite", clips(model)
    export.to_tflite(model, path, mode="step", state="internal", verify_data=data)
    stream = export.StreamingInterpreter(path)
    for clip, wanted in zip(data, model.predict(data, verbose=0)):
        (found,) = stream.run(clip).values()
        np.testing.assert_allclose(found[0], wanted, atol=1e-4)


@with_tensorflow
@pytest.mark.parametrize("quantize", ["dynamic", "float16", "int8", "int16x8"])
@pytest.mark.parametrize("mode", ["sequence", "step"])
def test_quantized(quantize, mode, tmp_path):
    model = sequence_net(NEURONS["LIF"])
    data, path = clips(model, 32), tmp_path / "model.tflite"
    report = export.to_tflite(model, path, mode, quantize, representative_data=data)
    assert all(layer["agreement"] > 0.97 for layer in report.layers)
    assert report.top1 > 0.8
    assert "SELECT_V2" not in report.operations
    kind = "int8" if quantize == "int8" else "float32"
    assert {row["type"] for row in report.inputs + report.outputs} == {kind}
    wanted = "int8" if quantize == "int8" else "int16"
    if quantize.startswith("int"):
        assert any(row["type"] == wanted for row in report.quantization)


def every_neuron():
    """All neurons side by side."""
    inputs = keras.Input((3, 4))
    strong = keras.initializers.RandomNormal(0.3, 0.8, seed=1)
    x = keras.layers.Dense(4, kernel_initializer=strong)(inputs)
    found = [getattr(layers, name)(name=name)(x) for name in layers.neuron_names()]
    cell = layers.AdaptiveLIFCell(threshold=0.7, reset="soft")
    found.append(layers.Recurrent(cell, keras.layers.Dense(4), name="recurrent")(x))
    readouts = [layers.SumOverTime(), layers.FirstSpikeTime(), layers.MembraneReadout("max", 2.0)]
    return keras.Model(inputs, [readout(y) for readout in readouts for y in found[1:3]] + found)


@with_tensorflow
@pytest.mark.parametrize("mode", ["sequence", "step"])
def test_every_neuron_in_int16(mode, tmp_path):
    model = every_neuron()
    data = np.random.default_rng(0).normal(size=(16, 3, 4)).astype("float32")
    report = export.to_tflite(model, tmp_path / "m.tflite", mode, "int16x8", data)
    names = {layer["name"] for layer in report.layers}
    assert names == {*layers.neuron_names(), "recurrent"} - {
        "Accumulator",
        "LIAF",
        "LeakyIntegrator",
    }
    assert all(layer["agreement"] >= 0.98 for layer in report.layers), str(report)
    assert not report.warnings


def shared_names():
    """Layers whose names are equal in letters, digits and `_`, or those of other tensors."""
    strong = keras.initializers.RandomNormal(0.0, 2.0, seed=1)
    dense = functools.partial(keras.layers.Dense, 4, kernel_initializer=strong)
    first, second = (keras.Input((STEPS, 4), name=name) for name in ("0", "é 1"))
    neuron = layers.LIF(name="x-1")
    x = neuron(dense(name="x_1_membrane")(first + second))
    x = neuron(layers.IF(name="x_1")(dense()(x)) + first)
    inner = [keras.Input((STEPS, 4)), layers.LIF(tau=3.0, name="b")]
    x = keras.Sequential(inner, name="a")(dense()(x))
    x = layers.IF(name="a_b")(x + first)
    mean = layers.MeanOverTime(name="0_out")(dense(name="class")(x))
    total = layers.SumOverTime(name="int")(x)
    rates = layers.MeanOverTime(name="spikes_0")(x)
    copy = keras.layers.Identity(name="A_B_membrane")(total)
    return keras.Model([second, first], [mean, total, rates, copy, mean])


@with_tensorflow
@pytest.mark.parametrize("kind", ["sequence", "step", "internal", "onnx sequence", "onnx step"])
def test_names_never_merge(kind, tmp_path):
    model, data = shared_names(), np.random.default_rng(0).normal(size=(2, 2, STEPS, 4))
    mode = "sequence" if "sequence" in kind else "step"
    if "onnx" in kind:
        pytest.importorskip("tf2onnx")
        path = tmp_path / "m.onnx"
        report = export.to_onnx(model, path, mode, verify_data=list(data))
        runner = export.OnnxRunner(path)
    else:
        path, state = tmp_path / "m.tflite", "internal" if kind == "internal" else "explicit"
        report = export.to_tflite(model, path, mode, state=state, verify_data=list(data))
        runner = export.StreamingInterpreter(path)
    assert [layer["agreement"] for layer in report.layers] == [1.0] * 5 and not report.warnings
    assert all(re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) for name in report.names)
    inputs, outputs = list(report.names)[:2], list(report.names)[2:7]
    assert [report.names[n] for n in inputs] == ["é 1", "0"]
    wanted = ["0_out", "int", "spikes_0", "A_B_membrane", "0_out"]
    assert [report.names[n] for n in outputs] == wanted
    if mode == "step":
        states = ["x-1/membrane", "x_1/membrane", "x-1:1/membrane", "a/b/membrane", "a_b/membrane"]
        assert [*report.names.values()][7:12] == states
    wanted = model.predict([x.astype("float32") for x in data], verbose=0)
    for i in range(len(data[0])):
        runner.reset()
        for t in range(STEPS if mode == "step" else 1):
            frames = [x[i : i + 1, t] if mode == "step" else x[i : i + 1] for x in data]
            found = runner.step(dict(zip(inputs, frames)))
        for name, y in zip(outputs, wanted):
            np.testing.assert_allclose(found[name][0], y[i], atol=1e-5)


# As much of TensorFlow Lite Micro as its programs call.
MICRO = """
#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
struct TfLiteQuantizationParams { float scale; int32_t zero_point; };
struct TfLiteTensor { size_t bytes; TfLiteQuantizationParams params; };
namespace tflite {
struct Model {};
template <class T> T* GetTensorData(TfLiteTensor*) { return nullptr; }
inline const Model* GetModel(const void*) { return nullptr; }
inline void InitializeTarget() {}
template <unsigned N> struct MicroMutableOpResolver {
  static_assert(N == COUNT);
  METHODS
};
struct MicroInterpreter {
  template <class R> MicroInterpreter(const Model*, const R&, uint8_t*, size_t) {}
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  TfLiteStatus Invoke() { return kTfLiteOk; }
  TfLiteTensor* input(size_t) { return nullptr; }
  TfLiteTensor* output(size_t) { return nullptr; }
};
}
"""
METHODS = {"CONV_2D": "Conv2D", "SELECT_V2": "SelectV2"}


def check_project(texts, report, folder):
    """A C++ program for Micro: correct C++, exactly the operations of the file, all states."""
    names = [METHODS.get(op, op.title().replace("_", "")) for op in report.operations]
    methods = "".join(f"TfLiteStatus Add{name}();" for name in names)
    stub = MICRO.replace("COUNT", str(len(names))).replace("METHODS", methods)
    lite = folder / "tflm/tensorflow/lite"
    for header in re.findall(r'"(tensorflow/\S+)"', texts["main.cc"]):
        place = folder / "tflm" / header
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text('#include "tensorflow/lite/all.h"\n')
    (lite / "all.h").write_text(stub)
    for name, text in texts.items():
        (folder / name).write_text(text)
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-Itflm", "-I."]
    subprocess.run([*command, "main.cc", "net-1.cc"], cwd=folder, check=True)
    for name in names:
        assert texts["main.cc"].count(f"resolver.Add{name}();") == 1
    inputs, outputs = ([row["name"] for row in rows] for rows in (report.inputs, report.outputs))
    for name in report.initial_states:
        places = f"{{{inputs.index(name)}, {outputs.index(f'{name}_out')}, "
        assert places in texts["main.cc"]
    # The sources of Micro that are compiled: no tests.
    (folder / "tflm/third_party/gemmlowp").mkdir(parents=True)
    (lite / "micro/kernels").mkdir()
    for name in ("kernels/conv", "kernels/conv_test", "micro_log", "micro_log_test"):
        (lite / f"micro/{name}.cc").touch()
    run = subprocess.run(
        ["make", "-n", "TFLM=tflm"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert "build/tensorflow/lite/micro/kernels/conv.o" in run.stdout
    assert "tflm/third_party/flatbuffers/include" in run.stdout
    assert "_test" not in run.stdout
    run = subprocess.run(["make"], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode and "TFLM=path make" in run.stderr


@with_tensorflow
def test_microcontroller(tmp_path):
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    model = sequence_net(NEURONS["LIF"])
    data, path = clips(model, 32), tmp_path / "net-1.tflite"
    report = export.to_tflite(model, path, "step", "int8", data, target="tflm")
    assert 1000 < report.arena_bytes < 100_000
    # The C array is the file; header and source are C++.
    source = (tmp_path / "net-1.cc").read_text()
    found = bytes(int(b, 16) for b in re.findall(r"0x([0-9a-f]{2}),", source))
    assert found == path.read_bytes()
    header = (tmp_path / "net-1.h").read_text()
    assert f"net_1_ARENA_BYTES {report.arena_bytes}" in header
    assert "resolver.AddConv2D();" in header
    subprocess.run(
        ["g++", "-c", "-x", "c++", "net-1.cc", "-o", os.devnull, "-I."], cwd=tmp_path, check=True
    )
    check_project(project(path.read_bytes(), report, "net-1"), report, tmp_path)
    # Micro's own interpreter, fed with its own states, gives the answers of TensorFlow Lite's.
    micro = runtime.Interpreter.from_bytes(path.read_bytes())
    stream, agree = export.StreamingInterpreter(path), 0
    names = [row["name"] for row in report.inputs]
    outputs = [row["name"] for row in report.outputs]
    for clip in data:
        (wanted,) = stream.run(clip).values()
        real = dict.fromkeys(names, 0.0)
        for frame in clip:
            real |= {name: frame[None] for name in names if f"{name}_out" not in outputs}
            for i, row in enumerate(report.inputs):
                x = np.round(real[row["name"]] / row["scale"]) + row["zero_point"]
                x = np.broadcast_to(np.clip(x, -128, 127).astype("int8"), row["shape"])
                micro.set_input(np.ascontiguousarray(x), i)
            micro.invoke()
            for i, row in enumerate(report.outputs):
                y = (micro.get_output(i).astype("float32") - row["zero_point"]) * row["scale"]
                real[row["name"].removesuffix("_out")] = y
        (answer,) = {name for name in outputs if not name.endswith("_out")}
        agree += real[answer].argmax() == wanted.argmax()
    assert agree == len(data)


class Odd(keras.layers.Layer):
    """A layer on sequences that nobody knows."""

    def call(self, inputs):
        return inputs[:, ::-1]

    def compute_output_shape(self, input_shape):
        return input_shape


def odd_net():
    inputs = keras.Input((STEPS, 3))
    return keras.Model(inputs, layers.MeanOverTime()(Odd(name="odd")(layers.IF()(inputs))))


@with_tensorflow
def test_failure_leaves_no_file(tmp_path):
    path = tmp_path / "model.tflite"
    with keras.utils.custom_object_scope({"Odd": Odd}):
        with pytest.raises(TypeError, match=r"odd \(Odd\) can't be exported"):
            export.to_tflite(odd_net(), path)
        assert not list(tmp_path.iterdir())
        path.write_bytes(b"old")
        with pytest.raises(TypeError, match="odd"):
            export.to_tflite(odd_net(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    assert path.read_bytes() == b"old"


@with_tensorflow
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: layers.PoissonEncoder(STEPS), "random numbers"),
        (lambda: layers.FoldTime(keras.layers.Conv1D(2, 3, data_format="channels_first")), "first"),
        (lambda: keras.layers.Masking(), "masks"),
        (lambda: keras.layers.Flatten(), "FoldTime"),
        (lambda: layers.LIF(go_backwards=True), "go_backwards"),
    ],
)
def test_what_is_refused(layer, message, tmp_path):
    layer = layer()
    static = isinstance(layer, layers.RepeatTime)
    inputs = keras.Input((3, 5) if static else (STEPS, 3, 5))
    x = layer(inputs) if static else layer(layers.IF()(inputs))
    if isinstance(layer, keras.layers.Masking):
        x = layers.IF()(layer(keras.layers.Reshape((STEPS, 15))(inputs)))
    with pytest.raises(TypeError, match=message):
        export.to_tflite(keras.Model(inputs, x), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_invalid_arguments(tmp_path):
    model, path = sequence_net(NEURONS["IF"]), tmp_path / "model.tflite"
    wrong = [
        ({"mode": "clip"}, "mode"),
        ({"quantize": "int4"}, "quantize"),
        ({"target": "npu"}, "target"),
        ({"state": "inside"}, "state"),
        ({"quantize": "int8"}, "representative_data"),
        ({"target": "tflm", "quantize": "dynamic"}, "float32 and int8"),
        ({"state": "internal"}, "mode='sequence'"),
        ({"timesteps": STEPS + 1}, "has 4 timesteps, got 5"),
        ({"timesteps": 0}, "timesteps"),
        ({"verify_data": np.zeros((2, 3))}, r"\(2, 3\)"),
        ({"verify_data": np.zeros((0, STEPS, 6, 6, 2))}, "verify data"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            export.to_tflite(model, path, **arguments)
    with pytest.raises(ValueError, match="no folder"):
        export.to_tflite(model, tmp_path / "nowhere" / "model.tflite")
    with pytest.raises(ValueError, match="give `timesteps`"):
        inputs = keras.Input((None, 3))
        export.to_tflite(keras.Model(inputs, layers.IF()(inputs)), path)
    assert not list(tmp_path.iterdir())


class Subclassed(keras.Model):
    def call(self, x):
        return x


def test_subclassed_models_are_refused(tmp_path):
    model = Subclassed()
    model(np.zeros((1, 2)))
    with pytest.raises(TypeError, match="functional"):
        export.to_tflite(model, tmp_path / "model.tflite")


@with_tensorflow
def test_names_that_tensorflow_refuses(tmp_path):
    model = keras.Sequential([keras.Input((2, 3)), keras.layers.Dense(2, name="ö"), layers.LIF()])
    with pytest.raises(ValueError, match=r"names \['ö'\]: a name begins with a letter"):
        export.to_tflite(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


@with_tensorflow
def test_report(tmp_path):
    model = sequence_net(NEURONS["LIF"])
    report = export.to_tflite(model, tmp_path / "m.tflite", "step", timesteps=STEPS)
    assert export.ExportReport.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["state_bytes"] == report.state_bytes == 2 * 144 * 4 + 12
    text = str(report)
    assert "first" in text and "second" in text and "CONV_2D 2" in text
    assert text.count("own as agree, of examples in which all layers above agree") == 1
    stream = export.StreamingInterpreter(tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="shape"):
        stream.step(np.zeros((2, 6, 6, 2), "float32"))
    with pytest.raises(ValueError, match="inputs"):
        stream.step({"x": np.zeros((1, 6, 6, 2), "float32")})


SCRIPT = """
import sys, keras, numpy as np
from keras_snn import export
model = keras.saving.load_model(sys.argv[1])
report = export.to_tflite(model, sys.argv[2], quantize="dynamic", verify_data=np.load(sys.argv[3]))
"""


@pytest.mark.once
@pytest.mark.skipif(BACKEND == "tensorflow", reason="compares the others with TensorFlow")
def test_same_bytes_from_every_backend(tmp_path):
    model = sequence_net(lambda name: layers.LIF(name=name))
    data = clips(model)
    report = export.to_tflite(model, tmp_path / "own.tflite", quantize="dynamic", verify_data=data)
    assert report.layers
    (found,) = export.StreamingInterpreter(tmp_path / "own.tflite").step(data[:1]).values()
    wanted = to_numpy(model(ops.convert_to_tensor(data[:1])))
    np.testing.assert_allclose(found, wanted, atol=0.05)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "data.npy", data)
    names = ["model.keras", "other.tflite", "data.npy"]
    subprocess.run(
        [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in names)],
        env=os.environ | {"KERAS_BACKEND": "tensorflow"},
        check=True,
    )
    own, other = (hashlib.md5((tmp_path / f"{n}.tflite").read_bytes()) for n in ("own", "other"))
    assert own.hexdigest() == other.hexdigest()


@pytest.mark.skipif(BACKEND != "jax", reason="JAX stands for both that export by another process")
def test_errors_from_another_process(tmp_path):
    inputs = keras.Input((STEPS, 3, 5))
    model = keras.Model(inputs, keras.layers.Flatten(name="flat")(layers.IF()(inputs)))
    with pytest.raises(TypeError, match="flat"):
        export.to_tflite(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_the_report_counts_spikes_that_differ():
    """Shares by hand: of layer a 1 of 8 spikes differs, of layer b, behind it, 2 of 4."""
    zeros, ones = np.zeros((2, 2)), np.ones((2, 1))
    flip = np.array([[1.0, 0.0], [0.0, 0.0]])

    def row(output, a, b):
        keras_row = (np.array([1.0, 0.0]), [zeros, ones])
        return {
            "Keras": keras_row,
            "XNNPACK": (None, [a, b]),
            "built-in": keras_row,
            "file": (np.array(output), None),
        }

    result = compare([row([1.0, 0.25], zeros, ones), row([0.0, 3.0], flip, 0 * ones)], ["a", "b"])
    a, b = result["layers"]
    assert (a["rate"], b["rate"]) == (0.0, 1.0)
    assert (a["agreement"], b["agreement"]) == (7 / 8, 2 / 4)
    assert (a["agreement, built-in"], b["agreement, built-in"]) == (1.0, 1.0)
    assert (a["own agreement"], b["own agreement"]) == (7 / 8, 1.0)
    assert (result["flipped"], result["top1"]) == (1, 0.5)
    assert (result["logits"], result["logits_flipped"]) == (0.25, 3.0)
    assert result["relative"] == 0.25  # of outputs up to 1


@pytest.mark.once
@pytest.mark.parametrize("quantize, limit", [(None, 1e-4), ("float16", 0.005), ("int8", 0.1)])
def test_the_report_warns_of_outputs_that_differ_alone(quantize, limit):
    """Spikes agree; of two outputs, with sizes 2 and 100, the second differs."""

    def report(difference):
        spikes = [np.ones((2, 3))]
        outputs = [np.array([1.0, -2.0]), np.array([100.0])]
        others = [outputs[0], outputs[1] + 100 * difference]
        row = dict.fromkeys(("Keras", "XNNPACK", "built-in"), (outputs, spikes))
        found = compare([row | {"file": (others, None)}], ["a"])
        found["layers"][0] |= {"threshold": 1.0, "states": []}
        empty = {name: {} for name in ("operations", "initial_states")}
        empty |= {name: [] for name in ("quantization", "inputs", "outputs")}
        numbers = dict.fromkeys(("bytes", "partitions", "latency_ms", "state_bytes"), 0)
        return export.ExportReport(
            "step", quantize, "litert", timesteps=2, examples=1, **found, **empty, **numbers
        )

    assert warnings(report(0.9 * limit)) == []
    (warning,) = warnings(report(1.1 * limit))
    assert "outputs differ by" in warning and "all spikes agree" in warning


@pytest.mark.once
def test_the_report_counts_integer_spikes_by_their_unit():
    """Of quarters, 1/2 for 1/4 is another number of spikes; noise below half of one is none."""
    spikes, other = np.array([[0.25, 0.5], [0.75, 1.0]]), np.array([[0.5, 0.5], [0.7, 1.05]])
    keras_row, file_row = ((np.zeros(2), [x]) for x in (spikes, other))
    row = {"Keras": keras_row, "XNNPACK": file_row, "built-in": keras_row, "file": file_row}
    (layer,) = compare([row], ["a"], [0.25])["layers"]
    assert (layer["rate"], layer["agreement"], layer["agreement, built-in"]) == (2.5, 0.75, 1.0)


def grid(shape, rng):
    """Weights of a layer that int8 holds exactly, and the size of their steps."""
    steps = rng.integers(-127, 128, shape)
    steps.reshape(-1, shape[-1])[0] = 127
    size = rng.uniform(0.002, 0.004, shape[-1])
    return steps * size, size


@pytest.mark.once
def test_integer_spikes_of_an_int8_file_are_those_of_the_model(tmp_path):
    """Of inputs, weights and biases that the file holds exactly: conv outputs are the spikes."""
    fold, rng = layers.FoldTime, np.random.default_rng(0)
    inputs = keras.Input((6, 6, 1))
    x = fold(keras.layers.Conv2D(3, 3, padding="same"))(layers.RepeatTime(1)(inputs))
    x = layers.ILIF(4, threshold=0.25, name="first")(x)
    x = fold(keras.layers.MaxPooling2D(2))(x)
    x = fold(keras.layers.Conv2D(5, 2))(x)
    x = layers.ILIF(7, tau=1.0, normalize=True, name="second")(x)
    x = keras.layers.Dense(6)(fold(keras.layers.Flatten())(x))
    x = layers.MeanOverTime()(layers.ILIF(4, threshold=0.1, name="third")(x))
    model, weights = keras.Model(inputs, x), []
    for kernel, step in zip(model.get_weights()[::2], (1 / 255, 1, 1 / 7)):
        values, size = grid(kernel.shape, rng)
        weights += [values, np.round(0.2 / (size * step)) * size * step]
    model.set_weights(weights)
    images = (rng.integers(0, 256, (64, 6, 6, 1)) / 255).astype("float32")
    images[0, 0, 0] = 1
    report = export.to_tflite(
        model, tmp_path / "model.tflite", quantize="int8", representative_data=images
    )
    rates = [layer["rate"] for layer in report.layers]
    assert [layer["agreement"] for layer in report.layers] == [1, 1, 1] and min(rates) > 0.05
    assert not {"ROUND", "DEQUANTIZE"} & set(report.operations)
