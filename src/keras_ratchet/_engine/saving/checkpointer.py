"""Decides about one save of a ModelCheckpoint, and does it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_ratchet._engine.capture.ema import averages_are_meant, holding_averages
from keras_ratchet._engine.saving.checkpoint_store import CheckpointStore
from keras_ratchet._engine.saving.file_save import Saved
from keras_ratchet._engine.saving.lineage import earlier
from keras_ratchet._keras import fit
from keras_ratchet._storage.earlier_runs import next_name
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy import naming
from keras_ratchet.policy.best import is_best
from keras_ratchet.policy.monitor import missing_message
from keras_ratchet.policy.retention import Ranking
from keras_ratchet.types import CheckpointInfo, Moment, Verdict

_log = logging.getLogger("keras_ratchet")


@dataclass(slots=True)
class Checkpointer:
    """Saves a model at given moments if they are worth it.

    Args:
        series: Where the files go.
        best_only: Whether only an improvement is worth a file.
        warn_only: Whether a failed save is a warning.
        say: Gets a line for each decision.
        skip_if_busy: Whether a save is left out while the one before is being written, rather
            than waited for.

    Attributes:
        best: The value that the first metric has to beat, or None.
        lost: The moment of the last save if it has failed.
        seconds: How long the last save took until it was on the disk.
    """

    series: CheckpointStore
    best_only: bool
    warn_only: bool
    say: Callable[[str], None]
    skip_if_busy: bool = False
    lost: Moment | None = None
    seconds: float = 0.0
    _goes_on: bool = False
    _resumed: bool = False
    _news: str = ""
    best: float | None = None
    _best_metrics: Mapping[str, float] = field(default_factory=dict)
    _best_path: str | None = None
    _warned: set[str] = field(default_factory=set)

    def begin(self, model: Any, run: str, fresh: bool | None, initial_epoch: int) -> None:
        """Find out whether this is a new run, or goes on from one that has saved here before.

        Args:
            model: The model, when training begins.
            run: A name for it if it is a new run.
            fresh: Whether it is one, None to go by `lineage.earlier`.
            initial_epoch: Index of the first epoch.
        """
        self._news, self._resumed = "", False
        if self.series.run and not fresh:  # the same callback once more: as in Keras
            self._goes_on = True
            return
        saved = [] if fresh else self.series.snapshots()
        found = earlier(model, saved, initial_epoch, asked=fresh is False)
        self._goes_on = found is not None
        self.series.run = run if found is None else found.run
        self._news = self._told(found, fresh)

    def _told(self, found: CheckpointInfo | None, fresh: bool | None) -> str:
        """Return the sentence that tells what an earlier run means for this one."""
        if found is not None:
            name = found.ranking[0][0] if found.ranking else ""
            value = f" ({name}={found.metrics[name]:.6g})" if name in found.metrics else ""
            return (
                f"continuing the run that saved {found.path}{value}: its best value counts "
                "(fresh=True starts a new run)"
            )
        path, fixed = naming.head(self.series.template)
        if fresh or not self.best_only or not fixed or not os.path.isfile(path):
            return ""
        return (
            f"{path} belongs to an earlier run: the first best of this run replaces it, and it "
            f"is kept as {next_name(os.path.realpath(path))} (fresh=False continues it)"
        )

    def first_epoch(self, model: Any, epoch: int, fresh: bool | None) -> None:
        """Take note of the epoch that is first; another callback may have moved it."""
        if epoch and fresh is None and not self._goes_on and not self._resumed:
            own, self.series.run = self.series.run, ""
            self.begin(model, own, None, epoch)
            self.settle(self.series.ranking)
        if self._news:
            _log.warning("%s", self._news)
            self._news = ""

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; what files say of their best counts no more."""
        self.load_state_dict(state)
        self.series.run = state.get("run") or self.series.run
        self._resumed, self._news = True, ""

    def settle(self, ranking: Ranking) -> None:
        """Take the order of the metrics, and what the files of this run say is best."""
        self.series.ranking = ranking
        wanted = self.best_only and self._goes_on and not self._resumed
        found = self.series.best() if wanted else None
        if found is not None and ranking.beats(found.metrics, self._best()):
            self._remember(found.metrics, found.path)

    def forget(self, threshold: float | None) -> None:
        """Start anew: no best but a value to beat."""
        self.best, self._best_metrics, self._best_path = threshold, {}, None

    def state_dict(self) -> dict[str, Any]:
        """Return what is best so far."""
        path = self._best_path
        return {
            "best": self.best,
            "metrics": dict(self._best_metrics),
            "path": path and os.path.relpath(path, self.series.directory),  # it may be moved
            "run": self.series.run,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self.best = state["best"]
        self._best_metrics, path = dict(state["metrics"]), state["path"]
        self._best_path = path and os.path.join(self.series.directory, path)

    def consider(
        self, model: Any, moment: Moment, swap: Any, reason: str, last: bool = False
    ) -> bool:
        """Save if the moment is worth it.

        Args:
            model: The model.
            moment: Position and metrics.
            swap: The `SwapEMAWeights` of the callback list, or None.
            reason: Why a save is considered.
            last: Whether it is the last state, which is saved though it need not be the best.

        Returns:
            Whether a file was saved, or is about to be.

        Raises:
            SaveError: If the save fails, or one before it has failed, unless that is to be a
                warning.
        """
        self.collect()
        best_only = self.best_only and not last
        verdict = self._wanted(moment, best_only, reason)
        if verdict.kind == "worse" and not self._stands():  # what it was compared with
            self.flush()
            verdict = self._wanted(moment, best_only, reason)
        if verdict and self.skip_if_busy and self.series.writer.busy and not last:
            verdict = Verdict(False, "busy", "the previous save is still being written")
        path = self.path_of(moment)
        self.say(f"{verdict.reason}, saving model to {path}" if verdict else verdict.reason)
        if not verdict:
            self.series.note("skip", reason=verdict.reason, epoch=moment.position.epoch)
            return False
        self.flush()
        with self._scored_weights(model, swap, best_only):
            self._save(model, moment, path, verdict, best_only)
        return self.lost is None

    def _stands(self) -> bool:
        """Say whether the save that is under way counts as done: only if what goes wrong raises."""
        if self.warn_only and self.series.writer.busy:
            return False
        return self.series.will_save()

    def _save(
        self, model: Any, moment: Moment, path: str, verdict: Verdict, best_only: bool
    ) -> None:
        facts = self.series.facts(model, moment.position, moment.metrics, verdict.reason)
        before = self.state_dict()
        self.lost = None
        if verdict.kind == "improved":
            self._remember(moment.metrics, path)

        told = False

        def lost() -> None:
            nonlocal told
            told, self.lost = True, moment
            self.load_state_dict(before)

        def done(saved: Saved) -> None:
            nonlocal told
            told = True
            if not saved.committed:
                lost()
            self._done(saved, moment)

        try:
            keeps = self.best_only or self.series.retention is not None
            self.series.save(
                model,
                path,
                facts,
                best_only=best_only,
                keeps_others=keeps,
                done=done,
                crashed=lost,
            )
        except BaseException:
            if not told and not self.series.writer.busy:  # it has not come to a save
                lost()
            raise

    def _done(self, saved: Saved, moment: Moment) -> None:
        """Take note of what became of a save."""
        self.seconds = saved.seconds or self.seconds
        if saved.bad_weight is not None:
            reason = f"weight {saved.bad_weight!r} is not finite"
            self.series.note("skip", reason=reason, epoch=moment.position.epoch)
            self._warn_once("not finite", f"ModelCheckpoint did not save {saved.path!r}: {reason}.")
        elif saved.error is not None and not self.warn_only:
            raise saved.error
        elif saved.error is not None:
            self.series.forgive(saved.error)
        else:
            self.say(f"finished saving model to {saved.path}")

    def collect(self) -> None:
        """Take note of a save that has ended beside training.

        Raises:
            SaveError: If it has failed, unless that is to be a warning.
        """
        self.series.writer.collect()

    def flush(self) -> None:
        """Wait for the save that is under way, and take note of it."""
        self.series.writer.wait()

    def _wanted(self, moment: Moment, best_only: bool, reason: str) -> Verdict:
        if not best_only:
            return Verdict(True, "always", reason)
        verdict = is_best(self.series.ranking, moment.metrics, self._best())
        if verdict.kind != "missing":
            return verdict
        name = self.series.ranking.metrics[0][0]
        if not _is_planned(name, moment):
            self._warn_once(
                name,
                f"Can save best model only with {name} available (as one number). "
                f"{missing_message(name, moment.metrics)} Saving anyway until a best value is "
                "known.",
            )
        if self._best() is None:  # there is nothing to lose yet
            return Verdict(True, "missing", f"{verdict.reason}, and no best value is known yet")
        return verdict

    def _scored_weights(
        self, model: Any, swap: Any, best_only: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Let the model hold what was scored: under SwapEMAWeights the averages."""
        meant = best_only and averages_are_meant(swap, self.series.ranking.metrics[0][0])
        if swap is not None and (meant or swap.swap_on_epoch):
            return holding_averages(model, swap)
        return contextlib.nullcontext()

    def _best(self) -> Mapping[str, float] | None:
        """Return the metrics to beat; a file that is gone no longer counts as best."""
        gone = self._best_path is not None and not os.path.exists(self._best_path)
        if gone and not self.series.writer.busy:
            self.forget(None)
        if self.best is None:
            return None
        return {**self._best_metrics, self.series.ranking.metrics[0][0]: self.best}

    def _remember(self, metrics: Mapping[str, float], path: str) -> None:
        self.best = metrics[self.series.ranking.metrics[0][0]]
        self._best_metrics, self._best_path = dict(metrics), path

    def path_of(self, moment: Moment) -> str:
        """Return the file that a moment is saved to."""
        position = moment.position
        values: dict[str, float] = {"epoch": moment.epoch + 1}
        if position.batch:
            values["batch"] = position.batch
        values |= moment.metrics
        path, missing = naming.render(self.series.template, values)
        for name in missing:
            if name in naming.fields(os.path.dirname(self.series.template)) and "val_" not in name:
                raise ConfigError(naming.unknown_directory_message(self.series.template, name))
            what = missing_message(name, values)
            self._warn_once(name, f"filepath {self.series.template!r}: {what}")
        return path

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warn(message)


def _is_planned(name: str, moment: Moment) -> bool:
    """Say whether a metric of the validation is only to come (`validation_freq`)."""
    validated = any(key.startswith("val_") for key in moment.metrics)
    if validated or not moment.end_of_epoch or not name.startswith("val_"):
        return False
    return "x" in fit.evaluate_arguments()
