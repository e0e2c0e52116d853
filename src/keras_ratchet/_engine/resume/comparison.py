"""Whether this is the run that was interrupted: compared before anything is touched.

The arguments of the optimizer, the loss and the layers are read when a run starts, before a
callback or a snapshot changes them: a learning rate that was scheduled since is no difference, one
that was edited in the script is. Only plain values count: functions, initializers and automatic
names differ without meaning anything.

A script may call `fit` more than once with one directory: epoch by epoch, or first with a frozen
base and then without. A snapshot stores the number of its stage, the epochs that were planned, and
what the stages before it ended with. A script that is run again starts with its first stage; those
that the snapshot lists as finished are not trained again. What this process has finished is counted
here, for each model and directory, since neither a `fit` nor a callback knows of the others.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import keras

from keras_ratchet._engine.capture.model_state import COLLECTIONS, missing_extras
from keras_ratchet._engine.capture.optimizers import steps_of
from keras_ratchet._engine.resume.data_cursor import DataCursor
from keras_ratchet._engine.resume.state_codec import owned, plain
from keras_ratchet._engine.resume.train_state import TrainState, shape_differences
from keras_ratchet._engine.saving.provenance import versions
from keras_ratchet._keras import anatomy, fit, metrics
from keras_ratchet._warn import warn
from keras_ratchet.errors import ResumeError
from keras_ratchet.types import Model

_FATAL = ("optimizer", "layers")
_FATAL_IN_MID_EPOCH = ("batch_size", "batches_per_epoch", "data", "steps_per_execution")
RATE = "learning_rate"
_WITHOUT_MEANING = ("name", "trainable", "seed", "dtype")
_LONGEST = 32
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


def facts_of(model: Model, cursor: DataCursor) -> dict[str, Any]:
    """Return what is compared, as plain data."""
    kinds = [type(layer).__name__ for layer in anatomy.layers_of(model)[1:]]
    return {
        "layers": [kind for kind in kinds if kind != "InputLayer"],  # building may add those
        "optimizer": _kind(getattr(model, "optimizer", None)),
        "steps_per_execution": fit.steps_at_once(model),
        "versions": versions(),
        **cursor.facts(),
    }


@dataclass(slots=True)
class Differences:
    """How a run differs from the one that was saved.

    Attributes:
        fatal: What forbids a resume.
        mild: What is worth a warning.
        pending: Names of variables that are not there yet, and which the first step may make.
    """

    fatal: list[str] = field(default_factory=list)
    mild: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)


def compared(
    model: Model, named: Mapping[str, Any], state: TrainState, now: dict[str, Any], path: str
) -> Differences:
    """Return how a run differs from the one that was saved, if it can be resumed nevertheless.

    Args:
        model: The model.
        named: Its variables by place.
        state: What was saved.
        now: What `facts_of` returns for this run.
        path: The snapshot.

    Raises:
        ResumeError: If it is another run.
    """
    found = Differences(mild=missing_extras(model, state.variables))
    _compare_variables(model, named, state, found)
    for name, value in now.items():
        before = state.extra.get(name)
        if name == "versions" or before == value or (name == "data" and before == "loop"):
            continue
        sentence = f"{name}: {before!r} when saved, {value!r} now"
        stops = name in _FATAL or (state.position.batch and name in _FATAL_IN_MID_EPOCH)
        (found.fatal if stops else found.mild).append(sentence)
    before = state.extra.get("versions", {})
    for package, version in now["versions"].items():
        if before.get(package, version) != version:
            found.mild.append(f"{package}: {before[package]} when saved, {version} now")
    if found.fatal:
        raise ResumeError(
            f"The snapshot {path!r} belongs to another run: {'; '.join(found.fatal)}. "
            "Nothing was changed. Give this run a directory of its own, or delete that one.",
            see="other-run",
        )
    return found


def _compare_variables(
    model: Model, named: Mapping[str, Any], state: TrainState, found: Differences
) -> None:
    found.fatal += shape_differences(named, state.variables)
    own_step = anatomy.has_own_train_step(model)
    whole = anatomy.is_whole(model)
    for collection in COLLECTIONS:
        saved = {n for n in state.variables if n.startswith(f"{collection}/")}
        present = {n for n in named if n.startswith(f"{collection}/")}
        lacking, new = sorted(saved - present), sorted(present - saved)
        sentence = f"{collection}: {len(saved)} variables were saved, now there are {len(present)}"
        if collection == "metrics":
            if own_step and state.position.batch:
                found.pending += lacking
            elif not own_step and (lacking or new):
                # they start with an epoch, so that nothing is lost between two
                (found.fatal if state.position.batch else found.mild).append(sentence)
            continue
        may_come = not whole if collection == "model" else own_step or not whole
        if lacking and may_come:
            found.pending += lacking
        elif lacking or (new and state.extra.get("complete", True)):
            found.fatal.append(f"{sentence} (such as {(lacking or new)[0]})")


def other_backend(state: TrainState) -> bool:
    """Return whether the state was saved on another backend than the present one."""
    return bool(state.extra.get("versions", {}).get("backend") != keras.backend.backend())


def _kind(optimizer: Any) -> str:
    return type(getattr(optimizer, "inner_optimizer", None) or optimizer).__name__


def arguments_of(model: Model) -> dict[str, Any]:
    """Return the arguments in the script, as plain data."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", None) or optimizer
    layers = [x for x in anatomy.layers_of(model) if not isinstance(x, keras.Model)]
    return {
        "steps": steps_of(optimizer),
        "optimizer": _plain(_config(optimizer), nested=True),
        "loss": [*_losses(getattr(model, "loss", None)), *_losses(metrics.loss_weights(model))],
        "layers": [[type(layer).__name__, _plain(_config(layer))] for layer in layers],
    }


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value that the script has changed; the rate's comes first.

    An optimizer that has made steps has its present rate, not the script's.
    """
    if not saved or saved["steps"] != now["steps"]:
        return []
    found = _changed("", saved["optimizer"], now["optimizer"])
    if saved["loss"] != now["loss"]:
        found.append(f"loss: {_text(saved['loss'])} when saved, {_text(now['loss'])} now")
    for (kind, before), (_, after) in zip(saved["layers"], now["layers"], strict=False):
        found += _changed(f"{kind}.", before, after)
    return sorted(found, key=lambda sentence: not sentence.startswith(RATE))


def rate_differs(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether the script has another learning rate, as a number, than before."""
    if not saved or saved["steps"] != now["steps"]:
        return False
    before, after = (x["optimizer"].get(RATE) for x in (saved, now))
    return isinstance(before, float) and isinstance(after, float) and before != after


def _changed(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{prefix}{name}: {_text(before[name])} when saved, {_text(after[name])} now"
        for name in before
        if name in after and not _same(before[name], after[name])
    ]


def _same(before: Any, after: Any) -> bool:
    """Return whether two plain values are equal; NaN (of a Masking layer) is equal to NaN."""
    return before == after or repr(before) == repr(after)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('class_name')}({value.get('config')})"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _config(thing: Any) -> dict[str, Any]:
    """Return the configuration; none of what cannot be described, which can be trained too."""
    try:
        config = thing.get_config()
    except Exception:
        return {}
    return config if isinstance(config, dict) else {}


def _plain(config: Mapping[str, Any], nested: bool = False) -> dict[str, Any]:
    kept = {
        n: plain(v)  # Keras tracks lists, and a LayerNormalization describes itself with one
        for n, v in config.items()
        if n not in _WITHOUT_MEANING and _is_plain(v)
    }
    if nested and isinstance(config.get(RATE), dict):  # a schedule
        inner = _plain(config[RATE].get("config") or {})
        kept[RATE] = {"class_name": config[RATE].get("class_name"), "config": inner}
    return kept


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= _LONGEST and all(_is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _losses(loss: Any) -> Iterator[Any]:
    """Yield the names of losses, and their numbers."""
    if isinstance(loss, keras.losses.Loss):
        yield type(loss).__name__
        yield _plain(_config(loss))
    elif isinstance(loss, Mapping):
        for name in sorted(loss, key=str):
            yield str(name)
            yield from _losses(loss[name])
    elif isinstance(loss, list | tuple):
        for one in loss:
            yield from _losses(one)
    elif loss is not None:
        yield loss if isinstance(loss, str | int | float) else getattr(loss, "__name__", "loss")


def is_first_stage(model: Model, directory: str) -> bool:
    """Return whether no run of a model with a directory has ended in this process."""
    return not _finished.get(model, {}).get(os.path.realpath(directory))


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
        raise ResumeError(self._foreign(len(before)), see="other-run")

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
