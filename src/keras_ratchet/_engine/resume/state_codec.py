"""Python data as JSON plus arrays, and back: what a state may be made of. Never pickle.

Saved exactly: None, bool, int, float (NaN and infinities too), str, bytes, `bytearray`, arrays of
the module `array`, NumPy arrays and scalars, dates, times and paths, Python's and NumPy's random
generators, and lists, tuples, sets, deques and dicts (with any of these as keys) of them. Tensors
are saved as marked arrays.
"""

from __future__ import annotations

import base64
import copy
import json
import math
import pathlib
import random
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Any

import keras
import numpy as np
import xxhash
from numpy.typing import NDArray

from keras_ratchet._backends.slices import SavedSlices, Slices
from keras_ratchet._formats.safetensors import can_hold

_TAG = "$"
_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_SIMPLE: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "buffer": lambda parts: _buffer(*parts),
    "path": pathlib.Path,
    "timedelta": lambda parts: timedelta(*parts),
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
}
RANDOM = (random.Random, np.random.RandomState, np.random.Generator)
_TENSOR = "keras_ratchet.tensor"
_SCALARS = (str, bytes, bool, int, float, type(None), np.ndarray, np.generic)
# what symbolic tensors raise depends on their framework
NO_DATA = (
    TypeError,
    ValueError,
    RecursionError,
    NotImplementedError,
    AttributeError,
    RuntimeError,
)


def encode(value: Any, arrays: dict[str, NDArray[Any]], path: str) -> Any:
    """Return data for strict JSON; arrays go into `arrays` under names that begin with `path`.

    Arrays are not copied.

    Raises:
        TypeError: If the value is none of the kinds that can be saved; the message names its place.
    """
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, np.ma.MaskedArray):
        return _encode_array(value, arrays, path)
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_TAG: "float", "value": str(value)}
    if isinstance(value, RANDOM):
        return {_TAG: "random", "value": encode(random_state(value), arrays, path)}
    if type(value) is bytes:
        return {_TAG: "bytes", "value": base64.b64encode(value).decode()}
    if type(value) in (bytearray, array):
        typecode = value.typecode if isinstance(value, array) else ""
        return {_TAG: "buffer", "value": [typecode, base64.b64encode(bytes(value)).decode()]}
    if type(value) is dict:
        return _encode_dict(value, arrays, path)
    if type(value) in (list, tuple, set, frozenset, deque):
        return _encode_sequence(value, arrays, path)
    if isinstance(value, date | timedelta | pathlib.Path):
        return _encode_moment(value, path)
    raise TypeError(f"{path} is a {type(value).__name__}, which cannot be saved")


def _encode_array(value: Any, arrays: dict[str, NDArray[Any]], path: str) -> Any:
    kind = "scalar" if isinstance(value, np.generic) else "array"
    if can_hold(value.dtype):
        while path in arrays:  # keys with a "/" in them may lead to a path twice
            path += "~"
        arrays[path] = value if isinstance(value, Slices) else np.asarray(value)
        return {_TAG: kind, "value": path}
    described = np.lib.format.dtype_to_descr(value.dtype)
    if value.dtype.hasobject or np.lib.format.descr_to_dtype(described) != value.dtype:
        raise TypeError(f"{path} is an array of {value.dtype}, which cannot be saved")
    raw = [described, list(value.shape), value.tobytes()]
    return {_TAG: f"raw {kind}", "value": encode(raw, arrays, path)}


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


def _encode_moment(value: Any, path: str) -> dict[str, Any]:
    """Return a path, or the kinds of dates whose text says all of them."""
    zone = getattr(value, "tzinfo", None)
    if isinstance(value, pathlib.Path):
        return {_TAG: "path", "value": str(value)}
    if type(value) is timedelta:
        return {_TAG: "timedelta", "value": [value.days, value.seconds, value.microseconds]}
    if type(value) in (date, datetime) and (zone is None or type(zone) is timezone):
        return {_TAG: type(value).__name__, "value": value.isoformat()}
    raise TypeError(f"{path} is a {type(value).__name__}, which cannot be saved")


def fingerprint(value: Any) -> tuple[str, int]:
    """Return a digest of data, "" if it cannot be saved, and the size of its arrays in bytes.

    Arrays are read, not copied.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        text = json.dumps(encode(value, arrays, ""))
    except NO_DATA:
        return "", 0
    hasher = xxhash.xxh3_128(text.encode())
    for one in arrays.values():
        hasher.update(np.ascontiguousarray(one).view(np.uint8).reshape(-1).data)
    return str(hasher.hexdigest()), sum(one.nbytes for one in arrays.values())


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
    if kind in ("array", "scalar"):
        return _decode_array(arrays[value], kind)
    if kind in ("raw array", "raw scalar"):
        return _decode_raw(decode(value, arrays), kind == "raw scalar")
    if kind == "random":
        return _random(*decode(value, arrays))
    if kind in _SIMPLE:
        return _SIMPLE[kind](value)
    if kind == "dict":
        return {decode(key, arrays): decode(inner, arrays) for key, inner in value}
    if kind == "deque":
        return deque((decode(inner, arrays) for inner in value), data["maxlen"])
    makers: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
    if kind not in makers:
        raise ValueError(f"{kind!r} is not a kind of data in a state")
    return makers[kind](decode(inner, arrays) for inner in value)


def _buffer(typecode: str, text: str) -> Any:
    raw = base64.b64decode(text, validate=True)
    return array(typecode, raw) if typecode else bytearray(raw)


def _decode_array(found: Any, kind: str) -> Any:
    if isinstance(found, SavedSlices):  # read when it is known which slices are needed
        return found
    return np.array(found) if kind == "array" else found[()]


def _decode_raw(raw: list[Any], scalar: bool) -> Any:
    dtype = np.lib.format.descr_to_dtype(raw[0])
    if dtype.hasobject:
        raise ValueError("arrays of Python objects cannot be part of a state")
    array = np.zeros(raw[1], dtype)
    if dtype.itemsize and array.size:  # numpy's empty string has no bytes
        array[...] = np.frombuffer(raw[2], dtype).reshape(raw[1])
    return array[()] if scalar else array


def random_state(generator: Any) -> tuple[str, Any]:
    """Return the kind of a random generator, and its state."""
    if isinstance(generator, random.Random):
        return "python", generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return "legacy", generator.get_state(legacy=False)
    state = generator.bit_generator.state
    return str(state["bit_generator"]), state


def set_random_state(generator: Any, kind: str, state: Any) -> None:
    """Set a random generator of the right kind to a state."""
    if kind == "python":
        generator.setstate(state)
    elif kind == "legacy":
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def owned(value: Any) -> Any:
    """Return a copy of data that later training does not change."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: owned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [owned(inner) for inner in value]
    if isinstance(value, date | timedelta | pathlib.Path):
        return value
    if hasattr(value, "shape") and not isinstance(value, np.generic):
        return np.array(keras.ops.convert_to_numpy(value))
    return copy.deepcopy(value)


def _random(kind: str, state: Any) -> Any:
    generator: Any
    if kind in ("python", "legacy"):
        generator = random.Random() if kind == "python" else np.random.RandomState()
    elif kind in _BIT_GENERATORS:
        generator = np.random.Generator(getattr(np.random, kind)())
    else:
        raise ValueError(f"{kind!r} is not a known kind of random generator")
    set_random_state(generator, kind, state)
    return generator


def plain(value: Any, graphs: bool = False) -> Any:
    """Return data without Keras's tracking containers and with tensors as marked arrays.

    Args:
        value: The data; anything else in it stays as it is.
        graphs: Whether a tensor that torch could still differentiate counts as its values.
    """
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, deque):
        return deque((plain(inner, graphs) for inner in value), value.maxlen)
    for kind in (list, set):
        if isinstance(value, kind):
            return kind(plain(inner, graphs) for inner in value)
    if isinstance(value, dict):
        return {key: plain(inner, graphs) for key, inner in value.items()}
    if type(value) is tuple:
        return tuple(plain(inner, graphs) for inner in value)
    if keras.ops.is_tensor(value) and _is_values_only(value, graphs):
        return (_TENSOR, np.array(keras.ops.convert_to_numpy(value)))
    return value


def _is_values_only(tensor: Any, graphs: bool) -> bool:
    """Return whether a tensor is no more than its values: neither a variable nor a parameter."""
    if getattr(tensor, "requires_grad", False):
        return graphs and not tensor.is_leaf
    return not (graphs and hasattr(tensor, "assign"))


def thing(value: Any) -> Any:
    """Return what `plain` was given, but for the containers' classes."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is str and value[0] == _TENSOR:
        return keras.ops.convert_to_tensor(np.array(value[1]))
    if type(value) in (list, tuple, set):
        return type(value)(map(thing, value))
    if type(value) is deque:
        return deque(map(thing, value), value.maxlen)
    if type(value) is dict:
        return {key: thing(inner) for key, inner in value.items()}
    return value


def holds_tensor(value: Any) -> bool:
    """Return whether a value is a tensor, or a container that holds one."""
    if isinstance(value, list | tuple | deque | dict):
        items = value.values() if isinstance(value, dict) else value
        strange = not all(issubclass(kind, _SCALARS) for kind in set(map(type, items)))
        return strange and any(map(holds_tensor, items))
    return bool(keras.ops.is_tensor(value)) and not isinstance(value, _SCALARS)
