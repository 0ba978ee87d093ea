"""Latency of exported files beside that of the same network with ReLUs, one thread.

    python benchmarks/export.py
    python benchmarks/export.py --sizes=32 --json=export.json

SEW-ResNet-18, T = 4, and the network with ReLUs for one pass: TensorFlow Lite files, float32 and
with dynamic range, whole clips and single steps, which take turns in one process; medians.
"""

import pathlib
import tempfile

import numpy as np
from absl import app, flags
from common import FLAGS, answer, clock, measure, save, table

flags.DEFINE_list("sizes", ["32", "96"], "Heights and widths of the images.")
TIMESTEPS = 4

# Name: arguments of the network, of the export.
FILES = {
    "ReLU, float32": ("ReLU", {}),
    "ReLU, dynamic": ("ReLU", {"quantize": "dynamic"}),
    "clip, float32": ("IF", {}),
    "clip, dynamic": ("IF", {"quantize": "dynamic"}),
    "step, float32": ("IF", {"mode": "step"}),
    "step, states inside, float32": ("IF", {"mode": "step", "state": "internal"}),
    "step, dynamic": ("IF", {"mode": "step", "quantize": "dynamic"}),
}


def one(size):
    """Milliseconds of each file for images of a size."""
    import keras

    from keras_snn import applications, export

    calls = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (neuron, arguments) in FILES.items():
            keras.utils.set_random_seed(0)
            spiking = {"timesteps": TIMESTEPS}
            relu = {"timesteps": None, "neuron": keras.layers.ReLU}
            model = applications.SEWResNet18(
                input_shape=(size, size, 3), classes=10, **(relu if neuron == "ReLU" else spiking)
            )
            path = pathlib.Path(folder, f"{name}.tflite")
            export.to_tflite(model, path, verify_samples=1, **arguments)
            stream = export.StreamingInterpreter(path)
            x = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype("float32")
            calls.append(lambda stream=stream, x=x: stream.step(x))
    return {name: 1e3 * seconds for name, (_, seconds) in zip(FILES, clock(*calls))}


def main(argv):
    """The table, or one size."""
    if FLAGS.only:
        answer(one(int(FLAGS.only)))
        return
    results, rows = {}, []
    for size in FLAGS.sizes:
        times = results[size] = measure(__file__, size, "tensorflow")
        if isinstance(times, str):
            rows.append({"size": size, "file": times})
            continue
        for name, ms in times.items():
            passes = TIMESTEPS if name.startswith("clip") else 1
            ratio = ms / times["ReLU, float32"]
            row = {"size": size, "file": name, "ms": ms, "/ ReLU float32": ratio}
            rows.append(row | {"/ ReLU float32, all its passes": ratio / passes})
    columns = ["size", "file", "ms", "/ ReLU float32", "/ ReLU float32, all its passes"]
    table("SEW-ResNet-18 on TensorFlow Lite, one thread", columns, rows)
    save(results)


if __name__ == "__main__":
    app.run(main)
