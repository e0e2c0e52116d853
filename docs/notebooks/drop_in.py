# %% [markdown]
# # Drop-in: change one line
#
# In this notebook you replace the import of three Keras callbacks, train until the validation loss stops
# improving, and look at what the run tells about itself: why it stopped, which checkpoints there are, a
# plot of the run. It takes half a minute on a laptop; the data ships with scikit-learn.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # or "jax", "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
from sklearn.datasets import load_digits

digits = load_digits()
x = (digits.images / 16).astype("float32")[..., None]
y = digits.target
train, validation = (x[:1400], y[:1400]), (x[1400:], y[1400:])


def make_model():
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    adam = keras.optimizers.Adam(3e-3)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# %% [markdown]
# ## The line
#
# ```python
# from keras.callbacks import BackupAndRestore, EarlyStopping, ModelCheckpoint
# ```
#
# becomes

# %%
from keras_ratchet import BackupAndRestore, EarlyStopping, ModelCheckpoint

# %% [markdown]
# The arguments keep their places and their meaning, so the rest of the script stays as it is.

# %%
stopper = EarlyStopping(patience=4, restore_best_weights=True)
callbacks = [
    stopper,
    ModelCheckpoint("run/best.keras", save_best_only=True),
    ModelCheckpoint("run/epoch-{epoch:02d}.weights.h5", save_weights_only=True, keep_last=3),
    BackupAndRestore("run/backup"),
]
model = make_model()
history = model.fit(
    *train, validation_data=validation, epochs=40, batch_size=64, callbacks=callbacks, verbose=2
)

# %% [markdown]
# `keep_last=3` is an argument of ours: three files stay, older ones are deleted. Every argument that Keras
# does not have is keyword-only.
#
# ## Why did it stop?

# %%
stopper.stop_reason

# %% [markdown]
# For a program, the same is data: `stopper.stop_reason.kind` is a word, `.values` are the numbers.

# %%
stopper.stop_reason.kind, dict(stopper.stop_reason.values)

# %% [markdown]
# ## What was saved?
#
# Each file has a manifest with its digest, its metrics and the reason it was saved. `checkpoints` lists a
# directory without reading the files; `verify` compares a file with its digest, byte for byte.

# %%
import keras_ratchet

keras_ratchet.checkpoints("run")

# %%
keras_ratchet.verify("run/best.keras")

# %% [markdown]
# ## The run as a plot
#
# The callbacks write down what they do in `run/.ratchet/journal.jsonl`. `plots.run` draws it: filled circles
# are saves whose file is still there.

# %%
picture = keras_ratchet.plots.run("run")
# %% [markdown]
# ## The best model
#
# The model in memory has the weights of the best epoch, and so has the file. `load_model` verifies before it
# loads; the file is a plain Keras file, which `keras.models.load_model` reads too.

# %%
best = keras_ratchet.load_model("run/best.keras")
in_memory = model.evaluate(*validation, verbose=0)
from_file = best.evaluate(*validation, verbose=0)
assert in_memory == from_file
print(f"epoch {stopper.best_epoch + 1}: loss {from_file[0]:.4f}, accuracy {from_file[1]:.4f}")

# %% [markdown]
# Next: [kill a run and resume it](kill_and_resume.ipynb), [average the weights of good epochs](averages.ipynb).
