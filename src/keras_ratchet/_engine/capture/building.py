"""What a training needs before its first step, and what only that step can make.

Optimizers that a `train_step` of the user's calls are built in its first step; models without a
`call` are, on tensorflow; metrics may be made in it too. An optimizer is built ahead, for the very
variables that it had been built for when it was saved. For the rest the first step runs twice:
once to make things, and, when all values have been put in place, for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_ratchet import _backends
from keras_ratchet._engine.capture import optimizers, rng
from keras_ratchet._engine.capture.variable_names import Places
from keras_ratchet._keras import anatomy, data_adapters
from keras_ratchet._keras.building import create_variables

CURE = (
    "Build the model before training: call it on a batch, as in `model(x[:1])`, or each part of "
    "it that has no input shape; make metrics and optimizers in `__init__` or `compile`"
)


def build(model: Any) -> None:
    """Create what Keras would create in the first step, where nothing but `fit` decides about it.

    A `train_step` of the user's may train a part of the model only, with any optimizer.
    """
    keras_trains = not anatomy.has_own_train_step(model)
    create_variables(model, data_adapters.epoch_iterator(), keras_trains)


def is_complete(model: Any) -> bool:
    """Return whether the first step will make no variables, as far as can be seen."""
    built = (one.built for one in optimizers.keras_optimizers(model).values())
    return anatomy.is_whole(model) and all(built)


def built_for(model: Any, named: Mapping[str, Any]) -> dict[str, list[str]]:
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


def build_optimizers(model: Any, places: Places, saved: Mapping[str, Sequence[str]]) -> None:
    """Build optimizers for the variables that they had been built for, in that order.

    `model.optimizer` is made anew if it is built for others: a callback had compiled the model
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


def step_twice(model: Any, capture: Callable[[], Any], complete: Callable[[Any], None]) -> None:
    """Let the next step run twice on its batch: to make what is missing, and for good.

    Args:
        model: The model, whose `train_function` stands aside until then.
        capture: Returns the values that the step begins with, as far as they are there.
        complete: Puts them back, and in their places those that were missing.
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
