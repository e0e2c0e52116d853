"""The classes and functions that a model's config names and that are not Keras's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from keras_ratchet._keras.rebuilding import RUNS_CODE

_FUNCTION = "function"
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Recorded:
    """A class or function as the config of a model names it.

    Attributes:
        name: Name of the class or function.
        registered: The name under which Keras looks it up: "package>name" if it was registered.
        module: Where it was defined; "" if the config does not say, as for what is registered or
            was defined in the script.
        is_certain: Whether it cannot be Keras's own. Keras writes the names of its own functions
            as it does those of others.
    """

    name: str
    registered: str
    module: str = ""
    is_certain: bool = True

    def __str__(self) -> str:
        place = f" of {self.module}" if self.module else ""
        return f"{self.registered}{place}"


def recorded(config: Any) -> list[Recorded]:
    """Return what a config names that may not be Keras's own, each once, in order."""
    found = (_recorded(node) for node in _nodes(config))
    return list(dict.fromkeys(each for each in found if each is not None))[:_MOST]


def layers_that_run_code(config: Any) -> list[str]:
    """Return the kinds of layers in a config that Keras loads only with `safe_mode=False`."""
    kinds = (node["class_name"] for node in _nodes(config))
    return list(dict.fromkeys(kind for kind in kinds if kind in RUNS_CODE))


def known_as(objects: Iterable[Recorded]) -> str:
    """Return names for a message."""
    return ", ".join(map(str, objects))


def _nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of a config that name a class, outer ones first."""
    waiting = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("class_name"), str):
                yield node
            waiting += reversed(list(node.values()))
        elif isinstance(node, list):
            waiting += reversed(node)


def _recorded(node: dict[str, Any]) -> Recorded | None:
    name, module, registered = node["class_name"], node.get("module"), node.get("registered_name")
    if name.startswith("__"):  # Keras's marks for lambdas, tensors and tuples
        return None
    if name == _FUNCTION:
        called = node.get("config")
        if not isinstance(called, str):
            return None
        return Recorded(called.rpartition(">")[2], called, "", ">" in called)
    if isinstance(module, str) and module.partition(".")[0] in ("keras", "builtins"):
        return None
    if "module" not in node:  # a legacy .h5 file does not tell where Keras's own classes are
        return Recorded(name.rpartition(">")[2], name, "", ">" in name)
    known = registered if isinstance(registered, str) else name
    return Recorded(name, known, module if isinstance(module, str) else "")
