"""The part of an export that TensorFlow does: graph, conversion, comparison with the model.

    KERAS_BACKEND=tensorflow python -m keras_snn.export.worker FOLDER

The folder holds the model, the job and the data that `keras_snn.export.job` put there; it gets the
files and the report, or the error.
"""

import importlib
import json
import pathlib
import re
import sys

import keras
import numpy as np
from keras import ops, tree

from keras_snn import graph
from keras_snn.export.lowering import Lowering
from keras_snn.export.names import unique
from keras_snn.export.report import ExportReport, compare, warnings
from keras_snn.export.targets import Job, load
from keras_snn.layers.rnn import reset_states

__all__ = ["Program", "work"]

# Names that TensorFlow takes.
LEGAL = r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*"


def work(folder):
    """Does the job that a folder describes."""
    folder = pathlib.Path(folder)
    job = Job(**json.loads((folder / "job.json").read_text()))
    for module in job.modules:
        importlib.import_module(module)
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    for layer in graph.flatten_layers(model):  # devices compute in float32, or as quantised
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
    """The model as TensorFlow functions of one example.

    Attributes:
        job: The `Job`.
        input_names, output_names: Names in the file, in the order of the model's.
        timed_inputs, timed_outputs: Whether each input and output is a sequence.
        state_names: Names in the file of the states of one step, by those of the lowering.
        spike_names: Names of the layers whose spikes are compared.
        spike_units: What a spike is in the outputs of each of them.
        names: What each name in the file stands for.
    """

    def __init__(self, model, job, data):
        self.model, self.job, self.data = model, job, data
        self.trace = graph.trace(model, job.timesteps)
        self.timed_inputs, self.timed_outputs = self.trace.timed, self.trace.timed_outputs
        self.products = [call.products for call in self.trace.calls]
        self.units = graph.spike_units(self.trace)
        self.one_step = job.mode == "step"
        self.shapes = [self._shape(i) for i in range(len(model.inputs))]
        lowering = self._look()
        self.initial = lowering.initial if self.one_step else {}
        self.thresholds = lowering.thresholds
        self.spike_names = list(lowering.spikes)
        units = {call.name: call.unit for call in self.trace.calls}
        self.spike_units = [units[name] for name in self.spike_names]
        kinds = (
            graph.input_names(model),
            graph.output_names(model),
            list(self.initial),
            [f"spikes_{i}" for i in range(len(self.spike_names))],
        )
        ours = [name for kind in kinds for name in kind]
        self.names = dict(zip(unique(ours), ours))
        legal = iter(self.names)
        self.input_names, self.output_names, states, self.probe_names = (
            [next(legal) for _ in kind] for kind in kinds
        )
        self.state_names = dict(zip(self.initial, states))
        for name in self.probe_names:  # they are in no file that is kept
            del self.names[name]

    def _shape(self, index):
        """Shape of an input, `(1, ...)`; without time where one step of it is given."""
        shape = self.trace.inputs[index].shape[1:]
        if None in shape:
            tensor = self.model.inputs[index]
            raise ValueError(
                f"The input {tensor.name!r} has the shape {tensor.shape}: only the batch and the "
                "number of steps may be open."
            )
        return (1, *shape[self.one_step and self.timed_inputs[index] :])

    def _look(self):
        """A lowering that has run."""
        import tensorflow as tf

        lowering = self._lowering({} if self.one_step else None)
        specs = [tf.TensorSpec(shape, tf.float32) for shape in self.shapes]
        try:
            tf.function(lambda *xs: lowering.run(xs), autograph=False).get_concrete_function(*specs)
        except ValueError as error:
            names = [layer.name for layer in graph.flatten_layers(self.model)]
            names = [name for name in names if not re.fullmatch(LEGAL, name)]
            if not names or "scope name" not in str(error):
                raise
            raise ValueError(
                f"TensorFlow can't have layers of the names {names}: a name begins with a letter "
                "of English or a digit, and has '_', '.', '-' and '/' besides."
            ) from error
        return lowering

    def _lowering(self, states, **options):
        return Lowering(self.model, self.trace, self.job.timesteps, states, **options)

    @property
    def representative(self):
        """Examples that ranges are taken from, a list of lists of arrays."""
        return list(zip(*self.data.get("representative", ())))

    @property
    def examples(self):
        """Examples to compare with: given ones, or noise."""
        given = self.data.get("verify") or self.data.get("representative")
        if given is None:
            rng = np.random.default_rng(0)
            shapes = [(8, *x.shape[1:]) for x in self.trace.inputs]
            given = [rng.uniform(size=shape).astype("float32") for shape in shapes]
        return list(zip(*(x[: self.job.samples] for x in given)))

    def states(self):
        """First values of the states, by their names in the file."""
        return {self.state_names[n]: v for n, v in self.initial.items()}

    def module(self, probe=False, internal=False, **options):
        """A `tf.Module` and its signatures by name.

        Args:
            probe: Whether there are further outputs, the spikes of each layer.
            internal: Whether states are kept in variables.
            **options: See `Lowering`.
        """
        import tensorflow as tf

        def run(states, inputs):
            lowering = self._lowering(states, **options)
            outputs = lowering.run([inputs[n] for n in self.input_names])
            found = dict(zip(self.output_names, outputs))
            if probe:
                spikes = (lowering.spikes[n] for n in self.spike_names)
                found |= dict(zip(self.probe_names, spikes))
            found = {name: tf.identity(x, name=name) for name, x in found.items()}
            return found, lowering.states

        def clip(**inputs):
            return run(None, inputs)[0]

        def step(**inputs):
            found, new = run({n: inputs[m] for n, m in self.state_names.items()}, inputs)
            return found | {f"{m}_out": tf.identity(new[n]) for n, m in self.state_names.items()}

        def step_inside(**inputs):
            found, new = run({n: v.read_value() for n, v in variables.items()}, inputs)
            for n, v in variables.items():
                v.assign(new[n])
            return found

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
        if not self.one_step:
            signatures = {"serving_default": signature(clip, frames)}
        elif internal:
            variables = {
                n: tf.Variable(v, name=self.state_names[n]) for n, v in self.initial.items()
            }
            module.states = list(variables.values())
            signatures = {
                "step": signature(step_inside, frames),
                "reset": signature(reset_inside, {}),
            }
        else:
            states = {n: v.shape for n, v in self.states().items()}
            signatures = {"step": signature(step, frames | states)}
        return module, signatures

    def frames(self, example):
        """What runs are given for one example, a dictionary each: one, or in step mode T."""
        for t in range(self.job.timesteps if self.one_step else 1):
            yield {
                name: (x[t] if self.one_step and timed else x)[None]
                for name, x, timed in zip(self.input_names, example, self.timed_inputs)
            }

    def reference(self, example):
        """What the Keras model itself gives.

        Args:
            example: A list of arrays, one for each input.

        Returns:
            Its outputs (in step mode those of the last step); the spikes of each layer; for each
            multiplication of `products` its number, that of additions by spikes, and whether it
            reads spikes.
        """
        import tensorflow as tf

        if not hasattr(self, "_reference"):
            self._reference = tf.function(self._recorded, autograph=False)
        reset_states(self.model)
        batch = self.model.inputs[0].shape[0] or 1
        outputs, spikes, costs = self._reference(
            [tf.constant(np.repeat(x[None], batch, axis=0)) for x in example]
        )
        last = [self.one_step and timed for timed in self.timed_outputs]
        return (
            [np.asarray(y)[0][-1] if t else np.asarray(y)[0] for y, t in zip(outputs, last)],
            [np.asarray(spikes[name])[0] for name in self.spike_names],
            [tuple(map(float, cost)) for cost in costs],
        )

    def _recorded(self, inputs):
        spikes, costs, products = {}, [], iter(zip(self.trace.calls, self.products))

        def rule(call):
            outputs = call()
            if call.spikes and not call.each_step:
                spikes[call.name] = tree.flatten(outputs)[0]
            traced, counted = next(products)
            for product in counted or ():
                units = [self.units.get(id(x)) for x in traced.inputs]
                costs.append(_cost(product, call, outputs, self.job.timesteps, units))
            return outputs

        return tree.flatten(graph.run(self.model, inputs, rule)), spikes, costs


def _cost(product, call, outputs, timesteps, units):
    """Multiplications, the additions in their place if inputs are spikes, and whether they are."""
    macs = product.macs * (timesteps if product.each_step else 1)
    if product.reads == "values":
        return macs, 0, False
    if product.reads == "output":
        factors, units = [outputs[:, :-1]], [call.unit]
    else:
        places = product.reads if isinstance(product.reads, tuple) else (product.reads,)
        factors, units = ([values[place] for place in places] for values in (call.inputs, units))
    factors = [graph.count_spikes(x[:1], unit) for x, unit in zip(factors, units)]
    spikes = [ops.all(ops.equal(x, ops.round(x))) for x in factors]
    if len(factors) == 2:  # what is no spikes counts everywhere
        counts = [ops.where(s, x, ops.ones_like(x)) for s, x in zip(spikes, factors)]
        return macs, ops.sum(product.multiply(*counts)), ops.logical_or(*spikes)
    (x,) = factors
    additions = macs * ops.mean(x) if product.reach is None else ops.sum(x * product.reach)
    return macs, additions, spikes[0]


def _report(program, target, blob, probe):
    """Compares a file that also gives spikes, and the one to keep, with the model."""
    job, examples, found, costs = program.job, program.examples, [], []
    runs = target.runners(program, probe)
    final = next(iter(target.runners(program, blob).values()))
    for example in examples:
        outputs, spikes, cost = program.reference(example)
        row = {"Keras": (outputs, spikes)}
        for name, run in runs.items():
            row[name] = _played(program, run, example)
        row["file"] = (_played(program, final, example, probe=False)[0], None)
        found.append(row)
        costs.append(cost)
    report = ExportReport(
        mode=job.mode,
        quantize=job.options.get("quantize"),
        target=job.options.get("target", job.format),
        timesteps=job.timesteps,
        examples=len(examples),
        bytes=len(blob),
        **compare(found, program.spike_names, program.spike_units),
        **final.describe(),
        latency_ms=final.latency(next(iter(program.frames(examples[0])))),
        state_bytes=int(sum(v.nbytes for v in program.initial.values())),
        initial_states={n: float(v.flat[0]) for n, v in program.states().items()},
        names=program.names,
    )
    for rows in zip(*costs):  # those of one multiplication in all examples
        macs, additions, spikes = np.array(rows).T
        report.macs += macs[0]
        if spikes.all():
            report.synops += additions.mean()
        else:
            report.dense_macs += macs[0]
    calls = zip(program.trace.calls, program.products)
    report.not_counted = [call.name for call, products in calls if products is None]
    for layer in report.layers:
        layer["threshold"] = program.thresholds.get(layer["name"])
        layer["states"] = [
            m for n, m in program.state_names.items() if n.startswith(f"{layer['name']}/")
        ]
    report.warnings = warnings(report)
    return report


def _played(program, run, example, probe=True):
    """The outputs at the end of a clip and all spikes, `(time, ...)`, of a file."""
    run.reset()
    steps = [run.step(frame) for frame in program.frames(example)]
    outputs = [steps[-1][name][0] for name in program.output_names]
    if not probe:
        return outputs, None
    return outputs, [np.concatenate([s[name] for s in steps]) for name in program.probe_names]


if __name__ == "__main__":
    try:
        work(sys.argv[1])
    except Exception as error:
        names = {"kind": type(error).__name__, "message": str(error)}
        pathlib.Path(sys.argv[1], "error.json").write_text(json.dumps(list(names.values())))
        raise
