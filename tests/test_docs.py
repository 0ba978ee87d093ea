"""The code of the README and of every page of the documentation runs as it stands."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_snn

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs/results/README.md"]
# Pages whose blocks say all that they need; the others speak of a model and data that you have.
COMPLETE = {"README", "index", "concepts", "extending", "moving", "neurons", "troubleshooting"}


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def yours():
    """A model and data, which pages speak of."""
    rng = np.random.default_rng(0)
    return {
        "keras": keras,
        "model": keras_snn.applications.SEWResNet8(input_shape=(32, 32, 3), classes=10),
        "images": rng.normal(size=(16, 32, 32, 3)).astype("float32"),
        "labels": np.arange(16) % 10,
        "state_dict": {"fc.weight": np.ones((10, 512)), "fc.bias": np.zeros(10)},
    }


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.stem)
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are TensorFlow's work")
def test_code_of_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {} if page.stem in COMPLETE else yours()
    for block in blocks(page):
        for peer in re.findall(r"^(?:import|from) (snntorch|spikingjelly|norse)", block, re.M):
            pytest.importorskip(peer, exc_type=ImportError)
        exec(compile(block, page.name, "exec"), names)


def links(page):
    return re.findall(r"""(?:\]\(|src(?:set)?=")([^)"#\s]+)""", page.read_text())


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    missing = [to for to in links(page) if "://" not in to and not (page.parent / to).exists()]
    assert not missing


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_are_light_and_dark(page):
    """GitHub and the site show `x.png` or `dark_x.png`, as the reader has it."""
    text = page.read_text()
    pictures = set(re.findall(r"[\w/]+/(\w+)\.png", text))
    light = {name for name in pictures if not name.startswith("dark_")}
    assert pictures - light == {f"dark_{name}" for name in light}
    if page.suffix == ".md" and page.stem != "README":
        for name in pictures:
            end = "dark" if name.startswith("dark_") else "light"
            assert f"{name}.png#gh-{end}-mode-only)" in text


@pytest.mark.once
def test_readme_is_short_and_names_every_page():
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 150
    pages = {page.relative_to(ROOT).as_posix() for page in PAGES[1:]}
    assert pages - {"docs/index.md"} <= set(links(readme))
