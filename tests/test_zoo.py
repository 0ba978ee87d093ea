"""The list of models says what models are."""

import keras
import pytest

from keras_snn import applications
from keras_snn.applications import list_models, summarize

GMACS = {  # of the papers' tables, per step
    "SEWResNet18": 1.814,
    "SEWResNet34": 3.664,
    "SEWResNet50": 4.089,
    "SEWResNet101": 7.801,
    "SEWResNet152": 11.514,
}
QUICK = ["ConversionVGG9", "SEW7BNet", "SpikingResNet50", "TDBNResNet19", "MSResNet18", "DANet18"]


def test_every_model_is_listed():
    names = [name for family in applications.FAMILIES for name in family.__all__]
    assert [model.name for model in list_models()] == names
    assert all(hasattr(applications, name) for name in names)


def test_macs_of_the_papers():
    found = {model.name: round(model.macs / 1e9, 3) for model in list_models()}
    assert {name: found[name] for name in GMACS} == GMACS
    assert round(summarize(applications.TDBNResNet19(classes=10)).macs / 1e9, 3) == 2.216


@pytest.mark.parametrize("name", QUICK)
def test_the_list_is_true(name):
    (listed,) = list_models(name)
    assert summarize(getattr(applications, name)(), name) == listed


def test_counts_by_hand():
    inputs = keras.Input((8, 6, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    summary = summarize(model)
    assert summary.macs == 4 * 3 * (3 * 3 * 3 * 4) + 4 * 3 * 4 * 5
    assert summary.parameters == 3 * 3 * 3 * 4 + 4 + 48 * 5 + 5
    assert (summary.input_shape, summary.classes, summary.neuron_layers) == ((8, 6, 3), 5, 0)


def test_table_and_errors():
    lines = str(list_models("SEWResNet1*")).splitlines()
    assert len(lines) == 4 and lines[0].split()[:3] == ["model", "input", "classes"]
    assert "11,689,512" in lines[1] and "224x224x3" in lines[1]
    with pytest.raises(ValueError, match="'ResNext'"):
        list_models("ResNext")
