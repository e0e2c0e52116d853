"""The picture: test loss against epochs used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from stopping.figures import Figures
from stopping.rules import FRONT, WHOLE, Rule

_STYLE = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}
_GREY = "#666666"
_LOWEST, _HIGHEST = (6.3, 1.5), 75.0  # of R; what is outside is drawn at the edge, with its value
Offset = tuple[float, float]  # of a label from its point, in points


@dataclass(frozen=True, slots=True)
class Group:
    """Points of one colour; the labels by the names of the rules."""

    label: str
    color: str
    marker: str
    points: dict[str, tuple[str, Offset]]


STOPS = (
    Group(
        "min_delta for patience only (ours)",
        "#0072b2",
        "o",
        {
            "min_delta 0.01, patience 10": ("0.01, n=10", (7, 3)),
            "min_delta 0.01, patience 20": ("0.01, n=20", (7, 1)),
        },
    ),
    Group(
        "min_delta for the weights too (Keras)",
        "#d55e00",
        "X",
        {
            "min_delta 0.01, patience 10, for the weights too": ("0.01, n=10", (6, 5)),
            "min_delta 0.01, patience 20, for the weights too": ("0.01, n=20", (6, 5)),
        },
    ),
    Group("patience “auto”", "#000000", "*", {'patience "auto"': ("auto", (4, 6))}),
    Group(
        "val_loss smoothed",
        "#56b4e9",
        "s",
        {
            "smoothed, patience 20": ("n=20", (7, 2)),
        },
    ),
    Group(
        "Prechelt: GL, PQ, UP",
        "#cc79a7",
        "^",
        {
            "GL 2": ("GL 2", (-15, 8)),
            "GL 5": ("GL 5", (-10, 9)),
            "PQ 0.5": ("PQ 0.5", (-6, 8)),
            "PQ 1": ("PQ 1", (-6, 8)),
            "UP 2": ("UP 2", (-28, -8)),
            "UP 3": ("UP 3", (-20, -13)),
        },
    ),
    Group(
        "significant improvement",
        "#009e73",
        "D",
        {
            "significant by 1 error, 10": ("1 s.e.", (7, 0)),
            "significant by 2 errors, 10": ("2 s.e.", (-32, -6)),
        },
    ),
    Group(
        "stopped on accuracy (classes only)",
        "#b22222",
        "P",
        {
            "accuracy, patience 10": ("n=10", (6, 3)),
            "accuracy, patience 20": ("n=20", (-8, -13)),
        },
    ),
)


def _ends(label: str, color: str, marker: str, ending: str, *labels: tuple[str, Offset]) -> Group:
    stops = ("patience 10", "patience 20", WHOLE.name)
    names = [f"{stop}, {ending}" for stop in stops]
    return Group(label, color, marker, dict(zip_longest(names, labels, fillvalue=("", (0, 0)))))


_TEN, _TWENTY = ("n=10", (6, 4)), ("n=20", (6, 4))
ENDS = (
    _ends("no restore", "#b22222", "X", "no restore", _TEN, _TWENTY, ("budget", (-36, -2))),
    _ends("guarded mean of 10", "#56b4e9", "s", "mean of 10"),
    _ends("greedy soup of 10", "#0072b2", "o", "soup of 10"),
    _ends(
        "refit, as many steps",
        "#e69f00",
        "D",
        "refit for as many steps",
        ("n=10", (-8, 8)),
        ("n=20", (6, -10)),
    ),
    _ends(
        "refit, as many epochs",
        "#009e73",
        "^",
        "refit for as many epochs",
        ("n=10", (-14, -14)),
        _TWENTY,
    ),
)


def draw(figures: Figures, path: Path) -> None:
    """Draw R over E: when to stop, and what to end with."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(_STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(10.5, 5.2), layout="constrained")
        titles = ("When to stop (best epoch restored)", "What to end with")
        for axes, title, groups, low in zip(panels, titles, (STOPS, ENDS), _LOWEST):
            axes.set_title(title)
            axes.set_yscale("log")
            axes.set_ylim(low, _HIGHEST)
            _panel(axes, figures, groups)
        panels[0].set_ylabel("R: test loss above that of the epoch best on test data, %")
        figure.savefig(path, dpi=160)
        plt.close(figure)


def _panel(axes: Any, figures: Figures, groups: Sequence[Group]) -> None:
    axes.set_xlabel("E: share of the budget of 200 epochs, %")
    axes.set_xscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(_fixed((1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)))
        axis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axes.grid(color="#eeeeee", zorder=0)
    _front(axes, figures)
    for group in groups:
        _group(axes, figures, group)
    place = "upper right" if groups is STOPS else "lower left"
    axes.legend(frameon=False, fontsize=8, loc=place)


def _fixed(ticks: Sequence[float]) -> Any:
    from matplotlib.ticker import FixedLocator

    return FixedLocator(ticks)


def _front(axes: Any, figures: Figures) -> None:
    rules = (*FRONT, WHOLE)
    points = [_point(figures, rule) for rule in rules]
    axes.plot(*zip(*points), "-o", color=_GREY, ms=3, lw=1.3, zorder=2, label="plain patience n")
    for rule, point in zip(rules, points):
        n = "budget" if rule is WHOLE else rule.name.removeprefix("patience ")
        if n in ("1", "2", "3", "5", "10", "20", "50", "100"):
            _label(axes, n, point, (-4 - 5 * len(n), -10), _GREY)


def _group(axes: Any, figures: Figures, group: Group) -> None:
    rules = [rule for rule in figures.rules if rule.name in group.points]
    points = [_point(figures, rule) for rule in rules]
    low, high = axes.get_ylim()
    shown = [(share, min(max(regret, low * 1.05), high / 1.05)) for share, regret in points]
    size = 70 if group.marker == "*" else 34
    style = {"color": group.color, "marker": group.marker, "s": size, "lw": 0.5, "ec": "white"}
    axes.scatter(*zip(*shown), label=group.label, zorder=3, **style)
    for rule, point, (_, regret) in zip(rules, shown, points):
        text, offset = group.points[rule.name]
        outside = "" if low < regret < high else f" ({regret:.1f} %)"
        _label(axes, text + outside, point, offset, group.color)


def _point(figures: Figures, rule: Rule) -> tuple[float, float]:
    return 100 * figures.share(rule), figures.regret(rule).mean


def _label(axes: Any, text: str, point: tuple[float, float], offset: Offset, color: str) -> None:
    axes.annotate(
        text, point, offset, textcoords="offset points", color=color, fontsize=7.5, zorder=4
    )
