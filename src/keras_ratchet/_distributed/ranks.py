"""The coordinator of several processes: agreement over a channel, found with the engine's help."""

from __future__ import annotations

import pickle
import secrets
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from keras_ratchet._distributed.channel import Channel
from keras_ratchet._distributed.server import Server
from keras_ratchet._distributed.watchdog import Watchdog
from keras_ratchet.errors import RankError

T = TypeVar("T")
TIMEOUT_S = 1800.0


class Ranks:
    """The ranks of one training, and this one of them.

    Args:
        rank: Index of this process.
        world_size: How many there are.
        share: Returns on all ranks what rank 0 gives it, once; the engine's own broadcast.
        alone: Returns a block in which rank 0 may work on the model alone.

    Attributes:
        rank: Index of this process.
        world_size: How many there are.
        timeout_s: How long a rank waits for the others.
        before_exit: Called before a process ends because another one has left.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        share: Callable[[bytes | None], bytes],
        alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.timeout_s = TIMEOUT_S
        self.before_exit: Callable[[], None] = lambda: None
        self._run = self._count = 0
        self._thread = threading.get_ident()
        self._is_inside = False
        self._alone = alone
        self._owner: weakref.ref[object] | None = None
        self._watchdog: Watchdog | None = None
        self._server: Server | None = None
        own = None
        if rank == 0:
            key = secrets.token_bytes(16)
            self._server = Server(world_size, key)
            own = pickle.dumps((self._server.addresses, key))
        addresses, key = pickle.loads(share(own))
        self._channel = Channel(rank, addresses, key)

    def start_run(self, owner: object) -> bool:
        """Start a run, in which ranks wait for each other; what was before does not matter.

        Args:
            owner: The callback list of the run; the second call with it does nothing.

        Returns:
            Whether this was the first call.
        """
        if self._owner is not None and self._owner() is owner:
            return False
        self.end_run()
        self._owner = weakref.ref(owner)
        self._run, self._count = self._run + 1, 0
        self._thread = threading.get_ident()
        run = self._run
        self._watchdog = Watchdog(self.rank, lambda: self._channel.gone(run), self.before_exit)
        return True

    def end_run(self) -> None:
        """End a run: from now on a rank that leaves is none of our business."""
        self._owner = None
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None

    def leave(self, reason: str) -> None:
        """Tell the others that this rank is out of the run, so that nobody waits for it."""
        if self._watchdog is not None:
            self._channel.leave(self._run, reason)
            self.end_run()

    def who_left(self) -> tuple[int, str] | None:
        """Return another rank that has left this run, and why, or None; on any thread."""
        return self._channel.gone(self._run)

    def first(self, action: Callable[[], T], what: str) -> T:
        """Return on all ranks what an action returns on rank 0, or raise what it raises there.

        Inside such an action, and on other threads than the run's, it is only called.

        Args:
            action: Called on rank 0; what it returns or raises can be pickled.
            what: What it is, for messages.
        """
        if self._is_inside or threading.get_ident() != self._thread:
            return action()
        self._is_inside = True
        try:
            with self._alone():
                outcome = self._try(action) if self.rank == 0 else None
        finally:
            self._is_inside = False
        return cast(T, _result(self.broadcast(outcome, what)))

    def together(self, action: Callable[[], T], what: str) -> T:
        """Return what an action returns; if it raises on any rank, raise on all.

        Args:
            action: Called on every rank.
            what: What it is, for messages.
        """
        outcome = self._try(action)
        failures = self.gather(outcome if isinstance(outcome, _Raised) else None, what)
        _result(next((failure for failure in failures if failure is not None), None))
        return _result(outcome)

    def _try(self, action: Callable[[], T]) -> T | _Raised:
        try:
            return action()
        except Exception as error:
            return _Raised(error, self.rank)

    def gather(self, value: T, what: str = "gather") -> list[T]:
        """Return the values of all ranks, by rank.

        Args:
            value: This rank's; it can be pickled.
            what: What this is about, the same on all ranks, for messages.

        Raises:
            RankError: If a rank has left or does not come, or if the ranks are at different places.
        """
        self._count += 1
        number = self._run, self._count
        kind, content = self._channel.exchange(number, what, pickle.dumps(value), self.timeout_s)
        if kind == "round":
            return [pickle.loads(data) for data in content]
        raise RankError(_message(kind, content, what, self.timeout_s))

    def broadcast(self, value: T, what: str = "broadcast") -> T:
        """Return rank 0's value."""
        return self.gather(value if self.rank == 0 else None, what)[0]  # type: ignore[return-value]

    def any(self, flag: bool, what: str = "any") -> bool:
        """Return whether the flag is set on any rank."""
        return any(self.gather(bool(flag), what))

    def barrier(self, what: str = "barrier") -> None:
        """Wait until all ranks are here."""
        self.gather(None, what)


@dataclass(frozen=True, slots=True)
class _Raised:
    """An exception on its way to the other ranks; one that cannot be pickled goes as text."""

    error: Exception
    rank: int

    def __reduce__(self) -> Any:
        error = self.error
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RankError(f"{type(error).__name__}: {error}")
        return _Raised, (error, self.rank)


def _result(outcome: T | _Raised) -> T:
    if not isinstance(outcome, _Raised):
        return outcome
    note = f"raised on rank {outcome.rank}"
    if note not in getattr(outcome.error, "__notes__", ()):
        outcome.error.add_note(note)
    raise outcome.error


def _message(kind: str, content: Any, what: str, timeout_s: float) -> str:
    if kind == "never":
        rank, reason = content
        return f"rank {rank} has left the run ({reason}), so this rank ends, too, at: {what}."
    if kind == "differ":
        places = "; ".join(f"rank {rank}: {label}" for rank, label in enumerate(content))
        return (
            f"The ranks are at different places ({places}). Give each the same callbacks, epochs "
            "and number of batches, and let no rank stop by itself."
        )
    absent = "; ".join(
        f"rank {rank} (" + (f"last at: {label}" if label else "never seen") + ")"
        for rank, label in content.items()
    )
    return f"Not all ranks have come to {what!r} within {timeout_s:g} s. Missing: {absent}."
