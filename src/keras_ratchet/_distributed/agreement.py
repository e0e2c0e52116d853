"""Methods that run on rank 0 only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

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
    summary = (method.__doc__ or method.__name__).splitlines()[0].rstrip(".")
    what = summary[:1].lower() + summary[1:]  # for messages

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.ranks.world_size == 1:
            return method(self, *args, **kwargs)
        result: T = self.ranks.first(lambda: method(self, *args, **kwargs), what)
        return result

    return cast(Callable[Concatenate[S, P], T], run)
