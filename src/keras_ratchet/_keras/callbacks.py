"""Keras's callbacks: the list that calls them, what they remember, how they print.

| name | for | checked on |
|---|---|---|
| `CallbackList._async_train` | the thread of batch hooks | 3.12 to 3.16 |
| `CallbackList._async_test` | the thread of batch hooks | 3.12 to 3.16 |
| `set_model:self` | the list that is calling | 3.12 to 3.16 |
| `Callback._model` | set by Keras, no state | 3.12 to 3.16 |
| `ModelCheckpoint._current_epoch`, `ModelCheckpoint._last_batch_seen` | state | 3.12 to 3.16 |
| `ModelCheckpoint._batches_seen_since_last_saving` | state | 3.12 to 3.16 |
| `TensorBoard._global_train_batch`, `TensorBoard._global_test_batch` | state | 3.12 to 3.16 |
| `TensorBoard._previous_epoch_iterations` | state | 3.12 to 3.16 |
| `SwapEMAWeights._ema_weights_in_model` | state | 3.12 to 3.16 |
| `ModelCheckpoint._should_save_model`, `ModelCheckpoint._save_model` | users' hook | 3.12 to 3.16 |
| `ModelCheckpoint._should_save_on_batch` | users' hook | 3.12 to 3.16 |
| `ModelCheckpoint._get_file_path` | users' hook | 3.12 to 3.16 |
| `ModelCheckpoint._checkpoint_exists` | users' hook | 3.12 to 3.16 |
| `ModelCheckpoint._get_most_recently_modified_file_matching_pattern` | users' hook | 3.12 to 3.16 |
| `BackupAndRestore._load_model`, `BackupAndRestore._save_model` | users' hook | 3.12 to 3.16 |
| `ReduceLROnPlateau._reduce_optimizer_lr` | users' hook | 3.15 to 3.16 |
| `MonitorCallback._is_improvement` | users' hook | 3.12 to 3.16 |
| `io_utils.print_msg` | messages | 3.12 to 3.16 |
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import FrameType
from typing import Any

from keras_ratchet._warn import speech

SET_BY_KERAS = ("params", "_model", "validation_data", "model")


def frames_from(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and those that it was called from, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def calling_list() -> Any:
    """Return the `CallbackList` whose `set_model` is calling, or None.

    A `CallbackList` does not pass itself to callbacks, so it is found in its own frame.
    """
    import keras

    for frame in islice(frames_from(sys._getframe(1)), 8):
        if isinstance(frame.f_locals.get("self"), keras.callbacks.CallbackList):
            return frame.f_locals["self"]
    return None


def make_synchronous(callback_list: Any) -> None:
    """Make a list call batch hooks on the training thread.

    `CallbackList` looks for batch hooks only when it gets a Python list: with a bare
    `callbacks=cb` the hooks of torch and jax would run on pool threads.
    """
    callback_list._async_train = False
    callback_list._async_test = False


def without_callbacks(callback_list: Any, callbacks: list[Any]) -> Callable[[], None]:
    """Replace a list's callbacks, on the training thread; return a function that undoes it."""
    before = callback_list.callbacks, callback_list._async_train, callback_list._async_test
    callback_list.callbacks = callbacks
    make_synchronous(callback_list)

    def undo() -> None:
        callback_list.callbacks, callback_list._async_train, callback_list._async_test = before

    return undo


@functools.cache
def state_attributes() -> Mapping[type, tuple[str, ...]]:
    """Return the attributes in which Keras's own callbacks remember something, by class."""
    from keras import callbacks

    checkpoint = ("_current_epoch", "_batches_seen_since_last_saving", "_last_batch_seen")
    tensorboard = ("_global_train_batch", "_global_test_batch", "_previous_epoch_iterations")
    return {
        callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
        callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
        callbacks.ModelCheckpoint: ("best", *checkpoint),
        callbacks.TensorBoard: tensorboard,
        callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
        callbacks.History: ("history", "epoch"),
        callbacks.LearningRateScheduler: (),
        callbacks.TerminateOnNaN: (),
        callbacks.LambdaCallback: (),
        callbacks.RemoteMonitor: (),
        callbacks.ProgbarLogger: (),
        callbacks.BackupAndRestore: (),
    }


def print_message(message: str) -> None:
    """Print as Keras's own callbacks do with `verbose=1`; of several processes the first does."""
    from keras.src.utils import io_utils

    if speech.is_heard("print", 0, message):
        io_utils.print_msg(message)
