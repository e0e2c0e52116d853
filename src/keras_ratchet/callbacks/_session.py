"""One `fit` under BackupAndRestore: resumed at its begin, saved on its way, closed at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_ratchet._engine.capture import building
from keras_ratchet._engine.resume import keras_backup
from keras_ratchet._engine.resume.attributes import Unkept
from keras_ratchet._engine.resume.callback_states import CallbackStates
from keras_ratchet._engine.resume.data_cursor import DataCursor
from keras_ratchet._engine.resume.resumer import BeforeValidation, Resumer
from keras_ratchet._engine.resume.train_state import TrainState
from keras_ratchet._keras import data_adapters
from keras_ratchet._keras.fit import set_initial_epoch
from keras_ratchet.callbacks import _exactness
from keras_ratchet.callbacks._gone_bad import has_gone_bad, may_be_saved
from keras_ratchet.callbacks._list_ends import Closer, Gate
from keras_ratchet.callbacks._saves import Saves
from keras_ratchet.policy.deadline import Deadline
from keras_ratchet.types import Position

if TYPE_CHECKING:
    from keras_ratchet.callbacks.backup_and_restore import BackupAndRestore


class Session:
    """What BackupAndRestore does while one training runs.

    Args:
        head: The callback, whose arguments say how.
        model: The model in training.
        callback_list: The callbacks' list, or None where the hooks are called by hand.
    """

    def __init__(self, head: BackupAndRestore, model: Any, callback_list: Any) -> None:
        self._head = head
        self._model = model
        self._list = callback_list
        inner = getattr(callback_list, "callbacks", ())
        self._others = [c for c in inner if c is not head and c is not head.tail]
        building.build(model)
        iterator = data_adapters.epoch_iterator()
        self._in_fit, self.to_skip = iterator is not None, 0
        self._cursor = DataCursor(iterator, head.data, model)
        states = CallbackStates(self._others)
        self.resumer = Resumer(head.backups, states, self._cursor, head.loop_optimizer)
        self.resumer.script_sets_rate = head.learning_rate == "script"
        self.resumer.unkept = Unkept(model)
        self._first = self._warned = False
        self._lost = _exactness.Lost(states)
        self._epoch = self._done = 0
        self.saves = Saves(head, model, self.resumer)
        self._logs: Mapping[str, float] = {}
        self._validation: BeforeValidation | None = None

    def begin(self) -> int:
        """Go on from the newest snapshot, if there is one; return the epoch that is first."""
        _exactness.warn_of_losses(self._cursor)
        state = self.resumer.find(self._model, self.saves.epochs)
        self._first = state is not None and not state.finished
        if self.resumer.stage.is_done:
            self._skip_all_epochs()
            return self.saves.epochs or 0
        if state is None:
            self._epoch = keras_backup.adopt(self._model, self._head.backups.directory)
            set_initial_epoch(self._model, self._epoch or None)
            self.saves.save(self._here(), {}, "training begins")
            return self._epoch
        self.resumer.require(self._in_fit, self._in_fit or self._head.loop_skips, self.is_over)
        self.resumer.put_back(self._model)
        self._epoch, self._head.resumed_from = state.position.epoch, state.position
        self.saves.pace.pending = int(state.facts.get("pending", 0))
        set_initial_epoch(self._model, self._epoch)
        if self.is_over:
            self.saves.stopping = bool(state.facts.get("stopping"))
            self._skip_all_epochs()
            self.resumer.begin_first_epoch()  # no epoch will do it
        return state.position.epoch

    def _skip_all_epochs(self) -> None:
        """Let `fit` run no epoch, and the callbacks do their last work as they would have."""
        set_initial_epoch(self._model, self.saves.epochs)
        self._model.stop_training = self.saves.stopping

    def warn_of_generators(self, source: Any) -> None:
        """Warn, once, of a DataLoader with generators of its own that nobody told us about."""
        if self._head.data is None and not self._warned:
            self._warned = _exactness.warn_of_generators(source)

    @property
    def is_over(self) -> bool:
        """Whether all epochs of this training were done before it was begun again."""
        if (state := self.resumer.state) is None:
            return self.resumer.stage.is_done
        if self.saves.epochs is not None and state.position.epoch >= self.saves.epochs:
            return True
        return bool(state.finished or state.facts.get("stopping"))

    def before_epoch(self, epoch: int) -> None:
        """Before any other callback: bring data and random streams into place."""
        set_initial_epoch(self._model, None)
        self._epoch, self._done, self._logs = epoch, 0, {}
        if self._first:
            self.resumer.begin_first_epoch()
        self._cursor.epoch_begins()
        if self._head.in_mid_epoch and not self._skips():
            self.resumer.begin_epoch()

    def epoch_has_begun(self) -> None:
        """After all other callbacks: in mid-epoch, put everything back and skip."""
        if self._skips():
            self.resumer.put_back(self._model)
        self.resumer.before_step(self._model, self._first and self._in_fit)
        if self._skips():
            self._done = self.to_skip = self._state().position.batch
        if self._skips() and self._in_fit:
            Gate(self._model, self._list, self.resumer)
        self._first = False

    def batch_has_ended(self, batch: int, logs: Mapping[str, float]) -> None:
        """Save, if a trigger says so; `batch` is the index of the last one that ended."""
        done = self._cursor.completed(batch)
        ended, self._done, self._logs = done - self._done, done, logs
        if asked := self.saves.asked(self.saves.pace.step(self.saves.writing)):
            self._make_room(asked)
        elif self.saves.is_due(ended) and may_be_saved(self._model, self._others):
            self._lost.say()
            self.saves.save(self._here(), logs, "in mid-epoch")

    def _is_stopping(self) -> bool:
        return bool(getattr(self._model, "stop_training", False))

    def validation_begins(self) -> None:
        """Note what validation is about to change."""
        self._validation = self.resumer.before_validation(self._model)

    def validation_batch_has_ended(self) -> None:
        """Make room if asked to; the epoch's batches are all done."""
        if asked := self.saves.asked():
            self._make_room(asked, self._validation)

    def epoch_has_ended(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Save after all other callbacks have judged the epoch."""
        self._epoch, self._done, self._logs = epoch + 1, 0, {}
        _exactness.warn_of_changes(self._cursor.epoch_has_ended(epoch))
        self.saves.stopping = self._is_stopping() and not self._head.interrupted
        self._lost.say(last=True)
        if has_gone_bad(self._model, self._others, logs):
            return
        if asked := self.saves.asked():
            self._make_room(asked)
        elif self._head.save_freq == "epoch":
            self.saves.save(self._here(), logs, f"epoch {epoch + 1} has ended")

    def end(self, logs: Mapping[str, float]) -> None:
        """Delete our files, or leave the mark of a finished training."""
        self.saves.flush()
        state, stage = self.resumer.state, self.resumer.stage
        if stage.is_done:
            stage.end(self._others)
            return
        if state is not None and state.finished:
            self.resumer.put_back(self._model)
            self.resumer.go_on_in_epoch()
        elif has_gone_bad(self._model, self._others, logs):
            self._head.backups.note("gone_bad", reason="not saved; the snapshots before it stay")
            return
        elif not self._head.delete_checkpoint:
            mark = "stopped" if self._is_stopping() else "all epochs"
            self.saves.save(Position(self._epoch), logs, "training has ended", mark)
        stage.end(self._others)
        if self._head.delete_checkpoint:
            self._head.backups.clear()

    def _make_room(self, asked: Deadline, before: BeforeValidation | None = None) -> None:
        """Save if it fits into the time that is left, and end `fit` without more ado."""
        may_be_saved(self._model, self._others)
        self.saves.make_room(asked, self._here(), self._logs, before)
        if self._list is not None:
            Closer(self._model, self._list, self._others, self._head)

    def _here(self) -> Position:
        return Position(self._epoch, self._done)

    def take_skip(self) -> tuple[int, Mapping[str, float]]:
        """Return, once, how many batches a hand-written loop has to draw, and the logs then."""
        skip, self.to_skip = self.to_skip, 0
        return skip, self._state().logs if skip else {}

    def _skips(self) -> bool:
        return self._first and self._state().position.batch > 0

    def _state(self) -> TrainState:
        assert self.resumer.state is not None
        return self.resumer.state
