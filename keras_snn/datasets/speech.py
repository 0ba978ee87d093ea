"""Spoken words as sequences of mel spectra, from folders of WAV files; needs no TensorFlow.

Clips are cut or padded to one second; a step is a spectrum. Up to `KEPT` bytes of what is read, for
training and held out each, stay in memory: clips if they are varied, else their spectra.
"""

import functools
import io
import pathlib
import struct
import wave

import keras
import numpy as np
from keras import layers

from keras_snn.datasets.batches import Dataset, FileBatches
from keras_snn.utils.arguments import check_choice, check_integer, check_number

__all__ = ["MelSequence", "StreamingMel", "delta_spikes", "load", "read_wav"]

VARIATIONS = ("shift", "noise")
KEPT = 1 << 28


def load(name, batch_size, seed, data_dir, timesteps, augmentation=(), one_hot=False):
    """A data set of spoken words, see `keras_snn.datasets.load`.

    Args:
        name: `"spoken_digits"` (Free Spoken Digit Dataset, 3,000 clips at 8 kHz; recordings 0 to 4
            of each speaker and digit are held out, its official split), `"spoken_digits_jackson"`
            and those of the other speakers (that speaker is held out) or `"speech_commands"`
            (35 words at 16 kHz; `testing_list.txt` is held out, the validation words stay out).
        batch_size: Clips in a batch.
        seed: Seed of shuffling and variation.
        data_dir: The folder with the recordings: `0_jackson_0.wav`, ..., or a folder for each word.
        timesteps: Steps of a clip.
        augmentation: Any of `"shift"` (by up to a tenth of a second) and `"noise"`.
        one_hot: Whether labels are one-hot vectors.

    Returns:
        A `Dataset` of sequences `(timesteps, 40)`.
    """
    for variation in augmentation:
        check_choice("augmentation", variation, VARIATIONS)
    list_files, rate, what = SETS[name]
    if check_integer("timesteps", timesteps) > rate:
        raise ValueError(f"`timesteps` should be at most {rate}, got {timesteps}.")
    if data_dir is None or not pathlib.Path(data_dir).is_dir():
        raise FileNotFoundError(f"{name} needs `data_dir`, got {data_dir!r}. {what}")
    (train, train_labels), (test, test_labels) = list_files(pathlib.Path(data_dir))
    if not train or not test:
        raise FileNotFoundError(f"There are no recordings of {name} in {data_dir}. {what}")

    def read(path):
        return fitted(read_wav(path, rate), rate)

    def vary(clip, generator):
        return varied(clip, rate, augmentation, generator)

    def spectra(path):
        return prepare(read(path)[None], None)[0][0]

    prepare = MelSequence(rate, timesteps)
    variation = {"read": read, "vary": vary, "prepare": prepare} if augmentation else {}
    classes = max([*train_labels, *test_labels]) + 1
    if one_hot:
        vectors = np.eye(classes, dtype="float32")
        train_labels, test_labels = vectors[train_labels], vectors[test_labels]
    return Dataset(
        name,
        FileBatches(
            train, train_labels, batch_size, seed=seed, keep=KEPT, **{"read": spectra} | variation
        ),
        FileBatches(test, test_labels, batch_size, spectra, keep=KEPT),
        (timesteps, MEL_BINS),
        classes,
    )


def spoken_digits(folder, held_out=None):
    """Paths and labels for training and held out, of `digit_speaker_number.wav`.

    Held out are the recordings of one speaker, or by default the first five of each.
    """
    parts = ([], []), ([], [])
    for path in sorted(folder.glob("[0-9]_*_*.wav")):
        digit, *_, number = path.stem.split("_")
        if not number.isdecimal():
            raise ValueError(f"{path} should be named digit_speaker_number.wav.")
        paths, labels = parts[int(number) < 5 if held_out is None else speaker(path) == held_out]
        paths.append(path)
        labels.append(int(digit))
    return parts


def speaker(path):
    """The speaker of a spoken digit."""
    return "_".join(path.stem.split("_")[1:-1])


def speech_commands(folder):
    """Paths and labels for training and held out, of `word/clip.wav`."""
    held = {
        name: set(lines.read_text(errors="replace").split())
        if (lines := folder / f"{name}_list.txt").is_file()
        else set()
        for name in ("testing", "validation")
    }
    words = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._")
    parts = ([], []), ([], [])
    for label, word in enumerate(words):
        for path in sorted((folder / word).glob("*.wav")):
            clip = f"{word}/{path.name}"
            if clip not in held["validation"]:
                paths, labels = parts[clip in held["testing"]]
                paths.append(path)
                labels.append(label)
    return parts


DIGITS = "Get github.com/Jakobovski/free-spoken-digit-dataset and give its folder `recordings`."
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
# How to list the files, samples a second, what to get.
SETS = {
    "spoken_digits": (spoken_digits, 8000, DIGITS),
    **{
        f"spoken_digits_{name}": (functools.partial(spoken_digits, held_out=name), 8000, DIGITS)
        for name in SPEAKERS
    },
    "speech_commands": (
        speech_commands,
        16000,
        "Get speech_commands_v0.02.tar.gz (Warden, 2018), unpack it and give that folder.",
    ),
}


def read_wav(path, rate):
    """The samples of a WAV file, 16 bits mono.

    Args:
        path: The file.
        rate: Samples a second that it must have.

    Returns:
        float32 samples in [-1, 1).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such WAV file, is cut or empty; with the byte where.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    data = path.read_bytes()
    stream = io.BytesIO(data)
    try:
        with wave.open(stream) as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            frames = file.getnframes()
            samples = file.readframes(frames)
    except (EOFError, RuntimeError, struct.error, wave.Error) as error:
        raise ValueError(
            f"{path} is no WAV file, or is damaged, at byte {stream.tell()}: {error!r}"
        ) from error
    if kind != (1, 2, rate):
        raise ValueError(
            f"{path} should have one channel of 16 bits at {rate} Hz, got {kind[0]} of "
            f"{8 * kind[1]} bits at {kind[2]} Hz."
        )
    if len(samples) < 2 * frames:
        raise ValueError(
            f"{path} is cut: it says {2 * frames} bytes of samples, {len(samples)} are there, at "
            f"byte {len(data)}."
        )
    if not frames:
        raise ValueError(f"{path} has no samples, at byte {stream.tell()}.")
    return np.frombuffer(samples, "<i2").astype("float32") / 2**15


def fitted(clip, length):
    """The clip cut or padded to `length` samples, its middle in the middle."""
    spare = length - len(clip)
    if spare < 0:
        return clip[-spare // 2 :][:length]
    return np.pad(clip, (spare // 2, spare - spare // 2))


def varied(clip, rate, augmentation, generator):
    """A clip moved in time, with noise of up to a twentieth of its largest value."""
    if "shift" in augmentation:
        move = int(generator.integers(-rate // 10, rate // 10 + 1))
        clip = np.roll(np.pad(clip, rate // 10), move)[rate // 10 : -(rate // 10)]
    if "noise" in augmentation:
        size = generator.uniform(0, 0.05) * np.abs(clip).max()
        clip = clip + (size * generator.standard_normal(len(clip))).astype("float32")
    return clip.astype("float32")


MEL_BINS = 40


class MelSequence:
    """Clips of a second as sequences of log-mel spectra, each clip of mean 0 and deviation 1.

    Spectra are those of `keras.layers.MelSpectrogram`, but for the floor 80 dB below the loudest
    value: that is one of the clip here, and of the batch there.

    Args:
        rate: Samples a second.
        timesteps: Spectra of a clip, of 32 ms around times that divide the second evenly.

    Call arguments:
        clips: `(batch, rate)`.
        labels: Passed on.
        seed: Not used.

    Example:

    >>> sequences, _ = MelSequence(8000, 50)(np.random.default_rng(0).normal(size=(2, 8000)), None)
    >>> sequences.shape
    (2, 50, 40)
    """

    def __init__(self, rate, timesteps):
        length = rate * 4 // 125  # 256 or 512 samples
        self.samples = (np.arange(timesteps) * rate // timesteps)[:, None] + np.arange(length)
        self.window = np.hanning(length + 1)[:-1].astype("float32")
        mel = layers.MelSpectrogram(dtype="float32").linear_to_mel_weight_matrix(
            MEL_BINS, length // 2 + 1, rate, lower_edge_hertz=20.0, upper_edge_hertz=rate / 2
        )
        self.mel = keras.ops.convert_to_numpy(mel)

    def __call__(self, clips, labels, seed=None):
        side = len(self.window) // 2
        clips = np.pad(np.asarray(clips, "float32"), ((0, 0), (side, side)), mode="reflect")
        x = self.decibels(clips[:, self.samples])
        x = np.maximum(x, x.max((1, 2), keepdims=True) - 80)
        mean, std = x.mean((1, 2), keepdims=True), x.std((1, 2), keepdims=True)
        return ((x - mean) / (std + 1e-3)).astype("float32"), labels

    def decibels(self, samples):
        """Log-mel spectra `(..., 40)` of windows `(..., samples)`."""
        power = np.abs(np.fft.rfft(samples * self.window)) ** 2
        return 10 * np.log10(np.maximum(power @ self.mel, 1e-10))


class StreamingMel:
    """The spectra of `MelSequence` from sound that comes in pieces, in decibels, not normalised.

    Before the first sample is silence.

    Args:
        rate: Samples a second.
        timesteps: Spectra of a second.

    Example:

    >>> mel = StreamingMel(8000, 50)
    >>> [len(mel.push(np.zeros(80))) for _ in range(4)]  # 16 ms must follow the middle of a window
    [0, 1, 0, 1]
    """

    def __init__(self, rate, timesteps):
        self.mel = MelSequence(rate, timesteps)
        self.rate, self.timesteps = rate, timesteps
        self.received, self.count = 0, 0  # samples, spectra
        self._start = -(len(self.mel.window) // 2)  # of what is kept
        self._kept = np.zeros(-self._start, "float32")

    def end_of(self, number):
        """Samples that must have come for the spectrum of this number, from 0."""
        second, step = divmod(number, self.timesteps)
        return second * self.rate + step * self.rate // self.timesteps + len(self.mel.window) // 2

    def push(self, samples):
        """The spectra that these samples complete, `(spectra, 40)`.

        Args:
            samples: `(samples,)`, any number of them, values in [-1, 1).
        """
        self._kept = np.concatenate([self._kept, np.asarray(samples, "float32")])
        self.received += len(samples)
        windows, length = [], len(self.mel.window)
        while (end := self.end_of(self.count)) <= self.received:
            windows.append(self._kept[end - length - self._start :][:length])
            self.count += 1
        spare = max(0, self.end_of(self.count) - length - self._start)
        self._kept, self._start = self._kept[spare:], self._start + spare
        return self.mel.decibels(np.stack(windows)) if windows else np.zeros((0, MEL_BINS))


def delta_spikes(sequences: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Delta coding of spectra: spikes where a band rises or falls, as a silicon cochlea's events.

    Each band keeps the level that its spikes have told. A step whose value is at least `threshold`
    above it gives an up spike and moves the level up by `threshold`; below it alike, down. One
    spike a step at most: the level catches up with a fast change over several steps.

    Args:
        sequences: `(batch, time, bands)`, such as those of `MelSequence`. The level starts at the
            first step.
        threshold: Change that a spike stands for, above 0.

    Returns:
        0 and 1, float32, `(batch, time, 2 * bands)`: up spikes of all bands, then down spikes.

    Raises:
        ValueError: If the threshold is not above 0 or the sequences have another rank.

    Source: our reading of send-on-delta sampling (Miskowicz, 2006).

    Example:

    >>> x = np.array([0.0, 0.6, 1.5, 1.5, 0.4])[None, :, None]
    >>> delta_spikes(x, 0.5)[0].tolist()
    [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    check_number("threshold", threshold, above=0)
    x = np.asarray(sequences)
    if x.ndim != 3 or not x.shape[1]:
        raise ValueError(f"`sequences` should be (batch, time, bands), got shape {x.shape}.")
    level, spikes = x[:, 0].astype("float64"), np.zeros((*x.shape[:2], 2, x.shape[2]), "float32")
    for step in range(x.shape[1]):
        up, down = x[:, step] - level >= threshold, level - x[:, step] >= threshold
        spikes[:, step, 0], spikes[:, step, 1] = up, down
        level += threshold * (up.astype(float) - down)
    return spikes.reshape(*x.shape[:2], -1)
