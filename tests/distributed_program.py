"""What test_distribution.py starts, once for each process that trains: writes what came of it."""

import contextlib
import os

import keras
import numpy as np

from keras_snn import distribution, layers
from keras_snn.datasets import ArrayBatches

STEPS = 3
CLASSES = 5


def examples(count):
    """Inputs and labels; the first half of each batch of eight is brighter."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(0.0, 1.0, (64, STEPS, 6, 6, 2)).astype("float32")
    inputs[np.arange(64) % 8 < 4] += 1.0
    return inputs[:count], rng.integers(0, CLASSES, 64)[:count]


def batches(count):
    return ArrayBatches(*examples(count), batch_size=8)


def build(timesteps=STEPS, normalization=None, dropout=0.0):
    """A small spiking network whose neurons fire, some of them."""
    strong = keras.initializers.RandomNormal(0.2, 0.6)
    inputs = keras.Input((STEPS, 6, 6, 2))
    x = inputs
    if timesteps > STEPS:
        x = keras.layers.Concatenate(axis=1)([x] * (timesteps // STEPS))
    if normalization is not None:
        norm = keras.layers.BatchNormalization(synchronized=normalization == "synchronized")
        x = layers.FoldTime(norm)(x)
    x = layers.FoldTime(keras.layers.Conv2D(4, 3, kernel_initializer=strong))(x)
    x = layers.LIF(threshold=0.5)(x)
    x = layers.TimeConstantDropout(dropout, seed=3)(layers.FoldTime(keras.layers.Flatten())(x))
    x = keras.layers.Dense(8, kernel_initializer=strong)(x)
    x = layers.ParametricLIF(threshold=0.5)(x)
    x = layers.MeanOverTime()(keras.layers.Dense(CLASSES)(x))
    model = keras.Model(inputs, x)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Steps(keras.callbacks.Callback):
    """Keeps the logs of each step."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append([float(logs["loss"]), float(logs["accuracy"])])


def train(context, count, evaluate=False, path=None, **options):
    """Logs of each step, weights, masks of dropout, and perhaps logs of held-out examples."""
    steps, found = Steps(), {}
    with context as together:
        model = together.prepare(build(**options))
        history = model.fit(
            together.shard(batches(count)),
            validation_data=together.shard(batches(16)) if evaluate else None,
            shuffle=False,
            verbose=0,
            callbacks=[steps],
        ).history
        found["masks"] = masks(model)
    if evaluate:
        found["validation"] = [history["val_loss"], history["val_accuracy"]]
        found["evaluation"] = model.evaluate(batches(11), verbose=0)
    if path and together.is_chief:
        model.save(path)
    weights = {f"weight_{i}": weight for i, weight in enumerate(model.get_weights())}
    return found | {"steps": steps.logs} | weights


def masks(model):
    """What each replica of this process draws in the model's dropout, one after the other."""
    (layer,) = (x for x in model.layers if isinstance(x, layers.TimeConstantDropout))

    def draw():
        return layer(keras.ops.ones((1, STEPS, 64)), training=True)

    if keras.backend.backend() != "tensorflow":
        return keras.ops.convert_to_numpy(draw())
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    return np.stack([x.numpy() for x in strategy.experimental_local_results(strategy.run(draw))])


# Five batches of 8 and one of 3, of which two replicas use 2: one device gets these 42.
CASES = {
    "short": {"count": 43, "evaluate": True},
    "long": {"count": 43, "timesteps": 2 * STEPS},
    "normalization": {"count": 8, "normalization": "plain", "dropout": 0.5},
    "synchronized": {"count": 8, "normalization": "synchronized"},
}


def on_one_device(case):
    keras.utils.set_random_seed(0)
    options = CASES[case]
    alone = contextlib.nullcontext(distribution.Distribution())
    return train(alone, **options | {"count": options["count"] // 2 * 2})


def main(path, *cases):
    backend, found = keras.backend.backend(), {}
    if backend == "tensorflow" and "TF_CONFIG" not in os.environ:
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    for case in cases:
        # JAX starts from a common seed; elsewhere the first process's weights go to the others.
        keras.utils.set_random_seed(0 if backend == "jax" else int(os.environ.get("PROCESS", 0)))
        results = train(distribution.data_parallel(), path=f"{path}.keras", **CASES[case])
        found |= {f"{case}/{name}": value for name, value in results.items()}
    with distribution.data_parallel() as together:
        found["who"] = [together.replicas, together.processes, together.process]
    np.savez(path, **found)
