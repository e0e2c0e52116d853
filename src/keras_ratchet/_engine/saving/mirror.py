"""The store to which the checkpoints of a local directory go, as a callback sees it.

Given a URL where a path is, a callback saves to a local cache with all guarantees, and each save is
then uploaded by a second job of the background writer: the store is what counts. Given `mirror=`,
the local directory is what counts, and the store has a copy of it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from keras_ratchet._engine.saving.background import BackgroundWriter, Saved, drain_all
from keras_ratchet._engine.saving.no_mirror import NoMirror
from keras_ratchet._storage import anywhere
from keras_ratchet._storage.objects import changing, failures, journals, object_store, reading
from keras_ratchet._storage.objects.fetch import fetch
from keras_ratchet._storage.objects.location import cache_directory
from keras_ratchet._storage.objects.replica import Replica
from keras_ratchet._storage.verify import verify
from keras_ratchet._warn import warn
from keras_ratchet.errors import LoadError, RatchetError
from keras_ratchet.policy import naming
from keras_ratchet.types import CheckpointInfo

_log = logging.getLogger("keras_ratchet")
_JOURNAL_PATIENCE_S = 5.0  # nobody wants to wait for a journal
_live: weakref.WeakSet[Mirror] = weakref.WeakSet()


class Mirror(NoMirror):
    """The store of one series of checkpoints.

    Args:
        url: The directory on the store, checked.
        options: Arguments of its fsspec file system.
        is_cache: Whether the store is what counts, and the local directory its cache.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None, is_cache: bool) -> None:
        self.url = url
        self.is_cache = is_cache
        self._options = options
        self._forget_run()

    def _forget_run(self) -> None:
        self._replica: Replica | None = None
        self._directory = ""
        self._note: Callable[..., None] = _ignore
        self._bytes_per_s = self.last_upload_s = 0.0
        self._is_away = False
        self._guard = threading.Lock()
        self._running = 0  # uploads that were started and have not ended
        self._is_ending = False
        self._putting: list[str] = []  # what the uploads that are running were started for

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, without what belongs to a run."""
        return {"url": self.url, "is_cache": self.is_cache, "_options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set what `__getstate__` returned."""
        vars(self).update(state)
        self._forget_run()

    def start(self, directory: str, series: str, note: Callable[..., None]) -> None:
        """Take the lease, and read what is on the store.

        Args:
            directory: The local directory; its lock is held.
            series: Name of the series; "" for snapshots.
            note: Adds a line to the journal.

        Raises:
            SaveError: If the store cannot be reached, or refuses.
            LockedError: If another process writes there.
        """
        with self._guard:
            self._is_ending = False
            if self._replica is not None:  # this run goes on, or an upload of the last one does
                return
        self._directory, self._note = directory, note
        try:
            store = object_store.ObjectStore(self.url, self._options)
            replica = Replica(directory, store, series, self.is_cache)
            replica.start()
        except RatchetError:
            raise
        except Exception as error:
            raise failures.save_error(error, self.url, "use") from error
        store.patience_s, store.on_wait = object_store.PATIENCE_S, self._say_away
        self._replica = replica
        _end_at_exit(os.getpid())
        _live.add(self)
        if not store.exclusive:
            warn(
                f"{self.url!r}: this store has no put that refuses a name in use, so two runs that "
                "start there in the same second may not notice each other."
            )

    def _say_away(self, error: BaseException) -> None:
        """Say once for each outage that the store cannot be reached."""
        if not self._is_away:
            self._is_away = True
            _log.warning(
                "%s cannot be reached (%s: %s): the upload is tried again for %.0f minutes. What "
                "is saved is on this disk only; the next save waits (with if_busy='skip' it is "
                "skipped)",
                self.url,
                type(error).__name__,
                " ".join(str(error).split())[:200],
                object_store.PATIENCE_S / 60,
            )

    def end(self) -> None:
        """Give the lease back; if an upload is running, as soon as it has ended."""
        with self._guard:
            self._is_ending = True
            replica = self._take_replica()
        self._close(replica)

    def _take_replica(self) -> Replica | None:
        """Return what to close, once nothing needs it any more; `_guard` is held."""
        if self._running or not self._is_ending:
            return None
        replica, self._replica = self._replica, None
        return replica

    def _close(self, replica: Replica | None) -> None:
        """Put the end of the journal, and give the lease back."""
        if replica is None:
            return
        try:
            self._push_journal(replica)
        finally:
            replica.end()

    def _push_journal(self, replica: Replica) -> None:
        try:
            replica.store.patience_s = _JOURNAL_PATIENCE_S
            replica.push_journal()
        except Exception as error:  # nothing is restored from a journal
            _log.warning("the journal could not be put on %s: %s", self.url, error)

    def remote_only(self, here: Collection[str]) -> list[CheckpointInfo]:
        """Return the checkpoints that are on the store only, with the paths they would have here.

        Args:
            here: Names of those that are here.
        """
        if self._replica is None:
            return []
        found = self._replica.remote_only(here)
        return [replace(info, path=os.path.join(self._directory, info.name)) for info in found]

    def noted(self) -> list[dict[str, Any]]:
        """Return the events in the journals on the store, those of other machines too."""
        try:
            return [] if self._replica is None else list(journals.read(self._replica.store))
        except Exception as error:  # nothing is restored from a journal
            _log.warning("the journals on %s could not be read: %s", self.url, error)
            return []

    def note_late(self, event: str, **fields: Any) -> None:
        """Put an event that came when training was done, and is in the local journal already."""
        if (replica := self._replica) is None:
            changing.note(self.url, event, self._options, **fields)
        else:
            self._push_journal(replica)

    def has(self, name: str) -> bool:
        """Return whether a checkpoint of this name is on the store."""
        return any(info.name == name for info in self.remote_only(()))

    def verifies(self, path: str) -> bool:
        """Return whether a checkpoint is what was saved; on the store by what it says itself."""
        if os.path.exists(path):
            return bool(verify(path))
        url = f"{self.url}/{os.path.basename(path)}"
        try:
            return bool(anywhere.verify(url, storage_options=self._options, read=False))
        except LoadError as error:
            _log.warning("%s", error)
            return False

    def drop(self, name: str) -> None:
        """Delete a checkpoint from the store, with the next upload."""
        if self._replica is not None:
            self._replica.drop(name)

    def ensure(self, path: str) -> str:
        """Return where a snapshot can be read; fetch it, unless it is there.

        Raises:
            CorruptError: If what is on the store is not what was saved.
            LoadError: If the store cannot be read.
        """
        name = os.path.basename(path)
        if self._replica is None:  # on a rank that does not see rank 0's disk
            return anywhere.local_copy(f"{self.url}/{name}", self._options)
        entries = self._replica.catalog.named(name)
        if entries and (self.is_cache or not os.path.exists(path)):
            with reading.said(self.url):
                return fetch(self._replica.catalog, entries[0], self._directory)
        return path

    def upload(
        self, writer: BackgroundWriter, model: Any, path: str, preserves_others: bool = False
    ) -> None:
        """Start the upload of what was saved, as the writer's second job.

        Args:
            writer: The writer that has saved it.
            model: The model in training.
            path: The checkpoint.
            preserves_others: Whether a file of another run stays on the store under another name.
        """
        if self._replica is None:
            return
        with self._guard:
            self._running += 1
            self._putting.append(path)

        def job() -> Saved:
            try:
                return self._upload(path, preserves_others)
            finally:
                with self._guard:
                    self._running -= 1
                    self._putting.remove(path)
                    replica = self._take_replica()
                self._close(replica)

        writer.upload(job, model)

    def is_putting(self, path: str) -> bool:
        """Return whether a checkpoint is being uploaded."""
        return path in self._putting

    def upload_pending(self, writer: BackgroundWriter, model: Any) -> None:
        """Start the upload of what an earlier run has left on this disk only."""
        pending = [] if self._replica is None else self._replica.pending()
        if pending and not self._running:
            self.upload(writer, model, pending[-1].path, preserves_others=True)

    def relocated(self, path: str, is_template: bool = False) -> str:
        """Return a path in the cache of this machine; the callback may come from another one."""
        return cached_path(self.url, path if is_template else "") if self.is_cache else path

    def push_now(self) -> None:
        """Put what is on this disk only.

        Raises:
            SaveError: If that fails.
        """
        if self._replica is not None and self._replica.pending():
            outcome = self._upload(self._replica.pending()[-1].path, preserves_others=True)
            if outcome.error is not None:
                raise outcome.error

    def _upload(self, path: str, preserves_others: bool) -> Saved:
        assert self._replica is not None
        started, name = time.perf_counter(), os.path.basename(path)
        put: list[int] = []
        try:
            self._replica.push(preserves_others, put.append, name)
        except Exception as error:
            self._note("upload_error", name=name, problem=str(error)[:300])
            is_ours = isinstance(error, RatchetError)
            what = "upload checkpoints to"
            problem = error if is_ours else failures.save_error(error, self.url, what)
            _log.error("%s", problem)
            return Saved(path, error=problem, committed=True, uploaded=True)
        took_s = time.perf_counter() - started
        if self._is_away:
            self._is_away = False
            _log.warning("%s can be reached again: %s is there", self.url, name)
        if put and took_s > 0:
            self._bytes_per_s, self.last_upload_s = sum(put) / took_s, took_s
        self._note("upload", name=name, size_bytes=sum(put), took_s=round(took_s, 4))
        self._tidy(name, os.path.isfile(path))
        return Saved(path, committed=True, uploaded=True)

    def _tidy(self, name: str, is_file: bool) -> None:
        """Do what comes after the commit, and can be done the next time as well."""
        assert self._replica is not None
        try:
            self._replica.tidy()
            if self.is_cache and is_file:
                self._replica.evict(name)
        except Exception as error:
            _log.warning("%s is on %s, but: %s", name, self.url, error)

    def upload_s(self) -> float:
        """Return how long it takes to put what is not on the store, at the speed measured."""
        if self._replica is None or not self._bytes_per_s:
            return 0.0
        return float(sum(i.size_bytes for i in self._replica.pending())) / self._bytes_per_s

    def wait(self, writer: BackgroundWriter, limit_s: float) -> str:
        """Wait until what was saved is on the store; return what to say if it is not, else "".

        Args:
            writer: What uploads it.
            limit_s: How many seconds are left. If it takes longer, at the speed of the uploads
                before, nothing is waited for.
        """
        need_s = self.upload_s()
        if need_s <= limit_s and writer.wait_for_upload(max(limit_s, 0.0)):
            return ""
        about = f"takes about {need_s:.1f} s" if need_s > limit_s else "has not ended"
        return (
            f"; saved on this disk only: the upload to {self.url} {about}, and "
            f"{max(limit_s, 0.0):.1f} s were left"
        )

    def clear(self, names: Collection[str] | None = None) -> None:
        """Delete the series from the store, or some of its checkpoints.

        Args:
            names: Which; None for all.

        Raises:
            SaveError: If the store refuses.
        """
        if self._replica is None:
            return
        try:
            if names is None:
                self._replica.clear()
            else:
                self._replica.delete(names)
        except RatchetError:
            raise
        except Exception as error:
            raise failures.save_error(error, self.url, "delete checkpoints from") from error

    def shown(self, path: str) -> str:
        """Return a path as users know it: for a cache, the URL."""
        if not self.is_cache:
            return path
        is_root = os.path.abspath(path) == cache_directory(self.url)
        return self.url if is_root else f"{self.url}/{os.path.basename(path)}"

    def fetched(self, info: CheckpointInfo) -> CheckpointInfo:
        """Return a checkpoint with the path where `load_model` has put it, if it is there."""
        if os.path.exists(info.path) or self._replica is None:
            return info
        for entry in self._replica.catalog.named(info.name):
            directory = reading.fetched_directory(cache_directory(self.url), entry.id)
            path = os.path.join(directory, info.name)
            if os.path.exists(path):
                return replace(info, path=path)
        return info


def cached_path(url: str, template: str) -> str:
    """Return the cache directory of a URL, or the path of a file template in it."""
    cache = cache_directory(url)
    return os.path.join(naming.escaped(cache), os.path.basename(template)) if template else cache


@functools.cache
def _end_at_exit(pid: int) -> None:
    """Make the interpreter finish uploads and give leases back before its thread pools close.

    Those of asyncio, which resolve host names, close before threads such as ours are waited for. A
    hook like theirs, registered later, comes before them.
    """
    importlib.import_module("concurrent.futures.thread")
    if register := getattr(threading, "_register_atexit", None):
        with contextlib.suppress(RuntimeError):  # it is too late
            register(lambda: _end_all(pid))


def _end_all(pid: int) -> None:
    if pid != os.getpid():  # children inherit the hook, and what is the parent's
        return
    drain_all()
    for mirror in list(_live):
        mirror.end()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_live.clear)


def _ignore(*_: Any, **__: Any) -> None:
    """Do nothing."""
