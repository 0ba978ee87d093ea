"""Progressive tandem learning as its authors' code does it, and our variant, on a small AlexNet.

    KERAS_BACKEND=torch python benchmarks/tandem.py --dataset=fashion_mnist --data_dir=DATA

Trains the ANN once, on `--train_examples` of the training images; a tenth of them chooses when the
next layer fires, and which weights stay. Then trains it on in each way, `--timesteps` steps each.
Beside it: the ANN converted without training, thresholds by the same percentile. The network is the
authors' (convolutions with strides 1, 2, 2, 1, 2 of 96, 256, 384, 384, 256 channels, 2,048 units,
batch normalisation) with `--width` times the channels and without dropout, which theirs leaves on
in evaluation. Test images are used once, at the end of each run. Runs that are in the JSON file
are not repeated; it is written after each.
"""

import time

import keras
import numpy as np
from absl import app, flags
from common import Runs, spread, table

from keras_snn import conversion, datasets, training

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "fashion_mnist", ["fashion_mnist", "cifar10"], "Images.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets has them.")
flags.DEFINE_integer("image_size", None, "Height and width of images (default: as they are).", 8)
flags.DEFINE_float("width", 0.125, "Factor on the numbers of channels (authors: 1).", 0.0)
flags.DEFINE_integer("train_examples", 10_000, "Training images.", lower_bound=100)
flags.DEFINE_integer("test_examples", 10_000, "Test images at most.", lower_bound=1)
flags.DEFINE_integer("ann_epochs", 10, "Epochs of the ANN (authors: 100).", lower_bound=1)
flags.DEFINE_integer("epochs", 40, "Most epochs afterwards (authors: 150).", lower_bound=1)
flags.DEFINE_integer("patience", 2, "Epochs without improvement (authors: 6).", lower_bound=1)
flags.DEFINE_integer("timesteps", 16, "Number of steps, T.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Images in a batch (authors: 512).", lower_bound=1)
flags.DEFINE_float("learning_rate", 1e-3, "Of Adam, as the authors'.", lower_bound=0.0)
flags.DEFINE_list("ways", None, "Which of the ways (default: all).")
flags.DEFINE_list("seeds", ["0"], "Seeds.")

WAYS = {
    "authors' code": ("impulse", "firing"),
    "authors' code, each image in all steps": ("direct", "firing"),
    "ours": ("direct", "trained"),
}
LAYERS = ((96, 1), (256, 2), (384, 2), (384, 1), (256, 2))
USED = ("dataset", "image_size", "width", "train_examples", "test_examples", "batch_size")
USED += ("ann_epochs", "epochs", "patience", "timesteps", "learning_rate")


def network(shape, classes):
    """The ANN, of logits."""
    x = inputs = keras.Input(shape)

    def normalised(layer, x):
        x = keras.layers.BatchNormalization(momentum=0.1, epsilon=1e-4)(layer(x))
        return keras.layers.ReLU()(x)

    for channels, stride in LAYERS:
        layer = keras.layers.Conv2D(round(FLAGS.width * channels), 3, stride, padding="same")
        x = normalised(layer, x)
    x = normalised(keras.layers.Dense(round(FLAGS.width * 2048)), keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def compiled(model):
    """A model with optimizer, loss and metric."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(FLAGS.learning_rate), loss, metrics=["accuracy"])
    return model


def images(seed):
    """Images and labels for training and for testing, arrays, and the number of classes."""
    options = {"image_size": FLAGS.image_size, "normalization": FLAGS.dataset}
    data = datasets.load(FLAGS.dataset, 100, seed, FLAGS.data_dir, **options)

    def first(batches, count):
        taken = []
        for batch in batches:
            taken.append([keras.ops.convert_to_numpy(part) for part in batch])
            if 100 * len(taken) >= count:
                break
        return tuple(np.concatenate(part)[:count] for part in zip(*taken))

    train = first(data.train, FLAGS.train_examples)
    return train, first(data.test, FLAGS.test_examples), data.classes


def runs(seed, done):
    """Trains what is not done yet; yields what is written of each run."""
    wanted = [way for way in FLAGS.ways or WAYS if (way, seed) not in done]
    if not wanted:
        return
    train, test, classes = images(seed)
    keras.utils.set_random_seed(seed)
    ann = compiled(network(train[0].shape[1:], classes))
    options = {"batch_size": FLAGS.batch_size, "validation_split": 0.1, "verbose": 2}

    def accuracy(model):
        return compiled(model).evaluate(*test, verbose=0, return_dict=True)["accuracy"]

    start = time.process_time()
    ann.fit(*train, epochs=FLAGS.ann_epochs, **options)
    before = {"seed": seed, "ANN": accuracy(ann), "ANN, CPU s": time.process_time() - start}
    plain, _ = conversion.convert(
        ann, train[0][:512], timesteps=FLAGS.timesteps, method="percentile"
    )
    before["converted"] = accuracy(plain)
    for way in wanted:
        coding, freeze = WAYS[way]
        keras.utils.set_random_seed(seed)
        model = compiled(training.tandem(ann, FLAGS.timesteps, input_coding=coding))
        schedule = training.ProgressiveTandem(train[0][:512], FLAGS.patience, freeze=freeze)
        start = time.process_time()
        history = model.fit(*train, epochs=FLAGS.epochs, callbacks=[schedule], **options).history
        seconds = time.process_time() - start
        firing = sum(isinstance(x, training.Tandem) for x in model.layers) - len(schedule.waiting)
        yield before | {
            "way": way,
            "accuracy": accuracy(training.to_spiking(model)),
            "layers that fire": firing,
            "epochs": len(history["loss"]),
            "CPU s": seconds,
            "history": history,
        }


def main(argv):
    """Trains what is not in the file yet; prints a table."""
    for way in FLAGS.ways or ():
        if way not in WAYS:
            raise app.UsageError(f"--ways: {way!r} is none of {', '.join(WAYS)}.")
    found = Runs(USED)
    for seed in map(int, FLAGS.seeds):
        for run in runs(seed, {(run["way"], run["seed"]) for run in found}):
            found.append(run)
    rows = []
    for way in WAYS:
        mine = [run for run in found if run["way"] == way]
        for key in ("ANN", "converted", "accuracy") if mine else ():
            values = [100 * run[key] for run in mine]
            rows.append({"": f"{way}: {key}", "%": np.mean(values), "±": spread(values)})
    table(f"Tandem learning, {FLAGS.dataset}, T = {FLAGS.timesteps}", ["", "%", "±"], rows)


if __name__ == "__main__":
    app.run(main)
