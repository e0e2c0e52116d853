"""Finds weights that have become NaN or infinite."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_ratchet import _backends, _distributed
from keras_ratchet._backends import Foreign
from keras_ratchet._backends.slices import Slices
from keras_ratchet._engine.capture.best_weights import all_weights_of
from keras_ratchet._engine.capture.last_reach import LastReach
from keras_ratchet.types import Model

_log = logging.getLogger("keras_ratchet")
_NOTHING: Mapping[int, Any] = {}


class FiniteWatch:
    """Checks the weights of a model, and the variables of its optimizer, for NaN and infinity.

    What is not finite when a run starts is a constant, such as a mask of minus infinities, or a
    minimum that has seen no value yet. It proves nothing: those elements of the variable
    are left out, and the others are checked. The same holds for a weight that is built later and
    is not trainable, as it is when it is first seen.

    Args:
        on_device: Whether weights are looked at where they are first, so that they come to the
            host only if they may not be finite.
    """

    def __init__(self, on_device: bool = False) -> None:
        self._on_device = on_device
        self.reach = LastReach()
        self._seen: dict[Any, Any] = {}  # holds the variables, so that no id is used again
        self._places: dict[Any, NDArray[np.bool_]] = {}

    def clear(self) -> None:
        """Forget the run."""
        self._seen, self._places, self.reach = {}, {}, LastReach()

    def start(self, model: Model, optimizer: Any = None) -> None:
        """Record what is not finite when a run starts."""
        self.clear()
        backend = _backends.current()
        for variable in _watched(model, optimizer):
            self._note(variable, backend.view(variable))
        level = logging.INFO if optimizer is None else logging.WARNING  # for rolling back
        for key, places in self._places.items():
            _log.log(
                level,
                "%s is not finite at the start, so it is not watched in %d places",
                path_of(self._seen[key]),
                int(places.sum()),
            )

    def problem(self, model: Model, optimizer: Any, alone: bool = False) -> str | None:
        """Describe a variable that was finite at the start and is not now, or return None.

        Args:
            model: The model.
            optimizer: Its optimizer.
            alone: Whether this rank alone asks, after an exception, of its own slices.
        """
        bad = self.find_bad(model, optimizer, alone=alone)
        return None if bad is None else f"{bad} is not finite"

    def find_bad(
        self,
        model: Model,
        optimizer: Any = None,
        sources: Mapping[int, Any] = _NOTHING,
        alone: bool = False,
    ) -> str | None:
        """Return the path of a variable that was finite at the start and is not now, or None.

        Where weights are split over processes, each looks at its slices, and all ranks call this.

        Args:
            model: The model.
            optimizer: Its optimizer, to check that too.
            sources: Variables to read instead of others, by the ids of those.
            alone: As in `problem`.
        """
        if self._on_device and optimizer is None and self._find_none_on_device(model, sources):
            return None
        backend = _backends.current()
        for slot in getattr(optimizer, "variables", ()):  # no constant if it is built later
            self._seen.setdefault(_key(slot), slot)
        found, is_split = None, False
        for variable in _watched(model, optimizer):
            value = backend.view(sources.get(id(variable), variable))
            is_split = is_split or isinstance(value, Slices)
            if found is None and not self.check(variable, value):
                found = path_of(variable)
        return _on_any_rank(found) if is_split and not alone else found

    def _find_none_on_device(self, model: Model, sources: Mapping[int, Any]) -> bool:
        """Note all weights and return True if sums on the device show that they are finite."""
        watched, backend = all_weights_of(model), _backends.current()
        read = [sources.get(id(variable), variable) for variable in watched]
        if any(map(backend.is_split, read)) or not _backends.device_copies().all_finite(read):
            return False
        for variable in watched:
            self._seen.setdefault(_key(variable), variable)
        return True

    def find_bad_of(self, variables: Iterable[Any]) -> str | None:
        """Return the path of one of these variables, likewise, or None."""
        backend = _backends.current()
        return next((path_of(v) for v in variables if not self.check(v, backend.view(v))), None)

    def check(self, variable: Any, value: NDArray[Any]) -> bool:
        """Return whether a value of a variable is finite, apart from the constants in it.

        A variable that is seen for the first time is noted.
        """
        if _all_finite(value):
            self._seen.setdefault(_key(variable), variable)
            return True
        if _key(variable) not in self._seen and not getattr(variable, "trainable", True):
            self._note(variable, value)
        places = self._places.get(_key(variable))
        if places is None or places.shape != value.shape:  # of this rank's slices
            return False
        return bool((np.isfinite(value) | places).all())

    def state_dict(self, model: Model, optimizer: Any = None) -> dict[str, Any]:
        """Return the constants as plain data and arrays, by the indices of their variables."""
        watched = _watched(model, optimizer)
        places = [(i, self._places.get(_key(v))) for i, v in enumerate(watched)]
        kept = [(i, held) for i, held in places if held is not None]  # slices: `start` finds them
        return {str(i): np.packbits(held) for i, held in kept if not isinstance(held, Slices)}

    def load_state_dict(self, state: Any, model: Model, optimizer: Any = None) -> None:
        """Take over what `state_dict` returned, in place of what `start` noted."""
        self._places = {k: p for k, p in self._places.items() if isinstance(p, Slices)}
        for i, variable in enumerate(_watched(model, optimizer)):
            self._seen.setdefault(_key(variable), variable)
            if (bits := state.get(str(i))) is not None:
                shape = tuple(variable.shape)
                found = np.unpackbits(bits, count=int(np.prod(shape))).astype(bool)
                self._places[_key(variable)] = found.reshape(shape)

    def _note(self, variable: Any, value: NDArray[Any]) -> None:
        self._seen[_key(variable)] = variable
        if not _all_finite(value):
            self._places[_key(variable)] = ~np.isfinite(value)


def _on_any_rank(found: str | None) -> str | None:
    ranks = _distributed.find(keras.backend.backend())
    everywhere = ranks.gather(found, "whether slices of weights are finite")
    return next(filter(None, everywhere), None)


def _key(variable: Any) -> Any:
    """Return what identifies a variable: a Foreign is a new object each time."""
    return variable.identity if isinstance(variable, Foreign) else id(variable)


def path_of(variable: Any) -> str:
    """Return the path of a variable, or its name."""
    return str(getattr(variable, "path", variable.name))


def _watched(model: Model, optimizer: Any) -> Iterator[Any]:
    yield from all_weights_of(model)
    yield from getattr(optimizer, "variables", ())


def _all_finite(value: NDArray[Any]) -> bool:
    """Return whether an array of any dtype holds neither NaN nor infinity.

    One sum, without temporary memory, decides nearly every case; only if it is not finite (an
    overflow, or a value that is not) are all values looked at. A sum of float32 in float64 would
    take three times as long; float16 overflows too soon.
    """
    if value.size == 0 or value.dtype.kind in "biuSUO?":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        wide = np.float32 if value.dtype == np.float16 else None
        total = value.sum(dtype=wide) if value.dtype.kind == "f" else np.nan
    return bool(np.isfinite(total)) or bool(np.isfinite(value).all())
