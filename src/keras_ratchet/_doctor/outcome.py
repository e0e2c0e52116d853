"""What a doctor finds out, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from keras_ratchet._doctor.marks import Place

EQUAL, DIFFERS, NOT_SAVED, NOT_COMPARED = "equal", "differs", "not saved", "not compared"


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not the same.

    Attributes:
        name: Which.
        by: By how much, as the largest absolute difference; None if that is unknown.
        what: What differs, for what is not a number.
    """

    name: str
    by: float | None = None
    what: str = ""


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """One part of two trainings, compared.

    Attributes:
        part: Its name.
        status: `EQUAL`, `DIFFERS`, `NOT_SAVED` or `NOT_COMPARED`.
        compared: How many values were compared.
        differences: Those that are not the same.
        note: What else there is to say.
    """

    part: str
    status: str
    compared: int = 0
    differences: tuple[Difference, ...] = ()
    note: str = ""

    @property
    def worst(self) -> Difference | None:
        """Return the difference that says most: the largest known one."""
        return max(self.differences, key=lambda d: -1.0 if d.by is None else d.by, default=None)


@dataclass(frozen=True, slots=True)
class Parting:
    """The first moment at which two trainings are not the same.

    Attributes:
        place: Indices of fit, epoch and batch; batch -1: before the first step of that fit.
        variables: Names of the variables that differ there.
        streams: Names of the random streams that differ there or did before.
        data: What is known of the data: "same", "order" (the same samples in another order, or
            in other batches), "content" (other samples) or "unknown".
        rate: Whether the learning rate differs.
    """

    place: Place
    variables: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    data: str = "unknown"
    rate: bool = False


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something differs, by evidence.

    Attributes:
        kind: One word or two.
        sentence: What was found.
        cure: What to do; empty if that is unknown.
        about: What it is about, so that it is told once; empty if the sentence says no more.
    """

    kind: str
    sentence: str
    cure: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A training, compared with whole run 1.

    Attributes:
        parts: Each part.
        parting: Where the two part; None if they never do.
        causes: Why.
    """

    parts: tuple[PartOutcome, ...] = ()
    parting: Parting | None = None
    causes: tuple[Cause, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Return whether nothing differs, and nothing is known to be lost."""
        fine = (EQUAL, NOT_COMPARED)
        return self.parting is None and all(part.status in fine for part in self.parts)


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill that happened, and what became of it.

    Attributes:
        number: From 1 on.
        planned: The kind of instant that was chosen.
        hit: What the process was doing.
        epoch: In which epoch, from 1 on; 0 before the first.
        batch: After how many batches of it.
        resumed: From where the next start went on: completed epochs, and batches of the next;
            None if it began afresh.
        lost_steps: How many steps were trained again.
        lost_s: How long these had taken.
        seconds: How long both starts took.
        comparison: With whole run 1; None if the second start failed.
        problem: Why it failed.
        output: The last lines that it printed then.
    """

    number: int
    planned: str
    hit: str
    epoch: int
    batch: int
    resumed: tuple[int, int] | None
    lost_steps: int
    lost_s: float
    seconds: float
    comparison: Comparison | None = None
    problem: str | None = None
    output: str = ""

    @property
    def is_equal(self) -> bool:
        """Return whether the run ended as the whole one did."""
        return self.comparison is not None and self.comparison.is_equal


@dataclass(frozen=True, slots=True)
class SaveCost:
    """What saves cost in whole run 1.

    Attributes:
        saves: How many there were.
        median_s: How long one took, the median: training waited so long, or if `is_blocked` is
            not set, from its begin to its commit.
        longest_s: The longest one.
        share: Part of the time in `fit`.
        is_blocked: Whether these are times in which training waited.
    """

    saves: int = 0
    median_s: float = 0.0
    longest_s: float = 0.0
    share: float = 0.0
    is_blocked: bool = False


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found out about a script.

    Attributes:
        command: Program and arguments.
        seed: With which the instants were chosen.
        versions: Of Python, Keras, the backend and this package.
        seconds: How long whole run 1 took.
        fits: How many times it called `fit`.
        steps: How many steps it trained.
        has_backup: Whether each fit has a BackupAndRestore.
        whole: Whole run 2, compared with whole run 1.
        is_reproducible: Whether the two trained the same.
        asked_kills: How many kills were asked for.
        kills: Those that happened.
        missed: How many came too late.
        cost: What saves cost.
        says: What this package has warned of in whole run 1.
        notes: What else there is to say.
        problems: What else is wrong.
    """

    command: tuple[str, ...]
    seed: int
    versions: dict[str, str]
    seconds: float
    fits: int
    steps: int
    has_backup: bool
    whole: Comparison
    is_reproducible: bool
    asked_kills: int
    kills: tuple[Kill, ...] = ()
    missed: int = 0
    cost: SaveCost = field(default_factory=SaveCost)
    says: Sequence[str] = ()
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()

    @property
    def is_fine(self) -> bool:
        """Return whether everything is equal, and kills happened if any were asked for."""
        proven = bool(self.kills) or self.asked_kills == 0
        is_equal = self.is_reproducible and self.whole.is_equal and self.has_backup
        return is_equal and proven and all(k.is_equal for k in self.kills) and not self.problems

    @property
    def causes(self) -> list[Cause]:
        """Return every cause once, as it was found first."""
        found = [*self.whole.causes]
        for kill in self.kills:
            found += kill.comparison.causes if kill.comparison else ()
        once: dict[tuple[str, str], Cause] = {}
        for cause in found:
            once.setdefault((cause.kind, cause.about or cause.sentence), cause)
        return list(once.values())
