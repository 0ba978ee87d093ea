# %% [markdown]
# # 6. From a trained network without spikes
#
# *About a minute on two cores. Nothing to download. [This page as a notebook](06_from_ann.ipynb).*
#
# You may have a network already: an ordinary one, without spikes (an *ANN*). It can be turned into
# a spiking one without training. The idea: a value such as 0.3 becomes a neuron that fires at 3 of
# 10 steps. So the more steps, the finer the values. This tutorial shows what is gained and lost.

# %% tags=["parameters"]
EPOCHS = 30
TIMESTEPS = 64
TUNING = 5

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_snn import analysis, conversion, datasets

keras.utils.set_random_seed(0)
digits = datasets.load("digits", batch_size=64)
images, labels = (
    np.concatenate([keras.ops.convert_to_numpy(batch[i]) for batch in digits.test])
    for i in range(2)
)
some = np.concatenate([keras.ops.convert_to_numpy(batch[0]) for batch in digits.train])[:200]
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

# %% [markdown]
# ## The ANN
#
# Nothing special: convolutions, ReLUs, average pooling.

# %%
ann = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        keras.layers.AveragePooling2D(2),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10),
    ]
)
ann.compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])
ann.fit(digits.train, epochs=EPOCHS, verbose=0)
ann_accuracy = ann.evaluate(images, labels, verbose=0)[1]
print(f"ANN: {100 * ann_accuracy:.1f} % right")

# %% [markdown]
# ## The same values, as rates
#
# A neuron can't fire more than once a step. So the largest value that a layer gives is scaled to
# "fires at every step"; for that, `convert` looks at some typical images. The report says what
# became of every layer.

# %%
spiking, report = conversion.convert(ann, some, method="max", timesteps=TIMESTEPS)
print(report)

# %% [markdown]
# One picture shows the idea. Across: what the ReLUs of the first layer give, in the scale of the
# report. Upwards: how often the neurons that replace them fire.

# %%
relu = keras.Model(ann.inputs, ann.layers[0].output).predict(images[:20], verbose=0)
found = analysis.record(spiking, images[:20])
spikes = found[next(iter(found))]["spikes"]
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
for ax, steps in zip(axes, (8, TIMESTEPS)):
    ax.plot(relu.ravel(), spikes[:, :steps].mean(1).ravel(), ".", markersize=2, alpha=0.4)
    ax.set_title(f"{steps} steps")
    ax.set_xlabel("value in the ANN")
axes[0].set_ylabel("firing rate")
plt.show()

# %% [markdown]
# With few steps there are few rates, and the picture is a staircase. With many it is nearly a line.
#
# ## What time buys
#
# If we scale by the *largest* value, one rare pixel makes all others fire rarely. Scaling by the
# 99.9th *percentile* loses that pixel and wins time. And a neuron that starts half full rounds to
# the nearest step instead of always down (`initial_potential=0.5`).

# %%
settings = {
    "largest value": {"method": "max"},
    "percentile": {"method": "percentile"},
    "percentile, half full": {"method": "percentile", "initial_potential": 0.5},
}
for name, arguments in settings.items():
    network, _ = conversion.convert(ann, some, timesteps=TIMESTEPS, **arguments)
    curve = analysis.accuracy_over_time(network, (images, labels))
    plt.semilogx(np.arange(1, TIMESTEPS + 1), 100 * curve.accuracy, label=name, base=2)
    print(f"{name}: {curve}")
plt.axhline(100 * ann_accuracy, color="gray", linestyle="--", label="ANN")
plt.xlabel("number of steps")
plt.ylabel("right answers (%)")
plt.legend()
plt.show()

# %% [markdown]
# ## A single step: train a little
#
# Each step costs time and energy. How about one? Then a rate is 0 or 1, and the conversion alone is
# too coarse. But the converted network is an ordinary Keras model with surrogate gradients, so a
# few epochs of `fit` can mend that.

# %%
short, _ = conversion.convert(ann, some, method="percentile", timesteps=1, initial_potential=0.5)
short.compile(keras.optimizers.Adam(0.001), loss, metrics=["accuracy"])
before = short.evaluate(images, labels, verbose=0)[1]
short.fit(digits.train, epochs=TUNING, verbose=0)
after = short.evaluate(images, labels, verbose=0)[1]
print(f"one step: {100 * before:.1f} % right as converted, {100 * after:.1f} % after training")

# %% [markdown]
# ## What to try next
#
# * Your own ANN, `keras.applications` included. What can't be converted is named before any work.
# * `keras_snn.layers.ClipFloorShift` instead of ReLU: an ANN whose values are stairs from the start
#   loses nothing when it is converted.
# * Deeper networks need more steps: see the tables in [conversion](../conversion.md).
# * What do the steps cost? Next: [7. Energy](07_energy.md).
