"""Pictures of a run, from the journal that the callbacks write next to the files.

Matplotlib (the extra `plot`) is imported when something is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from keras_ratchet._storage import anywhere
from keras_ratchet.errors import ConfigError, LoadError
from keras_ratchet.plots._runs import RunHistory, Save, last_run

__all__ = ["run"]

_MUTED, _STRONG, _GOLD, _RED = "#9aa5b1", "#1f4e9c", "#d98e04", "#b42318"
_PALE, _PURPLE = "#e6e9ed", "#8a5fb0"
_TURNS = (("rollback", "rolled back", "-."), ("reduce_lr", "learning rate cut", ":"))
_LOG_FROM = 20.0


def run(
    source: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    *,
    metric: str | None = None,
    axes: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Draw a run: a metric over the epochs, with its best, the saves and the stop.

    The validation curve is drawn strong and the training curve muted. A filled circle is a save
    whose file is still there, a hollow one a save that was replaced or deleted since. Vertical
    lines mark where `Rollback` rolled back and `ReduceLROnPlateau` cut the learning rate; a
    diamond is the average that `EarlyStopping(average=...)` ended with. The last run of the
    journal is drawn, joined to the one that it resumed.

    Args:
        source: A directory in which `ModelCheckpoint` saved, or its URL, or the events of its
            journal.
        metric: Name of the metric; default: the one that ranks the saves.
        axes: The Matplotlib axes to draw on; default: those of a new figure.
        storage_options: For a URL: arguments of its fsspec file system.

    Returns:
        The axes.

    Raises:
        LoadError: If there is no journal, or no epoch in it.
        ConfigError: If no epoch has this metric.
    """
    events = _events(source, storage_options)
    if not events:
        raise LoadError(
            f"there is nothing to draw: no run has saved in {source!r}.", see="no-history"
        )
    found = last_run(events)
    name = _chosen(found, metric)
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(figsize=(7, 4), layout="constrained")[1]
    _draw_curves(axes, found, name)
    _draw_marks(axes, found, name)
    _tidy(axes, found, name)
    return axes


def _events(
    source: str | os.PathLike[str] | Iterable[Mapping[str, Any]], options: Mapping[str, Any] | None
) -> list[Mapping[str, Any]]:
    if isinstance(source, str | os.PathLike):
        return [*anywhere.events(anywhere.path_or_url(source, "source"), options)]
    return list(source)


def _chosen(found: RunHistory, metric: str | None) -> str:
    """Return the metric to draw."""
    names = list(dict.fromkeys(name for values in found.metrics.values() for name in values))
    wanted = [metric] if metric else [*(n for n, _ in found.ranking), "val_loss", "loss", *names]
    for name in wanted:
        if name in names:
            return name
    listed = ", ".join(names) or "none"
    raise ConfigError(
        f"no epoch of this run has the metric {metric!r}. There are: {listed}.",
        see="no-history",
    )


def _draw_curves(axes: Any, found: RunHistory, name: str) -> None:
    base = name.removeprefix("val_")
    both = f"val_{base}" in _names(found) and base in _names(found)
    training = found.curve(base)
    strong = {"color": _STRONG, "linewidth": 1.8, "zorder": 3}
    if training:
        style = {"color": _MUTED, "linewidth": 1.3, "zorder": 2} if both else strong
        axes.plot(list(training), list(training.values()), label="training", **style)
    if validation := found.curve(f"val_{base}"):
        axes.plot(list(validation), list(validation.values()), label="validation", **strong)


def _draw_marks(axes: Any, found: RunHistory, name: str) -> None:
    curve = found.curve(name)
    size = min(6.0, max(2.5, 260 / max(len(curve), 1)))
    circle = {"marker": "o", "linestyle": "none", "markersize": size, "color": _STRONG, "zorder": 4}
    for stays, label in ((False, "saved, replaced or deleted since"), (True, "saved, still there")):
        saves = [save for save in found.saves if save.stays is stays]
        points = [(save.at, _height(curve, save)) for save in saves]
        places = [point for point in points if point[1] is not None]
        if places:
            face = _STRONG if stays else "white"
            axes.plot(*zip(*places, strict=True), label=label, markerfacecolor=face, **circle)
    _draw_lines(axes, found)
    last = max(found.metrics)
    if (average := found.average) is not None and average.metric == name:
        label = f"mean of {average.members} epochs: {average.value:.4g}"
        style = {"marker": "D", "linestyle": "none", "markersize": 7, "zorder": 5}
        axes.plot([last], [average.value], color=_GOLD, label=label, **style)
    best = found.best(name)
    if best is not None:
        label = f"best: {curve[best]:.4g} in epoch {best}"
        ring = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot([best], [curve[best]], color=_GOLD, markeredgewidth=2.2, label=label, **ring)


def _draw_lines(axes: Any, found: RunHistory) -> None:
    """Draw what happened at a moment as vertical lines."""
    places = [("resumed", _MUTED, ":", [epoch - 0.5 for epoch in found.resumed])]
    for kind, label, style in _TURNS:
        places.append((label, _PURPLE, style, list(found.turns.get(kind, ()))))
    for label, color, style, ats in places:
        for number, at in enumerate(ats):
            line = {"color": color, "linestyle": style, "linewidth": 1.2, "zorder": 1}
            axes.axvline(at, label="_" if number else label, **line)
    if found.stop is not None:
        epoch, kind = found.stop
        label = f"stopped ({kind})" if kind else "stopped"
        axes.axvline(epoch, color=_RED, linestyle="--", linewidth=1.2, label=label, zorder=1)


def _height(curve: Mapping[int, float], save: Save) -> float | None:
    """Return where a save stands on the curve: within an epoch, half way to its end."""
    ends = [curve[e] for e in (math.floor(save.at), math.ceil(save.at)) if e in curve]
    return sum(ends) / len(ends) if ends else None


def _tidy(axes: Any, found: RunHistory, name: str) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    base = name.removeprefix("val_")
    values = [*found.curve(base).values(), *found.curve(f"val_{base}").values()]
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > _LOG_FROM * min(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    epochs = list(found.metrics)
    room = max((epochs[-1] - epochs[0]) * 0.02, 0.5)
    axes.set(xlabel="epoch", ylabel=base, xlim=(epochs[0] - room, epochs[-1] + room))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize="small")


def _names(found: RunHistory) -> set[str]:
    return {name for values in found.metrics.values() for name in values}
