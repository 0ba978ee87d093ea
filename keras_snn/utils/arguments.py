"""Checks of arguments, and configurations derived from constructors."""

import inspect

import keras
import numpy as np


def _plain(value):
    """Scalars of numpy as Python numbers: these take the dtype of the tensors they meet."""
    return value.item() if isinstance(value, np.generic) else value


def check_number(name, value, minimum=None, above=None, maximum=None):
    """`value`, if it is a number within bounds; a `ValueError` that names it otherwise."""
    value = _plain(value)
    wanted = "a number"
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    for bound, word, holds in (
        (minimum, "of at least", lambda: value >= minimum),
        (above, "above", lambda: value > above),
        (maximum, "of at most", lambda: value <= maximum),
    ):
        if bound is not None:
            wanted += f" {word} {bound}"
            good = good and holds()
    if not good:
        raise ValueError(
            f"Received an invalid value for argument `{name}`, expected {wanted}, got {value!r}."
        )
    return value


def check_range(name, value, above=None):
    """`value` as a tuple of two numbers, of which the first is not above the second."""
    try:
        low, high = value
    except (TypeError, ValueError):
        raise ValueError(
            f"Received an invalid value for argument `{name}`, expected two numbers, got {value!r}."
        ) from None
    low = check_number(name, low, above=above)
    return low, check_number(name, high, minimum=low)


def check_integer(name, value, minimum=1):
    """`value`, if it is an integer of at least `minimum`; a `ValueError` otherwise."""
    value = _plain(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(
            f"Received an invalid value for argument `{name}`, expected an integer of at least "
            f"{minimum}, got {value!r}."
        )
    return value


def check_choice(name, value, choices):
    """`value`, if it is one of `choices`; a `ValueError` otherwise."""
    if value not in choices:
        raise ValueError(
            f"Received an invalid value for argument `{name}`, expected one of {tuple(choices)}, "
            f"got {value!r}."
        )
    return value


def check_mask(owner, mask, sequences):
    """`mask`, if it has a value for each example and step of `sequences`; an error otherwise.

    Args:
        owner: Who takes the mask, for the message: a layer's name, "The loss `...`".
        mask: `(batch, time)` or `None`, which goes through.
        sequences: The tensor that is masked, `(batch, time, ...)`, symbolic or not.

    Raises:
        ValueError: If the mask has another rank or another size. Where TensorFlow's graphs know a
            size at run time only, an `InvalidArgumentError` that says the same.
    """
    if mask is None:
        return None
    if not hasattr(mask, "shape"):
        mask = np.asarray(mask)
    wanted, given = tuple(sequences.shape)[:2], tuple(mask.shape)
    message = (
        f"{owner} needs a mask of shape (batch, time), got {given} for a sequence whose batch and "
        f"time are {wanted}."
    )
    if len(given) != 2 or any(a != b for a, b in zip(given, wanted) if None not in (a, b)):
        raise ValueError(message)
    symbolic = isinstance(sequences, keras.KerasTensor) or isinstance(mask, keras.KerasTensor)
    if None in (*wanted, *given) and not symbolic:
        import tensorflow as tf

        tf.debugging.assert_equal(tf.shape(mask), tf.shape(sequences)[:2], message)
    return mask


# What arguments of other packages are called here.
_DECAY = "`tau=1 / (1 - {0})` of `LIF(decay_input=False)`, or `decay` of `DecayLIF`, `DelayedLIF`"
_CURRENT = "`synaptic_decay` of `SynapticLIF`"
PEERS = {
    "alpha": _CURRENT,
    "beta": _DECAY.format("beta"),
    "init_tau": "`tau` of `ParametricLIF`",
    "learn_beta": "`ParametricLIF`",
    "learn_threshold": "`trainable_threshold`",
    "reset_mechanism": '`reset`, one of "hard" (zero), "soft" (subtract), "none"',
    "spike_grad": "`surrogate`",
    "step_mode": "nothing: layers take sequences (batch, time, ...), cells a step",
    "surrogate_function": "`surrogate`",
    "tau_mem": "`tau`, in steps: `tau_mem / dt`",
    "tau_mem_inv": "`tau`, in steps: `1 / (dt * tau_mem_inv)`",
    "tau_syn_inv": _CURRENT + ": `1 - dt * tau_syn_inv`",
    "thresh": "`threshold`",
    "v_leak": "`v_reset`",
    "v_rest": "`v_reset`",
    "v_th": "`threshold`",
    "v_threshold": "`threshold`",
}


def check_peers(owner, given):
    """An error for arguments that other packages have, which says what they are called here."""
    for name in given:
        if name in PEERS:
            raise TypeError(f"{owner} takes no argument `{name}`. Here that is {PEERS[name]}.")


def refuse_activity_regularizer(owner, *layers):
    """Raises a `ValueError` for layers within a loop over time that penalise their outputs.

    A loop calls them at each step, or goes around their `call`: the penalty would be wrong.
    """
    for layer in layers:
        if layer.activity_regularizer is not None:
            raise ValueError(
                f"{layer.name} has an `activity_regularizer` and is one step within {owner}. Give "
                "`activity_regularizer` to the layer that runs over time."
            )


def freeze(owner, *layers):
    """Freezes the layers within an `owner` that is made with `trainable=False`.

    Keras does so when `trainable` is set later, but not for what the constructor is given.
    """
    for layer in () if owner.trainable else layers:
        layer.trainable = False


def is_ours(cls):
    """Whether a class stands in this package, not in a user's code."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def register(cls):
    """Registers a class of this package with Keras; a user's is the user's to register."""
    return keras.saving.register_keras_serializable("keras_snn")(cls) if is_ours(cls) else cls


def _constructor(cls):
    """The class that `cls` has its constructor from, its named parameters, if it takes others."""
    owner = next(parent for parent in cls.__mro__ if "__init__" in parent.__dict__)
    parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes_others = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return owner, {p.name: p for p in parameters if p.kind in named}, takes_others


def arguments(cls, base):
    """Own and inherited keyword arguments of `cls` up to and with `base`, own ones first."""
    owner, parameters, takes_others = _constructor(cls)
    if takes_others and owner is not base:
        above = cls.__mro__[cls.__mro__.index(owner) + 1]
        inherited = arguments(above, base)
        parameters |= {name: p for name, p in inherited.items() if name not in parameters}
    return {name: p for name, p in parameters.items() if name not in getattr(cls, "without", ())}


class Configured:
    """A layer, loss, ... whose config is what its constructor takes.

    Classes of this package take their parents' arguments too. Of a user's class with a constructor
    of its own nobody knows which of these it fixes: its config has its own arguments, and of the
    inherited ones those that it was given.
    """

    # Arguments of its parents that a class does not take.
    without = ()

    def __new__(cls, *args, **kwargs):
        for name in cls.without:
            if name in kwargs:
                raise TypeError(f"{cls.__name__} takes no argument `{name}`.")
        if keras.backend.backend() == "torch":
            from keras_snn.kernels import torch_compile

            torch_compile.prepare()
        new = super().__new__
        made = new(cls) if new is object.__new__ else new(cls, *args, **kwargs)
        owner, own, _ = _constructor(cls)
        if not is_ours(owner):
            inherited = getattr(cls, "__signature__", None)
            inherited = inherited.parameters if inherited else arguments(cls, object)
            names = [*own, *(name for name in inherited if name not in own)]
            # Not for Keras to track: arguments may be layers.
            object.__setattr__(made, "_given", dict(zip(names, args)) | kwargs)
        return made

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not is_ours(cls) and "__init__" in vars(cls) and "get_config" not in vars(cls):
            cls.get_config = lambda self: self.accepted(super(cls, self).get_config())

    def accepted(self, config):
        """Of all that could be a config of this layer what its constructor takes."""
        owner, own, _ = _constructor(type(self))
        if is_ours(owner):
            return config
        later = OF_EVERY_LAYER if isinstance(self, keras.layers.Layer) else ()
        names = {*own, *self._given, *later}
        renamed = {
            name: getattr(self, name, self._given.get(name, parameter.default))
            for name, parameter in own.items()
            if name not in config
        }
        return {name: value for name, value in config.items() if name in names} | renamed

    @classmethod
    def from_config(cls, config):
        return super().from_config(config) if is_ours(cls) else construct(cls, config)


OF_EVERY_LAYER = ("name", "trainable", "dtype")


def construct(cls, config):
    """A layer with the arguments `config`; what no constructor takes is set afterwards."""
    owner, own, takes_others = _constructor(cls)
    # A user's constructor may fix a name, and take others nevertheless.
    passed = OF_EVERY_LAYER if is_ours(owner) else ("dtype",)
    later = [
        name
        for name in OF_EVERY_LAYER
        if name in config and name not in own and not (takes_others and name in passed)
    ]
    if not issubclass(cls, keras.layers.Layer):
        later = []
    layer = cls(**{name: value for name, value in config.items() if name not in later})
    for name in later:
        setattr(layer, "dtype_policy" if name == "dtype" else name, config[name])
    return layer
