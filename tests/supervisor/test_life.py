"""Signs of life: what counts as one, and for how long there need be none."""

import os
import signal
import subprocess
import time

import pytest

from keras_ratchet._storage import heartbeats, journal
from keras_ratchet._storage.heartbeats import Beat
from keras_ratchet._supervisor import tree
from keras_ratchet._supervisor.events import Events
from keras_ratchet._supervisor.life import Life, Patience
from keras_ratchet._supervisor.supervisor import Options, Supervisor

PATIENCE = Patience(hang_s=10.0, start_s=100.0)
ROOT = os.getpid()


@pytest.fixture
def place(tmp_path):
    return str(tmp_path)


def beat(place, state="training", pid=ROOT, **fields):
    heartbeats.write(place, Beat(pid, state, **fields))


def life(place, patience=PATIENCE):
    return Life(place, patience, time.time() - 0.001)


def test_a_beat_is_read_as_it_was_written(place):
    written = Beat(7, "ended", 2, 3, 4, (1, 2), True, ("/a", "/b"), 62)
    heartbeats.write(place, written)
    assert heartbeats.read_all(place) == [written]
    assert os.listdir(place) == ["beat-7.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"state": 1}', "\udcff", '{"pid": "x"}'])
def test_what_is_no_beat_is_passed_over(place, text):
    with open(f"{place}/beat-1.json", "w", errors="surrogateescape") as file:
        file.write(text)
    assert heartbeats.read_all(place) == []


def test_a_beat_that_cannot_be_written_is_still_a_sign_of_life(place, monkeypatch):
    beat(place)
    [before] = heartbeats.read_all(place)
    monkeypatch.setattr("keras_ratchet._storage.disk.current.write", _no_space)
    beat(place, batch=5)
    [after] = heartbeats.read_all(place)
    assert after.batch == 0 and after.changed_ns != before.changed_ns


def _no_space(fd, data):
    raise OSError(28, "no space")


@pytest.mark.parametrize(
    ("state", "limit_s"), [("begun", 100.0), ("training", 10.0), ("ended", 100.0)]
)
def test_a_fit_that_trains_has_less_time_than_what_begins_or_is_over(place, state, limit_s):
    beat(place, state)
    one = life(place)
    one.look(0.5, ROOT)
    one.look(limit_s - 1, ROOT)
    assert not one.hang()
    one.look(1.0, ROOT)
    assert f"for {limit_s:g} s (process {ROOT})" in one.hang()


def test_each_beat_and_each_save_begins_the_time_anew(place):
    beat(place, directories=(place,))
    one = life(place)
    one.look(0.0, ROOT)
    for event in (None, "save", "upload", None):
        one.look(9.0, ROOT)
        journal.append(place, event) if event else beat(place, directories=(place,))
        one.look(9.0, ROOT)
        assert not one.hang()
    one.look(10.0, ROOT)
    assert one.hang()


def test_a_rank_that_hangs_is_found_though_another_one_goes_on(place):
    with subprocess.Popen(["sleep", "60"]) as other:
        beat(place, pid=other.pid)
        one = life(place)
        for batch in range(4):
            beat(place, batch=batch)
            one.look(4.0, ROOT)
        assert f"process {other.pid}" in one.hang()
        other.kill()
    assert not one.hang()  # it is for others to see that a process has died


def test_a_process_that_is_stopped_does_not_hang(place):
    with subprocess.Popen(["sleep", "60"]) as other:
        beat(place, pid=other.pid)
        one = life(place)
        one.look(0.0, ROOT)
        other.send_signal(signal.SIGSTOP)
        while not tree.is_stopped(other.pid):
            time.sleep(0.01)
        one.look(50.0, ROOT)
        assert not one.hang()
        other.kill()


def test_a_script_without_our_callbacks_is_told_from_one_that_hangs_before_them(place):
    unknown, expected = life(place), life(place, Patience(10.0, 100.0, must_beat=True))
    for one in (unknown, expected):
        one.look(99.0, ROOT)
        assert not one.hang() and not one.is_unwatched
        one.look(1.0, ROOT)
    assert unknown.is_unwatched and not unknown.hang()
    assert "no training has begun for 100 s" in expected.hang()


def test_that_hangs_cannot_be_seen_is_said_once(place):
    said = []
    supervisor = Supervisor(Options(["train"], hang_s=10.0), Events(None, said.append))
    one = life(place)
    for passed_s in (99.0, 1.0, 1.0):
        one.look(passed_s, ROOT)
        supervisor._say_unwatched(one)
    assert len(said) == 1 and "its hangs cannot be seen" in said[0]


def test_without_a_limit_nothing_hangs(place):
    beat(place)
    one = life(place, Patience())
    for _ in range(3):
        one.look(1e6, ROOT)
    assert not one.hang()


def test_snapshots_are_progress_and_what_was_noted_before_is_not(place):
    journal.append(place, "save", name="step-9", epoch=9, batch=0)
    one = Life(place, PATIENCE, time.time() + 0.002)
    time.sleep(0.005)
    beat(place, snapshots=True, resumed=(9, 0), epoch=9, batch=7, directories=(place,))
    for _ in range(2):
        one.look(0.0, ROOT)
    assert one.saved is None and not one.progressed((0, 0))
    journal.append(place, "save", name="best.keras", series="best.keras", epoch=10, batch=0)
    journal.append(place, "save", name="step-9", epoch=9, batch=0)
    one.look(0.0, ROOT)
    assert one.saved == (9, 0) and not one.progressed((0, 0))
    journal.append(place, "save", name="step-10", epoch=9, batch=5)
    one.look(0.0, ROOT)
    assert one.saved == (9, 5) and one.progressed((0, 0))


def test_without_snapshots_a_later_batch_is_progress(place):
    beat(place, epoch=2, batch=3)
    one = life(place)
    one.look(0.0, ROOT)
    assert one.progressed((2, 2)) and not one.progressed((2, 3))
