"""What a project adds to one of our callbacks, or of Keras's, is kept with the callback's state."""

import keras
import pytest
from support.resuming import Kill, Script
from support.sources import numpy_arrays

import keras_ratchet


class Added:
    """Counts epochs, and lets the weights depend on the count."""

    epochs_seen = 0

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.epochs_seen += 1
        bias = self.model.layers[-1].bias
        bias.assign(keras.ops.add(bias, 0.01 * self.epochs_seen))


class OwnStopping(Added, keras_ratchet.EarlyStopping):
    pass


class OwnPlateau(Added, keras_ratchet.ReduceLROnPlateau):
    pass


class OwnLogger(Added, keras.callbacks.CSVLogger):
    pass


class SaysItself(OwnStopping):
    def state_dict(self):
        return {**super().state_dict(), "mine": self.epochs_seen}

    def load_state_dict(self, state):
        self.epochs_seen = state["mine"]
        super().load_state_dict({n: v for n, v in state.items() if n != "mine"})


class Unkept(keras_ratchet.EarlyStopping):
    def __init__(self):
        super().__init__("loss", patience=9)
        self.things = object()

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.things = object()


MAKERS = {
    "EarlyStopping": lambda path: OwnStopping("loss", patience=9),
    "ReduceLROnPlateau": lambda path: OwnPlateau("loss", patience=9),
    "CSVLogger": OwnLogger,
    "with a state_dict of its own": lambda path: SaysItself("loss", patience=9),
}


@pytest.mark.parametrize("saves", ["epoch", 3])
@pytest.mark.parametrize("name", MAKERS)
def test_what_a_subclass_adds_is_kept(name, saves, tmp_path):
    script = Script(
        str(tmp_path / "b"),
        numpy_arrays,
        callbacks=lambda: [MAKERS[name](str(tmp_path / "log.csv"))],
    )
    whole = script.uninterrupted(save_freq=saves)
    resumed = script.chain(Kill(17), save_freq=saves)
    assert resumed.callbacks[0].epochs_seen == whole.callbacks[0].epochs_seen == 3
    assert resumed.differences(whole) == []


def test_what_a_subclass_adds_and_cannot_be_kept_is_named(tmp_path):
    script = Script(str(tmp_path / "b"), numpy_arrays, callbacks=lambda: [Unkept()])
    with pytest.warns(UserWarning, match=r"Unkept\.things"):
        script.run()


def test_nothing_of_our_own_callbacks_is_taken_for_an_addition(tmp_path, recwarn):
    path = str(tmp_path / "best.weights.h5")
    script = Script(
        str(tmp_path / "b"),
        numpy_arrays,
        callbacks=lambda: [
            OwnStopping("loss", patience=9, restore_best_weights=True),
            type("Sub", (keras_ratchet.TerminateOnNaN,), {})(),
            type("Sub", (keras_ratchet.ReduceLROnPlateau,), {})("loss"),
            type("Sub", (keras_ratchet.ModelCheckpoint,), {})(path, "loss", save_weights_only=True),
        ],
    )
    script.run()
    assert [str(w.message) for w in recwarn if "lost" in str(w.message)] == []
