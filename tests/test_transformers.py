"""Spiking transformers: attention layers by hand, and whole networks beside SpikingJelly's."""

import re

import keras
import numpy as np
import pytest
from helpers import gradients, lively, to_numpy
from keras import ops
from test_analysis import op_counter
from test_zoo_gradients import float64, same_gradients, short  # noqa: F401
from test_zoo_parity import count_ties

from keras_snn import analysis, applications, conversion, export, graph, memory
from keras_snn import layers as snn
from keras_snn.applications.weights.transformers import our_names

HEADS = 2


def spikes(*shape, seed=0, rate=0.7):
    return (np.random.default_rng(seed).random(shape) < rate).astype("float32")


def fire(currents, threshold=0.5):
    """LIF with tau 2 and a hard reset, `(batch, time, ...)`."""
    v, fired = 0.0, []
    for t in range(currents.shape[1]):
        v = v + (currents[:, t] - v) / 2
        fired.append(v >= threshold)
        v = np.where(fired[-1], 0.0, v)
    return np.stack(fired, 1).astype("float64")


def split(x):
    return x.reshape(*x.shape[:-1], HEADS, -1)


def self_attention(q, k, v):
    scores = np.einsum("btnhd,btmhd->bthnm", split(q), split(k))
    return fire(0.125 * np.einsum("bthnm,btmhd->btnhd", scores, split(v)).reshape(q.shape))


def token_attention(q, k):
    return (fire(split(q).sum(-1))[..., None] * split(k)).reshape(k.shape)


# A layer, the number of its inputs, and what it computes of tokens.
LAYERS = {
    "self": (lambda **kw: snn.SpikingSelfAttention(HEADS, **kw), 3, self_attention),
    "token": (lambda **kw: snn.QKTokenAttention(HEADS, **kw), 2, token_attention),
    "channel": (
        lambda **kw: snn.QKChannelAttention(**kw),
        2,
        lambda q, k: fire(q.sum(2, keepdims=True)) * k,
    ),
    "driven": (
        lambda **kw: snn.SpikeDrivenAttention(**kw),
        3,
        lambda q, k, v: q * fire((k * v).sum(2, keepdims=True)),
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_attention_by_hand(kind):
    make, count, by_hand = LAYERS[kind]
    inputs = [spikes(2, 3, 6, 8, seed=seed) for seed in range(count)]
    expected = by_hand(*(x.astype("float64") for x in inputs))
    assert 0.05 < expected.mean() < 0.9
    layer = make()
    np.testing.assert_array_equal(to_numpy(layer(inputs)), expected)
    maps = [x.reshape(2, 3, 2, 3, 8) for x in inputs]
    again = type(layer).from_config(layer.get_config())
    np.testing.assert_array_equal(to_numpy(again(maps)), expected.reshape(2, 3, 2, 3, 8))
    # A masked step leaves the neuron as it was, and gives zeros.
    mask = np.array([[True, False, True]] * 2)
    expected = by_hand(*(x[:, ::2].astype("float64") for x in inputs))
    found = to_numpy(layer(inputs, mask=mask))
    np.testing.assert_array_equal(found[:, ::2], expected)
    assert not found[:, 1].any()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_counts_are_exact(policy):
    """Both orders give the same counts; half precision would end at 2048, or 256."""
    inputs = [spikes(1, 2, 90, 64, seed=seed, rate=0.9) for seed in range(3)]
    q, k, v = (x.astype("float64") for x in inputs)
    expected = 0.125 * q @ (k.swapaxes(-1, -2) @ v)
    assert expected.max() > 2048 * 0.125
    for order in ("q_kv", "qk_v", "auto"):
        layer = snn.SpikingSelfAttention(1, order=order, dtype=policy)
        found = layer.products([ops.cast(x, layer.compute_dtype) for x in inputs])
        np.testing.assert_array_equal(to_numpy(found).astype("float64"), expected)
    assert layer(inputs).dtype is not None
    assert keras.backend.standardize_dtype(layer(inputs).dtype) == layer.compute_dtype


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ((2, 3, 6, 8), "expects a list .q, k, v.*one shape"),
        ([(2, 3, 6, 8), (2, 3, 2, 3, 8), (2, 3, 6, 8)], "one shape"),
        ([(2, 3, 6, 8)] * 2, "expects a list .q, k, v.*one shape"),
        ([(2, 6, 8)] * 3, "expects a list .q, k, v.*one shape"),
        ([(2, 3, 6, 8), (2, 3, 5, 8), (2, 3, 6, 8)], "one shape.*5, 8"),
        ([(2, 3, 6, 7)] * 3, "heads=2.*6, 7"),
    ],
)
def test_bad_inputs(shapes, message):
    with pytest.raises(ValueError, match=message):
        inputs = ops.ones(shapes) if isinstance(shapes, tuple) else [ops.ones(s) for s in shapes]
        snn.SpikingSelfAttention(HEADS)(inputs)


@pytest.mark.once
def test_bad_arguments():
    for arguments, name in (((0,), "heads"), ((2, 0.0), "scale"), ((2, 1.0, "kq"), "order")):
        with pytest.raises(ValueError, match=f"`{name}`"):
            snn.SpikingSelfAttention(*arguments)


@pytest.mark.once
def test_maps_are_refused_where_images_are_channels_first():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="heads_2 takes maps.*2, 3, 8.*'channels_first'"):
            snn.QKTokenAttention(HEADS, name="heads_2")([np.ones((1, 2, 2, 3, 8), "float32")] * 2)
        with pytest.raises(ValueError, match="dual takes maps"):
            maps = [np.ones((1, 2, 2, 3, channels), "float32") for channels in (8, 16)]
            snn.DualSpikeAttention(HEADS, name="dual")(maps)
        tokens = [np.ones((1, 2, 6, 8), "float32")] * 2
        assert snn.QKTokenAttention(HEADS)(tokens).shape == (1, 2, 6, 8)
    finally:
        keras.config.set_image_data_format("channels_last")


def small(kind="self", alike=False, **kwargs):
    """A model of one attention layer called `attention`, of an input each, or of one for all."""
    make, count, _ = LAYERS[kind]
    inputs = [keras.Input((3, 6, 8), name=f"x{i}") for i in range(1 if alike else count)]
    y = make(name="attention", **kwargs)(inputs * count if alike else inputs)
    return keras.Model(inputs[0] if alike else inputs, snn.MeanOverTime()(y))


@pytest.mark.once
@pytest.mark.parametrize("kind", LAYERS)
def test_graphs_show_the_parts(kind):
    model, (_, count, by_hand) = small(kind), LAYERS[kind]
    x = [spikes(2, 3, 6, 8, seed=seed) for seed in range(count)]
    expected = by_hand(*(a.astype("float64") for a in x)).mean(1)
    assert analysis.firing_rates(model, x).keys() == {"attention_neuron"}
    recorded = analysis.record(model, x)["attention_neuron"]["spikes"]
    if kind == "self":
        np.testing.assert_allclose(recorded.mean(1), expected, atol=1e-6)
    (*_, (outputs, _)) = analysis.Rollout(model, chunk=2).run(x)
    np.testing.assert_allclose(outputs[0][:, -1], expected, atol=1e-6)
    assert analysis.profile(model, x).uncharged == ()
    with pytest.raises(TypeError, match="attention_.*NIR"):
        export.to_nir(small(kind, alike=True))
    with pytest.raises(ValueError, match="attention_(products|gate) "):
        conversion.convert(small(kind, alike=True, neuron=keras.layers.ReLU()), x[0])


@pytest.mark.once
def test_counts_equal_spikingjellys(zoo):
    torch, counter = op_counter()
    from spikingjelly.activation_based.layer.attention import SpikingSelfAttention

    x = [spikes(2, 3, 6, 8, seed=seed) for seed in range(3)]
    # (time, batch, 3, heads, channels of a head, tokens)
    qkv = torch.tensor(np.stack([split(a) for a in x])).permute(2, 1, 0, 4, 5, 3).contiguous()
    found = {}
    for order in ("q_kv", "qk_v"):
        profile = analysis.profile(small(order=order), x)
        (found[order],) = (layer for layer in profile.layers if layer.name == "attention_products")
        assert profile.macs == 0
    synop = counter.SynOpCounter()
    with torch.no_grad(), counter.DispatchCounterMode([synop]):
        SpikingSelfAttention._ssa_kernel_torch(qkv, 0.125)
    assert found["q_kv"].synops * 2 == synop.get_total()
    # Each spike of `v` is added wherever a query meets its key, each pair of spikes of one head.
    q, k, v = x
    pairs = np.einsum("bthd,bthd->", split(q).sum(2), split(k).sum(2))
    assert found["qk_v"].synops * 2 == pairs + 6 * v.sum()
    assert found["qk_v"].macs == 2 * 6 * 6 * 8 and found["q_kv"].macs == 2 * 6 * 8 * 4


@pytest.mark.once
def test_remat_of_a_block(tmp_path):
    """A block of branches is one layer of `Remat` as a model of its own."""
    inputs = keras.Input((3, 6, 8))
    q, k = (snn.LIF()(keras.layers.Dense(8)(inputs)) for _ in range(2))
    y = keras.layers.Add()([inputs, snn.QKTokenAttention(HEADS, name="attention")([q, k])])
    block = keras.Model(inputs, y, name="block")
    outputs = snn.MeanOverTime()(memory.Remat([block], name="remat")(inputs))
    model = keras.Model(inputs, outputs)
    x, weights = spikes(2, 3, 6, 8), block.trainable_variables
    plain = keras.Model(inputs, snn.MeanOverTime()(block(inputs)))
    found = [
        gradients(lambda a, m=m: ops.sum(m(a, training=True) ** 2), weights, x)
        for m in (model, plain)
    ]
    for a, b in zip(found[0][2], found[1][2]):
        assert abs(a).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    names = [call.name for call in graph.trace(model).calls]
    assert "remat/block/attention_neuron" in names


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the work is TensorFlow's")
def test_export(tmp_path):
    inputs = keras.Input((2, 6, 8), name="x")
    branches = []
    for name in "qkv":
        kernel = keras.initializers.RandomNormal(mean=0.5, seed=ord(name), stddev=1.0)
        y = keras.layers.Dense(8, kernel_initializer=kernel, name=f"dense_{name}")(inputs)
        branches.append(snn.LIF(name=name)(y))
    found = [make(name=kind)(branches[:count]) for kind, (make, count, _) in LAYERS.items()]
    model = keras.Model(inputs, snn.MeanOverTime()(keras.layers.Add()(found)))
    x = np.random.default_rng(0).normal(0.5, 1.0, (2, 2, 6, 8)).astype("float32")
    for mode in ("sequence", "step"):
        report = export.to_tflite(model, tmp_path / "net.tflite", mode, verify_data=x)
        assert len(report.layers) == 7
        for layer in report.layers:
            assert 0.01 < layer["rate"] < 0.99, layer
            assert layer["agreement"] == layer["agreement, built-in"] == 1, layer


def peer(zoo, case):
    """A network of the zoo with lively random weights, in inference mode, and ours with them."""
    import torch

    torch.manual_seed(0)
    module, name, arguments, title, ours = CASES[case]
    arguments |= {"T": T, "num_classes": 3, "tau": 2.0, "detach_reset": True}
    net = getattr(getattr(zoo, module), name)(**arguments)
    lively(net, 0.6)
    model = getattr(applications, title)(
        input_shape=shape_of(case),
        timesteps=T,
        classes=3,
        classifier_activation=None,
        **ours,
    )
    report = applications.load_torch_weights(model, net.state_dict())
    assert report.missing == report.notes == []
    assert all(tensor.endswith("num_batches_tracked") for tensor in report.unused)
    return net.eval(), model, report


T = 4


def shape_of(case):
    """The shape of an image, of 4 tokens at least."""
    return (32, 32, 3) if case.startswith("QKFormer") else (16, 16, 3)


QK = {"embed_dims": 32, "num_heads": (2, 2, 2), "depths": (1, 1, 1)}
OUR_QK = {
    "width": 32,
    "heads": 2,
    "blocks": (1, 1, 1),
    "patch_size": 16,
    "biases": ("stem", "mlp"),
}
CASES = {  # the peer's module, name and arguments; our name and arguments
    "Spikformer": (
        "spikformer",
        "Spikformer",
        {
            "img_size_h": 16,
            "img_size_w": 16,
            "patch_size": 4,
            "embed_dims": 16,
            "num_heads": 2,
            "depths": 1,
        },
        "Spikformer",
        {"width": 16, "heads": 2, "blocks": 1, "pool": "currents"},
    ),
    "QKFormer, tokens": ("qkformer", "QKFormer", QK, "QKFormer", OUR_QK),
    "QKFormer, channels": (
        "qkformer",
        "QKFormer",
        QK | {"qka_type": "channel"},
        "QKFormer",
        OUR_QK | {"attention": "channel"},
    ),
    "SDT": (
        "spike_driven_transformer",
        "SpikeDrivenTransformer",
        {"embed_dims": 16, "num_heads": 2, "depths": 1, "pooling_stat": "0011"},
        "SDT",
        {"width": 16, "blocks": 1},
    ),
}


def peer_spikes(zoo, net, x):
    """Logits; currents, spikes `(batch, time, tokens, channels)` and threshold by our names."""
    import torch

    seen, hooks = {}, []
    for path, part in net.named_modules():
        if isinstance(part, zoo.neuron.BaseNode):

            def keep(part, inputs, output, path=path):
                for place, name in enumerate(names := neuron_names(path)):
                    pair = (in_our_order(a, path, len(names))[place] for a in (*inputs, output))
                    seen[name] = (*pair, part.v_threshold)

            hooks.append(part.register_forward_hook(keep))
    with torch.no_grad():
        logits = net(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    zoo.functional.reset_net(net)
    for hook in hooks:
        hook.remove()
    return logits.mean(0) if logits.ndim == 3 else logits, seen


def neuron_names(path):
    """Our names of a neuron layer of the peer's."""
    known = {
        r"patch_embed\.stages\.(\d)\..*": lambda m: f"stem_neuron{int(m[1]) + 1}",
        r"patch_embed\.final_lif": lambda m: "stem_neuron4",
        r"patch_embed\.positional_encoding\.neuron": lambda m: "position_neuron",
        r"head_lif": lambda m: "head_neuron",
        r"blocks\.0\.mlp\.\D*(\d)": lambda m: f"block1_mlp{m[1]}_neuron",
        r"stage(\d)\.0\.mlp\.lif(\d)": lambda m: f"stage{m[1]}_block1_mlp{m[2]}_neuron",
        r"patch_embed1\.lif1": lambda m: "stem_neuron",
        r"patch_embed1\.lif(\d)": lambda m: f"stage1_embedding_neuron{int(m[1]) - 1}",
        r"patch_embed(\d)\.lif(\d)": lambda m: f"stage{m[1]}_embedding_neuron{m[2]}",
        r"patch_embed(\d)\.shortcut\.2": lambda m: f"stage{m[1]}_embedding_shortcut_neuron",
    }
    for pattern, name in known.items():
        if match := re.fullmatch(pattern, path):
            return [name(match)]
    return our_names(path, "neuron")


def in_our_order(x, path, count):
    """A tensor of the peer's, `(time, batch, channels, ...)`, split to `count` tensors of ours."""
    x = x.detach().numpy()
    if path.endswith("attn_lif"):  # (time, batch, heads, channels, tokens), of which one may be 1
        driven = x.shape[3] == 1 and path.startswith("blocks")  # its last axis is of channels
        x = x.reshape(*x.shape[:2], -1, 1 if driven else x.shape[-1])
    x = np.moveaxis(x.reshape(*x.shape[:3], -1), (0, 1, 2, 3), (1, 0, 3, 2))
    return np.split(x, count, -1)


@pytest.mark.usefixtures("large_models")
@pytest.mark.parametrize(
    "case",
    [
        "QKFormer, tokens",
        "SDT",
        *(
            pytest.param(case, marks=pytest.mark.once)
            for case in ("Spikformer", "QKFormer, channels")
        ),
    ],
)
def test_parity_with_the_zoo(zoo, case):
    net, model, _ = peer(zoo, case)
    for seed in range(4):
        x = np.random.default_rng(seed).normal(size=(2, *shape_of(case))).astype("float32")
        logits, seen = peer_spikes(zoo, net, x)
        assert 0.01 < np.mean([fired.mean() for _, fired, _ in seen.values()]) < 0.9
        found = analysis.record(model, x)
        assert set(found) == set(seen)
        for name, (currents, theirs, threshold) in seen.items():
            ours = found[name]["spikes"].reshape(theirs.shape)
            if not np.array_equal(ours, theirs):  # others follow from it
                order = (np.swapaxes(a, 0, 1) for a in (currents / 2, theirs, ours))
                assert count_ties(*order, 0.5, threshold) <= 3, name
                break
        else:
            assert np.abs(logits).max() > 1e-3
            np.testing.assert_allclose(to_numpy(model(x)), logits, atol=1e-3)
            return
    raise AssertionError("Every image had a tie.")


@pytest.mark.usefixtures("large_models", "float64")
@pytest.mark.once
@pytest.mark.parametrize(
    ("case", "training"), [*((case, False) for case in CASES), ("Spikformer", True)]
)
def test_gradients_of_the_zoo(zoo, case, training):
    import torch

    net, model, report = peer(zoo, case)
    net = net.double().train(training)
    rng = np.random.default_rng(1)
    x, factors = rng.normal(size=(2, *shape_of(case))), rng.normal(size=(2, 3))
    images = torch.tensor(x, requires_grad=True)
    logits = net(images.permute(0, 3, 1, 2))
    logits = logits.mean(0) if logits.ndim == 3 else logits
    (logits * torch.tensor(factors)).sum().backward()
    parameters, parts = dict(net.named_parameters()), {}
    for theirs, ours in report.used:
        if theirs in parameters:
            parts.setdefault(theirs, []).append(ours)
    wanted = {}
    for theirs, names in parts.items():
        pieces = np.split(parameters[theirs].grad.numpy(), len(names))
        for name, gradient in zip(names, pieces):  # of convolutions with a window of 1, too
            dense = "dense" in name and name.endswith("kernel")
            wanted[name] = gradient.reshape(gradient.shape[:2]) if dense else gradient
    logits, images = logits.detach().numpy(), images.grad.numpy()
    same_gradients(model, training, x, factors, logits, images, wanted)


def block_names(theirs, ours, attention, kind, mlp, parts="qkv"):
    """Modules of a block in the authors' code, and our layers."""
    names = {f"{attention}.{part}": part for part in (*parts, "proj")}
    names |= {f"mlp.{mlp}{n}": f"mlp{n}" for n in (1, 2)}
    return {
        f"{theirs}.{a}_{x}": f"{ours}_{b}_{y}"
        for a, b in names.items()
        for x, y in ((kind, "dense"), ("bn", "bn"))
    }


STEM = {
    **{
        f"patch_embed.proj_{kind}{n or ''}": f"stem_{kind}{n + 1}"
        for n in range(4)
        for kind in ("conv", "bn")
    },
    **{f"patch_embed.rpe_{kind}": f"position_{kind}" for kind in ("conv", "bn")},
}


def embedding_names(stage, names):
    names |= {"proj_res": "shortcut"}
    return {
        f"patch_embed{stage}.{a}_{kind}": (
            f"stage{stage}_embedding_shortcut_{kind}"
            if b == "shortcut"
            else f"stage{stage}_embedding_{kind}{b}"
        )
        for a, b in names.items()
        for kind in ("conv", "bn")
    }


FIRST = {f"patch_embed1.proj_{kind}": f"stem_{kind}" for kind in ("conv", "bn")}
AUTHORS = {  # our function and arguments; modules; the shape of a kernel of 1x1; what is not used
    "Spikformer, CIFAR": (
        ("Spikformer", {"width": 16, "heads": 2, "blocks": 1, "biases": ("qkv", "proj", "mlp")}),
        STEM | block_names("block.0", "block1", "attn", "linear", "fc"),
        0,
        ["block.0.norm1.weight", "block.0.norm2.bias"],
    ),
    "Spikformer, ImageNet": (
        ("Spikformer", {"width": 16, "heads": 2, "blocks": 1, "biases": ("proj", "mlp")}),
        STEM | block_names("block.0", "block1", "attn", "conv", "fc"),
        1,
        ["block.0.norm1.weight"],
    ),
    "QKFormer, CIFAR": (
        ("QKFormer", {"width": 16, "heads": 2, "blocks": (1, 1, 1)}),
        FIRST
        | embedding_names(1, {"proj1": 1})
        | embedding_names(2, {"proj3": 1, "proj4": 2})
        | embedding_names(3, {"proj3": 1, "proj4": 2})
        | block_names("stage1.0", "stage1_block1", "tssa", "conv", "mlp", "qk")
        | block_names("stage2.0", "stage2_block1", "tssa", "conv", "mlp", "qk")
        | block_names("stage3.0", "stage3_block1", "ssa", "conv", "mlp"),
        2,
        [],
    ),
    "QKFormer, ImageNet": (
        ("QKFormer", {"width": 16, "heads": 2, "blocks": (1, 1, 1), "patch_size": 16}),
        FIRST
        | embedding_names(1, {"proj1": 1, "proj2": 2})
        | embedding_names(2, {"proj3": 1, "proj4": 2})
        | embedding_names(3, {"proj3": 1, "proj4": 2})
        | block_names("stage1.0", "stage1_block1", "tssa", "conv", "fc", "qk")
        | block_names("stage2.0", "stage2_block1", "tssa", "conv", "fc", "qk")
        | block_names("stage3.0", "stage3_block1", "attn", "conv", "fc"),
        2,
        [],
    ),
    "SDT": (
        ("SDT", {"width": 16, "blocks": 1, "biases": ("proj", "mlp")}),
        STEM | block_names("block.0", "block1", "attn", "conv", "fc"),
        2,
        ["block.0.attn.talking_heads.weight"],
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("case", AUTHORS)
def test_files_of_the_authors(case):
    (title, arguments), names, ones, others = AUTHORS[case]
    arguments = {"input_shape": (16, 16, 3), "classes": 3, "timesteps": 2, **arguments}
    model, rng = getattr(applications, title)(**arguments), np.random.default_rng(0)
    source, values = {name: np.ones(8, "float32") for name in others}, {}
    theirs = {ours: name for name, ours in (names | {"head": "predictions"}).items()}
    leaves = {"moving_mean": "running_mean", "moving_variance": "running_var", "beta": "bias"}
    leaves |= {"gamma": "weight", "kernel": "weight", "bias": "bias"}
    for weight in model.weights:
        layer, leaf = short(weight.path).split("/")
        value = rng.uniform(0.5, 1.5, weight.shape).astype("float32")
        values[layer, leaf] = value
        if leaf == "kernel":
            value = np.moveaxis(value, (-1, -2), (0, 1))
            value = value.reshape(*value.shape, *[1] * ones) if "_dense" in layer else value
        source[f"{theirs[layer]}.{leaves[leaf]}"] = value
    report = applications.load_torch_weights(model, source)
    assert (report.missing, sorted(report.unused), report.notes) == ([], others, [])
    for weight in model.weights:
        np.testing.assert_array_equal(
            to_numpy(weight), values[tuple(short(weight.path).split("/"))]
        )
    # Without biases in front of normalisations, the same function.
    plain = getattr(applications, title)(**arguments | {"biases": ()})
    applications.load_torch_weights(plain, source)
    x = rng.normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(to_numpy(plain(x)), to_numpy(model(x)), atol=1e-4)
    # And back: what the source lacks is 0, and said.
    source = {name: a for name, a in source.items() if name.replace(".bias", ".weight") in source}
    without = {n: a for n, a in source.items() if not (n.endswith("bias") and "bn" not in n)}
    without |= {"head.bias": source["head.bias"]}
    report = applications.load_torch_weights(model, without)
    assert "no biases" in report.notes[0] and not report.missing


@pytest.mark.once
def test_repeated_behind_the_stem_is_repeated_in_front():
    model = applications.SDT(input_shape=(8, 8, 3), classes=3, width=16, blocks=1, timesteps=3)
    clip = applications.SDT(input_shape=(3, 8, 8, 3), classes=3, width=16, blocks=1)
    clip.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        to_numpy(clip(np.repeat(x[:, None], 3, axis=1))), to_numpy(model(x)), atol=1e-6
    )
