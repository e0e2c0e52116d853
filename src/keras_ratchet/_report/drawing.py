"""Curves as plain SVG, for readers without JavaScript; with it they are drawn anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from keras_ratchet._report.words import clean

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 480.0, 200.0, 52.0, 22.0, 8.0
_COLORS = 6


def picture(chart: Mapping[str, Any]) -> str:
    """Return the curves of a chart with the ends of their axes."""
    is_log = bool(chart["log"])
    shown = [(x, y) for one in chart["series"] for x, y in zip(one["x"], one["y"], strict=True)]
    known = [(x, y) for x, y in shown if y is not None and (y > 0 or not is_log)]
    name = escape(clean(chart["name"]), quote=True)
    head = (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{name} over the epochs">'
    )
    if not known:
        return f'{head}<text x="10" y="20">no finite values</text></svg>'
    xs, ys = [x for x, _ in known], [_height(y, is_log) for _, y in known]
    frame = (min(xs), max(xs), min(ys), max(ys))
    lines = "".join(_line(one, frame, is_log) for one in chart["series"])
    low, high = min(y for _, y in known), max(y for _, y in known)
    texts = [
        (2, _TOP + 6, f"{high:.4g}"),
        (2, _HEIGHT - _BOTTOM, f"{low:.4g}"),
        (_LEFT, _HEIGHT - 4, f"epoch {min(xs):g}"),
        (_WIDTH - 70, _HEIGHT - 4, f"epoch {max(xs):g}"),
    ]
    words = "".join(f'<text x="{x:g}" y="{y:g}">{escape(text)}</text>' for x, y, text in texts)
    return f"{head}{lines}{words}</svg>"


def _height(value: float, is_log: bool) -> float:
    return math.log10(value) if is_log else value


def _line(one: Mapping[str, Any], frame: tuple[float, float, float, float], is_log: bool) -> str:
    """Return a curve as a path with gaps."""
    parts, is_drawing = [], False
    for x, y in zip(one["x"], one["y"], strict=True):
        if y is None or (is_log and y <= 0):
            is_drawing = False
            continue
        at = _at(x, _height(y, is_log), frame)
        parts.append(f"{'L' if is_drawing else 'M'}{at[0]:.1f} {at[1]:.1f}")
        is_drawing = True
    color = one["run"] % _COLORS
    return f'<path class="line {one["role"]} c{color}" d="{"".join(parts)}"/>'


def _at(x: float, y: float, frame: Sequence[float]) -> tuple[float, float]:
    left, right, low, high = frame
    across = (x - left) / (right - left) if right > left else 0.5
    up = (y - low) / (high - low) if high > low else 0.5
    return (
        _LEFT + across * (_WIDTH - _LEFT - 8),
        _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP),
    )
