"""Fixtures for every test; one process runs one Keras backend, see `KERAS_BACKEND`.

JAX has two. `TESTS=optimized` runs the modules of `OPTIMIZED` and tests marked `optimized` under
the settings that users have; `TESTS=others` runs the others, which are compiled in less time.
"""

import gc
import importlib
import os
import sys
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Four processes share the machine's cores: more threads would mostly wait for each other, busily.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("NPROC", "1")  # XLA's
# TensorFlow's default on newer processors only; without, it has no `channels_first`.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
if os.environ.get("TESTS") == "others":
    # XLA compiles in two thirds of the time without these, which make quicker code.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import keras
import pytest

# Modules for which the code that XLA makes with its default settings matters.
OPTIMIZED = [
    "applications",
    "builder",
    "convolution",
    "export",
    "fused",
    "keras_export",
    "memory",
    "small",
]


def pytest_configure(config):
    config.addinivalue_line("markers", "once: not for each backend; `ALL_BACKENDS=1` does so")
    config.addinivalue_line("markers", "optimized: on JAX with the settings that users have")


def pytest_collection_modifyitems(config, items):
    """What does not depend on the backend is left to the quickest process."""
    keep = items
    if part := os.environ.get("TESTS"):
        keep = [item for item in keep if is_optimized(item) == (part == "optimized")]
    if keras.backend.backend() != "torch" and "ALL_BACKENDS" not in os.environ:
        keep = [item for item in keep if not is_run_once(item)]
    config.hook.pytest_deselected(items=list(set(items) - set(keep)))
    items[:] = keep


def is_optimized(item):
    """Whether a test runs under the settings that users have, on JAX."""
    known = item.path.stem.removeprefix("test_") in OPTIMIZED
    return known or item.get_closest_marker("optimized") is not None


def is_run_once(item):
    """Whether a test is marked so, or builds a whole network for its documentation."""
    example = isinstance(item, pytest.DoctestItem) and "applications" in item.path.parts
    return example or item.get_closest_marker("once")


@pytest.fixture(autouse=True)
def _same_seed():
    """Every test starts from the same random state, that of peers on PyTorch included."""
    keras.utils.set_random_seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _compilation():
    """In the process of `TESTS=others` JAX's compiler optimises only what it must.

    Four processes share the machine's memory: compiled functions of a module go.
    """
    if keras.backend.backend() == "jax" and os.environ.get("TESTS") == "others":
        sys.modules["jax"].config.update("jax_disable_most_optimizations", True)
    keras.utils.set_random_seed(0)  # imports TensorFlow
    gc.freeze()  # what imports made stays, and need not be searched
    yield
    keras.backend.clear_session()
    gc.collect()
    if keras.backend.backend() == "jax":
        sys.modules["jax"].clear_caches()


@pytest.fixture
def large_models():
    """For tests of whole networks: these go after each test."""
    yield
    keras.backend.clear_session()
    gc.collect()


class _StandIn(types.ModuleType):
    """A module with any name that is asked for."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in: SpikingJelly imports torchvision for downloads."""
    parts = ("", ".datasets", ".datasets.utils", ".models", ".models.utils", ".transforms")
    for name in (*(f"torchvision{part}" for part in parts), "torchaudio"):
        monkeypatch.setitem(sys.modules, name, _StandIn(name))


@pytest.fixture
def tonic(monkeypatch):
    """Tonic, without what it imports for other files and for sound."""
    for name in ("importRosbag", "importRosbag.importRosbag", "librosa", "expelliarmus"):
        monkeypatch.setitem(sys.modules, name, _StandIn(name))
    return pytest.importorskip("tonic", exc_type=ImportError)


@pytest.fixture
def zoo(torchvision):
    """SpikingJelly's models."""
    pytest.importorskip("torch")
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed (extra `peers`)")
    from spikingjelly import activation_based as peer
    from spikingjelly.activation_based import functional, neuron, surrogate

    models = ("ms_resnet", "sew_resnet", "spiking_resnet", "spiking_vgg")
    models += ("spikformer", "qkformer", "spike_driven_transformer", "maxformer")
    found = {name: importlib.import_module(f"{peer.__name__}.model.{name}") for name in models}
    return types.SimpleNamespace(functional=functional, neuron=neuron, surrogate=surrogate, **found)


def pytest_report_header():
    return f"keras {keras.__version__}, backend {keras.backend.backend()}"
