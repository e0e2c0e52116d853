"""50 SIGKILLs inside saves to S3 (moto), uploads and starts; 35 MB among them, in three parts.

No Keras is needed for this. `make test-resume LONG=1` makes 1000.

`python -m crash.test_store_kills SETTINGS` is the process that kills. For each kill it forks a
child that saves to a local directory and pushes in a loop. The child writes `B kind n digest` to a
pipe before each operation, `D name` before it drops a checkpoint, and `E kind n` when the push has
returned. The parent waits for `B` of the kind that it wants, sleeps a random part of the time that
the kind usually takes, and kills the child. Then it reads every byte that is on the store, as
anybody on another machine would. S3 is served by the process of pytest, which nobody kills.
"""

import collections
import dataclasses
import gc
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field

import pytest
import s3fs  # noqa: F401  before the forks
import tenacity  # noqa: F401  likewise
import xxhash
from support import forking

from keras_ratchet._storage import disk, single_file
from keras_ratchet._storage.listing import checkpoints
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.objects import commit, lease, reading
from keras_ratchet._storage.objects.catalog import loaded
from keras_ratchet._storage.objects.location import cache_directory
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.record import DATA, Record, StoredObject, new_id
from keras_ratchet._storage.objects.replica import Replica
from keras_ratchet._storage.snapshot_directory import (
    SnapshotDraft,
    delete_snapshot,
    sweep_snapshots,
)
from keras_ratchet.errors import LockedError
from keras_ratchet.types import Position

LONG = bool(os.environ.get("RATCHET_LONG"))
KILLS = 1000 if LONG else 50
LIMIT_S = 8 * KILLS + 60  # several times what it takes here: a bound, not an expectation
START_S = lease.LEASE_S / 3  # a lease whose holder is dead is not waited for
SIZES = {"step": 100_000, "snapshot": 1_000_000, "big": 35_000_000, "best": 300_000}
KINDS = ("start", *SIZES)
SERIES = "checkpoints"
KEPT = 2
BUCKET = "ratchet-kills"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]


@dataclass(frozen=True)
class Settings:
    """What to do.

    Attributes:
        url: An unused directory on a store.
        kills: How many kills to make.
        limit_s: In what time.
        kinds: Where they fall, in turn.
        is_record_first: Whether the record is put before the data, which is wrong.
        seed: Of the instants of the kills.
    """

    url: str
    kills: int
    limit_s: float
    kinds: tuple[str, ...] = KINDS
    is_record_first: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        kind: What it fell into, "" if it fell between two operations.
        losses: What was lost, or is damaged, on the store.
        start_s: How long the next child took to hold both leases.
        put: What operations were reported as done.
        leftovers: How many objects no record names.
    """

    kind: str
    losses: list[str]
    start_s: float
    put: int
    leftovers: int


def payload(version, size):
    """Return bytes that tell the version, and no part of which is like another."""
    block = random.Random(version).randbytes(1_000_003)
    data = b"%016d" % version + block * (size // len(block) + 1)
    return data[:size]


def facts(version, series):
    return Manifest(
        {},
        Position(version, 0, None),
        metrics={"val_loss": float(version % 7)},
        ranking=(("val_loss", "min"),),
        series=series,
        saved_at=1.7e9 + version,
    )


def name_of(kind, version):
    return {"step": f"ckpt-{version}.keras", "snapshot": f"step-{version}"}.get(kind, "best.keras")


class Writer:
    """What a training does to its two series, in the child.

    Args:
        url: Where on the store.
        say: Reports to the parent.
    """

    def __init__(self, url, say):
        self._say = say
        self.root = cache_directory(url)
        disk.make_directories(self.root)
        for series in (SERIES, ""):
            FileLock(single_file.series_lock_path(self.root, series), "it").acquire()
        single_file.sweep(self.root, lambda name: name.endswith(".keras"))
        sweep_snapshots(self.root)
        self.files = Replica(self.root, ObjectStore(url), SERIES, True)
        self.snapshots = Replica(self.root, ObjectStore(url), "", True)

    def start(self):
        """Take the leases; put what an earlier child has left on this disk."""
        self.files.start()
        self.snapshots.start()
        self._say("ready")
        self._push()

    def _push(self):
        self.files.push(False, lambda size: None)
        self.snapshots.push(False, lambda size: None)

    def save(self, kind, version):
        """Save one checkpoint and push it; then drop older ones."""
        data, name = payload(version, SIZES[kind]), name_of(kind, version)
        if kind == "snapshot":
            with SnapshotDraft(self.root, name) as draft:
                draft.write("state.bin", lambda file: file.write(data))
                draft.commit(facts(version, ""))
        else:
            single_file.save_file(
                os.path.join(self.root, name),
                lambda draft: draft.write(lambda file: file.write(data)),
                facts(version, SERIES),
            )
        self._push()
        if kind in ("step", "snapshot"):
            self._retain(self.files if kind == "step" else self.snapshots)

    def _retain(self, replica):
        here = {info.name: info for info in replica.local()}
        known = [*here.values(), *replica.remote_only(here)]
        known = [info for info in known if info.name != "best.keras"]
        for info in sorted(known, key=lambda info: info.saved_at)[:-KEPT]:
            self._say(f"D {info.name}")
            if info.name in here:
                delete_snapshot(info.path) if info.is_directory else single_file.delete_file(
                    info.path
                )
            replica.drop(info.name)
        self._push()


def work(settings, version, begin, say):
    """Go round, from this version and operation on, until killed."""
    if settings.is_record_first:
        commit.put_checkpoint = put_record_first
    say(f"B start {version} -")
    writer = Writer(settings.url, say)
    writer.start()
    say(f"E start {version} -")
    kinds = [kind for kind in SIZES if kind in settings.kinds]
    first = kinds.index(begin) if begin in kinds else 0
    while True:
        for kind in [*kinds[first:], *kinds[:first]]:
            version += 1
            digest = xxhash.xxh3_128(payload(version, SIZES[kind])).hexdigest()
            say(f"B {kind} {version} {digest}")
            writer.save(kind, version)
            say(f"E {kind} {version} {digest}")


def put_record_first(catalog, path, manifest):
    """Do what `put_checkpoint` does, in the wrong order."""
    name, is_directory = os.path.basename(path), os.path.isdir(path)
    own = new_id(manifest.saved_at)
    keys = {file: f"{DATA}/{own}/{file}" for file in manifest.files}
    objects = {
        file: StoredObject(key, manifest.files[file].size_bytes, {}) for file, key in keys.items()
    }
    entry = commit._commit(catalog, own, own, Record(name, is_directory, manifest, objects))
    for file, key in keys.items():
        catalog.store.put_file(os.path.join(path, file) if is_directory else path, key)
    return entry


@dataclass
class Killer:
    """Kills children, and knows what they have reported."""

    settings: Settings
    random: random.Random
    version: int = 0
    digests: dict = field(default_factory=dict)  # of all that was begun, by version
    ended: dict = field(default_factory=dict)  # name -> newest version that was reported as done
    dropped: set = field(default_factory=set)  # names that may be gone
    dropping: set = field(default_factory=set)  # names that the next push deletes
    gone: set = field(default_factory=set)  # names that have to be gone
    durations_s: dict = field(default_factory=lambda: collections.defaultdict(list))
    inside: str = ""
    disks: list = field(default_factory=list)

    def kill(self, wanted):
        """Let a child work, and kill it in an operation of this kind, if it can be hit."""
        self._choose_disk()
        first, started, start_s = self.version + 1, time.monotonic(), None
        self.version = first
        self.dropping.clear()
        child = forking.Child(lambda say: work(self.settings, first, wanted, say), limit_s=120)
        later = self.random.random() < 0.1  # not in the first operation of this kind
        since, put = 0.0, 0
        for line in iter(child.line, None):
            event, _, rest = line.partition(" ")
            if event == "ready":
                start_s = time.monotonic() - started
            elif event == "D":
                self.dropped.add(rest)
                self.dropping.add(rest)
            elif event == "E":
                put += 1
                self._note_end(*rest.split(), time.monotonic() - since)
            else:
                since = time.monotonic()
                self._note_begin(*rest.split())
                if self.inside == wanted:
                    if later:
                        later, wanted = False, self.random.choice(self.settings.kinds[1:])
                        continue
                    usual_s = statistics.median(self.durations_s[wanted][-9:] or [0.2])
                    time.sleep(self.random.uniform(0, 0.9) * usual_s)
                    child.kill()
        child.end()
        assert child.code == -9, f"the child ended with {child.code}"
        losses, leftovers = self._examine()
        return Kill(self.inside, losses, start_s or 0.0, put, leftovers)

    def _choose_disk(self):
        """Let the next child start on the disk of the last one, an empty one, or an older one."""
        chance = self.random.random()
        if not self.disks or chance < 0.2:
            self.disks = [*self.disks[-2:], tempfile.mkdtemp(dir=".")]
        elif chance < 0.4:
            self.disks.append(self.disks.pop(0))
        os.environ["RATCHET_CACHE"] = os.path.abspath(self.disks[-1])
        # what was put there, and deleted by another one, may be put there again
        directory = cache_directory(self.settings.url)
        disk.make_directories(directory)
        self.gone -= {info.name for info in checkpoints(directory)}

    def _note_begin(self, kind, version, digest):
        self.version, self.inside = int(version), kind
        self.digests[self.version] = digest

    def _note_end(self, kind, version, digest, took_s):
        self.durations_s[kind].append(took_s)
        self.inside = ""
        self.gone |= self.dropping
        if kind != "start":
            self.ended[name_of(kind, int(version))] = int(version)

    def _examine(self):
        """Return what is lost on the store, and how many objects no record names."""
        url = self.settings.url
        found = {info.name: info for info in reading.checkpoints(url)}
        losses = [f"{name} is back" for name in self.gone & found.keys()]
        for name, version in self.ended.items():
            there = found[name].position.epoch if name in found else -1
            if there < version and name not in self.dropped:
                losses.append(f"{name} has version {there} where {version} was put")
        outcomes = reading.verify_all(url, read=True)
        for name, info in found.items():
            outcome = outcomes.get(info.path)
            if not outcome:
                losses.append(f"{name} does not verify: {outcome and outcome.problem}")
        catalog = loaded(ObjectStore(url))
        used = set()
        for entry in catalog.entries():
            record, version = catalog.record(entry), entry.info.position.epoch
            used |= {stored.key for stored in record.objects.values()}
            files = {n: f for n, f in record.manifest.files.items() if n != "manifest.json"}
            for file in files.values():
                if file.digest != self.digests.get(version):
                    losses.append(f"{entry.info.name} has other bytes than version {version}")
        return losses, len(catalog.store.find(DATA).keys() - used)

    def sweep(self):
        """Do what a start after more than a day does; return what is wrong afterwards."""
        store = ObjectStore(self.settings.url)
        catalog = loaded(store)
        removed = commit.sweep(catalog, now_s=time.time() + commit.LEFTOVER_S + 60)
        losses, leftovers = self._examine()
        return Kill("sweep", losses, 0.0, len(removed), leftovers)


def main(settings):
    """Record the kills, then the sweep; the negative control ends at its first loss."""
    assert "keras" not in sys.modules
    gc.freeze()
    killer, records = Killer(settings, random.Random(settings.seed)), forking.Records()
    deadline = time.monotonic() + settings.limit_s
    for number in range(settings.kills):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{number} of {settings.kills} kills in {settings.limit_s} s")
        kill = killer.kill(settings.kinds[number % len(settings.kinds)])
        records.add(kill)
        if settings.is_record_first and kill.losses:
            return
    records.add(killer.sweep())


def run(settings, directory):
    """Make the kills in a process of its own; return them, and the sweep."""
    found = forking.run_module(
        "crash.test_store_kills", dataclasses.asdict(settings), directory, settings.limit_s + 60
    )
    kills = [Kill(**one) for one in found]
    counts = collections.Counter(kill.kind or "between" for kill in kills)
    print(f"{len(kills)} kills: {dict(counts)}; {sum(kill.put for kill in kills)} puts")
    return kills


@pytest.fixture(scope="module")
def bucket():
    pytest.importorskip("moto")
    from support import stores

    with stores.moto_server(BUCKET) as url:
        yield url


@pytest.fixture(scope="module")
def found(bucket):
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as directory:  # syncs do not matter here
        kills = run(Settings(f"{bucket}/kills", KILLS, LIMIT_S), directory)
    import boto3

    parts = boto3.client("s3").list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    print(f"{len(parts)} uploads in parts were never ended; no listing shows them")
    return kills


def test_the_kills_fell_inside_all_kinds_of_operations(found):
    counts = collections.Counter(kill.kind for kill in found)
    assert len(found) == KILLS + 1
    assert all(counts[kind] > 0 for kind in KINDS), counts
    assert sum(counts[kind] for kind in KINDS) >= 0.8 * KILLS, counts
    assert max(kill.leftovers for kill in found[:-1]) > 0  # or they were not inside after all


def test_no_kill_costs_or_damages_what_was_put(found):
    assert [kill for kill in found if kill.losses] == []


def test_the_next_start_does_not_wait_for_the_lease_of_the_dead(found):
    assert max(kill.start_s for kill in found) < START_S


def test_a_day_later_only_what_records_name_is_there(found):
    sweep = found[-1]
    assert sweep.put > 0 and sweep.leftovers == 0


def test_with_the_record_before_the_data_a_kill_is_noticed(bucket, quick_path):
    settings = Settings(f"{bucket}/control", 30, 60.0, ("start", "big"), is_record_first=True)
    last = run(settings, quick_path)[-1]
    assert any("does not verify" in loss for loss in last.losses), last


def _write(url, cache, renew_s, say):
    """Say what a writer does that starts here and now, and is not alone."""
    os.environ["RATCHET_CACHE"] = str(cache)
    lease.RENEW_S = renew_s
    handler = logging.Handler()
    handler.emit = lambda record: say(f"log {record.getMessage()}")
    logging.getLogger("keras_ratchet").addHandler(handler)
    writer = Writer(url, say)
    try:
        writer.start()
        for version in range(1, 100_000):
            writer.save("best", version)
            say(f"put {version}")
    except LockedError as error:
        say(f"refused {error}")


def _until(child, word):
    """Return the lines of a child up to one that begins with this word."""
    lines = []
    for line in iter(child.line, None):
        lines.append(line)
        if line.startswith(word):
            return lines
    raise AssertionError(f"{word!r} was not said: {lines}")


def test_a_second_writer_is_refused_and_takes_over_when_the_first_is_killed(bucket, tmp_path):
    url = f"{bucket}/two"
    first = forking.Child(lambda say: _write(url, tmp_path / "a", 0.5, say))
    try:
        _until(first, "put")
        second = forking.Child(lambda say: _write(url, tmp_path / "b", 0.5, say))
        said = second.end()
        assert second.code == 0
        holder = f"is being written by process {first.pid} on"
        assert said[-1].startswith("refused") and holder in said[-1]
        before = int(_until(first, "put")[-1].split()[1])
        for _ in range(20):
            last = int(_until(first, "put")[-1].split()[1])
        assert last >= before + 20
    finally:
        first.kill()
        first.end()
    assert first.code == -9
    began = time.monotonic()
    second = forking.Child(lambda say: _write(url, tmp_path / "b", 0.5, say))
    try:
        said = _until(second, "put 3")
    finally:
        second.kill()
        second.end()
    assert time.monotonic() - began < START_S
    assert any(
        f"leased by process {first.pid} on" in line and "is taken over" in line for line in said
    ), said
    assert [info.name for info in checkpoints(cache_directory_of(url, tmp_path / "b"))] == [
        "best.keras"
    ]
    assert reading.verify(f"{url}/best.keras", read=True)


def cache_directory_of(url, cache):
    """Return the local directory of a writer with another cache."""
    return os.path.join(cache, os.path.basename(cache_directory(url)))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main(Settings(**{**given, "kinds": tuple(given["kinds"])}))
