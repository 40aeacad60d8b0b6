"""A reverse proxy in front of an AWS emulator: counts requests, adds latency, injects faults.

Within a test::

    from support.proxy import Proxy
    from support.proxy_rules import Rule

    with Proxy(moto.endpoint_url, latency_s=0.01) as proxy:
        proxy.rules = [Rule("lost_response", "SendMessageBatch", probability=0.1)]
        ...  # use proxy.endpoint_url
        proxy.stats()["requests"]

Half of the latency is spent on the way there and half on the way back, of each request on its own, so an open long
poll delays nobody. Responses are passed on unread unless a fault needs them. Faults that rewrite a request break its
signature: use them with an emulator that checks none.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from . import aws_wire as wire
from .proxy_faults import Faults, Plan
from .proxy_http import ClientSide, Message, Upstream, response
from .proxy_rules import Rule, RuleBook

#: For ``AWS_CONTAINER_CREDENTIALS_FULL_URI``: keys that botocore renews three seconds later.
KEYS_PATH = "/__keys__"
_KEYS_LIVE_S = 903.0
BILLED_CHUNK_BYTES = 64 * 1024


class Proxy:
    """The proxy, with an event loop in a thread of its own.

    Args:
        upstream: URL of the emulator.
        latency_s: Added to each request, there and back together.
        rules: Faults, see ``proxy_rules.KINDS``.
        seed: For the choice of victims; None: another one each time.
    """

    def __init__(
        self,
        upstream: str,
        latency_s: float = 0.0,
        *,
        rules: Iterable[Rule] = (),
        seed: int | None = None,
    ) -> None:
        address = urlsplit(upstream)
        self.latency_s = latency_s
        self._upstream = Upstream(address.hostname or "127.0.0.1", address.port or 80)
        self._book = RuleBook(rules, seed=seed)
        self._faults = Faults(self._book, time.monotonic)
        self._port = 0
        self._counts: dict[str, Counter[str]] = {}
        self._connections: set[ClientSide] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        #: Bound and never listening: while we refuse, nobody's outgoing connection may get the port.
        self._reserved: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_silent = False
        self._reset_stats()

    # ---- for the test

    @property
    def endpoint_url(self) -> str:
        """Where clients connect; known once started, and kept while it refuses."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force. Assign to change them, at any time and from any thread; counts start anew."""
        return tuple(self._book.rules)

    @rules.setter
    def rules(self, rules: Iterable[Rule]) -> None:
        self._book.rules = list(rules)

    def start(self) -> Proxy:
        """Listen; returns when connections are accepted."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._run(self._listen())
        return self

    def stop(self) -> None:
        """Close every connection and stop. Idempotent."""
        if self._loop is None or self._thread is None:
            return
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stats(self) -> dict[str, Any]:
        """What was counted since the start or ``reset_stats``.

        Returns:
            ``requests``, ``messages`` (entries sent or settled, messages received) and ``billed`` (64 KiB chunks, as
            AWS counts requests) by action; ``polls``: by queue, the ``count`` of receives and the monotonic times
            of the first and last, ``first_s`` and ``last_s``; ``faults`` by kind; ``empty_receives``,
            ``connections`` (open now) and ``cpu_s`` (of this process).
        """
        stats: dict[str, Any] = self._run(self._stats())
        return stats

    def reset_stats(self) -> None:
        """Start counting anew."""
        self._run(self._in_loop(self._reset_stats))

    def refuse(self) -> None:
        """Reset all connections and stop listening until ``accept``."""
        self._run(self._in_loop(self._stop_listening))

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._run(self._listen())

    def swallow(self, yes: bool) -> None:
        """From now on answer nothing, what is under way included, and forward nothing; or serve again.

        What was swallowed is never answered, as when a network that dropped everything comes back.
        """
        self._is_silent = yes

    # ---- in the event loop

    def _run(self, coroutine: Any) -> Any:
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("the proxy is not running")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)

    async def _in_loop(self, function: Any) -> None:
        function()

    async def _listen(self) -> None:
        """Accept connections, if it does not yet."""
        if self._server is not None:
            return
        if self._reserved is None:
            self._reserved = socket.socket()
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reserved.bind(("127.0.0.1", self._port))
            self._port = self._reserved.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(
            lambda: ClientSide(self._on_request, self._connections), "127.0.0.1", self._port, backlog=512,
            reuse_port=True,
        )  # fmt: skip

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.reset()

    async def _shut_down(self) -> None:
        self._stop_listening()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._upstream.close()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    async def _listen_again(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen()

    def _reset_stats(self) -> None:
        self._empty_receives = 0
        self._cpu_started_s = time.process_time()
        self._counts = {name: Counter() for name in ("requests", "messages", "billed", "faults")}
        self._polls: dict[str, dict[str, float]] = {}

    async def _stats(self) -> dict[str, Any]:
        counts: dict[str, Any] = {name: dict(counter) for name, counter in self._counts.items()}
        cpu_s = time.process_time() - self._cpu_started_s
        return counts | {
            "polls": {queue: dict(poll) for queue, poll in self._polls.items()},
            "empty_receives": self._empty_receives,
            "connections": len(self._connections),
            "cpu_s": cpu_s,
        }

    def _on_request(self, client: ClientSide, message: Message) -> asyncio.Task[None]:
        return self._spawn(self._serve(client, message))

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, client: ClientSide, message: Message) -> None:
        """One request, from its last byte to the response."""
        path = message.head.split(b" ", 2)[1]
        if path == KEYS_PATH.encode():
            client.send(self._keys())
            return
        request = wire.parse_request(message)
        self._count_request(request)
        if self._is_silent:
            self.swallowed(request)
            return
        fired = self._book.fire(request.action, lambda: request.target)
        half_s = self.latency_s / 2
        if half_s:
            await asyncio.sleep(half_s)
        try:
            if self._faults.is_idle:
                answer: Message | None = await self._upstream.ask(message)
            else:
                answer = await self._serve_faulty(client, self._faults.plan(request, fired))
        except OSError:
            client.reset()
            return
        if answer is None:
            return
        self._count_response(request, answer)
        if half_s:
            await asyncio.sleep(half_s)
        if not self._is_silent:
            client.send(answer)

    def _keys(self) -> Message:
        if any(rule.kind == "no_keys" for rule in self._book.rules):
            self._counts["faults"]["no_keys"] += 1
            return response(500, "application/json", b"{}")
        return wire.new_keys(time.time(), _KEYS_LIVE_S)

    async def _serve_faulty(self, client: ClientSide, plan: Plan) -> Message | None:
        """Carry out a plan; the response to give, if there is to be one."""
        self._counts["faults"].update(plan.acted)
        plan.acted.clear()
        await asyncio.sleep(plan.delay_s)
        if plan.close == "reset":
            client.reset()
        if plan.refuse_s:
            self._stop_listening()
            self._spawn(self._listen_again(plan.refuse_s))
        if plan.close in ("reset", "never"):
            return None
        answer = plan.answer or await self._upstream.ask(plan.request.message)
        answer = self._faults.finish(plan, answer)
        self._counts["faults"].update(plan.acted)
        for seconds, act in plan.later:
            self._spawn(self._ask_later(seconds, act))
        if plan.close == "lost":
            client.close()
            return None
        if plan.close == "cut":
            client.send(answer._replace(body=answer.body[: len(answer.body) // 2]))
            client.reset()
            return None
        return answer

    async def _ask_later(self, seconds: float, act: Callable[[], wire.Request]) -> None:
        await asyncio.sleep(seconds)
        await self._upstream.ask(act().message)

    def swallowed(self, request: wire.Request) -> None:
        """A request went into the black hole; for subclasses."""

    def _count_request(self, request: wire.Request) -> None:
        action = request.action or "?"
        self._counts["requests"][action] += 1
        if action == "ReceiveMessage":
            now = time.monotonic()
            poll = self._polls.setdefault(request.target, {"count": 0, "first_s": now})
            poll["count"] += 1
            poll["last_s"] = now
        else:
            self._counts["messages"][action] += wire.sent_count(request)
            self._counts["billed"][action] += -(-len(request.body) // BILLED_CHUNK_BYTES) or 1

    def _count_response(self, request: wire.Request, answer: Message) -> None:
        if request.action == "ReceiveMessage":
            received_count = wire.received_count(answer.body)
            self._counts["messages"]["ReceiveMessage"] += received_count
            self._counts["billed"]["ReceiveMessage"] += -(-len(answer.body) // BILLED_CHUNK_BYTES) or 1
            self._empty_receives += not received_count
