# %% [markdown]
# # 12. Numbers instead of classes
#
# *About a minute on two cores. Nothing to download. [This page as a
# notebook](12_regression.ipynb).*
#
# Spikes are all or nothing. How can a network of spikes give a number, such as tomorrow's
# temperature? By a last neuron that never fires: spikes flow in, and its *membrane potential*,
# which is smooth, is the answer. We let one forecast a curve that is famous for being hard.

# %% tags=["parameters"]
EPOCHS = 40
TIMES = 12

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_snn import analysis, datasets
from keras_snn import layers as snn

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The curve
#
# Mackey and Glass (1977) described how the number of blood cells goes up and down. The body makes
# new cells according to how many there were some time *before*; so there is a delay, and the curve
# never repeats itself. Here it is, with a delay of 17:
#
# ```
# dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t)
# ```
#
# `datasets.mackey_glass` gives it, divided into a past to learn from and what follows. It counts in
# *Lyapunov times*: in each, two curves that are nearly equal drift apart by a factor of e (2.7).
# For this delay one lasts 197, so 197 points in each are one point for each unit of time.

# %%
series = datasets.mackey_glass(
    17, points_per_lyapunov_time=197, start=1, train_time=TIMES, test_time=TIMES / 4
)
mean, deviation = series.train.mean(), series.train.std()
past, future = ((part - mean) / deviation for part in (series.train, series.test))
print(f"{len(past)} points to learn from, {len(future)} to test")
plt.figure(figsize=(9, 2.2))
plt.plot(past[:600])
plt.xlabel("time")
plt.show()

# %% [markdown]
# ## The task
#
# The network sees 50 values, one a step, and after **each** step says what the value will be 6
# steps later. It learns from the past, and the test is on what follows.

# %%
AHEAD, WINDOW = 6, 50


def windows(curve):
    """Every third window of the curve, and the same 6 steps later."""
    cut = np.lib.stride_tricks.sliding_window_view(curve.astype("float32"), WINDOW)
    return cut[:-AHEAD:3, :, None], cut[AHEAD::3, :, None]


(x, y), (x_test, y_test) = windows(past), windows(future)
print(f"{len(x)} windows to learn from, {len(x_test)} to test")

# %% [markdown]
# ## The network
#
# `Dense` turns a value into 128 currents. The first neurons fire for large values, for small ones,
# or in between. Those of the second layer leak slowly: their potentials remember the last few
# steps. `LeakyIntegrator` is the neuron that never fires: its potential is the forecast.

# %%
spread = keras.initializers.RandomNormal
model = keras.Sequential(
    [
        keras.Input((WINDOW, 1)),
        keras.layers.Dense(
            128, kernel_initializer=spread(stddev=1.0), bias_initializer=spread(stddev=1.0)
        ),
        snn.LIF(tau=2.0, decay_input=False, name="encode"),
        keras.layers.Dense(128),
        keras.layers.BatchNormalization(momentum=0.9),
        snn.LIF(tau=4.0, decay_input=False, name="hidden"),
        keras.layers.Dense(1),
        snn.LeakyIntegrator(tau=4.0, decay_input=False, name="forecast"),
    ]
)
model.compile(
    keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.005, EPOCHS * len(x) // 32)),
    "mse",
)
history = model.fit(x, y, epochs=EPOCHS, batch_size=32, verbose=0)

# %% [markdown]
# ## How good is it?
#
# An error says nothing by itself. The least one should beat is the lazy forecast "it will be what
# it is now". A stricter judge is a straight line through the last two values.

# %%
forecast = model.predict(x_test, verbose=0)
late = slice(20, None)  # the first steps have seen too little


def error(answer):
    return float(np.sqrt(np.mean((answer - y_test)[:, late] ** 2)))


slope = x_test - np.roll(x_test, 1, axis=1)
print("root mean square error (the curve's deviation is 1):")
print(f"  spiking network {error(forecast):.3f}")
print(f"  lazy {error(x_test):.3f}, straight line {error(x_test + AHEAD * slope):.3f}")

# %%
figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 5), layout="constrained")
whole = np.concatenate([forecast[i, -3:, 0] for i in range(len(forecast))])
truth = np.concatenate([y_test[i, -3:, 0] for i in range(len(forecast))])
top.plot(truth, color="gray", linewidth=3, alpha=0.6, label="what came")
top.plot(whole, label="forecast, 6 steps before")
top.legend(loc="upper right")
top.set_xlabel("time")
spikes = analysis.record(model, x_test[:1])["hidden"]["spikes"][0]
analysis.plot_raster(spikes, ax=bottom, title="the hidden neurons, one window")
plt.show()

# %% [markdown]
# The forecast is ragged: each spike moves it by a step.
# But it sees turns that a straight line can't.
#
# ## What to try next
#
# * Twice as many neurons: is it smoother? A larger `tau` of the last one: smoother, but later?
# * Look further ahead: `AHEAD = 20`. When does the lazy forecast win?
# * Neurons with a slower memory: `snn.AdaptiveLIF`, `snn.SynapticLIF`, or `snn.Recurrent(...)`,
#   whose spikes come back to it.
# * One number for a whole sequence: `snn.MembraneReadout("last", tau=4.0)`.
# * Learn after every step, in memory that does not grow: [learning online](../online.md).
# * Your own sensor: anything of the shape `(batch, time, features)`.
# * You have come to the end. [Choosing a neuron](../neurons.md), [training](../training.md), and
#   [my network does not learn](../troubleshooting.md) are good to read next.
