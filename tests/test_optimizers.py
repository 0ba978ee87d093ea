"""Optimizers and learning rates against PyTorch's."""

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers, ops

from keras_snn import optimizers
from keras_snn.optimizers import EpochSchedule

torch = pytest.importorskip("torch")

STEPS = 12
SHARED = {"learning_rate": 0.05, "weight_decay": 0.1}
# Keras's Adam has 1 - 0.999^step in float32, good to 3e-5 at first: of a step as small as this.
ADAM = {"learning_rate": 0.005, "weight_decay": 0.1, "epsilon": 1e-8}
CASES = {
    "plain": (optimizers.SGD, "SGD", {}),
    "momentum": (optimizers.SGD, "SGD", {"momentum": 0.9}),
    "nesterov": (optimizers.SGD, "SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": (optimizers.Adam, "Adam", {}),
    "amsgrad": (optimizers.Adam, "Adam", {"amsgrad": True}),
    "adamw": (keras.optimizers.AdamW, "AdamW", {}),
}
RNG = np.random.default_rng(0)
START = RNG.normal(size=(2, 6))
# Of a quadratic: gradients follow the weights, so an error at one step shows in those that follow.
SLOPES = RNG.uniform(0.1, 3, (STEPS, 6))
SHIFTS = RNG.normal(size=(STEPS, 6))


def of_torch(kind, rate=lambda step: 1.0, accumulate=1, clip=None, decayed=2, **arguments):
    """Two weights after each step of `torch.optim`, in float64; `decayed` of them decay."""
    weights = [torch.nn.Parameter(torch.tensor(w)) for w in START]
    first, decay = (0.05 if kind == "SGD" else 0.005), 0.1
    groups = [
        {"params": [w], "weight_decay": decay if i < decayed else 0} for i, w in enumerate(weights)
    ]
    optimizer = getattr(torch.optim, kind)(groups, lr=first, **arguments)
    found = []
    for step in range(STEPS):
        for w in weights:
            gradient = (
                torch.tensor(SLOPES[step]) * w.detach() + torch.tensor(SHIFTS[step])
            ) / accumulate
            w.grad = gradient if w.grad is None else w.grad + gradient
        if (step + 1) % accumulate == 0:
            for group in optimizer.param_groups:
                group["lr"] = first * rate(step)
                if clip:
                    torch.nn.utils.clip_grad_norm_(group["params"], clip)
            optimizer.step()
            optimizer.zero_grad()
        found.append([w.detach().numpy().copy() for w in weights])
    return np.array(found)


def of_keras(optimizer, scale=1.0):
    weights = [keras.Variable(w.astype("float32"), name=f"w{i}") for i, w in enumerate(START)]
    found = []
    for step in range(STEPS):
        gradients = [ops.convert_to_tensor(SLOPES[step], "float32") * w for w in weights]
        shift = ops.convert_to_tensor(SHIFTS[step], "float32")
        optimizer.apply([(g + shift) * scale for g in gradients], weights)
        found.append(to_numpy([w.value for w in weights]))
    return np.array(found)


@pytest.mark.parametrize("case", CASES)
def test_trajectories_are_those_of_torch(case):
    kind, name, arguments = CASES[case]
    optimizer = kind(**SHARED if name == "SGD" else ADAM, **arguments)
    expected = of_torch(name, **arguments)
    np.testing.assert_allclose(of_keras(optimizer), expected, rtol=0, atol=2e-6)


CIRCUMSTANCES = {
    "accumulation": ({"gradient_accumulation_steps": 3}, {"accumulate": 3}, 1.0),
    "clipping before the penalty": ({"clipnorm": 0.5}, {"clip": 0.5}, 1.0),
    "scaled losses": ({"loss_scale_factor": 64.0}, {}, 64.0),
    "averages of weights": ({"use_ema": True}, {}, 1.0),
}


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_circumstances_of_coupled_decay(name):
    own, of_peer, scale = CIRCUMSTANCES[name]
    expected = of_torch("SGD", momentum=0.9, **of_peer)
    optimizer = optimizers.SGD(**SHARED, momentum=0.9, **own)
    np.testing.assert_allclose(of_keras(optimizer, scale), expected, rtol=0, atol=2e-6)


def test_excluded_weights_do_not_decay():
    expected = of_torch("Adam", decayed=1)
    optimizer = optimizers.Adam(**ADAM)
    optimizer.exclude_from_weight_decay(var_names=["w1"])
    np.testing.assert_allclose(of_keras(optimizer), expected, rtol=0, atol=2e-6)


def test_a_new_learning_rate_takes_effect_at_once():
    fall = keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.05, 0.005])
    expected = of_torch("SGD", lambda step: 1.0 if step < 6 else 0.1, momentum=0.9)
    found = of_keras(optimizers.SGD(fall, momentum=0.9, weight_decay=0.1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_any_optimizer_takes_coupled_decay():
    class RMSprop(optimizers.CoupledDecay, keras.optimizers.RMSprop):
        pass

    weights = [keras.Variable([2.0, -1.0]) for _ in range(2)]
    RMSprop(0.1, weight_decay=0.5).apply([ops.ones(2)], weights[:1])
    keras.optimizers.RMSprop(0.1).apply([ops.convert_to_tensor([2.0, 0.5])], weights[1:])
    np.testing.assert_allclose(*to_numpy([w.value for w in weights]), rtol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_fitted_saved_and_loaded(policy, tmp_path):
    """One batch of a linear model in closed form, by `fit`; then what a file keeps."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, dtype=policy)])
    model.set_weights([np.array([[2.0]]), np.array([1.0])])
    schedule = EpochSchedule(0.25, 1, warmup_steps=0)
    model.compile(optimizers.SGD(schedule, momentum=0.9, weight_decay=0.5), "mse")
    model.fit(np.ones((4, 1)), np.ones((4, 1)), batch_size=4, epochs=1, verbose=0)
    # The output is 3, so the gradient of (3 - 1)^2 is 4; with the penalty's 4 + 1 and 4 + 0.5.
    for found, expected in zip(model.get_weights(), (2 - 0.25 * 5, 1 - 0.25 * 4.5)):
        np.testing.assert_allclose(found, [expected] if found.ndim == 1 else [[expected]])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inner = getattr(loaded.optimizer, "inner_optimizer", loaded.optimizer)
    assert type(inner) is optimizers.SGD
    assert inner.weight_decay == 0.5
    for one in (model, loaded):
        one.fit(np.ones((4, 1)), np.ones((4, 1)), batch_size=4, epochs=1, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], loaded.get_weights()[0])


def test_a_cosine_of_epochs_is_that_of_torch():
    epochs, steps = 5, 4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    rate = EpochSchedule(keras.optimizers.schedules.CosineDecay(0.1, epochs * steps), steps)
    for step in range(epochs * steps):
        assert float(rate(step)) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-5)
        optimizer.step()
        if step % steps == steps - 1:
            peer.step()


@pytest.mark.once
def test_warmup():
    rate = EpochSchedule(keras.optimizers.schedules.CosineDecay(0.4, 8), 1, warmup_steps=4)
    found = [float(rate(step)) for step in (0, 1, 3, 4, 8, 12)]
    np.testing.assert_allclose(found, [0, 0.1, 0.3, 0.4, 0.2, 0], atol=1e-7)
    assert float(EpochSchedule(0.4, 10, warmup_steps=4)(3)) == pytest.approx(0.3)
    rise = EpochSchedule(0.5, 1, warmup_steps=4, warmup_rate=0.1)
    np.testing.assert_allclose([float(rise(step)) for step in (0, 1, 4)], (0.1, 0.2, 0.5))
    cosine = keras.optimizers.schedules.CosineDecay(0.4, 8)
    within = EpochSchedule(cosine, 1, warmup_steps=4, within=True)
    assert float(within(4)) == pytest.approx(0.2)  # half way
    again = EpochSchedule.from_config(within.get_config())
    assert again.get_config() == within.get_config() and float(again(6)) == float(within(6))
    again = EpochSchedule.from_config(rate.get_config())
    assert float(again(6)) == float(rate(6))
    with pytest.raises(ValueError, match="`steps_per_epoch`.*0"):
        EpochSchedule(0.1, 0)
    with pytest.raises(ValueError, match="`warmup_steps`.*-1"):
        EpochSchedule(0.1, 1, -1)
