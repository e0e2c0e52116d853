"""Fine-tuning: a frozen ConvNeXt of 28 million weights, of which LoRA and a new head are trained.

The network is `keras.applications.ConvNeXtTiny`, built from its config. Its weights are random, as
nothing is downloaded here; with `weights="imagenet"` the rest of the script stays as it is. The
images are the digits of scikit-learn on photographs of scikit-learn: real ones, 32 x 32 x 3.

Each snapshot holds the whole model, but the base is written once; each file of `ModelCheckpoint` is
the trained part alone. The last lines build the model again and lay the best file over it.

    python examples/finetune.py               # run it, kill it, run it again: it resumes
    python examples/finetune.py --interrupt   # a child process is killed, this one resumes; then
                                              # the same without interruption, and a comparison
    python examples/finetune.py --small       # the first two of its four stages
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

from pathlib import Path

import keras
import numpy as np
from interrupt import KillAt, same_weights
from scipy import ndimage
from sklearn.datasets import load_digits, load_sample_images
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
    written,
)

import keras_ratchet

RUN = Path("runs/finetune")
EPOCHS, BATCH, PATIENCE = 5, 32, 2
TRAINING, VALIDATION = 320, 160
SIZE, RANK = 32, 4
KILL = KillAt(epoch=2, batch=4)
COPY = "backup.jsonl"


def load_data():
    """Return (x, y) for training and validation: digits written on patches of two photographs."""
    digits = load_digits()
    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(digits.target))[: TRAINING + VALIDATION]
    images = np.empty((len(rows), SIZE, SIZE, 3), "float32")
    for image, row in zip(images, rows, strict=True):
        photograph = photographs[rng.integers(len(photographs))]
        top, left = rng.integers(0, np.array(photograph.shape[:2]) - SIZE)
        patch = photograph[top : top + SIZE, left : left + SIZE]
        ink = ndimage.zoom(digits.images[row] / 16, SIZE // 8, order=1)[..., None]
        image[:] = (1 - ink) * patch * 0.5 + ink * 255
    labels = digits.target[rows].astype("int32")
    return (images[:TRAINING], labels[:TRAINING]), (images[TRAINING:], labels[TRAINING:])


def build_base(small):
    """Return the network without its head; frozen, but for LoRA."""
    base = keras.applications.ConvNeXtTiny(
        weights=None, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3)
    )
    if small:  # its first two stages of four
        features = base.get_layer("convnext_tiny_stage_1_block_2_identity").output
        base = keras.Model(base.inputs, keras.layers.GlobalAveragePooling2D()(features))
    base.trainable = False
    for layer in base._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.Dense):
            layer.trainable = True
            layer.enable_lora(RANK)
            layer.bias.trainable = False
        elif type(layer).__name__ == "LayerScale":  # 1e-6 in a network that was never trained
            layer.trainable = True
    return base


def build_model(small):
    """Return the base with a new head, compiled, and the base."""
    keras.utils.set_random_seed(1)
    base = build_base(small)
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            base,
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model, base


def train(run, small, *more_callbacks):
    """Train, or resume training; return the model, its base, the stopper and the final state."""
    model, base = build_model(small)
    training, validation = load_data()
    # No restore_best_weights: each snapshot would hold a copy. The best file has them.
    stopper = keras_ratchet.EarlyStopping(patience=PATIENCE)
    files = keras_ratchet.ModelCheckpoint(
        run / "epoch-{epoch:02d}-{val_loss:.3f}.weights.h5",
        save_weights_only=True,
        trainable_only=True,
        keep_best=2,
    )
    backup = keras_ratchet.BackupAndRestore(run / "backup", save_freq=3)
    journal = KeepJournal(run / "backup", run / COPY)
    history = model.fit(
        *training,
        validation_data=validation,
        epochs=EPOCHS,
        batch_size=BATCH,
        verbose=0,
        callbacks=[backup, stopper, files, journal, *more_callbacks],
    )
    state = final_state(
        variables_of_the_model=model.variables,
        variables_of_the_optimizer=model.optimizer.variables,
        history=list(history.history.items()),
    )
    return model, base, stopper, state


def best_from_file(small):
    """Return the model built again with the best file laid over it, and what the file left out."""
    model, _ = build_model(small)
    model.optimizer.build(model.trainable_variables)  # the file has its state too
    return model, keras_ratchet.load_weights(model, best_file())


def best_file():
    """Return the path of the best of the files that were kept."""
    kept = keras_ratchet.checkpoints(RUN)
    return min(kept, key=lambda info: info.metrics["val_loss"]).path


def main():
    arguments = parse(__doc__.splitlines()[0], small="a part of the base, for a quick look")

    def train_in(run, *more_callbacks):
        return train(run, arguments.small, *more_callbacks)

    if trains_as_child(arguments, train_in, RUN, KILL):
        return
    start = start_of(__file__, arguments, RUN)

    model, base, stopper, state = train_in(RUN)
    keras_ratchet.load_weights(model, best_file())
    _, validation = load_data()
    loss, accuracy = model.evaluate(*validation, verbose=0)
    again, left_out = best_from_file(arguments.small)
    snapshots, files = saves(RUN / COPY), saves(journal_of(RUN))
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    first, *others = written(snapshots)

    print_table(
        f"Fine-tuning on {keras.backend.backend()}",
        [
            ("base", f"{base.count_params():,} weights, {megabytes(4 * base.count_params())}"),
            ("trained", f"{trained:,} weights: LoRA of rank {RANK}, LayerScale and the head"),
            ("this process started in", start),
            ("epochs run", f"{stopper.stopped_epoch + 1 if stopper.stop_reason else EPOCHS}"),
            ("why it ended", str(stopper.stop_reason or "all epochs were run")),
            ("best epoch, loaded from its file", f"{stopper.best_epoch + 1} (val_loss {loss:.4f})"),
            ("validation accuracy", f"{accuracy:.3f} (by chance: 0.100)"),
            ("snapshots", f"{len(snapshots)} of {megabytes(snapshots[-1]['bytes'])} each"),
            ("the first one wrote", megabytes(first)),
            ("each later one wrote", f"{megabytes(max(others))} at most"),
            ("training waited for a snapshot", cost(snapshots)),
            ("files", f"{len(files)} of {megabytes(files[-1]['bytes'])}: what was trained"),
            ("training waited for a file", cost(files)),
        ],
    )
    if not same_weights(model, again):
        raise SystemExit("The model in memory and the best file over the base differ.")
    print(
        f"The model in memory and the best file over the base hold the same weights; "
        f"{len(left_out)} of them are not in the file."
    )
    if arguments.interrupt:
        compare_with_twin(__file__, arguments, RUN, state)


if __name__ == "__main__":
    main()
