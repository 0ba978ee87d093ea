"""Functions like those of `keras.applications`, from the functions that add a network's layers."""

import inspect
import os
import pathlib
import textwrap

import keras

from keras_snn.applications.builder import HE_NORMAL, TORCH_UNIFORM, Builder
from keras_snn.applications.inputs import obtain_input
from keras_snn.applications.weights import presets
from keras_snn.utils.arguments import check_integer
from keras_snn.utils.docs import entries_of, sections

__all__ = ["APPLICATIONS", "application", "family", "pooled_top"]

# What `application` made, by title.
APPLICATIONS = {}


def pooled_top(net, x, classes, classifier_activation):
    """Global average pooling at every step, the mean over time, the classifier."""
    x = net.readout(net.global_pool(x))
    return net.dense(x, classes, "predictions", activation=classifier_activation)


def application(
    title,
    name,
    features,
    top=pooled_top,
    *,
    about,
    outputs="(batch, classes)",
    example="(input_shape=(32, 32, 3), classes=10, timesteps=2)",
    size=224,
    minimum=32,
    channels=3,
    sequence=False,
    step="image",
    kernel_initializer=HE_NORMAL,
    dense_initializer=TORCH_UNIFORM,
    defaults=None,
    **layout,
):
    """Makes a function like those of `keras.applications` from functions that add the layers.

    Args:
        title: Name of the function.
        name: Default name of the model.
        features: `features(net, x, *, ...)` adds the layers from the input to the feature maps; `x`
            and its result are a `Value`, or the result is a list of them, for `top`, of which the
            last are the features. Keyword arguments that are not in `layout` become options of the
            function.
        top: `top(net, x, classes, classifier_activation, *, ...)` adds the layers of the
            classifier.
        about: A few words about the layout.
        outputs: Shape of the outputs.
        example: Arguments of a small example.
        size: Default height and width.
        minimum: Smallest height and width.
        channels: Default number of channels.
        sequence: Whether the default input is a sequence.
        step: What a step of the input is: `"image"`, `"tokens"` (tokens, channels), or
            `"features"`, which are always sequences.
        kernel_initializer: Initializer of the convolutions.
        dense_initializer: Initializer of the dense layers.
        defaults: Other defaults of the function's arguments, by name.
        **layout: Keyword arguments of `features` and `top` that define this network.

    Returns:
        The function.
    """
    parts = {
        part: [
            parameter
            for parameter in inspect.signature(part).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        for part in (features, top)
    }
    common = inspect.signature(_arguments).parameters
    options = {p.name: p for part in parts.values() for p in part if p.name not in layout}
    defaults = {"name": name} | (defaults or {})
    signature = inspect.Signature(
        [
            parameter.replace(default=defaults.get(parameter.name, parameter.default))
            for parameter in (common | options).values()
        ]
    )

    def build(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        preset = presets.find(title, bound.arguments.get("weights"))
        if preset:
            presets.complete(preset, bound.arguments, signature)
        bound.apply_defaults()
        given = bound.arguments
        include_top, pooling, classes = given["include_top"], given["pooling"], given["classes"]
        weights = None if preset else given["weights"]
        check_arguments(title, weights, include_top, pooling, classes)
        net = Builder(
            given["neuron"],
            given["timesteps"],
            given["norm"],
            kernel_initializer,
            dense_initializer,
        )
        small = given.get("small_images", False)
        inputs = obtain_input(
            given["input_tensor"],
            given["input_shape"],
            (given["timesteps"],) if sequence else (),
            (32 if small else size) if include_top else None,
            channels,
            minimum // 4 if small else minimum,
            step,
        )

        def chosen(part):
            return {p.name: layout.get(p.name, given.get(p.name)) for p in parts[part]}

        x = features(net, inputs, **chosen(features))
        if include_top:
            x = top(net, x, classes, given["classifier_activation"], **chosen(top))
        else:
            x = x[-1] if isinstance(x, list) else x
            if pooling is not None:
                x = net.readout(net.global_pool(x, pooling))
        model = _model(inputs.tensor, x.tensor, weights, given["name"])
        if preset:
            presets.load(preset, model)
        return model

    build.__name__ = build.__qualname__ = title
    build.__module__ = features.__module__
    build.__signature__ = signature
    build.__doc__ = _documentation(title, about, outputs, example, features, top, options)
    APPLICATIONS[title] = build
    return build


def family(features, top=pooled_top, **common):
    """Makes `application` for the sizes of a family, which share some of its arguments.

    Args:
        features: That of `application`.
        top: That of `application`.
        **common: Those that all sizes have; a size's `defaults` go over these.

    Returns:
        A function of the title, the name and `about`, and of what a size has for itself.
    """

    def made(title, name, about, defaults=None, **kwargs):
        defaults = common.get("defaults", {}) | (defaults or {})
        kwargs = common | kwargs | {"defaults": defaults}
        return application(title, name, features, top, about=about, **kwargs)

    return made


def _documentation(title, about, outputs, example, features, top, options):
    """The docstring of a function, from those of its parts; `options` are its own arguments."""
    texts, sources = zip(
        *(inspect.cleandoc(part.__doc__).partition("\n\nSource:")[::2] for part in (features, top))
    )
    shared = sections(_arguments.__doc__)
    entries = entries_of("\n".join([shared[1], *(sections(t)[1] for t in texts)]))
    rank = outputs.count(",") + 1
    taken = {*inspect.signature(_arguments).parameters, *options}
    entries = [entry for entry in entries if entry.split(":")[0] in taken]
    parts = [
        f"{title}: {about}.",
        sections(texts[0])[0],
        *presets.documentation(title),
        "Args:\n" + textwrap.indent("\n".join(entries), "    "),
        shared[2].replace("(batch, classes)", outputs),
        "Source:" + sources[0],
        f"Example:\n\n>>> model = {title}{example}\n>>> len(model.output_shape)\n{rank}",
    ]
    return "\n\n".join(parts)


def _arguments(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    name=None,
    *,
    timesteps=4,
    neuron="if",
    norm="bn",
):
    """The arguments of all families.

    Args:
        include_top: Whether to include the classifier.
        weights: `None` (random), the name of a preset (see `list_presets`), which also sets the
            arguments that are not given, or the path of a Keras weights file. For PyTorch's files
            and for weights of ANNs see `load_torch_weights`, `load_keras_weights`.
        input_tensor: Optional Keras tensor to build on.
        input_shape: Shape of one example: `(height, width, channels)` for images, which are
            repeated over `timesteps`, or `(time, height, width, channels)` for sequences.
        pooling: Without the classifier: `None` for the sequence of feature maps,
            `(batch, time, h, w, c)`; `"avg"` or `"max"` for pooled features, averaged over time,
            `(batch, c)`.
        classes: Number of classes.
        classifier_activation: Activation of the classifier; `None` for logits.
        name: Name of the model.
        timesteps: Number of steps for images, T; `None` for the ANN of the same layout, without
            time, whose `neuron` is an activation (`neuron=keras.layers.ReLU`).
        neuron: Neuron: a name, a layer, a class, a config or a function that makes a layer.
        norm: Normalisation: `"bn"`, `"tdbn"`, `"tebn"`, `"bntt"`, `None`, or a function from a name
            to a layer on sequences.

    Returns:
        A `keras.Model` with outputs `(batch, classes)`.

    Raises:
        ValueError: If an argument is not one of those allowed.
    """


def check_arguments(title, weights, include_top, pooling, classes):
    """Keras's errors for bad combinations of arguments."""
    is_path = isinstance(weights, (str, os.PathLike))
    if weights is not None and not (is_path and pathlib.Path(weights).is_file()):
        names = [f"{preset.name!r}" for preset in presets.list_presets(title)]
        raise ValueError(
            "The `weights` argument should be `None` (random initialization), the path of a Keras "
            f"weights file, or a preset of {title}: {', '.join(names) or 'it has none'}; see "
            "`list_presets()`. For PyTorch's files see `load_torch_weights`. "
            f"Received: weights={weights!r}"
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            f"The `pooling` argument should be `None`, 'avg' or 'max'. Received: {pooling!r}"
        )
    if include_top:
        check_integer("classes", classes)


def _model(inputs, outputs, weights, name):
    """The model from `inputs` to `outputs`, with weights loaded if a path is given."""
    sources = keras.utils.get_source_inputs(inputs)
    model = keras.Model(sources[0] if len(sources) == 1 else sources, outputs, name=name)
    if weights is not None:
        model.load_weights(weights)
    return model
