"""The examples of several processes, in one and in two. `make demo-ranks` kills one of two."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import processes

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
LIMIT_S = 300

pytestmark = [pytest.mark.slow]


def weights(output):
    return re.findall(r"^Rank \d of \d: weights (\w+)$", output, re.MULTILINE)


@pytest.mark.parametrize("name", ["ddp", "ddp_fit", "jax_processes"])
def test_an_example_runs_unchanged_in_one_process(name, tmp_path):
    path = os.pathsep.join([str(processes.SOURCE), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Rank 0 of 1" in ended.stdout and "best epoch" in ended.stdout
    assert list((tmp_path / "runs").glob("*/best.keras"))


def test_fit_on_torch_in_two_processes_ends_with_one_model(tmp_path):
    script = EXAMPLES / "ddp_fit.py"
    ended = processes.run("torch-fit", script, ["--directory", tmp_path], limit_s=LIMIT_S)
    assert [rank.code for rank in ended] == [0, 0], processes.report(ended)
    [first], [second] = (weights(rank.output) for rank in ended)
    assert first == second
    assert (tmp_path / "best.keras").exists()


def test_fit_on_torch_in_two_processes_of_an_older_keras_says_what_it_needs(tmp_path):
    import keras

    if keras.__version__ >= "3.16":
        pytest.fail("this test is about a Keras before 3.16: constraints.txt has a later one")
    ended = processes.run("torch", EXAMPLES / "ddp_fit.py", ["--directory", tmp_path])
    for rank in ended:
        assert rank.code == 1 and "need Keras 3.16 or later" in rank.output
