"""Data sets of event recordings by name, read from their folders, on any backend.

`RECORDINGS` has one row for each: how to find its recordings, how to read one, how to cut it into
frames. Recordings are read on demand; nothing is cached or written. The readers are in
`keras_snn.datasets.events`.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

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
# Letters of American Sign Language; j and z are movements.
LETTERS = "abcdefghiklmnopqrstuvwxy"
# Microseconds of a spoken word; the longest of SHD takes a little less.
WORD = 1_400_000
# Steps of a recording of ES-ImageNet.
STEPS = 8


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
        name: `"nmnist"`, `"ncaltech101"` (N-MNIST, N-Caltech101), `"dvs_gesture"` (DVS128
            Gesture), `"cifar10_dvs"`, `"asl_dvs"`, `"dvs_lip"`, `"ncars"` (N-CARS),
            `"es_imagenet"`, `"shd"` or `"ssc"` (Spiking Heidelberg Digits, Spiking Speech
            Commands).
        batch_size: Examples in a batch.
        seed: Seed of shuffling and variation, which depend only on it and the epoch.
        data_dir: Folder of the data set: the one with `Train` and `Test` (N-MNIST), the one with
            `accordion` and the other classes (N-Caltech101), `DvsGesture` with its `.aedat`,
            `.csv` and `.txt` files, the one with `airplane` to `truck` (CIFAR10-DVS), with `a` to
            `y` (ASL-DVS), with `train` and `test` (DVS-Lip), with `n-cars_train` and `n-cars_test`,
            with `trainlabel.txt`, `vallabel.txt`, `train` and `val` (ES-ImageNet), or with
            `shd_train.h5` and `shd_test.h5`.
        timesteps: Frames of a recording, T. All have equally many events; for SHD and SSC each
            lasts 1.4 s / T; ES-ImageNet's 8 steps are shared out among at most 8.
        train_timesteps: Number of frames that training draws at random; their order is kept (Fang
            et al.: 12 of 16). The default is all.
        variation: What is done to a recording in training, in this order: `"flip"` mirrors it with
            probability 1/2, `"jitter"` moves it by up to a tenth of the sensor (SHD and SSC: by up
            to 40 units), `"drop"` leaves out a share of the events that is drawn from 0 to 1/2.
            Digits, letters and gestures have no `"flip"`: mirrored digits are wrong, and left
            hands become right.
            Then, except for SHD and SSC, variations by `Preparation` of all frames alike:
            `"shift"`, `"erase"`, `"cutout"`, `"mix_up"`, `"cut_mix"`.
        workers: Number of threads that read.
        one_hot: Whether labels are one-hot vectors; mixed labels must be.
        image_size: Height that frames are shrunk to, each value the mean of a square of pixels;
            the sensor's height and width should be multiples of the squares' side. For SHD and SSC
            the number of units, each the sum of neighbours.

    Returns:
        A `Dataset`. Frames are `(T, height, width, 2)`, OFF and ON, or `(T, 700)`, units. In
        `input_shape` time is `None` where `train` and `test` differ in it. Held out are: the test
        sets of N-MNIST, DVS128 Gesture (recordings in `trials_to_test.txt`), DVS-Lip, N-CARS, SHD
        and SSC (whose `ssc_valid.h5` is not used), and ES-ImageNet's `val`; of CIFAR10-DVS and
        N-Caltech101, which have none, the last tenth of each class in the order of names as
        strings, as in Fang et al.; of ASL-DVS the last fifth (its paper draws a fifth).

    Raises:
        FileNotFoundError: If recordings are missing; the error says what to get, and where.
        ValueError: If an argument is invalid, or a file is damaged (also while batches are read);
            the error names the file and the byte.
        ImportError: If the extra `events` is needed and not installed.

    Source: Orchard et al. (2015), Amir et al. (2017), Li et al. (2017), Sironi et al. (2018), Bi et
        al. (2019), Cramer et al. (2020), Lin et al. (2021), Tan et al. (2022); frames and splits
        as in Fang et al. (2021) and SpikingJelly; 1.4 s as in Zenke's tutorials
        on SHD. Shifts by a tenth are about those of Li et al. (2022, 5 of 48 pixels), by 40 units
        those of Nowotny et al. (2022); dropping follows Gu et al. (2021), with shares of our own.

    Example:

    ```python
    data = load("dvs_gesture", 16, 0, "DvsGesture", timesteps=16, train_timesteps=12)
    model.fit(data.train, validation_data=data.test, shuffle=False)
    ```
    """
    row = RECORDINGS[check_choice("name", name, RECORDINGS)]
    return assemble(
        name,
        row._replace(read=checked(row.read, row.size)),
        functools.partial(_splits, row, data_dir),
        batch_size,
        seed,
        timesteps,
        train_timesteps,
        variation,
        workers,
        one_hot,
        image_size,
    )


def assemble(
    name,
    row,
    find,
    batch_size,
    seed,
    timesteps,
    train_timesteps=None,
    variation=(),
    workers=1,
    one_hot=False,
    image_size=None,
):
    """A data set of the recordings that `find` lists, with frames as `row` says; see `load`."""
    check_integer("batch_size", batch_size)
    check_integer("timesteps", timesteps)
    if row.most_frames is not None and timesteps > row.most_frames:
        raise ValueError(
            f"`timesteps` should be at most {row.most_frames} for {name!r}, got {timesteps}."
        )
    drawn = timesteps if train_timesteps is None else train_timesteps
    if check_integer("train_timesteps", drawn) > timesteps:
        raise ValueError(f"`train_timesteps` should be at most {timesteps}, got {drawn}.")
    of_frames = OF_FRAMES if row.size[0] > 1 else ()
    sides = row.size if row.size[0] > 1 else row.size[1:]
    shrink = 1 if image_size is None else sides[0] // check_integer("image_size", image_size)
    if image_size is not None and (
        shrink * image_size != sides[0] or any(side % shrink for side in sides)
    ):
        raise ValueError(
            f"Received an invalid value for argument `image_size`, expected the sensor's height "
            f"divided by a divisor of height and width, or the units by one of theirs, {sides} for "
            f"{name!r}, got {image_size}."
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

    def frames(recording):
        cut = row.frames(recording, timesteps, row.size)
        return cut if image_size is None else shrunk(cut, shrink)

    def vary(recording, generator):
        for kind in of_recordings:
            recording = VARIATIONS[kind](recording, row, generator)
        return events.random_steps(frames(recording), drawn, generator)

    def batches(examples, read, **kwargs):
        sources, labels = zip(*examples)
        kwargs |= {"prepare": prepare, "workers": workers}
        return FileBatches(sources, np.array(labels), batch_size, read, **kwargs)

    splits = find()
    train = batches(splits["train"], row.read, seed=seed, vary=vary)
    test = batches(splits["test"], lambda source: frames(row.read(source)))
    steps = timesteps if drawn == timesteps else None
    return Dataset(name, train, test, (steps, *frames(row.nothing).shape[1:]), row.classes)


def checked(read, size):
    """A function that reads as `read` does, and names a recording that has no, or bad, events."""

    def read_checked(source):
        recording = read(source)
        name = ", ".join(map(str, source)) if isinstance(source, tuple) else source
        try:
            recording = events.as_events(recording, size)
        except ValueError as error:
            raise ValueError(f"The recording {name}: {error}") from error
        if not len(recording.t):
            raise ValueError(f"The recording {name} has no events.")
        return recording

    return read_checked


def shrunk(frames, factor):
    """Means of squares of `factor` by `factor` pixels, of `(time, height, width, polarity)`.

    Of units, `(time, units)`, the sums of `factor` neighbours: spikes that one unit would have got.
    """
    if frames.ndim == 2:
        return frames.reshape(len(frames), -1, factor).sum(-1)
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


def _of_folders(names, pattern, parts):
    """A finder for a folder for each class, of which the last one of so many parts is held out."""

    def find(folder):
        listed = _by_class(names(folder), lambda name: _files(folder / name, pattern))
        return hold_out(listed, parts)

    return find


def _by_class(names, files):
    """`(path, label)` of the files of each class; `files` is a function of its name."""
    return [(path, label) for label, name in enumerate(names) for path in files(name)]


def hold_out(examples, parts):
    """Holds out the last one of so many parts of each class, at least one example."""
    classes = {}
    for source, label in examples:
        classes.setdefault(label, []).append((source, label))
    splits = {"train": [], "test": []}
    for members in classes.values():
        kept = len(members) - max(len(members) // parts, 1)
        splits["train"] += members[:kept]
        splits["test"] += members[kept:]
    return splits


def _folders(folder, count):
    """Names of the folders of so many classes; their order gives the labels."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._")
    if len(names) != count:
        raise FileNotFoundError(
            f"{folder} should have a folder for each of {count} classes, got {len(names)}."
        )
    return names


def _dvs_lip(folder):
    words = _folders(folder / "train", 100)
    if _folders(folder / "test", 100) != words:
        raise FileNotFoundError(
            f"train and test in {folder} should have folders of the same words."
        )

    def files(split):
        return lambda word: _files(folder / split / word, "*.npy")

    return {split: _by_class(words, files(split)) for split in ("train", "test")}


def _ncars(folder):
    def files(split):
        return lambda kind: _files(folder / f"n-cars_{split}", f"**/{kind}/*.dat")

    return {split: _by_class(("background", "cars"), files(split)) for split in ("train", "test")}


def _es_imagenet(folder):
    return {
        split: [_pictured(folder, part, line) for line in _lines(folder / f"{part}label.txt")]
        for split, part in (("train", "train"), ("test", "val"))
    }


def _pictured(folder, part, line):
    """`((path, size), label)` of a line in a list of labels of ES-ImageNet."""
    name, *numbers = line.split()
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise ValueError(
            f"{folder / part}label.txt: a line should be the name of a file, its class, height and "
            f"width, got {line!r}."
        )
    label, *size = map(int, numbers)
    return (folder / part / name, tuple(size)), label


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


def _speaker(source):
    recordings, index = source
    return recordings.speakers[index]


def _read_pictured(source):
    return events.read_es_imagenet(*source)


def by_time(recording, timesteps, size, duration=WORD):
    """Frames of units, `(T, units)`: they have one row, and one polarity."""
    frames = events.time_frames(recording, timesteps, size, duration / timesteps, start=0)
    return frames[:, 0].sum(-1)


def _by_step(recording, timesteps, size):
    return events.time_frames(recording, timesteps, size, STEPS / timesteps, start=0)


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


class Row(NamedTuple):
    find: Callable
    read: Callable
    frames: Callable
    size: tuple  # of the sensor, (height, width)
    classes: int
    shift: tuple  # largest one of "jitter", (rows, columns)
    variations: tuple
    get: str
    most_frames: int | None = None
    speaker: Callable | None = None  # of a source
    nothing: Any = events.Events(*(np.zeros(0, np.int64),) * 4)  # what `read` gives, but empty


_UNFLIPPED = ("jitter", "drop")
_FLIPPED = ("flip", *_UNFLIPPED)
_ZENKE = "from zenkelab.org/datasets (.zip or .gz) and unpack them there."

RECORDINGS = {
    "nmnist": Row(
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
    "dvs_gesture": Row(
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
    "cifar10_dvs": Row(
        _of_folders(lambda folder: CIFAR10, "*.aedat*", 10),
        events.read_aedat,
        events.count_frames,
        (128, 128),
        10,
        (12, 12),
        _FLIPPED,
        "Get airplane.zip to truck.zip of CIFAR10-DVS from figshare.com (article 4724671) and "
        "unpack them there: airplane/*.aedat to truck/*.aedat.",
    ),
    "ncaltech101": Row(
        _of_folders(lambda folder: _folders(folder, 101), "*.bin", 10),
        events.read_nmnist,
        events.count_frames,
        (180, 240),
        101,
        (18, 24),
        _FLIPPED,
        "Get Caltech101.zip of N-Caltech101 from garrickorchard.com/datasets/n-caltech101, unpack "
        "it, and give the folder Caltech101: accordion/*.bin to yin_yang/*.bin.",
    ),
    "asl_dvs": Row(
        _of_folders(lambda folder: LETTERS, "*.mat", 5),
        events.read_asl_dvs,
        events.count_frames,
        (180, 240),
        24,
        (18, 24),
        _UNFLIPPED,
        "Get ASL-DVS from github.com/PIX2NVS/NVS2Graph (ICCV2019_DVS_dataset) and unpack the "
        "archive of each letter there: a/*.mat to y/*.mat.",
    ),
    "dvs_lip": Row(
        _dvs_lip,
        events.read_dvs_lip,
        events.count_frames,
        (128, 128),
        100,
        (12, 12),
        _FLIPPED,
        "Get DVS-Lip.zip from sites.google.com/view/event-based-lipreading, unpack it, and give "
        "the folder DVS-Lip: train/accused/*.npy to test/young/*.npy.",
    ),
    "ncars": Row(
        _ncars,
        events.read_prophesee,
        events.count_frames,
        (100, 120),
        2,
        (10, 12),
        _FLIPPED,
        "Get Prophesee_Dataset_n_cars.zip of N-CARS from prophesee.ai/dataset-n-cars-download and "
        "unpack it, and in it n-cars_train.zip and n-cars_test.zip, each to a folder of its name, "
        "with cars/*.dat and background/*.dat in it.",
    ),
    "es_imagenet": Row(
        _es_imagenet,
        _read_pictured,
        _by_step,
        (224, 224),
        1000,
        (22, 22),
        _FLIPPED,
        "Get ES-imagenet-0.18 (.part01.rar to .part25.rar) from "
        "github.com/lyh983012/ES-imagenet-master, unpack it, and give the folder with "
        "trainlabel.txt, vallabel.txt, train and val.",
        STEPS,
    ),
    "shd": Row(
        _spoken("shd"),
        _read_spoken,
        by_time,
        (1, 700),
        20,
        (0, 40),
        _UNFLIPPED,
        f"Get shd_train.h5 and shd_test.h5 {_ZENKE}",
        speaker=_speaker,
    ),
    "ssc": Row(
        _spoken("ssc"),
        _read_spoken,
        by_time,
        (1, 700),
        35,
        (0, 40),
        _UNFLIPPED,
        f"Get ssc_train.h5 and ssc_test.h5 {_ZENKE}",
        speaker=_speaker,
    ),
}
