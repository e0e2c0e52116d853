"""What a format is: how a model becomes the bytes of one file."""

from __future__ import annotations

import io
from typing import Any, Protocol


class Format(Protocol):
    """One kind of file.

    `freeze` is called at the moment of the save and may block; `write` turns what it returned
    into bytes, and needs nothing but that and an open, seekable file.
    """

    suffix: str

    def freeze(self, model: Any) -> Any:
        """Take what the file needs out of the model."""

    def write(self, frozen: Any, file: io.RawIOBase) -> None:
        """Write the file's bytes.

        Raises:
            OSError: If the file refuses a write; never anything worse.
        """
