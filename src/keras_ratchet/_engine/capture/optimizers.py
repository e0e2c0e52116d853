"""All optimizers of a model: `model.optimizer`, those in attributes of its own, and their rates.

GANs, distillation and actor-critic have several, in attributes, lists or dicts, or in an object
that is one; on torch they may be torch's own. Each is named by its place: `d_optimizer`,
`optimizers.actor`, `agent.optimizers.0`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_ratchet import _backends
from keras_ratchet._keras import anatomy
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError, ScheduleError
from keras_ratchet.types import Model

_MAX_DEPTH = 4
_MAX_LENGTH = 256  # of a container: a longer one holds data
_FOREIGN = ("keras", "tensorflow", "torch", "jax", "numpy", "builtins", "tf_keras", "keras_ratchet")


def optimizers_of(model: Model) -> dict[str, Any]:
    """Return Keras's and torch's optimizers by name, `model.optimizer` first.

    Those inside others (in a LossScaleOptimizer) are not told apart.
    """
    found: dict[str, Any] = {}
    own = getattr(model, "optimizer", None)
    if own is not None:
        found["optimizer"] = own
    layers = anatomy.layers_of(model) or [model]
    seen = {id(thing) for thing in (own, *layers)}
    for i, layer in enumerate(layers):
        if i and type(layer).__module__.startswith("keras.src.layers."):
            continue
        place = f"layer{i}." if i else ""
        for name, one in _inside(vars(layer), seen, _MAX_DEPTH, anatomy.keras_attributes()):
            found[place + name] = one
    inner = {id(one) for outer in found.values() for one in _within(outer)}
    return {name: one for name, one in found.items() if id(one) not in inner}


def is_keras(optimizer: Any) -> bool:
    """Return whether an optimizer is one of Keras's, rather than torch's."""
    return anatomy.is_optimizer(optimizer)


def keras_optimizers(model: Model) -> dict[str, Any]:
    """Return Keras's optimizers by name."""
    return {name: one for name, one in optimizers_of(model).items() if is_keras(one)}


def torch_optimizers(model: Model) -> dict[str, Any]:
    """Return torch's optimizers by name."""
    return {name: one for name, one in optimizers_of(model).items() if _is_torchs(one)}


def all_variables(model: Model) -> list[Any]:
    """Return the variables of all Keras optimizers, each once."""
    every = [v for one in keras_optimizers(model).values() for v in one.variables]
    return list({id(v): v for v in every}.values())


def grouped_variables(model: Model) -> list[tuple[str, Sequence[Any]]]:
    """Return the variables of all Keras optimizers by place, such as `d_optimizer`; some twice."""
    groups: list[tuple[str, Sequence[Any]]] = []
    for name, optimizer in keras_optimizers(model).items():
        for path, one in anatomy.with_inner(optimizer):
            groups.append((f"{name}{path}", anatomy.optimizer_variables(one)))
        groups.append((f"{name}/more", list(optimizer.variables)))
    return groups


def torch_states(model: Model) -> dict[str, Any]:
    """Return the states of torch's optimizers by name, as plain data and arrays (copies)."""
    return {
        name: _backends.torch_plain(one.state_dict())
        for name, one in torch_optimizers(model).items()
    }


def restore_torch_states(model: Model, states: Mapping[str, Any]) -> None:
    """Restore the states of torch's optimizers; those that are not there are left out."""
    for name, one in torch_optimizers(model).items():
        if name in states:
            one.load_state_dict(_backends.torch_tensors(copy.deepcopy(states[name])))


class AllOptimizers:
    """All optimizers of a model, with the interface of one.

    Args:
        model: The model.

    Raises:
        ConfigError: If it has none whose state can be captured.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        found = optimizers_of(model)
        if not any(hasattr(o, "variables") or hasattr(o, "state_dict") for o in found.values()):
            raise ConfigError(
                "Rolling back needs an optimizer with variables (Keras) or state_dict (torch). "
                f"Got: {found.get('optimizer')!r}. Compile the model, or pass the loop's "
                f"optimizer: optimizer=optimizer.",
                see="optimizer",
            )

    @property
    def variables(self) -> list[Any]:
        """The variables of Keras's optimizers."""
        return all_variables(self._model)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of torch's optimizers by name, as they give them."""
        return {name: one.state_dict() for name, one in torch_optimizers(self._model).items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Restore them."""
        for name, one in torch_optimizers(self._model).items():
            if name in states:
                one.load_state_dict(states[name])


def _within(optimizer: Any) -> list[Any]:
    """Return the optimizers inside a Keras one."""
    return [one for path, one in anatomy.with_inner(optimizer) if path]


def _inside(
    attributes: Mapping[Any, Any], seen: set[int], depth: int, skipped: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    """Yield the optimizers among values, and inside of containers and plain objects."""
    for name, value in list(attributes.items()):
        if name in skipped or (isinstance(name, str) and name.startswith(("_self_", "_tracker"))):
            continue
        if id(value) in seen or isinstance(value, str | int | float | bool | bytes | None):
            continue
        if is_keras(value) or _is_torchs(value):
            seen.add(id(value))
            yield str(name), value
        elif depth and (inner := _contents(value)):
            seen.add(id(value))
            for path, one in _inside(inner, seen, depth - 1, frozenset()):
                yield f"{name}.{path}", one


def _contents(value: Any) -> Mapping[Any, Any]:
    """Return the contents of a container or a plain object of the user's, by name."""
    if isinstance(value, Mapping | list | tuple):
        if len(value) > _MAX_LENGTH:
            return {}
        return value if isinstance(value, Mapping) else dict(enumerate(value))
    if type(value).__module__.split(".")[0] in _FOREIGN or isinstance(value, type):
        return {}
    return {} if anatomy.is_layer(value) else getattr(value, "__dict__", {})


def _is_torchs(value: Any) -> bool:
    torch = _backends.torch_loading()
    return torch is not None and torch.is_optimizer(value)


class LearningRates:
    """The learning rates of optimizers: Keras's, one of several inside another, or torch's.

    Args:
        every: The optimizers by name; "" for the one that needs none.
    """

    def __init__(self, every: Mapping[str, Any]) -> None:
        self._groups: dict[str, tuple[Any, int]] = {}  # of torch, which replaces them on loading
        self._optimizers: dict[str, Any] = {}
        for name, optimizer in every.items():
            self._add(name, getattr(optimizer, "inner_optimizer", optimizer))

    def _add(self, name: str, optimizer: Any) -> None:
        if hasattr(optimizer, "param_groups"):
            for i in range(len(optimizer.param_groups)):
                self._groups[_joined(name, str(i) if i else "")] = optimizer, i
        elif hasattr(optimizer, "optimizers"):
            self._optimizers |= {_joined(name, one.name): one for one in optimizer.optimizers}
        elif is_keras(optimizer) or hasattr(optimizer, "learning_rate") or not name:
            self._optimizers[name] = optimizer

    def read(self) -> dict[str, float]:
        """Return each learning rate by the name of its optimizer, or "" if there is only one."""
        rates = {name: _rate(one) for name, one in self._optimizers.items()}
        groups = {name: one.param_groups[i] for name, (one, i) in self._groups.items()}
        return rates | {name: float(group["lr"]) for name, group in groups.items()}

    def write(self, rates: Mapping[str, float]) -> None:
        """Set learning rates by the names that `read` gave; those of schedules are skipped."""
        for name, (one, i) in self._groups.items():
            if name in rates:
                one.param_groups[i]["lr"] = rates[name]
        for name, one in self._optimizers.items():
            if name in rates and _problem(one) is None:
                one.learning_rate = rates[name]

    @property
    def settable(self) -> list[str]:
        """The names of those that are numbers and belong to no schedule."""
        return [*(n for n, one in self._optimizers.items() if _problem(one) is None), *self._groups]

    def check(self, owner: str, cure: str) -> None:
        """Check that the learning rates can be set.

        Where only some belong to schedules, one warning names those.

        Args:
            owner: Name of the callback, for the message.
            cure: What else to do, likewise.

        Raises:
            ScheduleError: If all belong to schedules.
            ConfigError: If there is none.
        """
        problems = {n: p for n, one in self._optimizers.items() if (p := _problem(one))}
        if not problems:
            return
        error = next(iter(problems.values()))
        if self.settable:
            names = ", ".join(name or "model.optimizer" for name in problems)
            warn(f"{owner} cuts the other learning rates, but cannot cut that of {names}: {error}")
        elif isinstance(error, TypeError):
            message = f"{owner} cannot cut the learning rate. {error} Or {cure}."
            raise ScheduleError(message) from error
        else:
            raise ConfigError(
                f"{owner} cannot cut the learning rate: none can be set ({error}). Give the "
                f"optimizer a number, or {cure}.",
                see="learning-rate",
            ) from error


def rates_of(model: Model) -> LearningRates:
    """Return the learning rates of all optimizers that train a model.

    A user's `compile` that calls `super().compile()` leaves a default optimizer that is never
    used: it is left out as soon as that shows.
    """
    every = optimizers_of(model)
    own = every.pop("optimizer", None)
    if every and (own is None or (steps_of(own) == 0 and any(map(steps_of, every.values())))):
        return LearningRates(every)
    return LearningRates({"": own, **every})


def steps_of(optimizer: Any) -> int:
    """Return how many steps an optimizer has made, 0 without one; of torch's its states count."""
    if not is_keras(optimizer):
        return len(getattr(optimizer, "state", ()))
    # under MirroredStrategy it is no variable that `int` takes
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


def _joined(name: str, part: str) -> str:
    return f"{name}_{part}" if name and part else name or part


def _problem(optimizer: Any) -> Exception | None:
    """Return why an optimizer's learning rate cannot be set, or None."""
    try:
        optimizer.learning_rate = _rate(optimizer)
    except (TypeError, AttributeError) as error:
        return error
    return None


def _rate(optimizer: Any) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
