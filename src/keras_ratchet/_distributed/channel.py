"""The channel on which the ranks of a run talk: short messages, and long ones, through rank 0.

It is a connection of its own, and not a collective of the engine, because a collective waits for a
rank that has left, and ends the process if two ranks enter different ones. Here each exchange
has a label, a rank that has ended closes its connection (the kernel does, after SIGKILL too), and
whoever waits for it is told at once which rank left, and why.

| message to rank 0 | answer |
|---|---|
| `give`, number, label, data | `round`, number, the data of all ranks, once all have given |
| | `differ`, number, the label of each rank, if they are not the same |
| | `never`, number, rank and reason, if one has left without giving |
| `bring`, number, label, data | as for `give`, but only rank 0 gets the data |
| `late`, number | `late`, number, who has not given, with where each was last, and is stuck |
| `overdue`, run, batch | none: that this rank is in a batch that does not end; "" if it did |
| `leave`, number, reason | to the others: `gone`, number, rank and reason; `never` if they wait |
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_ratchet._distributed import step
from keras_ratchet._distributed._fork import close_in_child
from keras_ratchet._distributed.sockets import Address, connect

Number = tuple[int, int]  # of the run, and of the exchange in it
ENDED = "its process has ended"
ALL_RUNS = -1
NOTICE_S = 60.0
_ANSWER_S = 30.0
Late = dict[int, tuple[str | None, str]]  # by rank: its last label, its batch if that never ends


class Gone(NamedTuple):
    """That a rank has left a run.

    Attributes:
        run: Number of the run, or ALL_RUNS.
        rank: Which rank.
        reason: Why.
        at_s: When this rank was told, by its monotonic clock.
    """

    run: int
    rank: int
    reason: str
    at_s: float


class Channel:
    """A rank's end of its connection to rank 0.

    Args:
        rank: Its index.
        addresses: Where rank 0 may be reached.
        key: What rank 0 wants to hear.

    Raises:
        ConnectionError: If none of the addresses answers.
    """

    def __init__(self, rank: int, addresses: list[Address], key: bytes) -> None:
        self.rank = rank
        self._connection = connect(addresses, key)
        close_in_child(self._connection)
        self._sending = threading.Lock()
        self._answers: queue.SimpleQueue[tuple[str, Number | None, Any]] = queue.SimpleQueue()
        self._gone: list[Gone] = []
        self._send(rank)
        threading.Thread(target=self._receive, name="ratchet-ranks", daemon=True).start()

    def _send(self, message: Any) -> None:
        with self._sending:
            self._connection.send(message)

    def _receive(self) -> None:
        with contextlib.suppress(Exception):  # EOFError or OSError; or it cannot be read
            while True:
                kind, number, content = self._connection.recv()
                if kind == "gone":
                    rank, reason = content
                    self._gone.append(Gone(number[0], rank, reason, time.monotonic()))
                else:
                    self._answers.put((kind, number, content))
        self._gone.append(Gone(ALL_RUNS, 0, ENDED, time.monotonic()))
        self._answers.put(("never", None, (0, ENDED)))

    def gone(self, run: int) -> Gone | None:
        """Return which other rank has left a run first, or None."""
        return next((gone for gone in self._gone if gone.run in (run, ALL_RUNS)), None)

    def exchange(
        self,
        number: Number,
        label: str,
        data: bytes,
        timeout_s: float,
        *,
        kind: str = "give",
        notice: Callable[[Late], None] = lambda late: None,
    ) -> tuple[str, Any]:
        """Give data, and return what came of it.

        Args:
            number: Of the exchange; the same on all ranks.
            label: What it is about; the same on all ranks.
            data: What this rank gives.
            timeout_s: How long to wait for the others.
            kind: "give"; "bring" if only rank 0 is to get the data.
            notice: Called once, after a minute, with who is late.

        Returns:
            ("round", the data of all ranks), ("differ", their labels), ("never", (rank, reason)),
            ("late", who has not come) after `timeout_s`, or ("stuck", likewise) earlier.
        """
        try:
            self._send((kind, number, label, data))
            return self._wait(number, timeout_s, notice)
        except OSError:
            return "never", (0, ENDED)

    def _wait(
        self, number: Number, timeout_s: float, notice: Callable[[Late], None]
    ) -> tuple[str, Any]:
        start_s, has_told = time.monotonic(), False
        while True:
            left_s = start_s + timeout_s - time.monotonic()
            if (answer := self._answer(number, min(NOTICE_S, left_s))) is not None:
                return answer
            self._send(("late", number))
            answer = self._answer(number, _ANSWER_S) or ("late", {0: ("it does not answer", "")})
            waited_s = time.monotonic() - start_s
            if answer[0] != "late" or waited_s >= timeout_s:
                return answer
            if waited_s > step.PATIENCE_S and any(batch for _, batch in answer[1].values()):
                return "stuck", answer[1]
            if not has_told:
                has_told = True
                notice(answer[1])

    def _answer(self, number: Number, timeout_s: float) -> tuple[str, Any] | None:
        end = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Empty):
            while True:
                left_s = max(0.0, end - time.monotonic())
                kind, about, content = self._answers.get(timeout=left_s)
                if about is None:
                    gone = self.gone(number[0])  # what rank 0 has said before it ended
                    return kind, content if gone is None else (gone.rank, gone.reason)
                if about == number:
                    return kind, content
        return None

    def tell_overdue(self, run: int, batch: str) -> None:
        """Tell rank 0 that this rank is in a batch that does not end; "" that it did."""
        with contextlib.suppress(OSError):
            self._send(("overdue", (run, 0), batch))

    def leave(self, run: int, reason: str) -> None:
        """Tell the others that this rank gives no more in a run, or in all."""
        with contextlib.suppress(OSError):
            self._send(("leave", (run, 0), reason))
