"""`resumable`: a dataset for exact resume out of a source that outlives the epochs."""

from __future__ import annotations

from typing import Any

import keras

from keras_ratchet.data._epochs import EpochDataset
from keras_ratchet.data._sources import Source, as_array, copied, length_of, source_of
from keras_ratchet.errors import ConfigError

_PLACES = 64


def resumable(source: Any, batches_per_epoch: int | None = None, *, seed: int = 0) -> EpochDataset:
    """Return a dataset of a source of batches, on which a run can resume at any batch.

    Every epoch takes `batches_per_epoch` batches; when the source ends it starts again. Resuming
    costs nothing with grain and with anything that has `state_dict` and `load_state_dict`; a torch
    DataLoader and tf.data read the interrupted pass again; generators, iterators and workers that
    outlive epochs (`persistent_workers`) have no state, and everything is read again.

    Args:
        source: A torch DataLoader or StatefulDataLoader, a grain dataset, loader or iterator, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, an iterator, a generator, a function
            without arguments that makes one of them, or anything that can be iterated over.
            Give it a seed where it shuffles by itself.
        batches_per_epoch: Number of batches of an epoch; needed if the source has no length.
        seed: Of Python's, NumPy's and torch's global random numbers while the source draws: it
            has streams of its own, which are saved.

    Returns:
        A `keras.utils.PyDataset` for `fit`, on any backend.

    Raises:
        ConfigError: If batches cannot be drawn from the source, or their number is unknown.

    Example:
        ```python
        train = keras_ratchet.data.resumable(lambda: my_generator(), batches_per_epoch=500)
        model.fit(train, epochs=10, callbacks=[keras_ratchet.BackupAndRestore("backup")])
        ```
    """
    if isinstance(source, EpochDataset):
        return source
    if hasattr(source, "shape"):
        raise ConfigError(
            "Arrays are not a source of batches. Use ResumableDataset for them.", see="data-source"
        )
    if batches_per_epoch is None:
        batches_per_epoch = length_of(source)
    if batches_per_epoch is None:
        name = type(source).__name__
        raise ConfigError(
            f"A {name} has no known length: pass batches_per_epoch.", see="data-source"
        )
    if isinstance(batches_per_epoch, bool) or batches_per_epoch < 1:
        raise ConfigError(
            f"batches_per_epoch must be at least 1. Got: {batches_per_epoch!r}.", see="data-source"
        )
    return SourceDataset(source_of(source, seed), int(batches_per_epoch), source)


class SourceDataset(EpochDataset):
    """Epochs out of a source, whose state is noted for each batch before it is drawn.

    TensorFlow draws ahead of training: the state that belongs to a batch is not the present one.

    Args:
        source: The source.
        batches: Batches of an epoch.
        original: What the source draws from.
    """

    def __init__(self, source: Source, batches: int, original: Any = None) -> None:
        super().__init__(batches)
        self.original = original
        self._source = source
        self._drawn = 0  # of this epoch; below 0 while batches of an epoch cut short are left over
        self._ready: dict[int, Any] = {}
        self._places: dict[int, dict[str, Any]] = {}
        self._notes_all = False

    def state_at(self, batch: int) -> dict[str, Any]:
        """Return the epoch and a state of the source, and the batch that this one belongs to.

        The states of the last batches are noted from the first time that one is asked for; until
        then the one at the epoch's start is used.
        """
        with self._lock:
            self._notes_all = self._notes_all or batch > 0
            while self._drawn < 0:
                self._draw()
            if batch == self._drawn:
                self._places[batch] = self._source.state()
            place = max(noted for noted in self._places if noted <= batch)
            return {"epoch": self.epoch, "batch": place, "source": self._places[place]}

    def _restore(self, state: dict[str, Any]) -> None:
        self._drawn = int(state["batch"])
        self._ready = {}
        self._places = {self._drawn: state["source"]}
        self._source.restore(state["source"])

    def _batch(self, index: int, peek: bool) -> Any:
        while self._drawn <= index:
            self._draw(keep=copied if peek else as_array)
        return self._ready[index] if peek else self._ready.pop(index)

    def _draw(self, keep: Any = as_array) -> None:
        if self._drawn == 0 or self._notes_all:
            self._note()
        batch = self._source.draw()
        if self._drawn >= self._skip:
            self._ready[self._drawn] = keras.tree.map_structure(keep, batch)
        self._drawn += 1

    def _note(self) -> None:
        self._places[self._drawn] = self._source.state()
        if len(self._places) > _PLACES:
            del self._places[sorted(self._places)[1]]  # the first one is the epoch's start

    def _end_epoch(self) -> None:
        n = self._batches
        self._drawn -= n
        self._ready = {i - n: batch for i, batch in self._ready.items() if i >= n}
        self._places = {i - n: state for i, state in self._places.items() if i >= n}
