"""A list of checkpoints that notebooks show as a table."""

from __future__ import annotations

from typing import SupportsIndex, overload

from keras_ratchet import _html
from keras_ratchet.types import CheckpointInfo


class CheckpointList(list[CheckpointInfo]):
    """A list of checkpoints; a slice of it is one, too."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> CheckpointInfo: ...

    @overload
    def __getitem__(self, index: slice, /) -> CheckpointList: ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> CheckpointInfo | CheckpointList:
        if isinstance(index, slice):
            return CheckpointList(super().__getitem__(index))
        return super().__getitem__(index)

    def _repr_html_(self) -> str:
        return _html.checkpoints(self)
