"""Trains (or loads) an ANN, converts it into a spiking network, and evaluates that over time.

    python applications/convert.py
    python applications/convert.py --dataset=fashion_mnist --image_size=32 \\
        --model=ConversionResNet12 --width=0.25 --timesteps=256
    python applications/convert.py --model_file=my_ann.keras --method=percentile

A model is one of keras_snn.applications in its ANN form: `timesteps=None`, with ReLUs. A trained
ANN is kept in `--output_dir`, where the next run with the same flags finds it; interrupted training
goes on. `--help` says which defaults are not those of the papers.
"""

import inspect
import json
import pathlib
import time

import common
import keras
import optimizers
from absl import app, flags

from keras_snn import analysis, applications, callbacks, conversion
from keras_snn import layers as snn
from keras_snn.analysis.accuracy import predicted_classes
from keras_snn.conversion.balance import METHODS
from keras_snn.datasets import recordings, speech

MODELS = [
    model.name
    for model in applications.list_models()
    if model.name not in applications.segmentation.__all__
]

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.adopt_module_key_flags(optimizers)
FLAGS.set_default("image_size", 32)
FLAGS.set_default("learning_rate", 1e-3)
flags.DEFINE_enum("model", "ConversionVGG5", MODELS, "Network.")
flags.DEFINE_string("model_file", None, "A trained ANN to load instead, a .keras file.")
flags.DEFINE_float(
    "width", 0.125, "Factor on the numbers of channels, of models that have it (papers: 1)."
)
flags.DEFINE_integer("epochs", 10, "Epochs of the ANN's training (papers: 300).", lower_bound=1)
flags.DEFINE_string("output_dir", "results/convert", "Where models and results go.")
flags.DEFINE_enum(
    "snn_normalization",
    None,
    list(common.datasets.NORMALIZATIONS),
    "What images of the spiking network are normalised by (default: as those of the ANN).",
)
flags.DEFINE_list(
    "method", ["spike_norm"], f"How to choose thresholds: any of {METHODS} (papers: spike_norm)."
)
flags.DEFINE_integer("timesteps", 256, "Number of steps, T (Sengupta et al.: 2500).", lower_bound=1)
flags.DEFINE_enum("reset", "soft", ["soft", "hard"], "What a spike does to the potential.")
flags.DEFINE_enum(
    "input_coding", "direct", ["direct", "poisson"], "Coding of images (papers: poisson)."
)
flags.DEFINE_float("gain", 1.0, "Factor on the probabilities of Poisson coding (ResNets: 0.9).")
flags.DEFINE_enum(
    "max_pooling", "spiking", ["refuse", "average", "spiking"], "Max pooling (papers: none)."
)
flags.DEFINE_enum(
    "residual",
    "balanced",
    ["balanced", "unit"],
    "Thresholds of residual units: found like all others, or 1 (papers: unit).",
)
flags.DEFINE_float("initial_potential", 0.0, "First membrane potential, in thresholds.")
flags.DEFINE_float("percentile", 99.9, "Percentile of the ANN's activations.")
flags.DEFINE_float("confidence", None, "Early exit: probability from which an answer is final.")
flags.DEFINE_integer(
    "calibration_examples", 256, "Training images to calibrate on (Rathi et al.: 512).", 1
)
flags.DEFINE_integer(
    "calibration_timesteps", 100, "Steps of spike_norm's simulation (Rathi et al.: 1000).", 1
)
flags.DEFINE_integer("test_examples", None, "Test images (default: all).", 1)

# Flags that only some values of another one leave an effect.
NEEDS = optimizers.NEEDS | {
    "gain": ("input_coding", ["poisson"]),
    "initial_potential": ("reset", ["soft"]),
    "percentile": ("method", ["percentile"]),
    "calibration_timesteps": ("method", ["spike_norm"]),
}
# Those that make an ANN, of which some make the data too.
TRAINING = ("model", "width", "epochs", *common.names_of_flags(optimizers))
DATA = ("dataset", "image_size", "batch_size", "augmentation", "normalization", "seed")


def check_flags(needs=NEEDS):
    """An error for flags that would have no effect."""
    for method in FLAGS.method:
        if method not in METHODS:
            raise app.UsageError(f"--method: {method!r} is none of {METHODS}.")
    common.check_needs(needs)
    if FLAGS.dataset in recordings.RECORDINGS:
        raise app.UsageError(
            f"--dataset: {FLAGS.dataset} has recordings, which have time already; an ANN to "
            "convert reads images."
        )
    if FLAGS.dataset in speech.SETS and not FLAGS.model_file:
        raise app.UsageError(
            f"--dataset: {FLAGS.dataset} has speech, which the networks of --model don't read; "
            "give --model_file."
        )
    if FLAGS.model_file:
        common.refuse(TRAINING, "--model_file is trained already")
    elif "width" not in inspect.signature(getattr(applications, FLAGS.model)).parameters:
        common.refuse(["width"], f"{FLAGS.model} has no such option")


def load_data():
    """The data of the ANN, and those of the spiking network."""
    data = common.load_data()
    if FLAGS.snn_normalization in (None, FLAGS.normalization):
        return data, data
    return data, common.load_data(normalization=FLAGS.snn_normalization)


def obtain_ann(data):
    """The trained ANN: loaded, or trained and kept beside the flags that made it."""
    if FLAGS.model_file:
        return check_ann(load_ann(FLAGS.model_file), data)
    path = pathlib.Path(FLAGS.output_dir, f"{FLAGS.model}_{FLAGS.dataset.replace('/', '_')}.keras")
    made = {name: FLAGS[name].value for name in (*TRAINING, *DATA)}
    record, resume = path.with_suffix(".json"), path.with_suffix(".npz")
    if path.is_file() or resume.is_file():
        check_record(record, made, path)
    if path.is_file():
        return load_ann(path)
    common.write_json(record, made)
    model = build_ann(data)
    model.compile(
        optimizers.optimizer(FLAGS.epochs, len(data.train)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    print(f"{FLAGS.model} as an ANN on {data.name}, {model.count_params():,} parameters")
    interrupted = callbacks.Resume(resume, data, keep=True)
    model.fit(
        data.train,
        epochs=FLAGS.epochs,
        validation_data=data.test,
        shuffle=False,
        callbacks=[interrupted],
        verbose=2,
    )
    common.save(model, path)
    interrupted.remove()
    return model


def build_ann(data):
    """The ANN of the flags."""
    build = getattr(applications, FLAGS.model)
    options = {"width": FLAGS.width, "pool": "average", "small_images": True}
    known = inspect.signature(build).parameters
    return build(
        input_shape=data.input_shape,
        classes=data.classes,
        timesteps=None,
        neuron=keras.layers.ReLU,
        **{name: value for name, value in options.items() if name in known},
    )


def load_ann(path):
    """An ANN from its file."""
    ann = common.load_keras(path)
    print(f"Loaded the ANN {path}")
    return ann


def check_ann(ann, data):
    """The ANN, or an error if it is none for the data."""
    if len(ann.inputs) != 1 or len(ann.outputs) != 1:
        raise app.UsageError(f"--model_file: {ann.name} must have one input and one output.")
    reads, wanted = ann.input_shape[1:], tuple(data.input_shape)
    if len(reads) != len(wanted) or any(n not in (None, m) for n, m in zip(reads, wanted)):
        raise app.UsageError(
            f"--model_file: {ann.name} reads images {reads}, those of {data.name} are {wanted}: "
            "see --image_size and --dataset."
        )
    classes = max(ann.output_shape[-1], 2)  # one unit decides between two
    if classes != data.classes:
        raise app.UsageError(
            f"--model_file: {ann.name} knows {classes} classes, {data.name} has {data.classes}."
        )
    return ann


def check_record(record, made, path):
    """An error if other flags made an ANN, or its interrupted training."""
    told = json.loads(record.read_text()) if record.is_file() else {}
    other = [f"--{name}={told.get(name)}" for name in made if told.get(name) != made[name]]
    if other:
        what = f"with {', '.join(other)}" if told else f"by flags that {record.name} does not tell"
        raise app.UsageError(
            f"{path} was trained {what}. Give the same flags or another --output_dir, remove the "
            f"file to train anew, or take it as it is with --model_file={path}."
        )


def options(ann):
    """Arguments of `convert` that are flags."""
    joins = (keras.layers.Add, snn.SpikeConnection)
    if not any(isinstance(layer, joins) for layer in ann.layers):
        common.refuse(["residual"], f"{ann.name} has no residual units")
    names = (
        *("timesteps", "reset", "input_coding", "percentile", "max_pooling", "residual"),
        *("initial_potential", "calibration_timesteps", "gain", "seed"),
    )
    return {name: FLAGS[name].value for name in names}


def accuracy(ann, data):
    """The ANN's accuracy on the test images, and their number."""
    images, labels = common.collect(data.test, FLAGS.test_examples)
    right = predicted_classes(ann, ann.predict(images, verbose=0)) == labels
    print(f"ANN: {100 * right.mean():.2f} % of {len(images)} test images")
    return float(right.mean()), len(images)


def over_time(network, data):
    """A spiking network's accuracy on the test images after every number of steps."""
    images, labels = common.collect(data.test, FLAGS.test_examples)
    accuracy = analysis.accuracy_over_time(
        network,
        (images, labels),
        batch_size=FLAGS.batch_size,
        confidence=FLAGS.confidence,
        steps=-(-len(images) // FLAGS.batch_size),
        verbose=int(common.verbosity() == 1),
    )
    print(accuracy)
    return accuracy.to_dict()


def main(argv):
    """Trains, converts, evaluates, saves."""
    check_flags()
    output = common.output_dir()
    data, coded = load_data()
    ann = obtain_ann(data)
    arguments = options(ann)
    calibration = common.collect(coded.train, FLAGS.calibration_examples)
    right, examples = accuracy(ann, data)
    results = {"ann_accuracy": right, "examples": examples, "methods": {}}
    for method in FLAGS.method:
        started = time.perf_counter()
        network, report = conversion.convert(ann, calibration, method, **arguments)
        seconds = time.perf_counter() - started
        print(f"\n{report}\nConverted in {seconds:.1f} s. On the test images:")
        tested = over_time(network, coded)
        path = output / f"{ann.name}_{method}.keras"
        common.save(network, path)
        results["methods"][method] = report.to_dict() | {"seconds": seconds, "test": tested}
        common.write_json(output / "conversion.json", results)
        print(f"Saved {path}")


if __name__ == "__main__":
    common.run(main, "convert")
