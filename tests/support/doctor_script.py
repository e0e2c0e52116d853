"""A script that speaks the language of marks, without Keras: what it trains is one number.

It saves after every second step, and resumes from what it has saved. Its arguments break it:

    doctor_script.py [unseeded | order | noise | stream | closure | lines | position ...]
"""

import json
import os
import random
import sys
import time
from pathlib import Path

EPOCHS, BATCHES = 3, 4
STEP_S = float(os.environ.get("FAKE_STEP_S", "0.01"))
BROKEN = set(sys.argv[1:])
marks = os.environ.get("RATCHET_DOCTOR")
if marks is None or "silent" in BROKEN:
    sys.exit("fails" in BROKEN)
options = json.loads(Path(marks, "options.json").read_text())
backup = Path(os.environ["RATCHET_DOCTOR_OUTSIDE"] if "absolute" in BROKEN else "backup", "state")
backup.parent.mkdir(exist_ok=True)


def mark(kind, **fields):
    line = {"t": time.monotonic(), "pid": os.getpid(), "mark": kind, **fields}
    fd = os.open(f"{marks}/marks.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, json.dumps(line).encode() + b"\n")
    os.close(fd)


def values(weight):
    return {"layers/dense/kernel": f"{weight:.17g}", "optimizer/iteration": str(done)}


def row(epoch, batch):
    shift = epoch if "position" not in BROKEN else len(os.listdir(os.path.dirname(marks)))
    sample = (batch + shift) % BATCHES
    if "order" in BROKEN:
        sample = order[batch]
    return f"noise-{random.random()}" if "noise" in BROKEN else f"sample-{sample}"


def save(epoch, batch):
    mark("save_begin", path=str(backup))
    time.sleep(STEP_S)
    draft = backup.with_suffix(".draft")
    draft.write_text(json.dumps([epoch, batch, weight, losses]))
    draft.replace(backup)
    mark("save_end", path=str(backup))


mark("started", python="3", keras="3", backend="fake", package="0")
epoch, batch, done, count = 0, 0, 0, 0
weight = random.random() if "unseeded" in BROKEN else 0.5
losses, resumed = [], None
if backup.exists() and "afresh" not in BROKEN:
    epoch, batch, weight, losses = json.loads(backup.read_text())
    resumed = {"epoch": epoch, "batch": batch}
    done = epoch * BATCHES + batch
    if "restores" in BROKEN:
        weight += 1
has_backup = None if "no-backup" in BROKEN else str(backup.parent)
streams = {"python": "1", "numpy": str(random.random()) if "stream" in BROKEN else "2"}
mark("fit_begin", fit=0, backup=has_backup, checkpoints=[], resumed=resumed, streams=streams,
     variables=values(weight), paths={"layers/dense/kernel": "dense/kernel"})  # fmt: skip
first = batch
for epoch in range(epoch, min(EPOCHS, options["epochs"] or EPOCHS)):  # noqa: B020
    mark("epoch_begin", fit=0, epoch=epoch)
    order = random.sample(range(BATCHES), BATCHES)
    for batch in range(first, BATCHES):
        mark("batch_begin", fit=0, epoch=epoch, batch=batch)
        time.sleep(STEP_S)
        seen = row(epoch, batch)
        weight = weight * 0.9 + sum(map(ord, seen)) / 1000
        if "closure" in BROKEN:
            weight += count / 100
        if "stream" in BROKEN or "kernels" in BROKEN:
            weight += random.random()
        count, done = count + 1, done + 1
        if "lines" in BROKEN:
            with open("log.txt", "a") as file:
                file.write(f"{epoch} {batch}\n")
            mark("write", path=os.path.abspath("log.txt"), by="train.py:7 in LineLogger")
        mark("step", fit=0, epoch=epoch, batch=batch, step=done, variables=values(weight),
             streams=streams, rate=0.1, data=seen, samples=[seen], logs={})  # fmt: skip
        if batch == 1 and has_backup and "saves-not" not in BROKEN:
            save(epoch, batch + 1)
        if "hang" in BROKEN and resumed:
            time.sleep(1000)
        if "crash" in BROKEN and resumed:
            sys.exit("I do not like to be resumed")
    first = 0
    if "no-validation" not in BROKEN:
        mark("validation_begin", fit=0, epoch=epoch)
        time.sleep(STEP_S)
        mark("validation_end", fit=0, epoch=epoch)
    losses.append(weight)
    mark("epoch_end", fit=0, epoch=epoch, logs={})
    if has_backup and "saves-not" not in BROKEN:
        save(epoch + 1, 0)
    time.sleep(STEP_S)
parts = {
    "model": {"layers/dense/kernel": values(weight)["layers/dense/kernel"]},
    "optimizers": {"optimizer/iteration": str(done)},
    "history": {"loss": losses},
    "callbacks": {"Timer.started_at": str(time.time()), "EarlyStopping.wait": "0"},
}
if "clock" in BROKEN:
    Path("clock.txt").write_text(str(time.time()))
    Path(f"events.{time.time_ns()}.{os.getpid()}").write_text("")
closures = {"count, in the closure of step (train.py:3)": str(count)} if "closure" in BROKEN else {}
mark("fit_end", fit=0, parts=parts, lost=[], closures=closures, arrays=None)
