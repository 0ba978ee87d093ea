"""Pictures of spiking networks, with matplotlib (extra `plot`).

Each function takes `ax`, or makes its own, and returns what it drew on; none shows a window. Fonts
and the colours of text and ground are those of matplotlib's style. Two come with the package:
`plt.style.use("keras_snn.analysis.light")`, or `"keras_snn.analysis.dark"` for dark pages.
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
    "plot_segmentation",
    "save_event_animation",
]


# Told apart by colour-blind people, and seen on light and on dark grounds (a test computes both).
COLORS = BLUE, ORANGE, PURPLE = "#3b82d6", "#dd5f0d", "#a5638a"


def pyplot():
    """Matplotlib, or an error that names the extra."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('Plots need the extra `plot`: pip install "keras-snn[plot]"') from error
    return plt


def _axes(ax, size=None):
    """`ax`, or new axes, without a box around them."""
    if ax is None:
        _, ax = pyplot().subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _panels(ax, heights, size=None, gap=0.0):
    """Panels from the top to the bottom of `ax`, with these shares of its height."""
    ax = _axes(ax, size)
    ax.set_axis_off()
    unit = (1 - gap * (len(heights) - 1)) / sum(heights)
    panels, top = [], 1.0
    for height in heights:
        top -= height * unit
        panels.append(_axes(ax.inset_axes([0, top, 1, height * unit])))
        top -= gap
    return panels


def _gray():
    """The colour of text, which suits the ground."""
    return pyplot().rcParams["text.color"]


def _legend_above(ax, **kwargs):
    """One row of labels above what is drawn, where it hides nothing."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    return ax.legend(fontsize="small", frameon=False, **place, **kwargs)


def _bars(ax, names, values, labels, **kwargs):
    """Horizontal bars, the first on top, each with its label behind it."""
    bars = ax.barh(np.arange(len(names)), values, **kwargs)
    ax.set_yticks(np.arange(len(names)), names, fontsize="small")
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.bar_label(bars, labels, padding=3, fontsize="small")
    ax.margins(x=0.25)  # room for the labels


def _example(values, rank, name):
    values = np.asarray(values)
    if values.ndim < rank:
        raise ValueError(f"`{name}` should have rank {rank} or more, got shape {values.shape}.")
    return values


def _numbers(spikes):
    """Refuses NaN, which would be drawn as spikes."""
    if np.isnan(spikes).any():
        raise ValueError(f"`spikes` has {np.isnan(spikes).sum()} values that are NaN.")


def plot_raster(spikes, ax=None, max_neurons=500, title=None):
    """A spike raster: a mark for each spike, time to the right, one row a neuron.

    Neurons are sorted, those that fire most on top; beside them stand their firing rates. The axis
    says how many of all neurons are silent.

    Args:
        spikes: Spikes of one example, `(time, ...)`; maps are flattened.
        ax: matplotlib axes; new ones by default.
        max_neurons: Neurons to show at most, evenly chosen among the sorted ones.
        title: Title of the plot.

    Returns:
        The axes.

    Raises:
        ValueError: If the rank is below 2, or a value is NaN.
        ImportError: If the extra `plot` is not installed.

    Example:

    ```python
    recording = analysis.record(model, images[:1])
    analysis.plot_raster(recording["block1_neuron1"]["spikes"][0])
    ```
    """
    spikes = _example(spikes, 2, "spikes")
    _numbers(spikes)
    spikes = spikes.reshape(len(spikes), -1)
    total, steps = spikes.shape[1], len(spikes)
    rates = np.abs(spikes).mean(0)
    silent = np.mean(rates == 0)
    chosen = np.argsort(rates, kind="stable")
    chosen = chosen[np.unique(np.linspace(0, total - 1, max_neurons).astype(int))]
    spikes, rates = spikes[:, chosen], rates[chosen]
    ax, rows = _axes(ax), np.arange(len(chosen))
    times, places = np.nonzero(spikes)
    width = np.clip(0.5 * 72 * ax.get_window_extent().width / ax.figure.dpi / steps, 0.8, 5)
    ax.vlines(times, places - 0.5, places + 0.5, color=BLUE, linewidth=width)
    ax.set_xlim(-0.5, steps - 0.5)
    ax.set_ylim(-0.5, len(chosen) - 0.5)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_yticks([])
    ax.set_xlabel("timestep")
    shown = "neurons" if total == len(chosen) else f"of {total:,} neurons"
    ax.set_ylabel(f"{len(chosen):,} {shown}, {silent:.0%} silent")
    if title:
        ax.set_title(title, loc="left")
    side = _axes(ax.inset_axes([1.03, 0, 0.17, 1], sharey=ax))
    side.fill_betweenx(rows, rates, step="mid", color=ORANGE, linewidth=0)
    side.set_xlim(0, max(rates.max(), 1e-9))
    side.tick_params(labelleft=False, left=False)
    side.set_xlabel("rate")
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
    ax = _axes(ax, (7, 1 + 0.24 * len(rates)))
    values = list(rates.values())
    _bars(ax, list(rates), values, [f"{rate:.3f}" for rate in values], color=BLUE)
    ax.set_xlabel("firing rate (spikes per neuron and step)")
    return ax


def plot_membrane(
    membrane,
    threshold=None,
    spikes=None,
    ax=None,
    neurons=3,
    *,
    charged=None,
    currents=None,
    reset=None,
):
    """Membrane potentials over time, a panel for each neuron, with threshold, spikes and input.

    With the charged potentials too the line is a textbook's: it rises to what is compared with the
    threshold, and falls at a spike to where the reset puts it.

    Args:
        membrane: Potentials of one example, `(time, ...)`; maps are flattened. `record` gives them
            after each step's reset (`"membrane"`) or as compared with the threshold (`"charged"`).
        threshold: Threshold, a number, drawn as a line.
        spikes: Spikes of the same shape, drawn above.
        ax: matplotlib axes, which the panels fill; new ones by default.
        neurons: Number of neurons, those that vary most, or with spikes some that fire seldom to
            often (at 15 to 50 % of the steps, where there are such); or a list of indices.
        charged: Charged potentials of the same shape, before the reset.
        currents: Input currents of the same shape, drawn below.
        reset: Where a hard reset puts the potential, a number, drawn as a line.

    Returns:
        A list of the axes of the potentials, one for each neuron.

    Raises:
        ValueError: If the shapes differ, or the rank is below 2.

    Example:

    ```python
    kinds = ("spikes", "membrane", "charged", "currents")
    found = analysis.record(model, images[:1], "lif", kinds)
    values = {kind: array[0] for kind, array in found["lif"].items()}
    levels = {"threshold": found.thresholds["lif"], "reset": found.resets.get("lif")}
    analysis.plot_membrane(**levels, **values)
    ```
    """
    membrane = _example(membrane, 2, "membrane")
    shape, steps = membrane.shape, np.arange(len(membrane))
    given = {"membrane": membrane, "spikes": spikes, "charged": charged, "currents": currents}
    for name, values in given.items():
        if values is not None and np.shape(values) != shape:
            raise ValueError(f"`{name}` should have the shape {shape}, got {np.shape(values)}.")
    given = {
        name: np.asarray(values).reshape(len(membrane), -1)
        for name, values in given.items()
        if values is not None
    }
    if isinstance(neurons, int):
        neurons = _telling(given["membrane"], given.get("spikes"), neurons)
    panels = _panels(ax, [1] * len(neurons), (7, 0.6 + 1.7 * len(neurons)), gap=0.05)
    heights = [0.4] * (spikes is not None) + [3] + [1] * (currents is not None)
    levels = (("threshold", threshold, "--"), ("reset", reset, ":"))
    shown, words = [], {"fontsize": "small", "ha": "right", "va": "center"}
    for index, panel in zip(neurons, panels):
        parts = _panels(panel, heights, gap=0.04)
        main = parts[heights.index(3)]
        of = {name: values[:, index] for name, values in given.items()}
        x, y = steps, of["membrane"]
        if charged is not None:
            x, y = np.repeat(steps, 2), np.stack([of["charged"], y], -1).ravel()
        main.plot(x, y, color=BLUE, label="membrane potential")
        for label, level, line in levels:
            if level is not None:
                height = float(np.mean(level))
                main.axhline(height, color=_gray(), ls=line, lw=1, alpha=0.7, label=label)
        main.margins(y=0.1)  # a peak, and a line at the lowest value, are seen whole
        names = [f"neuron {index}"]
        if spikes is not None:
            parts[0].vlines(np.flatnonzero(of["spikes"]), 0, 1, color=ORANGE, lw=2)
            parts[0].spines[:].set_visible(False)
            parts[0].set_yticks([])
            names.insert(0, "spikes")
        if currents is not None:
            edges = np.arange(len(steps) + 1) - 0.5
            parts[-1].stairs(of["currents"], edges, fill=True, color=PURPLE)
            parts[-1].yaxis.get_major_locator().set_params(nbins=2)
            names.append("input")
        for part, name in zip(parts, names):
            part.set_xlim(-0.5, len(steps) - 0.5)
            part.tick_params(labelbottom=False, bottom=False, labelsize="small")
            part.set_ylabel(name, rotation=0, **words)
            part.yaxis.set_label_coords(-0.09, 0.5)  # one below the other
        shown.append(main)
        if len(shown) == 1:
            handles, labels = main.get_legend_handles_labels()
            _legend_above(parts[0], handles=handles, labels=labels, ncols=len(labels))
    parts[-1].tick_params(labelbottom=True, bottom=True)
    parts[-1].xaxis.get_major_locator().set_params(integer=True)
    parts[-1].set_xlabel("timestep")
    return shown


def _telling(membrane, spikes, count):
    """Indices of neurons whose traces tell something."""
    if spikes is None:
        return np.sort(np.argsort(-membrane.std(0), kind="stable")[:count])
    rates, chosen = np.abs(spikes).mean(0), []
    for rate in np.linspace(0.15, 0.5, min(count, len(rates))):
        distance = np.abs(rates - rate)
        distance[chosen] = np.inf
        nearest = np.flatnonzero(distance == distance.min())
        chosen.append(nearest[np.argmax(membrane[:, nearest].std(0))])
    return chosen


def plot_feature_maps(spikes, channels=6, steps=8, data_format="channels_last", title=None):
    """Spikes of feature maps over time: a row for each channel, a column for each step.

    Args:
        spikes: Spikes of one example, `(time, height, width, channels)`.
        channels: Number of channels, those that fire most.
        steps: Number of steps, evenly chosen.
        data_format: Where the channels are.
        title: Title of the picture.

    Returns:
        The axes, an array `(channels, steps)`.

    Raises:
        ValueError: If the rank is not 4, or a value is NaN.
    """
    spikes = np.asarray(spikes)
    if spikes.ndim != 4:
        raise ValueError(f"`spikes` should have rank 4, got shape {spikes.shape}.")
    _numbers(spikes)
    if data_format == "channels_first":
        spikes = np.moveaxis(spikes, 1, -1)
    chosen = np.argsort(-spikes.sum((0, 1, 2)), kind="stable")[:channels]
    times = np.unique(np.linspace(0, len(spikes) - 1, steps).round().astype(int))
    plt = pyplot()
    figure, axes = plt.subplots(
        len(chosen),
        len(times),
        figsize=(1.1 * len(times) + 1.6, 1.1 * len(chosen) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    top = max(spikes.max(), 1e-9)
    counts = bool(np.all(spikes == spikes.astype(int)) and 0 <= spikes.min() <= top <= 8)
    figure.suptitle(title, fontsize="medium")
    colors = {"cmap": "viridis", "vmin": 0, "vmax": top}
    if counts:  # a colour for each
        levels = int(top) + 1
        colors = {"cmap": plt.get_cmap("viridis", levels), "vmin": -0.5, "vmax": levels - 0.5}
    for row, channel in zip(axes, chosen):
        for ax, t in zip(row, times):
            image = ax.imshow(spikes[t, ..., channel], **colors)
            ax.spines[:].set_visible(False)
            ax.set_xticks([])
            ax.set_yticks([])
        rate = spikes[..., channel].mean()
        row[0].set_ylabel(f"channel {channel}\nrate {rate:.2f}", fontsize="small")
    for ax, t in zip(axes[0], times):
        ax.set_title(f"t = {t}", fontsize="small")
    size = {"shrink": min(0.16 * levels, 1), "aspect": 5 * levels} if counts else {}
    key = figure.colorbar(image, ax=axes, fraction=0.03, label="spikes", **size)
    key.outline.set_visible(False)
    if counts:
        key.set_ticks(range(levels))
    return axes


def plot_segmentation(images, masks, answers, recording=None, classes=None, void=255):
    """Images, their masks, what a network answers, and how often its neurons fire at each step.

    Args:
        images: `(examples, height, width, channels)`; of clips, `(examples, time, ...)`, all steps
            are summed. The darkest value is drawn black.
        masks: Class numbers, `(examples, height, width)`.
        answers: Class numbers like `masks`, or scores with a last axis of classes.
        recording: A `Recording` of the spikes of these images.
        classes: Number of classes; by default as many as there are.
        void: The label of pixels that do not count, drawn in grey.

    Returns:
        The axes, an array `(examples, 3)`, or `(examples, 4)` with a recording.

    Raises:
        ValueError: If the shapes do not fit.

    Example:

    ```python
    recording = analysis.record(model, images)
    analysis.plot_segmentation(images, masks, model.predict(images), recording)
    ```
    """
    images, masks, answers = map(np.asarray, (images, masks, answers))
    if images.ndim == 5:
        images = images.sum(1)
    if answers.ndim == 4:
        answers = answers.argmax(-1)
    if images.ndim != 4 or images.shape[:3] != masks.shape or masks.shape != answers.shape:
        raise ValueError(
            "`images` should be (examples, height, width, channels), `masks` and `answers` "
            f"(examples, height, width), got {images.shape}, {masks.shape}, {answers.shape}."
        )
    if classes is None:
        classes = int(max(masks[masks != void].max(initial=0), answers.max())) + 1
    spikes = [] if recording is None else [recording[name]["spikes"] for name in recording]
    plt, columns = pyplot(), 4 if spikes else 3
    colors = plt.get_cmap("tab20" if classes > 10 else "tab10", classes).with_extremes(over="0.6")
    _, axes = plt.subplots(
        len(images),
        columns,
        figsize=(2.2 * columns, 2 * len(images) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    pictures = images if images.shape[-1] == 3 else images.mean(-1)
    low, high = pictures.min(), pictures.max()
    pictures = (pictures - low) / max(high - low, 1e-9)
    for index, row in enumerate(axes):
        row[0].imshow(pictures[index], cmap="gray")
        for ax, values in zip(row[1:], (masks[index], answers[index])):
            shown = np.where(values == void, classes, values).astype(float)
            ax.imshow(shown, cmap=colors, vmin=-0.5, vmax=classes - 0.5, interpolation="nearest")
        for ax in row[:3]:
            ax.set_xticks([])
            ax.set_yticks([])
        if spikes:
            counts = sum(np.abs(x[index]).reshape(len(x[index]), -1).sum(1) for x in spikes)
            rates = counts / sum(x[index, 0].size for x in spikes)
            _axes(row[3]).bar(np.arange(len(rates)), rates, color=BLUE)
            row[3].set_ylabel("rate", fontsize="small")
            row[3].tick_params(labelsize="small")
    titles = ("image", "mask", "answer", "spikes per neuron, by step")
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, fontsize="small")
    return axes


def plot_accuracy(found, ax=None, ann_accuracy=None):
    """Accuracy against the number of steps; that of the model itself is marked.

    Args:
        found: An `AccuracyOverTime`.
        ax: matplotlib axes; new ones by default.
        ann_accuracy: Accuracy of the ANN, a share of 1, drawn as a line.

    Returns:
        The axes.

    Raises:
        ValueError: If there is neither an accuracy, for want of labels, nor early exit.
    """
    looks = {found.measure: {"ls": "-", "marker": "o", "ms": 4, "color": BLUE}}
    looks["decided"] = {"ls": "--", "color": PURPLE}
    values = zip(looks, (found.accuracy, found.decided))
    shown = {name: curve for name, curve in values if curve is not None}
    if not shown:
        raise ValueError("Without labels there is no accuracy to draw.")
    ax = _axes(ax)
    for name, curve in shown.items():
        ax.plot(np.arange(1, len(curve) + 1), 100 * curve, label=name, **looks[name])
    curves = list(shown.values())
    if ann_accuracy is not None:
        curves.append(ann_accuracy)
        ax.axhline(100 * ann_accuracy, color=ORANGE, ls="--", label="ANN")
    if found.model_timesteps is not None:
        label = f"the model's T = {found.model_timesteps}"
        ax.axvline(found.model_timesteps, color=_gray(), ls=":", alpha=0.7, label=label)
    lowest = 100 * min(np.min(curve) for curve in curves)
    bottom = 5 * np.floor(max(lowest - 1, 0) / 5)
    ax.set_ylim(bottom, 100 + 0.06 * (100 - bottom))  # a line at 100 % is seen whole
    ax.set_yticks([tick for tick in ax.get_yticks() if bottom <= tick <= 100])
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("timesteps")
    ax.set_ylabel(f"{next(iter(shown))} (%)")
    if len(ax.get_legend_handles_labels()[1]) > 1:
        ax.legend(fontsize="small")
    return ax


def plot_energy(profile, ax=None):
    """Energy with and without memory accesses: the network and its ANN, then layer by layer.

    Args:
        profile: A `Profile`.
        ax: matplotlib axes, which the two panels fill; new ones by default.

    Returns:
        The axes of both panels: the totals, and the layers with their share of the total.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    joule = EngFormatter("J", places=1)
    whole = 1e-9 * profile.total_energy
    rows = [
        (x.name, profile.layer_energy(x), profile.layer_energy(x, memory=True))
        for x in profile.layers
    ]
    large = [row for row in rows if 1e-9 * row[2] >= 0.01 * whole]
    rest = [row for row in rows if row not in large and row[2]]
    if rest:
        large.append((f"{len(rest)} others", *(sum(row[i] for row in rest) for i in (1, 2))))
    totals = [
        ("spiking", profile.energy, profile.total_energy),
        ("as an ANN", profile.ann_energy, profile.ann_total_energy),
    ]
    size = (7, 1.4 + 0.24 * (len(large) + 5))
    panels = _panels(ax, [2, len(large)], size, gap=2 / (len(large) + 5))
    for panel, shown in zip(panels, (totals, large)):
        names, operations, everything = zip(*shown)
        operations, everything = 1e-9 * np.array(operations), 1e-9 * np.array(everything)
        labels = [joule(value) for value in everything]
        if shown is large:
            labels = [f"{value / max(whole, 1e-30):.0%}" for value in everything]
        label = f"with memory ({profile.memory_table})"
        _bars(panel, names, everything, labels, color=BLUE, alpha=0.4, label=label)
        label = f"operations ({profile.energy_table})"
        panel.barh(np.arange(len(names)), operations, color=BLUE, label=label)
        panel.xaxis.set_major_formatter(EngFormatter("J"))
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.tick_params(labelsize="small")
    panels[0].set_title("the network, one example", fontsize="small", loc="left")
    panels[1].set_title("its layers, and their share", fontsize="small", loc="left")
    panels[1].legend(fontsize="small", loc="best")
    return panels


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
    pyplot()
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
