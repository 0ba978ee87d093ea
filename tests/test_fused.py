"""The fused loop is the plain loop: the same spikes, the same gradients."""

import dataclasses
import functools
import itertools

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import ops

from keras_snn import layers
from keras_snn.kernels import tuning

NEURONS = {
    "IF": {},
    "LIF": {"tau": 3.0},
    "LIF, input not divided": {"tau": 3.0, "decay_input": False},
    "ParametricLIF": {"tau": 3.0},
    "ParametricLIF, input not divided": {"tau": 3.0, "decay_input": False},
    "DecayLIF": {"decay": 0.75},
    "GainLIF": {},  # a new linear form
}


@dataclasses.dataclass(frozen=True)
class Gain:
    """A linear charge that the kernels have no code for: `h = rest + decay (v - rest) + gain x`."""

    decay: float
    gain: float
    v_rest: float
    rate = None

    def charge(self, v, x, rate=None):
        return self.v_rest + self.decay * (v - self.v_rest) + self.gain * x

    def slopes(self, rate=None):
        return self.decay, self.gain


class GainCell(layers.SpikingCell):
    def charge(self, v, x):
        return self.linear_charge().charge(v, x)

    def linear_charge(self):
        return Gain(0.75, 1.5, 0.125)


class GainLIF(layers.Neuron, cell=GainCell):
    pass


RESETS = [
    {"reset": reset, "v_reset": v_reset, "detach_reset": detach, "strict": strict}
    for (reset, v_reset), detach, strict in itertools.product(
        [("hard", 0.0), ("hard", -0.25), ("soft", 0.0), ("none", 0.0)], [True, False], [False]
    )
] + [{"strict": True}]


def pair(name, **kwargs):
    """A fused layer and a plain one."""
    cls = GainLIF if name == "GainLIF" else getattr(layers, name.split(",")[0])
    fused, plain = (cls(**(NEURONS[name] | kwargs)) for _ in range(2))
    plain.use_fused = False
    return fused, plain


def compare(fused, plain, x, **given):
    """Spikes, last potentials and all gradients of both."""
    rng = np.random.default_rng(1)
    upstream = rng.normal(size=x.shape).astype("float32")
    last = rng.normal(size=x.shape[:1] + x.shape[2:]).astype("float32")
    start = rng.normal(size=last.shape).astype("float32")
    found = []
    for layer in (fused, plain):
        layer.return_state = True

        def run(x, v, layer=layer):
            spikes, v = layer(x, initial_state=[v], **given)
            return ops.sum(spikes * ops.array(upstream)) + ops.sum(v * ops.array(last))

        spikes, v = to_numpy(layer(x, initial_state=[ops.array(start)], **given))
        _, slopes, weights = gradients(run, layer.trainable_variables, x, start)
        found.append((spikes, v, [*slopes, *weights]))
    (spikes, v, slopes), (plain_spikes, plain_v, plain_slopes) = found
    assert 0.02 < spikes.mean() < 0.98
    np.testing.assert_array_equal(spikes, plain_spikes)
    # XLA, of which torch has none, fuses multiplications and additions: the last bit differs.
    last_bits = 0 if keras.backend.backend() == "torch" else 1e-6
    np.testing.assert_allclose(v, plain_v, rtol=last_bits, atol=last_bits)
    compare_gradients(slopes, plain_slopes, x)


def compare_gradients(found, wanted, x):
    """Equal to 1e-6; those of parameters, which are sums of many rounded terms, to 1e-5."""
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(b).max() > 0
        rtol = 1e-5 if b.size < x[:, 0].size else 0
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6 * max(1, np.abs(b).max()))


def currents(*shape):
    return np.random.default_rng(0).normal(0.6, 1.0, shape).astype("float32")


@pytest.mark.parametrize("reset", RESETS, ids=str)
@pytest.mark.parametrize("name", NEURONS)
def test_fused_is_plain(name, reset):
    compare(*pair(name, **reset), currents(3, 6, 5))


@pytest.mark.parametrize("steps", [1, 2, 16, 70])
@pytest.mark.parametrize("name", ["LIF", "ParametricLIF"])
def test_lengths(name, steps):
    compare(*pair(name, surrogate="sigmoid"), currents(2, steps, 4))


MASKS = {
    "behind": [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
    "anywhere": [[0, 0, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0]],
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sequences", [True, False])
def test_masks(mask, sequences):
    """Masked steps change nothing; their currents may be anything."""
    x, keep = currents(3, 6, 5) + 1, np.array(MASKS[mask], "bool")
    x[~keep] = 1e3
    upstream = ops.array(np.random.default_rng(1).normal(size=x.shape).astype("float32"))
    found = []
    for layer in pair("ParametricLIF", trainable_threshold=True, return_sequences=sequences):

        def run(x, v, layer=layer):
            spikes = layer(x, initial_state=[v], mask=ops.array(keep))
            return ops.sum(spikes * (upstream if sequences else upstream[:, -1]))

        start = np.full((3, 5), 0.9, "float32")
        spikes = to_numpy(layer(x, initial_state=[ops.array(start)], mask=ops.array(keep)))
        _, slopes, weights = gradients(run, layer.trainable_variables, x, start)
        found.append((spikes, [*slopes, *weights]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][0].any() and not found[0][0].all()
    compare_gradients(found[0][1], found[1][1], x)
    assert np.all(found[0][1][0][~keep] == 0)


def compare_in_graph(found_from, neurons, variables, x):
    """Spikes and gradients of both of the neurons, in a graph on TensorFlow.

    Args:
        found_from: `f(layer, x)`: the spikes of a layer for currents `x`.
        neurons: A fused layer and a plain one.
        variables: What learns beside the layers' own.
        x: Currents, numpy.
    """
    upstream = ops.array(np.random.default_rng(1).normal(size=x.shape), "float32")
    found = []
    for layer in neurons:
        layer.build(x.shape)
        run = functools.partial(found_from, layer)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            run = tf.function(run)
        learned = [*variables, *layer.trainable_variables]
        slopes = gradients(lambda x, run=run: ops.sum(run(x) * upstream), learned, x)
        found.append((to_numpy(run(ops.array(x))), [*slopes[1], *slopes[2]]))
    (spikes, slopes), (plain_spikes, plain_slopes) = found
    assert 0.02 < spikes.mean() < 0.98
    np.testing.assert_array_equal(spikes, plain_spikes)
    compare_gradients(slopes, plain_slopes, x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("steps", [3, 12])
@pytest.mark.parametrize("name", ["IF", "LIF", "ParametricLIF"])
def test_from_the_resting_potential_in_a_graph(name, steps, training):
    """No potential is given or returned; with `training=False` there are gradients all the same."""
    neurons = pair(name, trainable_threshold=name == "LIF", v_reset=-0.25)
    x = 3 * currents(2, steps, 5)
    compare_in_graph(lambda layer, x: layer(x, training=training), neurons, [], x)
    assert len(neurons[0].trainable_variables) == (name != "IF")


@pytest.mark.parametrize(
    "middle",
    [
        lambda: [keras.layers.BatchNormalization(axis=3), keras.layers.Reshape((5, 4))],
        lambda: [layers.ThresholdDependentBatchNormalization(), keras.layers.Reshape((5, 4))],
        lambda: [keras.layers.LayerNormalization(), layers.FoldTime(keras.layers.Flatten())],
    ],
)
def test_predict_behind_a_normalization_and_a_reshape(middle):
    """Graphs of inference give the shape and the spikes of a call."""
    model = keras.Sequential([keras.Input((5, 1, 4)), *middle(), layers.LIF()])
    x = 3 * currents(2, 5, 1, 4)
    spikes = to_numpy(model(x))
    assert spikes.shape == (2, 5, 4) and 0.02 < spikes.mean() < 0.98
    np.testing.assert_array_equal(model.predict(x, verbose=0), spikes)


@pytest.mark.parametrize("sharing", ["scalar", "channel", "neuron"])
@pytest.mark.parametrize("name", ["IF", "ParametricLIF"])
def test_learned_parameters(name, sharing):
    arguments = {"trainable_threshold": True, "parameter_shape": sharing, "reset": "soft"}
    compare(*pair(name, **arguments), currents(2, 12, 3, 4))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="tiles are the PyTorch backend's")
@pytest.mark.parametrize("elements", [1, 12, 40])  # an example and a step; two examples; two steps
@pytest.mark.parametrize("name", ["LIF", "ParametricLIF", "DecayLIF"])
def test_tiles(name, elements, monkeypatch):

    monkeypatch.setattr(tuning, "TILE", elements)
    compare(*pair(name, reset="hard"), currents(3, 5, 6))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the PyTorch backend's own")
def test_shapes_alone_take_no_steps(monkeypatch):
    import torch

    from keras_snn.kernels import torch as kernel

    for name in ("forward", "backward"):
        monkeypatch.delattr(kernel.InPlace, name)
    layer = layers.LIF(return_state=True)
    x = torch.empty((2, 300, 3), device="meta", requires_grad=True)
    with keras.device("meta"):
        spikes, v = layer(x)
        (spikes.sum() + v.sum()).backward()
    assert (spikes.shape, v.shape, x.grad.shape) == ((2, 300, 3), (2, 3), (2, 300, 3))
    assert {t.device.type for t in (spikes, v, x.grad)} == {"meta"}


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the PyTorch backend's own")
def test_what_is_saved_and_what_has_no_gradient():
    import torch

    x = torch.tensor(currents(2, 5, 300), requires_grad=True)
    saved = []

    def pack(tensor):
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layers.LIF()(x)
    assert saved.count((2, 5, 300)) == 1  # the charged potentials
    layer, plain = pair("LIF", return_state=True)
    for part in (0, 1):  # only the spikes, only the last potential
        found, wanted = (torch.autograd.grad(c(x)[part].sum(), x)[0] for c in (layer, plain))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_who_is_fused():
    class Odd(layers.IFCell):
        def charge(self, v, x):
            return v + x * x

    x = ops.convert_to_tensor(currents(2, 4, 3))
    for cell, fits in (
        (layers.IFCell(), True),
        (layers.KLIFCell(), False),
        (layers.AdaptiveLIFCell(), False),
        (layers.DelayedLIFCell(), False),
        (Odd(), False),
    ):
        layer = layers.SpikingRNN(cell)
        layer(x)
        assert (layer.cell.fused_spec() is not None) is fits
    spikes = to_numpy(layers.SpikingRNN(Odd())(np.full((1, 2, 1), -1.0, "float32")))
    assert spikes.ravel().tolist() == [1, 1]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_other_dtypes(policy):
    fused, plain = pair("LIF", dtype=policy)
    x = currents(2, 5, 3)
    np.testing.assert_array_equal(
        to_numpy(ops.cast(fused(x), "float32")), to_numpy(ops.cast(plain(x), "float32"))
    )


@pytest.mark.parametrize("steps", [3, 6])
def test_fit_is_the_same(steps):
    weights = []
    for use_fused in (True, False):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((steps, 8)),
                keras.layers.Dense(16),
                layers.ParametricLIF(),
                layers.MeanOverTime(),
            ]
        )
        model.layers[1].use_fused = use_fused
        model.compile(keras.optimizers.SGD(0.5), "mse")
        x = currents(32, steps, 8)
        model.fit(x, np.zeros((32, 16), "float32"), epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, atol=1e-5)


INFINITE = [[np.inf, 3, 3], [-np.inf, 3, 3], [np.inf, -np.inf, 3], [-np.inf, -np.inf, np.inf]]
SPIKING = ["IF", "LIF", "ParametricLIF", "DecayLIF", "AdaptiveLIF", "STDBLIF", "DelayedLIF"]
SPIKING += ["SynapticLIF", "KLIF", "QIF", "EIF", "Izhikevich"]


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("name", SPIKING)
def test_infinite_currents_make_spikes_and_nan_shows(name, reset):
    """Spikes are 0 or 1 for any current but NaN, which is in all spikes from its step on."""
    x = np.array([*INFINITE, [0, np.nan, 3]], "float32")[..., None]
    late = name in ("STDBLIF", "DelayedLIF")  # they fire one step later
    for use_fused in (True, False):
        layer = getattr(layers, name)(reset=reset)
        layer.use_fused = use_fused
        spikes = to_numpy(layer(x))[..., 0]
        assert np.isin(spikes[:-1], (0, 1)).all()
        assert spikes[0, int(late)] == 1
        np.testing.assert_array_equal(np.isnan(spikes[-1]), [False, not late, True])


def test_a_neuron_fires_on_after_an_infinite_current():
    for layer in (layers.LIF(), layers.LIF(detach_reset=False), layers.IF(reset="soft")):
        assert to_numpy(layer(np.array([np.inf, 3, 3, 3], "float32")[None, :, None])).all()


@pytest.mark.parametrize("steps", [4, 6])
@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_last_states_behind_masks(name, reset, steps):
    """With gradients through the reset, to first states, weights and learned thresholds."""
    mask = ops.array(MASKS["anywhere"], "bool")[:, :steps]
    compare(*pair(name, reset=reset, detach_reset=False), currents(3, steps, 5) + 1.5, mask=mask)


def penalty_gradients(layer, x, **given):
    """Gradients of a gradient penalty, which are second derivatives, to currents and weights."""
    upstream = ops.array(np.random.default_rng(1).normal(size=x.shape), "float32")

    def loss(x):
        return ops.sum(ops.sin(layer(x, **given)) * upstream)

    layer.build(x.shape)
    variables, backend = layer.trainable_variables, keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        x, weights = tf.constant(x), [v.value for v in variables]
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = loss(x)
            penalty = tf.reduce_sum(inner.gradient(value, x) ** 2)
        return to_numpy(outer.gradient(penalty, [x, *weights]))
    if backend == "jax":
        import jax

        def penalty(x, weights):
            with keras.StatelessScope(list(zip(variables, weights))):
                return ops.sum(jax.grad(loss)(x) ** 2)

        of_x, of_weights = jax.grad(penalty, (0, 1))(ops.array(x), [v.value for v in variables])
        return to_numpy([of_x, *of_weights])
    import torch

    x = torch.tensor(x, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(x), x, create_graph=True)
    return to_numpy(torch.autograd.grad(slope.square().sum(), [x, *(v.value for v in variables)]))


@pytest.mark.parametrize(("steps", "masked"), [(3, False), (6, False), (6, True)])
def test_second_derivatives(steps, masked):
    fused, plain = pair(
        "ParametricLIF",
        surrogate="sigmoid",
        trainable_threshold=True,
        detach_reset=False,
        v_reset=-0.25,
    )
    x = currents(2, steps, 3)
    given = {"mask": ops.array([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0]], "bool")} if masked else {}
    found = [penalty_gradients(layer, x, **given) for layer in (fused, plain)]
    for a, b in zip(*found, strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_second_derivative_of_a_step_by_hand():
    """Of `sin(s(u))`: `g = cos(s) d(u)`, and `g' = -sin(s) d(u)^2 + cos(s) d'(u)`."""
    x = np.array([[[0.3]], [[1.4]]], "float32")  # one step, so that u = x - 1
    u = x.ravel().astype("float64") - 1
    s, z = (u >= 0) * 1.0, 1 / (1 + np.exp(-4 * u))
    d, slope = 4 * z * (1 - z), 16 * z * (1 - z) * (1 - 2 * z)
    up = np.random.default_rng(1).normal(size=x.shape).astype("float32").ravel()
    wanted = 2 * up**2 * np.cos(s) * d * (-np.sin(s) * d**2 + np.cos(s) * slope)
    for layer in pair("IF", surrogate="sigmoid"):
        np.testing.assert_allclose(penalty_gradients(layer, x)[0].ravel(), wanted, rtol=1e-5)


def test_epsilon_counts_in_the_inference_of_a_folded_normalization():
    layer = layers.FoldTime(keras.layers.BatchNormalization(epsilon=0.5))
    x = currents(2, 3, 4)
    layer.build(x.shape)
    layer.layer.moving_variance.assign(np.full(4, 0.25, "float32"))
    wanted = x.astype("float64") / np.sqrt(0.25 + 0.5)
    np.testing.assert_allclose(to_numpy(layer(x, training=False)), wanted, rtol=1e-5)
