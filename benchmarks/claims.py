"""The main claims of the papers, seen on real data: depth, normalisation, hybrid training.

    python benchmarks/claims.py
    python benchmarks/claims.py --claims=depth --units=10,100 --json=depth.json

On scikit-learn's 8x8 digits, means over seeds.
`depth`: networks of one stage of so many units of two 3x3 convolutions: (1) norms of the loss's
gradient to the first convolution of the first and of the last unit, fresh; (2) training loss and
held-out accuracy after equal training. Fang et al. (2021), Li et al. (2023): gradients of plain
units vanish with depth and training gets worse; those of the others stay within about a decade.
(An IF neuron of threshold 1 passes spikes on, and plain units with it suffer less than leaky ones.)
`normalization`: the tdBN ResNet, small, with tdBN, batch normalisation and neither, at two
thresholds. Zheng et al. (2021): only tdBN balances currents and threshold.
`hybrid`: an ANN converted by Spike-Norm, the same after a few epochs of fine-tuning, and the same
network trained from scratch for as long. Rathi et al. (2020): hybrid is better at few steps.
"""

import functools
import json
import pathlib
import statistics

import keras
import numpy as np
from absl import app, flags

from keras_snn import applications, conversion, datasets
from keras_snn import layers as snn
from keras_snn.analysis import gradient_norms
from keras_snn.applications import danet, residual, sew_resnet, spiking_resnet, tdbn_resnet
from keras_snn.applications.builder import Builder, Value
from keras_snn.applications.factory import pooled_top

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum(
    "claims", ["depth", "normalization", "hybrid"], ["depth", "normalization", "hybrid"], "Which."
)
flags.DEFINE_list("units", ["10", "20", "50"], "Numbers of units for the gradients.")
flags.DEFINE_list("trained", ["2", "5", "10"], "Numbers of units for the training.")
flags.DEFINE_integer("width", 16, "Channels.", lower_bound=1)
flags.DEFINE_integer("timesteps", 4, "Number of steps, T.", lower_bound=1)
flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1)
flags.DEFINE_integer("epochs", 3, "Epochs of training, 23 steps each.", lower_bound=1)
flags.DEFINE_list("neurons", ["if", "lif"], "Neurons; the first is trained.")
flags.DEFINE_list("hybrid_timesteps", ["8", "16", "32"], "Numbers of steps of the conversion.")
flags.DEFINE_string("json", None, "Where to write the figures.")

KINDS = {
    "plain": spiking_resnet.resnet,
    "SEW add": sew_resnet.resnet,
    "DA A-A": functools.partial(danet.danet, variant="A-A"),
    "DA PA-A": functools.partial(danet.danet, variant="PA-A"),
    "DA PA-B": functools.partial(danet.danet, variant="PA-B"),
}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def print_table(title, columns, rows, cell):
    """Prints rows, dictionaries by column, and returns them as they are ready for JSON."""
    print(f"\n{title}\n{'':22}" + "".join(f"{column:>36}" for column in columns), flush=True)
    for name, row in rows.items():
        print(f"{name:22}" + "".join(f"{cell(*row[c]):>36}" for c in columns), flush=True)
    return rows


def over_seeds(measure):
    """Mean and deviation over seeds of each of the figures `measure(seed)`."""
    figures = zip(*(measure(seed) for seed in range(FLAGS.seeds)))
    several = FLAGS.seeds > 1
    return [
        float(x) for f in figures for x in (np.mean(f), statistics.stdev(f) if several else 0.0)
    ]


def trained(model, data, epochs, learning_rate=2e-3):
    """Training loss in the last epoch and held-out accuracy in percent."""
    model.compile(keras.optimizers.Adam(learning_rate), LOSS, metrics=["accuracy"])
    train, test = data
    history = model.fit(*train, batch_size=64, epochs=epochs, verbose=0).history
    return history["loss"][-1], 100 * model.evaluate(*test, verbose=0)[1]


def fresh(seed):
    """A clean start."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)


def stage(kind, units, seed, neuron):
    """A classifier of digits with one stage."""
    fresh(seed)
    net = Builder(neuron, FLAGS.timesteps)
    inputs = keras.Input((8, 8, 1))
    layout = {"plan": residual.basic, "blocks": (units,), "filters": (FLAGS.width,)}
    x = KINDS[kind](net, Value(inputs, has_time=False), **layout, small_images=True)
    return keras.Model(inputs, pooled_top(net, x, 10, None).tensor)


def gradients(kind, units, neuron, batch):
    """Geometric means over seeds: gradient norms of the first and of the last unit."""
    ends = []
    for seed in range(FLAGS.seeds):
        norms = gradient_norms(stage(kind, units, seed, neuron), *batch, LOSS)
        first, last = (
            next(v for path, v in norms.items() if f"stack1_block{i}_conv1" in path)
            for i in (1, units)
        )
        ends.append([first, last])
    with np.errstate(divide="ignore"):
        return np.exp(np.mean(np.log(ends), axis=0)).tolist()


def depth(data):
    """Gradients and training, by kind of unit and depth."""
    batch = [part[:64] for part in data[0]]
    results = {"gradients": {}}
    for neuron in FLAGS.neurons:
        results["gradients"][neuron] = print_table(
            f"Norm of the gradient to the first and the last unit, {neuron}, by number of units",
            FLAGS.units,
            {k: {u: gradients(k, int(u), neuron, batch) for u in FLAGS.units} for k in KINDS},
            lambda a, b: f"{a:.1e} {b:.1e} {np.log10(a / b):+6.2f} decades",
        )

    def row(kind):
        return {
            u: over_seeds(
                lambda seed, u=u: trained(
                    stage(kind, int(u), seed, FLAGS.neurons[0]), data, FLAGS.epochs
                )
            )
            for u in FLAGS.trained
        }

    results["training"] = print_table(
        f"Training loss and accuracy after {FLAGS.epochs} epochs, by number of units",
        FLAGS.trained,
        {kind: row(kind) for kind in KINDS},
        loss_and_accuracy,
    )
    return results


def loss_and_accuracy(loss, loss_std, accuracy, accuracy_std):
    """One cell."""
    return f"{loss:.3f} ± {loss_std:.3f}  {accuracy:.1f} ± {accuracy_std:.1f} %"


def tdbn(norm, threshold, seed):
    """A small tdBN ResNet with another normalisation and threshold."""
    fresh(seed)
    net = Builder(
        snn.DecayLIF(threshold=threshold, decay=0.25, surrogate="rectangle"), FLAGS.timesteps, norm
    )
    inputs = keras.Input((8, 8, 1))
    layout = {"plan": residual.basic, "blocks": (2, 2, 2), "filters": (16, 32, 64)}
    x = tdbn_resnet.resnet(net, Value(inputs, has_time=False), **layout, small_images=True)
    return keras.Model(inputs, pooled_top(net, x, 10, None).tensor)


def normalization(data):
    """Training by normalisation and threshold."""

    def cell(norm, threshold):
        return over_seeds(lambda seed: trained(tdbn(norm, threshold, seed), data, FLAGS.epochs))

    thresholds = {"threshold 0.5": 0.5, "threshold 2": 2.0}
    return print_table(
        f"Training loss and accuracy after {FLAGS.epochs} epochs, tdBN ResNet of 14 layers",
        list(thresholds),
        {
            str(norm): {name: cell(norm, value) for name, value in thresholds.items()}
            for norm in ("tdbn", "bn", None)
        },
        loss_and_accuracy,
    )


def hybrid(data):
    """Accuracy of conversion, hybrid training and training from scratch, at equal steps."""
    resize = functools.partial(keras.ops.image.resize, size=(16, 16), data_format="channels_last")
    train, test = ((keras.ops.convert_to_numpy(resize(x)), y) for x, y in data)
    layout = {"input_shape": (16, 16, 1), "classes": 10, "width": 0.125}
    epochs = FLAGS.epochs

    def accuracies(timesteps, seed):
        fresh(seed)
        ann = applications.ConversionVGG5(
            timesteps=None, neuron=keras.layers.ReLU, classifier_activation=None, **layout
        )
        reached = trained(ann, (train, test), 8 * epochs, 1e-3)[1]

        def convert(**kwargs):
            return conversion.convert(
                ann, train[0][:256], "spike_norm", timesteps, check_examples=0, **kwargs
            )[0]

        converted = convert()
        converted.compile(loss=LOSS, metrics=["accuracy"])
        alone = 100 * converted.evaluate(*test, verbose=0)[1]
        tuned = convert(
            neuron=snn.STDBLIF(slope="linear"), threshold_scale=0.7, readout="accumulator"
        )
        after = trained(tuned, (train, test), epochs, 1e-4)[1]
        fresh(seed)
        scratch = conversion.convert(
            keras.models.clone_model(ann),
            train[0][:256],
            "spike_norm",
            timesteps,
            check_examples=0,
            neuron=snn.STDBLIF(slope="linear"),
            threshold_scale=0.7,
            readout="accumulator",
        )[0]
        return reached, alone, after, trained(scratch, (train, test), epochs, 1e-4)[1]

    names = ("ANN", "converted", "hybrid", "from scratch")
    cells = {
        t: over_seeds(lambda seed, t=t: accuracies(int(t), seed)) for t in FLAGS.hybrid_timesteps
    }
    return print_table(
        f"Held-out accuracy, VGG-5, by T; {epochs} epochs of fine-tuning",
        FLAGS.hybrid_timesteps,
        {n: {t: cells[t][2 * i : 2 * i + 2] for t in cells} for i, n in enumerate(names)},
        lambda mean, std: f"{mean:.1f} ± {std:.1f} %",
    )


def main(argv):
    """Prints the tables."""
    digits = datasets.load("digits", 1800, 0)
    data = [digits.train[0], digits.test[0]]
    results = {"backend": keras.backend.backend()}
    for claim in FLAGS.claims:
        results[claim] = {"depth": depth, "normalization": normalization, "hybrid": hybrid}[claim](
            data
        )
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    app.run(main)
