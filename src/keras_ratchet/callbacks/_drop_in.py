"""Classes that replace Keras's: `isinstance` is true for them, and none of Keras's code runs.

Libraries ask `isinstance(callback, keras.callbacks.EarlyStopping)`, so ours inherit from Keras's
classes. What those have and ours do not define is removed: a hook does nothing, as in
`keras.callbacks.Callback`, and a method without a counterpart raises when it is called, and when a
subclass defines it, which would otherwise never be called. So a newer Keras adds nothing unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keras

from keras_ratchet.errors import explained

Class = TypeVar("Class", bound=type)

_CURES = {
    "_should_save_model": "Override `_save_model`, and call super()._save_model() to save.",
    "_checkpoint_exists": "Use os.path.exists.",
    "_get_most_recently_modified_file_matching_pattern": "Use keras_ratchet.checkpoints.",
    "_reduce_optimizer_lr": "Use factor= and min_lr=.",
    "_load_model": "A snapshot is restored as a whole; give a callback `load_state_dict(state)`.",
    "_save_model": "A snapshot contains what each callback's `state_dict()` returns: define that.",
    "_should_save_on_batch": "Use save_freq=, every_s=, overhead= or mtbf_s=.",
}
_NEEDLESS = {  # can be called, and is not called when a file is saved
    "ModelCheckpoint": {
        "_get_file_path": "Use placeholders in filepath=: {epoch}, {batch}, every metric in logs.",
        "_is_improvement": "Override `_save_model`, and call super()._save_model() to save; or "
        "name several metrics in monitor=.",
    }
}


def stand_in(ours: Class) -> Class:
    """Remove Keras's code from a class of ours that inherits from Keras's of the same name."""
    for name in inherited(ours):
        hook = vars(keras.callbacks.Callback).get(name)
        setattr(ours, name, hook or _refusal(ours.__name__, name))
    return ours


def inherited(ours: type) -> list[str]:
    """Return the names that a class inherits from Keras's class and does not define itself."""
    theirs = [kind for kind in ours.__mro__ if _is_keras(kind)]
    names = {n for kind in theirs for n, v in vars(kind).items() if _is_code(n, v)}
    return sorted(n for n in names if next(k for k in ours.__mro__ if n in vars(k)) in theirs)


def refused(ours: type) -> dict[str, str]:
    """Return the names that a subclass must not define, each with the cure."""
    found = dict(_NEEDLESS.get(ours.__name__, {}))
    for kind in ours.__mro__:
        found |= {n: v.cure for n, v in vars(kind).items() if hasattr(v, "cure")}
    return found


def check_subclass(theirs: type) -> None:
    """Raise a TypeError if somebody's subclass defines what would never be called.

    Args:
        theirs: The class that has just been made; one of our own is always accepted.
    """
    ours = next((kind for kind in theirs.__mro__ if _is_ours(kind)), theirs)
    needless = refused(ours)
    for kind in _above(theirs, ours):
        for name in needless.keys() & vars(kind).keys():
            raise explained(
                TypeError(
                    f"{kind.__name__}.{name} would never be called: keras_ratchet.{ours.__name__} "
                    f"does not work like Keras's class here. {needless[name]}"
                ),
                see="subclass",
            )


def _above(theirs: type, ours: type) -> Iterator[type]:
    """Yield the classes before one of ours in an MRO, mix-ins too."""
    for kind in theirs.__mro__:
        if kind is ours:
            return
        yield kind


def _refusal(owner: str, name: str) -> Callable[..., Any]:
    cure = _CURES.get(name, "docs/differences.md lists what there is instead.")

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise explained(
            AttributeError(f"keras_ratchet.{owner} has no {name}. {cure}"), see="subclass"
        )

    refuse.cure = cure  # type: ignore[attr-defined]
    return refuse


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "keras_ratchet"


def _is_keras(kind: type) -> bool:
    """Return whether a class is one of Keras's callbacks, and not their common base."""
    base = keras.callbacks.Callback
    return (
        kind.__module__.partition(".")[0] == "keras" and kind is not base and issubclass(kind, base)
    )


def _is_code(name: str, value: Any) -> bool:
    is_code = callable(value) or isinstance(value, property | staticmethod | classmethod)
    return is_code and not name.startswith("__")
