"""The examples run as they are, each in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, cwd, *arguments):
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=cwd,
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_digits_stops_and_the_file_equals_the_model(tmp_path):
    output = run("digits.py", tmp_path)
    assert "hold the same weights" in output and "why it ended" in output
    picture = (tmp_path / "runs/digits/curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


@pytest.mark.slow
def test_the_custom_loop_stops_saves_and_restores(tmp_path, backend):
    if backend != "torch":
        pytest.skip("the loop is written in torch")
    output = run("custom_loop.py", tmp_path)
    assert "Best epoch" in output
    assert (tmp_path / "runs/custom_loop/last.keras").exists()


@pytest.mark.slow
def test_resume_is_bit_identical_after_a_kill_in_mid_epoch(tmp_path):
    output = run("resume.py", tmp_path)
    assert "Killed by SIGKILL in epoch 4" in output
    assert "bit-identical to the uninterrupted run's" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "audio"])
def test_an_example_that_was_killed_resumes_and_keeps_its_best_file(name, tmp_path):
    output = run(f"{name}.py", tmp_path, "--interrupt")
    assert "Killed by SIGKILL in epoch 3" in output
    assert "epoch 3, after batch" in output.partition("Killed")[2].partition("started in")[2]
    assert "hold the same weights" in output
    directory = tmp_path / "runs" / name
    assert 2 <= len(list(directory.glob("epoch-*.keras"))) <= 3
    assert not list((directory / "backup").glob("epoch-*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune", "gan", "torch_module"])
def test_an_example_that_was_killed_ends_with_the_bits_of_one_that_was_not(name, tmp_path, backend):
    if backend != "torch" and name == "torch_module":
        pytest.skip("the module is PyTorch's")
    output = run(f"{name}.py", tmp_path, "--interrupt", "--small")
    assert "Killed by SIGKILL in epoch 3" in output
    assert "epoch 3, after batch" in output.partition("Killed")[2].partition("started in")[2]
    assert "ended with the same bits as one that was not" in output
    directory = tmp_path / "runs" / name
    assert list(directory.glob("epoch-*.weights.h5"))
    assert not list((directory / "backup").glob("epoch-*"))
