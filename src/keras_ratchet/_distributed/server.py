"""Rank 0's end of the channel: collects what the ranks give, and tells who has left.

Each peer has a thread that reads and one that writes, so a peer that reads slowly, or not at all,
keeps nobody else waiting.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any

from keras_ratchet._distributed._fork import close_in_child
from keras_ratchet._distributed.channel import ALL_RUNS, ENDED, Late, Number
from keras_ratchet._distributed.sockets import Address, addresses, authenticated, listen

_MAX_STRANGERS = 64
_FLUSH_S = 5.0


class _Peer:
    """A rank, as rank 0 knows it.

    Attributes:
        label: Of what it gave last.
        overdue: The batch that it is in, if that does not end.
        left: The runs that it is out of, and why.
    """

    def __init__(self, connection: Connection) -> None:
        self.label = self.overdue = ""
        self.left: dict[int, str] = {}
        self._connection = connection
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="ratchet-rank", daemon=True)
        self._writer.start()

    def send(self, *message: Any) -> None:
        """Send a message, soon; nothing happens if nobody can read it any more."""
        if self._writer.is_alive():
            self._outbox.put(message)

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # it has ended: nobody reads what is left
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)

    def flush(self, until_s: float) -> None:
        """Wait until everything is sent; nothing can be sent after that."""
        self._outbox.put(None)
        self._writer.join(max(0.0, until_s - time.monotonic()))

    def why_left(self, run: int) -> str | None:
        """Return why it is out of a run, None if it is not."""
        return self.left.get(run, self.left.get(ALL_RUNS))


class Server:
    """Rank 0's end of all connections.

    Args:
        world_size: How many ranks there are.
        key: What a peer has to know.
        is_one_machine: Whether all ranks are on this machine.

    Attributes:
        addresses: Where it may be reached, the likeliest first.
    """

    def __init__(self, world_size: int, key: bytes, is_one_machine: bool) -> None:
        self._world_size = world_size
        self._key = key
        self._listener = listen(is_one_machine, backlog=world_size + _MAX_STRANGERS)
        close_in_child(self._listener)
        self.addresses: list[Address] = addresses(self._listener.getsockname()[1], is_one_machine)
        self._state = threading.Lock()
        self._peers: dict[int, _Peer] = {}
        self._rounds: dict[Number, dict[int, tuple[str, bytes]]] = {}
        self._guests = threading.BoundedSemaphore(world_size + _MAX_STRANGERS)
        threading.Thread(target=self._accept, name="ratchet-ranks", daemon=True).start()

    def end(self, reason: str) -> None:
        """Tell the others that this process ends, and send what is not sent yet."""
        with self._state:
            if 0 in self._peers:
                self._leave(0, (ALL_RUNS, 0), reason)
            peers = [peer for rank, peer in self._peers.items() if rank != 0]
        until_s = time.monotonic() + _FLUSH_S
        for peer in peers:
            peer.flush(until_s)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `_accept`
        self._listener.close()

    def _accept(self) -> None:
        while self._listener.fileno() != -1:
            try:
                end, _ = self._listener.accept()
            except OSError:  # closed; or too many open files
                time.sleep(0.1)
                continue
            if not self._guests.acquire(blocking=False):  # who knows the key comes again
                end.close()
                continue
            threading.Thread(
                target=self._serve, args=(end,), name="ratchet-rank", daemon=True
            ).start()

    def _welcome(self, end: socket.socket) -> tuple[int, Connection] | None:
        try:
            connection = authenticated(end, self._key, is_server=True)
        except Exception:  # a stranger, or one that has hung up
            return None
        finally:
            self._guests.release()
        close_in_child(connection)
        with contextlib.suppress(EOFError, OSError):
            rank = connection.recv()
            with self._state:
                if rank in range(self._world_size) and rank not in self._peers:
                    self._peers[rank] = _Peer(connection)
                    return rank, connection
        connection.close()
        return None

    def _serve(self, end: socket.socket) -> None:
        guest = self._welcome(end)
        if guest is None:
            return
        rank, connection = guest
        try:
            while True:
                kind, number, *rest = connection.recv()
                with self._state:
                    getattr(self, f"_{kind}")(rank, number, *rest)
        except Exception as error:
            has_ended = isinstance(error, EOFError | OSError)
            reason = ENDED if has_ended else f"what it said cannot be read: {error!r}"
            with self._state:
                self._leave(rank, (ALL_RUNS, 0), reason)
            connection.close()

    def _bring(self, rank: int, number: Number, label: str, data: bytes) -> None:
        self._give(rank, number, label, data, to_all=False)

    def _give(
        self, rank: int, number: Number, label: str, data: bytes, to_all: bool = True
    ) -> None:
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
        for other, peer in self._peers.items():
            own = content if to_all or other == 0 or not same else []
            peer.send("round" if same else "differ", number, own)

    def _leave(self, rank: int, number: Number, reason: str) -> None:
        peer, run = self._peers[rank], number[0]
        if peer.why_left(run) is not None:
            return
        peer.left[run] = reason
        for other in self._peers.values():
            if other is not peer:
                other.send("gone", (run, 0), (rank, reason))
        for open_number, given in self._rounds.items():
            self._tell_if_never(open_number, rank, list(given))

    def _tell_if_never(self, number: Number, rank: int, whom: Iterable[int]) -> None:
        """Tell who has given to a round if a rank will never give to it."""
        peer = self._peers.get(rank)
        reason = None if peer is None else peer.why_left(number[0])
        if reason is None or rank in self._rounds[number]:
            return
        for other in whom:
            self._peers[other].send("never", number, (rank, reason))

    def _late(self, rank: int, number: Number) -> None:
        given = self._rounds.get(number, {})
        absent = [r for r in range(self._world_size) if r not in given]
        known = {r: (self._peers[r].label, self._peers[r].overdue) for r in self._peers}
        late: Late = {r: known.get(r, (None, "")) for r in absent}
        self._peers[rank].send("late", number, late)

    def _overdue(self, rank: int, number: Number, batch: str) -> None:
        self._peers[rank].overdue = batch
