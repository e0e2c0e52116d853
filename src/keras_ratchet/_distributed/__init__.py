"""TOGETHER: the processes of one training: who they are, and how they agree.

The engines differ in who starts the processes and in how they move arrays. How ranks agree does
not depend on the engine: see `channel`.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from keras_ratchet._distributed.one import One
from keras_ratchet.errors import ConfigError

T = TypeVar("T")
_ENGINES = ("torch", "jax")


@runtime_checkable
class Coordinator(Protocol):
    """What the processes of one training need in order to agree.

    Every method but the attributes is called on all ranks, in the same order.

    Attributes:
        rank: Index of this process.
        world_size: How many processes there are.
    """

    rank: int
    world_size: int

    def broadcast(self, value: T) -> T:
        """Return rank 0's value, which can be pickled."""

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""

    def barrier(self) -> None:
        """Wait until all ranks are here."""


class Engine(Protocol):
    """What `_distributed.torch` and `_distributed.jax` know."""

    def rank_and_size(self) -> tuple[int, int]:
        """Return the index of this process and how many there are."""

    def share(self, own: bytes | None) -> bytes:
        """Return rank 0's bytes on all ranks."""

    def alone(self) -> AbstractContextManager[None]:
        """Return a block in which this rank may work on the model alone."""


_found: dict[tuple[str, int, int], Any] = {}


def find(backend: str) -> Any:
    """Return the coordinator of this process: `One`, or `Ranks` if the backend runs in several.

    The first call in several processes waits for all of them.

    Args:
        backend: Keras's.
    """
    if backend not in _ENGINES or backend not in sys.modules:
        return One()
    engine = cast(Engine, importlib.import_module(f"{__name__}.{backend}"))
    rank, size = engine.rank_and_size()
    if size == 1:
        return One()
    key = backend, rank, size
    if key not in _found:
        from keras_ratchet._distributed.ranks import Ranks  # noqa: PLC0415  one process needs none

        _found[key] = Ranks(rank, size, engine.share, engine.alone)
    return _found[key]


def check_coordinator(given: object) -> None:
    """Raise a ConfigError if an object is no coordinator."""
    if not isinstance(given, Coordinator):
        raise ConfigError(
            "coordinator must have rank, world_size, broadcast, gather, any and barrier. "
            f"Got: {given!r}."
        )
