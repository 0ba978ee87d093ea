"""The neuron of a program's network, and the ANN that may be trained before it.

Programs that adopt these flags build their network by a function `build(data, **changes)`, which
takes `timesteps` and `neuron` as changes.
"""

import common
import keras
import optimizers
from absl import app, flags

from keras_snn import applications, callbacks
from keras_snn import layers as snn
from keras_snn.layers import list_neurons

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "neuron", None, list_neurons(), "Neuron (default: the model's).", case_sensitive=False
)
flags.DEFINE_string("neuron_options", "{}", "Arguments of this neuron, as JSON.")
flags.DEFINE_integer(
    "ann_epochs",
    None,
    "Epochs before these as an ANN whose activations have T levels; the network starts from it.",
    lower_bound=1,
)
flags.DEFINE_float("ann_learning_rate", None, "First learning rate of this ANN.", lower_bound=0.0)


def check_flags():
    """An error for flags that would have no effect."""
    if FLAGS.neuron is None:
        common.refuse(["neuron_options"], "it needs --neuron")
    if not FLAGS.ann_epochs:
        common.refuse(["ann_learning_rate"], "it needs --ann_epochs")


def neuron():
    """The neuron of the flags, as networks take it."""
    options = common.json_flag("neuron_options")
    try:
        layer = getattr(snn, FLAGS.neuron)(**options)
    except (TypeError, ValueError) as error:
        raise app.UsageError(f"--neuron_options={options}: {error}") from error
    return keras.saving.serialize_keras_object(layer)


def build_ann(build, data, compiled, steps):
    """The ANN of the network's layout, to train before the network.

    Its activations have as many levels as the network has steps, up to a fixed maximum of 1, the
    threshold: the normalisation in front learns the scale.

    Args:
        build: Makes the network.
        data: The data.
        compiled: `compiled(model, steps, optimizer=...)` compiles it.
        steps: Batches in an epoch.
    """
    if len(data.input_shape) != 3:
        raise app.UsageError(f"--ann_epochs is for images, not for {data.name}, which has time.")
    rate = FLAGS.ann_learning_rate or FLAGS.learning_rate
    ann = build(
        data,
        timesteps=None,
        neuron=lambda: snn.ClipFloorShift(FLAGS.timesteps, 1.0, trainable=False),
    )
    return compiled(ann, steps, optimizer=optimizers.optimizer(FLAGS.ann_epochs, steps, rate))


def train_ann(ann, model, data, output, **fit):
    """Trains this ANN, and gives its weights to the network.

    Args:
        ann: The ANN.
        model: The network.
        data: The data.
        output: The folder of results.
        **fit: More arguments of `ann.fit`.

    Returns:
        The `Resume` of its training.
    """
    resume = callbacks.Resume(output / "resume_ann.npz", data, common.run_flags(), keep=True)
    ann.fit(
        data.train,
        epochs=FLAGS.ann_epochs,
        shuffle=False,
        callbacks=[keras.callbacks.TerminateOnNaN(), resume],
        **fit,
    )
    applications.load_keras_weights(model, ann, skip_mismatch=True)  # the fixed maxima
    return resume
