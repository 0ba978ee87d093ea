"""DH-LIF: a dense layer whose synapses sit on dendritic branches, each with a memory of its own.

A neuron has several branches, and each input goes to one of them, drawn at random for each neuron:

    d[b] <- decay[b] d[b] + (1 - decay[b]) (W[b] x + c[b])          each branch b
    h = decay u + (1 - decay) sum_b d[b] - threshold s_before       the soma
    s = 1 where h > threshold

All decays are learned. The layer is made of parts (synapses, branches, their sum, soma), which
whoever reads a graph sees in its place.

Source: Zheng et al. (2024), "Temporal dendritic heterogeneity incorporated with spiking neural
networks for learning multi-timescale dynamics", and their code.
"""

import inspect
import math

import keras
from keras import ops

from keras_snn import dynamics, graph
from keras_snn.kernels import spec
from keras_snn.layers.base import NeuronCell, SpikingCell
from keras_snn.layers.rnn import SpikingRNN
from keras_snn.layers.time import check_rank
from keras_snn.utils.arguments import Configured, check_integer, check_range, freeze

__all__ = ["DendriticLIF"]


class BranchedDense(Configured, keras.layers.Layer):
    """The synapses: a dense layer to the branches of all neurons, `(..., branches * units)`.

    A synapse is on one branch of its neuron, so there are `inputs * units` weights. `places`, which
    are not trained, tell the branch of each.

    Args:
        units: Number of neurons.
        branches: Number of branches of a neuron.
        use_bias: Whether each branch has a bias.
        kernel_initializer: Initializer of the weights, `(inputs, units)`.
        bias_initializer: Initializer of the biases.
        seed: Seed of the places.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(
        self, units, branches, use_bias, kernel_initializer, bias_initializer, seed, **kwargs
    ):
        super().__init__(**kwargs)
        self.units, self.branches, self.use_bias = units, branches, use_bias
        self.kernel_initializer, self.bias_initializer = kernel_initializer, bias_initializer
        self.seed = seed
        self.supports_masking = True

    def build(self, input_shape):
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer=self.kernel_initializer
        )
        self.places = self.add_weight(
            name="places", shape=shape, initializer=self.draw, trainable=False, autocast=False
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.branches * self.units,), initializer=self.bias_initializer
            )
        self.built = True

    def draw(self, shape, dtype=None):
        """The branch of each synapse: shuffled inputs are cut into parts of one size.

        If inputs cannot be shared out evenly, some places stay empty, as in the source.
        """
        inputs, units = shape
        slots = math.ceil(inputs / self.branches) * self.branches
        order = ops.argsort(keras.random.uniform((slots, units), seed=self.seed), axis=0)
        return ops.cast(order[:inputs] // (slots // self.branches), dtype)

    def full_kernel(self):
        """The weights to all branches, `(inputs, branches * units)`, mostly zeros."""
        kernel, places = map(ops.convert_to_tensor, (self.kernel, self.places))
        numbers = ops.arange(self.branches, dtype=places.dtype)[:, None]
        here = ops.cast(ops.expand_dims(places, 1) == numbers, kernel.dtype)
        return ops.reshape(ops.expand_dims(kernel, 1) * here, (-1, self.branches * self.units))

    def call(self, inputs):
        y = ops.matmul(inputs, ops.cast(self.full_kernel(), inputs.dtype))
        return y if self.bias is None else y + ops.cast(self.bias, y.dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.branches * self.units)


class BranchSum(Configured, keras.layers.Layer):
    """The sum of the branches of each neuron, `(..., branches * units)` to `(..., units)`.

    Args:
        units: Number of neurons.
        branches: Number of branches of a neuron.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, units, branches, **kwargs):
        super().__init__(**kwargs)
        self.units, self.branches = units, branches
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        return sum(inputs[..., i * self.units : (i + 1) * self.units] for i in range(self.branches))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)


class _LearnedTau:
    """A cell with a learned time constant `tau`: `v + (x - v) / tau`, `1 / tau = sigmoid(w)`.

    Args:
        taus: Least and largest initial time constant in steps, above 1.
    """

    def __init__(self, taus, **kwargs):
        super().__init__(**kwargs)
        self.taus = taus

    def build(self, input_shape):
        super().build(input_shape)
        low, high = (-math.log(tau - 1) for tau in reversed(self.taus))
        self.w = self.add_parameter("w", keras.initializers.RandomUniform(low, high), "channel")

    def charge(self, v, x):
        return dynamics.lif_charge(v, x, rate=ops.sigmoid(self.w))


class DendriteCell(_LearnedTau, NeuronCell):
    """A branch, one step: `d <- d + (x - d) / tau`, a leaky integrator with a learned `tau`."""

    state_names = ("dendrite",)

    def linear_charge(self):
        return spec.Leak(0.0, True, rate=ops.sigmoid(self.w))


class SomaCell(_LearnedTau, SpikingCell):
    """The soma, one step: a LIF with a learned `tau`, whose soft reset does not decay."""

    def reset_membrane(self, h, spikes, threshold=None):
        # What is subtracted here decays by the next charge, to the threshold.
        threshold = self.current_threshold if threshold is None else threshold
        return super().reset_membrane(h, spikes, threshold / ops.sigmoid(-self.w))


@keras.saving.register_keras_serializable(package="keras_snn")
class DendriticLIF(Configured, keras.layers.Layer):
    """DH-LIF: synapses on dendritic branches, each with a learned time constant, and a LIF soma.

    A branch keeps what came to it for as long as its time constant says, so a neuron sees several
    timescales at once. `d <- d + (W x + c - d) / tau_branch` for each branch, then
    `h = u + (sum d - u) / tau`, a spike where `h > threshold`; the spike takes the threshold from
    the potential of the next step. It has as many synapses as a dense layer: each input goes to one
    branch of a neuron.

    Args:
        units: Number of neurons.
        branches: Number of branches of a neuron.
        branch_taus: Least and largest initial time constant of branches in steps, above 1.
            `log(tau - 1)` is drawn uniformly, `tau` is learned. The source has (2, 55.6), and for
            SHD (8.4, 404): its weights from 0 to 4, and from 2 to 6.
        soma_taus: Those of the somas.
        threshold: Firing threshold, a number above 0.
        surrogate: Surrogate gradient; the source's by default.
        detach_reset: Whether no gradient flows through the reset.
        use_bias: Whether each branch has a bias.
        kernel_initializer: Initializer of the weights `(inputs, units)`; by default uniform within
            `1 / sqrt(inputs)`.
        bias_initializer: Initializer of the biases; the source draws them as the weights.
        stateful: Whether the states of a batch are where the next batch starts from. Needs a known
            batch size.
        seed: Seed of which branch an input goes to.
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, `trainable`, ...).

    Call arguments:
        inputs: `(batch, time, features)`.
        mask: Optional `(batch, time)`, true for steps to use. A masked step leaves the states alone
            and emits no spikes.

    Returns:
        Spikes `(batch, time, units)`.

    Raises:
        ValueError: If an argument is invalid, or the inputs have another rank or open features.

    Source: see `keras_snn.layers.dendrites`. States start at 0; the source's code draws those of
    the soma at random for each batch.

    Example:

    >>> layer = DendriticLIF(8, branches=4)
    >>> layer(keras.ops.ones((2, 10, 12))).shape == (2, 10, 8)
    True
    >>> [tuple(weight.shape) for weight in layer.trainable_variables]
    [(12, 8), (32,), (32,), (8,)]
    """

    def __init__(
        self,
        units,
        branches=4,
        branch_taus=(2.0, 55.6),
        soma_taus=(2.0, 55.6),
        threshold=1.0,
        surrogate="multi_gaussian",
        detach_reset=False,
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
        stateful=False,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = check_integer("units", units)
        self.branches = check_integer("branches", branches)
        self.branch_taus = check_range("branch_taus", branch_taus, above=1)
        self.soma_taus = check_range("soma_taus", soma_taus, above=1)
        self.use_bias = bool(use_bias)
        self.seed = seed if seed is None else check_integer("seed", seed, minimum=0)
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.supports_masking = True
        # States and sums keep the variable dtype, float32 under mixed precision.
        exact = keras.DTypePolicy(self.variable_dtype)
        self.synapses = BranchedDense(
            self.units,
            self.branches,
            self.use_bias,
            self.kernel_initializer,
            self.bias_initializer,
            self.seed,
            dtype=self.dtype_policy,
            name=f"{self.name}_synapses",
        )
        # A branch that is masked holds what it has; the soma is silent then.
        self.dendrites = SpikingRNN(
            DendriteCell(self.branch_taus, dtype=exact),
            stateful=stateful,
            zero_output_for_mask=False,
            dtype=exact,
            name=f"{self.name}_branches",
        )
        self.sum = BranchSum(self.units, self.branches, dtype=exact, name=f"{self.name}_sum")
        soma = SomaCell(
            self.soma_taus,
            threshold=threshold,
            surrogate=surrogate,
            detach_reset=detach_reset,
            reset="soft",
            strict=True,
            dtype=self.dtype_policy,
        )
        self.soma = SpikingRNN(
            soma, stateful=stateful, dtype=self.dtype_policy, name=f"{self.name}_soma"
        )
        freeze(self, self.synapses, self.dendrites, self.soma)

    def build(self, input_shape):
        check_rank(self, input_shape)
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(
                f"{self.name} expects inputs (batch, time, features) with known features, got the "
                f"shape {tuple(input_shape)}."
            )
        shape = input_shape
        for part in (self.synapses, self.dendrites, self.sum, self.soma):
            if not part.built:
                part.build(shape)
            shape = part.compute_output_shape(shape)
        self.built = True

    def compose(self, apply, inputs):
        """The layer, as a composition of `apply(part, inputs of the part)`."""
        currents = apply(self.dendrites, apply(self.synapses, inputs))
        return apply(self.soma, apply(self.sum, currents))

    def call(self, inputs, mask=None):
        def apply(part, x):
            takes = mask is not None and "mask" in inspect.signature(part.call).parameters
            return part(x, mask=mask) if takes else part(x)

        return self.compose(apply, inputs)

    def reset_state(self):
        """Puts the states of `stateful=True` back to 0."""
        self.dendrites.reset_state()
        self.soma.reset_state()

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        serialize = keras.initializers.serialize
        cell = self.soma.cell.get_config()
        names = ("units", "branches", "branch_taus", "soma_taus", "use_bias", "seed")
        return super().get_config() | {
            **{name: getattr(self, name) for name in names},
            **{name: cell[name] for name in ("threshold", "surrogate", "detach_reset")},
            "kernel_initializer": serialize(self.kernel_initializer),
            "bias_initializer": serialize(self.bias_initializer),
            "stateful": self.soma.stateful,
        }


graph.COMPOSED.append(DendriticLIF)
