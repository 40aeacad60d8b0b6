"""Proves that SNS delivers: with messages and queues of its own, and the policies and filters of the real ones.

What is sent where
    Nothing is published to a topic that others are subscribed to: a queue without a filter gets everything of its
    topic, and a consumer of ``sqs://`` or a foreign one would stumble over a probe. Nor is anything received from a
    queue that others consume. So the probe makes a topic and queues of its own, in the namespace of the app. Each queue
    is a copy of a real one as far as deliveries go: the same policy (its own ARN and that of the probe's topic in place
    of the real ones), the same encryption, and a subscription with the same filter, scope and raw delivery. Queues that
    are alike share one copy. Beside them is a control: a queue that allows the topic, without a filter.

What it proves
    That SNS delivers to a queue with this policy, key and filter a message with a key that the app binds; that these
    credentials may create, subscribe, publish, receive and delete. Not the real topic's own access policy, nor that the
    real subscription exists: these are read.

Late effects
    A policy acts up to a minute late and a filter up to fifteen, and what SNS discards before leaves no trace. So a
    message is published again and again until its copy arrives, or the time is over. Then it is told whether AWS may
    still be late, or the message should have arrived.

What is left
    Everything is removed at the end, also after an error. Of a probe that was killed, `hake janitor` removes all of it:
    the queues are temporary ones, and the topic has the name of one of them, the control. That queue is created before
    the topic and deleted after it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias
from uuid import uuid4

from kombu_hake.admin.check.facts import Expected, Facts
from kombu_hake.admin.check.findings import Finding, found
from kombu_hake.amqp import (
    FIFO_SUFFIX,
    MAX_BATCH_ENTRIES,
    PRIORITY_ATTRIBUTE,
    SNS_FILTER_SETTLE_S,
    SQS_ATTRIBUTES_SETTLE_S,
    Binding,
    Kind,
    PolicyUnreadable,
    judged_policy,
    level_of,
    matches_wildcard,
    message_attributes,
    ownership,
    parse_arn,
    read_object,
)
from kombu_hake.aws import Clients
from kombu_hake.exceptions import HakeError
from kombu_hake.topology import Home, SnsSubscription, covers, own_tags, retention_s

__all__ = ["Probe", "Probed", "of_probes"]

Outcome: TypeAlias = Literal["delivered", "late", "undelivered", "failed"]
#: Kinds of subscriptions that are tried at a time; each needs a queue.
_KINDS_MOST = 20
#: Between two publishes of the same message, seconds: the first, and the longest.
_AGAIN_S = 2.0
_AGAIN_MOST_S = 15.0
_POLL_S = 1
#: How long after its wait a probe may still use its queues.
_LIMIT_S = 1_800.0
_NAME = ownership.PROBE
#: Of the two ways to encrypt a queue, AWS takes one.
_COPIED = (("KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds"), ("SqsManagedSseEnabled",))


@dataclass(frozen=True)
class Probed:
    """The result of a probe of one kind of subscription.

    Attributes:
        subscriptions: ``queue <- exchange`` of each real subscription of this kind.
        outcome: ``delivered``; ``late``: AWS may still act on a new policy or filter; ``undelivered``; ``failed``: it
            could not be tried.
        seconds: Time until it was delivered, or until the probe gave up.
        reason: Why it was not delivered, as far as it is known.
    """

    subscriptions: tuple[str, ...]
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Kind:
    """What matters of a subscription for deliveries."""

    is_fifo_topic: bool
    topic_key: str
    is_fifo: bool
    attributes: tuple[tuple[str, str], ...] = ()
    #: With placeholders for ARNs.
    policy: str = ""
    subscription: tuple[tuple[str, str], ...] = ()


@dataclass
class _Copy:
    """A queue of the probe."""

    kind: _Kind
    message: dict[str, dict[str, str]]
    #: The subscriptions that it stands for.
    names: list[str] = field(default_factory=list)
    #: The first of them, and the policy of its queue; None for the control.
    real: SnsSubscription | None = None
    real_policy: str = ""
    name: str = ""
    arn: str = ""
    url: str = ""
    policy: str = ""
    token: str = field(default_factory=lambda: uuid4().hex)
    arrived_s: float | None = None

    @property
    def filter(self) -> str:
        return dict(self.kind.subscription).get("FilterPolicy", "{}")


class Probe:
    """One probe. Not safe for concurrent use by threads."""

    def __init__(
        self,
        clients: Clients,
        home: Home,
        *,
        is_late: bool,
        on_progress: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            is_late: Whether changes act late, as in AWS; an emulator on this machine acts at once.
        """
        self._clients = clients
        self._settings = clients.settings
        self._home = home
        self._is_late = is_late
        self._report = on_progress
        self._clock = clock
        self._made: list[tuple[str, str]] = []

    def run(self, expected: Expected, facts: Facts, wait_s: float) -> list[Probed]:
        """Try each kind of subscription of the app; waits for *wait_s* at most, and removes what it made."""
        by_topic: dict[tuple[bool, str], list[_Copy]] = {}
        for copy in _copies(expected, facts).values():
            by_topic.setdefault((copy.kind.is_fifo_topic, copy.kind.topic_key), []).append(copy)
        if not by_topic:
            self._report("There is no subscription to probe.")
        results: list[Probed] = []
        for (is_fifo, key), copies in by_topic.items():
            for start in range(0, len(copies), _KINDS_MOST):
                results += self._tried(is_fifo, key, copies[start : start + _KINDS_MOST], wait_s)
        return results

    def _tried(self, is_fifo: bool, key: str, copies: list[_Copy], wait_s: float) -> list[Probed]:
        """As :meth:`_try`, with everything removed afterwards."""
        results: list[Probed] = []
        try:
            results += self._try(is_fifo, key, copies, wait_s)
        except HakeError as exc:
            results += [Probed(tuple(copy.names), "failed", reason=str(exc)) for copy in copies]
        finally:
            results += self._remove()
        return results

    # --- one topic

    def _try(self, is_fifo: bool, key: str, copies: list[_Copy], wait_s: float) -> Iterator[Probed]:
        control = _Copy(_Kind(is_fifo, key, is_fifo), copies[0].message)
        for copy in (control, *copies):
            copy.name = self._settings.namer.incarnation(_NAME + (FIFO_SUFFIX if copy.kind.is_fifo else ""))
            copy.arn = str(self._home.queue_arn(copy.name))
        topic = str(self._home.topic_arn(control.name))
        for copy in (control, *copies):
            self._queue(copy, topic, wait_s)
        self._topic(control.name, is_fifo, key)
        for copy in (control, *copies):
            self._subscribe(copy, topic)
        self._wait(topic, is_fifo, control, copies, wait_s)
        for copy in copies:
            yield self._judged(copy, topic, control, wait_s)

    def _topic(self, name: str, is_fifo: bool, key: str) -> None:
        attributes = {"FifoTopic": "true"} if is_fifo else {}
        attributes |= {"KmsMasterKeyId": key} if key else {}
        self._report(f"Creating topic {name}.")
        answer = self._clients.sns("create_topic", Name=name, Attributes=attributes)
        self._made.append(("topic", str(answer["TopicArn"])))

    def _queue(self, copy: _Copy, topic: str, wait_s: float) -> None:
        own = {
            "Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage",
            "Resource": copy.arn, "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
        }  # fmt: skip
        if copy.real is not None:
            copy.policy = _with_arns(copy.real_policy, {copy.real.queue_arn: copy.arn, copy.real.topic_arn: topic})
        else:
            copy.policy = json.dumps({"Version": "2012-10-17", "Statement": [own]})
        attributes = {
            **dict(copy.kind.attributes),
            **({"FifoQueue": "true"} if copy.kind.is_fifo else {}),
            **({"Policy": copy.policy} if copy.policy else {}),
            "MessageRetentionPeriod": retention_s(self._settings, is_temporary=True),
        }
        tags = own_tags(self._settings) | ownership.kind_tag(Kind(auto_delete=True))
        now_s = self._clients.now_ms() / 1000
        tags |= ownership.user_tag(copy.token[:8], now_s, wait_s + _LIMIT_S, _NAME)
        self._report(f"Creating queue {copy.name}.")
        answer = self._clients.sqs("create_queue", QueueName=copy.name, Attributes=attributes, tags=tags)
        copy.url = str(answer["QueueUrl"])
        self._made.append(("queue", copy.url))

    def _subscribe(self, copy: _Copy, topic: str) -> None:
        subscribed = dict(copy.kind.subscription) or {"RawMessageDelivery": "true"}
        answer = self._clients.sns(
            "subscribe", TopicArn=topic, Protocol="sqs", Endpoint=copy.arn, Attributes=subscribed,
            ReturnSubscriptionArn=True,
        )  # fmt: skip
        self._made.append(("subscription", str(answer["SubscriptionArn"])))

    def _wait(self, topic: str, is_fifo: bool, control: _Copy, copies: list[_Copy], wait_s: float) -> None:
        """Publish and receive until each copy got its message, or the time is over."""
        start = self._clock()
        pause_s, again_at = _AGAIN_S, start
        waiting = [control, *copies]
        while waiting:
            now = self._clock()
            if now >= again_at:
                self._report(
                    f"{len(waiting)} of {len(copies) + 1} queues wait for their message after {now - start:.0f} s."
                )
                for copy in waiting:
                    self._publish(topic, copy, is_fifo)
                again_at, pause_s = now + pause_s, min(_AGAIN_MOST_S, pause_s * 2)
            for copy in waiting:
                self._receive(copy, start)
            waiting = [copy for copy in waiting if copy.arrived_s is None]
            if self._clock() - start > wait_s:
                return

    def _publish(self, topic: str, copy: _Copy, is_fifo: bool) -> None:
        params: dict[str, Any] = {"MessageGroupId": _NAME, "MessageDeduplicationId": uuid4().hex} if is_fifo else {}
        text = json.dumps({_NAME: copy.token})
        self._clients.sns("publish", TopicArn=topic, Message=text, MessageAttributes=copy.message, **params)

    def _receive(self, copy: _Copy, start: float) -> None:
        answer = self._clients.sqs(
            "receive_message", QueueUrl=copy.url, MaxNumberOfMessages=MAX_BATCH_ENTRIES, WaitTimeSeconds=_POLL_S,
            VisibilityTimeout=30,
        )  # fmt: skip
        messages = answer.get("Messages") or []
        if any(copy.token in message["Body"] for message in messages):
            copy.arrived_s = self._clock() - start
        entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
        if entries:
            self._clients.sqs("delete_message_batch", QueueUrl=copy.url, Entries=entries)

    def _judged(self, copy: _Copy, topic: str, control: _Copy, wait_s: float) -> Probed:
        if copy.arrived_s is not None:
            return Probed(tuple(copy.names), "delivered", round(copy.arrived_s, 1))
        reason = _known_reason(copy, topic)
        settles_s = SNS_FILTER_SETTLE_S if copy.filter != "{}" else SQS_ATTRIBUTES_SETTLE_S
        is_over = not self._is_late or wait_s >= settles_s
        if not reason and control.arrived_s is None:
            reason = "Not even a queue that allows the topic and has no filter received its message."
            is_over = not self._is_late or wait_s >= SQS_ATTRIBUTES_SETTLE_S
        elif reason:
            is_over = True
        return Probed(tuple(copy.names), "undelivered" if is_over else "late", wait_s, reason)

    def _remove(self) -> Iterator[Probed]:
        """Remove what was made, in reverse. What cannot be removed is a result of its own."""
        calls: Mapping[str, Callable[[str], object]] = {
            "subscription": lambda arn: self._clients.sns("unsubscribe", SubscriptionArn=arn),
            "queue": lambda url: self._clients.sqs("delete_queue", QueueUrl=url),
            "topic": lambda arn: self._clients.sns("delete_topic", TopicArn=arn),
        }
        failed = []
        kept = ""
        while self._made:
            kind, address = self._made.pop()
            if kind == "queue" and kept and address.endswith(f"/{kept}"):
                continue  # `hake janitor` finds the topic by this queue
            try:
                calls[kind](address)
            except HakeError as exc:
                failed.append(Probed((), "failed", reason=f"The {kind} {address} could not be removed: {exc}"))
                kept = parse_arn(address).name if kind == "topic" else kept
        return iter(failed)


def of_probes(probed: Iterable[Probed]) -> Iterator[Finding]:
    """One finding for each kind of subscription that nothing was delivered of."""
    codes: Mapping[Outcome, str] = {"late": "probe-late", "undelivered": "probe-undelivered", "failed": "probe-failed"}
    for one in probed:
        if one.outcome == "delivered":
            continue
        names = ", ".join(one.subscriptions[:3]) + (", …" if len(one.subscriptions) > 3 else "")
        waited = f" in {one.seconds:.0f} s" if one.seconds else ""
        what = {
            "late": f"A probe like {names} was not delivered{waited}.",
            "undelivered": f"A probe like {names} was not delivered{waited}.",
            "failed": f"The probe of {names} failed." if names else "The probe could not remove everything.",
        }[one.outcome]
        yield found(codes[one.outcome], one.subscriptions[0] if names else _NAME, f"{what} {one.reason}".strip())


# --- pure


def _copies(expected: Expected, facts: Facts) -> dict[_Kind, _Copy]:
    """The kinds of subscriptions that exist and can be read, each with a message that the app's bindings ask for."""
    copies: dict[_Kind, _Copy] = {}
    for wanted in expected.blueprint.subscriptions:
        topic, queue = facts.topics.get(wanted.topic_arn), facts.queues.get(wanted.queue_arn)
        seen = topic.of(wanted.queue_arn) if topic is not None else None
        if topic is None or seen is None or seen.attributes is None or queue is None or queue.attributes is None:
            continue
        policy = queue.attributes.get("Policy", "")
        placeholders = {wanted.queue_arn: "{queue}", wanted.topic_arn: "{topic}"}
        kind = _Kind(
            wanted.topic_arn.endswith(FIFO_SUFFIX),
            (topic.attributes or {}).get("KmsMasterKeyId", ""),
            wanted.queue_arn.endswith(FIFO_SUFFIX),
            _chosen(queue.attributes, _COPIED[0 if queue.attributes.get("KmsMasterKeyId") else 1]),
            _with_arns(policy, placeholders),
            _chosen(seen.attributes, ("FilterPolicy", "FilterPolicyScope", "RawMessageDelivery")),
        )
        if kind not in copies:
            copies[kind] = _Copy(kind, _message(expected, wanted), [], wanted, policy)
        level = expected.level(wanted)
        name = f"{wanted.owner} (level {level})" if level else wanted.owner
        copies[kind].names.append(f"{name} <- {wanted.exchange}")
    return copies


def _chosen(attributes: Mapping[str, str], names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, attributes[name]) for name in names if attributes.get(name, "{}") not in ("", "{}"))


def _message(expected: Expected, wanted: SnsSubscription) -> dict[str, dict[str, str]]:
    """Attributes of a message that the queue is bound to get, as a publisher sets them."""
    own = expected.own_bindings(wanted.owner)
    binding = min(own.for_exchange(wanted.exchange), default=Binding(wanted.exchange, "fanout"))
    headers = None
    if binding.exchange_type == "headers":
        headers = {name: "probe" if value is None else value for name, value in binding.arguments if name != "x-match"}
    texts = message_attributes(_key(binding), headers)
    attributes = {name: {"DataType": "String", "StringValue": text} for name, text in texts.items()}
    level, highest = expected.level(wanted), own.max_priority
    arguments = {"x-max-priority": highest}
    fitting = [p for p in range(1, highest + 1) if level_of(p, wanted.owner, arguments) == level] if level else []
    if fitting:
        attributes[PRIORITY_ATTRIBUTE] = {"DataType": "Number", "StringValue": str(fitting[0])}
    return attributes


def _key(binding: Binding) -> str:
    """A routing key that a binding matches."""
    if binding.exchange_type != "topic":
        return binding.routing_key
    words = ["probe" if word == "*" else word for word in binding.routing_key.split(".") if word != "#"]
    return ".".join(words) or "probe"


def _with_arns(policy: str, replaced: Mapping[str, str]) -> str:
    """A policy with ARNs, and patterns that match them and not what replaces them, replaced; unreadable: unchanged."""

    def walked(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: walked(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [walked(inner) for inner in value]
        for old, new in replaced.items() if isinstance(value, str) else ():
            is_pattern_of_both = matches_wildcard(value, new, question_mark=True)
            if matches_wildcard(value, old, question_mark=True) and not is_pattern_of_both:
                return new
        return value

    try:
        return json.dumps(walked(read_object(policy))) if policy else ""
    except ValueError:
        return policy


def _known_reason(copy: _Copy, topic: str) -> str:
    """Why a message is not delivered, if policy or filter tell; ``""``: they should let it pass."""
    try:
        judged = judged_policy(copy.policy, copy.arn, topic)
    except PolicyUnreadable as exc:
        return str(exc)
    if not judged.allowed_by:
        return "The queue's policy does not allow the topic."
    if judged.denied_by:
        return f"The queue's policy denies it (statement {judged.denied_by[0]})."
    if dict(copy.kind.subscription).get("FilterPolicyScope") == "MessageBody":
        return "The filter applies to the message body."
    needed = copy.real.attributes.get("FilterPolicy", "{}") if copy.real is not None else "{}"
    if not covers(copy.filter, needed):
        return "The filter does not pass what the queue is bound to."
    return ""
