"""An in-memory AWS behind the seam of ``kombu_hake/aws/clients.py``.

:class:`FakeClients` is what the package calls: ``sqs(operation, **params)`` and ``sns(operation, **params)`` give
boto3's dicts or raise kombu_hake's errors. It is as strict as AWS where emulators are lax: names, the sixty seconds
after a deletion, receipt handles, queue policies (a topic that they do not let in delivers nothing, and the publisher
is not told), filter policies, the ten attributes of a raw delivery, attributes that differ on a second CreateTopic or
Subscribe, quotas. With ``timings=SLOW`` it is as slow as AWS, too; ``settle()`` is the wait that AWS needs.

Time is a :class:`FakeClock`: a long poll lasts until something arrives, the clock is advanced, or
:meth:`FakeClients.end`. In the main thread it advances the clock itself, because no other thread would.
``support/standin.py`` serves it over HTTP, for boto3 and for workers in other processes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

from fake_aws import QUICK, AwsError, Budgets, Clock, FakeClock, Timings
from fake_s3 import FakeS3
from fake_sns import FakeSns
from fake_sqs import FakeSqs
from kombu import Connection

from kombu_hake.amqp import QueueUrl
from kombu_hake.aws import clients as clients_module
from kombu_hake.aws.concurrency import SharedParts
from kombu_hake.aws.error_table import _iam_action, error_for, error_from_answer, foreign_answer
from kombu_hake.config.settings import Settings, load, split_url
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, HakeError
from kombu_hake.publish.advice import _alive
from kombu_hake.receive.payloads import Payloads
from kombu_hake.temporary.presence import Presence
from kombu_hake.topology.chores import Chores
from kombu_hake.topology.stores import Stores

__all__ = [
    "ACCOUNT",
    "REGION",
    "AdviceAtOnce",
    "FakeClients",
    "FakeClock",
    "Gate",
    "NoSweeper",
    "connected",
    "eventually",
    "make_payloads",
    "make_presence",
    "make_settings",
]

ACCOUNT = "111122223333"
REGION = "eu-west-1"
USER = f"arn:aws:iam::{ACCOUNT}:user/test"
#: A loopback endpoint: nothing is called there, but what AWS asks to wait for is not waited for.
URL = "hake://localhost:1"


class AdviceAtOnce:
    """In place of ``publish.advice.Advice``: asks in the caller's thread, so that calls can be counted."""

    @staticmethod
    def ask(key: Hashable, question: Callable[[], None]) -> None:
        """As the real one, but for asking again later."""
        with suppress(BrokerUnavailable):
            question()


class FakeClients:
    """SQS and SNS of one account and region, in memory. Safe to share between threads."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        timings: Timings = QUICK,
        region: str = REGION,
        url_base: str = "",
        sqs: type[FakeSqs] = FakeSqs,
    ) -> None:
        #: As of :class:`kombu_hake.aws.clients.Clients`; those of the latest connection.
        self.settings = make_settings()
        #: As of the real ones: off, unless a test sets it.
        self.telemetry: Any = None
        self.clock: Any = clock or FakeClock()
        self.changed = threading.Condition(threading.RLock())
        self.queues = sqs(ACCOUNT, region, self.clock, self.changed, timings=timings, url_base=url_base)
        self.topics = FakeSns(ACCOUNT, region, self.queues)
        self.objects = FakeS3()
        self.budgets = Budgets(timings, self.clock)
        #: What every call is answered with, if anything: an :class:`AwsError`, or whatever botocore raises.
        self.outage: Callable[[], Exception] | None = None
        self._region = region
        self._waited_for: frozenset[str] = frozenset()
        #: Physical name of a queue to the age of its oldest message, as CloudWatch tells it, seconds.
        self.ages: dict[str, float] = {}
        #: As of :class:`kombu_hake.aws.clients.Clients`.
        self.clock_offset_s = 0.0
        #: Actions that a simulation of the user's policies denies; None: the user may not simulate.
        self.simulated: set[str] | None = None
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
        return self._translated("sqs", operation, params)

    def sns(self, operation: str, **params: Any) -> dict[str, Any]:
        """As :meth:`kombu_hake.aws.clients.Clients.sns`."""
        return self._translated("sns", operation, params)

    def s3(self, operation: str, **params: Any) -> dict[str, Any]:
        """As :meth:`kombu_hake.aws.clients.Clients.s3`."""
        return self._translated("s3", operation, params)

    def call(self, service: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """A call as AWS sees it.

        Args:
            service: ``sqs``, ``sns`` or ``s3``.
            operation: boto3's name.
        Raises:
            AwsError: AWS refuses it.
            Exception: what a test told :meth:`fail` to raise.
        """
        backends = {"sqs": self.queues, "sns": self.topics, "s3": self.objects}
        return self._call(service, backends[service], operation, params)

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
        return self._region

    def sqs_endpoint(self) -> str:
        """Where SQS is called."""
        return f"https://sqs.{self._region}.amazonaws.com"

    def endpoints(self) -> dict[str, str]:
        """Where SQS and SNS are called."""
        return {name: f"https://{name}.{self._region}.amazonaws.com" for name in ("sqs", "sns")}

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

    def caller_arn(self) -> str:
        """The user, as STS tells it."""
        self._raise_what_is_due("get_caller_identity")
        return USER

    def iam(self, operation: str, **params: Any) -> dict[str, Any]:
        """As :meth:`kombu_hake.aws.clients.Clients.iam`: evaluates policies by :attr:`simulated`."""
        self.calls.append((operation, params))
        if self.simulated is None:
            raise AccessDenied("AWS denies iam:SimulatePrincipalPolicy", action="iam:SimulatePrincipalPolicy")
        denied = self.simulated
        results = [
            {"EvalActionName": action, "EvalResourceName": arn,
             "EvalDecision": "implicitDeny" if action in denied else "allowed"}
            for action in params["ActionNames"] for arn in params["ResourceArns"]
        ]  # fmt: skip
        return {"EvaluationResults": results, "IsTruncated": False}

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

    def heal(self) -> None:
        """Undo :meth:`fail`, for all operations."""
        self._failures.clear()

    def fail_entries(
        self,
        operation: str,
        *,
        times: int = 1,
        code: str = "InternalError",
        message: str = "as the test wants it",
        sender_fault: bool = False,
        of: Callable[[dict[str, Any]], bool] = lambda entry: True,
    ) -> None:
        """Have the next *times* calls of a batch operation take all entries but those that *of* picks."""
        failed = {"Code": code, "Message": message, "SenderFault": sender_fault}
        self._entry_failures.setdefault(operation, []).extend([(of, failed)] * times)

    def before(self, operation: str, *hooks: Callable[[], None]) -> None:
        """Call these, one each, in the threads of the next calls of *operation*, before anything else happens."""
        self._before.setdefault(operation, []).extend(hooks)

    def settle(self) -> None:
        """Wait as long as AWS may need: every change is seen and in effect, and budgets are full again.

        Time does not pass for messages, leases and the sixty seconds after a deletion.
        """
        with self.changed:
            self.queues.settle()
            self.topics.settle()
            self.budgets.refill()

    def act_before(self, *operations: str) -> None:
        """Have every change in effect before each call of these: the wait of a caller that just declared something.

        Reads show older states as before.
        """
        with self.changed:
            self._waited_for = frozenset(operations)

    def use(self, timings: Timings) -> None:
        """Have these timings from now on."""
        with self.changed:
            self.queues.timings = self.topics.timings = timings
            self.budgets = Budgets(timings, self.clock)

    def end(self) -> None:
        """Have open and future polls return at once, so that threads can end."""
        with self.changed:
            self.queues.is_over = True
            self._wake()

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
            self.queues.wake()
            self.changed.notify_all()

    def _translated(self, service: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """A call whose failures are what :class:`kombu_hake.aws.clients.Clients` makes of them."""
        try:
            return self.call(service, operation, params)
        except HakeError:
            raise
        except AwsError as exc:
            shape = {"__type": f"com.amazonaws.{service}#{exc.shape}", "message": exc.text}
            raise error_from_answer(exc.status, f"{exc.code};Sender", shape, service, operation, params) from exc
        except Exception as exc:
            if self.outage is None:
                raise  # what a test told fail() to raise, or a mistake of the fake
            found = error_for(exc, service, operation, params, self.settings)
            raise found or foreign_answer(repr(exc), f"{service}:{operation}", "AWS") from exc

    def _call(self, service: str, backend: Any, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        hooks = self._before.get(operation)
        if hooks:
            hooks.pop(0)()
        with self.changed:
            if operation in self._waited_for:
                self.queues.act()
                self.topics.act()
            self.calls.append((operation, params))
            try:
                if self.outage is not None:
                    raise self.outage()
                self._check_rights(service, operation, params)
                self._raise_what_is_due(operation)
                self.budgets.spend(service, operation)
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
        action = f"{service}:{_iam_action(operation)}"
        wants_tags = bool(params.get("tags") or params.get("Tags")) and operation.startswith("create")
        tagging = {"sqs:TagQueue" if service == "sqs" else "sns:TagResource"} if wants_tags else set()
        for needed in {action} | tagging:
            if needed in self._denied or f"{service}:*" in self._denied:
                resource = str(next((value for name, value in params.items() if name != "Tags"), "any resource"))
                code = "AuthorizationError" if service == "sns" else "AccessDenied"
                raise AwsError(code, f"User: {USER} is not authorized to perform: {needed} on resource: {resource}")

    def _raise_what_is_due(self, operation: str) -> None:
        due = self._failures.get(operation)
        if due:
            raise due.pop(0)


class Gate:
    """A hook for :meth:`FakeClients.before` that holds calls until it is opened."""

    def __init__(self) -> None:
        #: Set once a call is held.
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._open.wait(10.0)

    def open(self) -> None:
        self._open.set()


def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for what another thread does; fails when it does not come true in time (real seconds).

    The time is longer than a poll: of a connection to an emulator that was closed before, it may still be open.
    """
    pause, deadline = threading.Event(), time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        pause.wait(0.001)


def wait_for_advice(timeout_s: float = 20.0) -> None:
    """Wait for the answers that no publish waits for: whether anything listens to what was published.

    Questions of an earlier test whose AWS is gone are asked again and again; they are not waited for.
    """
    eventually(lambda: all(one.tries for advice in list(_alive) for one in list(advice._questions.values())), timeout_s)


def make_settings(url: str = URL, **options: Any) -> Settings:
    """Settings for a fake AWS."""
    return load(split_url(url), {"region": REGION, **options}, {})


class NoSweeper:
    """Removes nothing."""

    due_at = float("inf")

    def start(self, is_own: Callable[[QueueUrl], bool]) -> None:
        """There is nothing to begin."""

    def step(self) -> None:
        """There is nothing to do."""


def make_presence(fake: FakeClients, topology: Any, sweeper: Any = None) -> Any:
    """Heartbeats by the clock of the fake. The threads do nothing: call ``work()`` and ``sweep()``."""
    topology.signs._clock = fake.clock
    topology.signs.reset_after_fork()
    presence = Presence(topology.signs, sweeper or NoSweeper(), fake.clock)
    presence._background.stop(0.0)
    presence._sweeps.stop(0.0)
    return presence


def make_payloads(fake: FakeClients) -> Payloads:
    """Payloads of a connection without large messages."""
    return Payloads(fake, Stores(fake.settings))  # type: ignore[arg-type]


@contextmanager
def connected(
    fake: FakeClients, url: str = URL, *, ack_linger_s: float | None = None, **options: Any
) -> Iterator[Connection]:
    """A kombu connection whose AWS is *fake*; closed at the end, with nothing left to poll.

    Args:
        ack_linger_s: How long acks wait for others, if not for the usual time.
    """
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
        if ack_linger_s is not None:
            connection.transport.ack_linger_s = ack_linger_s
        try:
            yield connection
        finally:
            fake.end()


def manual_chores(clock: Callable[[], float]) -> Chores:
    """Chores without a thread: the test does what is due, by ``work()``."""
    chores = Chores(clock)
    chores._background.stop(0.0)
    return chores
