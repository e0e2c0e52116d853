"""Plain attributes of a model, its layers, metrics and losses that training has changed.

An annealed factor, a counter, a replay buffer. What the constructors set is the script's to decide,
so only what has changed since the run started is saved, as for callbacks. Of what Keras sets itself
the numbers and switches that its layers and optimizers took as arguments count (the rate of a
Dropout), the rest does not.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_ratchet import _backends
from keras_ratchet._engine.capture import optimizers
from keras_ratchet._engine.capture.model_state import Reach, is_users, reach
from keras_ratchet._engine.resume.closures import Closures
from keras_ratchet._engine.resume.state_codec import (
    NO_DATA,
    RANDOM,
    fingerprint,
    owned,
    plain,
    random_state,
    set_random_state,
    thing,
)
from keras_ratchet._engine.resume.traces import inside
from keras_ratchet._keras.anatomy import names_read_by_steps, own_attributes, settings
from keras_ratchet._warn import warn
from keras_ratchet.types import Model, Position

_RANDOM = (
    "draws random numbers from a state that TensorFlow hides. Use keras.random with a "
    "keras.random.SeedGenerator that the layer or model owns"
)


_SMALL_BYTES = 1 << 20
_UNCHANGING = (str, bytes, bool, int, float, type(None))
_PARTS = (keras.layers.Layer, keras.metrics.Metric, keras.losses.Loss, keras.Variable)
_OTHERS = (keras.optimizers.Optimizer, keras.callbacks.Callback, keras.random.SeedGenerator)
_OBJECTS = (*_PARTS, *_OTHERS)
_LIBRARIES = ("keras", "tensorflow", "torch", "jax", "jaxlib", "keras_ratchet")
_Attribute = tuple[str, Any, str, Any]  # key and object that has it, name, value
_LOST = (
    "changed during training and cannot be saved. Use numbers, arrays, or lists and dicts of them "
    "there, or Keras variables."
)
_UNSEEN = (
    "changed during training and is not saved. Keep it in an attribute of a layer, metric or loss "
    "class of your own, or in a Keras variable there."
)
_BAKED = (
    "changed during training, but a compiled step keeps the value with which it was traced. "
    "Make it a Keras variable: self.add_weight(..., trainable=False)."
)


_first: weakref.WeakKeyDictionary[Any, dict[tuple[str, str], Any]] = weakref.WeakKeyDictionary()


class AttributeStates:
    """The attributes of one model, recorded when the run starts.

    What is saved is what has changed since the first run that this process started of the model:
    one that resumes in a later stage may leave the earlier ones out.

    Args:
        model: The model, built, before any state is restored.
    """

    def __init__(self, model: Model) -> None:
        attributes = _attributes(model)
        self._begun = {(key, name): _Begun(value) for key, _, name, value in attributes}
        self._first = _first.setdefault(model, {})
        for place, begun in self._begun.items():
            if begun.has_digest:  # others would keep the model alive
                self._first.setdefault(place, begun)
        self._told: set[str] = set()
        self._has_looked_for_ops = False
        self._closures = Closures(_with_functions(model, reach(model)), model)
        self._looked_in_epoch = -1

    def look(self, model: Model, position: Position, found: Reach) -> dict[str, dict[str, Any]]:
        """Return what `capture` does; after the first step, warn of what cannot be saved.

        Args:
            model: The model.
            position: What is done.
            found: What is reachable in the model now.
        """
        maybe = list(self._maybe_changed(model, found))
        changed = self._data_of(maybe)
        if not (position.epoch or position.batch):
            return changed
        eager = keras.backend.backend() == "torch" or bool(getattr(model, "run_eagerly", False))
        sentences = self._complaints(maybe, not eager)
        traced = not eager and (
            keras.backend.backend() != "jax" or bool(getattr(model, "jit_compile", False))
        )
        sentences += self._of_functions(model, position, found, traced)
        if not self._has_looked_for_ops:
            self._has_looked_for_ops = True
            if ops := _backends.current().random_ops(getattr(model, "train_function", None)):
                sentences.append(f"{', '.join(ops[:5])} {_RANDOM}.")
        if sentences:
            warn(f"Resume will not be exact. {' '.join(sentences)}")
        return changed

    def _of_functions(
        self, model: Model, position: Position, found: Reach, traced: bool
    ) -> list[str]:
        """Return, at most once in an epoch, a sentence about what functions and classes keep.

        What only the tracing of a compiled step changes does not count: a resumed run traces, too.
        """
        if position.epoch == self._looked_in_epoch and position.batch:
            return []
        self._looked_in_epoch = position.epoch
        if traced and (position.epoch, position.batch) <= (1, 0):
            self._closures = Closures(_with_functions(model, found), model)
            return []
        names = [name for name in self._closures.changed() if name not in self._told]
        self._told |= set(names)
        return [f"{'; '.join(names)}: this {_UNSEEN}"] if names else []

    def capture(self, model: Model, found: Reach | None = None) -> dict[str, dict[str, Any]]:
        """Return what has changed and can be saved, as plain data, by owner and name."""
        return self._data_of(self._maybe_changed(model, found))

    def _maybe_changed(self, model: Model, found: Reach | None) -> Iterator[_Attribute]:
        """Yield the attributes but for constants that are what they were, as most are."""
        for key, owner, name, value in _attributes(model, found):
            begun = self._begun.get((key, name))
            recorded = () if begun is None else (begun, self._first.get((key, name), begun))
            if not recorded or not all(one.is_same(value) for one in recorded):
                yield key, owner, name, value

    def _data_of(self, attributes: Iterable[_Attribute]) -> dict[str, dict[str, Any]]:
        changed: dict[str, dict[str, Any]] = {}
        for key, _, name, value in attributes:
            begun = self._first.get((key, name))
            digest, _ = _digest(value)
            if digest and (begun is None or begun.has_changed(value, digest)):
                changed.setdefault(key, {})[name] = owned(plain(value))
        return changed

    def restore(self, model: Model, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what was saved; what had not changed by then gets its initial value."""
        for key, owner, name, value in list(_attributes(model)):
            begun = self._first.get((key, name))
            if name in saved.get(key, {}):
                _put(owner, name, saved[key][name])
            elif begun is not None and begun.is_copied and begun.has_changed(value):
                _put(owner, name, begun.plain)
        owners = _owners(model, reach(model))
        for key, values in saved.items():
            for name in values if key in owners else ():
                if name not in vars(owners[key]):
                    _put(owners[key], name, values[name])

    def complaints(self, model: Model, compiled: bool, found: Reach | None = None) -> list[str]:
        """Return, once for each, sentences about what has changed and will not be exact."""
        return self._complaints(self._maybe_changed(model, found), compiled)

    def _complaints(self, attributes: Iterable[_Attribute], compiled: bool) -> list[str]:
        lost, baked = [], []
        for key, owner, name, value in attributes:
            kind: Any = type(owner)
            begun, title = self._begun.get((key, name)), f"{type(owner).__name__}.{name}"
            if begun is None or title in self._told:
                continue
            digest, _ = _digest(value)
            if not begun.has_changed(value, digest):
                continue
            if not digest:
                lost += [] if _is_no_state(value) else [title]
            elif compiled and (name in names_read_by_steps(kind) or name in settings(owner)):
                baked.append(title)
        self._told |= {*lost, *baked}
        told = ((lost, _LOST), (baked, _BAKED))
        return [f"{', '.join(names)} {why}" for names, why in told if names]


class _Begun:
    """What an attribute was when the run started: a digest, and a copy if that costs little."""

    def __init__(self, value: Any) -> None:
        self._digest, size_bytes = _digest(value)
        self.is_copied = bool(self._digest) and size_bytes <= _SMALL_BYTES
        self.plain = owned(plain(value)) if self.is_copied else None
        self._value = None if self._digest else value
        self._length = _length(value)
        self._inside = None if self._digest else inside(value)
        self._same: tuple[Any, ...] = (value,) if isinstance(value, _UNCHANGING) else ()

    @property
    def has_digest(self) -> bool:
        """Whether it is plain data."""
        return bool(self._digest)

    def is_same(self, value: Any) -> bool:
        """Return whether it is the same constant, as most are, at no cost; False does not tell."""
        return bool(self._same) and value is self._same[0]

    def has_changed(self, value: Any, digest: str | None = None) -> bool:
        """Return whether the attribute has another value now; for other objects, is another one.

        Args:
            value: The attribute now.
            digest: Its digest, if that is known.
        """
        if self.is_same(value):
            return False
        digest = _digest(value)[0] if digest is None else digest
        if self._digest or digest:
            return digest != self._digest
        if value is not self._value or _length(value) != self._length:
            return True
        return bool(inside(value) != self._inside)


def _attributes(model: Model, found: Reach | None = None) -> Iterator[_Attribute]:
    """Yield key, owner, name and value of each attribute that the user may set.

    What holds a framework's state (a `tf.Variable`) is left to `model_state`.
    """
    state_of = _backends.current().state_of
    for key, owner in _owners(model, found or reach(model)).items():
        for name, value in {**settings(owner), **own_attributes(owner)}.items():
            if type(value) in _UNCHANGING or (
                not isinstance(value, _OBJECTS) and state_of(value) is None
            ):
                yield key, owner, name, value


def _owners(model: Model, found: Reach) -> dict[str, Any]:
    """Return what has attributes: what can be reached, and the optimizers."""
    outer = optimizers.keras_optimizers(model)
    inner = {f"{name}.inner": getattr(one, "inner_optimizer", None) for name, one in outer.items()}
    outer |= {name: one for name, one in inner.items() if one is not None}
    schedules = {
        f"{name}.schedule": value
        for name, one in outer.items()
        for value in vars(one).values()
        if isinstance(value, keras.optimizers.schedules.LearningRateSchedule) and is_users(value)
    }
    return {**found.owners, **outer, **schedules}


def _with_functions(model: Model, found: Reach) -> list[Any]:
    """Return what may have functions of the user's: layers, losses, metrics, schedules."""
    return list(_owners(model, found).values())


def _put(owner: Any, name: str, value: Any) -> None:
    """Set an attribute, in place where another object may share it."""
    value = thing(owned(value))
    present: Any = getattr(owner, name, None)
    if isinstance(present, deque) and isinstance(value, deque) and present.maxlen == value.maxlen:
        present.clear()
        present.extend(value)
    elif isinstance(value, RANDOM) and isinstance(present, RANDOM) and _same_kind(present, value):
        set_random_state(present, *random_state(value))  # layers may draw from one generator
    elif _same_array(present, value):
        present[...] = value
    else:
        setattr(owner, name, value)


def _same_kind(present: Any, value: Any) -> bool:
    return bool(random_state(present)[0] == random_state(value)[0])


def _same_array(present: Any, value: Any) -> bool:
    if not (isinstance(present, np.ndarray) and isinstance(value, np.ndarray)):
        return False
    return present.shape == value.shape and present.dtype == value.dtype and present.flags.writeable


def _digest(value: Any) -> tuple[str, int]:
    """Return a digest of data and the size of its arrays; an empty one if it cannot be saved."""
    try:
        return fingerprint(plain(value))
    except NO_DATA:
        return "", 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict | set | deque) else 0


def _is_no_state(value: Any) -> bool:
    """Return whether an object that cannot be saved has no state of the run: code, a library's."""
    if callable(value) or keras.ops.is_tensor(value) or isinstance(value, type):
        return True
    if _backends.current().state_of(value) is not None:
        return True
    if isinstance(value, list | tuple | set | deque | dict):
        items = value.values() if isinstance(value, dict) else value
        return all(isinstance(i, (*_PARTS, *_OTHERS)) or _is_no_state(i) for i in items)
    return type(value).__module__.partition(".")[0] in _LIBRARIES
