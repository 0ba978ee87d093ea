"""Trains a spiking network of keras_snn.applications with `model.fit`, and checks what it saved.

    python applications/train.py
    python applications/train.py --recipe=tdbn_resnet19_cifar10 --data_dir=DATA
    python applications/train.py --model=SEWResNet18 --dataset=cifar10 --epochs=100 --ema=0.999
    python applications/train.py --recipe=nmnist --data_dir=NMNIST --loss=tet
    python applications/train.py --recipe=shd_delays --data_dir=SHD
    python applications/train.py --recipe=sew_resnet_cifar10 --estimate
    python applications/train.py --recipe=cifar10_cpu --weights=cifar10 --epochs=3
    python applications/train.py --schedules='{"timesteps": [1, 2, 4], "alpha": [1, 2, 4]}'
    torchrun --nproc_per_node=4 applications/train.py --distribution=data

Recipes are in `recipes.py`; those of conversion and hybrid training run `convert.py`, `hybrid.py`.
The values of all flags are written to `config.json`, results to `results.json`. Start an
interrupted run again to resume it. KERAS_BACKEND=tensorflow, jax or torch selects the backend.
"""

import contextlib
import inspect
import math
import pathlib

import ann_start
import common
import estimate
import keras
import optimizers
from absl import app, flags

import keras_snn
from keras_snn import (
    analysis,
    applications,
    callbacks,
    distribution,
    graph,
    losses,
    metrics,
    training,
)
from keras_snn import layers as snn
from keras_snn.datasets.preparation import MIXING
from keras_snn.dynamics import CONNECTIONS

MODELS = [
    model.name
    for model in applications.list_models()
    if model.name not in applications.segmentation.__all__
]
LOSSES = {
    "temporal_mean": losses.TemporalMeanCrossentropy,
    "tet": losses.TemporalEfficientCrossentropy,
    "spike_count": losses.SpikeCountLoss,
    "max_membrane": losses.MaxMembraneCrossentropy,
    "first_spike": losses.FirstSpikeCrossentropy,
}

# What `--options` may not have: it has a flag, or follows from the data.
OWN = (
    *("timesteps", "neuron", "connect", "small_images", "input_shape", "input_tensor", "classes"),
    *("classifier_activation", "include_top", "pooling"),
)

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.adopt_module_key_flags(optimizers)
flags.adopt_module_key_flags(ann_start)
flags.DEFINE_enum("model", "SEWResNet8", MODELS, "Network.")
flags.DEFINE_integer("timesteps", 4, "Number of steps, T.", lower_bound=1)
flags.DEFINE_integer(
    "train_timesteps",
    None,
    "Frames of a recording drawn in training (default: all).",
    lower_bound=1,
)
flags.DEFINE_enum(
    "connect", None, list(CONNECTIONS), "How SEW-ResNets join branches and shortcuts."
)
flags.DEFINE_bool("small_images", None, "Stem for images up to 32x32 (default: by their size).")
flags.DEFINE_string("options", "{}", "More arguments of the network's function, as JSON.")
flags.DEFINE_string(
    "augmentation_options", "{}", "Arguments of --augmentation's variations, by name, as JSON."
)
flags.DEFINE_string(
    "weights", None, "What training starts from: a preset of the model, or a .keras file."
)
flags.DEFINE_integer("epochs", 15, "Number of epochs.", lower_bound=1)
flags.DEFINE_integer(
    "steps_per_epoch",
    None,
    "Batches in an epoch (default: all; if given, held-out data is seen at the end only).",
    lower_bound=1,
)
flags.DEFINE_float(
    "delay_learning_rate",
    None,
    "First learning rate of learned delays, in steps; it falls as a cosine. Their width shrinks in "
    "the first quarter of training, and they are rounded at the end.",
    lower_bound=0.0,
)
flags.DEFINE_enum(
    "loss", "crossentropy", ["crossentropy", *LOSSES], "Loss; all but the first see every step."
)
flags.DEFINE_float("label_smoothing", 0.0, "Label smoothing.", 0.0, 1.0)
flags.DEFINE_string("teacher", None, "A trained ANN whose logits are learned too, a .keras file.")
flags.DEFINE_float("distillation_weight", 0.5, "Weight of the teacher's logits.", 0.0, 1.0)
flags.DEFINE_float("temperature", 2.0, "Temperature of the distillation.", lower_bound=0.0)
flags.DEFINE_bool("joint", False, "Train together with the ANN of the same layout (Guo et al.).")
flags.DEFINE_string("schedules", "{}", "Values by epoch of timesteps, threshold, alpha, as JSON.")
flags.DEFINE_integer("patience", None, "Epochs without improvement to stop after.", lower_bound=1)
flags.DEFINE_string("tensorboard", None, "Folder of summaries for TensorBoard.")
flags.DEFINE_bool("watch", False, "Log firing rates, and warn of dead neurons, each epoch.")
flags.DEFINE_enum("distribution", "none", ["none", "data"], "Training on several devices.")
flags.DEFINE_enum(
    "dtype", "float32", ["float32", "mixed_float16", "mixed_bfloat16"], "Dtype policy."
)
flags.DEFINE_float(
    "validation_split",
    0.0,
    "Share of the training data that is held out to choose by; else the test data are shown.",
    *(0.0, 0.9),
)
flags.DEFINE_list(
    "validation_speakers",
    [],
    "In place of --validation_split, speakers whose training data are held out to choose by.",
)
flags.DEFINE_bool(
    "test_each_epoch",
    False,
    "Measure the test accuracy after each epoch too. Nothing is chosen by it; the best one, as "
    "papers report it, is written beside the result.",
)
flags.DEFINE_bool(
    "estimate", False, "Train for a minute, print what all would need, and stop; nothing is kept."
)
flags.DEFINE_float(
    "estimate_seconds",
    estimate.SECONDS,
    "How long --estimate trains, after a batch that compiles.",
    lower_bound=0.0,
)
flags.DEFINE_enum(
    "progress",
    "auto",
    ["auto", "0", "1", "2"],
    "Nothing, a bar, or a line an epoch (default: a bar on a terminal, else lines).",
)
flags.DEFINE_string("output_dir", "results", "Where the model and the results go.")


def one_hot():
    """Whether labels are vectors: where they are mixed or smoothed."""
    return FLAGS.label_smoothing > 0 or bool(set(MIXING) & set(FLAGS.augmentation))


def check_flags():
    """An error for flags that would have no effect."""
    common.check_needs(optimizers.NEEDS)
    known = inspect.signature(getattr(applications, FLAGS.model)).parameters
    missing = {"connect", "small_images"} - set(known)
    common.refuse(missing, f"{FLAGS.model} has no such option")
    ann_start.check_flags()
    if not FLAGS.estimate:
        common.refuse(["estimate_seconds"], "it needs --estimate")
    if FLAGS.joint:
        common.refuse(["teacher", "loss", "label_smoothing"], "--joint has a loss of its own")
    if FLAGS.loss == "spike_count":
        common.refuse(["label_smoothing"], "--loss=spike_count has rates instead")
    if FLAGS.teacher:
        common.refuse(["loss"], "--teacher has a loss of its own")
    else:
        common.refuse(["distillation_weight", "temperature"], "it needs --teacher")
    if FLAGS.ann_epochs:
        common.refuse(["joint", "distribution", "steps_per_epoch"], "not with --ann_epochs")
    held_out = FLAGS.validation_split or FLAGS.validation_speakers
    if not held_out and not FLAGS.steps_per_epoch:
        common.refuse(["patience"], "it needs --validation_split: test data choose nothing")
    if not held_out:
        common.refuse(["test_each_epoch"], "without --validation_split test data are shown anyway")
    if FLAGS.delay_learning_rate is not None:
        others = ["joint", "teacher", "ann_epochs", "distribution"]
        common.refuse(others, "not with --delay_learning_rate")


def network_arguments(data):
    """The arguments of the network of the flags."""
    build = getattr(applications, FLAGS.model)
    options = {"connect": FLAGS.connect, "small_images": FLAGS.small_images}
    options = {name: value for name, value in options.items() if value is not None}
    if FLAGS.neuron is not None:
        options["neuron"] = ann_start.neuron()
    given = common.json_flag("options")
    if taken := set(given) & {*OWN, *options}:
        raise app.UsageError(f"--options: {', '.join(sorted(taken))} is set by a flag or the data.")
    known = inspect.signature(build).parameters
    for name in options | given:
        if name not in known:
            raise app.UsageError(f"{FLAGS.model} has no option {name}.")
    options |= given
    if "small_images" in known:
        options.setdefault("small_images", max(data.input_shape[-3:-1]) <= 34)
    shapes = {"input_shape": data.input_shape, "classes": data.classes}
    return options | shapes | {"timesteps": FLAGS.timesteps}


def build(data, **changes):
    """The network of the flags, with logits."""
    arguments = network_arguments(data) | {"classifier_activation": None} | changes
    model = getattr(applications, FLAGS.model)(**arguments)
    if FLAGS.weights:  # what doesn't fit, such as other classes, is trained anew
        applications.load_keras_weights(model, trained_before(), skip_mismatch=True)
    return model


def trained_before():
    """The network of `--weights`."""
    presets = {preset.name: preset for preset in applications.list_presets(FLAGS.model)}
    if FLAGS.weights in presets:
        return getattr(applications, FLAGS.model)(weights=FLAGS.weights)
    if not pathlib.Path(FLAGS.weights).expanduser().is_file():
        raise app.UsageError(
            f"--weights={FLAGS.weights} is neither a file nor a preset of {FLAGS.model}: "
            f"{', '.join(presets) or 'it has none'}."
        )
    return common.load_keras(FLAGS.weights)


def compiled(model, steps, loss=None, metric="accuracy", optimizer=None):
    """A model with optimizer, loss and metrics."""
    if loss is None:
        smoothing = {"label_smoothing": FLAGS.label_smoothing} if one_hot() else {}
        kind = "CategoricalCrossentropy" if one_hot() else "SparseCategoricalCrossentropy"
        loss = getattr(keras.losses, kind)(from_logits=True, **smoothing)
    optimizer = optimizer or optimizers.optimizer(FLAGS.epochs, steps)
    if FLAGS.delay_learning_rate is not None:
        optimizer = with_delays(optimizer, steps)
    model.compile(optimizer, loss, metrics=[metric])
    return model


def with_delays(optimizer, steps):
    """An optimizer with another one for learned delays, which do not decay."""
    rate = keras.optimizers.schedules.CosineDecay(FLAGS.delay_learning_rate, FLAGS.epochs * steps)
    names = ("clipnorm", "gradient_accumulation_steps", "use_ema", "ema_momentum")
    of_delays = keras.optimizers.Adam(rate, **{name: getattr(optimizer, name) for name in names})
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(optimizer, {".*/delays": of_delays})
    )


def delayed_layers(model):
    """The layers of a network whose delays are learned by `--delay_learning_rate`."""
    if FLAGS.delay_learning_rate is None:
        return []
    found = [x for x in graph.flatten_layers(model) if isinstance(x, callbacks.DELAYED)]
    if not found:
        raise app.UsageError(f"--delay_learning_rate has no effect here: {model.name} has none.")
    return found


@contextlib.contextmanager
def rounded(model):
    """Has whole delays within this block, if they are learned."""
    weights = [weight for x in delayed_layers(model) for weight in (x.delays, x.sigma)]
    values = [keras.ops.convert_to_numpy(weight) for weight in weights]
    if weights:
        snn.round_delays(model)
    yield
    for weight, value in zip(weights, values):
        weight.assign(value)


class TestEachEpoch(keras.callbacks.Callback):
    """Logs the accuracy on test data after each epoch, with whole delays."""

    def __init__(self, data, network):
        super().__init__()
        self.data, self.network = data, network

    def on_epoch_end(self, epoch, logs=None):
        with rounded(self.network):
            found = self.model.evaluate(self.data, verbose=0, return_dict=True)
        logs |= {f"test_{name}": value for name, value in found.items()}


def build_trainer(data, steps):
    """Returns the network, the model to fit, and a function that extracts the network."""
    model = compiled(build(data), steps)
    if FLAGS.joint:
        ann = build(data, timesteps=None, neuron=keras.layers.ReLU)
        both = training.joint_model(ann, model)
        compiled(both, steps, training.JointCrossentropy(), training.snn_accuracy)
        return model, both, lambda: compiled(training.to_spiking(both), steps)
    if FLAGS.teacher:
        return model, distilled(model, steps), lambda: model
    if FLAGS.loss != "crossentropy":
        smoothing = {"label_smoothing": FLAGS.label_smoothing} if FLAGS.label_smoothing else {}
        loss, accuracy = LOSSES[FLAGS.loss](**smoothing), metrics.TemporalMeanAccuracy("accuracy")
        return model, compiled(training.every_step(model), steps, loss, accuracy), lambda: model
    return model, model, lambda: model


def shown(data):
    """The batches that training is watched on: those to choose by, if there are any."""
    return data.test if data.validation is None else data.validation


def distilled(model, steps):
    """The network with a teacher."""
    teacher = common.load_keras(FLAGS.teacher)
    distiller = keras.distillation.Distiller(
        teacher,
        model,
        # By its name, the default, Keras 3.15 takes the divergence of the logits themselves.
        keras.distillation.LogitsDistillation(FLAGS.temperature, keras.losses.KLDivergence()),
        FLAGS.distillation_weight,
        student_loss_weight=1 - FLAGS.distillation_weight,
    )
    distiller.build(model.input_shape)
    return compiled(distiller, steps)


def watchers(output, data, process, network):
    """The callbacks of the flags, the last one a `Resume`; they watch the rates of `network`."""
    watching, others = [keras.callbacks.TerminateOnNaN()], []
    schedules = common.json_flag("schedules")
    if delayed := delayed_layers(network):
        longest = max(layer.max_delay for layer in delayed)
        schedules.setdefault("sigma", snn.shrinking_width(longest, FLAGS.epochs))
    watching += [callbacks.Schedule(*item) for item in schedules.items()]
    if FLAGS.ema is not None:
        watching.append(keras.callbacks.SwapEMAWeights())
    if FLAGS.watch or FLAGS.tensorboard:
        examples = common.collect(data.test, 32)[0]
        watching += [callbacks.FiringRates(examples, log_dir=FLAGS.tensorboard, network=network)]
        watching += [callbacks.DeadNeurons(examples, network=network)]
    if FLAGS.tensorboard:
        watching.append(keras.callbacks.TensorBoard(FLAGS.tensorboard))
    if FLAGS.patience:
        monitor = "loss" if FLAGS.steps_per_epoch else "val_loss"
        # An epoch with wide delays would lose what they learned when they are rounded.
        stop = keras.callbacks.EarlyStopping(
            monitor,
            patience=FLAGS.patience,
            restore_best_weights=True,
            start_from_epoch=math.ceil(FLAGS.epochs / 4) if delayed else 0,
        )
        watching.append(stop)
        others.append(stop)
    if FLAGS.test_each_epoch:
        watching.append(TestEachEpoch(data.test, network))
    path = output / f"resume{process or ''}.npz"
    resume = callbacks.Resume(path, data, common.run_flags(), others, keep=True)
    return [*watching, resume]


@contextlib.contextmanager
def devices():
    """Trains on all devices within this block, or on this one."""
    if FLAGS.distribution == "none":
        yield distribution.Distribution()
    else:
        with distribution.data_parallel() as group:
            yield group


def print_rates(rates):
    """Firing rates as a table with bars."""
    width = max(map(len, rates))
    print("\nFiring rate (spikes per neuron and step)")
    for name, rate in rates.items():
        print(f"  {name:{width}}  {rate:.3f}  {'#' * round(40 * min(rate, 1.0))}")
    silent = [name for name, rate in rates.items() if rate == 0]
    if silent:
        print(f"Never fired: {', '.join(silent)}. {callbacks.SILENCE_REMEDY}")


def train(data, output, devices):
    """Returns the trained network, and the callback with the history of its training."""
    steps = FLAGS.steps_per_epoch or len(data.train)
    model, trained, extract = build_trainer(data, steps)
    if devices.is_chief:
        print(
            f"{FLAGS.model} on {data.name} {data.input_shape}, {data.classes} classes, "
            f"T = {FLAGS.timesteps}, {model.count_params():,} parameters, "
            f"{keras.backend.backend()} backend, {devices.replicas} device(s), "
            f"keras_snn {keras_snn.__version__}"
        )
    ann = None
    if FLAGS.ann_epochs:
        ann = ann_start.train_ann(
            ann_start.build_ann(build, data, compiled, steps),
            model,
            data,
            output,
            validation_data=shown(data),
            verbose=common.verbosity(),
        )
    examples = devices.shard(data.train)
    if FLAGS.steps_per_epoch and hasattr(examples, "repeat"):
        examples = examples.repeat()
    watch = watchers(output, data, devices.process, trained if FLAGS.joint else model)
    accepted = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: devices.is_chief and common.write_config(output)
    )
    devices.prepare(trained).fit(
        examples,
        epochs=FLAGS.epochs,
        steps_per_epoch=FLAGS.steps_per_epoch,
        validation_data=None if FLAGS.steps_per_epoch else devices.shard(shown(data)),
        shuffle=False,
        verbose=common.verbosity() if devices.is_chief else 0,
        callbacks=[*watch, accepted],
    )
    losses_so_far = watch[-1].history["loss"]
    if not math.isfinite(losses_so_far[-1]):
        watch[-1].remove()
        raise ValueError(
            f"The loss is no number after {len(losses_so_far)} epochs: try a lower "
            "--learning_rate, or --clip_norm."
        )
    return extract(), watch[-1], ann


def load():
    """The data of the flags."""
    return common.load_data(
        FLAGS.timesteps,
        FLAGS.train_timesteps,
        one_hot(),
        validation_split=FLAGS.validation_split,
        validation_speakers=FLAGS.validation_speakers,
        augmentation_options=common.json_flag("augmentation_options"),
    )


def load_or_stand_in():
    """The data of the flags, or noise in their place where they are not at hand."""
    try:
        return load()
    except (OSError, ImportError) as error:
        if FLAGS.dataset not in estimate.SETS:
            raise
        print(f"Noise is timed in place of {FLAGS.dataset}, whose reading comes on top: {error}")
    return estimate.stand_in(
        FLAGS.dataset,
        FLAGS.batch_size,
        FLAGS.image_size,
        FLAGS.timesteps,
        FLAGS.train_timesteps,
        one_hot(),
        FLAGS.validation_split or len(FLAGS.validation_speakers) / 10,  # SHD trains with ten
    )


def estimated(devices):
    """A minute of each training of the flags."""
    data = load_or_stand_in()
    batch_size = estimate.fitting_batch(build(data), FLAGS.batch_size, FLAGS.timesteps)
    if batch_size < FLAGS.batch_size:
        print(f"Batches of {batch_size} are timed: those of {FLAGS.batch_size} need more memory.")
        FLAGS.batch_size = batch_size
        data = load_or_stand_in()
    steps = FLAGS.steps_per_epoch or len(data.train)
    parts, train, held_out = [], devices.shard(data.train), devices.shard(shown(data))
    if FLAGS.ann_epochs:
        parts.append(("ANN", ann_start.build_ann(build, data, compiled, steps), FLAGS.ann_epochs))
    parts.append((FLAGS.model, devices.prepare(build_trainer(data, steps)[1]), FLAGS.epochs))
    held_out = None if FLAGS.steps_per_epoch else held_out
    return [
        estimate.measure(name, model, train, held_out, epochs, steps, FLAGS.estimate_seconds)
        for name, model, epochs in parts
    ]


def main(argv):
    """Trains, evaluates, saves, reloads and compares."""
    check_flags()
    output = common.output_dir(write=False)
    keras.config.set_dtype_policy(FLAGS.dtype)
    with devices() as group:
        if FLAGS.estimate:
            print(estimate.report(estimated(group), output))
            return
        data = load()
        model, resume, ann = train(data, output, group)
    if group.is_chief:
        result = {"fit_seconds": resume.seconds, "history": history(resume)}
        result["starts"] = resume.starts
        if ann:
            result |= {"ann_seconds": ann.seconds, "ann_history": history(ann)}
        report(model, data, output, result, argv)
    for part in filter(None, (resume, ann)):
        part.remove()  # the results are saved in other files


def history(resume):
    """What was logged each epoch, and the seconds of training until its end."""
    return resume.history | {"seconds": resume.times}


def chosen_by():
    """What the weights are chosen by; never by the test data."""
    if not FLAGS.patience:
        return "nothing, they are those of the last epoch"
    if FLAGS.steps_per_epoch:
        return "the training loss"
    if FLAGS.validation_speakers:
        speakers = ", ".join(FLAGS.validation_speakers)
        return f"the loss on the training data of speakers held out: {speakers}"
    return f"the loss on {FLAGS.validation_split:.1%} of the training data, held out"


def best_on_test(accuracies):
    """What papers report that choose an epoch by the test data; never the result of a run."""
    best = max(accuracies)
    epoch = accuracies.index(best) + 1
    print(f"\nChosen by the test data: {best:.4f}, after epoch {epoch}; the saved weights are not.")
    return {"accuracy": best, "epoch": epoch, "chosen_by": "the test data"}


def report(model, data, output, result, argv):
    """Evaluates and saves a trained network, prints and saves the results."""
    if delayed_layers(model):
        before = model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
        snn.round_delays(model)
        result["test_accuracy_before_rounding"] = before
        print(f"\nTest accuracy before delays are rounded {before:.4f}")
    if FLAGS.test_each_epoch:
        result["best_epoch_on_test"] = best_on_test(result["history"]["test_accuracy"])
    path = output / f"{FLAGS.model}_{data.name.replace('/', '_')}.keras"
    common.save(model, path)
    accuracy = model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
    rates = analysis.firing_rates(model, data.test, steps=min(8, len(data.test)))
    print_rates(rates)
    again = keras.saving.load_model(path).evaluate(data.test, verbose=0, return_dict=True)
    result = {
        "flags": common.configuration(argv[0]),
        "backend": keras.backend.backend(),
        "parameters": model.count_params(),
        "test_examples": sum(len(labels) for _, labels in common.in_order(data.test)),
        "chosen_by": chosen_by(),
        "test_accuracy": accuracy,
        "reloaded_test_accuracy": again["accuracy"],
        "firing_rates": rates,
    } | result
    common.write_json(output / "results.json", result)
    print(f"\nTest accuracy {accuracy:.4f} after {result['fit_seconds']:.0f} s of training")
    print(f"Saved {path}; reloaded, it has test accuracy {again['accuracy']:.4f}")
    if not math.isclose(accuracy, again["accuracy"], abs_tol=1e-6):
        raise RuntimeError(f"The reloaded model's accuracy {again} differs from {accuracy}.")


if __name__ == "__main__":
    common.run(main, "train")
