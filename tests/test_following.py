"""`follow` yields each committed version exactly once, whatever happens to the one who writes."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from support.checkpoints import SERIES, Holder, facts, flip_bit, note, save, series, snapshot
from support.stores import new_url, push, put, quiet

from keras_ratchet import BackupAndRestore, ModelCheckpoint, checkpoints, errors, follow
from keras_ratchet._storage import listing, single_file
from keras_ratchet._storage.disk import Disk
from keras_ratchet.following import RunState

WRITER = """
import sys
from dataclasses import replace
sys.path.insert(0, sys.argv[3])
from support.checkpoints import facts, save, snapshot, note
from keras_ratchet._storage.listing import checkpoints
directory, epochs = sys.argv[1], int(sys.argv[2])
done = max([info.position.epoch for info in checkpoints(directory)] + [0])
note(directory, {"event": "begin", "series": "a", "epochs": epochs})
for epoch in range(done + 1, epochs + 1):
    for name in (f"epoch-{epoch:03d}.keras", "best.keras"):
        save(directory, name, facts(epoch, series=name[:4], val_loss=1 / epoch))
    snapshot(directory, epoch)
    note(directory, {"event": "epoch", "series": "a", "epoch": epoch, "metrics": {}})
    print(epoch, flush=True)
note(directory, {"event": "end", "series": "a", "reason": "training ended"})
"""


def begin(series=SERIES, **more):
    return {"event": "begin", "series": series, **more}


def end(series=SERIES, reason="training ended"):
    return {"event": "end", "series": series, "reason": reason}


def names(found):
    return [info.name for info in found]


def whole(directory, **options):
    """Return what is yielded until it ends by itself; bounded."""
    return names(follow(directory, **{"poll_s": 0.01, "timeout_s": 30, **options}))


def start_writer(directory, epochs):
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", WRITER, str(directory), str(epochs), tests]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_writer_that_is_killed_and_started_again_is_followed_to_its_end(seed, tmp_path):
    epochs, dice, found, kills = 60, random.Random(seed), [], []

    def write():
        while not kills or kills[-1] != 0:
            writer = start_writer(tmp_path, epochs)
            if len(kills) < 3:
                for _ in range(dice.randrange(1, 10)):
                    writer.stdout.readline()
                time.sleep(dice.random() * 0.02)
                writer.send_signal(signal.SIGKILL)
            writer.communicate(timeout=60)
            kills.append(writer.returncode)

    thread = threading.Thread(target=write)
    thread.start()
    for info in follow(tmp_path, poll_s=0.002, timeout_s=60):
        assert info.has_manifest and not info.name.startswith(".")
        assert os.path.exists(info.path)
        found.append(info)
    thread.join()
    assert -signal.SIGKILL in kills and kills[-1] == 0
    kept = [info for info in found if info.name != "best.keras"]
    assert sorted(names(kept)) == sorted(
        n for n in names(checkpoints(tmp_path)) if n != "best.keras"
    )
    files = [info.position.epoch for info in kept if not info.is_directory]
    assert files == list(range(1, epochs + 1))
    versions = [info.saved_at for info in found if info.name == "best.keras"]
    assert versions == sorted(set(versions)) and found[-1].position.epoch == epochs
    assert versions[-1] == facts(epochs).saved_at


def test_a_directory_that_is_not_there_yet_is_waited_for(tmp_path):
    later = tmp_path / "a" / "run"

    def write():
        time.sleep(0.1)
        later.mkdir(parents=True)
        note(later, begin())
        series(later, 2.0, 1.0)
        note(later, end())

    thread = threading.Thread(target=write)
    thread.start()
    assert whole(later) == ["epoch-01.keras", "epoch-02.keras"]
    thread.join()


def test_what_is_there_comes_first_or_not_at_all(tmp_path):
    series(tmp_path, 2.0, 1.0)
    assert whole(tmp_path, timeout_s=0.05) == ["epoch-01.keras", "epoch-02.keras"]
    new = follow(tmp_path, existing=False, poll_s=0.01, timeout_s=5)
    save(tmp_path, "epoch-03.keras", facts(3))
    assert next(new).name == "epoch-03.keras"


def test_each_version_of_a_file_is_yielded_once(tmp_path):
    found = follow(tmp_path, poll_s=0.01, timeout_s=5)
    for epoch in (1, 2, 3):
        save(tmp_path, "best.keras", facts(epoch), b"the same bytes each time")
        assert next(found).position.epoch == epoch
    os.link(tmp_path / "best.keras", tmp_path / "best.before-01.keras")
    single_file.adopt(str(tmp_path / "best.before-01.keras"), facts(3))
    save(tmp_path, "best.keras", facts(4))
    assert next(found).position.epoch == 4  # not epoch 3 once more, under another name


def test_drafts_and_files_without_a_manifest_are_not_yielded(tmp_path):
    (tmp_path / "plain.keras").write_bytes(b"by Keras's own callback")
    (tmp_path / ".draft-01234567-epoch-01.keras").write_bytes(b"half")
    (tmp_path / ".draft-01234567-epoch-00001-batch-0000000").mkdir()
    (tmp_path / ".draft-01234567-epoch-00001-batch-0000000" / "manifest.json").write_bytes(b"{")
    snapshot(tmp_path, 1)
    assert whole(tmp_path, timeout_s=0.05) == ["epoch-00001-batch-0000000"]


def test_a_plain_file_is_not_taken_for_the_save_that_is_about_to_replace_it(tmp_path, monkeypatch):
    """The manifest of a save is there a moment before the file is."""
    (tmp_path / "best.keras").write_bytes(b"by Keras's own callback")
    found = follow(tmp_path, poll_s=0.01, timeout_s=0.05)
    looked = []

    class Slow(Disk):
        def replace(self, source, target):
            if target.endswith("best.keras"):
                assert listing.checkpoints(tmp_path)[0].has_manifest  # so it is not enough
                looked.append(next(found, None))
            super().replace(source, target)

    monkeypatch.setattr("keras_ratchet._storage.disk.current", Slow())
    with pytest.warns(UserWarning, match="left out: best.keras has 23 bytes"):
        save(tmp_path, "best.keras", facts(1))
    assert looked == [None]
    assert whole(tmp_path, timeout_s=0.05) == ["best.keras"]


def test_damage_is_left_out_with_one_warning(tmp_path):
    flip_bit(series(tmp_path, 3.0, 2.0, 1.0)[1])
    with pytest.warns(UserWarning, match=r"epoch-02.keras' is left out: the bytes") as told:
        assert whole(tmp_path, timeout_s=0.2) == ["epoch-01.keras", "epoch-03.keras"]
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(whole(tmp_path, timeout_s=0.05, verify=False)) == 3


def test_what_was_deleted_before_it_was_looked_at_is_left_out(tmp_path):
    paths = series(tmp_path, 3.0, 2.0, 1.0)
    found = follow(tmp_path, poll_s=0.01, timeout_s=0.05)
    assert next(found).name == "epoch-01.keras"
    single_file.delete_file(paths[1])
    assert names(found) == ["epoch-03.keras"]


def test_a_version_that_was_replaced_while_others_were_read_is_left_out(tmp_path):
    save(tmp_path, "a.keras", facts(1))
    save(tmp_path, "best.keras", facts(2))
    found = follow(tmp_path, poll_s=0.01, timeout_s=0.05)
    assert next(found).name == "a.keras"
    save(tmp_path, "best.keras", facts(3))
    assert [info.position.epoch for info in found] == [3]


@pytest.mark.parametrize(
    ("events", "ended"),
    [
        ([], False),
        ([begin()], False),
        ([begin(), end()], True),
        ([begin("a"), begin("b"), end("a")], False),
        ([begin("a"), begin("b"), end("a"), end("b")], True),
        ([begin(), {"event": "preempted", "reason": "SIGTERM"}, end()], False),
        ([begin(), end(reason="training ended with KeyboardInterrupt")], False),
        ([begin(), end(reason="training ended with OSError"), begin(), end()], True),
        ([begin(), {"event": "preempted"}, end(), begin(), end()], True),
        ([begin("a"), {"event": "epoch", "series": "a"}, begin("b"), end("b")], True),
        ([begin(), end(), begin()], False),
    ],
)
def test_a_run_has_ended_when_all_of_its_callbacks_have(events, ended):
    state = RunState()
    for event in events:
        state.add(event)
    assert state.ended is ended


def test_a_preempted_run_is_waited_for(tmp_path):
    note(tmp_path, begin(), {"event": "preempted", "reason": "SIGTERM"}, end())
    found = follow(tmp_path, poll_s=0.01, timeout_s=5)
    save(tmp_path, "epoch-01.keras", facts(1))
    assert next(found).name == "epoch-01.keras"
    save(tmp_path, "epoch-02.keras", facts(2))
    note(tmp_path, begin(), end())
    assert names(found) == ["epoch-02.keras"]


def test_an_end_that_was_before_does_not_count_for_those_who_wait_for_the_next_run(tmp_path):
    note(tmp_path, begin(), end())
    series(tmp_path, 1.0)
    assert whole(tmp_path) == ["epoch-01.keras"]
    found = follow(tmp_path, existing=False, poll_s=0.01, timeout_s=5)
    save(tmp_path, "epoch-02.keras", facts(2))
    assert next(found).name == "epoch-02.keras"


def test_the_snapshot_of_a_finished_run_ends_it_once_its_process_has_left(tmp_path):
    path = snapshot(tmp_path, 3)
    with Holder(tmp_path, ""):
        os.rename(path, f"{path}-finished")
        assert len(whole(tmp_path, timeout_s=0.1)) == 1  # by the timeout
        found = follow(tmp_path, poll_s=0.01, timeout_s=30)
        next(found)
    started = time.monotonic()
    assert names(found) == [] and time.monotonic() - started < 20


def test_a_finished_run_that_deletes_its_snapshots_ends(tmp_path):
    path = snapshot(tmp_path, 3)
    with Holder(tmp_path, ""):
        found = follow(tmp_path, poll_s=0.01, timeout_s=30)
        next(found)
        os.rename(path, tmp_path / "elsewhere")
        (tmp_path / ".ratchet" / "backup.lock").rename(tmp_path / "lock")
        assert names(found) == []


def test_following_a_lock_in_the_same_process_does_not_release_it(tmp_path):
    """A process loses a record lock when it closes any descriptor of the file."""
    from keras_ratchet._storage.lock import FileLock
    from keras_ratchet._storage.lock_state import lock_state

    path = single_file.series_lock_path(str(tmp_path), "")
    with FileLock(path, "it"):
        assert whole(tmp_path, timeout_s=0.05) == [] and lock_state(path).pid == os.getpid()
        code = "from keras_ratchet._storage.lock_state import lock_state; import sys; "
        code += "assert lock_state(sys.argv[1]).held is True"
        subprocess.run([sys.executable, "-c", code, path], check=True, timeout=60)
    assert lock_state(path).held is False


def test_checkpoints_on_a_store_are_followed(tmp_path, monkeypatch):
    quiet(monkeypatch, tmp_path / "cache")
    url, local = new_url(), tmp_path / "local"
    found = follow(url, poll_s=0.01, timeout_s=5)
    for at in (1, 2):
        put(url, local, "best.keras", b"%d" % at, at=at)
        assert next(found).saved_at == 1.8e9 + at
    note(local, begin("best.keras"), end("best.keras"))
    push(url, local)
    assert names(found) == []
    assert names(follow(url, existing=False, poll_s=0.01, timeout_s=0.05)) == []


def test_wrong_arguments_are_refused_at_once(tmp_path):
    for wrong in ({"poll_s": 0}, {"timeout_s": -1.0}, {"poll_s": float("nan")}):
        with pytest.raises(errors.ConfigError, match="positive number of seconds"):
            follow(tmp_path, **wrong)


@pytest.mark.parametrize("backup", [False, True], ids=["alone", "with BackupAndRestore"])
def test_a_training_is_followed_from_another_thread_to_its_end(backup, tmp_path):
    import keras
    import numpy as np

    found = []
    evaluator = threading.Thread(
        target=lambda: found.extend(follow(tmp_path / "run", poll_s=0.005, timeout_s=60))
    )
    evaluator.start()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callbacks = [ModelCheckpoint(tmp_path / "run" / "e{epoch}.keras")]
    callbacks += [BackupAndRestore(tmp_path / "run")] * backup
    model.fit(
        np.zeros((8, 2)), np.zeros((8, 1)), epochs=3, verbose=0, shuffle=False, callbacks=callbacks
    )
    started = time.monotonic()
    evaluator.join(60)
    assert time.monotonic() - started < 30  # by the end of the run, not by the limit
    files = [info.name for info in found if not info.is_directory]
    assert files == names(checkpoints(tmp_path / "run")) == ["e1.keras", "e2.keras", "e3.keras"]
