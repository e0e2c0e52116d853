"""Directories with journals of runs, without a training."""

import json

START = 1_700_000_000.0
SERIES = "epoch-{epoch:02d}.keras"
RANKING = [["val_loss", "min"]]


def tell(directory, events, *raw):
    """Write a journal with times of our own; `raw` lines are added as they are."""
    metadata = directory / ".ratchet"
    metadata.mkdir(parents=True, exist_ok=True)
    with open(metadata / "journal.jsonl", "a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
        file.writelines(line + "\n" for line in raw)
    return directory


def epoch(number, at=START, series=SERIES, **metrics):
    line = {"event": "epoch", "series": series, "epoch": number, "metrics": metrics}
    return {"time": at + 10 * number, **line}


def save(number, at=START, series=SERIES, **more):
    line = {"event": "save", "series": series, "name": f"epoch-{number:02d}.keras", "batch": 0}
    costs = {"bytes": 2_000_000, "blocked_s": 0.25, "written_s": 1.5, "ranking": RANKING}
    return {"time": at + 10 * number + 1, "epoch": number, "reason": "it was best"} | (
        line | costs | more
    )


def other(event, number, at=START, series=SERIES, **more):
    return {"time": at + 10 * number + 2, "event": event, "series": series, "epoch": number} | more


def begin(epochs, at=START, series=SERIES, number=0):
    """Return the start of a run, or of one that goes on after an epoch."""
    line = {"event": "begin", "series": series, "epochs": epochs}
    return {"time": at + 10 * number + 5 * bool(number), **line}


def end(number, at=START, series=SERIES):
    line = {"event": "end", "series": series, "reason": "training ended"}
    return {"time": at + 10 * number + 4, **line}


def losses(*values, at=START, series=SERIES, first=1):
    """Return an epoch for each validation loss; the training loss is half of it."""
    return [
        epoch(number, at, series, loss=value / 2, val_loss=value)
        for number, value in enumerate(values, first)
    ]


def eventful():
    """Return the events of a run in which everything happens; epoch 4 of 6 is best."""
    curve = losses(4.0, 2.0, 3.0, 0.5, 0.75, 1.0)
    curve[2]["metrics"]["loss"] = "nan"
    return [
        begin(20),
        curve[0],
        save(1),
        curve[1],
        save(2),
        other("drop", 1, name="epoch-01.keras", reason="no rule keeps it"),
        begin(20, number=2),
        curve[2],
        other("skip", 3, reason="val_loss has not improved"),
        other("rollback", 3, batch=7, reason="loss is nan: back to the state after 2 epochs"),
        other("reduce_lr", 3, reason="learning rate cut to 0.1"),
        curve[3],
        save(4),
        curve[4],
        curve[5],
        other("average", 6, kind="soup", metric="val_loss", members=["a", "b"], value=0.45)
        | {"reason": "the mean of 2 epochs is better"},
        other("stop", 6, kind="patience", reason="val_loss has not improved for 2 checks"),
        end(6),
    ]
