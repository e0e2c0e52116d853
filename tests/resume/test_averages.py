"""EarlyStopping(average=...): killed anywhere, the run ends with the same average, bit for bit."""

import keras
import numpy as np
import pytest
from support.resuming import Kill, Killed, Script, arrays, model

import keras_ratchet
from keras_ratchet._engine.averaging.validation import Validation

EPOCHS = 5
KILLS = {
    "in mid-epoch": {"backup": {"save_freq": 3}, "kills": (7, 34)},
    "at epoch ends": {"backup": {}, "kills": (15, 25)},
    "after the last batch": {"backup": {"save_freq": 3}, "kills": (50,)},
}


def held_out():
    x, y = arrays(24)
    rng = np.random.default_rng(9)
    return x + rng.normal(scale=0.7, size=x.shape).astype("float32"), y


def script(directory, average="soup", *, layer=None, rate=0.4, backup=None, average_data=None):
    def callbacks():
        arguments = {"average": average, "average_k": 3, "average_data": average_data}
        return [keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True, **arguments)]

    x, y = arrays()
    return Script(
        directory=str(directory),
        data=lambda: {"x": x, "y": y, "batch_size": 4, "validation_data": held_out()},
        make=lambda: model(keras.optimizers.Adam(rate), layers=[layer()] if layer else ()),
        callbacks=callbacks,
        backup=backup or {},
        fit={"epochs": EPOCHS},
    )


def record_of(outcome):
    return outcome.callbacks[0].average_record


def assert_same(outcome, expected):
    assert outcome.differences(expected) == []
    assert record_of(outcome) == record_of(expected)


@pytest.mark.parametrize("average", ["soup", "mean"])
@pytest.mark.parametrize("case", KILLS)
def test_the_average_survives_kills(case, average, tmp_path):
    run = script(tmp_path, average, backup=KILLS[case]["backup"])
    expected = run.uninterrupted()
    assert record_of(expected).trials
    assert_same(run.chain(*(Kill(batches=n) for n in KILLS[case]["kills"])), expected)


def test_an_average_is_accepted_in_one_of_these_runs(tmp_path):
    """Else best epochs only would be compared."""
    rates = (0.4, 0.1, 0.05, 0.02)
    runs = (script(tmp_path / str(rate), rate=rate, backup={"save_freq": 9}) for rate in rates)
    run, expected = next(
        (run, expected) for run in runs if record_of(expected := run.uninterrupted()).accepted
    )
    assert_same(run.chain(Kill(batches=38), KillAtEnd()), expected)


def test_statistics_that_are_estimated_anew_are_the_same_too(tmp_path):
    run = script(
        tmp_path,
        layer=keras.layers.BatchNormalization,
        average_data=arrays()[0],
        backup={"save_freq": 3},
    )
    expected = run.uninterrupted()
    assert record_of(expected).trials
    assert_same(run.chain(Kill(batches=17), Kill(batches=41)), expected)


class KillAtEnd(keras.callbacks.Callback):
    """Ends the run when the averages are made and nothing has been saved since."""

    def on_train_end(self, logs=None):
        raise Killed


def test_a_kill_when_training_has_ended_has_the_average_made_again(tmp_path):
    run = script(tmp_path)
    expected = run.uninterrupted()
    assert_same(run.chain(KillAtEnd(), KillAtEnd()), expected)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_kill_among_the_averages_has_them_made_again(passes, tmp_path, monkeypatch):
    run = script(tmp_path)
    expected = run.uninterrupted()
    value, done = Validation.value, []

    def killed(self, model, metric):
        done.append(1)
        if len(done) == passes:
            raise Killed
        return value(self, model, metric)

    monkeypatch.setattr(Validation, "value", killed)
    assert run.run() is None
    monkeypatch.undo()
    assert_same(run.run(), expected)


def test_a_finished_run_that_is_started_again_has_its_average_and_makes_no_other(
    tmp_path, monkeypatch
):
    run = script(tmp_path)
    expected = run.run()

    def refuse(self, model, metric):
        raise AssertionError("a pass")

    monkeypatch.setattr(Validation, "value", refuse)
    assert_same(run.run(), expected)


def test_a_resume_that_forgets_the_runners_up_would_be_noticed(tmp_path, monkeypatch):
    from keras_ratchet._engine.averaging.top_k_weights import TopKWeights

    run = script(tmp_path, "mean")
    expected = run.uninterrupted()
    monkeypatch.setattr(
        TopKWeights, "state_dict", lambda self, monitor, whole=TopKWeights.state_dict: {
            **whole(self, monitor),
            **({"others": []} if self.best.is_captured else {}),
        }
    )  # fmt: skip
    outcome = run.chain(KillAtEnd())
    assert record_of(outcome) != record_of(expected)
