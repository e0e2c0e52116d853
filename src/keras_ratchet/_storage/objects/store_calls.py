"""What is asked of a store: the seam that `file_calls` and `fsspec_calls` fill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4  # so an upload holds at most 64 MB


@dataclass(frozen=True, slots=True)
class Stat:
    """What a store says of an object.

    Attributes:
        size_bytes: Its length.
        modified_s: When it was put, in seconds since 1970; None if the store does not say.
        checksums: What it is known by: "etag", "md5", "sha256"; hexadecimal, but for odd etags.
    """

    size_bytes: int
    modified_s: float | None
    checksums: Mapping[str, str]


class StoreCalls(Protocol):
    """The calls to a store; keys are relative to its URL."""

    exclusive: bool

    def put_file(self, path: str, key: str) -> None:
        """Put a local file."""

    def put_new(self, key: str, data: bytes) -> None:
        """Put bytes under a key that is not in use; raise FileExistsError if it is."""

    def put(self, key: str, data: bytes) -> None:
        """Put bytes, over what is there."""

    def get_file(self, key: str, path: str) -> None:
        """Write an object to a local file."""

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""

    def read_all(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of several objects; those that are not there are left out."""

    def find(self, prefix: str) -> dict[str, Stat]:
        """Return the objects whose keys start with `prefix`, a directory or ""."""

    def find_here(self) -> dict[str, Stat]:
        """Return the objects right in the directory."""

    def stat(self, key: str) -> Stat:
        """Return what the store says of an object."""

    def delete(self, key: str) -> None:
        """Delete an object; do nothing if it is not there."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of an object, in bounded memory."""
