"""The checkpoints of one ModelCheckpoint: one path, or all that its template gives."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from typing import Any

from keras_ratchet._distributed.agreement import on_first_rank
from keras_ratchet._distributed.one import One
from keras_ratchet._engine.capture.finite import FiniteWatch
from keras_ratchet._engine.capture.variable_buffers import VariableBuffers
from keras_ratchet._engine.saving import file_names
from keras_ratchet._engine.saving.background import (
    BackgroundWriter,
    Saved,
    discard_jobs,
    drain,
    runs_in_background,
)
from keras_ratchet._engine.saving.events import Events
from keras_ratchet._engine.saving.locked_directory import LockedDirectory
from keras_ratchet._engine.saving.model_file import (
    freeze_model,
    whole_variables,
    write_model_file,
)
from keras_ratchet._engine.saving.no_mirror import NoMirror
from keras_ratchet._engine.saving.pending_save import PendingSave
from keras_ratchet._engine.saving.provenance import (
    manifest_for,
    save_time,
    source_of,
    state_bytes,
)
from keras_ratchet._engine.saving.rehearsal import check_target, rehearse
from keras_ratchet._engine.saving.retaining import Retaining
from keras_ratchet._engine.saving.said_once import SaidOnce
from keras_ratchet._formats import Holds, format_of
from keras_ratchet._formats.base import Format
from keras_ratchet._keras.anatomy import one_walk
from keras_ratchet._storage import single_file, space
from keras_ratchet._storage.earlier_runs import next_name, original_name, preserve
from keras_ratchet._storage.listing import FileCatalog, delete_unless_changed, in_order
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy import naming
from keras_ratchet.policy.retention import Ranking, Retention
from keras_ratchet.types import CheckpointInfo, Model, Moment

_log = logging.getLogger("keras_ratchet")


@dataclass
class CheckpointStore:
    """The files of one template: saved, listed, and deleted when no rule keeps them.

    Args:
        template: The file path; with retention, its last part has placeholders.
        retention: Which files stay; None for all.
        ranking: What is best.
        holds: What is in the files; with "model" the whole one, even in a `.weights.h5`.
        background: Whether files are written in the background; None for large ones.
        mirror: The store to which they go.
        events: What the user is told of it.

    Attributes:
        run: The run that the files are saved for. Files that other runs saved under this template
            neither compete with them nor are deleted.
        writer: Runs the saves that are written in the background.
        watch: Knows which weights are not finite on purpose.
        said: What was said once.
    """

    template: str
    retention: Retention | None
    ranking: Ranking
    holds: Holds = "weights"
    background: bool | None = None
    mirror: NoMirror = field(default_factory=NoMirror)
    events: Events = field(default_factory=Events)
    run: str = field(default="", init=False)
    writer: BackgroundWriter = field(default_factory=BackgroundWriter, init=False)
    watch: FiniteWatch = field(default_factory=FiniteWatch, init=False)
    ranks: Any = field(default_factory=One, init=False)
    said: SaidOnce = field(default_factory=SaidOnce, init=False)

    def __post_init__(self) -> None:
        self._place = self._make_place()
        self._resumed_from: str | None = None
        self._newest_s = 0.0
        self._forget_model()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, without what belongs to a run."""
        state = dict(vars(self))
        for name in ("_format", "_buffers", "_catalog", "_retaining", "_latest"):
            del state[name]
        return {**state, "writer": BackgroundWriter(), "watch": FiniteWatch(), "ranks": One()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set what `__getstate__` returned."""
        vars(self).update(state)
        self._forget_model()

    def _make_place(self) -> LockedDirectory:
        return LockedDirectory(
            self.directory, self.name, f"checkpoint {self.shown(self.template)!r}"
        )

    def _forget_model(self) -> None:
        """Free the memory that belongs to a run."""
        found = format_of(self.template, self.holds)
        if found is None:
            raise ConfigError(
                f"filepath must end in .keras, .weights.h5 or .h5. Got: {self.template!r}.",
                see="filepath",
            )
        self._format: Format = found
        self._buffers = VariableBuffers()
        self._catalog = FileCatalog()
        self._retaining = Retaining()
        self._latest: PendingSave | None = None

    def join(self, ranks: Any) -> None:
        """Belong to one of several processes; rank 0 is the one that writes."""
        self.ranks = self.writer.ranks = ranks

    @on_first_rank
    def has(self, path: str) -> bool:
        """Return whether a file is there, here or on the store."""
        return os.path.exists(path) or self.mirror.has(os.path.basename(path))

    def shown(self, path: str) -> str:
        """Return a path as the user knows it."""
        return self.mirror.shown(path)

    def name_if_kept(self, path: str) -> str:
        """Return the name that the file at a path gets when another run's takes its place."""
        return next_name(os.path.realpath(path), self.mirror.has)

    @property
    @on_first_rank
    def is_busy(self) -> bool:
        """Whether a save or its upload is running, on whatever rank."""
        return self.writer.busy

    @property
    @on_first_rank
    def is_saving(self) -> bool:
        """Whether a save is running, on whatever rank."""
        return self.writer.is_saving

    @property
    def name(self) -> str:
        """The last part of the template, which the manifests repeat."""
        return os.path.basename(self.template)

    @property
    def directory(self) -> str:
        """The directory above the first placeholder."""
        path, fixed = naming.head(self.template)
        if fixed and os.path.islink(path):
            path = os.path.realpath(path)  # the file that a link leads to is the one saved
        return os.path.abspath(os.path.dirname(path))

    @property
    def locked(self) -> bool:
        """Whether the store holds the lock of its files."""
        return self._place.locked

    def start(self, model: Model) -> None:
        """Check that saving can work, take the lock, and clean up after a crash.

        Raises:
            SaveError: If nothing can be written there.
            LockedError: If another process saves under this template.
        """
        if not os.path.isabs(self.template):  # training may change the working directory
            self.template = os.path.join(naming.escaped(os.getcwd()), self.template)
        self.template = self.mirror.relocated(self.template, is_template=True)
        self._start(model)

    @on_first_rank
    def _start(self, model: Model) -> None:
        check_target(*naming.head(self.template))
        rehearse(model, self.template, self._format)
        self.said.start_run()
        if not self._place.locked:
            self._place = self._make_place()
            self._place.lock()
        discard_jobs(model)
        self.watch.start(model)
        for path in single_file.sweep(self.directory, self._is_ours):
            _log.info("removed leftovers of a crash: %s", path)
        try:
            self.mirror.start(self.directory, self.name, self.note)
            self.mirror.upload_pending(self.writer, model)
        except BaseException:
            self.mirror.end()
            self._place.unlock()
            raise
        self._resumed_from = self._own_name(source_of(model))
        self._newest_s = max((info.saved_at for info in self.list_all()), default=0.0)
        if message := space.warning(self.directory, state_bytes(model, self.holds)):
            warn(message)

    def end(self) -> None:
        """Release the lock and free memory; no save is running any more. Each rank may call it."""
        self.watch.clear()
        self._forget_model()
        self.mirror.end()
        self._place.unlock()

    def _own_name(self, path: str | None) -> str | None:
        """Return the name of a file in this directory, None for others."""
        directory, name = os.path.split(path or "")
        if self.mirror.is_cache and directory:  # from where `load_model` fetches to
            directory = os.path.dirname(os.path.dirname(directory))
        return name if directory == os.path.realpath(self.directory) else None

    def _is_ours(self, name: str) -> bool:
        """Return whether a file name may come from this template."""
        return naming.may_be(self.name, name) or naming.may_be(self.name, original_name(name))

    @on_first_rank
    def list_all(self) -> list[CheckpointInfo]:
        """Return the checkpoints under this template, oldest first."""
        infos = [i for i in self._catalog.list_files(self.directory) if i.series == self.name]
        remote = self.mirror.remote_only({i.name for i in infos})
        return in_order([*infos, *remote]) if remote else infos

    def list_own(self) -> list[CheckpointInfo]:
        """Return those that this run saved, before a resume too."""
        return [info for info in self.list_all() if info.run == self.run]

    @on_first_rank
    def find_best(self) -> CheckpointInfo | None:
        """Return the best of this run's files according to their manifests, or None.

        A file whose bytes are not those that were saved does not count.
        """
        found = [info for info in self.list_own() if info.ranking[:1] == self.ranking.metrics[:1]]
        for info in self.ranking.sort(found):
            if self.mirror.verifies(info.path):
                return info
            _log.warning("%s does not verify, so it does not count as best", info.path)
        return None

    def path_of(self, moment: Moment) -> str:
        """Return the file that a moment is saved to; warn once of each metric that is missing."""
        return file_names.path_of(self.template, moment, self.warn_once)

    def gather(self, model: Model) -> None:
        """Give rank 0 what is split over processes, for the next `save`; all ranks call this."""
        if self.ranks.world_size > 1:
            self._buffers.gather(whole_variables(model, self._format), self.ranks)

    @on_first_rank
    @one_walk()
    def save(
        self,
        model: Model,
        path: str,
        moment: Moment,
        reason: str,
        *,
        as_best: bool,
        preserves_others: bool,
    ) -> Saved | None:
        """Save one file, here or in the background, then delete those that no rule keeps.

        Weights that are not finite are saved neither as best nor over an older file.

        Args:
            model: The model.
            path: The file.
            moment: Position and metrics.
            reason: Why it is saved.
            as_best: Whether it is saved as the best.
            preserves_others: Whether a file of another run stays, under another name.

        Returns:
            The outcome; None if the save runs in the background: `writer` then returns it.
        """
        self._place.restore()
        started = time.perf_counter()
        manifest = self._manifest(model, moment, reason)
        size_bytes = state_bytes(model, self.holds)
        background = runs_in_background(self.background, size_bytes)
        try:
            frozen = freeze_model(
                model,
                self._format,
                lambda sources, places=None: self._buffers.capture(sources, background, places),
                self.watch,
            )
        except OSError as error:  # a layer with a save method of its own may use the disk
            return self._place.failed(path, error)
        if background and frozen.blocks:
            self.said.log(
                f"{type(model).__name__} has its own save method, so it is saved in the hook: "
                "training waits"
            )
        blocked_s = time.perf_counter() - started
        save = PendingSave(
            frozen, path, manifest, size_bytes, as_best, preserves_others, started, blocked_s
        )
        self._latest = save
        if background and not frozen.blocks:
            self.writer.start(lambda: self._write(save, model), model)
            return None
        drain()
        return self._write(save, model, blocks=True)

    def _manifest(self, model: Model, moment: Moment, reason: str) -> Manifest:
        """Return a manifest without its files."""
        self._newest_s = save_time([self._newest_s])
        own: dict[str, Any] = {"ranking": self.ranking.metrics, "series": self.name}
        own |= {"run": self.run, "metadata": self.events.metadata()}
        return manifest_for(model, moment.position, moment.metrics, reason, self._newest_s, **own)

    def _write(self, save: PendingSave, model: Model, blocks: bool = False) -> Saved:
        """Write a file, on any thread."""
        started = time.perf_counter()
        self._retaining.begin_save(self.directory, self.retention, self.ranking)
        try:
            frozen = save.check()
            if save.bad_weight is not None:
                return Saved(save.path, save.bad_weight)
            manifest = write_model_file(
                frozen,
                save.path,
                save.manifest,
                save.size_bytes,
                lambda path: self._preserve(path, save),
            )
        except OSError as error:
            return self._place.failed(save.path, error)
        except Exception as error:
            return Saved(save.path, error=error)
        now = time.perf_counter()
        took_s, written_s = now - started, now - save.started_s
        self._place.note_saved(
            os.path.basename(save.path),
            manifest,
            written_s if blocks else save.blocked_s,
            written_s,
            metrics=dict(manifest.metrics),
            ranking=manifest.ranking,
        )
        _log.info("saved %s: %s", save.path, manifest.reason)
        self._catalog.forget(os.path.basename(save.path))
        problem = self._retaining.end_save(manifest, self.list_own, self._resumed_from, self._drop)
        self.mirror.upload(self.writer, model, save.path, save.preserves_others)
        saved = Saved(save.path, error=problem, committed=True, duration_s=took_s)
        return self.events.tell(saved, manifest, self._retaining.deleted)

    def _preserve(self, path: str, save: PendingSave) -> None:
        """Give a file of another run another name, just before a save takes its place."""
        run, has = save.manifest.run, self.mirror.has
        if save.preserves_others and (preserved := preserve(path, run, has)):
            reason = f"{os.path.basename(path)} of an earlier run, kept under this name"
            self.note("aside", name=os.path.basename(preserved), reason=reason)
            _log.info("the file of an earlier run is now %s", preserved)

    @on_first_rank
    def wait_for_check(self) -> bool:
        """Wait until the weights of a running save are checked; return whether they are finite."""
        if self._latest is None or not self.writer.is_saving:
            return True
        self._latest.checked.wait()
        return self._latest.bad_weight is None

    def _drop(self, info: CheckpointInfo, reason: str) -> bool:
        """Delete a file, unless it has changed since we wrote it; return whether it is gone."""
        if os.path.exists(info.path) and not delete_unless_changed(info):
            _log.warning("%s has changed since it was saved, so it is not deleted", info.path)
            return False
        self.mirror.drop(info.name)
        self.note("drop", name=info.name, reason=reason, epoch=info.position.epoch)
        _log.info("deleted %s: %s", info.path, reason)
        return True

    def note(self, event: str, **fields: Any) -> None:
        """Add a line to the journal."""
        if self.ranks.rank == 0:
            self._place.note(event, **fields)

    def warn_once(self, key: str, message: str, per_run: bool = False) -> None:
        """Warn once, or once in each run."""
        if self.ranks.rank == 0:
            self.said.warn(key, message, per_run)
