"""Pruning while training: Grad R, and pruning by magnitude, of single weights or N of every M.

The weights that are pruned are exactly 0. That is all there is of a mask: a saved model, a file for
a device and a resumed training have it without knowing. The equations are the functions at the
top; `GradR` is an optimizer, `Prune` a callback beside an optimizer that has `KeepZeros`.
"""

import math
import re
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_snn import optimizers
from keras_snn.utils.arguments import check_choice, check_integer, check_number

__all__ = [
    "GradR",
    "KeepZeros",
    "MaskedAdam",
    "MaskedSGD",
    "Prune",
    "connectivity",
    "grad_r_center",
    "grad_r_step",
    "magnitude_masks",
    "n_of_m_mask",
]

# What is pruned, by the paths of variables: the kernels of layers, not biases or normalisation.
KERNELS = ("kernel$",)


def grad_r_center(sparsity: float, alpha: float) -> float:
    """Centre of the prior of Grad R: `mu = ln(2 (1 - sparsity)) / alpha`.

    Args:
        sparsity: Share of the prior below 0, from 0.5 to below 1.
        alpha: Inverse of the prior's scale, above 0.

    Source: Chen et al. (2021), "Pruning of Deep Spiking Neural Networks through Gradient Rewiring".
    """
    return math.log(2 * (1 - sparsity)) / alpha


def grad_r_step(strength, sign, step, rate, alpha, mu):
    """One step of Grad R for the synapses of one kernel.

        theta' = sign (sign theta - rate step - rate alpha sign sgn(theta - mu))
        w = sign max(theta', 0)

    A synapse with `theta <= 0` is pruned. The gradient is that of the loss to the weight, times the
    sign, also where the weight is 0: so pruned synapses can grow again, and never change sign.

    Args:
        strength: `theta`.
        sign: Signs of the synapses, -1 or 1; 0 never grows.
        step: The step to descend by: the gradient to the weights, or Adam's `m / (sqrt(v) + eps)`.
        rate: Learning rate.
        alpha: Strength of the prior.
        mu: Centre of the prior, see `grad_r_center`.

    Returns:
        The new strengths and the new weights.

    Source: Chen et al. (2021); order of the parts and `sgn(0) = 0` as in the authors' code.
    """
    drift = ops.multiply(sign, ops.sign(ops.subtract(strength, mu)))
    weight = ops.multiply(sign, strength)
    weight = ops.subtract(weight, ops.multiply(rate, step))
    weight = ops.subtract(weight, ops.multiply(rate * alpha, drift))
    strength = ops.multiply(sign, weight)
    return strength, ops.multiply(sign, ops.maximum(strength, 0))


class Selecting:
    """The part of an optimizer that treats some variables, by their paths, in a way of its own.

    Args:
        names: Regular expressions; a variable is treated so if one is found in its path.
        kwargs: Arguments of the optimizer.
    """

    def __init__(self, *args, names: Sequence[str] = KERNELS, **kwargs):
        super().__init__(*args, **kwargs)
        self.names = tuple(names)

    def build(self, variables):
        """Finds the variables that it selects."""
        if self.built:
            return
        kernels = [v for v in variables if _is_named(v, self.names)]
        if not kernels:
            raise ValueError(
                f"No trainable variable has a path with one of `names`, {list(self.names)}, got "
                f"{[v.path for v in variables]}."
            )
        super().build(variables)
        # TensorFlow gives `update_step` variables of its own, without a path.
        self._kernels = [self._get_variable_index(v) for v in kernels]

    def _selects(self, variable):
        return self._get_variable_index(variable) in self._kernels

    def get_config(self):
        """The configuration of the optimizer."""
        return super().get_config() | {"names": list(self.names)}


def _of_value(function, variable):
    """An initializer: a function of a variable's value."""
    return lambda shape, dtype: ops.cast(function(variable.value), dtype)


def _is_named(variable, names):
    return any(re.search(name, variable.path) for name in names)


@keras.saving.register_keras_serializable(package="keras_snn")
class GradR(Selecting, optimizers.Adam):
    """Gradient rewiring with Adam: weights are pruned and grow again by the gradient.

    Each kernel's weight has a sign, that of its first value, and a strength, see `grad_r_step`;
    the step is Adam's, and both parts have the learning rate `lr / (1 - beta_1^k)` of the step k.
    A Laplace prior draws strengths to `mu`; its share below 0 is `sparsity`, which is what training
    tends to where the loss does not mind, not a bound. Other variables are trained by Adam.

    The weights that it finds when it is built, at the start of `fit`, are the first ones. It must
    not be used with weights that something else sets while it trains.

    Args:
        learning_rate: A number or a schedule.
        sparsity: Share of the prior below 0, from 0.5 to below 1.
        alpha: Strength of the prior; it counts if it is above `epsilon`.
        epsilon: Of Adam.
        names: Regular expressions: kernels are variables with one of these in their paths.
        kwargs: Other arguments of `keras_snn.optimizers.Adam`.

    Raises:
        ValueError: If an argument is invalid, or, when it is built, no variable has such a path.

    Source: Chen, Yu, Fang, Huang and Tian (2021); the authors' code, whose defaults these are.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> model.compile(GradR(1e-2, sparsity=0.9), "mse")
    >>> _ = model.fit(np.ones((8, 3)), np.ones((8, 4)), verbose=0)
    """

    def __init__(
        self,
        learning_rate=1e-4,
        sparsity: float = 0.95,
        alpha: float = 1e-3,
        epsilon: float = 1e-8,
        names: Sequence[str] = KERNELS,
        **kwargs,
    ):
        super().__init__(learning_rate, epsilon=epsilon, names=names, **kwargs)
        self.sparsity = check_number("sparsity", sparsity, minimum=0.5, maximum=1)
        self.alpha = check_number("alpha", alpha, minimum=0)
        if sparsity == 1:
            raise ValueError(
                "Received an invalid value for argument `sparsity`, expected a number from 0.5 to "
                "below 1, got 1."
            )

    def build(self, variables):
        """Takes signs and strengths from the kernels' values."""
        if self.built:
            return
        super().build(variables)

        def of_kernels(name, function):
            return [
                self.add_variable_from_reference(v, name, _of_value(function, v))
                for v in filter(self._selects, variables)
            ]

        self._strengths = of_kernels("strength", ops.abs)
        self._signs = of_kernels("sign", ops.sign)

    def update_step(self, gradient, variable, learning_rate):
        """Updates a variable by its gradient."""
        place = self._get_variable_index(variable)
        if not self._selects(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        kernel = self._kernels.index(place)
        strength, sign = self._strengths[kernel], self._signs[kernel]
        gradient = self._penalized(gradient, variable)
        m, v = self._momentums[place], self._velocities[place]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        if self.amsgrad:
            largest = self._velocity_hats[place]
            self.assign(largest, ops.maximum(largest, v))
            v = largest
        steps = ops.cast(self.iterations + 1, variable.dtype)
        # 1 - beta^k; for small k a difference of numbers close to 1 would be inexact.
        first, second = (
            -ops.expm1(steps * math.log(beta)) if beta else 1.0
            for beta in (self.beta_1, self.beta_2)
        )
        theta, weight = grad_r_step(
            strength,
            sign,
            ops.divide(m, ops.sqrt(ops.divide(v, second)) + self.epsilon),
            ops.cast(learning_rate, variable.dtype) / first,
            *self._prior(),
        )
        self.assign(strength, theta)
        self.assign(variable, weight)

    def _prior(self):
        if self.alpha <= self.epsilon:
            return 0.0, 0.0
        return self.alpha, grad_r_center(self.sparsity, self.alpha)

    def get_config(self):
        """The configuration of the optimizer."""
        return super().get_config() | {"sparsity": self.sparsity, "alpha": self.alpha}


class KeepZeros(Selecting):
    """Makes a Keras optimizer keep weights of kernels that are exactly 0.

    Put it in front of any optimizer: `class RMSprop(KeepZeros, keras.optimizers.RMSprop)`. What is
    pruned stays so, whatever momentum and decay do, in this run and in those that load the model.

    Args:
        names: Regular expressions: kernels are variables with one of these in their paths.

    Example:

    >>> class RMSprop(KeepZeros, keras.optimizers.RMSprop):
    ...     pass
    >>> weight = keras.Variable([0.0, 1.0], name="kernel")
    >>> RMSprop(0.5).apply([ops.ones(2)], [weight])
    >>> float(weight[0])
    0.0
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates a weight by its gradient, unless it is 0."""
        if not self._selects(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        kept = ops.not_equal(variable, 0)
        super().update_step(gradient, variable, learning_rate)
        self.assign(variable, ops.where(kept, ops.convert_to_tensor(variable), 0))


@keras.saving.register_keras_serializable(package="keras_snn")
class MaskedSGD(KeepZeros, optimizers.SGD):
    """`keras_snn.optimizers.SGD` that keeps weights of 0, see `KeepZeros`."""


@keras.saving.register_keras_serializable(package="keras_snn")
class MaskedAdam(KeepZeros, optimizers.Adam):
    """`keras_snn.optimizers.Adam` that keeps weights of 0, see `KeepZeros`."""


def magnitude_masks(
    kernels: Sequence[np.ndarray], sparsity: float, scope: str = "layer"
) -> list[np.ndarray]:
    """Masks that leave out the weights of smallest magnitude.

    Args:
        kernels: Arrays of weights.
        sparsity: Share of weights to leave out, from 0 to 1; their number is rounded.
        scope: `"layer"`, of each kernel, or `"global"`, of all together.

    Returns:
        Boolean arrays, `True` for weights that stay. Of equal magnitudes the first are left out.

    Source: Han et al. (2015), "Learning both Weights and Connections for Efficient Neural
        Networks".

    Example:

    >>> magnitude_masks([np.array([3.0, -1.0]), np.array([-2.0, 0.5])], 0.5, "global")
    [array([ True, False]), array([ True, False])]
    """
    check_number("sparsity", sparsity, minimum=0, maximum=1)
    if check_choice("scope", scope, ("layer", "global")) == "layer":
        return [_largest(kernel, sparsity) for kernel in kernels]
    flat = _largest(np.concatenate([np.ravel(kernel) for kernel in kernels]), sparsity)
    ends = np.cumsum([np.size(kernel) for kernel in kernels])[:-1]
    return [m.reshape(np.shape(k)) for m, k in zip(np.split(flat, ends), kernels)]


def _largest(kernel, sparsity):
    mask = np.ones(np.size(kernel), bool)
    order = np.argsort(np.abs(np.ravel(kernel)), kind="stable")
    mask[order[: round(sparsity * len(order))]] = False
    return mask.reshape(np.shape(kernel))


def n_of_m_mask(kernel: np.ndarray, n: int, m: int) -> np.ndarray:
    """A mask that keeps the `n` largest of every `m` weights of an output.

    Groups are of weights of one output that follow each other along the inputs: of a dense kernel
    along its first axis, of a convolution's along the input channels (then columns, then rows).
    A last group of fewer than `m` weights keeps at most `n`.

    Args:
        kernel: Weights, outputs last.
        n: Weights of a group that stay.
        m: Weights of a group.

    Returns:
        A boolean array, `True` for weights that stay.

    Source: Mishra et al. (2021), "Accelerating Sparse Deep Neural Networks", 2 of every 4.

    Example:

    >>> n_of_m_mask(np.array([[1.0], [-4.0], [3.0], [2.0]]), 2, 4).ravel()
    array([False,  True,  True, False])
    """
    check_integer("m", m)
    if check_integer("n", n) > m:
        raise ValueError(f"`n` should be at most `m`, {m}, got {n}.")
    rows = np.abs(np.reshape(kernel, (-1, np.shape(kernel)[-1])))
    missing = -len(rows) % m
    # What fills the last group up is smaller than any weight.
    groups = np.pad(rows, ((0, missing), (0, 0)), constant_values=-1).reshape(-1, m, rows.shape[1])
    ranks = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1, kind="stable")
    return (ranks < n).reshape(-1, rows.shape[1])[: len(rows)].reshape(np.shape(kernel))


def connectivity(
    model: keras.Model, names: Sequence[str] = KERNELS
) -> tuple[float, dict[str, float]]:
    """Share of a model's weights that are not 0.

    Args:
        model: A built model.
        names: Regular expressions: kernels are variables with one of these in their paths.

    Returns:
        The share of all kernels together, and of each by its path.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="last")])
    >>> model.layers[0].set_weights([np.array([[0.5], [0.0]]), np.zeros(1)])
    >>> connectivity(model)[0]
    0.5
    """
    kernels = {v.path: ops.convert_to_numpy(v.value) for v in _kernels(model, names)}
    total = sum(np.count_nonzero(x) for x in kernels.values()) / sum(map(np.size, kernels.values()))
    return float(total), {k: np.count_nonzero(x) / np.size(x) for k, x in kernels.items()}


def _kernels(model, names):
    kernels = [v for v in model.trainable_variables if _is_named(v, names)]
    if not kernels:
        raise ValueError(
            f"{model.name!r} has no trainable variable with one of {list(names)} in its path."
        )
    return kernels


class Prune(keras.callbacks.Callback):
    """Sets the smallest weights to 0, more of them at the start of each epoch.

    With `sparsity` the share of zeros rises from 0 by a cubic, quickly at first; with `pattern`
    all groups are pruned at the epoch `start`. The optimizer has to keep zeros: `MaskedAdam`,
    `MaskedSGD`, or one with `KeepZeros`. The share of other weights is logged as `connectivity`.

        share(epoch) = sparsity (1 - (1 - (epoch - start + 1) / (end - start + 1))^3)

    Args:
        sparsity: Share of weights that are 0 from the epoch `end` on.
        pattern: Or `(n, m)`: the `n` largest of every `m` stay, see `n_of_m_mask`. Kernels of
            depthwise convolutions are left out.
        start: First epoch of pruning; the first epoch is 0.
        end: Epoch of the last pruning, by default `start`.
        scope: `"layer"` or `"global"`, see `magnitude_masks`.
        names: Regular expressions: kernels are variables with one of these in their paths.

    Raises:
        ValueError: If an argument is invalid; when training starts, if the optimizer does not keep
            zeros or nothing is to be pruned.

    Source: Zhu and Gupta (2017), "To prune, or not to prune", the cubic, a step each epoch.

    Example:

    ```python
    model.compile(keras_snn.training.MaskedAdam(1e-3), loss)
    model.fit(data, epochs=10, callbacks=[keras_snn.training.Prune(0.9, end=5)])
    ```
    """

    def __init__(
        self,
        sparsity: float | None = None,
        pattern: tuple[int, int] | None = None,
        start: int = 0,
        end: int | None = None,
        scope: str = "layer",
        names: Sequence[str] = KERNELS,
    ):
        super().__init__()
        if (sparsity is None) == (pattern is None):
            raise ValueError(
                f"Give either `sparsity` or `pattern`, got {sparsity!r} and {pattern!r}."
            )
        if pattern is None:
            magnitude_masks([np.ones(1)], sparsity, scope)
        else:
            n_of_m_mask(np.ones((1, 1)), *pattern)
        self.sparsity, self.pattern = sparsity, pattern
        self.start = check_integer("start", start, minimum=0)
        self.end = self.start if end is None else check_integer("end", end, minimum=self.start)
        self.scope, self.names = scope, names

    def on_train_begin(self, logs=None):
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not isinstance(optimizer, KeepZeros):
            raise ValueError(
                "`Prune` needs an optimizer that keeps weights of 0, `MaskedAdam`, `MaskedSGD` or "
                f"one with `KeepZeros`, got {type(optimizer).__name__}."
            )
        self._pruned()

    def _pruned(self):
        kernels = _kernels(self.model, self.names)
        if self.pattern is None:
            return kernels
        grouped = [v for v in kernels if "depthwise" not in v.path]
        if not grouped:
            raise ValueError(
                f"`pattern` is for kernels whose outputs have several inputs; {self.model.name!r} "
                f"has {[v.path for v in kernels]}."
            )
        return grouped

    def on_epoch_begin(self, epoch, logs=None):
        if not self.start <= epoch <= (self.end if self.pattern is None else self.start):
            return
        kernels = self._pruned()
        values = [ops.convert_to_numpy(v.value) for v in kernels]
        if self.pattern is None:
            left = 1 - (epoch - self.start + 1) / (self.end - self.start + 1)
            masks = magnitude_masks(values, self.sparsity * (1 - left**3), self.scope)
        else:
            masks = [n_of_m_mask(value, *self.pattern) for value in values]
        for variable, value, mask in zip(kernels, values, masks):
            variable.assign(value * mask)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["connectivity"] = connectivity(self.model, self.names)[0]
