"""What an export reports: is the file equal, how large, how fast?"""

import dataclasses
import json

import numpy as np
from keras import tree

__all__ = ["ExportReport", "compare", "warnings"]


@dataclasses.dataclass
class ExportReport:
    """How an exported file compares with its model. Prints as a table.

    Attributes:
        mode, quantize, target, timesteps: As exported.
        examples: Number of examples compared.
        layers: For each spiking layer its name, firing rate, the share of spikes that agree
            (`"agreement"`, XNNPACK on, and `"agreement, built-in"`, off), and `"own agreement"`:
            that over the examples in which all layers in front agree, which leaves out what
            follows from a flip there (`None` if there is no such example); its `"threshold"`;
            its `"states"` in the file.
        flipped: Number of examples in which any spike differs (XNNPACK on).
        logits: Largest difference of an output, over examples without a flip; `None` if there is
            none.
        logits_flipped: The same over those with one.
        relative: The largest of `logits` relative to the size of that output, which is its largest
            magnitude in all examples.
        top1: Share of examples whose largest value of the first output is the same.
        bytes, operations, quantization: Size, number of operations by name, scales of tensors.
        partitions: Parts of the graph that XNNPACK runs.
        latency_ms: Median of one run, one thread.
        state_bytes: Size of the states of a step, as float32.
        initial_states: First value of each state.
        inputs, outputs: Names, shapes, types, scales and zero points, in the file's order.
        macs: Multiplications of convolutions and dense layers in a clip, as an ANN would do them.
        dense_macs: Those whose inputs are no whole numbers, and which have to be done.
        synops: Additions that spikes cause in the others.
        not_counted: Layers whose multiplications nobody knows.
        names: For each name in the file what it is in the model: an input, an output, or a state
            such as `"block/lif/membrane"`, of the second call of a layer `"lif:1/membrane"`. Names
            in files are made of letters, digits and `_`, no two alike; a state `NAME` is
            `NAME_out` after a step.
        tensors: Every tensor in the file: name, shape, type, whether it is constant, the code of
            0 (`"zero_point"`) and its `"scale"`: a list, empty in float32, one number, or one for
            each entry of `"axis"`.
        arithmetic: Every operation, in order: its name, the places of its inputs (-1: left out) and
            outputs in `tensors`; of those on integers also each `"multiplier"` and `"shift"`, see
            `keras_snn.export.c.factors.factors`, and `"limits"`, the least and largest code.
        weights: In C, how each convolution and dense layer stores them: its `"name"`, the number
            of `"weights"` and of `"zeros"` among them, whether these are left out
            (`"compressed"`), and the `"bytes"` beside `"uncompressed_bytes"`.
        arena_bytes: Memory that TensorFlow Lite Micro needs; `None` if it was not asked.
        warnings: What to look at.
        path: Where the file is.
    """

    mode: str
    quantize: str | None
    target: str
    timesteps: int
    examples: int
    bytes: int
    layers: list
    flipped: int
    logits: float | None
    logits_flipped: float | None
    top1: float
    operations: dict
    quantization: list
    inputs: list
    outputs: list
    partitions: int
    latency_ms: float
    state_bytes: int
    initial_states: dict
    relative: float | None = None
    arena_bytes: int | None = None
    macs: float = 0.0
    dense_macs: float = 0.0
    synops: float = 0.0
    not_counted: list = dataclasses.field(default_factory=list)
    names: dict = dataclasses.field(default_factory=dict)
    tensors: list = dataclasses.field(default_factory=list)
    arithmetic: list = dataclasses.field(default_factory=list)
    weights: list = dataclasses.field(default_factory=list)
    warnings: list = dataclasses.field(default_factory=list)
    path: str = ""

    def to_json(self, tensors=True):
        """The report as JSON; without `tensors` none of their scales, multipliers and shifts."""
        kept = self if tensors else dataclasses.replace(self, tensors=[], arithmetic=[])
        return json.dumps(dataclasses.asdict(kept), indent=1)

    @classmethod
    def from_json(cls, text):
        """A report from its JSON."""
        return cls(**json.loads(text))

    def __str__(self):
        kind = f"{self.mode}, {self.quantize or 'float32'}, T = {self.timesteps}"
        lines = [
            f"{self.path} ({kind}): {self.bytes / 1e3:.1f} kB, {self.latency_ms:.3g} ms",
            f"{'layer':40} {'rate':>8} {'agree':>10} {'built-in':>10} {'own':>10}",
        ]
        for layer in self.layers:
            shares = [layer[k] for k in ("agreement", "agreement, built-in", "own agreement")]
            shares = " ".join(f"{'-':>10}" if s is None else f"{s:10.4%}" for s in shares)
            lines.append(f"{layer['name'][:40]:40} {layer['rate']:8.4f} {shares}")
        if self.layers:
            lines.append(
                "(spikes equal to the Keras model's: agree as the file runs by default, built-in "
                "without XNNPACK, own as agree, of examples in which all layers above agree)"
            )
        lines += [
            f"same answer: {self.top1:.2%} of {self.examples} examples; {self.flipped} with a "
            "spike that differs",
            f"largest difference of outputs: {_number(self.logits)} without, "
            f"{_number(self.logits_flipped)} with such a spike",
            f"operations: {', '.join(f'{k} {v}' for k, v in self.operations.items())}; "
            f"{self.partitions} parts run by XNNPACK",
        ]
        lines.append(
            f"of {self.macs:.3g} multiplications, {self.dense_macs:.3g} are left and "
            f"{self.synops:.3g} additions by spikes"
        )
        if self.not_counted:
            lines.append(f"not counted: {', '.join(self.not_counted)}")
        if self.state_bytes:
            states = ", ".join(self.initial_states)
            lines.append(f"states: {self.state_bytes} bytes ({states})")
        few = [row for row in self.weights if row["compressed"]]
        if few:
            before, after = (
                sum(row[kind] for row in few) / 1e3 for kind in ("uncompressed_bytes", "bytes")
            )
            lines.append(
                f"weights of {len(few)} of {len(self.weights)} layers without their zeros: "
                f"{after:.1f} in place of {before:.1f} kB"
            )
        if self.arena_bytes:
            lines.append(f"arena: {self.arena_bytes} bytes")
        return "\n".join(lines + [f"look at: {warning}" for warning in self.warnings])


def _number(value):
    return "-" if value is None else f"{value:.2g}"


def compare(found, names, units=None):
    """The report's figures of equality.

    Args:
        found: For each example a dictionary from `"Keras"`, `"XNNPACK"` and `"built-in"` to
            `(outputs, spikes)`, with spikes `(time, ...)` of each layer, and `"file"` to
            `(outputs, None)`; one output, or a list.
        names: Names of the layers.
        units: What a spike is in the outputs of each layer (default: 1).
    """
    units = units or [1] * len(names)
    equal = {
        kind: np.array([_equal(row["Keras"][1], row[kind][1], units) for row in found])
        for kind in ("XNNPACK", "built-in")
    }
    layers = []
    for i, (name, unit) in enumerate(zip(names, units)):
        sizes = np.array([row["Keras"][1][i].size for row in found], "float64")
        ones = sum(float(np.abs(row["Keras"][1][i]).sum()) for row in found) / unit
        # Examples in which all layers before this one agree.
        first = np.all(equal["XNNPACK"][:, :i] == sizes_of(found, i), axis=1)
        layers.append(
            {
                "name": name,
                "rate": ones / sizes.sum(),
                "agreement": equal["XNNPACK"][:, i].sum() / sizes.sum(),
                "agreement, built-in": equal["built-in"][:, i].sum() / sizes.sum(),
                "own agreement": (
                    equal["XNNPACK"][first, i].sum() / sizes[first].sum() if first.any() else None
                ),
            }
        )
    same = np.all(equal["XNNPACK"] == sizes_of(found, len(names)), axis=1)
    pairs = [list(zip(*map(tree.flatten, (row["Keras"][0], row["file"][0])))) for row in found]
    differences = np.array([[np.abs(a - b).max() for a, b in outputs] for outputs in pairs])
    sizes = np.max([[np.abs(a).max() for a, _ in outputs] for outputs in pairs], axis=0)
    relative = (differences / np.maximum(sizes, np.finfo("float32").tiny)).max(axis=1)
    differences = differences.max(axis=1)
    answers = [outputs[0][0].argmax(-1) == outputs[0][1].argmax(-1) for outputs in pairs]
    return {
        "layers": layers,
        "flipped": int((~same).sum()),
        "logits": float(differences[same].max()) if same.any() else None,
        "logits_flipped": float(differences[~same].max()) if not same.all() else None,
        "relative": float(relative[same].max()) if same.any() else None,
        "top1": float(np.mean(answers)),
    }


def sizes_of(found, count):
    """Number of spikes of the first layers, `(examples, count)`."""
    return np.array([[a.size for a in row["Keras"][1][:count]] for row in found]).reshape(
        len(found), count
    )


def _equal(wanted, given, units):
    # Quantised spikes are whole numbers of their unit up to the steps of their scale.
    pairs = zip(wanted, given, units)
    return [int((np.round(b / unit) == np.round(a / unit)).sum()) for a, b, unit in pairs]


# Least share of spikes that should agree, and largest difference of outputs relative to their size
# where all spikes do, by quantisation. Float32 sums of a thousand terms in another order differ by
# some 1e-5 of the terms; float16 weights by 2 ** -11 each; int8 weights, and int8 activations, by
# half a step, 1/254 of the largest, at each of the layers behind the last neuron. The limits leave
# a factor of ten above that: what exceeds them is another computation, not rounding.
LIMITS = {
    None: (0.99999, 1e-4),
    "float16": (0.98, 0.005),
    "dynamic": (0.98, 0.05),
    "int16x8": (0.98, 0.05),
    "int8": (0.9, 0.1),
}


def warnings(report: ExportReport) -> list[str]:
    """What a user should know before the file is used."""
    (share, difference), found = LIMITS[report.quantize], []
    for layer in report.layers:
        own = layer["own agreement"]
        if own is not None and own < share:
            found.append(f"{layer['name']}: {own:.3%} of spikes agree before any other differs")
        for row in report.quantization:
            coarse = 0.05 * (layer["threshold"] or np.inf)
            if row["scale"] > coarse and any(name in row["name"] for name in layer["states"][:1]):
                found.append(
                    f"{layer['name']}: membrane potential in steps of {row['scale']:.3f}, more "
                    f"than 5 % of the threshold {layer['threshold']:g}"
                )
                break
    if report.relative is not None and report.relative > difference:
        found.append(
            f"outputs differ by {report.relative:.2%} of their size though all spikes agree"
        )
    return found
