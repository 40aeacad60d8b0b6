"""An in-memory AWS behind the seam of ``kombu_hake/clients.py``, and a clock that stands still.

:class:`FakeClients` is what the package calls: ``sqs(operation, **params)`` and ``sns(operation, **params)`` give
boto3's dicts or raise kombu_hake's errors. It is as strict as AWS where emulators are lax: names, the sixty seconds
after a deletion, receipt handles, queue policies (a topic that they do not let in delivers nothing, and the publisher
is not told), filter policies, the ten attributes of a raw delivery, attributes that differ on a second CreateTopic or
Subscribe.

Time is a :class:`FakeClock`: a long poll lasts until something arrives, the clock is advanced, or
:meth:`FakeClients.end`. In the main thread it advances the clock itself, because nobody else would.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

from fake_sns import FakeSns
from fake_sqs import FakeSqs
from kombu import Connection

from kombu_hake.aws import clients as clients_module
from kombu_hake.aws.concurrency import SharedParts
from kombu_hake.config.settings import Settings, load, split_url
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable
from kombu_hake.temporary.presence import Presence

__all__ = [
    "ACCOUNT",
    "REGION",
    "AdviceAtOnce",
    "FakeClients",
    "FakeClock",
    "NoSweeper",
    "connected",
    "eventually",
    "make_presence",
    "make_settings",
]

ACCOUNT = "111122223333"
REGION = "eu-west-1"
#: A loopback endpoint: nothing is called there, but what AWS asks to wait for is not waited for.
URL = "hake://localhost:1"


class FakeClock:
    """Monotonic seconds that pass only when told to."""

    def __init__(self, now: float = 1_000.0) -> None:
        self._now = now
        self._listeners: list[Callable[[], None]] = []

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake whoever waits for it."""
        self._now += seconds
        for listener in self._listeners:
            listener()

    def on_advance(self, listener: Callable[[], None]) -> None:
        """Have *listener* called after each advance."""
        self._listeners.append(listener)


class AdviceAtOnce:
    """In place of ``publish.advice.Advice``: asks in the caller's thread, so that calls can be counted."""

    @staticmethod
    def ask(key: Hashable, question: Callable[[], None]) -> None:
        """As the real one, but for asking again later."""
        with suppress(BrokerUnavailable):
            question()


class FakeClients:
    """SQS and SNS of one account and region, in memory. Safe to share between threads."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        #: As of :class:`kombu_hake.aws.clients.Clients`; those of the latest connection.
        self.settings = make_settings()
        self.clock = clock or FakeClock()
        self.changed = threading.Condition(threading.RLock())
        self.queues = FakeSqs(ACCOUNT, REGION, self.clock, self.changed)
        self.topics = FakeSns(ACCOUNT, REGION, self.queues)
        #: Physical name of a queue to the age of its oldest message, as CloudWatch tells it, seconds.
        self.ages: dict[str, float] = {}
        #: (operation, parameters) of every call, in the order they came.
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._denied: dict[str, str] = {}
        self._failures: dict[str, list[Exception]] = {}
        self._entry_failures: dict[str, list[tuple[Callable[[dict[str, Any]], bool], dict[str, Any]]]] = {}
        self._before: dict[str, list[Callable[[], None]]] = {}
        self.clock.on_advance(self._wake)

    # --- the seam

    def sqs(self, operation: str, **params: Any) -> dict[str, Any]:
        """As :meth:`kombu_hake.aws.clients.Clients.sqs`."""
        return self._call("sqs", self.queues, operation, params)

    def sns(self, operation: str, **params: Any) -> dict[str, Any]:
        """As :meth:`kombu_hake.aws.clients.Clients.sns`."""
        return self._call("sns", self.topics, operation, params)

    def cloudwatch(self, operation: str, **params: Any) -> dict[str, Any]:
        """As :meth:`kombu_hake.aws.clients.Clients.cloudwatch`: knows the :attr:`ages` of oldest messages."""
        self.calls.append((operation, params))
        self._raise_what_is_due(operation)
        found = []
        for query in params["MetricDataQueries"]:
            [dimension] = query["MetricStat"]["Metric"]["Dimensions"]
            age = self.ages.get(dimension["Value"])
            found.append({"Id": query["Id"], "Values": [] if age is None else [age]})
        return {"MetricDataResults": found}

    def check(self) -> None:
        """As :meth:`kombu_hake.aws.clients.Clients.check`."""
        self._raise_what_is_due("check")

    def region(self) -> str:
        """The region."""
        return REGION

    def sqs_endpoint(self) -> str:
        """Where SQS is called."""
        return f"https://sqs.{REGION}.amazonaws.com"

    def partition(self) -> str:
        """The partition."""
        return "aws"

    def now_ms(self) -> int:
        """Ms since the epoch, by the clock of this AWS."""
        return int(self.clock() * 1000)

    def caller_account(self) -> str:
        """The account, as STS tells it."""
        self.calls.append(("get_caller_identity", {}))
        self._raise_what_is_due("get_caller_identity")
        return ACCOUNT

    # --- what tests say

    def deny(self, *actions: str) -> None:
        """Refuse these IAM actions, such as ``sns:CreateTopic`` or ``sns:*``, from now on."""
        for action in actions:
            self._denied[action] = action

    def allow(self, *actions: str) -> None:
        """Undo :meth:`deny`."""
        for action in actions:
            del self._denied[action]

    def fail(self, operation: str, *errors: Exception) -> None:
        """Have the next calls of *operation* raise these, one each."""
        self._failures.setdefault(operation, []).extend(errors)

    def fail_entries(
        self,
        operation: str,
        *,
        times: int = 1,
        code: str = "InternalError",
        sender_fault: bool = False,
        of: Callable[[dict[str, Any]], bool] = lambda entry: True,
    ) -> None:
        """Have the next *times* calls of a batch operation take all entries but those that *of* picks."""
        failed = {"Code": code, "Message": "as the test wants it", "SenderFault": sender_fault}
        self._entry_failures.setdefault(operation, []).extend([(of, failed)] * times)

    def before(self, operation: str, *hooks: Callable[[], None]) -> None:
        """Call these, one each, in the threads of the next calls of *operation*, before anything else happens."""
        self._before.setdefault(operation, []).extend(hooks)

    def end(self) -> None:
        """Have open and future polls return at once, so that threads can end."""
        with self.changed:
            self.queues.is_over = True
            self.changed.notify_all()

    def count(self, *operations: str) -> int:
        """How many calls of these operations came."""
        return sum(1 for operation, _ in list(self.calls) if operation in operations)

    def counts(self) -> Counter[str]:
        """Operation to number of calls."""
        return Counter(operation for operation, _ in list(self.calls))

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        """Wait for a condition on the state of this AWS; whether it came true in time (real seconds)."""
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    # --- inside

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _call(self, service: str, backend: Any, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        hooks = self._before.get(operation)
        if hooks:
            hooks.pop(0)()
        with self.changed:
            self.calls.append((operation, params))
            try:
                self._check_rights(service, operation, params)
                self._raise_what_is_due(operation)
                return self._run(backend, operation, params)
            finally:
                self.changed.notify_all()

    def _run(self, backend: Any, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        planned = self._entry_failures.get(operation)
        if not planned:
            answer: dict[str, Any] = getattr(backend, operation)(**params)
            return answer
        of, failed = planned.pop(0)
        field = "PublishBatchRequestEntries" if operation == "publish_batch" else "Entries"
        unlucky = [entry["Id"] for entry in params[field] if of(entry)]
        lucky = [entry for entry in params[field] if entry["Id"] not in unlucky]
        answer = getattr(backend, operation)(**{**params, field: lucky}) if lucky else {}
        return {**answer, "Failed": [*answer.get("Failed", []), *({**failed, "Id": name} for name in unlucky)]}

    def _check_rights(self, service: str, operation: str, params: dict[str, Any]) -> None:
        action = f"{service}:{''.join(map(str.capitalize, operation.split('_'))).removesuffix('Batch')}"
        wants_tags = bool(params.get("tags") or params.get("Tags")) and operation.startswith("create")
        tagging = {"sqs:TagQueue" if service == "sqs" else "sns:TagResource"} if wants_tags else set()
        for needed in {action} | tagging:
            if needed in self._denied or f"{service}:*" in self._denied:
                resource = str(next((value for name, value in params.items() if name != "Tags"), "any resource"))
                raise AccessDenied(f"AWS denies {needed} on {resource}.", action=needed, resource=resource)

    def _raise_what_is_due(self, operation: str) -> None:
        due = self._failures.get(operation)
        if due:
            raise due.pop(0)


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for what another thread does; fails when it does not come true in time (real seconds)."""
    pause, deadline = threading.Event(), time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        pause.wait(0.001)


def make_settings(url: str = URL, **options: Any) -> Settings:
    """Settings for a fake AWS."""
    return load(split_url(url), {"region": REGION, **options}, {})


class NoSweeper:
    """Removes nothing."""

    due_at = float("inf")

    def start(self) -> None:
        """There is nothing to begin."""

    def step(self) -> None:
        """There is nothing to do."""


def make_presence(fake: FakeClients, topology: Any, sweeper: Any = None) -> Any:
    """The signs of life of a process, by the clock of the fake. Its thread does nothing: call ``work()``."""
    topology.signs._clock = fake.clock
    topology.signs.reset_after_fork()
    presence = Presence(topology.signs, sweeper or NoSweeper(), fake.clock)
    presence._thread = threading.current_thread()  # as if it ran
    return presence


@contextmanager
def connected(fake: FakeClients, url: str = URL, **options: Any) -> Iterator[Connection]:
    """A kombu connection whose AWS is *fake*; closed at the end, with nothing left to poll."""
    shared: SharedParts[str, Any] = SharedParts(most=8)

    def made(settings: Settings) -> FakeClients:
        fake.settings = settings
        return fake

    with (
        mock.patch("kombu_hake.transport.Clients", side_effect=made),
        mock.patch.object(clients_module, "_shared", shared),
        mock.patch("kombu_hake.transport._LAST_POLLS_S", 0.05),
        mock.patch("kombu_hake.publish.routes.Advice", AdviceAtOnce),
        Connection(url, transport_options={"region": REGION, **options}) as connection,
    ):
        try:
            yield connection
        finally:
            fake.end()
