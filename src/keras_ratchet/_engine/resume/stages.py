"""Several runs of one model that share a directory: which of them a snapshot belongs to.

A script may call `fit` more than once with one directory: epoch by epoch, or first with a frozen
base and then without. A snapshot stores the number of its stage, the epochs that were planned, and
what the stages before it ended with. A script that is run again starts with its first stage; those
that the snapshot lists as finished are not trained again.

What this process has finished is counted here, for each model and directory, since neither a
`fit` nor a callback knows of the others: two `fit`s need not share a callback.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import keras

from keras_ratchet._engine.resume.state_codec import owned
from keras_ratchet._engine.resume.train_state import TrainState
from keras_ratchet._warn import warn
from keras_ratchet.errors import ResumeError
from keras_ratchet.types import Model

Standing = Literal["mine", "done", "past"]  # past: of an earlier one, which is finished
_WAY = (
    "Give each `fit` its own backup_dir (with delete_checkpoint=False, a finished `fit` is not "
    "trained again and ends exactly as before)."
)

_log = logging.getLogger("keras_ratchet")

_finished: weakref.WeakKeyDictionary[Any, dict[str, list[dict[str, Any]]]] = (
    weakref.WeakKeyDictionary()
)
_total: dict[str, int] = {}


@dataclass(slots=True)
class Stage:
    """One run, by its place among those of its model with one directory.

    Args:
        model: The model.
        directory: The directory of the snapshots.
        plan: The first epoch and the number of epochs that were asked for.

    Attributes:
        is_done: Whether it was finished before the interruption.
    """

    model: Model
    directory: str
    plan: tuple[int, int | None]
    is_done: bool = field(default=False, init=False)
    _before: list[dict[str, Any]] = field(init=False)
    _others: int = field(init=False)
    _record: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.directory = os.path.realpath(self.directory)
        self._before = list(_finished.get(self.model, {}).get(self.directory, ()))
        self._others = _total.get(self.directory, 0) - len(self._before)

    def facts(self) -> dict[str, Any]:
        """Return what a snapshot stores about its stage."""
        return {"plan": list(self.plan), "before": self._before, "others": self._others}

    def is_number_of(self, state: TrainState) -> bool:
        """Return whether a snapshot is of the stage that has this one's number."""
        return len(_facts_of(state)["before"]) == len(self._before)

    def standing(self, state: TrainState) -> Standing:
        """Return whether a snapshot is of this stage, or of a later one (then this is done).

        Raises:
            ResumeError: If it is of a stage that this run does not lead to.
        """
        saved = _facts_of(state)
        before, here = saved["before"], len(self._before)
        if len(before) < here and saved["others"] <= self._others:
            return "past"
        if saved["others"] > self._others:
            self._warn_of_others(saved["others"])
        elif saved["others"] < self._others and len(before) == here == 0:
            self._warn_of_this_process()  # after other numbers of fits the others below say so
        if len(before) == here:
            return "mine"
        if len(before) > here and list(self.plan) == before[here]["plan"]:
            self._record, self.is_done = before[here], True
            if here == 0:
                self._warn_of_skipping(len(before))
            _log.warning("fit number %d was already finished: no epoch is trained", here + 1)
            return "done"
        if list(self.plan) == saved["plan"] and here == 0:
            self._skip_to(before)
            return "mine"
        raise ResumeError(self._foreign(len(before)))

    def end(self, callbacks: Iterable[Any]) -> None:
        """Record that this stage is finished; if it was before, restore its History.

        Args:
            callbacks: The callbacks of the run, History among them.
        """
        record: dict[str, Any] = {"plan": list(self.plan), **self._record}
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.History) and self.is_done:
                callback.history = owned(record.get("history", {}))
                callback.epoch = owned(record.get("epoch", []))
            elif isinstance(callback, keras.callbacks.History):
                record |= {"history": owned(callback.history), "epoch": owned(callback.epoch)}
        _finished.setdefault(self.model, {})[self.directory] = [*self._before, record]
        _total[self.directory] = self._others + len(self._before) + 1

    def _warn_of_others(self, others: int) -> None:
        warn(
            f"The snapshot in {self.directory!r} was saved by a process in which {others} runs "
            "of other models had ended there before; in this process the number is "
            f"{self._others}. If these are folds or trials, this one resumes from the weights "
            "of another: give each its own backup_dir."
        )

    def _warn_of_this_process(self) -> None:
        warn(
            f"This process has already trained another model in {self.directory!r}, and this "
            "`fit` resumes from the snapshot there: it starts with the weights of that model, "
            "and trains only the additional epochs. If these are folds or trials, give each "
            "its own backup_dir."
        )

    def _warn_of_skipping(self, finished: int) -> None:
        numbers = "1" if finished == 1 else f"1 to {finished}"
        warn(
            f"`fit` number {numbers} with {self.directory!r} was finished before the "
            f"interruption and is not trained again. Until number {finished + 1} resumes, the "
            "model has the weights of the snapshot, which are later than those it had at that "
            f"point. {_WAY}"
        )

    def _skip_to(self, before: list[dict[str, Any]]) -> None:
        warn(
            f"The snapshot in {self.directory!r} belongs to `fit` number {len(before) + 1} "
            "with this directory, and this is number 1, with the same epochs: resuming from "
            "it, as if the earlier ones had been removed from the script."
        )
        self._before = before

    def _foreign(self, number: int) -> str:
        first, epochs = self.plan
        return (
            f"The snapshot in {self.directory!r} belongs to `fit` number {number + 1} with "
            f"this directory. `fit` number {len(self._before) + 1}, which starts now (epochs "
            f"{first} to {epochs}), does not lead to it. Nothing was changed. {_WAY}"
        )


def _facts_of(state: TrainState) -> dict[str, Any]:
    return {"before": [], "others": 0, "plan": None, **state.extra.get("stage", {})}
