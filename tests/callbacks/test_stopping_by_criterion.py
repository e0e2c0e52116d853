"""EarlyStopping(criterion=...): when it stops, what it says, and what it restores."""

import copy
import json
import math
import pickle

import keras
import numpy as np
import pytest
from support.models import Curve, data, dense, fit, stamp_of
from support.runs import run, tiny, warnings_like, warns_once

from keras_ratchet import EarlyStopping, ModelCheckpoint
from keras_ratchet.callbacks import _logs
from keras_ratchet.errors import (
    ConfigError,
    MetricError,
    MissingMetricError,
    NonFiniteError,
    UnknownDirectionError,
)
from keras_ratchet.policy import (
    AfterEpochs,
    AfterSeconds,
    AfterSteps,
    Criterion,
    Diverges,
    NotFinite,
    Patience,
    Reaches,
    Smoothed,
    Verdict,
)


def stopper(criterion, **options):
    return EarlyStopping(criterion=criterion, **options)


def epochs(criterion, **curves):
    """Return the stopper, and the number of epochs that were run."""
    ours = stopper(criterion)
    return ours, len(run(ours, **curves).history.epoch)


CURVE = [1.0, 0.5, 0.7, 0.8, 0.9, 0.4]
RISE = [0.1, 0.3, 0.5, 0.6, 0.7, 0.8]


@pytest.mark.parametrize("patience", [0, 1, 2, 3, 9])
def test_patience_alone_stops_where_the_argument_stops(patience):
    plain = EarlyStopping(patience=patience)
    before = len(run(plain, val_loss=CURVE).history.epoch)
    ours, after = epochs(Patience(patience), val_loss=CURVE)
    assert after == before
    assert (ours.stopped_epoch, str(ours.stop_reason)) == (
        plain.stopped_epoch,
        str(plain.stop_reason),
    )


def test_the_sentence_is_that_of_the_criterion_that_said_yes():
    rule = Patience(10) | Reaches("val_acc", 0.6, mode="max") | AfterEpochs(50)
    ours, count = epochs(rule, val_loss=CURVE, val_acc=RISE)
    assert count == 4
    assert str(ours.stop_reason) == "val_acc has reached 0.6 (now: 0.6)"
    assert (ours.stop_reason.kind, ours.stop_reason.epoch) == ("goal", 3)
    assert dict(ours.stop_reason.values) == {"value": 0.6, "goal": 0.6}


def test_both_sentences_are_told_if_two_say_yes_in_the_same_epoch(capsys):
    ours = stopper(Patience(2) | AfterEpochs(4), verbose=1)
    run(ours, val_loss=CURVE)
    expected = (
        "val_loss has not improved on 0.5 for 2 checks (best: 0.5 in epoch 2, now: 0.8); "
        "4 of 4 epochs are done"
    )
    assert str(ours.stop_reason) == expected
    assert f"Epoch 4: early stopping: {expected}" in capsys.readouterr().out


def test_a_run_that_no_criterion_ends_has_no_reason():
    ours, count = epochs(Patience(10) & AfterEpochs(3), val_loss=CURVE)
    assert count == 6 and ours.stop_reason is None


def test_the_first_metric_of_the_criterion_decides_what_is_restored():
    rule = AfterEpochs(6) | Patience(3, "val_acc", mode="max") | Patience(3, "val_loss")
    ours = stopper(rule, restore_best_weights=True)
    model = run(ours, val_loss=CURVE, val_acc=[0.1, 0.2, 0.3, 0.2, 0.1, 0.1])
    assert (ours.monitor, ours.best_epoch, ours.best_value) == ("val_acc", 2, 0.3)
    assert stamp_of(model) == 3


def test_without_any_metric_the_validation_loss_decides_what_is_restored():
    ours = stopper(AfterEpochs(5), restore_best_weights=True)
    assert stamp_of(run(ours, val_loss=CURVE)) == 2
    told = "'val_loss' is not in .* Waiting for Curve|val_loss never came, so the model keeps"
    with warnings_like(told) as count:  # Curve might have written it
        run(stopper(AfterEpochs(5), restore_best_weights=True), val_acc=RISE)
    assert count() == 2


def test_without_any_metric_and_nothing_to_restore_no_metric_is_asked_for():
    _, count = epochs(AfterEpochs(2), val_acc=RISE)
    assert count == 2


def test_smoothing_decides_when_to_stop_but_not_what_is_restored():
    curve = [8.0, 1.0, 6.0, 6.0, 6.0, 6.0, 6.0]
    ours = stopper(Patience(2, Smoothed("val_loss", 0.75)), restore_best_weights=True)
    model = run(ours, val_loss=curve)
    assert stamp_of(model) == 2
    assert ours.stopped_epoch == 0  # the averages 8, 6.25, 6.19, 6.14 ... fall all the time


def test_an_unnamed_goal_is_about_the_metric_that_decides():
    ours, count = epochs(Reaches(0.55) | Patience(9, "val_f1", mode="max"), val_f1=RISE)
    assert count == 4
    assert str(ours.stop_reason) == "val_f1 has reached 0.55 (now: 0.6)"


def test_the_attributes_of_keras_follow_the_deciding_metric():
    ours, _ = epochs(AfterEpochs(4) | Diverges(100), val_loss=CURVE)
    assert (ours.best, ours.best_value, ours.best_epoch, ours.wait) == (0.5, 0.5, 1, 2)
    assert ours.stopped_epoch == 3


def accuracy_model():
    return dense(metrics=["accuracy"])


def test_auto_asks_the_model_before_the_first_check():
    ours = stopper(Patience(1, "val_accuracy") | Reaches("val_accuracy", 0.9))
    run(ours, model=accuracy_model(), val_accuracy=[0.5, 0.7, 0.95, 0.1])
    assert ours.stop_reason.kind == "goal" and ours.stopped_epoch == 2
    assert ours.monitor_op is keras.ops.greater


def test_an_unknown_direction_is_an_error_before_the_first_batch():
    model = tiny()
    for rule in (Patience(3, "val_bleu"), Patience(3) | Reaches("val_bleu", 0.3)):
        with pytest.raises(
            UnknownDirectionError, match="'val_bleu' should be minimized or maximized"
        ):
            run(stopper(rule), model=model, val_loss=[1.0], val_bleu=[1.0])
        assert int(model.optimizer.iterations) == 0


def test_one_mode_for_a_metric_holds_everywhere():
    rule = Reaches("val_bleu", 0.6) | Patience(9, "val_bleu", mode="max")
    assert epochs(rule, val_bleu=RISE)[1] == 4
    with pytest.raises(ConfigError, match="'val_bleu' is minimized in one criterion and maximized"):
        stopper(Patience(1, "val_bleu", mode="min") | Patience(9, "val_bleu", mode="max"))


@pytest.mark.parametrize(
    "given",
    [
        {"monitor": "val_acc"},
        {"patience": 3},
        {"min_delta": 0.1},
        {"mode": "max"},
        {"baseline": 0.5},
        {"min_delta_mode": "relative"},
        {"nan": "stop"},
        {"patience": 3, "mode": "min"},
    ],
)
def test_a_criterion_excludes_the_arguments_that_it_replaces(given):
    with pytest.raises(ConfigError, match=f"excludes {', '.join(sorted(given, reverse=True))}"):
        stopper(Patience(3), **given)


@pytest.mark.parametrize("wrong", ["patience", 10, Patience, lambda m: False])
def test_what_is_no_criterion_is_refused(wrong):
    with pytest.raises(
        ConfigError, match=r"criterion must be a criterion from keras_ratchet\.policy"
    ):
        stopper(wrong)


def test_a_smoothed_metric_alone_is_no_criterion():
    with pytest.raises(ConfigError, match=r"Patience\(10, Smoothed\('val_loss'\)\)"):
        stopper(Smoothed("val_loss"))


@pytest.mark.parametrize(
    "rule", [Patience(3) | Patience(3, "val_acc", mode="max"), Patience(3) | NotFinite("val_acc")]
)
def test_every_named_metric_has_to_be_there(rule):
    message = r"'val_acc' is not in.*Did you mean 'val_ac'"
    with warns_once("Waiting for Curve"), pytest.raises(MissingMetricError, match=message):
        run(stopper(rule), val_loss=[1.0, 0.9, 0.8], val_ac=RISE)


def test_without_any_validation_a_second_val_metric_is_an_error_after_the_first_epoch():
    model, rule = tiny(), Patience(9, "loss") | Patience(9, "val_loss")
    with pytest.raises(MissingMetricError, match="`fit` has no validation"):
        fit(model, stopper(rule), epochs=3)
    assert model.history.epoch == []


def test_an_epoch_without_validation_is_no_check_but_the_others_decide():
    curve = [None, 1.0, None, 2.0, None, 3.0, None, 4.0]
    with warns_once("ran no validation"):
        assert epochs(Patience(2) | AfterEpochs(7), val_loss=curve)[1] == 6
    with warns_once("ran no validation"):
        assert epochs(Patience(3) | AfterEpochs(7), val_loss=curve)[1] == 7


def test_a_metric_that_is_no_number_is_an_error():
    with pytest.raises(MetricError, match=r"of shape \(3,\)"):
        run(stopper(Patience(3) | Reaches("f1", 1, mode="max")), val_loss=CURVE, f1=[np.ones(3)])


def test_nan_counts_toward_patience_and_can_stop_or_raise():
    nans = [0.5, math.nan, math.nan, math.nan, 0.1]
    assert epochs(Patience(3), val_loss=nans)[1] == 4
    assert epochs(Patience(3) | NotFinite(), val_loss=nans)[1] == 2
    assert epochs(Patience(3, nan="stop"), val_loss=nans)[1] == 2
    ours = stopper(AfterEpochs(9) | Patience(9, nan="raise"), restore_best_weights=True)
    model = tiny()
    with pytest.raises(NonFiniteError, match=r"val_loss is NaN in epoch 2 \(nan='raise'\)"):
        run(ours, model=model, val_loss=nans)
    assert stamp_of(model) == 1


def test_weights_that_are_not_finite_count_as_nan():
    class Poison(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.set_weights([np.full_like(w, np.nan) for w in self.model.get_weights()])

    ours = stopper(Patience(9) | NotFinite("val_loss"), restore_best_weights=True)
    model = tiny()
    fit(model, [Curve(val_loss=[1.0, 0.5, 0.4]), Poison(), ours], epochs=3)
    assert ours.stop_reason.kind == "not finite" and len(model.history.epoch) == 2
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_epochs_before_the_start_are_shown_to_no_criterion():
    ours = stopper(Reaches(0.6) | AfterEpochs(5), start_from_epoch=3, restore_best_weights=True)
    assert stamp_of(run(ours, val_loss=CURVE)) == 4
    assert str(ours.stop_reason) == "5 of 5 epochs are done"


class Counted(Criterion):
    """A user's own, with attributes and its memory in the state."""

    def __init__(self, limit):
        self.limit = limit

    def initial(self):
        return {"seen": []}

    def check(self, state, moment):
        seen = [*state["seen"], moment.metrics.get("val_loss")]
        return {"seen": seen}, Verdict(len(seen) >= self.limit, "counted", f"{len(seen)} seen")


def test_a_criterion_of_ones_own_composes_and_begins_anew_with_each_fit():
    ours = stopper(Counted(3) | Patience(9))
    for _ in range(2):
        assert len(run(ours, val_loss=CURVE).history.epoch) == 3
        assert str(ours.stop_reason) == "3 seen"


def test_a_state_that_cannot_be_saved_is_refused_when_it_is_given():
    class Bad(Counted):
        def initial(self):
            return {1, 2}

    with pytest.raises(TypeError, match=r"criterion's state is made of .*Got: \{1, 2\}"):
        stopper(Bad(1))


class Clock:
    """Lets a minute pass each time it is looked at."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        self.now_s += 60.0
        return self.now_s


def test_seconds_are_counted_from_the_begin_of_training(monkeypatch):
    monkeypatch.setattr(_logs, "_now_s", Clock())
    ours, count = epochs(AfterSeconds(180), val_loss=[1.0] * 9)
    assert count == 3
    assert str(ours.stop_reason) == "180.0 of 180 s have passed"


@pytest.mark.parametrize("bare", [True, False])
def test_steps_are_counted_when_they_are_needed(bare):
    ours = stopper(AfterSteps(10))
    model = tiny()
    fit(model, ours if bare else [ours], epochs=9)  # 4 steps per epoch
    assert len(model.history.epoch) == 3
    assert str(ours.stop_reason) == "12 of 10 steps are done"


def hooks(callback):
    names = ("on_train_batch_end", "on_test_batch_end")
    default = keras.callbacks.Callback()
    return [n for n in names if getattr(callback, n).__code__ is not getattr(default, n).__code__]


def test_batch_hooks_exist_only_where_a_criterion_needs_them():
    assert hooks(EarlyStopping()) == hooks(stopper(Patience(3) | AfterSeconds(1))) == []
    assert hooks(stopper(Patience(3) | AfterSteps(1))) == ["on_train_batch_end"]


def test_a_batch_hook_of_a_subclass_is_called_too():
    class Mine(EarlyStopping):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            self.seen += 1

    ours = Mine(criterion=AfterSteps(6))
    model = fit(tiny(), [ours], epochs=5)
    assert ours.seen == 8 and len(model.epoch) == 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_it_can_be_copied_and_pickled_before_training(duplicate):
    ours = stopper((Patience(1) & ~AfterEpochs(9)) | AfterSteps(400))
    twin = duplicate(ours)
    run(twin, val_loss=CURVE)
    assert twin.stopped_epoch == 2 and ours.stopped_epoch == 0
    assert twin.criterion == ours.criterion


def test_the_criterion_asks_for_nothing_in_a_real_fit():
    x, y = data()
    model = accuracy_model()
    rule = Patience(2) | Reaches("val_accuracy", 0.99) | AfterSeconds(3600)
    ours = stopper(rule, restore_best_weights=True)
    model.fit(x, y, validation_data=(x, y), epochs=3, verbose=0, callbacks=[ours])
    assert ours.best_value is not None and ours.best_weights is None


def test_the_journal_has_all_kinds_of_a_stop(tmp_path):
    ours = stopper(Patience(2) | AfterEpochs(4))
    saving = ModelCheckpoint(tmp_path / "a.keras", save_weights_only=False)
    fit(dense(), [Curve(val_loss=CURVE), ours, saving], epochs=6)
    lines = (tmp_path / ".ratchet" / "journal.jsonl").read_text().splitlines()
    stops = [event for event in map(json.loads, lines) if event["event"] == "stop"]
    assert [event["kind"] for event in stops] == ["patience+epochs"]
    assert ours.stop_reason.kinds == ("patience", "epochs")


def test_a_shallow_copy_has_a_state_of_its_own():
    ours = EarlyStopping(patience=9)
    run(ours, val_loss=CURVE)
    twin, best = copy.copy(ours), ours.best_value
    run(ours, val_loss=[value / 2 for value in CURVE])
    assert (twin.best_value, ours.best_value) == (best, best / 2)
