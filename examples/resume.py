"""Resume: kill it anywhere, run it again, get the same bits.

Trains the network of `digits.py` three times: without interruption; in a child process that
kills itself with SIGKILL in the middle of an epoch; and in the same child again, which resumes
from the snapshot. Then compares all variables, the optimizer, the History and the best file.

    KERAS_BACKEND=jax python examples/resume.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import digits
import keras
import numpy as np
from interrupt import KillAt, resumes_in, run_until_killed, same_weights
from progress import ProgressLine
from tables import print_table, ratchet

import keras_ratchet

RUN = Path("runs/resume")
EPOCHS = 6
KILL = KillAt(epoch=3, batch=25)  # of 34 batches


def train(run, *more_callbacks):
    """Train, or resume training, and write the whole final state into `run`."""
    keras.utils.set_random_seed(7)
    training, validation, _ = digits.load_data()
    model = digits.build_model()
    stopper = keras_ratchet.EarlyStopping(patience=2)
    history = model.fit(
        *training,
        validation_data=validation,
        epochs=EPOCHS,
        batch_size=32,
        verbose=0,
        callbacks=[
            keras_ratchet.BackupAndRestore(run / "backup", save_freq=10),
            stopper,
            keras_ratchet.ModelCheckpoint(run / "best.keras", save_best_only=True),
            ProgressLine("Training", EPOCHS),
            *more_callbacks,
        ],
    )
    variables = {
        f"{part}/{number:02d}": keras.ops.convert_to_numpy(variable)
        for part, whole in (("model", model), ("optimizer", model.optimizer))
        for number, variable in enumerate(whole.variables)
    }
    np.savez(run / "variables.npz", **variables)
    decisions = {"best": stopper.best, "best_epoch": stopper.best_epoch, "wait": stopper.wait}
    (run / "history.json").write_text(json.dumps({**history.history, **decisions}))


def compare(one, other):
    """Return, for each part of the final state, how many entries it has and how many differ."""
    a, b = np.load(one / "variables.npz"), np.load(other / "variables.npz")
    if a.files != b.files:
        raise SystemExit(f"The two runs have different variables: {a.files} and {b.files}.")
    parts = {}
    for part in ("model", "optimizer"):
        names = [name for name in a.files if name.startswith(part)]
        different = [
            n for n in names if a[n].tobytes() != b[n].tobytes() or a[n].dtype != b[n].dtype
        ]
        parts[f"variables of the {part}"] = (len(names), len(different))
    a, b = (json.loads((run / "history.json").read_text()) for run in (one, other))
    different = [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]
    parts["History and the stopper's decisions"] = (len(a), len(different))
    a, b = (keras.models.load_model(run / "best.keras") for run in (one, other))
    parts["best file"] = (1, int(not same_weights(a, b)))
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", action="store_true", help="train in RUN/killed")
    parser.add_argument("--kill", action="store_true", help="and die in mid-epoch")
    arguments = parser.parse_args()
    straight, killed = RUN / "straight", RUN / "killed"
    if arguments.child:
        train(killed, *([KILL] if arguments.kill else []))
        return

    shutil.rmtree(RUN, ignore_errors=True)
    print(f"1 of 3: {EPOCHS} epochs without interruption ...")
    train(straight)
    print("2 of 3: the same in another process, which kills itself in the middle of an epoch ...")
    run_until_killed(__file__, "--child", "--kill")
    place = resumes_in(killed / "backup")
    print("3 of 3: the same script again ...")
    subprocess.run([sys.executable, __file__, "--child"], check=True)

    parts = compare(straight, killed)
    rows = [(part, count, different) for part, (count, different) in parts.items()]
    print_table(
        f"Killed and resumed, compared with uninterrupted ({keras.backend.backend()})",
        [("", "compared", "different"), *rows],
    )
    print(f"Run again, the script resumed in {place}, and trained to epoch {EPOCHS}.")
    if any(different for _, different in parts.values()):
        raise SystemExit("The resumed run differs from the uninterrupted one.")
    print("The final weights are bit-identical to the uninterrupted run's.")
    print(f"On a script of yours: {ratchet()} doctor --kills 2 -- python train.py")
    print(f"Started again after crashes: {ratchet()} run -- python train.py")


if __name__ == "__main__":
    main()
