"""The contract of `keras.applications`, for every family."""

import inspect
import os

import keras
import numpy as np
import pytest
from helpers import first_everywhere, to_numpy

from keras_snn import applications, layers, losses
from keras_snn.analysis import is_spiking

pytestmark = pytest.mark.usefixtures("large_models")

FAMILIES = {family.__name__.rpartition(".")[2]: family for family in applications.FAMILIES}
EVERY = [(family, name) for family, module in FAMILIES.items() for name in module.__all__]
# Of each family the smallest, and each variant that has layers of its own.
SMALL = {
    "SEWResNet8": {"connect": "iand"},
    "ConversionVGG5": {"input_shape": (16, 16, 3), "norm": "tebn"},
    "SpikingResNet18": {"small_images": True},
    "ConversionResNet12": {},
    "SEW7BNet": {"input_shape": (2, 128, 128, 2)},
    "TDBNResNet19": {"spiking_readout": True, "input_shape": (16, 16, 3)},
    "SResNet": {"depth": 8, "width": 8, "boosting": True},
    "MSResNet18": {"dropout": 0.1},
    "MaxResNet18": {"input_shape": (8, 8, 3)},
    "SpikingConvNet": {},
    "MaxFormer": {"width": 32, "blocks": (1, 1, 1), "heads": 2, "mixing": (3, 3)},
    "ESpikeFormer": {"width": (4, 4, 8, 8), "blocks": (1, 1, 1, 1, 1), "heads": 2},
    "SpikingResformer": {
        "width": (4, 8, 8),
        "blocks": (1, 1, 1),
        "heads": (1, 2, 2),
        "group_size": 4,
        "small_images": True,
    },
    "DANet18": {"span": "all", "variant": "A-B"},
    "Spikformer": {"width": 16, "blocks": 1, "heads": 2},
    "QKFormer": {"width": 32, "blocks": (1, 1, 1), "heads": 2, "attention": "channel"},
    "SDT": {"width": 16, "blocks": 1, "mlp_ratio": 1.0},
    "SpikingFCN": {"width": 0.05, "input_shape": (16, 16, 3)},
}
LARGE = {
    "SpikingVGG11": {"pool": "average", "use_bias": False, "norm": "tebn"},
    "SpikingResNet50": {"strided_convolution": "1x1"},
    "DANet50": {"span": "stage", "variant": "PA-A"},
}
EACH = SMALL | LARGE
ARGUMENTS = {"input_shape": (32, 32, 3), "classes": 3, "timesteps": 2}


def build(name, **kwargs):
    return getattr(applications, name)(**(ARGUMENTS | EACH[name] | kwargs))


def examples(model, count=2, seed=0):
    shape = [2 if size is None else size for size in model.input_shape[1:]]
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype("float32")


@pytest.mark.once
@pytest.mark.parametrize(("family", "name"), EVERY)
def test_signature_and_documentation(family, name):
    function = getattr(applications, name)
    found = inspect.signature(function).parameters
    keras_ = inspect.signature(keras.applications.ResNet50).parameters
    assert list(found)[:8] == list(keras_)[:8]
    wanted = {n: p.default for n, p in keras_.items()} | {"weights": None}
    for argument in list(found)[:7]:
        assert found[argument].default == wanted[argument]
    assert found["name"].default == found["name"].default.lower()
    assert all(p.kind is p.KEYWORD_ONLY for p in list(found.values())[8:])
    assert {"timesteps", "neuron", "norm"} < set(found)
    for argument in found:
        assert f"\n    {argument}: " in function.__doc__, argument
    assert function.__module__ == FAMILIES[family].__name__
    assert "\nSource: " in function.__doc__
    assert "\n>>> " in function.__doc__  # which pytest runs


# Compiling takes up to a minute each; with `ALL_MODELS=1` every backend runs every one.
FEW = FITTED = first_everywhere(*SMALL)
if "ALL_MODELS" in os.environ:
    FEW, FITTED = SMALL, EACH


@pytest.mark.parametrize("name", FITTED)
def test_fit_save_load(name, tmp_path):
    model = build(name)
    *sides, classes = model.output_shape[1:]
    assert (len(sides), classes) == (2 if name == "SpikingFCN" else 0, 3)
    x, before = examples(model, 4), [w.copy() for w in model.get_weights()]
    # Of contiguous maps Keras's loss has no gradient on PyTorch.
    loss = losses.PixelCrossentropy() if sides else "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=False)
    labels = np.broadcast_to(np.reshape([0, 1, 2, 0], (4, *[1] * len(sides))), (4, *sides))
    history = model.fit(x, labels, batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    after = model.get_weights()
    assert all(np.isfinite(w).all() for w in after)
    assert any((a != b).any() for a, b in zip(before, after))

    expected = to_numpy(model(x))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        to_numpy(keras.saving.load_model(tmp_path / "model.keras")(x)), expected
    )
    model.save_weights(tmp_path / "model.weights.h5")
    again = build(name, weights=tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(to_numpy(again(x)), expected)


@pytest.mark.once
@pytest.mark.parametrize("name", FEW)
def test_a_still_clip_is_an_image(name):
    if name == "SEW7BNet":
        image, clip = build(name, input_shape=(128, 128, 2)), build(name)
    else:
        image = build(name)
        clip = build(name, input_shape=(2, *image.input_shape[1:]))
    applications.load_keras_weights(clip, image)
    x = examples(image)
    found = to_numpy(clip(np.repeat(x[:, None], 2, axis=1)))
    np.testing.assert_allclose(found, to_numpy(image(x)), atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("name", SMALL)
def test_the_stem_of_an_image_runs_once(name):
    model = build(name, input_shape=(128, 128, 2) if name == "SEW7BNet" else (32, 32, 3))
    stem = next(layer for layer in model.layers if "conv" in layer.name)
    assert isinstance(stem, (keras.layers.Conv2D, keras.layers.ZeroPadding2D))
    assert len(stem.output.shape) == 4


@pytest.mark.parametrize("name", FEW)
def test_without_the_top(name):
    maps = build(name, include_top=False)
    assert len(maps.output_shape) == 5 and maps.output_shape[1] == 2
    channels = maps.output_shape[-1]
    x = examples(maps)
    for pooling, pool in (("avg", np.mean), ("max", np.max)):
        model = build(name, include_top=False, pooling=pooling)
        assert model.output_shape == (None, channels)
        model.set_weights(maps.get_weights())
        expected = pool(to_numpy(maps(x)), axis=(2, 3)).mean(axis=1)
        np.testing.assert_allclose(to_numpy(model(x)), expected, atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("name", FEW)
def test_the_ann_of_the_same_layout(name):
    if name == "ConversionVGG5":  # its normalisation here keeps a scale for each step
        snn = build(name, norm="bn")
        ann = build(name, norm="bn", timesteps=None, neuron=keras.layers.ReLU)
    elif name == "SEW7BNet":
        snn = build(name, neuron="if", input_shape=(128, 128, 2))
        ann = build(name, timesteps=None, neuron=keras.layers.ReLU, input_shape=(128, 128, 2))
    else:
        norm = {"norm": "bn"} if name in ("SResNet", "SpikingFCN", "TDBNResNet19") else {}
        snn = build(name, **norm)
        ann = build(name, timesteps=None, neuron=keras.layers.ReLU, **norm)
    assert not any(map(is_spiking, ann.layers))
    assert all(len(layer.output.shape) < 5 for layer in ann.layers)
    assert not any(isinstance(layer, layers.RepeatTime) for layer in ann.layers)
    report = applications.load_keras_weights(ann, snn)
    assert report.missing == report.unused == []
    assert len(report.used) == len(ann.weights)
    assert np.isfinite(to_numpy(ann(examples(ann)))).all()


@pytest.mark.once
@pytest.mark.parametrize("name", ["SEWResNet8", "SpikingResNet18", "SResNet"])
def test_partial_loading(name, tmp_path):
    source = build(name)
    other = {"boosting": False} if name == "SResNet" else {"classes": 5}
    source.save_weights(tmp_path / "w.weights.h5")
    source.save(tmp_path / "whole.h5")
    stem = to_numpy(inner(source, "stem_conv").kernel)
    loads = {
        "skip_mismatch": lambda m: m.load_weights(tmp_path / "w.weights.h5", skip_mismatch=True),
        "by_name": lambda m: m.load_weights(
            tmp_path / "whole.h5", by_name=True, skip_mismatch=True
        ),
    }
    for load in loads.values():
        model = build(name, **other)
        head = to_numpy(model.get_layer("predictions").kernel)
        load(model)
        np.testing.assert_array_equal(to_numpy(inner(model, "stem_conv").kernel), stem)
        last = [n for n in (w.path for w in model.weights) if "block" in n][-1]
        same = dict(zip((w.path for w in source.weights), source.get_weights()))
        found = dict(zip((w.path for w in model.weights), model.get_weights()))
        np.testing.assert_array_equal(found[last], same[last])
        np.testing.assert_array_equal(to_numpy(model.get_layer("predictions").kernel), head)


def inner(model, name):
    layer = model.get_layer(name)
    return layer.layer if isinstance(layer, layers.FoldTime) else layer


@pytest.mark.once
def test_frozen_layers_stay():
    model = build("SEWResNet8")
    model.get_layer("stack1_block1_conv1").trainable = False
    before = {w.path: to_numpy(w) for w in model.weights}
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(examples(model, 4), np.zeros(4), verbose=0)
    moved = {w.path for w in model.weights if (to_numpy(w) != before[w.path]).any()}
    assert not any("stack1_block1_conv1" in path for path in moved)
    assert any("stack1_block1_bn1" in path for path in moved)


NAMES = {
    "MaxFormer": "stem_conv stage1_embedding_add stage2_block1_mix_conv stage3_block1_attention",
    "ESpikeFormer": "stage1_block1_sep2_conv stage4_block1_v_dense head_neuron",
    "SpikingResformer": "stage3_conv stage1_block1_attn_attention stage2_block1_mlp_mid_conv",
    "SpikingVGG11": "block1_conv1 block5_neuron2 block3_pool fc1 fc2_neuron predictions",
    "SpikingResNet50": "stem_conv stem_bn stack1_block1_shortcut_conv stack4_block3_conv3",
    "SEWResNet8": "stem_neuron stack3_block1_iand stack2_block1_shortcut_neuron avg_pool",
    "SEW7BNet": "block1_up_conv block7_conv2 block7_pool flatten",
    "SResNet": "stack3_block1_conv2 boosting voting predictions",
    "MSResNet18": "stack1_block1_shortcut_conv head_neuron",
    "MaxResNet18": "stack1_block1_shortcut_conv stack2_block1_pool stack3_block2_add head_neuron",
    "DANet18": "stack4_block1_from_stack1_block2_conv stack3_block1_from_stem_conv",
    "DANet50": "stack2_from_stem_conv stack4_from_stack3_neuron stack4_sources stack2_add",
}


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_layer_names(name):
    found = [layer.name for layer in build(name).layers]
    assert set(NAMES[name].split()) <= set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("SResNet", {"depth": 21}, "`depth` must be 6 n . 2.*21"),
        ("SResNet", {"residual_at": "membrane"}, "`residual_at`.*'membrane'"),
        ("SResNet", {"norm": "bntt", "input_shape": (None, 32, 32, 3)}, "'bntt'.*timesteps.*None"),
        ("SResNet", {"norm": "ln"}, "`norm`.*'ln'"),
        ("SResNet", {"timesteps": 0}, "`timesteps`.*0"),
        ("SResNet", {"timesteps": None}, "timesteps=None.*activation"),
        ("SResNet", {"timesteps": None, "neuron": keras.layers.ReLU}, "'bntt'.*timesteps=None"),
        ("DANet18", {"variant": "B"}, "`variant`.*'B'"),
        ("DANet18", {"span": "net"}, "`span`.*'net'"),
        ("SpikingVGG11", {"pool": "min"}, "`pool`.*'min'"),
        ("SpikingVGG11", {"input_shape": (16, 32, 3)}, "at least 32x32.*16"),
        ("SpikingResNet50", {"strided_convolution": "5x5"}, "`strided_convolution`.*'5x5'"),
        ("SpikingResNet18", {"weights": "imagenet"}, "`weights`.*'imagenet'"),
        ("MSResNet18", {"pooling": "sum"}, "`pooling`.*'sum'"),
        ("TDBNResNet19", {"neuron": "perceptron"}, "Unknown neuron: 'perceptron'"),
        ("Spikformer", {"patch_size": 3}, "`patch_size`.*3"),
        ("Spikformer", {"biases": ("head",)}, "`biases`.*'head'"),
        ("Spikformer", {"input_shape": (None, 32, 3)}, "known height and width.*None"),
        ("QKFormer", {"attention": "pixel"}, "`attention`.*'pixel'"),
        ("QKFormer", {"heads": 3}, "heads=3.*64, 32"),
        ("MaxFormer", {"patch_size": 8}, "`patch_size`.*8"),
        ("MaxFormer", {"shortcut": "both"}, "`shortcut`.*'both'"),
        ("SpikingResformer", {"group_size": 5}, "`group_size`.*16 hidden.*5"),
        ("SpikingResformer", {"heads": (3, 2, 2)}, "heads=3.*4"),
        ("ConversionVGG5", {"classes": 2.5}, "`classes`.*2.5"),
        ("SEW7BNet", {"input_shape": (2, 64, 64, 2)}, "at least 128x128"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)


def test_unknown_arguments():
    with pytest.raises(TypeError, match="connect"):
        build("SpikingResNet18", connect="add")
