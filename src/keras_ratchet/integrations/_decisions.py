"""What a tracker is told of a run: metrics and decisions, each once, after an interruption too.

Decisions are read from the journals of the directories that the callbacks of the list save to.
What was told is noted beside the snapshots, since a resumed run repeats what came after the last
one: epochs up to the noted one are not told again, and journals are read on from where they were.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from keras_ratchet._storage import anywhere
from keras_ratchet._storage.journal_tail import Tail
from keras_ratchet._warn import warn
from keras_ratchet.callbacks._companions import is_examined
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.callbacks.backup_and_restore import BackupAndRestore
from keras_ratchet.callbacks.base import RatchetCallback
from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint
from keras_ratchet.errors import ConfigError
from keras_ratchet.integrations._news import Decision, News, best_values, sentence_of
from keras_ratchet.integrations._notes import read_note, write_note
from keras_ratchet.types import CheckpointInfo, Model, StopReason

_SILENT = {"begin", "epoch", "end", "stop"}  # why it stopped is asked of the callbacks


class Tracker(RatchetCallback):
    """The base of callbacks that tell a tracker of a run, on rank 0.

    It takes the last place of the list by itself, so that it hears of what the others decide when
    training ends. A tracker that cannot be reached does not end training: there is a warning, and
    what it was not told it is told later.

    Args:
        checkpoint: The `ModelCheckpoint` whose best file counts; by default the first of the list.

    Raises:
        ConfigError: If `checkpoint` is none.
    """

    _key = ""  # in the note of what was told

    def __init__(self, checkpoint: ModelCheckpoint | None = None) -> None:
        super().__init__()
        if checkpoint is not None and not isinstance(checkpoint, ModelCheckpoint):
            raise ConfigError(
                f"checkpoint must be a ModelCheckpoint. Got: {checkpoint!r}.", see="trackers"
            )
        self.checkpoint = checkpoint
        self._forget()
        self._tails: dict[str, Tail] = {}

    def _forget(self) -> None:
        self._run = secrets.token_hex(8)
        self._told = self._done = self._number = 0
        self._remote: str | None = None
        self._queue: list[News] = []
        self._warned: set[type] = set()
        self._has_begun = self._is_open = False

    # What a tracker has to do.

    def _open(self) -> None:
        """Start or go on with the tracker's run, whose name is `self._remote`."""

    def _tell(self, news: News) -> None:
        """Tell the tracker, so that a crash of this process does not lose it."""
        raise NotImplementedError

    def _finish(self, stops: list[StopReason], ended: bool) -> None:
        """Tell the tracker why training stopped, and what its result is.

        Args:
            stops: Why, for each callback that has stopped it.
            ended: Whether training has ended; else it was interrupted, and will go on.
        """

    def _close(self, error: BaseException | None, ended: bool) -> None:
        """Leave the tracker's run; errors of the tracker end nothing."""

    # What the list calls.

    def set_model(self, model: Model) -> None:
        """Take the last place, and look at where journals end."""
        super().set_model(model)
        if self._list is None:
            return
        present = self._list.callbacks
        tail = [c for c in present if getattr(c, "place", "") == "last"]
        self._list.callbacks = [*(c for c in present if c not in [*tail, self]), self, *tail]
        journals = filter(None, (getattr(c, "_run_journal", None) for c in present))
        self._tails = {p: Tail(p) for p in {os.path.abspath(j.directory) for j in journals}}

    def on_train_begin(self, logs: Any = None) -> None:
        """Start a run; a resume comes after this."""
        super().on_train_begin(logs)
        self._forget()
        if self.checkpoint is not None and self.checkpoint not in self._callbacks:
            raise ConfigError(
                "checkpoint= must be one of the callbacks that fit was given.", see="trackers"
            )
        if is_examined():
            warn(f"{type(self).__name__} tells nothing: `ratchet doctor` runs this script.")

    @property
    def _tells(self) -> bool:
        return not self._ranks.rank and not is_examined()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Find out what an interrupted run has told already."""
        super().on_epoch_begin(epoch, logs)
        if not self._has_begun and self._tells:
            self._begin(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tell, if nobody saves the epoch after this."""
        super().on_epoch_end(epoch, logs)
        if self._backup is None:
            self._tell_epoch(epoch + 1, metrics_of(logs))

    def on_epoch_saved(self, epoch: int, logs: Any = None) -> None:
        """Tell: BackupAndRestore has done what it does after an epoch."""
        self._tell_epoch(epoch + 1, metrics_of(logs))

    def on_train_end(self, logs: Any = None) -> None:
        """Tell what was decided at the end."""
        if self._tells:
            backup = self._backup
            ended = backup is None or backup.stop_reason is None
            if not self._has_begun and ended and self._is_unfinished():
                self._begin(0)
            if self._has_begun:
                self._end(None, ended)
        super().on_train_end(logs)

    def _wind_down(self, error: BaseException) -> None:
        if self._has_begun and not self._ranks.rank:
            self._end(error, False)

    def _begin(self, epoch: int) -> None:
        self._has_begun = True
        note = self._note()
        if note.get("run") == self._run:
            self._take_up(note)
        self._done = max(epoch, self._told)
        self._deliver()

    def _take_up(self, note: Mapping[str, Any]) -> None:
        self._told, self._number = max(self._told, note["epoch"]), note["number"]
        self._remote = note["remote"]
        self._read_from(note["journals"])

    def _read_from(self, journals: Mapping[str, int]) -> None:
        for directory, tail in self._tails.items():
            tail.at = journals.get(directory, tail.at)

    def _is_unfinished(self) -> bool:
        """Return whether a run that was trained to its end was killed before that was told."""
        note = self._note()
        return bool(note) and note["run"] == self._run and not note["ended"]

    def _tell_epoch(self, done: int, metrics: dict[str, float]) -> None:
        if self._ranks.rank or not self._has_begun:
            return
        is_new = done > self._told
        self._done = max(done, self._told)
        self._enqueue(metrics if is_new else {})
        self._told = max(self._told, done)
        self._deliver()

    def _enqueue(self, metrics: Mapping[str, float]) -> None:
        decisions = tuple(self._decisions())
        if metrics or decisions:
            best = best_values(self._callbacks) if metrics else {}
            self._queue.append(News(self._number, self._done, dict(metrics), decisions, best))
            self._number += 1

    def _deliver(self) -> None:
        """Tell what has not been told yet, and note it."""

        def tell() -> None:
            if not self._is_open:
                self._open()
                self._is_open = True
            while self._queue:
                self._tell(self._queue[0])
                del self._queue[0]

        if self._tries(tell):
            self._write_note(ended=False)

    def _end(self, error: BaseException | None, ended: bool) -> None:
        stops = [s for c in self._callbacks if isinstance(s := _stop_of(c), StopReason)]
        self._enqueue({})
        self._deliver()
        if self._is_open:
            done = self._tries(lambda: self._finish(stops, ended), is_last=True)
            done &= self._tries(lambda: self._close(error, ended), is_last=True)
            if done and ended and not self._queue:
                self._write_note(ended=True)
        if self._queue:
            warn(
                f"{type(self).__name__} could not tell everything: {len(self._queue)} epochs or "
                "decisions are in the journal only."
            )
        self._is_open = False

    def _tries(self, action: Callable[[], Any], is_last: bool = False) -> bool:
        """Return whether an action succeeds; until the end warn once for each kind of failure."""
        try:
            action()
        except ConfigError:
            raise
        except Exception as error:
            if is_last or type(error) not in self._warned:
                self._warned.add(type(error))
                later = "Training goes on; there is a new try after the next epoch and at the end."
                if is_last:
                    later = "It was the last try."
                warn(f"{type(self).__name__} could not do its work: {error!r}. {later}")
            return False
        return True

    # What it looks at.

    @property
    def _callbacks(self) -> list[Any]:
        return list(getattr(self._list, "callbacks", ()))

    @property
    def _others(self) -> list[Any]:
        return [c for c in self._callbacks if not isinstance(c, Tracker)]

    @property
    def _backup(self) -> BackupAndRestore | None:
        return next((c for c in self._callbacks if isinstance(c, BackupAndRestore)), None)

    def _decisions(self) -> list[Decision]:
        """Return what the journals say is new; an event that several have counts once."""
        stores = (getattr(c, "_run_journal", None) for c in self._callbacks)
        series = {getattr(store, "name", None) for store in stores}
        found: dict[tuple[Any, ...], Decision] = {}
        for directory, tail in self._tails.items():
            for number, event in enumerate(tail.new()):
                if event["event"] in _SILENT or event.get("series") not in {*series, None}:
                    continue
                decision = Decision(event["event"], sentence_of(event), event)
                in_all = event["event"] in ("resume", "rollback", "reduce_lr", "average")
                where = (event.get("epoch"), event.get("batch")) if in_all else (directory, number)
                found.setdefault((decision.sentence, *where), decision)
        return sorted(found.values(), key=lambda decision: decision.values.get("time", 0))

    def best_checkpoint(self) -> CheckpointInfo | None:
        """Return the best file of the run that is on the disk, the newest if none is better."""
        if (checkpoint := self._saver) is None:
            return None
        store = checkpoint._checkpointer.store
        saved = anywhere.checkpoints(store.directory)
        own = [i for i in saved if i.series == store.name and i.run == store.run]
        ranked = [] if checkpoint.save_best_only else store.ranking.sort(own)
        return next(iter(ranked), max(own, key=lambda info: info.saved_at, default=None))

    @property
    def _saver(self) -> ModelCheckpoint | None:
        if self.checkpoint is not None:
            return self.checkpoint
        return next((c for c in self._callbacks if isinstance(c, ModelCheckpoint)), None)

    # What is kept for a resume.

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        names = {"run": self._run, "remote": self._remote}
        return {**names, "epoch": self._told, "number": self._number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        self._run, self._remote = state["run"], state["remote"]
        if not self._has_begun:  # a snapshot of mid-epoch is restored once more after that
            self._told, self._number = state["epoch"], state["number"]

    def _without_run(self) -> dict[str, Any]:
        return {**super()._without_run(), "_tails": {}, "_queue": [], "_is_open": False}

    def _note(self) -> dict[str, Any]:
        backup = self._backup
        return {} if backup is None else read_note(backup._store.directory).get(self._key, {})

    def _to_note(self) -> dict[str, Any]:
        return {**self.state_dict(), "journals": self._read_up_to()}

    def _read_up_to(self) -> dict[str, int]:
        return {directory: tail.at for directory, tail in self._tails.items()}

    def _write_note(self, ended: bool) -> None:
        if self._backup is None:
            return
        content = {**self._to_note(), "ended": ended}
        with contextlib.suppress(OSError):  # then the epoch is told twice after a restart
            write_note(self._backup._store.directory, self._key, content)


def _stop_of(callback: Any) -> Any:
    return getattr(callback, "stop_reason", None)
