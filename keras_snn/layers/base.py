"""Cells: what all neurons share in one step.

`NeuronCell` holds a neuron's configuration and weights and applies one step; `SpikingCell` adds
threshold, surrogate and reset. A new neuron is a `SpikingCell` with a `charge` method (or a whole
`step`) and a `Neuron` that names it. Read `rnn.py` and `neurons.py` next.
"""

import keras
from keras import ops, tree

from keras_snn import dynamics, surrogates
from keras_snn.kernels import spec
from keras_snn.utils.arguments import (
    Configured,
    arguments,
    check_choice,
    check_number,
    check_peers,
    is_ours,
)
from keras_snn.utils.deprecation import warn
from keras_snn.utils.docs import argument_docs, describe

__all__ = ["NeuronCell", "SpikingCell"]

SHARING = ("scalar", "channel", "neuron")


def positive(weight):
    """Constraint of learnable thresholds: keeps them above 0."""
    return ops.maximum(weight, keras.config.epsilon())


class NeuronCell(Configured, keras.layers.Layer):
    """One step of a neuron without a threshold; the base class of all cells.

    A subclass defines `charge`, or `step` if it has other states than the membrane potential. Its
    arguments are found in its constructor's signature, its parents' included; each is stored
    under its own name, and `get_config` reads them back.

    Args:
        **kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, `trainable`, ...).
    """

    # One initial value for each state; `None` stands for `v_reset`.
    initial_values = (None,)
    # One name for each state, which errors and exported files use.
    state_names = ("membrane",)
    v_reset = 0.0
    # Whether its outputs are spikes.
    spiking = False

    def __init__(self, **kwargs):
        # States and weights keep the policy's variable dtype (float32 under mixed precision);
        # Keras's autocast would round them to the compute dtype.
        kwargs.setdefault("autocast", False)
        check_peers(type(self).__name__, kwargs)
        super().__init__(**kwargs)
        self._step_shape = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "form" in vars(cls) and "linear_charge" not in vars(cls):  # its old name
            warn(f"{cls.__name__}.form", "linear_charge")
            cls.linear_charge = cls.form
        describe(cls, arguments(cls, NeuronCell), argument_docs(cls, NeuronCell))

    def charge(self, v, x):
        """The membrane potential `v` with the input `x` taken in, both `(batch, ...)`."""
        raise TypeError(f"{type(self).__name__} must define `charge(v, x)` or `step(x, states)`.")

    def linear_charge(self):
        """The charge as a `Decay` or `Leak` of `keras_snn.kernels.spec`, `None` if it is neither.

        A class that defines it with its `charge` gets the fused loop over time.
        """
        return None

    def form(self):
        """`linear_charge`, by its old name."""
        warn("form", "linear_charge")
        return self.linear_charge()

    def step(self, x, states):
        """One step, in the state's dtype.

        Args:
            x: Input, `(batch, ...)`.
            states: List of state tensors.

        Returns:
            `(output, states)`.
        """
        v = self.charge(states[0], x)
        return v, [v]

    def initial_states(self, x):
        """The states before the first step, for an input like `x`, `(batch, ...)`."""
        values = [self.v_reset if value is None else value for value in self.initial_values]
        return [ops.full_like(x, value) for value in values]

    def get_initial_state(self, batch_size=None):
        """The states before the first step.

        Args:
            batch_size: Number of examples.

        Returns:
            A list of tensors `(batch_size, ...)`.
        """
        if self._step_shape is None or None in self._step_shape[1:]:
            raise ValueError(
                f"{self.name} must be built with a known shape to tell its initial state, "
                f"got the input shape {self._step_shape}."
            )
        return self.initial_states(
            ops.zeros((batch_size, *self._step_shape[1:]), dtype=self.variable_dtype)
        )

    @property
    def state_size(self):
        count = len(self.initial_values)
        if self._step_shape is None:
            return [1] * count
        shape = self._step_shape[1:]
        return [shape[0] if len(shape) == 1 else tuple(shape)] * count

    @property
    def output_size(self):
        return self.state_size[0] if self._step_shape is not None else None

    def build(self, input_shape):
        self._step_shape = tuple(input_shape)
        self.built = True

    def call(self, inputs, states, training=False):
        states = list(states) if tree.is_nested(states) else [states]
        given = [state.dtype for state in states]
        states = [ops.cast(state, self.variable_dtype) for state in states]
        output, states = self.step(ops.cast(inputs, self.variable_dtype), states)
        states = [ops.cast(state, dtype) for state, dtype in zip(states, given)]
        return ops.cast(output, self.compute_dtype), states

    def compute_output_shape(self, input_shape, states_shape=None):
        return tuple(input_shape), [tuple(input_shape)] * len(self.initial_values)

    def add_parameter(self, name, value, parameter_shape, steps=None, **kwargs):
        """A weight shared as `parameter_shape` says, filled with `value`, or by that initializer.

        With `steps`, there is one for each of so many steps.
        """
        step_shape = self._step_shape[1:]
        if parameter_shape == "scalar":
            shape = ()
        elif parameter_shape == "neuron":
            shape = step_shape
        else:
            first = keras.config.image_data_format() == "channels_first" and len(step_shape) > 1
            shape = (step_shape[0], *[1] * (len(step_shape) - 1)) if first else step_shape[-1:]
        if None in shape:
            raise ValueError(
                f"`parameter_shape={parameter_shape!r}` needs a known input shape, got "
                f"{self._step_shape}."
            )
        return self.add_weight(
            name=name,
            shape=shape if steps is None else (steps, *shape),
            initializer=value if callable(value) else keras.initializers.Constant(value),
            autocast=False,
            **kwargs,
        )

    def get_config(self):
        ours = next(filter(is_ours, type(self).__mro__))
        own = {name: getattr(self, name) for name in arguments(ours, NeuronCell)}
        return self.accepted(super().get_config() | own)


class SpikingCell(NeuronCell):
    """One step of a neuron that fires; the base class of all spiking cells.

    Args:
        threshold: Firing threshold, a number above 0.
        reset: What a spike does to the membrane potential: `"hard"` sets it to `v_reset`,
            `"soft"` subtracts the threshold, `"none"` leaves it.
        detach_reset: Whether no gradient flows through the reset.
        surrogate: Surrogate gradient: a name, a config or an object, see `keras_snn.surrogates`.
        strict: Whether a potential of exactly the threshold stays silent (`v > threshold`);
            by default it fires (`v >= threshold`).
        trainable_threshold: Whether the threshold is a weight.
        parameter_shape: How trainable parameters are shared: `"scalar"` (one for the layer),
            `"channel"` or `"neuron"`.
        v_reset: Resting potential: where the state starts, where the leak pulls to, and where a
            hard reset returns to. A number.
        **kwargs: Those of `NeuronCell` and `keras.layers.Layer`.
    """

    spiking = True

    def __init__(
        self,
        threshold=1.0,
        reset="hard",
        detach_reset=True,
        surrogate="atan",
        strict=False,
        trainable_threshold=False,
        parameter_shape="scalar",
        v_reset=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.v_reset = check_number("v_reset", v_reset)
        self.threshold = check_number("threshold", threshold, above=0)
        self.reset = check_choice("reset", reset, dynamics.RESETS)
        self.detach_reset = bool(detach_reset)
        self.surrogate = surrogates.get(surrogate)
        self.strict = bool(strict)
        self.trainable_threshold = bool(trainable_threshold)
        self.parameter_shape = check_choice("parameter_shape", parameter_shape, SHARING)
        self.threshold_weight = None
        self.number = None  # by which compiled graphs of PyTorch know it
        self._is_linear = _is_linear(type(self))

    def build(self, input_shape):
        super().build(input_shape)
        if self.trainable_threshold:
            self.threshold_weight = self.add_parameter(
                "threshold", self.threshold, self.parameter_shape, constraint=positive
            )

    @property
    def current_threshold(self):
        """The threshold in force: the number, or the weight if it is trainable."""
        return self.threshold if self.threshold_weight is None else self.threshold_weight

    def fire(self, h, threshold=None):
        """Spikes of the charged membrane potential `h`, in its dtype."""
        threshold = self.current_threshold if threshold is None else threshold
        return dynamics.fire(h, threshold, self.surrogate, self.strict)

    def reset_membrane(self, h, spikes, threshold=None):
        """The membrane potential that `spikes` leave of the charged one, `h`."""
        threshold = self.current_threshold if threshold is None else threshold
        return dynamics.reset_membrane(
            h, spikes, threshold, self.reset, self.v_reset, self.detach_reset
        )

    def step(self, x, states):
        h = self.charge(states[0], x)
        spikes = self.fire(h)
        return spikes, [self.reset_membrane(h, spikes)]

    def fused(self):
        """`fused_spec`, by its old name."""
        warn("fused", "fused_spec")
        return self.fused_spec()

    def fused_spec(self):
        """What kernels need to run whole sequences of a neuron.

        Returns:
            `(linear_charge, fire, threshold)`: a `Decay` or `Leak` and a `Fire` of
            `keras_snn.kernels.spec`, and the threshold in force, a number or a tensor. `None` if
            the class that defines `charge` does not define its `linear_charge`, or one defines
            anew how to step, fire or reset.
        """
        linear_charge = self.linear_charge() if self._is_linear else None
        if linear_charge is None:
            return None
        threshold = self.threshold
        if self.threshold_weight is not None:
            threshold = self.threshold_weight * 1.0  # a tensor, as custom gradients want
        return linear_charge, self.fire_spec, threshold

    @property
    def fire_spec(self):
        """How the neuron fires and resets, for kernels."""
        return spec.Fire(self.surrogate, self.strict, self.reset, self.v_reset, self.detach_reset)

    def inference_spec(self):
        """As `fused_spec`, of what the neuron does in inference: what files are made of."""
        return self.fused_spec()

    def get_config(self):
        surrogate = surrogates.serialize(self.surrogate)
        return self.accepted(super().get_config() | {"surrogate": surrogate})


def _is_linear(cls):
    """Whether a cell's `linear_charge` is its `charge`, and all else is `SpikingCell`'s."""
    charge, linear_charge = (
        next(parent for parent in cls.__mro__ if name in vars(parent))
        for name in ("charge", "linear_charge")
    )
    return charge is linear_charge and all(
        getattr(cls, name) is getattr(SpikingCell, name)
        for name in ("step", "fire", "reset_membrane", "current_threshold")
    )
