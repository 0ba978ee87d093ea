"""Docstrings and signatures put together from several classes or functions."""

import inspect
import re
import textwrap

from keras_snn.utils.arguments import register

TITLES = ("Args:", "Call arguments:", "Example:", "Raises:", "Returns:", "Source:")


def sections(doc):
    """A docstring in three: the text before its `Args:`, the arguments, the text after."""
    lines = inspect.cleandoc(doc or "").split("\n")
    titles = [i for i, line in enumerate(lines) if line.startswith(TITLES)] + [len(lines)]
    start = end = titles[0]
    if "Args:" in lines:
        start = lines.index("Args:")
        end = titles[titles.index(start) + 1]
    arguments = textwrap.dedent("\n".join(lines[start + 1 : end])).strip().split("\n**kwargs")[0]
    return "\n".join(lines[:start]).strip(), arguments, "\n".join(lines[end:])


def argument_docs(cls, base):
    """The documentation of own and inherited arguments of `cls` up to and with `base`."""
    classes = cls.__mro__[: cls.__mro__.index(base) + 1]
    texts = [sections(c.__dict__.get("_own_doc", c.__doc__))[1] for c in classes]
    entries = [entry for text in texts for entry in entries_of(text) if not entry.startswith("**")]
    # Of an argument that a class takes as its parent does, the class's own words.
    unique = {}
    for entry in entries:
        unique.setdefault(entry.partition(":")[0], entry)
    for name in cls.without:
        unique.pop(name, None)
    return "\n".join(unique.values())


def entries_of(text):
    """The entries of an `Args:` section: each is a line and those indented under it."""
    return re.split(r"\n(?! )", text) if text else []


def describe(cls, arguments, documentation, tail=""):
    """Registers a class of ours with Keras and gives any a full signature and docstring."""
    register(cls)
    kwargs = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
    positional = (p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in arguments.values())
    ordered = sorted(positional, key=lambda p: p.default is not p.empty)
    cls.__signature__ = inspect.Signature([*ordered, kwargs])
    cls._own_doc = cls.__doc__
    if cls.__doc__:
        head, _, own_tail = sections(cls.__doc__)
        documentation += "\n**kwargs: Those of `keras.layers.Layer` (`name`, `dtype`, ...)."
        parts = (head, "Args:\n" + textwrap.indent(documentation, "    "), tail, own_tail)
        cls.__doc__ = "\n\n".join(part.strip("\n") for part in parts if part)
