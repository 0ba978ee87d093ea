"""Trains a spiking network of keras_snn.applications with `model.fit`, and checks what it saved.

    python applications/train.py
    python applications/train.py --recipe=tdbn_resnet19_cifar10 --data_dir=DATA
    python applications/train.py --model=SEWResNet18 --dataset=cifar10 --epochs=100 --ema=0.999
    python applications/train.py --recipe=nmnist --data_dir=NMNIST --loss=tet

Recipes are in `recipes.py`; those of conversion and hybrid training run `convert.py`, `hybrid.py`.
The values of all flags are written to `config.json`, results to `results.json`. A run that was
interrupted goes on when it is started again. The backend is Keras's: KERAS_BACKEND=tensorflow, jax
or torch.
"""

import inspect
import json
import math
import time

import common
import keras
import optimizers
from absl import app, flags

import keras_snn
from keras_snn import analysis, applications, callbacks
from keras_snn.dynamics import CONNECTIONS
from keras_snn.layers import neuron_names

MODELS = [model.name for model in applications.list_models()]

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.adopt_module_key_flags(optimizers)
flags.DEFINE_enum("model", "SEWResNet8", MODELS, "Network.")
flags.DEFINE_integer("timesteps", 4, "Number of steps, T.", lower_bound=1)
flags.DEFINE_integer(
    "train_timesteps",
    None,
    "Frames of a recording drawn in training (default: all).",
    lower_bound=1,
)
flags.DEFINE_enum(
    "neuron", None, neuron_names(), "Neuron (default: the model's).", case_sensitive=False
)
flags.DEFINE_enum(
    "connect", None, list(CONNECTIONS), "How SEW-ResNets join branches and shortcuts."
)
flags.DEFINE_bool("small_images", None, "Stem for images up to 32x32 (default: by their size).")
flags.DEFINE_string("options", "{}", "More arguments of the network's function, as JSON.")
flags.DEFINE_integer("epochs", 15, "Number of epochs.", lower_bound=1)
flags.DEFINE_integer(
    "steps_per_epoch",
    None,
    "Batches in an epoch (default: all; if given, held-out data is seen at the end only).",
    lower_bound=1,
)
flags.DEFINE_float("label_smoothing", 0.0, "Label smoothing.", 0.0, 1.0)
flags.DEFINE_enum(
    "dtype", "float32", ["float32", "mixed_float16", "mixed_bfloat16"], "Dtype policy."
)
flags.DEFINE_enum("progress", "1", ["0", "1", "2"], "Nothing, a bar, or a line an epoch.")
flags.DEFINE_string("output_dir", "results", "Where the model and the results go.")


def one_hot():
    """Whether labels are vectors: where they are mixed or smoothed."""
    return FLAGS.label_smoothing > 0 or bool({"mix_up", "cut_mix"} & set(FLAGS.augmentation))


def build(data):
    """The network of the flags."""
    build = getattr(applications, FLAGS.model)
    options = {"neuron": FLAGS.neuron, "connect": FLAGS.connect, "small_images": FLAGS.small_images}
    options = {name: value for name, value in options.items() if value is not None}
    options |= json.loads(FLAGS.options)
    known = inspect.signature(build).parameters
    for name in options:
        if name not in known:
            raise app.UsageError(f"{FLAGS.model} has no option {name}.")
    if "small_images" in known:
        options.setdefault("small_images", max(data.input_shape[-3:-1]) <= 34)
    return build(
        input_shape=data.input_shape,
        classes=data.classes,
        classifier_activation=None,
        timesteps=FLAGS.timesteps,
        **options,
    )


def compile_(model, steps):
    """Optimizer, loss and metrics."""
    kind = "CategoricalCrossentropy" if one_hot() else "SparseCategoricalCrossentropy"
    smoothing = {"label_smoothing": FLAGS.label_smoothing} if one_hot() else {}
    model.compile(
        optimizers.optimizer(FLAGS.epochs, steps),
        getattr(keras.losses, kind)(from_logits=True, **smoothing),
        metrics=["accuracy"],
    )


def print_rates(rates):
    """Firing rates as a table with bars."""
    width = max(map(len, rates))
    print("\nFiring rate (spikes per neuron and step)")
    for name, rate in rates.items():
        print(f"  {name:{width}}  {rate:.3f}  {'#' * round(40 * min(rate, 1.0))}")


def main(argv):
    """Trains, evaluates, saves, reloads and compares."""
    output = common.output_dir()
    data = common.load_data(FLAGS.timesteps, FLAGS.train_timesteps, one_hot())
    keras.config.set_dtype_policy(FLAGS.dtype)
    model = build(data)
    compile_(model, FLAGS.steps_per_epoch or len(data.train))
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
        verbose=int(FLAGS.progress),
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

    path = output / f"{FLAGS.model}_{data.name.replace('/', '_')}.keras"
    model.save(path)
    reloaded = keras.saving.load_model(path)
    again = reloaded.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
    result = {
        "flags": common.configuration(argv[0]),
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
    common.run(main, "train")
