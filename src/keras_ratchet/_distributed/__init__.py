"""TOGETHER: the processes of one training: who they are, and how they agree.

The engines differ in who starts the processes and in how they move arrays. How ranks agree does
not depend on the engine: see `channel`.
"""

from __future__ import annotations

import importlib
import operator
import os
import sys
from contextlib import AbstractContextManager
from typing import Any, Protocol, SupportsIndex, TypeVar, cast, runtime_checkable

from keras_ratchet._distributed.one import One
from keras_ratchet.errors import ConfigError

T = TypeVar("T")
_ENGINES = ("torch", "jax")


@runtime_checkable
class Coordinator(Protocol):
    """What the processes of one training need in order to agree.

    For PyTorch and JAX it is found by itself. For another engine pass an object with these names
    as `coordinator=` to one callback of each list, or to `Run`, on every rank. Every method is
    called on all ranks, in the same order, and raises an error if that cannot work any more; our
    callbacks call only `gather`, with tuples of a string and bytes.

    Attributes:
        rank: Index of this process.
        world_size: How many there are.

    Example:
        ```python
        class MPI:
            def __init__(self, world):
                self._world = world
                self.rank, self.world_size = world.Get_rank(), world.Get_size()

            def broadcast(self, value):
                return self._world.bcast(value, root=0)

            def gather(self, value):
                return self._world.allgather(value)

            def any(self, flag):
                return any(self.gather(flag))

            def barrier(self):
                self._world.Barrier()


        backup = keras_ratchet.BackupAndRestore("backup", coordinator=MPI(mpi4py.MPI.COMM_WORLD))
        ```
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
    """What `_distributed.torch` and `_distributed.jax` know.

    Attributes:
        WAITS_AT_EXIT: Whether a process waits at its end until all others end.
    """

    WAITS_AT_EXIT: bool

    def rank_and_size(self) -> tuple[int, int]:
        """Return the index of this process and how many there are."""

    def group(self) -> object:
        """Return what stands for this group of processes: another object after a new start."""

    def is_one_machine(self) -> bool:
        """Return whether it is certain that all ranks are on this machine."""

    def share(self, own: bytes | None) -> bytes:
        """Return rank 0's bytes on all ranks."""

    def alone(self) -> AbstractContextManager[None]:
        """Return a block in which this rank may work on the model alone."""


_found: dict[str, tuple[tuple[object, int, int], Any]] = {}  # of each backend: which group, Ranks


def find(backend: str) -> Any:
    """Return the coordinator of this process: `One`, or `Ranks` if the backend runs in several.

    The first call in several processes waits for all of them. A child that a rank has made by
    `fork` is one process of its own.

    Args:
        backend: Keras's.
    """
    if backend not in _ENGINES or backend not in sys.modules:
        return One()
    engine = cast(Engine, importlib.import_module(f"{__name__}.{backend}"))
    rank, size = engine.rank_and_size()
    group = engine.group(), rank, size
    if size == 1 or group in _of_parent:
        return One()
    known, ranks = _found.get(backend, (None, None))
    if known != group:
        from keras_ratchet._distributed.ranks import Ranks  # noqa: PLC0415  one process needs none

        if ranks is not None:
            ranks.close("it belongs to a new group of processes")
        ranks = Ranks(
            rank,
            size,
            engine.share,
            engine.alone,
            is_one_machine=engine.is_one_machine(),
            waits_at_exit=engine.WAITS_AT_EXIT,
        )
        _found[backend] = group, ranks
    return ranks


_of_parent: list[tuple[object, int, int]] = []


def _start_in_child() -> None:
    _of_parent.extend(group for group, _ in _found.values())
    _found.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_start_in_child)


def check_coordinator(given: object) -> None:
    """Raise a ConfigError if an object is no coordinator."""
    methods = ("broadcast", "gather", "any", "barrier")
    numbers = [getattr(given, name, None) for name in ("rank", "world_size")]
    is_one = all(callable(getattr(given, name, None)) for name in methods)
    if (
        isinstance(given, type)
        or not is_one
        or not all(isinstance(n, SupportsIndex) for n in numbers)
    ):
        raise ConfigError(
            "coordinator must have the numbers rank and world_size, and the methods broadcast, "
            f"gather, any and barrier: see keras_ratchet.Coordinator. Got: {given!r}.",
            see="coordinator",
        )
    rank, size = map(operator.index, numbers)  # type: ignore[arg-type]
    if not 0 <= rank < size:
        raise ConfigError(
            "coordinator.rank must be at least 0 and below coordinator.world_size. "
            f"Got: {rank} of {size}.",
            see="coordinator",
        )
