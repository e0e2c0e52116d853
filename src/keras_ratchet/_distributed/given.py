"""`coordinator=`: one that the user gives, and how it becomes one of ours."""

from __future__ import annotations

import weakref
from typing import Any

from keras_ratchet._distributed.one import One
from keras_ratchet._distributed.ranks import different_places
from keras_ratchet._distributed.runs import Agreement
from keras_ratchet.errors import RankError


class Given(Agreement):
    """The interface of `Ranks` over a coordinator of the user's.

    It knows neither labels nor ranks that have left. So labels are gathered along with the values:
    ranks at different places are found in any case. How long a rank waits for one that does not
    come is the coordinator's affair, and so is the error that it raises then.

    Args:
        coordinator: The user's.
    """

    def __init__(self, coordinator: Any) -> None:
        super().__init__(int(coordinator.rank), int(coordinator.world_size))
        self._coordinator = coordinator

    def _exchange(self, number: tuple[int, int], what: str, data: bytes) -> list[bytes]:
        try:
            found = [tuple(entry) for entry in self._coordinator.gather((what, data))]
        except Exception as error:
            kind = type(self._coordinator).__name__
            raise RankError(
                f"{kind}.gather has failed on rank {self.rank}, at {what!r}: {error!r}",
                see="coordinator",
            ) from error
        if len(found) != self.world_size:
            raise RankError(
                f"{type(self._coordinator).__name__}.gather must return one value for each of "
                f"{self.world_size} ranks. Got: {len(found)} at {what!r}.",
                see="coordinator",
            )
        if len({label for label, _ in found}) > 1:
            raise RankError(different_places([label for label, _ in found]))
        return [given for _, given in found]


_adapted: weakref.WeakValueDictionary[int, Agreement] = weakref.WeakValueDictionary()


def adapted(coordinator: Any) -> Any:
    """Return a coordinator of ours for one that was given; always the same for the same one."""
    if isinstance(coordinator, Agreement | One):
        return coordinator
    if int(coordinator.world_size) == 1:
        return One()
    found = _adapted.get(id(coordinator))
    if found is None:
        found = _adapted[id(coordinator)] = Given(coordinator)
    return found
