"""Whether the ranks of a run see one directory."""

from __future__ import annotations

import os
from typing import Any

from keras_ratchet._storage import single_file
from keras_ratchet.errors import ConfigError


def is_shared(directory: str, ranks: Any, *, must: bool) -> bool:
    """Return whether all ranks see rank 0's directory.

    Args:
        directory: The directory, in which rank 0 holds the lock.
        ranks: The coordinator; all ranks call this.
        must: Whether they have to.

    Raises:
        ConfigError: On all ranks, if one does not see it and has to.
    """
    metadata = os.path.join(directory, single_file.METADATA)
    lock = os.path.join(metadata, single_file.BACKUP_LOCK)
    own = ranks.broadcast(f"{os.stat(lock).st_mtime_ns}" if ranks.rank == 0 else "")
    try:
        mine = own if ranks.rank == 0 else _newest_mtime(lock)
    except OSError as error:
        mine = str(error)
    seen = ranks.gather((directory, mine), "shared directory")
    for rank, (there, found) in enumerate(seen):
        if found != own and must:
            raise ConfigError(
                f"Rank {rank} does not see what rank 0 writes: rank 0's backup directory is "
                f"{seen[0][0]!r}, rank {rank}'s is {there!r} ({found}). Give all ranks one "
                "directory on a file system that they share.",
                see="shared-directory",
            )
    return all(found == own for _, found in seen)


def _newest_mtime(path: str) -> str:
    """Return when a file was changed; on NFS opening it asks the server. Not for who locks it."""
    with open(path, "rb") as file:
        return f"{os.fstat(file.fileno()).st_mtime_ns}"
