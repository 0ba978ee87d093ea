"""DH-LIF: the source's recurrence and its gradients in float64, masks, states, files."""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import ops

from keras_snn import analysis, export, graph, layers, surrogates

INPUTS, UNITS, BRANCHES, STEPS = 7, 4, 3, 6
LARGE = keras.initializers.RandomUniform(-3, 4, seed=1)


def layer(**kwargs):
    given = {"kernel_initializer": LARGE, "branch_taus": (1.5, 6), "soma_taus": (1.5, 3)}
    return layers.DendriticLIF(UNITS, BRANCHES, **given | kwargs)


def spikes(*shape, seed=0):
    return (np.random.default_rng(seed).random(shape) < 0.4).astype("float32")


def network(**kwargs):
    parts = [layer(**kwargs), keras.layers.Dense(3), layers.MeanOverTime()]
    return keras.Sequential([keras.Input((STEPS, INPUTS)), *parts])


def source(x, kernel, places, bias, branch_w, soma_w):
    """The source's equations with PyTorch's gradients, in float64; its weights are ours negated."""
    import torch

    def density(x, mean, deviation):
        z = (x - mean) / deviation
        return torch.exp(-(z**2) / 2) / (deviation * (2 * np.pi) ** 0.5)

    class Fire(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return (x > 0).to(x.dtype)

        @staticmethod
        def backward(context, upstream):
            (x,) = context.saved_tensors
            sides = density(x, 0.5, 3.0) + density(x, -0.5, 3.0)
            return upstream * 0.5 * (1.15 * density(x, 0, 0.5) - 0.15 * sides)

    def of_branches(weight):
        return weight.reshape(BRANCHES, UNITS)

    decay, alpha = torch.sigmoid(-of_branches(branch_w)), torch.sigmoid(-soma_w)
    d, u, s, found = 0, 0, 0, []
    for t in range(x.shape[1]):
        currents = [
            torch.stack([x[:, t] @ (kernel[:, j] * (places[:, j] == b)) for j in range(UNITS)], -1)
            for b in range(BRANCHES)
        ]
        d = decay * d + (1 - decay) * (torch.stack(currents, 1) + of_branches(bias))
        u = alpha * u + (1 - alpha) * d.sum(1) - s
        s = Fire.apply(u - 1.0)
        found.append(s)
    return torch.stack(found, 1)


def test_spikes_and_gradients_are_the_sources():
    torch = pytest.importorskip("torch")
    ours, x = layer(), spikes(3, STEPS, INPUTS)
    ours.build(x.shape)
    rng = np.random.default_rng(2)
    upstream = rng.normal(size=(3, STEPS, UNITS)).astype("float32")
    weights = [
        *(ours.synapses.kernel, ours.synapses.places, ours.synapses.bias),
        *(ours.dendrites.cell.w, ours.soma.cell.w),
    ]
    ours.synapses.places.assign(rng.integers(0, BRANCHES, (INPUTS, UNITS)))
    trained, ranges = weights[:1] + weights[2:], [(-1.5, 4), (-1, 1), (-1.5, 0.5), (-1, 0.5)]
    for weight, limits in zip(trained, ranges, strict=True):  # the same on every backend
        weight.assign(rng.uniform(*limits, weight.shape))
    given = [torch.tensor(to_numpy(w.value).astype("float64")) for w in weights]
    given = [torch.tensor(x.astype("float64")), *given]
    for i, tensor in enumerate(given):
        tensor.requires_grad_(i != 2)
    wanted = source(*given)
    (wanted * torch.tensor(upstream)).sum().backward()
    found = to_numpy(ours(x))
    np.testing.assert_array_equal(found, wanted.detach().numpy())
    assert 0.1 < found.mean() < 0.6
    _, to_x, to_weights = gradients(
        lambda x: ops.sum(ours(x) * ops.convert_to_tensor(upstream)), trained, x
    )
    slopes = [given[i].grad.numpy() for i in (0, 1, 3, 4, 5)]
    for a, b in zip([*to_x, *to_weights], slopes, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)


def test_masks_and_states():
    """A masked step is silent and changes nothing; pieces are the whole."""
    ours, x = layer(stateful=True), spikes(2, STEPS, INPUTS)
    whole = to_numpy(ours(x))
    ours.reset_state()
    pieces = [to_numpy(ours(x[:, i : i + 3])) for i in range(0, STEPS, 3)]
    np.testing.assert_array_equal(np.concatenate(pieces, 1), whole)
    ours.reset_state()
    keep = np.ones((2, STEPS), bool)
    keep[:, [0, 2, 5]] = False
    masked = to_numpy(ours(x, mask=keep))
    ours.reset_state()
    np.testing.assert_array_equal(masked[:, keep[0]], to_numpy(ours(x[:, keep[0]])))
    assert whole.any() and not masked[:, ~keep[0]].any()


def test_training_saving_and_precision(tmp_path):
    model, x = network(dtype="mixed_bfloat16"), spikes(4, STEPS, INPUTS)
    parts = model.layers[0]
    assert [
        keras.backend.standardize_dtype(part.compute_dtype)
        for part in (parts.synapses, parts.dendrites, parts.sum, parts.soma)
    ] == ["bfloat16", "float32", "float32", "bfloat16"]
    places = to_numpy(parts.synapses.places.value)
    model.compile("adam", "mse")
    before = to_numpy([w.value for w in model.trainable_variables])
    model.fit(x, np.ones((4, 3)), verbose=0)
    for a, b in zip(before, to_numpy([w.value for w in model.trainable_variables]), strict=True):
        assert np.isfinite(b).all() and (a != b).any()
    np.testing.assert_array_equal(to_numpy(parts.synapses.places.value), places)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))


@pytest.mark.once
def test_each_input_is_on_one_branch():
    ours = layers.DendriticLIF(50, 4, seed=1)
    ours.build((None, None, 10))
    places = to_numpy(ours.synapses.places.value)
    sizes = np.stack([(places == b).sum(0) for b in range(4)])
    assert (sizes.sum(0) == 10).all() and sizes.max() == 3 and sizes.min() == 1
    assert len(np.unique(places, axis=1).T) > 40  # of each neuron others
    full = to_numpy(ours.synapses.full_kernel()).reshape(10, 4, 50)
    np.testing.assert_array_equal(full.sum(1), to_numpy(ours.synapses.kernel.value))
    assert (np.count_nonzero(full, axis=1) == 1).all()
    again = layers.DendriticLIF.from_config(ours.get_config())
    again.build((None, None, 10))
    np.testing.assert_array_equal(to_numpy(again.synapses.places.value), places)
    assert again.get_config() == ours.get_config()
    taus = 1 + np.exp(-to_numpy(ours.dendrites.cell.w.value))
    assert 2 <= taus.min() < 3 and 45 < taus.max() <= 55.6
    assert ours.compute_output_shape((2, None, 10)) == (2, None, 50)
    frozen = layers.DendriticLIF(2, trainable=False)
    frozen.build((None, 3, 4))
    assert not frozen.trainable_variables


@pytest.mark.once
def test_readers_see_the_parts():
    model, x = network(name="net"), spikes(4, STEPS, INPUTS)
    report = analysis.profile(model, x)
    synapses, *_, soma, _ = report.layers
    fired = to_numpy(model.layers[0](x))
    assert synapses.synops == x.sum() * UNITS / 4 and not report.uncharged
    assert soma.rate == pytest.approx(fired.mean())
    *_, (found, _) = analysis.Rollout(model, chunk=4).run(x)
    np.testing.assert_allclose(found[0][:, -1], model.predict(x, verbose=0), atol=1e-6)
    with pytest.raises(TypeError, match="NIR can't say what .*synapses"):
        export.to_nir(model)
    assert graph.is_composed(model.layers[0])


@pytest.mark.once
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.DendriticLIF(0), "units"),
        (lambda: layers.DendriticLIF(2, 0), "branches"),
        (lambda: layers.DendriticLIF(2, branch_taus=(1, 3)), "branch_taus"),
        (lambda: layers.DendriticLIF(2, soma_taus=(5, 3)), "soma_taus"),
        (lambda: layers.DendriticLIF(2, threshold=0), "threshold"),
        (lambda: layers.DendriticLIF(2, seed="a"), "seed"),
        (lambda: layers.DendriticLIF(2)(np.ones((2, 3))), "rank 3"),
        (lambda: layers.DendriticLIF(2)(np.ones((2, 3, 4, 5))), "batch, time, features"),
        (lambda: layers.DendriticLIF(2)(keras.Input((3, None))), "known features"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the work is TensorFlow's")
def test_files_have_the_same_spikes(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra `export`")
    model, x = network(), spikes(8, STEPS, INPUTS)
    wanted = model.predict(x, verbose=0)
    assert len(np.unique(wanted)) > 2
    for report in (
        export.to_tflite(model, tmp_path / "step.tflite", "step", verify_data=x),
        export.to_tflite(model, tmp_path / "clip.tflite", verify_data=x),
    ):
        assert {layer["agreement"] for layer in report.layers} == {1.0}, report
    stream = export.StreamingInterpreter(tmp_path / "step.tflite")
    found = [next(iter(stream.run(clip).values()))[0] for clip in x]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_surrogate_is_below_zero_far_away():
    surrogate = surrogates.get("multi_gaussian")
    slopes = to_numpy(surrogate.derivative(ops.array([-2.0, 0.0, 2.0])))
    np.testing.assert_allclose(slopes[0], slopes[2])
    assert slopes[0] < 0 < slopes[1]
