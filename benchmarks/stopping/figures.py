"""From outcomes to figures: R, E and d, with confidence intervals over data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stopping.rules import RULES, Rule
from stopping.runs import Row

_FLOOR = 1e-12  # of a loss, for its logarithm
_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over data sets with its 95 % confidence interval; all in percent.

    Attributes:
        mean: The mean.
        low: Lower end of the interval.
        high: Upper end.
        median: Median of the data sets.
        n: Number of data sets.
    """

    mean: float
    low: float
    high: float
    median: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def estimate(values: Iterable[float]) -> Estimate:
    """Return the estimate of logarithms of ratios, one for each data set, by bootstrap.

    Raises:
        ValueError: If there is none.

    Example:
        >>> str(estimate(np.log([1.1, 1.1, 1.1])))
        '+10.00 [+10.00, +10.00]'
    """
    logs = np.array(list(values))
    return _estimate(logs, _draws(len(logs)) @ logs)


def _draws(n: int) -> np.ndarray:
    """Return the weights of n data sets in each resample, (resamples, n)."""
    if not n:
        raise ValueError("There is no data set to estimate from: run the study on both parts.")
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), _RESAMPLES) / n


def _estimate(logs: np.ndarray, resampled: np.ndarray) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    percents = [100 * np.expm1(v) for v in (logs.mean(), low, high, np.median(logs))]
    return Estimate(*(float(p) for p in percents), len(logs))


class Figures:
    """Means of each rule on each data set, and what follows from them.

    Args:
        rows: The outcomes of all runs.
        budget: Epochs of a whole run.
    """

    def __init__(self, rows: Sequence[Row], budget: int) -> None:
        self.rows = rows
        self.parts = {row["task"]: row["part"] for row in rows}
        self._sums: dict[tuple[str, str], np.ndarray] = {}
        for row in rows:
            loss, oracle = (np.log(max(row[name], _FLOOR)) for name in ("loss", "oracle"))
            hit = np.nan if row["accuracy"] is None else row["accuracy"]
            sums = self._sums.setdefault((row["rule"], row["task"]), np.zeros(5))
            sums += [row["epochs"] / budget, loss, loss - oracle, hit, 1]
        self._means = {key: sums[:4] / sums[4] for key, sums in self._sums.items()}
        self._front = [rule for rule in RULES if rule.front]
        self._stacked: dict[tuple[str, ...], np.ndarray] = {}
        self.rules = [rule for rule in RULES if any(key[0] == rule.name for key in self._means)]

    def tasks(self, rule: Rule, part: str = "AB") -> list[str]:
        """Return the data sets (of a part) on which there is an outcome of a rule."""
        return [
            task for task, p in self.parts.items() if p in part and (rule.name, task) in self._means
        ]

    def share(self, rule: Rule, part: str = "AB") -> float:
        """Return E: the share of the budget of epochs that was trained."""
        return float(np.mean([self._means[rule.name, t][0] for t in self.tasks(rule, part)]))

    def regret(self, rule: Rule, part: str = "AB") -> Estimate:
        """Return R: by how much test loss is above that of the best epoch on test data."""
        return estimate(self._means[rule.name, t][2] for t in self.tasks(rule, part))

    def distance(self, rule: Rule, part: str = "AB") -> Estimate:
        """Return d: by how much test loss is above that of plain patience that uses as much.

        That is one n for all data sets (between two, a mixture of both), with the same mean of E.
        """
        tasks = self.tasks(rule, part)
        above, weights = self._above(rule, tasks, 1), _draws(len(tasks))
        resampled = np.array([self._above(rule, tasks, 1, w) @ w for w in weights])
        return _estimate(above, resampled)

    def own_distance(self, rule: Rule, part: str = "AB") -> Estimate:
        """Return the same with a front and an E for each data set: n is tuned to each of them."""
        return estimate(self._above(rule, [t], 1)[0] for t in self.tasks(rule, part))

    def contrast(self, rule: Rule, part: str = "AB") -> Estimate:
        """Return by how much test loss is above that of the rule it is compared `against`."""
        return estimate(self._contrasts(rule, part, 1))

    def points(self, rule: Rule, part: str = "AB") -> float | None:
        """Return the difference of accuracy to the same rule, in percentage points."""
        values = [v for v in self._contrasts(rule, part, 3) if not np.isnan(v)]
        return 100 * float(np.mean(values)) if values else None

    def better(self, rule: Rule, part: str = "AB") -> tuple[int, int]:
        """Return on how many data sets test loss was below that of the same rule, and of how many.

        Equal ones are not counted as below.
        """
        values = self._contrasts(rule, part, 1)
        return sum(v < 0 for v in values), len(values)

    def front_points(self, rule: Rule, part: str = "AB") -> float | None:
        """Return accuracy above the front at equal E, in percentage points."""
        tasks = [t for t in self.tasks(rule, part) if not np.isnan(self._means[rule.name, t][3])]
        return 100 * float(self._above(rule, tasks, 3).mean()) if tasks else None

    def _contrasts(self, rule: Rule, part: str, column: int) -> list[float]:
        return [
            float(self._means[rule.name, t][column] - self._means[rule.against, t][column])
            for t in self.tasks(rule, part)
        ]

    def _above(
        self, rule: Rule, tasks: list[str], column: int, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Return how far a rule is above the front at equal E, by data set.

        Args:
            rule: The rule.
            tasks: The data sets.
            column: Of the means.
            weights: Of the data sets in E, or None for equal ones.
        """
        ours = self._column(rule, tasks)
        front = np.stack([self._column(r, tasks) for r in self._front])
        shares = np.average(front[..., 0], axis=1, weights=weights)
        place = np.interp(np.average(ours[:, 0], weights=weights), shares, range(len(shares)))
        low = min(int(place), len(shares) - 2)
        mixed = (low + 1 - place) * front[low] + (place - low) * front[low + 1]
        return ours[:, column] - mixed[:, column]

    def _column(self, rule: Rule, tasks: list[str]) -> np.ndarray:
        """Return the means of a rule, (data sets, 4)."""
        key = (rule.name, *tasks)
        if key not in self._stacked:
            self._stacked[key] = np.stack([self._means[rule.name, task] for task in tasks])
        return self._stacked[key]


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the averages that were tried.

    Attributes:
        runs: In how many runs.
        accepted: In how many of them an average was accepted.
        worse: In how many the validation loss was above that of the best epoch.
        gain: Mean of the accepted ones' gain in validation loss, in percent.
    """

    runs: int
    accepted: int
    worse: int
    gain: float


def tally(rows: Iterable[Row], rule: Rule, rounding: float = 1e-6) -> Tally:
    """Count the averages of a rule."""
    found = [row for row in rows if row["rule"] == rule.name]
    accepted = [row for row in found if row["accepted"]]
    gains = [100 * (1 - row["val_ratio"]) for row in accepted]
    worse = sum(row["val_ratio"] > 1 + rounding for row in found)
    return Tally(len(found), len(accepted), worse, float(np.mean(gains)) if gains else 0.0)
