"""The command `ratchet`: what a directory of checkpoints holds, and whether it is intact.

One file per command. A command is imported when it is used, and none of them imports Keras, so
that the answer is there before Keras would be. Errors that we raise on purpose, and those of
the disk, end here in one sentence and an exit code.
"""

from __future__ import annotations

import importlib
import logging
from difflib import get_close_matches
from typing import IO, Any

import click

from keras_ratchet.errors import CorruptError, RatchetError

PROBLEM = 1
WRONG_USE = 2

COMMANDS = {
    "ls": "List the checkpoints of a directory.",
    "show": "Show everything known about one checkpoint.",
    "best": "Print the path of the best checkpoint.",
    "verify": "Check that the bytes of checkpoints are those that were saved.",
    "history": "Show what was saved, skipped and deleted, and why.",
    "plot": "Draw the metrics of a run, its saves and its best epoch.",
    "report": "Write a page about runs: curves, decisions, saves, checkpoints.",
    "diff": "Compare two checkpoints: config and weights.",
    "pin": "Protect checkpoints from deletion.",
    "unpin": "Remove the protection of `pin`.",
    "adopt": "Write manifests for plain Keras files.",
    "prune": "Plan which checkpoints to delete, and delete them.",
    "soup": "Write a file whose weights are the mean of the best checkpoints.",
    "export": "Write the weights as safetensors, npz or torch.",
    "pull": "Bring checkpoints from an object store to a local directory.",
    "push": "Put the checkpoints of a local directory on an object store.",
    "branch": "Start a new run's directory from a snapshot.",
    "watch": "Show a run while it trains.",
    "run": "Start a training script, and start it again after a crash or a hang.",
    "doctor": "Prove on your own script that a killed run ends as a whole one does.",
}
_MODULES = {"unpin": "pin"}
_SAME_AS = {"list": "ls"}  # what people type, and letters alone would not suggest
_TALKATIVE = ("fsspec", "s3fs", "gcsfs", "adlfs", "azure", "botocore", "aiobotocore", "google")


def clean(text: str) -> str:
    r"""Return text without control characters: names and reasons may come from a stranger's file.

    Example:
        >>> clean("best\x1b[2J.keras")
        'best?[2J.keras'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class _Ratchet(click.Group):
    """A group whose commands are imported on use and whose errors are handled in one place."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
        command: click.Command = getattr(module, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of an unknown one, say what may be meant.

        Click would suggest too, but only of commands that are imported, and only since 8.4.
        """
        name = args[0]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        near = [_SAME_AS[name]] if name in _SAME_AS else get_close_matches(name, COMMANDS)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise click.UsageError(f"No such command {name!r}.{hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn an expected error into a sentence and an exit code."""
        for log in map(logging.getLogger, _TALKATIVE):  # of tracebacks that end in a sentence here
            log.handlers = log.handlers or [logging.NullHandler()]
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `ratchet ls | head` is not an error
            raise
        except RatchetError as error:
            kind = _Corrupt if isinstance(error, CorruptError) else _Expected
            raise kind(str(error), error.url) from error
        except OSError as error:
            where = f": {error.filename!r}" if error.filename else ""
            raise _Expected(f"{error.strerror or error}{where}") from error


class _Expected(click.ClickException):
    """An expected error: a sentence, an exit code and a link to what can be done about it."""

    exit_code = WRONG_USE

    def __init__(self, message: str, url: str = "") -> None:
        super().__init__(clean(message))
        self.url = url

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error, and the link on a line of its own, so that terminals make it one."""
        super().show(file)
        if self.url:
            click.secho(f"See {self.url}", file=file, err=True, dim=True)


class _Corrupt(_Expected):
    """A problem with a checkpoint was found."""

    exit_code = PROBLEM


@click.group(cls=_Ratchet, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keras-ratchet", prog_name="ratchet")
def main() -> None:
    """List, verify, compare and delete Keras checkpoints.

    Start with `ratchet ls DIR`. Each command has --help, and prints strict JSON with --json
    (NaN and infinities, which JSON lacks, are the strings "nan", "inf" and "-inf"). DIR, PATH and
    FILE may be URLs of an object store, such as s3://bucket/run.

    \b
    Exit codes:
      0  success
      1  a problem was found: a corrupt checkpoint, no best checkpoint, a file
         that has changed since `prune` planned, one that `pull` or `push` did
         not copy, or a directory or a script that fails `doctor`
      2  wrong usage, or a path without checkpoints of this package

    `ratchet run` ends with the exit code of its script.
    """  # noqa: D301  click wants the character \b itself
