"""The page that `analysis.report` writes: complete in itself, and of the values of the network."""

import base64
import html.parser
import json
import re

import keras
import numpy as np
import pytest

from keras_snn import analysis, layers

pytestmark = pytest.mark.once


class Reader(html.parser.HTMLParser):
    """Tags that are open, and the attributes of all."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes = [], []

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def model():
    x = inputs = keras.Input((6, 6, 1))
    x = layers.RepeatTime(5)(x)
    x = keras.layers.TimeDistributed(keras.layers.Conv2D(3, 3))(x)
    x = layers.IF(name="<maps>", threshold=0.5)(x)
    x = keras.layers.TimeDistributed(keras.layers.Flatten())(x)
    x = keras.layers.TimeDistributed(keras.layers.Dense(4))(x)
    x = layers.LIF(name="never", threshold=1e3)(x)
    x = keras.layers.TimeDistributed(keras.layers.Dense(2))(x)
    return keras.Model(inputs, layers.MeanOverTime()(x), name="small")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    keras.utils.set_random_seed(0)
    net, x = model(), np.random.default_rng(0).random((7, 6, 6, 1)).astype("float32")
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert analysis.report(net, (x, np.arange(7) % 2), path) == path
    return net, x, path.read_text()


def test_needs_nothing_else(page):
    reader = Reader()
    reader.feed(page[2])
    assert not reader.open
    for name, value in reader.attributes:
        assert name not in ("src", "href", "xlink:href") or value.startswith("#")
    assert "$" not in re.sub(r"\$\\mathdefault.*?\$", "", page[2])
    assert "<maps>" not in page[2] and "&lt;maps&gt;" in page[2]


def test_shows_the_spikes(page):
    net, x, text = page
    shown = json.loads(re.search(r"const spikes = (.*);", text)[1])
    recording = analysis.record(net, x[:1])
    assert len(shown) == 2
    maps = np.frombuffer(base64.b64decode(shown[0]["values"]), "uint8").reshape(5, 3, 4, 4)
    wanted = np.moveaxis(recording["<maps>"]["spikes"][0], -1, 1)
    wanted = wanted[:, np.argsort(-wanted.sum((0, 2, 3)), kind="stable")]
    assert 0 < wanted.mean() < 1
    np.testing.assert_array_equal(maps, 255 * wanted)
    assert not any(base64.b64decode(shown[1]["values"]))


def test_shows_rates_and_what_never_fires(page):
    net, x, text = page
    rate = analysis.firing_rates(net, x)["<maps>"]
    assert f"</span>{rate:.4f}</td>" in text
    assert "100% of the neurons of never never fire." in text
    assert "Accuracy over time" in text


def test_what_cannot_be_shown_is_refused(tmp_path):
    net, x = model(), np.ones((1, 6, 6, 1))
    with pytest.raises(ValueError, match=r"\.html"):
        analysis.report(net, x, tmp_path / "report.txt")
    with pytest.raises(ValueError, match=r"no layers \['relu'\]"):
        analysis.report(net, x, tmp_path / "report.html", layers=["relu"])
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no spiking layer"):
        analysis.report(plain, np.ones((1, 4)), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
