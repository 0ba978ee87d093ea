"""Plain C beside TensorFlow Lite, and what passing over silent inputs gains, one thread.

    python benchmarks/plain_c.py
    python benchmarks/plain_c.py --optimization=-O3 --json=plain_c.json

SEW-ResNet-8 on 8x8, one step, and one pass of its ReLUs: milliseconds as plain C and as TensorFlow
Lite files, which take turns in one process; medians. Layers of spikes in plain C by their firing
rate, passing over silent inputs or not: microseconds, the least time of the thread itself.
"""

import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags
from common import FLAGS, answer, clock, measure, save, table

flags.DEFINE_string("optimization", "-O2", "How the C compiler optimises.")
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


def silent(kind):
    """Microseconds of a layer by firing rate, `"skip"`, and without passing over, `"all"`."""
    import ctypes

    import keras

    from keras_snn import export, layers

    conv = keras.layers.Conv2D(32, 3, padding="same")
    layer, shape = {
        "convolution": (layers.FoldTime(conv), (8, 8, 32)),
        "dense": (keras.layers.Dense(256), (256,)),
    }[kind]
    model = keras.Sequential([keras.Input((2, *shape)), layer, layers.LastOverTime()])
    rng = np.random.default_rng(0)
    data = (rng.random((16, 2, *shape)) < 0.5).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "net.c")
        export.to_c(model, path, "int8", data, verify_samples=1)
        runners = {
            name: export.CRunner(path, (FLAGS.optimization, f"-DNET_SKIP={skip}"))
            for name, skip in (("skip", 1), ("all", 0))
        }
    # Codes of 0 and 1, and where the layer finds and leaves them.
    ((row,), (out,)) = runners["skip"]._rows
    low, high = (round(v / row["scale"]) + row["zero_point"] for v in (0, 1))
    found = {name: [] for name in runners}
    for rate in RATES:
        spikes = np.where(rng.random(row["shape"]) < rate, high, low).astype("int8")
        outputs = {name: np.empty(out["shape"], "int8") for name in runners}

        def call(name, spikes=spikes, outputs=outputs):
            places = [ctypes.c_void_p(x.ctypes.data) for x in (spikes, outputs[name])]
            for _ in range(200):
                runners[name]._step(*places)

        for name in runners:
            times = [own_seconds(lambda name=name: call(name)) for _ in range(FLAGS.repeats + 1)]
            found[name].append(1e6 * min(times) / 200)
        assert np.array_equal(*outputs.values())
    return found


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
        answer(small() if FLAGS.only == "small" else silent(FLAGS.only))
        return
    option = f"--optimization={FLAGS.optimization}"
    names = ("small", *LAYERS)
    results = {name: measure(__file__, name, "tensorflow", option) for name in names}
    missing = {name: text for name, text in results.items() if isinstance(text, str)}
    rows = [{"file": name, "ms": text} for name, text in missing.items()]
    if "small" not in missing:
        rows += [{"file": name, "ms": ms} for name, ms in results["small"].items()]
    table("SEW-ResNet-8 on 8x8: one step, or one pass of ReLUs", ["file", "ms"], rows)
    rows = []
    for kind in set(LAYERS) - set(missing):
        for inputs, times in results[kind].items():
            rows.append({"layer": kind, "inputs": inputs} | dict(zip(map(str, RATES), times)))
        rows[-1]["quicker below"] = crossing(results[kind])
    columns = ["layer", "inputs", *map(str, RATES), "quicker below"]
    table(f"Microseconds of a layer in C by firing rate, {FLAGS.optimization}", columns, rows)
    save(results)


if __name__ == "__main__":
    app.run(main)
