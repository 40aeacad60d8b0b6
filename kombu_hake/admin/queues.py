"""Read queues and groups: counts, bindings, dead-letter queues. Read-only.

If the right to read a part (tags, subscriptions of a topic, CloudWatch) is missing, that part is unknown; this is not
an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from kombu_hake.admin.declared import declared
from kombu_hake.amqp import QueueUrl, dead_name, dead_queue_arn, level_names, parse_arn, undelivered_name
from kombu_hake.aws import Clients
from kombu_hake.exceptions import HakeError, QueueNotFound, TopologyError
from kombu_hake.groups import registry
from kombu_hake.quoting import escaped, guarded
from kombu_hake.topology import Topology, lookups

__all__ = ["Binding", "Group", "QueueInfo", "QueueReader", "breaches"]

logger = guarded(logging.getLogger(__name__))
_COUNTS = {
    "ready": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}
#: CloudWatch has the age of the oldest message, a few minutes late; SQS itself does not report it.
_AGE_WINDOW = timedelta(minutes=15)
#: Metrics of one request, as many as AWS takes.
_AGE_QUERIES_MOST = 500


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
class QueueInfo:
    """A queue with its counts, its priority levels summed. Counts are approximate; None: none, or unknown.

    Attributes:
        state: ``ok``, ``missing`` (no worker has declared it yet), or why it cannot be read.
        ready: Messages that can be received now.
        in_flight: Messages that have been received and not yet deleted.
        delayed: Messages that are not due yet.
        oldest_s: Age of the oldest message that is not deleted, running tasks included, seconds; from CloudWatch.
        dead_queue: Name of the dead-letter queue.
        dead: Messages in the dead-letter queue.
        undelivered: Messages that SNS could not deliver to the queue; None if no queue keeps them.
        unreadable: Names of the attributes that could not be read, such as ``oldest_s``, sorted.
    """

    name: str
    state: str = "ok"
    ready: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    oldest_s: float | None = None
    dead_queue: str | None = None
    dead: int | None = None
    undelivered: int | None = None
    unreadable: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Group(QueueInfo):
    """A queue with its bindings, and the counts of :class:`QueueInfo`.

    Attributes:
        is_ours: True if this app has handlers for it; False for another queue that is subscribed to the same topics.
    """

    bindings: list[Binding] = field(default_factory=list)
    is_ours: bool = True


def breaches(
    queues: Iterable[QueueInfo],
    *,
    max_ready: int | None = None,
    max_age_s: float | None = None,
    max_dead: int | None = None,
) -> list[str]:
    """Compare counts with limits. Makes no call.

    A missing queue, or a count that cannot be read, is also a breach: a check without data must not pass. A queue
    without a dead-letter queue has no dead letters. An age that CloudWatch does not know yet is not a breach.

    Args:
        max_ready: Most messages that may be ready in a queue.
        max_age_s: Highest age of the oldest message, seconds.
        max_dead: Most dead letters, and most undelivered messages, of a queue.
    Returns:
        One sentence for each breach.
    """
    limits = [
        ("ready", max_ready, "messages ready"),
        ("oldest_s", max_age_s, "seconds is the age of the oldest message"),
        ("dead", max_dead, "dead letters"),
        ("undelivered", max_dead, "messages undelivered"),
    ]
    found = []
    for queue in queues:
        if queue.state != "ok":
            found += [f"{queue.name}: {queue.state}"] if any(most is not None for _, most, _ in limits) else []
            continue
        for name, most, what in limits:
            if most is None:
                continue
            value = getattr(queue, name)
            if name in queue.unreadable:
                found.append(f"{queue.name}: {name} cannot be read")
            elif value is not None and value > most:
                found.append(f"{queue.name}: {value:g} {what}, more than {most:g}")
    return found


class QueueReader:
    """Reads the state of an app's queues from AWS. Not safe for concurrent use by threads."""

    def __init__(self, app: Any, topology: Topology, clients: Clients) -> None:
        self.app = app
        self.topology = topology
        self.clients = clients
        #: Logical names of the SQS queues behind each queue that was counted.
        self._levels: dict[str, list[str]] = {}

    def queues(self, names: Iterable[str] = (), *, with_ages: bool = True) -> list[QueueInfo]:
        """See :meth:`kombu_hake.admin.connection.Admin.queues`."""
        arguments = self._declared()
        found = [QueueInfo(name) for name in list(names) or sorted(arguments)]
        for queue in found:
            self._count(queue, arguments.get(queue.name, {}))
        if with_ages:
            self._add_ages(found)
        return found

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
        return lookups.attributes(self.clients, url, "RedrivePolicy").get("RedrivePolicy")

    def _declared(self) -> dict[str, Mapping[str, Any]]:
        """Name to arguments of each queue that the app consumes or routes to, and that stays."""
        found = declared(self.app)
        known = self.app.amqp.queues
        queues = {queue.name: queue.spec.arguments for queue in found.queues}
        foreign = [name for name in found.other_queues if name in known and known[name].no_declare]
        return {**queues, **{name: {} for name in foreign}}

    def _group(self, name: str, *, is_ours: bool) -> Group:
        group = Group(name, bindings=self._bindings(name), is_ours=is_ours)  # their tags say how many levels there are
        self._count(group, {})
        return group

    def _count(self, queue: QueueInfo, arguments: Mapping[str, Any]) -> None:
        """Read the counts of a queue. *arguments* are those that it is declared with."""
        try:
            attributes, *others = self._attributes(queue.name, arguments)
        except QueueNotFound:
            queue.state = "missing"
            return
        except HakeError as exc:
            queue.state = f"unreadable: {exc}"
            return
        for name, source in _COUNTS.items():
            setattr(queue, name, sum(int(level.get(source, 0)) for level in (attributes, *others)))
        if attributes.get("RedrivePolicy"):
            try:
                queue.dead_queue, dead_url = self._dead_by_policy(attributes["RedrivePolicy"])
                queue.dead = self._ready(dead_url)
            except HakeError as exc:
                logger.info("Cannot count the dead letters of %s: %s", queue.name, exc)
                queue.unreadable.append("dead")
        try:
            url = self.topology.queues.find(undelivered_name(queue.name))
            queue.undelivered = None if url is None else self._ready(url)
        except HakeError as exc:
            logger.info("Cannot count the undelivered messages of %s: %s", queue.name, exc)
            queue.unreadable.append("undelivered")

    def _attributes(self, name: str, arguments: Mapping[str, Any]) -> list[Mapping[str, str]]:
        """Counts and redrive policy of a queue, then of its higher priority levels that exist."""
        wanted = [*_COUNTS.values(), "RedrivePolicy"]
        found: list[Mapping[str, str]] = []
        levels = max(level_names(name, arguments), self.topology.queues.levels(name), key=len)
        self._levels[name] = levels
        for level in levels:
            try:
                url = self.topology.queues.url(level)
                found.append(lookups.attributes(self.clients, url, *wanted))
            except QueueNotFound:
                if not found:
                    raise
        return found

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
            arn = dead_queue_arn(policy)
        except ValueError as exc:
            raise TopologyError(f"The redrive policy cannot be read: {exc}: {escaped(policy, 500)}") from exc
        if arn is None:
            raise TopologyError(f"The redrive policy names no dead-letter queue: {escaped(policy, 500)}")
        return self._logical(arn.name), lookups.queue_url(self.clients, arn.name, arn.account)

    def _ready(self, url: QueueUrl) -> int:
        name = _COUNTS["ready"]
        return int(lookups.attributes(self.clients, url, name).get(name, 0))

    def _add_ages(self, queues: Sequence[QueueInfo]) -> None:
        busy = [queue for queue in queues if queue.ready]
        if not busy:
            return
        physical = self.topology.queues.physical
        levels = {queue.name: [physical(level) for level in self._levels[queue.name]] for queue in busy}
        try:
            names = [one for of_queue in levels.values() for one in of_queue]
            ages: dict[str, float] = {}
            for start in range(0, len(names), _AGE_QUERIES_MOST):
                ages |= self._ages(names[start : start + _AGE_QUERIES_MOST])
        except HakeError as exc:
            logger.info("Cannot read the age of the oldest messages from CloudWatch: %s", exc)
            for queue in busy:
                queue.unreadable.append("oldest_s")
                queue.unreadable.sort()
            return
        for queue in busy:
            queue.oldest_s = max((ages[one] for one in levels[queue.name] if one in ages), default=None)

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
