"""Measures how late AWS is, and how many tag calls it takes. Uses boto3 alone: none of the code under test.

Five queues are subscribed to one topic. Each measurement changes something at all of them at once, and looks at each
until it shows the new state: by reading it, or by messages that are published all the while and arrive or do not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError
from fake_aws import SLOW

from aws_leg.lags import Lag, Probe, Rate, Seen, judged, new_since, pause_after_s
from kombu_hake.topology import Timings

__all__ = ["ALL_NEW", "LAGS_OF_TOPOLOGY", "LATENCY_SAMPLES", "SAMPLES", "Measurements"]

#: Queues, and so samples, of each lag.
SAMPLES = 5
LATENCY_SAMPLES = 20
ALL_NEW = "queue, policy and subscription, all new: first delivery"
SUBSCRIPTION_ACTS = "new subscription delivers"
POLICY_ACTS = "queue policy lets messages in"
FILTER_ACTS = "changed filter lets messages in"
FILTER_KEEPS_OUT = "new filter keeps messages out"
#: What the contract must wait for before it publishes.
LAGS_OF_TOPOLOGY = (ALL_NEW, SUBSCRIPTION_ACTS, POLICY_ACTS, FILTER_ACTS, FILTER_KEEPS_OUT)

#: What AWS documents, and a margin.
_READ_LIMIT_S, _ACT_LIMIT_S, _FILTER_LIMIT_S = 120.0, 180.0, 1_200.0
#: A message that has not arrived after so long is lost.
_PATIENCE_S = 5.0
#: Received messages are not deleted, and must not come again.
_HIDDEN_S = 3_600
#: Two tag calls before each pause: fewer than AWS refuses.
_TAG_PAUSE_S = 0.5
_RATE_FOR_S, _RATE_THREADS, _RATE_PER_S = 3.0, 8, 100
_READY_S = 1.0


@dataclass
class _Queue:
    url: str
    arn: str
    #: Numbers of the probes that have arrived.
    arrived: set[int] = field(default_factory=set)


class Measurements:
    """Makes ten queues and two topics of a run, and measures. The caller removes them.

    Args:
        sqs, sns: boto3's clients, or something with their methods.
        run: Prefix of all names.
        longest_s: No lag is waited for longer, whatever AWS documents.
        say: Called with each result as a line.
        clock: Seconds.
    """

    def __init__(
        self,
        sqs: Any,
        sns: Any,
        run: str,
        *,
        longest_s: float = math.inf,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sqs = sqs
        self._sns = sns
        self._run = run
        self._longest_s = longest_s
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._published = 0
        self._queues: list[_Queue] = []

    def lags(self) -> Iterator[Lag]:
        """Each lag when it is known."""
        topic = self._topic("one")
        yield self._new_queues(topic)
        yield self._latency(topic)
        yield self._attribute_reads()
        yield self._tag_reads()
        yield from self._subscriptions(self._topic("two"))
        yield from self._policies(topic)
        yield from self._filters(topic)
        yield self._deleted_queues()

    def tag_rates(self, refusable: Any) -> Iterator[Rate]:
        """How many tag calls AWS takes, for three seconds each.

        Args:
            refusable: A client of SQS that does not try again.
        """
        (queue,) = self._make_queues("rated", 1)
        self._sleep(_READY_S)
        for operation, params in (("list_queue_tags", {}), ("tag_queue", {"Tags": {"hakeleg": "rate"}})):
            call = getattr(refusable, operation)
            yield self._rate(operation, lambda call=call, params=params: call(QueueUrl=queue.url, **params))
            self._sleep(_READY_S)

    # --- what is measured

    def _new_queues(self, topic: str) -> Lag:
        started, subscriptions = [], []
        for number in range(SAMPLES):
            started.append(self._clock())
            queue = self._make_queues(f"queue{number}", 1)[0]
            self._let_in(queue, self._any_topic(topic))
            subscriptions.append(self._subscribe(topic, queue))
            self._queues.append(queue)
        self._subscriptions_of_one = subscriptions
        return self._by_probes(ALL_NEW, started, topic, lets_in=True, assumed_s=SLOW.attributes_act_s)

    def _latency(self, topic: str) -> Lag:
        samples, missed, limit_s = [], 0, min(30.0, self._longest_s)
        queue = self._queues[0]
        for _ in range(LATENCY_SAMPLES):
            started = self._clock()
            probe = self._publish(topic)
            while probe.number not in queue.arrived and self._clock() - started < limit_s:
                self._receive(queue, wait_s=5)
            if probe.number in queue.arrived:
                samples.append(self._clock() - started)
            else:
                missed += 1
        return self._told(Lag("SNS to SQS, from Publish to its receipt", tuple(samples), missed, limit_s))

    def _attribute_reads(self) -> Lag:
        def write(queue: _Queue) -> None:
            self._sqs.set_queue_attributes(QueueUrl=queue.url, Attributes={"VisibilityTimeout": "77"})

        def is_new(queue: _Queue) -> bool:
            names = ["VisibilityTimeout"]
            answer = self._sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=names)
            return bool(answer.get("Attributes", {}).get("VisibilityTimeout") == "77")

        return self._by_reads("attribute of a queue is read", write, is_new, assumed_s=Timings().attributes_s)

    def _tag_reads(self) -> Lag:
        def write(queue: _Queue) -> None:
            self._sqs.tag_queue(QueueUrl=queue.url, Tags={"hakeleg": "new"})

        def is_new(queue: _Queue) -> bool | None:
            try:
                answer = self._sqs.list_queue_tags(QueueUrl=queue.url)
            except ClientError as exc:
                if _is_throttled(exc):
                    return None
                raise
            return bool(answer.get("Tags", {}).get("hakeleg") == "new")

        what, assumed_s = "tag of a queue is read", Timings().tags_s
        return self._by_reads(what, write, is_new, assumed_s=assumed_s, pause_s=_TAG_PAUSE_S)

    def _subscriptions(self, topic: str) -> Iterator[Lag]:
        """Of queues whose policies are known to let the topic in."""
        started, subscriptions = [], []
        for queue in self._queues:
            started.append(self._clock())
            subscriptions.append(self._subscribe(topic, queue))
        yield self._by_probes(SUBSCRIPTION_ACTS, started, topic, lets_in=True, assumed_s=SLOW.subscriptions_act_s)
        started = []
        for subscription in subscriptions:
            started.append(self._clock())
            self._sns.unsubscribe(SubscriptionArn=subscription)
        yield self._by_probes("deleted subscription stops", started, topic, lets_in=False)

    def _policies(self, topic: str) -> Iterator[Lag]:
        """Of queues whose subscriptions are known to act."""
        for what, allowed, lets_in in (
            ("queue policy keeps messages out", f"{self._any_topic(topic)}nothing", False),
            (POLICY_ACTS, self._any_topic(topic), True),
        ):
            started = []
            for queue in self._queues:
                started.append(self._clock())
                self._let_in(queue, allowed)
            yield self._by_probes(what, started, topic, lets_in=lets_in, assumed_s=Timings().attributes_s)

    def _filters(self, topic: str) -> Iterator[Lag]:
        for what, kind, lets_in in ((FILTER_KEEPS_OUT, "other", False), (FILTER_ACTS, "probe", True)):
            started = []
            for subscription in self._subscriptions_of_one:
                started.append(self._clock())
                self._sns.set_subscription_attributes(
                    SubscriptionArn=subscription,
                    AttributeName="FilterPolicy",
                    AttributeValue=json.dumps({"kind": [kind]}),
                )
            yield self._by_probes(
                what, started, topic, lets_in=lets_in, limit_s=_FILTER_LIMIT_S, assumed_s=SLOW.filters_act_s
            )

    def _deleted_queues(self) -> Lag:
        queues = self._make_queues("deleted", SAMPLES)
        self._sleep(_READY_S)

        def is_gone(queue: _Queue) -> bool:
            try:
                self._sqs.send_message(QueueUrl=queue.url, MessageBody="to a deleted queue")
            except ClientError as exc:
                if _is_missing(exc):
                    return True
                raise
            return False

        return self._by_reads(
            "deleted queue refuses messages",
            lambda queue: self._sqs.delete_queue(QueueUrl=queue.url),
            is_gone,
            queues=queues,
            assumed_s=60.0,
        )

    # --- how

    def _by_reads(
        self,
        what: str,
        write: Callable[[_Queue], object],
        look: Callable[[_Queue], bool | None],
        *,
        assumed_s: float,
        queues: list[_Queue] | None = None,
        pause_s: float = 0.0,
    ) -> Lag:
        queues = self._queues if queues is None else queues
        started: list[float] = []
        seen: list[list[Seen]] = [[] for _ in queues]

        def look_at(number: int) -> float | None:
            is_new = look(queues[number])
            seen[number].append(Seen(self._clock(), is_new))
            self._sleep(pause_s)
            return new_since(seen[number])

        for number, queue in enumerate(queues):
            started.append(self._clock())
            write(queue)
            look_at(number)
        return self._watched(what, started, lambda: None, look_at, _READ_LIMIT_S, assumed_s)

    def _by_probes(
        self,
        what: str,
        started: list[float],
        topic: str,
        *,
        lets_in: bool,
        limit_s: float = _ACT_LIMIT_S,
        assumed_s: float | None = None,
    ) -> Lag:
        probes: list[Probe] = []

        def look_at(number: int) -> float | None:
            queue = self._queues[number]
            self._receive(queue)
            now = self._clock()
            seen = judged(probes, queue.arrived, is_new_if_arrived=lets_in, now=now, patience_s=_PATIENCE_S)
            return new_since(seen)

        return self._watched(what, started, lambda: probes.append(self._publish(topic)), look_at, limit_s, assumed_s)

    def _watched(
        self,
        what: str,
        started: list[float],
        before: Callable[[], None],
        look_at: Callable[[int], float | None],
        limit_s: float,
        assumed_s: float | None,
    ) -> Lag:
        """Look at each sample in turn until it is steadily new, or the limit is over."""
        found: dict[int, float] = {}
        limit_s = min(limit_s, self._longest_s)
        while len(found) < len(started):
            elapsed_s = self._clock() - started[0]
            if elapsed_s > limit_s:
                break
            before()
            for number in range(len(started)):
                since = look_at(number) if number not in found else None
                if since is not None:
                    found[number] = since - started[number]
            if len(found) < len(started):
                self._sleep(pause_after_s(elapsed_s))
        samples = tuple(found[number] for number in sorted(found))
        return self._told(Lag(what, samples, len(started) - len(found), limit_s, assumed_s))

    def _told(self, lag: Lag) -> Lag:
        worst = "-" if lag.worst_s is None else f"{lag.worst_s:.1f} s"
        self._say(f"{lag.what}: {worst} at worst" + (f", {lag.missed} not seen" if lag.missed else ""))
        return lag

    def _rate(self, operation: str, call: Callable[[], object]) -> Rate:
        accepted: list[float] = []
        refused: list[float] = []
        started = self._clock()

        def repeat(_: int) -> None:
            while self._clock() - started < _RATE_FOR_S:
                try:
                    call()
                except ClientError as exc:
                    if not _is_throttled(exc):
                        raise
                    refused.append(self._clock())
                else:
                    accepted.append(self._clock() - started)
                self._sleep(_RATE_THREADS / _RATE_PER_S)

        with ThreadPoolExecutor(_RATE_THREADS) as pool:
            list(pool.map(repeat, range(_RATE_THREADS)))
        rate = Rate(operation, tuple(sorted(accepted)), len(refused), _RATE_FOR_S, float(SLOW.tags_per_s))
        self._say(f"{operation}: {rate.per_s:.0f} accepted a second, {rate.refused} refused")
        return rate

    # --- calls

    def _topic(self, name: str) -> str:
        return str(self._sns.create_topic(Name=f"{self._run}-{name}")["TopicArn"])

    def _any_topic(self, topic: str) -> str:
        """What the ARNs of all topics of this run match."""
        return f"{topic.rpartition(':')[0]}:{self._run}-*"

    def _make_queues(self, name: str, count: int) -> list[_Queue]:
        made = []
        for number in range(count):
            url = self._sqs.create_queue(QueueName=f"{self._run}-{name}-{number}")["QueueUrl"]
            found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
            made.append(_Queue(url, found["QueueArn"]))
        return made

    def _let_in(self, queue: _Queue, topics: str) -> None:
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue.arn,
            "Condition": {"ArnLike": {"aws:SourceArn": topics}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self._sqs.set_queue_attributes(QueueUrl=queue.url, Attributes={"Policy": policy})

    def _subscribe(self, topic: str, queue: _Queue) -> str:
        answer = self._sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=queue.arn,
            Attributes={"RawMessageDelivery": "true"},
            ReturnSubscriptionArn=True,
        )
        return str(answer["SubscriptionArn"])

    def _publish(self, topic: str) -> Probe:
        self._published += 1
        kind = {"kind": {"DataType": "String", "StringValue": "probe"}}
        self._sns.publish(TopicArn=topic, Message=str(self._published), MessageAttributes=kind)
        return Probe(self._published, self._clock())

    def _receive(self, queue: _Queue, wait_s: int = 0) -> None:
        while True:
            answer = self._sqs.receive_message(
                QueueUrl=queue.url, MaxNumberOfMessages=10, WaitTimeSeconds=wait_s, VisibilityTimeout=_HIDDEN_S
            )
            messages = answer.get("Messages", ())
            queue.arrived.update(int(message["Body"]) for message in messages)
            if wait_s or not messages:
                return


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code"))


def _is_missing(exc: ClientError) -> bool:
    return "NonExistentQueue" in _code(exc) or "QueueDoesNotExist" in _code(exc)


def _is_throttled(exc: ClientError) -> bool:
    return "Throttl" in _code(exc)
