"""What a network spends, as a table: the counts of `profile`, and what they cost."""

import dataclasses
import json
from typing import Any

from keras_snn.utils import files
from keras_snn.utils.tables import table_lines

__all__ = ["ENERGY", "LayerProfile", "Profile"]

# Picojoules of a multiply-accumulate and of an accumulate.
ENERGY = {
    # Horowitz, "Computing's energy problem", ISSCC 2014: 45 nm, 0.9 V; add plus multiply.
    "45nm-float32": {"mac": 4.6, "ac": 0.9},
    "45nm-float16": {"mac": 1.5, "ac": 0.4},
    "45nm-int32": {"mac": 3.2, "ac": 0.1},
    "45nm-int8": {"mac": 0.23, "ac": 0.03},
    # Davies et al., "Loihi", IEEE Micro 2018: a synaptic operation; what is no spike is charged as
    # on a float32 host.
    "loihi": {"mac": 4.6, "ac": 23.6},
}


@dataclasses.dataclass(frozen=True)
class LayerProfile:
    """One layer's share. Counts are means of one example.

    Attributes:
        name: Its name.
        kind: Its class.
        output_shape: Shape of one example's output, with time.
        parameters: Number of its weights' entries.
        macs: Multiply-accumulates of one dense step; of a layer that looks across time, of the
            whole sequence.
        steps: How often it runs for one example: its steps that are not masked; 1 if its input
            does not change over time, or if it takes all steps at once.
        input_rate: Mean input per entry and step, of spikes (integers count with their value);
            `None` for inputs that are no spikes.
        synops: Accumulates that the spikes cause (`input_rate * steps * macs`, or exact).
        macs_spent: Multiply-accumulates spent, where what is multiplied is not spikes.
        undecided: Whether the input was 0 throughout, and nothing else tells that it is spikes.
        neurons: Number of neurons of a spiking layer.
        rate: Mean spikes per neuron and step of a spiking layer, else `None`.
        silent: Share of its neurons that never fired on the data.
        saturated: Share of its neurons that fired at every step.
        membrane: Mean, standard deviation, least and largest of its membrane potential, after
            reset, of the first examples of each batch; `None` if it has none.
    """

    name: str
    kind: str
    output_shape: tuple[int | None, ...]
    parameters: int
    macs: int = 0
    steps: float = 0.0
    input_rate: float | None = None
    synops: float = 0.0
    macs_spent: float = 0.0
    undecided: bool = False
    neurons: int = 0
    rate: float | None = None
    silent: float | None = None
    saturated: float | None = None
    membrane: tuple[float, float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a network spends on one example, in the mean of the data. Prints as a table.

    Attributes:
        name: The model's name.
        layers: A `LayerProfile` of each layer with weights or neurons, in the model's order.
        examples: Number of examples seen.
        ann_macs: Multiply-accumulates of the same network without spikes: each layer once for an
            image, once a step for a sequence.
        energy_table: Name of the figures in `ENERGY`.
        uncharged: Layers whose multiplications nobody knows, `"name (Class)"`: they are in no sum.
    """

    name: str
    layers: tuple[LayerProfile, ...]
    examples: int
    ann_macs: float
    energy_table: str
    uncharged: tuple[str, ...] = ()

    @property
    def synops(self) -> float:
        """Accumulates of all layers."""
        return sum(layer.synops for layer in self.layers)

    @property
    def macs(self) -> float:
        """Multiply-accumulates spent by all layers."""
        return sum(layer.macs_spent for layer in self.layers)

    @property
    def rate(self) -> float:
        """Mean spikes per neuron and step over all neurons."""
        found = [(x.rate, x.neurons * x.steps) for x in self.layers if x.rate is not None]
        return sum(r * n for r, n in found) / max(sum(n for _, n in found), 1)

    @property
    def energy(self) -> float:
        """Estimated energy of one example, in nanojoules; memory accesses are not in it."""
        return sum(map(self.layer_energy, self.layers))

    @property
    def ann_energy(self) -> float:
        """That of the same network without spikes, in nanojoules."""
        return self.ann_macs * ENERGY[self.energy_table]["mac"] / 1000

    def layer_energy(self, layer: LayerProfile) -> float:
        """Estimated energy of a layer, in nanojoules."""
        costs = ENERGY[self.energy_table]
        return (layer.synops * costs["ac"] + layer.macs_spent * costs["mac"]) / 1000

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain data."""
        return {
            "name": self.name,
            "examples": self.examples,
            "rate": self.rate,
            "synops": self.synops,
            "macs": self.macs,
            "ann_macs": self.ann_macs,
            "energy_nj": self.energy,
            "ann_energy_nj": self.ann_energy,
            "energy_table": self.energy_table,
            "uncharged": list(self.uncharged),
            "layers": [
                dataclasses.asdict(x) | {"energy_nj": self.layer_energy(x)} for x in self.layers
            ],
        }

    def to_json(self, path=None) -> str:
        """The profile as JSON.

        Args:
            path: Where to write it, if given.

        Returns:
            The text.
        """
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            files.write(path, text)
        return text

    def to_frame(self):
        """The layers as a pandas `DataFrame`.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("Frames need pandas: pip install pandas") from error
        return pandas.DataFrame(self.to_dict()["layers"]).set_index("name")

    def __str__(self) -> str:
        head = (
            *("layer", "output", "params", "MACs/step", "in rate", "SynOps", "MACs", "rate"),
            *("silent", "satur.", "nJ"),
        )
        rows = [head]
        for x in self.layers:
            rows.append(
                (
                    f"{x.name} ({x.kind})",
                    "x".join(map(str, x.output_shape)),
                    _short(x.parameters),
                    _short(x.macs),
                    "" if x.input_rate is None else f"{x.input_rate:.3f}",
                    _short(x.synops),
                    _short(x.macs_spent),
                    "" if x.rate is None else f"{x.rate:.3f}",
                    "" if x.silent is None else f"{x.silent:.1%}",
                    "" if x.saturated is None else f"{x.saturated:.1%}",
                    f"{self.layer_energy(x):.4g}" if x.synops or x.macs_spent else "",
                )
            )
        lines = [f"Profile of {self.name}, means of {self.examples} examples", *table_lines(rows)]
        rule = "-" * max(map(len, lines))
        lines[2:2] = [rule]
        ratio = self.energy / self.ann_energy if self.ann_energy else float("nan")
        lines += [
            rule,
            f"Parameters {sum(x.parameters for x in self.layers):,}, firing rate {self.rate:.3f}",
            f"SynOps {self.synops:,.0f}, MACs {self.macs:,.0f}; the same network as an ANN: "
            f"{self.ann_macs:,.0f} MACs",
            f"Energy ({self.energy_table}) {self.energy:,.4g} nJ, as an ANN "
            f"{self.ann_energy:,.4g} nJ: {ratio:.3f} times",
        ]
        if self.uncharged:
            lines.append(f"not charged: {', '.join(self.uncharged)}")
        undecided = [x.name for x in self.layers if x.undecided]
        if undecided:
            lines.append(f"undecided whether spikes, as they read nothing: {', '.join(undecided)}")
        return "\n".join(lines)


def _short(number):
    if not number:
        return ""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:.4g}"
