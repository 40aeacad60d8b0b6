"""``topology=verify``: what was declared against what is there. Reads only; lists all that is missing or wrong.

Declaring takes note; the first consume or publish afterwards looks, because a filter can be judged only when all the
bindings of its queue are known. What was found right is not looked at again by this process. What may not be read is
said once, and does not count as a fault: a role that may only consume can't see the topics.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    Binding,
    QueueArn,
    QueueUrl,
    allows,
    canonical_json,
    compile_filter,
    excerpt,
    filter_json,
    main_queue,
    parse_arn,
    read_object,
    without_priorities,
)
from kombu_hake.aws import Clients, SingleFlight
from kombu_hake.exceptions import (
    AccessDenied,
    InvalidName,
    QueueNotFound,
    TopicNotFound,
    TopologyError,
    TopologyIncomplete,
)
from kombu_hake.quoting import guarded
from kombu_hake.topology.dead_queues import plan
from kombu_hake.topology.queues import AWS_MANAGED_KEY, Queues
from kombu_hake.topology.topics import Topics

__all__ = ["Verification"]

logger = guarded(logging.getLogger(__name__))
_QUEUE_ATTRIBUTES = ["QueueArn", "Policy", "RedrivePolicy", "KmsMasterKeyId"]

#: Exchange to its subscriptions, by endpoint: read once a check.
_Subscriptions = dict[str, dict[str, dict[str, str]]]


class Verification:
    """What this process declared and has not found right yet. Safe to share between threads."""

    def __init__(self, clients: Clients, queues: Queues, topics: Topics) -> None:
        self._clients = clients
        self._settings = clients.settings
        self._queues = queues
        self._topics = topics
        self._flights = SingleFlight()
        self._bindings: dict[str, dict[Binding, None]] = {}
        self._seen: dict[str, frozenset[Binding]] = {}
        self._due: dict[str, None] = {}
        self._unreadable: set[str] = set()
        self._unequal: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether anything waits to be looked at."""
        return bool(self._due)

    def expect_queue(self, queue: str) -> None:
        """A queue was declared."""
        if queue not in self._seen:
            self._due[queue] = None

    def expect_binding(self, queue: str, binding: Binding) -> None:
        """A queue was bound, to an exchange that needs a topic."""
        self._bindings.setdefault(queue, {})[binding] = None
        if binding not in self._seen.get(queue, ()):
            self._due[queue] = None

    def expect_no_more(self, queue: str, binding: Binding) -> None:
        """A queue was unbound."""
        self._bindings.get(queue, {}).pop(binding, None)

    def check(self) -> None:
        """Look at everything that was declared since the last check that found no fault.

        Raises:
            TopologyIncomplete: with every fault.
        """
        with self._flights("check"):
            faults: list[str] = []
            found: dict[str, frozenset[Binding]] = {}
            read: _Subscriptions = {}
            for queue in tuple(self._due):
                bindings = frozenset(tuple(self._bindings.get(queue, ())))
                of_queue = list(self._faults_of(queue, bindings, read))
                faults += of_queue
                if not of_queue:
                    found[queue] = bindings
            self._seen |= found
            for queue, bindings in found.items():
                if bindings == frozenset(tuple(self._bindings.get(queue, ()))):  # else more was bound meanwhile
                    del self._due[queue]
            if faults:
                raise TopologyIncomplete(faults)

    # --- looking

    def _faults_of(self, queue: str, bindings: frozenset[Binding], read: _Subscriptions) -> Iterator[str]:
        try:
            url = self._queues.url(queue)
            attributes = self._attributes(url)
        except QueueNotFound as exc:
            self._queues.forget(queue)
            yield str(exc)
            return
        except AccessDenied as exc:
            self._cannot_see(f"queue {queue!r}", exc)
            return
        yield from self._redrive_faults(queue, attributes)
        if bindings and attributes.get("KmsMasterKeyId") == AWS_MANAGED_KEY:
            yield (
                f"Queue {queue!r} is encrypted with {AWS_MANAGED_KEY}, a key that SNS cannot use: encrypt it with "
                "SSE-SQS, or a key of your own that allows sns.amazonaws.com."
            )
        for exchange in sorted({binding.exchange for binding in bindings}):
            of_exchange = {binding for binding in bindings if binding.exchange == exchange}
            yield from self._binding_faults(queue, exchange, of_exchange, attributes, read)

    def _attributes(self, url: QueueUrl) -> dict[str, str]:
        answer = self._clients.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=_QUEUE_ATTRIBUTES)
        return dict(answer.get("Attributes", {}))

    def _redrive_faults(self, queue: str, attributes: Mapping[str, str]) -> Iterator[str]:
        text = attributes.get("RedrivePolicy")
        try:
            target = read_object(text).get("deadLetterTargetArn")
            arn = parse_arn(target) if isinstance(target, str) and target else None
        except (ValueError, InvalidName):
            target, arn = text, None
        if target and arn is None:
            yield f"Queue {queue!r} has a redrive policy that names no dead-letter queue: {excerpt(text)}"
            return
        if arn is None:
            spec = self._queues.spec(queue)
            asked = plan(spec, self._settings) if spec is not None else None
            if asked is not None and asked.is_needed:
                yield (
                    f"Queue {queue!r} should have the dead-letter queue {asked.name!r}, but has no redrive policy: set "
                    f"one with a maxReceiveCount of {asked.max_receives}."
                )
            return
        try:
            self._clients.sqs("get_queue_url", QueueName=arn.name, QueueOwnerAWSAccountId=arn.account)
        except QueueNotFound:
            yield f"Queue {queue!r} has a redrive policy to {excerpt(target)}, which does not exist."
        except AccessDenied as exc:
            self._cannot_see(f"the dead-letter queue {excerpt(target)}", exc)

    def _binding_faults(
        self, queue: str, exchange: str, bindings: set[Binding], attributes: Mapping[str, str], read: _Subscriptions
    ) -> Iterator[str]:
        arn = QueueArn(attributes["QueueArn"])
        topic = self._topics.arn(exchange)
        if arn.endswith(FIFO_SUFFIX) and not topic.endswith(FIFO_SUFFIX):
            yield f"Queue {queue!r} is FIFO and the topic of exchange {exchange!r} is not: SNS cannot deliver to it."
        if not allows(attributes.get("Policy") or "", arn, topic):
            yield (
                f"The policy of queue {queue!r} does not allow {topic}, the topic of exchange {exchange!r}: allow "
                "sns.amazonaws.com sqs:SendMessage, with that topic as aws:SourceArn."
            )
        try:
            if exchange not in read:
                read[exchange] = {item["Endpoint"]: item for item in self._topics.subscriptions(exchange)}
        except TopicNotFound:
            yield f"Exchange {exchange!r} has no topic: there is no {topic}."
            return
        except AccessDenied as exc:
            self._cannot_see(f"the subscriptions of exchange {exchange!r}", exc)
            return
        found = read[exchange].get(arn)
        if found is None:
            yield f"Queue {queue!r} is not subscribed to exchange {exchange!r}: {topic} has no subscription of {arn}."
        elif not found["SubscriptionArn"].startswith("arn:"):
            yield f"The subscription of queue {queue!r} to exchange {exchange!r} waits to be confirmed."
        else:
            yield from self._subscription_faults(queue, exchange, bindings, found["SubscriptionArn"], read)

    def _subscription_faults(
        self, queue: str, exchange: str, bindings: set[Binding], arn: str, read: _Subscriptions
    ) -> Iterator[str]:
        try:
            found = self._clients.sns("get_subscription_attributes", SubscriptionArn=arn)["Attributes"]
        except AccessDenied as exc:
            self._cannot_see(f"the subscription of queue {queue!r} to exchange {exchange!r}", exc)
            return
        except TopologyError as exc:
            yield f"The subscription of queue {queue!r} to exchange {exchange!r} cannot be read: {exc}"
            return
        what = f"The subscription of queue {queue!r} to exchange {exchange!r} ({arn})"
        if found.get("RawMessageDelivery", "false").lower() != "true":
            yield f"{what} has no raw message delivery: set RawMessageDelivery to true."
        text, is_shared = without_priorities(found.get("FilterPolicy") or "{}")
        if text != "{}" and found.get("FilterPolicyScope", "MessageAttributes") != "MessageAttributes":
            yield f"{what} filters on the message body, which holds no routing key: filter on message attributes."
        elif text not in _expected_filters(bindings):
            self._warn_of_filter(what, text, bindings)
        if is_shared and queue == main_queue(queue):
            yield from self._level_faults(queue, exchange, bindings, read)

    def _level_faults(
        self, queue: str, exchange: str, bindings: set[Binding], read: _Subscriptions
    ) -> Iterator[str]:
        """Of the levels that the lowest one leaves the higher priorities to."""
        for number, name in enumerate(self._queues.levels(queue)[1:], 1):
            try:
                attributes = self._attributes(self._queues.url(name))
            except QueueNotFound:
                continue  # it was declared itself, and is told of there
            except AccessDenied as exc:
                self._cannot_see(f"a priority level of queue {queue!r}", exc)
                continue
            for fault in self._binding_faults(name, exchange, bindings, attributes, read):
                yield f"Of queue {queue!r}, priority level {number}: {fault}"

    def _warn_of_filter(self, what: str, text: str, bindings: set[Binding]) -> None:
        """Another filter than ours may be meant so: it may pass more, or be written differently."""
        if what not in self._unequal:
            self._unequal.add(what)
            keys = ", ".join(sorted(repr(binding.routing_key) for binding in bindings))
            logger.warning(
                "HAKE317 %s has the filter policy %s, but its bindings (%s) give %s. Check that it passes everything "
                "that is bound: messages that it does not pass are lost. Use the policy that the bindings give, or "
                "none.",
                what, excerpt(text), keys, filter_json(compile_filter(bindings)),
            )  # fmt: skip

    def _cannot_see(self, what: str, exc: AccessDenied) -> None:
        if what not in self._unreadable:
            self._unreadable.add(what)
            logger.warning("HAKE318 topology=verify cannot check %s and assumes that it is correct: %s", what, exc)


def _expected_filters(bindings: set[Binding]) -> set[str]:
    """The filter policies that this package writes for the bindings, with and without wildcards; ``{}`` is none."""
    policies = (compile_filter(bindings, wildcards=wildcards).policy for wildcards in (True, False))
    return {"{}", *(canonical_json(policy or {}) for policy in policies)}
