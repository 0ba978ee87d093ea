"""What the benchmarks share: one process for each measurement, medians, tables.

Each measurement runs in a process of its own, so that memory and first calls are its own too; what
does not import or does not end in time is named in the table.
"""

import ctypes
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("only", None, "Runs one measurement in this process and prints it as JSON.")
flags.DEFINE_string("json", None, "Where to write the figures.")
flags.DEFINE_integer("repeats", 9, "Timed calls, whose median counts.", lower_bound=1)
flags.DEFINE_integer("limit", 150, "Seconds that a measurement may take.", lower_bound=1)

MARK = "RESULT "


def clock(*calls):
    """Seconds of the first call and the median of `--repeats` more, for each of the calls.

    The calls take turns, after one to warm up: what disturbs the machine disturbs them all.
    """

    def seconds(call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    first = [seconds(call) for call in calls]
    rounds = [[seconds(call) for call in calls] for _ in range(FLAGS.repeats + 1)][1:]
    return [(f, statistics.median(times)) for f, times in zip(first, zip(*rounds))]


def faults(call):
    """Page faults of a call, in thousands: pages of 4 kB that the system hands out and clears."""

    def count():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    before = count()
    for _ in range(FLAGS.repeats):
        call()
    return (count() - before) / FLAGS.repeats / 1000


def peak():
    """Most memory held so far, in MB: the GPU's where the backend has one, else the process's."""
    gpu = _gpu_peak()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if gpu is None else gpu


def held(call=lambda: None):
    """Most memory held during a call, in MB, as `peak`.

    First returns memory that compilers have freed to the system (Linux with glibc only).
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        call()
        return peak()
    call()
    gpu, status = _gpu_peak(), pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024 if gpu is None else gpu


def _gpu_peak():
    import keras

    if keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
    if keras.backend.backend() == "jax":
        import jax

        if jax.default_backend() == "gpu":
            return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
    return None


def machine():
    """Date, processor, GPUs and versions, for results that are kept."""
    from importlib import metadata

    names = ["keras", "tensorflow", "jax", "torch", "spikingjelly", "snntorch", "norse", "spyx"]
    names += ["triton"]
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
        # How memory is kept changes figures on CPUs.
        "malloc": {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")},
        "versions": versions,
    }


def _processor():
    """The processor's model, where the system tells."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _gpus():
    """Names of the NVIDIA GPUs."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return run.stdout.split("\n")[:-1]


def measure(script, name, backend, *arguments, **variables):
    """The result of `script --only=name` under a backend, or a line that says why there is none.

    `variables` are more of the environment.
    """
    command = [sys.executable, script, f"--only={name}", f"--repeats={FLAGS.repeats}", *arguments]
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"} | variables
    try:
        run = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=FLAGS.limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"over {FLAGS.limit} s"
    lines = [line for line in run.stdout.splitlines() if line.startswith(MARK)]
    if lines:
        return json.loads(lines[-1][len(MARK) :])
    errors = [line for line in run.stderr.strip().splitlines() if "Error" in line]
    return (errors or ["failed"])[-1][:70]


def answer(result):
    """Prints the result of one measurement, for the process that waits for it."""
    print(MARK + json.dumps(result), flush=True)


def spread(values):
    """Standard deviation of a sample; 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(title, columns, rows):
    """Prints rows, dictionaries by column; what is missing is a dash."""
    print(f"\n{title}")
    cells = [columns] + [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        )
        print("  ".join([first, *others]), flush=True)


def _cell(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)


class Runs(list):
    """Runs with the flags named; they begin with those in the file of `--json`, which keeps them.

    Args:
        used: Names of the flags that all runs of a file share.
    """

    def __init__(self, used):
        import keras

        super().__init__()
        self.settings = {"backend": keras.backend.backend()} | {n: FLAGS[n].value for n in used}
        self.path = FLAGS.json and pathlib.Path(FLAGS.json)
        if self.path and self.path.exists():
            before = json.loads(self.path.read_text())
            if before["settings"] != self.settings:
                raise app.UsageError(
                    f"{self.path} is of {before['settings']}, not of {self.settings}."
                )
            self += before["runs"]

    def append(self, run):
        from keras_snn.utils import files

        super().append(run)
        if self.path:
            text = json.dumps({"settings": self.settings, "runs": self}, indent=1)
            files.write(self.path, text + "\n")


def save(results):
    """Writes figures with machine and versions where `--json` says."""
    if FLAGS.json:
        text = json.dumps(machine() | {"results": results}, indent=1)
        pathlib.Path(FLAGS.json).write_text(text + "\n")
