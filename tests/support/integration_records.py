"""What trackers have recorded, read with their own readers: prints JSON.

python -m support.integration_records DIRECTORY
"""

import support.without_tensorflow  # noqa: F401  # isort: skip

import json
import sys
from pathlib import Path


def tensorboard(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / "logs"), {"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {
        tag: [(e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(tag)]
        for tag in tags["tensors"]
    }
    return {"scalars": scalars, "texts": texts}


def mlflow(directory):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    found = []
    for run in runs:
        names = run.data.metrics
        history = {n: client.get_metric_history(run.info.run_id, n) for n in names}
        artifacts = client.list_artifacts(run.info.run_id, "checkpoints")
        found.append(
            {
                "id": run.info.run_id,
                "name": run.info.run_name,
                "status": run.info.status,
                "metrics": {n: [(m.step, m.value) for m in h] for n, h in history.items()},
                "params": run.data.params,
                "tags": run.data.tags,
                "artifacts": [
                    client.download_artifacts(run.info.run_id, a.path, str(directory))
                    for a in artifacts
                ],
            }
        )
    return found


def records(path):
    """Yield the records of a .wandb file: a log of LevelDB, in blocks of 32 KB, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        rest = 32768 - at % 32768
        if rest < 7:
            at += rest
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole of a record, or its last part
            yield Record.FromString(parts)
            parts = b""


def wandb(directory):
    found = []
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        rows, summary, run = [], {}, {}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = {"id": record.run.run_id, "name": record.run.display_name}
                config = record.run.config.update
                run["config"] = {item.key: json.loads(item.value_json) for item in config}
            elif kind == "history":
                items = record.history.item
                names = {i.key or ".".join(i.nested_key): i.value_json for i in items}
                rows.append({name: json.loads(value) for name, value in names.items()})
            elif kind == "summary":
                for item in record.summary.update:
                    name = item.key or ".".join(item.nested_key)
                    summary[name] = json.loads(item.value_json)
            elif kind == "artifact":
                artifact = record.artifact
                run.setdefault("artifacts", []).append(
                    {
                        "name": artifact.name,
                        "aliases": list(artifact.aliases),
                        "files": [e.path for e in artifact.manifest.contents],
                        "metadata": json.loads(artifact.metadata),
                    }
                )
            elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                run.setdefault("requests", []).append(record.request.log_artifact.artifact.name)
        found.append({**run, "rows": rows, "summary": summary})
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    print(json.dumps({f.__name__: f(place) for f in (tensorboard, mlflow, wandb)}))
