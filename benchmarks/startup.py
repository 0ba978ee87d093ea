"""What it costs to begin: importing the package, and building the deepest network.

    python benchmarks/startup.py

Seconds of `import keras_snn` above `import keras`, and of building SEW-ResNet-152, each in a new
process, medians of `--repeats`, for each backend. A start before, not counted, compiles what Python
has not yet compiled to bytecode and keeps it, whatever the environment says.
"""

import statistics
import subprocess
import sys

from absl import app
from common import FLAGS, answer, measure, save, table

BACKENDS = ("tensorflow", "jax", "torch")


def _seconds(code):
    start = "import time; start = time.perf_counter(); "
    code = start + code + "; print(time.perf_counter() - start)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(1 + FLAGS.repeats)
    ]
    return statistics.median(float(run.stdout.split()[-1]) for run in runs[1:])


def main(argv):
    """The table, or one backend's figures."""
    FLAGS.set_default("limit", 600)  # one measurement is many starts
    if FLAGS.only:
        first = "import {}; start = time.perf_counter(); "
        answer(
            {
                "keras": _seconds("import keras"),
                "keras_snn above it": _seconds(first.format("keras") + "import keras_snn"),
                "SEWResNet152": _seconds(
                    first.format("keras_snn") + "keras_snn.applications.SEWResNet152()"
                ),
            }
        )
        return
    results = {
        backend: measure(__file__, "all", backend, PYTHONDONTWRITEBYTECODE="")
        for backend in BACKENDS
    }
    rows = [
        {"seconds": backend} | (result if isinstance(result, dict) else {"note": result})
        for backend, result in results.items()
    ]
    table("Startup", ["seconds", "keras", "keras_snn above it", "SEWResNet152", "note"], rows)
    save(results)


if __name__ == "__main__":
    app.run(main)
