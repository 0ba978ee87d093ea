"""What `help` and `dir` show of the package, and what users make of its classes."""

import importlib
import inspect
import pathlib
import pkgutil
import re
import typing

import keras
import numpy as np
import pytest
from helpers import to_numpy

import keras_snn
from keras_snn import layers, losses, metrics, regularizers
from keras_snn.utils import deprecation

pytestmark = pytest.mark.once

MODULES = [keras_snn, *(getattr(keras_snn, name) for name in keras_snn.__all__)]
CLASSES = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
    if inspect.isclass(getattr(module, name))
}
TITLES = ("Args:", "Attributes:", "Call arguments:", "Example:", "Raises:", "Returns:", "Source:")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_modules_say_what_they_have(module):
    assert module.__doc__ and len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert not inspect.ismodule(getattr(module, name)) or module is keras_snn


def test_layers_show_layers_only():
    shown = set(dir(layers))
    assert {"LIF", "LIFCell", "FoldTime", "get_neuron"} <= shown
    assert shown == set(layers.__all__)
    assert not any(inspect.ismodule(getattr(layers, name)) for name in shown)


@pytest.mark.parametrize("name", CLASSES)
def test_documentation_of_a_class(name):
    cls = CLASSES[name]
    lines = inspect.getdoc(cls).splitlines()
    titles = [next((t for t in TITLES if line.startswith(t)), None) for line in lines]
    found = [title for title in titles if title]
    assert len(set(found)) == len(found), found
    if "Source:" in found and "Args:" in found:
        assert found.index("Args:") < found.index("Source:")
    parameters = inspect.signature(cls).parameters
    documented = []
    if "Args:" not in found:  # a report that nobody makes by hand, or nothing to say
        assert not issubclass(cls, keras.layers.Layer)
        return
    start = titles.index("Args:") + 1
    end = next((i for i in range(start, len(lines)) if titles[i]), len(lines))
    for line in filter(None, lines[start:end]):
        entry = re.match(r" {4}(\S[\w*, ]*): ", line)
        assert entry or line.startswith(" " * 8), line
        documented += entry[1].split(", ") if entry else []
    assert len(set(documented)) == len(documented), documented
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    # Keras's `name` is among the `**kwargs` where a class changes its default only.
    named = {p.name for p in parameters.values() if p.kind not in kinds} - {"name"}
    if cls.__init__.__module__.startswith("keras.") and "kwargs" in documented:
        named = set()  # all are Keras's
    assert named <= set(documented)
    if not any(p.kind in kinds for p in parameters.values()):
        assert set(documented) - {"name"} == named


# Classes as users write them: their constructors fix, rename, add, leave out and pass on arguments.


class SoftCell(layers.LIFCell):
    def __init__(self, tau=2.0, **kwargs):
        super().__init__(tau=tau, reset="soft", **kwargs)


class RenamedCell(layers.LIFCell):
    def __init__(self, time_constant=2.0, **kwargs):
        super().__init__(tau=time_constant, **kwargs)


class FewCell(layers.LIFCell):
    def __init__(self, tau=2.0):
        super().__init__(tau=tau, threshold=0.5)


class GainCell(layers.LIFCell):
    def __init__(self, gain, *args, **kwargs):
        super().__init__(*args, threshold=0.5, **kwargs)
        self.gain = gain

    def charge(self, v, x):
        return super().charge(v, self.gain * x)


class LIFCell(layers.LIFCell):
    def charge(self, v, x):
        return v + x


class LIF(layers.Neuron, cell=LIFCell):
    """Called as one of ours."""


class Soft(layers.Neuron, cell=SoftCell):
    """With a cell that fixes an argument."""


class Renamed(layers.Neuron, cell=RenamedCell):
    """With a cell that renames one."""


class Few(layers.Neuron, cell=FewCell):
    """With a cell that takes nothing else."""


class Gain(layers.Neuron, cell=GainCell):
    """With a cell that adds one, and takes others by position."""


class FixedLIF(layers.LIF):
    def __init__(self, tau=3.0, **kwargs):
        super().__init__(tau=tau, reset="soft", **kwargs)


class FewLIF(layers.LIF):
    def __init__(self, tau=3.0):
        super().__init__(tau=tau, reset="soft")


class PassedLIF(layers.LIF):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, reset="soft", **kwargs)


USERS = [
    (LIF, (), {"threshold": 0.5}),
    (Soft, (3.0,), {"threshold": 0.5}),
    (Renamed, (), {"time_constant": 3.0}),
    (Few, (3.0,), {}),
    (Gain, (2.0, 3.0), {"decay_input": False}),
    (FixedLIF, (), {"tau": 4.0, "surrogate": "triangle"}),
    (FewLIF, (4.0,), {}),
    (PassedLIF, (4.0,), {"threshold": 0.5, "return_state": False}),
]


@pytest.mark.parametrize(("cls", "args", "kwargs"), USERS, ids=lambda case: str(case))
def test_users_classes_are_cloned_and_saved(cls, args, kwargs, tmp_path):
    layer = cls(*args, **kwargs)
    layer.trainable = False
    model = keras.Sequential([keras.Input((6, 3)), layer])
    x = np.random.default_rng(0).normal(1, 1, (2, 6, 3)).astype("float32")
    wanted = to_numpy(model(x))
    assert 0 < wanted.mean() < 1
    model.save(tmp_path / "model.keras")
    objects = {cls.__name__: cls}
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects=objects).layers[0]
    for found in (keras.models.clone_model(model).layers[0], layers.get_neuron(layer), loaded):
        assert type(found) is cls and not found.trainable
        np.testing.assert_array_equal(to_numpy(found(x)), wanted)
    assert loaded.name == layer.name


def fixing(parent, *args, **fixed):
    """A user's class with an argument of its own, which fixes some of its parent's."""

    class Fixed(parent):
        def __init__(self, mine=1, **kwargs):
            super().__init__(*args, **fixed, **kwargs)
            self.mine = mine

    return Fixed


def alone(parent, **fixed):
    """A user's class that takes nothing."""

    class Alone(parent):
        def __init__(self):
            super().__init__(**fixed)

    return Alone


# What a user's class may fix, and what is given to it.
OTHERS = {
    "readout": (fixing(layers.MembraneReadout, "max", tau=3.0), {"decay_input": False}),
    "alone": (alone(layers.MembraneReadout, mode="mean", name="mine"), {}),
    "name": (fixing(layers.MeanOverTime, name="mine"), {}),
    "votes": (fixing(layers.Voting, votes=3), {}),
    "fold": (fixing(layers.FoldTime, keras.layers.Dense(3, kernel_initializer="ones")), {}),
    "fold given": (fixing(layers.FoldTime), {"layer": keras.layers.ReLU()}),
    "repeat": (fixing(layers.RepeatTime, 2), {}),
    "dropout": (fixing(layers.TimeConstantDropout, 0.5), {"seed": 1}),
    "encoder": (fixing(layers.LatencyEncoder, mode="log"), {"timesteps": 3}),
    "tdBN": (fixing(layers.ThresholdDependentBatchNormalization, alpha=0.5), {"threshold": 2.0}),
    "BNTT": (fixing(layers.BatchNormalizationThroughTime, 6, epsilon=0.1), {"center": True}),
    "PSN": (fixing(layers.SlidingPSN, 2), {"surrogate": "triangle"}),
    "clip": (fixing(layers.ClipFloorShift, 4), {"maximum": 2.0}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_users_layers_are_cloned_and_saved(name, tmp_path):
    cls, kwargs = OTHERS[name]
    layer = cls(**kwargs) if name == "alone" else cls(2, **kwargs)
    model = keras.Sequential([keras.Input((6, 3)), layer])
    x = np.random.default_rng(0).normal(1, 1, (2, 6, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    objects = {cls.__name__: cls}
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects=objects).layers[0]
    wanted = to_numpy(layer(x))
    for found in (keras.models.clone_model(model).layers[0], loaded):
        assert type(found) is cls and getattr(found, "mine", 2) == 2 and found.name == layer.name
        np.testing.assert_array_equal(to_numpy(found(x)), wanted)
        assert found.get_config() == layer.get_config()


LOSSES = (
    losses.TemporalMeanCrossentropy,
    losses.TemporalEfficientCrossentropy,
    losses.SpikeCountLoss,
    losses.MaxMembraneCrossentropy,
    losses.FirstSpikeCrossentropy,
    metrics.SpikeRate,
    metrics.TemporalMeanAccuracy,
    metrics.TimeToDecision,
)


@pytest.mark.parametrize("parent", LOSSES)
def test_users_losses_and_metrics_are_saved(parent):
    package, given = keras.losses, {"reduction": "sum"}
    if issubclass(parent, keras.metrics.Metric):
        package, given = keras.metrics, {"dtype": "float64"}
    for cls in (fixing(parent, name="mine"), alone(parent, name="mine")):
        arguments = given | {"mine": 2} if cls.__name__ == "Fixed" else {}
        made = cls(**arguments)
        again = package.deserialize(package.serialize(made), {cls.__name__: cls})
        assert type(again) is cls and again.name == "mine"
        assert again.get_config() == made.get_config() == arguments


def test_users_penalties_are_saved():
    cls = fixing(regularizers.RateRegularizer, strength=3.0)
    made = cls(2, minimum=0.3)
    again = keras.regularizers.deserialize(
        keras.regularizers.serialize(made), custom_objects={"Fixed": cls}
    )
    assert (again.mine, again.strength, again.minimum) == (2, 3.0, 0.3)


def test_users_classes_take_no_name_of_ours():
    assert keras.saving.get_registered_object("keras_snn>LIF") is layers.LIF
    assert keras.saving.get_registered_object("keras_snn>LIFCell") is layers.LIFCell
    assert keras.saving.get_registered_name(LIF) == "LIF"
    model = keras.Sequential([keras.Input((4, 3)), layers.LIF()])
    assert type(keras.Sequential.from_config(model.get_config()).layers[0]) is layers.LIF


def test_every_class_of_ours_is_registered():
    """Under the names that files have."""
    bases = (layers.NeuronCell, layers.SpikingCell, layers.Neuron)
    for name in layers.__all__:
        cls = getattr(layers, name)
        if inspect.isclass(cls) and cls not in bases:
            assert keras.saving.get_registered_object(f"keras_snn>{cls.__name__}") is cls


@pytest.mark.parametrize("old", deprecation.RENAMED)
def test_old_names_work_and_warn(old):
    with pytest.warns(DeprecationWarning, match=f"`{old}` is now"):
        module, _, name = old.rpartition(".")
        found = getattr(importlib.import_module(module), name)
    assert found is pkgutil.resolve_name(deprecation.RENAMED[old])


@pytest.mark.parametrize("old", deprecation.MODULES)
def test_old_modules_work_and_warn(old):
    new = importlib.import_module(deprecation.MODULES[old])
    functions = (name for name, value in vars(new).items() if inspect.isfunction(value))
    name = next(name for name in functions if not name.startswith("_"))
    with pytest.warns(DeprecationWarning, match=f"`{old}` is now"):
        assert getattr(importlib.import_module(old), name) is getattr(new, name)


@pytest.mark.parametrize("module", ["dynamics", "datasets", "datasets.events"])
def test_functions_have_type_hints(module):
    assert pathlib.Path(keras_snn.__file__).with_name("py.typed").is_file()
    module = importlib.import_module(f"keras_snn.{module}")
    functions = [getattr(module, name) for name in module.__all__]
    functions = [function for function in functions if inspect.isfunction(function)]
    assert functions
    for function in functions:
        hints = typing.get_type_hints(function)
        assert {*inspect.signature(function).parameters, "return"} <= {*hints}, function
