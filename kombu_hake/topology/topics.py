"""SNS topics and subscriptions by exchange name. Nothing lists on a path that runs once a process or more.

A topic's ARN is built here, from partition, region, account and name, so that a producer with no right but
``sns:Publish`` can work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    ExchangeType,
    QueueArn,
    SubscriptionArn,
    TopicArn,
    parse_arn,
)
from kombu_hake.aws import Clients, SingleFlight, TtlCache, backoff_s
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, DeclarationMismatch, TopicNotFound
from kombu_hake.quoting import guarded
from kombu_hake.topology import lookups
from kombu_hake.topology.home import Home
from kombu_hake.topology.spec import TYPE_TAG, own_tags

__all__ = ["Topics"]

logger = guarded(logging.getLogger(__name__))
#: How long a count of no subscribers is valid: a new subscriber of events waits at most this long.
_SUBSCRIBERS_TTL_S = 60.0
#: What AWS answers while another request changes the tags of a topic; it passes.
_TAGS_IN_USE = ("ConcurrentAccess", "StaleTag")
_TAG_TRIES = 6


class Topics:
    """Finds and makes topics and subscriptions, and remembers ARNs. Safe to share between threads."""

    def __init__(self, clients: Clients, settings: Settings, home: Home | None = None) -> None:
        self._clients = clients
        self._settings = settings
        self._home = home or Home(clients, settings)
        self._flights = SingleFlight()
        self._arns: dict[str, TopicArn] = {}
        self._types: dict[str, str | None] = {}
        self._subscribers: TtlCache[str, int | None] = TtlCache(_SUBSCRIBERS_TTL_S)
        #: Called with an exchange whose topic was created, or was found by creating it.
        self.on_created: Callable[[str], None] = lambda exchange: None

    def is_predefined(self, exchange: str) -> bool:
        """Return True if the user configured where the topic is. It is never created or deleted then."""
        return exchange in self._settings.predefined_exchanges

    def arn(self, exchange: str) -> TopicArn:
        """The ARN of an exchange's topic, whether or not the topic exists.

        The account comes from the option ``account_id``, a queue seen before, STS, or (where STS can't be reached)
        from creating the topic, which returns its ARN.
        """
        if exchange not in self._arns:
            self._arns[exchange] = self._built_arn(exchange) or self.create(exchange)
        return self._arns[exchange]

    def create(self, exchange: str, exchange_type: str | None = None) -> TopicArn:
        """Create the topic, or find it: the request is the same.

        Args:
            exchange_type: Goes into a tag of the topic, so that other processes can know it.
        Raises:
            TopicNotFound: it is predefined, or ``topology`` is not ``auto``, so it is not for us to make.
        """
        if self.is_predefined(exchange) or self._settings.topology != "auto":
            raise TopicNotFound(self._not_made(exchange))
        params: dict[str, Any] = {"Name": self._settings.namer.topic(exchange)}
        if exchange.endswith(FIFO_SUFFIX):
            params["Attributes"] = {"FifoTopic": "true"}
        tags = own_tags(self._settings) | ({TYPE_TAG: exchange_type} if exchange_type else {})
        with self._flights(exchange):
            try:
                answer = self._create_tagged(tags, params)
            except (DeclarationMismatch, AccessDenied) as exc:
                # It exists with other tags, or tagging is denied, which is a right of its own.
                logger.debug("Topic %s is not tagged: %s", params["Name"], exc)
                answer = self._clients.sns("create_topic", **params)
                self._types.pop(exchange, None)
            else:
                self._types[exchange] = exchange_type
        arn = self._arns[exchange] = TopicArn(answer["TopicArn"])
        self._home.learn_account(parse_arn(arn).account)
        self._subscribers.forget(exchange)
        self.on_created(exchange)
        return arn

    def _create_tagged(self, tags: Mapping[str, str], params: Mapping[str, Any]) -> dict[str, Any]:
        """CreateTopic, again while AWS is at work on the topic's tags: another process, or a deletion just before."""
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        for attempt in range(_TAG_TRIES):
            try:
                return self._clients.sns("create_topic", Tags=listed, **params)
            except BrokerUnavailable as exc:
                if not any(code in str(exc) for code in _TAGS_IN_USE) or attempt == _TAG_TRIES - 1:
                    raise
                logger.info("Cannot tag topic %s yet; retrying: %s", params["Name"], exc)
                time.sleep(backoff_s(attempt, first_s=0.1, most_s=1.0))
        raise AssertionError("unreachable")

    def recorded_type(self, exchange: str) -> str | None:
        """The exchange type that the topic's tag says; None where there is no topic or tag, or reading is denied.

        Asked for once. AWS allows ten such calls a second: not for what is declared with its type anyway.

        Raises:
            BrokerUnavailable: AWS could not be asked; the next call asks again.
        """
        if self._settings.topology == "assume":
            return None
        if exchange not in self._types:
            with self._flights(exchange):
                if exchange not in self._types:
                    self._types[exchange] = self._read_type(exchange)
        return self._types[exchange]

    def seen_type(self, exchange: str) -> str | None:
        """As :meth:`recorded_type`, if it was asked for before; no call."""
        return self._types.get(exchange)

    def subscribe(
        self, exchange: str, queue_arn: QueueArn, attributes: Mapping[str, str], exchange_type: str | None = None
    ) -> SubscriptionArn:
        """Subscribe a queue, creating the topic if need be. A subscription that is there is not changed by it.

        Raises:
            DeclarationMismatch: there is a subscription with other attributes.
            TopologyError: AWS (or an emulator) refuses the filter policy.
        """
        try:
            arn = self._subscribe(exchange, queue_arn, attributes)
        except TopicNotFound:
            self.create(exchange, exchange_type)
            arn = self._subscribe(exchange, queue_arn, attributes)
        self._subscribers.forget(exchange)
        return arn

    def find_subscription(self, exchange: str, queue_arn: QueueArn) -> SubscriptionArn:
        """The subscription of a queue. Where there is none this makes one without attributes: it wraps messages.

        Raises:
            TopicNotFound: there is no topic.
        """
        return self._subscribe(exchange, queue_arn, {})

    def set_attribute(self, arn: SubscriptionArn, name: str, value: str) -> None:
        """Set an attribute of a subscription; TopicNotFound where there is none."""
        self._clients.sns("set_subscription_attributes", SubscriptionArn=arn, AttributeName=name, AttributeValue=value)

    def unsubscribe_arn(self, exchange: str, arn: SubscriptionArn) -> None:
        """Remove a subscription; one that is gone is fine."""
        self._clients.sns("unsubscribe", SubscriptionArn=arn)
        self._subscribers.forget(exchange)

    def unsubscribe(self, exchange: str, *queue_arns: QueueArn) -> None:
        """Remove the subscriptions of queues; none, or no topic, is fine."""
        try:
            for item in self.subscriptions(exchange):
                if item["Endpoint"] in queue_arns and item["SubscriptionArn"].startswith("arn:"):
                    self._clients.sns("unsubscribe", SubscriptionArn=item["SubscriptionArn"])
        except TopicNotFound:
            logger.debug("Exchange %s has no topic, so %s has nothing to unsubscribe.", exchange, queue_arns[0])
        self._subscribers.forget(exchange)

    def subscriptions(self, exchange: str) -> Iterator[dict[str, str]]:
        """As :func:`kombu_hake.topology.lookups.subscriptions_of`."""
        return lookups.subscriptions(self._clients, self.arn(exchange))

    def delete(self, exchange: str) -> None:
        """Delete the topic, and with it all its subscriptions; no topic is fine."""
        try:
            self._clients.sns("delete_topic", TopicArn=self.arn(exchange))
        except TopicNotFound:
            logger.debug("Exchange %s had no topic.", exchange)
        self._arns.pop(exchange, None)
        self._types.pop(exchange, None)
        self._subscribers.forget(exchange)

    def exists(self, exchange: str) -> bool | None:
        """Return True if the topic exists; None if reading it is denied, or with ``topology=assume``. One request."""
        if self._settings.topology == "assume":
            return None
        try:
            self._clients.sns("get_topic_attributes", TopicArn=self.arn(exchange))
        except TopicNotFound:
            return False
        except AccessDenied as exc:
            logger.debug("Whether exchange %s has a topic can't be read: %s", exchange, exc)
            return None
        return True

    def subscribers(self, exchange: str) -> int | None:
        """How many subscriptions the topic has, at most a minute old; 0 for no topic, None where reading is denied.

        With ``topology=assume`` None, unless a publish found no topic.

        Raises:
            BrokerUnavailable: AWS could not be asked; the next call asks again.
        """
        return self._subscribers.get(exchange, lambda: self._count_subscribers(exchange))

    def knows_subscribers(self, exchange: str) -> bool:
        """True where :meth:`subscribers` answers without a call."""
        return self._subscribers.has(exchange)

    def forget_subscribers(self, exchange: str) -> None:
        """Make the next :meth:`subscribers` count again."""
        self._subscribers.forget(exchange)

    def is_gone(self, exchange: str) -> None:
        """Record that a publish found no topic; valid for as long as a count of subscribers."""
        self._subscribers.forget(exchange)
        self._subscribers.get(exchange, lambda: 0)

    def _count_subscribers(self, exchange: str) -> int | None:
        if self._settings.topology == "assume":
            return None
        try:
            attributes = lookups.topic_attributes(self._clients, self.arn(exchange))
        except TopicNotFound:
            return 0
        except AccessDenied as exc:
            logger.debug("Cannot count the subscriptions of exchange %s: %s", exchange, exc)
            return None
        confirmed, pending = (int(attributes.get(f"Subscriptions{kind}", 0)) for kind in ("Confirmed", "Pending"))
        return confirmed + pending or self._list_if_any(exchange)

    def _list_if_any(self, exchange: str) -> int | None:
        """The counts of a topic may lag: a count of zero is checked with a list."""
        try:
            return 1 if next(self.subscriptions(exchange), None) else 0
        except TopicNotFound:
            return 0
        except AccessDenied as exc:
            logger.debug("Cannot list the subscriptions of exchange %s: %s", exchange, exc)
            return None

    def _built_arn(self, exchange: str) -> TopicArn | None:
        if self.is_predefined(exchange):
            arn = TopicArn(self._settings.predefined_exchanges[exchange])
            self._home.check_arn(arn, f"predefined topic of exchange {exchange!r},")
            return arn
        return self._home.topic_arn(self._settings.namer.topic(exchange))

    def _not_made(self, exchange: str) -> str:
        known = self._arns.get(exchange, "")
        if self.is_predefined(exchange):
            return (
                f"The predefined topic {known} of exchange {exchange!r} does not exist: correct predefined_exchanges, "
                "or create it."
            )
        return (
            f"Exchange {exchange!r} has no topic ({known or self._settings.namer.topic(exchange)}), and "
            f"topology={self._settings.topology} creates none: create it, correct the namespace, region or account_id, "
            "or use topology=auto."
        )

    def _read_type(self, exchange: str) -> str | None:
        try:
            found = lookups.topic_tags(self._clients, self.arn(exchange)).get(TYPE_TAG)
        except (TopicNotFound, AccessDenied) as exc:
            logger.debug("Cannot read the type of exchange %s: %s", exchange, exc)
            return None
        return found if found in get_args(ExchangeType) else None

    def _subscribe(self, exchange: str, queue_arn: QueueArn, attributes: Mapping[str, str]) -> SubscriptionArn:
        params: dict[str, Any] = {"Protocol": "sqs", "Endpoint": queue_arn, "ReturnSubscriptionArn": True}
        if attributes:
            params["Attributes"] = dict(attributes)
        answer = self._clients.sns("subscribe", TopicArn=self.arn(exchange), **params)
        return SubscriptionArn(answer["SubscriptionArn"])
