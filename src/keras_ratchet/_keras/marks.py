"""Whether Keras's objects are still as they were, without another walk over them.

| name | for | checked on |
|---|---|---|
| `Variable._value` | the tensor, outside of any scope | 3.12 to 3.16 |
| `stateless_scope.in_stateless_scope` | whether there is one | 3.12 to 3.16 |
| `variables.get_autocast_scope` | whether there is one | 3.12 to 3.16 |

What a walk finds in an object depends on the objects that are its attributes. Whether these are
still the same takes 2 us for an object of Keras's own. What is in containers has to be asked apart.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

_value = operator.attrgetter("_value")


class Marks:
    """The attributes of an object at one moment.

    They are held, so that no identity is used again. But an object of the user's may have a large
    array among them, and another one in each step. Of those, identity and type are noted: what is
    freed may leave its identity to another object, but not to one of a type that a walk finds,
    since whoever has found such an object holds it.

    Args:
        thing: The object.
    """

    __slots__ = ("_ids", "_names", "_values")

    def __init__(self, thing: Any) -> None:
        attributes = vars(thing)
        self._names = tuple(attributes)
        is_keras = type(thing).__module__.partition(".")[0] == "keras"
        self._values = tuple(attributes.values()) if is_keras else None
        self._ids = () if is_keras else _identities(attributes.values())

    def are_those_of(self, thing: Any) -> bool:
        """Return whether no attribute of the object was set to another object, or removed."""
        attributes = vars(thing)
        if tuple(attributes) != self._names:
            return False
        if self._values is None:
            return _identities(attributes.values()) == self._ids
        return all(map(operator.is_, self._values, attributes.values()))


def _identities(values: Iterable[Any]) -> tuple[tuple[int, type], ...]:
    return tuple((id(value), type(value)) for value in values)


def are_same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Return whether two sequences hold the same objects."""
    return len(one) == len(other) and all(map(operator.is_, one, other))


def tensors_of(variables: Sequence[Any]) -> list[Any]:
    """Return the tensors that hold Keras's variables, or others; as `value` does, but at once."""
    from keras.src.backend.common.stateless_scope import in_stateless_scope
    from keras.src.backend.common.variables import get_autocast_scope

    if not in_stateless_scope() and not get_autocast_scope():
        try:
            tensors = list(map(_value, variables))
        except AttributeError:  # one of the framework's own values
            return [variable.value for variable in variables]
        if not any(tensor is None for tensor in tensors):
            return tensors
    return [variable.value for variable in variables]
