"""Pictures of spiking networks, with matplotlib (extra `plot`).

Each function takes `ax`, or makes its own, and returns what it drew on; none shows a window.
"""

import numpy as np

from keras_snn.utils import files

__all__ = [
    "plot_accuracy",
    "plot_energy",
    "plot_feature_maps",
    "plot_membrane",
    "plot_raster",
    "plot_rates",
    "save_event_animation",
]


def _pyplot():
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plots need the extra `plot`: pip install keras-snn[plot]") from error
    return plt


def _axes(ax, size=None):
    return _pyplot().subplots(figsize=size)[1] if ax is None else ax


def _example(values, rank, name):
    values = np.asarray(values)
    if values.ndim < rank:
        raise ValueError(f"`{name}` should have rank {rank} or more, got shape {values.shape}.")
    return values


def plot_raster(spikes, ax=None, max_neurons=500, title=None):
    """A spike raster: a dot for each spike, time to the right, one row a neuron.

    Args:
        spikes: Spikes of one example, `(time, ...)`; maps are flattened.
        ax: matplotlib axes; new ones by default.
        max_neurons: Neurons to show at most, evenly chosen.
        title: Title of the plot.

    Returns:
        The axes.

    Raises:
        ValueError: If the rank is below 2.
        ImportError: If the extra `plot` is not installed.

    Example:

    ```python
    recording = analysis.record(model, images[:1])
    analysis.plot_raster(recording["block1_neuron1"]["spikes"][0])
    ```
    """
    spikes = _example(spikes, 2, "spikes")
    spikes = spikes.reshape(len(spikes), -1)
    ax = _axes(ax)
    neurons = np.unique(np.linspace(0, spikes.shape[1] - 1, max_neurons).astype(int))
    steps, rows = np.nonzero(spikes[:, neurons])
    ax.scatter(steps, rows, s=max(1.0, 600 / len(neurons)), marker="|", linewidths=1)
    ax.set_xlim(-0.5, len(spikes) - 0.5)
    ax.set_ylim(-0.5, len(neurons) - 0.5)
    ax.set_xlabel("timestep")
    ax.set_ylabel("neuron")
    if title:
        ax.set_title(title)
    return ax


def plot_rates(rates, ax=None):
    """Firing rates as bars, layer by layer.

    Args:
        rates: A dictionary from layer names to rates (as `firing_rates` gives), or a `Profile`.
        ax: matplotlib axes; new ones by default.

    Returns:
        The axes.
    """
    if hasattr(rates, "layers"):
        rates = {x.name: x.rate for x in rates.layers if x.rate is not None}
    ax = _axes(ax, (7, 1 + 0.22 * len(rates)))
    places = np.arange(len(rates))
    ax.barh(places, list(rates.values()))
    ax.set_yticks(places, list(rates), fontsize="small")
    ax.invert_yaxis()
    ax.set_xlabel("firing rate (spikes per neuron and step)")
    ax.figure.tight_layout()
    return ax


def plot_membrane(membrane, threshold=None, spikes=None, ax=None, neurons=5):
    """Membrane potentials over time, with the threshold, and spikes as dots.

    Args:
        membrane: Potentials of one example, `(time, ...)`; maps are flattened.
        threshold: Threshold, a number, drawn as a line.
        spikes: Spikes of the same shape, drawn where they happen.
        ax: matplotlib axes; new ones by default.
        neurons: Number of neurons, those that vary most, or with spikes those that fire about
            every third step; or a list of indices.

    Returns:
        The axes.
    """
    membrane = _example(membrane, 2, "membrane")
    membrane = membrane.reshape(len(membrane), -1)
    if spikes is not None:
        spikes = np.asarray(spikes).reshape(membrane.shape)
    if isinstance(neurons, int):
        worst = -membrane.std(0) if spikes is None else np.abs(spikes.mean(0) - 1 / 3)
        neurons = np.sort(np.argsort(worst, kind="stable")[:neurons])
    ax = _axes(ax)
    for index in neurons:
        (line,) = ax.plot(membrane[:, index], label=f"neuron {index}")
        if spikes is not None:
            fired = np.flatnonzero(spikes[:, index])
            ax.plot(fired, membrane[fired, index], "o", color=line.get_color())
    if threshold is not None:
        ax.axhline(float(np.mean(threshold)), color="gray", linestyle="--", label="threshold")
    ax.set_xlabel("timestep")
    ax.set_ylabel("membrane potential")
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # beside, not upon it
    ax.figure.tight_layout()
    return ax


def plot_feature_maps(spikes, channels=6, steps=8, data_format="channels_last"):
    """Spikes of feature maps over time: a row for each channel, a column for each step.

    Args:
        spikes: Spikes of one example, `(time, height, width, channels)`.
        channels: Number of channels, those that fire most.
        steps: Number of steps, evenly chosen.
        data_format: Where the channels are.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: If the rank is not 4.
    """
    spikes = np.asarray(spikes)
    if spikes.ndim != 4:
        raise ValueError(f"`spikes` should have rank 4, got shape {spikes.shape}.")
    if data_format == "channels_first":
        spikes = np.moveaxis(spikes, 1, -1)
    chosen = np.argsort(-spikes.sum((0, 1, 2)), kind="stable")[:channels]
    times = np.unique(np.linspace(0, len(spikes) - 1, steps).round().astype(int))
    figure, axes = _pyplot().subplots(
        len(chosen),
        len(times),
        figsize=(1.1 * len(times) + 0.6, 1.1 * len(chosen) + 0.4),
        squeeze=False,
    )
    top = max(spikes.max(), 1e-9)
    for row, channel in zip(axes, chosen):
        for ax, t in zip(row, times):
            ax.imshow(spikes[t, ..., channel], cmap="gray_r", vmin=0, vmax=top)
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(f"ch {channel}", fontsize="small")
    for ax, t in zip(axes[0], times):
        ax.set_title(f"t = {t}", fontsize="small")
    figure.tight_layout()
    return figure


def plot_accuracy(found, ax=None, ann_accuracy=None):
    """Accuracy against the number of steps.

    Args:
        found: An `AccuracyOverTime`.
        ax: matplotlib axes; new ones by default.
        ann_accuracy: Accuracy of the ANN, a share of 1, drawn as a line.

    Returns:
        The axes.
    """
    ax = found.plot(_axes(ax))
    if ann_accuracy is not None:
        ax.axhline(100 * ann_accuracy, color="gray", linestyle="--", label="ANN")
        ax.legend()
    return ax


def plot_energy(profile, ax=None):
    """Energy by layer, with and without memory accesses, and the totals as an SNN and as an ANN.

    Args:
        profile: A `Profile`.
        ax: matplotlib axes; new ones by default.

    Returns:
        The axes.
    """
    rows = [
        (x.name, profile.layer_energy(x), profile.layer_energy(x, memory=True))
        for x in profile.layers
    ]
    rows = [row for row in rows if row[2]]
    rows += [
        ("all, spiking", profile.energy, profile.total_energy),
        ("all, as an ANN", profile.ann_energy, profile.ann_total_energy),
    ]
    names, operations, totals = zip(*rows)
    ax, places = _axes(ax, (7, 1 + 0.22 * len(rows))), np.arange(len(rows))
    # Both from 0: lengths on a logarithmic axis can't be added.
    ax.barh(places, totals, label=f"with memory ({profile.memory_table})", color="C0", alpha=0.4)
    ax.barh(places, operations, label=f"operations ({profile.energy_table})", color="C0")
    ax.set_yticks(places, names, fontsize="small")
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlabel("energy of one example (nJ)")
    ax.legend(fontsize="small")
    ax.figure.tight_layout()
    return ax


def save_event_animation(frames, path, fps=10, data_format="channels_last"):
    """Event frames as an animated GIF: ON events red, OFF events blue.

    Args:
        frames: Frames of one recording, `(time, height, width, polarities)`, 1 or 2 polarities.
        path: Where to write the GIF; an existing one is replaced once the new one is complete.
        fps: Frames in a second.
        data_format: Where the polarities are.

    Returns:
        The path.

    Raises:
        ValueError: If the shape is another one, or no GIF can be written to `path`.
        ImportError: If the extra `plot` is not installed.
    """
    files.check_path(path, [".gif"])
    frames = np.asarray(frames, "float32")
    if data_format == "channels_first" and frames.ndim == 4:
        frames = np.moveaxis(frames, 1, -1)
    if frames.ndim != 4 or frames.shape[-1] not in (1, 2):
        raise ValueError(
            "`frames` should be (time, height, width, 1 or 2 polarities), got shape "
            f"{frames.shape}."
        )
    _pyplot()
    from PIL import Image

    strength = np.clip(frames / max(frames.max(), 1e-9), 0, 1) ** 0.5
    on, off = strength[..., -1], strength[..., 0] if frames.shape[-1] == 2 else 0 * strength[..., 0]
    colors = 1 - np.stack([off, np.maximum(on, off), on], -1)
    scale = max(1, 256 // frames.shape[1])
    pictures = [
        Image.fromarray((255 * c).astype("uint8").repeat(scale, 0).repeat(scale, 1)) for c in colors
    ]
    with files.replacing(path) as (part,):
        pictures[0].save(
            part, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0
        )
    return path
