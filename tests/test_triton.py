"""The Triton kernels give the spikes and gradients of the loop.

Without a GPU they run in Triton's interpreter, and are compiled, but not run, for one. Triton isn't
among what the tests install (it is large); where it is missing, they are skipped.
"""

import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from test_fused import NEURONS, RESETS

from keras_snn import layers, surrogates

if keras.backend.backend() != "torch":
    pytest.skip("Triton serves the PyTorch backend", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed (`pip install triton`)")
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read where kernels are defined
from keras_snn.kernels import spec, tuning  # noqa: E402
from keras_snn.kernels import torch as kernel  # noqa: E402
from keras_snn.kernels import triton as kernels  # noqa: E402


def tensor(*shape, mean=0.6, seed=0):
    values = np.random.default_rng(seed).normal(mean, 1, shape)
    return torch.tensor(values, dtype=torch.float32, device=DEVICE)


def run(implementation, layer, x, gs, gv, v, monkeypatch):
    """Spikes, last potential, and gradients to currents, first potential and weights."""
    monkeypatch.setattr(kernel, "implementation", lambda x: implementation)
    layer.return_state = True
    x, v = x.detach().requires_grad_(), v.detach().requires_grad_()
    spikes, last = layer(x, initial_state=[v])
    watched = [x, v, *(w.value for w in layer.trainable_variables)]
    gradients = torch.autograd.grad([spikes, last], watched, [gs, gv])
    with torch.no_grad():
        silent = layer(x, initial_state=[v])
    assert torch.equal(silent[0], spikes) and torch.equal(silent[1], last)
    return spikes, last, gradients


def compare(layer, x, monkeypatch, gs=None):
    gs = tensor(*x.shape, mean=0, seed=1) if gs is None else gs
    gv, v = (tensor(x.shape[0], *x.shape[2:], mean=0, seed=seed) for seed in (2, 3))
    arguments = layer, x, gs, gv, v, monkeypatch
    spikes, last, gradients = run(kernels, *arguments)
    wanted = run(kernel.InPlace, *arguments)
    assert 0.02 < spikes.mean() < 0.98
    assert torch.equal(spikes, wanted[0]) and torch.equal(last, wanted[1])
    for a, b in zip(gradients, wanted[2], strict=True):
        scale = max(1, b.abs().max().item())  # those to weights are sums, of terms around 1
        assert b.any()
        np.testing.assert_allclose(a.cpu(), b.cpu(), rtol=1e-6, atol=1e-6 * scale)
    layer.use_fused = False  # and what all are measured by
    assert torch.equal(layer(x, initial_state=[v])[0], spikes)


@pytest.mark.parametrize("reset", RESETS, ids=str)
@pytest.mark.parametrize("name", [name for name in NEURONS if name != "GainLIF"])
def test_kernels_are_the_loop(name, reset, monkeypatch):
    layer = getattr(layers, name.split(",")[0])(**(NEURONS[name] | reset))
    compare(layer, tensor(3, 6, 5), monkeypatch)


@pytest.mark.parametrize("sharing", ["scalar", "channel", "neuron"])
@pytest.mark.parametrize("name", ["IF", "ParametricLIF"])
@pytest.mark.parametrize("detach", [True, False])
def test_learned_parameters(name, sharing, detach, monkeypatch):
    layer = getattr(layers, name)(
        trainable_threshold=True, parameter_shape=sharing, reset="soft", detach_reset=detach
    )
    layer.build((2, 7, 3, 4))
    rng = np.random.default_rng(5)
    for weight in layer.trainable_variables:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    compare(layer, tensor(2, 7, 3, 4), monkeypatch)


@pytest.mark.parametrize("name", surrogates.list_surrogates())
def test_surrogates(name, monkeypatch):
    compare(layers.LIF(surrogate=name, detach_reset=False), tensor(2, 5, 6), monkeypatch)


@pytest.mark.parametrize("surrogate", list(kernels.SLOPES))
def test_derivatives_in_the_kernel(surrogate, monkeypatch):
    (parameter,) = surrogate().get_config()
    surrogate = surrogate(**{parameter: 0.7})
    compare(layers.LIF(surrogate=surrogate), tensor(2, 5, 40), monkeypatch)


@pytest.mark.parametrize("steps", [1, 2, 33])
def test_several_blocks(steps, monkeypatch):
    assert 4 * tuning.TRITON_BLOCK < 3 * 7 * 50
    compare(layers.LIF(tau=1.7), tensor(3, steps, 7, 50), monkeypatch)


STRIDED = {
    "time first": lambda: tensor(5, 2, 3, 4).transpose(0, 1),
    "channels first": lambda: tensor(2, 5, 4, 3).transpose(2, 3),
    "every other step": lambda: tensor(2, 10, 3, 4)[:, ::2],
    "every other channel": lambda: tensor(2, 5, 3, 8)[..., ::2],
    "the same at every step": lambda: tensor(2, 1, 3, 4).expand(2, 5, 3, 4),
}


@pytest.mark.parametrize("make", STRIDED.values(), ids=STRIDED)
def test_strides(make, monkeypatch):
    x = make()
    flat = kernels._Flat(x)
    if x.shape == (2, 5, 3, 4):
        assert flat(x, 2).data_ptr() == x.data_ptr()  # read where they are
    compare(layers.ParametricLIF(parameter_shape="channel"), x, monkeypatch, torch.ones_like(x))
    gs = torch.tensor(1.0, device=DEVICE).expand(x.shape)  # the gradient of a sum
    compare(layers.ParametricLIF(parameter_shape="channel"), x, monkeypatch, gs)


def test_who_takes_the_kernels(monkeypatch):
    """Float32 tensors on CUDA devices, where a first run succeeds; or there is a warning."""

    def taken(dtype, is_cuda=True, linear_charge=spec.Decay()):  # noqa: B008
        device = torch.device(DEVICE)
        x = types.SimpleNamespace(is_meta=False, is_cuda=is_cuda, dtype=dtype, device=device)
        return kernel.implementation(x, types.SimpleNamespace(linear_charge=linear_charge))

    assert taken(torch.float32) is kernels
    assert taken(torch.float32, linear_charge=object()) is kernel.InPlace  # a form of a user's
    assert taken(torch.float16) is kernel.InPlace
    assert taken(torch.float32, is_cuda=False) is kernel.InPlace

    def fail(*args):
        raise RuntimeError("no compiler")

    kernels.usable.cache_clear()
    monkeypatch.setattr(kernels, "backward", fail)
    with pytest.warns(UserWarning, match=f"{DEVICE}.*no compiler"):
        assert taken(torch.float32) is kernel.InPlace
    kernels.usable.cache_clear()


COMPILE = """
import itertools
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from keras_snn.kernels import triton as kernels
from keras_snn.kernels import tuning

TENSORS = "x", "v", "spikes", "last", "h", "grad_spikes", "slopes", "grad_v", "dx"
NUMBERS = "rate", "threshold", "v_reset", "v_rest", "bound", "p", "q"


def ptx(kernel, **options):
    options |= {"divides_input": True, "strict": False, "block": tuning.TRITON_BLOCK}
    kinds = dict.fromkeys(TENSORS, "*fp32") | dict.fromkeys(NUMBERS, "fp32")
    for name in ("rate", "threshold"):
        if options[f"learned_{name}"]:
            kinds[name] = "*fp32"
    kinds |= dict.fromkeys(options, "constexpr")
    source = ASTSource(kernel, {n: kinds.get(n, "i32") for n in kernel.arg_names}, options)
    return compile(source, GPUTarget("cuda", 80, 32), {"enable_fp_fusion": False}).asm["ptx"]


for leaky, learned, reset in itertools.product((True, False), (True, False), ("hard", "soft")):
    same = {"leaky": leaky, "learned_rate": learned, "learned_threshold": learned, "reset": reset}
    print(ptx(kernels._forward, keep=True, **same))
    for inline in (None, *(function for function, _ in kernels.SLOPES.values())):
        ptx(kernels._backward, inline=inline, detach=learned, **same)
"""


def test_kernels_compile_and_round_as_the_loop_does():
    """What the interpreter can't show: exact division, nothing joined into a multiply-add."""
    program = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=os.environ | {"TRITON_INTERPRET": "0", "KERAS_BACKEND": "torch"},
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr[-2000:]
    words = program.stdout.split()
    assert "div.rn.f32" in words and "mul.rn.f32" in words and "add.rn.f32" in words
    assert not [word for word in words if word.startswith(("fma", "div.full", "div.approx"))]


def test_what_both_implementations_are_given():
    neuron = spec.FusedNeuron(
        spec.Leak(0.0, True, tau=2.0),
        spec.Fire(surrogates.ATan(), False, "hard", 0.0, True),
        (0.0, None, 1.0),
    )
    x = torch.tensor([1.0, 1.0, 3.0, 2.0], device=DEVICE).reshape(1, 4, 1)
    spikes, last, h = kernels.forward(neuron, x, (), True)
    assert h.flatten().tolist() == [0.5, 0.75, 1.875, 1.0]
    assert spikes.flatten().tolist() == [0, 0, 1, 1] and last.tolist() == [[0.0]]
    # e[t] = slope(h[t] - 1) g[t] + (1 - s[t]) e[t + 1] / 2, and half of it goes to x.
    slope = 1 / (1 + np.pi**2 * np.array([-0.5, -0.25, 0.875, 0.0]) ** 2)
    g = np.array([1.0, 2.0, 3.0, 4.0])
    wanted = slope * g
    wanted[1] += wanted[2] / 2
    wanted[0] += wanted[1] / 2
    gs = torch.tensor(g, dtype=torch.float32, device=DEVICE).reshape(1, 4, 1)
    dx = kernels.backward(neuron, h, gs, x[:, 0] * 0, ())
    np.testing.assert_allclose(dx.flatten().cpu(), wanted / 2, rtol=1e-6)


def test_infinite_and_not_a_number():
    neuron = spec.FusedNeuron(
        spec.Leak(0.0, True, tau=2.0),
        spec.Fire(surrogates.ATan(), False, "hard", 0.0, True),
        (0.0, None, 1.0),
    )
    x = [[np.inf, 3, -np.inf, 3], [1, np.nan, 3, 3]]
    x = torch.tensor(x, dtype=torch.float32, device=DEVICE)[..., None]
    spikes = kernels.forward(neuron, x, (), True)[0]
    np.testing.assert_array_equal(spikes[..., 0].cpu(), [[1, 1, 0, 0], [0] + [np.nan] * 3])
    np.testing.assert_array_equal(kernel.InPlace.forward(neuron, x, (), True)[0], spikes)


def test_from_the_resting_potential(monkeypatch):
    """No tensor is given for the first potential."""
    x = 2 * tensor(3, 6, 50)
    found = []
    for each in (kernels, kernel.InPlace):
        monkeypatch.setattr(kernel, "implementation", lambda x, each=each: each)
        x = x.detach().requires_grad_()
        spikes = layers.LIF(v_reset=-0.25)(x)
        found.append([spikes, *torch.autograd.grad(spikes.sum(), [x])])
    assert 0.02 < found[0][0].mean() < 0.98
    assert torch.equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1].cpu(), found[1][1].cpu(), rtol=1e-6, atol=1e-6)
