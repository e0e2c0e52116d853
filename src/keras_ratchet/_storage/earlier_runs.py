"""Files of an earlier run, kept under a name of their own before a new run takes their place.

`best.keras` becomes `best.before-01.keras`, the next one `best.before-02.keras`:

1. the manifest for the new name is written and synced;
2. the file gets the new name as a second one (a hard link; where there are none, a copy that is
   drafted, synced and renamed), directory synced;
3. the save that follows replaces the first name.

So the first name leads, at every instant, to the whole older file or to the whole new one. A
crash after 1 leaves a manifest without a file, which the next start removes; after 2 the older
file has two names, and the next save finds that it is kept already.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import replace

from keras_ratchet._storage import disk, single_file
from keras_ratchet._storage.manifest import Manifest, record_of

_ASIDE = re.compile(
    r"(?P<stem>.*)\.before-(?P<number>[0-9]{2,})(?P<suffix>\.weights\.h5|\.keras|\.h5)", re.DOTALL
)
_SUFFIXES = (".weights.h5", ".keras", ".h5")
_NO_LINKS = (
    errno.EPERM,
    errno.EACCES,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EMLINK,
    errno.EXDEV,
)
_CHUNK_BYTES = 1 << 20


def aside_name(name: str, number: int) -> str:
    """Return the name under which a file of an earlier run is kept.

    Example:
        >>> aside_name("best.weights.h5", 1)
        'best.before-01.weights.h5'
    """
    suffix = next((s for s in _SUFFIXES if name.endswith(s)), "")
    return f"{name.removesuffix(suffix)}.before-{number:02d}{suffix}"


def original_name(name: str) -> str:
    """Return the name that a file had before it was kept aside; others stay as they are.

    Example:
        >>> original_name("best.before-01.weights.h5"), original_name("best.keras")
        ('best.weights.h5', 'best.keras')
    """
    match = _ASIDE.fullmatch(name)
    return match["stem"] + match["suffix"] if match else name


def next_name(path: str) -> str:
    """Return the name that the file at `path` would be kept under."""
    taken = [number for number, _ in _asides(path)]
    return aside_name(os.path.basename(path), max(taken, default=0) + 1)


def set_aside(path: str, run: str) -> str | None:
    """Keep the file at a path, if another run than `run` has put it there.

    Args:
        path: A file, links followed; the caller is about to replace it, and holds its lock.
        run: The run that replaces it.

    Returns:
        The new path; None if there is nothing to keep, or if it is kept already.

    Raises:
        OSError: If the disk refuses; the file is where it was.
    """
    if not os.path.isfile(path):
        return None
    manifest = single_file.manifest_of(path)
    if (manifest is not None and manifest.run == run) or _is_kept(path, manifest):
        return None
    name = next_name(path)
    target = os.path.join(os.path.dirname(path), name)
    if manifest is not None:
        record = manifest.files[os.path.basename(path)]
        own = os.path.join(single_file.side_directory(path), f"{name}.{record.digest}.json")
        single_file.write_manifest(own, replace(manifest, files={name: record}))
    _give_name(path, target)
    return target


def _is_kept(path: str, manifest: Manifest | None) -> bool:
    """Say whether the same content has been kept before."""
    for _, aside in _asides(path):
        if os.path.samefile(path, aside):
            return True
        kept = single_file.manifest_of(aside)
        if manifest is None or kept is None:
            continue
        record = kept.files[os.path.basename(aside)]
        same = record == manifest.files[os.path.basename(path)]
        if same and record_of(aside) == record:
            return True
    return False


def _asides(path: str) -> Iterator[tuple[int, str]]:
    """Yield number and path of each file that was kept under this name."""
    directory, name = os.path.split(os.path.abspath(path))
    for entry in sorted(os.listdir(directory)):
        match = _ASIDE.fullmatch(entry)
        if match and original_name(entry) == name:
            yield int(match["number"]), os.path.join(directory, entry)


def _give_name(source: str, target: str) -> None:
    try:
        disk.current.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with disk.FileDraft(target) as draft:
            draft.write(lambda file: _copy(source, file))
            draft.commit()
        return
    disk.current.sync_directory(os.path.dirname(target))


def _copy(source: str, file: disk.DraftFile) -> None:
    with open(source, "rb", buffering=0) as original:
        while data := original.read(_CHUNK_BYTES):
            file.write(data)
