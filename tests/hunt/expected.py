"""Faults that are known and not mended yet: a finding with such a feature is no news.

Each line is a part of a feature's name, the backends and the item of the list of faults. An entry
goes when its fault does; nothing is skipped: the cases run all the same.
"""

EXPECTED: tuple = ()


def item_of(case, backend):
    """Return the item that a case's findings belong to, or None."""
    for part, backends, item in EXPECTED:
        if backend in backends and any(part in name for name in case.features):
            return item
    return None
