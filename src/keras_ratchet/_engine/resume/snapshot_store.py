"""The snapshots of one run: saved, found again, and deleted when there are newer ones."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_ratchet._distributed.agreement import on_first_rank
from keras_ratchet._distributed.one import One
from keras_ratchet._engine.capture.variable_buffers import VariableBuffers
from keras_ratchet._engine.resume import snapshot_paths
from keras_ratchet._engine.resume.drift import DriftWatch
from keras_ratchet._engine.resume.shared_directory import is_shared
from keras_ratchet._engine.resume.sliced_save import Opened, SlicedSave, has_split
from keras_ratchet._engine.resume.snapshot_paths import candidates, newest_first, read_state
from keras_ratchet._engine.resume.snapshot_save import SnapshotSave
from keras_ratchet._engine.resume.train_state import TrainState
from keras_ratchet._engine.resume.unchanged_arrays import Looked, UnchangedArrays
from keras_ratchet._engine.saving.background import (
    BackgroundWriter,
    Saved,
    discard_jobs,
    drain,
    open_jobs,
    runs_in_background,
)
from keras_ratchet._engine.saving.events import Events
from keras_ratchet._engine.saving.locked_directory import LockedDirectory
from keras_ratchet._engine.saving.model_file import save_error
from keras_ratchet._engine.saving.no_mirror import NoMirror
from keras_ratchet._engine.saving.provenance import manifest_for, save_time, state_bytes
from keras_ratchet._keras.anatomy import one_walk
from keras_ratchet._storage import atomic, branching, disk, single_file, snapshot_directory
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.verify import verify
from keras_ratchet._warn import warn
from keras_ratchet.errors import CorruptError
from keras_ratchet.types import CheckpointInfo, Model, Position

_log = logging.getLogger("keras_ratchet")


@dataclass
class SnapshotStore:
    """The snapshot directories of one run.

    Args:
        directory: Where they are.
        keep: How many are kept, at least 1.
        background: Whether they are written in the background; None for large ones.
        mirror: The store to which they go.
        events: What the user is told of it.

    Attributes:
        writer: Runs the saves that are written in the background.
        buffers: Captures the variables of a model.
        branch: The one that the run is on, "" for none; snapshots of others are left alone. None
            for all, before the run has started.
    """

    directory: str
    keep: int
    background: bool | None = None
    mirror: NoMirror = field(default_factory=NoMirror)
    events: Events = field(default_factory=Events)
    branch: str | None = field(default=None, init=False)
    writer: BackgroundWriter = field(default_factory=BackgroundWriter, init=False)
    buffers: VariableBuffers = field(default_factory=VariableBuffers, init=False)
    ranks: Any = field(default_factory=One, init=False)
    _shared: bool = field(default=True, init=False)  # whether all ranks see the directory
    _drift: DriftWatch = field(default_factory=DriftWatch, init=False)
    _sliced: SlicedSave = field(default_factory=SlicedSave, init=False)
    _unchanged: UnchangedArrays = field(default_factory=UnchangedArrays, init=False)

    def __post_init__(self) -> None:
        self._place = self._make_place()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, without what belongs to a run."""
        return {
            **vars(self),
            "writer": BackgroundWriter(),
            "buffers": VariableBuffers(),
            "ranks": One(),
            "_sliced": SlicedSave(),
            "_unchanged": UnchangedArrays(),
        }

    def join(self, ranks: Any) -> None:
        """Belong to one of several processes; rank 0 is the one that writes."""
        self.ranks = self.writer.ranks = self._sliced.ranks = ranks

    def _make_place(self) -> LockedDirectory:
        return LockedDirectory(self.directory, "", f"backup directory {self.shown_directory!r}")

    @property
    def shown_directory(self) -> str:
        """The directory as the user knows it."""
        return self.mirror.shown(self.directory)

    @property
    def locked(self) -> bool:
        """Whether the store holds the lock of its directory."""
        return self._place.locked

    def start(self, model: Model) -> None:
        """Make the directory, take its lock, and clean up after a crash.

        Args:
            model: The model in training.

        Raises:
            SaveError: If nothing can be written there.
            LockedError: If another process trains with this directory.
        """
        self._drift.start()
        self._unchanged = UnchangedArrays()
        # training may change where it is
        self.directory = os.path.abspath(self.mirror.relocated(self.directory))
        self._start(model)
        if self.ranks.world_size > 1:
            # other hosts than rank 0's can read from the store, but not write their slices to it
            must = not self.mirror.is_cache or has_split(model)
            self._shared = is_shared(self.directory, self.ranks, must=must)

    @on_first_rank
    def _start(self, model: Model) -> None:
        try:
            disk.make_directories(os.path.join(self.directory, single_file.METADATA))
            atomic.probe(self.directory)
        except OSError as error:
            raise save_error(error, self.directory) from error
        if not self._place.locked:
            self._place = self._make_place()
            self._place.lock()
        discard_jobs(model)
        for path in snapshot_directory.sweep_snapshots(self.directory):
            _log.info("removed leftovers of a crash: %s", path)
        try:
            self.mirror.start(self.directory, "", self.note)
            if self.ranks.world_size > 1:  # which may not see this disk
                self.mirror.push_now()
            self.mirror.upload_pending(self.writer, model)
            infos = self.infos()
            self.branch = infos[-1].run if infos else ""
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Release the lock and free memory; each rank may call it at any time."""
        self.buffers.free()
        self._unchanged.release()
        self.mirror.end()
        self._place.unlock()

    def list_paths(self) -> list[str]:
        """Return the paths of the snapshots, newest first; some may be on the store only."""
        return newest_first(self.directory, self.mirror, self.branch)

    def infos(self) -> list[CheckpointInfo]:
        """Return what is known about the snapshots of all branches, oldest first."""
        return snapshot_paths.infos(self.directory, self.mirror)

    def time(self) -> float:
        """Return the time now, in seconds: after that of the newest snapshot."""
        return save_time(info.saved_at for info in self.infos())

    def free_name(self, position: Position, finished: bool) -> str:
        """Return a name for a new snapshot."""
        base = branching.snapshot_name(position, finished)
        name, number = base, 1
        while os.path.lexists(os.path.join(self.directory, name)) or self.mirror.has(name):
            number += 1
            name = f"{base}-{number}"
        return name

    def file(self, back: int, name: str) -> str:
        """Return the path of a file in the newest snapshot (0) or in one further back."""
        paths = self.list_paths()
        return os.path.join(paths[back] if back < len(paths) else self.directory, name)

    def runs_in_background(self, model: Model) -> bool:
        """Return whether a save of this model runs in the background.

        Other ranks than 0 write nothing but slices.
        """
        if self.ranks.rank and not has_split(model):
            return False
        return runs_in_background(self.background, state_bytes(model))

    def look(self, named: Mapping[str, Any]) -> Looked:
        """Return what of a model's variables has to be captured for a snapshot.

        Ranks compare their whole states, so in several processes everything is captured.
        """
        return self._unchanged.look(named, captures_all=self.ranks.world_size > 1)

    @one_walk()
    def save(self, model: Model, state: TrainState, reason: str, blocked_s: float) -> Saved | None:
        """Write a snapshot, here or in the background, then delete those beyond `keep`.

        It is written after all saves that were started before. If one of these fails, the snapshot
        is skipped, because its state refers to that save.

        Args:
            model: The model.
            state: Its state, which does not change any more.
            reason: Why it is saved.
            blocked_s: How long that has taken up to now, in seconds.

        Returns:
            The outcome; None if the save runs in the background: `writer` then returns it.
        """
        if self.ranks.world_size > 1:
            joined = state.join(self.ranks)
            step = state.position.epoch or state.position.batch
            self._drift.look(self.ranks, joined.digests, state.alike, bool(step))
        if state.slices and (problem := self._sliced.begin(self._open_draft, model, state)):
            return problem
        return self._save(model, state, reason, blocked_s)

    @on_first_rank
    def _open_draft(self, model: Model, state: TrainState) -> Opened | Saved:
        """Make the directory into which all ranks write."""
        name = self.free_name(state.position, bool(state.finished))
        try:
            disk.make_directories(self.directory)
            self._sliced.draft = snapshot_directory.SnapshotDraft(self.directory, name)
        except OSError as error:
            return self._place.failed(os.path.join(self.directory, name), error)
        return Opened(self._sliced.draft.path, self.runs_in_background(model))

    @on_first_rank
    def _save(self, model: Model, state: TrainState, reason: str, blocked_s: float) -> Saved | None:
        self._place.restore()
        save = SnapshotSave(
            state,
            self._manifest(model, state, reason),
            open_jobs(model),
            time.perf_counter() - blocked_s,
            blocked_s,
            self._sliced.take_draft(),
        )
        if runs_in_background(self.background, state_bytes(model)):
            self.writer.start(lambda: self._write(save, model), model)
            return None
        drain()
        return self._write(save, model, blocks=True)

    def _write(self, save: SnapshotSave, model: Model, blocks: bool = False) -> Saved:
        """Write a snapshot, on any thread."""
        name = (
            self.free_name(save.state.position, bool(save.state.finished))
            if save.draft is None
            else save.draft.name
        )
        path = os.path.join(self.directory, name)
        if any(job.failed for job in save.earlier):
            self.note("skip", name=name, reason="a save that it depends on has failed")
            if save.draft is not None:
                save.draft.discard()
            return Saved(path)
        manifest, deleted = None, list[CheckpointInfo]()
        try:
            save.state.materialize()
            disk.make_directories(self.directory)
            manifest, reused = save.write(self.directory, name, self._unchanged, self.ranks)
            self._apply_keep(bool(save.state.finished), deleted)
        except OSError as error:
            return self.events.tell(self._place.failed(path, error), manifest, deleted)
        except Exception as error:
            return Saved(path, error=error)
        took_s = time.perf_counter() - save.started_s
        more = {"reused_bytes": reused} if reused else {}
        blocked_s = took_s if blocks else save.blocked_s
        self._place.note_saved(name, manifest, blocked_s, took_s, **more)
        self.mirror.upload(self.writer, model, path)
        return self.events.tell(Saved(path, committed=True, duration_s=took_s), manifest, deleted)

    def _apply_keep(self, finished: bool, deleted: list[CheckpointInfo]) -> None:
        # a run cannot resume from its finished state if there are more epochs: keep one more
        for path in self.list_paths()[self.keep + finished :]:
            if self.mirror.is_putting(path):  # the next time
                continue
            self._delete(path, deleted)
            self.note("drop", name=os.path.basename(path), reason=f"keep={self.keep}")

    def _delete(self, path: str, deleted: list[CheckpointInfo]) -> None:
        infos = self.infos() if self.events.hears_of_deletions else ()
        self.mirror.drop(os.path.basename(path))
        if os.path.lexists(path):
            snapshot_directory.delete_snapshot(path)
        deleted += [info for info in infos if info.path == path]

    @on_first_rank
    def wait_for_upload(self, limit_s: float) -> str:
        """Wait until what was saved is on the store; return what to say if it is not, else "".

        Args:
            limit_s: How many seconds are left. If it takes longer, at the speed of the uploads
                before, nothing is waited for.
        """
        return self.mirror.wait(self.writer, limit_s)

    def newest(self, fits: Callable[[TrainState], bool]) -> tuple[TrainState, str] | None:
        """Return the newest state that verifies and fits, with its path, or None.

        Raises:
            CorruptError: If there are snapshots and none of them verifies.
        """
        found: list[TrainState] = []
        path = self._newest(fits, found)
        if path is None:
            return None
        rank = self.ranks.rank
        state = (
            found[0]
            if found
            else self.ranks.together(
                lambda: read_state(path if self._shared else self.mirror.ensure(path), rank),
                "read the snapshot",
            )
        )
        return state, path

    @on_first_rank
    def _newest(self, fits: Callable[[TrainState], bool], found: list[TrainState]) -> str | None:
        problems: list[str] = []
        for path in candidates(self.directory, self.mirror, self.branch):
            try:
                self.mirror.ensure(path)
            except CorruptError as error:
                problems.append(str(error))
                continue
            outcome = verify(path)
            if not outcome:
                problems.append(f"{path!r} is damaged: {outcome.problem}.")
                continue
            state = read_state(path)
            if not fits(state):
                continue
            if problems:
                warn(f"{' '.join(problems)} Resuming from {path!r} instead.")
            self._unchanged.resume_from(path, state.unchanged, state.variables)
            if self.ranks.world_size == 1:
                found.append(state)
            return path
        if problems:
            raise CorruptError(
                f"No snapshot in {self.shown_directory!r} verifies. "
                f"{' '.join(problems)} To start "
                "from scratch, delete the directory or use another one."
            )
        return None

    @on_first_rank
    def clear(self) -> Saved:
        """Delete our snapshots, journal and lock, and the directory if it is then empty.

        If there are snapshots of other branches, those and the journal stay.

        Returns:
            What was deleted.
        """
        own, infos = self.list_paths(), self.infos()
        others = snapshot_paths.others(self.directory, self.mirror, own)
        gone = Saved(self.directory, deleted=tuple(i for i in infos if i.path in own))
        self.mirror.clear([os.path.basename(path) for path in own] if others else None)
        for path in filter(os.path.lexists, own):
            snapshot_directory.delete_snapshot(path)
        self.end()
        if others:
            _log.warning("%s stay in %s: they are of another branch", others, self.shown_directory)
            return gone
        self._place.remove()
        return gone

    def note(self, event: str, **fields: Any) -> None:
        """Add a line to the journal."""
        if self.ranks.rank == 0:
            self._place.note(event, **fields)

    def _manifest(self, model: Model, state: TrainState, reason: str) -> Manifest:
        """Return a manifest without its files."""
        return manifest_for(
            model,
            state.position,
            state.logs,
            reason,
            self.time(),
            run=self.branch or "",
            metadata=self.events.metadata(),
        )
