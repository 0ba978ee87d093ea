"""The part of an export that TensorFlow does: graph, conversion, comparison with the model.

    KERAS_BACKEND=tensorflow python -m keras_snn.export.worker FOLDER

The folder holds the model, the job and the data that `to_tflite` put there; it gets the file and
the report, or the error.
"""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import keras
import numpy as np
from keras import tree

from keras_snn.analysis.rates import is_spiking
from keras_snn.export import flatbuffer, micro, onnx, trial
from keras_snn.export.graph import Walk
from keras_snn.export.report import ExportReport, compare
from keras_snn.export.streaming import StreamingInterpreter
from keras_snn.export.tflite import Job

__all__ = ["work"]


def work(folder):
    """Does the job that a folder describes."""
    folder = pathlib.Path(folder)
    job = Job(**json.loads((folder / "job.json").read_text()))
    for module in job.modules:
        importlib.import_module(module)
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    for layer in model._flatten_layers():  # devices compute in float32, or as quantised
        layer.dtype_policy = keras.DTypePolicy("float32")
    with np.load(folder / "data.npz") as arrays:
        data = {
            name: [arrays[f"{name}_{i}"] for i in range(len(model.inputs))]
            for name in ("representative", "verify")
            if f"{name}_0" in arrays
        }
    program = Program(model, job)
    examples = _examples(program, job, data)
    if job.format == "onnx":
        blob, probe = onnx.convert(program), onnx.convert(program, probe=True)
        runs = dict.fromkeys(("XNNPACK", "built-in"), onnx.OnnxRunner(probe, program.states()))
        report = _report(
            program, job, blob, runs, onnx.OnnxRunner(blob, program.states()), examples
        )
    else:
        blob = flatbuffer.with_sum(_convert(program, job, data))
        probe = _convert(program, job, data, probe=True)
        flatbuffer.check(blob, internal=job.state == "internal", micro=job.target == "tflm")
        arena = _tried(program, job, blob, probe, data)
        kinds = {"XNNPACK": True, "built-in": False}
        runs = {name: StreamingInterpreter(probe, kind) for name, kind in kinds.items()}
        report = _report(program, job, blob, runs, StreamingInterpreter(blob), examples)
        report.arena_bytes = arena
    (folder / "model").write_bytes(blob)
    if job.target == "tflm":
        source, header = micro.c_array(blob, report)
        (folder / micro.SOURCE).write_text(source)
        (folder / micro.HEADER).write_text(header)
    (folder / "report.json").write_text(report.to_json())


def _tried(program, job, blob, probe, data):
    """Has runtimes try files that they may abort on; bytes of Micro's arena, if it says so.

    LiteRT and Micro abort their process where a quantised scale is out of their bounds, which
    happens where something is zero in all examples.
    """
    trials = {"probe": "litert", "model": "litert"} if _is_calibrated(job) else {}
    trials |= {"micro": "micro"} if job.target == "tflm" else {}
    if not trials:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", trial.__file__]
        for name, runtime in trials.items():
            path = pathlib.Path(folder, name)
            path.write_bytes(probe if name == "probe" else blob)
            command += [runtime, str(path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    if run.returncode:
        lines = [x for x in run.stderr.splitlines() if x and not x.startswith("INFO")]
        raise RuntimeError(
            f"{RUNTIMES[run.stdout.split()[-1]]} can't run the file. Layers that never fire in the "
            "data that ranges are taken from, so that there are none: "
            f"{', '.join(_silent(program, data)) or 'none'}. Train the network first, or give data "
            f"on which its neurons fire. The runtime ended with code {run.returncode}"
            + (f" and said: {lines[-1]}" if lines else ".")
        )
    found = re.search(r"Arena allocation total (\d+)", run.stderr)
    return int(found[1]) if found else None


RUNTIMES = {"litert": "LiteRT", "micro": "TensorFlow Lite Micro"}


def _silent(program, data):
    """Names of the layers without a spike in examples that ranges are taken from."""
    examples = list(zip(*data.get("representative", ())))[: program.job.samples]
    spikes = [program.reference(example)[1] for example in examples]
    fired = [sum(float(layer.sum()) for layer in layers) for layers in zip(*spikes)]
    return [name for name, count in zip(program.spike_names, fired) if not count]


def _is_calibrated(job):
    return job.quantize in ("int8", "int16x8")


class Program:
    """The model as TensorFlow functions of one example."""

    def __init__(self, model, job):
        self.model, self.job = model, job
        self.input_names = [_name(x.name) for x in model.inputs]
        graph = getattr(model, "_functional", None) or model
        self.output_names = [_name(name) for name in graph.output_names]
        walk = self._trace(None, self._shapes(()))
        self.timed_inputs, self.timed_outputs = walk.timed_inputs, walk.timed_outputs
        self.spike_names, self.thresholds = list(walk.spikes), walk.thresholds
        self.costs = []
        self.initial = {}
        if job.mode == "step":
            self.initial = self._trace({}, self._shapes(self.timed_inputs)).initial
        self.shapes = self._shapes(self.timed_inputs if job.mode == "step" else ())

    def _shapes(self, one_step):
        """Shapes of the inputs, `(1, ...)`; without time for those of which one step is given."""
        shapes = []
        for i, tensor in enumerate(self.model.inputs):
            shape = list(tensor.shape[1:])
            if i in one_step:
                shape = shape[1:]
            elif len(shape) > 1 and shape[0] is None:
                shape[0] = self.job.timesteps
            if None in shape:
                raise ValueError(
                    f"The input {tensor.name!r} has the shape {tensor.shape}: only the batch and "
                    "the number of steps may be open."
                )
            shapes.append((1, *shape))
        return shapes

    def states(self):
        """First values of the states, by their names in the file."""
        return {_name(n): v for n, v in self.initial.items()}

    def walk(self, states):
        """A new walk: of a clip, or with states, of one step."""
        timed = () if states is None else self.timed_inputs
        floor = self.job.format == "tflite" and self.job.target == "litert"
        floor = floor and not _is_calibrated(self.job)
        return Walk(self.model, self.job.timesteps, states, timed, floor)

    def _trace(self, states, shapes):
        import tensorflow as tf

        walk = Walk(self.model, self.job.timesteps, states, getattr(self, "timed_inputs", ()))
        specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
        tf.function(lambda *xs: walk.run(xs), autograph=False).get_concrete_function(*specs)
        return walk

    def module(self, probe=False):
        """A `tf.Module` and its signatures by name."""
        import tensorflow as tf

        def named(walk, outputs):
            found = dict(zip(self.output_names, outputs))
            if probe:
                found |= {f"spikes_{i}": walk.spikes[n] for i, n in enumerate(self.spike_names)}
            return {name: tf.identity(x, name=name) for name, x in found.items()}

        def clip(**inputs):
            walk = self.walk(None)
            outputs = walk.run([inputs[n] for n in self.input_names])
            return named(walk, outputs)

        def step(**inputs):
            states = {n: inputs[_name(n)] for n in self.initial}
            walk = self.walk(states)
            outputs = walk.run([inputs[n] for n in self.input_names])
            new = {f"{_name(n)}_out": tf.identity(walk.states[n]) for n in self.initial}
            return named(walk, outputs) | new

        def step_inside(**inputs):
            walk = self.walk({n: v.read_value() for n, v in variables.items()})
            outputs = walk.run([inputs[n] for n in self.input_names])
            for n, v in variables.items():
                v.assign(walk.states[n])
            return named(walk, outputs)

        def reset_inside():
            for n, v in variables.items():
                v.assign(self.initial[n])
            return {"done": tf.constant([1.0])}

        def signature(function, specs):
            specs = {name: tf.TensorSpec(shape, tf.float32, name) for name, shape in specs.items()}
            return tf.function(function, autograph=False).get_concrete_function(**specs)

        module, variables = tf.Module(), {}
        module.weights = [v.value for v in self.model.variables]
        frames = dict(zip(self.input_names, self.shapes))
        if self.job.mode == "sequence":
            signatures = {"serving_default": signature(clip, frames)}
        elif self.job.state == "internal":
            variables = {n: tf.Variable(v, name=_name(n)) for n, v in self.initial.items()}
            module.states = list(variables.values())
            signatures = {
                "step": signature(step_inside, frames),
                "reset": signature(reset_inside, {}),
            }
        else:
            states = {_name(n): v.shape for n, v in self.initial.items()}
            signatures = {"step": signature(step, frames | states)}
        return module, signatures

    def frames(self, example):
        """Inputs of each step for one example, arrays `(...)`."""
        for t in range(self.job.timesteps):
            yield {
                name: (x[t] if i in self.timed_inputs else x)[None]
                for i, (name, x) in enumerate(zip(self.input_names, example))
            }

    def reference(self, example):
        """Outputs (in step mode those of the last step) and spikes of the Keras model itself."""
        import tensorflow as tf

        if not hasattr(self, "_reference"):
            self._reference = tf.function(lambda xs: _recorded(self.model, xs), autograph=False)
        outputs, spikes, costs = self._reference([tf.constant(x[None]) for x in example])
        self.costs.append({name: [float(c) for c in cost] for name, cost in costs.items()})
        last = [self.job.mode == "step" and timed for timed in self.timed_outputs]
        return (
            [np.asarray(y)[0][-1] if t else np.asarray(y)[0] for y, t in zip(outputs, last)],
            [np.asarray(spikes[name])[0] for name in self.spike_names],
        )


def _name(name):
    """A name that signatures and C allow."""
    return "".join(c if c.isalnum() else "_" for c in name)


def _recorded(model, inputs):
    """Outputs of a model, the spikes and the costs of its layers by name, nested ones included."""
    spikes, costs = {}, {}

    def visit(model, values, prefix):
        def operation(layer):
            def call(*args, **kwargs):
                if isinstance(layer, keras.Model):
                    return visit(layer, tree.flatten(args), f"{prefix}{layer.name}/")
                output = layer(*args, **kwargs)
                cost = _cost(layer, args[0], output)
                if cost is not None:
                    costs[prefix + layer.name] = cost
                if is_spiking(layer) and layer.__class__.__module__ != "keras":
                    spikes[prefix + layer.name] = tree.flatten(output)[0]
                return output

            return call

        graph = getattr(model, "_functional", None) or model
        return graph._run_through_graph(values, operation_fn=operation)

    return tree.flatten(visit(model, inputs, "")), spikes, costs


def _cost(layer, x, output):
    """Multiplications of a layer, sum of its inputs' share in them, and whether those are spikes.

    `None` for layers without weights that multiply. Each input takes part in as many products as
    the mean one, borders included.
    """
    while hasattr(layer, "layer"):
        layer = layer.layer
    if not isinstance(layer, (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D)):
        return None
    places = np.prod(output.shape) / output.shape[-1]
    macs = float(places * np.prod(layer.kernel.shape))
    spikes = keras.ops.all(keras.ops.equal(x, keras.ops.round(x)))
    return macs, macs * keras.ops.mean(x), spikes


def _convert(program, job, data, probe=False):
    """The bytes of the file; with `probe`, of one that also gives all spikes."""
    import tensorflow as tf

    module, signatures = program.module(probe)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        _quantized(converter, program, signatures, job, data)
        converter.experimental_enable_resource_variables = job.state == "internal"
        try:
            blob = converter.convert()
        except Exception as error:
            raise RuntimeError(f"TensorFlow's converter failed: {error}") from error
    if job.state == "internal":
        return flatbuffer.main_first(blob, "step")
    if job.mode == "step" and job.target == "litert":
        return flatbuffer.with_reset(blob, program.states())
    return blob


def _quantized(converter, program, signatures, job, data):
    import tensorflow as tf

    sets = tf.lite.OpsSet
    if job.quantize is None:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if job.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if _is_calibrated(job):
        key = "step" if job.mode == "step" else "serving_default"
        converter.representative_dataset = lambda: _ranges(program, signatures, data, key)
    if job.quantize == "int8":
        converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    if job.quantize == "int16x8":
        both = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [both, sets.TFLITE_BUILTINS]


def _ranges(program, signatures, data, key):
    """Inputs that ranges are taken from; for one step, with the states as they run."""
    function = signatures[key]
    for example in list(zip(*data["representative"]))[:RANGE_EXAMPLES]:
        if key == "serving_default":
            yield key, {n: x[None] for n, x in zip(program.input_names, example)}
            continue
        states = program.states()
        for frame in program.frames(example):
            yield key, frame | states
            outputs = function(**{n: _tensor(x) for n, x in (frame | states).items()})
            states = {n: outputs[f"{n}_out"].numpy() for n in states}


# Ranges settle long before all examples of a data set are seen.
RANGE_EXAMPLES = 128


def _tensor(x):
    import tensorflow as tf

    return tf.constant(x, tf.float32)


def _examples(program, job, data):
    """Examples to compare with: given ones, or noise."""
    given = data.get("verify") or data.get("representative")
    if given is None:
        rng = np.random.default_rng(0)
        shapes = program._shapes(())
        given = [rng.uniform(size=(8, *s[1:])).astype("float32") for s in shapes]
    return list(zip(*(x[: job.samples] for x in given)))


def _report(program, job, blob, runs, final, examples):
    """Compares files that also give spikes, and the one to keep, with the model."""
    found = []
    for example in examples:
        outputs, spikes = program.reference(example)
        row = {"Keras": (outputs[0], spikes)}
        for name, run in runs.items():
            row[name] = _played(program, job, run, example)
        row["file"] = (_played(program, job, final, example, probe=False)[0], None)
        found.append(row)
    report = ExportReport(
        mode=job.mode,
        quantize=job.quantize,
        target=job.target,
        timesteps=job.timesteps,
        examples=len(examples),
        bytes=len(blob),
        **compare(found, program.spike_names),
        **final.describe(),
        latency_ms=final.latency(_first_inputs(program, job, examples[0])),
        state_bytes=int(sum(v.nbytes for v in program.initial.values())),
        initial_states={n: float(v.flat[0]) for n, v in program.states().items()},
    )
    costs = [cost for example in program.costs for cost in example.values()]
    report.macs = sum(c[0] for c in program.costs[0].values())
    report.synops = sum(c[1] for c in costs if c[2]) / len(examples)
    report.dense_macs = sum(c[0] for c in costs if not c[2]) / len(examples)
    for layer in report.layers:
        layer["threshold"] = program.thresholds.get(layer["name"])
    report.warnings = _warnings(report, job)
    return report


def _first_inputs(program, job, example):
    if job.mode == "step":
        return next(iter(program.frames(example)))
    return {n: x[None] for n, x in zip(program.input_names, example)}


def _played(program, job, run, example, probe=True):
    """The first output at the end of a clip and all spikes, `(time, ...)`, of a file."""
    first, count = program.output_names[0], len(program.spike_names)
    if job.mode == "sequence":
        outputs = run.step(_first_inputs(program, job, example))
        spikes = [outputs[f"spikes_{i}"] for i in range(count)] if probe else None
        return outputs[first][0], spikes
    run.reset()
    steps = [run.step(frame) for frame in program.frames(example)]
    spikes = None
    if probe:
        spikes = [np.concatenate([s[f"spikes_{i}"] for s in steps]) for i in range(count)]
    return steps[-1][first][0], spikes


def _warnings(report, job):
    """What a user should know before the file is used."""
    limits = {None: 0.99999, "float16": 0.98, "dynamic": 0.98, "int16x8": 0.98, "int8": 0.9}
    limit, found = limits[job.quantize], []
    for layer in report.layers:
        share = layer["own agreement"]
        if share is not None and share < limit:
            found.append(f"{layer['name']}: {share:.3%} of spikes agree before any other differs")
        for row in report.quantization:
            coarse = 0.05 * (layer["threshold"] or np.inf)
            if f"{_name(layer['name'])}_membrane" in row["name"] and row["scale"] > coarse:
                found.append(
                    f"{layer['name']}: membrane potential in steps of {row['scale']:.3f}, more "
                    f"than 5 % of the threshold {layer['threshold']:g}"
                )
                break
    return found


if __name__ == "__main__":
    try:
        work(sys.argv[1])
    except Exception as error:
        names = {"kind": type(error).__name__, "message": str(error)}
        pathlib.Path(sys.argv[1], "error.json").write_text(json.dumps(list(names.values())))
        raise
