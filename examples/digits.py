"""Handwritten digits: stop early, keep the best model, and plot what happened.

Real data: the 1,797 scanned digits that ship inside scikit-learn. Run it with `make demo`, or

    KERAS_BACKEND=jax python examples/digits.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

from pathlib import Path

import keras
import matplotlib
import numpy as np
from progress import ProgressLine
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tables import print_table, ratchet

import keras_ratchet

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RUN = Path("runs/digits")
EPOCHS = 60


def load_data():
    """Return (x, y) for training, validation and test: 8 x 8 images in [0, 1], labels 0..9."""
    digits = load_digits()
    x = (digits.images / 16.0).astype("float32")[..., None]
    y = digits.target.astype("int32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=360, random_state=0, stratify=y)
    x, x_val, y, y_val = train_test_split(x, y, test_size=360, random_state=0, stratify=y)
    return (x, y), (x_val, y_val), (x_test, y_test)


def build_model():
    """Return a small convolutional network with dropout, compiled."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def plot(history, stopper, saves, path):
    """Plot the curves with the best epoch, the saves and the stop."""
    epochs = np.arange(1, len(history["loss"]) + 1)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(epochs, history["loss"], color="#9aa5b1", label="training loss")
    axes.plot(epochs, history["val_loss"], color="#1f6feb", label="validation loss")
    saved = [history["val_loss"][epoch - 1] for epoch in saves]
    axes.plot(saves, saved, "o", ms=5, mfc="white", color="#1f6feb", label="saved as best")
    best = stopper.best_epoch + 1
    axes.plot(best, stopper.best_value, "*", ms=16, color="#d29922", zorder=5)
    axes.annotate(
        f"best: {stopper.best_value:.4f}\nepoch {best}, restored",
        (best, stopper.best_value),
        xytext=(0, 42),
        textcoords="offset points",
        ha="center",
        arrowprops={"arrowstyle": "-", "color": "#d29922"},
    )
    if stopper.stop_reason:
        axes.axvline(epochs[-1], color="#cf222e", ls="--", lw=1, label="stopped")
    axes.set(xlabel="epoch", ylabel="cross-entropy", yscale="log", xlim=(0.5, epochs[-1] + 0.5))
    axes.set_title("Handwritten digits: training until validation loss stops improving", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=130)
    plt.close(figure)


class SaveLog(keras.callbacks.Callback):
    """Records the epochs (from 1) in which the checkpoint changed."""

    def __init__(self, path):
        super().__init__()
        self.path, self.epochs, self._seen = Path(path), [], None

    def on_epoch_end(self, epoch, logs=None):
        """Check whether the file has changed."""
        now = self.path.stat().st_mtime_ns if self.path.exists() else None
        if now != self._seen:
            self._seen = now
            self.epochs.append(epoch + 1)


def main():
    print(f"Training a small network on 1,077 scanned digits, on {keras.backend.backend()} ...")
    keras.utils.set_random_seed(7)
    train, validation, test = load_data()
    RUN.mkdir(parents=True, exist_ok=True)
    best_file = RUN / "best.keras"
    best_file.unlink(missing_ok=True)

    stopper = keras_ratchet.EarlyStopping(monitor="val_loss", patience=6, restore_best_weights=True)
    checkpoint = keras_ratchet.ModelCheckpoint(best_file, save_best_only=True)
    saves = SaveLog(best_file)
    model = build_model()
    history = model.fit(
        *train,
        validation_data=validation,
        epochs=EPOCHS,
        batch_size=32,
        callbacks=[stopper, checkpoint, saves, ProgressLine("Training", EPOCHS)],
        verbose=0,
    )

    in_memory = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    reloaded = keras.models.load_model(best_file)
    from_file = reloaded.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    picture = RUN / "curves.png"
    plot(history.history, stopper, saves.epochs, picture)

    print_table(
        f"Handwritten digits on {keras.backend.backend()}",
        [
            ("epochs run", f"{len(history.epoch)} of {EPOCHS}"),
            ("why it ended", str(stopper.stop_reason or "all epochs were run")),
            ("best epoch", f"{stopper.best_epoch + 1} (val_loss {stopper.best_value:.4f})"),
            ("saved as best in epochs", ", ".join(map(str, saves.epochs))),
            ("test accuracy, model in memory", f"{in_memory:.4f}"),
            ("test accuracy, file reloaded", f"{from_file:.4f}"),
        ],
    )
    same = all(
        np.array_equal(a, b)
        for a, b in zip(model.get_weights(), reloaded.get_weights(), strict=True)
    )
    if not same or in_memory != from_file:
        raise SystemExit("The model in memory and the reloaded file differ.")
    print(
        f"The weights of epoch {stopper.best_epoch + 1} are restored: the model in memory and "
        f"{best_file} hold the same weights. Curves: {picture}"
    )
    print(f"Look at what was kept, and why: {ratchet()} history {RUN}")
    print(f"All of it as one page: {ratchet()} report {RUN} -o report.html\n")


if __name__ == "__main__":
    main()
