"""Arguments of layers: checks, and signatures and docstrings put together from several classes."""

import inspect
import textwrap

import keras
import numpy as np

TITLES = ("Args:", "Call arguments:", "Example:", "Raises:", "Returns:", "Source:")


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


def freeze(owner, *layers):
    """Freezes the layers within an `owner` that is made with `trainable=False`.

    Keras does so when `trainable` is set later, but not for what the constructor is given.
    """
    for layer in () if owner.trainable else layers:
        layer.trainable = False


def arguments(cls, base):
    """Own and inherited keyword arguments of `cls` up to and with `base`, own ones first."""
    found = {}
    for parent in cls.__mro__:
        init = parent.__dict__.get("__init__")
        for parameter in list(inspect.signature(init).parameters.values())[1:] if init else []:
            if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
                found.setdefault(parameter.name, parameter)
        if parent is base:
            return found
    return found


def sections(doc):
    """A docstring in three: the text before its `Args:`, the arguments, the text after."""
    lines = inspect.cleandoc(doc or "").split("\n")
    titles = [i for i, line in enumerate(lines) if line in TITLES] + [len(lines)]
    head, arguments, tail = lines[: titles[0]], [], lines[titles[0] :]
    if tail and tail[0] == "Args:":
        arguments, tail = lines[titles[0] + 1 : titles[1]], lines[titles[1] :]
    arguments = textwrap.dedent("\n".join(arguments)).strip().split("\n**kwargs")[0]
    return "\n".join(head).strip(), arguments, "\n".join(tail)


def argument_docs(cls, base):
    """The documentation of own and inherited arguments of `cls` up to and with `base`."""
    classes = cls.__mro__[: cls.__mro__.index(base) + 1]
    texts = [sections(c.__dict__.get("_own_doc", c.__doc__))[1] for c in classes]
    return "\n".join(text for text in texts if text and not text.startswith("**"))


def describe(cls, arguments, documentation, tail=""):
    """Registers a class with Keras and gives it a full signature and docstring."""
    keras.saving.register_keras_serializable(package="keras_snn")(cls)
    kwargs = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
    cls.__signature__ = inspect.Signature([*arguments.values(), kwargs])
    cls._own_doc = cls.__doc__
    if cls.__doc__:
        head, _, own_tail = sections(cls.__doc__)
        documentation += "\n**kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...)."
        parts = (head, "Args:\n" + textwrap.indent(documentation, "    "), tail, own_tail)
        cls.__doc__ = "\n\n".join(part.strip("\n") for part in parts if part)
