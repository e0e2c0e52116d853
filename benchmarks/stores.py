"""What saving to an object store costs: training, uploads, a fetch, requests, listings.

The store is moto's S3 server in a process of its own, on the same two cores. It is slower than any
real store and takes processor time from training, so times are ratios of one run, beside what
others need for the same bytes on the same server.

    python benchmarks/stores.py            # writes results-stores.md, about ten minutes

Composer's uploader takes part where it can be imported:

    pip install --no-deps --target DIR mosaicml torchmetrics torch_optimizer ...
    RATCHET_COMPOSER=DIR python benchmarks/stores.py
"""

import argparse
import collections
import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

MB = 300
ROUNDS = 5
RECORDS = 1000
HERE = Path(__file__).parent
BUCKET = "bench"
SERIES = "bench"
PARTS = ("upload", "fetch", "requests", "listing", "training")
TRAINING_S = 420
LIMIT_S = 900
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """Moto's S3 server, running elsewhere.

    Args:
        pid: Its process.
        log: Where it writes a line for each request.
    """

    pid: int
    log: Path

    @classmethod
    def of_environment(cls):
        """Return the server that the parent of this process has started."""
        return cls(int(os.environ["BENCH_PID"]), Path(os.environ["BENCH_LOG"]))

    def cpu_s(self):
        """Return the processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def requests(self):
        """Return the kinds of the requests so far."""
        text = re.sub(r"\x1b\[[\d;]*m", "", self.log.read_text())
        found = re.findall(r'"(GET|PUT|POST|HEAD|DELETE) (\S+) HTTP', text)
        return [_kind(method, path) for method, path in found]


def _kind(method, path):
    if method == "GET":
        return "list" if "list-type=2" in path else "get"
    if method in ("PUT", "POST"):
        return "put (part)" if "partNumber=" in path or "upload" in path.lower() else "put"
    return method.lower()


@contextlib.contextmanager
def served():
    """Run a server; let the environment point to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as directory:
        log = Path(directory) / "requests.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                stdout=file,
                stderr=file,
                env=os.environ | {"TMPDIR": directory},  # objects lie in memory
            )
        try:
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",  # Composer's
                "AWS_ACCESS_KEY_ID": "nobody",
                "AWS_SECRET_ACCESS_KEY": "nothing",
                "AWS_DEFAULT_REGION": "us-east-1",
                "BENCH_PID": str(process.pid),
                "BENCH_LOG": str(log),
            }
            _wait_for(port)
            yield
        finally:
            process.terminate()
            process.wait()


def _wait_for(port):
    import boto3

    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.1)
    boto3.client("s3").create_bucket(Bucket=BUCKET)


# Training


def training(directory):
    """Return what training loses to a save: row -> times, with and without an upload."""
    import keras
    from saves import blocked
    from saves import model as models

    import keras_ratchet

    model, width = models.dense(MB)
    x, y = models.data(width, 50)
    model.fit(x[: 2 * models.BATCH], y[: 2 * models.BATCH], batch_size=models.BATCH, verbose=0)
    copy_s, size = models.memcpy_s(model)
    url = f"s3://{BUCKET}/training"
    callbacks = {
        "ours ModelCheckpoint .weights.h5": _saver(keras_ratchet, directory / "ours.weights.h5"),
        "ours ModelCheckpoint .weights.h5, s3": _saver(keras_ratchet, f"{url}/best.weights.h5"),
        "Keras ModelCheckpoint .weights.h5": _saver(keras.callbacks, directory / "k.weights.h5"),
    }
    if os.environ.get("RATCHET_COMPOSER"):
        callbacks["Keras ModelCheckpoint .weights.h5, then Composer's uploader"] = _composed(
            directory / "c.weights.h5"
        )
    lists = {name: models.begun(callback, model) for name, callback in callbacks.items()}
    for ones in lists.values():  # the first save allocates, imports and connects
        ones.on_epoch_end(0, {"loss": 2.0})
        models.settle(ones)
    server, taken = Server.of_environment(), collections.defaultdict(list)
    deadline = time.monotonic() + TRAINING_S

    class Driver(blocked.Driver):
        """Lets a stretch last until the upload has ended, too."""

        def begin(self):
            self.before = server.cpu_s()
            if time.monotonic() > deadline:  # of a busy machine; the report says how many turns
                self.waiting = []
            super().begin()

        def on_train_batch_end(self, batch, logs=None):
            waits = self.warm <= 0 and self.name is not None and self.left is None
            if waits and _is_busy(self.list.callbacks[0]):
                self.steps += 1
                return
            super().on_train_batch_end(batch, logs)

        def end_with_save(self):
            taken[self.name].append(server.cpu_s() - self.before)
            super().end_with_save()

    driver = Driver(lists, ROUNDS, 1.5)
    model.fit(x, y, batch_size=models.BATCH, epochs=100_000, verbose=0, callbacks=[driver])
    rows = {}
    for name, times in driver.times.items():
        lost = [a - b for a, b in zip(times["with"], times["without"], strict=True)]
        rows[name] = {
            "hook_s": statistics.median(times["hook"]),
            "lost_s": statistics.median(lost),
            "all_lost_s": [round(one, 2) for one in lost],
            "until_done_s": statistics.median(times["with"]),
            "server_cpu_s": statistics.median(taken[name]),
        }
    for callback in callbacks.values():
        getattr(callback, "close", lambda: None)()
    return {"bytes": size, "memcpy_s": copy_s, "rows": rows}


def _saver(module, path):
    return module.ModelCheckpoint(path, save_weights_only=True)


def _is_busy(callback):
    """Return whether a save or its upload is running."""
    if hasattr(callback, "is_busy"):
        return callback.is_busy()
    store = getattr(callback, "_store", None)
    checkpointer = getattr(callback, "_checkpointer", None)
    if checkpointer is not None:
        store = checkpointer.store
    return store is not None and store.writer.busy


def _composed(path):
    """Return Keras's callback, which hands its file to Composer's uploader, another process."""
    from types import SimpleNamespace

    import keras
    from composer.loggers import RemoteUploaderDownloader

    class Composed(keras.callbacks.ModelCheckpoint):
        def __init__(self):
            super().__init__(path, save_weights_only=True)
            self.uploader = RemoteUploaderDownloader(f"s3://{BUCKET}")
            self.state = SimpleNamespace(run_name="bench")
            self.uploader.init(self.state, None)
            self.number = 0

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            self.uploader.upload_file(self.state, "composed.h5", Path(path), overwrite=True)

        def is_busy(self):
            with self.uploader._object_lock:
                return bool(self.uploader._logged_objects or self.uploader._enqueued_objects)

        def wait_until_finished(self):
            while self.is_busy():
                time.sleep(0.05)

        def close(self):
            self.uploader._enqueue_thread_flag.set()
            self.uploader._worker_flag.set()

    return Composed()


# Uploads and fetches


def _file(directory, name="best.keras", size=MB * 1_000_000):
    """Write a local checkpoint; return its path and manifest."""
    from keras_ratchet._storage import single_file
    from keras_ratchet._storage.manifest import Manifest
    from keras_ratchet.types import Position

    manifest = Manifest(
        {}, Position(1, 0, 1), metrics={"loss": 0.5}, series=SERIES, saved_at=time.time()
    )
    block = os.urandom(1 << 20)
    path = os.path.join(directory, name)

    def fill(file):
        for start in range(0, size, len(block)):
            file.write(block[: size - start])

    return path, single_file.save_file(path, lambda draft: draft.write(fill), manifest)


def _timed(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _turns(calls, rounds=ROUNDS):
    """Return the median seconds of some calls that take turns; the first round is not counted."""
    times = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, (call, after) in calls.items():
            took_s = _timed(call)
            after()
            if number:
                times[name].append(took_s)
    return {
        name: {"s": statistics.median(found), "all_s": [round(one, 2) for one in found]}
        for name, found in times.items()
    }


def upload(directory):
    """Return the seconds of an upload, ours and others'."""
    import s3fs

    from keras_ratchet._storage import verify
    from keras_ratchet._storage.objects import commit, store_calls
    from keras_ratchet._storage.objects.catalog import loaded
    from keras_ratchet._storage.objects.checksums import differs
    from keras_ratchet._storage.objects.object_store import ObjectStore

    path, manifest = _file(directory)
    catalog = loaded(ObjectStore(f"s3://{BUCKET}/upload"))
    plain = s3fs.S3FileSystem()
    target, size = f"{BUCKET}/plain/best.keras", os.path.getsize(path)
    parts = {"chunksize": store_calls.PART_BYTES, "max_concurrency": store_calls.PARTS_AT_ONCE}
    seen = {}

    def ours():
        commit.put_checkpoint(catalog, path, manifest)

    def clean_ours():
        for entry in catalog.entries():
            seen["stat"] = catalog.store.stat(f"checkpoints/{entry.data_id}/best.keras")
            commit.delete_checkpoint(catalog, entry)

    def clean_plain():
        plain.rm_file(target)

    def nothing():
        pass

    found = _turns(
        {
            "ours: put, compare checksums, commit": (ours, clean_ours),
            "s3fs: put_file": (lambda: plain.put_file(path, target), clean_plain),
            "s3fs: put_file in our parts": (
                lambda: plain.put_file(path, target, **parts),
                clean_plain,
            ),
            "of ours: MD5 of the parts": (
                lambda: differs(path, seen["stat"], lambda: iter(())),
                nothing,
            ),
            "before ours: digest of the local file": (lambda: verify.verify(path), nothing),
        }
    )
    return {"bytes": size, "rows": found}


def fetch(directory):
    """Return the seconds of a fetch of a snapshot, ours and others'."""
    import s3fs

    from keras_ratchet._storage import disk
    from keras_ratchet._storage.manifest import Manifest, entry_of
    from keras_ratchet._storage.objects import commit
    from keras_ratchet._storage.objects.catalog import loaded
    from keras_ratchet._storage.objects.fetch import fetch as bring
    from keras_ratchet._storage.objects.object_store import ObjectStore
    from keras_ratchet._storage.snapshot_directory import SnapshotDraft
    from keras_ratchet.types import Position

    block = os.urandom(1 << 20)
    manifest = Manifest({}, Position(1, 0, 1), saved_at=time.time())
    with SnapshotDraft(directory, "step-1") as draft:
        draft.write("state.bin", lambda file: [file.write(block) for _ in range(286)])
        draft.write("state.json", lambda file: file.write(b"{}"))
        manifest = draft.commit(manifest)
    catalog = loaded(ObjectStore(f"s3://{BUCKET}/fetch"))
    entry = commit.put_checkpoint(catalog, os.path.join(directory, "step-1"), manifest)
    key = f"{BUCKET}/fetch/checkpoints/{entry.data_id}/state.bin"
    plain, to = s3fs.S3FileSystem(), os.path.join(directory, "got")
    path = os.path.join(to, "state.bin")
    os.mkdir(to)
    here = os.path.join(directory, "step-1", "state.bin")

    def clean():
        shutil.rmtree(to)
        os.mkdir(to)

    def get_and_sync():
        plain.get_file(key, path)
        disk.sync_path(path)

    rows = _turns(
        {
            "ours: get, compare digests, sync, commit": (lambda: bring(catalog, entry, to), clean),
            "s3fs: get_file": (lambda: plain.get_file(key, path), clean),
            "s3fs: get_file, then sync": (get_and_sync, clean),
            "of ours: digest": (lambda: entry_of(here), lambda: None),
        }
    )
    return {"bytes": os.path.getsize(here), "rows": rows}


def requests(directory):
    """Return how many requests a save makes, by kind."""
    from keras_ratchet._storage.objects.object_store import ObjectStore
    from keras_ratchet._storage.objects.replica import Replica

    server, rows = Server.of_environment(), {}

    def counted(call):
        before = len(server.requests())
        call()
        return dict(collections.Counter(server.requests()[before:]))

    def push():
        replica.push(True, lambda size: None)
        replica.push_journal()

    for name, size in (("1 MB", 10**6), (f"{MB} MB", MB * 10**6)):
        local = os.path.join(directory, name)
        os.mkdir(local)
        replica = Replica(local, ObjectStore(f"s3://{BUCKET}/requests/{size}"), SERIES, True)
        rows[f"start of a run ({name})"] = counted(replica.start)
        _file(local, size=size)
        rows[f"first save of {name}"] = counted(push)
        _file(local, size=size)
        rows[f"save of {name} over the one before"] = counted(push)
        _file(local, "next.keras", size=size)
        rows[f"save of {name} under a new name"] = counted(push)
        rows[f"end of the run ({name})"] = counted(replica.end)
    return rows


def listing(directory):
    """Return the seconds and requests of a listing of many records."""
    from dataclasses import replace

    from keras_ratchet._storage.manifest import FileEntry, Manifest
    from keras_ratchet._storage.objects import commit, reading
    from keras_ratchet._storage.objects.catalog import loaded
    from keras_ratchet._storage.objects.object_store import ObjectStore
    from keras_ratchet._storage.objects.record import Record, StoredObject, data_key, new_id
    from keras_ratchet.types import Position

    url = f"s3://{BUCKET}/listing"
    catalog = loaded(ObjectStore(url))
    versions = {"keras": "3.15.1", "torch": "2.13.0", "keras_ratchet": "1.0"}
    base = Manifest({}, Position(1, 0, 1), series="epoch-{epoch}.keras", versions=versions,
                    ranking=(("val_loss", "min"),), reason="improved", run="abcdef")  # fmt: skip
    for number in range(RECORDS):
        name = f"epoch-{number:04d}.keras"
        manifest = replace(
            base,
            files={name: FileEntry(10**6, "0" * 32)},
            position=Position(number, 0, number * 100),
            metrics={"loss": 1 / (number + 1), "val_loss": 2 / (number + 1)},
            saved_at=1.7e9 + number,
        )
        own = new_id(manifest.saved_at)
        objects = {name: StoredObject(data_key(own, name), 10**6, {"etag": "0" * 32})}
        commit._commit(catalog, own, own, Record(name, False, manifest, objects))
    server = Server.of_environment()
    before = len(server.requests())
    assert len(reading.checkpoints(url)) == RECORDS
    kinds = dict(collections.Counter(server.requests()[before:]))
    store = ObjectStore(url)
    rows = _turns(
        {
            f"checkpoints(url) of {RECORDS} records": (
                lambda: reading.checkpoints(url),
                lambda: None,
            ),
            "s3fs: the listing alone": (lambda: store.find(".ratchet"), lambda: None),
        }
    )
    return {"requests": kinds, "rows": rows}


# Results


def run(part):
    """Measure one part in its own process."""
    env = os.environ | {"KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if composer := os.environ.get("RATCHET_COMPOSER"):
        env["PYTHONPATH"] = composer
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--part", part, "--here"],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{part} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _table(header, rows):
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def _said_of_training(found):
    copy_s, rows = found["memcpy_s"], found["rows"]
    lines = [
        [
            name,
            f"{1e3 * row['hook_s']:.0f} ms",
            f"{row['lost_s']:.2f} s ({row['lost_s'] / copy_s:.1f}x)",
            f"{row['until_done_s']:.1f} s",
            f"{row['server_cpu_s']:.1f} s",
        ]
        for name, row in rows.items()
    ]
    name = "ours ModelCheckpoint .weights.h5"
    ratio = rows[f"{name}, s3"]["lost_s"] / rows[name]["lost_s"]
    return (
        f"## Training time lost to a save of {found['bytes'] / 1e6:.0f} MB on torch\n\n"
        "In the hook; including the slower steps until the upload has ended (as a multiple of one "
        f"memcpy of the state, {1e3 * copy_s:.0f} ms); how long that is; and how much processor "
        "time of this machine the S3 server took meanwhile, which a real store would not take. "
        f"Medians of {min(len(row['all_lost_s']) for row in rows.values())}, in turns.\n\n"
        + _table(["", "hook", "lost", "until all is done", "taken by the server"], lines)
        + f"\n\nWith an upload, training loses {ratio:.1f}x of what our save costs without."
    )


def _said_of_times(title, text, found, base):
    rows, size = found["rows"], found.get("bytes")
    lines = []
    for name, row in rows.items():
        speed = f"{size / row['s'] / 1e6:.0f} MB/s" if size else ""
        lines.append([name, f"{row['s']:.2f} s", speed, f"{row['s'] / rows[base]['s']:.2f}x"])
    return f"## {title}\n\n{text}\n\n" + _table(["", "time", "", f"over {base}"], lines)


PEERS = """Keras's own callback saves to local paths only, in the hook; beside it Composer's
`RemoteUploaderDownloader` (mosaicml 0.32.1, with stand-ins for torchvision and mcli, which it
imports and does not need here) copies the file in the hook and uploads it from a process of its
own, by boto3. Neither syncs the file, compares what arrived, or commits. Orbax 0.12.8 and Keras's
`OrbaxCheckpoint` do not take `s3://` here: "File system scheme 's3' not implemented".""".replace(
    "\n", " "
)


GOALS = """## What is missed

Uploads (goal: 0.9 of the speed of s3fs) and fetches are as fast as those of s3fs. The time until
all is done beside training is not as short as Composer's. On a machine with a load of 4 to 6, of
300 MB the put took 4 to 8 s and the MD5 of the parts, which is compared with the ETag, 2 to 9 s
more, where it takes 0.45 s alone: the thread has a lower priority than training, and waits for a
processor.""".replace("\n", " ").replace("missed  ", "missed\n\n")


def report(found, load):
    """Return benchmarks/results-stores.md."""
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}"
    )
    kinds = sorted({kind for row in found["requests"].values() for kind in row})
    counted = [
        [name, sum(row.values()), *(row.get(kind, 0) for kind in kinds)]
        for name, row in found["requests"].items()
    ]
    listed = found["listing"]["requests"]
    parts = [
        "# What saving to an object store costs",
        f"By `make bench-stores` on {machine}, load {load:.1f}. The store is moto's "
        "S3 server, written in Python, in a process of its own on the same cores: it is the "
        "bottleneck of every upload and fetch here, and takes processor time from training. So the "
        "ratios count, not the seconds.",
        _said_of_training(found["training"]),
        PEERS,
        _said_of_times("Upload", "Medians of turns.", found["upload"], "s3fs: put_file"),
        _said_of_times(
            "Fetch of a snapshot, as for a resume",
            "Medians of turns.",
            found["fetch"],
            "s3fs: get_file",
        ),
        "## Requests\n\n" + _table(["", "all", *kinds], counted),
        _said_of_times(
            "Listing",
            f"Requests of one `checkpoints(url)`: "
            f"{', '.join(f'{count} {kind}' for kind, count in listed.items())}.",
            found["listing"],
            "s3fs: the listing alone",
        ),
        GOALS,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main():
    """Measure all parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--here", action="store_true", help="in this process, print the figures")
    options = parser.parse_args()
    if options.here:
        with tempfile.TemporaryDirectory(dir=".", prefix="bench-") as scratch:
            os.environ["RATCHET_CACHE"] = os.path.abspath(os.path.join(scratch, "cache"))
            print(json.dumps(globals()[options.part](Path(os.path.abspath(scratch)))))
        return
    if importlib.util.find_spec("moto") is None:
        sys.exit("pip install 'moto[s3,server]' s3fs")
    found = {}
    with served():
        for part in (options.part,) if options.part else PARTS:
            began = time.time()
            found[part] = run(part)
            print(part, f"{time.time() - began:.0f} s", json.dumps(found[part]), flush=True)
    if not options.part:
        (HERE / "results-stores.md").write_text(report(found, os.getloadavg()[1]))


if __name__ == "__main__":
    main()
