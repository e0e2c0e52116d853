"""What trains the model of a hand-written loop, and was not passed to `Run`: its state is lost."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_ratchet import _backends
from keras_ratchet._engine.capture import optimizers
from keras_ratchet._keras import anatomy
from keras_ratchet._warn import warn
from keras_ratchet.types import Model

_DEPTH = 3


class Strangers:
    """Finds optimizers of a model, and what schedules or scales them, that nobody saves.

    It looks at all objects of the process, which takes some tenths of a second at most. What was
    used before the loop only, for a stage before, is none.

    Args:
        model: The model.
        known: What is saved; what it holds as attributes and in containers is saved with it.
    """

    def __init__(self, model: Model, known: Iterable[Any]) -> None:
        self._model = model
        self._known = list(known)
        self._told: set[int] = set()
        self._stepped: set[int] = set()
        self._torch = _backends.torch_loading()
        self._before = {id(thing): _uses(thing) for thing in self._candidates()}
        self._hook = None
        if self._torch is not None:
            self._hook = self._torch.watch_steps(lambda one: self._stepped.add(id(one)))

    def close(self) -> None:
        """Watch no more."""
        if self._hook is not None:
            self._hook.remove()

    def warn(self) -> None:
        """Warn of each that the loop has used, once."""
        known = [*self._known, *optimizers.optimizers_of(self._model).values()]
        ids = {id(thing) for thing in _held(known)}
        candidates = self._candidates()
        used = [t for t in candidates if self._was_used(t)]
        if not used and keras.backend.backend() == "jax":  # `stateless_apply` leaves no trace
            used = [t for t in candidates if not _uses(t)]
        used = [t for t in used if id(t) not in ids]
        inner = {id(thing) for one in used for thing in _held([one]) if thing is not one}
        found = [t for t in used if id(t) not in inner and id(t) not in self._told]
        self._told.update(id(thing) for thing in found)
        if found:
            names = sorted({type(thing).__name__ for thing in found})
            warn(
                f"Resume will not be exact: the loop trains with {', '.join(names)}, whose state "
                "Run does not save. Pass all such objects: Run(..., optimizer=[optimizer, ...])."
            )

    def _candidates(self) -> list[Any]:
        variables = {id(variable) for variable in self._model.variables}
        parameters = {id(getattr(variable, "value", None)) for variable in self._model.variables}
        things = gc.get_objects()
        found = [thing for thing in things if _trains(thing, variables)]
        if self._torch is not None:
            found += self._torch.trainers(things, parameters)
        return found

    def _was_used(self, thing: Any) -> bool:
        return id(thing) in self._stepped or _uses(thing) != self._before.get(id(thing), 0)


def _trains(thing: Any, variables: set[int]) -> bool:
    """Return whether an object is a Keras optimizer of some variables, which have these ids."""
    is_optimizer = issubclass(type(thing), keras.optimizers.Optimizer)
    return is_optimizer and any(id(variable) in variables for variable in anatomy.built_for(thing))


def _uses(thing: Any) -> float:
    """Return a number that changes when an object is used, as far as it has one."""
    if anatomy.is_optimizer(thing):
        return float(thing.iterations)
    if hasattr(thing, "get_scale"):
        return float(sum(thing.state_dict().values()))  # the steps since the scale has changed, too
    return float(getattr(thing, "last_epoch", 0))


def _held(things: Iterable[Any], depth: int = _DEPTH) -> Iterator[Any]:
    """Yield objects, and what they hold as attributes and in containers."""
    for thing in things:
        yield thing
        if isinstance(thing, dict):
            inner = list(thing.values())
        elif isinstance(thing, list | tuple | set):
            inner = list(thing)
        else:
            attributes = dict(getattr(thing, "__dict__", {}))
            if hasattr(thing, "last_epoch"):  # a scheduler's state is without its optimizer's
                attributes.pop("optimizer", None)
            inner = list(attributes.values())
        if depth and not isinstance(thing, type):
            yield from _held(inner, depth - 1)
