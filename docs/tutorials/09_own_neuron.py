# %% [markdown]
# # 9. A neuron of your own, and fast
#
# *Less than a minute on two cores. Nothing to download. [This page as a
# notebook](09_own_neuron.ipynb).*
#
# Your paper has a neuron that nobody else has. In keras_snn it takes one method: how the potential
# takes the input in. Threshold, spikes, surrogate gradient, reset, saving and masks are there
# already. One more method makes it fast, and a check says whether you kept all promises.

# %% tags=["parameters"]
EPOCHS = 8
STEPS = 200

# %%
import time

import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_snn import analysis, datasets, testing
from keras_snn import layers as snn
from keras_snn.kernels import spec

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The equation
#
# Ours is a leaky neuron that leaks towards a level of its own, its *rest*, instead of towards 0.
# With a rest just below the threshold it is always nearly awake:
#
# ```
# h = v - (v - rest) / tau + x
# ```
#
# It fires where `h >= 1`, and then `v` is 0 again.
#
# A *cell* is one step of a neuron; a *layer* runs it over time. The cell defines `charge`, which
# gives `h`. The layer names the cell and needs no code. (In a script of your own, the decorator
# lets Keras find the class in a saved file.)


# %%
@keras.saving.register_keras_serializable(package="mine")
class AwakeCell(snn.SpikingCell):
    """Leaks towards `rest`, one step."""

    def __init__(self, tau=4.0, rest=0.5, **kwargs):
        super().__init__(**kwargs)
        self.tau, self.rest = tau, rest

    def charge(self, v, x):
        return v - (v - self.rest) / self.tau + x


@keras.saving.register_keras_serializable(package="mine")
class Awake(snn.Neuron, cell=AwakeCell):
    """Leaks towards `rest`."""


# %% [markdown]
# That is all. Three of them get the same input, and differ in their rest:

# %%
rng = np.random.default_rng(1)
currents = rng.uniform(0, 0.35, (1, 60, 1)).astype("float32")
figure, axes = plt.subplots(3, 1, figsize=(8, 5), sharex=True, layout="constrained")
for ax, rest in zip(axes, (0.0, 0.5, 0.9)):
    entrance = keras.Input((60, 1))
    model = keras.Model(entrance, Awake(rest=rest, name="awake")(entrance))
    found = analysis.record(model, currents, "awake", ("spikes", "charged"))["awake"]
    ax.plot(found["charged"][0, :, 0])
    ax.axhline(1, color="gray", linestyle="--")
    for t in np.flatnonzero(found["spikes"][0, :, 0]):
        ax.axvline(t, color="tab:orange", alpha=0.6)
    ax.set_ylabel(f"rest = {rest}")
axes[-1].set_xlabel("step (orange: spikes)")
plt.show()

# %% [markdown]
# ## Does it keep its promises?
#
# `check_neuron` tries what users will try: shapes and types, sequences in pieces, masks, gradients,
# saving and loading. If you give it the equation in NumPy, it compares with that too. It says
# nothing if all is well, and names what is not.


# %%
def equation(x, v):
    h = v - (v - 0.5) / 4.0 + x
    spikes = (h >= 1).astype(h.dtype)
    return spikes, h * (1 - spikes)


testing.check_neuron(Awake(), equation)
print("all promises kept")


def wrong_equation(x, v):
    h = v + x
    spikes = (h >= 1).astype(h.dtype)
    return spikes, h * (1 - spikes)


try:
    testing.check_neuron(Awake(), wrong_equation)
except AssertionError as error:
    print("not so:", error)

# %% [markdown]
# ## Fast
#
# Step by step, each step is many small operations, and the backward pass keeps what all of them
# made. But our charge is *linear* in `v` and `x`: it is `rest + d * (v - rest) + x` with `d = 1 - 1
# / tau`. If a cell says so, in `linear_charge`, whole sequences run in one fused loop that keeps a
# single tensor. `spec.Leak` is just this form:


# %%
@keras.saving.register_keras_serializable(package="mine")
class FastAwakeCell(AwakeCell):
    """Leaks towards `rest`, one step."""

    def linear_charge(self):
        return spec.Leak(v_rest=self.rest, decay_input=False, tau=self.tau)

    def charge(self, v, x):
        return self.linear_charge().charge(v, x, None)


@keras.saving.register_keras_serializable(package="mine")
class FastAwake(snn.Neuron, cell=FastAwakeCell):
    """Leaks towards `rest`."""


testing.check_neuron(FastAwake(), equation)


def seconds(neuron):
    """Time of a training step of one layer of 256 neurons over a long sequence."""
    entrance = keras.Input((STEPS, 256))
    model = keras.Model(entrance, snn.MeanOverTime()(neuron(entrance)))
    model.compile("sgd", "mse")
    x = rng.uniform(0, 0.5, (16, STEPS, 256)).astype("float32")
    y = np.zeros((16, 256), "float32")
    model.train_on_batch(x, y)  # compiles
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        model.train_on_batch(x, y)
        taken.append(time.perf_counter() - start)
    return min(taken)


print(f"{keras.backend.backend()}, {STEPS} steps, a training step in milliseconds:")
print(f"  step by step {1e3 * seconds(Awake()):.1f}, fused {1e3 * seconds(FastAwake()):.1f}")

# %% [markdown]
# How much it wins depends on the backend: most on PyTorch, which runs each operation by itself;
# less where a compiler joins them anyway. The spikes are the same.
#
# ## In a network

# %%
digits = datasets.load("digits", batch_size=64)
for rest in (0.0, 0.5):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            snn.RepeatTime(4),
            keras.layers.Dense(64),
            FastAwake(rest=rest),
            keras.layers.Dense(10),
            snn.MeanOverTime(),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    model.fit(digits.train, epochs=EPOCHS, verbose=0)
    accuracy = model.evaluate(digits.test, verbose=0)[1]
    print(f"rest = {rest}: {100 * accuracy:.1f} % right")

# %% [markdown]
# ## What to try next
#
# * More states: define `step(x, states)` and `initial_values` instead of `charge`;
#   `snn.AdaptiveLIFCell` is an example to read.
# * Learn `rest`: a weight of the cell, made in `build`.
# * `export.to_tflite`, `to_c` and `to_onnx` know every neuron with a `linear_charge`.
# * To give it to everyone: [extending](../extending.md) names the places.
# * Next: [10. A network of your own](10_own_network.md).
