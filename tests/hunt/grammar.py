"""What a training script can be made of: independent features, and a seeded sampler of them.

A case is a set of features and the points at which it is killed. A feature says all about itself
by its name, so that one can be dropped and the others stay what they are.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import keras
import numpy as np
from hunt import parts

import keras_ratchet
from keras_ratchet.data import ResumableDataset, resumable

ALL = ("torch", "tensorflow", "jax")
HOST = ("torch", "tensorflow")


@dataclass
class Plan:
    """A training script in the making; every part is a function that makes it anew."""

    family: str = "functional"
    layers: list = field(default_factory=list)
    dtype: str = "float32"
    own_step: bool = False
    second: str | None = None
    late: bool = False
    stateful: bool = False
    frozen: bool = False
    outputs: int = 1
    optimizer: Callable = lambda **how: keras.optimizers.Adam(**{"learning_rate": 1e-2, **how})
    optimizer_args: dict = field(default_factory=dict)
    schedule: Callable | None = None
    scaled: bool = False
    compile_args: dict = field(default_factory=dict)
    metrics: list = field(default_factory=list)
    source: str = "arrays"
    size: int = 4
    weighted: bool = False
    validation: str | None = None
    fit: dict = field(default_factory=dict)
    callbacks: list = field(default_factory=list)
    backup: dict = field(default_factory=dict)
    script: str = "one fit"
    reference_has_backup: bool = True
    backup_at: int | None = None  # its place in the list of callbacks
    made: dict = field(default_factory=dict)

    # -- the model ---------------------------------------------------------------------------

    def model(self):
        """Return the compiled model."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype)
        try:
            net = self._net()
        finally:
            keras.config.set_dtype_policy(before)
        if self.frozen:
            next(la for la in net.layers if la.weights).trainable = False
        metrics = [make() for make in self.metrics]
        weighted = [keras.metrics.MeanSquaredError(name="weighted")] if self.weighted else None
        arguments = {
            "loss": ["mse"] * self.outputs if self.outputs > 1 else "mse",
            "metrics": [metrics, []] if self.outputs > 1 else metrics,
            "weighted_metrics": [weighted, []] if weighted and self.outputs > 1 else weighted,
            "jit_compile": self._has_branches,
            **self.compile_args,
        }
        net.compile(self._optimizer(), **arguments)
        self._give_optimizers(net)
        return net

    @property
    def _has_branches(self):
        """Whether the optimizer has branches, which JAX compiles at each step if nothing else."""
        branches = self.scaled or "16" in self.dtype or "gradient_acc" in str(self.optimizer_args)
        return keras.backend.backend() == "jax" and branches

    def compile_again(self, net):
        """Compile a model for the second stage of a script, with a smaller rate."""
        optimizer = self._optimizer(learning_rate=2e-3)
        net.compile(optimizer, loss=net.loss, jit_compile=False)

    def _optimizer(self, **how):
        how = {**self.optimizer_args, **how}
        if self.schedule is not None:
            how["learning_rate"] = self.schedule()
        optimizer = self.optimizer(**how)
        return keras.optimizers.LossScaleOptimizer(optimizer) if self.scaled else optimizer

    def _give_optimizers(self, net):
        if self.late:
            net.late = "wanted"
        if self.second == "torch":
            net.give_torch()
        elif self.second:
            net.give(self.second, keras.optimizers.Adam(2e-2))

    def _net(self):
        kind = parts.OwnStep if self.own_step else keras.Model
        stack = [make() for make in self.layers]
        stack += [keras.layers.Dense(6, activation="relu"), keras.layers.Dropout(0.3)]
        heads = [
            keras.layers.Dense(1, activation="sigmoid", dtype="float32", name=f"out{i}")
            for i in range(self.outputs)
        ]
        shape = {"batch_shape": (4, parts.WIDTH)} if self.stateful else {"shape": (parts.WIDTH,)}
        if self.family == "subclassed":
            net = _subclass(kind)(stack, heads)
            net(np.zeros((4, parts.WIDTH), "float32"))
            return net
        if self.family == "subclassed, built by fit":
            return _subclass(kind)(stack, heads)
        if self.family == "sequential":
            return keras.Sequential([keras.Input(**shape), *stack, *heads])
        inputs = keras.Input(**shape)
        if self.family == "nested":
            inner = keras.Input(**shape)
            out = keras.Model(inner, _stacked(stack, inner), name="inner")(inputs)
        else:
            out = _stacked(stack, inputs)
        outputs = [head(out) for head in heads]
        return kind(inputs, outputs if self.outputs > 1 else outputs[0])

    # -- the data ----------------------------------------------------------------------------

    def rows(self, n=parts.ROWS, seed=3):
        """Return (x, y) or (x, y, sample_weight), with as many targets as the model has outputs."""
        x, y = parts.rows(n, seed)
        y = y if self.outputs == 1 else (y, 1 - y)
        if not self.weighted:
            return x, y
        weight = np.linspace(0.5, 1.5, n).astype("float32")
        return x, y, weight if self.outputs == 1 else (weight, weight[::-1].copy())

    def data(self):
        """Return the arguments of `fit` that concern data."""
        self.made = SOURCES[self.source](self.rows(), self.size)
        return {**self.made, **VALIDATIONS[self.validation](self)}

    def all_callbacks(self, directory):
        """Return all callbacks but BackupAndRestore."""
        return [make(self, directory) for make in self.callbacks]

    @property
    def monitor(self):
        return "val_loss" if self.validation else "loss"


def _stacked(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def _subclass(kind):
    class Net(kind):
        def __init__(self, stack, heads):
            super().__init__()
            self.stack, self.heads = stack, heads

        def get_config(self):
            return {}

        def call(self, x, training=False):
            for layer in self.stack:
                x = layer(x, training=training) if layer._call_has_training_arg else layer(x)
            outputs = [head(x) for head in self.heads]
            return outputs if len(outputs) > 1 else outputs[0]

    return Net


def _arrays(data, size, **how):
    weight = (
        {"sample_weight": list(data[2]) if isinstance(data[2], tuple) else data[2]}
        if len(data) > 2
        else {}
    )
    y = list(data[1]) if isinstance(data[1], tuple) else data[1]
    return {"x": data[0], "y": y, **weight, "batch_size": size, **how}


def _pydataset(kind, **how):
    return lambda data, size: {"x": parts.Batches(data, size, kind, **how)}


SOURCES = {
    "arrays": _arrays,
    "arrays in order": lambda data, size: _arrays(data, size, shuffle=False),
    "PyDataset": _pydataset("plain"),
    "PyDataset, order in an object": _pydataset("object"),
    "PyDataset, noisy": _pydataset("noisy"),
    "PyDataset, 3 threads": _pydataset("plain", workers=3),
    "PyDataset in a PyDataset": lambda data, size: {"x": parts.Nested(parts.Batches(data, size))},
    "DataLoader": lambda data, size: {"x": parts.loader(data, size)},
    "DataLoader, generator=": lambda data, size: {"x": parts.loader(data, size, True)},
    "tf.data": lambda data, size: {"x": parts.tf_data(data, size)},
    "tf.data, take": lambda data, size: {"x": parts.tf_data(data, size, "take")},
    "tf.data, random map": lambda data, size: {"x": parts.tf_data(data, size, "random map")},
    "generator": lambda data, size: {"x": parts.generator(data, size), "steps_per_epoch": 6},
    "resumable(generator)": lambda data, size: {
        "x": resumable(lambda: parts.generator(data, size), 6)
    },
    "resumable(DataLoader)": lambda data, size: {"x": resumable(parts.loader(data, size))},
    "resumable(tf.data)": lambda data, size: {"x": resumable(parts.tf_data(data, size))},
    "resumable(tf.data, random map)": lambda data, size: {
        "x": resumable(parts.tf_data(data, size, "random map"))
    },
    "resumable(PyDataset)": lambda data, size: {"x": resumable(parts.Batches(data, size, "noisy"))},
    "ResumableDataset": lambda data, size: {
        "x": ResumableDataset(
            data[0], data[1], size, 2, sample_weight=data[2] if len(data) > 2 else None
        )
    },
}
VALIDATIONS = {
    None: lambda plan: {},
    "split": lambda plan: {"validation_split": 0.25},
    "arrays": lambda plan: {"validation_data": _tuple(plan.rows(8, 9))},
    "PyDataset": lambda plan: {"validation_data": parts.Batches(plan.rows(8, 9), 4)},
    "PyDataset, noisy": lambda plan: {
        "validation_data": parts.Batches(plan.rows(8, 9), 4, "noisy")
    },
    "DataLoader": lambda plan: {"validation_data": parts.loader(plan.rows(8, 9), 4)},
    "tf.data, take": lambda plan: {
        "validation_data": parts.tf_data(plan.rows(24, 9), 4, "take"),
    },
}


def _tuple(data):
    return tuple(list(part) if isinstance(part, tuple) else part for part in data)


# -- features --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feature:
    """One thing that a script may have.

    Args:
        name: As it is told to people; "axis: choice".
        apply: Function that changes a Plan.
        weight: How often it is chosen.
        only: Backends that have it.
        alone: Whether only one feature of its axis can be there.
    """

    name: str
    apply: Callable
    weight: float = 1.0
    only: tuple = ALL
    alone: bool = True

    @property
    def axis(self):
        return self.name.split(":")[0] if self.alone else self.name


FEATURES: dict[str, Feature] = {}


def _add(name, apply, **how):
    FEATURES[name] = Feature(name, apply, **how)


def _set(**fields):
    return lambda plan: [setattr(plan, name, value) for name, value in fields.items()]


def _update(name, **entries):
    return lambda plan: getattr(plan, name).update(entries)


def _append(name, *things):
    return lambda plan: getattr(plan, name).extend(things)


def _layer(name, make, **how):
    _add(f"layer: {name}", _append("layers", make), alone=False, **how)


def _callback(name, make, **how):
    _add(f"callback: {name}", _append("callbacks", make), alone=False, **how)


L, Opt, M, C = keras.layers, keras.optimizers, keras.metrics, keras.callbacks

for _family in ("sequential", "subclassed", "subclassed, built by fit", "nested"):
    _add(f"model: {_family}", _set(family=_family))

_layer("dropout", lambda: L.Dropout(0.4), weight=0.3)
_layer("BatchNormalization", lambda: L.BatchNormalization(momentum=0.8))
_layer("Normalization", parts.normalization)
_layer("GaussianNoise", lambda: L.GaussianNoise(0.2), weight=0.5)
_layer("LSTM", lambda: parts.Chain([L.Reshape((-1, 1)), L.LSTM(3)]))
_layer(
    "GRU with dropout",
    lambda: parts.Chain([L.Reshape((-1, 1)), L.GRU(3, dropout=0.2, recurrent_dropout=0.2)]),
)
_layer("Embedding", lambda: parts.Chain([parts.Buckets(), L.Embedding(8, 2), L.Flatten()]))
_layer("attention", parts.Attention)
_layer("SeedGenerator", parts.Seeded)
_layer("global seeds", parts.Unseeded, only=HOST)
_layer("backend's noise", parts.BackendNoise, only=HOST)
_layer("running mean", parts.Running)
_layer("infinite constant", parts.Extremes, weight=0.7)
_add(
    "layer: torch BatchNorm",  # first, where it knows its width
    lambda plan: plan.layers.insert(0, parts.torch_module),
    only=("torch",),
    alone=False,
    weight=1.5,
)
_layer("SpectralNormalization", lambda: L.SpectralNormalization(L.Dense(4)))
_layer("GroupNorm and PReLU", lambda: parts.Chain([L.LayerNormalization(), L.PReLU()]), weight=0.4)


def _stateful_rnn(plan):
    plan.layers.insert(0, lambda: parts.Chain([L.Reshape((4, 1)), L.GRU(3, stateful=True)]))
    plan.stateful, plan.size = True, 4
    plan.source = "arrays in order"
    plan.validation = None


def _annealed(plan):
    plan.layers.append(parts.Annealed)
    plan.callbacks.append(lambda p, d: parts.Anneals())
    plan.compile_args["run_eagerly"] = True


def _own_state(plan):
    plan.layers.append(parts.OwnState)
    plan.callbacks.append(lambda p, d: parts.Anneals())
    plan.compile_args["run_eagerly"] = True


_layer(
    "bidirectional GRU",
    lambda: parts.Chain([L.Reshape((-1, 1)), L.Bidirectional(L.GRU(2))]),
    weight=0.4,
)
_layer("activity regularizer", lambda: L.ActivityRegularization(0.01, 0.01), weight=0.4)
_layer(
    "regularized, constrained",
    lambda: L.Dense(4, kernel_regularizer="l2", kernel_constraint=keras.constraints.MaxNorm(0.5)),
    weight=0.4,
)
_layer("AlphaDropout", lambda: L.AlphaDropout(0.3), weight=0.4)
_layer("LoRA", lambda: L.Dense(4, lora_rank=2), weight=0.5)
_add("stateful RNN", _stateful_rnn, only=("tensorflow", "jax"))
_add("annealed attribute", _annealed, only=HOST)
_add("save_own_variables", _own_state, only=HOST)
_add("frozen layer", _set(frozen=True), weight=0.7)
_add("several outputs", _set(outputs=2), weight=0.7)
_add("sample weights", _set(weighted=True), weight=0.7)
_add("class_weight", _update("fit", class_weight={0: 0.5, 1: 2.0}), weight=0.4)

_add("step: own", _set(own_step=True))
for _how in ("attribute", "list", "dict"):
    _add(f"step: second optimizer in {_how}", _set(own_step=True, second=_how), only=HOST)
_add("step: torch optimizer", _set(own_step=True, second="torch"), only=("torch",))
_add("step: metric made by it", _set(own_step=True, late=True), only=("torch",))


def _optimizer(name, make, **how):
    _add(f"optimizer: {name}", lambda plan: setattr(plan, "optimizer", make), **how)


def _rated(kind, rate, **fixed):
    return lambda **how: kind(**{"learning_rate": rate, **fixed, **how})


_optimizer("SGD", _rated(Opt.SGD, 0.05), weight=0.4)
_optimizer("SGD, momentum", _rated(Opt.SGD, 0.05, momentum=0.9, nesterov=True), weight=0.4)
_optimizer("AdamW", _rated(Opt.AdamW, 1e-2, weight_decay=0.01), weight=0.4)
_optimizer("Adam, amsgrad", _rated(Opt.Adam, 1e-2, amsgrad=True), weight=0.3)
_optimizer("Lion", _rated(Opt.Lion, 1e-2), weight=0.4)
_optimizer("Adafactor", _rated(Opt.Adafactor, 1e-2), weight=0.4)
_optimizer("RMSprop", _rated(Opt.RMSprop, 1e-2, centered=True, momentum=0.5), weight=0.4)
_optimizer("Nadam", _rated(Opt.Nadam, 1e-2), weight=0.4)
_optimizer("Adagrad", _rated(Opt.Adagrad, 1e-1), weight=0.3)
_optimizer("Adadelta", _rated(Opt.Adadelta, 1.0), weight=0.3)
_optimizer("Adamax", _rated(Opt.Adamax, 1e-2), weight=0.3)
_optimizer("Ftrl", _rated(Opt.Ftrl, 1e-1), weight=0.3)
_optimizer("Muon", _rated(Opt.Muon, 1e-2), weight=0.3)

_add(
    "schedule: exponential",
    _set(schedule=lambda: Opt.schedules.ExponentialDecay(2e-2, 5, 0.7)),
    weight=0.7,
)
_add(
    "schedule: cosine, warm-up",
    _set(schedule=lambda: Opt.schedules.CosineDecay(1e-3, 12, warmup_target=2e-2, warmup_steps=4)),
    weight=0.5,
)
_add("EMA", _update("optimizer_args", use_ema=True, ema_momentum=0.7))


def _overwriting_ema(plan):
    plan.optimizer_args.update(use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=4)


def _swapping_ema(plan):
    plan.optimizer_args.update(use_ema=True, ema_momentum=0.7)
    plan.callbacks.append(lambda p, d: C.SwapEMAWeights(swap_on_epoch=True))


_add("EMA, overwriting", _overwriting_ema, weight=0.5)
_add("EMA, SwapEMAWeights", _swapping_ema, weight=0.7)
_add("loss scale", _set(scaled=True))
_add(
    "gradient accumulation",
    _update("optimizer_args", gradient_accumulation_steps=4),
)
_add("clipnorm", _update("optimizer_args", clipnorm=0.1), weight=0.3)
_add("weight decay", _update("optimizer_args", weight_decay=0.01), weight=0.3)
_add("dtype: mixed_float16", _set(dtype="mixed_float16"))
_add("dtype: mixed_bfloat16", _set(dtype="mixed_bfloat16"), weight=0.7)

for _name, _metric in {
    "AUC": lambda: M.AUC(num_thresholds=20),
    "MeanIoU": lambda: M.BinaryIoU(name="iou"),
    "accuracy": M.BinaryAccuracy,
    "with seeds": parts.SeededMetric,
}.items():
    _add(f"metric: {_name}", _append("metrics", _metric), alone=False, weight=0.5)

for _name in SOURCES:
    if _name != "arrays":
        _rare = 0.25 if "tf.data" in _name or _name == "generator" else 0.6
        _add(f"data: {_name}", _set(source=_name), weight=_rare)
for _name in VALIDATIONS:
    if _name:
        _add(f"validation: {_name}", _set(validation=_name), weight=0.3 if "tf" in _name else 1.2)

_add("batches do not divide", _set(size=5), weight=0.7)
_add("validation_freq=2", _update("fit", validation_freq=2))
_add("steps_per_epoch=4", _update("fit", steps_per_epoch=4), weight=0.4)
_add("initial_epoch=1", _update("fit", initial_epoch=1), weight=0.7)
_add("epochs=5", _update("fit", epochs=5), weight=0.5)
_several = ALL if keras.__version__ >= "3.16" else ("tensorflow", "jax")  # torch refuses before
_add("execution: 2 steps", _update("compile_args", steps_per_execution=2), only=_several)
_add("execution: 4 steps", _update("compile_args", steps_per_execution=4), only=_several)
_add("run_eagerly", _update("compile_args", run_eagerly=True), weight=0.3)
_add("jit_compile", _update("compile_args", jit_compile=True), only=("jax",))


def _stops(**how):
    return lambda plan, d: keras_ratchet.EarlyStopping(plan.monitor, **how)


def _at(directory, name):
    return os.path.join(directory, name)


_R = keras_ratchet
_callback("EarlyStopping", _stops(patience=1, min_delta=0.02))
_callback(
    "EarlyStopping, restoring",
    _stops(patience=1, min_delta=0.05, restore_best_weights=True),
    weight=1.5,
)
_callback(
    "EarlyStopping, optimizer too",
    _stops(patience=1, min_delta=0.05, restore_best_weights=True, restore_optimizer=True),
)
_callback(
    "EarlyStopping, soup",
    lambda plan, d: _R.EarlyStopping(
        plan.monitor, patience=3, restore_best_weights=True, average="soup", average_k=3,
        validation_data=_tuple(plan.rows(8, 9)[:2]),
    ),
)  # fmt: skip
_callback(
    "ReduceLROnPlateau",
    lambda plan, d: _R.ReduceLROnPlateau(plan.monitor, 0.5, patience=1, min_delta=0.1, cooldown=1),
)
_callback(
    "ReduceLROnPlateau, restoring",
    lambda plan, d: _R.ReduceLROnPlateau(
        plan.monitor, 0.5, patience=1, min_delta=0.1, restore_best_weights=True
    ),
    weight=0.7,
)
_callback("TerminateOnNaN", lambda plan, d: _R.TerminateOnNaN(), weight=0.7)
_callback("Rollback", lambda plan, d: _R.Rollback(every=3, confirm=1, max_rollbacks=50))
_callback(
    "Rollback, random streams too",
    lambda plan, d: _R.Rollback(every="epoch", confirm=0, restore_rng=True, max_rollbacks=50),
    weight=0.5,
)
_callback("poison", lambda plan, d: parts.Poisons(), weight=0.7)
_callback(
    "ModelCheckpoint, best .keras",
    lambda plan, d: _R.ModelCheckpoint(_at(d, "best.keras"), plan.monitor, save_best_only=True),
)
_callback(
    "ModelCheckpoint, every 4 batches",
    lambda plan, d: _R.ModelCheckpoint(
        _at(d, "m-{epoch}-{batch}.weights.h5"), "loss", save_weights_only=True, save_freq=4
    ),
)
_callback(
    "ModelCheckpoint, keep_best",
    lambda plan, d: _R.ModelCheckpoint(
        _at(d, "k-{epoch}.weights.h5"), plan.monitor, save_weights_only=True, keep_best=1,
        keep_last=1,
    ),
)  # fmt: skip
_callback("CSVLogger", lambda plan, d: C.CSVLogger(_at(d, "log.csv")), weight=0.7)
_callback(
    "LearningRateScheduler",
    lambda plan, d: C.LearningRateScheduler(lambda epoch, rate: rate * 0.8),
    weight=0.7,
)
_callback(
    "Keras's EarlyStopping",
    lambda plan, d: C.EarlyStopping(
        plan.monitor, patience=1, min_delta=0.05, restore_best_weights=True
    ),
    weight=0.5,
)
_callback(
    "Keras's ReduceLROnPlateau",
    lambda plan, d: C.ReduceLROnPlateau(plan.monitor, 0.5, patience=1, min_delta=0.1),
    weight=0.5,
)
_callback("looks inside", lambda plan, d: parts.LooksInside(), weight=0.7)
_callback("sets rates", lambda plan, d: parts.SetsRates(), weight=0.7)
_callback("sets dropout", lambda plan, d: parts.SetsDropout(), only=HOST, weight=0.7)
_callback("sets clipnorm", lambda plan, d: parts.SetsHyperparameters(), only=HOST, weight=0.5)
_callback("holds things", lambda plan, d: parts.HoldsThings(), weight=0.7)
_callback("spoils data", lambda plan, d: parts.SpoilsData(plan.made["y"]), weight=0.5)
_callback("stops itself", lambda plan, d: parts.StopsItself(), weight=0.5)
_callback("subclass of EarlyStopping", lambda plan, d: parts.OwnStopping(plan.monitor), weight=0.7)
_callback(
    "lambda",
    lambda plan, d: C.LambdaCallback(on_epoch_end=lambda e, logs: logs.update(twice=2 * e)),
    weight=0.4,
)
_callback("counts", lambda plan, d: parts.Counts())
_callback("draws", lambda plan, d: parts.Draws())
_callback("freezes", lambda plan, d: parts.Freezes(), only=HOST, weight=1.5)
_callback("metric every 2 epochs", lambda plan, d: parts.Measures(), weight=0.5)

_add("save: 1 batch", _update("backup", save_freq=1), weight=2)
_add("save: 2 batches", _update("backup", save_freq=2), weight=2)
_add("save: 5 batches", _update("backup", save_freq=5), weight=2)
_add("save: in the background", _update("backup", background=True), weight=0.5, alone=False)
_add("save: double_checkpoint", _update("backup", double_checkpoint=True), weight=0.3, alone=False)
_add("save: keep=1", _update("backup", keep=1), weight=0.3, alone=False)
_add("save: deleted at the end", _update("backup", delete_checkpoint=True), weight=0.5, alone=False)
for _script in ("one epoch a fit", "one epoch a fit, epochs=1", "two stages", "two directories"):
    _add(f"script: {_script}", _set(script=_script), weight=0.5)
_add("signals", _update("backup", signals=("SIGUSR1",)))
_add("backup first in the list", _set(backup_at=0), weight=2)
_add("validation_steps=1", _update("fit", validation_steps=1), weight=0.4)
_add("metric: by name", _update("compile_args", metrics=["accuracy"]), weight=0.4)
_add("reference without backup", _set(reference_has_backup=False), weight=0.7)


# -- cases -----------------------------------------------------------------------------------------

MIDDLE = (("batch", 9, False),)  # in the second epoch
KILLS = ("batch", "batch", "batch", "batch begin", "epoch end", "epoch begin", "test batch", "end")


@dataclass(frozen=True)
class Case:
    """One script and the points at which its processes are killed.

    Args:
        features: Names of features.
        kills: For each process in turn (kind, count, whether before all other callbacks).
    """

    features: tuple
    kills: tuple = MIDDLE

    def plan(self):
        """Return the script."""
        plan = Plan()
        for name, feature in FEATURES.items():  # in the table's order: one set is one script
            if name in self.features:
                feature.apply(plan)
        return plan

    def without(self, name):
        return replace(self, features=tuple(f for f in self.features if f != name))

    def __str__(self):
        kills = ", ".join(f"{kind} {n}{' first' if first else ''}" for kind, n, first in self.kills)
        return f"[{'; '.join(self.features)}] killed at {kills}"


def sample(rng, backend, shunned=()):
    """Return a random case for a backend."""
    pool = [f for f in FEATURES.values() if backend in f.only and f.name not in shunned]
    chosen = {}
    for _ in range(rng.choice((1, 2, 3, 3, 4, 4, 5, 6))):
        feature = rng.choices(pool, [f.weight for f in pool])[0]
        chosen.setdefault(feature.axis, feature.name)
    validated = "validation" in chosen
    case = Case(tuple(n for n in FEATURES if n in chosen.values()), (_kill(rng, validated),))
    if rng.random() < 0.3:
        case = replace(case, kills=(*case.kills, _kill(rng, validated)))
    return case


def _kill(rng, validated):
    kind = rng.choice(KILLS)
    most = {"batch": 20, "batch begin": 20, "test batch": 5, "end": 1}.get(kind, 3)
    count, first = rng.randint(1, most), rng.random() < 0.5
    if kind == "test batch" and not validated:
        kind, count = "batch", 3 * count
    return kind, count, first


def cases(seed, backend):
    """Yield cases for ever, those of one seed always the same."""
    number = 0
    while True:
        yield sample(random.Random(f"{seed}/{number}"), backend)
        number += 1


def is_possible(case):
    """Return whether Keras itself allows this combination; what is left is tried out."""
    plan, text = case.plan(), str(case)
    arrays = plan.source in ("arrays", "arrays in order")
    return not any(rule(plan, text, arrays) for rule in IMPOSSIBLE)


NEED_A_RATE = ("ReduceLROnPlateau", "Rollback", "sets rates", "LearningRateScheduler", "two ")

IMPOSSIBLE = (
    lambda plan, text, arrays: plan.family == "sequential" and (plan.own_step or plan.outputs > 1),
    lambda plan, text, arrays: plan.own_step and (plan.scaled or plan.dtype == "mixed_float16"),
    lambda plan, text, arrays: (
        plan.second
        and (plan.family.endswith("by fit") or "freezes" in text or "SwapEMAWeights" in text)
    ),
    lambda plan, text, arrays: (
        plan.stateful and (plan.size != 4 or plan.family.startswith("subclassed"))
    ),
    lambda plan, text, arrays: plan.validation == "split" and (not arrays or plan.outputs > 1),
    lambda plan, text, arrays: (
        "class_weight" in plan.fit and (plan.weighted or plan.outputs > 1 or not arrays)
    ),
    lambda plan, text, arrays: (
        {"validation_freq", "validation_steps"} & set(plan.fit) and not plan.validation
    ),
    lambda plan, text, arrays: (
        plan.family.endswith("by fit") and (plan.frozen or "freezes" in text)
    ),
    lambda plan, text, arrays: "callback: TerminateOnNaN" in text and "Rollback" in text,
    lambda plan, text, arrays: plan.schedule and any(part in text for part in NEED_A_RATE),
    lambda plan, text, arrays: (
        plan.script != "one fit" and (plan.second or {"initial_epoch", "epochs"} & set(plan.fit))
    ),
    lambda plan, text, arrays: (
        "metrics" in plan.compile_args and (plan.metrics or plan.outputs > 1)
    ),
    lambda plan, text, arrays: "signals" in plan.backup and plan.script != "one fit",
    lambda plan, text, arrays: "spoils data" in text and not arrays,
    lambda plan, text, arrays: "steps_per_epoch" in plan.fit and not arrays,
)
