"""`keras_ratchet.refit`: train again on all the data, for as long as was best."""

import keras
import numpy as np
import pytest
from support.averages import bits
from support.models import Curve, data, dense, fit

import keras_ratchet
from keras_ratchet.errors import ConfigError, UnknownDirectionError

CURVE = [3.0, 2.0, 1.0, 1.5, float("nan"), 1.2]  # three epochs are best


def make():
    keras.utils.set_random_seed(3)
    return dense(optimizer="adam")


@pytest.fixture(scope="module")
def runs():
    """An EarlyStopping of ours, one of Keras's and a History that have seen CURVE."""
    model = dense()
    ours = keras_ratchet.EarlyStopping(patience=9)
    theirs = keras.callbacks.EarlyStopping(patience=9)
    history = fit(model, [Curve(val_loss=CURVE[:4]), ours, theirs], epochs=4)
    return ours, theirs, history


def held_out():
    return data(12, seed=5)


class Seen(keras.callbacks.Callback):
    """Notes what `fit` was given, and how many steps it took."""

    def on_train_begin(self, logs=None):
        self.steps, self.epochs = [], 0

    def on_epoch_begin(self, epoch, logs=None):
        self.steps.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.steps[-1] += 1


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_the_new_model_is_trained_on_all_data_for_the_best_number_of_epochs(runs, which):
    result = [*runs, 3][which]
    arguments = {"batch_size": 8, "verbose": 0, "shuffle": False}
    model, history = keras_ratchet.refit(
        make, data(), result, validation_data=held_out(), **arguments
    )
    assert history.epoch == [0, 1, 2]
    by_hand = make()
    joined = [np.concatenate(pair) for pair in zip(data(), held_out(), strict=True)]
    by_hand.fit(*joined, epochs=3, **arguments)
    assert bits(model.get_weights()) == bits(by_hand.get_weights())
    assert not any(name.startswith("val_") for name in history.history)


def test_as_many_steps_as_the_best_epoch_had(runs):
    seen = Seen()  # 32 rows in batches of 8: 4 steps an epoch, 12 until the best; now 44 rows, 6
    arguments = {"batch_size": 8, "verbose": 0, "callbacks": seen}
    for result in (runs[0], runs[2], 12):
        model, _ = keras_ratchet.refit(
            make, data(), result, validation_data=held_out(), match="steps", **arguments
        )
        assert seen.steps == [6, 6] and int(model.optimizer.iterations) == 12
    keras_ratchet.refit(make, data(), 9, validation_data=held_out(), match="steps", **arguments)
    assert seen.steps == [6, 3]
    keras_ratchet.refit(make, data(), 9, match="steps", **{**arguments, "batch_size": 32})
    assert seen.steps == [1] * 9  # more epochs than before, if they have fewer steps


def test_sample_weights_and_structures_are_joined():
    def two_inputs():
        inputs = {name: keras.Input((4,), name=name) for name in ("a", "b")}
        outputs = keras.layers.Dense(1)(keras.layers.Add()(list(inputs.values())))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse")
        train = model.fit

        def note(x, **arguments):
            given.update(arguments, x=x)
            return train(x, **arguments)

        object.__setattr__(model, "fit", note)
        return model

    given = {}
    (x, y), (x_val, y_val) = data(), held_out()
    weights = np.full(len(x_val), 0.5, "float32")
    keras_ratchet.refit(
        two_inputs,
        ({"a": x, "b": x}, y),
        1,
        validation_data=({"a": x_val, "b": x_val}, y_val, weights),
        verbose=0,
    )
    np.testing.assert_array_equal(given["x"]["b"], np.concatenate([x, x_val]))
    np.testing.assert_array_equal(given["sample_weight"], [1.0] * len(x) + [0.5] * len(x_val))


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, **arguments):
        super().__init__(**arguments)
        self.x, self.y, self.ended = x, y, 0

    def __len__(self):
        return len(self.x) // 4

    def __getitem__(self, index):
        part = slice(index * 4, index * 4 + 4)
        return self.x[part], self.y[part]

    def on_epoch_end(self):
        self.ended += 1


def test_data_sets_of_one_kind_are_joined():
    seen = Seen()
    first, second = Batches(*data()), Batches(*held_out())
    arguments = {"verbose": 0, "callbacks": [seen]}
    keras_ratchet.refit(make, first, 2, validation_data=second, shuffle=False, **arguments)
    assert seen.steps == [11, 11] and first.ended and second.ended
    keras_ratchet.refit(make, first, 15, validation_data=second, match="steps", **arguments)
    assert seen.steps == [11, 4]
    tensorflow = pytest.importorskip("tensorflow")
    sets = [tensorflow.data.Dataset.from_tensor_slices(d).batch(4) for d in (data(), held_out())]
    keras_ratchet.refit(make, sets[0], 2, validation_data=sets[1], **arguments)
    assert seen.steps == [11, 11]


def test_a_whole_data_set_needs_no_joining():
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(*map(torch.from_numpy, data()))
    loader = torch.utils.data.DataLoader(pairs, batch_size=4)
    seen = Seen()
    keras_ratchet.refit(make, loader, 10, match="steps", verbose=0, callbacks=[seen])
    assert seen.steps == [8, 2]
    with pytest.raises(ConfigError, match=r"DataLoader.*cannot be concatenated"):
        keras_ratchet.refit(make, loader, 2, validation_data=held_out())


def test_a_history_tells_the_best_epoch_by_any_metric(runs):
    history = keras.callbacks.History()
    history.set_model(dense())
    history.on_train_begin()
    history.epoch = [2, 3, 4]  # a fit with initial_epoch=2
    history.history = {"val_loss": [2.0, float("nan"), 1.0], "val_f1": [0.1, 0.9, 0.2]}
    for arguments, epochs in (({}, 5), ({"monitor": "val_f1", "mode": "max"}, 4)):
        _, found = keras_ratchet.refit(make, data(), history, verbose=0, **arguments)
        assert len(found.epoch) == epochs
    with pytest.raises(UnknownDirectionError, match="'val_f1' is better"):
        keras_ratchet.refit(make, data(), history, monitor="val_f1")
    with pytest.raises(ConfigError, match=r"'val_lss'.*val_loss"):
        keras_ratchet.refit(make, data(), history, monitor="val_lss")
    history.history["val_loss"] = [1.0]
    with pytest.raises(ConfigError, match=r"1 values of 'val_loss' and 3 epochs"):
        keras_ratchet.refit(make, data(), history)
    history.history["val_loss"] = [float("nan")] * 3
    with pytest.raises(ConfigError, match="NaN in every epoch"):
        keras_ratchet.refit(make, data(), history)


@pytest.mark.parametrize(
    ("result", "arguments", "match"),
    [
        (0, {}, "at least 1. Got: 0"),
        (True, {}, "Got: True"),
        ("3", {}, "an EarlyStopping, a History"),
        (3, {"match": "batches"}, "'epochs', 'steps'"),
        (3, {"epochs": 4}, "excludes epochs"),
        (3, {"validation_split": 0.1}, "excludes validation_split"),
        (keras_ratchet.EarlyStopping(), {}, "EarlyStopping has no best epoch"),
        (keras.callbacks.EarlyStopping(), {}, "EarlyStopping has no best epoch"),
        (3, {"validation_data": (np.zeros((2, 4)),)}, "do not fit together"),
        (3, {"validation_data": held_out()[::-1]}, "do not fit together"),
    ],
)
def test_what_cannot_work_is_refused(result, arguments, match):
    with pytest.raises(ConfigError, match=match):
        keras_ratchet.refit(make, data(), result, **arguments)


def test_steps_that_nobody_counted_and_models_that_cannot_train_are_refused(runs):
    result = keras_ratchet.EarlyStopping()
    result.best_value, result.best_epoch, result.params = 1.0, 4, {"steps": None}
    with pytest.raises(ConfigError, match=r"result=5 \* steps_per_epoch"):
        keras_ratchet.refit(make, data(), result, match="steps")
    with pytest.raises(ConfigError, match="compiled Keras model"):
        keras_ratchet.refit(keras.Sequential, data(), 1)
