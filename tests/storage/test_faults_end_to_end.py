"""The same faults under two ModelCheckpoints that train a Keras model."""

import contextlib
import functools
import re
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from support import background_saves
from support.scenarios import Scenario, all_runs

import keras_ratchet
from keras_ratchet._engine.saving import provenance
from keras_ratchet._engine.saving.background import drain

LOSSES = [0.5, 0.4]
ONE_BY_ONE = (
    {},
    {"best": 1},
    {"best": 1, "epoch-1": 1},
    {"best": 2, "epoch-1": 1},
    {"best": 2, "epoch-1": 1, "epoch-2": 2},
    {"best": 2, "epoch-2": 2},
)
BESIDE = (  # of two saves that are under way each may be done, or fail, without the other
    {},
    {"epoch-1": 1},
    {"best": 1},
    {"best": 1, "epoch-1": 1},
    {"best": 1, "epoch-1": 1, "epoch-2": 2},
    {"best": 1, "epoch-2": 2},
    {"best": 2, "epoch-1": 1},
    {"best": 2, "epoch-1": 1, "epoch-2": 2},
    {"best": 2, "epoch-2": 2},
)


class Training(Scenario):
    """Two epochs: the best file is overwritten, and the first epoch's is dropped at the end."""

    states = BESIDE if background_saves.WANTED else ONE_BY_ONE
    inside_hdf5 = True

    def __init__(self, suffix, weights_only):
        self.suffix, self._weights_only = suffix, weights_only

    def callbacks(self, root):
        common = {"save_weights_only": self._weights_only, "mode": "min"}
        best = keras_ratchet.ModelCheckpoint(
            f"{root}/best{self.suffix}", save_best_only=True, **common
        )
        epochs = keras_ratchet.ModelCheckpoint(
            f"{root}/epoch-{{epoch}}{self.suffix}", keep_last=1, **common
        )
        return best, epochs

    def act(self, root, reported):
        model = tiny_model()
        callbacks = self.callbacks(root)
        for callback in callbacks:
            callback.set_model(model)
            callback.on_train_begin()
        try:
            for epoch, loss in enumerate(LOSSES):
                stamp(model, epoch + 1)
                self.end_epoch(callbacks, epoch, loss, reported)
        finally:
            drain()  # before the disk is taken away
        reported(len(self.states) - 1)
        for callback in callbacks:
            callback.on_train_end()

    def end_epoch(self, callbacks, epoch, loss, reported):
        for number, callback in enumerate(callbacks, 1):
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, {"val_loss": loss})
            if not background_saves.WANTED:
                reported(2 * epoch + number)
        for callback in callbacks:
            callback.flush()
        if background_saves.WANTED:  # nothing is promised before
            reported((3, len(BESIDE) - 1)[epoch])

    def next_start(self, root):
        for callback in self.callbacks(root):
            callback.set_model(tiny_model())
            callback.on_train_begin()
            callback.on_train_end()

    def next_save(self, root):
        model = tiny_model()
        stamp(model, 99)
        callback = keras_ratchet.ModelCheckpoint(
            f"{root}/next{self.suffix}", save_weights_only=self._weights_only
        )
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_epoch_end(0, {"val_loss": 0.1})
        callback.on_train_end()

    def actual(self, root):
        paths = [p for p in Path(root).iterdir() if p.name.endswith(self.suffix)]
        ours = [p for p in paths if re.match(r"(best|next|epoch-\d)\.", p.name)]
        return {p.name.removesuffix(self.suffix): stamp_in(p) for p in ours}

    def expected_files(self, state):
        named = super().expected_files({f"{name}{self.suffix}": v for name, v in state.items()})
        return [*named, r"\.ratchet/journal\.jsonl", r"\.ratchet/.*\.[0-9a-f]{8}\.lock"]


@functools.cache
def tiny_model():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])


def stamp(model, number):
    model.set_weights([np.full_like(w, number) for w in model.get_weights()])


def stamp_in(path):
    """Return the number that all weights in a file hold, "?" if it cannot be told."""
    values = set()
    try:
        with contextlib.ExitStack() as stack:
            if path.suffix == ".keras":
                archive = stack.enter_context(zipfile.ZipFile(path))
                path = stack.enter_context(archive.open("model.weights.h5"))
            stack.enter_context(h5py.File(path)).visititems(
                lambda _, item: values.update(_values(item))
            )
    except (OSError, KeyError, zipfile.BadZipFile):
        return "?"
    return int(values.pop()) if len(values) == 1 else "?"


def _values(item):
    return [float(v) for v in np.ravel(item[()])] if isinstance(item, h5py.Dataset) else []


def not_inside_a_format(number, verb):
    """Leave out most of the writes of HDF5 and zip, of which there are many alike."""
    return verb not in ("write", "truncate") or number % 7 == 0


@pytest.fixture(autouse=True)
def versions_are_asked_for_once(monkeypatch):
    monkeypatch.setattr(provenance, "versions", functools.cache(provenance.versions))


def test_a_fault_at_any_call_of_a_training_costs_no_checkpoint(quick_path):
    training = Training(".weights.h5", weights_only=True)
    runs = list(all_runs(training, quick_path, ["error", "crash"], not_inside_a_format))
    assert [what for run in runs for what in run.violations] == []
    assert len(runs) > 110


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
def test_a_fault_at_every_single_call_of_a_training_costs_no_checkpoint(suffix, quick_path):
    training = Training(suffix, weights_only=suffix == ".weights.h5")
    runs = list(all_runs(training, quick_path, ["error", "crash"]))
    assert [what for run in runs for what in run.violations] == []
    assert len(runs) > 150
