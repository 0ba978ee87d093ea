"""Joint training of an ANN and an SNN that share the directions of their convolutions.

`joint_model` makes one Keras model of both networks, `JointCrossentropy` is its loss, and
`to_spiking` extracts the spiking network. Each k x k kernel is factorised into k * k matrices
`U diag(s) V^T`. The networks share U, V and biases; each has its own scales s, dense kernels and
all other weights. The ANN teaches the SNN, and its output teaches its own earlier stages.

Source: Guo et al., "Joint A-SNN: Joint Training of Artificial and Spiking Neural Networks via
Self-Distillation and Weight Factorization" (2023), and the authors' code.
"""

import re
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

from keras_snn import layers as snn_layers
from keras_snn.analysis.rates import is_spiking
from keras_snn.applications.builder import KaimingNormal
from keras_snn.layers.time import fold, unfold
from keras_snn.utils.arguments import Configured, check_choice, check_number
from keras_snn.utils.deprecation import renamed

__all__ = [
    "FeatureDistance",
    "JointConv2D",
    "JointCrossentropy",
    "JointDense",
    "ann_accuracy",
    "joint_model",
    "snn_accuracy",
]
__getattr__ = renamed(__name__)

NETWORKS = ("ann", "snn")


def joint_model(
    ann: keras.Model,
    snn: keras.Model,
    stages: Sequence[str] | None = None,
    feature_weight: float = 1e-6,
) -> keras.Model:
    """One model that trains an ANN and an SNN of the same layout.

    Convolutions become `JointConv2D` layers and dense layers `JointDense` layers (`joint_...`) that
    both networks use and that start as those of `ann`. All other layers are copies, `ann_...` and
    `snn_...`, with the weights of the network they come from. The given models stay as they are.

    After each stage both networks have a head for training (`head_...`): convolutions 1x1 to a
    quarter of the channels of the last maps, k x k with stride k down to their size, and 1x1 to
    their channels, each with normalisation and activation as in the network; global average
    pooling, which gives the head's features; a dense layer. Logits and features of the SNN are sums
    over time. `FeatureDistance` adds the distance of both networks' features to the loss.

    Args:
        ann: A functional model that ends in logits, `(batch, classes)`, such as
            `SpikingResNet18(timesteps=None, neuron=keras.layers.ReLU, classifier_activation=None)`.
        snn: The spiking network with the same names of layers, such as
            `SpikingResNet18(timesteps=4, classifier_activation=None)`; its readout is
            `MeanOverTime` or `SumOverTime`.
        stages: Names of the layers behind which there are heads besides the classifiers; by default
            the last layer of each stage (`stack1_...`, or `block1_...`) but the last one.
        feature_weight: Weight of the features' distance, at least 0.

    Returns:
        A functional model from images to logits, `(batch, stages, 2, classes)`: those of all heads,
        the classifiers last; of the ANN, then of the SNN.

    Raises:
        TypeError: If one of the models is not functional.
        ValueError: If the layouts differ; the first layer that differs is named. If an output has
            another shape than `(batch, classes)` or is a probability. If a stage is unknown, or its
            maps have no known size. If the SNN has no such readout, or no known number of steps.

    Source: Guo et al. (2023); the sizes 8, 4, 2 of their heads are those of 32x32 images here.

    Example:

    ```python
    options = {"input_shape": (32, 32, 3), "classes": 10, "classifier_activation": None}
    ann = applications.SpikingResNet18(timesteps=None, neuron=keras.layers.ReLU, **options)
    snn = applications.SpikingResNet18(timesteps=4, **options)
    model = training.joint_model(ann, snn)
    metrics = [training.ann_accuracy, training.snn_accuracy]
    model.compile("adam", training.JointCrossentropy(), metrics=metrics)
    model.fit(images, labels, epochs=100)
    spiking = training.to_spiking(model)
    ```
    """
    check_number("feature_weight", feature_weight, minimum=0)
    _check_layouts(ann, snn)
    stages = _stage_ends(ann) if stages is None else stages
    inputs = _input_like(snn)
    shared, logits, features = {}, [], []
    for network, model in zip(NETWORKS, (ann, snn)):
        tensors, sources = _add_network(model, network, inputs, shared)
        for stage in stages:
            check_choice("stages", stage, tensors)
        head = _Head(network, ann, snn, shared)
        heads = [head(stage, tensors) for stage in stages]
        heads.append((sources[_classifier(model)], tensors[model.layers[-1].name]))
        if network == "snn":
            heads[-1] = _summed(*heads[-1], snn)
        features.append([_over_time(x, network) for x, _ in heads])
        logits.append([_over_time(x, network) for _, x in heads])
    logits = ops.stack([ops.stack(pair, axis=1) for pair in zip(*logits)], axis=1)
    outputs = FeatureDistance(feature_weight, name="feature_distance")(logits, *features)
    return keras.Model(inputs, outputs, name=f"joint_{snn.name}")


def is_joint(model):
    """Whether a model is one of `joint_model`."""
    names = [layer.name for layer in model.layers]
    return "summed_logits" in names and "feature_distance" in names


def spiking_part(model):
    """The spiking network of a joint model, see `to_spiking`."""
    trained = keras.Model(model.inputs[0], model.get_layer("summed_logits").input)

    def replace(layer):
        kind = type(layer)
        if kind is JointConv2D:
            kind = snn_layers.PaddedConv2D if layer.padding == "symmetric" else layers.Conv2D
        if kind is JointDense:
            kind = layers.Dense
        return kind.from_config(layer.get_config() | {"name": _plain(layer)})

    def call(layer, *args, network=None, **kwargs):
        if network is not None and len(args[0].shape) == 5:
            layer = snn_layers.FoldTime(layer, name=layer.name)
        return layer(*args, **kwargs)

    result = keras.models.clone_model(trained, _input_like(model), replace, call)
    for layer in trained.layers:
        if layer.weights:
            shared = isinstance(layer, (JointConv2D, JointDense))
            weights = layer.folded_weights("snn") if shared else layer.get_weights()
            result.get_layer(_plain(layer)).set_weights(weights)
    result.name = model.name.removeprefix("joint_")
    return result


@keras.saving.register_keras_serializable(package="keras_snn")
class JointConv2D(snn_layers.PaddedConv2D):
    """A convolution that an ANN and an SNN share, but for its scales.

    The kernel of a network, `(height, width, inputs, filters)`, is `v * s @ transpose(u)` at each
    place: `u`, `(height, width, filters, rank)`, and `v`, `(height, width, inputs, rank)`, are
    shared, `s`, `(height, width, rank)`, is the network's own; the rank is the smaller of `inputs`
    and `filters`.

    Args:
        **kwargs: Those of `PaddedConv2D`, without regularizer and constraint of the kernel.

    Call arguments:
        inputs: Images, or sequences of them, `(batch, time, ...)`, which are seen as one batch.
        network: `"ann"` or `"snn"`.

    Raises:
        ValueError: If there is a regularizer or constraint of the kernel.

    Source: Guo et al. (2023).

    Example:

    >>> layer = JointConv2D(8, 3, padding="same")
    >>> images = keras.random.normal((2, 16, 16, 3))
    >>> bool(keras.ops.all(layer(images, network="ann") == layer(images, network="snn")))
    True
    >>> layer(keras.random.normal((2, 4, 16, 16, 3)), network="snn").shape == (2, 4, 16, 16, 8)
    True
    """

    # Those of `Conv2D` know one kernel and one bias.
    save_own_variables = layers.Layer.save_own_variables
    load_own_variables = layers.Layer.load_own_variables

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name in ("kernel_regularizer", "kernel_constraint"):
            if getattr(self, name) is not None:
                raise ValueError(f"A factorised kernel takes no `{name}`. Received: {kwargs[name]}")

    def build(self, input_shape):
        channels = input_shape[-3 if self.data_format == "channels_first" else -1] // self.groups
        rank = min(channels, self.filters)

        def add(name, *shape):
            shape = (*self.kernel_size, *shape)
            return self.add_weight(name=name, shape=shape, initializer="zeros", autocast=False)

        self.u = add("u", self.filters, rank)
        self.v = add("v", channels, rank)
        self.scales = {network: add(f"scales_{network}", rank) for network in NETWORKS}
        self.bias = _add_bias(self, self.filters)
        self.built = True
        shape = (*self.kernel_size, channels, self.filters)
        self.start(ops.convert_to_numpy(self.kernel_initializer(shape, dtype="float32")))

    def start(self, kernel, bias=None):
        """Makes `kernel`, `(height, width, inputs, filters)`, the kernel of both networks."""
        if bias is not None:
            self.bias.assign(bias)
        v, s, u = np.linalg.svd(np.asarray(kernel, "float64"), full_matrices=False)
        self.u.assign(np.swapaxes(u, -1, -2))
        self.v.assign(v)
        for scales in self.scales.values():
            scales.assign(s)

    def kernel_of(self, network):
        """The kernel of `"ann"` or of `"snn"`, `(height, width, inputs, filters)`."""
        scales = self.scales[check_choice("network", network, NETWORKS)]
        return ops.matmul(self.v * scales[:, :, None], ops.swapaxes(self.u, -1, -2))

    def folded_weights(self, network):
        """The weights of the plain convolution of `"ann"` or `"snn"`, arrays."""
        weights = [self.kernel_of(network)] + ([self.bias] if self.use_bias else [])
        return [ops.convert_to_numpy(weight) for weight in weights]

    def call(self, inputs, network="ann"):
        sequences = len(inputs.shape) == 5
        x = fold(inputs) if sequences else inputs
        x = self.convolution_op(x, ops.cast(self.kernel_of(network), self.compute_dtype))
        if self.use_bias:
            first = self.data_format == "channels_first"
            x = x + ops.reshape(self.bias, (-1, 1, 1) if first else (-1,))
        x = self.activation(x)
        return unfold(x, inputs) if sequences else x

    def compute_output_shape(self, input_shape):
        if len(input_shape) == 4:
            return super().compute_output_shape(input_shape)
        output = super().compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *output[1:])


@keras.saving.register_keras_serializable(package="keras_snn")
class JointDense(Configured, layers.Dense):
    """A dense layer of which an ANN and an SNN share the bias; each has a kernel of its own.

    Args:
        **kwargs: Those of `keras.layers.Dense`.

    Call arguments:
        inputs: `(batch, ..., inputs)`.
        network: `"ann"` or `"snn"`.

    Source: the code of Guo et al. (2023).

    Example:

    >>> layer = JointDense(8)
    >>> x = keras.random.normal((2, 4))
    >>> bool(keras.ops.all(layer(x, network="ann") == layer(x, network="snn")))
    True
    """

    save_own_variables = layers.Layer.save_own_variables
    load_own_variables = layers.Layer.load_own_variables

    def build(self, input_shape):
        shape = (input_shape[-1], self.units)
        self.kernels = {
            network: self.add_weight(
                name=f"kernel_{network}",
                shape=shape,
                initializer=self.kernel_initializer,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
            for network in NETWORKS
        }
        self.bias = _add_bias(self, self.units)
        self.built = True
        self.start(ops.convert_to_numpy(self.kernels["ann"]))

    def start(self, kernel, bias=None):
        """Makes `kernel`, `(inputs, units)`, the kernel of both networks."""
        for own in self.kernels.values():
            own.assign(kernel)
        if bias is not None:
            self.bias.assign(bias)

    def folded_weights(self, network):
        """The weights of the plain dense layer of `"ann"` or `"snn"`, arrays."""
        weights = [self.kernels[network]] + ([self.bias] if self.use_bias else [])
        return [ops.convert_to_numpy(weight) for weight in weights]

    def call(self, inputs, network="ann"):
        x = ops.matmul(inputs, self.kernels[check_choice("network", network, NETWORKS)])
        return self.activation(x + self.bias if self.use_bias else x)


@keras.saving.register_keras_serializable(package="keras_snn")
class FeatureDistance(Configured, layers.Layer):
    """Adds the distance of two networks' features to the loss of a joint model.

    `weight * sum (s - a)^2 [s > 0 or a > 0]` over examples, features and heads, with features a of
    the ANN, which get no gradient, and s of the SNN.

    Args:
        weight: Its weight, at least 0.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        logits: A tensor, which is returned as it is.
        ann: The ANN's features, a list of tensors.
        snn: The SNN's features, a list of tensors of the same shapes.

    Source: the code of Guo et al. (2023).

    Example:

    >>> layer = FeatureDistance(0.5)
    >>> ann, snn = keras.ops.array([[3.0, 0.0, -1.0]]), keras.ops.array([[1.0, 2.0, -4.0]])
    >>> _ = layer(keras.ops.zeros((1, 2)), [ann], [snn])
    >>> float(layer.losses[0])  # 0.5 * (2^2 + 2^2)
    4.0
    """

    def __init__(self, weight=1e-6, **kwargs):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.weight = check_number("weight", weight, minimum=0)

    def call(self, logits, ann, snn):
        total = 0.0
        for a, s in zip(ann, snn):
            # Sums over a batch are too large for half precision.
            a, s = (ops.cast(x, self.variable_dtype) for x in (ops.stop_gradient(a), s))
            counted = ops.cast(ops.logical_or(s > 0, a > 0), s.dtype)
            total = total + ops.sum(ops.square(s - a) * counted)
        self.add_loss(self.weight * total)
        return logits

    def compute_output_spec(self, logits, ann, snn):
        return keras.KerasTensor(logits.shape, logits.dtype)

    def get_config(self):
        return super().get_config() | {"weight": self.weight}


@keras.saving.register_keras_serializable(package="keras_snn")
class JointCrossentropy(Configured, keras.losses.Loss):
    """Cross-entropies of all heads of a joint model, and what the ANN teaches.

    With logits a_1, ..., a_K of the ANN's heads and s_1, ..., s_K of the SNN's, the classifiers
    last, and `H(p, z) = -sum p log softmax(z)`:

        (1 - alpha) * sum_k [H(y, a_k) + H(y, s_k)]
        + alpha * T^2 * [sum_{k < K} H(softmax(a_K / T), a_k / T)
                         + sum_k H(softmax(a_k / T), s_k / T)]

    Teachers get no gradient. The authors' third term, of features, is `FeatureDistance`'s.

    Args:
        alpha: Share of what the ANN teaches, from 0 to 1.
        temperature: T, above 0.
        **kwargs: Those of `keras.losses.Loss` (`reduction`, `name`, `dtype`).

    Call arguments:
        y_true: Labels, integers `(batch,)` or `(batch, 1)`, or probabilities `(batch, classes)`.
        y_pred: Logits, `(batch, stages, 2, classes)`.

    Raises:
        ValueError: If the logits have another shape.

    Source: Guo et al. (2023) and the authors' code, with its values as defaults.

    Example:

    >>> logits = keras.ops.array([[[[1.0, 0.0], [1.0, 0.0]]]])
    >>> round(float(JointCrossentropy(alpha=0.0)([0], logits)), 4)  # twice log(1 + 1 / e)
    0.6265
    """

    def __init__(self, alpha=0.1, temperature=3.0, name="joint_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.alpha = check_number("alpha", alpha, minimum=0, maximum=1)
        self.temperature = check_number("temperature", temperature, above=0)

    def call(self, y_true, y_pred):
        ann, snn = _of_networks(ops.convert_to_tensor(y_pred))
        labels = ops.expand_dims(_probabilities(y_true, ann), 1)
        hard = _crossentropy(labels, ann) + _crossentropy(labels, snn)
        ann, snn = ann / self.temperature, snn / self.temperature
        teacher = ops.softmax(ops.stop_gradient(ann))
        # The classifier teaches all heads before it, and each head that of the SNN.
        shallow = ops.sum(_crossentropy(teacher[:, -1:], ann[:, :-1]), axis=-1)
        soft = shallow + ops.sum(_crossentropy(teacher, snn), axis=-1)
        soft = self.temperature**2 * soft
        return (1 - self.alpha) * ops.sum(hard, axis=-1) + self.alpha * soft

    def get_config(self):
        return super().get_config() | {"alpha": self.alpha, "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="keras_snn")
def ann_accuracy(y_true, y_pred):
    """Whether the ANN's classifier is right, a metric of joint models.

    Args:
        y_true: Labels, integers `(batch,)` or `(batch, 1)`, or probabilities `(batch, classes)`.
        y_pred: Logits, `(batch, stages, 2, classes)`.

    Returns:
        1 where it is right, else 0, `(batch,)`.
    """
    return _right(y_true, _of_networks(y_pred)[0])


@keras.saving.register_keras_serializable(package="keras_snn")
def snn_accuracy(y_true, y_pred):
    """Whether the SNN's classifier is right, a metric of joint models.

    Args:
        y_true: Labels, integers `(batch,)` or `(batch, 1)`, or probabilities `(batch, classes)`.
        y_pred: Logits, `(batch, stages, 2, classes)`.

    Returns:
        1 where it is right, else 0, `(batch,)`.
    """
    return _right(y_true, _of_networks(y_pred)[1])


def _of_networks(logits):
    """The logits of the ANN and of the SNN, each `(batch, stages, classes)`."""
    if len(logits.shape) != 4 or logits.shape[2] != 2:
        raise ValueError(
            "Losses and metrics of joint models need logits (batch, stages, 2, classes), got the "
            f"shape {tuple(logits.shape)}."
        )
    return logits[:, :, 0], logits[:, :, 1]


def _crossentropy(probabilities, logits):
    return -ops.sum(probabilities * ops.log_softmax(logits), axis=-1)


def _probabilities(labels, logits):
    """Labels, integers or not, as probabilities `(batch, classes)`."""
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == 2 and labels.shape[-1] == logits.shape[-1]:
        return ops.cast(labels, logits.dtype)
    labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
    return ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


def _right(labels, logits):
    """Whether the last head is right."""
    right = ops.argmax(_probabilities(labels, logits), axis=-1)
    return ops.cast(ops.argmax(logits[:, -1], axis=-1) == right, "float32")


def _add_bias(layer, size):
    """The bias of a shared layer, or `None`."""
    if not layer.use_bias:
        return None
    return layer.add_weight(
        name="bias",
        shape=(size,),
        initializer=layer.bias_initializer,
        regularizer=layer.bias_regularizer,
        constraint=layer.bias_constraint,
    )


def _plain(layer):
    """The name that a layer of a joint model has in its own network."""
    return re.sub("^(joint|ann|snn)_", "", layer.name)


def _input_like(model):
    """A new input with the name, shape and dtype of a model's."""
    return layers.InputLayer.from_config(model.layers[0].get_config()).output


def _sharable(layer):
    """The plain convolution or dense layer that a layer is, at every step or not, or `None`."""
    layer = layer.layer if isinstance(layer, snn_layers.FoldTime) else layer
    return layer if type(layer) in SHARED else None


def _add_network(model, network, inputs, shared):
    """Adds a copy of `model` on `inputs`; gives outputs and inputs of its layers by name.

    Convolutions and dense layers are those of `shared`, a dictionary, which the first network
    fills.
    """
    tensors, sources = {}, {}

    def replace(layer):
        plain = _sharable(layer)
        if plain is None:
            return _copy(layer, f"{network}_{layer.name}")
        if layer.name not in shared:
            config = plain.get_config() | {"name": f"joint_{layer.name}"}
            shared[layer.name] = SHARED[type(plain)].from_config(config)
        return shared[layer.name]

    def call(layer, *args, **kwargs):
        if isinstance(layer, (JointConv2D, JointDense)):
            kwargs = {"network": network}  # `FoldTime` takes other ones
        name = _plain(layer)
        sources[name], tensors[name] = args[0], layer(*args, **kwargs)
        return tensors[name]

    inputs = keras.tree.map_structure(lambda _: inputs, model.input)  # a tensor, or a list of one
    copy = keras.models.clone_model(model, inputs, replace, call)
    for layer in model.layers:
        if _sharable(layer) is None:
            if layer.weights:
                copy.get_layer(f"{network}_{layer.name}").set_weights(layer.get_weights())
        elif network == "ann":
            shared[layer.name].start(*layer.get_weights())
    return tensors, sources


def _copy(layer, name):
    """A new layer of the same configuration, for inputs of any shape."""
    if isinstance(layer, snn_layers.FoldTime):  # its configuration has the shape of inputs
        return snn_layers.FoldTime(_copy(layer.layer, layer.layer.name), name=name)
    return type(layer).from_config(layer.get_config() | {"name": name})


def _over_time(x, network):
    """What has time, `(batch, time, features)`, without: the SNN's sum, an ANN's mean."""
    reduce = snn_layers.SumOverTime if network == "snn" else snn_layers.MeanOverTime
    return reduce()(x) if len(x.shape) == 3 else x


def _summed(features, logits, snn):
    """Features and logits of the SNN's classifier, sums over time where the network has means."""
    known = (snn_layers.MeanOverTime, snn_layers.SumOverTime)
    readout = next((layer for layer in snn.layers if isinstance(layer, known)), None)
    steps = None if readout is None else readout.input.shape[1]
    if steps is None:
        raise ValueError(
            "`snn` must have a readout `MeanOverTime` or `SumOverTime` of a known number of steps. "
            f"Received: {snn.name!r}, {'without one' if readout is None else 'of an open number'}."
        )
    factor = steps if isinstance(readout, snn_layers.MeanOverTime) else 1
    if len(features.shape) != 3:
        features = layers.Rescaling(factor)(features)
    # Whatever the factor: `to_spiking` finds the network's output by this layer.
    return features, layers.Rescaling(factor, name="summed_logits")(logits)


def _classifier(model):
    """Name of the last layer with weights."""
    return [layer.name for layer in model.layers if layer.weights][-1]


class _Head:
    """Makes the heads of a network; their convolutions and dense layers are shared."""

    def __init__(self, network, ann, snn, shared):
        self.network, self.shared = network, shared
        known = {layer.name for layer in ann.layers}
        maps = [x for x in snn.layers if x.name in known and len(x.output.shape) == 5]
        model = {"ann": ann, "snn": snn}[network]

        def of_this_network(layer):
            return None if layer is None else model.get_layer(layer.name)

        self.last = maps[-1].name if maps else None
        self.neuron = of_this_network(next(filter(is_spiking, maps), None))
        self.norm = of_this_network(next(filter(_is_norm, maps), None))
        self.classes = snn.output_shape[-1]

    def __call__(self, stage, tensors):
        """Features and logits behind a stage, of every step where there is time."""
        x, last = tensors[stage], tensors.get(self.last)
        if last is None or len(x.shape) != len(last.shape):
            raise ValueError(f"Received an invalid stage {stage!r}, expected maps, got {x.shape}.")
        (*size, _), (*smallest, channels) = _map_shape(x), _map_shape(last)
        if None in (*size, *smallest):
            raise ValueError(f"The maps of the stage {stage!r} have no known size: {x.shape}.")
        name, ratio = f"head_{stage}", [max(n // m, 1) for n, m in zip(size, smallest)]
        middle = max(channels // 4, 1)
        for place, (filters, kernel) in enumerate(((middle, 1), (middle, ratio), (channels, 1)), 1):
            options = {"strides": kernel, "use_bias": False, "kernel_initializer": KaimingNormal()}
            x = self.joint(f"{name}_conv{place}", JointConv2D, filters, kernel, **options)(
                x, network=self.network
            )
            for kind, layer in (("bn", self.norm), ("neuron", self.neuron)):
                if layer is not None:
                    x = _copy(layer, f"{self.network}_{name}_{kind}{place}")(x)
        pool = layers.GlobalAveragePooling2D(name=f"{self.network}_{name}_pool")
        if len(x.shape) == 5:
            pool = snn_layers.FoldTime(pool, name=pool.name)
        features = pool(x)
        dense = self.joint(name, JointDense, self.classes, kernel_initializer=KaimingNormal())
        return features, dense(features, network=self.network)

    def joint(self, name, kind, *args, **kwargs):
        """A layer of both networks."""
        if name not in self.shared:
            self.shared[name] = kind(*args, name=f"joint_{name}", **kwargs)
        return self.shared[name]


def _is_norm(layer):
    layer = layer.layer if isinstance(layer, snn_layers.FoldTime) else layer
    known = (layers.BatchNormalization, snn_layers.BatchNormalizationThroughTime)
    return isinstance(layer, known)


def _map_shape(x):
    """Height, width and channels."""
    *_, a, b, c = x.shape
    return (b, c, a) if keras.config.image_data_format() == "channels_first" else (a, b, c)


def _stage_ends(model):
    """The last layer of each stage but the last one, by names `stack1_...` or `block1_...`."""
    ends = {}
    for layer in model.layers:
        if match := re.match(r"(stack|block)\d+(?=_)", layer.name):
            ends[match[0]] = layer.name
    return list(ends.values())[:-1]


SHARED = {
    layers.Conv2D: JointConv2D,
    snn_layers.PaddedConv2D: JointConv2D,
    layers.Dense: JointDense,
}
GEOMETRY = (
    "units",
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "dilation_rate",
    "groups",
    "use_bias",
)


def _check_layouts(ann, snn):
    """An error where the two networks can't share their layers."""
    for name, model in (("ann", ann), ("snn", snn)):
        if not hasattr(model, "operations") or not isinstance(model, keras.Model):
            raise TypeError(f"`{name}` must be a functional model. Received: {model!r}")
        shapes, last = [tuple(x.shape) for x in model.outputs], model.layers[-1]
        activation = getattr(last, "activation", keras.activations.linear)
        if list(map(len, shapes)) != [2] or activation is not keras.activations.linear:
            raise ValueError(
                f"`{name}` must end in logits (batch, classes), with `classifier_activation=None`. "
                f"Received: {shapes} of {last.name!r}, activation {activation.__name__}."
            )
    for what in ("input_shape", "output_shape"):
        shapes = [getattr(model, what) for model in (ann, snn)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"The networks differ in their {what}: {shapes[0]} and {shapes[1]}.")
    _check_layers(ann, snn)


def _check_layers(ann, snn):
    """An error that names the first layer that differs."""
    plain, spiking = (
        {x.name: x for x in model.layers if not isinstance(x, layers.InputLayer)}
        for model in (ann, snn)
    )
    for name, layer in plain.items():
        if name not in spiking:
            raise ValueError(f"The layouts differ: `ann` has a layer {name!r}, `snn` has not.")
        geometry = [_geometry(layer), _geometry(spiking[name])]
        if geometry[0] != geometry[1]:
            raise ValueError(
                f"The layouts differ at the layer {name!r}: {geometry[0]} in `ann`, {geometry[1]} "
                "in `snn`."
            )
    for name, layer in spiking.items():
        if name not in plain and layer.weights:
            raise ValueError(f"The layouts differ: `snn` has a layer {name!r}, `ann` has not.")


def _geometry(layer):
    """What two shared layers must have in common, or `None`."""
    plain = _sharable(layer)
    if plain is None:
        return None
    geometry = {name: getattr(plain, name) for name in GEOMETRY if hasattr(plain, name)}
    return geometry | {"kernel_shape": tuple(plain.kernel.shape)}
