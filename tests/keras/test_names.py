"""Canaries: every private Keras name that we touch is still there and still means the same."""

import inspect

import keras
import numpy as np
from support.models import data, dense

from keras_ratchet._keras import fit
from keras_ratchet._keras.anatomy import (
    batch_normalizations,
    built_for,
    layers_of,
    own_variables,
)
from keras_ratchet._keras.callbacks import calling_list
from keras_ratchet._keras.ema import ema_pairs, is_swapped
from keras_ratchet._keras.metrics import is_running_mean, metric_direction, metrics_are_known
from keras_ratchet._keras.seeds import global_seed_state, has_global_seed


def test_the_savers_still_take_what_we_give_them():
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.saving import saving_lib

    names = inspect.signature(saving_lib._save_state).parameters
    assert list(names) == [
        "saveable",
        "weights_store",
        "assets_store",
        "inner_path",
        "visited_saveables",
    ]
    assert "archive" in inspect.signature(saving_lib.H5IOStore).parameters
    assert list(inspect.signature(legacy_h5_format.save_model_to_hdf5).parameters)[:2] == [
        "model",
        "filepath",
    ]


def test_metric_directions_are_found_by_their_name_in_the_logs():
    model = dense(metrics=["mae", "accuracy"])
    assert not metrics_are_known(model)
    model.fit(*data(), verbose=0)
    assert metrics_are_known(model)
    assert metric_direction(model, "val_mae") == "min"
    assert metric_direction(model, "accuracy") == "max"
    assert metric_direction(model, "val_decoder_loss") == "min"
    assert metric_direction(model, "val_bleu") is None


def test_the_loss_in_the_logs_of_a_batch_is_a_mean_that_counts():
    model = dense(metrics=["mae", "auc"])
    assert not is_running_mean(model, "loss")  # nothing is counted yet
    x, y = data()
    model.fit(x, y > 0, verbose=0)
    assert is_running_mean(model, "loss") and is_running_mean(model, "mae")
    assert not is_running_mean(model, "auc") and not is_running_mean(model, "f1")


def test_metrics_that_are_not_built_yet_are_known_by_their_names():
    model = dense(metrics=["mae", keras.metrics.R2Score()], weighted_metrics=["mse"])
    assert metrics_are_known(model, ["val_bleu", "val_decoder_loss"])
    for name in ("val_mae", "out_r2_score", "mse"):
        assert not metrics_are_known(model, ["val_bleu", name])


def test_per_output_metrics_are_found():
    inputs = keras.Input((4,))
    outputs = {n: keras.layers.Dense(1, name=n)(inputs) for n in ("a", "b")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"a": "mse", "b": "mse"}, metrics={"a": ["mae"], "b": ["accuracy"]})
    x, y = data()
    model.fit(x, {"a": y, "b": y}, verbose=0)
    assert metric_direction(model, "val_a_mae") == "min"
    assert metric_direction(model, "b_accuracy") == "max"


def test_a_callback_finds_the_list_it_is_in():
    found = []

    class Finder(keras.callbacks.Callback):
        def set_model(self, model):
            super().set_model(model)
            found.append(calling_list())

    bare = keras.callbacks.CallbackList(Finder(), model=dense())
    listed = keras.callbacks.CallbackList([Finder()], add_history=True, model=dense())
    assert found == [bare, listed]
    alone = Finder()
    alone.set_model(dense())
    assert found[-1] is None
    assert hasattr(bare, "_async_train")


def test_the_swap_of_averages_is_where_we_think():
    model = dense(optimizer=keras.optimizers.SGD(0.1, use_ema=True))
    model.fit(*data(), verbose=0)
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    pairs = ema_pairs(model.optimizer)
    assert [id(w) for w, _ in pairs] == [id(w) for w in model.trainable_variables]
    average = np.array(keras.ops.convert_to_numpy(pairs[0][1]))
    assert not is_swapped(swap)
    swap.on_test_begin()
    assert is_swapped(swap)
    assert np.allclose(keras.ops.convert_to_numpy(pairs[0][0]), average)
    swap.on_test_end()


def test_fit_still_has_the_private_first_epoch():
    assert "_initial_epoch" in vars(dense())


def test_a_callback_finds_what_fit_validates_on():
    found = []

    class Finder(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found.append(fit.evaluate_arguments())

        on_train_end = on_train_begin

    x, y = data()
    weights = np.ones(len(x), "float32")
    arguments = {"verbose": 0, "callbacks": [Finder()], "batch_size": 8}
    dense().fit(x, y, **arguments)
    assert found == [{"batch_size": 8}] * 2
    found.clear()
    more = {"validation_batch_size": 4, "validation_steps": 2}
    dense().fit(x, y, validation_data=(x, y, weights), **more, **arguments)
    for seen in found:
        assert seen["x"] is x and seen["y"] is y and seen["sample_weight"] is weights
        assert (seen["batch_size"], seen["steps"]) == (4, 2)
    found.clear()
    dense().fit(x, y, validation_split=0.25, **arguments)
    assert len(found[1]["x"]) == 8 and found[1]["batch_size"] == 8
    assert fit.evaluate_arguments() == {}


def test_normalization_layers_are_found_at_any_depth():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="inner")])
    model = keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(2)])
    assert [layer.name for layer in batch_normalizations(model)] == ["inner"]
    assert hasattr(inner.layers[0], "momentum")


def test_the_global_seed_generator_is_the_one_that_keras_draws_from():
    keras.utils.set_random_seed(3)
    assert has_global_seed()
    before = np.array(keras.ops.convert_to_numpy(global_seed_state(create=True)))
    keras.random.uniform((2,))
    after = keras.ops.convert_to_numpy(global_seed_state())
    assert not np.array_equal(before, after)
    keras.utils.clear_session()
    assert not has_global_seed() and global_seed_state() is None


def test_a_layer_owns_its_variables_and_seeds_and_those_of_no_other():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    model = keras.Sequential([keras.Input((3,)), inner, keras.layers.BatchNormalization()])
    owned = [variable for layer in layers_of(model) for variable in own_variables(layer)]
    assert len(owned) == len({id(variable) for variable in owned}) == 2 + 1 + 4
    inner.trainable = False
    assert {id(v) for x in layers_of(model) for v in own_variables(x)} == {id(v) for v in owned}
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    assert [id(v) for v in built_for(optimizer)] == [id(v) for v in model.trainable_variables]
