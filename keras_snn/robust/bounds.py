"""Bounds of a network's outputs over all inputs of a box, and certificates of its answers.

The network is replayed (`keras_snn.graph.run`) with intervals in the place of tensors: S-IBP. Then
a pass back from the outputs bounds a linear function of them, a margin say, by linear functions of
what comes before, layer by layer, down to the inputs: S-CROWN. Without lines for neurons that pass
stops at the last ones, which is S-IBP with the margins folded into the layers behind.
"""

import keras
import numpy as np
from keras import ops, tree

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.analysis.probes import with_timesteps
from keras_snn.robust import boxes, rules
from keras_snn.robust.boxes import Box
from keras_snn.robust.intervals import ROUNDOFF, Interval, constant
from keras_snn.robust.neurons import LINES
from keras_snn.utils.arguments import check_choice, check_integer
from keras_snn.utils.batches import batches_of, is_array

__all__ = ["bounds", "certify", "layer_bounds", "margins"]

METHODS = ("crown", "ibp")


class Replay:
    """One replay of a model on a box.

    Args:
        model: A functional or Sequential model.
        box: A `Box` of tensors.
        rounds: Whether bounds have a margin for rounding.
        timesteps: Steps of what repeats images; those of the model by default.

    After it, `intervals` has an `Interval` for each call by name, `outputs` those of the model.
    """

    def __init__(self, model, box, rounds, timesteps=None):
        self.rounds, self.timesteps = rounds, timesteps
        self.intervals, self._tape = {}, []
        pairs = zip(graph.in_order(model, box.lower), graph.in_order(model, box.upper))
        self.inputs = [Interval(lower, upper) for lower, upper in pairs]
        self.outputs = graph.run(model, self.inputs, self._rule)

    def _rule(self, call):
        if self.timesteps is not None and not isinstance(call.layer, snn.PoissonEncoder):
            call = with_timesteps(call, self.timesteps)
        inputs = [x for x in call.inputs if isinstance(x, Interval)]
        if not inputs:
            return call()
        if call.role.idle:
            return inputs[0]
        rule = rules.find(call)
        output = self._step(rule, call)
        if not isinstance(rule, rules.Product) or rules.activation_of(call.layer) == "linear":
            return output
        layer = keras.layers.Activation(call.layer.activation)
        call = graph.Call(call.name, layer, layer, call.index, False, (output,), {})
        return self._step(rules.find(call), call)

    def _step(self, rule, call):
        output = rule.forward(call, self.rounds)
        self._tape.append((rule, call, output))
        self.intervals[call.name] = output
        return output

    def lower(self, output, coefficients, lines=None):
        """Lower bounds of linear functions of an output.

        Args:
            output: The `Interval` of the output.
            coefficients: The functions, `(rows, batch, ...)`.
            lines: Which lines bound neurons, a key of `LINES`; without, all that is not linear is
                known by its bounds alone.

        Returns:
            `(rows, batch)`.
        """
        waiting, terms = {id(output): coefficients}, []
        for rule, call, x in reversed(self._tape):
            on_x = waiting.pop(id(x), None)
            if on_x is None:
                continue
            if lines is None and not rule.linear(call):
                terms.append(constant(on_x, x))
                continue
            found, more = rule.backward(call, x, on_x, lines)
            terms += more
            for source, on_source in found:
                waiting[id(source)] = waiting.get(id(source), 0.0) + on_source
        terms += [constant(waiting[id(x)], x) for x in self.inputs if id(x) in waiting]
        total = sum(map(_sum, terms))
        if self.rounds:  # of the sums themselves
            total = total - 256 * ROUNDOFF * sum(_sum(ops.abs(term)) for term in terms)
        return total


def _sum(terms):
    """Sums of terms `(rows, batch, ...)`, `(rows, batch)`."""
    return ops.sum(ops.reshape(terms, (*ops.shape(terms)[:2], -1)), axis=-1)


def replay_margins(model, method, lines, box, labels, rounds=True, timesteps=None):
    """`margins` of tensors, for training too."""
    replay = Replay(model, box, rounds, timesteps)
    (output,) = tree.flatten(replay.outputs)
    logits = output.logits or output
    classes = logits.shape[1]
    identity = ops.eye(classes, dtype=logits.lower.dtype)
    rows = ops.one_hot(labels, classes, dtype=identity.dtype)[None] - identity[:, None]
    found = replay.lower(logits, rows)
    if method == "crown":
        found = ops.maximum(found, replay.lower(logits, rows, lines))
    return ops.transpose(found) * (1 - ops.one_hot(labels, classes, dtype=identity.dtype))


def margins(model, box, labels, method="crown", lines="authors"):
    """Lower bounds of how far the score of the label is above that of each other class.

    Where all are above 0, no input of the box gets another answer. Of a softmax at the end of the
    model, the scores are what it is taken of.

    Args:
        model: A functional or Sequential model with one output, `(batch, classes)`.
        box: A `Box`, see `robust.box`.
        labels: Integers, `(batch,)`, or one-hot vectors.
        method: `"crown"`: S-CROWN, or S-IBP where that is tighter; `"ibp"`: S-IBP.
        lines: How S-CROWN bounds a neuron: `"authors"` or `"envelope"`, ours, see
            `docs/robustness.md`.

    Returns:
        An array `(batch, classes)`, 0 at the label.

    Raises:
        TypeError: If the model has no graph, or a layer without a rule; it is named.
        ValueError: If bounds, labels or the model's output are not as above.

    Source: Liang et al. (2022), "Toward robust spiking neural network against adversarial
    perturbation".

    Example:

    >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> margins(model, boxes.box(np.array([[0.75, 0.25]]), 0.125), [0]).round(3)
    array([[0.  , 0.25]], dtype=float32)
    """
    check_choice("method", method, METHODS)
    check_choice("lines", lines, LINES)
    box = check_box(model, box)
    labels = check_labels(labels, len(box.lower[0]), classes_of(model))
    return _compiled(replay_margins, model, method, lines)(box, labels)


def certify(model, data, eps, method="crown", box=boxes.box, lines="authors", batch_size=32):
    """Share of examples whose answer is right for every perturbation within `eps`, surely.

    Args:
        model: A functional or Sequential model with one output, `(batch, classes)`.
        data: Inputs and labels: a pair, or an iterable of batches of them.
        eps: Size of the perturbation, at least 0.
        method, lines: Those of `margins`.
        box: A function from inputs and `eps` to a `Box`: `robust.box`,
            `functools.partial(robust.poisson_box, timesteps=10, seed=0)`, `robust.unknown_spikes`,
            or your own.
        batch_size: Examples at a time, of arrays.

    Returns:
        A number from 0 to 1.

    Raises:
        TypeError: If the model has no graph, or a layer without a rule; it is named.
        ValueError: If `eps` is below 0, or there are no labels.

    Example:

    >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> images, labels = np.array([[0.75, 0.25], [0.5, 0.4]]), np.array([0, 0])
    >>> [certify(model, (images, labels), eps) for eps in (0.0, 0.1, 0.3)]
    [1.0, 0.5, 0.0]
    """
    boxes.check_eps(eps)
    check_choice("method", method, METHODS)
    check_integer("batch_size", batch_size)
    check_choice("lines", lines, LINES)
    classes = classes_of(model)
    worst, certified, count = _compiled(replay_margins, model, method, lines), 0, 0
    for inputs, labels in batches_of(model, data, batch_size):
        if labels is None:
            raise ValueError("Certificates need labels: give `data` as (inputs, labels).")
        labels = check_labels(labels, len(inputs[0]), classes)
        found = worst(check_box(model, box_of(inputs, eps, box)), labels)
        found[np.arange(len(found)), ops.convert_to_numpy(labels)] = np.inf
        certified += int(np.sum(found.min(axis=1) > 0))
        count += len(found)
    if not count:
        raise ValueError("Received an invalid value for argument `data`, it has no examples.")
    return certified / count


def bounds(model, box, method="ibp", lines="authors"):
    """Bounds of a model's outputs over all inputs of a box.

    Args:
        model: A functional or Sequential model.
        box: A `Box`, see `robust.box`.
        method, lines: Those of `margins`; with `"crown"` a pass back for each value of an output.

    Returns:
        A `Box` of arrays, in the structure of the model's outputs.

    Raises:
        TypeError: If the model has no graph, or a layer without a rule; it is named.
        ValueError: If the bounds of the box are not bounds.

    Example:

    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([keras.Input((1, 2)), snn.IF()])
    >>> lower, upper = bounds(model, Box([[[0.5, 1.5]]], [[[1.25, 1.75]]]))
    >>> lower.tolist(), upper.tolist()
    ([[[0.0, 1.0]]], [[[1.0, 1.0]]])
    """
    check_choice("method", method, METHODS)
    check_choice("lines", lines, LINES)
    used = lines if method == "crown" else None

    return Box(*_compiled(_replay_bounds, model, used)(check_box(model, box)))


def _replay_bounds(model, lines, box):
    """`bounds` of tensors."""
    replay = Replay(model, box, True)
    outputs = [_output_bounds(replay, x, lines) for x in tree.flatten(replay.outputs)]
    return [tree.pack_sequence_as(replay.outputs, ends) for ends in zip(*outputs)]


def _output_bounds(replay, x, lines):
    ends = [x.lower, x.upper]
    if lines is not None:
        shape, size = tuple(x.shape), int(np.prod(x.shape[1:]))
        rows = np.broadcast_to(np.eye(size)[:, None], (size, shape[0], size))
        rows = ops.cast(rows.reshape(size, *shape), x.lower.dtype)
        found = [replay.lower(x, rows, lines), -replay.lower(x, -rows, lines)]
        found = [ops.reshape(ops.transpose(b), shape) for b in found]
        ends = [ops.maximum(ends[0], found[0]), ops.minimum(ends[1], found[1])]
    return ends


def layer_bounds(model, box):
    """S-IBP bounds of the output of every layer, over all inputs of a box.

    Args:
        model: A functional or Sequential model.
        box: A `Box`, see `robust.box`.

    Returns:
        A dictionary from the names of calls, as `keras_snn.graph` has them, to a `Box` of arrays.

    Raises:
        TypeError: If the model has no graph, or a layer without a rule; it is named.
        ValueError: If the bounds of the box are not bounds.
    """
    found = _compiled(_replay_layers, model)(check_box(model, box))
    return {name: Box(*ends) for name, ends in found.items()}


def _replay_layers(model, box):
    """`layer_bounds` of tensors."""
    found = Replay(model, box, True).intervals
    return {name: [x.lower, x.upper] for name, x in found.items()}


def box_of(inputs, eps, box):
    """The `Box` of a list of inputs, by a function for one."""
    found = [box(x, eps) for x in inputs]
    return Box([b.lower for b in found], [b.upper for b in found])


def check_box(model, box):
    """A `Box` of tensors, a list each, if it is one of inputs of the model."""
    graph.check_functional(model, "A certificate")
    if not isinstance(box, (tuple, list)) or len(box) != 2:
        raise ValueError(
            "Received an invalid value for argument `box`, expected a `Box`, lower and upper "
            f"bounds, got {box!r}."
        )
    ends = [_arrays(model, end) for end in box]
    for lower, upper, wanted in zip(*ends, model.inputs):
        shape = tuple(wanted.shape)[1:]
        same = len(lower.shape) == len(shape) + 1
        same = same and all(n in (None, m) for n, m in zip(shape, lower.shape[1:]))
        if not same or lower.shape != upper.shape:
            raise ValueError(
                f"Received an invalid value for argument `box`, expected bounds of the shape "
                f"(batch, {', '.join(map(str, shape))}), got {lower.shape} and {upper.shape}."
            )
        if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower <= upper).all()):
            raise ValueError(
                "Received an invalid value for argument `box`, expected finite bounds, the lower "
                "ones not above the upper ones."
            )
    return Box(*(list(map(ops.convert_to_tensor, end)) for end in ends))


def _arrays(model, values):
    """Values for the inputs of a model, a list of arrays in their order."""
    if len(model.inputs) == 1 and not all(map(is_array, tree.flatten(values))):
        values = np.asarray(values)  # nested lists of numbers
    values = graph.in_order(model, values)
    return [np.asarray(ops.convert_to_numpy(x), keras.config.floatx()) for x in values]


def classes_of(model):
    """The number of classes that a model tells apart.

    Raises:
        TypeError: If the model has no graph.
        ValueError: If it has not one output, `(batch, classes)`.
    """
    graph.check_functional(model, "A certificate")
    shapes = [tuple(x.shape) for x in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] in (None, 1):
        raise ValueError(
            "Certificates and attacks are for models with one output, a score for each class, "
            f"(batch, classes); {model.name!r} has outputs of the shapes {shapes}."
        )
    return shapes[0][1]


def check_labels(labels, count, classes):
    """Labels as integers `(batch,)`, from these or from one-hot vectors."""
    labels = np.asarray(ops.convert_to_numpy(labels))
    if labels.ndim == 2:
        labels = labels.argmax(1) if labels.shape[1] == classes else labels[:, 0]
    good = labels.shape == (count,) and np.all(labels == labels.astype("int32"))
    if not good or np.any(labels < 0) or np.any(labels >= classes):
        raise ValueError(
            f"Received an invalid value for argument `labels`, expected {count} integers from 0 to "
            f"{classes - 1}, or as many one-hot vectors, got {labels!r}."
        )
    return ops.convert_to_tensor(labels.astype("int32"))


def _compiled(function, *first):
    """A function of tensors that gives arrays, without gradients; seeds stay as they are.

    JAX compiles it as a whole: each operation by itself takes longer.
    """

    def run(*tensors):
        with keras.StatelessScope():
            return function(*first, *tensors)

    if keras.backend.backend() == "jax":
        import jax

        run = jax.jit(run)
    if keras.backend.backend() == "torch":
        import torch

        run = torch.no_grad()(run)
    return lambda *tensors: tree.map_structure(
        lambda x: np.array(ops.convert_to_numpy(x)), run(*tensors)
    )
