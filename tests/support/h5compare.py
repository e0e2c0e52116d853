"""Two HDF5 files, or two `.keras` archives, compared part by part."""

import io
import json
import zipfile

import h5py
import numpy as np


def differences(ours, theirs):
    """Return what differs between two files of one format, as sentences; [] if nothing does."""
    if str(ours).endswith(".keras"):
        return _of_archives(ours, theirs)
    return _of_h5(ours, theirs)


def _of_archives(ours, theirs):
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(theirs) as other:
        assert one.testzip() is None
        listed, wanted = [_members(archive) for archive in (one, other)]
        if listed != wanted:
            return [f"members: {listed} instead of {wanted}"]
        found = []
        for name in one.namelist():
            found += [f"{name}: {text}" for text in _of_members(name, one.read(name), other)]
        return found


def _members(archive):
    return [(info.filename, info.compress_type, info.is_dir()) for info in archive.infolist()]


def _of_members(name, data, other):
    wanted = other.read(name)
    if name.endswith(".h5"):
        return _of_h5(io.BytesIO(data), io.BytesIO(wanted))
    if name.endswith(".json"):
        data, wanted = _undated(data), _undated(wanted)
    return [] if data == wanted else [f"{data!r} instead of {wanted!r}"]


def _undated(text):
    value = json.loads(text)
    value.pop("date_saved", None)
    return value


def _of_h5(ours, theirs):
    with h5py.File(ours, "r") as one, h5py.File(theirs, "r") as other:
        mine, wanted = _items(one), _items(other)
        if list(mine) != list(wanted):
            return [f"names: {sorted(set(mine) ^ set(wanted)) or 'another order'}"]
        return [
            f"{name}: {what} is {a!r} instead of {b!r}"
            for name in mine
            for what, a, b in _pairs(mine[name], wanted[name])
            if not _same(a, b)
        ]


def _items(file):
    found = {"/": file}
    file.visititems(lambda name, item: found.update({name: item}))
    return found


def _pairs(mine, wanted):
    yield "kind", type(mine), type(wanted)
    yield "attribute names", sorted(mine.attrs), sorted(wanted.attrs)
    for key in wanted.attrs:
        yield f"attribute {key}", mine.attrs.get(key), wanted.attrs[key]
        yield f"type of {key}", _attribute_type(mine, key), _attribute_type(wanted, key)
    if isinstance(wanted, h5py.Dataset) and isinstance(mine, h5py.Dataset):
        for what in ("dtype", "shape", "chunks", "compression", "fillvalue"):
            yield what, getattr(mine, what), getattr(wanted, what)
        yield "values", mine[()], wanted[()]


def _attribute_type(item, key):
    return item.attrs.get_id(key).dtype if key in item.attrs else None


def _same(a, b):
    if isinstance(a, np.ndarray | np.generic) or isinstance(b, np.ndarray | np.generic):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return a.tolist() == b.tolist() if a.dtype.hasobject else a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b
