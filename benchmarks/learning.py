"""Accuracy and time of one small network trained by keras_snn, SpikingJelly and snnTorch.

    KERAS_BACKEND=torch python benchmarks/learning.py
    python benchmarks/learning.py --backends=tensorflow,torch,jax --json=learning.json
    python benchmarks/learning.py --dataset=fashion_mnist --epochs=5

Two convolutions, each with LIF neurons and average pooling, and a classifier whose outputs are
averaged over time. All libraries get the same first weights (`FiringRateScaling`), the same batches
in the same order, and SGD with momentum as `torch.optim.SGD` has it. The neuron is one that all can
state: `h = v / 2 + x`, fire from 1 on, a reset to 0 without gradient, arc tangent of slope 2. (Ours
and SpikingJelly's fire at the threshold itself, snnTorch's above.) The first convolution of an
image runs once, not at every step.

First each library runs the first batch: spikes and gradients must be those of the others, or the
program stops. Later, rounding makes one spike or another differ, so accuracies agree as those of
different runs do. Seconds are of an epoch of training, behind the first step, which compiles:
medians over seeds of those that pass ("s") and of those that processors work ("CPU s", with
the ratios), which other work on the machine changes less. Each library has a process of its own.
"""

import pathlib
import statistics
import sys
import tempfile
import time

import keras
import numpy as np
from absl import app, flags
from common import FLAGS, answer, measure, save, table
from keras import layers

from keras_snn import datasets, optimizers
from keras_snn import layers as snn
from keras_snn.initializers import FiringRateScaling

flags.DEFINE_string("dataset", "digits", "Images, see `keras_snn.datasets.load`.")
flags.DEFINE_list("backends", [keras.backend.backend()], "Backends of ours.")
flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)
flags.DEFINE_integer("epochs", 10, "Epochs of training.", lower_bound=1)
flags.DEFINE_integer("timesteps", 4, "Number of steps, T.", lower_bound=1)
flags.DEFINE_integer("batch", 64, "Batch size.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.1, "Learning rate.", lower_bound=0.0)
flags.DEFINE_string("folder", None, "Of one measurement: data, first weights and what it computes.")

PEERS = ["SpikingJelly", "snnTorch"]
FILTERS, MOMENTUM = (16, 32), 0.9


def ours(shape, classes):
    """Our network, and that of its spikes."""
    neuron = {"tau": 2.0, "decay_input": False, "surrogate": "atan"}
    x = inputs = keras.Input(shape)
    spikes = []
    for i, filters in enumerate(FILTERS):
        fires = FiringRateScaling(snn.LIF(**neuron), timesteps=FLAGS.timesteps)
        convolution = layers.Conv2D(
            filters, 3, padding="same", kernel_initializer=fires, bias_initializer=fires
        )
        x = snn.FoldTime(convolution)(x) if i else snn.RepeatTime(FLAGS.timesteps)(convolution(x))
        spikes.append(snn.LIF(**neuron)(x))
        x = snn.FoldTime(layers.AveragePooling2D(2))(spikes[-1])
    x = layers.Dense(classes)(snn.FoldTime(layers.Flatten())(x))
    return keras.Model(inputs, snn.MeanOverTime()(x)), keras.Model(inputs, spikes)


class Ours:
    """keras_snn on Keras's backend."""

    def __init__(self, shape, classes):
        self.model, self.spikes = ours(shape, classes)
        self.optimizer = optimizers.SGD(FLAGS.learning_rate, MOMENTUM)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(self.optimizer, loss)
        self.optimizer.build(self.model.trainable_variables)

    def begin(self, weights):
        """First weights, and an optimizer that has done nothing."""
        self.model.set_weights(weights)
        for momentum in self.optimizer.momentums:
            momentum.assign(np.zeros(momentum.shape))

    def step(self, x, y):
        """Trains on a batch; its spikes and gradients."""
        spikes = self.spikes.predict_on_batch(x)
        self.model.train_on_batch(x, y)
        return spikes, [keras.ops.convert_to_numpy(m.value) for m in self.optimizer.momentums]

    def train(self, batches):
        """Trains for all epochs."""
        self.model.fit(batches, epochs=FLAGS.epochs, shuffle=False, verbose=0)

    def predict(self, x):
        """Logits."""
        return self.model.predict(x, FLAGS.batch, verbose=0)


def peer_network(name, shape, classes):
    """The network of a peer: from images to logits and spikes, `(time, batch, ...)`."""
    import torch

    height, width, channels = shape
    features = height // 4 * (width // 4) * FILTERS[1]

    class SpikingJelly(torch.nn.Module):
        def __init__(self):
            super().__init__()
            from spikingjelly.activation_based import functional, layer, neuron, surrogate

            lif = {"decay_input": False, "detach_reset": True, "step_mode": "m"}
            lif |= {"surrogate_function": surrogate.ATan(2.0)}
            self.begin = functional.reset_net
            self.conv1 = layer.Conv2d(channels, FILTERS[0], 3, padding=1)
            self.lif1 = neuron.LIFNode(2.0, **lif)
            self.pool1 = layer.AvgPool2d(2, step_mode="m")
            self.conv2 = layer.Conv2d(*FILTERS, 3, padding=1, step_mode="m")
            self.lif2 = neuron.LIFNode(2.0, **lif)
            self.pool2 = layer.AvgPool2d(2, step_mode="m")
            self.classifier = layer.Linear(features, classes, step_mode="m")

        def forward(self, x):
            self.begin(self)
            currents = self.conv1(x)
            first = self.lif1(currents.unsqueeze(0).expand(FLAGS.timesteps, *currents.shape))
            second = self.lif2(self.conv2(self.pool1(first)))
            logits = self.classifier(self.pool2(second).flatten(2)).mean(0)
            return logits, (first, second)

    class SnnTorch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            import snntorch
            from snntorch import surrogate

            lif = {"beta": 0.5, "reset_mechanism": "zero", "spike_grad": surrogate.atan(2.0)}
            self.conv1 = torch.nn.Conv2d(channels, FILTERS[0], 3, padding=1)
            self.lif1 = snntorch.Leaky(**lif)
            self.pool = torch.nn.AvgPool2d(2)
            self.conv2 = torch.nn.Conv2d(*FILTERS, 3, padding=1)
            self.lif2 = snntorch.Leaky(**lif)
            self.classifier = torch.nn.Linear(features, classes)

        def forward(self, x):
            currents, logits, spikes = self.conv1(x), [], []
            membrane1, membrane2 = self.lif1.reset_mem(), self.lif2.reset_mem()
            for _ in range(FLAGS.timesteps):
                first, membrane1 = self.lif1(currents, membrane1)
                second, membrane2 = self.lif2(self.conv2(self.pool(first)), membrane2)
                logits.append(self.classifier(self.pool(second).flatten(1)))
                spikes.append((first, second))
            return torch.stack(logits).mean(0), [torch.stack(layer) for layer in zip(*spikes)]

    return {"SpikingJelly": SpikingJelly, "snnTorch": SnnTorch}[name]()


class Peer:
    """A peer's network on PyTorch, as its users train it."""

    def __init__(self, name, shape, classes):
        import torch

        self.torch = torch
        self.net = peer_network(name, shape, classes)
        self.map = (shape[0] // 4, shape[1] // 4, FILTERS[1])  # that the classifier sees
        self.parts = [
            getattr(getattr(self.net, layer), kind)
            for layer in ("conv1", "conv2", "classifier")
            for kind in ("weight", "bias")
        ]

    def begin(self, weights):
        """First weights, and an optimizer that has done nothing."""
        for part, value in zip(self.parts, weights):
            part.data = self.torch.tensor(self.moved(value))
        self.optimizer = self.torch.optim.SGD(self.parts, FLAGS.learning_rate, MOMENTUM)

    def moved(self, weight):
        """A weight of ours as PyTorch keeps it."""
        if weight.ndim == 4:
            return weight.transpose(3, 2, 0, 1).copy()
        if weight.ndim == 2:
            maps = weight.reshape(*self.map, -1).transpose(3, 2, 0, 1)
            return maps.reshape(len(maps), -1).copy()
        return weight

    def returned(self, weight):
        """A weight of PyTorch's as we keep it."""
        if weight.ndim == 4:
            return weight.transpose(2, 3, 1, 0)
        if weight.ndim == 2:
            height, width, channels = self.map
            maps = weight.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
            return maps.reshape(-1, len(weight))
        return weight

    def images(self, x):
        """A batch as PyTorch takes it."""
        return self.torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))

    def step(self, x, y):
        """Trains on a batch; its spikes and gradients."""
        self.optimizer.zero_grad()
        logits, spikes = self.net(self.images(x))
        self.torch.nn.functional.cross_entropy(logits, self.torch.from_numpy(y)).backward()
        self.optimizer.step()
        spikes = [layer.detach().permute(1, 0, 3, 4, 2).numpy() for layer in spikes]
        return spikes, [self.returned(part.grad.numpy()) for part in self.parts]

    def train(self, batches):
        """Trains for all epochs."""
        for _ in range(FLAGS.epochs):
            for x, y in map(batches.__getitem__, range(len(batches))):
                self.optimizer.zero_grad()
                logits, _ = self.net(self.images(x))
                self.torch.nn.functional.cross_entropy(logits, self.torch.from_numpy(y)).backward()
                self.optimizer.step()
            batches.on_epoch_end()

    def predict(self, x):
        """Logits."""
        with self.torch.no_grad():
            return self.net(self.images(x))[0].numpy()


def one(label):
    """Accuracies and seconds of one library, in this process; keeps its first step."""
    folder = pathlib.Path(FLAGS.folder)
    with np.load(folder / "data.npz") as file:
        x, y, test_x, test_y = (file[name] for name in ("x", "y", "test_x", "test_y"))
    shape, classes = x.shape[1:], int(y.max()) + 1
    network = Peer(label, shape, classes) if label in PEERS else Ours(shape, classes)
    found = {"accuracy": [], "s": [], "CPU s": []}
    for seed in range(FLAGS.seeds):
        with np.load(folder / f"weights_{seed}.npz") as file:
            weights = [file[name] for name in file.files]
        batches = datasets.ArrayBatches(x, y, FLAGS.batch, seed)
        if not seed:
            network.begin(weights)
            start = time.perf_counter()
            spikes, gradients = network.step(*batches[0])
            found["first s"] = time.perf_counter() - start
            np.savez(folder / f"{label}.npz", *spikes, *gradients)
        network.begin(weights)
        start = time.perf_counter(), time.process_time()
        network.train(batches)
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
        found["s"].append(taken[0] / FLAGS.epochs)
        found["CPU s"].append(taken[1] / FLAGS.epochs)
        right = (network.predict(test_x).argmax(-1) == test_y).mean()
        found["accuracy"].append(float(right))
    return found


def prepare(folder):
    """Writes the data, and the first weights of each seed."""
    data = datasets.load(FLAGS.dataset, 1000, 0)
    (x, y), (test_x, test_y) = (
        [np.concatenate(parts) for parts in zip(*in_order(batches))]
        for batches in (data.train, data.test)
    )
    np.savez(folder / "data.npz", x=x, y=y, test_x=test_x, test_y=test_y)
    for seed in range(FLAGS.seeds):
        keras.utils.set_random_seed(seed)
        model, _ = ours(x.shape[1:], data.classes)
        np.savez(folder / f"weights_{seed}.npz", *model.get_weights())


def in_order(batches):
    """The batches of an epoch as arrays."""
    indexed = not hasattr(batches, "take")
    for x, y in map(batches.__getitem__, range(len(batches))) if indexed else batches:
        yield np.asarray(x), np.asarray(y)


def compare(folder, labels):
    """First steps beside that of the first label: spikes, and gradients, that differ."""
    steps = {}
    for label in labels:
        with np.load(folder / f"{label}.npz") as file:
            steps[label] = [file[name] for name in file.files]
    wanted, rows = next(iter(steps.values())), []
    for label, found in steps.items():
        apart = sum(int((a != b).sum()) for a, b in zip(found[:2], wanted))
        count, fired = sum(a.size for a in found[:2]), sum(a.sum() for a in found[:2])
        gradient = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found[2:], wanted[2:]))
        rows.append({"": label, "spikes": int(fired), "of": count, "spikes apart": apart})
        rows[-1]["gradients apart"] = float(gradient)
        if apart > 1e-5 * count or (not apart and gradient > 1e-4):
            table("The first batch", [*rows[0]], rows)
            sys.exit(f"{label} has not the spikes and gradients of {labels[0]}.")
    table("The first batch", [*rows[0]], rows)
    return rows


def main(argv):
    """Both tables, or one measurement."""
    FLAGS.set_default("limit", 7200)
    if FLAGS.only:
        answer(one(FLAGS.only))
        return
    runs = {**{f"keras_snn, {b}": b for b in FLAGS.backends}, **dict.fromkeys(PEERS, "torch")}
    given = ["seeds", "epochs", "timesteps", "batch", "learning_rate"]
    results = {flag: FLAGS[flag].value for flag in ["dataset", *given]}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare(folder)
        passed = [f"--folder={folder}", *(FLAGS[flag].serialize() for flag in given)]
        found = {x: measure(__file__, x, backend, *passed) for x, backend in runs.items()}
        save(results | {"runs": found})
        first = compare(folder, [x for x in runs if isinstance(found[x], dict)])
    save(results | {"first batch": first, "runs": found})
    show(found)


def show(found):
    """Prints accuracies and seconds, with ratios to the peers'."""
    rows = []
    for label, run in found.items():
        if isinstance(run, str):
            rows.append({"": label, "note": run})
            continue
        accuracy = [100 * share for share in run["accuracy"]]
        rows.append(
            {
                "": label,
                "mean %": f"{statistics.mean(accuracy):.2f}",
                "sd": f"{statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else None,
                "each": ", ".join(f"{a:.2f}" for a in accuracy),
                "s": statistics.median(run["s"]),
                "CPU s": statistics.median(run["CPU s"]),
                "first s": run["first s"],
            }
        )
    seconds = {row[""]: row["CPU s"] for row in rows if "CPU s" in row}
    for row in rows:
        for peer in PEERS:
            if row[""] in seconds and peer in seconds:
                row[f"/ {peer}"] = seconds[row[""]] / seconds[peer]
    columns = ["", "mean %", "sd", "each", "s", "CPU s", *(f"/ {peer}" for peer in PEERS)]
    table(f"{FLAGS.dataset}, {FLAGS.epochs} epochs", [*columns, "first s", "note"], rows)


if __name__ == "__main__":
    app.run(main)
