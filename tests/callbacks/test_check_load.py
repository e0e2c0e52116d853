"""`check_load`: what was saved is loaded once in a child process, beside training."""

import copy
import os
import pickle
import warnings
from types import SimpleNamespace

import pytest
from support.models import dense, fit

from keras_ratchet import ModelCheckpoint
from keras_ratchet._formats import load_trial
from keras_ratchet._formats.load_trial import LoadTrial
from keras_ratchet._storage import journal
from keras_ratchet._storage.listing import checkpoint_at
from keras_ratchet.callbacks._load_check import LoadCheck


def checked(directory):
    return [event for event in journal.read(str(directory)) if event["event"] == "check_load"]


def child(monkeypatch, tmp_path, code):
    """Let another program stand in for the child."""
    (tmp_path / "stand_in.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(load_trial, "_CHILD", "stand_in")


LOADS = 'print(\'{"problem": "", "custom": [], "missing": [], "code": []}\')'
SLEEPS = "import time; time.sleep(60)"


@pytest.fixture
def saved(tmp_path):
    """What is known about a saved model."""
    fit(dense(), [ModelCheckpoint(tmp_path / "run" / "m.keras", verbose=0)])
    return checkpoint_at(tmp_path / "run" / "m.keras")


def test_a_model_that_loads_is_noted_in_the_journal_once(tmp_path):
    path = tmp_path / "run" / "m{epoch}.keras"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(dense(), [ModelCheckpoint(path, check_load=True)], epochs=3)
    (event,) = checked(tmp_path / "run")
    assert (event["status"], event["series"]) == ("loads", "m{epoch}.keras")
    assert event["name"] in {f"m{epoch}.keras" for epoch in (1, 2, 3)}


def test_a_custom_layer_of_the_script_is_named_with_the_cure(tmp_path):
    import keras

    class Mine(keras.layers.Dense):
        pass

    model = keras.Sequential([keras.Input((4,)), Mine(1)])
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="cannot load it: it needs Mine.*custom_objects") as told:
        fit(model, [ModelCheckpoint(tmp_path / "m.keras", check_load=True)])
    assert sum("cannot load it" in str(each.message) for each in told) == 1
    assert [event["status"] for event in checked(tmp_path)] == ["fails"]


def test_the_users_listener_hears_of_every_save(saved, monkeypatch, tmp_path):
    child(monkeypatch, tmp_path, LOADS)
    heard = []
    check = LoadCheck(heard.append)
    for _ in range(3):
        check(saved)
    check.finish(None, True)
    assert heard == [saved] * 3 and len(checked(tmp_path / "run")) == 1


def test_training_does_not_wait_for_the_child(saved, monkeypatch, tmp_path):
    child(monkeypatch, tmp_path, SLEEPS)
    check = LoadCheck()
    check(saved)
    check.collect()
    assert checked(tmp_path / "run") == []
    process = check._trial._process
    monkeypatch.setattr("keras_ratchet.callbacks._load_check._WAIT_S", 0.1)
    with pytest.warns(UserWarning, match="a new process has not loaded it"):
        check.finish(None, True)
    assert process.returncode is not None
    assert [event["status"] for event in checked(tmp_path / "run")] == ["hung"]


@pytest.mark.parametrize("kind", ["signal", "deadline"])
def test_a_run_that_has_to_end_at_once_does_not_wait_and_says_nothing(
    kind, saved, monkeypatch, tmp_path
):
    child(monkeypatch, tmp_path, SLEEPS)
    check = LoadCheck()
    check(saved)
    process = check._trial._process
    others = [SimpleNamespace(stop_reason=SimpleNamespace(kind=kind))]
    check.finish(SimpleNamespace(callbacks=others), True)
    assert process.returncode is not None and checked(tmp_path / "run") == []


def test_an_exception_in_training_ends_the_child(saved, monkeypatch, tmp_path):
    child(monkeypatch, tmp_path, SLEEPS)
    check = LoadCheck()
    check(saved)
    process = check._trial._process
    check.finish(None, False)
    assert process.returncode is not None and checked(tmp_path / "run") == []


def test_a_file_that_was_deleted_too_soon_is_no_answer_and_the_next_one_is_tried(
    saved, monkeypatch, tmp_path
):
    gone = '{"problem": "no such file", "custom": [], "missing": [], "code": []}'
    child(monkeypatch, tmp_path, f"import os, sys, json; print({gone!r})")
    check = LoadCheck()
    check(saved)
    os.rename(saved.path, tmp_path / "m.keras")
    check._trial._process.wait(60)
    check.collect()
    assert checked(tmp_path / "run") == [] and check._trial is None
    os.rename(tmp_path / "m.keras", saved.path)
    child(monkeypatch, tmp_path, LOADS)
    check(saved)
    check.finish(None, True)
    assert [event["status"] for event in checked(tmp_path / "run")] == ["loads"]


def test_weights_alone_need_no_child(tmp_path):
    path = tmp_path / "m.weights.h5"
    fit(dense(), [ModelCheckpoint(path, save_weights_only=True, check_load=True)])
    (event,) = checked(tmp_path)
    assert event["status"] == "weights" and "load_weights" in event["reason"]


def test_copies_and_pickles_start_anew(saved, monkeypatch, tmp_path):
    child(monkeypatch, tmp_path, SLEEPS)
    check = LoadCheck()
    check(saved)
    assert pickle.loads(pickle.dumps(check))._trial is None
    assert copy.deepcopy(check)._trial is None
    check.finish(None, False)


def test_the_child_has_a_lower_priority(saved, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(
        "keras_ratchet.callbacks._load_check.LoadTrial",
        lambda *args, **more: given.append(more) or LoadTrial(*args, **more),
    )
    child(monkeypatch, tmp_path, LOADS)
    check = LoadCheck()
    check(saved)
    check.finish(None, True)
    assert given[0]["nice"] == 10
