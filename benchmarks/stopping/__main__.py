"""Train, replay, and write the tables and the plot."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stopping", description=__doc__)
    parser.add_argument("--long", action="store_true", help="all networks on every data set")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=Path, default=Path("runs/stopping.jsonl"))
    parser.add_argument("--again", action="store_true", help="only the tables, from recorded rows")
    arguments = parser.parse_args()
    if not arguments.again:
        train(arguments)
    report(arguments.rows)


def train(arguments: argparse.Namespace) -> None:
    """Do all runs and write one line for each outcome."""
    from stopping.runs import jobs

    todo = jobs(arguments.long, arguments.seeds)
    begun = time.perf_counter()
    arguments.rows.parent.mkdir(parents=True, exist_ok=True)
    with arguments.rows.open("w") as file:
        for done, (name, rows) in enumerate(_results(todo, arguments.processes), 1):
            file.writelines(json.dumps(row) + "\n" for row in rows)
            print(f"{done}/{len(todo)}  {time.perf_counter() - begun:4.0f} s  {name}", flush=True)
    took = {"seconds": time.perf_counter() - begun, "processes": arguments.processes}
    _took(arguments.rows).write_text(json.dumps(took))


def _took(rows: Path) -> Path:
    return rows.with_suffix(".took.json")


def _results(todo: list, processes: int) -> Iterable:
    if processes == 1:
        yield from map(_do, todo)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_do, todo)


def _do(job) -> tuple[str, list]:
    return f"{job.task}, {job.network.name}", list(job.rows())


def report(path: Path) -> None:
    """Write results.md and the plot."""
    from stopping import plot, tables
    from stopping.figures import Figures
    from stopping.rules import BUDGET

    rows = [json.loads(line) for line in path.open()]
    figures = Figures(rows, BUDGET)
    head = (
        (HERE / "head.md").read_text().format(**facts(rows), **json.loads(_took(path).read_text()))
    )
    parts = {
        "stopping": tables.stopping(figures),
        "endings": tables.endings(figures),
        "averages": tables.averages(figures),
    }
    for name, table in parts.items():
        head = head.replace(f"<!-- {name} -->", table)
    (HERE / "results.md").write_text(head)
    plot.draw(figures, DOCS / "stopping.png")
    print(f"{HERE / 'results.md'}\n{DOCS / 'stopping.png'}")


def facts(rows: list) -> dict[str, object]:
    """Return what the head of the results tells."""
    import keras

    runs = {(row["task"], row["network"], row["seed"]) for row in rows}
    parts = {row["task"]: row["part"] for row in rows}
    return {
        "runs": len(runs),
        "pairs": len({(task, network) for task, network, _ in runs}),
        "networks": len({network for _, network, _ in runs}),
        "seeds": len({seed for *_, seed in runs}),
        "a": sum(part == "A" for part in parts.values()),
        "b": sum(part == "B" for part in parts.values()),
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
