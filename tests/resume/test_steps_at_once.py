"""`steps_per_execution`: a run goes on from after any step of an epoch, be the last one cut.

One model for each number of steps is trained again and again: to trace anew takes a second.
"""

import shutil

import keras
import numpy as np
import pytest
from support.resuming import PER_EPOCH, Kill, Script, arrays, model, scramble, values
from support.sources import numpy_arrays, tf_data
from support.versions import AT_MOST_3_15

import keras_ratchet
from keras_ratchet.errors import ResumeError

NONE_ON_TORCH = keras.backend.backend() == "torch" and AT_MOST_3_15
STEPS = (1,) if NONE_ON_TORCH else (1, 2, 3, 4)
several_at_once = pytest.mark.skipif(
    NONE_ON_TORCH, reason="torch refuses steps_per_execution > 1 before Keras 3.16"
)


class Enumerated:
    """Trains one model on sets of any number of batches, each time from the same weights."""

    def __init__(self, steps, folder):
        self.net = model(steps_per_execution=steps)
        self.folder = folder
        self.net.optimizer.build(self.net.trainable_variables)
        self.variables = [*self.net.variables, *self.net.optimizer.variables]
        self.first = values(self.variables)

    def fit(self, directory, batches, ragged, again=False):
        """Train two epochs; return what they end with. Again: from zeros, by other seeds."""
        for variable, value in zip(self.variables, self.first, strict=True):
            variable.assign(value.copy())
        for variable in self.net.trainable_variables if again else ():
            variable.assign(np.zeros(variable.shape, "float32"))
        keras.utils.set_random_seed(99 if again else batches)
        x, y = arrays(2 * batches - ragged)
        backup = keras_ratchet.BackupAndRestore(
            directory, save_freq=1, keep=99, delete_checkpoint=False, background=False
        )
        history = self.net.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[backup])
        return repr(history.history), [v.tobytes() for v in values(self.variables)]

    def wrong(self, batches, ragged):
        """Return the snapshots from which a run goes on to another end."""
        whole = self.folder / f"{batches}-{ragged}"
        expected = self.fit(whole, batches, ragged)
        places = [p for p in sorted(whole.glob("epoch-*")) if p.name < "epoch-00002"]
        per_epoch = -(-batches // self.net.steps_per_execution)
        assert len(places) == 1 + 2 * per_epoch
        found = []
        for place in [*places[1 : 1 + per_epoch], places[-1]]:
            alone = self.folder / f"{whole.name}-from-{place.name}"  # a run of its own
            shutil.copytree(place, alone / place.name)
            if self.fit(alone, batches, ragged, again=True) != expected:
                found.append((batches, ragged, place.name))
        return found


@pytest.mark.parametrize("steps", STEPS)
def test_a_run_goes_on_from_every_place(steps, tmp_path):
    scramble()
    runs = Enumerated(steps, tmp_path)
    several = (1, 4) if steps == 1 else range(1, 8)
    wrong = [runs.wrong(batches, ragged=batches % 2) for batches in several]
    assert not any(wrong), wrong


@several_at_once
def test_a_step_whose_batches_differ_in_size_is_skipped_whole(tmp_path):
    runs = Enumerated(3, tmp_path)
    assert [runs.wrong(batches, ragged) for batches in (3, 5) for ragged in (0, 1)] == [[]] * 4


@several_at_once
def test_batches_are_counted_as_they_were_though_the_last_step_is_cut(tmp_path):
    script = Script(str(tmp_path), numpy_arrays, make=lambda: model(steps_per_execution=3))
    assert script.run(Kill(99), save_freq=1, keep=99)
    names = [p.name for p in sorted(tmp_path.glob("epoch-00001-*"))]
    assert [int(name[-7:]) for name in names] == [3, 6, 9, PER_EPOCH]


@several_at_once
@pytest.mark.parametrize("kill", [3, 12, 22])
def test_a_tf_data_set_of_unknown_length_goes_on_from_every_place(kill, tmp_path):
    script = Script(
        str(tmp_path / "b"),
        lambda: {"x": tf_data(unknown=True)},
        make=lambda: model(steps_per_execution=3),
    )
    whole = script.uninterrupted(save_freq=1)
    assert script.chain(Kill(kill), save_freq=1).differences(whole) == []


@several_at_once
def test_in_mid_epoch_another_number_of_steps_is_refused_and_between_epochs_warned_about(tmp_path):
    script = Script(str(tmp_path / "b"), numpy_arrays, make=lambda: model(steps_per_execution=3))
    assert script.run(Kill(16), save_freq=1) is None
    script.make = lambda: model(steps_per_execution=2)
    with pytest.raises(ResumeError, match="steps_per_execution: 3 when saved, 2 now"):
        script.run()
    shutil.rmtree(script.directory)
    assert script.run(Kill(16)) is None
    script.make = lambda: model(steps_per_execution=4)
    with pytest.warns(UserWarning, match="steps_per_execution: 2 when saved, 4 now"):
        assert script.run()


def test_an_epoch_that_ends_before_the_place_of_the_snapshot_is_an_error(tmp_path):
    def batches(n):
        return {"x": tf_data(unknown=True).take(n)}

    script = Script(str(tmp_path), lambda: batches(10))
    assert script.run(Kill(8), save_freq=1) is None
    script.data = lambda: batches(5)
    with pytest.raises(
        ResumeError, match="ended before the position of the snapshot was reached: 7"
    ):
        script.run()
