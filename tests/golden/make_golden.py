"""Makes the golden files of schema 1, once: `python tests/golden/make_golden.py`.

They are committed and must verify and load for ever. Do not make them anew: a reader that no
longer understands them is what they are there to find. A schema 2 gets a directory of its own.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from support.weight_files import save_model

from keras_ratchet._formats.safetensors import write_arrays
from keras_ratchet._storage import snapshot_directory
from keras_ratchet._storage.listing import pin
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.types import Position

PLACE = Path(__file__).parent / "schema1"
FILES = ((1, ".keras"), (2, ".keras"), (1, ".weights.h5"), (1, ".h5"))


def model():
    """Return a compiled model of 11 weights, with values that every backend holds exactly."""
    made = keras.Sequential(
        [
            keras.Input((2,), name="x"),
            keras.layers.Dense(2, name="hidden"),
            keras.layers.Dense(1, name="out"),
        ],
        name="golden",
    )
    made.compile(keras.optimizers.SGD(0.125), keras.losses.MeanSquaredError())
    return made


def weights(number):
    """Return the weights of the golden model number 1 or 2."""
    shapes = [(2, 2), (2,), (2, 1), (1,)]
    return [np.full(s, number + i / 8, "float32") for i, s in enumerate(shapes)]


def facts(number, series):
    """Return what the manifests say."""
    return Manifest(
        files={},
        position=Position(number, 0, 10 * number),
        metrics={"val_accuracy": 0.5, "val_loss": 1 / number, "odd": float("nan")},
        ranking=(("val_loss", "min"), ("val_accuracy", "max")),
        reason=f"val_loss improved to {1 / number:.5f} — “gold”",
        series=series,
        saved_at=1_700_000_000.5 + number,
        versions={"keras": keras.__version__, "backend": keras.backend.backend()},
        fingerprint="0123456789abcdef0123456789abcdef",
    )


def main():
    """Write everything."""
    if any(PLACE.glob("*")):
        sys.exit(f"{PLACE} is not empty: golden files are made once")
    PLACE.mkdir(exist_ok=True)
    for number, suffix in FILES:
        golden = model()
        golden.set_weights(weights(number))
        series = f"epoch-{{epoch}}{suffix}"
        save_model(golden, str(PLACE / f"epoch-{number}{suffix}"), facts(number, series))
    pin(str(PLACE / "epoch-1.keras"))
    snapshot()


def snapshot():
    """Write a snapshot directory in mid-epoch."""
    arrays = {f"weights/{i}": w for i, w in enumerate(weights(3))}
    text = json.dumps({"position": [3, 4, 34]}).encode()
    with snapshot_directory.SnapshotDraft(str(PLACE), "epoch-00003-batch-0000004") as draft:
        draft.write("state.safetensors", lambda file: write_arrays(arrays, file))
        draft.write("state.json", lambda file: file.write(text))
        draft.commit(
            Manifest(files={}, position=Position(3, 4, None), saved_at=1_700_000_100.0, reason="")
        )


if __name__ == "__main__":
    main()
