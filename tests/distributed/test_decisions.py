"""Every decision is one: both ranks do what one process would do on the averaged logs.

All scenarios of an engine run in one launch of two processes. Rank 1's logs differ from rank 0's,
as in a loop that Keras does not synchronize: a callback of the user's, first in the list, sees to
that.
"""

import json

import pytest
from support import processes

SCENARIOS = '''
import json, logging, os, signal, sys
from support import rank
logging.basicConfig(level=logging.WARNING, format="SAID %(message)s", stream=sys.stdout)
R, N = rank.join()
import keras, numpy as np
import keras_ratchet as kr
from keras_ratchet import policy

rng = np.random.default_rng(R)
x = rng.normal(size=(32, 4)).astype("float32")
y = x.sum(1, keepdims=True)
VALUES = {0: [4.0, 2.0, 5.0, 6.0, 7.0, 8.0], 1: [2.0, 6.0, 1.0, 6.0, 7.0, 8.0]}  # means 3, 4, 3, 6

class Do(keras.callbacks.Callback):
    """Calls a function after batches and epochs."""
    def __init__(self, batch=None, epoch=None):
        super().__init__()
        self.seen, self._batch, self._epoch = 0, batch, epoch
    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self._batch: self._batch(self, self.seen, logs)
    def on_epoch_end(self, epoch, logs=None):
        if self._epoch: self._epoch(self, epoch, logs)

def adds(self, epoch, logs):
    logs["own"] = VALUES[R][epoch]
    if R == 0: logs["only"] = 7.0

def fit(*callbacks, epochs=6):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    history = model.fit(
        x, y, validation_data=(x, y), verbose=0, batch_size=8, epochs=epochs,
        callbacks=list(callbacks), shuffle=False)
    return model, history.history

def weights(model):
    return [float(np.abs(keras.ops.convert_to_numpy(v)).sum()) for v in model.weights]

def early_stopping():
    stop = kr.EarlyStopping("own", mode="min", patience=2, restore_best_weights=True)
    model, history = fit(Do(epoch=adds), stop)
    return history["own"], history["only"], stop.stopped_epoch, stop.best_epoch, weights(model)

def nan_on_one_rank():
    def nan(self, epoch, logs): logs["own"] = float("nan") if R == 1 and epoch == 1 else 1.0
    stop = kr.EarlyStopping("own", mode="min", patience=9, nan="stop")
    _, history = fit(Do(epoch=nan), stop)
    return [str(v) for v in history["own"]], stop.stop_reason.kind

def reduce_rate():
    plateau = kr.ReduceLROnPlateau("own", mode="min", patience=1, min_delta=0)
    _, history = fit(Do(epoch=adds), plateau)
    return [cut.epoch for cut in plateau.reductions], history["learning_rate"]

def checkpoint():
    where = sys.argv[1] + "/{epoch}.keras"
    best = dict(monitor="own", mode="min", save_best_only=True, keep_best=2)
    fit(Do(epoch=adds), kr.ModelCheckpoint(where, **best))
    return sorted(n for n in os.listdir(sys.argv[1]) if n.endswith(".keras"))

def clock():
    after = 1e-9 if R == 0 else 1e9  # rank 0's clock decides
    stop = kr.EarlyStopping(criterion=policy.AfterSeconds(after))
    return len(fit(stop)[1]["loss"])

def interval():
    saved = kr.ModelCheckpoint(
        sys.argv[1] + "/i{batch}.keras", every_s=1e-9 if R == 0 else 1e9, save_freq=10**6)
    fit(saved, epochs=2)
    return len([n for n in os.listdir(sys.argv[1]) if n.startswith("i")]) > 0

def stop_after_epoch():
    def stop(self, epoch, logs): self.model.stop_training = R == 1 and epoch == 1
    return len(fit(kr.EarlyStopping(patience=9), Do(epoch=stop))[1]["loss"])

def stop_in_mid_epoch():
    def stop(self, seen, logs):
        if R == 1 and seen == 2: self.model.stop_training = True
    return len(fit(kr.EarlyStopping(patience=9), Do(batch=stop))[1]["loss"])

class Stops(keras.callbacks.Callback):
    """Rank 1 stops in batch `stops`; all fail in batch `fails`."""
    def __init__(self, fails=None, stops=1):
        super().__init__()
        self.seen, self._fails, self._stops = [], fails, stops
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)
        if R == 1 and batch == self._stops: self.model.stop_training = True
        if batch == self._fails: raise ValueError("boom")

def many_batches(*callbacks):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    big = np.tile(x, (5, 1)), np.tile(y, (5, 1))
    return model.fit(*big, verbose=0, batch_size=N if JAX else 1, epochs=2, shuffle=False,
                     callbacks=list(callbacks))

JAX = keras.backend.backend() == "jax"  # where a batch is divided between the ranks

def stop_at_a_batch_that_does_not_depend_on_time():
    stops = Stops()
    many_batches(kr.EarlyStopping("loss", patience=9), stops)
    return stops.seen[-1]

def a_stop_that_waits_is_in_the_snapshot():
    backup, seen = sys.argv[1] + "/waits", []
    for fails in (9, 40, None):
        stops = Stops(fails, stops=35)
        try:
            many_batches(kr.BackupAndRestore(backup, save_freq=4), stops)
        except ValueError:
            pass
        seen.append(stops.seen)
    return seen

def metrics_of_a_batch():
    def adds(self, seen, logs): logs["own"] = VALUES[R][(seen - 1) % 6]
    saved = kr.ModelCheckpoint(sys.argv[1] + "/b{batch}.keras", "own", mode="min",
                               save_best_only=True, save_freq=1)
    fit(Do(batch=adds), saved, epochs=1)
    return sorted(n for n in os.listdir(sys.argv[1]) if n.startswith("b") and "keras" in n)

def a_logger_of_rank_0():
    loggers = [keras.callbacks.CSVLogger(sys.argv[1] + "/log.csv")] if R == 0 else []
    writes = [Do(epoch=lambda self, epoch, logs: logs.update(more=1.0))] if R == 0 else []
    found = []
    for callbacks in ([*loggers, *writes], [*writes, kr.EarlyStopping(patience=9), *writes]):
        ours = kr.TerminateOnNaN(), kr.ModelCheckpoint(sys.argv[1] + "/logger.keras")
        found.append(fit(*callbacks, *ours, *writes, epochs=2)[1])
    return [(len(history["loss"]), history["more"]) for history in found]

def logs_of_its_own():
    stop = kr.EarlyStopping("own", mode="min", patience=2)
    backup = kr.BackupAndRestore(sys.argv[1] + "/own", sync_logs=False)
    _, history = fit(backup, Do(epoch=adds), stop)
    return [stop.stopped_epoch, stop.best, history["own"], "only" in history]

def terminate_on_nan():
    class Bad(keras.callbacks.Callback):
        def on_batch_end(self, batch, logs=None):
            if R == 1 and batch == 2: logs["loss"] = float("nan")
    terminate = kr.TerminateOnNaN()
    model, history = fit(Bad(), terminate)
    return len(history["loss"]), str(terminate.stop_reason), weights(model)

def roll_back():
    def bad(self, seen, logs):
        if R == 1 and seen == 7: logs["loss"] = float("nan")
    rollback = kr.Rollback(every=2, confirm=1)
    model, _ = fit(Do(batch=bad), rollback, epochs=3)
    return [str(record) for record in rollback.rollbacks], weights(model)

def average():
    stop = kr.EarlyStopping("own", mode="min", patience=9, restore_best_weights=True,
        average="mean", average_k=2, validation_data=lambda model: 1.0 if R == 0 else 2.0)
    model, _ = fit(Do(epoch=adds), stop, epochs=4)
    return str(stop.average_record), weights(model)

def ctrl_c():
    def press(self, seen, logs):
        if R == 1 and seen == 6: os.kill(os.getpid(), signal.SIGINT)
    try:
        fit(kr.EarlyStopping(patience=9, restore_best_weights=True), Do(batch=press),
            kr.BackupAndRestore(sys.argv[1] + "/backup", delete_checkpoint=False),
            kr.ModelCheckpoint(sys.argv[1] + "/at_end.keras", save_freq=10**6, save_at_end=True))
    except KeyboardInterrupt as error:
        notes = getattr(error, "__notes__", [])
        return ["KeyboardInterrupt", notes, os.path.exists(sys.argv[1] + "/at_end.keras")]

def late_ctrl_c():
    class Press(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            if R == 1: os.kill(os.getpid(), signal.SIGINT)
    stop = kr.EarlyStopping(patience=9)
    try:
        fit(Press(), stop, epochs=2)
    except KeyboardInterrupt:
        return ["KeyboardInterrupt", stop.best_epoch + 1]

def nothing_bad_is_saved_while_a_stop_waits():
    def bad(self, seen, logs):
        if R == 1 and seen == 5: logs["loss"] = float("nan")
    terminate = kr.TerminateOnNaN()
    many_batches(kr.BackupAndRestore(sys.argv[1] + "/bad", save_freq=4, keep=9,
                                     delete_checkpoint=False), Do(batch=bad), terminate)
    saved = sorted(n for n in os.listdir(sys.argv[1] + "/bad") if n.startswith("epoch"))
    return [str(terminate.stop_reason), saved]

def fit_after_ctrl_c():
    return len(fit(kr.EarlyStopping(patience=9), epochs=2)[1]["loss"])

for scenario in (early_stopping, nan_on_one_rank, reduce_rate, checkpoint, clock, interval,
                 stop_after_epoch, stop_in_mid_epoch, stop_at_a_batch_that_does_not_depend_on_time,
                 a_stop_that_waits_is_in_the_snapshot, metrics_of_a_batch, a_logger_of_rank_0,
                 logs_of_its_own, terminate_on_nan, roll_back, average, ctrl_c,
                 late_ctrl_c, nothing_bad_is_saved_while_a_stop_waits,
                 fit_after_ctrl_c):
    print("START", scenario.__name__, flush=True)
    print("DONE", json.dumps([scenario.__name__, scenario()]), flush=True)
'''


@pytest.fixture(scope="module", params=["torch-fit", "jax"])
def both(request, tmp_path_factory):
    shared = str(tmp_path_factory.mktemp("shared"))
    ended = processes.run(request.param, SCENARIOS, [shared], limit_s=420)
    assert [rank.code for rank in ended] == [0, 0], processes.report(ended)
    return [
        dict(json.loads(t[5:]) for t in rank.output.splitlines() if t.startswith("DONE "))
        for rank in ended
    ], [rank.output for rank in ended]


def test_both_ranks_decide_alike(both):
    first, second = ({**found, "logs_of_its_own": None} for found in both[0])
    assert first == second


def test_they_decide_as_one_process_on_the_mean_of_the_logs(both):
    found = both[0][0]
    own, only, stopped, best, _ = found["early_stopping"]
    assert (own, only, stopped, best) == ([3.0, 4.0, 3.0], [7.0] * 3, 2, 0)
    assert found["nan_on_one_rank"] == [["1.0", "nan"], "nan"]
    assert found["reduce_rate"][0] == [1, 2, 3, 4, 5]
    assert found["checkpoint"] == ["1.keras"]


def test_rank_0_decides_where_clocks_differ(both):
    assert both[0][0]["clock"] == 1
    assert both[0][0]["interval"] is True


def test_a_stop_of_one_rank_is_one_of_all_and_is_told_once(both):
    found, outputs = both[0][0], both[1]
    assert found["stop_after_epoch"] == 2
    assert found["stop_in_mid_epoch"] == 1
    said = [output.count("SAID rank 1 has stopped training") for output in outputs]
    assert said[0] >= 2 and said[1] == 0


def test_a_stop_in_mid_epoch_waits_for_a_batch_that_a_run_that_resumes_reaches_too(both):
    found = both[0][0]
    assert found["stop_at_a_batch_that_does_not_depend_on_time"] == 31
    first, second, third = found["a_stop_that_waits_is_in_the_snapshot"]
    assert first == list(range(10))
    assert (second[0], second[-1]) == (8, 40)
    assert (third[0], third[-1]) == (40, 63)  # rank 1 had stopped in batch 35


def test_the_metrics_of_a_batch_are_means_where_a_checkpoint_goes_by_them(both):
    assert both[0][0]["metrics_of_a_batch"] == ["b1.keras"]  # 3 on average, then 4, 3 and 6


def test_a_logger_may_stand_on_rank_0_alone(both):
    assert both[0][0]["a_logger_of_rank_0"] == [[2, [1.0, 1.0]]] * 2


def test_logs_stay_each_ranks_own_where_that_is_asked_for_and_decisions_are_one(both):
    first, second = (found["logs_of_its_own"] for found in both[0])
    assert first == [2, 3.0, [4.0, 2.0, 5.0], True]
    assert second == [2, 3.0, [2.0, 6.0, 1.0], False]


def test_a_loss_that_is_nan_on_one_rank_ends_or_rolls_back_all(both):
    found = both[0][0]
    epochs, reason, _ = found["terminate_on_nan"]
    assert epochs == 1 and "loss is nan in epoch 1, batch 3 on rank 1" in reason
    records, _ = found["roll_back"]
    assert len(records) == 1 and "loss is nan" in records[0]


def test_nothing_is_saved_between_a_nan_of_one_rank_and_the_end_that_it_causes(both):
    reason, saved = both[0][0]["nothing_bad_is_saved_while_a_stop_waits"]
    assert "loss is nan in epoch 1, batch 5 on rank 1" in reason
    assert len(saved) == 2 and "batch-0000004" in saved[-1], saved


def test_ctrl_c_on_one_rank_ends_all_and_the_next_fit_runs(both):
    assert both[0][0]["ctrl_c"] == ["KeyboardInterrupt", [], True]
    assert both[0][0]["late_ctrl_c"] == ["KeyboardInterrupt", 2]
    assert both[0][0]["fit_after_ctrl_c"] == 2
