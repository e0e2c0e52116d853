"""What a save costs training, in the hook and by slower steps, as multiples of a memcpy."""

from saves import blocked

from cost_parts.common import Row

OURS = {
    "ours ModelCheckpoint .weights.h5": ".weights.h5",
    "ours BackupAndRestore": "snapshot",
    "ours ModelCheckpoint .keras": ".keras",
}
KERAS = {
    "Keras ModelCheckpoint .weights.h5": ".weights.h5",
    "Keras BackupAndRestore": "snapshot",
    "Keras ModelCheckpoint .keras": ".keras",
}
ORBAX = {"Keras OrbaxCheckpoint, asynchronous": "snapshot"}
LIMITS = {".weights.h5": 1.5, "snapshot": 1.5, ".keras": 2.0}


def measure(variant, mb, directory):
    """Return the samples of one process."""
    names = {"Keras": KERAS, "Orbax": ORBAX}.get(variant, OURS)
    measured = blocked.measure(mb, 1, max(0.3, mb / 200), directory, set(names))
    found = {"memcpy_ms": [1e3 * measured["memcpy_s"]]}
    for name, kind in names.items():
        if name in measured["rows"]:
            row = measured["rows"][name]
            found[f"{kind} hook"] = [row["hook"]]
            found[f"{kind} total"] = [row["total"]]
    return found


def goals(found, mb, backend):
    """Return the rows of the table."""
    rows = []
    for kind, limit in LIMITS.items():
        for figure, words in (("hook", "in the hook"), ("total", "with slower steps")):
            is_goal = figure == "total"
            aim = f", in copies <= {limit}" if is_goal else ", in copies"
            values = {v: m[f"{kind} {figure}"] for v, m in found.items() if f"{kind} {figure}" in m}
            goal = f"{backend}, {mb} MB {kind}: {words}{aim}"
            rows.append(Row(goal, limit if is_goal else None, values, "x"))
    return rows
