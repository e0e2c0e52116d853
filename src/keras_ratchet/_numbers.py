"""Numbers as people read them."""

from __future__ import annotations


def number(value: object) -> str:
    """Return a metric; "-" if it is unknown.

    Example:
        >>> number(0.123456789), number(float("nan")), number(None)
        ('0.123457', 'nan', '-')
    """
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def count(size: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> count(1, "checkpoint"), count(3, "batch"), count(1234, "epoch")
        ('1 checkpoint', '3 batches', '1,234 epochs')
    """
    ending = "" if size == 1 else "es" if noun.endswith("tch") else "s"
    return f"{size:,} {noun}{ending}"
