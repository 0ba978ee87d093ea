"""Networks that give each pixel a class: layouts, masks, loss, metric, data, pictures, files."""

import inspect

import keras
import numpy as np
import pytest
from helpers import to_numpy

from keras_snn import analysis, applications, datasets, losses
from keras_snn import layers as snn
from keras_snn.applications import SpikingDeepLab, SpikingFCN

SMALL = {"input_shape": (16, 12, 2), "classes": 3, "timesteps": 2, "width": 0.05}


def trainable(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


@pytest.mark.once
def test_sizes_are_those_of_the_authors():
    blocks = 3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256 * 256
    channels = 2 * 64 + 2 * 128 + 3 * 256
    scales = 2 * (channels + 1024)  # one for each step, T = 2
    deeplab = 9 * (blocks + 256 * 1024) + scales + 1024 * 6
    kwargs = {"input_shape": (64, 64, 3), "classes": 6, "timesteps": 2}
    assert trainable(SpikingDeepLab(**kwargs)) == deeplab
    skips = 6 * (1024 + 256 + 128 + 64) + 4 * 6
    fcn = 9 * (blocks + 256 * 1024 + 1024 * 1024 + 3 * 6 * 6) + scales + 2 * 1024 + skips
    model = SpikingFCN(**kwargs)
    assert trainable(model) == fcn
    cell = model.get_layer("fcn2_neuron").cell
    assert (cell.decay, cell.threshold, cell.reset) == (0.99, 1.0, "soft")
    defaults = inspect.signature(SpikingFCN).parameters
    assert (defaults["timesteps"].default, defaults["norm"].default) == (20, "bntt")


class Authors:
    """The equations of the authors' code in PyTorch, float64, with the weights of a network."""

    def __init__(self, model):
        import torch

        self.torch, self.functional = torch, torch.nn.functional
        self.weights, self.potentials = {}, {}
        for layer in model.layers:
            inner = getattr(layer, "layer", layer)
            values = [torch.tensor(w).double() for w in inner.get_weights()]
            self.weights[layer.name] = values

    def conv(self, x, name, dilation=1):
        kernel, *bias = self.weights[name]
        kernel = kernel.permute(3, 2, 0, 1)
        padding = dilation * (kernel.shape[-1] // 2)
        return self.functional.conv2d(x, kernel, *bias, padding=padding, dilation=dilation)

    def neuron(self, x, name):
        v = 0.99 * self.potentials.get(name, 0) + x
        spikes = (v - 1 > 0).double()
        self.potentials[name] = v - spikes
        return spikes

    def layer(self, x, name, t, dilation=1):
        norm = self.weights[name + "_bn"][3 * t : 3 * t + 3]
        gamma, mean, variance = (w[:, None, None] for w in norm)
        x = self.conv(x, name + "_conv", dilation)
        return self.neuron(gamma * (x - mean) / (variance + 1e-4) ** 0.5, name)

    def pool(self, x):
        return self.functional.avg_pool2d(x, 3, 2, 1)

    def enlarged(self, x, name, like):
        kernel = self.weights[name][0].permute(3, 2, 0, 1)
        x = self.functional.conv_transpose2d(x, kernel, stride=2)
        return self.resized(x, like)

    def resized(self, x, like):
        sides = like.shape[-2:]
        return self.functional.interpolate(x, sides, mode="bilinear", align_corners=True)

    def fcn(self, images, steps):
        total = 0
        for t in range(steps):
            x, skips = images, []
            for index, depth in enumerate((2, 2, 3), start=1):
                for i in range(1, depth + 1):
                    x = self.layer(x, f"block{index}_{i}", t)
                skips.append(self.conv(x, f"up{4 - index}_skip"))
                x = self.pool(x)
            x = self.layer(self.layer(x, "fcn1", t), "fcn2", t)
            x = self.conv(x, "score")
            for index in (1, 2, 3):
                x = self.enlarged(x, f"up{index}_conv", skips[-index]) + skips[-index]
                x = self.neuron(x, f"up{index}") if index < 3 else x
            total = total + x
        return total

    def deeplab(self, images, steps):
        total = 0
        for t in range(steps):
            x = images
            for name, dilation in (
                ("block1_1", 1),
                ("block1_2", 1),
                ("", 0),
                ("block2_1", 1),
                ("block2_2", 1),
                ("", 0),
                ("block3_1", 1),
                ("block3_2", 2),
                ("block3_3", 2),
                ("atrous", 12),
            ):
                x = self.layer(x, name, t, dilation) if name else self.pool(x)
            total = total + self.conv(x, "score")
        return self.resized(total / steps, images)


@pytest.mark.parametrize("kind", ["fcn", "deeplab"])
def test_outputs_are_those_of_the_authors_equations(kind):
    torch = pytest.importorskip("torch")
    build = {"fcn": SpikingFCN, "deeplab": SpikingDeepLab}[kind]
    model = build(**SMALL, classifier_activation=None)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.endswith("_bn"):  # so that the fresh network fires
            for step in layer.steps:
                step.gamma.assign(rng.uniform(1.0, 1.5, step.gamma.shape))
                step.moving_mean.assign(rng.uniform(-0.5, 0.0, step.gamma.shape))
                step.moving_variance.assign(rng.uniform(0.1, 0.5, step.gamma.shape))
    images = rng.normal(size=(2, 16, 12, 2)).astype("float32")
    found, recording = to_numpy(model(images)), analysis.record(model, images)
    rates = {name: recording[name]["spikes"].mean() for name in recording}
    assert all(rate > 0 for name, rate in rates.items() if not name.startswith("up")), rates
    with torch.no_grad():
        wanted = getattr(Authors(model), kind)(torch.tensor(images).permute(0, 3, 1, 2).double(), 2)
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1).numpy(), atol=1e-4)


def test_corners_stay_where_they_are():
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype("float32")
    for size in ((9, 7), (2, 1), (1, 4), (5, 3)):
        resize = snn.AlignedResizing2D(size, data_format="channels_last")
        found = to_numpy(resize(images))
        assert resize.compute_output_shape(images.shape) == found.shape
        wanted = torch.nn.functional.interpolate(
            torch.tensor(images).permute(0, 3, 1, 2), size, mode="bilinear", align_corners=True
        )
        np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1), atol=1e-6)
    with pytest.raises(ValueError, match="`size`.*-1"):
        snn.AlignedResizing2D((2, -1))


@pytest.mark.once
@pytest.mark.parametrize("build", [SpikingFCN, SpikingDeepLab])
def test_backbones_and_inputs(build):
    kwargs = {"input_shape": (32, 32, 3), "classes": 3, "timesteps": 2, "width": 0.05}
    model = build(**kwargs, backbone="SEWResNet8", neuron="if", norm="bn")
    assert model.output_shape == (None, 32, 32, 3)
    skips = [layer.input for layer in model.layers if layer.name.endswith("_skip")]
    if build is SpikingFCN:  # spikes that SEW adds, of each stage but the last
        assert [x.shape[2] for x in skips] == sorted(x.shape[2] for x in skips)
        assert all("stack" in graph_name(x) or "stem" in graph_name(x) for x in skips)
    custom = build(**kwargs, backbone=applications.MSResNet18)
    assert custom.output_shape == (None, 32, 32, 3)
    clip = build(**(kwargs | {"input_shape": (4, 32, 32, 2)}))
    assert clip.get_layer("block1_1_neuron").output.shape[1] == 4
    spikes = build(**kwargs, input_coding="poisson").get_layer("poisson").output
    assert spikes.shape == (None, 2, 32, 32, 3)
    for bad, message in (
        ({"backbone": "ResNet50"}, "`backbone`.*'ResNet50'"),
        ({"backbone": 3}, "`backbone`.*3"),
        ({"input_coding": "rate"}, "`input_coding`.*'rate'"),
        ({"input_shape": (None, 32, 3)}, "known height and width"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**(kwargs | bad))
    with pytest.raises(ValueError, match="no maps of a stride of at most 1"):
        SpikingDeepLab(**kwargs, backbone="SEWResNet18", stride=1)


def graph_name(tensor):
    return tensor._keras_history.operation.name


def test_void_pixels_do_not_count():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 2, 4))
    masks = rng.integers(0, 3, (2, 3, 2))  # no pixel is of class 3
    masks[0, 0] = 255
    counted, chosen = masks != 255, np.where(masks == 255, 0, masks)
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(scores, chosen[..., None], -1)[..., 0][counted].mean()
    loss = losses.PixelCrossentropy()
    assert float(loss(masks, logits.astype("float32"))) == pytest.approx(wanted, abs=1e-6)
    plus_axis = loss(masks[..., None].astype("uint8"), logits.astype("float32"))
    assert float(plus_axis) == pytest.approx(wanted, abs=1e-6)
    assert float(loss(np.full_like(masks, 255), logits.astype("float32"))) == 0
    metric = keras.metrics.MeanIoU(4, ignore_class=255, sparse_y_pred=False)
    metric.update_state(masks, logits)
    answers, shares = logits.argmax(-1)[counted], []
    for index in range(4):
        union = (answers == index) | (masks[counted] == index)
        if union.any():
            shares.append((answers == masks[counted])[answers == index].sum() / union.sum())
    assert float(metric.result()) == pytest.approx(np.mean(shares), abs=1e-6)
    again = losses.PixelCrossentropy.from_config(losses.PixelCrossentropy(void=7).get_config())
    assert float(again(np.full_like(masks, 7), logits.astype("float32"))) == 0
    for wrong in (masks[:, :2], masks[0], masks[..., None].repeat(2, -1), masks[:, :, 0]):
        with pytest.raises(ValueError, match=r"masks \(batch, height, width\)"):
            loss(wrong, logits.astype("float32"))


def canvases(**changes):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 6, 1), "uint8")
    masks = rng.integers(0, 3, (6, 8, 6))
    masks[:, 0] = 255
    arrays = {"x_train": images, "y_train": masks, "x_test": images[:2], "y_test": masks[:2]}
    return arrays | changes


def test_masks_from_a_file(tmp_path):
    path, arrays = str(tmp_path / "set.npz"), canvases()
    np.savez(path, **arrays)
    data = datasets.load(path, 4, masks=True)
    assert (data.classes, data.input_shape) == (3, (8, 6, 1))
    images, masks = data.test[0]
    np.testing.assert_allclose(images, arrays["x_test"] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(masks, arrays["y_test"])
    smaller = datasets.load(path, 4, masks=True, image_size=4).test[0]
    assert smaller[0].shape == (2, 4, 4, 1)
    np.testing.assert_array_equal(smaller[1], arrays["y_test"][:, 1::2, [0, 2, 3, 5]])
    events = (arrays["x_train"][:, None] > 200).repeat(3, 1) * 255
    np.savez(path, **canvases(x_train=events, x_test=events[:2]))
    clips = datasets.load(path, 4, masks=True)
    assert clips.input_shape == (3, 8, 6, 1)
    np.testing.assert_array_equal(np.unique(clips.test[0][0]), [0, 1])


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": lambda y: y[:, :4]}, r"y_train.*\(6, 8, 6\).*\(6, 4, 6\)"),
        ({"y_test": lambda y: y[0]}, r"y_test, got \(2, 8, 6, 1\) and \(8, 6\)"),
        ({"y_train": lambda y: y[..., None].repeat(2, -1)}, r"y_train.*\(6, 8, 6, 2\)"),
        ({"y_train": lambda y: np.where(y == 1, 2, y)}, r"every class.*none of \[1\]"),
        ({"y_test": lambda y: np.where(y == 1, 5, y)}, r"none of \[3, 4, 5\]"),
        ({"y_train": lambda y: np.full_like(y, 255)}, "none of"),
        ({"y_train": lambda y: y - 1}, "from 0.*-1"),
        ({"y_train": lambda y: y + 0.5}, "class numbers"),
        ({"y_train": lambda y: y.astype(int) + 300}, "255 for void"),
    ],
)
def test_bad_masks(tmp_path, changes, message):
    path, arrays = str(tmp_path / "set.npz"), canvases()
    np.savez(path, **arrays | {name: change(arrays[name]) for name, change in changes.items()})
    with pytest.raises(ValueError, match=message):
        datasets.load(path, masks=True)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("digits", {}),
        ("nmnist", {}),
        ("hf://cifar10", {}),
        ("a.npz", {"augmentation": ["flip"]}),
        ("a.npz", {"one_hot": True}),
    ],
)
def test_sets_without_masks(name, arguments):
    with pytest.raises(ValueError, match="`masks=True` is for"):
        datasets.load(name, masks=True, **arguments)


@pytest.mark.once
def test_oxford_pets_and_others_of_tensorflow_datasets():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=3):
        data = datasets.load("oxford_iiit_pet", 2, image_size=16, masks=True)
        assert (data.classes, data.input_shape) == (2, (16, 16, 3))
        images, masks = next(iter(data.train))
        assert images.shape == (2, 16, 16, 3) and masks.shape == (2, 16, 16)
        with pytest.raises(ValueError, match="masks of 'cifar10' are not known.*oxford"):
            datasets.load("cifar10", masks=True)


@pytest.mark.once
def test_picture():
    pytest.importorskip("matplotlib").use("Agg")
    images = np.random.default_rng(0).random((2, 4, 4, 1))
    masks = np.array([[[0, 1, 2, 255]] * 4] * 2)
    spikes = np.zeros((2, 3, 4))
    spikes[0, 1] = 1  # at the second step every neuron
    recording = analysis.recording.Recording({"neuron": {"spikes": spikes}}, {})
    axes = analysis.plot_segmentation(images, masks, np.eye(3)[masks % 3], recording)
    assert axes.shape == (2, 4)
    assert [bar.get_height() for bar in axes[0, 3].patches] == [0, 1, 0]
    np.testing.assert_array_equal(axes[0, 1].images[0].get_array()[0], [0, 1, 2, 3])  # 3 is void
    with pytest.raises(ValueError, match=r"\(2, 4, 4\), \(2, 4, 3\)"):
        analysis.plot_segmentation(images, masks, masks[:, :, :3])
