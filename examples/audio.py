"""Audio: which letter or digit is spoken in this noise?

The data comes from a package, not from a recorded corpus: 36 clips of a voice that says A to Z
and 0 to 9 (8 kHz, in the package `captcha`, BSD licence) are sped up or slowed down, shifted, and
mixed with other clips and with noise, differently in each epoch. A 1-D convolution over the
spectrogram names the letter or digit. It learns this one voice, not speech in general. The training
data is a `ResumableDataset`, so a resumed run gives the same noise to the same batch.

    python examples/audio.py               # run it, kill it, run it again: it resumes
    python examples/audio.py --interrupt   # the same, with a child process that is killed
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import argparse
import importlib.util
import shutil
import string
import wave
from pathlib import Path

import keras
import matplotlib
import numpy as np
from interrupt import KillAt, resumes_in, run_until_killed, same_weights
from tables import print_table

import keras_ratchet
from keras_ratchet.data import ResumableDataset

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RUN = Path("runs/audio")
EPOCHS = 12
SYMBOLS = string.digits + string.ascii_uppercase
REPEATS = 40  # of each symbol in an epoch
RATE, SAMPLES = 8000, 8000  # one second
FRAME, HOP = 256, 128
KILL = KillAt(epoch=2, batch=12)


def load_voice():
    """Return 36 clips of one second, the sound at the start, in [-1, 1]."""
    package = importlib.util.find_spec("captcha")
    if package is None:
        raise SystemExit("This example needs the package captcha: pip install captcha")
    clips = np.zeros((len(SYMBOLS), SAMPLES), "float32")
    for clip, symbol in zip(clips, SYMBOLS, strict=True):
        file = Path(package.submodule_search_locations[0]) / "data" / symbol / "default.wav"
        with wave.open(str(file)) as sound:  # 8 bit, mono
            samples = np.frombuffer(sound.readframes(-1), np.uint8)
        clip[: len(samples)] = samples.astype("float32") / 128 - 1
    return clips


CLIPS = load_voice()


def disturb(labels, _, rng):
    """Return noisy spectrograms of the clips with these labels; all randomness comes from `rng`."""
    n = len(labels)
    time = np.arange(SAMPLES)
    sounds = np.empty((n, SAMPLES), "float32")
    for sound, label in zip(sounds, labels, strict=True):
        shift, speed = rng.integers(0, 1600), rng.uniform(0.85, 1.2)
        sound[:] = np.interp((time - shift) * speed, time, CLIPS[label], left=0.0, right=0.0)
    power = (sounds**2).mean(axis=1, keepdims=True)
    others = rng.integers(0, len(CLIPS), (n, 2))
    starts = rng.integers(0, SAMPLES, (n, 2, 1))  # one for each voice of each clip
    voices = CLIPS[others[..., None], (time - starts) % SAMPLES].sum(axis=1)
    for noise in (voices, rng.standard_normal((n, SAMPLES), "float32")):
        decibels = rng.uniform(6, 18, (n, 1))  # the symbol is this much louder
        sounds += noise * np.sqrt(
            power / (noise**2).mean(axis=1, keepdims=True) / 10 ** (decibels / 10)
        )
    return spectrogram(sounds), labels


def spectrogram(sounds):
    """Return log magnitudes of shape (clips, frames, frequencies), centered on zero."""
    frames = np.lib.stride_tricks.sliding_window_view(sounds, FRAME, axis=1)[:, ::HOP]
    magnitudes = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=-1))[..., 1:]
    pooled = magnitudes.reshape(*magnitudes.shape[:2], -1, 2).mean(-1)
    return (np.log(pooled + 1e-2) / 2).astype("float32")


def build_model(shape):
    """Return a 1-D convolutional network over time, compiled."""
    model = keras.Sequential([keras.Input(shape)])
    for filters in (48, 64):
        model.add(keras.layers.Conv1D(filters, 5, padding="same", use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.8))
        model.add(keras.layers.ReLU())
        model.add(keras.layers.MaxPooling1D(3))
    model.add(keras.layers.GlobalMaxPooling1D())
    model.add(keras.layers.Dropout(0.3))
    model.add(keras.layers.Dense(len(SYMBOLS), activation="softmax"))
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def load_data():
    """Return a training set with new noise in each epoch, and a fixed validation set."""
    labels = np.tile(np.arange(len(SYMBOLS), dtype="int32"), REPEATS)
    train = ResumableDataset(labels, labels, batch_size=64, seed=1, augment=disturb)
    return train, disturb(labels[:720], None, np.random.default_rng(2))


def train(*more_callbacks):
    """Train, or resume training; return the model, its History and the callback that stops it."""
    keras.utils.set_random_seed(1)
    training, validation = load_data()
    model = build_model(validation[0].shape[1:])
    stopper = keras_ratchet.EarlyStopping(
        patience=2, min_delta=0.1, min_delta_mode="relative", restore_best_weights=True
    )
    files = keras_ratchet.ModelCheckpoint(
        RUN / "epoch-{epoch:02d}-{val_accuracy:.3f}.keras", keep_best=2, keep_last=1
    )
    backup = keras_ratchet.BackupAndRestore(RUN / "backup", save_freq=10)
    history = model.fit(
        training,
        validation_data=validation,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[backup, stopper, files, *more_callbacks],
    )
    return model, history.history, stopper


def plot(answers, x, y, path):
    """Draw what four of the clips look like, and what was heard in them."""
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.2), sharey=True, layout="constrained")
    for axis, picked in zip(axes, (3, 12, 23, 34), strict=True):
        axis.imshow(x[picked].T, origin="lower", aspect="auto", extent=(0, 1, 0, RATE / 2000))
        axis.set(xlabel="seconds", title=f"{SYMBOLS[y[picked]]}, heard: {SYMBOLS[answers[picked]]}")
    axes[0].set_ylabel("kHz")
    figure.suptitle("Spoken letters and digits among other voices and noise")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interrupt", action="store_true", help="kill a child in mid-epoch first")
    parser.add_argument("--child", action="store_true", help="be that child")
    arguments = parser.parse_args()
    if arguments.child:
        train(KILL)
        return
    if arguments.interrupt or not resumes_in(RUN / "backup"):
        shutil.rmtree(RUN, ignore_errors=True)
    if arguments.interrupt:
        run_until_killed(__file__, "--child")
    start = resumes_in(RUN / "backup") or "epoch 1, nothing to resume"

    model, history, stopper = train()
    _, (x, y) = load_data()
    loss, accuracy = model.evaluate(x, y, verbose=0)
    best = keras_ratchet.load_model(RUN)
    kept = [info.name for info in keras_ratchet.checkpoints(RUN)]
    answers = model.predict(x, verbose=0).argmax(-1)
    plot(answers, x, y, RUN / "heard.png")
    pairs, counts = np.unique([y, answers], axis=1, return_counts=True)
    wrong = sorted(((c, *p) for c, p in zip(counts, pairs.T, strict=True) if p[0] != p[1]))[::-1]

    confused = ", ".join(f"{SYMBOLS[said]} for {SYMBOLS[heard]}" for _, said, heard in wrong[:3])
    print_table(
        f"Spoken letters and digits on {keras.backend.backend()}",
        [
            ("data", "made from 36 clips of one voice, not a recorded corpus"),
            ("clips", f"{REPEATS * len(SYMBOLS)} a training epoch, {len(y)} for validation"),
            ("this process started in", start),
            ("epochs run", f"{len(history['loss'])} of {EPOCHS}"),
            ("why it ended", str(stopper.stop_reason or "all epochs were run")),
            ("best epoch, restored", f"{stopper.best_epoch + 1} (val_loss {loss:.4f})"),
            ("files kept", "\n".join(kept)),
            ("validation accuracy", f"{accuracy:.3f} (by chance: {1 / len(SYMBOLS):.3f})"),
            ("most often confused", confused or "none"),
        ],
    )
    if not same_weights(model, best):
        raise SystemExit("The model in memory and the best file differ.")
    if accuracy < 0.5:
        raise SystemExit("The model has learned too little.")
    print("The model in memory and the best of the files kept hold the same weights.")
    print(f"What it heard: {RUN / 'heard.png'}")


if __name__ == "__main__":
    main()
