"""The package as it is installed: what wheel and sdist have, and that the wheel works alone."""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import keras_snn

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and the wheel that is made of it."""
    for package in ("build", "hatchling"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra `test`)")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", f"--outdir={folder}", str(ROOT))
    return folder


@pytest.mark.once
def test_wheel_works_away_from_the_repository(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--no-compile", f"--target={tmp_path}", str(wheel))
    program = "import keras_snn; print(keras_snn.__file__, keras_snn.__version__); "
    program += "print(*(p.path.is_file() for p in keras_snn.applications.list_presets()))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "KERAS_BACKEND": "torch"}
    file, version, *presets = run(
        sys.executable, "-c", program, cwd=tmp_path, env=environment
    ).split()
    assert pathlib.Path(file) == tmp_path / "keras_snn" / "__init__.py"
    assert version == keras_snn.__version__
    assert presets and {*presets} == {"True"}


@pytest.mark.once
def test_wheel_and_sdist_have_all_files(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    listed = run("git", "ls-files", cwd=ROOT) if (ROOT / ".git").exists() else ""
    tracked = set(listed.splitlines())
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (metadata,) = (file.read(n).decode() for n in names if n.endswith("/METADATA"))
    assert {n for n in tracked if n.startswith("keras_snn/")} <= names
    assert all(n.startswith(("keras_snn/", "keras_snn-")) for n in names)
    assert f"\nVersion: {keras_snn.__version__}\n" in metadata
    assert {*re.findall("^Provides-Extra: (.+)$", metadata, re.M)} == {
        *PROJECT["optional-dependencies"]
    }
    with tarfile.open(sdist) as file:
        assert tracked <= {n.partition("/")[2] for n in file.getnames()}


@pytest.mark.once
def test_version_is_the_same_everywhere():
    version = keras_snn.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert first[1] == version


@pytest.mark.once
def test_messages_name_extras_that_exist():
    named = {}
    for path in [*(ROOT / "keras_snn").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text()
        extras = re.findall(r'install (?:-e )?"(?:keras-snn|\.)\[([\w,]+)\]"', text)
        extras += re.findall(r"\bextra `(\w+)`", text)
        named |= {extra: path for extras in extras for extra in extras.split(",")}
        assert not re.search(r"install (?:keras-snn|\.)\[", text), f"{path}: quotes, for zsh"
    assert "export" in named
    unknown = {e: p.name for e, p in named.items() if e not in PROJECT["optional-dependencies"]}
    assert not unknown
