"""Live parity with the installed peers: the same spikes, the same gradients.

A peer that does not import skips its tests, with the reason. Peers run on PyTorch or JAX, whatever
Keras's backend; everything is compared as numpy arrays. Spikes are equal in every entry: one spike
that flips would change all that follow it. Gradients are those of the sum of the outputs times
random numbers, `upstream`, and agree within 1e-5; those to weights, which are sums over all
examples and steps, within 1e-5 of their size.
"""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import ops

from keras_snn import layers, surrogates

SHAPE = (4, 12, 7)  # batch, time, features; peers want time first


def peer(module):
    return pytest.importorskip(module, exc_type=ImportError)


def data(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * 1.2 + 0.4
    return x.astype("float32"), rng.normal(size=shape).astype("float32")


def ours(layer, x, upstream):
    """Our outputs, and gradients to the input and to the weights."""
    outputs = to_numpy(layer(x))
    _, (dx,), dw = gradients(
        lambda z: ops.sum(layer(z) * ops.array(upstream)), layer.trainable_variables, x
    )
    return outputs, dx, dw


def torch_reference(step, x, upstream, weights=()):
    """Outputs and gradients of a peer's `step(x_t)` on PyTorch, looped over time."""
    torch = peer("torch")
    z = torch.tensor(x, requires_grad=True)
    outputs = torch.stack([step(z[:, t]) for t in range(x.shape[1])], dim=1)
    (outputs * torch.tensor(upstream)).sum().backward()
    return outputs.detach().numpy(), z.grad.numpy(), [w.grad.numpy() for w in weights]


def compare(found, reference, values=(0, 1)):
    spikes, dx, dw = found
    assert 0.03 < np.mean(spikes != 0) < 0.9 and set(np.unique(spikes)) == set(values)
    assert all(np.abs(g).max() > 0.1 for g in (reference[1], *reference[2]))
    np.testing.assert_array_equal(spikes, reference[0])
    np.testing.assert_allclose(dx, reference[1], rtol=1e-5, atol=1e-5)
    for a, b in zip(dw, reference[2], strict=True):
        np.testing.assert_allclose(np.reshape(a, -1), np.reshape(b, -1), rtol=1e-5, atol=1e-5)


def shifted(upstream):
    """`upstream` for outputs that come a step early, and the same for those that come late."""
    early, late = upstream.copy(), np.roll(upstream, 1, axis=1)
    early[:, -1] = late[:, 0] = 0
    return early, late


def compare_late(late, early):
    """Outputs that come a step late with those that come early; the same gradients."""
    assert not late[0][:, 0].any()
    compare((late[0][:, 1:], *late[1:]), (early[0][:, :-1], *early[1:]))


def tie(make_layer, peers_step):
    """What we and a peer emit where the potential, 0.5 and then 1, is the threshold exactly."""
    x = np.full((1, 2, 1), 0.5, "float32")
    reference, _, _ = torch_reference(peers_step, x, x)
    found = to_numpy(make_layer(x))
    np.testing.assert_array_equal(found, reference)
    return found[0, :, 0].tolist()


# Without a peer: what their equations give for a constant input, in binary fractions


@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("layer", [layers.LIF, layers.LeakyIntegrator])
def test_charge_at_constant_input(layer, decay_input):
    no_spikes = {"threshold": 100.0} if layer is layers.LIF else {}
    layer = layer(tau=4.0, decay_input=decay_input, v_reset=-0.5, return_state=True, **no_spikes)
    steps, x = 20, 0.75
    _, v = to_numpy(layer(np.full((1, steps, 1), x, "float32")))
    target = -0.5 + x * (1 if decay_input else 4)
    np.testing.assert_allclose(v, target + (-0.5 - target) * 0.75**steps, rtol=1e-6)


@pytest.mark.parametrize("x", [0.3125, 0.5, 0.96875])
def test_soft_reset_keeps_the_rate(x):
    inputs = np.full((1, 64, 1), x, "float32")
    total = np.floor(x * np.arange(1, 65))
    np.testing.assert_array_equal(np.cumsum(to_numpy(layers.IF(reset="soft")(inputs))), total)
    late = to_numpy(layers.DelayedLIF(reset="soft", strict=False)(inputs))
    np.testing.assert_array_equal(np.cumsum(late), [0, *total[:-1]])


def test_current_at_constant_input():
    """The current tends to 2, the potential to 8."""
    layer = layers.SynapticLIF(0.5, 0.75, reset="none", return_state=True)
    _, v, current = to_numpy(layer(np.ones((1, 10, 1), "float32")))
    np.testing.assert_allclose(current, 2 * (1 - 0.5**10), rtol=1e-6)
    np.testing.assert_allclose(v, 8 - 12 * 0.75**10 + 4 * 0.5**10, rtol=1e-6)


# SpikingJelly

RESETS = [  # ours, SpikingJelly's v_reset
    ({"reset": "hard", "v_reset": 0.0}, 0.0),
    ({"reset": "hard", "v_reset": -0.3}, -0.3),
    ({"reset": "soft", "v_reset": 0.0}, None),
]
SURROGATES = {  # ours: SpikingJelly's name, and parameters that are not the defaults
    "ATan": ("ATan", {"alpha": 3.0}),
    "Sigmoid": ("Sigmoid", {"alpha": 2.0}),
    "PiecewiseQuadratic": ("PiecewiseQuadratic", {"alpha": 1.5}),
    "PiecewiseExp": ("PiecewiseExp", {"alpha": 2.0}),
    "SoftSign": ("SoftSign", {"alpha": 1.5}),
    "SuperSpike": ("SuperSpike", {"alpha": 0.7}),
    "NonzeroSignLogAbs": ("NonzeroSignLogAbs", {"alpha": 1.5}),
    "Erf": ("Erf", {"alpha": 1.2}),
    "PiecewiseLeakyReLU": ("PiecewiseLeakyReLU", {"w": 0.7, "c": 0.1}),
    "SquarewaveFourier": ("SquarewaveFourierSeries", {"n": 3, "period": 6.0}),
    "S2NN": ("S2NN", {"alpha": 3.0, "beta": 0.8}),
    "QPseudoSpike": ("QPseudoSpike", {"alpha": 3.0}),
    "LeakyKReLU": ("LeakyKReLU", {"leak": 0.1, "k": 0.9}),
    "FakeNumericalGradient": ("FakeNumericalGradient", {"alpha": 0.6}),
    "LogTailedReLU": ("LogTailedReLU", {"alpha": 0.2}),
    "Rectangle": ("Rect", {"alpha": 1.3}),
    "StraightThrough": ("DeterministicPass", {}),
}


def jelly_surrogate(name, **arguments):
    functions = peer("spikingjelly.activation_based.surrogate")
    names = {"period": "T_period"}
    renamed = {names.get(key, key): value for key, value in arguments.items()}
    return getattr(functions, SURROGATES[name][0])(**renamed)


def jelly(name, surrogate="ATan", **kwargs):
    neuron = peer("spikingjelly.activation_based.neuron")
    return getattr(neuron, name)(surrogate_function=jelly_surrogate(surrogate), **kwargs)


@pytest.mark.parametrize("given", [False, True], ids=["defaults", "parameters"])
@pytest.mark.parametrize("name", SURROGATES)
def test_spikingjelly_surrogate(name, given):
    arguments = SURROGATES[name][1] if given else {}
    theirs = jelly_surrogate(name, **arguments)
    compare_surrogates(getattr(surrogates, name)(**arguments), theirs, strict=False)


def compare_surrogates(surrogate, theirs, strict):
    """Spikes and slopes of our surrogate and of a peer's function on PyTorch."""
    torch = peer("torch")
    x = np.linspace(-3, 3, 61).astype("float32")
    assert 0 in x
    z = torch.tensor(x, requires_grad=True)
    spikes = theirs(z)
    spikes.sum().backward()
    _, (dx,), _ = gradients(lambda u: ops.sum(surrogate(u, strict)), [], x)
    found = to_numpy(surrogate(ops.array(x), strict))
    np.testing.assert_array_equal(found, spikes.detach().numpy())
    np.testing.assert_allclose(dx, z.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(SURROGATES) - {"FakeNumericalGradient", "SuperSpike"}))
def test_spikingjelly_primitive(name):
    """Up to a constant: only the slope matters. Two of theirs have no primitive."""
    torch = peer("torch")
    arguments = SURROGATES[name][1]
    x = np.linspace(-3, 3, 61).astype("float32")
    theirs = jelly_surrogate(name, **arguments, spiking=False)(torch.tensor(x)).numpy()
    found = to_numpy(getattr(surrogates, name)(**arguments).primitive(ops.array(x)))
    np.testing.assert_allclose(found - found[0], theirs - theirs[0], atol=1e-5)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("reset", "v_reset"), RESETS)
@pytest.mark.parametrize(
    ("kind", "decay_input"),
    [("IF", None), *((k, d) for k in ("LIF", "ParametricLIF") for d in (True, False))],
)
def test_spikingjelly_if_lif_plif(kind, decay_input, reset, v_reset, detach):
    x, upstream = data()
    for surrogate in ("ATan", "Sigmoid"):  # on PyTorch the first has a form of its own
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
        assert len(weights) == (kind == "ParametricLIF")
        compare(ours(layer, x, upstream), torch_reference(node, x, upstream, weights))


@pytest.mark.parametrize("name", SURROGATES)
def test_spikingjelly_lif_with_every_surrogate(name):
    x, upstream = data(seed=1)
    layer = layers.LIF(tau=1.6, surrogate=name, detach_reset=False)
    node = jelly("LIFNode", name, tau=1.6)
    compare(ours(layer, x, upstream), torch_reference(node, x, upstream))


OTHERS = {  # SpikingJelly's name, parameters that both share
    "QIF": ("QIFNode", {}),
    "EIF": ("EIFNode", {}),
    "Izhikevich": ("IzhikevichNode", {"a": 0.3, "b": 0.2, "tau_w": 3.0}),
    "KLIF": ("KLIFNode", {"decay_input": False}),
    "KLIF scaled": ("KLIFNode", {"scale_reset": True}),
}


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("reset", "v_reset"), [*RESETS, (None, None)])
@pytest.mark.parametrize("name", OTHERS)
def test_spikingjelly_other_neurons(name, reset, v_reset, detach):
    title, shared = OTHERS[name]
    x, upstream = data(seed=2)
    theirs = {} if reset is None else {"v_reset": v_reset}
    node = jelly(title, detach_reset=detach, **theirs, **shared)
    layer = getattr(layers, name.split()[0])(detach_reset=detach, **(reset or {}), **shared)
    weights = list(node.parameters())
    if name.startswith("KLIF"):
        set_gain(layer, node, x, 1.25)
    compare(ours(layer, x, upstream), torch_reference(node, x, upstream, weights))


def set_gain(layer, node, x, gain):
    """At its initial value, 1, the gain of KLIF would not show."""
    torch = peer("torch")
    layer.build(x.shape)
    layer.cell.k.assign(gain)
    with torch.no_grad():
        node.k.fill_(gain)


@pytest.mark.parametrize("detach", [True, False])
def test_spikingjelly_integer_spikes(detach):
    x, upstream = data(seed=4)
    functions = peer("spikingjelly.activation_based.surrogate")
    node = peer("spikingjelly.activation_based.neuron").ILIFNode(
        tau=1.5,
        v_threshold=0.75,
        surrogate_function=functions.MultiLevelSpikeCount(3),
        detach_reset=detach,
    )
    layer = layers.ILIF(max_spikes=3, tau=1.5, threshold=0.75, detach_reset=detach)
    compare(ours(layer, x, upstream), torch_reference(node, x, upstream), range(4))


SIGNS = (-1, 0, 1)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("reset", "v_reset"), RESETS)
@pytest.mark.parametrize("kind", ["IF", "LIF"])
def test_spikingjelly_ternary_neurons(kind, reset, v_reset, detach):
    x, upstream = data(seed=5)
    given = {} if kind == "IF" else {"tau": 1.5, "decay_input": False}
    node = jelly(f"Ternary{kind}Node", v_reset=v_reset, detach_reset=detach, **given)
    layer = getattr(layers, f"Ternary{kind}")(detach_reset=detach, **reset, **given)
    compare(ours(layer, x, upstream), torch_reference(node, x, upstream), SIGNS)


def test_spikingjelly_clif():
    x, upstream = data(seed=6)
    node = jelly("ComplementaryLIFNode", "Rectangle", tau=1.5, v_threshold=0.8)
    layer = layers.CLIF(tau=1.5, threshold=0.8)
    compare(ours(layer, x, upstream), torch_reference(node, x, upstream))


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("reset", "v_reset"), RESETS)
def test_spikingjelly_resonate_and_fire(reset, v_reset, detach):
    x, upstream = data(seed=7)
    node = jelly("RAFNode", b=-0.3, omega=0.7, v_reset=v_reset, detach_reset=detach)
    layer = layers.ResonateAndFire(b=-0.3, omega=0.7, detach_reset=detach, **reset)
    compare(ours(layer, x, upstream), torch_reference(node, x, upstream))


@pytest.mark.parametrize("related", [True, False])
@pytest.mark.parametrize("detach", [True, False])
def test_spikingjelly_liaf(detach, related):
    torch = peer("torch")
    x, upstream = data(seed=8)
    node = jelly("LIAFNode", act=torch.tanh, threshold_related=related, detach_reset=detach)
    layer = layers.LIAF(activation="tanh", above_threshold=related, detach_reset=detach)
    found, reference = ours(layer, x, upstream), torch_reference(node, x, upstream)
    for a, b in zip(found[:2], reference[:2]):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_spikingjelly_glif():
    torch = peer("torch")
    x, upstream = data((4, 5, 2, 2, 3), seed=9)
    upstream = 8 * upstream
    node = jelly("GatedLIFNode", T=5, inplane=3)
    layer = layers.GLIF(timesteps=5)
    layer.build(x.shape)
    names = ["alpha", "beta", "gamma", "tau", "linear_decay", "v_subreset", "v_threshold"]
    names.append("conduct")
    rng = np.random.default_rng(0)
    for weight, name in zip(layer.trainable_variables, names, strict=True):
        value = getattr(node, name)
        np.testing.assert_allclose(value.detach().numpy().mean(), to_numpy(weight).mean(), atol=0.1)
        weight.assign(rng.normal(size=weight.shape).astype("float32"))
        with torch.no_grad():
            value.copy_(torch.tensor(to_numpy(weight)))
    order, back = (1, 0, 4, 2, 3), (1, 0, 3, 4, 2)
    z = torch.tensor(np.transpose(x, order).copy(), requires_grad=True)
    spikes = node(z)
    (spikes * torch.tensor(np.transpose(upstream, order).copy())).sum().backward()
    reference = [np.transpose(a, back) for a in (spikes.detach().numpy(), z.grad.numpy())]
    weights = [getattr(node, name).grad.numpy() for name in names]
    compare(ours(layer, x, upstream), (*reference, weights))


@pytest.mark.parametrize("training", [True, False])
def test_spikingjelly_mpbn(training):
    """PyTorch's moving variance is another estimate, so inference has it given."""
    torch = peer("torch")
    x, upstream = data((6, 4, 7), seed=10)
    node = jelly("MPBNLIFNode", tau=1.5, out_features=7)
    layer = layers.MPBNLIF(tau=1.5, normalize_state=True, detach_reset=False)
    layer.build(x.shape)
    inner, rng = layer.cell.normalization, np.random.default_rng(0)
    theirs = (node.vbn.weight, node.vbn.bias, node.vbn.running_mean, node.vbn.running_var)
    values = [rng.uniform(0.5, 2, 7).astype("float32") for _ in theirs]
    inner.set_weights(values)
    with torch.no_grad():
        for tensor, value in zip(theirs, values):
            tensor.copy_(torch.tensor(value))
    node.train(training)
    reference = torch_reference(node, x, upstream, theirs[:2])
    found = to_numpy(layer(x, training=training))
    if training:
        np.testing.assert_allclose(inner.moving_mean, node.vbn.running_mean.numpy(), rtol=1e-5)
        inner.set_weights(values)
    _, (dx,), dw = gradients(
        lambda z: ops.sum(layer(z, training=training) * ops.array(upstream)),
        layer.trainable_variables,
        x,
    )
    compare((found, dx, dw), reference)


@pytest.mark.parametrize(("reset", "v_reset"), RESETS)
def test_spikingjelly_cuba_lif(reset, v_reset):
    """Theirs cannot detach its reset."""
    x, upstream = data(seed=3)
    node = jelly("CUBALIFNode", c_decay=0.6, v_decay=0.7, v_threshold=1.5, v_reset=v_reset)
    layer = layers.SynapticLIF(0.6, 0.7, threshold=1.5, detach_reset=False, **reset)
    compare(ours(layer, x, upstream), torch_reference(node, x, upstream))


@pytest.mark.parametrize(("reset", "v_reset"), RESETS)
def test_spikingjelly_sequence_in_chunks(reset, v_reset):
    """Their multi-step mode; ours in two calls, the state of the first given to the second."""
    torch = peer("torch")
    x, upstream = data(seed=14)
    node = jelly("LIFNode", tau=1.7, v_reset=v_reset, step_mode="m", store_v_seq=True)
    z = torch.tensor(np.swapaxes(x, 0, 1).copy(), requires_grad=True)
    spikes = node(z)
    (spikes * torch.tensor(np.swapaxes(upstream, 0, 1).copy())).sum().backward()
    reference = [np.swapaxes(a.detach().numpy(), 0, 1) for a in (spikes, z.grad, node.v_seq)]
    layer = layers.LIF(tau=1.7, detach_reset=False, return_state=True, **reset)

    def in_chunks(z):
        first, v = layer(z[:, :5])
        second, v_end = layer(z[:, 5:], initial_state=v)
        return ops.concatenate([first, second], axis=1), v, v_end

    found, v, v_end = to_numpy(in_chunks(ops.array(x)))
    _, (dx,), _ = gradients(lambda z: ops.sum(in_chunks(z)[0] * ops.array(upstream)), [], x)
    compare((found, dx, []), (*reference[:2], []))
    np.testing.assert_allclose(v, reference[2][:, 4], atol=1e-6)
    np.testing.assert_allclose(v_end, reference[2][:, -1], atol=1e-6)


@pytest.mark.parametrize("kind", ["LIF", "ParametricLIF"])
def test_spikingjelly_with_a_compiled_model(kind):
    x, upstream = data((4, 30, 7), seed=17)
    node = jelly(f"{kind}Node", **{"tau" if kind == "LIF" else "init_tau": 1.7})
    model = keras.Sequential([getattr(layers, kind)(tau=1.7)])
    found = model.predict(x, verbose=0)
    assert 0.03 < found.mean() < 0.9
    np.testing.assert_array_equal(found, torch_reference(node, x, upstream)[0])


def test_spikingjelly_fires_at_the_threshold():
    assert tie(layers.IF(), jelly("IFNode")) == [0, 1]


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


NORMALISATIONS = {  # ours, SpikingJelly's name and arguments
    "tdBN": (
        lambda: layers.ThresholdDependentBatchNormalization(alpha=0.7, threshold=0.5),
        "ThresholdDependentBatchNorm2d",
        (0.7, 0.5, 3),
    ),
    "TEBN": (
        lambda: layers.TemporalEffectiveBatchNormalization(5),
        "TemporalEffectiveBatchNorm2d",
        (5, 3),
    ),
    "BNTT": (
        lambda: layers.BatchNormalizationThroughTime(5, epsilon=1e-5),
        "BatchNormThroughTime2d",
        (5, 3),
    ),
}


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_spikingjelly_normalisation(name):
    """In training; PyTorch's moving variance is another estimate, so inference differs."""
    torch = peer("torch")
    theirs = peer("spikingjelly.activation_based.layer")
    make, title, arguments = NORMALISATIONS[name]
    layer, node = make(), getattr(theirs, title)(*arguments)
    node.step_mode = "m"
    x, upstream = data((4, 5, 6, 6, 3))
    layer.build(x.shape)
    if name == "TEBN":
        scale = np.linspace(0.5, 2.0, 5).astype("float32")
        layer.step_scale.assign(scale)
        with torch.no_grad():
            node.scale.copy_(torch.tensor(scale).reshape(node.scale.shape))
    order, back = (1, 0, 4, 2, 3), (1, 0, 3, 4, 2)
    z = torch.tensor(np.transpose(x, order).copy(), requires_grad=True)
    y = node(z)
    (y * torch.tensor(np.transpose(upstream, order).copy())).sum().backward()
    found = to_numpy(layer(x, training=True))
    np.testing.assert_allclose(found, np.transpose(y.detach().numpy(), back), atol=1e-5)
    _, (dx,), _ = gradients(lambda u: ops.sum(layer(u, training=True) * ops.array(upstream)), [], x)
    assert np.abs(dx).max() > 0.1
    np.testing.assert_allclose(dx, np.transpose(z.grad.numpy(), back), atol=1e-5)


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


def leaky(detached=True, **arguments):
    snn, spike = peer("snntorch"), peer("snntorch.surrogate")
    arguments = {"beta": 0.6, "spike_grad": spike.atan(alpha=2.0)} | arguments
    return snn.Leaky(init_hidden=True, reset_delay=detached, **arguments)


@pytest.mark.parametrize(
    ("layer", "detached", "arguments"),
    [
        (layers.LIF, True, {"reset_mechanism": "zero"}),
        (layers.LIF, False, {"reset_mechanism": "zero"}),
        (layers.LIF, True, {"reset_mechanism": "none"}),
        (layers.DecayLIF, True, {"reset_mechanism": "zero"}),
        (layers.DecayLIF, False, {"reset_mechanism": "zero"}),
        (layers.IF, True, {"reset_mechanism": "subtract", "beta": 1.0}),
    ],
)
def test_snntorch_leaky(layer, detached, arguments):
    decay = {
        layers.IF: {},
        layers.LIF: {"tau": 2.5, "decay_input": False},
        layers.DecayLIF: {"decay": 0.6, "threshold": 1.0, "surrogate": "atan"},
    }[layer]
    reset = {"zero": "hard", "subtract": "soft", "none": "none"}[arguments["reset_mechanism"]]
    layer = layer(strict=True, reset=reset, detach_reset=detached, **decay)
    x, upstream = data(seed=5)
    reference = torch_reference(leaky(detached, **arguments), x, upstream)
    compare(ours(layer, x, upstream), reference)


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_snntorch_leaky_returns_the_spikes_of_a_delayed_lif_one_step_earlier(reset):
    x, upstream = data(seed=6)
    early, late = shifted(upstream)
    reference = torch_reference(leaky(beta=0.8, reset_mechanism=reset), x, early)
    ours_reset = {"zero": "hard", "subtract": "soft", "none": "none"}[reset]
    layer = layers.DelayedLIF(decay=0.8, reset=ours_reset, surrogate="atan")
    compare_late(ours(layer, x, late), reference)


def test_snntorch_leaky_that_subtracts_is_no_lif_with_soft_reset():
    """Its threshold is taken off after the decay: another neuron than SpikingJelly's and ours."""
    x, upstream = data(seed=5)
    spikes, _, _ = torch_reference(leaky(reset_mechanism="subtract"), x, upstream)
    mine = to_numpy(layers.LIF(tau=2.5, decay_input=False, reset="soft", strict=True)(x))
    theirs, _, _ = torch_reference(
        jelly("LIFNode", tau=2.5, decay_input=False, v_reset=None), x, upstream
    )
    assert (mine != spikes).any()
    np.testing.assert_array_equal(mine, theirs)


def synaptic(**arguments):
    snn, spike = peer("snntorch"), peer("snntorch.surrogate")
    return snn.Synaptic(init_hidden=True, spike_grad=spike.atan(2.0), **arguments)


@pytest.mark.parametrize(("reset", "mechanism", "decay"), [
    ("none", "none", 0.7),
    ("soft", "subtract", 1.0),
])  # fmt: skip
def test_snntorch_synaptic(reset, mechanism, decay):
    """Without a reset; with one, where there is no leak that a reset could come before or after."""
    x, upstream = data(seed=7)
    layer = layers.SynapticLIF(synaptic_decay=0.5, decay=decay, reset=reset, strict=True)
    node = synaptic(alpha=0.5, beta=decay, reset_mechanism=mechanism)
    compare(ours(layer, x, upstream), torch_reference(node, x, upstream))


@pytest.mark.parametrize(
    ("surrogate", "name", "arguments"),
    [
        (surrogates.ATan(), "atan", {}),
        (surrogates.ATan(3.0), "atan", {"alpha": 3.0}),
        (surrogates.FastSigmoid(), "fast_sigmoid", {}),
        (surrogates.FastSigmoid(5.0), "fast_sigmoid", {"slope": 5}),
        (surrogates.Sigmoid(5.0), "sigmoid", {"slope": 5}),
        (surrogates.StraightThrough(), "straight_through_estimator", {}),
    ],
)
def test_snntorch_surrogates(surrogate, name, arguments):
    factory = getattr(peer("snntorch.surrogate"), name)
    compare_surrogates(surrogate, factory(**arguments), strict=True)


def test_snntorch_fires_above_the_threshold():
    assert tie(layers.IF(strict=True), leaky(beta=1.0)) == [0, 0]


@pytest.mark.parametrize(("reset", "mechanism"), [("none", "none"), ("soft", "subtract")])
def test_snntorch_recurrent(reset, mechanism):
    snn, spike = peer("snntorch"), peer("snntorch.surrogate")
    beta = 1.0 if reset == "soft" else 0.6
    node = snn.RLeaky(
        beta=beta, linear_features=7, reset_mechanism=mechanism, init_hidden=True,
        spike_grad=spike.atan(2.0),
    )  # fmt: skip
    cell = (
        layers.IFCell(reset="soft", strict=True)
        if reset == "soft"
        else layers.LIFCell(tau=2.5, decay_input=False, reset="none", strict=True)
    )
    layer = layers.Recurrent(cell, keras.layers.Dense(7))
    x, upstream = data(seed=8)
    layer.build(x.shape)
    weights = list(node.recurrent.parameters())
    kernel, bias = (p.detach().numpy() for p in weights)
    layer.set_weights([kernel.T, bias])
    spikes, dx, (dkernel, dbias) = ours(layer, x, upstream)
    compare((spikes, dx, [dkernel.T, dbias]), torch_reference(node, x, upstream, weights))


def test_snntorch_delta():
    torch, spikegen = peer("torch"), peer("snntorch.spikegen")
    x, _ = data(seed=9)
    time_first = torch.tensor(np.swapaxes(x, 0, 1).copy())
    for off in (False, True):
        spikes = spikegen.delta(time_first, threshold=0.7, padding=False, off_spike=off)
        found = to_numpy(layers.DeltaEncoder(0.7, off_spikes=off)(x))
        np.testing.assert_array_equal(found, np.swapaxes(spikes.numpy(), 0, 1))


# Norse fires above the threshold only; its defaults are the decays 0.8 and 0.9 a step


def norse_step(cell):
    """`cell` as a function of the input only."""
    state = None

    def step(x):
        nonlocal state
        out, state = cell(x, state)
        return out

    return step


NORSE_MEMBRANE = [0.1, 0.27, 0.487, 0.7335, 0.9963, 0, 0.3951, 0.7717, 0]


def test_norse_published_membrane():
    """Norse's published vector: constant input 1, defaults, after each step."""
    layer = layers.SynapticLIF(
        synaptic_decay=0.8, decay=0.9, strict=True, return_sequences=False, return_state=True
    )
    found = [
        float(to_numpy(layer(np.full((1, t, 1), 0.1, "float32"))[1])[0, 0]) for t in range(1, 10)
    ]
    np.testing.assert_allclose(found, NORSE_MEMBRANE, atol=6e-5)


def test_norse_live_membrane():
    torch, norse = peer("torch"), peer("norse.torch")
    cell, state, found = norse.LIFCell(), None, []
    for _ in NORSE_MEMBRANE:
        _, state = cell(torch.ones(1, 1), state)
        found.append(state.v.item())
    np.testing.assert_allclose(found, NORSE_MEMBRANE, atol=6e-5)


NORSE = {  # Norse's cell: our layer, what our input is of Norse's, the size of the input
    "LIFBoxCell": (layers.LIF, {"tau": 10.0}, 1.0, 10.0),
    "LIFCell": (layers.SynapticLIF, {"synaptic_decay": 0.8, "decay": 0.9}, 0.1, 10.0),
    "IAFCell": (layers.IF, {}, 1.0, 1.0),
}


@pytest.mark.parametrize("name", NORSE)
def test_norse_spiking(name):
    norse = peer("norse.torch")
    layer, arguments, share, size = NORSE[name]
    surrogate = surrogates.SuperSpike(1.0)
    layer = layer(strict=True, detach_reset=False, surrogate=surrogate, **arguments)
    x, upstream = data(seed=10)
    reference = torch_reference(norse_step(getattr(norse, name)()), size * x, upstream)
    spikes, dx, dw = ours(layer, share * size * x, upstream)
    compare((spikes, share * dx, dw), reference)


def test_norse_recurrent():
    """Its reset is detached; the recurrent weights lead into the current as inputs do."""
    torch, norse = peer("torch"), peer("norse.torch")
    rng = np.random.default_rng(16)
    kernel = rng.normal(size=(7, 7)).astype("float32") * (1 - np.eye(7, dtype="float32"))
    cell = norse.LIFRecurrentCell(
        7, 7, input_weights=torch.eye(7), recurrent_weights=torch.tensor(kernel)
    )
    layer = layers.Recurrent(
        layers.SynapticLIFCell(0.8, 0.9, strict=True, surrogate=surrogates.SuperSpike(1.0)),
        keras.layers.Dense(7, use_bias=False),
    )
    x, upstream = data(seed=10)
    layer.build(x.shape)
    layer.set_weights([0.1 * kernel.T])
    weights = [cell.recurrent_weights]
    reference = torch_reference(norse_step(cell), 10 * x, upstream, weights)
    spikes, dx, (dkernel,) = ours(layer, x, upstream)
    # Norse has no gradient to the weights of a neuron to itself.
    dkernel = 0.1 * dkernel.T * (1 - np.eye(7))
    compare((spikes, 0.1 * dx, [dkernel]), reference)


@pytest.mark.parametrize("name", ["LIBoxCell", "LICell"])
def test_norse_leaky_integrator(name):
    """With a current in between it is two of ours in a row."""
    norse = peer("norse.torch")
    x, upstream = data(seed=11)
    layer = layers.LeakyIntegrator(tau=10.0)
    if name == "LICell":
        current = layers.LeakyIntegrator(tau=5.0, decay_input=False)
        layer = keras.Sequential([current, layer])
    reference = torch_reference(norse_step(getattr(norse, name)()), x, upstream)
    compare_membranes(ours(layer, x, upstream), reference)


def compare_membranes(found, reference):
    for a, b in zip(found[:2], reference[:2]):
        assert np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("surrogate", "method", "alpha"),
    [
        (surrogates.SuperSpike(1.0), "super", 100.0),  # Norse ignores this alpha
        (surrogates.Triangle(0.3), "triangle", 0.3),
        (surrogates.Erf(2.0), "heavi_erfc", 2.0),
        (surrogates.Sigmoid(4.0), "tanh", 2.0),
    ],
)
def test_norse_surrogates(surrogate, method, alpha):
    functions = peer("norse.torch.functional.threshold")
    compare_surrogates(surrogate, lambda z: functions.threshold(z, method, alpha), strict=True)


def test_norse_fires_above_the_threshold():
    norse = peer("norse.torch")
    assert tie(layers.IF(strict=True), norse_step(norse.IAFCell())) == [0, 0]


# Spyx fires above the threshold only, on the potential that the last step left


def spyx(name, **kwargs):
    nn, nnx = peer("spyx.nn"), peer("flax.nnx")
    rngs = {} if name == "IF" else {"rngs": nnx.Rngs(0)}
    return getattr(nn, name)((SHAPE[-1],), **rngs, **kwargs)


def spyx_reference(node, x, upstream):
    """Outputs and gradient to the input of a Spyx neuron, looped over time."""
    jax = peer("jax")

    def run(z):
        state, outputs = node.initial_state(len(z)), []
        for t in range(z.shape[1]):
            out, state = node(z[:, t], state)
            outputs.append(out)
        outputs = jax.numpy.stack(outputs, axis=1)
        return (outputs * upstream).sum(), outputs

    dx, outputs = jax.grad(run, has_aux=True)(jax.numpy.asarray(x))
    return np.asarray(outputs), np.asarray(dx), []


SUPERSPIKE = surrogates.FastSigmoid(25.0)  # Spyx's default
SPYX = {"surrogate": SUPERSPIKE, "detach_reset": False, "strict": True}


@pytest.mark.parametrize(("name", "decay"), [("LIF", 0.8), ("LIF", 0.5), ("IF", 1.0)])
def test_spyx_lif_and_if(name, decay):
    x, upstream = data(seed=12)
    node = spyx(name, **({} if name == "IF" else {"beta": decay}))
    layer = layers.DelayedLIF(decay=decay, **SPYX)
    compare(ours(layer, x, upstream), spyx_reference(node, x, upstream))


def test_spyx_current_based_lif_is_ours_one_step_later():
    x, upstream = data(seed=13)
    early, late = shifted(upstream)
    node = spyx("CuBaLIF", alpha=0.6, beta=0.7)
    layer = layers.SynapticLIF(synaptic_decay=0.6, decay=0.7, reset="soft", **SPYX)
    compare_late(spyx_reference(node, x, late), ours(layer, x, early))


def test_spyx_adaptive_lif_without_leak_is_ours_one_step_later():
    x, upstream = data(seed=13)
    early, late = shifted(upstream)
    node = spyx("ALIF", beta=1.0, gamma=0.9)
    layer = layers.AdaptiveLIF(
        tau=float("inf"), decay_input=False, adaptation=1.0, tau_adaptation=10.0, reset="soft",
        **SPYX,
    )  # fmt: skip
    compare_late(spyx_reference(node, x, late), ours(layer, x, early))


def test_spyx_lif_without_reset():
    """PSU-LIF, step by step and, in parallel, as an associative scan."""
    x, upstream = data(seed=15)
    node = spyx("PSU_LIF", beta=0.6)
    layer = layers.LIF(tau=2.5, decay_input=False, reset="none", **SPYX)
    found = ours(layer, x, upstream)
    compare(found, spyx_reference(node, x, upstream))
    parallel = np.asarray(node.parallel(np.swapaxes(x, 0, 1)))
    np.testing.assert_array_equal(found[0], np.swapaxes(parallel, 0, 1))


def test_spyx_leaky_integrator():
    x, upstream = data(seed=16)
    layer = layers.LeakyIntegrator(tau=5.0, decay_input=False)
    compare_membranes(ours(layer, x, upstream), spyx_reference(spyx("LI"), x, upstream))


@pytest.mark.parametrize(
    ("surrogate", "name", "arguments"),
    [
        (SUPERSPIKE, "superspike", ()),
        (surrogates.FastSigmoid(4.0), "superspike", (4,)),
        (surrogates.Rectangle(0.5), "boxcar", ()),
        (surrogates.PiecewiseQuadratic(1.0), "triangular", (1,)),
        (surrogates.Sigmoid(4.0), "tanh", (2,)),
        (surrogates.ATan(2 / np.pi), "arctan", (1 / np.pi,)),
    ],
)
def test_spyx_surrogates(surrogate, name, arguments):
    jax, axn = peer("jax"), peer("spyx.axn")
    x = np.linspace(-2, 2, 41).astype("float32")
    theirs = getattr(axn, name)(*arguments)
    reference = jax.grad(lambda u: theirs(u).sum())(jax.numpy.asarray(x))
    _, (dx,), _ = gradients(lambda u: ops.sum(surrogate(u, strict=True)), [], x)
    np.testing.assert_allclose(dx, np.asarray(reference), rtol=1e-5, atol=1e-6)
    found = to_numpy(surrogate(ops.array(x), strict=True))
    np.testing.assert_array_equal(found, np.asarray(theirs(jax.numpy.asarray(x))))


def test_spyx_fires_above_the_threshold():
    x = np.full((1, 3, 1), 0.5, "float32")
    spikes, _, _ = spyx_reference(spyx("IF"), np.repeat(x, 7, axis=2), 0.0)
    np.testing.assert_array_equal(to_numpy(layers.DelayedLIF()(x))[..., 0], spikes[..., 0])
    assert not spikes.any()
