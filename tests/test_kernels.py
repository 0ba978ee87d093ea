"""The way to a kernel: what an import registers, how few calls lead from `fit` to a neuron's."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import to_numpy

from keras_snn import applications, layers
from keras_snn.kernels import spec

ON_TORCH = keras.backend.backend() == "torch"

IMPORT = """
import warnings
import keras, torch, numpy as np

def fail(*args, **options):
    raise TypeError("Signature mismatch")

def operations():
    names = torch._C._dispatch_get_all_op_names()
    return sorted({name.split(".")[0] for name in names if name.startswith("keras_snn")})

torch.compiler.substitute_in_graph = torch.library.define = fail
sizes, kept = [], (np.empty, np.zeros)
np.empty, np.zeros = (
    lambda *a, f=f, **k: (y := f(*a, **k), sizes.append(y.nbytes))[0] for f in kept
)
with warnings.catch_warnings(action="error"):
    import keras_snn
np.empty, np.zeros = kept
print(max(sizes, default=0) < 2**16, operations())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    layer = keras_snn.layers.LIF()
    spikes = layer(np.full((1, 40, 2), 1.5, "float32"))
told = [str(w.message) for w in caught if "PyTorch's compiler" in str(w.message)]
print(float(spikes.sum()), sum("Signature mismatch" in text for text in told), operations())
"""


@pytest.mark.once
@pytest.mark.skipif(not ON_TORCH, reason="the PyTorch backend's own")
def test_imports_allocate_and_register_nothing_and_changed_hooks_are_warnings():
    """LIF at 1.5 fires at every other step: 20 spikes of each neuron in 40 steps."""
    found = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.splitlines() == ["True []", "40.0 6 []"]


def is_ours(frame):
    return frame.f_globals.get("__name__", "").startswith("keras_snn.")


@pytest.mark.skipif(not ON_TORCH, reason="other backends trace a network once")
def test_few_calls_lead_from_fit_to_a_kernel():
    """Counted: Python calls of functions of keras_snn, and those of them that are on the stack."""
    from keras_snn.kernels.torch import InPlace

    model = applications.SEWResNet8(input_shape=(8, 8, 1), classes=3, timesteps=2)
    model.compile("sgd", "mse")
    data = np.ones((2, 8, 8, 1), "float32"), np.zeros((2, 3), "float32")
    model.fit(*data, verbose=0)
    made, walks = [], []

    def profile(frame, event, _):
        if event != "call" or not is_ours(frame):
            return
        if frame.f_code is layers.SpikingRNN.call.__code__ and walks:
            made.clear()  # the first walk starts with `fit`, others with the neuron's layer
        made.append(frame)
        if frame.f_code is InPlace.forward.__code__:
            on_stack = 0
            while frame := frame.f_back:
                on_stack += is_ours(frame)
            walks.append((len(made), on_stack))

    sys.setprofile(profile)
    try:
        model.fit(*data, verbose=0)
    finally:
        sys.setprofile(None)
    assert len(walks) == 9  # neurons of the network
    assert max(calls for calls, _ in walks) <= 20
    assert max(on_stack for _, on_stack in walks) <= 5


class Halving(layers.SpikingCell):
    """A neuron of a user, `h = v / 2 + x`."""

    def charge(self, v, x):
        return v / 2 + x


def test_old_names_of_the_linear_charge():
    with pytest.warns(DeprecationWarning, match=r"Old\.form.*linear_charge"):

        class Old(Halving):
            def charge(self, v, x):
                return v / 2 + x

            def form(self):
                return spec.Decay(0.5)

    with pytest.warns(DeprecationWarning, match="keras_snn.kernels.spec"):
        from keras_snn.layers.fused import Decay
    assert Decay is spec.Decay
    cell = Old()
    with pytest.warns(DeprecationWarning, match="fused_spec"):
        assert cell.fused()[0] == spec.Decay(0.5)
    with pytest.warns(DeprecationWarning, match="linear_charge"):
        assert layers.IFCell().form() == spec.Decay()
    assert Halving().fused_spec() is None
    x = np.array([0.75, 0.75, 0.75, 0.75], "float32")[None, :, None]
    for each in (cell, Halving()):  # charged to 0.75, 1.125, 0.75, 1.125
        assert to_numpy(layers.SpikingRNN(each)(x)).ravel().tolist() == [0, 1, 0, 1]


STARTED = {
    "tensorflow": (
        "from tensorflow.python.eager import context; print(context.context()._initialized)"
    ),
    "jax": "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())",
}


@pytest.mark.skipif(keras.backend.backend() not in STARTED, reason="PyTorch starts nothing")
def test_an_import_starts_no_backend():
    """Threads of a backend that has started do not survive a fork: children would wait forever."""
    program = f"import keras_snn\n{STARTED[keras.backend.backend()]}"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "False\n", found.stderr[-2000:]
