"""Hybrid training: an ANN is converted, and a few epochs of STDB make it work in few time steps.

    python applications/hybrid.py
    python applications/hybrid.py --dataset=fashion_mnist --width=0.25 --finetune_epochs=2

Compares, at every number of steps up to T, conversion alone (IF neurons) with the network before
and after fine-tuning (neurons of Rathi et al., 2020, whose layers delay by one step each). The ANN
is that of `convert.py`, whose flags this program shares.
"""

import json
import pathlib

import common
import convert
import keras
import numpy as np
import optimizers
from absl import flags

from keras_snn import callbacks, conversion
from keras_snn import layers as snn

FLAGS = flags.FLAGS
flags.DEFINE_integer("finetune_epochs", 5, "Epochs of fine-tuning.", lower_bound=1)
flags.DEFINE_integer("finetune_steps", None, "Batches in such an epoch (default: all).")
flags.DEFINE_float("finetune_learning_rate", 1e-4, "First learning rate of Adam.")
flags.DEFINE_float("threshold_scale", 0.7, "Factor on the thresholds before fine-tuning.")
flags.DEFINE_float("dropout", 0.0, "Dropout while fine-tuning, one mask for all steps.")
flags.DEFINE_enum("slope", "linear", ["time", "linear"], "Surrogate gradient, see `STDBLIF`.")
flags.DEFINE_float("alpha", 0.3, "Its height.")
flags.DEFINE_float("beta", 0.01, "Its decay in a step since the last spike.")
flags.DEFINE_bool("learn", False, "Whether leaks and thresholds are learned too.")
flags.adopt_module_key_flags(convert)
FLAGS.set_default("timesteps", 16)
FLAGS.set_default("output_dir", "results/hybrid")


def fine_tune(model, data):
    """A few epochs of STDB; an interrupted run goes on."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = FLAGS.dropout
    steps = FLAGS.finetune_steps or len(data.train)
    model.compile(
        keras.optimizers.Adam(
            optimizers.in_steps(FLAGS.finetune_learning_rate, FLAGS.finetune_epochs * steps),
            weight_decay=5e-4,
            amsgrad=True,
            clipnorm=1.0,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    train = data.train
    if FLAGS.finetune_steps and hasattr(train, "repeat"):
        train = train.repeat()
    resume = callbacks.Resume(pathlib.Path(FLAGS.output_dir) / "resume_finetune.npz", data)
    return model.fit(
        train,
        epochs=FLAGS.finetune_epochs,
        steps_per_epoch=FLAGS.finetune_steps,
        shuffle=False,
        callbacks=[resume, keras.callbacks.TerminateOnNaN()],
        verbose=2,
    )


def main(argv):
    """Converts, fine-tunes, compares, saves."""
    output = common.output_dir()
    data = common.load_data()
    ann = convert.obtain_ann(data)
    calibration = common.collect(data.train, FLAGS.calibration_examples)
    images, labels = common.collect(data.test, FLAGS.test_examples)
    right = np.argmax(ann.predict(images, verbose=0), -1) == labels
    results = {"ann": float(right.mean()), "examples": len(images)}
    print(f"ANN: {100 * results['ann']:.2f} % of {len(images)} test images")

    def evaluate(name, model):
        found = conversion.accuracy_over_time(
            model, (images, labels), batch_size=FLAGS.batch_size, verbose=1
        )
        print(f"{name}: {found}")
        results[name] = found.to_dict()

    shared = {"timesteps": FLAGS.timesteps, "max_pooling": "refuse", "check_examples": 0}
    method = FLAGS.method[0]
    plain, _ = conversion.convert(ann, calibration, method, **shared)
    evaluate(f"conversion alone ({method})", plain)
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
        method,
        neuron=neuron,
        threshold_scale=FLAGS.threshold_scale,
        readout="accumulator",
        **shared,
    )
    print(report)
    evaluate("before fine-tuning", model)
    history = fine_tune(model, data)
    evaluate("hybrid", model)
    results["history"] = history.history
    path = output / f"{ann.name}_hybrid.keras"
    model.save(path)
    (output / "hybrid.json").write_text(json.dumps(results, indent=1))
    print(f"Saved {path}")


if __name__ == "__main__":
    common.run(main, "hybrid")
