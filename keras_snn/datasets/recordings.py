"""Data sets of event recordings by name, read from their folders, on any backend.

`RECORDINGS` has one row for each: how to find its recordings, how to read one, how to cut it into
frames. Recordings are read on demand; nothing is cached or written. The readers are in
`keras_snn.datasets.events`.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_snn.datasets import events
from keras_snn.datasets.batches import Dataset, FileBatches
from keras_snn.datasets.preparation import Preparation
from keras_snn.utils.arguments import check_choice, check_integer

__all__ = ["RECORDINGS", "load"]

CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# Microseconds of a spoken word; the longest of SHD takes a little less.
WORD = 1_400_000


def load(
    name,
    batch_size,
    seed,
    data_dir,
    timesteps,
    train_timesteps=None,
    variation=(),
    workers=1,
    one_hot=False,
    image_size=None,
):
    """A data set of recordings by name, as frames of counts of events.

    Args:
        name: `"nmnist"`, `"dvs_gesture"` (DVS128 Gesture), `"cifar10_dvs"`, `"shd"` or `"ssc"`
            (Spiking Heidelberg Digits, Spiking Speech Commands).
        batch_size: Examples in a batch.
        seed: Seed of shuffling and variation, which depend only on it and the epoch.
        data_dir: Folder of the data set: the one with `Train` and `Test` (N-MNIST), `DvsGesture`
            with its `.aedat`, `.csv` and `.txt` files, the one with `airplane` to `truck`
            (CIFAR10-DVS), or the one with `shd_train.h5` and `shd_test.h5`.
        timesteps: Frames of a recording, T. All have equally many events; for SHD and SSC each
            lasts 1.4 s / T.
        train_timesteps: Number of frames that training draws at random; their order is kept (Fang
            et al.: 12 of 16). The default is all.
        variation: What is done to a recording in training, in this order: `"flip"` mirrors it with
            probability 1/2, `"jitter"` moves it by up to a tenth of the sensor (SHD and SSC: by up
            to 40 units), `"drop"` leaves out a share of the events that is drawn from 0 to 1/2.
            Only CIFAR10-DVS has `"flip"`: mirrored digits are wrong, and left hands become right.
            Then, except for SHD and SSC, variations by `Preparation` of all frames alike:
            `"shift"`, `"erase"`, `"cutout"`, `"mix_up"`, `"cut_mix"`.
        workers: Number of threads that read.
        one_hot: Whether labels are one-hot vectors; mixed labels must be.
        image_size: Height and width that frames are shrunk to, each value the mean of a square of
            pixels; a divisor of the sensor's.

    Returns:
        A `Dataset`. Frames are `(T, height, width, 2)`, OFF and ON, or `(T, 700)`, units. In
        `input_shape` time is `None` where `train` and `test` differ in it. Held out are: the test
        sets of N-MNIST, DVS128 Gesture (recordings in `trials_to_test.txt`), SHD and SSC
        (whose `ssc_valid.h5` is not used); of CIFAR10-DVS, which has none, the last tenth of each
        class in the order of names as strings, as in Fang et al.

    Raises:
        FileNotFoundError: If recordings are missing; the error says what to get, and where.
        ValueError: If an argument is invalid, or a file is damaged (also while batches are read);
            the error names the file and the byte.
        ImportError: If the extra `events` is needed and not installed.

    Source: Orchard et al. (2015), Amir et al. (2017), Li et al. (2017), Cramer et al. (2020);
        frames and splits as in Fang et al. (2021) and SpikingJelly; 1.4 s as in Zenke's tutorials
        on SHD. Shifts by a tenth are about those of Li et al. (2022, 5 of 48 pixels), by 40 units
        those of Nowotny et al. (2022); dropping follows Gu et al. (2021), with shares of our own.

    Example:

    ```python
    data = load("dvs_gesture", 16, 0, "DvsGesture", timesteps=16, train_timesteps=12)
    model.fit(data.train, validation_data=data.test, shuffle=False)
    ```
    """
    row = RECORDINGS[check_choice("name", name, RECORDINGS)]
    check_integer("batch_size", batch_size)
    check_integer("timesteps", timesteps)
    drawn = timesteps if train_timesteps is None else train_timesteps
    if check_integer("train_timesteps", drawn) > timesteps:
        raise ValueError(f"`train_timesteps` should be at most {timesteps}, got {drawn}.")
    of_frames = OF_FRAMES if row.size[0] > 1 else ()
    shrink = 1 if image_size is None else row.size[0] // check_integer("image_size", image_size)
    if image_size is not None and row.size != (shrink * image_size,) * 2:
        raise ValueError(
            f"Received an invalid value for argument `image_size`, expected a divisor of the "
            f"sensor's height and width, {row.size} for {name!r}, got {image_size}."
        )
    for kind in variation:
        if kind not in (*row.variations, *of_frames):
            raise ValueError(
                f"Received an invalid variation {kind!r} for the data set {name!r}, expected any "
                f"of {(*row.variations, *of_frames)}."
            )
    of_recordings = [kind for kind in variation if kind in row.variations]
    of_frames = [kind for kind in variation if kind in of_frames]
    prepare = None
    if of_frames or one_hot:
        prepare = Preparation(None, None, of_frames, row.classes if one_hot else None)

    def read(source):
        recording = row.read(source)
        name = ", ".join(map(str, source)) if isinstance(source, tuple) else source
        if not len(recording.t):
            raise ValueError(f"The recording {name} has no events.")
        try:
            return events.as_events(recording, row.size)
        except ValueError as error:
            raise ValueError(f"The recording {name}: {error}") from error

    def frames(recording):
        cut = row.frames(recording, timesteps, row.size)
        return cut if image_size is None else _shrunk(cut, shrink)

    def vary(recording, generator):
        for kind in of_recordings:
            recording = VARIATIONS[kind](recording, row, generator)
        return events.random_steps(frames(recording), drawn, generator)

    def batches(examples, read, **kwargs):
        sources, labels = zip(*examples)
        kwargs |= {"prepare": prepare, "workers": workers}
        return FileBatches(sources, np.array(labels), batch_size, read, **kwargs)

    splits = _splits(row, data_dir)
    train = batches(splits["train"], read, seed=seed, vary=vary)
    test = batches(splits["test"], lambda source: frames(read(source)))
    nothing = events.Events(*(np.zeros(0, np.int64),) * 4)
    steps = timesteps if drawn == timesteps else None
    return Dataset(name, train, test, (steps, *frames(nothing).shape[1:]), row.classes)


def _shrunk(frames, factor):
    """Means of squares of `factor` by `factor` pixels, of `(time, height, width, polarity)`."""
    time, height, width, polarities = frames.shape
    squares = (time, height // factor, factor, width // factor, factor, polarities)
    return frames.reshape(squares).mean((2, 4), dtype="float32")


def _splits(row, data_dir):
    if data_dir is None:
        raise ValueError(f"Recordings need `data_dir`, the folder that they are in. {row.get}")
    folder = pathlib.Path(data_dir)
    try:
        splits = row.find(folder)
        for split, examples in splits.items():
            if not examples:
                raise FileNotFoundError(f"There are no recordings to {split} with in {folder}.")
            if (largest := max(label for _, label in examples)) >= row.classes:
                raise ValueError(
                    f"Labels to {split} with in {folder} should be below {row.classes}, got "
                    f"{largest}."
                )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} {row.get}") from error
    return splits


# Finders: from a folder to sources and labels, `{"train": [(source, label), ...], "test": ...}`.


def _files(folder, pattern):
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise FileNotFoundError(f"There are no recordings {folder / pattern}.")
    return paths


def _file(path):
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    return path


def _lines(path):
    text = _file(path).read_text(errors="replace")
    return [line for line in map(str.strip, text.splitlines()) if line]


def _nmnist(folder):
    return {
        split.lower(): [(p, int(p.parent.name)) for p in _files(folder / split, "[0-9]/*.bin")]
        for split in ("Train", "Test")
    }


def _dvs_gesture(folder):
    return {
        split: [
            gesture
            for name in _lines(folder / f"trials_to_{split}.txt")
            for gesture in _gestures(_file(folder / name))
        ]
        for split in ("train", "test")
    }


def _gestures(path):
    """The gestures of a recording, `((path, start, end), label)`, from the table beside it."""
    table = path.with_name(f"{path.stem}_labels.csv")
    for line in _lines(table)[1:]:
        try:
            kind, start, end = map(int, line.split(","))
        except ValueError:
            kind = start = end = 0
        if not (1 <= kind <= 11 and 0 <= start < end):
            raise ValueError(
                f"{table}: a line should be class,startTime_usec,endTime_usec with a class from 1 "
                f"to 11 and a start before the end, got {line!r}."
            )
        yield (path, start, end), kind - 1


def _cifar10_dvs(folder):
    splits = {"train": [], "test": []}
    for label, name in enumerate(CIFAR10):
        paths = _files(folder / name, "*.aedat*")
        kept = len(paths) - max(len(paths) // 10, 1)
        splits["train"] += [(path, label) for path in paths[:kept]]
        splits["test"] += [(path, label) for path in paths[kept:]]
    return splits


def _spoken(name):
    def find(folder):
        splits = {}
        for split in ("train", "test"):
            recordings, labels = events.read_shd(_file(folder / f"{name}_{split}.h5"))
            sources = [(recordings, index) for index in range(len(recordings))]
            splits[split] = list(zip(sources, labels.tolist()))
        return splits

    return find


# Readers, and frames of what they read.


def _read_gesture(source):
    return events.read_aedat(*source)


def _read_spoken(source):
    recordings, index = source
    return recordings[index]


def _by_time(recording, timesteps, size):
    """Frames of units, `(T, units)`: they have one row and one polarity."""
    return events.time_frames(recording, timesteps, size, WORD / timesteps, start=0)[:, 0, :, 1]


# Variations of recordings, by name.


def _flip(recording, row, generator):
    return events.flip(recording, row.size[1]) if generator.random() < 0.5 else recording


def _jitter(recording, row, generator):
    return events.jitter(recording, row.size, row.shift, generator)


def _drop(recording, row, generator):
    return events.drop_events(recording, generator.uniform(0, 0.5), generator)


VARIATIONS = {"flip": _flip, "jitter": _jitter, "drop": _drop}
# Variations of clips of maps, by `Preparation`.
OF_FRAMES = ("shift", "erase", "cutout", "mix_up", "cut_mix")


class _Row(NamedTuple):
    find: Callable
    read: Callable
    frames: Callable
    size: tuple  # of the sensor, (height, width)
    classes: int
    shift: tuple  # largest one of "jitter", (rows, columns)
    variations: tuple
    get: str


_UNFLIPPED = ("jitter", "drop")
_ZENKE = "from zenkelab.org/datasets (.zip or .gz) and unpack them there."

RECORDINGS = {
    "nmnist": _Row(
        _nmnist,
        events.read_nmnist,
        events.count_frames,
        (34, 34),
        10,
        (3, 3),
        _UNFLIPPED,
        "Get N-MNIST from garrickorchard.com/datasets/n-mnist and unpack Train.zip and Test.zip "
        "there: Train/0/*.bin to Test/9/*.bin.",
    ),
    "dvs_gesture": _Row(
        _dvs_gesture,
        _read_gesture,
        events.count_frames,
        (128, 128),
        11,
        (12, 12),
        _UNFLIPPED,
        "Get DvsGesture.tar.gz of DVS128 Gesture from research.ibm.com/dvsgesture, unpack it, and "
        "give the folder DvsGesture.",
    ),
    "cifar10_dvs": _Row(
        _cifar10_dvs,
        events.read_aedat,
        events.count_frames,
        (128, 128),
        10,
        (12, 12),
        ("flip", *_UNFLIPPED),
        "Get airplane.zip to truck.zip of CIFAR10-DVS from figshare.com (article 4724671) and "
        "unpack them there: airplane/*.aedat to truck/*.aedat.",
    ),
    "shd": _Row(
        _spoken("shd"),
        _read_spoken,
        _by_time,
        (1, 700),
        20,
        (0, 40),
        _UNFLIPPED,
        f"Get shd_train.h5 and shd_test.h5 {_ZENKE}",
    ),
    "ssc": _Row(
        _spoken("ssc"),
        _read_spoken,
        _by_time,
        (1, 700),
        35,
        (0, 40),
        _UNFLIPPED,
        f"Get ssc_train.h5 and ssc_test.h5 {_ZENKE}",
    ),
}
