"""The channel on which the ranks of a run talk: messages of a few hundred bytes, through rank 0.

It is a connection of its own, and not a collective of the engine, because a collective waits for a
rank that has left, and ends the process if two ranks enter different ones. Here each exchange
has a label, a rank that has ended closes its connection (the kernel does, after SIGKILL too), and
whoever waits for it is told at once which rank left, and why.

| message to rank 0 | answer |
|---|---|
| `give`, number, label, data | `round`, number, the data of all ranks, once all have given |
| | `differ`, number, the label of each rank, if they are not the same |
| | `never`, number, rank and reason, if one has left without giving |
| `late`, number | `late`, number, who has not given, with where each was last |
| `leave`, number, reason | to the others: `gone`, number, rank and reason; `never` if they wait |
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from multiprocessing.connection import Client, Connection
from typing import Any

from keras_ratchet._distributed._fork import close_in_child

Number = tuple[int, int]  # of the run, and of the exchange in it
Address = tuple[str, int]
ENDED = "its process has ended"
ALL_RUNS = 1 << 60  # more than there can be
_CONNECT_S = 60.0


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
        self._connection = _connect(addresses, key)
        close_in_child(self._connection)
        self._connection.send(rank)
        self._answers: queue.SimpleQueue[tuple[str, Number | None, Any]] = queue.SimpleQueue()
        self._gone: list[tuple[int, int, str]] = []
        threading.Thread(target=self._receive, name="ratchet-ranks", daemon=True).start()

    def _receive(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, number, content = self._connection.recv()
                if kind == "gone":
                    self._gone.append((number[0], *content))
                else:
                    self._answers.put((kind, number, content))
        self._gone.append((ALL_RUNS, 0, ENDED))
        self._answers.put(("never", None, (0, ENDED)))

    def gone(self, run: int) -> tuple[int, str] | None:
        """Return the first other rank that has left a run, and why, or None."""
        return next(((rank, why) for last, rank, why in self._gone if run <= last), None)

    def exchange(
        self, number: Number, label: str, data: bytes, timeout_s: float
    ) -> tuple[str, Any]:
        """Give data, and return what came of it.

        Args:
            number: Of the exchange; the same on all ranks.
            label: What it is about; the same on all ranks.
            data: What this rank gives.
            timeout_s: How long to wait for the others.

        Returns:
            ("round", the data of all ranks), ("differ", their labels), ("never", (rank, reason)),
            or ("late", {rank: where it was last}) after `timeout_s`.
        """
        try:
            self._connection.send(("give", number, label, data))
            end = time.monotonic() + timeout_s
            while True:
                try:
                    kind, about, content = self._answers.get(
                        timeout=max(0.0, end - time.monotonic())
                    )
                except queue.Empty:
                    self._connection.send(("late", number))
                    end = time.monotonic() + 5.0
                    continue
                if about in (number, None):
                    return kind, content
        except OSError:
            return "never", (0, ENDED)

    def leave(self, run: int, reason: str) -> None:
        """Tell the others that this rank gives no more in a run."""
        with contextlib.suppress(OSError):
            self._connection.send(("leave", (run, 0), reason))


def _connect(addresses: list[Address], key: bytes) -> Connection:
    end = time.monotonic() + _CONNECT_S
    failures: dict[Address, OSError] = {}
    while time.monotonic() < end:
        for address in addresses:
            try:
                return _connect_to(address, key)
            except OSError as error:
                failures[address] = error
        time.sleep(0.2)
    tried = ", ".join(f"{host}:{port} ({failures[host, port]})" for host, port in addresses)
    raise ConnectionError(f"Rank 0 does not answer at {tried}.")


def _connect_to(address: Address, key: bytes) -> Connection:
    with socket.create_connection(address, timeout=5.0):
        pass  # `Client` has no limit of its own, and an address may swallow what is sent to it
    return Client(address, authkey=key)
