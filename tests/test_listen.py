"""The program that runs a network on sound as it comes, and the spectra that it hears."""

import json
import os
import threading
import wave

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers
from test_project import check_refusals, in_a_process, program, run_program

from keras_snn import export
from keras_snn import layers as snn
from keras_snn.datasets import speech

pytestmark = pytest.mark.once
RATE, STEPS = 8000, 50


def sound(seconds=1.0, seed=0):
    """16-bit samples: tones with noise, silent at both ends."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    x = 0.3 * np.sin(2 * np.pi * (300 + 900 * t) * t) + 0.02 * rng.normal(size=len(t))
    x[:200] = x[-200:] = 0
    return (x * 2**15).astype("<i2")


@pytest.mark.parametrize("sizes", [[80], [1], [333, 7, 4000], [8000]])
def test_spectra_of_pieces_are_those_of_the_clip(sizes):
    clip = sound().astype("float32") / 2**15
    mel, found, place = speech.StreamingMel(RATE, STEPS), [], 0
    for turn in range(len(clip)):
        size = sizes[turn % len(sizes)]
        found.append(mel.push(clip[place : place + size]))
        place += size
        if place >= len(clip):
            break
    x = np.concatenate(found)
    assert x.shape == (STEPS, 40) and mel.received == RATE and mel.count == STEPS
    x = np.maximum(x, x.max() - 80)
    expected, _ = speech.MelSequence(RATE, STEPS)(clip[None], None)
    np.testing.assert_allclose((x - x.mean()) / (x.std() + 1e-3), expected[0], atol=2e-5)
    # The next second goes on where the first ended.
    assert len(mel.push(np.zeros(128))) == 1 and len(mel.push(np.zeros(159))) == 0


def test_delta_coding():
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(0, 0.2, (3, 40, 5)), axis=1)
    spikes = speech.delta_spikes(x, 0.25)
    assert spikes.shape == (3, 40, 10) and set(np.unique(spikes)) == {0, 1}
    for clip in range(3):  # by hand, one band at a time
        for band in range(5):
            level = x[clip, 0, band]
            for step in range(40):
                change = x[clip, step, band] - level
                sign = int(change >= 0.25) - int(-change >= 0.25)
                assert spikes[clip, step, band] == (sign == 1)
                assert spikes[clip, step, 5 + band] == (sign == -1)
                level += 0.25 * sign
    # Where no step changes by more than a threshold, the level stays within one.
    slow = np.sin(np.linspace(0, 9, 200))[None, :, None]
    up, down = np.moveaxis(speech.delta_spikes(slow, 0.1), -1, 0)
    assert np.abs(slow[..., 0] - 0.1 * np.cumsum(up - down, axis=1)).max() < 0.1
    with pytest.raises(ValueError, match="`threshold`.*above 0"):
        speech.delta_spikes(x, 0)
    with pytest.raises(ValueError, match=r"got shape \(40, 5\)"):
        speech.delta_spikes(x[0])


def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((None, 40))
    x = snn.LIF()(layers.Dense(12, kernel_initializer="glorot_normal")(x))
    return keras.Model(inputs, snn.MeanOverTime()(layers.Dense(4)(x)))


def write_wav(path, samples, rate=RATE):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a file of one step, and a WAV file of 1.3 seconds."""
    folder = tmp_path_factory.mktemp("listen")
    model = network()
    model.save(folder / "model.keras")
    export.to_tflite(model, folder / "step.tflite", "step", timesteps=STEPS)
    write_wav(folder / "sound.wav", sound(1.3))
    return folder


def expected(level=-10.0, mean=-50.0, deviation=20.0):
    """The answers of both seconds, by the clip as a whole."""
    clip = np.pad(sound(1.3).astype("float32") / 2**15, (0, RATE))
    spectra = speech.StreamingMel(RATE, STEPS).push(clip)[: 2 * STEPS].reshape(2, STEPS, 40)
    loudest = np.maximum(np.maximum.accumulate(spectra.max(-1), axis=1), level)[..., None]
    x = (np.maximum(spectra - loudest, -80) - mean) / deviation
    outputs = to_numpy(network()(x.astype("float32")))
    return outputs.argmax(-1).tolist(), outputs.max(-1)


SCALE = ("--level=-10", "--mean=-50", "--deviation=20")


@pytest.mark.parametrize("name", ["step.tflite", "model.keras"])
def test_a_recording_gets_the_answers_of_the_whole_clip(folder, name):
    path = folder / "figures.json"
    found = program(
        *("listen", f"--model_file={folder / name}", f"--source={folder / 'sound.wav'}"),
        *("--speed=0", f"--json={path}", *SCALE),
    )
    assert found.returncode == 0, found.stderr[-2000:]
    read = json.loads(path.read_text())
    answers, scores = expected()
    assert read["answers"] == answers and read["steps"] == 2 * STEPS
    np.testing.assert_allclose(read["scores"], scores, rtol=1e-4, atol=1e-5)
    assert "Latency of a step" in found.stdout and 0 < read["latency_ms"]["median"] < 1000


def with_input(argv, data):
    """Runs the program with a pipe as its standard input."""
    inside, outside = os.pipe()
    os.dup2(inside, 0)
    writer = os.fdopen(outside, "wb")
    threading.Thread(target=lambda: (writer.write(data), writer.close()), daemon=True).start()
    run_program(*argv)


def test_a_pipe_that_ends_in_the_middle_of_a_sample(folder):
    path = folder / "piped.json"
    argv = ["applications/listen.py", f"--model_file={folder / 'step.tflite'}", f"--json={path}"]
    found = in_a_process(with_input, [*argv, *SCALE, "--piece=7"], sound(1.3).tobytes() + b"\1")
    assert found.returncode == 0, found.stderr[-2000:]
    assert json.loads(path.read_text())["answers"] == expected()[0]
    assert "in the middle of a sample" in found.stderr


REFUSED = [
    (["--speed=2"], "samples of a pipe come when they come"),
    (["--source=missing.wav"], "There is no file missing.wav"),
    (["--source=fast.wav"], "one channel of 16 bits at 8000 Hz, got 1 of 16 bits at 16000 Hz"),
    (["--source=sound.wav", "--json=a.txt"], "a.txt"),
    (["--source=sound.wav", "--model_file=images.keras"], "should read sequences (time, 40)"),
    (["--source=sound.wav", "--model_file=end.keras"], "no readout over time"),
]


def test_refusals(folder):
    write_wav(folder / "fast.wav", sound(), 16000)
    images = keras.Input((4, 4, 1))
    keras.Model(images, layers.Dense(2)(layers.Flatten()(images))).save(folder / "images.keras")
    inputs = keras.Input((None, 40))
    keras.Model(inputs, snn.LIF()(inputs)).save(folder / "end.keras")
    check_refusals("listen", folder, REFUSED, "--model_file=model.keras")
