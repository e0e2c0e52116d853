"""A script that was edited between the kill and the restart: what it says now, and then."""

import re
import warnings

import keras
import pytest
from support.models import dense, fit
from support.resuming import Kill, Script, model
from support.sources import numpy_arrays

import keras_ratchet
from keras_ratchet._engine.resume.comparison import arguments_of, changes
from keras_ratchet._engine.resume.resumer import Resumer
from keras_ratchet.errors import ConfigError


def net(rate=1e-2, dropout=0.4, loss="binary_crossentropy", optimizer=None, **arguments):
    made = model(loss=loss, optimizer=optimizer or keras.optimizers.Adam(rate, **arguments))
    made.layers[1].rate = dropout
    return made


def gone_on(tmp_path, before, after, callbacks=list, epoch=0, **backup):
    """Return the warnings of a resume after an edit, and the optimizer that went on."""
    script = Script(str(tmp_path / "b"), numpy_arrays, make=before, callbacks=callbacks)
    assert script.run(Kill(epoch=epoch)) is None
    made = []
    script.make = lambda: made.append(after()) or made[-1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        script.run(**backup)
    texts = [str(w.message) for w in caught if "these differences" in str(w.message)]
    return texts, made[0].optimizer


@pytest.mark.parametrize(("edited", "says"), [
    ({"rate": 1e-4}, "learning_rate: 0.01 when saved, 0.0001 now (the saved one is used; "),
    ({"weight_decay": 0.1}, "weight_decay: None when saved, 0.1 now"),
    ({"clipnorm": 1.0}, "clipnorm: None when saved, 1 now"),
    ({"clipvalue": 0.5}, "clipvalue: None when saved, 0.5 now"),
    ({"global_clipnorm": 2.0}, "global_clipnorm: None when saved, 2 now"),
    ({"loss": "mse"}, "loss: ['binary_crossentropy'] when saved, ['mse'] now"),
    ({"loss": keras.losses.Huber(0.5)}, "loss: ['binary_crossentropy'] when saved, ['Huber'"),
    ({"dropout": 0.1}, "Dropout.rate: 0.4 when saved, 0.1 now"),
], ids=lambda given: "-".join(given) if isinstance(given, dict) else "told")  # fmt: skip
def test_what_was_edited_is_told_with_both_values_in_one_warning(tmp_path, edited, says):
    texts, _ = gone_on(tmp_path, net, lambda: net(**edited))
    assert len(texts) == 1
    assert says in texts[0] and texts[0].count("when saved") == 1


def test_nan_is_the_same_as_nan():
    masked = keras.Sequential([keras.Input((3, 4)), keras.layers.Masking(float("nan"))])
    assert changes(arguments_of(masked), arguments_of(masked)) == []


def test_a_layer_that_describes_itself_with_a_list_that_keras_tracks_is_resumed(tmp_path):
    def normalized():
        made = keras.Sequential([keras.Input((4,)), keras.layers.LayerNormalization()])
        made.add(keras.layers.Dense(1))
        made.compile("adam", "mse")
        return made

    assert type(normalized().layers[0].get_config()["axis"]) is not list
    script = Script(str(tmp_path / "b"), numpy_arrays, make=normalized)
    whole = script.uninterrupted()
    assert script.chain(Kill(17), save_freq=3).differences(whole) == []


def test_a_rate_that_the_script_no_longer_tells_is_said_to_be_unheeded(tmp_path):
    """Fits one epoch at a time: the ones that were finished have put later steps in place."""
    trained = net()
    trained.optimizer.iterations.assign(3)
    resumer = Resumer(None, None, None, script_sets_rate=True)
    resumer._script = arguments_of(trained)
    (sentence,) = resumer._compare_script(arguments_of(net(1e-4)))
    assert "learning_rate='script' has no effect" in sentence
    resumer.script_sets_rate = False
    assert resumer._compare_script(arguments_of(net(1e-4))) == []


def test_the_saved_learning_rate_counts_unless_the_script_s_is_asked_for(tmp_path):
    for which, rate, told in (("saved", 1e-2, 1), ("script", 1e-4, 0)):
        texts, optimizer = gone_on(tmp_path / which, net, lambda: net(1e-4), learning_rate=which)
        assert len(texts) == told
        assert float(optimizer.learning_rate) == pytest.approx(rate)


def test_an_edited_rate_is_told_at_each_resume(tmp_path):
    script = Script(str(tmp_path), numpy_arrays, make=net)
    assert script.run(Kill(epoch=0)) is None
    script.make = lambda: net(1e-4)
    for kill in (Kill(epoch=1), None):
        with pytest.warns(UserWarning, match=re.escape("learning_rate: 0.01 when saved")):
            script.run(kill)


def test_schedules_functions_and_automatic_names_are_no_difference(tmp_path):
    def scheduled():
        schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.9)
        return net(optimizer=keras.optimizers.Adam(schedule), loss=lambda y, p: (y - p) ** 2)

    assert gone_on(tmp_path / "a", scheduled, scheduled, epoch=1)[0] == []

    def callbacks():
        return [keras.callbacks.LearningRateScheduler(lambda epoch: 1e-2 / (epoch + 1))]

    assert gone_on(tmp_path / "b", net, net, callbacks, epoch=1)[0] == []


def test_another_schedule_is_told(tmp_path):
    def scheduled(decay):
        schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, decay)
        return net(optimizer=keras.optimizers.Adam(schedule))

    (text,), _ = gone_on(tmp_path, lambda: scheduled(0.9), lambda: scheduled(0.5))
    assert "learning_rate: ExponentialDecay(" in text and "0.5" in text


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="learning_rate"):
        Script(str(tmp_path), numpy_arrays).run(learning_rate="mine")


def test_the_saved_rate_leaves_a_resume_exact(tmp_path):
    script = Script(str(tmp_path), numpy_arrays, make=net)
    whole = script.uninterrupted()
    assert script.chain(Kill(epoch=0)).differences(whole) == []


def test_two_backups_in_one_list_are_refused(tmp_path):
    backups = [keras_ratchet.BackupAndRestore(tmp_path / name) for name in "ab"]
    with pytest.raises(ConfigError, match="two BackupAndRestore in one list"):
        fit(dense(), backups)
