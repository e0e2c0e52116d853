"""What trackers, the Hub, Optuna and KerasTuner have recorded of trainings that were killed.

The clients are real; TensorFlow cannot be imported where they run.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import hub_stub, processes

import keras_ratchet

LIMIT_S = 150
CLIENTS = os.environ.get("RATCHET_INTEGRATIONS", "")
BATCHES = 4  # in an epoch


def environment(home, **more):
    if not os.path.isdir(os.path.join(CLIENTS, "tensorboardX")):
        raise RuntimeError(
            "RATCHET_INTEGRATIONS must be a directory with the clients, which "
            f"`make test-integrations` installs. Got: {CLIENTS!r}."
        )
    quiet = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "DO_NOT_TRACK": "1"}
    path = os.pathsep.join([CLIENTS, str(processes.SOURCE), str(processes.TESTS)])
    own = {"HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": path}
    return {**os.environ, "JAX_PLATFORMS": "cpu", **quiet, **own, **more}


def run(module, arguments, env):
    """Run a module of `support` until it ends, with what it has started; return code and output."""
    command = [sys.executable, "-m", f"support.{module}", *map(str, arguments)]
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        command, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True, cwd="/"
    )
    try:
        out, errors = child.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, 9)
    return child.returncode, out, errors


def trained(kind, directory, kill=0, **env):
    """Run a training; return what it has left in `out.json`, or what it said if it was killed."""
    directory.mkdir(exist_ok=True)
    backend = {"KERAS_BACKEND": env.pop("backend", "torch")}
    env = environment(directory.parent, **backend, **env)
    code, out, errors = run("integration_runs", [kind, directory, kill], env)
    if kill:
        assert code == -9, errors
        return out + errors
    assert code == 0, errors
    assert f"without TensorFlow, on {backend['KERAS_BACKEND']}" in out
    return json.loads((directory / "out.json").read_text())


def records(directory):
    code, out, errors = run("integration_records", [directory], environment(directory.parent))
    assert code == 0, errors
    return json.loads(out)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run with all trackers, killed in its fourth epoch and gone on with; the Hub fails once."""
    directory = tmp_path_factory.mktemp("tracked") / "run"
    with hub_stub.running() as hub:
        hub.failures = 1
        address = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_none"}
        said = trained("tracked", directory, 3 * BATCHES + 2, **address)
        out = trained("tracked", directory, **address)
    return directory, out, records(directory), hub, said


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory):
    directory = tmp_path_factory.mktemp("jax") / "run"
    with hub_stub.running() as hub:
        out = trained("tracked", directory, backend="jax", HF_ENDPOINT=hub.url, HF_TOKEN="hf_none")
    return directory, out, records(directory), hub


def each_epoch_once(pairs, values):
    assert [step for step, _ in pairs] == list(range(1, len(values) + 1))
    assert [value for _, value in pairs] == pytest.approx(values)


def check_metrics(out, recorded):
    for name, values in out["history"].items():
        each_epoch_once(recorded["tensorboard"]["scalars"][name], values)
        [run] = recorded["mlflow"]
        each_epoch_once(run["metrics"][name], values)
        rows = [row for row in recorded["wandb"][-1]["rows"] if name in row]
        each_epoch_once([(row["_step"], row[name]) for row in rows], values)


def test_each_epoch_is_recorded_once_though_the_run_was_killed(tracked):
    _, out, recorded, *_ = tracked
    assert len(out["history"]["loss"]) == 4
    check_metrics(out, recorded)


def test_the_same_on_jax(on_jax):
    directory, out, recorded, hub = on_jax
    check_metrics(out, recorded)
    assert hub.commits[-1][3]["best.keras"] == (directory / "best.keras").read_bytes()


def test_tensorboard_has_best_values_saves_and_the_text_of_decisions(tracked):
    recorded = tracked[2]["tensorboard"]
    best = [value for _, value in recorded["scalars"]["best/loss"]]
    assert best == sorted(best, reverse=True) and len(best) == 4
    assert all(value > 0 for _, value in recorded["scalars"]["save/written_s"])
    lines = "\n".join(text for _, text in recorded["texts"]["decisions/text_summary"]).splitlines()
    for start in ("saved best.keras: loss improved", "not saved: loss did not", "deleted epoch-"):
        assert any(line.startswith(f"* {start}") for line in lines), lines
    assert sum("resumed from" in line for line in lines) == 1
    assert sum("loss improved from None" in line for line in lines) == 1
    [(step, stop)] = recorded["texts"]["stop/text_summary"]
    assert step == 4 and "has not improved" in stop and "patience" in stop


def test_mlflow_has_one_run_with_arguments_decisions_and_the_best_file(tracked):
    directory, out, recorded, *_ = tracked
    [run] = recorded["mlflow"]
    assert (run["id"], run["name"], run["status"]) == (out["run_id"], "run-1", "FINISHED")
    assert run["params"]["EarlyStopping.patience"] == "3"
    assert run["tags"]["stop_kind"] == "patience" and "improved" in run["tags"]["stop_reason"]
    decisions = "\n".join(run["tags"][name] for name in sorted(run["tags"]) if "decis" in name)
    assert decisions.count("resumed from") == decisions.count("improved from None") == 1
    [artifact] = run["artifacts"]
    assert Path(artifact).read_bytes() == (directory / "best.keras").read_bytes()
    assert "loss=" in run["tags"]["best_metrics"]


def test_wandb_goes_on_in_its_run_and_has_the_best_file_under_its_aliases(tracked):
    _, out, recorded, *_ = tracked
    run = recorded["wandb"][-1]
    assert {r["id"] for r in recorded["wandb"] if "id" in r} == {out["wandb"]}
    assert run["config"]["EarlyStopping.patience"] == 3
    assert run["summary"]["stop_kind"] == "patience"
    texts = "\n".join(row.get("decisions", "") for row in run["rows"])
    assert texts.count("resumed from") == texts.count("improved from None") == 1
    artifact = run["artifacts"][-1]
    assert {"best", "latest"} <= set(artifact["aliases"]) and artifact["files"] == ["best.keras"]
    assert artifact["metadata"]["epoch"] == 3 and "improved" in artifact["metadata"]["reason"]


def test_the_hub_has_the_best_file_after_a_failure_too(tracked):
    directory, _, _, hub, said = tracked
    assert hub.failed == 1 and said.count("HubUploader could not") == 1
    assert all(request["visibility"] == "private" for request in hub.created)
    repository, message, description, files = hub.commits[-1]
    assert repository == "me/digits" and re.match(r"Epoch 3: loss=0\.\d+, val_loss=", message)
    assert "loss improved from" in description
    assert files == {"best.keras": (directory / "best.keras").read_bytes()}
    assert keras_ratchet.verify(directory / "best.keras")


def test_a_killed_trial_of_optuna_goes_on_and_a_pruned_one_says_why(tmp_path):
    whole = trained("study", tmp_path / "whole")
    trained("study", tmp_path / "killed", 2 * BATCHES + 2)
    killed = trained("study", tmp_path / "killed")
    assert [trial["state"] for trial in whole] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert [trial["state"] for trial in killed] == ["FAIL", "PRUNED", "COMPLETE", "COMPLETE"]
    assert killed[0]["steps"].keys() == {"0", "1"} and killed[3]["resumed"] == 2
    again = [killed[3], killed[1], killed[2]]
    for one, other in zip(whole, again, strict=True):  # all steps of the retried one, too
        assert {**one, "resumed": 0} == {**other, "resumed": 0}
    pruned = tmp_path / "killed/trial-00001"
    assert sorted(p.name for p in tmp_path.glob("killed/trial-*")) == [
        "trial-00000",
        "trial-00001",
        "trial-00002",
    ]
    journal = (pruned / ".ratchet/journal.jsonl").read_text().splitlines()
    [stop] = [line for line in map(json.loads, journal) if line["event"] == "stop"]
    assert (stop["kind"], stop["epoch"]) == ("pruned", 2) and "PruneBadRates" in stop["reason"]
    assert keras_ratchet.verify(pruned / "best.keras")


def test_a_directory_of_another_study_of_optuna_is_said(tmp_path):
    first, again, second = trained("studies", tmp_path / "run")
    assert first == again == []
    assert "has the trials of the study 'first', and this one is 'second'" in " ".join(second)


def test_a_killed_search_of_keras_tuner_goes_on_in_the_middle_of_a_trial(tmp_path):
    whole = trained("search", tmp_path / "whole")
    execution = 3 * BATCHES  # of which a trial has two; there are snapshots after 3 batches
    assert whole.pop("batches") == 4 * execution
    trained("search", tmp_path / "killed", 6)  # in the first trial
    trained("search", tmp_path / "killed", 3 * execution + 6 - 3)  # in the last execution of all
    killed = trained("search", tmp_path / "killed")
    assert killed.pop("batches") == execution - 3
    assert killed == whole
    assert "ratchet" not in whole["left"]


@pytest.mark.parametrize(
    "name, extra",
    [
        ("tensorboard", "tensorboard"),
        ("mlflow", "mlflow"),
        ("wandb", "wandb"),
        ("optuna", "optuna"),
        ("keras_tuner", "keras-tuner"),
    ],
)
def test_without_the_client_the_extra_is_named(name, extra, monkeypatch):
    client = {"tensorboard": "tensorboardX"}.get(name, name)
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(ImportError, match=rf"pip install 'keras-ratchet\[{extra}\]'"):
        __import__(f"keras_ratchet.integrations.{name}")
