"""How griffe sees classes and values, for the reference of the site."""

import inspect

import griffe


def written(value):
    """A default as it stands in code, functions by their names."""
    if value is inspect.Parameter.empty:
        return None
    name = getattr(value, "__name__", None)
    return repr(value) if name is None else "..." if name == "<lambda>" else name


class Seen(griffe.Extension):
    """Classes have the arguments that `help` shows; values are not described by their type."""

    def on_class_members(self, *, node, cls, **kwargs):
        """Called for each class, once its members are known."""
        if not isinstance(node, griffe.ObjectNode):
            return
        try:
            arguments = inspect.signature(node.obj).parameters.values()
        except (TypeError, ValueError):  # classes of C
            return
        kinds = griffe.ParameterKind
        parameters = griffe.Parameters(
            griffe.Parameter("self", kind=kinds.positional_or_keyword),
            *(
                griffe.Parameter(
                    argument.name,
                    kind=kinds[argument.kind.name.lower()],
                    default=written(argument.default),
                )
                for argument in arguments
            ),
        )
        cls.set_member("__init__", griffe.Function("__init__", parameters=parameters))

    def on_attribute_instance(self, *, node, attr, **kwargs):
        """Called for each attribute. Of `dict() -> new empty dictionary` nobody learns anything."""
        value = getattr(node, "obj", None)  # properties have docstrings of their own
        if inspect.getdoc(value) == inspect.getdoc(type(value)):
            attr.docstring = None
