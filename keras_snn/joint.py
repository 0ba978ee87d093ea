"""Joint training of an ANN and an SNN that share the directions of their convolutions.

`joint_model` makes one Keras model of both networks, `JointCrossentropy` is its loss, and
`finish` takes the spiking network out. Each kernel of size k x k is seen as k * k matrices
`U diag(s) V^T`: both networks train U and V, each has scales s of its own, and all other weights.
The ANN teaches the SNN at the end of each stage.

Source: Guo et al., "Joint A-SNN: Joint Training of Artificial and Spiking Neural Networks via
Self-Distillation and Weight Factorization" (2023). KL divergences of log-probabilities, biases of
each network's own, and heads of one dense layer are our reading.
"""

import re

import keras
import numpy as np
from keras import layers, ops

from keras_snn import layers as snn_layers
from keras_snn.layers.arguments import check_choice, check_number
from keras_snn.layers.time import fold, unfold

__all__ = [
    "JointConv2D",
    "JointCrossentropy",
    "ann_accuracy",
    "finish",
    "joint_model",
    "snn_accuracy",
]

NETWORKS = ("ann", "snn")


def joint_model(ann, snn, stages=None):
    """One model that trains an ANN and an SNN of the same layout.

    The convolutions become `JointConv2D` layers that both networks use, named `joint_...`, and
    start as those of `ann`; all other layers are copies, `ann_...` and `snn_...`, with the weights
    of the network they come from. After each stage both networks have a head for training: global
    average pooling, the mean over time, a dense layer (`head_...`). The given models stay as they
    are.

    Args:
        ann: A functional model that ends in logits, `(batch, classes)`, such as
            `SEWResNet18(timesteps=None, neuron=keras.layers.ReLU, classifier_activation=None)`.
        snn: The spiking network with the same names of layers, such as
            `SEWResNet18(timesteps=4, classifier_activation=None)`.
        stages: Names of the layers behind which there are heads besides the classifiers; by default
            the last layer of each stage (`stack1_...`, or `block1_...`) but the last one.

    Returns:
        A functional model from images to logits, `(batch, stages, 2, classes)`: those of all heads,
        the classifiers last; of the ANN, then of the SNN.

    Raises:
        TypeError: If one of the models is not functional.
        ValueError: If the layouts differ; the first layer that differs is named. If an output has
            another shape than `(batch, classes)` or is a probability. If a stage is unknown.

    Example:

    ```python
    options = {"input_shape": (32, 32, 3), "classes": 10, "classifier_activation": None}
    ann = applications.SEWResNet18(timesteps=None, neuron=keras.layers.ReLU, **options)
    snn = applications.SEWResNet18(timesteps=4, **options)
    model = joint.joint_model(ann, snn)
    metrics = [joint.ann_accuracy, joint.snn_accuracy]
    model.compile("adam", joint.JointCrossentropy(), metrics=metrics)
    model.fit(images, labels, epochs=100)
    spiking = joint.finish(model)
    ```
    """
    _check_layouts(ann, snn)
    stages = _stage_ends(ann) if stages is None else stages
    inputs = _input_like(snn)
    shared = {}
    heads = []
    for network, model in zip(NETWORKS, (ann, snn)):
        tensors = _add_network(model, network, inputs, shared)
        for stage in stages:
            check_choice("stages", stage, tensors)
        classes = model.output_shape[-1]
        heads.append([_head(tensors[stage], network, stage, classes) for stage in stages])
        heads[-1].append(tensors[model.layers[-1].name])
    logits = ops.stack([ops.stack(pair, axis=1) for pair in zip(*heads)], axis=1)
    return keras.Model(inputs, logits, name=f"joint_{snn.name}")


def finish(model):
    """The spiking network of a joint model, by itself.

    Args:
        model: A model of `joint_model`, trained.

    Returns:
        A functional model like the `snn` that `joint_model` was given, with plain convolutions of
        kernels `U diag(s) V^T` and weights of its own.

    Raises:
        ValueError: If `model` is not a joint model.
    """
    spiking = [layer for layer in model.layers if layer.name.startswith("snn_")]
    if not spiking:
        raise ValueError(f"Expected a model of `joint_model`. Received: {model!r}")
    # Layers are sorted by their distance from the output, and all lead to the classifier.
    trained = keras.Model(model.inputs[0], spiking[-1].output)

    def replace(layer):
        kind = type(layer)
        if kind is JointConv2D:
            kind = snn_layers.PaddedConv2D if layer.padding == "symmetric" else layers.Conv2D
        return kind.from_config(layer.get_config() | {"name": _plain(layer)})

    def call(layer, *args, network=None, **kwargs):
        if network is not None and len(args[0].shape) == 5:
            layer = snn_layers.FoldTime(layer, name=layer.name)
        return layer(*args, **kwargs)

    result = keras.models.clone_model(trained, _input_like(model), replace, call)
    for layer in trained.layers:
        if layer.weights:
            shared = isinstance(layer, JointConv2D)
            weights = layer.folded_weights("snn") if shared else layer.get_weights()
            result.get_layer(_plain(layer)).set_weights(weights)
    result.name = model.name.removeprefix("joint_")
    return result


@keras.saving.register_keras_serializable(package="keras_snn")
class JointConv2D(snn_layers.PaddedConv2D):
    """A convolution that an ANN and an SNN share, but for scales and biases.

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
        self.biases = {}
        if self.use_bias:
            for network in NETWORKS:
                self.biases[network] = self.add_weight(
                    name=f"bias_{network}",
                    shape=(self.filters,),
                    initializer=self.bias_initializer,
                    regularizer=self.bias_regularizer,
                    constraint=self.bias_constraint,
                )
        self.built = True
        shape = (*self.kernel_size, channels, self.filters)
        self.factorize(ops.convert_to_numpy(self.kernel_initializer(shape, dtype="float32")))

    def factorize(self, kernel):
        """Makes `kernel`, `(height, width, inputs, filters)`, the kernel of both networks."""
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
        weights = [self.kernel_of(network)] + ([self.biases[network]] if self.use_bias else [])
        return [ops.convert_to_numpy(weight) for weight in weights]

    def call(self, inputs, network="ann"):
        sequences = len(inputs.shape) == 5
        x = fold(inputs) if sequences else inputs
        x = self.convolution_op(x, ops.cast(self.kernel_of(network), self.compute_dtype))
        if self.use_bias:
            first = self.data_format == "channels_first"
            x = x + ops.reshape(self.biases[network], (-1, 1, 1) if first else (-1,))
        x = self.activation(x)
        return unfold(x, inputs) if sequences else x

    def compute_output_shape(self, input_shape):
        if len(input_shape) == 4:
            return super().compute_output_shape(input_shape)
        output = super().compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *output[1:])


@keras.saving.register_keras_serializable(package="keras_snn")
class JointCrossentropy(keras.losses.Loss):
    """Cross-entropies of all heads of a joint model, and what the ANN teaches the SNN.

    The sum over heads, with logits a of the ANN and s of the SNN, of `CE(a, y) + CE(s, y) +
    kl * KL(softmax(a) || softmax(s)) + square * mean((s - a)^2)`; the last two terms give no
    gradient to a.

    Args:
        kl: Weight of the divergence, at least 0.
        square: Weight of the squared distance, at least 0.
        **kwargs: Those of `keras.losses.Loss` (`reduction`, `name`, `dtype`).

    Call arguments:
        y_true: Labels, integers `(batch,)` or `(batch, 1)`, or probabilities `(batch, classes)`.
        y_pred: Logits, `(batch, stages, 2, classes)`.

    Raises:
        ValueError: If the logits have another shape.

    Source: Guo et al. (2023).

    Example:

    >>> logits = keras.ops.array([[[[1.0, 0.0], [1.0, 0.0]]]])
    >>> round(float(JointCrossentropy()([0], logits)), 4)  # twice log(1 + 1 / e)
    0.6265
    """

    def __init__(self, kl=1.0, square=0.25, name="joint_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.kl = check_number("kl", kl, minimum=0)
        self.square = check_number("square", square, minimum=0)

    def call(self, y_true, y_pred):
        ann, snn = _of_networks(ops.convert_to_tensor(y_pred))
        labels = ops.expand_dims(_probabilities(y_true, ann), 1)
        log_ann, log_snn = ops.log_softmax(ann), ops.log_softmax(snn)
        crossentropy = -ops.sum(labels * (log_ann + log_snn), axis=-1)
        teacher, log_teacher = ops.stop_gradient(ann), ops.stop_gradient(log_ann)
        divergence = ops.sum(ops.exp(log_teacher) * (log_teacher - log_snn), axis=-1)
        distance = ops.mean(ops.square(snn - teacher), axis=-1)
        return ops.sum(crossentropy + self.kl * divergence + self.square * distance, axis=-1)

    def get_config(self):
        return super().get_config() | {"kl": self.kl, "square": self.square}


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


def _plain(layer):
    """The name that a layer of a joint model has in its own network."""
    return re.sub("^(joint|ann|snn)_", "", layer.name)


def _input_like(model):
    """A new input with the name, shape and dtype of a model's."""
    return layers.InputLayer.from_config(model.layers[0].get_config()).output


def _convolution(layer):
    """The plain convolution that a layer is, at every step or not, or `None`."""
    layer = layer.layer if isinstance(layer, snn_layers.FoldTime) else layer
    return layer if type(layer) in (layers.Conv2D, snn_layers.PaddedConv2D) else None


def _add_network(model, network, inputs, shared):
    """Adds a copy of `model` on `inputs`; gives the outputs of its layers by name.

    The convolutions are those of `shared`, a dictionary, which the first network fills.
    """
    tensors = {}

    def replace(layer):
        convolution = _convolution(layer)
        if convolution is None:
            name = f"{network}_{layer.name}"
            return type(layer).from_config(layer.get_config() | {"name": name})
        if layer.name not in shared:
            config = convolution.get_config() | {"name": f"joint_{layer.name}"}
            shared[layer.name] = JointConv2D.from_config(config)
        return shared[layer.name]

    def call(layer, *args, **kwargs):
        if isinstance(layer, JointConv2D):
            kwargs = {"network": network}  # `FoldTime` takes other ones
        tensors[_plain(layer)] = layer(*args, **kwargs)
        return tensors[_plain(layer)]

    inputs = keras.tree.map_structure(lambda _: inputs, model.input)  # a tensor, or a list of one
    copy = keras.models.clone_model(model, inputs, replace, call)
    for layer in model.layers:
        if _convolution(layer) is None:
            if layer.weights:
                copy.get_layer(f"{network}_{layer.name}").set_weights(layer.get_weights())
            continue
        kernel, *bias = layer.get_weights()
        if network == "ann":
            shared[layer.name].factorize(kernel)
        if bias:
            shared[layer.name].biases[network].assign(bias[0])
    return tensors


def _head(x, network, stage, classes):
    """Logits of feature maps, for training."""
    name = f"head_{network}_{stage}"
    pool = layers.GlobalAveragePooling2D(name=name + "_pool")
    if len(x.shape) == 5:
        x = snn_layers.FoldTime(pool, name=pool.name)(x)
        x = snn_layers.MeanOverTime(name=name + "_mean_over_time")(x)
    else:
        x = pool(x)
    return layers.Dense(classes, name=name)(x)


def _stage_ends(model):
    """The last layer of each stage but the last one, by names `stack1_...` or `block1_...`."""
    ends = {}
    for layer in model.layers:
        if found := re.match(r"(stack|block)\d+(?=_)", layer.name):
            ends[found[0]] = layer.name
    return list(ends.values())[:-1]


GEOMETRY = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "groups", "use_bias")


def _check_layouts(ann, snn):
    """An error where the two networks can't share their convolutions."""
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
    """What two convolutions must have in common, or `None`."""
    convolution = _convolution(layer)
    if convolution is None:
        return None
    geometry = {name: getattr(convolution, name) for name in GEOMETRY}
    return geometry | {"kernel_shape": tuple(convolution.kernel.shape)}
