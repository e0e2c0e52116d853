"""Text: which part of Python's standard library is this sentence about?

Real data: the docstrings of the standard library of the Python that runs this script, read from
its source files (Python Software Foundation License). A GRU reads one sentence, word by word,
and names the package it was written for. No docstring is in both training and validation data.

    python examples/text.py               # run it, kill it, run it again: it resumes
    python examples/text.py --interrupt   # the same, with a child process that is killed
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import argparse
import ast
import re
import shutil
import sysconfig
from collections import Counter
from pathlib import Path

import keras
import numpy as np
from interrupt import KillAt, resumes_in, run_until_killed, same_weights
from tables import print_table

import keras_ratchet

RUN = Path("runs/text")
EPOCHS = 20
PACKAGES = ("asyncio", "email", "importlib", "logging", "unittest", "xml")
VOCABULARY = 2000
LENGTH = 20  # words
KILL = KillAt(epoch=2, batch=20)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(package):
    """Return all docstrings of a standard library package, without its tests."""
    library = Path(sysconfig.get_paths()["stdlib"]) / package
    found = []
    for file in sorted(library.rglob("*.py")):
        if not {"test", "tests"} & set(file.parts):
            nodes = ast.walk(ast.parse(file.read_text("utf-8")))
            found += [ast.get_docstring(node) for node in nodes if isinstance(node, DOCUMENTED)]
    return sorted({text for text in found if text})


def sentences(docstring):
    """Return the sentences of a docstring, each a list of words, longer than three."""
    parts = re.split(r"(?<=[.:!?])\s+|\n\n", docstring)
    words = [re.findall(r"[a-z_]+|[^a-z_\s]", part.lower()) for part in parts]
    return [w for w in words if len(w) > 3]


def load_data():
    """Return (x, y) for training and validation, and the vocabulary: x holds word numbers."""
    rng = np.random.default_rng(0)
    split = {"training": {}, "validation": {}}
    for label, package in enumerate(PACKAGES):
        for text in docstrings(package):
            part = "validation" if rng.random() < 0.2 else "training"
            for sentence in sentences(text):
                split[part].setdefault(tuple(sentence[:LENGTH]), label)
    for sentence in split["training"]:
        split["validation"].pop(sentence, None)
    counts = Counter(word for sentence in split["training"] for word in sentence)
    vocabulary = {
        word: number for number, (word, _) in enumerate(counts.most_common(VOCABULARY), 2)
    }
    data = []
    for part in split.values():
        x = np.zeros((len(part), LENGTH), "int32")  # 0 is padding, 1 an unknown word
        for row, sentence in enumerate(part):
            x[row, -len(sentence) :] = [vocabulary.get(word, 1) for word in sentence]
        data.append((x, np.array(list(part.values()), "int32")))
    return (*data, vocabulary)


def build_model():
    """Return a GRU classifier, compiled."""
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY + 2, 32),
            keras.layers.Dropout(0.4),
            keras.layers.GRU(32),
            keras.layers.Dropout(0.4),
            keras.layers.Dense(len(PACKAGES), activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def train(*more_callbacks):
    """Train, or resume training; return the model, its History and the callback that stops it."""
    keras.utils.set_random_seed(1)
    training, validation, _ = load_data()
    model = build_model()
    stopper = keras_ratchet.EarlyStopping(patience=3, restore_best_weights=True)
    files = keras_ratchet.ModelCheckpoint(
        RUN / "epoch-{epoch:02d}-{val_loss:.3f}.keras", keep_best=2, keep_last=1
    )
    backup = keras_ratchet.BackupAndRestore(RUN / "backup", save_freq=15)
    history = model.fit(
        *training,
        validation_data=validation,
        epochs=EPOCHS,
        batch_size=64,
        verbose=0,
        callbacks=[backup, stopper, files, *more_callbacks],
    )
    return model, history.history, stopper


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
    training, (x, y), vocabulary = load_data()
    loss, accuracy = model.evaluate(x, y, verbose=0)
    best = keras_ratchet.load_model(RUN)
    kept = [info.name for info in keras_ratchet.checkpoints(RUN)]

    chance = np.bincount(y).max() / len(y)
    print_table(
        f"Standard library sentences on {keras.backend.backend()}",
        [
            ("sentences", f"{len(training[1])} for training, {len(y)} for validation"),
            ("this process started in", start),
            ("epochs run", f"{len(history['loss'])} of {EPOCHS}"),
            ("why it ended", str(stopper.stop_reason or "all epochs were run")),
            ("best epoch, restored", f"{stopper.best_epoch + 1} (val_loss {loss:.4f})"),
            ("files kept", "\n".join(kept)),
            ("validation accuracy", f"{accuracy:.3f} (largest class: {chance:.3f})"),
        ],
    )
    words = {number: word for word, number in vocabulary.items()} | {1: "?"}
    rows = np.linspace(0, len(y) - 1, 5, dtype=int)
    answers = model.predict(x[rows], verbose=0)
    for sentence, truth, answer in zip(x[rows], y[rows], answers, strict=True):
        mark = "right" if answer.argmax() == truth else f"wrong, it is {PACKAGES[truth]}"
        text = " ".join(words[number] for number in sentence if number)
        print(f'  "{text}": {PACKAGES[answer.argmax()]} ({mark})')
    if not same_weights(model, best):
        raise SystemExit("The model in memory and the best file differ.")
    if accuracy < chance + 0.1:
        raise SystemExit("The model has learned nothing.")
    print("The model in memory and the best of the files kept hold the same weights.")


if __name__ == "__main__":
    main()
