"""Correctness and costs on an accelerator, in one run of less than 8 minutes.

python benchmarks/gpu.py                # every part on torch and jax, writes results-gpu.md
python benchmarks/gpu.py --mb 30        # a trial on the CPU, small

Correctness comes first: files have the values of their hooks, and a resumed run equals the
uninterrupted one bit for bit (with deterministic algorithms). Then the cost of a save, as a
multiple of the time in which the bus copies the same bytes to pinned memory, compared with the
callbacks of Keras and Orbax.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

BACKENDS = ("torch", "jax")
LARGE = [
    "ours ModelCheckpoint .weights.h5",
    "ours BackupAndRestore",
    "Keras ModelCheckpoint .weights.h5",
]


def part(name, mb, scratch):
    """Measure one part in this process; write its figures after each step."""
    _be_deterministic()
    if name == "exact":
        from accelerator import exact

        steps = exact.measure()
    else:
        from accelerator import costs

        large = mb > 1000
        steps = costs.measure(mb, 3 if large else 5, scratch, LARGE if large else None, 45)
    for figures in steps:
        text = json.dumps({**figures, "device": _device()})
        (Path(scratch) / "figures.json").write_text(text)


def _be_deterministic():
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def _device():
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        return f"{name}, torch {torch.__version__}"
    import jax

    return f"{jax.devices()[0].device_kind}, jax {jax.__version__}"


def run(name, backend, mb, limit_s):
    """Measure one part in its own process; return its figures, or what went wrong."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as scratch:
        out = Path(scratch) / "figures.json"
        command = [sys.executable, __file__, "--part", name, "--mb", str(mb), "--here", scratch]
        environment = os.environ | {
            "KERAS_BACKEND": backend,
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "XLA_FLAGS": "--xla_gpu_deterministic_ops=true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        if "--xla" in environment["XLA_FLAGS"] and not _has_gpu():
            environment.pop("XLA_FLAGS")
        problem = {}
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdout=sys.stderr,
                stderr=subprocess.PIPE,
                text=True,
                timeout=limit_s,
                check=False,
            )
            if done.returncode:
                problem = {"problem": done.stderr.strip().splitlines()[-1][:300]}
        except subprocess.TimeoutExpired:
            problem = {"problem": f"not done within {limit_s} s"}
        return (json.loads(out.read_text()) if out.exists() else {}) | problem


def _has_gpu():
    return any(Path("/dev").glob("nvidia[0-9]*"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("exact", "costs"))
    parser.add_argument("--mb", type=int)
    parser.add_argument("--here", help="in this process, with this directory for files")
    parser.add_argument("--out", default=str(HERE))
    arguments = parser.parse_args()
    if arguments.here:
        part(arguments.part, arguments.mb, arguments.here)
        return
    sizes = [arguments.mb] if arguments.mb else [300, 3000]
    plan = []
    for backend in BACKENDS:
        plan.append(("exact", backend, 0, 120))
        plan += [("costs", backend, mb, 80) for mb in sizes]
    results = {}
    out = Path(arguments.out)
    for name, backend, mb, limit_s in plan:
        if arguments.part not in (None, name):
            continue
        began = time.time()
        results[f"{name}/{backend}/{mb}"] = run(name, backend, mb, limit_s)
        print(name, backend, mb, f"{time.time() - began:.0f} s", file=sys.stderr, flush=True)
        (out / "results-gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        (out / "results-gpu.md").write_text(report(results))


def report(results):
    """Return benchmarks/results-gpu.md."""
    devices = sorted({v["device"] for v in results.values() if "device" in v})
    lines = [
        "# Results on a GPU",
        "",
        f"By `python benchmarks/gpu.py`, in one run, on {'; '.join(devices)}.",
        "",
        "## Correctness",
        "",
        "A run that was cut in mid-epoch and resumed, compared with one that was not, with "
        "deterministic algorithms: every variable of model and optimizer, and History, bit for bit "
        "(in parentheses, the time of the four runs).",
        "",
        "| | torch | jax |",
        "|---|---|---|",
    ]
    exact = {b: results.get(f"exact/{b}/0", {}) for b in BACKENDS}
    lines.append(_row("files have the values of their hooks", exact, "values of the hook"))
    cases = next((v["resumed"] for v in exact.values() if "resumed" in v), {})
    lines += [
        _row(case, {b: v.get("resumed", {}) for b, v in exact.items()}, case) for case in cases
    ]
    for key in sorted(key for key in results if key.startswith("costs")):
        lines += _costs(key, results[key])
    problems = [f"- {key}: {v['problem']}" for key, v in results.items() if "problem" in v]
    return "\n".join([*lines, "", *problems]).rstrip() + "\n"


def _row(title, found, key):
    return f"| {title} | " + " | ".join(str(v.get(key, "not run")) for v in found.values()) + " |"


def _costs(key, figures):
    if "rows" not in figures:
        return []
    _, backend, _ = key.split("/")
    lines = [
        "",
        f"## A save of {figures['bytes'] / 1e6:.0f} MB on {backend}",
        "",
        f"The bus copies it in {figures['bus_ms']:.1f} ms "
        f"({figures['bytes'] / 1e6 / figures['bus_ms']:.1f} GB/s). Medians.",
        "",
        "| | in the hook | including slower steps | until durable |",
        "|---|---|---|---|",
    ]
    for name, row in figures["rows"].items():
        if row is None:
            lines.append(f"| {name} | not run | | |")
            continue
        cells = [row["hook_ms"], row["total_ms"], row["durable_ms"]]
        shown = [f"{ms:.1f} ms ({ms / figures['bus_ms']:.2f}x)" for ms in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


if __name__ == "__main__":
    main()
