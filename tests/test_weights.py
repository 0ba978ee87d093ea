"""Weights from elsewhere: names that PyTorch projects and Keras's ANNs give to the same layers."""

import argparse
import collections
import re
import zipfile

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers as klayers

from keras_snn import applications
from keras_snn.applications import load_keras_weights, load_torch_weights
from keras_snn.applications.weights import transformers
from keras_snn.layers import BatchNormalizationThroughTime, FoldTime, SpikingRNN

pytestmark = [pytest.mark.usefixtures("large_models"), pytest.mark.once]

SMALL = {"input_shape": (32, 32, 3), "classes": 3, "classifier_activation": None}
RELU = {"timesteps": None, "neuron": klayers.ReLU}


def inner(layer):
    if isinstance(layer, SpikingRNN):
        return layer.cell
    return layer.layer if isinstance(layer, FoldTime) else layer


def weighted(model):
    return {layer.name: inner(layer) for layer in model.layers if layer.weights}


def randomised(model, seed=1):
    """The model, with random weights and statistics."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype != "float32":
            continue
        value = rng.normal(0, 0.1, weight.shape)
        weight.assign(value + (weight.name in ("gamma", "moving_variance")))
    return model


# For each project: modules of the layers outside of blocks, and those within (stage, block, whether
# in the shortcut, "conv", "bn" or "neuron", index of the convolution).

VGG9 = ["block1_conv1", "block2_conv1", "block2_conv2", "block3_conv1", "block3_conv2"]
VGG9 += ["block4_conv1", "block5_conv1"]
STEM = {"stem_conv": "conv1", "stem_bn": "bn1", "stem_neuron": "sn1", "predictions": "fc"}


def torchvision(s, b, shortcut, part, k):
    if shortcut:
        return f"layer{s}.{b - 1}.downsample" + {"conv": ".0", "bn": ".1", "neuron": "_sn"}[part]
    return f"layer{s}.{b - 1}.{'sn' if part == 'neuron' else part}{k}"


def sew_repository(s, b, shortcut, part, k):
    inner_ = {"conv": ".module.0", "bn": ".module.1"}[part]
    return f"layer{s}.{b - 1}." + ("downsample.0" if shortcut else f"conv{k}") + inner_


def plain_repository(s, b, shortcut, part, k):
    return sew_repository(s, b, shortcut, part, k).replace("downsample.0", "downsample")


def ms_repository(s, b, shortcut, part, k):
    if shortcut:
        return f"conv{s + 1}_x.{b - 1}.shortcut." + {"conv": "0", "bn": "1.bn"}[part]
    index = 3 * k - 2 + (part == "bn")
    return f"conv{s + 1}_x.{b - 1}.residual_function.{index}" + ".bn" * (part == "bn")


def ms_deep_repository(s, b, shortcut, part, k):
    name = ms_repository(s, b, shortcut, part, k)  # the shortcut starts with a pool
    return name.replace("shortcut.1", "shortcut.2").replace("shortcut.0", "shortcut.1")


def max_repository(s, b, shortcut, part, k):
    name = torchvision(s, b, shortcut, part, k)  # the shortcut starts with a flattening
    return name.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1")


def ms_zoo(s, b, shortcut, part, k):
    return torchvision(s, b, shortcut, part, k).replace("sn", "spike")


def hybrid(s, b, shortcut, part, k):
    inner_ = "identity.0" if shortcut else f"residual.{3 * k - 3}"
    return f"module.layer{s}.{b - 1}.{inner_}"


def event_repository(b, part, k):
    inner_ = {"conv": ".0.module.0", "bn": ".0.module.1", "neuron": ".1"}[part]
    return f"conv.{2 * b - 1}.conv.{k - 1}{inner_}"


PLIF = {"neuron": "parametric_lif"}
FORMATS = {
    "torchvision": ("SpikingResNet18", {}, STEM, torchvision),
    "SpikingJelly's zoo, PLIF": ("SEWResNet18", PLIF, STEM, torchvision),
    "SEW repository": ("SEWResNet50", {}, STEM, sew_repository),
    "plain repository": ("SpikingResNet34", {}, STEM, plain_repository),
    "MS repository": (
        "MSResNet18",
        {},
        {"stem_conv": "conv1.0", "stem_bn": "conv1.1.bn", "predictions": "fc"},
        ms_repository,
    ),
    "MS repository, 104": (
        "MSResNet104",
        {},
        {f"stem_conv{k}": f"conv1.{k - 1}" for k in (1, 2, 3)}
        | {"stem_bn": "conv1.3.bn", "predictions": "fc"},
        ms_deep_repository,
    ),
    "Max-ResNet repository": (
        "MaxResNet18",
        {},
        {"stem_conv": "conv1", "stem_bn": "bn1", "predictions": "fc1"},
        max_repository,
    ),
    "SpikingJelly's MS, PLIF": (
        "MSResNet34",
        PLIF,
        {
            "stem_conv": "stem.0",
            "stem_bn": "stem.1",
            "predictions": "head",
            "head_neuron": "head_lif",
        },
        ms_zoo,
    ),
    "hybrid training, ResNet": (
        "ConversionResNet12",
        {"timesteps": 4},
        {f"stem_conv{k}": f"module.pre_process.{3 * k - 3}" for k in (1, 2, 3)}
        | {"predictions": "module.classifier.0"},
        hybrid,
    ),
    "hybrid training, VGG": (  # ReLUs, dropouts and pools have numbers too
        "ConversionVGG9",
        {"timesteps": 4},
        {name: f"module.features.{3 * i}" for i, name in enumerate(VGG9)}
        | {n: f"module.classifier.{3 * i}" for i, n in enumerate(("fc1", "fc2", "predictions"))},
        None,
    ),
    "7B-Net": (
        "SEW7BNet",
        {"input_shape": (2, 128, 128, 2)},
        {
            "block1_up_conv": "conv.0.0.module.0",
            "block1_up_bn": "conv.0.0.module.1",
            "block1_up_neuron": "conv.0.1",
            "predictions": "out",
        },
        event_repository,
    ),
}


def module_name(name, outside, block):
    """The project's name of our layer."""
    if name in outside:
        return outside[name]
    found = re.fullmatch(r"stack(\d)_block(\d+)_(shortcut_)?(conv|bn|neuron)(\d?)", name)
    if found:
        s, b, shortcut, part, k = found.groups()
        return block(int(s), int(b), shortcut, part, int(k or 0))
    found = re.fullmatch(r"block(\d)_(conv|bn|neuron)(\d)", name)
    return block(int(found[1]), found[2], int(found[3]))


def state_dict(model, outside, block):
    """The weights of a model as a PyTorch project would save them."""
    flat = next((layer for layer in model.layers if layer.name == "flatten"), None)
    first = True
    found = {}
    for name, layer in weighted(model).items():
        module = module_name(name, outside, block)
        values = {w.name: to_numpy(w) for w in layer.weights}
        if "kernel" in values and values["kernel"].ndim == 4:
            values["kernel"] = values["kernel"].transpose(3, 2, 0, 1)
        elif "kernel" in values:
            kernel = values["kernel"].T
            if flat is not None and first:  # PyTorch flattens channels first
                h, w, c = flat.input.shape[-3:]
                kernel = kernel.reshape(-1, h, w, c).transpose(0, 3, 1, 2).reshape(kernel.shape)
                first = False
            values["kernel"] = kernel
        torch_names = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
        torch_names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
        for weight, value in values.items():
            name = f"{module}.{torch_names.get(weight, weight)}"
            found[name] = np.ascontiguousarray(value)
        if "gamma" in values:
            found[f"{module}.num_batches_tracked"] = np.array(3)
    return found


def build(title, **kwargs):
    return getattr(applications, title)(**(SMALL | kwargs))


@pytest.mark.parametrize("form", FORMATS)
def test_torch_names(form):
    title, arguments, outside, block = FORMATS[form]
    donor, model = randomised(build(title, **arguments)), build(title, **arguments)
    source = state_dict(donor, outside, block)
    report = load_torch_weights(model, source)
    for ours, expected in zip(weighted(model).items(), weighted(donor).items(), strict=True):
        assert ours[0] == expected[0]
        for a, b in zip(ours[1].weights, expected[1].weights, strict=True):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b), err_msg=ours[0])
    assert report.missing == [] and all(n.endswith("num_batches_tracked") for n in report.unused)
    assert len(report.used) + len(report.unused) == len(source)


@pytest.fixture(scope="module")
def donor():
    return randomised(build("SpikingResNet18"))


@pytest.fixture
def source(donor):
    return state_dict(donor, STEM, torchvision)


def unchanged(model, load, message):
    """`load()` fails with the message and leaves the model as it was."""
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        load()
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("title", "arguments", "message"),
    [
        ("SpikingResNet34", {}, "Nothing fits stack1_block3_conv1/kernel.*spiking_resnet34"),
        ("SpikingResNet50", {}, r"layer1.0.conv1.weight has the shape \(3, 3, 64, 64\)"),
        ("SpikingResNet18", {"classes": 5}, r"fc.*predictions.*\(512, 5\)"),
        ("SpikingResNet18", {"small_images": True}, r"\(7, 7, 3, 64\).*stem_conv.*\(3, 3, 3, 64\)"),
        ("SEWResNet8", {}, "conv1.weight.*sew_resnet8"),
        ("SpikingVGG11", {}, "spiking_vgg11"),
    ],
)
def test_wrong_files_leave_the_model_untouched(source, title, arguments, message):
    model = build(title, **arguments)
    unchanged(model, lambda: load_torch_weights(model, source), message)


def test_single_mismatches(donor, source):
    model = build("SpikingResNet18")
    key = "layer3.1.bn2.running_var"
    for wrong, message in (
        ({k: v for k, v in source.items() if k != key}, "stack3_block1_bn2/moving_variance|stack3"),
        (source | {"layer9.0.conv1.weight": np.ones((1, 1, 1, 1))}, "layer9.0.conv1.weight fits"),
        (source | {key: np.ones(3)}, r"layer3.1.bn2.running_var has the shape \(3,\)"),
        (source | {"layer1.0.conv1.scale": np.ones(3)}, "layer1.0.conv1.scale fits nothing"),
    ):
        unchanged(model, lambda wrong=wrong: load_torch_weights(model, wrong), message)


def test_skip_mismatch_and_models_without_a_head(donor, source):
    model = build("SpikingResNet18", classes=5)
    head = model.get_layer("predictions").get_weights()
    report = load_torch_weights(model, source, skip_mismatch=True)
    assert report.missing == ["predictions/kernel", "predictions/bias"]
    assert {"fc.weight", "fc.bias"} < set(report.unused) and "fc.weight" in str(report)
    np.testing.assert_array_equal(model.get_layer("predictions").get_weights()[0], head[0])
    conv = "stack4_block2_conv2"
    np.testing.assert_array_equal(
        to_numpy(weighted(model)[conv].kernel), to_numpy(weighted(donor)[conv].kernel)
    )
    bare = build("SpikingResNet18", include_top=False, pooling="avg")
    assert {"fc.weight", "fc.bias"} < set(load_torch_weights(bare, source).unused)


def test_files(tmp_path, donor, source):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {f"module.{k}": torch.tensor(v) for k, v in source.items()}
    training = {"model": tensors, "epoch": 3, "args": argparse.Namespace(T=4)}
    torch.save(training, tmp_path / "checkpoint.pth")
    torch.save({k: v.bfloat16() for k, v in tensors.items()}, tmp_path / "half.pt")
    safetensors.save_file(source, tmp_path / "weights.safetensors")
    kernel = to_numpy(donor.get_layer("stem_conv").kernel)
    for name, tolerance in (("checkpoint.pth", 0), ("weights.safetensors", 0), ("half.pt", 4e-3)):
        model = build("SpikingResNet18")
        load_torch_weights(model, tmp_path / name)
        found = to_numpy(model.get_layer("stem_conv").kernel)
        np.testing.assert_allclose(found, kernel, rtol=tolerance, atol=0)


class Harmful:
    def __reduce__(self):
        return print, ("code of the file runs",)


def test_files_that_are_refused(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors.numpy")
    model = build("SEWResNet8")
    torch.save({"state_dict": {"fc.weight": Harmful()}}, tmp_path / "harmful.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no tensors here")
    for name, message in (
        ("harmful.pth", "harmful.pth.*more than tensors"),
        ("empty.pth", "no tensors.*epoch"),
        ("broken.pth", "broken.pth"),
        ("broken.safetensors", "broken.safetensors"),
    ):
        unchanged(model, lambda name=name: load_torch_weights(model, tmp_path / name), message)
    assert "code of the file" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        load_torch_weights(model, tmp_path / "absent.pth")
    with pytest.raises(TypeError, match="got list"):
        load_torch_weights(model, [1, 2])


def lively(model):
    """Statistics and scales that leave the network something to say."""
    rng = np.random.default_rng(2)
    for layer in weighted(model).values():
        if isinstance(layer, klayers.BatchNormalization):
            for weight, low in ((layer.gamma, 0.5), (layer.moving_variance, 0.5)):
                weight.assign(rng.uniform(low, low + 1, weight.shape))
            for weight in (layer.beta, layer.moving_mean):
                weight.assign(rng.normal(0, 0.3, weight.shape))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
    return model


def images(*shape):
    return np.random.default_rng(3).normal(size=shape).astype("float32")


def test_tdbn_keeps_the_function_of_plain_normalisation():
    arguments = {"neuron": "decay_lif", "include_top": False, "pooling": "avg"}
    plain = lively(build("SpikingResNet34", **arguments))
    tdbn = build("TDBNResNet34", **arguments)
    load_torch_weights(tdbn, state_dict(plain, STEM, torchvision))
    expected = to_numpy(plain(images(2, 32, 32, 3)))
    assert expected.std() > 0.01
    np.testing.assert_allclose(to_numpy(tdbn(images(2, 32, 32, 3))), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["ResNet50", "VGG16"])
def test_keras_anns_keep_their_function(name):
    """With ReLUs instead of neurons, our networks are those of `keras.applications`."""
    arguments = {"input_shape": (32, 32, 3), "include_top": False}
    ann = lively(getattr(keras.applications, name)(weights=None, **arguments))
    strides = {"strided_convolution": "1x1"} if name == "ResNet50" else {}
    ours = build("Spiking" + name, **RELU, **strides, include_top=False)
    report = load_keras_weights(ours, ann)
    assert report.missing == report.unused == report.notes == []
    x = images(2, 32, 32, 3)
    expected = to_numpy(ann(x))
    assert expected.std() > 0.01
    np.testing.assert_allclose(to_numpy(ours(x)), expected, rtol=1e-4, atol=1e-4)


def test_keras_weights_go_into_spiking_networks():
    ann = lively(keras.applications.ResNet50(weights=None, **SMALL))
    snn = build("SpikingResNet50")
    report = load_keras_weights(snn, ann)
    assert len(report.used) == len(ann.weights) == 320
    assert "stack2_block1_conv1 (1, 1) for (2, 2)" in report.notes[0]
    np.testing.assert_array_equal(
        to_numpy(weighted(snn)["stack4_block3_conv2"].kernel),
        to_numpy(ann.get_layer("conv5_block3_2_conv").kernel),
    )
    smaller = build("SpikingResNet18")
    unchanged(smaller, lambda: load_keras_weights(smaller, ann), "conv2_block1_.*")
    other = keras.applications.MobileNet(weights=None, **SMALL)
    unchanged(snn, lambda: load_keras_weights(snn, other), "conv1.kernel fits nothing")


def test_own_anns():
    ann = lively(build("ConversionVGG5", **RELU))
    snn = build("ConversionVGG5", timesteps=2)
    load_keras_weights(snn, ann)
    for a, b in zip(snn.trainable_weights, ann.trainable_weights, strict=True):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


def test_wrappers_and_second_names(donor, source):
    for wrapper in ("model_ema", "state_dict_ema", "model_state", "state_dict"):
        wrapped = {"epoch": 1, wrapper: {f"module._orig_mod.{k}": v for k, v in source.items()}}
        model = build("SpikingResNet18")
        assert load_torch_weights(model, wrapped).missing == []
        np.testing.assert_array_equal(to_numpy(model.weights[0]), to_numpy(donor.weights[0]))


def test_numbers_that_are_none(source):
    model = build("SpikingResNet18")
    report = load_torch_weights(model, source | {"fc.bias": np.array([0, np.nan, 1])})
    assert "fc.bias" in report.notes[0] and "conv1" not in report.notes[0]
    wrong = source | {"fc.bias": np.ones(3, "complex64")}
    unchanged(model, lambda: load_torch_weights(model, wrong), "fc.bias is complex")


def test_small_files_with_large_shapes(tmp_path):
    torch = pytest.importorskip("torch")
    model = build("SEWResNet8")
    torch.save({"fc.weight": torch.zeros(1).expand(10**10)}, tmp_path / "expanded.pth")
    unchanged(model, lambda: load_torch_weights(model, tmp_path / "expanded.pth"), "fc.weight.*4 b")
    torch.save({"fc.weight": torch.zeros(10**6)}, tmp_path / "stored.pth")
    packed = tmp_path / "packed.pth"
    with (
        zipfile.ZipFile(tmp_path / "stored.pth") as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file,
    ):
        for entry in source.infolist():
            file.writestr(entry.filename, source.read(entry))
    assert packed.stat().st_size < 10**5
    unchanged(model, lambda: load_torch_weights(model, packed), "is packed, .* bytes")


def shifted(name):
    """Normalisation through time as S-ResNet's code has it."""
    return BatchNormalizationThroughTime(2, center=True, name=name)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_s_resnets_names(prefix):
    """Lists of convolutions and of normalisations for each step, some under a second name."""
    arguments = {"input_shape": (8, 8, 3), "width": 2, "timesteps": 2}
    donor, model = (build("SResNet20", norm=shifted, **arguments) for _ in range(2))
    randomised(donor)
    source = {"fc.weight": to_numpy(donor.get_layer("predictions").kernel).T}

    def add(index, name, conv="conv_list", bn="bntt_list", second=None):
        kernel = to_numpy(weighted(donor)[name.replace("*", "conv")].kernel)
        steps = donor.get_layer(name.replace("*", "bn")).steps
        found = {f"{conv}.{index}.weight": kernel.transpose(3, 2, 0, 1)}
        for t, step in enumerate(steps):
            values = [step.gamma, step.beta, step.moving_mean, step.moving_variance, np.array(7)]
            leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            found |= {f"{bn}.{index}.{t}.{n}": to_numpy(v) for n, v in zip(leaves, values)}
        if second:
            names = {f"{conv}.{index}.": second[0] + ".", f"{bn}.{index}.": second[1] + "."}
            for key in list(found):
                start = next(start for start in names if key.startswith(start))
                source[names[start] + key.removeprefix(start)] = found[key]
        source.update(found)

    add(0, "stem_*", second=("conv1", "bntt1"))
    for index in range(18):
        stage, block, k = index // 6 + 1, index % 6 // 2 + 1, index % 2 + 1
        add(index + 1, f"stack{stage}_block{block}_*{k}")
    for j in range(2):
        second = f"conv_resize_{j + 1}", f"resize_bn_{j + 1}"
        lists = "conv1x1_list", "bn_conv1x1_list"
        add(j, f"stack{j + 2}_block1_shortcut_*", *lists, second=second)

    source = {prefix + key: value for key, value in source.items()}
    report = load_torch_weights(model, source)
    assert report.missing == []
    for ours, theirs in zip(model.weights, donor.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs), err_msg=ours.path)
    plain = build("SResNet20", **arguments)
    unchanged(plain, lambda: load_torch_weights(plain, source), "bias fits nothing")
    load_keras_weights(model, randomised(donor, seed=2))
    np.testing.assert_array_equal(to_numpy(model.weights[1]), to_numpy(donor.weights[1]))


def test_records_beside_tensors(tmp_path, donor, source):
    torch = pytest.importorskip("torch")
    records = {
        "best": np.float64(0.9),
        "epoch": np.int64(3),
        "args": argparse.Namespace(folder=tmp_path, rate=np.float32(0.1)),
        "history": collections.defaultdict(list, loss=[1.0, np.float64(0.5)]),
    }
    torch.save({"model": {k: torch.tensor(v) for k, v in source.items()}} | records, tmp_path / "a")
    model = build("SpikingResNet18")
    assert load_torch_weights(model, tmp_path / "a").missing == []
    np.testing.assert_array_equal(to_numpy(model.weights[0]), to_numpy(donor.weights[0]))


def test_parameters_of_surrogates(source):
    alpha = {"sn1.surrogate_function.alpha": np.array(2.0)}
    assert [*alpha] == [
        name
        for name in load_torch_weights(build("SpikingResNet18"), source | alpha).unused
        if "num_batches" not in name
    ]


def normalisation(epsilon, **kwargs):
    norm = klayers.BatchNormalization(epsilon=epsilon, name="bn", **kwargs)
    return keras.Sequential([klayers.Input((2,)), norm])


def test_another_epsilon():
    """`gamma (x - mean) / sqrt(variance + epsilon) + beta`, with the source's epsilon."""
    source, model = normalisation(0.1), normalisation(0.02)
    source.set_weights([np.array(w) for w in ([1, 2], [0.5, 0], [1, -1], [0.05, 0.3])])
    load_keras_weights(model, source)
    x = np.array([[0.3, 2.0]])
    wanted = np.array([1, 2]) * (x - [1, -1]) / np.sqrt([0.15, 0.4]) + [0.5, 0]
    np.testing.assert_allclose(to_numpy(model(x)), wanted, rtol=1e-6)
    unchanged(source, lambda: load_keras_weights(source, lowered(model)), "bn has variances below")
    for missing in ("scale", "center"):
        other = normalisation(0.02, **{missing: False})
        unchanged(model, lambda other=other: load_keras_weights(model, other), "Nothing fits bn/")


def lowered(model):
    """The model, with no variance at all."""
    model.layers[0].moving_variance.assign([0, 0])
    return model


# Modules of the authors' code, with their kind, and our layers.
TRANSFORMERS = {
    "Max-Former, CIFAR": {
        ("patch_embed1.proj_conv", "conv"): "stem_conv",
        ("patch_embed1.embed1.embed_bn", "norm"): "stage1_embedding_bn1",
        ("patch_embed1.embed2.embed_conv", "conv"): "stage1_embedding_shortcut_conv",
        ("patch_embed2.max_embed1.embed_conv", "conv"): "stage2_embedding_conv1",
        ("patch_embed3.embed1.embed_bn", "norm"): "stage3_embedding_bn2",
        ("patch_embed3.max_embed2.embed_bn", "norm"): "stage3_embedding_shortcut_bn",
        ("stage2.0.mixer.conv", "conv"): "stage2_block1_mix_conv",
        ("stage3.1.attn.q_conv", "conv"): "stage3_block2_q_dense",
        ("stage3.0.mlp.fc2_bn", "norm"): "stage3_block1_mlp2_bn",
    },
    "Max-Former, ImageNet": {
        ("patch_embed1.embed1.embed_conv", "conv"): "stem_conv",
        ("patch_embed1.embed3.embed_bn", "norm"): "stage1_embedding_bn2",
        ("patch_embed1.embed4.embed_conv", "conv"): "stage1_embedding_shortcut_conv",
        ("patch_embed2.max_embed1.embed_conv", "conv"): "stage2_embedding_conv1",
        ("stage1.0.mixer.conv5_bn", "norm"): "stage1_block1_mix_bn",
    },
    "E-SpikeFormer": {
        ("downsample1_2.encode_conv", "conv"): "stage2_conv",
        ("ConvBlock2_2.0.Conv.dwconv.1", "norm"): "stage3_block2_sep2_bn",
        ("ConvBlock1_1.0.conv1", "conv"): "stage1_block1_mlp1_conv",
        ("block3.4.conv.pwconv2.0", "conv"): "stage4_block5_sep3_conv",
        ("block4.1.attn.v_conv.0", "conv"): "stage5_block2_v_dense",
        ("block4.1.mlp.fc1_bn", "norm"): "stage5_block2_mlp1_bn",
        ("head", "dense"): "predictions",
    },
    "SpikingResformer": {
        ("prologue.1.bn", "norm"): "stem_bn",
        ("layers.0.0.W", "conv"): "stage1_block1_attn_kv_conv",
        ("layers.0.0.scores", "rates"): "stage1_block1_attn_attention_scores",
        ("layers.1.0.conv", "conv"): "stage2_conv",
        ("layers.1.3.norm_proj.bn", "norm"): "stage2_block2_attn_proj_bn",
        ("layers.1.4.conv.0.2.bn", "norm"): "stage2_block2_mlp_mid_bn",
        ("classifier", "dense"): "predictions",
    },
}


@pytest.mark.parametrize("project", TRANSFORMERS)
def test_names_of_transformers(project):
    modules = TRANSFORMERS[project]
    paths = [path for path, _ in modules]
    assert transformers.is_transformer(paths)
    found = transformers.names_of(paths)
    assert {module: found(*module) for module in modules} == {m: [n] for m, n in modules.items()}
