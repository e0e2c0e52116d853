"""What RayReportCallback tells, to a stand-in for Ray; tests/distributed has Ray itself."""

import contextlib
import sys
import types

import keras
import numpy as np
import pytest

import keras_ratchet
from keras_ratchet.errors import ConfigError


class Checkpoint:
    """What Ray calls a checkpoint: a directory with metadata."""

    def __init__(self, path):
        self.path, self.metadata = path, {}

    from_directory = classmethod(lambda kind, path: kind(path))

    def set_metadata(self, metadata):
        self.metadata = metadata

    def get_metadata(self):
        return self.metadata


class Session:
    """`ray.tune` in a trial, or outside of one.

    Attributes:
        reports: What it was told: metrics, and whether the checkpoint verified.
        ends_at: In the report of which epoch it ends the trial.
        at_report: Called in each report.
    """

    Checkpoint = Checkpoint

    def __init__(self, directory, kind="local"):
        self.storage = types.SimpleNamespace(
            trial_fs_path=str(directory), storage_filesystem=types.SimpleNamespace(type_name=kind)
        )
        self.trial = "a"
        self.given = None
        self.reports = []
        self.ends_at = None
        self.at_report = lambda: None

    def get_context(self):
        return types.SimpleNamespace(
            get_trial_id=lambda: self.trial, get_storage=lambda: self.storage
        )

    def get_checkpoint(self):
        return self.given

    def report(self, metrics, checkpoint):
        found = checkpoint and keras_ratchet.verify(f"{checkpoint.path}/best.weights.h5")
        self.reports.append((metrics, found and bool(found)))
        self.at_report()
        if metrics["epoch"] == self.ends_at:
            raise SystemExit(0)


def in_no_worker():
    raise RuntimeError("outside")


@pytest.fixture
def tune(tmp_path, monkeypatch):
    session = Session(tmp_path)
    modules = {name: types.ModuleType(name) for name in ("ray", "ray.train")}
    modules["ray.train.collective"] = types.ModuleType("ray.train.collective")
    modules["ray.tune"] = session
    modules["ray"].train, modules["ray"].tune = modules["ray.train"], session
    modules["ray.train"].get_context = in_no_worker
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "keras_ratchet.integrations.ray", raising=False)
    yield session
    sys.modules.pop("keras_ratchet.integrations.ray", None)


class Fails(keras.callbacks.Callback):
    def __init__(self, after):
        super().__init__()
        self.left = after

    def state_dict(self):
        return {}  # a countdown that was saved would go on

    def load_state_dict(self, state):
        pass

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyError("a failure")


def fit(directory, *, fails_after=0, saves=True, metrics=None, after=False, **options):
    from keras_ratchet.integrations.ray import RayReportCallback

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    best = keras_ratchet.ModelCheckpoint(
        directory / "best.weights.h5", "loss", save_best_only=True, save_weights_only=True
    )
    backup = keras_ratchet.BackupAndRestore(
        directory / "backup", save_freq=3, delete_checkpoint=False, **options
    )
    report = RayReportCallback(metrics, checkpoint=best)
    callbacks = [report, best] if after else [best, report]
    callbacks = [*callbacks, *([backup] if saves else []), Fails(fails_after)]
    with keras_ratchet.guard(model, callbacks) if fails_after else contextlib.nullcontext():
        model.fit(x, x.sum(1), epochs=4, batch_size=4, verbose=0, callbacks=callbacks)


def epochs(session):
    return [metrics["epoch"] for metrics, _ in session.reports]


@pytest.mark.parametrize("background", [False, True])
def test_an_epoch_is_reported_once_though_it_is_trained_twice(tune, tmp_path, background):
    with pytest.raises(KeyError):
        fit(tmp_path, fails_after=9, background=background)  # the last snapshot is before epoch 2
    assert epochs(tune) == [1, 2]
    fit(tmp_path, background=background)
    assert epochs(tune) == [1, 2, 3, 4]
    assert [metrics["training_iteration"] for metrics, _ in tune.reports] == [1, 2, 3, 4]


def test_without_snapshots_it_is_reported_again(tune, tmp_path):
    with pytest.raises(KeyError):
        fit(tmp_path, fails_after=9, saves=False)
    fit(tmp_path, saves=False)
    assert epochs(tune) == [1, 2, 1, 2, 3, 4]


def test_a_run_from_scratch_in_the_same_directory_reports_all_epochs(tune, tmp_path):
    fit(tmp_path)
    for snapshot in keras_ratchet.checkpoints(tmp_path / "backup"):
        (tmp_path / "backup" / snapshot.name).rename(tmp_path / snapshot.name)
    fit(tmp_path)
    assert epochs(tune) == [1, 2, 3, 4] * 2


def test_the_file_goes_along_when_there_is_a_new_one(tune, tmp_path):
    fit(tmp_path)
    assert [found for _, found in tune.reports] == [True] * 4


def test_a_trial_that_is_ended_in_its_report_cleans_up(tune, tmp_path):
    tune.ends_at = 2
    with pytest.raises(SystemExit):
        fit(tmp_path)
    assert "SystemExit" in (tmp_path / ".ratchet/journal.jsonl").read_text()
    tune.ends_at = None
    fit(tmp_path)  # the lock is free
    assert epochs(tune)[-1] == 4


def test_the_checkpoint_of_another_trial_is_refused(tune, tmp_path):
    tune.given = Checkpoint(tmp_path)
    tune.given.set_metadata({"keras_ratchet": {"directory": "/elsewhere"}})
    with pytest.raises(ConfigError, match="another one"):
        fit(tmp_path)


def test_a_start_from_scratch_after_a_report_is_said(tune, tmp_path, caplog):
    tune.given = Checkpoint(tmp_path)
    fit(tmp_path)
    assert caplog.text.count("training starts over") == 1
    fit(tmp_path / "second")  # the checkpoint may be of the first
    assert caplog.text.count("training starts over") == 1


def test_outside_ray_nothing_is_trained(tune, tmp_path):
    tune.trial = None
    with pytest.raises(ConfigError, match="no worker of Ray Train and no trial"):
        fit(tmp_path)
    assert not tune.reports


def test_metrics_are_chosen_and_a_missing_one_is_named(tune, tmp_path):
    fit(tmp_path, metrics={"mean_loss": "loss"})
    assert {"mean_loss", "epoch", "training_iteration"} == set(tune.reports[0][0])
    with pytest.raises(ConfigError, match="nonsense"):
        fit(tmp_path / "b", metrics="nonsense")


def test_without_snapshots_the_file_must_be_saved_before_the_report(tune, tmp_path):
    with pytest.raises(ConfigError, match="must stand after"):
        fit(tmp_path, saves=False, after=True)
    fit(tmp_path, after=True)  # with them the report comes last
    assert [found for _, found in tune.reports] == [True] * 4


def test_a_checkpoint_must_be_a_file_of_a_callback(tune):
    from keras_ratchet.integrations.ray import RayReportCallback

    with pytest.raises(ConfigError, match="ModelCheckpoint"):
        RayReportCallback(checkpoint="best.keras")


def test_a_bucket_is_no_directory(tune, tmp_path):
    from keras_ratchet.integrations.ray import run_directory

    tune.storage.storage_filesystem.type_name = "s3"
    with pytest.raises(ConfigError, match="'s3'"):
        run_directory()
    fit(tmp_path)  # in a directory of its own it works
    assert epochs(tune) == [1, 2, 3, 4]
