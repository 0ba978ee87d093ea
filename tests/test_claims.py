"""What the papers claim of their networks: identities, gradients, value domains."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import ops

from keras_snn import layers
from keras_snn.applications import danet, ms_resnet, s_resnet, spiking_resnet, tdbn_resnet
from keras_snn.applications.builder import Builder, Value
from keras_snn.applications.residual import basic, bottleneck
from keras_snn.layers import FoldTime, ThresholdDependentBatchNormalization

pytestmark = [pytest.mark.usefixtures("large_models"), pytest.mark.once]


def inner(layer):
    return layer.layer if isinstance(layer, FoldTime) else layer


def lively(model, seed=0):
    """The model, with statistics that make its neurons fire, and gammas of zero left alone."""
    rng = np.random.default_rng(seed)
    for layer in map(inner, model.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.2, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape))
            if to_numpy(layer.gamma).any():
                layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
                layer.beta.assign(rng.normal(0.3, 0.3, layer.beta.shape))
    return model


def images(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def outputs(model, names, x):
    """The outputs of layers, by name."""
    return to_numpy(keras.Model(model.inputs, [model.get_layer(n).output for n in names])([x]))


def inputs_of(model, part, x):
    """What the layers whose names contain `part` receive, by name."""
    found = {layer.name: layer.input for layer in model.layers if part in layer.name}
    values = to_numpy(keras.Model(model.inputs, list(found.values()))([x]))
    return dict(zip(found, values))


def is_binary(x):
    return set(np.unique(x)) <= {0.0, 1.0}


DA = {"input_shape": (32, 32, 3), "classes": 3, "small_images": True, "timesteps": 3}


@pytest.mark.parametrize("variant", danet.ORDERS)
def test_e6_1_a_stage_is_the_sum_of_its_units(variant):
    model = lively(danet.DANet34(variant=variant, **DA))
    last = {"A": "neuron2", "PA": {"A": "bn2", "B": "conv2"}[variant[-1]]}[variant[:-2]]
    names = [f"stack2_block{i}" for i in range(1, 5)]
    first, *branches = outputs(
        model, [names[0] + "_add", *(f"{n}_{last}" for n in names[1:])], images(2, 32, 32, 3)
    )
    (end,) = [outputs(model, [names[-1] + "_add"], images(2, 32, 32, 3))]
    assert all(np.abs(b).max() > 0.1 for b in branches)
    total = first + sum(branches)
    if variant.startswith("A"):
        np.testing.assert_array_equal(np.squeeze(end), np.squeeze(total))
    else:
        np.testing.assert_allclose(np.squeeze(end), np.squeeze(total), atol=1e-5)


@pytest.mark.parametrize("variant", danet.ORDERS)
def test_e6_2_units_without_a_branch_are_the_identity(variant):
    neuron = layers.LIF(tau=2.0, threshold=0.7)
    model = danet.DANet34(variant=variant, zero_init_residual=True, neuron=neuron, **DA)
    names = ["stack2_block1_add", "stack2_block2_add", "stack2_block4_add"]
    first, *others = outputs(lively(model), names, images(2, 32, 32, 3))
    assert first.std() > 0.1
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("variant", danet.ORDERS)
def test_e6_2_their_gradient_is_one(variant):
    x = ops.convert_to_tensor(images(2, 3, 8, 8, 4) > 0, dtype="float32")
    inputs = keras.Input((3, 8, 8, 4))
    net, y, order = Builder("lif", 3), Value(inputs, has_time=True), danet.ORDERS[variant]
    zeros = {"last_norm": {"gamma": "zeros"}}
    if variant.endswith("B"):
        zeros = {"last_conv": {"kernel_initializer": "zeros"}}
    for i in range(20):
        branch = danet.residual.branch(net, y, basic(4, 1), order, f"block{i}", **zeros)
        y = net.join(branch, y, f"block{i}_add")
    model = keras.Model(inputs, y.tensor)
    upstream = ops.convert_to_tensor(images(2, 3, 8, 8, 4, seed=5))
    _, (grad,), _ = gradients(lambda x: ops.sum(model(x) * upstream), [], to_numpy(x))
    np.testing.assert_allclose(grad, to_numpy(upstream), rtol=1e-6)


@pytest.mark.parametrize("variant", danet.ORDERS)
def test_e6_3_domains(variant):
    model, x = lively(danet.DANet18(variant=variant, **DA)), images(2, 32, 32, 3)
    units = [f"stack{s}_block{b}_add" for s in (1, 2, 3, 4) for b in (1, 2)]
    sums = outputs(model, units, x)
    if variant.startswith("A"):
        for i, values in enumerate(sums):  # a binary start and one spike from each unit
            assert set(np.unique(values)) <= set(range(i % 2 + 3))
            assert values.max() > 0
        return
    assert all(len(np.unique(values)) > 100 for values in sums)
    convolutions = inputs_of(model, "_conv", x)
    branches = {n: v for n, v in convolutions.items() if "shortcut" not in n and "block" in n}
    branches = {n: v for n, v in branches.items() if "_pad" not in n}
    assert len(branches) == 16
    assert all(is_binary(v) and v.any() for v in branches.values())


def test_da_spans():
    stage = danet.DANet18(span="stage", variant="A-A", **DA)
    x = images(2, 32, 32, 3)
    names = ["stack2_block2_add", "stack2_from_stem_neuron", "stack2_from_stack1_neuron"]
    end, *sources = outputs(lively(stage), [*names, "stack2_add"], x)
    *sources, fused = sources
    assert all(is_binary(s) and s.any() for s in sources)
    np.testing.assert_array_equal(fused, end + sum(sources))

    every = lively(danet.DANet18(span="all", variant="PA-B", **DA))
    into = ["stem", "stack1_block1", "stack1_block2", "stack2_block1", "stack2_block2"]
    names = [f"stack3_block1_from_{source}_bn" for source in into]
    branch, fused, *terms = outputs(every, ["stack3_block1_conv2", "stack3_block1_add", *names], x)
    terms[0] = terms[0] if terms[0].ndim == 5 else terms[0][:, None]
    np.testing.assert_allclose(fused, branch + sum(terms), atol=1e-4)
    strides = [inner(every.get_layer(n.replace("bn", "conv"))).strides[0] for n in names]
    assert strides == [4, 4, 4, 2, 2]


def test_ms_resnet_convolutions_see_spikes_and_shortcuts_real_numbers():
    model = lively(
        ms_resnet.MSResNet18(input_shape=(64, 64, 3), classes=3, zero_init_residual=False)
    )
    x = images(1, 64, 64, 3)
    seen = inputs_of(model, "_conv", x)
    convolutions = {n: v for n, v in seen.items() if "shortcut" not in n and "stem" not in n}
    assert all(is_binary(v) and v.any() for v in convolutions.values()) and len(seen) > 16
    for name, values in seen.items():
        if "shortcut" in name:
            assert len(np.unique(values)) > 100
    assert is_binary(outputs(model, ["head_neuron"], x))


def test_ms_resnet_starts_as_the_identity():
    model = lively(ms_resnet.MSResNet34(input_shape=(64, 64, 3), classes=3))
    names = ["stack1_block1_add", "stack1_block3_add"]
    first, last = outputs(model, names, images(1, 64, 64, 3))
    assert first.std() > 0.1
    np.testing.assert_array_equal(first, last)


def test_ms_resnet_104_shortcuts_average():
    model = ms_resnet.MSResNet104(input_shape=(64, 64, 3), classes=3)
    pool = inner(model.get_layer("stack2_block1_shortcut_pool"))
    assert isinstance(pool, keras.layers.AveragePooling2D)
    assert inner(model.get_layer("stack2_block1_shortcut_conv")).strides == (1, 1)
    assert inner(model.get_layer("stem_conv1")).use_bias
    assert sum(
        "_conv" in n and "pad" not in n and "shortcut" not in n
        for n in (layer.name for layer in model.layers)
    ) == 3 + 2 * (3 + 8 + 32 + 8)


SR = {"depth": 14, "width": 8, "input_shape": (16, 16, 3), "classes": 3, "timesteps": 4}


@pytest.mark.parametrize("block", ["stack1_block2", "stack2_block2", "stack3_block1"])
def test_e5_3_spike_addition(block):
    model, x = s_resnet.SResNet(norm="bn", **SR), images(2, 16, 16, 3)
    output, spikes, skip = [
        inner_
        for inner_ in outputs(
            lively(model),
            [
                block + "_add",
                block + "_neuron2",
                block[:-1] + "1_add" if block.endswith("2") else block + "_shortcut_bn",
            ],
            x,
        )
    ]
    assert is_binary(spikes) and spikes.any()
    np.testing.assert_array_equal(output, spikes + skip)
    if block.startswith("stack1"):
        assert set(np.unique(output)) <= {0.0, 1.0, 2.0, 3.0}
    else:  # behind a projection without a neuron
        assert len(np.unique(output)) > 100


def test_e5_3_current_addition():
    model = lively(s_resnet.SResNet(norm="bn", residual_at="current", **SR))
    for s in (1, 2, 3):
        for b in (1, 2):
            (out,) = [outputs(model, [f"stack{s}_block{b}_neuron2"], images(2, 16, 16, 3))]
            assert is_binary(out) and np.any(out)


def test_e5_4_and_e5_5_heads_are_linear():
    arguments = SR | {"classifier_activation": None}
    model, x = s_resnet.SResNet(boosting=True, **arguments), images(2, 16, 16, 3)
    pooled, logits = outputs(model, ["avg_pool", "predictions"], x)
    kernel = to_numpy(model.get_layer("boosting").kernel)
    assert kernel.shape == (32, 30) and model.get_layer("boosting").bias is None
    each = pooled @ kernel
    np.testing.assert_allclose(logits, each.mean(1).reshape(2, 3, 10).mean(-1), atol=1e-5)
    plain = s_resnet.SResNet(**arguments)
    pooled, logits = outputs(plain, ["avg_pool", "predictions"], x)
    steps = pooled @ to_numpy(plain.get_layer("predictions").kernel)
    assert np.abs(logits).max() > 1e-3
    np.testing.assert_allclose(logits, steps.mean(axis=1), atol=1e-5)


def test_e5_1_depth():
    for depth in (8, 14, 20):
        model = s_resnet.SResNet(**(SR | {"depth": depth, "norm": None}))
        weighted = [layer for layer in model.layers if layer.weights]
        projections = [layer for layer in weighted if "shortcut" in layer.name]
        assert len(weighted) - len(projections) == depth and len(projections) == 2


def test_tdbn_scales():
    model = tdbn_resnet.TDBNResNet19(input_shape=(16, 16, 3), classes=3)
    norms = [m for m in model.layers if isinstance(m, ThresholdDependentBatchNormalization)]
    assert len(norms) == 1 + 16 + 3 and all(norm.threshold == 0.5 for norm in norms)
    halved = {norm.name for norm in norms if norm.alpha == 2**-0.5}
    assert halved == {n.name for n in norms if n.name.endswith(("bn2", "shortcut_bn"))}
    assert {norm.alpha for norm in norms} == {1.0, 2**-0.5}
    other = tdbn_resnet.TDBNResNet19(
        input_shape=(16, 16, 3), classes=3, neuron=layers.LIF(threshold=0.8)
    )
    assert other.get_layer("stem_bn").threshold == 0.8


def test_e4_4_identity_of_plain_blocks():
    """With a silent branch, IF neurons of threshold 1 pass spikes on, LIF neurons do not."""
    for neuron, kept in (("if", True), (layers.LIF(tau=2.0), False)):
        model = spiking_resnet.SpikingResNet34(
            input_shape=(32, 32, 3), classes=3, small_images=True, zero_init_residual=True,
            neuron=neuron,
        )  # fmt: skip
        before, after = outputs(
            lively(model), ["stem_neuron", "stack1_block2_neuron2"], 3 * images(2, 32, 32, 3)
        )
        assert 0.05 < before.mean() < 0.95
        assert np.array_equal(before, after) is kept


@pytest.mark.parametrize("plan", [basic, bottleneck])
def test_strides_of_a_plan(plan):
    assert np.prod([strides for _, _, strides in plan(8, 2)]) == 2
    assert plan(8, 2)[1 if plan is bottleneck else 0][2] == 2
    assert bottleneck(8, 2, "1x1")[0] == (8, 1, 2)
