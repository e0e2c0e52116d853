"""Models that are not what `fit` hands to a callback: wrapped by torch, or not of Keras 3."""

import datetime

import keras
import numpy as np
import pytest
from support.models import data, dense, fit

import keras_ratchet
from keras_ratchet.errors import ConfigError


@pytest.fixture
def group():
    """One process that is a group of its own, for a minute at the most."""
    if keras.backend.backend() != "torch":
        pytest.skip("DistributedDataParallel is torch's")
    dist = pytest.importorskip("torch.distributed")
    if not dist.is_available():
        pytest.skip("torch was built without torch.distributed")
    store = dist.TCPStore("127.0.0.1", 0, 1, True, datetime.timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def callbacks_in(directory):
    return [
        keras_ratchet.EarlyStopping("loss", patience=1, restore_best_weights=True, mode="min"),
        keras_ratchet.ReduceLROnPlateau("loss", patience=1, restore_best_weights=True),
        keras_ratchet.ModelCheckpoint(directory / "best.keras", "loss", save_best_only=True),
        keras_ratchet.TerminateOnNaN(),
        keras_ratchet.BackupAndRestore(directory / "backup", delete_checkpoint=False),
    ]


@pytest.mark.filterwarnings("ignore:EarlyStopping restores by 'loss'")
def test_a_model_inside_distributed_data_parallel_is_seen_as_itself(group, tmp_path):
    import torch

    model = dense(optimizer=keras.optimizers.SGD(0.1))
    model.optimizer.build(model.trainable_variables)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    stop, plateau, save, terminate, _ = made = callbacks_in(tmp_path)
    hooks = keras.callbacks.CallbackList(made, model=wrapped, epochs=3)
    hooks.on_train_begin()
    weights = []
    for epoch, loss in enumerate([0.5, 0.9, 0.9]):
        hooks.on_epoch_begin(epoch)
        hooks.on_train_batch_begin(0)
        model.set_weights([w + 1 for w in model.get_weights()])
        weights.append(model.get_weights())
        hooks.on_train_batch_end(0, {"loss": loss})
        hooks.on_epoch_end(epoch, {"loss": loss})
        if model.stop_training:  # where Keras's callbacks put it, too
            break
    hooks.on_train_end()
    assert epoch == 1 and stop.stopped_epoch == 1
    assert all(callback._model is model for callback in made)
    assert [cut.after for cut in plateau.reductions] == [pytest.approx(0.01)]
    assert plateau.reductions[0].epoch == 1 and terminate.stop_reason is None
    for mine, best in zip(model.get_weights(), weights[0], strict=True):
        np.testing.assert_array_equal(mine, best)
    assert keras_ratchet.checkpoints(tmp_path)[0].fingerprint
    loaded = keras.models.load_model(tmp_path / "best.keras")
    assert loaded.optimizer.iterations == 0 and save.best == 0.5
    assert keras_ratchet.checkpoints(tmp_path / "backup")


def test_a_model_of_keras_2_is_refused_in_one_sentence():
    class Base:
        __module__ = "tf_keras.src.engine.training"

    class Mine(Base):
        stop_training = False

    for callback in (keras_ratchet.EarlyStopping(), keras_ratchet.TerminateOnNaN()):
        with pytest.raises(ConfigError, match=r"tf_keras.*needs Keras 3.*use tf_keras.callbacks"):
            callback.set_model(Mine())


def test_a_model_that_is_not_wrapped_is_left_as_it_is():
    model = dense(jit_compile=False)
    callback = keras_ratchet.EarlyStopping("loss", mode="min")
    fit(model, [callback], validation_data=data(8))
    assert callback._model is model
