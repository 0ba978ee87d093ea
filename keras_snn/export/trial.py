"""Has runtimes load and run files of TensorFlow Lite, in a process that they may abort.

    python -P trial.py litert FILE micro FILE ...

Prints the name of each runtime before its turn. Imports nothing of keras_snn, which takes seconds.
"""

import pathlib
import sys


def run_litert(blob):
    """Each signature once, on zeros, with XNNPACK and without."""
    import numpy as np
    from ai_edge_litert import interpreter as litert

    kinds = litert.OpResolverType
    for kind in (kinds.AUTO, kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
        interpreter = litert.Interpreter(
            model_content=blob, num_threads=1, experimental_op_resolver_type=kind
        )
        interpreter.allocate_tensors()
        for name in interpreter.get_signature_list():
            runner = interpreter.get_signature_runner(name)
            details = runner.get_input_details()
            runner(**{n: np.zeros(d["shape"], d["dtype"]) for n, d in details.items()})


def run_micro(blob):
    """Prints what memory TensorFlow Lite Micro needs, on the standard error stream."""
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError:
        return
    runtime.Interpreter.from_bytes(blob).print_allocations()


if __name__ == "__main__":
    for name, path in zip(sys.argv[1::2], sys.argv[2::2]):
        print(name, flush=True)
        {"litert": run_litert, "micro": run_micro}[name](pathlib.Path(path).read_bytes())
