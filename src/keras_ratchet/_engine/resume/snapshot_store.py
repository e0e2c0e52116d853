"""The snapshots of one training: saved, found again, and cleaned up."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from keras_ratchet._engine.capture.variable_buffers import VariableBuffers
from keras_ratchet._engine.resume.train_state import TrainState
from keras_ratchet._engine.saving.background import (
    BackgroundWriter,
    begin_anew,
    open_jobs,
    without_run,
)
from keras_ratchet._engine.saving.file_save import Saved, caused, is_beside
from keras_ratchet._engine.saving.model_file import deleted_message, save_error
from keras_ratchet._engine.saving.provenance import fingerprint, save_time, state_bytes, versions
from keras_ratchet._formats.safetensors import read_arrays, write_arrays
from keras_ratchet._storage import disk, journal, single_file, snapshot_directory, space
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.verify import verify
from keras_ratchet._warn import warn
from keras_ratchet.errors import CorruptError, LoadError

ARRAYS = "state.safetensors"
DATA = "state.json"
_MAX_DATA_BYTES = 1 << 30
Done = Callable[[Saved], None]
_log = logging.getLogger("keras_ratchet")


@dataclass(slots=True)
class SnapshotStore:
    """The snapshot directories of one training.

    Args:
        directory: Where they are.
        keep: How many are kept, at least 1.
        background: Whether they are written beside training; None for those that take longer
            than a blink.
    """

    directory: str
    keep: int
    background: bool | None = None
    writer: BackgroundWriter = field(default_factory=BackgroundWriter, init=False)
    holder: VariableBuffers = field(default_factory=VariableBuffers, init=False)
    _lock: FileLock | None = field(default=None, init=False)

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """Leave out, in copies and pickles, what belongs to a run: the lock, the thread, memory."""
        return None, without_run(self, writer=BackgroundWriter(), holder=VariableBuffers())

    def begin(self, model: Any) -> None:
        """Make the directory, take its lock, and clean up after a crash.

        Args:
            model: The model in training.

        Raises:
            SaveError: If nothing can be written there.
            LockedError: If another process trains with this directory.
        """
        self.directory = os.path.abspath(self.directory)  # training may change where we are
        try:
            disk.make_directories(os.path.join(self.directory, single_file.SIDE))
            disk.probe(self.directory)
        except OSError as error:
            raise save_error(error, self.directory) from error
        if self._lock is None:
            path = os.path.join(self.directory, single_file.SIDE, "backup.lock")
            lock = FileLock(path, f"backup directory {self.directory!r}")
            lock.acquire()
            self._lock = lock
        begin_anew(model)
        for path in snapshot_directory.sweep_snapshots(self.directory):
            _log.info("removed leftovers of a crash: %s", path)

    def end(self) -> None:
        """Give lock and memory back."""
        self.holder.free()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def names(self, by_file_time: bool = False) -> list[str]:
        """Return the paths of the snapshots, newest first.

        Args:
            by_file_time: Whether one that does not tell its time goes by its directory's, rather
                than last: it may be the newest, and its damage has to be told.
        """
        found = []
        for _, path in snapshot_directory.snapshots(self.directory):
            try:
                manifest = snapshot_directory.snapshot_manifest(path)
            except LoadError:
                found.append((os.path.getmtime(path) if by_file_time else 0.0, 0, 0, path))
                continue
            position = manifest.position
            found.append((manifest.saved_at, position.epoch, position.batch, path))
        return [path for *_, path in sorted(found, reverse=True)]

    def file(self, back: int, name: str) -> str:
        """Return the path of a file in the newest snapshot (0) or in one further back."""
        paths = self.names()
        return os.path.join(paths[back] if back < len(paths) else self.directory, name)

    def aside(self, model: Any) -> bool:
        """Say whether a save is written beside training."""
        return is_beside(self.background, state_bytes(model))

    def save(
        self,
        model: Any,
        state: TrainState,
        reason: str,
        blocked_s: float,
        done: Done,
    ) -> None:
        """Write a snapshot, now or beside training, then drop those beyond `keep`.

        Snapshots are written after all other saves that were begun before; if one of these
        failed, what the state says of it is not true, and the snapshot is left out.

        Args:
            model: The model.
            state: Its state, which does not change any more.
            reason: Why it is saved.
            blocked_s: How long that has taken up to now, in seconds.
            done: Gets what became of it.
        """
        if self._lock is not None and self._lock.renew():
            warn(deleted_message(self.directory))
        facts = self._facts(model, state, reason)
        needed_bytes, earlier = state_bytes(model), open_jobs(model)
        began = time.perf_counter() - blocked_s
        in_line = not self.aside(model)

        def work() -> Saved:
            name = self._name(state)
            path = os.path.join(self.directory, name)
            if any(job.failed for job in earlier):
                self.note("skip", name=name, reason="a save that it depends on has failed")
                return Saved(path)
            state.settle()
            try:
                disk.make_directories(self.directory)
                space.require(self.directory, needed_bytes)
                manifest = self._write(name, state, facts)
                self._retain(bool(state.finished))
            except OSError as error:
                self.note("save_error", name=name, problem=str(error))
                return Saved(path, error=caused(save_error(error, path), error))
            seconds = time.perf_counter() - began
            self._tell(name, manifest, seconds if in_line else blocked_s, seconds)
            return Saved(path, committed=True, seconds=seconds)

        self.writer.submit(work, done, model=model, in_line=in_line)

    def _retain(self, finished: bool) -> None:
        # a finished state is none to go on from when there are more epochs: keep one that is
        for path in self.names()[self.keep + finished :]:
            snapshot_directory.delete_snapshot(path)
            self.note("drop", name=os.path.basename(path), reason=f"keep={self.keep}")

    def _tell(self, name: str, manifest: Manifest, blocked_s: float, written_s: float) -> None:
        self.note(
            "save",
            name=name,
            reason=manifest.reason,
            epoch=manifest.position.epoch,
            batch=manifest.position.batch,
            bytes=sum(record.bytes for record in manifest.files.values()),
            blocked_s=round(blocked_s, 4),
            written_s=round(written_s, 4),
        )

    def newest(self, fits: Callable[[TrainState], bool]) -> tuple[TrainState, str] | None:
        """Return the newest state that verifies and fits, with its path; None if there is none.

        Raises:
            CorruptError: If there are snapshots and none of them verifies.
        """
        problems: list[str] = []
        for path in self.names(by_file_time=True):
            outcome = verify(path)
            if not outcome:
                problems.append(f"{path!r} is damaged: {outcome.problem}.")
                continue
            state = _read(path)
            if not fits(state):
                continue
            if problems:
                text = f"{' '.join(problems)} Resuming from {path!r} instead."
                warn(text)
            return state, path
        if problems:
            raise CorruptError(
                f"No snapshot in {self.directory!r} verifies. {' '.join(problems)} To start "
                "from scratch, delete the directory or use another one."
            )
        return None

    def clear(self) -> None:
        """Delete our snapshots, journal and lock, and the directory if nothing else is in it."""
        for path in self.names():
            snapshot_directory.delete_snapshot(path)
        self.end()
        disk.remove_side(
            os.path.join(self.directory, single_file.SIDE), ("journal.jsonl", "backup.lock")
        )
        disk.remove_empty(self.directory)

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the journal."""
        journal.append(self.directory, event, **facts)

    def _name(self, state: TrainState) -> str:
        position = state.position
        base = f"epoch-{position.epoch:05d}-batch-{position.batch:07d}"
        base = f"{base}-finished" if state.finished else base
        name, number = base, 1
        while os.path.lexists(os.path.join(self.directory, name)):
            number += 1
            name = f"{base}-{number}"
        return name

    def _write(self, name: str, state: TrainState, facts: Manifest) -> Manifest:
        data, arrays = state.pack()
        text = json.dumps(data, allow_nan=False).encode()
        with snapshot_directory.SnapshotDraft(self.directory, name) as draft:
            draft.write(ARRAYS, lambda file: write_arrays(arrays, file))
            draft.write(DATA, lambda file: _put(file, text))
            return draft.commit(facts)

    def _times(self) -> Iterator[float]:
        for _, path in snapshot_directory.snapshots(self.directory):
            with contextlib.suppress(LoadError):
                yield snapshot_directory.snapshot_manifest(path).saved_at

    def _facts(self, model: Any, state: TrainState, reason: str) -> Manifest:
        return Manifest(
            files={},
            position=state.position,
            metrics=dict(state.logs),
            reason=reason,
            saved_at=save_time(self._times()),
            versions=versions(),
            fingerprint=fingerprint(model),
        )


def _put(file: disk.DraftFile, text: bytes) -> None:
    file.write(text)


def _read(path: str) -> TrainState:
    with open(os.path.join(path, DATA), "rb") as file:
        text = file.read(_MAX_DATA_BYTES)
    return TrainState.unpack(json.loads(text), read_arrays(os.path.join(path, ARRAYS)))
