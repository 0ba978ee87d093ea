"""C source computes what TensorFlow Lite's reference kernels do, bit for bit."""

import collections
import dataclasses
import functools
import shutil
import subprocess
import types

import keras
import numpy as np
import pytest

from keras_snn import applications, datasets, export, layers
from keras_snn.applications.builder import _EdgePadding2D as EdgePadding2D
from keras_snn.export import flatbuffer, worker
from keras_snn.export.c import kernels
from keras_snn.export.c.factors import multiplier
from keras_snn.export.c.pointwise import POINTWISE, rescale
from keras_snn.export.c.rings import with_rings
from keras_snn.export.c.step import Operation, Step, Tensor, read
from keras_snn.export.streaming import real, stored
from keras_snn.export.targets import Job
from keras_snn.export.targets import c as target

pytest.importorskip("ai_edge_litert", reason="needs the extra `export`")
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the work is TensorFlow's"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc"),
]
STEPS = 3
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-fsanitize=address,undefined"]
STRICT += ["-fno-sanitize-recover=all"]
MAIN = """
#include <stdio.h>
#include "{stem}.h"

int main(void)
{{
    static {kind} {buffers};
    for (;;) {{
        {prefix}_reset();
        for (int t = 0; t < {macro}_TIMESTEPS; ++t) {{
            {reads}
            {prefix}_step({arguments});
            {writes}
        }}
    }}
}}
"""


@pytest.fixture
def both(monkeypatch):
    """An export leaves the file of TensorFlow Lite, too, that the source was made of."""
    companions = target.C.companions
    monkeypatch.setattr(
        target.C,
        "companions",
        lambda self, p, blob, r: companions(self, p, blob, r) | {".tflite": blob},
    )


@pytest.fixture
def reference_kernels(monkeypatch):
    """TensorFlow Lite runs its reference kernels, the plain form of what all others compute."""
    litert = flatbuffer.litert()
    kind = litert.OpResolverType.BUILTIN_REF
    kinds = types.SimpleNamespace(AUTO=kind, BUILTIN_WITHOUT_DEFAULT_DELEGATES=kind)
    fake = types.SimpleNamespace(Interpreter=litert.Interpreter, OpResolverType=kinds)

    def interpreter(blob, states):
        with monkeypatch.context() as patch:
            patch.setattr(flatbuffer, "litert", lambda: fake)
            return export.StreamingInterpreter(flatbuffer.with_reset(blob, states))

    return interpreter


def first_states(path, report):
    """States before the first step by name."""
    return {
        name: np.full(before.shape, report.initial_states[name], "float32")
        for name, (before, _) in opened(path, report).states.items()
    }


def opened(path, report):
    """The step that is in a file of TensorFlow Lite."""
    names = ([row["name"] for row in rows] for rows in (report.inputs, report.outputs))
    return read(path.read_bytes(), *names, list(report.initial_states))


def program(path, flags=()):
    """What the source does with clips, `(clips, time, ...)` by name, as a program of its own."""
    prefix, ins, outs = target.described(path.with_suffix(".h").read_text())
    sizes = {f"in_{r['name']}": np.prod(r["shape"]) for r in ins}
    results = {f"out_{r['name']}": np.prod(r["shape"]) for r in outs}
    kind = "float" if ins[0]["type"] == "float32" else "int8_t"
    main = MAIN.format(
        stem=path.stem,
        kind=kind,
        prefix=prefix,
        macro=prefix.upper(),
        buffers=", ".join(f"{name}[{size}]" for name, size in (sizes | results).items()),
        reads="\n".join(f"if (fread({n}, sizeof {n}, 1, stdin) != 1) return 0;" for n in sizes),
        arguments=", ".join(sizes | results),
        writes="\n".join(f"fwrite({n}, sizeof {n}, 1, stdout);" for n in results),
    )
    path.with_name("main.c").write_text(main)
    command = ["gcc", *STRICT, *flags, str(path), "main.c", "-lm", "-o", "main"]
    subprocess.run(command, cwd=path.parent, check=True)

    def run(clips):
        details = [target._details(row) for row in ins]
        codes = [stored(clips[r["name"]], d) for r, d in zip(ins, details)]
        count, steps = codes[0].shape[:2]
        joined = np.concatenate([x.reshape(count, steps, -1) for x in codes], axis=2)
        done = subprocess.run(
            [path.with_name("main")], input=joined.tobytes(), capture_output=True, check=True
        )
        found = np.frombuffer(done.stdout, codes[0].dtype).reshape(count, steps, -1)
        parts = np.split(found, np.cumsum(list(results.values()))[:-1], axis=2)
        return {row["name"]: real(part, target._details(row)) for row, part in zip(outs, parts)}

    return run


def integers(path, report, images):
    """Outputs of each step for all images at once, `(images, time, ...)`, in NumPy."""
    step = opened(path, report)
    (first,), (last,) = step.inputs.values(), step.outputs.values()
    given = stored(images, target._details(report.inputs[0])).astype("int64")
    states, found = {}, []
    for name, (before, _) in step.states.items():
        code = np.round(report.initial_states[name] / before.scale[0]) + before.zero
        states[before] = np.full((len(images), *before.shape[1:]), code, "int64")
    for _ in range(report.timesteps):
        values = {first: given, **states}
        for op in step.operations:
            args = [
                t.data.astype("int64" if t.kind == "int8" else t.data.dtype)
                if t is not None and t.data is not None
                else values.get(t)
                for t in op.inputs
            ]
            values[op.output] = (KERNELS.get(op.kind) or POINTWISE[op.kind])(op, *args)
        found.append(values[last])
        for before, after in step.states.values():
            kept = types.SimpleNamespace(inputs=[after], output=before, options=None)
            states[before] = POINTWISE["KEEP"](kept, values[after])
    return real(np.stack(found, axis=1), target._details(report.outputs[0]))


def convolved(op, x, kernel, bias):
    """A convolution, as sums over the places of the kernel; its output goes by channel."""
    y, options = op.output, op.options
    rows, columns = y.shape[1:3]
    stride, size = options.strideH, kernel.shape[1]
    reach = (rows - 1) * stride + size
    top = (op.padding or [max(reach - x.shape[1], 0) // 2 if options.padding == 0 else 0])[0]
    x = np.pad(x - op.inputs[0].zero, ((0, 0), (top, size), (top, size), (0, 0)))
    x, kernel = x.astype("float64"), kernel.astype("float64")  # exact, and quick
    total = bias + sum(
        x[:, i : i + rows * stride : stride, j : j + columns * stride : stride][:, :rows, :columns]
        @ kernel[:, i, j].T
        for i in range(size)
        for j in range(size)
    )
    return requantized(op, total.astype("int64"))


def requantized(op, total):
    first, kernel = op.inputs[:2]
    scales = np.float64(first.scale[0]) * kernel.scale.astype("float64") / op.output.scale[0]
    if op.kind == "FULLY_CONNECTED":  # the reference kernel of dense layers rounds real numbers
        found = total * scales
        found = np.trunc(found + np.copysign(0.5, found)).astype("int64")
    else:
        channels = [rescale(total[..., k], *multiplier(s)) for k, s in enumerate(scales)]
        found = np.stack(channels, -1)
    return np.clip(found + op.output.zero, -128, 127)


def averaged(op, x, axes):
    assert axes.tolist() == [1, 2]
    x, y = x - op.inputs[0].zero, op.output
    count = x.shape[1] * x.shape[2]
    factor, shift = multiplier(float(op.inputs[0].scale[0]) / float(y.scale[0]))
    more = int(np.log2(count))
    total = rescale(x.sum((1, 2)), (factor << more) // count, shift - more)
    return np.clip(total + y.zero, -128, 127).reshape(len(x), *y.shape[1:])


KERNELS = {
    "CONV_2D": convolved,
    "FULLY_CONNECTED": lambda op, x, w, b: requantized(op, (x - op.inputs[0].zero) @ w.T + b),
    "MEAN": averaged,
    "PAD": lambda op, x, w: np.pad(x, ((0, 0), *w[1:]), constant_values=op.output.zero),
}


def test_digits(both, reference_kernels, tmp_path):
    """Held-out digits: the program, NumPy's integers and TensorFlow Lite are equal."""
    data = datasets.load("digits")
    train = np.concatenate([x for x, _ in data.train])[:64]
    images = np.concatenate([x for x, _ in data.test])[:100]
    model = applications.SEWResNet8(weights="digits", classifier_activation=None)
    report = export.to_c(model, tmp_path / "net", "int8", train, images, verify_samples=2)
    ins, (out,) = report.inputs, report.outputs
    clips = {ins[0]["name"]: np.repeat(images[:, None], report.timesteps, axis=1)}
    found = program(tmp_path / "net.c")(clips)[out["name"]]
    np.testing.assert_array_equal(found, integers(tmp_path / "net.tflite", report, images))
    path = tmp_path / "net.tflite"
    interpreter = reference_kernels(path.read_bytes(), first_states(path, report))
    for image, wanted in zip(images[:20], found):
        interpreter.reset()
        steps = [interpreter.step(image[None])[out["name"]][0] for _ in wanted]
        np.testing.assert_array_equal(steps, wanted)
    few = {name: x[:20] for name, x in clips.items()}
    every = program(tmp_path / "net.c", ["-DNET_SKIP=0"])(few)[out["name"]]
    np.testing.assert_array_equal(every, found[:20])
    assert report.arena_bytes <= 60_000
    # The compiler's own count: what is in the program's memory without the buffers of `main`.
    subprocess.run(["gcc", "-Os", "-fno-pie", "-c", "net.c"], cwd=tmp_path, check=True)
    sizes = subprocess.run(["size", "net.o"], cwd=tmp_path, capture_output=True, text=True)
    _, data, bss, *_ = map(int, sizes.stdout.splitlines()[1].split()[:3])
    assert data == 0
    assert report.arena_bytes <= bss <= report.arena_bytes + 256  # alignment
    print(report)


def various_net():
    """The layers of small networks, in one model."""
    strong = {"kernel_initializer": keras.initializers.RandomNormal(0.1, 0.6, seed=3)}
    inputs = keras.Input((STEPS, 7, 7, 2), name="int")

    def each(layer, x):
        return layers.FoldTime(layer)(x)

    x = each(layers.PaddedConv2D(4, 3, strides=2, padding="symmetric", **strong), inputs)
    x = first = layers.LIF(tau=3.0, v_reset=-0.2, name="x-1")(x)
    x = each(keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), x)
    x = layers.DecayLIF(decay=0.5, threshold=0.3, name="x_1")(
        each(keras.layers.BatchNormalization(), x)
    )
    x = each(keras.layers.Conv2D(4, 3, groups=2, padding="same", dilation_rate=2, **strong), x)
    x = layers.SpikeConnection("iand")([layers.ParametricLIF(parameter_shape="channel")(x), first])
    pooled = [
        each(keras.layers.MaxPooling2D(3, 2), each(EdgePadding2D(1, name="edges"), x)),
        each(keras.layers.AveragePooling2D(3, 1, padding="same"), x),
        each(keras.layers.GlobalAveragePooling2D(), x),
    ]
    x = keras.layers.Concatenate()(
        [each(keras.layers.Flatten(), p) for p in pooled[:2]] + pooled[2:]
    )
    x = layers.IF(reset="soft")(keras.layers.Dense(6, **strong)(x))
    readouts = (
        layers.MeanOverTime(name="double"),
        layers.MaxOverTime(),
        layers.FirstSpikeTime(),
        layers.MembraneReadout("last", tau=2.0),
    )
    dense = keras.layers.Dense(3, **strong)(x)
    ends = [readout(x if i == 2 else dense) for i, readout in enumerate(readouts)]
    model = keras.Model(inputs, [*ends, keras.layers.Softmax()(ends[0])])
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "batch_normalization" in weight.path:
            weight.assign(rng.uniform(0.2, 0.6, weight.shape))
    return model


def check_numbers(report, details):
    """The report's tensors are the runtime's, and factors are quotients of their scales."""
    details = [row for row in details if row["index"] < len(report.tensors)]  # no scratch memory
    assert len(details) > len(report.arithmetic)
    for row in details:
        found, q = report.tensors[row["index"]], row["quantization_parameters"]
        assert found["scale"] == q["scales"].tolist()
        assert found["shape"] == row["shape"].tolist()
        assert found["type"] == np.dtype(row["dtype"]).name
        if len(q["scales"]):
            assert {found["zero_point"]} == set(q["zero_points"].tolist())
        if len(q["scales"]) > 1:
            assert found["axis"] == q["quantized_dimension"]
    kinds = collections.Counter()
    for op in report.arithmetic:
        whole, shift = (np.array(op.get(kind, ()), "int64") for kind in ("multiplier", "shift"))
        real = np.ldexp(whole / 2.0**31, shift)
        ins, (y, *_) = (
            [np.array(report.tensors[i]["scale"]) for i in op[side]]
            for side in ("inputs", "outputs")
        )
        wanted = {
            **dict.fromkeys(WEIGHING, lambda x, w, y: x * w / y),
            "MUL": lambda a, b, y: a * b / y,
            "QUANTIZE": lambda x, y: x / y,
        }.get(op["operation"])
        if wanted and real.size:
            count = 1 if op["operation"] == "QUANTIZE" else 2
            factors = wanted(*ins[:count], y)
            np.testing.assert_allclose(real, np.broadcast_to(factors, real.shape), 1e-6)
            kinds[op["operation"]] += 1
    assert report.quantize is None or (kinds["CONV_2D"] and kinds["FULLY_CONNECTED"])


WEIGHING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@pytest.mark.parametrize("quantize", ["int8", "int16x8", None])
def test_layers(quantize, both, reference_kernels, tmp_path):
    model = various_net()
    if quantize == "int16x8":  # softmax is a table there
        model = keras.Model(model.inputs, model.outputs[:-1])
    clips = np.random.default_rng(1).normal(0.4, 1.5, (16, *model.input_shape[1:]))
    clips = clips.astype("float32")
    report = export.to_c(model, tmp_path / "for.c", quantize, clips if quantize else None, clips)
    name = report.inputs[0]["name"]
    found = program(tmp_path / "for.c")({name: clips})
    path = tmp_path / "for.tflite"
    interpreter = reference_kernels(path.read_bytes(), first_states(path, report))
    check_numbers(report, interpreter._interpreter.get_tensor_details())
    for k, clip in enumerate(clips):
        interpreter.reset()
        for t, frame in enumerate(clip):
            wanted = interpreter.step(frame[None])
            for row in report.outputs:
                given, expected = found[row["name"]][k, t], wanted[row["name"]].ravel()
                tolerance = (
                    1e-5 if quantize is None else row["scale"] * 1.01 * (row["scale"] == 1 / 256)
                )
                np.testing.assert_allclose(given, expected, rtol=0, atol=tolerance)
    if quantize is None:
        for wanted, row in zip(model.predict(clips, verbose=0), report.outputs):
            np.testing.assert_allclose(found[row["name"]][:, -1], wanted, rtol=1e-4, atol=1e-5)
        assert all(layer["agreement"] == 1 for layer in report.layers)


def delayed_net():
    """Delays of synapses and channels, whole and not, and a convolution over time."""
    keras.utils.set_random_seed(3)
    strong = {"kernel_initializer": keras.initializers.RandomNormal(0.2, 0.5)}
    inputs = keras.Input((12, 5, 4, 2), name="x")
    x = layers.DelayedConv2D(3, (3, 2), 2, strides=(2, 1), padding="same", **strong)(inputs)
    x = layers.LIF(threshold=0.5)(x)
    x = layers.AxonalDelay(4, parameter_shape="neuron")(x)
    x = first = layers.FoldTime(keras.layers.Flatten())(x)
    x = layers.IF()(layers.DelayedDense(6, 5, **strong)(x))
    model = keras.Model(inputs, x)
    layers.round_delays(model)
    x = layers.IF()(layers.DelayedDense(6, 3, **strong)(layers.AxonalDelay(2)(x)))
    x = layers.IF()(keras.layers.Conv1D(5, 3, padding="causal", **strong)(x))
    ends = [layers.SumOverTime(name="sum")(keras.layers.Dense(3, **strong)(x))]
    ends.append(layers.MembraneReadout("last", tau=2.0, name="last")(keras.layers.Dense(2)(first)))
    return keras.Model(inputs, ends)


@pytest.mark.parametrize("quantize", ["int8", "int16x8", None])
def test_delays(quantize, both, reference_kernels, tmp_path):
    """States of delays are rings, which turn more than once; outputs are the reference's."""
    model = delayed_net()
    clips = np.random.default_rng(1).random((8, *model.input_shape[1:])) < 0.5
    clips = clips.astype("float32")
    report = export.to_c(model, tmp_path / "net.c", quantize, clips if quantize else None, clips)
    found = program(tmp_path / "net.c")({"x": clips})
    path = tmp_path / "net.tflite"
    interpreter = reference_kernels(path.read_bytes(), first_states(path, report))
    for k, clip in enumerate(clips):
        interpreter.reset()
        for t, frame in enumerate(clip):
            wanted = interpreter.step(frame[None])
            for name, y in found.items():
                tolerance = 0 if quantize else 1e-5
                np.testing.assert_allclose(y[k, t], wanted[name].ravel(), rtol=0, atol=tolerance)
    source = (tmp_path / "net.c").read_text()
    # Five layers with delays and a convolution over time; a step of each is written, none moved.
    assert [source.count(text) for text in ("static int head_", "memcpy(ring_")] == [6, 6]
    widths = [1, 2, 4][[*TYPES].index(quantize)]
    sizes = 3 * 5 * 4 * 2 + 5 * 3 * 4 * 3 + 6 * 36 + 3 * 6 + 4 * 6 + 3 * 6
    assert report.state_bytes >= widths * sizes + 6 * 4
    if quantize is None:
        for y, end in zip(model.predict(clips, verbose=0), model.output_names):
            np.testing.assert_allclose(found[end][:, -1], y, rtol=1e-4, atol=1e-5)
        assert {layer["agreement"] for layer in report.layers} == {1.0}
        assert all(0.05 < layer["rate"] < 0.95 for layer in report.layers)


TYPES = {"int8": "int8", "int16x8": "int16", None: "float32"}


def shifting(begin=(1, 0), steps=(1, 1), swapped=False, kept=None, scale=0.5, axis=0):
    """A step that puts 2 values behind 6, weighs them all, and drops the first; or nearly that."""

    def tensor(name, *shape, scale=0.5, **kwargs):
        return Tensor(name, shape, "int8", np.array([scale], "float32"), -128, **kwargs)

    def whole(values):
        return Tensor("numbers", (len(values),), "int32", data=np.array(values, "int32"))

    past, x, window = tensor("past", 3, 2, scale=scale), tensor("x", 1, 2), tensor("window", 4, 2)
    after, flat, y = tensor("after", 3, 2), tensor("flat", 1, 8), tensor("y", 1, 3, scale=1)
    if axis:
        past, x, window = tensor("past", 2, 3), tensor("x", 2, 1), tensor("window", 2, 4)
        after = tensor("after", 2, 3)
    kernel = tensor("kernel", 3, 8, data=np.arange(24, dtype="int8").reshape(3, 8))
    masks = types.SimpleNamespace(beginMask=0, ellipsisMask=0, newAxisMask=0, shrinkAxisMask=0)
    join = types.SimpleNamespace(axis=axis)
    operations = [
        Operation("CONCATENATION", [x, past] if swapped else [past, x], [window], join),
        Operation("RESHAPE", [window, whole([1, 8])], [flat]),
        Operation("FULLY_CONNECTED", [flat, kernel], [y]),
        Operation(
            "STRIDED_SLICE", [window, whole(begin), whole([4, 2]), whole(steps)], [after], masks
        ),
    ]
    outputs = {"y": y} | ({"kept": locals()[kept]} if kept else {})
    return Step(operations, {"x": x}, outputs, {"past": (past, after)})


def test_what_is_a_ring():
    first = {"past": np.zeros((3, 2))}
    ring = with_rings(shifting(), first)
    assert [op.kind for op in ring.operations] == ["PUSH", "RESHAPE", "STEPS", "FULLY_CONNECTED"]
    assert list(ring.rings) == ["past"] and not ring.states
    assert ring.operations[-1].steps == [0, 2, 4, 6]
    assert with_rings(shifting(kept="window"), first).rings


@pytest.mark.parametrize(
    "change",
    [
        {"begin": (0, 0)},  # the present step is lost
        {"begin": (0, 1), "axis": 1},  # steps are side by side
        {"swapped": True},  # the oldest step is the last
        {"kept": "past"},
        {"kept": "after"},  # the state is read by something else
        {"scale": 0.25},  # its codes change
    ],
    ids=str,
)
def test_what_is_no_ring(change):
    step = shifting(**change)
    operations = [dataclasses.replace(op) for op in step.operations]
    found = with_rings(step, {"past": np.zeros((3, 2))})
    assert not found.rings and list(found.states) == ["past"]
    for op, before in zip(found.operations, operations, strict=True):
        assert op == before or vars(op) == vars(before)


def test_states_change_between_codes_and_numbers():
    real = Tensor("x", (3,), "float32")
    code = Tensor("x", (3,), "int8", np.array([0.5], "float32"), -3)

    def keep(source, output, x):
        return POINTWISE["KEEP"](Operation("KEEP", [source], [output]), np.array(x)).tolist()

    assert keep(real, code, [0.0, 1.0, 1e3]) == [-3, -1, 127]
    assert keep(code, real, [-3, -1, 127]) == [0.0, 1.0, 65.0]


def test_states_that_begin_otherwise_are_no_ring():
    assert not with_rings(shifting(), {"past": np.arange(6.0).reshape(3, 2)}).rings


# Refused in int16: exponentials and sigmoids, which are tables there, and what has no range.
TABLED = ("ILIF", "CLIF", "EIF", "STDBLIF")


def every_net(seed, without):
    """Every neuron, and every norm, each with weights of its own, behind one input."""

    def random(layer):
        return layer(kernel_initializer=keras.initializers.RandomNormal(0.1, 0.6))

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((STEPS, 3, 3, 2), name="x")
    flat = layers.FoldTime(keras.layers.Flatten())(inputs)
    norms = {
        "BN": keras.layers.BatchNormalization(),
        "tdBN": layers.ThresholdDependentBatchNormalization(),
        "TEBN": layers.TemporalEffectiveBatchNormalization(STEPS),
        "BNTT": layers.BatchNormalizationThroughTime(STEPS),
    }
    dense = functools.partial(keras.layers.Dense, 5)
    # The reference kernels have no ROUND, which integer spikes take.
    names = [name for name in layers.list_neurons() if name not in without]
    currents = [(name, random(dense)(flat)) for name in names]
    currents += [("SynapticLIF", norm(random(dense)(flat))) for norm in norms.values()]
    conv = random(functools.partial(keras.layers.Conv2D, 3, 2))
    x = layers.SynapticLIF()(
        layers.ThresholdDependentBatchNormalization()(layers.FoldTime(conv)(inputs))
    )
    spikes = [layers.get_neuron(name)(current) for name, current in currents]
    spikes.append(layers.FoldTime(keras.layers.Flatten())(x))
    model = keras.Model(inputs, [layers.LastOverTime()(random(dense)(x)) for x in spikes])
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name = weight.path.rpartition("/")[2]
        if name in ("gamma", "moving_variance", "step_scale"):
            weight.assign(rng.uniform(0.3, 1.2, weight.shape))
        elif name in ("beta", "moving_mean"):
            weight.assign(rng.uniform(-0.3, 0.3, weight.shape))
    return model


@pytest.mark.parametrize("quantize", ["int8", "int16x8"])
def test_every_neuron_and_norm(quantize, reference_kernels, tmp_path):
    """Random networks: each output of each step equals that of the reference kernels."""
    model = every_net(seed=0, without=TABLED if quantize == "int16x8" else ("ILIF",))
    clips = np.random.default_rng(0).normal(0.4, 1.5, (8, *model.input_shape[1:]))
    clips = clips.astype("float32")
    options = {"quantize": quantize, "target": "c", "state": "explicit"}
    job = Job("c", "step", STEPS, 1, options, "net")
    made = worker.Program(model, job, {"representative": [clips]})
    blob = target.TARGET.convert(made)
    source = target._written(made, blob)
    for suffix, content in {"c": source.source, "h": source.header}.items():
        (tmp_path / f"net.{suffix}").write_text(content)
    found = program(tmp_path / "net.c")({"x": clips})
    interpreter = reference_kernels(blob, made.states())
    wrong = collections.Counter()
    for k, clip in enumerate(clips):
        interpreter.reset()
        for t, frame in enumerate(clip):
            for name, wanted in interpreter.step(frame[None]).items():
                wrong[name] += np.sum(found[name][k, t] != wanted.ravel())
    assert len(wrong) == len(model.outputs)
    assert not +wrong


def pruned_net():
    """Pruned layers: convolutions, one with groups, dense ones; gaps of more than a byte holds."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((STEPS, 5, 5, 3), name="x")
    conv = keras.layers.Conv2D(300, 3, strides=2, padding="same")
    x = layers.IF()(layers.FoldTime(conv)(inputs))
    conv = keras.layers.Conv2D(8, 3, padding="same", groups=2, dilation_rate=2)
    x = layers.FoldTime(keras.layers.Flatten())(layers.IF()(layers.FoldTime(conv)(x)))
    x = layers.IF()(keras.layers.Dense(600)(x))
    x = layers.IF()(keras.layers.Dense(6, kernel_initializer="zeros")(x) + 1)
    model = keras.Model(inputs, layers.MeanOverTime()(keras.layers.Dense(3)(x)))
    rng, shares = np.random.default_rng(0), iter((0.02, 0.1, 0.01, 0, 0.9))
    for kernel in (w for w in model.weights if "kernel" in w.path):
        values = rng.normal(0.2, 0.5, kernel.shape)
        kernel.assign(np.where(rng.random(kernel.shape) < next(shares), values, 0))
    return model


@pytest.mark.parametrize("quantize", ["int8", None])
def test_pruned(quantize, monkeypatch, tmp_path):
    """Weights of 0 are left out where that is smaller, and nothing else changes."""
    model = pruned_net()
    clips = np.random.default_rng(1).normal(0.4, 1.5, (4, *model.input_shape[1:]))
    clips = clips.astype("float32")
    options = {"quantize": quantize, "target": "c", "state": "explicit"}
    made = worker.Program(
        model, Job("c", "step", STEPS, 1, options, "net"), {"representative": [clips]}
    )
    blob = target.TARGET.convert(made)
    found = []
    for skip, form in enumerate((lambda weights: None, kernels.compressed)):
        monkeypatch.setattr(kernels, "compressed", form)
        source = target._write(made, blob)
        found.append(source)
        for suffix, content in {"c": source.source, "h": source.header}.items():
            (tmp_path / f"net.{suffix}").write_text(content)
        (outputs,) = program(tmp_path / "net.c", [f"-DNET_SKIP={skip}"])({"x": clips}).values()
        found.append(outputs.tobytes())
    every, wanted, few, outputs = found
    assert outputs == wanted and len(set(wanted)) > 8
    size = 1 if quantize else 4
    rows = list(few.stored.values())
    assert [row["compressed"] for row in rows] == [True, True, True, True, False]
    assert few.ram == every.ram
    assert every.rom - few.rom >= 0.9 * sum(
        row["uncompressed_bytes"] - row["bytes"] for row in rows
    )
    kernel = next(w for w in model.weights if w.shape == (3, 3, 3, 300)).numpy()
    assert rows[0]["weights"] == kernel.size
    assert rows[0]["zeros"] >= (kernel == 0).sum()
    # Each weight and its gap, a few for gaps over 255; two bytes for an input, four for a place.
    entries = kernel.size - rows[0]["zeros"]
    least = entries * (size + 1) + 9 * 3 * 2 + 9 * 4
    assert least <= rows[0]["bytes"] <= least + 27 * (size + 1)


def test_what_is_refused(tmp_path):
    inputs = keras.Input((STEPS, 4, 4, 4, 1))
    conv = keras.layers.Conv3D(2, 3, padding="same")
    x = layers.SumOverTime()(layers.IF()(layers.FoldTime(conv, name="deep")(inputs)))
    with pytest.raises(TypeError, match=r"deep \(Conv3D\) can't be exported to C.*CONV_3D"):
        export.to_c(keras.Model(inputs, x), tmp_path / "net.c", verify_samples=1)
    inputs = keras.Input((STEPS, 2))
    model = keras.Model(inputs, layers.SumOverTime()(layers.IF()(inputs)))
    with pytest.raises(ValueError, match="representative_data"):
        export.to_c(model, tmp_path / "net.c", "int8")
    with pytest.raises(ValueError, match="`quantize` must be one of"):
        export.to_c(model, tmp_path / "net.c", "dynamic")
    with pytest.raises(TypeError, match="can't be exported to C.*SOFTMAX"):
        clips = np.random.default_rng(0).normal(1, 1, (4, STEPS, 2)).astype("float32")
        x = keras.layers.Softmax(name="soft")(model.output)
        export.to_c(keras.Model(model.inputs, x), tmp_path / "net.c", "int16x8", clips)
    with pytest.raises(ValueError, match=r"should end in \.c"):
        export.to_c(model, tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


# What a Cortex-M4 starts with: the end of its memory, where to begin; and where things go.
START = """
extern void _start(void);
extern char __stack;
__attribute__((section(".vectors"), used)) void *vectors[16] = {&__stack, (void *)_start};
"""
MEMORY = """
MEMORY { FLASH : ORIGIN = 0, LENGTH = 4M RAM : ORIGIN = 0x20000000, LENGTH = 4M }
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) KEEP(*(.init)) KEEP(*(.fini)) *(.rodata*) *(.ARM*) } > FLASH
  .init_array : {
    __preinit_array_start = .; __preinit_array_end = .;
    __init_array_start = .; KEEP(*(.init_array*)) __init_array_end = .;
    __fini_array_start = .; KEEP(*(.fini_array*)) __fini_array_end = .;
  } > FLASH
  .data : { *(.data*) } > RAM
  .bss : { __bss_start__ = .; *(.bss*) *(COMMON) __bss_end__ = .; } > RAM
  . = ALIGN(8); end = .; __end__ = .; __stack = ORIGIN(RAM) + LENGTH(RAM);
}
"""
PRINT = """
#include <stdio.h>
#include "net.h"

static const int8_t clips[][NET_TIMESTEPS][4] = {%s};

int main(void)
{
    int8_t y[3];
    for (unsigned k = 0; k < sizeof clips / sizeof *clips; ++k) {
        net_reset();
        for (int t = 0; t < NET_TIMESTEPS; ++t) {
            net_step(clips[k][t], y);
            printf("%%d %%d %%d\\n", y[0], y[1], y[2]);
        }
    }
    return 0;
}
"""


@pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="needs arm-none-eabi-gcc and qemu-system-arm",
)
def test_cortex_m4(tmp_path):
    """Cross-compiled for a Cortex-M4 and run in qemu, the source gives the same numbers."""
    dense = keras.layers.Dense(8, kernel_initializer=keras.initializers.RandomNormal(0.2, 0.7, 1))
    parts = [dense, layers.LIF(), keras.layers.Dense(3), layers.MeanOverTime()]
    model = keras.Sequential([keras.Input((STEPS, 4)), *parts])
    clips = np.random.default_rng(0).normal(0.5, 1, (8, STEPS, 4)).astype("float32")
    report = export.to_c(model, tmp_path / "net.c", "int8", clips)
    wanted = program(tmp_path / "net.c")({report.inputs[0]["name"]: clips})
    row, out = report.inputs[0], report.outputs[0]
    codes = stored(clips, target._details(row)).tolist()
    numbers = str(codes).replace("[", "{").replace("]", "}")[1:-1]
    files = {"main.c": PRINT % numbers, "start.c": START, "m4.ld": MEMORY}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    flags = ["-std=c99", "-mcpu=cortex-m4", "-mthumb", "-Os", "-Wall", "-Wextra", "-Werror"]
    flags += ["--specs=rdimon.specs", "-T", "m4.ld", "-o", "net.elf"]
    sources = ["net.c", "main.c", "start.c"]
    subprocess.run(["arm-none-eabi-gcc", *flags, *sources, "-lm"], cwd=tmp_path, check=True)
    machine = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting"]
    run = subprocess.run(
        [*machine, "-kernel", "net.elf"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    found = np.array(run.stdout.split(), "int8").reshape(len(clips), STEPS, 3)
    np.testing.assert_array_equal(real(found, target._details(out)), wanted[out["name"]])
