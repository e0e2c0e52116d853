"""A plain table for the terminal, shared by the other examples."""

import os
import shutil
import sys
import textwrap
from pathlib import Path


def print_table(title, rows):
    """Print a title and aligned rows of cells; a cell may have several lines.

    Args:
        title: The title.
        rows: The rows, each with the same number of cells.
    """
    rows = [[str(cell) for cell in row] for row in rows]
    room = shutil.get_terminal_size(fallback=(1000, 24)).columns - 2 * (len(rows[0]) - 1)
    others = zip(*(row[:-1] for row in rows), strict=True)
    room -= sum(max(map(len, column)) for column in others)
    lines = [line for row in rows for line in _lines([*row[:-1], _fold(row[-1], room)])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}\n{'-' * (sum(widths) + 2 * len(widths) - 2)}")
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    print()


def ratchet():
    """Return how the command `ratchet` is called from here."""
    beside = Path(sys.executable).with_name("ratchet")
    return "ratchet" if shutil.which("ratchet") else os.path.relpath(beside)


def _fold(cell, width):
    """Return the text of a last cell with its lines broken where the terminal ends."""
    width = max(width, 20)
    lines = [textwrap.wrap(s, width) if len(s) > width else [s] for s in cell.split("\n")]
    return "\n".join(line for parts in lines for line in parts)


def _lines(cells):
    """Return one row as the lines that it takes."""
    parts = [cell.split("\n") for cell in cells]
    height = max(map(len, parts))
    return list(zip(*(part + [""] * (height - len(part)) for part in parts), strict=True))
