"""TCP connections between ranks: where rank 0 listens, who may talk to it, when a peer is dead.

A pickle can run code, so nothing is read as one before both ends have shown that they know the
key: `multiprocessing`'s challenge (HMAC of random bytes), here with a limit of time, which its
`Listener` and `Client` lack. A process that ends closes its connection; that a machine has
vanished is found by the kernel's probes, after 90 s.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import time
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

Address = tuple[str, int]
HANDSHAKE_S = 10.0
CONNECT_S = 60.0
_TRY_S = 5.0
_OPTIONS = (("TCP_NODELAY", 1), ("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))
_LOOPBACK = ("127.0.0.1", "::1")
_OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # nobody has these


def listen(is_one_machine: bool, backlog: int) -> socket.socket:
    """Return a socket that listens on a free port.

    Args:
        is_one_machine: Whether all ranks are on this machine: then others cannot connect.
        backlog: How many may connect at the same time.
    """
    if is_one_machine:
        with contextlib.suppress(OSError):
            return socket.create_server((_LOOPBACK[0], 0), backlog=backlog)
        return socket.create_server((_LOOPBACK[1], 0), family=socket.AF_INET6, backlog=backlog)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # a machine without IPv6
            return socket.create_server(
                ("", 0), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
            )
    return socket.create_server(("", 0), backlog=backlog)


def addresses(port: int, is_one_machine: bool) -> list[Address]:
    """Return where this machine may be reached, the likeliest first."""
    hosts: list[str] = []
    if not is_one_machine:
        own = socket.gethostname()
        hosts = [os.environ.get("MASTER_ADDR", ""), *_outward(), own]
        with contextlib.suppress(OSError):  # a name that nobody knows
            hosts += [str(found[4][0]) for found in socket.getaddrinfo(own, port)]
    return [(host, port) for host in dict.fromkeys([*hosts, *_LOOPBACK]) if host]


def _outward() -> list[str]:
    """Return the addresses from which this machine talks to others; nothing is sent."""
    found = []
    for family, outside in _OUTSIDE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 9))
            found.append(str(probe.getsockname()[0]))
    return found


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, seen from itself."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def connect(where: list[Address], key: bytes, within_s: float = CONNECT_S) -> Connection:
    """Return a connection to the first address at which somebody knows the key.

    Args:
        where: The addresses.
        key: What both ends know.
        within_s: How long to try.

    Raises:
        ConnectionError: If there is none; the message says what happened at each address.
    """
    end = time.monotonic() + within_s
    failures: dict[Address, Exception] = {}
    while True:
        for address in where:
            try:
                return authenticated(socket.create_connection(address, _TRY_S), key)
            except Exception as error:
                failures[address] = error
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    tried = "; ".join(f"{host} port {port}: {error}" for (host, port), error in failures.items())
    raise ConnectionError(f"Rank 0 cannot be reached, for {within_s:g} s ({tried}).")


def authenticated(end: socket.socket, key: bytes, is_server: bool = False) -> Connection:
    """Return a connection over a socket once both ends have shown that they know the key.

    Raises:
        OSError: If the other end does not say in time what is expected.
        AuthenticationError: If it does not know the key.
    """
    try:
        wire = _Wire(end)
        steps = (deliver_challenge, answer_challenge)
        for step in steps if is_server else reversed(steps):
            step(wire, key)  # type: ignore[arg-type]
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS:
            if (option := getattr(socket, name, None)) is not None:
                end.setsockopt(socket.IPPROTO_TCP, option, value)
        end.settimeout(None)
        return Connection(end.detach())
    except BaseException:
        end.close()
        raise


class _Wire:
    """The two methods of a connection that the challenge needs, within a limit of time."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._until = time.monotonic() + HANDSHAKE_S

    def send_bytes(self, data: bytes) -> None:
        """Send a short message."""
        self._socket.settimeout(HANDSHAKE_S)
        self._socket.sendall(len(data).to_bytes(2, "big") + data)

    def recv_bytes(self, maxlength: int) -> bytes:
        """Return a short message."""
        length = int.from_bytes(self._exactly(2), "big")
        if length > maxlength:
            raise OSError("it does not speak our language")
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            self._socket.settimeout(max(0.001, self._until - time.monotonic()))
            piece = self._socket.recv(count - len(found))
            if not piece:
                raise EOFError("it has hung up")
            found += piece
        return found
