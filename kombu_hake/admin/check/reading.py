"""Reads what a check needs of AWS. Changes nothing; only it, the look at rights and the probe make calls.

Of each declared queue: GetQueueUrl, GetQueueAttributes, and ListQueueTags where it may be bound. Of each topic:
GetTopicAttributes, and ListSubscriptionsByTopic, a request for 100 subscriptions. Of each subscription of a declared
queue: GetSubscriptionAttributes; of all, where the topic's quota of filters may be near. Of each other queue that is
subscribed, and of those that redrive policies name: GetQueueUrl. Of each bucket of large messages: ListObjectsV2 of one
object, GetObject of its first byte (or of an object that does not exist), and GetBucketLifecycleConfiguration. A read
that is denied is noted, and the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kombu_hake.admin.check.facts import (
    Denied,
    Expected,
    Facts,
    Place,
    QueueFacts,
    StoreFacts,
    SubscriptionFacts,
    TopicFacts,
)
from kombu_hake.admin.check.place import is_elsewhere
from kombu_hake.admin.export.rights import bucket_arn
from kombu_hake.amqp import SQS_LIST_PAGE, Store, is_incarnation, ownership, parse_arn, readable_dead_queue
from kombu_hake.aws import Clients
from kombu_hake.exceptions import (
    AccessDenied,
    HakeError,
    InvalidName,
    PayloadMissing,
    QueueNotFound,
    TopicNotFound,
    TopologyError,
)
from kombu_hake.topology import Home, SnsTopic, SqsQueue

__all__ = ["Reader"]

#: Other queues that are looked for, of one topic.
_OTHERS_MOST = 100
#: From so many subscriptions on, those with a filter are counted.
_COUNTED_FROM = 180
_COUNTED_MOST = 400
_TEMPORARY_MOST = 50
#: Names that kombu and Celery give to temporary queues hold a UUID.
_LOOKS_TEMPORARY = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


class Reader:
    """Reads once. Not safe for concurrent use by threads."""

    def __init__(self, clients: Clients, home: Home) -> None:
        self._clients = clients
        self._home = home
        self._denied: dict[Denied, None] = {}
        self._unseen: dict[Denied, None] = {}
        self._queues: dict[str, QueueFacts] = {}
        self._others: dict[str, bool | None] = {}

    def read(self, expected: Expected) -> Facts:
        """Everything that the app's declarations need, as far as it may be read.

        Raises:
            BrokerUnavailable: AWS does not answer.
        """
        place = self._place()
        for queue in expected.blueprint.queues:
            if not is_elsewhere(queue.arn, place):
                self._queues[queue.arn] = self._queue(queue, expected)
        topics = {
            str(topic.arn): self._topic(topic, expected, place)
            for topic in expected.blueprint.topics
            if not is_elsewhere(topic.arn, place)
        }
        redrives = [(seen.attributes or {}).get("RedrivePolicy") for seen in self._queues.values()]
        redrives += [
            (one.attributes or {}).get("RedrivePolicy")
            for topic in topics.values()
            for one in topic.subscriptions or ()
        ]
        self._read_targets(redrives, place)
        abandoned = self._abandoned(expected)
        kept = {store: self._store(store, place) for store in expected.stores}
        return Facts(
            place, self._queues, topics, self._others, tuple(self._denied), tuple(self._unseen), abandoned, kept
        )  # fmt: skip

    # --- where

    def _place(self) -> Place:
        account = None
        if self._clients.settings.account_id:
            try:
                account = self._clients.caller_account()
            except HakeError:  # a VPC without an endpoint for STS
                account = None
        return Place(
            self._clients.region(), self._clients.partition(), self._clients.endpoints(), account,
            self._clients.clock_offset_s,
        )  # fmt: skip

    # --- queues

    def _queue(self, queue: SqsQueue, expected: Expected) -> QueueFacts:
        address = expected.settings.predefined_queue(queue.name)
        try:
            if address is not None and not address.startswith("arn:"):
                url: str | None = address
            else:
                url = self._url(queue.arn)
            if url is None:
                url = self._home.queue_url(queue.physical, parse_arn(queue.arn).account)
            attributes = self._attributes(url, queue.arn)
            tags = self._tags(url, queue.arn) if queue.role == "queue" else None
        except QueueNotFound:
            return QueueFacts(None)
        return QueueFacts(url, attributes, tags)

    def _url(self, arn: str) -> str | None:
        """The URL of a queue; None where it may not be asked for. Raises QueueNotFound."""
        parts = parse_arn(arn)
        other = {} if parts.account == self._home.account() else {"QueueOwnerAWSAccountId": parts.account}
        try:
            return str(self._clients.sqs("get_queue_url", QueueName=parts.name, **other)["QueueUrl"])
        except AccessDenied:
            self._note("sqs:GetQueueUrl", arn)
            return None

    def _attributes(self, url: str, arn: str) -> dict[str, str] | None:
        try:
            answer = self._clients.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        except AccessDenied:
            self._note("sqs:GetQueueAttributes", arn)
            return None
        return dict(answer.get("Attributes") or {})

    def _tags(self, url: str, arn: str) -> dict[str, str] | None:
        try:
            return dict(self._clients.sqs("list_queue_tags", QueueUrl=url).get("Tags") or {})
        except AccessDenied:
            self._note("sqs:ListQueueTags", arn)
            return None

    def _read_targets(self, documents: Iterable[str | None], place: Place) -> None:
        """Read queues that a redrive policy names and that the app does not declare."""
        for document in documents:
            arn = readable_dead_queue(document)
            if not arn or arn in self._queues or is_elsewhere(arn, place):
                continue
            try:
                url = self._url(arn)
                attributes = self._attributes(url, arn) if url is not None else None
                self._queues[arn] = QueueFacts(url or "", attributes)
            except QueueNotFound:
                self._queues[arn] = QueueFacts(None)
            except TopologyError as exc:  # AWS takes no queue name like this
                self._denied[Denied("sqs:GetQueueUrl", arn, str(exc))] = None

    # --- topics

    def _topic(self, topic: SnsTopic, expected: Expected, place: Place) -> TopicFacts:
        exists: bool | None = None
        attributes = None
        # What is only published to may be of others, who allow no more than that.
        denied = self._denied if topic.is_bound else self._unseen
        try:
            try:
                attributes = dict(self._clients.sns("get_topic_attributes", TopicArn=topic.arn)["Attributes"])
                exists = True
            except AccessDenied:
                denied[Denied("sns:GetTopicAttributes", topic.arn)] = None
            subscriptions = self._subscriptions(topic.arn, denied)
        except TopicNotFound:
            return TopicFacts(False)
        if subscriptions is None:
            return TopicFacts(exists, attributes)
        wanted = {one.queue_arn for one in expected.blueprint.subscriptions if one.topic_arn == topic.arn}
        is_counted = len(subscriptions) >= _COUNTED_FROM
        found = []
        for number, one in enumerate(subscriptions):
            is_read = one.endpoint in wanted or (is_counted and number < _COUNTED_MOST)
            found.append(self._with_attributes(one) if is_read and not one.is_pending else one)
        filters = sum(1 for one in found if (one.attributes or {}).get("FilterPolicy", "{}") != "{}")
        self._look_for([one.endpoint for one in found if one.protocol == "sqs"], expected, place)
        return TopicFacts(True, attributes, tuple(found), filters if is_counted else None)

    def _subscriptions(self, topic_arn: str, denied: dict[Denied, None]) -> list[SubscriptionFacts] | None:
        found: list[SubscriptionFacts] = []
        params = {"TopicArn": topic_arn}
        try:
            while True:
                answer = self._clients.sns("list_subscriptions_by_topic", **params)
                found += [
                    SubscriptionFacts(item["SubscriptionArn"], item["Protocol"], item["Endpoint"])
                    for item in answer.get("Subscriptions", [])
                ]
                if not answer.get("NextToken"):
                    return found
                params["NextToken"] = answer["NextToken"]
        except AccessDenied:
            denied[Denied("sns:ListSubscriptionsByTopic", topic_arn)] = None
            return None

    def _with_attributes(self, one: SubscriptionFacts) -> SubscriptionFacts:
        try:
            answer = self._clients.sns("get_subscription_attributes", SubscriptionArn=one.arn)
        except AccessDenied:
            self._note("sns:GetSubscriptionAttributes", one.arn)
            return one
        except TopicNotFound:  # removed just now
            return one
        return SubscriptionFacts(one.arn, one.protocol, one.endpoint, dict(answer["Attributes"]))

    def _look_for(self, arns: Iterable[str], expected: Expected, place: Place) -> None:
        """Whether other queues of the account that are subscribed exist."""
        ours = {queue.arn for queue in expected.blueprint.queues}
        unknown = [arn for arn in arns if arn not in ours and arn not in self._others]
        for arn in unknown[:_OTHERS_MOST]:
            try:
                parts = parse_arn(arn)
            except InvalidName:
                continue
            if is_elsewhere(arn, place) or parts.account != self._home.account():
                continue
            try:
                self._clients.sqs("get_queue_url", QueueName=parts.name)
                self._others[arn] = True
            except QueueNotFound:
                self._others[arn] = False
            except TopologyError:  # AWS takes no queue name like this
                self._others[arn] = None
            except AccessDenied:
                self._others[arn] = None
                self._unseen[Denied("sqs:GetQueueUrl", arn)] = None

    # --- large messages

    def _store(self, store: Store, place: Place) -> StoreFacts:
        bucket, exists, region, key = bucket_arn(store, place.partition), None, None, None
        try:
            try:
                answer = self._clients.s3("find_bucket", Bucket=store.bucket, Prefix=store.base)
                exists, region, key = bool(answer["Exists"]), answer.get("Region"), answer.get("Key")
            except AccessDenied:
                self._unseen[Denied("s3:ListBucket", bucket)] = None
            if exists is False:
                return StoreFacts(False)
            return StoreFacts(exists, region, self._is_readable(store, key), self._rules(store, bucket))
        except HakeError as exc:
            return StoreFacts(fault=str(exc))

    def _is_readable(self, store: Store, key: str | None) -> bool | None:
        """None where it cannot be told: without the right to list, S3 denies an object that does not exist, too."""
        try:
            self._clients.s3("read_byte", Bucket=store.bucket, Key=key or f"{store.base}hake-check")
        except PayloadMissing:
            return True
        except AccessDenied:
            return False if key else None
        except HakeError:
            return None
        return True

    def _rules(self, store: Store, bucket: str) -> tuple[dict[str, Any], ...] | None:
        try:
            found = self._clients.s3("lifecycle_rules", Bucket=store.bucket)["Rules"]
            return tuple(rule for rule in found if isinstance(rule, dict))
        except AccessDenied:
            self._unseen[Denied("s3:GetLifecycleConfiguration", bucket)] = None
        except HakeError as exc:  # such as a bucket that does not exist and may not be listed
            self._unseen[Denied("s3:GetLifecycleConfiguration", bucket, str(exc))] = None
        return None

    # --- temporary queues

    def _abandoned(self, expected: Expected) -> tuple[str, ...]:
        namer = expected.settings.namer
        # Without a namespace the account may have thousands of queues. Only the names of probes tell what they are.
        is_searched = bool(namer.namespace) and expected.is_ours_to_make
        try:
            prefix = namer.queue_prefix() if is_searched else namer.queue(ownership.PROBE)
        except InvalidName:  # with name_style=kombu, a long prefix leaves no room: there are no probes
            return ()
        try:
            answer = self._clients.sqs("list_queues", QueueNamePrefix=prefix, MaxResults=SQS_LIST_PAGE)
            urls = {url.rpartition("/")[2]: url for url in answer.get("QueueUrls") or ()}
            names = [name for name in urls if is_incarnation(name) or _LOOKS_TEMPORARY.search(name)]
            return tuple(name for name in names[:_TEMPORARY_MOST] if self._is_abandoned(urls[name]))
        except AccessDenied as exc:
            if is_searched:
                self._unseen[Denied(exc.action, f"{prefix}*")] = None
            return ()

    def _is_abandoned(self, url: str) -> bool:
        try:
            owned = ownership.read(self._clients.sqs("list_queue_tags", QueueUrl=url).get("Tags") or {})
        except QueueNotFound:
            return False
        due_s = owned.due_s() if owned is not None else None
        return due_s is not None and due_s < self._clients.now_ms() / 1000

    def _note(self, action: str, resource: str) -> None:
        self._denied[Denied(action, resource)] = None
