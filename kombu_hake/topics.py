"""SNS topics and subscriptions by exchange name. Nothing lists on a path that runs once a process or more.

A topic's ARN is built here, from partition, region, account and name, so that a producer with no right but
``sns:Publish`` can work.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from kombu_hake.clients import Clients
from kombu_hake.concurrency import SingleFlight, TtlCache
from kombu_hake.exceptions import AccessDenied, DeclarationMismatch, HakeError, TopicNotFound, TopologyError
from kombu_hake.limits import FIFO_SUFFIX
from kombu_hake.naming import Arn, QueueArn, SubscriptionArn, TopicArn, parse_arn
from kombu_hake.queues import own_tags
from kombu_hake.routing import Filter, filter_json
from kombu_hake.settings import Settings

__all__ = ["Topics"]

logger = logging.getLogger(__name__)
#: How long "nobody subscribes" is believed: a new subscriber of events waits at most this long.
_SUBSCRIBERS_TTL_S = 60.0


class Topics:
    """Finds and makes topics and subscriptions, and remembers ARNs. Safe to share between threads."""

    def __init__(self, clients: Clients, settings: Settings) -> None:
        self._clients = clients
        self._settings = settings
        self._flights = SingleFlight()
        self._arns: dict[str, TopicArn] = {e: TopicArn(a) for e, a in settings.predefined_exchanges.items()}
        self._account: str | None = settings.account_id
        self._subscribers: TtlCache[str, int | None] = TtlCache(_SUBSCRIBERS_TTL_S)

    def learn_account(self, account: str) -> None:
        """Take note of the account that our queues are in; it saves asking STS."""
        if account and self._account is None:
            self._account = account

    def arn(self, exchange: str) -> TopicArn:
        """The ARN of an exchange's topic, whether or not the topic exists.

        The account comes from the option ``account_id``, a queue seen before, STS, or (where STS can't be reached)
        from creating the topic, which returns its ARN.
        """
        if exchange not in self._arns:
            with self._flights("account"):
                account = self._account or self._ask_account()
            if account is None:
                return self.create(exchange)
            name = self._settings.namer.topic(exchange)
            arn = Arn(self._clients.partition(), "sns", self._clients.region(), account, name)
            self._arns[exchange] = TopicArn(str(arn))
        return self._arns[exchange]

    def create(self, exchange: str) -> TopicArn:
        """Create the topic, or find it: AWS does not mind which."""
        if exchange in self._settings.predefined_exchanges:
            raise TopicNotFound(
                f"The predefined topic {self._arns[exchange]} of exchange {exchange!r} does not exist: "
                "correct predefined_exchanges, or create it."
            )
        params: dict[str, Any] = {"Name": self._settings.namer.topic(exchange)}
        if exchange.endswith(FIFO_SUFFIX):
            params["Attributes"] = {"FifoTopic": "true"}
        tags = [{"Key": key, "Value": value} for key, value in own_tags(self._settings).items()]
        with self._flights(exchange):
            try:
                answer = self._clients.sns("create_topic", Tags=tags, **params)
            except (DeclarationMismatch, AccessDenied):
                # It exists with other tags or attributes, or tagging is denied, which is a right of its own.
                answer = self._clients.sns("create_topic", Name=params["Name"], **self._fifo_only(params))
        arn = TopicArn(answer["TopicArn"])
        self._arns[exchange] = arn
        self.learn_account(parse_arn(arn).account)
        self._subscribers.forget(exchange)
        return arn

    def subscribe(self, exchange: str, queue_arn: QueueArn, wanted: Filter) -> SubscriptionArn:
        """Subscribe a queue with raw delivery and this filter, creating the topic if need be. Reads back and mends.

        Raises:
            TopologyError: AWS (or an emulator) refuses the filter policy.
        """
        attributes = {"RawMessageDelivery": "true"}
        if wanted.policy is not None:
            attributes["FilterPolicy"] = filter_json(wanted)
        try:
            arn = self._subscribe(exchange, queue_arn, attributes)
        except DeclarationMismatch:
            arn = self._subscribe(exchange, queue_arn, {})
        self._mend(arn, attributes)
        self._subscribers.forget(exchange)
        return arn

    def unsubscribe(self, exchange: str, queue_arn: QueueArn) -> None:
        """Remove the queue's subscription; none, or no topic, is fine."""
        try:
            for item in self.subscriptions(exchange):
                if item["Endpoint"] == queue_arn and item["SubscriptionArn"].startswith("arn:"):
                    self._clients.sns("unsubscribe", SubscriptionArn=item["SubscriptionArn"])
        except TopicNotFound:
            logger.debug("Exchange %s has no topic, so %s has nothing to unsubscribe.", exchange, queue_arn)

    def subscriptions(self, exchange: str) -> Iterator[dict[str, str]]:
        """Every subscription of the topic, with ``Endpoint``, ``Protocol``, ``Owner`` and ``SubscriptionArn``.

        Thirty such calls a second are all that AWS allows an account: for clean-up and for people, not for declaring.
        """
        params: dict[str, str] = {"TopicArn": self.arn(exchange)}
        while True:
            answer = self._clients.sns("list_subscriptions_by_topic", **params)
            yield from answer.get("Subscriptions", [])
            if not answer.get("NextToken"):
                return
            params["NextToken"] = answer["NextToken"]

    def delete(self, exchange: str) -> None:
        """Delete the topic, and with it all its subscriptions; no topic is fine."""
        try:
            self._clients.sns("delete_topic", TopicArn=self.arn(exchange))
        except TopicNotFound:
            logger.debug("Exchange %s had no topic.", exchange)
        if exchange not in self._settings.predefined_exchanges:
            self._arns.pop(exchange, None)
        self._subscribers.forget(exchange)

    def subscribers(self, exchange: str) -> int | None:
        """How many subscriptions the topic has, at most a minute old; 0 for no topic, None where reading is denied."""
        return self._subscribers.get(exchange, lambda: self._count_subscribers(exchange))

    def _count_subscribers(self, exchange: str) -> int | None:
        try:
            attributes = self._clients.sns("get_topic_attributes", TopicArn=self.arn(exchange))["Attributes"]
        except TopicNotFound:
            return 0
        except HakeError as exc:
            logger.debug("The subscriptions of exchange %s can't be counted: %s", exchange, exc)
            return None
        confirmed, pending = (int(attributes.get(f"Subscriptions{kind}", 0)) for kind in ("Confirmed", "Pending"))
        return confirmed + pending or self._list_if_any(exchange)

    def _list_if_any(self, exchange: str) -> int | None:
        """The counts of a topic may lag behind; before "nobody" is believed, a list is asked for."""
        try:
            return 1 if next(self.subscriptions(exchange), None) else 0
        except HakeError as exc:
            logger.debug("The subscriptions of exchange %s can't be listed: %s", exchange, exc)
            return None

    def _subscribe(self, exchange: str, queue_arn: QueueArn, attributes: dict[str, str]) -> SubscriptionArn:
        params: dict[str, Any] = {"Protocol": "sqs", "Endpoint": queue_arn, "ReturnSubscriptionArn": True}
        if attributes:
            params["Attributes"] = attributes
        try:
            answer = self._clients.sns("subscribe", TopicArn=self.arn(exchange), **params)
        except TopicNotFound:
            answer = self._clients.sns("subscribe", TopicArn=self.create(exchange), **params)
        return SubscriptionArn(answer["SubscriptionArn"])

    def _mend(self, arn: SubscriptionArn, wanted: dict[str, str]) -> None:
        """Set what the subscription has otherwise: AWS never updates on Subscribe, and some emulators ignore it."""
        try:
            found = self._clients.sns("get_subscription_attributes", SubscriptionArn=arn)["Attributes"]
        except AccessDenied as exc:
            logger.debug("Subscription %s is taken as it is: %s", arn, exc)
            return
        for name, empty in (("RawMessageDelivery", "false"), ("FilterPolicy", "{}")):
            value = wanted.get(name, empty)
            if not _same_json(found.get(name) or empty, value):
                self._clients.sns(
                    "set_subscription_attributes", SubscriptionArn=arn, AttributeName=name, AttributeValue=value
                )

    def _ask_account(self) -> str | None:
        try:
            self._account = self._clients.caller_account()
        except TopologyError:
            raise
        except HakeError as exc:
            logger.info("STS does not tell the account (option account_id saves asking): %s", exc)
        return self._account

    @staticmethod
    def _fifo_only(params: dict[str, Any]) -> dict[str, Any]:
        return {"Attributes": params["Attributes"]} if "Attributes" in params else {}


def _same_json(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False
