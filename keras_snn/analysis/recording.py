"""Recordings: spikes, membrane potentials and currents of any layer, without changing the model."""

import dataclasses
from collections.abc import Iterator

import keras
import numpy as np

from keras_snn import layers as snn
from keras_snn.analysis import probes

__all__ = ["WHAT", "Recording", "record"]

WHAT = ("spikes", "membrane", "charged", "currents")


@dataclasses.dataclass(frozen=True)
class Recording:
    """What layers did: `recording["lif"]["spikes"]` is an array `(examples, time, ...)`.

    Attributes:
        layers: By layer name and by kind, arrays.
        thresholds: Thresholds of spiking layers that have one.
        resets: Where a spike puts the membrane potential, for layers with a hard reset.
    """

    layers: dict[str, dict[str, np.ndarray]]
    thresholds: dict[str, np.ndarray]
    resets: dict[str, float] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def record(model, data, layers=None, what=("spikes",), batch_size=32, timesteps=None) -> Recording:
    """Records what layers of a model do.

    Args:
        model: A functional or Sequential model, nested ones too. It is not changed: stateful
            layers start from the states that they have, as in `predict`, and keep them.
        data: Inputs: an array, a list or dictionary of arrays, or what else `predict` takes.
        layers: Names of layers (or one name); by default all spiking ones. The layer `lif` of the
            nested model `block` is `"block/lif"`; the second call of a layer is `"lif:1"`. Any
            layer has `"spikes"`, which is its output, and `"currents"`, its input.
        what: What to record: `"spikes"`; `"membrane"`, the potential after each step's reset;
            `"charged"`, the potential that is compared with the threshold; `"currents"`. `None`
            stands for all that each layer has.
        batch_size: Batch size.
        timesteps: Number of steps for models on images; by default their own.

    Returns:
        A `Recording`, whose arrays are float32 where the network computes in 16 bits.

    Raises:
        TypeError: If the model, or one nested in it, is subclassed.
        ValueError: If a layer is unknown, or has no such quantity.

    Example:

    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([keras.Input((3, 1)), snn.IF(name="neuron")])
    >>> found = record(model, np.full((1, 3, 1), 0.6), what=("spikes", "charged"))
    >>> found["neuron"]["spikes"][0, :, 0], found["neuron"]["charged"][0, :, 0]
    (array([0., 1., 0.], dtype=float32), array([0.6, 1.2, 0.6], dtype=float32))
    """
    kinds = (what,) if isinstance(what, str) else tuple(WHAT if what is None else what)
    unknown = [kind for kind in kinds if kind not in WHAT]
    if unknown or not kinds:
        raise ValueError(f"`what` should be some of {WHAT}, got {kinds}.")
    trace = probes.traced(model, timesteps)
    known = {call.name: call for call in trace.calls}
    if layers is None:
        names = [name for name, call in known.items() if call.spikes]
    else:
        names = [layers] if isinstance(layers, str) else list(layers)
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise ValueError(f"The model has no layers {missing}. It has: {', '.join(known)}.")
    found = {(name, kind): _tensor(known[name], kind) for name in names for kind in kinds}
    for (name, kind), tensor in found.items():
        if tensor is None and what is not None:
            kind_of_layer = type(known[name].layer).__name__
            raise ValueError(f"{name} ({kind_of_layer}) has no {kind!r} to record.")
    places = [place for place, tensor in found.items() if tensor is not None]
    tensors = [found[place] for place in places]
    batches = probes.looked_at(model, trace.inputs, tensors, data, batch_size)
    result = {name: {} for name in names}
    for (name, kind), values in zip(places, zip(*batches)):
        result[name][kind] = np.concatenate(values)
    thresholds, resets = {}, {}
    for name in names:
        cell = getattr(known[name].layer, "cell", None)
        threshold = getattr(cell, "current_threshold", None)
        if threshold is not None:
            thresholds[name] = np.asarray(keras.ops.convert_to_numpy(threshold))
        if _plain(cell) and cell.reset == "hard":
            resets[name] = cell.v_reset
    return Recording(result, thresholds, resets)


def _plain(cell):
    """Whether a cell fires and resets as `SpikingCell` does."""
    return isinstance(cell, snn.SpikingCell) and all(
        getattr(type(cell), name) is getattr(snn.SpikingCell, name)
        for name in ("step", "reset_membrane")
    )


def _tensor(call, kind):
    if kind == "spikes":
        return call.output
    if kind == "currents":
        return call.input
    return probes.membrane_of(call, "after" if kind == "membrane" else "charged")
