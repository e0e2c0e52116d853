"""Models of every kind that a file has to hold, each small and ready to be saved.

Each is compiled, and its optimizer built, but not trained: `stir` fills everything that a save
may write with new values, which is as good and takes no seconds.
"""

import importlib.util
import warnings
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from support import collector

ZOO = {}
# Two of its optimizer's variables have one name, which Keras's legacy format cannot hold.
NOT_LEGACY = ("Adafactor", "containers")


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        make: Makes one.
        example: Makes an example of what it takes.
        on: The backends that have it.
        needs: A module that it needs.
        lossy: Whether Keras, given its own file, does not bring back all that was in memory.
    """

    make: object
    example: object
    on: tuple = ("torch", "tensorflow", "jax")
    needs: str = "keras"
    lossy: bool = False

    @property
    def lives_here(self):
        return keras.backend.backend() in self.on and importlib.util.find_spec(self.needs)


def kind(example, **conditions):
    def add(make):
        ZOO[make.__name__] = Kind(make, example, **conditions)
        return make

    return add


def inhabitants():
    """Return the names of the models that this backend and this Keras have."""
    return [name for name, entry in ZOO.items() if entry.lives_here]


def rows(*shape):
    """Return numbers that are the same each time."""
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def numbers(*shape):
    """Return whole numbers below 10."""
    return np.random.default_rng(0).integers(0, 10, shape).astype("int32")


def ready(model, optimizer="adam", **compile_args):
    """Compile a model and build its optimizer, as the first training step would."""
    model.compile(optimizer, keras.losses.MeanSquaredError(), **compile_args)
    model.optimizer.build(model.trainable_variables)
    return model


def stir(model, seed):
    """Give new values to all that a file may hold."""
    generator = np.random.default_rng(seed)
    for variable in everything(model):
        variable.assign(_new_value(generator, variable))
    for layer in model._flatten_layers():
        if hasattr(layer, "stir"):
            layer.stir(generator)


def _new_value(generator, variable):
    dtype = keras.backend.standardize_dtype(variable.dtype)
    shape = tuple(variable.shape)
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if "int" in dtype:
        return generator.integers(0, 100, shape).astype(dtype)
    return keras.ops.cast(generator.uniform(0.25, 1.0, shape).astype("float32"), dtype)


def everything(model):
    """Return all variables of a model and of the optimizers that it holds, each once."""
    found = {id(v): v for v in model.variables}
    for optimizer in optimizers(model):
        found |= {id(v): v for v in optimizer.variables}
    return list(found.values())


def optimizers(model):
    """Return the optimizers that a model holds, those inside others too."""
    waiting = [v for v in vars(model).values() if isinstance(v, keras.optimizers.Optimizer)]
    found = []
    while waiting:
        optimizer = waiting.pop(0)
        if not any(optimizer is other for other in found):
            found.append(optimizer)
            inner = keras.tree.flatten([v for k, v in vars(optimizer).items() if "optim" in k])
            waiting += [v for v in inner if isinstance(v, keras.optimizers.Optimizer)]
    return found


@kind(lambda: rows(2, 4))
def sequential():
    stack = [keras.Input((4,)), layers.Dense(8, activation="relu"), layers.Dropout(0.5)]
    return ready(keras.Sequential([*stack, layers.Reshape((2, 4)), layers.Dense(1)]))


@kind(lambda: [rows(2, 4), rows(3, 4)[:2]])
def shared_layers():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = layers.Dense(3, name="shared")
    mixed = layers.Concatenate()([shared(left), shared(right)])
    outputs = {"one": layers.Dense(1, name="one")(mixed), "two": layers.Dense(2, name="two")(mixed)}
    model = keras.Model([left, right], outputs)
    return ready(model, keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True))


@keras.saving.register_keras_serializable("zoo")
class Subclassed(keras.Model):
    """With `build` and `get_config`, as the guide to Keras writes it."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, activation="tanh")
        self.out = layers.Dense(1)
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def build(self, shape):
        self.hidden.build(shape)
        self.out.build((*shape[:-1], self.units))
        self.built = True

    def call(self, x):
        return self.out(self.hidden(x)) * self.scale

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@kind(lambda: rows(2, 4))
def subclassed():
    model = Subclassed(5)
    model.build((None, 4))
    return ready(model, keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True))


@keras.saving.register_keras_serializable("zoo")
class PartlyBuilt(keras.Model):
    """Built by its first call; a layer is never called, and an optimizer not built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.used = layers.Dense(3)
        self.frozen = layers.Dense(3, trainable=False)
        self.never_called = layers.Dense(7)
        self.never_built = keras.optimizers.Adam()

    def call(self, x):
        return self.frozen(self.used(x))


@kind(lambda: rows(2, 4), lossy=True)  # Keras builds the optimizer before it loads it
def partly_built():
    model = PartlyBuilt()
    model(rows(2, 4))
    model.compile("adam", "mse")  # whose optimizer is not built either
    return model


@kind(lambda: rows(2, 4))
def never_compiled():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(1)])


@kind(lambda: rows(2, 4))
def weightless():
    return keras.Sequential([keras.Input((4,)), layers.Flatten(), layers.Activation("relu")])


@kind(lambda: rows(2, 4))
def nested():
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.5)])
    deep = keras.Model(x, layers.Dense(2)(inner(inner(x))), name="deep")
    frozen = keras.Sequential([keras.Input((2,)), layers.Dense(2)], name="frozen")
    frozen.trainable = False
    joined = layers.Concatenate()([frozen(deep(x)), layers.Dense(3)(x)])
    return ready(keras.Sequential([keras.Model(x, joined), layers.Dense(1)]))


@kind(lambda: rows(2, 6, 6, 4), lossy=True)  # Normalization keeps what it derived from older values
def normalizations():
    adapted = layers.Normalization()
    adapted.adapt(rows(8, 6, 6, 4))
    stack = [
        adapted,
        layers.Conv2D(4, 3),
        layers.BatchNormalization(),
        layers.GroupNormalization(2),
        layers.LayerNormalization(),
        layers.SpectralNormalization(layers.Conv2D(2, 3)),
        layers.UnitNormalization(),
        layers.GlobalAveragePooling2D(),
    ]
    return ready(keras.Sequential([keras.Input((6, 6, 4)), *stack]))


@kind(lambda: rows(2, 8, 8, 3))
def convolutions():
    stack = [
        layers.Conv2D(4, 3, use_bias=False),
        layers.SeparableConv2D(4, 3, padding="same"),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.Conv2DTranspose(2, 2),
        layers.PReLU(shared_axes=[1, 2]),
        layers.TimeDistributed(layers.Dense(2)),
        layers.Flatten(),
    ]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    return ready(model, keras.optimizers.Adagrad(0.1))


@keras.saving.register_keras_serializable("zoo")
class Cell(layers.Layer):
    """A cell of a recurrent network."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.back = self.add_weight(shape=(self.units, self.units), name="back")
        self.built = True

    def call(self, x, states):
        state = keras.ops.tanh(x @ self.kernel + states[0] @ self.back)
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@kind(lambda: rows(2, 5, 4))
def recurrent():
    stack = [
        layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        layers.GRU(3, return_sequences=True, recurrent_dropout=0.1),
        layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)], return_sequences=True),
        layers.RNN(Cell(3)),
        layers.Dense(1),
    ]
    return ready(keras.Sequential([keras.Input((5, 4)), *stack]))


@kind(lambda: rows(2, 4))
def stateful_recurrent():
    stack = [layers.Reshape((2, 2)), layers.LSTM(3, stateful=True), layers.Dense(1)]
    return ready(keras.Sequential([keras.Input((4,), batch_size=2), *stack]))


@kind(lambda: numbers(2, 6))
def attention():
    x = keras.Input((6,), dtype="int32")
    h = layers.Embedding(10, 8, mask_zero=True)(x)
    attended = layers.MultiHeadAttention(2, 4)(h, h)
    grouped = layers.GroupQueryAttention(4, 4, 2)(attended, h)
    dense = layers.EinsumDense("abc,cd->abd", output_shape=(None, 8), bias_axes="d")(grouped)
    return ready(keras.Model(x, layers.Dense(1)(layers.LayerNormalization()(h + dense))))


@keras.saving.register_keras_serializable("zoo")
class OwnVariables(layers.Layer):
    """Saves arrays, numbers and strings under keys of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.history = np.zeros((2, 3))
        self.extra = None
        self.count = 0

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")
        self.built = True

    def call(self, x):
        return x @ self.kernel

    def stir(self, generator):
        self.history = generator.normal(size=(2, 3))
        self.count = int(generator.integers(1000))

    def values(self):
        return [self.history, self.count]

    def save_own_variables(self, store):
        store["the kernel"] = self.kernel
        store["kernel as a tensor"] = self.kernel.value
        store["kernel, turned"] = np.asarray(keras.ops.convert_to_numpy(self.kernel)).T
        store["in/a/group"] = self.history
        store["nothing"] = np.zeros((0, 3), "float32")
        store["big-endian"] = self.history.astype(">f4")
        store["flags"] = self.history > 0
        store["bfloat16"] = keras.ops.cast(self.kernel, "bfloat16")
        store["count"] = self.count
        store["share"] = self.count / 1000
        if self.extra is not None:
            store["extra"] = self.extra
        store["keys so far"] = len(list(store.keys()))

    def load_own_variables(self, store):
        self.kernel.assign(store["the kernel"])
        self.history = np.array(store["in/a/group"])
        self.count = int(store["count"])


@kind(lambda: rows(2, 4))
def own_variables():
    return ready(keras.Sequential([keras.Input((4,)), OwnVariables(), layers.Dense(1)]))


@keras.saving.register_keras_serializable("zoo")
class OwnAssets(layers.Layer):
    """Saves files beside its variables."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = b""

    def call(self, x):
        return x

    def stir(self, generator):
        self.table = generator.bytes(1000)

    def assets(self):
        return [self.table]

    def save_assets(self, dir_path):
        import os

        os.makedirs(os.path.join(dir_path, "deeper", "still"))
        os.makedirs(os.path.join(dir_path, "empty"))
        for place in ("table.bin", "deeper/still/table.bin"):
            with open(os.path.join(dir_path, place), "wb") as file:
                file.write(self.table)

    def load_assets(self, dir_path):
        import os

        with open(os.path.join(dir_path, "deeper/still/table.bin"), "rb") as file:
            self.table = file.read()


@kind(lambda: rows(2, 4))
def own_assets():
    stack = [keras.Input((4,)), OwnAssets(), layers.Dense(2), OwnAssets()]
    return ready(keras.Sequential(stack))


@kind(lambda: keras.ops.convert_to_tensor(numbers(2, 3)), needs="tensorflow")
def vocabularies():
    lookup = layers.IntegerLookup(output_mode="multi_hot")
    lookup.adapt(np.arange(10))
    stack = [keras.Input((3,), dtype="int64"), lookup, layers.Dense(1)]
    model = ready(keras.Sequential(stack))
    strings = layers.StringLookup()
    strings.adapt(np.array(["a", "b", "ünï", "a"]))
    text = layers.TextVectorization(output_mode="tf_idf")
    text.adapt(["to be or not", "to be", "that is the question"])
    model.beside = [strings, text]
    return model


@kind(lambda: rows(2, 4))
def mixed_float16():
    policy = "mixed_float16"
    stack = [layers.Dense(8, dtype=policy), layers.BatchNormalization(dtype=policy)]
    stack += [layers.Dense(1, dtype="float16")]
    model = keras.Sequential([keras.Input((4,)), *stack])
    return ready(model, keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))


@kind(lambda: rows(2, 4))
def bfloat16():
    stack = [layers.Dense(8, dtype="mixed_bfloat16"), layers.Dense(3, dtype="bfloat16")]
    return ready(keras.Sequential([keras.Input((4,)), *stack, layers.Dense(1, dtype="float64")]))


@kind(lambda: rows(2, 16))
def float8():
    stack = [layers.Dense(16, dtype="float8_from_float32"), layers.Dense(16)]
    return ready(keras.Sequential([keras.Input((16,)), *stack]))


def quantized(mode):
    stack = [layers.Embedding(10, 16), layers.Flatten(), layers.Dense(8), layers.Reshape((2, 4))]
    einsum = layers.EinsumDense("abc,cd->abd", output_shape=(None, 3), bias_axes="d")
    model = keras.Sequential([keras.Input((3,), dtype="int32"), *stack, einsum])
    quantize(model, mode)
    return model


def quantize(model, mode):
    """Quantize a model; Keras collects garbage, which takes seconds where much is alive.

    From 3.16 on it warns of layers that cannot be quantized, and there are some on purpose.
    """
    collector.spare(always=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*quantiz", UserWarning)
        model.quantize(mode)


@kind(lambda: numbers(2, 3))
def int8():
    return quantized("int8")


@kind(lambda: numbers(2, 3))
def int4():
    return quantized("int4")


def adapted(model):
    for layer in model.layers:
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2)
    return model


@kind(lambda: numbers(2, 3), lossy=True)
def lora():
    stack = [layers.Embedding(10, 8), layers.Flatten(), layers.Dense(8), layers.Dense(1)]
    return ready(adapted(keras.Sequential([keras.Input((3,), dtype="int32"), *stack])))


@kind(lambda: numbers(2, 3), lossy=True)
def int8_with_lora():
    return adapted(quantized("int8"))


def small(optimizer):
    stack = [keras.Input((4,)), layers.Dense(3), layers.Dense(1)]
    return ready(keras.Sequential(stack), optimizer, metrics=["mae"])


def optimized(name, **arguments):
    """Add a model with an optimizer of Keras's, if this Keras has it."""
    if hasattr(keras.optimizers, name):

        def make():
            return small(getattr(keras.optimizers, name)(**arguments))

        ZOO[name] = Kind(make, lambda: rows(2, 4))


optimized("Adafactor")
optimized("Muon")
optimized("Lion", weight_decay=0.1)
optimized("Nadam")
optimized("Lamb")
optimized("Ftrl")
optimized("AdamW", amsgrad=True)
optimized("ScheduleFreeAdamW")


@kind(lambda: rows(2, 4))
def moving_averages():
    return small(keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True))


@kind(lambda: rows(2, 4))
def gradient_accumulation():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    return small(keras.optimizers.Adam(schedule, gradient_accumulation_steps=4))


@keras.saving.register_keras_serializable("zoo")
class TwoOptimizers(keras.Model):
    """Two networks, each with an optimizer of its own, as adversarial networks have it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
        self.other = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        self.first = keras.optimizers.Adam()
        self.second = keras.optimizers.SGD(momentum=0.5)
        self.first.build(self.one.trainable_variables)
        self.second.build(self.other.trainable_variables)
        self.built = True

    def call(self, x):
        return self.other(self.one(x))


@kind(lambda: rows(2, 4))
def two_optimizers():
    return TwoOptimizers()


if hasattr(keras.optimizers, "MultiOptimizer"):

    @kind(lambda: rows(2, 4), lossy=True)
    def multi_optimizer():
        stack = [keras.Input((4,)), layers.Dense(3), layers.Dense(1)]
        model = keras.Sequential(stack)
        parts = [keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam()]
        chosen = keras.optimizers.OptimizerMap(parts[0], {f"{model.layers[1].name}/.*": parts[1]})
        return ready(model, keras.optimizers.MultiOptimizer(chosen))


@keras.saving.register_keras_serializable("zoo")
class Containers(keras.Model):
    """Layers, variables and seeds in lists, tuples and dicts, and some inside each other."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.listed = [layers.Dense(4), layers.Dense(4), layers.LayerNormalization()]
        self.named = {"b": layers.Dense(4), "a": layers.Dense(4)}
        self.fixed = (layers.Dense(4), layers.Dropout(0.1))
        self.deep = [{"x": [layers.Dense(4)]}, [layers.Dense(4), (layers.Dense(4),)]]
        self.again = self.listed[0]
        self.loose = keras.Variable(rows(2, 2), name="loose")
        self.flag = keras.Variable(np.array([True, False]), trainable=False, dtype="bool")
        self.step = keras.Variable(0, trainable=False, dtype="int64")
        self.scales = [keras.Variable(1.0), keras.Variable(np.ones((1, 2, 1), "float32"))]
        self.seeds = [keras.random.SeedGenerator(1), keras.random.SeedGenerator(2)]

    def call(self, x):
        several = [*self.listed, *self.named.values(), self.fixed[0], *self.deep[0]["x"]]
        for layer in [*several, self.deep[1][0], self.deep[1][1][0]]:
            x = layer(x)
        return x * self.scales[0]


@kind(lambda: rows(2, 4))
def containers():
    model = Containers()
    model(rows(2, 4))
    return ready(model)


@keras.saving.register_keras_serializable("zoo")
class Pair(layers.Layer):
    """Two layers in attributes, one in a list in a list; one that may be built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = layers.Dense(2), layers.Dense(2)
        self.maybe = layers.LayerNormalization()
        self.deep = [[layers.Dense(1)]]
        self.optimizer = keras.optimizers.SGD(momentum=0.9)

    def call(self, x):
        return self.deep[0][0](self.left(x) + self.right(x))


def changeable():
    """Return a model to make changes to."""
    stack = [keras.Input((3,), dtype="int32"), layers.Embedding(10, 8), layers.Flatten()]
    stack += [layers.Dense(8), OwnVariables(), Pair()]
    return keras.Sequential(stack)


@keras.saving.register_keras_serializable("zoo")
class Tied(layers.Layer):
    """Uses the variable of another layer, turned."""

    def __init__(self, other, **kwargs):
        super().__init__(**kwargs)
        self.kernel = other.kernel

    def call(self, x):
        return x @ keras.ops.transpose(self.kernel)


@keras.saving.register_keras_serializable("zoo")
class Autoencoder(keras.Model):
    """One variable in two layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = layers.Dense(3)
        self.encoder.build((None, 4))
        self.decoder = Tied(self.encoder)

    def call(self, x):
        return self.decoder(self.encoder(x))


@kind(lambda: rows(2, 4))
def tied():
    model = Autoencoder()
    model(rows(2, 4))
    return ready(model)


@kind(lambda: rows(2, 4))
def special_names():
    x = keras.Input((4,), name="in put")
    h = layers.Dense(3, name='Ünï cödé <&> "1" 层 x\\y')(x)
    h = layers.Dense(3, name="vars")(h)
    return ready(keras.Model(x, layers.Dense(1, name="n" * 200)(h), name="a:b*c?"))


@kind(lambda: rows(2, 4), on=("torch",), needs="torch")
def torch_module():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    wrapped = keras.layers.TorchModuleWrapper(module, output_shape=(None, 3))
    return ready(keras.Sequential([keras.Input((4,)), wrapped, layers.Dense(1)]))


@kind(lambda: rows(1, 32, 32, 3))
def mobile_net():
    make = keras.applications.MobileNetV2
    return ready(make((32, 32, 3), alpha=0.35, weights=None, classes=10))


@kind(lambda: rows(2, 4))
def three_hundred_layers():
    x = keras.Input((4,))
    h = x
    for i in range(150):
        h = layers.Activation("tanh")(layers.Dense(4, name=f"layer_{i}")(h))
    return ready(keras.Model(x, h), "sgd")
