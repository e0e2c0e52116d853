"""Our classes in the place of Keras's: for isinstance, and for subclasses in Keras's manner."""

import keras
import pytest
from support.models import Curve, data, dense, fit
from support.runs import run, tiny

import keras_ratchet
from keras_ratchet import policy
from keras_ratchet.callbacks._drop_in import inherited, refused
from keras_ratchet.errors import ConfigError

NAMES = ["EarlyStopping", "ModelCheckpoint", "BackupAndRestore", "ReduceLROnPlateau"]
NAMES += ["TerminateOnNaN"]

# What Keras's classes have, of 3.12 to 3.16, and ours refuse. A name more in a newer Keras fails
# below: find out what it is for, and honour it, or add it here and its cure to `_drop_in.py`.
REFUSED = {
    "EarlyStopping": set(),
    "ModelCheckpoint": {
        "_should_save_model",
        "_checkpoint_exists",
        "_get_most_recently_modified_file_matching_pattern",
        "_get_file_path",  # can be called
        "_is_improvement",  # can be called
    },
    "BackupAndRestore": {"_load_model", "_save_model", "_should_save_on_batch"},
    "ReduceLROnPlateau": {"_reduce_optimizer_lr"},
    "TerminateOnNaN": set(),
}
# Hooks of Keras's classes that do nothing in ours.
EMPTY = {name: set() for name in NAMES} | {"BackupAndRestore": {"on_train_batch_end"}}


@pytest.mark.parametrize("name", NAMES)
def test_each_is_an_instance_of_keras_class_and_runs_none_of_its_code(name):
    ours, theirs = getattr(keras_ratchet, name), getattr(keras.callbacks, name)
    assert issubclass(ours, theirs)
    assert inherited(ours) == []
    known = refused(ours).keys()
    assert known - {"_reduce_optimizer_lr"} == REFUSED[name] - {"_reduce_optimizer_lr"}
    assert known <= REFUSED[name]
    base = vars(keras.callbacks.Callback)
    ends = {n for n, v in vars(ours).items() if base.get(n) is v and callable(v)}
    assert ends == EMPTY[name]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_newer_keras_adds_to_its_class_is_taken_out(name, monkeypatch):
    class Newer(getattr(keras.callbacks, name)):
        def on_test_end(self, logs=None):
            raise AssertionError("Keras's code has run")

        def _new_helper(self):
            raise AssertionError("Keras's code has run")

    Newer.__module__ = "keras.src.callbacks.newer"
    from keras_ratchet.callbacks._drop_in import stand_in
    from keras_ratchet.callbacks.base import RatchetCallback

    ours = type(name, (RatchetCallback, Newer), {"__module__": "keras_ratchet.callbacks.x"})
    assert {"on_test_end", "_new_helper"} <= set(inherited(ours))
    made = stand_in(ours).__new__(ours)
    assert inherited(ours) == [] and made.on_test_end() is None
    with pytest.raises(AttributeError, match=f"keras_ratchet.{name} has no _new_helper"):
        made._new_helper()


def test_a_client_that_drops_early_stopping_by_isinstance_drops_ours():
    """autokeras does so for its last fit, which has no validation data."""
    callbacks = [keras_ratchet.EarlyStopping(patience=2), keras_ratchet.TerminateOnNaN()]
    left = [c for c in callbacks if not isinstance(c, keras.callbacks.EarlyStopping)]
    assert fit(dense(jit_compile=False), left).epoch == [0] and len(left) == 1


def test_a_client_that_logs_early_stopping_finds_what_it_reads():
    """MLflow's autologging reads these, the last two after training."""
    stop = keras_ratchet.EarlyStopping(patience=1, min_delta=0.1, restore_best_weights=True)
    names = ("monitor", "min_delta", "patience", "baseline", "restore_best_weights")
    assert [getattr(stop, n) for n in names] == ["val_loss", 0.1, 1, None, True]
    run(stop, val_loss=[1.0, 0.5, 0.6, 0.7])
    assert (stop.stopped_epoch, stop.best_epoch) == (2, 1)


class Tolerant(keras_ratchet.EarlyStopping):
    """As p12 has it: a tenth better, or no improvement."""

    def _is_improvement(self, monitor_value, reference_value):
        return reference_value is None or monitor_value < 0.9 * reference_value


def test_an_override_of_is_improvement_decides_as_in_keras():
    curve = [1.0, 0.95, 0.8, 0.79, 0.78, 0.77]

    class Theirs(keras.callbacks.EarlyStopping):
        _is_improvement = Tolerant._is_improvement

    ours = Tolerant(patience=3, restore_best_weights=True)
    theirs = Theirs(patience=3, restore_best_weights=True)
    for callback in (ours, theirs):
        run(callback, val_loss=curve)
    assert ours.stopped_epoch == theirs.stopped_epoch == 5
    assert ours.best_epoch == theirs.best_epoch == 2
    assert ours.best == ours.best_value == 0.8


def test_such_an_override_may_extend_ours_and_is_asked_once_an_epoch():
    asked = []

    class Late(keras_ratchet.EarlyStopping):
        def _is_improvement(self, value, reference):
            asked.append(value)
            return value < 5.0 and super()._is_improvement(value, reference)

    ours = Late(patience=9, restore_best_weights=True)
    run(ours, val_loss=[6.0, 4.0, 3.0, 3.5])
    assert (ours.best_epoch, asked) == (2, [6.0, 4.0, 3.0, 3.5])


def test_it_decides_about_cuts_of_the_learning_rate_too():
    class Cut(keras_ratchet.ReduceLROnPlateau):
        _is_improvement = Tolerant._is_improvement

    ours = Cut(patience=2)
    run(ours, val_loss=[1.0, 0.95, 0.94, 0.5])
    assert [cut.epoch for cut in ours.reductions] == [2]


def test_beside_a_criterion_it_is_refused():
    with pytest.raises(ConfigError, match=r"Tolerant\._is_improvement would never be called"):
        Tolerant(criterion=policy.Patience(3))


def test_an_override_of_the_direction_is_heeded():
    class Largest(keras_ratchet.EarlyStopping):
        def _set_monitor_op(self):
            self.monitor_op = keras.ops.greater

    ours = Largest("score", patience=9, restore_best_weights=True)
    run(ours, score=[0.1, 0.5, 0.3])
    assert ours.best_epoch == 1


def test_both_can_be_called_from_outside():
    ours = keras_ratchet.MonitorCallback("score", "max", min_delta=0.5)
    ours._set_monitor_op()
    assert ours._is_improvement(0.75, 0) and not ours._is_improvement(0.5, 0.25)


def test_a_subclass_of_model_checkpoint_in_the_manner_of_wandb_works(tmp_path):
    """WandbModelCheckpoint overrides and calls these."""
    saved = []

    class Logs(keras_ratchet.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            super()._save_model(epoch, batch, logs)
            saved.append(self._get_file_path(epoch, batch, logs))

        def on_train_batch_end(self, batch, logs=None):
            if self._should_save_on_batch(batch):
                self._save_model(epoch=self._current_epoch, batch=batch, logs=logs)

    fit(tiny(), Logs(tmp_path / "e{epoch}.keras"), 2)
    fit(tiny(), Logs(tmp_path / "e{epoch}-b{batch}.keras", save_freq=3), 2)
    names = ["e1.keras", "e2.keras", "e1-b3.keras", "e2-b2.keras"]
    assert saved == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).exists() for name in names)


def test_a_subclass_may_decide_when_to_save_and_whether(tmp_path):
    class Picky(keras_ratchet.ModelCheckpoint):
        def _should_save_on_batch(self, batch):
            return batch == 1

        def _save_model(self, epoch, batch, logs):
            if batch is not None:
                super()._save_model(epoch, batch, logs)

    fit(tiny(), Picky(tmp_path / "{epoch}-{batch}.keras"), 2)
    names = sorted(path.name for path in tmp_path.glob("*.keras"))
    assert names == ["1-2.keras", "2-2.keras"]


@pytest.mark.parametrize("name", NAMES)
def test_what_would_never_be_called_is_refused_when_the_class_is_made(name):
    ours = getattr(keras_ratchet, name)
    for method, cure in refused(ours).items():

        class MixIn:
            pass

        setattr(MixIn, method, lambda self, *args: None)
        with pytest.raises(
            TypeError, match=f"MixIn.{method} would never be called.*{name}"
        ) as error:
            type("Mine", (MixIn, ours), {})
        assert cure in str(error.value) and cure.endswith(".")


def test_a_subclass_that_extends_hooks_is_as_good_as_ever(tmp_path):
    class Mine(keras_ratchet.EarlyStopping):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] += 1
            super().on_epoch_end(epoch, logs)

    ours = Mine(patience=1)
    fit(tiny(), [Curve(val_loss=[1.0, 2.0]), ours], 2, validation_data=data(8))
    assert ours.best == 2.0 and ours.stopped_epoch == 1
