# %% [markdown]
# # 11. Several devices, half the bits
#
# *About a minute on two cores. Nothing to download. Needs the extra `jax`. [This page as a
# notebook](11_devices_and_precision.ipynb).*
#
# Large networks are trained on several devices at once, and with numbers of 16 bits instead of 32.
# Both take one line each. You need no GPU to try: JAX can pretend that a processor is two devices,
# if it is asked to before it starts. (On a real machine leave the two lines with `os.environ` out.)

# %% tags=["parameters"]
EPOCHS = 8
FILTERS = ((16,), (32,))

# %%
import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_snn import analysis, applications, datasets, distribution

print(f"{keras.backend.backend()} sees {jax.device_count()} devices")
digits = datasets.load("digits", batch_size=64)


def network():
    keras.utils.set_random_seed(0)
    model = applications.SpikingConvNet(
        input_shape=(8, 8, 1), classes=10, timesteps=4, filters=FILTERS, dropout=0
    )
    model.compile(
        keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


# %% [markdown]
# ## Two devices
#
# *Data parallel* means: all devices have the same weights, each takes half of every batch, and the
# gradients are averaged. A step is then the step of one device on the whole batch: the learning
# rate stays what it was.

# %%
with distribution.data_parallel() as group:
    print(f"{group.replicas} devices train together")
    model = group.prepare(network())
    two = model.fit(group.shard(digits.train), epochs=EPOCHS, shuffle=False, verbose=0)
accuracy_of_two = model.evaluate(digits.test, verbose=0)[1]

# %% [markdown]
# Outside of the block there is one device again. Batches and first weights are the same.

# %%
model = network()
one = model.fit(digits.train, epochs=EPOCHS, shuffle=False, verbose=0)
accuracy_of_one = model.evaluate(digits.test, verbose=0)[1]

plt.plot(one.history["loss"], "o-", label=f"one device: {100 * accuracy_of_one:.1f} % right")
plt.plot(two.history["loss"], "s--", label=f"two devices: {100 * accuracy_of_two:.1f} % right")
plt.xlabel("epoch")
plt.ylabel("loss")
plt.legend()
plt.show()
print("the first epoch's losses:", one.history["loss"][0], two.history["loss"][0])

# %% [markdown]
# The curves begin together. Later they part a little: sums in another order are rounded otherwise,
# and where a potential is as good as at its threshold, that decides about a spike.
#
# ## Half the bits
#
# `mixed_bfloat16` computes in 16 bits and keeps what must be exact in 32: the weights, and the
# membrane potentials, because small currents would be lost in a large potential. On a GPU or TPU it
# is faster and takes half the memory; on a processor it is only a test.

# %%
keras.config.set_dtype_policy("mixed_bfloat16")
half = network()
keras.config.set_dtype_policy("float32")

neuron = next(layer for layer in half.layers if analysis.is_spiking(layer))
print(f"{neuron.name}: gives {neuron.compute_dtype}, keeps its state in {neuron.variable_dtype}")
half.fit(digits.train, epochs=EPOCHS, verbose=0)
print(f"bfloat16: {100 * half.evaluate(digits.test, verbose=0)[1]:.1f} % right")
print(f"float32: {100 * accuracy_of_one:.1f} % right")

# %% [markdown]
# Do the spikes differ? The same weights, in both precisions:

# %%
images = keras.ops.convert_to_numpy(next(iter(digits.test))[0])
full = network()
full.set_weights(half.get_weights())
a, b = (analysis.record(model, images) for model in (full, half))
for layer in a:
    same = (np.asarray(a[layer]["spikes"]) == np.asarray(b[layer]["spikes"])).mean()
    print(f"{layer}: {100 * same:.2f} % of spikes and silences are equal")

# %% [markdown]
# ## What to try next
#
# * TensorFlow: the same block is a `MirroredStrategy`. PyTorch: start the program by `torchrun
#   --nproc_per_node=2`.
# * `mixed_float16` for older GPUs: Keras scales the loss by itself.
# * From the command line: `python applications/train.py --distribution=data
#   --dtype=mixed_bfloat16`.
# * A run that was killed goes on: `keras_snn.callbacks.Resume`. See [training](../training.md), and
#   [speed and memory](../speed.md).
# * Next: [12. Numbers instead of classes](12_regression.md).
