"""A custom PyTorch loop with the same callbacks, through `keras.callbacks.CallbackList`.

The model is a Keras model and is never compiled; the optimizer is torch's. The callbacks stop
the loop, save `best.weights.h5` on improvement and `last.keras` after each epoch, and restore
the best weights (and their optimizer state) at the end.

    python examples/custom_loop.py
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # the loop is written in torch

from pathlib import Path

import keras
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

import keras_ratchet

RUN = Path("runs/custom_loop")
EPOCHS = 40


def load_data():
    """Return loaders over 1,437 training and 360 validation images of handwritten digits."""
    digits = load_digits()
    data = TensorDataset(
        torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    )
    train, validation = random_split(data, [1437, 360], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=64, shuffle=True), DataLoader(validation, batch_size=180)


def build_model():
    """Return an uncompiled multilayer perceptron."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )


def validate(model, loader, loss_function):
    """Return the mean loss and the accuracy over a loader."""
    total = correct = count = 0
    with torch.no_grad():
        for x, y in loader:
            logits = model(x, training=False)
            total += float(loss_function(logits, y)) * len(y)
            correct += int((logits.argmax(-1) == y).sum())
            count += len(y)
    return total / count, correct / count


def main():
    keras.utils.set_random_seed(3)
    train, validation = load_data()
    model = build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss_function = torch.nn.CrossEntropyLoss()

    stopper = keras_ratchet.EarlyStopping(
        patience=4, restore_best_weights=True, restore_optimizer=optimizer
    )
    best = keras_ratchet.ModelCheckpoint(
        RUN / "best.weights.h5", save_best_only=True, save_weights_only=True
    )
    last = keras_ratchet.ModelCheckpoint(RUN / "last.keras")
    callbacks = keras.callbacks.CallbackList([stopper, best, last], model=model)

    with keras_ratchet.guard(model, callbacks):
        model.stop_training = False
        callbacks.on_train_begin()
        for epoch in range(EPOCHS):
            callbacks.on_epoch_begin(epoch)
            total = count = 0.0
            for batch, (x, y) in enumerate(train):
                callbacks.on_train_batch_begin(batch)
                optimizer.zero_grad()
                loss = loss_function(model(x, training=True), y)
                loss.backward()
                optimizer.step()
                total, count = total + float(loss.detach()) * len(y), count + len(y)
                callbacks.on_train_batch_end(batch, {"loss": total / count})
                if model.stop_training:
                    break
            val_loss, val_accuracy = validate(model, validation, loss_function)
            logs = {"loss": total / count, "val_loss": val_loss, "val_accuracy": val_accuracy}
            callbacks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        callbacks.on_train_end(logs)

    restored, accuracy = validate(model, validation, loss_function)
    print(f"Ran {epoch + 1} of {EPOCHS} epochs: {stopper.stop_reason or 'all of them'}.")
    print(f"Best epoch {stopper.best_epoch + 1}; restored val_loss {restored:.6f}, {accuracy=:.4f}")
    again = build_model()
    again.load_weights(RUN / "best.weights.h5")
    from_file, _ = validate(again, validation, loss_function)
    print(f"best.weights.h5 gives val_loss {from_file:.6f}; last.keras holds epoch {epoch + 1}.")
    if not (restored == from_file == stopper.best_value):
        raise SystemExit("The restored model, the best file and the best score differ.")


if __name__ == "__main__":
    main()
