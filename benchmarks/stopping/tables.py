"""Figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stopping.figures import Figures, tally
from stopping.rules import Rule

Row = Sequence[object]


def stopping(figures: Figures) -> str:
    """Return the table of stopping rules; all end with the best epoch's weights."""
    rules = [r for r in figures.rules if not r.average and r.restores in _BESTS]

    def row(rule: Rule) -> Row:
        return (
            rule.name,
            f"{100 * figures.share(rule):.0f}",
            f"{figures.regret(rule).mean:+.1f}",
            *("front" if rule.front else figures.distance(rule, part) for part in _PARTS),
            "front" if rule.front else figures.own_distance(rule),
            _points(None if rule.front else figures.front_points(rule)),
        )

    heads = ("stops by", "E, %", "R, %", *_heads("d"), "d, n per data set, %", "accuracy, points")
    return _table(heads, map(row, rules))


_BESTS = ("best", "best by min_delta")
_PARTS = ("AB", "A", "B")


def _heads(what: str) -> tuple[str, ...]:
    return f"{what}, %", f"{what}, development", f"{what}, held out"


def endings(figures: Figures) -> str:
    """Return the table of what is restored, against the weights of the best epoch."""
    rules = [r for r in figures.rules if r.against]

    def row(rule: Rule) -> Row:
        return (
            rule.name,
            *(figures.contrast(rule, part) for part in _PARTS),
            f"{figures.contrast(rule).median:+.2f}",
            "{} of {}".format(*figures.better(rule)),
            f"{100 * figures.share(rule):.0f}",
            figures.distance(rule),
            _points(figures.points(rule)),
        )

    heads = (
        "ends with",
        *_heads("loss"),
        "median",
        "better on",
        "E, %",
        "d, %",
        "accuracy, points",
    )
    return _table(heads, map(row, rules))


def averages(figures: Figures) -> str:
    """Return the table of how often an average was accepted."""
    rules = [r for r in figures.rules if r.average]

    def row(rule: Rule) -> Row:
        counts = tally(figures.rows, rule)
        share = f"{counts.accepted} ({100 * counts.accepted / counts.runs:.0f} %)"
        return rule.name, counts.runs, share, counts.worse, f"{counts.gain:.2f}"

    heads = ("average", "runs", "accepted", "validation worse", "validation gain if accepted, %")
    return _table(heads, map(row, rules))


def _points(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _table(heads: Sequence[str], rows: Iterable[Row]) -> str:
    return "\n".join(map(_line, [heads, ["---"] * len(heads), *rows]))


def _line(cells: Row) -> str:
    return f"| {' | '.join(map(str, cells))} |"
