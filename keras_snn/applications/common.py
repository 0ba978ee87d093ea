"""What the model families share: signatures, inputs, named layers, norms, heads, weights."""

import functools
import inspect
import math
import pathlib
import textwrap

import keras
import numpy as np
from keras import layers, ops

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.utils.arguments import check_choice, check_integer
from keras_snn.utils.docs import entries_of, sections

__all__ = ["Builder", "application", "decode_predictions", "preprocess_input"]


@keras.saving.register_keras_serializable("keras_snn")
class KaimingNormal(keras.initializers.VarianceScaling):
    """The initialisation of the papers' PyTorch code, `kaiming_normal_(mode="fan_out")`.

    On JAX, NumPy draws the weights: XLA compiles JAX's generator for every shape of a kernel, which
    is most of the time to build a deep network.

    Args:
        seed: As Keras's initializers take it.
    """

    def __init__(self, seed=None):
        super().__init__(2.0, "fan_out", "untruncated_normal", seed)

    def __call__(self, shape, dtype=None):
        if keras.backend.backend() != "jax" or not isinstance(self.seed, int):
            return super().__call__(shape, dtype)
        fan_out = math.prod(shape[:-2]) * shape[-1]
        draws = np.random.default_rng(self.seed).standard_normal(shape, "float32")
        return ops.convert_to_tensor(draws * np.float32(math.sqrt(2.0 / fan_out)), dtype)

    def get_config(self):
        return {"seed": super().get_config()["seed"]}


HE_NORMAL = KaimingNormal()
# PyTorch's default of convolutions and dense layers, uniform within 1 / sqrt(fan-in).
TORCH_UNIFORM = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
GLOROT = keras.initializers.GlorotUniform()
SMALL_NORMAL = keras.initializers.RandomNormal(stddev=0.01)

preprocess_input = functools.partial(
    keras.applications.imagenet_utils.preprocess_input, mode="torch"
)
decode_predictions = keras.applications.imagenet_utils.decode_predictions


def soft_if():
    """The neuron of converted networks: IF with soft reset."""
    return snn.IF(reset="soft")


def is_channels_first():
    """Whether Keras's image data format is `"channels_first"`."""
    return keras.config.image_data_format() == "channels_first"


class Builder:
    """Adds named layers to a network, with the constants of the papers' PyTorch code.

    Tensors are `(batch, h, w, c)` and `(batch, features)`, or have time as their second axis, which
    makes the rank odd. A network on images starts without time: its first neuron, or what else
    needs time, repeats the tensor at every step, so that what comes before is computed once.

    Args:
        neuron: What `keras_snn.layers.get_neuron` takes.
        timesteps: Number of steps of a network on images; `None` for a network without time, whose
            `neuron` is an activation layer.
        norm: `"bn"`, `"tdbn"`, `"tebn"`, `"bntt"`, `None`, or a function from a name to a layer on
            sequences.
        kernel_initializer: Initializer of the convolutions.
        dense_initializer: Initializer of the dense layers. Biases are 0, but for `TORCH_UNIFORM`.
    """

    def __init__(
        self,
        neuron,
        timesteps,
        norm="bn",
        kernel_initializer=HE_NORMAL,
        dense_initializer=TORCH_UNIFORM,
    ):
        layer = snn.get_neuron(neuron)  # bad arguments fail before any work
        if timesteps is not None:
            check_integer("timesteps", timesteps)
        elif isinstance(layer, snn.SpikingRNN):
            raise ValueError(
                "`timesteps=None` makes a network without time, whose `neuron` must be an "
                f"activation layer such as `keras.layers.ReLU`. Received: neuron={neuron!r}"
            )
        if not callable(norm):
            check_choice("norm", norm, (None, "bn", *NORMS))
        self._neuron, self.timesteps, self._norm = neuron, timesteps, norm
        self._initializer, self._dense_initializer = kernel_initializer, dense_initializer
        threshold = getattr(getattr(layer, "cell", None), "threshold", 1.0)
        self.threshold = threshold if isinstance(threshold, (int, float)) else 1.0

    def has_time(self, x):
        """Whether a tensor has a time axis."""
        return len(x.shape) % 2 == 1

    def apply(self, layer, x):
        """A layer on `x`, at every step if `x` has time."""
        return snn.FoldTime(layer, name=layer.name)(x) if self.has_time(x) else layer(x)

    def repeat(self, x, name):
        """`x` at every step, if it has no time axis yet."""
        if self.has_time(x) or self.timesteps is None:
            return x
        return snn.RepeatTime(self.timesteps, name=name + "_repeat")(x)

    def neuron(self, x, name):
        """A spiking neuron layer."""
        return snn.get_neuron(self._neuron, name)(self.repeat(x, name))

    def join(self, branch, shortcut, name, connect="add"):
        """Branch and shortcut as one tensor."""
        inputs = [self.repeat(branch, name + "_branch"), self.repeat(shortcut, name + "_shortcut")]
        return snn.SpikeConnection(connect, name=name)(inputs)

    def sum(self, tensors, name, average=False):
        """The sum, or the mean, of tensors of one shape."""
        tensors = [self.repeat(x, f"{name}_{i}") for i, x in enumerate(tensors, start=1)]
        if len(tensors) == 1:
            return tensors[0]
        return (layers.Average if average else layers.Add)(name=name)(tensors)

    def conv(self, x, filters, size, strides, name, use_bias=False, kernel_initializer=None):
        """A convolution, padded symmetrically by `size // 2`."""
        # Without strides Keras's "same" is symmetric.
        padding = "symmetric" if strides > 1 and size > 1 else "same"
        kind = snn.PaddedConv2D if padding == "symmetric" else layers.Conv2D
        initializer = kernel_initializer or self._initializer.clone()
        layer = kind(
            filters,
            size,
            strides,
            padding,
            use_bias=use_bias,
            kernel_initializer=initializer,
            bias_initializer=_bias(self._initializer, size * size * self.channels(x)),
            name=name,
        )
        return self.apply(layer, x)

    def delays(self, x, filters, size, name):
        """A convolution over time of `(batch, time, features)`, of the present and the past."""
        layer = layers.Conv1D(filters, size, padding="causal", use_bias=False, name=name)
        return layer(x)

    def norm(self, x, name, gamma="ones", beta="zeros", branches=1):
        """The network's normalisation; `branches` is the number of tensors that will be summed."""
        if self._norm is None:
            return x
        arguments = {"name": name, "gamma_initializer": gamma, "beta_initializer": beta}
        if self._norm == "bn":
            axis = 1 if is_channels_first() else -1
            return self.apply(layers.BatchNormalization(axis, 0.9, 1e-5, **arguments), x)
        x = self.repeat(x, name)
        if callable(self._norm):
            return self._norm(name)(x)
        timesteps = x.shape[1] if self.has_time(x) else None
        if timesteps is None and self._norm != "tdbn":
            raise ValueError(
                f"norm={self._norm!r} needs a known number of timesteps, got an input of shape "
                f"{tuple(x.shape)} and timesteps={self.timesteps}. Without time, norm='bn' works."
            )
        return NORMS[self._norm](timesteps, branches**-0.5, self.threshold, **arguments)(x)

    def dense(self, x, units, name, use_bias=True, **kwargs):
        """A dense layer at every step."""
        layer = layers.Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=self._dense_initializer.clone(),
            bias_initializer=_bias(self._dense_initializer, x.shape[-1]),
            name=name,
            **kwargs,
        )
        return layer(x)

    def activation(self, x, activation, name):
        """An activation by itself."""
        return layers.Activation(activation, name=name)(x)

    def dropout(self, x, rate, name):
        """Dropout whose mask is the same at every step."""
        if not rate:
            return x
        layer = snn.TimeConstantDropout if self.has_time(x) else layers.Dropout
        return layer(rate, name=name)(x)

    def max_pool(self, x, name, size=2, strides=2):
        """Maximum over windows; windows of 3 overlap, and the maps are padded by 1."""
        if size > strides:
            x = self.apply(_EdgePadding2D(1, name=name + "_pad"), x)
        return self.apply(layers.MaxPooling2D(size, strides, name=name), x)

    def average_pool(self, x, name, size=2):
        """Mean over windows that do not overlap."""
        return self.apply(layers.AveragePooling2D(size, name=name), x)

    def global_pool(self, x, pooling="avg"):
        """Mean or maximum over space, at every step."""
        pool = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}[pooling]
        return self.apply(pool(name=f"{pooling}_pool"), x)

    def flatten(self, x):
        """All features of a step on one axis."""
        return self.apply(layers.Flatten(name="flatten"), x)

    def readout(self, x, layer=snn.MeanOverTime, name="mean_over_time"):
        """The mean, or another readout, over time, if there is any."""
        return layer(name=name)(x) if self.has_time(x) else x

    def channels(self, x):
        """Number of channels of feature maps."""
        return x.shape[-3 if is_channels_first() else -1]


def _bias(initializer, fan_in):
    """Initializer of biases beside such kernels."""
    if initializer is not TORCH_UNIFORM:
        return "zeros"
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def _tdbn(timesteps, alpha, threshold, **kwargs):
    return snn.ThresholdDependentBatchNormalization(alpha, threshold, **kwargs)


def _tebn(timesteps, alpha, threshold, **kwargs):
    return snn.TemporalEffectiveBatchNormalization(timesteps, **kwargs)


def _bntt(timesteps, alpha, threshold, beta_initializer, **kwargs):
    return snn.BatchNormalizationThroughTime(timesteps, **kwargs)


# The norms that need time. The last two keep something for each step.
NORMS = {"tdbn": _tdbn, "tebn": _tebn, "bntt": _bntt}


@keras.saving.register_keras_serializable(package="keras_snn")
class _EdgePadding2D(layers.ZeroPadding2D):
    """Repeats the edges in front of a maximum, where PyTorch pads with minus infinity.

    A window that sees the copy of a pixel sees the pixel too: maxima and, as a copy's gradient goes
    to its pixel, gradients are those of windows without padding. Zeros would take the gradient of
    silent windows, and minus infinity would ruin the range of quantised maps.
    """

    def call(self, inputs):
        widths = [(0, 0), *self.padding]
        widths.insert(1 if self.data_format == "channels_first" else 3, (0, 0))
        return ops.pad(inputs, widths, mode="symmetric")


graph.register(_EdgePadding2D, "across", linear=True)


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
    example="(input_shape=(32, 32, 3), classes=10, timesteps=2)",
    size=224,
    minimum=32,
    channels=3,
    sequence=False,
    maps=True,
    kernel_initializer=HE_NORMAL,
    dense_initializer=TORCH_UNIFORM,
    defaults=None,
    **layout,
):
    """A function like those of `keras.applications`, from the functions that add its layers.

    Args:
        title: Name of the function.
        name: Default name of the model.
        features: `features(net, x, *, ...)`, from the input to feature maps. Its keyword arguments
            that `layout` does not set are options of the function.
        top: `top(net, x, classes, classifier_activation, *, ...)`, from there to the answer.
        about: What the layout is, in a few words.
        example: Arguments of a small example.
        size: Default height and width.
        minimum: Smallest height and width.
        channels: Default number of channels.
        sequence: Whether the default input is a sequence.
        maps: Whether a step of the input is an image; else its features.
        kernel_initializer: Initializer of the convolutions.
        dense_initializer: Initializer of the dense layers.
        defaults: Other defaults of the function's arguments, by name.
        **layout: What is particular to this network, keyword arguments of `features` and `top`.

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
        bound.apply_defaults()
        given = bound.arguments
        include_top, pooling, classes = given["include_top"], given["pooling"], given["classes"]
        check_arguments(given["weights"], include_top, pooling, classes)
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
            maps,
        )

        def chosen(part):
            return {p.name: layout.get(p.name, given.get(p.name)) for p in parts[part]}

        x = features(net, inputs, **chosen(features))
        if include_top:
            x = top(net, x, classes, given["classifier_activation"], **chosen(top))
        elif pooling is not None:
            x = net.readout(net.global_pool(x, pooling))
        return finish(inputs, x, given["weights"], given["name"])

    build.__name__ = build.__qualname__ = title
    build.__module__ = features.__module__
    build.__signature__ = signature
    build.__doc__ = _documentation(title, about, example, features, top, options)
    return build


def _documentation(title, about, example, features, top, options):
    """The documentation of a function, from that of its parts; `options` are what it takes."""
    texts, sources = zip(
        *(inspect.cleandoc(part.__doc__).partition("\n\nSource:")[::2] for part in (features, top))
    )
    shared = sections(_arguments.__doc__)
    entries = entries_of("\n".join([shared[1], *(sections(t)[1] for t in texts)]))
    taken = {*inspect.signature(_arguments).parameters, *options}
    entries = [entry for entry in entries if entry.split(":")[0] in taken]
    parts = [
        f"{title}: {about}.",
        sections(texts[0])[0],
        "Args:\n" + textwrap.indent("\n".join(entries), "    "),
        shared[2],
        "Source:" + sources[0],
        f"Example:\n\n>>> model = {title}{example}\n>>> len(model.output_shape)\n2",
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
    """What all families take.

    Args:
        include_top: Whether to include the classifier.
        weights: `None` (random) or the path of a Keras weights file. For PyTorch's files and for
            weights of ANNs see `load_torch_weights`, `load_keras_weights`.
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


def check_arguments(weights, include_top, pooling, classes):
    """Keras's errors for bad combinations of arguments."""
    if weights is not None and not pathlib.Path(weights).is_file():
        raise ValueError(
            "The `weights` argument should be either `None` (random initialization) or the path "
            f"to the weights file to be loaded. Received: weights={weights!r}"
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            f"The `pooling` argument should be `None`, 'avg' or 'max'. Received: {pooling!r}"
        )
    if include_top:
        check_integer("classes", classes)


def obtain_input(input_tensor, input_shape, time, size, channels, minimum, maps=True):
    """The input tensor of a model: images, or sequences of images or (not `maps`) of features."""
    if input_tensor is not None and not keras.backend.is_keras_tensor(input_tensor):
        input_tensor = layers.Input(tensor=input_tensor)
    shape = tuple(input_tensor.shape[1:]) if input_tensor is not None else input_shape
    first = is_channels_first()
    if shape is None:
        image = (channels, size, size) if first else (size, size, channels)
        shape = (*time, *image) if maps else (*time, channels)
    shape = tuple(shape)
    if len(shape) not in ((3, 4) if maps else (2,)):
        wanted = (
            "three integers (images) or four (sequences, time first)"
            if maps
            else ("two integers, time and features")
        )
        raise ValueError(
            f"`input_shape` should be a tuple of {wanted}. Received: input_shape={shape}"
        )
    if input_tensor is not None and input_shape is not None and tuple(input_shape) != shape:
        raise ValueError(
            f"`input_shape` {tuple(input_shape)} does not agree with the shape {shape} of "
            "`input_tensor`."
        )
    sizes = () if not maps else shape[-2:] if first else shape[-3:-1]
    if any(size is not None and size < minimum for size in sizes):
        raise ValueError(
            f"Input size must be at least {minimum}x{minimum}. Received: input_shape={shape}"
        )
    if shape[-3 if first and maps else -1] is None:
        raise ValueError(f"The number of channels must be known. Received: input_shape={shape}")
    return layers.Input(shape) if input_tensor is None else input_tensor


def finish(inputs, outputs, weights, name):
    """The model from `inputs` to `outputs`, with weights loaded if a path is given."""
    sources = keras.utils.get_source_inputs(inputs)
    model = keras.Model(sources[0] if len(sources) == 1 else sources, outputs, name=name)
    if weights is not None:
        model.load_weights(weights)
    return model
