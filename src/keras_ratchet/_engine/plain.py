"""Python data as JSON plus arrays, and back: what a state may be made of. Never pickle.

Kept exactly: None, bool, int, float (NaN and infinities too), str, bytes, NumPy arrays and
scalars, and lists, tuples, sets, deques and dicts (with any of these as keys) of them.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TAG = "$"


def encode(value: Any, arrays: dict[str, NDArray[Any]], path: str) -> Any:
    """Return data for strict JSON; arrays go into `arrays` under names that begin with `path`.

    Arrays are not copied.

    Raises:
        TypeError: If the value is none of the kinds that are kept; the message names its place.
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_TAG: "float", "value": str(value)}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind != "O":
        arrays[path] = np.asarray(value)
        return {_TAG: "scalar" if isinstance(value, np.generic) else "array", "value": path}
    if type(value) is bytes:
        return {_TAG: "bytes", "value": base64.b64encode(value).decode()}
    if type(value) is dict:
        return _encode_dict(value, arrays, path)
    if type(value) in (list, tuple, set, frozenset, deque):
        return _encode_sequence(value, arrays, path)
    raise TypeError(f"{path} is a {type(value).__name__}, which cannot be saved")


def _encode_dict(value: dict[Any, Any], arrays: dict[str, NDArray[Any]], path: str) -> Any:
    if all(type(key) is str for key in value) and _TAG not in value:
        return {key: encode(inner, arrays, f"{path}/{key}") for key, inner in value.items()}
    pairs = [
        [encode(key, arrays, f"{path}/k{i}"), encode(inner, arrays, f"{path}/v{i}")]
        for i, (key, inner) in enumerate(value.items())
    ]
    return {_TAG: "dict", "value": pairs}


def _encode_sequence(value: Any, arrays: dict[str, NDArray[Any]], path: str) -> Any:
    items = [encode(inner, arrays, f"{path}/{i}") for i, inner in enumerate(value)]
    if type(value) is list:
        return items
    tagged: dict[str, Any] = {_TAG: type(value).__name__, "value": items}
    if isinstance(value, deque):
        tagged["maxlen"] = value.maxlen
    return tagged


def decode(data: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the value that `encode` described.

    Raises:
        ValueError: If the data is not what `encode` gives.
    """
    if isinstance(data, list):
        return [decode(inner, arrays) for inner in data]
    if not isinstance(data, dict):
        return data
    if _TAG not in data:
        return {key: decode(inner, arrays) for key, inner in data.items()}
    kind, value = data[_TAG], data["value"]
    if kind == "float":
        return float(value)
    if kind == "array":
        return np.array(arrays[value])
    if kind == "scalar":
        return arrays[value][()]
    if kind == "bytes":
        return base64.b64decode(value)
    if kind == "dict":
        return {decode(key, arrays): decode(inner, arrays) for key, inner in value}
    if kind == "deque":
        return deque((decode(inner, arrays) for inner in value), data["maxlen"])
    makers: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
    if kind not in makers:
        raise ValueError(f"{kind!r} is no kind of data that a state is made of")
    return makers[kind](decode(inner, arrays) for inner in value)
