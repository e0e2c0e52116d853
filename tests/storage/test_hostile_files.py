"""Files from strangers: refused with a clear error, and with bounded memory."""

import contextlib
import json
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from support import hostile
from support.models import dense

import keras_ratchet
from keras_ratchet._formats.safety import check_file
from keras_ratchet._storage import journal, snapshot_directory
from keras_ratchet._storage.journal_tail import Tail
from keras_ratchet._storage.manifest import Manifest, read_manifest
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet.errors import CorruptError, LoadError

TESTS = Path(__file__).parent.parent
MEMORY_BYTES = 64 << 20


def params(cases, wrap=lambda make: make, prefix=""):
    return [
        pytest.param(wrap(make), text, id=f"{prefix}{make.__name__}")
        for make, text in cases.items()
    ]


# A zip cannot hold what lies beside the file.
INNER = {make: text for make, text in hostile.HDF5.items() if make is not hostile.external_dataset}
ARCHIVES = params(hostile.ARCHIVES) + params(INNER, hostile.inside_archive, "inner-")


@contextlib.contextmanager
def bounded_memory():
    """Fail if Python and NumPy hold more than a fixed amount inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("make", "text"), ARCHIVES)
def test_a_hostile_archive_is_refused(make, text, quick_path):
    path = f"{quick_path}/model.keras"
    make(path)
    with bounded_memory(), pytest.raises(LoadError, match=text):
        keras_ratchet.load_model(path)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
@pytest.mark.parametrize(("make", "text"), params(hostile.HDF5))
def test_a_hostile_hdf5_file_is_refused(make, text, suffix, quick_path):
    path = f"{quick_path}/model{suffix}"
    make(path)
    model = dense()
    with bounded_memory(), pytest.raises(LoadError, match=text):
        keras_ratchet.load_weights(model, path)


def test_a_cycle_of_hard_links_does_not_hold_up_the_check(quick_path):
    path = f"{quick_path}/model.weights.h5"
    hostile.hard_link_cycle(path)
    with bounded_memory():
        check_file(path)


CHECK_ALL = """
import resource, sys
from keras_ratchet._formats.safety import check_file
from keras_ratchet.errors import LoadError

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (128 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        check_file(path)
        print("passed", path)
    except LoadError as error:
        print("memory" if isinstance(error.__cause__, MemoryError) else "refused", path)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_hostile_file_is_refused_in_a_process_with_little_memory(quick_path):
    paths = []
    for suffix, cases in ((".keras", hostile.ARCHIVES), (".weights.h5", hostile.HDF5)):
        for make in cases:
            paths.append(f"{quick_path}/{make.__name__}{suffix}")
            make(paths[-1])
    command = [sys.executable, "-X", "faulthandler", "-c", CHECK_ALL, *paths]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"refused {path}" for path in paths]


FUZZ = """
import os, random, sys
from keras_ratchet._formats.safety import check_file
from keras_ratchet.errors import LoadError

rng, refused = random.Random(0), 0
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        whole = file.read()
    directory, name = os.path.split(path)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 5])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        with open(f"{directory}/broken-{name}", "wb") as file:
            file.write(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            check_file(f"{directory}/broken-{name}")
        except LoadError:
            refused += 1
print(refused)
"""


def test_whatever_is_wrong_with_a_file_the_check_raises_only_load_errors(quick_path):
    model = dense()
    paths = [f"{quick_path}/m{suffix}" for suffix in (".keras", ".h5", ".weights.h5")]
    for path in paths:
        model.save_weights(path) if "weights" in path else model.save(path)
    command = [sys.executable, "-X", "faulthandler", "-c", FUZZ, *paths]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 300


SEALED = {name: hostile.manifest_bytes(data) for name, data in hostile.MANIFESTS.items()}
MANIFESTS = {**SEALED, **hostile.RAW_MANIFESTS}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_manifest_is_refused(name, quick_path):
    path = Path(quick_path, "step-1", snapshot_directory.MANIFEST)
    path.parent.mkdir()
    path.write_bytes(MANIFESTS[name])
    Path(quick_path, "step-1", "w.bin").write_bytes(b"x")
    with bounded_memory():
        with pytest.raises(LoadError, match="not a valid manifest") as refusal:
            read_manifest(str(path))
        assert len(str(refusal.value)) < 1000
        outcome = keras_ratchet.verify(str(path.parent))
        assert outcome.status == "corrupt"
        [record] = keras_ratchet.checkpoints(quick_path)
        assert not record.has_manifest


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_model_with_a_hostile_manifest_is_refused(name, quick_path):
    path = Path(quick_path, "best.weights.h5")
    model = dense()
    model.save_weights(path)
    Path(quick_path, METADATA).mkdir()
    Path(quick_path, METADATA, f"best.weights.h5.{'0' * 32}.json").write_bytes(MANIFESTS[name])
    with bounded_memory(), pytest.raises(CorruptError):
        keras_ratchet.load_weights(model, path)


@pytest.mark.parametrize("kind", ["device", "pipe", "link", "directory"])
def test_a_snapshot_file_that_is_no_plain_file_is_never_opened(kind, quick_path):
    root = Path(quick_path)
    secret = root / "secret"
    secret.write_bytes(b"x")
    with snapshot_directory.SnapshotDraft(quick_path, "step-1") as draft:
        draft.write("w.bin", lambda file: file.write(b"x"))
        draft.commit(Manifest(files={}))
    path = root / "step-1" / "w.bin"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(secret if kind == "link" else "/dev/zero")
    outcome = keras_ratchet.verify(str(root / "step-1"))
    assert outcome.status == "corrupt"
    assert "not a regular file" in outcome.problem


def test_a_journal_with_garbage_is_read_around_it(quick_path):
    journal.append(quick_path, "save", name="a")
    garbage = [
        b"\x00\xff\xfe",
        b"[" * 60_000,
        b'{"event": 7}',
        b'{"no": "event"}',
        b"[1, 2]",
        b'{"event": "save", "x": ' + b"9" * 5000 + b"}",
        b"x" * (1 << 24),
        b"",
    ]
    with open(Path(quick_path, METADATA, journal.NAME), "ab") as file:
        file.write(b"\n".join(garbage) + b"\n")
    journal.append(quick_path, "save", name="b")
    with open(Path(quick_path, METADATA, journal.NAME), "ab") as file:
        file.write(b'{"time": 1, "event": "sa')
    with bounded_memory():
        assert [event["name"] for event in journal.read(quick_path)] == ["a", "b"]


def test_an_event_with_the_values_of_thousands_of_metrics_is_read(quick_path):
    metrics = {f"accuracy_of_class_{index}": index / 7 for index in range(5000)}
    tail = Tail(quick_path)
    journal.append(quick_path, "save", metrics=metrics)
    assert [event["metrics"] for event in journal.read(quick_path)] == [metrics]
    assert [event["metrics"] for event in tail.new()] == [metrics]


def test_an_event_after_a_torn_line_is_not_lost(quick_path):
    journal.append(quick_path, "save", name="a")
    with open(Path(quick_path, METADATA, journal.NAME), "ab") as file:
        file.write(b'{"time": 1, "event": "sa')
    journal.append(quick_path, "save", name="b")
    assert [event["name"] for event in journal.read(quick_path)] == ["a", "b"]


def test_a_journal_takes_whatever_a_metric_is(quick_path):
    import numpy as np

    journal.append(quick_path, "begin", epochs=np.int64(3), loss=float("nan"), odd={1, 2})
    [event] = journal.read(quick_path)
    assert event["loss"] == "nan"
    assert str(event["epochs"]) == "3"


def test_random_bytes_are_no_manifest(quick_path):
    rng = random.Random(0)
    good = hostile.manifest_bytes(hostile.GOOD)
    path = Path(quick_path, "manifest.json")
    path.write_bytes(good)
    assert json.loads(good)["schema"] == 1
    assert read_manifest(str(path)).files["w.bin"].size_bytes == 1
    for _ in range(200):
        data = bytearray(good)
        for _ in range(rng.choice([1, 3, 9])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if data != good:
            path.write_bytes(data)
            with pytest.raises(LoadError):
                read_manifest(str(path))
