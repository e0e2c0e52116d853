"""Checkpoints copied between a directory on a store and a local one: `ratchet pull` and `push`.

Both hold the local lock of a series while they copy it, and `push` its lease, so they never meet a
run that saves. A checkpoint is the same in both places if its manifest is; another one of the same
name is left alone unless the user asked for it to be replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from keras_ratchet._storage import disk, journal, listing, single_file
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.manifest import Manifest, matches
from keras_ratchet._storage.objects import commit, journals, reading
from keras_ratchet._storage.objects.catalog import PINS, Catalog, bare_files
from keras_ratchet._storage.objects.fetch import fetch
from keras_ratchet._storage.objects.lease import Lease
from keras_ratchet._storage.objects.location import checked_url, split
from keras_ratchet._storage.objects.record import DATA, Entry, Record
from keras_ratchet._storage.objects.store_calls import Stat
from keras_ratchet._storage.snapshot_directory import delete_snapshot, snapshot_manifest
from keras_ratchet._storage.verify import verify
from keras_ratchet.errors import LoadError
from keras_ratchet.types import CheckpointInfo

Options = Mapping[str, Any] | None
Outcome = Literal["copied", "there", "differs", "damaged"]


@dataclass(frozen=True, slots=True)
class Copy:
    """What became of one checkpoint.

    Attributes:
        name: Its name.
        path: Where it is copied to.
        outcome: "copied", "there" (the same is there already), "differs" (another one of its name
            is there) or "damaged".
        problem: What is wrong, in a sentence; "" if nothing is.
        size_bytes: Its size.
    """

    name: str
    path: str
    outcome: Outcome
    problem: str = ""
    size_bytes: int = 0


class Pull:
    """Brings the checkpoints of a store to a local directory.

    Args:
        url: A directory on a store, or one checkpoint.
        directory: The local directory; it is made.
        options: `storage_options`.

    Attributes:
        checkpoints: What is copied.
        bare: Names of files that are not copied since they have no manifest.

    Raises:
        LoadError: If there is nothing to copy, or the store cannot be read.
    """

    def __init__(self, url: str, directory: str, options: Options = None) -> None:
        url, name = checked_url(url, "URL"), ""
        if not reading.is_directory(url, options):
            url, name = split(url)
        self._directory = os.path.abspath(directory)
        self._catalog = reading.open_catalog(url, options)
        newest = {entry.info.name: entry for entry in self._catalog.entries()}
        self._entries = [e for e in newest.values() if name in ("", e.info.name)]
        with reading.said(url):
            found = (info.name for info in bare_files(self._catalog.store))
            self.bare = [n for n in found if n not in newest and name in ("", n)]
        if not self._entries:
            what = f"{url}/{name}" if name else url
            raise LoadError(_nothing(what, self.bare))

    @property
    def checkpoints(self) -> list[CheckpointInfo]:
        """What is known about them."""
        return [entry.info for entry in self._entries]

    def run(self, force: bool) -> Iterator[Copy]:
        """Copy; yield what became of each checkpoint.

        Args:
            force: Whether another checkpoint of the same name is replaced.

        Raises:
            LockedError: If a run saves in the local directory.
            LoadError: If the store cannot be read.
            OSError: If the disk refuses.
        """
        url = self._catalog.store.url
        disk.make_directories(self._directory)
        with reading.said(url):
            raw = self._catalog.store.read_all([entry.key for entry in self._entries])
        here = {info.name: info.series for info in listing.checkpoints(self._directory)}
        for entry in self._entries:
            if entry.key not in raw:  # deleted meanwhile
                continue
            series = {entry.info.series, here.get(entry.info.name, entry.info.series)}
            with _locked(self._directory, series), reading.said(url):
                copy = self._copy(entry, raw[entry.key], force)
            if copy is not None:
                yield copy
        with reading.said(url):
            _append(self._directory, list(journals.read(self._catalog.store)))

    def _copy(self, entry: Entry, raw: bytes, force: bool) -> Copy | None:
        """Bring one, unless it is here; return None if it was deleted meanwhile."""
        info = entry.info
        path = os.path.join(self._directory, info.name)
        try:
            if info.name.startswith("."):
                raise LoadError(
                    f"{info.path!r} does not have the name of a checkpoint.", see="manifest"
                )
            record = self._catalog.parsed(entry, raw)
            state = _state(path, record)
            if state == "there":
                return Copy(info.name, path, "there", size_bytes=info.size_bytes)
            if state == "differs" and not force:
                problem = f"another checkpoint of this name is in {self._directory!r}"
                return Copy(info.name, path, "differs", problem, info.size_bytes)
            self._bring(entry, record, path)
        except LoadError as error:
            if reading.is_gone(self._catalog, entry):
                return None
            return Copy(info.name, path, "damaged", str(error), info.size_bytes)
        if info.pinned:
            listing.pin(path)
        return Copy(info.name, path, "copied", size_bytes=info.size_bytes)

    def _bring(self, entry: Entry, record: Record, path: str) -> None:
        if record.is_directory and os.path.isdir(path):
            self._replace_snapshot(entry, path)
            return
        fetch(self._catalog, entry, self._directory)
        if not record.is_directory:  # `fetch` leaves a file alone whose bytes are right
            single_file.write_manifest(path, record.manifest)

    def _replace_snapshot(self, entry: Entry, path: str) -> None:
        """Delete the snapshot that is there when the other one has arrived."""
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=self._directory) as place:
            arrived = fetch(self._catalog, entry, place)
            delete_snapshot(path)
            disk.current.rename(arrived, path)
            disk.current.sync_directory(self._directory)


class Push:
    """Puts the checkpoints of a local directory on a store.

    Args:
        directory: The local directory.
        url: The directory on the store.
        options: `storage_options`.

    Attributes:
        checkpoints: What is copied.
        bare: Names of files that are not copied since they have no manifest.

    Raises:
        LoadError: If there is nothing to copy.
    """

    def __init__(self, directory: str, url: str, options: Options = None) -> None:
        self._directory = os.path.abspath(directory)
        self._url = checked_url(url, "URL")
        self._options = options
        found = listing.checkpoints(directory)
        self.checkpoints = [info for info in found if info.has_manifest]
        self.bare = [info.name for info in found if not info.has_manifest]
        if not self.checkpoints:
            raise LoadError(_nothing(directory, self.bare))

    def run(self, force: bool) -> Iterator[Copy]:
        """Copy; yield what became of each checkpoint.

        Args:
            force: Whether another checkpoint of the same name is replaced.

        Raises:
            LockedError: If a run saves here or there.
            LoadError: If the store refuses.
        """
        for series in sorted({info.series for info in self.checkpoints}):
            yield from self._run_series(series, force)
        store = reading.open_catalog(self._url, self._options).store
        with reading.said(self._url, "write to"):
            known = {_line(event) for event in journals.read(store)}
            new = (e for e in journal.read(self._directory) if _line(e) not in known)
            journals.put(store, new)

    def _run_series(self, series: str, force: bool) -> Iterator[Copy]:
        with (
            _locked(self._directory, {series}),
            reading.lease(self._url, series, self._options) as lease,
        ):
            now = listing.checkpoints(self._directory)
            own = [info for info in now if info.has_manifest and info.series == series]
            there = _There(reading.open_catalog(self._url, self._options), lease, own)
            for info in own:
                with reading.said(self._url, "write to"):
                    copy = there.put(info, force)
                if copy is not None:
                    yield copy


class _There:
    """What is on a store, while the lease of one series is held.

    Args:
        catalog: The directory, just listed.
        lease: The lease.
        wanted: What is to be put.
    """

    def __init__(self, catalog: Catalog, lease: Lease, wanted: Iterable[CheckpointInfo]) -> None:
        self._catalog = catalog
        self._lease = lease
        names = {info.name for info in wanted}
        same = [entry for entry in catalog.entries() if entry.info.name in names]
        with reading.said(catalog.store.url):
            self._plain = catalog.store.find_here()
            found = catalog.store.find(DATA) if same else {}
            self._stats: dict[str, Stat] = {**found, **self._plain}
            self._raw = catalog.store.read_all([entry.key for entry in same])

    def put(self, info: CheckpointInfo, force: bool) -> Copy | None:
        """Put one, unless it is there; return None if it was deleted here meanwhile."""
        manifest = _manifest(info)
        if manifest is None:
            return None
        url = f"{self._catalog.store.url}/{info.name}"
        older = self._catalog.named(info.name)
        state = self._compared(older, info.name, manifest)
        if state == "there":
            return Copy(info.name, url, "there", size_bytes=info.size_bytes)
        if state == "differs" and not force:
            problem = f"another checkpoint of this name is at {self._catalog.store.url!r}"
            return Copy(info.name, url, "differs", problem, info.size_bytes)
        outcome = verify(info.path)
        if not outcome:
            return Copy(info.name, url, "damaged", outcome.problem, info.size_bytes)
        self._replace(info, manifest, older)
        return Copy(info.name, url, "copied", size_bytes=info.size_bytes)

    def _compared(self, older: list[Entry], name: str, manifest: Manifest) -> str:
        """Return "there", "differs", or "absent": if the store's copy of it is damaged, too."""
        if not older:
            return "differs" if name in self._plain else "absent"
        raw = self._raw.get(older[0].key)
        if raw is None:
            return "absent"
        try:
            record = self._catalog.parsed(older[0], raw)
        except LoadError:
            return "differs"
        if not _same(record.manifest, manifest):
            return "differs"
        return "absent" if reading.difference(record, self._stats) else "there"

    def _replace(self, info: CheckpointInfo, manifest: Manifest, older: list[Entry]) -> None:
        with contextlib.ExitStack() as stack:
            for series in {e.info.series for e in older} - {info.series}:
                stack.enter_context(reading.lease(self._catalog.store.url, series))
            self._lease.check()
            entry = commit.put_checkpoint(self._catalog, info.path, manifest)
            if info.pinned or any(e.info.pinned for e in older):
                self._catalog.store.put(f"{PINS}/{entry.id}", b"")
            for before in older:
                commit.delete_checkpoint(self._catalog, before)


def _nothing(where: str, bare: list[str]) -> str:
    if bare:
        return f"nothing in {where!r} has a manifest: `ratchet adopt` it first ({', '.join(bare)})."
    return f"there are no checkpoints in {where!r}."


@contextlib.contextmanager
def _locked(directory: str, series: set[str]) -> Iterator[None]:
    """Hold the local locks of some series."""
    with contextlib.ExitStack() as stack:
        for name in sorted(series):
            path = single_file.series_lock_path(directory, name)
            stack.enter_context(FileLock(path, f"{name or 'the snapshots'!r} in {directory!r}"))
        yield


def _state(path: str, record: Record) -> str:
    """Return whether a record's checkpoint is at a local path: "there", "differs" or "absent"."""
    if not os.path.lexists(path):
        return "absent"
    if record.is_directory:
        with contextlib.suppress(LoadError):
            if _same(snapshot_manifest(path), record.manifest) and verify(path):
                return "there"
        return "differs"
    known = single_file.manifests_of(path)
    if not os.path.isfile(path) or not matches(path, record.manifest.files[record.name]):
        return "differs"
    if any(_same(manifest, record.manifest) for manifest in known):
        return "there"
    return "differs" if known else "absent"  # the same bytes only lack their manifest


def _same(one: Manifest, other: Manifest) -> bool:
    return one.to_bytes() == other.to_bytes()  # a metric may be NaN, which equals nothing


def _manifest(info: CheckpointInfo) -> Manifest | None:
    try:
        return (
            snapshot_manifest(info.path)
            if info.is_directory
            else single_file.manifest_of(info.path)
        )
    except FileNotFoundError:
        return None


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, sort_keys=True)


def _append(directory: str, events: list[dict[str, Any]]) -> None:
    """Append events to a local journal that are not in it."""
    known = {_line(event) for event in journal.read(directory)}
    for event in events:
        if _line(event) not in known:
            fields = {key: value for key, value in event.items() if key != "directory"}
            journal.append(directory, **fields)
