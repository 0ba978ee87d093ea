"""Live parity with the installed peers: the same spikes, the same gradients.

A peer that is not installed skips its tests, with a reason. Peers run on PyTorch or JAX, whatever
Keras's backend; everything is compared as numpy arrays. Entries whose potential lies within 1e-5 of
the threshold in the reference may round either way and are not compared.
"""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import ops

from keras_snn import layers, surrogates

SHAPE = (4, 12, 7)  # batch, time, features; peers want time first


def peer(module):
    return pytest.importorskip(module, reason=f"{module} is not installed (extra `peers`)")


def data(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * 1.2 + 0.4
    return x.astype("float32"), rng.normal(size=shape).astype("float32")


def ours(layer, x, upstream):
    """Our spikes, and gradients to the input and to the weights."""
    spikes = to_numpy(layer(x))
    _, (dx,), dw = gradients(
        lambda z: ops.sum(layer(z) * ops.array(upstream)), layer.trainable_variables, x
    )
    return spikes, dx, dw


def torch_reference(step, x, upstream, weights=()):
    """Spikes and gradients of a peer's `step(x_t)` on PyTorch, looped over time."""
    torch = peer("torch")
    z = torch.tensor(x, requires_grad=True)
    spikes = torch.stack([step(z[:, t]) for t in range(x.shape[1])], dim=1)
    (spikes * torch.tensor(upstream)).sum().backward()
    return spikes.detach().numpy(), z.grad.numpy(), [w.grad.numpy() for w in weights]


def compare(found, reference, tolerance=1e-5):
    spikes, dx, dw = found
    assert 0.03 < spikes.mean() < 0.9
    np.testing.assert_array_equal(spikes, reference[0])
    np.testing.assert_allclose(dx, reference[1], atol=tolerance)
    for a, b in zip(dw, reference[2], strict=True):
        np.testing.assert_allclose(np.reshape(a, -1), np.reshape(b, -1), atol=1e-4, rtol=1e-5)


# SpikingJelly

RESETS = [  # ours, SpikingJelly's v_reset
    ({"reset": "hard"}, 0.0),
    ({"reset": "hard", "v_reset": -0.3}, -0.3),
    ({"reset": "soft"}, None),
]
PAIRS = {  # our surrogate: SpikingJelly's name and arguments
    "ATan": ("ATan", {"alpha": 2.0}),
    "Sigmoid": ("Sigmoid", {"alpha": 4.0}),
    "PiecewiseQuadratic": ("PiecewiseQuadratic", {"alpha": 1.0}),
    "PiecewiseExp": ("PiecewiseExp", {"alpha": 1.0}),
    "SoftSign": ("SoftSign", {"alpha": 2.0}),
    "SuperSpike": ("SuperSpike", {"alpha": 1.0}),
    "NonzeroSignLogAbs": ("NonzeroSignLogAbs", {"alpha": 1.0}),
    "Erf": ("Erf", {"alpha": 2.0}),
    "PiecewiseLeakyReLU": ("PiecewiseLeakyReLU", {"w": 1.0, "c": 0.01}),
    "SquarewaveFourier": ("SquarewaveFourierSeries", {"n": 2, "T_period": 8.0}),
    "S2NN": ("S2NN", {"alpha": 4.0, "beta": 1.0}),
    "QPseudoSpike": ("QPseudoSpike", {"alpha": 2.0}),
    "LeakyKReLU": ("LeakyKReLU", {"leak": 0.0, "k": 1.0}),
    "FakeNumericalGradient": ("FakeNumericalGradient", {"alpha": 0.3}),
    "LogTailedReLU": ("LogTailedReLU", {"alpha": 0.0}),
    "Rectangle": ("Rect", {"alpha": 1.0}),
}


def jelly(name, surrogate="ATan", **kwargs):
    neuron = peer("spikingjelly.activation_based.neuron")
    functions = peer("spikingjelly.activation_based.surrogate")
    title, arguments = PAIRS[surrogate]
    return getattr(neuron, name)(
        surrogate_function=getattr(functions, title)(**arguments), step_mode="s", **kwargs
    )


@pytest.mark.parametrize("name", PAIRS)
def test_spikingjelly_surrogate(name):
    torch = peer("torch")
    functions = peer("spikingjelly.activation_based.surrogate")
    title, arguments = PAIRS[name]
    x = np.linspace(-3, 3, 61).astype("float32")
    z = torch.tensor(x, requires_grad=True)
    spikes = getattr(functions, title)(**arguments)(z)
    spikes.sum().backward()
    _, (dx,), _ = gradients(lambda u: ops.sum(surrogates.get(name)(u)), [], x)
    np.testing.assert_array_equal(
        to_numpy(surrogates.get(name)(ops.array(x))), spikes.detach().numpy()
    )
    np.testing.assert_allclose(dx, z.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("reset", "v_reset"), RESETS)
@pytest.mark.parametrize(
    ("kind", "decay_input"),
    [("IF", None), *((k, d) for k in ("LIF", "ParametricLIF") for d in (True, False))],
)
def test_spikingjelly_if_lif_plif(kind, decay_input, reset, v_reset, detach):
    x, upstream = data()
    for surrogate in ("ATan", "Sigmoid", "PiecewiseQuadratic"):
        common = {"v_reset": v_reset, "detach_reset": detach}
        config = reset | {"detach_reset": detach, "surrogate": surrogate}
        if kind == "IF":
            node, layer = jelly("IFNode", surrogate, **common), layers.IF(**config)
        else:
            common["decay_input"] = config["decay_input"] = decay_input
            tau = "tau" if kind == "LIF" else "init_tau"
            node = jelly(kind + "Node", surrogate, **common, **{tau: 1.7})
            layer = getattr(layers, kind)(tau=1.7, **config)
        weights = list(node.parameters())
        compare(ours(layer, x, upstream), torch_reference(node, x, upstream, weights))


@pytest.mark.parametrize("name", PAIRS)
def test_spikingjelly_lif_with_every_surrogate(name):
    x, upstream = data(seed=1)
    layer = layers.LIF(tau=1.6, surrogate=name, detach_reset=False)
    node = jelly("LIFNode", name, tau=1.6)
    # steep surrogates multiply rounding errors over the attached reset: relative to their size
    reference = torch_reference(node, x, upstream)
    compare(ours(layer, x, upstream), reference, 1e-5 * max(1, np.abs(reference[1]).max()))


OTHERS = {
    "QIF": ("QIFNode", {}, {}),
    "EIF": ("EIFNode", {}, {}),
    "Izhikevich": ("IzhikevichNode", {"a": 0.3, "b": 0.2}, {"a": 0.3, "b": 0.2}),
    "KLIF": ("KLIFNode", {}, {}),
    "KLIF scaled": ("KLIFNode", {"scale_reset": True}, {"scale_reset": True}),
}


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_spikingjelly_other_neurons(name, detach):
    title, theirs, mine = OTHERS[name]
    x, upstream = data(seed=2)
    node = jelly(title, detach_reset=detach, **theirs)
    layer = getattr(layers, name.split()[0])(detach_reset=detach, **mine)
    found, weights = ours(layer, x, upstream), list(node.parameters())
    reference = torch_reference(node, x, upstream, weights)
    compare(found, reference, 2e-5 * max(1, np.abs(reference[1]).max()))


def test_spikingjelly_cuba_lif():
    x, upstream = data(seed=3)
    neuron = peer("spikingjelly.activation_based.neuron")
    functions = peer("spikingjelly.activation_based.surrogate")
    node = neuron.CUBALIFNode(
        c_decay=0.6, v_decay=0.7, v_threshold=1.5, v_reset=0.0,
        surrogate_function=functions.ATan(2.0),
    )  # fmt: skip
    layer = layers.SynapticLIF(synaptic_decay=0.6, decay=0.7, threshold=1.5, detach_reset=False)
    compare(ours(layer, x, upstream), torch_reference(node, x, upstream))


@pytest.mark.parametrize("name", ["PSN", "MaskedPSN", "SlidingPSN"])
def test_spikingjelly_parallel_neurons(name):
    torch = peer("torch")
    neuron = peer("spikingjelly.activation_based.neuron")
    steps = SHAPE[1]
    node, layer = {
        "PSN": lambda: (neuron.PSN(steps), layers.PSN()),
        "MaskedPSN": lambda: (
            neuron.MaskedPSN(k=3, T=steps, lambda_init=0.7, step_mode="m"),
            layers.MaskedPSN(order=3, masking=0.7),
        ),
        "SlidingPSN": lambda: (neuron.SlidingPSN(k=3, step_mode="m"), layers.SlidingPSN(3)),
    }[name]()
    x, upstream = data(seed=4)
    x = 2 * x
    layer.build(x.shape)
    kernel = to_numpy(layer.kernel)
    with torch.no_grad():
        node.weight.copy_(torch.tensor(kernel).reshape(node.weight.shape))
        node.bias.copy_(torch.tensor(to_numpy(layer.bias)).reshape(node.bias.shape))
    z = torch.tensor(np.swapaxes(x, 0, 1).copy(), requires_grad=True)
    spikes = node(z)
    (spikes * torch.tensor(np.swapaxes(upstream, 0, 1).copy())).sum().backward()
    reference = [np.swapaxes(a, 0, 1) for a in (spikes.detach().numpy(), z.grad.numpy())]
    compare(
        ours(layer, x, upstream), (*reference, [node.weight.grad.numpy(), node.bias.grad.numpy()])
    )


def test_spikingjelly_normalisation():
    torch = peer("torch")
    theirs = peer("spikingjelly.activation_based.layer")
    x, _ = data((4, 5, 6, 6, 3))
    time_first = torch.tensor(np.transpose(x, (1, 0, 4, 2, 3)).copy())

    def back(y):
        return np.transpose(y.detach().numpy(), (1, 0, 3, 4, 2))

    node = theirs.ThresholdDependentBatchNorm2d(0.7, 0.5, 3)
    node.step_mode = "m"
    layer = layers.ThresholdDependentBatchNormalization(alpha=0.7, threshold=0.5)
    found = to_numpy(layer(x, training=True))
    np.testing.assert_allclose(found, back(node(time_first)), atol=1e-5)

    node = theirs.TemporalEffectiveBatchNorm2d(5, 3)
    node.step_mode = "m"
    scale = np.linspace(0.5, 2.0, 5).astype("float32")
    with torch.no_grad():
        next(p for p in node.parameters() if p.numel() == 5).copy_(
            torch.tensor(scale).reshape(next(p for p in node.parameters() if p.numel() == 5).shape)
        )
    layer = layers.TemporalEffectiveBatchNormalization(5)
    layer.build(x.shape)
    layer.step_scale.assign(scale)
    np.testing.assert_allclose(to_numpy(layer(x, training=True)), back(node(time_first)), atol=2e-5)


def test_spikingjelly_encoders():
    torch = peer("torch")
    encoding = peer("spikingjelly.activation_based.encoding")
    x = np.random.default_rng(0).uniform(0, 0.98, (2, 9)).astype("float32")
    for mode in ("linear", "log"):
        node, steps = encoding.LatencyEncoder(6, mode), []
        steps = [node(torch.tensor(x)).numpy() for _ in range(6)]
        found = to_numpy(layers.LatencyEncoder(6, mode=mode)(x))
        np.testing.assert_array_equal(found, np.stack(steps, axis=1))
    node = encoding.WeightedPhaseEncoder(6)
    steps = [node(torch.tensor(x)).numpy() for _ in range(6)]
    np.testing.assert_array_equal(to_numpy(layers.PhaseEncoder(6)(x)), np.stack(steps, axis=1))


# snnTorch fires above the threshold only


@pytest.mark.parametrize(
    ("layer", "arguments"),
    [
        (
            lambda: layers.LIF(tau=2.5, decay_input=False, strict=True),
            {"beta": 0.6, "reset_mechanism": "zero"},
        ),
        (
            lambda: layers.LIF(tau=2.5, decay_input=False, strict=True, detach_reset=False),
            {"beta": 0.6, "reset_mechanism": "zero", "reset_delay": False},
        ),
        (
            lambda: layers.IF(reset="soft", strict=True),
            {"beta": 1.0, "reset_mechanism": "subtract"},
        ),
        (
            lambda: layers.LIF(tau=2.5, decay_input=False, strict=True, reset="none"),
            {"beta": 0.6, "reset_mechanism": "none"},
        ),
    ],
)
def test_snntorch_leaky(layer, arguments):
    snn, spike = peer("snntorch"), peer("snntorch.surrogate")
    node = snn.Leaky(spike_grad=spike.atan(alpha=2.0), init_hidden=True, **arguments)
    x, upstream = data(seed=5)
    reference = torch_reference(node, x, upstream)
    compare(ours(layer(), x, upstream), reference, 1e-5 * max(1, np.abs(reference[1]).max()))


def test_snntorch_leaky_returns_the_spikes_of_a_delayed_lif_one_step_earlier():
    snn = peer("snntorch")
    node = snn.Leaky(beta=0.8, reset_mechanism="subtract", init_hidden=True)
    x, upstream = data(seed=6)
    spikes, _, _ = torch_reference(node, x, upstream)
    found = to_numpy(layers.DelayedLIF(decay=0.8)(x))
    assert (found[:, 0] == 0).all() and found.mean() > 0.1
    np.testing.assert_array_equal(found[:, 1:], spikes[:, :-1])


def test_snntorch_synaptic_without_reset():
    snn, spike = peer("snntorch"), peer("snntorch.surrogate")
    node = snn.Synaptic(
        alpha=0.5, beta=0.7, reset_mechanism="none", init_hidden=True, spike_grad=spike.atan(2.0)
    )
    x, upstream = data(seed=7)
    layer = layers.SynapticLIF(synaptic_decay=0.5, decay=0.7, reset="none", strict=True)
    reference = torch_reference(node, x, upstream)
    compare(ours(layer, x, upstream), reference, 1e-5 * max(1, np.abs(reference[1]).max()))


@pytest.mark.parametrize(
    ("surrogate", "factory"),
    [
        (surrogates.FastSigmoid(25.0), lambda s: s.fast_sigmoid(slope=25)),
        (surrogates.FastSigmoid(5.0), lambda s: s.fast_sigmoid(slope=5)),
        (surrogates.Sigmoid(5.0), lambda s: s.sigmoid(slope=5)),
        (surrogates.ATan(3.0), lambda s: s.atan(alpha=3.0)),
        (surrogates.StraightThrough(), lambda s: s.straight_through_estimator()),
    ],
)
def test_snntorch_surrogates(surrogate, factory):
    torch, spike = peer("torch"), peer("snntorch.surrogate")
    x = np.linspace(-2, 2, 41).astype("float32")
    z = torch.tensor(x, requires_grad=True)
    spikes = factory(spike)(z)
    spikes.sum().backward()
    _, (dx,), _ = gradients(lambda u: ops.sum(surrogate(u, strict=True)), [], x)
    np.testing.assert_allclose(dx, z.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(
        to_numpy(surrogate(ops.array(x), strict=True)), spikes.detach().numpy()
    )


def test_snntorch_recurrent():
    torch, snn, spike = peer("torch"), peer("snntorch"), peer("snntorch.surrogate")
    node = snn.RLeaky(
        beta=0.6, linear_features=7, reset_mechanism="none", init_hidden=True,
        spike_grad=spike.atan(2.0),
    )  # fmt: skip
    layer = layers.Recurrent(
        layers.LIFCell(tau=2.5, decay_input=False, reset="none", strict=True), keras.layers.Dense(7)
    )
    x, _ = data(seed=8)
    layer.build(x.shape)
    kernel, bias = (p.detach().numpy() for p in node.recurrent.parameters())
    layer.set_weights([kernel.T, bias])
    spikes = [node(torch.tensor(x[:, t])).detach().numpy() for t in range(x.shape[1])]
    found = to_numpy(layer(x))
    assert 0.1 < found.mean() < 0.9
    np.testing.assert_array_equal(found, np.stack(spikes, axis=1))


def test_snntorch_delta():
    torch, spikegen = peer("torch"), peer("snntorch.spikegen")
    x, _ = data(seed=9)
    time_first = torch.tensor(np.swapaxes(x, 0, 1).copy())
    for off in (False, True):
        spikes = spikegen.delta(time_first, threshold=0.7, padding=False, off_spike=off)
        found = to_numpy(layers.DeltaEncoder(0.7, off_spikes=off)(x))
        np.testing.assert_array_equal(found, np.swapaxes(spikes.numpy(), 0, 1))


# Norse fires above the threshold only


def norse_steps(cell, x):
    torch = peer("torch")
    state, outputs = None, []
    for t in range(x.shape[1]):
        out, state = cell(torch.tensor(x[:, t]), state)
        outputs.append(out.detach().numpy())
    return np.stack(outputs, axis=1)


def test_norse_golden_membrane():
    """Norse's published vector, constant input 1, defaults, after each step."""
    cell = layers.SynapticLIF(
        synaptic_decay=0.8, decay=0.9, strict=True, return_sequences=False, return_state=True
    )
    expected = [0.1, 0.27, 0.487, 0.7335, 0.9963, 0, 0.3951, 0.7717, 0]
    found = [
        float(to_numpy(cell(np.full((1, t, 1), 0.1, "float32"))[1])[0, 0]) for t in range(1, 10)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_norse_lif_box_and_current_based_lif():
    norse = peer("norse.torch")
    x, _ = data(seed=10)
    x = 10 * x
    box = norse_steps(norse.LIFBoxCell(), x)
    found = to_numpy(layers.LIF(tau=10.0, strict=True)(x))
    assert 0.03 < found.mean() < 0.9
    np.testing.assert_array_equal(found, box)
    lif = norse_steps(norse.LIFCell(), x)
    found = to_numpy(layers.SynapticLIF(synaptic_decay=0.8, decay=0.9, strict=True)(0.1 * x))
    assert 0.03 < found.mean() < 0.9
    np.testing.assert_array_equal(found, lif)


def test_norse_iaf_and_leaky_integrator():
    norse = peer("norse.torch")
    x, _ = data(seed=11)
    np.testing.assert_array_equal(
        to_numpy(layers.IF(strict=True)(x)), norse_steps(norse.IAFCell(), x)
    )
    np.testing.assert_allclose(
        to_numpy(layers.LeakyIntegrator(tau=10.0)(x)), norse_steps(norse.LIBoxCell(), x), atol=1e-5
    )


# Spyx fires above the threshold only, on the potential that the last step left


def spyx_steps(node, x, state):
    jax = peer("jax")
    outputs = []
    for t in range(x.shape[1]):
        out, state = node(jax.numpy.asarray(x[:, t]), state)
        outputs.append(np.asarray(out))
    return np.stack(outputs, axis=1)


def spyx(name, *args, **kwargs):
    nn, nnx = peer("spyx.nn"), peer("flax.nnx")
    return getattr(nn, name)((7,), *args, rngs=nnx.Rngs(0), **kwargs)


@pytest.mark.parametrize("name", ["LIF", "IF"])
def test_spyx_lif_and_if(name):
    nn = peer("spyx.nn")
    x, _ = data(seed=12)
    if name == "LIF":
        node, decay = spyx("LIF", beta=0.8), 0.8
    else:
        node, decay = nn.IF((7,)), 1.0
    found = to_numpy(layers.DelayedLIF(decay=decay)(x))
    assert 0.1 < found.mean() < 0.9
    np.testing.assert_array_equal(found, spyx_steps(node, x, node.initial_state(4)))


def test_spyx_surrogates():
    jax, axn = peer("jax"), peer("spyx.axn")
    x = np.linspace(-2, 2, 41).astype("float32")
    for surrogate, factory in (
        (surrogates.FastSigmoid(25.0), axn.superspike(25)),
        (surrogates.FastSigmoid(4.0), axn.superspike(4)),
        (surrogates.Rectangle(0.5), axn.boxcar(2, 0.5)),
        (surrogates.PiecewiseQuadratic(1.0), axn.triangular(1)),
    ):
        reference = jax.grad(lambda u, f=factory: f(u).sum())(jax.numpy.asarray(x))
        _, (dx,), _ = gradients(lambda u, s=surrogate: ops.sum(s(u, strict=True)), [], x)
        np.testing.assert_allclose(dx, np.asarray(reference), rtol=1e-5, atol=1e-6)


def test_spyx_adaptive_lif_without_leak_is_ours_one_step_later():
    nnx, nn = peer("flax.nnx"), peer("spyx.nn")
    x, _ = data(seed=13)
    node = nn.ALIF((7,), beta=1.0, gamma=0.9, rngs=nnx.Rngs(0))
    theirs = spyx_steps(node, x, node.initial_state(4))
    ours_ = layers.AdaptiveLIF(
        tau=1e9, decay_input=False, adaptation=1.0, tau_adaptation=10.0, reset="soft", strict=True
    )
    found = to_numpy(ours_(x))
    assert 0.1 < found.mean() < 0.9
    np.testing.assert_array_equal(found[:, :-1], theirs[:, 1:])
