"""Operations of three networks, counted by us, by SpikingJelly and by NeuroBench.

    python benchmarks/energy.py

The peers look at the same models on PyTorch: SpikingJelly's counters at each product that PyTorch
computes, NeuroBench's at twins of our connections, `torch.nn.Linear` and convolutions with the same
weights, that compute in their places. `docs/energy.md` says why numbers differ. NeuroBench is
installed without its dependencies, see the Makefile.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from absl import app
from keras import ops

from keras_snn import analysis, applications, graph, layers
from keras_snn.utils.tables import table_lines

STEPS = 4


def sew_resnet():
    model = applications.SEWResNet18(
        input_shape=(64, 64, 3), classes=10, timesteps=STEPS, connect="iand"
    )
    return model, np.random.default_rng(0).normal(size=(1, 64, 64, 3)) * 3


def transformer_block(tokens=64, channels=128, heads=4):
    """Spiking self-attention and a perceptron, as Spikformer has them (Zhou et al., 2023)."""

    def spikes(x, units):
        x = keras.layers.BatchNormalization()(keras.layers.Dense(units, use_bias=False)(x))
        return layers.LIF()(x)

    def split(x):
        x = keras.layers.Reshape((STEPS, tokens, heads, channels // heads))(x)
        return ops.transpose(x, (0, 1, 3, 2, 4))

    inputs = keras.Input((STEPS, tokens, channels))
    x = layers.LIF()(inputs)
    q, k, v = (split(spikes(x, channels)) for _ in range(3))
    y = ops.matmul(ops.matmul(q, ops.transpose(k, (0, 1, 2, 4, 3))), v) * 0.125
    y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4)), (-1, STEPS, tokens, channels))
    x = keras.layers.Add()([x, spikes(layers.LIF(threshold=0.5)(y), channels)])
    x = keras.layers.Add()([x, spikes(spikes(x, 4 * channels), channels)])
    return keras.Model(inputs, x), np.random.default_rng(0).normal(
        size=(1, STEPS, tokens, channels)
    ) * 2


def speech_net():
    model = applications.SpeechNet()
    return model, np.random.default_rng(0).normal(size=(1, *model.input_shape[1:]))


NETWORKS = {
    "SEW-ResNet-18": sew_resnet,
    "spiking transformer block": transformer_block,
    "SpeechNet": speech_net,
}


def spikingjellys(model, x):
    """SynOps and MACs by SpikingJelly's counters."""
    import torch
    from spikingjelly.activation_based import op_counter

    counters = op_counter.SynOpCounter(), op_counter.MACCounter()
    with torch.no_grad(), op_counter.DispatchCounterMode(list(counters)):
        model(ops.convert_to_tensor(x), training=False)
    return [counter.get_total() for counter in counters]


def neurobenchs(model, x):
    """Its harness's numbers, of twins of our connections."""
    import torch
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.workload import SynapticOperations
    from neurobench.models import TorchModel

    trace = graph.trace(model)
    twins = {}
    for call in trace.calls:
        if isinstance(call.layer, keras.layers.Dense):
            twins[call.name] = _dense(torch, call.layer)
        elif type(call.layer).__name__ in ("Conv1D", "Conv2D", "PaddedConv2D"):
            twins[call.name] = _convolution(torch, call)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.twins = torch.nn.ModuleList(twins.values())

        def forward(self, x):
            return graph.run(model, [x], self.rule)

        def rule(self, call):
            twin = twins.get(call.name)
            if twin is None:
                return call()
            steps = next(c for c in trace.calls if c.name == call.name)
            steps = steps.reads_time and steps.time == "per step"
            parts = call.args[0].unbind(1) if steps else [call.args[0]]
            found = [_placed(twin, call.layer, part) for part in parts]
            return torch.stack(found, 1) if steps else found[0]

    data = torch.tensor(x, dtype=torch.float32)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, data))
    harness = Benchmark(TorchModel(Net()), loader, [], [], [[], [SynapticOperations]])
    with torch.no_grad():
        found = harness.run(quiet=True)["SynapticOperations"]
    return found["Effective_ACs"], found["Effective_MACs"]


def _filled(module, layer, axes):
    import torch

    module.weight.data = torch.tensor(ops.convert_to_numpy(layer.kernel).transpose(axes))
    if layer.use_bias:
        module.bias.data = torch.tensor(ops.convert_to_numpy(layer.bias))
    return module


def _dense(torch, layer):
    return _filled(torch.nn.Linear(*layer.kernel.shape, bias=layer.use_bias), layer, (1, 0))


def _convolution(torch, call):
    layer, shape = call.layer, call.shape(call.input)
    geometry = graph.Geometry.of(layer, (None, *shape))
    kind = getattr(torch.nn, f"Conv{layer.rank}d")
    even = all(before == after for before, after in geometry.padding)
    module = kind(
        geometry.channels,
        geometry.filters,
        geometry.kernel,
        geometry.strides,
        tuple(before for before, _ in geometry.padding) if even else 0,
        geometry.dilation,
        geometry.groups,
        layer.use_bias,
    )
    module.zeros = [] if even else [n for pair in geometry.padding[::-1] for n in pair]
    return _filled(module, layer, (layer.rank + 1, layer.rank, *range(layer.rank)))


def _placed(twin, layer, x):
    """The output of a twin in its layer's place."""
    import torch

    if isinstance(layer, keras.layers.Dense):
        return layer.activation(twin(x))
    x = torch.movedim(x, -1, 1)
    if twin.zeros:
        x = torch.nn.functional.pad(x, twin.zeros)
    return layer.activation(torch.movedim(twin(x), 1, -1))


def main(argv):
    """The table."""
    rows = [("network", "counted by", "accumulates", "multiply-accumulates")]
    for name, build in NETWORKS.items():
        keras.utils.set_random_seed(0)
        model, x = build()
        x = x.astype("float32")
        if name != "SEW-ResNet-18":
            for weight in model.trainable_weights:
                weight.assign(3 * weight)  # untrained, deeper neurons would be silent
        found = analysis.profile(model, x, exact=True)
        bench = analysis.neurobench(model, x, batch_size=1)["SynapticOperations"]
        counts = {
            "profile": (found.synops, found.macs),
            "SpikingJelly": spikingjellys(model, x),
            "neurobench": (bench["Effective_ACs"], bench["Effective_MACs"]),
            "NeuroBench": neurobenchs(model, x),
        }
        rows += [(name, by, *(f"{n:,.0f}" for n in pair)) for by, pair in counts.items()]
        print(found, end="\n\n")
    print(*table_lines(rows, left=2), sep="\n")


if __name__ == "__main__":
    app.run(main)
