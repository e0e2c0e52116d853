"""The study of stopping rules records what `fit` does, and decides as EarlyStopping decides."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

EPOCHS = 20
TOLERANCE = 1e-5  # relative: float32, losses added up in another order


def test_the_scan_on_jax_records_what_fit_does_batch_by_batch():
    pytest.importorskip("jax")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(ROOT / "src")]),
    }
    script = ROOT / "tests" / "support" / "study_on_jax.py"
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    other = found.pop("iris, other order")
    assert other["loss"] > 10 * TOLERANCE  # the order of the batches is seen
    assert len(found) == 2
    for name, distances in found.items():
        assert max(distances.values()) < TOLERANCE, (name, distances)


class _Fits:
    """The same run of `fit` on a small noisy problem, as often as it is wanted."""

    def __init__(self):
        from stopping import tasks
        from stopping.networks import Network

        self.task = tasks.load("moons")
        self.split = tasks.split(self.task, 0, noisy=True)
        self._network = Network("tiny", (32,), learning_rate=0.05)
        self.model = None

    def run(self, *callbacks):
        """Train a new model; return the History."""
        import keras

        keras.utils.set_random_seed(5)
        self.model = self._network.build(self.task.x.shape[1], self.task.classes)
        return self.model.fit(
            *self.split.train,
            validation_data=self.split.val,
            batch_size=64,
            epochs=EPOCHS,
            shuffle=False,  # measuring in a callback moves the random stream
            callbacks=list(callbacks),
            verbose=0,
        )

    def losses(self, weights, data):
        """Measure weights as EarlyStopping does: the trainer of the replay."""
        for variable, value in zip(self.model.weights, weights, strict=True):
            variable.assign(value)
        return self.model.evaluate(*data, verbose=0, return_dict=True)


@pytest.fixture(scope="module")
def recorded():
    from stopping.records import Recorder
    from stopping.replay import Replay

    fits = _Fits()
    recorder = Recorder(fits.split.val, fits.split.test)
    fits.run(recorder)
    record = recorder.record()
    return fits, Replay(record, record, fits.split, fits)


def _criteria():
    from keras_ratchet.policy import Patience, Smoothed
    from keras_ratchet.policy.experimental import GeneralizationLoss, UpStrips

    return [
        Patience(2),
        Patience(3, min_delta=0.02),
        Patience(3, Smoothed("val_loss")),
        Patience(3, "val_accuracy", mode="max"),
        GeneralizationLoss(8),
        UpStrips(2, k=2),
    ]


def test_the_replay_stops_and_restores_where_early_stopping_does(recorded):
    from stopping.replay import _monitor, best_of, stops_after

    from keras_ratchet import EarlyStopping

    fits, replay = recorded
    stops = set()
    for criterion in _criteria():
        stopper = EarlyStopping(criterion=criterion, restore_best_weights=True)
        history = fits.run(stopper)
        stop = stops_after(criterion, replay.record.moments())
        monitor = _monitor(criterion)
        best = best_of(replay.record.metrics[monitor.name][:stop].tolist(), monitor)
        assert (len(history.epoch), stopper.best_epoch) == (stop, best), criterion
        for variable, value in zip(fits.model.weights, replay.record.at(best), strict=True):
            np.testing.assert_array_equal(np.asarray(_host(variable)), value)
        stops.add(stop)
    assert len(stops) > 1 and min(stops) < EPOCHS  # they do not all say the same


def test_the_replay_restores_with_min_delta_what_keras_restores(recorded):
    import keras
    from stopping.replay import _monitor, best_of, stops_after

    from keras_ratchet.policy import Patience

    fits, replay = recorded
    criterion = Patience(3, min_delta=0.02)
    stop = stops_after(criterion, replay.record.moments())
    values = replay.record.metrics["val_loss"][:stop].tolist()
    stopper = keras.callbacks.EarlyStopping(patience=3, min_delta=0.02, restore_best_weights=True)
    history = fits.run(stopper)
    best = best_of(values, _monitor(criterion), strict=True)
    assert (len(history.epoch), stopper.best_epoch) == (stop, best)


@pytest.mark.parametrize("kind", ["soup", "mean"])
def test_the_replay_averages_the_epochs_that_early_stopping_averages(recorded, kind):
    from stopping.replay import _monitor, kept, stops_after

    from keras_ratchet import EarlyStopping
    from keras_ratchet.policy import Patience

    fits, replay = recorded
    criterion = Patience(6)
    stopper = EarlyStopping(
        criterion=criterion, restore_best_weights=True, average=kind, average_k=4
    )
    fits.run(stopper)
    theirs = stopper.average_record
    values = replay.record.metrics["val_loss"][: stops_after(criterion, replay.record.moments())]
    epochs = kept(values.tolist(), 4, _monitor(criterion))
    ours = replay.average(kind, epochs, values.tolist(), _monitor(criterion))
    assert ours.members == theirs.members
    trials = [[(t.members, t.accepted) for t in r.trials] for r in (ours, theirs)]
    assert trials[0] == trials[1] and trials[0]
    assert ours.value == pytest.approx(theirs.value, rel=TOLERANCE)


def test_an_average_that_is_worse_on_validation_data_stops_the_study(recorded, monkeypatch):
    from stopping.replay import Replay
    from stopping.rules import Rule

    from keras_ratchet.policy import Patience

    fits, replay = recorded
    rule = Rule("soup", Patience(6), average="soup", k=4)
    outcome = replay.outcomes([rule])[0]
    assert outcome.val_ratio <= 1 + 1e-6

    class Flatterer:
        """Finds each average better than the one before, whatever it is."""

        calls = 0

        def losses(self, weights, data):
            self.calls += 1
            return {"loss": 1.0 / self.calls}

    worst = Replay(replay.record, replay.record, fits.split, Flatterer())
    values = replay.record.metrics["val_loss"]
    monkeypatch.setattr(
        "stopping.replay.kept", lambda *_: [int(values.argmin()), 0, int(values.argmax())]
    )
    with pytest.raises(AssertionError, match="validation is worse"):
        worst.outcomes([rule])


def test_distances_are_taken_from_the_front_at_equal_epochs():
    from stopping.figures import Figures
    from stopping.rules import FRONT, OTHERS, WHOLE

    def row(rule, epochs, loss):
        run = {"task": "t", "part": "A", "network": "n", "seed": 0, "oracle": 1.0}
        return {**run, "rule": rule.name, "epochs": epochs, "loss": loss, "accuracy": None}

    front = [row(rule, 100 + 10 * i, 2.0) for i, rule in enumerate(FRONT)]
    front[0] = row(FRONT[0], 50, 8.0)  # half way to the next, in logarithms: 4
    other = OTHERS[0]
    figures = Figures([*front, row(WHOLE, 400, 2.0), row(other, 80, 6.0)], 400)
    assert figures.distance(other).mean == pytest.approx(50.0)
    assert figures.share(other) == pytest.approx(0.2)
    assert figures.regret(other).mean == pytest.approx(500.0)


def _host(variable):
    import keras

    return keras.ops.convert_to_numpy(variable)
