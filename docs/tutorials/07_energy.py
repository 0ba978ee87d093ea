# %% [markdown]
# # 7. Energy: what is counted, and what is not
#
# *Less than a minute on two cores. Nothing to download. [This page as a
# notebook](07_energy.ipynb).*
#
# "Spiking networks save energy." Do they? It depends on how often neurons fire, on how many steps
# they need, and on what you count. Here we count, and see how easily one arrives at the answer one
# would like to have.

# %% tags=["parameters"]
EXAMPLES = 360

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_snn import analysis, applications, datasets

digits = datasets.load("digits", batch_size=360)
images, labels = map(keras.ops.convert_to_numpy, next(iter(digits.test)))
images, labels = images[:EXAMPLES], labels[:EXAMPLES]
model = applications.SEWResNet8(weights="digits")

# %% [markdown]
# ## Where the saving comes from
#
# An ordinary layer multiplies each input with a weight and adds it up: a *multiply-accumulate*. A
# spike is 1 or 0. There is nothing to multiply by 1: add the weight (an *accumulate*, which costs
# about a fifth in 32-bit floats). And nothing at all to do for 0.
#
# `profile` runs the network on data and counts, layer by layer:

# %%
found = analysis.profile(model, images)
print(found)

# %% [markdown]
# ## Three answers to one question
#
# The same network with ReLUs instead of neurons needs one pass, not four steps. Who needs less?

# %%
rows = {
    "float32, operations": analysis.profile(model, images),
    "int8, operations": analysis.profile(model, images, energy="45nm-int8"),
}
answers = {name: (found.energy, found.ann_energy) for name, found in rows.items()}
answers["float32, with memory"] = (found.total_energy, found.ann_total_energy)
for name, (spiking, ann) in answers.items():
    print(f"{name}: {spiking:,.0f} nJ with spikes, {ann:,.0f} without: {spiking / ann:.2f} times")

# %%
names = list(answers)
ratios = [spiking / ann for spiking, ann in answers.values()]
figure, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
ax.barh(names, ratios)
ax.axvline(1, color="gray", linestyle="--")
ax.set_xlabel("energy, as a share of the same network without spikes")
ax.invert_yaxis()
plt.show()

# %% [markdown]
# If only operations count, spikes look good. But weights and potentials have to be fetched from
# memory and written back, at every step, and memory costs more than arithmetic. Papers often count
# operations alone. **Always say which.**
#
# ## How quiet would it have to be?
#
# The *break-even rate*: if neurons fired less than this (spikes per neuron and step), the spiking
# network would need less.

# %%
print(f"fires at a rate of {found.rate:.3f}")
for memory in (False, True):
    rate = found.break_even(memory=memory)
    text = "no rate is low enough" if rate is None or rate <= 0 else f"break-even at {rate:.3f}"
    print(f"{'with memory' if memory else 'operations'}: {text}")

# %% [markdown]
# A rate above 1 cannot be: counted by operations, spikes always win here. Counted with memory, this
# network fires just too often.
#
# ## Which layers cost?

# %%
analysis.plot_energy(found)
plt.show()

# %% [markdown]
# ## Steps cost
#
# The network was trained for 4 steps. With fewer it needs less. Two would do here; with a single
# one it is wrong twice as often. (Four of the 360 images are a percent.)

# %%
curve = analysis.accuracy_over_time(model, (images, labels), timesteps=8)
energies = [analysis.profile(model, images[:60], timesteps=t).energy for t in (1, 2, 3, 4, 6, 8)]
accuracies = [100 * curve.accuracy[t - 1] for t in (1, 2, 3, 4, 6, 8)]
plt.plot(np.array(energies) / 1000, accuracies, "o-")
for t, x, y in zip((1, 2, 3, 4, 6, 8), energies, accuracies):
    plt.annotate(f"T = {t}", (x / 1000, y), xytext=(6, -12), textcoords="offset points")
plt.xlabel("energy of the operations (microjoules an image)")
plt.ylabel("right answers (%)")
plt.show()

# %% [markdown]
# ## What is not counted
#
# * What layers do besides multiplying: pooling, activations, adding branches, comparing with
#   thresholds.
# * Caches, the network on a chip, leaking current, the sensor.
# * Whether your chip can skip a zero at all. A GPU or a microcontroller can't: there a spiking
#   network costs its full multiplications, at every step.
#
# These numbers compare networks with each other. They do not predict a battery.
#
# ## What to try next
#
# * Make it quieter: train with `keras_snn.regularizers.RateRegularizer`, and profile again.
# * Figures of another chip: `analysis.ENERGY` and `analysis.MEMORY` are tables; add your own.
# * What an exported file costs: `analysis.profile_file("model.tflite")`.
# * [How each figure is counted, and how to quote it](../energy.md).
# * Next: [8. To a microcontroller](08_microcontroller.md).
