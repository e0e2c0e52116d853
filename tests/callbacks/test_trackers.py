"""What all trackers have in common, without a client of any."""

import pytest
from support.resuming import arrays, model

import keras_ratchet
from keras_ratchet.integrations._decisions import Tracker


class Told(Tracker):
    """Notes what a tracker is told."""

    _key = "told"

    def __init__(self):
        super().__init__()
        self.calls = []

    def _open(self):
        self.calls.append("open")

    def _tell(self, news):
        self.calls.append("tell")

    def _finish(self, stops, ended):
        self.calls.append("finish")


def train(tmp_path):
    tracker, backup = Told(), keras_ratchet.BackupAndRestore(tmp_path / "run")
    x, y = arrays()
    model().fit(x, y, epochs=1, shuffle=False, verbose=0, callbacks=[backup, tracker])
    return tracker.calls


def test_a_tracker_is_told_each_epoch_and_the_end(tmp_path):
    calls = train(tmp_path)
    assert calls[:2] == ["open", "tell"] and calls[-1] == "finish"


def test_a_tracker_hears_nothing_of_a_script_that_is_examined(tmp_path, monkeypatch):
    (tmp_path / "doctor").mkdir()
    monkeypatch.setattr("keras_ratchet.callbacks._companions._KINDS", {})  # no Probe here
    monkeypatch.setenv("RATCHET_DOCTOR", str(tmp_path / "doctor"))
    with pytest.warns(UserWarning, match="Told tells nothing: `ratchet doctor`"):
        assert train(tmp_path) == []
