"""The LIF neuron alone, side by side: ours on each backend, and the peers.

    python benchmarks/neuron.py
    python benchmarks/neuron.py --timesteps=4,16 --elements=8388608 --json=neuron.json
    python benchmarks/neuron.py --preset=open_neuromorphic --widths=512,1024 --json=on.json
    KERAS_BACKEND=jax python benchmarks/neuron.py --preset=open_neuromorphic \
        --only="keras_snn, jax+Dense alone, jax"  # in turns in one process

LIF with tau 2, threshold 1, hard reset, ATan(2), reset detached; float32. As many elements for each
number of steps. Milliseconds of the forward pass without gradients, and of spikes and gradients;
seconds of the first call, with compilation; megabytes of the process (of the GPU, where there is
one) above what it held with the input; page faults of a call with gradients, in thousands, where
memory given back to the system is taken again. On a GPU SpikingJelly takes its CUDA kernels, else
Triton's, else PyTorch's operations, by what is installed.
"""

import functools
import time

import numpy as np
import open_neuromorphic
from absl import app, flags
from common import FLAGS, answer, clock, faults, measure, peak, save, table

flags.DEFINE_list("timesteps", ["4", "16", "64", "256"], "Numbers of steps.")
flags.DEFINE_integer("elements", 2**22, "Elements of a sequence, all steps together.")
flags.DEFINE_multi_string("implementations", [], "Which to measure (default: all).")
flags.DEFINE_enum("preset", "lif", ["lif", "open_neuromorphic"], "What is measured.")
flags.DEFINE_list("widths", ["512"], "Numbers of neurons, of the preset open_neuromorphic.")
BATCH = 16


def keras_snn(x, g, compiled=False):
    """Our layer in the backend's usual way, a graph, jit, eager; or under `torch.compile`."""
    import keras
    from keras import ops

    from keras_snn.layers import LIF

    layer, (x, g) = LIF(), (ops.convert_to_tensor(np.swapaxes(a, 0, 1).copy()) for a in (x, g))
    layer.build(x.shape)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def train(x, g):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            return y, tape.gradient(y, x, g)

        infer = tf.function(lambda x: layer(x))
        return lambda: infer(x)[0, 0, 0].numpy(), lambda: train(x, g)[1][0, 0, 0].numpy()
    if backend == "jax":
        return _jax_calls(layer, x, g)
    if compiled:
        import torch

        layer = torch.compile(layer)
    return _torch_calls(layer, x, g)


def _jax_calls(run, x, g):
    import jax

    def spikes_and_gradient(x, g):
        spikes, backward = jax.vjp(run, x)
        return spikes, *backward(g)

    infer, train = jax.jit(run), jax.jit(spikes_and_gradient)
    return lambda: jax.block_until_ready(infer(x)), lambda: jax.block_until_ready(train(x, g))


def _torch_calls(run, x, g):
    import torch

    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    learned = x.clone().requires_grad_()

    def infer():
        with torch.no_grad():
            run(x)
        wait()

    def train():
        learned.grad = None
        run(learned).backward(g)
        wait()

    return infer, train


def _tensors(*arrays):
    """Arrays as PyTorch's tensors, on a GPU if there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [torch.tensor(array, device=device) for array in arrays]


def spikingjelly(x, g, compiled=False):
    """SpikingJelly 2's LIFNode, all steps in one call."""
    import torch
    from spikingjelly.activation_based import functional, neuron, surrogate

    x, g = _tensors(x, g)
    node = neuron.LIFNode(
        2.0, detach_reset=True, surrogate_function=surrogate.ATan(), step_mode="m"
    )
    call = torch.compile(node) if compiled else node

    def run(x):
        functional.reset_net(node)
        return call(x)

    return _torch_calls(run, x, g)


def snntorch(x, g):
    """snnTorch's Leaky, step by step."""
    import snntorch
    import torch
    from snntorch import surrogate

    x, g = _tensors(x, g)
    node = snntorch.Leaky(beta=0.5, spike_grad=surrogate.atan(2.0), reset_mechanism="zero")
    node.to(x.device)

    def run(x):
        v, spikes = node.init_leaky(), []
        for step in x:
            s, v = node(step * 0.5, v)
            spikes.append(s)
        return torch.stack(spikes)

    return _torch_calls(run, x, g)


def norse(x, g):
    """Norse's LIFBox, step by step."""
    import torch
    from norse.torch import LIFBoxCell, LIFBoxParameters

    x, g = _tensors(x, g)
    parameters = LIFBoxParameters(
        tau_mem_inv=torch.tensor(500.0, device=x.device), v_th=torch.tensor(1.0, device=x.device)
    )
    cell = LIFBoxCell(parameters)

    def run(x):
        state, spikes = None, []
        for step in x:
            s, state = cell(step, state)
            spikes.append(s)
        return torch.stack(spikes)

    return _torch_calls(run, x, g)


def spyx(x, g):
    """Spyx's LIF under jit and scan."""
    import flax.nnx
    import jax
    import spyx.nn
    from spyx import axn

    x, g = jax.numpy.asarray(x), jax.numpy.asarray(g)
    rngs = flax.nnx.Rngs(0)
    node = spyx.nn.LIF(x.shape[2:], beta=0.5, threshold=1.0, activation=axn.arctan(2.0), rngs=rngs)

    def run(x):
        start = jax.numpy.zeros(x.shape[1:])

        def body(v, step):
            spikes, v = node(step, v)
            return v, spikes

        return jax.lax.scan(body, start, x)[1]

    return _jax_calls(run, x, g)


# Name: function, backend of the process.
IMPLEMENTATIONS = {
    "keras_snn, tensorflow": (keras_snn, "tensorflow"),
    "keras_snn, jax": (keras_snn, "jax"),
    "keras_snn, torch": (keras_snn, "torch"),
    "keras_snn, torch compiled": (functools.partial(keras_snn, compiled=True), "torch"),
    "SpikingJelly, eager": (spikingjelly, "torch"),
    "SpikingJelly, compiled": (functools.partial(spikingjelly, compiled=True), "torch"),
    "snnTorch": (snntorch, "torch"),
    "Norse": (norse, "torch"),
    "Spyx": (spyx, "jax"),
}
REFERENCES = ("SpikingJelly, eager", "SpikingJelly, compiled")


def one(name, timesteps):
    """Measures one implementation in this process."""
    rng = np.random.default_rng(0)
    shape = (timesteps, BATCH, FLAGS.elements // timesteps // BATCH)
    x, g = (rng.normal(size=shape).astype("float32") for _ in range(2))
    infer, train = IMPLEMENTATIONS[name][0](x, g)
    base = peak()
    [(_, seconds)] = clock(infer)
    [(first, both)] = clock(train)
    return {
        "infer ms": 1e3 * seconds,
        "train ms": 1e3 * both,
        "first s": first,
        "MB": peak() - base,
        "faults": faults(train),
    }


def in_turns(names, width):
    """Measures implementations of one backend in this process, in turns: a dictionary by name."""
    x = open_neuromorphic.example(width)
    calls = {name: open_neuromorphic.IMPLEMENTATIONS[name][0](x) for name in names}
    base, results = peak(), {}
    timings = clock(*[call for pair in calls.values() for call in pair])
    for i, (name, (_, train)) in enumerate(calls.items()):
        (_, forward), (first, both) = timings[2 * i : 2 * i + 2]
        results[name] = {"forward ms": 1e3 * forward, "train ms": 1e3 * both, "first s": first}
        start = time.process_time()
        for _ in range(FLAGS.repeats):
            train()
        results[name]["train CPU ms"] = 1e3 * (time.process_time() - start) / FLAGS.repeats
    if len(names) == 1:
        results[names[0]]["MB"] = peak() - base
    return results


def linear_and_lif():
    """The tables of the preset open_neuromorphic, or one measurement."""
    if FLAGS.only:
        names = FLAGS.only.split("+")
        results = in_turns(names, int(FLAGS.widths[0]))
        answer(results[names[0]] if len(names) == 1 else results)
        return
    known = open_neuromorphic.IMPLEMENTATIONS
    names, results = FLAGS.implementations or list(known), {}
    for width in FLAGS.widths:
        arguments = ("--preset=open_neuromorphic", f"--widths={width}")
        results[width] = {n: measure(__file__, n, known[n][1], *arguments) for n in names}
        rows = []
        for name, result in results[width].items():
            other = results[width].get(open_neuromorphic.reference(name))
            row = {"Linear and LIF": name}
            row |= {"note": result} if isinstance(result, str) else result
            if isinstance(result, dict) and isinstance(other, dict):
                row["/ Linear"] = result["train ms"] / other["train ms"]
            rows.append(row)
        columns = [
            "Linear and LIF",
            "forward ms",
            "train ms",
            "/ Linear",
            "train CPU ms",
            "first s",
            "MB",
            "note",
        ]
        table(f"n = {width}, T = 500, batch 16", columns, rows)
        save({"open_neuromorphic": results})


def main(argv):
    """All tables, or one measurement."""
    if FLAGS.preset == "open_neuromorphic":
        linear_and_lif()
        return
    if FLAGS.only:
        answer(one(FLAGS.only, int(FLAGS.timesteps[0])))
        return
    names = FLAGS.implementations or list(IMPLEMENTATIONS)
    results = {}
    for steps in FLAGS.timesteps:
        flags_ = (f"--timesteps={steps}", f"--elements={FLAGS.elements}")
        timings = {n: measure(__file__, n, IMPLEMENTATIONS[n][1], *flags_) for n in names}
        results[steps] = timings
        rows = []
        for name, result in timings.items():
            row = {"LIF": name}
            if isinstance(result, str):
                row["note"] = result
            else:
                row |= result
                for reference in REFERENCES:
                    other = timings.get(reference)
                    if isinstance(other, dict):
                        row[f"/ {reference}"] = result["train ms"] / other["train ms"]
            rows.append(row)
        columns = ["LIF", "infer ms", "train ms", *(f"/ {r}" for r in REFERENCES)]
        table(f"T = {steps}", [*columns, "first s", "MB", "faults", "note"], rows)
        save(results)


if __name__ == "__main__":
    app.run(main)
