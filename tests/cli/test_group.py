"""The group: help, exit codes, errors without tracebacks, JSON everywhere, no heavy imports."""

import os
import subprocess
import sys

import click
import pytest
from support.checkpoints import flip_bit, note, strict_json

from keras_ratchet.cli import COMMANDS, main

HEAVY = "{'keras', 'torch', 'tensorflow', 'jax', 'h5py', 'numpy', 'matplotlib'}"


def process(*args, **options):
    """Run `python -m keras_ratchet` as a real process."""
    command = [sys.executable, "-m", "keras_ratchet", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_help_lists_every_command_with_the_line_that_its_own_help_begins_with(ratchet):
    output = ratchet("--help").output
    context = click.Context(main)
    for name, line in COMMANDS.items():
        command = main.get_command(context, name)
        assert command.help.splitlines()[0] == line
        assert f"{name} " in output and line in output
    assert "Exit codes:" in output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_documents_each_option(ratchet, name):
    command = main.get_command(click.Context(main), name)
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert "--json" in [flag for option in options for flag in option.opts]
    assert all(option.help for option in options if "-o" not in option.opts)
    assert "Usage: " in ratchet(name, "--help").output


def test_an_unknown_command_is_wrong_use(ratchet):
    output = ratchet("nonsense", code=2).output
    assert "nonsense" in output and "Did you mean" not in output
    assert "No such option" in ratchet("--nonsense", code=2).output


@pytest.mark.parametrize(
    ("typed", "meant"), [("list", "ls"), ("reprot", "report"), ("unpn", "unpin"), ("bests", "best")]
)
def test_a_command_that_is_almost_one_is_suggested(ratchet, typed, meant):
    result = ratchet(typed, "anything", "--at-all", code=2)
    assert f"No such command '{typed}'. Did you mean '{meant}'" in result.stderr


def test_importing_the_command_and_listing_loads_nothing_heavy(run):
    code = (
        "import sys; from keras_ratchet.cli import main; "
        f"heavy = {HEAVY} & set(sys.modules); assert not heavy, heavy; "
        "main(['ls', sys.argv[1]], standalone_mode=False); "
        f"heavy = {HEAVY} & set(sys.modules); assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "epoch-03.keras" in result.stdout


def test_no_command_imports_keras(run, tmp_path):
    code = "import sys; from keras_ratchet.cli import main, COMMANDS\n"
    code += "for name in COMMANDS: main.get_command(None, name)\n"
    code += "assert not {'keras', 'torch', 'tensorflow', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_it_works_as_a_real_process(run):
    listed = process("ls", run)
    assert listed.returncode == 0 and "epoch-05.keras" in listed.stdout and not listed.stderr
    assert len(strict_json(process("ls", run, "--json").stdout)) == 5
    flip_bit(run / "epoch-02.keras")
    broken = process("verify", run)
    assert broken.returncode == 1 and "corrupt" in broken.stdout
    wrong = process("ls", run / "nowhere")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr and "nowhere" in wrong.stderr


def test_a_closed_pipe_is_no_traceback(run):
    command = f'"{sys.executable}" -m keras_ratchet ls "{run}" | head -1'
    result = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in result.stderr and result.stdout.startswith("name")


@pytest.mark.parametrize(
    "args",
    [
        ("ls", "{}"),
        ("best", "{}"),
        ("verify", "{}"),
        ("history", "{}"),
        ("prune", "{}", "--keep-last", "1"),
        ("soup", "{}", "-o", "{}/x.keras"),
        ("plot", "{}", "-o", "{}/x.png"),
        ("show", "{}"),
        ("show", "{}/notes.txt"),
        ("verify", "{}/notes.txt"),
        ("pin", "{}/notes.txt"),
        ("diff", "{}/notes.txt", "{}/notes.txt"),
        ("adopt", "{}/notes.txt"),
        ("export", "{}/notes.txt", "-o", "{}/x.npz"),
        ("ls", "{}/nowhere"),
        ("export", "{}/nowhere", "-o", "{}/x.npz"),
    ],
    ids=" ".join,
)
def test_a_path_that_is_not_ours_gets_a_sentence_and_code_2(ratchet, tmp_path, args):
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    result = ratchet(*(arg.format(tmp_path) for arg in args), code=2)
    assert "Error: " in result.stderr and not result.stdout
    assert sorted(os.listdir(tmp_path)) == ["notes.txt"]


def test_the_message_says_where_checkpoints_are(ratchet, run):
    assert os.path.join(run.parent, run.name) in ratchet("ls", run.parent, code=2).stderr
    assert "epoch-05.keras" in ratchet("show", run, code=2).stderr


def test_an_error_of_the_disk_is_a_sentence_too(ratchet, run, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("keras_ratchet.cli._select.anywhere.checkpoints", refuse)
    assert "Permission denied" in ratchet("ls", run, code=2).stderr


@pytest.mark.parametrize(
    "args",
    [
        ("ls", "{}"),
        ("ls", "{}", "--verify"),
        ("show", "{}/epoch-01.keras"),
        ("best", "{}"),
        ("verify", "{}"),
        ("history", "{}"),
        ("prune", "{}", "--keep-best", "1"),
        ("pin", "{}/epoch-01.keras"),
        ("unpin", "{}/epoch-01.keras"),
    ],
    ids=" ".join,
)
def test_json_is_strict_even_with_nan(ratchet, run, args):
    from support.checkpoints import facts, save

    save(run, "epoch-06.keras", facts(6, val_loss=float("nan"), loss=float("inf")))
    note(run, {"event": "save", "metrics": {"val_loss": float("nan")}})
    assert ratchet.json(*(arg.format(run) for arg in args))
