"""Arrays in an order that is a pure function of seed and epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_ratchet.data._epochs import EpochDataset
from keras_ratchet.data._workers import Prefetcher
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import whole_number

Augment = Callable[[Any, Any, np.random.Generator], tuple[Any, Any]]


class ResumableDataset(EpochDataset):
    """Arrays, shuffled and augmented so that a run can resume at any batch, on every backend.

    The order of an epoch is a pure function of `seed` and the epoch, and what `augment` draws
    for a batch one of `seed`, epoch and batch: there is no state to save, nothing is drawn again
    when a run resumes in the middle of an epoch, and the number of workers changes nothing.

    Args:
        x: Array, or a structure (tuple, list, dict) of arrays of the same length. Anything that
            has a `shape` and takes an array of row numbers will do, a `numpy.memmap` too.
        y: The targets, likewise, or None.
        batch_size: Rows of a batch; the last one of an epoch may have fewer.
        seed: A whole number from 0 up.
        sample_weight: One weight for each row, or None.
        shuffle: Whether each epoch has an order of its own.
        augment: Called as `augment(x, y, rng)` with the arrays of a batch and a NumPy Generator;
            returns the new (x, y). Draw from `rng` only. With processes it has to be picklable
            where these are not forked.
        workers: Threads, or processes, that prepare batches in advance; 0 or 1 thread means that
            they are prepared when they are asked for.
        use_multiprocessing: Whether the workers are processes.
        max_queue_size: How many batches are prepared in advance.

    Attributes:
        epoch: Index of the current epoch; between two epochs, of the next one.

    Raises:
        ConfigError: If an argument cannot work.

    Example:
        ```python
        def flip(x, y, rng):
            return np.where(rng.random((len(x), 1, 1, 1)) < 0.5, x, x[:, :, ::-1]), y

        train = keras_ratchet.data.ResumableDataset(x, y, 64, seed=1, augment=flip, workers=4)
        model.fit(train, epochs=10, callbacks=[keras_ratchet.BackupAndRestore("backup")])
        ```
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        seed: int = 0,
        *,
        sample_weight: Any = None,
        shuffle: bool = True,
        augment: Augment | None = None,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        if y is None and sample_weight is not None:
            raise ConfigError("sample_weight needs y.", see="data-source")
        self._arrays = keras.tree.map_structure(_as_rows, _given(x, y, sample_weight))
        self._rows = _common_length(keras.tree.flatten(self._arrays))
        self.batch_size = whole_number("batch_size", batch_size, 1)
        super().__init__(math.ceil(self._rows / batch_size))
        self.seed = whole_number("seed", seed, 0)
        self.shuffle = shuffle
        self.augment = augment
        self._plan = whole_number("workers", workers, 0), use_multiprocessing
        self._depth = whole_number("max_queue_size", max_queue_size, 1)
        self._ahead: Prefetcher | None = None
        self._order: tuple[int, NDArray[np.intp]] | None = None

    def on_epoch_begin(self) -> None:
        """Start to count, and start the workers."""
        workers, processes = self._plan
        if self._ahead is None and workers > (0 if processes else 1):
            self._ahead = Prefetcher(self._computed, workers, processes, self._depth)
        super().on_epoch_begin()

    def state_at(self, batch: int) -> dict[str, Any]:
        """Return the epoch: nothing else is needed."""
        return {"epoch": self.epoch}

    def _batch(self, index: int, peek: bool) -> Any:
        if peek or self._ahead is None:
            return self._computed(self.epoch, index % self._batches)
        return self._ahead.get(self.epoch, index, self._batches)

    def _computed(self, epoch: int, index: int) -> Any:
        start = index * self.batch_size
        rows: Any = slice(start, min(start + self.batch_size, self._rows))
        if self.shuffle:
            rows = self._order_of(epoch)[rows]
        batch = keras.tree.map_structure(lambda array: np.asarray(array[rows]), self._arrays)
        if self.augment is None:
            return batch
        rng = self._generator(1, epoch, index)
        x, y = self.augment(batch[0], batch[1] if len(batch) > 1 else None, rng)
        return (x,) if y is None else (x, y, *batch[2:])

    def _order_of(self, epoch: int) -> NDArray[np.intp]:
        known = self._order
        if known is None or known[0] != epoch:
            known = epoch, self._generator(0, epoch).permutation(self._rows)
            self._order = known
        return known[1]

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=purpose))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ahead": None, "_order": None}


def _given(*parts: Any) -> tuple[Any, ...]:
    return tuple(part for part in parts if part is not None)


def _as_rows(array: Any) -> Any:
    if keras.ops.is_tensor(array):
        return keras.ops.convert_to_numpy(array)
    if not getattr(array, "shape", None):
        raise ConfigError(
            f"x, y and sample_weight must be arrays or structures of arrays. Got: {type(array)}.",
            see="data-source",
        )
    return array


def _common_length(arrays: list[Any]) -> int:
    lengths = sorted({int(array.shape[0]) for array in arrays})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ConfigError(
            f"The arrays must have the same length, at least 1. Got: {lengths}.", see="data-source"
        )
    return lengths[0]
