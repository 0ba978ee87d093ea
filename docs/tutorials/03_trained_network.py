# %% [markdown]
# # 3. A trained network, fine-tuned
#
# *About a minute on two cores. Nothing to download. [This page as a
# notebook](03_trained_network.ipynb).*
#
# You rarely have to start from nothing. `keras_snn.applications` has deep spiking networks, as
# `keras.applications` has ordinary ones, and some come with weights. We take one that reads digits,
# move it to where it fails, and teach it with a handful of examples.

# %% tags=["parameters"]
EPOCHS = 20
EXAMPLES = 50

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_snn import analysis, applications, datasets

keras.utils.set_random_seed(0)
digits = datasets.load("digits", batch_size=500)


def arrays(batches):
    pairs = [map(keras.ops.convert_to_numpy, batch) for batch in batches]
    return [np.concatenate(parts) for parts in zip(*pairs)]


train_images, train_labels = arrays(digits.train)
test_images, test_labels = arrays(digits.test)

# %% [markdown]
# ## A network with weights
#
# `SEWResNet8` is a small *SEW-ResNet*: a residual network made for spikes (Fang et al., 2021). Its
# larger kin, `SEWResNet18` to `SEWResNet152`, are called in the same way.

# %%
for preset in applications.list_presets():
    print(f'{preset.model}(weights="{preset.name}"): {100 * preset.accuracy:.1f} % right')

model = applications.SEWResNet8(weights="digits", classifier_activation=None)
print(f"{model.name}: {model.count_params():,} parameters, input {model.input_shape[1:]}")


# %%
def accuracy(network, images):
    answers = network.predict(images, batch_size=120, verbose=0).argmax(-1)
    return 100 * (answers == test_labels).mean()


print(f"held-out digits: {accuracy(model, test_images):.1f} % right")

# %% [markdown]
# ## Where it fails
#
# Somebody mounts the camera upside down. To a person that is a small thing; the network has never
# seen it.

# %%
turned = test_images[:, ::-1, ::-1]
answers = model.predict(turned, batch_size=120, verbose=0).argmax(-1)
print(f"upside down: {accuracy(model, turned):.1f} % right")

figure, axes = plt.subplots(1, 8, figsize=(8, 1.6), layout="constrained")
for ax, image, label, answer in zip(axes, turned, test_labels, answers):
    ax.imshow(image[..., 0], cmap="gray")
    ax.set_title(f"is {label}\nsays {answer}", fontsize="small")
    ax.set_axis_off()
plt.show()

# %% [markdown]
# ## Fine-tuning with few examples
#
# We label 50 images from the new camera, five of each digit or so, and train on them: once from the
# weights of the upright digits, once from random weights.

# %%
few_images, few_labels = train_images[:EXAMPLES, ::-1, ::-1], train_labels[:EXAMPLES]


def trained(network):
    network.compile(
        keras.optimizers.Adam(0.001),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return network.fit(
        few_images,
        few_labels,
        batch_size=20,
        epochs=EPOCHS,
        validation_data=(turned, test_labels),
        verbose=0,
    )


shape = {"input_shape": (8, 8, 1), "classes": 10, "timesteps": 4, "small_images": True}
from_nothing = applications.SEWResNet8(**shape, classifier_activation=None)
histories = {"fine-tuned": trained(model), "from nothing": trained(from_nothing)}

for name, history in histories.items():
    curve = 100 * np.array(history.history["val_accuracy"])
    print(f"{name}: {curve[-1]:.1f} % right upside down")
    plt.plot(np.arange(1, len(curve) + 1), curve, label=name)
plt.xlabel("epoch")
plt.ylabel("right answers upside down (%)")
plt.ylim(0, 100)
plt.legend()
plt.show()

# %% [markdown]
# Edges and curves look much the same upside down: what the early layers had learned still serves.
#
# ## Does it still spike as before?
#
# Fine-tuning can silence a spiking network, or make it fire all the time. One look tells:

# %%
analysis.plot_rates(analysis.firing_rates(model, turned[:100]))
plt.show()

# %% [markdown]
# ## What to try next
#
# * Does it still read upright digits? `accuracy(model, test_images)`. How would you keep both?
# * Freeze the early layers: `model.layers[i].trainable = False` before `compile`.
# * New classes: `SEWResNet8(weights="digits", include_top=False, pooling="avg")` gives features;
#   put a `Dense` of your own behind.
# * `applications.list_presets()` names all weights that come with the package;
#   [results](../results/README.md) says how they came about.
# * Weights from PyTorch (SpikingJelly, the papers' own files) load too: see
#   [networks](../models.md).
# * Next: [4. An event camera](04_event_camera.md).
