"""`ratchet run`: a training script, started again after a crash or a hang."""

from __future__ import annotations

import click

from keras_ratchet.cli import _output

_DIRECTORY = ".ratchet-run"


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument(
    "command", metavar="[--] COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Restarts in all.",
)
@click.option(
    "--max-stalls",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Give up after so many starts in a row without progress.",
)
@click.option(
    "--hang-after",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="End it and start it again after S seconds without a batch or a save.",
)
@click.option(
    "--start-after",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="The same outside of training and before its first batch (600, or --hang-after).",
)
@click.option(
    "--backoff",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="S",
    help="Seconds before a restart; doubled, up to 300, while there is no progress.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds between SIGTERM and SIGKILL.",
)
@click.option(
    "--preempted-code",
    type=click.IntRange(1, 255),
    default=75,
    show_default=True,
    metavar="CODE",
    help="The exit_code= of BackupAndRestore.",
)
@click.option(
    "--slurm-requeue",
    is_flag=True,
    help="Queue the Slurm job again when its time is over.",
)
@click.option(
    "--journal",
    type=click.Path(file_okay=False),
    default=_DIRECTORY,
    show_default=True,
    metavar="DIR",
    help="Where to note what happens; `ratchet history DIR` shows it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each event as JSON, on stderr too.")
def run(
    *,
    command: tuple[str, ...],
    max_restarts: int,
    max_stalls: int,
    hang_after: float | None,
    start_after: float | None,
    backoff: float,
    grace: float,
    preempted_code: int,
    slurm_requeue: bool,
    journal: str,
    as_json: bool,
) -> None:
    """Start a training script, and start it again after a crash or a hang.

    Signals are passed on to the script, and the exit code is the script's. It is not started
    again after SIGTERM or Ctrl-C, after too many restarts, or when starts end without progress,
    which is a later snapshot of BackupAndRestore. A hang is noticed by the callbacks of
    keras_ratchet in the script: the stacks of all threads are printed, then the script and all
    that it has started is ended.

    \b
    ratchet run --hang-after 300 -- python train.py --epochs 50
    ratchet run --max-restarts 10 -- torchrun --nproc-per-node 2 train.py
    """  # noqa: D301  click wants the character \b itself
    from keras_ratchet._supervisor.events import Events
    from keras_ratchet._supervisor.progress import Limits
    from keras_ratchet._supervisor.supervisor import Options, Supervisor

    options = Options(
        command,
        Limits(max_restarts, max_stalls, backoff),
        hang_after,
        start_after,
        grace,
        preempted_code,
        slurm_requeue,
    )
    events = Events(journal, lambda line: _output.say(line, err=True), as_json)
    click.get_current_context().exit(Supervisor(options, events).run())
