"""Running exported files: the reference for hosts in other languages."""

import pathlib
import time

import numpy as np

from keras_snn.export import flatbuffer

__all__ = ["StreamingInterpreter", "real", "stored"]


class Runner:
    """What runs a file, for whole clips or step by step; a subclass has `step` and `reset`."""

    def run(self, clip):
        """A whole clip, step by step, from the first state.

        Args:
            clip: An array `(time, ...)`, of which one step at a time is given, or a dictionary of
                them by name.

        Returns:
            The outputs after the last step, by name.
        """
        clip = clip if isinstance(clip, dict) else {next(iter(self.inputs)): clip}
        self.reset()
        for frame in zip(*clip.values()):
            outputs = self.step({n: np.asarray(x)[None] for n, x in zip(clip, frame)})
        return outputs

    def latency(self, inputs, seconds=2.0):
        """Median milliseconds of a step, after some to warm up."""
        taken, start = [], time.perf_counter()
        while len(taken) < 200 and (len(taken) < 8 or time.perf_counter() - start < seconds):
            before = time.perf_counter()
            self.step(inputs)
            taken.append(1e3 * (time.perf_counter() - before))
        self.reset()
        return float(np.median(taken[3:]))


class StreamingInterpreter(Runner):
    """Runs an exported file: whole clips, or step by step with the states kept here.

    Inputs and outputs are float arrays by name; those of quantised files are converted.

    Args:
        file: A path, or the bytes of a file.
        xnnpack: Whether to use XNNPACK's kernels, as devices do by default.
        threads: Number of threads.

    Raises:
        ValueError: If the file is damaged, or of another kind. Of files that other programs wrote,
            which have no sum to check, the runtime finds out some damage, and may abort.
        FileNotFoundError: If there is no such file.
        ImportError: If the extra `export` is not installed.

    Example:

    ```python
    stream = keras_snn.export.StreamingInterpreter("model.tflite")
    for frame in frames:  # (height, width, channels)
        outputs = stream.step(frame[None])
    stream.reset()
    ```
    """

    def __init__(self, file, xnnpack=True, threads=1):
        litert = flatbuffer.litert()
        blob = file if isinstance(file, bytes) else pathlib.Path(file).expanduser().read_bytes()
        self._blob, kinds = blob, litert.OpResolverType
        kind = kinds.AUTO if xnnpack else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            flatbuffer.check_sum(blob)
            self._interpreter = litert.Interpreter(
                model_content=blob, num_threads=threads, experimental_op_resolver_type=kind
            )
            self._interpreter.allocate_tensors()
            signatures = self._interpreter.get_signature_list()
            self._key = "step" if "step" in signatures else next(iter(signatures))
            self._runner = self._interpreter.get_signature_runner(self._key)
        except Exception as error:
            name = "The file" if isinstance(file, bytes) else f"The file {file}"
            raise ValueError(f"{name} is damaged, or no TensorFlow Lite file: {error}") from error
        self._in = self._runner.get_input_details()
        self._out = self._runner.get_output_details()
        self._resets = "reset" in signatures
        names = [n for n in self._in if f"{n}_out" in self._out]
        self.inputs = {
            n: tuple(map(int, d["shape"])) for n, d in self._in.items() if n not in names
        }
        self._states = dict.fromkeys(names)
        self.reset()

    def reset(self):
        """Sets all states to those before the first step."""
        first, details = {}, {}
        if self._resets:
            runner = self._interpreter.get_signature_runner("reset")
            first, details = runner(), runner.get_output_details()
        for name in self._states:
            out = f"{name}_out"
            value = first.get(out, np.zeros(self._in[name]["shape"], "float32"))
            self._states[name] = real(value, details.get(out, {"quantization": (0.0, 0)}))

    def step(self, inputs):
        """One step (or, of a file for whole clips, one clip).

        Args:
            inputs: An array `(1, ...)`, or a dictionary of them by name.

        Returns:
            A dictionary of float outputs by name, `(1, ...)`, states left out.
        """
        if not isinstance(inputs, dict):
            inputs = {next(iter(self.inputs)): inputs}
        if set(inputs) != set(self.inputs):
            raise ValueError(f"The file has the inputs {list(self.inputs)}, got {list(inputs)}.")
        for name, x in inputs.items():
            if np.shape(x) != self.inputs[name]:
                raise ValueError(
                    f"The input {name!r} has the shape {self.inputs[name]}, got {np.shape(x)}."
                )
        given = {n: stored(x, self._in[n]) for n, x in (inputs | self._states).items()}
        outputs = {n: real(y, self._out[n]) for n, y in self._runner(**given).items()}
        for name in self._states:
            self._states[name] = outputs.pop(f"{name}_out")
        return outputs

    def describe(self):
        """Operations, scales, inputs, outputs, and the number of parts that XNNPACK runs."""
        names = [op["op_name"] for op in self._interpreter._get_ops_details()]
        return flatbuffer.describe(self._blob) | {"partitions": names.count("DELEGATE")}


def real(x, details):
    """Float values of stored ones; a copy, for the interpreter's memory is written again."""
    scale, zero = details["quantization"]
    return np.array(x, "float32") if not scale else (x.astype("float32") - zero) * np.float32(scale)


def stored(x, details):
    """Values as the file stores them."""
    scale, zero = details["quantization"]
    x = np.asarray(x, "float32")
    if not scale:
        return np.asarray(x, details["dtype"])
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(x / scale) + zero, limits.min, limits.max).astype(details["dtype"])
