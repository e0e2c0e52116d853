"""Work on a model by one process alone, whatever `keras.distribution` is set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def undistributed() -> Iterator[None]:
    """Return a block in which new variables are this process's own.

    Keras's saver makes an optimizer to compare with. Under a distribution of several processes
    each new variable is placed on the devices of all of them, and JAX then waits for them.
    """
    import keras

    before = keras.distribution.distribution()
    if before is None:
        yield
        return
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)
