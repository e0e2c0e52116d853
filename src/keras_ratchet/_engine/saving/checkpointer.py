"""Decides whether a ModelCheckpoint saves a moment, and follows what becomes of the save."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_ratchet._engine.capture.ema import averages_as_weights, scores_averages
from keras_ratchet._engine.saving.background import Saved
from keras_ratchet._engine.saving.checkpoint_store import CheckpointStore
from keras_ratchet._engine.saving.provenance import earlier
from keras_ratchet._keras import fit
from keras_ratchet.policy import naming
from keras_ratchet.policy.monitor import missing_message
from keras_ratchet.policy.retention import Ranking, is_best, ranking_of
from keras_ratchet.types import CheckpointInfo, Model, Moment, Verdict

_log = logging.getLogger("keras_ratchet")


@dataclass(slots=True)
class Checkpointer:
    """Saves a model at the moments that deserve it.

    Args:
        store: Where the files go.
        best_only: Whether only an improvement is saved.
        warn_only: Whether a failed save is a warning rather than an error.
        say: Called with a line for each decision.
        skip_if_busy: Whether a save is skipped while the one before is being written, rather than
            waited for.

    Attributes:
        best: The value that the first metric has to beat, or None.
        failed: The moment of the last save if it failed.
        saved: The moment of the last save in this run that did not.
        save_s: How long the last save took until it was on the disk.
    """

    store: CheckpointStore
    best_only: bool
    warn_only: bool
    say: Callable[[str], None]
    skip_if_busy: bool = False
    failed: Moment | None = None
    saved: Moment | None = None
    save_s: float = 0.0
    best: float | None = None
    _best_metrics: Mapping[str, float] = field(default_factory=dict)
    _best_path: str | None = None
    _pending: tuple[Moment, dict[str, Any]] | None = None  # of a save, and the state before it
    _continues: bool = False
    _resumed: bool = False
    _notice: str = ""

    def start_run(self, model: Model, run: str, fresh: bool | None, initial_epoch: int) -> None:
        """Determine whether this is a new run, or continues one that has saved here before.

        Args:
            model: The model, at the start of training.
            run: Name of the run if it is a new one.
            fresh: Whether it is; None to decide by `provenance.earlier`.
            initial_epoch: Index of the first epoch.
        """
        self._notice, self._resumed, self.saved = "", False, None
        if self.store.run and not fresh:  # the same callback once more: as in Keras
            self._continues = True
            return
        infos = [] if fresh else self.store.list_all()
        found = self.store.ranks.first(
            lambda: earlier(
                model, map(self.store.mirror.fetched, infos), initial_epoch, asked=fresh is False
            ),
            "earlier run",
        )
        self._continues = found is not None
        self.store.run = run if found is None else found.run
        self._notice = self._notice_of(found, fresh)

    def _notice_of(self, found: CheckpointInfo | None, fresh: bool | None) -> str:
        """Return a sentence about what an earlier run means for this one; "" if nothing."""
        if found is not None:
            name = found.ranking[0][0] if found.ranking else ""
            value = f" ({name}={found.metrics[name]:.6g})" if name in found.metrics else ""
            return (
                f"continuing the run that saved {self.store.shown(found.path)}{value}: its best "
                "value counts "
                "(fresh=True starts a new run)"
            )
        path, fixed = naming.head(self.store.template)
        if fresh or not self.best_only or not fixed or not self.store.has(path):
            return ""
        return (
            f"{self.store.shown(path)} belongs to an earlier run: the first best of this run "
            f"replaces it, and it is kept as {self.store.name_if_kept(path)} (fresh=False "
            "continues it)"
        )

    def start_first_epoch(self, model: Model, epoch: int, fresh: bool | None) -> None:
        """Take into account which epoch is the first; another callback may have moved it."""
        if epoch and fresh is None and not self._continues and not self._resumed:
            own, self.store.run = self.store.run, ""
            self.start_run(model, own, None, epoch)
            self.set_ranking(self.store.ranking)
        if self._notice:
            _log.warning("%s", self._notice)
            self._notice = ""

    def set_ranking(self, ranking: Ranking) -> None:
        """Set the order of the metrics, and start with the best file that this run has saved."""
        self.store.ranking = ranking
        looks = self.best_only and self._continues and not self._resumed
        found = self.store.find_best() if looks else None
        if found is not None:
            self._forget_deleted()
            if ranking.beats(found.metrics, self._to_beat):
                self._set_best(found.metrics, found.path)

    def reset_best(self, threshold: float | None) -> None:
        """Forget what is best; a threshold is a value to beat."""
        self.best, self._best_metrics, self._best_path = threshold, {}, None

    def state_dict(self) -> dict[str, Any]:
        """Return what is best so far, as JSON-able data."""
        path = self._best_path
        return {
            "best": self.best,
            "metrics": dict(self._best_metrics),
            "path": path and os.path.relpath(path, self.store.directory),  # it may be moved
            "run": self.store.run,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; what files say is best no longer counts."""
        self._restore_best(state)
        self.store.run = state.get("run") or self.store.run
        self._resumed, self._notice = True, ""
        self._compare_with_store()

    def _compare_with_store(self) -> None:
        """Go by the best file on the store if the one that the state tells of never got there."""
        if not self.store.mirror.url or self._best_path is None:
            return
        name = os.path.basename(self._best_path)
        found = next((info for info in self.store.list_all() if info.name == name), None)
        order = ranking_of([found] if found else [])
        if found is None or not order.beats(self._best_metrics, found.metrics):
            return
        metric = order.metrics[0][0]
        self.store.warn_once(
            "behind",
            f"The best file on the store, {self.store.shown(self._best_path)}, has {metric}="
            f"{found.metrics[metric]:.6g}; the one with {self.best:.6g} was not uploaded before "
            "the run was interrupted. From now on the former is the value to beat.",
        )
        self._set_best(found.metrics, self._best_path, metric)

    def _restore_best(self, state: Mapping[str, Any]) -> None:
        self.best = state["best"]
        self._best_metrics, path = dict(state["metrics"]), state["path"]
        self._best_path = path and os.path.join(self.store.directory, path)

    def consider(
        self, model: Model, moment: Moment, swap: Any, reason: str, last: bool = False
    ) -> bool:
        """Save if the moment deserves it.

        Args:
            model: The model.
            moment: Position and metrics.
            swap: The `SwapEMAWeights` of the callback list, or None.
            reason: Why a save is considered.
            last: Whether this is the last state, which is saved even if it is not the best.

        Returns:
            Whether a file was saved, or is being written.

        Raises:
            SaveError: If this save or the one before has failed, unless that is a warning.
        """
        self.collect()
        best_only = self.best_only and not last
        verdict = self._decide(moment, best_only, reason)
        if verdict.kind == "worse" and not self._is_certain():
            self.flush()
            verdict = self._decide(moment, best_only, reason)
        if verdict and self.skip_if_busy and not last and self.store.is_busy:
            verdict = Verdict(False, "busy", "the previous save is still being written")
        path = self.store.path_of(moment)
        where = self.store.shown(path)
        self.say(f"{verdict.reason}, saving model to {where}" if verdict else verdict.reason)
        if not verdict:
            self.store.note("skip", reason=verdict.reason, epoch=moment.position.epoch)
            return False
        self.flush()
        with self._scored_weights(model, swap, best_only):
            self._save(model, moment, path, verdict, best_only)
        return self.failed is None

    def _decide(self, moment: Moment, best_only: bool, reason: str) -> Verdict:
        if not best_only:
            return Verdict(True, "always", reason)
        self._forget_deleted()
        verdict = is_best(self.store.ranking, moment.metrics, self._to_beat)
        if verdict.kind != "missing":
            return verdict
        name = self.store.ranking.metrics[0][0]
        if not _is_planned(name, moment):
            self.store.warn_once(
                name,
                f"Can save best model only with {name} available (as one number). "
                f"{missing_message(name, moment.metrics)} Saving anyway until a best value is "
                "known.",
            )
        if self._to_beat is None:  # there is nothing to lose yet
            return Verdict(True, "missing", f"{verdict.reason}, and no best value is known yet")
        return verdict

    def _is_certain(self) -> bool:
        """Return whether a running save is certain to count: an error in it must then raise."""
        if self.warn_only and self.store.is_saving:
            return False
        return self.store.wait_for_check()

    @property
    def _to_beat(self) -> Mapping[str, float] | None:
        """The metrics to beat, or None."""
        if self.best is None:
            return None
        return {**self._best_metrics, self.store.ranking.metrics[0][0]: self.best}

    def _set_best(self, metrics: Mapping[str, float], path: str, metric: str = "") -> None:
        self.best = metrics[metric or self.store.ranking.metrics[0][0]]
        self._best_metrics, self._best_path = dict(metrics), path

    def _forget_deleted(self) -> None:
        """Reset what is best if its file was deleted."""
        deleted = self._best_path is not None and not self.store.has(self._best_path)
        if deleted and not self.store.is_busy:
            self.reset_best(None)

    def _scored_weights(
        self, model: Model, swap: Any, best_only: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the model has the weights that were scored: maybe averages."""
        if swap is None:
            return contextlib.nullcontext()
        meant = best_only and scores_averages(swap, self.store.ranking.metrics[0][0])
        if meant or swap.swap_on_epoch:
            return averages_as_weights(model, swap)
        return contextlib.nullcontext()

    def _save(
        self, model: Model, moment: Moment, path: str, verdict: Verdict, best_only: bool
    ) -> None:
        self._pending, self.failed = (moment, self.state_dict()), None
        if verdict.kind == "improved":
            self._set_best(moment.metrics, path)
        self.store.gather(model)
        try:
            saved = self.store.save(
                model,
                path,
                moment,
                verdict.reason,
                as_best=best_only,
                preserves_others=self.best_only or self.store.retention is not None,
            )
        except BaseException:
            if not self.store.writer.has_job:  # it did not come to a save
                self._restore_previous_best()
            raise
        self._settle(saved)

    def collect(self) -> None:
        """Act on the outcome of a background save that has ended.

        Raises:
            SaveError: If it has failed, unless that is a warning.
        """
        if self.store.writer.pending:
            self._settle(self.store.writer.collect())

    def flush(self) -> None:
        """Wait for the save that is running, and act on its outcome as `collect` does."""
        self._settle(self.store.writer.wait())

    def _settle(self, saved: Saved | None) -> None:
        """Act on the outcome of a save, if there is one."""
        if saved is None:
            return
        if not saved:
            self._restore_previous_best()
        elif self._pending is not None:
            self.saved = self._pending[0]
        self._pending = None
        self.save_s = saved.duration_s or self.save_s
        self.store.events.deliver(saved, self.store.ranks)
        if saved.bad_weight is not None:
            self.store.note("skip", reason=str(saved), epoch=_epoch_of(self.failed))
            self.store.warn_once(
                "not finite", f"ModelCheckpoint did not save {saved.path!r}: {saved}."
            )
        elif saved.error is None:
            done = "uploading" if saved.uploaded else "saving"
            self.say(f"finished {done} model to {self.store.shown(saved.path)}")
        elif self.warn_only and isinstance(saved.error, OSError):
            message = f"{saved.error} Training continues; the next save tries again."
            self.store.warn_once(f"{saved.error.errno}", message, per_run=True)
        else:
            raise saved.error

    def left_unsaved(self, last: Moment | None) -> Moment | None:
        """Return the moment that is not saved when training ends, or None.

        Args:
            last: The last one, if no save of it has returned.
        """
        moment = last or self.failed
        if moment is None or self.saved is None or moment.position != self.saved.position:
            return moment
        return None

    def _restore_previous_best(self) -> None:
        """Restore what was best before a save that has failed."""
        if self._pending is not None:
            self.failed, before = self._pending
            self._pending = None
            self._restore_best(before)


def _epoch_of(moment: Moment | None) -> int | None:
    return None if moment is None else moment.position.epoch


def _is_planned(name: str, moment: Moment) -> bool:
    """Return whether a metric of the validation is still to come (`validation_freq`)."""
    validated = any(key.startswith("val_") for key in moment.metrics)
    if validated or not moment.end_of_epoch or not name.startswith("val_"):
        return False
    return "x" in fit.evaluate_arguments()
