"""Gradients of whole networks: SpikingJelly's, and papers' in plain PyTorch, in float64.

A spike that rounding flips changes all gradients. In float64 there is none, and what differs by
more than rounding is another function.
"""

import functools
import sys

import keras
import numpy as np
import pytest
from helpers import gradients, lively
from keras import ops
from keras.src.backend.common import dtypes
from test_zoo_parity import peer_network

from keras_snn import applications

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = [pytest.mark.usefixtures("large_models", "float64"), pytest.mark.once]

T, BATCH, CLASSES = 2, 2, 3


@pytest.fixture
def float64(monkeypatch):
    """Layers compute in float64, which Keras rounds to float32 here and there by itself."""
    jax = sys.modules["jax"] if keras.backend.backend() == "jax" else None
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    if jax:
        jax.config.update("jax_enable_x64", True)
    for policy in ("float64", "float32"):
        keras.config.set_floatx(policy)
        keras.config.set_dtype_policy(policy)
        if policy == "float64":
            yield
    if jax:
        jax.config.update("jax_enable_x64", False)


class Fire(torch.autograd.Function):
    """1 above 0, or from 0; the gradient's slope is given."""

    @staticmethod
    def forward(ctx, z, slope, strict):
        ctx.save_for_backward(slope)
        return (z > 0 if strict else z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None, None


def gated_lif(x, w):
    """STBP-tdBN: `u = 0.25 u (1 - o) + x`, the gate differentiated; a rectangle of width 1."""
    u, o, spikes = 0.0, 0.0, []
    for current in x:
        u = 0.25 * u * (1 - o) + current
        o = Fire.apply(u - 0.5, (abs(u - 0.5) < 0.5).to(u.dtype), True)
        spikes.append(o)
    return torch.stack(spikes)


def soft_lif(x, w):
    """S-ResNet: leak 0.874, threshold 1 subtracted without gradient; a triangle of height 0.3."""
    u, spikes = 0.0, []
    for current in x:
        u = 0.874 * u + current
        spikes.append(Fire.apply(u - 1, 0.3 * F.relu(1 - abs(u - 1)), True))
        u = u - spikes[-1].detach()
    return torch.stack(spikes)


def parametric_lif(x, w):
    """SEW: `h = v + (x - v) sigmoid(w)`, to 0 without gradient; ATan(2)."""
    v, spikes = 0.0, []
    for current in x:
        h = v + (current - v) * torch.sigmoid(w)
        spikes.append(Fire.apply(h - 1, 1 / (1 + (np.pi * (h - 1)) ** 2), False))
        v = h * (1 - spikes[-1].detach())
    return torch.stack(spikes)


def lif(x, w):
    """SpikingResformer: `h = v + (x - v) / 2`, to 0 without gradient; ATan(2)."""
    return parametric_lif(x, torch.zeros((), dtype=x.dtype))


def integers(x, w):
    """E-SpikeFormer: `round(clip(x, 0, 4)) / 4`, differentiated as without rounding."""
    inside = x.clamp(0, 4)
    return (inside + (inside.round() - inside).detach()) / 4


class Parts:
    """Layers in plain PyTorch on `(time, batch, channels, h, w)`; weights by our names."""

    def __init__(self, weights, training, lif):
        self.weights, self.training, self.lif = weights, training, lif
        self.seen, self.rates = set(), []

    def weight(self, name):
        self.seen.add(name)
        return self.weights[name]

    def conv(self, x, name, strides=1, groups=1, padding=None):
        kernel = self.weight(name + "/kernel")
        bias = self.weight(name + "/bias") if name + "/bias" in self.weights else None
        padding = kernel.shape[-1] // 2 if padding is None else padding
        kernel = kernel.transpose(0, 1) if kernel.shape[0] == 1 else kernel  # depthwise
        y = F.conv2d(x.flatten(0, 1), kernel, bias, strides, padding, 1, groups)
        return y.unflatten(0, x.shape[:2])

    def unit(self, x, name, *args, spikes=True):
        """A neuron, a convolution, its normalisation."""
        x = self.spikes(x, name + "_neuron") if spikes else x
        return self.norm(self.conv(x, name + "_conv", *args), name + "_bn")

    def tokens(self, x, name):
        """A projection of tokens, its normalisation."""
        y = x.flatten(-2).movedim(2, -1)
        y = F.linear(y, self.weight(name + "_dense/kernel"), self.weights.get(name + "_dense/bias"))
        self.seen |= {name + "_dense/bias"} & set(self.weights)
        return self.norm(y.movedim(-1, 2).unflatten(-1, x.shape[-2:]), name + "_bn")

    def rate(self, name, spikes):
        """The running firing rate of each head, `(heads, 1, 1)`."""
        rate = self.weight(name + "/rates")
        if self.training:
            rate = 0.999 * rate + 0.001 * spikes.detach().mean((0, 1, 3, 4))
        return rate[:, None, None]

    def norm(self, x, name, scale=1.0, epsilon=1e-5, shift=True):
        parts = ("moving_mean", "moving_variance", "gamma", *["beta"] * shift)
        mean, variance, gamma, *beta = (self.weight(f"{name}/{part}") for part in parts)
        beta = beta[0] if shift else None
        statistics = mean.clone(), variance.clone()
        y = F.batch_norm(
            x.flatten(0, 1), *statistics, scale * gamma, beta, self.training, 0.1, epsilon
        )
        return y.unflatten(0, x.shape[:2])

    def through_time(self, x, name):
        steps = [
            self.norm(x[t : t + 1], f"{name}/step_{t + 1}", epsilon=1e-4, shift=False)
            for t in range(T)
        ]
        return torch.cat(steps)

    def spikes(self, x, name):
        y = self.lif(x, self.weight(name + "/w") if self.lif is parametric_lif else None)
        self.rates.append(float(y.mean()))
        return y

    def dense(self, x, name, bias=True):
        return F.linear(
            x, self.weight(name + "/kernel"), self.weight(name + "/bias") if bias else None
        )


def resnet19(net, x):
    """STBP-tdBN: alpha is `1 / sqrt(2)` where two branches are added; the threshold is 0.5."""

    def td(x, name, strides, alpha, bn):
        return net.norm(net.conv(x, name, strides), bn, scale=0.5 * alpha)

    half = 0.5**0.5
    x = net.spikes(td(x, "stem_conv", 1, 1, "stem_bn"), "stem_neuron")
    for stage, count in enumerate((3, 3, 2), start=1):
        for index in range(1, count + 1):
            name, strides = f"stack{stage}_block{index}", 2 if stage > 1 and index == 1 else 1
            y = td(x, name + "_conv1", strides, 1, name + "_bn1")
            y = td(net.spikes(y, name + "_neuron1"), name + "_conv2", 1, half, name + "_bn2")
            if index == 1:
                x = td(x, name + "_shortcut_conv", strides, half, name + "_shortcut_bn")
            x = net.spikes(x + y, name + "_neuron2")
    x = net.spikes(net.dense(x.mean((-2, -1)), "hidden"), "hidden_neuron")
    return net.dense(x, "predictions").mean(0)


def s_resnet20(net, x, boosting=False):
    """S-ResNet: spikes are added behind the last neuron; the projection has no neuron."""
    skip = x = net.spikes(net.through_time(net.conv(x, "stem_conv"), "stem_bn"), "stem_neuron")
    for stage in (1, 2, 3):
        for index in (1, 2, 3):
            name, change = f"stack{stage}_block{index}", stage > 1 and index == 1
            for k in (1, 2):
                x = net.conv(x, f"{name}_conv{k}", 2 if change and k == 1 else 1)
                x = net.spikes(net.through_time(x, f"{name}_bn{k}"), f"{name}_neuron{k}")
            if change:
                skip = net.conv(skip, name + "_shortcut_conv", 2)
                skip = net.through_time(skip, name + "_shortcut_bn")
            skip = x = x + skip
    y = net.dense(x.mean((-2, -1)), "boosting" if boosting else "predictions", bias=False)
    return (F.avg_pool1d(y, 10, 10) if boosting else y).mean(0)


def event_net(net, x, adds_spikes):
    """The 7B nets of SEW-ResNet's paper; the last layer sees mean features."""

    def unit(x, name, part=""):
        y = net.norm(net.conv(x, f"{name}_conv{part}"), f"{name}_bn{part}")
        return y if part == 2 else net.spikes(y, f"{name}_neuron{part}")

    x = unit(x, "block1_up")
    for index in range(1, 8):
        name = f"block{index}"
        y = unit(unit(x, name, 1), name, 2)
        neuron = functools.partial(net.spikes, name=name + "_neuron2")
        x = x + neuron(y) if adds_spikes else neuron(x + y)
        x = F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
    return net.dense(x.flatten(2).mean(0), "predictions")


def resformer(net, x):
    """SpikingResformer: attention to a coarser map, an MLP with a grouped convolution."""
    x = net.norm(net.conv(x, "stem_conv"), "stem_bn")
    for stage, (heads, patch) in enumerate(((1, 4), (2, 2), (2, 1)), start=1):
        x = net.unit(x, f"stage{stage}", 2) if stage > 1 else x
        name = f"stage{stage}_block1_attn"
        spikes = net.spikes(x, name + "_neuron")
        y = net.norm(net.conv(spikes, name + "_kv_conv", patch, 1, 0), name + "_kv_bn")
        s, y = (a.flatten(-2).unflatten(2, (heads, -1)) for a in (spikes, y))
        k, v, attention = *y.chunk(2, 3), f"{name}_attention/{name}_attention"
        scores = k.transpose(-1, -2) @ s
        scores = scores / (net.rate(attention + "_scores", s) * s.shape[3]).sqrt()
        a = net.spikes(scores, name + "_attention/neuron")
        y = v @ a / (net.rate(attention + "_sums", a) * a.shape[3]).sqrt()
        x = x + net.unit(y.flatten(2, 3).unflatten(-1, x.shape[-2:]), name + "_proj")
        name = f"stage{stage}_block1_mlp"
        up = net.unit(x, name + "_up")
        mid = up + net.unit(up, name + "_mid", 1, up.shape[2] // 4)
        x = x + net.unit(mid, name + "_down")
    return net.dense(x.mean((-2, -1)), "predictions", bias=False).mean(0)


def e_spikeformer(net, x):
    """E-SpikeFormer: separable convolutions, 3x3 MLPs, then attention with wide values."""

    def separable(x, name):
        y = net.spikes(net.unit(x, name + "_sep1"), name + "_sep2_neuron")
        y = net.norm(net.conv(y, name + "_sep2_conv", 1, y.shape[2]), name + "_sep2_bn")
        return x + net.unit(y, name + "_sep3")

    for stage in range(1, 6):
        strides = 2 if stage in (3, 4) else 1
        x = net.unit(x, f"stage{stage}", strides, spikes=stage > 1)
        name = f"stage{stage}_block1"
        x = separable(x, name)
        if stage < 4:
            x = x + net.unit(net.unit(x, name + "_mlp1"), name + "_mlp2")
            continue
        s = net.spikes(x, name)
        q, k, v = (net.spikes(net.tokens(s, f"{name}_{part}"), name) for part in "qkv")
        q, k, v = (a.flatten(-2).unflatten(2, (2, -1)).transpose(-1, -2) for a in (q, k, v))
        y = q @ k.transpose(-1, -2) @ v * 2 * q.shape[-1] ** -0.5
        y = y.transpose(-1, -2).flatten(2, 3).unflatten(-1, x.shape[-2:])
        x = x + net.tokens(net.spikes(y, name), name + "_proj")
        y = x
        for part in ("_mlp1", "_mlp2"):
            y = net.tokens(net.spikes(y, name), name + part)
        x = x + y
    x = 4 * net.spikes(x.mean((-2, -1)), "head")
    return net.dense(x, "predictions").mean(0)


EVENTS = (T, 128, 128, 2)
CASES = {  # our function and arguments; the shape of an input; the paper's network and its neuron
    "S-ResNet-20": ("SResNet20", {}, (8, 8, 3), s_resnet20, soft_lif),
    "S-ResNet-20, boosting": (
        "SResNet20",
        {"boosting": True},
        (8, 8, 3),
        functools.partial(s_resnet20, boosting=True),
        soft_lif,
    ),
    "ResNet-19": ("TDBNResNet19", {}, (8, 8, 3), resnet19, gated_lif),
    "7B": ("SEW7BNet", {}, EVENTS, functools.partial(event_net, adds_spikes=True), parametric_lif),
    "SpikingResformer": (
        "SpikingResformer",
        {
            "width": (4, 8, 8),
            "blocks": (1, 1, 1),
            "heads": (1, 2, 2),
            "group_size": 4,
            "small_images": True,
        },
        (8, 8, 3),
        resformer,
        lif,
    ),
    "E-SpikeFormer": (
        "ESpikeFormer",
        {"width": (4, 4, 8, 8), "blocks": (1, 1, 1, 1, 1), "heads": 2, "small_images": True},
        (16, 16, 3),
        e_spikeformer,
        integers,
    ),
    "7B, spiking": (
        "Spiking7BNet",
        {},
        EVENTS,
        functools.partial(event_net, adds_spikes=False),
        parametric_lif,
    ),
}


def build(name, shape, **arguments):
    if len(shape) == 3:
        arguments["timesteps"] = T
    return getattr(applications, name)(
        input_shape=shape, classes=CLASSES, classifier_activation=None, **arguments
    )


def draw(shape):
    """Images, and the factors of the logits in the loss."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(BATCH, *shape)), rng.normal(size=(BATCH, CLASSES))


def short(path):
    """A variable's path without the wrappers of our layers."""
    return "/".join(dict.fromkeys(p for p in path.split("/") if "_cell" not in p))


def torch_order(value):
    """A kernel in PyTorch's order of axes, or back; the other weights as they are."""
    return {4: lambda: value.transpose(3, 2, 0, 1), 2: lambda: value.T}.get(
        value.ndim, lambda: value
    )()


def same_gradients(model, training, x, factors, wanted_logits, wanted_x, wanted):
    """Our logits and gradients are those wanted, of the input and all weights by short names."""
    variables = model.trainable_variables

    def loss(inputs):
        return ops.sum(ops.convert_to_tensor(factors) * model(inputs, training=training))

    value, (found_x,), found = gradients(loss, variables, x)
    np.testing.assert_allclose(value, np.sum(factors * wanted_logits), rtol=1e-10)
    found = {short(v.path): torch_order(g) for v, g in zip(variables, found, strict=True)}
    assert set(found) == set(wanted)
    found["input"], wanted["input"] = found_x, wanted_x
    for name, gradient in wanted.items():
        scale = abs(gradient).max()
        if training and name.endswith("/bias") and name != "predictions/bias":
            scale = 1.0  # in front of a normalisation, which takes it away: 0 but for rounding
        assert scale > 0, name
        np.testing.assert_allclose(found[name], gradient, atol=1e-9 * scale, rtol=0, err_msg=name)


def both(case, training=False):
    """Our network of a paper, images, factors; logits and gradients of the paper's in PyTorch."""
    title, arguments, shape, network, lif = CASES[case]
    model = build(title, shape, **arguments)
    rng = np.random.default_rng(0)
    lively = {
        "gamma": lambda shape: rng.uniform(1, 2, shape),
        # Integers saturate at 4, of sums of several branches.
        "beta": lambda shape: rng.normal(0.5 if lif is integers else 0.9, 0.3, shape),
        "moving_mean": lambda shape: rng.normal(0, 0.2, shape),
        "moving_variance": lambda shape: rng.uniform(0.5, 1.5, shape),
        "w": lambda shape: rng.normal(0, 0.5, shape),
        "rates": lambda shape: rng.uniform(0.02, 0.1, shape),
    }
    if title in ("SpikingResformer", "ESpikeFormer"):  # whose fresh weights are small
        lively["kernel"] = lambda shape: rng.normal(0, 1.5 * np.prod(shape[:-1]) ** -0.5, shape)
    weights = {}
    for variable in model.weights:
        if variable.name in lively:
            variable.assign(lively[variable.name](variable.shape))
        value = torch_order(ops.convert_to_numpy(variable))
        weights[short(variable.path)] = torch.tensor(value.copy())
    learned = {short(v.path) for v in model.trainable_variables}
    for name in learned:
        weights[name].requires_grad_()

    x, factors = draw(shape)
    images = torch.tensor(x, requires_grad=True)
    sequence = images.movedim(-1, -3)
    sequence = sequence.repeat(T, 1, 1, 1, 1) if len(shape) == 3 else sequence.movedim(1, 0)
    net = Parts(weights, training, lif)
    logits = network(net, sequence)
    (logits * torch.tensor(factors)).sum().backward()
    assert net.seen == set(weights)
    share = np.mean([0 < rate < 1 for rate in net.rates])
    assert share == 1 or (lif is integers and share > 0.8), net.rates
    wanted = {name: weights[name].grad.numpy() for name in learned}
    return model, x, factors, logits.detach().numpy(), images.grad.numpy(), wanted


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_papers_networks(case, training):
    model, *wanted = both(case, training)
    same_gradients(model, training, *wanted)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize(
    ("title", "size", "peer"),
    [
        ("SEWResNet18", 64, ("sew_resnet", "sew_resnet18", {"cnf": "ADD"})),
        ("SpikingResNet18", 64, ("spiking_resnet", "spiking_resnet18", {})),
        ("MaxResNet18", 8, ("ms_resnet", "max_resnet18", {})),
    ],
)
def test_gradients_of_the_zoo(zoo, title, size, peer, training):
    module, name, arguments = peer
    net = peer_network(zoo, module, name, arguments | {"num_classes": CLASSES}).train(training)
    shape = (size, size, 3)
    model = build(title, shape)
    report = applications.load_torch_weights(model, net.state_dict())
    assert not report.missing
    net = net.double()
    for neuron in net.modules():
        if type(neuron) is zoo.neuron.IFNode:  # not of the paper's own choice
            neuron.surrogate_function = zoo.surrogate.ATan()
    same_as_peer(model, training, net, report)


def same_as_peer(model, training, net, report):
    """Logits and gradients are those of the network that the weights come from."""
    x, factors = draw(model.input_shape[1:])
    images = torch.tensor(x, requires_grad=True)
    logits = net(images.movedim(-1, -3).repeat(T, 1, 1, 1, 1))
    logits = logits.mean(0) if logits.ndim == 3 else logits
    (logits * torch.tensor(factors)).sum().backward()
    parameters, places, wanted = dict(net.named_parameters()), {}, {}
    for theirs, ours in report.used:
        if theirs in parameters:
            places.setdefault(theirs, []).append(ours)
    for theirs, names in places.items():  # projections of attention may be stored as one
        for name, gradient in zip(names, np.split(parameters[theirs].grad.numpy(), len(names))):
            if name.endswith("_dense/kernel"):
                gradient = gradient.reshape(gradient.shape[:2])
            elif name.endswith("_mix_conv/kernel"):
                gradient = gradient.swapaxes(0, 1)
            wanted[name] = gradient
    same_gradients(
        model, training, x, factors, logits.detach().numpy(), images.grad.numpy(), wanted
    )


MAX_FORMERS = {  # arguments of the peer's class and of ours
    "small images": ({"cifar": True}, {"heads": 8, "mixing": (None, 3)}),
    "ImageNet": (
        {"tau": 2.0, "detach_reset": True},
        {"heads": 1, "mixing": (7, 5), "patch_size": 16, "shortcut": "spikes"},
    ),
}


def max_former(zoo, case, training=False):
    """A Max-Former of the zoo, ours with its weights, and the report."""
    theirs, ours = MAX_FORMERS[case]
    torch.manual_seed(0)
    net = zoo.maxformer.MaxFormer(
        T=T, num_classes=CLASSES, embed_dims=32, depths=(1, 1, 1), **theirs
    )
    lively(net, 0.8)
    size = 8 * ours.get("patch_size", 4) // 2
    model = build("MaxFormer", (size, size, 3), width=32, blocks=(1, 1, 1), **ours)
    report = applications.load_torch_weights(model, net.state_dict())
    assert report.missing == report.notes == []
    assert all(tensor.endswith("num_batches_tracked") for tensor in report.unused)
    return net.train(training), model, report


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("case", MAX_FORMERS)
def test_gradients_of_max_former(zoo, case, training):
    net, model, report = max_former(zoo, case, training)
    same_as_peer(model, training, net.double(), report)
