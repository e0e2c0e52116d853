"""Where there is no store: what a callback asks of `Mirror`, answered for the local disk alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from keras_ratchet._engine.saving.background import BackgroundWriter
from keras_ratchet._storage.verify import verify
from keras_ratchet.types import CheckpointInfo


class NoMirror:
    """Stands for the store where there is none.

    Attributes:
        url: Where the store is.
        is_cache: Whether the store is what counts, and the local directory its cache.
        last_upload_s: How long the last upload took, in seconds.
    """

    url = ""
    is_cache = False
    last_upload_s = 0.0

    def start(self, directory: str, series: str, note: Callable[..., None]) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def remote_only(self, here: Collection[str]) -> list[CheckpointInfo]:
        """Return nothing."""
        return []

    def noted(self) -> list[dict[str, Any]]:
        """Return nothing."""
        return []

    def note_late(self, event: str, **fields: Any) -> None:
        """Do nothing."""

    def has(self, name: str) -> bool:
        """Return False."""
        return False

    def verifies(self, path: str) -> bool:
        """Return whether a local checkpoint is what was saved."""
        return bool(verify(path))

    def drop(self, name: str) -> None:
        """Do nothing."""

    def ensure(self, path: str) -> str:
        """Return the path."""
        return path

    def upload(
        self, writer: BackgroundWriter, model: Any, path: str, preserves_others: bool = False
    ) -> None:
        """Do nothing."""

    def is_putting(self, path: str) -> bool:
        """Return False."""
        return False

    def upload_pending(self, writer: BackgroundWriter, model: Any) -> None:
        """Do nothing."""

    def relocated(self, path: str, is_template: bool = False) -> str:
        """Return the path."""
        return path

    def push_now(self) -> None:
        """Do nothing."""

    def wait(self, writer: BackgroundWriter, limit_s: float) -> str:
        """Return "": there is nothing to wait for."""
        return ""

    def clear(self, names: Collection[str] | None = None) -> None:
        """Do nothing."""

    def shown(self, path: str) -> str:
        """Return a path as users know it."""
        return path

    def fetched(self, info: CheckpointInfo) -> CheckpointInfo:
        """Return the checkpoint."""
        return info

    def upload_s(self) -> float:
        """Return 0."""
        return 0.0
