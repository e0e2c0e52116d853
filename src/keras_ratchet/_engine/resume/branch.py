"""`resume_from=`: a run that goes on from a snapshot that the user has chosen.

The first start copies the snapshot into the directory, and the run resumes from the copy as from
any other. A later start finds snapshots of this branch, and resumes from the newest of them.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from keras_ratchet._engine.resume.comparison import is_first_stage
from keras_ratchet._engine.resume.snapshot_paths import unreadable
from keras_ratchet._engine.resume.snapshot_store import SnapshotStore
from keras_ratchet._engine.saving.model_file import save_error
from keras_ratchet._storage import anywhere
from keras_ratchet._storage.branching import (
    branch_name,
    copy_snapshot,
    is_finished,
    key_of,
    snapshot_at,
)
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.snapshot_directory import snapshot_manifest
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError, CorruptError, LoadError, ResumeError
from keras_ratchet.policy.retention import Ranking
from keras_ratchet.types import CheckpointInfo, Model

BEST = "best"
_log = logging.getLogger("keras_ratchet")
# of the fits of this process, by model and directory: a fit may delete the snapshots of its branch
_branches: weakref.WeakKeyDictionary[Any, dict[str, str | None]] = weakref.WeakKeyDictionary()


class Branch:
    """The branch that a run is on, if `resume_from` was given.

    Args:
        source: The argument `resume_from`; "" if there is none.
        options: Those of the file system, if it is a URL.
    """

    def __init__(self, source: str, options: Mapping[str, Any] | None) -> None:
        self._source = source
        self._options = options

    def take(self, store: SnapshotStore, model: Model, ranking: Callable[[], Ranking]) -> str:
        """Go on with the branch, or begin it; return the snapshot that it goes on from, or "".

        Only the first of several `fit`s begins one; the others stay on it, whatever other
        snapshots lie in the directory. All ranks call this.

        Args:
            store: The snapshots of the run, whose lock is held.
            model: The model in training.
            ranking: Returns what "best" means.

        Raises:
            LoadError: If there is no such snapshot.
            CorruptError: If it is not what was saved; no other one takes its place.
            ConfigError: If it is unknown which is best.
        """
        where, begun = os.path.realpath(store.directory), _branches.setdefault(model, {})
        if not is_first_stage(model, store.directory):
            store.branch = begun.get(where, store.branch)
            return ""
        taken = self._take_first(store, model, ranking) if self._source else ""
        begun[where] = store.branch
        return taken

    def _take_first(
        self, store: SnapshotStore, model: Model, ranking: Callable[[], Ranking]
    ) -> str:
        order = ranking() if self._source == BEST else Ranking(())
        taken: str = store.ranks.first(
            lambda: self._take(store, model, order), "begin a branch of the run"
        )
        return taken

    def require(self, found: object, taken: str) -> None:
        """Raise unless the run resumes from the branch that it has taken.

        Raises:
            ResumeError: If it does not.
        """
        if taken and not found:
            raise ResumeError(
                f"This run cannot go on from {taken!r}: it was saved when all epochs of a run "
                "were done, or in another `fit` of the script. Choose the snapshot before it "
                "(`ratchet ls`).",
                see="resume-from",
            )

    def _take(self, store: SnapshotStore, model: Model, order: Ranking) -> str:
        present = store.infos()
        begun = self._begun(present)
        if begun:
            store.branch = begun
            return self._source
        chosen = self._chosen(store, present, order)
        path = store.mirror.ensure(chosen.path) if _is_in(chosen, present) else chosen.path
        key = BEST if self._source == BEST else chosen.name
        branch = branch_name(key, anywhere.files_of(chosen) or snapshot_manifest(path).files)
        if any(info.run == branch for info in present):
            store.branch = branch
            return self._source
        if damaged := unreadable(store.directory):
            raise CorruptError(
                f"{damaged[0]!r} is damaged: its manifest cannot be read. It may be newer than "
                f"{chosen.path!r} and of the same branch. Delete it, or move it away, to go on "
                "from the latter."
            )
        _begin(store, anywhere.local_copy(path, self._options), branch, chosen.path, model)
        if left := [info.name for info in present]:
            _log.warning(
                "going on from %s; %d snapshots that are not of this branch stay in %s until you "
                "delete them: %s",
                chosen.path,
                len(left),
                store.shown_directory,
                ", ".join(left[-5:]),
            )
        return chosen.path

    def _begun(self, present: Sequence[CheckpointInfo]) -> str:
        """Return the branch that an earlier start has begun, if that is sure without its source."""
        if self._source == BEST:  # what is best now may be of this branch
            newest = present[-1].run if present else ""
            return newest if key_of(newest) == BEST else ""
        if self._found(present):
            return ""
        names = _names(os.path.basename(os.path.normpath(self._source)))
        of_name = {info.run for info in present if key_of(info.run) in names}
        if len(of_name) != 1 or self._is_there():
            return ""
        warn(
            f"resume_from={self._source!r} is no longer there, or cannot be read. The branch that "
            "went on from it is there, and is resumed."
        )
        return of_name.pop()

    def _is_there(self) -> bool:
        if not is_url(self._source):
            return os.path.exists(self._source)
        try:
            snapshot_at(self._source, self._options)
        except CorruptError:
            return True
        except LoadError:
            return False
        return True

    def _found(self, present: Sequence[CheckpointInfo]) -> CheckpointInfo | None:
        """Return the snapshot of this directory that is named, or None."""
        names = _names(self._source)
        return next((info for name in names for info in present if info.name == name), None)

    def _chosen(
        self, store: SnapshotStore, present: Sequence[CheckpointInfo], order: Ranking
    ) -> CheckpointInfo:
        if self._source == BEST:
            return _best(present, order, store.shown_directory)
        if is_url(self._source):
            return snapshot_at(self._source, self._options)
        if found := self._found(present):
            return found
        if not os.path.exists(self._source):
            names = ", ".join(info.name for info in present) or "none"
            raise LoadError(
                f"There is no snapshot resume_from={self._source!r}, neither of this path nor in "
                f"{store.shown_directory!r} (there: {names}).",
                see="resume-from",
            )
        return snapshot_at(self._source)


def _begin(store: SnapshotStore, source: str, branch: str, shown: str, model: Model) -> None:
    """Copy a snapshot into the directory of a run, which then resumes from it.

    Args:
        store: The snapshots of the run.
        source: The local path of the snapshot.
        branch: Name of the branch that begins.
        shown: Where it is, as the user knows it.
        model: The model in training.
    """
    manifest = snapshot_manifest(source)
    name = store.free_name(manifest.position, is_finished(os.path.basename(source)))
    path, reason = os.path.join(store.directory, name), f"branched from {shown}"
    copy = replace(manifest, run=branch, reason=reason, saved_at=store.time())
    try:
        copy_snapshot(source, store.directory, name, copy)
    except OSError as error:
        raise save_error(error, path) from error
    store.branch = branch
    where = {"epoch": copy.position.epoch, "batch": copy.position.batch}
    store.note("branch", name=name, **{"from": shown}, **where, reason=reason)
    store.mirror.upload(store.writer, model, path)


def _names(name: str) -> tuple[str, ...]:
    """Return the names that a snapshot may have; one of the end of an epoch may be cut short."""
    return name, f"{name}-batch-{0:07d}"


def _is_in(chosen: CheckpointInfo, present: Sequence[CheckpointInfo]) -> bool:
    return any(info is chosen for info in present)


def _best(present: Sequence[CheckpointInfo], order: Ranking, where: str) -> CheckpointInfo:
    """Return the best snapshot of an epoch's end, of the branch that was trained last."""
    if not present:
        raise LoadError(
            f"resume_from='best' chooses a snapshot in {where!r}, but there is none.",
            see="resume-from",
        )
    ends = [
        info
        for info in present
        if info.run == present[-1].run and not info.position.batch and not is_finished(info.name)
    ]
    best = next((i for i in order.sort(ends) if order.beats(i.metrics, None)), None)
    if best is None:
        known = sorted({name for info in ends for name in info.metrics}) or ["no metrics"]
        raise ConfigError(
            f"resume_from='best' goes by {order.metrics[0][0]!r}, which no snapshot in {where!r} "
            f"has (they have: {', '.join(known)}). Put an EarlyStopping or a ModelCheckpoint with "
            "monitor= and mode= into the list of callbacks, or name a snapshot.",
            see="resume-from",
        )
    return best
