"""What a network spends, as a table: the counts of `profile`, and what they cost."""

import dataclasses
import json
from typing import Any

from keras_snn.analysis.energy import Work, cost
from keras_snn.utils import files
from keras_snn.utils.tables import table_lines

__all__ = ["LayerProfile", "Profile"]

# What a network is compared in, besides the figures that were asked for.
_COMPARED = ("45nm-float32", "45nm-int8")
_NO_WORK = Work()


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
        saturated: Share of its neurons that fired at every step, integer spikes as often as they
            can.
        membrane: Mean, standard deviation, least and largest of its membrane potential, after
            reset, of the first examples of each batch; `None` if it has none.
        fixed: The `Work` that spikes don't change: products of values, biases, updates of neurons,
            normalisation that does not fold into weights.
        driven: The `Work` that spikes cause: of a product, those that come in, of neurons, those
            that go out.
        ann: The `Work` of the same layer without spikes.
        figures: Name of the figures of its energy in `ENERGY`, where they are not the profile's.
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
    fixed: Work = _NO_WORK
    driven: Work = _NO_WORK
    ann: Work = _NO_WORK
    figures: str | None = None


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
        memory_table: Name of the figures of memory accesses in `MEMORY`.
    """

    name: str
    layers: tuple[LayerProfile, ...]
    examples: int
    ann_macs: float
    energy_table: str
    uncharged: tuple[str, ...] = ()
    memory_table: str = "sram-45nm"

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
        """Estimated energy of the operations of one example, in nanojoules."""
        return sum(map(self.layer_energy, self.layers))

    @property
    def total_energy(self) -> float:
        """That with its memory accesses and the computation of their addresses."""
        return sum(self.layer_energy(layer, memory=True) for layer in self.layers)

    @property
    def ann_energy(self) -> float:
        """That of the operations of the same network without spikes, in nanojoules."""
        return sum(self.layer_energy(layer, "ann") for layer in self.layers)

    @property
    def ann_total_energy(self) -> float:
        """That of the same network without spikes with its memory accesses."""
        return sum(self.layer_energy(layer, "ann", memory=True) for layer in self.layers)

    def layer_energy(
        self, layer: LayerProfile, what="spiking", memory=False, figures=None
    ) -> float:
        """Estimated energy of a layer, in nanojoules.

        Args:
            layer: One of `layers`.
            what: `"spiking"`: all of it; `"fixed"`: what spikes don't change; `"driven"`: what
                they cause; `"ann"`: that of the same layer without spikes.
            memory: Whether memory accesses are in it.
            figures: Name of the figures of operations; by default the layer's or the profile's.

        Returns:
            A number.
        """
        work = layer.fixed + layer.driven if what == "spiking" else getattr(layer, what)
        figures = figures or layer.figures or self.energy_table
        return cost(work, figures, self.memory_table if memory else None) / 1000

    def break_even(self, layer=None, memory=False, figures=None) -> float | None:
        """The rate below which spikes need less energy than the same network without them.

        Args:
            layer: One of `layers`, whose `input_rate` it is; by default that of the network, its
                `rate`, where all layers' rates grow and shrink by the same factor.
            memory: Whether memory accesses count.
            figures: Name of the figures of operations for both networks.

        Returns:
            Spikes per neuron and step; 0 if none is low enough, `None` if nothing depends on
            spikes, or there were none to tell by.
        """
        layers, rate = (self.layers, self.rate) if layer is None else ((layer,), layer.input_rate)

        def total(what):
            return sum(self.layer_energy(x, what, memory, figures) for x in layers)

        driven = total("driven")
        if not rate or not driven or not self.ann_macs:
            return None
        return max(total("ann") - total("fixed"), 0.0) / driven * rate

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
            "total_energy_nj": self.total_energy,
            "ann_total_energy_nj": self.ann_total_energy,
            "memory_table": self.memory_table,
            "break_even": self.break_even(),
            "total_break_even": self.break_even(memory=True),
            "uncharged": list(self.uncharged),
            "layers": [
                dataclasses.asdict(x)
                | {
                    "energy_nj": self.layer_energy(x),
                    "total_energy_nj": self.layer_energy(x, memory=True),
                    "break_even": self.break_even(x),
                    "total_break_even": self.break_even(x, memory=True),
                }
                for x in self.layers
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
        head = ("layer", "output", "params", "MACs/step", "in rate", "SynOps", "MACs", "rate")
        activity, spent = [(*head, "silent", "satur.")], []
        for x in self.layers:
            activity.append(
                (
                    f"{x.name} ({x.kind})",
                    "x".join(map(str, x.output_shape)),
                    _short(x.parameters),
                    _short(x.macs),
                    _share(x.input_rate),
                    _short(x.synops),
                    _short(x.macs_spent),
                    _share(x.rate),
                    "" if x.silent is None else f"{x.silent:.1%}",
                    "" if x.saturated is None else f"{x.saturated:.1%}",
                )
            )
            spent.append((x.name, *self._comparison((x,), x)))
        figures = dict.fromkeys((self.energy_table, *_COMPARED))
        if any(x.figures for x in self.layers):  # each layer has its own
            figures = [None]
        for name in figures:
            label = f"all, {name}" if name else "all"
            spent.append((label, *self._comparison(self.layers, None, name)))
        head = ("nJ of", "operations", "as an ANN", "wins below")
        lines = [
            f"Profile of {self.name}, means of {self.examples} examples",
            *table_lines(activity),
            "",
            *table_lines([(*head, f"with {self.memory_table}", "as an ANN", "wins below"), *spent]),
            "",
            f"Parameters {sum(x.parameters for x in self.layers):,}, firing rate {self.rate:.3f}",
            f"SynOps {self.synops:,.0f}, MACs {self.macs:,.0f}; the same network as an ANN: "
            f"{self.ann_macs:,.0f} MACs",
        ]
        found = [(name, self.break_even(None, True, name)) for name in figures]
        found = ", ".join(f"{_below(rate)} ({name})" for name, rate in found if rate is not None)
        if found:
            lines.append(
                f"With memory accesses, spikes need less than an ANN below a firing rate of {found}"
            )
        if self.uncharged:
            lines.append(f"not charged: {', '.join(self.uncharged)}")
        undecided = [x.name for x in self.layers if x.undecided]
        if undecided:
            lines.append(f"undecided whether spikes, as they read nothing: {', '.join(undecided)}")
        return "\n".join(lines)

    def _comparison(self, layers, layer, figures=None):
        """Cells: energy, that of the ANN, and the rate below which spikes need less."""
        cells = []
        for memory in (False, True):
            for what in ("spiking", "ann"):
                energy = sum(self.layer_energy(x, what, memory, figures) for x in layers)
                cells.append(f"{energy:.4g}" if energy else "")
            cells.append(_below(self.break_even(layer, memory, figures)))
        return cells


def _below(rate):
    if rate is None:
        return ""
    return "never" if rate == 0 else "always" if rate >= 1 else f"{rate:.1%}"


def _share(rate):
    return "" if rate is None else f"{rate:.3f}"


def _short(number):
    if not number:
        return ""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:.4g}"
