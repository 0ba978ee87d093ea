"""Progressive tandem learning: spikes forward, the ANN's gradient backward, layer by layer.

`tandem` rebuilds an ANN over time with a `Tandem` layer for each ReLU, which first acts as that
ReLU. During `fit`, `ProgressiveTandem` turns them into spiking neurons one by one. `to_spiking`
makes the spiking network.

Source: the code of the authors of Wu et al. (2020), progressive tandem learning. An image comes at
the first step only, and layers from the second on are frozen as soon as they fire; both can be
chosen otherwise. In two points ours differs always, so that networks agree with all others here:
activations are rates, worth their threshold, where theirs are counts of spikes worth 1; and batch
normalisation is folded before, where theirs goes on learning, which takes up that factor.
"""

import keras
import numpy as np
from keras import ops

from keras_snn import layers as snn
from keras_snn.conversion.balance import Scales
from keras_snn.conversion.build import Parts, build_snn
from keras_snn.conversion.fidelity import check_fidelity
from keras_snn.conversion.reader import read
from keras_snn.layers.time import check_rank
from keras_snn.utils.arguments import check_choice, check_integer, check_number
from keras_snn.utils.deprecation import renamed

__all__ = ["ProgressiveTandem", "Tandem", "tandem"]

ENCODERS = {"impulse": snn.ImpulseEncoder, "direct": snn.RepeatTime}
__getattr__ = renamed(__name__)


@keras.saving.register_keras_serializable(package="keras_snn")
class Tandem(keras.layers.Layer):
    """A ReLU of the mean current, or IF neurons with that ReLU's gradient.

    While `active` is 0, the output of every step is `a = relu(mean of the currents over time)`.
    While it is 1, the output is spikes of IF neurons with soft reset, times the threshold. Their
    mean over time is about `min(a, threshold)`, and their gradient is that of `a`. `active` and
    `threshold` are weights that are not trained.

    Args:
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...).

    Call arguments:
        inputs: Currents, `(batch, time, ...)`.

    Returns:
        A tensor like `inputs`.

    Source: Wu et al. (2020).

    Example:

    >>> layer = Tandem()
    >>> currents = keras.ops.array([[[0.3], [0.5], [0.4], [0.4]]])
    >>> print(keras.ops.convert_to_numpy(layer(currents))[0, :, 0].round(3))
    [0.4 0.4 0.4 0.4]
    >>> _ = layer.active.assign(1.0)
    >>> print(keras.ops.convert_to_numpy(layer(currents))[0, :, 0])
    [0. 0. 1. 0.]
    """

    def __init__(self, **kwargs):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.neuron = snn.IF(reset="soft", dtype=keras.DTypePolicy(self.variable_dtype))

    def build(self, input_shape):
        check_rank(self, input_shape)
        self.threshold = self.add_weight(
            name="threshold", shape=(), initializer="ones", trainable=False, autocast=False
        )
        self.active = self.add_weight(
            name="active", shape=(), initializer="zeros", trainable=False, autocast=False
        )
        self.neuron.build(input_shape)
        self.built = True

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def call(self, inputs):
        x = ops.cast(inputs, self.variable_dtype)
        a = ops.broadcast_to(ops.relu(ops.mean(x, axis=1, keepdims=True)), ops.shape(x))
        spikes = self.threshold * self.neuron(ops.stop_gradient(x / self.threshold))
        active = ops.cast(self.active, x.dtype)
        forward = active * spikes + (1 - active) * a
        return ops.cast(ops.stop_gradient(forward - a) + a, self.compute_dtype)


def tandem(
    model: keras.Model,
    timesteps: int = 16,
    max_pooling: str = "refuse",
    input_coding: str = "impulse",
) -> keras.Model:
    """Rebuilds an ANN over time, with a `Tandem` layer for each ReLU.

    No layer fires yet, so the outputs are those of the ANN (logits instead of a softmax).

    Args:
        model: A functional or Sequential model, see `convert`.
        timesteps: Number of steps.
        max_pooling: `"refuse"` or `"average"`.
        input_coding: `"impulse"`: all of an image comes at the first step, as in the authors' code;
            or `"direct"`: the image comes at each step.

    Returns:
        A functional model with its own weights.

    Raises:
        TypeError: If `model` is not functional or Sequential.
        ValueError: If a layer can't be converted; each is named. If an argument is not valid.

    Example:

    >>> ann = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="relu"),
    ...     keras.layers.Dense(2)])
    >>> x = np.ones((1, 2), "float32")
    >>> np.allclose(tandem(ann).predict(x, verbose=0), ann.predict(x, verbose=0), atol=1e-6)
    True
    """
    check_integer("timesteps", timesteps)
    encoder = ENCODERS[check_choice("input_coding", input_coding, tuple(ENCODERS))]
    if max_pooling == "spiking":
        raise ValueError('`max_pooling="spiking"` reads spikes, which tandem layers start without.')
    graph = read(model, max_pooling)
    check_fidelity(graph, model)
    graph.average()
    scales = Scales(graph)
    scales.thresholds = dict.fromkeys(graph.neurons(), 1.0)
    return build_snn(
        Parts(graph, scales),
        model,
        lambda index: Tandem(name=graph.nodes[index].name),
        timesteps,
        lambda name: encoder(timesteps, name=name),
        snn.MeanOverTime,
    )


class ProgressiveTandem(keras.callbacks.Callback):
    """Turns the `Tandem` layers of a model into spiking neurons, one after the other.

    The first layer fires from the start of `fit`. When the monitored value has not improved for
    `patience` epochs, the callback restores the best weights, freezes all layers up to the firing
    one, and makes the next one fire. Its threshold is the percentile of its activations as they
    were after the last epoch. After the last layer the callback lowers the learning rate, and stops
    training when there is no more improvement. The model is compiled again each time, with a new
    optimizer.

    Args:
        calibration_data: Some hundred inputs, an array.
        patience: Epochs without an improvement.
        percentile: Percentile of the activations that is the threshold.
        monitor: A name in the logs of `fit`. Larger is better, unless the name ends in `"loss"`.
        final_factor: Factor on the learning rate after the last replacement.
        freeze: `"firing"`: from the second on, a layer is frozen as soon as it fires, so that those
            behind it adapt, as in the authors' code; or `"trained"`: a firing layer learns, with
            its ReLU's gradient, until the next one fires.

    Source: the authors' code of Wu et al. (2020), which at the end trains for all epochs left.

    Example:

    ```python
    model = keras_snn.training.tandem(ann, timesteps=16)
    model.compile("adam", loss, metrics=["accuracy"])
    schedule = keras_snn.training.ProgressiveTandem(images[:500], patience=6)
    model.fit(images, labels, validation_split=0.1, epochs=150, callbacks=[schedule])
    snn = keras_snn.training.to_spiking(model)
    ```
    """

    def __init__(
        self,
        calibration_data,
        patience=6,
        percentile=99.9,
        monitor="val_accuracy",
        final_factor=0.1,
        freeze="firing",
    ):
        super().__init__()
        self.calibration_data = np.asarray(calibration_data)
        self.patience = check_integer("patience", patience)
        self.percentile = check_number("percentile", percentile, above=0, maximum=100)
        self.monitor = monitor
        self.final_factor = check_number("final_factor", final_factor, above=0)
        self.freeze = check_choice("freeze", freeze, ("firing", "trained"))

    def on_train_begin(self, logs=None):
        self.waiting = [layer for layer in self.model.layers if isinstance(layer, Tandem)]
        if not self.waiting:
            raise ValueError("The model has no `Tandem` layers: make it with `tandem(ann)`.")
        self.finished, self.best_weights = False, None
        self._next()

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs or {}):
            raise ValueError(f"There is no {self.monitor!r} in the logs, but {sorted(logs or {})}.")
        sign = -1 if self.monitor.endswith("loss") else 1
        value = sign * logs[self.monitor]
        if self.best is None or value > self.best or np.isnan(self.best):
            self.best, self.since, self.best_weights = value, 0, self.model.get_weights()
            return
        self.since += 1
        if self.since < self.patience:
            return
        if self.finished:
            self.model.stop_training = True
            return
        self._freeze()
        self._next()

    def on_train_end(self, logs=None):
        if self.best is not None:
            self.model.set_weights(self.best_weights)

    def _next(self):
        """Makes the next layer fire, or lowers the learning rate; best weights return."""
        first, factor, threshold = self.best_weights is None, 1.0, None
        if self.waiting:
            self.current = self.waiting.pop(0)
            threshold = self._threshold()
        else:
            self.finished, factor = True, self.final_factor
        if not first:
            self.model.set_weights(self.best_weights)
        if threshold:
            self.current.threshold.assign(threshold)
            self.current.active.assign(1.0)
            if not first and self.freeze == "firing":
                self._freeze()
        self.best, self.since = None, 0
        self._compile(factor)

    def _threshold(self):
        """The percentile of the next layer's activations."""
        probe = keras.Model(self.model.inputs, self.current.input)
        currents = np.asarray(probe.predict(self.calibration_data, verbose=0))
        activations = np.maximum(currents.mean(axis=1), 0)
        threshold = float(np.percentile(activations, self.percentile))
        if not threshold > 0:
            raise ValueError(f"{self.current.name} is silent on the calibration data.")
        return threshold

    def _freeze(self):
        """Freezes all layers up to the one that fires last."""
        for layer in keras.Model(self.model.inputs, self.current.output).layers:
            layer.trainable = False

    def _compile(self, factor):
        """Compiles with a new optimizer for the weights that are still trainable."""
        model, optimizer = self.model, self.model.optimizer
        fresh = type(optimizer).from_config(optimizer.get_config())
        if factor != 1:
            fresh.learning_rate = float(ops.convert_to_numpy(optimizer.learning_rate)) * factor
        config = model._compile_config.config
        stop = model.stop_training
        model.compile(**(config | {"optimizer": fresh}))
        model.stop_training = stop
        fresh.build(model.trainable_variables)
        model.make_train_function()


def is_tandem(model):
    """Whether a model has `Tandem` layers."""
    return any(isinstance(layer, Tandem) for layer in model.layers)


def with_neurons(model):
    """A model with neurons instead of `Tandem` layers, see `to_spiking`."""

    def replace(layer):
        if not isinstance(layer, Tandem) or not float(ops.convert_to_numpy(layer.active)):
            return type(layer).from_config(layer.get_config())
        threshold = float(ops.convert_to_numpy(layer.threshold))
        return keras.Sequential(
            [
                snn.IF(threshold=threshold, reset="soft", name=layer.name),
                keras.layers.Rescaling(threshold, name=f"{layer.name}_worth"),
            ]
        )

    def call(layer, *args, **kwargs):
        if isinstance(layer, keras.Sequential):
            x = args[0]
            for part in layer.layers:
                x = part(x)
            return x
        return layer(*args, **kwargs)

    result = keras.models.clone_model(model, clone_function=replace, call_function=call)
    for layer in model.layers:
        if layer.weights and not isinstance(layer, Tandem):
            result.get_layer(layer.name).set_weights(layer.get_weights())
    return result
