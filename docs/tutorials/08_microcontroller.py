# %% [markdown]
# # 8. To a microcontroller
#
# *About a minute on two cores. Nothing to download. Needs the extra `export` and a C compiler.
# [This page as a notebook](08_microcontroller.ipynb).*
#
# A microcontroller has perhaps 64 kB of memory, no operating system and no Python. We write a
# trained network as plain C, compile and run it here, and check that it answers as the Keras model
# does. Then the same for TensorFlow Lite Micro.

# %% tags=["parameters"]
EXAMPLES = 120

# %%
import pathlib

import keras
import numpy as np

from keras_snn import applications, datasets, export

digits = datasets.load("digits", batch_size=360)
images, labels = map(keras.ops.convert_to_numpy, next(iter(digits.test)))
images, labels = images[:EXAMPLES], labels[:EXAMPLES]
model = applications.SEWResNet8(weights="digits", classifier_activation=None)
expected = model.predict(images, verbose=0)
print(f"Keras: {100 * (expected.argmax(-1) == labels).mean():.1f} % right")

# %% [markdown]
# ## One step at a time
#
# Between two steps a spiking network only has to remember its membrane potentials. So the file does
# **one step**; the program calls it T times and keeps the potentials in a static array. Memory does
# not grow with time.
#
# ## Whole numbers
#
# Small chips calculate quickly in 8-bit integers, and weights become four times smaller. Which
# number stands for which value is found from typical examples, `representative_data`.

# %%
report = export.to_c(model, "digits.c", "int8", representative_data=images)
print(report)

# %% [markdown]
# Two files, C99, with no dependency. This is all that a program has to call:

# %%
print(pathlib.Path("digits.h").read_text()[:2500])

# %% [markdown]
# A main loop looks like this:
#
# ```c
# digits_reset();                          /* before each image */
# for (int t = 0; t < DIGITS_TIMESTEPS; ++t)
#     digits_step(image, answer);          /* the answer so far */
# ```
#
# ## Does it compute the same?
#
# `CRunner` compiles the file with this machine's compiler and runs it.

# %%
runner = export.CRunner("digits.c")


def answers(runner):
    found = []
    for image in images:
        (output,) = runner.run(np.repeat(image[None], report.timesteps, axis=0)).values()
        found.append(output[0])
    return np.array(found)


found = answers(runner)
print(f"C, int8: {100 * (found.argmax(-1) == labels).mean():.1f} % right")
same = (found.argmax(-1) == expected.argmax(-1)).sum()
print(f"the same answer as Keras: {same} of {len(images)}")
print(f"largest difference of a score: {np.abs(found - expected).max():.2f}")

# %% [markdown]
# Scores differ a little: 8 bits are coarse, and a potential close to its threshold may fire a step
# earlier or later. What counts is whether the answers stay.
#
# ## TensorFlow Lite Micro
#
# If your board comes with TensorFlow Lite Micro, write its file instead, with a C array of it
# beside it. The report compares every layer's spikes, and says how much memory the chip will need.

# %%
report = export.to_tflite(
    model, "digits_step.tflite", "step", "int8", representative_data=images, target="tflm"
)
print(report)
for path in sorted(pathlib.Path().glob("digits*.*")):
    print(f"{path}: {path.stat().st_size / 1000:,.0f} kB")

# %% [markdown]
# (The C files are large because they are text; in the chip the weights take the size of the
# `.tflite` file.)
#
# ## What to try next
#
# * A smaller network: `applications.SpikingConvNet(filters=((8,), (16,)), ...)` on digits.
# * `export.to_c(model, "digits.c")` without `"int8"`: floats, for chips that have them.
# * Losing accuracy? Let the network learn in integers: [quantisation](../quantization.md).
# * FPGAs, ONNX, NIR: [to a device](../edge.md). All about the C files: [plain C](../c.md).
# * Next: [9. A neuron of your own](09_own_neuron.md).
