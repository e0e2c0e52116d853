"""Endless streams of batches out of whatever there is, each with a state.

| source | its state | restoring it |
|---|---|---|
| grain's and others with `get_state`, `set_state` | the iterator's | at once |
| others with `state_dict`, `load_state_dict` | its own | at once |
| torchdata `StatefulDataLoader` | its own | at once |
| torch `DataLoader` | streams at the start of the pass, batches since | reads the pass again |
| `tf.data.Dataset` of known length | passes, and batches since | reads the pass again |
| generators, iterators, iterables | number of batches | reads everything again |

A pass is one iteration over the source; when it ends the next one starts. While a source draws,
Python's, NumPy's and torch's global random streams are its own.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_ratchet import _backends
from keras_ratchet._engine.resume.data_states import DataStates
from keras_ratchet.data._streams import OwnStreams
from keras_ratchet.errors import ConfigError, ResumeError

_KEPT = 2  # Keras draws up to two batches to learn shapes, before a state can be restored


class Source(abc.ABC):
    """Batches, pass after pass.

    Args:
        thing: What is iterated over.
        seed: Of the streams.
        length: Batches of a pass, if known.
    """

    def __init__(self, thing: Any, seed: int, length: int | None = None) -> None:
        self._thing = thing
        self._length = length
        self._streams = OwnStreams(seed)
        self._iterator: Iterator[Any] | None = None
        self._drawn = 0  # in this pass

    def draw(self) -> Any:
        """Return the next batch.

        Raises:
            ConfigError: If there is none: a pass was empty, or only one was possible.
        """
        with self._streams:
            try:
                batch = self._next()
            except StopIteration:
                self._end_pass()
                try:
                    batch = self._next()
                except StopIteration:
                    raise ConfigError(
                        f"{type(self._thing).__name__} has run out of batches. Pass "
                        "`resumable` a function that creates it, or an iterable that can be "
                        "read again.",
                        see="data-source",
                    ) from None
            self._drawn += 1
            if self._drawn == self._length:
                self._end_pass()
        return batch

    def _next(self) -> Any:
        if self._iterator is None:
            self._iterator = self._start_pass()
        return next(self._iterator)

    def _start_pass(self) -> Iterator[Any]:
        return iter(self._thing)

    def _end_pass(self) -> None:
        self._iterator, self._drawn = None, 0

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the state before the next batch, as plain data."""

    @abc.abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state.

        Raises:
            ResumeError: If the source has been read further and cannot be rewound.
        """


class IterableSource(Source):
    """Anything that can be iterated over, without state: restoring one reads everything again.

    Only a function that makes the iterable can be rewound.
    """

    def __init__(self, thing: Any, seed: int, length: int | None = None) -> None:
        super().__init__(thing, seed, length)
        self._total = 0
        self._furthest = 0
        self._kept: list[Any] = []

    def draw(self) -> Any:
        """Return the next batch."""
        if self._total < self._furthest:
            batch = self._kept[self._total]
        else:
            batch = super().draw()
            self._furthest += 1
            if len(self._kept) < _KEPT:
                self._kept.append(keras.tree.map_structure(copied, batch))
        self._total += 1
        return batch

    def _start_pass(self) -> Iterator[Any]:
        return iter(self._thing() if callable(self._thing) else self._thing)

    def state(self) -> dict[str, Any]:
        """Return the number of batches."""
        return {"total": self._total}

    def restore(self, state: dict[str, Any]) -> None:
        """Read up to the state's batch."""
        total = int(state["total"])
        if total < self._total:
            self._rewind()
        self._advance(total)

    def _rewind(self) -> None:
        if self._furthest > len(self._kept):
            if not callable(self._thing):
                raise ResumeError(
                    f"{type(self._thing).__name__} has been read beyond the saved position and "
                    "cannot be rewound. Create it again before `fit`.",
                    see="data-position",
                )
            self._streams.reset()
            self._end_pass()
            self._furthest, self._kept = 0, []
        self._total = 0

    def _advance(self, total: int) -> None:
        while self._total < total:
            self.draw()


class TFDatasetSource(IterableSource):
    """A `tf.data.Dataset` of known length: earlier passes are started, but not read.

    A shuffled dataset draws a new order for each iterator that is made of it. What its functions
    remember, such as the seeds of augmentation layers, is restored to the start of the pass.
    """

    def __init__(self, thing: Any, seed: int, length: int | None = None) -> None:
        super().__init__(thing, seed, length)
        self._states = DataStates({type(thing).__name__: thing}, [])
        self._at_start: dict[str, Any] = {}
        self._to_start: dict[str, Any] = {}

    def _start_pass(self) -> Iterator[Any]:
        self._at_start = self._states.capture()
        return super()._start_pass()

    def _end_pass(self) -> None:
        """Read a whole pass to its end: for rows left over, a thread may have drawn, or not."""
        if self._iterator is not None and self._drawn == self._length:
            next(self._iterator, None)
        super()._end_pass()

    def state(self) -> dict[str, Any]:
        """Return the number of batches, and what the set remembered when the pass started."""
        remembered = self._states.capture() if self._iterator is None else self._at_start
        if self._total < self._furthest:  # kept batches are given again, of the first pass
            remembered = {}
        return {**super().state(), "begun": remembered}

    def restore(self, state: dict[str, Any]) -> None:
        """Start as many passes, and read the last one up to the state's batch."""
        self._to_start = state.get("begun", {})
        super().restore(state)

    def _advance(self, total: int) -> None:
        assert self._length is not None
        started = -(-self._furthest // self._length)
        passes = total // self._length
        if passes > started or (passes == started and self._iterator is None):
            for _ in range(passes - started):
                iter(self._thing)
            self._end_pass()
            self._states.load(self._to_start)
            self._total = self._furthest = passes * self._length
        super()._advance(total)


class TorchLoaderSource(Source):
    """A torch `DataLoader`: the pass is read again, from the state in which it started."""

    def __init__(self, thing: Any, seed: int, length: int | None = None) -> None:
        super().__init__(thing, seed, length)
        self._at_start: dict[str, Any] | None = None

    def _start_pass(self) -> Iterator[Any]:
        self._at_start = self._now()
        return super()._start_pass()

    def _now(self) -> dict[str, Any]:
        torch = _backends.torch_loading()
        states = [torch.generator_state(g) for g in torch.generators(self._thing)]
        return {"streams": self._streams.capture(), "generators": states}

    def state(self) -> dict[str, Any]:
        """Return the streams at the start of the pass and the batches since then."""
        if self._iterator is None:
            return {"drawn": 0, **self._now()}
        assert self._at_start is not None
        return {"drawn": self._drawn, **self._at_start}

    def restore(self, state: dict[str, Any]) -> None:
        """Start the pass, and read up to the state's batch."""
        self._end_pass()
        self._put(state)
        while self._drawn < int(state["drawn"]):
            self.draw()

    def _put(self, state: dict[str, Any]) -> None:
        self._streams.restore(state["streams"])
        torch = _backends.torch_loading()
        pairs = zip(torch.generators(self._thing), state["generators"], strict=True)
        for generator, saved in pairs:
            torch.set_generator(generator, np.array(saved))


class StatefulLoaderSource(TorchLoaderSource):
    """A torchdata `StatefulDataLoader`: within a pass its own state is enough."""

    def state(self) -> dict[str, Any]:
        """Return the loader's state, or between two passes that of its generators."""
        if self._iterator is None:
            return super().state()
        with self._streams:
            inner = self._thing.state_dict()
        return {"drawn": self._drawn, **self._now(), "inner": _backends.torch_plain(inner)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        inner = state.get("inner")
        self._thing.load_state_dict({})  # drops the pass under way
        if inner is None:
            super().restore(state)
            return
        self._thing.load_state_dict(_backends.torch_tensors(inner))
        with self._streams:
            self._iterator = iter(self._thing)
        self._drawn = int(state["drawn"])
        self._put(state)  # to make an iterator has drawn from them


class StatefulSource(Source):
    """Anything with a state of its own, on the thing that is iterated over or on its iterators.

    Args:
        thing: What is iterated over.
        seed: Of the streams.
        get: Name of the method that returns the state.
        put: Name of the method that restores it.
    """

    def __init__(self, thing: Any, seed: int, get: str, put: str) -> None:
        super().__init__(thing, seed)
        self._get, self._put = get, put
        self._on_thing = hasattr(thing, get)

    def state(self) -> dict[str, Any]:
        """Return the state of the source and of its streams."""
        owner = self._thing if self._on_thing else self._iterator
        with self._streams:
            inner = None if owner is None else getattr(owner, self._get)()
        is_in_pass = self._iterator is not None
        return {"begun": is_in_pass, "inner": inner, "streams": self._streams.capture()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self._end_pass()
        self._streams.restore(state["streams"])
        with self._streams:
            if self._on_thing:
                getattr(self._thing, self._put)(state["inner"])
            if state["begun"]:
                self._iterator = iter(self._thing)
                if not self._on_thing:
                    getattr(self._iterator, self._put)(state["inner"])
        self._streams.restore(state["streams"])  # to make an iterator may have drawn from them


def source_of(thing: Any, seed: int) -> Source:
    """Return the source that suits a thing.

    Raises:
        ConfigError: If it is nothing that batches can be drawn from.
    """
    length = length_of(thing)
    if isinstance(thing, keras.utils.PyDataset):
        return IterableSource(_passes(thing), seed)
    if _is_a(thing, "DataLoader", "torch.utils.data"):
        return _loader(thing)(thing, seed, length)
    if _is_a(thing, "DatasetV2", "tensorflow.python."):
        return (IterableSource if length is None else TFDatasetSource)(thing, seed, length)
    for get, put in (("state_dict", "load_state_dict"), ("get_state", "set_state")):
        if hasattr(thing, get) and hasattr(thing, put):
            return StatefulSource(thing, seed, get, put)
    if _is_a(thing, "", "grain."):
        return StatefulSource(thing, seed, "get_state", "set_state")
    if not callable(thing) and not hasattr(thing, "__iter__"):
        raise ConfigError(
            f"Batches cannot be drawn from a {type(thing).__name__}.", see="data-source"
        )
    return IterableSource(thing, seed)


def _loader(thing: Any) -> type[Source]:
    """Return the source for a DataLoader: random numbers drawn in workers are in no state."""
    stateful = hasattr(thing, "state_dict")
    if stateful and (thing.num_workers == 0 or hasattr(thing.dataset, "state_dict")):
        return StatefulLoaderSource
    return IterableSource if thing.persistent_workers else TorchLoaderSource


def length_of(thing: Any) -> int | None:
    """Return the number of batches of a pass, or None if it is unknown."""
    if hasattr(thing, "cardinality"):
        count = int(thing.cardinality())
        return count if count > 0 else None
    if isinstance(thing, keras.utils.PyDataset):
        batches: int | None = thing.num_batches
        return batches
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None


def _passes(dataset: Any) -> Iterator[Any]:
    """Yield a PyDataset's batches, epoch after epoch."""
    while True:
        dataset.on_epoch_begin()
        yield from dataset
        dataset.on_epoch_end()


def _is_a(thing: Any, name: str, module: str) -> bool:
    """Return whether a base class has this name (any, if empty) in a module that starts so."""
    return any(
        c.__name__ == (name or c.__name__) and c.__module__.startswith(module)
        for c in type(thing).__mro__
    )


def as_array(leaf: Any) -> Any:
    """Return a tensor of any framework as an array."""
    if leaf is None or isinstance(leaf, np.ndarray):
        return leaf
    return np.asarray(leaf.detach().cpu() if hasattr(leaf, "detach") else leaf)


def copied(leaf: Any) -> Any:
    """Return a copy that the source cannot change any more."""
    return None if leaf is None else np.array(as_array(leaf))
