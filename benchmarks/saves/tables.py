"""Write the results as Markdown."""

from pathlib import Path

BACKENDS = ("torch", "jax", "tensorflow")
GOALS = Path(__file__).with_name("goals.md")


def report(results):
    """Return benchmarks/results.md."""
    parts = [
        "# What saves cost",
        f"By `make bench` on {results['machine']}; versions as in constraints.txt. Each table was "
        "measured in one run, with the callbacks taking turns. Our saves are atomic, synced and "
        "have a digest; the others do none of this.",
        *(_blocked(results, mb) for mb in (30, 300, 1000)),
        _durable(results),
        _training(results),
        _idle(results),
        _memory(results),
        _growth(results),
        GOALS.read_text().strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(results, prefix):
    found = {b: results.get(f"{prefix.format(b)}") for b in BACKENDS}
    return {backend: value for backend, value in found.items() if value}


def _table(header, rows):
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _blocked(results, mb):
    found = _rows(results, f"blocked/{{}}/{mb}")
    if not found:
        return ""
    names = list(next(iter(found.values()))["rows"])
    rows = []
    for name in names:
        cells = [name]
        for values in found.values():
            row = values["rows"][name]
            cells.append(f"{row['hook']:.2f}x / {row['total']:.2f}x")
        rows.append(cells)
    size = next(iter(found.values()))["bytes"] / 1e6
    copy = ", ".join(f"{1e3 * v['memcpy_s']:.0f} ms ({b})" for b, v in found.items())
    return (
        f"## Training time lost to a save of {size:.0f} MB\n\nIn the hook / including the slower "
        f"steps after it, as multiples of one memcpy of the state: {copy}. Medians.\n\n"
        + _table(["", *found], rows)
    )


def _durable(results):
    found = _rows(results, "durable/{}/300")
    if not found:
        return ""
    names = list(next(iter(found.values())))
    rows = [[n, *(f"{v[n]['rate']:.2f}" for v in found.values())] for n in names]
    return (
        "## Time until durable, 300 MB\n\nBytes per second, relative to a raw write and fsync of "
        "the same bytes. The benchmark syncs Keras's files, which have no digest.\n\n"
        + _table(["", *found], rows)
    )


def _training(results):
    found = _rows(results, "training/{}/0")
    if not found:
        return ""
    names = list(next(iter(found.values())))
    rows = [[n, *(f"{v[n]['ratio']:.3f}" for v in found.values())] for n in names]
    return (
        "## A whole run with our ModelCheckpoint\n\nWall time relative to the same run without "
        "saves (median of alternating runs).\n\n" + _table(["", *found], rows)
    )


def _idle(results):
    found = _rows(results, "idle/{}/0")
    rows = [
        [b, f"{v['without_us']:.0f} us", f"{v['with_us']:.0f} us", f"{v['extra_us']:+.1f} us"]
        for b, v in found.items()
    ]
    return found and (
        "## Idle callbacks\n\nA step of a small model without and with EarlyStopping and "
        "ModelCheckpoint that act at the end of an epoch (including start and end of `fit`, and "
        "one save).\n\n" + _table(["", "without", "with", "extra per step"], rows)
    )


def _memory(results):
    keys = [key.split("/", 3) for key in results if key.startswith("memory/")]
    found = {(key[1], key[3]): results["/".join(key)] for key in keys}
    if not found:
        return ""
    names = dict.fromkeys(which for _, which in found)
    backends = [b for b in BACKENDS if any(b == backend for backend, _ in found)]
    rows = [[n, *(f"{found[b, n]:.2f}" for b in backends)] for n in names]
    return (
        "## Memory\n\nPeak of a run with a save in progress above its peak without, as a "
        "multiple of the state (300 MB).\n\n" + _table(["", *backends], rows)
    )


def _growth(results):
    found = _rows(results, "growth/{}/0")
    if not found:
        return ""
    names = list(next(iter(found.values())))
    rows = [
        [n, *(f"{v[n]['hook_ms']:.1f} / {v[n]['durable_ms']:.0f} ms" for v in found.values())]
        for n in names
    ]
    return "## Growth\n\nIn the hook / until durable.\n\n" + _table(["", *found], rows)
