"""Exchanges, queues and bindings: declare, bind, unbind, delete. Idempotent, and cheap when repeated.

Where the set of bindings lives
    With the queue, as one tag a binding. SQS and SNS offer no compare-and-set, so "read, merge, write" of a policy
    loses one of two concurrent declares; adding a tag does not. Whoever binds adds its tag first, then compiles policy
    and filters from *all* tags, writes what differs, and reads the tags again until they stay as they were. So the
    last of several writers has seen every tag.

Order
    Tag, queue policy, subscription: a message that SNS accepted is never refused by the queue.

Cost
    A queue that is all there: GetQueueUrl, and for each queue with a topic ListQueueTags (twice), GetQueueAttributes,
    and for each exchange Subscribe and GetSubscriptionAttributes; once a process. A binding that this process applied
    before costs nothing.
"""

from __future__ import annotations

import logging
import time

from kombu_hake.bindings import MAX_BINDING_TAGS, Binding, BindingSet, ExchangeType, from_tags, overflow_tags, to_tags
from kombu_hake.clients import Clients
from kombu_hake.concurrency import SingleFlight, TtlCache
from kombu_hake.exceptions import AccessDenied, DeclarationMismatch, HakeError, TopologyError
from kombu_hake.naming import QueueArn, QueueUrl, TopicArn, parse_arn, queue_account
from kombu_hake.policy import allows, namespace_policy, queue_policy
from kombu_hake.queues import Queues, QueueSpec
from kombu_hake.routing import compile_filter, filter_json
from kombu_hake.settings import Settings
from kombu_hake.topics import Topics

__all__ = ["PRIVATE_EXCHANGE", "Topology", "is_reply_exchange", "reply_queue"]

logger = logging.getLogger(__name__)
#: Publishing here is a SendMessage to the queue that the routing key names; declaring it does nothing.
PRIVATE_EXCHANGE = "hake.queue"
#: Two declarers that keep on changing one queue at once; each round is a handful of calls.
_MAX_ROUNDS = 8
#: How often the bindings are read again because a message matches none that are known.
_REFRESH_S = 30.0
#: How long a binding that was seen is believed when it is declared again: somebody may delete and re-create the queue.
_BELIEVE_S = 60.0


def is_reply_exchange(exchange: str) -> bool:
    """Whether kombu's mailbox sends replies to this exchange: they go straight to a queue, with no SNS in between."""
    return exchange.startswith("reply.") and exchange.endswith(".pidbox")


def reply_queue(exchange: str, routing_key: str) -> str:
    """The queue that waits for replies (``kombu/pidbox.py``, ``Mailbox.get_reply_queue``)."""
    return f"{routing_key}.{exchange}"


class Topology:
    """Makes AWS look as declared. One per process and settings; safe to share between threads."""

    def __init__(self, clients: Clients, settings: Settings) -> None:
        self.queues = Queues(clients, settings)
        self.topics = Topics(clients, settings)
        self._clients = clients
        self._settings = settings
        self._flights = SingleFlight()
        self._types: dict[str, ExchangeType] = {}
        self._applied: dict[str, BindingSet] = {}
        self._applied_at: dict[str, float] = {}
        self._subscribed: dict[tuple[str, str], str] = {}
        self._denied: dict[str, AccessDenied] = {}
        self._refreshed: TtlCache[str, BindingSet | None] = TtlCache(_REFRESH_S)

    # --- exchanges

    def declare_exchange(self, exchange: str, exchange_type: ExchangeType) -> None:
        """Take note of an exchange's type. Its topic is made by the first binding or publish.

        Raises:
            DeclarationMismatch: this process declared it with another type.
        """
        known = self._types.setdefault(exchange, exchange_type)
        if known != exchange_type:
            raise DeclarationMismatch(
                f"Exchange {exchange!r} was declared as {known} and can't become {exchange_type}: delete it first, or "
                "use another name."
            )

    def exchange_type(self, exchange: str) -> ExchangeType | None:
        """The type this process declared, if it did."""
        return self._types.get(exchange)

    def denied(self, exchange: str) -> AccessDenied | None:
        """Why this exchange is off in this process; None when it is not."""
        return self._denied.get(exchange)

    def give_up(self, exchange: str, exc: AccessDenied) -> None:
        """Do without an exchange whose topic may not be used, and say so once."""
        if exchange in self._denied:
            return
        self._denied[exchange] = exc
        if self._settings.is_best_effort(exchange):
            logger.warning(
                "%s is off, because %s is denied: %s Remote control or events do not work in this process.",
                exchange, exc.action, exc,
            )
        else:
            logger.warning(
                "Exchange %s can't be used by name, because %s is denied; its queues still get what is sent to them "
                "directly, and publishing to the exchange raises: %s",
                exchange, exc.action, exc,
            )

    # --- queues

    def declare_queue(self, spec: QueueSpec, *, physical: str | None = None) -> None:
        """Find or create a queue; as :meth:`kombu_hake.queues.Queues.declare`."""
        if physical is not None:
            self.forget(spec.name)  # an earlier incarnation
        if self.queues.declare(spec, physical=physical):
            self._forget_bindings(spec.name)

    # --- bindings

    def needs_topic(self, queue: str, binding: Binding) -> bool:
        """Whether a binding is anything in SNS, or is had by sending to the queue itself."""
        exchange = binding.exchange
        if not exchange or exchange == PRIVATE_EXCHANGE or is_reply_exchange(exchange):
            return False
        is_own = binding.exchange_type == "direct" and exchange == queue == binding.routing_key
        return not (is_own and self._settings.direct_exchanges == "auto")

    def bind(self, queue: str, binding: Binding) -> None:
        """Let the queue have what the binding says. The queue must exist.

        AWS itself may take a minute to act on a new queue policy, and a quarter of an hour on a changed filter.

        Raises:
            AccessDenied: and nothing shows that the binding is there already. Not for an exchange that the user can do
                without, nor for a direct one: those are given up, with one warning.
            QueueNotFound: the queue does not exist.
        """
        if not self.needs_topic(queue, binding) or self._is_applied(queue, binding):
            return
        try:
            with self._flights(queue):
                if not self._is_applied(queue, binding):
                    self._bind(queue, binding)
        except AccessDenied as exc:
            if exc.action.startswith("sns:") and (
                self._settings.is_best_effort(binding.exchange) or binding.exchange_type == "direct"
            ):
                self.give_up(binding.exchange, exc)
            elif not self._seems_bound(queue, binding):
                raise
            else:
                logger.info("Queue %s is taken as bound to %s: %s", queue, binding.exchange, exc)

    def unbind(self, queue: str, binding: Binding) -> None:
        """Undo :meth:`bind`; a binding that is not there is fine."""
        if not self.needs_topic(queue, binding):
            return
        with self._flights(queue):
            url = self.queues.url(queue)
            keys = [key for key in to_tags(binding) if key in self._tags(url)]
            if keys:
                self._clients.sqs("untag_queue", QueueUrl=url, TagKeys=keys)
            self._applied.pop(queue, None)
            wanted = self._apply_until_stable(queue, url, without=binding)
            if binding.exchange not in wanted.exchanges():
                self._unsubscribe(queue, self.queues.arn(url), binding.exchange)

    def bindings(self, queue: str) -> BindingSet:
        """The bindings of a queue as its tags say now."""
        return from_tags(self._tags(self.queues.url(queue)))

    def make_again(self, queue: str) -> QueueUrl | None:
        """Declare a queue again that somebody deleted, bindings included; None if this process never declared it."""
        known = self._applied.get(queue)
        spec = self.queues.spec(queue)
        self.forget(queue)
        if spec is None or queue in self._settings.predefined_queues:
            return None
        self.declare_queue(spec)
        url = self.queues.url(queue)
        logger.error("Queue %s was deleted by somebody; it was declared here, so it has been made again.", queue)
        if known is not None:
            for binding in sorted(known.bindings):
                self.bind(queue, binding)
            for exchange in sorted(known.unfiltered):
                self._clients.sqs("tag_queue", QueueUrl=url, Tags=overflow_tags(exchange, self._types[exchange]))
                self._apply_until_stable(queue, url)
        return url

    def known_bindings(self, queue: str) -> BindingSet | None:
        """The bindings that this process last saw; no call."""
        return self._applied.get(queue)

    def refreshed_bindings(self, queue: str) -> BindingSet | None:
        """The bindings as they are now, at most half a minute old; None where the tags can't be read."""
        return self._refreshed.get(queue, lambda: self._refresh(queue))

    def _refresh(self, queue: str) -> BindingSet | None:
        try:
            found = self._applied[queue] = self.bindings(queue)
        except HakeError as exc:
            logger.info("The bindings of queue %s can't be read, so what is in doubt is delivered: %s", queue, exc)
            return None
        return found

    def list_bindings(self) -> list[tuple[str, str, str]]:
        """(queue, exchange, routing key) of every binding that this process knows."""
        return [
            (queue, binding.exchange, binding.routing_key)
            for queue, known in sorted(self._applied.items())
            for binding in sorted(known.bindings)
        ]

    # --- removal

    def forget(self, queue: str) -> None:
        """Forget what is known of a queue: another one has its logical name now."""
        self.queues.forget(queue)
        self._forget_bindings(queue)

    def _forget_bindings(self, queue: str) -> None:
        self._applied.pop(queue, None)
        self._applied_at.pop(queue, None)
        for key in [key for key in self._subscribed if key[0] == queue]:
            del self._subscribed[key]

    def delete_queue(self, queue: str) -> None:
        """Delete a queue and its subscriptions; a queue that is gone is fine."""
        try:
            url = self.queues.url(queue)
            arn = self.queues.arn(url)
            for exchange in self._exchanges_of(queue, url):
                self._unsubscribe(queue, arn, exchange)
            self.queues.delete(queue)
        finally:
            self.forget(queue)

    def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange's topic, unless subscriptions that are not ours hang on it; remove ours."""
        self._types.pop(exchange, None)
        self._denied.pop(exchange, None)
        foreign = 0
        try:
            subscriptions = list(self.topics.subscriptions(exchange))
        except TopologyError as exc:
            logger.debug("Exchange %s has nothing to delete: %s", exchange, exc)
            return
        own = parse_arn(self.topics.arn(exchange))
        for item in subscriptions:
            if item["Protocol"] != "sqs" or not self._unbind_all(exchange, QueueArn(item["Endpoint"]), own.account):
                foreign += 1
        if foreign:
            logger.warning("The topic of exchange %s is kept: %d subscriptions of others use it.", exchange, foreign)
        else:
            self.topics.delete(exchange)

    # --- inside

    def _is_applied(self, queue: str, binding: Binding) -> bool:
        known = self._applied.get(queue)
        if time.monotonic() - self._applied_at.get(queue, float("-inf")) > _BELIEVE_S:
            return False
        return known is not None and (binding in known.bindings or binding.exchange in known.unfiltered)

    def _bind(self, queue: str, binding: Binding) -> None:
        url = self.queues.url(queue)
        self.topics.learn_account(queue_account(url))
        tags = self._tags(url)
        current = from_tags(tags)
        if binding not in current.bindings and binding.exchange not in current.unfiltered:
            self._record(queue, url, tags, binding)
        self._apply_until_stable(queue, url, with_=binding)

    def _tags(self, url: QueueUrl) -> dict[str, str]:
        return dict(self._clients.sqs("list_queue_tags", QueueUrl=url).get("Tags") or {})

    def _record(self, queue: str, url: QueueUrl, tags: dict[str, str], binding: Binding) -> None:
        new = to_tags(binding)
        taken = sum(1 for key in tags if key.startswith("hake:b:"))
        if taken + len(new) > MAX_BINDING_TAGS:
            logger.warning(
                "Queue %s has %d bindings, and AWS lets a queue have about fifty tags: it now gets everything that is "
                "published to exchange %s. Bind fewer keys, use a pattern, or use more queues.",
                queue, taken, binding.exchange,
            )
            new = overflow_tags(binding.exchange, binding.exchange_type)
        self._clients.sqs("tag_queue", QueueUrl=url, Tags=new)

    def _apply_until_stable(
        self, queue: str, url: QueueUrl, *, with_: Binding | None = None, without: Binding | None = None
    ) -> BindingSet:
        """Compile and write until the tags stay as they were and the policy reads as written."""
        applied: BindingSet | None = None
        for _ in range(_MAX_ROUNDS):
            wanted = from_tags(self._tags(url))
            # Tags may be read from a copy that lags behind: what we did ourselves is certain.
            bindings = (wanted.bindings | ({with_} if with_ else set())) - ({without} if without else set())
            wanted = BindingSet(frozenset(bindings), wanted.unfiltered)
            if wanted == applied and not self._write_policy(queue, url, wanted):
                break
            self._apply(queue, url, wanted)
            applied = wanted
        else:
            logger.warning("The bindings of queue %s keep changing; others are at work on it too.", queue)
        self._applied[queue] = wanted
        self._applied_at[queue] = time.monotonic()
        return wanted

    def _apply(self, queue: str, url: QueueUrl, wanted: BindingSet) -> None:
        self._write_policy(queue, url, wanted)
        for exchange in sorted(wanted.exchanges()):
            self._subscribe(queue, self.queues.arn(url), exchange, wanted)

    def _write_policy(self, queue: str, url: QueueUrl, wanted: BindingSet) -> bool:
        """Write the queue policy if it differs; whether it did."""
        existing = self.queues.policy(url)
        arn = self.queues.arn(url)
        topic_arns = [self.topics.arn(exchange) for exchange in sorted(wanted.exchanges())]
        if self._settings.queue_policy == "namespace" and topic_arns:
            own = parse_arn(topic_arns[0])
            pattern = str(own._replace(name=self._settings.namer.topic_pattern()))
            if all(existing is not None and allows(existing, arn, topic) for topic in topic_arns):
                return False
            new = namespace_policy(existing, arn, pattern)
        else:
            new = queue_policy(existing, arn, topic_arns)
        if new is None:
            return False
        self.queues.write_policy(url, new)
        logger.info("Queue %s now lets in the topics of %s.", queue, ", ".join(sorted(wanted.exchanges())) or "nobody")
        return True

    def _subscribe(self, queue: str, arn: QueueArn, exchange: str, wanted: BindingSet) -> None:
        bindings = wanted.for_exchange(exchange)
        unfiltered = exchange in wanted.unfiltered
        compiled = compile_filter(bindings, unfiltered=unfiltered)
        text = filter_json(compiled)
        if self._subscribed.get((queue, exchange)) == text:
            return
        try:
            self.topics.subscribe(exchange, arn, compiled)
        except TopologyError as exc:
            # A region or an emulator without the wildcard operator, or a filter that AWS finds too complex: let more
            # through, and have the consumer check.
            if compiled.policy is None or "ilter" not in str(exc):
                raise
            logger.info("Exchange %s takes a wider filter for queue %s: %s", exchange, queue, exc)
            self.topics.subscribe(exchange, arn, compile_filter(bindings, wildcards=False, unfiltered=unfiltered))
        self._subscribed[queue, exchange] = text

    def _unsubscribe(self, queue: str, arn: QueueArn, exchange: str) -> None:
        self._subscribed.pop((queue, exchange), None)
        self.topics.unsubscribe(exchange, arn)

    def _seems_bound(self, queue: str, binding: Binding) -> bool:
        """Whether the queue's policy lets the topic in, or can't be seen: then this process is a mere producer."""
        try:
            url = self.queues.url(queue)
            policy = self.queues.policy(url)
            topic: TopicArn = self.topics.arn(binding.exchange)
        except AccessDenied:
            return True
        return policy is not None and allows(policy, self.queues.arn(url), topic)

    def _exchanges_of(self, queue: str, url: QueueUrl) -> set[str]:
        known = self._applied.get(queue)
        exchanges = set(known.exchanges()) if known is not None else set()
        try:
            exchanges |= set(from_tags(self._tags(url)).exchanges())
        except AccessDenied as exc:
            logger.debug("The tags of queue %s can't be read: %s", queue, exc)
        return exchanges

    def _unbind_all(self, exchange: str, arn: QueueArn, account: str) -> bool:
        """Remove a queue's bindings to an exchange; False when the queue is not ours."""
        where = parse_arn(arn)
        if (where.account, where.region) != (account, self._clients.region()):
            return False
        try:
            url = QueueUrl(self._clients.sqs("get_queue_url", QueueName=where.name)["QueueUrl"])
            tags = self._tags(url)
        except TopologyError:
            self.topics.unsubscribe(exchange, arn)  # the queue is gone: an orphan of ours or nobody's
            return True
        found = from_tags(tags)
        mine = [key for binding in found.for_exchange(exchange) for key in to_tags(binding)]
        if not mine and exchange not in found.unfiltered:
            return False
        mine += list(overflow_tags(exchange, "fanout")) if exchange in found.unfiltered else []
        self.topics.unsubscribe(exchange, arn)
        self._clients.sqs("untag_queue", QueueUrl=url, TagKeys=mine)
        rest = from_tags({key: value for key, value in tags.items() if key not in mine})
        self._write_policy(where.name, url, rest)
        self._applied.clear()
        self._subscribed.clear()
        return True
