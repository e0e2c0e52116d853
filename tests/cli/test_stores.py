"""Every command with a URL where a path may be, and `pull` and `push` between disk and store."""

import json
import os
from dataclasses import replace

import fsspec
import numpy as np
import pytest
from support.checkpoints import SERIES, Holder, facts, flip_bit, note, save, series, snapshot
from support.models import dense, fit
from support.weight_files import save_model

import keras_ratchet
from keras_ratchet._engine.saving.provenance import fingerprint
from keras_ratchet._storage import disk, listing
from keras_ratchet._storage.objects import calls

LOSSES = (5.0, 3.0, 1.0, 2.0, 4.0)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path_factory):
    """An empty place on a store."""
    place = str(tmp_path_factory.mktemp("store")).strip("/")
    return f"{request.param}://{'/' if request.param == 'file' else ''}{place}/run"


@pytest.fixture
def pushed(ratchet, run, url):
    """The URL of five checkpoints; the third is best, the fifth last."""
    note(run, {"event": "save", "name": "epoch-01.keras", "series": SERIES, "epoch": 1})
    ratchet("push", run, url)
    return url


@pytest.fixture
def models(ratchet, tmp_path, url):
    """The URL of three real models, and their directory."""
    model, local = dense(optimizer="adam"), tmp_path / "models"
    local.mkdir()
    for epoch, loss in enumerate((3.0, 1.0, 2.0), 1):
        fit(model, [])
        manifest = replace(facts(epoch, val_loss=loss), fingerprint=fingerprint(model))
        save_model(model, str(local / f"epoch-{epoch:02d}.keras"), manifest)
    ratchet("push", local, url)
    return url, local


def objects(url, ending=""):
    """Return the paths of objects by what their keys end in, and the file system."""
    fs, root = fsspec.core.url_to_fs(url)
    return fs, sorted(path for path in fs.find(root) if path.endswith(ending))


def damage(url, ending, data=None):
    """Remove an object, or give it other bytes."""
    fs, [path] = objects(url, ending)
    fs.rm_file(path) if data is None else fs.pipe_file(path, data)


def content(directory):
    """Return the visible files below a directory with their bytes."""
    found = {}
    for where, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(where, name)
            if not name.endswith(".lock"):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, directory)] = file.read()
    return found


class Counted:
    """Counts the calls to a store; `names` has one name for each."""

    def __init__(self, monkeypatch):
        self.names = []
        real = calls.make

        def make(url, options):
            return _Counting(real(url, options), self.names)

        monkeypatch.setattr(calls, "make", make)

    def __len__(self):
        return len(self.names)

    def of(self, *names):
        return sum(self.names.count(name) for name in names)


class _Counting:
    def __init__(self, inner, names):
        self._inner, self._names = inner, names

    def __getattr__(self, name):
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*args):
            if args != ([],):  # `read_all` of nothing asks nothing
                self._names.append(name)
            return value(*args)

        return call


def test_ls_and_best_are_those_of_the_local_directory(ratchet, run, pushed):
    def known(records):
        return [{key: record[key] for key in record if key != "path"} for record in records]

    assert known(ratchet.json("ls", pushed)) == known(ratchet.json("ls", run))
    lines = ratchet("ls", pushed).output.splitlines()
    assert lines[3].split()[1:5] == ["3", "30", "1", "2"] and "best" in lines[3]
    assert ratchet("best", pushed).stdout == f"{pushed}/epoch-03.keras\n"
    assert ratchet("best", f"{pushed}/").stdout == f"{pushed}/epoch-03.keras\n"
    assert ratchet("ls", pushed, "--verify").output.splitlines()[1].endswith("ok")


def test_a_thousand_are_listed_in_two_listings_and_without_a_read(
    ratchet, quick_path, monkeypatch, tmp_path
):
    place = f"memory://{tmp_path}/many"
    series(quick_path, *(1 + abs(n - 700) for n in range(1000)))
    ratchet("push", quick_path, place)
    counted = Counted(monkeypatch)
    records = ratchet.json("ls", place)
    assert len(records) == 1000
    assert [r["name"] for r in records if "best" in r["marks"]] == ["epoch-701.keras"]
    assert records[0]["metrics"]["val_loss"] == 701.0
    assert sorted(counted.names) == ["find", "find_here"]
    counted.names.clear()
    assert "1000 ok" in ratchet("verify", place).output
    assert len(counted) <= 8 and counted.of("read_all") == 1 and not counted.of("read", "chunks")


def test_show_reads_the_record(ratchet, run, pushed):
    path = f"{pushed}/epoch-03.keras"
    output = ratchet("show", path).output
    for fact in ("best", "epoch 3 ended", "3 epochs done", "val_loss (min", "XXH3"):
        assert fact in output
    ours, theirs = ratchet.json("show", path), ratchet.json("show", run / "epoch-03.keras")
    assert ours["files"] == theirs["files"] and ours["path"] == path


def test_history_and_plot_read_the_journal(ratchet, run, url, tmp_path):
    for epoch in (1, 2):
        note(run, {"event": "epoch", "epoch": epoch, "metrics": {"val_loss": 1.0 / epoch}})
    ratchet("push", run, url)
    assert ratchet.json("history", url, "--epochs") == ratchet.json("history", run, "--epochs")
    ratchet("push", run, url)
    assert len(ratchet.json("history", url, "--epochs")) == 2
    assert ratchet.json("plot", url, "-o", f"{url}/run.svg") == {"path": f"{url}/run.svg"}
    fs, [path] = objects(url, "run.svg")
    assert b"<svg" in fs.cat_file(path)
    assert "--force" in ratchet("plot", url, "-o", f"{url}/run.svg", code=2).stderr
    ratchet("plot", url, "-o", f"{url}/run.svg", "--force")
    ratchet("plot", url, "-o", tmp_path / "run.svg")


def test_verify_asks_the_store_and_reads_if_told(ratchet, pushed):
    output = ratchet("verify", pushed).output
    assert "5 ok" in output and "by what the store says" in output and "--read" in output
    assert "5 ok" in (read := ratchet("verify", pushed, "--read").output)
    assert "kB read)" in read
    assert "1 ok" in ratchet("verify", f"{pushed}/epoch-01.keras").output
    fs, [path] = objects(pushed, "epoch-02.keras")
    data = bytearray(fs.cat_file(path))
    data[10] ^= 1
    fs.pipe_file(path, bytes(data))
    ratchet("verify", pushed)  # a store without checksums knows lengths only
    assert "digest differs" in ratchet("verify", pushed, "--read", code=1).output
    ratchet("verify", f"{pushed}/epoch-02.keras", "--read", code=1)
    ratchet("verify", f"{pushed}/epoch-01.keras", "--read")


def test_verify_finds_what_is_gone_or_short_without_reading(ratchet, pushed):
    damage(pushed, "epoch-02.keras")
    damage(pushed, "epoch-04.keras", b"short")
    output = ratchet("verify", pushed, code=1).output
    assert "2 corrupt" in output and "it is not there" in output and "5 bytes where" in output
    statuses = {o["path"]: o["status"] for o in ratchet.json("verify", pushed, code=1)}
    assert statuses[f"{pushed}/epoch-02.keras"] == "corrupt"
    assert ratchet("verify", pushed, "--read", code=1).output.count("corrupt  ") == 2
    assert ratchet("ls", pushed, "--verify", code=1).output.count("corrupt") == 2


def test_a_damaged_record_is_corrupt(ratchet, pushed):
    fs, found = objects(pushed)
    record = next(path for path in found if "/.ratchet/commits/" in path)
    fs.pipe_file(record, b"{}")
    assert "not a valid record" in ratchet("verify", pushed, code=1).output
    assert "4 ok" in ratchet("verify", pushed, "--read", code=1).output
    ratchet("ls", pushed)


def test_best_passes_over_a_damaged_one(ratchet, pushed):
    damage(pushed, "epoch-03.keras")
    result = ratchet("best", pushed)
    assert result.stdout == f"{pushed}/epoch-04.keras\n" and "Skipped epoch-03" in result.stderr


def test_pins_are_kept_by_prune(ratchet, pushed):
    assert ratchet.json("pin", f"{pushed}/epoch-01.keras")[0]["pinned"] is True
    assert "pinned" in ratchet("ls", pushed).output.splitlines()[1]
    before = objects(pushed)[1]
    ratchet("prune", pushed, "--keep-last", 1)
    assert objects(pushed)[1] == before
    data = ratchet.json("prune", pushed, "--keep-last", 1, "--yes")
    assert data["deleted"] and data["freed_bytes"] > 0
    names = [r["name"] for r in ratchet.json("ls", pushed)]
    assert names == ["epoch-01.keras", "epoch-03.keras", "epoch-05.keras"]
    assert len(objects(pushed, ".keras")[1]) == 3
    drops = [e for e in ratchet.json("history", pushed) if e["event"] == "drop"]
    assert {e["name"] for e in drops} == {"epoch-02.keras", "epoch-04.keras"}
    assert "ratchet prune" in drops[0]["reason"]
    ratchet.json("unpin", f"{pushed}/epoch-01.keras")
    ratchet("prune", pushed, "--keep-last", 1, "--yes")
    assert len(ratchet.json("ls", pushed)) == 2


def test_prune_keeps_what_has_changed(ratchet, pushed):
    damage(pushed, "epoch-01.keras", b"short")
    output = ratchet("prune", pushed, "--keep-last", 1, "--yes", code=1).output
    assert "has changed since it was saved" in output
    assert "epoch-01.keras" in ratchet("ls", pushed).output


def test_prune_and_push_wait_for_no_training(ratchet, run, pushed, monkeypatch):
    from keras_ratchet._storage.objects import lease

    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    fs, found = objects(pushed)
    old = next(path for path in found if "/.ratchet/leases/" in path)
    holder = json.loads(fs.cat_file(old)) | {"host": "another", "pid": 7}
    del holder["released"]

    class Renewing:
        """A training on another machine: each look at its lease finds it renewed."""

        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            if name == "read_all":
                import time

                fs.pipe_file(old, json.dumps(holder | {"renewed_at": time.time()}).encode())
            return getattr(self._inner, name)

    real = calls.make
    monkeypatch.setattr(calls, "make", lambda url, options: Renewing(real(url, options)))
    result = ratchet("prune", pushed, "--keep-last", 1, "--yes", code=2)
    assert "process 7 on another" in result.stderr
    assert "process 7 on another" in ratchet("push", run, pushed, code=2).stderr
    assert len(ratchet.json("ls", pushed)) == 5


def test_adopt_puts_a_record(ratchet, url, tmp_path):
    model = dense()
    model.save(tmp_path / "best.keras")
    fs, root = fsspec.core.url_to_fs(url)
    fs.makedirs(root, exist_ok=True)
    fs.put_file(str(tmp_path / "best.keras"), f"{root}/best.keras")
    path = f"{url}/best.keras"
    assert "no manifest" in ratchet("ls", url).output
    assert "unverified" in ratchet("verify", url).output
    assert "unverified" in ratchet("verify", path).output
    assert "ratchet adopt" in ratchet("show", path).output
    ratchet("pin", path, code=2)
    assert "read unverified" in ratchet("export", path, "-o", tmp_path / "a.npz").stderr
    data = ratchet.json("adopt", path, "--metric", "val_loss=0.125", "--epoch", 7)[0]
    assert data["manifest"] and data["metrics"] == {"val_loss": 0.125} and data["path"] == path
    assert ratchet("best", url).stdout == f"{path}\n"
    assert "1 ok" in ratchet("verify", url, "--read").output
    assert keras_ratchet.load_model(path) is not None
    assert "already has a manifest" in ratchet("adopt", path, code=2).stderr
    ratchet("pin", path)
    flipped = bytearray(fs.cat_file(f"{root}/best.keras"))
    flipped[-1] ^= 1
    fs.pipe_file(f"{root}/best.keras", bytes(flipped))
    ratchet("verify", url, "--read", code=1)
    ratchet("adopt", path, "--force", "--metric", "loss=1")
    [record] = ratchet.json("ls", url)
    assert record["metrics"] == {"loss": 1.0} and record["pinned"]
    ratchet("pull", url, tmp_path / "pulled")
    assert (tmp_path / "pulled/best.keras").read_bytes() == bytes(flipped)
    assert "1 ok" in ratchet("verify", tmp_path / "pulled").output


def test_adopt_refuses_what_is_not_a_plain_keras_file(ratchet, pushed):
    ratchet("adopt", f"{pushed}/nowhere.keras", code=2)
    ratchet("adopt", f"{pushed}/epoch-01.keras", "--force", code=2)
    fs, root = fsspec.core.url_to_fs(pushed)
    fs.pipe_file(f"{root}/broken.keras", b"not a model")
    before = objects(pushed)[1]
    ratchet("adopt", f"{pushed}/broken.keras", code=2)
    assert objects(pushed)[1] == before


def test_diff_and_export_fetch(ratchet, models, tmp_path):
    url, local = models
    names = ("epoch-01.keras", "epoch-02.keras")
    ours = ratchet("diff", *(f"{url}/{name}" for name in names)).output
    assert ours == ratchet("diff", *(local / name for name in names)).output
    assert ratchet.json("diff", f"{url}/{names[0]}", local / names[0])["equal"]
    ratchet("export", f"{url}/{names[0]}", "-o", tmp_path / "a.npz")
    ratchet("export", local / names[0], "-o", f"{url}/b.npz")
    assert "--force" in ratchet("export", local / names[0], "-o", f"{url}/b.npz", code=2).stderr
    fs, [path] = objects(url, "b.npz")
    with fs.open(path) as file, np.load(tmp_path / "a.npz") as a, np.load(file) as b:
        assert set(a) == set(b) and all((a[key] == b[key]).all() for key in a)
    damage(url, "epoch-03.keras", b"short")
    ratchet("export", f"{url}/epoch-03.keras", "-o", tmp_path / "c.npz", code=1)
    assert not (tmp_path / "c.npz").exists()


def test_soup_from_a_store_and_to_one(ratchet, models, tmp_path):
    url, local = models
    for k in (2, 3):
        ours = ratchet.json("soup", url, "-o", tmp_path / f"ours-{k}.keras", "--k", k)
        theirs = ratchet.json("soup", local, "-o", tmp_path / f"theirs-{k}.keras", "--k", k)
        assert [m["name"] for m in ours["members"]] == [m["name"] for m in theirs["members"]]
        assert ours["members"][0]["path"] == f"{url}/epoch-02.keras"
        same = ("diff", tmp_path / f"ours-{k}.keras", tmp_path / f"theirs-{k}.keras")
        assert ratchet.json(*same)["equal"]
    target = f"{url}/soup.keras"
    assert "written to" in ratchet("soup", url, "-o", target, "--k", 2).output
    assert ratchet.json("diff", target, tmp_path / "ours-2.keras")["equal"]
    assert "mean of the 2 best" in ratchet("history", url).output
    assert "4 ok" in ratchet("verify", url, "--read").output
    assert "--force" in ratchet("soup", url, "-o", target, code=2).stderr
    ratchet("soup", url, "-o", target, "--force", "--k", 3)
    assert len(ratchet.json("ls", url)) == 4
    damage(url, "epoch-02.keras", b"short")
    assert "Skipped epoch-02.keras" in ratchet("soup", url, "--dry-run").stderr


def test_a_soup_of_more_than_the_cache_keeps(ratchet, url, tmp_path):
    model = dense()
    for epoch in range(1, 8):
        fit(model, [])
        manifest = replace(facts(epoch, val_loss=1.0 / epoch), fingerprint=fingerprint(model))
        save_model(model, str(tmp_path / f"epoch-{epoch:02d}.keras"), manifest)
    ratchet("push", tmp_path, url)
    assert len(ratchet.json("soup", url, "-o", tmp_path / "x.keras", "--k", 7)["members"]) == 7


def test_push_and_pull_bring_back_the_same(ratchet, run, url, tmp_path_factory):
    snapshot(run, 3)
    save(run, "b-1.keras", facts(1, "b-{epoch}.keras", (("f1", "max"),), f1=float("nan")))
    (run / "plain.keras").write_bytes(b"of plain Keras")
    note(run, {"event": "save", "name": "epoch-01.keras"}, {"event": "end"})
    ratchet("pin", run / "epoch-02.keras")
    result = ratchet("push", run, url)
    assert result.stdout.startswith("pushed 7 checkpoints, ") and "(" not in result.stdout
    assert "Skipped plain.keras: it has no manifest" in result.stderr
    assert "pushed 0 checkpoints, 0 B (7 were there already)" in ratchet("push", run, url).stdout
    there = tmp_path_factory.mktemp("pulled") / "new"
    assert ratchet("pull", url, there).stdout.startswith("pulled 7 checkpoints, ")
    expected = {k: v for k, v in content(run).items() if k != "plain.keras"}
    assert content(there) == expected
    again = ratchet.json("pull", url, there)
    assert {record["outcome"] for record in again} == {"there"}
    assert content(there) == expected
    assert ratchet.json("history", there) == ratchet.json("history", run)
    assert "7 ok" in ratchet("verify", there).output
    (there / "epoch-01.keras").unlink()
    last = ratchet("pull", url, there).stdout
    assert last.startswith("pulled 1 checkpoint, ") and "(6 were there already)" in last


def test_one_checkpoint_can_be_pulled(ratchet, run, pushed, tmp_path_factory):
    snapshot(run, 3)
    ratchet("push", run, pushed)
    there = tmp_path_factory.mktemp("pulled")
    ratchet("pull", f"{pushed}/epoch-03.keras", there)
    ratchet("pull", f"{pushed}/epoch-00003-batch-0000000", there)
    assert [i.name for i in listing.checkpoints(there)] == [
        *("epoch-00003-batch-0000000", "epoch-03.keras")
    ]
    assert "2 ok" in ratchet("verify", there).output
    ratchet("pull", f"{pushed}/nowhere.keras", there, code=2)


def test_another_checkpoint_of_the_same_name_is_left_alone(ratchet, run, pushed, tmp_path_factory):
    there = tmp_path_factory.mktemp("pulled")
    save(there, "epoch-01.keras", facts(9, val_loss=0.5), b"mine")
    (there / "epoch-02.keras").write_bytes(b"of plain Keras")
    (there / "epoch-03.keras").write_bytes((run / "epoch-03.keras").read_bytes())
    result = ratchet("pull", pushed, there, code=1)
    assert "Refused epoch-01.keras" in result.stderr and "--force" in result.stderr
    assert "pulled 3 checkpoints" in result.stdout and "2 were not copied" in result.stdout
    assert (there / "epoch-01.keras").read_bytes() == b"mine"
    assert "4 ok, 0 corrupt, 1 without" in ratchet("verify", there).output
    refused = ratchet.json("push", there, pushed, code=1)
    assert [r["name"] for r in refused if r["outcome"] == "differs"] == ["epoch-01.keras"]
    assert ratchet.json("show", f"{pushed}/epoch-01.keras")["position"]["epoch"] == 1
    ratchet("push", there, pushed, "--force")
    assert ratchet.json("show", f"{pushed}/epoch-01.keras")["position"]["epoch"] == 9
    assert len(objects(pushed, "epoch-01.keras")[1]) == 1
    ratchet("pull", pushed, run, code=1)
    ratchet("pull", pushed, run, "--force")
    assert (run / "epoch-01.keras").read_bytes() == b"mine"
    assert "5 ok" in ratchet("verify", run).output


def test_a_snapshot_is_replaced_only_by_force(ratchet, run, url, tmp_path_factory):
    there = tmp_path_factory.mktemp("pulled")
    path = snapshot(there, 3)
    ratchet("push", there, url)
    with open(os.path.join(path, "state.json"), "ab") as file:
        file.write(b" ")
    ratchet("pull", url, there, code=1)
    ratchet("verify", there, code=1)
    damage(url, "state.json", b"[]")
    assert "Damaged" in ratchet("pull", url, there, "--force", code=1).stderr
    with open(os.path.join(path, "state.json"), "rb") as file:
        assert file.read() == b"{} "
    damage(url, "state.json", b"{}")
    ratchet("pull", url, there, "--force")
    assert "1 ok" in ratchet("verify", there).output
    assert sorted(os.listdir(there)) == [".ratchet", os.path.basename(path)]


def test_damaged_ones_are_named_and_the_others_are_copied(ratchet, run, pushed, tmp_path_factory):
    there = tmp_path_factory.mktemp("pulled")
    damage(pushed, "epoch-02.keras")
    damage(pushed, "epoch-04.keras", b"short")
    result = ratchet("pull", pushed, there, code=1)
    assert "Damaged epoch-02.keras" in result.stderr and "Damaged epoch-04" in result.stderr
    assert "pulled 3 checkpoints" in result.stdout and "2 were not copied" in result.stdout
    assert "3 ok, 0 corrupt" in ratchet("verify", there).output
    flip_bit(run / "epoch-04.keras")
    result = ratchet("push", run, pushed, code=1)  # whose copy is damaged here is put again
    assert "Damaged epoch-04.keras" in result.stderr and "pushed 1 checkpoint" in result.stdout
    assert "4 ok, 1 corrupt" in ratchet("verify", pushed, "--read", code=1).output


def test_pull_and_push_take_the_local_lock(ratchet, run, pushed):
    with Holder(run) as pid:
        assert f"process {pid} on" in ratchet("push", run, pushed, code=2).stderr
        assert f"process {pid} on" in ratchet("pull", pushed, run, code=2).stderr


def test_a_full_disk_ends_in_a_sentence(ratchet, pushed, tmp_path_factory, monkeypatch):
    class Full(disk.Disk):
        def write(self, fd, data):
            raise OSError(28, "No space left on device")

    there = tmp_path_factory.mktemp("pulled")
    monkeypatch.setattr(disk, "current", Full())
    assert "No space left" in ratchet("pull", pushed, there, code=2).stderr
    assert not [name for name in os.listdir(there) if name.endswith(".keras")]


def test_names_of_a_stranger_do_not_leave_the_directory(ratchet, run, url, tmp_path_factory):
    from keras_ratchet._storage.objects import commit
    from keras_ratchet._storage.objects.catalog import loaded
    from keras_ratchet._storage.objects.object_store import ObjectStore

    manifest = replace(facts(1), files={".bashrc": disk_entry(run / "epoch-01.keras")})
    hidden = run / ".bashrc"
    hidden.write_bytes((run / "epoch-01.keras").read_bytes())
    commit.put_checkpoint(loaded(ObjectStore(url)), str(hidden), manifest)
    there = tmp_path_factory.mktemp("pulled")
    assert "does not have the name" in ratchet("pull", url, there, code=1).stderr
    assert not (there / ".bashrc").exists()


def disk_entry(path):
    from keras_ratchet._storage.manifest import entry_of

    return entry_of(str(path))


@pytest.mark.parametrize(
    "args",
    [
        ("ls", "{}"),
        ("best", "{}"),
        ("verify", "{}"),
        ("history", "{}"),
        ("prune", "{}", "--keep-last", "1"),
        ("soup", "{}", "-o", "x.keras"),
        ("plot", "{}", "-o", "x.png"),
        ("show", "{}/x.keras"),
        ("pin", "{}/x.keras"),
        ("diff", "{}/x.keras", "{}/y.keras"),
        ("adopt", "{}/x.keras"),
        ("export", "{}/x.keras", "-o", "x.npz"),
        ("pull", "{}", "x"),
        ("push", ".", "{}"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("place", ["nosuch://b/x", "memory://nothing/here", "file:///nothing/here"])
def test_what_cannot_be_read_is_a_sentence_and_code_2(ratchet, tmp_path, monkeypatch, args, place):
    monkeypatch.chdir(tmp_path)
    result = ratchet(*(arg.format(place) for arg in args), code=2)
    assert "Error: " in result.stderr and not result.stdout
    if place.startswith("nosuch") and args[0] != "push":
        assert "nosuch:// is not a scheme that fsspec can open here" in result.stderr
    assert not os.listdir(tmp_path)


def test_push_to_a_store_without_its_library(ratchet, run):
    assert "nosuch:// is not a scheme" in ratchet("push", run, "nosuch://b/x", code=2).stderr


def test_arguments_that_are_no_place(ratchet, run):
    assert "must name a place" in ratchet("ls", "s3://", code=2).stderr
    assert "has an empty part" in ratchet("ls", "memory://a//b", code=2).stderr
    assert "must be a URL" in ratchet("pull", run, run, code=2).stderr
    assert "must be a URL" in ratchet("push", run, run, code=2).stderr
    assert "a local directory" in ratchet("pull", "memory://a", "memory://b", code=2).stderr
    assert "a local directory" in ratchet("push", "memory://a", "memory://b", code=2).stderr
