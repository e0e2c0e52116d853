"""Retention carried out: files that no rule keeps are deleted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping

from keras_ratchet._engine.saving.model_file import caused
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet.errors import SaveError
from keras_ratchet.policy.retention import Ranking, Retention, plan, spares
from keras_ratchet.types import CheckpointInfo


class Retaining:
    """Deletes the files of a run that a rule does not keep.

    As long as there are fewer than the rule keeps in any case, a save does not list them. What
    others do to the files meanwhile is seen by the time of the last change of `.ratchet`. File
    systems count it in steps of some milliseconds, so it may miss what happens right after a save:
    then a file that has to go stays longer. Nothing is deleted without a look at the directory.

    Attributes:
        deleted: What was deleted after the last save.
    """

    def __init__(self) -> None:
        self._rule: Retention | None = None
        self._ranking = Ranking(())
        self._metadata = ""
        self._count: int | None = None  # of the run's files; None if unknown
        self._changed_ns: int | None = None
        self.deleted: list[CheckpointInfo] = []

    def begin_save(self, directory: str, rule: Retention | None, ranking: Ranking) -> None:
        """Look, before a save, whether somebody else has changed something.

        Args:
            directory: Where the files are.
            rule: Which of them stay; None for all.
            ranking: What is best; it is known only when training has begun.
        """
        self._metadata = os.path.join(directory, METADATA)
        if ranking != self._ranking or self._changed_ns != self._last_change():
            self._count = None
        self._rule, self._ranking, self.deleted = rule, ranking, []

    def end_save(
        self,
        manifest: Manifest,
        list_own: Callable[[], list[CheckpointInfo]],
        resumed_from: str | None,
        drop: Callable[[CheckpointInfo, str], bool],
    ) -> SaveError | None:
        """Delete, after a save, the files that the rule does not keep; return what went wrong.

        Args:
            manifest: What was saved.
            list_own: Lists the files of this run.
            resumed_from: Name of the file that the model was loaded from, which stays.
            drop: Deletes a file, for a reason; returns whether it is gone.
        """
        if self._rule is None:
            return None
        if self._count is not None and self._is_ranked(manifest.metrics):
            self._count += 1  # too many, if it took the place of one that was there
            if spares(self._rule, self._count, all_ranked=True):
                self._changed_ns = self._last_change()
                return None
        return self._look(self._rule, list_own(), resumed_from, drop)

    def _look(
        self,
        rule: Retention,
        infos: list[CheckpointInfo],
        resumed_from: str | None,
        drop: Callable[[CheckpointInfo, str], bool],
    ) -> SaveError | None:
        self._count = None
        decisions = plan(infos, rule, self._ranking, time.time(), resumed_from)
        others = [decision for decision in decisions if not decision.keep]
        for decision in others:
            try:
                if drop(decision.checkpoint, decision.reason):
                    self.deleted.append(decision.checkpoint)
            except OSError as error:
                what = f"saved, but could not delete {decision.checkpoint.path!r}: {error.strerror}"
                return caused(SaveError(error.errno, what), error)
        if not others and all(self._is_ranked(info.metrics) for info in infos):
            self._count, self._changed_ns = len(infos), self._last_change()
        return None

    def _is_ranked(self, metrics: Mapping[str, float]) -> bool:
        return bool(self._ranking.metrics) and self._ranking.metrics[0][0] in metrics

    def _last_change(self) -> int | None:
        with contextlib.suppress(OSError):
            return os.stat(self._metadata).st_mtime_ns
        return None
