"""What the user is told about saves and deletions, and adds to what is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from keras_ratchet._engine.saving.background import Saved
from keras_ratchet._storage import metadata as stored
from keras_ratchet._storage.listing import described
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import CheckpointInfo

Listener = Callable[[CheckpointInfo], object]
Metadata = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


class Events:
    """Calls the functions of the user of a callback that saves.

    A save runs on any thread, so its outcome only carries what there is to tell; `deliver` calls
    the functions, on the training thread and on rank 0. By then the files are what they are: an
    error in a function ends the training, and costs no file. Likewise, an error in the function
    `metadata` is raised only once the checkpoint is saved, without metadata.

    Args:
        on_saved: Called after each commit.
        on_deleted: Called after each deletion.
        metadata: What is stored in manifests, or a function that returns it.

    Raises:
        ConfigError: If one of them is no function, or the metadata no plain data.
    """

    def __init__(
        self,
        on_saved: Listener | None = None,
        on_deleted: Listener | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        for name, listener in (("on_saved", on_saved), ("on_deleted", on_deleted)):
            if listener is not None and not callable(listener):
                raise ConfigError(
                    f"{name} must be a function of one argument, a CheckpointInfo. "
                    f"Got: {listener!r}.",
                    see="on-saved",
                )
        self._on_saved = on_saved
        self._on_deleted = on_deleted
        has_none = metadata is None or callable(metadata)
        self._metadata = metadata if has_none else stored.checked(metadata)
        self._problem: Exception | None = None  # of the function `metadata`

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, which have nothing to tell."""
        return {**vars(self), "_problem": None}

    def metadata(self) -> Mapping[str, Any]:
        """Return what goes into the manifest of a save; the user's function is called here."""
        if not callable(self._metadata):
            return self._metadata or {}
        try:
            return stored.checked(self._metadata())
        except Exception as error:
            self._problem = error
            return {}

    @property
    def hears_of_deletions(self) -> bool:
        """Whether anybody is told of what is deleted."""
        return self._on_deleted is not None

    def tell(
        self, saved: Saved, manifest: Manifest | None, deleted: Iterable[CheckpointInfo]
    ) -> Saved:
        """Return an outcome with what `deliver` has to tell about it, if anybody listens.

        Args:
            saved: The outcome.
            manifest: Of what was committed, if anything was.
            deleted: What was deleted then.
        """
        if self._on_saved is None and self._on_deleted is None and self._problem is None:
            return saved
        info = None if manifest is None else described(saved.path, manifest)
        return replace(saved, info=info, deleted=tuple(deleted))

    def deliver(self, saved: Saved | None, ranks: Any) -> None:
        """Call the user's functions about an outcome; all ranks call this.

        Args:
            saved: The outcome, if there is one.
            ranks: The coordinator.

        Raises:
            Exception: What a function of the user's has raised.
        """
        if saved is None or (saved.info is None and not saved.deleted):
            return
        calls: list[tuple[Listener, CheckpointInfo]] = []
        if self._on_saved is not None and saved.info is not None:
            calls.append((self._on_saved, saved.info))
        if self._on_deleted is not None:
            calls += [(self._on_deleted, info) for info in saved.deleted]
        try:
            ranks.first(lambda: self._call(calls), "tell of what was saved")
        except Exception as error:
            if saved.error is not None:
                error.add_note(f"besides, {saved.error}")
            raise

    def _call(self, calls: Iterable[tuple[Listener, CheckpointInfo]]) -> None:
        """Make all calls, whatever one of them raises; then raise that."""
        problem, self._problem = self._problem, None
        for listener, info in calls:
            try:
                listener(info)
            except Exception as error:
                if problem is not None:
                    error.add_note(f"besides, {problem!r}")
                problem = error
        if problem is not None:
            raise problem
