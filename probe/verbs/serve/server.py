"""The server itself: bound before anything slow, and ended so that what is under way is finished, or told."""

import asyncio
import ipaddress
import socket
from types import FrameType
from typing import Any

import uvicorn

from probe.errors import ProbeError
from probe.verbs.serve.engine import Engine

GRACE = 30.0
"""Seconds that what is under way may take when the server is told to end."""


def bound(host: str, port: int) -> socket.socket:
    """A socket of that address.

    Raises:
        ProbeError: where it is taken, or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise ProbeError(
            f"--host {host} --port {port}: expected a free address of this machine, found none ({error.strerror}); choose "
            "another --port, or 0 for any."
        ) from error
    return found


def is_loopback(of: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(of.getsockname()[0]).is_loopback


class Server(uvicorn.Server):
    """Serves until a signal.

    Args:
        app: What is served.
        engine: Who writes.
        grace: Seconds that what is under way may take then.
    """

    def __init__(self, app: Any, engine: Engine, grace: float = GRACE) -> None:
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        self.engine, self.grace = engine, grace

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends in order at the first signal, and at once at the second; uvicorn would raise it again afterwards."""
        self.force_exit, self.should_exit = self.should_exit, True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for what is under way, and tells those who are left."""
        late = asyncio.get_running_loop().call_later(self.grace, self.engine.stop)
        await super().shutdown(sockets)
        late.cancel()
        self.engine.stop()
