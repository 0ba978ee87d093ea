"""Writes a synthetic set for segmentation: digits on canvases, and a mask for each.

    python applications/canvases.py --output=canvases.npz
    python applications/canvases.py --source=fashion_mnist --canvas=40 --item=28 \\
        --output=clothes.npz
    python applications/canvases.py --frames=20 --output=moving.npz

Each canvas has up to `--items` items of scikit-learn's digits or of Fashion-MNIST, those for
training and for testing apart, at random places beside each other on a noisy ground. In the mask 0
is the ground, an item's class is its class there and 1 more, and edges (void, 255) are what is
neither dark nor light. With `--frames` items move, and images are clips of event frames: where
pixels became lighter and darker since the frame before; the mask is that of the last one. Nothing
here is recorded: results on such sets say that a network learns, not what it is worth on
photographs.
"""

import common
import numpy as np
from absl import app, flags

from keras_snn import datasets
from keras_snn.datasets.images import VOID
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.DEFINE_enum("source", "digits", ["digits", "fashion_mnist"], "Where items come from.")
flags.DEFINE_integer("canvas", 24, "Height and width of the canvases.", lower_bound=16)
flags.DEFINE_integer("item", 14, "Height and width of the items.", lower_bound=8)
flags.DEFINE_integer("items", 2, "Most items on a canvas.", lower_bound=1)
flags.DEFINE_integer("train_examples", 8000, "Canvases for training.", lower_bound=1)
flags.DEFINE_integer("test_examples", 500, "Canvases for testing.", lower_bound=1)
flags.DEFINE_integer("frames", 0, "Event frames of each clip; 0 for still images.", lower_bound=0)
flags.DEFINE_float("noise", 0.1, "Standard deviation of the ground, from 0 to 1.", lower_bound=0.0)
flags.DEFINE_string("output", "canvases.npz", "The file.")

EVENT = 0.15  # change of a pixel that is an event
EDGE, INSIDE = 0.2, 0.4  # from where pixels are an edge, and an item


def items(batches):
    """Items from 0 to 1, `(items, size, size)`, and their classes."""
    images, labels = common.collect(batches)
    return (images[..., 0] + 1) / 2, labels


def canvas(images, labels, rng):
    """One canvas or clip, and its mask."""
    size, side = FLAGS.canvas, images.shape[1]
    steps = max(FLAGS.frames, 1)
    clip, owner = np.zeros((steps + 1, size, size)), np.zeros((size, size), int)
    taken = np.zeros((size, size), bool)
    for chosen in rng.integers(len(images), size=rng.integers(1, FLAGS.items + 1)):
        ends = rng.integers(0, size - side + 1, (2, 2))
        rows, columns = (slice(end, end + side) for end in ends[1])
        if taken[rows, columns].any():
            continue
        taken[rows, columns] = True
        for step in range(steps + 1):
            row, column = np.round(ends[0] + (ends[1] - ends[0]) * step / steps).astype(int)
            part = clip[step, row : row + side, column : column + side]
            np.maximum(part, images[chosen], out=part)
        owner[rows, columns] = labels[chosen] + 1
    last = clip[-1]
    mask = np.where(last > INSIDE, owner, np.where(last > EDGE, VOID, 0))
    if FLAGS.frames:
        change = np.diff(clip, axis=0)
        events = np.stack([change < -EVENT, change > EVENT], -1)
        events |= rng.random(events.shape) < FLAGS.noise / 10
        return 255 * events.astype("uint8"), mask.astype("uint8")
    image = np.clip(last + rng.normal(0, FLAGS.noise, last.shape), 0, 1)
    return np.round(255 * image[..., None]).astype("uint8"), mask.astype("uint8")


def main(argv):
    """Writes the file."""
    files.check_path(FLAGS.output, [".npz"])
    if FLAGS.item > FLAGS.canvas:
        raise app.UsageError(f"--item={FLAGS.item} is larger than --canvas={FLAGS.canvas}.")
    source = datasets.load(
        FLAGS.source, seed=FLAGS.seed, data_dir=FLAGS.data_dir, image_size=FLAGS.item
    )
    arrays = {}
    for part, count in (("train", FLAGS.train_examples), ("test", FLAGS.test_examples)):
        rng = np.random.default_rng((FLAGS.seed, part == "test"))
        found = items(getattr(source, part))
        made = [canvas(*found, rng) for _ in range(count)]
        arrays[f"x_{part}"], arrays[f"y_{part}"] = map(np.stack, zip(*made))
    with files.replacing(FLAGS.output) as (path,):
        np.savez_compressed(path, **arrays)
    shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    print(f"Wrote the synthetic set {FLAGS.output}: {shapes}")


if __name__ == "__main__":
    common.run(main, "canvases")
