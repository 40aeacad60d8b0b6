"""Compares what is declared with what AWS shows. Reads only; works whatever ``topology`` says.

Needs ``sqs:GetQueueUrl``, ``sqs:GetQueueAttributes`` and ``sqs:ListQueueTags``, ``sns:ListSubscriptionsByTopic``,
``sns:GetSubscriptionAttributes`` and ``sns:ListTagsForResource`` (``sns:GetTopicAttributes`` for exchanges that are
declared with a size): a request for each queue, topic or subscription. What
may not be read is reported, and not guessed. To find what is no longer declared it lists the queues and topics of the
namespace, too (``sqs:ListQueues``, ``sns:ListTopics``).

The bindings of a queue are those that are declared and those that its tags record: another process may have made them.
Bindings that are not declared are part of what is compared until they are removed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kombu_hake.amqp import (
    MAX_PRIORITY_TAG,
    SNS_MAX_FILTERS,
    TAG_PREFIX,
    Arn,
    Binding,
    QueueArn,
    QueueUrl,
    SubscriptionArn,
    dead_queue_arn,
    from_tags,
    is_incarnation,
    named_topics,
    ownership,
    parse_arn,
    queue_name,
    readable_dead_queue,
    whole,
)
from kombu_hake.aws import Clients
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, InvalidName, QueueNotFound, TopicNotFound, TopologyError
from kombu_hake.quoting import guarded
from kombu_hake.topology import lookups
from kombu_hake.topology.blueprint import Blueprint, Draft, SnsTopic, SqsQueue, blueprint, desired_of, draft, topic_arn
from kombu_hake.topology.desired import Desired
from kombu_hake.topology.diff import Change, SetAttribute, Subscribe, Unsubscribe, WritePolicy, diff
from kombu_hake.topology.drift import Drift, ShownQueue, ShownTopic, queue_drift, size_drift, topic_drift
from kombu_hake.topology.home import Home
from kombu_hake.topology.observed import Observed, Subscription
from kombu_hake.topology.queues import COUNTS
from kombu_hake.topology.sizes import SIZE_ATTRIBUTE, size_of
from kombu_hake.topology.spec import (
    LEVEL_TAG,
    OWNER_TAG,
    ExchangeSpec,
    QueueSpec,
    binding_priority,
    binding_tags,
    is_ours,
    retention_s,
    undelivered_queue,
)

__all__ = ["Audit", "Auditor", "Undeclared"]

logger = guarded(logging.getLogger(__name__))
#: Subscriptions of a topic that are read to count its filter policies.
_COUNTED_MOST = 400
_OVER_QUOTA = (
    f"The topic has no room for its filter: AWS allows {SNS_MAX_FILTERS} filter policies a topic by default. The queue "
    "receives everything from the exchange, and workers drop what no binding matches."
)


@dataclass(frozen=True)
class Undeclared:
    """Something with our tags and in our namespace that is not declared.

    Attributes:
        what: ``queue``, ``topic``, ``binding``, or ``subscription``: one of a declared queue that no binding explains.
        name: Name in AWS: of the queue for a binding; ``topic -> queue`` of a subscription.
        reason: A sentence.
        messages: In the queue, approximately, in flight and delayed included; None if that is unknown.
        queue: Of a binding: the logical name of its queue.
        binding: What is bound.
        arn: Of the queue or topic; of the queue for a subscription.
        url: Of the queue.
        topics: ARNs of topics that the queue may be subscribed to; that of a subscription.
        sources: URLs of declared queues whose redrive policy names the queue.
    """

    what: str
    name: str
    reason: str
    messages: int | None = None
    queue: str = ""
    binding: Binding | None = None
    arn: str = ""
    url: str = ""
    topics: tuple[str, ...] = ()
    sources: tuple[QueueUrl, ...] = ()


@dataclass
class Audit:
    """What a comparison found.

    Attributes:
        changes: In the order in which they are made.
        over_quota: Filters that a topic has no room for, by AWS's default quota. If the quota was raised, they can be
            set all the same.
        undeclared: What is no longer declared, or never was by this app.
        unknown: Sentences: what may not be read or is not there and not ours to make.
        unsearched: Sentences: where undeclared things could not be looked for.
    """

    changes: list[Drift] = field(default_factory=list)
    over_quota: list[Drift] = field(default_factory=list)
    undeclared: list[Undeclared] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unsearched: list[str] = field(default_factory=list)


class Auditor:
    """Compares once: make a new one for each comparison. Not safe for concurrent use by threads."""

    def __init__(
        self,
        clients: Clients,
        settings: Settings,
        home: Home,
        queues: Iterable[tuple[QueueSpec, Collection[Binding]]],
        exchanges: Mapping[str, ExchangeSpec],
        others: Collection[str] = (),
    ) -> None:
        """*queues* and *exchanges*: as of :func:`kombu_hake.topology.blueprint.blueprint`. *others*: names of queues
        and exchanges that are in use without being declared.
        """
        self._clients = clients
        self._settings = settings
        self._home = home
        self._declared = list(queues)
        self._exchanges = dict(exchanges)
        self._others = frozenset(others)
        self._found = Audit()
        #: (topic, queue) of subscriptions that go with bindings that are not declared.
        self._unbound: set[tuple[str, str]] = set()
        #: (topic, queue) of subscriptions that go with any binding, and the queues whose bindings are all known.
        self._explained: set[tuple[str, str]] = set()
        self._understood: set[str] = set()
        self._queues: dict[str, ShownQueue | None] = {}
        #: ARN of a queue to the largest message that it takes, or is to take.
        self._largest: dict[str, int] = {}
        self._topics: dict[str, ShownTopic | None] = {}
        self._attributes: dict[SubscriptionArn, Mapping[str, str] | None] = {}
        #: Exchange to the filter policies that its topic has, and to those that the changes so far add.
        self._counted: dict[str, int] = {}
        self._new_filters: dict[str, int] = {}

    def audit(self, *, with_undeclared: bool = True) -> Audit:
        """Read and compare everything.

        Raises:
            BrokerUnavailable: AWS does not answer.
            ConfigurationError: the account is unknown.
            TopologyError: the arguments of a queue are wrong.
        """
        plan = blueprint(self._declared, self._exchanges, self._settings, self._home)
        for spec, _ in self._declared:
            self._look(plan.queue(spec.name))
        self._declared = [(self._with_levels(spec), bindings) for spec, bindings in self._declared]
        plan = blueprint(self._declared, self._exchanges, self._settings, self._home)
        for queue in plan.queues:
            self._look(queue)
            self._compare_queue(queue)
        for spec, bindings in self._declared:
            try:
                self._compare_bindings(spec, draft(spec, bindings, self._settings, self._home), plan)
            except TopologyError as exc:  # such as a policy that is not understood, or a tag with an impossible name
                self._found.unknown.append(f"Cannot tell what differs for queue {spec.name}: {exc}")
        for queue in plan.queues:
            if queue.role == "dead":
                self._compare_size_of_dead_letters(queue, plan)
        for topic in plan.topics:
            if topic.is_bound or self._is_made_to_publish(topic):
                self._compare_topic(topic)
        if with_undeclared:
            self._search(plan)
        order = {"create": 0, "change": 1, "delete": 2}
        kinds = ("queue", "topic", "subscription", "policy", "attribute", "tag", "binding")
        self._found.changes.sort(key=lambda one: (order[one.action], kinds.index(one.what), one.name))
        return self._found

    # --- queues

    def _look(self, queue: SqsQueue) -> None:
        """Read an SQS queue, once. One that is missing is None; one that may not be looked for is not in the table."""
        if queue.name in self._queues:
            return
        try:
            url = self._url(queue)
        except QueueNotFound as exc:
            self._queues[queue.name] = None
            if queue.is_predefined:
                self._found.unknown.append(str(exc))
            return
        except AccessDenied as exc:
            self._cannot_tell(f"whether queue {queue.physical} exists", exc)
            return
        attributes = tags = None
        try:
            attributes = lookups.attributes(self._clients, url)
        except QueueNotFound:
            self._queues[queue.name] = None
            if queue.is_predefined:
                self._found.unknown.append(f"The predefined queue {queue.name!r} ({url}) does not exist: create it.")
            return
        except AccessDenied as exc:
            self._cannot_tell(f"the attributes of queue {queue.physical}", exc)
        try:
            tags = lookups.tags(self._clients, url)
        except QueueNotFound:
            tags = {}
        except AccessDenied as exc:
            also = ", and so its bindings, policy and filters" if queue.role == "queue" else ""
            self._cannot_tell(f"the tags of queue {queue.physical}{also}", exc)
        self._queues[queue.name] = ShownQueue(url, attributes, tags)

    def _url(self, queue: SqsQueue) -> QueueUrl:
        address = self._settings.predefined_queue(queue.name)
        if address is None:
            return lookups.queue_url(self._clients, queue.physical)
        if not address.startswith("arn:"):
            self._home.check_url(address)
            return QueueUrl(address)
        arn = self._home.check_arn(address, f"predefined queue {queue.name!r}")
        try:
            return lookups.queue_url(self._clients, arn.name, arn.account)
        except QueueNotFound as exc:
            raise QueueNotFound(f"The predefined queue {queue.name!r} ({address}) does not exist: create it.") from exc

    def _with_levels(self, spec: QueueSpec) -> QueueSpec:
        """With the highest priority that other processes declared the queue with: its levels are in use."""
        shown = self._queues.get(spec.name)
        if shown is None or shown.tags is None:
            return spec
        recorded = binding_priority(self._settings, spec.name, {"x-max-priority": from_tags(shown.tags).max_priority})
        if recorded <= binding_priority(self._settings, spec.name, spec.arguments):
            return spec
        return replace(spec, arguments={**spec.arguments, "x-max-priority": recorded})

    def _compare_queue(self, queue: SqsQueue) -> None:
        if queue.name not in self._queues:
            return
        shown = self._queues[queue.name]
        if shown is not None:
            plain = {key: value for key, value in queue.tags.items() if not key.startswith(TAG_PREFIX)}
            self._found.changes += queue_drift(replace(queue, tags=plain), shown)
        elif not queue.is_predefined:
            reason = {
                "queue": "It is declared but does not exist.",
                "level": f"It is a priority level of queue {queue.owner}.",
                "dead": f"It keeps the dead letters of queue {queue.owner}.",
                "undelivered": f"It keeps messages that SNS cannot deliver to queue {queue.owner}.",
            }[queue.role]
            documents = {"RedriveAllowPolicy": queue.redrive_allow, "Policy": queue.policy}
            attributes = {key: value for key, value in documents.items() if value} if queue.role != "queue" else {}
            self._found.changes.append(
                Drift(
                    "create", "queue", queue.physical, reason, queue.owner, queue=queue.name, attributes=attributes,
                    tags=queue.tags,
                )
            )  # fmt: skip

    # --- bindings

    def _compare_bindings(self, spec: QueueSpec, drafted: Draft, plan: Blueprint) -> None:
        for binding in sorted(drafted.given):
            self._topic(binding.exchange)
        queue = plan.queue(spec.name)
        self._compare_sizes(spec.name, drafted, plan)
        if spec.name not in self._queues or (queue.is_predefined and not drafted.bound):
            return
        shown = self._queues[spec.name]
        if shown is None:
            if not queue.is_predefined:
                self._compare_desired(drafted.desired)
            return
        if shown.tags is None:
            return
        tags = dict(shown.tags)
        for binding in sorted(drafted.bound):
            known = from_tags(tags)
            if binding in known.bindings or binding.exchange in known.unfiltered:
                continue
            new, _ = binding_tags(tags, binding)
            tags |= new
            self._found.changes.append(
                Drift(
                    "change", "binding", queue.physical, f"No tag records its binding to {_described(binding)}.",
                    spec.name, queue=spec.name,
                )
            )  # fmt: skip
        highest = drafted.tags.get(MAX_PRIORITY_TAG)
        if highest is not None:
            tags[MAX_PRIORITY_TAG] = highest
        found = from_tags(tags)
        kept = undelivered_queue(spec, self._settings) if found.exchanges() and not queue.is_predefined else None
        wanted = desired_of(spec.name, found, self._settings, self._home, kept)
        self._note_undeclared(spec, drafted, wanted)
        self._compare_desired(replace(wanted, resets=True))

    def _compare_sizes(self, name: str, drafted: Draft, plan: Blueprint) -> None:
        bound = {binding.exchange for binding in drafted.bound}
        size = max((topic.max_size_bytes or 0 for topic in plan.topics if topic.exchange in bound), default=0)
        for queue in plan.queues:
            shown = self._queues.get(queue.name)
            if shown is not None and queue.owner == name and queue.role in ("queue", "level"):
                self._largest[queue.arn] = max(size, whole((shown.attributes or {}).get(SIZE_ATTRIBUTE)) or 0)
                self._found.changes += size_drift(queue, shown, size)

    def _compare_size_of_dead_letters(self, dead: SqsQueue, plan: Blueprint) -> None:
        shown = self._queues.get(dead.name)
        sources = [queue for queue in plan.queues if _dead_letters_go_to(queue) == parse_arn(dead.arn)]
        if shown is not None:
            size = max((self._largest.get(queue.arn, 0) for queue in sources), default=0)
            self._found.changes += size_drift(dead, shown, size)

    def _note_undeclared(self, spec: QueueSpec, drafted: Draft, wanted: Desired) -> None:
        self._explained |= {(wanted.topics[name], level.arn) for name in wanted.exchanges for level in wanted.levels}
        if not wanted.bindings.is_partial and self._settings.predefined_queue(spec.name) is None:
            self._understood |= {level.arn for level in wanted.levels}
        declared = drafted.bound | drafted.given
        kept = {binding.exchange for binding in declared} | wanted.bindings.unfiltered
        for binding in sorted(wanted.bindings.bindings - declared):
            reason = f"It is bound to {_described(binding)}, which this app does not declare."
            name = parse_arn(wanted.main.arn).name
            self._found.undeclared.append(Undeclared("binding", name, reason, queue=spec.name, binding=binding))
            if binding.exchange not in kept:
                self._unbound |= {(wanted.topics[binding.exchange], level.arn) for level in wanted.levels}

    def _compare_desired(self, wanted: Desired) -> None:
        """Policies and subscriptions of a queue and its levels, as the reconciler of workers compares them."""
        names = [level.name for level in wanted.levels]
        names += [wanted.undelivered.name] if wanted.undelivered is not None else []
        observed = Observed()
        for name in names:
            shown = self._queues.get(name)
            if shown is not None and shown.attributes is not None:
                observed = observed.with_policy(name, shown.attributes.get("Policy"))
        for exchange in wanted.exchanges:
            observed = self._observe(wanted, exchange, observed)
        changes = diff(wanted, observed)
        full = {exchange for exchange in wanted.exchanges if not self._has_room(exchange, changes, observed)}
        for exchange in sorted(full):
            name = self._arrow(exchange, wanted.main.arn)
            self._found.over_quota.append(
                Drift("change", "subscription", name, _OVER_QUOTA, wanted.queue, queue=wanted.queue)
            )
        for change in diff(wanted, replace(observed, full=frozenset(full))) if full else changes:
            drift = self._described(change, wanted)
            if drift is not None:
                self._found.changes.append(drift)

    def _has_room(self, exchange: str, changes: Iterable[Change], observed: Observed) -> bool:
        """Return True if a topic takes the filters that a queue's subscriptions lack, by AWS's default quota."""
        lacking = sum(1 for change in changes if _adds_filter(change, exchange, observed))
        topic = self._topics.get(exchange)
        if not lacking or topic is None or topic.subscriptions is None:
            return True
        needed = self._new_filters.get(exchange, 0) + lacking
        if (
            len(topic.subscriptions) + needed > SNS_MAX_FILTERS
            and self._filters(exchange, topic.subscriptions) + needed > SNS_MAX_FILTERS
        ):
            return False
        self._new_filters[exchange] = needed
        return True

    def _filters(self, exchange: str, subscriptions: Mapping[str, str]) -> int:
        """How many subscriptions of a topic have a filter policy, as far as a number of them may be read."""
        if exchange not in self._counted:
            arns = [SubscriptionArn(arn) for arn in subscriptions.values() if arn.startswith("arn:")]
            shown = (self._shown_attributes(arn) for arn in arns[:_COUNTED_MOST])
            self._counted[exchange] = sum(1 for one in shown if (one or {}).get("FilterPolicy", "{}") != "{}")
        return self._counted[exchange]

    def _shown_attributes(self, arn: SubscriptionArn) -> Mapping[str, str] | None:
        """None where they may not be read, or the subscription was removed just now."""
        if arn not in self._attributes:
            try:
                self._attributes[arn] = lookups.subscription(self._clients, arn)
            except (AccessDenied, TopicNotFound):
                self._attributes[arn] = None
        return self._attributes[arn]

    def _observe(self, wanted: Desired, exchange: str, observed: Observed) -> Observed:
        topic = self._topic(exchange)
        is_ours = exchange not in self._settings.predefined_exchanges
        if topic is None and is_ours:
            return observed  # missing: everything is to be subscribed
        if topic is None or topic.subscriptions is None:  # nothing can be told, or the topic is its owner's to create
            return replace(observed, skipped=observed.skipped | {exchange})
        for level in wanted.levels:
            arn = topic.subscriptions.get(level.arn)
            if arn is None:
                continue
            name = self._arrow(exchange, level.arn)
            if not arn.startswith("arn:"):
                self._found.unknown.append(f"The subscription {name} is not confirmed yet.")
                found: Subscription | None = Subscription(SubscriptionArn(arn), None)
            else:
                found = self._subscription(SubscriptionArn(arn), f"the subscription {name}")
            observed = observed.with_subscription(level.name, exchange, found)
        return observed

    def _subscription(self, arn: SubscriptionArn, what: str) -> Subscription | None:
        """None if it is gone: SNS lists a subscription for a while after its deletion."""
        shown = self._attributes.get(arn)
        if shown is None:
            self._attributes[arn] = None
            try:
                shown = self._attributes[arn] = lookups.subscription(self._clients, arn)
            except AccessDenied as exc:
                self._cannot_tell(what, exc)
                return Subscription(arn, None)
            except TopicNotFound:
                return None
        return Subscription(arn, shown)

    def _described(self, change: Change, wanted: Desired) -> Drift | None:
        def of(action: Any, what: Any, name: str, reason: str) -> Drift:
            return Drift(action, what, name, reason, wanted.queue, queue=wanted.queue)

        match change:
            case WritePolicy():
                return of("change", "policy", parse_arn(self._arn_of(wanted, change.queue)).name, change.reason)
            case Subscribe():
                shown = "" if change.filter == "{}" else f" Filter: {change.filter}"
                name = self._arrow(change.exchange, change.arn)
                return of("create", "subscription", name, f"The queue is bound but not subscribed.{shown}")
            case SetAttribute():
                name = self._arrow(change.exchange, self._arn_of(wanted, change.queue))
                found = of("change", "subscription", name, f"{change.name} should be {change.value}. {change.reason}")
                return replace(found, attributes={change.name: change.value})
            case Unsubscribe():
                return of("delete", "subscription", self._arrow(change.exchange, change.arn), change.reason)
        return None  # tags of levels are compared as all tags

    def _arn_of(self, wanted: Desired, name: str) -> QueueArn:
        if wanted.undelivered is not None and wanted.undelivered.name == name:
            return wanted.undelivered.arn
        return next(level.arn for level in wanted.levels if level.name == name)

    def _arrow(self, exchange: str, arn: QueueArn) -> str:
        topic = parse_arn(topic_arn(exchange, self._settings, self._home)).name
        return f"{topic} -> {parse_arn(arn).name}"

    # --- topics

    def _is_made_to_publish(self, topic: SnsTopic) -> bool:
        """Return True if the exchange is only published to, and its first publish would create a topic of ours.

        A direct exchange may be that of a queue, which needs none; so may one of which only the name is known.
        """
        if topic.is_predefined or self._exchanges.get(topic.exchange, ExchangeSpec()).type in (None, "direct"):
            return False
        return not any(binding.exchange == topic.exchange for _, bindings in self._declared for binding in bindings)

    def _compare_topic(self, topic: SnsTopic) -> None:
        shown = self._topic(topic.exchange)
        if shown is None and topic.is_predefined:
            self._found.unknown.append(
                f"The predefined topic of exchange {topic.exchange!r} ({topic.arn}) does not exist: create it."
            )
        elif shown is None:
            used = "Queues are bound" if topic.is_bound else "The app publishes"
            reason = f"{used} to exchange {topic.exchange}, which has no topic."
            self._found.changes.append(
                Drift("create", "topic", topic.physical, reason, topic.exchange, tags=topic.tags)
            )
        else:
            tags = shown.tags if topic.is_bound else None
            self._found.changes += topic_drift(topic, replace(shown, tags=tags, max_size_bytes=self._size_of(topic)))

    def _size_of(self, topic: SnsTopic) -> int | None:
        if topic.max_size_bytes is None:
            return None
        try:
            return size_of(lookups.topic_attributes(self._clients, topic.arn))
        except AccessDenied as exc:
            self._cannot_tell(f"the size of exchange {topic.exchange}", exc)
        except TopicNotFound as exc:
            logger.debug("The topic of exchange %s was deleted meanwhile: %s", topic.exchange, exc)
        return None

    def _topic(self, exchange: str) -> ShownTopic | None:
        """The topic of an exchange, read once; None if it does not exist."""
        if exchange not in self._topics:
            self._topics[exchange] = self._read_topic(exchange)
        return self._topics[exchange]

    def _read_topic(self, exchange: str) -> ShownTopic | None:
        arn = topic_arn(exchange, self._settings, self._home)
        subscriptions: dict[str, str] | None = None
        tags: dict[str, str] | None = None
        try:
            listed = lookups.subscriptions(self._clients, arn)
            subscriptions = {item["Endpoint"]: item["SubscriptionArn"] for item in listed}
        except TopicNotFound:
            return None
        except AccessDenied as exc:
            self._cannot_tell(f"the subscriptions of exchange {exchange}", exc)
        if exchange not in self._settings.predefined_exchanges:
            try:
                tags = lookups.topic_tags(self._clients, arn)
            except TopicNotFound:
                return None
            except AccessDenied as exc:
                self._cannot_tell(f"the tags of exchange {exchange}", exc)
        return ShownTopic(tags, subscriptions)

    # --- what is no longer declared

    def _search(self, plan: Blueprint) -> None:
        known = {queue.physical for queue in plan.queues} | {
            self._settings.namer.queue(name) for name in self._others if name
        }
        pruned: set[str] = set()
        try:
            found = self._undeclared_queues(known)
        except AccessDenied as exc:
            self._found.unsearched.append(f"Cannot look for queues that are no longer declared: {exc}")
            found = []
        for one in found:
            pruned.add(one.arn)
            self._found.undeclared.append(one)
        for topic in plan.topics:
            seen = self._topics.get(topic.exchange)
            if seen is not None and not topic.is_predefined and is_ours(seen.tags or {}, self._settings):
                self._found.undeclared += self._unexplained(topic.arn, seen.subscriptions or ())
        named = {topic.physical for topic in plan.topics} | {
            self._settings.namer.topic(name) for name in self._others if name and "*" not in name
        }
        try:
            self._found.undeclared += self._undeclared_topics(named, pruned)
        except AccessDenied as exc:
            self._found.unsearched.append(f"Cannot look for topics that are no longer declared: {exc}")

    def _undeclared_queues(self, known: Collection[str]) -> list[Undeclared]:
        found = []
        for url in lookups.queues(self._clients, self._settings.namer.queue_prefix()):
            name = queue_name(url)
            if name in known or not self._settings.namer.owns(name) or is_incarnation(name):
                continue
            try:
                one = self._undeclared_queue(name, url)
            except QueueNotFound:
                continue  # AWS lists deleted queues for a while
            except TopologyError as exc:
                self._found.unsearched.append(f"Cannot tell whether queue {name} is declared: {exc}")
                continue
            if one is not None:
                found.append(one)
        return found

    def _undeclared_queue(self, name: str, url: QueueUrl) -> Undeclared | None:
        tags = lookups.tags(self._clients, url)
        if not is_ours(tags, self._settings) or ownership.read(tags) is not None:
            return None  # foreign, or temporary
        attributes = lookups.attributes(self._clients, url)
        if attributes.get("MessageRetentionPeriod") == retention_s(self._settings, is_temporary=True):
            return None
        address = {*self._settings.predefined_queues.values()}
        if url in address or attributes.get("QueueArn") in address:
            return None
        messages = sum(int(attributes.get(count, 0)) for count in COUNTS)
        owner = tags.get(OWNER_TAG) or tags.get(LEVEL_TAG)
        reason = f"It belongs to queue {owner}." if owner else "This app does not declare it."
        arn = str(attributes.get("QueueArn", ""))
        sources = [
            shown.url
            for shown in self._queues.values()
            if shown is not None and arn and readable_dead_queue((shown.attributes or {}).get("RedrivePolicy")) == arn
        ]
        topics = self._topics_of(tags, attributes.get("Policy"))
        return Undeclared("queue", name, reason, messages, arn=arn, url=url, topics=topics, sources=tuple(sources))

    def _topics_of(self, tags: Mapping[str, str], policy: str | None) -> tuple[str, ...]:
        """ARNs of the topics that a queue may be subscribed to; a level has no tags of bindings itself."""
        bindings = from_tags(tags)
        if LEVEL_TAG in tags:
            try:
                main = lookups.queue_url(self._clients, tags[LEVEL_TAG])
                bindings = from_tags(lookups.tags(self._clients, main))
            except TopologyError as exc:
                logger.debug("The queue of a priority level is not found: %s", exc)
        found = {str(topic_arn(exchange, self._settings, self._home)) for exchange in bindings.exchanges() if exchange}
        return tuple(sorted(found | set(named_topics(policy))))

    def _undeclared_topics(self, known: Collection[str], pruned: Collection[str]) -> list[Undeclared]:
        found = []
        predefined = set(self._settings.predefined_exchanges.values())
        for arn in lookups.topics(self._clients):
            try:
                name = parse_arn(arn).name
            except InvalidName:
                continue
            if name in known or arn in predefined or not self._settings.namer.owns(name):
                continue
            try:
                if not is_ours(lookups.topic_tags(self._clients, arn), self._settings):
                    continue
                endpoints = [one["Endpoint"] for one in lookups.subscriptions(self._clients, arn)]
                unexplained = self._unexplained(arn, endpoints)
                found += unexplained
                gone = {*pruned, *(one.arn for one in unexplained)}
                if all(one in gone or (arn, one) in self._unbound for one in endpoints):
                    reason = "This app neither binds a queue nor routes tasks to it, and no other queue uses it."
                    found.append(Undeclared("topic", name, reason, arn=arn))
            except TopicNotFound:
                continue
        return found

    def _unexplained(self, topic: str, endpoints: Iterable[str]) -> list[Undeclared]:
        """Subscriptions of declared queues that no binding explains, as an unbind leaves them that is interrupted."""
        found = []
        for queue in endpoints:
            if queue in self._understood and (topic, queue) not in self._explained:
                name = f"{parse_arn(topic).name} -> {parse_arn(queue).name}"
                reason = "The queue has no binding to this exchange."
                found.append(Undeclared("subscription", name, reason, arn=queue, topics=(topic,)))
        return found

    # --- inside

    def _cannot_tell(self, what: str, exc: AccessDenied) -> None:
        self._found.unknown.append(f"Cannot tell {what}: {exc}")


def _adds_filter(change: Change, exchange: str, observed: Observed) -> bool:
    match change:
        case Subscribe():
            return change.exchange == exchange and change.filter != "{}"
        case SetAttribute(name="FilterPolicy"):
            found = observed.subscriptions[change.queue, change.exchange].attributes or {}
            return change.exchange == exchange and change.value != "{}" and found.get("FilterPolicy", "{}") == "{}"
    return False


def _dead_letters_go_to(queue: SqsQueue) -> Arn | None:
    try:
        return dead_queue_arn(queue.redrive)
    except ValueError:  # of the option queue_attributes
        return None


def _described(binding: Binding) -> str:
    key = f" with key {binding.routing_key}" if binding.routing_key else ""
    arguments = f" and arguments {dict(binding.arguments)}" if binding.arguments else ""
    return f"exchange {binding.exchange}{key}{arguments}"
