"""Correctness and costs on an accelerator, in one run of less than 8 minutes.

python benchmarks/gpu.py                # every part on torch and jax, writes results-gpu.md
python benchmarks/gpu.py --mb 30        # a trial on the CPU, small

Correctness comes first: files have the values of their hooks, and a resumed run equals the
uninterrupted one bit for bit (with deterministic algorithms). Then the cost of a save, as a
multiple of the time in which the bus copies the same bytes to pinned memory, compared with the
callbacks of Keras and Orbax; with and without a staging area on the device; and of best weights
that stay there. Last, which goals were reached.
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
LIMIT_S = 460  # for all
HOOK_MS = {300: 2.0, 3000: 10.0}  # the goals for the hook
SLOWER = 1.1  # for the hook and the slower steps, as a multiple of the bus's time


def part(name, mb, scratch, limit_s):
    """Measure one part in this process; write its figures after each step."""
    _be_deterministic()
    if name == "exact":
        from accelerator import exact

        steps = exact.measure()
    else:
        from accelerator import costs

        large = mb > 1000
        steps = costs.measure(
            mb, 3 if large else 7, scratch, costs.LARGE if large else None, 0.8 * limit_s
        )
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
        command += ["--limit-s", str(limit_s)]
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
            problem = {"problem": f"not done within {limit_s:.3g} s"}
        return (json.loads(out.read_text()) if out.exists() else {}) | problem


def _has_gpu():
    return any(Path("/dev").glob("nvidia[0-9]*"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("exact", "costs"))
    parser.add_argument("--mb", type=int)
    parser.add_argument("--here", help="in this process, with this directory for files")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S)
    parser.add_argument("--out", default=str(HERE))
    arguments = parser.parse_args()
    if arguments.here:
        part(arguments.part, arguments.mb, arguments.here, arguments.limit_s)
        return
    sizes = [arguments.mb] if arguments.mb else [300, 3000]
    share = arguments.limit_s / LIMIT_S
    plan = [("exact", backend, 0, 120 * share) for backend in BACKENDS]
    plan += [("costs", backend, mb, 90 * share) for mb in sizes for backend in BACKENDS]
    results = {}
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    end = time.time() + arguments.limit_s
    for name, backend, mb, most_s in plan:
        if arguments.part not in (None, name):
            continue
        began = time.time()
        limit_s = min(most_s, int(end - began))
        if limit_s < 20:
            results[f"{name}/{backend}/{mb}"] = {"problem": "no time left"}
        else:
            results[f"{name}/{backend}/{mb}"] = run(name, backend, mb, limit_s)
        print(name, backend, mb, f"{time.time() - began:.0f} s", file=sys.stderr, flush=True)
        (out / "results-gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        (out / "results-gpu.md").write_text(report(results))
    print("\n".join(goals(results)))


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
    cases = {case: None for v in exact.values() for case in v.get("resumed", ())}
    lines += [
        _row(case, {b: v.get("resumed", {}) for b, v in exact.items()}, case) for case in cases
    ]
    for key in sorted(key for key in results if key.startswith("costs")):
        lines += _costs(key, results[key])
    lines += ["", "## Goals", "", *goals(results)]
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
        f"({figures['bytes'] / 1e6 / figures['bus_ms']:.1f} GB/s). Medians; of the "
        "slower steps also the least and the most, which tell the noise.",
        "",
        "| | in the hook | including slower steps | until durable |",
        "|---|---|---|---|",
    ]
    for name, row in figures["rows"].items():
        if "problem" in row:
            lines.append(f"| {name} | {row['problem']} | | |")
            continue
        cells = [row["hook_ms"], row["total_ms"], row["durable_ms"]]
        shown = [f"{ms:.1f} ms ({ms / figures['bus_ms']:.2f}x)" for ms in cells]
        shown[1] += f", {min(row['slower_ms']):.0f} to {max(row['slower_ms']):.0f} ms"
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


def goals(results):
    """Return a line for each goal: reached, or missed."""
    lines = []
    for key, figures in results.items():
        _, backend, mb = key.split("/")
        for name, row in figures.get("rows", {}).items():
            if name not in ("ours ModelCheckpoint .weights.h5", "ours BackupAndRestore"):
                continue
            if "problem" in row:
                lines.append(f"- {backend}, {mb} MB, {name}: not measured ({row['problem']})")
                continue
            whole_ms = max(row["total_ms"], row["hook_ms"])  # less than the hook is noise
            wanted = {"hook and slower steps": (whole_ms, SLOWER * figures["bus_ms"])}
            if int(mb) in HOOK_MS:
                wanted = {"hook": (row["hook_ms"], HOOK_MS[int(mb)]), **wanted}
            lines += [
                f"- {backend}, {mb} MB, {name}: {what} {ms:.1f} ms, goal {goal:.1f} ms: "
                f"{'reached' if ms <= goal else 'missed'}"
                for what, (ms, goal) in wanted.items()
            ]
    return lines or ["- none was measured"]


if __name__ == "__main__":
    main()
