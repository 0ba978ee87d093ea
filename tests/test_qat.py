"""Networks for quantisation-aware training have the spikes of integers, and so have their files."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy

from keras_snn import graph, layers, qat
from keras_snn.qat import grids
from keras_snn.qat.prepare import fold

STEPS = 3
NEURONS = {
    "lif": lambda: layers.LIF(threshold=0.5),
    "if_soft": lambda: layers.IF(threshold=0.5, reset="soft"),
    "decay_soft": lambda: layers.DecayLIF(0.874, reset="soft", threshold=0.7),
    "plif": lambda: layers.ParametricLIF(tau=3.0, threshold=0.4),
    "ilif": lambda: layers.ILIF(threshold=0.4),
}


def residual_net(neuron):
    """An image, seen by a convolution; another one with a shortcut of spikes; dense layers."""
    conv = {"padding": "same", "kernel_initializer": keras.initializers.HeNormal(3)}
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="conv1", **conv)(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    shortcut = neuron()(layers.RepeatTime(STEPS)(x))
    x = layers.FoldTime(keras.layers.Conv2D(4, 3, name="conv2", **conv))(shortcut)
    x = neuron()(layers.FoldTime(keras.layers.BatchNormalization(name="bn2"))(x))
    x = layers.SpikeConnection("add")([x, shortcut])
    x = layers.FoldTime(keras.layers.MaxPooling2D())(x)
    x = layers.FoldTime(keras.layers.Flatten())(x)
    x = neuron()(keras.layers.Dense(8, name="dense", kernel_initializer="he_normal")(x))
    return randomized(keras.Model(inputs, keras.layers.Dense(3, name="head")(x)))


def randomized(model):
    """The model, with statistics, scales and biases that are not those of a fresh one."""
    rng = np.random.default_rng(0)
    ranges = {
        "moving_mean": (-0.3, 0.3),
        "moving_variance": (0.3, 0.8),
        "gamma": (0.7, 1.2),
        "bias": (-0.1, 0.2),
        "beta": (-0.1, 0.4),
    }
    for weight in model.weights:
        if weight.name in ranges:
            weight.assign(rng.uniform(*ranges[weight.name], weight.shape))
    return model


def images(count=4):
    return np.random.default_rng(1).uniform(size=(count, 6, 6, 2)).astype("float32")


class Integers:
    """What a prepared network computes, in NumPy's integers, layer by layer.

    Numbers of a grid are kept as their codes; everything between is integer arithmetic but for the
    decay of int8, whose products are rounded in float64.
    """

    def __init__(self, model):
        self.model, self.spikes = model, {}
        self.rules = {
            "Quantize": self.quantize,
            "QuantizedWeights": self.weighted,
            "QuantizedLIF": self.neuron,
            "RepeatTime": lambda layer, x: np.repeat(x[:, None], layer.timesteps, axis=1),
            "SpikeConnection": lambda layer, a, b: a + b,
            "MaxPooling2D": lambda layer, x: pooled(x),
            "Flatten": lambda layer, x: x.reshape(len(x), -1),
        }

    def __call__(self, x):
        return graph.run(self.model, x, self.rule)

    def rule(self, call):
        rule = self.rules[type(call.layer).__name__]
        args = call.args[0] if isinstance(call.args[0], list) else call.args
        if call.each_step:
            return rule(call.layer, *[x.reshape(-1, *x.shape[2:]) for x in args]).reshape(
                *args[0].shape[:2], *rule(call.layer, args[0][:, 0]).shape[1:]
            )
        return rule(call.layer, *args)

    def quantize(self, layer, x):
        if x.dtype.kind == "f":
            x = np.round(x / np.float32(layer.scale)).astype(int)
        return clipped(x, layer)

    def weighted(self, layer, x):
        kernel, bias = (np.float64(to_numpy(w)) for w in layer.layer.weights)
        step, shift = (to_numpy(w).astype(int) for w in (layer.step, layer.shift))
        weight = layer.scale / layer.input_scale * 2.0**-shift
        fine = layer.state_bits == 16
        most = {8: 127 if layer.unit > 1 or fine else 63, 4: 7, 2: 1}.get(layer.bits)
        levels = np.where(kernel >= 0, 1, -1)
        if layer.bits > 1:
            levels = np.clip(np.round(kernel / (weight * step)), -most, most).astype(int)
        codes = levels * step
        assert np.abs(codes).max() <= 127
        # Sums in units of `lattice`; the file has half a unit more, so that none is half way.
        lattice = 1 if fine else layer.unit * (1 if layer.unit > 1 else 2)
        bias = np.round(bias / (layer.scale * 2.0**-shift * lattice)).astype(int)
        sums = np.einsum("...i,io->...o", x, codes) if codes.ndim == 2 else convolved(x, codes)
        assert not (sums % lattice).any()
        sums, shift = sums // lattice + bias, shift - int(np.log2(lattice))
        half = np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)
        rounded = (sums + half >> np.maximum(shift, 0)) << np.maximum(-shift, 0)
        return clipped(rounded, layer)

    def neuron(self, layer, x):
        cell, v, spikes = layer.cell, 0, []
        level = round(cell.level / (cell.scale * cell.gain))
        for current in np.moveaxis(x, 1, 0):
            if cell.state_bits == 16:
                p, q = cell.ratio
                leaked = (2 * p * v + q) // (2 * q)
                h = np.clip(current + leaked, -32768, 32767)
            else:
                leaked = np.round(np.float64(cell.decay) * v).astype(int)
                h = np.clip(current + leaked, -128, 127)
            fired = (h >= level).astype(int)
            if cell.max_spikes:
                fired = np.clip((2 * h + level) // (2 * level), 0, cell.max_spikes)
            v = h * (1 - fired) if cell.reset == "hard" else h - fired * level
            spikes.append(fired)
        self.spikes[layer.name] = np.stack(spikes, axis=1)
        return self.spikes[layer.name] * round(1 / cell.spike_scale)


def clipped(x, layer):
    low, high = (-32768, 32767) if layer.state_bits == 16 else (layer.low, layer.low + 255)
    return np.clip(x, low, high)


def pooled(x):
    """Maxima of 2x2."""
    return x.reshape(-1, x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3]).max((2, 4))


def convolved(x, kernel):
    """A convolution of 3x3 with padding, of integers."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return np.einsum("bhwiyx,yxio->bhwo", windows, kernel)


def spikes_of(model, x):
    """Spikes of each neuron layer and the outputs of a Keras model."""
    found = graph.trace(model)
    layers = {c.name: c.output for c in found.calls if isinstance(c.layer, qat.QuantizedLIF)}
    outputs = keras.Model(found.inputs, [layers, found.outputs])(x)
    return to_numpy(outputs)


@pytest.mark.parametrize(
    ("neuron", "bits", "state_bits"),
    [
        ("lif", 8, 8),
        ("if_soft", 4, 8),
        ("decay_soft", 2, 8),
        ("plif", 1, 8),
        ("ilif", 8, 8),
        ("lif", 8, 16),
        ("decay_soft", 4, 16),
        ("ilif", 8, 16),
    ],
)
def test_spikes_are_those_of_integers(neuron, bits, state_bits):
    model, x = residual_net(NEURONS[neuron]), images()
    quantized = qat.prepare(model, x, bits=bits, state_bits=state_bits)
    spikes, (outputs,) = spikes_of(quantized, x)
    integers = Integers(quantized)
    codes = integers(x)
    assert len(spikes) == 3
    for name, layer in spikes.items():
        assert 0.02 < layer.mean() < 3.0
        np.testing.assert_array_equal(layer, integers.spikes[name])
    head = quantized.layers[-1]
    scale = getattr(head, "layer", head).scale
    np.testing.assert_allclose(outputs, codes * scale, rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are TensorFlow's work")
@pytest.mark.parametrize(
    ("neuron", "mode", "state_bits"),
    [
        ("lif", "sequence", 8),
        ("if_soft", "step", 8),
        ("ilif", "sequence", 8),
        ("if_soft", "step", 16),
        ("lif", "sequence", 16),
    ],
)
def test_files_have_the_same_spikes(neuron, mode, state_bits, tmp_path):
    """On XNNPACK's kernels and on the built-in ones."""
    pytest.importorskip("ai_edge_litert", reason="needs the extra `export`")
    from keras_snn import export

    x = images()
    model = residual_net(NEURONS[neuron])
    answers = state_bits == 16 and mode == "sequence"
    if answers:
        model = keras.Model(model.inputs, keras.layers.Activation("softmax")(model.outputs[0]))
    quantized = qat.prepare(model, x, state_bits=state_bits)
    quantize = {8: "int8", 16: "int16x8"}[state_bits]
    report = export.to_tflite(
        quantized, tmp_path / "m.tflite", mode, quantize, verify_data=x, target="tflm"
    )
    if answers:
        assert report.top1 == 1.0
        assert report.logits < 1e-3
    elif state_bits == 16:  # all of it in integers
        kinds = {row["type"] for row in report.quantization} | {report.inputs[0]["type"]}
        assert kinds == {"int16", "int8", "int64"}
        assert set(report.operations) <= INTEGER_OPERATIONS
    assert len(report.layers) == 3
    for layer in report.layers:
        assert layer["rate"] > 0.02
        assert layer["agreement"] == layer["agreement, built-in"] == 1.0


INTEGER_OPERATIONS = {"ADD", "CONV_2D", "MAX_POOL_2D", "MUL", "PACK", "RESHAPE", "SPLIT", "SUB"}


@pytest.mark.parametrize("state_bits", [8, 16])
def test_saved_models_compute_the_same(state_bits, tmp_path):
    quantized = qat.prepare(residual_net(NEURONS["lif"]), images(), 4, state_bits=state_bits)
    assert qat.state_bits(quantized) == state_bits
    quantized.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(*map(to_numpy, (quantized(images()), loaded(images()))))


def test_training_with_a_teacher():
    model, x = residual_net(NEURONS["lif"]), images()
    quantized = qat.prepare(model, x, bits=2)
    student = qat.imitate(quantized, model, weight=2.0)
    student(x)
    trace, (ours, _) = graph.trace(model), spikes_of(quantized, x)
    wanted = to_numpy(keras.Model(trace.inputs, [c.output for c in trace.calls if c.spikes])(x))
    differ = sum(np.mean(a != b) for a, b in zip(ours.values(), wanted))
    assert differ > 0.01
    np.testing.assert_allclose(to_numpy(sum(student.losses)), 2 * differ, rtol=1e-5)

    before = [to_numpy(w) for m in (model, quantized) for w in m.trainable_weights]
    student.compile(keras.optimizers.SGD(0.1), "mse")
    student.fit(x, np.ones((4, STEPS, 3)), verbose=0)
    after = [to_numpy(w) for m in (model, quantized) for w in m.trainable_weights]
    kept = [np.array_equal(a, b) for a, b in zip(before, after)]
    assert all(kept[: len(model.trainable_weights)])
    assert not any(kept[len(model.trainable_weights) :])


def test_gradients_pass_the_rounding_but_not_the_bounds():
    dense = keras.layers.Dense(3)
    layer = qat.QuantizedWeights(dense, input_scale=0.25, scale=0.01)
    x = np.array([[1.0, 0.0, 1.0, 2.0]], "float32")
    layer.build(x.shape)
    kernel = np.linspace(-0.4, 0.4, 12).reshape(4, 3)
    dense.set_weights([kernel, np.array([0.0, 5.0, 0.1])])  # the second output is cut off at 1.27
    layer.shift.assign([1, 1, 1])
    output, _, (kernel_gradient, bias_gradient) = gradients(
        lambda x: keras.ops.sum(layer(x) * keras.ops.array([1.0, 2.0, 3.0])),
        [dense.kernel, dense.bias],
        x,
    )
    factors = np.array([1.0, 0.0, 3.0])
    np.testing.assert_allclose(kernel_gradient, x.T * factors, rtol=1e-5)
    np.testing.assert_allclose(bias_gradient, factors, rtol=1e-5)
    exact = x.astype("float64") @ kernel + [0.0, 5.0, 0.1]
    outputs = np.minimum(exact, 1.27) @ [1.0, 2.0, 3.0]
    assert abs(float(output) - outputs[0]) < 6 * 0.02 * np.abs(x).sum()


@pytest.mark.once
def test_fractions_are_exact_and_bring_no_code_half_way():
    for decay in (0.0, 0.25, 0.5, 2 / 3, 0.874, 0.95, 1.0):
        p, q = grids.ratio_without_ties(decay)
        assert q % 2 == 1
        assert abs(p / q - decay) < 1e-3
        codes = np.arange(-32768, 32768)
        wanted = (2 * p * codes + q) // (2 * q)
        found = to_numpy(grids.decayed(keras.ops.array(codes, "float32"), (p, q)))
        np.testing.assert_array_equal(found, wanted)


def test_gradients_of_int16_potentials_pass_the_rounding():
    cell = qat.QuantizedLIFCell(3e-4, decay=0.5, gain=0.75, state_bits=16, threshold=1.0)
    v, x = np.float32([[0.3, -0.8, 7.9]]), np.float32([[0.1, 0.2, 9.0]])
    h, *found = gradients(
        lambda v, x: keras.ops.sum(cell.charge(v, x) * keras.ops.array([1.0, 2.0, 3.0])), [], v, x
    )
    p, q = cell.ratio
    codes = np.round(v / np.float32(3e-4 * 0.75)).astype(int)
    kept = (2 * p * codes + q) // (2 * q)
    wanted = np.clip(kept + np.round(x / 3e-4), -32768, 32767) * 3e-4 * 0.75
    np.testing.assert_allclose(float(h), np.sum(wanted * [1, 2, 3]), rtol=1e-6)
    inside = np.array([[1.0, 2.0, 0.0]])  # the third is cut off
    np.testing.assert_allclose(to_numpy(found[0][0]), inside * p / q, rtol=1e-5)
    np.testing.assert_allclose(to_numpy(found[0][1]), inside * 0.75, rtol=1e-5)


@pytest.mark.once
def test_scales_that_kernels_would_round_are_refused():
    cell = qat.QuantizedLIFCell(2.0**-12, state_bits=16)
    with pytest.raises(ValueError, match="no powers of two"):
        cell.fake_quantized(None, [None], None)


@pytest.mark.once
def test_files_have_the_bits_of_the_states():
    from keras_snn.export.targets.tflite import check_data

    quantized = qat.prepare(residual_net(NEURONS["lif"]), images(), state_bits=16)
    check_data(quantized, "int16x8", None)
    with pytest.raises(ValueError, match=r"state_bits=8.*got one with `state_bits=16`"):
        check_data(quantized, "int8", None)


@pytest.mark.once
def test_folded_networks_are_the_float_ones():
    model, x = residual_net(NEURONS["decay_soft"]), images()
    np.testing.assert_allclose(to_numpy(fold(model)(x)), to_numpy(model(x)), atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("decay", [0.0, 0.25, 0.5, 2 / 3, 0.874, 0.95, 1.0])
def test_decays_bring_no_code_half_way(decay):
    moved = grids.decay_without_ties(decay)
    assert abs(moved - decay) < 1.5e-3
    products = moved * np.arange(-128, 128)
    assert np.abs(products - np.floor(products) - 0.5).min() > 2**-12


def conv(x):
    return layers.FoldTime(keras.layers.Conv2D(4, 3, padding="same"))(x)


REFUSED = {
    "norm": lambda x: layers.IF()(
        layers.FoldTime(keras.layers.BatchNormalization(), name="norm")(x)
    ),
    "pool": lambda x: layers.IF()(
        layers.FoldTime(keras.layers.AveragePooling2D(2), name="pool")(conv(x))
    ),
    "mean": lambda x: layers.IF()(
        conv(layers.FoldTime(keras.layers.AveragePooling2D(2), name="mean")(layers.ILIF()(conv(x))))
    ),
    "second": lambda x: layers.IF(name="second")(layers.IF()(conv(x))),
    "sigmoid": lambda x: layers.IF()(keras.layers.Activation("sigmoid", name="sigmoid")(conv(x))),
    "adaptive": lambda x: layers.AdaptiveLIF(name="adaptive")(conv(x)),
    "rests": lambda x: layers.IF(v_reset=-0.1, name="rests")(conv(x)),
    "channels": lambda x: layers.ParametricLIF(parameter_shape="channel", name="channels")(conv(x)),
}


@pytest.mark.once
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integers_is_refused_by_name(name):
    inputs = keras.Input((2, 4, 4, 2))
    model = keras.Model(inputs, REFUSED[name](inputs))
    with pytest.raises(TypeError, match=f"The layer {name} .*can't be quantised"):
        qat.prepare(model, np.random.default_rng(0).uniform(size=(2, 2, 4, 4, 2)))


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments", [{"bits": 0}, {"bits": 9}, {"edge_bits": 2.5}, {"state_bits": 12}]
)
def test_bits_are_one_to_eight(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        qat.prepare(residual_net(NEURONS["lif"]), images(), **arguments)
