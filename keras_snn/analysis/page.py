"""What a network does, as one page that a browser shows."""

import base64
import html
import io
import json
import string
from importlib import resources

import keras
import numpy as np

from keras_snn.analysis import plots
from keras_snn.analysis.accuracy import accuracy_over_time
from keras_snn.analysis.counting import profile
from keras_snn.analysis.recording import record
from keras_snn.utils import files

__all__ = ["report"]

# What is shown of a layer, for files that a browser opens at once.
_MAPS, _NEURONS, _RASTER = 16, 256, 120


def report(model, data, path="report.html", layers=None, timesteps=None, batch_size=32):
    """Writes what a network does as one HTML file, which needs nothing else to be looked at.

    Table of layers with firing rates and silent neurons, energy, accuracy over time, and for
    spiking layers spikes of the first example step by step, a raster, membrane potentials.

    Args:
        model: A functional or `Sequential` model, nested ones too.
        data: An array of inputs, or `(inputs, labels)`; labels are class numbers.
        path: Where to write the file; one that is there is replaced once the new one is complete.
        layers: Names of spiking layers to look into; by default six, evenly chosen.
        timesteps: Number of steps for models on images; by default their own.
        batch_size: Batch size.

    Returns:
        The path.

    Raises:
        TypeError: If the model is subclassed.
        ValueError: If the model has no spiking layer, a layer is unknown, or nothing can be
            written to `path`.
        ImportError: If the extra `plot` is not installed.

    Example:

    ```python
    analysis.report(model, (images, labels), "report.html")
    ```
    """
    path = files.check_path(path, [".html"])
    pyplot = plots.pyplot()
    inputs, labels = data if isinstance(data, tuple) else (data, None)
    found = profile(model, inputs, timesteps=timesteps, batch_size=batch_size)
    spiking = [x.name for x in found.layers if x.rate is not None]
    if not spiking:
        raise ValueError(f"The model {model.name!r} has no spiking layer.")
    if layers is None:
        layers = [spiking[i] for i in np.unique(np.linspace(0, len(spiking) - 1, 6).astype(int))]
    first = keras.tree.map_structure(lambda x: np.asarray(x)[:1], inputs)
    recording = record(model, first, layers, None, timesteps=timesteps)
    # Black becomes the colour of the page's text.
    black = dict.fromkeys((f"{name}.color" for name in ("text", "xtick", "ytick")), "black")
    black |= {"axes.labelcolor": "black", "axes.edgecolor": "black", "svg.fonttype": "none"}
    with pyplot.style.context(["keras_snn.analysis.light", black]):
        neurons, spikes = _neurons(recording)
        parts = {
            "title": html.escape(f"{model.name}: what it does"),
            "summary": _summary(model, found, labels),
            "warnings": _warnings(found),
            "layers": _table(found),
            "energy": _svg(plots.plot_energy(found)[0].figure),
            "accuracy": _accuracy(model, inputs, labels, timesteps, batch_size),
            "last": max(len(x["spikes"][0]) for x in recording.layers.values()) - 1,
            "neurons": neurons,
            "spikes": json.dumps(spikes),
        }
    template = resources.files("keras_snn.analysis").joinpath("report.html").read_text()
    files.write(path, string.Template(template).substitute(parts))
    return path


def _svg(figure):
    """A figure as part of a page, in the colour of its text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, bbox_inches="tight")
    plots.pyplot().close(figure)
    _, mark, rest = text.getvalue().partition("<svg")
    return (mark + rest).replace("#000000", "currentColor")


def _rows(rows, tag="td"):
    return "".join(
        "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in row) + "</tr>" for row in rows
    )


def _summary(model, found, labels):
    items = {
        "parameters": f"{model.count_params():,}",
        "examples": f"{found.examples:,}" + (" with labels" if labels is not None else ""),
        "firing rate": f"{found.rate:.4f} spikes per neuron and step",
        "accumulates": f"{found.synops:,.0f} by spikes, {found.macs:,.0f} multiplications",
        "as an ANN": f"{found.ann_macs:,.0f} multiplications",
        "energy": f"{found.total_energy:,.1f} nJ, as an ANN {found.ann_total_energy:,.1f} nJ "
        f"(operations {found.energy_table}, memory {found.memory_table})",
    }
    return "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in items.items())


def _warnings(found):
    """Layers that hardly fire, or always; multiplications that nobody counted."""
    lines = []
    for x in found.layers:
        if x.rate is not None and x.silent > 0.9:
            lines.append(f"{x.silent:.0%} of the neurons of {x.name} never fire.")
        if x.rate is not None and x.saturated > 0.5:
            lines.append(f"{x.saturated:.0%} of the neurons of {x.name} fire at every step.")
    if found.uncharged:
        lines.append(f"Nobody knows the multiplications of {', '.join(found.uncharged)}.")
    return "".join(f'<p class="warning">{html.escape(line)}</p>' for line in lines)


def _table(found):
    head = ("layer", "output", "parameters", "rate", "silent", "at every step", "energy", "share")
    rows, whole = [], max(found.total_energy, 1e-30)
    for x in found.layers:
        rate, silent, saturated = "", "", ""
        if x.rate is not None:
            width = min(x.rate, 1.0)
            rate = f'<span class="bar" style="width:{6 * width:.2f}em"></span>{x.rate:.4f}'
            silent, saturated = f"{x.silent:.1%}", f"{x.saturated:.1%}"
        energy = found.layer_energy(x, memory=True)
        name = html.escape(f"{x.name} ({x.kind})")
        shape = " x ".join(map(str, x.output_shape))
        spent = (f"{energy:,.2f} nJ", f"{energy / whole:.1%}")
        rows.append((name, shape, f"{x.parameters:,}", rate, silent, saturated, *spent))
    return _rows([head], "th") + _rows(rows)


def _accuracy(model, inputs, labels, timesteps, batch_size):
    if labels is None:
        return ""
    try:
        found = accuracy_over_time(
            model, (inputs, labels), timesteps=timesteps, batch_size=batch_size
        )
    except (TypeError, ValueError) as error:  # some layers know their number of steps
        return f"<h2>Accuracy over time</h2><p>Not to be had: {html.escape(str(error))}</p>"
    return f"<h2>Accuracy over time</h2>{_svg(plots.plot_accuracy(found).figure)}"


def _neurons(recording):
    """The layers' part of the page, and what its slider shows."""
    page, shown = [], []
    for index, name in enumerate(recording):
        values = {kind: array[0] for kind, array in recording[name].items()}
        tiles, spikes = _tiles(values["spikes"])
        shown.append(tiles)
        raster = plots.plot_raster(values["spikes"], max_neurons=_RASTER).figure
        pictures = f"<p>{spikes}</p><canvas id='spikes{index}'></canvas>" + _svg(raster)
        if "membrane" in values:
            values |= {"threshold": recording.thresholds.get(name)}
            values |= {"reset": recording.resets.get(name)}
            pictures += _svg(plots.plot_membrane(**values)[0].figure)
        page.append(
            f"<details{' open' * (index == 0)}><summary>{html.escape(name)}</summary>"
            f'<div class="wide">{pictures}</div></details>'
        )
    return "".join(page), shown


def _tiles(spikes):
    """Spikes of one example as tiles of each step: maps, or one row of neurons."""
    steps = len(spikes)
    if spikes.ndim == 4:
        if keras.config.image_data_format() == "channels_last":
            spikes = np.moveaxis(spikes, -1, 1)
        order = np.argsort(-np.abs(spikes).sum((0, 2, 3)), kind="stable")[:_MAPS]
        words = f"The {len(order)} of {spikes.shape[1]} channels that fire most"
        spikes, columns = spikes[:, order], 8
    else:
        spikes = spikes.reshape(steps, -1)
        order = np.sort(np.argsort(-np.abs(spikes).sum(0), kind="stable")[:_NEURONS])
        words = f"{len(order)} of {spikes.shape[1]} neurons"
        spikes, columns = spikes[:, order, None, None], 32
    levels = np.round(255 * np.abs(spikes) / max(np.abs(spikes).max(), 1e-9)).astype("uint8")
    tiles = dict(zip(("tiles", "height", "width"), levels.shape[1:]))
    values = base64.b64encode(levels.tobytes()).decode()
    return tiles | {"columns": columns, "values": values}, words
