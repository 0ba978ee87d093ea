"""Trains a spiking network of keras_snn.applications with `model.fit`, and checks what it saved.

    python applications/train.py
    python applications/train.py --model=SEWResNet18 --dataset=cifar10 --epochs=100
    python applications/train.py --dataset=nmnist --data_dir=NMNIST --neuron=ParametricLIF

The backend is Keras's: KERAS_BACKEND=tensorflow, jax or torch.
"""

import inspect
import json
import math
import pathlib
import time

import keras
from absl import app, flags

import keras_snn
from keras_snn import analysis, applications, callbacks, datasets
from keras_snn.dynamics import CONNECTIONS
from keras_snn.layers import neuron_names

MODELS = [model.name for model in applications.list_models()]

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "SEWResNet8", MODELS, "Network.")
flags.DEFINE_string("dataset", "digits", '"digits", "nmnist" or a TFDS image data set by name.')
flags.DEFINE_string("data_dir", None, "Where the data are (default for TFDS: TFDS_DATA_DIR).")
flags.DEFINE_integer("image_size", None, "Height and width to resize images to.", lower_bound=8)
flags.DEFINE_integer("timesteps", 4, "Number of steps, T.", lower_bound=1)
flags.DEFINE_enum(
    "neuron", None, neuron_names(), "Neuron (default: the model's).", case_sensitive=False
)
flags.DEFINE_enum(
    "connect", None, list(CONNECTIONS), "How SEW-ResNets join branches and shortcuts."
)
flags.DEFINE_bool("small_images", None, "Stem for images up to 32x32 (default: by their size).")
flags.DEFINE_integer("epochs", 15, "Number of epochs.", lower_bound=1)
flags.DEFINE_integer(
    "steps_per_epoch",
    None,
    "Batches in an epoch (default: all; if given, held-out data is seen at the end only).",
    lower_bound=1,
)
flags.DEFINE_integer("batch_size", 64, "Images in a batch.", lower_bound=1)
flags.DEFINE_float("learning_rate", 2e-3, "First learning rate of Adam; falls to 0 as a cosine.")
flags.DEFINE_float("weight_decay", 0.0, "Decoupled weight decay.", lower_bound=0.0)
flags.DEFINE_enum(
    "dtype", "float32", ["float32", "mixed_float16", "mixed_bfloat16"], "Dtype policy."
)
flags.DEFINE_integer("seed", 0, "Seed of weights, shuffling and the split of digits.")
flags.DEFINE_string("output_dir", "results", "Where the model and the results go.")


def build(data):
    """The compiled model of the flags."""
    build = getattr(applications, FLAGS.model)
    options = {"neuron": FLAGS.neuron, "connect": FLAGS.connect, "small_images": FLAGS.small_images}
    options = {name: value for name, value in options.items() if value is not None}
    known = inspect.signature(build).parameters
    for name in options:
        if name not in known:
            raise app.UsageError(f"{FLAGS.model} has no option --{name}.")
    if "small_images" in known:
        options.setdefault("small_images", max(data.input_shape[-3:-1]) <= 34)
    model = build(
        input_shape=data.input_shape,
        classes=data.classes,
        classifier_activation=None,
        timesteps=FLAGS.timesteps,
        **options,
    )
    steps = FLAGS.epochs * (FLAGS.steps_per_epoch or len(data.train))
    model.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, steps),
            weight_decay=FLAGS.weight_decay,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def print_rates(rates):
    """Firing rates as a table with bars."""
    width = max(map(len, rates))
    print("\nFiring rate (spikes per neuron and step)")
    for name, rate in rates.items():
        print(f"  {name:{width}}  {rate:.3f}  {'#' * round(40 * min(rate, 1.0))}")


def main(argv):
    """Trains, evaluates, saves, reloads and compares."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    output = pathlib.Path(FLAGS.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.dtype)
    data = datasets.load(
        FLAGS.dataset,
        FLAGS.batch_size,
        FLAGS.seed,
        FLAGS.data_dir,
        FLAGS.image_size,
        FLAGS.timesteps,
    )
    model = build(data)
    print(
        f"{FLAGS.model} on {data.name} {data.input_shape}, {data.classes} classes, "
        f"T = {FLAGS.timesteps}, {model.count_params():,} parameters, "
        f"{keras.backend.backend()} backend, keras_snn {keras_snn.__version__}"
    )
    started = time.perf_counter()
    train = data.train
    if FLAGS.steps_per_epoch and hasattr(train, "repeat"):
        train = train.repeat()
    history = model.fit(
        train,
        epochs=FLAGS.epochs,
        steps_per_epoch=FLAGS.steps_per_epoch,
        validation_data=None if FLAGS.steps_per_epoch else data.test,
        shuffle=False,
        callbacks=[
            # An interrupted run started again goes on where it was.
            callbacks.Resume(output / "resume.npz", data),
            keras.callbacks.TerminateOnNaN(),
        ],
    )
    seconds = time.perf_counter() - started
    accuracy = model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
    rates = analysis.firing_rates(model, data.test, steps=min(8, len(data.test)))
    print_rates(rates)

    path = output / f"{FLAGS.model}_{FLAGS.dataset.replace('/', '_')}.keras"
    model.save(path)
    reloaded = keras.saving.load_model(path)
    again = reloaded.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
    result = {
        "flags": {flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(argv[0])},
        "backend": keras.backend.backend(),
        "parameters": model.count_params(),
        "test_accuracy": accuracy,
        "reloaded_test_accuracy": again,
        "fit_seconds": seconds,
        "firing_rates": rates,
        "history": history.history,
    }
    (output / "results.json").write_text(json.dumps(result, indent=1))
    print(f"\nTest accuracy {accuracy:.4f} after {seconds:.0f} s of training")
    print(f"Saved {path}; reloaded, it has test accuracy {again:.4f}")
    if not math.isclose(accuracy, again, abs_tol=1e-6):
        raise RuntimeError(f"The reloaded model's accuracy {again} differs from {accuracy}.")


if __name__ == "__main__":
    app.run(main)
