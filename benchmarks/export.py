"""Latency of exported files beside that of an ANN, one thread.

    python benchmarks/export.py
    python benchmarks/export.py --networks=sew18 --sizes=32 --json=export.json

`sew18`: SEW-ResNet-18, T = 4, and the same with ReLUs for one pass. `spikformer`: a Spikformer of
two blocks of 192 channels with LIF, T = 4, or with integer spikes, T = 1; the same with ReLUs; and
a vision transformer of the same widths behind the same stem, with softmax, GELU and layer
normalisation. TensorFlow Lite files, whole clips and single steps, which take turns in one process;
medians.
"""

import pathlib
import tempfile

import numpy as np
from absl import app, flags
from common import FLAGS, answer, clock, measure, save, table

flags.DEFINE_list("sizes", ["32", "96"], "Heights and widths of the images.")
flags.DEFINE_list("networks", ["sew18", "spikformer"], "Networks.")
TIMESTEPS = 4
WIDTH, BLOCKS, HEADS = 192, 2, 6

DYNAMIC, INT8, STEP = {"quantize": "dynamic"}, {"quantize": "int8"}, {"mode": "step"}
# By network and name: the kind of network, arguments of the export. Others are compared with the
# first one.
FILES = {
    "sew18": {
        "ReLU, float32": ("ReLU", {}),
        "ReLU, dynamic": ("ReLU", DYNAMIC),
        "clip, float32": ("spiking", {}),
        "clip, dynamic": ("spiking", DYNAMIC),
        "step, float32": ("spiking", STEP),
        "step, states inside, float32": ("spiking", STEP | {"state": "internal"}),
        "step, dynamic": ("spiking", STEP | DYNAMIC),
    },
    "spikformer": {
        "ViT, float32": ("ViT", {}),
        "ViT, int8": ("ViT", INT8),
        "ReLU, float32": ("ReLU", {}),
        "ReLU, int8": ("ReLU", INT8),
        "clip, float32": ("spiking", {}),
        "clip, int8": ("spiking", INT8),
        "step, float32": ("spiking", STEP),
        "step, int8": ("spiking", STEP | INT8),
        "integer spikes, float32": ("integer", {}),
        "integer spikes, int8": ("integer", INT8),
    },
}


def network(name, kind, size):
    """A network of a kind for images of a size, whose normalisations fit its weights."""
    import keras

    from keras_snn import applications
    from keras_snn.layers import ILIF

    keras.utils.set_random_seed(0)
    if kind == "ViT":
        return vision_transformer(size)
    arguments = {"input_shape": (size, size, 3), "classes": 10} | {
        "ReLU": {"timesteps": None, "neuron": keras.layers.ReLU},
        "spiking": {"timesteps": TIMESTEPS},
        "integer": {"timesteps": 1, "neuron": ILIF(tau=1.0, normalize=True)},
    }[kind]
    if name == "sew18":
        return applications.SEWResNet18(**arguments)
    return applications.Spikformer(width=WIDTH, blocks=BLOCKS, heads=HEADS, **arguments)


def vision_transformer(size):
    """A vision transformer with the stem and the widths of the Spikformer."""
    import keras
    from keras import layers

    def convolution(x, filters):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = inputs = keras.Input((size, size, 3))
    for index in range(1, 5):
        x = convolution(x, WIDTH * 2**index // 16)
        x = layers.MaxPooling2D(3, 2, padding="same")(x) if index > 2 else x
    x = layers.Reshape((-1, WIDTH))(layers.Add()([convolution(x, WIDTH), x]))
    for _ in range(BLOCKS):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(y, y), x])
        y = layers.Dense(4 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([layers.Dense(WIDTH)(y), x])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def fitted(model, x):
    """A model whose normalisations have the statistics of `x`, so that neurons fire."""
    from keras_snn import graph

    for layer in graph.flatten_layers(model):
        if hasattr(layer, "momentum"):
            layer.momentum = 0.0
    model(x, training=True)
    return model


def one(name, size):
    """Milliseconds of each file of a network for images of a size."""
    from keras_snn import export

    calls, models = [], {}
    images = np.random.default_rng(0).normal(size=(8, size, size, 3)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        for file, (kind, arguments) in FILES[name].items():
            if kind not in models:
                models[kind] = fitted(network(name, kind, size), images)
            path = pathlib.Path(folder, f"{file}.tflite")
            data = {"representative_data": images} if "quantize" in arguments else {}
            export.to_tflite(models[kind], path, verify_samples=1, **data, **arguments)
            stream = export.StreamingInterpreter(path)
            calls.append(lambda stream=stream: stream.step(images[:1]))
    return {file: 1e3 * seconds for file, (_, seconds) in zip(FILES[name], clock(*calls))}


def main(argv):
    """The tables, or one measurement."""
    if FLAGS.only:
        name, size = FLAGS.only.split("/")
        answer(one(name, int(size)))
        return
    FLAGS.set_default("limit", 600)
    results = {}
    for name in FLAGS.networks:
        rows, (first, *_) = [], FILES[name]
        for size in FLAGS.sizes:
            times = results[f"{name} {size}"] = measure(__file__, f"{name}/{size}", "tensorflow")
            if isinstance(times, str):
                rows.append({"size": size, "file": times})
                continue
            for file, ms in times.items():
                passes, ratio = TIMESTEPS if file.startswith("clip") else 1, ms / times[first]
                row = {"size": size, "file": file, "ms": ms, f"/ {first}": ratio}
                rows.append(row | {f"/ {first}, all its passes": ratio / passes})
        columns = ["size", "file", "ms", f"/ {first}", f"/ {first}, all its passes"]
        table(f"{name} on TensorFlow Lite, one thread", columns, rows)
        save(results)


if __name__ == "__main__":
    app.run(main)
