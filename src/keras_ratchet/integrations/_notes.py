"""What schedulers and trackers were told of a run, noted beside its snapshots."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from keras_ratchet._storage import disk, single_file
from keras_ratchet._storage.atomic import AtomicFile


def read_note(directory: str) -> dict[str, Any]:
    """Return what schedulers and trackers were told of a run, by their names."""
    with contextlib.suppress(OSError, ValueError), open(_note_path(directory), "rb") as file:
        content = json.load(file)
        return content if isinstance(content, dict) else {}
    return {}


def write_note(directory: str, key: str, content: Mapping[str, Any]) -> None:
    """Note what one of them was told."""
    notes = {**read_note(directory), key: content}
    path = _note_path(directory)
    disk.make_directories(os.path.dirname(path))
    with AtomicFile(path) as draft:
        draft.write(lambda file: _put(file, json.dumps(notes).encode()))
        draft.commit()


def _put(file: Any, data: bytes) -> None:
    file.write(data)


def _note_path(directory: str) -> str:
    return os.path.join(directory, single_file.METADATA, single_file.REPORTED)
