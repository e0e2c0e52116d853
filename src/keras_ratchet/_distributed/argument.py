"""The argument `coordinator=` of a callback, which copies and pickles keep, if they can."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

from keras_ratchet._distributed import check_coordinator, find
from keras_ratchet.errors import ConfigError

_NO_COPY = (
    "This callback was pickled, which its coordinator cannot be: give the copy one of its own, "
    "coordinator=..., when it is made."
)


class CoordinatorArgument:
    """What was given as `coordinator=`.

    A copy of a callback has the same coordinator. With a pickle it goes along if it can be
    pickled; else the callback that is made of the pickle refuses to train.

    Args:
        given: A coordinator, or None to find one.

    Raises:
        ConfigError: If it is no coordinator.
    """

    def __init__(self, given: Any) -> None:
        if given is not None:
            check_coordinator(given)
        self.given = given
        self._is_lost = False
        self._ours: Any = None

    def __deepcopy__(self, memo: Any) -> CoordinatorArgument:
        """Return this: a coordinator is a connection to others, not data."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make it again, in another process."""
        try:
            pickle.dumps(self.given)
        except Exception:
            return _lost, ()
        return (_lost, ()) if self._is_lost else (CoordinatorArgument, (self.given,))

    def find(self, backend: str) -> Any:
        """Return the coordinator, as one of ours.

        Args:
            backend: Keras's.
        """
        if self._is_lost:
            raise ConfigError(_NO_COPY, see="coordinator")
        if self.given is None:
            return find(backend)
        if int(self.given.world_size) > 1 and self._ours is None:
            from keras_ratchet._distributed.given import adapted  # noqa: PLC0415  one needs none

            self._ours = adapted(self.given)
        return self._ours or find("")


def _lost() -> CoordinatorArgument:
    argument = CoordinatorArgument(None)
    argument._is_lost = True
    return argument


def common(arguments: Iterable[CoordinatorArgument]) -> CoordinatorArgument:
    """Return the argument that counts for a callback list: it is enough to give it once.

    Raises:
        ConfigError: If two callbacks were given different ones.
    """
    every = list(arguments)
    given = [argument for argument in every if argument.given is not None or argument._is_lost]
    for other in given[1:]:
        if other.given is not given[0].given:
            raise ConfigError(
                "The callbacks of one list have different coordinators: "
                f"{given[0].given!r} and {other.given!r}. Give them the same object, or only one "
                "of them.",
                see="coordinator",
            )
    return (given or every)[0]
