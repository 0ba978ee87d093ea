"""Sizes of all models: those of the papers, and those of the list of models."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import ops

from keras_snn import applications
from keras_snn.applications import list_models
from keras_snn.applications.builder import Builder, Value
from keras_snn.applications.model_list import _summarize
from keras_snn.layers import BatchNormalizationThroughTime

pytestmark = pytest.mark.usefixtures("large_models")

SMALL = {"input_shape": (32, 32, 3)}


def shifted(name):
    """Normalisation through time as S-ResNet's code has it."""
    return BatchNormalizationThroughTime(50, center=True, name=name)


def bottlenecks(blocks):
    """What normalising before, not behind, convolutions changes, in channels."""
    change, width = 0, 64
    for filters, count in zip((64, 128, 256, 512), blocks):
        for _ in range(count):
            change += (width + filters + filters) - (filters + filters + 4 * filters)
            width = 4 * filters
    return change


def on_paper():
    """PyTorch can build networks without memory for their weights."""
    return keras.device("meta") if keras.backend.backend() == "torch" else nullcontext()


# Trainable parameters and, where it is a paper's figure too, channels of batch normalisation.
COUNTS = [
    ("SEWResNet18", {"classes": 1000}, 11_689_512, 4_800),
    ("SEWResNet34", {"classes": 1000}, 21_797_672, 8_512),
    ("SEWResNet50", {"classes": 1000}, 25_557_032, 26_560),
    ("SEWResNet101", {"classes": 1000}, 44_549_160, 52_672),
    ("SEWResNet152", {"classes": 1000}, 60_192_808, 75_712),
    ("SEWResNet18", {"classes": 10}, 11_181_642, 4_800),
    ("SEWResNet50", {"classes": 10}, 23_528_522, 26_560),
    ("SpikingResNet18", {"classes": 1000}, 11_689_512, 4_800),
    ("SpikingResNet34", {"classes": 1000}, 21_797_672, 8_512),
    ("SpikingResNet50", {"classes": 1000}, 25_557_032, 26_560),
    ("SpikingResNet101", {"classes": 1000}, 44_549_160, 52_672),
    ("SpikingResNet152", {"classes": 1000}, 60_192_808, 75_712),
    ("SEW7BNet", {"classes": 11, "input_shape": (2, 128, 128, 2)}, 130_426, None),
    ("Plain7BNet", {"classes": 11, "input_shape": (2, 128, 128, 2)}, 130_426, None),
    ("Spiking7BNet", {"classes": 11, "input_shape": (2, 128, 128, 2)}, 130_426, None),
    ("SEWWide7BNet", {"classes": 10, "input_shape": (2, 128, 128, 2)}, 1_192_218, None),
    ("TDBNResNet19", {"classes": 10}, 12_630_858, None),
    ("TDBNResNet19", {"classes": 100}, 12_653_988, None),
    ("TDBNResNet34", {"classes": 1000}, 21_797_672, 8_512),
    ("SResNet38", {"classes": 10, "norm": None}, 2_242_656, 0),
    ("SResNet38", {"classes": 10, "norm": "bn"}, 2_242_656 + 2 * 2_912, 2_912),
    ("SResNet38", {"classes": 10}, 2_388_256, 50 * 2_912),
    ("SResNet38", {"classes": 10, "norm": shifted}, 2_533_856, 50 * 2_912),
    ("SResNet38", {"classes": 100, "norm": None}, 2_254_176, 0),
    ("SResNet38", {"classes": 10, "boosting": True, "norm": None}, 2_254_176, 0),
    (
        "SResNet38",
        {"classes": 10, "norm": None, "input_shape": (4, 64, 64, 2), "stem_strides": 2},
        2_242_368,
        0,
    ),
    ("ConversionVGG5", {"classes": 10}, 50_595_520, 0),
    ("ConversionVGG9", {"classes": 10}, 32_065_216, 0),
    ("ConversionVGG11", {"classes": 10}, 36_193_984, 0),
    ("ConversionVGG13", {"classes": 10}, 34_608_832, 0),
    ("ConversionVGG16", {"classes": 10}, 39_917_248, 0),
    ("ConversionVGG19", {"classes": 10}, 45_225_664, 0),
    ("ConversionResNet12", {"classes": 10}, 4_986_560, 0),
    ("ConversionResNet20", {"classes": 10}, 11_253_440, 0),
    ("SpikingVGG11", {"classes": 1000}, 132_863_336, 0),
    ("SpikingVGG13", {"classes": 1000}, 133_047_848, 0),
    ("SpikingVGG16", {"classes": 1000}, 138_357_544, 0),
    ("SpikingVGG19", {"classes": 1000}, 143_667_240, 0),
    ("SpikingVGG11BN", {"classes": 1000}, 132_868_840, 2_752),
    ("SpikingVGG13BN", {"classes": 1000}, 133_053_736, 2_944),
    ("SpikingVGG16BN", {"classes": 1000}, 138_365_992, 4_224),
    ("SpikingVGG19BN", {"classes": 1000}, 143_678_248, 5_504),
    ("SpikingVGG11", {"classes": 10}, 128_807_306, 0),
    ("SpikingVGG19", {"classes": 10}, 139_611_210, 0),
    # A ResNet, and the projection of the first stage, which halves the maps here.
    ("MSResNet18", {"classes": 1000}, 11_689_512 + 64 * 64 + 2 * 64, 4_800 + 64),
    ("MSResNet34", {"classes": 1000}, 21_797_672 + 64 * 64 + 2 * 64, 8_512 + 64),
    ("MaxResNet18", {"classes": 10}, 12_502_090, None),
    ("MaxFormer_4_384", {"classes": 100}, 6_602_932, None),
    ("MaxFormer_10_384", {"classes": 1000}, 16_236_616, None),
    ("MaxFormer_10_384", {"classes": 1000, "shortcut": "membrane"}, 16_237_240, None),
    *(
        (f"DANet{depth}", {"classes": 1000, "variant": variant}, parameters, channels)
        for depth, parameters, channels in (
            (18, 11_689_512, 4_800),
            (34, 21_797_672, 8_512),
            (50, 25_557_032, 26_560),
            (101, 44_549_160, 52_672),
            (152, 60_192_808, 75_712),
        )
        for variant in ("A-A", "PA-A")
    ),
    *(
        (
            "DANet50",
            {"classes": 1000, "variant": variant},
            25_557_032 + 2 * bottlenecks((3, 4, 6, 3)),
            26_560 + bottlenecks((3, 4, 6, 3)),
        )
        for variant in ("A-B", "PA-B")
    ),
    # SpikingJelly's, but for the second, which is the authors'.
    ("Spikformer_4_384", {"classes": 10}, 9_310_906, None),
    ("QKFormer_4_384", {"classes": 10}, 6_706_234, None),
    ("QKFormer_10_384", {"classes": 1000}, 16_472_584, None),
    ("SDT_8_384", {"classes": 1000}, 16_816_744, None),
]


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "arguments", "parameters", "channels"),
    COUNTS,
    ids=[f"{name}-{i}" for i, (name, *_) in enumerate(COUNTS)],
)
def test_parameters_of_the_papers(name, arguments, parameters, channels):
    with on_paper():
        model = getattr(applications, name)(**(SMALL | arguments))
    assert _summarize(model).parameters == parameters
    if channels is not None:  # a moving mean and a moving variance each
        fixed = [w for w in model.non_trainable_weights if w.name.startswith("moving")]
        assert sum(int(np.prod(w.shape)) for w in fixed) == 2 * channels
        assert model.count_params() == parameters + 2 * channels


PAPER = {  # billions of MACs per step at 224x224, neuron layers
    "SEWResNet18": (1.814, 20),
    "SEWResNet34": (3.664, 36),
    "SEWResNet50": (4.089, 53),
    "SEWResNet101": (7.801, 104),
    "SEWResNet152": (11.514, 155),
}
QUICK = ["ConversionVGG9", "SEW7BNet", "SEWResNet50", "TDBNResNet19", "MSResNet18", "DANet18"]


def test_every_model_is_listed():
    names = [name for family in applications.FAMILIES for name in family.__all__]
    assert [model.name for model in list_models()] == names
    assert all(hasattr(applications, name) for name in names)


@pytest.mark.once
def test_macs_of_the_papers():
    found = {m.name: (round(m.macs / 1e9, 3), m.neuron_layers) for m in list_models("SEWResNet*")}
    assert {name: found[name] for name in PAPER} == PAPER
    assert round(_summarize(applications.TDBNResNet19(classes=10)).macs / 1e9, 3) == 2.216


@pytest.mark.once
@pytest.mark.parametrize("name", QUICK)
def test_the_list_is_true(name):
    (listed,) = list_models(name)
    assert _summarize(getattr(applications, name)(), name) == listed


def test_counts_by_hand():
    inputs = keras.Input((8, 6, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    summary = _summarize(model)
    assert summary.macs == 4 * 3 * (3 * 3 * 3 * 4) + 4 * 3 * 4 * 5
    assert summary.parameters == 3 * 3 * 3 * 4 + 4 + 48 * 5 + 5
    assert (summary.input_shape, summary.classes, summary.neuron_layers) == ((8, 6, 3), 5, 0)


def test_table_and_errors():
    lines = str(list_models("SEWResNet1*")).splitlines()
    assert len(lines) == 4 and lines[0].split()[:3] == ["model", "input", "classes"]
    assert "11,689,512" in lines[1] and "224x224x3" in lines[1]
    with pytest.raises(ValueError, match="'ResNext'"):
        list_models("ResNext")


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("values", [(0, 1), (0, 0), (-2, 2)])
def test_padded_maximum_has_the_gradient_of_pytorch(size, values):
    """Ties too, which spikes have all the time: the first maximum takes all."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.integers(*values, (2, size, size + 1, 3), endpoint=True).astype("float32")
    pixels = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_(True)
    wanted = torch.nn.functional.max_pool2d(pixels, 3, 2, 1)
    upstream = torch.randn_like(wanted)
    wanted.backward(upstream)
    inputs = keras.Input(x.shape[1:])
    pooled = Builder("if", 1).max_pool(Value(inputs, has_time=False), "pool", 3, 2)
    model = keras.Model(inputs, pooled.tensor)
    factors = ops.convert_to_tensor(upstream.permute(0, 2, 3, 1).numpy())
    _, (found,), _ = gradients(lambda x: ops.sum(factors * model(x)), [], x)
    np.testing.assert_array_equal(to_numpy(model(x)), wanted.permute(0, 2, 3, 1).detach().numpy())
    np.testing.assert_array_equal(found, pixels.grad.permute(0, 2, 3, 1).numpy())


def pytorch(shape):
    return "uniform", 3**-0.5 * np.prod(shape[:-1]) ** -0.5


def he(shape):
    return "normal", (2 / (np.prod(shape[:-2]) * shape[-1])) ** 0.5


def xavier(shape):  # gain 2
    fans = np.prod(shape[:-2]) * (shape[-2] + shape[-1])
    return "uniform", 2 * (2 / fans) ** 0.5


def small(shape):
    return "normal", 0.01


# Of convolutions and dense layers, in the authors' code (SpikingJelly's for the VGGs): kind of
# distribution and its deviation.
INITIALIZERS = {
    "SEWResNet18": (he, pytorch),
    "SpikingResNet18": (he, pytorch),
    "TDBNResNet19": (he, pytorch),
    "DANet18": (he, pytorch),  # ours: no code is known
    "MSResNet18": (pytorch, pytorch),
    "MSResNet104": (pytorch, pytorch),
    "MaxResNet18": (pytorch, pytorch),
    "SEW7BNet": (pytorch, pytorch),
    "SResNet20": (xavier, xavier),
    "ConversionResNet12": (he, small),
    "ConversionVGG5": (he, small),
    "SpikingVGG11": (he, small),
}


@pytest.mark.once
@pytest.mark.parametrize("name", INITIALIZERS)
def test_fresh_weights_are_those_of_the_papers_code(name):
    conv, dense = INITIALIZERS[name]
    shape = (2, 128, 128, 2) if name == "SEW7BNet" else (32, 32, 3)
    width = {"width": 0.1} if "VGG" in name and "Conv" not in name else {}
    model = getattr(applications, name)(input_shape=shape, timesteps=2, **width)
    layers = [getattr(layer, "layer", layer) for layer in model.layers]
    layers = [layer for layer in layers if hasattr(layer, "kernel")]
    assert len(layers) > 3
    for layer in layers:
        kernel = to_numpy(layer.kernel)
        rule = conv if kernel.ndim == 4 else dense
        kind, deviation = rule(kernel.shape)
        assert abs(kernel.std() / deviation - 1) < 5 / kernel.size**0.5, layer.name
        largest = np.abs(kernel).max() / deviation
        if kind == "uniform":
            assert 1.6 < largest <= 3**0.5 * 1.0001, layer.name
        else:
            assert largest > 2.5 or kernel.size < 2000, layer.name
        if layer.use_bias and rule is pytorch:
            bias = np.abs(to_numpy(layer.bias)) * 3**-0.5 / deviation
            assert 0.5 < bias.max() <= 1.0001, layer.name
        elif layer.use_bias:
            assert not to_numpy(layer.bias).any(), layer.name
