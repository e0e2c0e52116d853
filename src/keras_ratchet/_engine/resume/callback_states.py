"""The state of each callback, which a restart has to restore: Keras's own by explicit lists.

A callback takes part in one of four ways:

* it has `state_dict()` and `load_state_dict()` (all of ours do);
* it is one of Keras's, and listed in `_keras.callbacks`;
* it is a subclass of one of these without a state_dict() of its own: what it adds is saved too;
* its attributes are plain data (numbers, strings, arrays, containers of them): they are saved as
  they are, and so are tensors, and in place the values of Keras's and torch's objects in them
  (`held_values`). What has changed and cannot be saved is named in one warning, at the first save
  or when the first epoch ends.

Callbacks that only another one of the user's holds take part like those of the list.

Callbacks of one class are told apart by the arguments of their constructors: the metric that they
monitor must be the same, and of those that monitor it the one with most other strings in common
(path, mode, name) matches. Their order decides between equals only.
"""

from __future__ import annotations

import dis
import functools
import os
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_ratchet._engine.capture.model_state import is_users
from keras_ratchet._engine.resume.callback_identity import Identity, identity, matched
from keras_ratchet._engine.resume.closures import Closures
from keras_ratchet._engine.resume.held_values import HeldValues, things_in
from keras_ratchet._engine.resume.shared_containers import Containers, Path, filled
from keras_ratchet._engine.resume.state_codec import (
    NO_DATA,
    RANDOM,
    encode,
    fingerprint,
    holds_tensor,
    owned,
    plain,
    random_state,
    set_random_state,
    thing,
)
from keras_ratchet._engine.resume.traces import trace_of
from keras_ratchet._keras.callbacks import SET_BY_KERAS, state_attributes
from keras_ratchet._warn import warn
from keras_ratchet.types import Stateful

_C = keras.callbacks
_OURS = "keras_ratchet."
_ADDED = "attributes of the subclass"  # keys that no attribute can have
_HELD = "values of objects"
_SAME = "the same containers"
_SMALL_BYTES = 1 << 20
_HARMLESS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)


class CallbackStates:
    """The states of a list of callbacks, each under its class and a number.

    `identities` tells callbacks of one class apart where their order or number has changed.

    Of other classes' plain attributes those are saved that have changed since the run started:
    what a constructor set is the script's to decide.

    Args:
        callbacks: The callbacks, when the run starts and before any state is restored.
    """

    def __init__(self, callbacks: list[Any]) -> None:
        self._callbacks = dict(_keyed(_with_inner(callbacks)))
        self._begun = {
            key: {n: _Begun(v, vars(c)[n]) for n, v in _strange(c).items() if _is_plain(n, v)}
            for key, c in self._callbacks.items()
        }
        opened = {key: _open(c) for key, c in self._callbacks.items()}
        model = _model_of(callbacks)
        self._held = HeldValues(opened, model)
        self._not_put_back: list[str] = []
        self._traces = {key: _traces(c) for key, c in self._callbacks.items()}
        silent = [c for c in self._callbacks.values() if _is_ours(c) or not isinstance(c, Stateful)]
        self._closures = Closures(silent, model)
        self.identities = {key: identity(c) for key, c in self._callbacks.items()}
        self._matched: dict[str, str] | None = None
        self._told: set[str] = set()

    def capture(self) -> dict[str, dict[str, Any]]:
        """Return the state of each callback, as plain data."""
        self._warn_of_what_was_not_put_back()
        return {key: self._state_of(key, c) for key, c in self._callbacks.items()}

    def load(
        self,
        states: Mapping[str, Mapping[str, Any]],
        identities: Mapping[str, Identity] | None = None,
    ) -> list[str]:
        """Restore states; return the keys of states whose callback is no longer there.

        Args:
            states: What `capture` returned.
            identities: The `identities` then; without them callbacks go by their order.
        """
        if self._matched is None:
            known = self.identities if identities is None else identities
            self._matched = matched(self.identities, {key: known.get(key, {}) for key in states})
        self._not_put_back = []
        for key, saved in self._matched.items():
            callback = self._callbacks[key]
            for name, begun in self._begun.get(key, {}).items():
                begun.restore(callback, name)
            _load(callback, states[saved])
            failed = self._held.load(key, _open(callback), states[saved].get(_HELD, {}))
            self._not_put_back += [_name(callback, place) for place in failed]
        return sorted(set(states) - set(self._matched.values()))

    def lost(self) -> list[str]:
        """Return what has changed since the run started and is not saved.

        It is named `Class.attribute`, or by the function that keeps it.
        """
        found = []
        for key, callback in self._callbacks.items():
            traces = _traces(callback)
            places = [name for name in traces if self._traces[key].get(name) != traces[name]]
            places += self._held.lost(key, _open(callback))
            found += [_name(callback, place) for place in places]
        return list(dict.fromkeys([*found, *self._closures.changed()]))

    def warn_of_lost(self) -> None:
        """Warn, of each attribute once, of what an interruption will lose."""
        lost = [name for name in self.lost() if name not in self._told]
        self._told.update(lost)
        if lost:
            warn(
                f"This state of callbacks is lost if training is interrupted: "
                f"{'; '.join(lost)}. Give the callback state_dict() and load_state_dict()."
            )

    def _warn_of_what_was_not_put_back(self) -> None:
        """Warn, when other callbacks have had the time to make them, of objects that differ."""
        if self._not_put_back:
            warn(
                "These objects of callbacks were saved, but are missing or have other shapes when "
                f"training resumes, so they start anew: {'; '.join(self._not_put_back)}. "
                "Create and build them before training starts."
            )
            self._not_put_back = []

    def _state_of(self, key: str, callback: Any) -> dict[str, Any]:
        """Return a callback's state, and what `_load` needs to put it back in place."""
        held = self._held.capture(key, _open(callback))
        state = self._known_state_of(key, callback)
        values = _unknown(callback)
        names = [n for n in {**state, **state.get(_ADDED, {})} if n in values]
        same = {n: b.containers.kept(values[n]) for n in names if (b := self._begun[key].get(n))}
        same = {name: paths for name, paths in same.items() if paths}
        return state | ({_HELD: held} if held else {}) | ({_SAME: same} if same else {})

    def _known_state_of(self, key: str, callback: Any) -> dict[str, Any]:
        begun = self._begun[key]
        strange = {
            n: owned(v)
            for n, v in _strange(callback).items()
            if _is_plain(n, v) and not (n in begun and begun[n].is_still(v))
        }
        if isinstance(callback, Stateful):
            state = dict(callback.state_dict())
            state = state if _is_ours(callback) else owned(state)
        elif isinstance(callback, _C.CSVLogger):
            state = {"rows": _written(callback), "keys": getattr(callback, "keys", None)}
        else:
            listed = [n for n in _listed(callback) if hasattr(callback, n)]
            return {n: owned(getattr(callback, n)) for n in listed} | strange
        return {**state, _ADDED: strange} if strange else state


class _Begun:
    """What an attribute was when the run started: a digest, and a copy if that costs little.

    Args:
        value: Its value, with tensors as arrays.
        present: The value itself.
    """

    def __init__(self, value: Any, present: Any) -> None:
        self.containers = Containers(present)
        self._digest, size_bytes = fingerprint(value)
        self._copied = size_bytes <= _SMALL_BYTES
        self._value = owned(value) if self._copied else None

    def is_still(self, value: Any) -> bool:
        return fingerprint(value)[0] == self._digest

    def restore(self, callback: Any, name: str) -> None:
        present = getattr(callback, name, None)
        if self._copied and not self.is_still(present):
            _put(callback, name, self._value, self.containers.kept(present))


def _keyed(callbacks: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield each callback with its class and a number where a class comes more than once."""
    count: dict[str, int] = {}
    for callback in callbacks:
        name = f"{type(callback).__module__}.{type(callback).__qualname__}"
        count[name] = count.get(name, 0) + 1
        yield f"{name}#{count[name]}", callback


def _with_inner(callbacks: list[Any]) -> list[Any]:
    """Return callbacks, and after them those that only the user's own ones among them hold."""
    found = list(callbacks)
    known = {id(callback) for callback in found}
    for callback in found:
        if not (is_users(callback) or isinstance(callback, _C.CallbackList)):
            continue
        for _, inner in things_in(_open(callback)):
            is_callback = isinstance(inner, _C.Callback) and not hasattr(inner, "resumed_from")
            if is_callback and id(inner) not in known and not _is_inside(inner):
                known.add(id(inner))
                found.append(inner)
    return found


def _is_inside(callback: Any) -> bool:
    """Return whether a callback was put into the list by this package."""
    return _is_ours(callback) and "._" in type(callback).__module__


def _model_of(callbacks: list[Any]) -> Any:
    """Return the model in training; on jax, `callback.model` would bring it up to date."""
    return next((m for c in callbacks if (m := vars(c).get("_model")) is not None), None)


def _name(callback: Any, place: str) -> str:
    return f"{type(callback).__name__}.{place}"


def _load(callback: Any, state: Mapping[str, Any]) -> None:
    """Restore a state; the callback gets a copy of what it may change."""
    added, same = state.get(_ADDED, {}), state.get(_SAME, {})
    state = {name: value for name, value in state.items() if name not in (_ADDED, _HELD, _SAME)}
    if isinstance(callback, Stateful):
        callback.load_state_dict(state if _is_ours(callback) else owned(dict(state)))
    elif isinstance(callback, _C.CSVLogger):
        _rewrite(callback, state)
    else:
        added = state
    for name, value in added.items():
        _put(callback, name, value, same.get(name, ()))


def _put(callback: Any, name: str, value: Any, same: Collection[Path]) -> None:
    """Set an attribute; random generators and some containers in place, as others share them."""
    present = getattr(callback, name, None)
    if isinstance(value, RANDOM) and isinstance(present, RANDOM):
        kind, state = random_state(value)
        if random_state(present)[0] == kind:
            set_random_state(present, kind, state)
            return
    setattr(callback, name, filled(present, thing(owned(value)), same))


def _is_ours(callback: Any) -> bool:
    """Return whether a callback's state is known to consist of values that do not change later."""
    return type(callback).__module__.startswith(_OURS)


def _strange(callback: Any) -> dict[str, Any]:
    """Return the attributes that only the callback knows, with tensors as arrays."""
    found = _unknown(callback)
    return {name: _with_arrays(v) if holds_tensor(v) else v for name, v in found.items()}


def _with_arrays(value: Any) -> Any:
    """Return a value with its tensors as marked arrays; as it is if that does not make it plain."""
    try:
        data = plain(value, graphs=True)
        encode(data, {}, "")
    except NO_DATA:
        return value
    return data


def _unknown(callback: Any) -> dict[str, Any]:
    """Return the attributes that only the callback knows.

    Of a subclass of one that we know (ours, CSVLogger) these are what it adds, unless it says
    itself what its state is.
    """
    kind = type(callback)
    if kind in state_attributes():
        return {}
    if not isinstance(callback, Stateful | _C.CSVLogger):
        return dict(vars(callback))
    known = [k for k in kind.__mro__ if k is _C.CSVLogger or k.__module__.startswith(_OURS)]
    if kind in known or not known or "state_dict" in vars(kind):
        return {}
    theirs = set().union(*map(_stored_by, kind.__mro__[kind.__mro__.index(known[0]) :]))
    return {name: value for name, value in vars(callback).items() if name not in theirs}


@functools.cache
def _stored_by(kind: type) -> frozenset[str]:
    """Return the names of the attributes that a class's own methods set."""
    methods = [m for m in vars(kind).values() if isinstance(m, types.FunctionType)]
    steps = (step for method in methods for step in dis.get_instructions(method))
    return frozenset(step.argval for step in steps if step.opname == "STORE_ATTR")


def _listed(callback: Any) -> tuple[str, ...]:
    """Return the listed attributes of Keras's class that a callback is, or inherits from."""
    return next((n for kind, n in state_attributes().items() if isinstance(callback, kind)), ())


def _open(callback: Any) -> dict[str, Any]:
    """Return the attributes in which there may be objects with values of their own."""
    return {name: v for name, v in _unknown(callback).items() if name not in SET_BY_KERAS}


def _is_plain(name: str, value: Any) -> bool:
    if name in SET_BY_KERAS or isinstance(value, np.memmap):
        return False
    try:
        encode(value, {}, name)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _traces(callback: Any) -> dict[str, Any]:
    """Return, for attributes that cannot be saved, a trace that differs once they have changed."""
    known = {id(thing) for _, thing in things_in(_open(callback))}
    return {
        name: trace_of(value, known)
        for name, value in _strange(callback).items()
        if not _is_plain(name, value) and not _harmless(name, value)
    }


def _harmless(name: str, value: Any) -> bool:
    """Return whether an attribute is no state: a function, a class, a file, a part of the model."""
    if name in SET_BY_KERAS or isinstance(value, type | np.memmap):
        return True
    parts = (keras.layers.Layer, keras.optimizers.Optimizer, _C.Callback)
    return isinstance(value, (*_HARMLESS, *parts))


def _written(logger: Any) -> str:
    """Return what a CSVLogger has written so far."""
    file = getattr(logger, "csv_file", None)
    if file is not None and not file.closed:
        file.flush()
    if not os.path.exists(logger.filename):
        return ""
    with open(logger.filename, encoding="utf-8", newline="") as text:
        return text.read()


def _rewrite(logger: Any, state: Mapping[str, Any]) -> None:
    """Restore the content of a CSVLogger's file; the logger then appends to it."""
    file = getattr(logger, "csv_file", None)
    if file is not None and not file.closed:
        file.close()
    with open(logger.filename, "w", encoding="utf-8", newline="") as text:
        text.write(state["rows"])
    logger.csv_file = open(logger.filename, "a", encoding="utf-8", newline="")  # noqa: SIM115
    logger.keys = state["keys"]
    logger.writer = None
    logger.append_header = not state["rows"]
