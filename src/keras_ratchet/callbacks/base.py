"""The base of our callbacks: a run starts, and it ends with cleanup, whatever ends it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import keras

from keras_ratchet import _backends
from keras_ratchet._distributed import Coordinator
from keras_ratchet._distributed.argument import CoordinatorArgument, common
from keras_ratchet._distributed.one import One
from keras_ratchet._engine.saving.background import drain
from keras_ratchet._keras.callbacks import calling_list, make_synchronous
from keras_ratchet._keras.ema import ema_pairs, swap_callback
from keras_ratchet.callbacks._abandoned_locks import keep_locks, watch_lock
from keras_ratchet.callbacks._agreement import join_list, leave_list
from keras_ratchet.callbacks._companions import add_companions
from keras_ratchet.callbacks._drop_in import check_subclass
from keras_ratchet.callbacks._engine_checks import (
    EpochDrift,
    check_start,
    refuse_strategy,
)
from keras_ratchet.callbacks._journal import Journal
from keras_ratchet.callbacks._ranks import agree_on_logs, check_same
from keras_ratchet.callbacks._signals import CtrlC, Loop, watch_ctrl_c
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Model

T = TypeVar("T")


class RatchetCallback(keras.callbacks.Callback):
    """A callback that cleans up however training ends.

    A subclass extends `on_train_begin` and `on_train_end`, and puts into `_wind_down` what has
    to happen when training ends by Ctrl-C or by an exception instead.

    Args:
        coordinator: How the processes of this training agree, if keras-ratchet cannot find out: an
            object like `keras_ratchet.Coordinator`. To give it to one callback of a list is enough.

    Raises:
        ConfigError: If it is no coordinator.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse a subclass that defines a method of Keras's class which would never be called."""
        super().__init_subclass__(**arguments)
        check_subclass(cls)

    def __init__(self, *, coordinator: Coordinator | None = None) -> None:
        refuse_strategy()
        keras.callbacks.Callback.__init__(self)  # not that of the class that ours replaces
        self._coordinator = CoordinatorArgument(coordinator)
        self._list: Any = None
        self._running = False
        self._drift: EpochDrift | None = None
        self._ctrl_c = CtrlC()
        self._ranks: Any = One()

    def set_model(self, model: Model) -> None:
        """Store the model, and the callback list that this callback is in.

        Raises:
            ConfigError: If it is a model of Keras 2.
        """
        refuse_keras_2(model, type(self).__name__)
        refuse_strategy(model)
        keras.callbacks.Callback.set_model(self, model)
        self._model = self.model  # what Keras takes out of a DistributedDataParallel
        self._list = calling_list()
        if self._list is not None:
            if self._needs_batch_hooks:
                make_synchronous(self._list)
            add_companions(self._list, model)

    @property
    def _needs_batch_hooks(self) -> bool:
        """Whether hooks after batches are used, which must run on the training thread."""
        return False

    @property
    def _compares_ranks(self) -> bool:
        """Whether it compares the weights of all ranks by itself, at each save."""
        return False

    @property
    def _run_journal(self) -> Journal | None:
        """Where a callback that saves notes what happens in the run; None for the others."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, without what belongs to a run."""
        return {**vars(self), **self._without_run()}

    def _without_run(self) -> dict[str, Any]:
        """Return the attributes that belong to a run, as they are without one."""
        own = {"_list": None, "_running": False, "_drift": None}
        return {**own, "_ctrl_c": CtrlC(), "_ranks": One()}

    def on_train_begin(self, logs: Any = None) -> None:
        """Start a run."""
        self._join()
        self._running = True
        self._ctrl_c = watch_ctrl_c(self._model, self._list, self)
        if self._ranks.world_size > 1 and self._list is not None:
            self._ctrl_c.is_shared = True
            join_list(self._list, self._model, self._ranks, self._ctrl_c)
        self._unshare()

    def _join(self) -> None:
        """Find out which process of how many this is."""
        argument = common(callback._coordinator for callback in self._ours())
        self._ranks = argument.find(keras.backend.backend())
        if self._ranks.world_size == 1:
            return
        loop = Loop(sys._getframe(), self._list)
        if not loop.always_ends and self._list is None and self._running:
            self._running = False  # it starts again, and was never told that it had ended
            self._ranks.leave("it starts again", self)
        watch_lock(self, self._list)  # which leaves runs that exceptions have ended
        self._ranks.before_exit = drain
        if self._ranks.start_run(self._owner, loop.always_ends):
            check_same(self._ranks, getattr(self._list, "callbacks", (self,)), self.params or {})
            check_start(self._model, self._ranks)
        self._drift = EpochDrift()

    @property
    def _owner(self) -> Any:
        """What a run of the ranks belongs to."""
        return self if self._list is None else self._list

    def _ours(self) -> list[RatchetCallback]:
        """Return the callbacks of ours in the list, or this one without a list."""
        callbacks = getattr(self._list, "callbacks", (self,))
        return [callback for callback in callbacks if isinstance(callback, RatchetCallback)]

    def _release_lock(self) -> bool:
        """Tell the other ranks, after a `fit` that an exception has ended; return whether done."""
        self._ranks.leave("an exception has ended its fit", self._owner)
        return True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """End training here if Ctrl-C was pressed since the last hook."""
        self._ctrl_c.epoch_is_whole = False
        self._raise_if_interrupted()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End training here if Ctrl-C cut the epoch short; one pressed later did not."""
        if not self._ctrl_c.requested:
            self._ctrl_c.epoch_is_whole = True
        self._raise_if_interrupted()
        if self._ranks.world_size > 1 and self._list is None and logs:
            agree_on_logs(self._ranks, epoch, logs, {})
        if self._ranks.world_size > 1:
            self._look_for_drift()

    def _look_for_drift(self) -> None:
        ours = self._ours()
        if any(callback._compares_ranks for callback in ours):
            return
        if self is ours[0] and self._drift is not None:
            self._drift.check(self._ranks, self.model)

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
        self._end_run()
        if self._ctrl_c.requested:
            self._leave(KeyboardInterrupt())

    def _end_run(self) -> None:
        """End the run of the ranks, once all of our callbacks have ended."""
        if self._ranks.world_size > 1 and not any(c._takes_part for c in self._ours()):
            leave_list(self._list)
            pressed = self._ranks.gather(self._ctrl_c.asked, "training ended")
            self._ctrl_c.requested |= any(pressed)  # too late for the epoch's end to hear of it
            self._ranks.end_run(self._owner)

    @property
    def _takes_part(self) -> bool:
        """Whether this callback has not ended yet."""
        return self._running

    def on_train_abort(self, error: BaseException) -> None:
        """Clean up after `fit` was left by an exception; `keras_ratchet.guard` calls it.

        Args:
            error: What ended training.
        """
        if not self._running:
            return
        self._running = False
        self._ctrl_c.release(self)
        if not self._all_end:
            self._ranks.leave(repr(error), self._owner)
        self._wind_down(error)
        if self._all_end:
            self._end_run()
        self._unshare()

    @property
    def _all_end(self) -> bool:
        """Whether all ranks end now, by a Ctrl-C of which all have heard."""
        return self._ctrl_c.is_shared and self._ctrl_c.requested

    def _wind_down(self, error: BaseException) -> None:
        """Clean up when no `on_train_end` comes."""

    def _raise_if_interrupted(self) -> None:
        """End training here; after a whole epoch `fit` ends by itself, and calls every hook."""
        if self._running and self._ctrl_c.requested and not self._ctrl_c.epoch_is_whole:
            self._leave(KeyboardInterrupt())

    def _leave(self, error: BaseException) -> NoReturn:
        """Make all callbacks clean up, then raise."""
        abandon([*getattr(self._list, "callbacks", ()), self], error)
        raise error

    def _or_abandon(self, action: Callable[[], T]) -> T:
        """Return what an action returns; if it raises, all callbacks clean up first."""
        try:
            return action()
        except Exception as error:
            abandon(getattr(self._list, "callbacks", []), error)
            raise

    def _swap(self) -> Any:
        """Return the SwapEMAWeights of the same list, or None."""
        return swap_callback(self._list)

    def _unshare(self) -> None:
        """Give a weight and its average a buffer each; Keras shares one on JAX with `use_ema`."""
        model: Any = self.model
        optimizer: Any = getattr(model, "optimizer", None)
        pairs = ema_pairs(optimizer) if getattr(optimizer, "built", False) else []
        if pairs:
            _backends.current().unalias([*model.variables, *optimizer.variables], pairs)


def abandon(callbacks: list[Any], error: BaseException) -> None:
    """Make each callback clean up; a failure becomes a note on `error`, which matters more."""
    with keep_locks(callbacks):
        for callback in callbacks:
            _abandon(callback, error)


def _abandon(callback: Any, error: BaseException) -> None:
    hook = getattr(callback, "on_train_abort", None)
    if hook is None:
        return
    try:
        hook(error)
    except Exception as failure:
        error.add_note(f"{type(callback).__name__} could not clean up: {failure!r}")


def refuse_keras_2(model: Model, name: str) -> None:
    """Raise a ConfigError if a model is one of Keras 2, which has other hooks."""
    roots = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "tf_keras" in roots:
        raise ConfigError(
            f"This model is a tf_keras (Keras 2) model, but keras_ratchet.{name} needs Keras "
            "3: create the model with `keras`, or use tf_keras.callbacks.",
            see="keras-2",
        )
