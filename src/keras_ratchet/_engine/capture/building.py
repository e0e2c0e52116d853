"""What a model needs before its first step: its variables built, and the same ones trainable.

Optimizers that a user's `train_step` calls are built in its first step; models without a `call`
are, on tensorflow; metrics may be made in it too. An optimizer is built ahead, for the very
variables that it had been built for when it was saved. For the rest the first step runs twice: once
to make things, and again, when all values are in place, for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_ratchet import _backends
from keras_ratchet._engine.capture import optimizers, rng
from keras_ratchet._engine.capture.model_state import Places
from keras_ratchet._keras import anatomy, fit
from keras_ratchet._keras.building import create_variables
from keras_ratchet.types import Model

CURE = (
    "Build the model before training: call it, or each part of it without an input shape, on a "
    "batch, as in `model(x[:1])`; create metrics and optimizers in `__init__` or `compile`"
)
Flags = dict[str, bool]


def build(model: Model) -> None:
    """Create what Keras would create in the first step, where nothing but `fit` decides about it.

    A `train_step` of the user's may train a part of the model only, with any optimizer.
    """
    keras_trains = not anatomy.has_own_train_step(model)
    create_variables(model, fit.epoch_iterator(), keras_trains)


def is_complete(model: Model) -> bool:
    """Return whether the first step will make no variables, as far as can be seen."""
    built = (one.built for one in optimizers.keras_optimizers(model).values())
    return anatomy.is_whole(model) and all(built)


def built_for(model: Model, named: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, for each Keras optimizer that is built, the places of its variables in its order.

    Args:
        model: The model.
        named: Its variables by place.
    """
    place_of = {id(v): name for name, v in named.items() if name.startswith("model/")}
    found = {}
    for name, one in optimizers.keras_optimizers(model).items():
        variables = anatomy.built_for(one)
        if variables and all(id(v) in place_of for v in variables):
            found[name] = [place_of[id(v)] for v in variables]
    return found


def build_optimizers(model: Model, places: Places, saved: Mapping[str, Sequence[str]]) -> None:
    """Build optimizers for the variables that they had been built for, in that order.

    `model.optimizer` is made again if it is built for others: a callback had compiled the model
    again, after it had made other layers trainable.
    """
    named = places.variables(model, ("model",))
    now = built_for(model, named)
    for name, one in optimizers.keras_optimizers(model).items():
        wanted = saved.get(name)
        if not wanted or wanted == now.get(name) or any(place not in named for place in wanted):
            continue
        variables = [named[place] for place in wanted]
        if not one.built:
            one.build(variables)
        elif name == "optimizer":
            model.optimizer = type(one).from_config(one.get_config())
            model.optimizer.build(variables)
            model.make_train_function(force=True)


def step_twice(model: Model, capture: Callable[[], Any], complete: Callable[[Any], None]) -> None:
    """Run the next step twice on its batch: once to create what is missing, then to train.

    Args:
        model: The model, whose `train_function` is replaced until then.
        capture: Returns the values that the step starts with, as far as they are there.
        complete: Restores them, and those that were missing.
    """
    original = model.train_function

    def twice(*arguments: Any) -> Any:
        model.train_function = original
        first, second = _backends.current().doubled(arguments, model.steps_per_execution)
        values, streams = capture(), rng.capture()
        original(*first)
        complete(values)
        rng.restore(streams)
        return original(*second)

    model.train_function = twice


def flags_of(model: Model, places: Places, named: Mapping[str, Any] | None = None) -> Flags:
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


def set_flags(model: Model, places: Places, flags: Mapping[str, bool]) -> None:
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
    """The flags of one run at three moments, from which a resume derives its own.

    On tensorflow and jax a step is traced once: what is made trainable after that, or frozen, is
    so on paper only, until `make_train_function(force=True)`. A resume traces its first step
    with the flags that the step had been traced with.
    """

    def __init__(self) -> None:
        self._begin: Flags = {}
        self._traced: Flags = {}
        self._functions: list[Any] = []

    def start(self, model: Model, places: Places) -> None:
        """Record the flags that the script has set."""
        self._begin = flags_of(model, places)

    def start_epoch(self, model: Model, places: Places) -> None:
        """Record the flags with which a new train function will be traced."""
        function = getattr(model, "train_function", None)
        if not any(function is known for known in self._functions):
            self._functions, self._traced = [function], flags_of(model, places)

    def state(self, model: Model, places: Places, named: Mapping[str, Any]) -> dict[str, Flags]:
        """Return the present flags, and those that differed at the two other moments."""
        now = flags_of(model, places, named)
        return {
            "now": now,
            "begin": {name: not now[name] for name in changed(now, self._begin)},
            "traced": {name: not now[name] for name in changed(now, self._traced)},
        }

    def differences(self, saved: Mapping[str, Flags]) -> list[str]:
        """Return a sentence if the script itself sets other flags than when it was saved."""
        if not saved:
            return []
        others = changed(self._begin, {**saved["now"], **saved["begin"]})
        names = [name for name in others if saved["now"][name] != self._begin[name]]
        if not names:
            return []
        shown = ", ".join(name.removeprefix("layer/") or "the model" for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return [f"which variables are trainable ({shown}{more}): as they were when saved"]

    def restore(self, model: Model, places: Places, saved: Mapping[str, Flags]) -> None:
        """Set the flags of the moment at which the run was saved."""
        if saved:
            set_flags(model, places, saved["now"])

    def trace_as_before(self, model: Model, places: Places, saved: Mapping[str, Flags]) -> None:
        """Trace the next step of `fit` with the flags with which it was originally traced.

        This does not apply if another train function is created first.
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
