"""Runs a network on events as they come, and shows what it sees, how late, and what was dropped.

    python applications/stream.py --model_file=step.tflite --source=recording.aedat4 --speed=4
    camera | python applications/stream.py --model_file=model.keras --source=-
    python applications/stream.py --model_file=step.tflite --source=udp://127.0.0.1:9000

`--source` is a recording that `keras_snn.events` reads, paced as it was recorded; a named pipe, or
`-` for standard input; or a port for UDP. Pipes and datagrams hold events of 8 bytes, as `.dat`
files of Prophesee's cameras do: little-endian, 32 bits of microseconds, then 14 bits of column, 14
of row, 4 of polarity. An empty datagram ends a stream.

A reader cuts the events into steps of `--step` microseconds, by their own times; the network runs
them. What it can't run in time is dropped, oldest first, and counted. Ctrl-C ends at once.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import queue
import socket
import stat
import struct
import sys
import threading
import time
import urllib.parse

import common
import numpy as np
import step_network
from absl import app, flags

from keras_snn import events
from keras_snn.datasets.events.files import joined, unwrapped
from keras_snn.datasets.events.prophesee import DAT_EVENT, dat_events
from keras_snn.datasets.recordings import shrunk
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model_file", None, "A .tflite file of one step, or a .keras file.", required=True
)
flags.DEFINE_string(
    "source", None, "A recording, a named pipe, -, or udp://HOST:PORT.", required=True
)
flags.DEFINE_float(
    "speed",
    1.0,
    "Speed of a recording, 1 as it was recorded; 0: as fast as the network, nothing is dropped "
    "(also of pipes: who writes waits).",
    lower_bound=0,
)
flags.DEFINE_integer("step", 10_000, "Microseconds of a step.", lower_bound=1)
flags.DEFINE_enum("encoding", "frames", ["frames", "voxel_grid"], "What a step's events become.")
flags.DEFINE_integer("steps", 1, "Steps cut at a time: the bins of a voxel grid.", lower_bound=1)
flags.DEFINE_integer("reset_every", 0, "Steps after which the states start anew; 0: never.", 0)
flags.DEFINE_list("sensor", None, "HEIGHT,WIDTH of the camera (default: the network's).")
flags.DEFINE_integer("queue", 64, "Windows that wait for the network at most.", lower_bound=1)
flags.DEFINE_float("every", 0.5, "Seconds between two lines of the view.", lower_bound=0)
flags.DEFINE_string("json", None, "File to write the figures to, if any.")

READERS = {
    ".aedat": events.read_aedat,
    ".aedat4": events.read_aedat,
    ".bin": events.read_nmnist,
    ".dat": events.read_prophesee,
    ".mat": events.read_asl_dvs,
    ".npy": events.read_dvs_lip,
    ".raw": events.read_prophesee,
}
# Microseconds that a chunk's times go back by where the camera's clock was set back.
RESTART = 1_000_000
# Linux's option, and the kind of message, that tell how many datagrams a socket has lost.
SO_RXQ_OVFL = 40
PACE = 0.05  # seconds at which the reader looks whether the program ends


@dataclasses.dataclass
class Counts:
    """What became of all events."""

    events: int = 0  # received, with all of these but the last two
    outside_events: int = 0  # of the sensor
    late_events: int = 0  # of steps that had ended
    dropped_events: int = 0  # with their steps, as the network was late
    dropped_steps: int = 0
    truncated_bytes: int = 0  # of an event that has no end
    lost_datagrams: int = 0  # by the system, before they were read
    restarts: int = 0  # of the camera's clock


@dataclasses.dataclass
class Window:
    """Frames of a few steps, `(steps, height, width, 2)`."""

    start: float  # microseconds since the first event
    frames: np.ndarray
    events: int
    arrived: float  # when it was complete


class Cutter:
    """Cuts chunks of events into windows of equal duration.

    Args:
        encode: A function from events and the window's first microsecond to frames.
        steps: Steps of a window.
        duration: Microseconds of a window.
        sensor: `(height, width)`.
        limit: Silent windows in a row that are given at most, the others are dropped; `None`: all.
        counts: `Counts` to add to.
    """

    def __init__(self, encode, steps, duration, sensor, limit, counts):
        self.encode, self.steps, self.duration = encode, steps, duration
        self.sensor, self.limit, self.counts = sensor, limit, counts
        self.first, self.number, self.waiting = None, 0, joined([])

    @property
    def end(self):
        """Time at which the current window ends."""
        return self.first + (self.number + 1) * self.duration

    def push(self, chunk, until=None):
        """Yields the windows that a chunk completes.

        Args:
            chunk: `Events`.
            until: Time up to which no more events will come; by default the last event's.
        """
        self.counts.events += len(chunk.t)
        height, width = self.sensor
        chunk = self._kept(chunk, (chunk.x < width) & (chunk.y < height), "outside_events")
        if self.first is None and len(chunk.t):
            self.first = int(chunk.t.min())
        if self.first is None:
            return
        start = self.end - self.duration
        if len(chunk.t) and chunk.t.max() < start - RESTART:
            yield from self.finish()
            self.first, self.number = int(chunk.t.min()), 0
            self.counts.restarts += 1
        else:
            chunk = self._kept(chunk, chunk.t >= start, "late_events")
        self.waiting = events.as_events(joined([self.waiting, chunk]))  # in the order of time
        if until is None:
            until = self.waiting.t[-1] if len(self.waiting.t) else start
        while until >= self.end:
            count = int(np.searchsorted(self.waiting.t, self.end))
            if not count and self.limit is not None:
                self._skip(until)
            yield self._next(count)

    def finish(self):
        """Yields the last window, which has not ended."""
        if len(self.waiting.t):
            yield self._next(len(self.waiting.t))

    def _kept(self, chunk, mask, counter):
        setattr(self.counts, counter, getattr(self.counts, counter) + int((~mask).sum()))
        return chunk[mask]

    def _next(self, count):
        start = self.first + self.number * self.duration
        window = Window(
            start - self.first,
            self.encode(self.waiting[:count], start),
            count,
            time.monotonic(),
        )
        self.waiting = self.waiting[count:]
        self.number += 1
        return window

    def _skip(self, until):
        """Drops all but the last silent windows before the next event."""
        next_event = self.waiting.t[0] if len(self.waiting.t) else until
        silent = int((next_event - self.end) // self.duration) + 1
        skipped = max(0, silent - self.limit)
        self.number += skipped
        self.counts.dropped_steps += skipped * self.steps


class Buffer(queue.Queue):
    """Windows that wait for the network; `None` ends them, an exception is raised by the reader.

    Args:
        size: Number of windows.
        wait: Whether who puts waits when it is full; else the oldest window is dropped.
        counts: `Counts` to add to.
    """

    def __init__(self, size, wait, counts):
        super().__init__(size)
        self.wait, self.counts = wait, counts

    def add(self, window):
        """Puts a window, perhaps in the place of the oldest."""
        while not self.wait and self.full():
            self._drop()
        self.put(window)

    def clear(self):
        """Drops all windows that wait."""
        while not self.empty():
            self._drop()

    def _drop(self):
        try:
            old = self.get_nowait()
        except queue.Empty:  # the network took it
            return
        if isinstance(old, Window):
            self.counts.dropped_steps += len(old.frames)
            self.counts.dropped_events += old.events


def recording(path, size, duration, speed, stop):
    """Yields the chunks of a recording when they are due, each with the time that it lasts to."""
    readers = READERS | {".npz": functools.partial(events.read_es_imagenet, size=size)}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path} ends in none of {', '.join(readers)}, which are read.")
    found = read(path)
    if not len(found.t):
        return
    first, start = found.t[0], time.monotonic()
    for number in itertools.count(1):
        edge = first + number * duration
        low, high = np.searchsorted(found.t, (edge - duration, edge))
        if speed:
            due = start + (edge - first) / 1e6 / speed
            if stop.wait(max(0.0, due - time.monotonic())):
                return
        # The last window may not be full: `finish` gives it.
        yield found[low:high], (edge if high < len(found.t) else None)
        if high == len(found.t):
            return


class Decoder:
    """Events of 8 bytes each from pieces of a stream; overflows of their times are undone."""

    def __init__(self):
        self.last = None

    def __call__(self, data):
        """The events of a whole number of records."""
        raw = np.frombuffer(data, DAT_EVENT)
        found = dat_events(raw)
        if not len(raw):
            return found
        low = int(raw["t"][0]) if self.last is None else self.last
        t = unwrapped(np.concatenate([[low % 2**32], raw["t"]]))[1:] + (low - low % 2**32)
        self.last = int(t[-1])
        return found._replace(t=t)


def pipe(file, counts):
    """Yields the events of a pipe as they come."""
    decode, rest, first = Decoder(), b"", True
    while data := os.read(file, 1 << 16):
        begin = data[:16].decode("latin-1")
        if first and begin.startswith("% ") and begin.isascii() and begin.isprintable():
            raise ValueError(
                "The pipe begins as a file does, with a header of text: give the file by --source, "
                "or write events of 8 bytes only."
            )
        first, data = False, rest + data
        whole = len(data) // DAT_EVENT.itemsize * DAT_EVENT.itemsize
        rest = data[whole:]
        yield decode(data[:whole]), None
    counts.truncated_bytes += len(rest)


def udp(address, counts, stop):
    """Yields the events of datagrams, up to an empty one."""
    try:
        place = urllib.parse.urlsplit(address)
        if not place.hostname or place.port is None or place.path:
            raise ValueError("a host or port is missing, or there is more")
        found = socket.getaddrinfo(place.hostname, place.port, type=socket.SOCK_DGRAM)
    except (ValueError, OSError) as error:
        raise ValueError(f"--source: {address!r} should be udp://HOST:PORT: {error}") from error
    family, _, _, _, place = found[0]
    decode = Decoder()
    with socket.socket(family, socket.SOCK_DGRAM) as listener:
        if sys.platform == "linux":
            listener.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        listener.bind(place)
        listener.settimeout(PACE)
        print(f"Listening on {listener.getsockname()[0]}:{listener.getsockname()[1]}", flush=True)
        while not stop.is_set():
            try:
                data, told, *_ = listener.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            except TimeoutError:
                continue
            for level, kind, value in told:
                if (level, kind) == (socket.SOL_SOCKET, SO_RXQ_OVFL):
                    counts.lost_datagrams = struct.unpack("I", value)[0]
            if not data:
                return
            whole = len(data) // DAT_EVENT.itemsize * DAT_EVENT.itemsize
            counts.truncated_bytes += len(data) - whole
            yield decode(data[:whole]), None


def read(chunks, cutter, buffer, stop):
    """What the reader's thread does: from chunks to windows that wait."""
    end = None
    try:
        for chunk, until in chunks:
            for window in cutter.push(chunk, until):
                buffer.add(window)
            if stop.is_set():
                break
        for window in cutter.finish():
            buffer.add(window)
    except Exception as error:  # raised where the windows are taken
        end = error
    buffer.put(end)


class View:
    """Prints a line now and then, and figures at the end."""

    def __init__(self, counts, out=sys.stdout):
        self.counts, self.out, self.shown = counts, out, 0.0
        self.latencies, self.computing, self.answers = [], [], []
        self.steps, self.start = 0, time.monotonic()

    def see(self, window, output, computing):
        """Notes what the network said to a window."""
        now = time.monotonic()
        self.answers.append(int(output.argmax()))
        self.latencies.append(1e3 * (now - window.arrived))
        self.computing.append(1e3 * computing)
        self.steps += len(window.frames)
        if now - self.shown >= FLAGS.every:
            self.shown = now
            line = (
                f"{window.start / 1e6:9.3f} s  class {self.answers[-1]} ({output.max():.3g})  "
                f"latency {self.latencies[-1]:.1f} ms  {window.events} events  "
                f"dropped {self.counts.dropped_steps} steps, {self.counts.dropped_events} events"
            )
            if self.out.isatty():
                print(f"\r{line}\x1b[K", end="", file=self.out, flush=True)
            else:
                print(line, file=self.out, flush=True)

    def figures(self, interrupted):
        """All figures, for `--json`."""
        return {
            "interrupted": interrupted,
            "seconds": time.monotonic() - self.start,
            "steps": self.steps,
            "answers": self.answers,
            **{
                f"{name}_ms": dict(zip(("median", "p95", "most"), spread(values)))
                for name, values in (("latency", self.latencies), ("computing", self.computing))
            },
            **dataclasses.asdict(self.counts),
        }

    def summary(self, interrupted):
        """What is printed at the end."""
        if self.out.isatty() and self.answers:
            print(file=self.out)
        figures = self.figures(interrupted)
        print(f"{'Interrupted' if interrupted else 'The stream ended'} after {self.steps} steps.")
        for name in ("latency", "computing") if self.answers else ():
            print(
                f"{name.capitalize()} of a window: "
                + ", ".join(f"{key} {value:.2f}" for key, value in figures[f"{name}_ms"].items())
                + " ms"
            )
        told = {k.replace("_", " "): v for k, v in dataclasses.asdict(self.counts).items()}
        print(", ".join(f"{key} {value}" for key, value in told.items()))
        return figures


def spread(values):
    """Median, 95th percentile, largest."""
    return [float(np.percentile(values, q)) for q in (50, 95, 100)] if values else [None] * 3


def sensor(shape):
    """Height and width of the camera, and how many of its pixels make one of the network's."""
    if shape[-1] != 2:
        raise ValueError(f"The network should read frames (height, width, 2), got {shape}.")
    size = shape[:2]
    try:
        given = size if FLAGS.sensor is None else tuple(map(int, FLAGS.sensor))
        factor = given[0] // size[0]
        if factor < 1 or given != (size[0] * factor, size[1] * factor):
            raise ValueError
    except (ValueError, IndexError):
        raise ValueError(
            f"--sensor should be a height and a width that are the same multiple of {size}, the "
            f"network's, got {FLAGS.sensor}."
        ) from None
    return given, factor


def encoding(size, factor):
    """The function from events of a window to frames."""

    def encode(found, start):
        if FLAGS.encoding == "frames":
            frames = events.time_frames(found, FLAGS.steps, size, FLAGS.step, start)
        else:
            frames = events.voxel_grid(found, FLAGS.steps, size)
        return shrunk(frames, factor) if factor > 1 else frames

    return encode


def is_pipe(source):
    """Whether a source is standard input or a named pipe."""
    return source == "-" or (os.path.exists(source) and stat.S_ISFIFO(os.stat(source).st_mode))


def open_source(size, counts, stop):
    """The chunks of `--source`."""
    if FLAGS.source.startswith("udp://"):
        return udp(FLAGS.source, counts, stop)
    if is_pipe(FLAGS.source):
        return pipe_of(FLAGS.source, counts)
    path = pathlib.Path(FLAGS.source).expanduser()
    return recording(path, size, FLAGS.step * FLAGS.steps, FLAGS.speed, stop)


def pipe_of(source, counts):
    """Opens a pipe, which may wait for who writes, and reads it."""
    file = 0 if source == "-" else os.open(source, os.O_RDONLY)
    yield from pipe(file, counts)


def check_flags():
    """Refuses flags without effect."""
    if FLAGS.source.startswith("udp://"):
        common.refuse(["speed"], "datagrams come when they come")
    elif is_pipe(FLAGS.source) and FLAGS.speed:
        common.refuse(["speed"], "events of a pipe come when they come; 0 lets who writes wait")
    if FLAGS.encoding == "voxel_grid" and FLAGS.steps < 2:
        raise app.UsageError("--encoding=voxel_grid needs --steps, the bins of a grid, at least 2.")
    if FLAGS.reset_every % FLAGS.steps:
        raise app.UsageError("--reset_every should be a multiple of --steps.")
    if FLAGS.json:
        files.check_path(FLAGS.json, [".json"])


def follow(network, buffer, view):
    """Runs the network on windows until there are no more."""
    steps = 0
    while (window := buffer.get()) is not None:
        if isinstance(window, Exception):
            raise window
        before = time.monotonic()
        output = np.asarray(network(window.frames))
        view.see(window, output, time.monotonic() - before)
        steps += len(window.frames)
        if FLAGS.reset_every and steps >= FLAGS.reset_every:
            network.reset()
            steps = 0


def main(argv):
    """Reads, runs, shows."""
    check_flags()
    network = step_network.load(FLAGS.model_file, FLAGS.steps, "frame", ("height", "width", "2"))
    size, factor = sensor(network.shape)
    counts, stop = Counts(), threading.Event()
    wait = not FLAGS.speed
    cutter = Cutter(
        encoding(size, factor),
        FLAGS.steps,
        FLAGS.step * FLAGS.steps,
        size,
        None if wait else FLAGS.queue,
        counts,
    )
    silence = np.zeros((FLAGS.steps, *network.shape), "float32")
    shape = np.shape(network(silence))  # compiled before events come
    if len(shape) != 2:
        raise ValueError(f"The network should have an output (batch, classes), got {shape}.")
    network.reset()
    buffer = Buffer(FLAGS.queue, wait, counts)
    chunks = open_source(size, counts, stop)
    threading.Thread(target=read, args=(chunks, cutter, buffer, stop), daemon=True).start()
    view, interrupted = View(counts), False
    try:
        follow(network, buffer, view)
    except KeyboardInterrupt:
        interrupted = True
        buffer.clear()
    finally:
        stop.set()
    figures = view.summary(interrupted)
    if FLAGS.json:
        common.write_json(FLAGS.json, figures)
        print(f"Wrote {FLAGS.json}")


if __name__ == "__main__":
    common.run(main, "stream")
