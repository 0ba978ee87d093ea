"""Export to ONNX, checked in onnxruntime."""

import collections
import importlib.util
import pathlib

import numpy as np

from keras_snn.export.job import run
from keras_snn.export.streaming import Runner
from keras_snn.export.targets import MODES, Job, Target, check

__all__ = ["TARGET", "Onnx", "OnnxRunner", "to_onnx"]

OPSET = 17
MISSING = 'Export to ONNX needs the extra `onnx`: pip install "keras-snn[onnx]"'


def to_onnx(model, path, mode="sequence", verify_data=None, timesteps=None, verify_samples=32):
    """Writes a model as an ONNX file, and compares it with the model in onnxruntime.

    The graph is that of `to_tflite`: batch 1, a fixed number of steps, or one step with states as
    inputs and outputs (`NAME` and `NAME_out`, zero before a clip unless the report's
    `initial_states` says otherwise).

    Args:
        model: A functional or Sequential model of Keras and keras_snn layers.
        path: Where to write the file, `.onnx`; an existing one is replaced once the new one is
            complete.
        mode: `"sequence"` or `"step"`.
        verify_data: Inputs to compare with; noise by default.
        timesteps: Number of steps where the model does not tell it.
        verify_samples: Examples to compare at most.

    Returns:
        An `ExportReport`; its two columns of agreement are the same, and what only TensorFlow Lite
        has is empty.

    Raises:
        ValueError: If an argument is invalid, or no file can be written to `path`.
        OSError: If the file can't be written; one that was there stays.
        TypeError: If the model has a layer that can't be exported; it is named.
        ImportError: If the extra `onnx` is not installed.

    Example:

    ```python
    print(keras_snn.export.to_onnx(model, "model.onnx"))
    ```
    """
    check("mode", mode, MODES)
    _packages()
    if importlib.util.find_spec("tf2onnx") is None:  # its import takes seconds
        raise ImportError(MISSING)
    job = Job("onnx", mode, timesteps, verify_samples)
    return run(model, path, job, {"representative": None, "verify": verify_data})


def _packages():
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ImportError(MISSING) from error
    return onnx, onnxruntime


class Onnx(Target):
    """ONNX files, for onnxruntime."""

    suffix = ".onnx"

    def convert(self, program, probe=False):
        return _convert(program, probe)

    def runners(self, program, blob):
        runner = OnnxRunner(blob, program.states())
        return {"XNNPACK": runner, "built-in": runner}


TARGET = Onnx()


def _convert(program, probe):
    _packages()
    import tensorflow as tf
    import tf2onnx

    _, signatures = program.module(probe)
    (function,) = signatures.values()
    names = sorted(function.structured_input_signature[1])
    specs = [function.structured_input_signature[1][name] for name in names]
    outputs = sorted(function.structured_outputs)

    def positional(*tensors):
        found = function(**dict(zip(names, tensors)))
        return [found[name] for name in outputs]

    positional = tf.function(positional, input_signature=specs, autograph=False)
    model, _ = tf2onnx.convert.from_function(positional, input_signature=specs, opset=OPSET)
    _rename(model.graph, names, outputs)
    return model.SerializeToString()


def _rename(graph, inputs, outputs):
    """Gives the inputs and outputs their names, and what else has such a name another."""
    names = {value.name: name for value, name in zip(graph.input, inputs)}
    names |= {value.name: name for value, name in zip(graph.output, outputs)}
    inner = {name for node in graph.node for name in node.output}
    inner |= {tensor.name for tensor in graph.initializer}
    taken = {*inputs, *outputs}
    names = {name: f"{name}/inner" for name in inner & taken} | names
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)


class OnnxRunner(Runner):
    """Runs an ONNX file in onnxruntime, with the states kept here.

    Args:
        file: A path, or the bytes of a file.
        states: Values of the states before the first step by name, arrays or numbers; zeros where
            not given.
    """

    def __init__(self, file, states=None):
        onnx, runtime = _packages()
        given = isinstance(file, bytes)
        self._blob = file if given else pathlib.Path(file).expanduser().read_bytes()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = runtime.InferenceSession(
                self._blob, options, providers=["CPUExecutionProvider"]
            )
            self._model = onnx.load_from_string(self._blob)
        except Exception as error:
            name = "The file" if given else f"The file {file}"
            raise ValueError(f"{name} is damaged, or no ONNX file: {error}") from error
        shapes = {v.name: tuple(v.shape) for v in self._session.get_inputs()}
        self._names = [v.name for v in self._session.get_outputs()]
        self._first = {n: np.zeros(s, "float32") for n, s in shapes.items()}
        self._first = {n: v for n, v in self._first.items() if f"{n}_out" in self._names}
        for name, value in (states or {}).items():
            self._first[name] = np.broadcast_to(np.float32(value), shapes[name])
        self.inputs = {n: s for n, s in shapes.items() if n not in self._first}
        self.reset()

    def reset(self):
        """Sets all states to those before the first step."""
        self._states = dict(self._first)

    def step(self, inputs):
        """One step, or of a file for whole clips, one clip; see `StreamingInterpreter.step`."""
        inputs = inputs if isinstance(inputs, dict) else {next(iter(self.inputs)): inputs}
        given = {n: np.asarray(x, "float32") for n, x in (inputs | self._states).items()}
        outputs = dict(zip(self._names, self._session.run(self._names, given)))
        self._states = {n: outputs.pop(f"{n}_out") for n in self._states}
        return outputs

    def describe(self):
        """Operations, inputs and outputs."""
        operations = collections.Counter(node.op_type for node in self._model.graph.node)
        found = {
            kind: [
                {
                    "name": v.name,
                    "shape": list(v.shape),
                    "type": "float32",
                    "scale": 0.0,
                    "zero_point": 0,
                }
                for v in values
            ]
            for kind, values in (
                ("inputs", self._session.get_inputs()),
                ("outputs", self._session.get_outputs()),
            )
        }
        operations = dict(sorted(operations.items()))
        return found | {"operations": operations, "quantization": [], "partitions": 0}
