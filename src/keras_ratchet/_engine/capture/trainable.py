"""What is trainable in a model: noted, compared, and put back when a callback had changed it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_ratchet._engine.capture.variable_names import Places

Flags = dict[str, bool]


def flags_of(model: Any, places: Places, named: Mapping[str, Any] | None = None) -> Flags:
    """Return what is trainable and what is not: layers and variables, by place.

    Args:
        model: The model.
        places: Where its layers and variables lie.
        named: Its variables by place, if they are known.
    """
    if named is None:
        named = places.variables(model, ("model",))
    flags = {f"layer/{path}": bool(layer.trainable) for path, layer in places.layers(model).items()}
    own = ((name, variable) for name, variable in named.items() if name.startswith("model/"))
    return flags | {name: bool(variable.trainable) for name, variable in own}


def set_flags(model: Any, places: Places, flags: Mapping[str, bool]) -> None:
    """Make layers and variables trainable, or not, as they were.

    A layer hands its flag down to those in it, so that the upper ones come first; a shared one
    may be reset from above afterwards, so that this is repeated until all is as it should be.
    """
    layers = {f"layer/{path}": layer for path, layer in places.layers(model).items()}
    for _ in layers:
        wrong = [n for n in layers if n in flags and bool(layers[n].trainable) != flags[n]]
        for name in wrong:
            layers[name].trainable = flags[name]
        if not wrong:
            break
    for name, variable in places.variables(model, ("model",)).items():
        if name in flags and bool(variable.trainable) != flags[name]:
            variable.trainable = flags[name]


def changed(before: Mapping[str, bool], after: Mapping[str, bool]) -> list[str]:
    """Return the names of what is in both and has another flag."""
    return [name for name, flag in before.items() if after.get(name, flag) != flag]


class FlagsWatch:
    """The flags of one training at three moments, from which a resume makes its own.

    On tensorflow and jax a step is traced once: what is made trainable after that, or frozen, is
    so on paper only, until `make_train_function(force=True)`. A resume traces its first step
    with the flags that the step had been traced with.
    """

    def __init__(self) -> None:
        self._begin: Flags = {}
        self._traced: Flags = {}
        self._functions: list[Any] = []

    def begin(self, model: Any, places: Places) -> None:
        """Note the flags that the script has set."""
        self._begin = flags_of(model, places)

    def epoch_begins(self, model: Any, places: Places) -> None:
        """Note the flags with which a new train function will be traced."""
        function = getattr(model, "train_function", None)
        if not any(function is known for known in self._functions):
            self._functions, self._traced = [function], flags_of(model, places)

    def state(self, model: Any, places: Places, named: Mapping[str, Any]) -> dict[str, Flags]:
        """Return the flags of now, and what was otherwise at the two other moments."""
        now = flags_of(model, places, named)
        return {
            "now": now,
            "begin": {name: not now[name] for name in changed(now, self._begin)},
            "traced": {name: not now[name] for name in changed(now, self._traced)},
        }

    def differences(self, saved: Mapping[str, Flags]) -> list[str]:
        """Return a sentence if the script itself sets flags otherwise than when it was saved."""
        if not saved:
            return []
        others = changed(self._begin, {**saved["now"], **saved["begin"]})
        names = [name for name in others if saved["now"][name] != self._begin[name]]
        if not names:
            return []
        shown = ", ".join(name.removeprefix("layer/") or "the model" for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return [f"what is trainable ({shown}{more}): it is as when it was saved"]

    def put_back(self, model: Any, places: Places, saved: Mapping[str, Flags]) -> None:
        """Set the flags of the moment at which the training was saved."""
        if saved:
            set_flags(model, places, saved["now"])

    def trace_as_before(self, model: Any, places: Places, saved: Mapping[str, Flags]) -> None:
        """Let the next step of `fit` be traced with the flags that it had been traced with.

        Unless somebody makes another train function before.
        """
        if keras.backend.backend() == "torch" or not saved:
            return
        self._traced = {**saved["now"], **saved["traced"]}
        original = model.train_function

        def traced(*arguments: Any) -> Any:
            model.train_function = original
            now = flags_of(model, places)
            set_flags(model, places, self._traced)
            result = original(*arguments)
            set_flags(model, places, now)
            return result

        model.train_function = traced
        self._functions.append(traced)
