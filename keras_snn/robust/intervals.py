"""Values of a network that are known to lie between two tensors, and coefficients on them.

Coefficients are `(rows, batch, ...)`: each row is a linear function of a value `(batch, ...)`, of
which a lower bound is wanted.
"""

import dataclasses
from typing import Any

import keras
from keras import ops

__all__ = ["Interval", "constant", "negative", "per_example", "positive", "pullback"]

# Largest relative error of an operation in float32.
ROUNDOFF = 2.0**-24


@dataclasses.dataclass(eq=False)
class Interval:
    """What is known of a value `(batch, ...)`.

    Attributes:
        lower: Lower bounds.
        upper: Upper bounds, of the same shape.
        slack: By how much rounding may move the value, a number or a tensor that broadcasts to it;
            the bounds have it already.
        saved: What its rule needs again in the backward pass.
        logits: Of probabilities of a softmax: the `Interval` of what it was taken of.
    """

    lower: Any
    upper: Any
    slack: Any = 0.0
    saved: Any = None
    logits: Any = None

    @property
    def shape(self):
        """The shape of the value."""
        return self.lower.shape

    @property
    def largest(self):
        """The largest magnitudes that the value may have."""
        return ops.maximum(ops.abs(self.lower), ops.abs(self.upper))


def positive(coefficients):
    """Coefficients above 0, zeros in the place of the others."""
    return ops.maximum(coefficients, 0)


def negative(coefficients):
    """Coefficients below 0, zeros in the place of the others."""
    return ops.minimum(coefficients, 0)


def per_example(terms):
    """Sums of terms `(rows, batch, ...)`, `(rows, batch)`."""
    shape = ops.shape(terms)
    return ops.sum(ops.reshape(terms, (*shape[:2], -1)), axis=-1)


def constant(coefficients, interval):
    """Lower bounds of a linear function from the bounds of its value alone, `(rows, batch, ...)`.

    Args:
        coefficients: `(rows, batch, ...)`.
        interval: The `Interval` of the value.
    """
    return positive(coefficients) * interval.lower + negative(coefficients) * interval.upper


def pullback(function, ats, coefficients):
    """Coefficients on the inputs of a function, from those on its output.

    Args:
        function: From tensors `(batch, ...)` to one; where it is not linear, its slopes count.
        ats: Where its slopes are taken: a tensor for each input.
        coefficients: On the output, `(rows, batch, ...)`.

    Returns:
        A list of `(rows, batch, ...)`, one for each input.
    """
    rows = ops.shape(coefficients)[0]
    ats = [ops.tile(at[None], (rows, *[1] * len(at.shape))) for at in ats]
    *flat, upstream = (ops.reshape(x, (-1, *x.shape[2:])) for x in (*ats, coefficients))
    found = _transposed(function, flat, upstream)
    return [ops.reshape(x, ops.shape(at)) for x, at in zip(found, ats)]


def _transposed(function, xs, upstream):
    """Vector-Jacobian products, which can be differentiated themselves."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.vjp(function, *xs)[1](upstream)
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(xs)
            y = function(*xs)
        return tape.gradient(y, xs, upstream, unconnected_gradients="zero")
    import torch

    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        xs = [x if x.requires_grad else x.requires_grad_() for x in xs]
        y = function(*xs)
        found = torch.autograd.grad(
            y, xs, upstream, create_graph=wanted, allow_unused=True, materialize_grads=True
        )
    return found if wanted else [x.detach() for x in found]
