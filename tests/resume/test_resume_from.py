"""`resume_from=`: a branch goes on from a chosen snapshot, bit by bit, and nothing else is lost."""

import shutil

import fsspec
import pytest
from click.testing import CliRunner
from support.resuming import Kill, Script, scramble
from support.sources import numpy_arrays

import keras_ratchet
from keras_ratchet._storage import disk, journal
from keras_ratchet.cli import main
from keras_ratchet.errors import ConfigError, CorruptError, LoadError, ResumeError

THIRD = "epoch-00002-batch-0000000"


@pytest.fixture
def script(tmp_path):
    return Script(str(tmp_path / "run"), numpy_arrays, fit={"epochs": 4})


@pytest.fixture
def source(script):
    """The directory of a whole run of which every snapshot is kept; and what it ended with."""
    return script.directory, script.run(keep=10)


def names(directory):
    return sorted(info.name for info in keras_ratchet.checkpoints(directory))


def elsewhere(script, tmp_path, name="branch"):
    return Script(str(tmp_path / name), script.data, fit=script.fit)


def test_a_branch_ends_as_the_run_that_it_comes_from(script, source, tmp_path):
    directory, whole = source
    before = names(directory)
    branch = elsewhere(script, tmp_path)
    assert branch.run(resume_from=f"{directory}/{THIRD}").differences(whole) == []
    assert names(directory) == before
    assert "epoch-00001-batch-0000000" not in names(branch.directory)
    events = list(journal.read(branch.directory))
    begun = [event for event in events if event["event"] == "branch"]
    assert [(e["from"], e["epoch"], e["batch"]) for e in begun] == [(f"{directory}/{THIRD}", 2, 0)]


def test_a_branch_that_is_killed_goes_on_from_its_own_newest_snapshot(script, source, tmp_path):
    directory, whole = source
    branch = elsewhere(script, tmp_path)
    asked = {"resume_from": f"{directory}/{THIRD}", "save_freq": 3}
    assert branch.chain(Kill(27), Kill(35), **asked).differences(whole) == []
    events = list(journal.read(branch.directory))
    assert [event["event"] for event in events].count("branch") == 1
    resumed = [(e["name"], e["epoch"]) for e in events if e["event"] == "resume"]
    assert resumed[0] == (THIRD, 2)
    assert resumed[1][0] > THIRD and resumed[2][0] > resumed[1][0]


def test_a_kill_before_the_first_save_of_a_branch_changes_nothing(script, source, tmp_path):
    directory, whole = source
    branch = elsewhere(script, tmp_path)
    asked = {"resume_from": f"{directory}/{THIRD}"}
    assert branch.chain(Kill(22), Kill(22), **asked).differences(whole) == []


def test_the_copy_is_there_whole_or_not_at_all(script, source, tmp_path, monkeypatch):
    directory, whole = source
    branch = elsewhere(script, tmp_path)
    asked = {"resume_from": f"{directory}/{THIRD}"}

    def fails(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(disk.current, "rename", fails, raising=False)
        branch.run(**asked)
    assert names(branch.directory) == []
    assert branch.run(**asked).differences(whole) == []


def test_newer_snapshots_of_the_same_directory_stay(script, source):
    directory, whole = source
    before = names(directory)
    assert script.chain(Kill(epoch=2), resume_from="epoch-00002", keep=1).differences(whole) == []
    assert set(before) < set(names(directory))
    assert f"{THIRD}-2" not in names(directory)  # the branch keeps one of its own
    kept = [info for info in keras_ratchet.checkpoints(directory) if info.run]
    assert {info.run.partition("@")[0] for info in kept} == {THIRD}
    assert len(kept) == 2  # `keep` counts them alone; one more when the run has ended


def test_without_the_argument_the_branch_goes_on_and_still_leaves_the_others(script, source):
    directory, whole = source
    before = names(directory)
    assert script.run(Kill(epoch=2), resume_from="epoch-00002", keep=1) is None
    assert script.run(keep=1).differences(whole) == []
    assert set(before) < set(names(directory))


def test_at_the_end_only_the_branch_is_deleted(script, source):
    directory, whole = source
    before = names(directory)
    branch = script.run(resume_from="epoch-00002", delete_checkpoint=True)
    assert branch.differences(whole) == []
    assert names(directory) == before


def test_a_source_that_is_gone_does_not_stop_its_branch(script, source, tmp_path):
    directory, whole = source
    branch = elsewhere(script, tmp_path)
    asked = {"resume_from": f"{directory}/{THIRD}"}
    assert branch.run(Kill(epoch=2), **asked) is None
    shutil.rmtree(directory)
    with pytest.warns(UserWarning, match="no longer there"):
        assert branch.run(**asked).differences(whole) == []


def validated(**more):
    x = numpy_arrays()
    return {"epochs": 4, "validation_data": (x["x"], x["y"]), **more}


def test_best_goes_by_val_loss_and_is_not_chosen_again_after_a_kill(script, tmp_path):
    script.fit = validated()
    script.run(keep=10)
    infos = [i for i in keras_ratchet.checkpoints(script.directory) if "val_loss" in i.metrics]
    ends = [info for info in infos if "finished" not in info.name]
    best = min(ends, key=lambda info: info.metrics["val_loss"])
    script.fit = validated(epochs=6)
    assert script.run(Kill(epoch=4), resume_from="best", keep=10) is None
    scramble()
    script.run(resume_from="best", keep=10)
    events = [e for e in journal.read(script.directory) if e["event"] in ("branch", "resume")]
    assert [e["event"] for e in events] == ["branch", "resume", "resume"]
    assert events[0]["from"].endswith(best.name)
    assert events[2]["epoch"] == 4 or events[2]["epoch"] == 5


def test_best_goes_by_the_monitor_of_the_callbacks(script):
    script.run(keep=10)  # no validation
    with pytest.raises(ConfigError, match="'val_loss', which no snapshot"):
        script.run(resume_from="best")
    script.callbacks = lambda: [keras_ratchet.EarlyStopping("accuracy", patience=9)]
    script.fit = {"epochs": 6}
    script.run(resume_from="best", keep=10)
    ends = [
        info
        for info in keras_ratchet.checkpoints(script.directory)
        if not info.run and "finished" not in info.name and "accuracy" in info.metrics
    ]
    best = max(ends, key=lambda info: (info.metrics["accuracy"], -info.position.epoch))
    begun = [e for e in journal.read(script.directory) if e["event"] == "branch"]
    assert begun[-1]["from"] == best.path


def test_a_damaged_snapshot_is_an_error_and_no_other_takes_its_place(script, source, tmp_path):
    directory, _ = source
    path = tmp_path / "run" / THIRD / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    branch = elsewhere(script, tmp_path)
    with pytest.raises(CorruptError, match="damaged"):
        branch.run(resume_from=f"{directory}/{THIRD}")
    assert names(branch.directory) == []


def test_what_is_no_snapshot_is_named(script, source, tmp_path):
    directory, _ = source
    branch = elsewhere(script, tmp_path)
    with pytest.raises(LoadError, match="There is no snapshot resume_from='nonsense'"):
        branch.run(resume_from="nonsense")
    with pytest.raises(LoadError, match="is a directory of snapshots"):
        elsewhere(script, tmp_path, "b").run(resume_from=directory)
    with pytest.raises(LoadError, match="but there is none"):
        elsewhere(script, tmp_path, "c").run(resume_from="best")
    with pytest.raises(ConfigError, match="resume_from must be"):
        keras_ratchet.BackupAndRestore(tmp_path / "d", resume_from="")


def test_the_end_of_a_run_is_no_start_for_more_epochs(script, source, tmp_path):
    directory, _ = source
    [end] = [name for name in names(directory) if name.endswith("-finished")]
    branch = elsewhere(script, tmp_path)
    branch.fit = {"epochs": 9}
    with pytest.raises(ResumeError, match="cannot go on from"):
        branch.run(resume_from=f"{directory}/{end}")


def test_the_run_and_its_history_say_where_it_comes_from(script, source, tmp_path):
    directory, _ = source
    scramble()
    net, data = script.make(), script.data()
    path = f"{directory}/{THIRD}"
    backup = keras_ratchet.BackupAndRestore(tmp_path / "b", resume_from=path)
    history = net.fit(**data, epochs=4, verbose=0, callbacks=[backup])
    assert backup.branched_from == history.params["branched_from"] == path
    assert backup.resumed_from.epoch == 2


def test_a_second_fit_of_the_script_begins_no_branch(script, source, tmp_path):
    directory, _ = source
    scramble()
    net, data = script.make(), script.data()
    backup = keras_ratchet.BackupAndRestore(
        tmp_path / "b", resume_from=f"{directory}/{THIRD}", delete_checkpoint=False
    )
    net.fit(**data, epochs=4, verbose=0, callbacks=[backup])
    net.fit(**data, epochs=5, initial_epoch=4, verbose=0, callbacks=[backup])
    begun = [e for e in journal.read(str(tmp_path / "b")) if e["event"] == "branch"]
    assert len(begun) == 1
    assert backup.branched_from == ""


def test_a_branch_made_by_the_command_is_the_same(script, source, tmp_path):
    directory, whole = source
    branch = elsewhere(script, tmp_path)
    made = CliRunner().invoke(main, ["branch", f"{directory}/{THIRD}", branch.directory])
    assert made.exit_code == 0, made.output
    asked = {"resume_from": f"{directory}/{THIRD}"}
    assert branch.run(Kill(epoch=2)) is None
    assert branch.run(**asked).differences(whole) == []  # the same branch by either way
    assert [e["event"] for e in journal.read(branch.directory)].count("branch") == 1


def test_a_branch_from_a_store_and_on_one(script, source, tmp_path, monkeypatch):
    directory, whole = source
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}/run"
    pushed = CliRunner().invoke(main, ["push", directory, url])
    assert pushed.exit_code == 0, pushed.output
    local = elsewhere(script, tmp_path)
    assert local.run(resume_from=f"{url}/{THIRD}").differences(whole) == []
    remote = Script(f"memory://{tmp_path.name}/branch", script.data, fit=script.fit)
    asked = {"resume_from": f"{url}/{THIRD}"}
    assert remote.run(Kill(epoch=2), **asked) is None
    shutil.rmtree(tmp_path / "cache")  # another machine
    assert remote.run(**asked).differences(whole) == []
    infos = keras_ratchet.checkpoints(remote.directory)
    assert {info.run.partition("@")[0] for info in infos} == {THIRD}


def test_a_source_that_is_gone_from_its_store_does_not_stop_its_branch(
    script, source, tmp_path, monkeypatch
):
    directory, whole = source
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}/run"
    assert CliRunner().invoke(main, ["push", directory, url]).exit_code == 0
    branch = elsewhere(script, tmp_path)
    asked = {"resume_from": f"{url}/{THIRD}"}
    assert branch.run(Kill(epoch=2), **asked) is None
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}/run", recursive=True)
    with pytest.warns(UserWarning, match="no longer there"):
        assert branch.run(**asked).differences(whole) == []


def test_on_a_store_only_the_branch_is_deleted(script, source, tmp_path, monkeypatch):
    directory, _ = source
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}/run"
    assert CliRunner().invoke(main, ["push", directory, url]).exit_code == 0
    before = names(url)
    remote = Script(url, script.data, fit=script.fit)
    remote.run(resume_from="epoch-00002", delete_checkpoint=True)
    assert names(url) == before


def test_a_second_fit_stays_on_a_branch_whose_snapshots_are_deleted(script, source):
    directory, _ = source
    before = names(directory)
    scramble()
    net, data = script.make(), script.data()

    def backup():
        return keras_ratchet.BackupAndRestore(directory, resume_from="epoch-00002", keep=1)

    net.fit(**data, epochs=4, verbose=0, callbacks=[backup()])
    net.fit(**data, epochs=6, initial_epoch=4, verbose=0, callbacks=[second := backup()])
    assert second.resumed_from is None
    assert names(directory) == before  # the first run's
