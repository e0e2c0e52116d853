"""Is it safe to hand this file to Keras and HDF5? Files may come from strangers.

Refused, with bounded memory and before any weight is read: zip members that lead out of the
archive or expand beyond reason, HDF5 links to other files, external or virtual data, data sets
that declare far more than they store, and object trees without end. Nothing is unpickled here
or later, and Keras's `safe_mode` stays on.
"""

from __future__ import annotations

import math
import zipfile
from typing import Any

import h5py

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
        LoadError: If it is not what its suffix says, or could do harm.
    """
    try:
        if path.endswith(".keras"):
            _check_archive(path)
        else:
            with h5py.File(path, "r") as h5:
                _check_h5(h5)
    except _Unsafe as unsafe:
        raise LoadError(f"{path!r} is refused: {unsafe}.") from None
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, RuntimeError) as error:
        raise LoadError(f"{path!r} cannot be read: {error}") from error


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
        if "config.json" not in names:
            raise _Unsafe("it has no config.json, so it holds no Keras model")
        if "model.weights.h5" in names:
            with archive.open("model.weights.h5") as inner, h5py.File(inner, "r") as h5:
                _check_h5(h5)


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise _Unsafe(f"its member {name!r} leads out of the archive")
    if parts[0] != "assets" and name not in _ALLOWED:
        raise _Unsafe(f"its member {name!r} does not belong in a Keras file")
    if name.endswith(".json") and parts[0] != "assets" and member.file_size > _MAX_CONFIG_BYTES:
        raise _Unsafe(f"its member {name!r} has {member.file_size} bytes")
    if _expands(member.file_size, member.compress_size):
        raise _Unsafe(
            f"its member {name!r} expands from {member.compress_size} to {member.file_size} bytes"
        )


def _check_h5(h5: Any) -> None:
    """Walk over all groups without following a link out of the file."""
    waiting, seen = [h5["/"]], set()
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
            if child is not None:
                waiting.append(child)


def _child(group: Any, name: str) -> Any:
    """Return a child that is a group, None for a data set; refuse what is neither or unsafe."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise _Unsafe(f"{group.name}/{name} is a {type(link).__name__}")
    child = group[name]
    if isinstance(child, h5py.Group):
        return child
    if not isinstance(child, h5py.Dataset):
        raise _Unsafe(f"{child.name} is a {type(child).__name__}")
    if child.external or child.is_virtual:
        raise _Unsafe(f"the data of {child.name} lie outside the file")
    declared = math.prod(child.shape or ()) * child.dtype.itemsize
    if _expands(declared, child.id.get_storage_size()):
        raise _Unsafe(f"{child.name} declares {declared} bytes, which are not in the file")
    return None


def _expands(declared: int, stored: int) -> bool:
    return declared > _FLOOR_BYTES and declared > _MAX_EXPANSION * max(stored, 1)
