"""Names of an earlier release: each works for one more release, and warns.

`RENAMED` is the one list of them. A module that had such a name says
`__getattr__ = renamed(__name__)`; a module that was moved can be imported from its old place.
"""

import pkgutil
import sys
import types
import warnings

# New names by the old ones. A colon ends the module where its package has a function of its name.
RENAMED = {
    "keras_snn.applications.summarize": "keras_snn.applications.model_list:_summarize",
    "keras_snn.conversion.AccuracyOverTime": "keras_snn.analysis.AccuracyOverTime",
    "keras_snn.conversion.ProgressiveTandem": "keras_snn.training.ProgressiveTandem",
    "keras_snn.conversion.Tandem": "keras_snn.training.Tandem",
    "keras_snn.conversion.accuracy_over_time": "keras_snn.analysis.accuracy_over_time",
    "keras_snn.conversion.finish_tandem": "keras_snn.training.to_spiking:to_spiking",
    "keras_snn.conversion.tandem": "keras_snn.training.tandem:tandem",
    "keras_snn.joint": "keras_snn.training.joint",
    "keras_snn.layers.neuron_names": "keras_snn.layers.list_neurons",
    "keras_snn.losses.MembraneRegularizer": "keras_snn.regularizers.MembraneRegularizer",
    "keras_snn.losses.RateRegularizer": "keras_snn.regularizers.RateRegularizer",
    "keras_snn.losses.every_step": "keras_snn.training.every_step:every_step",
    "keras_snn.surrogates.names": "keras_snn.surrogates.list_surrogates",
    "keras_snn.training.joint.finish": "keras_snn.training.to_spiking:to_spiking",
    "keras_snn.training.tandem.finish_tandem": "keras_snn.training.to_spiking:to_spiking",
}
MODULES = {
    "keras_snn.analysis.over_time": "keras_snn.analysis.accuracy",
    "keras_snn.analysis.profiling": "keras_snn.analysis.counting",
    "keras_snn.conversion.tandem": "keras_snn.training.tandem",
    "keras_snn.files": "keras_snn.utils.files",
    "keras_snn.joint": "keras_snn.training.joint",
    "keras_snn.layers.fused": "keras_snn.kernels.spec",
    "keras_snn.layers.arguments": "keras_snn.utils.arguments",
}


def warn(old, new, stacklevel=3):
    """Warns the caller of our caller that `old` is now called `new`."""
    warnings.warn(
        f"`{old}` is now `{new.replace(':', '.')}`. The old name goes with the next release.",
        DeprecationWarning,
        stacklevel,
    )


def renamed_argument(owner, kwargs, old, new, value):
    """The value of an argument that may still be given by its old name.

    Args:
        owner: The object whose constructor calls this.
        kwargs: Its other keyword arguments; `old` is taken out of them.
        old: The old name.
        new: The new name.
        value: Value that was given by the new name, or the default.

    Returns:
        The value.
    """
    if old not in kwargs:
        return value
    kind = type(owner).__name__
    warn(f"{kind}({old}=...)", f"{kind}({new}=...)", stacklevel=4)
    return kwargs.pop(old)


def renamed(module):
    """The `__getattr__` of a module that had names which are in `RENAMED`."""

    def find(name):
        old = f"{module}.{name}"
        if old not in RENAMED:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(old, RENAMED[old])
        return pkgutil.resolve_name(RENAMED[old])

    return find


class _MovedModule(types.ModuleType):
    """Stands where a module was, and has the names of the one that is elsewhere now."""

    def __getattr__(self, name):
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        new = MODULES[self.__name__]
        warn(self.__name__, new)
        return pkgutil.resolve_name(f"{new}:{name}")


sys.modules.update({old: _MovedModule(old) for old in MODULES})
