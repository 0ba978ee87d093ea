"""Whole sequences of simple neurons on CUDA devices: one Triton kernel forward, one backward.

Each program keeps the potentials of a block of neurons in registers and goes through all steps; of
a sequence it reads the currents and writes spikes and charged potentials, nothing else. Spikes are
those of `torch.InPlace`: the order of operations is the same, division is the rounded one
(`tl.div_rn`; Triton's `/` is an approximation), and `enable_fp_fusion=False` keeps the compiler
from joining multiplications and additions, which would round once instead of twice.

`TRITON_INTERPRET=1` runs the kernels on CPU tensors, step by step in numpy, for tests.
"""

import functools
import math
import warnings

from keras import ops

from keras_snn import dynamics, surrogates
from keras_snn.kernels import spec, tuning

try:
    import triton
    import triton.language as tl
    from triton import jit
    from triton.language import constexpr
except ImportError:  # `usable` says so, and nothing below is called
    triton = constexpr = None

    def jit(function):
        """Leaves a kernel alone that can't be compiled."""
        return function


@functools.cache
def usable(dtype, device):
    """Whether the kernels work for tensors like these: float32, Triton there, its compiler too.

    Args:
        dtype: A `torch.dtype`.
        device: A `torch.device`.

    Returns:
        A boolean; a warning says why if Triton is there and fails.
    """
    import torch

    if triton is None or dtype is not torch.float32:
        return False
    fire = spec.Fire(surrogates.ATan(), False, "hard", 0.0, True)
    neuron = spec.FusedNeuron(spec.Decay(), fire, (0.0, None, 1.0))
    x = torch.zeros((1, 1, 1), device=device)
    try:
        h = forward(neuron, x, (), True)[2]
        backward(neuron, h, x, x[:, 0], ())
    except Exception as error:  # whatever a missing compiler, an old driver or card raises
        warnings.warn(
            f"Triton is installed but can't run on {device}, so spiking neurons take PyTorch's "
            f"operations, which is slower: {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
    return True


def forward(neuron, x, tensors, keep):
    """Spikes, last potential and charged potentials: see `torch.InPlace.forward`."""
    import torch

    flat, lead = _Flat(x), x.shape[:2]
    spikes, last = flat.empty(*lead), flat.empty(lead[0])
    h = flat.empty(*lead) if keep else spikes
    first = spec.like_step(neuron.parameters(tensors)[0], x)
    xs, vs = flat(x, 2), flat(first, 1)
    with torch.cuda.device_of(x):
        _forward[_grid(vs)](
            *(xs, *xs.stride(), vs, *vs.stride()),
            *(flat(spikes, 2), flat(last, 1), flat(h, 2), *xs.shape),
            **_arguments(neuron, flat, tensors),
            bound=dynamics.BOUNDS["float32"],
            v_rest=float(getattr(neuron.linear_charge, "v_rest", 0.0)),
            keep=keep,
        )
    return spikes, last, h


def backward(neuron, h, grad_spikes, grad_v, tensors):
    """Gradients to the currents: see `torch.InPlace.backward`."""
    import torch

    flat, surrogate = _Flat(h), neuron.fire.surrogate
    slope, numbers = SLOPES.get(type(surrogate), (None, None))
    if slope is None:  # one pass more, by PyTorch, which the kernel reads
        threshold = neuron.parameters(tensors)[2]
        slopes = ops.cast(surrogate.derivative(h - threshold), h.dtype).expand(h.shape)
    else:
        slopes = h
    dx, grad_v = flat.empty(*h.shape[:2]), flat(spec.like_step(grad_v, h), 1)
    h, grad_spikes, slopes, out = (flat(tensor, 2) for tensor in (h, grad_spikes, slopes, dx))
    with torch.cuda.device_of(h):
        _backward[_grid(grad_v)](
            *(
                part
                for tensor in (h, grad_spikes, slopes)
                for part in (tensor[:, -1], *tensor.stride())
            ),
            *(grad_v, *grad_v.stride(), out[:, -1], *h.shape),
            *map(float, numbers(surrogate) if numbers else (0, 0)),
            **_arguments(neuron, flat, tensors),
            detach=neuron.fire.detach,
            inline=slope,
        )
    return dx


def _grid(v):
    return (triton.cdiv(v.numel(), tuning.TRITON_BLOCK),)


def _arguments(neuron, flat, tensors):
    """Arguments that both kernels have."""
    linear_charge, fire = neuron.linear_charge, neuron.fire
    _, rate, threshold, _ = neuron.parameters(tensors)
    if rate is None:
        rate = linear_charge.decay if isinstance(linear_charge, spec.Decay) else linear_charge.tau
    rate, rate_stride = flat.parameter(rate)
    threshold, threshold_stride = flat.parameter(threshold)
    return {
        "rate": rate,
        "rate_stride": rate_stride,
        "threshold": threshold,
        "threshold_stride": threshold_stride,
        "v_reset": float(fire.v_reset),
        "leaky": isinstance(linear_charge, spec.Leak),
        "divides_input": getattr(linear_charge, "decay_input", False),
        "learned_rate": neuron.constants[1] is spec.TENSOR,
        "learned_threshold": neuron.constants[2] is spec.TENSOR,
        "reset": fire.reset,
        "strict": fire.strict,
        "block": tuning.TRITON_BLOCK,
        "enable_fp_fusion": False,
    }


class _Flat:
    """Tensors `(batch, time, ...)` as `(batch, time, neurons)`, in the order of one's memory."""

    def __init__(self, like):
        self.like, strides = like, like.stride()[2:]
        self.order = sorted(range(len(strides)), key=lambda axis: -strides[axis])

    def __call__(self, tensor, lead):
        """A tensor whose first `lead` axes stay: a view, if its memory has that order too."""
        tensor = tensor.permute(*range(lead), *(lead + axis for axis in self.order))
        return tensor.reshape(*tensor.shape[:lead], math.prod(tensor.shape[lead:]))

    def empty(self, *lead):
        """A new tensor `(*lead, ...)`, dense and in that order."""
        shape = self.like.shape[2:]
        strides, step = [0] * len(shape), 1
        for axis in reversed(self.order):
            strides[axis], step = step, step * shape[axis]
        for size in reversed(lead):
            strides, step = [step, *strides], step * size
        return self.like.new_empty_strided((*lead, *shape), strides)

    def parameter(self, parameter):
        """A number, or a broadcast tensor made flat; the distance of its neurons."""
        if isinstance(parameter, (int, float)):
            return float(parameter), 0
        parameter = self(parameter.expand(self.like.shape[2:]), 0)
        return parameter, parameter.stride(0)


@jit
def _atan(u, p, q):
    return 1.0 / (p + q * u * u)


@jit
def _sigmoid(u, p, q):
    sigmoid = 1.0 / (1.0 + tl.exp(-p * u))
    return p * sigmoid * (1.0 - sigmoid)


@jit
def _triangle(u, p, q):
    return tl.maximum(p - q * tl.abs(u), 0.0)


@jit
def _rectangle(u, p, q):
    return tl.where(tl.abs(u) < q, p, 0.0)


# Surrogates whose derivative the backward kernel computes itself, with up to two numbers.
SLOPES = {
    surrogates.ATan: (_atan, lambda s: (2 / s.alpha, math.pi**2 / 2 * s.alpha)),
    surrogates.PiecewiseQuadratic: (_triangle, lambda s: (s.alpha, s.alpha**2)),
    surrogates.Rectangle: (_rectangle, lambda s: (s.alpha, 0.5 / s.alpha)),
    surrogates.Sigmoid: (_sigmoid, lambda s: (s.alpha, 0)),
    surrogates.Triangle: (_triangle, lambda s: (s.gamma, s.gamma)),
}


@jit
def _forward(
    x,
    x_b,
    x_t,
    x_n,
    v,
    v_b,
    v_n,
    spikes,
    last,
    h,
    batch,
    steps,
    count,
    rate,
    rate_stride,
    threshold,
    threshold_stride,
    v_reset,
    v_rest,
    bound,
    leaky: constexpr,
    divides_input: constexpr,
    learned_rate: constexpr,
    learned_threshold: constexpr,
    reset: constexpr,
    strict: constexpr,
    keep: constexpr,
    block: constexpr,
):
    """All steps of a block of neurons. What is read has strides, what is written is dense."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    real = index < batch * count
    b, n = index // count, index % count
    rate = tl.load(rate + n * rate_stride) if learned_rate else rate
    threshold = tl.load(threshold + n * threshold_stride) if learned_threshold else threshold
    x += b * x_b + n * x_n
    out = b * steps * count + n
    vt = tl.load(v + b * v_b + n * v_n, mask=real, other=0.0)
    for _ in range(steps):
        xt = tl.load(x, mask=real, other=0.0)
        xt = tl.where(xt > bound, bound, tl.where(xt < -bound, -bound, xt))
        if leaky:
            away = vt - v_rest
            away = xt - away if divides_input else away
            away = away * rate if learned_rate else tl.div_rn(away, rate)
            ht = vt + away if divides_input else vt - away + xt
        else:
            ht = rate * vt + xt
        fires = ht > threshold if strict else ht >= threshold
        st = tl.where(ht == ht, fires.to(tl.float32), ht)
        tl.store(spikes + out, st, mask=real)
        if keep:
            tl.store(h + out, ht, mask=real)
        if reset == "hard":
            vt = ht - ht * st + st * v_reset
        elif reset == "soft":
            vt = ht - st * threshold
        else:
            vt = ht
        x += x_t
        out += count
    tl.store(last + index, vt, mask=real)


@jit
def _backward(
    h,
    h_b,
    h_t,
    h_n,
    grad_spikes,
    grad_spikes_b,
    grad_spikes_t,
    grad_spikes_n,
    slopes,
    slopes_b,
    slopes_t,
    slopes_n,
    grad_v,
    grad_v_b,
    grad_v_n,
    dx,
    batch,
    steps,
    count,
    p,
    q,
    rate,
    rate_stride,
    threshold,
    threshold_stride,
    v_reset,
    leaky: constexpr,
    divides_input: constexpr,
    learned_rate: constexpr,
    learned_threshold: constexpr,
    reset: constexpr,
    strict: constexpr,
    detach: constexpr,
    inline: constexpr,
    block: constexpr,
):
    """Gradients to the currents of a block of neurons; sequences are given at their last step."""
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    real = index < batch * count
    b, n = index // count, index % count
    rate = tl.load(rate + n * rate_stride) if learned_rate else rate
    threshold = tl.load(threshold + n * threshold_stride) if learned_threshold else threshold
    if leaky:
        share = rate if learned_rate else 1.0 / rate
        gain = share if divides_input else 1.0
        decay = 1.0 - share
    else:
        gain = 1.0
        decay = rate
    h += b * h_b + n * h_n
    grad_spikes += b * grad_spikes_b + n * grad_spikes_n
    slopes += b * slopes_b + n * slopes_n
    out = b * steps * count + n
    carried = tl.load(grad_v + b * grad_v_b + n * grad_v_n, mask=real, other=0.0)
    for _ in range(steps):
        ht = tl.load(h, mask=real, other=0.0)
        if inline is None:
            slope = tl.load(slopes, mask=real, other=0.0)
        else:
            slope = inline(ht - threshold, p, q)
        if reset == "hard":
            fires = ht > threshold if strict else ht >= threshold
            kept = 1.0 - fires.to(tl.float32)
            kept = kept if detach else kept + slope * (v_reset - ht)
            carried = carried * kept
        elif reset == "soft" and not detach:
            carried = carried * (1.0 - slope * threshold)
        carried = tl.load(grad_spikes, mask=real, other=0.0) * slope + carried
        tl.store(dx + out, carried * gain, mask=real)
        carried = carried * decay
        h -= h_t
        grad_spikes -= grad_spikes_t
        slopes -= slopes_t
        out -= count
