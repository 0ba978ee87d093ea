"""Random models, and a count of their multiplications that knows nothing of layers.

`brute_force` runs a model on PyTorch, one layer after the other, and looks at each multiplication
of two tensors that reaches PyTorch: matrix products and convolutions. It counts from the numbers
that are multiplied, with weights of one in the place of the weights.

    KERAS_BACKEND=torch python tests/random_graphs.py 200
"""

import math
import sys

import keras
import numpy as np
from keras import layers, ops

from keras_snn import analysis, graph
from keras_snn import layers as snn

STEPS = 3


def _pick(rng, *values):
    return values[rng.integers(len(values))]


def _neuron(rng):
    cells = [
        lambda: snn.IF(threshold=0.3),
        lambda: snn.LIF(tau=1.5, threshold=0.2),
        lambda: snn.LIF(tau=1.5, threshold=0.2, reset="soft"),
        lambda: snn.PSN(),
    ]
    return _pick(rng, *cells)()


def _convolution(rng, *sizes, channels):
    """A layer on maps of these sizes."""
    axes, smallest = len(sizes), min(sizes)
    kernel, strides = int(_pick(rng, 1, 2, 3)), int(_pick(rng, 1, 1, 2))
    dilation = int(_pick(rng, 1, 1, 2)) if strides == 1 else 1
    fits = (kernel - 1) * dilation < smallest
    padding = _pick(rng, "same", "valid") if fits else "same"
    groups = int(_pick(rng, 1, 2)) if channels % 2 == 0 else 1
    common = {"strides": strides, "padding": padding}
    kinds = ["Conv", "Conv", "ConvTranspose", *["DepthwiseConv", "SeparableConv"] * (axes < 3)]
    kind = _pick(rng, *kinds)
    if kind == "ConvTranspose":
        return getattr(layers, f"Conv{axes}DTranspose")(3, kernel, **common)
    layer = getattr(layers, f"{kind}{axes}D")
    if kind == "DepthwiseConv":
        return layer(
            kernel, depth_multiplier=int(_pick(rng, 1, 2)), dilation_rate=dilation, **common
        )
    if kind == "SeparableConv":
        return layer(
            3, kernel, depth_multiplier=int(_pick(rng, 1, 2)), dilation_rate=dilation, **common
        )
    return layer(int(_pick(rng, 2, 4)), kernel, dilation_rate=dilation, groups=groups, **common)


def _each_step(rng, layer, shape):
    """A layer on each step, in one of the ways to write that; `shape` is that of one step."""
    block = [keras.Input(shape), layer, *[layers.ReLU()] * int(_pick(rng, 0, 1))]
    return _pick(
        rng,
        lambda: snn.FoldTime(layer),
        lambda: layers.TimeDistributed(layer),
        lambda: snn.FoldTime(keras.Sequential(block)),
    )()


def _on_maps(rng, x, timed):
    shape = x.shape[2:] if timed else x.shape[1:]
    layer = _convolution(rng, *shape[:-1], channels=shape[-1])
    return (_each_step(rng, layer, shape) if timed else layer)(x)


def _dense(rng, x, timed):
    return layers.Dense(3)(x)


def _einsum_dense(rng, x, timed):
    letters = "btuvwxyz"[: len(x.shape) - 1]
    shape = (*x.shape[1:-1], 4)
    return layers.EinsumDense(f"{letters}c,cd->{letters}d", output_shape=shape, bias_axes="d")(x)


def _recurrent(rng, x, timed):
    cells = [layers.LSTM, layers.GRU, layers.SimpleRNN]
    layer = _pick(rng, *cells)(2, return_sequences=True, unroll=True)
    kind = _pick(rng, "plain", "both ways", "spiking", "reset before")
    if kind == "both ways":
        layer = layers.Bidirectional(layer)
    if kind == "reset before":
        layer = layers.GRU(2, return_sequences=True, reset_after=False, unroll=True)
    if kind == "spiking":
        cell = snn.LIFCell(tau=1.5, threshold=0.2)
        layer = snn.Recurrent(cell, layers.Dense(x.shape[-1]))
    return layer(x)


def _over_time(rng, x, timed):
    return _pick(
        rng,
        lambda: layers.Conv1D(3, 2, padding=_pick(rng, "causal", "same")),
        lambda: layers.SeparableConv1D(3, 2, padding="same"),
        lambda: layers.DepthwiseConv1D(2, padding="same"),
    )()(x)


def _attention(rng, x, timed):
    return _pick(
        rng,
        lambda: layers.MultiHeadAttention(2, 2)(x, x),
        lambda: layers.MultiHeadAttention(2, 2, use_bias=False)(x, layers.Dense(3)(x)),
        lambda: layers.GroupQueryAttention(2, 4, 2)(x, x),
        lambda: layers.Attention()([x, x]),
    )()


def _products(rng, x, timed):
    other = layers.Dense(x.shape[-1])(x)
    return _pick(
        rng,
        lambda: ops.matmul(ops.matmul(x, ops.swapaxes(other, -1, -2)), x),
        lambda: ops.einsum("...ac,...bc->...ab", x, other),
        lambda: ops.matmul(x, np.ones((x.shape[-1], 3), "float32") * 0.3),
    )()


def _shared(rng, x, timed):
    layer = layers.Dense(x.shape[-1])
    return layer(layers.ReLU()(layer(x)))


def _branches(rng, x, timed):
    a, b = layers.Dense(3)(x), layers.Dense(3)(x)
    if timed:
        a, b = _neuron(rng)(a), _neuron(rng)(b)
    return _pick(rng, layers.Add(), layers.Concatenate())([a, b])


def _nested(rng, x, timed):
    block = [layers.Dense(4), *[_neuron(rng)] * timed, layers.Dense(3)]
    return keras.Sequential([keras.Input(x.shape[1:]), *block])(x)


def _conv_lstm(rng, x, timed):
    layer = getattr(layers, f"ConvLSTM{len(x.shape) - 3}D")
    return layer(2, 2, padding="same", return_sequences=True, unroll=True)(x)


def _pooling(rng, x, timed):
    axes = len(x.shape) - 2 - timed
    layer = getattr(layers, f"{_pick(rng, 'Max', 'Average')}Pooling{axes}D")(2, padding="same")
    return (snn.FoldTime(layer) if timed else layer)(x)


def _choices(x, timed):
    """What can follow a tensor."""
    axes = len(x.shape) - 2 - timed
    found = [_dense, _einsum_dense, _shared, _branches, _nested]
    if axes:
        found += [_on_maps] * 4 + [_pooling]
    if timed or axes:
        found += [_products]
    if timed and not axes:
        found += [_recurrent] * 2 + [_over_time, _attention] * 2
    if timed and axes in (1, 2):
        found += [_conv_lstm]
    return found


def random_model(seed):
    """A model and inputs for it, by a number.

    Returns:
        `(model, data)`.
    """
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    axes = int(_pick(rng, 0, 0, 1, 2, 2, 3))
    kind = _pick(rng, "spikes", "spikes", "values", "image")
    shape = (*[5, 4, 4][:axes], int(_pick(rng, 2, 4)))
    timed = kind != "image"
    x = inputs = keras.Input((STEPS, *shape) if timed else shape)
    data = rng.normal(size=(2, *inputs.shape[1:])).astype("float32")
    if kind == "spikes":
        data = rng.integers(0, 3, data.shape).astype("float32") * (rng.random(data.shape) < 0.5)
    repeat = int(rng.integers(4)) if kind == "image" else -1
    if kind == "spikes":
        x = snn.SpikeConnection("add")([x, x]) if _pick(rng, True, False) else x
        x = snn.IF(threshold=0.5)(x)
    for place in range(4):
        if place == repeat:
            x, timed = snn.RepeatTime(STEPS)(x), True
        x = _pick(rng, *_choices(x, timed))(rng, x, timed)
        what = rng.integers(3)
        if what and timed:
            x = _neuron(rng)(x)
        elif what:
            x = layers.ReLU()(x)
    model = keras.Model(inputs, x)
    for weight in model.trainable_weights:
        weight.assign(2 * weight)  # or deeper neurons are silent
    return model, data


def brute_force(model, data):
    """What a model multiplies, layer by layer, as PyTorch sees it.

    A tensor of integers only is spikes: it costs accumulates, as many as its entries say. Of a
    tensor that is zeros only nobody can tell.

    Args:
        model: A model.
        data: Its input, an array.

    Returns:
        A dictionary from names of calls to `(macs, accumulates, dense)`, totals of all examples;
        `None` in the place of the first two where nobody can tell.
    """
    import torch

    tensor = torch.tensor(data)
    found = {}

    def rule(call):
        weights = {v.value.untyped_storage().data_ptr() for v in getattr(call.layer, "weights", ())}
        plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        with _mode(weights) as mode, torch.no_grad(), plain:
            outputs = call()
        if mode.places:
            found[call.name] = _cost(mode.places.values())
        if "Transpose" in type(call.layer).__name__ and found[call.name][1]:
            found[call.name] = (0, _reached(call), found[call.name][2])
        return outputs

    graph.run(model, [tensor], rule)
    return found


def _reached(call):
    """What a transposed convolution adds up, without what it cuts off after that."""
    layer = type(call.layer).from_config(call.layer.get_config() | {"activation": "linear"})
    layer.build((None, *call.input.shape[2:]))
    layer.set_weights([float(w is layer.kernel) + 0 * w for w in layer.weights])
    x = ops.reshape(ops.abs(call.input), (-1, *call.input.shape[2:]))
    return float(ops.convert_to_numpy(ops.sum(layer(x))))


def _cost(places):
    macs = accumulates = dense = 0
    for place in places:
        dense += place["dense"]
        if place["zeros"]:
            macs = None
        elif macs is not None:
            kind = place["whole"]
            macs += 0 if any(kind) else place["dense"]
            accumulates += place[kind] if any(kind) else 0
    return macs, accumulates if macs is not None else None, dense


def _mode(weights):
    """Notes what is multiplied, added up for each weight or pair of shapes."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    products = {aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1}
    products |= {aten.mv.default: 0, aten.dot.default: 0, aten.baddbmm.default: 1}

    class Mode(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.places = {}

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func in products:
                a, b = args[products[func] :][:2]
                self.note(a, b, out.numel() * a.shape[-1], torch.matmul)
            elif func is aten.convolution.default:
                a, b, _, *rest = args
                places = a.shape[2:] if args[6] else out.shape[2:]
                dense = len(a) * math.prod(places) * b.numel()  # zeros of a padding too
                self.note(a, b, dense, lambda a, b: func(a, b, None, *rest))
            elif "dot_product" in str(func):
                raise NotImplementedError(f"{func} hides its products.")
            return out

        def note(self, a, b, dense, multiply):
            known = [x.data_ptr() for x in (a, b) if x.untyped_storage().data_ptr() in weights]
            place = self.places.setdefault(
                tuple(known) or len(self.places),
                {"dense": 0, "whole": (True, True), "zeros": True}
                | dict.fromkeys([(True, True), (True, False), (False, True)], 0.0),
            )
            place["dense"] += dense
            whole = [w and bool((x == x.round()).all()) for x, w in zip((a, b), place["whole"])]
            place["whole"] = tuple(whole)
            place["zeros"] &= not (bool(a.any()) and bool(b.any()))
            for kind in [(True, True), (True, False), (False, True)]:
                ones = [x.abs() if k else torch.ones_like(x) for x, k in zip((a, b), kind)]
                place[kind] += float(multiply(*ones).sum(dtype=torch.float64))

    return Mode()


def differences(seed):
    """Where a profile of a random model differs from the count by brute force.

    Returns:
        `(differences, compared)`: a list of texts, and the number of layers that were compared.
    """
    model, data = random_model(seed)
    counted = brute_force(model, data)
    found = analysis.profile(model, data, exact=True)
    rows = {x.name: x for x in found.layers}
    named, wrong, compared = {x.split(" (")[0] for x in found.uncharged}, [], 0
    for name, (macs, accumulates, _) in counted.items():
        if name in named or macs is None:
            continue
        compared += 1
        ours = (rows[name].macs_spent, rows[name].synops) if name in rows else None
        if ours is None or not np.allclose(ours, np.array([macs, accumulates]) / len(data)):
            wrong.append(f"{seed}, {name}: {macs, accumulates} of {len(data)} examples, got {ours}")
    more = {x.name for x in found.layers if x.macs} - counted.keys()
    wrong += [f"{seed}, {name}: nothing is multiplied, got {rows[name]}" for name in more]
    return wrong, compared


def main(count):
    """Compares the profiles of so many models with the count by brute force."""
    found = [differences(seed) for seed in range(count)]
    wrong = [text for texts, _ in found for text in texts]
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    print(f"{count} models, {sum(n for _, n in found)} layers: {len(wrong)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
