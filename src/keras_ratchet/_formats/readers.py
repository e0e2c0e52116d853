"""Reading weights and config of Keras files without Keras, for the command line.

| file | where the weights are | where their names are |
|---|---|---|
| `.keras` | HDF5 inside the zip, as in `.weights.h5` | |
| `.weights.h5` | `layers/dense_1/vars/0` | the attribute `name` of each `vars` group |
| `.h5` (legacy) | `model_weights/<layer>/<weight>` | the attributes `layer_names`, `weight_names` |

A name reads like the path of the Keras variable, `block/dense/kernel`; those of the optimizer
start with `optimizer/`. A `.weights.h5` file has numbers instead of variable names; they become
names where the kind of layer leaves no doubt. Names are unique in a file and depend on the file
alone. One weight is in memory at a time.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from keras_ratchet._formats.safety import check_file
from keras_ratchet._formats.zip_members import open_member
from keras_ratchet.errors import LoadError

OPTIMIZER = "optimizer"
PARTIAL, MISSING = "keras_ratchet_partial", "keras_ratchet_missing"  # see trainable_h5.py
_PICKLE = "model.weights.npz"
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    zipfile.BadZipFile,
)

# Kinds of layers (as they are written in file paths) and the names of their variables, in order.
_VARIABLES: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    (
        r"(.*_)?(dense|(depthwise_)?conv[123]d(_transpose)?)",
        (("kernel",), ("kernel", "bias")),
    ),
    (
        r"separable_conv[12]d",
        (
            ("depthwise_kernel", "pointwise_kernel"),
            ("depthwise_kernel", "pointwise_kernel", "bias"),
        ),
    ),
    (
        r"(.*_)?cell",
        (("kernel", "recurrent_kernel"), ("kernel", "recurrent_kernel", "bias")),
    ),
    (r"(.*_)?embedding", (("embeddings",),)),
    (
        r"batch_normalization",
        (("moving_mean", "moving_variance"), ("gamma", "beta", "moving_mean", "moving_variance")),
    ),
    (r"(layer|group)_normalization", (("gamma", "beta"),)),
    (r"rms_normalization", (("scale",),)),
    (r"p_re_lu", (("alpha",),)),
)


@dataclass(frozen=True, slots=True)
class Weight:
    """One array of a file.

    Attributes:
        name: The readable name, unique in the file.
        key: Where it is in the file; Keras finds it by this.
        shape: Its shape.
        dtype: Name of its data type.
        read: Returns it as a NumPy array, while the file is open.
        of_optimizer: Whether it belongs to the optimizer rather than to the model.
        offset: Where its bytes start in the HDF5 file; None if they are not in one piece.
    """

    name: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Any]
    of_optimizer: bool = False
    offset: int | None = None


@contextlib.contextmanager
def open_weights(path: str) -> Iterator[list[Weight]]:
    """Yield the weights of a `.keras`, `.weights.h5` or `.h5` file, in a fixed order.

    Args:
        path: The file, which is open as long as the block runs.

    Raises:
        LoadError: If it is not such a file, or is not safe to read.
    """
    check_file(path)
    with contextlib.ExitStack() as stack:
        with _as_load_error(path):
            weights = _unique(_listed(_open(path, stack)))
        yield weights


def read_config(path: str) -> dict[str, Any] | None:
    """Return the config of the model in a file, or None if it holds weights only.

    Raises:
        LoadError: If it is not a Keras file, or is not safe to read.
    """
    config = _read_metadata(path)[0]
    return config if isinstance(config, dict) else None


def keras_version(path: str) -> str | None:
    """Return the version of Keras that wrote a file, or None if the file does not say.

    Raises:
        LoadError: If it is not a Keras file, or is not safe to read.
    """
    version = _read_metadata(path)[1]
    return version if isinstance(version, str) else None


def missing_weights(path: str) -> list[str] | None:
    """Return the paths of the weights that a file leaves out; None if it is a whole one.

    Only a `.weights.h5` file that was saved with `trainable_only=True` leaves any out.

    A whole file is only opened here; `open_weights` checks whether it is safe to read.

    Raises:
        LoadError: If it is not an HDF5 file; if it leaves out weights and is not safe to read.
    """
    if not path.endswith(".weights.h5"):
        return None
    with _as_load_error(path), h5py.File(path, "r") as h5:
        if PARTIAL not in h5.attrs:
            return None
        check_file(path)
        if h5.attrs[PARTIAL] != 1:
            raise LoadError(
                f"{path!r} was written by a newer version of keras-ratchet. "
                "Update it: pip install -U keras-ratchet.",
                see="newer-version",
            )
        return [str(name) for name in json.loads(h5[MISSING][...].tobytes())]


def _read_metadata(path: str) -> tuple[Any, Any]:
    """Return the model's config and the version of Keras, each None if the file has none."""
    check_file(path)
    with _as_load_error(path):
        if path.endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                metadata = json.loads(archive.read("metadata.json"))
                return json.loads(archive.read("config.json")), metadata.get("keras_version")
        with h5py.File(path, "r") as h5:
            config = h5.attrs.get("model_config")
            return None if config is None else json.loads(config), h5.attrs.get("keras_version")


@contextlib.contextmanager
def _as_load_error(path: str) -> Iterator[None]:
    try:
        yield
    except LoadError:
        raise
    except (*_UNREADABLE, RecursionError) as error:
        raise LoadError(f"{path!r} cannot be read: {error}", see="unreadable") from error


def _open(path: str, stack: contextlib.ExitStack) -> Any:
    """Return the HDF5 file (in a `.keras` file, the one in the archive); `stack` closes it."""
    source: Any = path
    if path.endswith(".keras"):
        archive = stack.enter_context(zipfile.ZipFile(path))
        if _PICKLE in archive.namelist():
            raise LoadError(
                f"the weights of {path!r} are a pickle, which is never loaded.", see="refused-file"
            )
        source = open_member(archive, "model.weights.h5", stack)
    return stack.enter_context(h5py.File(source, "r"))


def _listed(h5: Any) -> list[Weight]:
    legacy = h5.get("model_weights", h5)
    if "layer_names" in legacy.attrs or "layer_names0" in legacy.attrs:
        return list(_legacy(h5, legacy))
    return sorted(_modern(h5), key=lambda weight: _natural(weight.key))


def _unique(weights: list[Weight]) -> list[Weight]:
    """Replace a name that is taken by the weight's key."""
    taken: set[str] = set()
    result = []
    for weight in weights:
        name = weight.name if weight.name not in taken else weight.key
        while name in taken:
            name += "+"
        taken.add(name)
        result.append(replace(weight, name=name))
    return result


def _modern(h5: Any) -> Iterator[Weight]:
    """Yield the weights of the layout of Keras 3: groups of layers, with `vars` in each."""
    waiting: list[tuple[str, tuple[str, ...], Any]] = [("", (), h5)]
    while waiting:
        key, labels, group = waiting.pop()
        for name, child in group.items():
            inner = f"{key}/{name}" if key else name
            if name == "vars" and isinstance(child, h5py.Group):
                yield from _variables(inner, labels, child)
            elif isinstance(child, h5py.Group):
                waiting.append((inner, _labels(labels, name, child), child))


def _labels(above: tuple[str, ...], component: str, group: Any) -> tuple[str, ...]:
    """Return the readable path of a group, without lists of layers."""
    if not above and component == OPTIMIZER:
        return (OPTIMIZER,)
    own = group.get("vars")
    if not isinstance(own, h5py.Group):
        return above
    return (*above, _text(own.attrs.get("name", component)))


def _variables(key: str, labels: tuple[str, ...], group: Any) -> Iterator[Weight]:
    datasets = {name: child for name, child in group.items() if isinstance(child, h5py.Dataset)}
    numbered = sorted(datasets, key=_natural)
    if datasets and all("name" in dataset.attrs for dataset in datasets.values()):
        names = tuple(_text(datasets[name].attrs["name"]) for name in numbered)
    elif numbered == [str(index) for index in range(len(numbered))]:
        arrays = [datasets[name] for name in numbered]
        names = _optimizer_names(arrays) if labels == (OPTIMIZER,) else _names(key, arrays)
    else:
        names = tuple(numbered)
    for name, number in zip(names, numbered, strict=True):
        where = "/".join(labels or ("vars",))
        is_slot = key.startswith(f"{OPTIMIZER}/")
        yield _of_dataset(f"{where}/{name}", f"{key}/{number}", datasets[number], is_slot)


def _names(key: str, arrays: list[Any]) -> tuple[str, ...]:
    """Return the names of a layer's variables, or their numbers if that is not certain."""
    numbers = tuple(str(index) for index in range(len(arrays)))
    component = key.split("/")[-2] if "/" in key else ""
    kind = re.sub(r"_\d+$", "", component)
    if not arrays or arrays[0].dtype.kind not in "fV":  # a quantized layer has more variables
        return numbers
    for pattern, choices in _VARIABLES:
        if re.fullmatch(pattern, kind):
            fitting = (choice for choice in choices if len(choice) == len(arrays))
            return next(fitting, numbers)
    return ("kernel", "bias") if _are_kernel_and_bias(arrays) else numbers


def _are_kernel_and_bias(arrays: list[Any]) -> bool:
    """Return whether their shapes are those of a kernel and a bias."""
    if len(arrays) != 2:
        return False
    kernel, bias = (array.shape for array in arrays)
    return 0 < len(bias) < len(kernel) and kernel[-len(bias) :] == bias


def _optimizer_names(arrays: list[Any]) -> tuple[str, ...]:
    """Return names for the first two variables, which all Keras optimizers have."""
    names = [str(index) for index in range(len(arrays))]
    if arrays and arrays[0].dtype.kind in "iu" and arrays[0].shape == ():
        names[0] = "iteration"
        if len(arrays) > 1 and arrays[1].dtype.kind == "f" and arrays[1].shape == ():
            names[1] = "learning_rate"
    return tuple(names)


def _legacy(h5: Any, weights: Any) -> Iterator[Weight]:
    """Yield the weights of the layout of Keras 2: a group for each layer lists its weights."""
    for layer in _list(weights, "layer_names"):
        for name in _list(weights[layer], "weight_names"):
            readable = _from_layer(layer, name.removesuffix(":0"))
            yield _of_dataset(readable, f"{layer}/{name}", weights[layer][name])
    top = weights.get("top_level_model_weights")
    if top is not None:
        for name in _list(top, "weight_names"):
            yield _of_dataset(name.removesuffix(":0"), f"top/{name}", top[name])
    slots = h5.get("optimizer_weights")
    if slots is not None:
        for name in _list(slots, "weight_names"):
            short = name.removesuffix(":0").partition("/")[2] or name
            yield _of_dataset(f"{OPTIMIZER}/{short}", f"{OPTIMIZER}/{name}", slots[name], True)


def _from_layer(layer: str, name: str) -> str:
    """Return a weight's path from its layer on: `dense/kernel` for `sequential/dense/kernel`."""
    start = f"/{name}".find(f"/{layer}/")
    return name[start:] if start >= 0 else f"{layer}/{name}"


def _list(group: Any, attribute: str) -> Iterable[str]:
    """Return a list of names, which may be split: `<attribute>0`, `<attribute>1`..."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    names: list[str] = []
    number = 0
    while f"{attribute}{number}" in group.attrs:
        names += [_text(name) for name in group.attrs[f"{attribute}{number}"]]
        number += 1
    return names


def _of_dataset(name: str, key: str, dataset: Any, is_slot: bool = False) -> Weight:
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise LoadError(f"{key!r} is not an array.", see="unreadable")
    is_bfloat16 = dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2
    dtype = "bfloat16" if is_bfloat16 else dataset.dtype.name
    read = functools.partial(_read, dataset, is_bfloat16)
    offset = dataset.id.get_offset()
    return Weight(name, key, tuple(dataset.shape), dtype, read, is_slot, offset)


def _read(dataset: Any, is_bfloat16: bool) -> Any:
    array = np.asarray(dataset[...])
    return array.view(ml_dtypes.bfloat16) if is_bfloat16 else array


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a sort key that puts `dense_2` before `dense_10`."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)
    ]
