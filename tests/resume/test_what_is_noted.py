"""What the journals say of a resume, and of an error that came when all epochs were done."""

import os
import uuid

import keras
import pytest
from support import background_saves
from support.resuming import EPOCHS, Kill, Killed, Script, arrays
from support.runs import warnings_like
from support.sources import numpy_arrays

from keras_ratchet import EarlyStopping, ModelCheckpoint
from keras_ratchet._storage import journal
from keras_ratchet.callbacks import backup_and_restore
from keras_ratchet.cli import history
from keras_ratchet.errors import MissingMetricError
from keras_ratchet.following import RunState
from keras_ratchet.plots import _runs

NOTHING_LEFT = "nothing is trained now"


class MayAdd(keras.callbacks.Callback):
    """May add the metric, for all that is known, and never does."""

    def on_epoch_end(self, epoch, logs=None):
        pass


class KilledAtTheEnd(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        raise Killed


@pytest.fixture
def script(tmp_path):
    backup = {"delete_checkpoint": True}
    return Script(str(tmp_path / "run" / "backup"), numpy_arrays, backup=backup)


def train_in_vain(script):
    """Train all epochs of a run, whose metric never comes; then correct the script."""
    script.callbacks = lambda: [MayAdd(), EarlyStopping("val_loss")]
    with warnings_like("no 'val_loss' yet") as count, pytest.raises(MissingMetricError):
        script.run()
    assert count() == 1  # in the first epoch
    background_saves.settle()
    script.callbacks, script.fit = list, {**script.fit, "validation_data": arrays()}


def run(script, kill=None):
    """Run; return how often it said that nothing is left, and the outcome."""
    with warnings_like(NOTHING_LEFT) as count:
        outcome = script.run(kill)
    return count(), outcome


def test_a_run_that_has_nothing_left_to_train_says_which_error_ended_it(script):
    train_in_vain(script)
    words = (
        r"ended with MissingMetricError \(EarlyStopping: .*'val_loss'.*\) after its last epoch "
        rf"\({EPOCHS}\).*nothing is trained now. Delete '.*backup' to train .*raise `epochs`"
    )
    with pytest.warns(UserWarning, match=words):
        outcome = script.run()
    assert len(outcome.epochs) == EPOCHS  # those of the run before
    assert not os.path.exists(script.directory)


@pytest.mark.parametrize("is_mirror", [False, True])
def test_on_another_machine_the_store_says_which_error_ended_it(
    script, is_mirror, tmp_path, monkeypatch
):
    url = f"memory://{uuid.uuid4().hex}/run"
    if is_mirror:
        script.backup["mirror"] = url
    else:
        script.directory = url
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "one"))
    real = backup_and_restore.note_error

    def note_error(store, *arguments):
        store.writer.wait_for_upload(30.0)  # whichever is first, the upload or the error
        real(store, *arguments)

    monkeypatch.setattr(backup_and_restore, "note_error", note_error)
    train_in_vain(script)
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "another"))
    if is_mirror:
        script.directory = str(tmp_path / "another" / "backup")
    said, outcome = run(script)
    assert said == 1 and len(outcome.epochs) == EPOCHS


def test_a_run_that_was_killed_at_its_end_says_nothing(script):
    assert script.run(KilledAtTheEnd()) is None
    assert run(script)[0] == 0


def test_with_more_epochs_it_trains_on_and_the_error_is_forgotten(script):
    train_in_vain(script)
    script.fit["epochs"] = EPOCHS + 1
    assert run(script, KilledAtTheEnd()) == (0, None)
    said, outcome = run(script)
    assert said == 0 and len(outcome.epochs) == EPOCHS + 1


def test_epochs_that_were_trained_again_after_the_error_count_as_trained(script):
    train_in_vain(script)
    for info in list(os.scandir(script.directory)):
        if info.name.startswith("epoch-"):
            os.rename(info.path, os.path.join(os.path.dirname(script.directory), info.name))
    assert run(script, KilledAtTheEnd()) == (0, None)
    assert run(script)[0] == 0


def test_a_resume_outlives_the_backup_directory_and_counts_once(script, tmp_path):
    best = tmp_path / "run" / "best.keras"
    script.callbacks = lambda: [ModelCheckpoint(best, "loss", save_best_only=True)]
    script.chain(Kill(17), Kill(27), save_freq=5)
    assert not os.path.exists(script.directory)
    events = list(journal.read(str(best.parent)))
    told = [e["event"] for e in events if e["event"] in ("begin", "resume", "end")]
    assert told == ["begin", "begin", "resume", "begin", "resume", "end"]
    resumed = [event for event in events if event["event"] == "resume"]
    assert [(e["series"], e["epoch"], e["batch"]) for e in resumed] == [
        ("best.keras", 1, 5),
        ("best.keras", 2, 5),
    ]
    assert "resumed" in history.sentence(resumed[0])
    [whole] = _runs.all_runs(events)
    assert whole.resumed == (2, 3)
    state = RunState()
    for event in events:
        state.add(event)
    assert state.ended


def test_in_one_directory_a_resume_is_noted_once(script, tmp_path):
    best = tmp_path / "run" / "best.keras"
    script.directory = str(tmp_path / "run")
    script.callbacks = lambda: [ModelCheckpoint(best, "loss", save_best_only=True)]
    script.chain(Kill(25), delete_checkpoint=False)
    noted = [e for e in journal.read(script.directory) if e["event"] == "resume"]
    assert [(e["name"], e["epoch"]) for e in noted] == [("epoch-00002-batch-0000000", 2)]
