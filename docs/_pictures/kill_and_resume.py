"""Draws the picture of the landing page from real runs.

    python docs/_pictures/kill_and_resume.py

A small network is trained on the digits of scikit-learn, with dropout and shuffled data. A child
process kills itself with SIGKILL in the middle of an epoch and is started again: once with our
`BackupAndRestore`, once with Keras's. What is drawn is the loss of each batch, and how far it is
from that of the run that was never killed.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import keras_ratchet

STATIC = Path(__file__).resolve().parent.parent / "_static"
EPOCHS, BATCHES, KILLED_AT = 6, 24, 65  # 65: in the third epoch
INK = {"light": "#3c4450", "dark": "#cfd3d8"}
COLORS = {"light": ("#1f4e9c", "#d98e04", "#b42318"), "dark": ("#6ea8fe", "#f0b44a", "#ff7b72")}


class Recorder(keras.callbacks.Callback):
    """Writes the loss of each batch to a file, and kills the process before one of them."""

    def __init__(self, path: Path, kill: bool) -> None:
        super().__init__()
        self.path, self.kill, self.step = path, kill, 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Count from the epoch that the run is in."""
        self.step = epoch * BATCHES

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        """Die, if it is time."""
        if self.kill and self.step + batch == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Note the loss, a mean over the batches of the epoch so far."""
        with self.path.open("a") as file:
            file.write(json.dumps([self.step + batch, logs["loss"]]) + "\n")


def train(directory: Path, backup: str, kill: bool) -> None:
    """Train, or go on with the training, in `directory`."""
    keras.utils.set_random_seed(3)
    x, y = load_digits(return_X_y=True)
    layers = [keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.4), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.002), loss)
    classes = {"ours": keras_ratchet.BackupAndRestore, "keras": keras.callbacks.BackupAndRestore}
    callbacks = [classes[backup](directory / "backup", save_freq=10)]
    callbacks.append(Recorder(directory / "losses", kill))
    count = BATCHES * 64
    model.fit(x[:count] / 16, y[:count], 64, EPOCHS, verbose=0, callbacks=callbacks)


def losses(directory: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Return the loss of each batch before the kill, and of each one after it."""
    before, after = {}, {}
    last = -1
    for step, loss in map(json.loads, (directory / "losses").read_text().splitlines()):
        part = after if after or step <= last else before
        part[step] = loss
        last = step
    return before, after


def measure() -> dict[str, tuple[dict[int, float], dict[int, float]]]:
    """Train in child processes, and return the losses of the three runs."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, backup, kill in (
            ("whole", "ours", 0),
            ("ours", "ours", 1),
            ("keras", "keras", 1),
        ):
            directory = Path(scratch, name)
            directory.mkdir()
            command = [sys.executable, __file__, str(directory), backup]
            if kill:
                assert subprocess.run([*command, "kill"], check=False).returncode == -signal.SIGKILL
            subprocess.run(command, check=True)
            found[name] = losses(directory)
    return found


def draw(runs: dict[str, tuple[dict[int, float], dict[int, float]]], theme: str) -> None:
    """Write the picture for furo's light or dark theme."""
    ink, (blue, gold, red) = INK[theme], COLORS[theme]
    style = {"axes.edgecolor": ink, "text.color": ink, "axes.labelcolor": ink}
    style |= {"xtick.color": ink, "ytick.color": ink, "font.size": 11, "svg.hashsalt": "ratchet"}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    whole = runs["whole"][0]
    with mpl.rc_context(style):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(8, 5), sharex=True, layout="constrained", height_ratios=(3, 2)
        )
        top.plot(list(whole), list(whole.values()), color=ink, alpha=0.3, linewidth=7)
        for name, color, label in (("keras", gold, "Keras"), ("ours", blue, "keras-ratchet")):
            before, after = runs[name]
            if name == "ours":
                top.plot(list(before), list(before.values()), color=blue, linewidth=1.6)
            top.plot(list(after), list(after.values()), color=color, linewidth=1.6, label=label)
            apart = {step: abs(loss - whole[step]) for step, loss in after.items()}
            bottom.plot(list(apart), list(apart.values()), color=color, linewidth=1.8)
        for axes in (top, bottom):
            axes.axvline(KILLED_AT, color=red, linestyle=":", linewidth=1.5)
        high = max(whole.values())
        top.annotate("SIGKILL", (KILLED_AT + 1, 0.85 * high), color=red)
        handles, labels = top.get_legend_handles_labels()
        gray = mpl.lines.Line2D([], [], color=ink, alpha=0.3, linewidth=7)
        named = [gray, *handles], ["never killed", *(f"killed, {name}" for name in labels)]
        top.legend(*named, frameon=False)
        top.set_ylabel("loss, as fit shows it")
        bottom.set_ylabel("distance from\nthe run never killed")
        bottom.set_xlabel("batch")
        exact = max(abs(loss - whole[step]) for step, loss in runs["ours"][1].items())
        bottom.annotate(f"keras-ratchet: {exact:g}", (KILLED_AT + 2, exact), (0, 6), color=blue,
                        textcoords="offset points")  # fmt: skip
        path = STATIC / f"kill-and-resume-{theme}.svg"
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    if arguments := sys.argv[1:]:
        train(Path(arguments[0]), arguments[1], "kill" in arguments)
    else:
        measured = measure()
        for each in INK:
            draw(measured, each)
