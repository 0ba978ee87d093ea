"""Sets of inputs: all values between a lower and an upper bound."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_snn.utils.arguments import check_integer, check_number

__all__ = ["Box", "box", "poisson_box", "unknown_spikes"]


class Box(NamedTuple):
    """All inputs between two bounds.

    Attributes:
        lower: Lower bounds, `(batch, ...)`; of a model with several inputs a list, or a dictionary,
            as `predict` takes inputs.
        upper: Upper bounds, in the same structure.
    """

    lower: Any
    upper: Any


def box(x, eps, minimum=0.0, maximum=1.0):
    """All inputs whose every value differs by `eps` at most, within the range of values.

    Args:
        x: Inputs, `(batch, ...)`.
        eps: Largest difference, at least 0.
        minimum: Least value there is; `None` for no bound.
        maximum: Largest value there is; `None` for no bound.

    Returns:
        A `Box`.

    Raises:
        ValueError: If `eps` is below 0, or `minimum` not below `maximum`.

    Example:

    >>> lower, upper = box(keras.ops.array([[0.0, 0.5]]), 0.25)
    >>> keras.ops.convert_to_numpy(lower).tolist(), keras.ops.convert_to_numpy(upper).tolist()
    ([[0.0, 0.25]], [[0.25, 0.75]])
    """
    eps = check_eps(eps)
    if None not in (minimum, maximum):
        check_number("maximum", maximum, above=check_number("minimum", minimum))
    x = ops.cast(x, keras.config.floatx())

    def within(x):
        x = x if minimum is None else ops.maximum(x, minimum)
        return x if maximum is None else ops.minimum(x, maximum)

    return Box(within(x - eps), within(x + eps))


def poisson_box(x, eps, timesteps, gain=1.0, seed=None, minimum=0.0, maximum=1.0):
    """Spike trains of all inputs in `box(x, eps)`, coded with the same draws.

    A value `p` fires where `u < gain p`, with one `u`, uniform in [0, 1), for each value and step:
    what fires for `x - eps` fires for all, what is silent for `x + eps` is silent for all. So a
    certificate is one for these draws.

    Args:
        x: Inputs, `(batch, ...)`, of values of at least 0.
        eps: Largest difference of a value, at least 0.
        timesteps: Number of steps.
        gain: Factor on the probability, above 0.
        seed: An integer, a `keras.random.SeedGenerator`, or `None`.
        minimum: Least value there is.
        maximum: Largest value there is.

    Returns:
        A `Box` of spikes, `(batch, timesteps, ...)`.

    Raises:
        ValueError: If `eps` is below 0, `timesteps` below 1, or `gain` not above 0.

    Source: Liang et al. (2022), `liangling76/certify_snn`.

    Example:

    >>> spikes = poisson_box(keras.ops.array([[0.0, 0.5, 1.0]]), 0.0, timesteps=4, seed=0)
    >>> bool(keras.ops.all(spikes.lower == spikes.upper)), spikes.lower.shape == (1, 4, 3)
    (True, True)
    """
    check_number("gain", gain, above=0)
    lower, upper = box(x, eps, minimum, maximum)
    shape = ops.shape(lower)
    drawn = keras.random.uniform(
        (shape[0], check_integer("timesteps", timesteps), *shape[1:]), dtype=lower.dtype, seed=seed
    )
    return Box(*(ops.cast(drawn < gain * x[:, None], drawn.dtype) for x in (lower, upper)))


def unknown_spikes(x, eps, seed=None):
    """Spike trains of which some entries are unknown, 0 or 1.

    Args:
        x: Spikes, `(batch, time, ...)`, zeros and ones.
        eps: Probability with which an entry is unknown, from 0 to 1.
        seed: An integer, a `keras.random.SeedGenerator`, or `None`.

    Returns:
        A `Box`: 0 and 1 where an entry is unknown, else the entry twice.

    Raises:
        ValueError: If `eps` is no probability.

    Source: Liang et al. (2022), `liangling76/certify_snn`.

    Example:

    >>> lower, upper = unknown_spikes(keras.ops.ones((1, 2, 3)), 1.0)
    >>> float(keras.ops.sum(lower)), float(keras.ops.sum(upper))
    (0.0, 6.0)
    """
    eps = check_eps(eps, maximum=1)
    x = ops.cast(x, keras.config.floatx())
    unknown = keras.random.uniform(ops.shape(x), dtype=x.dtype, seed=seed) < eps
    return Box(ops.where(unknown, 0.0, x), ops.where(unknown, 1.0, x))


def check_eps(eps, maximum=None):
    """`eps`, if it is a size of a perturbation: a number, or a tensor of a compiled function."""
    if ops.is_tensor(eps):
        return eps
    return check_number("eps", eps, minimum=0, maximum=maximum)
