"""What saves cost: the table of goals, before and now, beside Keras's callbacks and Orbax's.

python benchmarks/costs.py                            # all parts; 25 minutes on two quiet cores
python benchmarks/costs.py --before OLD/src           # beside an older version
python benchmarks/costs.py --part frozen --mb 30 --rounds 2   # a trial

Each part measures the variants in turn, every time in a fresh process; the samples of all rounds
are pooled, and their medians compared. Results are merged with those of earlier runs.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from saves import model as models

VARIANTS = ("before", "now", "Keras", "Orbax")
BACKENDS = ("torch", "jax", "tensorflow")
COPIES = (
    "ours ModelCheckpoint .weights.h5",
    "ours BackupAndRestore",
    "ours ModelCheckpoint .keras",
)


@dataclass(frozen=True)
class Entry:
    """One measurement: a part, a backend, a size, further arguments of the part.

    Attributes:
        rounds: Processes for each variant, at most: where one process has many samples, few do.
        variants: Which are measured.
    """

    part: str
    backend: str = "torch"
    mb: int = 300
    more: tuple = ()
    rounds: int = 7
    variants: tuple = VARIANTS

    @property
    def key(self):
        """The name of its results."""
        return "/".join(map(str, (self.part, self.backend, self.mb, *self.more)))

    @property
    def arguments(self):
        """What its rows are told."""
        named = {"copy", "layers", "memory"}
        return (self.mb, *([self.backend] if self.part in named else []), *self.more[:1])


def plan(seconds):
    """Return all measurements."""
    ours = ("before", "now")
    return [
        Entry("frozen", rounds=2),
        Entry("lora", rounds=2),
        *(Entry("copy", backend) for backend in BACKENDS),
        *(Entry("layers", backend, 30, rounds=3) for backend in BACKENDS),
        Entry("many", mb=1, variants=(*ours, "Keras")),
        *(Entry("triggers", "torch", 30, (ms, seconds), 4, ours) for ms in (3, 30, 300)),
        *(
            Entry("memory", backend, 300, (name,), variants=ours)
            for backend in BACKENDS
            for name in COPIES
        ),
    ]


def measure(entry, variant, directory):
    """Measure one variant in this process."""
    module = importlib.import_module(f"cost_parts.{entry.part}")
    print(json.dumps(module.measure(variant, entry.mb, directory, *entry.more)))


def run(entry, variant, directory, before, orbax):
    """Measure one variant in a fresh process; return name -> samples."""
    environment = models.environment(entry.backend)
    paths = [environment.get("PYTHONPATH", "")]
    if variant == "before":
        paths = [before, *paths]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, __file__, "--here", json.dumps([entry.key, variant, str(directory)])]
    command += ["--seconds", str(entry.more[1])] if entry.part == "triggers" else []
    command += ["--mb", str(entry.mb), "--orbax", orbax]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode:
        print(f"{entry.key}, {variant} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return {}
    return json.loads(done.stdout.strip().splitlines()[-1])


def take_turns(entry, rounds, before, orbax, scratch):
    """Measure the variants of an entry in turn; return variant -> name -> samples."""
    variants = [v for v in entry.variants if before or v != "before"]
    pooled = {variant: {} for variant in variants}
    for number in range(min(rounds, entry.rounds)):
        for variant in variants if number % 2 else reversed(variants):
            with tempfile.TemporaryDirectory(dir=scratch) as directory:
                for name, samples in run(entry, variant, Path(directory), before, orbax).items():
                    pooled[variant].setdefault(name, []).extend(samples)
    return pooled


def rows_of(entry, pooled):
    """Return the rows of an entry, as data."""
    module = importlib.import_module(f"cost_parts.{entry.part}")
    medians = {
        variant: {name: statistics.median(samples) for name, samples in figures.items() if samples}
        for variant, figures in pooled.items()
        if figures
    }
    return [row.as_json() for row in module.goals(medians, *entry.arguments)]


def report(results):
    """Return results-costs.md."""
    lines = [
        "# What saves cost, and what was aimed at",
        "",
        f"By `python benchmarks/costs.py` on {results['machine']}. Medians; the variants of a row "
        "took turns, each time in a fresh process.",
        "",
        "| goal | before | now | Keras | Orbax | |",
        "|---|---|---|---|---|---|",
    ]
    for found in results["parts"].values():
        for row in found["rows"]:
            cells = [_cell(row["values"].get(variant), row["unit"]) for variant in VARIANTS]
            lines.append(f"| {row['goal']} | {' | '.join(cells)} | {row['verdict']} |")
    missed = (HERE / "cost_parts" / "missed.md").read_text()
    return "\n".join([*lines, "", missed])


def _cell(value, unit):
    return "" if value is None else f"{value:.3g}{unit}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", help="the src directory of an older version")
    parser.add_argument(
        "--orbax", default="", help="a directory that has it, if it is not installed"
    )
    parser.add_argument("--part", action="append", help="only these parts")
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--mb", type=int, help="another size, for a trial")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=8.0, help="of training, in triggers")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--here", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    entries = plan(given.seconds)
    if given.mb:
        entries = [replace(entry, mb=given.mb) for entry in entries]
    if given.here:
        key, variant, directory = given.here
        sys.path.append(given.orbax)
        measure(next(e for e in entries if e.key == key), variant, Path(directory))
        return
    path = given.out / "results-costs.json"
    results = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    results["machine"] = (
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}"
    )
    for entry in entries:
        if given.part and entry.part not in given.part:
            continue
        if given.backend not in {None, entry.backend}:
            continue
        began = time.time()
        with tempfile.TemporaryDirectory(dir=given.out, prefix="bench-") as scratch:
            pooled = take_turns(entry, given.rounds, given.before, given.orbax, scratch)
        results["parts"][entry.key] = {"rows": rows_of(entry, pooled), "samples": pooled}
        print(entry.key, f"{time.time() - began:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        (given.out / "results-costs.md").write_text(report(results))


if __name__ == "__main__":
    main()
