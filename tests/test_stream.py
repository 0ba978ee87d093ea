"""The program that runs a network on events as they come."""

import json
import os
import signal
import socket
import threading
import time

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers
from test_project import check_refusals, in_a_process, program, run_program

from keras_snn import events, export
from keras_snn import layers as snn

pytestmark = pytest.mark.once
SIZE, STEP, COUNT = (4, 3), 1000, 400


def recorded(steps=12, seed=0):
    """Events of some steps, two of them silent."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, steps * STEP, COUNT))
    t[0], t[-1] = 0, steps * STEP - 1
    found = events.Events(t, rng.integers(0, 3, COUNT), rng.integers(0, 4, COUNT), t * 7 % 2)
    return found[(t < 4 * STEP) | (t >= 6 * STEP)]


def stored(found):
    """Events as a pipe brings them."""
    address = found.x | found.y << 14 | found.p << 28
    return np.stack([found.t % 2**32, address], 1).astype("<u4").tobytes()


def small(stateful=False):
    keras.utils.set_random_seed(0)
    batch = {"batch_size": 1} if stateful else {}
    inputs = keras.Input((None, *SIZE, 2), **batch)
    x = snn.FoldTime(layers.Flatten())(inputs)
    x = snn.LIF(stateful=stateful)(layers.Dense(9, kernel_initializer="glorot_normal")(x))
    return keras.Model(inputs, snn.MeanOverTime()(layers.Dense(4)(x)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recording, a model, a stateful one, and a file of one step."""
    folder = tmp_path_factory.mktemp("stream")
    header = b"% Data file containing CD events.\n% Version 2\n% end\n\x0c\x08"
    (folder / "events.dat").write_bytes(header + stored(recorded()))
    model = small()
    model.save(folder / "model.keras")
    small(stateful=True).save(folder / "stateful.keras")
    export.to_tflite(model, folder / "step.tflite", "step", timesteps=12)
    return folder


def answers(frames, model=None):
    """What the model says after each step, when it is given all steps up to that."""
    model = model or small()
    return [int(to_numpy(model(frames[None, : n + 1]))[0].argmax()) for n in range(len(frames))]


def figures(folder, name, *flags, source=None):
    """The figures of a run of the program."""
    path = folder / "figures.json"
    source = source or f"{folder / 'events.dat'}"
    found = program(
        "stream",
        *(f"--model_file={folder / name}", f"--source={source}", f"--step={STEP}"),
        *(f"--json={path}", "--every=0", *flags),
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return json.loads(path.read_text()), found.stdout


@pytest.mark.parametrize("name", ["step.tflite", "model.keras", "stateful.keras"])
def test_a_recording_gets_the_answers_of_the_whole_clip(folder, name):
    found, text = figures(folder, name, "--speed=0")
    frames = events.time_frames(recorded(), 12, SIZE, STEP)
    assert found["answers"] == answers(frames)
    assert (found["steps"], found["events"]) == (12, len(recorded().t))
    assert not any(v for k, v in found.items() if k.endswith(("_events", "_steps", "_bytes")))
    assert "latency" in text and "The stream ended after 12 steps." in text


def test_voxel_grids_and_resets(folder):
    flags = ("--speed=0", "--encoding=voxel_grid", "--steps=4", "--reset_every=8")
    found, _ = figures(folder, "model.keras", *flags)
    parts = [events.voxel_grid(recorded()[recorded().t // 4000 == n], 4, SIZE) for n in range(3)]
    first, second = answers(np.concatenate(parts[:2])), answers(parts[2])
    assert found["answers"] == [first[3], first[7], second[3]]


def test_a_larger_sensor_is_shrunk(folder):
    found = recorded()
    doubled = found._replace(x=2 * found.x + 1, y=2 * found.y)
    (folder / "large.dat").write_bytes(b"% Version 2\n\x0c\x08" + stored(doubled))
    source = folder / "large.dat"
    out, _ = figures(folder, "step.tflite", "--speed=0", "--sensor=8,6", source=source)
    assert out["answers"] == answers(events.time_frames(found, 12, SIZE, STEP) / 4)
    out, _ = figures(folder, "step.tflite", "--speed=0", source=source)
    assert out["outside_events"] == ((doubled.x >= 3) | (doubled.y >= 4)).sum()


def test_a_recording_is_paced(folder, tmp_path):
    """Ten seconds that are played a hundred times as fast take a tenth of a second, not less."""
    slow = recorded()._replace(t=recorded().t * 800)
    (folder / "slow.dat").write_bytes(b"% Version 2\n\x0c\x08" + stored(slow))
    flags = ("--speed=100", "--step=800000")
    found, _ = figures(folder, "step.tflite", *flags, source=folder / "slow.dat")
    assert found["seconds"] > 0.08
    assert found["steps"] + found["dropped_steps"] == 12


def with_input(argv, data):
    """Runs the program with a pipe as its standard input."""
    inside, outside = os.pipe()
    os.dup2(inside, 0)
    writer = os.fdopen(outside, "wb")
    threading.Thread(target=lambda: (writer.write(data), writer.close()), daemon=True).start()
    run_program(*argv)


def piped(folder, data, *flags):
    path = folder / "piped.json"
    argv = ["applications/stream.py", f"--model_file={folder / 'step.tflite'}", "--source=-"]
    argv += [f"--step={STEP}", f"--json={path}", "--every=0", *flags]
    found = in_a_process(with_input, argv, data)
    return found, json.loads(path.read_text()) if found.returncode == 0 else None


def test_a_pipe_with_an_end_in_the_middle_of_an_event(folder):
    late = recorded()._replace(t=recorded().t + 2**32 - 5 * STEP)  # times overflow on the way
    found, read = piped(folder, stored(late) + b"\1\2\3", "--speed=0")
    assert found.returncode == 0, found.stderr[-2000:]
    assert read["answers"] == answers(events.time_frames(recorded(), 12, SIZE, STEP))
    assert read["truncated_bytes"] == 3 and "truncated bytes 3" in found.stdout


def test_a_file_in_a_pipe_is_refused(folder):
    found, _ = piped(folder, (folder / "events.dat").read_bytes())
    assert found.returncode == 1 and "begins as a file does" in found.stderr


def imported():
    """The program as a module, with its flags at their defaults."""
    import stream

    stream.FLAGS(["stream", "--model_file=x", "--source=x"])
    return stream


def send(folder, packets):
    """Runs the program, sends datagrams to it, then an empty one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def later():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", port))
            while True:  # until someone listens
                try:
                    sender.send(packets[0])
                    time.sleep(0.01)
                    sender.send(b"\1")
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
            for packet in [*packets[1:], b""]:
                sender.send(packet)
                time.sleep(0.002)

    threading.Thread(target=later, daemon=True).start()
    argv = [f"--model_file={folder / 'step.tflite'}", f"--source=udp://localhost:{port}"]
    path = folder / "udp.json"
    run_program("applications/stream.py", *argv, f"--step={STEP}", f"--json={path}")


def test_datagrams(folder):
    found = recorded()
    packets = [stored(found[n : n + 50]) for n in range(0, len(found.t), 50)]
    run = in_a_process(send, folder, packets)
    assert run.returncode == 0, run.stderr[-2000:]
    read = json.loads((folder / "udp.json").read_text())
    assert read["events"] == len(found.t) and read["truncated_bytes"] == 1
    assert read["steps"] + read["dropped_steps"] == 12
    expected = answers(events.time_frames(found, 12, SIZE, STEP))
    assert read["dropped_steps"] or read["answers"] == expected


def interrupt(folder):
    """Ctrl-C in the middle of a stream that has no end."""
    inside, outside = os.pipe()
    os.dup2(inside, 0)
    os.write(outside, stored(recorded()))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # of a shell's job it is ignored

    def later():
        while not os.path.getsize(f"/proc/self/fd/{1}"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=later, daemon=True).start()
    argv = [f"--model_file={folder / 'step.tflite'}", "--source=-", f"--step={STEP}"]
    run_program("applications/stream.py", *argv, "--every=0")


def test_interrupted(folder):
    found = in_a_process(interrupt, folder)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "Interrupted after" in found.stdout and "Traceback" not in found.stderr


def cut():
    """What becomes of events by the cutter and the buffer, in one process."""
    stream = imported()

    def cutter(limit):
        counts = stream.Counts()
        encode = lambda found, start: np.array([len(found.t)])  # noqa: E731
        return stream.Cutter(encode, 1, 10, (2, 2), limit, counts), counts

    def events_at(times):
        zeros = np.zeros(len(times), int)
        return events.Events(np.array(times, int), zeros, zeros, zeros)

    def taken(cutter, *chunks):
        windows = [w for chunk in chunks for w in cutter.push(chunk)] + list(cutter.finish())
        return [[w.start, w.events] for w in windows]

    results = {}
    one, counts = cutter(None)
    results["disorder"] = taken(one, *map(events_at, [[100, 109, 105], [112], [106, 131]]))
    results["late"] = counts.late_events
    one, counts = cutter(3)
    results["silence"] = taken(one, *map(events_at, [[0], [10**9]]))
    results["skipped"] = counts.dropped_steps
    one, counts = cutter(3)
    results["restart"] = taken(one, *map(events_at, [[5 * 10**6], [0, 12], [14]]))
    results["restarts"] = counts.restarts
    counts = stream.Counts()
    buffer = stream.Buffer(2, False, counts)
    for number in range(5):
        buffer.add(stream.Window(number, np.zeros((3, 1)), 10 + number, 0))
    results["kept"] = [buffer.get().start for _ in range(2)]
    results["dropped"] = [counts.dropped_steps, counts.dropped_events]
    print(json.dumps(results))


def test_what_is_dropped_is_counted():
    found = in_a_process(cut)
    assert found.returncode == 0, found.stderr[-2000:]
    assert json.loads(found.stdout.splitlines()[-1]) == {
        "disorder": [[0, 3], [10, 1], [20, 0], [30, 1]],
        "late": 1,
        "silence": [[0, 1], [10**9 - 30, 0], [10**9 - 20, 0], [10**9 - 10, 0], [10**9, 1]],
        "skipped": 10**8 - 4,
        "restart": [[0, 1], [0, 1], [10, 2]],
        "restarts": 1,
        "kept": [3, 4],
        "dropped": [9, 10 + 11 + 12],
    }


REFUSED = [
    (["--source=udp://127.0.0.1:9", "--speed=2"], "datagrams come when they come"),
    (["--source=-", "--speed=2"], "events of a pipe come when they come"),
    (["--source=udp://127.0.0.1"], "should be udp://HOST:PORT"),
    (["--source=a.txt"], "a.txt ends in none of .aedat"),
    (["--source=missing.dat"], "There is no file missing.dat"),
    (["--source=a.dat", "--encoding=voxel_grid"], "needs --steps"),
    (["--source=a.dat", "--steps=2", "--reset_every=3"], "a multiple of --steps"),
    (["--source=a.dat", "--sensor=5,3"], "the same multiple of (4, 3)"),
    (["--source=a.dat", "--sensor=8"], "the same multiple of (4, 3)"),
    (["--source=a.dat", "--json=a.txt"], "a.txt"),
    (["--source=a.dat", "--model_file=images.keras"], "should read sequences"),
    (["--source=a.dat", "--model_file=gray.keras"], "frames (height, width, 2)"),
    (["--source=a.dat", "--model_file=end.keras"], "no readout over time"),
]


def test_refusals(folder):
    small().save(folder / "model.keras")
    images = keras.Input((*SIZE, 2))
    keras.Model(images, layers.Dense(2)(layers.Flatten()(images))).save(folder / "images.keras")
    gray, x = keras.Input((None, *SIZE, 1)), None
    x = snn.MeanOverTime()(snn.FoldTime(layers.Flatten())(gray))
    keras.Model(gray, x).save(folder / "gray.keras")
    inputs = keras.Input((None, *SIZE, 2))
    keras.Model(inputs, snn.LIF()(inputs)).save(folder / "end.keras")
    check_refusals("stream", folder, REFUSED, "--model_file=model.keras")
