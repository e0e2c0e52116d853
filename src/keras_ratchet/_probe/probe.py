"""The callback that notes what a run does, for `ratchet doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_ratchet._engine.capture.model_state import Places
from keras_ratchet._engine.resume.callback_states import CallbackStates
from keras_ratchet._engine.resume.closures import Closures
from keras_ratchet._probe import values
from keras_ratchet._probe.batches import Batches
from keras_ratchet._probe.process import process_in, refuse_keras_backups

_DECISIONS = ("stop_reason", "best", "best_epoch", "stopped_epoch")


class Probe(keras.callbacks.Callback):
    """Notes what happens in a run, for `ratchet doctor`.

    It stands after all callbacks but the last one of `BackupAndRestore`, so that what it sees at
    the end of a batch is what the others have left.

    Args:
        directory: Where.
        callback_list: The list that it stands in.
    """

    def __init__(self, directory: str, callback_list: Any) -> None:
        super().__init__()
        self._process = process_in(directory)
        self._list = callback_list
        self._places = Places()
        self._batches: Batches | None = None
        self._states: CallbackStates | None = None
        self._closures: Closures | None = None
        self._fit = -1
        self._epoch = 0
        self._has_begun = self._validates = False

    def set_model(self, model: Any) -> None:
        """Store the model; on jax Keras brings its variables up to date whenever it is asked."""
        super().set_model(model)
        self._trained = self.model
        refuse_keras_backups(self._list.callbacks)

    def on_train_begin(self, logs: Any = None) -> None:
        """Note how everything is before a state is restored."""
        self._fit, self._process.fits = self._process.fits, self._process.fits + 1
        self._has_begun, self._validates, self._epoch = False, False, 0
        others = [c for c in self._list.callbacks if c is not self and not _is_ours_inside(c)]
        self._states = CallbackStates([c for c in others if c is not self._backup])
        layers = getattr(self._trained, "layers", ())
        self._closures = Closures([*others, self._trained, *layers], self._trained)
        self._batches = Batches(self._trained)

    @property
    def _backup(self) -> Any:
        return next((c for c in self._list.callbacks if hasattr(c, "resumed_from")), None)

    def _begin(self) -> None:
        """Note, once, where the run begins: by now it has been resumed, if it could be."""
        if self._has_begun:
            return
        self._has_begun = True
        backup, params = self._backup, self.params or {}
        resumed = getattr(backup, "resumed_from", None)
        self._process.mark(
            "fit_begin",
            fit=self._fit,
            callbacks=[type(c).__name__ for c in self._list.callbacks if c is not self],
            backup=None if backup is None else backup._store.directory,
            checkpoints=[p for c in self._list.callbacks if (p := getattr(c, "filepath", None))],
            resumed=resumed and {"epoch": resumed.epoch, "batch": resumed.batch},
            epochs=params.get("epochs"),
            steps=params.get("steps"),
            variables=values.digests(values.arrays_of(self._trained, self._places)),
            paths=values.paths_of(self._trained, self._places),
            streams=values.streams(),
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note it; from the first epoch on look at the batches."""
        self._begin()
        self._epoch, self._validates = epoch, False
        self._process.mark("epoch_begin", fit=self._fit, epoch=epoch)
        assert self._batches is not None
        self._batches.watch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note it."""
        self._process.mark("batch_begin", fit=self._fit, epoch=self._epoch, batch=batch)

    def see(self, batch: Any) -> None:
        """Take a batch of a loop that is not that of `fit`."""
        if self._batches is not None:
            self._batches.see(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the values of everything; end the run if it may take no more steps."""
        assert self._batches is not None
        data, samples = self._batches.digests()
        done = self._steps_done(batch)
        self._process.mark(
            "step",
            fit=self._fit,
            epoch=self._epoch,
            batch=batch,
            step=done,
            variables=values.digests(values.arrays_of(self._trained, self._places)),
            streams=values.streams(),
            rate=values.learning_rate(self._trained),
            data=data,
            samples=samples,
            logs=_numbers(logs),
        )
        most = self._process.options.get("steps")
        if most and done is not None and done >= most:
            self._trained.stop_training = True

    def _steps_done(self, batch: int) -> int | None:
        """Return how many steps of the whole run are done, if the length of an epoch is known."""
        steps = (self.params or {}).get("steps")
        if steps is None:
            return None if self._epoch else batch + 1
        return self._epoch * int(steps) + batch + 1

    def on_test_begin(self, logs: Any = None) -> None:
        """Note it."""
        self._validates = self._has_begun
        if self._validates:
            self._process.mark("validation_begin", fit=self._fit, epoch=self._epoch)

    def on_test_end(self, logs: Any = None) -> None:
        """Note it."""
        if self._validates:
            self._process.mark("validation_end", fit=self._fit, epoch=self._epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note it; end the run if it may take no more epochs."""
        self._process.mark("epoch_end", fit=self._fit, epoch=epoch, logs=_numbers(logs))
        most = self._process.options.get("epochs")
        if most and epoch + 1 >= most:
            self._trained.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Note everything that the run ends with."""
        self._begin()
        assert self._batches is not None and self._states is not None
        assert self._closures is not None
        self._batches.unwatch()
        arrays = values.arrays_of(self._trained, self._places)
        name = f"fit-{self._fit}.npz"
        np.savez(self._process.path(name), **{k.replace("/", "|"): v for k, v in arrays.items()})  # type: ignore[arg-type]
        self._process.mark(
            "fit_end",
            fit=self._fit,
            parts=self._parts(arrays),
            lost=self._states.lost(),
            closures=self._closures.changed(),
            arrays=name,
        )

    def on_train_abort(self, error: BaseException) -> None:
        """Note that `fit` was left by an exception."""
        if self._batches is not None:
            self._batches.unwatch()
        self._process.mark("error", fit=self._fit, text=repr(error))

    def _parts(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        assert self._states is not None
        found = values.digests(arrays)
        optimizers = {n: d for n, d in found.items() if n.startswith("optimizer/")}
        metrics = {n: d for n, d in found.items() if n.startswith("metrics/")}
        rest = {n: d for n, d in found.items() if n not in optimizers and n not in metrics}
        states = self._states.capture()
        history = states.pop("keras.src.callbacks.history.History#1", {})
        return {
            "model": rest,
            "optimizers": optimizers | values.torch_optimizers(self._trained) | self._of_loop(),
            "metrics": metrics,
            "history": dict(history.get("history", {})),
            "callbacks": values.callbacks(states),
            "decisions": self._decisions(),
            "random streams": values.streams(),
            "data position": self._position_of_data(),
            "attributes": self._attributes(),
        }

    def _decisions(self) -> dict[str, str]:
        found = {}
        for number, callback in enumerate(c for c in self._list.callbacks if c is not self):
            for name in _DECISIONS:
                value = getattr(callback, name, None)
                if value is not None:
                    shown = str(value) if name == "stop_reason" else values.short(value)
                    found[f"{type(callback).__name__}#{number}.{name}"] = shown
        return found

    @property
    def _resumer(self) -> Any:
        session = getattr(getattr(self._backup, "_last", None), "session", None)
        return getattr(session, "resumer", None)

    def _of_loop(self) -> dict[str, str]:
        """Return the state of the optimizer that a hand-written loop has given to `Run`."""
        return values.flat({"loop": self._resumer.optimizer.state()}) if self._resumer else {}

    def _position_of_data(self) -> dict[str, str]:
        return values.flat({"data": self._resumer.cursor.capture()}) if self._resumer else {}

    def _attributes(self) -> dict[str, str]:
        watched = getattr(self._resumer, "attributes", None)
        return values.flat(watched.capture(self._trained)) if watched is not None else {}


def _is_ours_inside(callback: Any) -> bool:
    """Return whether a callback was put into the list by this package."""
    return hasattr(callback, "has_closed") or type(callback).__module__.startswith(
        ("keras_ratchet.callbacks._", "keras_ratchet._")
    )


def _numbers(logs: Any) -> dict[str, float]:
    found = {}
    for name, value in (logs or {}).items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError):
            continue
    return found
