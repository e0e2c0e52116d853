"""Methods that run on rank 0 only, and what differs between the ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import xxhash
from numpy.typing import NDArray

P = ParamSpec("P")
T = TypeVar("T")


class HasRanks(Protocol):
    """An object that all ranks have, and that acts on rank 0.

    Attributes:
        ranks: The coordinator.
    """

    ranks: Any


S = TypeVar("S", bound=HasRanks)


def on_first_rank(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Make a method run on rank 0 only, and return on all ranks what it returns there.

    All ranks call it; what it returns or raises can be pickled.
    """

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.ranks.world_size == 1:
            return method(self, *args, **kwargs)
        name = f"{type(self).__name__}.{method.__name__}"
        result: T = self.ranks.first(lambda: method(self, *args, **kwargs), name)
        return result

    return cast(Callable[Concatenate[S, P], T], run)


def differing(ranks: Any, values: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the names of arrays whose bytes are not the same on all ranks, or not there.

    Args:
        ranks: The coordinator.
        values: This rank's.
    """
    own = {name: xxhash.xxh3_128_digest(value.tobytes()) for name, value in values.items()}
    whole = xxhash.xxh3_128_digest(repr(sorted(own.items())).encode())
    if len(set(ranks.gather(whole, "digest of all variables"))) == 1:
        return []
    first, *others = ranks.gather(own, "digests of variables")
    names = set(first).union(*others)
    return sorted(n for n in names if any(other.get(n) != first.get(n) for other in others))
