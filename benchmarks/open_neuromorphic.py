"""The benchmark of Open Neuromorphic: a linear layer and a LIF layer, 500 steps, batches of 16.

What `neuron.py --preset=open_neuromorphic` measures. The network and its numbers are those of the
site's benchmark (snn-library-benchmarks, December 2023); unlike there everything is synchronised,
and Spyx's input is the others'. Forward is with the tape on, backward is of the sum of the spikes
to the weights, `bare` is the linear layer alone.
"""

import functools

import numpy as np

STEPS, BATCH, TAU = 500, 16, 5.0


def example(width):
    """Its input, `(time, batch, width)`."""
    return np.random.default_rng(0).normal(size=(STEPS, BATCH, width)).astype("float32")


def keras_snn(x, bare=False, compiled=False):
    """`Dense` and our LIF, batch first; `(forward, forward and backward)`."""
    import keras
    from keras import ops

    from keras_snn.layers import LIF

    x = ops.convert_to_tensor(np.swapaxes(x, 0, 1).copy())
    parts = [keras.layers.Dense(x.shape[-1])] + ([] if bare else [LIF(tau=TAU)])
    model = keras.Sequential([keras.Input(x.shape[1:], batch_size=BATCH), *parts])
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _tensorflow_calls(model, x)
    if backend == "jax":
        weights = [w.value for w in model.trainable_variables]
        return _jax_calls(
            lambda ws, x: model.stateless_call(ws, [], x, training=True)[0], weights, x
        )
    import torch

    call = torch.compile(model) if compiled else model
    return _torch_calls(
        lambda x: call(x, training=True), [w.value for w in model.trainable_variables], x
    )


def _tensorflow_calls(model, x):
    import tensorflow as tf

    weights = [w.value for w in model.trainable_variables]

    @tf.function
    def forward(x):
        with tf.GradientTape():
            return model(x, training=True)

    @tf.function
    def train(x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model(x, training=True))
        return tape.gradient(total, weights)

    return lambda: forward(x)[0, 0, 0].numpy(), lambda: train(x)[1].numpy()


def _jax_calls(run, weights, x):
    import jax

    forward = jax.jit(run)
    train = jax.jit(jax.grad(lambda weights, x: run(weights, x).sum()))
    wait = jax.block_until_ready
    return lambda: wait(forward(weights, x)), lambda: wait(train(weights, x))


def _torch_calls(run, weights, x):
    import torch

    wait = torch.cuda.synchronize if x.is_cuda else lambda: None

    def forward():
        run(x)
        wait()

    def train():
        for weight in weights:
            weight.grad = None
        run(x).sum().backward()
        wait()

    return forward, train


def _linear(x):
    """PyTorch's input and linear layer."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.tensor(x, device=device), torch.nn.Linear(x.shape[-1], x.shape[-1]).to(device)


def linear(x):
    """PyTorch's linear layer alone."""
    x, layer = _linear(x)
    return _torch_calls(layer, list(layer.parameters()), x)


def spikingjelly(x, compiled=False):
    """SpikingJelly's LIFNode, all steps in one call."""
    import torch
    from spikingjelly.activation_based import functional, neuron, surrogate

    x, layer = _linear(x)
    node = neuron.LIFNode(TAU, surrogate_function=surrogate.ATan(), step_mode="m")
    call = torch.compile(node) if compiled else node

    def run(x):
        functional.reset_net(node)
        return call(layer(x))

    return _torch_calls(run, list(layer.parameters()), x)


def snntorch(x):
    """snnTorch's Leaky, step by step."""
    import snntorch
    import torch

    x, layer = _linear(x)
    node = snntorch.Leaky(beta=0.95).to(x.device)

    def run(x):
        v, spikes = node.init_leaky(), []
        for step in layer(x):
            s, v = node(step, v)
            spikes.append(s)
        return torch.stack(spikes)

    return _torch_calls(run, list(layer.parameters()), x)


def norse(x):
    """Norse's LIF with its defaults."""
    from norse.torch import LIF

    x, layer = _linear(x)
    node = LIF().to(x.device)
    return _torch_calls(lambda x: node(layer(x))[0], list(layer.parameters()), x)


def spyx(x):
    """Spyx's LIF under jit and scan."""
    import flax.nnx
    import jax
    import spyx.nn

    width = x.shape[-1]
    node = spyx.nn.LIF((width,), rngs=flax.nnx.Rngs(0))
    x = jax.numpy.asarray(x)
    weights = [jax.random.normal(jax.random.key(0), (width, width)) / width**0.5, x[0, 0] * 0]

    def run(weights, x):
        def body(v, step):
            spikes, v = node(step, v)
            return v, spikes

        start = jax.numpy.zeros((BATCH, width))
        return jax.lax.scan(body, start, x @ weights[0] + weights[1])[1]

    return _jax_calls(run, weights, x)


# Name: function, backend of the process.
IMPLEMENTATIONS = {
    **{f"keras_snn, {b}": (keras_snn, b) for b in ("tensorflow", "jax", "torch")},
    "keras_snn, torch compiled": (functools.partial(keras_snn, compiled=True), "torch"),
    **{
        f"Dense alone, {b}": (functools.partial(keras_snn, bare=True), b)
        for b in ("tensorflow", "jax", "torch")
    },
    "torch.nn.Linear alone": (linear, "torch"),
    "SpikingJelly, eager": (spikingjelly, "torch"),
    "SpikingJelly, compiled": (functools.partial(spikingjelly, compiled=True), "torch"),
    "snnTorch": (snntorch, "torch"),
    "Norse": (norse, "torch"),
    "Spyx": (spyx, "jax"),
}


def reference(name):
    """The linear layer alone that an implementation is compared with."""
    backend = IMPLEMENTATIONS[name][1]
    ours = name.startswith(("keras_snn", "Dense")) or backend == "jax"
    return f"Dense alone, {backend}" if ours else "torch.nn.Linear alone"
