"""The state of a run: captured, compared, and restored when the run is resumed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from keras_ratchet._engine.capture import building, optimizers, rng
from keras_ratchet._engine.capture.building import FlagsWatch
from keras_ratchet._engine.capture.last_reach import LastReach
from keras_ratchet._engine.capture.model_state import (
    EXTRA,
    Places,
    named_extras,
    restore_extras,
)
from keras_ratchet._engine.resume.attributes import AttributeStates
from keras_ratchet._engine.resume.callback_states import CallbackStates
from keras_ratchet._engine.resume.comparison import (
    RATE,
    Stage,
    arguments_of,
    changes,
    compared,
    facts_of,
    other_backend,
    rate_differs,
)
from keras_ratchet._engine.resume.data_cursor import DataCursor
from keras_ratchet._engine.resume.drift import alike
from keras_ratchet._engine.resume.elastic import Change, dealt_by, fresh_metrics
from keras_ratchet._engine.resume.loop_optimizer import LoopOptimizers
from keras_ratchet._engine.resume.snapshot_store import SnapshotStore
from keras_ratchet._engine.resume.train_state import (
    BeforeValidation,
    TrainState,
    capture_in_buffers,
    capture_variables,
    restore_variables,
    shape_differences,
)
from keras_ratchet._keras import fit
from keras_ratchet._keras.anatomy import one_walk
from keras_ratchet._warn import warn
from keras_ratchet.errors import ResumeError
from keras_ratchet.types import Model, Position

_log = logging.getLogger("keras_ratchet")


@dataclass(slots=True)
class Resumer:
    """Captures and restores the state of one run, however its loop is driven.

    Args:
        store: Where the snapshots are.
        callbacks: The states of the callbacks.
        cursor: The data.
        attributes: Those of the model, if they are looked at.
        optimizer: That of a hand-written loop, if it has one.
        script_sets_rate: Whether the script's learning rate counts, not the saved one.

    Attributes:
        state: What the run resumes from, if it does.
        name: That of its snapshot.
        stage: Which of several runs with one directory this is; set by `find`.
        pending: Names of variables of that state which only the first step can make.
        places: The names of the model's variables.
        reached: What else is reachable in the model.
        flags: What is trainable.
        change: Of the number of ranks since it was saved, if there is one.
    """

    store: SnapshotStore
    callbacks: CallbackStates
    cursor: DataCursor
    attributes: AttributeStates | None = None
    optimizer: LoopOptimizers = field(default_factory=lambda: LoopOptimizers(None))
    script_sets_rate: bool = False
    state: TrainState | None = field(default=None, init=False)
    name: str = field(default="", init=False)
    stage: Stage = field(init=False)
    pending: list[str] = field(default_factory=list, init=False)
    places: Places = field(default_factory=Places, init=False)
    reached: LastReach = field(default_factory=LastReach, init=False)
    flags: FlagsWatch = field(default_factory=FlagsWatch, init=False)
    change: Change | None = field(default=None, init=False)
    _in_first_epoch: bool = False
    _script: dict[str, Any] = field(default_factory=dict)
    _new_rate: float | None = None
    _began: float = field(default_factory=time.monotonic)
    _elapsed_before_s: float = 0.0
    _epoch_rng: dict[str, Any] = field(default_factory=dict)
    _epoch_cursor: dict[str, Any] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those of earlier runs included."""
        return self._elapsed_before_s + time.monotonic() - self._began

    def find(self, model: Model, epochs: int | None) -> TrainState | None:
        """Return the state to resume from, compared with this run, or None.

        A run that had done all its epochs is resumed if there are more of them now; one that was
        stopped early is not.
        Where this run was finished before the interruption, there is nothing to resume, and
        `stage.is_done` says so; the model then has the values of the snapshot.

        Raises:
            CorruptError: If there are snapshots and none of them verifies.
            ResumeError: If it belongs to another run; nothing has been changed.
        """
        self.flags.start(model, self.places)
        self._script = arguments_of(model)
        stage = self.stage = Stage(model, self.store.directory, (fit.first_epoch(), epochs))
        found = self.store.newest(lambda s: not stage.is_number_of(s) or _may_resume(s, epochs))
        if found is None:
            return None
        state, path = found
        standing = stage.standing(state)
        if standing == "done":
            self._restore_if_it_fits(model, state)
        if standing != "mine":
            return None
        ranks = self.store.ranks
        ranks.together(
            lambda: building.build_optimizers(model, self.places, state.built_for),
            "optimizers of the snapshot",
        )
        state = self._elastic(model, state, path)
        named, facts = self.places.variables(model), facts_of(model, self.cursor)
        here = ranks.together(
            lambda: compared(model, named, state, facts, path), "compare with the snapshot"
        )
        mild = [*here.mild, *self.flags.differences(state.trainable)]
        mild += self._compare_script(state.extra.get("script", {}))
        if mild and self.store.ranks.rank == 0:
            warn(f"Resuming from {path!r} despite these differences: {'; '.join(mild)}.")
        self.state, self.pending, self.name = state, here.pending, os.path.basename(path)
        self._elapsed_before_s = state.elapsed_s
        if self.store.ranks.rank == 0:
            where = self.store.mirror.shown(path)
            _log.warning("resuming from %s: %s are done", where, state.done)
        return state

    def _elastic(self, model: Model, state: TrainState, path: str) -> TrainState:
        """Return a state for this number of ranks."""
        ranks = self.store.ranks
        if state.world_size == ranks.world_size:
            return state
        self.change = Change(path, state, ranks)
        adapted = self.change.adapt(
            facts_of(model, self.cursor), self.cursor.loader, self.cursor.is_stateful
        )
        return fresh_metrics(adapted, ranks, self.places.variables(model, ("metrics",)))

    def _compare_script(self, saved: dict[str, Any]) -> list[str]:
        """Return how the script differs from the one that was saved, and decide whose rate counts.

        The saved rate is stored again, so that the next resume names the difference too.
        """
        found = changes(saved, self._script)
        if self.change is not None:  # of which another batch size is a part
            found = [sentence for sentence in found if ".batch_shape:" not in sentence]
        if self.script_sets_rate and saved and saved["steps"] != self._script["steps"]:
            return [
                "learning_rate='script' has no effect, since the optimizer has made steps before "
                "this fit and no longer has the script's rate; the saved rate is used"
            ]
        if not rate_differs(saved, self._script):
            return found
        rates = self._script["optimizer"]
        if self.script_sets_rate:
            self._new_rate = rates[RATE]
            _log.warning("%s (learning_rate='script')", found[0])
            return found[1:]
        rates[RATE] = saved["optimizer"][RATE]
        which = f"{found[0]} (the saved one is used; learning_rate='script' uses the other)"
        return [which, *found[1:]]

    def _restore_if_it_fits(self, model: Model, state: TrainState) -> None:
        """Restore the final values of a run that was finished."""
        building.build_optimizers(model, self.places, state.built_for)
        named = self.places.variables(model)
        lacking = [n for n in state.variables if n.startswith("model/") and n not in named]
        if not lacking and not shape_differences(named, state.variables):
            restore_variables(named, state.variables)
            optimizers.restore_torch_states(model, state.torch_optimizers)

    def restore(self, model: Model) -> None:
        """Restore variables, optimizers, what is trainable, and callbacks."""
        if self.state is None:
            return
        building.build_optimizers(model, self.places, self.state.built_for)
        restore_variables(self.places.variables(model), self.state.variables)
        restore_extras(model, self.state.variables)
        if self.attributes is not None:
            self.attributes.restore(model, self.state.attributes)
        self.flags.restore(model, self.places, self.state.trainable)
        optimizers.restore_torch_states(model, self.state.torch_optimizers)
        if self._new_rate is not None:
            model.optimizer.learning_rate = self._new_rate
        self.callbacks.load(self.state.callbacks, self.state.extra.get("identities"))
        self.optimizer.restore(self.state.loop)

    def require(self, in_fit: bool, skips: bool, is_over: bool) -> None:
        """Raise where the loop cannot resume.

        Args:
            in_fit: Whether the loop is that of `fit`.
            skips: Whether it can skip batches.
            is_over: Whether it will take no step.

        Raises:
            ResumeError: If batches have to be skipped, or variables are missing that no step will
                have made before they are needed.
        """
        assert self.state is not None
        if self.state.position.batch and not skips:
            raise ResumeError(
                "The snapshot is from the middle of an epoch, but only `fit` can skip batches. "
                "In a custom loop, use keras_ratchet.Run or save_freq='epoch'."
            )
        if self.pending and (self.in_validation or is_over or not in_fit):
            raise ResumeError(
                f"{len(self.pending)} variables were saved that this model does not have yet, "
                f"such as {self.pending[0]!r}, and no step creates them in time. "
                f"{building.CURE}."
            )

    def before_step(self, model: Model, first: bool) -> None:
        """Record what the next step is traced with; the first step creates what is pending.

        It starts from the present values: callbacks may have set some since the state was restored
        (the learning rate, for one).

        Args:
            model: The model.
            first: Whether it is the first step after a resume, and `fit` takes it.
        """
        self.flags.start_epoch(model, self.places)
        self._in_first_epoch = first
        if not first:
            return
        assert self.state is not None
        if self.state.position.epoch or self.state.position.batch:
            self.flags.trace_as_before(model, self.places, self.state.trainable)
        named = self.places.variables(model)
        mid_epoch = self.state.position.batch > 0
        needed = (n for n in self.state.variables if mid_epoch or not n.startswith("metrics/"))
        known = named | named_extras(model)
        self.pending = [n for n in needed if n not in known and not n.startswith(EXTRA)]
        if self.pending:
            building.step_twice(
                model, lambda: self._values_now(model), lambda values: self._complete(model, values)
            )

    def _values_now(self, model: Model) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        known = self.places.variables(model) | named_extras(model)
        return capture_variables(known), optimizers.torch_states(model)

    def _complete(
        self, model: Model, values: tuple[dict[str, NDArray[Any]], dict[str, Any]]
    ) -> None:
        assert self.state is not None
        named = self.places.variables(model)
        if lost := [name for name in self.pending if name not in named]:
            raise ResumeError(
                f"The first step did not create {lost[0]!r} ({len(lost)} variables in total), "
                f"which was saved. {building.CURE}."
            )
        saved = self.state.variables
        if not self._in_first_epoch or not self.state.position.batch:
            model.reset_metrics()  # this step is the first one of its epoch
            saved = {n: v for n, v in saved.items() if not n.startswith("metrics/")}
        restore_variables(named, {**saved, **values[0]})
        restore_extras(model, {**saved, **values[0]})
        optimizers.restore_torch_states(model, {**self.state.torch_optimizers, **values[1]})
        self.pending = []

    def start_first_epoch(self) -> None:
        """Bring data and random streams to the start of the epoch that is resumed."""
        assert self.state is not None
        state = self.state
        self.cursor.restore(state.cursor, state.position.epoch, state.position.batch)
        self._epoch_rng, self._epoch_cursor = self._streams(state.epoch_rng), state.cursor
        rng.restore(self._epoch_rng)

    def restore_streams(self) -> None:
        """Set the random streams to where they were at the batch, or at the validation's start."""
        assert self.state is not None
        streams = self._streams(self.state.rng)
        ahead = () if self.in_validation else self.cursor.drawn_from(streams)
        rng.restore({name: stream for name, stream in streams.items() if name not in ahead})

    @property
    def in_validation(self) -> bool:
        """Whether the state was saved when all batches of the epoch were done."""
        return self.state is not None and bool(self.state.extra.get("in_validation"))

    def start_epoch(self) -> None:
        """Record the streams and the data's state, for saves in the middle of the epoch."""
        self._epoch_rng = rng.capture()
        self._epoch_cursor = self.cursor.capture()

    def before_validation(self, model: Model) -> BeforeValidation:
        """Return copies of what a validation changes."""
        metrics = self.places.variables(model, ("metrics",))
        return BeforeValidation(capture_variables(metrics), rng.capture())

    @one_walk()
    def capture(
        self,
        model: Model,
        position: Position,
        logs: Mapping[str, float],
        progress: Mapping[str, Any],
        *,
        finished: str = "",
        validation: BeforeValidation | None = None,
        background: bool = False,
    ) -> TrainState:
        """Return the state of this moment.

        Args:
            model: The model.
            position: What is done.
            logs: Of the last step.
            progress: What else is known about how far the run is, as plain data.
            finished: How the run ended, if it has.
            validation: What a running validation has changed.
            background: Whether training continues before the state is written.
        """
        now = rng.capture()
        whole = position.batch == 0
        found, at_places = self.reached.of(model), self.places.variables(model)
        looked = self.store.look(at_places | named_extras(model, found))
        extra = self._comparable(model) | dict(progress)
        if validation is not None:
            extra["in_validation"] = True
        return TrainState(
            position=position,
            variables={} if validation is None else dict(validation.metrics),
            captured=capture_in_buffers(looked.captured, self.store.buffers, background),
            rng=now if validation is None else validation.streams,
            epoch_rng=now if whole else self._epoch_rng,
            callbacks=self.callbacks.capture(),
            cursor=self._cursor_at(position.batch),
            loop=self.optimizer.state(),
            logs=dict(logs),
            extra=extra,
            torch_optimizers=optimizers.torch_states(model),
            built_for=building.built_for(model, at_places),
            trainable=self.flags.state(model, self.places, at_places),
            attributes={}
            if self.attributes is None
            else self.attributes.look(model, position, found),
            elapsed_s=self.elapsed_s,
            finished=finished,
            alike=alike(at_places) if self.store.ranks.world_size > 1 else (),
            candidates=looked.candidates,
            unchanged=looked.unchanged,
        )

    def _comparable(self, model: Model) -> dict[str, Any]:
        """Return what the next resume compares with, and needs to find its way."""
        return facts_of(model, self.cursor) | {
            "complete": building.is_complete(model),
            "stage": self.stage.facts(),
            "identities": self.callbacks.identities,
            "script": self._script,
            **({"dealt_by": dealt} if (dealt := dealt_by(self.cursor.loader)) else {}),
        }

    def _cursor_at(self, batch: int) -> dict[str, Any]:
        if batch == 0:
            return self.cursor.capture()
        return self.cursor.capture_at(batch, self._epoch_cursor)

    def _streams(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return streams for this backend; those of another backend are left out."""
        assert self.state is not None
        if not other_backend(self.state):
            return state
        return {**state, "backend": {}}


def _may_resume(state: TrainState, epochs: int | None) -> bool:
    """Return whether a run may resume from a state: a finished one only if no epochs were added."""
    if state.finished != "all epochs":
        return True
    return epochs is None or epochs <= (state.extra.get("epochs") or 0)
