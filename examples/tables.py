"""A plain table for the terminal, shared by the other examples."""


def print_table(title, rows):
    """Print a title and aligned rows of cells; a cell may have several lines.

    Args:
        title: The title.
        rows: The rows, each with the same number of cells.
    """
    lines = [line for row in rows for line in _lines([str(cell) for cell in row])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}\n{'-' * (sum(widths) + 2 * len(widths) - 2)}")
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    print()


def _lines(cells):
    """Return one row as the lines that it takes."""
    parts = [cell.split("\n") for cell in cells]
    height = max(map(len, parts))
    return list(zip(*(part + [""] * (height - len(part)) for part in parts), strict=True))
