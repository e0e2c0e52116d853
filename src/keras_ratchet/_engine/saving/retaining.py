"""Retention carried out: files that no rule keeps are deleted."""

from __future__ import annotations

import time
from collections.abc import Callable

from keras_ratchet._engine.saving.model_file import caused
from keras_ratchet.errors import SaveError
from keras_ratchet.policy.retention import Ranking, Retention, plan
from keras_ratchet.types import CheckpointInfo


def delete_others(
    infos: list[CheckpointInfo],
    rule: Retention,
    ranking: Ranking,
    resumed_from: str | None,
    drop: Callable[[CheckpointInfo, str], None],
) -> SaveError | None:
    """Delete the files that a rule does not keep; return what went wrong.

    Args:
        infos: The files of this run.
        rule: Which of them stay.
        ranking: What is best.
        resumed_from: Name of the file that the model was loaded from, which stays.
        drop: Deletes a file, for a reason.
    """
    for decision in plan(infos, rule, ranking, time.time(), resumed_from):
        if decision.keep:
            continue
        try:
            drop(decision.checkpoint, decision.reason)
        except OSError as error:
            what = f"saved, but could not delete {decision.checkpoint.path!r}"
            return caused(SaveError(error.errno, f"{what}: {error.strerror}"), error)
    return None
