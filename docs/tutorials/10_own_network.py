# %% [markdown]
# # 10. A network of your own, like those of the zoo
#
# *About a minute on two cores. Nothing to download. [This page as a
# notebook](10_own_network.ipynb).*
#
# All networks in `keras_snn.applications` are called alike: `input_shape`, `classes`, `timesteps`,
# `neuron`, `norm`, `include_top`, ... They take images and sequences, and they exist as an ordinary
# network with the same weights. You get all of that for a network of your own if you write down its
# layers, and nothing else.

# %% tags=["parameters"]
EPOCHS = 15

# %%
import keras

from keras_snn import analysis, applications, datasets
from keras_snn.applications import factory

digits = datasets.load("digits", batch_size=64)
images, labels = map(keras.ops.convert_to_numpy, next(iter(digits.test)))

# %% [markdown]
# ## Write down the layers
#
# `net` adds layers; `x` is a tensor that knows whether it has a time axis already. You never ask
# about time: an image gets its time axis at the first neuron, a sequence has one from the start.
# Arguments after the star become options of the network.
#
# Ours has blocks that are cheap: a *depthwise* convolution looks around in each channel by itself,
# a 1 x 1 convolution mixes the channels, and a shortcut leads past both.


# %%
def thrifty(net, x, *, width=32, blocks=2):
    """Cheap blocks with shortcuts.

    Args:
        width: Number of channels.
        blocks: Number of blocks.

    Source: an example.
    """
    x = net.neuron(net.norm(net.conv(x, width, 3, 1, "stem"), "stem_bn"), "stem_neuron")
    for i in range(1, blocks + 1):
        y = net.norm(net.depthwise(x, 3, f"around{i}"), f"around{i}_bn")
        y = net.neuron(y, f"around{i}_neuron")
        y = net.norm(net.conv(y, width, 1, 1, f"mix{i}"), f"mix{i}_bn")
        x = net.join(net.neuron(y, f"mix{i}_neuron"), x, f"join{i}")
    return net.max_pool(x, "pool")


Thrifty = factory.application(
    "Thrifty", "thrifty", thrifty, about="cheap blocks", size=8, minimum=4, channels=1
)

# %% [markdown]
# `Thrifty` is now a function like `SEWResNet18`. Its documentation is complete:

# %%
print("\n".join(Thrifty.__doc__.splitlines()[:24]), "\n...")

# %% [markdown]
# ## One network, many shapes

# %%
image = Thrifty(input_shape=(8, 8, 1), classes=10, timesteps=4)
clip = Thrifty(input_shape=(16, 8, 8, 2), classes=10)
features = Thrifty(input_shape=(8, 8, 1), include_top=False, pooling="avg", timesteps=4)
other = Thrifty(input_shape=(8, 8, 1), classes=10, timesteps=4, neuron="parametric_lif", width=64)
ann = Thrifty(input_shape=(8, 8, 1), classes=10, timesteps=None, neuron=keras.layers.ReLU)

for name, model in {
    "images, repeated 4 times": image,
    "16 frames of an event camera": clip,
    "features instead of classes": features,
    "another neuron, twice as wide": other,
    "without spikes": ann,
}.items():
    print(f"{name}: {model.input_shape} -> {model.output_shape}, {model.count_params():,} weights")

# %% [markdown]
# ## Train it, and the one without spikes

# %%
for name, model in {"without spikes": ann, "with spikes": image}.items():
    keras.utils.set_random_seed(0)
    model.compile(
        keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(digits.train, epochs=EPOCHS, verbose=0)
    print(f"{name}: {100 * model.evaluate(digits.test, verbose=0)[1]:.1f} % right")

# %% [markdown]
# ## What it costs
#
# `profile`, `convert` and the exports know the network, because they know its parts.

# %%
print(analysis.profile(image, images))

# %%
image.save("thrifty.keras")
print(keras.saving.load_model("thrifty.keras").output_shape)

# %% [markdown]
# Weights go between all forms of the network by their layers' names: those of the ANN into the one
# with spikes, those of the one on images into the one on clips.

# %%
fresh = Thrifty(input_shape=(8, 8, 1), classes=10, timesteps=4)
print(applications.load_keras_weights(fresh, ann))

# %% [markdown]
# ## What to try next
#
# * `norm="tdbn"`, `neuron="if"`, `blocks=4`: which learns best?
# * `step="tokens"` or `step="features"` instead of images: transformers, sound.
# * `keras_snn/applications/sew_resnet.py` is a whole family on one page.
# * A layer that nobody knows: `keras_snn.graph.register` tells readers what it is, see
#   [extending](../extending.md).
# * Next: [11. Several devices, half the bits](11_devices_and_precision.md).
