"""The report of a conversion: what became of every layer, and what to expect."""

import dataclasses
from typing import Any

from keras_snn.utils.tables import table_lines

__all__ = ["ConversionReport", "LayerReport"]


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What became of one layer of the ANN.

    Attributes:
        layer: Its name.
        kind: Its class.
        action: `"converted"`, `"folded"`, `"kept"`, `"replaced"` or `"removed"`.
        note: How, or why.
        neuron: Name of the neuron layer that its ReLU became, or `None`.
        threshold: Threshold of these neurons.
        scale: What one of their spikes is worth in the ANN's units.
        firing_rate: Their mean spikes per neuron and step, or `None` if not measured.
    """

    layer: str
    kind: str
    action: str
    note: str = ""
    neuron: str | None = None
    threshold: float | None = None
    scale: float | None = None
    firing_rate: float | None = None


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """What `convert` did.

    Attributes:
        method: How thresholds were chosen.
        layers: A `LayerReport` of each layer, in the order of the model; a layer whose activation
            fires has one line for its weights and one for its neurons.
        ann: The ANN as it was understood, a Keras model: normalisation folded, max pooling
            replaced, no softmax. What the spiking network is to be compared with.
        fidelity: Largest difference of that ANN's outputs from the original's on the first
            calibration batch, relative to the largest output; not 0 only where layers were
            replaced, or by rounding.
        over_time: `AccuracyOverTime` on the calibration data (or its first examples): accuracy
            where labels were given, else the share of examples on which both networks agree, as
            its `measure` says; `None` if not measured.
    """

    method: str
    layers: tuple
    ann: Any
    fidelity: float
    over_time: Any = None

    def to_dict(self):
        """The report as plain data, for JSON; without `ann`."""
        return {
            "method": self.method,
            "fidelity": self.fidelity,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "over_time": None if self.over_time is None else self.over_time.to_dict(),
        }

    def __str__(self):
        def number(value, form):
            return "" if value is None else format(value, form)

        rows = [("layer", "class", "became", "threshold", "scale", "rate", "note")]
        for entry in self.layers:
            name = entry.layer if entry.neuron in (None, entry.layer) else entry.neuron
            rows.append(
                (
                    name,
                    entry.kind,
                    entry.action,
                    number(entry.threshold, ".4g"),
                    number(entry.scale, ".4g"),
                    number(entry.firing_rate, ".3f"),
                    entry.note,
                )
            )
        lines = table_lines(rows, left=len(rows[0]))
        lines.insert(1, "-" * max(map(len, lines)))
        counts = {}
        for entry in self.layers:
            counts[entry.action] = counts.get(entry.action, 0) + 1
        lines.append(
            f"{self.method}: " + ", ".join(f"{n} {action}" for action, n in counts.items())
        )
        lines.append(f"The ANN as understood differs from the original by {self.fidelity:.1e}")
        if self.over_time is not None:
            lines.append(str(self.over_time))
        return "\n".join(lines)
