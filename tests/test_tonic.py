"""Data sets of tonic, with its transforms and without, beside our own reading of the same files."""

import numpy as np
import pytest
from test_recordings import examples, nmnist, recording, spoken

from keras_snn import datasets
from keras_snn.datasets import events as ev


class Recordings:
    """A data set as tonic's are, of five recordings of each of four classes, 12x16 pixels."""

    sensor_size = (16, 12, 2)
    transforms = target_transform = None
    names = ("x", "y", "t", "p")
    kinds = ("i2", "i2", "i8", "?")

    def __init__(self, transform=None, labels=range(4), listed=True):
        self.transform = transform
        self.labels = [labels[i % 4] for i in range(20)]
        self.targets = self.labels if listed else []

    def __len__(self):
        return 20

    def __getitem__(self, index):
        events = recording(index, (12, 16), 30)
        array = np.zeros(30, list(zip(self.names, self.kinds)))
        for name in self.names:
            array[name] = getattr(events, {"timestamp": "t", "polarity": "p"}.get(name, name))
        return array if self.transform is None else self.transform(array), self.labels[index]


def wanted_frames(index, frames=5):
    return ev.count_frames(recording(index, (12, 16), 30), frames, (12, 16))


def tonics(peer, data, targets, **transforms):
    """A data set of tonic whose files are here already."""
    found = peer.__new__(peer)
    found.data, found.targets = data, targets
    for name in ("transform", "target_transform", "transforms"):
        setattr(found, name, transforms.get(name))
    return found


def test_nmnist_is_as_our_own(tmp_path, tonic):
    nmnist(tmp_path)
    ours = datasets.load("nmnist", 8, data_dir=tmp_path, timesteps=4, augmentation=["drop"])
    splits = {}
    for split in ("train", "test"):
        batches = getattr(ours, split)
        # Tonic keeps open files; its reader takes paths as well.
        splits[split] = tonics(tonic.datasets.NMNIST, batches.examples, batches.labels.tolist())
        splits[split].__class__ = reading(tonic, tonic.datasets.NMNIST)
    theirs = datasets.from_tonic(**splits, batch_size=8, timesteps=4, augmentation=["drop"])
    assert (theirs.name, theirs.input_shape, theirs.classes) == ("NMNIST", (4, 34, 34, 2), 10)
    for split in ("train", "test"):
        for a, b in zip(examples(getattr(ours, split)), examples(getattr(theirs, split))):
            np.testing.assert_array_equal(a, b)


def reading(tonic, peer):
    """`peer` with files instead of the members of its archive."""

    class NMNIST(peer):
        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            return tonic.io.read_mnist_file(self.data[index], self.dtype), self.targets[index]

    return NMNIST


@pytest.mark.once
def test_shd_is_as_our_own(tmp_path, tonic):
    spoken("shd", 20)(tmp_path)
    ours = datasets.load("shd", 8, data_dir=tmp_path, timesteps=5)
    splits = {}
    for split in ("train", "test"):
        splits[split] = tonics(tonic.datasets.SHD, [], [])  # tonic lists no labels
        splits[split].location_on_system = tmp_path
        splits[split].data_filename = f"shd_{split}.h5"
    theirs = datasets.from_tonic(**splits, batch_size=8, timesteps=5)
    assert (theirs.input_shape, theirs.classes) == ((5, 700), 20)
    for a, b in zip(examples(ours.test), examples(theirs.test)):
        np.testing.assert_array_equal(a, b)
    frames = tonic.transforms.ToFrame(sensor_size=(700, 1, 1), n_time_bins=3)
    for part in splits.values():
        part.transform = frames
    assert datasets.from_tonic(**splits).test[0][0].shape == (5, 3, 700)


@pytest.mark.once
@pytest.mark.parametrize("names", [("x", "y", "t", "p"), ("polarity", "timestamp", "y", "x")])
def test_events_of_any_kind(names):
    train = Recordings()
    train.names, train.kinds = names, ("i8", "u4", "u1", "f4")
    if names[0] == "x":
        train.kinds = ("u1", "i4", "f8", "i1")
    data = datasets.from_tonic(train, batch_size=3, timesteps=5)
    # The last tenth of each class, at least one, is held out.
    clips, labels = examples(data.test)
    assert sorted(labels.tolist()) == [0, 1, 2, 3] and len(data.train.labels) == 16
    for clip, label in zip(clips, labels):
        np.testing.assert_array_equal(clip, wanted_frames(16 + label))
    varied = datasets.from_tonic(
        train,
        timesteps=5,
        train_timesteps=3,
        augmentation=["flip", "mix_up"],
        one_hot=True,
        image_size=6,
        classes=7,
        workers=2,
    )
    clips, labels = varied.train[0]
    assert clips.shape == (16, 3, 6, 8, 2) and labels.shape == (16, 7)
    assert varied.input_shape == (None, 6, 8, 2) and varied.train.workers == 2
    timed = datasets.from_tonic(train, train, timesteps=5, duration=100_000)
    wanted = ev.time_frames(recording(0, (12, 16), 30), 5, (12, 16), 20_000, start=0)
    np.testing.assert_array_equal(timed.test[0][0][0], wanted)


@pytest.mark.once
@pytest.mark.parametrize("listed", [True, False])
def test_labels_of_any_kind(listed):
    words = Recordings(labels=("cat", "ant", "dog", "bee"), listed=listed)
    assert datasets.from_tonic(words, words).test.labels.tolist() == [2, 0, 3, 1] * 5
    far = Recordings(labels=np.array([5, 0, 2, 2]), listed=listed)
    data = datasets.from_tonic(far, far)
    assert data.classes == 6 and data.test.labels.tolist() == [5, 0, 2, 2] * 5
    if listed:
        far.target_transform = lambda label: label % 2
        assert datasets.from_tonic(far, far).test.labels.tolist() == [1, 0, 0, 0] * 5
    for labels, got in (([{}] * 4, "{}"), ([0.5] * 4, "0.5"), ([-1, 0, 1, 2], "-1")):
        with pytest.raises(TypeError, match=f"class numbers from 0, or names.*got {got}"):
            datasets.from_tonic(Recordings(labels=labels, listed=listed))
    with pytest.raises(ValueError, match="`classes`.*at least 4, got 3"):
        datasets.from_tonic(Recordings(), classes=3)


def test_transforms(tonic):
    def load(transform, **kwargs):
        train = Recordings(transform)
        return datasets.from_tonic(train, train, **kwargs)

    to_frame = tonic.transforms.ToFrame(sensor_size=(16, 12, 2), n_event_bins=5)
    data = load(to_frame, train_timesteps=2, augmentation=["shift"])
    assert data.input_shape == (None, 12, 16, 2)
    found, _ = data.test[0]
    assert found.dtype == np.float32 and found.shape == (20, 5, 12, 16, 2)
    np.testing.assert_array_equal(found[3], wanted_frames(3))
    assert data.train[0][0].shape == (20, 2, 12, 16, 2)
    # Of what remain events, our own frames are made.
    later = tonic.transforms.TimeAlignment()
    np.testing.assert_array_equal(load(later, timesteps=5).test[0][0][3], wanted_frames(3))
    for transform, kind, match in (
        (tonic.transforms.ToImage(sensor_size=(16, 12, 2)), TypeError, r"shape \(2, 12, 16\)"),
        (lambda events: "frames", TypeError, "array of <U6"),
    ):
        with pytest.raises(kind, match=match):
            load(transform)
    uneven = tonic.transforms.ToFrame(sensor_size=(16, 12, 2), time_window=40_000)
    with pytest.raises(ValueError, match=r"All frames should have the shape.*n_time_bins"):
        examples(load(uneven).test)
    with pytest.raises(ValueError, match="`timesteps`, .*5 of each recording"):
        load(to_frame, timesteps=4)
    with pytest.raises(ValueError, match="'jitter'.*'shift'"):
        load(to_frame, augmentation=["jitter"])


@pytest.mark.once
def test_parts_of_data_sets():
    class Part:
        def __init__(self, dataset, indices):
            self.dataset, self.indices = dataset, indices

        def __len__(self):
            return len(self.indices)

        def __getitem__(self, index):
            return self.dataset[self.indices[index]]

    whole = Recordings()
    train, test = Part(whole, range(1, 20)), Part(whole, [7, 2])
    clips, labels = datasets.from_tonic(train, test, timesteps=5).test[0]
    np.testing.assert_array_equal(clips, [wanted_frames(7), wanted_frames(2)])
    assert labels.tolist() == [3, 2]
    whole.sensor_size = None
    with pytest.raises(ValueError, match="no `sensor_size`: give `size`"):
        datasets.from_tonic(train, test)


@pytest.mark.once
def test_bad_data_sets():
    class Bad(Recordings):
        def __getitem__(self, index):
            return (*super().__getitem__(index), "more")

    with pytest.raises(TypeError, match="Example 0 of .* and a label, got tuple"):
        datasets.from_tonic(Bad())
    with pytest.raises(ValueError, match="has no examples"):
        datasets.from_tonic([])
    small = Recordings()
    with pytest.raises(ValueError, match=r"The recording .*outside of the size \(4, 16\)"):
        examples(datasets.from_tonic(small, small, size=(4, 16)).test)
