"""Stores for tests: S3 in this process, calls that fail on demand, and a story of checkpoints.

`FaultyCalls` takes the place of what `calls.connect` gives. It counts every call, and at call
number `at` it does what its kind says:

| kind | what happens at the call |
|---|---|
| error before | it raises an OSError that may pass, and nothing is done |
| error after | it is done, and the answer is lost: it raises an OSError all the same |
| lasting error | it raises a PermissionError, and nothing is done |
| crash before, crash after | the process ends: this and all later calls raise `Crash` |
| cut | a put sends half of the bytes, then as crash; a read returns half of them, silently |
| cut record | as cut, of what is put create-only: a record or a lease; no store does that |
| slow | it is done, and a lease's time has passed |
| stale listing | a listing tells what was there before the last change |
| flip | one byte of a file that is put arrives changed, silently |
"""

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
import time
from dataclasses import replace
from types import SimpleNamespace

import fsspec
import xxhash

from keras_ratchet._storage import single_file
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.objects import calls, commit, failures, lease, object_store, reading
from keras_ratchet._storage.objects.catalog import loaded
from keras_ratchet._storage.objects.fetch import verify_entry
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.record import DATA
from keras_ratchet._storage.objects.replica import Replica
from keras_ratchet._storage.snapshot_directory import SnapshotDraft, delete_snapshot
from keras_ratchet.types import Position

PUTS = ("put_file", "put_new", "put")
READS = ("get_file", "read", "read_all", "chunks")
LISTINGS = ("find", "find_here")
VERBS = (*PUTS, *READS, *LISTINGS, "stat", "delete")
KINDS = {
    "error before": VERBS,
    "error after": VERBS,
    "lasting error": VERBS,
    "crash before": VERBS,
    "crash after": VERBS,
    "cut": ("put_file", "put", *READS),
    "cut record": ("put_new",),
    "slow": VERBS,
    "stale listing": LISTINGS,
    "flip": ("put_file",),
}
LATE_S = 100.0
_numbers = itertools.count(1)


class Crash(BaseException):
    """The process has ended here: nothing may catch it, and nothing cleans up after it."""


class Faults:
    """What all connections of a test have in common.

    Args:
        kind: One of `KINDS`, or None for no fault.
        at: Number of the call that fails, from 1.

    Attributes:
        calls: Verb and key of each call so far.
        is_dead: Whether the process has ended.
        older: By how many seconds an object is older than the store says, by its key.
        late_s: How far the lease's clock is ahead.
    """

    def __init__(self, kind=None, at=0):
        self.kind, self.at = kind, at
        self.calls, self.older = [], {}
        self.is_dead, self.late_s = False, 0.0
        self.before = {}

    def install(self, monkeypatch):
        """Let every new connection pass here; return this."""
        monkeypatch.setattr(
            calls, "make", lambda url, options: FaultyCalls(calls.connect(url, options), self)
        )
        clock = SimpleNamespace(
            time=time.time,
            sleep=self._sleep,
            strftime=time.strftime,
            monotonic=lambda: time.monotonic() + self.late_s,
        )
        monkeypatch.setattr(lease, "time", clock)
        return self

    def _sleep(self, seconds):
        self.late_s += seconds

    def end(self):
        """No more faults."""
        self.kind, self.is_dead = None, False

    def verbs(self):
        """Return the verb of each call so far."""
        return [verb for verb, _ in self.calls]


class FaultyCalls:
    """Passes calls on to a store, counted, until one is to fail."""

    def __init__(self, inner, faults):
        self.exclusive = inner.exclusive
        self._inner, self._faults = inner, faults

    def __getattr__(self, verb):
        if verb not in VERBS:
            raise AttributeError(verb)
        return lambda *args: self._call(verb, *args)

    def _call(self, verb, *args):
        faults = self._faults
        if faults.is_dead:
            raise Crash("it has ended")
        key = args[1] if verb == "put_file" else args[0] if args else ""
        faults.calls.append((verb, key))
        if len(faults.calls) == faults.at and faults.kind is not None:
            return getattr(self, f"_{faults.kind.replace(' ', '_')}")(verb, *args)
        if faults.kind == "stale listing" and verb in (*PUTS, "delete"):
            faults.before = self._inner.find("")
        return self._do(verb, *args)

    def _do(self, verb, *args):
        result = getattr(self._inner, verb)(*args)
        if verb == "chunks":
            return iter(list(result))
        return self._aged(result) if verb in LISTINGS else result

    def _aged(self, found):
        return {
            key: replace(stat, modified_s=stat.modified_s - self._faults.older.get(key, 0.0))
            for key, stat in found.items()
        }

    def _error_before(self, verb, *args):
        raise OSError(errno.ETIMEDOUT, "injected: the network is gone")

    def _error_after(self, verb, *args):
        with contextlib.suppress(Exception):  # even a refusal does not come back
            self._do(verb, *args)
        raise OSError(errno.ETIMEDOUT, "injected: the answer is lost")

    def _lasting_error(self, verb, *args):
        raise PermissionError(errno.EACCES, "injected: you may not do that")

    def _crash_before(self, verb, *args):
        self._faults.is_dead = True
        raise Crash(f"before call {self._faults.at}")

    def _crash_after(self, verb, *args):
        with contextlib.suppress(Exception):
            self._do(verb, *args)
        self._crash_before(verb)

    def _slow(self, verb, *args):
        self._faults.late_s += LATE_S
        return self._do(verb, *args)

    def _stale_listing(self, verb, *args):
        start = f"{args[0]}/" if args and args[0] else ""
        found = {k: s for k, s in self._faults.before.items() if k.startswith(start)}
        return self._aged({k: s for k, s in found.items() if args or "/" not in k})

    def _cut(self, verb, *args):
        if verb == "put_file":
            with altered(args[0], lambda data: data[: len(data) // 2]) as path:
                self._do(verb, path, args[1])
        elif verb in PUTS:
            with contextlib.suppress(FileExistsError):
                self._do(verb, args[0], args[1][: len(args[1]) // 2])
        elif verb == "get_file":
            self._do(*("get_file", *args))
            os.truncate(args[1], os.path.getsize(args[1]) // 2)
            return None
        else:
            return _half(self._do(verb, *args))
        return self._crash_before(verb)

    _cut_record = _cut

    def _flip(self, verb, path, key):
        with altered(path, lambda data: bytes([data[0] ^ 1]) + data[1:]) as other:
            self._do(verb, other, key)


def _half(found):
    if isinstance(found, dict):
        return {key: _half(data) for key, data in found.items()}
    data = found if isinstance(found, bytes) else b"".join(found)
    data = data[: len(data) // 2]
    return data if isinstance(found, bytes) else iter([data])


@contextlib.contextmanager
def altered(path, change):
    """Yield the path of a copy of a file with other bytes."""
    with open(path, "rb") as file:
        data = file.read()
    with tempfile.TemporaryDirectory() as directory:
        other = os.path.join(directory, os.path.basename(path))
        with open(other, "wb") as file:
            file.write(change(data))
        yield other


@contextlib.contextmanager
def moto_server(bucket="ratchet-tests"):
    """Serve S3 from this process, and let the environment point to it; yield a bucket's URL."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    new = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    old = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    forget_connections()
    try:
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}"
    finally:
        forget_connections()
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.stop()


def forget_connections():
    """Let fsspec connect to S3 anew."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def quiet(monkeypatch, cache):
    """Let nothing wait, renew a lease by itself, or write outside of a directory."""
    monkeypatch.setenv("RATCHET_CACHE", str(cache))
    monkeypatch.setattr(lease, "RENEW_S", 1e6)
    monkeypatch.setattr(object_store, "START_PATIENCE_S", 2.0)
    monkeypatch.setattr(failures, "time", SimpleNamespace(sleep=lambda seconds: None))


def reboot():
    """Forget the leases of this process, as its end would."""
    for chain in lease._held.values():
        chain._ended.set()
    lease._held.clear()


def new_url(root="memory://tests"):
    """Return a URL that no test has used."""
    return f"{root}/{next(_numbers)}"


def empty(url):
    """Delete everything at the URL of a `memory://` store."""
    fs = fsspec.filesystem("memory")
    with contextlib.suppress(FileNotFoundError):
        fs.rm(url, recursive=True)


def digest(data):
    """Return what a manifest calls these bytes."""
    return xxhash.xxh3_128(data).hexdigest()


def manifest(run="r1", series="best.keras", at=0.0, **more):
    """Return a manifest without its files, saved `at` seconds after a fixed time."""
    more = {"metrics": {"val_loss": 0.5}, "ranking": (("val_loss", "min"),), **more}
    more |= {"reason": "improved", "versions": {"keras": "3"}, "fingerprint": "ff"}
    return Manifest({}, Position(1, 0, 3), series=series, run=run, saved_at=1.8e9 + at, **more)


def save(directory, name, data, **more):
    """Save a local single-file checkpoint."""
    os.makedirs(directory, exist_ok=True)

    def fill(draft):
        draft.write(lambda file: file.write(data))

    return single_file.save_file(os.path.join(directory, name), fill, manifest(**more))


def save_snapshot(directory, name, data, **more):
    """Save a local snapshot of three files, one of which is the same in all."""
    os.makedirs(directory, exist_ok=True)
    with SnapshotDraft(directory, name) as draft:
        draft.write("unchanged.bin", lambda file: file.write(b"base" * (1 << 15)))
        draft.write("state.bin", lambda file: file.write(data))
        draft.write("state.json", lambda file: file.write(b"{}"))
        return draft.commit(manifest(series="", **more))


def put(url, directory, name, data, **more):
    """Save a checkpoint, and put it on a store, with whatever else is pending."""
    save(directory, name, data, **more)
    push(url, directory)


def push(url, directory, series="best.keras"):
    """Put what is pending in a directory."""
    replica = Replica(str(directory), ObjectStore(url), series, True)
    replica.start()
    try:
        replica.push(True, lambda size: None)
        replica.tidy()
        replica.push_journal()
    finally:
        replica.end()


class Story:
    """Checkpoints of two runs on a store: saved, overwritten, dropped, deleted, swept.

    Args:
        url: An unused URL.
        root: An empty local directory.
        faults: Its faults; they begin with `go`.

    Attributes:
        before: Digests by name, as they were before the step that is done.
        after: As they are to be after it.
        error: What ended it.
    """

    LEFTOVER = f"{DATA}/1700000000000-deadbeef/model.keras"  # of a crash, long ago
    FLIGHT = f"{DATA}/1700000000001-0badcafe/model.keras"  # another machine is putting it

    def __init__(self, url, root, faults):
        self.url, self.faults = url, faults
        self.local, self.snapshots = os.path.join(root, "files"), os.path.join(root, "snapshots")
        self.other = os.path.join(root, "other")
        self.before, self.after, self.error = {}, {}, None
        self._ever, self._is_torn = set(), False
        self._replicas = []
        self._time = itertools.count()

    def prepare(self):
        """Put what is there before it begins."""
        store = ObjectStore(self.url)
        store.put(self.LEFTOVER, b"left over")
        store.put(self.FLIGHT, b"in flight")
        self.faults.older[self.LEFTOVER] = 2 * commit.LEFTOVER_S
        store.put("README.txt", b"not ours")
        put(self.url, self.other, "best.keras", b"other run", run="r0", at=-1.0)
        self.before = self.after = {"best.keras": digest(b"other run")}
        store.put(self.LEFTOVER, b"left over")  # swept meanwhile
        self.faults.calls.clear()

    def go(self):
        """Do all steps, until one fails; one that failed for good is done again."""
        self.prepare()
        try:
            for change, save_locally, act in self._steps():
                self.after = {**self.before, **change}
                self._ever |= set(change.items())
                save_locally()
                try:
                    act()
                except Exception:
                    if self.faults.kind != "lasting error":
                        raise
                    act()
                self.before = self.after
        except Crash as error:
            self.error = error
        except Exception as error:
            self.error = error
            for replica in self._replicas:
                replica.end()
        return self

    def _steps(self):
        def nothing():
            pass

        def file(name, run="r1"):
            data = f"{name} {run} {next(self._time)}".encode()
            return digest(data), lambda: save(
                self.local, name, data, run=run, at=float(next(self._time))
            )

        def snapshot(name):
            data = f"{name} {next(self._time)}".encode()
            return digest(data), lambda: save_snapshot(
                self.snapshots, name, data, at=float(next(self._time))
            )

        def both(*actions):
            return lambda: [action() for action in actions]

        def begin(replica):
            return both(replica.start, lambda: self._replicas.append(replica))

        def put(replica, *drop):
            return both(
                *(lambda name=name: replica.drop(name) for name in drop),
                lambda: replica.push(True, lambda size: None),
                replica.tidy,
            )

        def end(replica):
            return both(replica.end, lambda: self._replicas.remove(replica))

        files = Replica(self.local, ObjectStore(self.url), "best.keras", True)
        yield {}, nothing, begin(files)
        c1, save_c1 = file("c1.keras")
        yield {"c1.keras": c1}, save_c1, put(files)
        c2, save_c2 = file("c2.keras")
        best, save_best = file("best.keras")
        kept = {"best.before-01.keras": digest(b"other run")}
        yield {"c2.keras": c2, "best.keras": best, **kept}, both(save_c2, save_best), put(files)
        c3, save_c3 = file("c3.keras")
        drop = both(save_c3, lambda: single_file.delete_file(f"{self.local}/c1.keras"))
        yield {"c3.keras": c3, "c1.keras": None}, drop, put(files, "c1.keras")
        best, save_best = file("best.keras")
        yield {"best.keras": best}, save_best, put(files)
        yield {}, nothing, end(files)
        whole = Replica(self.snapshots, ObjectStore(self.url), "", True)
        yield {}, nothing, begin(whole)
        step, save_step = snapshot("step-1")
        yield {"step-1": step}, save_step, put(whole)
        step, save_step = snapshot("step-2")
        drop = both(save_step, lambda: delete_snapshot(f"{self.snapshots}/step-1"))
        yield {"step-2": step, "step-1": None}, drop, put(whole, "step-1")
        yield {}, nothing, end(whole)
        yield {"c2.keras": None}, nothing, self._prune

    def _prune(self):
        with reading.lease(self.url, "best.keras"):
            for info in reading.checkpoints(self.url):
                if info.name == "c2.keras":
                    reading.delete_unless_changed(info)

    def check(self, is_dead, root=None):
        """Assert that nothing is lost, that the next push repairs what is left, and no more.

        Args:
            is_dead: `lease._is_alive` is replaced meanwhile: called with what to replace it by.
            root: Where to go on; None for where it ended.
        """
        misled = self.faults.kind in ("cut", "stale listing")
        self._is_torn = self.faults.kind == "cut record"  # then one that is listed may be damaged
        self.faults.end()
        reboot()
        with is_dead(lambda pid: False):
            found = self._found()
            self._assert_nothing_lost(found, misled)
            self._go_on(root)
        self._assert_nothing_left()

    def _found(self):
        """Return the digests on the store, newest first, by name; all that is listed verifies."""
        catalog = loaded(ObjectStore(self.url))
        found = {}
        for entry in reversed(catalog.entries()):
            outcome = verify_entry(catalog, entry, read=True)
            if self._is_torn and "not a valid record" in outcome.problem:
                continue
            assert outcome, f"{entry.info.path} is listed: {outcome.problem}"
            files = catalog.record(entry).manifest.files
            found.setdefault(entry.info.name, []).append(
                files.get(entry.info.name, files.get("state.bin")).digest
            )
        return found

    def _assert_nothing_lost(self, found, misled):
        names = {*self.before, *self.after, *found}
        for name in sorted(names):
            newest = found.get(name, [None])[0]
            allowed = {self.before.get(name), self.after.get(name)}
            if misled:  # by what it read: it may have left something that was to go
                allowed |= {value for known, value in self._ever if known == name}
            assert newest in allowed, f"{name} is {newest}, not {allowed}"
        kept = set(self.before.values()) & set(self.after.values()) - {None}
        lost = kept - {one for several in found.values() for one in several}
        assert not lost, f"lost: {lost} of {found}"

    def _go_on(self, root):
        local = self.local if root is None else os.path.join(root, "again")
        put(self.url, local, "best.keras", b"the next", at=1000.0)
        push(self.url, self.snapshots if root is None else f"{local}-snapshots", series="")
        with open(reading.local_copy(f"{self.url}/best.keras"), "rb") as file:
            assert file.read() == b"the next"
        there = ObjectStore(self.url).find()
        assert self.LEFTOVER not in there, "the leftover stays"
        assert self.FLIGHT in there, "another machine's upload is deleted"
        assert "README.txt" in there, "what is not ours is deleted"
        leases = [key.rpartition("/")[0] for key in there if key.startswith(lease.LEASES)]
        assert len(leases) == len(set(leases)), f"leases are left: {leases}"

    def _assert_nothing_left(self):
        catalog = loaded(ObjectStore(self.url))
        commit.sweep(catalog, now_s=time.time() + commit.LEFTOVER_S + 60.0)
        found = self._found()
        assert found["best.keras"] == [digest(b"the next")]
        if not self._is_torn:
            named = {o.key for e in catalog.entries() for o in catalog.record(e).objects.values()}
            assert set(catalog.store.find(DATA)) == named, "objects are left without a record"


def tell(monkeypatch, kind=None, at=0, url=None, is_restarted=True):
    """Tell a story with a fault, and check how it ends; return its faults and its story.

    Args:
        monkeypatch: The test's.
        kind: One of `KINDS`.
        at: At which call.
        url: Where; None for memory.
        is_restarted: Whether it goes on in its own local directory, or in an empty one.
    """
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root = tempfile.mkdtemp(dir=place)
    where = url or new_url()

    @contextlib.contextmanager
    def is_dead(instead):
        with monkeypatch.context() as patch:
            patch.setattr(lease, "_is_alive", instead)
            yield

    try:
        with monkeypatch.context() as patch:
            patch.setenv("RATCHET_CACHE", os.path.join(root, "cache"))
            faults = Faults(kind, at)
            story = Story(where, root, faults)
            faults.kind = None
            faults.install(patch)
            _arm(story, faults, kind)
            story.go()
            trace = list(faults.calls)
            try:
                story.check(is_dead, None if is_restarted else root)
            except AssertionError as error:
                error.add_note(f"{kind} at {at}: {trace[at - 1] if at else ''} ({story.error!r})")
                raise
            faults.calls = trace
            return faults, story
    finally:
        reboot()
        shutil.rmtree(root, ignore_errors=True)
        if url is None:
            empty(where)


def _arm(story, faults, kind):
    """Let the faults begin when everything is prepared."""
    prepare = story.prepare

    def prepared():
        prepare()
        faults.kind = kind

    story.prepare = prepared
