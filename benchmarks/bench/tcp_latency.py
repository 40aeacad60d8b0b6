"""A TCP relay that delivers every byte later, in order: Redis and RabbitMQ at the distance of AWS.

``python -m bench.tcp_latency --latency 0.01 PORT...`` relays one new port for each and prints them as a JSON list.
Half of the latency is spent in each direction, as in the HTTP proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque

HOST = "127.0.0.1"


class _Side(asyncio.Protocol):
    """One end of a relayed connection. What it reads goes to its peer after the delay."""

    def __init__(self, delay_s: float) -> None:
        self.peer: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self._delay_s = delay_s
        self._late: deque[tuple[float, bytes]] = deque()
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._late.append((self._loop.time() + self._delay_s, data))
        if len(self._late) == 1:
            self._loop.call_later(self._delay_s, self._deliver)

    def _deliver(self) -> None:
        """Pass on what is due; one timer per direction keeps the order."""
        # asyncio's timers count in milliseconds, so what is due within one would otherwise wait for the next.
        now = self._loop.time() + 0.0005
        due = []
        while self._late and self._late[0][0] <= now:
            due.append(self._late.popleft()[1])
        if self.peer and self.peer.transport and not self.peer.transport.is_closing():
            self.peer.transport.write(b"".join(due))
        if self._late:
            self._loop.call_at(self._late[0][0], self._deliver)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer and self.peer.transport:
            self._loop.call_later(self._delay_s + 0.01, self.peer.transport.close)


class _Accepted(_Side):
    """The client's end; its data waits until the server's end is there."""

    def __init__(self, delay_s: float, port: int) -> None:
        super().__init__(delay_s)
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        assert self.transport is not None
        try:
            _, server = await self._loop.create_connection(lambda: _Side(self._delay_s), HOST, self._port)
        except OSError:
            self.transport.abort()
            return
        self.peer, server.peer = server, self
        self.transport.resume_reading()


async def _relay(ports: list[int], latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda port=port: _Accepted(latency_s / 2, port), HOST, 0)  # type: ignore[misc]
        for port in ports
    ]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Relay until killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, required=True, metavar="SECONDS")
    parser.add_argument("ports", type=int, nargs="+")
    options = parser.parse_args()
    asyncio.run(_relay(options.ports, options.latency))


if __name__ == "__main__":
    main()
