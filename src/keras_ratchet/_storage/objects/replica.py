"""The checkpoints of one series in a local directory and on a store, kept alike by their writer.

The local directory is either the cache of the store (a URL was given where a path is: what counts
is on the store) or the truth of which the store holds a copy (`mirror=`). A checkpoint is one and
the same in both places if its name and the time of its save are.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from keras_ratchet._storage import disk, listing
from keras_ratchet._storage.earlier_runs import earlier_name, original_name
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.objects import commit, journals
from keras_ratchet._storage.objects.catalog import PINS, STORE_IDS, Catalog
from keras_ratchet._storage.objects.lease import Lease
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.record import Entry
from keras_ratchet._storage.objects.upload_log import UploadLog
from keras_ratchet._storage.single_file import delete_file, manifest_of
from keras_ratchet._storage.snapshot_directory import delete_snapshot, snapshot_manifest
from keras_ratchet._storage.verify import verify
from keras_ratchet.errors import CorruptError, LoadError
from keras_ratchet.types import CheckpointInfo

_log = logging.getLogger("keras_ratchet")


@dataclass
class Replica:
    """One series in both places.

    Args:
        directory: The local directory; its lock is held.
        store: The directory on the store.
        series: Name of the series; "" for snapshots.
        is_cache: Whether the store is what counts.

    Attributes:
        catalog: What is on the store.
    """

    directory: str
    store: ObjectStore
    series: str
    is_cache: bool
    catalog: Catalog = field(init=False)

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.store)
        what = f"{self.series or 'the snapshots'!r} at {self.store.url!r}"
        self._lease = Lease(self.store, self.series, what)
        self.catalog.check = self._lease.check
        self._dropped: dict[str, Entry] = {}
        self._swept = False
        self._log = UploadLog(self.directory, self.store.url, self.series)
        self._journal: journals.JournalCopy | None = None

    def start(self) -> None:
        """Take the lease, read the listing, and forget what was deleted on the store.

        Raises:
            LockedError: If another process writes there.
            Exception: What the store raises.
        """
        self._lease.acquire()
        try:
            self.catalog.load()
            self._log.read()
            if self.is_cache:
                self._forget_deleted()
            self._log.store_id = self._identify()
        except BaseException:
            self._lease.release()
            raise
        self._journal = journals.JournalCopy(
            self.store, self.directory, self.series, secrets.token_hex(4), self._log.position
        )

    def end(self) -> None:
        """Give the lease back."""
        self._lease.release()

    def _forget_deleted(self) -> None:
        """Delete cached checkpoints that are no longer on the store, where they were once."""
        if self._log.store_id and self._log.store_id not in self.catalog.store_ids:
            why = f"{self.store.url} is not the place that it was, or was cleared"
            self._set_aside(self.local(), why)
            self._log.delete()
            return
        there = {key_of(entry.info) for entry in self.entries()}
        newest_s = max((entry.info.saved_at for entry in self.entries()), default=0.0)
        later = {e.info.name: e.info for e in self.entries()}
        for info in self.local():
            if key_of(info) in there:
                continue
            if key_of(info) in self._log.keys:
                _log.info("%s was deleted on the store, so it is from the cache, too", info.name)
            elif not info.is_directory and (
                info.saved_at < later.get(info.name, info).saved_at
                and info.run != later[info.name].run
            ):
                self._set_aside([info], f"another run has put a newer one on {self.store.url}")
                continue
            elif info.saved_at < (
                newest_s if info.is_directory else later.get(info.name, info).saved_at
            ):
                _log.warning(
                    "%s was saved on this disk only, and the run has gone on since: it is "
                    "deleted from the cache",
                    info.name,
                )
            else:
                continue  # it is put when the next one is
            _delete_local(info)

    def _set_aside(self, infos: list[CheckpointInfo], why: str) -> None:
        """Move cached checkpoints away, since they are not those of this run's place."""
        where = os.path.join(self.directory, f"aside-{secrets.token_hex(4)}")
        for info in infos:
            disk.make_directories(where)
            disk.current.rename(info.path, os.path.join(where, info.name))
            _log.warning("%s in the cache is not used: %s. It is kept in %s", info.name, why, where)

    def _identify(self) -> str:
        """Return what tells the store's directory from another one; put it if there is nothing."""
        if not self.catalog.store_ids:
            new = secrets.token_hex(16)
            self.store.put_new(f"{STORE_IDS}/{new}", b"")
            self.catalog.store_ids = {new}
        return min(self.catalog.store_ids)

    def local(self) -> list[CheckpointInfo]:
        """Return the local checkpoints of the series, oldest first."""
        if not os.path.isdir(self.directory):
            return []
        return [i for i in listing.checkpoints(self.directory) if self._is_own(i)]

    def _is_own(self, info: CheckpointInfo) -> bool:
        return (
            info.has_manifest
            and info.series == self.series
            and info.is_directory == (not self.series)
        )

    def entries(self) -> list[Entry]:
        """Return the series' checkpoints on the store, oldest first."""
        return [e for e in self.catalog.entries() if self._is_own(e.info)]

    def remote_only(self, here: Collection[str]) -> list[CheckpointInfo]:
        """Return what is on the store and not on the disk; of several of a name the newest.

        Args:
            here: Names of what is on the disk.
        """
        newest = {e.info.name: e.info for e in self.entries() if e.id not in self._dropped}
        return [info for name, info in newest.items() if name not in here]

    def drop(self, name: str) -> None:
        """Delete a checkpoint from the store with the next `push`."""
        for entry in self.entries():
            if entry.info.name == name:
                self._dropped[entry.id] = entry

    def pending(self) -> list[CheckpointInfo]:
        """Return the local checkpoints that are not on the store, oldest first."""
        there = {key_of(entry.info) for entry in self.entries()}
        return [info for info in self.local() if key_of(info) not in there]

    def push(
        self, preserves_others: bool, done: Callable[[int], None], name: str | None = None
    ) -> None:
        """Put what is new here, then delete what was dropped, on the store.

        Args:
            preserves_others: Whether a checkpoint of another run stays, under another name, when
                one of its name is put.
            done: Called after each checkpoint with the number of bytes put.
            name: What was just saved: others that are damaged here are left out. None for none.

        Raises:
            LockedError: If the lease was lost.
            Exception: What the store raises.
        """
        self._lease.check()
        is_whole = True
        for info in self.pending():
            try:
                size_bytes = self._put(info, preserves_others)
            except (CorruptError, FileNotFoundError) as error:
                if os.path.exists(info.path) and name in (info.name, None):
                    raise
                _log.warning("%s is left out: %s", info.name, error)
                is_whole = False
                continue
            done(size_bytes)
        if is_whole:  # else what was to go may be all that there is
            self._delete_dropped()
        self._log.write(self.entries())

    def tidy(self) -> None:
        """Put the new lines of the journal; once, delete leftovers on the store."""
        self.push_journal()
        if not self._swept:
            self._swept = True
            commit.sweep(self.catalog)

    def _delete_dropped(self) -> None:
        if not self._dropped:
            return
        pinned = self._pinned()
        for entry in list(self._dropped.values()):
            if entry.id not in pinned:
                commit.delete_checkpoint(self.catalog, entry)
            del self._dropped[entry.id]

    def _pinned(self) -> set[str]:
        """Return the ids of the checkpoints that are pinned, perhaps since a moment ago."""
        return {key.rpartition("/")[2] for key in self.store.find(PINS)}

    def push_journal(self) -> None:
        """Put the new lines of the journal."""
        if self._journal is not None:
            self._journal.put()
            self._log.position = self._journal.position

    def _put(self, info: CheckpointInfo, preserves_others: bool) -> int:
        """Put a checkpoint; return how many bytes that were."""
        manifest = _manifest(info)
        if manifest is None:  # deleted meanwhile
            return 0
        outcome = verify(info.path)
        if not outcome:
            raise CorruptError(f"{info.path!r} is not put on the store: {outcome.problem}.")
        older = self.catalog.named(info.name)
        renamed = self._find_renamed(info)
        if renamed is None:
            new = commit.put_checkpoint(self.catalog, info.path, manifest)
        else:
            new = commit.put_renamed(self.catalog, renamed, info.name)
        if older and self._pinned() & {entry.id for entry in older}:
            self.store.put(f"{PINS}/{new.id}", b"")  # a pin is on the name, as on a disk
        for entry in older:
            if preserves_others and entry.info.run != info.run and not info.is_directory:
                try:
                    self._preserve(entry)
                except CorruptError as error:  # nothing is deleted because of it
                    _log.warning("%s of an earlier run is damaged: %s", info.name, error)
                    continue
            commit.delete_checkpoint(self.catalog, entry)
        there = {key.rpartition("/")[2] for key in new.borrowed or ()}
        return sum(e.size_bytes for name, e in manifest.files.items() if name not in there)

    def _find_renamed(self, info: CheckpointInfo) -> Entry | None:
        """Return the same checkpoint under the name that it had before it was preserved."""
        name = original_name(info.name)
        if name == info.name:
            return None
        same = (e for e in self.catalog.named(name) if e.info.saved_at == info.saved_at)
        return next(same, None)

    def _preserve(self, entry: Entry) -> None:
        """Give a checkpoint of another run another name, unless it has one."""
        name = original_name(entry.info.name)
        others = [e.info for e in self.catalog.entries() if e.info.name != entry.info.name]
        taken = {info.name: info for info in others if original_name(info.name) == name}
        if any(info.saved_at == entry.info.saved_at for info in taken.values()):
            return
        names = (earlier_name(name, number) for number in itertools.count(1))
        free = (n for n in names if n not in taken and n != entry.info.name)
        commit.put_renamed(self.catalog, entry, next(free))

    def evict(self, keep: str) -> None:
        """Delete cached files that are on the store, but for one name."""
        there = {key_of(entry.info) for entry in self.entries()}
        for info in self.local():
            if info.name != keep and key_of(info) in there:
                _delete_local(info)

    def delete(self, names: Collection[str]) -> None:
        """Delete some checkpoints from the store, now: nothing is put."""
        self._lease.check()
        for name in names:
            self.drop(name)
        self._delete_dropped()
        self._log.write(self.entries())

    def clear(self) -> None:
        """Delete the series' checkpoints and journals from the store."""
        for entry in self.entries():
            commit.delete_checkpoint(self.catalog, entry)
        self._lease.check()
        journals.delete(self.store)
        self._journal = None
        self._log.delete()


def key_of(info: CheckpointInfo) -> tuple[str, float]:
    """Return what a checkpoint is the same by in both places."""
    return info.name, info.saved_at


def _manifest(info: CheckpointInfo) -> Manifest | None:
    try:
        return snapshot_manifest(info.path) if info.is_directory else manifest_of(info.path)
    except (LoadError, FileNotFoundError):
        return None


def _delete_local(info: CheckpointInfo) -> None:
    delete_snapshot(info.path) if info.is_directory else delete_file(info.path)
