"""The code of the README and of every page of the documentation runs as it stands."""

import ast
import functools
import importlib
import pathlib
import re
import types

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
        "model": keras_snn.applications.SpikingConvNet(
            input_shape=(32, 32, 3),
            classes=10,
            filters=[[8], [8]],
            neuron=keras_snn.layers.IF(threshold=0.1),  # no layer may be silent
        ),
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
def test_readme_installs_what_its_blocks_need():
    text = (ROOT / "README.md").read_text()
    extras = re.search(r'pip install -e "\.\[([\w,]+)\]"', text)[1].split(",")
    needed = {"data": 'load("digits"', "export": "export.to_tflite("}
    assert all(use in "".join(blocks(ROOT / "README.md")) for use in needed.values())
    assert {*needed} <= {*extras}


@pytest.mark.once
def test_readme_is_short_and_names_every_page():
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 150
    pages = {page.relative_to(ROOT).as_posix() for page in PAGES[1:]}
    assert pages - {"docs/index.md"} <= set(links(readme))


@functools.cache
def flags_of(program):
    """The flags that a program takes: its own, and those of modules beside it that it imports."""
    found, modules = set(), set()
    for node in ast.walk(ast.parse(program.read_text())):
        if isinstance(node, ast.Call) and "DEFINE_" in ast.unparse(node.func):
            found |= {argument.value for argument in node.args[:1] if hasattr(argument, "value")}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    beside = {program.with_name(f"{name}.py") for name in modules} - {program}
    return found.union(*(flags_of(path) for path in beside if path.exists()))


@pytest.mark.once
def test_commands_exist_with_their_flags():
    """Those of every page, tutorial and program: `python applications/train.py --epochs=3`."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    for folder, kind in (
        ("docs", "md"),
        ("docs", "py"),
        ("applications", "py"),
        ("benchmarks", "py"),
    ):
        pages += sorted((ROOT / folder).rglob(f"*.{kind}"))
    programs = [*(ROOT / "applications").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    known = set().union(*map(flags_of, programs)) | {"help"}
    commands, wrong = 0, []
    for page in pages:
        text = re.sub(r"\\\n\s*|\n#? +(?=--)", " ", page.read_text())
        for command in re.finditer(r"python ((?:app|bench)\w+/\w+\.py)([^\n`#|]*)", text):
            commands += 1
            program = ROOT / command[1]
            flags = flags_of(program) | {"help"} if program.exists() else set()
            given = re.findall(r"--(\w+)", command[2])
            wrong += [(page.name, command[0]) for flag in given or ["help"] if flag not in flags]
        if page.suffix == ".md":
            named = re.findall(r"`--(\w+)", text)
            wrong += [(page.name, flag) for flag in named if flag not in known]
    assert not wrong
    assert commands > 100


@pytest.mark.once
def test_the_reference_has_every_public_name():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    modules = map(importlib.import_module, re.findall(r"^::: (\S+)$", pages, re.M))
    shown = {id(vars(module)[name]) for module in modules for name in module.__all__}
    for package in keras_snn.__all__:
        module = getattr(keras_snn, package)
        public = {name: getattr(module, name) for name in module.__all__}
        kinds = (types.FunctionType, type)
        missing = [n for n, x in public.items() if isinstance(x, kinds) and id(x) not in shown]
        assert not missing, package
