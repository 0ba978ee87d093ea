"""Trains (or loads) an ANN, converts it into a spiking network, and evaluates that over time.

    python applications/convert.py
    python applications/convert.py --dataset=fashion_mnist --image_size=32 \\
        --model=ConversionResNet12 --width=0.25 --timesteps=256
    python applications/convert.py --model_file=my_ann.keras --method=percentile

A model is one of keras_snn.applications in its ANN form: `timesteps=None`, with ReLUs. A trained
ANN is kept in `--output_dir`, where the next run finds it; interrupted training goes on.
"""

import inspect
import json
import pathlib
import time

import common
import keras
import numpy as np
import optimizers
from absl import app, flags

from keras_snn import applications, callbacks, conversion
from keras_snn.conversion.balance import METHODS

MODELS = [model.name for model in applications.list_models()]

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.adopt_module_key_flags(optimizers)
FLAGS.set_default("image_size", 32)
FLAGS.set_default("learning_rate", 1e-3)
flags.DEFINE_enum("model", "ConversionVGG5", MODELS, "Network.")
flags.DEFINE_string("model_file", None, "A trained ANN to load instead, a .keras file.")
flags.DEFINE_float("width", 0.125, "Factor on the numbers of channels, of models that have it.")
flags.DEFINE_integer("epochs", 10, "Epochs of the ANN's training.", lower_bound=1)
flags.DEFINE_string("output_dir", "results/convert", "Where models and results go.")
flags.DEFINE_list("method", ["spike_norm"], f"How to choose thresholds: any of {METHODS}.")
flags.DEFINE_integer("timesteps", 256, "Number of steps, T.", lower_bound=1)
flags.DEFINE_enum("reset", "soft", ["soft", "hard"], "What a spike does to the potential.")
flags.DEFINE_enum("input_coding", "direct", ["direct", "poisson"], "Coding of images.")
flags.DEFINE_enum("max_pooling", "spiking", ["refuse", "average", "spiking"], "Max pooling.")
flags.DEFINE_float("initial_potential", 0.0, "First membrane potential, in thresholds.")
flags.DEFINE_float("confidence", None, "Early exit: probability from which an answer is final.")
flags.DEFINE_integer("calibration_examples", 256, "Training images to calibrate on.")
flags.DEFINE_integer("test_examples", None, "Test images (default: all).")


def obtain_ann(data):
    """The trained ANN: loaded, or trained and kept."""
    output = pathlib.Path(FLAGS.output_dir)
    path = pathlib.Path(
        FLAGS.model_file or output / f"{FLAGS.model}_{FLAGS.dataset.replace('/', '_')}.keras"
    )
    if path.is_file():
        print(f"Loaded the ANN {path}")
        return keras.saving.load_model(path)
    if FLAGS.model_file:
        raise app.UsageError(f"There is no file {path}.")
    build = getattr(applications, FLAGS.model)
    known = inspect.signature(build).parameters
    model = build(
        input_shape=data.input_shape,
        classes=data.classes,
        timesteps=None,
        neuron=keras.layers.ReLU,
        **({"width": FLAGS.width} if "width" in known else {}),
        **({"pool": "average"} if "pool" in known else {}),
        **({"small_images": True} if "small_images" in known else {}),
    )
    model.compile(
        optimizers.optimizer(FLAGS.epochs, len(data.train)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    print(f"{FLAGS.model} as an ANN on {data.name}, {model.count_params():,} parameters")
    model.fit(
        data.train,
        epochs=FLAGS.epochs,
        validation_data=data.test,
        shuffle=False,
        callbacks=[callbacks.Resume(output / "resume.npz", data)],
        verbose=2,
    )
    model.save(path)
    return model


def main(argv):
    """Trains, converts, evaluates, saves."""
    for method in FLAGS.method:
        if method not in METHODS:
            raise app.UsageError(f"--method: {method!r} is none of {METHODS}.")
    output = common.output_dir()
    data = common.load_data()
    ann = obtain_ann(data)
    calibration = common.collect(data.train, FLAGS.calibration_examples)
    images, labels = common.collect(data.test, FLAGS.test_examples)
    right = np.argmax(ann.predict(images, verbose=0), -1) == labels
    print(f"ANN: {100 * right.mean():.2f} % of {len(images)} test images")
    results = {"ann_accuracy": float(right.mean()), "examples": len(images), "methods": {}}
    for method in FLAGS.method:
        started = time.perf_counter()
        snn, report = conversion.convert(
            ann,
            calibration,
            method,
            FLAGS.timesteps,
            reset=FLAGS.reset,
            input_coding=FLAGS.input_coding,
            max_pooling=FLAGS.max_pooling,
            initial_potential=FLAGS.initial_potential,
            seed=FLAGS.seed,
        )
        seconds = time.perf_counter() - started
        print(f"\n{report}\nConverted in {seconds:.1f} s. On the test images:")
        found = conversion.accuracy_over_time(
            snn,
            (images, labels),
            batch_size=FLAGS.batch_size,
            confidence=FLAGS.confidence,
            steps=-(-len(images) // FLAGS.batch_size),
            verbose=1,
        )
        print(found)
        name = f"{ann.name}_{method}"
        snn.save(output / f"{name}.keras")
        results["methods"][method] = report.to_dict() | {
            "seconds": seconds,
            "test": found.to_dict(),
        }
        (output / "conversion.json").write_text(json.dumps(results, indent=1))
        print(f"Saved {output / name}.keras")


if __name__ == "__main__":
    common.run(main, "convert")
