"""How many files a reader enters: counted from real runs, for docs/architecture.md.

Runs `fit` with our callbacks under `sys.setprofile` and counts the modules of `keras_ratchet` in
which a function was called. Then reads the source: own classes in an MRO, methods, public
attributes, lengths of function bodies.

    python benchmarks/house.py            # the tables
    python benchmarks/house.py --files    # the files of each action, too
"""

import argparse
import ast
import contextlib
import gc
import os
import statistics
import sys
import tempfile
import types
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

import keras_ratchet

ROOT = Path(keras_ratchet.__file__).parent
CALLBACKS = [
    "EarlyStopping",
    "ModelCheckpoint",
    "BackupAndRestore",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
    "Rollback",
]


class Entered:
    """Notes the files of ours that a block enters, on this thread.

    What the garbage collector would enter, at a moment of its own choice, is not of the block.
    """

    def __init__(self):
        self.files = {}

    def __enter__(self):
        gc.disable()
        sys.setprofile(self._called)
        return self

    def __exit__(self, *error):
        sys.setprofile(None)
        gc.enable()

    def _called(self, frame, event, argument):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(ROOT)) and frame.f_code.co_name != "<module>":
            self.files.setdefault(Path(name).relative_to(ROOT).as_posix())


class Probe:
    """Watches hooks of Keras's `CallbackList`, call by call."""

    def __init__(self, *hooks):
        self.calls = []
        self._hooks = hooks

    def __enter__(self):
        self._before = {name: getattr(keras.callbacks.CallbackList, name) for name in self._hooks}
        for name, hook in self._before.items():
            setattr(keras.callbacks.CallbackList, name, self._watched(name, hook))
        return self

    def __exit__(self, *error):
        for name, hook in self._before.items():
            setattr(keras.callbacks.CallbackList, name, hook)

    def _watched(self, name, hook):
        def watched(*args, **kwargs):
            with Entered() as entered:
                try:
                    return hook(*args, **kwargs)
                finally:
                    self.calls.append((name, list(entered.files)))

        return watched

    def union(self, *names):
        """Return the files of all calls of some hooks, in the order in which they were entered."""
        return list(dict.fromkeys(f for name, files in self.calls if name in names for f in files))


def fit(callbacks, epochs=3, **more):
    """Train a small model on eight batches an epoch."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    data = {"batch_size": 8, "validation_split": 0.25, "verbose": 0}
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **data, **more)


def early_stopping(directory):
    """Return the files of an epoch's end with an improvement: judged, weights captured."""
    stopping = keras_ratchet.EarlyStopping(patience=5, restore_best_weights=True)
    with Probe("on_epoch_end") as probe:
        fit([stopping])
    return probe.calls[1][1]


def checkpoint(directory):
    """Return the files of an epoch's end that saves the best model."""
    path = os.path.join(directory, "best.keras")
    saving = keras_ratchet.ModelCheckpoint(path, save_best_only=True, background=False)
    with Probe("on_epoch_end") as probe:
        fit([saving])
    return probe.calls[1][1]


def batch(directory):
    """Return the files of two batches' ends: one that saves a snapshot, one that does not."""
    backup = keras_ratchet.BackupAndRestore(directory, save_freq=2, background=False)
    with Probe("on_train_batch_end") as probe:
        fit([backup])
    idle, saving = probe.calls[2:4]
    return idle[1], saving[1]


class Interrupt(keras.callbacks.Callback):
    """Ends `fit` in the middle of the second epoch, as a failure in a script would."""

    def on_train_batch_end(self, batch, logs=None):
        """Count batches; raise in the tenth."""
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen == 10:
            raise RuntimeError("interrupted")


def resume(directory):
    """Return the files of a resume in mid-epoch, until training is where it was."""

    def backup():
        return keras_ratchet.BackupAndRestore(directory, save_freq=1, background=False)

    with contextlib.suppress(RuntimeError):
        fit([backup(), Interrupt()])
    gc.collect()  # as in a new process: the interrupted callback is gone, and closes nothing
    hooks = ("on_train_begin", "on_epoch_begin")
    with Probe(*hooks) as probe:
        fit([backup()])
    first = [call for call in probe.calls if call[0] == "on_train_begin"]
    first += [call for call in probe.calls if call[0] == "on_epoch_begin"][:1]
    return list(dict.fromkeys(f for _, files in first for f in files))


def own(kind):
    """Return the classes of ours in an MRO."""
    return [k for k in kind.__mro__ if k.__module__.startswith("keras_ratchet")]


def class_row(name, directory):
    """Return own classes, methods, public attributes and those without documentation."""
    kind = getattr(keras_ratchet, name)
    arguments = {"ModelCheckpoint": ["a.keras"], "BackupAndRestore": ["backup"]}.get(name, [])
    arguments = [os.path.join(directory, a) for a in arguments]
    callback = kind(*arguments)
    fit([callback], epochs=1)
    functions = {
        n for k in own(kind) for n, v in vars(k).items() if isinstance(v, types.FunctionType)
    }
    properties = {n for k in own(kind) for n, v in vars(k).items() if isinstance(v, property)}
    public = {n for n in {*vars(callback), *properties} if not n.startswith("_")}
    hooks = {n for n in public if n.startswith("on_")}
    theirs = getattr(keras.callbacks, name, keras.callbacks.Callback)
    try:
        theirs = {*vars(theirs(*arguments))}
    except TypeError:
        theirs = set()
    text = " ".join(k.__doc__ or "" for k in own(kind))
    unknown = {n for n in public - hooks - theirs - {"params", "model"} if f"{n}:" not in text}
    return [len(own(kind)), len(functions), len(public - hooks), sorted(unknown)]


def bodies():
    """Return (modules, lines, functions, median body, P90 body, longest body)."""
    lengths, lines, files = [], 0, sorted(ROOT.rglob("*.py"))
    for path in files:
        source = path.read_text()
        lines += len(source.splitlines())
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                body = node.body[is_doc:]
                lengths.append(body[-1].end_lineno - body[0].lineno + 1 if body else 1)
    p90 = sorted(lengths)[int(0.9 * len(lengths))]
    return len(files), lines, len(lengths), statistics.median(lengths), p90, max(lengths)


def actions(directory):
    """Return the files that each action enters."""
    places = [os.path.join(directory, name) for name in "abcd"]
    idle, saving = batch(places[2])
    return {
        "one save of `ModelCheckpoint`": checkpoint(places[1]),
        "one batch of `BackupAndRestore`, with a save": saving,
        "one batch of `BackupAndRestore`, without a save": idle,
        "one `EarlyStopping.on_epoch_end`": early_stopping(places[0]),
        "one resume in mid-epoch": resume(places[3]),
    }


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", action="store_true", help="name the files of each action")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print("| action | files entered |\n|---|---|")
        for name, files in actions(directory).items():
            print(f"| {name} | {len(files)} |")
            if options.files:
                print("".join(f"|   {file} | |\n" for file in files), end="")
        print(
            "\n| class | own classes | methods | public attributes | undocumented |"
            "\n|---|---|---|---|---|"
        )
        for name in CALLBACKS:
            depth, methods, attributes, unknown = class_row(name, directory)
            print(
                f"| {name} | {depth} | {methods} | {attributes} | {', '.join(unknown) or 'none'} |"
            )
    modules, lines, functions, median, p90, longest = bodies()
    print(
        f"\n{modules} modules, {lines} lines, {functions} functions: bodies of {median} lines at "
        f"the median, {p90} at the 90th percentile, {longest} at most."
    )


if __name__ == "__main__":
    main()
