"""One start of the script, as the supervisor sees it: behind its keeper."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping, Sequence

from keras_ratchet._supervisor import tree
from keras_ratchet._supervisor.keeper import Lines, keep
from keras_ratchet.errors import ConfigError


class Child:
    """The script, started.

    Args:
        command: The script and its arguments.
        env: Its environment.

    Attributes:
        pid: Its process.
        code: Its exit code, -N for a signal; None while it runs.

    Raises:
        ConfigError: If it cannot be started.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.pid = 0
        self.code: int | None = None
        self._strangers = frozenset(tree.below(os.getpid()))  # who calls `exec ratchet run`
        ours, theirs = socket.socketpair()
        self._keeper = os.fork()
        if self._keeper == 0:
            ours.close()
            keep(theirs, command, env)
        theirs.close()
        self._lines = Lines(ours)
        self._problem, self._cleaned = "", False
        while not self.pid and self.code is None and not self._problem:
            self.look()
        if self._problem:
            self._end_keeper()
            raise ConfigError(
                f"{command[0]!r} cannot be started: {self._problem}.", see="supervisor"
            )

    def fileno(self) -> int:
        """Return the descriptor that can be read when there is news."""
        return self._lines.fileno()

    def look(self) -> None:
        """Take in the news; waits for some."""
        for message in self._lines.receive():
            self.pid = message.get("pid", self.pid)
            self.code = message.get("code", self.code)
            self._problem = message.get("problem", "")
            self._cleaned = message.get("cleaned", False)
        if self._lines.is_over and self.code is None:  # the keeper was killed, and with it all
            self.code = -signal.SIGKILL

    def signal(self, number: int) -> None:
        """Send a signal to the script, which passes it on to what it has started, or does not."""
        self._lines.send(signal=int(number))

    def signal_process(self, pid: int, number: int) -> None:
        """Send a signal to one of the processes below, if it is one."""
        self._lines.send(signal=int(number), pid=pid)

    def signal_all(self, number: int) -> None:
        """Send a signal to the script and to all that it has started."""
        self._lines.send(signal=int(number), all=True)

    def clean(self, grace_s: float) -> bool:
        """End all that the script has left, and its keeper; return whether there was any."""
        self._lines.send(clean=grace_s)
        while not self._lines.is_over:
            self.look()
        self._end_keeper()
        # if the keeper was killed
        left = tree.end_below(os.getpid(), self.pid, grace_s, self._strangers)
        return self._cleaned or left

    def leave(self) -> None:
        """End the keeper; what the script has left goes on."""
        self._lines.send(leave=True)
        self._end_keeper()

    def _end_keeper(self) -> None:
        self._lines.close()
        os.waitpid(self._keeper, 0)
