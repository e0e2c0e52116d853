"""The callbacks with a URL where a path was, and with `mirror=`: as on a local disk, but for where.

The store is `memory://`; `elsewhere` makes the cache empty, as on another machine.
"""

import copy
import os
import pickle
import signal
import threading
import time
import uuid
import warnings

import keras
import numpy as np
import pytest
from support.models import Curve, Stamp, data, dense, stamp_of

import keras_ratchet
from keras_ratchet import BackupAndRestore, ModelCheckpoint
from keras_ratchet._storage import anywhere
from keras_ratchet._storage.objects import calls, lease, object_store
from keras_ratchet.errors import ConfigError, LockedError, SaveError

X, Y = data()


def new_url():
    return f"memory://{uuid.uuid4().hex}/run"


@pytest.fixture
def url():
    return new_url()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return a function after which the cache is empty."""

    def move():
        monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / uuid.uuid4().hex))

    move()
    return move


def fit(*callbacks, losses=(5.0, 4.0, 3.0), base=0, model=None, **arguments):
    """Train with dictated losses; weights tell the epoch at which they were saved."""
    keras.utils.set_random_seed(1)
    model = model or dense()
    curve = Curve(val_loss=losses)
    model.fit(
        X,
        Y,
        epochs=len(losses),
        verbose=0,
        callbacks=[curve, Stamp(base), *callbacks],
        **arguments,
    )
    return model


def names(url):
    return {info.name: info.metrics.get("val_loss") for info in keras_ratchet.checkpoints(url)}


class Broken:
    """Calls of which some fail, for as long as `error` is set."""

    def __init__(self, url, options):
        self._real = calls.connect(url, options)
        self.exclusive = self._real.exclusive

    error = None
    verbs = ("put_file",)
    gate = None

    def __getattr__(self, name):
        real = getattr(self._real, name)

        def call(*arguments):
            if name in type(self).verbs and type(self).gate is not None:
                type(self).gate.wait(30)
            if name in type(self).verbs and type(self).error is not None:
                raise type(self).error
            return real(*arguments)

        return call


@pytest.fixture
def broken(monkeypatch):
    kind = type("Broken", (Broken,), {})
    monkeypatch.setattr(calls, "make", kind)
    monkeypatch.setattr(object_store, "PATIENCE_S", 0.5)
    monkeypatch.setattr(object_store, "START_PATIENCE_S", 0.5)
    return kind


def test_files_go_to_the_store_and_load_from_it(url, elsewhere, capsys):
    fit(ModelCheckpoint(f"{url}/best.keras", save_best_only=True, verbose=1))
    elsewhere()
    assert stamp_of(keras_ratchet.load_model(f"{url}/best.keras")) == 3
    assert stamp_of(keras_ratchet.load_model(url, "best")) == 3
    other = dense()
    keras_ratchet.load_weights(other, url, "latest")
    assert stamp_of(other) == 3
    assert keras_ratchet.verify(f"{url}/best.keras")
    said = capsys.readouterr().out
    assert f"saving model to {url}/best.keras" in said
    assert f"finished uploading model to {url}/best.keras" in said


RULES = {
    "best only": ("best.keras", {"save_best_only": True}),
    "all": ("all-{epoch}.keras", {}),
    "keep best": ("e{epoch:02d}.keras", {"keep_best": 2}),
    "keep best and last": ("e{epoch:02d}.keras", {"keep_best": 1, "keep_last": 2}),
    "weights": ("e{epoch:02d}.weights.h5", {"save_weights_only": True, "keep_every": 2}),
    "one name": ("last.keras", {}),
}


@pytest.mark.parametrize(("fresh", "disk"), [(None, "lost"), (None, "kept"), (False, "lost")])
@pytest.mark.parametrize("kind", RULES)
def test_runs_on_several_machines_leave_what_runs_on_one_disk_leave(
    kind, fresh, disk, elsewhere, tmp_path
):
    (name, rule), url = RULES[kind], new_url()
    for number, losses in enumerate([(5.0, 3.0, 4.0), (6.0, 2.0, 4.5, 4.2), (2.5, 1.0)]):
        for place in (str(tmp_path / "local"), url):
            elsewhere() if disk == "lost" else None
            fit(
                ModelCheckpoint(f"{place}/{name}", fresh=fresh if number else None, **rule),
                losses=losses,
                base=10 * number,
            )
    assert names(url) == names(tmp_path / "local")
    for info in keras_ratchet.checkpoints(url):
        assert keras_ratchet.verify(info.path)
        here, there = dense(), dense()
        keras_ratchet.load_weights(here, tmp_path / "local" / info.name)
        keras_ratchet.load_weights(there, info.path)
        assert stamp_of(here) == stamp_of(there)


@pytest.mark.parametrize("disk", ["lost", "kept"])
def test_a_pin_stays_on_its_name_and_keeps_the_file(disk, url, elsewhere, tmp_path):
    places = str(tmp_path / "local"), url
    for place in places:
        fit(ModelCheckpoint(f"{place}/e{{epoch}}.keras", keep_last=3), losses=(3.0, 2.0, 1.0))
        anywhere.set_pin(f"{place}/e2.keras", True)
        elsewhere() if disk == "lost" else None
        fit(
            ModelCheckpoint(f"{place}/e{{epoch}}.keras", keep_last=1),
            losses=(3.0, 2.5, 1.5, 1.2),
            initial_epoch=1,
        )
    listed = [{(i.name, i.pinned) for i in keras_ratchet.checkpoints(place)} for place in places]
    assert listed[0] == listed[1]
    assert ("e2.keras", True) in listed[1]


def test_a_best_file_that_was_not_uploaded_is_at_the_next_start(url, elsewhere, broken):
    broken.error = PermissionError("no")
    with pytest.raises(SaveError):
        fit(ModelCheckpoint(f"{url}/best.keras", save_best_only=True), losses=(1.0,))
    broken.error = None
    saves = ModelCheckpoint(f"{url}/best.keras", save_best_only=True, fresh=False)
    fit(saves, losses=(5.0, 4.0))
    assert names(url) == {"best.keras": 1.0}


def test_the_cache_may_be_anywhere(url, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "{of} me"))
    fit(ModelCheckpoint(f"{url}/e{{epoch}}.keras"), BackupAndRestore(f"{url}/b"), losses=(1.0,))
    assert names(url) == {"e1.keras": 1.0}


def test_a_pickled_callback_uses_the_cache_of_the_machine_where_it_runs(url, elsewhere, tmp_path):
    sent = pickle.dumps([ModelCheckpoint(f"{url}/a.keras"), BackupAndRestore(f"{url}/b")])
    before = set(os.listdir(tmp_path))
    elsewhere()
    fit(*pickle.loads(sent), losses=(1.0,))
    assert set(os.listdir(tmp_path)) - before == {os.path.basename(os.environ["RATCHET_CACHE"])}


def test_a_run_that_continues_from_a_loaded_model_keeps_its_best(url, elsewhere):
    fit(ModelCheckpoint(f"{url}/best.keras", save_best_only=True), losses=(5.0, 3.0))
    elsewhere()
    model = keras_ratchet.load_model(f"{url}/best.keras")
    fit(
        ModelCheckpoint(f"{url}/best.keras", save_best_only=True),
        losses=(4.0, 3.5),
        base=10,
        model=model,
    )
    assert names(url) == {"best.keras": 3.0}


def test_a_mirror_has_a_copy_of_what_the_directory_has(url, elsewhere, tmp_path):
    saves = ModelCheckpoint(f"{tmp_path}/e{{epoch}}.keras", keep_last=2, mirror=url)
    backup = BackupAndRestore(tmp_path / "b", delete_checkpoint=False, mirror=f"{url}/b")
    fit(saves, backup)
    assert names(url) == names(tmp_path) != {}
    assert set(names(f"{url}/b")) == set(names(tmp_path / "b")) != set()


def test_a_run_whose_directory_is_gone_resumes_from_the_mirror(url, elsewhere, tmp_path):
    def backup(name):
        return BackupAndRestore(tmp_path / name, delete_checkpoint=False, mirror=url)

    fit(backup("one"))
    second = backup("two")
    fit(second, losses=(5.0, 4.0, 3.0, 2.0))
    assert second.initial_epoch == 3


def test_the_local_directory_counts_and_a_newer_copy_is_told_of(url, elsewhere, tmp_path):
    fit(BackupAndRestore(tmp_path / "a", delete_checkpoint=False), losses=(5.0,))
    fit(BackupAndRestore(url, delete_checkpoint=False), losses=(5.0, 4.0))
    backup = BackupAndRestore(tmp_path / "a", delete_checkpoint=False, mirror=url)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(backup, losses=(5.0, 4.0, 3.0))
    assert any("has a newer snapshot" in str(w.message) for w in caught)
    assert backup.initial_epoch == 1


def test_a_finished_run_leaves_no_checkpoint_on_the_store(url, elsewhere):
    fit(BackupAndRestore(url))
    assert keras_ratchet.checkpoints(url) == []


def test_a_hand_written_loop_resumes_from_the_store(url, elsewhere):
    epochs = []
    for _ in range(2):
        elsewhere()
        keras.utils.set_random_seed(1)
        with keras_ratchet.Run(url, dense(), delete_checkpoint=False) as run:
            for epoch in run.epochs(3):
                epochs.append(epoch)
                if len(epochs) == 2:
                    break
                run.log(loss=1.0)
    assert epochs == [0, 1, 1, 2]


def test_a_snapshot_that_was_never_uploaded_is_resumed_from_on_the_same_disk(
    url, elsewhere, broken
):
    broken.error = PermissionError("no")
    with pytest.raises(SaveError, match="could not upload"):
        fit(BackupAndRestore(url, delete_checkpoint=False))
    broken.error = None
    backup = BackupAndRestore(url, delete_checkpoint=False)
    fit(backup)
    assert len(names(url)) >= 2
    assert backup.resumed_from is not None


def test_what_was_deleted_on_the_store_is_not_resumed_from(url, elsewhere, caplog):
    fit(BackupAndRestore(url, delete_checkpoint=False))
    import fsspec

    fsspec.filesystem("memory").rm(url, recursive=True)
    backup = BackupAndRestore(url, delete_checkpoint=False)
    fit(backup)
    assert backup.resumed_from is None
    assert "is not the place that it was, or was cleared" in caplog.text


def test_a_store_that_refuses_is_found_out_at_the_start_and_leaves_no_lock(url, elsewhere, broken):
    broken.verbs, broken.error = ("put_new",), PermissionError("Access Denied")
    for make in (lambda: ModelCheckpoint(f"{url}/a.keras"), lambda: BackupAndRestore(url)):
        with pytest.raises(SaveError, match="check your credentials"):
            fit(make())
    broken.error = None
    fit(ModelCheckpoint(f"{url}/a.keras"), BackupAndRestore(url))


def test_a_library_that_is_missing_is_named(elsewhere):
    for make in (lambda u: ModelCheckpoint(f"{u}/a.keras"), BackupAndRestore):
        with pytest.raises(ConfigError, match="nosuch://"):
            make("nosuch://bucket")
        with pytest.raises(ConfigError, match="cannot be written"):
            make("https://example.org/x")


def test_a_network_that_comes_back_costs_nothing(url, elsewhere, broken, caplog):
    broken.error = ConnectionError("gone")

    class Back(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            threading.Timer(0.2, lambda: setattr(broken, "error", None)).start()

    fit(ModelCheckpoint(f"{url}/a.keras"), Back(), losses=(5.0, 4.0))
    assert names(url) == {"a.keras": 4.0}
    assert "cannot be reached" in caplog.text


def test_an_upload_that_fails_is_raised_or_warned_of_and_made_up_for(url, elsewhere, broken):
    broken.error = PermissionError("no")
    with pytest.raises(SaveError, match="could not upload"):
        fit(ModelCheckpoint(f"{url}/a.keras"))

    class Back(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                saves.flush()
                broken.error = None

    saves = ModelCheckpoint(f"{url}/e{{epoch}}.keras", on_save_error="warn")
    with pytest.warns(UserWarning, match="could not upload"):
        fit(Back(), saves, losses=(5.0, 4.0, 3.0, 2.0))
    assert names(url) == {"e1.keras": 5.0, "e2.keras": 4.0, "e3.keras": 3.0, "e4.keras": 2.0}


@pytest.mark.parametrize(("if_busy", "expected"), [("skip", {1}), ("wait", {1, 2, 3})])
def test_a_save_that_is_due_during_an_upload_waits_or_is_skipped(
    if_busy, expected, url, elsewhere, broken
):
    broken.gate = threading.Event()

    class Open(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1 and if_busy == "wait":
                broken.gate.set()

        def on_train_end(self, logs=None):
            broken.gate.set()

    fit(Open(), ModelCheckpoint(f"{url}/e{{epoch}}.keras", if_busy=if_busy))
    assert set(names(url)) == {f"e{epoch}.keras" for epoch in expected}


def test_flush_waits_for_the_store(url, elsewhere, broken):
    broken.gate = threading.Event()

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            threading.Timer(0.1, broken.gate.set).start()
            saves.flush()
            seen.append(names(url))

    seen = []
    saves = ModelCheckpoint(f"{url}/a.keras")
    fit(saves, Look(), losses=(5.0,))
    assert seen == [{"a.keras": 5.0}]


def test_a_lease_that_was_lost_ends_the_run(url, elsewhere, monkeypatch):
    class Steal(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                [chain] = [c for key, c in lease._held.items() if key[1] == url]
                chain._lost = "it is being written by process 7 on another machine"

    with pytest.raises(LockedError, match="lost while this process was away"):
        fit(Steal(), ModelCheckpoint(f"{url}/a.keras"))


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("keep", [1, 2])
def test_a_snapshot_that_cannot_be_uploaded_in_time_is_saved_on_this_disk_only(
    keep, url, elsewhere, broken
):
    class Send(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                backup.flush()
                broken.gate = threading.Event()

        def on_train_batch_end(self, batch, logs=None):
            if broken.gate is not None and batch == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    backup = BackupAndRestore(
        url, delete_checkpoint=False, signals=["SIGTERM"], grace_s=3.0, keep=keep
    )
    fit(Send(), backup)
    assert "saved on this disk only" in str(backup.stop_reason)
    assert len(names(url)) >= 1, "what was on the store went before something newer was there"
    broken.gate.set()
    backup.flush()
    again = BackupAndRestore(url, delete_checkpoint=False)
    fit(again)
    assert (again.resumed_from.epoch, again.resumed_from.batch) == (1, 1)


def test_a_best_file_that_never_got_to_the_store_is_told_of(url, elsewhere):
    """The snapshot says 2.0 is best, the file on the store has 4.0: 3.0 is better than that."""

    def callbacks():
        best = ModelCheckpoint(
            f"{url}/best.keras", save_best_only=True, on_save_error="warn", fresh=None
        )
        return best, BackupAndRestore(f"{url}/b", delete_checkpoint=False)

    best, backup = callbacks()
    fit(best, backup, losses=(5.0, 4.0))
    elsewhere()
    state = {**best.state_dict(), "best": 2.0}
    state["metrics"] = {**state["metrics"], "val_loss": 2.0}
    again, backup = callbacks()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class Load(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 0:
                    again.load_state_dict(state)

        fit(Load(), again, losses=(4.5, 3.0))
    assert any("was not uploaded" in str(w.message) for w in caught)
    assert names(url)["best.keras"] == 3.0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"filepath": "memory://b/{val_loss}/x.keras"}, "last part"),
        ({"filepath": "memory://b/x.keras", "mirror": "memory://c"}, "Give one of the two"),
        ({"filepath": "x.keras", "mirror": "copies"}, "must be the URL"),
        ({"filepath": "x.keras", "storage_options": {"key": "secret"}}, r"Got: \['key'\]"),
        ({"filepath": "simplecache::memory://b/x.keras"}, "must be a URL"),
        ({"filepath": "memory://b/../x.keras"}, "'..'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, match):
    with pytest.raises(ConfigError, match=match) as caught:
        ModelCheckpoint(**arguments)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_callbacks_with_a_url_are_copied_before_and_after_training(copied, url, elsewhere):
    saves, backup = ModelCheckpoint(f"{url}/a.keras"), BackupAndRestore(f"{url}/b")
    fit(copied(saves), copied(backup))
    fit(saves, backup, losses=(2.0,))
    fit(copied(saves), losses=(1.0,))
    assert names(url)["a.keras"] == 1.0


def test_averages_and_pictures_take_urls(url, elsewhere):
    fit(ModelCheckpoint(f"{url}/e{{epoch}}.weights.h5", save_weights_only=True))
    model = dense()
    keras_ratchet.mean(model, url, k=2)
    assert np.unique(model.get_weights()[0]) == 2.5
    pytest.importorskip("matplotlib").use("Agg")
    from keras_ratchet import plots

    assert plots.run(url).get_title


def test_a_file_that_was_not_uploaded_is_kept_aside_when_another_run_has_put_a_newer_one(
    url, elsewhere, broken, caplog, monkeypatch
):
    broken.error = PermissionError("no")
    with pytest.raises(SaveError):
        fit(ModelCheckpoint(f"{url}/best.keras", save_best_only=True), losses=(5.0,))
    broken.error, first = None, os.environ["RATCHET_CACHE"]
    elsewhere()
    fit(ModelCheckpoint(f"{url}/best.keras", save_best_only=True), losses=(4.0,))
    monkeypatch.setenv("RATCHET_CACHE", first)
    fit(ModelCheckpoint(f"{url}/best.keras", save_best_only=True), losses=(4.5,))
    assert names(url) == {"best.keras": 4.5, "best.before-01.keras": 4.0}
    assert "another run has put a newer one" in caplog.text


class Turns:
    """Lets so many puts through as were released; the others wait."""

    def __init__(self):
        self.asked, self._allowed = 0, threading.Semaphore(0)

    def wait(self, limit_s):
        self.asked += 1
        return self._allowed.acquire(timeout=limit_s)

    def release(self, number):
        self._allowed.release(number)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_snapshot_is_not_deleted_while_it_is_uploaded(url, elsewhere, broken):
    """With keep=1 the one of a SIGTERM would take its place: the store would have none."""
    turns = Turns()

    class Send(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                backup.flush()
                broken.gate = turns

        def on_train_batch_end(self, batch, logs=None):
            if broken.gate is not None:
                os.kill(os.getpid(), signal.SIGTERM)

    backup = BackupAndRestore(
        url, delete_checkpoint=False, signals=["SIGTERM"], grace_s=3.0, keep=1
    )
    fit(Send(), backup)
    turns.release(2)  # the two files of the snapshot that is being uploaded
    for _ in range(3000):
        if turns.asked >= 3:  # the next one's begin
            break
        time.sleep(0.01)
    assert set(names(url)) == {"epoch-00002-batch-0000000"}
    turns.release(100)
    backup.flush()
    assert "epoch-00002-batch-0000001" in names(url)
