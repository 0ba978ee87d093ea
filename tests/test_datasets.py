"""Data sets: what is done to images and labels, files, pipelines, speech."""

import copy
import sys
import wave
import zipfile

import keras
import numpy as np
import pytest
from helpers import first_everywhere
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_snn import datasets
from keras_snn.datasets import (
    ArrayBatches,
    FileBatches,
    Preparation,
    augmentation,
    images,
    speech,
)


def pictures(count=16, size=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (count, size, size, channels), "uint8")


def varied(name, examples, labels, seed=(0, 0), classes=None):
    """Examples and labels after one variation, values as they were."""
    return Preparation(None, None, [name], classes)(examples, labels, seed)


# Preparation.


def test_scale_and_normalization():
    x = pictures()
    found, labels = Preparation(1 / 255, "cifar10", classes=10)(x, np.arange(16) % 10)
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
    np.testing.assert_allclose(found, (x / 255 - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(labels, np.eye(10)[np.arange(16) % 10])
    assert found.dtype == "float32"
    unit, labels = Preparation()(x, np.arange(16))
    np.testing.assert_allclose(unit, x / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(labels, np.arange(16))


def test_policies_of_networks_do_not_round_images():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found, _ = Preparation(None, None, ["flip"])(pictures(), np.zeros(16), (0, 0))
    finally:
        keras.config.set_dtype_policy("float32")
    assert found.dtype == "float32" and set(np.unique(found)) <= set(range(256))


def test_flip():
    x = pictures(32).astype("float32")
    found, _ = varied("flip", x, np.zeros(32))
    mirrored = [(f == a[:, ::-1]).all() for f, a in zip(found, x)]
    same = [(f == a).all() for f, a in zip(found, x)]
    assert all(np.add(mirrored, same)) and 4 < sum(mirrored) < 28


def moved(image, down, right):
    """An image moved, with zeros where nothing was."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((height, height), (width, width), (0, 0)))
    return padded[height - down :, width - right :][:height, :width]


def shift_of(found, image):
    """The move that makes `found` of an image."""
    for down in range(-4, 5):
        for right in range(-4, 5):
            if np.array_equal(found, moved(image, down, right)):
                return down, right
    raise AssertionError("no move gives this image")


def test_shift_is_a_padded_crop_of_each_image():
    x = pictures(24, 32).astype("float32")
    found, _ = varied("shift", x, np.zeros(24))
    shifts = [shift_of(f, a) for f, a in zip(found, x)]
    assert len(set(shifts)) > 8
    assert {abs(s) for pair in shifts for s in pair} >= {0, 1, 2, 3}


@pytest.mark.once
@pytest.mark.parametrize("name", ["shift", "flip", "erase", "cutout", "mix_up", "cut_mix"])
def test_clips_are_varied_as_a_whole(name):
    x = np.repeat(pictures(12, 32, 2)[:, None], 3, axis=1).astype("float32")
    x = x + 300 * np.arange(3)[:, None, None, None]  # frames differ by a number
    found, _ = varied(name, x, np.arange(12), classes=12)
    assert found.shape == x.shape and not np.array_equal(found, x)
    kept = found != 0  # what moves in, or is erased, is 0 in every frame
    step = (found - found[:, :1] - 300 * np.arange(3)[:, None, None, None])[kept]
    np.testing.assert_allclose(step, 0, atol=1e-3)
    np.testing.assert_array_equal(kept, np.repeat(kept[:, :1], 3, axis=1))


@pytest.mark.parametrize("name", ["mix_up", "cut_mix"])
def test_labels_are_mixed_as_images_are(name):
    count, size = 16, 20
    x = np.ones((count, size, size, 1), "float32") * np.arange(count)[:, None, None, None]
    found, labels = varied(name, x, np.arange(count), (3, 0), classes=count)
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-5)
    assert ((labels > 0).sum(-1) <= 2).all() and (labels.max(-1) < 1).any()
    # The image's mean is that of the two numbers, weighed as the labels are; a box that is cut out
    # has whole pixels, so that its share may be wrong by a row and a column.
    error = np.abs(found.mean((1, 2, 3)) - labels @ np.arange(count))
    apart = [np.ptp(np.flatnonzero(row)) for row in labels]
    assert (error <= (2 / size if name == "cut_mix" else 1e-6) * np.array(apart) + 1e-4).all()


@pytest.mark.once
def test_rand_augment_is_keras(monkeypatch):
    x = keras.ops.convert_to_tensor(pictures(4, 8).astype("float32") / 255)
    layer = datasets.AUGMENTATIONS["rand_augment"](dtype="float32")
    layer.build(x.shape)
    # With PyTorch Keras's write to images (brightness) and matrices (rotation): give copies.
    for part in (layer.random_brightness, layer.random_rotation):
        monkeypatch.setattr(
            part,
            "transform_images",
            lambda x, by, run=part.transform_images: run(x + 0, copy.deepcopy(by)),
        )
    for _ in range(4):
        drawn = layer.get_random_transformation(x)
        wanted = keras.layers.RandAugment.transform_images(layer, x, drawn)
        np.testing.assert_array_equal(layer.transform_images(x, drawn), wanted)


def transformed(matrix):
    """By the definition of an affine map with nearest neighbours: from where each pixel comes."""

    def apply(image, sign):
        a, b, c, d, e, f = matrix(sign)
        found = np.full_like(image, (10, 20, 30))
        for y, x in np.ndindex(image.shape[:2]):
            u, v = a * (x + 0.5) + b * (y + 0.5) + c, d * (x + 0.5) + e * (y + 0.5) + f
            if 0 <= u < image.shape[1] and 0 <= v < image.shape[0]:
                found[y, x] = image[int(v), int(u)]
        return found

    return apply


def blended(grey):
    """An enhancement by 0.8 (level 8): away from or towards what `grey` makes of an image."""

    def apply(image, sign):
        other = grey(image.astype(float))
        return np.clip(other + (image - other) * (1 + sign * 0.8), 0, 255).astype("uint8")

    return apply


def luma(image):
    return (image @ [299, 587, 114] / 1000)[..., None]


def contrasted(image, _):
    low, high = image.min((0, 1)).astype(float), image.max((0, 1))
    return np.clip((image - low) * (255 / (high - low)), 0, 255).astype("uint8")


# Operations of AutoAugment at level 8, as the paper's table 6 defines them.
MOVE, SHEAR = 150 / 331 * 8 / 9 * 12, 0.3 * 8 / 9
OPERATIONS = {
    "shear_x": transformed(lambda sign: (1, sign * SHEAR, 0, 0, 1, 0)),
    "shear_y": transformed(lambda sign: (1, 0, 0, sign * SHEAR, 1, 0)),
    "translate_x": transformed(lambda sign: (1, 0, sign * MOVE, 0, 1, 0)),
    "translate_y": transformed(lambda sign: (1, 0, 0, 0, 1, sign * MOVE)),
    "color": blended(luma),
    "contrast": blended(lambda image: np.round(luma(image).mean())),
    "brightness": blended(np.zeros_like),
    "posterize": lambda image, _: image & 0b11110000,
    "solarize": lambda image, _: np.where(image < 256 / 9, image, 255 - image),
    "invert": lambda image, _: 255 - image,
    "auto_contrast": contrasted,
}


@pytest.mark.once
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_auto_augment(name, monkeypatch):
    monkeypatch.setitem(augmentation.POLICIES, name, f"{name} 1 8 invert 0 0")
    x = pictures(24, 12)
    fill = np.array([10, 20, 30]) / 255
    found = augmentation.auto_augment(x / 255, fill, np.random.default_rng(0), name)
    found = np.round(255 * found).astype(int)
    both = [np.stack([OPERATIONS[name](image, sign) for image in x]) for sign in (-1, 1)]
    # Colours that Pillow computes in integers may be off by one.
    fits = [np.abs(found - wanted).max((1, 2, 3)) <= 1 for wanted in both]
    assert np.logical_or(*fits).all()
    if (both[0] != both[1]).any():
        assert 4 < fits[0].sum() < 20 and 4 < fits[1].sum() < 20


@pytest.mark.once
def test_policies_of_auto_augment():
    # Sums of the published tables' probabilities, first and second operations.
    for policy, first, second in (("cifar10", 13.4, 13.1), ("imagenet", 13.8, 17.2)):
        pairs = augmentation._sub_policies(policy)
        assert len(pairs) == 25
        sums = [sum(pair[i][1] for pair in pairs) for i in (0, 1)]
        np.testing.assert_allclose(sums, (first, second))
    x = np.repeat(pictures(1, 24) % 170 + 60, 2000, 0) / 255
    found = augmentation.auto_augment(x, (0.5,) * 3, np.random.default_rng(0))
    same = (np.abs(found - x) < 1e-6).all((1, 2, 3)).mean()
    # No operation is drawn for 0.2232 of the images, and one at level 0 for another 0.0252.
    assert abs(same - 0.2484) < 0.03  # three deviations


def test_cutout_is_a_square_hole_around_any_pixel():
    x = pictures(400, 32)
    found, _ = Preparation(1 / 255, "cifar10", ["cutout"])(x, np.zeros(400), (0, 0))
    hole = (np.abs(found) < 1e-6).all(-1)  # 0 after normalisation
    plain, _ = Preparation(1 / 255, "cifar10")(x, np.zeros(400))
    np.testing.assert_array_equal(found[~hole], plain[~hole])
    rows, columns = hole.any(2), hole.any(1)
    np.testing.assert_array_equal(hole, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        length, first, last = side.sum(1), side.argmax(1), 31 - side[:, ::-1].argmax(1)
        np.testing.assert_array_equal(last - first + 1, length)
        inside = (first > 0) & (last < 31)
        assert (length[inside] == 16).all() and length.min() == 8 and inside.any()
        # Of 32 centres 17 leave the whole hole within the image.
        assert abs((length == 16).mean() - 17 / 32) < 0.1


# At level 9 of 10, and a sign.
RAND_OPERATIONS = {
    "invert": lambda image, _: 255 - image,
    "posterize": lambda image, _: image & 0b10000000,
    "solarize": lambda image, _: np.where(image < 26, image, 255 - image),
    "solarize_add": lambda image, _: np.where(image < 128, np.minimum(image + 99, 255), image),
    "brightness": lambda image, sign: np.clip(image * (1 + 0.81 * sign), 0, 255),
}


@pytest.mark.once
@pytest.mark.parametrize("name", RAND_OPERATIONS)
def test_operations_of_rand_augment(name, monkeypatch):
    strength = augmentation.RAND_AUGMENT[name]
    monkeypatch.setattr(augmentation, "RAND_AUGMENT", {name: strength})
    x = pictures(48, 12).astype(int)
    arguments = (x / 255, (0.5,) * 3, np.random.default_rng(0))
    found = 255 * augmentation.rand_augment(*arguments, count=1, deviation=0)
    wanted = [x, *(RAND_OPERATIONS[name](x, sign) for sign in (-1, 1))]
    same, *fits = (np.abs(found - images).max((1, 2, 3)) <= 1 for images in wanted)
    assert (same | fits[0] | fits[1]).all()
    assert 14 < same.sum() < 34  # three deviations
    assert name != "brightness" or (fits[0].sum() > 4 and fits[1].sum() > 4)


@pytest.mark.once
def test_rand_augment_draws_levels_and_several_operations(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        augmentation, "RAND_AUGMENT", {"solarize": lambda level: drawn.append(level) or 256}
    )
    x = pictures(2000, 2) / 255
    arguments = (x, (0.5,) * 3, np.random.default_rng(0), 9, 2, 0.5)
    np.testing.assert_allclose(augmentation.rand_augment(*arguments), x, atol=1e-6)
    assert abs(len(drawn) / 4000 - 0.5) < 0.03 and max(drawn) == 10
    # Of normal numbers that are cut at two deviations above their mean.
    assert abs(np.mean(drawn) - 8.9958) < 0.04 and abs(np.std(drawn) - 0.49) < 0.03


@pytest.mark.once
def test_random_erasing():
    x = pictures(2000, 16)
    found, _ = Preparation(1 / 255, "cifar10", ["random_erasing"])(x, np.zeros(2000), (0, 0))
    hole = (np.abs(found) < 1e-6).all(-1)  # 0 after normalisation
    sizes = hole.sum((1, 2))
    assert abs((sizes > 0).mean() - 0.25) < 0.03
    rows, columns = hole.any(2), hole.any(1)
    np.testing.assert_array_equal(hole, rows[:, :, None] & columns[:, None, :])
    some = sizes > 0
    heights, widths = rows[some].sum(1), columns[some].sum(1)
    assert sizes[some].min() >= 1 and sizes.max() <= 256 / 3 + 9
    assert abs(np.log(heights / widths).mean()) < 0.1 and (heights / widths).max() < 6


@pytest.mark.once
def test_mixing_of_batches():
    x = np.repeat(np.arange(8.0)[:, None, None, None], 8, 1).repeat(8, 2).astype("float32")
    y = np.eye(8, dtype="float32")
    kinds = {"up": 0, "cut": 0, "none": 0}
    for seed in range(200):
        mixed, labels = augmentation.mix(
            x, y, np.random.default_rng(seed), 0.5, 0.5, probability=0.8, switch=0.5
        )
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        # The mean of an image is that of its labels, for both kinds.
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), labels @ np.arange(8), atol=1e-5)
        flat = (mixed == mixed[:, :1, :1]).all()
        unmixed = np.array_equal(mixed, x)
        kinds["none" if unmixed else "up" if flat else "cut"] += 1
        others = (mixed == x) | (mixed == x[::-1])
        assert flat or others.all()
    assert 20 < kinds["none"] < 65 and kinds["up"] > 50 and kinds["cut"] > 40
    options = {"mix": {"mix_up": 1.0, "cut_mix": 0, "until": 3}}
    prepare = Preparation(None, None, ["mix"], 8, options)
    for epoch, changes in ((2, True), (3, False), (4, False)):
        found, _ = prepare(x, np.arange(8), (0, 0, epoch))
        assert np.array_equal(found, x) != changes
    batches = ArrayBatches(x, np.arange(8), 8, 0, prepare)
    for epoch, changes in ((2, True), (3, False)):
        batches.set_epoch(epoch)
        assert set(np.unique(batches[0][0])) <= set(range(8)) or changes


@pytest.mark.once
def test_options_of_variations():
    for names, options, message in (
        (["flip"], {"mix": {}}, "`options`.*'mix'"),
        (["mix"], {"mix": {"alpha": 1}}, "'mix' does not take.*alpha"),
        (["mix"], {"mix": {"until": -1}}, "'mix' does not take.*`until`"),
        (["flip"], {"flip": {"mode": "diagonal"}}, "'flip' does not take.*diagonal"),
    ):
        with pytest.raises(ValueError, match=message):
            Preparation(None, None, names, 10, options)
    with pytest.raises(ValueError, match="`augmentation_options` are for images"):
        datasets.load("nmnist", augmentation_options={"flip": {}})


@pytest.mark.once
def test_array_variations_in_a_pipeline():
    tf = pytest.importorskip("tensorflow")
    x, y = pictures(6, 16), np.arange(6)
    names = ["auto_augment", "cutout", "mix"]
    prepare = Preparation(1 / 255, "cifar10", names, 6, {"mix": {"until": 5}})
    for epoch in (4, 5):
        data = tf.data.Dataset.from_tensors((x, y, tf.constant((3, 2048, epoch), "int64")))
        wanted = prepare(x, y, (3, 2048, epoch))
        for found in data.map(lambda x, y, seed: prepare(x, y, (seed[0], seed[1], seed[2]))):
            assert found[0].shape == x.shape
            for a, b in zip(found, wanted):
                np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", first_everywhere(*datasets.AUGMENTATIONS))
def test_variation_is_a_function_of_the_seed(name):
    x, y = pictures(8, 16).astype("float32") / 255, np.arange(8)
    prepare = Preparation(None, None, [name], 10)
    first, again, other = (prepare(x, y, seed) for seed in ((1, 0), (1, 0), (1, 1024)))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    for a, b in zip(prepare(x, y, None), (x, np.eye(10)[y])):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_preparation_refuses():
    with pytest.raises(ValueError, match="`augmentation`.*'flop'"):
        Preparation(augmentation=["flop"])
    with pytest.raises(ValueError, match="`normalization`.*'cifar11'"):
        Preparation(normalization="cifar11")
    with pytest.raises(ValueError, match="'mix_up' mixes labels"):
        Preparation(augmentation=["mix_up"])
    for name in ("rand_augment", "auto_augment"):
        for shape in ((2, 3, 8, 8, 3), (2, 8, 8, 1)):
            with pytest.raises(ValueError, match=f"'{name}'.*three channels, not for sequences"):
                varied(name, np.ones(shape, "float32"), np.zeros(2))


# Batches.


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 5))
def test_every_epoch_has_every_example_once(count, batch_size, epoch):
    data = ArrayBatches(np.arange(count), np.arange(count), batch_size, seed=4)
    data.set_epoch(epoch)
    found = np.concatenate([data[i][0] for i in range(len(data))])
    np.testing.assert_array_equal(np.sort(found), np.arange(count))
    again = ArrayBatches(np.arange(count), np.arange(count), batch_size, seed=4)
    again.set_epoch(epoch)
    np.testing.assert_array_equal(again[0][0], found[:batch_size])


def test_what_is_read_varies_with_the_epoch_and_nothing_else():
    def data(workers):
        return FileBatches(
            range(10),
            np.arange(10),
            4,
            lambda source: np.full(3, float(source)),
            seed=1,
            vary=lambda example, generator: example + generator.random(3),
            workers=workers,
        )

    first, again = data(1), data(3)
    epochs = []
    for _ in range(2):
        rows = np.concatenate([first[i][0] for i in range(3)])
        np.testing.assert_array_equal(rows, np.concatenate([again[i][0] for i in range(3)]))
        epochs.append(rows[np.argsort(rows[:, 0])])
        assert (np.floor(epochs[-1]) == np.arange(10)[:, None]).all()
        first.on_epoch_end(), again.on_epoch_end()
    assert (epochs[0] != epochs[1]).all()


# Files.


def write_npz(path, **changes):
    arrays = {
        "x_train": pictures(6),
        "y_train": np.arange(6) % 3,
        "x_test": pictures(3),
        "y_test": np.arange(3),
    } | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return arrays


def test_npz(tmp_path):
    path = tmp_path / "set.npz"
    arrays = write_npz(path)
    data = datasets.load(str(path), batch_size=4, seed=2)
    assert (data.input_shape, data.classes, len(data.train)) == ((8, 8, 3), 3, 2)
    test_x, test_y = data.test[0]
    np.testing.assert_allclose(test_x, arrays["x_test"] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(test_y, arrays["y_test"])
    half = datasets.load(str(path), image_size=4)
    assert half.input_shape == (4, 4, 3) and half.test[0][0].shape == (3, 4, 4, 3)


def test_npz_damage(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(FileNotFoundError, match=r"set\.npz"):
        datasets.load(str(path))
    write_npz(path, y_test=None)
    with pytest.raises(ValueError, match="lacks \\['y_test'\\]"):
        datasets.load(str(path))
    write_npz(path, y_train=np.arange(5))
    with pytest.raises(ValueError, match=r"x_train should be .* got \(6, 8, 8, 3\) and \(5,\)"):
        datasets.load(str(path))
    write_npz(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        datasets.load(str(path))


@pytest.mark.once
def test_npz_of_other_images_and_labels(tmp_path):
    path, x, y = tmp_path / "set.npz", pictures(6), np.arange(6) % 3
    for changes, match in (
        ({"y_train": np.eye(3)[y]}, r"y_train should be class numbers.*\(6, 3\)"),
        ({"y_train": y - 1}, "y_train should be class numbers from 0, got -1 to 1"),
        ({"y_test": np.array([0, 1, 2.5])}, "y_test should be class numbers.*2.5"),
        ({"y_train": y.astype(float) * np.nan}, "y_train should be class numbers.*nan"),
        ({"y_train": y.astype(str)}, "y_train should be class numbers.*<U"),
        ({"y_train": y.astype("u8") + 2**63}, "y_train should be class numbers from 0"),
        ({"x_train": (x / 255).astype("f4")}, "x_train should have values from 0 to 255, got 0.0"),
        ({"x_test": pictures(3) / 127.5 - 1}, "x_test should have values from 0 to 255, got -0.9"),
        ({"x_train": x * np.nan}, "x_train should have values from 0 to 255, got nan"),
        ({"x_train": x.astype("u2") * 256}, "x_train should have values from 0 to 255, got 256"),
        ({"x_train": x.astype(complex)}, "x_train should be images.*complex"),
        ({"x_train": x.astype(str)}, "x_train should be images.*<U"),
        ({"x_train": np.moveaxis(x, 3, 1)}, r"x_train should have channels last.*\(6, 3, 8, 8\)"),
        ({"x_test": x[:0], "y_test": y[:0]}, r"x_test should be images.*\(0, 8, 8, 3\)"),
    ):
        write_npz(path, **changes)
        with pytest.raises(ValueError, match=rf"set\.npz: {match}"):
            datasets.load(str(path))
    write_npz(path, x_test=pictures(3, 9))
    with pytest.raises(ValueError, match=r"'set' .* one shape, got \(8, 8, 3\) .* \(9, 9, 3\)"):
        datasets.load(str(path))
    assert datasets.load(str(path), image_size=4).input_shape == (4, 4, 3)
    for labels in (y.astype(float), y[:, None].astype("u1")):
        write_npz(path, y_train=labels)
        found = datasets.load(str(path), batch_size=6).train
        np.testing.assert_array_equal(np.sort(found[0][1]), np.sort(y))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            file.writestr(f"{name}.npy", bytes(1 << 24))
    with pytest.raises(ValueError, match=r"set\.npz.*unpacks to 67108864 bytes"):
        datasets.load(str(path))


@pytest.mark.once
def test_damaged_archives_are_errors(tmp_path):
    path, rng = tmp_path / "set.npz", np.random.default_rng(0)
    write_npz(path)
    whole = path.read_bytes()
    for _ in range(150):
        broken = bytearray(whole[: rng.integers(len(whole)) if rng.random() < 0.3 else None])
        for place in rng.integers(len(broken), size=4) if broken else ():
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            images.npz(path)
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("size", [10, 23, 64])
def test_images_are_resized_with_antialiasing(tmp_path, size):
    Image = pytest.importorskip("PIL.Image")  # noqa: N806
    x = pictures(3, 40)
    found, _ = images._resized(x, np.zeros(3), size)
    wanted = [Image.fromarray(one).resize((size, size), Image.Resampling.BILINEAR) for one in x]
    assert found.dtype == "uint8"
    # Pillow's weights have 8 bits, and it rounds after each direction.
    np.testing.assert_allclose(found.astype(int), np.stack(wanted), atol=1)
    floats, _ = images._resized(x.astype("float32"), np.zeros(3), size)
    np.testing.assert_allclose(found, floats, atol=0.51)
    assert (floats != np.floor(floats)).any()


def test_without_tensorflow_keras_reads_its_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    held = (pictures(6, 32), np.arange(6)[:, None]), (pictures(3, 32), np.arange(3)[:, None])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: held)
    data = datasets.load("cifar10", batch_size=4, augmentation=["shift", "flip"], one_hot=True)
    x, y = data.train[0]
    assert x.shape == (4, 32, 32, 3) and y.shape == (4, 6)
    with pytest.raises(ImportError, match="imagenette.*pip install tensorflow"):
        datasets.load("imagenette")


# TensorFlow Datasets.


@pytest.fixture
def mocked(monkeypatch):
    """TensorFlow Datasets with random examples."""
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=10):
        yield


def numpy_batches(data):
    return [[np.asarray(part) for part in batch] for batch in data]


@pytest.mark.once
def test_tfds_pipeline(mocked):
    def epochs(count, first=0):
        data = datasets.load(
            "cifar10", 4, 7, augmentation=["shift", "flip", "mix_up"], one_hot=True
        )
        data.set_epoch(first)
        return [numpy_batches(data.train) for _ in range(count)]

    first, second = epochs(2)
    (resumed,) = epochs(1, first=1)
    assert [len(x) for x, _ in first] == [4, 4, 2] and first[0][1].shape == (4, 10)
    for batch, same in zip(second, resumed):
        np.testing.assert_array_equal(batch[0], same[0])
        np.testing.assert_array_equal(batch[1], same[1])
    assert not np.array_equal(first[0][0], second[0][0])
    plain = numpy_batches(datasets.load("cifar10", 10).test)[0]
    assert plain[0].shape == (10, 32, 32, 3) and plain[1].shape == (10,)
    assert plain[0].min() >= -1 and plain[0].max() <= 1


@pytest.mark.once
def test_validation_images_are_the_last_of_the_training_images(mocked):
    def images_of(batches):
        return sorted(x.tobytes() for batch, _ in numpy_batches(batches) for x in batch)

    for name, count in (("cifar10", 10), ("digits", 1437)):
        everything = datasets.load(name, 4)
        data = datasets.load(name, 4, validation_split=0.2)
        assert everything.validation is None
        train, held = images_of(data.train), images_of(data.validation)
        assert len(held) == count // 5 and len(train) == count - len(held)
        assert sorted(train + held) == images_of(everything.train)
        assert images_of(data.test) == images_of(everything.test)
    with pytest.raises(ValueError, match="`validation_split`"):
        datasets.load("cifar10", validation_split=1.5)


@pytest.mark.once
def test_channels_first(mocked, monkeypatch):
    last = datasets.load("cifar10", 10)
    (wanted, _), *_ = numpy_batches(last.test)
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    first = datasets.load("cifar10", 10, augmentation=["cutout"])
    assert last.input_shape == (32, 32, 3) and first.input_shape == (3, 32, 32)
    (found, _), *_ = numpy_batches(first.test)
    np.testing.assert_array_equal(found.transpose(0, 2, 3, 1), wanted)
    assert next(iter(first.train))[0].shape == (10, 3, 32, 32)


def test_images_of_any_size(mocked):
    data = datasets.load("imagenet2012", 4, image_size=24, augmentation=["resized_crop", "flip"])
    assert data.input_shape == (24, 24, 3) and data.classes == 1000
    first, again = numpy_batches(data.train), numpy_batches(data.train)
    assert first[0][0].shape == (4, 24, 24, 3)
    data.set_epoch(0)
    np.testing.assert_array_equal(numpy_batches(data.train)[0][0], first[0][0])
    assert not np.array_equal(first[0][0], again[0][0])
    assert numpy_batches(data.test)[0][0].shape == (4, 24, 24, 3)
    with pytest.raises(ValueError, match="give `image_size`"):
        datasets.load("imagenet2012")
    with pytest.raises(ValueError, match="differ in size"):
        datasets.load("cifar10", augmentation=["resized_crop"])


def test_the_centre_is_seven_eighths_of_the_shorter_side():
    tf = pytest.importorskip("tensorflow")
    image = np.arange(32 * 48).reshape(32, 48, 1)
    np.testing.assert_array_equal(images._central(tf, image, 8), image[2:30, 10:38])


# Speech.


def tone(frequency, rate=8000, seconds=0.5):
    samples = 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    return (samples * 2**15).astype("<i2")


def write_wav(path, samples, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def test_spoken_digits(tmp_path):
    for digit in (0, 7):
        for number in (0, 4, 5, 11):
            write_wav(tmp_path / f"{digit}_jane_{number}.wav", tone(300 + 100 * digit))
    data = datasets.load(
        "spoken_digits", 8, data_dir=tmp_path, timesteps=25, augmentation=["shift", "noise"]
    )
    assert (data.input_shape, data.classes) == ((25, 40), 8)
    x, y = data.test[0]
    np.testing.assert_array_equal(y, [0, 0, 7, 7])
    assert x.shape == (4, 25, 40) and x.dtype == "float32"
    train, labels = data.train[0]
    assert sorted(labels) == [0, 0, 7, 7]
    data.set_epoch(1)
    assert not np.array_equal(data.train[0][0], train)
    data.set_epoch(0)
    np.testing.assert_array_equal(data.train[0][0], train)
    vectors = datasets.load("spoken_digits", 8, data_dir=tmp_path, one_hot=True).test[0][1]
    np.testing.assert_array_equal(vectors, np.eye(8)[y])


@pytest.mark.once
def test_a_speaker_is_held_out(tmp_path):
    for digit in (0, 7):
        for speaker in ("jackson", "theo"):
            for number in (0, 11):
                write_wav(tmp_path / f"{digit}_{speaker}_{number}.wav", tone(300 + 50 * digit))
    data = datasets.load("spoken_digits_jackson", 8, data_dir=tmp_path)
    held = {path.name.split("_")[1] for path in data.test.examples}
    kept = {path.name.split("_")[1] for path in data.train.examples}
    assert held == {"jackson"} and kept == {"theo"} and data.name == "spoken_digits_jackson"
    np.testing.assert_array_equal(data.test[0][1], [0, 0, 7, 7])
    to_choose = datasets.load("spoken_digits", data_dir=tmp_path, validation_speakers=["theo"])
    assert [path.name for path in to_choose.validation.examples] == [
        "0_theo_11.wav",
        "7_theo_11.wav",
    ]
    assert {path.name.split("_")[1] for path in to_choose.train.examples} == {"jackson"}
    with pytest.raises(FileNotFoundError, match="no recordings of spoken_digits_lucas"):
        datasets.load("spoken_digits_lucas", data_dir=tmp_path)


@pytest.mark.once
def test_validation_clips_are_evenly_spaced_training_clips(tmp_path):
    for place, digit in enumerate((0, 7)):
        for number in (0, 11, 5):
            pitch = 300 + 100 * (3 * place + number % 10)
            write_wav(tmp_path / f"{digit}_jane_{number}.wav", tone(pitch))
    given = {"name": "spoken_digits", "batch_size": 8, "data_dir": tmp_path}
    everything = datasets.load(**given)
    data = datasets.load(**given, augmentation=["shift", "noise"], validation_split=0.5)
    assert everything.validation is None
    (x, y), (test_x, _) = data.validation[0], data.test[0]
    whole = everything.train  # in the order of names: 0_jane_11, 0_jane_5, 7_jane_11, 7_jane_5
    np.testing.assert_array_equal(y, [0, 7])
    np.testing.assert_array_equal(x, whole.read_examples([1, 3]))  # without variation
    np.testing.assert_array_equal(test_x, everything.test[0][0])
    assert [path.name for path in data.train.examples] == ["0_jane_11.wav", "7_jane_11.wav"]
    x, y = data.train[0]
    assert sorted(y) == [0, 7]
    assert not np.isclose(x[np.argsort(y)], whole.read_examples([0, 2])).all()


def test_speech_commands(tmp_path):
    for word in ("no", "yes"):
        for clip in ("a", "b", "c"):
            write_wav(tmp_path / word / f"{clip}.wav", tone(500, 16000), 16000)
    (tmp_path / "testing_list.txt").write_text("no/b.wav\nyes/c.wav\n")
    (tmp_path / "validation_list.txt").write_text("yes/a.wav\n")
    write_wav(tmp_path / "_background_noise_" / "hum.wav", tone(50, 16000), 16000)
    data = datasets.load("speech_commands", 8, data_dir=tmp_path, timesteps=50)
    np.testing.assert_array_equal(data.test[0][1], [0, 1])
    assert sorted(data.train[0][1]) == [0, 0, 1]
    assert data.input_shape == (50, 40) and data.test[0][0].shape == (2, 50, 40)


def test_spectra_of_tones_peak_where_the_mel_scale_says():
    clips = np.stack([speech.fitted(tone(f, seconds=1) / 2**15, 8000) for f in (400, 1000, 2500)])
    x, _ = speech.MelSequence(8000, 50)(clips, None)
    mel = 2595 * np.log10(1 + np.array([20, 400, 1000, 2500, 4000]) / 700)
    wanted = 41 * (mel[1:4] - mel[0]) / (mel[4] - mel[0]) - 1  # centres of 40 triangles
    np.testing.assert_allclose(x[:, 25].argmax(-1), wanted, atol=1)
    np.testing.assert_allclose(x.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((1, 2)), 1, atol=1e-3)


@pytest.mark.once
@pytest.mark.parametrize("rate, timesteps", [(8000, 50), (16000, 100), (16000, 40)])
def test_spectra_are_keras(rate, timesteps):
    clips = np.random.default_rng(0).normal(size=(3, rate)).astype("float32")
    clips[1] = np.sin(np.arange(rate) * 0.3) * 1e-3
    clips[2] = 0
    layer = keras.layers.MelSpectrogram(
        fft_length=rate * 4 // 125,
        sequence_stride=rate // timesteps,
        sampling_rate=rate,
        num_mel_bins=40,
        min_freq=20.0,
        dtype="float32",
    )
    sequences = speech.MelSequence(rate, timesteps)
    found, _ = sequences(clips, None)
    for clip, one in zip(clips, found):  # each by itself: Keras's floor is one of the batch
        wanted = keras.ops.convert_to_numpy(layer(clip[None]))[0, :, :timesteps].T
        wanted = (wanted - wanted.mean()) / (wanted.std() + 1e-3)
        np.testing.assert_allclose(one, wanted, atol=2e-3)
        np.testing.assert_allclose(sequences(clip[None], None)[0][0], one, atol=1e-5)


def test_spectra_divide_the_second_evenly():
    clip = np.zeros((1, 8000), "float32")
    clip[0, 7600] = 1
    x, _ = speech.MelSequence(8000, 3000)(clip, None)
    assert abs(x[0].mean(-1).argmax() - 7600 / 8000 * 3000) <= 1


@pytest.mark.once
def test_what_does_not_change_is_kept(tmp_path, monkeypatch):
    for number in range(7):
        write_wav(tmp_path / f"0_jane_{number}.wav", tone(300 + 10 * number))
    reads, read_wav = [], speech.read_wav
    monkeypatch.setattr(speech, "read_wav", lambda *a: reads.append(a) or read_wav(*a))

    def epochs(**kwargs):
        data = datasets.load("spoken_digits", 4, data_dir=tmp_path, **kwargs)
        found = []
        for epoch in range(2):
            data.set_epoch(epoch)
            found.append([b[i][0] for b in (data.train, data.test) for i in range(len(b))])
        return found

    first, second = epochs()
    assert len(reads) == 7
    np.testing.assert_array_equal(np.concatenate(first[1:]), np.concatenate(second[1:]))
    varied = epochs(augmentation=["noise"])
    assert len(reads) == 14 and not np.array_equal(varied[0][0], varied[1][0])
    monkeypatch.setattr(speech, "KEPT", 50 * 40 * 4 * 2)  # room for two sequences of each
    again = epochs(timesteps=50)
    assert len(reads) == 14 + 7 + 3
    few = FileBatches(range(4), np.arange(4), 2, lambda i: reads.append(i) or np.zeros(2), keep=16)
    few[0], few[0], few[1], few[1]
    assert reads[-7:] == [0, 1, 1, 2, 3, 2, 3] and len(again) == 2


def test_clips_are_cut_and_padded_around_their_middle():
    np.testing.assert_array_equal(speech.fitted(np.arange(4), 8), [0, 0, 0, 1, 2, 3, 0, 0])
    np.testing.assert_array_equal(speech.fitted(np.arange(8), 4), [2, 3, 4, 5])
    clip = np.zeros(8000, "float32")
    clip[4000] = 1
    moves = [
        int(speech.varied(clip, 8000, ["shift"], np.random.default_rng(i)).argmax()) - 4000
        for i in range(40)
    ]
    assert max(np.abs(moves)) <= 800 and max(moves) > 400 and min(moves) < -400


def test_damaged_speech(tmp_path):
    path = tmp_path / "0_jane_0.wav"
    write_wav(path, tone(440))
    assert speech.read_wav(path, 8000).shape == (4000,)
    with pytest.raises(ValueError, match="at 16000 Hz, got 1 of 16 bits at 8000 Hz"):
        speech.read_wav(path, 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="8000 bytes of samples, 7900 are there, at byte 7944"):
        speech.read_wav(path, 8000)
    for place in range(44):
        for value in (0, 1, 0x10000000, 0x7FFFFFFF, 0xFFFFFFFF):
            path.write_bytes(whole[:place] + value.to_bytes(4, "little") + whole[place + 4 :])
            try:
                assert len(speech.read_wav(path, 8000))
            except ValueError as error:
                assert str(path) in str(error)
    path.write_bytes(whole[:40] + bytes(4) + whole[44:])
    with pytest.raises(ValueError, match="has no samples, at byte 44"):
        speech.read_wav(path, 8000)
    path.write_bytes(b"RIFX" + whole[4:])
    with pytest.raises(ValueError, match="no WAV file.* at byte"):
        speech.read_wav(path, 8000)
    path.with_name("1_jane_new.wav").write_bytes(whole)
    with pytest.raises(ValueError, match=r"1_jane_new\.wav should be named"):
        datasets.load("spoken_digits", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="free-spoken-digit-dataset"):
        datasets.load("spoken_digits")
    with pytest.raises(FileNotFoundError, match=r"speech_commands_v0\.02"):
        datasets.load("speech_commands", data_dir=tmp_path)
    with pytest.raises(ValueError, match="`augmentation`.*'flip'"):
        datasets.load("spoken_digits", data_dir=tmp_path, augmentation=["flip"])


def test_unknown_sets(mocked):
    with pytest.raises(ValueError, match="Unknown data set 'no_such_set'"):
        datasets.load("no_such_set")
    with pytest.raises(ValueError, match="batch_size"):
        datasets.load("digits", batch_size=0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The package `datasets`, offline, and a function that writes a set of images to Parquet."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    package = pytest.importorskip("datasets", reason="needs the extra `hf`")
    image = pytest.importorskip("PIL.Image")
    package.disable_progress_bars()

    def write(name, labels=("label",), **splits):
        features = {"img": package.Image()} | {
            label: package.ClassLabel(names=["ant", "bee", "cat"]) for label in labels
        }
        (tmp_path / name).mkdir()
        for split, (pictures, numbers) in splits.items():
            columns = {"img": [image.fromarray(np.squeeze(p)) for p in pictures]}
            rows = package.Dataset.from_dict(
                columns | dict.fromkeys(labels, numbers), package.Features(features)
            )
            rows.to_parquet(tmp_path / name / f"{split}-00000-of-00001.parquet")
        return f"hf://{tmp_path / name}"

    return write


def test_hugging_face(tmp_path, hub):
    x, y = pictures(13), np.arange(13) % 2
    name = hub("birds", train=(x[:10], y[:10]), test=(x[10:], y[10:]))

    def load(name, **kwargs):
        return datasets.load(name, 4, data_dir=tmp_path / "copy", **kwargs)

    data = load(name, validation_split=0.2)
    # Classes are those that the set names; it has no cats.
    assert (data.name, data.input_shape, data.classes) == ("birds", x.shape[1:], 3)
    found, labels = data.test[0]
    np.testing.assert_allclose(found, x[10:] / 127.5 - 1, atol=1e-6)
    assert labels.tolist() == y[10:].tolist() and len(data.train.labels) == 8
    np.testing.assert_allclose(data.validation[0][0], x[8:10] / 127.5 - 1, atol=1e-6)
    again = load(name, seed=3, augmentation=["flip", "mix_up"], one_hot=True).train
    images, labels = again[0]
    assert images.shape == (4, *x.shape[1:]) and labels.shape == (4, 3)
    assert not np.array_equal(again.order, np.arange(10))
    assert load(name, image_size=6).test[0][0].shape == (3, 6, 6, x.shape[-1])


@pytest.mark.once
def test_hugging_face_of_other_kinds(tmp_path, hub):
    def load(name, **kwargs):
        return datasets.load(name, 4, data_dir=tmp_path / "copy", **kwargs)

    x, y = pictures(6), np.arange(6) % 3
    grey = hub(
        "grey", ("fine", "coarse"), train=(x[..., :1], y), validation=(x[:2, ..., :1], y[:2])
    )
    data = load(grey + "?label=fine")
    assert data.input_shape == (*x.shape[1:3], 1)
    np.testing.assert_allclose(data.test[0][0], x[:2, ..., :1] / 127.5 - 1, atol=1e-6)
    sizes = [picture[: 8 - i % 2] for i, picture in enumerate(x)]
    uneven = hub("uneven", train=(sizes, y), test=(sizes, y))
    assert load(uneven, image_size=4).train[0][0].shape == (4, 4, 4, x.shape[-1])
    unlabelled = hub("unlabelled", train=(x, y), test=(x, [-1] * 6), validation=(x[3:], y[3:]))
    assert len(load(unlabelled).test.labels) == 3
    for name, kind, match in (
        (grey, ValueError, r"no column 'label' of labels.*\['fine', 'coarse'\].*\?label=COLUMN"),
        (grey + "?label=img", ValueError, "no column 'img' of labels"),
        (grey + "?split=x", ValueError, r"`name`.*config.*got '.*split=x'"),
        ("hf://", ValueError, "`name`, expected hf://PATH"),
        (uneven, ValueError, "differ in size: give `image_size`"),
        (hub("no_train", test=(x, y)), ValueError, r"no split train, but \['test'\]"),
        (hub("no_test", train=(x, y)), ValueError, r"no labelled split test.*\['train'\]"),
        (f"hf://{tmp_path}/nothing", FileNotFoundError, "no data set .*nothing' on the Hugging"),
    ):
        with pytest.raises(kind, match=match):
            load(name)
    (tmp_path / "grey" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ValueError, match="grey' can't be read: .*Parquet"):
        load(grey + "?label=fine")
    with pytest.raises(ValueError, match="uneven' can't be read: .*small"):
        load(uneven + "?config=small", image_size=4)


@pytest.mark.once
def test_hugging_face_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"keras-snn\[hf\]"):
        datasets.load("hf://ylecun/mnist")


# By JiTCDDE 1.8.3 with tolerances of 1e-13 and steps of at most 1: NeuroBench's series of the delay
# 17, every 75th of a Lyapunov time of 197.
SERIES_17 = {
    7: 1.2875965322300584,
    22: 0.968561370289783,
    52: 0.7881017306457713,
    82: 1.228054867247236,
    127: 0.8597076595446566,
    187: 0.9298971936185167,
}


@pytest.mark.once
def test_mackey_glass():
    series = datasets.mackey_glass(17, train_time=2, test_time=1)
    points = np.concatenate([series.train, series.test])
    for place, value in SERIES_17.items():
        assert points[place] == pytest.approx(value, abs=1e-9)
    assert points[0] == 0.7206597 and series.interval == 197 / 75
    # Up to the delay the past is constant: the equation is linear.
    first = datasets.mackey_glass(17, train_time=0.08, test_time=1).train
    limit = 0.2 * 0.7206597 / (1 + 0.7206597**10) / 0.1
    t = 197 / 75 * np.arange(6)
    np.testing.assert_allclose(first, limit + (0.7206597 - limit) * np.exp(-0.1 * t), rtol=1e-9)
    # What is left out before the start is the same series.
    later = datasets.mackey_glass(17, train_time=1, test_time=1, start=0.4)
    np.testing.assert_allclose(later.train, points[30:105], rtol=1e-9)
    x, y = series.windows(20)
    assert x.shape == (130, 20, 1) and y.shape == (130, 1) and x.dtype == y.dtype == np.float32
    np.testing.assert_array_equal(x[5, :, 0], series.train[5:25].astype("float32"))
    np.testing.assert_array_equal(y[5], series.train[25:26].astype("float32"))
    # Another step, and a delay that is no multiple of it.
    for step in (0.1, 0.0333):
        other = datasets.mackey_glass(17, train_time=2, test_time=1, step=step).test
        np.testing.assert_allclose(other, series.test, atol=1e-8)


@pytest.mark.once
def test_mackey_glass_refuses():
    for arguments, message in (
        ({"tau": 0}, "`tau`"),
        ({"tau": 16.5}, r"Give `lyapunov_time` and `past` for tau=16.5"),
        ({"train_time": 0}, "`train_time`"),
        ({"test_time": 1e-9}, "points to train on and to forecast, got 750, 0"),
        ({"past": -1.0}, "`past`"),
        ({"step": 18}, "`step`"),
        ({"points_per_lyapunov_time": 0.5}, "`points_per_lyapunov_time`"),
    ):
        with pytest.raises(ValueError, match=message):
            datasets.mackey_glass(**arguments)
    assert len(datasets.mackey_glass(16.5, lyapunov_time=100, past=0.9).train) == 750
    with pytest.raises(ValueError, match="below 750, got 750"):
        datasets.mackey_glass(20).windows(750)
