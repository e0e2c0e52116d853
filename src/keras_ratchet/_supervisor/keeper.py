"""The process between the supervisor and the script: it ends all of the script if need be.

```
ratchet run  --socket--  keeper  --->  python train.py  --->  workers
```

The script has to end when the supervisor is killed, and with it what it has started. SIGKILL leaves
the supervisor no time to do that, so its keeper does, which finds the other end of the socket
closed. If the keeper is killed, the kernel kills the script (Linux), and the supervisor the rest.

The keeper alone starts, signals and waits for the script, so that no signal can reach a process
that has got its number by chance. Messages are lines of JSON:

| to the keeper | |
|---|---|
| `{"signal": N}` | send a signal to the script; with `"pid"` to that process, with `"all"` to all |
| `{"clean": S}` | end what the script has left: SIGTERM, and SIGKILL after S seconds; then end |
| `{"leave": true}` | end; what the script has left goes on |

| from the keeper | |
|---|---|
| `{"pid": N}` | the script was started |
| `{"problem": "..."}` | it could not be |
| `{"code": N}` | it has ended, with an exit code, or -N for a signal |
| `{"cleaned": true}` | it had left something, which was ended |
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from keras_ratchet._supervisor import tree

_ASKS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP")


class Lines:
    """Messages in both directions over a socket.

    Args:
        end: This process's end.

    Attributes:
        is_over: Whether the other end is closed.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._rest = b""
        self.is_over = False

    def fileno(self) -> int:
        """Return the descriptor, for `select`."""
        return self._end.fileno()

    def send(self, **message: Any) -> None:
        """Send a message, if there is still somebody to read it."""
        with contextlib.suppress(OSError):
            self._end.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that have come; waits for one."""
        try:
            data = self._end.recv(1 << 16)
        except OSError:
            data = b""
        self.is_over = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def keep(end: socket.socket, command: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Be the keeper of a script: never returns. This process was forked for it.

    Args:
        end: The socket to the supervisor.
        command: The script.
        env: Its environment.
    """
    code = 1
    try:
        _take_over()
        keeper = _Keeper(Lines(end))
        keeper.start(command, env)
        keeper.run()
        code = 0
    finally:
        os._exit(code)


def _take_over() -> None:
    """Leave the terminal's signals to the supervisor, which passes them on."""
    signal.set_wakeup_fd(-1)
    for name in _ASKS:
        number = getattr(signal, name)
        # a function, not SIG_IGN: `exec` gives the script the default again. What was ignored
        # before (nohup) stays so.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    os.setsid()
    tree.adopt_orphans()


class _Keeper:
    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._pid = os.getpid()
        self._child = 0
        self._code: int | None = None
        self._wake, wakes = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wakes, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)

    def start(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Start the script, in a session of its own."""
        try:
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                start_new_session=True,
                preexec_fn=lambda: tree.die_with(self._pid),  # noqa: PLW1509  no thread runs
            )
            self._child = self._process.pid  # it is waited for in `_look`
        except OSError as error:
            self._lines.send(problem=f"{error.strerror or error}")
            os._exit(0)
        self._lines.send(pid=self._child)

    def run(self) -> None:
        """Do what the supervisor says; return when all is done."""
        while True:
            select.select([self._lines.fileno(), self._wake], [], [], 5.0)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 1 << 12)
            self._look()
            if not select.select([self._lines], [], [], 0)[0]:
                continue
            messages = self._lines.receive()
            if self._lines.is_over:
                tree.end_below(self._pid, self._child, 0.0)
                return
            if any([self._obey(message) for message in messages]):
                return

    def _look(self) -> None:
        """Tell how the script has ended, if it has; reap what it has left."""
        codes = tree.reap()
        if self._code is None and self._child in codes:
            self._code = codes[self._child]
            self._lines.send(code=self._code)

    def _obey(self, message: Mapping[str, Any]) -> bool:
        """Do what a message says; return whether that was the last one."""
        if "signal" in message:
            self._send(int(message["signal"]), message)
        elif "clean" in message:
            cleaned = tree.end_below(self._pid, self._child, float(message["clean"]))
            self._lines.send(cleaned=cleaned)
        return "clean" in message or "leave" in message

    def _send(self, number: int, message: Mapping[str, Any]) -> None:
        if message.get("all"):
            tree.send_below(self._pid, self._child, number)
        elif (pid := message.get("pid")) is not None:
            if pid == self._child or pid in tree.below(self._pid):
                tree.send([pid], number)
        elif self._code is None:
            tree.send([self._child], number)
