"""Buffers of torch modules hold what a model predicts with, though they are no Keras variables."""

import os

import keras
import numpy as np
import pytest

import keras_ratchet
from keras_ratchet._engine.averaging.moving_statistics import StatisticsData, reestimate

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch's modules live on torch only"
)


def data():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    return x, x.sum(1, keepdims=True)


def made():
    import torch

    keras.utils.set_random_seed(0)
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    layers = [keras.Input((4,)), keras.layers.TorchModuleWrapper(module)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model, module[0]


@pytest.mark.parametrize(
    "callback",
    [
        keras_ratchet.TerminateOnNaN,
        lambda: keras_ratchet.Rollback(factor=1.0, every=1, confirm=0),
    ],
)
def test_going_back_restores_buffers_that_are_nan(callback):
    x, y = data()
    x[50] = np.nan
    model, norm = made()
    model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0, callbacks=[callback()])
    assert np.isfinite(norm.running_mean.numpy()).all()
    assert np.isfinite(model.predict(data()[0], verbose=0)).all()


def test_best_weights_come_with_their_buffers():
    model, norm = made()
    seen = []

    class Other(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["fake"] = float(epoch)
            seen.append(norm.running_mean.numpy().copy())

    stop = keras_ratchet.EarlyStopping("fake", mode="min", restore_best_weights=True, patience=9)
    count = len(model.get_weights())
    kept = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(len(stop.best_weights))
    )
    model.fit(*data(), epochs=3, verbose=0, callbacks=[Other(), stop, kept])
    assert seen[1] == count
    np.testing.assert_array_equal(norm.running_mean.numpy(), seen[0])
    assert not np.array_equal(seen[0], seen[2])


def test_a_model_whose_buffers_are_nan_is_not_saved_as_the_best(tmp_path):
    model, norm = made()

    class Poison(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            norm.running_mean[0] = np.nan

    path = str(tmp_path / "best.weights.h5")
    best = keras_ratchet.ModelCheckpoint(
        path, "loss", save_best_only=True, save_weights_only=True, verbose=0
    )
    with pytest.warns(UserWarning, match="running_mean' is not finite"):
        model.fit(*data(), epochs=1, verbose=0, callbacks=[Poison(), best])
    assert not os.path.exists(path)


def test_buffers_are_estimated_anew_for_an_average():
    x, _ = data()
    model, norm = made()
    norm.running_mean[:] = 7
    reestimate(model, StatisticsData(x, 16))
    np.testing.assert_allclose(norm.running_mean.numpy(), x.mean(0), rtol=1e-4, atol=1e-6)
    assert norm.momentum == 0.1


def test_an_average_without_data_is_refused_because_of_buffers():
    x, y = data()
    model, _ = made()
    stop = keras_ratchet.EarlyStopping(
        "val_loss", restore_best_weights=True, patience=9, average="mean", average_k=2
    )
    with pytest.warns(UserWarning, match="moving statistics .*running_mean"):
        model.fit(x, y, epochs=2, verbose=0, callbacks=[stop], validation_data=(x, y))
