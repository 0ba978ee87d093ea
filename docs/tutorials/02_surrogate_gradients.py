# %% [markdown]
# # 2. Surrogate gradients by eye
#
# *About a minute on two cores. Nothing to download. [This page as a
# notebook](02_surrogate_gradients.ipynb).*
#
# A network learns by small steps downhill: for every weight it asks "if I were a little larger,
# would the error fall?" A spike makes that question hard. Here we look at the problem, at the trick
# that solves it, and at the one number that decides whether the trick works.

# %% tags=["parameters"]
EPOCHS = 6
WIDTHS = [0.25, 1, 2, 8, 32, 128]

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_snn import analysis, datasets, surrogates
from keras_snn import layers as snn

# %% [markdown]
# ## The problem
#
# A neuron fires when its potential is at or above the threshold. Drawn over the distance to the
# threshold, that is a step: 0, then 1. Its slope is 0 everywhere, and at the step itself there is
# none. A slope of 0 says "nothing you change matters", so nothing is learned.
#
# ## The trick
#
# Forward, spikes stay exactly 0 and 1. Backward, when slopes are asked for, we use those of a
# smooth curve that resembles the step. Such a curve is called a *surrogate*. Close to the threshold
# it says: "a bit more, and the neuron would have fired".

# %%
u = np.linspace(-2, 2, 401).astype("float32")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.step(u, u >= 0, color="gray", linewidth=3, label="a spike")
for name in ("atan", "sigmoid", "triangle", "rectangle"):
    surrogate = surrogates.get(name)
    curve = keras.ops.convert_to_numpy(surrogate.primitive(keras.ops.array(u)))
    slope = keras.ops.convert_to_numpy(surrogate.derivative(keras.ops.array(u)))
    left.plot(u, curve, label=name)
    right.plot(u, slope, label=name)
left.set_title("forward: a step; smooth curves resemble it")
right.set_title("backward: their slopes")
for ax in (left, right):
    ax.set_xlabel("potential - threshold")
    ax.legend()
plt.show()

# %% [markdown]
# (The triangle is a lower one: its paper multiplies it by 0.3.)
#
# There are many of these curves (`surrogates.list_surrogates()` names them all), and papers argue
# about which is best. Most of the time the *form* matters little. The *width* matters a lot. For
# `ATan` it is set by `alpha`: a large `alpha` is a narrow curve.

# %%
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for alpha in (0.5, 2.0, 8.0):
    slope = surrogates.ATan(alpha=alpha).derivative(keras.ops.array(u))
    ax.plot(u, keras.ops.convert_to_numpy(slope), label=f"alpha = {alpha}")
ax.set_xlabel("potential - threshold")
ax.set_ylabel("slope")
ax.legend()
plt.show()

# %% [markdown]
# ## Too narrow, too wide
#
# We train the same network, three spiking layers deep, with curves of different widths, and look at
# two things: how large the gradient is that arrives at the *first* layer before training, and how
# well the network reads digits after it.

# %%
digits = datasets.load("digits", batch_size=64)
images, labels = map(keras.ops.convert_to_numpy, next(iter(digits.test)))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(surrogate):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), snn.RepeatTime(4)]
    for number in range(3):
        layers += [keras.layers.Dense(64, name=f"dense{number}"), snn.LIF(surrogate=surrogate)]
    return keras.Sequential([*layers, keras.layers.Dense(10), snn.MeanOverTime()])


arriving, accuracy = [], []
for alpha in WIDTHS:
    model = build(surrogates.ATan(alpha=alpha))
    norms = analysis.gradient_norms(model, images, labels, loss)
    arriving.append(next(iter(norms.values())))
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    model.fit(digits.train, epochs=EPOCHS, verbose=0)
    accuracy.append(100 * model.evaluate(digits.test, verbose=0)[1])
    print(f"alpha = {alpha}: gradient {arriving[-1]:.1e}, {accuracy[-1]:.1f} % right")

# %%
figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(6, 4.5), layout="constrained")
top.loglog(WIDTHS, arriving, "o-")
top.set_ylabel("gradient at\nthe first layer")
bottom.semilogx(WIDTHS, accuracy, "o-", color="tab:orange")
bottom.set_ylabel("right answers (%)")
bottom.set_ylim(0, 102)
bottom.set_xlabel("alpha: wide curves on the left, narrow ones on the right")
plt.show()

# %% [markdown]
# Where the curve is too narrow, hardly any neuron is close enough to its threshold to get a slope:
# the gradient does not reach the first layers, and the network stays where it is. A very wide curve
# gives everyone a slope, also neurons for which it is wrong; in deeper networks that hurts too.
#
# There is another way out: bring the potentials to the threshold, with normalisation in front of
# each neuron, as in the first tutorial, or with weights made for it
# (`keras_snn.initializers.FiringRateScaling`).
#
# ## What to try next
#
# * Put `keras.layers.BatchNormalization(momentum=0.9)` in front of each `LIF`. Which widths work
#   now?
# * Use `surrogates.Rectangle` or `surrogates.Sigmoid`, with their own widths.
# * Start wide and become narrow while training: `keras_snn.callbacks.Schedule("alpha", [1, 2, 4])`.
# * Your own network learns nothing? [Here is what to look at](../troubleshooting.md).
# * Next: [3. A trained network, fine-tuned](03_trained_network.md).
