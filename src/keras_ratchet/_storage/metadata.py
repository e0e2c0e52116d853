"""What users add to manifests: a dict of plain JSON data, checked before it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keras_ratchet._json import number
from keras_ratchet.errors import ConfigError

_MAX_BYTES = 1 << 18  # a manifest of more than 1 MiB is not read
_MAX_DEPTH = 16
_KINDS = "None, bool, int, float and str, and lists and dicts (with str keys) of them"


def checked(data: Any) -> dict[str, Any]:
    """Return a copy of metadata, as strict JSON can hold it: NaN and infinities are strings.

    Raises:
        ConfigError: If it is not plain data, or too much.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(
            "metadata must be a dict, or a function without arguments that returns one. "
            f"Got: {_shown(data)}.",
            see="metadata",
        )
    found: dict[str, Any] = _plain("metadata", data, 0)
    try:
        size_bytes = len(json.dumps(found))
    except ValueError as error:  # an int with thousands of digits
        raise ConfigError(
            f"metadata cannot be written as JSON: {error}.", see="metadata"
        ) from error
    if size_bytes > _MAX_BYTES:
        raise ConfigError(
            f"metadata takes {size_bytes} bytes as JSON, but at most {_MAX_BYTES} fit into a "
            "manifest. Put what is large into a file of its own, and its name into metadata.",
            see="metadata",
        )
    return found


def _plain(where: str, value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ConfigError(
            f"{where[:200]} is nested deeper than {_MAX_DEPTH} levels.", see="metadata"
        )
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # members of enumerations and NumPy's strings are more than that
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return number(float(value))
    if isinstance(value, list | tuple):
        return [_plain(f"{where}[{i}]", inner, depth + 1) for i, inner in enumerate(value)]
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where} must be plain JSON data: {_KINDS}. Got: {_shown(value)}, a "
            f"{type(value).__module__}.{type(value).__qualname__}.",
            see="metadata",
        )
    if strange := [key for key in value if not isinstance(key, str)]:
        raise ConfigError(
            f"The keys of {where} must be strings. Got: {_shown(strange[0])}.", see="metadata"
        )
    return {
        str.__str__(key): _plain(f"{where}[{key!r}]", inner, depth + 1)
        for key, inner in value.items()
    }


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
