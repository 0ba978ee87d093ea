"""Trains a network that gives each pixel a class, and draws what it answers.

    python applications/canvases.py --output=canvases.npz
    python applications/segment.py --recipe=canvases --dataset=canvases.npz
    python applications/segment.py --recipe=oxford_pets --data_dir=DATA
    python applications/segment.py --recipe=canvases --dataset=canvases.npz --relu \\
        --epochs=16 --learning_rate=4e-3

Data are images with masks, see `masks` of `keras_snn.datasets.load`; the recipe `canvases` is for
the synthetic set of `canvases.py`. Printed and written to `segmentation.json` is the mean
intersection over union of the classes (Keras's `MeanIoU`), void pixels left out. `--relu` trains
the same network with ReLUs, without time, instead. `--ann_epochs` trains it first as an ANN with as
many levels as steps; `IF` neurons with soft reset that begin at half a threshold then compute the
same. An interrupted run goes on.
"""

import functools
import importlib.util
import time

import ann_start
import common
import keras
import numpy as np
import optimizers
from absl import flags

from keras_snn import analysis, applications, callbacks, losses
from keras_snn.datasets.images import VOID
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.adopt_module_key_flags(optimizers)
flags.adopt_module_key_flags(ann_start)
flags.DEFINE_enum("model", "SpikingFCN", ["SpikingFCN", "SpikingDeepLab"], "Network.")
flags.DEFINE_string("backbone", None, "Another network to take the features of (default: VGG-9).")
flags.DEFINE_string("norm", None, "Normalisation (default: bntt; bn with --relu).")
flags.DEFINE_float("width", 1.0, "Factor on the numbers of channels (paper: 1).", lower_bound=0.0)
flags.DEFINE_integer("timesteps", 20, "Number of steps of images, T.", lower_bound=1)
flags.DEFINE_enum(
    "input_coding", "direct", ["direct", "poisson"], "Coding of images (paper: poisson)."
)
flags.DEFINE_bool("relu", False, "Train the network with ReLUs and without time.")
flags.DEFINE_integer("epochs", 60, "Number of epochs.", lower_bound=1)
flags.DEFINE_integer("pictures", 4, "Examples to draw.", lower_bound=0)
flags.DEFINE_string("output_dir", "results/segment", "Where the model and the results go.")


def build(data, **changes):
    """The network of the flags, with logits."""
    arguments = {
        "input_shape": data.input_shape,
        "classes": data.classes,
        "classifier_activation": None,
        "width": FLAGS.width,
        "input_coding": FLAGS.input_coding,
        "timesteps": FLAGS.timesteps,
    }
    arguments |= {n: FLAGS[n].value for n in ("norm", "backbone") if FLAGS[n].value}
    if FLAGS.neuron:
        arguments["neuron"] = ann_start.neuron()
    if FLAGS.relu:
        changes = {"timesteps": None, "neuron": keras.layers.ReLU}
    if changes:  # without time
        arguments.setdefault("norm", "bn")
    return getattr(applications, FLAGS.model)(**arguments | changes)


def compiled(model, steps, data, optimizer=None):
    """A model with optimizer, loss and metric."""
    model.compile(
        optimizer or optimizers.optimizer(FLAGS.epochs, steps),
        losses.PixelCrossentropy(VOID),
        metrics=[mean_iou(data)],
    )
    return model


def intersections(model, data):
    """The intersection over union of each class in the test data, and their mean."""
    metric = mean_iou(data)
    for images, masks in common.in_order(data.test):
        metric.update_state(masks, model.predict_on_batch(images))
    counts = keras.ops.convert_to_numpy(metric.total_cm)
    right, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    each = [float(a / b) if b else None for a, b in zip(right, union)]
    return {"mean_iou": float(metric.result()), "iou": each}


def mean_iou(data):
    """The metric."""
    return keras.metrics.MeanIoU(
        data.classes, ignore_class=VOID, sparse_y_pred=False, name="mean_iou"
    )


def draw(model, data, path):
    """A picture of the first test images."""
    import matplotlib

    matplotlib.use("Agg")
    images, masks = common.collect(data.test, FLAGS.pictures)
    answers = model.predict(images, verbose=0)
    recording = None if FLAGS.relu else analysis.record(model, images)
    if keras.config.image_data_format() == "channels_first":
        images = np.moveaxis(images, -3, -1)
    axes = analysis.plot_segmentation(images, masks, answers, recording, data.classes)
    with files.replacing(path) as (part,):
        axes[0, 0].figure.savefig(part, dpi=100)


def main(argv):
    """Trains, evaluates, saves, draws."""
    common.check_needs(optimizers.NEEDS)
    ann_start.check_flags()
    if FLAGS.relu:
        common.refuse(["timesteps", "input_coding", "neuron", "ann_epochs"], "--relu has no time")
    data = common.load_data(masks=True)
    if len(data.input_shape) == 4:
        common.refuse(["timesteps", "input_coding"], f"{data.name} has clips")
        common.refuse(["relu"], f"{data.name} has clips, whose time an ANN does not take")
    steps = len(data.train)
    model = compiled(build(data), steps, data)
    output = common.output_dir()
    print(
        f"{model.name} on {data.name} {data.input_shape}, {data.classes} classes, "
        f"{model.count_params():,} parameters, {keras.backend.backend()} backend"
    )
    ann = None
    if FLAGS.ann_epochs and not FLAGS.relu:  # a recipe may have them
        first = ann_start.build_ann(build, data, functools.partial(compiled, data=data), steps)
        ann = ann_start.train_ann(first, model, data, output, verbose=2)
    resume = callbacks.Resume(output / "resume.npz", data, common.run_flags(), keep=True)
    model.fit(
        data.train,
        epochs=FLAGS.epochs,
        shuffle=False,
        verbose=2,
        callbacks=[keras.callbacks.TerminateOnNaN(), resume],
    )
    results = intersections(model, data)
    print(f"Mean IoU of the test data: {results['mean_iou']:.4f}, of each class {results['iou']}")
    name = f"{FLAGS.model}_{data.name}{'_relu' if FLAGS.relu else ''}"
    common.save(model, output / f"{name}.keras")
    common.write_json(
        output / "segmentation.json",
        {
            "model": FLAGS.model,
            "backend": keras.backend.backend(),
            "parameters": model.count_params(),
            **common.run_flags(),
            **results,
            "fit_seconds": resume.seconds,
            "cpu_seconds": time.process_time(),  # of this start, of all cores together
            "history": resume.history,
            **({"ann_seconds": ann.seconds, "ann_history": ann.history} if ann else {}),
        },
    )
    if FLAGS.pictures and importlib.util.find_spec("matplotlib"):
        draw(model, data, output / f"{name}.png")
    for kept in filter(None, (resume, ann)):
        kept.remove()
    print(f"Results are in {output}")


if __name__ == "__main__":
    common.run(main, "segment")
