"""Files that no rule keeps go, whether or not each save lists the directory."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ratchet._engine.saving.retaining import Retaining
from keras_ratchet._storage import listing, single_file
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.policy.retention import KeepBest, KeepEvery, KeepLast, KeepNewer, Ranking
from keras_ratchet.types import Position

RANKING = Ranking((("loss", "min"),))
RULES = [
    KeepBest(2),
    KeepBest(4),
    KeepLast(3),
    KeepBest(1) | KeepLast(3),
    KeepLast(2) | KeepBest(5),
    KeepEvery(3),
    KeepNewer(1e12) | KeepBest(1),
]
SAVE = st.tuples(st.just("save"), st.sampled_from([0.5, 1.0, 2.0, float("nan"), None]))
CHANGE = st.tuples(
    st.sampled_from(["pin", "unpin", "remove", "remove all of", "copy"]), st.integers(0, 5)
)


class Series:
    """A series in a directory, which saves as `CheckpointStore` does."""

    def __init__(self, directory, rule, forgets=False):
        self.directory, self.rule, self.forgets = str(directory), rule, forgets
        self.retaining = Retaining()
        self.catalog = listing.FileCatalog()
        self.looks = self.saves = 0

    def save(self, loss):
        self.saves += 1
        if self.forgets:
            self.retaining = Retaining()
        self.retaining.begin_save(self.directory, self.rule, RANKING)
        metrics = {} if loss is None else {"loss": loss}
        facts = Manifest({}, Position(self.saves), metrics, saved_at=1e9 + self.saves)
        path = os.path.join(self.directory, f"{self.saves}.keras")
        content = b"%d" % self.saves
        manifest = single_file.save_file(path, lambda d: d.write(lambda f: f.write(content)), facts)
        self.catalog.forget(os.path.basename(path))
        self.retaining.end_save(
            manifest, self.list_own, None, lambda info, _: listing.delete_unless_changed(info)
        )

    def list_own(self):
        self.looks += 1
        return self.catalog.list_files(self.directory)

    def change(self, action, number):
        """Do what somebody else may do."""
        path = os.path.join(self.directory, f"{self.saves - number}.keras")
        if not os.path.exists(path):
            return
        if action == "pin":
            listing.pin(path)
        elif action == "unpin":
            listing.unpin(path)
        elif action == "remove":
            os.unlink(path)
        elif action == "remove all of":
            single_file.delete_file(path)
        else:
            copy = path.replace(".keras", f".copy-{number}.keras")
            shutil.copy(path, copy)
            manifest = single_file.manifest_of(path)
            single_file.adopt(copy, manifest)

    @property
    def names(self):
        return sorted(name for name in os.listdir(self.directory) if name.endswith(".keras"))


def wait_for_tick(directory):
    """Wait until the file system's clock is past the last change of `.ratchet`."""
    clock = Path(directory, "clock")
    last = os.stat(os.path.join(directory, single_file.METADATA)).st_mtime_ns
    while True:
        clock.touch()
        if clock.stat().st_mtime_ns > last:
            return


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RULES), st.lists(st.one_of(SAVE, SAVE, CHANGE), max_size=14))
def test_what_stays_is_what_stays_if_every_save_looks(rule, steps):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        pair = Series(one, rule), Series(two, rule, forgets=True)
        for action, value in steps:
            for series in pair:
                if action == "save":
                    series.save(value)
                elif series.saves:
                    wait_for_tick(series.directory)
                    series.change(action, value)
            assert pair[0].names == pair[1].names


@pytest.mark.parametrize(("rule", "looks"), [(KeepBest(5), 3), (KeepLast(6), 2), (KeepEvery(1), 7)])
def test_a_save_looks_only_if_something_may_have_to_go(tmp_path, rule, looks):
    series = Series(tmp_path, rule)
    for number in range(7):
        series.save(float(number))
    assert series.looks == looks


def test_what_is_pinned_unseen_is_not_deleted(tmp_path):
    """The change falls into the same step of the file system's clock as the save before it."""
    series = Series(tmp_path, KeepBest(2))
    series.save(2.0)
    series.save(1.0)
    metadata = tmp_path / single_file.METADATA
    before = metadata.stat()
    listing.pin(str(tmp_path / "1.keras"))
    os.utime(metadata, ns=(before.st_atime_ns, before.st_mtime_ns))
    series.save(0.5)
    series.save(0.25)
    assert series.names == ["1.keras", "3.keras", "4.keras"]


def test_a_save_without_the_metric_is_not_spared(tmp_path):
    series = Series(tmp_path, KeepBest(3))
    for loss in (1.0, None, 2.0):
        series.save(loss)
    assert series.names == ["1.keras", "3.keras"]


def test_files_that_somebody_puts_there_count(tmp_path):
    series = Series(tmp_path, KeepBest(4))
    series.save(2.0)
    series.save(1.0)
    wait_for_tick(tmp_path)
    for number in (0, 1, 0, 1):
        series.change("copy", number)
    assert len(series.names) == 4
    series.save(0.5)
    assert len(series.names) == 4
