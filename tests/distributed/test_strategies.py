"""TensorFlow's strategies: on devices of one process a run resumes; several are refused."""

import json

import keras
import pytest
from support import processes

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the scripts choose their own backends"
)
MIRRORED = """
import hashlib, json, os, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, parts)
import h5py, keras, numpy as np
import keras_ratchet as kr
from support.rank import kill_myself

class Kill(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.batches = 0
    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == 10 and what == "kill":
            kill_myself()

def stored(path):
    digest = hashlib.md5()
    with h5py.File(path) as file:
        file.visititems(lambda _, o: digest.update(o[()].tobytes() if hasattr(o, "dtype") else b""))
    return digest.hexdigest()

def train(where):
    os.makedirs(where, exist_ok=True)
    keras.utils.set_random_seed(1)
    x = np.random.normal(size=(48, 3)).astype("float32")
    y = x.sum(1, keepdims=True)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        layers = [keras.Input((3,)), keras.layers.Dense(4), keras.layers.BatchNormalization()]
        model = keras.Sequential([*layers, keras.layers.Dropout(0.2), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    stopper = kr.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    plateau = kr.ReduceLROnPlateau("val_loss", patience=0)
    callbacks = [
        kr.BackupAndRestore(f"{where}/backup", save_freq=4, delete_checkpoint=False),
        kr.ModelCheckpoint(f"{where}/best.weights.h5", "val_loss", save_best_only=True,
                           save_weights_only=True),
        stopper, plateau, kr.TerminateOnNaN(), Kill(),
    ]
    history = model.fit(x, y, validation_data=(x[::-1], y * 0.9), batch_size=8, epochs=4,
                        verbose=0, callbacks=callbacks)
    digest = hashlib.md5()
    variables = [*model.variables, *model.optimizer.variables]
    for variable in variables:
        for replica in strategy.experimental_local_results(variable.value):
            digest.update(replica.numpy().tobytes())
    replicas = len(strategy.experimental_local_results(model.variables[0].value))
    return {
        "replicas": replicas,
        "values": digest.hexdigest(),
        "history": {name: list(map(float, values)) for name, values in history.history.items()},
        "decisions": [stopper.best_epoch, stopper.wait, plateau.cooldown_counter, plateau.wait],
        "best": stored(f"{where}/best.weights.h5"),
        "resumed": str(callbacks[0].resumed_from),
    }

for plan in sys.argv[2:]:
    name, _, what = plan.partition(":")
    print("RESULT", name, json.dumps(train(f"{sys.argv[1]}/{name}")), flush=True)
"""
SEVERAL = """
import os, sys, time
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
import keras
import keras_ratchet as kr
from keras_ratchet.errors import ConfigError

def refused(action):
    try:
        action()
    except ConfigError as error:
        print("REFUSED", error, flush=True)

with strategy.scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    refused(lambda: kr.EarlyStopping("loss"))
callback = kr.EarlyStopping("loss")
refused(lambda: callback.set_model(model))
refused(lambda: next(kr.Run(f"{sys.argv[1]}/run", model).epochs(1)))
rank = int(os.environ["RANK"])
open(f"{sys.argv[1]}/{rank}", "w").close()
while not os.path.exists(f"{sys.argv[1]}/{1 - rank}"):
    time.sleep(0.05)
os._exit(0)  # nobody waits for the other one's end
"""
ON_TENSORFLOW = {"KERAS_BACKEND": "tensorflow"}


def launch(where, *plans, code=0):
    options = {"world_size": 1, "env": ON_TENSORFLOW, "limit_s": 400}
    (ended,) = processes.run("torch", MIRRORED, [where, *plans], **options)
    assert ended.code == code, ended.output
    lines = [line.split(" ", 2) for line in ended.output.splitlines()]
    return {line[1]: json.loads(line[2]) for line in lines if line[0] == "RESULT"}


def test_a_run_under_mirrored_strategy_resumes_with_the_values_of_each_replica(tmp_path):
    straight = launch(tmp_path, "straight", "killed:kill", code=-9)["straight"]
    resumed = launch(tmp_path, "killed")["killed"]
    assert straight["replicas"] == 2
    assert straight.pop("resumed") == "None"
    assert "epoch=1, batch=2" in resumed.pop("resumed")
    assert resumed == straight


def test_strategies_over_several_processes_are_refused_by_name(tmp_path):
    workers = [f"127.0.0.1:{processes.free_port()}" for _ in range(2)]

    def env(rank):
        task = {"type": "worker", "index": rank}
        config = {"cluster": {"worker": workers}, "task": task}
        return ON_TENSORFLOW | {"TF_CONFIG": json.dumps(config)}

    ended = processes.run("torch", SEVERAL, [tmp_path], env=env, limit_s=300)
    assert [one.code for one in ended] == [0, 0], processes.report(ended)
    for one in ended:
        said = [line for line in one.output.splitlines() if line.startswith("REFUSED")]
        assert len(said) == 3, one.output
        assert all("cannot train with CollectiveAllReduceStrategy" in line for line in said)
        assert all("Use MirroredStrategy" in line for line in said)
