"""What was found out, in words: rows of tables, and lines with their colors. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from keras_ratchet._doctor.causes import at
from keras_ratchet._doctor.outcome import (
    DIFFERS,
    EQUAL,
    NOT_COMPARED,
    NOT_SAVED,
    Examination,
    Kill,
    PartOutcome,
    SaveCost,
)
from keras_ratchet._numbers import count

Line = tuple[str, str | None]  # a text and its color
Row = tuple[tuple[str, ...], str | None]  # cells, and their color
PART_HEADERS = ("part", "values", "two whole runs", "killed and run again")
KILL_HEADERS = ("kill", "hit", "after", "resumed from", "trained again", "outcome")
ADD_BACKUP = 'keras_ratchet.BackupAndRestore("backup", save_freq=100)'
_COLORS = {EQUAL: None, NOT_COMPARED: "yellow", NOT_SAVED: "red", DIFFERS: "red"}


def amount(value: float) -> str:
    """Return a difference for people.

    Example:
        >>> amount(0.00123456), amount(float("inf"))
        ('0.00123', 'inf')
    """
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """Return a time for people.

    Example:
        >>> seconds(0.00042), seconds(0.25), seconds(12.34), seconds(300)
        ('0.42 ms', '250 ms', '12.3 s', '5 min')
    """
    if value < 1:
        return f"{1000 * value:.{2 if value < 0.01 else 0}f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.0f} min"


def part_rows(found: Examination) -> list[Row]:
    """Return a row for each part, and its color."""
    compared = [k.comparison for k in found.kills if k.comparison is not None]
    every = [*found.whole.parts, *(p for c in compared for p in c.parts)]
    rows: list[Row] = []
    for part in dict.fromkeys(p.part for p in every):
        whole = _named(found.whole.parts, part)
        killed = [p for c in compared if (p := _named(c.parts, part)) is not None]
        present = [p for p in (whole, *killed) if p is not None]
        statuses = [p.status for p in present]
        worst = max(statuses, key=(EQUAL, NOT_COMPARED, NOT_SAVED, DIFFERS).index)
        cells = (part, str(max(p.compared for p in present)), _cell(whole), _cells(killed))
        rows.append((cells, _COLORS[worst]))
    return rows


def _named(parts: Sequence[PartOutcome], name: str) -> PartOutcome | None:
    return next((part for part in parts if part.part == name), None)


def _cell(part: PartOutcome | None) -> str:
    if part is None:
        return "-"
    worst = part.worst
    if part.status not in (DIFFERS, NOT_SAVED) or worst is None:
        return part.status
    if part.status == NOT_SAVED:
        return f"not saved: {worst.name}"
    by = "" if worst.by is None else f" by max |d| = {amount(worst.by)}"
    return f"differs{by}: {worst.name}"


def _cells(parts: Sequence[PartOutcome]) -> str:
    """Return the outcome of a part over all kills: the worst one, and how often."""
    if not parts:
        return "-"
    bad = [part for part in parts if part.status in (DIFFERS, NOT_SAVED)]
    if not bad:
        return _cell(max(parts, key=lambda p: p.status == EQUAL))
    worst = max(bad, key=lambda p: -1.0 if p.worst is None or p.worst.by is None else p.worst.by)
    often = f" ({len(bad)} of {len(parts)})" if len(parts) > 1 else ""
    return _cell(worst) + often


def kill_rows(found: Examination) -> list[Row]:
    """Return a row for each kill, and its color."""
    return [(_kill_row(kill), None if kill.is_equal else "red") for kill in found.kills]


def _kill_row(kill: Kill) -> tuple[str, ...]:
    after = f"epoch {kill.epoch}, batch {kill.batch}" if kill.epoch else "-"
    resumed = "the start"
    if kill.resumed is not None:
        epoch, batch = kill.resumed
        ended = f"the end of epoch {epoch}" if epoch else "the state at the start"
        resumed = f"epoch {epoch + 1}, batch {batch}" if batch else ended
    again = f"{count(kill.lost_steps, 'step')}, {seconds(kill.lost_s)}" if kill.lost_steps else "-"
    return (str(kill.number), kill.hit, after, resumed, again, _outcome(kill))


def _outcome(kill: Kill) -> str:
    if kill.problem or kill.comparison is None:
        return f"failed: {kill.problem}"
    if kill.comparison.parting is not None:
        return f"parts {at(kill.comparison.parting.place)}"
    return "equal" if kill.is_equal else "not equal"


def heading(found: Examination) -> str:
    """Return what was examined, in one line."""
    versions = found.versions
    on = f" (Keras {versions['keras']} on {versions['backend']})" if "keras" in versions else ""
    fits = f" in {found.fits} fits" if found.fits > 1 else ""
    length = f"{count(found.steps, 'step')}{fits} in {found.seconds:.1f} s"
    return f"{shlex.join(found.command)}: {length}{on}"


def finding_lines(found: Examination) -> list[Line]:
    """Return causes with their cures, costs, and what else there is to say."""
    lines: list[Line] = []
    if not found.is_reproducible and found.whole.parting is not None:
        place = at(found.whole.parting.place)
        lines.append((f"Not reproducible: two whole runs part {place}.", "red"))
    if not found.has_backup:
        lines.append(("No BackupAndRestore: everything is lost at each kill.", "red"))
        lines.append((f"  cure: add {ADD_BACKUP} to callbacks=[...]", "green"))
    for cause in found.causes:
        lines.append((f"{cause.kind}: {cause.sentence}", "red"))
        lines += [(f"  cure: {cause.cure}", "green")] if cause.cure else []
    lines += [(text, "red") for text in found.problems]
    lines.append((cost_line(found.cost), None))
    if found.kills:
        lines.append((_lost_line(found.kills), None))
    lines += [(f"said: {text}", "yellow") for text in found.says]
    lines += [(f"note: {text}", None) for text in _notes(found)]
    return lines


def _notes(found: Examination) -> list[str]:
    compared = [c for c in (found.whole, *(k.comparison for k in found.kills)) if c is not None]
    notes = dict.fromkeys(f"{p.part}: {p.note}" for c in compared for p in c.parts if p.note)
    return [*found.notes, *notes, *_of_luck(found)]


def _of_luck(found: Examination) -> list[str]:
    """Return a sentence if no step was trained twice: what a script does then was not tried."""
    if not found.kills or any(kill.lost_steps for kill in found.kills):
        return []
    return ["No kill came after steps that were not saved yet. More of them: --kills."]


def cost_line(cost: SaveCost) -> str:
    """Return what saves cost."""
    if not cost.saves:
        return "Nothing was saved."
    each = f"median {seconds(cost.median_s)}, longest {seconds(cost.longest_s)}"
    total = f"{100 * cost.share:.1f} % of the time in fit"
    if cost.is_blocked:
        return f"{count(cost.saves, 'save')}: training waited {each}; {total}."
    return f"{count(cost.saves, 'save')}: {each} from begin to commit; at most {total}."


def _lost_line(kills: Sequence[Kill]) -> str:
    steps = [kill.lost_steps for kill in kills]
    worst = max(kills, key=lambda kill: kill.lost_s)
    mean = sum(steps) / len(steps)
    return (
        f"A kill costs {mean:.3g} steps on average, at most {count(max(steps), 'step')} "
        f"({seconds(worst.lost_s)} of training), and the start of the script."
    )


def verdict(found: Examination) -> Line:
    """Return the one line that sums it up."""
    kills = count(len(found.kills), "kill")
    if found.is_fine:
        if not found.kills:
            return "Two whole runs are equal, bit by bit. Nothing was killed.", "green"
        times = "it" if len(found.kills) == 1 else "each"
        return f"Equal, bit by bit: {kills}, and {times} ended as the whole run did.", "green"
    if not found.is_reproducible:
        return "The script is not reproducible: two whole runs differ.", "red"
    unequal = sum(not kill.is_equal for kill in found.kills)
    if unequal:
        verb = "does" if unequal == 1 else "do"
        text = f"{unequal} of {kills} {verb} not end as the whole run did."
        return text, "red"
    if not found.has_backup:
        return "Nothing would be left after a kill.", "red"
    if not found.kills:
        return "Nothing was proven: no kill happened.", "red"
    return "Not everything is right: see above.", "red"
