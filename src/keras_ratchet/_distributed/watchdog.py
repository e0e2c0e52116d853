"""Ends a process that waits for a rank that has left, where no exception can reach it.

At the next exchange a rank that goes on is told that another one has left: a RankError that names
it and its reason is raised. But a rank that is inside a collective of its engine waits in native
code. What the engines do then was measured: gloo on torch raises at once if the peer's process has
ended, JAX aborts after 100 s, and if the peer lives on or waits in JAX's barrier at its exit, both
wait for ever.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from keras_ratchet._distributed.channel import Gone
from keras_ratchet._warn import speech

GRACE_S = 20.0
EXIT_CODE = 75  # EX_TEMPFAIL: run it again
_NOTICE_S = 60.0
_TELL_S = 2.0
_POLL_S = 0.25
_log = logging.getLogger("keras_ratchet")


class Watchdog:
    """Watches one run on a thread.

    Args:
        rank: Index of this process.
        gone: Returns which rank has left the run, or None.
        is_abandoned: Returns whether this process itself does not go on with it; then it is over.
        before_exit: Called before the process ends; may take some seconds.
        look: Called from time to time, to see what the training thread does.
    """

    def __init__(
        self,
        rank: int,
        gone: Callable[[], Gone | None],
        is_abandoned: Callable[[], bool],
        before_exit: Callable[[], None],
        look: Callable[[], None],
    ) -> None:
        self._look = look
        self._rank = rank
        self._gone = gone
        self._is_abandoned = is_abandoned
        self._before_exit = before_exit
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="ratchet-watchdog", daemon=True).start()

    def stop(self) -> None:
        """End it: the run is over, or an exception has reached it."""
        self._over.set()

    def _watch(self) -> None:
        has_told = False
        while not self._over.wait(_POLL_S) and not self._is_abandoned():
            self._look()
            gone = self._gone()
            if gone is None:
                continue
            waited_s = time.monotonic() - gone.at_s
            if waited_s > GRACE_S:
                self._exit(gone)
            elif waited_s > _TELL_S and not has_told:
                has_told = True
                say(
                    "rank %d has left the run (%s): rank %d ends as soon as it notices, at the "
                    "latest in %.0f s",
                    gone.rank,
                    gone.reason,
                    self._rank,
                    GRACE_S - waited_s,
                )

    def _exit(self, gone: Gone) -> None:
        say(
            "rank %d has left the run (%s), and rank %d still waits for it after %g s: this "
            "process ends with exit code %d. Where it waits:",
            gone.rank,
            gone.reason,
            self._rank,
            GRACE_S,
            EXIT_CODE,
        )
        speech.end()  # what was kept for rank 0
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        saving = threading.Thread(target=self._before_exit, daemon=True)
        saving.start()
        saving.join(GRACE_S)
        os._exit(EXIT_CODE)


def say(message: str, *arguments: object) -> None:
    """Log what every rank says, and not only rank 0."""
    _log.critical(message, *arguments)


def end_later(rank: int, exit_code: int) -> None:
    """End a process that an exception ends, if its engine makes it wait for the others."""

    def end() -> None:
        speech.end()
        say("rank %d still waits for the others at its end: it ends without them", rank)
        os._exit(exit_code)

    _timer(GRACE_S, end)


@contextlib.contextmanager
def limit(limit_s: float, what: str) -> Iterator[None]:
    """Return a block for a wait in native code: it is said after a minute, and has an end."""

    def notice() -> None:
        say(
            "%s, for %g s so far: each has to call fit, or start its loop, with the same callbacks "
            "of keras_ratchet (leave no `if rank == 0` around them)",
            what,
            _NOTICE_S,
        )

    def end() -> None:
        say("%s, for %g s: it ends with exit code %d", what, limit_s, EXIT_CODE)
        os._exit(EXIT_CODE)

    timers = _timer(_NOTICE_S, notice), _timer(limit_s, end)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _timer(after_s: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(after_s, action)
    timer.daemon = True
    timer.start()
    return timer
