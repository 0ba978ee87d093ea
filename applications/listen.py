"""Runs a network on sound as it comes, and shows what it hears, and how late.

    python applications/listen.py --model_file=step.tflite --source=word.wav
    arecord -t raw -f S16_LE -c 1 -r 8000 | python applications/listen.py --model_file=m.keras

`--source` is a WAV file of 16 bits and one channel, paced as it was recorded, or `-` for the
samples alone on standard input (little-endian). They come in pieces of `--piece` milliseconds. As
soon as a spectrum's samples are there the network takes it, `--steps` of them a second, as in
training; at the end of each second its answer counts, and its states start anew. The spectra are
those of the data set `spoken_digits` but for their scale: training divides each clip by its own
mean and deviation, which nobody knows before its end. Here decibels are below the loudest value so
far, at least `--level`, and scaled by `--mean` and `--deviation`, those of the training data.
"""

import os
import sys
import time

import common
import numpy as np
import step_network
from absl import flags

from keras_snn.datasets.speech import MEL_BINS, StreamingMel, read_wav
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model_file", None, "A .tflite file of one step, or a .keras file.", required=True
)
flags.DEFINE_string("source", "-", "A WAV file, or - for standard input.")
flags.DEFINE_integer("rate", 8000, "Samples a second, as in training.", lower_bound=1000)
flags.DEFINE_integer("steps", 50, "Spectra, steps of the network, a second.", lower_bound=1)
flags.DEFINE_float("piece", 10.0, "Milliseconds of a piece.", lower_bound=1.0)
flags.DEFINE_float(
    "speed",
    1.0,
    "Speed of a WAV file, 1 as it was recorded; 0: as fast as the network.",
    lower_bound=0.0,
)
flags.DEFINE_float("level", 0.0, "Decibels of the loudest value that is expected at least.")
flags.DEFINE_float("mean", -60.6, "Mean of the training data, in decibels below the loudest.")
flags.DEFINE_float("deviation", 23.5, "Deviation of the training data, in decibels.", 1e-6)
flags.DEFINE_string("json", None, "File to write the answers and figures to, if any.")


def recording(samples, size):
    """Yields the pieces of a WAV file's samples when they are due."""
    start = time.monotonic()
    for end in range(size, len(samples) + size, size):
        if FLAGS.speed:
            due = start + min(end, len(samples)) / FLAGS.rate / FLAGS.speed
            time.sleep(max(0.0, due - time.monotonic()))
        yield samples[end - size : end]


def pipe(file, size):
    """Yields the pieces of samples that come through a pipe."""
    rest = b""
    while data := os.read(file, 2 * size - len(rest)):
        rest += data
        if len(rest) == 2 * size:
            yield np.frombuffer(rest, "<i2").astype("float32") / 2**15
            rest = b""
    if len(rest) % 2:
        print("The input ended in the middle of a sample.", file=sys.stderr)
    yield np.frombuffer(rest[: len(rest) // 2 * 2], "<i2").astype("float32") / 2**15


class Listener:
    """Spectra of sound, the network's outputs, and when they were there.

    Args:
        network: One of `step_network`, of one step.
    """

    def __init__(self, network):
        self.network = network
        self.mel = StreamingMel(FLAGS.rate, FLAGS.steps)
        self.loudest, self.steps = FLAGS.level, 0
        self.answers, self.scores, self.latencies = [], [], []

    def hear(self, piece):
        """Takes a piece of samples; gives the answers of the seconds that it completes."""
        arrived, answers = time.perf_counter(), []
        for spectrum in self.mel.push(piece):
            self.loudest = max(self.loudest, float(spectrum.max()))
            relative = np.maximum(spectrum - self.loudest, -80.0)
            scaled = ((relative - FLAGS.mean) / FLAGS.deviation).astype("float32")
            output = self.network(scaled[None])[0]
            self.latencies.append(1e3 * (time.perf_counter() - arrived))
            self.steps += 1
            if self.steps % FLAGS.steps == 0:
                answers.append(int(output.argmax()))
                self.scores.append(float(output.max()))
                self.loudest = FLAGS.level
                self.network.reset()
        self.answers += answers
        return answers

    def finish(self):
        """Silence up to the end of the second that has begun; gives its answer, if it has begun."""
        if self.answers and self.steps % FLAGS.steps == 0:
            return []
        last = (self.steps // FLAGS.steps + 1) * FLAGS.steps - 1
        return self.hear(np.zeros(self.mel.end_of(last) - self.mel.received, "float32"))

    def figures(self):
        """Answers and latencies, for `--json`."""
        spread = np.percentile(self.latencies, (50, 95, 100)).tolist() if self.latencies else []
        return {
            "steps": self.steps,
            "answers": self.answers,
            "scores": self.scores,
            "latency_ms": dict(zip(("median", "p95", "most"), spread)),
        }


def main(argv):
    """Listens, runs, shows."""
    if FLAGS.source == "-":
        common.refuse(["speed"], "samples of a pipe come when they come")
    if FLAGS.json:
        files.check_path(FLAGS.json, [".json"])
    size = round(FLAGS.piece / 1e3 * FLAGS.rate)
    samples = None if FLAGS.source == "-" else read_wav(FLAGS.source, FLAGS.rate)
    network = step_network.load(FLAGS.model_file, 1, "spectrum", (MEL_BINS,))
    network(np.zeros((1, MEL_BINS), "float32"))  # compiled before sound comes
    network.reset()
    listener = Listener(network)
    pieces = pipe(0, size) if samples is None else recording(samples, size)

    def show(answers):
        for answer in answers:
            place = listener.steps // FLAGS.steps
            print(
                f"second {place}: class {answer} ({listener.scores[-1]:.3g}), latency "
                f"{listener.latencies[-1]:.2f} ms",
                flush=True,
            )

    ended = "The sound ended"
    try:
        for piece in pieces:
            show(listener.hear(piece))
        show(listener.finish())
    except KeyboardInterrupt:
        ended = "Interrupted"
    figures = listener.figures()
    print(
        f"{ended} after {listener.steps} steps. Latency of a step, from its last sample: "
        + ", ".join(f"{name} {value:.2f}" for name, value in figures["latency_ms"].items())
        + f" ms; of {1e3 / FLAGS.steps:.0f} ms that a step lasts"
    )
    if FLAGS.json:
        common.write_json(FLAGS.json, figures)
        print(f"Wrote {FLAGS.json}")


if __name__ == "__main__":
    common.run(main, "listen")
