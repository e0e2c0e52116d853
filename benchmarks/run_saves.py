"""What saves cost: all tables of benchmarks/results.md, each a ratio in one run.

python benchmarks/run_saves.py                 # everything, half an hour on two quiet cores
python benchmarks/run_saves.py --part blocked --backend torch --mb 300
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from saves import model as models
from saves import tables

BACKENDS = ("torch", "jax", "tensorflow")
SAVED = [
    "Keras ModelCheckpoint .keras",
    "ours ModelCheckpoint .keras",
    "ours ModelCheckpoint .weights.h5",
    "ours BackupAndRestore",
]
HERE = Path(__file__).parent
PLAN = [
    *(("blocked", backend, mb) for backend in BACKENDS for mb in (30, 300, 1000)),
    *(("durable", backend, 300) for backend in BACKENDS),
    *(("training", backend, 0) for backend in BACKENDS),
    *(("idle", backend, 0) for backend in BACKENDS),
    *(("memory", backend, 300, which) for backend in BACKENDS for which in SAVED),
    *(("growth", backend, 0) for backend in BACKENDS),
]


def part(name, mb, which):
    """Measure one part in this process; return its figures."""
    with tempfile.TemporaryDirectory(dir=".", prefix="bench-") as scratch:
        directory = Path(scratch)
        if name == "blocked":
            from saves import blocked

            pairs, stretch_s = {30: (9, 0.4), 300: (5, 1.5), 1000: (3, 3.0)}[mb]
            return blocked.measure(mb, pairs, stretch_s, directory)
        if name == "durable":
            from saves import durable

            return durable.measure(mb, 5, directory)
        if name == "training":
            from saves import training

            return training.measure(3, directory)
        if name == "idle":
            from saves import idle

            return idle.measure(8, directory)
        if name == "growth":
            from saves import growth

            return growth.measure(5, directory)
        from saves import memory

        return memory.measure(mb, which, directory)


def run(name, backend, mb, which=""):
    """Measure one part in its own process."""
    command = [sys.executable, __file__, "--part", name, "--backend", backend, "--mb", str(mb)]
    command += ["--which", which, "--here"]
    done = subprocess.run(
        command,
        env=models.environment(backend),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part")
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--mb", type=int)
    parser.add_argument("--which", default="")
    parser.add_argument("--here", action="store_true", help="in this process, print the figures")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(part(arguments.part, arguments.mb, arguments.which)))
        return
    plan = [
        entry
        for entry in PLAN
        if all(
            wanted in (None, given)
            for wanted, given in zip((arguments.part, arguments.backend, arguments.mb), entry)
        )
    ]
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for entry in plan:
        began = time.time()
        results["/".join(map(str, entry))] = run(*entry)
        print(*entry, f"{time.time() - began:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
        results["machine"] = (
            f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
            f"Python {platform.python_version()}"
        )
        path.write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "results.md").write_text(tables.report(results))


if __name__ == "__main__":
    main()
