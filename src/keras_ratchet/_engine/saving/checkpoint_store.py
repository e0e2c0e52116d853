"""The files of one ModelCheckpoint: one path, or all that a template gives."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_ratchet._engine.saving.background import BackgroundWriter, begin_anew, without_run
from keras_ratchet._engine.saving.file_save import FileSave, Saved, caused, is_beside
from keras_ratchet._engine.saving.model_file import (
    ModelSaver,
    check_target,
    deleted_message,
    save_error,
)
from keras_ratchet._engine.saving.provenance import (
    fingerprint,
    save_time,
    source_of,
    state_bytes,
    versions,
)
from keras_ratchet._engine.saving.rehearsal import rehearse
from keras_ratchet._storage import journal, single_file, space
from keras_ratchet._storage.catalog import Catalog
from keras_ratchet._storage.deletion import delete_unless_changed
from keras_ratchet._storage.earlier_runs import original_name
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.verify import verify
from keras_ratchet._warn import warn
from keras_ratchet.errors import SaveError
from keras_ratchet.policy import naming
from keras_ratchet.policy.retention import Ranking, Retention, plan
from keras_ratchet.types import CheckpointInfo, Position

_log = logging.getLogger("keras_ratchet")


@dataclass(slots=True)
class CheckpointStore:
    """Saves the files of one template, keeps those it should, and remembers what is best.

    Args:
        template: The file path; placeholders stand in its last part where retention is used.
        retention: Which files stay, or None for all.
        ranking: What is best.
        whole: Whether the files hold the whole model whatever their suffix says.
        background: Whether files are written beside training; None for those that take longer
            than a blink.

    Attributes:
        run: The run that the files are saved for. What others saved under this template neither
            competes with them nor is deleted.
    """

    template: str
    retention: Retention | None
    ranking: Ranking
    whole: bool = False
    background: bool | None = None
    run: str = field(default="", init=False)
    writer: BackgroundWriter = field(default_factory=BackgroundWriter, init=False)
    saver: ModelSaver = field(init=False)
    _save: FileSave | None = field(default=None, init=False)
    _lock: FileLock | None = field(default=None, init=False)
    _failures: set[str] = field(default_factory=set, init=False)
    _resumed_from: str | None = field(default=None, init=False)
    _newest_s: float = field(default=0.0, init=False)
    _catalog: Catalog = field(default_factory=Catalog, init=False)

    def __post_init__(self) -> None:
        self.saver = ModelSaver(self.whole)

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """Leave out, in copies and pickles, what belongs to a run: the lock, the thread, memory."""
        return None, without_run(self, writer=BackgroundWriter(), saver=ModelSaver(self.whole))

    @property
    def name(self) -> str:
        """The template's last part, which its manifests carry."""
        return os.path.basename(self.template)

    @property
    def directory(self) -> str:
        """The directory above the first placeholder."""
        path, fixed = naming.head(self.template)
        if fixed and os.path.islink(path):
            path = os.path.realpath(path)  # what it leads to is what is saved
        return os.path.abspath(os.path.dirname(path))

    def begin(self, model: Any) -> None:
        """Check that saving can work, take the lock, and clean up after a crash.

        Raises:
            SaveError: If nothing can be written there.
            LockedError: If another process saves under this template.
        """
        if not os.path.isabs(self.template):  # training may change the working directory
            self.template = os.path.join(naming.escaped(os.getcwd()), self.template)
        check_target(*naming.head(self.template))
        rehearse(model, self.template, self.whole)
        self._failures.clear()
        if self._lock is None:
            path = single_file.series_lock_path(self.directory, self.name)
            lock = FileLock(path, f"checkpoint {self.template!r}")
            lock.acquire()
            self._lock = lock
        begin_anew(model)
        self.saver.watch.begin(model)
        for path in single_file.sweep(self.directory, self._is_ours):
            _log.info("removed leftovers of a crash: %s", path)
        self._resumed_from = self._own_name(source_of(model))
        self._newest_s = max((s.saved_at for s in self.snapshots()), default=0.0)
        if message := space.warning(self.directory, state_bytes(model)):
            warn(message)

    def _own_name(self, path: str | None) -> str | None:
        """Return the name of a file in this series' directory, None for others."""
        directory, name = os.path.split(path or "")
        return name if directory == os.path.realpath(self.directory) else None

    def end(self) -> None:
        """Give the lock, and memory, back; no save is under way any more."""
        self.saver.free()
        self._save = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def best(self) -> CheckpointInfo | None:
        """Return the best of the files that are there, as its manifest tells; None if unknown.

        A file whose bytes are not those that were saved does not count.
        """
        found = [s for s in self.own() if s.ranking[:1] == self.ranking.metrics[:1]]
        for snapshot in self.ranking.sort(found):
            if verify(snapshot.path):
                return snapshot
            _log.warning("%s does not verify, so it does not count as best", snapshot.path)
        return None

    def snapshots(self) -> list[CheckpointInfo]:
        """Return the records of this series' files, oldest first."""
        return [s for s in self._catalog.files(self.directory) if s.series == self.name]

    def own(self) -> list[CheckpointInfo]:
        """Return the records of those that this run has saved, before a resume too."""
        return [s for s in self.snapshots() if s.run == self.run]

    def save(
        self,
        model: Any,
        path: str,
        facts: Manifest,
        *,
        best_only: bool,
        keeps_others: bool,
        done: Callable[[Saved], None],
        crashed: Callable[[], None],
    ) -> None:
        """Save one file, now or beside training, then drop those that no rule keeps.

        Weights that are not finite are saved neither as best nor over an older file.

        Args:
            model: The model.
            path: The file.
            facts: The manifest but for its files.
            best_only: Whether it is saved as the best.
            keeps_others: Whether a file of another run is kept under another name.
            done: Gets what became of it; in line at once, else when it is collected.
            crashed: Called before an exception that is not the disk's is raised.
        """
        self._keep_place()
        started = time.perf_counter()
        size_bytes = state_bytes(model)
        aside = is_beside(self.background, size_bytes)
        try:
            frozen = self.saver.freeze(model, path, lasting=aside)
        except OSError as error:  # a layer that saves in its own way may go to the disk for it
            self.note("save_error", name=os.path.basename(path), problem=str(error))
            done(Saved(path, error=caused(save_error(error, path), error)))
            return
        if aside and frozen.in_line_only:
            self._say_in_line(model)
        in_line = not aside or frozen.in_line_only
        save = FileSave(
            frozen,
            path,
            facts,
            best_only=best_only,
            keeps_others=keeps_others,
            size_bytes=size_bytes,
            note=self.note,
            retain=self.retain,
            held_s=time.perf_counter() - started,
            in_line=in_line,
        )
        self._save = save
        self.writer.submit(save.run, done, model=model, in_line=in_line, crashed=crashed)

    def _keep_place(self) -> None:
        """Make the directory anew, and lock it, if somebody has deleted it."""
        if self._lock is not None and self._lock.renew():
            warn(deleted_message(self.directory))

    def will_save(self) -> bool:
        """Wait until it is certain whether the save that is under way is one; say so."""
        if self._save is not None and self.writer.busy:
            return self._save.accepted()
        return True

    def _say_in_line(self, model: Any) -> None:
        if "in line" not in self._failures:
            self._failures.add("in line")
            _log.warning(
                "%s has its own save method, so it is saved in the hook: training waits",
                type(model).__name__,
            )

    def facts(
        self, model: Any, position: Position, metrics: Mapping[str, float], reason: str
    ) -> Manifest:
        """Return a manifest without its files."""
        self._newest_s = save_time([self._newest_s])
        return Manifest(
            files={},
            position=position,
            metrics=dict(metrics),
            ranking=self.ranking.metrics,
            reason=reason,
            series=self.name,
            run=self.run,
            saved_at=self._newest_s,
            versions=versions(),
            fingerprint=fingerprint(model),
        )

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the journal."""
        journal.append(self.directory, event, series=self.name, **facts)

    def note_stops(self, callbacks: Iterable[Any]) -> None:
        """Note why callbacks have stopped training."""
        for stop in filter(None, (getattr(c, "stop_reason", None) for c in callbacks)):
            self.note("stop", reason=str(stop), kind="+".join(stop.kinds), epoch=stop.epoch + 1)

    def forgive(self, error: SaveError) -> None:
        """Warn of a failed save, once for each kind of failure."""
        kind = f"{error.errno}"
        if kind not in self._failures:
            self._failures.add(kind)
            warn(f"{error} Training continues; the next save tries again.")

    def retain(self) -> SaveError | None:
        """Drop the files that no rule keeps; return what went wrong."""
        if self.retention is None:
            return None
        decisions = plan(self.own(), self.retention, self.ranking, time.time(), self._resumed_from)
        for decision in decisions:
            if decision.keep:
                continue
            try:
                self._drop(decision.snapshot, decision.reason)
            except OSError as error:
                what = f"saved, but could not delete {decision.snapshot.path!r}"
                return caused(SaveError(error.errno, f"{what}: {error.strerror}"), error)
        return None

    def _drop(self, snapshot: CheckpointInfo, reason: str) -> None:
        """Delete a file, unless somebody has changed it since we wrote it."""
        if not delete_unless_changed(snapshot):
            _log.warning("%s has changed since it was saved, so it is not deleted", snapshot.path)
            return
        self.note("drop", name=snapshot.name, reason=reason, epoch=snapshot.position.epoch)
        _log.info("deleted %s: %s", snapshot.path, reason)

    def _is_ours(self, name: str) -> bool:
        """Say whether a file name may come from this template."""
        return naming.may_be(self.name, name) or naming.may_be(self.name, original_name(name))
