"""`guard`: callbacks clean up when `fit` ends by an exception."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from keras_ratchet.callbacks.base import abandon
from keras_ratchet.types import Model


@contextlib.contextmanager
def guard(model: Model, callbacks: Any) -> Iterator[Any]:
    """Restore the best weights also when training ends by an exception.

    Keras calls no hook of a callback when `fit` is left by an exception: a data error in the
    middle of an epoch, an out-of-memory error, a second Ctrl-C. Inside this block our callbacks
    clean up (EarlyStopping restores the best weights), then the exception is raised. (The first
    Ctrl-C needs no guard.) A callback of your own takes part if it has a method
    `on_train_abort(error)`.

    Args:
        model: The model that is trained.
        callbacks: The callbacks given to `fit`: one, a list, or a `CallbackList`.

    Yields:
        The model.

    Example:
        ```python
        callbacks = [keras_ratchet.EarlyStopping(patience=5, restore_best_weights=True)]
        with keras_ratchet.guard(model, callbacks):
            model.fit(x, y, validation_split=0.2, epochs=100, callbacks=callbacks)
        ```
    """
    try:
        yield model
    except BaseException as error:
        abandon(_flat(callbacks), error)
        raise


def _flat(callbacks: Any) -> list[Any]:
    inner = getattr(callbacks, "callbacks", callbacks)
    if not isinstance(inner, Iterable):
        return [inner]
    return [leaf for entry in inner for leaf in _flat(entry)]
