"""`Run`: snapshots, resume, stopping, signals and deadlines for a training loop written by hand."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import keras

from keras_ratchet import _html
from keras_ratchet._engine.resume.loop_strangers import Strangers
from keras_ratchet._numbers import number
from keras_ratchet._warn import warn
from keras_ratchet.callbacks._companions import show_batch
from keras_ratchet.callbacks._ranks import check_batches
from keras_ratchet.callbacks.backup_and_restore import BackupAndRestore
from keras_ratchet.callbacks.base import abandon
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Model, Position

T = TypeVar("T")


class Run:
    """Drives a hand-written training loop: `with Run(...) as run`, `run.epochs`, `run.batches`.

    The same snapshots and the same exactness as `BackupAndRestore` in `fit`: kill the process
    anywhere, run the script again, and the loop continues at the batch where it stopped.

    Args:
        directory: A directory for this run alone, or the URL of one on an object store.
        model: The Keras model; it need not be compiled.
        optimizer: The loop's optimizer: torch's, or a Keras one that is not the model's. A list
            where there is more to restore: further optimizers, torch's schedulers of learning
            rates, a `GradScaler`, anything with `state_dict` and `load_state_dict`.
        callbacks: Keras callbacks, ours among them; they are called at the usual moments.
        data: The training data if it has a state of its own: a torch DataLoader with a
            `generator`, or anything with `state_dict` and `load_state_dict`.
        **backup: Further arguments of `BackupAndRestore`: `save_freq`, `every_s`, `keep`,
            `delete_checkpoint`, `signals`, `deadline`, `mirror`, `coordinator`, `resume_from`,
            `on_saved`, `on_deleted`, `metadata`, and so on.

    Attributes:
        backup: The `BackupAndRestore` behind it.

    Raises:
        ConfigError: If an argument cannot work.

    Example:
        ```python
        with Run("runs/a", model, optimizer=optimizer, save_freq=100) as run:
            for epoch in run.epochs(50):
                for x, y in run.batches(loader):
                    run.log(loss=train_step(x, y))
                run.log(val_loss=validate())
        ```
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        model: Model,
        *,
        optimizer: Any = None,
        callbacks: Sequence[Any] = (),
        data: Any = None,
        **backup: Any,
    ) -> None:
        if isinstance(directory, keras.Model):
            raise ConfigError(
                "Run takes the directory first, then the model: Run(directory, model). Got: "
                f"{directory!r}, {model!r}.",
                see="custom-loop",
            )
        callbacks = list(callbacks)
        if any(isinstance(c, BackupAndRestore) for c in callbacks):
            raise ConfigError(
                "Run saves by itself: leave BackupAndRestore out of callbacks=.", see="custom-loop"
            )
        self._given = optimizer
        if isinstance(optimizer, list | tuple):
            optimizer = [_restorable(one, model) for one in optimizer]
        elif optimizer is not None:
            optimizer = _restorable(optimizer, model)
        self.backup = BackupAndRestore._for_loop(optimizer, directory, data=data, **backup)
        self._model = model
        self._history = keras.callbacks.History()
        self._callbacks = [self.backup, *callbacks, self._history]
        self._list: Any = None
        self._epoch_logs: dict[str, float] = {}
        self._epoch, self._epochs = 0, -1
        self._has_asked = self._has_drawn = False  # whether `batches` was called, and gave one
        self._strangers: Strangers | None = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Make the callbacks clean up if the loop was left before its end."""
        if self._list is not None:
            abandon(self._callbacks, error or GeneratorExit("the loop was left by break"))
            self._list = None
        self._look_no_more()

    @property
    def stopping(self) -> bool:
        """Whether a callback, a signal or a deadline has asked the loop to end."""
        return bool(self._model.stop_training)

    @property
    def history(self) -> dict[str, list[float]]:
        """The logs of all epochs, those before an interruption included."""
        history: dict[str, list[float]] = self._history.history
        return history

    def log(self, *, samples: float | None = None, **metrics: Any) -> None:
        """Record metrics: in a batch for its end, after the batches for the end of the epoch.

        Args:
            samples: On how many samples these metrics were measured, which is what a rank's value
                weighs in the mean over the ranks of a run in several processes.
            **metrics: Their values, by name.
        """
        if samples is not None and not metrics:
            raise ConfigError(
                f"Run.log(samples={samples!r}) says on how many samples metrics were measured, but "
                "names none. Give a metric of your own another name.",
                see="custom-loop",
            )
        self._epoch_logs.update({name: float(value) for name, value in metrics.items()})
        if samples is not None:
            self.backup.log_weights.update(dict.fromkeys(metrics, float(samples)))

    def epochs(self, epochs: int) -> Iterator[int]:
        """Yield the index of each epoch that is still to be trained.

        Args:
            epochs: How many there are in all.
        """
        self._model.stop_training = False
        self._epochs = epochs
        self._list = keras.callbacks.CallbackList(
            self._callbacks, model=self._model, epochs=epochs, verbose=0
        )
        self._list.on_train_begin()
        is_over = self.backup._session.is_over
        theirs = [c for c in self._callbacks if not type(c).__module__.startswith("keras_ratchet.")]
        stateful = [callback for callback in theirs if hasattr(callback, "state_dict")]
        self._strangers = Strangers(self._model, [self._given, *stateful])
        for epoch in range(epochs if is_over else self.backup.initial_epoch, epochs):
            self._epoch, self._epoch_logs = epoch, {}
            self._list.on_epoch_begin(epoch)
            yield epoch
            self._look_at_the_loop()
            self._list.on_epoch_end(epoch, dict(self._epoch_logs))
            if self.stopping:
                break
        self._list.on_train_end(dict(self._epoch_logs))
        self._list = None

    def batches(self, source: Iterable[T]) -> Iterator[T]:
        """Yield the batches of this epoch that are still to be trained.

        Args:
            source: One pass over the training data.

        Raises:
            ConfigError: If the loop is not inside `epochs`.
        """
        if self._list is None:
            raise ConfigError(
                "run.batches(...) belongs inside `for epoch in run.epochs(...)`.", see="custom-loop"
            )
        self._has_asked = True
        session = self.backup._session
        session.look_at(source)
        if self.backup._ranks.world_size > 1:
            check_batches(self.backup._ranks, source)
        skip, logs = session.take_skip()
        self._epoch_logs.update(logs)
        for index, batch in enumerate(source):
            if index < skip:
                if index == skip - 1:
                    session.resumer.restore_streams()
                continue
            session.resumer.optimizer.begin_batch()
            self._list.on_train_batch_begin(index)
            show_batch(self._list, batch)
            yield batch
            if self._strangers is not None and not self._has_drawn:
                self._strangers.warn()
            self._has_drawn = True
            self._list.on_train_batch_end(index, dict(self._epoch_logs))
            if self.stopping:
                return

    def _look_at_the_loop(self) -> None:
        """After the first epoch, warn of what is lost in this loop if it is interrupted."""
        if self._strangers is None:
            return
        self._strangers.warn()
        self._look_no_more()
        if not self._has_asked and self.backup._options.are_periodic:
            warn(
                "Run saves nothing within an epoch, as the loop has not drawn its batches from "
                "run.batches(...): write `for batch in run.batches(data)`, or give Run "
                "save_freq='epoch'."
            )

    def _look_no_more(self) -> None:
        if self._strangers is not None:
            self._strangers.close()
            self._strangers = None

    def _repr_html_(self) -> str:
        started = self._epochs >= 0
        origin = self.backup.resumed_from
        resumed = _done(origin) if origin else "nothing: it started from scratch"
        return _html.facts(
            "Run",
            {
                "directory": self.backup.backup_dir,
                "where it is": self._where(),
                "logs": ", ".join(f"{n} {number(v)}" for n, v in self._epoch_logs.items()),
                "best so far": self._best(),
                "next save": self._next_save(),
                "resumed from": resumed if started else None,
                "branch of": self.backup.branched_from,
                "training time": f"{self.backup.elapsed_s:.1f} s" if started else None,
                "stopped": next(filter(None, self._of_callbacks("stop_reason")), None),
            },
        )

    def _of_callbacks(self, name: str) -> Iterator[Any]:
        return (getattr(callback, name, None) for callback in self._callbacks)

    def _where(self) -> str:
        if self._epochs < 0:
            return "not started"
        session = self.backup._last.session
        if self._list is None or session is None:
            return f"ended: {len(self._history.epoch)} epochs done, of {self._epochs} epochs"
        return f"running: {_done(session.here())} done, of {self._epochs} epochs"

    def _best(self) -> str:
        """Return the best value that a callback knows, with its epoch; "" if none does."""
        for callback in self._callbacks:
            if (value := getattr(callback, "best_value", None)) is not None:
                found = f"{callback.monitor} {number(value)}"
                return f"{found} in epoch {callback.best_epoch + 1}"
        return ""

    def _next_save(self) -> str:
        """Return when the next save is due, while the loop runs."""
        session, options = self.backup._last.session, self.backup._options
        if self._list is None or session is None:
            return ""
        due = ["at the end of the epoch"] if self.backup.save_freq == "epoch" else []
        if options.every_batches is not None:
            due.append(f"in {options.every_batches.n - session.schedule.pending} batches")
        if options.interval is not None:
            due.append("by the clock")
        return " or ".join(due)


def _done(position: Position) -> str:
    batches = f" and {position.batch} batches" if position.batch else ""
    return f"{position.epoch} epochs{batches}"


def _restorable(optimizer: Any, model: Model) -> Any:
    has_state = hasattr(optimizer, "load_state_dict")
    return optimizer if has_state else _KerasOptimizer(optimizer, model)


class _KerasOptimizer:
    """Gives a Keras optimizer the two methods that torch's have."""

    def __init__(self, optimizer: Any, model: Model) -> None:
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ConfigError(
                f"optimizer must be a torch or Keras optimizer, or a list. Got: {optimizer!r}.",
                see="custom-loop",
            )
        if not model.built:
            raise ConfigError(
                "With a Keras optimizer the model must be built before Run.", see="custom-loop"
            )
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the values of all its variables."""
        values = [keras.ops.convert_to_numpy(v) for v in self._optimizer.variables]
        return {"variables": values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the values of all its variables."""
        for variable, value in zip(self._optimizer.variables, state["variables"], strict=True):
            variable.assign(value)
