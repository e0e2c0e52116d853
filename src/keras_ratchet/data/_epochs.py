"""The base of our datasets: they count epochs and give batches in their own order."""

from __future__ import annotations

import abc
import threading
from collections.abc import Iterator
from typing import Any

import keras


class EpochDataset(keras.utils.PyDataset, abc.ABC):
    """A PyDataset that counts epochs, and the batches that were asked for within one.

    Keras asks for batches before the first epoch too (to build a model, to learn shapes), and
    within an epoch, with `fit(shuffle=True)`, in an order drawn from Python's global random
    numbers. So an index means a batch only between epochs; within one the n-th call gets the
    n-th batch of this dataset's own order.

    Args:
        batches: Batches of one epoch.
    """

    def __init__(self, batches: int) -> None:
        super().__init__()  # Keras's workers stay off: they draw batches before an epoch starts
        self.epoch = 0
        self._batches = batches
        self._inside = False
        self._asked = 0
        self._skip = 0
        self._example: Any = None
        self._lock = threading.RLock()

    @property
    def num_batches(self) -> int:
        """Batches of one epoch."""
        return self._batches

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> Any:
        with self._lock:
            if not self._inside:
                self._example = self._batch(range(self._batches)[index], peek=True)
                return self._example
            index, self._asked = self._asked, self._asked + 1
            if index >= self._skip:
                self._example = self._batch(index, peek=False)
            elif self._example is None:
                self._example = self._batch(self._skip, peek=True)
            return self._example

    def __iter__(self) -> Iterator[Any]:
        self.on_epoch_begin()
        try:
            for index in range(self._batches):
                yield self[index]
        finally:
            self.on_epoch_end()

    def on_epoch_begin(self) -> None:
        """Start to count; Keras calls this."""
        with self._lock:
            self._inside, self._asked = True, 0

    def on_epoch_end(self) -> None:
        """Advance to the next epoch; Keras calls this, and once more before training."""
        with self._lock:
            if self._inside:
                self._inside, self._skip = False, 0
                self.epoch += 1
                self._end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Return the state at the start of the epoch."""
        return self.state_at(0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state at the start of an epoch."""
        self.seek(state, 0)

    @abc.abstractmethod
    def state_at(self, batch: int) -> dict[str, Any]:
        """Return the state after this many batches of the epoch were trained on.

        More of them may have been drawn: TensorFlow draws ahead.
        """

    def seek(self, state: dict[str, Any], batch: int) -> None:
        """Restore a state after this many batches of an epoch.

        They are asked for again and thrown away, so that what is returned for them costs nothing.

        Args:
            state: What `state_at(batch)` returned.
            batch: How many batches were trained on.
        """
        with self._lock:
            self._inside, self._asked = False, 0
            self.epoch, self._skip = int(state["epoch"]), batch
            self._restore(state)

    @abc.abstractmethod
    def _batch(self, index: int, peek: bool) -> Any:
        """Return a batch of the current epoch; one that was peeked at is asked for again.

        When all of the epoch's batches were trained on, the one after the last is peeked at.
        """

    def _end_epoch(self) -> None:
        """Drop what belongs to the epoch that has ended."""

    def _restore(self, state: dict[str, Any]) -> None:
        """Restore what a subclass adds to the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
