"""Folders of recordings in the data sets' layouts: labels, splits, frames, variation, errors."""

import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_snn import datasets
from keras_snn.datasets import events as ev
from keras_snn.datasets import recordings
from keras_snn.datasets.events import Events


def recording(seed, size, count=60, duration=300_000):
    rng = np.random.default_rng(seed)
    return Events(
        np.sort(rng.choice(duration, count, replace=False)),
        rng.integers(0, size[1], count),
        rng.integers(0, size[0], count),
        rng.integers(0, 2, count),
    )


def load(name, folder, batch_size=8, seed=0, timesteps=4, **kwargs):
    return recordings.load(name, batch_size, seed, folder, timesteps, **kwargs)


def examples(batches):
    """All frames and labels of an epoch."""
    found = [batches[i] for i in range(len(batches))]
    return tuple(np.concatenate(parts) for parts in zip(*found))


def matches(a, b):
    """Whether two epochs have the same examples in the same order."""
    return all(x.shape == y.shape and (x == y).all() for x, y in zip(a, b))


# The layouts, one function each; each returns what is in `Train` and `Test`: labels and events.


def nmnist(folder):
    held = {"train": [], "test": []}
    for split, count in (("Train", 3), ("Test", 2)):
        for digit in range(10):
            (folder / split / str(digit)).mkdir(parents=True)
            for i in range(count):
                events = recording(100 * (split == "Test") + 10 * i + digit, (34, 34))
                words = [
                    bytes([x, y, int(p) << 7 | int(t) >> 16, int(t) >> 8 & 255, int(t) & 255])
                    for t, x, y, p in zip(*events)
                ]
                (folder / split / str(digit) / f"{i:05}.bin").write_bytes(b"".join(words))
                held[split.lower()].append((digit, events))
    return held


def dvs_gesture(folder):
    """Three recordings with three packets of ten events for each second; gestures last two."""
    held = {"train": [], "test": []}
    folder.mkdir(exist_ok=True)
    for number, (split, user) in enumerate(
        (("train", "user01_led"), ("train", "user02_lab"), ("test", "user24_led"))
    ):
        events = recording(number, (128, 128), 30 * 24, 24_000_000)
        data = [b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"]
        for i in range(0, len(events.t), 10):
            data.append(struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, 10, 10, 10))
            for t, x, y, p in zip(*events[i : i + 10]):
                word = int(x) << 17 | int(y) << 2 | int(p) << 1 | 1
                data.append(struct.pack("<II", word, int(t)))
        (folder / f"{user}.aedat").write_bytes(b"".join(data))
        rows = ["class,startTime_usec,endTime_usec"]
        for kind in range(1, 12):
            start, end = kind * 2_000_000, kind * 2_000_000 + 1_500_000
            rows.append(f"{kind},{start},{end}")
            inside = (events.t >= start) & (events.t < end)
            held[split].append((kind - 1, events[inside]))
        (folder / f"{user}_labels.csv").write_text("\n".join(rows) + "\n")
        with (folder / f"trials_to_{split}.txt").open("a") as file:
            file.write(f"{user}.aedat\n")
    return held


def cifar10_dvs(folder):
    held = {"train": [], "test": []}
    for label, kind in enumerate(recordings.CIFAR10):
        (folder / kind).mkdir(parents=True)
        # As strings the last of twelve is 9; a tenth of 12 is 1.
        for i in (0, 1, 10, 11, *range(2, 10)):
            events = recording(100 * label + i, (128, 128), 20)
            words = b"".join(
                struct.pack(">II", (127 - int(x)) << 8 | (127 - int(y)) << 1 | 1 - int(p), int(t))
                for t, x, y, p in zip(*events)
            )
            path = folder / kind / f"cifar10_{kind}_{i}.aedat"
            path.write_bytes(b"#!AER-DAT2.0\r\n" + words)
            held["test" if i == 9 else "train"].append((label, events))
    return held


def spoken(name, classes):
    def write(folder):
        h5py = pytest.importorskip("h5py")
        folder.mkdir(exist_ok=True)
        held = {}
        for split, count in (("train", classes), ("test", 5)):
            held[split] = [
                (i * 7 % classes, recording(i + count, (1, 700), 80, 1_400_000)._replace(p=1))
                for i in range(count)
            ]
            with h5py.File(folder / f"{name}_{split}.h5", "w") as file:
                spikes = file.create_group("spikes")
                for key, kind in (("times", np.float64), ("units", np.int32)):
                    data = spikes.create_dataset(key, (count,), dtype=h5py.vlen_dtype(kind))
                    for i, (_, events) in enumerate(held[split]):
                        data[i] = events.t / 1e6 if key == "times" else events.x
                file["labels"] = np.array([label for label, _ in held[split]])
                file["extra/speaker"] = np.arange(count) % 4
        return held

    return write


def binary(events):
    """N-Caltech101's, and N-MNIST's, five bytes an event."""
    return b"".join(
        bytes([x, y, int(p) << 7 | int(t) >> 16, int(t) >> 8 & 255, int(t) & 255])
        for t, x, y, p in zip(*events)
    )


def ncaltech101(folder):
    held = {"train": [], "test": []}
    for label, kind in enumerate(("BACKGROUND_Google", *(f"class_{i:03}" for i in range(100)))):
        (folder / kind).mkdir(parents=True)
        for i in (1, 2):
            events = recording(100 * i + label, (180, 240), 12)
            (folder / kind / f"image_{i:04}.bin").write_bytes(binary(events))
            held["test" if i == 2 else "train"].append((label, events))
    return held


def asl_dvs(folder):
    scipy = pytest.importorskip("scipy.io")
    held = {"train": [], "test": []}
    for label, letter in enumerate("abcdefghiklmnopqrstuvwxy"):
        (folder / letter).mkdir(parents=True)
        for i in range(1, 6):
            events = recording(10 * label + i, (180, 240), 12)
            columns = {"ts": events.t, "x": events.x, "y": 179 - events.y, "pol": events.p}
            columns = {name: part[:, None].astype("i4") for name, part in columns.items()}
            scipy.savemat(folder / letter / f"{letter}_{i:04}.mat", columns)
            held["test" if i == 5 else "train"].append((label, events))
    return held


def dvs_lip(folder):
    held = {"train": [], "test": []}
    for label in range(100):
        for split in held:
            path = folder / split / f"word{label:02}" / "0.npy"
            path.parent.mkdir(parents=True)
            events = recording(label + 100 * (split == "test"), (128, 128), 12)
            array = np.zeros(12, [("t", "<i4"), ("x", "i1"), ("y", "i1"), ("p", "i1")])
            for name, part in events._asdict().items():
                array[name] = part
            np.save(path, array)
            held[split].append((label, events))
    return held


def ncars(folder):
    header = b"% Data file containing Event2D events\n% Version 2\n% Width 304\n% Height 240\n"
    held = {"train": [], "test": []}
    for split, members in held.items():
        for label, kind in enumerate(("background", "cars")):
            # As n-cars_train.zip has it; others unpack without the inner folder.
            inner = folder / f"n-cars_{split}" / split if label else folder / f"n-cars_{split}"
            (inner / kind).mkdir(parents=True)
            for i in range(2):
                events = recording(10 * label + i, (100, 120), 12)
                words = b"".join(
                    struct.pack("<II", int(t), int(p) << 28 | int(y) << 14 | int(x))
                    for t, x, y, p in zip(*events)
                )
                (inner / kind / f"obj_{i:06}_td.dat").write_bytes(header + b"\x00\x08" + words)
                members.append((label, events))
    return held


def es_imagenet(folder):
    """Events as the authors' code puts them into frames of 256x256 pixels; it keeps 224x224."""
    held, rng = {"train": [], "test": []}, np.random.default_rng(0)
    for split, part in (("train", "train"), ("test", "val")):
        lines = []
        for label, (height, width) in ((7, (254, 190)), (999, (169, 254)), (0, (254, 254))):
            name = f"class{label}/class{label}_1" if part == "train" else f"ILSVRC2012_{label}"
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
            rows = np.stack(
                [rng.integers(17, side, 40) for side in (min(height, 240), min(width, 240))]
                + [rng.integers(1, 9, 40)],
                1,
            ).astype("u1")
            np.savez_compressed(folder / part / name, pos=rows[:25], neg=rows[25:])
            lines.append(f"{name}.npz {label} {height} {width}")
            clip = np.zeros((2, 8, 256, 256))
            dx, dy = (254 - height) // 2, (254 - width) // 2
            for p, events in ((1, rows[:25]), (0, rows[25:])):
                for x, y, step in events.astype(int):
                    clip[p, step - 1, x + dx, y + dy] += 1
            held[split].append((label, clip[:, :, 16:240, 16:240].transpose(1, 2, 3, 0)))
        (folder / f"{part}label.txt").write_text("\n".join(lines) + "\n")
    return held


LAYOUTS = {
    "nmnist": nmnist,
    "dvs_gesture": dvs_gesture,
    "cifar10_dvs": cifar10_dvs,
    "shd": spoken("shd", 20),
    "ssc": spoken("ssc", 35),
}
SHAPES = {
    "nmnist": (34, 34, 2),
    "dvs_gesture": (128, 128, 2),
    "cifar10_dvs": (128, 128, 2),
    "shd": (700,),
    "ssc": (700,),
}
# Larger sensors and more classes: read once, and not as a whole.
LARGE = {
    "ncaltech101": (ncaltech101, (180, 240, 2), 101),
    "asl_dvs": (asl_dvs, (180, 240, 2), 24),
    "dvs_lip": (dvs_lip, (128, 128, 2), 100),
    "ncars": (ncars, (100, 120, 2), 2),
    "es_imagenet": (es_imagenet, (224, 224, 2), 1000),
}
CLASSES = {"nmnist": 10, "dvs_gesture": 11, "cifar10_dvs": 10, "shd": 20, "ssc": 35}


def frames(name, events, timesteps=4):
    """What a recording's frames should be, by another way than the package's."""
    found = np.zeros((timesteps, *SHAPES[name]), "float32")
    if len(SHAPES[name]) == 1:
        for t, x in zip(events.t, events.x):
            found[int(t * timesteps / 1_400_000), x] += 1
    else:
        each = len(events.t) // timesteps
        for i, (_, x, y, p) in enumerate(zip(*events)):
            found[min(i // each, timesteps - 1), y, x, p] += 1
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name):
    held = LAYOUTS[name](tmp_path)
    data = load(name, tmp_path)
    assert (data.name, data.classes) == (name, CLASSES[name])
    assert data.input_shape == (4, *SHAPES[name])
    found, labels = examples(data.test)
    assert found.dtype == np.float32 and labels.dtype.kind == "i"
    assert len(found) == len(held["test"])
    for one, label, (wanted, events) in zip(found, labels, held["test"]):
        assert label == wanted
        np.testing.assert_array_equal(one, frames(name, events))
    # Training has all others once, in another order.
    found, labels = examples(data.train)
    assert len(found) == len(held["train"])
    wanted = sorted((label, frames(name, events).tobytes()) for label, events in held["train"])
    assert sorted((int(label), one.tobytes()) for one, label in zip(found, labels)) == wanted
    assert list(labels) != [label for label, _ in held["train"]]


@pytest.mark.once
@pytest.mark.parametrize("name", LARGE)
def test_layouts_of_large_sensors(tmp_path, name):
    write, shape, classes = LARGE[name]
    held = write(tmp_path)
    data = load(name, tmp_path, batch_size=2, timesteps=8, train_timesteps=4, variation=["drop"])
    assert (data.input_shape, data.classes) == ((None, *shape), classes)
    assert data.train[0][0].shape == (2, 4, *shape)
    for split, members in held.items():
        batches = getattr(data, split)
        assert batches.labels.tolist() == [label for label, _ in members]
    found, labels = data.test[len(data.test) - 1]
    for one, label, (wanted_label, events) in zip(found, labels, held["test"][-len(found) :]):
        assert label == wanted_label
        wanted = events
        if isinstance(events, Events):
            wanted = np.zeros((8, *shape))
            for i, (_, x, y, p) in enumerate(zip(*events)):
                wanted[min(i, 7), y, x, p] += 1  # twelve events: one each, the last has the rest
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.once
def test_large_sensors_beside_tonics_and_spikingjellys(tmp_path, tonic, torchvision):
    """Their readers on the same bytes; tonic moves N-Caltech101's events to the corner."""
    ncaltech101(tmp_path / "a")
    asl_dvs(tmp_path / "b")
    dvs_lip(tmp_path / "c")
    es_imagenet(tmp_path / "d")
    for peer, read, path in (
        (tonic.datasets.NCALTECH101, ev.read_nmnist, "a/class_003/image_0002.bin"),
        (tonic.datasets.ASLDVS, ev.read_asl_dvs, "b/c/c_0002.mat"),
        (tonic.datasets.DVSLip, ev.read_dvs_lip, "c/test/word07/0.npy"),
    ):
        theirs = peer.__new__(peer)  # without the downloads
        theirs.data, theirs.targets = [tmp_path / path], [3]
        theirs.transform = theirs.target_transform = theirs.transforms = None
        theirs, _ = theirs[0]
        ours = read(tmp_path / path)
        if peer.__name__ == "NCALTECH101":
            ours = ours._replace(x=ours.x - ours.x.min(), y=ours.y - ours.y.min())
        for name, part in ours._asdict().items():
            np.testing.assert_array_equal(part, theirs[name].ravel())
    peer = pytest.importorskip("spikingjelly.datasets.es_imagenet", exc_type=ImportError)
    path = tmp_path / "d" / "val" / "ILSVRC2012_0.npz"
    theirs, ours = peer._load_events(path), ev.read_es_imagenet(path, (254, 254))
    for name, offset in (("t", 1), ("x", 16), ("y", 16), ("p", 0)):
        order = np.lexsort((ours.x, ours.y, ours.p, ours.t))
        there = np.lexsort((theirs["x"], theirs["y"], theirs["p"], theirs["t"]))
        np.testing.assert_array_equal(getattr(ours, name)[order] + offset, theirs[name][there])


@pytest.mark.parametrize("name", LAYOUTS)
def test_training_is_a_function_of_seed_and_epoch(tmp_path, name):
    LAYOUTS[name](tmp_path)
    kinds = recordings.RECORDINGS[name].variations

    def data(seed=0, variation=kinds):
        return load(name, tmp_path, 16, seed, train_timesteps=3, variation=variation)

    first = data()
    assert first.input_shape == (None, *SHAPES[name])
    assert first.train[0][0].shape == (16, 3, *SHAPES[name])
    assert first.test[0][0].shape[1:] == (4, *SHAPES[name])
    epochs = []
    for _ in range(3):
        epochs.append(examples(first.train))
        first.train.on_epoch_end()
    assert not matches(epochs[0], epochs[1]) and not matches(epochs[1], epochs[2])
    again = data()
    again.set_epoch(2)
    assert matches(examples(again.train), epochs[2])
    again.set_epoch(0)
    assert matches(examples(again.train), epochs[0])
    assert not matches(examples(data(seed=1).train), epochs[0])
    tests = [examples(data(seed, ()).test) for seed in (0, 1)]
    assert matches(*tests) and matches(tests[0], examples(first.test))


def unshuffled(data):
    """Frames of an epoch in the order of the folder."""
    found, _ = examples(data.train)
    return found[np.argsort(data.train.order)]


def test_flip_mirrors_about_half(tmp_path):
    cifar10_dvs(tmp_path)
    plain = unshuffled(load("cifar10_dvs", tmp_path))
    varied = unshuffled(load("cifar10_dvs", tmp_path, variation=["flip"]))
    mirrored = [(a == b[:, :, ::-1]).all() for a, b in zip(varied, plain)]
    kept = [(a == b).all() for a, b in zip(varied, plain)]
    assert all(a ^ b for a, b in zip(mirrored, kept))
    # 110 fair draws: 35 to 75 hold with probability 0.9999.
    assert 35 <= sum(mirrored) <= 75


def test_jitter_moves_whole_recordings(tmp_path):
    spoken("shd", 20)(tmp_path)
    plain = unshuffled(load("shd", tmp_path))
    varied = unshuffled(load("shd", tmp_path, variation=["jitter"]))
    shifts = []
    for a, b in zip(varied, plain):
        padded = np.pad(b, ((0, 0), (40, 40)))
        fits = [s for s in range(-40, 41) if (padded[:, 40 - s : 740 - s] == a).all()]
        assert len(fits) == 1
        shifts += fits
    assert len(set(shifts)) > 8 and min(shifts) < 0 < max(shifts)


def test_drop_leaves_out_up_to_a_half(tmp_path):
    dvs_gesture(tmp_path)
    plain = unshuffled(load("dvs_gesture", tmp_path, timesteps=1))
    varied = unshuffled(load("dvs_gesture", tmp_path, timesteps=1, variation=["drop"]))
    assert (varied <= plain).all()
    shares = varied.sum((1, 2, 3, 4)) / plain.sum((1, 2, 3, 4))
    assert 0.2 < shares.min() < 0.75 and 0.8 < shares.max() <= 1


def test_some_frames_in_their_order(tmp_path):
    nmnist(tmp_path)
    plain = unshuffled(load("nmnist", tmp_path))
    some = unshuffled(load("nmnist", tmp_path, train_timesteps=3))
    left_out = set()
    for a, b in zip(some, plain):
        fits = [i for i in range(4) if (np.delete(b, i, 0) == a).all()]
        assert len(fits) == 1
        left_out.add(fits[0])
    assert left_out == {0, 1, 2, 3}
    assert load("nmnist", tmp_path, train_timesteps=4).input_shape == (4, 34, 34, 2)


@pytest.mark.once
def test_validation_recordings_are_evenly_spaced_training_recordings(tmp_path):
    nmnist(tmp_path)
    given = {"batch_size": 30, "data_dir": tmp_path, "timesteps": 4, "train_timesteps": 3}
    data = datasets.load("nmnist", validation_split=1 / 3, **given)
    x, y = data.validation[0]
    np.testing.assert_array_equal(y, range(10))  # the second of three of each class
    paths = [tmp_path / "Train" / str(digit) / "00001.bin" for digit in range(10)]
    np.testing.assert_array_equal(x, [data.test.read(path) for path in paths])
    assert x.shape[1] == 4 and data.train[0][0].shape[:2] == (20, 3)
    assert len(data.test.labels) == 20 and not {*paths} & {*data.train.examples}


def test_cifar10_dvs_may_be_aedat4(tmp_path):
    pytest.importorskip("flatbuffers")
    from test_events import aedat4_header, aedat4_packet

    cifar10_dvs(tmp_path)
    events = recording(7, (128, 128), 20)
    old = tmp_path / "cat" / "cifar10_cat_9.aedat"
    old.with_suffix(".aedat4").write_bytes(aedat4_header() + aedat4_packet(events))
    old.unlink()
    found, labels = examples(load("cifar10_dvs", tmp_path).test)
    np.testing.assert_array_equal(found[list(labels).index(3)], frames("cifar10_dvs", events))


def test_words_longer_than_their_frames(tmp_path):
    h5py = pytest.importorskip("h5py")
    spoken("shd", 20)(tmp_path)
    with h5py.File(tmp_path / "shd_test.h5", "a") as file:
        file["spikes"]["times"][0] = np.array([0.0, 0.69, 0.71, 1.41])
        file["spikes"]["units"][0] = np.array([1, 2, 2, 3])
    found = load("shd", tmp_path, timesteps=2).test[0][0][0]
    assert found[0, 1] == found[0, 2] == found[1, 2] == 1 and found.sum() == 3


@pytest.mark.parametrize("name", ["dvs_gesture", "shd"])
def test_threads_read_the_same(tmp_path, name):
    LAYOUTS[name](tmp_path)
    data = load(name, tmp_path, 2, variation=["drop"], workers=3)
    assert data.train.workers == 3
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(data.train.__getitem__, range(len(data.train))))
    found = tuple(np.concatenate(parts) for parts in zip(*found))
    assert matches(found, examples(load(name, tmp_path, variation=["drop"]).train))


def test_gestures_are_cut_as_spikingjelly_cuts_them(tmp_path, torchvision):
    peer = pytest.importorskip("spikingjelly.datasets.dvs128_gesture", exc_type=ImportError)
    dvs_gesture(tmp_path)
    for kind in range(11):
        (tmp_path / "cut" / str(kind)).mkdir(parents=True)
    name = "user24_led"
    table = tmp_path / f"{name}_labels.csv"
    peer._split_aedat_files_to_np(name, tmp_path / f"{name}.aedat", table, tmp_path / "cut")
    for one, kind in zip(*examples(load("dvs_gesture", tmp_path).test)):
        theirs = np.load(tmp_path / "cut" / str(kind) / f"{name}_0.npz")
        wanted = ev.count_frames(Events(*(theirs[k].astype(int) for k in "txyp")), 4, (128, 128))
        np.testing.assert_array_equal(one, wanted)


def test_cifar10_dvs_is_split_as_spikingjelly_splits_it(tmp_path, torchvision):
    peer = pytest.importorskip("spikingjelly.datasets.utils", exc_type=ImportError)
    for label, kind in enumerate(recordings.CIFAR10):
        (tmp_path / kind).mkdir()
        for i in range(10 + label):
            (tmp_path / kind / f"cifar10_{kind}_{i}.aedat").touch()
    names = sorted(str(path) for path in tmp_path.glob("*/*.aedat"))
    every = [(name, recordings.CIFAR10.index(name.split("_")[-2])) for name in names]
    for split, theirs in zip(
        ("train", "test"), peer.split_to_train_test_set(0.9, every, 10), strict=True
    ):
        ours = getattr(load("cifar10_dvs", tmp_path), split)
        found = [(str(path), label) for path, label in zip(ours.examples, ours.labels)]
        assert found == list(theirs)


@pytest.mark.parametrize("name", [*LAYOUTS, *LARGE])
def test_missing_data_says_what_to_get(tmp_path, name):
    if name in ("shd", "ssc"):
        pytest.importorskip("h5py")
    sources = {
        "nmnist": r"Train.*garrickorchard\.com.*Train\.zip",
        "dvs_gesture": r"trials_to_train\.txt.*research\.ibm\.com.*DvsGesture",
        "cifar10_dvs": r"airplane.*airplane\.zip.*figshare\.com",
        "shd": r"shd_train\.h5.*zenkelab\.org",
        "ssc": r"ssc_train\.h5.*zenkelab\.org",
        "ncaltech101": r"nothing.*garrickorchard\.com.*Caltech101",
        "asl_dvs": r"a.\*\.mat.*ICCV2019_DVS_dataset.*letter",
        "dvs_lip": r"train.*DVS-Lip\.zip.*google\.com",
        "ncars": r"n-cars_train.*prophesee\.ai",
        "es_imagenet": r"trainlabel\.txt.*ES-imagenet-0\.18",
    }
    with pytest.raises(FileNotFoundError, match=sources[name]):
        load(name, tmp_path / "nothing")
    with pytest.raises(ValueError, match="data_dir"):
        load(name, None)


def test_incomplete_folders(tmp_path):
    dvs_gesture(tmp_path / "a")
    (tmp_path / "a" / "user02_lab.aedat").unlink()
    with pytest.raises(FileNotFoundError, match=r"user02_lab\.aedat.*research\.ibm\.com"):
        load("dvs_gesture", tmp_path / "a")
    dvs_gesture(tmp_path / "b")
    (tmp_path / "b" / "user24_led_labels.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"user24_led_labels\.csv"):
        load("dvs_gesture", tmp_path / "b")
    dvs_gesture(tmp_path / "c")
    (tmp_path / "c" / "trials_to_test.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match="no recordings to test with"):
        load("dvs_gesture", tmp_path / "c")
    cifar10_dvs(tmp_path / "d")
    for path in (tmp_path / "d" / "frog").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="frog"):
        load("cifar10_dvs", tmp_path / "d")


@pytest.mark.parametrize(
    "line", ["12,0,5", "0,0,5", "3,7", "wave,1,2", "1,2,3,4", "3,9,5", "3,-7,5", "3,5,5"]
)
def test_bad_tables_of_gestures(tmp_path, line):
    dvs_gesture(tmp_path)
    with (tmp_path / "user01_led_labels.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=f"user01_led_labels.csv.*got '{line}'"):
        load("dvs_gesture", tmp_path)


@pytest.mark.once
def test_incomplete_folders_of_large_sensors(tmp_path):
    ncaltech101(tmp_path / "a")
    (tmp_path / "a" / "class_099").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"each of 101 classes, got 100\. Get Caltech101"):
        load("ncaltech101", tmp_path / "a")
    dvs_lip(tmp_path / "b")
    (tmp_path / "b" / "test" / "word07").rename(tmp_path / "b" / "test" / "word77a")
    with pytest.raises(FileNotFoundError, match="the same words.*DVS-Lip"):
        load("dvs_lip", tmp_path / "b")
    es_imagenet(tmp_path / "c")
    lines = tmp_path / "c" / "vallabel.txt"
    (tmp_path / "c" / "val" / "ILSVRC2012_0.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"ILSVRC2012_0\.npz.*ES-ImageNet"):
        examples(load("es_imagenet", tmp_path / "c").test)
    for line in ("a.npz 3 254", "a.npz 3 254 b", "a.npz -1 254 254"):
        lines.write_text(line)
        with pytest.raises(ValueError, match=f"vallabel.txt: a line should.*got '{line}'"):
            load("es_imagenet", tmp_path / "c")
    lines.write_text("a.npz 1000 254 254")
    with pytest.raises(ValueError, match="below 1000, got 1000"):
        load("es_imagenet", tmp_path / "c")
    with pytest.raises(ValueError, match="`timesteps` should be at most 8 for 'es_imagenet'"):
        load("es_imagenet", tmp_path / "c", timesteps=9)


@pytest.mark.once
def test_damaged_arrays_name_the_byte(tmp_path):
    asl_dvs(tmp_path / "a")
    dvs_lip(tmp_path / "b")
    es_imagenet(tmp_path / "c")
    for read, path in (
        (ev.read_asl_dvs, tmp_path / "a" / "b" / "b_0001.mat"),
        (ev.read_dvs_lip, tmp_path / "b" / "train" / "word00" / "0.npy"),
        (lambda path: ev.read_es_imagenet(path, (254, 254)), tmp_path / "c/val/ILSVRC2012_7.npz"),
    ):
        whole = path.read_bytes()
        for broken in (whole[:-9], whole[:40], b"", b"GIF89a" * 30):
            path.write_bytes(broken)
            with pytest.raises(ValueError, match=rf"{path.name}.*damaged.*at byte \d+\."):
                read(path)
        with pytest.raises(FileNotFoundError, match=r"none.*Get "):
            read(path.with_name("none"))
    path = tmp_path / "b" / "train" / "word00" / "0.npy"
    np.save(path, np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"0\.npy.*expected `Events`"):
        ev.read_dvs_lip(path)
    path = tmp_path / "c" / "val" / "ILSVRC2012_7.npz"
    np.savez(path, pos=np.ones((1, 3), "u1"))
    with pytest.raises(ValueError, match=r"ILSVRC2012_7\.npz.*neg"):
        ev.read_es_imagenet(path, (254, 254))
    np.savez(path, pos=np.full((1, 3), 9, "u1"), neg=np.ones((0, 3), "u1"))
    with pytest.raises(ValueError, match="steps should be from 1 to 8, got 9 to 9"):
        ev.read_es_imagenet(path, (254, 254))


def test_damaged_files_are_named(tmp_path):
    nmnist(tmp_path / "nmnist")
    (tmp_path / "nmnist" / "Train" / "3" / "00001.bin").write_bytes(bytes(7))
    with pytest.raises(ValueError, match=r"00001\.bin.*at byte 5"):
        examples(load("nmnist", tmp_path / "nmnist").train)
    dvs_gesture(tmp_path / "gestures")
    path = tmp_path / "gestures" / "user24_led.aedat"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"user24_led\.aedat.*77 are left, at byte"):
        examples(load("dvs_gesture", tmp_path / "gestures").test)
    spoken("shd", 20)(tmp_path / "shd")
    (tmp_path / "shd" / "shd_test.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"shd_test\.h5.*damaged"):
        load("shd", tmp_path / "shd")


def test_empty_recordings_and_events_outside_are_named(tmp_path):
    nmnist(tmp_path / "nmnist")
    path = tmp_path / "nmnist" / "Test" / "3" / "00001.bin"
    for content, match in ((b"", "has no events"), (bytes([34, 0, 0, 0, 0]), "columns 34 to 34")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"00001\.bin.*{match}"):
            examples(load("nmnist", tmp_path / "nmnist").test)
    dvs_gesture(tmp_path / "gestures")
    table = tmp_path / "gestures" / "user24_led_labels.csv"
    table.write_text(table.read_text() + "3,90000000,91000000\n")
    with pytest.raises(ValueError, match=r"user24_led\.aedat, 90000000, 91000000 has no events"):
        examples(load("dvs_gesture", tmp_path / "gestures").test)
    spoken("ssc", 35)(tmp_path / "shd")
    for split in ("train", "test"):
        (tmp_path / "shd" / f"ssc_{split}.h5").rename(tmp_path / "shd" / f"shd_{split}.h5")
    with pytest.raises(ValueError, match=r"Labels to train with in .*shd should be below 20, got"):
        load("shd", tmp_path / "shd")


def test_bad_arguments(tmp_path):
    nmnist(tmp_path)
    for kwargs, match in (
        ({"variation": ["shear"]}, r"'shear'.*'nmnist'.*'jitter', 'drop'"),
        ({"variation": ["flip"]}, r"'flip'.*'nmnist'"),
        ({"train_timesteps": 5}, "at most 4, got 5"),
        ({"train_timesteps": 0}, "train_timesteps"),
        ({"timesteps": 0}, "timesteps"),
        ({"batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(ValueError, match=match):
            load("nmnist", tmp_path, **kwargs)
    with pytest.raises(ValueError, match="'shd', 'ssc'.*'mnist'"):
        load("mnist", tmp_path)


@pytest.mark.once
def test_frames_that_are_shrunk(tmp_path):
    ncars(tmp_path)
    whole = load("ncars", tmp_path).test[0][0]
    data = load("ncars", tmp_path, image_size=25)
    assert data.input_shape == (4, 25, 30, 2)
    wanted = np.mean([whole[:, :, i::4, j::4] for i in range(4) for j in range(4)], 0)
    np.testing.assert_allclose(data.test[0][0], wanted, atol=1e-7)
    for size in (24, 4, 200):  # the last divides the height, not the width
        with pytest.raises(ValueError, match=rf"image_size.*\(100, 120\).*'ncars', got {size}"):
            load("ncars", tmp_path, image_size=size)


@pytest.mark.once
def test_neighbouring_units_count_together(tmp_path):
    spoken("shd", 20)(tmp_path)
    whole = load("shd", tmp_path).test[0][0]
    data = load("shd", tmp_path, image_size=140)
    assert data.input_shape == (4, 140)
    wanted = sum(whole[..., unit::5] for unit in range(5))
    np.testing.assert_array_equal(data.test[0][0], wanted)
    with pytest.raises(ValueError, match=r"image_size.*\(700,\) for 'shd', got 13"):
        load("shd", tmp_path, image_size=13)


@pytest.mark.once
def test_speakers_are_held_out_for_validation(tmp_path):
    h5py = pytest.importorskip("h5py")
    spoken("shd", 20)(tmp_path)
    given = {"name": "shd", "batch_size": 32, "data_dir": tmp_path, "timesteps": 4}
    plain = datasets.load(**given)
    frames, labels = unshuffled(plain), plain.train.labels
    data = datasets.load(**given, augmentation=["drop"], validation_speakers=["1", "3"])
    held = np.flatnonzero(np.isin(np.arange(20) % 4, [1, 3]))
    assert matches(data.validation[0], (frames[held], labels[held]))  # without variation
    assert [index for _, index in data.train.examples] == np.delete(np.arange(20), held).tolist()
    assert matches(data.test[0], plain.test[0])
    some = r"some of the speakers that 'shd' trains with, \['0', '1', '2', '3'\], got "
    for speakers in (["4"], "0123"):
        with pytest.raises(ValueError, match=some):
            datasets.load(**given, validation_speakers=speakers)
    for more in ({"validation_split": 0.1}, {"name": "nmnist"}):
        with pytest.raises(ValueError, match="`validation_speakers` is for SHD, SSC and spoken"):
            datasets.load(**given | more, validation_speakers=["1"])
    with h5py.File(tmp_path / "shd_train.h5", "a") as file:
        del file["extra"]
    with pytest.raises(ValueError, match=r"shd_train\.h5.*extra/speaker tells 0 of 20 speakers"):
        datasets.load(**given, validation_speakers=["1"])


def test_a_model_trains_on_recordings(tmp_path):
    import keras

    from keras_snn import layers as snn

    spoken("shd", 20)(tmp_path)
    data = load("shd", tmp_path, timesteps=10, train_timesteps=8)
    model = keras.Sequential(
        [
            keras.Input(data.input_shape),
            snn.FoldTime(keras.layers.Dense(16)),
            snn.LIF(threshold=0.05),
            snn.MeanOverTime(),
            keras.layers.Dense(data.classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    losses = model.fit(data.train, epochs=15, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert model.predict(data.test, verbose=0).shape == (5, 20)


def test_by_name_from_the_package(tmp_path):
    from keras_snn import datasets

    held = nmnist(tmp_path)
    data = datasets.load("nmnist", batch_size=8, data_dir=tmp_path, timesteps=4)
    found, labels = examples(data.test)
    np.testing.assert_array_equal(labels, [label for label, _ in held["test"]])
    wanted = ev.count_frames(held["test"][0][1], 4, (34, 34))
    np.testing.assert_array_equal(found[0], wanted)


@pytest.mark.once
def test_clips_are_varied_and_labels_mixed(tmp_path):
    held = nmnist(tmp_path)
    data = load("nmnist", tmp_path, variation=["shift", "mix_up"], one_hot=True)
    clips, labels = examples(data.train)
    assert clips.shape == (30, 4, 34, 34, 2) and labels.shape == (30, 10)
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-5)
    assert ((labels > 0).sum(-1) == 2).any()
    plain, _ = examples(load("nmnist", tmp_path).train)
    assert not np.array_equal(clips, plain)
    clips, labels = examples(data.test)  # held-out clips are left alone
    np.testing.assert_array_equal(labels, np.eye(10)[[label for label, _ in held["test"]]])
    np.testing.assert_array_equal(clips[0], ev.count_frames(held["test"][0][1], 4, (34, 34)))
    with pytest.raises(ValueError, match="'mix_up' mixes labels"):
        load("nmnist", tmp_path, variation=["mix_up"])
    spoken("shd", 20)(tmp_path)
    with pytest.raises(ValueError, match=r"'shift'.*'shd'.*\('jitter', 'drop'\)"):
        load("shd", tmp_path, variation=["shift"])
