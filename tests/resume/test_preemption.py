"""Preemption: signals really sent to this process, and deadlines; then the exact resume."""

import datetime
import gc
import os
import signal
import threading
import time
import warnings
import weakref

import hypothesis
import hypothesis.strategies as st
import keras
import pytest
from support import background_saves
from support.resuming import EPOCHS, PER_EPOCH, Script, arrays, model, scramble

import keras_ratchet
from keras_ratchet._storage import disk
from keras_ratchet.callbacks import _schedule, _session, _signals
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.deadline import Deadline

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


class At(keras.callbacks.Callback):
    """Does something at one moment of a training."""

    def __init__(self, place, epoch, action):
        super().__init__()
        self._place, self._epoch, self._action, self._now = place, epoch, action, -1

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def _at(self, place):
        if place == self._place and self._now == self._epoch:
            self._action()

    def on_epoch_begin(self, epoch, logs=None):
        self._now = epoch
        self._at("epoch begin")

    def on_train_batch_end(self, batch, logs=None):
        self._at(f"batch {batch}")

    def on_test_batch_end(self, batch, logs=None):
        self._at(f"validation {batch}")

    def on_epoch_end(self, epoch, logs=None):
        self._at("epoch end")

    def on_train_end(self, logs=None):
        self._at("train end")


def send(name):
    return lambda: os.kill(os.getpid(), signal.Signals[name])


def data():
    x, y = arrays()
    return {"x": x, "y": y, "batch_size": 4, "validation_data": (x[:12], y[:12])}


def callbacks():
    return [
        keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=1),
    ]


def script(tmp_path):
    fit = {"validation_batch_size": 4}
    return Script(str(tmp_path / "backup"), data, callbacks=callbacks, fit=fit)


def cut(one, place, epoch, action, **arguments):
    """Run a script that is preempted; return its BackupAndRestore and the outcome."""
    made = []

    class Noted(keras_ratchet.BackupAndRestore):
        def on_train_begin(self, logs=None):
            made.append(self)
            super().on_train_begin(logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_ratchet, "BackupAndRestore", Noted)
        arguments.setdefault("delete_checkpoint", True)
        outcome = one.run(At(place, epoch, action), **arguments)
    return made[0], outcome


def snapshots(one):
    return sorted(n for n in os.listdir(one.directory) if n.startswith("epoch-"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return what the run that nobody cut ends with."""
    return script(tmp_path_factory.mktemp("whole")).run(backup=False)


@pytest.fixture(autouse=True)
def handlers_are_given_back():
    signals = [signal.SIGTERM, signal.SIGUSR1]
    ctrl_c = signal.getsignal(signal.SIGINT)  # after an exception given back when next pressed
    before = [signal.getsignal(number) for number in signals]
    yield
    after = [signal.getsignal(number) for number in signals]
    for number, handler in zip(signals, before, strict=True):
        signal.signal(number, handler)
    signal.signal(signal.SIGINT, ctrl_c)
    assert after == before


@pytest.mark.parametrize(
    ("place", "epoch", "name", "position"),
    [
        ("batch 3", 1, "SIGTERM", "epoch-00001-batch-0000004"),
        (f"batch {PER_EPOCH - 1}", 1, "SIGUSR1", f"epoch-00001-batch-{PER_EPOCH:07d}"),
        ("validation 1", 1, "SIGUSR1", f"epoch-00001-batch-{PER_EPOCH:07d}"),
        ("epoch begin", 2, "SIGTERM", "epoch-00002-batch-0000001"),
        ("epoch end", 1, "SIGTERM", "epoch-00002-batch-0000000"),
        ("epoch end", EPOCHS - 1, "SIGINT", f"epoch-{EPOCHS:05d}-batch-0000000"),
    ],
)
def test_a_signal_ends_fit_at_the_next_batch_and_the_rerun_is_exact(  # noqa: PLR0917
    tmp_path, whole, place, epoch, name, position
):
    one = script(tmp_path)
    signals = ("SIGTERM", signal.SIGUSR1, "SIGINT")
    backup, first = cut(one, place, epoch, send(name), signals=signals)
    done = int(position[6:11])
    assert first.epochs == list(range(done)), "an epoch that was cut is not in History"
    assert len(first.history["val_loss"]) == done
    stopping = first.callbacks[0]
    assert stopping.wait + stopping.best_epoch + 1 == done, "EarlyStopping judged it"
    assert backup.stop_reason.kind == "signal"
    assert backup.stop_reason.epoch == (epoch if place != "epoch end" else done - 1)
    assert str(backup.stop_reason).startswith(f"{name}: saved with ")
    assert position in snapshots(one), "delete_checkpoint=True deleted it"
    resumed = one.run()
    assert resumed.differences(whole) == []
    assert resumed.callbacks[0].best_epoch == whole.callbacks[0].best_epoch


@pytest.mark.parametrize("on_epoch", [False, True])
@pytest.mark.parametrize("place", ["batch 3", "validation 1", "epoch end"])
def test_a_preemption_under_averaged_weights_is_exact(place, on_epoch, tmp_path):
    """In a validation the averages are in the model, and the weights in the optimizer."""

    def averaging():
        return model(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.8))

    one = script(tmp_path)
    one.make = averaging
    one.callbacks = lambda: [keras.callbacks.SwapEMAWeights(on_epoch)]
    whole = one.run(backup=False)
    cut(one, place, 1, send("SIGTERM"), signals=("SIGTERM",))
    assert one.run().differences(whole) == []


def test_two_preemptions_in_a_row_in_one_epoch_are_exact(tmp_path, whole):
    one = script(tmp_path)
    for batch in (2, 6):
        backup, _ = cut(one, f"batch {batch}", 1, send("SIGTERM"), signals=("SIGTERM",))
        assert backup.stop_reason.epoch == 1
    assert one.run().differences(whole) == []


def test_an_earlier_handler_hears_of_the_signal_and_gets_it_back(tmp_path):
    heard = []
    mine = lambda number, frame: heard.append(number)  # noqa: E731  compared by identity below
    before = signal.signal(signal.SIGTERM, mine)
    try:
        cut(script(tmp_path), "batch 1", 0, send("SIGTERM"), signals="SIGTERM")
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_second_signal_is_immediate(tmp_path):
    class Gone(BaseException):
        pass

    heard = []

    def mine(number, frame):
        heard.append(number)
        if len(heard) == 2:
            raise Gone

    before = signal.signal(signal.SIGTERM, mine)
    one = script(tmp_path)
    reached = []

    def twice():
        send("SIGTERM")()
        send("SIGTERM")()
        reached.append(True)

    try:
        with pytest.raises(Gone):
            cut(one, "batch 1", 1, twice, signals=("SIGTERM",))
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not reached
    background_saves.settle()
    assert snapshots(one) == ["epoch-00000-batch-0000000", "epoch-00001-batch-0000000"]


def test_a_signal_after_fit_was_left_by_an_exception_is_not_swallowed(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(ZeroDivisionError):
            cut(script(tmp_path), "batch 1", 0, lambda: 1 / 0, signals=("SIGTERM",))
        send("SIGTERM")()
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_training_after_one_that_failed_hears_its_signal_once(tmp_path, whole):
    one = script(tmp_path)
    heard = []
    mine = lambda number, frame: heard.append(number)  # noqa: E731  compared by identity below
    before = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(ZeroDivisionError):
            cut(one, "batch 1", 1, lambda: 1 / 0, signals=("SIGTERM",))
        cut(one, "batch 3", 1, send("SIGTERM"), signals=("SIGTERM",))
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert one.run().differences(whole) == []


def test_ctrl_c_in_mid_epoch_saves_no_partial_epoch_as_a_whole_one(tmp_path):
    x, y = arrays()
    one = Script(str(tmp_path / "backup"), lambda: {"x": x, "y": y, "batch_size": 4})
    whole = one.run(backup=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            one.run(At("batch 3", 1, send("SIGINT")))
    finally:
        signal.signal(signal.SIGINT, before)
    assert snapshots(one) == ["epoch-00000-batch-0000000", "epoch-00001-batch-0000000"]
    assert one.run().differences(whole) == []


class SlowDisk(disk.Disk):
    """A disk that takes its time."""

    def sync(self, fd):
        time.sleep(0.1)
        super().sync(fd)


def test_a_save_that_does_not_fit_into_the_grace_period_is_not_begun(tmp_path, whole, monkeypatch):
    one = script(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "current", SlowDisk())
        backup, first = cut(one, "batch 3", 2, send("SIGTERM"), signals=("SIGTERM",), grace_s=0.2)
    assert "so the last save stands" in str(backup.stop_reason)
    assert first.epochs == [0, 1]
    assert snapshots(one) == ["epoch-00001-batch-0000000", "epoch-00002-batch-0000000"]
    assert one.run().differences(whole) == []


def test_an_exit_code_leaves_the_process_with_it(tmp_path, whole):
    one = script(tmp_path)
    with pytest.raises(SystemExit) as left:
        cut(one, "batch 3", 1, send("SIGTERM"), signals=("SIGTERM",), exit_code=75)
    assert left.value.code == 75
    outcome = one.run(signals=("SIGTERM",), exit_code=75)  # nobody asks: no SystemExit
    assert outcome.differences(whole) == []


class Clock:
    """Stands for the module `time` where deadlines are looked at."""

    def __init__(self):
        self.ahead_s = 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead_s

    def time(self):
        return time.time()


def an_hour_ahead(kind):
    """Return a deadline in one hour, in each way of saying so."""
    now = datetime.datetime.now()
    later = now + datetime.timedelta(hours=1)
    return {
        "seconds": 3600,
        "time of day": later.time().isoformat(timespec="seconds"),
        "datetime": later,
        "aware datetime": later.astimezone(datetime.UTC),
        "slurm": "slurm",
    }[kind]


def test_a_deadline_ends_training_when_another_step_might_not_fit(tmp_path, whole, monkeypatch):
    one, clock = script(tmp_path), Clock()
    for module in (_signals, _schedule, _session):
        monkeypatch.setattr(module, "time", clock)

    def last():
        clock.ahead_s = 3600 - 590  # ten minutes are left after a step of fifty

    backup, first = cut(one, "batch 3", 1, last, deadline=3600)
    assert backup.stop_reason.kind == "deadline"
    assert str(backup.stop_reason).startswith("the deadline: saved with 5")
    assert first.epochs == [0]
    assert one.run().differences(whole) == []


@pytest.mark.parametrize("kind", ["seconds", "time of day", "datetime", "aware datetime", "slurm"])
def test_a_deadline_is_given_in_any_of_five_ways(monkeypatch, kind):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3600))
    armed = _signals.Signals((), 30, an_hour_ahead(kind))
    assert armed.are_watched
    armed.start(None)
    assert armed.due(0.1, 0.1) is None
    clock = Clock()
    monkeypatch.setattr(_signals, "time", clock)
    clock.ahead_s = 3600 - 100
    assert armed.due(0.1, 0.1) is None
    assert armed.due(0.1, 1000).cause == "the deadline"
    clock.ahead_s = 3601
    assert armed.due(0.1, 0.1).check(clock.monotonic(), 0.1).kind == "too late"


def test_slurm_without_its_variable_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    with pytest.warns(UserWarning, match="SLURM_JOB_END_TIME is not set") as caught:
        script(tmp_path).run(deadline="slurm")
    assert sum("SLURM" in str(w.message) for w in caught) == 1


def test_outside_the_main_thread_signals_are_refused_with_a_warning_and_deadlines_work(tmp_path):
    one, found = script(tmp_path), []

    def work():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            backup, outcome = cut(one, "", 0, None, signals=("SIGTERM",), deadline=1e-6)
            found.extend([backup, outcome, [str(w.message) for w in caught]])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(120)
    backup, outcome, texts = found
    assert sum("outside the main thread" in text for text in texts) == 1
    assert backup.stop_reason.kind == "deadline"
    assert outcome.epochs == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"signals": ("SIGNONE",)},
        {"signals": ("SIGKILL",)},
        {"signals": (9999,)},
        {"signals": "TERM"},
        {"grace_s": 0},
        {"grace_s": float("nan")},
        {"grace_s": "long"},
        {"deadline": 0},
        {"deadline": -1.0},
        {"deadline": True},
        {"deadline": "25:00"},
        {"deadline": "soon"},
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_at_once(tmp_path, arguments):
    with pytest.raises(ConfigError):
        keras_ratchet.BackupAndRestore(tmp_path, **arguments)


def test_a_broken_slurm_variable_is_a_config_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "tomorrow")
    with pytest.raises(ConfigError, match="SLURM_JOB_END_TIME"):
        script(tmp_path).run(deadline="slurm")
    scramble()


SECONDS = st.floats(0, 1e6)


@hypothesis.given(at=SECONDS, now=SECONDS, save=SECONDS)
def test_a_save_is_begun_only_if_it_fits(at, now, save):
    verdict = Deadline(at, "SIGTERM", "signal").check(now, save)
    assert bool(verdict) == (1.25 * save <= max(0.0, at - now))
    assert verdict.reason.startswith("SIGTERM: ")
    assert not Deadline(at, "SIGTERM", "signal").check(max(now, at) + 1, save + 1)


@hypothesis.given(at=SECONDS, now=SECONDS, save=SECONDS, step=SECONDS, more=SECONDS)
def test_a_deadline_that_is_near_stays_near(at, now, save, step, more):
    one = Deadline(at, "the deadline", "deadline")
    if one.is_near(now, save, step):
        assert one.is_near(now + more, save, step)
        assert one.is_near(now, save + more, step)
        assert one.is_near(now, save, step + more)


@hypothesis.given(at=SECONDS, now=SECONDS, save=SECONDS, step=SECONDS)
def test_one_step_before_a_near_deadline_a_save_still_fits(at, now, save, step):
    one = Deadline(at, "the deadline", "deadline")
    if not one.is_near(now, save, step):
        assert one.check(now + step, save)


def test_after_a_signal_ours_ends_when_all_others_have_ended(tmp_path):
    ends = []

    class Watching(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            ends.append(f"other, locked: {backup._store.locked}")

    class Ours(keras_ratchet.BackupAndRestore):
        def on_train_end(self, logs=None):
            ends.append("ours")
            super().on_train_end(logs)

    backup, at = Ours(tmp_path, signals=("SIGTERM",)), At("batch 3", 1, send("SIGTERM"))
    x, y = arrays()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Resume will not be exact", UserWarning)  # tensorflow
        model().fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[backup, Watching(), at])
    assert ends == ["other, locked: True", "ours"]


def test_signals_keep_nothing_of_fit_alive():
    class Data:
        pass

    def loop():
        data = Data()
        signals = _signals.Signals(("SIGTERM",), 30.0, None)
        signals.start(None)
        signals.stop()
        return weakref.ref(data)

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        assert loop()() is None
    finally:
        if was_enabled:
            gc.enable()
