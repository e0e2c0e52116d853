"""Files of earlier runs, which get another name before a new run takes their place.

`best.keras` becomes `best.before-01.keras`, the one after it `best.before-02.keras`:

1. a manifest for the new name is written and synced;
2. the file gets the new name as a second one (a hard link; where there are none, a copy that is
   drafted, synced and renamed), directory synced;
3. the save that follows replaces the file under the first name.

So the first name always leads to the whole older file or to the whole new one. A crash after 1
leaves a manifest without a file, which the next start removes. After 2 the older file has two
names, and the next save sees that it has been renamed already.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from keras_ratchet._storage import disk, links, single_file
from keras_ratchet._storage.atomic import AtomicFile
from keras_ratchet._storage.manifest import Manifest, entry_of

_EARLIER = re.compile(
    r"(?P<stem>.*)\.before-(?P<number>[0-9]{2,})(?P<suffix>\.weights\.h5|\.keras|\.h5)", re.DOTALL
)
_SUFFIXES = (".weights.h5", ".keras", ".h5")


def earlier_name(name: str, number: int) -> str:
    """Return the name that a file of an earlier run gets.

    Example:
        >>> earlier_name("best.weights.h5", 1)
        'best.before-01.weights.h5'
    """
    suffix = next((s for s in _SUFFIXES if name.endswith(s)), "")
    return f"{name.removesuffix(suffix)}.before-{number:02d}{suffix}"


def original_name(name: str) -> str:
    """Return the name that a file of an earlier run had; other names stay as they are.

    Example:
        >>> original_name("best.before-01.weights.h5"), original_name("best.keras")
        ('best.weights.h5', 'best.keras')
    """
    match = _EARLIER.fullmatch(name)
    return match["stem"] + match["suffix"] if match else name


def next_name(path: str, is_taken: Callable[[str], bool] = lambda name: False) -> str:
    """Return the name that the file at `path` would get.

    Args:
        path: The file.
        is_taken: Whether a name is in use elsewhere.
    """
    first = max((number for number, _ in _list_earlier(path)), default=0) + 1
    names = (earlier_name(os.path.basename(path), number) for number in itertools.count(first))
    return next(name for name in names if not is_taken(name))


def preserve(
    path: str, run: str, is_taken: Callable[[str], bool] = lambda name: False
) -> str | None:
    """Give the file at a path another name, unless it was saved by `run`.

    Args:
        path: The file, links followed; the caller holds its lock and is about to replace it.
        run: The run that replaces it.
        is_taken: Whether a name is in use elsewhere.

    Returns:
        The new path; None if there is no such file, or if it has another name already.

    Raises:
        OSError: If the disk refuses; the file is then where it was.
    """
    if not os.path.isfile(path):
        return None
    manifest = single_file.manifest_of(path)
    if (manifest is not None and manifest.run == run) or _is_preserved(path, manifest):
        return None
    name = next_name(path, is_taken)
    target = os.path.join(os.path.dirname(path), name)
    if manifest is not None:
        entry = manifest.files[os.path.basename(path)]
        single_file.write_manifest(target, replace(manifest, files={name: entry}))
    _link(path, target)
    return target


def _is_preserved(path: str, manifest: Manifest | None) -> bool:
    """Return whether a file with the same content has such a name."""
    for _, earlier in _list_earlier(path):
        if os.path.samefile(path, earlier):
            return True
        other = single_file.manifest_of(earlier)
        if manifest is None or other is None:
            continue
        entry = other.files[os.path.basename(earlier)]
        if entry == manifest.files[os.path.basename(path)] == entry_of(earlier):
            return True
    return False


def _list_earlier(path: str) -> Iterator[tuple[int, str]]:
    """Yield number and path of the earlier files of this name."""
    directory, name = os.path.split(os.path.abspath(path))
    for entry in sorted(os.listdir(directory)):
        match = _EARLIER.fullmatch(entry)
        if match and original_name(entry) == name:
            yield int(match["number"]), os.path.join(directory, entry)


def _link(source: str, target: str) -> None:
    if links.link(source, target):
        disk.current.sync_directory(os.path.dirname(target))
        return
    with AtomicFile(target) as draft:
        draft.write(lambda file: links.copy_into(source, file))
        draft.commit()
