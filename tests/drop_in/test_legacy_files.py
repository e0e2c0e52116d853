"""Files that Keras writes or reads wrong: `.h5` by name of loss, the optimizer lost, safe mode."""

import keras
import numpy as np
import pytest
from support.models import data, dense, fit
from support.runs import KERAS_IS_AS_DESCRIBED

import keras_ratchet
from keras_ratchet._keras import legacy_h5


def optimizer_of(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]


def assert_same(loaded, model):
    """Weights, optimizer and what `compile` was told are the same: they train on alike."""
    assert type(loaded.optimizer) is type(model.optimizer)
    for found, expected in zip(optimizer_of(loaded), optimizer_of(model), strict=True):
        np.testing.assert_array_equal(found, expected)
    logs = [fit(m, [], 1, shuffle=False).history for m in (loaded, model)]
    assert logs[0] == logs[1]
    for found, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": "mse"},
        {"loss": "mse", "metrics": ["mae", "mse"]},
        {"loss": ["mae"], "weighted_metrics": ["mape"]},
        {"loss": keras.losses.LogCosh("sum"), "metrics": [keras.metrics.MeanAbsoluteError("off")]},
    ],
    ids=["loss", "metrics", "lists", "objects"],
)
def test_an_h5_file_is_loaded_with_all_that_compile_was_told(arguments, tmp_path):
    model = dense()
    model.compile(keras.optimizers.Adam(0.01), **arguments)
    path = tmp_path / "best.h5"
    fit(model, [keras_ratchet.ModelCheckpoint(path, monitor="loss")], 2)
    if KERAS_IS_AS_DESCRIBED and "mse" in str(arguments):
        with pytest.raises((ValueError, TypeError), match="Could not"):
            keras.models.load_model(path)
    assert_same(keras_ratchet.load_model(path), model)


@pytest.mark.parametrize("module", [keras_ratchet, keras], ids=["ours", "of Keras"])
def test_a_keras_file_after_an_h5_file_has_its_optimizer(module, tmp_path):
    model = dense()
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    legacy = (module if module is keras_ratchet else keras.callbacks).ModelCheckpoint(
        tmp_path / "a.h5", monitor="loss"
    )
    fit(model, [legacy, keras_ratchet.ModelCheckpoint(tmp_path / "b.keras", "loss")], 2)
    assert_same(keras.models.load_model(tmp_path / "b.keras"), model)


def test_a_failing_h5_save_does_not_take_the_optimizer_either(monkeypatch):
    from keras.src.legacy.saving import saving_utils

    model = dense()
    monkeypatch.setattr(saving_utils, "_serialize_nested_config", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        legacy_h5.attributes_of(model)
    assert "optimizer" in model._compile_config.config


def twice():
    inner = keras.layers.Lambda(lambda x: x * 2)
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("name", ["best.keras", "best.h5"])
def test_a_lambda_is_loaded_if_the_file_is_trusted(name, tmp_path):
    model = twice()
    fit(model, [keras_ratchet.ModelCheckpoint(tmp_path / name, monitor="loss")])
    with pytest.raises(ValueError, match="safe_mode"):
        keras_ratchet.load_model(tmp_path / name)
    loaded = keras_ratchet.load_model(tmp_path / name, safe_mode=False)
    np.testing.assert_array_equal(*(m.predict(data()[0], verbose=0) for m in (loaded, model)))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="a torch module needs torch")
def test_a_torch_module_is_loaded_if_the_file_is_trusted(tmp_path):
    import torch
    from keras.layers import TorchModuleWrapper

    wrapped = TorchModuleWrapper(torch.nn.Linear(4, 3), output_shape=(None, 3))
    model = keras.Sequential([keras.Input((4,)), wrapped, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    fit(model, [keras_ratchet.ModelCheckpoint(tmp_path / "best.keras", monitor="loss")])
    loaded = keras_ratchet.load_model(tmp_path / "best.keras", safe_mode=False)
    np.testing.assert_allclose(
        *(m.predict(data()[0], verbose=0) for m in (loaded, model)), rtol=1e-6
    )


def test_custom_objects_and_compile_are_handed_on(tmp_path):
    class Own(keras.layers.Dense):
        pass

    model = keras.Sequential([keras.Input((4,)), Own(1)])
    model.compile("sgd", "mse")
    model.save(tmp_path / "own.keras")
    keras_ratchet.verify(tmp_path / "own.keras")
    with pytest.warns(UserWarning, match="unverified"):
        loaded = keras_ratchet.load_model(
            tmp_path / "own.keras", custom_objects={"Own": Own}, compile=False
        )
    assert not loaded.compiled
