"""Neurons without a hand-written backward pass beside the LIF neuron, which has one; in turns.

    KERAS_BACKEND=jax python benchmarks/cells.py
    KERAS_BACKEND=torch python benchmarks/cells.py --timesteps=16,128 --json=cells_torch.json

Spikes and gradients of a sequence, all neurons of one process in turns, each beside its plain loop
(`use_fused = False`), LIF with a mask too. `x LIF` is the median of milliseconds over that of LIF
without a mask, for each state that the neuron has; `CPU` the same of CPU seconds, which tell more
where other programs share the machine. On PyTorch kernels are made at once, not when they pay.
"""

import statistics
import time

import keras
import neuron
import numpy as np
from absl import app, flags
from common import FLAGS, save, table
from keras import ops

from keras_snn import layers
from keras_snn.kernels import tuning

flags.DEFINE_bool("plain", True, "Whether plain loops are measured too; XLA compiles them slowly.")
NAMES = ["LIF", "LIF, mask", "AdaptiveLIF", "SynapticLIF", "QIF", "Izhikevich", "own"]


class OwnCell(layers.SpikingCell):
    """A user's: a learned gain for each channel, and a trace of the spikes that inhibits."""

    initial_values = (None, 0.0)

    def build(self, input_shape):
        super().build(input_shape)
        self.gain = self.add_parameter("gain", 0.8, "channel")

    def step(self, x, states):
        v, a = states
        h = 0.8 * v + self.gain * x - 0.3 * ops.tanh(a)
        spikes = self.fire(h)
        return spikes, [self.reset_membrane(h, spikes), 0.9 * a + spikes]


def trainer(name, use_fused, x, g, mask):
    """`(call, states)`: what computes spikes and all gradients, and the number of states."""
    name, *masked = name.split(", ")
    layer = layers.SpikingRNN(OwnCell()) if name == "own" else getattr(layers, name)()
    layer.use_fused = use_fused
    layer.build(x.shape)
    given = {"mask": ops.array(mask)} if masked else {}
    x, g, weights = ops.array(x), ops.array(g), [w.value for w in layer.trainable_variables]
    states = len(layer.cell.initial_values)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def train(x, g):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True, **given)
            return y, tape.gradient(y, [x, *weights], g)

        return lambda: train(x, g)[1][0][0, 0, 0].numpy(), states
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def spikes_and_gradients(x, weights, g):
            def run(x, weights):
                return layer.stateless_call(weights, [], x, training=True, **given)[0]

            y, backward = jax.vjp(run, x, weights)
            return y, backward(g)

        return lambda: jax.block_until_ready(spikes_and_gradients(x, weights, g)), states
    return neuron._torch_calls(lambda x: layer(x, training=True, **given), x, g)[1], states


def one(steps):
    """Measures all neurons at a number of steps."""
    rng = np.random.default_rng(0)
    shape = (neuron.BATCH, steps, FLAGS.elements // steps // neuron.BATCH)
    x, g = (rng.normal(mean, 1.0, shape).astype("float32") for mean in (0.3, 0.0))
    mask = rng.uniform(size=shape[:2]) > 0.2
    calls = {}
    for name in NAMES:
        for use_fused in (True, False) if FLAGS.plain else (True,):
            call, states = trainer(name, use_fused, x, g, mask)
            start = time.perf_counter()
            call()
            calls[name if use_fused else f"{name}, plain loop"] = (
                call,
                states,
                time.perf_counter() - start,
                [],
            )
    for _ in range(FLAGS.repeats):
        for call, _, _, times in calls.values():
            start = time.perf_counter(), time.process_time()
            call()
            times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    lif = [statistics.median(t) for t in zip(*calls["LIF"][3])]
    results = {}
    for name, (_, states, first, times) in calls.items():
        wall, cpu = (statistics.median(t) for t in zip(*times))
        results[name] = {
            "train ms": 1e3 * wall,
            "CPU ms": 1e3 * cpu,
            "x LIF": wall / lif[0] / states,
            "CPU": cpu / lif[1] / states,
            "first s": first,
        }
    return results


def main(argv):
    """All tables."""
    results, tuning.TORCH_COMPILE_AFTER = {}, 0
    for steps in FLAGS.timesteps:
        results[steps] = one(int(steps))
        rows = [{"neuron": name} | result for name, result in results[steps].items()]
        columns = ["neuron", "train ms", "CPU ms", "x LIF", "CPU", "first s"]
        table(f"{keras.backend.backend()}, T = {steps}", columns, rows)
        save({keras.backend.backend(): results})


if __name__ == "__main__":
    app.run(main)
