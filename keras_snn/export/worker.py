"""The part of an export that TensorFlow does: graph, conversion, comparison with the model.

    KERAS_BACKEND=tensorflow python -m keras_snn.export.worker FOLDER

The folder holds the model, the job and the data that `to_tflite` put there; it gets the file and
the report, or the error.
"""

import importlib
import json
import pathlib
import sys

import keras
import numpy as np
from keras import tree

from keras_snn.analysis.rates import is_spiking
from keras_snn.export.lowering import Walk
from keras_snn.export.report import ExportReport, compare
from keras_snn.export.targets import Job, load

__all__ = ["Program", "work"]


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
    program, target = Program(model, job, data), load(job.format)
    blob, probe = target.convert(program), target.convert(program, probe=True)
    fields = target.check(program, blob, probe)
    report = _report(program, target, blob, probe)
    for name, value in fields.items():
        setattr(report, name, value)
    companions = target.companions(program, blob, report)
    for suffix, content in {target.suffix: blob, **companions}.items():
        (folder / f"file{suffix}").write_bytes(content)
    (folder / "report.json").write_text(report.to_json())


class Program:
    """The model as TensorFlow functions of one example."""

    def __init__(self, model, job, data):
        self.model, self.job, self.data = model, job, data
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

    @property
    def representative(self):
        """Examples that ranges are taken from, a list of lists of arrays."""
        return list(zip(*self.data.get("representative", ())))

    def _trace(self, states, shapes):
        import tensorflow as tf

        walk = Walk(self.model, self.job.timesteps, states, getattr(self, "timed_inputs", ()))
        specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
        tf.function(lambda *xs: walk.run(xs), autograph=False).get_concrete_function(*specs)
        return walk

    def module(self, probe=False, internal=False, floor=False):
        """A `tf.Module` and its signatures by name.

        Args:
            probe: Whether there are further outputs, the spikes of each layer.
            internal: Whether states are kept in variables.
            floor: See `Walk`.
        """
        import tensorflow as tf

        def walk_of(states):
            timed = () if states is None else self.timed_inputs
            return Walk(self.model, self.job.timesteps, states, timed, floor)

        def named(walk, outputs):
            found = dict(zip(self.output_names, outputs))
            if probe:
                found |= {f"spikes_{i}": walk.spikes[n] for i, n in enumerate(self.spike_names)}
            return {name: tf.identity(x, name=name) for name, x in found.items()}

        def clip(**inputs):
            walk = walk_of(None)
            outputs = walk.run([inputs[n] for n in self.input_names])
            return named(walk, outputs)

        def step(**inputs):
            states = {n: inputs[_name(n)] for n in self.initial}
            walk = walk_of(states)
            outputs = walk.run([inputs[n] for n in self.input_names])
            new = {f"{_name(n)}_out": tf.identity(walk.states[n]) for n in self.initial}
            return named(walk, outputs) | new

        def step_inside(**inputs):
            walk = walk_of({n: v.read_value() for n, v in variables.items()})
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
        elif internal:
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


def _examples(program):
    """Examples to compare with: given ones, or noise."""
    given = program.data.get("verify") or program.data.get("representative")
    if given is None:
        rng = np.random.default_rng(0)
        shapes = program._shapes(())
        given = [rng.uniform(size=(8, *s[1:])).astype("float32") for s in shapes]
    return list(zip(*(x[: program.job.samples] for x in given)))


def _report(program, target, blob, probe):
    """Compares a file that also gives spikes, and the one to keep, with the model."""
    job, examples, found = program.job, _examples(program), []
    runs = target.runners(program, probe)
    final = next(iter(target.runners(program, blob).values()))
    for example in examples:
        outputs, spikes = program.reference(example)
        row = {"Keras": (outputs[0], spikes)}
        for name, run in runs.items():
            row[name] = _played(program, job, run, example)
        row["file"] = (_played(program, job, final, example, probe=False)[0], None)
        found.append(row)
    report = ExportReport(
        mode=job.mode,
        quantize=job.options.get("quantize"),
        target=job.options.get("target", job.format),
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
    report.warnings = _warnings(report)
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


def _warnings(report):
    """What a user should know before the file is used."""
    limits = {None: 0.99999, "float16": 0.98, "dynamic": 0.98, "int16x8": 0.98, "int8": 0.9}
    limit, found = limits[report.quantize], []
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
