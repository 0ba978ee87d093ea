"""Loads weights from PyTorch's state dicts and from Keras's ANNs.

Both are read as modules (groups of named tensors) and matched with layers of the model by name, or
by order if the network is a plain chain of layers (VGG, 7B-Net). The model is only changed once
everything fits.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import zipfile

import keras
import numpy as np
from keras import layers, ops

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.applications.weights import transformers
from keras_snn.layers.attention import Part
from keras_snn.layers.dual_attention import RatedProducts

__all__ = ["WeightsReport", "load_keras_weights", "load_torch_weights"]


@dataclasses.dataclass
class WeightsReport:
    """Which tensors of a source were loaded into which weights of a model.

    Attributes:
        used: Pairs of a tensor's name and the path of the weight that it was loaded into.
        unused: Names of tensors that were not loaded: heads that the model does not have,
            counters, and with `skip_mismatch` those that do not fit.
        missing: Paths of the model's weights without a tensor in the source.
        notes: Further remarks, as sentences.
    """

    used: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    unused: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self):
        def names(entries):
            return f"{len(entries)}" + (f": {', '.join(entries)}" if entries else "")

        lines = [
            f"{len(self.used)} tensors loaded.",
            f"Tensors not used: {names(self.unused)}",
            f"Weights left as they were: {names(self.missing)}",
        ]
        return "\n".join([*lines, *self.notes])


def load_torch_weights(
    model: keras.Model, source: dict | str | os.PathLike, skip_mismatch: bool = False
) -> WeightsReport:
    """Loads a PyTorch state dict into a network of `keras_snn.applications`.

    It knows the names of SpikingJelly's zoo (SEW-ResNet, Spiking ResNet, Spiking VGG, MS-ResNet,
    Max-ResNet, Spikformer, QKFormer, Spike-driven Transformer, Max-Former), of the papers'
    repositories (these, E-SpikeFormer, SpikingResformer, SEW-ResNet and its 7B-Nets, Spiking
    ResNet, S-ResNet, the VGGs and ResNets of hybrid training) and of torchvision's ResNets and
    VGGs. It reads tensors and skips plain records. A file with anything else is refused, and no
    code in it is run.

    A bias in front of a normalisation that the network lacks goes into that; one that the source
    lacks is 0.

    Files of S-ResNet's authors have shifts in their normalisation through time: they fit a network
    with `norm=lambda name: BatchNormalizationThroughTime(timesteps, center=True, name=name)`.

    Args:
        model: The network, with the layout of the source.
        source: A state dict (from names to tensors or arrays), a path of a file that `torch.save`
            wrote (needs the extra `torch`), or of a `.safetensors` file (needs `safetensors`). A
            state dict within a checkpoint, such as `{"state_dict": ...}`, is found.
        skip_mismatch: Whether to skip tensors that do not fit, such as a head for other classes,
            instead of raising an error.

    Returns:
        A `WeightsReport`; print it.

    Raises:
        ValueError: If a tensor fits no weight of the model, or a weight has no tensor; the first
            mismatch is named, and the model is as before. Also if a file is damaged or holds more
            than tensors.
        FileNotFoundError: If there is no such file.

    Example:

    >>> import numpy as np
    >>> from keras_snn.applications import SEWResNet8
    >>> model = SEWResNet8(input_shape=(8, 8, 1), classes=2)
    >>> head = {"fc.weight": np.ones((2, 128)), "fc.bias": np.zeros(2)}
    >>> load_torch_weights(model, head, skip_mismatch=True).used[0]
    ('fc.weight', 'predictions/kernel')
    """
    source = _state_dict(source)
    modules, unused = _torch_modules(source)
    targets = _targets(model)
    if transformers.is_transformer(module.path for module in modules):
        modules, others = _name_projections(modules)
        unused += others
    else:
        _name_modules(modules, targets)
    order = {module: i for i, module in enumerate(dict.fromkeys(map(_path, source)))}
    modules.sort(key=lambda module: order[module.path])  # the source's, for its first mismatch
    flat = next((layer for layer in model.layers if _is_a(layer, layers.Flatten)), None)
    first_dense = next(
        (name for name, layer in targets.items() if _is_a(layer, layers.Dense)), None
    )
    for module in modules:
        shape = flat.input.shape[-3:] if flat and module.target == first_dense else None
        module.values = _from_torch(module, shape)
        kernel, target = module.values.get("kernel"), targets.get(module.target)
        if kernel and kernel[1].ndim > 2 and _is_a(target, layers.Dense):
            tensor, kernel = kernel  # a convolution with a window of 1
            module.values["kernel"] = tensor, kernel.reshape(kernel.shape[-2:])
        elif kernel and _is_a(target, layers.DepthwiseConv2D):
            tensor, kernel = kernel
            module.values["kernel"] = tensor, kernel.swapaxes(-1, -2)
    return _load(model, modules, targets, skip_mismatch, WeightsReport(unused=unused))


def load_keras_weights(
    model: keras.Model, ann: keras.Model, skip_mismatch: bool = False
) -> WeightsReport:
    """Loads the weights of a Keras ANN into the spiking network of the same layout.

    It knows the names of `keras.applications`' ResNets (first version) and VGGs, and takes layers
    of the same name from any other model, such as a network of this package with
    `timesteps=None, neuron=keras.layers.ReLU`. If the spiking network has no biases, those of
    convolutions are moved into the following normalisation, which computes the same function.

    Args:
        model: The network, with the layout of the ANN.
        ann: A Keras model.
        skip_mismatch: Whether to skip tensors that do not fit instead of raising an error.

    Returns:
        A `WeightsReport`; print it. A note tells if convolutions have other strides than the ANN's:
        Keras's ResNets need `strided_convolution="1x1"`.

    Raises:
        ValueError: If a layer fits no layer of the model, or the other way round; the first
            mismatch is named, and the model is as before.

    Example:

    >>> from keras_snn.applications import ConversionVGG5
    >>> ann = ConversionVGG5(classes=2, timesteps=None, neuron=keras.layers.ReLU)
    >>> len(load_keras_weights(ConversionVGG5(classes=2, timesteps=4), ann).used)
    6
    """
    targets = _targets(model)
    modules, strides = [], []
    for source, layer in _named(ann.layers):
        if isinstance(layer, layers.Dropout):  # which has a seed
            continue
        name = source if source in targets else _keras_name(source)
        target = targets.get(name)
        if _kind(layer) in (None, "neuron") and type(layer) is type(target):
            weights = {i: weight for i, weight in enumerate(layer.weights)}
        else:
            weights = {weight.name: weight for weight in layer.weights}
        module = _Module(source, {w: ops.convert_to_numpy(v) for w, v in weights.items()})
        module.target = name
        module.values = {w: (weights[w].name, value) for w, value in module.tensors.items()}
        if isinstance(layer, layers.BatchNormalization) and _kind(target) == "norm":
            for weight, factor, change in (
                ("gamma", _scale(layer), 0),
                ("moving_variance", 1, layer.epsilon - target.epsilon),
            ):
                if weight in module.values:
                    tensor, value = module.values[weight]
                    module.values[weight] = tensor, factor * value + change
            if (module.values["moving_variance"][1] < 0).any():
                raise ValueError(
                    f"{source} has variances below the difference of epsilons, {layer.epsilon} in "
                    f"the ANN and {target.epsilon} in the model {model.name!r}: no variance gives "
                    "the same function."
                )
        if getattr(layer, "strides", None) != getattr(target, "strides", None):
            strides.append(
                f"{module.target} {target.strides} for {layer.strides}" if target else ""
            )
        modules.append(module)
    report = WeightsReport()
    if any(strides):
        report.notes.append(
            "Strides differ from the ANN's, so that the function does too: "
            + ", ".join(filter(None, strides))
            + ". With `strided_convolution='1x1'`, SpikingResNets have those of Keras's ResNets."
        )
    return _load(model, modules, targets, skip_mismatch, report)


class _Module:
    """A module of the source: its tensors, and the weights of one layer that they become."""

    def __init__(self, path, tensors):
        self.path, self.tensors = path, tensors
        self.target = None  # name of a layer
        self.values = {}  # from weights to the name of a tensor and its value

    @property
    def is_dense(self):
        """Whether it is a dense layer's."""
        return "kernel" in self.values and self.values["kernel"][1].ndim == 2


def _load(model, modules, targets, skip_mismatch, report):
    """Checks everything, then assigns."""
    assignments, problems, values = {}, [], {}
    headless = not any(isinstance(layer, layers.Dense) for layer in targets.values())
    for module in modules:
        layer = targets.get(module.target)
        if headless and module.is_dense:
            report.unused += [f"{module.path}.{tensor}" for tensor in module.tensors]
            continue
        for weight, (tensor, value) in module.values.items():
            name = f"{module.path}.{tensor}"
            if isinstance(weight, int):
                variable = layer.weights[weight] if weight < len(layer.weights) else None
            else:
                variable = getattr(layer, weight, None)
            norm = _norm_behind(module.target or "")
            if variable is None and weight == "bias" and norm in targets and norm != module.target:
                values[norm] = name, value  # the normalisation that follows takes it
            elif variable is None:
                wanted = f"{module.target}/{weight}" if module.target else "layer for it"
                problems.append(f"{name} fits nothing: the model {model.name!r} has no {wanted}.")
                report.unused.append(name)
            elif variable.shape != value.shape and not np.prod(variable.shape) == value.size == 1:
                problems.append(
                    f"{name} has the shape {value.shape} (in Keras's order), "
                    f"{module.target}/{weight} of the model {model.name!r} has "
                    f"{tuple(variable.shape)}."
                )
                report.unused.append(name)
            elif id(variable) in assignments:
                problems.append(f"{name} is a second tensor for {module.target}/{weight}.")
            else:
                if weight == "gamma":
                    value = value / _scale(layer)
                assignments[id(variable)] = [variable, value]
                report.used.append((name, f"{module.target}/{weight}"))
    for norm, (name, bias) in values.items():
        mean = targets[norm].moving_mean
        if id(mean) in assignments and mean.shape == bias.shape:
            assignments[id(mean)][1] = assignments[id(mean)][1] - bias
            report.used.append((name, f"{norm}/moving_mean"))
        else:
            problems.append(f"{name} fits nothing: {norm} has no moving mean to take it.")
    silent = []
    for name, layer in targets.items():
        for weight in _WEIGHTS[_kind(layer)]:
            variable = getattr(layer, weight, None)
            if variable is None or id(variable) in assignments:
                continue
            loaded = id(getattr(layer, "kernel", None)) in assignments
            if weight == "bias" and loaded and _norm_behind(name) in set(targets) - {name}:
                assignments[id(variable)] = [variable, np.zeros(variable.shape)]
                silent.append(f"{name}/{weight}")
            else:
                report.missing.append(f"{name}/{weight}")
                if _kind(layer) != "neuron":
                    problems.append(f"Nothing fits {name}/{weight} of the model {model.name!r}.")
    if problems and not skip_mismatch:
        raise ValueError(
            f"The weights do not fit. {problems[0]} ({len(problems)} mismatches; "
            "`skip_mismatch=True` leaves them out.)"
        )
    if silent:
        report.notes.append(
            f"The source has no biases in front of these normalisations, they are 0: {silent}"
        )
    wild = [n for n, (_, v) in zip(report.used, assignments.values()) if not np.isfinite(v).all()]
    if wild:
        report.notes.append(
            f"Not all numbers are finite in {', '.join(tensor for tensor, _ in wild)}."
        )
    for variable, value in assignments.values():
        variable.assign(np.reshape(value, variable.shape))
    return report


def _norm_behind(name):
    """The name of the normalisation that follows a layer of this name, if one does."""
    return re.sub("conv|dense", "bn", name)


def _scale(norm):
    """The factor of a normalisation besides gamma: that of tdBN."""
    return getattr(norm, "alpha", 1.0) * getattr(norm, "threshold", 1.0)


_WEIGHTS = {
    "conv": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "norm": ("gamma", "beta", "moving_mean", "moving_variance"),
    "neuron": ("w",),
    "rates": ("rates",),
    None: (),
}
_KINDS = {
    "conv": (layers.Conv2D, layers.DepthwiseConv2D),
    "dense": layers.Dense,
    "norm": layers.BatchNormalization,
    "neuron": snn.ParametricLIFCell,
    "rates": RatedProducts,
}


def _unwrap(layer):
    if isinstance(layer, snn.FoldTime):
        return layer.layer
    return layer.cell if isinstance(layer, snn.SpikingRNN) else layer


def _is_a(layer, cls):
    return isinstance(_unwrap(layer), cls)


def _kind(layer):
    return next((kind for kind, cls in _KINDS.items() if isinstance(layer, cls)), None)


def _targets(model):
    """From names to layers (or cells) with weights, in the order of the model."""
    if not getattr(model, "inputs", None):
        raise ValueError(f"Weights go into a functional model, got {model!r}.")
    return dict(_named(model.layers))


def _named(layers):
    """Names and layers (or cells) with weights; normalisation through time has one for each step.

    A step's name is the layer's and its own, as in `"stem_bn/step_1"`, that of a part of attention
    its own.
    """
    for layer in layers:
        if isinstance(layer, snn.BatchNormalizationThroughTime):
            yield from ((f"{layer.name}/{step.name}", step) for step in layer.steps)
        elif graph.is_composed(layer):
            parts = graph.flatten_layers(layer, include_self=False)
            parts = [part for part in parts if isinstance(part, (snn.SpikingRNN, Part))]
            yield from ((part.name, _unwrap(part)) for part in parts if part.weights)
        elif layer.weights:
            yield layer.name, _unwrap(layer)


def _state_dict(source):
    """The state dict in a file, a checkpoint or a module, as arrays."""
    if isinstance(source, (str, pathlib.Path)):
        source = _read(pathlib.Path(source))
    elif hasattr(source, "state_dict"):
        source = source.state_dict()
    nested = ("state_dict", "model_state_dict", "model_state", "state_dict_ema", "model_ema")
    nested += ("model", "net")
    while isinstance(source, dict):
        inner = next((source[n] for n in nested if isinstance(source.get(n), dict)), None)
        if inner is None:
            break
        source = inner
    if not isinstance(source, dict):
        raise TypeError(
            f"Expected the path of a file or a dictionary of tensors, got {type(source).__name__}."
        )
    tensors = {str(k): v for k, v in source.items() if hasattr(v, "shape")}
    arrays = {k: _array(k, v) for k, v in _project_names(tensors).items()}
    if not arrays:
        raise ValueError(f"There are no tensors in the source; its keys are {[*source][:5]}.")
    return arrays


# Modules under a second name, or under containers: tdLayers of STBP-simple, compiled modules.
_ALIASES = (
    (re.compile(r"(^|\.)_orig_mod\."), r"\1"),
    (re.compile(r"(^|\.)conv(\d*)_s\.bn\."), r"\1bn\2."),
    (re.compile(r"(\w+)_s\.layer\."), r"\1."),
    (re.compile(r"\.firing_rate_x$"), ".scores.rates"),
    (re.compile(r"\.firing_rate_attn$"), ".sums.rates"),
)


# S-ResNet keeps lists of convolutions, and of a normalisation for each step; some have two names.
_S_RESNET = re.compile(
    r"(?:module\.)?(conv|bntt|conv1x1|bn_conv1x1)_list\.(\d+)\.(?:(\d+)\.)?(\w+)"
)
_S_RESNET_ALIAS = re.compile(r"(?:module\.)?(conv1|bntt1|conv_resize_\d|resize_bn_\d)\.")


def _s_resnet_names(tensors):
    """The tensors of an S-ResNet by names as torchvision's; those of others as they are."""
    listed = {key: _S_RESNET.fullmatch(key) for key in tensors}
    convolutions = sum(bool(m) and m[1] == "conv" and m[4] == "weight" for m in listed.values())
    if not convolutions:
        return tensors
    stage_size = max(1, (convolutions - 1) // 3)
    renamed = {}
    for key, match in listed.items():
        if match is None:
            if not _S_RESNET_ALIAS.match(key):
                renamed[key] = tensors[key]
            continue
        part, index = "bn" if match[1].startswith("bn") else "conv", int(match[2])
        if "1x1" in match[1]:
            name = f"layer{index + 2}.0.downsample.{part}"
        elif index == 0:
            name = part + "1"
        else:
            stage, place = divmod(index - 1, stage_size)
            name = f"layer{stage + 1}.{place // 2}.{part}{place % 2 + 1}"
        step = f".step_{int(match[3]) + 1}" if match[3] else ""
        renamed[f"{name}{step}.{match[4]}"] = tensors[key]
    return renamed


def _project_names(tensors):
    """Tensors by names that the rest of this module knows; what has two names comes once."""
    tensors, renamed = _s_resnet_names(tensors), {}
    for key, tensor in tensors.items():
        name = key
        for pattern, replacement in _ALIASES:
            name = pattern.sub(replacement, name)
        if name == key or name not in tensors:
            renamed[name] = tensor
    return renamed


def _array(name, tensor):
    if hasattr(tensor, "detach"):  # numpy knows no bfloat16
        tensor = tensor.detach().cpu()
        dense = str(tensor.layout) == "torch.strided"
        stored = tensor.untyped_storage().nbytes() if dense else 0
        if tensor.numel() * tensor.element_size() > stored:
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)}, for which the file holds {stored} "
                "bytes: it is expanded, sparse or damaged."
            )
        half = tensor.is_floating_point() and tensor.element_size() < 4
        tensor = tensor.float() if half else tensor
    array = np.asarray(tensor)
    if np.iscomplexobj(array):
        raise ValueError(f"{name} is complex ({array.dtype}), weights are real numbers.")
    return array


def _read(path):
    """The tensors of a file; nothing else is read, so that no code in it can run."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    safe = path.suffix == ".safetensors"
    try:
        if safe:
            from safetensors.numpy import load_file
        else:
            import torch
    except ImportError as error:
        raise ImportError(
            f'Reading {path.name} needs the extra `torch`: pip install "keras-snn[torch]"'
        ) from error
    try:
        if safe:
            return load_file(path)
        _check_stored(path)
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{str(path)!r} is damaged, no file of tensors, or holds more than tensors, which is "
            f"not read as it could run code: {str(error).splitlines()[0]}"
        ) from error


def _check_stored(path):
    """Refuses a packed archive, which may be a thousand times as large; PyTorch packs nothing."""
    if zipfile.is_zipfile(path):
        for entry in zipfile.ZipFile(path).infolist():
            if entry.file_size > entry.compress_size:
                raise ValueError(f"{entry.filename} is packed, {entry.file_size} bytes unpacked")


def _harmless():
    """Plain records that training programs save besides tensors, and the names of their classes."""
    scalar = np.float64(0).__reduce__()[0]
    paths = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    return [
        *(argparse.Namespace, dict, list, set, int, float, np.dtype),
        *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdSU"},
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((pathlib.PurePath, f"{m}.{n}") for m in ("pathlib", "pathlib._local") for n in paths),
        # PyTorch fills dictionaries of its own classes only.
        (lambda *factory: {}, "collections.defaultdict"),
    ]


# What state dicts hold besides weights.
_COUNTERS = ("num_batches_tracked", "v", "v_seq", "spike_seq")


def _torch_modules(arrays):
    """The modules of a state dict, in order of their numbers, and the tensors that are none."""
    modules, unused = {}, []
    for key in sorted(arrays, key=_natural):
        path, leaf = _path(key), key.split(".")[-1]
        if leaf in _COUNTERS or "surrogate_function" in key:  # older SpikingJelly's has parameters
            unused.append(key)
        else:
            modules.setdefault(path, _Module(path, {})).tensors[leaf] = arrays[key]
    return list(modules.values()), unused


def _path(key):
    """The module of a tensor, without containers for data parallelism and for folding time."""
    return ".".join(part for part in key.split(".")[:-1] if part != "module")


def _natural(key):
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in key.split(".")]


def _torch_kind(module):
    tensors = module.tensors
    for leaf, kind in (("w", "neuron"), ("rates", "rates")):
        if leaf in tensors:
            return kind
    dimensions = tensors["weight"].ndim if "weight" in tensors else 0
    return {4: "conv", 3: "conv", 2: "dense", 1: "norm"}.get(dimensions)


def _from_torch(module, flattened):
    """Weights in Keras's names and order of axes; `flattened` is the shape of flattened maps."""
    tensors, kind = module.tensors, _torch_kind(module)
    names = {"weight": "kernel", "bias": "bias", "w": "w"}
    if kind == "norm":
        names = {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }
    values = {names.get(leaf, leaf): (leaf, tensors[leaf]) for leaf in sorted(tensors)[::-1]}
    if kind == "conv":
        kernel = tensors["weight"]
        values["kernel"] = "weight", kernel.transpose(*range(2, kernel.ndim), 1, 0)
    elif kind == "rates":
        values["rates"] = "rates", tensors["rates"].reshape(-1)
    elif kind == "dense":
        kernel = tensors["weight"]
        if flattened and None not in flattened and kernel.shape[1] == np.prod(flattened):
            if keras.config.image_data_format() == "channels_last":
                flattened = (flattened[-1], *flattened[:2])
            # PyTorch flattens channels first, Keras last, whatever the data format.
            kernel = kernel.reshape(-1, *flattened).transpose(0, 2, 3, 1).reshape(kernel.shape)
        values["kernel"] = "weight", kernel.T
    return values


def _name_projections(modules):
    """The modules of a spiking transformer with their layers, and the tensors that have none.

    Projections that are stored as one become a module each.
    """
    named, unused = [], []
    rename = transformers.names_of(module.path for module in modules)
    for module in modules:
        names = rename(module.path, _torch_kind(module))
        if not names:
            unused += [f"{module.path}.{leaf}" for leaf in module.tensors]
        for index, name in enumerate(names):
            parts = {leaf: np.split(x, len(names))[index] for leaf, x in module.tensors.items()}
            named.append(_Module(module.path, parts))
            named[-1].target = name
    return named, unused


def _name_modules(modules, targets):
    """Finds the layer of each module, by name in residual networks, else by order."""
    kinds = [_torch_kind(module) for module in modules]
    ordered = {kind: [n for n, layer in targets.items() if _kind(layer) == kind] for kind in _KINDS}
    by_name = any(_BLOCK.match(module.path) for module in modules)
    stems = [
        module
        for module, kind in zip(modules, kinds)
        if kind == "conv" and not _BLOCK.match(module.path)
    ]
    counts = dict.fromkeys(ordered, 0)
    for module, kind in zip(modules, kinds):
        if kind is None:
            continue
        match = _BLOCK.match(module.path)
        if match:
            module.target = _block_name(match, kind)
        elif by_name and kind == "conv":
            index = stems.index(module) + 1 if len(stems) > 1 else ""
            module.target = f"stem_conv{index}"
        elif by_name and kind == "norm":
            module.target = "stem_bn"
        elif by_name and kind == "neuron":
            module.target = "head_neuron" if module.path.startswith("head") else "stem_neuron"
        else:
            names, index = ordered[kind], counts[kind]
            module.target = names[index] if index < len(names) else None
            counts[kind] += 1
        if step := re.search(r"\.(step_\d+)$", module.path):
            module.target += "/" + step[1]


# Stages and blocks: `layer2.0.` (torchvision, SpikingJelly, SEW-ResNet), `conv3_x.0.` (MS-ResNet).
_BLOCK = re.compile(r"(?:layer(\d+)|conv(\d+)_x)\.(\d+)\.(.+)")


def _block_name(match, kind):
    """Our name of a layer within a block."""
    stage = int(match[1]) if match[1] else int(match[2]) - 1
    name, inner = f"stack{stage}_block{int(match[3]) + 1}", match[4]
    part = "bn" if kind == "norm" else kind
    if re.match("downsample|shortcut|identity", inner):
        return f"{name}_shortcut_{part}"
    number = re.search(r"\d+", inner)
    index = int(number[0]) if number else ""
    # Sequences: neuron, convolution, norm, twice; or convolution, ReLU, dropout, convolution.
    if inner.startswith("residual_function"):
        index = (index + 2) // 3
    elif inner.startswith("residual."):
        index = index // 3 + 1
    return f"{name}_{part}{index}"


def _keras_name(name):
    """Our name of a layer of `keras.applications`' ResNets."""
    if name in ("conv1_conv", "conv1_bn"):
        return name.replace("conv1", "stem")
    match = re.fullmatch(r"conv(\d+)_block(\d+)_(\d+)_(conv|bn)", name)
    if not match:
        return None
    stage, block, index, part = match.groups()
    block = f"stack{int(stage) - 1}_block{block}"
    return f"{block}_shortcut_{part}" if index == "0" else f"{block}_{part}{index}"
