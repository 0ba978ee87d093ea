"""The tutorials run: each in small, with fewer epochs and examples."""

import json
import os
import pathlib
import re

import keras
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "tutorials"
# The values of each program's parameters here, and the backend that runs it in least time.
SMALL = {
    "01_first_network": {"EPOCHS": 1},
    "02_surrogate_gradients": {"EPOCHS": 1, "WIDTHS": [2.0]},
    "03_trained_network": {"EPOCHS": 1, "EXAMPLES": 20},
    "04_event_camera": {"EPOCHS": 1, "EXAMPLES": 64},
    "05_speech": {"CLIPS": 4},
    "06_from_ann": {"EPOCHS": 1, "TIMESTEPS": 8, "TUNING": 1},
    "07_energy": {"EXAMPLES": 32},
    "08_microcontroller": {"EXAMPLES": 32},
    "09_own_neuron": {"EPOCHS": 1, "STEPS": 10},
    "10_own_network": {"EPOCHS": 1},
    "11_devices_and_precision": {"EPOCHS": 1, "FILTERS": ((4,),)},
    "12_regression": {"EPOCHS": 1, "TIMES": 2},
}
BACKENDS = {"05_speech": "tensorflow", "08_microcontroller": "tensorflow"}  # which write files
BACKENDS |= {"11_devices_and_precision": "jax"}


def source(name):
    """The program with these values."""
    text = (FOLDER / f"{name}.py").read_text()
    for parameter, value in SMALL[name].items():
        text, count = re.subn(rf"^{parameter} = .+$", f"{parameter} = {value}", text, flags=re.M)
        assert count == 1, f"{name} has no parameter {parameter}"
    return text


@pytest.mark.parametrize("name", SMALL)
def test_tutorial_runs(name, tmp_path, monkeypatch):
    if keras.backend.backend() != BACKENDS.get(name, "torch"):
        pytest.skip("runs on another backend")
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib: extra `plot`")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    for variable in ("KERAS_BACKEND", "XLA_FLAGS"):  # what one of them sets, is undone
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    policy = keras.config.dtype_policy()
    try:
        exec(compile(source(name), name, "exec"), {"__name__": name})
    finally:
        pyplot.close("all")
        keras.config.set_dtype_policy(policy)


@pytest.mark.once
def test_every_tutorial_is_run_listed_and_rendered():
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == set(SMALL)
    page = (FOLDER.parent / "tutorials.md").read_text()
    navigation = (FOLDER.parents[1] / ".mkdocs.yml").read_text()
    for name in names:
        assert f"(tutorials/{name}.md)" in page and f"tutorials/{name}.md" in navigation
        assert (FOLDER / f"{name}.ipynb").is_file()
        rendered = (FOLDER / f"{name}.md").read_text()
        notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
        cells = re.split(r"^# %%(.*)\n", (FOLDER / f"{name}.py").read_text(), flags=re.M)[1:]
        for kind, text, cell in zip(cells[::2], cells[1::2], notebook, strict=True):
            text = text.strip()
            if "markdown" in kind:
                text = re.sub(r"^# ?", "", text, flags=re.M).strip()
            assert text == "".join(cell["source"]).strip(), f"{name}.ipynb is old: make tutorials"
            assert text in rendered, f"{name}.md is old: make tutorials"
