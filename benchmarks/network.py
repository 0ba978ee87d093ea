"""Whole networks, side by side: ours, the same network with ReLUs, and SpikingJelly.

    python benchmarks/network.py
    python benchmarks/network.py --networks=event --backends=torch --json=network.json
    python benchmarks/network.py --networks=sew18,sew50 --backends=torch,jax --size=224 \
        --batch=32 --dtype=mixed_bfloat16  # on a GPU

A training step (forward, backward, SGD) and inference, in milliseconds, with its ratio to the
backend's own network with ReLUs on as many frames (the price of its convolutions alone; both take
turns in one process); then the same alone in its process, as SpikingJelly's are, with the ratios to
these. Megabytes of the process (of the GPU, where there is one) above what it held before the
network, once all imports and a training step of two tiny layers were done (XLA takes 80 MB at its
start): while a step runs, what compilers have freed given back, and at most, with the compilers
(ours and ReLUs, training: medians of three processes). Networks: `event`, three convolutions with
normalisation and LIF on 34x34x2 frames, T = 10; `sew18`, SEW-ResNet-18 on 32x32 images, T = 4;
`vgg11`, Spiking VGG-11 with normalisation on 32x32 images, T = 4; `sew50`, SEW-ResNet-50 on one
224x224 image, T = 4; `spikformer`, two blocks of 192 channels on 32x32 images, and `qkformer`,
three blocks of up to 128 on 64x64, T = 4. Batches of 16 where not said. "Frozen" is TensorFlow
told, by a variable of its environment, that weights don't change, so that convolutions keep them in
the order that oneDNN wants; "XLA" and "compiled" are `jit_compile=True`. On a GPU SpikingJelly
takes its CUDA kernels, else Triton's, else PyTorch's operations, by what is installed.
"""

import functools
import importlib
import statistics
import sys
import types

import numpy as np
from absl import app, flags
from common import FLAGS, answer, clock, held, measure, peak, save, table

flags.DEFINE_list("networks", ["event", "sew18", "vgg11", "sew50"], "Networks.")
flags.DEFINE_list("backends", ["tensorflow", "torch", "jax"], "Backends of ours.")
flags.DEFINE_enum("dtype", "float32", ["float32", "mixed_bfloat16"], "Dtype policy.")
flags.DEFINE_list("steps", ["train", "infer"], "Whether to measure training, inference or both.")
flags.DEFINE_bool("variants", True, "Whether to measure XLA, frozen weights and torch.compile too.")
flags.DEFINE_bool("jit", False, "Whether networks are compiled on TensorFlow and PyTorch too.")
flags.DEFINE_integer("size", None, "Height and width of images, where not the network's own.")
flags.DEFINE_integer("batch", None, "Batch size, where not the network's own.", lower_bound=1)

# Shape of a frame, steps, batch size, classes.
SIZES = {
    "event": ((34, 34, 2), 10, 16),
    "sew18": ((32, 32, 3), 4, 16),
    "vgg11": ((32, 32, 3), 4, 16),
    "sew50": ((224, 224, 3), 4, 1),
    "spikformer": ((32, 32, 3), 4, 16),
    "qkformer": ((64, 64, 3), 4, 16),
}
# Transformers: our name and arguments, SpikingJelly's class and arguments.
TRANSFORMERS = {
    "spikformer": (
        "Spikformer",
        {"width": 192, "blocks": 2, "heads": 6, "pool": "currents"},
        "Spikformer",
        {"patch_size": 4, "embed_dims": 192, "depths": 2, "num_heads": 6},
    ),
    "qkformer": (
        "QKFormer",
        {
            "width": 128,
            "blocks": (1, 1, 1),
            "heads": 4,
            "patch_size": 16,
            "biases": ("stem", "mlp"),
        },
        "QKFormer",
        {"embed_dims": 128, "depths": (1, 1, 1), "num_heads": (4, 4, 4)},
    ),
}
CLASSES = 10


def sizes(name):
    """Shape of a frame, steps, batch size."""
    shape, timesteps, batch = SIZES[name]
    shape = (FLAGS.size, FLAGS.size, shape[2]) if FLAGS.size else shape
    return shape, timesteps, FLAGS.batch or batch


def keras_network(name, relu):
    """Our network, or the same with ReLUs and without time."""
    import keras

    from keras_snn import applications
    from keras_snn.applications.builder import Builder, Value
    from keras_snn.applications.factory import pooled_top

    keras.config.set_dtype_policy(FLAGS.dtype)
    shape, timesteps, _ = sizes(name)
    arguments = {"classes": CLASSES, "classifier_activation": None, "input_shape": shape}
    arguments |= (
        {"timesteps": None, "neuron": keras.layers.ReLU} if relu else {"timesteps": timesteps}
    )
    if name in TRANSFORMERS:
        title, more, *_ = TRANSFORMERS[name]
        return getattr(applications, title)(**arguments, **more)
    if name != "event":
        title = {"sew18": "SEWResNet18", "vgg11": "SpikingVGG11BN", "sew50": "SEWResNet50"}[name]
        return getattr(applications, title)(**arguments)
    net = Builder(keras.layers.ReLU if relu else "lif", None if relu else timesteps)
    inputs = keras.Input(shape if relu else (timesteps, *shape))
    x = Value(inputs, has_time=not relu)
    for i, filters in enumerate((32, 64, 128), start=1):
        x = net.conv(x, filters, 3, 1 if i == 1 else 2, f"conv{i}")
        x = net.neuron(net.norm(x, f"bn{i}"), f"neuron{i}")
    return keras.Model(inputs, pooled_top(net, x, CLASSES, None).tensor)


def ours(name, batch, relu):
    """Training step and inference of our network."""
    import keras

    model = keras_network(name, relu)
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=FLAGS.jit or "auto",
    )
    frames = batch * (sizes(name)[1] if relu else 1)
    x = np.random.default_rng(0).normal(size=(frames, *model.input_shape[1:])).astype("float32")
    y = np.arange(frames) % CLASSES
    return lambda: model.train_on_batch(x, y), lambda: model.predict_on_batch(x)


def peer():
    """SpikingJelly's modules: `functional`, `layer`, `neuron`, and its families of networks."""
    for module in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        sys.modules[module] = types.ModuleType(module)  # its zoo imports downloads from there
    sys.modules["torchvision"].__path__ = sys.modules["torchvision.models"].__path__ = []
    sys.modules["torchvision.models.utils"].load_state_dict_from_url = None
    from spikingjelly.activation_based import functional, layer, neuron

    zoo = "spikingjelly.activation_based.model"
    families = ("qkformer", "sew_resnet", "spikformer", "spiking_vgg")
    found = {name: importlib.import_module(f"{zoo}.{name}") for name in families}
    return functional, layer, neuron, types.SimpleNamespace(**found)


def spikingjelly(name, batch, compiled):
    """The same network of SpikingJelly, in PyTorch."""
    import torch

    functional, layer, neuron, zoo = peer()
    (height, width, channels), timesteps, _ = sizes(name)
    arguments = {"spiking_neuron": neuron.IFNode, "detach_reset": True, "num_classes": CLASSES}
    if name == "event":
        parts, last = [], channels
        for i, filters in enumerate((32, 64, 128)):
            parts += [
                layer.Conv2d(last, filters, 3, 1 if i == 0 else 2, 1, bias=False),
                layer.BatchNorm2d(filters),
                neuron.LIFNode(detach_reset=True),
            ]
            last = filters
        parts += [layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(128, CLASSES)]
        net = torch.nn.Sequential(*parts)
    elif name in TRANSFORMERS:
        *_, title, more = TRANSFORMERS[name]
        if name == "spikformer":
            more = more | {"img_size_h": height, "img_size_w": width}
        shared = {"T": timesteps, "num_classes": CLASSES, "tau": 2.0, "detach_reset": True}
        net = getattr(getattr(zoo, name), title)(**shared, **more)
    elif name == "vgg11":
        net = zoo.spiking_vgg.spiking_vgg11_bn(**arguments)
    else:
        net = getattr(zoo.sew_resnet, f"sew_resnet{name[3:]}")(cnf="ADD", **arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = torch.autocast(device, torch.bfloat16, enabled=FLAGS.dtype != "float32")
    functional.set_step_mode(net, "m")
    net.to(device)
    call = torch.compile(net) if compiled else net
    rng = np.random.default_rng(0)
    x = rng.normal(size=(timesteps, batch, channels, height, width))
    x = torch.tensor(x, dtype=torch.float32, device=device)
    x = x[0] if name in TRANSFORMERS else x  # these repeat images by themselves
    y = torch.arange(batch, device=device) % CLASSES
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def mean(y):
        return y.mean(0) if y.ndim == 3 else y

    def train():
        net.train()
        functional.reset_net(net)
        optimizer.zero_grad()
        with precision:
            loss = torch.nn.functional.cross_entropy(mean(call(x)), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    def infer():
        net.eval()
        functional.reset_net(net)
        with torch.no_grad(), precision:
            return mean(call(x)).cpu()

    return train, infer


def begin():
    """Imports keras_snn and trains two layers: the backend's compiler has started."""
    import keras

    from keras_snn.layers import IF

    model = keras.Sequential([keras.Input((4, 1)), keras.layers.Dense(1), IF()])
    model.compile("sgd", "mse", jit_compile="auto")
    model.train_on_batch(np.ones((1, 4, 1)), np.ones((1, 4, 1)))


def one(kinds, name, batch, what):
    """Measures one step of one network in this process, or of two that take turns."""
    begin()
    if any("Jelly" in kind for kind in kinds):
        peer()
    most, base, calls = peak(), held(), []
    for kind in kinds:
        make = functools.partial(spikingjelly, compiled=kind == "SpikingJelly, compiled")
        if "Jelly" not in kind:
            make = functools.partial(ours, relu=kind == "ReLU")
        calls.append(make(name, batch)[what == "infer"])
    times, most = clock(*calls), peak() - most
    memory = {"MB": held(lambda: [call() for call in calls]) - base, "most MB": most}
    return [{"ms": 1e3 * s, "first s": f} | memory for f, s in times]


def passed():
    """Flags that the measuring processes need too."""
    return [f"--dtype={FLAGS.dtype}", *([f"--size={FLAGS.size}"] if FLAGS.size else [])]


FROZEN = {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}
# Other ways on a backend: what for, label, flags, variables of the environment.
WAYS = {
    "tensorflow": [
        (("infer",), "tensorflow frozen", (), FROZEN),
        (("infer",), "tensorflow XLA", ("--jit",), {}),
    ],
    "torch": [(("train", "infer"), "torch compiled", ("--jit",), {})],
}


def side_by_side(name, batch, what, backend, label, more, variables):
    """Ours and the network with ReLUs: times from one process, memory from one each."""
    kinds = ("keras_snn", "ReLU")

    def run(kinds):
        only = f"{'+'.join(kinds)}/{name}/{batch}/{what}"
        return measure(__file__, only, backend, *more, *passed(), **variables)

    both = run(kinds)
    for kind, result in zip(kinds, both) if isinstance(both, list) else ():
        runs = [run([kind]) for _ in range(3 if what == "train" else 1)]
        runs = [alone[0] for alone in runs if isinstance(alone, list)]
        for column, of in {"alone": "ms", "MB": "MB", "most MB": "most MB"}.items():
            result[column] = statistics.median([f[of] for f in runs] or [None])
    both = both if isinstance(both, list) else [both] * 2
    return {f"{kind}, {label}": result for kind, result in zip(kinds, both)}


def main(argv):
    """All tables, or one measurement."""
    FLAGS.set_default("limit", 600)  # PyTorch's compiler takes minutes, until its files are there
    if FLAGS.only:
        kinds, name, batch, what = FLAGS.only.split("/")
        answer(one(kinds.split("+"), name, int(batch), what))
        return
    results = {}
    for name in FLAGS.networks:
        own = sizes(name)[2]
        for what, batch in dict.fromkeys((("train", own), ("infer", own), ("infer", 1))):
            if what not in FLAGS.steps:
                continue
            timings = {}
            for backend in FLAGS.backends:
                ways = WAYS.get(backend, []) if FLAGS.variants else []
                others = [way for use, *way in ways if what in use]
                for way in [(backend, (), {}), *others]:
                    timings |= side_by_side(name, batch, what, backend, *way)
            for kind in ("SpikingJelly, eager", "SpikingJelly, compiled"):
                result = measure(__file__, f"{kind}/{name}/{batch}/{what}", "torch", *passed())
                alone = result[0] if isinstance(result, list) else result
                timings[kind] = alone | {"alone": alone["ms"]} if isinstance(alone, dict) else alone
            results[f"{name} {what} {batch}"] = timings
            rows = [_row(label, result, timings) for label, result in timings.items()]
            table(f"{name}, {what}, batch {batch}", COLUMNS, rows)
            save(results)


COLUMNS = ["", "ms", "/ own ReLU", "alone", "/ eager", "/ compiled", "MB", "most MB", "first s"]
COLUMNS += ["note"]


def _row(label, result, timings):
    if isinstance(result, str):
        return {"": label, "note": result}
    row = {"": label} | result
    others = {
        "/ own ReLU": ("ms", label.replace("keras_snn", "ReLU")),
        "/ eager": ("alone", "SpikingJelly, eager"),
        "/ compiled": ("alone", "SpikingJelly, compiled"),
    }
    for column, (time, other) in others.items():
        known = other != label and isinstance(timings.get(other), dict)
        if known and None not in (result[time], timings[other][time]):
            row[column] = result[time] / timings[other][time]
    return row


if __name__ == "__main__":
    app.run(main)
