"""How gradients and training fare with depth: plain, spike-element-wise and densely additive units.

    python benchmarks/depth.py
    python benchmarks/depth.py --units=10,100 --json=depth.json

Networks of one stage with so many units of two 3x3 convolutions, on scikit-learn's 8x8 digits:
(1) the norm of the loss's gradient to the first convolution of the first and of the last unit, when
fresh; (2) the training loss after equal numbers of epochs. Means over seeds. Claims of Fang et al.
(2021) and Li et al. (2023): gradients of plain units vanish with depth and training gets worse,
those of the others stay within about a decade. (An IF neuron of threshold 1 passes spikes on
unchanged, and plain units with it suffer less than with leaky neurons.)
"""

import functools
import json
import pathlib

import keras
import numpy as np
from absl import app, flags

from keras_snn import datasets
from keras_snn.analysis import gradient_norms
from keras_snn.applications import common, danet, residual, sew_resnet, spiking_resnet

FLAGS = flags.FLAGS
flags.DEFINE_list("units", ["10", "20", "50"], "Numbers of units for the gradients.")
flags.DEFINE_list("trained", ["2", "5", "10"], "Numbers of units for the training.")
flags.DEFINE_integer("width", 16, "Channels.", lower_bound=1)
flags.DEFINE_integer("timesteps", 4, "Number of steps, T.", lower_bound=1)
flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1)
flags.DEFINE_integer("epochs", 3, "Epochs of training, 23 steps each.", lower_bound=1)
flags.DEFINE_list("neurons", ["if", "lif"], "Neurons; the first is trained.")
flags.DEFINE_string("json", None, "Where to write the figures.")

KINDS = {
    "plain": spiking_resnet.resnet,
    "SEW add": sew_resnet.resnet,
    "DA A-A": functools.partial(danet.danet, variant="A-A"),
    "DA PA-A": functools.partial(danet.danet, variant="PA-A"),
    "DA PA-B": functools.partial(danet.danet, variant="PA-B"),
}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(kind, units, seed, neuron):
    """A classifier of digits with one stage."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    net = common.Builder(neuron, FLAGS.timesteps)
    inputs = keras.Input((8, 8, 1))
    layout = {"plan": residual.basic, "blocks": (units,), "filters": (FLAGS.width,)}
    x = KINDS[kind](net, inputs, **layout, small_images=True)
    return keras.Model(inputs, common.pooled_top(net, x, 10, None))


def gradients(kind, units, neuron, batch):
    """Geometric means over seeds: gradient norms of the first and of the last unit."""
    found = []
    for seed in range(FLAGS.seeds):
        norms = gradient_norms(network(kind, units, seed, neuron), *batch, LOSS)
        first, last = (
            next(v for path, v in norms.items() if f"stack1_block{i}_conv1" in path)
            for i in (1, units)
        )
        found.append([first, last])
    with np.errstate(divide="ignore"):
        return np.exp(np.mean(np.log(found), axis=0)).tolist()


def training_loss(kind, units, data):
    """Mean and deviation over seeds of the loss in the last epoch."""
    found = []
    for seed in range(FLAGS.seeds):
        model = network(kind, units, seed, FLAGS.neurons[0])
        model.compile(keras.optimizers.Adam(2e-3), LOSS)
        history = model.fit(*data, batch_size=64, epochs=FLAGS.epochs, verbose=0).history
        found.append(history["loss"][-1])
    return float(np.mean(found)), float(np.std(found))


def main(argv):
    """Prints both tables."""
    train = datasets.load("digits", 1400, 0).train[0]
    data = [np.asarray(keras.ops.convert_to_numpy(part)) for part in train]
    results = {"backend": keras.backend.backend(), "gradients": {}, "training": {}}
    batch = [part[:64] for part in data]
    print("Norm of the gradient to the first and last unit's first convolution, and their ratio")
    for neuron in FLAGS.neurons:
        print(f"{neuron:10}" + "".join(f"{u + ' units':>34}" for u in FLAGS.units))
        for kind in KINDS:
            row = [gradients(kind, int(u), neuron, batch) for u in FLAGS.units]
            results["gradients"].setdefault(neuron, {})[kind] = dict(zip(FLAGS.units, row))
            cells = [f"{a:.1e} {b:.1e} {np.log10(a / b):+6.2f} decades" for a, b in row]
            print(f"{kind:10}" + "".join(f"{cell:>34}" for cell in cells), flush=True)
    print(f"\nTraining loss in epoch {FLAGS.epochs}, {FLAGS.seeds} seeds")
    print(f"{'':10}" + "".join(f"{u + ' units':>20}" for u in FLAGS.trained))
    for kind in KINDS:
        row = [training_loss(kind, int(u), data) for u in FLAGS.trained]
        results["training"][kind] = dict(zip(FLAGS.trained, row))
        print(f"{kind:10}" + "".join(f"{m:>13.3f} ± {d:.3f}" for m, d in row), flush=True)
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    app.run(main)
