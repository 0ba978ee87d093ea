# %% [markdown]
# # 4. An event camera
#
# *About a minute on two cores. Nothing to download, in a clone of the repository. [This page as a
# notebook](04_event_camera.ipynb).*
#
# An ordinary camera takes a full picture thirty times a second, even if nothing moves. An *event
# camera* has no pictures. Each of its pixels watches for itself, and reports when it becomes
# brighter ("ON") or darker ("OFF"): an event is `(time, column, row, ON or OFF)`. Such data look
# like spikes already, and recordings last as long as they last. Here we meet real recordings, make
# our own, and train a network on recordings of **different lengths**.

# %% tags=["parameters"]
EPOCHS = 12
EXAMPLES = 800

# %%
import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_snn
from keras_snn import analysis, applications, datasets, events
from keras_snn import layers as snn

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# %% [markdown]
# ## Real recordings
#
# N-MNIST (Orchard and others, 2015) is made of handwritten digits that an event camera looked at
# while it moved, three times in a third of a second. The repository has 30 recordings of it for its
# tests, as frames: the events of a tenth of each recording, counted for every pixel.

# %%
folder = pathlib.Path(keras_snn.__file__).parents[1] / "tests" / "presets"
with np.load(folder / "SEWResNet8_nmnist.npz") as file:
    frames, labels = file["examples"].astype("float32"), file["labels"]
print("recordings, frames, height, width, OFF and ON:", frames.shape)


def show(clip, title, count=8):
    figure, axes = plt.subplots(1, count, figsize=(9, 1.5), layout="constrained")
    for step, (ax, frame) in enumerate(zip(axes, clip)):
        ax.imshow(frame[..., 1] - frame[..., 0], cmap="RdBu", vmin=-2, vmax=2)
        ax.set_title(f"frame {step}", fontsize="small")
        ax.set_axis_off()
    figure.suptitle(title)
    plt.show()


show(frames[0], f"A real recording: {labels[0]} (blue: ON, red: OFF)")

# %% [markdown]
# A network that was trained on 1,000 such recordings comes with the package:

# %%
trained = applications.SEWResNet8(weights="nmnist")
answers = trained.predict(frames, verbose=0).argmax(-1)
print(f"{(answers == labels).sum()} of {len(labels)} real recordings right")

# %% [markdown]
# ## Our own event camera
#
# Thirty recordings are too few to train on, so we build a camera. It looks at one of scikit-learn's
# digits and moves along a small circle, for a shorter or a longer time. Whenever the brightness of
# a pixel has changed by a quarter, that pixel sends an event.

# %%
SIZE = 12  # height and width of the sensor
STEP = 10_000  # microseconds of a frame


def film(image, milliseconds):
    """Events of a camera that moves in a circle before `image`, 8 x 8 pixels from 0 to 1."""
    scene = np.pad(image, 4)
    rows, columns = np.mgrid[:SIZE, :SIZE].astype("float32")
    sent, last = [], None
    for t in range(0, milliseconds, 2):
        angle = 2 * np.pi * t / 100
        y, x = rows + 2 + 1.5 * np.sin(angle), columns + 2 + 1.5 * np.cos(angle)
        top, left = y.astype(int), x.astype(int)
        y, x = y - top, x - left
        seen = (1 - y) * ((1 - x) * scene[top, left] + x * scene[top, left + 1])
        seen += y * ((1 - x) * scene[top + 1, left] + x * scene[top + 1, left + 1])
        last = seen if last is None else last
        for polarity, change in ((1, seen - last), (0, last - seen)):
            row, column = np.nonzero(change >= 0.25)
            last[row, column] = seen[row, column]
            sent += [(1000 * t, c, r, polarity) for r, c in zip(row, column)]
    return events.Events(*np.array(sent, "int64").reshape(-1, 4).T)


digits = datasets.load("digits", batch_size=2000)
(images, digit_labels), (test_images, test_labels) = (
    map(keras.ops.convert_to_numpy, next(iter(batches))) for batches in (digits.train, digits.test)
)
images, digit_labels = (images[:EXAMPLES, ..., 0] + 1) / 2, digit_labels[:EXAMPLES]
test_images = (test_images[..., 0] + 1) / 2

one = film(test_images[0], 100)
print(f"{len(one.t)} events, the first three:")
for t, x, y, p in list(zip(*one))[:3]:
    print(f"  at {t} us, column {x}, row {y}, {'ON' if p else 'OFF'}")
show(events.time_frames(one, 10, (SIZE, SIZE), STEP, start=0), f"Our recording: {test_labels[0]}")

# %% [markdown]
# ## Different lengths in one batch
#
# A recording of 40 ms has 4 frames, one of 120 ms has 12. A batch is one array, so short recordings
# are filled up with empty frames. But an empty frame is not nothing: a neuron that waits leaks, and
# the mean over time counts the silence. So we hand the network a *mask* as well, which says which
# frames are real. **A masked step changes nothing: no potential, no mean.**

# %%
LONGEST = 12


def recordings(pictures):
    clips = np.zeros((len(pictures), LONGEST, SIZE, SIZE, 2), "float32")
    mask = np.zeros((len(pictures), LONGEST), bool)
    for i, picture in enumerate(pictures):
        count = rng.integers(4, LONGEST + 1)
        clips[i, :count] = events.time_frames(
            film(picture, 10 * count), count, (SIZE, SIZE), STEP, start=0
        )
        mask[i, :count] = True
    return clips, mask


clips, mask = recordings(images)
test_clips, test_mask = recordings(test_images)
print("frames of the first recordings:", mask.sum(1)[:10])

# %%
entrance, real = keras.Input((LONGEST, SIZE, SIZE, 2)), keras.Input((LONGEST,), dtype="bool")
x = snn.FoldTime(keras.layers.Conv2D(16, 3, use_bias=False))(entrance)
x = snn.FoldTime(keras.layers.BatchNormalization(momentum=0.9))(x)
x = snn.LIF(name="lif1")(x, mask=real)
x = snn.FoldTime(keras.layers.AveragePooling2D(2))(x)
x = snn.FoldTime(keras.layers.Flatten())(x)
x = keras.layers.BatchNormalization(momentum=0.9)(keras.layers.Dense(64)(x))
x = snn.LIF(tau=4.0, name="lif2")(x, mask=real)
answer = snn.MeanOverTime()(keras.layers.Dense(10)(x), mask=real)
model = keras.Model([entrance, real], answer)
model.compile(
    keras.optimizers.Adam(0.003),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit([clips, mask], digit_labels, epochs=EPOCHS, batch_size=64, verbose=2)
print(f"{100 * model.evaluate([test_clips, test_mask], test_labels, verbose=0)[1]:.1f} % right")

# %% [markdown]
# ## Does the mask do its work?
#
# We put noise where the frames are not real. With the mask the answers do not change at all; if we
# call all frames real, they do.

# %%
noisy = np.where(test_mask[..., None, None, None], test_clips, rng.poisson(1, test_clips.shape))
plain = model.predict([test_clips, test_mask], verbose=0)
masked = model.predict([noisy, test_mask], verbose=0)
believed = model.predict([noisy, np.ones_like(test_mask)], verbose=0)
print("largest change, with the mask:", np.abs(masked - plain).max())
print(f"noise taken for real: {100 * (believed.argmax(-1) == test_labels).mean():.1f} % right")

# %% [markdown]
# ## How long must one look?
#
# The camera takes 100 ms for its circle. Is less enough?

# %%
lengths = test_mask.sum(1)
right = plain.argmax(-1) == test_labels
groups = [(4, 6), (7, 9), (10, 12)]
shares = [100 * right[(lengths >= a) & (lengths <= b)].mean() for a, b in groups]
plt.bar([f"{10 * a} to {10 * b}" for a, b in groups], shares)
plt.xlabel("milliseconds of the recording")
plt.ylabel("right answers (%)")
plt.show()

# %%
found = analysis.record(model, [test_clips[:1], test_mask[:1]], "lif2")
analysis.plot_raster(found["lif2"]["spikes"][0], title=f"{lengths[0]} of {LONGEST} frames are real")
plt.show()

# %% [markdown]
# ## What to try next
#
# * Frames of equally many events instead of equal time: `events.count_frames`. Or shares between
#   neighbouring frames: `events.voxel_grid`.
# * A real camera's file: `events.read_aedat`, `events.read_prophesee`, ... see [data](../data.md).
# * All of N-MNIST: `python applications/train.py --recipe=nmnist --data_dir=NMNIST`.
# * Answers while events come in: `applications/stream.py`, see [to a device](../edge.md).
# * Next: [5. Speech, as it is spoken](05_speech.md).
