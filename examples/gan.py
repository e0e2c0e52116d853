"""A GAN with two optimizers that draws digits, in a loop of its own on all three backends.

A generator makes 8 x 8 images of noise, a discriminator tells them from the scanned digits of
scikit-learn. After each epoch, the Fréchet distance between features of real and of generated
images says how good these are: losses of a GAN do not. It decides which files are kept, and when
training stops.

On PyTorch and TensorFlow a `train_step` with two optimizers works in `fit` too, as keras.io writes
it. On JAX a `train_step` is stateless, and `fit` hands it the variables of one optimizer only: so
here the loop is written out, with `keras_ratchet.Run`, which saves and restores both.

    python examples/gan.py               # run it, kill it, run it again: it resumes
    python examples/gan.py --interrupt   # a child process is killed, this one resumes; then the
                                         # same without interruption, and a comparison
    python examples/gan.py --small       # few epochs
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

from pathlib import Path

import keras
import matplotlib
import numpy as np
from interrupt import KillAt
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from tables import print_table
from twins import (
    KeepJournal,
    compare_with_twin,
    cost,
    final_state,
    journal_of,
    megabytes,
    parse,
    saves,
    start_of,
    trains_as_child,
)

import keras_ratchet
from keras_ratchet.data import ResumableDataset

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BACKEND = keras.backend.backend()
if BACKEND == "torch":
    import torch
elif BACKEND == "tensorflow":
    import tensorflow as tf
else:
    import jax

RUN = Path("runs/gan")
EPOCHS, SMALL_EPOCHS, BATCH, PATIENCE = 60, 4, 64, 12
NOISE, SAMPLES = 32, 1000
KILL = KillAt(epoch=2, batch=9)
COPY = "backup.jsonl"
LAYERS = keras.layers


class Gan(keras.Model):
    """Two networks, an optimizer for each, and the seed of the noise."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential(
            [
                keras.Input((NOISE,)),
                LAYERS.Dense(2 * 2 * 64),
                LAYERS.LeakyReLU(0.2),
                LAYERS.Reshape((2, 2, 64)),
                LAYERS.Conv2DTranspose(64, 4, strides=2, padding="same"),
                LAYERS.LeakyReLU(0.2),
                LAYERS.Conv2DTranspose(32, 4, strides=2, padding="same"),
                LAYERS.LeakyReLU(0.2),
                LAYERS.Conv2D(1, 3, padding="same", activation="tanh"),
            ]
        )
        self.discriminator = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                LAYERS.Conv2D(32, 3, padding="same"),
                LAYERS.LeakyReLU(0.2),
                LAYERS.Conv2D(64, 4, strides=2, padding="same"),
                LAYERS.LeakyReLU(0.2),
                LAYERS.Flatten(),
                LAYERS.Dense(64),
                LAYERS.LeakyReLU(0.2),
                LAYERS.Dense(1),
            ]
        )
        self.noise = keras.random.SeedGenerator(1)
        self.generator_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.5)
        self.discriminator_optimizer = keras.optimizers.Adam(1e-3, beta_1=0.5)
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)
        self.built = True

    def call(self, noise):
        """Return images in [-1, 1]."""
        return self.generator(noise)

    def state(self):
        """Return all variables that a step reads or changes."""
        optimizers = (self.generator_optimizer, self.discriminator_optimizer)
        return [*self.variables, *(v for optimizer in optimizers for v in optimizer.variables)]

    def step(self, real):
        """Train both networks on one batch; return their losses."""
        noise = keras.random.normal((len(real), NOISE), seed=self.noise)
        d_loss, gradients = gradients_of(
            lambda: self.discriminator_loss(real, noise), self.discriminator, self.variables
        )
        self.discriminator_optimizer.apply(gradients, self.discriminator.trainable_variables)
        g_loss, gradients = gradients_of(
            lambda: self.generator_loss(noise), self.generator, self.variables
        )
        self.generator_optimizer.apply(gradients, self.generator.trainable_variables)
        return d_loss, g_loss

    def discriminator_loss(self, real, noise):
        """Return how badly real and generated images are told apart."""
        fake = self.discriminator(self.generator(noise))
        return loss(self.discriminator(real), 0.9) + loss(fake, 0.0)

    def generator_loss(self, noise):
        """Return how seldom generated images are taken for real ones."""
        return loss(self.discriminator(self.generator(noise)), 1.0)


def loss(logits, target):
    """Return the mean binary cross-entropy."""
    targets = keras.ops.full_like(logits, target)
    return keras.ops.mean(keras.ops.binary_crossentropy(targets, logits, from_logits=True))


def gradients_of(loss_of, network, variables):
    """Return a loss and its gradients by the variables of a network, on each backend."""
    trained = network.trainable_variables
    if BACKEND == "torch":
        value = loss_of()
        return value.detach(), torch.autograd.grad(value, [v.value for v in trained])
    if BACKEND == "tensorflow":
        with tf.GradientTape() as tape:
            value = loss_of()
        return value, tape.gradient(value, [v.value for v in trained])
    current = [(v, v.value) for v in variables]

    def of_values(values):
        with keras.StatelessScope([*current, *zip(trained, values, strict=True)]):
            return loss_of()

    return jax.value_and_grad(of_values)([v.value for v in trained])


def compiled(gan):
    """Return the step as a function of a batch, compiled where the backend compiles."""
    if BACKEND == "torch":

        def step(real):
            with torch.enable_grad():
                return gan.step(keras.ops.convert_to_tensor(real))

        return step
    if BACKEND == "tensorflow":
        return tf.function(gan.step, reduce_retracing=True)
    state = gan.state()

    @jax.jit
    def pure(values, real):
        with keras.StatelessScope(zip(state, values, strict=True)) as scope:
            losses = gan.step(real)
        return losses, [scope.get_current_value(v) for v in state]

    def step(real):
        losses, values = pure([v.value for v in state], real)
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        return losses

    return step


class Judge:
    """Measures how far generated images are from real ones it was not trained on."""

    def __init__(self, x, y, x_real):
        self._network = MLPClassifier((64,), max_iter=200, tol=1e-3, random_state=0)
        self._network.fit(x.reshape(len(x), -1), y)
        self._real = self._features(x_real)
        self._noise = np.random.default_rng(2).normal(size=(SAMPLES, NOISE)).astype("float32")

    def distance(self, gan):
        """Return the Fréchet distance between features of real and of generated images."""
        fake = self._features(keras.ops.convert_to_numpy(gan.generator(self._noise)))
        (mean_a, cov_a), (mean_b, cov_b) = (
            (f.mean(0), np.cov(f, rowvar=False)) for f in (self._real, fake)
        )
        root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
        return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)

    def digits(self, images):
        """Return which digits these are taken for."""
        return self._network.predict(images.reshape(len(images), -1))

    def _features(self, images):
        hidden = images.reshape(len(images), -1) @ self._network.coefs_[0]
        return np.maximum(hidden + self._network.intercepts_[0], 0)


def load_data():
    """Return images in [-1, 1] and labels to train with, and images to judge with."""
    digits = load_digits()
    x = (digits.images / 8 - 1).astype("float32")[..., None]
    order = np.random.default_rng(0).permutation(len(x))
    train, judged = order[:1344], order[1344:]
    return x[train], digits.target[train], x[judged]


def train(run, epochs, *more_callbacks):
    """Train, or resume training; return the model, the judge, the stopper and the final state."""
    keras.utils.set_random_seed(1)
    x, y, x_real = load_data()
    judge = Judge(x, y, x_real)
    gan = Gan()
    step = compiled(gan)
    stopper = keras_ratchet.EarlyStopping(
        "frechet", mode="min", patience=PATIENCE, restore_best_weights=True
    )
    files = keras_ratchet.ModelCheckpoint(
        run / "epoch-{epoch:02d}-{frechet:.2f}.weights.h5",
        monitor="frechet",
        mode="min",
        save_weights_only=True,
        keep_best=2,
        keep_last=1,
    )
    data = ResumableDataset(x, batch_size=BATCH, seed=1)
    journal = KeepJournal(run / "backup", run / COPY)
    callbacks = [stopper, files, journal, *more_callbacks]
    with keras_ratchet.Run(
        run / "backup", gan, data=data, callbacks=callbacks, save_freq=5
    ) as loop:
        for _ in loop.epochs(epochs):
            for real in loop.batches(data):
                d_loss, g_loss = step(real[0] if isinstance(real, tuple) else real)
                loop.log(d_loss=d_loss, g_loss=g_loss)
            loop.log(frechet=judge.distance(gan))
    state = final_state(
        variables_of_both_networks=gan.variables,
        variables_of_the_generator_s_optimizer=gan.generator_optimizer.variables,
        variables_of_the_discriminator_s_optimizer=gan.discriminator_optimizer.variables,
        history=list(loop.history.items()),
    )
    return gan, judge, stopper, state


def plot(images, digits, path):
    """Draw generated images, sorted by the digit that they are taken for."""
    order = np.argsort(digits, kind="stable")
    picked = order[np.linspace(0, len(order) - 1, 60, dtype=int)]
    figure, axes = plt.subplots(5, 12, figsize=(9, 4.2), layout="constrained")
    for axis, row in zip(axes.T.flat, picked, strict=True):
        axis.imshow(images[row, ..., 0], cmap="gray_r", vmin=-1, vmax=1)
        axis.set_title(digits[row], fontsize=7, pad=2)
        axis.axis("off")
    figure.suptitle("Generated digits, and what a classifier takes them for")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    arguments = parse(__doc__.splitlines()[0], small="few epochs, for a quick look")
    epochs = SMALL_EPOCHS if arguments.small else EPOCHS

    def train_in(run, *more_callbacks):
        return train(run, epochs, *more_callbacks)

    if trains_as_child(arguments, train_in, RUN, KILL):
        return
    start = start_of(__file__, arguments, RUN)

    gan, judge, stopper, state = train_in(RUN)
    noise = np.random.default_rng(3).normal(size=(600, NOISE)).astype("float32")
    images = keras.ops.convert_to_numpy(gan.generator(noise))
    taken_for = judge.digits(images)
    plot(images, taken_for, RUN / "samples.png")
    again = Gan()
    best = min(keras_ratchet.checkpoints(RUN), key=lambda info: info.metrics["frechet"])
    keras_ratchet.load_weights(again, best.path)
    snapshots, files = saves(RUN / COPY), saves(journal_of(RUN))

    print_table(
        f"A GAN on {BACKEND}",
        [
            ("networks", f"{gan.count_params():,} weights, {len(gan.state())} variables in all"),
            ("this process started in", start),
            ("epochs run", f"{stopper.stopped_epoch + 1 if stopper.stop_reason else epochs}"),
            ("why it ended", str(stopper.stop_reason or "all epochs were run")),
            (
                "best epoch, restored",
                f"{stopper.best_epoch + 1} (Fréchet distance {judge.distance(gan):.2f})",
            ),
            ("digits that are drawn", ", ".join(map(str, np.unique(taken_for)))),
            ("files kept", "\n".join(info.name for info in keras_ratchet.checkpoints(RUN))),
            ("snapshots", f"{len(snapshots)} of {megabytes(snapshots[-1]['bytes'])} each"),
            ("training waited for a snapshot", cost(snapshots)),
            ("training waited for a file", cost(files)),
        ],
    )
    if judge.distance(again) != judge.distance(gan) or judge.distance(gan) != stopper.best_value:
        raise SystemExit("The model in memory and the best file differ.")
    print(f"The model in memory and {best.path} draw the same images: {RUN / 'samples.png'}")
    if arguments.interrupt:
        compare_with_twin(__file__, arguments, RUN, state)


if __name__ == "__main__":
    main()
