"""What our callbacks have in common: a beginning, and an end on every way out."""

from __future__ import annotations

from typing import Any

import keras

from keras_ratchet import _backends, _compat
from keras_ratchet.callbacks._interrupt import CtrlC


class RatchetCallback(keras.callbacks.Callback):
    """A callback whose last work is done however training ends.

    A subclass extends `on_train_begin` and `on_train_end`, and puts into `_wind_down` what has
    to happen when training ends by Ctrl-C or by an exception instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self._list: Any = None
        self._running = False
        self._validated = False
        self._ctrl_c = CtrlC()

    def set_model(self, model: Any) -> None:
        """Note the model, and the callback list that this callback is in."""
        super().set_model(model)
        self._list = _compat.calling_list()

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin a run."""
        self._running = True
        self._validated = False
        self._ctrl_c.arm(self._model, self._list)
        self._unshare()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """End training here if Ctrl-C was pressed since the last hook."""
        self._validated = False
        self._raise_if_interrupted()

    def on_test_begin(self, logs: Any = None) -> None:
        """End training here, before the validation, if Ctrl-C was pressed."""
        if self._running:
            self._raise_if_interrupted()
            self._validated = True

    def on_train_end(self, logs: Any = None) -> None:
        """End a run."""
        self._running = False
        interrupted = self._ctrl_c.requested
        self._ctrl_c.disarm()
        self._ctrl_c.requested = False
        self._unshare()
        if interrupted:
            self._interrupt()

    def on_train_abort(self, error: BaseException) -> None:
        """Do the last work after `fit` was left by an exception; `keras_ratchet.guard` calls it.

        Args:
            error: What ended training.
        """
        if not self._running:
            return
        self._running = False
        self._ctrl_c.disarm()
        self._ctrl_c.requested = False
        self._wind_down(error)

    def _wind_down(self, error: BaseException) -> None:
        """Do what must not be left undone."""

    def _epoch_is_partial(self) -> bool:
        """Say whether Ctrl-C cut this epoch short (one in validation did not)."""
        return self._ctrl_c.requested and not self._validated

    def _raise_if_interrupted(self) -> None:
        if self._running and self._ctrl_c.requested:
            self._interrupt()

    def _interrupt(self) -> None:
        error = KeyboardInterrupt()
        abandon([*getattr(self._list, "callbacks", ()), self], error)
        raise error

    def _unshare(self) -> None:
        """Undo what Keras does on JAX with `use_ema`: one buffer for a weight and its average."""
        model: Any = self.model
        optimizer: Any = getattr(model, "optimizer", None)
        if getattr(optimizer, "built", False) and _compat.ema_pairs(optimizer):
            _backends.current().unalias([*model.variables, *optimizer.variables])


def abandon(callbacks: list[Any], error: BaseException) -> None:
    """Let each callback do its last work; a failure is noted on `error`, which matters more."""
    for callback in callbacks:
        hook = getattr(callback, "on_train_abort", None)
        if hook is None:
            continue
        try:
            hook(error)
        except Exception as failure:
            error.add_note(f"{type(callback).__name__} could not finish its work: {failure!r}")
