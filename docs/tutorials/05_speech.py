# %% [markdown]
# # 5. Speech, as it is spoken
#
# *Less than a minute on two cores. Nothing to download, in a clone of the repository. Needs the
# extra `export`. [This page as a notebook](05_speech.ipynb).*
#
# Sound comes in bit by bit. A spiking network works bit by bit too: at each step it takes what is
# new, and its neurons remember what was. So it can answer *while* somebody speaks. We take a
# network that knows spoken digits, turn it into a file of **one step**, and run it on a stream.

# %% tags=["parameters"]
CLIPS = 40

# %%
import pathlib
import time

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_snn
from keras_snn import analysis, applications, export

# %% [markdown]
# ## What the network hears
#
# The clips are of the Free Spoken Digit Dataset: people who say "zero" to "nine". Each second is
# cut into 50 steps of 20 ms, and of each step we take the loudness at 40 pitches, low to high: a
# *mel spectrum*. The repository has the spectra of 40 clips, which the network did not learn from.

# %%
folder = pathlib.Path(keras_snn.__file__).parents[1] / "tests" / "presets"
with np.load(folder / "SpeechNet_spoken_digits.npz") as file:
    clips, labels = file["examples"][:CLIPS].astype("float32"), file["labels"][:CLIPS]
print("clips, steps, pitches:", clips.shape)

figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True, layout="constrained")
for ax, label in zip(axes, (1, 6, 9)):
    clip = clips[np.argmax(labels == label)]
    ax.imshow(clip.T, origin="lower", aspect="auto", extent=(0, 1000, 0, 40))
    ax.set_title(f'"{label}"')
    ax.set_xlabel("milliseconds")
axes[0].set_ylabel("pitch, low to high")
plt.show()

# %% [markdown]
# ## The network
#
# `SpeechNet` has three layers of 128 neurons. Between them are convolutions over time that see the
# present step and the four before it: delays, whose weights were learned.

# %%
model = applications.SpeechNet(weights="spoken_digits", classifier_activation=None)
answers = model.predict(clips, verbose=0).argmax(-1)
print(f"{(answers == labels).sum()} of {len(labels)} clips right")

# %%
example = int(np.argmax(labels == 6))
found = analysis.record(model, clips[example : example + 1])
names = list(found)
figure, axes = plt.subplots(len(names), 1, figsize=(8, 6), layout="constrained")
for ax, name in zip(axes, names):
    analysis.plot_raster(found[name]["spikes"][0], ax=ax, title=name)
plt.show()

# %% [markdown]
# The neurons of the last layer are silent until the word begins.
#
# ## A file of one step
#
# `to_tflite` with `"step"` writes a TensorFlow Lite file that takes one step and the states, and
# gives the answer so far and the new states. It also compares the file with the model, on the clips
# that you give.

# %%
report = export.to_tflite(model, "speech.tflite", "step", verify_data=clips[:4])
print(report)

# %% [markdown]
# ## The stream
#
# `StreamingInterpreter` keeps the states. We feed it 20 ms at a time, as a microphone would, and
# look at its answer after each step.

# %%
stream = export.StreamingInterpreter("speech.tflite")
history, taken = [], []
for clip in clips:
    stream.reset()
    scores = []
    for step in clip:
        start = time.perf_counter()
        (output,) = stream.step(step[None]).values()
        taken.append(time.perf_counter() - start)
        scores.append(output[0])
    history.append(scores)
history = np.array(history)  # (clips, steps, classes)

final = history[:, -1].argmax(-1)
print(f"{(final == labels).sum()} of {len(labels)} right at the end of the clip")
print(f"a step takes {1e3 * np.median(taken):.2f} ms, and a new one comes every 20 ms")

# %%
scores = keras.ops.convert_to_numpy(keras.ops.softmax(history[example], axis=-1))
figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
top.imshow(clips[example].T, origin="lower", aspect="auto", extent=(0, 1000, 0, 40))
top.set_ylabel("pitch")
for digit in range(10):
    known = {"label": f"{digit}", "linewidth": 3} if digit == labels[example] else {"color": "gray"}
    bottom.plot(20 * np.arange(50), scores[:, digit], **known)
bottom.set_xlabel("milliseconds")
bottom.set_ylabel("how sure")
bottom.legend()
plt.show()

# %% [markdown]
# ## How early does it know?

# %%
right = 100 * (history.argmax(-1) == labels[:, None]).mean(0)
plt.plot(20 * np.arange(1, 51), right)
plt.xlabel("milliseconds heard")
plt.ylabel("right answers (%)")
plt.ylim(0, 100)
plt.show()

# %% [markdown]
# Clips are centred: for the first quarter or so there is nothing to hear. Then the answer comes
# well before the clip ends.
#
# ## What to try next
#
# * Smaller: `export.to_tflite(..., quantize="int8", representative_data=clips)`.
# * Your own voice: `keras_snn.datasets.speech.read_wav` reads a WAV file of 8 kHz,
#   `keras_snn.datasets.speech.MelSequence(8000, 50)` makes spectra of clips of one second.
# * Train it yourself, in 8 minutes: get the recordings with `git clone
#   https://github.com/Jakobovski/free-spoken-digit-dataset`, then `python applications/train.py
#   --recipe=spoken_digits --data_dir=.../recordings`.
# * Live, from a microphone: `applications/listen.py`, see [to a device](../edge.md).
# * Connections that learn how *late* spikes arrive: [delays](../delays.md).
# * To a microcontroller: [tutorial 8](08_microcontroller.md).
# * Next: [6. From a trained network without spikes](06_from_ann.md).
