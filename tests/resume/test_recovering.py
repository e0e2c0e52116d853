"""A training that goes back, stops at NaN or cuts its rate is cut and gone on with: exactly so."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from support.poison import Break, is_finite, net, poisoned, rows, train
from support.resuming import Kill, Script, arrays, model

import keras_ratchet
from keras_ratchet import BackupAndRestore, ReduceLROnPlateau, Rollback, TerminateOnNaN
from keras_ratchet._engine.resume import snapshot_paths

PER_EPOCH = 10


class Poison(keras.callbacks.Callback):
    """Breaks the weights before certain batches, counted over all epochs from 0."""

    def __init__(self, *batches):
        super().__init__()
        self.batches, self.epoch = batches, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.epoch * PER_EPOCH + batch in self.batches:
            kernel = self.model.layers[0].kernel
            kernel.assign(np.full(kernel.shape, np.nan, "float32"))


def data():
    x, y = arrays()
    return {"x": x, "y": y, "batch_size": 4}


def regression():
    return model(loss="mse")


def record(callback):
    return [repr(r) for r in callback.rollbacks]


def both(tmp_path, callbacks, kills, **saves):
    """Return the outcomes of the uninterrupted and the resumed run."""
    script = Script(str(tmp_path / "b"), data, make=regression, callbacks=callbacks)
    whole = script.uninterrupted(**saves)
    return whole, script.chain(*(Kill(k) for k in kills), **saves)


# the weights break before batches 14 and 23: kills before, between going back, and after
@pytest.mark.parametrize("kills", [(13,), (15,), (16, 22), (24, 25), (7, 18, 29)], ids=repr)
def test_a_run_that_goes_back_is_resumed_in_mid_epoch_as_if_it_had_not_been_cut(tmp_path, kills):
    def callbacks():
        return [Rollback(factor=0.5, every=3, confirm=2), Poison(14, 23)]

    whole, cut = both(tmp_path, callbacks, kills, save_freq=1)
    assert cut.differences(whole) == []
    assert record(cut.callbacks[0]) == record(whole.callbacks[0])
    places = [(r.epoch_index, r.batch_index) for r in whole.callbacks[0].rollbacks]
    assert places == [(1, 4), (2, 3)]
    assert all(np.isfinite(w).all() for w in cut.weights)


@pytest.mark.parametrize(
    "options", [{"every": "epoch"}, {"restore_rng": True}, {"confirm": 0}], ids=str
)
def test_whatever_a_state_is_it_survives(tmp_path, options):
    def callbacks():
        return [Rollback(**{"factor": 0.5, "every": 4, "confirm": 2} | options), Poison(14, 17)]

    for saves in ({"save_freq": 3}, {"save_freq": "epoch"}):
        whole, cut = both(tmp_path / str(saves["save_freq"]), callbacks, (16, 26), **saves)
        assert cut.differences(whole) == []
        assert record(cut.callbacks[0]) == record(whole.callbacks[0])
        # on tensorflow relu makes 0 of NaN: the loss does not tell, a look at the weights does
        assert len(whole.callbacks[0].rollbacks) in (1, 2)


def test_spikes_are_found_as_without_a_kill(tmp_path):
    def callbacks():
        return [Rollback(factor=0.9, every=3, confirm=2, spike_z=1.5, window=4, max_rollbacks=99)]

    whole, cut = both(tmp_path, callbacks, (8, 17), save_freq=1)
    assert cut.differences(whole) == []
    assert record(cut.callbacks[0]) == record(whole.callbacks[0]) != []


def test_the_last_time_is_the_last_after_a_kill_too(tmp_path):
    def callbacks():
        return [Rollback(every=3, confirm=2, max_rollbacks=1), Poison(5, 14)]

    whole, cut = both(tmp_path, callbacks, (9,), save_freq=2)
    assert cut.differences(whole) == [] and cut.epochs == [0, 1]
    assert cut.callbacks[0].stop_reason == whole.callbacks[0].stop_reason is not None


class Rates(keras.callbacks.Callback):
    """Dictates a metric, and notes the learning rates."""

    values = (1.0, 0.5, 0.7, 0.7, 0.4, 0.6, 0.6, 0.6)

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_epoch_end(self, epoch, logs=None):
        logs["val_f"] = self.values[epoch]
        self.rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


@pytest.mark.parametrize("saves", [{"save_freq": 3}, {"save_freq": "epoch"}], ids=["mid", "epoch"])
def test_plateaus_and_the_weights_to_go_back_to_survive(tmp_path, saves):
    def callbacks():
        plateau = ReduceLROnPlateau(
            "val_f", 0.5, 2, mode="min", restore_best_weights=True, restore_optimizer=True
        )
        return [Rates(), plateau, TerminateOnNaN()]

    script = Script(
        str(tmp_path / "b"), data, make=regression, callbacks=callbacks, fit={"epochs": 8}
    )
    whole = script.uninterrupted(**saves)
    cut = script.chain(Kill(25), Kill(38), Kill(61), **saves)
    assert cut.differences(whole) == []
    assert cut.callbacks[0].rates == whole.callbacks[0].rates
    assert whole.callbacks[0].rates == pytest.approx([0.01] * 4 + [0.005] * 3 + [0.0025])
    for name in ("wait", "best", "best_value", "best_epoch", "cooldown_counter", "reductions"):
        assert getattr(cut.callbacks[1], name) == getattr(whole.callbacks[1], name)


@pytest.mark.parametrize("kill", [12, 14])
def test_a_stop_at_nan_after_a_kill_ends_with_the_weights_it_would_have_ended_with(tmp_path, kill):
    def callbacks():
        return [TerminateOnNaN(), Poison(14)]

    whole, cut = both(tmp_path, callbacks, (kill,), save_freq=2)
    assert cut.differences(whole) == [] and whole.epochs == [0, 1]
    assert all(np.isfinite(w).all() for w in cut.weights)
    assert cut.callbacks[0].stop_reason == whole.callbacks[0].stop_reason is not None


def finite(path):
    """Say whether the weights and the optimizer of a snapshot are finite (metrics may be not)."""
    saved = snapshot_paths.read_state(str(path)).variables
    kept = {n: a for n, a in saved.items() if n.startswith(("model/", "optimizer/"))}
    assert len(kept) > 4
    return all(np.isfinite(a).all() for a in kept.values() if a.dtype.kind == "f")


class Snapshots(keras.callbacks.Callback):
    """Notes of each snapshot, when it is there, whether it is finite."""

    def __init__(self, backup):
        super().__init__()
        self.backup, self.seen = backup, {}

    def look(self):
        for path in self.backup._store.list_paths():
            self.seen.setdefault(path, finite(path))

    def on_train_batch_begin(self, batch, logs=None):
        self.look()


@pytest.mark.parametrize("first", [True, False], ids=["backup first", "backup last"])
@pytest.mark.parametrize("freq", [1, 5, "epoch"])
def test_no_snapshot_is_taken_of_a_state_that_has_gone_bad(tmp_path, freq, first):
    """The weights break in the batch after which a snapshot is due; its loss was still finite."""

    def run(directory, *callbacks):
        backup = BackupAndRestore(directory, freq, delete_checkpoint=False, keep=99)
        snapshots = Snapshots(backup)
        breaks = [Break(4), Break(9)]
        mine = [backup, *callbacks, *breaks] if first else [*callbacks, *breaks, backup]
        train(net(), rows(), [*mine, snapshots], epochs=2)
        snapshots.look()
        return snapshots.seen

    poisoned_ones = run(tmp_path / "control")
    assert not all(poisoned_ones.values())
    rollback = Rollback(factor=1.0, every=3, confirm=1)
    seen = run(tmp_path / "ours", rollback)
    assert all(seen.values()) and len(seen) == len(poisoned_ones)
    # without a snapshot to be taken the loss of the next batch tells
    assert [r.batch_index for r in rollback.rollbacks] == [5 if freq == "epoch" else 4, 9]


def test_a_stop_by_nan_keeps_the_snapshots_and_takes_none_of_it(tmp_path):
    def run(directory, data, *callbacks):
        backup = BackupAndRestore(directory, "epoch")
        model = net()
        train(model, data, [*callbacks, backup], epochs=4)
        return model

    keras_stop, ours, raised = keras.callbacks.TerminateOnNaN(), TerminateOnNaN(), Rollback()
    enough = Rollback(max_rollbacks=0)
    for i, callback in enumerate([keras_stop, ours, raised, enough]):
        directory = tmp_path / str(i)
        run(directory, rows(), callback)
        assert not directory.exists()  # a training that ends well leaves nothing
        bad = poisoned([5])
        run(directory, bad, callback)
        left = [p for p in directory.glob("epoch-*")] if directory.exists() else []
        if callback is raised:
            assert left == []
        else:
            assert [p.name for p in left] == ["epoch-00000-batch-0000000"]
            assert all(map(finite, left))


def test_a_run_that_was_stopped_by_nan_goes_on_from_the_last_good_snapshot(tmp_path):
    class Broken(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                kernel = self.model.layers[0].kernel
                kernel.assign(np.full(kernel.shape, np.nan, "float32"))

    def run(*callbacks):
        keras_stop = TerminateOnNaN()
        history = train(
            model := net(),
            rows(),
            [*callbacks, keras_stop, BackupAndRestore(tmp_path / "b")],
            epochs=5,
        )
        return model, history

    model, history = run(Broken())
    assert history.epoch == [0, 1, 2] and is_finite(model)
    model, history = run()
    assert history.epoch == [0, 1, 2, 3, 4] and is_finite(model)
    whole = net()
    train(whole, rows(), epochs=5)
    assert history.history["loss"] == whole.history.history["loss"]


def test_every_time_is_in_the_state_as_data(tmp_path):
    backup = BackupAndRestore(tmp_path / "b", delete_checkpoint=False)
    train(net(), poisoned([5]), [Rollback(every=1, confirm=0), backup])
    saved = json.loads(Path(backup._store.file(0, snapshot_paths.DATA)).read_text())
    key = next(k for k in saved["callbacks"] if "Rollback" in k)
    assert saved["callbacks"][key]["rescuer"]["rollbacks"][0]["why"] == "loss is nan"
    assert keras_ratchet.verify(backup._store.list_paths()[0])
