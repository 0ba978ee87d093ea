"""Event files, written byte by byte as their formats say, and frames, beside SpikingJelly's."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_snn import events as ev
from keras_snn.events import Events


def recording(count=200, size=(34, 30), seed=0):
    rng = np.random.default_rng(seed)
    return Events(
        np.sort(rng.integers(0, 300_000, count)),
        rng.integers(0, size[1], count),
        rng.integers(0, size[0], count),
        rng.integers(0, 2, count),
    )


def same(a, b):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(np.asarray(one, int), np.asarray(other, int))


def nmnist_bytes(events):
    rows = []
    for t, x, y, p in zip(*events):
        rows.append(bytes([x, y, int(p) << 7 | int(t) >> 16, int(t) >> 8 & 255, int(t) & 255]))
    return b"".join(rows)


def test_nmnist(tmp_path):
    events, path = recording(), tmp_path / "0.bin"
    path.write_bytes(nmnist_bytes(events))
    same(ev.read_nmnist(path), events)


def test_nmnist_overflow_and_damage(tmp_path):
    path = tmp_path / "0.bin"
    path.write_bytes(bytes([1, 2, 128, 0, 5, 0, 240, 0, 0, 0, 3, 4, 0, 0, 7]))
    same(ev.read_nmnist(path), ([5, 8192 + 7], [1, 3], [2, 4], [1, 0]))
    path.write_bytes(bytes(13))
    with pytest.raises(ValueError, match=r"0.bin.*3 bytes, at byte 10"):
        ev.read_nmnist(path)
    with pytest.raises(FileNotFoundError, match="N-MNIST"):
        ev.read_nmnist(tmp_path / "none.bin")


def aedat3(events, kind=1, overflow=0):
    header = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"
    count = len(events.t)
    packet = struct.pack("<hhiiiiii", kind, 0, 8, 4, overflow, count, count, count)
    words = [
        struct.pack("<Ii", int(x) << 17 | int(y) << 2 | int(p) << 1 | 1, int(t))
        for t, x, y, p in zip(*events)
    ]
    return header, packet + b"".join(words)


def test_aedat3(tmp_path):
    a, b = recording(50), recording(70, seed=1)
    path = tmp_path / "user.aedat"
    header, first = aedat3(a)
    _, other = aedat3(a, kind=2)
    _, second = aedat3(b, overflow=1)
    path.write_bytes(header + first + other + second)
    found = ev.read_aedat(path)
    same(found[:50], a)
    same(found[50:], b._replace(t=b.t + 2**31))
    cut = header + first[:-3]
    path.write_bytes(cut)
    with pytest.raises(ValueError, match=f"400 bytes, 397 are left, at byte {len(header) + 28}"):
        ev.read_aedat(path)
    path.write_bytes(header + first + second[:10])
    with pytest.raises(ValueError, match="10 of 28"):
        ev.read_aedat(path)
    path.write_bytes(header)
    assert len(ev.read_aedat(path).t) == 0


def test_aedat2(tmp_path, torchvision):
    events, path = recording(60, (128, 128)), tmp_path / "cat.aedat"
    header = b"#!AER-DAT2.0\r\n# a comment\r\n"
    words = b"".join(
        struct.pack(">II", (127 - int(x)) << 8 | (127 - int(y)) << 1 | 1 - int(p), int(t))
        for t, x, y, p in zip(*events)
    )
    path.write_bytes(header + words)
    same(ev.read_aedat(path), events)
    peer = pytest.importorskip("spikingjelly.datasets.cifar10_dvs", exc_type=ImportError)
    theirs = peer._load_origin_data(path)
    same(ev.read_aedat(path), [theirs[k] for k in "txyp"])
    path.write_bytes(header + words[:-5])
    with pytest.raises(ValueError, match=f"3 of 8 bytes, at byte {len(header) + 59 * 8}"):
        ev.read_aedat(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.aedat"
    path.write_bytes(b"#!AER-DAT4.0\r\n")
    with pytest.raises(ValueError, match=r"4.0.*dv-processing"):
        ev.read_aedat(path)
    path.write_bytes(b"GIF89a\n")
    with pytest.raises(ValueError, match="at byte 0"):
        ev.read_aedat(path)


def test_shd(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "shd.h5"
    with h5py.File(path, "w") as file:
        kind = h5py.vlen_dtype(np.float32)
        spikes = file.create_group("spikes")
        times = spikes.create_dataset("times", (2,), dtype=kind)
        units = spikes.create_dataset("units", (2,), dtype=h5py.vlen_dtype(np.int32))
        times[0], units[0] = [0.001, 0.5], [3, 699]
        times[1], units[1] = [0.25], [7]
        file["labels"] = np.array([4, 19])
    found, labels = ev.read_shd(path)
    same(found[0], ([1000, 500_000], [3, 699], [0, 0], [1, 1]))
    assert list(labels) == [4, 19] and len(found) == 2
    assert ev.time_frames(found[0], 10, (1, 700), 100_000).shape == (10, 1, 700, 2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        ev.read_shd(path)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 5))
def test_every_event_is_in_one_frame(count, frames, seed):
    events = recording(count, seed=seed)
    for cut in (ev.count_frames, ev.time_frames, ev.voxel_grid):
        found = cut(events, frames, (34, 30))
        assert found.shape == (frames, 34, 30, 2) and found.dtype == np.float32
        np.testing.assert_allclose(found.sum(), count, rtol=1e-5)
        places = np.zeros((34, 30, 2))
        np.add.at(places, (events.y, events.x, events.p), 1)
        np.testing.assert_allclose(found.sum(0), places, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 4, 7])
def test_frames_equal_spikingjellys(frames, torchvision):
    utils = pytest.importorskip("spikingjelly.datasets.utils", exc_type=ImportError)
    events = recording(203)
    theirs = dict(zip("txyp", events))
    for split, cut in (("number", ev.count_frames), ("time", ev.time_frames)):
        wanted = utils.integrate_events_by_fixed_frames_number(theirs, split, frames, 34, 30)
        np.testing.assert_array_equal(cut(events, frames, (34, 30)), wanted.transpose(0, 2, 3, 1))


def test_fixed_duration():
    events = Events(np.array([10, 15, 25, 31]), *np.zeros((3, 4), int))
    np.testing.assert_array_equal(ev.time_frames(events, 2, (1, 1), 10)[:, 0, 0, 0], [2, 1])


def test_bad_frames():
    events = recording()
    with pytest.raises(ValueError, match="outside of the size"):
        ev.count_frames(events, 4, (20, 20))
    with pytest.raises(ValueError, match="frames"):
        ev.time_frames(events, 0, (34, 30))
    with pytest.raises(ValueError, match="count"):
        ev.random_steps(np.zeros((3, 2)), 4, np.random.default_rng(0))


def test_variation():
    events, rng = recording(), np.random.default_rng(0)
    same(ev.flip(ev.flip(events, 30), 30), events)
    assert len(ev.drop_events(events, 0.5, rng).t) in range(70, 130)
    same(ev.drop_events(events, 0.0, rng), events)
    moved = ev.jitter(events, (34, 30), 5, rng)
    assert 0 < len(moved.t) <= len(events.t) and moved.x.max() < 30 and moved.y.min() >= 0
    frames = np.arange(16)
    chosen = ev.random_steps(frames, 12, rng)
    assert len(set(chosen)) == 12 and (np.diff(chosen) > 0).all()


def test_folders_of_nmnist_as_a_data_set(tmp_path):
    from keras_snn import datasets

    for split, count in (("Train", 5), ("Test", 2)):
        for digit in range(10):
            folder = tmp_path / split / str(digit)
            folder.mkdir(parents=True)
            for i in range(count):
                path = folder / f"{i:05}.bin"
                path.write_bytes(nmnist_bytes(recording(60, seed=10 * i + digit)))
    data = datasets.load("nmnist", batch_size=8, data_dir=tmp_path, timesteps=4)
    assert data.input_shape == (4, 34, 34, 2) and data.classes == 10
    assert len(data.train) == 7 and len(data.test) == 3
    frames, _ = data.test[0]
    assert frames.shape == (8, 4, 34, 34, 2) and frames.dtype == np.float32
    first = ev.count_frames(recording(60, seed=0), 4, (34, 34))
    np.testing.assert_array_equal(frames[0], first)
    every = np.concatenate([data.train[i][1] for i in range(7)])
    assert sorted(every) == sorted(list(range(10)) * 5)
    before = np.concatenate([data.train[i][1] for i in range(7)])
    data.train.on_epoch_end()
    assert (np.concatenate([data.train[i][1] for i in range(7)]) != before).any()
    (tmp_path / "Train" / "3" / "00001.bin").write_bytes(bytes(7))
    broken = datasets.load("nmnist", batch_size=50, data_dir=tmp_path, timesteps=4)
    with pytest.raises(ValueError, match="00001.bin"):
        broken.train[0]
    with pytest.raises(FileNotFoundError, match="Train"):
        datasets.load("nmnist", data_dir=tmp_path / "nothing")
    with pytest.raises(ValueError, match="data_dir"):
        datasets.load("nmnist")
