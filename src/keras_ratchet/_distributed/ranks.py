"""The coordinator of several processes: agreement over a channel, made with the engine's help."""

from __future__ import annotations

import atexit
import pickle
import secrets
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from keras_ratchet._distributed.channel import ALL_RUNS, ENDED, NOTICE_S, Channel, Late
from keras_ratchet._distributed.runs import Agreement, Run
from keras_ratchet._distributed.server import Server
from keras_ratchet._distributed.sockets import CONNECT_S, is_loopback
from keras_ratchet._distributed.watchdog import Watchdog, end_later, limit, say
from keras_ratchet.errors import RankError

TIMEOUT_S = 1800.0


class Ranks(Agreement):
    """The ranks of one training, and this one of them.

    Args:
        rank: Index of this process.
        world_size: How many there are.
        share: Returns on all ranks what rank 0 gives it, once; the engine's own broadcast.
        alone: Returns a block in which rank 0 may work on the model alone.
        is_one_machine: Whether it is certain that all ranks are on this machine.
        waits_at_exit: Whether the engine makes a process wait at its end for all others.

    Attributes:
        timeout_s: How long a rank waits for the others.

    Raises:
        RankError: If the ranks cannot reach each other.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        share: Callable[[bytes | None], bytes],
        alone: Callable[[], AbstractContextManager[None]] = nullcontext,
        *,
        is_one_machine: bool = False,
        waits_at_exit: bool = False,
    ) -> None:
        super().__init__(rank, world_size, alone)
        self.timeout_s = TIMEOUT_S
        self._waits_at_exit = waits_at_exit
        self._watchdogs: dict[int, Watchdog] = {}
        self._server: Server | None = None
        self._told_batch = ""
        own = None
        if rank == 0:
            key = secrets.token_bytes(32)
            self._server = Server(world_size, key, is_one_machine)
            own = pickle.dumps((self._server.addresses, key))
        with limit(TIMEOUT_S, f"rank {rank} waits for the others to start training"):
            addresses, key = pickle.loads(share(own))
        if rank == 0:
            addresses = [address for address in addresses if is_loopback(address[0])]
        self._connect(addresses, key)
        atexit.register(self._at_exit)  # before the engine's, which was registered earlier

    def _connect(self, addresses: list[Any], key: bytes) -> None:
        try:
            self._channel = Channel(self.rank, addresses, key)
        except ConnectionError as error:
            raise RankError(
                f"Rank {self.rank} has no connection to rank 0: {error} The ranks talk over TCP, "
                "on a port that the system chooses: let it through the firewall, or set "
                "MASTER_ADDR to an address of rank 0 that all ranks can reach.",
                see="connection",
            ) from error
        self.timeout_s = CONNECT_S + 30.0
        self.barrier("first contact")  # who has not connected by now cannot
        self.timeout_s = TIMEOUT_S

    def who_left(self) -> tuple[int, str] | None:
        """Return another rank that has left this run, and why, or None; on any thread."""
        gone = self._channel.gone(self._runs[-1].number)
        return None if gone is None else (gone.rank, gone.reason)

    def close(self, reason: str = ENDED) -> None:
        """Leave all runs and give the connection up, once what was said has been sent."""
        atexit.unregister(self._at_exit)
        for watchdog in self._watchdogs.values():
            watchdog.stop()
        if self._is_alive():
            self._channel.leave(ALL_RUNS, reason)
            if self._server is not None:
                self._server.end(reason)

    def _at_exit(self) -> None:
        """Tell the others why, before the engine waits for them."""
        if not self._is_alive():
            return
        open_runs = self._runs[1:]
        error = getattr(sys, "last_value", None)
        reason = ENDED if error is None else f"its process has ended: {error!r}"
        self.close(reason)
        if open_runs and self._waits_at_exit:
            end_later(self.rank, 75 if error is None else 1)

    def _exchange(self, number: tuple[int, int], what: str, data: bytes) -> list[bytes]:
        return self._pass_on("give", number, what, data)

    def _bring(self, number: tuple[int, int], what: str, data: bytes) -> list[bytes]:
        return self._pass_on("bring", number, what, data)

    def _pass_on(self, how: str, number: tuple[int, int], what: str, data: bytes) -> list[bytes]:
        def notice(late: Late) -> None:
            say(
                "rank %d waits at %r, for %g s so far, for %s",
                self.rank,
                what,
                NOTICE_S,
                _who(late),
            )

        kind, content = self._channel.exchange(
            number, what, data, self.timeout_s, kind=how, notice=notice
        )
        if kind != "round":
            raise RankError(_message(self.rank, kind, content, what, self.timeout_s))
        found: list[bytes] = content
        return found

    def _watch(self, run: Run, always_ends: bool) -> None:
        self._watchdogs[run.number] = Watchdog(
            self.rank,
            lambda: self._channel.gone(run.number) if always_ends else None,
            lambda: self._leave_if_abandoned(run),
            lambda: self.before_exit(),  # noqa: PLW0108  it is set later
            lambda: self._look_at_step(run),
        )

    def _look_at_step(self, run: Run) -> None:
        batch = self.step.overdue()
        if batch != self._told_batch:
            self._told_batch = batch
            self._channel.tell_overdue(run.number, batch)

    def _leave_if_abandoned(self, run: Run) -> bool:
        is_abandoned = run.owner() is None
        if is_abandoned and not run.over:
            self._quit(run, "its loop was left, and no callback was told")
        return is_abandoned

    def _unwatch(self, run: Run) -> None:
        if (watchdog := self._watchdogs.pop(run.number, None)) is not None:
            watchdog.stop()

    def _tell(self, run: Run, reason: str) -> None:
        self._channel.leave(run.number, reason)


def _message(own: int, kind: str, content: Any, what: str, timeout_s: float) -> str:
    if kind == "never":
        rank, reason = content
        return f"rank {rank} has left the run ({reason}), so rank {own} ends, too, at: {what}."
    if kind == "differ":
        return different_places(content)
    if kind == "stuck":
        return (
            f"rank {own} waits in vain at {what!r} for {_who(content)}. That rank has more batches "
            "in this epoch or in its validation, probably: give each the same number (drop the "
            "last ones, or repeat some)."
        )
    return f"Not all ranks have come to {what!r} within {timeout_s:g} s. Missing: {_who(content)}."


def _who(late: Late) -> str:
    def where(label: str | None, batch: str) -> str:
        if batch:
            return f"in {batch}, which does not end"
        return f"last at: {label}" if label else "never seen"

    return "; ".join(f"rank {rank} ({where(*found)})" for rank, found in late.items())


def different_places(labels: list[str]) -> str:
    """Return the message of a RankError for ranks that do different things."""
    places = "; ".join(f"rank {rank}: {label}" for rank, label in enumerate(labels))
    return (
        f"The ranks are at different places ({places}). Give each the same callbacks, epochs "
        "and number of batches, and let no rank stop by itself."
    )
