"""The page of what runs where says what running says."""

import importlib
import pathlib
import sys

import keras
import pytest

from keras_snn import layers as snn

pytest.importorskip("ai_edge_litert", reason="needs the extra `export`")
ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the work is TensorFlow's"),
    pytest.mark.skipif(
        not (ROOT / "docs/support.md").exists(), reason="`make support` writes the page"
    ),
]
# Layers, and the columns of theirs that are found anew here.
SAMPLE = {"IF": ("C int8",), "PSN": ("step",)}


@pytest.fixture
def support(monkeypatch):
    """`benchmarks/support.py`; its neighbour `common` is not that of `applications/`."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delitem(sys.modules, "common", raising=False)
    yield importlib.import_module("support")
    sys.modules.pop("common", None)


def test_page(support, monkeypatch):
    text = support.PAGE.read_text()
    rows = support.read(text)
    assert support.page(rows) == text
    layers = {name: make for group in support.networks().values() for name, make in group.items()}
    kinds = support.FILES
    for name, columns in SAMPLE.items():
        monkeypatch.setattr(support, "FILES", {column: kinds[column] for column in columns})
        model = support.build(layers[name])
        found = support.files(model) | {"fused": support.fused(model)}
        assert found == {column: rows[name][column] for column in found}


def test_every_public_layer_has_a_row(support):
    """Or is named as left out, with the row to look at; cells are in the rows of their layers."""
    rows = {name for group in support.networks().values() for name in group}
    classes = {name: getattr(snn, name) for name in snn.__all__ if not name.endswith("Cell")}
    public = {
        name
        for name, kind in classes.items()
        if isinstance(kind, type) and issubclass(kind, keras.layers.Layer)
    }
    assert len(public) > 50
    assert not public - rows - set(support.LEFT_OUT)
    assert not rows & set(support.LEFT_OUT)
    assert set(support.LEFT_OUT) <= public and set(support.LEFT_OUT.values()) <= rows
