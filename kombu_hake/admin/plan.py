"""``plan`` and ``apply``: what is declared against what AWS has, and making it so.

What differs is decided in :mod:`kombu_hake.topology`: policies, subscriptions and filters as for workers, and what
workers leave to operators (attributes, redrive policies, tags) besides. ``apply`` makes a comparison, lets the
reconciler of workers make what is missing, and compares again until AWS shows no difference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kombu_hake.admin.declared import Declared, declared
from kombu_hake.amqp import main_queue, parse_arn
from kombu_hake.aws import Clients
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    HakeError,
    QueueDeletedRecently,
    QueueNotFound,
    TopicNotFound,
    TopologyError,
)
from kombu_hake.quoting import guarded
from kombu_hake.topology import Audit, Drift, QueueSpec, Topology, lookups
from kombu_hake.topology import Undeclared as Found

__all__ = ["Applied", "Change", "Operator", "Plan", "Undeclared"]

logger = guarded(logging.getLogger(__name__))
#: Between two looks at an AWS that does not show everything yet, seconds.
_LOOK_AGAIN_S = 5.0
#: Rounds of making what still differs.
_MOST_ROUNDS = 3


@dataclass(frozen=True)
class Change:
    """One change that ``apply`` would make.

    Attributes:
        action: ``create``, ``change`` or ``delete``.
        what: ``queue``, ``topic``, ``subscription``, ``policy``, ``attribute``, ``tag`` or ``binding``.
        name: Name in AWS: of a queue or topic; ``topic -> queue`` of a subscription.
        reason: Why, in a sentence.
        is_destructive: It may lose messages.
    """

    action: Literal["create", "change", "delete"]
    what: str
    name: str
    reason: str
    is_destructive: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Undeclared:
    """Something that this package made in this namespace, and that the app does not declare.

    Attributes:
        what: ``queue``, ``topic``, ``binding``, or ``subscription`` (of a declared queue, but without a binding).
        name: Name in AWS: of the queue or topic; of the queue for a binding; ``topic -> queue`` of a subscription.
        reason: Why it is listed, in a sentence.
        messages: Messages in the queue, approximately; None for other things.
    """

    what: str
    name: str
    reason: str
    messages: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What differs between the app's declarations and AWS.

    Attributes:
        changes: What ``apply`` would do, in order.
        undeclared: What ``apply`` would remove if asked to prune.
        unknown: Sentences: what may not be read, or is missing and must be created elsewhere.
        notes: Sentences: where undeclared things could not be searched for.
        over_quota: Filters that exceed AWS's quota. ``apply`` tries to set them, in case AWS has raised it.
    """

    changes: tuple[Change, ...] = ()
    undeclared: tuple[Undeclared, ...] = ()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    over_quota: tuple[Change, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Applied:
    """What ``apply`` did.

    Attributes:
        changes: Changes that were made.
        removed: What was pruned.
        failures: Sentences: what could not be changed.
        remaining: Remaining differences. Empty unless there are failures, or others change the same things.
    """

    changes: tuple[Change, ...] = ()
    removed: tuple[Undeclared, ...] = ()
    failures: tuple[str, ...] = ()
    remaining: Plan = Plan()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Operator:
    """Compares and makes what an app declares. Not safe for concurrent use by threads."""

    def __init__(self, app: Any, topology: Topology, clients: Clients) -> None:
        self._clients = clients
        self._declared = declared(app)
        self._topology = topology.for_operators()

    def plan(self) -> Plan:
        """See :meth:`kombu_hake.admin.connection.Admin.plan`."""
        return _plan(self._audit())

    def apply(
        self,
        *,
        prune: Callable[[list[Undeclared]], Iterable[Undeclared]],
        on_progress: Callable[[str], None],
        sleep: Callable[[float], None],
    ) -> Applied:
        """See :meth:`kombu_hake.admin.connection.Admin.apply`."""
        run = _Run(self._topology, self._clients, self._declared, on_progress)
        found = self._converge(run, sleep)
        asked = set(prune([_undeclared(one) for one in found.undeclared])) if found.undeclared else set()
        if any(one.what == "subscription" for one in asked) and self._topology.timings.tags_s:
            on_progress("Waiting until AWS shows the latest bindings.")
            sleep(self._topology.timings.tags_s)
        removed = run.remove(self._still(asked, run)) if asked else []
        if removed:  # a filter may be wider until AWS shows that its binding is gone
            found = self._converge(run, sleep)
            gone = {(one.what, one.name, one.binding) for one in removed}
            patience_s = self._settle_s
            while patience_s > 0 and any(self._may_be_gone(one, gone, asked) for one in found.undeclared):
                run.wait(len(removed))
                sleep(_LOOK_AGAIN_S)
                patience_s -= _LOOK_AGAIN_S
                found = self._audit()
        return Applied(tuple(run.made), tuple(map(_undeclared, removed)), tuple(run.failures), _plan(found))

    @staticmethod
    def _may_be_gone(one: Found, removed: Collection[tuple[Any, ...]], asked: Collection[Undeclared]) -> bool:
        """Return True if AWS may be late to hide something: it was removed, or belonged to a removed binding."""
        is_new = one.what == "subscription" and _undeclared(one) not in asked
        return (one.what, one.name, one.binding) in removed or is_new

    def _still(self, asked: Collection[Undeclared], run: _Run) -> list[Found]:
        """What was asked to be removed, looked at again: it may have come into use while the question was open."""
        shown = {(one.what, one.name, one.reason): one.messages or 0 for one in asked}
        found = []
        now = self._audit().undeclared
        new = [one for one in now if one.what == "subscription" and _undeclared(one) not in asked]
        used = {topic for one in new for topic in one.topics}
        for one in now:
            if one.what == "topic" and one.arn in used:
                continue
            messages = shown.get((one.what, one.name, one.reason))
            if messages is not None and (one.messages or 0) > messages:
                run.failures.append(
                    f"{one.what} {one.name} is kept: it received messages after it was listed ({messages} then, "
                    f"{one.messages} now)."
                )
            elif messages is not None:
                found.append(one)
        return found

    def _converge(self, run: _Run, sleep: Callable[[float], None]) -> Audit:
        """Make what differs until AWS shows no difference, or until something fails; the last comparison."""
        found = self._audit()
        asked, over_quota = found.changes, found.over_quota
        patience_s = 0.0
        rounds = 0
        while (found.changes or (over_quota and not rounds)) and not run.failures:
            if patience_s > 0:
                run.wait(len(found.changes))
                sleep(_LOOK_AGAIN_S)
                patience_s -= _LOOK_AGAIN_S
            elif rounds == _MOST_ROUNDS:
                break
            else:
                rounds += 1
                patience_s = self._settle_s
                run.make(found, [] if rounds > 1 else over_quota)
            found = self._audit(with_undeclared=False)
        if not rounds:
            return found
        found = self._audit()
        left = set(map(_change, found.changes))
        run.report(one for one in asked if _change(one) not in left)  # made before something else failed
        run.report(one for one in over_quota if one not in found.over_quota)
        return found

    @property
    def _settle_s(self) -> float:
        """How long AWS may show an older state, and a filter may stay wider, after a change."""
        timings = self._topology.timings
        return 2 * timings.attributes_s + timings.tags_s + 10 if timings.attributes_s else 0.0

    def _audit(self, *, with_undeclared: bool = True) -> Audit:
        return self._declared.auditor(self._clients, self._topology.home).audit(with_undeclared=with_undeclared)


class _Run:
    """One ``apply``: makes changes, and remembers what came of it."""

    def __init__(
        self, topology: Topology, clients: Clients, found: Declared, on_progress: Callable[[str], None]
    ) -> None:
        self._topology = topology
        self._clients = clients
        self._queues = {queue.name: queue for queue in found.queues}
        self._exchanges = {exchange.name: exchange.spec for exchange in found.exchanges}
        self._bound = {binding.exchange for queue in found.queues for binding in queue.bindings}
        self._on_progress = on_progress
        self._reported: set[Change] = set()
        self._waits_for = 0
        self.made: list[Change] = []
        self.failures: list[str] = []

    def make(self, found: Audit, over_quota: Iterable[Drift] = ()) -> None:
        """Make all changes of an audit, one owner after the other; what is denied is a failure, and the rest is made.

        Args:
            over_quota: Tried, too, and not reported.
        Raises:
            BrokerUnavailable: AWS does not answer.
        """
        owners: dict[str, list[Drift]] = {}
        for change in found.changes:
            owners.setdefault(change.owner if change.queue else "", []).append(change)
        limited = {change.owner for change in over_quota}
        for name in limited:
            owners.setdefault(name, [])
        for exchange, spec in self._exchanges.items():
            if spec.type is not None:
                what = f"exchange {exchange}"
                self._tried(what, self._topology.declare_exchange, exchange, spec.type, spec.max_size_bytes)
        topics = owners.pop("", [])
        subscribed: set[str] = set()
        for name in sorted(owners):
            args = name, owners[name], name in limited
            if self._tried(f"queue {name}", self._make_queue, *args, is_ours=self._is_ours(name)):
                self.report(owners[name])
                if any(change.what == "subscription" for change in owners[name]):
                    subscribed |= {binding.exchange for binding in self._queues[name].bindings}
        for change in topics:
            if change.action == "change" and self._tried(f"topic {change.name}", self._write_topic, change):
                self.report([change])
            elif change.action == "create" and change.owner not in self._bound:
                if self._tried(f"topic {change.name}", self._make_topic, change.owner):
                    self.report([change])
            elif change.action == "create" and change.owner in subscribed:
                self.report([change])  # made by the first subscription

    def wait(self, number: int) -> None:
        """Report that AWS does not show changes yet, once for each number."""
        if number == self._waits_for:
            return
        self._waits_for = number
        what = "a change" if number == 1 else f"{number} changes"
        self._on_progress(f"AWS does not show {what} yet; waiting.")

    def _is_ours(self, name: str) -> bool:
        """False if the queue, or something that it is bound to, is not ours to create."""
        settings = self._clients.settings
        exchanges = {binding.exchange for binding in self._queues[name].bindings}
        return settings.predefined_queue(name) is None and not exchanges & settings.predefined_exchanges.keys()

    def _tried(self, what: str, work: Callable[..., None], *args: Any, is_ours: bool = True) -> bool:
        try:
            work(*args)
        except BrokerUnavailable:
            raise
        except HakeError as exc:
            if isinstance(exc, QueueDeletedRecently | QueueNotFound | TopicNotFound) and is_ours:
                self._on_progress(f"{what}: {exc}")  # deleted meanwhile, or AWS does not show it yet: the next round
                return False
            self.failures.append(f"{what}: {exc}")
            return False
        return True

    def report(self, changes: Iterable[Drift]) -> None:
        """Note changes as made, each once."""
        for one in changes:
            change = _change(one)
            if change not in self._reported:
                self._reported.add(change)
                self.made.append(change)
                self._on_progress(f"{change.action} {change.what} {change.name}: {change.reason}")

    def _make_queue(self, name: str, changes: list[Drift], is_limited: bool) -> None:
        queue = self._queues[name]
        for change in changes:
            if change.what == "queue" and main_queue(change.queue) != name:  # levels come with the queue
                self._make_extra(change)
        self._write(changes)
        if is_limited or any(change.what not in ("attribute", "tag") for change in changes):
            denied = self._topology.enforce(queue.spec, queue.bindings)
            if denied:  # the rest was made, and the next comparison tells what
                raise denied[0]

    def _write(self, changes: list[Drift]) -> None:
        """Write attributes and tags: a request for all of one SQS queue."""
        written: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        for change in changes:
            if change.what in ("attribute", "tag"):
                attributes, tags = written.setdefault(change.queue, ({}, {}))
                attributes.update(change.attributes)
                tags.update(change.tags)
        for each, (attributes, tags) in written.items():
            url = self._topology.queues.url(each)
            if attributes:
                self._topology.queues.set_attributes(url, attributes)
            if tags:
                self._clients.sqs("tag_queue", QueueUrl=url, Tags=tags)

    def _make_extra(self, change: Drift) -> None:
        """Create a dead-letter queue, or one for undelivered messages, which declaring does only for a new queue."""
        queues = self._topology.queues
        spec = QueueSpec(change.queue)
        if queues.look_for(spec):
            queues.create(spec, tags=change.tags, attributes=change.attributes, is_unbound=True)

    def _make_topic(self, exchange: str) -> None:
        self._topology.topics.create(exchange, self._exchanges[exchange].type)

    def _write_topic(self, change: Drift) -> None:
        arn = self._topology.topics.arn(change.owner)
        for name, value in change.attributes.items():
            self._clients.sns("set_topic_attributes", TopicArn=arn, AttributeName=name, AttributeValue=value)
            self._topology.sizes.forget(change.owner)
        if change.tags:
            tags = [{"Key": key, "Value": value} for key, value in change.tags.items()]
            self._clients.sns("tag_resource", ResourceArn=arn, Tags=tags)

    # --- removal

    def remove(self, asked: Iterable[Found]) -> list[Found]:
        """Remove what is not declared: bindings, then queues with their subscriptions, then topics.

        Returns:
            What was removed.
        """
        removed = []
        order = ("binding", "subscription", "queue", "topic")
        for one in sorted(asked, key=lambda one: (order.index(one.what), one.name)):
            if self._tried(f"{one.what} {one.name}", self._remove, one):
                removed.append(one)
                self._on_progress(f"delete {one.what} {one.name}: {one.reason}")
        return removed

    def _remove(self, one: Found) -> None:
        if one.binding is not None:
            self._topology.unbind(one.queue, one.binding)
        elif one.what == "subscription":
            self._unsubscribe(one.topics[0], one.arn)
        elif one.what == "queue":
            for source in one.sources:
                self._topology.queues.set_attributes(source, {"RedrivePolicy": ""})
            for topic in one.topics:
                self._unsubscribe(topic, one.arn)
            try:
                self._clients.sqs("delete_queue", QueueUrl=one.url)
            except QueueNotFound:
                return
        else:
            self._unsubscribe(one.arn, None)
            self._clients.sns("delete_topic", TopicArn=one.arn)

    def _unsubscribe(self, topic: str, queue: str | None) -> None:
        """Remove the subscriptions of a queue to a topic; of all queues if None."""
        try:
            found = list(lookups.subscriptions(self._clients, topic))
        except TopicNotFound:
            return
        except (TopologyError, AccessDenied) as exc:
            if parse_arn(topic).account == self._topology.home.account():
                raise
            logger.info("The subscriptions of topic %s are left alone: %s", topic, exc)
            return  # the policy of the queue may name any topic
        for item in found:
            if item["Endpoint"] == (queue or item["Endpoint"]) and item["SubscriptionArn"].startswith("arn:"):
                self._clients.sns("unsubscribe", SubscriptionArn=item["SubscriptionArn"])


def _change(drift: Drift) -> Change:
    return Change(drift.action, drift.what, drift.name, drift.reason, drift.is_destructive)


def _undeclared(found: Found) -> Undeclared:
    return Undeclared(found.what, found.name, found.reason, found.messages)


def _plan(found: Audit) -> Plan:
    return Plan(
        tuple(map(_change, found.changes)),
        tuple(map(_undeclared, found.undeclared)),
        tuple(found.unknown),
        tuple(found.unsearched),
        tuple(map(_change, found.over_quota)),
    )
