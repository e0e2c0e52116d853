"""All optimizers of a model: `model.optimizer`, and those in attributes of its own.

GANs, distillation and actor-critic have several, in attributes, lists or dicts, or in an object
that is one; on torch they may be torch's own. Each is named by its place: `d_optimizer`,
`optimizers.actor`, `agent.optimizers.0`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from keras_ratchet import _backends
from keras_ratchet._keras import anatomy, attributes
from keras_ratchet.errors import ConfigError
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
        for name, one in _inside(vars(layer), seen, _MAX_DEPTH, attributes.keras_attributes()):
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


def named_variables(model: Model) -> dict[str, Any]:
    """Return the variables of all Keras optimizers by place, such as `d_optimizer/00002`."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, optimizer in keras_optimizers(model).items():
        parts = [
            (path, anatomy.optimizer_variables(o)) for path, o in anatomy.with_inner(optimizer)
        ]
        for path, variables in [*parts, ("/more", optimizer.variables)]:
            fresh = {
                f"{name}{path}/{i:05d}": v for i, v in enumerate(variables) if id(v) not in seen
            }
            seen |= {id(v) for v in fresh.values()}
            found |= fresh
    return found


def torch_states(model: Model) -> dict[str, Any]:
    """Return the states of torch's optimizers by name, as plain data and arrays (copies)."""
    return {
        name: _backends.torch_plain(one.state_dict())
        for name, one in torch_optimizers(model).items()
    }


def put_torch_states(model: Model, states: Mapping[str, Any]) -> None:
    """Restore the states of torch's optimizers; those that are not there are left out."""
    for name, one in torch_optimizers(model).items():
        if name in states:
            one.load_state_dict(_backends.torch_tensors(copy.deepcopy(states[name])))


class AllOptimizers:
    """All optimizers of a model in the guise of one.

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
                f"optimizer: optimizer=optimizer."
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
