"""What should exist in AWS for an app's declarations, as values with names and ARNs. Makes no call but for the account.

For each declared queue this gives what declaring and binding it makes in an account that has nothing of it yet: the
same functions decide (:mod:`kombu_hake.topology.spec`, :mod:`kombu_hake.topology.planning`), and policies, filters and
subscriptions are the difference (:func:`kombu_hake.topology.diff.diff`) to nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

from kombu_hake.amqp import (
    DOCUMENT_ATTRIBUTES,
    FIFO_SUFFIX,
    MAX_PRIORITY_TAG,
    Binding,
    BindingSet,
    QueueArn,
    TopicArn,
    from_tags,
    level_names,
    parse_arn,
)
from kombu_hake.config import Settings
from kombu_hake.exceptions import ConfigurationError
from kombu_hake.topology.desired import Desired
from kombu_hake.topology.diff import Change, Subscribe, TagLevel, WritePolicy, diff, redrive_policy
from kombu_hake.topology.home import Home
from kombu_hake.topology.observed import Observed
from kombu_hake.topology.planning import drafted
from kombu_hake.topology.spec import (
    LEVEL_TAG,
    OWNER_TAG,
    TYPE_TAG,
    ExchangeSpec,
    Plan,
    QueueSpec,
    binding_priority,
    binding_tags,
    created_attributes,
    needs_topic,
    own_tags,
    plan,
    redrive_allow_policy,
    redrive_to,
    undelivered_queue,
)

__all__ = ["Blueprint", "Role", "SnsSubscription", "SnsTopic", "SqsQueue", "blueprint"]

_UNKNOWN = (
    "The ARN of {what} cannot be built: the account is unknown, and STS cannot be reached. Set the option account_id."
)
Role: TypeAlias = Literal["queue", "level", "dead", "undelivered"]


@dataclass(frozen=True)
class SqsQueue:
    """One SQS queue.

    Attributes:
        name: Logical name.
        physical: Name in AWS.
        role: ``queue`` (declared), ``level`` (of priorities), ``dead`` (dead letters) or ``undelivered`` (what SNS
            could not deliver).
        owner: The declared queue that it belongs to; the first one, if several share a dead-letter queue.
        attributes: Those that SQS is given at creation, documents (below) excepted.
        tags: All of ours, those of bindings included.
        policy: Access policy, JSON text; None for none.
        redrive: ``RedrivePolicy``, JSON text; None for none.
        redrive_allow: ``RedriveAllowPolicy``, JSON text; None for none.
        is_predefined: It is created elsewhere; only what bindings need of it (policy, tags of bindings) is ours.
        options: Documents that the option ``queue_attributes`` gives, by the names of their attributes.
    """

    name: str
    physical: str
    arn: QueueArn
    role: Role
    owner: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    policy: str | None = None
    redrive: str | None = None
    redrive_allow: str | None = None
    is_predefined: bool = False
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class SnsTopic:
    """One SNS topic.

    Attributes:
        exchange: The exchange that it is.
        physical: Name in AWS.
        is_bound: A declared queue is bound to it. Another one is only published to: its subscriptions and its tags are
            left to the apps that bind queues to it.
        is_predefined: It is created elsewhere.
        max_size_bytes: It is declared with messages of that size; None for the default of SNS.
    """

    exchange: str
    physical: str
    arn: TopicArn
    attributes: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    is_bound: bool = True
    is_predefined: bool = False
    max_size_bytes: int | None = None


@dataclass(frozen=True)
class SnsSubscription:
    """The subscription of an SQS queue to a topic.

    Attributes:
        queue: Logical name of the SQS queue: a declared one, or one of its levels.
        owner: The declared queue.
        attributes: ``RawMessageDelivery``, and ``FilterPolicy`` with its ``FilterPolicyScope`` and ``RedrivePolicy``
            where it has them.
        is_predefined: Queue and topic are both created elsewhere, and so is the subscription.
    """

    exchange: str
    queue: str
    owner: str
    topic_arn: TopicArn
    queue_arn: QueueArn
    attributes: Mapping[str, str] = field(default_factory=dict)
    is_predefined: bool = False


@dataclass(frozen=True)
class Blueprint:
    """All that is declared, sorted by physical name."""

    queues: tuple[SqsQueue, ...] = ()
    topics: tuple[SnsTopic, ...] = ()
    subscriptions: tuple[SnsSubscription, ...] = ()

    def queue(self, name: str) -> SqsQueue:
        """The SQS queue of a logical name."""
        return next(queue for queue in self.queues if queue.name == name)


def blueprint(
    queues: Iterable[tuple[QueueSpec, Collection[Binding]]],
    exchanges: Mapping[str, ExchangeSpec],
    settings: Settings,
    home: Home,
) -> Blueprint:
    """What is to be in AWS for these queues, bindings and exchanges, as ``topology=auto`` makes it.

    Args:
        queues: Queues that stay, each with its bindings.
        exchanges: Every exchange, also those that are only published to.
    Raises:
        ConfigurationError: the account is unknown.
        TopologyError: the arguments of a queue are wrong.
    """
    made = _Maker(settings, home, exchanges)
    for spec, bindings in queues:
        made.add(spec, bindings)
    return made.blueprint()


class Draft(NamedTuple):
    """What should exist for a declared queue."""

    spec: QueueSpec
    desired: Desired
    #: Of the queue itself, those of bindings included.
    tags: dict[str, str]
    dead_letters: Plan | None
    #: Bindings that are for us to make.
    bound: frozenset[Binding]
    #: Bindings between a queue and exchanges that are all created elsewhere.
    given: frozenset[Binding]


def draft(spec: QueueSpec, bindings: Collection[Binding], settings: Settings, home: Home) -> Draft:
    """What should exist for a declared queue by itself. Raises as :func:`blueprint`."""
    address = settings.predefined_queue(spec.name)
    bound = {binding for binding in bindings if needs_topic(settings, spec.name, binding)}
    given = frozenset(
        binding
        for binding in bound
        if address is not None and (binding.exchange in settings.predefined_exchanges or home.is_foreign(address))
    )
    tags = {} if address is not None else own_tags(settings)
    for binding in sorted(bound - given):
        known = from_tags(tags)
        if binding not in known.bindings and binding.exchange not in known.unfiltered:
            tags |= binding_tags(tags, binding)[0]
    # Binding records the priorities; without a binding there is nothing to share out.
    highest = binding_priority(settings, spec.name, spec.arguments) if bound - given else 0
    tags |= {MAX_PRIORITY_TAG: str(highest)} if highest else {}
    kept = undelivered_queue(spec, settings) if bound - given and address is None else None
    desired = desired_of(spec.name, from_tags(tags), settings, home, kept)
    asked = plan(spec, settings) if address is None else None
    return Draft(spec, desired, tags, asked, frozenset(bound - given), given)


def desired_of(
    name: str, bindings: BindingSet, settings: Settings, home: Home, undelivered: str | None = None
) -> Desired:
    """The desired state of a queue with these bindings. Raises as :func:`blueprint`."""
    return drafted(
        name,
        queue_arn(name, settings, home),
        bindings,
        {exchange: topic_arn(exchange, settings, home) for exchange in bindings.exchanges()},
        settings,
        lambda sibling: queue_arn(sibling, settings, home),
        undelivered=undelivered,
    )


def queue_arn(name: str, settings: Settings, home: Home) -> QueueArn:
    """The ARN of a queue, whether or not it exists.

    Raises:
        ConfigurationError: the account is unknown.
    """
    address = settings.predefined_queue(name)
    found = home.queue_arn(settings.namer.queue(name)) if address is None else home.address_arn(address)
    if found is None:
        raise ConfigurationError(_UNKNOWN.format(what=f"queue {name!r}"))
    return found


def topic_arn(exchange: str, settings: Settings, home: Home) -> TopicArn:
    """The ARN of an exchange's topic; as :func:`queue_arn`."""
    address = settings.predefined_exchanges.get(exchange)
    found = home.topic_arn(settings.namer.topic(exchange)) if address is None else TopicArn(address)
    if found is None:
        raise ConfigurationError(_UNKNOWN.format(what=f"the topic of exchange {exchange!r}"))
    return found


class _Maker:
    """Collects what should exist for declared queues. Several of them may share a dead-letter queue."""

    def __init__(self, settings: Settings, home: Home, exchanges: Mapping[str, ExchangeSpec]) -> None:
        self._settings = settings
        self._home = home
        self._exchanges = dict(exchanges)
        self._bound: set[str] = set()
        #: Exchanges that a queue is bound to without needing a topic: its own direct exchange.
        self._direct: set[str] = set()
        self._queues: dict[str, SqsQueue] = {}
        #: Logical name of a dead-letter queue to the queues that it takes from.
        self._sources: dict[str, list[QueueArn]] = {}
        self._subscriptions: list[SnsSubscription] = []

    def add(self, spec: QueueSpec, bindings: Collection[Binding]) -> None:
        """Add a queue with all that belongs to it."""
        drafted = draft(spec, bindings, self._settings, self._home)
        wanted, asked = drafted.desired, drafted.dead_letters
        for binding in bindings:
            if needs_topic(self._settings, spec.name, binding):
                known = self._exchanges.get(binding.exchange, ExchangeSpec())
                self._exchanges[binding.exchange] = known._replace(type=binding.exchange_type)
                if binding in drafted.bound or binding.exchange in self._settings.predefined_exchanges:
                    self._bound.add(binding.exchange)
            else:
                self._direct.add(binding.exchange)
        names = level_names(spec.name, spec.arguments)
        looked_at = [*names, *(level.name for level in wanted.levels)]
        looked_at += [wanted.undelivered.name] if wanted.undelivered is not None else []
        changes = diff(wanted, Observed(policies={name: self._given(name).get("Policy") for name in looked_at}))
        policies = {change.queue: change.text for change in changes if isinstance(change, WritePolicy)}
        tagged = {change.queue for change in changes if isinstance(change, TagLevel)}
        redrive = redrive_to(self._arn(asked.name), asked.max_receives) if asked is not None else None
        owner_tag = {OWNER_TAG: self._settings.namer.queue(spec.name)}
        self._put(self._sqs(spec.name, "queue", spec.name, drafted.tags, policies.get(spec.name), redrive))
        for name in names[1:]:
            tags = own_tags(self._settings) | ({LEVEL_TAG: owner_tag[OWNER_TAG]} if name in tagged else {})
            self._put(self._sqs(name, "level", spec.name, tags, policies.get(name), redrive))
        if asked is not None:
            tags = owner_tag if asked.is_own else {}
            self._put(self._sqs(asked.name, "dead", spec.name, own_tags(self._settings) | tags))
            self._sources.setdefault(asked.name, []).extend(map(self._arn, names))
        if wanted.undelivered is not None:
            name, tags = wanted.undelivered.name, own_tags(self._settings) | owner_tag
            self._put(self._sqs(name, "undelivered", spec.name, tags, policies.get(name)))
        self._subscribe(wanted, changes, is_predefined=False)
        if drafted.given:
            given = desired_of(spec.name, BindingSet(drafted.given), self._settings, self._home)
            self._subscribe(given, diff(given, Observed()), is_predefined=True)

    def blueprint(self) -> Blueprint:
        """All that was added."""
        for name, sources in self._sources.items():
            dead = self._queues[name]
            if not dead.is_predefined and dead.redrive_allow is None:
                self._queues[name] = replace(dead, redrive_allow=redrive_allow_policy(sources))
        left_out = self._direct - self._bound
        topics = [self._topic(exchange, spec) for exchange, spec in self._exchanges.items() if exchange not in left_out]
        return Blueprint(
            tuple(sorted(self._queues.values(), key=lambda one: one.physical)),
            tuple(sorted(topics, key=lambda one: one.physical)),
            tuple(sorted(self._subscriptions, key=lambda one: (one.topic_arn, one.queue_arn))),
        )

    def _put(self, queue: SqsQueue) -> None:
        """A queue that is declared by itself stays that, if it is the dead-letter queue of another one, too."""
        known = self._queues.get(queue.name)
        if known is None or known.role != "queue":
            self._queues[queue.name] = known if known is not None and queue.role == "dead" else queue

    def _sqs(
        self,
        name: str,
        role: Role,
        owner: str,
        tags: Mapping[str, str],
        policy: str | None = None,
        redrive: str | None = None,
    ) -> SqsQueue:
        given = self._given(name)
        return SqsQueue(
            name,
            self._physical(name),
            self._arn(name),
            role,
            owner,
            {key: value for key, value in given.items() if key not in DOCUMENT_ATTRIBUTES},
            tags if role == "queue" or not self._is_predefined(name) else {},
            policy or given.get("Policy"),
            given.get("RedrivePolicy", redrive),
            given.get("RedriveAllowPolicy"),
            self._is_predefined(name),
            {key: value for key, value in given.items() if key in DOCUMENT_ATTRIBUTES},
        )

    def _topic(self, exchange: str, spec: ExchangeSpec) -> SnsTopic:
        arn = topic_arn(exchange, self._settings, self._home)
        is_bound, name = exchange in self._bound, parse_arn(arn).name
        if exchange in self._settings.predefined_exchanges:
            return SnsTopic(exchange, name, arn, is_bound=is_bound, is_predefined=True)
        attributes = {"FifoTopic": "true"} if exchange.endswith(FIFO_SUFFIX) else {}
        tags = own_tags(self._settings) | ({TYPE_TAG: spec.type} if spec.type else {})
        return SnsTopic(exchange, name, arn, attributes, tags, is_bound, max_size_bytes=spec.max_size_bytes)

    def _subscribe(self, wanted: Desired, changes: Iterable[Change], *, is_predefined: bool) -> None:
        for change in changes:
            if not isinstance(change, Subscribe):
                continue
            attributes = {"RawMessageDelivery": "true"}
            if change.filter != "{}":
                attributes |= {"FilterPolicy": change.filter, "FilterPolicyScope": "MessageAttributes"}
            if wanted.undelivered is not None:
                attributes["RedrivePolicy"] = redrive_policy(wanted.undelivered)
            self._subscriptions.append(
                SnsSubscription(
                    change.exchange, change.queue, wanted.queue, wanted.topics[change.exchange], change.arn,
                    attributes, is_predefined,
                )
            )  # fmt: skip

    def _given(self, name: str) -> dict[str, str]:
        """What the queue is created with by the options, documents included; these go before ours."""
        return {} if self._is_predefined(name) else created_attributes(self._settings, name, is_temporary=False)

    def _is_predefined(self, name: str) -> bool:
        return self._settings.predefined_queue(name) is not None

    def _arn(self, name: str) -> QueueArn:
        return queue_arn(name, self._settings, self._home)

    def _physical(self, name: str) -> str:
        return parse_arn(self._arn(name)).name
