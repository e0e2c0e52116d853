"""The files that Keras's own saver makes of a model, as bytes, and ours of the same moment."""

import contextlib
import io
import logging
import os
import threading
import zipfile

import h5py
import keras
from keras.src.legacy.saving import legacy_h5_format
from keras.src.saving import saving_lib

from keras_ratchet import ModelCheckpoint
from keras_ratchet._engine.saving.background import BackgroundWriter


def weights(model):
    """Return what Keras writes to a `.weights.h5` that is a file object."""
    buffer = io.BytesIO()
    store = saving_lib.H5IOStore(buffer, mode="w")
    saving_lib._save_state(model, store, None, "", set())
    store.close()
    return buffer.getvalue()


def archive(model):
    """Return what Keras writes to a `.keras`."""
    buffer = io.BytesIO()
    saving_lib.save_model(model, buffer)
    return buffer.getvalue()


def legacy(model):
    """Return what Keras writes to a `.h5` that is a file object."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as h5:
        legacy_h5_format.save_model_to_hdf5(model, h5)
    return buffer.getvalue()


BY_KERAS = {".weights.h5": weights, ".keras": archive, ".h5": legacy}


class Saves:
    """The saves of one ModelCheckpoint that writes beside training.

    Attributes:
        said: What was logged, from warnings on.
    """

    def __init__(self, model, suffix, directory, background=True):
        self.template = os.path.join(str(directory), "save-{epoch}" + suffix)
        weights_only = suffix == ".weights.h5"
        checkpoint = ModelCheckpoint(
            self.template, save_weights_only=weights_only, background=background
        )
        self.count, self.said = 0, []
        self._callbacks = keras.callbacks.CallbackList([checkpoint], model=model, add_history=False)
        self._listen = logging.Handler(logging.WARNING)
        self._listen.emit = lambda record: self.said.append(record.getMessage())
        logging.getLogger("keras_ratchet").addHandler(self._listen)
        self._callbacks.on_train_begin()

    def save(self, then=None):
        """Save, as the end of an epoch would; what comes `then` is done before the file is."""
        self._callbacks.on_epoch_begin(self.count)
        with held_up() if then else contextlib.nullcontext():
            self._callbacks.on_epoch_end(self.count, {"loss": 1.0})
            if then:
                then()
        self.count += 1

    def end(self):
        """Wait for all files; return their paths."""
        try:
            self._callbacks.on_train_end()
        finally:
            logging.getLogger("keras_ratchet").removeHandler(self._listen)
        return [self.template.format(epoch=i + 1) for i in range(self.count)]


@contextlib.contextmanager
def held_up():
    """Let no file be written within the block."""
    gate, before = threading.Event(), BackgroundWriter()
    before.start(lambda: gate.wait(60), None)
    try:
        yield
    finally:
        gate.set()
        before.wait()


def members(data):
    """Return the members of a `.keras` archive by name, in order."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.testzip() is None
        return {info.filename: opened.read(info) for info in opened.infolist()}
