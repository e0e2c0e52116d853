"""One save of a model to one file, on whatever thread."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from keras_ratchet._engine.saving.model_file import FrozenFile, save_error, write_file
from keras_ratchet._storage.earlier_runs import set_aside
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.errors import SaveError

_log = logging.getLogger("keras_ratchet")

# Up to here a file is written in about the time that two steps of a small model take, 10 ms; a
# thread would save nothing, and scripts that look for the file in the same hook find it.
BLINK_BYTES = 4_000_000


def is_beside(background: bool | None, size_bytes: int) -> bool:
    """Say whether a save is written beside training.

    Args:
        background: What the user wants; None for what is best.
        size_bytes: About how much is written.
    """
    return size_bytes > BLINK_BYTES if background is None else background


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of a save.

    Attributes:
        path: The file.
        bad_weight: Path of a weight that is not finite, if that is why it was not saved.
        error: Why it could not be saved, or (if it was) why older files could not be dropped.
        committed: Whether the file is there.
        seconds: How long that took.
    """

    path: str
    bad_weight: str | None = None
    error: SaveError | None = None
    committed: bool = False
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.committed

    def __str__(self) -> str:
        if self.bad_weight is not None:
            return f"weight {self.bad_weight!r} is not finite"
        return str(self.error or f"{self.path!r} depends on a save that has failed")


class FileSave:
    """One save of a model to a file: taken apart on the training thread, written on any.

    Args:
        frozen: The model.
        path: The file.
        facts: The manifest but for its files.
        best_only: Whether it is saved as the best; weights that are not finite never are.
        keeps_others: Whether a file of another run is kept under another name.
        size_bytes: About how large the file will be.
        note: Adds a line to the journal.
        retain: Drops what no rule keeps; returns what went wrong.
        held_s: How long it took to take the model apart, in seconds.
        in_line: Whether training waits for the writing, too.
    """

    def __init__(
        self,
        frozen: FrozenFile,
        path: str,
        facts: Manifest,
        *,
        best_only: bool,
        keeps_others: bool,
        size_bytes: int,
        note: Callable[..., None],
        retain: Callable[[], SaveError | None],
        held_s: float,
        in_line: bool,
    ) -> None:
        self._frozen: FrozenFile | None = frozen
        self._path = path
        self._facts = facts
        self._best_only = best_only
        self._keeps_others = keeps_others
        self._size_bytes = size_bytes
        self._note = note
        self._retain = retain
        self._checked = threading.Event()
        self._bad_weight: str | None = None
        self._held_s = held_s
        self._in_line = in_line

    def accepted(self) -> bool:
        """Wait for the look at the weights; say whether they will be saved."""
        self._checked.wait()
        return self._bad_weight is None

    def run(self) -> Saved:
        """Write the file; return what became of it."""
        frozen, self._frozen = self._frozen, None
        assert frozen is not None
        started = time.perf_counter()
        try:
            self._bad_weight = self._refused(frozen)
        finally:
            self._checked.set()
        if self._bad_weight is not None:
            return Saved(self._path, self._bad_weight)
        try:
            manifest = write_file(frozen, self._path, self._facts, self._size_bytes, self._make_way)
        except OSError as error:
            self._note("save_error", name=os.path.basename(self._path), problem=str(error))
            return Saved(self._path, error=caused(save_error(error, self._path), error))
        seconds = time.perf_counter() - started
        self._tell(manifest, seconds)
        return Saved(self._path, None, self._retain(), True, seconds)

    def _refused(self, frozen: FrozenFile) -> str | None:
        if self._best_only or os.path.exists(self._path):
            return frozen.not_finite()
        return None

    def _make_way(self, path: str) -> None:
        """Keep what another run has saved, just before this save takes its place."""
        kept = set_aside(path, self._facts.run) if self._keeps_others else None
        if kept is not None:
            reason = f"{os.path.basename(path)} of an earlier run, kept under this name"
            self._note("aside", name=os.path.basename(kept), reason=reason)
            _log.info("kept the file of an earlier run as %s", kept)

    def _tell(self, manifest: Manifest, written_s: float) -> None:
        facts = self._facts
        self._note(
            "save",
            name=os.path.basename(self._path),
            reason=facts.reason,
            epoch=facts.position.epoch,
            batch=facts.position.batch,
            metrics=dict(facts.metrics),
            ranking=facts.ranking,
            bytes=sum(record.bytes for record in manifest.files.values()),
            blocked_s=round(self._held_s + self._in_line * written_s, 4),
            written_s=round(written_s, 4),
        )
        _log.info("saved %s: %s", self._path, facts.reason)


def caused(error: SaveError, cause: OSError) -> SaveError:
    """Return an error with what has caused it, and with its traceback."""
    error.__cause__ = cause
    return error.with_traceback(cause.__traceback__)
