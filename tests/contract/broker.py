"""A leg as a test of the contract sees it: connections to it, and what is in its queues. Only kombu's public API."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from aws_leg.account import Account
from contract.features import Features
from kombu import Connection, Consumer, Message, Producer, Queue
from support.emulators import Emulator
from support.standin import StandIn

from kombu_hake.aws import Clients

#: Far more than any answer takes on loopback: whatever is waited for longer has failed.
PATIENCE_S = 20.0
#: When AWS shows every change, and the package has checked its writes.
SETTLED_S = 130.0
#: What is open when a test ends occupies the emulator no longer than this.
LONG_POLL_S = 1
#: On AWS messages overtake one another, and arrive a little after the publish: what has not come for so long is not
#: there.
QUIET_S = 3.0
#: How long AWS refuses the name of a deleted queue.
NAME_TAKEN_S = 61.0
_CHANGES = frozenset(
    {
        *("create_queue", "delete_queue", "set_queue_attributes", "tag_queue", "untag_queue"),
        *("create_topic", "subscribe", "unsubscribe", "set_subscription_attributes"),
    }
)

_strangers = itertools.count(1)


class Broker:
    """One leg in a namespace of its own; closes what it opened."""

    def __init__(self, features: Features, aws: Emulator | StandIn | Account | None) -> None:
        self.features = features
        self._aws = aws
        self._opened: list[Connection] = []
        #: Queue to the channel that drained it last.
        self._drained: dict[str, Any] = {}

    @property
    def aws(self) -> Emulator | StandIn | Account:
        """The emulator, stand-in or account behind it (``Can.AWS``)."""
        assert self._aws is not None, f"{self.features.leg} has no AWS"
        return self._aws

    def url(self, **options: object) -> str:
        if self._aws is None:
            return "memory://"  # which knows no options
        # One poller keeps the order of messages, which drain() rests on. And one set of options for all connections:
        # each further set costs clients of its own.
        return self._aws.url(**{"wait_time_seconds": LONG_POLL_S, "max_pollers": 1, **options})

    def settle(self) -> None:
        """Wait until AWS shows all that was changed, and what follows a write later was done (at most two minutes).

        Publishing through a topic waits by itself until that topic delivers.
        """
        if isinstance(self._aws, StandIn):
            self._aws.pass_time(SETTLED_S)
        elif isinstance(self._aws, Account):
            self._aws.settle()

    def wait_for_lists(self) -> None:
        """Wait until AWS lists what was made; the stand-in lists at once."""
        if isinstance(self._aws, Account):
            self._aws.settle()

    def do_what_is_due(self) -> None:
        """Have background work done that the package does within seconds."""
        if isinstance(self._aws, StandIn):
            self._aws.pass_time(5)

    def pass_a_minute(self) -> None:
        """Wait until the name of a deleted queue may be used again; emulators allow it at once."""
        if isinstance(self._aws, StandIn):
            self._aws.clock.advance(60)
        elif isinstance(self._aws, Account):
            time.sleep(NAME_TAKEN_S)

    def wait_until(self, condition: Callable[[], object], connection: Connection, what: str) -> None:
        """As :func:`wait_until`, and AWS's time passes meanwhile: for what the package does minutes later on AWS."""
        aws = self._aws

        def idle() -> None:
            if isinstance(aws, StandIn):
                aws.pass_time(10)

        wait_until(condition, connection, what, idle=idle, idle_s=0.1)

    def connect(self, **options: object) -> Connection:
        """A new connection; connections with the same options share what the process remembers."""
        connection = Connection(self.url(**options))
        self._opened.append(connection)
        return connection

    def stranger(self, **options: object) -> Connection:
        """A connection that knows nothing of what others declared, like one of another process.

        What a process remembers is shared by connections of equal options, so an option without effect here does it.
        """
        return self.connect(read_timeout=15 + next(_strangers) / 1000, **options)

    def close(self) -> None:
        for connection in self._opened:
            connection.release()

    def drain(self, *queues: str, connection: Connection | None = None) -> dict[str, list[Message]]:
        """Everything that is ready in these queues, taken out.

        A mark is sent to each queue, and what comes before the mark is what the queue held: the legs keep the order of
        messages for a single poller, and a topic has delivered when the publish returns. AWS does neither, so there
        the mark is sent late, and what comes after it counts too.
        """
        self._wait_for_answers()
        for queue in queues:
            if queue in self._drained:
                self.wait_for_open_polls(self._drained[queue], queue)
        is_late = isinstance(self._aws, Account) and self._aws.settle_s > 0
        if is_late:
            time.sleep(QUIET_S)
        connection = connection or self.connect()
        mark = uuid4().hex
        found: dict[str, list[Message]] = {queue: [] for queue in queues}
        unmarked = set(queues)

        def take(queue: str, message: Message) -> None:
            if message.headers.get("mark") == mark:
                unmarked.discard(queue)
            else:
                found[queue].append(message)

        with connection.channel() as channel:
            for queue in queues:
                Producer(channel).publish("", routing_key=queue, headers={"mark": mark})
            with consuming(channel, {queue: partial(take, queue) for queue in queues}, no_ack=True):
                wait_until(lambda: not unmarked, connection, f"marks in {sorted(unmarked)}")
                while is_late and not nothing_comes(connection, QUIET_S):
                    continue
            self._drained |= dict.fromkeys(queues, channel)
        return found

    def _wait_for_answers(self) -> None:
        """Wait until AWS has what connections acked and gave back: threads of the transport send it."""
        for connection in self._opened:
            leases = getattr(connection.transport, "leases", None) if connection.connected else None
            assert leases is None or leases.flush(PATIENCE_S), "AWS never answered what was acked and given back"

    @staticmethod
    def wait_for_open_polls(channel: Any, queue: str) -> None:
        """Wait until no poll of a consumer that was cancelled is open: what it brings is given back at its end."""
        if hasattr(channel, "wait_for_open_polls"):
            channel.wait_for_open_polls([channel.topology.queues.url(queue)], PATIENCE_S)

    def bodies(self, *queues: str, connection: Connection | None = None) -> dict[str, list[Any]]:
        """As :meth:`drain`: the decoded bodies, sorted."""
        found = self.drain(*queues, connection=connection)
        return {queue: sorted(message.payload for message in messages) for queue, messages in found.items()}


@contextmanager
def consuming(
    channel: Any, callbacks: dict[str, Callable[[Message], object]], *, no_ack: bool = False
) -> Iterator[None]:
    """Consume from queues that exist, without declaring them."""
    consumers = [
        Consumer(channel, [Queue(queue)], on_message=callback, auto_declare=False, no_ack=no_ack)
        for queue, callback in callbacks.items()
    ]
    for consumer in consumers:
        consumer.consume()
    try:
        yield
    finally:
        for consumer in consumers:
            consumer.cancel()


def wait_until(
    condition: Callable[[], object],
    connection: Connection,
    what: str,
    *,
    idle: Callable[[], object] = lambda: None,
    idle_s: float = 1.0,
) -> None:
    """Deliver events until the condition holds.

    Args:
        idle: Called each time nothing was delivered for *idle_s*.
    Raises:
        AssertionError: it never did.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        left_s = deadline - time.monotonic()
        assert left_s > 0, f"never came: {what}"
        try:
            connection.drain_events(timeout=min(left_s, idle_s))
        except TimeoutError:
            idle()


def nothing_comes(connection: Connection, for_s: float = 0.5) -> bool:
    """Whether no event is delivered for a while. The one thing that can't be waited for is nothing."""
    try:
        connection.drain_events(timeout=for_s)
    except TimeoutError:
        return True
    return False


def declare(connection: Connection, *queues: Queue) -> None:
    """Declare queues with their exchanges and bindings."""
    for queue in queues:
        queue(connection.default_channel).declare()


def publish(connection: Connection, body: object, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
    """Publish by the exchange's name alone: nothing is declared."""
    Producer(connection).publish(body, exchange=exchange, routing_key=routing_key, **kwargs)


def get(connection: Connection, queue: str, *, no_ack: bool = False) -> Message | None:
    """One message by basic.get, waiting for it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        message: Message | None = connection.default_channel.basic_get(queue, no_ack=no_ack)
        if message is not None:
            return message
    return None


def wait_for_changes(patch: pytest.MonkeyPatch, settle_s: float) -> None:
    """Have each publish through a topic wait until what this process changed before has had so long to act."""
    call_sqs, call_sns = Clients.sqs, Clients.sns
    changed_at = float("-inf")

    def note(operation: str) -> None:
        nonlocal changed_at
        if operation in _CHANGES:
            changed_at = time.monotonic()

    def sqs(self: Clients, operation: str, **params: Any) -> dict[str, Any]:
        answer = call_sqs(self, operation, **params)
        note(operation)
        return answer

    def sns(self: Clients, operation: str, **params: Any) -> dict[str, Any]:
        if operation in ("publish", "publish_batch"):
            time.sleep(max(0.0, changed_at + settle_s - time.monotonic()))
        answer = call_sns(self, operation, **params)
        note(operation)
        return answer

    patch.setattr(Clients, "sqs", sqs)
    patch.setattr(Clients, "sns", sns)
