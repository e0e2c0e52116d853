"""The coordinator of a training in one process: everything is agreed already."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class One:
    """One process.

    Attributes:
        rank: 0.
        world_size: 1.
        holds_stop: False: who stops, stops at once.
    """

    rank = 0
    world_size = 1
    holds_stop = False

    def start_run(self, owner: object, always_ends: bool = True) -> bool:
        """Do nothing."""
        return False

    def end_run(self, owner: object) -> None:
        """Do nothing."""

    def leave(self, reason: str, owner: object = None) -> None:
        """Do nothing."""

    def gather(self, value: T, what: str = "") -> list[T]:
        """Return the value alone."""
        return [value]

    def collect(self, value: T, what: str = "") -> list[T] | None:
        """Return the value alone."""
        return [value]

    def broadcast(self, value: T, what: str = "") -> T:
        """Return the value."""
        return value

    def any(self, flag: bool, what: str = "") -> bool:
        """Return the flag."""
        return bool(flag)

    def barrier(self, what: str = "") -> None:
        """Do nothing."""

    def first(self, action: Callable[[], T], what: str = "") -> T:
        """Return what an action returns."""
        return action()

    def together(self, action: Callable[[], T], what: str = "") -> T:
        """Return what an action returns."""
        return action()
