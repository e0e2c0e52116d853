"""pytest plugin (`-p`): puts our classes in Keras's place before its own tests are collected."""

from keras.src import callbacks

import keras_ratchet
from keras_ratchet import EarlyStopping, ModelCheckpoint, MonitorCallback

assert keras_ratchet.EarlyStopping is EarlyStopping
callbacks.EarlyStopping = EarlyStopping
callbacks.ModelCheckpoint = ModelCheckpoint
callbacks.MonitorCallback = MonitorCallback


def pytest_configure(config):
    config.addinivalue_line("markers", "requires_trainable_backend: a mark of Keras's own suite")
