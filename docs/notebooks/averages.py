# %% [markdown]
# # Averages of weights
#
# In this notebook you see why the mean of the weights of several good epochs can be better than the best
# epoch, and let `EarlyStopping` find such a mean while nothing else changes. It takes half a minute; the data
# ships with scikit-learn. A fifth of the training labels is replaced by random ones: averages help most where
# training is noisy.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # or "jax", "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import keras_ratchet

plt.rcParams["figure.dpi"] = 80

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
x = (digits.images / 16).astype("float32")[order][..., None]
y = digits.target[order].copy()
wrong = np.random.default_rng(1).random(700) < 0.2  # a part of the training labels is at random
y[:700][wrong] = np.random.default_rng(2).integers(0, 10, wrong.sum())
train, validation, test = (
    (x[part], y[part]) for part in (slice(700), slice(700, 1200), slice(1200, None))
)


def make_model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    adam = keras.optimizers.Adam(0.01)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# %% [markdown]
# ## Train, with `average="soup"`
#
# `EarlyStopping` keeps the weights of the five best epochs in memory. When training ends it starts from the best
# one and adds the others one by one; each stays in the mean if the value on the validation data improves.

# %%
stopper = keras_ratchet.EarlyStopping(
    patience=8, restore_best_weights=True, average="soup", average_k=5
)
files = keras_ratchet.ModelCheckpoint("run/epoch-{epoch:02d}.keras", keep_best=5)
model = make_model()
history = model.fit(
    *train,
    validation_data=validation,
    epochs=30,
    batch_size=32,
    callbacks=[stopper, files],
    verbose=0,
)
stopper.average_record

# %% [markdown]
# The plot shows the epochs, and as a diamond the mean that training ended with.

# %%
picture = keras_ratchet.plots.run("run")
# %% [markdown]
# The model has the mean now. On the test data, which decided nothing, beside the best epoch alone:

# %%
best_file = f"run/epoch-{stopper.best_epoch + 1:02d}.keras"
best = keras_ratchet.load_model(best_file)
for name, candidate in {"best epoch": best, "mean": model}.items():
    loss, accuracy = candidate.evaluate(*test, verbose=0)
    print(f"{name:10}  test loss {loss:.4f}  accuracy {accuracy:.4f}")

# %% [markdown]
# ## Why: the valley between two epochs
#
# The same five epochs are files, because `ModelCheckpoint` kept them.

# %%
saved = keras_ratchet.checkpoints("run")
saved

# %% [markdown]
# Take the weights of the first and of the last of them, and walk from the one to the other in a straight line.
# The steps of the optimizer are noisy: the epochs lie around the bottom of a valley, on its slopes, and the
# line between two of them leads through lower ground.

# %%
first, last = (keras_ratchet.load_model(info.path).get_weights() for info in (saved[0], saved[-1]))
walker = make_model()
places = np.linspace(0, 1, 11)
losses = {"validation": [], "test": []}
for place in places:
    walker.set_weights([(1 - place) * a + place * b for a, b in zip(first, last, strict=True)])
    for name, data in {"validation": validation, "test": test}.items():
        losses[name].append(walker.evaluate(*data, verbose=0)[0])

figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
for name, values in losses.items():
    axes.plot(places, values, marker="o", label=name)
axes.set(xlabel=f"from {saved[0].name} to {saved[-1].name}", ylabel="loss")
axes.spines[["top", "right"]].set_visible(False)
legend = axes.legend(frameon=False)
# %% [markdown]
# ## Later, from the files
#
# `soup` does the same with files, of one run or of several with different learning rates. It verifies each of
# them before anything is loaded.

# %%
later = keras_ratchet.load_model(best_file)
record = keras_ratchet.soup(later, "run", validation, k=5)
assert record.value <= record.best
print(record)

# %% [markdown]
# The value on the validation data never gets worse, since a mean that is worse is not taken. It is chosen on
# that data, so it looks better there than it is: compare on test data, as above.
# [Averaging weights](../averages.md) has the rest: moving statistics (BatchNormalization), `mean`, several runs.
