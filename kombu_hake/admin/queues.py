"""Read queues and groups: counts, bindings, dead-letter queues. Read-only.

If the right to read a part (tags, subscriptions of a topic, CloudWatch) is missing, that part is unknown; this is not
an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from kombu_hake.amqp import QueueUrl, dead_name, parse_arn, read_object, undelivered_name
from kombu_hake.aws import Clients
from kombu_hake.exceptions import HakeError, QueueNotFound, TopologyError
from kombu_hake.groups import registry
from kombu_hake.quoting import escaped, guarded
from kombu_hake.topology import Topology

__all__ = ["Binding", "Group", "QueueReader"]

logger = guarded(logging.getLogger(__name__))
_COUNTS = {
    "ready": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}
#: CloudWatch has the age of the oldest message, a few minutes late; SQS itself does not report it.
_AGE_WINDOW = timedelta(minutes=15)
_AGE_QUERIES_MOST = 100


@dataclass(frozen=True)
class Binding:
    """A binding key of a topic that a group is bound with, and the app's handlers for it.

    Attributes:
        handlers: Names of the handlers' tasks; empty for a binding that this app has no handler for.
        is_bound: True if AWS has the binding, False if no worker has declared it yet, None if it cannot be read.
    """

    topic: str
    key: str
    handlers: list[str] = field(default_factory=list)
    is_bound: bool | None = None


@dataclass
class Group:
    """A queue with its counts and bindings. Counts are AWS's approximations; None is unknown.

    Attributes:
        is_ours: True if this app has handlers for it; False for another queue that is subscribed to the same topics.
        state: ``ok``, ``missing`` (no worker has declared it yet), or why it cannot be read.
        ready: Messages that can be received now.
        in_flight: Messages that have been received and not yet deleted.
        delayed: Messages that are not due yet.
        oldest_s: Age of the oldest message that is not deleted, running tasks included, seconds; from CloudWatch.
        dead_queue: Name of the dead-letter queue.
        dead: Messages in the dead-letter queue.
        undelivered: Messages that SNS could not deliver to the queue; None if no queue keeps them.
    """

    name: str
    bindings: list[Binding] = field(default_factory=list)
    is_ours: bool = True
    state: str = "ok"
    ready: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    oldest_s: float | None = None
    dead_queue: str | None = None
    dead: int | None = None
    undelivered: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class QueueReader:
    """Reads the state of an app's queues from AWS. Not safe for concurrent use by threads."""

    def __init__(self, app: Any, topology: Topology, clients: Clients) -> None:
        self.app = app
        self.topology = topology
        self.clients = clients

    def groups(self, names: Iterable[str] = (), *, with_ages: bool = True) -> list[Group]:
        """See :meth:`kombu_hake.admin.connection.Admin.groups`."""
        wanted = list(names)
        ours = registry.groups(self.app)
        found = [self._group(name, is_ours=name in ours) for name in wanted or ours]
        if not wanted:
            found += [self._group(name, is_ours=False) for name in self._others(ours)]
        if with_ages:
            self._add_ages(found)
        return found

    def dead_queue_of(self, group: str, *, undelivered: bool = False) -> tuple[str, QueueUrl]:
        """Name and URL of the dead-letter queue of a group, or of any queue: from its redrive policy, else the one
        named after it.

        Args:
            undelivered: Return its undelivered queue instead.
        Raises:
            QueueNotFound: it has none.
        """
        try:
            policy = None if undelivered else self._redrive_policy(group)
        except QueueNotFound:
            policy = None
        if policy:
            return self._dead_by_policy(policy)
        name = undelivered_name(group) if undelivered else dead_name(group)
        try:
            return name, self.topology.queues.url(name)
        except QueueNotFound as exc:
            where = "no queue" if undelivered else "none in its redrive policy, and no queue"
            raise QueueNotFound(
                f"Group {group!r} has no dead-letter queue: {where} {name!r}. Groups defined with Topic.on() get "
                "one when their first worker starts, other queues when they are declared with x-dead-letter-queue."
            ) from exc

    def _redrive_policy(self, queue: str) -> str | None:
        url = self.topology.queues.url(queue)
        answer = self.clients.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["RedrivePolicy"])
        policy: str | None = answer.get("Attributes", {}).get("RedrivePolicy")
        return policy

    def _group(self, name: str, *, is_ours: bool) -> Group:
        group = Group(name, self._bindings(name), is_ours)
        try:
            url = self.topology.queues.url(name)
            answer = self.clients.sqs(
                "get_queue_attributes", QueueUrl=url, AttributeNames=[*_COUNTS.values(), "RedrivePolicy"]
            )
        except QueueNotFound:
            group.state = "missing"
            return group
        except HakeError as exc:
            group.state = f"unreadable: {exc}"
            return group
        attributes = answer.get("Attributes", {})
        for attribute, source in _COUNTS.items():
            setattr(group, attribute, int(attributes.get(source, 0)))
        if attributes.get("RedrivePolicy"):
            try:
                group.dead_queue, dead_url = self._dead_by_policy(attributes["RedrivePolicy"])
                group.dead = self._ready(dead_url)
            except HakeError as exc:
                logger.info("Cannot count the dead letters of %s: %s", name, exc)
        group.undelivered = self._undelivered(name)
        return group

    def _undelivered(self, name: str) -> int | None:
        try:
            url = self.topology.queues.find(undelivered_name(name))
            return None if url is None else self._ready(url)
        except HakeError as exc:
            logger.info("Cannot count the undelivered messages of %s: %s", name, exc)
            return None

    def _bindings(self, name: str) -> list[Binding]:
        """The bindings in AWS, and those of the app that AWS does not have yet."""
        handlers: dict[tuple[str, str], list[str]] = {}
        for subscription in registry.all(self.app):
            if subscription.group == name:
                known = handlers.setdefault((subscription.topic, subscription.key), [])
                known.append(subscription.name_in(self.app))
        try:
            bound = self.topology.bindings(name)
        except QueueNotFound:
            return [Binding(*key, names, False) for key, names in sorted(handlers.items())]
        except HakeError as exc:
            logger.info("Cannot read the tags of %s: %s", name, exc)
            return [Binding(*key, names) for key, names in sorted(handlers.items())]
        there = {(item.exchange, item.routing_key) for item in bound.bindings}
        there |= {(exchange, "#") for exchange in bound.unfiltered}
        return [Binding(*key, handlers.get(key, []), key in there) for key in sorted({*handlers, *there})]

    def _others(self, ours: list[str]) -> list[str]:
        """Names of other queues that are subscribed to the app's topics, as far as they can be listed."""
        namer = self.topology.queues.physical
        physical = {namer(name) for name in ours}
        found: dict[str, None] = {}
        for topic in sorted({subscription.topic for subscription in registry.all(self.app)}):
            try:
                for item in self.topology.topics.subscriptions(topic):
                    arn = parse_arn(item["Endpoint"]) if item["Protocol"] == "sqs" else None
                    if arn is not None and arn.name not in physical:
                        found.setdefault(self._logical(arn.name))
            except HakeError as exc:
                logger.info("Cannot list the subscriptions of topic %s: %s", topic, exc)
        return list(found)

    def _logical(self, physical: str) -> str:
        """The name without its namespace, if that names the same queue."""
        bare = physical.rpartition("__")[2]
        return bare if bare and self.topology.queues.physical(bare) == physical else physical

    def _dead_by_policy(self, policy: str) -> tuple[str, QueueUrl]:
        try:
            arn = parse_arn(str(read_object(policy)["deadLetterTargetArn"]))
        except (ValueError, KeyError) as exc:
            raise TopologyError(f"The redrive policy can't be read: {escaped(policy, 500)}") from exc
        answer = self.clients.sqs("get_queue_url", QueueName=arn.name, QueueOwnerAWSAccountId=arn.account)
        return self._logical(arn.name), QueueUrl(answer["QueueUrl"])

    def _ready(self, url: QueueUrl) -> int:
        name = _COUNTS["ready"]
        answer = self.clients.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=[name])
        return int(answer.get("Attributes", {}).get(name, 0))

    def _add_ages(self, groups: list[Group]) -> None:
        busy = [group for group in groups if group.ready][:_AGE_QUERIES_MOST]
        if not busy:
            return
        try:
            ages = self._ages([self.topology.queues.physical(group.name) for group in busy])
        except HakeError as exc:
            logger.info("Cannot read the age of the oldest messages from CloudWatch: %s", exc)
            return
        for group in busy:
            group.oldest_s = ages.get(self.topology.queues.physical(group.name))

    def _ages(self, names: list[str]) -> Mapping[str, float]:
        now = datetime.now(timezone.utc)
        queries = [
            {
                "Id": f"q{number}",
                "MetricStat": {
                    "Metric": {
                        "Namespace": "AWS/SQS",
                        "MetricName": "ApproximateAgeOfOldestMessage",
                        "Dimensions": [{"Name": "QueueName", "Value": name}],
                    },
                    "Period": 60,
                    "Stat": "Maximum",
                },
            }
            for number, name in enumerate(names)
        ]
        answer = self.clients.cloudwatch(
            "get_metric_data", MetricDataQueries=queries, StartTime=now - _AGE_WINDOW, EndTime=now
        )
        values = {item["Id"]: item.get("Values") for item in answer.get("MetricDataResults", [])}
        return {name: float(found[0]) for number, name in enumerate(names) if (found := values.get(f"q{number}"))}
