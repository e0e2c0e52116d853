"""Rank 0's end of the channel: collects what the ranks give, and tells who has left."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from typing import Any

from keras_ratchet._distributed._fork import close_in_child
from keras_ratchet._distributed.channel import ALL_RUNS, ENDED, Address, Number


@dataclass(slots=True)
class _Peer:
    """A rank, as rank 0 knows it."""

    connection: Connection
    label: str = ""  # of what it gave last
    left: tuple[int, str] | None = None  # the last run that it is out of, and why
    sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, *message: Any) -> None:
        with self.sending, contextlib.suppress(OSError):  # it has ended: nobody reads that
            self.connection.send(message)


class Server:
    """Rank 0's end of all connections.

    Args:
        world_size: How many ranks there are.
        key: What a peer has to know.
    """

    def __init__(self, world_size: int, key: bytes) -> None:
        self._world_size = world_size
        self._listener = Listener(("", 0), backlog=world_size, authkey=key)
        self._state = threading.Lock()
        self._peers: dict[int, _Peer] = {}
        self._rounds: dict[Number, dict[int, tuple[str, bytes]]] = {}
        close_in_child(self._listener)
        threading.Thread(target=self._accept, name="ratchet-ranks", daemon=True).start()

    @property
    def addresses(self) -> list[Address]:
        """Where it may be reached, the likeliest first."""
        port: int = self._listener.address[1]
        hosts = [os.environ.get("MASTER_ADDR", ""), socket.gethostname()]
        with contextlib.suppress(OSError):
            hosts += socket.gethostbyname_ex(socket.gethostname())[2]
        return [(host, port) for host in dict.fromkeys([*hosts, "127.0.0.1"]) if host]

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except (OSError, EOFError):  # a stranger, or one that hung up
                if self._listener._listener is None:  # type: ignore[attr-defined]
                    return
                continue
            except Exception:  # AuthenticationError
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="ratchet-rank", daemon=True
            ).start()

    def _serve(self, connection: Connection) -> None:
        close_in_child(connection)
        rank = -1
        try:
            rank = connection.recv()
            with self._state:
                self._peers[rank] = _Peer(connection)
            while True:
                kind, number, *rest = connection.recv()
                with self._state:
                    getattr(self, f"_{kind}")(rank, number, *rest)
        except (EOFError, OSError):
            with self._state:
                if rank in self._peers:
                    self._leave(rank, None, ENDED)

    def _give(self, rank: int, number: Number, label: str, data: bytes) -> None:
        given = self._rounds.setdefault(number, {})
        given[rank] = label, data
        self._peers[rank].label = label
        if len(given) < self._world_size:
            for other in range(self._world_size):
                self._tell_if_never(number, other, [rank])
            return
        del self._rounds[number]
        labels = [given[r][0] for r in range(self._world_size)]
        same = len(set(labels)) == 1
        content = [given[r][1] for r in range(self._world_size)] if same else labels
        for _, peer in sorted(self._peers.items(), reverse=True):  # rank 0 last: it may end then
            peer.send("round" if same else "differ", number, content)

    def _leave(self, rank: int, number: Number | None, reason: str) -> None:
        peer = self._peers[rank]
        if peer.left is not None and peer.left[0] == ALL_RUNS:
            return
        run = ALL_RUNS if number is None else number[0]
        peer.left = run, reason
        for other in self._peers.values():
            if other is not peer:
                other.send("gone", (run, 0), (rank, reason))
        for open_number, given in self._rounds.items():
            self._tell_if_never(open_number, rank, list(given))

    def _tell_if_never(self, number: Number, rank: int, whom: Iterable[int]) -> None:
        """Tell who has given to a round if a rank will never give to it."""
        peer = self._peers.get(rank)
        if peer is None or peer.left is None or rank in self._rounds[number]:
            return
        run, reason = peer.left
        if number[0] <= run:
            for other in whom:
                self._peers[other].send("never", number, (rank, reason))

    def _late(self, rank: int, number: Number) -> None:
        given = self._rounds.get(number, {})
        last = {
            r: self._peers[r].label if r in self._peers else None
            for r in range(self._world_size)
            if r not in given
        }
        self._peers[rank].send("late", number, last)
