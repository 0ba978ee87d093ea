"""What runs where: each neuron and layer on each backend and as each kind of file, by running it.

    python benchmarks/support.py
    python benchmarks/support.py --rows=LIF,PSN

Builds a small network around each layer, runs it on the three backends, which have to agree, writes
it as each kind of file, runs that, and compares. Writes the table to `docs/support.md`, with what
was said of each refusal. `make support` does so; without `--rows` the page is written anew.
"""

import contextlib
import dataclasses
import pathlib
import re
import tempfile
import warnings

from absl import app, flags
from common import FLAGS, answer, measure

flags.DEFINE_list("rows", [], "Layers to print, and not to write (default: all).")
BACKENDS = ("tensorflow", "jax", "torch")
STEPS = 4
PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs/support.md"


def networks():
    """Functions that make the network around each layer, by the layer's name."""
    import keras
    from keras import layers as kl

    from keras_snn import layers as snn

    def dense(units=6):
        return kl.Dense(units, kernel_initializer=keras.initializers.RandomNormal(0.3, 0.8, seed=1))

    def features(*parts):
        return lambda: keras.Sequential([keras.Input((STEPS, 5), name="x"), *[p() for p in parts]])

    def neuron(cls, **arguments):
        return features(dense, lambda: cls(**arguments), dense, snn.MeanOverTime)

    def norm(cls, *arguments):
        return features(dense, lambda: cls(*arguments), snn.LIF, dense, snn.MeanOverTime)

    def readout(cls, *arguments):
        return features(dense, snn.LIF, lambda: cls(*arguments))

    def encoder(cls, **arguments):
        parts = (lambda: cls(**arguments), dense, snn.LIF, dense, snn.MeanOverTime)
        return lambda: keras.Sequential([keras.Input((5,), name="x"), *[part() for part in parts]])

    def maps(layer):
        parts = [
            lambda: snn.FoldTime(kl.Conv2D(4, 3, padding="same", kernel_initializer=large())),
            snn.LIF,
            layer,
            lambda: snn.IF(v_reset=-0.2),
            lambda: snn.FoldTime(kl.Flatten()),
            dense,
            snn.MeanOverTime,
        ]
        return lambda: keras.Sequential([keras.Input((STEPS, 6, 6, 2), name="x"), *each(parts)])

    def each(parts):
        return [part() for part in parts]

    def large():
        return keras.initializers.RandomNormal(0.2, 0.6, seed=2)

    def step(cls, *arguments, **more):
        return maps(lambda: snn.FoldTime(cls(*arguments, **more)))

    def attention(cls, count, *arguments):
        def build():
            inputs = keras.Input((STEPS, 4, 8), name="x")
            spikes = [snn.LIF()(dense(8)(inputs)) for _ in range(count)]
            x = snn.FoldTime(kl.Flatten())(cls(*arguments)(spikes))
            return keras.Model(inputs, snn.MeanOverTime()(dense()(x)))

        return build

    def dual():
        inputs = keras.Input((STEPS, 4, 4, 8), name="x")
        x = snn.LIF()(dense(8)(inputs))
        coarse = snn.FoldTime(kl.Conv2D(16, 2, strides=2, kernel_initializer=large()))(x)
        x = snn.FoldTime(kl.Flatten())(snn.DualSpikeAttention(2)([x, coarse]))
        return keras.Model(inputs, snn.MeanOverTime()(dense()(x)))

    def residual():
        inputs = keras.Input((STEPS, 6, 6, 2), name="x")
        first = snn.LIF()(snn.FoldTime(kl.Conv2D(4, 3, kernel_initializer=large()))(inputs))
        conv = kl.Conv2D(4, 3, padding="same", kernel_initializer=large())
        x = snn.SpikeConnection("add")([snn.LIF()(snn.FoldTime(conv)(first)), first])
        x = snn.FoldTime(kl.GlobalAveragePooling2D())(x)
        return keras.Model(inputs, snn.MeanOverTime()(dense()(x)))

    neurons = (
        snn.IF,
        snn.LIF,
        snn.DecayLIF,
        snn.ParametricLIF,
        snn.AdaptiveLIF,
        snn.SynapticLIF,
        snn.DelayedLIF,
        snn.KLIF,
        snn.CLIF,
        snn.GLIF,
        snn.LIAF,
        snn.MPBNLIF,
        snn.STDBLIF,
        snn.QIF,
        snn.EIF,
        snn.Izhikevich,
        snn.ResonateAndFire,
        snn.SEAdLIF,
        snn.TwoCompartmentLIF,
        snn.ILIF,
        snn.TernaryIF,
        snn.TernaryLIF,
        snn.LeakyIntegrator,
        snn.Accumulator,
        snn.PSN,
    )
    return {
        "Neurons": {cls.__name__: neuron(cls) for cls in neurons}
        | {
            "SEAdLIF": neuron(snn.SEAdLIF, threshold=0.1),
            "MaskedPSN": neuron(snn.MaskedPSN, order=2),
            "SlidingPSN": neuron(snn.SlidingPSN, order=2),
            "Recurrent": features(
                dense, lambda: snn.Recurrent(snn.LIFCell(), dense()), dense, snn.MeanOverTime
            ),
        },
        "Layers of each step": {
            "Dense": features(dense, snn.IF, dense, snn.MeanOverTime),
            "Conv1D": features(
                dense,
                lambda: kl.Conv1D(4, 2, padding="causal", kernel_initializer=large()),
                snn.LIF,
                dense,
                snn.MeanOverTime,
            ),
            "Conv2D": step(kl.Conv2D, 4, 3),
            "DepthwiseConv2D": step(kl.DepthwiseConv2D, 3),
            "PaddedConv2D": step(snn.PaddedConv2D, 4, 3, padding="symmetric"),
            "MaxPooling2D": step(kl.MaxPooling2D, 2),
            "AveragePooling2D": step(kl.AveragePooling2D, 2),
            "SumPooling2D": step(snn.SumPooling2D, 2),
            "UpSampling2D": step(kl.UpSampling2D),
            "SpikeConnection": residual,
            "AlignedResizing2D": step(snn.AlignedResizing2D, (8, 8)),
            "ClipFloorShift": features(
                dense, lambda: snn.ClipFloorShift(4, 2.0), dense, snn.LIF, dense, snn.MeanOverTime
            ),
            "SpikingSelfAttention": attention(snn.SpikingSelfAttention, 3, 2, 1.0),
            "SpikeDrivenAttention": attention(snn.SpikeDrivenAttention, 3),
            "QKTokenAttention": attention(snn.QKTokenAttention, 2, 2),
            "QKChannelAttention": attention(snn.QKChannelAttention, 2),
            "DualSpikeAttention": dual,
        },
        "Layers across time": {
            "AxonalDelay": features(
                dense, snn.LIF, lambda: snn.AxonalDelay(2), dense, snn.IF, dense, snn.MeanOverTime
            ),
            "DelayedDense": features(
                lambda: snn.DelayedDense(6, 2), snn.LIF, dense, snn.MeanOverTime
            ),
            "DelayedConv1D": lambda: keras.Sequential(
                [
                    keras.Input((STEPS, 6, 3), name="x"),
                    snn.DelayedConv1D(4, 3, 2, padding="same"),
                    snn.LIF(),
                    snn.FoldTime(kl.Flatten()),
                    dense(),
                    snn.MeanOverTime(),
                ]
            ),
            "DelayedConv2D": maps(lambda: snn.DelayedConv2D(4, 3, 2, padding="same")),
            "DendriticLIF": features(
                lambda: snn.DendriticLIF(6, 2, threshold=0.1), dense, snn.MeanOverTime
            ),
            "SpikingMaxPooling": maps(snn.SpikingMaxPooling),
            "TimeConstantDropout": features(
                dense, snn.LIF, lambda: snn.TimeConstantDropout(0.5), dense, snn.MeanOverTime
            ),
            "ExpandSpikes": features(
                dense, snn.LIF, lambda: snn.ExpandSpikes(4), dense, snn.IF, dense, snn.MeanOverTime
            ),
            "SumSteps": features(
                dense, snn.LIF, lambda: snn.SumSteps(2), dense, snn.LIF, dense, snn.MeanOverTime
            ),
        },
        "Normalisation": {
            "BatchNormalization": norm(kl.BatchNormalization),
            "LayerNormalization": norm(kl.LayerNormalization),
            "ThresholdDependentBatchNormalization": norm(snn.ThresholdDependentBatchNormalization),
            "TemporalEffectiveBatchNormalization": norm(
                snn.TemporalEffectiveBatchNormalization, STEPS
            ),
            "BatchNormalizationThroughTime": norm(snn.BatchNormalizationThroughTime, STEPS),
        },
        "Encoders": {
            "RepeatTime": encoder(snn.RepeatTime, timesteps=STEPS),
            "ImpulseEncoder": encoder(snn.ImpulseEncoder, timesteps=STEPS),
            "LatencyEncoder": encoder(snn.LatencyEncoder, timesteps=STEPS),
            "PhaseEncoder": encoder(snn.PhaseEncoder, timesteps=STEPS),
            "PopulationEncoder": encoder(snn.PopulationEncoder, timesteps=STEPS, neurons=3),
            "PoissonEncoder": encoder(snn.PoissonEncoder, timesteps=STEPS, seed=0),
            "DeltaEncoder": features(
                lambda: snn.DeltaEncoder(0.2), dense, snn.LIF, dense, snn.MeanOverTime
            ),
        },
        "Readouts": {
            "MeanOverTime": readout(snn.MeanOverTime),
            "SumOverTime": readout(snn.SumOverTime),
            "MaxOverTime": readout(snn.MaxOverTime),
            "LastOverTime": readout(snn.LastOverTime),
            "FirstSpikeTime": readout(snn.FirstSpikeTime),
            "MembraneReadout": readout(snn.MembraneReadout),
            "Voting": readout(lambda: keras.Sequential([snn.MeanOverTime(), snn.Voting(2)])),
        },
    }


# Layers without a row, and where to look.
LEFT_OUT = {
    "DirectEncoder": "RepeatTime",
    "FoldTime": "Conv2D",
    "Neuron": "LIF",
    "SpikingRNN": "LIF",
}
# Layers that draw numbers, which are not the same on every backend.
RANDOM = ("PoissonEncoder",)


# Kinds of files: the mode, the target, the quantisation.
FILES = {
    "TFLite clip": ("sequence", "litert", None),
    "step": ("step", "litert", None),
    "int8": ("step", "litert", "int8"),
    "int16x8": ("step", "litert", "int16x8"),
    "TFLM int8": ("step", "tflm", "int8"),
    "C": ("step", "c", None),
    "C int8": ("step", "c", "int8"),
    "C int16x8": ("step", "c", "int16x8"),
    "ONNX": ("sequence", "onnx", None),
}
COLUMNS = (*BACKENDS, "fused", "profile", *FILES, "hls4ml", "NIR")


def clips(model):
    """Inputs, the same everywhere."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(-0.5, 2, (4, *model.input_shape[1:])).astype("float32")


def build(make):
    """The network with the same weights on every backend, not all alike."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    model, rng = make(), np.random.default_rng(1)
    for weight in model.weights:
        name = weight.path.rpartition("/")[2]
        if name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif name == "delays":
            weight.assign(rng.uniform(0, 2, weight.shape))
        elif name == "places":
            weight.assign(rng.integers(0, 2, weight.shape))
        elif len(weight.shape) == 1 and np.ptp(weight):  # drawn, by each backend's own numbers
            weight.assign(rng.uniform(0.1, 0.9, weight.shape))
        elif len(weight.shape) > 1:
            weight.assign(rng.normal(0.2, 0.6, weight.shape))
    return model


def on_backend(make):
    """What a network gives under this backend, or why there is nothing."""
    import numpy as np

    try:
        model = build(make)
        outputs = model.predict(clips(model), verbose=0)
        return outputs.tolist() if np.ptp(outputs) else "nothing fires in its network"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def files(model):
    """What becomes of each kind of file of a model."""
    found, programs = {}, {}
    for column, (mode, kind, quantize) in FILES.items():
        if mode not in programs:
            programs[mode] = attempt(program_of, model, mode)
        program = programs[mode]
        if isinstance(program, str):
            found[column] = program
            continue
        options = {"state": "explicit", "target": kind, "quantize": quantize}
        program.job = dataclasses.replace(program.job, options=options)
        found[column] = attempt(written, program)
    return found


def program_of(model, mode):
    """What a model computes, for files of one mode."""
    from keras_snn.export import worker
    from keras_snn.export.targets import Job

    data, steps = clips(model), STEPS
    job = Job("tflite", mode, steps, len(data), {}, "net")
    return worker.Program(model, job, {"representative": [data], "verify": [data]})


def written(program):
    """Has a file written and run; raises what is wrong with it."""
    import numpy as np

    from keras_snn.export import worker
    from keras_snn.export.targets import load

    kind = program.job.options["target"]
    target = load(kind if kind in ("c", "onnx") else "tflite")
    blob = target.convert(program)
    if kind == "tflm":
        target.check(program, blob, blob)
        return
    if target.suffix == ".tflite" and program.job.options["quantize"]:
        target.check(program, blob, blob)  # in another process, which a runtime may abort
    runner = next(iter(target.runners(program, blob).values()))
    for example in program.examples[:2]:
        (wanted,), *_ = program.reference(example)
        (found,), _ = worker._played(program, runner, example, probe=False)
        if program.job.options["quantize"] is None:
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def fpga(model):
    """Has a project of hls4ml compiled by g++ and run."""
    import numpy as np

    from keras_snn.export import hls4ml

    with tempfile.TemporaryDirectory() as folder:
        outputs, _ = hls4ml.simulate(hls4ml.convert(model, folder), clips(model))
    np.testing.assert_allclose(
        outputs[:, -1].ravel(), model.predict(clips(model), verbose=0).ravel(), atol=1e-4
    )


def nir(model):
    """Has a file of NIR written, without the readout, which is the host's work there."""
    import keras

    from keras_snn import export

    before = model.layers[-1].input
    export.to_nir(keras.Model(model.inputs, before))


def fused(model):
    """Whether whole sequences run as one operation, on all backends."""
    cells = [getattr(layer, "cell", None) for layer in model.layers[1:]]
    cells = [cell for cell in cells if cell is not None]
    specs = [getattr(cell, "fused_spec", lambda: None)() for cell in cells]
    return "yes" if specs and all(spec is not None for spec in specs) else "-"


def attempt(function, *arguments):
    """What a function returns, `"yes"` for nothing, or why it does not."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            result = function(*arguments)
    except AssertionError:
        return "its outputs are other ones"
    except Exception as error:
        return reason(str(error))
    return "yes" if result is None else result


def reason(message):
    """What a refusal says, without the layer and its place."""
    message = " ".join(message.split())
    layer = r"(of the tensor '.*'|\S+ \(\w+\))"
    message = re.sub(rf"^The layer {layer} can't be exported( to C)?: ", "", message)
    message = re.sub(r"^\S+ \(\w+\) can't be written for hls4ml: ", "", message)
    message = re.sub(r"^NIR can't say what \S+ \(\w+\) does: ", "", message)
    message = re.sub(r"can't write '\w+'", "can't write it", message)
    return message[:200]


def row(make):
    """The columns of a layer, under TensorFlow, which writes the files."""
    model = build(make)
    found = {"fused": fused(model), "profile": attempt(counted, model)}
    return found | files(model) | {"hls4ml": attempt(fpga, model), "NIR": attempt(nir, model)}


def counted(model):
    """Has operations counted; what the profile does not know is no success."""
    from keras_snn import analysis

    report = analysis.profile(model, clips(model))
    if report.uncharged:
        raise ValueError("its multiplications are not counted")


def under(backend, wanted):
    """Under this backend: the outputs of each layer's network; under TensorFlow the columns too."""
    found = {}
    for layers in networks().values():
        for name, make in layers.items():
            if wanted and name not in wanted:
                continue
            columns = row(make) if backend == "tensorflow" else {}
            found[name] = {"outputs": on_backend(make), **columns}
    return found


def joined(found):
    """The columns of each layer, from what each backend found."""
    import numpy as np

    rows = {}
    for name, columns in found["tensorflow"].items():
        rows[name] = dict(columns)
        wanted = rows[name].pop("outputs")
        for backend in BACKENDS:
            outputs = found[backend][name]["outputs"]
            same = not isinstance(outputs, str) and np.allclose(outputs, wanted, atol=1e-4)
            other = "it draws other numbers" if name in RANDOM else "other outputs"
            rows[name][backend] = outputs if isinstance(outputs, str) else "yes" if same else other
    return rows


def page(rows):
    """The page, in Markdown, of the layers that there are."""
    reasons, lines = {}, [HEAD]
    for group, layers in networks().items():
        lines += [
            f"## {group}",
            "",
            f"| | {' | '.join(TITLES)} |",
            "|---" * (len(TITLES) + 1) + "|",
        ]
        lines += [line(name, rows[name], reasons) for name in layers if name in rows]
        lines.append("")
    lines += ["## Why not", ""]
    lines += [f"{number}. {text}" for text, number in reasons.items()]
    return "\n".join(lines) + "\n"


def read(text):
    """The rows of a page: a dictionary from columns to what was found, by layer."""
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    known, rows = {"✓": "yes", "-": "-"}, {}
    for name, cells in re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE):
        found = [known.get(c) or reasons[re.match(r"\[(\d+)", c)[1]] for c in cells.split(" | ")]
        rows[name] = dict(zip(COLUMNS, found))
    return rows


def line(name, columns, reasons):
    """A row of the table; `reasons` get the numbers of refusals."""
    marks = [mark(columns[column], reasons) for column in COLUMNS]
    return f"| `{name}` | {' | '.join(marks)} |"


def mark(found, reasons):
    """What stands in the table: a tick, a dash, or the number of a refusal."""
    known = {"yes": "✓", "-": "-"}
    return known.get(found) or f"[{reasons.setdefault(found, len(reasons) + 1)}](#why-not)"


TITLES = [{"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}.get(c, c) for c in COLUMNS]
HEAD = """# What runs where

Each row is a small network around one layer, run on three backends, whose outputs have to agree
(within 1e-4), and written and run as each kind of file, whose outputs have to be those of the model
where they are floats. `make support` writes this page anew.

* fused: whole sequences run as one operation, forward and backward, on every backend (else step by
  step).
* profile: all operations are counted.
* TFLite clip, step, int8, int16x8: a whole clip in float32; one step with states in float32, int8,
  and int16 with int8 weights.
* TFLM int8: the int8 step loads and runs in TensorFlow Lite Micro.
* C, C int8, C int16x8: plain C of one step. ONNX: a whole clip. hls4ml: its C simulation. NIR: the
  network without its readout.
* ✓ it does; - it has no such thing; a number: why not, below.
"""


def main(argv):
    """The page, the rows asked for, or the part of one backend."""
    if FLAGS.only:
        answer(under(FLAGS.only, FLAGS.rows))
        return
    rows = f"--rows={','.join(FLAGS.rows)}"
    found = {backend: measure(__file__, backend, backend, rows) for backend in BACKENDS}
    for backend, results in found.items():
        if isinstance(results, str):
            raise RuntimeError(f"{backend}: {results}")
    results = joined(found)
    if not FLAGS.rows:
        PAGE.write_text(page(results))
        return
    reasons = {}
    for name, columns in results.items():
        print(line(name, columns, reasons))
    for text, number in reasons.items():
        print(f"{number}. {text}")


if __name__ == "__main__":
    flags.FLAGS.set_default("limit", 7200)
    app.run(main)
