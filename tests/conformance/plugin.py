"""pytest plugin (`-p`): puts our classes in Keras's place before its own tests are collected."""

from keras.src import callbacks

import keras_ratchet

OURS = (
    "EarlyStopping",
    "ModelCheckpoint",
    "MonitorCallback",
    "BackupAndRestore",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
)
for name in OURS:
    setattr(callbacks, name, getattr(keras_ratchet, name))


def pytest_configure(config):
    config.addinivalue_line("markers", "requires_trainable_backend: a mark of Keras's own suite")
