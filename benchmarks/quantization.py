"""Accuracy, spikes and size of networks with int8, 4-bit, ternary and binary weights.

    KERAS_BACKEND=torch python benchmarks/quantization.py --json=quantization.json
    KERAS_BACKEND=torch python benchmarks/quantization.py --network=sew_resnet20 --bits=8 --files
    KERAS_BACKEND=torch python benchmarks/quantization.py --bits=8 --state_bits=16 --files
    python benchmarks/quantization.py --dataset=fashion_mnist --data_dir=DATA --network=sew_resnet20

Trains a float network, prepares it with `keras_snn.qat.prepare`, and trains on for a few epochs
with the float network as the teacher of spikes (`keras_snn.qat.imitate`). Each row is one number of
bits: before that training and after it the accuracy, and the share of spikes that are those of the
float network, in the first and the last layer of neurons. "always silent" is the share that a last
layer without spikes would have right. Sizes are those of the weights alone, at their bits.
`--files` also writes TensorFlow Lite files, of the network after training and of the float network
by calibration alone, and compares their spikes with those of the network that was exported.
"""

import json
import pathlib
import tempfile
import time

import keras
import numpy as np
from absl import app, flags
from keras import ops

from keras_snn import datasets, export, graph, qat
from keras_snn.applications import factory, residual, sew_resnet

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "digits", "Images, see `keras_snn.datasets.load`.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets has them.")
flags.DEFINE_enum("network", "sew_resnet8", ["sew_resnet8", "sew_resnet20"], "Which network.")
flags.DEFINE_list("bits", ["8", "4", "2", "1"], "Bits of weights: 8 to 3, 2 ternary, 1 binary.")
flags.DEFINE_enum("state_bits", "8", ["8", "16"], "Bits of currents and potentials.")
flags.DEFINE_integer("width", 8, "Channels of the first stage.", lower_bound=1)
flags.DEFINE_integer("timesteps", 4, "Number of steps, T.", lower_bound=1)
flags.DEFINE_integer("epochs", 15, "Epochs of the float network.", lower_bound=1)
flags.DEFINE_integer("qat_epochs", 5, "Epochs of each quantised network.", lower_bound=0)
flags.DEFINE_integer("steps_per_epoch", None, "Batches of an epoch, by default all.")
flags.DEFINE_float("learning_rate", 2e-3, "Of Adam for the float network.")
flags.DEFINE_float("qat_learning_rate", 5e-4, "Of Adam for the quantised networks.")
flags.DEFINE_float("imitation", 10.0, "Weight of spikes that differ from the float network's.")
flags.DEFINE_integer("batch", 64, "Batch size.", lower_bound=1)
flags.DEFINE_integer("test_examples", 1000, "Test examples at most.", lower_bound=1)
flags.DEFINE_bool("files", False, "Whether to write and compare TensorFlow Lite files.")
flags.DEFINE_string("json", None, "Where to write the figures.")


def network(shape, classes):
    """A residual network of 8 or 20 layers with IF neurons."""
    blocks = (1, 1, 1) if FLAGS.network == "sew_resnet8" else (3, 3, 3)
    make = factory.application(
        "SEWResNet",
        "sew_resnet",
        sew_resnet.resnet,
        about="a residual network for small images",
        plan=residual.basic,
        blocks=blocks,
        filters=tuple(FLAGS.width * n for n in (1, 2, 4)),
        defaults={"small_images": True},
    )
    return make(input_shape=shape, classes=classes, timesteps=FLAGS.timesteps)


def train(model, data, epochs, rate):
    """Trains with a falling learning rate."""
    steps = FLAGS.steps_per_epoch or len(data)
    schedule = keras.optimizers.schedules.CosineDecay(rate, max(1, epochs * steps))
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    if epochs:
        model.fit(data, epochs=epochs, steps_per_epoch=FLAGS.steps_per_epoch, verbose=2)


def look(model, images):
    """Answers and the spikes of the first and the last layer of neurons, arrays."""
    found = graph.trace(model)
    spikes = [call.output for call in found.calls if call.spikes]
    probe = keras.Model(found.inputs, [found.outputs[0], spikes[0], spikes[-1]])
    parts = [probe(images[i : i + 100], training=False) for i in range(0, len(images), 100)]
    return [np.concatenate([ops.convert_to_numpy(x) for x in part]) for part in zip(*parts)]


def compare(found, wanted, labels):
    """Accuracy and the shares of spikes that agree, in percent."""
    same = [float(np.mean(a == b) * 100) for a, b in zip(found[1:], wanted[1:])]
    return {"accuracy": accuracy(found, labels), "first": same[0], "last": same[1]}


def accuracy(found, labels):
    return float(np.mean(found[0].argmax(-1) == labels) * 100)


def kilobytes(model):
    """Size of the weights at their bits, or as float32."""
    bits = 0
    for layer in graph.flatten_layers(model):
        if isinstance(layer, qat.QuantizedWeights):
            kernel, bias = layer.layer.weights
            per_weight = {1: 1, 2: 2}.get(layer.bits, layer.bits)
            bits += per_weight * int(np.prod(kernel.shape)) + 32 * bias.shape[0]
            bits += 16 * int(np.prod(layer.shift.shape))  # step and shift
    return (bits or 32 * sum(int(np.prod(w.shape)) for w in model.weights)) / 8e3


def write(model, images, options):
    """Exports a network; how the file compares with it."""
    quantize = "int16x8" if qat.state_bits(model) == 16 else "int8"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        report = export.to_tflite(model, path, quantize=quantize, verify_data=images, **options)
    last = report.layers[-1]
    return {
        "kB": report.bytes / 1e3,
        "flipped": report.flipped,
        "last": last["agreement"] * 100,
        "last, built-in": last["agreement, built-in"] * 100,
        "answers": report.top1 * 100,
        "ms": report.latency_ms,
    }


def main(_):
    keras.utils.set_random_seed(0)
    options = {"data_dir": FLAGS.data_dir} if FLAGS.data_dir else {}
    data = datasets.load(FLAGS.dataset, batch_size=FLAGS.batch, **options)
    parts = [[ops.convert_to_numpy(x) for x in batch] for batch in data.test]
    images, labels = (np.concatenate(x)[: FLAGS.test_examples] for x in zip(*parts))
    seen = ops.convert_to_numpy(next(iter(data.train))[0])
    teacher, start = network(images.shape[1:], int(labels.max()) + 1), time.time()
    train(teacher, data.train, FLAGS.epochs, FLAGS.learning_rate)
    wanted = look(teacher, images)
    rows = {
        "float": {
            "accuracy": accuracy(wanted, labels),
            "kB": kilobytes(teacher),
            "seconds": time.time() - start,
            "always silent": float(np.mean(wanted[2] == 0) * 100),
        }
    }
    print(json.dumps(rows["float"]), flush=True)
    if FLAGS.files:
        rows["float"]["file"] = write(teacher, images[:64], {"representative_data": seen})
        print(json.dumps(rows["float"]["file"]), flush=True)
    for bits in map(int, FLAGS.bits):
        model = qat.prepare(teacher, seen, bits=bits, state_bits=int(FLAGS.state_bits))
        start = time.time()
        row = {"before": compare(look(model, images), wanted, labels), "kB": kilobytes(model)}
        if FLAGS.qat_epochs:
            student = qat.imitate(model, teacher, FLAGS.imitation)
            train(student, data.train, FLAGS.qat_epochs, FLAGS.qat_learning_rate)
            row["after"] = compare(look(model, images), wanted, labels)
        row["seconds"] = time.time() - start
        if FLAGS.files:
            row["file"] = write(model, images[:64], {})
        rows[f"{bits} bits"] = row
        print(bits, json.dumps(row), flush=True)
        if FLAGS.json:
            pathlib.Path(FLAGS.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    app.run(main)
