"""Hybrid training: an ANN is converted, and a few epochs of STDB make it work in few time steps.

    python applications/hybrid.py
    python applications/hybrid.py --dataset=fashion_mnist --width=0.25 --finetune_epochs=2

Compares, at every number of steps up to T, conversion alone (IF neurons) with the network before
and after fine-tuning (neurons of Rathi et al., 2020, whose layers delay by one step each). The ANN
is that of `convert.py`, whose flags this program shares: those of the optimizer are of the ANN's
training only. Fine-tuning is that of the authors' code: Adam with AMSGrad, the learning rate a
tenth after 60, 80 and 90 % of the epochs.
"""

import common
import convert
import keras
import optimizers
from absl import app, flags

from keras_snn import callbacks, conversion
from keras_snn import layers as snn
from keras_snn.optimizers import Adam

FLAGS = flags.FLAGS
flags.DEFINE_integer("finetune_epochs", 5, "Epochs of fine-tuning (the paper: 20).", lower_bound=1)
flags.DEFINE_integer("finetune_steps", None, "Batches in such an epoch (default: all).", 1)
flags.DEFINE_float("finetune_learning_rate", 1e-4, "First learning rate of Adam.", lower_bound=0.0)
flags.DEFINE_float("finetune_weight_decay", 5e-4, "L2 penalty on the weights.", lower_bound=0.0)
flags.DEFINE_float("threshold_scale", 0.7, "Factor on the thresholds before fine-tuning.")
flags.DEFINE_float(
    "dropout",
    0.3,
    "Dropout behind convolutions while fine-tuning, one mask for all steps; dense ones stay.",
    *(0.0, 1.0),
)
flags.DEFINE_enum("slope", "linear", ["time", "linear"], "Surrogate gradient, see `STDBLIF`.")
flags.DEFINE_float("alpha", 0.3, "Its height.")
flags.DEFINE_float("beta", 0.01, "Its decay in a step since the last spike, of slope=time.")
flags.DEFINE_bool("learn", False, "Whether leaks and thresholds are learned too (DIET-SNN).")
flags.adopt_module_key_flags(convert)
FLAGS.set_default("timesteps", 16)
FLAGS.set_default("input_coding", "poisson")
FLAGS.set_default("max_pooling", "refuse")
FLAGS.set_default("output_dir", "results/hybrid")

NEEDS = convert.NEEDS | {"beta": ("slope", ["time"])}


def convolutional_dropouts(model):
    """The layers of dropout behind convolutions, of an ANN or over time."""
    return [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Dropout)
        and layer.rate
        and len(layer.input.shape) > (3 if isinstance(layer, snn.TimeConstantDropout) else 2)
    ]


def fine_tune(model, data, resume):
    """A few epochs of STDB; an interrupted run goes on."""
    for layer in convolutional_dropouts(model):
        layer.rate = FLAGS.dropout
    steps = FLAGS.finetune_steps or len(data.train)
    falls = [int(share * FLAGS.finetune_epochs) * steps for share in (0.6, 0.8, 0.9)]
    model.compile(
        Adam(
            optimizers.in_steps(FLAGS.finetune_learning_rate, falls),
            weight_decay=FLAGS.finetune_weight_decay,
            amsgrad=True,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    train = data.train
    if FLAGS.finetune_steps and hasattr(train, "repeat"):
        train = train.repeat()
    model.fit(
        train,
        epochs=FLAGS.finetune_epochs,
        steps_per_epoch=FLAGS.finetune_steps,
        shuffle=False,
        callbacks=[keras.callbacks.TerminateOnNaN(), resume],
        verbose=2,
    )


def main(argv):
    """Converts, fine-tunes, compares, saves."""
    convert.check_flags(NEEDS)
    if len(FLAGS.method) != 1:
        raise app.UsageError(f"--method: hybrid training takes one, got {FLAGS.method}.")
    output = common.output_dir()
    data, coded = convert.load_data()
    ann = convert.obtain_ann(data)
    if not convolutional_dropouts(ann):
        common.refuse(["dropout"], f"{ann.name} has no dropout behind convolutions")
    arguments = convert.options(ann) | {"method": FLAGS.method[0], "check_examples": 0}
    calibration = common.collect(coded.train, FLAGS.calibration_examples)
    right, examples = convert.accuracy(ann, data)
    results = {"ann": right, "examples": examples}

    def evaluate(name, network):
        print(f"{name}:")
        results[name] = convert.over_time(network, coded)

    plain, _ = conversion.convert(ann, calibration, **arguments)
    evaluate(f"conversion alone ({FLAGS.method[0]})", plain)
    neuron = snn.STDBLIF(
        slope=FLAGS.slope,
        alpha=FLAGS.alpha,
        beta=FLAGS.beta,
        trainable_threshold=FLAGS.learn,
        trainable_decay=FLAGS.learn,
    )
    model, report = conversion.convert(
        ann,
        calibration,
        neuron=neuron,
        threshold_scale=FLAGS.threshold_scale,
        readout="accumulator",
        **arguments,
    )
    print(report)
    evaluate("before fine-tuning", model)
    resume = callbacks.Resume(output / "resume_finetune.npz", coded, keep=True)
    fine_tune(model, coded, resume)
    path = output / f"{ann.name}_hybrid.keras"
    common.save(model, path)
    resume.remove()
    evaluate("hybrid", model)
    results["history"] = resume.history
    common.write_json(output / "hybrid.json", results)
    print(f"Saved {path}")


if __name__ == "__main__":
    common.run(main, "hybrid")
