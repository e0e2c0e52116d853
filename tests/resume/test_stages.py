"""Several `fit`s of one script with one directory, killed in one of them and run again."""

import contextlib
import shutil

import keras
import numpy as np
import pytest
from support import background_saves, resuming
from support.resuming import Killed, arrays, scramble, seed_all, values

from keras_ratchet import BackupAndRestore
from keras_ratchet.errors import ResumeError

TURNS, KILLED_IN = 3, 1


class KillIn(keras.callbacks.Callback):
    """Ends one of several fits, in its middle or at the end of its first epoch."""

    def __init__(self, turn, after):
        super().__init__()
        self.at, self.after, self.turn = turn, after, -1

    def on_train_begin(self, logs=None):
        self.turn += 1

    def on_train_batch_end(self, batch, logs=None):
        if self.turn == self.at and batch + 1 == self.after:
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        if self.turn == self.at and self.after is None:
            raise Killed


class Counted(keras.layers.Layer):
    """Has a plain attribute, which training changes in the first stage only."""

    def __init__(self):
        super().__init__()
        self.seen, self.noted = 0, []

    def call(self, inputs):
        return inputs


class Counts(keras.callbacks.Callback):
    def __init__(self, turn):
        super().__init__()
        self.turn = turn

    def on_train_batch_end(self, batch, logs=None):
        if self.turn == 0:
            self.model.layers[0].seen += 1
            self.model.layers[0].noted.append(batch)


@pytest.mark.parametrize("after", [1, 5, None])
def test_what_an_earlier_stage_changed_in_a_layer_is_there_in_the_next(tmp_path, after):
    def script(name, kill=None):
        scramble(as_new_process=False)
        seed_all(5)
        net = resuming.model(layers=[Counted()])
        x, y = arrays()
        for turn, plan in enumerate(EPOCH_BY_EPOCH):
            backup = BackupAndRestore(tmp_path / name, delete_checkpoint=False, save_freq=2)
            callbacks = [backup, Counts(turn), *([] if kill is None else [kill])]
            try:
                net.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks, **plan)
            except Killed:
                background_saves.settle()
                backup._store.end()
                return None
        return net.layers[0].seen, net.layers[0].noted, [v.tobytes() for v in values(net.variables)]

    whole = script("whole")
    assert script("cut", KillIn(KILLED_IN, after)) is None
    with finished_before():
        assert script("cut") == whole


def process(directory, plans, kill=None, *, between=lambda net, turn: None, **backup):
    """Run the script once; return histories, weights and optimizer, or None if it was killed."""
    scramble(as_new_process=False)
    seed_all(5)
    net, histories, callback = resuming.model(), [], None
    x, y = arrays()
    shared = backup.pop("shared", False)
    try:
        for turn, plan in enumerate(plans):
            between(net, turn)
            if callback is None or not shared:
                callback = BackupAndRestore(directory, **backup)
            callbacks = [callback] + ([] if kill is None else [kill])
            fit = net.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks, **plan)
            histories.append((fit.epoch, fit.history))
    except Killed:
        background_saves.settle()
        callback._store.end()
        return None
    return repr(histories), values(net.variables), values(net.optimizer.variables)


def assert_same(mine, theirs):
    assert mine[0] == theirs[0]
    for ours, others in zip(mine[1:], theirs[1:], strict=True):
        assert len(ours) == len(others)
        for a, b in zip(ours, others, strict=True):
            np.testing.assert_array_equal(a, b)


def finished_before():
    return pytest.warns(UserWarning, match="finished before the interruption")


EPOCH_BY_EPOCH = [{"initial_epoch": i, "epochs": i + 1} for i in range(TURNS)]
REPEATED = [{"epochs": 1}] * TURNS
STAGES = [{"epochs": 1}, {"epochs": 2}, {"epochs": 1}]


@pytest.mark.parametrize(("plans", "backup"), [
    (EPOCH_BY_EPOCH, {}),
    (EPOCH_BY_EPOCH, {"delete_checkpoint": False, "save_freq": 3}),
    (REPEATED, {"save_freq": 3, "shared": True}),
    (STAGES, {"delete_checkpoint": False, "shared": True}),
], ids=["epoch by epoch", "epoch by epoch, kept", "again and again", "stages"])  # fmt: skip
def test_fits_that_were_finished_are_not_trained_again_and_the_one_that_was_cut_goes_on(
    tmp_path, plans, backup
):
    whole = process(str(tmp_path / "a"), plans, **backup)
    directory = str(tmp_path / "b")
    for after in (7, None):
        with finished_before() if after is None else contextlib.nullcontext():
            assert process(directory, plans, KillIn(KILLED_IN, after), **backup) is None
    with finished_before():
        assert_same(process(directory, plans, **backup), whole)


def test_a_second_stage_with_other_layers_trainable_and_another_optimizer_goes_on(tmp_path):
    def between(net, turn):
        net.layers[0].trainable = turn > 0
        rate = 1e-2 if turn == 0 else 1e-3
        net.compile(keras.optimizers.Adam(rate), "binary_crossentropy", jit_compile=False)

    plans = [{"epochs": 2}, {"epochs": 3}]
    whole = process(str(tmp_path / "a"), plans, between=between)
    directory = str(tmp_path / "b")
    assert process(directory, plans, KillIn(1, None), between=between) is None
    with finished_before():
        assert_same(process(directory, plans, between=between), whole)


def test_a_run_of_finished_fits_trains_nothing_again(tmp_path):
    directory = str(tmp_path / "b")
    whole = process(directory, STAGES, delete_checkpoint=False)
    with finished_before():
        assert_same(process(directory, STAGES, delete_checkpoint=False), whole)


def test_each_stage_with_a_directory_of_its_own_needs_no_warning(tmp_path):
    def run(root, kill_in=None):
        scramble()
        seed_all(5)
        net, (x, y) = resuming.model(), arrays()
        seen = []
        for turn in range(3):
            backup = BackupAndRestore(root / str(turn), delete_checkpoint=False)
            kill = [KillIn(0, 3)] if turn == kill_in else []
            try:
                fit = net.fit(x, y, epochs=2, batch_size=4, verbose=0, callbacks=[backup, *kill])
            except Killed:
                background_saves.settle()
                backup._store.end()
                return None
            seen.append((fit.history, net.evaluate(x, y, verbose=0)))
        return repr(seen), values(net.variables), values(net.optimizer.variables)

    whole = run(tmp_path / "a")
    assert run(tmp_path / "b", kill_in=2) is None
    assert_same(run(tmp_path / "b"), whole)


def test_a_first_fit_that_does_not_lead_to_the_snapshot_is_refused(tmp_path):
    directory = str(tmp_path)
    assert process(directory, STAGES, KillIn(1, 4)) is None
    with pytest.raises(ResumeError, match=r"number 2 with this directory.*its own backup_dir"):
        process(directory, [{"epochs": 7}])


def test_a_script_without_its_first_stage_goes_on_with_a_warning(tmp_path):
    directory = str(tmp_path)
    whole = process(str(tmp_path / "a"), STAGES[:2])
    assert process(str(tmp_path / "b"), STAGES[:2], KillIn(1, 4)) is None
    directory = str(tmp_path / "b")
    with pytest.warns(UserWarning, match="removed from the script"):
        mine = process(directory, STAGES[1:2])
    for a, b in zip(mine[1], whole[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_snapshot_of_another_fold_is_gone_on_from_with_a_warning_only(tmp_path):
    directory = str(tmp_path / "b")
    process(directory, [{"epochs": 1}])
    assert process(directory, [{"epochs": 1}], KillIn(0, 4)) is None
    from keras_ratchet._engine.resume import comparison

    comparison._total.clear()  # as in a new process
    with pytest.warns(UserWarning, match="folds or trials"):
        process(directory, [{"epochs": 1}])


def test_a_cell_that_is_run_again_in_its_notebook_says_nothing(tmp_path):
    directory = str(tmp_path / "b")
    for _ in range(2):
        process(directory, [{"epochs": 2}])
    assert process(directory, [{"epochs": 2}], KillIn(0, 4)) is None
    process(directory, [{"epochs": 2}])
    shutil.rmtree(directory, ignore_errors=True)


def test_folds_that_share_a_directory_and_keep_it_are_warned_of_in_the_first_run(tmp_path):
    directory = str(tmp_path / "b")
    first = process(directory, [{"epochs": 2}], delete_checkpoint=False)
    with pytest.warns(UserWarning, match="already trained another model.*own"):
        second = process(directory, [{"epochs": 2}], delete_checkpoint=False)
    assert_same(second, first)  # nothing was trained, as the warning says


def test_a_cell_that_is_run_again_with_more_epochs_goes_on_with_that_warning(tmp_path):
    whole = process(str(tmp_path / "a"), [{"epochs": 3}])
    directory = str(tmp_path / "b")
    process(directory, [{"epochs": 2}], delete_checkpoint=False)
    with pytest.warns(UserWarning, match="already trained another model"):
        more = process(directory, [{"epochs": 3}], delete_checkpoint=False)
    assert_same(more, whole)
