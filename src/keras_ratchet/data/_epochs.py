"""What our data sets have in common: they know the epoch and give batches in their own order."""

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
    n-th batch of this data set's own order.

    Args:
        batches: Batches of one epoch.
    """

    def __init__(self, batches: int) -> None:
        super().__init__()  # Keras's workers stay off: they draw batches before an epoch begins
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
        """Begin to count; Keras calls this."""
        with self._lock:
            self._inside, self._asked = True, 0

    def on_epoch_end(self) -> None:
        """Go on to the next epoch; Keras calls this, and once more before training."""
        with self._lock:
            if self._inside:
                self._inside, self._skip = False, 0
                self.epoch += 1
                self._epoch_is_over()

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch began."""
        return self.state_at(0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where the epoch began."""
        self.seek(state, 0)

    @abc.abstractmethod
    def state_at(self, batch: int) -> dict[str, Any]:
        """Return the state after this many batches of the epoch were trained on.

        More of them may have been drawn: TensorFlow draws ahead.
        """

    def seek(self, state: dict[str, Any], batch: int) -> None:
        """Go to an epoch, of which this many batches were trained on.

        They will be asked for again and thrown away: what they get instead costs nothing.

        Args:
            state: What `state_at(batch)` returned.
            batch: How many.
        """
        with self._lock:
            self._inside, self._asked = False, 0
            self.epoch, self._skip = int(state["epoch"]), batch
            self._go_to(state)

    @abc.abstractmethod
    def _batch(self, index: int, peek: bool) -> Any:
        """Return a batch of the present epoch; one that was peeked at is asked for again.

        When all of the epoch's batches were trained on, the one after the last is peeked at.
        """

    def _epoch_is_over(self) -> None:
        """Forget what concerned the epoch."""

    def _go_to(self, state: dict[str, Any]) -> None:
        """Bring what a subclass has into place."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
