"""Is a resumed run equal bit for bit on an accelerator, and does a file hold the hook's values?

Everything runs in one process: an exception cuts a run, all random streams are moved elsewhere, and
new objects resume. Each case is trained twice without a cut first: what is not
reproducible by itself is told as such, and says nothing about a resume.
"""

import contextlib
import random
import tempfile
import time
import warnings
from pathlib import Path

import keras
import numpy as np

import keras_ratchet

EPOCHS, BATCH, ROWS = 3, 32, 320
CUT_AFTER = 14  # batches, in the second epoch
CASES = {
    "float32, dropout": {},
    "convolutions, BatchNormalization": {"kind": "image"},
    "attention": {"kind": "text"},
    "mixed_bfloat16": {"policy": "mixed_bfloat16"},
    "mixed_float16, loss scale": {"policy": "mixed_float16"},
    "moving averages, accumulated gradients": {
        "optimizer": {"use_ema": True, "ema_momentum": 0.9, "gradient_accumulation_steps": 2}
    },
    "compiled (jit_compile=True)": {"jit_compile": True, "only": "torch"},  # jax always is
    "a generator on the device": {"kind": "noise", "only": "torch"},
    "a kernel that is not deterministic": {"kind": "resized", "only": "torch"},
}


class Noise(keras.layers.Layer):
    """Draws from a generator of its own on the device, as layers written for torch do."""

    def build(self, shape):
        import torch

        self.generator = torch.Generator("cuda" if torch.cuda.is_available() else "cpu")
        self.generator.manual_seed(5)

    def call(self, x, training=False):
        import torch

        if not training:
            return x
        return x + 0.1 * torch.randn(x.shape, generator=self.generator, device=x.device)

    def compute_output_spec(self, x, training=False):
        return keras.KerasTensor(x.shape, x.dtype)


class Cut(Exception):
    """Stands for the end of the process."""


class CutAfter(keras.callbacks.Callback):
    """Ends the run after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Cut


def network(case):
    """Return a compiled model and its data."""
    rng = np.random.default_rng(1)
    kind = case.get("kind", "dense")
    if kind in ("image", "resized"):
        x = rng.normal(size=(ROWS, 16, 16, 3)).astype("float32")
        stack = [keras.layers.Conv2D(16, 3), keras.layers.BatchNormalization()]
        if kind == "resized":  # whose gradient is summed in any order on CUDA
            stack += [keras.layers.UpSampling2D(2, interpolation="bilinear")]
        stack += [keras.layers.ReLU(), keras.layers.Flatten()]
    elif kind == "text":
        x = rng.integers(0, 50, size=(ROWS, 12))
        inputs = keras.Input((12,))
        hidden = keras.layers.Embedding(50, 32)(inputs)
        hidden = keras.layers.MultiHeadAttention(2, 16, dropout=0.2)(hidden, hidden)
        stack = [keras.Model(inputs, hidden), keras.layers.Flatten()]
    else:
        x = rng.normal(size=(ROWS, 64)).astype("float32")
        stack = [keras.layers.Dense(128, activation="relu")]
        stack += [Noise()] if kind == "noise" else []
    y = rng.integers(0, 4, ROWS)
    head = [keras.layers.Dropout(0.3), keras.layers.Dense(4, dtype="float32")]
    model = keras.Sequential([keras.Input(x.shape[1:]), *stack, *head])
    model.compile(
        keras.optimizers.Adam(1e-3, **case.get("optimizer", {})),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=case.get("jit_compile", keras.backend.backend() == "jax"),
    )
    return model, x, y


def train(case, directory, cut=None, seed=7):
    """Train with new objects; return what has to be equal, or None if the run was cut."""
    keras.backend.clear_session()
    keras.config.set_dtype_policy(case.get("policy", "float32"))
    keras.utils.set_random_seed(seed if cut is not False else random.randrange(1 << 30))
    model, x, y = network(case)
    if cut is False:  # a resumed run draws its first numbers elsewhere
        keras.utils.set_random_seed(random.randrange(1 << 30))
    backup = keras_ratchet.BackupAndRestore(directory, save_freq=4, background=True)
    callbacks = [backup, *([CutAfter(cut)] if cut else [])]
    try:
        history = model.fit(
            x,
            y,
            batch_size=BATCH,
            epochs=EPOCHS,
            validation_split=0.2,
            verbose=0,
            callbacks=callbacks,
        )
    except Cut:
        backup.flush()
        return None
    values = [*model.variables, *model.optimizer.variables]
    arrays = [np.asarray(keras.ops.convert_to_numpy(v)) for v in values]
    return {
        "variables": [array.tobytes() for array in arrays],
        "history": repr(history.history),
    }


def differences(one, other):
    """Return what differs: the number of variables, and whether History does."""
    pairs = zip(one["variables"], other["variables"], strict=True)
    different = sum(a != b for a, b in pairs)
    found = [f"{different} of {len(one['variables'])} variables"] if different else []
    return found + (["History"] if one["history"] != other["history"] else [])


@contextlib.contextmanager
def warnings_of_kernels(told):
    """Add to a list the kernels that torch has called not deterministic, each once."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        yield
    texts = {str(entry.message).split("\n")[0] for entry in record}
    told += sorted(text for text in texts if "deterministic implementation" in text)


def resumes(found):
    """Fill in case -> what differs after a resume; "not reproducible" where two runs differ."""
    for name, case in CASES.items():
        if case.get("only", keras.backend.backend()) != keras.backend.backend():
            continue
        began = time.time()
        told = []
        try:
            with (
                warnings_of_kernels(told),
                tempfile.TemporaryDirectory() as a,
                tempfile.TemporaryDirectory() as b,
            ):
                whole = train(case, a)
                again = train(case, a)
                assert train(case, b, cut=CUT_AFTER) is None
                resumed = train(case, b, cut=False)
            control = differences(whole, again)
            left = differences(whole, resumed)
            if control:
                outcome = "not reproducible in itself: " + ", ".join(control)
            else:
                outcome = "differs: " + ", ".join(left) if left else "equal"
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:300]}"
        if told:
            outcome += f"; {len(told)} warning{'s' * (len(told) > 1)} of torch named a kernel"
        found[name] = f"{outcome} ({time.time() - began:.0f} s)"
        yield name, found[name]
    keras.config.set_dtype_policy("float32")


class Copies(keras.callbacks.Callback):
    """Precedes a ModelCheckpoint, and records the model's values in the hook."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append([np.array(w) for w in self.model.get_weights()])


def hook_values(epochs=12, width=1024):
    """Return "equal" if files written in the background have the values of their hooks."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(width) for _ in range(4)]
    model = keras.Sequential([keras.Input((width,)), *layers])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, width)).astype("float32")
    copies = Copies()
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "{epoch}.weights.h5")
        saver = keras_ratchet.ModelCheckpoint(path, save_weights_only=True, background=True)
        model.fit(x, x, batch_size=8, epochs=epochs, verbose=0, callbacks=[copies, saver])
        wrong = 0
        for epoch, weights in enumerate(copies.weights):
            model.load_weights(path.format(epoch=epoch + 1))
            pairs = zip(weights, model.get_weights(), strict=True)
            wrong += any(a.tobytes() != b.tobytes() for a, b in pairs)
    return "equal" if not wrong else f"{wrong} of {epochs} files hold other values"


def measure():
    """Yield all results so far after each case."""
    warnings.simplefilter("ignore")
    keras.config.disable_traceback_filtering()
    figures = {"values of the hook": hook_values(), "resumed": {}}
    yield figures
    for answer in resumes(figures["resumed"]):
        print(*answer, flush=True)
        yield figures
