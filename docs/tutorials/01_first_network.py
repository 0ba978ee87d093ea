# %% [markdown]
# # 1. Your first spiking network
#
# *About a minute on two cores. Nothing to download. [This page as a
# notebook](01_first_network.ipynb).*
#
# Neurons in a brain do not send numbers to each other. They send *spikes*: short pulses, all alike.
# A neuron says something by **when** and **how often** it fires. A network made of such neurons is
# called a spiking neural network, SNN for short.
#
# In this tutorial we look at one neuron, build a network of 128 of them, and train it to read
# handwritten digits. It is an ordinary Keras model: `fit`, `evaluate`, `save` work as always.

# %% tags=["parameters"]
EPOCHS = 12

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_snn import analysis, datasets
from keras_snn import layers as snn

keras.utils.set_random_seed(0)

# %% [markdown]
# ## One neuron
#
# A neuron is a leaky bucket. Current flows in, the level (the *membrane potential*) rises, and some
# of it leaks away all the time. When the level reaches the *threshold*, here 1, the neuron fires a
# spike and its bucket is emptied. That is the *leaky integrate-and-fire* neuron, `LIF`.
#
# Tensors are `(batch, time, ...)`. Here is a batch of 1, with 40 steps of time, and 1 neuron. The
# current is weak at first, then off, then strong:

# %%
current = np.zeros((1, 40, 1), "float32")
current[:, 2:15] = 1.5
current[:, 22:38] = 3.0

inputs = keras.Input((40, 1))
one_neuron = keras.Model(inputs, snn.LIF(tau=5.0, name="lif")(inputs))
spikes = keras.ops.convert_to_numpy(one_neuron(current))
print("spikes:", spikes[0, :, 0].astype(int))

# %%
found = analysis.record(one_neuron, current, "lif", ("spikes", "membrane", "charged", "currents"))
traces = {kind: values[0] for kind, values in found["lif"].items()}
analysis.plot_membrane(threshold=1.0, reset=0.0, **traces)
plt.show()

# %% [markdown]
# From top to bottom: the spikes, the membrane potential with the threshold (dashed) and where the
# bucket is empty again (dotted), the current that flows in. Twice the current, and the neuron
# fires twice to three times as often: **the rate of firing tells how strong the input is.**
# Without current the potential leaks away.
#
# ## Data
#
# 1,797 images of handwritten digits, 8 x 8 pixels each, from scikit-learn. A fifth is held out.

# %%
digits = datasets.load("digits", batch_size=64)
images, labels = map(keras.ops.convert_to_numpy, next(iter(digits.test)))

figure, axes = plt.subplots(1, 8, figsize=(8, 1.3))
for ax, image, label in zip(axes, images, labels):
    ax.imshow(image[..., 0], cmap="gray")
    ax.set_title(label)
    ax.set_axis_off()
plt.show()

# %% [markdown]
# ## A network
#
# An image does not move, but a spiking network needs time: it looks at the same image for
# `TIMESTEPS` steps. `RepeatTime` does that. Every other layer works on each step alone; `Dense`
# does so by itself. At the end `MeanOverTime` takes the mean of all steps as the answer.
# `BatchNormalization` brings the currents to where neurons fire, neither never nor always; a
# momentum of 0.9 suits a short training.

# %%
TIMESTEPS = 8

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Flatten(),
        snn.RepeatTime(TIMESTEPS),
        keras.layers.Dense(128),
        keras.layers.BatchNormalization(momentum=0.9),
        snn.LIF(tau=2.0, name="hidden"),
        keras.layers.Dense(10),
        snn.MeanOverTime(),
    ]
)
model.summary()

# %% [markdown]
# ## Training
#
# A spike is either there or not: a step, whose slope is zero. How can a gradient pass? On its way
# back it takes the slope of a smooth curve instead, a *surrogate* (the next tutorial is about it).
# You need not do anything for it.

# %%
model.compile(
    keras.optimizers.Adam(0.002),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(digits.train, epochs=EPOCHS, validation_data=digits.test, verbose=2)

# %%
plt.plot(100 * np.array(history.history["accuracy"]), label="training")
plt.plot(100 * np.array(history.history["val_accuracy"]), label="held out")
plt.xlabel("epoch")
plt.ylabel("right answers (%)")
plt.legend()
plt.show()

# %% [markdown]
# ## What the neurons do
#
# Each row of this picture is a neuron, each mark a spike, while the network looks at one image. The
# neurons that fire most are on top; most of the others hardly ever fire. That is why spiking
# networks can save energy: where there is no spike, there is nothing to compute.

# %%
spikes = analysis.record(model, images[:1])["hidden"]["spikes"][0]
analysis.plot_raster(spikes)
plt.show()
for layer, rate in analysis.firing_rates(model, images).items():
    print(f"{layer}: {rate:.2f} spikes per neuron and step")

# %% [markdown]
# ## Keep it

# %%
model.save("first_network.keras")
again = keras.saving.load_model("first_network.keras")
answers = again.predict(images, verbose=0).argmax(-1)
print(f"{(answers == labels).sum()} of {len(labels)} right after loading")

# %% [markdown]
# ## What to try next
#
# * Set `TIMESTEPS = 1`, then 2 and 4. How much does time help?
# * Set `tau=20.0`: neurons that hardly leak. Or another neuron: `snn.IF()` does not leak at all.
# * Add a second hidden layer: `Dense`, `BatchNormalization`, `LIF`.
# * Then read [2. Surrogate gradients by eye](02_surrogate_gradients.md), or, if you would rather
#   see a deep network, [3. A trained network, fine-tuned](03_trained_network.md).
