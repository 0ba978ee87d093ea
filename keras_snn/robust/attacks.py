"""Attacks on a spiking network: gradients through the surrogate, within a box of inputs."""

import keras
import numpy as np
from keras import ops

from keras_snn import graph
from keras_snn.robust import boxes, rules
from keras_snn.robust.bounds import check_box, check_labels, classes_of
from keras_snn.utils.arguments import check_integer

__all__ = ["fgsm", "pgd"]


def fgsm(model, inputs, labels, eps, box=boxes.box, batch_size=32):
    """The fast gradient sign method: one step, to the corner that the gradient points to.

    Args:
        model: A functional or Sequential model with one input and one output, `(batch, classes)`:
            logits, or probabilities of a softmax.
        inputs: Inputs, `(batch, ...)`.
        labels: Integers, `(batch,)`, or one-hot vectors.
        eps: Size of the perturbation, at least 0; or a `Box` around the inputs.
        box: A function from inputs and `eps` to a `Box`, see `certify`.
        batch_size: Examples at a time.

    Returns:
        Inputs within the box, an array `(batch, ...)`.

    Raises:
        TypeError: If the model has no graph.
        ValueError: If `eps` is below 0, or the labels are not as above.

    Source: Goodfellow et al. (2015).

    Example:

    >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> fgsm(model, np.array([[0.75, 0.25]]), [0], 0.25).tolist()
    [[0.5, 0.5]]
    """

    def corner(gradient, x, lower, upper):
        _, slope = gradient(x)
        return np.where(slope > 0, upper, np.where(slope < 0, lower, x))

    return _attack(model, inputs, labels, eps, box, batch_size, corner)


def pgd(model, inputs, labels, eps, steps=10, restarts=1, box=boxes.box, seed=None, batch_size=32):
    """Projected gradient descent: `steps` by the gradient's sign; the largest loss met wins.

    A step is `2.5 / steps` of half the box's width. The first start is the input itself, those of
    further `restarts` are random points of the box.

    Args:
        model, inputs, labels, eps, box, batch_size: Those of `fgsm`.
        steps: Number of steps, at least 1.
        restarts: Number of starts, at least 1.
        seed: Seed of the random starts.

    Returns:
        Inputs within the box, an array `(batch, ...)`.

    Raises:
        TypeError: If the model has no graph.
        ValueError: If `eps` is below 0, `steps` or `restarts` below 1, or the labels are not as
            above.

    Source: Madry et al. (2018).
    """
    check_integer("steps", steps)
    check_integer("restarts", restarts)
    rng = np.random.default_rng(seed)

    def climb(gradient, x, lower, upper):
        step, worst = 2.5 / steps * (upper - lower) / 2, x
        largest = np.full(len(x), -np.inf)
        for restart in range(restarts):
            if restart:
                x = rng.uniform(lower, upper).astype(x.dtype).clip(lower, upper)
            for _ in range(steps + 1):  # the last for the loss only
                loss, slope = gradient(x)
                larger = loss > largest
                worst = np.where(larger.reshape(-1, *[1] * (x.ndim - 1)), x, worst)
                largest = np.where(larger, loss, largest)
                x = np.clip(x + step * np.sign(slope), lower, upper)
        return worst

    return _attack(model, inputs, labels, eps, box, batch_size, climb)


def _attack(model, inputs, labels, eps, box, batch_size, search):
    """What `search(gradient, x, lower, upper)` finds, batch by batch."""
    classes = classes_of(model)
    if len(model.inputs) != 1:
        raise ValueError(f"Attacks are on models with one input, got {len(model.inputs)}.")
    check_integer("batch_size", batch_size)
    inputs = np.asarray(ops.convert_to_numpy(inputs), keras.config.floatx())
    box = eps if isinstance(eps, boxes.Box) else box(inputs, boxes.check_eps(eps))
    lower, upper = (ops.convert_to_numpy(end) for (end,) in check_box(model, box))
    if inputs.shape != lower.shape:
        raise ValueError(
            f"Attacks start from inputs of the box's shape, {lower.shape}, got {inputs.shape}."
        )
    labels = ops.convert_to_numpy(check_labels(labels, len(inputs), classes))
    gradient, found = _gradient(model), []
    for start in range(0, len(inputs), batch_size):
        part = slice(start, start + batch_size)
        ends = lower[part], upper[part]

        def of_part(x, labels=labels[part]):
            return [ops.convert_to_numpy(y) for y in gradient(x, labels)]

        found.append(search(of_part, inputs[part].clip(*ends), *ends))
    return np.concatenate(found)


def _scores(model, x):
    """What the softmax at the end of a model is taken of; its output if there is none."""
    last, _ = graph.producer(model.outputs[0])

    def rule(call):
        if call.operation is last and rules.activation_of(call.layer) == "softmax":
            return rules.before_activation(call)
        return rules.apply(call)

    return graph.run(model, [x], rule)


def _gradient(model):
    """A function from inputs and labels to losses, `(batch,)`, and gradients to the inputs.

    The loss is `z`, where the cross-entropy is `log(1 + exp(z))`: it rises in the same directions,
    but of answers that are sure it has a gradient too.
    """

    def losses(x, labels):
        scores = _scores(model, x)
        label = ops.one_hot(labels, scores.shape[1], dtype="bool")
        others = ops.logsumexp(ops.where(label, -np.inf, scores), axis=1)
        return others - ops.sum(ops.where(label, scores, 0), axis=1)

    if keras.backend.backend() == "jax":
        import jax

        def total(x, labels):
            with keras.StatelessScope():
                found = losses(x, labels)
            return ops.sum(found), found

        def run(x, labels):
            (_, found), slope = jax.value_and_grad(total, has_aux=True)(x, labels)
            return found, slope

        return jax.jit(run)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def run(x, labels):
            with tf.GradientTape() as tape:
                tape.watch(x)
                found = losses(x, labels)
            return found, tape.gradient(found, x, unconnected_gradients="zero")

        return lambda x, labels: run(tf.convert_to_tensor(x), tf.convert_to_tensor(labels))
    import torch

    def run(x, labels):
        x = ops.convert_to_tensor(x).requires_grad_()
        found = losses(x, ops.convert_to_tensor(labels))
        slope = torch.autograd.grad(found.sum(), x, allow_unused=True, materialize_grads=True)[0]
        return found, slope

    return run
