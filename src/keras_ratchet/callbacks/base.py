"""What our callbacks have in common: a beginning, and an end on every way out."""

from __future__ import annotations

from typing import Any, NoReturn

import keras

from keras_ratchet import _backends
from keras_ratchet._keras.callback_list import calling_list
from keras_ratchet._keras.ema import ema_pairs, swap_callback
from keras_ratchet.callbacks._abandoned_locks import last_work
from keras_ratchet.callbacks._drop_in import check_subclass
from keras_ratchet.callbacks._interrupt import CtrlC, watch
from keras_ratchet.errors import ConfigError


class RatchetCallback(keras.callbacks.Callback):
    """A callback whose last work is done however training ends.

    A subclass extends `on_train_begin` and `on_train_end`, and puts into `_wind_down` what has
    to happen when training ends by Ctrl-C or by an exception instead.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse what a subclass defines in Keras's manner, and would never be called."""
        super().__init_subclass__(**arguments)
        check_subclass(cls)

    def __init__(self) -> None:
        keras.callbacks.Callback.__init__(self)  # not that of the class that we stand in for
        self._list: Any = None
        self._running = False
        self._ctrl_c = CtrlC()

    def set_model(self, model: Any) -> None:
        """Note the model, and the callback list that this callback is in.

        Raises:
            ConfigError: If it is a model of Keras 2.
        """
        refuse_keras_2(model, type(self).__name__)
        keras.callbacks.Callback.set_model(self, model)
        self._model = self.model  # what Keras takes out of a DistributedDataParallel
        self._list = calling_list()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out, in copies and pickles, what belongs to a run."""
        return {**vars(self), **self._without_run()}

    def _without_run(self) -> dict[str, Any]:
        """Return the attributes that belong to a run, as they are without one."""
        return {"_list": None, "_running": False, "_ctrl_c": CtrlC()}

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin a run."""
        self._running = True
        self._ctrl_c = watch(self._model, self._list, self)
        self._unshare()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """End training here if Ctrl-C was pressed since the last hook."""
        self._ctrl_c.epoch_is_whole = False
        self._raise_if_interrupted()

    def on_test_begin(self, logs: Any = None) -> None:
        """End training here, before the validation, if Ctrl-C was pressed."""
        if self._running:
            self._raise_if_interrupted()
            self._ctrl_c.epoch_is_whole = True

    def on_train_end(self, logs: Any = None) -> None:
        """End a run."""
        self._running = False
        self._ctrl_c.release(self)
        self._unshare()
        if self._ctrl_c.requested:
            self._leave(KeyboardInterrupt())

    def on_train_abort(self, error: BaseException) -> None:
        """Do the last work after `fit` was left by an exception; `keras_ratchet.guard` calls it.

        Args:
            error: What ended training.
        """
        if not self._running:
            return
        self._running = False
        self._ctrl_c.release(self)
        self._wind_down(error)
        self._unshare()

    def _wind_down(self, error: BaseException) -> None:
        """Do what must not be left undone."""

    def _epoch_is_partial(self) -> bool:
        """Say, at its end, whether Ctrl-C cut the epoch short (one pressed later did not)."""
        if not self._ctrl_c.requested:
            self._ctrl_c.epoch_is_whole = True
        return not self._ctrl_c.epoch_is_whole

    def _raise_if_interrupted(self) -> None:
        """End training here; after a whole epoch `fit` ends by itself, and in better order."""
        if self._running and self._ctrl_c.requested and not self._ctrl_c.epoch_is_whole:
            self._leave(KeyboardInterrupt())

    def _leave(self, error: BaseException) -> NoReturn:
        """Let all callbacks do their last work, then raise."""
        abandon([*getattr(self._list, "callbacks", ()), self], error)
        raise error

    def _swap(self) -> Any:
        """Return the SwapEMAWeights of the same list, or None."""
        return swap_callback(self._list)

    def _unshare(self) -> None:
        """Undo what Keras does on JAX with `use_ema`: one buffer for a weight and its average."""
        model: Any = self.model
        optimizer: Any = getattr(model, "optimizer", None)
        pairs = ema_pairs(optimizer) if getattr(optimizer, "built", False) else []
        if pairs:
            _backends.current().unalias([*model.variables, *optimizer.variables], pairs)


def abandon(callbacks: list[Any], error: BaseException) -> None:
    """Let each callback do its last work; a failure is noted on `error`, which matters more."""
    with last_work(callbacks):
        for callback in callbacks:
            _abandon(callback, error)


def _abandon(callback: Any, error: BaseException) -> None:
    hook = getattr(callback, "on_train_abort", None)
    if hook is None:
        return
    try:
        hook(error)
    except Exception as failure:
        error.add_note(f"{type(callback).__name__} could not finish its work: {failure!r}")


def refuse_keras_2(model: Any, name: str) -> None:
    """Raise a ConfigError if a model is one of Keras 2, which has other hooks."""
    roots = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "tf_keras" in roots:
        raise ConfigError(
            f"This model is a tf_keras (Keras 2) model, and keras_ratchet.{name} needs Keras 3: "
            f"make the model with `keras`, or use tf_keras.callbacks."
        )
