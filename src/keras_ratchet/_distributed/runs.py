"""Runs of several processes, and how their ranks agree; how a message travels is the subclass's.

A run is one `fit` or hand-written loop, with a number that is the same on all ranks. Within it each
exchange has a number, too, so nothing that one rank says late is taken for something else. A rank
whose run was left, by itself or by another one, exchanges nothing more in it: what rank 0 has to
clean up it then does alone.
"""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from keras_ratchet._distributed.raised import Raised, result
from keras_ratchet._distributed.step import Step
from keras_ratchet._warn import speech
from keras_ratchet.errors import RankError

T = TypeVar("T")


@dataclass(slots=True)
class Run:
    """One run, as this rank knows it; number 0 is what happens outside of runs.

    Attributes:
        number: Counts the runs of this process.
        owner: Its callback list; a run whose list is gone was left.
        thread: On which it runs.
        count: Number of the last exchange.
        over: Why this rank exchanges nothing more in it; "" while it does.
    """

    number: int
    owner: weakref.ref[Any]
    thread: int
    count: int = 0
    over: str = ""


class Agreement:
    """How the ranks of a training agree.

    Args:
        rank: Index of this process.
        world_size: How many there are.
        alone: Returns a block in which rank 0 may work on the model alone.

    Attributes:
        rank: Index of this process.
        world_size: How many there are.
        before_exit: Called before a process ends because another one has left.
        step: The batch that this rank is in.
        holds_stop: Whether a callback has stopped this rank alone in mid-epoch, which the others
            have not heard of.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        alone: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.before_exit: Callable[[], None] = lambda: None
        self.step = Step()
        self.holds_stop = False
        self._alone = alone
        self._process = os.getpid()
        self._runs = [Run(0, weakref.ref(self), threading.get_ident())]
        self._started = 0
        self._is_inside = False

    def start_run(self, owner: object, always_ends: bool = True) -> bool:
        """Start a run, in which ranks wait for each other; one may be inside another.

        Args:
            owner: The callback list of the run; the second call with it does nothing.
            always_ends: Whether its loop tells the callbacks whenever it ends, or raises.

        Returns:
            Whether this was the first call.
        """
        self._runs[1:] = [run for run in self._runs[1:] if not run.over and run.owner() is not None]
        if self._run_of(owner) is not None:
            return False
        self._started += 1
        self.step = Step()
        run = Run(self._started, weakref.ref(owner), threading.get_ident())
        self._runs.append(run)
        speech.start(self.rank)
        self._watch(run, always_ends)
        return True

    def end_run(self, owner: object) -> None:
        """End a run: from now on a rank that leaves is none of our business."""
        run = self._run_of(owner)
        if run is not None:
            index = self._runs.index(run)
            for inner in self._runs[index:]:
                self._unwatch(inner)
            del self._runs[index:]
            self._be_quiet()

    def leave(self, reason: str, owner: object = None) -> None:
        """Tell the others that this rank is out of a run, so that nobody waits for it.

        Args:
            reason: Why.
            owner: The callback list of the run; None for the innermost one.
        """
        run = self._runs[-1] if owner is None else self._run_of(owner)
        if run is not None and run.number and not run.over and self._is_alive():
            self._quit(run, reason)

    def _quit(self, run: Run, reason: str) -> None:
        run.over = reason
        self._unwatch(run)
        self._tell(run, reason)
        self._be_quiet()

    def _be_quiet(self) -> None:
        if all(run.over for run in self._runs[1:]):
            speech.end()

    def _run_of(self, owner: object) -> Run | None:
        return next((run for run in self._runs[1:] if run.owner() is owner), None)

    def _is_alive(self) -> bool:
        """Return whether this is the process that is a rank, and no child of it."""
        return os.getpid() == self._process

    def first(self, action: Callable[[], T], what: str) -> T:
        """Return on all ranks what an action returns on rank 0, or raise what it raises there.

        Inside such an action, and on other threads than the run's, it is only called. Outside of
        runs, and when this run was left, rank 0 calls it alone, and the others get None.

        Args:
            action: Called on rank 0; what it returns or raises can be pickled.
            what: What it is, for messages.
        """
        run = self._runs[-1]
        if self._is_inside or (run.number and threading.get_ident() != run.thread):
            return action()
        is_shared = run.number > 0 and not run.over
        self._is_inside = True
        try:
            with self._alone():
                outcome = self._try(action) if self.rank == 0 else None
        finally:
            self._is_inside = False
        found = self.broadcast(outcome, what) if is_shared else outcome
        return cast(T, result(outcome if self.rank == 0 else found))  # its own has a traceback

    def together(self, action: Callable[[], T], what: str) -> T:
        """Return what an action returns; if it raises on any rank, raise on all.

        Args:
            action: Called on every rank.
            what: What it is, for messages.
        """
        outcome = self._try(action)
        failures = self.gather(outcome if isinstance(outcome, Raised) else None, what)
        failure = next((failure for failure in failures if failure is not None), None)
        if failure is not None and failure.rank != self.rank:
            result(failure)
        return result(outcome)

    def _try(self, action: Callable[[], T]) -> T | Raised:
        try:
            return action()
        except Exception as error:
            return Raised(error, self.rank)

    def gather(self, value: T, what: str = "gather") -> list[T]:
        """Return the values of all ranks, by rank.

        Args:
            value: This rank's; it can be pickled.
            what: What this is about, the same on all ranks, for messages.

        Raises:
            RankError: If a rank has left or does not come, or if the ranks are at different places.
        """
        return self._agree(value, what, self._exchange)

    def collect(self, value: T, what: str = "collect") -> list[T] | None:
        """Return on rank 0 the values of all ranks, by rank; None on the others.

        Args:
            value: This rank's, of any size; it can be pickled.
            what: As for `gather`.

        Raises:
            RankError: As from `gather`.
        """
        found = self._agree(value, what, self._bring)
        return None if self.rank else found

    def _agree(
        self, value: T, what: str, exchange: Callable[[tuple[int, int], str, bytes], list[bytes]]
    ) -> list[T]:
        run = self._runs[-1]
        if not self._is_alive():
            raise RankError(f"A child made by fork is no rank, and cannot take part in: {what}.")
        if run.over:
            raise RankError(f"Rank {self.rank} is out of the run ({run.over}), at: {what}.")
        unsaid = speech.unsaid()
        run.count += 1
        try:
            data = pickle.dumps((value, unsaid))
            found = exchange((run.number, run.count), what, data)
        except BaseException as error:
            speech.keep(unsaid)
            if run.number and isinstance(error, RankError):
                self._quit(run, str(error))
            raise
        pairs = [pickle.loads(each) for each in found]
        if self.rank == 0:
            speech.relay([unsaid for _, unsaid in pairs])
        return [given for given, _ in pairs]

    def broadcast(self, value: T, what: str = "broadcast") -> T:
        """Return rank 0's value."""
        return self.gather(value if self.rank == 0 else None, what)[0]  # type: ignore[return-value]

    def any(self, flag: bool, what: str = "any") -> bool:
        """Return whether the flag is set on any rank."""
        return any(self.gather(bool(flag), what))

    def barrier(self, what: str = "barrier") -> None:
        """Wait until all ranks are here."""
        self.gather(None, what)

    def _exchange(self, number: tuple[int, int], what: str, data: bytes) -> list[bytes]:
        """Return the data of all ranks, or raise a RankError."""
        raise NotImplementedError

    def _bring(self, number: tuple[int, int], what: str, data: bytes) -> list[bytes]:
        """Return the data of all ranks on rank 0; what the others get does not matter."""
        return self._exchange(number, what, data)

    def _watch(self, run: Run, always_ends: bool) -> None:
        """Watch whether a rank leaves a run while this one waits in native code."""

    def _unwatch(self, run: Run) -> None:
        """Watch it no more."""

    def _tell(self, run: Run, reason: str) -> None:
        """Tell the others that this rank has left a run."""
