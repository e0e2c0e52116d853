"""What another thread is calling is read while it goes on, however it goes on."""

import importlib
import sys
import threading

import pytest

from keras_ratchet.callbacks._thread_calls import called, calls_of


class Busy:
    """Threads, each some calls deep in a function whose name is not in ASCII."""

    def __init__(self, depth=0, threads=1):
        self._ready, self._end = threading.Semaphore(0), threading.Event()
        self.threads = [
            threading.Thread(target=self.größer, args=(depth,), daemon=True) for _ in range(threads)
        ]

    def größer(self, depth):  # noqa: PLC2401
        if depth:
            return self.größer(depth - 1)
        self._ready.release()
        return self._end.wait(60)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
            assert self._ready.acquire(timeout=60)
        return [thread.ident for thread in self.threads]

    def __exit__(self, *_):
        self._end.set()
        for thread in self.threads:
            thread.join()


def test_a_function_is_found_while_its_thread_is_in_it_and_not_afterwards():
    with Busy(depth=50) as (ident,):
        assert called(Busy.größer.__code__) in calls_of(ident)
        assert called(Busy.__enter__.__code__) not in calls_of(ident)
    assert called(Busy.größer.__code__) not in calls_of(ident)


def test_one_s_own_thread_is_one_of_them():
    here = test_one_s_own_thread_is_one_of_them.__code__
    assert called(here) in calls_of(threading.get_ident())


def test_a_deep_stack_and_many_threads_cannot_be_told():
    with Busy(depth=120) as (ident,):
        assert calls_of(ident) is None
    with Busy(threads=120) as idents:
        assert calls_of(idents[0]) is None
        assert called(Busy.größer.__code__) in calls_of(idents[-1])


def test_it_can_be_asked_while_the_thread_calls_and_returns_all_the_time():
    end = threading.Event()

    def deeper(n):
        return n and deeper(n - 1)

    def run():
        while not end.is_set():
            deeper(30)

    thread = threading.Thread(target=run)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        assert all(called(run.__code__) in calls_of(thread.ident) for _ in range(2000))
    finally:
        sys.setswitchinterval(interval)
        end.set()
        thread.join()


def test_nothing_can_be_told_where_the_disk_is_full():
    """Faulthandler drops what cannot be written, and a thread that is not shown has not ended."""
    pytest.importorskip("resource", reason="there are no limits of file sizes on Windows")
    full_disk = importlib.import_module("support.full_disk")
    with Busy() as (ident,), full_disk.FileSizeLimit(100):
        assert calls_of(ident) is None
