"""A lease on a store: who writes there, and until when.

A lease is a chain of numbered objects under `.ratchet/leases/`, each put create-only; the highest
number counts. Its holder puts the next one every third of a minute, and deletes those before. Who
finds a lease watches it: one that is renewed is held, and one that is not renewed for a minute is
taken over, loudly, by putting the next number, which only one of several can do. So no clocks are
compared, and a holder that comes back from a long sleep finds that its next number is taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet.errors import LockedError

LEASES = ".ratchet/leases"
LEASE_S = 60.0
RENEW_S = 20.0
_POLL_S = 1.0
_PATIENCE_S = 10.0  # a renewal that fails is tried again with the next one
_log = logging.getLogger("keras_ratchet")
_held: dict[tuple[int, str, str], _Chain] = {}
_gone: set[tuple[str, str, int]] = set()  # holders whose leases have ended unrenewed
_turns: dict[tuple[int, str, str], threading.RLock] = {}
_table = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who holds a lease, as its newest object says."""

    number: int
    text: bytes
    data: dict[str, Any]

    @property
    def is_free(self) -> bool:
        """Whether there is none, or it was given back."""
        return self.number == 0 or bool(self.data.get("released"))

    @property
    def is_dead(self) -> bool:
        """Whether the holder is a process of this machine that has ended."""
        pid = self.data.get("pid")
        if not isinstance(pid, int):
            return False  # damaged: whether it is renewed will tell
        if self.process in _gone:  # so its other leases need not be watched, too
            return True
        if self.data.get("host") != socket.gethostname() or self.data.get("boot") != _boot():
            return False
        if pid == os.getpid():  # a lease of ours that could not be given back
            return self.data.get("token") not in {chain.token for chain in list(_held.values())}
        return not _is_alive(pid)

    @property
    def process(self) -> tuple[str, str, int]:
        """What tells the holder from other processes."""
        d = self.data
        return str(d.get("host")), f"{d.get('boot')} {d.get('since')}", int(d.get("pid") or 0)

    def __str__(self) -> str:
        d = self.data
        return (
            f"process {d.get('pid')} on {d.get('host')} ({d.get('command')}, since "
            f"{d.get('since')})"
        )


class Lease:
    """The right to write checkpoints of a series to a directory on a store.

    It is re-entrant within a process, as `FileLock` is.

    Args:
        store: The directory.
        series: Name of the series; "" for snapshots.
        what: What it is, for messages.
    """

    def __init__(self, store: ObjectStore, series: str, what: str) -> None:
        self._store = store.with_patience(_PATIENCE_S)
        self._what = what
        digest = hashlib.sha256(series.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._prefix = f"{LEASES}/{digest}"
        self._chain: _Chain | None = None

    @property
    def _key(self) -> tuple[int, str, str]:
        return os.getpid(), self._store.url, self._prefix

    def acquire(self) -> None:
        """Take the lease; wait up to a minute for one whose holder may be gone.

        Raises:
            LockedError: If another process holds it, or takes it meanwhile.
        """
        with _table:
            turn = _turns.setdefault(self._key, threading.RLock())
        with turn:  # taking a lease may need a minute, in which others are taken and given back
            chain = _held.get(self._key)
            if chain is None:
                chain = _Chain(self._store, self._prefix, self._what)
                chain.take()
                _held[self._key] = chain
            chain.holders += 1
            self._chain = chain

    def release(self) -> None:
        """Give it back; do nothing if this object does not hold it."""
        with _table:
            turn = _turns.setdefault(self._key, threading.RLock())
        with turn:
            chain, self._chain = self._chain, None
            if chain is None or chain.pid != os.getpid():
                return
            chain.holders -= 1
            if chain.holders == 0:
                _held.pop(self._key, None)
                chain.give_back()

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def check(self) -> None:
        """Raise a LockedError unless the lease is still ours; renew it if it may have ended."""
        assert self._chain is not None
        self._chain.check()


class _Chain:
    """The numbered objects of a lease that this process holds."""

    def __init__(self, store: ObjectStore, prefix: str, what: str) -> None:
        self.holders = 0
        self.pid = os.getpid()
        self._store = store
        self._prefix = prefix
        self._what = what
        self._number = 0
        self._renewed_s = 0.0
        self._text = b""
        self._lost: str | None = None
        self._ended = threading.Event()
        self._guard = threading.Lock()
        self.token = secrets.token_hex(8)
        self._identity = {
            "pid": self.pid,
            "host": socket.gethostname(),
            "boot": _boot(),
            "command": os.path.basename(sys.argv[0] if sys.argv else "python") or "python",
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "token": self.token,
        }

    @property
    def _slowness(self) -> float:
        """How much longer a lease is where nothing refuses a put: there each is a commit (`hf://`)."""
        return 1.0 if self._store.exclusive else 5.0

    def take(self) -> None:
        holder = self._newest()
        while True:
            if not holder.is_free:
                self._wait_for_end(holder)
            if self._put(holder.number + 1):
                break
            holder = self._newest()
            if not holder.is_free and not holder.is_dead:
                raise LockedError(self._message(holder))
        self._delete_below(self._number)
        self._store.probe_exclusive(self._key_of(self._number), self._text)
        threading.Thread(target=self._keep, name="keras_ratchet.lease", daemon=True).start()

    def _wait_for_end(self, holder: _Holder) -> None:
        """Return when a lease has ended; raise a LockedError if it is renewed."""
        if not holder.is_dead:
            _log.warning(
                "%s is leased by %s: waiting up to %.0f s to see whether it is still there",
                self._what,
                holder,
                LEASE_S * self._slowness,
            )
            end = time.monotonic() + LEASE_S * self._slowness
            while time.monotonic() < end:
                time.sleep(min(_POLL_S, LEASE_S / 10))
                newest = self._newest()
                if newest.is_free and newest.number >= holder.number:
                    return
                if newest.text != holder.text:
                    raise LockedError(self._message(newest))
            if holder.data.get("boot"):
                _gone.add(holder.process)
        _log.warning("%s was leased by %s, which is gone: it is taken over", self._what, holder)

    def _message(self, holder: _Holder) -> str:
        return (
            f"{self._what} is being written by {holder}. Two writers would delete each other's "
            "checkpoints: wait for it to end, or give this run its own path."
        )

    def _newest(self) -> _Holder:
        for _ in range(5):
            keys = sorted(self._store.find(self._prefix))
            if not keys:
                return _Holder(0, b"", {})
            text = self._store.read_all(keys[-1:]).get(keys[-1])
            if text is not None:  # else it was renewed in between
                return _Holder(_number_of(keys[-1]), text, _data(text))
        raise LockedError(f"{self._what} is being written by another process.")

    def _put(self, number: int, **more: Any) -> bool:
        data = {**self._identity, "number": number, "renewed_at": time.time(), **more}
        started, text = time.monotonic(), json.dumps(data).encode()
        if not self._store.put_new(self._key_of(number), text):
            return False
        self._number, self._renewed_s, self._text = number, started, text
        return True

    def _key_of(self, number: int) -> str:
        return f"{self._prefix}/{number:010d}.json"

    def _delete_below(self, number: int) -> None:
        for key in self._store.find(self._prefix):
            if _number_of(key) < number:
                self._store.delete(key)

    def _keep(self) -> None:
        """Renew the lease until it is given back or lost."""
        while not self._ended.wait(RENEW_S * self._slowness) and self._lost is None:
            try:
                self._renew()
            except Exception as error:  # the next one may succeed; `check` counts the time
                _log.info("%s could not be renewed: %s", self._what, error)

    def _renew(self) -> None:
        with self._guard:
            if self._ended.is_set() or self._lost is not None:
                return
            before = self._number
            if self._put(before + 1):
                self._store.delete(self._key_of(before))
                return
            newest = self._newest()
            if newest.data.get("token") == self.token:  # put, but the answer was lost
                self._number, self._renewed_s = newest.number, time.monotonic()
                self._delete_below(newest.number)
            else:
                self._lost = self._message(newest)

    def check(self) -> None:
        if self._lost is None and time.monotonic() - self._renewed_s > LEASE_S * self._slowness:
            newest = self._newest()
            if newest.data.get("token") != self.token and newest.number:
                self._lost = self._message(newest)
            else:
                self._renew()
        if self._lost is not None:
            raise LockedError(
                f"The lease was lost while this process was away: {self._lost}", see="lease"
            )

    def give_back(self) -> None:
        self._ended.set()
        with self._guard:
            if self._lost is not None:
                return
            before = self._number
            try:
                if self._put(before + 1, released=True):
                    self._store.delete(self._key_of(before))
            except Exception as error:  # it ends by itself
                _log.warning("%s could not be given back: %s", self._what, error)


def _number_of(key: str) -> int:
    digits = key.rpartition("/")[2].removesuffix(".json")
    return int(digits) if digits.isdigit() else 0


def _data(text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _boot() -> str:
    """Return what tells one start of this machine from another, and one container from another."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    if os.name == "nt" or pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return True
