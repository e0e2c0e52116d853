"""What other callbacks remember over a restart."""

import datetime
import itertools
import json
import logging
import pathlib
import random
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from support.resuming import PER_EPOCH, Kill, Killed, Script, arrays, model
from support.runs import warnings_like
from support.sources import numpy_arrays

import keras_ratchet
from keras_ratchet._engine.resume.callback_states import CallbackStates
from keras_ratchet._engine.resume.closures import Closures
from keras_ratchet._engine.resume.state_codec import decode, encode

C = keras.callbacks


class Plain(C.Callback):
    """A user's callback with plain attributes."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain  # the script's to decide
        self.losses, self.seen, self.table = [], set(), {("a", 1): np.zeros(2)}
        self.best, self.flag, self.rng = float("inf"), False, np.random.default_rng(1)

    def on_epoch_begin(self, epoch, logs=None):
        self.flag = True

    def on_train_batch_end(self, batch, logs=None):
        self.flag = False
        self.losses.append(logs["loss"])
        self.table[("a", 1)] += self.gain * self.rng.random()
        self.seen.add(batch)

    def on_epoch_end(self, epoch, logs=None):
        self.best = min(self.best, logs["loss"])

    def memory(self):
        return repr(
            (self.losses, sorted(self.seen), self.table, self.best, self.flag, self.rng.random())
        )


class WithState(Plain):
    """The same, by state_dict and load_state_dict."""

    def __init__(self):
        super().__init__()
        self.hidden = object()

    def state_dict(self):
        names = ("losses", "seen", "table", "best", "flag", "rng")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state):
        vars(self).update(state)


class Forgetful(C.Callback):
    """Has two things that change and cannot be kept, and some that do not, or are no state."""

    def __init__(self):
        super().__init__()
        self.handle, self.numbers, self.tally, self.still = object(), [1, 2], Tally(), Tally()
        self.function, self.kind, self.friend, self.opened = len, int, Plain(), object()

    def on_epoch_end(self, epoch, logs=None):
        self.handle, self.function, self.friend = object(), max, Plain()
        self.tally.count += 1


class Tally:
    """An object of the user's own."""

    def __init__(self):
        self.count = 0


def attributes(callback, names):
    return repr([getattr(callback, name) for name in names])


def killed_and_not(tmp_path, make, kill=17, saves=None, **arguments):
    """Return the callbacks of the uninterrupted run and of the resumed one, which are equal."""
    found = []
    for name, kills in (("whole", ()), ("cut", (Kill(kill), Kill(kill + 2)))):
        (tmp_path / name).mkdir()
        script = Script(
            str(tmp_path / name / "backup"),
            numpy_arrays,
            callbacks=lambda name=name: make(tmp_path / name),
            **arguments,
        )
        found.append(script.chain(*kills, **(saves or {"save_freq": 3})))
    assert found[1].differences(found[0]) == []
    return found[0].callbacks, found[1].callbacks


@pytest.mark.parametrize("saves", [{"save_freq": 3}, {"save_freq": "epoch"}], ids=["mid", "epoch"])
def test_stopping_and_plateaus_decide_as_without_a_kill(saves, tmp_path):
    def make(_):
        return [
            C.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.05, cooldown=1),
            C.EarlyStopping("loss", patience=3, min_delta=0.05, restore_best_weights=True),
            C.LearningRateScheduler(lambda epoch, lr: lr * 0.9),
            C.TerminateOnNaN(),
        ]

    whole, cut = killed_and_not(tmp_path, make, saves=saves, fit={"epochs": 6})
    for name in ("wait", "best", "cooldown_counter"):
        assert getattr(whole[0], name) == getattr(cut[0], name)
    for name in ("wait", "best", "best_epoch", "stopped_epoch"):
        assert getattr(whole[1], name) == getattr(cut[1], name)


@pytest.mark.filterwarnings("ignore:This state of callbacks is lost")  # what they have seen
def test_a_logger_can_ask_where_the_run_goes_on(tmp_path):
    """As one that drops rows whose step is not above the largest that it has seen."""

    def run(*kill):
        backup, found = keras_ratchet.BackupAndRestore(tmp_path / "b", save_freq=4), []
        asks = C.LambdaCallback(on_epoch_begin=lambda *_: found.append(backup.resumed_from))
        try:
            model().fit(**numpy_arrays(), epochs=2, verbose=0, callbacks=[asks, backup, *kill])
        except Killed:
            backup._store.end()
        return found

    assert run(Kill(17)) == [None, None]
    (found,) = run()
    assert (found.epoch, found.batch) == (1, 6)
    assert run() == [None, None]  # that training is over


def test_our_own_stop_and_save_as_without_a_kill(tmp_path):
    def make(folder):
        return [
            keras_ratchet.EarlyStopping("loss", patience=1, min_delta=0.05),
            keras_ratchet.ModelCheckpoint(
                str(folder / "m-{epoch}.weights.h5"),
                "loss",
                save_best_only=True,
                save_weights_only=True,
            ),
        ]

    whole, cut = killed_and_not(tmp_path, make, fit={"epochs": 5})
    assert attributes(whole[0], ("wait", "best", "best_epoch", "stopped_epoch")) == attributes(
        cut[0], ("wait", "best", "best_epoch", "stopped_epoch")
    )
    names = [sorted(p.name for p in (tmp_path / n).glob("m-*")) for n in ("whole", "cut")]
    assert names[0] and names[0] == names[1]


def test_a_number_of_batches_between_saves_is_counted_on_from_the_middle_of_an_epoch(tmp_path):
    def make(folder):
        path = str(folder / "{epoch}-{batch}.weights.h5")
        return [keras_ratchet.ModelCheckpoint(path, save_weights_only=True, save_freq=7)]

    killed_and_not(tmp_path, make)
    names = [sorted(p.name for p in (tmp_path / n).glob("*.h5")) for n in ("whole", "cut")]
    assert names[0] == names[1] == [f"{n}.weights.h5" for n in ("1-7", "2-4", "3-1", "3-8")]


def test_keras_checkpoints_save_at_the_same_moments(tmp_path):
    def make(folder):
        path = str(folder / "{epoch}-{batch}.weights.h5")
        best = str(folder / "best.weights.h5")
        return [
            C.ModelCheckpoint(path, save_freq=7, save_weights_only=True),
            C.ModelCheckpoint(best, "loss", save_best_only=True, save_weights_only=True),
        ]

    whole, cut = killed_and_not(tmp_path, make)
    names = [sorted(p.name for p in (tmp_path / n).glob("*.h5")) for n in ("whole", "cut")]
    assert len(names[0]) > 3 and names[0] == names[1]
    assert whole[1].best == cut[1].best


@pytest.mark.parametrize("append", [False, True])
def test_a_csv_log_has_each_row_once(append, tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / f"{name}.csv").write_text("epoch,accuracy,loss\n7,0.5,0.5\n")
    killed_and_not(tmp_path, lambda f: [C.CSVLogger(f"{f}.csv", append=append)])
    whole, cut = ((tmp_path / f"{n}.csv").read_text() for n in ("whole", "cut"))
    assert whole == cut
    assert whole.count("epoch") == 1 and whole.count("\n") == (5 if append else 4)


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("kill", [7, 14])
def test_a_csv_log_has_the_same_bytes_when_validation_is_not_run_in_every_epoch(
    append, kill, tmp_path
):
    """Its columns are fixed by the first epoch, which has no validation."""
    data = {"validation_data": arrays(8), "validation_freq": 2}
    killed_and_not(tmp_path, lambda f: [C.CSVLogger(f"{f}.csv", append=append)], kill, fit=data)
    whole, cut = ((tmp_path / f"{n}.csv").read_bytes() for n in ("whole", "cut"))
    assert whole == cut and b"val_loss" in whole and whole.count(b"NA") == 4


class Board(C.TensorBoard):
    """TensorBoard without its writers."""

    def __init__(self):
        super().__init__(update_freq=2)
        self.steps = []

    def set_model(self, model):
        self._model = model

    def on_train_begin(self, logs=None):
        self._global_train_batch = self._previous_epoch_iterations = 0

    def on_epoch_begin(self, epoch, logs=None):
        pass

    def on_train_batch_begin(self, batch, logs=None):
        self._global_train_batch += 1

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self._global_train_batch)

    def on_test_begin(self, logs=None):
        pass

    on_epoch_end = on_train_end = on_epoch_begin


def test_tensorboard_goes_on_counting(tmp_path):
    whole, cut = killed_and_not(tmp_path, lambda _: [Board()])
    assert whole[0].steps == cut[0].steps == list(range(1, 3 * PER_EPOCH + 1))


def test_a_lambda_and_a_history_of_ones_own_are_kept(tmp_path):
    def make(_):
        return [C.LambdaCallback(on_epoch_end=lambda epoch, logs: None), C.History()]

    whole, cut = killed_and_not(tmp_path, make)
    assert whole[1].history == cut[1].history and cut[1].epoch == [0, 1, 2]


def test_a_run_that_ended_in_nan_is_gone_on_with_from_before_it(tmp_path):
    class Spoil(C.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 5:
                weights = self.model.layers[-1].kernel  # on tensorflow relu hides NaN
                weights.assign(weights * float("nan"))

    script = Script(
        str(tmp_path / "b"),
        numpy_arrays,
        make=lambda: model(loss="mse"),
        callbacks=lambda: [Spoil(), C.TerminateOnNaN()],
    )
    first, again = script.run(), script.run()
    assert first.epochs == again.epochs == [0]


@pytest.mark.parametrize("kind", [Plain, WithState])
@pytest.mark.parametrize("saves", [{"save_freq": 3}, {"save_freq": "epoch"}], ids=["mid", "epoch"])
def test_callbacks_of_ones_own_remember(kind, saves, tmp_path):
    whole, cut = killed_and_not(tmp_path, lambda _: [kind()], saves=saves)
    assert whole[0].memory() == cut[0].memory()


def test_what_the_constructor_set_is_the_scripts_to_decide(tmp_path):
    script = Script(str(tmp_path / "b"), numpy_arrays, callbacks=lambda: [Plain(gain=1.0)])
    script.run(Kill(17))
    script.callbacks = lambda: [Plain(gain=5.0)]
    assert script.run().callbacks[0].gain == 5.0


def test_what_cannot_be_kept_is_named_in_one_warning(tmp_path):
    script = Script(str(tmp_path / "b"), numpy_arrays, callbacks=lambda: [Forgetful(), Forgetful()])
    with pytest.warns(UserWarning, match="is lost") as caught:
        script.run()
    said = [str(w.message) for w in caught if "is lost" in str(w.message)]
    assert len(said) == 1
    assert "training is interrupted: Forgetful.handle; Forgetful.tally. Give" in said[0]


def test_state_that_only_a_function_has_is_named(tmp_path):
    def counting():
        count, untouched = 0, [1, 2]

        def step(batch, logs=None):
            nonlocal count
            count += len(untouched)

        return [C.LambdaCallback(on_train_batch_end=step)]

    script = Script(str(tmp_path / "b"), numpy_arrays, callbacks=counting)
    with pytest.warns(UserWarning, match="is lost") as caught:
        script.run()
    (said,) = [str(w.message) for w in caught if "is lost" in str(w.message)]
    assert "interrupted: count, in the closure of step (test_callbacks.py:" in said
    assert "untouched" not in said


def test_a_callback_that_says_itself_what_its_state_is_is_believed(tmp_path):
    def counting():
        seen = []

        class Counts(C.Callback):
            def on_train_batch_end(self, batch, logs=None):
                seen.append(batch)

            def state_dict(self):
                return {"seen": seen}

            def load_state_dict(self, state):
                seen[:] = state["seen"]

        return [Counts()]

    script = Script(str(tmp_path / "b"), numpy_arrays, callbacks=counting)
    with warnings_like("is lost") as count:
        script.run()
    assert count() == 0


def test_functions_of_one_factory_are_not_taken_for_one_another():
    def printing(name):
        return C.LambdaCallback(on_train_batch_end=lambda batch, logs: print(name))

    assert not Closures([printing("a"), printing("b")]).changed()


def test_what_a_function_sees_is_looked_at_and_not_printed():
    class Silent(list):
        def __repr__(self):
            raise AssertionError("this is long")

    text, data = "x" * 100_000, [Silent(range(1000))]
    few = Silent([1])
    callback = C.LambdaCallback(on_train_batch_end=lambda batch, logs: print(text, data, few))
    closures = Closures([callback])
    data.append(0)
    assert len(closures.changed()) == 1


class Slotted:
    """An object without a `__dict__`."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = 0


class Drawing(C.Callback):
    """Draws from iterators, and changes what is in slots."""

    def __init__(self):
        super().__init__()
        self.count, self.left = itertools.count(), iter(list(range(9)))
        self.squares = (i * i for i in range(99))
        self.memo, self.inner, self.still = Slotted(), [Slotted()], [itertools.count(), Slotted()]

    def on_epoch_begin(self, epoch, logs=None):
        next(self.count), next(self.left), next(self.squares)
        self.memo.value += 1
        self.inner[0].value += 1


def test_iterators_and_slots_that_change_are_named(tmp_path):
    script = Script(str(tmp_path / "b"), numpy_arrays, callbacks=lambda: [Drawing()])
    names = "; ".join(f"Drawing.{n}" for n in ("count", "left", "squares", "memo", "inner"))
    with pytest.warns(UserWarning, match=f"interrupted: {names}. Give"):
        script.run(save_freq="epoch")


class Notes(C.Callback):
    """Has moments, paths and tensors, as callbacks of many projects have."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = datetime.datetime.now(datetime.UTC)
        self.day, self.folder = self.start.date(), pathlib.Path("epochs") / str(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.took = datetime.timedelta(seconds=epoch, microseconds=3)
        self.prediction = self.model(np.ones((2, 4), "f4"))
        self.seen = [keras.ops.convert_to_tensor([float(epoch)]), 3]


def test_moments_paths_and_tensors_are_kept_without_an_alarm(tmp_path):
    whole, again = killed_and_not(tmp_path, lambda _: [Notes()])
    names = ["day", "folder", "took", "prediction", "seen"]
    assert attributes(whole[0], names) == attributes(again[0], names)


def test_moments_paths_and_tensors_are_the_same_when_put_back():
    notes = Notes()
    states = CallbackStates([notes])
    notes.start = datetime.datetime.now(datetime.UTC)
    notes.naive, notes.took = datetime.datetime(2026, 11, 1, 3), datetime.timedelta(-1, 5, 7)
    notes.day, notes.folder = datetime.date(2026, 1, 2), pathlib.Path("a") / "b"
    notes.tensors = {"a": [keras.ops.convert_to_tensor([1.5, 2.5])]}
    arrays = {}
    data = json.loads(json.dumps(encode(states.capture(), arrays, "")))
    other = Notes()
    CallbackStates([other]).load(decode(data, arrays))
    assert keras.ops.is_tensor(other.tensors["a"][0])
    assert np.array_equal(keras.ops.convert_to_numpy(other.tensors["a"][0]), [1.5, 2.5])
    for name in ("start", "naive", "took", "day", "folder"):
        assert getattr(other, name) == getattr(notes, name)


def test_what_only_the_constructor_or_the_begin_of_training_set_is_no_alarm(tmp_path):
    class Logger(C.EarlyStopping):
        """As those of keras-tuner, dvclive and mlflow."""

        def __init__(self):
            super().__init__("loss")
            self.tuner, self.client = object(), logging.getLogger("mlflow")

        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.live = logging.LoggerAdapter(self.client)

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            self.client.setLevel(10 + epoch)  # a library keeps state of its own
            self.live.extra = {"step": epoch}

    Script(str(tmp_path / "b"), numpy_arrays, callbacks=lambda: [Logger()]).run(save_freq=3)


ORDERS = list(itertools.permutations(["stop", "plateau", "plain", "backup"]))


@pytest.mark.parametrize("order", random.Random(0).sample(ORDERS, 4), ids="-".join)
def test_the_order_of_the_list_does_not_matter(order, tmp_path):
    def run(directory, kill=None):
        makers = {
            "stop": lambda: C.EarlyStopping("loss", patience=3, min_delta=0.05),
            "plateau": lambda: C.ReduceLROnPlateau("loss", patience=1, min_delta=0.05),
            "plain": Plain,
            "backup": lambda: keras_ratchet.BackupAndRestore(
                directory, save_freq=3, delete_checkpoint=False
            ),
        }
        callbacks = {name: makers[name]() for name in order}
        script = Script(directory, numpy_arrays, callbacks=callbacks.values)
        outcome = script.run(kill, backup=False)
        if outcome is None:
            callbacks["backup"]._store.end()
            return None
        return outcome, callbacks["plain"].memory()

    whole, memory = run(str(tmp_path / "whole"))
    assert run(str(tmp_path / "cut"), Kill(17)) is None
    cut, again = run(str(tmp_path / "cut"))
    assert cut.differences(whole) == [] and memory == again


def test_two_that_are_alike_in_all_are_told_apart_by_their_order():
    def pair():
        return [Plain(), Plain()]

    a, b = pair()
    states = CallbackStates([a, b])
    a.best, b.best = 1.0, 2.0
    saved = states.capture()
    c, d = pair()
    assert CallbackStates([c, d]).load(saved) == []
    assert (c.best, d.best) == (1.0, 2.0)


class Best(keras.callbacks.Callback):
    """Goes by a metric, into a file."""

    def __init__(self, monitor="loss", path="a.keras"):
        super().__init__()
        self.monitor, self.path, self.best = monitor, path, 0.0


def gone_on(before, after):
    """Return the values of callbacks that go on from others, which had 1, 2, ..."""
    states = CallbackStates(before)
    for number, callback in enumerate(before, 1):
        callback.best = float(number)
    CallbackStates(after).load(states.capture(), states.identities)
    return [callback.best for callback in after]


def test_two_of_one_class_in_another_order_keep_what_is_theirs():
    a, b = {"monitor": "val_a"}, {"monitor": "val_b"}
    assert gone_on([Best(**a), Best(**b)], [Best(**b), Best(**a)]) == [2.0, 1.0]
    c, d = {"path": "c.keras"}, {"path": "d.keras"}
    assert gone_on([Best(**c), Best(**d)], [Best(**d), Best(**c)]) == [2.0, 1.0]


def test_one_of_two_that_is_removed_leaves_the_other_as_it_was():
    a, b = {"monitor": "val_a"}, {"monitor": "val_b"}
    assert gone_on([Best(**a), Best(**b)], [Best(**b)]) == [2.0]
    assert gone_on([Best(**a)], [Best(**b), Best(**a)]) == [0.0, 1.0]


def test_a_directory_with_the_time_in_it_changes_nothing():
    before = [Best(path="run-1/best.keras"), Best(path="run-1/last.keras")]
    assert gone_on(before, [Best(path="run-2/last.keras"), Best(path="run-2/best.keras")]) == [2, 1]
    assert gone_on([Best(path="run-1/a.keras")], [Best(path="run-2/b.keras")]) == [1.0]


def test_callbacks_that_cannot_be_told_apart_go_on_by_their_order_with_a_warning():
    before = [Best(path="a"), Best(path="b")]
    with pytest.warns(UserWarning, match=r"Best\('loss'\)\. They are matched by their order"):
        assert gone_on(before, [Best(path="c"), Best(path="d")]) == [1.0, 2.0]


def test_a_callback_that_goes_by_another_metric_begins_without_memory_and_says_so():
    with pytest.warns(UserWarning, match=r"start without saved state: Best\('val_b'\)"):
        assert gone_on([Best("val_a")], [Best("val_b")]) == [0.0]


def test_two_early_stoppings_in_another_order_do_not_swap_their_bests(tmp_path):
    def run(names, kill=None):
        stops = {
            "loss": keras_ratchet.EarlyStopping("loss", mode="min", patience=9),
            "accuracy": keras_ratchet.EarlyStopping("accuracy", mode="max", patience=9),
        }
        script = Script(str(tmp_path), numpy_arrays, callbacks=lambda: [stops[n] for n in names])
        return script.run(kill), stops

    run(["loss", "accuracy"], Kill(epoch=1))
    outcome, stops = run(["accuracy", "loss"])
    for name, best in (("loss", min), ("accuracy", max)):
        assert stops[name].best_value == best(outcome.history[name])


def test_the_state_of_a_callback_that_is_gone_is_reported():
    a = Plain()
    states = CallbackStates([a])
    a.best = 0.5
    assert len(CallbackStates([]).load(states.capture())) == 1


def test_a_captured_state_does_not_change_any_more():
    a = Plain()
    states = CallbackStates([a])
    a.losses.append(1.0), a.seen.add(1), a.rng.random()
    saved = states.capture()
    before = repr(saved), next(iter(saved.values()))["rng"].bit_generator.state
    a.losses.append(2.0), a.seen.add(2), a.table[("a", 1)].__iadd__(1), a.rng.random()
    assert before == (repr(saved), next(iter(saved.values()))["rng"].bit_generator.state)


@pytest.mark.parametrize("kind", [Plain, WithState])
def test_a_state_that_was_put_back_does_not_change_any_more(kind):
    """It is put back twice where an epoch is gone on with, and saved again in that epoch."""
    callback = kind()
    states = CallbackStates([callback])
    callback.on_train_batch_end(0, {"loss": 1.0})
    (state,) = (taken := states.capture()).values()
    names = ("losses", "seen", "table")
    before = repr([state[name] for name in names])
    states.load(taken)
    callback.on_train_batch_end(1, {"loss": 2.0})
    assert repr([state[name] for name in names]) == before
    assert repr([getattr(callback, name) for name in names]) != before


def test_a_large_array_is_neither_copied_nor_kept_while_it_does_not_change():
    class Holder(C.Callback):
        def __init__(self):
            super().__init__()
            self.data = np.zeros(1 << 20)

    holder = Holder()
    states = CallbackStates([holder])
    assert next(iter(states.capture().values())) == {}
    holder.data[3] = 1
    assert "data" in next(iter(states.capture().values()))


def test_a_memory_mapped_array_is_data_not_state(tmp_path):
    class Holder(C.Callback):
        def __init__(self):
            super().__init__()
            self.data = np.memmap(tmp_path / "m", "f4", "w+", shape=(4,))

    holder = Holder()
    states = CallbackStates([holder])
    holder.data[:] = 1
    assert next(iter(states.capture().values())) == {} and states.lost() == []


def test_history_holds_all_epochs_and_the_next_fit_begins_at_0(tmp_path):
    backup = keras_ratchet.BackupAndRestore
    script = Script(str(tmp_path / "b"), numpy_arrays)
    script.run(Kill(17))
    keras.utils.set_random_seed(5)
    net, data = model(), numpy_arrays()
    history = net.fit(**data, epochs=3, verbose=0, callbacks=[backup(script.directory)])
    assert history.epoch == [0, 1, 2] and len(history.history["loss"]) == 3
    assert net._initial_epoch is None
    assert net.fit(**data, epochs=2, verbose=0).epoch == [0, 1]


class Fails(C.Callback):
    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.fail)

    def fail(self, *_, **__):
        raise Killed

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


HOOKS = ["on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end", "on_train_end"]


@pytest.mark.parametrize("hook", HOOKS)
def test_the_next_fit_begins_at_0_after_an_exception_too(hook, tmp_path):
    script = Script(str(tmp_path / "b"), numpy_arrays)
    script.run(Kill(17))
    net, data = model(), numpy_arrays()
    backup = keras_ratchet.BackupAndRestore(script.directory)
    with pytest.raises(Killed):
        net.fit(**data, epochs=3, verbose=0, callbacks=[Fails(hook), backup])
    backup._store.end()
    assert net.fit(**data, epochs=2, verbose=0).epoch == [0, 1]


def test_killed_in_validation_after_the_last_batch_was_saved(tmp_path):
    class InValidation(Kill):
        def on_test_batch_end(self, batch, logs=None):
            if self.epoch == 1:
                raise Killed

    script = Script(str(tmp_path / "b"), numpy_arrays, fit={"validation_data": arrays()})
    whole = script.uninterrupted(save_freq=5)
    assert script.chain(InValidation(), save_freq=5).differences(whole) == []


def test_nothing_is_warned_about_with_keras_own_and_our_callbacks(tmp_path):
    callbacks = [C.EarlyStopping("loss"), C.ReduceLROnPlateau("loss"), C.TerminateOnNaN()]
    callbacks += [keras_ratchet.EarlyStopping("loss"), C.CSVLogger(str(tmp_path / "c.csv"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Script(str(tmp_path / "b"), numpy_arrays, callbacks=lambda: callbacks).run()
    assert Path(tmp_path / "c.csv").exists()
