"""Syncs that overlap: all of them are done, whatever becomes of one."""

import errno
import threading

import pytest

from keras_ratchet._storage import disk


class Recorder(disk.Disk):
    """Notes what is synced, and does for each what it is told to."""

    def __init__(self, **calls):
        self.synced = []
        self._calls = calls

    def sync(self, fd):
        self._calls.get(f"file{fd}", lambda: None)()
        self.synced.append(fd)

    def sync_directory(self, path):
        self._calls.get(path, lambda: None)()
        self.synced.append(path)


def refuse(code):
    def call():
        raise OSError(code, "no")

    return call


def test_the_first_sync_runs_beside_the_others():
    meeting = threading.Barrier(2, timeout=60)
    recorder = Recorder(file1=meeting.wait, here=meeting.wait)
    recorder.sync_all([1, 2], ["here"])
    assert sorted(map(str, recorder.synced)) == ["1", "2", "here"]
    assert recorder.synced.index(2) < recorder.synced.index("here")


def test_one_sync_needs_no_thread(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", None)
    recorder = Recorder()
    recorder.sync_all([1])
    assert recorder.synced == [1]


def test_no_thread_is_left():
    before = threading.active_count()
    Recorder().sync_all([1, 2], ["here"])
    assert threading.active_count() == before


@pytest.fixture
def no_threads(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_without_a_thread_they_follow_one_another(no_threads):
    recorder = Recorder()
    recorder.sync_all([1, 2], ["here"])
    assert recorder.synced == [1, 2, "here"]


def test_of_several_errors_the_first_one_in_order_is_raised():
    recorder = Recorder(file1=refuse(errno.EIO), here=refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="no") as caught:
        recorder.sync_all([1, 2], ["here"])
    assert caught.value.errno == errno.EIO
    assert recorder.synced == [2]


def test_without_a_thread_it_is_the_same_error(no_threads):
    test_of_several_errors_the_first_one_in_order_is_raised()


def test_an_error_waits_for_the_syncs_that_are_running():
    begun, refused = threading.Event(), refuse(errno.EIO)

    def slow():
        assert begun.wait(60)

    def fail():
        begun.set()
        refused()

    recorder = Recorder(file1=slow, file2=fail)
    with pytest.raises(OSError, match="no"):
        recorder.sync_all([1, 2], ["here"])
    assert sorted(map(str, recorder.synced)) == ["1", "here"]


def test_ctrl_c_comes_before_an_error():
    def interrupt():
        raise KeyboardInterrupt

    recorder = Recorder(file1=refuse(errno.EIO), file2=interrupt)
    with pytest.raises(KeyboardInterrupt):
        recorder.sync_all([1, 2], ["here"])
    assert recorder.synced == ["here"]


def test_files_and_directories_are_synced_for_real(tmp_path):
    with open(tmp_path / "a", "wb") as one, open(tmp_path / "b", "wb") as two:
        disk.Disk().sync_all([one.fileno(), two.fileno()], [str(tmp_path)])
        with pytest.raises(OSError, match="gone"):
            disk.Disk().sync_all([one.fileno(), two.fileno()], [str(tmp_path / "gone")])
