"""Ends a process that waits for a rank that has left, where no exception can reach it.

A rank that is inside a collective of its engine waits in native code. What the engines do then was
measured: gloo on torch raises at once if the peer's process has ended, JAX aborts after 100 s, and
if the peer lives on or waits in JAX's barrier at its exit, both wait for ever.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable

GRACE_S = 20.0
EXIT_CODE = 75  # EX_TEMPFAIL: run it again
_POLL_S = 0.25
_log = logging.getLogger("keras_ratchet")


class Watchdog:
    """Watches one run on a thread.

    Args:
        rank: Index of this process.
        gone: Returns a rank that has left the run, and why, or None.
        before_exit: Called before the process ends; may take some seconds.
    """

    def __init__(
        self,
        rank: int,
        gone: Callable[[], tuple[int, str] | None],
        before_exit: Callable[[], None],
    ) -> None:
        self._rank = rank
        self._gone = gone
        self._before_exit = before_exit
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="ratchet-watchdog", daemon=True).start()

    def stop(self) -> None:
        """End it: the run is over."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(_POLL_S):
            if self._gone() is not None:
                break
        if not self._over.wait(GRACE_S):
            self._exit()

    def _exit(self) -> None:
        gone = self._gone()
        assert gone is not None
        _log.critical(
            "rank %d has left the run (%s), and rank %d still waits for it after %g s: this "
            "process ends with exit code %d. Where it waits:",
            gone[0],
            gone[1],
            self._rank,
            GRACE_S,
            EXIT_CODE,
        )
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        saving = threading.Thread(target=self._before_exit, daemon=True)
        saving.start()
        saving.join(GRACE_S)
        os._exit(EXIT_CODE)
