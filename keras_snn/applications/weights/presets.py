"""Presets: networks of this package that were trained, with their weights in the package.

`presets.json` is their table; the weights of each are in a file beside it. The program
`applications/publish.py` makes both from a finished run.
"""

import dataclasses
import fnmatch
import hashlib
import io
import json
import pathlib

import keras
import numpy as np

from keras_snn.applications.builder import is_channels_first
from keras_snn.datasets.preparation import Preparation
from keras_snn.layers.registry import get_neuron
from keras_snn.utils import files
from keras_snn.utils.tables import table_lines

__all__ = ["Preset", "PresetList", "list_presets"]

HERE = pathlib.Path(__file__).parent
TABLE = HERE / "presets.json"

# Arguments that may differ from those in training: they leave what a trained layer computes.
FREE = ("include_top", "weights", "pooling", "classifier_activation", "name", "timesteps")
FREE += ("dropout", "convolution_dropout", "zero_init_residual", "input_tensor")

LIMIT = 8_000_000  # bytes of all presets: everyone who installs the package gets them

CALLERS = ("name", "dtype")  # of a neuron's configuration, what is the caller's


@dataclasses.dataclass(frozen=True)
class Preset:
    """A trained network whose weights are in the package.

    Attributes:
        model: Name of the function in `keras_snn.applications`.
        name: What its argument `weights` takes.
        arguments: The other arguments that the network was trained with.
        data: Arguments of `keras_snn.datasets.load` for the data as in training.
        accuracy: Share of the test data that it classifies right.
        examples: Number of examples of the test data.
        parameters: Number of trainable parameters.
        rate: Mean spikes per neuron and step.
        energy: Estimated energy of one example, in nanojoules (45 nm, float32, without memory).
        recipe: Name of the recipe of `applications/train.py`.
        seed: Seed of the run.
        date: Day on which it was made.
        checksum: SHA-256 of the file of weights.
    """

    model: str
    name: str
    arguments: dict
    data: dict
    accuracy: float
    examples: int
    parameters: int
    rate: float
    energy: float
    recipe: str
    seed: int
    date: str
    checksum: str

    @property
    def path(self):
        """The file of the weights."""
        return HERE / f"{self.model}_{self.name}.npz"

    def preprocess(self, images):
        """Prepares images as in training.

        Args:
            images: `(batch, height, width, channels)`, values from 0 to 255.

        Returns:
            A float32 array like `images`, an input of the network.

        Raises:
            ValueError: If the images have another shape or other values, or the network reads
                recordings or speech: `keras_snn.datasets.load(**preset.data, data_dir=...)`
                prepares those.
        """
        if "normalization" not in self.data:
            raise ValueError(
                f"{self.model} with weights={self.name!r} reads no images: "
                f"`keras_snn.datasets.load(**preset.data, data_dir=...)` prepares its examples."
            )
        images, shape = np.asarray(images), _shape(self.arguments["input_shape"])
        if images.shape[1:] != shape:
            raise ValueError(
                f"Received an invalid value for argument `images`, expected images of the shape "
                f"(batch, {', '.join(map(str, shape))}), got {images.shape}."
            )
        low, high = (images.min(), images.max()) if images.size else (0, 0)
        if low < 0 or high > 255 or 0 < high <= 1:
            raise ValueError(
                "Received an invalid value for argument `images`, expected values from 0 to 255, "
                f"got {low} to {high}."
            )
        prepare = Preparation(1 / 255, self.data["normalization"])
        return prepare(images, np.zeros(len(images), "int64"))[0]


class PresetList(list):
    """Presets; prints as a table."""

    def __str__(self):
        columns = ("model", "weights", "test data", "T", "accuracy", "parameters", "rate")
        rows = [(*columns, "energy (uJ)", "recipe", "seed", "date", "SHA-256")]
        for x in self:
            data = f"{x.examples:,} of {x.data['name']}"
            numbers = (f"{100 * x.accuracy:.2f} %", f"{x.parameters:,}", f"{x.rate:.3f}")
            run = (x.recipe, str(x.seed), x.date, x.checksum[:12])
            steps, energy = str(x.arguments["timesteps"]), f"{x.energy / 1000:.3f}"
            rows.append((x.model, x.name, data, steps, *numbers, energy, *run))
        return "\n".join(table_lines(rows, left=2))


def list_presets(pattern=None):
    """Trained networks whose weights are in the package.

    Args:
        pattern: Keeps models whose name matches it, such as `"SEW*"`; by default all.

    Returns:
        A `PresetList` of `Preset`.

    Example:

    >>> [preset.name for preset in list_presets("SEWResNet8")][0]
    'digits'
    """
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    presets = [Preset(**row) for row in rows]
    return PresetList(x for x in presets if pattern is None or fnmatch.fnmatch(x.model, pattern))


def find(model, weights):
    """The preset of this model and name, or `None`."""
    return next((x for x in list_presets(model) if x.name == weights), None)


def complete(preset, given, signature):
    """Adds the arguments of a preset to those of a call.

    Args:
        preset: The preset.
        given: The arguments of the call by name; what is missing is added.
        signature: The signature of the function, whose defaults count as the preset's arguments
            where it has none.

    Raises:
        ValueError: If an argument contradicts the preset: the weights would not fit, or mean
            something else.
    """
    headless = not given.get("include_top", True)
    defaults = {p.name: p.default for p in signature.parameters.values()}
    wanted = defaults | preset.arguments | {"input_shape": _shape(preset.arguments["input_shape"])}
    tensor = given.get("input_tensor")
    if tensor is not None:
        given.setdefault("input_shape", tuple(tensor.shape[1:]))
    for name, value in given.items():
        if name in FREE or (name == "classes" and headless):
            continue
        same = {"neuron": _same_neuron, "input_shape": _fits_shape(headless)}.get(name, _same)
        if not same(value, wanted[name]):
            call = f"{preset.model}(weights={preset.name!r})"
            raise ValueError(
                f"weights={preset.name!r} of {preset.model} were trained with "
                f"{name}={wanted[name]!r}. Received: {name}={value!r}. For another classifier give "
                "`include_top=False`; other networks take the weights that fit by "
                f"`load_keras_weights(model, {call}, skip_mismatch=True)`."
            )
    for name in preset.arguments:
        if given.get(name) is None:
            given[name] = wanted[name]


def _shape(shape):
    """The shape of an example, saved with channels last, in Keras's image data format."""
    shape = tuple(shape)
    if len(shape) > 2 and is_channels_first():
        return (*shape[:-3], shape[-1], *shape[-3:-1])
    return shape


def _same(value, wanted):
    """Whether values are the same, lists or tuples."""
    try:
        return json.dumps(value) == json.dumps(wanted)
    except TypeError:
        return value is wanted


def _same_neuron(value, wanted):
    """Whether two arguments stand for the same neuron."""

    def config(neuron):
        layer = get_neuron(neuron)
        return type(layer), {k: v for k, v in layer.get_config().items() if k not in CALLERS}

    return config(value) == config(wanted)


def _fits_shape(headless):
    """A function that says whether a shape fits: any time, without a classifier any size."""

    def fits(value, wanted):
        if value is None:
            return True
        value, timed = tuple(value), len(wanted) != 3
        if len(value) != len(wanted):
            return False
        if headless and len(wanted) > 2:
            axis = -3 if is_channels_first() else -1
            return value[axis] == wanted[axis]
        return value[timed:] == wanted[timed:]

    return fits


def arrays(model, dtype="float32"):
    """The weights of a model by layer and place; kernels in another dtype, if one is given."""
    found = {}
    for layer in model.layers:
        for place, weight in enumerate(layer.weights):
            value = keras.ops.convert_to_numpy(weight).astype("float32")
            found[f"{layer.name}/{place}"] = value.astype(dtype) if value.ndim > 1 else value
    return found


def assign(model, found):
    """Assigns the weights of a model from such arrays; layers that it lacks are left out."""
    for layer in model.layers:
        for place, weight in enumerate(layer.weights):
            weight.assign(found[f"{layer.name}/{place}"].astype("float32"))


def load(preset, model):
    """Loads the weights of a preset.

    Raises:
        ValueError: If the file is damaged.
    """
    content = preset.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != preset.checksum:
        raise ValueError(f"{preset.path} is damaged: install keras_snn again.")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        assign(model, dict(file))


def save(preset, found):
    """Writes the weights of a preset, and its row in the table in the place of an older one.

    Raises:
        ValueError: If all presets together would be larger than `LIMIT`.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **found)
    others = [x for x in list_presets() if (x.model, x.name) != (preset.model, preset.name)]
    size = len(buffer.getvalue()) + sum(x.path.stat().st_size for x in others)
    if size > LIMIT:
        raise ValueError(
            f"With {preset.model} for {preset.name!r} the presets would have {size:,} bytes; at "
            f"most {LIMIT:,} go into the package. Keep its .keras file elsewhere."
        )
    files.write(preset.path, buffer.getvalue())
    checksum = hashlib.sha256(buffer.getvalue()).hexdigest()
    preset = dataclasses.replace(preset, checksum=checksum)
    rows = sorted([*others, preset], key=lambda x: (x.model, x.name))
    lines = ",\n".join(json.dumps(dataclasses.asdict(row)) for row in rows)
    files.write(TABLE, f"[\n{lines}\n]\n")
    return preset


def documentation(model):
    """What a model's docstring says of its presets; nothing if it has none."""
    rows = [
        f'- `"{x.name}"`: {100 * x.accuracy:.2f} % of {x.examples:,} test examples, T = '
        f"{x.arguments['timesteps']}, {x.rate:.3f} spikes per neuron and step."
        for x in list_presets(model)
    ]
    return ["\n".join(["Presets, values of `weights`:\n", *rows])] if rows else []
