"""Checks that a file is safe to pass to Keras and HDF5: it may come from anybody.

Refused, in bounded memory and before any weight is read, are: zip members that lead out of the
archive or expand too much, HDF5 links to other files, external or virtual data, data sets that
declare far more than they store (each, and all together), and endless object trees. Nothing is
unpickled here or later, and Keras's `safe_mode` stays on.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from typing import Any

import h5py
import numpy as np

from keras_ratchet._formats.zip_members import open_member
from keras_ratchet.errors import LoadError

_ALLOWED = ("config.json", "metadata.json", "model.weights.h5", "model.weights.npz")
_MAX_MEMBERS = 100_000
_MAX_CONFIG_BYTES = 1 << 28
_MAX_EXPANSION = 1000
_FLOOR_BYTES = 1 << 24
_MAX_OBJECTS = 1_000_000


def check_file(path: str) -> None:
    """Raise a LoadError unless a checkpoint file is safe to load.

    Args:
        path: A `.keras`, `.weights.h5` or `.h5` file.

    Raises:
        LoadError: If it is not what its suffix says, or is not safe.
    """
    try:
        if path.endswith(".keras"):
            _check_archive(path)
        else:
            with h5py.File(path, "r") as h5:
                _check_h5(h5, os.path.getsize(path))
    except _Unsafe as unsafe:
        raise LoadError(f"{path!r} is refused: {unsafe}.", see="refused-file") from None
    except Exception as error:  # the parsers raise all kinds of errors for broken files
        raise LoadError(f"{path!r} cannot be read: {error}", see="unreadable") from error


class _Unsafe(Exception):
    """What is wrong with a file."""


def _check_archive(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MAX_MEMBERS:
            raise _Unsafe(f"it has {len(members)} members")
        names = [member.filename for member in members]
        if len(set(names)) != len(names):
            raise _Unsafe("two of its members have the same name")
        for member in members:
            _check_member(member)
        _check_total(sum(member.file_size for member in members), os.path.getsize(path))
        if "config.json" not in names:
            raise _Unsafe("it has no config.json, so it holds no Keras model")
        _check_weights(archive, names)


def _check_weights(archive: zipfile.ZipFile, names: list[str]) -> None:
    if "model.weights.h5" in names:
        size = archive.getinfo("model.weights.h5").file_size
        with contextlib.ExitStack() as stack:
            inner = open_member(archive, "model.weights.h5", stack)
            _check_h5(stack.enter_context(h5py.File(inner, "r")), size)
    if "model.weights.npz" in names:
        with archive.open("model.weights.npz") as inner, zipfile.ZipFile(inner) as arrays:
            for member in arrays.infolist():
                _check_array(arrays, member)


def _check_array(arrays: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Compare the size that an array's header declares with the size of its data."""
    if _expands(member.file_size, member.compress_size):
        raise _Unsafe(f"its array {member.filename!r} expands to {member.file_size} bytes")
    with arrays.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise _Unsafe(f"its array {member.filename!r} declares the shape {shape}")


def _check_total(declared: int, stored: int) -> None:
    if _expands(declared, stored):
        raise _Unsafe(f"it has {stored} bytes and expands to {declared}")


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise _Unsafe(f"its member {name!r} points outside the archive")
    if parts[0] != "assets" and name not in _ALLOWED:
        raise _Unsafe(f"its member {name!r} does not belong in a Keras file")
    if name.endswith(".json") and parts[0] != "assets" and member.file_size > _MAX_CONFIG_BYTES:
        raise _Unsafe(f"its member {name!r} has {member.file_size} bytes")
    if _expands(member.file_size, member.compress_size):
        raise _Unsafe(
            f"its member {name!r} expands from {member.compress_size} to {member.file_size} bytes"
        )


def _check_h5(h5: Any, stored: int) -> None:
    """Walk over all groups of a file of `stored` bytes; follow no link out of it."""
    waiting, seen, declared = [h5["/"]], set(), 0
    while waiting:
        group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        if len(seen) + len(group) > _MAX_OBJECTS:
            raise _Unsafe(f"it has more than {_MAX_OBJECTS} objects")
        for name in group:
            child = _child(group, name)
            if isinstance(child, h5py.Group):
                waiting.append(child)
            else:
                declared += _declared(child)
    _check_total(declared, stored)


def _child(group: Any, name: str) -> Any:
    """Return a group's child, a group or a data set; refuse anything else."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise _Unsafe(f"{group.name}/{name} is a {type(link).__name__}")
    child = group[name]
    if isinstance(child, h5py.Group):
        return child
    if not isinstance(child, h5py.Dataset):
        raise _Unsafe(f"{child.name} is a {type(child).__name__}")
    if child.external or child.is_virtual:
        raise _Unsafe(f"the data of {child.name} lies outside the file")
    if _expands(_declared(child), child.id.get_storage_size()):
        raise _Unsafe(f"{child.name} declares {_declared(child)} bytes, which are not in the file")
    return child


def _declared(dataset: Any) -> int:
    return math.prod(dataset.shape or ()) * int(dataset.dtype.itemsize)


def _expands(declared: int, stored: int) -> bool:
    return declared > _FLOOR_BYTES and declared > _MAX_EXPANSION * max(stored, 1)
