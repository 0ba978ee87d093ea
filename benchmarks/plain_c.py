"""Plain C beside TensorFlow Lite, and what passing over silent inputs gains, one thread.

    python benchmarks/plain_c.py
    python benchmarks/plain_c.py --optimization=-O3 --json=plain_c.json

SEW-ResNet-8 on 8x8, one step, and one pass of its ReLUs: milliseconds as plain C and as TensorFlow
Lite files, which take turns in one process; medians. Layers of spikes in plain C by their firing
rate, passing over silent inputs or not: microseconds, the least time of the thread itself. The same
layers pruned, their zeros left out or not. Layers with delays and their neurons, as rings and with
steps that move.
"""

import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags
from common import FLAGS, answer, clock, measure, save, table

flags.DEFINE_string("optimization", "-O2", "How the C compiler optimises.")
flags.DEFINE_list("parts", [], "Measurements, such as `pruned_dense` (default: all).")
TIMESTEPS = 4


def small():
    """Milliseconds of one step, or pass, of a small network as plain C and TensorFlow Lite."""
    import keras

    from keras_snn import applications, export

    rng, calls = np.random.default_rng(0), {}
    x = rng.uniform(0, 1, (64, 8, 8, 1)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        for neuron in ("spiking", "ReLU"):
            keras.utils.set_random_seed(0)
            relu = {"timesteps": None, "neuron": keras.layers.ReLU}
            model = applications.SEWResNet8(
                input_shape=(8, 8, 1),
                classes=10,
                **({"timesteps": TIMESTEPS} if neuron == "spiking" else relu),
            )
            for quantize in (None, "int8"):
                path, data = pathlib.Path(folder, f"{neuron}_{quantize}"), x if quantize else None
                export.to_c(model, path.with_suffix(".c"), quantize, data, verify_samples=1)
                lite = path.with_suffix(".tflite")
                export.to_tflite(model, lite, "step", quantize, data, verify_samples=1)
                runners = {
                    f"C {FLAGS.optimization}": export.CRunner(
                        path.with_suffix(".c"), (FLAGS.optimization,)
                    ),
                    "TensorFlow Lite": export.StreamingInterpreter(lite),
                    "built-in kernels": export.StreamingInterpreter(lite, xnnpack=False),
                }
                for name, runner in runners.items():
                    key = f"{neuron}, {quantize or 'float32'}, {name}"
                    calls[key] = lambda runner=runner: runner.step(x[:1])
    return {name: 1e3 * seconds for name, (_, seconds) in zip(calls, clock(*calls.values()))}


LAYERS = ("convolution", "dense")
RATES = (0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1)
# Shares of weights that are not 0, and the firing rate they are timed at.
DENSITIES = (1, 0.75, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
RATE = 0.2


def written(kind, folder, quantize="int8", density=1):
    """A model of one layer of spikes as plain C: the source and the report."""
    import keras

    from keras_snn import export, layers

    keras.utils.set_random_seed(0)
    conv = keras.layers.Conv2D(32, 3, padding="same")
    layer, shape = {
        "convolution": (layers.FoldTime(conv), (8, 8, 32)),
        "dense": (keras.layers.Dense(256), (256,)),
    }[kind]
    model = keras.Sequential([keras.Input((2, *shape)), layer, layers.LastOverTime()])
    rng = np.random.default_rng(0)
    kernel = model.trainable_variables[0]
    kernel.assign(np.where(rng.random(kernel.shape) < density, kernel, 0))
    data = (rng.random((16, 2, *shape)) < 0.5).astype("float32")
    path = pathlib.Path(folder, "net.c")
    report = export.to_c(model, path, quantize, data if quantize else None, data, verify_samples=1)
    return path, report


def timed(runners, rate, rng):
    """Microseconds of a layer by runner, whose outputs are the same, at a firing rate."""
    import ctypes

    # Codes of 0 and 1, and where the layer finds and leaves them.
    ((row,), (out,)) = next(iter(runners.values()))._rows
    scale, kind = row["scale"] or 1.0, row["type"]
    low, high = (round(v / scale) + row["zero_point"] for v in (0, 1))
    spikes = np.where(rng.random(row["shape"]) < rate, high, low).astype(kind)
    outputs = {name: np.empty(out["shape"], kind) for name in runners}

    def call(name):
        places = [ctypes.c_void_p(x.ctypes.data) for x in (spikes, outputs[name])]
        for _ in range(200):
            runners[name]._step(*places)

    times = {name: [] for name in runners}
    for _ in range(FLAGS.repeats + 1):
        for name in runners:
            times[name].append(own_seconds(lambda name=name: call(name)))
    first, *others = outputs.values()
    assert all(first.tobytes() == other.tobytes() for other in others)
    return {name: 1e6 * min(found) / 200 for name, found in times.items()}


def silent(kind):
    """Microseconds of a layer by firing rate, `"skip"`, and without passing over, `"all"`."""
    from keras_snn import export

    with tempfile.TemporaryDirectory() as folder:
        path, _ = written(kind, folder)
        runners = {
            name: export.CRunner(path, (FLAGS.optimization, f"-DNET_SKIP={skip}"))
            for name, skip in (("skip", 1), ("all", 0))
        }
    rng = np.random.default_rng(0)
    rows = [timed(runners, rate, rng) for rate in RATES]
    return {name: [row[name] for row in rows] for name in runners}


def pruned(kind):
    """Bytes and microseconds of a layer by the share of weights that are not 0."""
    from unittest import mock

    from keras_snn import export
    from keras_snn.export.c import kernels

    rows = []
    for quantize in ("int8", None):
        for density in DENSITIES:
            row, runners = {"layer": kind, "type": quantize or "float32", "not 0": density}, {}
            for form, chosen in {"kB": kernels.compressed, "all, kB": lambda weights: None}.items():
                with (
                    tempfile.TemporaryDirectory() as folder,
                    mock.patch.object(kernels, "compressed", chosen),
                ):
                    path, report = written(kind, folder, quantize, density)
                    runners[form] = export.CRunner(path, (FLAGS.optimization,))
                row[form] = report.weights[0]["bytes"] / 1e3
            times = timed(runners, RATE, np.random.default_rng(0))
            rows.append(row | {form.replace("kB", "us"): time for form, time in times.items()})
    return rows


DELAYED = {
    "DelayedDense(128, 25) of 140": (140,),
    "AxonalDelay(25) of 140, Dense(128)": (140,),
    "DelayedConv2D(8, 3, 10) on 16x16x4": (16, 16, 4),
}
FIRING = 0.1
FORMS = ("ring", "moved")


def delayed(name):
    """A network of a layer with whole delays and LIF neurons."""
    import keras

    from keras_snn import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input((30, *DELAYED[name]))
    if name.startswith("DelayedDense"):
        x = layers.DelayedDense(128, 25)(inputs)
    elif name.startswith("AxonalDelay"):
        x = keras.layers.Dense(128)(layers.AxonalDelay(25)(inputs))
    else:
        x = layers.DelayedConv2D(8, 3, 10, padding="same")(inputs)
    model = keras.Model(inputs, layers.LIF()(x))
    layers.round_delays(model)
    return model


def delays():
    """Microseconds of a step and bytes of layers with delays, as rings and moved."""
    from unittest import mock

    from keras_snn import export
    from keras_snn.export.targets import c

    rng, rows = np.random.default_rng(0), []
    for name, shape in DELAYED.items():
        data = (rng.random((8, 30, *shape)) < FIRING).astype("float32")
        for quantize in (None, "int8"):
            row = {"layer": name, "type": quantize or "float32"}
            runners, model = {}, delayed(name)
            for form, rings in zip(FORMS, (c.with_rings, lambda step, first: step)):
                with (
                    tempfile.TemporaryDirectory() as folder,
                    mock.patch.object(c, "with_rings", rings),
                ):
                    path = pathlib.Path(folder, "net.c")
                    given = data if quantize else None
                    report = export.to_c(model, path, quantize, given, data, verify_samples=1)
                    runners[form] = export.CRunner(path, (FLAGS.optimization,))
                row |= {f"{form}, kB": report.arena_bytes / 1e3}
                row |= {f"{form}, kB of constants": report.bytes / 1e3}
            calls = {form: walk(runner, data[0]) for form, runner in runners.items()}
            times = {form: [] for form in FORMS}
            for _ in range(FLAGS.repeats + 1):
                for form, call in calls.items():
                    times[form].append(own_seconds(call))
            rows.append(row | {f"{f}, us": 1e6 * min(t) / len(data[0]) for f, t in times.items()})
    return rows


def walk(runner, clip):
    """A call that takes all steps of a clip, without what Python does of each."""
    import ctypes

    from keras_snn.export.targets.c import stored

    ((_, given),), ((_, found),) = runner._in.items(), runner._out.items()
    steps = [np.ascontiguousarray(stored(x[None], given)) for x in clip]
    output = np.empty(found["shape"], found["dtype"])
    places = [(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(output.ctypes.data)) for x in steps]

    def call():
        for place in places:
            runner._step(*place)
        return steps, output  # which must live as long

    return call


def own_seconds(call):
    """Seconds that this thread computes for a call, whatever else the machine does."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def crossing(found):
    """The firing rate below which passing over is quicker, between those measured."""
    gain = np.subtract(found["all"], found["skip"])
    above = np.flatnonzero(gain < 0)
    if not len(above) or not above[0]:
        return 0.0 if len(above) else 1.0
    k = above[0]
    return float(np.interp(0, [gain[k], gain[k - 1]], [RATES[k], RATES[k - 1]]))


def main(argv):
    """The tables, or one measurement."""
    if FLAGS.only:
        what, _, kind = FLAGS.only.partition("_")
        parts = {"small": small, "silent": silent, "pruned": pruned, "delays": delays}
        answer(parts[what](*filter(None, [kind])))
        return
    option = f"--optimization={FLAGS.optimization}"
    silents, pruneds = ([f"{what}_{kind}" for kind in LAYERS] for what in ("silent", "pruned"))
    names = FLAGS.parts or ("small", *silents, *pruneds, "delays")
    results = {name: measure(__file__, name, "tensorflow", option) for name in names}
    missing = {name: text for name, text in results.items() if isinstance(text, str)}
    rows = [{"file": name, "ms": text} for name, text in missing.items()]
    found = {name: part for name, part in results.items() if name not in missing}
    rows += [{"file": name, "ms": ms} for name, ms in found.get("small", {}).items()]
    table("SEW-ResNet-8 on 8x8: one step, or one pass of ReLUs", ["file", "ms"], rows)
    rows = []
    for name in filter(found.get, silents):
        for inputs, times in found[name].items():
            rows.append({"layer": name, "inputs": inputs} | dict(zip(map(str, RATES), times)))
        rows[-1]["quicker below"] = crossing(found[name])
    columns = ["layer", "inputs", *map(str, RATES), "quicker below"]
    table(f"Microseconds of a layer in C by firing rate, {FLAGS.optimization}", columns, rows)
    rows = [row for name in filter(found.get, pruneds) for row in found[name]]
    columns = ["layer", "type", "not 0", "kB", "all, kB", "us", "all, us"]
    table(f"Pruned layers in C at a firing rate of {RATE}, {FLAGS.optimization}", columns, rows)
    forms = [f"{form}, {what}" for what in ("us", "kB", "kB of constants") for form in FORMS]
    rows = found.get("delays", [])
    table(f"Delays in C at a firing rate of {FIRING}", ["layer", "type", *forms], rows)
    save(results)


if __name__ == "__main__":
    FLAGS.set_default("limit", 900)
    app.run(main)
